//! Two endpoints and a server without NATs and with a perfect TCP, for tests. NATs and TCP's opening are
//! `tests/sim`'s business.

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
    time::{Duration, Instant},
};

use zeroize::Zeroizing;

use super::*;
use crate::{
    punch::schedule::ROUND,
    rendezvous::{Limits, Server, Source},
    secure::{EstablishedLink, Psk, PublicKey},
    testing::start,
    wire::{
        examine::{Knocked, Origin},
        peer::PeerMessage,
        probe::ProbeAnswer,
        server::Decline,
    },
};

pub(super) const SERVER: &str = "203.0.113.1:7862";
pub(super) const HOST: usize = 0;
pub(super) const CLIENT: usize = 1;

/// Something that happens at a time.
pub(super) enum Happening {
    ToServer(Source, Vec<u8>),
    ToEndpoint(usize, Path, Vec<u8>),
    Tell(usize, Input),
    Dial { who: usize, local: SocketAddr, remote: SocketAddr, ports: PortsId, opening: u32 },
}

pub(super) struct World {
    pub(super) now: Instant,
    pub(super) began: Instant,
    pub(super) one_way: Duration,
    pub(super) server: Server,
    pub(super) endpoints: Vec<Option<Endpoint>>,
    pub(super) queue: BTreeMap<(Instant, u64), Happening>,
    pub(super) next: u64,
    /// Openings that wait for their counterpart.
    pub(super) dialled: Vec<(SocketAddr, SocketAddr, usize, PortsId, u32, Instant)>,
    pub(super) listening: BTreeMap<SocketAddr, (usize, PortsId)>,
    pub(super) conns: BTreeMap<(usize, ConnId), (usize, ConnId)>,
    pub(super) events: Vec<(usize, Duration, Event)>,
    pub(super) links: Vec<(usize, Duration, EstablishedLink)>,
    pub(super) sessions: Vec<(usize, Output)>,
    pub(super) verdict: Result<Psk, Decline>,
    pub(super) direct_udp: bool,
    pub(super) server_up: bool,
    /// Where each endpoint's UDP socket is seen.
    pub(super) at: [SocketAddr; 2],
    /// A direct datagram takes this much longer.
    pub(super) direct_delay: Duration,
    /// The server's address in another family, over which nothing arrives.
    pub(super) other_family: Option<SocketAddr>,
    /// TCP connections complete.
    pub(super) tcp: bool,
    /// Which of the direct datagrams are lost, by their number.
    pub(super) lost: Box<dyn FnMut(usize) -> bool>,
    /// Direct datagrams so far.
    pub(super) datagrams: usize,
    /// What the server finds when it opens towards each side; `None` where a side does not ask.
    pub(super) nats: [Option<Answers>; 2],
    /// Probed by both sides, without an answer.
    pub(super) dead_servers: &'static [&'static str],
    /// What the client remembers.
    pub(super) hints: Vec<Hint>,
    /// Connections that each side was to open.
    pub(super) connects: [usize; 2],
    /// Where they went, and when they were to leave.
    pub(super) opened: Vec<(usize, SocketAddr, Instant)>,
    /// Source that is written on the client's direct datagrams, where that is forged.
    pub(super) forged: Option<SocketAddr>,
    /// Direct datagrams of the host, by where they go.
    pub(super) sent: BTreeMap<SocketAddr, usize>,
    /// What the probe server says each side's address is, where it lies.
    pub(super) observed: [Option<IpAddr>; 2],
    /// Sets of punch ports that are bound.
    pub(super) bound: std::collections::BTreeSet<(usize, PortsId)>,
}

pub(super) fn key(byte: u8) -> StaticKey {
    StaticKey::from_private(Zeroizing::new([byte; 32]))
}

pub(super) fn address(who: usize) -> IpAddr {
    IpAddr::from([198, 51, 100, 10 + who as u8])
}

impl World {
    pub(super) fn new(one_way_ms: u64) -> Self {
        let now = start();
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
            at: [HOST, CLIENT].map(|who| SocketAddr::new(address(who), 5000)),
            direct_delay: Duration::ZERO,
            other_family: None,
            tcp: true,
            lost: Box::new(|_| false),
            datagrams: 0,
            nats: [None, None],
            dead_servers: &[],
            hints: Vec::new(),
            connects: [0, 0],
            opened: Vec::new(),
            forged: None,
            sent: BTreeMap::new(),
            observed: [None, None],
            bound: std::collections::BTreeSet::new(),
        }
    }

    fn start(&mut self, who: usize, role: Role) {
        self.start_as(who, role, [who as u8 + 70; 32]);
    }

    fn start_as(&mut self, who: usize, role: Role, seed: [u8; 32]) {
        let settings = Settings {
            key: key(who as u8 + 1),
            servers: self.other_family.into_iter().chain([SERVER.parse().expect("address")]).collect(),
            server_key: None,
            probe_servers: [SERVER, "203.0.113.1:7863"]
                .into_iter()
                .chain(self.dead_servers.iter().copied())
                .map(|server| server.parse().expect("address"))
                .collect(),
            role,
            effort: crate::punch::Effort::default(),
            hints: self.hints.clone(),
            examine: self.nats[who].is_some(),
        };
        self.endpoints[who] = Some(Endpoint::new(self.now, seed, settings));
        self.drain(who);
    }

    pub(super) fn host(&mut self) {
        self.start(HOST, Role::Host { name: "myhost".into() });
    }

    pub(super) fn owner(&mut self) {
        self.start(HOST, Role::Owner { name: "myhost".into() });
    }

    pub(super) fn client(&mut self, host_key: Option<PublicKey>, invite: Option<(u64, Psk)>) {
        self.start(CLIENT, Role::Client { name: "myhost".into(), host_key, invite });
    }

    /// Another run of the client.
    pub(super) fn client_of(&mut self, seed: u8) {
        let role = Role::Client { name: "myhost".into(), host_key: Some(key(1).public()), invite: None };
        self.bound.retain(|(who, _)| *who != CLIENT);
        self.start_as(CLIENT, role, [seed; 32]);
    }

    pub(super) fn later(&mut self, after: Duration, what: Happening) {
        self.next += 1;
        self.queue.insert((self.now + after, self.next), what);
    }

    pub(super) fn tell(&mut self, who: usize, input: Input) {
        if let Some(endpoint) = &mut self.endpoints[who] {
            endpoint.handle(self.now, input);
        }
        self.drain(who);
    }

    /// Carries out everything that an endpoint wants.
    pub(super) fn drain(&mut self, who: usize) {
        while let Some(output) = self.endpoints[who].as_mut().and_then(|e| e.poll(self.now)) {
            self.carry_out(who, output);
        }
        while let Some((to, datagram)) = self.server.poll_transmit() {
            let Some(who) = self.at.iter().position(|at| *at == to.addr) else { continue };
            let path = Path::Udp(SERVER.parse().expect("address"));
            self.later(self.one_way, Happening::ToEndpoint(who, path, datagram));
        }
    }

    pub(super) fn carry_out(&mut self, who: usize, output: Output) {
        let me = self.at[who];
        match output {
            Output::Transmit { path: Path::Udp(to), datagram } if to.to_string() == SERVER => {
                self.later(self.one_way, Happening::ToServer(Source { addr: me, udp: true }, datagram));
            }
            Output::Transmit { path: Path::Udp(to), datagram } => {
                self.datagrams += 1;
                *self.sent.entry(to).or_default() += usize::from(who == HOST);
                let me = self.forged.filter(|_| who == CLIENT).unwrap_or(me);
                if self.direct_udp
                    && !(self.lost)(self.datagrams)
                    && let Some(whom) = self.at.iter().position(|at| *at == to)
                {
                    let delay = self.one_way + self.direct_delay;
                    self.later(delay, Happening::ToEndpoint(whom, Path::Udp(me), datagram));
                }
            }
            Output::Transmit { path: Path::Tcp(_), .. } => {}
            Output::Admit { ask, .. } => self.tell(who, Input::Admit { ask, verdict: self.verdict.clone() }),
            Output::Bind { ports, count } => {
                self.bound.insert((who, ports));
                assert!(self.bound.len() < 64, "punch ports are not released");
                let v4 = (0..count).map(|i| 20_000 + (ports.0 as u16) * 64 + i).collect();
                self.tell(who, Input::Bound { ports, v4, v6: Vec::new(), lan: Vec::new() });
            }
            Output::Probe { server, .. } if self.dead_servers.contains(&server.to_string().as_str()) => {}
            Output::Probe { ports, number, question, .. } => {
                let seen = self.observed[who].unwrap_or(address(who));
                let observed = SocketAddr::new(seen, question.local_port);
                let answer = ProbeAnswer { observed, at_us: u64::from(number) * 100, prediction: None };
                let answer = self.server_up.then_some(answer);
                // SYN, SYN/ACK, question, answer.
                self.later(self.one_way * 4, Happening::Tell(who, Input::Probed { ports, number, answer }));
            }
            Output::Favour { ports, favour, .. } => {
                let found = self.nats[who].unwrap_or_default();
                let (answer, limit) = match favour {
                    Favour::Knock(Origin::Port) => (found.from_port, 1500),
                    Favour::Knock(Origin::Address) => (found.from_address, 1500),
                    Favour::Cross => (found.crossing, 800),
                };
                let limit = if answer == Some(Knocked::Dropped) { limit } else { 0 };
                // SYN, SYN/ACK, question, the server's SYN, its answer, the word that it came.
                let after = self.one_way * 6 + Duration::from_millis(limit);
                self.later(after, Happening::Tell(who, Input::Favour { ports, favour, answer }));
            }
            Output::Listen { ports, local } => {
                let port = 20_000 + (ports.0 as u16) * 64 + local;
                self.listening.insert(SocketAddr::new(address(who), port), (who, ports));
            }
            Output::Connect { ports, opening, local, remote, at, .. } => {
                let port = local.map_or(0, |local| 20_000 + (ports.0 as u16) * 64 + local);
                let local = SocketAddr::new(address(who), port);
                self.connects[who] += 1;
                self.opened.push((who, remote, at));
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
            Output::Release { ports } => {
                assert!(self.bound.remove(&(who, ports)), "released what was not bound");
            }
            Output::Link { link, .. } => self.links.push((who, self.now - self.began, link)),
            Output::Event(event) => self.events.push((who, self.now - self.began, event)),
            other => self.sessions.push((who, other)),
        }
    }

    pub(super) fn happen(&mut self, what: Happening) {
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
                if !self.tcp {
                    return;
                }
                // An earlier try has long been given up by its kernel.
                let now = self.now;
                self.dialled.retain(|d| (d.0, d.1) != (local, remote) && d.5 + ROUND > now);
                let other = self.dialled.iter().position(|d| d.0 == remote && d.1 == local);
                let Some(other) = other else {
                    return self.dialled.push((local, remote, who, ports, opening, now));
                };
                let (_, _, whom, their_ports, their_opening, _) = self.dialled.remove(other);
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
    pub(super) fn run(&mut self, limit: Duration, done: impl Fn(&World) -> bool) -> bool {
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
                    let timeout = self.endpoints[who].as_ref().and_then(Endpoint::poll_timeout);
                    assert!(timeout.is_none_or(|at| at > self.now), "a deadline without an end");
                }
            }
        }
        true
    }

    pub(super) fn both_linked(&self, links: usize) -> bool {
        [HOST, CLIENT].iter().all(|who| self.links.iter().filter(|l| l.0 == *who).count() >= links)
    }

    /// The program is killed: nothing is said or released any more.
    pub(super) fn kill(&mut self, who: usize) {
        self.endpoints[who] = None;
        self.bound.retain(|(whose, _)| *whose != who);
    }

    pub(super) fn story(&self) -> String {
        self.events.iter().map(|(who, at, event)| format!("{at:?} {who} {event:?}\n")).collect()
    }

    pub(super) fn heard(&self, who: usize, wanted: impl Fn(&Event) -> bool) -> bool {
        self.events.iter().any(|(whose, _, event)| *whose == who && wanted(event))
    }

    /// Kinds of the rounds that a side opened.
    pub(super) fn kinds(&self, who: usize) -> Vec<u8> {
        let kind = |(whose, _, event): &(usize, Duration, Event)| match event {
            Event::Opening { variant, .. } if *whose == who => Some(*variant),
            _ => None,
        };
        self.events.iter().filter_map(kind).collect()
    }

    pub(super) fn drop_links(&mut self, whose: &[usize]) {
        let epoch = self.links.last().expect("linked").2.epoch;
        for &who in whose {
            let peer = self.peer(who);
            self.tell(who, Input::LinkLost { peer, epoch });
        }
    }

    /// Says something to the other side that an honest endpoint would not.
    pub(super) fn say(&mut self, who: usize, message: PeerMessage) {
        let now = self.now;
        let endpoint = self.endpoints[who].as_mut().expect("running");
        let line = &mut endpoint.peers.values_mut().next().expect("a session").line;
        let _ = line.send(now, message);
        self.drain(who);
    }

    pub(super) fn count(&self, who: usize, wanted: impl Fn(&Event) -> bool) -> usize {
        self.events.iter().filter(|(whose, _, event)| *whose == who && wanted(event)).count()
    }

    pub(super) fn peer(&self, who: usize) -> PeerId {
        let session = self.sessions.iter().rev().find_map(|(whose, output)| match output {
            Output::Session { peer, .. } if *whose == who => Some(*peer),
            _ => None,
        });
        session.expect("a session has begun")
    }
}

/// A registered host and a client that knows its key.
pub(super) fn connected(one_way_ms: u64) -> World {
    let mut world = World::new(one_way_ms);
    world.host();
    assert!(world.run(Duration::from_secs(5), |w| w.heard(HOST, |e| *e == Event::Registered)));
    world.began = world.now;
    world.client(Some(key(1).public()), None);
    let linked = world.run(Duration::from_secs(10), |w| w.both_linked(1));
    assert!(linked, "{}", world.story());
    world
}
