//! An authorised peer that lies: about where it is, and about numbers and times.

use super::*;

// A peer that lies about where it is.

#[test]
fn a_prediction_that_names_a_stranger_costs_it_sixty_four_syns_a_round_and_sixteen_rounds_a_minute() {
    let mut world = settled();
    for attempt in 100..140 {
        world.lie(attempt, &random_at(victim().ip()));
    }
    let (all, burst) = world.opened_to(victim().ip(), SECOND);
    let (_, in_a_minute) = world.opened_to(victim().ip(), 60 * SECOND);
    assert!(all > 8 * 64 && burst <= 64 && in_a_minute <= 16 * 64, "{all} {burst} {in_a_minute}");
    world.next_run_gets_in();
}

#[test]
fn only_a_peer_and_a_server_that_lie_together_use_up_the_ration_and_then_it_is_over() {
    let mut world = World::new(20);
    world.host();
    world.client(Some(key(1).public()), None);
    assert!(world.run(10 * SECOND, |w| w.endpoints[HOST].as_ref().is_some_and(|h| !h.peers.is_empty())));
    let (now, server) = (world.now, SERVER.parse::<SocketAddr>().expect("address").ip());
    world.line(HOST).introduced(now, &[victim()], server);
    assert!(world.run(10 * SECOND, |w| w.both_linked(1)), "a wrong address costs nothing\n{}", world.story());
    let mut full = 0;
    for attempt in 100..115 {
        let before = world.opened_to(victim().ip(), SECOND).0;
        world.lie(attempt, &random_at(victim().ip()));
        let openings = world.opened_to(victim().ip(), SECOND).0 - before;
        assert!(openings <= 1024);
        full += usize::from(openings > 64);
    }
    assert_eq!(full, 4, "one attempt");
    world.next_run_gets_in();
}

#[test]
fn a_stranger_that_answers_with_resets_gets_no_more_syns_for_it() {
    let openings: Vec<_> = (2000..3000)
        .map(|port| SocketAddr::new(victim().ip(), port))
        .map(|remote| Opening { local: 0, remote, after: Duration::ZERO, ttl: None })
        .collect();
    let plan = Plan { openings, listen: vec![0], redials: 30, verdict: Verdict::Try };
    let (mut round, mut out, at) = (Openings::new(PortsId(1)), Outbox::new(), crate::testing::start());
    round.open(at, plan, Effort { full: Vec::new(), others: 64 }, &mut out);
    let mut syns = 0;
    for _ in 0..100 {
        let dialled: Vec<u32> = out
            .drain(..)
            .filter_map(|output| match output {
                Output::Connect { opening, .. } => Some(opening),
                _ => None,
            })
            .collect();
        syns += dialled.len();
        dialled.into_iter().for_each(|opening| round.failed(at, opening, &OpenFailure::Refused, &mut out));
    }
    assert_eq!(syns, 64);
}

#[test]
fn the_source_of_an_authentic_datagram_proves_nothing_and_is_sent_little() {
    let mut world = settled();
    world.forged = Some(victim());
    for _ in 0..1000 {
        let now = world.now;
        world.line(CLIENT).ping(now);
        world.drain(CLIENT);
        world.run(20 * MS, |_| false);
    }
    let (now, sent) = (world.now, world.sent.get(&victim()).copied().unwrap_or(0));
    assert!(world.line(HOST).proved.addresses(now).all(|address| address == world::address(CLIENT)));
    assert!((1..=3 * 64).contains(&sent), "{sent} datagrams in twenty seconds");
    world.forged = None;
    world.goes_on();
}

#[test]
fn a_datagram_full_of_pings_has_one_answer() {
    let mut world = settled();
    let before = world.sent.clone();
    let now = world.now;
    (0..8).for_each(|_| world.line(CLIENT).ping(now));
    world.drain(CLIENT);
    world.run(100 * MS, |_| false);
    let at = world.at[CLIENT];
    assert_eq!(world.sent[&at] - before[&at], 1);
}

#[test]
fn a_shared_address_that_the_server_has_not_seen_opens_no_door_in_the_lan() {
    let mut world = settled();
    let lan: Vec<SocketAddr> = (1..9).map(|last| SocketAddr::from(([192, 168, 1, last], 631))).collect();
    for attempt in 100..110 {
        world.predict(attempt, &random_at(world::address(HOST)), &lan);
    }
    assert!(!world.opened.iter().any(|(_, remote, _)| lan.contains(remote)), "{}", world.story());
    world.next_run_gets_in();
}

#[test]
fn lan_addresses_are_few_and_private_ones_whoever_lies() {
    let mut world = World::new(20);
    world.host();
    world.client(Some(key(1).public()), None);
    assert!(world.run(10 * SECOND, |w| w.endpoints[HOST].as_ref().is_some_and(|h| !h.peers.is_empty())));
    let (now, server) = (world.now, SERVER.parse::<SocketAddr>().expect("address").ip());
    let here = world::address(HOST);
    world.line(HOST).introduced(now, &[SocketAddr::new(here, 5000)], server);
    assert!(world.run(10 * SECOND, |w| w.both_linked(1)), "{}", world.story());
    let named =
        ["127.0.0.1:22", "169.254.169.254:80", "192.168.1.255:9", "8.8.8.8:53", "224.0.0.1:9", "[::1]:22"];
    let mut lan: Vec<SocketAddr> = named.iter().map(|a| a.parse().expect("address")).collect();
    lan.push(([10, 0, 0, 7], 22).into());
    for attempt in 100..140 {
        world.predict(attempt, &random_at(here), &lan);
    }
    let (tried, most) = world.opened_to([10, 0, 0, 7].into(), 60 * SECOND);
    assert!(tried > 0 && most <= 8, "{tried} {most}");
    for never in [0, 1, 3, 4, 5] {
        assert_eq!(world.opened_to(lan[never].ip(), SECOND).0, 0, "{}", lan[never]);
    }
    // Hundreds of them are no prediction at all.
    let many: Vec<SocketAddr> = (0..=255).map(|last| SocketAddr::from(([10, 1, 0, last], 22))).collect();
    world.run(60 * SECOND, |_| false);
    for attempt in 200..204 {
        for some in many.chunks(60) {
            world.predict(attempt, &random_at(here), some);
        }
    }
    assert!(!world.opened.iter().any(|(_, remote, _)| many.contains(remote)));
    world.next_run_gets_in();
}

// A peer that lies about numbers and times.

#[test]
fn a_flood_of_starts_and_instants_far_away_open_nothing() {
    let mut world = settled();
    world.predict(100, &random_at(victim().ip()), &[]);
    let before = world.opened.len();
    let mut attempt = 100;
    for digest in [0, 1, u64::MAX] {
        for sample in [0, 1, 2, 3, 1000, u32::MAX] {
            for after_us in [0, 60_000_000, 61_000_001, u64::MAX] {
                for _ in 0..8 {
                    world.say(CLIENT, start(attempt, digest, (sample, after_us)));
                    attempt += 1;
                }
                world.run(20 * MS, |_| false);
            }
        }
    }
    assert_eq!(world.opened.len(), before);
    // The right digest, and an instant that no clock of ours has.
    let mine =
        world.endpoint(HOST).peers.values().next().and_then(|p| p.round.as_ref()?.mine()?.to_vec().into());
    let mine: Vec<Prediction> = mine.expect("prepared");
    let digest = nat::digest(&random_at(victim().ip()), &mine);
    for (sample, after_us) in [(u32::MAX, 0), (1, u64::MAX), (1, 59_000_000)] {
        world.say(CLIENT, start(100, digest, (sample, after_us)));
        world.run(100 * MS, |_| false);
    }
    assert_eq!(world.opened.len(), before);
    world.run(20 * SECOND, |_| false);
    world.next_run_gets_in();
}

#[test]
fn numbers_at_their_ends_harm_only_the_session_that_named_them() {
    let mut world = settled();
    for attempt in [u32::MAX - 1, u32::MAX, 0] {
        for round in [0, 255] {
            let id = RoundId { attempt, round };
            world.say(CLIENT, PeerMessage::Prepare { id });
            world.run(500 * MS, |_| false);
            world.say(CLIENT, PeerMessage::Refreshed { id, next: vec![0; 300] });
            world.say(CLIENT, PeerMessage::NotStarted { id, why: wire::peer::StartRefusal::Busy });
        }
    }
    for epoch in [0, 7, u32::MAX] {
        world.say(CLIENT, PeerMessage::LinkSick { epoch });
        world.say(CLIENT, PeerMessage::LinkDead { epoch });
        world.say(CLIENT, PeerMessage::Started { id: id(epoch) });
    }
    world.run(30 * SECOND, |_| false);
    world.next_run_gets_in();
}

#[test]
fn thousands_of_link_handshakes_take_sixty_four_places() {
    let mut world = World::new(20);
    world.tcp = false;
    world.host();
    world.client(Some(key(1).public()), None);
    assert!(world.run(10 * SECOND, |w| w.heard(HOST, |e| matches!(e, Event::Opening { .. }))));
    let ports = world.endpoint(HOST).peers.values().next().and_then(|p| Some(p.round.as_ref()?.ports));
    let ports = ports.expect("a round");
    let conn = |number: u64| ConnId(1 << 32 | number);
    for number in 0..5000 {
        let remote = SocketAddr::new(world::address(CLIENT), 1024 + number as u16);
        world.tell(HOST, Input::Accepted { ports, remote, conn: conn(number) });
    }
    let held = |world: &mut World| {
        let peer = world.endpoint(HOST).peers.values().next().expect("a session");
        (0..5000).filter(|number| peer.holds(conn(*number))).count()
    };
    assert_eq!(held(&mut world), 64);
    for number in 0..5000 {
        world.tell(HOST, Input::Received { conn: conn(number), bytes: vec![7; 2000] });
    }
    assert_eq!(held(&mut world), 0, "what is no handshake ends its connection");
    world.tcp = true;
    assert!(world.run(60 * SECOND, |w| w.both_linked(1)), "{}", world.story());
}
