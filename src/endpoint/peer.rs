//! One other peer: the line to it, the attempts to reach it, the link that came of them.
//!
//! Only the initiator starts attempts. An attempt is a series of rounds, each with fresh ports and its
//! own plan; after [`ATTEMPT`] of them without a link it backs off and begins again, for as long as the
//! session lives.

use std::{
    net::{IpAddr, SocketAddr},
    time::{Duration, Instant},
};

use rand::{Rng, RngExt, rngs::StdRng};

use super::{
    ConnId, Event, OpenFailure, Outbox, Output, PeerId, PortsId,
    candidates::{Candidates, Nominated},
    host::PROOF,
    line::Line,
    round::Round,
};
use crate::{
    nat,
    punch::{Budget, PLAN_VERSION, Plan, schedule},
    secure::{EpochKeys, PublicKey, StaticKey},
    wire::{
        peer::{Goodbye, PeerMessage, RoundId, Start, StartRefusal},
        probe::ProbeAnswer,
    },
};

/// Longest time from the beginning of a round to its agreed instant: probes that wait for a repeated
/// SYN, and three messages that are repeated once.
const PREPARE: Duration = Duration::from_secs(8);

/// Longest attempt: published figures and our own say that most successes come in the first round, and
/// a person waits no longer.
const ATTEMPT: Duration = Duration::from_secs(20);

/// Ports of a round are kept this long after its link was chosen: a close in between would reset what
/// the other side still waits for.
const HOLD: Duration = Duration::from_secs(4);

/// After this much silence on the line an attempt asks for a new introduction.
const SILENT: Duration = Duration::from_secs(4);

/// A goodbye is repeated for at most this long.
const CLOSING: Duration = Duration::from_secs(1);

/// What a peer needs of the endpoint that holds it.
pub(super) struct Env<'a> {
    pub(super) key: &'a StaticKey,
    pub(super) rng: &'a mut StdRng,
    pub(super) next_ports: &'a mut u64,
    pub(super) probe_servers: &'a [SocketAddr],
    /// Address of the rendezvous server: targets may be as local as it is.
    pub(super) server: IpAddr,
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
    pub(super) round: Option<Round>,
    retired: Vec<(PortsId, Instant)>,
    candidates: Candidates,
    epoch: u32,
    link: Option<u32>,
    /// The newest link that there ever was.
    newest: u32,
    links: u32,
    attempt: u32,
    attempt_began: Instant,
    failures: u32,
    retry: Option<Instant>,
    closing: Option<Instant>,
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
            round: None,
            retired: Vec::new(),
            candidates: Candidates::default(),
            epoch: 0,
            link: None,
            newest: 0,
            links: 0,
            attempt: 0,
            attempt_began: now,
            failures: 0,
            retry: None,
            closing: None,
            gone: false,
        }
    }

    /// The other side has proved its key (and invite): the session begins.
    pub(super) fn announce(&mut self, out: &mut Outbox) {
        if let Some((keys, invite)) = self.unannounced.take() {
            let (peer, key, initiator) = (self.id, self.key, self.initiator);
            out.push_back(Output::Session { peer, key, invite, keys, initiator });
        }
    }

    /// The session has begun.
    pub(super) fn is_announced(&self) -> bool {
        self.unannounced.is_none()
    }

    /// The number of the next attempt, for a request to the host that is to prepare it at once.
    pub(super) fn next_attempt(&self) -> RoundId {
        RoundId { attempt: self.attempt + 1, round: 0 }
    }

    /// A new handshake made a new line, proved by both sides.
    pub(super) fn replace_line(&mut self, line: Line) {
        self.line = line;
        self.fresh = None;
    }

    /// Goes on with a round that was begun before the other side was known, or begins the attempt of
    /// that number.
    pub(super) fn begin(&mut self, now: Instant, id: RoundId, early: Option<Round>, env: &mut Env) {
        if id.attempt <= self.attempt && id != self.next_round() {
            return;
        }
        if id.attempt > self.attempt {
            self.attempt_began = now;
        }
        self.attempt = id.attempt;
        self.retry = None;
        self.retire(now);
        self.round = Some(early.unwrap_or_else(|| env.round(now, id)));
        self.advance(now, env);
    }

    fn next_round(&self) -> RoundId {
        let round = self.round.as_ref().map_or(0, |r| r.id.round.saturating_add(1));
        RoundId { attempt: self.attempt, round }
    }

    /// Puts the round's ports aside until nothing can come of them any more.
    fn retire(&mut self, now: Instant) {
        if let Some(round) = self.round.take() {
            let until = round.end().map_or(now, |end| end.min(now + HOLD));
            self.retired.push((round.ports, until));
        }
    }

    /// An own attempt begins, and the other side is asked to join in.
    fn attempt(&mut self, now: Instant, id: RoundId, env: &mut Env) {
        let _ = self.line.send(now, PeerMessage::Prepare { id });
        self.line.ping(now);
        self.begin(now, id, None, env);
    }

    /// Everything that follows from the time and from what is known.
    pub(super) fn advance(&mut self, now: Instant, env: &mut Env) {
        for (ports, _) in self.retired.extract_if(.., |(_, until)| *until <= now) {
            self.candidates.released(ports);
            env.out.push_back(Output::Release { ports });
        }
        if self.closing.is_some_and(|until| until <= now || self.line.is_idle()) {
            self.leave(env.out);
        }
        if self.closing.is_some() || self.gone {
            return;
        }
        if let Some(round) = &mut self.round
            && let Some(predicted) = round.advance(now, self.id, env.server, env.out)
        {
            let _ = self.line.send(now, predicted);
        }
        if self.initiator && self.link.is_none() {
            self.lead(now, env);
        } else if self.round.as_ref().is_some_and(|r| Self::overdue(r, now)) {
            self.retire(now);
        }
    }

    fn overdue(round: &Round, now: Instant) -> bool {
        round.end().map_or(round.age(now) >= ATTEMPT, |end| end <= now)
    }

    /// The initiator's part: starts rounds, and gives them up.
    fn lead(&mut self, now: Instant, env: &mut Env) {
        let Some(round) = &self.round else {
            if self.retry.is_some_and(|at| at <= now) {
                self.attempt(now, self.next_attempt(), env);
            }
            return;
        };
        if round.end().is_some_and(|end| end <= now) {
            self.round_failed(now, "no connection was completed".into(), env);
        } else if round.at.is_none() && round.age(now) >= PREPARE {
            let why = if round.mine.is_none() {
                "the probes got no answer"
            } else {
                "the other side did not answer"
            };
            self.round_failed(now, why.into(), env);
        } else if round.at.is_none() && round.mine.is_some() && round.theirs.is_some() {
            self.start(now, env);
        }
    }

    /// Agrees on the instant.
    fn start(&mut self, now: Instant, env: &mut Env) {
        let Some((lead, (sample, after_us))) = self.line.instant(now) else { return };
        let Some(round) = &mut self.round else { return };
        let (Some(mine), Some(theirs)) = (&round.mine, &round.theirs) else { return };
        let window = round.age(now) + lead;
        let plan = match round.plan(true, Budget::FULL, window) {
            Ok(plan) => plan,
            Err(why) => return self.hopeless(now, why, env),
        };
        let start = Start {
            id: round.id,
            plan: PLAN_VERSION,
            budget: Budget::FULL.openings,
            window_ms: u16::try_from(window.as_millis()).unwrap_or(u16::MAX),
            digest: nat::digest(mine, theirs),
            after_us,
            sample,
        };
        self.open(now, now + lead, plan, env);
        let _ = self.line.send(now, PeerMessage::Start(start));
    }

    /// The responder's part of agreeing on the instant.
    fn started(&mut self, now: Instant, start: Start, env: &mut Env) {
        let id = start.id;
        let answer = match self.try_start(now, start, env) {
            Ok(()) => PeerMessage::Started { id },
            Err(why) => PeerMessage::NotStarted { id, why },
        };
        let _ = self.line.send(now, answer);
    }

    fn try_start(&mut self, now: Instant, start: Start, env: &mut Env) -> Result<(), StartRefusal> {
        let round = self.round.as_mut().filter(|r| r.id == start.id && r.at.is_none());
        let round = round.ok_or(StartRefusal::Late)?;
        let (Some(mine), Some(theirs)) = (&round.mine, &round.theirs) else {
            return Err(StartRefusal::Digest);
        };
        if start.plan != PLAN_VERSION {
            return Err(StartRefusal::Plan);
        }
        if start.digest != nat::digest(theirs, mine) {
            return Err(StartRefusal::Digest);
        }
        let at = self.line.resolve(start.sample, start.after_us).ok_or(StartRefusal::Late)?;
        if at + schedule::OPENING_WINDOW <= now || at > now + schedule::LONGEST_LEAD * 2 {
            return Err(StartRefusal::Late);
        }
        let budget = Budget { openings: start.budget }.min(Budget::FULL);
        let window = Duration::from_millis(start.window_ms.into());
        let plan = round.plan(false, budget, window).map_err(|_| StartRefusal::Plan)?;
        self.open(now, at, plan, env);
        Ok(())
    }

    /// The instant is agreed.
    fn open(&mut self, now: Instant, at: Instant, plan: Plan, env: &mut Env) {
        let Some(round) = &mut self.round else { return };
        let proved = self.line.direct().map(|a| a.ip());
        let openings = round.open(at, plan, env.server, proved, env.out);
        let (id, lead) = (round.id, at.saturating_duration_since(now));
        env.out.push_back(Output::Event(Event::Opening { peer: self.id, id, lead, openings }));
    }

    /// The round brought nothing: another one, or a pause.
    fn round_failed(&mut self, now: Instant, why: String, env: &mut Env) {
        let next = self.next_round();
        let id = self.round.as_ref().map_or(next, |r| r.id);
        let began = self.attempt_began;
        self.retire(now);
        let again = now.saturating_duration_since(began) < ATTEMPT && next.round != 0;
        let pause = if again { Duration::ZERO } else { self.back_off(now, env) };
        env.out.push_back(Output::Event(Event::RoundFailed { peer: self.id, id, why, next: pause }));
        if again {
            self.attempt(now, next, env);
        }
    }

    fn back_off(&mut self, now: Instant, env: &mut Env) -> Duration {
        let pause = schedule::pause(self.failures, env.rng.random());
        self.failures = self.failures.saturating_add(1);
        self.retry = Some(now + pause);
        pause
    }

    fn hopeless(&mut self, now: Instant, why: String, env: &mut Env) {
        self.retire(now);
        self.back_off(now, env);
        env.out.push_back(Output::Event(Event::Hopeless { peer: self.id, why }));
    }

    /// What the other side says.
    pub(super) fn handle(&mut self, now: Instant, message: PeerMessage, env: &mut Env) {
        match message {
            PeerMessage::Ping { .. } | PeerMessage::Pong { .. } | PeerMessage::Started { .. } => {}
            PeerMessage::Prepare { id } if !self.initiator => self.begin(now, id, None, env),
            PeerMessage::Predicted { id, predictions, lan } => {
                let valid = predictions.iter().all(nat::Prediction::is_sound);
                if let Some(round) = self.round.as_mut().filter(|r| r.id == id && valid) {
                    round.predicted(predictions, lan);
                }
            }
            PeerMessage::Start(start) if !self.initiator => self.started(now, start, env),
            PeerMessage::NotStarted { id, why } if self.initiator => {
                if self.round.as_ref().is_some_and(|r| r.id == id) && self.link.is_none() {
                    self.round_failed(now, refusal(why).into(), env);
                }
            }
            PeerMessage::LinkDead { epoch } => {
                if self.link == Some(epoch) {
                    env.out.push_back(Output::KillLink { peer: self.id, epoch });
                    self.unlinked(now, env);
                }
            }
            PeerMessage::Goodbye { why } => {
                env.out.push_back(Output::SessionEnded { peer: self.id, why });
                self.leave(env.out);
            }
            PeerMessage::Prepare { .. } | PeerMessage::Start(_) | PeerMessage::NotStarted { .. } => {}
        }
        self.advance(now, env);
    }

    /// This side's link is gone: the other side must know, and the initiator begins again at once.
    pub(super) fn link_lost(&mut self, now: Instant, epoch: u32, env: &mut Env) {
        if self.link == Some(epoch) {
            let _ = self.line.send(now, PeerMessage::LinkDead { epoch });
            self.unlinked(now, env);
        }
    }

    fn unlinked(&mut self, now: Instant, env: &mut Env) {
        self.link = None;
        self.failures = 0;
        if self.initiator {
            self.attempt(now, self.next_attempt(), env);
        }
    }

    /// This side ends the session; the other one is told for as long as it takes, within limits.
    pub(super) fn end(&mut self, now: Instant, why: Goodbye) {
        if self.closing.is_none() {
            let _ = self.line.send(now, PeerMessage::Goodbye { why });
            self.closing = Some(now + CLOSING);
        }
    }

    fn leave(&mut self, out: &mut Outbox) {
        let ports = self.retired.drain(..).map(|(ports, _)| ports);
        for ports in ports.chain(self.round.take().map(|r| r.ports)) {
            out.push_back(Output::Release { ports });
        }
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
        self.round.as_ref().is_some_and(|r| r.ports == ports) || self.retired.iter().any(|(p, _)| *p == ports)
    }

    /// Has this connection.
    pub(super) fn holds(&self, conn: ConnId) -> bool {
        self.candidates.holds(conn)
    }

    /// When the initiator's line has been silent for too long while it is needed: a new introduction is
    /// wanted then.
    pub(super) fn silent_at(&self) -> Option<Instant> {
        let needed = self.initiator && self.link.is_none() && self.closing.is_none();
        // While there was a link nobody spoke on the line: its silence counts from the attempt on.
        needed.then(|| self.line.heard().max(self.attempt_began) + SILENT)
    }

    /// A new line is there: an attempt that got nowhere on the old one begins again.
    pub(super) fn begin_again(&mut self, now: Instant, env: &mut Env) {
        if self.link.is_none() && self.round.as_ref().is_none_or(|r| r.at.is_none()) {
            self.attempt(now, self.next_attempt(), env);
        }
    }

    pub(super) fn bound(
        &mut self,
        now: Instant,
        ports: PortsId,
        bound: (Vec<u16>, Vec<u16>, Vec<std::net::IpAddr>),
        env: &mut Env,
    ) {
        let batch = env.rng.random();
        if let Some(round) = self.round.as_mut().filter(|r| r.ports == ports) {
            round.bound(now, bound, env.probe_servers, batch, env.out);
        }
        self.advance(now, env);
    }

    pub(super) fn bind_failed(&mut self, now: Instant, ports: PortsId, why: String, env: &mut Env) {
        if self.round.as_ref().is_some_and(|r| r.ports == ports) {
            self.retire(now);
            if self.initiator {
                let next = self.back_off(now, env);
                let id = RoundId { attempt: self.attempt, round: 0 };
                let why = format!("no punch ports could be bound: {why}");
                env.out.push_back(Output::Event(Event::RoundFailed { peer: self.id, id, why, next }));
            }
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
            round.probed(now, number, answer);
        }
        self.advance(now, env);
    }

    pub(super) fn connect_failed(
        &mut self,
        now: Instant,
        (ports, opening): (PortsId, u32),
        why: &OpenFailure,
        env: &mut Env,
    ) {
        if let Some(round) = self.round.as_mut().filter(|r| r.ports == ports) {
            round.connect_failed(now, opening, why, env.out);
        }
    }

    /// A connection is complete: the link handshake begins on it.
    pub(super) fn completed(
        &mut self,
        now: Instant,
        (ports, conn): (PortsId, ConnId),
        from: Completed,
        env: &mut Env,
    ) {
        let (remote, lan) = match from {
            Completed::Accepted(remote) => (remote, false),
            Completed::Opening(opening) => {
                let round = self.round.as_ref().filter(|r| r.ports == ports);
                match round.and_then(|r| r.opening(opening)) {
                    Some(known) => known,
                    None => return env.out.push_back(Output::Close { conn }),
                }
            }
        };
        let since = self.round.as_ref().filter(|r| r.ports == ports);
        let since = since.map_or(now, |r| r.at.filter(|at| *at <= now).unwrap_or(now));
        let epoch = self.initiator.then(|| {
            self.epoch += 1;
            self.epoch
        });
        let seed = env.seed();
        let parties = (env.key, &self.key, &self.session, &self.line.link_psk);
        self.candidates.begin(conn, (ports, remote, lan, since), seed, parties, epoch, env.out);
    }

    pub(super) fn received(&mut self, now: Instant, conn: ConnId, bytes: &[u8], env: &mut Env) {
        let may_nominate = !self.initiator || self.link.is_none();
        if let Some(nominated) = self.candidates.received(conn, bytes, may_nominate, env.out) {
            self.nominated(now, conn, nominated, env);
        }
    }

    pub(super) fn conn_closed(&mut self, conn: ConnId) {
        self.candidates.closed(conn);
    }

    fn nominated(&mut self, now: Instant, conn: ConnId, nominated: Nominated, env: &mut Env) {
        let Nominated { link, surplus, remote, lan, since } = nominated;
        // A connection of an earlier round may finish its handshake after the link that was chosen then
        // is lost: the session has no use for it.
        if link.epoch <= self.newest {
            return env.out.push_back(Output::Close { conn });
        }
        (self.link, self.newest) = (Some(link.epoch), link.epoch);
        self.links += 1;
        self.failures = 0;
        self.retry = None;
        let took = now.saturating_duration_since(since);
        let (peer, rtt, links) = (self.id, self.line.rtt(now), self.links);
        env.out.push_back(Output::Link { peer, conn, link, surplus });
        env.out.push_back(Output::Event(Event::Connected { peer, remote, lan, took, rtt, links }));
        if let Some(round) = self.round.take() {
            self.retired.push((round.ports, now + HOLD));
        }
    }

    /// When to call [`advance`](Self::advance) again.
    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        let round = self.round.as_ref().and_then(|r| {
            let patience = if self.initiator { PREPARE } else { ATTEMPT };
            let prepare = r.at.is_none().then(|| r.begun() + patience);
            [r.deadline(), r.end(), prepare].into_iter().flatten().min()
        });
        let proof = self.fresh.iter().chain((!self.is_announced()).then_some(&self.line));
        let proof = proof.map(|line| line.since + PROOF).min();
        let retired = self.retired.iter().map(|(_, until)| *until).min();
        [round, retired, self.retry, self.closing, proof, self.line.poll_timeout()]
            .into_iter()
            .flatten()
            .min()
    }
}

/// How a connection came about.
pub(super) enum Completed {
    /// A listener accepted it from there.
    Accepted(SocketAddr),
    /// It is the opening of that number.
    Opening(u32),
}

fn refusal(why: StartRefusal) -> &'static str {
    match why {
        StartRefusal::Digest => "the other side has other predictions than ours",
        StartRefusal::Late => "the agreed instant reached the other side too late",
        StartRefusal::Plan => "the other side plans by another version: update the older one",
        StartRefusal::Busy => "the other side's NAT is busy with another client",
    }
}
