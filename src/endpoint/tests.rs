//! What the negotiation costs, and what it does when something is refused, lost or gone.

use std::time::Duration;

use zeroize::Zeroizing;

use super::{world::*, *};
use crate::{
    nat::{Filtering, Model, SimultaneousOpen, Unsolicited},
    secure::Psk,
    wire::{
        examine::Knocked,
        server::{Decline, Release},
    },
};

#[test]
fn the_initiator_has_its_link_within_seven_round_trips() {
    for one_way in [5, 50, 150] {
        let world = connected(one_way);
        let (_, took, _) = world.links.iter().find(|l| l.0 == CLIENT).expect("linked");
        let trips = took.as_secs_f64() / (2.0 * world.one_way.as_secs_f64());
        // One more one-way trip brings the first bytes to the host, and one back: 8 in all.
        let limit = world.one_way * 14 + Duration::from_millis(100);
        assert!(*took <= limit, "{one_way} ms: {took:?}, {trips:.1} round trips\n{}", world.story());
    }
}

#[test]
fn both_sides_hold_the_same_keys_for_the_link() {
    let mut world = connected(20);
    let (a, b) = (world.links.remove(0).2, world.links.remove(0).2);
    assert_eq!(a.epoch, b.epoch);
    let mut body = *b"first bytes";
    let tag = a.epoch_keys.seal.seal(0, b"", &mut body);
    let mut sealed = [&body[..], &tag].concat();
    assert_eq!(b.epoch_keys.open.open(0, b"", &mut sealed).expect("opens"), b"first bytes");
}

#[test]
fn without_a_udp_hole_the_negotiation_goes_through_the_server() {
    let mut world = World::new(30);
    world.direct_udp = false;
    world.host();
    world.client(Some(key(1).public()), None);
    assert!(world.run(Duration::from_secs(10), |w| w.both_linked(1)), "{}", world.story());
    assert!(!world.heard(CLIENT, |e| matches!(e, Event::HoleOpen { .. })));
}

#[test]
fn a_host_that_is_not_there_yet_is_waited_for() {
    let mut world = World::new(30);
    world.client(Some(key(1).public()), None);
    assert!(world.run(Duration::from_secs(2), |w| {
        w.heard(CLIENT, |e| matches!(e, Event::Waiting { last_seen: None }))
    }));
    world.run(Duration::from_secs(120), |_| false);
    world.host();
    assert!(world.run(Duration::from_secs(10), |w| w.both_linked(1)), "{}", world.story());
}

#[test]
fn with_an_invite_the_host_key_comes_from_the_server_and_is_proved() {
    let mut world = World::new(30);
    let psk = Psk(Zeroizing::new([7; 32]));
    world.verdict = Ok(psk.clone());
    world.host();
    world.client(None, Some((5, psk)));
    assert!(world.run(Duration::from_secs(10), |w| w.both_linked(1)), "{}", world.story());
    for who in [HOST, CLIENT] {
        let used = world.sessions.iter().any(|(whose, output)| {
            *whose == who && matches!(output, Output::Session { invite: Some(5), .. })
        });
        assert!(used, "the invite is named to the driver of {who}");
    }
}

#[test]
fn a_wrong_invite_grants_nothing_on_either_side() {
    let mut world = World::new(30);
    world.verdict = Ok(Psk(Zeroizing::new([7; 32])));
    world.host();
    world.client(None, Some((5, Psk(Zeroizing::new([8; 32])))));
    assert!(
        world.run(Duration::from_secs(10), |w| w.heard(CLIENT, |e| *e == Event::Declined(Decline::Invite)))
    );
    world.run(Duration::from_secs(60), |_| false);
    assert!(world.sessions.is_empty() && world.links.is_empty());
    let host = world.endpoints[HOST].as_ref().expect("running");
    assert!(host.peers.is_empty(), "what was not proved is forgotten");
}

#[test]
fn a_client_that_is_not_authorised_is_told_so() {
    let mut world = World::new(30);
    world.verdict = Err(Decline::Unauthorised);
    world.host();
    world.client(Some(key(1).public()), None);
    let told = |w: &World| w.heard(CLIENT, |e| *e == Event::Declined(Decline::Unauthorised));
    assert!(world.run(Duration::from_secs(10), told));
    assert!(world.sessions.is_empty());
}

#[test]
fn a_lost_link_is_punched_again_with_a_higher_epoch() {
    let mut world = connected(20);
    for round in 2..5 {
        let epoch = world.links.last().expect("linked").2.epoch;
        let who = if round % 2 == 0 { CLIENT } else { HOST };
        let peer = world.peer(who);
        world.tell(who, Input::LinkLost { peer, epoch });
        assert!(world.run(Duration::from_secs(10), |w| w.both_linked(round)), "{}", world.story());
        assert!(world.links.last().expect("linked").2.epoch > epoch);
    }
}

#[test]
fn a_lost_link_is_replaced_within_two_and_a_half_round_trips_eight_times_over() {
    for one_way in [10, 50, 150] {
        let mut world = connected(one_way);
        for link in 2..10 {
            world.run(Duration::from_secs(10), |_| false);
            let (peer, epoch) = (world.peer(CLIENT), world.links.last().expect("linked").2.epoch);
            let (who, lost) = (if link % 2 == 0 { CLIENT } else { HOST }, world.now);
            // A reset reaches both.
            for who in [who, 1 - who] {
                world.tell(who, Input::LinkLost { peer, epoch });
            }
            assert!(world.run(Duration::from_secs(10), |w| w.both_linked(link)), "{}", world.story());
            // The ports of a round are good for seven repetitions; the eighth time they are fresh ones.
            let (_, at, _) = world.links.iter().rfind(|l| l.0 == CLIENT).expect("linked");
            let took = world.began + *at - lost;
            let trips = if link < 9 { 5 } else { 14 };
            let limit = world.one_way * trips + Duration::from_millis(60);
            assert!(took <= limit, "{one_way} ms, link {link}: {took:?}\n{}", world.story());
        }
    }
}

#[test]
fn the_server_is_not_needed_to_punch_again() {
    let mut world = connected(20);
    world.run(Duration::from_secs(5), |_| false);
    world.server_up = false;
    world.run(Duration::from_secs(300), |_| false);
    let (peer, epoch) = (world.peer(CLIENT), world.links.last().expect("linked").2.epoch);
    world.tell(CLIENT, Input::LinkLost { peer, epoch });
    assert!(world.run(Duration::from_secs(10), |w| w.both_linked(2)), "{}", world.story());
}

#[test]
fn a_host_that_was_restarted_ends_the_session_and_a_new_one_begins() {
    let mut world = connected(20);
    world.run(Duration::from_secs(5), |_| false);
    world.kill(HOST);
    world.host();
    world.run(Duration::from_secs(2), |_| false);
    let (peer, epoch) = (world.peer(CLIENT), world.links.last().expect("linked").2.epoch);
    world.tell(CLIENT, Input::LinkLost { peer, epoch });
    assert!(world.run(Duration::from_secs(60), |w| w.both_linked(2)), "{}", world.story());
    let ended = |(who, output): &(usize, Output)| {
        *who == CLIENT && matches!(output, Output::SessionEnded { why: Goodbye::Unknown, .. })
    };
    assert!(world.sessions.iter().any(ended));
}

#[test]
fn a_goodbye_ends_the_session_on_both_sides() {
    let mut world = connected(20);
    world.tell(CLIENT, Input::Stop);
    world.run(Duration::from_secs(3), |_| false);
    assert!(world.endpoints[CLIENT].as_ref().expect("running").is_finished());
    let ended = |(who, output): &(usize, Output)| {
        *who == HOST && matches!(output, Output::SessionEnded { why: Goodbye::Stopped, .. })
    };
    assert!(world.sessions.iter().any(ended));
    assert!(world.endpoints[HOST].as_ref().expect("running").peers.is_empty());
}

#[test]
fn two_endpoints_without_nats_are_predicted_as_fixed() {
    let world = connected(20);
    let fixed = |event: &Event| match event {
        Event::NatFound { predictions, .. } => {
            predictions.len() == 1 && matches!(predictions[0].model, Model::Fixed { .. })
        }
        _ => false,
    };
    assert!(world.heard(HOST, fixed) && world.heard(CLIENT, fixed));
}

/// What the server finds at a firewall that lets nothing in but answers.
const STRICT: Answers =
    Answers { from_port: Some(Knocked::Dropped), from_address: None, crossing: Some(Knocked::Dropped) };

/// A world in which both sides ask what their NATs let in, with a host that has been there for a while.
fn examined(host: Answers, client: Answers) -> World {
    let mut world = World::new(30);
    world.nats = [Some(host), Some(client)];
    world.host();
    world.run(Duration::from_secs(10), |_| false);
    world.client(Some(key(1).public()), None);
    world
}

#[test]
fn two_strict_firewalls_are_told_before_anything_is_opened() {
    let mut world = examined(STRICT, STRICT);
    let why = |e: &Event| matches!(e, Event::Hopeless { why, .. } if why.starts_with("your firewall drops"));
    for who in [CLIENT, HOST] {
        assert!(world.run(Duration::from_secs(20), |w| w.heard(who, why)), "{}", world.story());
    }
    assert_eq!(world.connects, [0, 0]);
    // The next attempt knows it from the beginning.
    world.run(Duration::from_secs(20), |_| false);
    assert_eq!(world.connects, [0, 0]);
}

#[test]
fn whoever_gives_a_name_up_asks_the_server_that_and_nothing_else() {
    let mut world = World::new(20);
    world.nats[HOST] = Some(STRICT);
    world.owner();
    let released = |w: &World| w.heard(HOST, |e| *e == Event::Released(Release::Unknown));
    assert!(world.run(Duration::from_secs(5), released), "{}", world.story());
    assert!(world.bound.is_empty(), "its NAT does not matter");
}

#[test]
fn a_host_whose_name_is_refused_asks_on_and_less_and_less_often() {
    let mut world = World::new(20);
    world.disk_full = true;
    world.host();
    let refusals = |w: &World| w.events.iter().filter(|(.., e)| matches!(e, Event::NotRegistered(_))).count();
    assert!(world.run(Duration::from_secs(5), |w| refusals(w) == 1), "{}", world.story());
    world.run(Duration::from_secs(3600), |_| false);
    assert!((6..=11).contains(&refusals(&world)), "{}", refusals(&world));
    world.disk_full = false;
    let registered = |w: &World| w.heard(HOST, |e| *e == Event::Registered);
    assert!(world.run(Duration::from_secs(601), registered), "{}", world.story());
    let before = refusals(&world);
    world.run(Duration::from_secs(3600), |_| false);
    assert_eq!(refusals(&world), before);
}

#[test]
fn a_strict_host_is_worth_the_wait_for_the_own_crossing_and_no_longer() {
    let open = Answers { crossing: Some(Knocked::Reached), ..STRICT };
    // Silence is not waited for longer than a crossing may take.
    for (client, limit) in [(open, 1500), (Answers::default(), 4000)] {
        let mut world = examined(STRICT, client);
        let began = world.now;
        assert!(world.run(Duration::from_secs(10), |w| w.both_linked(1)), "{}", world.story());
        assert!(world.now - began < Duration::from_millis(limit), "{:?}", world.now - began);
    }
}

#[test]
fn predictions_say_what_the_nat_does_with_syns_from_outside() {
    let resets =
        Answers { from_port: Some(Knocked::Reset), from_address: None, crossing: Some(Knocked::Reached) };
    let mut world = examined(resets, resets);
    assert!(world.run(Duration::from_secs(10), |w| w.both_linked(1)), "{}", world.story());
    let told = |e: &Event| match e {
        Event::PeerNatFound { predictions, .. } => predictions.iter().all(|p| {
            (p.filtering, p.unsolicited, p.simultaneous_open)
                == (Filtering::AddressAndPortDependent, Unsolicited::Reset, SimultaneousOpen::Works)
        }),
        _ => false,
    };
    assert!(world.heard(CLIENT, told), "{}", world.story());
    // Everything of the examination is given back: what is left are the ports of the link's round.
    world.run(Duration::from_secs(10), |_| false);
    assert_eq!(world.bound.len(), 2, "{:?}", world.bound);
}

#[test]
fn an_examination_holds_up_nobody() {
    let mut without = World::new(30);
    without.host();
    without.run(Duration::from_secs(10), |_| false);
    without.client(Some(key(1).public()), None);
    let open = Answers { crossing: Some(Knocked::Reached), ..STRICT };
    let mut with = examined(open, STRICT);
    let took = |world: &mut World| {
        let began = world.now;
        assert!(world.run(Duration::from_secs(10), |w| w.both_linked(1)), "{}", world.story());
        world.now - began
    };
    assert_eq!(took(&mut with), took(&mut without));
}

#[test]
fn what_worked_from_this_network_is_tried_first_and_then_the_others() {
    let kinds = |hint: &str, rounds: usize| -> Vec<u8> {
        let mut world = World::new(30);
        let network = crate::identity::Network::of(hint.parse().expect("an address"));
        world.hints = vec![Hint { network, variant: 2 }];
        world.tcp = false;
        world.host();
        world.client(Some(key(1).public()), None);
        world.run(Duration::from_secs(60), |w| w.kinds(HOST).len() >= rounds);
        assert_eq!(world.kinds(CLIENT), world.kinds(HOST), "both plan the same kind");
        world.kinds(CLIENT)
    };
    // After an attempt that brought nothing, what worked once is forgotten.
    assert_eq!(kinds("198.51.100.200", 5), [2, 0, 1, 3, 0]);
    assert_eq!(kinds("203.0.113.1", 4), [0, 1, 2, 3], "another network");
}

#[test]
fn the_kind_of_round_that_made_the_link_makes_the_next_one() {
    let mut world = World::new(30);
    world.tcp = false;
    world.host();
    world.client(Some(key(1).public()), None);
    assert!(world.run(Duration::from_secs(30), |w| w.kinds(CLIENT).len() == 2), "{}", world.story());
    world.tcp = true;
    assert!(world.run(Duration::from_secs(30), |w| w.both_linked(1)), "{}", world.story());
    let peer = world.peer(CLIENT);
    let epoch = world.links.iter().find(|l| l.0 == CLIENT).expect("linked").2.epoch;
    world.tell(CLIENT, Input::LinkLost { peer, epoch });
    assert!(world.run(Duration::from_secs(30), |w| w.both_linked(2)), "{}", world.story());
    assert_eq!(world.kinds(CLIENT)[..3], [0, 1, 1]);
}

#[test]
fn a_round_that_fails_is_told_on_both_sides_with_its_reason_and_every_syn() {
    let mut world = World::new(30);
    world.tcp = false;
    world.host();
    world.client(Some(key(1).public()), None);
    for who in [CLIENT, HOST] {
        let failed = |e: &Event| match e {
            Event::RoundFailed { why, .. } => why.starts_with("none of 2 SYNs was answered: both NATs keep"),
            _ => false,
        };
        assert!(world.run(Duration::from_secs(10), |w| w.heard(who, failed)), "{}", world.story());
        let tried = world.events.iter().find_map(|(whose, _, event)| match event {
            Event::Tried { tried, id, .. } if *whose == who => Some((id, tried)),
            _ => None,
        });
        let (id, tried) = tried.expect("told");
        assert_eq!((id.round, tried.len()), (0, 2));
        assert_eq!((tried[0].left_us, tried[0].came), (0, None));
        assert!(tried[1].left_us > 0 && tried.iter().all(|syn| syn.local.is_some()), "{tried:?}");
    }
}

#[test]
fn a_link_is_told_with_the_syn_that_made_it() {
    let world = connected(30);
    let tried = world.events.iter().find_map(|(who, _, event)| match event {
        Event::Tried { tried, .. } if *who == CLIENT => Some(tried),
        _ => None,
    });
    let came: Vec<_> = tried.expect("told").iter().filter_map(|syn| Some(syn.came?.0)).collect();
    assert!(came.contains(&Came::Connected), "{came:?}");
}

#[test]
fn a_second_server_that_is_dead_costs_its_answers_and_no_time() {
    let took = |dead: &'static [&'static str]| {
        let mut world = World::new(30);
        world.dead_servers = dead;
        world.host();
        world.run(Duration::from_secs(5), |_| false);
        let began = world.now;
        world.client(Some(key(1).public()), None);
        assert!(world.run(Duration::from_secs(10), |w| w.both_linked(1)), "{}", world.story());
        world.now - began
    };
    assert_eq!(took(&["203.0.113.9:7862", "203.0.113.9:7863"]), took(&[]));
}

/// Its round's deadlines pass while its last words are under way.
#[test]
fn a_session_that_ends_in_a_round_keeps_nobody_awake() {
    let mut world = World::new(20);
    world.host();
    world.client(Some(key(1).public()), None);
    let begun = |world: &World| {
        world.sessions.iter().find_map(|(who, output)| match output {
            Output::Session { peer, .. } if *who == HOST => Some(*peer),
            _ => None,
        })
    };
    assert!(world.run(Duration::from_secs(10), |world| begun(world).is_some()));
    let peer = begun(&world).expect("a session");
    world.kill(CLIENT);
    world.tell(HOST, Input::End { peer, why: Goodbye::Unauthorised });
    // The world sees to it that no deadline lies in the past.
    world.run(Duration::from_secs(5), |_| false);
    assert!(!world.bound.iter().any(|(who, _)| *who == HOST), "its ports are given back");
}
