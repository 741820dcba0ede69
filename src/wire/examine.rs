//! What a client asks of a server to learn what its NAT lets in, and where its datagrams come from.
//!
//! ```text
//!  TCP, after the preamble of its purpose (see `probe`):
//!    purpose 3, knock:  origin u8, zeros up to 192 bytes in all    client -> server
//!      server -> client     answer u8            a SYN came from there to the very source of this connection
//!    purpose 4, cross:
//!      server -> client     port u16             0: not now; no SYN to this port is answered yet
//!      client -> server     192 zeros            sent when the client's own SYN to that port has left
//!      server -> client     answer u8            a SYN came from that port
//!  UDP:
//!    MIRROR    0 u32, kind 7, version u8, nonce [16], zeros up to 64 bytes in all    client -> server
//!    MIRRORED  0 u32, kind 8, nonce [16], (address [16], port u16) xor nonce         server -> client
//! ```
//!
//! Nobody becomes a weapon by it: the server sends SYNs only to the address and port of an established
//! connection, which has proved that it receives there, two at most for each question. Questions are long, so
//! that whoever asks sends more bytes than he is sent, headers and both SYNs included; and a mirror's answer is
//! shorter than its question. The xor keeps NATs that "correct" addresses in payloads out.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use super::{VERSION, WireError};

/// Length of what a client asks for a knock, or says when its SYN has left, after the preamble.
pub const QUESTION: usize = 192;

/// Length of MIRROR.
pub const MIRROR: usize = 64;

/// Length of MIRRORED.
pub const MIRRORED: usize = 39;

const HEAD: [u8; 4] = [0; 4];
const KIND_MIRROR: u8 = 7;
const KIND_MIRRORED: u8 = 8;

/// Where a knock comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Origin {
    /// Another port of the address that was contacted.
    Port = 1,
    /// Another address.
    Address = 2,
}

impl Origin {
    /// The question.
    pub fn question(self) -> [u8; QUESTION] {
        let mut bytes = [0; QUESTION];
        bytes[0] = self as u8;
        bytes
    }

    /// Reads the byte.
    ///
    /// # Errors
    /// An unknown origin.
    pub fn parse(byte: u8) -> Result<Self, WireError> {
        let known = [Origin::Port, Origin::Address];
        known.into_iter().find(|origin| *origin as u8 == byte).ok_or_else(|| unknown("origin", byte))
    }
}

/// What became of the server's SYN.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Knocked {
    /// It opened a connection.
    Reached = 1,
    /// Nothing came back.
    Dropped = 2,
    /// A reset came back.
    Reset = 3,
    /// An ICMP error came back.
    Prohibited = 4,
    /// The server cannot do that: it has no second address, or no socket.
    Unable = 5,
    /// The server will not do that now: too many have asked.
    Busy = 6,
}

impl Knocked {
    /// Reads the byte.
    ///
    /// # Errors
    /// An unknown answer.
    pub fn parse(byte: u8) -> Result<Self, WireError> {
        use Knocked::*;
        let known = [Reached, Dropped, Reset, Prohibited, Unable, Busy];
        known.into_iter().find(|answer| *answer as u8 == byte).ok_or_else(|| unknown("answer", byte))
    }
}

/// The question where a datagram comes from.
pub fn mirror(nonce: [u8; 16]) -> [u8; MIRROR] {
    let mut bytes = [0; MIRROR];
    bytes[4] = KIND_MIRROR;
    bytes[5] = VERSION;
    bytes[6..22].copy_from_slice(&nonce);
    bytes
}

/// The nonce of a question, where the datagram is one.
pub fn parse_mirror(datagram: &[u8]) -> Option<[u8; 16]> {
    match datagram.strip_prefix(&HEAD)? {
        [KIND_MIRROR, VERSION, rest @ ..] if datagram.len() == MIRROR => rest.first_chunk().copied(),
        _ => None,
    }
}

/// The answer to a question that came from `observed`.
pub fn mirrored(nonce: [u8; 16], observed: SocketAddr) -> [u8; MIRRORED] {
    let mut bytes = [0; MIRRORED];
    bytes[4] = KIND_MIRRORED;
    bytes[5..21].copy_from_slice(&nonce);
    let address = match observed.ip() {
        IpAddr::V4(ip) => ip.to_ipv6_mapped(),
        IpAddr::V6(ip) => ip,
    };
    bytes[21..37].copy_from_slice(&masked(address.octets(), nonce));
    bytes[37..].copy_from_slice(&(observed.port() ^ u16::from_be_bytes([nonce[0], nonce[1]])).to_be_bytes());
    bytes
}

/// The nonce and the address of an answer, where the datagram is one.
pub fn parse_mirrored(datagram: &[u8]) -> Option<([u8; 16], SocketAddr)> {
    let rest = datagram.strip_prefix(&HEAD)?.strip_prefix(&[KIND_MIRRORED])?;
    let (nonce, rest) = rest.split_first_chunk::<16>()?;
    let (address, port) = rest.split_first_chunk::<16>()?;
    let port: [u8; 2] = port.try_into().ok()?;
    let ip = IpAddr::V6(Ipv6Addr::from(masked(*address, *nonce))).to_canonical();
    let port = u16::from_be_bytes(port) ^ u16::from_be_bytes([nonce[0], nonce[1]]);
    Some((*nonce, SocketAddr::new(ip, port)))
}

fn masked(mut bytes: [u8; 16], nonce: [u8; 16]) -> [u8; 16] {
    bytes.iter_mut().zip(nonce).for_each(|(byte, mask)| *byte ^= mask);
    bytes
}

fn unknown(what: &str, byte: u8) -> WireError {
    WireError::Malformed(format!("{what} {byte}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mirror_shows_the_address_of_either_family_and_no_answer_is_longer_than_its_question() {
        let nonce = *b"0123456789abcdef";
        assert_eq!(parse_mirror(&mirror(nonce)), Some(nonce));
        for address in ["192.0.2.7:40001", "[2001:db8::7]:1"] {
            let observed: SocketAddr = address.parse().unwrap();
            let answer = mirrored(nonce, observed);
            assert!(answer.len() < MIRROR);
            assert_eq!(parse_mirrored(&answer), Some((nonce, observed)));
        }
    }

    #[test]
    fn whoever_asks_for_a_favour_sends_more_than_he_is_sent() {
        use crate::wire::probe::PREAMBLE;

        // IPv4 and TCP headers with time stamps; a SYN has more options.
        let (head, syn) = (52, 60);
        // SYN, ACK, preamble, question; SYN/ACK, two acknowledgements, both SYNs, the door's number and the
        // answer.
        let asked = syn + head + head + PREAMBLE + head + QUESTION;
        let sent = syn + 2 * head + 2 * syn + head + 2 + head + 1;
        assert!(sent < asked, "{sent} for {asked}");
    }

    #[test]
    fn what_is_no_mirror_is_none() {
        let question = mirror([7; 16]);
        assert_eq!(parse_mirror(&question[..MIRROR - 1]), None, "short");
        assert_eq!(parse_mirror(&[&question[..], &[0]].concat()), None, "long");
        let mut other = question;
        other[5] = 99;
        assert_eq!(parse_mirror(&other), None, "another version");
        let answer = mirrored([7; 16], "192.0.2.7:1".parse().unwrap());
        assert_eq!(parse_mirror(&answer), None);
        assert_eq!(parse_mirrored(&question), None);
        for length in 0..MIRRORED {
            assert_eq!(parse_mirrored(&answer[..length]), None, "{length} bytes");
        }
    }

    #[test]
    fn every_byte_of_a_knock_reads_back_and_others_are_errors() {
        for origin in [Origin::Port, Origin::Address] {
            assert_eq!(Origin::parse(origin as u8), Ok(origin));
        }
        for byte in 1..=6 {
            assert_eq!(Knocked::parse(byte).map(|answer| answer as u8), Ok(byte));
        }
        assert!(Origin::parse(0).is_err() && Origin::parse(3).is_err());
        assert!(Knocked::parse(0).is_err() && Knocked::parse(7).is_err());
    }
}
