//! Peers, servers and strangers that mean harm, attack by attack: docs/SECURITY.md lists them by these names.

use std::time::Duration;

use super::{openings::Effort, openings::Openings, world::*, *};
use crate::{
    nat::{self, Mapping, Model, Prediction},
    punch::{Opening, PLAN_VERSION, Plan, Verdict},
    secure::{Initiator, Psk, PublicKey, Purpose},
    wire::{
        self,
        peer::{PeerHello, PeerMessage, RoundId, Start},
        server::{Decline, FromServer},
    },
};

const SECOND: Duration = Duration::from_secs(1);
const MS: Duration = Duration::from_millis(1);

/// Somebody who has nothing to do with any of it.
fn victim() -> SocketAddr {
    "192.0.2.66:5000".parse().expect("an address")
}

fn random_at(address: IpAddr) -> Vec<Prediction> {
    vec![Prediction::new(address, Model::Random, Mapping::AddressAndPortDependent, 50)]
}

fn id(attempt: u32) -> RoundId {
    RoundId { attempt, round: 0 }
}

impl World {
    fn endpoint(&mut self, who: usize) -> &mut Endpoint {
        self.endpoints[who].as_mut().expect("running")
    }

    fn line(&mut self, who: usize) -> &mut Line {
        &mut self.endpoint(who).peers.values_mut().next().expect("a session").line
    }

    /// The server says something that an honest one would not.
    fn server_says(&mut self, who: usize, message: FromServer) {
        let now = self.now;
        self.endpoint(who).server_message(now, 0, message);
        self.drain(who);
    }

    /// The client has a round prepared and names these predictions.
    fn predict(&mut self, attempt: u32, predictions: &[Prediction], lan: &[SocketAddr]) {
        self.say(CLIENT, PeerMessage::Prepare { id: id(attempt) });
        self.run(400 * MS, |_| false);
        let predicted = PeerMessage::Predicted {
            id: id(attempt),
            predictions: predictions.to_vec(),
            lan: lan.to_vec(),
            age_ms: 0,
            budget: u16::MAX,
        };
        self.say(CLIENT, predicted);
        self.run(100 * MS, |_| false);
    }

    /// Then it says START, as soon as the host has its own prediction.
    fn lie(&mut self, attempt: u32, predictions: &[Prediction]) {
        self.predict(attempt, predictions, &[]);
        let peer = self.endpoint(HOST).peers.values().next().expect("a session");
        let round = peer.round.as_ref().filter(|round| round.id == id(attempt));
        let Some(mine) = round.and_then(|round| round.mine()) else { return };
        let digest = nat::digest(predictions, mine);
        let now = self.now;
        let Some((_, (sample, after_us))) = self.line(CLIENT).instant(now) else { panic!("no sample") };
        self.say(CLIENT, start(attempt, digest, (sample, after_us)));
        self.run(600 * MS, |_| false);
    }

    /// Openings of the host to an address, and most of them in any time of that length.
    fn opened_to(&self, address: IpAddr, within: Duration) -> (usize, usize) {
        let to = |(who, remote, _): &&(usize, SocketAddr, Instant)| *who == HOST && remote.ip() == address;
        let mut at: Vec<Instant> = self.opened.iter().filter(to).map(|(.., at)| *at).collect();
        at.sort_unstable();
        let before = |end: Instant| at.partition_point(|at| *at < end);
        let most = at.iter().map(|from| before(*from + within) - before(*from));
        (at.len(), most.max().unwrap_or(0))
    }

    /// The session that there was goes on, and gets another link when its own is lost.
    fn goes_on(&mut self) {
        let links = self.links.iter().filter(|link| link.0 == CLIENT).count();
        self.drop_links(&[HOST, CLIENT]);
        assert!(self.run(20 * SECOND, |w| w.both_linked(links + 1)), "{}", self.story());
        let ended = |(_, output): &(usize, Output)| matches!(output, Output::SessionEnded { .. });
        assert!(!self.sessions.iter().any(ended));
    }

    /// The client's next run gets in: what the one before has said harmed nobody else.
    fn next_run_gets_in(&mut self) {
        self.kill(CLIENT);
        let links = self.links.len();
        self.client_of(99);
        assert!(self.run(20 * SECOND, |w| w.links.len() >= links + 2), "{}", self.story());
    }
}

fn start(attempt: u32, digest: u64, (sample, after_us): (u32, u64)) -> PeerMessage {
    PeerMessage::Start(Start {
        id: id(attempt),
        plan: PLAN_VERSION,
        variant: 0,
        budget: u16::MAX,
        digest,
        after_us,
        sample,
        window_ms: 500,
        next: Vec::new(),
        their_next: Vec::new(),
    })
}

/// A session that stands for a while.
fn settled() -> World {
    let mut world = connected(20);
    world.run(5 * SECOND, |_| false);
    world
}

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

// A server that lies.

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

// Strangers.

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
