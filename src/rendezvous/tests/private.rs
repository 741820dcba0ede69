//! A server for some keys only, and names that are given up.

use std::collections::BTreeSet;

use super::*;
use crate::wire::server::Release;

fn allow(world: &mut World, keys: impl IntoIterator<Item = u8>) {
    let keys: BTreeSet<_> = keys.into_iter().map(|n| key(n).public()).collect();
    let unix_secs = world.unix_secs();
    world.server.allow(world.now, unix_secs, Some(keys));
}

#[test]
fn a_stranger_to_a_private_server_is_told_once_and_leaves_nothing_there() {
    let mut world = World::new(40);
    allow(&mut world, [1]);
    let (listed, stranger) = (world.join(1), world.join(2));
    world.send(listed, register("box"));
    world.send(stranger, register("mine"));
    world.run_until_heard(listed, |m| *m == FromServer::Registered);
    world.run_for(60 * SECOND);
    let told = |world: &World| world.events(stranger).iter().filter(|e| **e == ClientEvent::Private).count();
    assert_eq!((told(&world), world.inbox(stranger).len()), (1, 0));
    let stats = world.server.stats();
    assert_eq!((stats.associations, stats.names), (1, 1));
    allow(&mut world, [1, 2]);
    world.run_until_heard(stranger, |m| *m == FromServer::Registered);
}

#[test]
fn who_is_taken_off_the_list_is_gone_and_nobody_else_notices() {
    let mut world = World::new(41);
    let (host, client, _) = acquainted(&mut world);
    let before = world.events(host).len();
    allow(&mut world, [1]);
    world.run_until(60 * SECOND, |w| w.events(client).contains(&ClientEvent::Private));
    assert!(world.inbox(host).iter().any(|m| matches!(m, FromServer::Gone { .. })));
    world.run_for(100 * SECOND);
    assert_eq!(world.events(host).len(), before, "the host's association lives on");
    assert_eq!(world.server.stats().associations, 1);
}

#[test]
fn a_name_is_given_up_by_its_key_once_nobody_holds_it() {
    let mut world = World::new(42);
    let (host, owner, other) = (world.join(1), world.join(1), world.join(2));
    let release = || ToServer::Release { name: "box".into() };
    let heard = |outcome| move |m: &FromServer| *m == FromServer::Released { name: "box".into(), outcome };
    world.send(host, register("box"));
    world.run_until_heard(host, |m| *m == FromServer::Registered);
    world.send(owner, release());
    world.run_until_heard(owner, heard(Release::Held));
    world.send(other, release());
    world.run_until_heard(other, heard(Release::Owned));
    world.send(host, ToServer::Unregister);
    world.run_for(SECOND);
    world.send(owner, release());
    world.run_until_heard(owner, heard(Release::Done));
    world.send(other, register("box"));
    world.run_until_heard(other, |m| *m == FromServer::Registered);
    world.send(owner, release());
    world.run_until(SECOND, |w| w.inbox(owner).iter().filter(|m| heard(Release::Owned)(m)).count() == 1);
}

#[test]
fn a_name_that_is_held_for_longer_than_it_would_be_kept_stays_its_keys() {
    let mut world = World::new(43);
    let host = world.join(1);
    world.send(host, register("box"));
    world.run_for(3 * world.limits.name_ttl / 90);
    let (_, seen) = world.stored["box"];
    assert!(world.unix_secs() - seen <= 24 * 3600 + 60, "seen {} s ago", world.unix_secs() - seen);
}
