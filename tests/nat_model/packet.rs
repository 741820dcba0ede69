//! What the NAT model sees of a packet: the header fields that a NAT reads and writes.
//!
//! Sequence numbers, checksums and payloads belong to whoever carries the packet: the simulator keeps them
//! beside it, the lab copies the rewritten addresses and ports back into the real bytes.

use std::net::{IpAddr, SocketAddr};

/// Time to live of a packet that nobody limits.
pub const TTL: u8 = 64;

/// What carries ports.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Transport {
    Udp,
    Tcp,
}

/// The flags of a TCP segment that NATs look at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Flags {
    pub syn: bool,
    pub ack: bool,
    pub fin: bool,
    pub rst: bool,
}

impl Flags {
    pub const SYN: Flags = Flags { syn: true, ack: false, fin: false, rst: false };
    pub const SYN_ACK: Flags = Flags { syn: true, ack: true, fin: false, rst: false };
    pub const ACK: Flags = Flags { syn: false, ack: true, fin: false, rst: false };
    pub const FIN: Flags = Flags { syn: false, ack: true, fin: true, rst: false };
    pub const RST: Flags = Flags { syn: false, ack: true, fin: false, rst: true };

    /// A SYN without ACK: the first segment of an opening.
    pub fn bare_syn(self) -> bool {
        self.syn && !self.ack
    }
}

/// Why a router sends a packet back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IcmpError {
    /// Nobody listens on that UDP port.
    PortUnreachable,
    /// A firewall's words: administratively prohibited.
    Prohibited,
    /// The time to live ran out.
    TimeExceeded,
}

/// The two ends of a packet, as the packet names them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tuple {
    pub transport: Transport,
    pub src: SocketAddr,
    pub dst: SocketAddr,
}

/// What a packet is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Udp,
    Tcp(Flags),
    /// An ICMP error and the packet that it is about, as that packet looked where the error was made.
    Icmp {
        error: IcmpError,
        about: Tuple,
    },
}

/// A packet's header. For ICMP the ports of `src` and `dst` are 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Packet {
    pub src: SocketAddr,
    pub dst: SocketAddr,
    /// Counted down by the network, never by the NAT.
    pub ttl: u8,
    pub kind: Kind,
}

impl Packet {
    pub fn udp(src: SocketAddr, dst: SocketAddr) -> Self {
        Packet { src, dst, ttl: TTL, kind: Kind::Udp }
    }

    pub fn tcp(src: SocketAddr, dst: SocketAddr, flags: Flags) -> Self {
        Packet { src, dst, ttl: TTL, kind: Kind::Tcp(flags) }
    }

    /// The packet's own tuple; `None` for ICMP.
    pub fn tuple(&self) -> Option<Tuple> {
        let transport = match self.kind {
            Kind::Udp => Transport::Udp,
            Kind::Tcp(_) => Transport::Tcp,
            Kind::Icmp { .. } => return None,
        };
        Some(Tuple { transport, src: self.src, dst: self.dst })
    }

    /// Is a reset?
    pub fn is_reset(&self) -> bool {
        matches!(self.kind, Kind::Tcp(Flags { rst: true, .. }))
    }

    /// The reset that a host or router answers this TCP packet with.
    pub fn reset(&self) -> Packet {
        Packet::tcp(self.dst, self.src, Flags::RST)
    }

    /// The ICMP error that the router `from` answers this packet with; `None` where it is ICMP itself.
    pub fn icmp(&self, from: IpAddr, error: IcmpError) -> Option<Packet> {
        let about = self.tuple()?;
        let [src, dst] = [from, self.src.ip()].map(|ip| SocketAddr::new(ip, 0));
        Some(Packet { src, dst, ttl: TTL, kind: Kind::Icmp { error, about } })
    }
}
