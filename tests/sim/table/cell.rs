//! A cell of the table: two kinds, and what came of its runs.

use std::{
    hash::{DefaultHasher, Hash, Hasher},
    time::Duration,
};

use punchtunnel::{endpoint::Event, punch::Effort};
use rand::{RngExt, SeedableRng, rngs::StdRng};

use super::kinds::{Kind, hopeless};
use crate::{
    scene::{Place, Scene},
    world::Conditions,
};

/// Longest time that a person waits for a link.
const LIMIT: Duration = Duration::from_secs(20);

/// More SYNs than probes and their repetitions are: something was sprayed.
const PROBES: u64 = 100;

/// Two kinds, one on each side.
#[derive(Clone, Copy)]
pub struct Cell {
    pub a: Kind,
    pub b: Kind,
    pub effort: Effort,
}

/// What came of one run, or of many.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Tally {
    pub runs: u64,
    /// A link out of the first agreed instant of the first attempt.
    pub first: u64,
    /// A link, and bytes over it, within 20 s of starting the client.
    pub linked: u64,
    /// Told that there is no way, in words, and nothing sprayed.
    pub told: u64,
    /// From the agreed instant to the link, milliseconds, rising.
    pub took: Vec<u64>,
    /// Seeds of the first runs without a link in the first round.
    pub missed: Vec<u64>,
}

impl Cell {
    pub fn new(a: Kind, b: Kind) -> Self {
        Cell { a, b, effort: Effort::default() }
    }

    /// Names it, in whichever order it was made.
    pub fn key(&self) -> String {
        let (a, b) = (self.a.name.min(self.b.name), self.a.name.max(self.b.name));
        let effort = if self.effort == Effort::default() { "" } else { ", high effort" };
        format!("{a} × {b}{effort}")
    }

    /// Is told that there is no way.
    pub fn hopeless(&self) -> bool {
        hopeless(&self.a, &self.b)
    }

    /// The seed of its `n`th run: no two cells share any.
    pub fn seed(&self, n: u64) -> u64 {
        let mut hasher = DefaultHasher::new();
        (self.key(), n).hash(&mut hasher);
        hasher.finish() >> 16
    }

    /// One run. Who connects, how far it is, and what the kinds leave open come from the seed.
    pub fn scene(&self, seed: u64) -> Scene {
        let mut rng = StdRng::seed_from_u64(seed);
        let mut sides = [&self.a, &self.b].map(|kind| (kind.draw)(&mut rng));
        if rng.random() {
            sides.reverse();
        }
        // With up to a quarter more each way ([`Conditions::usual`]): 40 to 100 ms there and back.
        let one_way = Duration::from_micros(rng.random_range(20_000..=40_000));
        let mut scene = Scene::without_host(seed, Place::Apart(sides), Conditions::usual(one_way));
        scene.effort = self.effort;
        scene.start_host();
        scene.world.run_for(Duration::from_secs(3));
        scene.start_client();
        scene
    }

    /// One run to its end.
    pub fn run(&self, seed: u64) -> Tally {
        let _named = Named { cell: self, seed };
        let mut scene = self.scene(seed);
        let syns = scene.world.syns;
        let told = |event: &Event| matches!(event, Event::Hopeless { .. });
        let instants = |scene: &Scene| scene.client().told(|event| matches!(event, Event::Opening { .. }));
        if self.hopeless() {
            scene.run_until_told(LIMIT, told);
            let quiet = instants(&scene) == 0 && scene.world.syns - syns < PROBES;
            let told = quiet && scene.client().told(told) > 0;
            return Tally { runs: 1, told: told.into(), ..Tally::default() };
        }
        let linked = scene.run_until_done(LIMIT);
        let first = linked && scene.failed_rounds() == 0 && instants(&scene) == 1;
        let took = scene.client().events.iter().find_map(|(_, event)| match event {
            Event::Connected { took, .. } => Some(took.as_millis() as u64),
            _ => None,
        });
        Tally {
            runs: 1,
            first: first.into(),
            linked: linked.into(),
            told: 0,
            took: took.filter(|_| linked).into_iter().collect(),
            missed: (!first).then_some(seed).into_iter().collect(),
        }
    }

    /// The first `n` runs.
    pub fn runs(&self, n: u64) -> Tally {
        let mut tally = Tally::default();
        (0..n).for_each(|n| tally.add(&self.run(self.seed(n))));
        tally
    }
}

/// Says which run it was that panicked.
struct Named<'a> {
    cell: &'a Cell,
    seed: u64,
}

impl Drop for Named<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("PAIR=\"{}\" SEED={}", self.cell.key(), self.seed);
        }
    }
}

/// Seeds that are kept of runs without a link in the first round.
const KEPT: usize = 20;

impl Tally {
    /// Adds other runs.
    pub fn add(&mut self, other: &Tally) {
        self.runs += other.runs;
        self.first += other.first;
        self.linked += other.linked;
        self.told += other.told;
        self.took.extend(&other.took);
        self.took.sort_unstable();
        self.missed.extend(&other.missed);
        self.missed.truncate(KEPT);
    }

    /// Percent of the runs.
    pub fn percent(&self, of: u64) -> f64 {
        100.0 * of as f64 / self.runs.max(1) as f64
    }

    /// From the instant to the link.
    pub fn median(&self) -> Option<u64> {
        self.took.get(self.took.len() / 2).copied()
    }
}
