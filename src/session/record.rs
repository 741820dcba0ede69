//! Building, sealing and opening records. The headers are [`wire::record`](crate::wire::record)'s.
//!
//! ```text
//!  link record, plaintext
//!  NOMINATE   type                                       sent and read by the link handshake
//!  RESUME     type, next u64, oldest u32, fresh u8       first record of each side behind NOMINATE
//!  ACK        type, next u64
//!  PING       type, token u64
//!  PONG       type, token u64                            the ping's token
//!  LINK_DEAD  type, epoch u32
//!  CLOSE      type, why u8                               see [`Goodbye`]
//! ```

use bytes::{Buf, BufMut, Bytes, BytesMut};

use super::LinkError;
use crate::{
    secure::{OpenKey, SealKey},
    wire::{
        WireError,
        peer::Goodbye,
        record::{LINK_HEADER, LinkType, RecordHeader, SESSION_HEADER, TAG, link_header, session_header},
    },
};

/// What a link record says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum LinkMessage {
    /// Where the sender stands.
    Resume {
        /// The next session record that the sender expects.
        next: u64,
        /// The oldest epoch under which the sender has sealed what it may still send.
        oldest: u32,
        /// The sender can open records of this link's epoch.
        fresh: bool,
    },
    /// All session records below this number have arrived.
    Ack {
        /// The next session record that the sender expects.
        next: u64,
    },
    /// Are you there?
    Ping {
        /// Comes back in the answer.
        token: u64,
    },
    /// Yes.
    Pong {
        /// Of the ping.
        token: u64,
    },
    /// The sender gives this link up.
    LinkDead {
        /// The link.
        epoch: u32,
    },
    /// The sender ends the session.
    Close {
        /// Why.
        why: Goodbye,
    },
}

impl LinkMessage {
    /// For messages to people and logs.
    pub(super) fn name(&self) -> &'static str {
        match self {
            LinkMessage::Resume { .. } => "RESUME",
            LinkMessage::Ack { .. } => "ACK",
            LinkMessage::Ping { .. } => "PING",
            LinkMessage::Pong { .. } => "PONG",
            LinkMessage::LinkDead { .. } => "LINK_DEAD",
            LinkMessage::Close { .. } => "CLOSE",
        }
    }

    fn encode(&self, out: &mut BytesMut) {
        match *self {
            LinkMessage::Resume { next, oldest, fresh } => {
                out.put_u8(LinkType::Resume as u8);
                out.put_u64(next);
                out.put_u32(oldest);
                out.put_u8(fresh.into());
            }
            LinkMessage::Ack { next } => {
                out.put_u8(LinkType::Ack as u8);
                out.put_u64(next);
            }
            LinkMessage::Ping { token } => {
                out.put_u8(LinkType::Ping as u8);
                out.put_u64(token);
            }
            LinkMessage::Pong { token } => {
                out.put_u8(LinkType::Pong as u8);
                out.put_u64(token);
            }
            LinkMessage::LinkDead { epoch } => {
                out.put_u8(LinkType::LinkDead as u8);
                out.put_u32(epoch);
            }
            LinkMessage::Close { why } => {
                out.put_u8(LinkType::Close as u8);
                out.put_u8(match why {
                    Goodbye::Stopped => 0,
                    Goodbye::Unauthorised => 1,
                    Goodbye::Unknown => 2,
                    Goodbye::Expired => 3,
                    Goodbye::Broken => 4,
                });
            }
        }
    }

    fn decode(mut body: &[u8]) -> Result<Self, LinkError> {
        let short = |_| LinkError::Format(WireError::Truncated);
        let byte = body.try_get_u8().map_err(short)?;
        let unknown =
            || LinkError::Format(WireError::Malformed(format!("unknown type of link record {byte}")));
        let message = match LinkType::from_byte(byte).ok_or_else(unknown)? {
            LinkType::Nominate => return Err(LinkError::Unexpected("NOMINATE")),
            LinkType::Resume => LinkMessage::Resume {
                next: body.try_get_u64().map_err(short)?,
                oldest: body.try_get_u32().map_err(short)?,
                fresh: body.try_get_u8().map_err(short)? != 0,
            },
            LinkType::Ack => LinkMessage::Ack { next: body.try_get_u64().map_err(short)? },
            LinkType::Ping => LinkMessage::Ping { token: body.try_get_u64().map_err(short)? },
            LinkType::Pong => LinkMessage::Pong { token: body.try_get_u64().map_err(short)? },
            LinkType::LinkDead => LinkMessage::LinkDead { epoch: body.try_get_u32().map_err(short)? },
            LinkType::Close => LinkMessage::Close {
                why: match body.try_get_u8().map_err(short)? {
                    1 => Goodbye::Unauthorised,
                    2 => Goodbye::Unknown,
                    3 => Goodbye::Expired,
                    4 => Goodbye::Broken,
                    // Whatever a later version may say: it is over.
                    _ => Goodbye::Stopped,
                },
            },
        };
        if body.is_empty() {
            Ok(message)
        } else {
            Err(LinkError::Format(WireError::Malformed("bytes left over in a link record".into())))
        }
    }
}

/// Takes one whole record off the front; `None` where it is not all there yet.
pub(super) fn take(input: &mut BytesMut) -> Result<Option<(RecordHeader, BytesMut)>, LinkError> {
    match RecordHeader::parse(input)? {
        Some(header) if input.len() >= header.total() => Ok(Some((header, input.split_to(header.total())))),
        _ => Ok(None),
    }
}

/// Appends a sealed link record.
pub(super) fn seal_link(key: &SealKey, counter: u64, message: &LinkMessage, out: &mut BytesMut) {
    let start = out.len();
    out.put_bytes(0, LINK_HEADER);
    message.encode(out);
    let body = start + LINK_HEADER;
    let header = link_header(counter, out.len() - body + TAG);
    out[start..body].copy_from_slice(&header);
    let tag = key.seal(counter, &header, &mut out[body..]);
    out.put_slice(&tag);
}

/// Opens a whole link record.
pub(super) fn open_link(key: &OpenKey, counter: u64, record: BytesMut) -> Result<LinkMessage, LinkError> {
    LinkMessage::decode(&open(key, counter, record, LINK_HEADER)?)
}

/// Seals a session record in place: `record` is room for the header, then the body.
pub(super) fn seal_session(key: &SealKey, epoch: u32, number: u64, mut record: BytesMut) -> Bytes {
    let header = session_header(epoch, number, record.len() - SESSION_HEADER + TAG);
    record[..SESSION_HEADER].copy_from_slice(&header);
    let tag = key.seal(number, &header, &mut record[SESSION_HEADER..]);
    record.put_slice(&tag);
    record.freeze()
}

/// Opens a whole session record in place: its body.
pub(super) fn open_session(key: &OpenKey, number: u64, record: BytesMut) -> Result<Bytes, LinkError> {
    open(key, number, record, SESSION_HEADER)
}

fn open(key: &OpenKey, counter: u64, mut record: BytesMut, header: usize) -> Result<Bytes, LinkError> {
    let (aad, sealed) = record.split_at_mut(header);
    let length = key.open(counter, aad, sealed).map_err(|_| LinkError::Seal)?.len();
    record.advance(header);
    record.truncate(length);
    Ok(record.freeze())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::session::testing::Keys;

    #[test]
    fn every_link_message_survives_sealing_and_opening() {
        let (ours, theirs) = Keys::new(1).link();
        let messages = [
            LinkMessage::Resume { next: u64::MAX, oldest: 7, fresh: true },
            LinkMessage::Resume { next: 0, oldest: 0, fresh: false },
            LinkMessage::Ack { next: 9 },
            LinkMessage::Ping { token: 1 },
            LinkMessage::Pong { token: 2 },
            LinkMessage::LinkDead { epoch: 3 },
            LinkMessage::Close { why: Goodbye::Stopped },
            LinkMessage::Close { why: Goodbye::Unauthorised },
            LinkMessage::Close { why: Goodbye::Unknown },
            LinkMessage::Close { why: Goodbye::Expired },
            LinkMessage::Close { why: Goodbye::Broken },
        ];
        let mut wire = BytesMut::new();
        for (counter, message) in messages.iter().enumerate() {
            seal_link(&ours.seal, counter as u64, message, &mut wire);
        }
        for (at, message) in messages.iter().enumerate() {
            let (header, record) = take(&mut wire).unwrap().unwrap();
            assert!(matches!(header, RecordHeader::Link { counter, .. } if counter == at as u64));
            assert_eq!(
                open_link(&theirs.open, at as u64, record).as_ref(),
                Ok(message),
                "{}",
                message.name()
            );
        }
        assert!(wire.is_empty());
    }

    #[test]
    fn a_link_message_of_the_wrong_length_is_an_error() {
        for message in [LinkMessage::Ack { next: 1 }, LinkMessage::Resume { next: 1, oldest: 1, fresh: true }]
        {
            let mut body = BytesMut::new();
            message.encode(&mut body);
            assert!(LinkMessage::decode(&[&body[..], b"x"].concat()).is_err());
            for cut in 0..body.len() {
                assert!(LinkMessage::decode(&body[..cut]).is_err(), "cut to {cut}");
            }
        }
        assert!(LinkMessage::decode(&[99]).is_err());
        assert_eq!(LinkMessage::decode(&[1]), Err(LinkError::Unexpected("NOMINATE")));
    }

    #[test]
    fn a_session_record_opens_once_every_bit_is_as_it_was_sealed() {
        let (ours, theirs) = Keys::new(1).epoch();
        let body = b"frames";
        let mut record = BytesMut::zeroed(SESSION_HEADER);
        record.put_slice(body);
        let sealed = seal_session(&ours.seal, 4, 9, record);
        assert_eq!(sealed.len(), SESSION_HEADER + body.len() + TAG);
        for bit in 0..sealed.len() * 8 {
            let mut changed = BytesMut::from(&sealed[..]);
            changed[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(open_session(&theirs.open, 9, changed), Err(LinkError::Seal), "bit {bit}");
        }
        let opened = open_session(&theirs.open, 9, BytesMut::from(&sealed[..]));
        assert_eq!(opened.as_deref(), Ok(&body[..]));
        assert_eq!(open_session(&theirs.open, 8, BytesMut::from(&sealed[..])), Err(LinkError::Seal));
    }
}
