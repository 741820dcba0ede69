//! The attached link: its counters, what it owes the peer, how far it got.

use std::time::Instant;

use bytes::BytesMut;

use super::{
    ACK_BYTES, ACK_DELAY, LinkError,
    keys::Keys,
    liveness::{Limit, Liveness, Rtt},
    pace::Pace,
    record::{self, LinkMessage},
};
use crate::secure::LinkKeys;

/// Room for a few link records, and a keystroke behind them.
const FEW: usize = 256;

/// What is fixed when a link is attached.
pub(super) struct LinkStart {
    pub(super) epoch: u32,
    pub(super) keys: LinkKeys,
    /// Counters of the first link records that are sealed and opened here.
    pub(super) next_seal: u64,
    pub(super) next_open: u64,
    /// The session record to begin with; `None` waits for the peer's RESUME.
    pub(super) from: Option<u64>,
    /// Room was found for the epoch's key.
    pub(super) fresh: bool,
    /// Round trip of the link before.
    pub(super) rtt: Option<Rtt>,
    /// Silence after which the link is dead.
    pub(super) silence: Limit,
}

/// One link of a session.
#[derive(Debug)]
pub(super) struct Link {
    pub(super) epoch: u32,
    pub(super) liveness: Liveness,
    pub(super) pace: Pace,
    keys: LinkKeys,
    next_seal: u64,
    next_open: u64,
    phase: Phase,
    fresh: bool,
    /// RESUME is sent.
    resume_sent: bool,
    /// The peer's RESUME came.
    resumed: bool,
    /// The session record that is sent next on this link, once that is known.
    next: Option<u64>,
    /// The session record that comes next has at least this number.
    least: u64,
    /// Bytes of session records that came in since the last acknowledgement.
    unacknowledged: usize,
    acknowledge_at: Option<Instant>,
    acknowledge_now: bool,
    /// From when on an acknowledgement rides with data.
    ride_from: Instant,
    /// Token of the newest ping that is not answered. Older ones need no answer.
    pong: Option<u64>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Alive,
    /// One last record, then silence.
    Farewell(LinkMessage),
    Dead,
}

impl Link {
    pub(super) fn new(now: Instant, start: LinkStart) -> Self {
        Link {
            epoch: start.epoch,
            liveness: Liveness::new(now, start.rtt, start.silence),
            pace: Pace::new(now),
            keys: start.keys,
            next_seal: start.next_seal,
            next_open: start.next_open,
            phase: Phase::Alive,
            fresh: start.fresh,
            resume_sent: false,
            resumed: false,
            next: start.from,
            least: 0,
            unacknowledged: 0,
            acknowledge_at: None,
            acknowledge_now: false,
            ride_from: now,
            pong: None,
        }
    }

    pub(super) fn is_alive(&self) -> bool {
        self.phase == Phase::Alive
    }

    /// Nothing is sent any more but this record.
    pub(super) fn kill(&mut self, farewell: LinkMessage) {
        if self.is_alive() {
            self.phase = Phase::Farewell(farewell);
        }
    }

    /// Nothing is sent any more.
    pub(super) fn kill_silently(&mut self) {
        self.phase = Phase::Dead;
    }

    /// Number of the session record that is sent next; `None` before that is known, and on a link that
    /// is given up.
    pub(super) fn position(&self) -> Option<u64> {
        self.next.filter(|_| self.is_alive())
    }

    /// The record at [`position`](Self::position) is handed to the socket.
    pub(super) fn advance(&mut self) {
        self.next = self.next.map(|next| next + 1);
        self.liveness.busy();
    }

    /// Opens a link record.
    pub(super) fn open(&mut self, counter: u64, sealed: BytesMut) -> Result<LinkMessage, LinkError> {
        if counter != self.next_open {
            return Err(LinkError::Gap { found: counter, expected: self.next_open });
        }
        let message = record::open_link(&self.keys.open, counter, sealed)?;
        self.next_open += 1;
        if !self.resumed && !matches!(message, LinkMessage::Resume { .. }) {
            return Err(LinkError::Unexpected(message.name()));
        }
        Ok(message)
    }

    /// The peer's RESUME: it expects `next`.
    pub(super) fn handle_resume(&mut self, next: u64) -> Result<(), LinkError> {
        if self.resumed {
            return Err(LinkError::Unexpected("a second RESUME"));
        }
        self.resumed = true;
        self.next = Some(self.next.map_or(next, |sent| sent.max(next)));
        Ok(())
    }

    /// A session record came. Numbers rise on a link, and never beyond `expected`. (Where the peer began
    /// to replay before it knew what is expected, it leaves out some as soon as it does.)
    pub(super) fn handle_session_record(&mut self, number: u64, expected: u64) -> Result<(), LinkError> {
        if !self.resumed {
            return Err(LinkError::Unexpected("a session record before RESUME"));
        }
        if number < self.least || number > expected {
            return Err(LinkError::Gap { found: number, expected });
        }
        self.least = number + 1;
        self.liveness.busy();
        Ok(())
    }

    /// A session record of that size was taken in.
    pub(super) fn owe_acknowledgement(&mut self, now: Instant, size: usize) {
        self.unacknowledged += size;
        self.acknowledge_now |= self.unacknowledged >= ACK_BYTES;
        self.acknowledge_at.get_or_insert(now + ACK_DELAY);
    }

    /// A ping came.
    pub(super) fn owe_pong(&mut self, token: u64) {
        self.pong = Some(token);
    }

    /// Whether there are link records to be sent now; `with_data` as with [`transmit`](Self::transmit).
    pub(super) fn has_something(&self, now: Instant, with_data: bool) -> bool {
        match self.phase {
            Phase::Alive => {
                !self.resume_sent
                    || self.pong.is_some()
                    || self.liveness.has_ping()
                    || self.owes_acknowledgement(now, with_data)
            }
            Phase::Farewell(_) => true,
            Phase::Dead => false,
        }
    }

    /// An acknowledgement costs as much as a keystroke: beside many small records one in a while is enough.
    fn owes_acknowledgement(&self, now: Instant, with_data: bool) -> bool {
        self.acknowledge_now || (with_data && self.unacknowledged > 0 && now >= self.ride_from)
    }

    /// The link records that are to be sent now. `expected` is the session record that this side expects;
    /// `with_data` says that a session record is about to follow.
    pub(super) fn transmit(
        &mut self,
        now: Instant,
        expected: u64,
        keys: &Keys,
        oldest_queued: Option<u32>,
        with_data: bool,
    ) -> BytesMut {
        if !self.has_something(now, with_data) {
            return BytesMut::new();
        }
        let mut out = BytesMut::with_capacity(FEW);
        if !self.resume_sent && self.phase != Phase::Dead {
            self.resume_sent = true;
            let oldest = oldest_queued.unwrap_or(keys.sealing().0);
            self.seal(LinkMessage::Resume { next: expected, oldest, fresh: self.fresh }, &mut out);
        }
        if let Phase::Farewell(message) = self.phase {
            self.phase = Phase::Dead;
            self.seal(message, &mut out);
        }
        if !self.is_alive() {
            return out;
        }
        if let Some(token) = self.pong.take() {
            self.seal(LinkMessage::Pong { token }, &mut out);
        }
        if self.owes_acknowledgement(now, with_data) {
            self.unacknowledged = 0;
            self.acknowledge_now = false;
            self.acknowledge_at = None;
            self.ride_from = now + ACK_DELAY / 2;
            self.seal(LinkMessage::Ack { next: expected }, &mut out);
        }
        if let Some(token) = self.liveness.poll_ping(now) {
            self.seal(LinkMessage::Ping { token }, &mut out);
        }
        out
    }

    pub(super) fn handle_timeout(&mut self, now: Instant) -> Result<(), LinkError> {
        if !self.is_alive() {
            return Ok(());
        }
        if self.acknowledge_at.is_some_and(|at| now >= at) {
            self.acknowledge_at = None;
            self.acknowledge_now = true;
        }
        self.liveness.handle_timeout(now).map_err(|silence| {
            self.kill(LinkMessage::LinkDead { epoch: self.epoch });
            LinkError::Silent(silence)
        })
    }

    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        if !self.is_alive() {
            return None;
        }
        [self.acknowledge_at, self.liveness.poll_timeout()].into_iter().flatten().min()
    }

    fn seal(&mut self, message: LinkMessage, out: &mut BytesMut) {
        record::seal_link(&self.keys.seal, self.next_seal, &message, out);
        self.next_seal += 1;
    }
}
