//! What is behind a tunnel's lock: the session, its link, and who waits for what.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
    task::{Context, Poll, Waker},
    time::{Duration, Instant},
};

use bytes::Bytes;
use tokio::{net::TcpStream, task::AbortHandle};

use crate::{
    mux::{MuxError, StreamId},
    net::{
        clock,
        link::{NotSent, UserTimeout},
    },
    secure::{EpochKeys, EstablishedLink},
    session::{LinkError, Session, SessionConfig, SessionError, SessionEvent},
    wire::{
        peer::Goodbye,
        stream::{OpenRequest, ResetReason},
    },
};

/// What is behind a tunnel's lock.
pub(super) struct State {
    pub(super) session: Session,
    pub(super) link: Option<Link>,
    /// The newest link, where this side gave it up by itself.
    pub(super) lost: Option<u32>,
    /// Streams that somebody holds.
    pub(super) streams: BTreeMap<StreamId, Held>,
    /// Streams that the other side opened and nobody took yet; the mux bounds their number.
    pub(super) incoming: VecDeque<(StreamId, OpenRequest)>,
    pub(super) ended: Option<Goodbye>,
    /// When the task that writes to the link looks by itself.
    pub(super) rings: Option<Instant>,
    linger: Duration,
    /// When a session without a link expires, by the clock that runs during sleep.
    expires: Option<Duration>,
    expired: bool,
}

/// The connection under the session.
pub(super) struct Link {
    pub(super) epoch: u32,
    pub(super) stream: Arc<TcpStream>,
    pub(super) reading: AbortHandle,
    user_timeout: UserTimeout,
    not_sent: NotSent,
}

impl Link {
    pub(super) fn new(epoch: u32, stream: Arc<TcpStream>, reading: AbortHandle) -> Self {
        Link { epoch, stream, reading, user_timeout: UserTimeout::default(), not_sent: NotSent::default() }
    }
}

/// A stream that somebody holds.
#[derive(Default)]
pub(super) struct Held {
    reader: Option<Waker>,
    writer: Option<Waker>,
    /// The other side's direction has ended, and everything was read.
    finished: bool,
    reset: Option<ResetReason>,
}

/// What [`State::take_events`] found.
#[derive(Default)]
pub(super) struct Happened {
    pub(super) wakers: Vec<Waker>,
    pub(super) opened: bool,
    /// The session has ended by itself.
    pub(super) ended: Option<Goodbye>,
    /// The link of that number has begun to look sick.
    pub(super) sick: Option<u32>,
}

impl State {
    pub(super) fn new(
        now: Instant,
        initiator: bool,
        keys: EpochKeys,
        linger: Duration,
        config: SessionConfig,
    ) -> Self {
        State {
            session: Session::new(now, initiator, keys, config),
            link: None,
            lost: None,
            streams: BTreeMap::new(),
            incoming: VecDeque::new(),
            ended: None,
            rings: None,
            linger,
            expires: clock::since_boot().checked_add(linger),
            expired: false,
        }
    }

    /// Takes a new link's keys; the one before is dropped.
    pub(super) fn attach(&mut self, now: Instant, link: EstablishedLink) -> Result<(), LinkError> {
        self.session.attach(now, link)?;
        if let Some(before) = self.link.take() {
            before.reading.abort();
        }
        self.expires = None;
        self.lost = None;
        Ok(())
    }

    /// Forgets the link.
    pub(super) fn drop_link(&mut self, now: Instant) {
        if let Some(link) = self.link.take() {
            link.reading.abort();
        }
        self.session.detach(now);
        self.expires = clock::since_boot().checked_add(self.linger);
    }

    /// This side gives a link up; `false` where it is given up already or another is in use.
    pub(super) fn give_up(&mut self, now: Instant, epoch: u32) -> bool {
        if self.session.epoch() != Some(epoch) || self.ended.is_some() {
            return false;
        }
        self.lost = Some(epoch);
        self.drop_link(now);
        true
    }

    /// The kernel's patience with the link, and what it takes at a time, follow the session.
    pub(super) fn follow_session(&mut self, now: Instant) {
        let (silence, batch) = (self.session.silence_limit(), self.session.batch(now));
        if let (Some(link), Some(silence)) = (&mut self.link, silence) {
            link.user_timeout.follow(&link.stream, silence);
            link.not_sent.follow(&link.stream, batch);
        }
    }

    pub(super) fn handle_timeout(&mut self, now: Instant) -> Result<(), LinkError> {
        if self.expires.is_some_and(|at| at <= clock::since_boot()) {
            self.expires = None;
            self.expired = true;
        }
        self.session.handle_timeout(now)
    }

    /// When to call [`handle_timeout`](Self::handle_timeout), and after a sleep at once: `now` stood still.
    pub(super) fn poll_timeout(&self, now: Instant) -> Option<Instant> {
        let left = self.expires.map(|at| at.saturating_sub(clock::since_boot()));
        let expires = left.and_then(|left| now.checked_add(left));
        self.session.poll_timeout().into_iter().chain(expires).min()
    }

    /// Whether the task that writes to the link looks by itself before the next deadline. Only what came in moves
    /// that nearer.
    pub(super) fn rings_in_time(&self, now: Instant) -> bool {
        match (self.poll_timeout(now), self.rings) {
            (Some(deadline), Some(rings)) => rings <= deadline,
            (deadline, _) => deadline.is_none(),
        }
    }

    pub(super) fn poll_read(
        &mut self,
        now: Instant,
        id: StreamId,
        context: &mut Context<'_>,
    ) -> Poll<Result<Option<Bytes>, ResetReason>> {
        if let Some(bytes) = self.session.read(now, id) {
            return Poll::Ready(Ok(Some(bytes)));
        }
        let Some(held) = self.streams.get_mut(&id) else {
            return Poll::Ready(Err(ResetReason::SessionEnded));
        };
        match held.reset {
            Some(reason) => Poll::Ready(Err(reason)),
            None if held.finished => Poll::Ready(Ok(None)),
            None => {
                leave(&mut held.reader, context);
                Poll::Pending
            }
        }
    }

    pub(super) fn poll_writable(
        &mut self,
        id: StreamId,
        context: &mut Context<'_>,
    ) -> Poll<Result<usize, ResetReason>> {
        let room = self.session.writable(id);
        if room > 0 {
            return Poll::Ready(Ok(room));
        }
        // A stream may be reset long before everything that came earlier was read: writing says so.
        match self.session.write(id, Bytes::new()) {
            Err(MuxError::Reset(reason)) => return Poll::Ready(Err(reason)),
            Err(MuxError::Ended) => return Poll::Ready(Err(ResetReason::SessionEnded)),
            Ok(()) | Err(_) => {}
        }
        let Some(held) = self.streams.get_mut(&id) else {
            return Poll::Ready(Err(ResetReason::SessionEnded));
        };
        match held.reset {
            Some(reason) => Poll::Ready(Err(reason)),
            None => {
                leave(&mut held.writer, context);
                Poll::Pending
            }
        }
    }

    /// Takes in what the session tells. Wakers are to be woken without the lock.
    pub(super) fn take_events(&mut self) -> Happened {
        let mut happened = Happened::default();
        if std::mem::take(&mut self.expired) {
            happened.ended = Some(Goodbye::Expired);
        }
        happened.sick = self.session.poll_sick();
        while let Some(event) = self.session.poll_event() {
            match event {
                SessionEvent::Opened { id, request } => {
                    self.streams.entry(id).or_default();
                    self.incoming.push_back((id, request));
                    happened.opened = true;
                }
                SessionEvent::Readable(id) => {
                    happened.wakers.extend(self.streams.get_mut(&id).and_then(|held| held.reader.take()));
                }
                SessionEvent::Writable(id) => {
                    happened.wakers.extend(self.streams.get_mut(&id).and_then(|held| held.writer.take()));
                }
                SessionEvent::RemoteFinished(id) | SessionEvent::Closed(id) => {
                    if let Some(held) = self.streams.get_mut(&id) {
                        held.finished = true;
                        happened.wakers.extend(held.reader.take());
                    }
                }
                SessionEvent::Reset { id, reason } => {
                    if let Some(held) = self.streams.get_mut(&id) {
                        held.reset = Some(reason);
                        happened.wakers.extend(held.reader.take());
                        happened.wakers.extend(held.writer.take());
                    }
                }
                SessionEvent::Ended(error) => {
                    tracing::debug!(%error, "session ended");
                    happened.ended = Some(match error {
                        SessionError::Closed(why) => why,
                        SessionError::Violation(_) => Goodbye::Broken,
                    });
                }
            }
        }
        happened
    }
}

fn leave(place: &mut Option<Waker>, context: &Context<'_>) {
    match place {
        Some(waker) => waker.clone_from(context.waker()),
        None => *place = Some(context.waker().clone()),
    }
}
