//! The measuring half of a round: which probes leave when, and what their answers say about this side's
//! NAT.
//!
//! ```text
//!   first group ──────────────answers──▶ fixed: predicted
//!        └─pause─▶ second group ──────answers──▶ moving: predicted ──too old──▶ one more
//! ```
//!
//! A mapping that stays is known after the first group, one exchange with the server. One that moves takes
//! a second group, whose distance from the first shows how fast; it leaves before the first one's answers
//! say whether it is wanted, because waiting would cost two round trips more. A counter's base that has
//! grown old before the instant is agreed is refreshed by one last probe.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    time::{Duration, Instant},
};

use super::{Outbox, Output, PortsId};
use crate::{
    nat::{self, Model, Observation, Prediction},
    wire::{
        peer::MAX_PREDICTIONS,
        probe::{MAX_BATCH, ProbeAnswer, ProbeQuestion},
    },
};

/// Longest wait for the answers of a group. A SYN that was lost is repeated after 1 s.
const PROBE_LIMIT: Duration = Duration::from_secs(3);

/// After the first answer the others have half as long again as it took, and at least this: a lost SYN
/// must not hold up the round, a late one must count.
const PROBE_GRACE: Duration = Duration::from_millis(25);

/// A counter's base is measured once more when it is this old, and older than several exchanges with the
/// server: one that is agreed on at once is younger, and a last probe would only delay it.
const OLD: Duration = Duration::from_millis(500);

/// Those exchanges.
const OLD_EXCHANGES: u32 = 3;

/// Number of the last probe: see [`nat::last_probe`].
const LAST: u8 = MAX_BATCH - 1;

/// The probes of a round.
pub(super) struct Survey {
    ports: PortsId,
    begun: Instant,
    batch: [u8; 16],
    servers: Vec<SocketAddr>,
    v4: Vec<u16>,
    v6: Vec<u16>,
    probes: BTreeMap<u8, Probe>,
    /// Probes of the first group.
    first: u8,
    /// When the second group leaves.
    second: Option<Instant>,
    /// The first group is over, and shows a mapping that moves.
    moving: bool,
    /// An exchange with the server takes this long: until the first answer.
    exchange: Option<Duration>,
    /// When the last probe of a group left: what a counter's base and the age of a prediction count from.
    last_left: Instant,
    /// When the last probe of all left, and whether nothing comes of it any more.
    refresh: Option<(Instant, bool)>,
    /// What came of it.
    mine: Option<Vec<Prediction>>,
    /// The same, refreshed.
    moved: Option<Vec<Prediction>>,
}

/// A probe and what came of it.
struct Probe {
    /// Its number among those of its address family.
    number: u8,
    local: u16,
    local_port: u16,
    server: SocketAddr,
    answer: Option<Option<ProbeAnswer>>,
}

/// What a survey is made with.
pub(super) struct Means<'a> {
    /// Probe ports of servers.
    pub(super) servers: &'a [SocketAddr],
    /// Random name of the batch.
    pub(super) batch: [u8; 16],
    /// When the second group leaves, at the latest; `None`: when it is known to be wanted.
    pub(super) pause: Option<Duration>,
}

impl Survey {
    /// Sends the first group of probes. `v4` and `v6` are the punch ports by index.
    pub(super) fn begin(
        now: Instant,
        ports: PortsId,
        (v4, v6): (Vec<u16>, Vec<u16>),
        means: Means,
        out: &mut Outbox,
    ) -> Self {
        let mut survey = Survey {
            ports,
            begun: now,
            batch: means.batch,
            servers: means.servers.to_vec(),
            v4,
            v6,
            probes: BTreeMap::new(),
            first: 0,
            second: Some(now + means.pause.unwrap_or(PROBE_LIMIT)),
            moving: false,
            exchange: None,
            last_left: now,
            refresh: None,
            mine: None,
            moved: None,
        };
        for is_v4 in [true, false] {
            let count = survey.locals(is_v4).len() as u16;
            for probe in nat::probe_batch(count, &survey.servers_of(is_v4)) {
                survey.add(probe);
            }
        }
        survey.first = survey.probes.len() as u8;
        for number in 0..survey.first {
            survey.send(number, survey.first, out);
        }
        survey.conclude(now, out);
        survey
    }

    fn locals(&self, is_v4: bool) -> &[u16] {
        if is_v4 { &self.v4 } else { &self.v6 }
    }

    fn servers_of(&self, is_v4: bool) -> Vec<SocketAddr> {
        self.servers.iter().copied().filter(|server| server.is_ipv4() == is_v4).collect()
    }

    /// Notes a probe under the next number that no other one has, as long as there is one.
    fn add(&mut self, probe: nat::Probe) -> Option<u8> {
        let free = self.probes.keys().copied().filter(|key| *key != LAST).max().map_or(0, |key| key + 1);
        let key = if probe.number == LAST { LAST } else { free };
        let local_port = self.locals(probe.server.is_ipv4()).get(usize::from(probe.local)).copied()?;
        let nat::Probe { number, local, server, .. } = probe;
        if free >= LAST || self.probes.contains_key(&key) {
            return None;
        }
        self.probes.insert(key, Probe { number, local, local_port, server, answer: None });
        Some(key)
    }

    fn send(&self, key: u8, count: u8, out: &mut Outbox) {
        let Some(probe) = self.probes.get(&key) else { return };
        let Probe { local, local_port, server, .. } = *probe;
        let question =
            ProbeQuestion { batch: self.batch, number: key, count, local: local as u8, local_port };
        out.push_back(Output::Probe { ports: self.ports, number: key, local, server, question });
    }

    /// A probe was answered, or failed.
    pub(super) fn probed(&mut self, now: Instant, key: u8, answer: Option<ProbeAnswer>, out: &mut Outbox) {
        let Some(probe) = self.probes.get_mut(&key) else { return };
        if answer.is_some() {
            self.exchange.get_or_insert(now.saturating_duration_since(self.begun));
        }
        probe.answer.get_or_insert(answer);
        self.conclude(now, out);
        self.refreshed();
    }

    /// How long the answers of a probe may take.
    fn patience(&self) -> Duration {
        self.exchange
            .map_or(PROBE_LIMIT, |exchange| PROBE_LIMIT.min(exchange + PROBE_GRACE.max(exchange / 2)))
    }

    /// When [`conclude`](Self::conclude) is to be called again.
    pub(super) fn deadline(&self) -> Option<Instant> {
        if self.mine.is_some() {
            return None;
        }
        let first_over = (!self.moving).then(|| self.begun + self.patience());
        Some(self.second.unwrap_or(self.last_left + self.patience())).into_iter().chain(first_over).min()
    }

    /// Makes the prediction as soon as the first group says all that there is to say, or both are over;
    /// sends the second one when it is time to.
    pub(super) fn conclude(&mut self, now: Instant, out: &mut Outbox) {
        if self.mine.is_some() {
            return;
        }
        if !self.moving && self.is_over(now, self.begun, self.first) {
            if [true, false].into_iter().all(|is_v4| self.is_settled(is_v4)) {
                return self.predict();
            }
            self.moving = true;
            // It is known to be wanted.
            self.second = self.second.map(|_| now);
        }
        if self.second.take_if(|at| *at <= now).is_some() {
            self.send_more(now, out);
        }
        if self.moving && self.second.is_none() && self.is_over(now, self.last_left, LAST) {
            self.predict();
        }
    }

    /// Whether the probes below a number, the last of which left then, are all answered, or have had their
    /// time.
    fn is_over(&self, now: Instant, left: Instant, below: u8) -> bool {
        let answered = self.probes.range(..below).all(|(_, probe)| probe.answer.is_some());
        (answered && !self.probes.is_empty()) || left + self.patience() <= now
    }

    fn is_settled(&self, is_v4: bool) -> bool {
        let observations: Vec<Observation> = self.observations(is_v4).collect();
        nat::is_settled(&observations, self.locals(is_v4))
    }

    fn predict(&mut self) {
        self.second = None;
        let predictions = [true, false].into_iter().filter_map(|is_v4| {
            let observations: Vec<Observation> = self.observations(is_v4).collect();
            nat::predict(&observations, self.locals(is_v4))
        });
        self.mine = Some(predictions.take(MAX_PREDICTIONS).collect());
    }

    /// The second group, over the families where there may be something to be found by it.
    fn send_more(&mut self, now: Instant, out: &mut Outbox) {
        for is_v4 in [true, false] {
            if self.moving && self.is_settled(is_v4) {
                continue;
            }
            let count = self.locals(is_v4).len() as u16;
            for probe in nat::probe_more(count, &self.servers_of(is_v4)) {
                if let Some(key) = self.add(probe) {
                    self.last_left = now;
                    self.send(key, MAX_BATCH, out);
                }
            }
        }
    }

    fn observations(&self, is_v4: bool) -> impl Iterator<Item = Observation> {
        self.probes.iter().filter(move |(key, p)| p.server.is_ipv4() == is_v4 && **key != LAST).filter_map(
            |(_, probe)| {
                let answer = probe.answer.as_ref()?.as_ref()?;
                Some(probe.observation(answer))
            },
        )
    }

    /// Measures a counter's base once more, where it has grown old. Answers whether the result is worth
    /// waiting for.
    pub(super) fn keep_fresh(&mut self, now: Instant, out: &mut Outbox) -> bool {
        if let Some((left, over)) = self.refresh {
            let over = over || left + self.patience() <= now;
            self.refresh = Some((left, over));
            return !over;
        }
        let counted = |p: &&Prediction| matches!(p.model, Model::Progression(_));
        let counter = self.mine.iter().flatten().find(counted).map(|p| p.address.is_ipv4());
        let old = self.old_at().is_some_and(|at| at <= now);
        let Some(is_v4) = counter.filter(|_| old) else { return false };
        let locals = self.locals(is_v4).len() as u16;
        let last = nat::last_probe(locals, &self.servers_of(is_v4));
        let key = last.and_then(|probe| self.add(probe));
        self.refresh = Some((now, key.is_none()));
        key.inspect(|&key| self.send(key, MAX_BATCH, out)).is_some()
    }

    /// When a counter's base is old.
    fn old_at(&self) -> Option<Instant> {
        Some(self.last_left + OLD.max(self.exchange? * OLD_EXCHANGES))
    }

    /// When [`keep_fresh`](Self::keep_fresh) has something else to say.
    pub(super) fn fresh_until(&self) -> Option<Instant> {
        match self.refresh {
            Some((left, false)) => Some(left + self.patience()),
            Some(_) => None,
            None => {
                let counted = |p: &Prediction| matches!(p.model, Model::Progression(_));
                self.old_at().filter(|_| self.mine.iter().flatten().any(counted))
            }
        }
    }

    fn refreshed(&mut self) {
        let Some((left, over @ false)) = &mut self.refresh else { return };
        let Some(probe) = self.probes.get(&LAST) else { return };
        let Some(answer) = &probe.answer else { return };
        *over = true;
        let (Some(answer), Some(mine)) = (answer, &self.mine) else { return };
        let observation = probe.observation(answer);
        let elapsed = left.saturating_duration_since(self.last_left);
        self.moved = Some(mine.iter().map(|p| nat::refresh(p, &observation, elapsed)).collect());
    }

    /// The predictions, as they are sent, once they are there.
    pub(super) fn predictions(&self) -> Option<&[Prediction]> {
        self.mine.as_deref()
    }

    /// The predictions, refreshed since; once.
    pub(super) fn take_moved(&mut self) -> Option<Vec<Prediction>> {
        self.moved.take()
    }

    /// How old the predictions are.
    pub(super) fn age(&self, now: Instant) -> Duration {
        now.saturating_duration_since(self.last_left)
    }

    /// External addresses that this side was seen to have.
    pub(super) fn seen(&self) -> impl Iterator<Item = SocketAddr> {
        self.probes.values().filter_map(|p| p.answer.as_ref()?.as_ref()).map(|answer| answer.observed)
    }

    /// Connections made so far: each has a mapping in the NAT.
    pub(super) fn connections(&self) -> usize {
        self.probes.len()
    }
}

impl Probe {
    fn observation(&self, answer: &ProbeAnswer) -> Observation {
        Observation {
            number: self.number,
            local: self.local,
            local_port: self.local_port,
            server: self.server,
            observed: answer.observed,
            at_us: answer.at_us,
        }
    }
}

#[cfg(test)]
mod tests;
