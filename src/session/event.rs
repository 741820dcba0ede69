//! What a session tells its driver.

use std::time::Duration;

use super::{SessionError, StreamId};
use crate::{
    mux::MuxEvent,
    wire::stream::{OpenRequest, ResetReason},
};

/// What happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SessionEvent {
    /// The peer opened a stream.
    Opened {
        /// The stream.
        id: StreamId,
        /// What it is to be connected to.
        request: OpenRequest,
    },
    /// There is something to read; said again only after [`Session::read`](super::Session::read) gave `None`.
    Readable(StreamId),
    /// A stream that took nothing takes bytes again, or was reset meanwhile.
    Writable(StreamId),
    /// The peer's half ended, and everything was read.
    RemoteFinished(StreamId),
    /// The peer reset the stream (or the session ended), and everything that came before was read. The
    /// stream is gone.
    Reset {
        /// The stream.
        id: StreamId,
        /// Why.
        reason: ResetReason,
    },
    /// Both halves ended well. The stream is gone.
    Closed(StreamId),
    /// The session is over, and not because this side said so. Streams were reset before this event.
    /// Transmit what is left, then close the connection.
    Ended(SessionError),
}

impl From<MuxEvent> for SessionEvent {
    fn from(event: MuxEvent) -> Self {
        match event {
            MuxEvent::Opened { id, request } => SessionEvent::Opened { id, request },
            MuxEvent::Readable(id) => SessionEvent::Readable(id),
            MuxEvent::Writable(id) => SessionEvent::Writable(id),
            MuxEvent::RemoteFinished(id) => SessionEvent::RemoteFinished(id),
            MuxEvent::Reset { id, reason } => SessionEvent::Reset { id, reason },
            MuxEvent::Closed(id) => SessionEvent::Closed(id),
        }
    }
}

/// Counters, for people and tests.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct SessionStats {
    /// Links attached so far.
    pub links: u64,
    /// Number of the attached link, if there is one: the epoch.
    pub epoch: Option<u32>,
    /// Session records sealed.
    pub records_sent: u64,
    /// Their bytes, headers and tags included, counted once.
    pub bytes_sent: u64,
    /// Bytes of session records that were sent again on a later link.
    pub bytes_replayed: u64,
    /// Session records received, duplicates not counted.
    pub records_received: u64,
    /// Their bytes.
    pub bytes_received: u64,
    /// Session records that came again and were dropped.
    pub duplicates: u64,
    /// Bytes of memory held for records that are not acknowledged.
    pub unacknowledged: usize,
    /// Streams that are open.
    pub streams: usize,
    /// Smoothed round trip of the attached link, where it was measured.
    pub rtt: Option<Duration>,
}
