//! The table of every kind of NAT against every other, and the figures that are promised for them.
//!
//! ```text
//!   kinds ──pairs──▶ cells ──runs──▶ tallies ──▶ page (docs/NAT.md)
//!               figures ──┘             └──kept in a file, so that a long campaign can be interrupted
//! ```

mod cell;
mod figures;
mod kept;
mod kinds;
mod page;

use std::{
    collections::BTreeMap,
    sync::{Mutex, PoisonError},
};

use self::{
    cell::{Cell, Tally},
    figures::{Figure, Promise, figures},
    kept::Kept,
    kinds::GRID,
};
use crate::seeds;

/// Runs of a cell, and how many times that where 99.9 % are promised.
const RUNS: u64 = 1000;
const TIMES: u64 = 3;

/// Every cell that the page shows, once, with its number of runs.
fn cells(figures: &[Figure]) -> BTreeMap<String, (Cell, u64)> {
    let mut cells = BTreeMap::new();
    for (i, a) in GRID.iter().enumerate() {
        for b in &GRID[i..] {
            let cell = Cell::new(*a, *b);
            cells.insert(cell.key(), (cell, seeds(RUNS)));
        }
    }
    for figure in figures {
        let claims = matches!(figure.promise, Promise::Link { within: Some(within), .. } if within > 99.8);
        let runs = seeds(RUNS) * if claims { TIMES } else { 1 };
        for cell in &figure.cells {
            let entry = cells.entry(cell.key()).or_insert((*cell, runs));
            entry.1 = entry.1.max(runs);
        }
    }
    cells
}

/// Runs what is not kept yet, on all processors.
fn run(cells: &BTreeMap<String, (Cell, u64)>, kept: &Mutex<Kept>) {
    let locked = || kept.lock().unwrap_or_else(PoisonError::into_inner);
    let open: Vec<_> = cells.iter().filter(|(key, (_, runs))| !locked().has(key, *runs)).collect();
    let (all, queue) = (open.len(), Mutex::new(open.into_iter().enumerate()));
    let work = || {
        loop {
            let next = queue.lock().unwrap_or_else(PoisonError::into_inner).next();
            let Some((number, (key, (cell, runs)))) = next else { return };
            let tally = cell.runs(*runs);
            eprintln!("{} of {all}: {key}: {}", number + 1, page::cell(cell, &tally));
            locked().add(key, tally);
        }
    };
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        threads.into_iter().for_each(|thread| thread.join().expect("a run panicked"));
    });
}

/// Makes the table of `docs/NAT.md`:
/// `SIM_SEEDS=1000 cargo test --release --test sim the_nat_table -- --ignored --nocapture`.
///
/// It may be interrupted and goes on where it was. `PAIR` takes the cells whose names contain it, shows the
/// seeds of those that missed, and leaves the page alone.
#[test]
#[ignore = "a campaign of an hour or so, see docs/TESTING.md; a part of it is no_figure_is_missed_by_more_than_chance"]
fn the_nat_table() {
    let figures = figures();
    let mut cells = cells(&figures);
    let wanted = std::env::var("PAIR").ok();
    cells.retain(|key, _| wanted.as_ref().is_none_or(|wanted| key.contains(wanted)));
    let kept = Mutex::new(Kept::open());
    run(&cells, &kept);
    let kept = kept.into_inner().unwrap_or_else(PoisonError::into_inner);
    let shown = page::figures(&figures, &cells, &kept);
    println!("{shown}");
    if wanted.is_none() {
        page::write(&shown, &page::grid(&kept), seeds(RUNS));
    } else {
        for key in cells.keys() {
            let missed = &kept.tally(key).missed;
            if !missed.is_empty() {
                println!("{key}: missed with the seeds {missed:?}");
            }
        }
    }
}

/// One run's story, packet by packet where `TRACE` is set: `PAIR` is a cell's name, `SEED` one that missed.
#[test]
#[ignore = "a tool: it tells the story of the run that PAIR and SEED name"]
fn one_run_of_the_table() {
    let named = |name| std::env::var(name).unwrap_or_else(|_| panic!("which run? {name} is to name it"));
    let (pair, seed) = (named("PAIR"), named("SEED"));
    let cells = cells(&figures());
    let (cell, _) = cells.get(&pair).expect("the name of a cell");
    let mut scene = cell.scene(seed.parse().expect("a number"));
    scene.world.trace = std::env::var_os("TRACE").is_some();
    let linked = scene.run_until_done(std::time::Duration::from_secs(20));
    println!("linked: {linked}\n{}", scene.story());
}

/// Most misses of so many runs that are put down to chance: more happen less than once in a thousand times
/// where each run misses with the probability that the promise (percent) leaves.
fn allowed(runs: u64, promise: f64) -> u64 {
    let miss = 1.0 - promise / 100.0;
    let mut exactly = (1.0 - miss).powi(runs as i32);
    let (mut misses, mut more) = (0, 1.0 - exactly);
    while more >= 0.001 && misses < runs {
        exactly *= (runs - misses) as f64 / (misses + 1) as f64 * miss / (1.0 - miss);
        misses += 1;
        more -= exactly;
    }
    misses
}

#[test]
fn a_bound_is_where_chance_ends() {
    // By hand: 0.99^100 = 0.366; P(X > 4) = 0.0034, P(X > 5) = 0.0005.
    assert_eq!(allowed(100, 99.0), 5);
    assert_eq!((allowed(10, 100.0), allowed(10, 40.0)), (0, 10));
    assert_eq!(allowed(40, 18.0), 39, "of 40 runs one link is enough for 18 %");
    assert_eq!(allowed(100, 18.0), 93);
}

/// Runs of each figure in continuous integration.
const FEW: u64 = 24;

/// Every figure, in a few runs of its cells in turn. The seeds are always the same ones; the bound is
/// [`allowed`]. The figures themselves take the campaign.
#[test]
fn no_figure_is_missed_by_more_than_chance() {
    let mut failures = Vec::new();
    for Figure { name, cells, promise } in figures() {
        if matches!(promise, Promise::Reported) {
            continue;
        }
        let mut tally = Tally::default();
        for n in 0..FEW {
            let cell = &cells[n as usize % cells.len()];
            tally.add(&cell.run(cell.seed(n / cells.len() as u64)));
        }
        let checks = match promise {
            Promise::Link { first, within } => {
                [Some((tally.first, first)), within.map(|p| (tally.linked, p))]
            }
            Promise::Told => [Some((tally.told, 100.0)), None],
            Promise::Reported => [None, None],
        };
        println!("{name}: {} first, {} linked, {} told of {FEW}", tally.first, tally.linked, tally.told);
        for (count, promise) in checks.into_iter().flatten() {
            if FEW - count > allowed(FEW, promise) {
                failures.push(format!("{name}: {count} of {FEW}, promised {promise} %"));
            }
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}
