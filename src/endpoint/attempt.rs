//! The attempts to reach the other peer: who starts a round, when, and what follows a failure.
//!
//! Only the initiator starts attempts. An attempt is a series of rounds, each with fresh ports and its
//! own plan; after [`schedule::ROUNDS`] of them, or [`ATTEMPT`], without a link it backs off and begins
//! again, for as long as the session lives.

use std::time::{Duration, Instant};

use rand::RngExt;

use super::{
    Event, Hint, Output,
    line::Line,
    peer::{Env, HOLD, Peer},
    reasons,
    round::Round,
};
use crate::{
    channel::Full,
    identity::Network,
    nat::{self, Prediction},
    punch::{Budget, Opening, PLAN_VERSION, Plan, Terms, schedule},
    wire::peer::{PeerMessage, RoundId, Start, StartRefusal},
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

/// The last opening of a plan that measures nothing any more leaves so long after the instant: a counter's
/// handful, which is spread over 300 ms.
const LATEST: Duration = Duration::from_millis(320);

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

/// An agreed instant, and what this side does at it.
pub(super) struct Agreed {
    pub(super) id: RoundId,
    pub(super) variant: u8,
    pub(super) at: Instant,
    pub(super) plan: Plan,
}

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
        self.prepared.retain(|at| *at + PREPARED_IN > now);
        if id > self.last && self.prepared.len() >= MAX_PREPARED {
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

    /// What a round towards the other side may spend: little where it was never heard directly, and the
    /// server's word for where it is has been taken too often. It is planned with that, so that what is
    /// opened are the likeliest ports.
    pub(super) fn budget(&self, now: Instant, env: &Env) -> Budget {
        if self.line.proved().is_empty() && !env.nat.may_believe(now) {
            env.budget.agreed(Budget::UNPROVED.openings)
        } else {
            env.budget
        }
    }

    /// Agrees on the instant.
    fn start(&mut self, now: Instant, env: &mut Env) {
        let budget = self.budget(now, env);
        // An alarm that has rung is not to ring again, whatever is still missing.
        self.crossing_until = None;
        let Some(round) = &mut self.round else { return };
        if round.waits(now, env.out) {
            return;
        }
        let Some((lead, (sample, after_us))) = self.line.instant(now) else { return };
        match round.is_strict(now, env.examined) {
            Ok(false) => {}
            Ok(true) => {
                if let Err(why) = round.give_up(now, reasons::both_strict()) {
                    self.hopeless(now, why, env);
                }
                return;
            }
            Err(until) => return self.crossing_until = Some(until),
        }
        let (Some(mine), Some(theirs)) = (round.mine(), round.theirs()) else { return };
        let digest = nat::digest(mine, theirs);
        let id = round.id;
        let first = self.worked.or_else(|| hint(env.hints, mine)).filter(|_| self.failures == 0);
        let variant = variant(first.unwrap_or(0), id.round);
        let (budget, window_ms) = round.agree(now, lead, budget);
        let window = Duration::from_millis(window_ms.into());
        let spent = env.nat.held(now);
        let plan = match round.plan(&Terms { initiator: true, round: variant, budget, window, spent }) {
            Ok(plan) => plan,
            Err(why) => {
                if let Err(why) = round.give_up(now, why) {
                    self.hopeless(now, why, env);
                }
                return;
            }
        };
        let (next, their_next) = round.bases();
        let budget = budget.openings;
        let start = Start {
            id,
            plan: PLAN_VERSION,
            variant,
            budget,
            window_ms,
            digest,
            after_us,
            sample,
            next,
            their_next,
        };
        self.open(now, Agreed { id, variant, at: now + lead, plan }, env);
        let _ = self.line.send(now, PeerMessage::Start(start));
    }

    /// The responder's part of giving up: it is not asked to start where there is no plan, and says so
    /// itself.
    pub(super) fn foresee(&mut self, now: Instant, env: &mut Env) {
        let budget = self.budget(now, env);
        let Some(round) = self.round.as_mut() else { return };
        if let Some(why) = round.foresee(budget) {
            env.out.push_back(Output::Event(Event::Hopeless { peer: self.id, why }));
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

    /// The responder's part of agreeing on the instant.
    pub(super) fn started(&mut self, now: Instant, start: Start, env: &mut Env) {
        let id = start.id;
        let answer = match self.try_start(now, start, env) {
            Ok(()) => PeerMessage::Started { id },
            Err(why) => PeerMessage::NotStarted { id, why },
        };
        let _ = self.line.send(now, answer);
    }

    fn try_start(&mut self, now: Instant, start: Start, env: &mut Env) -> Result<(), StartRefusal> {
        let Some(round) = self.round.as_mut().filter(|r| r.id == start.id && r.at.is_none()) else {
            return self.repeated(now, &start, env);
        };
        let at = Self::instant(&self.line, now, round, &start)?;
        round.rebase(&start);
        let window = Duration::from_millis(start.window_ms.into());
        let spent = env.nat.held(now);
        let plan = round
            .plan(&Terms {
                initiator: false,
                round: start.variant,
                budget: env.budget.agreed(start.budget),
                window,
                spent,
            })
            .map_err(|_| StartRefusal::Spent)?;
        self.open(now, Agreed { id: start.id, variant: start.variant, at, plan }, env);
        Ok(())
    }

    /// The instant that the initiator means, where both sides plan from the same input.
    pub(super) fn instant(
        line: &Line,
        now: Instant,
        round: &Round,
        start: &Start,
    ) -> Result<Instant, StartRefusal> {
        let (Some(mine), Some(theirs)) = (round.mine(), round.theirs()) else {
            return Err(StartRefusal::Digest);
        };
        if start.plan != PLAN_VERSION || start.variant >= schedule::ROUNDS {
            return Err(StartRefusal::Plan);
        }
        let named = |next: &[u16], side: &[Prediction]| next.is_empty() || next.len() == side.len();
        let named = named(&start.next, theirs) && named(&start.their_next, mine);
        if start.digest != nat::digest(theirs, mine) || !named {
            return Err(StartRefusal::Digest);
        }
        let at = line.resolve(start.sample, start.after_us).ok_or(StartRefusal::Late)?;
        if at + schedule::OPENING_WINDOW <= now || at > now + schedule::LONGEST_LEAD * 2 {
            return Err(StartRefusal::Late);
        }
        Ok(at)
    }

    /// The instant is agreed: the round of that number opens, or the kept one is repeated.
    pub(super) fn open(&mut self, now: Instant, agreed: Agreed, env: &mut Env) {
        let Agreed { id, variant, at, plan } = agreed;
        let kept = self.kept.as_mut().map(|kept| &mut kept.round);
        let Some(round) = self.round.as_mut().filter(|r| r.id == id).or(kept) else { return };
        round.variant = variant;
        let mut proved = self.line.proved().to_vec();
        let is_little = plan.openings.len() <= usize::from(Budget::UNPROVED.openings);
        let is_proved = |opening: &Opening| proved.contains(&opening.remote.ip());
        if !is_little && !plan.openings.iter().all(is_proved) && env.nat.believe(now) {
            proved.extend(plan.openings.iter().map(|opening| opening.remote.ip()));
        }
        let openings = round.open(at, plan, env.server, &proved, env.out);
        env.nat.made(now, openings);
        env.nat.turn_ends(self.id, at + LATEST);
        let lead = at.saturating_duration_since(now);
        env.out.push_back(Output::Event(Event::Opening { peer: self.id, id, variant, lead, openings }));
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

    fn hopeless(&mut self, now: Instant, why: String, env: &mut Env) {
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

/// The kind of each round of an attempt: what worked before, then the others in their order.
fn variant(first: u8, round: u8) -> u8 {
    match round {
        0 => first,
        round if round <= first => round - 1,
        round => round,
    }
}

/// What is remembered of this side's network.
fn hint(hints: &[Hint], mine: &[Prediction]) -> Option<u8> {
    let here = |hint: &&Hint| mine.iter().any(|mine| Network::of(mine.address) == hint.network);
    hints.iter().find(here).map(|hint| hint.variant).filter(|variant| *variant < schedule::ROUNDS)
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
