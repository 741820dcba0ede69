//! Agreeing on the instant: the initiator says START, the responder follows or refuses, and both open.

use std::{
    collections::BTreeSet,
    net::IpAddr,
    time::{Duration, Instant},
};

use super::{
    Event, Hint, Output,
    line::Line,
    openings::Effort,
    peer::{Env, Peer},
    proved::Proved,
    reasons,
    round::Round,
};
use crate::{
    identity::Network,
    nat::{self, Prediction},
    punch::{Budget, PLAN_VERSION, Plan, Terms, schedule},
    secure::PublicKey,
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
    /// What a round towards the other side may spend: little where it has proved no address and there is none
    /// that may be believed. It is planned with that, so that what is opened are the likeliest ports.
    pub(super) fn budget(&self, now: Instant, env: &Env) -> Budget {
        let believed = || {
            let observed = self.line.observed().is_none_or(|observed| !observed.is_empty());
            observed && env.nat.rations.efforts.is_left(now, &self.key)
        };
        if self.line.proved.addresses(now).next().is_some() || believed() {
            env.budget
        } else {
            env.budget.agreed(Budget::UNPROVED.openings)
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
        let observed = self.line.observed().unwrap_or_default();
        let effort = effort(now, &plan, round, (&self.line.proved, observed), (&self.key, env));
        let openings = round.open(at, plan, env.server, effort, env.out);
        env.nat.made(now, openings);
        env.nat.turn_ends(self.id, at + LATEST);
        let lead = at.saturating_duration_since(now);
        env.out.push_back(Output::Event(Event::Opening { peer: self.id, id, variant, lead, openings }));
    }
}

/// How much of a plan is carried out. Full effort goes to addresses that the peer has proved, and a few times
/// to one that its prediction and the server both name, where it cannot prove it before the punch. What goes
/// elsewhere is little, and not often.
fn effort(
    now: Instant,
    plan: &Plan,
    round: &Round,
    (proved, observed): (&Proved, &[IpAddr]),
    (key, env): (&PublicKey, &mut Env),
) -> Effort {
    let mut full: Vec<IpAddr> = proved.addresses(now).collect();
    let mut others = 0;
    let targets: BTreeSet<IpAddr> = plan.openings.iter().map(|opening| opening.remote.ip()).collect();
    for target in targets.into_iter().filter(|target| !proved.addresses(now).any(|known| known == *target)) {
        let wanted = plan.openings.iter().filter(|opening| opening.remote.ip() == target).count();
        let is_little = wanted <= usize::from(Budget::UNPROVED.openings);
        let is_plausible = observed.contains(&target) && !round.has_hole(target.is_ipv4());
        if !is_little && is_plausible && env.nat.rations.efforts.take(now, key, target) {
            full.push(target);
        } else if others == 0 && env.nat.rations.rounds.take(now, key, target) {
            others = Budget::UNPROVED.openings;
        }
    }
    Effort { full, others }
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
