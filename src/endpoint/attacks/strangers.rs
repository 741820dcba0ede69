//! Strangers who know a name, or the public part of an invite.

use super::*;

#[test]
fn a_stranger_who_knows_the_name_learns_no_address_and_gets_nothing() {
    let mut world = World::new(20);
    world.verdict = Err(Decline::Unauthorised);
    world.host();
    assert!(world.run(5 * SECOND, |w| w.heard(HOST, |e| *e == Event::Registered)));
    for seed in 0..50 {
        world.client_of(seed + 100);
        let before = world.count(CLIENT, |e| matches!(e, Event::Declined(_)));
        let declined = move |w: &World| w.count(CLIENT, |e| matches!(e, Event::Declined(_))) > before;
        assert!(world.run(10 * SECOND, declined), "{}", world.story());
    }
    assert!(!world.heard(CLIENT, |e| matches!(e, Event::Introduced { .. } | Event::HoleOpen { .. })));
    assert!(world.sent.is_empty(), "no datagram of the host has left for it");
    assert!(world.endpoint(HOST).peers.is_empty());
    assert!(world.bound.iter().all(|(who, _)| *who == CLIENT), "no port was bound for it");
    // The host's user is told who asked, and no more often than is good for a log.
    let took = world.now - world.began;
    let told = world.count(HOST, |e| matches!(e, Event::Refused { why: Decline::Unauthorised, .. }));
    assert!((1..=1 + took.as_secs() as usize / 60).contains(&told), "{told} in {took:?}");
    let who = key(CLIENT as u8 + 1).public();
    assert!(world.heard(HOST, |e| matches!(e, Event::Refused { key: Some(key), .. } if *key == who)));
}

#[test]
fn an_invite_that_is_not_proved_is_told_at_the_host() {
    let mut world = World::new(20);
    world.verdict = Ok(Psk([7; 32].into()));
    world.host();
    world.client(None, Some((5, Psk([8; 32].into()))));
    let told = |e: &Event| matches!(e, Event::Refused { key: Some(PublicKey(_)), why: Decline::Invite, .. });
    assert!(world.run(30 * SECOND, |w| w.heard(HOST, told)), "{}", world.story());
    let declined = |e: &Event| *e == Event::Declined(Decline::Invite);
    assert!(world.run(10 * SECOND, |w| w.heard(CLIENT, declined)), "{}", world.story());
}
