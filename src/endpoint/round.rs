//! One round: punch ports, probes, predictions, the agreed instant, the openings.
//!
//! ```text
//!   begin ──Bound──▶ probing ──answers──▶ predicted ──both sides'──▶ (START) ──▶ opening ──4 s──▶ over
//! ```
//!
//! A round knows nothing of the other peer but its predictions. Who says START, and when, is decided
//! in [`super::peer`]; what happens on a connection that completes, in [`super::candidates`].

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, SocketAddr},
    time::{Duration, Instant},
};

use super::{Event, OpenFailure, Outbox, Output, PeerId, PortsId};
use crate::{
    nat::{self, Model, Observation, Prediction},
    punch::{
        Budget, FIRST_PORTS, Opening, Plan, Terms, Verdict, budget, plan,
        schedule::{OPENING_WINDOW, ROUND},
    },
    wire::{
        peer::{MAX_LAN, MAX_PREDICTIONS, PeerMessage, RoundId},
        probe::{ProbeAnswer, ProbeQuestion},
    },
};

/// Longest wait for the answers of probes. A SYN that was lost is repeated after 1 s.
const PROBE_LIMIT: Duration = Duration::from_secs(3);

/// After the first answer the others have half as long again as it took, and at least this: a lost SYN
/// must not hold up the round, a late one must count.
const PROBE_GRACE: Duration = Duration::from_millis(25);

/// An opening that was refused is repeated after this: the other side's SYN is at most this late when
/// clocks agree, and a storm is not wanted when they do not.
const REDIAL_PAUSE: Duration = Duration::from_millis(20);

/// Punch ports that a repetition uses: the pairs of a first round.
const PORTS_A_REPETITION: usize = 2;

/// Repetitions of a round: until all its ports were used once. Then the next link's ports are fresh ones.
const MOST_REPETITIONS: u16 = FIRST_PORTS / PORTS_A_REPETITION as u16 - 1;

/// A round, from binding to the end of its last opening.
pub(super) struct Round {
    pub(super) id: RoundId,
    pub(super) ports: PortsId,
    begun: Instant,
    v4: Vec<u16>,
    v6: Vec<u16>,
    /// Punch ports that were asked for, in each family.
    asked: u16,
    probes: BTreeMap<u8, Probe>,
    first_answer: Option<Instant>,
    /// This side's predictions, once it has them, as they are sent.
    pub(super) mine: Option<Vec<Prediction>>,
    lan: Vec<SocketAddr>,
    /// The other side's.
    pub(super) theirs: Option<Vec<Prediction>>,
    their_lan: Vec<SocketAddr>,
    lan_tried: bool,
    /// How far the lists of ports are turned, where the round is repeated: see [`turn`](Self::turn).
    turned: Option<usize>,
    repetitions: u16,
    listening: BTreeSet<u16>,
    told: bool,
    /// The agreed instant.
    pub(super) at: Option<Instant>,
    openings: Vec<Dialled>,
    /// Number of the first of them.
    first_opening: u32,
    /// How often each refused opening is repeated.
    redials: u8,
}

/// A probe and what came of it.
struct Probe {
    local: u16,
    local_port: u16,
    server: SocketAddr,
    answer: Option<Option<ProbeAnswer>>,
}

/// An opening that was handed to the driver.
struct Dialled {
    local: Option<u16>,
    remote: SocketAddr,
    lan: bool,
    redials: u8,
}

impl Round {
    /// Begins: asks for punch ports.
    pub(super) fn begin(now: Instant, id: RoundId, ports: PortsId, out: &mut Outbox) -> Self {
        out.push_back(Output::Bind { ports, count: FIRST_PORTS });
        Round {
            id,
            ports,
            begun: now,
            v4: Vec::new(),
            v6: Vec::new(),
            asked: FIRST_PORTS,
            probes: BTreeMap::new(),
            first_answer: None,
            mine: None,
            lan: Vec::new(),
            theirs: None,
            their_lan: Vec::new(),
            lan_tried: false,
            turned: None,
            repetitions: 0,
            listening: BTreeSet::new(),
            told: false,
            at: None,
            openings: Vec::new(),
            first_opening: 0,
            redials: 0,
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
        servers: &[SocketAddr],
        batch: [u8; 16],
        out: &mut Outbox,
    ) {
        let more = !(self.v4.is_empty() && self.v6.is_empty());
        if more {
            (self.v4, self.v6) = (v4, v6);
            return;
        }
        self.listen(0, out);
        self.lan = lan
            .into_iter()
            .filter_map(|ip| {
                let port = if ip.is_ipv4() { v4.first() } else { v6.first() };
                port.map(|port| SocketAddr::new(ip, *port))
            })
            .take(MAX_LAN)
            .collect();
        for (locals, is_v4) in [(&v4, true), (&v6, false)] {
            let servers: Vec<SocketAddr> = servers.iter().copied().filter(|s| s.is_ipv4() == is_v4).collect();
            for nat::Probe { local, server, .. } in nat::probe_batch(locals.len() as u16, &servers) {
                let number = self.probes.len() as u8;
                let local_port = locals[usize::from(local)];
                self.probes.insert(number, Probe { local, local_port, server, answer: None });
            }
        }
        let count = self.probes.len() as u8;
        for (&number, probe) in &self.probes {
            let question = ProbeQuestion {
                batch,
                number,
                count,
                local: probe.local as u8,
                local_port: probe.local_port,
            };
            let Probe { local, server, .. } = *probe;
            out.push_back(Output::Probe { ports: self.ports, number, local, server, question });
        }
        (self.v4, self.v6) = (v4, v6);
        self.begun = now;
        self.conclude(now);
    }

    /// A probe was answered, or failed.
    pub(super) fn probed(&mut self, now: Instant, number: u8, answer: Option<ProbeAnswer>) {
        let Some(probe) = self.probes.get_mut(&number) else { return };
        if answer.is_some() {
            self.first_answer.get_or_insert(now);
        }
        probe.answer.get_or_insert(answer);
        self.conclude(now);
    }

    /// When [`conclude`](Self::conclude) is to be called again.
    pub(super) fn deadline(&self) -> Option<Instant> {
        if self.mine.is_some() {
            return None;
        }
        let limit = self.begun + PROBE_LIMIT;
        Some(
            self.first_answer.map_or(limit, |first| {
                limit.min(first + PROBE_GRACE.max(first.duration_since(self.begun) / 2))
            }),
        )
    }

    /// Makes the prediction when all answers are in, or when it is time to do without the rest.
    pub(super) fn conclude(&mut self, now: Instant) {
        let complete = !self.probes.is_empty() && self.probes.values().all(|p| p.answer.is_some());
        if self.mine.is_some() || !(complete || self.deadline().is_some_and(|at| at <= now)) {
            return;
        }
        let predictions = [(true, &self.v4), (false, &self.v6)].into_iter().filter_map(|(is_v4, locals)| {
            let observations: Vec<Observation> = self.observations(is_v4).collect();
            nat::predict(&observations, locals)
        });
        self.mine = Some(predictions.take(MAX_PREDICTIONS).collect());
    }

    fn observations(&self, is_v4: bool) -> impl Iterator<Item = Observation> {
        self.probes.iter().filter(move |(_, p)| p.server.is_ipv4() == is_v4).filter_map(|(&number, p)| {
            let answer = p.answer.as_ref()?.as_ref()?;
            Some(Observation {
                number,
                local: p.local,
                local_port: p.local_port,
                server: p.server,
                observed: answer.observed,
                at_us: answer.at_us,
            })
        })
    }

    /// Goes on as far as it can: concludes the probes; tries the LAN as soon as both predictions are
    /// there; answers with what the other side is to be told, once.
    pub(super) fn advance(
        &mut self,
        now: Instant,
        peer: PeerId,
        server: IpAddr,
        out: &mut Outbox,
    ) -> Option<PeerMessage> {
        self.conclude(now);
        self.try_lan(now, server, out);
        let predictions = self.mine.clone().filter(|_| !self.told)?;
        self.told = true;
        let took = self.age(now);
        out.push_back(Output::Event(Event::NatFound { peer, predictions: predictions.clone(), took }));
        Some(PeerMessage::Predicted { id: self.id, predictions, lan: self.lan.clone() })
    }

    /// The other side's predictions and LAN addresses. The first ones count, if they make sense: what
    /// does not is of another version, or is meant to make us open more than we would.
    pub(super) fn predicted(&mut self, theirs: Vec<Prediction>, lan: Vec<SocketAddr>) {
        let of_family = |v4: bool| theirs.iter().filter(|t| t.address.is_ipv4() == v4).count();
        let sensible = of_family(true) <= 1
            && of_family(false) <= 1
            && lan.len() <= MAX_LAN
            && theirs.iter().all(Prediction::is_sound);
        if self.theirs.is_none() && sensible {
            self.theirs = Some(theirs);
            self.their_lan = lan;
        }
    }

    /// Whether a connection from there may well be the other side's.
    pub(super) fn expects(&self, remote: IpAddr) -> bool {
        let public = self.theirs.iter().flatten().map(|theirs| theirs.address);
        public.chain(self.openings.iter().map(|opening| opening.remote.ip())).any(|ip| ip == remote)
    }

    /// Where both sides have one public address, the other's LAN addresses are tried at once, beside
    /// everything else and never in its way.
    fn try_lan(&mut self, now: Instant, server: IpAddr, out: &mut Outbox) {
        let (Some(mine), Some(theirs)) = (&self.mine, &self.theirs) else { return };
        let together = mine.iter().any(|m| theirs.iter().any(|t| t.address == m.address));
        if together && !std::mem::replace(&mut self.lan_tried, true) {
            for remote in self.their_lan.clone() {
                if budget::may_connect_in_lan(remote, server) {
                    self.dial(Dialled { local: None, remote, lan: true, redials: 0 }, now, None, out);
                }
            }
        }
    }

    /// Both sides keep their ports, so the round can be repeated as it was.
    pub(super) fn is_repeatable(&self) -> bool {
        let fixed = |side: &Option<Vec<Prediction>>| {
            let side = side.iter().flatten();
            side.clone().count() > 0 && side.clone().all(|p| matches!(p.model, Model::Fixed { .. }))
        };
        fixed(&self.mine) && fixed(&self.theirs)
    }

    /// Turns the ports for a repetition as round `id`: it leaves from others than those before. What is
    /// said about openings from before is not listened to after this.
    pub(super) fn turn(&mut self, id: RoundId) {
        let times = id.attempt.saturating_sub(self.id.attempt) as usize;
        self.turned = Some(times.saturating_mul(PORTS_A_REPETITION));
        self.repetitions = self.repetitions.saturating_add(1);
        self.first_opening = self.first_opening.wrapping_add(self.openings.len() as u32);
        self.openings.clear();
        self.lan_tried = false;
    }

    /// All ports were used: the set has done its service.
    pub(super) fn is_worn(&self) -> bool {
        self.repetitions >= MOST_REPETITIONS
    }

    fn listen(&mut self, local: u16, out: &mut Outbox) {
        if self.listening.insert(local) {
            out.push_back(Output::Listen { ports: self.ports, local });
        }
    }

    /// The plan for both sides' predictions, all address families together, or why there is none, in
    /// words.
    pub(super) fn plan(&self, terms: &Terms) -> Result<Plan, String> {
        let (Some(mine), Some(theirs)) = (&self.mine, &self.theirs) else {
            return Err("a prediction is missing".into());
        };
        if mine.is_empty() {
            return Err("no probe of ours was answered: the server's TCP ports cannot be reached".into());
        }
        if theirs.is_empty() {
            return Err("no probe of the other side was answered".into());
        }
        let pairs = mine.iter().flat_map(|m| {
            theirs.iter().filter(move |t| t.address.is_ipv4() == m.address.is_ipv4()).map(move |t| (m, t))
        });
        let mut whole: Option<Plan> = None;
        let mut hopeless = "the two sides have no address family in common";
        for (mine, theirs) in pairs {
            let plan = self.plan_pair(mine, theirs, terms);
            match (plan.verdict, &mut whole) {
                (Verdict::Hopeless(why), _) => hopeless = why,
                (Verdict::Try, Some(whole)) => {
                    whole.redials = whole.redials.min(plan.redials);
                    whole.openings.extend(plan.openings);
                    whole.listen.extend(plan.listen);
                }
                (Verdict::Try, None) => whole = Some(plan),
            }
        }
        whole.ok_or_else(|| hopeless.into())
    }

    /// A repetition has the plan of a first round, from ports that are turned by as much on both sides.
    fn plan_pair(&self, mine: &Prediction, theirs: &Prediction, terms: &Terms) -> Plan {
        let Some(by) = self.turned else { return plan(mine, theirs, terms) };
        let (mine, ports) = turn(mine, by);
        let mut plan = plan(&mine, &turn(theirs, by).0, &Terms { round: 0, ..*terms });
        let back = |local: u16| ((usize::from(local) + by) % ports.max(1)) as u16;
        plan.openings.iter_mut().for_each(|opening| opening.local = back(opening.local));
        plan.listen.iter_mut().for_each(|local| *local = back(*local));
        plan
    }

    /// The instant is agreed: hands all openings to the driver. Full effort goes only towards `proved`,
    /// the address that the peer's authentic datagrams come from. Returns how many openings there are.
    pub(super) fn open(
        &mut self,
        at: Instant,
        plan: Plan,
        server: IpAddr,
        proved: Option<IpAddr>,
        out: &mut Outbox,
    ) -> usize {
        self.at = Some(at);
        self.redials = plan.redials;
        let wanted = plan.listen.iter().map(|local| local.saturating_add(1)).max().unwrap_or(0);
        if wanted > self.asked {
            self.asked = wanted;
            out.push_back(Output::Bind { ports: self.ports, count: wanted });
        }
        for local in plan.listen {
            self.listen(local, out);
        }
        let own: Vec<SocketAddr> = self.own_addresses().collect();
        let (before, mut unproved) = (self.openings.len(), 0);
        for Opening { local, remote, after, ttl } in plan.openings {
            let has_family = !if remote.is_ipv4() { &self.v4 } else { &self.v6 }.is_empty();
            if !has_family || own.contains(&remote) || !budget::may_open_to(remote.ip(), server) {
                continue;
            }
            if proved != Some(remote.ip()) {
                unproved += 1;
                if unproved > Budget::UNPROVED.openings {
                    continue;
                }
            }
            self.dial(Dialled { local: Some(local), remote, lan: false, redials: 0 }, at + after, ttl, out);
        }
        self.openings.len() - before
    }

    /// This side's own external addresses: a connection to one of them would be a connection to
    /// oneself.
    fn own_addresses(&self) -> impl Iterator<Item = SocketAddr> {
        let answers = self.probes.values().filter_map(|p| p.answer.as_ref()?.as_ref());
        answers.map(|a| a.observed)
    }

    fn dial(&mut self, dialled: Dialled, at: Instant, ttl: Option<u8>, out: &mut Outbox) {
        let Dialled { local, remote, .. } = dialled;
        let opening = self.first_opening.wrapping_add(self.openings.len() as u32);
        out.push_back(Output::Connect { ports: self.ports, opening, local, remote, at, ttl });
        self.openings.push(dialled);
    }

    /// An opening failed. Refused is not failed: its SYN came early, and inside the window it is repeated
    /// from the same port, where the plan says so.
    pub(super) fn connect_failed(&mut self, now: Instant, opening: u32, why: &OpenFailure, out: &mut Outbox) {
        let again = now + REDIAL_PAUSE;
        let over = self.at.is_none_or(|at| again >= at + OPENING_WINDOW);
        let Some(dialled) = self.openings.get_mut(opening.wrapping_sub(self.first_opening) as usize) else {
            return;
        };
        let early = matches!(why, OpenFailure::Refused | OpenFailure::Unreachable);
        if !early || over || dialled.lan || dialled.redials >= self.redials {
            return;
        }
        dialled.redials += 1;
        let Dialled { local, remote, .. } = *dialled;
        out.push_back(Output::Connect { ports: self.ports, opening, local, remote, at: again, ttl: None });
    }

    /// Where an opening went, and whether it was a plain connect inside a LAN.
    pub(super) fn opening(&self, opening: u32) -> Option<(SocketAddr, bool)> {
        self.openings.get(opening.wrapping_sub(self.first_opening) as usize).map(|d| (d.remote, d.lan))
    }

    /// When the round has failed if no link came of it.
    pub(super) fn end(&self) -> Option<Instant> {
        self.at.map(|at| at + ROUND)
    }
}

/// The prediction with its list of ports turned, and the length of the list.
fn turn(prediction: &Prediction, by: usize) -> (Prediction, usize) {
    let mut turned = prediction.clone();
    let Model::Fixed { ports } = &mut turned.model else { return (turned, 0) };
    let count = ports.len();
    ports.rotate_left(by % count.max(1));
    (turned, count)
}
