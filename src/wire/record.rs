//! The records that travel on a link (one TCP connection), behind its handshake.
//!
//! ```text
//!  0      1            4
//!  +------+------------+------------------------------------------------
//!  | kind | length u24 | epoch u32, number u64    kind 1, session record
//!  | kind | length u24 | counter u64              kind 2, link record
//!  +------+------------+------------------------------------------------
//!  length  bytes that follow the header: the sealed body with its 16-byte tag
//! ```
//!
//! The header is the associated data of the seal; number and counter are its nonce. The plaintext of a
//! link record begins with its [type](LinkType). All integers are big-endian.

use super::WireError;

/// Length of the header of a session record.
pub const SESSION_HEADER: usize = 16;

/// Length of the header of a link record.
pub const LINK_HEADER: usize = 12;

/// Length of the tag behind every sealed body.
pub const TAG: usize = 16;

/// Largest plaintext of a session record: one frame with 64 KiB of data. Four TLS records' worth, so that the fixed
/// cost of a seal is lost in it, and little enough that a keystroke behind one waits 0.5 ms at 1 Gbit/s. (Programs
/// write powers of two: what is a little more than a record's room would be two records.)
pub const MAX_SESSION_BODY: usize = 64 * 1024 + 8;

/// Length of the longest session record.
pub const MAX_SESSION_RECORD: usize = SESSION_HEADER + MAX_SESSION_BODY + TAG;

/// Largest plaintext of a link record: its type and a few integers.
pub const MAX_LINK_BODY: usize = 256;

const KIND_SESSION: u8 = 1;
const KIND_LINK: u8 = 2;

/// The header of a record, checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RecordHeader {
    /// Mux frames, numbered over all links.
    Session {
        /// Link whose handshake gave the keys.
        epoch: u32,
        /// Number of the record within its direction; the nonce.
        number: u64,
        /// Bytes that follow the header, tag included: [`TAG`] to [`MAX_SESSION_BODY`] + [`TAG`].
        length: usize,
    },
    /// About this link alone.
    Link {
        /// Number of the record within this link and its direction; the nonce.
        counter: u64,
        /// Bytes that follow the header, tag included: [`TAG`] + 1 to [`MAX_LINK_BODY`] + [`TAG`].
        length: usize,
    },
}

impl RecordHeader {
    /// Reads the header at the front of `bytes`; `None` where it is not all there yet.
    ///
    /// # Errors
    /// An unknown kind, as soon as the first byte is there, and a length out of bounds, as soon as the
    /// first four are: nobody waits for, or allocates, what a hostile header promises.
    pub fn parse(bytes: &[u8]) -> Result<Option<Self>, WireError> {
        let Some((&kind, rest)) = bytes.split_first() else { return Ok(None) };
        let (least, most) = match kind {
            KIND_SESSION => (TAG, MAX_SESSION_BODY + TAG),
            KIND_LINK => (TAG + 1, MAX_LINK_BODY + TAG),
            other => return Err(WireError::Malformed(format!("unknown kind of record {other}"))),
        };
        let Some((&[high, middle, low], rest)) = rest.split_first_chunk::<3>() else { return Ok(None) };
        let length = u32::from_be_bytes([0, high, middle, low]) as usize;
        if length < least {
            return Err(WireError::Truncated);
        }
        if length > most {
            return Err(WireError::TooLong(most));
        }
        if kind == KIND_LINK {
            let counter = rest.first_chunk().copied().map(u64::from_be_bytes);
            return Ok(counter.map(|counter| RecordHeader::Link { counter, length }));
        }
        let Some((epoch, rest)) = rest.split_first_chunk() else { return Ok(None) };
        let epoch = u32::from_be_bytes(*epoch);
        let number = rest.first_chunk().copied().map(u64::from_be_bytes);
        Ok(number.map(|number| RecordHeader::Session { epoch, number, length }))
    }

    /// Bytes of the header itself.
    pub fn size(&self) -> usize {
        match self {
            RecordHeader::Session { .. } => SESSION_HEADER,
            RecordHeader::Link { .. } => LINK_HEADER,
        }
    }

    /// Bytes behind the header, tag included.
    pub fn length(&self) -> usize {
        match self {
            RecordHeader::Session { length, .. } | RecordHeader::Link { length, .. } => *length,
        }
    }

    /// Bytes of the whole record.
    pub fn total(&self) -> usize {
        self.size() + self.length()
    }
}

/// The header of a session record of `length` bytes (tag included).
pub fn session_header(epoch: u32, number: u64, length: usize) -> [u8; SESSION_HEADER] {
    debug_assert!((TAG..=MAX_SESSION_BODY + TAG).contains(&length));
    let mut header = [0; SESSION_HEADER];
    header[..4].copy_from_slice(&kind_and_length(KIND_SESSION, length));
    header[4..8].copy_from_slice(&epoch.to_be_bytes());
    header[8..].copy_from_slice(&number.to_be_bytes());
    header
}

/// The header of a link record of `length` bytes (tag included).
pub fn link_header(counter: u64, length: usize) -> [u8; LINK_HEADER] {
    debug_assert!((TAG + 1..=MAX_LINK_BODY + TAG).contains(&length));
    let mut header = [0; LINK_HEADER];
    header[..4].copy_from_slice(&kind_and_length(KIND_LINK, length));
    header[4..].copy_from_slice(&counter.to_be_bytes());
    header
}

fn kind_and_length(kind: u8, length: usize) -> [u8; 4] {
    // Both bounds are below 2^24; see the assertions above.
    (u32::from(kind) << 24 | length as u32).to_be_bytes()
}

/// First byte of a link record's plaintext.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum LinkType {
    /// Initiator to responder, its first record: this connection is the link. No content.
    Nominate = 1,
    /// The next session record that the sender expects.
    Resume = 2,
    /// Session records received so far, and credit.
    Ack = 3,
    /// Are you there?
    Ping = 4,
    /// Answer to a ping.
    Pong = 5,
    /// Another link is dead.
    LinkDead = 6,
    /// The session ends, and why.
    Close = 7,
}

impl LinkType {
    /// The type that a byte stands for, if any.
    pub fn from_byte(byte: u8) -> Option<Self> {
        use LinkType::*;
        [Nominate, Resume, Ack, Ping, Pong, LinkDead, Close].into_iter().find(|t| *t as u8 == byte)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_survives_its_own_encoding_and_waits_for_its_last_byte() {
        let session = session_header(7, u64::MAX - 1, MAX_SESSION_BODY + TAG);
        let link = link_header(9, 17);
        for (bytes, header) in [
            (
                &session[..],
                RecordHeader::Session { epoch: 7, number: u64::MAX - 1, length: MAX_SESSION_BODY + TAG },
            ),
            (&link[..], RecordHeader::Link { counter: 9, length: 17 }),
        ] {
            for cut in 0..bytes.len() {
                assert_eq!(RecordHeader::parse(&bytes[..cut]), Ok(None), "{header:?} cut to {cut}");
            }
            assert_eq!(RecordHeader::parse(bytes), Ok(Some(header)));
            assert_eq!(RecordHeader::parse(&[bytes, b"body"].concat()), Ok(Some(header)));
            assert_eq!(header.size(), bytes.len());
            assert_eq!(header.total(), bytes.len() + header.length());
        }
    }

    #[test]
    fn the_bytes_of_a_header_are_these() {
        assert_eq!(
            session_header(0x0102_0304, 0x1112_1314_1516_1718, 0x00_8000),
            *b"\x01\x00\x80\x00\x01\x02\x03\x04\x11\x12\x13\x14\x15\x16\x17\x18"
        );
        assert_eq!(
            link_header(0x1112_1314_1516_1718, 17),
            *b"\x02\x00\x00\x11\x11\x12\x13\x14\x15\x16\x17\x18"
        );
    }

    #[test]
    fn a_hostile_header_is_refused_before_anything_is_waited_for() {
        assert!(RecordHeader::parse(&[0]).is_err());
        assert!(RecordHeader::parse(&[3]).is_err());
        assert_eq!(RecordHeader::parse(&[1, 0, 0, 15]), Err(WireError::Truncated));
        assert_eq!(RecordHeader::parse(&[2, 0, 0, 16]), Err(WireError::Truncated));
        assert_eq!(RecordHeader::parse(&[1, 255, 255, 255]), Err(WireError::TooLong(65_560)));
        assert_eq!(RecordHeader::parse(&[2, 0, 1, 17]), Err(WireError::TooLong(272)));
    }

    #[test]
    fn every_type_has_a_byte_of_its_own() {
        let types = (0..=255).filter_map(LinkType::from_byte).collect::<Vec<_>>();
        assert_eq!(types.len(), 7);
        assert!(types.iter().all(|t| LinkType::from_byte(*t as u8) == Some(*t)));
    }
}
