//! The ports that the last link came of, kept to be used again at once when it dies.
//!
//! Where both NATs keep their ports, the predictions of the last round still hold: START can be said in
//! the very moment in which a link is lost, before anything is bound or probed, and without the server.
//! That is the *repeated* round, an attempt of its own. The next attempt is prepared at the same time in the
//! usual way, and takes over where the repeated round brings nothing.
//!
//! Its instant differs from one side to the other: the responder opens when START is there, the initiator
//! as soon as its SYNs, which take START's way, cannot overtake it. By the time they arrive the responder's
//! own have left, and the responder's meet those of the initiator half a round trip later, as at a common
//! instant, which would be that much later.
//!
//! A repeated round leaves from other ports of the set than the last one did: NATs and kernels remember
//! dead connections for a while.

use std::time::{Duration, Instant};

use super::{
    Output, PortsId,
    peer::{Env, HOLD, Peer},
    round::Round,
    start::Agreed,
};
use crate::{
    nat,
    punch::{Budget, PLAN_VERSION, Terms},
    wire::peer::{PeerMessage, RoundId, Start, StartRefusal},
};

/// Without a link the responder keeps the ports for so long: a client that was killed must not cost its host
/// some dozen descriptors for as long as the session lingers.
const KEPT_FOR: Duration = Duration::from_secs(120);

/// The round that the link came of.
pub(super) struct Kept {
    pub(super) round: Round,
    /// When its connections that did not become the link are closed.
    losers: Option<Instant>,
    /// When the ports are given up; only without a link, and by the responder.
    until: Option<Instant>,
}

impl Peer {
    /// A link came of these ports: the round that they belong to is kept where it can be repeated, and
    /// any other one is over.
    pub(super) fn keep(&mut self, now: Instant, ports: PortsId) {
        let losers = Some(now + HOLD);
        if let Some(kept) = self.kept.as_mut().filter(|kept| kept.round.ports == ports) {
            (kept.losers, kept.until) = (losers, None);
            let worn = self.kept.take_if(|kept| kept.round.is_worn());
            self.retired.extend(worn.map(|kept| (kept.round.ports, now + HOLD)));
            return self.retire(now);
        }
        match self.round.take_if(|round| round.ports == ports && round.is_repeatable()) {
            Some(round) => {
                if let Some(old) = self.kept.replace(Kept { round, losers, until: None }) {
                    self.retired.push((old.round.ports, now + HOLD));
                }
            }
            None => {
                let over = self.round.take().map(|round| (round.ports, now + HOLD));
                self.retired.extend(over);
            }
        }
    }

    /// Closes what is left over from the choice of a link.
    pub(super) fn close_losers(&mut self, now: Instant, env: &mut Env) {
        let Some(kept) = &mut self.kept else { return };
        if kept.losers.take_if(|at| *at <= now).is_some() {
            for conn in self.candidates.released(kept.round.ports) {
                env.out.push_back(Output::Close { conn });
            }
        }
    }

    /// The link is lost: its ports are not kept for ever.
    pub(super) fn keep_a_while(&mut self, now: Instant) {
        if let Some(kept) = self.kept.as_mut().filter(|_| !self.initiator) {
            kept.until.get_or_insert(now + KEPT_FOR);
        }
    }

    /// Gives up what was kept for long enough.
    pub(super) fn keep_no_longer(&mut self, now: Instant) {
        let old = self.kept.take_if(|kept| kept.until.is_some_and(|until| until <= now));
        self.retired.extend(old.map(|kept| (kept.round.ports, now)));
    }

    /// When [`close_losers`](Self::close_losers) or [`keep_no_longer`](Self::keep_no_longer) has something
    /// to do.
    pub(super) fn kept_until(&self) -> Option<Instant> {
        self.kept.iter().flat_map(|kept| kept.losers.into_iter().chain(kept.until)).min()
    }

    /// The link is lost, or a pause is over: a new attempt, with the kept ports at once, and with fresh ones
    /// as soon as they are prepared.
    pub(super) fn begin_attempt(&mut self, now: Instant, env: &mut Env) {
        let mut id = self.next_attempt();
        self.repeat_due = self.kept.is_some();
        if self.repeat(now, id, env) {
            // Not the second round, which would be planned for NATs with which the first one failed.
            id = self.next_attempt();
        }
        self.attempt(now, id, env);
    }

    /// The line has just begun to answer again: what could not be repeated before is repeated now.
    pub(super) fn repeat_late(&mut self, now: Instant, env: &mut Env) {
        if self.repeat_due {
            self.repeat(now, self.next_round(), env);
        }
    }

    /// The initiator's part of a repeated round.
    fn repeat(&mut self, now: Instant, id: RoundId, env: &mut Env) -> bool {
        let Some((lead, (sample, after_us))) = self.line.instant(now) else { return false };
        let Some(Kept { round, .. }) = &mut self.kept else { return false };
        let (Some(mine), Some(theirs)) = (round.mine(), round.theirs()) else { return false };
        let digest = nat::digest(mine, theirs);
        round.turn(id);
        let variant = round.variant;
        let Ok(plan) = round.plan(&Self::again(true, env.budget)) else { return false };
        let budget = env.budget.openings;
        let start = Start {
            id,
            plan: PLAN_VERSION,
            variant,
            budget,
            window_ms: 0,
            digest,
            after_us,
            sample,
            next: Vec::new(),
            their_next: Vec::new(),
        };
        if self.line.send(now, PeerMessage::Start(start)).is_err() {
            return false;
        }
        if id.attempt > self.last.attempt {
            self.attempt_began = now;
        }
        (self.last, self.repeat_due) = (id, false);
        let on_the_way = self.line.rtt(now).unwrap_or_default() / 2;
        self.open(now, Agreed { id, variant, at: now + lead.saturating_sub(on_the_way), plan }, env);
        true
    }

    /// The responder's part.
    pub(super) fn repeated(
        &mut self,
        now: Instant,
        start: &Start,
        env: &mut Env,
    ) -> Result<(), StartRefusal> {
        let Some(Kept { round, .. }) = self.kept.as_mut().filter(|_| start.id > self.last) else {
            return Err(StartRefusal::Late);
        };
        // Only whether it is in time: the initiator's SYNs are right behind.
        Self::instant(&self.line, now, round, start)?;
        round.turn(start.id);
        let plan = round
            .plan(&Self::again(false, env.budget.agreed(start.budget)))
            .map_err(|_| StartRefusal::Plan)?;
        self.last = start.id;
        self.open(now, Agreed { id: start.id, variant: start.variant, at: now, plan }, env);
        Ok(())
    }

    /// A repetition is planned as a first round: where both sides are fixed, time does not matter.
    fn again(initiator: bool, budget: Budget) -> Terms {
        Terms { initiator, round: 0, budget, window: Duration::ZERO, spent: 0 }
    }
}
