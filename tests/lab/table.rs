//! A selection of the cells of `docs/NAT.md`, with real sockets: the same NATs in the way, real kernels and
//! the real program at the ends.
//!
//! Each run is a network, a server, a host and a client of its own. `PUNCHTUNNEL_LAB_LONG` makes it 20 runs a
//! cell; each cell prints its line of the table.

use std::time::Duration;

use crate::{
    Cell, Needs,
    error::{Result, ensure},
    kills::is_long,
    link::Line,
    nat_model::{Behaviour, Filtering, Unsolicited},
    parties::Parties,
    process::Record,
    service::Service,
    side::{Side, Trio},
};

/// Longest time that a person waits for a link.
const LIMIT: Duration = Duration::from_secs(20);

/// What a cell is expected to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Expected {
    /// Every run gets a link.
    Link,
    /// Some do: a matter of draws.
    Luck,
    /// Every run is told why not, and nothing is sprayed.
    Told,
}

pub fn cells() -> Vec<Cell> {
    let counter = |rate| Behaviour::sequential(1).with_foreign(rate);
    let linux = || Behaviour::linux(Unsolicited::Drop);
    let open = Behaviour::endpoint_independent(Filtering::EndpointIndependent);
    let port = Behaviour::endpoint_independent(Filtering::AddressAndPortDependent);
    let pairs = [
        (linux(), open, Expected::Link),
        (Behaviour::linux(Unsolicited::Reset), Behaviour::linux(Unsolicited::Reset), Expected::Link),
        (Behaviour::strict(), port.clone(), Expected::Link),
        (linux(), counter(200.0), Expected::Link),
        (counter(20.0), Behaviour::sequential(-1).with_foreign(20.0), Expected::Link),
        (counter(200.0), counter(200.0), Expected::Link),
        (Behaviour::irregular().with_foreign(20.0), counter(20.0), Expected::Link),
        (port, Behaviour::block(1024).with_foreign(2.0), Expected::Link),
        (linux(), Behaviour::random(), Expected::Link),
        (Behaviour::block(256), counter(10.0), Expected::Luck),
        (Behaviour::strict(), Behaviour::strict(), Expected::Told),
        (Behaviour::random(), counter(10.0), Expected::Told),
    ];
    let runs = if is_long() { 20 } else { 1 };
    let cell = |(home, laptop, expected): (Behaviour, Behaviour, Expected)| {
        let [home, laptop] = [home, laptop].map(Side::Model);
        let name = format!("table::{}_and_{}", home.name(), laptop.name());
        // Openings are timed: they run with no other test beside them.
        Cell::new(name, Needs::Quiet, move |record| cell(record, [home, laptop], expected, runs))
    };
    pairs.into_iter().map(cell).collect()
}

/// What came of one run.
enum Outcome {
    /// A link, after so many failed rounds; what the program said of it.
    Linked(usize, String),
    /// No link within the limit.
    Nothing,
    /// Told why not, and nothing was sprayed.
    Told,
}

/// A host that has only just begun does not know of its own firewall yet, and tries a pair of ports or two.
const FEW: usize = 4;

fn cell(record: &Record, [home, laptop]: [Side; 2], expected: Expected, runs: u64) -> Result<()> {
    let (mut first, mut linked, mut told, mut took) = (0, 0, 0, Vec::new());
    for run in 0..runs {
        // Who connects is by turns.
        let sides = if run % 2 == 0 { [&home, &laptop] } else { [&laptop, &home] };
        // What everybody says is told apart by run.
        let own = Record::new();
        let outcome = one(&own, run, sides);
        match &outcome {
            Ok(Outcome::Linked(failed, line)) => {
                linked += 1;
                first += u64::from(*failed == 0);
                took.extend(milliseconds(line));
            }
            Ok(Outcome::Told) => told += 1,
            Ok(Outcome::Nothing) | Err(_) => {}
        }
        record.add(&"test".into(), format!("run {run}:\n{}", own.read()));
        outcome?;
    }
    took.sort_unstable();
    let median = took.get(took.len() / 2).map_or("–".into(), |took| format!("{took} ms"));
    let names = format!("{} × {}", home.name(), laptop.name());
    eprintln!(
        "lab: table: {names}: first round {first}, within 20 s {linked}, told {told}, of {runs}; {median}"
    );
    match expected {
        Expected::Link => ensure(linked == runs, || format!("{linked} of {runs} got a link")),
        Expected::Luck => ensure(told == 0, || format!("{told} were told that there is no way")),
        Expected::Told => ensure(told == runs, || format!("{told} of {runs} were told")),
    }
}

/// "connected directly to 203.0.113.2:40000, 41 ms (round trip …)": from the instant to the link.
fn milliseconds(line: &str) -> Option<u64> {
    let (_, rest) = line.split_once(", ")?;
    rest.split_once(" ms")?.0.trim().parse().ok()
}

/// "opening 1024 connections in 50 ms": how many.
fn opened(line: &str) -> Option<usize> {
    let (_, rest) = line.split_once("opening ")?;
    rest.split_once(" connection")?.0.parse().ok()
}

fn one(record: &Record, run: u64, [home, laptop]: [&Side; 2]) -> Result<Outcome> {
    // 40, 68 or 100 ms there and back, and each way crosses two lines.
    let delay = Duration::from_millis([10, 17, 25][run as usize % 3]);
    let half_way = Line { jitter: Duration::from_millis(2), loss: 0.005, ..Line::delayed(delay) };
    let trio = Trio::new(1000 * run, home, laptop, half_way)?;
    let echo = Service::echo(&trio.home)?;
    let parties = Parties::start(record, trio.hosts(), trio.vps.address, echo.port)?;
    let connect = parties.connect_with(&["-v"])?;
    let (linked, hopeless) = ("connected directly to", "is not possible");
    let line = connect.one_of(&[linked, hopeless], LIMIT);
    let said = record.read();
    let most = said.lines().filter_map(opened).max().unwrap_or(0);
    Ok(match line {
        Some(line) if line.contains(linked) => {
            Outcome::Linked(said.matches("no connection this time").count(), line)
        }
        Some(_) if most <= FEW => Outcome::Told,
        _ => Outcome::Nothing,
    })
}
