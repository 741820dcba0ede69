//! What the other peer says, message by message.

use std::time::{Duration, Instant};

use super::{
    Event, Output,
    attempt::refusal,
    peer::{CLOSING, Env, Peer},
    round::Round,
};
use crate::wire::peer::PeerMessage;

impl Peer {
    /// What the other side says, all of one datagram.
    pub(super) fn handle_all(&mut self, now: Instant, messages: Vec<PeerMessage>, env: &mut Env) {
        // After a long silence all that was said in it comes at once. Only the last round is still meant.
        let is_prepare = |message: &PeerMessage| matches!(message, PeerMessage::Prepare { .. });
        let last = messages.iter().rposition(is_prepare);
        for (at, message) in messages.into_iter().enumerate() {
            if !is_prepare(&message) || Some(at) == last {
                self.handle(now, message, env);
            }
        }
    }

    fn handle(&mut self, now: Instant, message: PeerMessage, env: &mut Env) {
        if self.is_gone() || (self.closing.is_some() && !matches!(message, PeerMessage::Goodbye { .. })) {
            return;
        }
        match message {
            PeerMessage::Ping { .. } | PeerMessage::Pong { .. } => {}
            PeerMessage::Started { id } => {
                let round = self.round.as_ref().filter(|round| round.id == id);
                self.quiet_until = round.and_then(Round::end).or(self.quiet_until);
            }
            PeerMessage::Prepare { id } if !self.initiator => self.prepare(now, id, env),
            PeerMessage::Predicted { id, predictions, lan, age_ms, budget } => {
                let age = self.line.rtt(now).unwrap_or_default() / 2 + Duration::from_millis(age_ms.into());
                // No measurement is older than the process; a peer may say anything.
                let probe = now.checked_sub(age).unwrap_or(now);
                if let Some(round) = self.round.as_mut().filter(|r| r.id == id) {
                    let is_news = round.theirs.is_none();
                    round.predicted(probe, predictions, lan, budget);
                    if let Some(predictions) = round.theirs.clone().filter(|_| is_news) {
                        let told = Event::PeerNatFound { peer: self.id, predictions };
                        env.out.push_back(Output::Event(told));
                    }
                }
            }
            PeerMessage::Refreshed { id, next } if self.initiator => {
                if let Some(round) = self.round.as_mut().filter(|r| r.id == id && r.at.is_none()) {
                    round.refreshed(next);
                }
            }
            PeerMessage::Start(start) if !self.initiator => self.started(now, start, env),
            PeerMessage::NotStarted { id, why } if self.initiator => {
                if self.round.as_ref().is_some_and(|r| r.id == id) && self.leads() {
                    self.round_failed(now, refusal(why).into(), env);
                }
            }
            PeerMessage::LinkDead { epoch } => {
                // The initiator numbers links, and may have lost one before its nomination arrived here.
                if !self.initiator {
                    self.newest = self.newest.max(epoch);
                }
                if let Some(epoch) = self.link.filter(|link| *link <= epoch) {
                    env.out.push_back(Output::KillLink { peer: self.id, epoch });
                    self.unlinked(now, env);
                }
            }
            PeerMessage::LinkSick { epoch } if self.initiator => self.link_sick(now, epoch, env),
            PeerMessage::Goodbye { why } => {
                env.out.push_back(Output::SessionEnded { peer: self.id, why });
                // Not gone yet: the other side waits for the acknowledgement.
                self.closing.get_or_insert(now + CLOSING);
            }
            PeerMessage::Prepare { .. }
            | PeerMessage::Refreshed { .. }
            | PeerMessage::Start(_)
            | PeerMessage::NotStarted { .. }
            | PeerMessage::LinkSick { .. } => {}
        }
        self.advance(now, env);
    }
}
