//! The state of one stream.
//!
//! ```text
//!   sending half                              receiving half
//!
//!   Open ---- finish() ---> Finishing         Open ------ FIN -----> Finished
//!                               |               |                      |
//!                     buffer empty: FIN sent    |                      | everything read
//!                               v               |                      v
//!                             Done              |                    Done
//!                                               |
//!   RESET from the peer:   any -> Done          +-- RESET, any but Done -> Aborted
//!                                                                          | everything read
//!                                                                          v
//!                                                                        (gone)
//! ```
//!
//! Each half ends by itself (half-close). Both halves Done: the stream is gone, [`Closed`]. A reset by
//! this side: gone at once. A reset by the peer ends the sending half at once; what had arrived before
//! it can still be read, as with TCP on Linux, and then the stream is gone, [`Reset`].
//!
//! [`Closed`]: super::MuxEvent::Closed
//! [`Reset`]: super::MuxEvent::Reset

use super::{
    buffer::ByteQueue,
    flow::{FirstWindow, ReceiveWindow, SendWindow},
    frame,
};
use crate::wire::stream::ResetReason;

/// How far the sending half has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum Sending {
    /// The program may write.
    #[default]
    Open,
    /// The program has written everything; FIN follows what is buffered.
    Finishing,
    /// FIN is in a record, or the peer reset the stream.
    Done,
}

/// How far the receiving half has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum Receiving {
    /// DATA may come.
    #[default]
    Open,
    /// FIN came; there may be bytes to read.
    Finished,
    /// RESET came; there are bytes to read.
    Aborted(ResetReason),
    /// FIN came, and the program has read everything.
    Done,
}

/// One stream.
#[derive(Debug)]
pub(super) struct Stream {
    pub(super) sending: Sending,
    /// The program waits for [`MuxEvent::Writable`](super::MuxEvent::Writable).
    pub(super) blocked: bool,
    /// Bytes that the program wrote and that are in no record yet.
    pub(super) outgoing: ByteQueue,
    /// What it sent last was little, and all that there was.
    pub(super) sent_little: bool,
    pub(super) credit: SendWindow,
    pub(super) receiving: Receiving,
    /// Bytes that arrived and that the program has not read.
    pub(super) incoming: ByteQueue,
    pub(super) window: ReceiveWindow,
    /// The program was told that it can read, and has not yet seen that there is nothing more.
    pub(super) told_readable: bool,
}

impl Stream {
    pub(super) fn new(first: FirstWindow) -> Self {
        Stream {
            sending: Sending::default(),
            blocked: false,
            outgoing: ByteQueue::default(),
            sent_little: false,
            credit: SendWindow::new(first),
            receiving: Receiving::default(),
            incoming: ByteQueue::default(),
            window: ReceiveWindow::new(first),
            told_readable: false,
        }
    }

    /// Bytes that may go into a record now. A piece that can be a record as it is waits for credit for all of it,
    /// or what is left of it would have to be copied.
    pub(super) fn sendable(&self) -> usize {
        if self.outgoing.whole().is_some_and(|whole| self.credit.is_worth_waiting(whole as u64)) {
            return 0;
        }
        let credit = usize::try_from(self.credit.available()).unwrap_or(usize::MAX);
        self.outgoing.len().min(credit)
    }

    /// Bytes of the next piece, where it can be a record as it is: with a body of at most `limit` bytes.
    pub(super) fn next_whole(&self, limit: usize) -> Option<usize> {
        let whole = self.outgoing.whole()?;
        (whole + frame::HEADER <= limit && whole <= self.sendable()).then_some(whole)
    }

    /// Something can go into a record now: bytes, or FIN.
    pub(super) fn has_something(&self) -> bool {
        self.sendable() > 0 || self.wants_fin()
    }

    /// Everything is in records and FIN is to follow.
    pub(super) fn wants_fin(&self) -> bool {
        self.sending == Sending::Finishing && self.outgoing.is_empty()
    }

    /// Both halves ended well.
    pub(super) fn is_done(&self) -> bool {
        self.sending == Sending::Done && self.receiving == Receiving::Done
    }

    /// The peer holds the stream for closed, whatever happens here: it has our FIN (or gave the stream
    /// up), and nothing more is coming.
    pub(super) fn is_over_for_peer(&self) -> bool {
        self.sending == Sending::Done && self.receiving != Receiving::Open
    }
}
