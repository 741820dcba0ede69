//! Long absences: a night's sleep, an outage, a server that is down. The session goes on, and what it
//! holds meanwhile is bounded.

use std::time::Duration;

use punchtunnel::mux::holding::{SEND_BUDGET, SEND_BUFFER, SEND_FLOOR};

use crate::{
    memory,
    nat_model::{Behaviour, Filtering, Unsolicited},
    peer::Peer,
    scene::Place,
    seeds,
    whole::{CLIENT, HOST, Pair},
    world::Conditions,
};

/// Runs of a scenario, each from another seed.
const SEEDS: u64 = 2;

/// A person waits no longer than this for a terminal to answer after opening the lid.
const ANSWER: Duration = Duration::from_secs(20);

fn secs(secs: u64) -> Duration {
    Duration::from_secs(secs)
}

fn linux() -> Behaviour {
    Behaviour::linux(Unsolicited::Drop)
}

fn apart() -> Place {
    Place::Apart([vec![linux()], vec![linux()]])
}

fn usual() -> Conditions {
    Conditions::usual(Duration::from_millis(30))
}

#[test]
fn a_session_that_slept_for_twelve_hours_goes_on() {
    for seed in 0..seeds(SEEDS) {
        for side in [CLIENT, HOST] {
            for clock_ran in [true, false] {
                let mut pair = Pair::new(seed, apart(), usual());
                let stream = pair.open(CLIENT);
                pair.write(CLIENT, stream, 1000);
                pair.delivers(secs(5));
                // What is typed at the moment in which the lid closes, and by a program that does not sleep.
                pair.write(side, stream, 100);
                let id = pair.id(side);
                pair.scene.world.suspend(id);
                pair.write(1 - side, stream, 200);
                pair.run(secs(12 * 3600));
                pair.scene.world.resume(id, clock_ran);
                pair.run(Duration::from_millis(500));
                if !clock_ran {
                    pair.with(side, Peer::woke);
                }
                let woken = pair.now();
                pair.delivers(ANSWER * 6);
                let took = pair.now() - woken;
                println!("side {side} slept (clock ran: {clock_ran}): everything there after {took:.1?}");
                pair.ends_well(secs(60));
            }
        }
    }
}

#[test]
fn both_may_sleep_and_wake_in_other_networks() {
    for seed in 0..seeds(SEEDS) {
        let mut pair = Pair::new(seed, apart(), usual());
        let stream = pair.open(CLIENT);
        pair.delivers(secs(5));
        pair.write(HOST, stream, 100);
        pair.write(CLIENT, stream, 5000);
        for side in [CLIENT, HOST] {
            let id = pair.id(side);
            pair.scene.world.suspend(id);
        }
        pair.run(secs(12 * 3600));
        for side in [CLIENT, HOST] {
            let (network, now) = (pair.scene.networks[side], pair.scene.world.now);
            let public = format!("198.51.100.{}", 90 + side).parse().expect("an address");
            pair.scene.world.nat(network).renumber(now, vec![public]);
            let id = pair.id(side);
            pair.scene.world.resume(id, false);
            pair.run(secs(30));
            pair.with(side, |peer, io| peer.moved(io));
        }
        pair.delivers(secs(120));
        pair.ends_well(secs(60));
    }
}

#[test]
fn an_outage_of_ten_minutes_costs_bounded_memory_and_no_byte() {
    /// Streams whose programs write as much as is taken.
    const STREAMS: usize = 200;
    let mut pair = Pair::new(1, apart(), usual());
    let quiet = pair.open(CLIENT);
    let streams: Vec<_> = (0..STREAMS).map(|_| pair.open(HOST)).collect();
    pair.delivers(secs(30));
    let before = memory::held();
    let client = pair.id(CLIENT);
    pair.scene.world.cut(client, true);
    let mut most = 0;
    let mut written = 0;
    for _ in 0..600 {
        pair.write(CLIENT, quiet, 10);
        for &stream in &streams {
            written += pair.write(HOST, stream, usize::MAX);
        }
        pair.run(secs(1));
        most = most.max(memory::held() - before);
    }
    // Unsent bytes, and what the socket and the queue of records held when the link died; the simulator's
    // own socket holds less than two windows.
    let bound = SEND_BUDGET + STREAMS * SEND_FLOOR + (1 << 20);
    println!("{written} bytes taken, at most {most} bytes held, of {bound}");
    assert!(written > SEND_BUDGET && STREAMS * SEND_BUFFER > SEND_BUDGET, "the budget was never used up");
    assert!(most < bound as isize, "{most} bytes are held, and {bound} were said");
    pair.scene.world.cut(client, false);
    pair.delivers(secs(600));
    pair.ends_well(secs(120));
}

#[test]
fn a_session_does_not_notice_that_the_server_was_killed_and_restarted() {
    for seed in 0..seeds(SEEDS) {
        // Nothing is lost, so that no link is replaced for looking sick.
        let mut pair = Pair::new(seed, apart(), Conditions { loss: 0.0, ..usual() });
        let stream = pair.open(CLIENT);
        pair.delivers(secs(5));
        let links = pair.links(CLIENT);
        for _ in 0..20 {
            pair.scene.world.cut(pair.scene.server, true);
            pair.scene.restart_server();
            pair.write(CLIENT, stream, 100);
            pair.write(HOST, stream, 100);
            pair.run(secs(7));
            pair.scene.world.cut(pair.scene.server, false);
            pair.run(secs(5));
            pair.read_all();
        }
        assert_eq!(pair.links(CLIENT), links, "{}", pair.scene.story());
        // And the server knows both again: a NAT that lost everything needs it.
        for network in pair.scene.networks {
            let now = pair.scene.world.now;
            pair.scene.world.nat(network).reboot(now);
        }
        pair.write(CLIENT, stream, 100);
        pair.delivers(secs(120));
        pair.ends_well(secs(30));
    }
}

// Needs the ports and predictions of the last link, kept by src/endpoint: without the server nothing can be
// probed.
#[test]
fn a_link_that_dies_while_the_server_is_down_is_replaced_without_it() {
    for seed in 0..seeds(SEEDS) {
        for nat in [
            linux(),
            Behaviour::linux(Unsolicited::Reset),
            Behaviour::constant_offset(),
            Behaviour::endpoint_independent(Filtering::AddressAndPortDependent),
        ] {
            for side in [CLIENT, HOST] {
                let mut pair = Pair::new(seed, Place::Apart([vec![nat.clone()], vec![linux()]]), usual());
                let stream = pair.open(CLIENT);
                pair.run(secs(10));
                pair.scene.world.cut(pair.scene.server, true);
                // The server's silence has been noticed by then.
                pair.run(secs(120));
                for kill in 0..3 {
                    pair.with(side, |peer, io| peer.kill_links(io, kill != 1));
                    pair.write(CLIENT, stream, 100);
                    let killed = pair.now();
                    pair.delivers(secs(60));
                    println!("{} side {side}, kill {kill}: {:.2?}", nat.name, pair.now() - killed);
                    pair.run(secs(30));
                }
            }
        }
    }
}

// The hole has to be opened anew as soon as somebody moved, while the server is there to say where to.
#[test]
fn after_a_move_a_link_is_replaced_without_the_server() {
    for seed in 0..seeds(SEEDS) {
        for side in [CLIENT, HOST] {
            let mut pair = Pair::new(seed, apart(), usual());
            let stream = pair.open(CLIENT);
            pair.run(secs(10));
            let (network, now) = (pair.scene.networks[side], pair.scene.world.now);
            let public = format!("198.51.100.{}", 90 + side).parse().expect("an address");
            pair.scene.world.nat(network).renumber(now, vec![public]);
            pair.with(side, Peer::moved);
            pair.write(CLIENT, stream, 100);
            pair.delivers(secs(20));
            pair.run(secs(20));
            pair.scene.world.cut(pair.scene.server, true);
            pair.run(secs(120));
            pair.with(side, |peer, io| peer.kill_links(io, true));
            pair.write(CLIENT, stream, 100);
            let killed = pair.now();
            pair.delivers(secs(20));
            println!("side {side} had moved: {:.2?}", pair.now() - killed);
        }
    }
}
