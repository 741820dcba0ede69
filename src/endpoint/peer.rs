//! One other peer: the line to it, the attempts to reach it, the link that came of them.
//!
//! What this room decides: when the session begins and ends. What to do with each message is [`super::heard`]'s,
//! how an attempt goes [`super::attempt`]'s, which connection is the link [`super::connections`]'.

use std::{
    net::{IpAddr, SocketAddr},
    time::{Duration, Instant},
};

use rand::{Rng, RngExt};

use super::{
    Event, Hint, Outbox, Output, PeerId, PortsId,
    attempt::{ATTEMPT, PREPARE},
    brief::Brief,
    candidates::Candidates,
    examination::Examinations,
    host::PROOF,
    kept::Kept,
    line::Line,
    nat_use::NatUse,
    round::Round,
    survey::Means,
};
use crate::{
    punch::Budget,
    secure::{EpochKeys, Generator, PublicKey, StaticKey},
    wire::{
        peer::{Goodbye, PeerMessage, RoundId, StartRefusal},
        probe::ProbeAnswer,
    },
};

/// Ports of a round are kept this long after its link was chosen: a close in between would reset what
/// the other side still waits for.
pub(super) const HOLD: Duration = Duration::from_secs(4);

/// A goodbye is repeated for at most this long.
pub(super) const CLOSING: Duration = Duration::from_secs(1);

/// What a peer needs of the endpoint that holds it.
pub(super) struct Env<'a> {
    pub(super) key: &'a StaticKey,
    pub(super) rng: &'a mut Generator,
    pub(super) next_ports: &'a mut u64,
    pub(super) probe_servers: &'a [SocketAddr],
    /// Address of the rendezvous server: targets may be as local as it is.
    pub(super) server: IpAddr,
    /// What a round may spend.
    pub(super) budget: Budget,
    /// What worked from which network.
    pub(super) hints: &'a [Hint],
    pub(super) nat: &'a mut NatUse,
    pub(super) examined: &'a mut Examinations,
    pub(super) out: &'a mut Outbox,
}

impl Env<'_> {
    pub(super) fn seed(&mut self) -> [u8; 32] {
        let mut seed = [0; 32];
        self.rng.fill_bytes(&mut seed);
        seed
    }

    pub(super) fn round(&mut self, now: Instant, id: RoundId) -> Round {
        *self.next_ports += 1;
        Round::begin(now, id, PortsId(*self.next_ports), self.out)
    }
}

/// The other peer.
pub(super) struct Peer {
    pub(super) id: PeerId,
    pub(super) key: PublicKey,
    pub(super) session: [u8; 16],
    pub(super) initiator: bool,
    pub(super) line: Line,
    /// A newer line that the other side has not proved yet (responder only).
    pub(super) fresh: Option<Line>,
    unannounced: Option<(EpochKeys, Option<u64>)>,
    /// It was announced just now.
    pub(super) is_new: bool,
    pub(super) round: Option<Round>,
    /// What the link came of.
    pub(super) kept: Option<Kept>,
    /// It is to be repeated as soon as the line answers.
    pub(super) repeat_due: bool,
    pub(super) retired: Vec<(PortsId, Instant)>,
    pub(super) candidates: Candidates,
    pub(super) epoch: u32,
    pub(super) link: Option<u32>,
    /// The newest link that there ever was.
    pub(super) newest: u32,
    pub(super) links: u32,
    pub(super) brief: Brief,
    /// The other end of the newest one, where it was punched.
    pub(super) linked_to: Option<IpAddr>,
    /// The direct path that was told of last.
    hole: Option<SocketAddr>,
    /// Both sides wait for what comes of their openings, and have nothing to say until then.
    pub(super) quiet_until: Option<Instant>,
    /// The kind of round that worked last in this session, from this place.
    pub(super) worked: Option<u8>,
    /// Since when there is none, although there was one.
    pub(super) roundabout: Option<Instant>,
    /// New lines since there was one.
    pub(super) introductions: u32,
    /// An attempt goes on for a link that still lives (initiator only).
    pub(super) mending: bool,
    /// When the last one was begun, or asked for.
    pub(super) mended: Option<Instant>,
    /// The round that was begun last.
    pub(super) last: RoundId,
    /// When the latest rounds were prepared (responder only).
    pub(super) prepared: Vec<Instant>,
    /// A round that waits for its turn, and until when at the longest.
    pub(super) deferred: Option<(RoundId, Instant)>,
    pub(super) attempt_began: Instant,
    pub(super) failures: u32,
    pub(super) retry: Option<Instant>,
    /// A round waits for a crossing until then at the longest.
    pub(super) crossing_until: Option<Instant>,
    pub(super) closing: Option<Instant>,
    gone: bool,
}

impl Peer {
    /// A new session over a new line. `invite` is the public part of the one that let the client in.
    pub(super) fn new(
        now: Instant,
        (id, key, session, initiator): (PeerId, PublicKey, [u8; 16], bool),
        line: Line,
        epoch_keys: EpochKeys,
        invite: Option<u64>,
    ) -> Self {
        Peer {
            id,
            key,
            session,
            initiator,
            line,
            fresh: None,
            unannounced: Some((epoch_keys, invite)),
            is_new: false,
            round: None,
            kept: None,
            repeat_due: false,
            retired: Vec::new(),
            candidates: Candidates::default(),
            epoch: 0,
            link: None,
            newest: 0,
            links: 0,
            brief: Brief::default(),
            linked_to: None,
            hole: None,
            quiet_until: None,
            worked: None,
            roundabout: None,
            introductions: 0,
            mending: false,
            mended: None,
            last: RoundId { attempt: 0, round: 0 },
            prepared: Vec::new(),
            deferred: None,
            attempt_began: now,
            failures: 0,
            retry: None,
            crossing_until: None,
            closing: None,
            gone: false,
        }
    }

    /// The other side has proved its key (and invite): the session begins.
    pub(super) fn announce(&mut self, out: &mut Outbox) {
        if let Some((keys, invite)) = self.unannounced.take() {
            self.is_new = true;
            let (peer, key, initiator) = (self.id, self.key, self.initiator);
            out.push_back(Output::Session { peer, key, invite, keys, initiator });
        }
    }

    /// The invite that it named, as long as it has not proved it.
    pub(super) fn invite(&self) -> Option<u64> {
        self.unannounced.as_ref().and_then(|(_, invite)| *invite)
    }

    /// The session has begun.
    pub(super) fn is_announced(&self) -> bool {
        self.unannounced.is_none()
    }

    /// A new handshake made a new line, proved by both sides. What was under way on the old one is lost,
    /// or begins again; only a dead link must not be forgotten.
    pub(super) fn replace_line(&mut self, now: Instant, line: Line) {
        let before = std::mem::replace(&mut self.line, line);
        self.line.proved.inherit(before.proved);
        self.fresh = None;
        self.roundabout = None;
        self.introductions = self.introductions.saturating_add(1);
        if self.link.is_none() && self.newest > 0 {
            let _ = self.line.send(now, PeerMessage::LinkDead { epoch: self.newest });
        }
    }

    /// A datagram came on the line: tells of a direct path that was not known before.
    pub(super) fn tell_hole(&mut self, out: &mut Outbox) {
        let confirmed = self.line.take_confirmed();
        if confirmed.is_some() {
            self.introductions = 0;
        }
        if let Some((remote, rtt)) = confirmed.filter(|(remote, _)| self.hole != Some(*remote)) {
            self.hole = Some(remote);
            out.push_back(Output::Event(Event::HoleOpen { peer: self.id, remote, rtt }));
        }
    }

    /// Everything that follows from the time and from what is known.
    pub(super) fn advance(&mut self, now: Instant, env: &mut Env) {
        if self.closing.is_some_and(|until| until <= now || self.line.is_idle()) {
            self.leave(env.out);
        }
        if self.closing.is_some() || self.gone {
            return;
        }
        let budget = self.budget(now, env);
        let lost = self.hole.is_some() && self.line.direct().is_none();
        self.roundabout = lost.then(|| self.roundabout.unwrap_or(now));
        if let Some(round) = &mut self.round {
            round.conclude(now, env.out);
            round.complete(env.examined);
        }
        if let Some(round) = self.round.as_mut().filter(|round| !Self::is_early(round))
            && let Some(message) = round.advance(now, self.id, budget, env.out)
        {
            if let PeerMessage::Predicted { predictions, .. } = &message {
                env.examined.measured(now, predictions, env.out);
                env.nat.measured(predictions);
                env.nat.answered(round.servers(), true);
                env.nat.made(now, round.connections());
            }
            // The initiator's own bases travel in START.
            if !(self.initiator && matches!(message, PeerMessage::Refreshed { .. })) {
                let _ = self.line.send(now, message);
            }
        }
        self.try_lan(now, env);
        if let Some(round) = &mut self.round {
            // Whatever comes of it is told.
            round.waits(now, env.out);
        }
        if self.leads() {
            self.lead(now, env);
        } else if self.round.as_ref().is_some_and(|r| Self::overdue(r, now)) {
            self.round_over(now, env);
        }
        if !self.initiator {
            self.foresee(now, env);
        }
        if let Some((id, _)) = self.deferred {
            self.begin_in_turn(now, id, env);
        }
        self.close_losers(now, env);
        self.keep_no_longer(now);
        // Last, because what was retired just now may have nothing to wait for.
        for (ports, _) in self.retired.extract_if(.., |(_, until)| *until <= now) {
            self.candidates.released(ports);
            env.out.push_back(Output::Release { ports });
        }
    }

    /// This side is elsewhere in the network: what was under way there is over, and what had failed for
    /// want of a network may succeed.
    pub(super) fn network_changed(&mut self, now: Instant, env: &mut Env) {
        self.line.handle_network_change(now);
        self.worked = None;
        self.introductions = 0;
        if self.newest == 0 || self.closing.is_some() {
            return;
        }
        if !self.initiator {
            self.begin_early(now, env);
        }
        match self.link {
            Some(_) => self.mend(now, env),
            None => {
                self.brief = Brief::default();
                self.unlinked(now, env);
            }
        }
    }

    /// Both sides share a public address, so it may be that they share a LAN.
    fn try_lan(&mut self, now: Instant, env: &mut Env) {
        let observed = self.line.observed().unwrap_or_default();
        if let Some(round) = &mut self.round
            && let Some(shared) = round.shared(observed)
            && env.nat.rations.lans.take(now, &self.key, shared)
        {
            round.try_lan(now, env.server, env.out);
        }
    }

    /// This side ends the session; the other one is told for as long as it takes, within limits.
    pub(super) fn end(&mut self, now: Instant, why: Goodbye, out: &mut Outbox) {
        if self.closing.is_none() {
            let _ = self.line.send(now, PeerMessage::Goodbye { why });
            self.closing = Some(now + CLOSING);
            self.release(out);
        }
    }

    /// Gives up everything that was to become a link.
    fn release(&mut self, out: &mut Outbox) {
        let kept = self.kept.take().map(|kept| kept.round);
        let rounds = self.round.take().into_iter().chain(kept).map(|round| round.ports);
        for ports in self.retired.drain(..).map(|(ports, _)| ports).chain(rounds) {
            self.candidates.released(ports);
            out.push_back(Output::Release { ports });
        }
        self.retry = None;
        self.deferred = None;
    }

    fn leave(&mut self, out: &mut Outbox) {
        self.release(out);
        self.gone = true;
    }

    /// Releases everything at once: the peer was never proved.
    pub(super) fn abandon(&mut self, out: &mut Outbox) {
        self.leave(out);
    }

    /// Nothing is left of it.
    pub(super) fn is_gone(&self) -> bool {
        self.gone
    }

    /// Has this set of ports.
    pub(super) fn owns(&self, ports: PortsId) -> bool {
        self.rounds().any(|r| r.ports == ports) || self.retired.iter().any(|(p, _)| *p == ports)
    }

    /// The round that goes on, and the one that the link came of.
    pub(super) fn rounds(&self) -> impl Iterator<Item = &Round> {
        self.round.iter().chain(self.kept.iter().map(|kept| &kept.round))
    }

    pub(super) fn rounds_mut(&mut self) -> impl Iterator<Item = &mut Round> {
        self.round.iter_mut().chain(self.kept.iter_mut().map(|kept| &mut kept.round))
    }

    pub(super) fn bound(
        &mut self,
        now: Instant,
        ports: PortsId,
        bound: (Vec<u16>, Vec<u16>, Vec<std::net::IpAddr>),
        env: &mut Env,
    ) {
        let batch = env.rng.random();
        let (servers, pause, heard) = (env.probe_servers, env.nat.pause(), env.nat.heard());
        let means = Means { servers, heard, batch, pause };
        if let Some(round) = self.round.as_mut().filter(|r| r.ports == ports) {
            round.bound(now, bound, means, env.out);
        }
        self.advance(now, env);
    }

    pub(super) fn bind_failed(&mut self, now: Instant, ports: PortsId, why: String, env: &mut Env) {
        // A round that opens already has asked for more ports, and does with those that it has.
        let waiting = self.round.as_ref().filter(|r| r.ports == ports && r.at.is_none());
        let Some(id) = waiting.map(|r| r.id) else { return };
        if self.initiator {
            self.no_round(now, id, format!("no punch ports could be bound: {why}"), env);
        } else {
            self.retire(now);
            let _ = self.line.send(now, PeerMessage::NotStarted { id, why: StartRefusal::Busy });
        }
    }

    pub(super) fn probed(
        &mut self,
        now: Instant,
        (ports, number): (PortsId, u8),
        answer: Option<ProbeAnswer>,
        env: &mut Env,
    ) {
        if let Some(round) = self.round.as_mut().filter(|r| r.ports == ports) {
            round.probed(now, number, answer, env.out);
            env.nat.answered(round.servers(), false);
        }
        self.advance(now, env);
    }

    /// When to call [`advance`](Self::advance) again.
    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        // Whoever is leaving does nothing else any more; with everything said and acknowledged there is nothing left to
        // wait for.
        if let Some(until) = self.closing {
            let closing = if self.line.is_idle() { until - CLOSING } else { until };
            return self.line.poll_timeout().into_iter().chain([closing]).min();
        }
        let round = self.round.as_ref().and_then(|r| {
            let patience = if self.initiator { PREPARE } else { ATTEMPT };
            let prepare = r.at.is_none().then(|| r.begun() + patience);
            [r.deadline(), r.end(), prepare].into_iter().flatten().min()
        });
        let proof = self.fresh.iter().chain((!self.is_announced()).then_some(&self.line));
        let proof = proof.map(|line| line.since + PROOF).min();
        let retired = self.retired.iter().map(|(_, until)| *until).min();
        [
            round,
            self.deferred.map(|(_, until)| until),
            retired,
            self.kept_until(),
            self.retry,
            self.crossing_until,
            proof,
            self.line.poll_timeout(),
        ]
        .into_iter()
        .flatten()
        .min()
    }
}
