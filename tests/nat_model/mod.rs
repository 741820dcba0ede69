//! A NAT, or an IPv6 firewall, as a pure function of its behaviour, a seed and the packets so far.
//!
//! Written once: the simulator passes its packets through it under virtual time, the lab the headers of
//! real ones under the real clock. IPv4 is translated; IPv6 keeps its addresses and is only filtered. Two
//! NATs in a row are two of these, one behind the other.
//!
//! **A verdict's packet is rewritten in place; an [`Verdict::Answer`] goes back to where the packet came
//! from: inside for [`Nat::outbound`], outside for [`Nat::inbound`].**
#![allow(dead_code, unreachable_pub, missing_docs, reason = "shared by test programs that each use a part")]

mod behaviour;
mod packet;
mod ports;
mod table;
#[cfg(test)]
mod tests;

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    time::{Duration, Instant},
};

use rand::{RngExt, SeedableRng, rngs::StdRng};

pub use behaviour::*;
pub use packet::*;
use ports::Ports;
use table::{Table, Toward, Unknown, Way};

/// How long a foreign connection keeps its port.
const FOREIGN_LIFE: Duration = Duration::from_secs(60);

/// How often ended mappings are forgotten; they have no effect before that either.
const SWEEP: Duration = Duration::from_secs(10);

/// What becomes of a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It goes on, rewritten.
    Forward,
    /// It came from inside and goes back inside, rewritten on both ends.
    Hairpin,
    /// It goes nowhere, for this reason.
    Drop(&'static str),
    /// It goes nowhere, and this goes back to its sender.
    Answer(Packet),
}

/// A NAT.
#[derive(Debug)]
pub struct Nat {
    behaviour: Behaviour,
    public: Vec<IpAddr>,
    rng: StdRng,
    tcp: Ports,
    udp: Ports,
    table: Table,
    next_foreign: Option<Instant>,
    next_sweep: Instant,
}

impl Nat {
    /// A NAT with these public addresses (none for a pure IPv6 firewall).
    pub fn new(behaviour: &Behaviour, public: Vec<IpAddr>, seed: u64, now: Instant) -> Self {
        let mut rng = StdRng::seed_from_u64(seed);
        let mut nat = Nat {
            tcp: Ports::new(behaviour.assignment, &mut rng),
            udp: Ports::new(axes(behaviour, Transport::Udp).assignment, &mut rng),
            behaviour: behaviour.clone(),
            public,
            rng,
            table: Table::default(),
            next_foreign: None,
            next_sweep: now + SWEEP,
        };
        // Whoever may be met on a port has been there for a while; a counter does not care.
        let long_ago = now.checked_sub(FOREIGN_LIFE).filter(|_| nat.tcp.meets_others());
        nat.next_foreign = nat.foreign_after(long_ago.unwrap_or(now));
        nat
    }

    pub fn behaviour(&self) -> &Behaviour {
        &self.behaviour
    }

    pub fn public(&self) -> &[IpAddr] {
        &self.public
    }

    /// Is that one of its public addresses?
    pub fn owns(&self, address: IpAddr) -> bool {
        self.public.contains(&address)
    }

    /// A packet from inside.
    pub fn outbound(&mut self, now: Instant, packet: &mut Packet) -> Verdict {
        self.advance(now);
        let original = *packet;
        let Some(tuple) = packet.tuple() else { return self.outbound_error(now, packet) };
        if tuple.transport == Transport::Udp && self.behaviour.udp == UdpBehaviour::Blocked {
            return Verdict::Drop("UDP is blocked");
        }
        let toward = self.toward(tuple);
        let id = match self.table.find_internal(now, tuple.transport, tuple.src, toward) {
            Some(id) => id,
            None if !opens(packet.kind, self.behaviour.loose) => {
                return Verdict::Drop("in the middle of an unknown connection");
            }
            None => match self.map(now, tuple, toward) {
                Some(id) => id,
                None => return Verdict::Drop("no port is free"),
            },
        };
        packet.src = self.table.get(id).external;
        self.touch(now, id, tuple.dst, Way::Out, packet.kind);
        if !self.owns(tuple.dst.ip()) {
            return Verdict::Forward;
        }
        if !self.behaviour.hairpin {
            return self.refuse(&original);
        }
        match self.admit(now, packet) {
            Verdict::Forward => Verdict::Hairpin,
            // The answer is for the host inside, which knows nothing of its external port.
            Verdict::Answer(_) => self.refuse(&original),
            verdict => verdict,
        }
    }

    /// A packet from outside.
    pub fn inbound(&mut self, now: Instant, packet: &mut Packet) -> Verdict {
        self.advance(now);
        if packet.dst.is_ipv4() && !self.owns(packet.dst.ip()) {
            return Verdict::Drop("not for this NAT");
        }
        match packet.kind {
            Kind::Icmp { .. } => self.inbound_error(now, packet),
            Kind::Udp | Kind::Tcp(_) => self.admit(now, packet),
        }
    }

    /// Forgets every mapping and begins anew, counters included.
    pub fn reboot(&mut self, now: Instant) {
        self.advance(now);
        self.table = Table::default();
        let udp = axes(&self.behaviour, Transport::Udp).assignment;
        self.tcp = Ports::new(self.behaviour.assignment, &mut self.rng);
        self.udp = Ports::new(udp, &mut self.rng);
    }

    /// Gets other public addresses, as after a dropped uplink; the mappings are gone with the old ones.
    pub fn renumber(&mut self, now: Instant, public: Vec<IpAddr>) {
        self.advance(now);
        self.table = Table::default();
        self.public = public;
    }

    /// Live mappings, foreign ones included.
    pub fn mappings(&mut self, now: Instant, transport: Transport) -> usize {
        self.advance(now);
        self.table.count(now, transport)
    }

    /// The external endpoint of an internal one towards a remote one, where there is a mapping.
    pub fn external(
        &mut self,
        now: Instant,
        transport: Transport,
        internal: SocketAddr,
        remote: SocketAddr,
    ) -> Option<SocketAddr> {
        let toward = self.toward(Tuple { transport, src: internal, dst: remote });
        let id = self.table.find_internal(now, transport, internal, toward)?;
        Some(self.table.get(id).external)
    }

    /// Lets a packet in that is addressed to an external endpoint.
    fn admit(&mut self, now: Instant, packet: &mut Packet) -> Verdict {
        let Some(tuple) = packet.tuple() else { return Verdict::Drop("no ports") };
        let filtering = axes(&self.behaviour, tuple.transport).filtering;
        let found = self.table.find_external(now, tuple.transport, tuple.dst, tuple.src, filtering);
        let id = match found {
            Ok(id) => id,
            Err(Unknown::NoMapping | Unknown::Filtered) => return self.refuse(packet),
        };
        if self.behaviour.strict && matches!(packet.kind, Kind::Tcp(flags) if flags.bare_syn()) {
            return Verdict::Drop("a strict firewall lets no bare SYN in");
        }
        packet.dst = self.table.get(id).internal;
        self.touch(now, id, tuple.src, Way::In, packet.kind);
        Verdict::Forward
    }

    /// What an unsolicited packet gets. Resets and ICMP are never answered.
    fn refuse(&mut self, packet: &Packet) -> Verdict {
        let unsolicited = "unsolicited";
        let Some(tuple) = packet.tuple() else { return Verdict::Drop(unsolicited) };
        if packet.is_reset() {
            return Verdict::Drop(unsolicited);
        }
        let error = match (axes(&self.behaviour, tuple.transport).unsolicited, tuple.transport) {
            (Unsolicited::Drop, _) => None,
            (Unsolicited::Reset, Transport::Tcp) => return Verdict::Answer(packet.reset()),
            (Unsolicited::Reset, Transport::Udp) => Some(IcmpError::PortUnreachable),
            (Unsolicited::Icmp, _) => Some(IcmpError::Prohibited),
        };
        match error.and_then(|error| packet.icmp(packet.dst.ip(), error)) {
            Some(answer) => Verdict::Answer(answer),
            None => Verdict::Drop(unsolicited),
        }
    }

    /// An ICMP error from outside about a packet that went out.
    fn inbound_error(&mut self, now: Instant, packet: &mut Packet) -> Verdict {
        let Kind::Icmp { error, about } = packet.kind else { return Verdict::Drop("no ICMP") };
        let exact = Filtering::AddressAndPortDependent;
        let found = self.table.find_external(now, about.transport, about.src, about.dst, exact);
        let Ok(id) = found else { return Verdict::Drop("an error about nothing known") };
        let internal = self.table.get(id).internal;
        packet.dst = SocketAddr::new(internal.ip(), 0);
        packet.kind = Kind::Icmp { error, about: Tuple { src: internal, ..about } };
        Verdict::Forward
    }

    /// An ICMP error from inside about a packet that came in.
    fn outbound_error(&mut self, now: Instant, packet: &mut Packet) -> Verdict {
        let Kind::Icmp { error, about } = packet.kind else { return Verdict::Drop("no ICMP") };
        let external = self.external(now, about.transport, about.dst, about.src);
        let Some(external) = external else { return Verdict::Drop("an error about nothing known") };
        packet.src = SocketAddr::new(external.ip(), 0);
        packet.kind = Kind::Icmp { error, about: Tuple { dst: external, ..about } };
        Verdict::Forward
    }

    fn toward(&self, tuple: Tuple) -> Toward {
        if tuple.src.is_ipv6() {
            return Toward::Anybody;
        }
        Toward::new(axes(&self.behaviour, tuple.transport).mapping, tuple.dst)
    }

    fn map(&mut self, now: Instant, tuple: Tuple, toward: Toward) -> Option<u64> {
        let Tuple { transport, src: internal, .. } = tuple;
        if internal.is_ipv6() {
            return Some(self.table.insert(transport, internal, toward, internal));
        }
        let address = self.address(internal.ip())?;
        let ports = match transport {
            Transport::Tcp => &mut self.tcp,
            Transport::Udp => &mut self.udp,
        };
        let (table, shared) = (&self.table, ports.shared());
        let customers = ports.customers();
        let port = ports.assign(&mut self.rng, internal, |port| {
            table.taken(now, transport, SocketAddr::new(address, port), toward, shared)
        })?;
        let is_new = ports.customers() > customers;
        let id = self.table.insert(transport, internal, toward, SocketAddr::new(address, port));
        if is_new && transport == Transport::Tcp {
            self.move_in(now, internal.ip());
        }
        Some(id)
    }

    /// A customer is new to the model only: others in the house have used the block all the time.
    fn move_in(&mut self, now: Instant, customer: IpAddr) {
        let long_ago = now.checked_sub(FOREIGN_LIFE).unwrap_or(now);
        let mut next = self.foreign_after(long_ago);
        while let Some(at) = next.filter(|&at| at < now) {
            self.foreign_connection_of(customer, at);
            next = self.foreign_after(at);
        }
    }

    /// The public address for a new mapping of an internal address.
    fn address(&mut self, internal: IpAddr) -> Option<IpAddr> {
        let public: Vec<IpAddr> = self.public.iter().copied().filter(IpAddr::is_ipv4).collect();
        let chosen = match (self.behaviour.pooling, internal) {
            (_, _) if public.len() < 2 => 0,
            (Pooling::Arbitrary, _) => self.rng.random_range(0..public.len()),
            (Pooling::Paired, IpAddr::V4(v4)) => v4.to_bits() as usize % public.len(),
            (Pooling::Paired, IpAddr::V6(_)) => 0,
        };
        public.get(chosen).copied()
    }

    fn touch(&mut self, now: Instant, id: u64, remote: SocketAddr, way: Way, kind: Kind) {
        let transport = if kind == Kind::Udp { Transport::Udp } else { Transport::Tcp };
        let axes = axes(&self.behaviour, transport);
        self.table.touch(now, id, remote, way, kind, axes);
    }

    /// Makes up for the time since the last packet.
    fn advance(&mut self, now: Instant) {
        while let Some(at) = self.next_foreign.filter(|&at| at <= now) {
            // Long-idle NATs would otherwise count millions of connections that are long over: those of
            // the last lifetime are enough for the table, and nobody saw the counter meanwhile.
            if now.duration_since(at) > 2 * FOREIGN_LIFE {
                self.next_foreign = self.foreign_after(now - 2 * FOREIGN_LIFE);
                continue;
            }
            self.foreign_connection(at);
            self.next_foreign = self.foreign_after(at);
        }
        if now >= self.next_sweep {
            self.table.sweep(now);
            self.next_sweep = now + SWEEP;
        }
    }

    /// When the next foreign connection comes after `at`: an exponential interval.
    fn foreign_after(&mut self, at: Instant) -> Option<Instant> {
        if self.behaviour.foreign <= 0.0 {
            return None;
        }
        let uniform: f64 = 1.0 - self.rng.random::<f64>();
        Some(at + Duration::from_secs_f64(-uniform.ln() / self.behaviour.foreign))
    }

    /// Somebody else behind this NAT opens a connection; within a customer's block it is one of theirs.
    fn foreign_connection(&mut self, at: Instant) {
        let somebody = IpAddr::V4(Ipv4Addr::new(100, 127, self.rng.random(), self.rng.random()));
        let host = match self.tcp.customer(&mut self.rng) {
            Some(Some(customer)) => customer,
            Some(None) => return,
            None => somebody,
        };
        self.foreign_connection_of(host, at);
    }

    fn foreign_connection_of(&mut self, host: IpAddr, at: Instant) {
        // The remote is one that nobody under test uses, so that the two never share a mapping.
        let internal = SocketAddr::new(host, self.rng.random_range(32768..=60999));
        let remote = Ipv4Addr::new(240, self.rng.random(), self.rng.random(), self.rng.random());
        let remote = SocketAddr::new(remote.into(), 443);
        let tuple = Tuple { transport: Transport::Tcp, src: internal, dst: remote };
        let toward = Toward::Endpoint(remote);
        if let Some(id) = self.map(at, tuple, toward) {
            self.table.hold(id, remote, at + FOREIGN_LIFE);
        }
    }
}

/// Does this packet make a mapping?
fn opens(kind: Kind, loose: bool) -> bool {
    match kind {
        Kind::Udp => true,
        Kind::Tcp(flags) => flags.bare_syn() || (loose && flags.ack && !flags.syn && !flags.rst),
        Kind::Icmp { .. } => false,
    }
}

/// The axes of a transport.
fn axes(behaviour: &Behaviour, transport: Transport) -> &Behaviour {
    match (&behaviour.udp, transport) {
        (UdpBehaviour::Separate(udp), Transport::Udp) => udp,
        _ => behaviour,
    }
}
