//! Two endpoints and a server without NATs and with a perfect TCP: what the negotiation costs, and what
//! it does when something is refused, lost or gone. NATs and TCP's opening are `tests/sim`'s business.

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
    time::{Duration, Instant},
};

use zeroize::Zeroizing;

use super::*;
use crate::{
    nat::Model,
    rendezvous::{Limits, Server, Source},
    secure::{EstablishedLink, Psk, PublicKey},
    wire::{probe::ProbeAnswer, server::Decline},
};

const SERVER: &str = "203.0.113.1:7862";
const HOST: usize = 0;
const CLIENT: usize = 1;

/// Something that happens at a time.
enum Happening {
    ToServer(Source, Vec<u8>),
    ToEndpoint(usize, Path, Vec<u8>),
    Tell(usize, Input),
    Dial { who: usize, local: SocketAddr, remote: SocketAddr, ports: PortsId, opening: u32 },
}

struct World {
    now: Instant,
    began: Instant,
    one_way: Duration,
    server: Server,
    endpoints: Vec<Option<Endpoint>>,
    queue: BTreeMap<(Instant, u64), Happening>,
    next: u64,
    /// Openings that wait for their counterpart.
    dialled: Vec<(SocketAddr, SocketAddr, usize, PortsId, u32)>,
    listening: BTreeMap<SocketAddr, (usize, PortsId)>,
    conns: BTreeMap<(usize, ConnId), (usize, ConnId)>,
    events: Vec<(usize, Duration, Event)>,
    links: Vec<(usize, Duration, EstablishedLink)>,
    sessions: Vec<(usize, Output)>,
    verdict: Result<Psk, Decline>,
    direct_udp: bool,
    server_up: bool,
}

fn key(byte: u8) -> StaticKey {
    StaticKey::from_private(Zeroizing::new([byte; 32]))
}

fn address(who: usize) -> IpAddr {
    IpAddr::from([198, 51, 100, 10 + who as u8])
}

impl World {
    #[expect(clippy::disallowed_methods, reason = "virtual time has to begin somewhere")]
    fn new(one_way_ms: u64) -> Self {
        let now = Instant::now();
        World {
            now,
            began: now,
            one_way: Duration::from_millis(one_way_ms),
            server: Server::new(now, [9; 32], key(9), Limits::default(), []),
            endpoints: vec![None, None],
            queue: BTreeMap::new(),
            next: 0,
            dialled: Vec::new(),
            listening: BTreeMap::new(),
            conns: BTreeMap::new(),
            events: Vec::new(),
            links: Vec::new(),
            sessions: Vec::new(),
            verdict: Ok(Psk::none()),
            direct_udp: true,
            server_up: true,
        }
    }

    fn start(&mut self, who: usize, role: Role) {
        let settings = Settings {
            key: key(who as u8 + 1),
            servers: vec![SERVER.parse().expect("address")],
            server_key: None,
            probe_servers: vec![
                SERVER.parse().expect("address"),
                "203.0.113.1:7863".parse().expect("address"),
            ],
            role,
        };
        self.endpoints[who] = Some(Endpoint::new(self.now, [who as u8 + 70; 32], settings));
        self.drain(who);
    }

    fn host(&mut self) {
        self.start(HOST, Role::Host { name: "myhost".into() });
    }

    fn client(&mut self, host_key: Option<PublicKey>, invite: Option<(u64, Psk)>) {
        self.start(CLIENT, Role::Client { name: "myhost".into(), host_key, invite });
    }

    fn later(&mut self, after: Duration, what: Happening) {
        self.next += 1;
        self.queue.insert((self.now + after, self.next), what);
    }

    fn tell(&mut self, who: usize, input: Input) {
        if let Some(endpoint) = &mut self.endpoints[who] {
            endpoint.handle(self.now, input);
        }
        self.drain(who);
    }

    /// Carries out everything that an endpoint wants.
    fn drain(&mut self, who: usize) {
        while let Some(output) = self.endpoints[who].as_mut().and_then(|e| e.poll(self.now)) {
            self.carry_out(who, output);
        }
        while let Some((to, datagram)) = self.server.poll_transmit() {
            let who = usize::from(to.addr.ip() == address(CLIENT));
            let path = Path::Udp(SERVER.parse().expect("address"));
            self.later(self.one_way, Happening::ToEndpoint(who, path, datagram));
        }
    }

    fn carry_out(&mut self, who: usize, output: Output) {
        let me = SocketAddr::new(address(who), 5000);
        match output {
            Output::Transmit { path: Path::Udp(to), datagram } if to.to_string() == SERVER => {
                self.later(self.one_way, Happening::ToServer(Source { addr: me, udp: true }, datagram));
            }
            Output::Transmit { path: Path::Udp(to), datagram } => {
                if self.direct_udp {
                    let whom = usize::from(to.ip() == address(CLIENT));
                    self.later(self.one_way, Happening::ToEndpoint(whom, Path::Udp(me), datagram));
                }
            }
            Output::Transmit { path: Path::Tcp(_), .. } => {}
            Output::Admit { ask, .. } => self.tell(who, Input::Admit { ask, verdict: self.verdict.clone() }),
            Output::Bind { ports, count } => {
                let v4 = (0..count).map(|i| 20_000 + (ports.0 as u16) * 64 + i).collect();
                self.tell(who, Input::Bound { ports, v4, v6: Vec::new(), lan: Vec::new() });
            }
            Output::Probe { ports, number, question, .. } => {
                let observed = SocketAddr::new(address(who), question.local_port);
                let answer = Some(ProbeAnswer { observed, at_us: u64::from(number) * 100, prediction: None });
                self.later(self.one_way * 3, Happening::Tell(who, Input::Probed { ports, number, answer }));
            }
            Output::Listen { ports, local } => {
                let port = 20_000 + (ports.0 as u16) * 64 + local;
                self.listening.insert(SocketAddr::new(address(who), port), (who, ports));
            }
            Output::Connect { ports, opening, local, remote, at, .. } => {
                let port = local.map_or(0, |local| 20_000 + (ports.0 as u16) * 64 + local);
                let local = SocketAddr::new(address(who), port);
                let after = at.saturating_duration_since(self.now) + self.one_way * 2;
                self.later(after, Happening::Dial { who, local, remote, ports, opening });
            }
            Output::Send { conn, bytes } => {
                if let Some(&(whom, conn)) = self.conns.get(&(who, conn)) {
                    self.later(self.one_way, Happening::Tell(whom, Input::Received { conn, bytes }));
                }
            }
            Output::Close { conn } => {
                self.conns.remove(&(who, conn));
            }
            Output::Release { .. } => {}
            Output::Link { link, .. } => self.links.push((who, self.now - self.began, link)),
            Output::Event(event) => self.events.push((who, self.now - self.began, event)),
            other => self.sessions.push((who, other)),
        }
    }

    fn happen(&mut self, what: Happening) {
        match what {
            Happening::ToServer(from, datagram) => {
                if self.server_up {
                    self.server.handle_datagram(self.now, 1_000, from, &datagram);
                }
                self.drain(HOST);
            }
            Happening::ToEndpoint(who, path, datagram) => {
                if let Some(endpoint) = &mut self.endpoints[who] {
                    endpoint.handle_datagram(self.now, path, &datagram);
                }
                self.drain(who);
            }
            Happening::Tell(who, input) => self.tell(who, input),
            Happening::Dial { who, local, remote, ports, opening } => {
                let other = self.dialled.iter().position(|d| d.0 == remote && d.1 == local);
                let Some(other) = other else {
                    return self.dialled.push((local, remote, who, ports, opening));
                };
                let (_, _, whom, their_ports, their_opening) = self.dialled.remove(other);
                self.next += 2;
                let (mine, theirs) = (ConnId(self.next), ConnId(self.next - 1));
                self.conns.insert((who, mine), (whom, theirs));
                self.conns.insert((whom, theirs), (who, mine));
                self.tell(who, Input::Connected { ports, opening, conn: mine });
                let theirs = Input::Connected { ports: their_ports, opening: their_opening, conn: theirs };
                self.tell(whom, theirs);
            }
        }
    }

    /// Runs until `done`, or for that long.
    fn run(&mut self, limit: Duration, done: impl Fn(&World) -> bool) -> bool {
        let end = self.now + limit;
        while !done(self) {
            let timers = self.endpoints.iter().flatten().filter_map(Endpoint::poll_timeout).min();
            let queued = self.queue.keys().next().map(|(at, _)| *at);
            let Some(next) = timers.into_iter().chain(queued).min().filter(|next| *next <= end) else {
                self.now = end;
                return done(self);
            };
            assert!(self.next < 100_000, "the endpoints talk without end");
            self.next += 1;
            self.now = self.now.max(next);
            if queued.is_some_and(|at| at <= self.now) {
                if let Some((_, what)) = self.queue.pop_first() {
                    self.happen(what);
                }
            } else {
                for who in [HOST, CLIENT] {
                    if let Some(endpoint) = &mut self.endpoints[who] {
                        endpoint.handle_timeout(self.now);
                    }
                    self.drain(who);
                }
            }
        }
        true
    }

    fn both_linked(&self, links: usize) -> bool {
        [HOST, CLIENT].iter().all(|who| self.links.iter().filter(|l| l.0 == *who).count() >= links)
    }

    fn story(&self) -> String {
        self.events.iter().map(|(who, at, event)| format!("{at:?} {who} {event:?}\n")).collect()
    }

    fn heard(&self, who: usize, wanted: impl Fn(&Event) -> bool) -> bool {
        self.events.iter().any(|(whose, _, event)| *whose == who && wanted(event))
    }

    fn peer(&self, who: usize) -> PeerId {
        let session = self.sessions.iter().rev().find_map(|(whose, output)| match output {
            Output::Session { peer, .. } if *whose == who => Some(*peer),
            _ => None,
        });
        session.expect("a session has begun")
    }
}

/// A registered host and a client that knows its key.
fn connected(one_way_ms: u64) -> World {
    let mut world = World::new(one_way_ms);
    world.host();
    assert!(world.run(Duration::from_secs(5), |w| w.heard(HOST, |e| *e == Event::Registered)));
    world.began = world.now;
    world.client(Some(key(1).public()), None);
    let linked = world.run(Duration::from_secs(10), |w| w.both_linked(1));
    assert!(linked, "{}", world.story());
    world
}

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
    assert!(world.run(Duration::from_secs(10), |w| w.heard(CLIENT, |e| *e == Event::NotProved)));
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
    world.endpoints[HOST] = None;
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
