//! The UDP path between two peers: found, kept open, followed when it moves, given up when it dies.
//!
//! ```text
//!              a pong                         a ping is due
//!   CHECKING ----------> DIRECT (confirmed) -----------------> ... four unanswered
//!      ^  pings to all                 ^ |
//!      |  candidates, by a ladder      | | newest datagram from elsewhere: follow it, and ask
//!      |                               +-+
//!      +---------------------------------------------------------------+
//! ```
//!
//! A *ping* goes out and its *pong* comes back by the same path: only that shows that both ways are open.
//! Datagrams that merely arrive show one way, as behind a NAT with another port for each destination, so
//! in CHECKING they only make their source a candidate that is asked at once. A confirmed path follows
//! the newest authentic datagram (the peer roamed: its old address is dead), is then asked at once, and does
//! not carry alone what is said until it has answered: somebody on the way could have sent the datagram on
//! from elsewhere.
//!
//! **After every `handle_*`, drain [`Hole::poll_ping`] until it answers `None`; then wait until
//! [`Hole::poll_timeout`].**

use std::{
    collections::VecDeque,
    net::SocketAddr,
    time::{Duration, Instant},
};

/// Pings to each candidate, milliseconds after the first. Close together at first, because the first
/// ones only open this side's NAT and are dropped by the other's until it has done the same; the other
/// side begins up to one trip later.
const LADDER_MS: [u64; 12] = [0, 30, 80, 150, 250, 400, 600, 900, 1300, 2000, 3000, 5000];

/// After the ladder each candidate is asked this often: a NAT may reboot into a better mood.
const RECHECK: Duration = Duration::from_secs(20);

/// A confirmed path is asked this often. Mappings live 30 s at the shortest that is common (RFC 4787
/// asks for 2 min), and only what goes out is sure to keep them.
pub const KEEP_ALIVE: Duration = Duration::from_secs(20);

/// How long each ping of a confirmed path may stay unanswered before the next one, milliseconds, and
/// after the last one the path is lost. Four pings: at 10 % loss each way all of them (or their answers)
/// are lost once in 770 times, and being wrong costs a way over the relay.
const PATIENCE_MS: [u64; 4] = [500, 1000, 1500, 2000];

/// Addresses that are asked: two families, and some that datagrams came from unexpectedly.
const MOST_CANDIDATES: usize = 6;

/// One peer's path.
#[derive(Debug)]
pub struct Hole {
    /// Where the peer may be; the oldest ones go first when there are too many.
    candidates: VecDeque<SocketAddr>,
    state: State,
    /// Pings that are due, and since when.
    due: VecDeque<SocketAddr>,
    due_since: Instant,
}

#[derive(Debug)]
enum State {
    Checking {
        began: Instant,
        rung: usize,
        next: Instant,
    },
    Direct {
        remote: SocketAddr,
        /// It has answered a ping.
        answered: bool,
        last_ping: Instant,
        unanswered: usize,
        next: Instant,
    },
}

impl Hole {
    /// Begins to check these addresses now. Without any it waits for datagrams.
    pub fn new(now: Instant, candidates: &[SocketAddr]) -> Self {
        let mut hole = Hole {
            candidates: VecDeque::new(),
            state: State::Checking { began: now, rung: 0, next: now },
            due: VecDeque::new(),
            due_since: now,
        };
        candidates.iter().take(MOST_CANDIDATES).for_each(|&candidate| hole.add(candidate));
        hole
    }

    /// Begins anew: this side's or the other's network changed. Earlier candidates stay, behind these.
    pub fn restart(&mut self, now: Instant, candidates: &[SocketAddr]) {
        candidates.iter().take(MOST_CANDIDATES).for_each(|&candidate| self.add(candidate));
        self.due.clear();
        self.check(now);
    }

    /// Something else suggests that the path is dead (a link broke, messages stay unacknowledged): ask
    /// now instead of at the next keep-alive.
    pub fn suspect(&mut self, now: Instant) {
        if let State::Direct { unanswered: 0, next, .. } = &mut self.state {
            *next = now;
        }
    }

    /// The confirmed path, if there is one: where to send what would otherwise go over the relay.
    pub fn direct(&self) -> Option<SocketAddr> {
        match self.state {
            State::Direct { remote, .. } => Some(remote),
            State::Checking { .. } => None,
        }
    }

    /// The path has answered since it moved.
    pub fn has_answered(&self) -> bool {
        matches!(self.state, State::Direct { answered: true, .. })
    }

    /// An authentic datagram of the peer came directly from `from`; `newest` if none with a higher
    /// counter came before (one that came through the server may have overtaken it, which matters only
    /// to a confirmed path).
    pub fn handle_authentic(&mut self, now: Instant, from: SocketAddr, newest: bool) {
        let new = !self.candidates.contains(&from);
        match self.state {
            State::Checking { .. } if new => {
                self.add(from);
                self.ask(now, from);
            }
            State::Checking { .. } => {}
            State::Direct { remote, .. } if remote == from || !newest => {}
            State::Direct { .. } => {
                self.add(from);
                self.ask(now, from);
                let next = now + patience(0);
                self.state =
                    State::Direct { remote: from, answered: false, last_ping: now, unanswered: 1, next };
            }
        }
    }

    /// The answer to a ping that this side sent to `from`, and nowhere else, came directly from there. (Tell
    /// [`handle_authentic`](Self::handle_authentic) of the datagram as well, before.)
    pub fn handle_pong(&mut self, now: Instant, from: SocketAddr) {
        match &mut self.state {
            State::Direct { remote, answered, last_ping, unanswered, next } if *remote == from => {
                *answered = true;
                *unanswered = 0;
                *next = (*last_ping + KEEP_ALIVE).max(now);
            }
            // An answer from the path before it moved.
            State::Direct { .. } => {}
            State::Checking { .. } => {
                self.due.clear();
                let next = now + KEEP_ALIVE;
                self.state =
                    State::Direct { remote: from, answered: true, last_ping: now, unanswered: 0, next };
            }
        }
    }

    /// The next address to send a ping to, now.
    pub fn poll_ping(&mut self, now: Instant) -> Option<SocketAddr> {
        if self.due.is_empty() {
            self.advance(now);
        }
        self.due.pop_front()
    }

    /// When [`poll_ping`](Self::poll_ping) has something next; `None` while there is no candidate.
    pub fn poll_timeout(&self) -> Option<Instant> {
        if !self.due.is_empty() {
            return Some(self.due_since);
        }
        match self.state {
            State::Checking { .. } if self.candidates.is_empty() => None,
            State::Checking { next, .. } | State::Direct { next, .. } => Some(next),
        }
    }

    fn advance(&mut self, now: Instant) {
        if let State::Direct { remote, last_ping, unanswered, next, .. } = &mut self.state
            && now >= *next
        {
            if *unanswered < PATIENCE_MS.len() {
                *next = now + patience(*unanswered);
                *unanswered += 1;
                *last_ping = now;
                self.due.push_back(*remote);
                self.due_since = now;
                return;
            }
            self.check(now);
        }
        if let State::Checking { began, rung, next } = &mut self.state
            && now >= *next
        {
            // A driver that comes late sends one ping, not all that were missed.
            let passed = |ms: &&u64| *began + Duration::from_millis(**ms) <= now;
            *rung = LADDER_MS.iter().take_while(passed).count();
            *next = match LADDER_MS.get(*rung) {
                Some(&ms) => *began + Duration::from_millis(ms),
                None => now + RECHECK,
            };
            self.due = self.candidates.clone();
            self.due_since = now;
        }
    }

    fn check(&mut self, now: Instant) {
        self.state = State::Checking { began: now, rung: 0, next: now };
    }

    fn ask(&mut self, now: Instant, remote: SocketAddr) {
        if !self.due.contains(&remote) {
            self.due.push_back(remote);
            self.due_since = now;
        }
    }

    fn add(&mut self, candidate: SocketAddr) {
        if self.candidates.contains(&candidate) {
            return;
        }
        if self.candidates.len() == MOST_CANDIDATES {
            self.candidates.pop_front();
        }
        self.candidates.push_back(candidate);
    }
}

fn patience(unanswered: usize) -> Duration {
    Duration::from_millis(PATIENCE_MS.get(unanswered).copied().unwrap_or(2000))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::start;

    const MS: Duration = Duration::from_millis(1);

    fn at(port: u16) -> SocketAddr {
        SocketAddr::from(([203, 0, 113, 1], port))
    }

    /// Jumps from deadline to deadline up to `end`: (when, where to) of each ping.
    fn pings(hole: &mut Hole, from: Instant, end: Instant) -> Vec<(u128, u16)> {
        let mut sent = Vec::new();
        while let Some(now) = hole.poll_timeout().filter(|&t| t <= end) {
            let mut some = false;
            while let Some(to) = hole.poll_ping(now) {
                sent.push(((now - from).as_millis(), to.port()));
                some = true;
            }
            assert!(some || hole.poll_timeout() != Some(now), "a deadline without anything to do");
        }
        sent
    }

    fn open(now: Instant, remote: SocketAddr) -> Hole {
        let mut hole = Hole::new(now, &[remote]);
        while hole.poll_ping(now).is_some() {}
        hole.handle_authentic(now, remote, true);
        hole.handle_pong(now, remote);
        assert_eq!(hole.direct(), Some(remote));
        hole
    }

    #[test]
    fn every_candidate_is_asked_by_the_ladder_and_then_now_and_then() {
        let t = start();
        let mut hole = Hole::new(t, &[at(1), at(2)]);
        let sent = pings(&mut hole, t, t + 60_000 * MS);
        assert_eq!(sent[..6], [(0, 1), (0, 2), (30, 1), (30, 2), (80, 1), (80, 2)]);
        let times: Vec<_> = sent.iter().filter(|p| p.1 == 1).map(|p| p.0).collect();
        assert_eq!(times[9..], [2000, 3000, 5000, 25_000, 45_000]);
        assert_eq!(hole.direct(), None);
    }

    #[test]
    fn a_driver_that_comes_late_sends_one_ping_for_all_that_it_missed() {
        let t = start();
        let mut hole = Hole::new(t, &[at(1)]);
        assert_eq!(hole.poll_ping(t + 700 * MS), Some(at(1)));
        assert_eq!(hole.poll_ping(t + 700 * MS), None);
        assert_eq!(hole.poll_timeout(), Some(t + 900 * MS));
    }

    #[test]
    fn a_datagram_alone_shows_one_way_and_its_source_is_asked_at_once() {
        let t = start();
        let mut hole = Hole::new(t, &[at(1)]);
        while hole.poll_ping(t).is_some() {}
        hole.handle_authentic(t + 5 * MS, at(9), true);
        assert_eq!(hole.direct(), None);
        assert_eq!(hole.poll_timeout(), Some(t + 5 * MS));
        assert_eq!(hole.poll_ping(t + 5 * MS), Some(at(9)));
        assert_eq!(hole.poll_ping(t + 5 * MS), None);
        hole.handle_pong(t + 10 * MS, at(9));
        assert_eq!(hole.direct(), Some(at(9)));
    }

    #[test]
    fn a_datagram_that_was_overtaken_through_the_server_still_shows_where_the_peer_is() {
        let t = start();
        let mut hole = Hole::new(t, &[at(1)]);
        while hole.poll_ping(t).is_some() {}
        hole.handle_authentic(t + 5 * MS, at(9), false);
        assert_eq!(hole.poll_ping(t + 5 * MS), Some(at(9)));
    }

    #[test]
    fn a_confirmed_path_is_kept_alive_and_lost_after_four_unanswered_pings() {
        let t = start();
        let mut hole = open(t, at(1));
        assert_eq!(
            pings(&mut hole, t, t + 24_999 * MS),
            [(20_000, 1), (20_500, 1), (21_500, 1), (23_000, 1)]
        );
        assert_eq!(hole.direct(), Some(at(1)));
        let again = pings(&mut hole, t, t + 25_030 * MS);
        assert_eq!(hole.direct(), None);
        assert_eq!(again, [(25_000, 1), (25_030, 1)]);
    }

    #[test]
    fn an_answer_resets_the_count() {
        let t = start();
        let mut hole = open(t, at(1));
        assert_eq!(pings(&mut hole, t, t + 20_600 * MS).len(), 2);
        hole.handle_pong(t + 20_700 * MS, at(1));
        assert_eq!(pings(&mut hole, t, t + 41_000 * MS), [(40_500, 1), (41_000, 1)]);
    }

    #[test]
    fn the_path_moves_with_the_newest_datagram_and_is_asked_at_once() {
        let t = start();
        let mut hole = open(t, at(1));
        hole.handle_authentic(t + MS, at(2), false);
        assert_eq!(hole.direct(), Some(at(1)), "an old datagram overtaken on the way");
        hole.handle_authentic(t + MS, at(2), true);
        assert_eq!(hole.direct(), Some(at(2)));
        assert_eq!(hole.poll_ping(t + MS), Some(at(2)));
        hole.handle_pong(t + 2 * MS, at(1));
        assert_eq!(pings(&mut hole, t, t + 502 * MS), [(501, 2)], "not answered by the old path's pong");
        assert!(!hole.has_answered());
        hole.handle_pong(t + 600 * MS, at(2));
        assert!(hole.has_answered());
        assert_eq!(hole.direct(), Some(at(2)));
        assert_eq!(hole.poll_timeout(), Some(t + 20_501 * MS));
    }

    #[test]
    fn a_suspect_path_is_asked_now_and_a_changed_network_starts_over() {
        let t = start();
        let mut hole = open(t, at(1));
        hole.suspect(t + 7 * MS);
        assert_eq!(hole.poll_ping(t + 7 * MS), Some(at(1)));
        hole.suspect(t + 8 * MS);
        assert_eq!(hole.poll_ping(t + 8 * MS), None, "it has been asked");
        hole.restart(t + 9 * MS, &[at(3)]);
        assert_eq!(hole.direct(), None);
        assert_eq!(pings(&mut hole, t, t + 9 * MS), [(9, 1), (9, 3)]);
    }

    #[test]
    fn candidates_are_bounded() {
        let t = start();
        let mut hole = Hole::new(t, &(1..100).map(at).collect::<Vec<_>>());
        for port in 1000..1100 {
            hole.handle_authentic(t, at(port), true);
        }
        assert_eq!(hole.candidates.len(), MOST_CANDIDATES);
        assert!(hole.candidates.contains(&at(1099)));
        assert_eq!(Hole::new(t, &[]).poll_timeout(), None);
    }
}
