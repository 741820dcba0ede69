//! How an association is made, lost, moved and renewed.

use super::*;

#[test]
fn a_server_that_was_restarted_is_noticed_and_told_everything_again() {
    let mut world = World::new(18);
    let (host, client, _) = acquainted(&mut world);
    world.restart_server();
    let took = world.run_until(60 * SECOND, |w| lost(w, host) == 1 && lost(w, client) == 1);
    assert!(took < 25 * SECOND, "at the next keep-alive: {took:?}");
    world.send(host, register("box"));
    world.send(client, introduce(1, "box"));
    world.run_until(SECOND, |w| w.inbox(host).iter().filter(|m| **m == FromServer::Registered).count() == 2);
    world.run_for(SECOND);
    let reached = |e: &&ClientEvent| matches!(e, ClientEvent::Reached { first_contact: false, .. });
    assert_eq!(world.events(host).iter().filter(reached).count(), 1, "the key was pinned by the first");
    assert_eq!(world.stored["box"].0, key(1).public());
    assert_ne!(last_introduction(&world, host), None);
}

#[test]
fn what_was_not_acknowledged_goes_into_the_next_association() {
    let mut world = World::new(19);
    let host = world.join(1);
    world.run_for(SECOND);
    world.restart_server();
    world.send(host, register("box"));
    let took = world.run_until_heard(host, |m| *m == FromServer::Registered);
    assert_eq!(took, 150 * MS, "REFUSE, HELLO, COOKIE, INIT, REPLY");
    assert_eq!(lost(&world, host), 1);
}

#[test]
fn a_server_that_dies_is_lost_after_three_pings_and_found_when_it_returns() {
    let mut world = World::new(20);
    let host = world.join(1);
    world.run_for(SECOND);
    world.server_up = false;
    let took = world.run_until(60 * SECOND, |w| lost(w, host) == 1);
    assert!((28..=31).contains(&took.as_secs()), "20 s to the ping, 10 s for three of them: {took:?}");
    world.run_for(200 * SECOND);
    let silent: Vec<_> = world
        .events(host)
        .iter()
        .filter_map(|e| if let ClientEvent::Silent { since } = e { Some(since.as_secs()) } else { None })
        .collect();
    assert_eq!(silent, [10, 30, 70, 150], "seldomer each time");
    world.restart_server();
    world.server_up = true;
    world.run_until(11 * SECOND, |w| w.parties[host].client.path().is_some());
}

#[test]
fn a_server_that_never_answers_is_said_to_be_silent() {
    let mut world = World::new(21);
    world.server_up = false;
    let client = world.join(1);
    let took = world.run_until(60 * SECOND, |w| !w.events(client).is_empty());
    assert_eq!(world.events(client), [ClientEvent::Silent { since: took }]);
    assert_eq!(took, 10 * SECOND);
}

#[test]
fn where_udp_is_blocked_tcp_is_used() {
    let mut world = World::new(22);
    let host = world.join(1);
    world.parties[host].udp_blocked = true;
    world.send(host, register("box"));
    let took = world.run_until_heard(host, |m| *m == FromServer::Registered);
    assert_eq!(took, 600 * MS, "500 ms for UDP, then two round trips");
    assert!(matches!(world.parties[host].client.path(), Some(Path::Tcp(_))));
    let client = world.join(2);
    world.send(client, introduce(1, "box"));
    accept(&mut world, host);
    world.run_for(SECOND);
    let ports: Vec<u16> = addresses_of(&world, client).iter().map(std::net::SocketAddr::port).collect();
    assert_eq!(ports, [0], "a TCP source is an address, and no UDP mapping");
    // UDP is possible some time later.
    world.parties[host].udp_blocked = false;
    world.run_for(700 * SECOND);
    assert!(matches!(world.parties[host].client.path(), Some(Path::Udp(_))));
    assert_eq!(lost(&world, host), 0);
    assert!(world.events(host).iter().any(|e| matches!(e, ClientEvent::Moved { udp: true, .. })));
}

#[test]
fn where_only_long_datagrams_are_lost_over_udp_tcp_is_used() {
    let mut world = World::new(23);
    let host = world.join(1);
    world.send(host, register("box"));
    world.run_for(40 * MS);
    // HELLO has left; everything after it is lost.
    world.parties[host].udp_blocked = true;
    let took = world.run_until(10 * SECOND, |w| matches!(w.parties[host].client.path(), Some(Path::Tcp(_))));
    assert!(took <= 700 * MS, "{took:?}: half a second, and two round trips");
}

#[test]
fn a_flooded_server_that_loses_half_of_what_it_is_sent_is_reached_within_a_second() {
    let mut reached: Vec<Duration> = (0..500)
        .map(|seed| {
            let weather = Weather { delay: 5 * MS, flooded: 50, ..Weather::default() };
            let mut world = World::with(seed, Limits::default(), weather);
            let host = world.join(1);
            world.send(host, register("box"));
            world.run_until_heard(host, |m| *m == FromServer::Registered)
        })
        .collect();
    reached.sort_unstable();
    println!("median {:?}, worst {:?}", reached[250], reached[499]);
    assert!(reached[499] <= SECOND, "{reached:?}");
}

#[test]
fn the_round_trip_is_known_although_hellos_and_an_init_were_lost() {
    let mut world = World::new(31);
    let host = world.join(1);
    for (blocked, time) in [(true, 250), (false, 60), (true, 60)] {
        world.parties[host].udp_blocked = blocked;
        world.run_for(time * MS);
    }
    world.parties[host].udp_blocked = false;
    let took = world.run_until(SECOND, |w| w.parties[host].client.path().is_some());
    assert!(took > 50 * MS, "INIT was not repeated");
    assert_eq!(world.parties[host].client.round_trip(), Some(50 * MS));
}

#[test]
fn a_client_whose_address_changed_is_followed_once_it_has_proved_it() {
    let mut world = World::new(24);
    let (host, client, relation) = acquainted(&mut world);
    let elsewhere: SocketAddr = "203.0.113.9:4444".parse().expect("an address");
    world.parties[client].udp = elsewhere;
    let now = world.now;
    world.parties[client].client.handle_network_change(now);
    world.run_for(200 * MS);
    assert!(world.events(client).contains(&ClientEvent::Moved { observed: elsewhere, udp: true }));
    assert_eq!(world.parties[client].client.observed(), Some(elsewhere));
    world.send(host, relay(relation, b"are you there?"));
    world.run_until_heard(client, |m| matches!(m, FromServer::Relay { .. }));
    assert_eq!(lost(&world, client), 0);
}

#[test]
fn a_request_from_a_new_address_is_answered_within_a_second() {
    let mut world = World::new(25);
    let (_, client, _) = acquainted(&mut world);
    world.run_for(5 * SECOND);
    world.parties[client].udp = "203.0.113.9:4444".parse().expect("an address");
    world.send(client, find(9, "box"));
    let took = world.run_until_heard(client, |m| matches!(m, FromServer::Found { request: 9, .. }));
    assert!(took < SECOND, "half a second of patience, Ping and Pong twice: {took:?}");
}

#[test]
fn another_key_than_the_pinned_one_is_reported_and_nothing_is_said_to_it() {
    let mut world = World::new(26);
    let client = world.join_as(2, [2; 16], false, Some(key(99).public()));
    world.send(client, introduce(1, "box"));
    world.run_for(5 * SECOND);
    assert_eq!(world.events(client), [ClientEvent::KeyChanged { found: key(200).public() }]);
    assert_eq!(world.server.stats().associations, 0);
}

#[test]
fn keys_are_fresh_each_hour_and_nothing_is_noticed_of_it() {
    let mut world = World::new(27);
    let (host, client, relation) = acquainted(&mut world);
    let before = world.parties[host].client.local_index();
    for _ in 0..80 {
        world.run_for(60 * SECOND);
        world.send(host, relay(relation, b"still"));
        world.send(client, relay(1, b"here"));
    }
    world.run_for(SECOND);
    assert_ne!(world.parties[host].client.local_index(), before);
    assert_eq!((lost(&world, host), lost(&world, client)), (0, 0));
    let relayed =
        |party: usize| world.inbox(party).iter().filter(|m| matches!(m, FromServer::Relay { .. })).count();
    assert!(relayed(host) >= 79 && relayed(client) >= 79, "{} {}", relayed(host), relayed(client));
    assert_eq!(world.server.stats().associations, 2);
    let others = world.events(host).iter().filter(|event| **event != ClientEvent::Renewed).count();
    assert_eq!(others, 1, "{:?}", world.events(host));
}

#[test]
fn loss_doubling_and_reordering_only_cost_time() {
    for seed in 0..40 {
        let weather = Weather { delay: 30 * MS, jitter: 40 * MS, loss: 25, doubled: 20, flooded: 0 };
        let mut world = World::with(seed, Limits::default(), weather);
        let (host, client, relation) = acquainted(&mut world);
        for round in 0..20u32 {
            world.send(client, find(100 + round, "box"));
            world.run_for(SECOND);
        }
        world.run_for(20 * SECOND);
        let found: Vec<u32> = world
            .inbox(client)
            .iter()
            .filter_map(|m| if let FromServer::Found { request, .. } = m { Some(*request) } else { None })
            .collect();
        assert_eq!(found, (100..120).collect::<Vec<_>>(), "seed {seed}: once each, and in order");
        assert_eq!(last_introduction(&world, host), Some(relation), "seed {seed}");
        assert_eq!(world.server.stats().associations, 2);
    }
}

#[test]
fn an_office_that_comes_back_at_once_is_served() {
    let mut world = World::new(28);
    let hosts: Vec<_> = (0..60).map(|_| world.join(1)).collect();
    for (n, host) in hosts.iter().enumerate() {
        let shared = SocketAddr::new("192.0.2.1".parse().expect("an address"), 5000 + n as u16);
        world.parties[*host].udp = shared;
    }
    world.run_for(3 * SECOND);
    assert!(hosts.iter().all(|host| world.parties[*host].client.path().is_some()));
}
