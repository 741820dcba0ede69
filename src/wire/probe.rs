//! What a TCP connection to a server's port says first, and what a probe says and hears.
//!
//! ```text
//!  client -> server   "PT" version u8 purpose u8
//!    purpose 1, probe:      batch [16], number u8, count u8
//!      server -> client     length u16, ProbeAnswer
//!    purpose 2, datagrams:  from now on both ways, each datagram behind its length u16
//! ```
//!
//! A probe is not sealed: it says nothing but the address that everybody on its path sees.

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

use super::{VERSION, WireError};
use crate::nat::Prediction;

/// Length of the preamble of every TCP connection to a server.
pub const PREAMBLE: usize = 4;

/// Length of a probe's question after the preamble.
pub const QUESTION: usize = 18;

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
}

/// The four bytes that open every TCP connection to a server.
pub fn preamble(purpose: Purpose) -> [u8; PREAMBLE] {
    [b'P', b'T', VERSION, if purpose == Purpose::Probe { 1 } else { 2 }]
}

/// Reads the four bytes.
///
/// # Errors
/// Another protocol, another version, or an unknown purpose.
pub fn parse_preamble(bytes: [u8; PREAMBLE]) -> Result<Purpose, WireError> {
    match bytes {
        [b'P', b'T', VERSION, 1] => Ok(Purpose::Probe),
        [b'P', b'T', VERSION, 2] => Ok(Purpose::Datagrams),
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
}

impl ProbeQuestion {
    /// The bytes after the preamble.
    pub fn encode(&self) -> [u8; QUESTION] {
        let mut bytes = [0; QUESTION];
        bytes[..16].copy_from_slice(&self.batch);
        bytes[16] = self.number;
        bytes[17] = self.count;
        bytes
    }

    /// Reads the bytes after the preamble.
    ///
    /// # Errors
    /// A number that is not below the count, or a count above [`MAX_BATCH`].
    pub fn parse(bytes: &[u8; QUESTION]) -> Result<Self, WireError> {
        let (batch, rest) = bytes.split_first_chunk::<16>().expect("18 bytes are at least 16");
        let question = ProbeQuestion { batch: *batch, number: rest[0], count: rest[1] };
        if question.number < question.count && question.count <= MAX_BATCH {
            Ok(question)
        } else {
            Err(WireError::Malformed(format!("probe {} of {}", question.number, question.count)))
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
