//! A tunnel as its streams use it.

use std::{
    collections::VecDeque,
    sync::Arc,
    task::{Context, Poll},
};

use bytes::Bytes;

use super::Tunnel;
use crate::{
    mux::{
        MuxError, StreamId,
        buffer::LARGE,
        whole::{ROOM, Whole},
    },
    net::{clock, stream::Stream},
    wire::stream::{OpenRequest, ResetReason},
};

impl Tunnel {
    /// The next stream that the other peer opened; `None` once the session has ended.
    pub(crate) async fn accept(self: &Arc<Self>) -> Option<(Stream, OpenRequest)> {
        loop {
            let opened = self.opened.notified();
            tokio::pin!(opened);
            // From here on a notification is not missed.
            opened.as_mut().enable();
            {
                let mut state = self.lock();
                if let Some((id, request)) = state.incoming.pop_front() {
                    return Some((Stream::new(self.clone(), id), request));
                }
                if state.ended.is_some() {
                    return None;
                }
            }
            opened.await;
        }
    }

    /// Opens a stream. The first bytes may be written at once, before there is a link.
    ///
    /// # Errors
    /// Too many streams, or the session has ended.
    pub(crate) fn open(self: &Arc<Self>, request: OpenRequest) -> Result<Stream, ResetReason> {
        let id = {
            let mut state = self.lock();
            let id = state.session.open(clock::now(), request).map_err(|error| match error {
                MuxError::LabelTooLong => ResetReason::NoSuchService,
                MuxError::Ended => ResetReason::SessionEnded,
                _ => ResetReason::TooMany,
            })?;
            state.streams.entry(id).or_default();
            id
        };
        self.work.notify_one();
        Ok(Stream::new(self.clone(), id))
    }

    /// The next bytes of a stream; `None` at its end. Where there are some, what more is there already is appended to
    /// `behind`, up to about `most` bytes in all.
    pub(in crate::net) fn poll_read(
        &self,
        id: StreamId,
        context: &mut Context<'_>,
        behind: &mut VecDeque<Bytes>,
        most: usize,
    ) -> Poll<Result<Option<Bytes>, ResetReason>> {
        let mut state = self.lock();
        let now = clock::now();
        let read = state.poll_read(now, id, context);
        let Poll::Ready(Ok(Some(first))) = &read else {
            self.settle(state);
            return read;
        };
        let mut held = first.len();
        while held < most
            && let Some(piece) = state.session.read(now, id)
        {
            held += piece.len();
            behind.push_back(piece);
        }
        // Room was made: there may be credit to give.
        self.settle_and_write(state, now);
        read
    }

    /// Room for this many bytes, at least one.
    pub(in crate::net) fn poll_writable(
        &self,
        id: StreamId,
        context: &mut Context<'_>,
    ) -> Poll<Result<usize, ResetReason>> {
        let mut state = self.lock();
        let room = state.poll_writable(id, context);
        self.settle(state);
        room
    }

    /// Appends to a stream; the caller has asked [`poll_writable`](Self::poll_writable) for the room.
    /// On a stream that was reset since, the next call says so.
    pub(in crate::net) fn write(&self, id: StreamId, bytes: Bytes) {
        let mut state = self.lock();
        if let Err(error) = state.session.write(id, bytes) {
            tracing::trace!(?id, %error, "not written");
        }
        self.settle_and_write(state, clock::now());
    }

    /// Room for `count` pieces of [`ROOM`](crate::mux::whole::ROOM) bytes that need not be copied.
    pub(in crate::net) fn wholes(&self, count: usize) -> Vec<Whole> {
        let mut state = self.lock();
        (0..count).map(|_| state.session.whole()).collect()
    }

    /// Appends the first `count` bytes of the pieces to a stream, as [`write`](Self::write) does, and takes
    /// the rest of the pieces back.
    pub(in crate::net) fn write_wholes(&self, id: StreamId, pieces: Vec<Whole>, mut count: usize) {
        let mut state = self.lock();
        for mut piece in pieces {
            let length = count.min(ROOM);
            count -= length;
            let result = match length {
                0 => {
                    state.session.give_back(piece);
                    Ok(())
                }
                LARGE.. => {
                    piece.truncate(length);
                    state.session.write_whole(id, piece)
                }
                // A large buffer is not held for a few bytes.
                _ => {
                    let bytes = Bytes::copy_from_slice(&piece.space()[..length]);
                    state.session.give_back(piece);
                    state.session.write(id, bytes)
                }
            };
            if let Err(error) = result {
                tracing::trace!(?id, %error, "not written");
            }
        }
        self.settle_and_write(state, clock::now());
    }

    /// Ends this side's direction of a stream.
    pub(in crate::net) fn finish(&self, id: StreamId) {
        let mut state = self.lock();
        state.session.finish(id);
        self.settle(state);
        self.work.notify_one();
    }

    /// Ends both directions of a stream at once.
    pub(in crate::net) fn reset(&self, id: StreamId, reason: ResetReason) {
        let mut state = self.lock();
        state.session.reset(id, reason);
        self.settle(state);
        self.work.notify_one();
    }

    /// Streams that somebody holds.
    #[cfg(test)]
    pub(in crate::net) fn held(&self) -> usize {
        self.lock().streams.len()
    }

    /// Nobody holds the stream any more.
    pub(in crate::net) fn forget(&self, id: StreamId) {
        self.lock().streams.remove(&id);
    }
}
