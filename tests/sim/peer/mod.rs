//! A whole peer in the world: the driver that `net/` is for real sockets, in the shape of a program.
//!
//! It carries out what its [`Endpoint`] wants and hands links to a [`Session`] for each other peer. The
//! client opens one stream in each session and the host answers it ([`Exchange`]): bytes that come back
//! as they were sent are the proof of a link.

mod favours;
mod sockets;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, SocketAddr},
    time::{Duration, Instant},
};

use punchtunnel::{
    endpoint::{ConnId, Endpoint, Event, Input, OpenFailure, Output, Path, PeerId, PortsId, Settings},
    secure::{Psk, PublicKey},
    wire::{
        peer::Goodbye,
        probe::{ProbeQuestion, Purpose, preamble},
        server::Decline,
    },
};

use self::favours::Asking;
use crate::{
    exchange::Tunnel,
    tcp::{self, Failure, SockId},
    world::{Io, Program},
};

/// The UDP port that every peer binds.
pub const UDP_PORT: u16 = 41_641;

/// Who is let in.
#[derive(Default)]
pub struct Admission {
    pub authorised: BTreeSet<PublicKey>,
    pub invites: BTreeMap<u64, Psk>,
}

/// A peer's program.
pub struct Peer {
    seed: [u8; 32],
    settings: Option<Settings>,
    endpoint: Option<Endpoint>,
    pub admission: Admission,
    /// What the endpoint told a person, and when.
    pub events: Vec<(Instant, Event)>,
    pub sessions: BTreeMap<PeerId, Tunnel>,
    /// When the endpoint began.
    pub began: Option<Instant>,
    /// Bytes that the client is to exchange in its stream.
    pub goal: usize,
    /// The test plays the programs.
    pub scripted: bool,
    /// Sessions that ended, and why.
    pub ended: Vec<Goodbye>,
    socks: BTreeMap<SockId, Use>,
    lines: BTreeMap<SocketAddr, Line>,
    listening: BTreeMap<u16, PortsId>,
    sets: BTreeMap<PortsId, Vec<u16>>,
    conns: BTreeMap<ConnId, SockId>,
    orders: BTreeMap<(Instant, u64), Order>,
    /// Says which port was given away last.
    next_port: u16,
    count: u64,
    /// How late the machine is where it is to do something at an instant.
    late: Duration,
}

/// Datagrams over TCP to one server.
struct Line {
    sock: Option<SockId>,
    buffer: Vec<u8>,
}

/// What a TCP connection is for.
enum Use {
    Datagrams { server: SocketAddr },
    Probe { ports: PortsId, number: u8, question: ProbeQuestion, buffer: Vec<u8> },
    Favour(Asking),
    Opening { ports: PortsId, opening: u32 },
    Conn { ports: PortsId, conn: ConnId },
    Link { peer: PeerId, epoch: u32 },
}

/// An opening that waits for its instant.
struct Order {
    ports: PortsId,
    opening: u32,
    local: Option<u16>,
    remote: SocketAddr,
    ttl: Option<u8>,
}

impl Peer {
    /// A peer that begins when it is first woken; the client exchanges `goal` bytes with the host.
    ///
    /// It is `late` where it is to do something at an instant.
    pub fn new(seed: u64, settings: Settings, admission: Admission, goal: usize, late: Duration) -> Self {
        Peer {
            seed: crate::spread(seed),
            settings: Some(settings),
            endpoint: None,
            admission,
            events: Vec::new(),
            sessions: BTreeMap::new(),
            began: None,
            goal,
            scripted: false,
            ended: Vec::new(),
            socks: BTreeMap::new(),
            lines: BTreeMap::new(),
            listening: BTreeMap::new(),
            sets: BTreeMap::new(),
            conns: BTreeMap::new(),
            orders: BTreeMap::new(),
            next_port: (seed % 16_384) as u16,
            count: 0,
            late,
        }
    }

    /// The session, where there is one.
    pub fn session(&self) -> Option<&Tunnel> {
        self.sessions.values().next()
    }

    /// The exchange of the first session is complete.
    pub fn is_done(&self) -> bool {
        self.session().is_some_and(|tunnel| tunnel.exchanged() >= self.goal)
    }

    /// Something for the endpoint; what it wants then is carried out at once.
    pub fn tell(&mut self, io: &mut Io<'_>, input: Input) {
        if let Some(endpoint) = &mut self.endpoint {
            endpoint.handle(io.now, input);
            self.drain(io);
        }
    }

    /// Cuts the link of every session: by a reset, or without a word.
    pub fn kill_links(&mut self, io: &mut Io<'_>, reset: bool) {
        let links: Vec<SockId> =
            self.socks.iter().filter(|(_, u)| matches!(u, Use::Link { .. })).map(|(&sock, _)| sock).collect();
        for sock in links {
            if reset {
                io.tcp.abort(sock);
            } else {
                io.tcp.forget(sock);
            }
            self.ended(io, sock);
        }
    }

    /// The other ends of the links, as they are seen from here.
    pub fn link_ends(&self, io: &Io<'_>) -> Vec<SocketAddr> {
        let links = self.socks.iter().filter(|(_, usage)| matches!(usage, Use::Link { .. }));
        links.filter_map(|(&sock, _)| io.tcp.remote(sock)).collect()
    }

    /// What the other side sends on the links is lost from now on; nobody here knows.
    pub fn deafen_links(&mut self, io: &mut Io<'_>) {
        for (&sock, _) in self.socks.iter().filter(|(_, usage)| matches!(usage, Use::Link { .. })) {
            io.tcp.deafen(sock);
        }
    }

    /// The machine slept, by its clocks.
    pub fn woke(&mut self, io: &mut Io<'_>) {
        self.renew_lines(io);
        self.tell(io, Input::NetworkChanged);
    }

    /// The machine is somewhere else in the network: links from an address that is gone are given up, as
    /// `net` does.
    pub fn moved(&mut self, io: &mut Io<'_>) {
        self.renew_lines(io);
        self.tell(io, Input::NetworkChanged);
        self.kill_links(io, false);
    }

    /// The events that satisfy a condition.
    pub fn told(&self, condition: impl Fn(&Event) -> bool) -> usize {
        self.events.iter().filter(|(_, event)| condition(event)).count()
    }

    fn begin(&mut self, now: Instant) {
        if let Some(settings) = self.settings.take() {
            self.endpoint = Some(Endpoint::new(now, self.seed, settings));
            self.began = Some(now);
        }
    }

    fn arrived(&mut self, io: &mut Io<'_>, path: Path, datagram: &[u8]) {
        if let Some(endpoint) = &mut self.endpoint {
            endpoint.handle_datagram(io.now, path, datagram);
            self.drain(io);
        }
    }

    /// Carries out what the endpoint wants, until it wants nothing more.
    fn drain(&mut self, io: &mut Io<'_>) {
        while let Some(output) = self.endpoint.as_mut().and_then(|endpoint| endpoint.poll(io.now)) {
            self.carry_out(io, output);
        }
    }

    fn carry_out(&mut self, io: &mut Io<'_>, output: Output) {
        match output {
            Output::Transmit { path: Path::Udp(to), datagram } => io.send(UDP_PORT, to, datagram),
            Output::Transmit { path: Path::Tcp(to), datagram } => self.send_over_tcp(io, to, &datagram),
            Output::Admit { ask, key, invite } => {
                let invited = invite.map(|id| self.admission.invites.get(&id).cloned());
                let verdict = match invited {
                    Some(Some(secret)) => Ok(secret),
                    _ if self.admission.authorised.contains(&key) => Ok(Psk::none()),
                    Some(None) => Err(Decline::Invite),
                    None => Err(Decline::Unauthorised),
                };
                self.tell(io, Input::Admit { ask, verdict });
            }
            Output::Bind { ports, count } => {
                let bound: Vec<u16> = (0..count).map(|_| self.port()).collect();
                self.sets.insert(ports, bound.clone());
                let has = |v4: bool| io.addresses.iter().any(|ip| ip.is_ipv4() == v4);
                let given = |v4: bool| if has(v4) { bound.clone() } else { Vec::new() };
                let lan = io.addresses.iter().copied().filter(is_lan).collect();
                self.tell(io, Input::Bound { ports, v4: given(true), v6: given(false), lan });
            }
            Output::Probe { ports, number, local, server, question } => {
                let Some(port) = self.punch_port(ports, local) else { return };
                match io.tcp.connect(io.now, port, server, None) {
                    Ok(sock) => {
                        let buffer = Vec::new();
                        self.socks.insert(sock, Use::Probe { ports, number, question, buffer });
                    }
                    Err(_) => self.tell(io, Input::Probed { ports, number, answer: None }),
                }
            }
            Output::Favour { ports, local, server, favour } => self.ask(io, (ports, local), server, favour),
            Output::Listen { ports, local } => {
                if let Some(port) = self.punch_port(ports, local) {
                    self.listening.insert(port, ports);
                    io.tcp.listen(port);
                }
            }
            Output::Connect { ports, opening, local, remote, at, ttl } => {
                self.count += 1;
                let order = Order { ports, opening, local, remote, ttl };
                let at = if at > io.now { at + self.late } else { at };
                self.orders.insert((at, self.count), order);
            }
            Output::Send { conn, bytes } => {
                if let Some(&sock) = self.conns.get(&conn) {
                    io.tcp.send(io.now, sock, &bytes);
                }
            }
            Output::Close { conn } => {
                if let Some(sock) = self.conns.remove(&conn) {
                    self.socks.remove(&sock);
                    io.tcp.close(io.now, sock);
                }
            }
            Output::Release { ports } => self.release(io, ports),
            Output::Session { peer, keys, initiator, .. } => {
                self.sessions.insert(peer, Tunnel::new(io.now, initiator, keys, self.scripted));
            }
            Output::Link { peer, conn, link, surplus } => {
                let epoch = link.epoch;
                let tunnel = self.sessions.get_mut(&peer).expect("a session begins before its links");
                let sock = self.conns.remove(&conn);
                self.socks.extend(sock.map(|sock| (sock, Use::Link { peer, epoch })));
                let before = tunnel.attach(io.now, link, sock, surplus);
                let lost = if sock.is_some() { tunnel.take_lost() } else { Some(epoch) };
                if let Some(sock) = before {
                    self.socks.remove(&sock);
                    io.tcp.close(io.now, sock);
                }
                if let Some(epoch) = lost {
                    self.lose(io, peer, epoch);
                }
            }
            Output::KillLink { peer, epoch } => {
                if let Some(sock) = self.sessions.get_mut(&peer).and_then(|t| t.detach(io.now, epoch)) {
                    self.socks.remove(&sock);
                    io.tcp.close(io.now, sock);
                }
            }
            Output::SessionEnded { peer, why } => {
                self.ended.push(why);
                self.sessions.remove(&peer);
            }
            Output::Event(event) => self.events.push((io.now, event)),
        }
    }
}

impl Program for Peer {
    fn datagram(&mut self, io: &mut Io<'_>, from: SocketAddr, _: SocketAddr, bytes: &[u8]) {
        self.begin(io.now);
        self.arrived(io, Path::Udp(from), bytes);
    }

    fn tcp(&mut self, io: &mut Io<'_>, event: tcp::Event) {
        match event {
            tcp::Event::Connected(sock) => match self.socks.get(&sock) {
                Some(Use::Probe { question, .. }) => {
                    let asked = [&preamble(Purpose::Probe)[..], &question.encode()].concat();
                    io.tcp.send(io.now, sock, &asked);
                }
                Some(&Use::Opening { ports, opening }) => {
                    let conn = self.new_conn(ports, sock);
                    self.tell(io, Input::Connected { ports, opening, conn });
                }
                _ => {}
            },
            tcp::Event::Failed(sock, _) if matches!(self.socks.get(&sock), Some(Use::Favour(_))) => {
                self.unfavoured(io, sock, None);
            }
            tcp::Event::Failed(sock, failure) => match self.socks.remove(&sock) {
                Some(Use::Probe { ports, number, .. }) => {
                    self.tell(io, Input::Probed { ports, number, answer: None });
                }
                Some(Use::Opening { ports, opening }) => {
                    let why = match failure {
                        Failure::Refused => OpenFailure::Refused,
                        Failure::Unreachable => OpenFailure::Unreachable,
                        Failure::TimedOut => OpenFailure::TimedOut,
                    };
                    self.tell(io, Input::ConnectFailed { ports, opening, why });
                }
                Some(Use::Datagrams { server }) => drop(self.lines.remove(&server)),
                _ => {}
            },
            tcp::Event::Accepted { sock, local, remote } => match self.listening.get(&local.port()) {
                Some(&ports) => {
                    let conn = self.new_conn(ports, sock);
                    self.tell(io, Input::Accepted { ports, remote, conn });
                }
                None => io.tcp.abort(sock),
            },
            tcp::Event::Received(sock, bytes) => self.received(io, sock, bytes),
            tcp::Event::Ended(sock, _) => self.ended(io, sock),
        }
    }

    fn wake(&mut self, io: &mut Io<'_>) {
        self.begin(io.now);
        loop {
            while let Some(order) = self.orders.first_entry().filter(|o| o.key().0 <= io.now) {
                let order = order.remove();
                self.open(io, order);
            }
            let Some(endpoint) = &mut self.endpoint else { return };
            if endpoint.poll_timeout().is_some_and(|at| at <= io.now) {
                endpoint.handle_timeout(io.now);
            }
            self.drain(io);
            let (mut lost, mut sick) = (Vec::new(), Vec::new());
            for (&peer, tunnel) in &mut self.sessions {
                tunnel.advance(io, self.goal);
                lost.extend(tunnel.take_lost().map(|epoch| (peer, epoch)));
                sick.extend(tunnel.take_sick().map(|epoch| (peer, epoch)));
            }
            let moved = !lost.is_empty() || !sick.is_empty();
            for (peer, epoch) in sick {
                self.tell(io, Input::LinkSick { peer, epoch });
            }
            for (peer, epoch) in lost {
                self.lose(io, peer, epoch);
            }
            if !moved && self.orders.keys().next().is_none_or(|(at, _)| *at > io.now) {
                return;
            }
        }
    }

    fn deadline(&self) -> Option<Instant> {
        let order = self.orders.keys().next().map(|(at, _)| *at);
        let sessions = self.sessions.values().filter_map(Tunnel::deadline);
        let endpoint = self.endpoint.as_ref().and_then(Endpoint::poll_timeout);
        order.into_iter().chain(sessions).chain(endpoint).min()
    }
}

/// An address of a LAN.
fn is_lan(ip: &IpAddr) -> bool {
    match ip {
        IpAddr::V4(v4) => v4.is_private(),
        IpAddr::V6(v6) => v6.is_unique_local(),
    }
}
