//! The openings of a round: which ports listen, what was handed to the driver, and what came of it.
//!
//! Every SYN is noted, for the word that a person is told where a round fails, and the trace of `-v`.

use std::{
    collections::BTreeSet,
    net::{IpAddr, SocketAddr},
    time::{Duration, Instant},
};

use super::{
    OpenFailure, Outbox, Output, PortsId,
    reasons::{Came, Tried},
};
use crate::punch::{FIRST_PORTS, Opening, Plan, schedule::OPENING_WINDOW};

/// An opening that was refused is repeated after this: the other side's SYN is at most this late when
/// clocks agree, and a storm is not wanted when they do not.
const REDIAL_PAUSE: Duration = Duration::from_millis(20);

/// Listeners and openings of a round's ports.
pub(super) struct Openings {
    ports: PortsId,
    /// Local port numbers by index, in each family.
    numbers: (Vec<u16>, Vec<u16>),
    /// Punch ports that were asked for, in each family.
    asked: u16,
    listening: BTreeSet<u16>,
    /// The agreed instant.
    instant: Option<Instant>,
    dialled: Vec<Dialled>,
    syns: Vec<Syn>,
    /// They were told of.
    told: bool,
    /// Number of the first of them.
    first: u32,
    /// How often each refused opening is repeated.
    redials: u8,
    effort: Effort,
    /// Openings of the plan that were left out, as the effort did not reach them.
    left_out: usize,
}

/// How much of a plan is carried out.
#[derive(Debug, Clone, Default)]
pub(super) struct Effort {
    /// Addresses to which all openings go: the peer is known to be there, or it is believed.
    pub(super) full: Vec<IpAddr>,
    /// First SYNs to all others together, repeated openings among them: the likeliest ones.
    pub(super) others: u16,
}

/// An opening that was handed to the driver.
struct Dialled {
    local: Option<u16>,
    remote: SocketAddr,
    lan: bool,
    redials: u8,
    /// Its last SYN among those that were sent.
    syn: usize,
}

/// A SYN that was sent.
struct Syn {
    local: Option<u16>,
    remote: SocketAddr,
    lan: bool,
    ttl: Option<u8>,
    /// When it was to leave, until it is known when it did.
    left: Instant,
    came: Option<(Came, Instant)>,
}

impl Openings {
    /// Those of a round whose first ports were asked for.
    pub(super) fn new(ports: PortsId) -> Self {
        Openings {
            ports,
            numbers: (Vec::new(), Vec::new()),
            asked: FIRST_PORTS,
            listening: BTreeSet::new(),
            instant: None,
            dialled: Vec::new(),
            syns: Vec::new(),
            told: false,
            first: 0,
            redials: 0,
            effort: Effort::default(),
            left_out: 0,
        }
    }

    /// The ports are bound, or more of them.
    pub(super) fn bound(&mut self, v4: &[u16], v6: &[u16]) {
        self.numbers = (v4.to_vec(), v6.to_vec());
    }

    /// Listens on a punch port, once.
    pub(super) fn listen(&mut self, local: u16, out: &mut Outbox) {
        if self.listening.insert(local) {
            out.push_back(Output::Listen { ports: self.ports, local });
        }
    }

    /// A plain connect inside a LAN, at once.
    pub(super) fn connect_in_lan(&mut self, now: Instant, remote: SocketAddr, out: &mut Outbox) {
        self.dial((None, remote, true), now, None, out);
    }

    /// The instant is agreed: hands a plan's openings to the driver, as far as `effort` goes. Returns how
    /// many openings there are.
    pub(super) fn open(&mut self, at: Instant, plan: Plan, effort: Effort, out: &mut Outbox) -> usize {
        (self.instant, self.redials, self.effort) = (Some(at), plan.redials, effort);
        let wanted = plan.listen.iter().map(|local| local.saturating_add(1)).max().unwrap_or(0);
        if wanted > self.asked {
            self.asked = wanted;
            out.push_back(Output::Bind { ports: self.ports, count: wanted });
        }
        for local in plan.listen {
            self.listen(local, out);
        }
        let before = self.dialled.len();
        self.left_out = 0;
        for Opening { local, remote, after, ttl } in plan.openings {
            if self.effort.reaches(remote.ip()) {
                self.dial((Some(local), remote, false), at + after, ttl, out);
            } else {
                self.left_out += 1;
            }
        }
        self.dialled.len() - before
    }

    fn dial(
        &mut self,
        (local, remote, lan): (Option<u16>, SocketAddr, bool),
        at: Instant,
        ttl: Option<u8>,
        out: &mut Outbox,
    ) {
        let opening = self.first.wrapping_add(self.dialled.len() as u32);
        out.push_back(Output::Connect { ports: self.ports, opening, local, remote, at, ttl });
        self.dialled.push(Dialled { local, remote, lan, redials: 0, syn: self.syns.len() });
        self.syns.push(Syn { local, remote, lan, ttl, left: at, came: None });
    }

    fn number(&self, opening: u32) -> usize {
        opening.wrapping_sub(self.first) as usize
    }

    /// When an opening's last SYN really left.
    pub(super) fn left(&mut self, opening: u32, at: Instant) {
        let syn = self.dialled.get(self.number(opening)).map(|dialled| dialled.syn);
        if let Some(syn) = syn.and_then(|syn| self.syns.get_mut(syn)) {
            syn.left = at;
        }
    }

    fn came(&mut self, number: usize, came: Came, now: Instant) {
        let syn = self.dialled.get(number).map(|dialled| dialled.syn);
        if let Some(syn) = syn.and_then(|syn| self.syns.get_mut(syn)) {
            syn.came = Some((came, now));
        }
    }

    /// An opening failed. Refused is not failed: its SYN came early, and inside the window it is repeated
    /// from the same port, where the plan says so.
    pub(super) fn failed(&mut self, now: Instant, opening: u32, why: &OpenFailure, out: &mut Outbox) {
        let again = now + REDIAL_PAUSE;
        let over = self.instant.is_none_or(|at| again >= at + OPENING_WINDOW);
        let number = self.number(opening);
        self.came(number, Came::from(why), now);
        let Some(dialled) = self.dialled.get_mut(number) else { return };
        let early = matches!(why, OpenFailure::Refused | OpenFailure::Unreachable);
        let over = over || dialled.lan || dialled.redials >= self.redials;
        if !early || over || !self.effort.reaches(dialled.remote.ip()) {
            return;
        }
        dialled.redials += 1;
        dialled.syn = self.syns.len();
        let Dialled { local, remote, lan, .. } = *dialled;
        self.syns.push(Syn { local, remote, lan, ttl: None, left: again, came: None });
        out.push_back(Output::Connect { ports: self.ports, opening, local, remote, at: again, ttl: None });
    }

    /// An opening is complete: where it went, and whether it was a plain connect inside a LAN.
    pub(super) fn completed(&mut self, now: Instant, opening: u32) -> Option<(SocketAddr, bool)> {
        let number = self.number(opening);
        self.came(number, Came::Connected, now);
        self.dialled.get(number).map(|dialled| (dialled.remote, dialled.lan))
    }

    /// What has been tried by now, without plain connects inside a LAN. What came of a SYN may be known before it is told that it left.
    pub(super) fn tried(&self, now: Instant) -> Vec<Tried> {
        let tried = |syn: &Syn| {
            let numbers = if syn.remote.is_ipv4() { &self.numbers.0 } else { &self.numbers.1 };
            let instant = self.instant.unwrap_or(syn.left);
            let micros = |time: Duration| i64::try_from(time.as_micros()).unwrap_or(i64::MAX);
            let late = micros(syn.left.saturating_duration_since(instant));
            let early = micros(instant.saturating_duration_since(syn.left));
            Tried {
                local: syn.local.and_then(|local| numbers.get(usize::from(local)).copied()),
                remote: syn.remote,
                left_us: late - early,
                ttl: syn.ttl,
                came: syn.came.map(|(came, at)| (came, at.saturating_duration_since(syn.left))),
            }
        };
        self.syns
            .iter()
            .filter(|syn| !syn.lan && (syn.left <= now || syn.came.is_some()))
            .map(tried)
            .collect()
    }

    /// The same, the first time that it is asked for. Empty where the other side's SYNs made the link before any of these left.
    pub(super) fn take_tried(&mut self, now: Instant) -> Option<Vec<Tried>> {
        let opens = self.syns.iter().any(|syn| !syn.lan);
        let is_news = opens && !std::mem::replace(&mut self.told, true);
        is_news.then(|| self.tried(now))
    }

    /// What is said about the openings so far is not listened to any more.
    pub(super) fn forget(&mut self) {
        self.first = self.first.wrapping_add(self.dialled.len() as u32);
        self.dialled.clear();
        self.syns.clear();
        self.told = false;
    }

    /// How many were left out.
    pub(super) fn left_out(&self) -> usize {
        self.left_out
    }

    /// How many were handed out.
    pub(super) fn len(&self) -> usize {
        self.dialled.len()
    }

    /// Where they go.
    pub(super) fn targets(&self) -> impl Iterator<Item = IpAddr> {
        self.dialled.iter().map(|dialled| dialled.remote.ip())
    }
}

impl Effort {
    /// One more SYN may go there.
    fn reaches(&mut self, remote: IpAddr) -> bool {
        if self.full.contains(&remote) {
            return true;
        }
        let left = self.others.checked_sub(1);
        self.others = left.unwrap_or(0);
        left.is_some()
    }
}

impl From<&OpenFailure> for Came {
    fn from(why: &OpenFailure) -> Came {
        match why {
            OpenFailure::Refused => Came::Reset,
            OpenFailure::Unreachable => Came::Unreachable,
            OpenFailure::TimedOut => Came::Nothing,
            OpenFailure::TupleExists => Came::Exists,
            OpenFailure::Other(_) => Came::Failed,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{punch::Verdict, testing::start};

    #[test]
    fn a_connection_that_completes_before_its_own_instant_is_told_all_the_same() {
        let remote: SocketAddr = "198.51.100.7:40000".parse().expect("an address");
        let opening = |local| Opening { local, remote, after: Duration::ZERO, ttl: None };
        let plan = || Plan {
            openings: vec![opening(0), opening(1)],
            listen: vec![0],
            redials: 0,
            verdict: Verdict::Try,
        };
        let (now, mut out) = (start(), Outbox::new());
        let at = now + Duration::from_millis(5);
        let effort = || Effort { full: vec![remote.ip()], others: 0 };
        let mut openings = Openings::new(PortsId(1));
        openings.open(at, plan(), effort(), &mut out);
        openings.completed(now, 1);
        let tried = openings.take_tried(now).expect("news");
        assert_eq!(tried.iter().map(|syn| syn.came.is_some()).collect::<Vec<_>>(), [true]);
        // The other side's SYN came in first: that nothing was opened is told, once.
        let mut openings = Openings::new(PortsId(2));
        openings.open(at, plan(), effort(), &mut out);
        assert_eq!(openings.take_tried(now), Some(Vec::new()));
        assert_eq!(openings.take_tried(at), None);
        // A plain connect inside a LAN opens nothing that a NAT could have to do with.
        let mut openings = Openings::new(PortsId(3));
        openings.connect_in_lan(now, remote, &mut out);
        assert_eq!(openings.take_tried(now), None);
    }
}
