//! Many streams in one ordered sequence of records: frames, credit, fair turns.
//!
//! A [`Mux`] turns streams into the bodies of records ([`fill`](Mux::fill)) and bodies of records into
//! streams ([`handle_body`](Mux::handle_body)). The [session](crate::session) below it promises that
//! bodies arrive exactly once and in order, so nothing here is ever repeated.
//!
//! **After every call that takes `&mut self`, drain [`poll_event`](Mux::poll_event), and ask
//! [`pending`](Mux::pending) whether there is something to send.**
//!
//! What is bounded, and by what:
//!
//! | | |
//! | --- | --- |
//! | streams | [`MAX_STREAMS`] opened by each side; more are refused with `TooMany` |
//! | bytes received and unread | the credit given: a [`FirstWindow`] a stream, wide for twice [`MAX_WIDE`] of the peer's, and [`GROWTH_BUDGET`](flow::GROWTH_BUDGET) for all together |
//! | bytes written and unsent | [`SEND_BUFFER`] a stream, [`SEND_BUDGET`](holding::SEND_BUDGET) for all together |
//! | control frames that wait | one OPEN, RESET and CREDIT a stream |
//! | events | a few a frame received, drained after each call |
//!
//! Frames for a stream that is closed here are late and are ignored. A frame that an honest peer never
//! sends (a stream never opened, DATA behind FIN or beyond the credit) is a [`Violation`]: the seal
//! proves that the peer itself said it, and it would say it again on the next link, so the session ends.

pub mod buffer;
pub mod flow;
pub mod frame;
pub mod holding;
mod incoming;
mod outgoing;
mod schedule;
mod stream;
#[cfg(test)]
mod tests;
pub mod whole;

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    time::{Duration, Instant},
};

use bytes::Bytes;

pub use self::frame::StreamId;
use self::{
    flow::{FirstWindow, GrowthBudget},
    frame::FrameError,
    holding::{Holding, SEND_BUFFER},
    schedule::Schedule,
    stream::{Receiving, Sending, Stream},
    whole::Whole,
};
use crate::wire::{
    self,
    stream::{MAX_LABEL, OpenRequest, ResetReason},
};

/// Most streams that each side may have open: what a browser, a build farm or a port scan through the
/// tunnel needs.
pub const MAX_STREAMS: usize = 16 * 1024;

/// Streams of each side that have a [wide](FirstWindow::Wide) first window; a stream that is opened beside
/// so many begins with a narrow one. The other side allows twice as many. So the first windows of a peer's
/// streams are at most 384 MiB, whatever it does.
pub const MAX_WIDE: usize = 256;

/// Room that is reckoned for a RESET frame.
const RESET_SIZE: usize = frame::HEADER + 24;

/// Size of a CREDIT frame.
const CREDIT_SIZE: usize = frame::HEADER + 8;

/// The program asked for what cannot be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum MuxError {
    /// No such stream: never opened, closed, or reset by this side.
    #[error("there is no such stream")]
    Unknown,
    /// The stream was reset by the peer.
    #[error(transparent)]
    Reset(ResetReason),
    /// The sending half was finished before.
    #[error("the stream's sending half was finished")]
    Finished,
    /// More bytes than [`writable`](Mux::writable) can have allowed. Nothing was taken.
    #[error("more bytes than the stream takes now")]
    Full,
    /// [`MAX_STREAMS`] are open.
    #[error("{MAX_STREAMS} streams are open, no more are possible")]
    TooMany,
    /// All two thousand million numbers of streams are used up.
    #[error("the session has used up its stream numbers")]
    Exhausted,
    /// The label of the service is longer than [`MAX_LABEL`].
    #[error("the label is longer than {MAX_LABEL} bytes")]
    LabelTooLong,
    /// The session ended.
    #[error("the session ended")]
    Ended,
}

/// The peer broke the protocol inside a good seal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Violation {
    /// Bytes that are no frame.
    #[error(transparent)]
    Frame(#[from] FrameError),
    /// A frame for a stream that nobody has opened.
    #[error("a frame for {0}, which was never opened")]
    NeverOpened(StreamId),
    /// OPEN with a number that is not the peer's next.
    #[error("{0} was opened out of order")]
    OutOfOrder(StreamId),
    /// DATA or FIN behind FIN.
    #[error("bytes of {0} behind its end")]
    AfterFin(StreamId),
    /// More DATA than was granted.
    #[error("more bytes of {0} than were granted")]
    Overrun(StreamId),
    /// The peer goes on opening streams without waiting for the refusal of the ones before.
    #[error("a flood of new streams")]
    Flood,
}

/// What happened to streams. Each stream ends with exactly one `Closed` or `Reset`, or with a reset by
/// this side; no event follows that.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MuxEvent {
    /// The peer opened a stream.
    Opened {
        /// The stream.
        id: StreamId,
        /// What it is to be connected to.
        request: OpenRequest,
    },
    /// There is something to read. Said again only after [`read`](Mux::read) gave `None`.
    Readable(StreamId),
    /// A stream that took nothing takes bytes again, or was reset meanwhile.
    Writable(StreamId),
    /// The peer's half ended, and everything was read.
    RemoteFinished(StreamId),
    /// The peer reset the stream, and everything that came before was read.
    Reset {
        /// The stream.
        id: StreamId,
        /// Why.
        reason: ResetReason,
    },
    /// Both halves ended well.
    Closed(StreamId),
}

/// How many streams one side has opened.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
struct Slots {
    all: usize,
    /// Those with a wide first window.
    wide: usize,
}

impl Slots {
    fn take(&mut self, first: FirstWindow) {
        self.all += 1;
        self.wide += usize::from(first == FirstWindow::Wide);
    }

    fn free(&mut self, first: FirstWindow) {
        self.all -= 1;
        self.wide -= usize::from(first == FirstWindow::Wide);
    }
}

/// All streams of a session.
#[derive(Debug)]
pub struct Mux {
    initiator: bool,
    streams: BTreeMap<StreamId, Stream>,
    /// The next number for a stream opened here; `None` when they are used up.
    next_local: Option<u32>,
    /// The number that the peer's next OPEN must have; `None` when they are used up.
    next_remote: Option<u32>,
    /// Streams opened here that are open or whose RESET waits.
    local: Slots,
    /// The same for streams opened by the peer.
    remote: Slots,
    /// OPEN frames that wait, encoded.
    opens: VecDeque<(StreamId, Vec<u8>, FirstWindow)>,
    /// Bytes that they need.
    opens_size: usize,
    /// RESET frames that wait; the streams themselves are gone.
    resets: BTreeMap<StreamId, (ResetReason, FirstWindow)>,
    /// Streams that a CREDIT frame is worth sending for.
    credits: BTreeSet<StreamId>,
    schedule: Schedule,
    /// A little was sent between the bulk data of other streams.
    urgent: bool,
    holding: Holding,
    growth: GrowthBudget,
    events: VecDeque<MuxEvent>,
    ended: bool,
}

impl Mux {
    /// No streams yet.
    pub fn new(initiator: bool) -> Self {
        let (ours, theirs) = if initiator { (1, 2) } else { (2, 1) };
        Mux {
            initiator,
            streams: BTreeMap::new(),
            next_local: Some(ours),
            next_remote: Some(theirs),
            local: Slots::default(),
            remote: Slots::default(),
            opens: VecDeque::new(),
            opens_size: 0,
            resets: BTreeMap::new(),
            credits: BTreeSet::new(),
            schedule: Schedule::default(),
            urgent: false,
            holding: Holding::default(),
            growth: GrowthBudget::new(flow::GROWTH_BUDGET),
            events: VecDeque::new(),
            ended: false,
        }
    }

    /// Opens a stream. Bytes may be written at once, before the peer knows of it.
    ///
    /// # Errors
    /// [`MuxError::TooMany`], [`MuxError::LabelTooLong`], [`MuxError::Exhausted`], [`MuxError::Ended`].
    pub fn open(&mut self, request: &OpenRequest) -> Result<StreamId, MuxError> {
        if self.ended {
            return Err(MuxError::Ended);
        }
        if request.service.as_ref().is_some_and(|label| label.len() > MAX_LABEL) {
            return Err(MuxError::LabelTooLong);
        }
        if self.local.all.max(self.opens.len()) >= MAX_STREAMS {
            return Err(MuxError::TooMany);
        }
        let number = self.next_local.ok_or(MuxError::Exhausted)?;
        self.next_local = number.checked_add(2);
        let first = if self.local.wide < MAX_WIDE { FirstWindow::Wide } else { FirstWindow::Narrow };
        self.local.take(first);
        let id = StreamId(number);
        self.streams.insert(id, Stream::new(first));
        let request = wire::encode(request);
        self.opens_size += frame::HEADER + request.len();
        self.opens.push_back((id, request, first));
        Ok(id)
    }

    /// How many bytes [`write`](Self::write) takes now. Where it is 0, [`MuxEvent::Writable`] follows
    /// when it no longer is, or when the stream was reset.
    pub fn writable(&mut self, id: StreamId) -> usize {
        let Some(stream) = self.streams.get_mut(&id).filter(|stream| stream.sending == Sending::Open) else {
            return 0;
        };
        let space = self.holding.space(stream.outgoing.len());
        stream.blocked |= space == 0;
        space
    }

    /// Takes bytes for a stream: all or none. Large pieces are not copied here.
    ///
    /// # Errors
    /// [`MuxError::Full`] where they are more than [`writable`](Self::writable) said last, [`MuxError::Reset`],
    /// [`MuxError::Finished`], [`MuxError::Unknown`], [`MuxError::Ended`].
    pub fn write(&mut self, id: StreamId, bytes: Bytes) -> Result<(), MuxError> {
        let stream = self.take_for(id, bytes.len())?;
        stream.outgoing.push(bytes);
        if stream.has_something() {
            self.schedule.activate(id);
        }
        Ok(())
    }

    /// As [`write`](Self::write), of bytes that lie where their record will be: they are not copied.
    ///
    /// # Errors
    /// As there.
    pub fn write_whole(&mut self, id: StreamId, piece: Whole) -> Result<(), MuxError> {
        let stream = self.take_for(id, piece.payload().len())?;
        stream.outgoing.push_whole(piece);
        if stream.has_something() {
            self.schedule.activate(id);
        }
        Ok(())
    }

    /// No bytes follow: FIN is sent behind what is buffered. Does nothing where the half has ended.
    pub fn finish(&mut self, id: StreamId) {
        let Some(stream) = self.streams.get_mut(&id) else { return };
        if stream.sending == Sending::Open {
            stream.sending = Sending::Finishing;
            stream.blocked = false;
            if stream.has_something() {
                self.schedule.activate(id);
            }
        }
    }

    /// Takes bytes that arrived. What is taken counts as consumed: credit is given back to the peer.
    /// `rtt` is the measured round trip, if any.
    pub fn read(&mut self, now: Instant, id: StreamId, rtt: Option<Duration>) -> Option<Bytes> {
        let stream = self.streams.get_mut(&id)?;
        let Some(bytes) = stream.incoming.pop() else {
            stream.told_readable = false;
            return None;
        };
        if stream.receiving == Receiving::Open
            && stream.window.consume(now, bytes.len() as u64, rtt, &mut self.growth)
        {
            self.credits.insert(id);
        }
        if stream.incoming.is_empty() {
            self.read_everything(id);
        }
        Some(bytes)
    }

    /// Ends a stream at once, in both directions. What is buffered either way is forgotten, and no
    /// event follows. Does nothing where the stream is gone.
    pub fn reset(&mut self, id: StreamId, reason: ResetReason) {
        let Some(stream) = self.streams.get(&id) else { return };
        let (over, first) = (stream.is_over_for_peer(), stream.window.first());
        self.remove(id);
        if over {
            self.free_slot(id, first);
        } else {
            self.resets.insert(id, (reason, first));
        }
    }

    /// The session is over: every stream is reset, nothing is sent any more, and only
    /// [`poll_event`](Self::poll_event) is of use.
    pub fn end(&mut self) {
        self.ended = true;
        while let Some((&id, _)) = self.streams.first_key_value() {
            self.remove(id);
            self.events.push_back(MuxEvent::Reset { id, reason: ResetReason::SessionEnded });
        }
        self.opens.clear();
        self.opens_size = 0;
        self.resets.clear();
        (self.local, self.remote) = (Slots::default(), Slots::default());
    }

    /// What happened.
    pub fn poll_event(&mut self) -> Option<MuxEvent> {
        self.events.pop_front()
    }

    /// Streams that are open, or have something left to be read.
    pub fn streams(&self) -> usize {
        self.streams.len()
    }

    /// There is nothing to send, and no bytes wait for credit.
    pub fn is_flushed(&self) -> bool {
        self.holding.unsent() == 0 && self.pending(1) == 0
    }

    /// What the body of the next record would hold, bytes: an estimate from above, at most `limit`.
    pub fn pending(&self, limit: usize) -> usize {
        let mut size = self.opens_size + self.resets.len() * RESET_SIZE + self.credits.len() * CREDIT_SIZE;
        for id in self.schedule.iter() {
            if size >= limit {
                break;
            }
            if let Some(stream) = self.streams.get(&id).filter(|stream| stream.has_something()) {
                if let Some(whole) = stream.next_whole(limit) {
                    // A record of its own: this one, or the one after it.
                    return if size == 0 { frame::HEADER + whole } else { size };
                }
                size += 2 * frame::HEADER + stream.sendable().min(stream.outgoing.loose(limit));
            }
        }
        size.min(limit)
    }

    /// The stream that takes so many bytes, which are counted.
    fn take_for(&mut self, id: StreamId, count: usize) -> Result<&mut Stream, MuxError> {
        let stream = match self.streams.get_mut(&id) {
            Some(stream) => stream,
            None if self.ended => return Err(MuxError::Ended),
            None => return Err(MuxError::Unknown),
        };
        if let Receiving::Aborted(reason) = stream.receiving {
            return Err(MuxError::Reset(reason));
        }
        if stream.sending != Sending::Open {
            return Err(MuxError::Finished);
        }
        let held = stream.outgoing.len();
        // What others took since this stream asked for room is not held against it: its bytes are read.
        if count > SEND_BUFFER.saturating_sub(held) {
            return Err(MuxError::Full);
        }
        self.holding.take(count, held == 0);
        Ok(stream)
    }

    /// Takes the stream out of the table and of every list.
    fn remove(&mut self, id: StreamId) {
        let Some(stream) = self.streams.remove(&id) else { return };
        self.holding.release(stream.outgoing.len(), true);
        stream.window.release(&mut self.growth);
        self.schedule.remove(id);
        self.credits.remove(&id);
    }

    /// The stream no longer counts against [`MAX_STREAMS`] and [`MAX_WIDE`].
    fn free_slot(&mut self, id: StreamId, first: FirstWindow) {
        if self.is_local(id) { self.local.free(first) } else { self.remote.free(first) }
    }

    fn is_local(&self, id: StreamId) -> bool {
        (id.0 % 2 == 1) == self.initiator
    }

    /// Both halves may have ended.
    fn close_if_done(&mut self, id: StreamId) {
        if let Some(stream) = self.streams.get(&id).filter(|stream| stream.is_done()) {
            let first = stream.window.first();
            self.remove(id);
            self.free_slot(id, first);
            self.events.push_back(MuxEvent::Closed(id));
        }
    }

    /// The program has read everything that arrived.
    fn read_everything(&mut self, id: StreamId) {
        let Some(stream) = self.streams.get_mut(&id) else { return };
        match stream.receiving {
            Receiving::Open | Receiving::Done => {}
            Receiving::Finished => {
                stream.receiving = Receiving::Done;
                self.events.push_back(MuxEvent::RemoteFinished(id));
                self.close_if_done(id);
            }
            Receiving::Aborted(reason) => {
                let first = stream.window.first();
                self.remove(id);
                self.free_slot(id, first);
                self.events.push_back(MuxEvent::Reset { id, reason });
            }
        }
    }
}
