//! What travels in clear: the header of every datagram, and the four that open an association.
//!
//! ```text
//!  0      4      5
//!  +------+------+----------------------------------
//!  | index| kind | body
//!  +------+------+----------------------------------
//!  index   receiver's random number for the association, 0 where it has none yet
//!  HELLO   version u8, sender u32, zeros up to 88 bytes in all    client -> server, asks for a cookie
//!  COOKIE  version u8, cookie [24], server key [32]               server -> client
//!  INIT    version u8, sender u32, cookie [24], Noise message 1   client -> server
//!  REPLY   sender u32, Noise message 2                            server -> client
//!  DATA    counter u64, sealed body with its 16-byte tag          both ways, and between peers
//!  REFUSE  version u8, reason u8                                  server -> client, never longer than the question
//! ```
//!
//! Between peers only DATA exists: their handshake travels inside the sealed messages of the server.
//! All integers are big-endian. Over TCP every datagram is preceded by its length as `u16`.

use super::{MAX_DATAGRAM, VERSION, WireError};

/// Length of the DATA header, which is the associated data of its seal.
pub const DATA_HEADER: usize = 13;

/// Length of a cookie: 8 bytes of time, 16 of authenticator.
pub const COOKIE: usize = 24;

/// Length of HELLO, so that COOKIE (62 bytes) is never longer than the question.
pub const HELLO: usize = 88;

/// Length of REFUSE, the shortest datagram: what is shorter is answered with nothing, so that no answer
/// is longer than its question.
pub const REFUSE: usize = 7;

/// Why a server answers with REFUSE.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Refusal {
    /// The client's version is not spoken here.
    Version = 1,
    /// The server is full; try again later.
    Busy = 2,
    /// The index is not known (the server was restarted, or the association timed out).
    Unknown = 3,
    /// The server serves other keys only.
    Private = 4,
}

impl Refusal {
    fn from_byte(byte: u8) -> Option<Self> {
        [Self::Version, Self::Busy, Self::Unknown, Self::Private].into_iter().find(|r| *r as u8 == byte)
    }
}

/// A datagram, taken apart without looking behind any seal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Packet<'a> {
    /// A client asks for a cookie.
    Hello {
        /// Index under which the client expects the answer.
        sender: u32,
    },
    /// The server's answer: proof of address, and who the server is.
    Cookie {
        /// Index of the client.
        index: u32,
        /// To be sent back in INIT from the same address.
        cookie: [u8; COOKIE],
        /// The server's static X25519 public key.
        server_key: [u8; 32],
    },
    /// First handshake message of a client to the server.
    Init {
        /// Index under which the client expects the answer.
        sender: u32,
        /// The cookie that this address was given.
        cookie: [u8; COOKIE],
        /// Noise message 1.
        noise: &'a [u8],
    },
    /// Second handshake message.
    Reply {
        /// Index of the client.
        index: u32,
        /// Index under which the server expects DATA.
        sender: u32,
        /// Noise message 2.
        noise: &'a [u8],
    },
    /// A sealed datagram of an association.
    Data {
        /// Index of the receiver.
        index: u32,
        /// Number of this datagram within its direction; the nonce of its seal.
        counter: u64,
        /// The sealed body.
        sealed: &'a [u8],
    },
    /// The server will not have it.
    Refuse {
        /// The index that the question named: the sender of HELLO or INIT, the receiver of DATA.
        index: u32,
        /// The version that the server speaks.
        version: u8,
        /// Why.
        reason: Refusal,
    },
}

const KIND_HELLO: u8 = 1;
const KIND_COOKIE: u8 = 2;
const KIND_INIT: u8 = 3;
const KIND_REPLY: u8 = 4;
const KIND_DATA: u8 = 5;
const KIND_REFUSE: u8 = 6;

impl<'a> Packet<'a> {
    /// Takes a datagram apart.
    ///
    /// # Errors
    /// [`WireError::Version`] where the sender names another version, and the other errors for bytes
    /// that are no packet at all.
    pub fn parse(datagram: &'a [u8]) -> Result<Packet<'a>, WireError> {
        if datagram.len() > MAX_DATAGRAM {
            return Err(WireError::TooLong(MAX_DATAGRAM));
        }
        if datagram.len() < REFUSE {
            return Err(WireError::Truncated);
        }
        let mut reader = Reader(datagram);
        let index = reader.u32()?;
        let kind = reader.u8()?;
        Ok(match kind {
            KIND_HELLO => {
                reader.version()?;
                let sender = reader.u32()?;
                if datagram.len() < HELLO {
                    return Err(WireError::Truncated);
                }
                Packet::Hello { sender }
            }
            KIND_COOKIE => {
                reader.version()?;
                Packet::Cookie { index, cookie: reader.array()?, server_key: reader.array()? }
            }
            KIND_INIT => {
                reader.version()?;
                Packet::Init { sender: reader.u32()?, cookie: reader.array()?, noise: reader.0 }
            }
            KIND_REPLY => Packet::Reply { index, sender: reader.u32()?, noise: reader.0 },
            KIND_DATA => Packet::Data { index, counter: reader.u64()?, sealed: reader.0 },
            KIND_REFUSE => {
                let version = reader.u8()?;
                let reason = Refusal::from_byte(reader.u8()?)
                    .ok_or_else(|| WireError::Malformed("unknown reason in REFUSE".into()))?;
                Packet::Refuse { index, version, reason }
            }
            other => return Err(WireError::Malformed(format!("unknown kind of datagram {other}"))),
        })
    }

    /// Puts a datagram together.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(HELLO);
        let mut start = |index: u32, kind: u8| {
            out.extend_from_slice(&index.to_be_bytes());
            out.push(kind);
        };
        match self {
            Packet::Hello { sender } => {
                start(0, KIND_HELLO);
                out.push(VERSION);
                out.extend_from_slice(&sender.to_be_bytes());
                out.resize(HELLO, 0);
            }
            Packet::Cookie { index, cookie, server_key } => {
                start(*index, KIND_COOKIE);
                out.push(VERSION);
                out.extend_from_slice(cookie);
                out.extend_from_slice(server_key);
            }
            Packet::Init { sender, cookie, noise } => {
                start(0, KIND_INIT);
                out.push(VERSION);
                out.extend_from_slice(&sender.to_be_bytes());
                out.extend_from_slice(cookie);
                out.extend_from_slice(noise);
            }
            Packet::Reply { index, sender, noise } => {
                start(*index, KIND_REPLY);
                out.extend_from_slice(&sender.to_be_bytes());
                out.extend_from_slice(noise);
            }
            Packet::Data { index, counter, sealed } => {
                out.extend_from_slice(&data_header(*index, *counter));
                out.extend_from_slice(sealed);
            }
            Packet::Refuse { index, version, reason } => {
                start(*index, KIND_REFUSE);
                out.push(*version);
                out.push(*reason as u8);
            }
        }
        out
    }
}

/// The 13 bytes in front of a sealed body.
pub fn data_header(index: u32, counter: u64) -> [u8; DATA_HEADER] {
    let mut header = [0; DATA_HEADER];
    header[..4].copy_from_slice(&index.to_be_bytes());
    header[4] = KIND_DATA;
    header[5..].copy_from_slice(&counter.to_be_bytes());
    header
}

/// Reads fixed-size integers off the front.
struct Reader<'a>(&'a [u8]);

impl Reader<'_> {
    fn array<const N: usize>(&mut self) -> Result<[u8; N], WireError> {
        let (head, tail) = self.0.split_first_chunk::<N>().ok_or(WireError::Truncated)?;
        self.0 = tail;
        Ok(*head)
    }

    fn u8(&mut self) -> Result<u8, WireError> {
        self.array::<1>().map(|[byte]| byte)
    }

    fn u32(&mut self) -> Result<u32, WireError> {
        self.array().map(u32::from_be_bytes)
    }

    fn u64(&mut self) -> Result<u64, WireError> {
        self.array().map(u64::from_be_bytes)
    }

    fn version(&mut self) -> Result<(), WireError> {
        match self.u8()? {
            VERSION => Ok(()),
            theirs => Err(WireError::Version { theirs }),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn every_packet_survives_its_own_encoding() {
        let noise = [7u8; 96];
        for packet in [
            Packet::Hello { sender: 9 },
            Packet::Cookie { index: 9, cookie: [1; COOKIE], server_key: [2; 32] },
            Packet::Init { sender: 9, cookie: [1; COOKIE], noise: &noise },
            Packet::Reply { index: 9, sender: 8, noise: &noise },
            Packet::Data { index: 8, counter: u64::MAX, sealed: &noise },
            Packet::Refuse { index: 9, version: VERSION, reason: Refusal::Busy },
        ] {
            let bytes = packet.encode();
            assert_eq!(Packet::parse(&bytes).as_ref(), Ok(&packet));
            for cut in 0..bytes.len().min(9) {
                assert!(Packet::parse(&bytes[..cut]).is_err(), "{packet:?} cut to {cut} bytes");
            }
        }
    }

    #[test]
    fn an_answer_to_a_stranger_is_never_longer_than_the_question() {
        let question = Packet::Hello { sender: 1 }.encode().len();
        let cookie = Packet::Cookie { index: 1, cookie: [0; COOKIE], server_key: [0; 32] };
        let refuse = Packet::Refuse { index: 1, version: VERSION, reason: Refusal::Version };
        assert!(cookie.encode().len() <= question);
        assert_eq!(refuse.encode().len(), REFUSE);
        let other_version = [0, 0, 0, 0, KIND_INIT, VERSION + 1, 0];
        assert!(matches!(Packet::parse(&other_version), Err(WireError::Version { .. })));
        assert_eq!(Packet::parse(&other_version[..REFUSE - 1]), Err(WireError::Truncated));
    }

    proptest! {
        #[test]
        fn any_bytes_are_a_packet_or_an_error(
            kind in 0u8..8,
            mut bytes in prop::collection::vec(any::<u8>(), 0..MAX_DATAGRAM + 2),
        ) {
            if let Some(at) = bytes.get_mut(4) {
                *at = kind;
            }
            if let Some(at) = bytes.get_mut(5) {
                *at = *at % 2 + VERSION;
            }
            if let Ok(packet) = Packet::parse(&bytes) {
                let again = packet.encode();
                prop_assert_eq!(Packet::parse(&again), Ok(packet));
            }
        }
    }

    #[test]
    fn another_version_is_reported_as_one() {
        let mut hello = Packet::Hello { sender: 1 }.encode();
        hello[5] = 99;
        assert_eq!(Packet::parse(&hello), Err(WireError::Version { theirs: 99 }));
    }
}
