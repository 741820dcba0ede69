//! Agreeing on the instant: the initiator says START, the responder follows or refuses, and both open.

use std::time::{Duration, Instant};

use super::{
    Event, Hint, Output,
    line::Line,
    peer::{Env, Peer},
    reasons,
    round::Round,
};
use crate::{
    identity::Network,
    nat::{self, Prediction},
    punch::{Budget, Opening, PLAN_VERSION, Plan, Terms, schedule},
    wire::peer::{PeerMessage, RoundId, Start, StartRefusal},
};

/// The last opening of a plan that measures nothing any more leaves so long after the instant: a counter's
/// handful, which is spread over 300 ms.
const LATEST: Duration = Duration::from_millis(320);

/// An agreed instant, and what this side does at it.
pub(super) struct Agreed {
    pub(super) id: RoundId,
    pub(super) variant: u8,
    pub(super) at: Instant,
    pub(super) plan: Plan,
}

impl Peer {
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
    pub(super) fn start(&mut self, now: Instant, env: &mut Env) {
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
