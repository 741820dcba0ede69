//! Names, requests and introductions, seen from outside.

mod association;
mod private;

use std::{net::SocketAddr, time::Duration};

use super::{
    ClientEvent, Limits,
    limits::ASSOCIATION_TIMEOUT,
    world::{Weather, World, key},
};
use crate::{
    endpoint::Path,
    wire::{
        Blob,
        server::{Decline, FromServer, NameRefusal, RequestRefusal, ToServer},
    },
};

const SECOND: Duration = Duration::from_secs(1);
const MS: Duration = Duration::from_millis(1);

fn register(name: &str) -> ToServer {
    ToServer::Register { name: name.into() }
}

fn find(request: u32, name: &str) -> ToServer {
    ToServer::Find { request, name: name.into() }
}

fn introduce(request: u32, name: &str) -> ToServer {
    ToServer::Introduce { request, name: name.into(), hello: Blob(vec![7; 150]) }
}

fn relay(relation: u32, bytes: &[u8]) -> ToServer {
    ToServer::Relay { relation, datagram: Blob(bytes.to_vec()) }
}

/// The host's number for the last introduction that it heard.
fn last_introduction(world: &World, host: usize) -> Option<u32> {
    world.inbox(host).iter().rev().find_map(|message| match message {
        FromServer::Introduction { relation, .. } => Some(*relation),
        _ => None,
    })
}

/// A registered host, a client, and their accepted relation: their numbers, and the host's relation (the
/// client's is 1).
fn acquainted(world: &mut World) -> (usize, usize, u32) {
    let host = world.join(1);
    world.send(host, register("box"));
    world.run_until_heard(host, |m| *m == FromServer::Registered);
    let client = world.join(2);
    world.send(client, introduce(1, "box"));
    let relation = accept(world, host);
    world.run_until_heard(client, |m| matches!(m, FromServer::Introduced { relation: 1, .. }));
    (host, client, relation)
}

/// The host accepts the next introduction.
#[track_caller]
fn accept(world: &mut World, host: usize) -> u32 {
    world.run_until_heard(host, |m| matches!(m, FromServer::Introduction { .. }));
    let relation = last_introduction(world, host).expect("an introduction");
    world.send(host, ToServer::Accept { relation, reply: Blob(vec![8; 100]) });
    world.run_until_heard(host, |m| matches!(m, FromServer::Introduced { .. }));
    relation
}

fn addresses_of(world: &World, party: usize) -> Vec<SocketAddr> {
    let introduced = world.inbox(party).iter().rev().find_map(|m| match m {
        FromServer::Introduced { addresses, .. } => Some(addresses.clone()),
        _ => None,
    });
    introduced.expect("an introduction that was accepted")
}

fn lost(world: &World, party: usize) -> usize {
    world.events(party).iter().filter(|e| **e == ClientEvent::Lost).count()
}

#[test]
fn a_registration_takes_two_round_trips() {
    let mut world = World::new(1);
    let host = world.join(1);
    world.send(host, register("box"));
    let took = world.run_until_heard(host, |m| *m == FromServer::Registered);
    assert_eq!(took, 100 * MS, "HELLO, COOKIE, INIT with the request, REPLY with the answer");
    let [
        ClientEvent::Reached {
            observed,
            udp: true,
            path: Path::Udp(_),
            took,
            server_key,
            first_contact: true,
        },
    ] = world.events(host)
    else {
        panic!("{:?}", world.events(host));
    };
    assert_eq!(*observed, world.parties[host].udp);
    assert_eq!(*took, 100 * MS);
    assert_eq!(*server_key, key(200).public());
    assert_eq!(world.stored["box"].0, key(1).public());
}

#[test]
fn an_introduction_reaches_the_host_one_and_a_half_round_trips_after_the_start() {
    let mut world = World::new(2);
    let host = world.join(1);
    world.send(host, register("box"));
    world.run_until_heard(host, |m| *m == FromServer::Registered);
    let client = world.join(2);
    world.send(client, introduce(1, "box"));
    let took = world.run_until_heard(host, |m| matches!(m, FromServer::Introduction { .. }));
    assert_eq!(took, 100 * MS, "HELLO, COOKIE, INIT, Introduction: four trips");
    let relation = last_introduction(&world, host).expect("an introduction");
    assert!(world.inbox(host).contains(&FromServer::Introduction { relation, hello: Blob(vec![7; 150]) }));
    world.send(host, ToServer::Accept { relation, reply: Blob(vec![8; 100]) });
    world.run_until_heard(host, |m| matches!(m, FromServer::Introduced { .. }));
    world.run_until_heard(client, |m| matches!(m, FromServer::Introduced { .. }));
    let (host_at, client_at) = (world.parties[host].udp, world.parties[client].udp);
    let to_host = FromServer::Introduced { relation, addresses: vec![client_at], reply: Blob::default() };
    let to_client =
        FromServer::Introduced { relation: 1, addresses: vec![host_at], reply: Blob(vec![8; 100]) };
    assert!(world.inbox(host).contains(&to_host), "{:?}", world.inbox(host));
    assert!(world.inbox(client).contains(&to_client), "{:?}", world.inbox(client));
}

#[test]
fn a_name_that_is_not_there_is_waited_for() {
    let mut world = World::new(3);
    let client = world.join(2);
    world.send(client, find(1, "box"));
    world.send(client, introduce(2, "box"));
    world.run_until_heard(client, |m| *m == FromServer::Absent { request: 2, last_seen: None });
    assert!(world.inbox(client).contains(&FromServer::Absent { request: 1, last_seen: None }));
    world.run_for(600 * SECOND);
    let host = world.join(1);
    world.send(host, register("box"));
    world.run_until_heard(client, |m| *m == FromServer::Found { request: 1, key: key(1).public().0 });
    accept(&mut world, host);
    world.run_until_heard(client, |m| matches!(m, FromServer::Introduced { relation: 2, .. }));
    assert_eq!(world.server.stats().waiting, 0);
}

#[test]
fn a_request_that_was_cancelled_is_not_answered() {
    let mut world = World::new(4);
    let client = world.join(2);
    world.send(client, introduce(2, "box"));
    world.run_until_heard(client, |m| matches!(m, FromServer::Absent { .. }));
    world.send(client, ToServer::Cancel { request: 2 });
    let host = world.join(1);
    world.run_for(SECOND);
    world.send(host, register("box"));
    world.run_for(SECOND);
    assert_eq!(world.inbox(host), [FromServer::Registered]);
}

#[test]
fn a_host_that_stopped_cleanly_is_absent_at_once_and_was_last_seen_then() {
    let mut world = World::new(5);
    let host = world.join(1);
    world.send(host, register("box"));
    world.run_for(SECOND);
    world.send(host, ToServer::Unregister);
    world.run_for(100 * SECOND);
    let client = world.join(2);
    world.send(client, find(1, "box"));
    world.run_until_heard(client, |m| matches!(m, FromServer::Absent { last_seen: Some(99..=101), .. }));
}

#[test]
fn a_host_that_vanished_is_absent_after_its_association_timed_out() {
    let mut world = World::new(6);
    let (host, client, _) = acquainted(&mut world);
    world.parties[host].running = false;
    world.run_for(ASSOCIATION_TIMEOUT + SECOND);
    assert!(world.inbox(client).contains(&FromServer::Gone { relation: 1 }));
    world.send(client, find(3, "box"));
    world.run_until_heard(client, |m| matches!(m, FromServer::Absent { request: 3, last_seen: Some(_) }));
    let stats = world.server.stats();
    assert_eq!((stats.associations, stats.clients, stats.relations), (1, 1, 0));
}

#[test]
fn an_introduction_that_the_host_did_not_live_to_answer_waits_for_its_next_run() {
    let mut world = World::new(7);
    let host = world.join(1);
    world.send(host, register("box"));
    world.run_for(SECOND);
    world.parties[host].running = false;
    let client = world.join(2);
    world.send(client, introduce(1, "box"));
    world.run_for(ASSOCIATION_TIMEOUT + SECOND);
    assert!(matches!(world.inbox(client), [FromServer::Absent { request: 1, last_seen: Some(_) }]));
    let again = world.join(1);
    world.send(again, register("box"));
    accept(&mut world, again);
    world.run_until_heard(client, |m| matches!(m, FromServer::Introduced { relation: 1, .. }));
}

#[test]
fn a_name_of_another_key_is_refused() {
    let mut world = World::new(8);
    let host = world.join(1);
    world.send(host, register("box"));
    world.run_for(SECOND);
    let thief = world.join(2);
    world.send(thief, register("box"));
    world.send(thief, register("Box!"));
    world.run_for(SECOND);
    let no = |why| FromServer::NotRegistered { why };
    assert_eq!(world.inbox(thief), [no(NameRefusal::Owned), no(NameRefusal::Malformed)]);
    world.send(thief, find(1, "-"));
    world
        .run_until_heard(thief, |m| *m == FromServer::NotKept { request: 1, why: RequestRefusal::Malformed });
}

#[test]
fn the_newest_run_of_a_key_takes_the_name_over_once() {
    let mut world = World::new(9);
    let old = world.join(1);
    world.send(old, register("box"));
    world.run_for(SECOND);
    let new = world.join(1);
    world.send(new, register("box"));
    world.run_for(300 * SECOND);
    let taken = FromServer::NotRegistered { why: NameRefusal::Taken };
    assert_eq!(world.inbox(old), [FromServer::Registered, taken]);
    assert_eq!(world.inbox(new), [FromServer::Registered]);
    let client = world.join(2);
    world.send(client, introduce(1, "box"));
    world.run_until_heard(new, |m| matches!(m, FromServer::Introduction { .. }));
    // The old run goes away; that changes nothing about the name.
    world.parties[old].running = false;
    world.run_for(2 * ASSOCIATION_TIMEOUT);
    world.send(client, find(2, "box"));
    world.run_until_heard(client, |m| matches!(m, FromServer::Found { request: 2, .. }));
}

#[test]
fn an_introduction_under_way_follows_the_name_to_the_newest_run() {
    let mut world = World::new(10);
    let old = world.join(1);
    world.send(old, register("box"));
    world.run_for(SECOND);
    world.parties[old].running = false;
    let client = world.join(2);
    world.send(client, introduce(1, "box"));
    world.run_for(SECOND);
    let new = world.join(1);
    world.send(new, register("box"));
    accept(&mut world, new);
    world.run_until_heard(client, |m| matches!(m, FromServer::Introduced { .. }));
}

#[test]
fn a_host_may_decline() {
    let mut world = World::new(11);
    let host = world.join(1);
    world.send(host, register("box"));
    world.run_for(SECOND);
    let client = world.join(2);
    world.send(client, introduce(1, "box"));
    world.run_until_heard(host, |m| matches!(m, FromServer::Introduction { .. }));
    let relation = last_introduction(&world, host).expect("an introduction");
    world.send(host, ToServer::Decline { relation, why: Decline::Unauthorised });
    let declined = FromServer::Declined { request: 1, why: Decline::Unauthorised };
    world.run_until_heard(client, |m| *m == declined);
    assert!(world.inbox(client).iter().all(|m| !matches!(m, FromServer::Introduced { .. })), "no address");
    assert_eq!(world.server.stats().relations, 0);
}

#[test]
fn datagrams_are_relayed_both_ways_once_the_host_has_accepted() {
    let mut world = World::new(12);
    let host = world.join(1);
    world.send(host, register("box"));
    world.run_for(SECOND);
    let client = world.join(2);
    world.send(client, introduce(1, "box"));
    world.run_for(SECOND);
    world.send(client, relay(1, b"too early"));
    world.run_for(SECOND);
    let relation = accept(&mut world, host);
    world.run_for(SECOND);
    world.send(client, relay(1, b"hello host"));
    world.send(host, relay(relation, b"hello client"));
    let to_host = FromServer::Relay { relation, datagram: Blob(b"hello host".to_vec()) };
    let to_client = FromServer::Relay { relation: 1, datagram: Blob(b"hello client".to_vec()) };
    world.run_until_heard(host, |m| *m == to_host);
    world.run_until_heard(client, |m| *m == to_client);
    let relayed = |m: &&FromServer| matches!(m, FromServer::Relay { .. });
    assert_eq!(world.inbox(host).iter().filter(relayed).count(), 1);
}

#[test]
fn the_relay_is_for_negotiations_not_for_payload() {
    let limits = Limits { relay_bytes: 10_000, ..Limits::default() };
    let mut world = World::with(13, limits, Weather::default());
    let (host, client, _) = acquainted(&mut world);
    for _ in 0..40 {
        world.send(client, relay(1, &[0; 1000]));
        world.run_for(MS);
    }
    world.run_for(SECOND);
    let relayed = world.inbox(host).iter().filter(|m| matches!(m, FromServer::Relay { .. })).count();
    assert_eq!(relayed, 10);
}

#[test]
fn a_client_that_cancels_or_vanishes_is_gone_for_the_host() {
    let mut world = World::new(14);
    let (host, client, relation) = acquainted(&mut world);
    world.send(client, ToServer::Cancel { request: 1 });
    world.run_until_heard(host, |m| *m == FromServer::Gone { relation });
    world.send(client, introduce(2, "box"));
    world.run_for(SECOND);
    world.parties[client].running = false;
    world.run_for(ASSOCIATION_TIMEOUT + SECOND);
    let gone = world.inbox(host).iter().filter(|m| matches!(m, FromServer::Gone { .. })).count();
    assert_eq!(gone, 2);
}

#[test]
fn repeating_every_request_is_harmless() {
    let mut world = World::new(15);
    let (host, client, relation) = acquainted(&mut world);
    let before = (world.inbox(host).len(), world.inbox(client).len());
    world.send(host, register("box"));
    world.send(host, ToServer::Accept { relation, reply: Blob(vec![8; 100]) });
    world.send(client, introduce(1, "box"));
    world.run_for(SECOND);
    assert_eq!(world.inbox(host)[before.0..], [FromServer::Registered]);
    assert!(matches!(world.inbox(client)[before.1..], [FromServer::Introduced { relation: 1, .. }]));
    assert_eq!(world.server.stats().relations, 1);
    // Another handshake message under the same number is another introduction.
    let fresh = ToServer::Introduce { request: 1, name: "box".into(), hello: Blob(vec![9; 150]) };
    world.send(client, fresh);
    world.run_until_heard(host, |m| *m == FromServer::Gone { relation });
    world.run_for(SECOND);
    assert_ne!(last_introduction(&world, host), Some(relation));
    assert_eq!(world.server.stats().relations, 1);
}

#[test]
fn both_families_of_a_run_are_one_node() {
    let mut world = World::new(16);
    let (host_node, client_node) = ([1; 16], [2; 16]);
    let host = [world.join_as(1, host_node, false, None), world.join_as(1, host_node, true, None)];
    for party in host {
        world.send(party, register("box"));
    }
    world.run_for(SECOND);
    assert!(host.iter().all(|party| world.inbox(*party) == [FromServer::Registered]));
    let client = [world.join_as(2, client_node, false, None), world.join_as(2, client_node, true, None)];
    world.run_for(SECOND);
    world.send(client[1], introduce(1, "box"));
    world.run_for(SECOND);
    let at = host.into_iter().find(|party| last_introduction(&world, *party).is_some()).expect("introduced");
    accept(&mut world, at);
    world.run_for(SECOND);
    let expected: Vec<_> = client.iter().map(|party| world.parties[*party].udp).collect();
    assert_eq!(addresses_of(&world, at), expected, "one address for each family");
    let stats = world.server.stats();
    assert_eq!((stats.associations, stats.clients, stats.names), (4, 2, 1));
    // One family dies; the name stays.
    world.parties[host[0]].running = false;
    world.run_for(2 * ASSOCIATION_TIMEOUT);
    world.send(client[0], find(5, "box"));
    world.run_until(10 * SECOND, |w| {
        client.iter().any(|p| w.inbox(*p).iter().any(|m| matches!(m, FromServer::Found { request: 5, .. })))
    });
}

#[test]
fn a_client_hears_where_it_asked_though_it_was_heard_elsewhere_since() {
    let mut world = World::new(31);
    let host = [world.join_as(1, [1; 16], false, None), world.join_as(1, [1; 16], true, None)];
    let client = [world.join_as(2, [2; 16], false, None), world.join_as(2, [2; 16], true, None)];
    world.send(client[0], introduce(1, "box"));
    world.run_for(SECOND);
    let speak_over_v6 = |world: &mut World, parties: [usize; 2]| {
        world.send(parties[1], find(77, "elsewhere"));
        world.run_for(SECOND);
    };
    speak_over_v6(&mut world, client);
    world.send(host[0], register("box"));
    world.run_for(SECOND);
    let relation = last_introduction(&world, host[0]).expect("by the association heard last");
    speak_over_v6(&mut world, host);
    world.send(host[0], ToServer::Accept { relation, reply: Blob(vec![8; 100]) });
    speak_over_v6(&mut world, host);
    world.send(client[0], relay(1, b"over IPv4"));
    world.run_for(SECOND);
    world.send(client[0], ToServer::Cancel { request: 1 });
    world.run_for(SECOND);
    let heard = |party: usize, what: fn(&FromServer) -> bool| world.inbox(party).iter().any(what);
    assert!(heard(client[0], |m| matches!(m, FromServer::Introduced { .. })));
    assert!(heard(host[0], |m| matches!(m, FromServer::Introduced { .. })));
    assert!(heard(host[0], |m| matches!(m, FromServer::Relay { .. })));
    assert!(heard(host[0], |m| matches!(m, FromServer::Gone { .. })));
    for party in [client[1], host[1]] {
        assert!(world.inbox(party).iter().all(|m| matches!(m, FromServer::Absent { request: 77, .. })));
    }
    // Where that family is gone, another one will do.
    world.send(client[0], introduce(2, "box"));
    world.run_for(SECOND);
    world.parties[client[0]].running = false;
    world.run_for(2 * ASSOCIATION_TIMEOUT);
    accept(&mut world, host[0]);
    world.run_until_heard(client[1], |m| matches!(m, FromServer::Introduced { relation: 2, .. }));
}

#[test]
fn a_client_may_be_introduced_again_and_again_to_the_same_host() {
    let mut world = World::new(32);
    let (host, client, _) = acquainted(&mut world);
    for request in 2..50 {
        world.send(client, introduce(request, "box"));
        world.run_for(SECOND);
        let relation = last_introduction(&world, host).expect("an introduction");
        world.send(host, ToServer::Accept { relation, reply: Blob(vec![8; 100]) });
        world.run_for(SECOND);
        assert!(world.server.stats().relations <= 2, "the new one and the one before");
    }
    let introduced = |m: &&FromServer| matches!(m, FromServer::Introduced { .. });
    assert_eq!(world.inbox(client).iter().filter(introduced).count(), 49);
    assert!(world.inbox(host).contains(&FromServer::Gone { relation: 1 << 31 }));
}

#[test]
fn only_families_that_both_have_are_introduced() {
    let mut world = World::new(17);
    let host = world.join_as(1, [1; 16], true, None);
    world.send(host, register("box"));
    world.run_for(SECOND);
    let client = world.join(2);
    world.send(client, introduce(1, "box"));
    accept(&mut world, host);
    world.run_for(SECOND);
    assert!(addresses_of(&world, host).is_empty());
    assert!(addresses_of(&world, client).is_empty());
    world.send(client, relay(1, b"by the server"));
    world.run_until_heard(host, |m| matches!(m, FromServer::Relay { .. }));
}
