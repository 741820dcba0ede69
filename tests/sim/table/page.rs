//! The table in words: markdown for `docs/NAT.md`, between two markers.

use std::{collections::BTreeMap, fs, path::Path};

use super::{
    cell::{Cell, Tally},
    figures::{Figure, Promise},
    kept::Kept,
    kinds::GRID,
};

const BEGIN: &str = "<!-- begin of what `the_nat_table` writes -->";
const END: &str = "<!-- end of what `the_nat_table` writes -->";

/// A share of the runs, as exact as it is known: 100 only where none missed.
fn percent(tally: &Tally, of: u64) -> String {
    let exact = tally.percent(of);
    if of == tally.runs { "100".into() } else { format!("{:.1}", exact.min(99.9)) }
}

/// First round / within 20 s, median.
pub fn cell(cell: &Cell, tally: &Tally) -> String {
    if tally.runs == 0 {
        return "?".into();
    }
    if cell.hopeless() {
        return format!("told {}", percent(tally, tally.told));
    }
    let median = tally.median().map_or("–".into(), |took| format!("{took} ms"));
    format!("{} / {}, {median}", percent(tally, tally.first), percent(tally, tally.linked))
}

/// Promised and measured, all cells of a figure together, and its worst cell.
pub fn figures(figures: &[Figure], cells: &BTreeMap<String, (Cell, u64)>, kept: &Kept) -> String {
    let mut lines = vec![
        "| pair | first round | within 20 s | median | worst cell | n |".to_owned(),
        "| --- | --- | --- | --- | --- | --- |".to_owned(),
    ];
    for figure in figures {
        let done: Vec<(String, Tally)> = figure
            .cells
            .iter()
            .map(|cell| cell.key())
            .filter(|key| cells.contains_key(key))
            .map(|key| (key.clone(), kept.tally(&key)))
            .collect();
        let mut all = Tally::default();
        done.iter().for_each(|(_, tally)| all.add(tally));
        if all.runs == 0 {
            continue;
        }
        let counted = |tally: &Tally| match figure.promise {
            Promise::Link { .. } | Promise::Reported => tally.first,
            Promise::Told => tally.told,
        };
        let worst =
            done.iter().min_by(|(_, a), (_, b)| a.percent(counted(a)).total_cmp(&b.percent(counted(b))));
        let worst =
            worst.map_or(String::new(), |(key, tally)| format!("{key}: {}", percent(tally, counted(tally))));
        let (first, within) = match figure.promise {
            Promise::Link { first, within } => (
                format!("{} (≥ {first})", percent(&all, all.first)),
                format!(
                    "{}{}",
                    percent(&all, all.linked),
                    within.map_or(String::new(), |within| format!(" (≥ {within})"))
                ),
            ),
            Promise::Reported => (percent(&all, all.first), percent(&all, all.linked)),
            Promise::Told => (format!("told: {}", percent(&all, all.told)), "–".into()),
        };
        let median = all.median().map_or("–".into(), |took| format!("{took} ms"));
        let name = figure.name;
        lines.push(format!("| {name} | {first} | {within} | {median} | {worst} | {} |", all.runs));
    }
    lines.join("\n")
}

/// Every kind against every other.
pub fn grid(kept: &Kept) -> String {
    let heads: String = (1..=GRID.len()).map(|number| format!(" {number} |")).collect();
    let mut lines = vec![format!("| |{heads}"), format!("| --- |{}", " --- |".repeat(GRID.len()))];
    for (i, a) in GRID.iter().enumerate() {
        let row = GRID[..=i].iter().map(|b| {
            let pair = Cell::new(*a, *b);
            format!(" {} |", cell(&pair, &kept.tally(&pair.key())))
        });
        let row: String = row.collect();
        lines.push(format!("| **{} {}** |{row}{}", i + 1, a.name, " |".repeat(GRID.len() - 1 - i)));
    }
    lines.join("\n")
}

/// Puts both into the page.
pub fn write(figures: &str, grid: &str, seeds: u64) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/NAT.md");
    let page = fs::read_to_string(&path).expect("the page");
    let (before, rest) = page.split_once(BEGIN).expect("where it begins");
    let (_, after) = rest.split_once(END).expect("where it ends");
    let made = format!(
        "{BEGIN}\n{figures}\n\nEach cell: percent in the first round / within 20 s, median from the instant to \
         the link; n = {seeds}, or three times as many where 99.9 % is promised.\n\n{grid}\n"
    );
    fs::write(&path, format!("{before}{made}{END}{after}")).expect("the page can be written");
}
