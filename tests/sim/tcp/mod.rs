//! A minimal TCP: the opening as Linux does it, in every detail that a punch meets; behind it an ordered,
//! reliable pipe without congestion control.
//!
//! The opening follows RFC 9293 §3.5 and §3.10.7 (simultaneous open included). What is Linux's own: a
//! tuple that a listener holds half-open makes `connect` fail with EADDRNOTAVAIL, SYNs are repeated each
//! second four times before the distances double, and an ICMP error of any kind ends an opening.
//! Sequence numbers are 64 bits wide with the connection's number in the upper half, so that a late
//! segment of an earlier connection with the same tuple is told apart as 32 random bits would.

mod opening;
mod pipe;
mod segment;

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    net::{IpAddr, SocketAddr},
    time::{Duration, Instant},
};

pub use self::segment::Segment;
use crate::nat_model::{Flags, Kind, Packet, Transport};

/// A connection, numbered by its host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SockId(pub u64);

/// How an opening failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Failure {
    /// ECONNREFUSED.
    Refused,
    /// EHOSTUNREACH.
    Unreachable,
    /// ETIMEDOUT.
    TimedOut,
}

/// The tuple exists: EADDRNOTAVAIL.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TupleExists;

/// How an established connection ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    Fin,
    Reset,
    TimedOut,
}

/// What a host's programs hear.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    Connected(SockId),
    Failed(SockId, Failure),
    Accepted { sock: SockId, local: SocketAddr, remote: SocketAddr },
    Received(SockId, Vec<u8>),
    Ended(SockId, End),
}

/// Bytes a segment.
const MSS: usize = 1400;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    SynSent,
    SynReceived,
    Established,
}

#[derive(Debug)]
struct InFlight {
    seq: u64,
    bytes: Vec<u8>,
    fin: bool,
    sent: Instant,
    repeated: bool,
}

#[derive(Debug)]
struct Conn {
    local: SocketAddr,
    remote: SocketAddr,
    state: State,
    /// Made by a listener: nobody knows of it before it is established.
    passive: bool,
    /// Time to live of the next SYN.
    ttl: Option<u8>,
    isn: u64,
    next_seq: u64,
    expected: u64,
    queued: VecDeque<(Vec<u8>, bool)>,
    in_flight: VecDeque<InFlight>,
    early: BTreeMap<u64, (Vec<u8>, bool)>,
    tries: u32,
    /// ACKs in a row that acknowledged nothing new.
    duplicates: u32,
    rtt: Duration,
    /// How far single round trips are from that, on average.
    variation: Duration,
    opened: Instant,
    timer: Option<Instant>,
    /// What of it is in the stack's timers.
    armed: Option<Instant>,
    closed: bool,
    peer_closed: bool,
    /// Nothing of it arrives any more, and nobody says so.
    deaf: bool,
    /// Longest time that data may stay unacknowledged (TCP_USER_TIMEOUT).
    patience: Option<Duration>,
}

/// The TCP of one host.
#[derive(Debug, Default)]
pub struct Stack {
    addresses: Vec<IpAddr>,
    conns: BTreeMap<SockId, Conn>,
    tuples: BTreeMap<(SocketAddr, SocketAddr), SockId>,
    timers: BTreeSet<(Instant, SockId)>,
    listeners: BTreeSet<u16>,
    /// Ports whose listener has no room and answers no SYN.
    full: BTreeSet<u16>,
    last: u64,
    out: VecDeque<Segment>,
    events: VecDeque<Event>,
}

impl Stack {
    pub fn new(addresses: Vec<IpAddr>) -> Self {
        Stack { addresses, ..Stack::default() }
    }

    /// The host has other addresses from now on; connections from the old ones are left to die.
    pub fn set_addresses(&mut self, addresses: Vec<IpAddr>) {
        self.addresses = addresses;
    }

    /// Listens on a port, on every address.
    pub fn listen(&mut self, port: u16) {
        self.listeners.insert(port);
    }

    /// SYNs to a port are swallowed, as by a listener whose queue is full; or no longer.
    pub fn swallow(&mut self, port: u16, swallow: bool) {
        if swallow {
            self.full.insert(port);
        } else {
            self.full.remove(&port);
        }
    }

    /// Listens no more; what was half-open is forgotten.
    pub fn unlisten(&mut self, port: u16) {
        self.listeners.remove(&port);
        let half_open: Vec<SockId> = self
            .conns
            .iter()
            .filter(|(_, c)| c.passive && c.state != State::Established && c.local.port() == port)
            .map(|(&id, _)| id)
            .collect();
        half_open.into_iter().for_each(|id| self.remove(id));
    }

    /// Sends a SYN from a local port; `ttl` is the first SYN's.
    pub fn connect(
        &mut self,
        now: Instant,
        port: u16,
        remote: SocketAddr,
        ttl: Option<u8>,
    ) -> Result<SockId, TupleExists> {
        let same_family = |ip: &&IpAddr| ip.is_ipv4() == remote.is_ipv4();
        let ip = *self.addresses.iter().find(same_family).ok_or(TupleExists)?;
        let local = SocketAddr::new(ip, port);
        if self.tuples.contains_key(&(local, remote)) {
            return Err(TupleExists);
        }
        let id = self.open(now, local, remote, State::SynSent, false);
        if let Some(conn) = self.conns.get_mut(&id) {
            conn.ttl = ttl;
        }
        self.send_opening(now, id);
        self.arm(id);
        Ok(id)
    }

    /// Queues bytes behind those before.
    pub fn send(&mut self, now: Instant, id: SockId, bytes: &[u8]) {
        if let Some(conn) = self.conns.get_mut(&id).filter(|c| !c.closed) {
            conn.queued.extend(bytes.chunks(MSS).map(|chunk| (chunk.to_vec(), false)));
            self.pump(now, id);
            self.arm(id);
        }
    }

    /// Closes: silently while opening, with a FIN afterwards.
    pub fn close(&mut self, now: Instant, id: SockId) {
        let Some(conn) = self.conns.get_mut(&id) else { return };
        if conn.state != State::Established {
            self.remove(id);
        } else if !conn.closed {
            conn.closed = true;
            conn.queued.push_back((Vec::new(), true));
            self.pump(now, id);
            self.arm(id);
        }
    }

    /// Ends a connection with a reset.
    pub fn abort(&mut self, id: SockId) {
        if let Some(conn) = self.conns.get(&id).filter(|c| c.state != State::SynSent) {
            let packet = Packet::tcp(conn.local, conn.remote, Flags::RST);
            let (seq, ack) = (conn.next_seq, conn.expected);
            self.out.push_back(Segment { packet, seq, ack, payload: Vec::new() });
        }
        self.remove(id);
    }

    /// Forgets a connection without a word, as a machine does that loses power.
    pub fn forget(&mut self, id: SockId) {
        self.remove(id);
    }

    /// What the other side sends on a connection is lost from now on: a firewall that forgot one
    /// direction.
    pub fn deafen(&mut self, id: SockId) {
        self.conns.get_mut(&id).into_iter().for_each(|conn| conn.deaf = true);
    }

    /// Sets TCP_USER_TIMEOUT.
    pub fn set_user_timeout(&mut self, id: SockId, patience: Duration) {
        self.conns.get_mut(&id).into_iter().for_each(|conn| conn.patience = Some(patience));
    }

    /// Whether the socket takes bytes: a kernel holds no more than a window or two.
    pub fn has_room(&self, id: SockId) -> bool {
        self.conns.get(&id).is_some_and(|conn| conn.queued.len() < pipe::WINDOW)
    }

    /// The other end of a connection.
    pub fn remote(&self, id: SockId) -> Option<SocketAddr> {
        Some(self.conns.get(&id)?.remote)
    }

    /// Connections in any state.
    pub fn len(&self) -> usize {
        self.conns.len()
    }

    pub fn poll_transmit(&mut self) -> Option<Segment> {
        self.out.pop_front()
    }

    pub fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    pub fn poll_timeout(&self) -> Option<Instant> {
        self.timers.first().map(|(at, _)| *at)
    }

    pub fn handle_timeout(&mut self, now: Instant) {
        while let Some(&(at, id)) = self.timers.first()
            && at <= now
        {
            if let Some(conn) = self.conns.get_mut(&id) {
                conn.timer = None;
            }
            self.expire(now, id);
            self.arm(id);
        }
    }

    /// A segment, or an ICMP error, for this host.
    pub fn handle(&mut self, now: Instant, segment: Segment) {
        let flags = match segment.packet.kind {
            Kind::Tcp(flags) => flags,
            Kind::Icmp { error, about } if about.transport == Transport::Tcp => {
                if let Some(&id) = self.tuples.get(&(about.src, about.dst)) {
                    self.handle_error(id, segment.seq, error);
                }
                return;
            }
            Kind::Udp | Kind::Icmp { .. } => return,
        };
        let Packet { src: remote, dst: local, .. } = segment.packet;
        let Some(&id) = self.tuples.get(&(local, remote)) else {
            if flags.bare_syn() && !flags.rst && self.listeners.contains(&local.port()) {
                let id = self.open(now, local, remote, State::SynReceived, true);
                if let Some(conn) = self.conns.get_mut(&id) {
                    conn.expected = segment.seq + 1;
                }
                self.send_opening(now, id);
                self.arm(id);
            } else if flags.bare_syn() && self.full.contains(&local.port()) {
                return;
            } else if !flags.rst {
                self.out.push_back(segment.answer(segment.packet.reset()));
            }
            return;
        };
        if self.conns[&id].deaf {
            return;
        }
        match self.conns[&id].state {
            State::SynSent => self.handle_syn_sent(now, id, flags, segment),
            State::SynReceived => self.handle_syn_received(now, id, flags, segment),
            State::Established => self.handle_established(now, id, flags, segment),
        }
        self.arm(id);
    }

    fn send_segment(&mut self, id: SockId, flags: Flags) {
        let Some(conn) = self.conns.get_mut(&id) else { return };
        let mut packet = Packet::tcp(conn.local, conn.remote, flags);
        if flags.syn {
            packet.ttl = conn.ttl.take().unwrap_or(packet.ttl);
        }
        let seq = if flags.syn { conn.isn } else { conn.next_seq };
        self.out.push_back(Segment { packet, seq, ack: conn.expected, payload: Vec::new() });
    }

    fn acknowledge(&mut self, id: SockId) {
        self.send_segment(id, Flags::ACK);
    }

    fn fail(&mut self, id: SockId, failure: Failure) {
        if self.conns.get(&id).is_some_and(|conn| !conn.passive) {
            self.events.push_back(Event::Failed(id, failure));
        }
        self.remove(id);
    }

    fn end(&mut self, id: SockId, end: End) {
        if self.conns.get(&id).is_some_and(|conn| !conn.closed) {
            self.events.push_back(Event::Ended(id, end));
        }
        self.remove(id);
    }

    /// Notes a connection's timer as it is now.
    fn arm(&mut self, id: SockId) {
        let Some(conn) = self.conns.get_mut(&id) else { return };
        if conn.armed != conn.timer {
            conn.armed.take().map(|at| self.timers.remove(&(at, id)));
            conn.armed = conn.timer;
            self.timers.extend(conn.timer.map(|at| (at, id)));
        }
    }

    fn remove(&mut self, id: SockId) {
        if let Some(conn) = self.conns.remove(&id) {
            self.tuples.remove(&(conn.local, conn.remote));
            conn.armed.map(|at| self.timers.remove(&(at, id)));
        }
    }
}
