//! The network between the hosts: real packets through modelled NATs and lines.
//!
//! Hosts hang on *segments*; a NAT joins an inner segment to an outer one; the first segment is the
//! internet. A packet that a host's kernel sends into its TUN device is carried from hop to hop until it
//! is written into another one. The NAT model decides on its headers; what it decides is copied into the
//! real bytes.

mod hardship;

use std::{
    cmp::{Ordering, Reverse},
    collections::BinaryHeap,
    net::IpAddr,
    time::Instant,
};

pub use self::hardship::Passage;
use rand::{SeedableRng, rngs::StdRng};

use crate::{
    flows::{Fate, Flows},
    link::{Line, Link},
    nat_model::{self as model, IcmpError, Nat, Verdict},
    packet::{self, Headers},
    translate,
    tun::Tun,
};

/// Packets that are taken from one device before the others have their turn.
const BATCH: usize = 64;

/// A buffer holds any packet of the lab's MTU.
const BUFFER: usize = 2048;

/// Hosts and routers that reach each other directly.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct SegmentId(usize);

/// The internet.
pub const INTERNET: SegmentId = SegmentId(0);

/// A NAT of the model.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NatId(usize);

/// All of it.
#[derive(Debug)]
pub struct Network {
    segments: Vec<Segment>,
    nats: Vec<NatPort>,
    tuns: Vec<TunPort>,
    flows: Flows,
    /// What is on its way on a line.
    queue: BinaryHeap<Reverse<Event>>,
    events: u64,
    spare: Vec<Packet>,
    rng: StdRng,
}

#[derive(Debug)]
struct Segment {
    /// Longest prefixes first.
    routes: Vec<Route>,
    /// The NAT that leads out; none on the internet.
    gateway: Option<NatId>,
    /// Whose address is on ICMP errors that are made here.
    router: IpAddr,
}

#[derive(Debug, Clone, Copy)]
struct Route {
    prefix: IpAddr,
    length: u8,
    hop: Hop,
}

/// Where a packet goes next.
#[derive(Debug, Clone, Copy)]
enum Hop {
    /// Into the kernel behind a device.
    Tun(usize),
    /// To a NAT, from outside.
    Nat(NatId),
    /// Onto a segment.
    Segment(SegmentId),
}

#[derive(Debug)]
struct NatPort {
    nat: Nat,
    inside: SegmentId,
    outside: SegmentId,
    up: Link,
    down: Link,
}

#[derive(Debug)]
struct TunPort {
    tun: Tun,
    segment: SegmentId,
    up: Link,
    down: Link,
}

#[derive(Debug)]
struct Packet {
    buffer: Box<[u8; BUFFER]>,
    length: usize,
}

#[derive(Debug)]
struct Event {
    at: Instant,
    number: u64,
    hop: Hop,
    packet: Packet,
}

impl Network {
    /// An internet with nobody on it; `router` is the address of its routers. Loss and jitter follow the
    /// seed.
    pub fn new(seed: u64, router: IpAddr) -> Self {
        Self {
            segments: vec![Segment { routes: Vec::new(), gateway: None, router }],
            nats: Vec::new(),
            tuns: Vec::new(),
            flows: Flows::default(),
            queue: BinaryHeap::new(),
            events: 0,
            spare: Vec::new(),
            rng: StdRng::seed_from_u64(seed),
        }
    }

    /// Adds a NAT between `outside` and a new segment. `line` is each direction of its way outwards,
    /// `router` its inner address.
    pub fn add_nat(
        &mut self,
        outside: SegmentId,
        nat: Nat,
        line: Line,
        router: IpAddr,
    ) -> (NatId, SegmentId) {
        let (id, inside) = (NatId(self.nats.len()), SegmentId(self.segments.len()));
        for &address in nat.public() {
            self.add_route(outside, address, if address.is_ipv4() { 32 } else { 128 }, Hop::Nat(id));
        }
        self.nats.push(NatPort { nat, inside, outside, up: Link::new(line), down: Link::new(line) });
        self.segments.push(Segment { routes: Vec::new(), gateway: Some(id), router });
        (id, inside)
    }

    /// Adds a device to a segment. It gets the packets for these prefixes.
    pub fn add_tun(&mut self, segment: SegmentId, tun: Tun, prefixes: &[(IpAddr, u8)], line: Line) {
        for &(prefix, length) in prefixes {
            self.add_route(segment, prefix, length, Hop::Tun(self.tuns.len()));
        }
        self.tuns.push(TunPort { tun, segment, up: Link::new(line), down: Link::new(line) });
    }

    /// Routes a prefix from outside to a NAT, which only filters it (IPv6).
    pub fn add_prefix_behind(&mut self, nat: NatId, prefix: IpAddr, length: u8) {
        self.add_route(self.nats[nat.0].outside, prefix, length, Hop::Nat(nat));
    }

    /// The TCP connections.
    pub fn flows(&mut self) -> &mut Flows {
        &mut self.flows
    }

    /// The devices, in the order in which [`Self::turn`] wants to know about them.
    pub fn devices(&self) -> impl Iterator<Item = &Tun> {
        self.tuns.iter().map(|port| &port.tun)
    }

    /// Carries everything that is due, and takes in what the readable devices have; when the next is due.
    pub fn turn(&mut self, readable: &[bool]) -> Option<Instant> {
        let now = Instant::now();
        while self.queue.peek().is_some_and(|Reverse(event)| event.at <= now) {
            if let Some(Reverse(event)) = self.queue.pop() {
                self.arrive(now, event.hop, event.packet);
            }
        }
        for index in (0..self.tuns.len()).filter(|&index| readable.get(index) == Some(&true)) {
            for _ in 0..BATCH {
                let mut packet = self.blank();
                // A device that fails has gone with its namespace.
                let Ok(Some(length)) = self.tuns[index].tun.read(&mut packet.buffer[..]) else {
                    self.discard(packet);
                    break;
                };
                packet.length = length;
                let now = Instant::now();
                let port = &mut self.tuns[index];
                let out = port.up.carry(now, length, &mut self.rng);
                let hop = Hop::Segment(port.segment);
                self.deliver(now, out, hop, packet);
            }
        }
        self.queue.peek().map(|Reverse(event)| event.at)
    }

    /// A packet comes out of a line.
    fn arrive(&mut self, now: Instant, hop: Hop, packet: Packet) {
        match hop {
            Hop::Tun(index) => {
                // The kernel refuses what it cannot read, or when the device is down: lost, as on any wire.
                let _ = self.tuns[index].tun.write(packet.read());
                self.discard(packet);
            }
            Hop::Nat(id) => self.inbound(now, id, packet),
            Hop::Segment(id) => self.route(now, id, packet),
        }
    }

    /// A packet is on a segment: to whom does it go?
    fn route(&mut self, now: Instant, id: SegmentId, mut packet: Packet) {
        let Some(headers) = Headers::read(packet.read()) else { return self.discard(packet) };
        match self.flows.watch(id, &headers, packet.read()) {
            None => {}
            Some(Fate::Silence) => return self.discard(packet),
            Some(Fate::Reset) => return self.reset_instead(now, id, &headers, packet),
        }
        let segment = &self.segments[id.0];
        let destination = headers.destination.ip();
        let hop = segment.routes.iter().find(|route| route.covers(destination)).map(|route| route.hop);
        match (hop, segment.gateway) {
            (None, Some(nat)) => return self.outbound(now, nat, headers, packet),
            (None, None) => return self.discard(packet),
            // The internet is a router, a LAN is a wire.
            (Some(_), None) if !packet::age(packet.write()) => {
                let router = segment.router;
                return self.complain(now, id, router, IcmpError::TimeExceeded, packet);
            }
            (Some(_), _) => {}
        }
        let length = packet.length;
        match hop {
            Some(hop @ Hop::Tun(index)) => {
                let out = self.tuns[index].down.carry(now, length, &mut self.rng);
                self.deliver(now, out, hop, packet);
            }
            Some(hop @ Hop::Nat(nat)) => {
                let out = self.nats[nat.0].down.carry(now, length, &mut self.rng);
                self.deliver(now, out, hop, packet);
            }
            Some(Hop::Segment(_)) | None => self.discard(packet),
        }
    }

    /// From the inner segment through a NAT.
    fn outbound(&mut self, now: Instant, id: NatId, headers: Headers, mut packet: Packet) {
        let (inside, outside) = (self.nats[id.0].inside, self.nats[id.0].outside);
        if !packet::age(packet.write()) {
            let router = self.segments[inside.0].router;
            return self.complain(now, inside, router, IcmpError::TimeExceeded, packet);
        }
        let Some(mut header) = translate::model_packet(&headers, packet.read()) else {
            return self.discard(packet);
        };
        let verdict = self.nats[id.0].nat.outbound(now, &mut header);
        match verdict {
            Verdict::Forward => {
                translate::write_back(&header, headers, packet.write());
                let out = self.nats[id.0].up.carry(now, packet.length, &mut self.rng);
                self.deliver(now, out, Hop::Segment(outside), packet);
            }
            Verdict::Hairpin => {
                translate::write_back(&header, headers, packet.write());
                self.route(now, inside, packet);
            }
            Verdict::Drop(_) => self.discard(packet),
            Verdict::Answer(answer) => self.answer(now, inside, &headers, answer, packet),
        }
    }

    /// From the outer segment through a NAT.
    fn inbound(&mut self, now: Instant, id: NatId, mut packet: Packet) {
        let (inside, outside) = (self.nats[id.0].inside, self.nats[id.0].outside);
        let Some(headers) = Headers::read(packet.read()) else { return self.discard(packet) };
        if !packet::age(packet.write()) {
            return self.complain(now, outside, headers.destination.ip(), IcmpError::TimeExceeded, packet);
        }
        let Some(mut header) = translate::model_packet(&headers, packet.read()) else {
            return self.discard(packet);
        };
        let verdict = self.nats[id.0].nat.inbound(now, &mut header);
        match verdict {
            Verdict::Forward => {
                translate::write_back(&header, headers, packet.write());
                self.route(now, inside, packet);
            }
            Verdict::Hairpin | Verdict::Drop(_) => self.discard(packet),
            Verdict::Answer(answer) => self.answer(now, outside, &headers, answer, packet),
        }
    }

    /// Sends what a NAT answered instead of forwarding, onto the segment that the packet came from.
    fn answer(
        &mut self,
        now: Instant,
        segment: SegmentId,
        headers: &Headers,
        answer: model::Packet,
        about: Packet,
    ) {
        let error = match answer.kind {
            model::Kind::Icmp { error, .. } => error,
            model::Kind::Udp => return self.discard(about),
            model::Kind::Tcp(_) => {
                let mut reset = self.blank();
                reset.length = packet::reset_for(&mut reset.buffer[..], headers, about.read());
                self.discard(about);
                return self.send_from(now, segment, reset);
            }
        };
        self.complain(now, segment, answer.src.ip(), error, about);
    }

    /// Sends the ICMP error about a packet back from `router`.
    fn complain(
        &mut self,
        now: Instant,
        segment: SegmentId,
        router: IpAddr,
        error: IcmpError,
        about: Packet,
    ) {
        let mut message = self.blank();
        match packet::error(&mut message.buffer[..], router, about.read(), error) {
            Some(length) => {
                message.length = length;
                self.send_from(now, segment, message);
            }
            None => self.discard(message),
        }
        self.discard(about);
    }

    /// A reset takes the place of a packet of a connection that is to die. None goes back: it would have to
    /// guess what is on the way there, and a NAT takes the guess for good and forgets the connection.
    fn reset_instead(&mut self, now: Instant, segment: SegmentId, headers: &Headers, about: Packet) {
        let (from, to, seq) = packet::reset_instead_of(headers, about.read());
        let mut reset = self.blank();
        reset.length = packet::reset(&mut reset.buffer[..], from, to, seq, None);
        self.send_from(now, segment, reset);
        self.discard(about);
    }

    /// A router on a segment sends a packet. It is not counted among the connections.
    fn send_from(&mut self, now: Instant, id: SegmentId, packet: Packet) {
        let Some(headers) = Headers::read(packet.read()) else { return self.discard(packet) };
        let segment = &self.segments[id.0];
        let destination = headers.destination.ip();
        match segment.routes.iter().find(|route| route.covers(destination)).map(|route| route.hop) {
            Some(Hop::Tun(index)) => {
                let out = self.tuns[index].down.carry(now, packet.length, &mut self.rng);
                self.deliver(now, out, Hop::Tun(index), packet);
            }
            Some(Hop::Nat(nat)) => {
                let out = self.nats[nat.0].down.carry(now, packet.length, &mut self.rng);
                self.deliver(now, out, Hop::Nat(nat), packet);
            }
            Some(Hop::Segment(_)) => self.discard(packet),
            None => match segment.gateway {
                Some(nat) => self.outbound(now, nat, headers, packet),
                None => self.discard(packet),
            },
        }
    }

    /// Lets a packet come out of a line at its time, if it does.
    fn deliver(&mut self, now: Instant, out: Option<Instant>, hop: Hop, packet: Packet) {
        match out {
            None => self.discard(packet),
            Some(at) if at <= now => self.arrive(now, hop, packet),
            Some(at) => {
                self.events += 1;
                self.queue.push(Reverse(Event { at, number: self.events, hop, packet }));
            }
        }
    }

    fn add_route(&mut self, segment: SegmentId, prefix: IpAddr, length: u8, hop: Hop) {
        let routes = &mut self.segments[segment.0].routes;
        routes.push(Route { prefix, length, hop });
        routes.sort_by_key(|route| Reverse(route.length));
    }

    fn blank(&mut self) -> Packet {
        self.spare.pop().unwrap_or_else(|| Packet { buffer: Box::new([0; BUFFER]), length: 0 })
    }

    fn discard(&mut self, packet: Packet) {
        self.spare.push(packet);
    }
}

impl Packet {
    fn read(&self) -> &[u8] {
        &self.buffer[..self.length]
    }

    fn write(&mut self) -> &mut [u8] {
        &mut self.buffer[..self.length]
    }
}

impl Route {
    fn covers(&self, address: IpAddr) -> bool {
        match (self.prefix, address) {
            (IpAddr::V4(prefix), IpAddr::V4(address)) => {
                let differ = prefix.to_bits() ^ address.to_bits();
                differ.checked_shr(32 - u32::from(self.length)).unwrap_or(0) == 0
            }
            (IpAddr::V6(prefix), IpAddr::V6(address)) => {
                let differ = prefix.to_bits() ^ address.to_bits();
                differ.checked_shr(128 - u32::from(self.length)).unwrap_or(0) == 0
            }
            _ => false,
        }
    }
}

impl PartialEq for Event {
    fn eq(&self, other: &Self) -> bool {
        self.number == other.number
    }
}

impl Eq for Event {}

impl PartialOrd for Event {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Event {
    fn cmp(&self, other: &Self) -> Ordering {
        (self.at, self.number).cmp(&(other.at, other.number))
    }
}
