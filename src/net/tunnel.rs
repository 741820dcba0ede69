//! A session with its tasks: the [`Session`] core behind a lock, one task that writes to the link and
//! keeps the session's time, and one for each link that reads.
//!
//! Streams ([`Stream`]) and the tasks meet at the lock, which is held for computing only, never for
//! input or output. Whoever finds nothing to do leaves a waker and is woken by the session's events.
//!
//! ```text
//!   Stream::poll_write ──┐                        ┌── drive: poll_transmit ─> link
//!   Stream::poll_read  ──┼── Mutex<Session> ──────┤
//!   end, link, drop    ──┘                        └── read_link: link ─> handle_input
//! ```

mod state;
mod streams;

use std::{
    collections::BTreeSet,
    io,
    net::IpAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use bytes::BytesMut;
use tokio::{
    net::TcpStream,
    sync::{Notify, mpsc},
};

use self::state::{Happened, Link, State};
use super::{
    clock, drain,
    event::{Event, EventSource},
    lan,
    link::{Outbox, inbox, prepare, send_last, words},
    read_buffer::ReadBuffer,
};
use crate::{
    endpoint::{Input, PeerId},
    secure::{EpochKeys, EstablishedLink, PublicKey},
    session::{LinkError, SessionConfig, SessionStats},
    wire::peer::Goodbye,
};

/// A link that brings nothing for so long gives its buffers back.
const IDLE: Duration = Duration::from_secs(1);

/// A session that is carried over whatever link there is.
pub(crate) struct Tunnel {
    peer: PeerId,
    key: PublicKey,
    state: Mutex<State>,
    /// Something may be to be sent, or a deadline has moved.
    work: Notify,
    /// The link came, went, or will not come again.
    changed: Notify,
    /// A stream was opened by the other side, or none will be any more.
    opened: Notify,
    commands: mpsc::WeakSender<Input>,
    events: EventSource,
}

/// What a tunnel begins with.
pub(crate) struct Beginning {
    pub(crate) peer: PeerId,
    /// The other peer's.
    pub(crate) key: PublicKey,
    /// Of epoch 0.
    pub(crate) keys: EpochKeys,
    pub(crate) initiator: bool,
    /// How long the session lives without a link.
    pub(crate) linger: Duration,
    /// Silence after which a link is dead, where it was chosen.
    pub(crate) dead_after: Option<Duration>,
    /// Where lost links are reported.
    pub(crate) commands: mpsc::WeakSender<Input>,
    pub(crate) events: EventSource,
}

impl Tunnel {
    /// Begins a session, without a link, and its task.
    pub(crate) fn new(beginning: Beginning) -> Arc<Self> {
        let Beginning { peer, key, keys, initiator, linger, dead_after, commands, events } = beginning;
        let config = SessionConfig { dead_after, ..SessionConfig::default() };
        let tunnel = Arc::new(Tunnel {
            peer,
            key,
            state: Mutex::new(State::new(clock::now(), initiator, keys, linger, config)),
            work: Notify::new(),
            changed: Notify::new(),
            opened: Notify::new(),
            commands,
            events,
        });
        tokio::spawn(tunnel.clone().drive());
        tunnel
    }

    /// The session's number.
    pub(crate) fn peer(&self) -> PeerId {
        self.peer
    }

    /// The other peer's key.
    pub(crate) fn key(&self) -> PublicKey {
        self.key
    }

    /// Goes on over a link. A connection that is gone already (`None`) counts as one that was lost at
    /// once: the keys of its epoch may be in use on the other side.
    pub(crate) fn link(
        self: &Arc<Self>,
        stream: Option<Arc<TcpStream>>,
        link: EstablishedLink,
        mut surplus: BytesMut,
    ) {
        let epoch = link.epoch;
        let mut state = self.lock();
        let now = clock::now();
        if let Err(error) = state.attach(now, link) {
            tracing::debug!(%error, epoch, "link not wanted");
            return;
        }
        let result = match stream {
            Some(stream) => {
                prepare(&stream);
                let early =
                    if surplus.is_empty() { Ok(()) } else { state.session.handle_input(now, &mut surplus) };
                let reading = tokio::spawn(self.clone().read_link(stream.clone(), epoch, inbox(surplus)));
                state.link = Some(Link::new(epoch, stream, reading.abort_handle()));
                early.map_err(|error| error.to_string())
            }
            None => Err("closed by the other side".into()),
        };
        self.settle(state);
        self.work.notify_one();
        self.changed.notify_one();
        if let Err(why) = result {
            self.lose(epoch, &why);
        }
    }

    /// Whether this side gave that link up by itself, and no newer one has come.
    pub(crate) fn has_lost(&self, epoch: u32) -> bool {
        self.lock().lost == Some(epoch)
    }

    /// Drops the link of that epoch, because the other side holds it for dead and has said so.
    pub(crate) fn drop_link(&self, epoch: u32) {
        let mut state = self.lock();
        if state.link.as_ref().is_some_and(|link| link.epoch == epoch) {
            state.drop_link(clock::now());
            self.settle(state);
            self.changed.notify_one();
            let why = "the other side lost it".to_owned();
            self.events.tell(Event::LinkLost { peer: self.peer, why });
        }
    }

    /// The machine has other addresses than before, or other routes: a link from an address that is gone,
    /// or that leads elsewhere now, will never say so.
    pub(crate) fn addresses_changed(&self, now: &BTreeSet<IpAddr>) {
        let gone = self.lock().link.as_ref().and_then(|link| {
            let local = link.stream.local_addr().ok()?.ip().to_canonical();
            // Without any route nothing is gained by giving up: the cable may be plugged in again.
            let source = lan::source_towards(link.stream.peer_addr().ok()?);
            let moved = source.is_some_and(|source| source.to_canonical() != local);
            (moved || !now.contains(&local)).then_some(link.epoch)
        });
        if let Some(epoch) = gone {
            self.lose(epoch, "the address of this computer changed");
        }
    }

    /// The machine has slept: deadlines have come nearer.
    pub(crate) fn woke(&self) {
        self.work.notify_one();
    }

    /// Resets the connection under the session, as a bad network would. For demonstrations and tests;
    /// false where there is no link now.
    pub(crate) fn kill_link(&self) -> bool {
        let epoch = {
            let state = self.lock();
            let Some(link) = &state.link else { return false };
            link.stream.set_zero_linger().ok();
            link.epoch
        };
        self.lose(epoch, "killed on purpose");
        true
    }

    /// Ends the session: tells the other peer over the link, if there is one, and resets every stream.
    pub(crate) fn end(&self, why: Goodbye) {
        let mut state = self.lock();
        if state.ended.is_none() {
            state.ended = Some(why);
            let now = clock::now();
            state.session.close(now, why);
            if let Some(link) = &state.link {
                send_last(&link.stream.clone(), state.session.poll_transmit(now));
            }
            state.drop_link(now);
        }
        self.settle(state);
        self.work.notify_one();
        self.changed.notify_one();
        self.opened.notify_waiters();
    }

    /// Why the session ended, once it has.
    pub(crate) fn ended(&self) -> Option<Goodbye> {
        self.lock().ended
    }

    /// Everything that was written on streams has been acknowledged by the other peer.
    pub(crate) fn is_flushed(&self) -> bool {
        self.lock().session.is_flushed()
    }

    /// The session's counters.
    pub(crate) fn stats(&self) -> SessionStats {
        self.lock().session.stats()
    }

    /// Writes to the link and keeps the session's deadlines, until the session ends.
    async fn drive(self: Arc<Self>) {
        let (mut outbox, mut alarm) = (Outbox::default(), clock::Alarm::new());
        loop {
            let now = clock::now();
            let (link, all, rings, failed) = {
                let mut state = self.lock();
                if state.ended.is_some() {
                    return;
                }
                let failed = state.handle_timeout(now);
                state.follow_session(now);
                let link = state.link.as_ref().map(|link| (link.epoch, link.stream.clone()));
                let epoch = link.as_ref().map(|(epoch, _)| *epoch);
                let batch = state.session.batch(now);
                let all = outbox.fill(epoch, batch, || state.session.poll_transmit(now));
                let rings = alarm.set(state.poll_timeout(now));
                state.rings = rings;
                self.settle(state);
                (link, all, rings.is_some(), failed)
            };
            if let (Err(error), Some((epoch, _))) = (failed, &link) {
                self.lose(*epoch, &error.to_string());
                continue;
            }
            if let Some((epoch, stream)) = link.filter(|_| !outbox.is_empty()) {
                let result = match outbox.write(&stream) {
                    Ok(false) => tokio::select! {
                        result = stream.writable() => result,
                        () = self.changed.notified() => Ok(()),
                        () = alarm.ring(), if rings => Ok(()),
                    },
                    result => result.map(drop),
                };
                if let Err(error) = result {
                    self.lose(epoch, &words(&error));
                    continue;
                }
            }
            if all && outbox.is_empty() {
                tokio::select! {
                    () = self.work.notified() => {}
                    () = alarm.ring(), if rings => {}
                }
            }
        }
    }

    /// Reads a link until it ends.
    async fn read_link(self: Arc<Self>, stream: Arc<TcpStream>, epoch: u32, mut inbox: ReadBuffer) {
        let mut idle = clock::Idle::default();
        let why = loop {
            match idle.wait(IDLE, stream.readable()).await {
                Some(Ok(())) => {}
                Some(Err(error)) => break words(&error),
                None => {
                    inbox.rest();
                    continue;
                }
            }
            let buffer = inbox.room();
            let room = buffer.capacity() - buffer.len();
            match drain::try_read(&stream, room, |stream| stream.try_read_buf(buffer)) {
                Ok(0) => break "closed by the other side".into(),
                Ok(_) => {
                    if let Err(error) = self.received(epoch, &stream, inbox.bytes()) {
                        break error.to_string();
                    }
                    // What came is passed on before more is read: it is warm, and its buffer is free again.
                    tokio::task::yield_now().await;
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => break words(&error),
            }
        };
        self.lose(epoch, &why);
    }

    fn received(&self, epoch: u32, stream: &TcpStream, buffer: &mut BytesMut) -> Result<(), LinkError> {
        let mut state = self.lock();
        if state.link.as_ref().is_none_or(|link| link.epoch != epoch) {
            // What comes now would go to the link that has taken this one's place.
            return Err(LinkError::DeclaredDead);
        }
        let now = clock::now();
        let result = state.session.handle_input(now, buffer);
        if result.is_err() {
            send_last(stream, state.session.poll_transmit(now));
        }
        let in_time = state.rings_in_time(now);
        self.settle_and_write(state, now);
        if !in_time {
            self.work.notify_one();
        }
        result
    }

    /// Gives a link up and tells the endpoint.
    fn lose(&self, epoch: u32, why: &str) {
        let mut state = self.lock();
        if !state.give_up(clock::now(), epoch) {
            return;
        }
        self.settle(state);
        self.changed.notify_one();
        self.events.tell(Event::LinkLost { peer: self.peer, why: why.to_owned() });
        self.report(Input::LinkLost { peer: self.peer, epoch });
    }

    /// Takes in the session's events and wakes those whom they concern, without the lock.
    fn settle(&self, mut state: MutexGuard<'_, State>) {
        let Happened { wakers, opened, ended, sick } = state.take_events();
        drop(state);
        for waker in wakers {
            waker.wake();
        }
        if opened {
            self.opened.notify_waiters();
        }
        if let Some(epoch) = sick {
            tracing::debug!(epoch, "the link looks sick");
            self.report(Input::LinkSick { peer: self.peer, epoch });
        }
        if let Some(why) = ended {
            self.report(Input::End { peer: self.peer, why });
        }
    }

    /// As [`settle`](Self::settle), and wakes the task that writes to the link where there is something for it.
    fn settle_and_write(&self, state: MutexGuard<'_, State>, now: Instant) {
        let work = state.session.has_output(now);
        self.settle(state);
        if work {
            self.work.notify_one();
        }
    }

    fn report(&self, input: Input) {
        let Some(commands) = self.commands.upgrade() else { return };
        if let Err(mpsc::error::TrySendError::Full(input)) = commands.try_send(input) {
            // This may be the agent's own task, which cannot wait for itself.
            tokio::spawn(async move { commands.send(input).await.ok() });
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
