//! The generated parts of docs/PERFORMANCE.md.

use std::{fs, path::Path};

use clap::ValueEnum;

use crate::{
    Part,
    error::{Result, failed},
    machine,
    peers::Kind,
    table::Table,
};

const PAGE: &str = "docs/PERFORMANCE.md";

/// Replaces what was measured; the other parts of the page stay as they are.
pub fn write(sections: &[(Part, Vec<Table>)], kinds: &[Kind]) -> Result<()> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(PAGE);
    let mut page = fs::read_to_string(&path).map_err(|error| failed(PAGE, error))?;
    for (part, tables) in sections {
        let name = part.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default();
        let command: Vec<_> = std::env::args().skip(1).filter(|word| word != "--bench").collect();
        let mut text = String::new();
        for table in tables {
            text += &format!("{table}\n");
        }
        text += &format!(
            "<sub>{}. {}. `cargo bench --bench compare -- {}`</sub>\n",
            machine::describe(),
            machine::versions(kinds).join(", "),
            command.join(" ")
        );
        page = replaced(&page, &name, &text)?;
    }
    fs::write(&path, page).map_err(|error| failed(PAGE, error))
}

/// The page with another text between the marks of a part.
fn replaced(page: &str, part: &str, text: &str) -> Result<String> {
    let (begin, end) = (format!("<!-- {part} -->\n"), format!("<!-- end of {part} -->\n"));
    let between = page.split_once(&begin).and_then(|(before, rest)| Some((before, rest.split_once(&end)?.1)));
    let (before, after) = between.ok_or_else(|| failed(PAGE, format!("there is no part {part}")))?;
    Ok(format!("{before}{begin}{text}{end}{after}"))
}
