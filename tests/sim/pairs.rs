//! Every pair of behaviours that can be predicted gets a direct link.

use std::time::Duration;

use crate::{
    nat_model::{Behaviour, Filtering, Unsolicited},
    oracle::{Expected, must_connect},
    scene::{Place, Scene},
    seeds,
    world::Conditions,
};

/// Runs of each cell, with the client on each side.
const SEEDS: u64 = 5;

/// Longest time that a person waits for a link.
const LIMIT: Duration = Duration::from_secs(20);

fn rows() -> Vec<Behaviour> {
    vec![
        Behaviour::linux(Unsolicited::Drop),
        Behaviour::linux(Unsolicited::Reset),
        Behaviour::endpoint_independent(Filtering::EndpointIndependent),
        Behaviour::endpoint_independent(Filtering::AddressDependent),
        Behaviour::endpoint_independent(Filtering::AddressAndPortDependent),
        Behaviour::constant_offset(),
    ]
}

fn columns() -> Vec<Behaviour> {
    vec![Behaviour::linux(Unsolicited::Drop), Behaviour::linux(Unsolicited::Reset), Behaviour::sequential(1)]
}

fn at(one_way: u64) -> Conditions {
    Conditions::usual(Duration::from_millis(one_way))
}

/// One run of a pair, the client behind the first: did it connect, and in the first round? With the story
/// for the report of a failure.
fn run(seed: u64, client: &Behaviour, host: &Behaviour, conditions: Conditions) -> (bool, bool, Scene) {
    let mut scene = Scene::new(seed, Place::Apart([vec![client.clone()], vec![host.clone()]]), conditions);
    scene.start_client();
    let done = scene.run_until_done(LIMIT);
    let first = done && scene.failed_rounds() == 0;
    (done, first, scene)
}

/// Runs every pair at one delay, prints the table, and demands what the oracle demands.
fn table(one_way: u64) {
    let columns = columns();
    let mut lines = vec![format!("{one_way} ms one way: first round / connected / runs")];
    let names: String = columns.iter().map(|b| format!("{:>20}", b.name)).collect();
    lines.push(format!("{:20}{names}", ""));
    let (mut first, mut runs, mut failures) = (0, 0, Vec::new());
    for row in rows() {
        let mut line = format!("{:20}", row.name);
        for column in &columns {
            assert_eq!(must_connect(&row, column), Expected::Must);
            let mut cell = [0, 0, 0];
            for client_first in (0..seeds(SEEDS)).flat_map(|_| [true, false]) {
                let (client, host) = if client_first { (&row, column) } else { (column, &row) };
                let (done, in_first, scene) = run(one_way * 1_000_000 + runs, client, host, at(one_way));
                runs += 1;
                first += u64::from(in_first);
                cell = [cell[0] + u64::from(in_first), cell[1] + u64::from(done), cell[2] + 1];
                if !done {
                    let (a, b) = (&row.name, &column.name);
                    failures.push(format!("{a} and {b}, client first {client_first}:\n{}", scene.story()));
                }
            }
            let [first, connected, runs] = cell;
            line += &format!("{:>20}", format!("{first}/{connected}/{runs}"));
        }
        lines.push(line);
    }
    println!("{}", lines.join("\n"));
    assert!(failures.is_empty(), "{} of {runs} not connected:\n{}", failures.len(), failures.join("\n"));
    assert!(first * 100 >= runs * 97, "only {first} of {runs} in the first round");
}

#[test]
fn every_predictable_pair_connects_at_5_ms() {
    table(5);
}

#[test]
fn every_predictable_pair_connects_at_50_ms() {
    table(50);
}

#[test]
fn every_predictable_pair_connects_at_150_ms() {
    table(150);
}
