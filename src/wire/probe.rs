//! What a TCP connection to a server's port says first, and what a probe says and hears.
//!
//! ```text
//!  client -> server   "PT" version u8 purpose u8
//!    purpose 1, probe:      batch [16], number u8, count u8, local u8, local port u16
//!      server -> client     length u16, ProbeAnswer
//!    purpose 2, datagrams:  from now on both ways, each datagram behind its length u16
//!    purpose 3, knock; purpose 4, cross: see `examine`
//! ```
//!
//! A probe is not sealed: it says nothing but the address that everybody on its path sees.

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

use super::{VERSION, WireError};
use crate::nat::{MAX_PORTS, Prediction};

/// Length of the preamble of every TCP connection to a server.
pub const PREAMBLE: usize = 4;

/// Length of a probe's question after the preamble.
pub const QUESTION: usize = 21;

/// Largest encoded [`ProbeAnswer`].
pub const MAX_ANSWER: usize = 512;

/// Most probes of a batch.
pub const MAX_BATCH: u8 = 32;

/// What a TCP connection to a server's port is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// One probe.
    Probe,
    /// Datagrams over TCP, for clients whose UDP is blocked.
    Datagrams,
    /// The server is to connect back to where this connection comes from ([`super::examine`]).
    Knock,
    /// Client and server open towards each other ([`super::examine`]).
    Cross,
}

/// The four bytes that open every TCP connection to a server.
pub fn preamble(purpose: Purpose) -> [u8; PREAMBLE] {
    let number = match purpose {
        Purpose::Probe => 1,
        Purpose::Datagrams => 2,
        Purpose::Knock => 3,
        Purpose::Cross => 4,
    };
    [b'P', b'T', VERSION, number]
}

/// Reads the four bytes.
///
/// # Errors
/// Another protocol, another version, or an unknown purpose.
pub fn parse_preamble(bytes: [u8; PREAMBLE]) -> Result<Purpose, WireError> {
    match bytes {
        [b'P', b'T', VERSION, 1] => Ok(Purpose::Probe),
        [b'P', b'T', VERSION, 2] => Ok(Purpose::Datagrams),
        [b'P', b'T', VERSION, 3] => Ok(Purpose::Knock),
        [b'P', b'T', VERSION, 4] => Ok(Purpose::Cross),
        [b'P', b'T', theirs, _] if theirs != VERSION => Err(WireError::Version { theirs }),
        _ => Err(WireError::Malformed("not a punchtunnel connection".into())),
    }
}

/// What a probe asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ProbeQuestion {
    /// Random for each batch, so that the server can put its observations together.
    pub batch: [u8; 16],
    /// Number of the probe within its batch, from 0, in the order in which the SYNs left.
    pub number: u8,
    /// Probes in the batch, at most [`MAX_BATCH`].
    pub count: u8,
    /// Index of the punch port that it leaves from, below [`MAX_PORTS`].
    pub local: u8,
    /// The local port number, so that a server can tell preserving from sequential assignment.
    pub local_port: u16,
}

impl ProbeQuestion {
    /// The bytes after the preamble.
    pub fn encode(&self) -> [u8; QUESTION] {
        let mut bytes = [0; QUESTION];
        bytes[..16].copy_from_slice(&self.batch);
        bytes[16] = self.number;
        bytes[17] = self.count;
        bytes[18] = self.local;
        bytes[19..].copy_from_slice(&self.local_port.to_be_bytes());
        bytes
    }

    /// Reads the bytes after the preamble.
    ///
    /// # Errors
    /// A number that is not below the count, a count above [`MAX_BATCH`], or a punch port that there cannot be.
    pub fn parse(bytes: &[u8; QUESTION]) -> Result<Self, WireError> {
        let (batch, &[number, count, local, high, low]) = bytes
            .split_first_chunk::<16>()
            .and_then(|(b, r)| Some((b, r.first_chunk::<5>()?)))
            .ok_or(WireError::Truncated)?;
        let local_port = u16::from_be_bytes([high, low]);
        let question = ProbeQuestion { batch: *batch, number, count, local, local_port };
        if number < count && count <= MAX_BATCH && usize::from(local) < MAX_PORTS {
            Ok(question)
        } else {
            Err(WireError::Malformed(format!("probe {number} of {count} from port {local}")))
        }
    }
}

/// What a probe hears.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProbeAnswer {
    /// Where the connection came from, as the server sees it.
    pub observed: SocketAddr,
    /// When the server accepted it, microseconds on a clock of the server's own.
    pub at_us: u64,
    /// The server's prediction, in the answer that completes the batch.
    pub prediction: Option<Prediction>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_question_survives_its_own_encoding() {
        let question = ProbeQuestion { batch: [3; 16], number: 4, count: 5, local: 2, local_port: 40_001 };
        assert_eq!(ProbeQuestion::parse(&question.encode()), Ok(question));
    }

    #[test]
    fn a_question_out_of_bounds_is_an_error() {
        let good = ProbeQuestion { batch: [3; 16], number: 4, count: 5, local: 2, local_port: 1 };
        for bad in [
            ProbeQuestion { number: 5, ..good },
            ProbeQuestion { count: MAX_BATCH + 1, ..good },
            ProbeQuestion { local: MAX_PORTS as u8, ..good },
        ] {
            assert!(ProbeQuestion::parse(&bad.encode()).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_preamble_survives_its_own_encoding_and_another_version_is_reported() {
        for purpose in [Purpose::Probe, Purpose::Datagrams, Purpose::Knock, Purpose::Cross] {
            assert_eq!(parse_preamble(preamble(purpose)), Ok(purpose));
        }
        assert_eq!(parse_preamble([b'P', b'T', 99, 1]), Err(WireError::Version { theirs: 99 }));
        assert!(parse_preamble(*b"GET ").is_err());
    }
}
