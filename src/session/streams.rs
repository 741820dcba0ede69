//! A session as its streams use it.

use std::time::Instant;

use bytes::Bytes;

use super::Session;
use crate::{
    mux::{MuxError, StreamId, whole::Whole},
    wire::stream::{OpenRequest, ResetReason},
};

impl Session {
    /// Opens a stream; see [`Mux::open`](crate::mux::Mux::open). It can be written to at once, link or not.
    ///
    /// # Errors
    /// As there.
    pub fn open(&mut self, _now: Instant, request: OpenRequest) -> Result<StreamId, MuxError> {
        self.mux.open(&request)
    }

    /// How many bytes [`write`](Self::write) takes; see [`Mux::writable`](crate::mux::Mux::writable).
    pub fn writable(&mut self, id: StreamId) -> usize {
        self.mux.writable(id)
    }

    /// Takes bytes for a stream, all or none; see [`Mux::write`](crate::mux::Mux::write).
    ///
    /// # Errors
    /// As there.
    pub fn write(&mut self, id: StreamId, bytes: Bytes) -> Result<(), MuxError> {
        self.mux.write(id, bytes)
    }

    /// Room for bytes where their record will be, for [`write_whole`](Self::write_whole).
    pub fn whole(&mut self) -> Whole {
        Whole::new(self.queue.full_buffer())
    }

    /// Takes room back that was not used.
    pub fn give_back(&mut self, whole: Whole) {
        self.queue.give_back(whole.into_buffer());
    }

    /// As [`write`](Self::write), without a copy; see [`Mux::write_whole`](crate::mux::Mux::write_whole).
    ///
    /// # Errors
    /// As there.
    pub fn write_whole(&mut self, id: StreamId, piece: Whole) -> Result<(), MuxError> {
        self.mux.write_whole(id, piece)
    }

    /// Takes bytes that arrived, and gives credit for as many; see [`Mux::read`](crate::mux::Mux::read).
    pub fn read(&mut self, now: Instant, id: StreamId) -> Option<Bytes> {
        let rtt = self.link.as_ref().and_then(|link| link.liveness.rtt());
        self.mux.read(now, id, rtt.map(|rtt| rtt.smoothed))
    }

    /// No more bytes will be written; see [`Mux::finish`](crate::mux::Mux::finish).
    pub fn finish(&mut self, id: StreamId) {
        self.mux.finish(id);
    }

    /// Ends a stream at once; see [`Mux::reset`](crate::mux::Mux::reset).
    pub fn reset(&mut self, id: StreamId, reason: ResetReason) {
        self.mux.reset(id, reason);
    }
}
