//! The messages, and how they become datagrams and frames.
//!
//! Everything that crosses the network is defined here and nowhere else; `docs/PROTOCOL.md` has the
//! same in prose. Nothing in this room knows a key: [`packet`] is what travels in clear, the other
//! modules are what is sealed inside (or, for [`probe`] and [`examine`], what is said about addresses).
//!
//! Bodies are [rmp-serde](rmp_serde) arrays. A body that is longer than its bound, that has bytes left
//! over or that does not decode is a [`WireError`], never a panic.

pub mod examine;
pub mod packet;
pub mod peer;
pub mod probe;
pub mod record;
pub mod server;
pub mod stream;

use serde::{Serialize, de::DeserializeOwned};

/// Version of everything in this room. Sent in clear in the first message to anybody, and part of
/// every handshake's prologue.
pub const VERSION: u8 = 1;

/// Port on which a rendezvous server listens when none is given (UDP, and TCP for probes and for
/// datagrams over TCP).
pub const DEFAULT_PORT: u16 = 7862;

/// Second probe port of a rendezvous server.
pub const DEFAULT_PROBE_PORT: u16 = 7863;

/// Largest UDP payload that is ever sent: fits every path with an MTU of 1280 (IPv6's least), less the
/// headers of IPv6 and UDP.
pub const MAX_DATAGRAM: usize = 1232;

/// Largest sealed body between client and server that is *not* a relayed datagram.
pub const MAX_BODY: usize = 1024;

/// Longest name of a host, bytes.
pub const MAX_NAME: usize = 63;

/// What is wrong with bytes that came from the network.
#[derive(Debug, thiserror::Error, Clone, PartialEq, Eq)]
pub enum WireError {
    /// Fewer bytes than the format needs.
    #[error("the message is cut short")]
    Truncated,
    /// More bytes than the format allows.
    #[error("the message is longer than {0} bytes")]
    TooLong(usize),
    /// The bytes do not decode.
    #[error("the message does not decode: {0}")]
    Malformed(String),
    /// The other side speaks another version.
    #[error("the other side speaks protocol version {theirs}, we speak {VERSION}: update the older one")]
    Version {
        /// The version that the other side named.
        theirs: u8,
    },
}

/// Encodes a body.
///
/// Encoding the types of this room cannot fail: they hold no maps with odd keys, no unsized sequences
/// and nothing that refuses to serialise.
pub fn encode<T: Serialize>(body: &T) -> Vec<u8> {
    rmp_serde::to_vec(body).expect("the wire types always encode")
}

/// Decodes a body of at most `max` bytes that must use all of `bytes`.
pub fn decode<T: DeserializeOwned>(bytes: &[u8], max: usize) -> Result<T, WireError> {
    if bytes.len() > max {
        return Err(WireError::TooLong(max));
    }
    let mut reader = bytes;
    let body = rmp_serde::from_read(&mut reader).map_err(|e| WireError::Malformed(e.to_string()))?;
    if reader.is_empty() { Ok(body) } else { Err(WireError::Malformed("bytes left over".into())) }
}

/// A byte string in a message: encoded as MessagePack `bin`, not as an array of numbers.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct Blob(pub Vec<u8>);

impl Serialize for Blob {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(&self.0)
    }
}

impl<'de> serde::Deserialize<'de> for Blob {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct BlobVisitor;
        impl serde::de::Visitor<'_> for BlobVisitor {
            type Value = Blob;
            fn expecting(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
                f.write_str("a byte string")
            }
            fn visit_bytes<E: serde::de::Error>(self, bytes: &[u8]) -> Result<Blob, E> {
                Ok(Blob(bytes.to_vec()))
            }
        }
        deserializer.deserialize_bytes(BlobVisitor)
    }
}

/// `#[serde(with = "wire::bin")]` for byte arrays: MessagePack `bin`, as for [`Blob`]. An array of numbers
/// takes two bytes for each above 127.
pub(crate) mod bin {
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub(crate) fn serialize<S: Serializer, const N: usize>(
        bytes: &[u8; N],
        to: S,
    ) -> Result<S::Ok, S::Error> {
        to.serialize_bytes(bytes)
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>, const N: usize>(
        from: D,
    ) -> Result<[u8; N], D::Error> {
        let super::Blob(bytes) = Deserialize::deserialize(from)?;
        let length = bytes.len();
        bytes.try_into().map_err(|_| D::Error::invalid_length(length, &"another number of bytes"))
    }
}

impl std::fmt::Debug for Blob {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} bytes", self.0.len())
    }
}

impl From<Vec<u8>> for Blob {
    fn from(bytes: Vec<u8>) -> Self {
        Blob(bytes)
    }
}
