//! A session: numbered records that are sealed once and sent on any link, until they are acknowledged.
//!
//! A [`Session`] outlives its links. What its streams carry ([`mux`](crate::mux)) is put into *session
//! records*, numbered without gaps in each direction, sealed once, and queued until the peer
//! acknowledges them; a new link carries the very same bytes again. *Link records* belong to one link,
//! are sealed with its own keys and counter, and are never repeated. **Exactly once, in order, nothing
//! lost, nothing twice**, wherever a link is cut: a record below the expected one is dropped, a gap or
//! a broken seal kills the link and never the session.
//!
//! **After every call that takes `&mut self`, drain [`poll_event`](Session::poll_event) and
//! [`poll_sick`](Session::poll_sick), then [`poll_transmit`](Session::poll_transmit) as far as the socket takes bytes, then ask
//! [`poll_timeout`](Session::poll_timeout) for the next deadline.**
//!
//! ```text
//!  1. attach           a nominated link; the one before, if any, is forgotten
//!  2. bytes came in    handle_input; an error kills the link: close the connection, 5.
//!  3. socket writable  poll_transmit: one record, or a few small ones; decided now, not before
//!  4. deadline         handle_timeout; an error kills the link: close the connection, 5.
//!  5. link gone        detach; what was not written is dropped, and sent again from the queue
//! ```
//!
//! # On a new link
//!
//! Each side sends RESUME first: the session record that it expects next, the oldest epoch that it may
//! still send records of, and whether it has room for the keys of this link's epoch (`keys` says why).
//! The peer's RESUME says where to go on. Nobody waits for it who knows that anyway, or nearly: **where
//! at most [`SessionConfig::eager_replay`] bytes are not acknowledged, the records follow RESUME at
//! once**, from the oldest not acknowledged; what the peer has already, it drops. So the first byte of a
//! new session leaves in the same flight as RESUME, and an interactive one goes on without a round trip.
//! Where more is queued, the replay waits for the peer's RESUME, so as not to send megabytes twice.
//! Records that are sealed before the peer's RESUME came are sealed under the epoch before.
//!
//! # Acknowledgement
//!
//! ACK is cumulative: it rides in front of a session record, where none went out for half of [`ACK_DELAY`], or goes
//! out when [`ACK_BYTES`] have come in or [`ACK_DELAY`] has passed. While [`SessionConfig::queue`] bytes are not
//! acknowledged nothing new is sealed; then the buffers of the streams fill up and
//! [`writable`](Session::writable) becomes 0. Link records go on all the while.
//!
//! # The end
//!
//! [`close`](Session::close) tells the peer; [`end`](Session::end) does not. A peer that breaks the
//! protocol inside a good seal ends the session ([`SessionEvent::Ended`]), not the link: it would say the
//! same on every link.

mod config;
mod error;
mod event;
mod keys;
mod link;
mod liveness;
mod pace;
mod queue;
mod record;
mod streams;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;

use std::time::{Duration, Instant};

use bytes::{BufMut, Bytes, BytesMut};

pub use self::{
    config::{LEAST_DEAD_AFTER, MOST_DEAD_AFTER, SessionConfig},
    error::{LinkError, SessionError},
    event::{SessionEvent, SessionStats},
};
use self::{
    keys::Keys,
    link::{Link, LinkStart},
    liveness::Limit,
    queue::Queue,
    record::LinkMessage,
};
pub use crate::mux::{MuxError, StreamId};
use crate::{
    mux::Mux,
    secure::{EpochKeys, EstablishedLink},
    wire::{
        peer::Goodbye,
        record::{MAX_SESSION_BODY, MAX_SESSION_RECORD, RecordHeader, SESSION_HEADER, TAG},
    },
};

/// An acknowledgement goes out at once when this many bytes of session records came in, two full ones: often enough
/// that a sender with a small window (`pace.rs`) does not wait for it, a hundredth of the work of the bytes. Each record
/// counts with what it costs the sender to hold it, or thousands of keystrokes would fill that window first.
pub const ACK_BYTES: usize = 2 * MAX_SESSION_RECORD;

/// An acknowledgement waits at most this long for data to ride with. It only frees memory on the other
/// side; 25 ms of the fastest link is less than half the queue.
pub const ACK_DELAY: Duration = Duration::from_millis(25);

/// A session record no longer than this is copied behind waiting link records, so that both leave in one
/// write; a longer one is a write of its own.
const SMALL_RECORD: usize = 2048;

/// One session; see the [module](self).
#[derive(Debug)]
pub struct Session {
    config: SessionConfig,
    mux: Mux,
    keys: Keys,
    queue: Queue,
    /// Number of the session record that is received next.
    expected: u64,
    link: Option<Link>,
    /// The highest link number that was attached.
    newest_link: u32,
    /// Round trip of the link that was detached last: the next one's, until it is measured.
    rtt: Option<liveness::Rtt>,
    over: bool,
    ended: Option<SessionError>,
    stats: SessionStats,
}

impl Session {
    /// A session without a link. `initiator` is `connect`'s side; `keys` are those of epoch 0.
    pub fn new(_now: Instant, initiator: bool, keys: EpochKeys, config: SessionConfig) -> Self {
        let record = config.record.clamp(1024, MAX_SESSION_BODY);
        let dead_after = config.dead_after.map(|silence| silence.clamp(LEAST_DEAD_AFTER, MOST_DEAD_AFTER));
        let config = SessionConfig { record, dead_after, ..config };
        Session {
            config,
            mux: Mux::new(initiator),
            keys: Keys::new(keys),
            queue: Queue::default(),
            expected: 0,
            link: None,
            newest_link: 0,
            rtt: None,
            over: false,
            ended: None,
            stats: SessionStats::default(),
        }
    }

    /// A nominated link whose connection is established. It takes the place of an older one, of which
    /// nothing more is to be handed in.
    ///
    /// # Errors
    /// [`LinkError::Stale`] where it is not newer than all before; [`LinkError::Ended`]. The connection
    /// is to be closed; nothing else changed.
    pub fn attach(&mut self, now: Instant, link: EstablishedLink) -> Result<(), LinkError> {
        if self.over {
            return Err(LinkError::Ended);
        }
        if link.epoch <= self.newest_link {
            return Err(LinkError::Stale { epoch: link.epoch, current: self.newest_link });
        }
        self.newest_link = link.epoch;
        self.stats.links += 1;
        let fresh = self.keys.attach(link.epoch, link.epoch_keys);
        self.detach(now);
        let from = (self.queue.size() <= self.config.eager_replay).then_some(self.queue.first());
        let start = LinkStart {
            epoch: link.epoch,
            keys: link.link_keys,
            next_seal: link.next_seal,
            next_open: link.next_open,
            from,
            fresh,
            rtt: self.rtt,
            silence: Limit { least: self.config.silence, fixed: self.config.dead_after },
        };
        self.link = Some(Link::new(now, start));
        Ok(())
    }

    /// The link's connection is gone.
    pub fn detach(&mut self, now: Instant) {
        if let Some(link) = self.link.take() {
            self.rtt = link.liveness.rtt();
            self.queue.rest(now);
        }
    }

    /// Number of the attached link.
    pub fn epoch(&self) -> Option<u32> {
        self.link.as_ref().map(|link| link.epoch)
    }

    /// Takes in what the attached link brought: whole records are consumed, opened in place, and their
    /// data is handed on without a copy; the rest stays for the next call. To be called only when bytes
    /// came in, because that counts as a sign of life.
    ///
    /// A large piece of data that is not read keeps the buffer alive that it came in: buffers of
    /// 64 to 384 KiB keep that cheap.
    ///
    /// # Errors
    /// The link is to be killed. [`poll_transmit`](Self::poll_transmit) has one last record that tells
    /// the peer so, for a socket that takes it at once.
    pub fn handle_input(&mut self, now: Instant, input: &mut BytesMut) -> Result<(), LinkError> {
        if let Some(link) = &mut self.link {
            link.liveness.heard(now);
        }
        loop {
            match self.handle_record(now, input) {
                Ok(true) => {}
                Ok(false) => return Ok(()),
                Err(error) => {
                    if let Some(link) = &mut self.link {
                        link.kill(LinkMessage::LinkDead { epoch: link.epoch });
                    }
                    input.clear();
                    return Err(error);
                }
            }
        }
    }

    /// The next bytes for the socket: one session record, or some link records and a small one. To be
    /// called only when the socket can take more.
    pub fn poll_transmit(&mut self, now: Instant) -> Option<Bytes> {
        let next = if self.over { None } else { self.next_size(now) };
        let link = self.link.as_mut()?;
        let mut out =
            link.transmit(now, self.expected, &self.keys, self.queue.oldest_epoch(), next.is_some());
        match next {
            Some(size) if out.is_empty() => return self.next_record(now, size),
            Some(size) if size <= SMALL_RECORD => {
                if let Some(record) = self.next_record(now, size) {
                    out.put_slice(&record);
                }
            }
            _ => {}
        }
        (!out.is_empty()).then(|| out.freeze())
    }

    /// Whether [`poll_transmit`](Self::poll_transmit) is worth calling: where not, it has nothing now.
    pub fn has_output(&self, now: Instant) -> bool {
        let Some(link) = &self.link else { return false };
        let next = !self.over && self.next_size(now).is_some();
        next || link.has_something(now, next)
    }

    /// A deadline has passed. Where the socket has bytes to be read as well, they come first: they are a
    /// sign of life.
    ///
    /// # Errors
    /// [`LinkError::Silent`]: the link is dead, as with [`handle_input`](Self::handle_input).
    pub fn handle_timeout(&mut self, now: Instant) -> Result<(), LinkError> {
        self.queue.rest(now);
        match &mut self.link {
            Some(link) => link.handle_timeout(now),
            None => Ok(()),
        }
    }

    /// When [`handle_timeout`](Self::handle_timeout) wants to be called.
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.link.as_ref()?.poll_timeout()
    }

    /// What happened.
    pub fn poll_event(&mut self) -> Option<SessionEvent> {
        let event = self.mux.poll_event().map(SessionEvent::from);
        event.or_else(|| self.ended.take().map(SessionEvent::Ended))
    }

    /// The number of the attached link, where it has begun to look sick since the last call: time to make
    /// another one, while it still carries data. Said once for each time.
    pub fn poll_sick(&mut self) -> Option<u32> {
        let link = self.link.as_mut().filter(|link| link.is_alive())?;
        link.liveness.take_sick().then_some(link.epoch)
    }

    /// Ends the session and tells the peer why, if there is a link that still takes a record.
    pub fn close(&mut self, _now: Instant, why: Goodbye) {
        if let Some(link) = &mut self.link {
            link.kill(LinkMessage::Close { why });
        }
        self.end();
    }

    /// Ends the session without a word. All streams are reset, with events.
    pub fn end(&mut self) {
        if !self.over {
            self.over = true;
            self.mux.end();
            self.queue.clear();
        }
    }

    /// The session is over; links are not wanted any more.
    pub fn is_over(&self) -> bool {
        self.over
    }

    /// Everything written has been sent and acknowledged: now [`close`](Self::close) loses nothing.
    pub fn is_flushed(&self) -> bool {
        self.queue.size() == 0 && self.mux.is_flushed()
    }

    /// The silence after which the attached link is dead, as things stand; it moves with the round trip.
    pub fn silence_limit(&self) -> Option<Duration> {
        self.link.as_ref().map(|link| link.liveness.limit())
    }

    /// Bytes that the attached link's socket is to be given at a time, so that what is urgent does not wait
    /// behind more than that: what the link delivers in a few milliseconds.
    pub fn batch(&self, now: Instant) -> usize {
        self.link.as_ref().map_or(0, |link| link.pace.batch(now))
    }

    /// Counters.
    pub fn stats(&self) -> SessionStats {
        SessionStats {
            unacknowledged: self.queue.size(),
            streams: self.mux.streams(),
            epoch: self.epoch(),
            rtt: self.link.as_ref().and_then(|link| link.liveness.rtt()).map(|rtt| rtt.smoothed),
            ..self.stats
        }
    }

    /// Takes in one record; `false` where none is whole.
    fn handle_record(&mut self, now: Instant, input: &mut BytesMut) -> Result<bool, LinkError> {
        let Some(link) = self.link.as_mut().filter(|link| link.is_alive()) else {
            input.clear();
            return Ok(false);
        };
        let Some((header, record)) = record::take(input)? else { return Ok(false) };
        match header {
            RecordHeader::Link { counter, .. } => {
                let message = link.open(counter, record)?;
                self.handle_message(now, message)?;
            }
            RecordHeader::Session { epoch, number, .. } => {
                link.handle_session_record(number, self.expected)?;
                self.handle_session_record(now, epoch, number, record)?;
            }
        }
        Ok(true)
    }

    fn handle_session_record(
        &mut self,
        now: Instant,
        epoch: u32,
        number: u64,
        record: BytesMut,
    ) -> Result<(), LinkError> {
        if number < self.expected {
            self.stats.duplicates += 1;
            return Ok(());
        }
        let size = record.len();
        let key = self.keys.opening(epoch).ok_or(LinkError::Epoch { epoch })?;
        let body = record::open_session(key, number, record)?;
        self.keys.forget_below(epoch);
        self.expected += 1;
        self.stats.records_received += 1;
        self.stats.bytes_received += size as u64;
        if let Some(link) = &mut self.link {
            link.owe_acknowledgement(now, size + queue::OVERHEAD);
        }
        if let Err(violation) = self.mux.handle_body(now, body) {
            self.close(now, Goodbye::Broken);
            self.ended = Some(violation.into());
        }
        Ok(())
    }

    fn handle_message(&mut self, now: Instant, message: LinkMessage) -> Result<(), LinkError> {
        let (first, end) = (self.queue.first(), self.queue.end());
        let Some(link) = &mut self.link else { return Ok(()) };
        match message {
            LinkMessage::Resume { next, oldest, fresh } => {
                if !(first..=end).contains(&next) {
                    return Err(LinkError::Resume { next, first, end });
                }
                link.handle_resume(next)?;
                self.keys.resumed(oldest, fresh);
                self.queue.acknowledge(next);
            }
            LinkMessage::Ack { next } => {
                let end = link.position().unwrap_or(first);
                if !(first..=end).contains(&next) {
                    return Err(LinkError::Acknowledged { next, first, end });
                }
                link.pace.acknowledged(now, self.queue.acknowledge(next));
            }
            LinkMessage::Ping { token } => link.owe_pong(token),
            LinkMessage::Pong { token } => {
                if !link.liveness.handle_pong(now, token) {
                    return Err(LinkError::Unexpected(message.name()));
                }
            }
            LinkMessage::LinkDead { epoch } if epoch == link.epoch => return Err(LinkError::DeclaredDead),
            LinkMessage::LinkDead { .. } => {}
            LinkMessage::Close { why } => {
                link.kill_silently();
                self.end();
                self.ended = Some(SessionError::Closed(why));
            }
        }
        Ok(())
    }

    /// Size of the session record that could be sent now, from above; `None` where there is none.
    fn next_size(&self, now: Instant) -> Option<usize> {
        let link = self.link.as_ref()?;
        if let Some(queued) = self.queue.get(link.position()?) {
            return Some(queued.len());
        }
        let window = link.pace.window(now, link.liveness.least_rtt());
        if self.queue.size() >= self.config.queue.min(window) {
            return None;
        }
        match self.mux.pending(self.config.record.min(link.pace.record())) {
            0 => None,
            body => Some(SESSION_HEADER + body + TAG),
        }
    }

    /// The session record that is next on this link: from the queue, or sealed now.
    fn next_record(&mut self, now: Instant, size: usize) -> Option<Bytes> {
        let link = self.link.as_mut()?;
        let at = link.position()?;
        if let Some(queued) = self.queue.get(at) {
            link.advance();
            self.stats.bytes_replayed += queued.len() as u64;
            return Some(queued.clone());
        }
        let limit = self.config.record.min(link.pace.record());
        let record = match self.mux.fill_whole(limit) {
            Some(record) => record,
            None => {
                let mut record = self.queue.buffer(size);
                record.put_bytes(0, SESSION_HEADER);
                self.mux.fill(&mut record, SESSION_HEADER + limit);
                record
            }
        };
        if record.len() == SESSION_HEADER {
            return None;
        }
        if self.mux.take_urgent() {
            link.pace.urgent(now);
        }
        let (epoch, key) = self.keys.sealing();
        let record = record::seal_session(key, epoch, at, record);
        self.queue.push(epoch, record.clone());
        link.advance();
        self.stats.records_sent += 1;
        self.stats.bytes_sent += record.len() as u64;
        Some(record)
    }
}
