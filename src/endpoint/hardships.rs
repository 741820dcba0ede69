//! Loss, long absence, and peers and servers that mean harm.

use std::time::Duration;

use super::{world::*, *};
use crate::{
    nat::{Mapping, Model, Prediction},
    punch::schedule,
    rendezvous::{Limits, Server},
    wire::{
        peer::{PeerMessage, RoundId},
        server::FromServer,
    },
};

const SECOND: Duration = Duration::from_secs(1);

fn is_hole(event: &Event) -> bool {
    matches!(event, Event::HoleOpen { .. })
}

#[test]
fn the_second_round_of_an_attempt_is_opened_by_both_sides() {
    let mut world = World::new(20);
    world.tcp = false;
    world.host();
    world.client(Some(key(1).public()), None);
    let second = |e: &Event| matches!(e, Event::Opening { id: RoundId { attempt: 1, round: 1 }, .. });
    assert!(
        world.run(15 * SECOND, |w| w.heard(HOST, second) && w.heard(CLIENT, second)),
        "{}",
        world.story()
    );
    world.tcp = true;
    assert!(world.run(15 * SECOND, |w| w.both_linked(1)), "{}", world.story());
}

#[test]
fn an_attempt_has_as_many_rounds_as_there_are_plans() {
    let mut world = World::new(20);
    world.tcp = false;
    world.host();
    world.client(Some(key(1).public()), None);
    world.run(300 * SECOND, |_| false);
    let rounds = world.events.iter().filter_map(|(_, _, e)| match e {
        Event::Opening { id, .. } => Some(id.round),
        _ => None,
    });
    assert!(rounds.max().is_some_and(|round| round > 1 && round < schedule::ROUNDS), "{}", world.story());
    world.tcp = true;
    assert!(world.run(90 * SECOND, |w| w.both_linked(1)), "{}", world.story());
}

#[test]
fn the_hole_is_told_of_once_and_again_when_it_is_elsewhere() {
    let mut world = connected(20);
    world.run(60 * SECOND, |_| false);
    assert_eq!((world.count(HOST, is_hole), world.count(CLIENT, is_hole)), (1, 1), "{}", world.story());
    world.at[CLIENT].set_port(6000);
    world.tell(CLIENT, Input::NetworkChanged);
    world.run(60 * SECOND, |_| false);
    assert_eq!((world.count(HOST, is_hole), world.count(CLIENT, is_hole)), (2, 1), "{}", world.story());
    world.drop_links(&[CLIENT]);
    assert!(world.run(10 * SECOND, |w| w.both_linked(2)), "{}", world.story());
}

#[test]
fn a_hole_that_is_slower_than_the_server_is_found_all_the_same() {
    let mut world = World::new(20);
    world.direct_delay = 100 * Duration::from_millis(1);
    world.host();
    world.client(Some(key(1).public()), None);
    let found = |w: &World| w.heard(CLIENT, is_hole) && w.heard(HOST, is_hole);
    assert!(world.run(10 * SECOND, found), "{}", world.story());
}

#[test]
fn a_peer_is_found_where_its_datagrams_come_from_though_the_server_saw_it_elsewhere() {
    let mut world = World::new(20);
    world.host();
    world.client(Some(key(1).public()), None);
    assert!(world.run(10 * SECOND, |w| w.heard(CLIENT, |e| matches!(e, Event::Introduced { .. }))));
    // The client's NAT gives it another port towards the host.
    world.at[CLIENT].set_port(6000);
    let found = |w: &World| w.heard(CLIENT, is_hole) && w.heard(HOST, is_hole);
    assert!(world.run(10 * SECOND, found), "{}", world.story());
}

#[test]
fn any_datagram_between_the_peers_may_be_lost() {
    for lost in 1..40 {
        let mut world = World::new(20);
        // With a server that relays nothing but introductions, because all goes directly too.
        world.lost = Box::new(move |number| number == lost || number == lost + 1);
        world.host();
        world.client(Some(key(1).public()), None);
        assert!(world.run(20 * SECOND, |w| w.both_linked(1)), "{lost}\n{}", world.story());
        world.drop_links(&[HOST, CLIENT]);
        assert!(world.run(20 * SECOND, |w| w.both_linked(2)), "{lost}\n{}", world.story());
    }
}

#[test]
fn both_sides_may_lose_the_link_at_once() {
    let mut world = connected(20);
    for links in 2..6 {
        world.drop_links(&[HOST, CLIENT]);
        assert!(world.run(10 * SECOND, |w| w.both_linked(links)), "{}", world.story());
        let epochs: Vec<_> = world.links.iter().rev().take(2).map(|l| l.2.epoch).collect();
        assert_eq!(epochs[0], epochs[1]);
    }
}

#[test]
fn a_client_that_was_killed_costs_its_host_no_ports_after_two_minutes() {
    let mut world = connected(20);
    world.run(5 * SECOND, |_| false);
    world.kill(CLIENT);
    world.drop_links(&[HOST]);
    world.run(100 * SECOND, |_| false);
    let held = |world: &World| world.bound.iter().filter(|(who, _)| *who == HOST).count();
    assert_eq!(held(&world), 1, "what the link came of is kept for a while");
    world.run(30 * SECOND, |_| false);
    assert_eq!(held(&world), 0);
}

#[test]
fn a_sick_link_is_replaced_while_it_lives_and_not_again_at_once() {
    for side in [CLIENT, HOST] {
        let mut world = connected(20);
        world.run(5 * SECOND, |_| false);
        for (pause, links) in [(0, 2), (20, 2), (20, 3)] {
            world.run(pause * SECOND, |_| false);
            let epoch = world.links.last().expect("linked").2.epoch;
            let peer = world.peer(side);
            world.tell(side, Input::LinkSick { peer, epoch });
            world.run(5 * SECOND, |_| false);
            assert_eq!(world.links.len(), 2 * links, "{}", world.story());
        }
        assert!(!world.heard(CLIENT, |e| matches!(e, Event::RoundFailed { .. })), "{}", world.story());
    }
}

#[test]
fn a_sick_link_without_a_successor_goes_on_undisturbed() {
    let mut world = connected(20);
    world.run(5 * SECOND, |_| false);
    (world.direct_udp, world.server_up) = (false, false);
    let epoch = world.links.last().expect("linked").2.epoch;
    let peer = world.peer(CLIENT);
    world.tell(CLIENT, Input::LinkSick { peer, epoch });
    world.run(60 * SECOND, |_| false);
    assert_eq!(world.links.len(), 2, "{}", world.story());
    assert!(!world.heard(CLIENT, |e| matches!(e, Event::RoundFailed { .. })), "{}", world.story());
    // The first attempt after the link's own death follows at once.
    (world.direct_udp, world.server_up) = (true, true);
    world.run(60 * SECOND, |_| false);
    world.drop_links(&[CLIENT]);
    assert!(world.run(SECOND, |w| w.both_linked(2)), "{}", world.story());
}

#[test]
fn a_peer_that_was_away_for_hours_is_reached_again() {
    // Without the server only as long as the host keeps the ports of the last link.
    for (server_up, away) in [(true, 3 * 3600 * SECOND), (false, 100 * SECOND)] {
        let mut world = connected(20);
        world.run(5 * SECOND, |_| false);
        (world.direct_udp, world.server_up) = (false, false);
        world.drop_links(&[CLIENT]);
        let before = world.next;
        world.run(away, |_| false);
        assert!(world.next - before < 40_000, "it is quiet meanwhile: {}", world.next - before);
        (world.direct_udp, world.server_up) = (true, server_up);
        world.events.clear();
        assert!(world.run(120 * SECOND, |w| w.both_linked(2)), "{}", world.story());
        let prepared = world.count(HOST, |e| matches!(e, Event::NatFound { .. }));
        assert!(prepared < 8, "of all that was asked for only the last is prepared: {prepared}");
    }
}

#[test]
fn a_flood_of_requests_to_prepare_binds_few_ports() {
    let mut world = connected(20);
    world.run(5 * SECOND, |_| false);
    for attempt in 100..1100 {
        world.say(CLIENT, PeerMessage::Prepare { id: RoundId { attempt, round: 0 } });
        world.run(10 * Duration::from_millis(1), |_| false);
    }
    let probed = world.count(HOST, |e| matches!(e, Event::NatFound { .. }));
    assert!(probed < 16, "{probed} rounds in ten seconds");
    // What was asked for before costs nothing, however often it is asked for.
    for _ in 0..1000 {
        world.say(CLIENT, PeerMessage::Prepare { id: RoundId { attempt: 100, round: 0 } });
        world.run(Duration::from_millis(1), |_| false);
    }
    let host = world.endpoints[HOST].as_ref().expect("running");
    assert!(host.peers.values().all(|peer| peer.prepared.len() <= 8));
}

#[test]
fn predictions_without_measure_are_not_planned_with() {
    let mut world = connected(20);
    world.run(5 * SECOND, |_| false);
    let id = RoundId { attempt: 100, round: 0 };
    world.say(CLIENT, PeerMessage::Prepare { id });
    let wide = Prediction::new(address(CLIENT), Model::Random, Mapping::EndpointIndependent, 50);
    world.say(
        CLIENT,
        PeerMessage::Predicted { id, predictions: vec![wide; 9], lan: Vec::new(), age_ms: 0, budget: 1024 },
    );
    world.run(SECOND, |_| false);
    let host = world.endpoints[HOST].as_ref().expect("running");
    let round = host.peers.values().next().and_then(|p| p.round.as_ref()).expect("prepared");
    assert!(round.theirs().is_none());
}

#[test]
fn a_link_that_is_dead_before_its_nomination_arrives_is_not_taken() {
    let mut world = connected(20);
    let epoch = world.links.last().expect("linked").2.epoch;
    world.say(CLIENT, PeerMessage::LinkDead { epoch: epoch + 1 });
    world.run(SECOND, |_| false);
    let killed = |(who, output): &(usize, Output)| {
        *who == HOST && matches!(output, Output::KillLink { epoch: killed, .. } if *killed == epoch)
    };
    assert!(world.sessions.iter().any(killed));
}

#[test]
fn a_session_that_is_ending_waits_without_a_deadline_in_the_past() {
    let mut world = connected(20);
    world.run(5 * SECOND, |_| false);
    (world.direct_udp, world.server_up) = (false, false);
    world.drop_links(&[CLIENT]);
    world.run(60 * SECOND, |_| false);
    let peer = world.peer(CLIENT);
    world.tell(CLIENT, Input::End { peer, why: crate::wire::peer::Goodbye::Stopped });
    world.run(60 * SECOND, |_| false);
    assert!(world.bound.iter().all(|(who, _)| *who == HOST));
}

#[test]
fn an_hour_later_the_keys_are_new_and_the_link_stays() {
    let mut world = connected(20);
    world.run(3700 * SECOND, |_| false);
    assert_eq!(world.count(CLIENT, |e| matches!(e, Event::Introduced { .. })), 2, "{}", world.story());
    assert_eq!(world.links.len(), 2);
    world.drop_links(&[HOST]);
    assert!(world.run(10 * SECOND, |w| w.both_linked(2)), "{}", world.story());
}

#[test]
fn a_server_that_restarts_while_the_keys_are_renewed_knows_the_host_again() {
    let mut world = World::new(20);
    world.host();
    world.run(3599 * SECOND, |_| false);
    // The ping that would have found it out is lost; the new handshake is not.
    world.server_up = false;
    world.run(SECOND * 13 / 10, |_| false);
    world.server = Server::new(world.now, [8; 32], key(9), Limits::default(), []);
    world.server_up = true;
    world.run(10 * SECOND, |_| false);
    world.client(Some(key(1).public()), None);
    assert!(world.run(10 * SECOND, |w| w.both_linked(1)), "{}", world.story());
    let told = world.count(HOST, |e| *e == Event::Registered);
    assert_eq!(told, 1, "nobody need hear of it");
}

#[test]
fn a_client_that_waits_for_a_host_holds_no_ports() {
    let mut world = World::new(20);
    world.client(Some(key(1).public()), None);
    world.run(60 * SECOND, |_| false);
    assert!(world.bound.is_empty());
}

#[test]
fn a_server_that_was_away_for_hours_gets_one_request() {
    let mut world = World::new(20);
    world.server_up = false;
    world.host();
    world.client(Some(key(1).public()), None);
    world.run(3 * 3600 * SECOND, |_| false);
    world.server_up = true;
    assert!(world.run(30 * SECOND, |w| w.both_linked(1)), "{}", world.story());
}

#[test]
fn a_client_that_is_killed_again_and_again_is_let_in_each_time() {
    let mut world = connected(20);
    for seed in 100..140 {
        let (peer, epoch) = (world.peer(HOST), world.links.last().expect("linked").2.epoch);
        world.kill(CLIENT);
        world.tell(HOST, Input::LinkLost { peer, epoch });
        let links = world.links.len();
        world.client_of(seed);
        assert!(world.run(20 * SECOND, |w| w.links.len() >= links + 2), "{}", world.story());
    }
    let host = world.endpoints[HOST].as_ref().expect("running");
    assert!(host.peers.len() < 24, "{}", host.peers.len());
}

#[test]
fn strangers_at_a_listener_do_not_take_the_place_of_the_peer() {
    let mut world = World::new(20);
    world.host();
    world.client(Some(key(1).public()), None);
    assert!(world.run(10 * SECOND, |w| w.heard(HOST, |e| matches!(e, Event::NatFound { .. }))));
    let ports = world.bound.iter().find(|(who, _)| *who == HOST).expect("bound").1;
    for number in 0..200 {
        let (remote, conn) = (([192, 0, 2, 7], 9000 + number).into(), ConnId(1 << 32 | u64::from(number)));
        world.tell(HOST, Input::Accepted { ports, remote, conn });
    }
    assert!(world.run(10 * SECOND, |w| w.both_linked(1)), "{}", world.story());
    assert!(!world.heard(CLIENT, |e| matches!(e, Event::RoundFailed { .. })), "{}", world.story());
}

#[test]
fn the_server_says_once_where_the_peer_is_and_not_in_our_own_network() {
    let mut world = connected(20);
    world.run(5 * SECOND, |_| false);
    let (now, datagrams) = (world.now, world.datagrams);
    let host = world.endpoints[HOST].as_mut().expect("running");
    let line = &host.peers.values().next().expect("a session").line;
    let (relation, direct) = (line.relation.expect("a relation").number, line.direct());
    assert!(direct.is_some());
    for port in 1..1000 {
        let addresses = vec![SocketAddr::from(([192, 0, 2, 8], port)); 50];
        let again = FromServer::Introduced { relation, addresses, reply: Default::default() };
        host.server_message(now, 0, again);
    }
    world.drain(HOST);
    let line =
        &mut world.endpoints[HOST].as_mut().expect("running").peers.values_mut().next().expect("one").line;
    assert_eq!((line.direct(), world.datagrams), (direct, datagrams));
}

#[test]
fn a_line_goes_to_few_addresses_and_none_of_our_own_network() {
    let mut world = World::new(20);
    world.host();
    world.client(Some(key(1).public()), None);
    let accepted = |w: &World| w.endpoints[HOST].as_ref().is_some_and(|host| !host.peers.is_empty());
    assert!(world.run(10 * SECOND, accepted));
    let now = world.now;
    let line =
        &mut world.endpoints[HOST].as_mut().expect("running").peers.values_mut().next().expect("one").line;
    let addresses: Vec<SocketAddr> = ["127.0.0.1:9", "10.0.0.1:9", "192.0.2.8:0", "255.255.255.255:9"]
        .iter()
        .map(|a| a.parse().expect("address"))
        .chain((1..50).map(|port| SocketAddr::from(([192, 0, 2, 8], port))))
        .collect();
    let server = SERVER.parse::<SocketAddr>().expect("address").ip();
    line.introduced(now, &addresses, server);
    line.ping(now);
    let mut asked = std::collections::BTreeSet::new();
    while let Some(parcel) = line.poll_transmit(now) {
        asked.extend(parcel.direct);
    }
    // Two are taken from the server; one with port 0 speaks no UDP.
    let expected = [1].map(|port| SocketAddr::from(([192, 0, 2, 8], port)));
    assert_eq!(asked.into_iter().collect::<Vec<_>>(), expected);
}

#[test]
fn where_one_family_is_dead_the_other_one_is_used() {
    let mut world = World::new(20);
    world.other_family = Some("[2001:db8::1]:7862".parse().expect("address"));
    world.host();
    world.client(Some(key(1).public()), None);
    assert!(world.run(10 * SECOND, |w| w.both_linked(1)), "{}", world.story());
    world.drop_links(&[HOST]);
    assert!(world.run(10 * SECOND, |w| w.both_linked(2)), "{}", world.story());
}

#[test]
fn a_server_that_was_restarted_has_the_name_again_and_introduces() {
    let mut world = connected(20);
    world.server = crate::rendezvous::Server::new(world.now, [8; 32], key(9), Default::default(), []);
    let registered = |w: &World| w.count(HOST, |e| *e == Event::Registered) == 2;
    assert!(world.run(60 * SECOND, registered), "{}", world.story());
    world.run(60 * SECOND, |_| false);
    assert_eq!(world.links.len(), 2, "the link does not notice");
    world.drop_links(&[CLIENT]);
    assert!(world.run(10 * SECOND, |w| w.both_linked(2)), "{}", world.story());
}
