//! A minimal TCP: the opening as Linux does it, in every detail that a punch meets; behind it an ordered,
//! reliable pipe without congestion control.
//!
//! The opening follows RFC 9293 §3.5 and §3.10.7 (simultaneous open included). What is Linux's own: a
//! tuple that a listener holds half-open makes `connect` fail with EADDRNOTAVAIL, SYNs are repeated each
//! second four times before the distances double, and an ICMP error of any kind ends an opening.
//! Sequence numbers are 64 bits wide with the connection's number in the upper half, so that a late
//! segment of an earlier connection with the same tuple is told apart as 32 random bits would.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    net::{IpAddr, SocketAddr},
    time::{Duration, Instant},
};

use crate::nat_model::{Flags, IcmpError, Kind, Packet, Transport};

/// A packet with what the NAT model does not look at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Segment {
    pub packet: Packet,
    /// First sequence number; for ICMP, that of the packet it is about.
    pub seq: u64,
    /// Next number expected; valid with the ACK flag.
    pub ack: u64,
    /// TCP's or UDP's payload.
    pub payload: Vec<u8>,
}

impl Segment {
    /// A packet that is sent back in answer to this one by somebody without a connection.
    pub fn answer(&self, packet: Packet) -> Segment {
        let Kind::Tcp(flags) = self.packet.kind else {
            return Segment { packet, seq: 0, ack: 0, payload: Vec::new() };
        };
        let seq = match packet.kind {
            Kind::Icmp { .. } => self.seq,
            _ if flags.ack => self.ack,
            _ => 0,
        };
        Segment { packet, seq, ack: self.end(), payload: Vec::new() }
    }

    /// The number after the segment's last.
    fn end(&self) -> u64 {
        let Kind::Tcp(flags) = self.packet.kind else { return self.seq };
        self.seq + self.payload.len() as u64 + u64::from(flags.syn) + u64::from(flags.fin)
    }
}

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

/// When an unanswered SYN is sent again, and when it is given up at last (`tcp_syn_linear_timeouts`).
const SYN_GAPS: [u64; 9] = [1, 1, 1, 1, 1, 2, 4, 8, 16];

/// Bytes a segment.
const MSS: usize = 1400;

/// Segments in flight.
const WINDOW: usize = 64;

/// Least time before a retransmission, beyond the round trip.
const RTO_MIN: Duration = Duration::from_millis(200);

/// ACKs for the same number that say that the segment behind it is lost.
const DUPLICATES: u32 = 3;

/// Retransmissions before a connection is given up.
const RETRIES: u32 = 12;

/// How long a closed connection waits for the other side's FIN.
const FIN_WAIT: Duration = Duration::from_secs(60);

/// A reset this far from the expected number still counts.
const RESET_WINDOW: u64 = 1 << 20;

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
    opened: Instant,
    timer: Option<Instant>,
    /// What of it is in the stack's timers.
    armed: Option<Instant>,
    closed: bool,
    peer_closed: bool,
}

/// The TCP of one host.
#[derive(Debug, Default)]
pub struct Stack {
    addresses: Vec<IpAddr>,
    conns: BTreeMap<SockId, Conn>,
    tuples: BTreeMap<(SocketAddr, SocketAddr), SockId>,
    timers: BTreeSet<(Instant, SockId)>,
    listeners: BTreeSet<u16>,
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

    pub fn is_established(&self, id: SockId) -> bool {
        self.conns.get(&id).is_some_and(|conn| conn.state == State::Established)
    }

    pub fn remote(&self, id: SockId) -> Option<SocketAddr> {
        self.conns.get(&id).map(|conn| conn.remote)
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
            } else if !flags.rst {
                self.out.push_back(segment.answer(segment.packet.reset()));
            }
            return;
        };
        match self.conns[&id].state {
            State::SynSent => self.handle_syn_sent(now, id, flags, segment),
            State::SynReceived => self.handle_syn_received(now, id, flags, segment),
            State::Established => self.handle_established(now, id, flags, segment),
        }
        self.arm(id);
    }

    fn handle_syn_sent(&mut self, now: Instant, id: SockId, flags: Flags, segment: Segment) {
        let Some(conn) = self.conns.get_mut(&id) else { return };
        let acknowledged = flags.ack && segment.ack == conn.isn + 1;
        if flags.rst {
            if acknowledged {
                self.fail(id, Failure::Refused);
            }
        } else if flags.ack && !acknowledged {
            self.out.push_back(segment.answer(segment.packet.reset()));
        } else if flags.syn {
            conn.expected = segment.seq + 1;
            if flags.ack {
                self.establish(now, id);
                self.acknowledge(id);
            } else {
                // Both SYNs crossed: each side answers with SYN/ACK.
                conn.state = State::SynReceived;
                conn.tries = 0;
                self.send_opening(now, id);
            }
        }
    }

    fn handle_syn_received(&mut self, now: Instant, id: SockId, flags: Flags, segment: Segment) {
        let Some(conn) = self.conns.get(&id) else { return };
        let in_order = segment.seq == conn.expected || (flags.syn && segment.seq + 1 == conn.expected);
        if flags.rst {
            if segment.seq == conn.expected || (flags.ack && segment.ack == conn.isn + 1) {
                self.fail(id, Failure::Refused);
            }
        } else if flags.ack && segment.ack == conn.isn + 1 {
            self.establish(now, id);
            self.handle_established(now, id, flags, segment);
        } else if flags.ack {
            self.out.push_back(segment.answer(segment.packet.reset()));
        } else if flags.syn && in_order {
            // Repeated: our SYN/ACK was lost.
            self.send_segment(id, Flags::SYN_ACK);
        } else if flags.syn {
            // Another connection with this tuple: let the other side end this one (RFC 9293 §3.10.7.4).
            self.acknowledge(id);
        }
    }

    fn handle_established(&mut self, now: Instant, id: SockId, flags: Flags, segment: Segment) {
        let Some(conn) = self.conns.get_mut(&id) else { return };
        if flags.rst {
            if segment.seq.abs_diff(conn.expected) <= RESET_WINDOW {
                self.end(id, End::Reset);
            }
            return;
        }
        if flags.syn {
            // Late or repeated: an ACK tells the other side where we are (RFC 5961 §4).
            self.acknowledge(id);
            return;
        }
        if flags.ack {
            self.acknowledged(now, id, segment.ack);
        }
        let end = segment.end();
        let Some(conn) = self.conns.get_mut(&id) else { return };
        if end == segment.seq {
            return;
        }
        if conn.closed && !segment.payload.is_empty() {
            // Nobody will read it.
            self.abort(id);
            return;
        }
        if segment.seq >= conn.expected {
            conn.early.insert(segment.seq, (segment.payload, flags.fin));
        }
        while let Some((bytes, fin)) = conn.early.remove(&conn.expected) {
            conn.expected += bytes.len() as u64 + u64::from(fin);
            if !bytes.is_empty() {
                self.events.push_back(Event::Received(id, bytes));
            }
            if fin {
                conn.peer_closed = true;
                if !conn.closed {
                    self.events.push_back(Event::Ended(id, End::Fin));
                }
            }
        }
        self.acknowledge(id);
        self.finish(now, id);
    }

    fn handle_error(&mut self, id: SockId, seq: u64, error: IcmpError) {
        let Some(conn) = self.conns.get(&id) else { return };
        if conn.state == State::Established || seq != conn.isn {
            return;
        }
        let failure = match error {
            IcmpError::PortUnreachable => Failure::Refused,
            IcmpError::Prohibited | IcmpError::TimeExceeded => Failure::Unreachable,
        };
        self.fail(id, failure);
    }

    fn acknowledged(&mut self, now: Instant, id: SockId, ack: u64) {
        let Some(conn) = self.conns.get_mut(&id) else { return };
        let mut progress = false;
        while let Some(first) = conn.in_flight.front() {
            let end = first.seq + first.bytes.len() as u64 + u64::from(first.fin);
            if end > ack {
                break;
            }
            // What waited behind a hole says nothing about the path.
            if !first.repeated && conn.tries == 0 && conn.duplicates == 0 {
                conn.rtt = (conn.rtt * 7 + now.duration_since(first.sent)) / 8;
            }
            conn.in_flight.pop_front();
            progress = true;
        }
        if progress {
            (conn.tries, conn.duplicates) = (0, 0);
            conn.timer = (!conn.in_flight.is_empty()).then(|| now + conn.rtt + RTO_MIN);
            self.pump(now, id);
            self.finish(now, id);
        } else if let Some(first) = conn.in_flight.front_mut().filter(|first| first.seq == ack) {
            conn.duplicates += 1;
            if conn.duplicates == DUPLICATES {
                first.repeated = true;
                let (bytes, fin) = (first.bytes.clone(), first.fin);
                self.out.push_back(data(conn, ack, bytes, fin));
            }
        }
    }

    /// Sends what the window lets out.
    fn pump(&mut self, now: Instant, id: SockId) {
        let Some(conn) = self.conns.get_mut(&id).filter(|c| c.state == State::Established) else { return };
        while conn.in_flight.len() < WINDOW {
            let Some((bytes, fin)) = conn.queued.pop_front() else { break };
            let segment = data(conn, conn.next_seq, bytes.clone(), fin);
            conn.in_flight.push_back(InFlight { seq: conn.next_seq, bytes, fin, sent: now, repeated: false });
            conn.next_seq = segment.end();
            conn.timer.get_or_insert(now + conn.rtt + RTO_MIN);
            self.out.push_back(segment);
        }
    }

    fn expire(&mut self, now: Instant, id: SockId) {
        let Some(conn) = self.conns.get_mut(&id) else { return };
        conn.tries += 1;
        if conn.state != State::Established {
            if conn.tries as usize >= SYN_GAPS.len() {
                self.fail(id, Failure::TimedOut);
            } else {
                self.send_opening(now, id);
            }
            return;
        }
        let Some(first) = conn.in_flight.front_mut() else {
            // Nothing to repeat: the wait for the other side's FIN is over.
            self.remove(id);
            return;
        };
        if conn.tries > RETRIES {
            self.end(id, End::TimedOut);
            return;
        }
        first.repeated = true;
        let (seq, bytes, fin) = (first.seq, first.bytes.clone(), first.fin);
        conn.timer = Some(now + (conn.rtt + RTO_MIN) * (1 << conn.tries.min(6)));
        self.out.push_back(data(conn, seq, bytes, fin));
    }

    fn open(
        &mut self,
        now: Instant,
        local: SocketAddr,
        remote: SocketAddr,
        state: State,
        passive: bool,
    ) -> SockId {
        self.last += 1;
        let (id, isn) = (SockId(self.last), self.last << 32);
        let conn = Conn {
            local,
            remote,
            state,
            passive,
            ttl: None,
            isn,
            next_seq: isn + 1,
            expected: 0,
            queued: VecDeque::new(),
            in_flight: VecDeque::new(),
            early: BTreeMap::new(),
            tries: 0,
            duplicates: 0,
            rtt: Duration::from_millis(100),
            opened: now,
            timer: None,
            armed: None,
            closed: false,
            peer_closed: false,
        };
        self.conns.insert(id, conn);
        self.tuples.insert((local, remote), id);
        id
    }

    /// SYN or SYN/ACK, and the time of the next.
    fn send_opening(&mut self, now: Instant, id: SockId) {
        let Some(conn) = self.conns.get_mut(&id) else { return };
        let gap = SYN_GAPS.get(conn.tries as usize).copied().unwrap_or(1);
        conn.timer = Some(now + Duration::from_secs(gap));
        let flags = if conn.state == State::SynSent { Flags::SYN } else { Flags::SYN_ACK };
        self.send_segment(id, flags);
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

    fn establish(&mut self, now: Instant, id: SockId) {
        let Some(conn) = self.conns.get_mut(&id) else { return };
        conn.state = State::Established;
        if conn.tries == 0 {
            conn.rtt = now.duration_since(conn.opened);
        }
        (conn.tries, conn.timer) = (0, None);
        let (local, remote) = (conn.local, conn.remote);
        self.events.push_back(match conn.passive {
            true => Event::Accepted { sock: id, local, remote },
            false => Event::Connected(id),
        });
        self.pump(now, id);
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

    /// Forgets a connection that both sides have closed, or that is closed and waits too long.
    fn finish(&mut self, now: Instant, id: SockId) {
        let Some(conn) = self.conns.get_mut(&id) else { return };
        if !conn.closed || !conn.in_flight.is_empty() || !conn.queued.is_empty() {
            return;
        }
        if conn.peer_closed {
            self.remove(id);
        } else {
            conn.timer.get_or_insert(now + FIN_WAIT);
        }
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

fn data(conn: &Conn, seq: u64, payload: Vec<u8>, fin: bool) -> Segment {
    let flags = if fin { Flags::FIN } else { Flags::ACK };
    Segment { packet: Packet::tcp(conn.local, conn.remote, flags), seq, ack: conn.expected, payload }
}
