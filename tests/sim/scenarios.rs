//! What happens to people: links that die, servers and NATs that restart, names that are not there yet,
//! networks of odd shapes.

use std::time::Duration;

use punchtunnel::{
    endpoint::{Event, Input},
    wire::server::Decline,
};

use crate::{
    nat_model::{Behaviour, Filtering, UdpBehaviour, Unsolicited},
    scene::{Party, Place, Scene, Trust},
    seeds,
    world::Conditions,
};

/// Runs of a scenario, each from another seed.
const SEEDS: u64 = 5;

fn linux() -> Behaviour {
    Behaviour::linux(Unsolicited::Drop)
}

fn apart(client: Behaviour, host: Behaviour) -> Place {
    Place::Apart([vec![client], vec![host]])
}

fn usual() -> Conditions {
    Conditions::usual(ms(50))
}

fn quiet(one_way: u64) -> Conditions {
    Conditions::quiet(ms(one_way))
}

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

fn secs(secs: u64) -> Duration {
    Duration::from_secs(secs)
}

/// A client of the scene connects and exchanges its bytes.
fn connect(scene: &mut Scene, limit: Duration) {
    scene.start_client();
    let done = scene.run_until_done(limit);
    assert!(done, "not connected within {limit:?}:\n{}", scene.story());
}

/// More bytes pass within the time.
fn goes_on(scene: &mut Scene, limit: Duration) {
    let more = scene.exchange_more(limit);
    assert!(more, "the session does not go on within {limit:?}:\n{}", scene.story());
}

#[test]
fn the_first_byte_comes_within_the_budget() {
    for (name, client, host, more) in [
        ("linux, linux", linux(), linux(), 0),
        (
            "linux reset, constant offset",
            Behaviour::linux(Unsolicited::Reset),
            Behaviour::constant_offset(),
            0,
        ),
        ("sequential, linux", Behaviour::sequential(1), linux(), 2),
        ("linux, sequential", linux(), Behaviour::sequential(1), 2),
    ] {
        for one_way in [5, 50, 150] {
            let mut scene = Scene::new(one_way, apart(client.clone(), host.clone()), quiet(one_way));
            connect(&mut scene, secs(10));
            let took = scene.first_byte().expect("connected");
            let rtt = ms(2 * one_way);
            let budget = rtt * (8 + more) + ms(150);
            let trips = took.as_secs_f64() / rtt.as_secs_f64();
            println!(
                "{name}, {one_way} ms one way: first byte after {took:.1?} ({trips:.1} round trips), budget {budget:.1?}"
            );
            assert!(took <= budget, "{}", scene.story());
        }
    }
}

#[test]
fn a_link_that_is_reset_is_replaced_and_no_byte_is_lost() {
    for one_way in [5, 50, 150] {
        let mut scene = Scene::new(one_way, apart(linux(), linux()), quiet(one_way));
        connect(&mut scene, secs(10));
        for kill in 1..=3 {
            let victim = if kill % 2 == 0 { scene.host } else { scene.clients[0] };
            scene.world.run_for(secs(5));
            let before = scene.world.elapsed();
            scene.with_peer(victim, |peer, io| peer.kill_links(io, true));
            goes_on(&mut scene, secs(20));
            let took = scene.world.elapsed() - before;
            // Two for the probes and half of one for each of: predictions, START, and from there as in
            // the opening: connection, handshake, bytes and echo.
            let budget = ms(2 * one_way) * 7 + ms(150);
            println!(
                "{one_way} ms one way, kill {kill}: exchanged again after {took:.1?}, budget {budget:.1?}"
            );
            assert!(took <= budget, "{}", scene.story());
        }
    }
}

#[test]
fn a_link_that_dies_silently_is_noticed_and_replaced() {
    for seed in 0..seeds(SEEDS) {
        let mut scene = Scene::new(seed, apart(linux(), Behaviour::sequential(1)), usual());
        connect(&mut scene, secs(20));
        let host = scene.host;
        scene.with_peer(host, |peer, io| peer.kill_links(io, false));
        goes_on(&mut scene, secs(30));
    }
}

#[test]
fn a_restarted_server_costs_nothing_while_the_link_lives_and_little_afterwards() {
    for seed in 0..seeds(SEEDS) {
        let mut scene = Scene::new(seed, apart(linux(), linux()), usual());
        connect(&mut scene, secs(20));
        scene.restart_server();
        goes_on(&mut scene, secs(2));
        let client = scene.clients[0];
        scene.with_peer(client, |peer, io| peer.kill_links(io, true));
        goes_on(&mut scene, secs(60));
    }
}

#[test]
fn a_client_that_comes_after_the_server_was_restarted_finds_the_host() {
    for seed in 0..seeds(SEEDS) {
        let mut scene = Scene::new(seed, apart(linux(), linux()), usual());
        scene.restart_server();
        connect(&mut scene, secs(120));
    }
}

#[test]
fn the_session_goes_on_after_a_nat_has_rebooted() {
    for seed in 0..seeds(SEEDS) {
        for side in [0, 1] {
            let behaviour = Behaviour::endpoint_independent(Filtering::AddressDependent);
            let mut scene = Scene::new(seed, apart(behaviour.clone(), behaviour), usual());
            connect(&mut scene, secs(20));
            let (network, now) = (scene.networks[side], scene.world.now);
            scene.world.nat(network).reboot(now);
            goes_on(&mut scene, secs(120));
        }
    }
}

#[test]
fn the_session_goes_on_after_a_nat_got_another_address() {
    for seed in 0..seeds(SEEDS) {
        for side in [0, 1] {
            let mut scene = Scene::new(seed, apart(linux(), linux()), usual());
            connect(&mut scene, secs(20));
            let (network, now) = (scene.networks[side], scene.world.now);
            scene.world.nat(network).renumber(now, vec!["198.51.100.99".parse().expect("an address")]);
            goes_on(&mut scene, secs(120));
        }
    }
}

#[test]
fn a_name_that_is_not_there_is_waited_for() {
    for seed in 0..seeds(SEEDS) {
        let mut scene = Scene::without_host(seed, apart(linux(), linux()), usual());
        scene.start_client();
        scene.world.run_for(secs(60));
        let waiting = scene.client().told(|event| matches!(event, Event::Waiting { last_seen: None }));
        assert!(waiting >= 1, "{}", scene.story());
        scene.start_host();
        assert!(scene.run_until_done(secs(20)), "{}", scene.story());
    }
}

#[test]
fn udp_blocked_on_one_side_or_on_both_costs_time_only() {
    for seed in 0..seeds(SEEDS) {
        for (client, host) in [
            (linux().without_udp(), linux()),
            (linux(), linux().without_udp()),
            (linux().without_udp(), linux().without_udp()),
            (linux(), Behaviour::sequential(1).without_udp()),
        ] {
            let mut scene = Scene::new(seed, apart(client, host), usual());
            connect(&mut scene, secs(20));
            let client = scene.clients[0];
            scene.with_peer(client, |peer, io| peer.kill_links(io, true));
            goes_on(&mut scene, secs(20));
        }
    }
}

#[test]
fn udp_that_behaves_otherwise_than_tcp_does_not_matter() {
    let symmetric = UdpBehaviour::Separate(Box::new(Behaviour::random()));
    for seed in 0..seeds(SEEDS) {
        let odd = Behaviour { udp: symmetric.clone(), ..linux() };
        let mut scene = Scene::new(seed, apart(odd.clone(), odd), usual());
        connect(&mut scene, secs(20));
        assert_eq!(scene.client().told(|event| matches!(event, Event::HoleOpen { .. })), 0);
    }
}

#[test]
fn two_in_one_lan_without_hairpin_connect_inside_it() {
    for seed in 0..seeds(SEEDS) {
        for nat in
            [linux(), Behaviour::linux(Unsolicited::Reset), Behaviour::sequential(1), Behaviour::random()]
        {
            let mut scene = Scene::new(seed, Place::Lan(nat), usual());
            connect(&mut scene, secs(20));
            let inside = |event: &Event| matches!(event, Event::Connected { remote, .. } if remote.ip().to_string().starts_with("192.168."));
            assert_eq!(scene.client().told(inside), 1, "{}", scene.story());
        }
    }
}

#[test]
fn two_behind_one_carrier_nat_with_hairpin_connect() {
    for seed in 0..seeds(SEEDS) {
        let carrier = Behaviour::endpoint_independent(Filtering::AddressAndPortDependent).with_hairpin();
        let mut scene = Scene::new(seed, Place::Carrier([linux(), linux()], carrier), usual());
        connect(&mut scene, secs(20));
    }
}

#[test]
fn two_nats_in_a_row_connect() {
    for seed in 0..seeds(SEEDS) {
        let carrier = Behaviour::endpoint_independent(Filtering::EndpointIndependent);
        let place = Place::Apart([vec![linux(), carrier.clone()], vec![linux(), linux()]]);
        let mut scene = Scene::new(seed, place, usual());
        connect(&mut scene, secs(20));
    }
}

#[test]
fn without_a_nat_on_one_side_or_on_both_it_connects() {
    for seed in 0..seeds(SEEDS) {
        for place in [
            Place::Apart([vec![], vec![linux()]]),
            Place::Apart([vec![linux()], vec![]]),
            Place::Apart([vec![], vec![]]),
        ] {
            let mut scene = Scene::new(seed, place, usual());
            connect(&mut scene, secs(20));
        }
    }
}

#[test]
fn ipv6_firewalls_are_punched_like_any_nat() {
    for seed in 0..seeds(SEEDS) {
        for unsolicited in [Unsolicited::Drop, Unsolicited::Reset, Unsolicited::Icmp] {
            let firewalls = [Behaviour::linux(unsolicited), linux()];
            let mut scene = Scene::new(seed, Place::V6(firewalls), usual());
            connect(&mut scene, secs(20));
        }
    }
}

#[test]
fn a_strict_firewall_on_one_side_connects_and_on_both_it_does_not() {
    for seed in 0..seeds(SEEDS) {
        for (client, host) in [(Behaviour::strict(), linux()), (linux(), Behaviour::strict())] {
            let mut scene = Scene::new(seed, apart(client, host), usual());
            connect(&mut scene, secs(20));
        }
    }
    let mut scene = Scene::new(0, apart(Behaviour::strict(), Behaviour::strict()), usual());
    scene.start_client();
    assert!(!scene.run_until_done(secs(60)));
}

#[test]
fn a_pair_that_cannot_be_predicted_is_told_so_and_nothing_is_sprayed() {
    let mut scene = Scene::new(1, apart(Behaviour::random(), Behaviour::random()), usual());
    scene.start_client();
    assert!(!scene.run_until_done(secs(15)));
    assert!(scene.client().told(|event| matches!(event, Event::Hopeless { .. })) >= 1, "{}", scene.story());
    // Probes only: a few each round.
    assert!(scene.world.syns < 200, "{} SYNs", scene.world.syns);
}

/// The clock's samples get lost, and the counter's base grows old meanwhile: nobody may spin until both are
/// there (the world watches that time goes on).
#[test]
fn a_client_that_waits_for_its_clock_sleeps() {
    for seed in 0..seeds(40) {
        let place = apart(Behaviour::linux(Unsolicited::Icmp), Behaviour::sequential(2));
        let mut scene = Scene::new(seed, place, Conditions { loss: 0.3, ..usual() });
        scene.start_client();
        scene.run_until_done(secs(20));
    }
}

#[test]
fn several_clients_at_once_each_get_their_own_link() {
    for seed in 0..seeds(SEEDS) {
        let mut scene = Scene::new(seed, apart(linux(), linux()), usual());
        let clients: Vec<_> = (0..4).map(|_| scene.start_client()).collect();
        let all = |world: &crate::world::World<Party>| {
            clients.iter().all(|&id| matches!(world.program(id), Party::Peer(peer) if peer.is_done()))
        };
        assert!(scene.world.run_until(secs(20), all), "{}", scene.story());
    }
}

#[test]
fn an_invited_client_gets_in_and_an_unknown_one_does_not() {
    let place = || apart(linux(), linux());
    let start = |trust| {
        let mut scene = Scene::without_host(3, place(), usual());
        scene.trust = trust;
        scene.start_host();
        scene.world.run_for(secs(3));
        scene.start_client();
        scene
    };
    let mut invited = start(Trust::Invited);
    assert!(invited.run_until_done(secs(20)), "{}", invited.story());
    let mut unknown = start(Trust::Unknown);
    assert!(!unknown.run_until_done(secs(20)));
    let declined = unknown.client().told(|event| *event == Event::Declined(Decline::Unauthorised));
    assert_eq!(declined, 1, "{}", unknown.story());
    assert_eq!(unknown.peer(unknown.host).sessions.len(), 0);
}

#[test]
fn a_client_that_roams_to_another_network_address_goes_on() {
    for seed in 0..seeds(SEEDS) {
        let mut scene = Scene::new(seed, apart(linux(), linux()), usual());
        connect(&mut scene, secs(20));
        let client = scene.clients[0];
        scene.world.set_addresses(client, &["192.168.1.77".parse().expect("an address")]);
        scene.with_peer(client, |peer, io| peer.tell(io, Input::NetworkChanged));
        goes_on(&mut scene, secs(60));
    }
}

#[test]
fn a_network_that_is_gone_for_a_minute_costs_no_byte() {
    for seed in 0..seeds(SEEDS) {
        let mut scene = Scene::new(seed, apart(linux(), Behaviour::sequential(1)), usual());
        connect(&mut scene, secs(20));
        let client = scene.clients[0];
        scene.world.cut(client, true);
        assert!(!scene.exchange_more(secs(60)));
        scene.world.cut(client, false);
        assert!(scene.run_until_done(secs(120)), "{}", scene.story());
    }
}

#[test]
fn a_session_that_was_idle_for_hours_answers_at_once() {
    for (client, host) in [(linux(), linux()), (Behaviour::constant_offset(), Behaviour::sequential(1))] {
        // Nothing is lost, so that no link is replaced for looking sick.
        let mut scene = Scene::new(1, apart(client, host), Conditions { loss: 0.0, ..usual() });
        connect(&mut scene, secs(20));
        scene.world.run_for(secs(4 * 3600));
        let links = scene.client().session().expect("connected").links;
        goes_on(&mut scene, secs(2));
        assert_eq!(links, 1, "{}", scene.story());
    }
}

#[test]
fn one_packet_in_ten_may_be_lost() {
    for seed in 0..4 * seeds(SEEDS) {
        let bad = Conditions { loss: 0.1, ..usual() };
        let mut scene = Scene::new(seed, apart(linux(), Behaviour::sequential(1)), bad);
        connect(&mut scene, secs(60));
    }
}

#[test]
fn who_stops_ends_the_session_on_the_other_side_too() {
    for seed in 0..seeds(SEEDS) {
        let mut scene = Scene::new(seed, apart(linux(), linux()), usual());
        connect(&mut scene, secs(20));
        let (client, host) = (scene.clients[0], scene.host);
        let (stops, other) = if seed % 2 == 0 { (client, host) } else { (host, client) };
        scene.with_peer(stops, |peer, io| peer.tell(io, Input::Stop));
        scene.world.run_for(secs(2));
        assert_eq!(scene.peer(other).sessions.len(), 0, "{}", scene.story());
    }
}
