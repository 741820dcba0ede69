//! What this side's NAT does with SYNs that it was not asked for, found out beside the rounds and never in
//! their way.
//!
//! The server is asked to knock (from a port, and where it has one from an address, that was not contacted)
//! and to cross SYNs with this side ([`crate::wire::examine`]). All of it leaves from ports of its own, once
//! for each place in the network. A prediction takes what is known by the time that it is sent; a round waits
//! for nothing but the crossing, and only where the other side is known to drop SYNs that cross: if this side
//! does so too, nothing is to be opened at all.
//!
//! ```text
//!   reached ──Bind──▶ two knocks ──answers──▶ known
//!                └──▶ a host at once, a client when its ports are found to stay:
//!                     a crossing ──nothing came through──▶ another one ──▶ known
//! ```

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
    time::{Duration, Instant},
};

use super::{Favour, Outbox, Output, PortsId};
use crate::{
    nat::{Filtering, Mapping, Model, Prediction, SimultaneousOpen, Unsolicited},
    wire::examine::{Knocked, Origin},
};

/// Its ports: one for each knock, and one for each try of a crossing. Each makes a connection to the server,
/// and two from one port would have the same tuple.
const PORTS: u16 = 4;

/// Index of the port of the first crossing.
const CROSSING: u16 = 2;

/// A crossing is waited for at most so long: a second try of 0.8 s at the server, and round trips.
const PATIENCE: Duration = Duration::from_millis(2500);

/// What a server found when it was asked to open towards this side. `None`: not asked, or no answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Answers {
    /// To a knock from a port that was not contacted.
    pub from_port: Option<Knocked>,
    /// To a knock from an address that was not contacted.
    pub from_address: Option<Knocked>,
    /// What became of the server's SYN that crossed ours.
    pub crossing: Option<Knocked>,
}

impl Answers {
    /// Notes an answer. A SYN that crossed and got through once is proof; one that did not may be lost.
    pub fn note(&mut self, favour: Favour, answer: Option<Knocked>) {
        match favour {
            Favour::Knock(Origin::Port) => self.from_port = answer,
            Favour::Knock(Origin::Address) => self.from_address = answer,
            Favour::Cross => self.crossing = answer.or(self.crossing),
        }
    }

    /// Adds to a prediction what they say.
    pub fn complete(&self, prediction: &mut Prediction) {
        prediction.filtering = self.filtering();
        prediction.unsolicited = self.unsolicited();
        prediction.simultaneous_open = self.simultaneous_open(prediction);
    }

    /// Where the server has no second address, a NAT that lets its other port in may look at addresses or at
    /// nothing: the stricter is assumed.
    fn filtering(&self) -> Filtering {
        match (self.from_port, self.from_address) {
            (_, Some(Knocked::Reached)) => Filtering::EndpointIndependent,
            (Some(Knocked::Reached), _) => Filtering::AddressDependent,
            (Some(Knocked::Dropped | Knocked::Reset | Knocked::Prohibited), _) => {
                Filtering::AddressAndPortDependent
            }
            _ => Filtering::Unknown,
        }
    }

    /// What a SYN that is not let in is answered with.
    fn unsolicited(&self) -> Unsolicited {
        let answers = [self.from_port, self.from_address];
        let said = |answer| answers.contains(&Some(answer));
        match () {
            () if said(Knocked::Reset) => Unsolicited::Reset,
            () if said(Knocked::Prohibited) => Unsolicited::Prohibited,
            () if said(Knocked::Dropped) => Unsolicited::Dropped,
            () => Unsolicited::Unknown,
        }
    }

    /// The server knows the external port of a crossing only where there is one for all destinations.
    fn simultaneous_open(&self, prediction: &Prediction) -> SimultaneousOpen {
        match self.crossing {
            _ if !stays(prediction) => SimultaneousOpen::Unknown,
            Some(Knocked::Reached) => SimultaneousOpen::Works,
            Some(Knocked::Dropped) => SimultaneousOpen::Blocked,
            _ => SimultaneousOpen::Unknown,
        }
    }
}

/// The port towards one destination is the port towards another one.
fn stays(prediction: &Prediction) -> bool {
    matches!(prediction.model, Model::Fixed { .. }) && prediction.mapping == Mapping::EndpointIndependent
}

/// The examinations of an endpoint, one for each server.
pub(super) struct Examinations {
    wanted: bool,
    /// This side's connections come at times of its own choosing, so a crossing disturbs no measurement.
    at_leisure: bool,
    all: BTreeMap<usize, Examination>,
}

/// One of them.
struct Examination {
    /// Bound as long as something is asked.
    ports: Option<PortsId>,
    bound: bool,
    server: SocketAddr,
    /// This side's address then, as the server sees it.
    public: IpAddr,
    knocks: u8,
    crossing: Crossing,
    answers: Answers,
}

/// How far the crossing is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Crossing {
    /// It is not known whether a crossing would tell anything.
    NotAsked,
    /// Asked so often, the first time then.
    Asked(u16, Instant),
    /// There is nothing more to be found out.
    Over,
}

impl Examinations {
    pub(super) fn new(wanted: bool, at_leisure: bool) -> Self {
        Examinations { wanted, at_leisure, all: BTreeMap::new() }
    }

    /// A server sees this side at that address: begins, unless it was asked from there already.
    pub(super) fn reached(
        &mut self,
        (index, server): (usize, SocketAddr),
        public: IpAddr,
        ports: PortsId,
        out: &mut Outbox,
    ) {
        let public = public.to_canonical();
        let known = self.all.get(&index).is_some_and(|e| e.public == public && !e.is_empty());
        if !self.wanted || known {
            return;
        }
        self.forget(index, out);
        let examination = Examination {
            ports: Some(ports),
            bound: false,
            server,
            public,
            knocks: 0,
            crossing: Crossing::NotAsked,
            answers: Answers::default(),
        };
        self.all.insert(index, examination);
        out.push_back(Output::Bind { ports, count: PORTS });
    }

    /// This side is somewhere else in the network.
    pub(super) fn forget_all(&mut self, out: &mut Outbox) {
        let all: Vec<usize> = self.all.keys().copied().collect();
        all.into_iter().for_each(|index| self.forget(index, out));
    }

    fn forget(&mut self, index: usize, out: &mut Outbox) {
        if let Some(Examination { ports: Some(ports), .. }) = self.all.remove(&index) {
            out.push_back(Output::Release { ports });
        }
    }

    /// Its ports are bound. Answers whether they were an examination's.
    pub(super) fn bound(
        &mut self,
        now: Instant,
        ports: PortsId,
        counts: (usize, usize),
        out: &mut Outbox,
    ) -> bool {
        let at_leisure = self.at_leisure;
        let Some(examination) = self.owner(ports) else { return false };
        let count = if examination.server.is_ipv4() { counts.0 } else { counts.1 };
        if count < usize::from(PORTS) {
            examination.end(out);
            return true;
        }
        examination.bound = true;
        for (local, origin) in [(0, Origin::Port), (1, Origin::Address)] {
            // What gets in must not be reset by this machine itself.
            out.push_back(Output::Listen { ports, local });
            examination.ask(local, Favour::Knock(origin), out);
            examination.knocks += 1;
        }
        if at_leisure {
            examination.cross(now, out);
        }
        true
    }

    /// They could not be bound. Answers whether they were an examination's.
    pub(super) fn bind_failed(&mut self, ports: PortsId, out: &mut Outbox) -> bool {
        let Some(examination) = self.owner(ports) else { return false };
        examination.end(out);
        true
    }

    /// The server has answered, or has not.
    pub(super) fn answered(
        &mut self,
        now: Instant,
        ports: PortsId,
        (favour, answer): (Favour, Option<Knocked>),
        out: &mut Outbox,
    ) {
        let Some(examination) = self.owner(ports) else { return };
        examination.answers.note(favour, answer);
        match favour {
            Favour::Knock(_) => examination.knocks = examination.knocks.saturating_sub(1),
            // Once more: packets get lost.
            Favour::Cross if answer == Some(Knocked::Dropped) => examination.cross(now, out),
            Favour::Cross => examination.crossing = Crossing::Over,
        }
        examination.release_if_over(out);
    }

    /// A client's probes were answered: where ports stay, a crossing disturbs nothing; elsewhere it would not
    /// tell anything.
    pub(super) fn measured(&mut self, now: Instant, predictions: &[Prediction], out: &mut Outbox) {
        for examination in self.all.values_mut().filter(|e| e.bound && e.crossing == Crossing::NotAsked) {
            let mut of_family =
                predictions.iter().filter(|p| p.address.is_ipv4() == examination.server.is_ipv4());
            match of_family.next() {
                Some(prediction) if stays(prediction) => examination.cross(now, out),
                Some(_) => examination.crossing = Crossing::Over,
                None => {}
            }
            examination.release_if_over(out);
        }
    }

    /// Adds to predictions what is known by now.
    pub(super) fn complete(&self, predictions: &mut [Prediction]) {
        for prediction in predictions {
            let v4 = prediction.address.is_ipv4();
            if let Some(examination) = self.all.values().find(|e| e.server.is_ipv4() == v4) {
                examination.answers.complete(prediction);
            }
        }
    }

    /// Whether SYNs that cross are dropped here, and until when that is worth waiting for.
    pub(super) fn crossing(&self, now: Instant, v4: bool) -> Result<SimultaneousOpen, Instant> {
        let Some(examination) = self.all.values().find(|e| e.server.is_ipv4() == v4) else {
            return Ok(SimultaneousOpen::Unknown);
        };
        match (examination.crossing, examination.answers.crossing) {
            (_, Some(Knocked::Reached)) => Ok(SimultaneousOpen::Works),
            (Crossing::Asked(_, first), _) if first + PATIENCE > now => Err(first + PATIENCE),
            (_, Some(Knocked::Dropped)) => Ok(SimultaneousOpen::Blocked),
            _ => Ok(SimultaneousOpen::Unknown),
        }
    }

    fn owner(&mut self, ports: PortsId) -> Option<&mut Examination> {
        self.all.values_mut().find(|examination| examination.ports == Some(ports))
    }
}

impl Examination {
    fn ask(&self, local: u16, favour: Favour, out: &mut Outbox) {
        if let Some(ports) = self.ports {
            out.push_back(Output::Favour { ports, local, server: self.server, favour });
        }
    }

    /// Asks for a crossing, or for another one, as long as there are ports.
    fn cross(&mut self, now: Instant, out: &mut Outbox) {
        let (times, first) = match self.crossing {
            Crossing::NotAsked => (0, now),
            Crossing::Asked(times, first) => (times, first),
            Crossing::Over => return,
        };
        if CROSSING + times < PORTS {
            self.crossing = Crossing::Asked(times + 1, first);
            self.ask(CROSSING + times, Favour::Cross, out);
        } else {
            self.crossing = Crossing::Over;
        }
    }

    /// Nothing was found out, and nothing is asked: a server that was busy may be asked again.
    fn is_empty(&self) -> bool {
        self.ports.is_none() && self.answers == Answers::default()
    }

    fn release_if_over(&mut self, out: &mut Outbox) {
        if self.bound && self.knocks == 0 && self.crossing == Crossing::Over {
            self.end(out);
        }
    }

    fn end(&mut self, out: &mut Outbox) {
        self.crossing = Crossing::Over;
        if let Some(ports) = self.ports.take() {
            out.push_back(Output::Release { ports });
        }
    }
}

#[cfg(test)]
mod tests;
