//! One round: punch ports, probes, predictions, the agreed instant, the openings.
//!
//! ```text
//!   begin ──Bound──▶ probing ──answers──▶ predicted ──both sides'──▶ (START) ──▶ opening ──4 s──▶ over
//! ```
//!
//! A round knows nothing of the other peer but its predictions. Who says START, and when, is decided
//! in [`super::peer`]; what becomes of the openings, in [`super::openings`].

mod plans;

use std::{
    net::{IpAddr, SocketAddr},
    time::{Duration, Instant},
};

use super::{
    Event, OpenFailure, Outbox, Output, PeerId, PortsId, bases,
    examination::Examinations,
    openings::{Effort, Openings},
    reasons,
    survey::{Means, Survey},
};
use crate::{
    nat::{Filtering, Mapping, Model, Prediction, SimultaneousOpen},
    punch::{Budget, FIRST_PORTS, Opening, Plan, Terms, budget, schedule::ROUND},
    wire::{
        peer::{MAX_LAN, PeerMessage, RoundId, Start},
        probe::ProbeAnswer,
    },
};

/// Without a plan for the pair, connections inside a LAN are waited for so long: a SYN that was lost is
/// repeated after 1 s.
const LAN_WAIT: Duration = Duration::from_secs(2);

/// Punch ports that a repetition uses: the pairs of a first round.
const PORTS_A_REPETITION: usize = 2;

/// Repetitions of a round: until all its ports were used once. Then the next link's ports are fresh ones.
const MOST_REPETITIONS: u16 = FIRST_PORTS / PORTS_A_REPETITION as u16 - 1;

/// A round, from binding to the end of its last opening.
pub(super) struct Round {
    pub(super) id: RoundId,
    pub(super) ports: PortsId,
    /// Its kind, once it is agreed.
    pub(super) variant: u8,
    begun: Instant,
    has_v4: bool,
    has_v6: bool,
    /// Once the ports are bound.
    survey: Option<Survey>,
    lan: Vec<SocketAddr>,
    /// The other side's predictions, as they were sent.
    pub(super) theirs: Option<Vec<Prediction>>,
    /// When its last probe left, by this side's clock.
    their_probe: Instant,
    their_budget: u16,
    /// Bases of both sides' counters, as they were refreshed; empty if they were not.
    my_next: Vec<u16>,
    their_next: Vec<u16>,
    their_lan: Vec<SocketAddr>,
    lan_tried: bool,
    /// How far the lists of ports are turned, where the round is repeated: see [`turn`](Self::turn).
    turned: Option<usize>,
    repetitions: u16,
    told: bool,
    foreseen: bool,
    /// There is no plan for the pair: why, in words. The LAN is tried all the same.
    hopeless: Option<String>,
    /// The agreed instant.
    pub(super) at: Option<Instant>,
    pub(super) openings: Openings,
}

impl Round {
    /// Begins: asks for punch ports.
    pub(super) fn begin(now: Instant, id: RoundId, ports: PortsId, out: &mut Outbox) -> Self {
        out.push_back(Output::Bind { ports, count: FIRST_PORTS });
        Round {
            id,
            ports,
            variant: 0,
            begun: now,
            has_v4: false,
            has_v6: false,
            survey: None,
            lan: Vec::new(),
            theirs: None,
            their_probe: now,
            their_budget: 0,
            my_next: Vec::new(),
            their_next: Vec::new(),
            their_lan: Vec::new(),
            lan_tried: false,
            turned: None,
            repetitions: 0,
            told: false,
            foreseen: false,
            hopeless: None,
            at: None,
            openings: Openings::new(ports),
        }
    }

    /// When it began.
    pub(super) fn begun(&self) -> Instant {
        self.begun
    }

    /// How old the round is: a prediction ages.
    pub(super) fn age(&self, now: Instant) -> Duration {
        now.saturating_duration_since(self.begun)
    }

    /// The ports are bound: probes from some of them, and listens on the one that the LAN is told of. Where
    /// more of them were bound later on, there is nothing to do.
    pub(super) fn bound(
        &mut self,
        now: Instant,
        (v4, v6, lan): (Vec<u16>, Vec<u16>, Vec<IpAddr>),
        means: Means,
        out: &mut Outbox,
    ) {
        self.openings.bound(&v4, &v6);
        if self.survey.is_some() {
            return;
        }
        self.openings.listen(0, out);
        self.lan = lan
            .into_iter()
            .filter_map(|ip| {
                let port = if ip.is_ipv4() { v4.first() } else { v6.first() };
                port.map(|port| SocketAddr::new(ip, *port))
            })
            .take(MAX_LAN)
            .collect();
        (self.has_v4, self.has_v6) = (!v4.is_empty(), !v6.is_empty());
        self.begun = now;
        self.survey = Some(Survey::begin(now, self.ports, (v4, v6), means, out));
    }

    /// A probe was answered, or failed.
    pub(super) fn probed(&mut self, now: Instant, number: u8, answer: Option<ProbeAnswer>, out: &mut Outbox) {
        if let Some(survey) = &mut self.survey {
            survey.probed(now, number, answer, out);
        }
    }

    /// When something is to be sent, or concluded.
    pub(super) fn deadline(&self) -> Option<Instant> {
        let survey = self.survey.as_ref()?;
        let fresh = survey.fresh_until().filter(|_| self.at.is_none() && self.told && self.theirs.is_some());
        [survey.deadline(), fresh].into_iter().flatten().min()
    }

    /// Sends probes that are due, and makes the prediction when it is time to.
    pub(super) fn conclude(&mut self, now: Instant, out: &mut Outbox) {
        if let Some(survey) = &mut self.survey {
            survey.conclude(now, out);
        }
    }

    /// Adds to this side's predictions what is known of the NAT beside its ports, as long as they are not
    /// sent.
    pub(super) fn complete(&mut self, examined: &Examinations) {
        if let Some(survey) = self.survey.as_mut().filter(|_| !self.told) {
            examined.complete(survey.predictions_mut());
        }
    }

    /// Whether both sides drop SYNs that cross in every address family that they share, by what is known
    /// now. `Err`: this side's crossing is under way, and worth waiting for until then.
    pub(super) fn is_strict(&self, now: Instant, examined: &Examinations) -> Result<bool, Instant> {
        let (mine, theirs) = (self.mine().unwrap_or_default(), self.theirs().unwrap_or_default());
        let mut shared = theirs
            .iter()
            .filter(|t| mine.iter().any(|m| m.address.is_ipv4() == t.address.is_ipv4()))
            .peekable();
        let is_shared = shared.peek().is_some();
        for theirs in shared {
            let is_strict = theirs.simultaneous_open == SimultaneousOpen::Blocked
                && examined.crossing(now, theirs.address.is_ipv4())? == SimultaneousOpen::Blocked;
            if !is_strict {
                return Ok(false);
            }
        }
        Ok(is_shared)
    }

    /// This side's predictions, once it has them, as they are sent.
    pub(super) fn mine(&self) -> Option<&[Prediction]> {
        self.survey.as_ref()?.predictions()
    }

    /// The other side's.
    pub(super) fn theirs(&self) -> Option<&[Prediction]> {
        self.theirs.as_deref()
    }

    /// Connections made so far: each has a mapping in the NAT.
    pub(super) fn connections(&self) -> usize {
        self.survey.as_ref().map_or(0, Survey::connections) + self.openings.len()
    }

    /// A counter's base is so old that it is worth waiting until it is measured once more.
    pub(super) fn waits(&mut self, now: Instant, out: &mut Outbox) -> bool {
        let ready = self.told && self.at.is_none() && self.theirs.is_some();
        self.survey.as_mut().is_some_and(|survey| ready && survey.keep_fresh(now, out))
    }

    /// Goes on as far as it can: concludes the probes; answers with what the other side is to be told, once.
    pub(super) fn advance(
        &mut self,
        now: Instant,
        peer: PeerId,
        budget: Budget,
        out: &mut Outbox,
    ) -> Option<PeerMessage> {
        self.conclude(now, out);
        let survey = self.survey.as_mut()?;
        if let Some(moved) = survey.take_moved() {
            let (id, next) = (self.id, bases::of(&moved));
            self.my_next.clone_from(&next);
            return Some(PeerMessage::Refreshed { id, next });
        }
        let predictions = survey.predictions().filter(|_| !self.told)?.to_vec();
        let age_ms = u16::try_from(survey.age(now).as_millis()).unwrap_or(u16::MAX);
        self.told = true;
        let took = now.saturating_duration_since(self.begun);
        out.push_back(Output::Event(Event::NatFound { peer, predictions: predictions.clone(), took }));
        let (id, lan, budget) = (self.id, self.lan.clone(), budget.openings);
        Some(PeerMessage::Predicted { id, predictions, lan, age_ms, budget })
    }

    /// The other side's predictions and LAN addresses, made at `probe` by our clock. The first ones count,
    /// if they make sense: what does not is of another version, or is meant to make us open more than we
    /// would.
    pub(super) fn predicted(
        &mut self,
        probe: Instant,
        theirs: Vec<Prediction>,
        lan: Vec<SocketAddr>,
        budget: u16,
    ) {
        let of_family = |v4: bool| theirs.iter().filter(|t| t.address.is_ipv4() == v4).count();
        let sensible = of_family(true) <= 1
            && of_family(false) <= 1
            && lan.len() <= MAX_LAN
            && theirs.iter().all(Prediction::is_sound);
        if self.theirs.is_none() && sensible {
            self.theirs = Some(theirs);
            self.their_lan = lan;
            (self.their_probe, self.their_budget) = (probe, budget);
        }
    }

    /// The other side's counters have been measured once more.
    pub(super) fn refreshed(&mut self, next: Vec<u16>) {
        if self.theirs.as_ref().is_some_and(|theirs| theirs.len() == next.len()) {
            self.their_next = next;
        }
    }

    /// What START says of this round, where it is said `lead` before the instant: the budget, the window,
    /// and the counters' bases. The older prediction's age is the window of both; the other's base is moved
    /// back by what happens less. From now on this round plans with these.
    pub(super) fn agree(&mut self, now: Instant, lead: Duration, mine: Budget) -> (Budget, u16) {
        // What stays as it is does not age.
        let moves = |side: Option<&[Prediction]>| {
            side.is_some_and(|side| side.iter().any(|p| !matches!(p.model, Model::Fixed { .. })))
        };
        let mine_age = self.survey.as_ref().filter(|_| moves(self.mine())).map(|survey| survey.age(now));
        let their_age = moves(self.theirs()).then(|| now.saturating_duration_since(self.their_probe));
        let ages = [mine_age, their_age].map(|age| age.unwrap_or_default() + lead);
        let window = ages[0].max(ages[1]);
        let base = |side: Option<&[Prediction]>, next: &[u16], age: Duration| {
            let mut side = bases::moved(side.unwrap_or_default(), next);
            side.iter_mut().for_each(|prediction| bases::back(prediction, window - age));
            bases::of(&side)
        };
        let (my_next, their_next) =
            (base(self.mine(), &self.my_next, ages[0]), base(self.theirs(), &self.their_next, ages[1]));
        (self.my_next, self.their_next) = (my_next, their_next);
        (mine.agreed(self.their_budget), u16::try_from(window.as_millis()).unwrap_or(u16::MAX))
    }

    /// The bases that count: this side's, then the other's.
    pub(super) fn bases(&self) -> (Vec<u16>, Vec<u16>) {
        (self.my_next.clone(), self.their_next.clone())
    }

    /// The bases that the initiator names.
    pub(super) fn rebase(&mut self, start: &Start) {
        (self.my_next, self.their_next) = (start.their_next.clone(), start.next.clone());
    }

    /// Whether a connection from there may well be the other side's.
    pub(super) fn expects(&self, remote: IpAddr) -> bool {
        let public = self.theirs.iter().flatten().map(|theirs| theirs.address);
        public.chain(self.openings.targets()).any(|ip| ip == remote)
    }

    /// The public address of both sides, where the server has seen the other one there too: its LAN addresses
    /// are worth a try, once.
    pub(super) fn shared(&self, observed: &[IpAddr]) -> Option<IpAddr> {
        let (mine, theirs) = (self.mine()?, self.theirs()?);
        let shared =
            |m: &&Prediction| theirs.iter().any(|t| t.address == m.address) && observed.contains(&m.address);
        let wanted = !self.lan_tried && !self.their_lan.is_empty();
        mine.iter().filter(|_| wanted).find(shared).map(|m| m.address)
    }

    /// Tries the other side's LAN addresses at once, beside everything else and never in its way.
    pub(super) fn try_lan(&mut self, now: Instant, server: IpAddr, out: &mut Outbox) {
        self.lan_tried = true;
        for remote in self.their_lan.clone() {
            if budget::may_connect_in_lan(remote, server) {
                self.openings.connect_in_lan(now, remote, out);
            }
        }
    }

    /// Whether the models say that a UDP hole opens before the punch, by which the other side can prove its
    /// address: one side keeps its ports and lets in more than it has sent to, or both keep them.
    pub(super) fn has_hole(&self, is_v4: bool) -> bool {
        let side = |side: Option<&[Prediction]>| {
            let side = side.into_iter().flatten().filter(|p| p.address.is_ipv4() == is_v4);
            let kept = side.filter(|p| p.is_settled() && p.mapping == Mapping::EndpointIndependent);
            let open = [Filtering::EndpointIndependent, Filtering::AddressDependent];
            kept.map(|p| open.contains(&p.filtering)).next()
        };
        let sides = (side(self.mine()), side(self.theirs()));
        matches!(sides, (Some(_), Some(_)) | (Some(true), None) | (None, Some(true)))
    }

    /// Both sides keep their ports, so the round can be repeated as it was.
    pub(super) fn is_repeatable(&self) -> bool {
        let fixed = |side: Option<&[Prediction]>| {
            side.is_some_and(|side| {
                !side.is_empty() && side.iter().all(|p| matches!(p.model, Model::Fixed { .. }))
            })
        };
        fixed(self.mine()) && fixed(self.theirs())
    }

    /// There is no plan for the pair. Answers whether there is no other way either; where the LAN is being
    /// tried, the round goes on for a while.
    pub(super) fn give_up(&mut self, now: Instant, why: String) -> Result<(), String> {
        if !self.lan_tried {
            return Err(why);
        }
        (self.at, self.hopeless) = (Some(now), Some(why));
        Ok(())
    }

    /// Servers that were probed, and which of them answered.
    pub(super) fn servers(&self) -> impl Iterator<Item = (IpAddr, bool)> {
        self.survey.iter().flat_map(Survey::heard)
    }

    /// Once both sides' predictions are there: why there will be no plan, if so, and no other way either.
    pub(super) fn foresee(&mut self, budget: Budget) -> Option<String> {
        let ready = self.told && !self.mine()?.is_empty() && !self.theirs()?.is_empty();
        if !ready || std::mem::replace(&mut self.foreseen, true) || self.lan_tried {
            return None;
        }
        let budget = budget.agreed(self.their_budget);
        self.plan(&Terms { initiator: false, round: 0, budget, window: Duration::ZERO, spent: 0 }).err()
    }

    /// Why there was no plan.
    pub(super) fn take_hopeless(&mut self) -> Option<String> {
        self.hopeless.take()
    }

    /// Turns the ports for a repetition as round `id`: it leaves from others than those before. What is
    /// said about openings from before is not listened to after this.
    pub(super) fn turn(&mut self, id: RoundId) {
        let times = id.attempt.saturating_sub(self.id.attempt) as usize;
        self.turned = Some(times.saturating_mul(PORTS_A_REPETITION));
        self.repetitions = self.repetitions.saturating_add(1);
        self.openings.forget();
        self.lan_tried = false;
    }

    /// All ports were used: the set has done its service.
    pub(super) fn is_worn(&self) -> bool {
        self.repetitions >= MOST_REPETITIONS
    }

    /// The instant is agreed: hands all openings to the driver, as far as `effort` goes. Returns how many
    /// openings there are.
    pub(super) fn open(
        &mut self,
        at: Instant,
        mut plan: Plan,
        server: IpAddr,
        effort: Effort,
        out: &mut Outbox,
    ) -> usize {
        self.at = Some(at);
        // A connection to an own external address would be one to oneself.
        let own: Vec<SocketAddr> = self.survey.iter().flat_map(Survey::seen).collect();
        plan.openings.retain(|Opening { remote, .. }| {
            let has_family = if remote.is_ipv4() { self.has_v4 } else { self.has_v6 };
            has_family && !own.contains(remote) && budget::may_open_to(remote.ip(), server)
        });
        self.openings.open(at, plan, effort, out)
    }

    /// An opening failed.
    pub(super) fn connect_failed(&mut self, now: Instant, opening: u32, why: &OpenFailure, out: &mut Outbox) {
        self.openings.failed(now, opening, why, out);
    }

    /// An opening is complete: where it went, and whether it was a plain connect inside a LAN.
    pub(super) fn completed(&mut self, now: Instant, opening: u32) -> Option<(SocketAddr, bool)> {
        self.openings.completed(now, opening)
    }

    /// Why its openings have brought nothing.
    pub(super) fn why_failed(&self, now: Instant) -> String {
        let (mine, theirs) = (self.mine().unwrap_or_default(), self.theirs().unwrap_or_default());
        reasons::failed(&self.openings.tried(now), self.openings.left_out(), mine, theirs)
    }

    /// When the round has failed if no link came of it.
    pub(super) fn end(&self) -> Option<Instant> {
        self.at.map(|at| at + if self.hopeless.is_some() { LAN_WAIT } else { ROUND })
    }
}
