//! How long a person waits: from starting `connect` to the first byte of the service.

use std::time::Duration;

use crate::{
    Cell, Needs,
    error::{Result, ensure},
    link::Line,
    nat_model::{Behaviour, Unsolicited},
    parties::Parties,
    process::Record,
    service::Service,
    side::{Side, Trio},
};

/// Runs of which the median counts.
const RUNS: u64 = 3;

/// What the machine itself may take, beyond round trips.
const OVERHEAD: Duration = Duration::from_millis(150);

pub fn cells() -> Vec<Cell> {
    let fixed = || Side::Model(Behaviour::linux(Unsolicited::Drop));
    let progression = || Side::Model(Behaviour::sequential(1));
    let mut cells = Vec::new();
    for ms in [5, 50, 150] {
        let name = format!("timing::fixed_and_fixed_at_{ms}_ms_within_8_round_trips");
        cells.push(Cell::new(name, Needs::Quiet, move |record| {
            first_byte(record, "fixed × fixed", &fixed(), &fixed(), ms, 8)
        }));
        let name = format!("timing::fixed_and_progression_at_{ms}_ms_within_10_round_trips");
        cells.push(Cell::new(name, Needs::Quiet, move |record| {
            first_byte(record, "fixed × progression", &fixed(), &progression(), ms, 10)
        }));
    }
    cells
}

/// Measures between parties that are `ms` milliseconds from each other, one way, and never met before.
fn first_byte(record: &Record, what: &str, home: &Side, laptop: &Side, ms: u64, trips: u32) -> Result<()> {
    let round_trip = Duration::from_millis(2 * ms);
    let mut times = Vec::new();
    for run in 0..RUNS {
        let trio = Trio::new(run, home, laptop, Line::delayed(round_trip / 4))?;
        let echo = Service::echo(&trio.home)?;
        let parties = Parties::start(record, trio.hosts(), trio.vps.address, echo.port)?;
        let (connect, _stream, took) = parties.connect_and_greet()?;
        connect.line("connected directly")?;
        record.add(&"test".into(), format!("first byte after {} ms", took.as_millis()));
        times.push(took);
    }
    times.sort();
    let median = times[times.len() / 2];
    let allowed = round_trip * trips + OVERHEAD;
    let in_trips = median.saturating_sub(OVERHEAD).as_secs_f64() / round_trip.as_secs_f64();
    let in_ms: Vec<_> = times.iter().map(Duration::as_millis).collect();
    let figures = format!(
        "first byte, {what}, {ms} ms one way: {} ms = {in_trips:.1} round trips + {} ms, median of {in_ms:?}; \
         allowed {} ms",
        median.as_millis(),
        OVERHEAD.as_millis(),
        allowed.as_millis(),
    );
    eprintln!("lab: {figures}");
    ensure(median <= allowed, || figures)
}
