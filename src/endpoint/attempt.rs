//! The attempts to reach the other peer: who starts a round, when, and what follows a failure.
//!
//! Only the initiator starts attempts. An attempt is a series of rounds, each with fresh ports and its
//! own plan; after [`schedule::ROUNDS`] of them, or [`ATTEMPT`], without a link it backs off and begins
//! again, for as long as the session lives.

use std::time::{Duration, Instant};

use rand::RngExt;

use super::{
    Event, Output,
    peer::{Env, HOLD, Peer},
    round::Round,
};
use crate::{
    channel::Full,
    punch::schedule,
    wire::peer::{PeerMessage, RoundId, StartRefusal},
};

/// Longest time from the beginning of a round to its agreed instant: probes that wait for a repeated
/// SYN, and three messages that are repeated once.
pub(super) const PREPARE: Duration = Duration::from_secs(8);

/// Longest attempt: published figures and our own say that most successes come in the first round, and
/// a person waits no longer.
pub(super) const ATTEMPT: Duration = Duration::from_secs(20);

/// A responder prepares at most so many rounds ...
const MAX_PREPARED: usize = 8;

/// ... within this time, because each binds ports and probes. One that opened takes four seconds, so only
/// failures that come at once are ever held up.
const PREPARED_IN: Duration = Duration::from_secs(10);

/// After this much silence on the line an attempt asks for a new introduction.
const SILENT: Duration = Duration::from_secs(4);

/// So long after the direct path was lost a new introduction is asked for, which tells both sides where the
/// other one is now. Each one in vain doubles it, up to [`MOST_DOUBLED`] times: not every network has a direct
/// path.
const ROUNDABOUT: Duration = Duration::from_secs(4);

/// To a little more than a quarter of an hour.
const MOST_DOUBLED: u32 = 8;

/// A round that has no number yet, because the initiator has not asked for it.
const UNNUMBERED: RoundId = RoundId { attempt: 0, round: 0 };

/// A round that was begun early is used up to this age: a fixed mapping lasts, a progression moves on, and the
/// other side may be hours away.
pub(super) const EARLY: Duration = Duration::from_secs(2);

impl Peer {
    /// The number of the next attempt, for a request to the host that is to prepare it at once.
    pub(super) fn next_attempt(&self) -> RoundId {
        RoundId { attempt: self.last.attempt.saturating_add(1), round: 0 }
    }

    /// Goes on with a round that was begun before the other side was known, or begins the round of that
    /// number. Numbers only rise: an older one is a message that came late.
    pub(super) fn begin(&mut self, now: Instant, id: RoundId, early: Option<Round>, env: &mut Env) {
        if id <= self.last {
            return;
        }
        if id.attempt > self.last.attempt {
            self.attempt_began = now;
        }
        self.last = id;
        self.retry = None;
        let early = early.or_else(|| self.round.take_if(|r| r.id == UNNUMBERED && r.age(now) < EARLY));
        self.retire(now);
        let mut round = early.unwrap_or_else(|| env.round(now, id));
        round.id = id;
        self.round = Some(round);
        self.advance(now, env);
    }

    /// The responder has moved, and the initiator is going to ask for a round: its ports and probes are
    /// ready by then.
    pub(super) fn begin_early(&mut self, now: Instant, env: &mut Env) {
        if self.newest > 0 && self.round.is_none() && env.nat.take_turn(now, self.id).is_ok() {
            self.round = Some(env.round(now, UNNUMBERED));
        }
    }

    /// The round waits for the initiator to ask for it.
    pub(super) fn is_early(round: &Round) -> bool {
        round.id == UNNUMBERED
    }

    /// A new line is there: an attempt that got nowhere on the old one begins again.
    pub(super) fn begin_again(&mut self, now: Instant, env: &mut Env) {
        if self.link.is_none() && self.round.as_ref().is_none_or(|r| r.at.is_none()) {
            self.begin_attempt(now, env);
        }
    }

    pub(super) fn next_round(&self) -> RoundId {
        RoundId { attempt: self.last.attempt, round: self.last.round.saturating_add(1) }
    }

    /// Puts the round's ports aside until nothing can come of them any more.
    pub(super) fn retire(&mut self, now: Instant) {
        if let Some(round) = self.round.take() {
            let until = round.end().map_or(now, |end| end.min(now + HOLD));
            self.retired.push((round.ports, until));
        }
    }

    /// An own round begins, and the other side is asked to join in. While it is away for so long that not
    /// even this can be said, there is no use in binding and probing: the line is only asked whether it
    /// lives.
    pub(super) fn attempt(&mut self, now: Instant, id: RoundId, env: &mut Env) {
        self.line.ping(now);
        match self.line.send(now, PeerMessage::Prepare { id }) {
            Ok(()) => self.begin(now, id, None, env),
            Err(Full) => self.no_round(now, id, "the other side has not answered for long".into(), env),
        }
    }

    /// The initiator cannot begin a round: it tries again, not at once.
    pub(super) fn no_round(&mut self, now: Instant, id: RoundId, why: String, env: &mut Env) {
        if self.link_goes_on(now) {
            return;
        }
        self.retire(now);
        let next = self.pause(now, env);
        env.out.push_back(Output::Event(Event::RoundFailed { peer: self.id, id, why, next }));
    }

    /// The initiator asks for a round: prepares it, unless it asks for too many.
    pub(super) fn prepare(&mut self, now: Instant, id: RoundId, env: &mut Env) {
        if id <= self.last {
            return;
        }
        self.prepared.retain(|at| *at + PREPARED_IN > now);
        if self.prepared.len() >= MAX_PREPARED {
            let _ = self.line.send(now, PeerMessage::NotStarted { id, why: StartRefusal::Busy });
            return;
        }
        self.prepared.push(now);
        self.begin_in_turn(now, id, env);
    }

    /// Begins a round that the initiator asked for, as soon as no other session of this host is between
    /// its probes and its burst, where those would spoil each other's predictions.
    pub(super) fn begin_in_turn(&mut self, now: Instant, id: RoundId, env: &mut Env) {
        match env.nat.take_turn(now, self.id) {
            Ok(()) => {
                self.deferred = None;
                self.begin(now, id, None, env);
            }
            Err(until) => self.deferred = Some((id, until)),
        }
    }

    /// Whether it is time for the responder to forget a round.
    pub(super) fn overdue(round: &Round, now: Instant) -> bool {
        round.end().map_or(round.age(now) >= ATTEMPT, |end| end <= now)
    }

    /// The initiator's part: starts rounds, and gives them up.
    pub(super) fn lead(&mut self, now: Instant, env: &mut Env) {
        self.repeat_late(now, env);
        let Some(round) = &self.round else {
            if self.retry.is_some_and(|at| at <= now) {
                self.begin_attempt(now, env);
            }
            return;
        };
        if round.end().is_some_and(|end| end <= now) {
            let (why, ports) = (round.why_failed(now), round.ports);
            match self.round.as_mut().and_then(Round::take_hopeless) {
                Some(why) => self.hopeless(now, why, env),
                None => {
                    self.tell_tried(now, ports, env.out);
                    self.round_failed(now, why, env);
                }
            }
        } else if round.at.is_none() && round.mine().is_some_and(<[_]>::is_empty) {
            let why = "no probe of ours was answered: the server's TCP ports cannot be reached";
            self.round_failed(now, why.into(), env);
        } else if round.at.is_none() && round.theirs().is_some_and(<[_]>::is_empty) {
            self.round_failed(now, "no probe of the other side was answered".into(), env);
        } else if round.at.is_none() && round.age(now) >= PREPARE {
            let why = if round.mine().is_none() {
                "the probes got no answer"
            } else {
                "the other side did not answer"
            };
            self.round_failed(now, why.into(), env);
        } else if round.at.is_none() && round.mine().is_some() && round.theirs().is_some() {
            self.start(now, env);
        }
    }

    /// The responder's round is over: what it tried, and why nothing came of it. The next one is the
    /// initiator's to begin.
    pub(super) fn round_over(&mut self, now: Instant, env: &mut Env) {
        if let Some(round) = self.round.as_ref().filter(|round| round.at.is_some() && self.link.is_none()) {
            let (id, why, ports) = (round.id, round.why_failed(now), round.ports);
            self.tell_tried(now, ports, env.out);
            let next = Duration::ZERO;
            env.out.push_back(Output::Event(Event::RoundFailed { peer: self.id, id, why, next }));
        }
        self.retire(now);
    }

    /// The round brought nothing: another one, or a pause.
    pub(super) fn round_failed(&mut self, now: Instant, why: String, env: &mut Env) {
        if self.link_goes_on(now) {
            return;
        }
        let next = self.next_round();
        let id = self.round.as_ref().map_or(next, |r| r.id);
        let began = self.attempt_began;
        self.retire(now);
        let again = now.saturating_duration_since(began) < Duration::from_secs(env.budget.seconds.into())
            && next.round < schedule::ROUNDS;
        let pause = if again { Duration::ZERO } else { self.back_off(now, env) };
        env.out.push_back(Output::Event(Event::RoundFailed { peer: self.id, id, why, next: pause }));
        if again {
            self.attempt(now, next, env);
        } else if pause.is_zero() {
            self.begin_attempt(now, env);
        }
    }

    fn back_off(&mut self, now: Instant, env: &mut Env) -> Duration {
        let pause = schedule::pause(self.failures, env.rng.random());
        self.failures = self.failures.saturating_add(1);
        self.retry = Some(now + pause);
        pause
    }

    /// Backs off where going on at once would only bring the same again.
    fn pause(&mut self, now: Instant, env: &mut Env) -> Duration {
        self.failures = self.failures.max(1);
        self.back_off(now, env)
    }

    pub(super) fn hopeless(&mut self, now: Instant, why: String, env: &mut Env) {
        if self.link_goes_on(now) {
            return;
        }
        self.retire(now);
        self.pause(now, env);
        env.out.push_back(Output::Event(Event::Hopeless { peer: self.id, why }));
    }

    /// When the initiator's line has been silent for too long while it is needed: a new introduction is
    /// wanted then.
    pub(super) fn silent_at(&self) -> Option<Instant> {
        let needed = self.initiator && self.link.is_none() && self.closing.is_none();
        // While there was a link nobody spoke on the line: its silence counts from the attempt on.
        let since = self.line.heard().max(self.attempt_began);
        needed.then(|| since.max(self.quiet_until.unwrap_or(since)) + SILENT)
    }

    /// When a new introduction is wanted, because what is said goes by way of the server although there once
    /// was a direct path: a link that is lost would take longer to replace, and could not be without the
    /// server.
    pub(super) fn roundabout_at(&self) -> Option<Instant> {
        let since = self.roundabout.filter(|_| self.initiator && self.closing.is_none())?;
        Some(since + ROUNDABOUT * (1 << self.introductions.min(MOST_DOUBLED)))
    }
}

/// In words.
pub(super) fn refusal(why: StartRefusal) -> &'static str {
    match why {
        StartRefusal::Digest => "the other side has other predictions than ours",
        StartRefusal::Late => "the agreed instant reached the other side too late",
        StartRefusal::Plan => "the other side plans by another version: update the older one",
        StartRefusal::Spent => "the other side may not use up more of its block of ports for now",
        StartRefusal::Busy => "the other side has no ports for another try just now",
    }
}
