//! A whole peer whose server lies, whose network lies, and whose authentic other side lies.

use std::{
    collections::{BTreeSet, VecDeque},
    net::{IpAddr, SocketAddr},
    time::Instant,
};

use punchtunnel::{
    endpoint::{
        AskId, ConnId, Endpoint, Favour, Input, OpenFailure, Output, Path, PeerId, PortsId, Role, Settings,
    },
    nat::{self, Prediction},
    punch::{Effort, PLAN_VERSION, budget::may_open_to},
    secure::{LinkInitiator, LinkProgress, LinkResponder, Psk},
    wire::{
        self, MAX_DATAGRAM,
        examine::Knocked,
        peer::{Goodbye, PeerMessage, RoundId, Start, StartRefusal},
        probe::ProbeAnswer,
        record::MAX_SESSION_BODY,
    },
};

use super::{
    keys::key,
    liar::Liar,
    script::{Script, start},
};

/// The endpoint's own addresses, as the honest part of the world sees them.
const OURS: [u8; 4] = [198, 51, 100, 10];
/// The key of the endpoint; the liar has 2 (the peer) and 9 (the server).
const MINE: usize = 1;
/// Requests to the driver that are remembered; of more the oldest are never answered.
const MOST_ASKED: usize = 512;
/// What an endpoint may want at once: a round's openings on both sides of a redial, and some words.
const MOST_OUTPUTS: usize = 8192;

/// A request to the driver that has no answer yet.
#[derive(Clone)]
enum Asked {
    Admit(AskId),
    Bind(PortsId, u16),
    Probe(PortsId, u8, u16),
    Favour(PortsId, Favour),
    Connect(PortsId, u32, SocketAddr),
}

struct World<'a> {
    now: Instant,
    endpoint: Endpoint,
    liar: Liar,
    asked: VecDeque<Asked>,
    bound: BTreeSet<PortsId>,
    /// Connections that the endpoint knows of, with the liar's end of the handshake.
    conns: Vec<(ConnId, Option<End>)>,
    next_conn: u64,
    sessions: Vec<PeerId>,
    /// The last round that was heard of, and the predictions that were sent for it.
    round: RoundId,
    theirs: Vec<Prediction>,
    reached: Reached,
    script: Script<'a>,
}

/// The liar's end of a connection.
pub(crate) enum End {
    /// Of a connection to a host.
    Initiator(Box<LinkInitiator>),
    /// Of a connection to a client.
    Responder(Box<LinkResponder>),
}

/// How far a script got.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Reached {
    /// The endpoint was a host.
    pub host: bool,
    /// Sessions that began.
    pub sessions: usize,
    /// Connections that were to be opened.
    pub openings: usize,
    /// Links that were nominated.
    pub links: usize,
}

/// Plays the script.
pub(crate) fn run(bytes: &[u8]) {
    play(bytes);
}

/// Plays the script, and says how far it got.
pub fn play(bytes: &[u8]) -> Reached {
    let (mut script, now) = (Script::new(bytes), start());
    let kind = script.byte();
    let name = || "box".to_owned();
    let (host_key, invite) = match kind / 4 % 4 {
        0 => (None, Some((7, Psk(zeroize::Zeroizing::new([7; 32]))))),
        _ => (Some(key(2).public()), None),
    };
    let role = match kind % 4 {
        0 | 1 => Role::Host { name: name() },
        2 => Role::Client { name: name(), host_key, invite },
        _ if kind >= 248 => Role::Owner { name: name() },
        _ => Role::Client { name: name(), host_key, invite },
    };
    let settings = Settings {
        key: key(MINE).clone(),
        servers: vec![super::liar::SERVER.into()],
        server_key: (kind >= 128).then(|| key(9).public()),
        probe_servers: [7862, 7863].map(|port| (super::liar::SERVER.0, port).into()).into(),
        role,
        effort: [Effort::Normal, Effort::Low, Effort::High][usize::from(kind / 16) % 3],
        hints: Vec::new(),
        examine: kind / 64 % 2 == 0,
    };
    let mut world = World {
        now,
        endpoint: Endpoint::new(now, [3; 32], settings),
        liar: Liar::new(now, kind % 4 < 2),
        asked: VecDeque::new(),
        bound: BTreeSet::new(),
        conns: Vec::new(),
        next_conn: 0,
        sessions: Vec::new(),
        round: RoundId { attempt: 1, round: 0 },
        theirs: Vec::new(),
        reached: Reached { host: kind % 4 < 2, ..Reached::default() },
        script,
    };
    world.drain();
    while !world.script.is_over() {
        world.step();
        world.drain();
    }
    world.reached
}

impl World<'_> {
    fn step(&mut self) {
        match self.script.byte() % 32 {
            0..=7 => {
                if let Some(asked) = self.asked.pop_front() {
                    self.answer(asked, true);
                }
            }
            8 | 9 => {
                let one = self.script.below(self.asked.len());
                if let Some(asked) = self.asked.remove(one) {
                    self.answer(asked, false);
                }
            }
            10..=12 => {
                // Straight to what the endpoint waits for.
                self.now = self.endpoint.poll_timeout().unwrap_or(self.now).max(self.now);
                self.time_passed();
            }
            13 => {
                self.now += self.script.duration();
                self.time_passed();
            }
            14..=19 => {
                let message = self.peer_message();
                self.liar.say_to_peer(self.now, message);
            }
            20..=22 => {
                let answers = self.liar.lie(self.now, &mut self.script);
                self.liar.flying.extend(answers);
            }
            23 | 24 => self.bytes_on_a_connection(),
            25 => {
                let path = self.path();
                let datagram = self.script.bytes().to_vec();
                self.endpoint.handle_datagram(self.now, path, &datagram);
            }
            26 => {
                // What flies comes late, damaged, again, or from elsewhere.
                let Some(flying) = self.liar.flying.first().cloned() else { return };
                let datagram = self.script.damage(flying);
                let path = self.path();
                self.endpoint.handle_datagram(self.now, path, &datagram);
            }
            27 => self.liar.direct = !self.liar.direct,
            28 => self.own_side(),
            _ => self.arrive(),
        }
    }

    /// Everything that flies to the endpoint arrives.
    fn arrive(&mut self) {
        for datagram in std::mem::take(&mut self.liar.flying) {
            let path = Path::Udp(super::liar::SERVER.into());
            self.endpoint.handle_datagram(self.now, path, &datagram);
        }
        for datagram in self.liar.direct_datagrams(self.now) {
            let path = Path::Udp(super::liar::PEER.into());
            self.endpoint.handle_datagram(self.now, path, &datagram);
        }
    }

    fn time_passed(&mut self) {
        self.endpoint.handle_timeout(self.now);
        self.drain();
        let next = self.endpoint.poll_timeout();
        assert!(next.is_none_or(|at| at > self.now), "a deadline without an end");
    }

    fn path(&mut self) -> Path {
        let choice = self.script.byte();
        let addr = match choice % 4 {
            0 | 1 => super::liar::SERVER.into(),
            2 => super::liar::PEER.into(),
            _ => SocketAddr::from(([203, 0, 113, choice], 5000)),
        };
        if choice >= 240 { Path::Tcp(addr) } else { Path::Udp(addr) }
    }

    /// An address that somebody names: mostly one of the honest ones.
    fn address(&mut self) -> SocketAddr {
        let ip: IpAddr = match self.script.byte() % 8 {
            0..=2 => super::liar::PEER.0.into(),
            3 | 4 => OURS.into(),
            5 => [127, 0, 0, 1].into(),
            6 => [192, 168, 1, self.script.byte()].into(),
            _ => (std::array::from_fn::<u8, 16, _>(|_| self.script.byte())).into(),
        };
        SocketAddr::new(ip, self.script.u16())
    }

    /// What the driver says to a request.
    fn answer(&mut self, asked: Asked, honest: bool) {
        let input = match asked {
            Asked::Admit(ask) if honest => Input::Admit { ask, verdict: Ok(Psk::none()) },
            Asked::Admit(ask) => {
                let why = wire::server::Decline::Unauthorised;
                Input::Admit { ask, verdict: Err(why) }
            }
            Asked::Bind(ports, count) if honest => {
                let v4 = (0..count).map(|n| port(ports, n)).collect();
                Input::Bound { ports, v4, v6: Vec::new(), lan: Vec::new() }
            }
            Asked::Bind(ports, count) => match self.script.byte() {
                0..=99 => Input::BindFailed { ports, why: "no".into() },
                lan => {
                    // A system that gives fewer, and has a LAN.
                    let v4 = (0..count.saturating_sub(u16::from(lan % 4))).map(|n| port(ports, n)).collect();
                    let v6 = (0..count * u16::from(lan % 2)).map(|n| port(ports, n)).collect();
                    Input::Bound { ports, v4, v6, lan: vec![[192, 168, 1, 2].into()] }
                }
            },
            Asked::Probe(ports, number, local_port) if honest => {
                let observed = SocketAddr::from((OURS, local_port));
                let answer = ProbeAnswer { observed, at_us: u64::from(number) * 100, prediction: None };
                Input::Probed { ports, number, answer: Some(answer) }
            }
            Asked::Probe(ports, number, _) => {
                let answer = (self.script.byte() >= 64).then(|| ProbeAnswer {
                    observed: self.address(),
                    at_us: self.script.u64() >> (self.script.byte() % 64),
                    prediction: self.prediction(),
                });
                Input::Probed { ports, number, answer }
            }
            Asked::Favour(ports, favour) => {
                let answer =
                    if honest { Ok(Knocked::Dropped) } else { Knocked::parse(self.script.byte() % 8) };
                Input::Favour { ports, favour, answer: answer.ok() }
            }
            Asked::Connect(ports, opening, _) if honest => {
                let conn = self.connection();
                Input::Connected { ports, opening, conn }
            }
            Asked::Connect(ports, opening, remote) => match self.script.byte() % 8 {
                0 => Input::Left { ports, left: vec![(opening, self.now)] },
                1 => Input::Accepted { ports, remote, conn: self.connection() },
                2 => Input::Accepted { ports, remote: self.address(), conn: self.connection() },
                3 => Input::ConnectFailed { ports, opening, why: OpenFailure::TimedOut },
                4 => Input::ConnectFailed { ports, opening, why: OpenFailure::Unreachable },
                5 => Input::ConnectFailed { ports, opening, why: OpenFailure::TupleExists },
                6 => Input::ConnectFailed { ports, opening, why: OpenFailure::Other("no".into()) },
                _ => Input::ConnectFailed { ports, opening, why: OpenFailure::Refused },
            },
        };
        self.endpoint.handle(self.now, input);
    }

    /// A connection with the liar at its other end.
    fn connection(&mut self) -> ConnId {
        self.next_conn += 1;
        let conn = ConnId(self.next_conn);
        self.conns.push((
            conn,
            self.liar.end(self.next_conn as u32).map(|(end, first)| {
                self.liar.first = Some((conn, first));
                end
            }),
        ));
        conn
    }

    /// Bytes of the handshake, or others.
    fn bytes_on_a_connection(&mut self) {
        if let Some((conn, bytes)) = self.liar.first.take()
            && !bytes.is_empty()
        {
            let bytes = self.script.damage(bytes);
            return self.endpoint.handle(self.now, Input::Received { conn, bytes });
        }
        let one = self.script.below(self.conns.len());
        let Some((conn, _)) = self.conns.get(one) else { return };
        let conn = *conn;
        let input = match self.script.byte() % 4 {
            0 => Input::Closed { conn },
            _ => Input::Received { conn, bytes: self.script.bytes().to_vec() },
        };
        self.endpoint.handle(self.now, input);
    }

    /// What happens on this side.
    fn own_side(&mut self) {
        let one = self.script.below(self.sessions.len());
        let peer = self.sessions.get(one).copied().unwrap_or(PeerId(1));
        let epoch = u32::from(self.script.byte() % 4);
        let input = match self.script.byte() % 8 {
            0..=2 => Input::LinkLost { peer, epoch },
            3 | 4 => Input::LinkSick { peer, epoch },
            5 => Input::NetworkChanged,
            6 => Input::End { peer, why: Goodbye::Unauthorised },
            _ => Input::Stop,
        };
        self.endpoint.handle(self.now, input);
    }

    fn prediction(&mut self) -> Option<Prediction> {
        let bytes = self.script.bytes();
        wire::decode(bytes, 255).ok()
    }

    /// What an authentic peer says, truly or not.
    fn peer_message(&mut self) -> PeerMessage {
        if self.script.byte().is_multiple_of(4) {
            self.round.attempt = self.round.attempt.wrapping_add(self.script.number());
            self.round.round = self.script.byte() % 5;
        }
        let (id, choice) = (self.round, self.script.byte());
        match choice % 12 {
            0 | 1 => PeerMessage::Prepare { id },
            2 | 3 => {
                let mut theirs = Vec::new();
                if choice < 192 {
                    let ports = (0..16).map(|n| 30_000 + n).collect();
                    let model = nat::Model::Fixed { ports };
                    let mapping = nat::Mapping::EndpointIndependent;
                    theirs.push(Prediction::new(super::liar::PEER.0.into(), model, mapping, 90));
                } else {
                    theirs.extend(self.prediction());
                }
                self.theirs = theirs.clone();
                let lan = (0..self.script.below(4)).map(|_| self.address()).collect();
                PeerMessage::Predicted {
                    id,
                    predictions: theirs,
                    lan,
                    age_ms: self.script.u16(),
                    budget: 1024,
                }
            }
            4 | 5 => {
                // With the digest that the endpoint has, where it told what it predicts.
                let ours = self.liar.heard.as_deref().unwrap_or_default();
                let digest = nat::digest(&self.theirs, ours) ^ u64::from(choice / 128);
                let next = |of: &[Prediction]| of.iter().map(|_| 0).collect();
                let (next, their_next) = (next(&self.theirs), next(ours));
                PeerMessage::Start(Start {
                    id,
                    plan: PLAN_VERSION,
                    variant: choice / 16 % 6,
                    budget: self.script.u16() >> (choice % 16),
                    digest,
                    after_us: u64::from(self.script.number()),
                    sample: self.script.number(),
                    window_ms: self.script.u16(),
                    next,
                    their_next,
                })
            }
            6 => PeerMessage::Started { id },
            7 => {
                let why = [StartRefusal::Digest, StartRefusal::Late, StartRefusal::Busy, StartRefusal::Spent];
                PeerMessage::NotStarted { id, why: why[usize::from(choice / 12) % 4] }
            }
            8 => PeerMessage::Refreshed { id, next: (0..choice / 64).map(|_| self.script.u16()).collect() },
            9 => PeerMessage::LinkDead { epoch: self.script.number() },
            10 if choice < 128 => PeerMessage::LinkSick { epoch: self.script.number() },
            10 => PeerMessage::Goodbye { why: Goodbye::Stopped },
            _ if choice < 128 => PeerMessage::Ping { sample: self.script.number(), nonce: self.script.u64() },
            _ => PeerMessage::Pong { nonce: self.script.u64(), held_us: self.script.number() },
        }
    }

    /// Carries out what the endpoint wants, as far as it is remembered; holds it to its promises.
    fn drain(&mut self) {
        let mut outputs = 0;
        while let Some(output) = self.endpoint.poll(self.now) {
            outputs += 1;
            assert!(outputs < MOST_OUTPUTS, "it wants without end");
            let asked = match output {
                Output::Transmit { path, datagram } => {
                    assert!(datagram.len() <= MAX_DATAGRAM);
                    self.liar.handle(self.now, path, &datagram);
                    continue;
                }
                Output::Admit { ask, key: who, .. } => {
                    assert_eq!(who, key(2).public(), "a key is proved");
                    Asked::Admit(ask)
                }
                Output::Bind { ports, count } => {
                    self.bound.insert(ports);
                    assert!(self.bound.len() <= 64, "punch ports are not released");
                    Asked::Bind(ports, count)
                }
                Output::Probe { ports, number, question, server, .. } => {
                    assert_eq!(server.ip(), IpAddr::from(super::liar::SERVER.0));
                    Asked::Probe(ports, number, question.local_port)
                }
                Output::Favour { ports, favour, .. } => Asked::Favour(ports, favour),
                Output::Connect { ports, opening, local, remote, .. } => {
                    let server = super::liar::SERVER.0.into();
                    let may = match local {
                        Some(_) => may_open_to(remote.ip(), server) && remote.port() >= 1024,
                        None => budget_in_lan(remote),
                    };
                    assert!(may, "a SYN towards {remote}");
                    self.reached.openings += 1;
                    Asked::Connect(ports, opening, remote)
                }
                Output::Send { conn, bytes } => {
                    self.told_on(conn, &bytes);
                    continue;
                }
                Output::Close { conn } => {
                    self.conns.retain(|(other, _)| *other != conn);
                    continue;
                }
                Output::Release { ports } => {
                    assert!(self.bound.remove(&ports), "released what was not bound");
                    continue;
                }
                Output::Session { peer, key: who, .. } => {
                    assert_eq!(who, key(2).public(), "a session is with whoever proved a key");
                    self.sessions.push(peer);
                    self.reached.sessions += 1;
                    continue;
                }
                Output::Link { conn, surplus, .. } => {
                    assert!(self.conns.iter().any(|(other, _)| *other == conn), "a link of a connection");
                    assert!(surplus.len() <= 4 * MAX_SESSION_BODY);
                    self.reached.links += 1;
                    self.conns.retain(|(other, _)| *other != conn);
                    continue;
                }
                Output::Listen { .. }
                | Output::KillLink { .. }
                | Output::SessionEnded { .. }
                | Output::Event(_) => continue,
            };
            if self.asked.len() < MOST_ASKED {
                self.asked.push_back(asked);
            }
        }
    }

    /// The endpoint's bytes on a connection: the liar goes on with the handshake as it should be.
    fn told_on(&mut self, conn: ConnId, bytes: &[u8]) {
        let Some((_, Some(end))) = self.conns.iter_mut().find(|(other, _)| *other == conn) else { return };
        match end {
            End::Initiator(initiator) => {
                if initiator.receive(bytes) == Ok(true)
                    && let Some((_, Some(End::Initiator(initiator)))) = self
                        .conns
                        .iter_mut()
                        .find(|(other, _)| *other == conn)
                        .map(|(c, end)| (*c, end.take()))
                    && let Ok((nominate, ..)) = initiator.nominate()
                {
                    self.liar.first = Some((conn, nominate));
                }
            }
            End::Responder(responder) => {
                let _ = responder.receive(bytes);
                while let Some(progress) = responder.poll() {
                    if let LinkProgress::Send(answer) = progress {
                        self.liar.first = Some((conn, answer));
                    }
                }
            }
        }
    }
}

/// The local port of a punch port.
fn port(ports: PortsId, index: u16) -> u16 {
    20_000 + (ports.0 % 512) as u16 * 64 + index % 64
}

fn budget_in_lan(remote: SocketAddr) -> bool {
    punchtunnel::punch::budget::may_connect_in_lan(remote, super::liar::SERVER.0.into())
}
