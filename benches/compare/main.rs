//! The whole-program comparison: punchtunnel and the tunnels that people use, by the same load in the same run.
//!
//!     cargo bench --bench compare                                  everything; 15 minutes
//!     cargo bench --bench compare -- throughput --only punchtunnel,bore --rounds 3 --short
//!
//! All of it runs in private namespaces (those of `tests/lab`), where nothing else uses the loopback interface,
//! and from where no address outside can be reached. A program that is missing is left out by name.
#![allow(unreachable_pub, missing_docs, reason = "a program of its own, without an interface")]
#![allow(clippy::disallowed_methods, reason = "what is measured is time")]

#[allow(dead_code, reason = "the lab needs more of it")]
#[path = "../../tests/lab/error.rs"]
mod error;
#[allow(dead_code, reason = "the lab needs more of it")]
#[path = "../../tests/lab/link.rs"]
mod link;
mod links;
mod load;
mod machine;
mod measure;
#[allow(dead_code, reason = "the lab needs more of it")]
#[path = "../../tests/lab/namespace.rs"]
mod namespace;
mod page;
mod peers;
mod process;
mod table;
#[allow(dead_code, reason = "the lab needs more of it")]
#[path = "../../tests/lab/tun.rs"]
mod tun;
mod wire;

use std::{fmt::Display, process::ExitCode, time::Duration};

use clap::{Parser, ValueEnum};

use crate::{
    error::{Result, ensure, failed},
    load::Service,
    peers::{Ground, KINDS, Kind, Tunnel},
    table::Table,
};

/// Compares punchtunnel with the tunnels that are installed here.
#[derive(Debug, Parser)]
struct Arguments {
    /// What to measure [default: everything]
    parts: Vec<Part>,
    /// How often each tunnel has its turn
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Only these tunnels
    #[arg(long, value_delimiter = ',')]
    only: Vec<String>,
    /// Short runs and fewer of them, to see that it works: the figures are worth little
    #[arg(long)]
    short: bool,
    /// Write the tables into docs/PERFORMANCE.md
    #[arg(long)]
    write: bool,
    /// Given by cargo
    #[arg(long, hide = true)]
    bench: bool,
}

/// A part of the comparison.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Part {
    /// One stream each way, and its processor time
    Throughput,
    /// 1, 16 and 256 streams
    Streams,
    /// Round trips of one byte, alone and beside a transfer
    Latency,
    /// Connections opened and closed
    Connections,
    /// Memory of the agents
    Memory,
    /// Round trips beside an upload over 50 Mbit/s, 40 ms
    Slow,
    /// One stream over 1 Gbit/s, 100 ms
    Fat,
}

/// Measures one thing with tunnels in turn.
type Alternating = fn(&Setting, &Service, &[Tunnel]) -> Result<Vec<Table>>;

/// How it is measured.
#[derive(Debug)]
struct Setting {
    rounds: usize,
    /// How long one run is.
    span: Duration,
    /// How many idle streams are opened.
    held: usize,
    /// Over lines with a delay: how long a transfer runs before it is looked at, and how long it is looked at.
    settle: Duration,
    look: Duration,
}

impl Setting {
    /// Says what came out of one run, for whoever waits.
    fn tell(&self, round: usize, name: &str, words: impl Display) {
        eprintln!("{}/{} {name}: {words}", round + 1, self.rounds);
    }

    /// What a run brought; a tunnel that fails is told of and has no figure.
    fn take<T>(&self, tunnel: &Tunnel, run: Result<T>) -> Option<T> {
        self.note(tunnel.kind.name, run.map_err(|error| failed(error, tunnel.said())))
    }

    /// The same where the tunnel is gone.
    fn note<T>(&self, name: &str, run: Result<T>) -> Option<T> {
        run.inspect_err(|error| eprintln!("{name} failed: {error}")).ok()
    }
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    match namespace::inner() {
        Some(_) => {}
        None => match namespace::privilege() {
            Ok(privilege) => return failure(namespace::replace_process(privilege)),
            Err(why) => return failure(why),
        },
    }
    match namespace::furnish().and_then(|()| compare(&arguments)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => failure(error),
    }
}

fn failure(error: impl Display) -> ExitCode {
    eprintln!("compare: {error}");
    ExitCode::FAILURE
}

fn compare(arguments: &Arguments) -> Result<()> {
    let holdable = machine::raise_limits()?;
    let setting = Setting {
        rounds: if arguments.short { arguments.rounds.min(2) } else { arguments.rounds },
        span: Duration::from_millis(if arguments.short { 300 } else { 2000 }),
        held: if arguments.short { 500 } else { 10_000 }.min(holdable),
        settle: Duration::from_secs(if arguments.short { 1 } else { 5 }),
        look: Duration::from_secs(if arguments.short { 2 } else { 10 }),
    };
    let kinds = chosen(&arguments.only)?;
    let wants = |part: Part| arguments.parts.is_empty() || arguments.parts.contains(&part);
    let service = Service::start(Ground::loopback().far.address)?;
    let mut sections = Vec::new();
    let alternating: [(Part, Alternating); 4] = [
        (Part::Throughput, measure::throughput),
        (Part::Streams, measure::streams),
        (Part::Latency, measure::latency),
        (Part::Connections, measure::rate),
    ];
    if alternating.iter().any(|&(part, _)| wants(part)) {
        let tunnels: Vec<Tunnel> =
            kinds.iter().map(|kind| kind.start(Ground::loopback(), &service)).collect::<Result<_>>()?;
        for (part, run) in alternating.into_iter().filter(|&(part, _)| wants(part)) {
            show(&mut sections, part, run(&setting, &service, &tunnels)?);
        }
    }
    if wants(Part::Memory) {
        show(&mut sections, Part::Memory, measure::memory(&setting, &service, &kinds)?);
    }
    if wants(Part::Slow) {
        show(&mut sections, Part::Slow, links::slow(&setting, &kinds)?);
    }
    if wants(Part::Fat) {
        show(&mut sections, Part::Fat, links::fat(&setting, &kinds)?);
    }
    if arguments.write {
        page::write(&sections, &kinds)?;
    }
    Ok(())
}

/// The kinds that were asked for and can be had; the others are named.
fn chosen(only: &[String]) -> Result<Vec<Kind>> {
    let known = |name: &String| KINDS.iter().any(|kind| kind.name == name);
    if let Some(name) = only.iter().find(|name| !known(name)) {
        let names: Vec<_> = KINDS.iter().map(|kind| kind.name).collect();
        return Err(format!("no tunnel is called {name:?}; there are {}", names.join(", ")).into());
    }
    let mut kinds = Vec::new();
    for kind in KINDS.iter().filter(|kind| only.is_empty() || only.iter().any(|name| name == kind.name)) {
        match kind.missing() {
            Some(program) => eprintln!("compare: {} left out: there is no {program}", kind.name),
            None => kinds.push(*kind),
        }
    }
    ensure(!kinds.is_empty(), || "nothing to measure".to_owned())?;
    Ok(kinds)
}

/// Prints tables, and keeps them for the page.
fn show(sections: &mut Vec<(Part, Vec<Table>)>, part: Part, tables: Vec<Table>) {
    for table in &tables {
        println!("\n{table}");
    }
    sections.push((part, tables));
}
