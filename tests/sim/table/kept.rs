//! Results on disk, so that a campaign can be interrupted: a line a cell, for the program that made them and
//! no other.

use std::{
    collections::BTreeMap,
    fs::{self, File, OpenOptions},
    hash::{DefaultHasher, Hash, Hasher},
    io::Write,
    path::Path,
};

use super::cell::Tally;

/// What is known.
pub struct Kept {
    file: File,
    tallies: BTreeMap<String, Tally>,
}

impl Kept {
    /// What this very program has found before.
    pub fn open() -> Self {
        let program = std::env::current_exe().and_then(fs::read).expect("this program");
        let mut hasher = DefaultHasher::new();
        program.hash(&mut hasher);
        let directory = Path::new(env!("CARGO_TARGET_TMPDIR"));
        fs::create_dir_all(directory).expect("a directory under target");
        let path = directory.join(format!("nat-table-{:016x}", hasher.finish()));
        let text = fs::read_to_string(&path).unwrap_or_default();
        // The last line may have been cut short.
        let whole = text.rfind('\n').map_or("", |end| &text[..end]);
        let tallies = whole.lines().filter_map(parse).collect();
        let file = OpenOptions::new().create(true).append(true).open(&path).expect("a file under target");
        let mut kept = Kept { file, tallies };
        if whole.len() + 1 < text.len() {
            kept.line("");
        }
        kept
    }

    /// That many runs of a cell are there.
    pub fn has(&self, key: &str, runs: u64) -> bool {
        self.tallies.get(key).is_some_and(|tally| tally.runs == runs)
    }

    /// A cell is done.
    pub fn add(&mut self, key: &str, tally: Tally) {
        let numbers = |numbers: &[u64]| numbers.iter().map(u64::to_string).collect::<Vec<_>>().join(",");
        let Tally { runs, first, linked, told, took, missed } = &tally;
        let line =
            format!("{key}\t{runs}\t{first}\t{linked}\t{told}\t{}\t{}", numbers(took), numbers(missed));
        self.line(&line);
        self.tallies.insert(key.into(), tally);
    }

    /// What came of a cell.
    pub fn tally(&self, key: &str) -> Tally {
        self.tallies.get(key).cloned().unwrap_or_default()
    }

    fn line(&mut self, line: &str) {
        self.file.write_all(format!("{line}\n").as_bytes()).expect("room on the disk");
    }
}

fn parse(line: &str) -> Option<(String, Tally)> {
    let fields: Vec<&str> = line.split('\t').collect();
    let &[key, runs, first, linked, told, took, missed] = &fields[..] else { return None };
    let number = |field: &str| field.parse::<u64>().ok();
    let numbers = |field: &str| field.split(',').filter_map(number).collect();
    let [runs, first, linked, told] = [runs, first, linked, told].map(number);
    let tally = Tally {
        runs: runs?,
        first: first?,
        linked: linked?,
        told: told?,
        took: numbers(took),
        missed: numbers(missed),
    };
    Some((key.into(), tally))
}
