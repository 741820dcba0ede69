//! What people are told where there can be no connection, before anything is opened.

use std::time::Duration;

use crate::{
    Cell, Needs,
    error::{Result, ensure},
    link::Line,
    nat_model::Behaviour,
    parties::Parties,
    process::{PATIENCE, Record},
    side::{Side, Trio},
};

/// Heads what a round opened (`-v`).
const OPENED: &str = "counted from the agreed instant";

pub fn cells() -> Vec<Cell> {
    let pair = |name: &str, home: Behaviour, laptop: Behaviour, words: &'static str| {
        Cell::new(format!("reports::{name}"), Needs::Nothing, move |record: &Record| {
            hopeless(record, &Side::Model(home.clone()), &Side::Model(laptop.clone()), words)
        })
    };
    vec![
        pair(
            "two_random_nats_are_told_so_and_nothing_is_opened",
            Behaviour::random(),
            Behaviour::random(),
            "your NAT gives random ports and so does theirs",
        ),
        pair(
            "a_random_nat_and_one_that_counts_are_told_so_and_nothing_is_opened",
            Behaviour::sequential(1),
            Behaviour::random(),
            "your NAT gives random ports, and theirs gives every connection another port",
        ),
        pair(
            "two_strict_firewalls_are_told_so_and_nothing_is_opened",
            Behaviour::strict(),
            Behaviour::strict(),
            "your firewall drops connections from outside even while you open one the other way, and so does theirs",
        ),
    ]
}

fn hopeless(record: &Record, home: &Side, laptop: &Side, words: &str) -> Result<()> {
    let trio = Trio::new(6, home, laptop, Line::delayed(Duration::from_millis(10)))?;
    let parties = Parties::start(record, trio.hosts(), trio.vps.address, 22)?;
    let told = format!("a direct connection to \"myhost\" is not possible: {words}");
    let try_it = || -> Result<()> {
        let mut connecting = parties.connect_with(&["-v"])?;
        connecting.line(&told)?;
        connecting.ends_with(1, PATIENCE).map(drop)
    };
    // A host that has only just come may not know its own firewall yet, and lets a round pass.
    try_it()?;
    let before = record.read().matches(OPENED).count();
    try_it()?;
    let after = record.read().matches(OPENED).count();
    ensure(before == after, || format!("{} rounds were opened", after - before))?;
    parties.expose.line("a direct connection to this client is not possible: ").map(drop)
}
