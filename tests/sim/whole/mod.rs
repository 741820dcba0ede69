//! Random sequences of everything that can happen to two peers, their NATs and their server, against
//! perfect pipes: the [model](crate::model) of sessions, with everything else around them.
//!
//! `SIM_WHOLE` says how many sequences, where the usual number is not enough; `SIM_FIRST` where to begin.

mod pair;

use std::{fmt::Write, net::IpAddr, time::Duration};

use rand::{RngExt, SeedableRng, rngs::StdRng};

pub use self::pair::{CLIENT, HOST, Pair};
use crate::{
    model::setting,
    nat_model::{Behaviour, Filtering, Unsolicited},
    peer::Peer,
    scene::Place,
    world::Conditions,
};

/// Sequences in an ordinary run.
const SEQUENCES: u64 = 120;

/// Streams that each side opens at most.
const STREAMS: usize = 8;

/// How long everything may take to arrive once nothing is in its way. Pauses between attempts are up to a
/// minute.
const PATIENCE: Duration = Duration::from_secs(300);

/// What can happen.
#[derive(Debug, Clone, Copy)]
enum Move {
    Open,
    Write(usize),
    Fill,
    Read,
    Finish,
    Reset,
    /// That side's link is reset.
    Kill,
    /// It is gone without a word; only that side knows.
    Forget,
    /// That side gets nothing of the link any more, and nobody knows.
    Deafen,
    /// That side's NAT has forgotten everything.
    Reboot,
    /// That side's NAT has another address.
    Renumber,
    /// The client has another address in its network.
    Roam,
    RestartServer,
    /// The server is away, or back.
    Server(bool),
    /// That side has no network, or has it again.
    Cut(bool),
    /// That side sleeps for so many seconds; its clock runs on, or not.
    Sleep(u64, bool),
    /// A quarter of all packets is lost, or as few as before.
    Storm(bool),
    Run(u64),
}

fn draw(rng: &mut StdRng) -> Move {
    match rng.random_range(0..100) {
        0..10 => Move::Open,
        10..28 => Move::Write([1, 100, 3_000, 60_000][rng.random_range(0..4)]),
        28..30 => Move::Fill,
        30..42 => Move::Read,
        42..46 => Move::Finish,
        46..48 => Move::Reset,
        48..53 => Move::Kill,
        53..55 => Move::Forget,
        55..60 => Move::Deafen,
        60..63 => Move::Reboot,
        63..66 => Move::Renumber,
        66..68 => Move::Roam,
        68..71 => Move::RestartServer,
        71..74 => Move::Server(rng.random()),
        74..78 => Move::Cut(rng.random()),
        78..80 => Move::Sleep([2, 30, 600, 12 * 3600][rng.random_range(0..4)], rng.random()),
        80..82 => Move::Storm(rng.random()),
        82..96 => Move::Run(rng.random_range(0..300)),
        _ => Move::Run(rng.random_range(0..20_000)),
    }
}

/// NATs of which any two can be punched.
fn behaviour(rng: &mut StdRng) -> Behaviour {
    match rng.random_range(0..6) {
        0 => Behaviour::linux(Unsolicited::Drop),
        1 => Behaviour::linux(Unsolicited::Reset),
        2 => Behaviour::constant_offset(),
        3 => Behaviour::sequential(1),
        4 => Behaviour::linux(Unsolicited::Drop).without_udp(),
        _ => Behaviour::endpoint_independent(Filtering::AddressAndPortDependent),
    }
}

fn play(seed: u64) {
    let mut rng = StdRng::seed_from_u64(seed);
    let place = Place::Apart([vec![behaviour(&mut rng)], vec![behaviour(&mut rng)]]);
    let usual = Conditions::usual(Duration::from_millis(rng.random_range(2..120)));
    let mut pair = Pair::new(seed, place, usual);
    let mut addresses = 30..;
    for _ in 0..rng.random_range(8..40) {
        let (side, next) = (rng.random_range(0..2), draw(&mut rng));
        let id = pair.id(side);
        let held = pair.pipes.held(side);
        let stream = held.get(rng.random_range(0..8) % held.len().max(1)).copied();
        match (next, stream) {
            (Move::Open, _) => {
                if pair.pipes.count(side) < STREAMS {
                    pair.open(side);
                }
            }
            (Move::Write(size), Some(stream)) => drop(pair.write(side, stream, size)),
            (Move::Fill, Some(stream)) => while pair.write(side, stream, usize::MAX) > 0 {},
            (Move::Read, Some(stream)) => drop(pair.read(side, stream)),
            (Move::Finish, Some(stream)) => pair.finish(side, stream),
            (Move::Reset, Some(stream)) => pair.reset(side, stream),
            (Move::Kill, _) => pair.with(side, |peer, io| peer.kill_links(io, true)),
            (Move::Forget, _) => pair.with(side, |peer, io| peer.kill_links(io, false)),
            (Move::Deafen, _) => pair.with(side, |peer, io| peer.deafen_links(io)),
            (Move::Reboot, _) => {
                let (network, now) = (pair.scene.networks[side], pair.scene.world.now);
                pair.scene.world.nat(network).reboot(now);
            }
            (Move::Renumber, _) => {
                let (network, now) = (pair.scene.networks[side], pair.scene.world.now);
                let public = address("198.51.100", addresses.next());
                pair.scene.world.nat(network).renumber(now, vec![public]);
            }
            (Move::Roam, _) => {
                let client = pair.id(CLIENT);
                pair.scene.world.set_addresses(client, &[address("192.168.1", addresses.next())]);
                pair.with(CLIENT, |peer, io| peer.moved(io));
            }
            (Move::RestartServer, _) => pair.scene.restart_server(),
            (Move::Server(up), _) => pair.scene.world.cut(pair.scene.server, !up),
            (Move::Cut(cut), _) => pair.scene.world.cut(id, cut),
            (Move::Sleep(secs, clock_ran), _) => {
                pair.scene.world.suspend(id);
                pair.run(Duration::from_secs(secs));
                pair.scene.world.resume(id, clock_ran);
                if !clock_ran {
                    // The wall clock is ahead of the other: `net` looks every second.
                    pair.run(Duration::from_millis(rng.random_range(0..1000)));
                    pair.with(side, Peer::woke);
                }
            }
            (Move::Storm(on), _) => pair.scene.world.conditions.loss = if on { 0.25 } else { usual.loss },
            (Move::Run(ms), _) => pair.run(Duration::from_millis(ms)),
            (_, None) => {}
        }
    }
    pair.scene.world.conditions = usual;
    for id in [pair.id(CLIENT), pair.id(HOST), pair.scene.server] {
        pair.scene.world.cut(id, false);
    }
    pair.delivers(PATIENCE);
    pair.ends_well(PATIENCE);
}

fn address(net: &str, last: Option<u8>) -> IpAddr {
    let mut text = net.to_owned();
    write!(text, ".{}", last.unwrap_or(250)).expect("a string takes anything");
    text.parse().expect("an address")
}

#[test]
fn whatever_happens_to_peers_nats_and_server_streams_are_perfect_pipes() {
    let first = setting("SIM_FIRST", 0);
    for seed in first..first + setting("SIM_WHOLE", SEQUENCES) {
        // Said only where it fails.
        println!("seed {seed}");
        play(seed);
    }
}
