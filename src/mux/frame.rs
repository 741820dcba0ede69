//! The frames inside session records.
//!
//! ```text
//!  0      1          4          8
//!  +------+----------+----------+---------------------
//!  | kind | length   | stream   | payload
//!  +------+----------+----------+---------------------
//!  kind    1 OPEN, 2 DATA, 3 FIN, 4 RESET, 5 CREDIT, 6 OPEN NARROW
//!  length  of the payload, 24 bits
//!  OPEN    an OpenRequest, at most MAX_OPEN bytes; NARROW says with which window the stream begins
//!  DATA    bytes of the stream
//!  FIN     empty: no DATA follows
//!  RESET   a ResetReason, at most MAX_OPEN bytes
//!  CREDIT  u64: the receiver may send the stream's bytes up to this offset
//! ```
//!
//! All integers are big-endian. A record holds whole frames; neither a frame nor a payload crosses
//! records.

use bytes::{Buf, BufMut, Bytes, BytesMut};

use super::flow::FirstWindow;
use crate::wire::{
    self,
    stream::{MAX_OPEN, OpenRequest, ResetReason},
};

/// Length of a frame's header.
pub const HEADER: usize = 8;

const OPEN: u8 = 1;
const DATA: u8 = 2;
const FIN: u8 = 3;
const RESET: u8 = 4;
const CREDIT: u8 = 5;
const OPEN_NARROW: u8 = 6;

/// Number of a stream within its session: odd where the initiator opened it, even where the
/// responder did. Never used twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct StreamId(pub u32);

impl std::fmt::Display for StreamId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "stream {}", self.0)
    }
}

/// One frame as received.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Frame {
    /// A new stream.
    Open(OpenRequest, FirstWindow),
    /// Bytes of a stream.
    Data(Bytes),
    /// The sender's half of the stream ends here.
    Fin,
    /// The stream ends at once, in both directions.
    Reset(ResetReason),
    /// The receiver of this frame may send up to this offset of the stream.
    Credit(u64),
}

/// Bytes that authentic peers never send inside a good seal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// The record ends inside a frame.
    #[error("a frame is cut short")]
    Truncated,
    /// The kind is not known.
    #[error("unknown kind of frame {0}")]
    Kind(u8),
    /// The payload is not what the kind wants.
    #[error("a frame of kind {0} has a malformed payload")]
    Payload(u8),
}

/// Takes the next frame off the front of a record's body; `None` at its end.
///
/// # Errors
/// Where the bytes are no frame. The rest of the body is of no use then.
pub fn next(body: &mut Bytes) -> Result<Option<(StreamId, Frame)>, FrameError> {
    if body.is_empty() {
        return Ok(None);
    }
    let kind_and_length = body.try_get_u32().map_err(|_| FrameError::Truncated)?;
    let id = StreamId(body.try_get_u32().map_err(|_| FrameError::Truncated)?);
    let (kind, length) = ((kind_and_length >> 24) as u8, (kind_and_length & 0xff_ffff) as usize);
    if length > body.len() {
        return Err(FrameError::Truncated);
    }
    let mut payload = body.split_to(length);
    let malformed = FrameError::Payload(kind);
    let frame = match kind {
        OPEN | OPEN_NARROW => {
            let first = if kind == OPEN { FirstWindow::Wide } else { FirstWindow::Narrow };
            Frame::Open(wire::decode(&payload, MAX_OPEN).map_err(|_| malformed)?, first)
        }
        DATA => Frame::Data(payload),
        FIN if length == 0 => Frame::Fin,
        RESET => Frame::Reset(wire::decode(&payload, MAX_OPEN).map_err(|_| malformed)?),
        CREDIT if length == 8 => Frame::Credit(payload.get_u64()),
        FIN | CREDIT => return Err(malformed),
        other => return Err(FrameError::Kind(other)),
    };
    Ok(Some((id, frame)))
}

/// Appends an OPEN frame; the request is [encoded](wire::encode) already.
pub fn put_open(out: &mut BytesMut, id: StreamId, request: &[u8], first: FirstWindow) {
    let kind = match first {
        FirstWindow::Wide => OPEN,
        FirstWindow::Narrow => OPEN_NARROW,
    };
    put_whole(out, kind, id, request);
}

/// Appends a FIN frame.
pub fn put_fin(out: &mut BytesMut, id: StreamId) {
    put_whole(out, FIN, id, &[]);
}

/// Appends a RESET frame.
pub fn put_reset(out: &mut BytesMut, id: StreamId, reason: ResetReason) {
    put_whole(out, RESET, id, &wire::encode(&reason));
}

/// Appends a CREDIT frame.
pub fn put_credit(out: &mut BytesMut, id: StreamId, limit: u64) {
    put_whole(out, CREDIT, id, &limit.to_be_bytes());
}

fn put_whole(out: &mut BytesMut, kind: u8, id: StreamId, payload: &[u8]) {
    put_header(out, kind, id, payload.len());
    out.put_slice(payload);
}

fn put_header(out: &mut BytesMut, kind: u8, id: StreamId, length: usize) {
    out.put_u32(u32::from(kind) << 24 | length as u32);
    out.put_u32(id.0);
}

/// A DATA frame at the end of a record that is being filled: it can be made longer until another frame
/// follows.
///
/// The header is written with length 0, the payload is appended by the caller, and
/// [`close`](Self::close) writes the length. So a payload can be copied, or later read from a socket,
/// straight to its place.
#[derive(Debug)]
pub struct OpenData {
    /// The stream of the frame.
    pub id: StreamId,
    header: usize,
}

impl OpenData {
    /// Writes the header of a frame whose payload lies behind it already.
    pub(super) fn write_header(mut place: &mut [u8], id: StreamId, length: usize) {
        place.put_u32(u32::from(DATA) << 24 | length as u32);
        place.put_u32(id.0);
    }

    /// Appends the header.
    pub fn begin(out: &mut BytesMut, id: StreamId) -> Self {
        let header = out.len();
        put_header(out, DATA, id, 0);
        OpenData { id, header }
    }

    /// Everything behind the header is the payload.
    pub fn close(self, out: &mut BytesMut) {
        let length = out.len() - self.header - HEADER;
        out[self.header..self.header + 4]
            .copy_from_slice(&(u32::from(DATA) << 24 | length as u32).to_be_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(mut body: Bytes) -> Result<Vec<(StreamId, Frame)>, FrameError> {
        let mut frames = Vec::new();
        while let Some(frame) = next(&mut body)? {
            frames.push(frame);
        }
        Ok(frames)
    }

    #[test]
    fn every_frame_survives_its_own_encoding() {
        let request = OpenRequest { service: Some("x".repeat(wire::stream::MAX_LABEL)) };
        let mut out = BytesMut::new();
        put_open(&mut out, StreamId(1), &wire::encode(&request), FirstWindow::Wide);
        assert!(out.len() <= HEADER + MAX_OPEN);
        put_open(&mut out, StreamId(3), &wire::encode(&request), FirstWindow::Narrow);
        let data = OpenData::begin(&mut out, StreamId(1));
        out.put_slice(b"hello");
        out.put_slice(b" world");
        data.close(&mut out);
        put_credit(&mut out, StreamId(2), u64::MAX);
        put_fin(&mut out, StreamId(1));
        put_reset(&mut out, StreamId(u32::MAX), ResetReason::Refused);
        let frames = all(out.freeze()).unwrap();
        assert_eq!(
            frames,
            [
                (StreamId(1), Frame::Open(request.clone(), FirstWindow::Wide)),
                (StreamId(3), Frame::Open(request, FirstWindow::Narrow)),
                (StreamId(1), Frame::Data(Bytes::from_static(b"hello world"))),
                (StreamId(2), Frame::Credit(u64::MAX)),
                (StreamId(1), Frame::Fin),
                (StreamId(u32::MAX), Frame::Reset(ResetReason::Refused)),
            ]
        );
    }

    #[test]
    fn a_record_cut_inside_a_frame_is_an_error_and_never_a_panic() {
        let mut out = BytesMut::new();
        put_credit(&mut out, StreamId(2), 77);
        let whole = out.freeze();
        for cut in 1..whole.len() {
            assert_eq!(all(whole.slice(..cut)), Err(FrameError::Truncated), "cut to {cut} bytes");
        }
    }

    #[test]
    fn a_payload_of_the_wrong_shape_is_an_error() {
        let malformed = |kind: u8, payload: &[u8]| {
            let mut out = BytesMut::new();
            put_whole(&mut out, kind, StreamId(1), payload);
            all(out.freeze())
        };
        assert_eq!(malformed(FIN, b"x"), Err(FrameError::Payload(FIN)));
        assert_eq!(malformed(CREDIT, b"x"), Err(FrameError::Payload(CREDIT)));
        assert_eq!(malformed(RESET, b"xyz"), Err(FrameError::Payload(RESET)));
        assert_eq!(malformed(OPEN, &[0; MAX_OPEN + 1]), Err(FrameError::Payload(OPEN)));
        assert_eq!(malformed(0, b""), Err(FrameError::Kind(0)));
    }
}
