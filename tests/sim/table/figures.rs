//! The figures that are promised, and the pairs that each of them speaks of.

use punchtunnel::punch::Effort;

use super::{
    cell::Cell,
    kinds::{
        ADDRESS, AT_20, AT_100, AT_200, BLOCK_256, BLOCK_1024, BLOCK_2048, BY_ADDRESS, CARRIER, Class,
        DOWN_1, GRID, ICMP, IRREGULAR, Kind, LINUX, NO_UDP, NONE, OFFSET, OPEN, PARITY, PORT, RANDOM, RESET,
        RESETS, STRICT, TO_50, UP_1, UP_2, hopeless,
    },
};

/// What is promised for some cells together.
pub struct Figure {
    pub name: &'static str,
    pub cells: Vec<Cell>,
    pub promise: Promise,
}

/// Percent of the runs.
#[derive(Debug, Clone, Copy)]
pub enum Promise {
    /// A link in the first round, and within the limit; what is `None` is only reported.
    Link { first: f64, within: Option<f64> },
    /// Each run is told why not, and nothing is sprayed.
    Told,
    /// Nothing.
    Reported,
}

const FIXED: [Kind; 9] = [OPEN, ADDRESS, PORT, LINUX, RESET, ICMP, OFFSET, CARRIER, NONE];
/// At most 50 foreign connections a second.
const SLOW: [Kind; 6] = [UP_1, UP_2, DOWN_1, PARITY, BY_ADDRESS, AT_20];
const FAST: [Kind; 2] = [AT_100, AT_200];
const BANDS: [Kind; 3] = [BLOCK_256, BLOCK_1024, BLOCK_2048];

/// Each of the first with each of the second, each pair once.
fn pairs(a: &[Kind], b: &[Kind]) -> Vec<Cell> {
    let mut cells: Vec<Cell> = Vec::new();
    for cell in a.iter().flat_map(|a| b.iter().map(|b| Cell::new(*a, *b))) {
        if cells.iter().all(|other| other.key() != cell.key()) {
            cells.push(cell);
        }
    }
    cells
}

fn at_high_effort(cells: Vec<Cell>) -> Vec<Cell> {
    cells.into_iter().map(|cell| Cell { effort: Effort::High, ..cell }).collect()
}

/// All of them.
pub fn figures() -> Vec<Figure> {
    let link = |name, cells, first, within| Figure { name, cells, promise: Promise::Link { first, within } };
    let strict_once = [&FIXED[..], &[STRICT]].concat();
    let counters = [&SLOW[..], &FAST, &[IRREGULAR]].concat();
    let slow = [pairs(&SLOW, &SLOW), pairs(&[TO_50], &[TO_50])].concat();
    let regular = [&SLOW[..], &[TO_50]].concat();
    let told = GRID.iter().enumerate().flat_map(|(i, a)| GRID[i..].iter().map(move |b| (a, b)));
    let told = told.filter(|(a, b)| hopeless(a, b)).map(|(a, b)| Cell::new(*a, *b)).collect();
    // One server address cannot tell such a mapping from an endpoint-independent one.
    let unseen = vec![Cell::new(RANDOM, BY_ADDRESS)];
    let late = pairs(&[BY_ADDRESS], &BANDS);
    let counted: Vec<Kind> = SLOW.into_iter().filter(|kind| kind.name != BY_ADDRESS.name).collect();
    vec![
        link("Fixed × Fixed, strict on one side too", pairs(&FIXED, &strict_once), 99.0, Some(99.9)),
        link("the same, UDP blocked on one side", pairs(&[NO_UDP], &strict_once), 98.0, Some(99.9)),
        link("Fixed × Progression, to 200/s", pairs(&FIXED, &counters), 98.0, Some(99.9)),
        link("Progression × Progression, to 50/s each", slow, 98.0, Some(99.9)),
        link("Progression × Progression, 200/s each", pairs(&[AT_200], &[AT_200]), 90.0, Some(99.0)),
        link("irregular × Progression, to 50/s", pairs(&[IRREGULAR], &regular), 92.0, Some(99.5)),
        link("irregular × irregular, 20/s each", pairs(&[IRREGULAR], &[IRREGULAR]), 85.0, Some(99.0)),
        link("Fixed × Band 256, 1024, 2048", pairs(&FIXED, &BANDS), 99.0, Some(99.9)),
        link("Fixed × Random", pairs(&FIXED, &[RANDOM]), 97.0, Some(99.5)),
        link("Progression × Band 256", pairs(&counted, &[BLOCK_256]), 40.0, None),
        link("Band 256 × Band 256", pairs(&[BLOCK_256], &[BLOCK_256]), 18.0, None),
        link("Progression × Band 256, high", at_high_effort(pairs(&counted, &[BLOCK_256])), 75.0, None),
        link("Band 256 × Band 256, high", at_high_effort(pairs(&[BLOCK_256], &[BLOCK_256])), 50.0, None),
        link("Progression that resets × the same", pairs(&[RESETS], &[RESETS]), 90.0, None),
        Figure {
            name: "Random × {Random, Progression, Band}, strict × strict",
            cells: told,
            promise: Promise::Told,
        },
        Figure { name: "Random × sequential by address", cells: unseen, promise: Promise::Reported },
        Figure { name: "Band × sequential by address", cells: late, promise: Promise::Reported },
    ]
}

/// The class of a kind says which cells a figure may have.
#[test]
fn the_lists_hold_what_their_names_say() {
    for (list, class) in [
        (&FIXED[..], Class::Fixed),
        (&SLOW, Class::Progression),
        (&FAST, Class::Progression),
        (&BANDS, Class::Band),
    ] {
        assert!(list.iter().all(|kind| kind.class == class));
    }
    for kind in &GRID {
        let lists = [&FIXED[..], &SLOW, &FAST, &BANDS, &[IRREGULAR, RANDOM, STRICT, NO_UDP]];
        let count = lists.iter().flat_map(|l| l.iter()).filter(|k| k.name == kind.name).count();
        assert_eq!(count, 1, "{} belongs to one list", kind.name);
    }
}
