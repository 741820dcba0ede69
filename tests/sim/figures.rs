//! The figures that are promised for pairs of NATs: success in the first round, and within 20 s.
//!
//! Every parameter that a test could fix in advance (ports, delays, positions of blocks, who connects) comes
//! from the seed.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use punchtunnel::endpoint::Event;

use crate::{
    nat_model::{Behaviour, Filtering, Unsolicited},
    scene::{Place, Scene},
    seeds,
    world::Conditions,
};

/// Longest time that a person waits for a link.
const LIMIT: Duration = Duration::from_secs(20);

/// What is promised for two lists of behaviours, each of the first with each of the second.
struct Row {
    name: &'static str,
    a: Vec<Behaviour>,
    b: Vec<Behaviour>,
    /// Percent, first round and within the limit; 0 where it is only reported.
    promised: [f64; 2],
}

/// What came of the runs of a row.
#[derive(Debug, Default, Clone)]
pub struct Outcome {
    pub runs: u64,
    pub first: u64,
    pub connected: u64,
    /// From the agreed instant to the link.
    pub took: Vec<Duration>,
    /// The first story of a run that did not connect at all, or not in the first round.
    pub story: Option<String>,
}

impl Outcome {
    pub fn percent(&self) -> [f64; 2] {
        [self.first, self.connected].map(|count| 100.0 * count as f64 / self.runs.max(1) as f64)
    }

    pub fn median(&self) -> Option<Duration> {
        let mut took = self.took.clone();
        took.sort_unstable();
        took.get(took.len() / 2).copied()
    }

    fn add(&mut self, other: Outcome) {
        self.runs += other.runs;
        self.first += other.first;
        self.connected += other.connected;
        self.took.extend(other.took);
        self.story = self.story.take().or(other.story);
    }
}

/// One run; the seed says how long the path is, and on which side the client is.
pub fn run(seed: u64, a: &Behaviour, b: &Behaviour) -> Outcome {
    let (client, host) = if seed.is_multiple_of(2) { (a, b) } else { (b, a) };
    // 40 to 100 ms round trip.
    let one_way = Duration::from_millis(20 + seed / 2 % 31);
    let place = Place::Apart([vec![client.clone()], vec![host.clone()]]);
    let mut scene = Scene::new(seed, place, Conditions::usual(one_way));
    scene.start_client();
    let connected = scene.run_until_done(LIMIT);
    let first = connected && scene.failed_rounds() == 0;
    let took = scene.client().events.iter().find_map(|(_, event)| match event {
        Event::Connected { took, .. } => Some(*took),
        _ => None,
    });
    let story = (!first).then(|| format!("seed {seed}, {} × {}\n{}", client.name, host.name, scene.story()));
    let took = took.filter(|_| connected).into_iter().collect();
    Outcome { runs: 1, first: first.into(), connected: connected.into(), took, story }
}

/// That many runs of each pair of a row, on all processors.
pub fn runs(a: &[Behaviour], b: &[Behaviour], each: u64) -> Outcome {
    let pairs: Vec<(&Behaviour, &Behaviour)> = a.iter().flat_map(|a| b.iter().map(move |b| (a, b))).collect();
    let all = pairs.len() as u64 * each;
    let next = AtomicU64::new(0);
    let work = || {
        let mut outcome = Outcome::default();
        loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= all {
                return outcome;
            }
            let (a, b) = pairs[(seed % pairs.len() as u64) as usize];
            outcome.add(run(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 20, a, b));
        }
    };
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let mut outcome = Outcome::default();
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        threads.into_iter().for_each(|thread| outcome.add(thread.join().expect("a run panicked")));
    });
    outcome
}

fn fixed() -> Vec<Behaviour> {
    vec![
        Behaviour::endpoint_independent(Filtering::EndpointIndependent),
        Behaviour::endpoint_independent(Filtering::AddressDependent),
        Behaviour::endpoint_independent(Filtering::AddressAndPortDependent),
        Behaviour::linux(Unsolicited::Drop),
        Behaviour::linux(Unsolicited::Reset),
        Behaviour::linux(Unsolicited::Icmp),
        Behaviour::constant_offset(),
    ]
}

/// Fixed ones among which every pair with a progression is new.
fn few() -> Vec<Behaviour> {
    vec![
        Behaviour::endpoint_independent(Filtering::AddressAndPortDependent),
        Behaviour::linux(Unsolicited::Drop),
        Behaviour::linux(Unsolicited::Reset),
    ]
}

fn counters(rates: &[f64]) -> Vec<Behaviour> {
    let all = [Behaviour::sequential(1), Behaviour::sequential(2), Behaviour::sequential(-1)];
    all.iter().flat_map(|b| rates.iter().map(|rate| b.clone().with_foreign(*rate))).collect()
}

fn rows() -> Vec<Row> {
    let row = |name, a, b, promised| Row { name, a, b, promised };
    let irregular = || vec![Behaviour::irregular().with_foreign(20.0)];
    let blocks = || [256, 1024, 2048].map(Behaviour::block).to_vec();
    let resets = || vec![Behaviour::sequential(1).resetting()];
    let no_udp = fixed().into_iter().take(5).map(Behaviour::without_udp).collect();
    vec![
        row("fixed × fixed", fixed(), [fixed(), vec![Behaviour::strict()]].concat(), [99.0, 99.9]),
        row("the same, UDP blocked on one side", fixed(), no_udp, [98.0, 99.9]),
        row("fixed × progression, to 200/s", few(), counters(&[0.0, 20.0, 100.0, 200.0]), [98.0, 99.9]),
        row("progression × progression, to 50/s", counters(&[0.0, 50.0]), counters(&[20.0]), [98.0, 99.9]),
        row("the same, 200/s", counters(&[200.0]), counters(&[200.0]), [90.0, 99.0]),
        row("irregular × progression, 20/s", irregular(), counters(&[20.0]), [92.0, 99.5]),
        row("irregular × irregular, 20/s", irregular(), irregular(), [85.0, 99.0]),
        row("fixed × block 256, 1024, 2048", few(), blocks(), [99.0, 99.9]),
        row("fixed × random", few(), vec![Behaviour::random()], [97.0, 99.5]),
        row("progression × block 256", counters(&[0.0]), vec![Behaviour::block(256)], [40.0, 0.0]),
        row("block 256 × block 256", vec![Behaviour::block(256)], vec![Behaviour::block(256)], [18.0, 0.0]),
        row("progression that resets × the same", resets(), resets(), [90.0, 0.0]),
    ]
}

/// Whether so many of so many runs are less than what `promised` percent lets expect once in thousands.
fn falls_short(outcome: u64, runs: u64, promised: f64) -> bool {
    let (p, runs) = (promised / 100.0, runs as f64);
    let allowed = runs * (1.0 - p) + 3.5 * (runs * p * (1.0 - p)).sqrt();
    runs - outcome as f64 > allowed.max(1.0)
}

fn line(row: &Row, outcome: &Outcome) -> String {
    let [first, connected] = outcome.percent();
    let median = outcome.median().map_or("-".into(), |took| format!("{} ms", took.as_millis()));
    let [promised, overall] = row.promised;
    format!(
        "| {} | {first:.1} % ({promised}) | {connected:.1} % ({overall}) | {median} | {} |",
        row.name, outcome.runs
    )
}

/// A few runs of each pair, which show what has broken; the figures themselves take many.
#[test]
fn no_row_falls_short_of_its_promise() {
    let mut failures = Vec::new();
    // Where blocks meet blocks most runs use all their rounds: those are for the table.
    for row in rows().into_iter().filter(|row| row.promised[1] > 0.0) {
        let pairs = (row.a.len() * row.b.len()) as u64;
        let outcome = runs(&row.a, &row.b, seeds(1) * 12_u64.div_ceil(pairs));
        println!("{}", line(&row, &outcome));
        for (count, promised) in [outcome.first, outcome.connected].into_iter().zip(row.promised) {
            if falls_short(count, outcome.runs, promised) {
                let story = outcome.story.clone().unwrap_or_default();
                failures.push(format!(
                    "{}: {count} of {}, promised {promised} %\n{story}",
                    row.name, outcome.runs
                ));
            }
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

/// The rows whose name contains `PAIR`, if that is set, with `SIM_SEEDS` runs of each pair of a row:
/// `cargo test --release --test sim -- --ignored --nocapture figures`.
#[test]
#[ignore = "a table for people; it takes minutes"]
fn the_figures_for_people() {
    let wanted = std::env::var("PAIR").unwrap_or_default();
    println!(
        "| pair | first round (promised) | within 20 s | instant to link | n |\n| --- | --- | --- | --- | --- |"
    );
    for row in rows().iter().filter(|row| row.name.contains(&wanted)) {
        let outcome = runs(&row.a, &row.b, seeds(20));
        println!("{}", line(row, &outcome));
        if let Some(story) = outcome.story.filter(|_| std::env::var_os("STORY").is_some()) {
            println!("{story}");
        }
    }
}
