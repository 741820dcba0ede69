//! What a host or client is doing right now, in numbers: snapshots for people and programs.
//!
//! [`Ledger`] takes in every [`Event`] before anybody is told of it, so that whoever hears of one finds
//! it counted.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
    time::Duration,
};

use super::{clock, event::Event, tunnel::Tunnel};
use crate::{
    endpoint::{Event as Step, Path, PeerId},
    nat::Prediction,
    secure::PublicKey,
    session::SessionStats,
};

/// A snapshot of a host or client. All times are lengths of time until the snapshot, time that the
/// machine slept included.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Status {
    /// The rendezvous server.
    pub server: ServerStatus,
    /// This side's NATs as they were measured last, one for each address family; empty before.
    pub nats: Vec<Prediction>,
    /// The sessions, oldest first.
    pub sessions: Vec<SessionStatus>,
}

/// How it stands with the rendezvous server.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct ServerStatus {
    /// It answers.
    pub reached: bool,
    /// For how long it has answered, or not.
    pub since: Duration,
    /// By what it was reached last.
    pub path: Option<Path>,
    /// This side's address as it sees it.
    pub observed: Option<SocketAddr>,
    /// The name is registered there (hosts only).
    pub registered: bool,
    /// The host that is asked for is not there, for so long (clients only).
    pub waiting: Option<Duration>,
}

/// How it stands with a session.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct SessionStatus {
    /// Its number within this program.
    pub peer: PeerId,
    /// The other peer's key.
    pub key: PublicKey,
    /// How old it is.
    pub age: Duration,
    /// Its link.
    pub link: LinkStatus,
    /// Links that were lost, each time to punch again.
    pub repunches: u64,
    /// The longest time without a link since there was the first one, one that goes on included.
    pub longest_outage: Duration,
    /// The last time without a link that has ended.
    pub last_outage: Option<Duration>,
    /// Counters: links, bytes, streams, round trip.
    pub stats: SessionStats,
}

/// How it stands with a session's link.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct LinkStatus {
    /// There is one.
    pub up: bool,
    /// For how long there has been one, or none.
    pub since: Duration,
    /// The other end of the last one.
    pub remote: Option<SocketAddr>,
    /// It is inside one LAN, without a punch.
    pub lan: bool,
    /// Why there is none, in words: why the last one was lost, or the last try failed.
    pub why: Option<String>,
    /// Time to the next try. `None` where one is under way, or where the other side says when.
    pub next_try: Option<Duration>,
}

impl Status {
    /// The session of that number.
    pub fn session(&self, peer: PeerId) -> Option<&SessionStatus> {
        self.sessions.iter().find(|session| session.peer == peer)
    }
}

/// Gives snapshots of a host or client, also before it has started and after it has ended.
#[derive(Clone)]
pub struct Monitor(Arc<Ledger>);

impl Monitor {
    pub(super) fn new(ledger: Arc<Ledger>) -> Self {
        Monitor(ledger)
    }

    /// How it stands now.
    pub fn status(&self) -> Status {
        self.0.status()
    }
}

/// What was told so far, as far as it still holds.
pub(super) struct Ledger(Mutex<Book>);

/// Times are those of [`clock::since_boot`].
struct Book {
    reached: bool,
    /// The server answers, or does not, since then.
    since: Duration,
    path: Option<Path>,
    observed: Option<SocketAddr>,
    registered: bool,
    waiting: Option<Duration>,
    nats: Vec<Prediction>,
    /// Bounded by what an endpoint has: each goes with the end of its session.
    sessions: BTreeMap<PeerId, Entry>,
}

/// A session.
struct Entry {
    key: PublicKey,
    began: Duration,
    tunnel: Weak<Tunnel>,
    up: bool,
    changed: Duration,
    remote: Option<SocketAddr>,
    lan: bool,
    why: Option<String>,
    next_try: Option<Duration>,
    /// There was a link: what comes between two of them is an outage.
    linked: bool,
    repunches: u64,
    longest: Duration,
    last: Option<Duration>,
}

impl Ledger {
    pub(super) fn new() -> Self {
        Ledger(Mutex::new(Book {
            reached: false,
            since: clock::since_boot(),
            path: None,
            observed: None,
            registered: false,
            waiting: None,
            nats: Vec::new(),
            sessions: BTreeMap::new(),
        }))
    }

    /// A session begins.
    pub(super) fn began(&self, peer: PeerId, tunnel: &Arc<Tunnel>) {
        let now = clock::since_boot();
        let entry = Entry {
            key: tunnel.key(),
            began: now,
            // The tunnel has the events and so this ledger.
            tunnel: Arc::downgrade(tunnel),
            up: false,
            changed: now,
            remote: None,
            lan: false,
            why: None,
            next_try: None,
            linked: false,
            repunches: 0,
            longest: Duration::ZERO,
            last: None,
        };
        self.lock().sessions.insert(peer, entry);
    }

    /// Something happened.
    pub(super) fn note(&self, event: &Event) {
        let now = clock::since_boot();
        let mut book = self.lock();
        match event {
            Event::Endpoint(step) => book.step(now, step),
            Event::LinkLost { peer, why } => {
                if let Some(entry) = book.sessions.get_mut(peer) {
                    entry.lost(now, why);
                }
            }
            Event::SessionEnded { peer, .. } => drop(book.sessions.remove(peer)),
            Event::SessionBegan { .. } | Event::StreamRefused { .. } => {}
        }
    }

    fn status(&self) -> Status {
        let now = clock::since_boot();
        let since = |then: Duration| now.saturating_sub(then);
        let book = self.lock();
        let server = ServerStatus {
            reached: book.reached,
            since: since(book.since),
            path: book.path,
            observed: book.observed,
            registered: book.registered,
            waiting: book.waiting.map(since),
        };
        let nats = book.nats.clone();
        let found =
            book.sessions.iter().map(|(peer, entry)| (entry.status(*peer, now), entry.tunnel.clone()));
        let found: Vec<_> = found.collect();
        // A tunnel has its own lock: never both.
        drop(book);
        let counted = found.into_iter().filter_map(|(mut session, tunnel)| {
            // The end of a program ends its sessions without a word.
            let tunnel = tunnel.upgrade().filter(|tunnel| tunnel.ended().is_none())?;
            session.stats = tunnel.stats();
            Some(session)
        });
        Status { server, nats, sessions: counted.collect() }
    }

    fn lock(&self) -> MutexGuard<'_, Book> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Book {
    fn step(&mut self, now: Duration, step: &Step) {
        match step {
            Step::ServerReached { path, observed, .. } => {
                if !std::mem::replace(&mut self.reached, true) {
                    self.since = now;
                }
                (self.path, self.observed) = (Some(*path), Some(*observed));
            }
            Step::ServerSilent { since } => {
                if std::mem::replace(&mut self.reached, false) {
                    self.since = now.saturating_sub(*since);
                }
                self.registered = false;
            }
            Step::Registered => self.registered = true,
            Step::NotRegistered(_) => self.registered = false,
            Step::Waiting { .. } => drop(self.waiting.get_or_insert(now)),
            Step::Introduced { .. } => self.waiting = None,
            Step::NatFound { predictions, .. } => self.nats.clone_from(predictions),
            Step::Opening { peer, .. } => {
                if let Some(entry) = self.sessions.get_mut(peer) {
                    entry.next_try = None;
                }
            }
            Step::Connected { peer, remote, lan, .. } => {
                if let Some(entry) = self.sessions.get_mut(peer) {
                    entry.connected(now, *remote, *lan);
                }
            }
            Step::RoundFailed { peer, why, next, .. } => {
                if let Some(entry) = self.sessions.get_mut(peer).filter(|entry| !entry.up) {
                    entry.why = Some(why.clone());
                    entry.next_try = (!next.is_zero()).then(|| now.saturating_add(*next));
                }
            }
            Step::Hopeless { peer, why } => {
                if let Some(entry) = self.sessions.get_mut(peer).filter(|entry| !entry.up) {
                    entry.why = Some(why.clone());
                }
            }
            Step::ServerKey(_)
            | Step::Tried { .. }
            | Step::PeerNatFound { .. }
            | Step::ServerKeyChanged { .. }
            | Step::ServerVersion { .. }
            | Step::ServerPrivate
            | Step::Released(_)
            | Step::NotKept(_)
            | Step::Declined(_)
            | Step::Hearsay(_)
            | Step::Refused { .. }
            | Step::NotProved
            | Step::HoleOpen { .. } => {}
        }
    }
}

impl Entry {
    fn connected(&mut self, now: Duration, remote: SocketAddr, lan: bool) {
        if self.linked && !self.up {
            let outage = now.saturating_sub(self.changed);
            self.longest = self.longest.max(outage);
            self.last = Some(outage);
        }
        (self.linked, self.up, self.changed) = (true, true, now);
        (self.remote, self.lan) = (Some(remote), lan);
        (self.why, self.next_try) = (None, None);
    }

    fn lost(&mut self, now: Duration, why: &str) {
        if std::mem::replace(&mut self.up, false) {
            self.changed = now;
        }
        self.repunches += 1;
        (self.why, self.next_try) = (Some(why.to_owned()), None);
    }

    fn status(&self, peer: PeerId, now: Duration) -> SessionStatus {
        let since = now.saturating_sub(self.changed);
        let outage = if self.linked && !self.up { since } else { Duration::ZERO };
        SessionStatus {
            peer,
            key: self.key,
            age: now.saturating_sub(self.began),
            link: LinkStatus {
                up: self.up,
                since,
                remote: self.remote,
                lan: self.lan,
                why: self.why.clone(),
                next_try: self.next_try.and_then(|at| at.checked_sub(now)),
            },
            repunches: self.repunches,
            longest_outage: self.longest.max(outage),
            last_outage: self.last,
            stats: SessionStats::default(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::peer::RoundId;

    const PEER: PeerId = PeerId(1);
    const SECOND: Duration = Duration::from_secs(1);

    fn book() -> Book {
        let ledger = Ledger::new();
        let mut book = ledger.0.into_inner().unwrap();
        let entry = Entry {
            key: PublicKey([1; 32]),
            began: Duration::ZERO,
            tunnel: Weak::new(),
            up: false,
            changed: Duration::ZERO,
            remote: None,
            lan: false,
            why: None,
            next_try: None,
            linked: false,
            repunches: 0,
            longest: Duration::ZERO,
            last: None,
        };
        book.sessions.insert(PEER, entry);
        book
    }

    fn connected() -> Step {
        let remote = "198.51.100.7:40000".parse().unwrap();
        Step::Connected { peer: PEER, remote, lan: false, took: SECOND, rtt: None, links: 1 }
    }

    fn session(book: &Book, now: Duration) -> SessionStatus {
        book.sessions[&PEER].status(PEER, now)
    }

    #[test]
    fn the_time_to_the_first_link_is_no_outage_and_what_goes_on_counts() {
        let mut book = book();
        book.step(9 * SECOND, &connected());
        assert_eq!(session(&book, 10 * SECOND).longest_outage, Duration::ZERO);
        assert_eq!(session(&book, 10 * SECOND).link.since, SECOND);
        book.sessions.get_mut(&PEER).unwrap().lost(20 * SECOND, "reset");
        let down = session(&book, 23 * SECOND);
        assert_eq!((down.longest_outage, down.last_outage, down.repunches), (3 * SECOND, None, 1));
        assert_eq!((down.link.up, down.link.why.as_deref()), (false, Some("reset")));
        book.step(24 * SECOND, &connected());
        book.sessions.get_mut(&PEER).unwrap().lost(30 * SECOND, "reset");
        book.step(31 * SECOND, &connected());
        let up = session(&book, 40 * SECOND);
        assert_eq!((up.longest_outage, up.last_outage), (4 * SECOND, Some(SECOND)));
        assert_eq!((up.link.up, up.link.why), (true, None));
    }

    #[test]
    fn the_next_try_counts_down_and_is_over_when_it_begins() {
        let mut book = book();
        let id = RoundId { attempt: 1, round: 3 };
        let failed = Step::RoundFailed { peer: PEER, id, why: "nobody there".into(), next: 5 * SECOND };
        book.step(10 * SECOND, &failed);
        let link = session(&book, 12 * SECOND).link;
        assert_eq!((link.next_try, link.why.as_deref()), (Some(3 * SECOND), Some("nobody there")));
        assert_eq!(session(&book, 16 * SECOND).link.next_try, None);
    }

    #[test]
    fn a_server_that_falls_silent_has_been_so_since_it_was_heard() {
        let mut book = book();
        let at = "192.0.2.1:7862".parse().unwrap();
        let reached = Step::ServerReached { path: Path::Udp(at), observed: at, took: SECOND };
        book.step(10 * SECOND, &reached);
        book.step(12 * SECOND, &reached);
        assert_eq!((book.reached, book.since), (true, 10 * SECOND));
        book.step(50 * SECOND, &Step::ServerSilent { since: 4 * SECOND });
        book.step(60 * SECOND, &Step::ServerSilent { since: 14 * SECOND });
        assert_eq!((book.reached, book.since), (false, 46 * SECOND));
    }
}
