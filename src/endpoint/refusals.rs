//! What a server refuses, or says that the host refuses, and what that ends.

use std::time::Duration;

use super::{world::*, *};
use crate::{
    secure::Psk,
    wire::server::{Decline, FromServer, RequestRefusal},
};

const SECOND: Duration = Duration::from_secs(1);

#[test]
fn a_refusal_that_the_server_invents_does_not_end_what_works() {
    let mut world = connected(20);
    world.run(3590 * SECOND, |_| false);
    world.verdict = Err(Decline::Unauthorised);
    world.run(600 * SECOND, |_| false);
    assert_eq!(world.count(CLIENT, |e| matches!(e, Event::Declined(_))), 0, "{}", world.story());
}

#[test]
fn a_refusal_that_the_server_invents_is_told_once_and_ends_no_session_that_waits_for_its_network() {
    let mut world = connected(20);
    world.run(5 * SECOND, |_| false);
    (world.direct_udp, world.tcp) = (false, false);
    world.drop_links(&[HOST, CLIENT]);
    for _ in 0..30 {
        world.run(2 * SECOND, |_| false);
        let now = world.now;
        for request in 0..50 {
            for lie in [
                FromServer::Declined { request, why: Decline::Unauthorised },
                FromServer::Declined { request, why: Decline::Busy },
                FromServer::NotKept { request, why: RequestRefusal::Full },
                FromServer::Introduced { relation: request, addresses: vec![], reply: vec![7; 99].into() },
            ] {
                let client = world.endpoints[CLIENT].as_mut().expect("running");
                client.server_message(now, 0, lie);
            }
        }
        world.drain(CLIENT);
    }
    let ends = |e: &Event| matches!(e, Event::Declined(_) | Event::NotKept(_) | Event::NotProved);
    assert!(!world.heard(CLIENT, ends), "{}", world.story());
    let told = |wanted: Hearsay| world.count(CLIENT, |e| *e == Event::Hearsay(wanted));
    assert_eq!(told(Hearsay::Declined(Decline::Unauthorised)), 1, "{}", world.story());
    assert_eq!(told(Hearsay::Declined(Decline::Busy)), 1);
    assert_eq!(world.count(CLIENT, |e| matches!(e, Event::Hearsay(_))), 3 + told(Hearsay::NotProved));
    (world.direct_udp, world.tcp) = (true, true);
    assert!(world.run(120 * SECOND, |w| w.both_linked(2)), "{}", world.story());
    let ended = |(_, output): &(usize, Output)| matches!(output, Output::SessionEnded { .. });
    assert!(!world.sessions.iter().any(ended), "{:?}", world.sessions);
}

#[test]
fn a_refusal_over_one_family_ends_nothing_where_the_other_one_is_answered_otherwise() {
    let mut world = World::new(20);
    world.other_family = Some("[2001:db8::1]:7862".parse().expect("address"));
    world.host();
    world.client(Some(key(1).public()), None);
    let refuse = |world: &mut World, family: usize| {
        let now = world.now;
        let client = world.endpoints[CLIENT].as_mut().expect("running");
        client.server_refused(now, family, Event::ServerPrivate);
        world.drain(CLIENT);
    };
    refuse(&mut world, 0);
    assert!(world.run(10 * SECOND, |w| w.both_linked(1)), "{}", world.story());
    world.run(10 * SECOND, |_| false);
    assert!(!world.heard(CLIENT, |e| *e == Event::ServerPrivate), "{}", world.story());

    // Nobody answers over the other one, and then that one refuses as well.
    world.server_up = false;
    world.client_of(99);
    refuse(&mut world, 0);
    world.run(5 * SECOND, |_| false);
    assert_eq!(world.count(CLIENT, |e| *e == Event::ServerPrivate), 1, "{}", world.story());
    refuse(&mut world, 1);
    assert_eq!(world.count(CLIENT, |e| *e == Event::ServerPrivate), 2, "{}", world.story());
}

#[test]
fn whoever_has_only_the_public_part_of_an_invite_learns_no_address() {
    let mut world = World::new(20);
    world.verdict = Ok(Psk([7; 32].into()));
    world.host();
    world.client(None, Some((5, Psk([8; 32].into()))));
    let declined = |w: &World| w.heard(CLIENT, |e| *e == Event::Declined(Decline::Invite));
    assert!(world.run(10 * SECOND, declined), "{}", world.story());
    world.run(30 * SECOND, |_| false);
    assert!(!world.heard(CLIENT, |e| matches!(e, Event::Introduced { .. } | Event::HoleOpen { .. })));
    assert!(world.sent.is_empty(), "no datagram of the host has left for it");
    assert!(world.bound.iter().all(|(who, _)| *who == CLIENT), "no port was bound for it");
    let host = world.endpoints[HOST].as_ref().expect("running");
    assert!(host.peers.is_empty(), "and nothing is kept of it");
}
