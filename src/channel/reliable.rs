//! The reliable layer: cumulative acknowledgement, and everything unacknowledged in every datagram.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use serde::{Deserialize, Serialize};

use super::ChannelError;
use crate::wire;

/// Most kept messages without acknowledgement: more than any exchange of ours has outstanding. A peer
/// that acknowledges nothing costs no more memory than this.
pub const MAX_UNACKNOWLEDGED: usize = 64;

/// Most messages that wait to be sent once. They leave at the next `poll_transmit`; more of them is a
/// flood, and what is not sent at once is of no use.
pub const MAX_ONCE: usize = 64;

/// Round trip until one was measured: as far as most of the world is from the rest of it.
const FIRST_RTT: Duration = Duration::from_millis(300);

/// A retransmission leaves no sooner than this: timers and schedulers of both sides have that much play.
const LEAST_WAIT: Duration = Duration::from_millis(50);

/// And no later, once it has been repeated often: a path that comes back is noticed within this time.
const MOST_WAIT: Duration = Duration::from_secs(5);

/// After this many repetitions the wait is [`MOST_WAIT`] from any round trip: 50 ms × 1.5¹² > 5 s.
const LADDER: u8 = 12;

/// The sealed content of every datagram of a channel.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Body<M> {
    /// Number of the next repeated message that the sender expects.
    pub ack: u32,
    /// Number of the first message of `kept`.
    pub seq: u32,
    /// Messages that are repeated until they are acknowledged; delivered once and in order.
    pub kept: Vec<M>,
    /// Messages that are sent once.
    pub once: Vec<M>,
}

impl<M> Body<M> {
    /// Most bytes that a body takes besides its messages: an array of four, two integers, and the heads of
    /// two arrays of at most 65535.
    pub const OVERHEAD: usize = 1 + 5 + 5 + 3 + 3;
}

impl<M> Default for Body<M> {
    fn default() -> Self {
        Body { ack: 0, seq: 0, kept: Vec::new(), once: Vec::new() }
    }
}

/// The message was not taken: too many wait for acknowledgement, or it is longer than a datagram.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("too many messages wait for acknowledgement")]
pub struct Full;

/// A message and its encoded length.
pub(super) struct Measured<M> {
    pub(super) message: M,
    pub(super) size: usize,
}

impl<M: Serialize> Measured<M> {
    pub(super) fn new(message: M) -> Self {
        let size = wire::encode(&message).len();
        Measured { message, size }
    }
}

impl<M> Measured<M> {
    /// Takes the message's size off the room that is left, if it fits.
    pub(super) fn take_from(&self, room: &mut usize) -> bool {
        room.checked_sub(self.size).map(|left| *room = left).is_some()
    }
}

/// A run of unacknowledged messages that fits.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Run {
    /// Messages before it.
    pub(super) start: usize,
    /// Messages of it.
    pub(super) count: usize,
    /// Their encoded length.
    pub(super) size: usize,
}

/// The sending half: what is not acknowledged, and what is to be sent once.
pub(super) struct Sending<M> {
    /// Number of the oldest message that is not acknowledged.
    first: u32,
    /// Microseconds, at most [`MOST_WAIT`].
    rtt: u32,
    /// What waits. A server holds many channels, and with most of them nothing does.
    waiting: Option<Box<Waiting<M>>>,
}

struct Waiting<M> {
    /// Messages that are not acknowledged.
    kept: VecDeque<Measured<M>>,
    /// How many of them were sent at least once; always the oldest ones.
    sent: u8,
    /// Retransmissions since something was acknowledged.
    repeated: u8,
    /// When the oldest was last sent.
    last_sent: Option<Instant>,
    /// Messages that are to be sent once.
    once: VecDeque<Measured<M>>,
}

impl<M> Default for Sending<M> {
    fn default() -> Self {
        let mut sending = Sending { first: 0, rtt: 0, waiting: None };
        sending.set_rtt(FIRST_RTT);
        sending
    }
}

impl<M> Default for Waiting<M> {
    fn default() -> Self {
        Waiting { kept: VecDeque::new(), sent: 0, repeated: 0, last_sent: None, once: VecDeque::new() }
    }
}

impl<M> Sending<M> {
    pub(super) fn push(&mut self, message: Measured<M>) -> Result<(), Full> {
        let last = u32::try_from(self.len()).ok().and_then(|length| self.first.checked_add(length + 1));
        if self.len() >= MAX_UNACKNOWLEDGED || last.is_none() {
            return Err(Full);
        }
        self.waiting.get_or_insert_default().kept.push_back(message);
        Ok(())
    }

    /// To be sent once: lost where [`MAX_ONCE`] wait.
    pub(super) fn push_once(&mut self, message: Measured<M>) {
        let once = &mut self.waiting.get_or_insert_default().once;
        if once.len() < MAX_ONCE {
            once.push_back(message);
        }
    }

    pub(super) fn set_rtt(&mut self, rtt: Duration) {
        self.rtt = rtt.min(MOST_WAIT).as_micros() as u32;
    }

    /// Nothing waits.
    pub(super) fn is_empty(&self) -> bool {
        self.waiting.is_none()
    }

    /// Messages that are not acknowledged.
    pub(super) fn len(&self) -> usize {
        self.waiting.as_ref().map_or(0, |waiting| waiting.kept.len())
    }

    /// Messages that are to be sent once.
    pub(super) fn once(&self) -> impl Iterator<Item = &Measured<M>> {
        self.waiting.iter().flat_map(|waiting| &waiting.once)
    }

    /// So many of those to be sent once were sent.
    pub(super) fn sent_once(&mut self, count: usize) {
        if let Some(waiting) = &mut self.waiting {
            waiting.once.drain(..count);
        }
        self.tidy();
    }

    /// Number of the message at that place of those that are not acknowledged.
    pub(super) fn number(&self, place: usize) -> u32 {
        // `push` keeps the sum within range.
        self.first + place as u32
    }

    pub(super) fn messages(&self, run: &Run) -> impl Iterator<Item = &M> {
        self.kept().skip(run.start).take(run.count).map(|m| &m.message)
    }

    pub(super) fn into_messages(self) -> impl Iterator<Item = M> {
        self.waiting.into_iter().flat_map(|waiting| waiting.kept).map(|m| m.message)
    }

    /// When the oldest is to be sent again.
    pub(super) fn deadline(&self) -> Option<Instant> {
        let waiting = self.waiting.as_ref()?;
        Some(waiting.last_sent? + wait(Duration::from_micros(self.rtt.into()), waiting.repeated))
    }

    /// Whether a message was never sent, or the oldest is to be sent again.
    pub(super) fn is_due(&self, now: Instant) -> bool {
        self.has_unsent() || self.is_late(now)
    }

    /// What goes into a datagram with so much room: from the oldest on. Where the oldest are not late and
    /// would leave no room for the first that was never sent, from that one on. Nothing, where all were
    /// sent in this very instant.
    pub(super) fn select(&self, now: Instant, room: usize) -> Run {
        let oldest = self.run(0, room);
        let (sent, last_sent) =
            self.waiting.as_ref().map_or((0, None), |w| (usize::from(w.sent), w.last_sent));
        if self.is_late(now) || oldest.count > sent {
            oldest
        } else if self.has_unsent() {
            self.run(sent, room)
        } else if last_sent == Some(now) {
            Run { start: 0, count: 0, size: 0 }
        } else {
            oldest
        }
    }

    /// A run was sent.
    pub(super) fn sent(&mut self, now: Instant, start: usize, count: usize) {
        let late = self.is_late(now);
        let Some(waiting) = self.waiting.as_mut().filter(|_| count > 0) else { return };
        if start == 0 {
            if late {
                waiting.repeated = waiting.repeated.saturating_add(1).min(LADDER);
            }
            waiting.last_sent = Some(now);
        }
        // There are at most MAX_UNACKNOWLEDGED messages.
        waiting.sent = waiting.sent.max((start + count) as u8);
    }

    /// Everything below `ack` has arrived.
    pub(super) fn acknowledge(&mut self, ack: u32) -> Result<(), ChannelError> {
        // An older acknowledgement says nothing new.
        let Some(count) = ack.checked_sub(self.first).filter(|count| *count > 0) else { return Ok(()) };
        let waiting = self.waiting.as_mut().ok_or(ChannelError::Numbers)?;
        let count = u8::try_from(count).ok().filter(|c| *c <= waiting.sent).ok_or(ChannelError::Numbers)?;
        waiting.kept.drain(..usize::from(count));
        waiting.sent -= count;
        waiting.repeated = 0;
        if waiting.sent == 0 {
            waiting.last_sent = None;
        }
        self.first = ack;
        self.tidy();
        Ok(())
    }

    fn kept(&self) -> impl Iterator<Item = &Measured<M>> {
        self.waiting.iter().flat_map(|waiting| &waiting.kept)
    }

    fn has_unsent(&self) -> bool {
        self.waiting.as_ref().is_some_and(|waiting| usize::from(waiting.sent) < waiting.kept.len())
    }

    fn is_late(&self, now: Instant) -> bool {
        self.deadline().is_some_and(|deadline| deadline <= now)
    }

    fn run(&self, start: usize, mut room: usize) -> Run {
        let before = room;
        let count = self.kept().skip(start).take_while(|m| m.take_from(&mut room)).count();
        Run { start, count, size: before - room }
    }

    /// Gives back the memory of what does not wait any more.
    fn tidy(&mut self) {
        self.waiting.take_if(|waiting| waiting.kept.is_empty() && waiting.once.is_empty());
    }
}

/// The time from one transmission to the next, after so many repetitions.
fn wait(rtt: Duration, repeated: u8) -> Duration {
    let first = rtt.mul_f64(1.5).max(LEAST_WAIT);
    first.mul_f64(1.5f64.powi(repeated.into())).min(MOST_WAIT)
}

/// The receiving half: what comes next.
#[derive(Debug, Default)]
pub(super) struct Receiving {
    next: u32,
}

impl Receiving {
    pub(super) fn from_number(next: u32) -> Self {
        Receiving { next }
    }

    /// Number of the next message.
    pub(super) fn next(&self) -> u32 {
        self.next
    }

    /// Whether the numbers of a run exist.
    pub(super) fn check(&self, seq: u32, count: usize) -> Result<(), ChannelError> {
        let end = u32::try_from(count).ok().and_then(|count| seq.checked_add(count));
        end.map(drop).ok_or(ChannelError::Numbers)
    }

    /// Those of the run that come next. Behind a gap nothing does: the oldest missing one is in the next
    /// datagram anyway.
    pub(super) fn take<M>(&mut self, seq: u32, kept: Vec<M>) -> Vec<M> {
        let Some(known) = self.next.checked_sub(seq) else { return Vec::new() };
        let fresh: Vec<M> = kept.into_iter().skip(known as usize).collect();
        // `check` has seen that the sum exists.
        self.next += fresh.len() as u32;
        fresh
    }
}
