//! Bytes of a stream that lie where the record that carries them will be sealed.
//!
//! ```text
//!   | record's header | frame's header | payload ...            | seal's tag |
//!   |<----------- FRONT ------------->|<-------- ROOM -------->|
//! ```
//!
//! A socket is read straight to its place, so bulk data is never copied on its way into a record.

use bytes::{Bytes, BytesMut};

use super::{
    StreamId,
    frame::{self, OpenData},
};
use crate::wire::record::{MAX_SESSION_BODY, MAX_SESSION_RECORD, SESSION_HEADER};

/// Most payload of one record, bytes: one DATA frame fills it.
pub const ROOM: usize = MAX_SESSION_BODY - frame::HEADER;

/// What lies before the payload.
const FRONT: usize = SESSION_HEADER + frame::HEADER;

/// Capacity of a record's buffer.
pub const CAPACITY: usize = MAX_SESSION_RECORD;

/// Payload with room around it for everything that a record is besides.
#[derive(Debug)]
pub struct Whole(BytesMut);

impl Whole {
    /// Room for [`ROOM`] bytes, in a buffer of [`CAPACITY`] that may have been used before.
    pub fn new(mut buffer: BytesMut) -> Self {
        // Nothing is cleared that holds bytes of an earlier record: they are overwritten, or cut off.
        buffer.resize(FRONT + ROOM, 0);
        Whole(buffer)
    }

    /// Where the payload goes.
    pub fn space(&mut self) -> &mut [u8] {
        &mut self.0[FRONT..]
    }

    /// Only the first `count` bytes of the space are payload.
    pub fn truncate(&mut self, count: usize) {
        self.0.truncate(FRONT + count);
    }

    /// The payload.
    pub fn payload(&self) -> &[u8] {
        &self.0[FRONT..]
    }

    /// The payload without the room.
    pub fn into_payload(mut self) -> Bytes {
        self.0.split_off(FRONT).freeze()
    }

    /// The memory, to be used again.
    pub fn into_buffer(self) -> BytesMut {
        self.0
    }

    /// A record to be sealed: room for its header, and one DATA frame.
    pub(super) fn into_record(mut self, id: StreamId) -> BytesMut {
        let payload = self.payload().len();
        OpenData::write_header(&mut self.0[SESSION_HEADER..FRONT], id, payload);
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{mux::frame::Frame, wire::record::TAG};

    #[test]
    fn a_whole_piece_becomes_one_data_frame_where_it_lies() {
        let mut whole = Whole::new(BytesMut::with_capacity(CAPACITY));
        assert_eq!(whole.space().len(), ROOM);
        whole.space()[..5].copy_from_slice(b"hello");
        whole.truncate(5);
        let place = whole.payload().as_ptr();
        let mut body = whole.into_record(StreamId(3)).freeze().split_off(SESSION_HEADER);
        let Ok(Some((StreamId(3), Frame::Data(payload)))) = frame::next(&mut body) else {
            panic!("no DATA frame")
        };
        assert_eq!((&payload[..], payload.as_ptr()), (&b"hello"[..], place));
        assert!(body.is_empty());
    }

    #[test]
    fn the_tag_finds_room_without_another_allocation() {
        let mut record = Whole::new(BytesMut::with_capacity(CAPACITY)).into_record(StreamId(1));
        let place = record.as_ptr();
        record.extend_from_slice(&[7; TAG]);
        assert_eq!((record.as_ptr(), record.len()), (place, CAPACITY));
    }
}
