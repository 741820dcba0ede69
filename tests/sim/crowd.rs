//! Many clients of one host, behind a NAT where each new connection moves the ports of all.

use std::{net::IpAddr, time::Duration};

use rand::{RngExt, SeedableRng, rngs::StdRng};

use crate::{
    nat_model::{Behaviour, Filtering, Unsolicited},
    peer::Peer,
    scene::{GOAL, Party, Place, Scene},
    seeds,
    world::{Conditions, HostId, INTERNET, World},
};

const CLIENTS: usize = 8;

/// Longest time from the new address to the last client's bytes.
const LIMIT: Duration = Duration::from_secs(20);

/// Where nobody tells the host of its new address, the server learns of it by the next keep-alive at the
/// latest.
const KEEP_ALIVE: Duration = Duration::from_secs(20);

/// Runs in a test of every day.
const SEEDS: u64 = 12;

fn address(net: &str, last: usize) -> IpAddr {
    format!("{net}.{last}").parse().expect("an address")
}

fn client_nat(rng: &mut StdRng) -> Behaviour {
    match rng.random_range(0..4) {
        0 => Behaviour::linux(Unsolicited::Reset),
        1 => Behaviour::endpoint_independent(Filtering::AddressAndPortDependent),
        2 => Behaviour::constant_offset(),
        _ => Behaviour::linux(Unsolicited::Drop),
    }
}

/// All clients exchange what they are to, within that time.
fn all_done(scene: &mut Scene, limit: Duration) -> bool {
    let clients: Vec<HostId> = scene.clients.clone();
    let done = |world: &World<Party>| {
        clients.iter().all(|&id| matches!(world.program(id), Party::Peer(peer) if peer.is_done()))
    };
    scene.world.run_until(limit, done)
}

/// What was told to those that have not come back.
fn stories(scene: &Scene) -> String {
    let mut story = String::new();
    for &id in scene.clients.iter().filter(|&&id| !scene.peer(id).is_done()) {
        for (at, event) in &scene.peer(id).events {
            let since = at.duration_since(scene.peer(id).began.unwrap_or(*at));
            story += &format!("client {} {since:>9.3?} {event:?}\n", id.0);
        }
    }
    story
}

#[test]
fn eight_clients_of_a_host_behind_a_counter_are_back_within_20_s_of_its_new_address() {
    crowds(true, LIMIT);
}

#[test]
fn they_are_back_within_20_s_of_the_next_keep_alive_where_nobody_tells_the_host() {
    crowds(false, KEEP_ALIVE + LIMIT);
}

/// The host gets another public address under eight links, and is told or not.
fn crowds(told: bool, limit: Duration) {
    let mut slowest = Duration::ZERO;
    for seed in 0..seeds(SEEDS) {
        let mut scene = crowd(seed);
        assert!(all_done(&mut scene, 3 * LIMIT), "seed {seed}: not linked at all\n{}", stories(&scene));
        let (network, now) = (scene.networks[1], scene.world.now);
        scene.world.nat(network).renumber(now, vec![address("198.51.100", 99)]);
        if told {
            scene.with_peer(scene.host, Peer::woke);
        }
        for id in scene.clients.clone() {
            scene.with_peer(id, |peer, _| peer.goal += GOAL);
        }
        let back = all_done(&mut scene, limit);
        assert!(back, "seed {seed}: not all are back\n{}", stories(&scene));
        slowest = slowest.max(scene.world.now - now);
    }
    println!("told {told}: the slowest crowd was back after {slowest:.1?}");
}

/// Eight clients, each behind a NAT of its own, that come to one host at once.
fn crowd(seed: u64) -> Scene {
    let mut rng = StdRng::seed_from_u64(seed);
    let host = Behaviour::sequential(1).with_foreign(10.0 * rng.random::<f64>());
    let one_way = Duration::from_micros(rng.random_range(20_000..=40_000));
    let place = Place::Apart([vec![client_nat(&mut rng)], vec![host]]);
    let mut scene = Scene::new(seed, place, Conditions::usual(one_way));
    for number in 0..CLIENTS {
        if number > 0 {
            let public = address("198.51.100", 100 + number);
            scene.networks[0] = scene.world.network(INTERNET, &client_nat(&mut rng), &[public]);
        }
        scene.start_client();
    }
    scene
}
