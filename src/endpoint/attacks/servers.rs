//! A server that lies, invents, and repeats what others said.

use super::*;

#[test]
fn a_server_that_names_another_key_is_found_out_by_the_invite() {
    let mut world = World::new(20);
    let psk = Psk([7; 32].into());
    world.verdict = Ok(psk.clone());
    world.host();
    world.client(None, Some((5, psk)));
    world.run(MS, |_| false);
    let false_key = key(66).public();
    world.server_says(CLIENT, FromServer::Found { request: 1, key: false_key.0 });
    let refused = |e: &Event| matches!(e, Event::Declined(Decline::Handshake) | Event::NotProved);
    assert!(world.run(20 * SECOND, |w| w.heard(CLIENT, refused)), "{}", world.story());
    // The host's user learns that somebody was sent to it with another key.
    let told = |e: &Event| matches!(e, Event::Refused { key: None, why: Decline::Handshake, others: 0 });
    assert!(world.heard(HOST, told), "{}", world.story());
    assert!(world.sessions.is_empty() && world.links.is_empty());
}

#[test]
fn addresses_that_the_server_swaps_cost_nothing() {
    let mut world = World::new(20);
    world.host();
    world.client(Some(key(1).public()), None);
    assert!(world.run(10 * SECOND, |w| w.endpoints[HOST].as_ref().is_some_and(|h| !h.peers.is_empty())));
    let (now, server) = (world.now, SERVER.parse::<SocketAddr>().expect("address").ip());
    let swapped = [victim(), world.at[HOST]];
    world.line(HOST).introduced(now, &swapped, server);
    assert!(world.run(10 * SECOND, |w| w.both_linked(1)), "{}", world.story());
    world.run(60 * SECOND, |_| false);
    assert_eq!(world.opened_to(victim().ip(), SECOND).0, 0);
    assert!(world.sent.get(&victim()).is_none_or(|sent| *sent < 64), "{:?}", world.sent);
    assert!(world.line(HOST).direct().is_some(), "found by the peer's own datagrams");
}

#[test]
fn observations_that_the_server_invents_cost_failed_rounds_that_are_told() {
    let mut world = World::new(20);
    world.observed[CLIENT] = Some(victim().ip());
    world.host();
    world.client(Some(key(1).public()), None);
    world.run(60 * SECOND, |_| false);
    let failed = |e: &Event| matches!(e, Event::RoundFailed { why, .. } if why.starts_with("none of 2 SYNs was answered"));
    for who in [HOST, CLIENT] {
        assert!(world.heard(who, failed), "{}", world.story());
    }
    let (_, most) = world.opened_to(victim().ip(), 60 * SECOND);
    assert!(most <= 16 * 64, "{most}");
    // An honest server again: it connects.
    world.observed = [None, None];
    assert!(world.run(90 * SECOND, |w| w.both_linked(1)), "{}", world.story());
}

#[test]
fn what_the_server_says_of_the_others_absence_ends_nothing() {
    let mut world = settled();
    let relation = world.line(HOST).relation.expect("a relation").number;
    let request = world.line(CLIENT).relation.expect("a relation").number;
    world.server_says(HOST, FromServer::Gone { relation });
    for lie in [
        FromServer::Gone { relation: request },
        FromServer::Absent { request, last_seen: Some(u64::MAX) },
        FromServer::Declined { request, why: Decline::Unauthorised },
        FromServer::NotKept { request, why: wire::server::RequestRefusal::Full },
        FromServer::Introduced { relation: request, addresses: vec![victim()], reply: vec![7; 99].into() },
        FromServer::Found { request, key: [7; 32] },
    ] {
        world.server_says(CLIENT, lie);
    }
    world.run(60 * SECOND, |_| false);
    assert_eq!(world.links.len(), 2, "the link does not notice\n{}", world.story());
    let fatal = |e: &Event| matches!(e, Event::Declined(_) | Event::NotKept(_) | Event::NotProved);
    assert!(!world.heard(CLIENT, fatal), "{}", world.story());
    world.goes_on();
}

/// What the server passes on to the host for a client of that key.
fn introduction(client: u8, session: u8) -> FromServer {
    let payload = PeerHello { index: 7, session: [session; 16], invite: None, prepare: Some(id(1)) };
    let mut initiator =
        Initiator::new([client; 32], &key(client), &key(1).public(), Purpose::Peer, b"", &Psk::none());
    let hello = initiator.write(&wire::encode(&payload)).into();
    FromServer::Introduction { relation: u32::MAX - u32::from(session), hello }
}

#[test]
fn old_introductions_that_the_server_repeats_take_few_places_and_nobody_elses() {
    let mut world = World::new(20);
    world.host();
    assert!(world.run(5 * SECOND, |w| w.heard(HOST, |e| *e == Event::Registered)));
    for _ in 0..20 {
        for session in 0..50 {
            world.server_says(HOST, introduction(3, session));
        }
    }
    assert_eq!(world.endpoint(HOST).peers.len(), 4);
    assert!(world.bound.len() <= 4, "{:?}", world.bound);
    assert!(world.sessions.is_empty(), "nobody has proved anything");
    // Another client comes in meanwhile.
    world.client(Some(key(1).public()), None);
    assert!(world.run(10 * SECOND, |w| w.both_linked(1)), "{}", world.story());
    world.run(20 * SECOND, |_| false);
    assert_eq!(world.endpoint(HOST).peers.len(), 1, "what is not proved is forgotten");
}

#[test]
fn old_introductions_end_no_session_that_waits_for_its_network() {
    let mut world = settled();
    (world.direct_udp, world.server_up) = (false, false);
    world.drop_links(&[HOST, CLIENT]);
    for session in 100..140 {
        world.server_says(HOST, introduction(2, session));
        world.run(100 * MS, |_| false);
    }
    (world.direct_udp, world.server_up) = (true, true);
    assert!(world.run(120 * SECOND, |w| w.both_linked(2)), "{}", world.story());
    let ended = |(_, output): &(usize, Output)| matches!(output, Output::SessionEnded { .. });
    assert!(!world.sessions.iter().any(ended), "{:?}", world.sessions);
}
