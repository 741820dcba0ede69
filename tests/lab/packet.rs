//! IP packets as the router sees them: where the addresses and ports are, and how to change them.
//!
//! Checksums are updated by difference (RFC 1624), so that a packet that was broken stays broken.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use crate::nat_model::IcmpError;

/// TCP flags (RFC 9293 §3.1), as far as the router cares.
pub mod flag {
    pub const FIN: u8 = 0x01;
    pub const SYN: u8 = 0x02;
    pub const RST: u8 = 0x04;
    pub const ACK: u8 = 0x10;
}

/// What a packet carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transport {
    Tcp {
        /// See [`flag`].
        flags: u8,
    },
    Udp,
    /// ICMP echo; its identifier stands for the port of the asking side.
    Service {
        request: bool,
    },
    /// An ICMP error.
    Error {
        /// Type and code.
        kind: (u8, u8),
        /// Where the packet that it is about begins.
        about: usize,
    },
}

/// The fields of a packet that a NAT looks at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Headers {
    pub source: SocketAddr,
    pub destination: SocketAddr,
    pub transport: Transport,
    /// Where the transport header begins.
    pub transport_at: usize,
}

/// Which end of a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    Source,
    Destination,
}

const ICMP4: u8 = 1;
const TCP: u8 = 6;
const UDP: u8 = 17;
const ICMP6: u8 = 58;

impl Headers {
    /// Reads a packet; `None` if it is none of the kinds that the router carries (fragments neither: the
    /// lab's MTU is the same everywhere).
    pub fn read(packet: &[u8]) -> Option<Self> {
        let (source, destination, protocol, at) = match packet.first()? >> 4 {
            4 => {
                let at = usize::from(packet[0] & 0x0f) * 4;
                let fragment = u16::from_be_bytes([*packet.get(6)?, *packet.get(7)?]);
                if at < 20 || fragment & 0x3fff != 0 {
                    return None;
                }
                let address = |at: usize| -> Option<IpAddr> {
                    let bytes: [u8; 4] = packet.get(at..at + 4)?.try_into().ok()?;
                    Some(Ipv4Addr::from(bytes).into())
                };
                (address(12)?, address(16)?, *packet.get(9)?, at)
            }
            6 => {
                let address = |at: usize| -> Option<IpAddr> {
                    let bytes: [u8; 16] = packet.get(at..at + 16)?.try_into().ok()?;
                    Some(Ipv6Addr::from(bytes).into())
                };
                (address(8)?, address(24)?, *packet.get(6)?, 40)
            }
            _ => return None,
        };
        let start: &[u8; 8] = packet.get(at..at + 8)?.try_into().ok()?;
        let first = u16::from_be_bytes([start[0], start[1]]);
        let second = u16::from_be_bytes([start[2], start[3]]);
        let identifier = u16::from_be_bytes([start[4], start[5]]);
        let (ports, transport) = match (protocol, start[0]) {
            (TCP, _) => {
                ((first, second), Transport::Tcp { flags: packet.get(at + 13).copied().unwrap_or(0) })
            }
            (UDP, _) => ((first, second), Transport::Udp),
            (ICMP4, 8) | (ICMP6, 128) => ((identifier, 0), Transport::Service { request: true }),
            (ICMP4, 0) | (ICMP6, 129) => ((0, identifier), Transport::Service { request: false }),
            (ICMP4, 3 | 11) | (ICMP6, 1..=3) => {
                ((0, 0), Transport::Error { kind: (start[0], start[1]), about: at + 8 })
            }
            _ => return None,
        };
        Some(Self {
            source: SocketAddr::new(source, ports.0),
            destination: SocketAddr::new(destination, ports.1),
            transport,
            transport_at: at,
        })
    }

    /// Writes another address and port into one end, here and in the packet, which must be the one that
    /// these headers were read from, or the one that an ICMP error is about (cut short, perhaps).
    pub fn rewrite(&mut self, packet: &mut [u8], end: End, new: SocketAddr) {
        let old = match end {
            End::Source => std::mem::replace(&mut self.source, new),
            End::Destination => std::mem::replace(&mut self.destination, new),
        };
        let source = end == End::Source;
        let mut difference = Difference::default();
        match (old.ip(), new.ip()) {
            (IpAddr::V4(old), IpAddr::V4(new)) => {
                let at = if source { 12 } else { 16 };
                difference.replace(&old.octets(), &new.octets());
                packet[at..at + 4].copy_from_slice(&new.octets());
                difference.apply(packet, 10);
            }
            (IpAddr::V6(old), IpAddr::V6(new)) => {
                let at = if source { 8 } else { 24 };
                difference.replace(&old.octets(), &new.octets());
                packet[at..at + 16].copy_from_slice(&new.octets());
            }
            _ => unreachable!("the model translates within an address family"),
        }
        let at = self.transport_at;
        let (port_at, checksum_at) = match self.transport {
            Transport::Tcp { .. } => (at + if source { 0 } else { 2 }, at + 16),
            Transport::Udp => (at + if source { 0 } else { 2 }, at + 6),
            Transport::Service { request } => {
                // ICMPv4 checksums leave the addresses out.
                if old.is_ipv4() {
                    difference = Difference::default();
                }
                if request != source {
                    return difference.apply(packet, at + 2); // The far side has no identifier of its own.
                }
                (at + 4, at + 2)
            }
            Transport::Error { .. } => {
                if old.is_ipv6() {
                    difference.apply(packet, at + 2);
                }
                return;
            }
        };
        difference.replace(&old.port().to_be_bytes(), &new.port().to_be_bytes());
        packet[port_at..port_at + 2].copy_from_slice(&new.port().to_be_bytes());
        let no_checksum =
            self.transport == Transport::Udp && packet.get(checksum_at..checksum_at + 2) == Some(&[0, 0]);
        if !no_checksum {
            difference.apply(packet, checksum_at);
        }
    }

    /// Computes the checksum of an ICMPv4 error anew, after the packet that it is about was rewritten.
    /// (ICMPv6 errors are never translated.)
    pub fn seal_error(&self, packet: &mut [u8]) {
        if let (Transport::Error { .. }, IpAddr::V4(_)) = (self.transport, self.source.ip()) {
            let at = self.transport_at + 2;
            packet[at..at + 2].fill(0);
            let mut sum = Difference::default();
            sum.add(&packet[self.transport_at..]);
            packet[at..at + 2].copy_from_slice(&(!sum.folded()).to_be_bytes());
        }
    }

    /// TCP sequence number, acknowledgement number and length of the data.
    pub fn sequence(&self, packet: &[u8]) -> Option<(u32, u32, u32)> {
        let Transport::Tcp { .. } = self.transport else { return None };
        let at = self.transport_at;
        let word =
            |at: usize| -> Option<u32> { Some(u32::from_be_bytes(packet.get(at..at + 4)?.try_into().ok()?)) };
        let header = usize::from(packet.get(at + 12)? >> 4) * 4;
        Some((word(at + 4)?, word(at + 8)?, packet.len().saturating_sub(at + header) as u32))
    }
}

/// Takes one from the time to live (or hop limit); `false` when it ends here.
pub fn age(packet: &mut [u8]) -> bool {
    let at = if packet[0] >> 4 == 4 { 8 } else { 7 };
    if packet[at] <= 1 {
        return false;
    }
    if at == 8 {
        let old = [packet[8], packet[9]];
        packet[8] -= 1;
        let mut difference = Difference::default();
        difference.replace(&old, &[packet[8], packet[9]]);
        difference.apply(packet, 10);
    } else {
        packet[at] -= 1;
    }
    true
}

/// Writes a reset that `from` would have sent to `to` into a buffer; its length.
pub fn reset(buffer: &mut [u8], from: SocketAddr, to: SocketAddr, seq: u32, ack: Option<u32>) -> usize {
    let mut segment = [0; 20];
    segment[0..2].copy_from_slice(&from.port().to_be_bytes());
    segment[2..4].copy_from_slice(&to.port().to_be_bytes());
    segment[4..8].copy_from_slice(&seq.to_be_bytes());
    segment[8..12].copy_from_slice(&ack.unwrap_or(0).to_be_bytes());
    segment[12] = 5 << 4;
    segment[13] = flag::RST | if ack.is_some() { flag::ACK } else { 0 };
    wrap(buffer, from.ip(), to.ip(), TCP, &segment, 16)
}

/// Writes the reset that the receiver of a segment answers it with (RFC 9293 §3.10.7.1); its length.
pub fn reset_for(buffer: &mut [u8], headers: &Headers, segment: &[u8]) -> usize {
    let (seq, ack, length) = headers.sequence(segment).unwrap_or_default();
    let (from, to) = (headers.destination, headers.source);
    match headers.transport {
        Transport::Tcp { flags } if flags & flag::ACK == 0 => {
            let control = u32::from(flags & flag::SYN != 0) + u32::from(flags & flag::FIN != 0);
            reset(buffer, from, to, 0, Some(seq.wrapping_add(length).wrapping_add(control)))
        }
        _ => reset(buffer, from, to, ack, None),
    }
}

/// Sender, receiver and sequence number of the resets that take a segment's place: what the receiver expects
/// next, if all before arrived; where it is not, the receiver says so (RFC 5961 §3.2), and the answer gets
/// a reset that fits. Its sender gets one too if it sent data, and is thus not the one that only receives:
/// for that one it would be behind, and a NAT would take it for good and forget the connection.
pub fn resets(headers: &Headers, segment: &[u8]) -> impl Iterator<Item = (SocketAddr, SocketAddr, u32)> {
    let (seq, ack, data) = headers.sequence(segment).unwrap_or_default();
    let back = (data > 0).then_some((headers.destination, headers.source, ack));
    [(headers.source, headers.destination, seq)].into_iter().chain(back)
}

/// Writes the ICMP error about a packet that `from` sends to its source into a buffer; its length.
/// `None` where the packet must not be answered so (RFC 1122 §3.2.2).
pub fn error(buffer: &mut [u8], from: IpAddr, about: &[u8], why: IcmpError) -> Option<usize> {
    let headers = Headers::read(about)?;
    if matches!(headers.transport, Transport::Error { .. }) {
        return None;
    }
    let (kind, code, quoted, protocol) = match (from, why) {
        (IpAddr::V4(_), IcmpError::TimeExceeded) => (11, 0, 548, ICMP4),
        (IpAddr::V4(_), IcmpError::PortUnreachable) => (3, 3, 548, ICMP4),
        (IpAddr::V4(_), IcmpError::Prohibited) => (3, 13, 548, ICMP4),
        (IpAddr::V6(_), IcmpError::TimeExceeded) => (3, 0, 1232, ICMP6),
        (IpAddr::V6(_), IcmpError::PortUnreachable) => (1, 4, 1232, ICMP6),
        (IpAddr::V6(_), IcmpError::Prohibited) => (1, 1, 1232, ICMP6),
    };
    let quoted = &about[..about.len().min(quoted)];
    let mut message = vec![kind, code, 0, 0, 0, 0, 0, 0];
    message.extend_from_slice(quoted);
    Some(wrap(buffer, from, headers.source.ip(), protocol, &message, 2))
}

/// Puts an IP header before a message and computes its checksum, at `checksum_at` of the message.
fn wrap(
    buffer: &mut [u8],
    from: IpAddr,
    to: IpAddr,
    protocol: u8,
    message: &[u8],
    checksum_at: usize,
) -> usize {
    let mut sum = Difference::default();
    let at = match (from, to) {
        (IpAddr::V4(from), IpAddr::V4(to)) => {
            let total = (20 + message.len()) as u16;
            buffer[..20].fill(0);
            buffer[0] = 0x45;
            buffer[2..4].copy_from_slice(&total.to_be_bytes());
            buffer[6] = 0x40; // Do not fragment.
            buffer[8] = 64;
            buffer[9] = protocol;
            buffer[12..16].copy_from_slice(&from.octets());
            buffer[16..20].copy_from_slice(&to.octets());
            let mut header = Difference::default();
            header.add(&buffer[..20]);
            buffer[10..12].copy_from_slice(&(!header.folded()).to_be_bytes());
            if protocol != ICMP4 {
                sum.add(&from.octets());
                sum.add(&to.octets());
            }
            20
        }
        (IpAddr::V6(from), IpAddr::V6(to)) => {
            buffer[..40].fill(0);
            buffer[0] = 0x60;
            buffer[4..6].copy_from_slice(&(message.len() as u16).to_be_bytes());
            buffer[6] = protocol;
            buffer[7] = 64;
            buffer[8..24].copy_from_slice(&from.octets());
            buffer[24..40].copy_from_slice(&to.octets());
            sum.add(&from.octets());
            sum.add(&to.octets());
            40
        }
        _ => unreachable!("both ends of a packet are of one address family"),
    };
    if protocol != ICMP4 {
        sum.add(&[0, protocol]);
        sum.add(&(message.len() as u16).to_be_bytes());
    }
    let end = at + message.len();
    buffer[at..end].copy_from_slice(message);
    sum.add(&buffer[at..end]);
    buffer[at + checksum_at..at + checksum_at + 2].copy_from_slice(&(!sum.folded()).to_be_bytes());
    end
}

/// A sum of 16-bit words in ones' complement arithmetic.
#[derive(Debug, Clone, Copy, Default)]
struct Difference {
    sum: u64,
}

impl Difference {
    fn add(&mut self, bytes: &[u8]) {
        for pair in bytes.chunks(2) {
            self.sum += u64::from(u16::from_be_bytes([pair[0], pair.get(1).copied().unwrap_or(0)]));
        }
    }

    /// `old` is taken out and `new` put in (RFC 1624 equation 3: HC' = ~(~HC + ~m + m')).
    fn replace(&mut self, old: &[u8], new: &[u8]) {
        for pair in old.chunks(2) {
            self.sum += u64::from(!u16::from_be_bytes([pair[0], pair[1]]));
        }
        self.add(new);
    }

    fn folded(self) -> u16 {
        let mut sum = self.sum;
        while sum > 0xffff {
            sum = (sum & 0xffff) + (sum >> 16);
        }
        sum as u16
    }

    /// Changes the checksum at `at`, if the packet reaches that far.
    fn apply(mut self, packet: &mut [u8], at: usize) {
        let Some(field) = packet.get_mut(at..at + 2) else { return };
        self.sum += u64::from(!u16::from_be_bytes([field[0], field[1]]));
        field.copy_from_slice(&(!self.folded()).to_be_bytes());
    }
}
