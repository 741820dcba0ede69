//! The client's association with the server over one address family.
//!
//! ```text
//!            HELLO ..................... COOKIE
//!   Asking --------------------------------------> Joining (INIT, the same bytes until REPLY)
//!     ^                                              |  REPLY
//!     |  3 pings unanswered, or REFUSE "unknown"     v
//!     +--------------------------------------- associated -- each hour: Asking again beside it
//! ```
//!
//! **After every `handle_*` and `send`: drain [`poll_transmit`](Client::poll_transmit) and
//! [`poll_event`](Client::poll_event), then sleep until [`poll_timeout`](Client::poll_timeout).**
//!
//! Each attempt begins with UDP. After [`TCP_AFTER`] without an answer the same datagrams go over TCP as
//! well, and whichever answers first is used.
//!
//! After [`ClientEvent::Lost`] the user repeats its requests under their old numbers: the server may or
//! may not have forgotten them. What was queued and not acknowledged is sent again by itself. So across
//! associations a message may come twice, in both directions; nothing here or at the server is harmed.

use std::{
    collections::VecDeque,
    net::SocketAddr,
    time::{Duration, Instant},
};

use rand::RngExt;

use super::{
    ClientEvent,
    attempt::{Attempt, Joined},
    limits::KEEP_ALIVE,
};
use crate::{
    channel::{Channel, Full},
    endpoint::Path,
    secure::{Generator, PublicKey, StaticKey},
    wire::{
        Blob, MAX_DATAGRAM,
        packet::{Packet, Refusal},
        server::{FromServer, PING_PROOF, ToServer},
    },
};

/// Time without an answer after which TCP is tried beside UDP.
pub const TCP_AFTER: Duration = Duration::from_millis(500);

/// Age at which an association is replaced by one with fresh keys.
pub const REKEY_AFTER: Duration = Duration::from_secs(3600);

/// The same over TCP: UDP may be possible by then, and is better.
pub const REKEY_TCP_AFTER: Duration = Duration::from_secs(600);

/// Time without an answer after which a person is told; doubles with each time up to
/// [`SILENT_MOST`].
pub const SILENT_AFTER: Duration = Duration::from_secs(10);

/// Longest time between two such words.
pub const SILENT_MOST: Duration = Duration::from_secs(300);

/// Messages that are kept until there is an association: a host's registration, or a client's few
/// requests, and what was under way when the last association was lost.
pub const MAX_QUEUE: usize = 64;

/// How long each of the three pings in a row is waited for. 10 s in all: longer than a mobile network
/// is away when it changes cells, shorter than a person's patience.
const PING_PATIENCE: [Duration; 3] = [Duration::from_secs(2), Duration::from_secs(3), Duration::from_secs(5)];

/// A request that is not acknowledged for so long has a ping sent after it: if the NAT has given this side
/// another address meanwhile, that is how the server comes to know that the address is good.
const REQUEST_PATIENCE: Duration = Duration::from_millis(500);

/// Least time between two pings that answer a change of the observed address.
const PROVE_AGAIN: Duration = Duration::from_secs(1);

/// An association with a server, and the attempts to make one.
pub struct Client {
    rng: Generator,
    key: StaticKey,
    server: SocketAddr,
    pinned: Option<PublicKey>,
    node: [u8; 16],
    /// For the next association; empty while there is one.
    queue: VecDeque<ToServer>,
    line: Option<Line>,
    attempt: Option<Attempt>,
    silence: Option<Silence>,
    out: VecDeque<(Path, Vec<u8>)>,
    events: VecDeque<ClientEvent>,
    named: Option<PublicKey>,
    /// The last refusal that was told, and the server's version in it.
    refused: Option<(Refusal, u8)>,
    round_trip: Option<Duration>,
}

/// The association.
struct Line {
    channel: Channel<ToServer, FromServer>,
    local: u32,
    remote: u32,
    path: Path,
    observed: SocketAddr,
    proof: Blob,
    rekey_at: Instant,
    ping_at: Instant,
    pinged_at: Instant,
    unanswered: usize,
    unanswered_since: Option<Instant>,
}

/// Nobody answers.
struct Silence {
    since: Instant,
    next: Instant,
    gap: Duration,
}

impl Silence {
    fn new(since: Instant) -> Self {
        Silence { since, next: since + SILENT_AFTER, gap: SILENT_AFTER }
    }
}

impl Client {
    /// Begins to ask `server`. `pinned` is its key where that is known, `node` what joins the
    /// associations of one run. All random numbers come from `seed`.
    pub fn new(
        now: Instant,
        seed: [u8; 32],
        key: StaticKey,
        server: SocketAddr,
        pinned: Option<PublicKey>,
        node: [u8; 16],
    ) -> Self {
        let mut client = Client {
            rng: Generator::new(seed),
            key,
            server,
            pinned,
            node,
            queue: VecDeque::new(),
            line: None,
            attempt: None,
            silence: Some(Silence::new(now)),
            out: VecDeque::new(),
            events: VecDeque::new(),
            named: None,
            refused: None,
            round_trip: None,
        };
        client.begin(now);
        client
    }

    /// Sends a message, or queues it until there is an association; the first ones travel in INIT.
    /// [`ToServer::Relay`] is sent once or not at all. What is queued already is not queued twice.
    ///
    /// # Errors
    /// [`Full`] where [`MAX_QUEUE`] messages wait, or the channel's own queue is full.
    pub fn send(&mut self, now: Instant, message: ToServer) -> Result<(), Full> {
        let once = matches!(message, ToServer::Relay { .. } | ToServer::Ping { .. });
        match &mut self.line {
            Some(line) if once => line.channel.send_once(now, message),
            Some(line) => {
                line.channel.send(now, message)?;
                if line.unanswered == 0 {
                    line.ping_at = line.ping_at.min(now + REQUEST_PATIENCE);
                }
            }
            None if once || self.queue.contains(&message) => {}
            None if self.queue.len() >= MAX_QUEUE => return Err(Full),
            None => self.queue.push_back(message),
        }
        Ok(())
    }

    /// A datagram came. Answers whether it was from this server over one of its transports; what is in it
    /// may still be nonsense.
    pub fn handle_datagram(&mut self, now: Instant, path: Path, datagram: &[u8]) -> bool {
        let (Path::Udp(from) | Path::Tcp(from)) = path;
        if from != self.server {
            return false;
        }
        match Packet::parse(datagram) {
            Ok(Packet::Cookie { index, cookie, server_key }) => {
                self.cookie(now, path, index, cookie, PublicKey(server_key));
            }
            Ok(Packet::Reply { index, sender, noise }) => {
                let joined = self.attempt.as_mut().and_then(|a| a.reply(now, index, sender, noise));
                if let Some(joined) = joined {
                    self.join(now, path, joined);
                }
            }
            Ok(Packet::Data { index, counter, sealed }) => self.data(now, index, counter, sealed),
            Ok(Packet::Refuse { index, version, reason }) => self.refused(now, index, version, reason),
            Ok(Packet::Hello { .. } | Packet::Init { .. }) | Err(_) => {}
        }
        true
    }

    /// The alarm of [`poll_timeout`](Self::poll_timeout) rang (or anything earlier or later).
    pub fn handle_timeout(&mut self, now: Instant) {
        if let Some(line) = &self.line {
            let (ping, rekey) = (line.ping_at <= now, line.rekey_at <= now);
            if ping && line.unanswered >= PING_PATIENCE.len() {
                self.lose(now);
            } else if ping {
                self.ping(now);
            }
            if rekey && self.attempt.is_none() {
                self.begin(now);
            }
        }
        if let Some(attempt) = &mut self.attempt {
            attempt.handle_timeout(now, &mut self.out);
        }
        if let Some(silence) = self.silence.as_mut().filter(|s| s.next <= now) {
            self.events.push_back(ClientEvent::Silent { since: now - silence.since });
            silence.gap = (silence.gap * 2).min(SILENT_MOST);
            silence.next = now + silence.gap;
        }
    }

    /// An address or a route of this machine changed, or it woke from sleep: the server is asked at once.
    pub fn handle_network_change(&mut self, now: Instant) {
        let Some(line) = &mut self.line else { return self.begin(now) };
        line.unanswered = 0;
        if matches!(line.path, Path::Tcp(_)) {
            self.begin(now);
        }
        self.ping(now);
    }

    /// Something else failed that may be this machine's own doing, as a link does when a router gets
    /// another address: asks the server at once, which sees where the question comes from.
    pub fn suspect(&mut self, now: Instant) {
        if self.line.as_ref().is_some_and(|line| line.unanswered == 0) {
            self.ping(now);
        }
    }

    /// The next datagram to send.
    pub fn poll_transmit(&mut self, now: Instant) -> Option<(Path, Vec<u8>)> {
        self.out.pop_front().or_else(|| {
            let line = self.line.as_mut()?;
            Some((line.path, line.channel.poll_transmit(now)?))
        })
    }

    /// What happened.
    pub fn poll_event(&mut self) -> Option<ClientEvent> {
        self.events.pop_front()
    }

    /// When [`handle_timeout`](Self::handle_timeout) is wanted next.
    pub fn poll_timeout(&self) -> Option<Instant> {
        let line = self.line.as_ref();
        let alarms = [
            line.map(|l| l.ping_at),
            line.filter(|_| self.attempt.is_none()).map(|l| l.rekey_at),
            line.and_then(|l| l.channel.poll_timeout()),
            self.attempt.as_ref().map(Attempt::poll_timeout),
            self.silence.as_ref().map(|s| s.next),
        ];
        alarms.into_iter().flatten().min()
    }

    /// This side's address as the server saw it last.
    pub fn observed(&self) -> Option<SocketAddr> {
        Some(self.line.as_ref()?.observed)
    }

    /// How the server is reached; `None` while it is not.
    pub fn path(&self) -> Option<Path> {
        Some(self.line.as_ref()?.path)
    }

    /// The index under which datagrams of the association come in.
    pub fn local_index(&self) -> Option<u32> {
        Some(self.line.as_ref()?.local)
    }

    /// Everything that is to arrive has arrived, or there is nobody to send it to.
    pub fn is_idle(&self) -> bool {
        self.line.as_ref().is_none_or(|line| line.channel.is_idle())
    }

    /// The server's address.
    pub fn server(&self) -> SocketAddr {
        self.server
    }

    /// Round trip to it, as the last handshake that needed no repetition showed it.
    pub fn round_trip(&self) -> Option<Duration> {
        self.round_trip
    }

    fn begin(&mut self, now: Instant) {
        let attempt = Attempt::new(now, self.rng.random::<u32>().max(1), self.server);
        let attempt = self.attempt.insert(attempt);
        attempt.handle_timeout(now, &mut self.out);
    }

    fn cookie(&mut self, now: Instant, path: Path, index: u32, cookie: [u8; 24], found: PublicKey) {
        let Some(attempt) = self.attempt.as_mut().filter(|a| a.wants_cookie(index)) else { return };
        if self.pinned.is_some_and(|pinned| pinned != found) {
            if self.named.replace(found) != Some(found) {
                self.events.push_back(ClientEvent::KeyChanged { found });
            }
            return;
        }
        let seed = self.rng.random();
        attempt.join(now, (path, index), seed, &self.key, found, cookie, self.node, &self.queue);
        attempt.handle_timeout(now, &mut self.out);
    }

    fn join(&mut self, now: Instant, path: Path, joined: Joined) {
        let Some(attempt) = self.attempt.take() else { return };
        let Joined { keys, remote, hello, carried, server_key, rtt } = joined;
        let carried = self.queue.drain(..carried.min(self.queue.len())).collect();
        let mut channel = Channel::new(keys, attempt.local, remote, MAX_DATAGRAM).with_sent(now, carried);
        if let Some(rtt) = rtt {
            channel.set_rtt(rtt);
            self.round_trip = Some(rtt);
        }
        let messages = channel.handle_body(hello.body).unwrap_or_default();
        let before = self.line.take();
        let renewed = before.is_some();
        let moved = before.as_ref().is_some_and(|b| b.observed != hello.observed || b.path != path);
        let unsent = before.into_iter().flat_map(|line| line.channel.into_unacknowledged());
        for message in unsent.chain(self.queue.drain(..)) {
            // Room for MAX_QUEUE is what a fresh channel has.
            let _ = channel.send(now, message);
        }
        let rekey = if matches!(path, Path::Udp(_)) { REKEY_AFTER } else { REKEY_TCP_AFTER };
        self.line = Some(Line {
            channel,
            local: attempt.local,
            remote,
            path,
            observed: hello.observed,
            proof: Blob::default(),
            rekey_at: now + rekey,
            ping_at: now + KEEP_ALIVE,
            pinged_at: now,
            unanswered: 0,
            unanswered_since: None,
        });
        self.refused = None;
        let first_contact = self.pinned.replace(server_key).is_none();
        let (observed, udp) = (hello.observed, hello.udp);
        if self.silence.take().is_some() {
            let took = now - attempt.began;
            let reached = ClientEvent::Reached { observed, udp, path, took, server_key, first_contact };
            self.events.push_back(reached);
        } else if moved {
            self.events.push_back(ClientEvent::Moved { observed, udp });
        }
        if renewed {
            self.events.push_back(ClientEvent::Renewed);
        }
        self.events.extend(messages.into_iter().map(ClientEvent::Message));
    }

    fn data(&mut self, now: Instant, index: u32, counter: u64, sealed: &[u8]) {
        let Some(line) = self.line.as_mut().filter(|line| line.local == index) else { return };
        let Ok(received) = line.channel.handle(counter, sealed) else { return };
        line.unanswered = 0;
        line.unanswered_since = None;
        line.ping_at = line.pinged_at + KEEP_ALIVE;
        for message in received.messages {
            match message {
                FromServer::Pong { observed, proof } => self.pong(now, observed, proof),
                message => self.events.push_back(ClientEvent::Message(message)),
            }
        }
    }

    /// The server follows to a new address only after the proof came back from there.
    fn pong(&mut self, now: Instant, observed: SocketAddr, proof: Blob) {
        let Some(line) = &mut self.line else { return };
        line.proof = proof;
        if line.observed != observed {
            line.observed = observed;
            let udp = matches!(line.path, Path::Udp(_));
            self.events.push_back(ClientEvent::Moved { observed, udp });
            if line.unanswered_since.is_none_or(|at| now >= at + PROVE_AGAIN) {
                self.ping(now);
            }
        }
    }

    fn ping(&mut self, now: Instant) {
        let Some(line) = &mut self.line else { return };
        let mut proof = line.proof.0.clone();
        proof.resize(PING_PROOF, 0);
        line.channel.send_once(now, ToServer::Ping { proof: Blob(proof) });
        let patience = PING_PATIENCE.get(line.unanswered).copied().unwrap_or(PING_PATIENCE[2]);
        line.pinged_at = now;
        line.ping_at = now + patience;
        line.unanswered += 1;
        line.unanswered_since.get_or_insert(now);
    }

    fn refused(&mut self, now: Instant, index: u32, version: u8, reason: Refusal) {
        match reason {
            Refusal::Unknown => {
                if self.line.as_ref().is_some_and(|line| line.remote == index) {
                    self.lose(now);
                }
            }
            Refusal::Version | Refusal::Busy | Refusal::Private => {
                let Some(attempt) = self.attempt.as_mut().filter(|a| a.has_asked(index)) else { return };
                attempt.slow_down(now);
                let event = match reason {
                    Refusal::Version => ClientEvent::Version { theirs: version },
                    Refusal::Private => ClientEvent::Private,
                    Refusal::Busy | Refusal::Unknown => return,
                };
                if self.refused.replace((reason, version)) != Some((reason, version)) {
                    self.events.push_back(event);
                }
            }
        }
    }

    /// The association is lost: what the server has not acknowledged goes into the next one.
    fn lose(&mut self, now: Instant) {
        let Some(line) = self.line.take() else { return };
        self.silence = Some(Silence::new(line.unanswered_since.unwrap_or(now)));
        self.queue.extend(line.channel.into_unacknowledged().take(MAX_QUEUE));
        self.events.push_back(ClientEvent::Lost);
        if self.attempt.is_none() {
            self.begin(now);
        }
    }
}
