//! The openings of a round: which ports listen, what was handed to the driver, and what came of it.

use std::{
    collections::BTreeSet,
    fmt::Debug,
    net::{IpAddr, SocketAddr},
    time::{Duration, Instant},
};

use super::{OpenFailure, Outbox, Output, PortsId};
use crate::{
    punch::{Budget, FIRST_PORTS, Opening, Plan, schedule::OPENING_WINDOW},
    wire::peer::RoundId,
};

/// An opening that was refused is repeated after this: the other side's SYN is at most this late when
/// clocks agree, and a storm is not wanted when they do not.
const REDIAL_PAUSE: Duration = Duration::from_millis(20);

/// Listeners and openings of a round's ports.
pub(super) struct Openings {
    id: RoundId,
    ports: PortsId,
    /// Punch ports that were asked for, in each family.
    asked: u16,
    listening: BTreeSet<u16>,
    /// The agreed instant.
    instant: Option<Instant>,
    dialled: Vec<Dialled>,
    /// Number of the first of them.
    first: u32,
    /// How often each refused opening is repeated.
    redials: u8,
}

/// An opening that was handed to the driver.
struct Dialled {
    local: Option<u16>,
    remote: SocketAddr,
    lan: bool,
    redials: u8,
}

/// What a trace says when an opening leaves.
#[derive(Debug)]
struct Leaves;

/// And when it is complete.
#[derive(Debug)]
struct Connected;

impl Openings {
    /// Those of a round whose first ports were asked for.
    pub(super) fn new(id: RoundId, ports: PortsId) -> Self {
        Openings {
            id,
            ports,
            asked: FIRST_PORTS,
            listening: BTreeSet::new(),
            instant: None,
            dialled: Vec::new(),
            first: 0,
            redials: 0,
        }
    }

    /// Listens on a punch port, once.
    pub(super) fn listen(&mut self, local: u16, out: &mut Outbox) {
        if self.listening.insert(local) {
            out.push_back(Output::Listen { ports: self.ports, local });
        }
    }

    /// A plain connect inside a LAN, at once.
    pub(super) fn connect_in_lan(&mut self, now: Instant, remote: SocketAddr, out: &mut Outbox) {
        self.dial(Dialled { local: None, remote, lan: true, redials: 0 }, now, None, out);
    }

    /// The instant is agreed: hands a plan's openings to the driver. Full effort goes only towards
    /// `proved`, the addresses that are known to be the peer's. Returns how many openings there are.
    pub(super) fn open(&mut self, at: Instant, plan: Plan, proved: &[IpAddr], out: &mut Outbox) -> usize {
        (self.instant, self.redials) = (Some(at), plan.redials);
        let wanted = plan.listen.iter().map(|local| local.saturating_add(1)).max().unwrap_or(0);
        if wanted > self.asked {
            self.asked = wanted;
            out.push_back(Output::Bind { ports: self.ports, count: wanted });
        }
        for local in plan.listen {
            self.listen(local, out);
        }
        let (before, mut unproved) = (self.dialled.len(), 0);
        for Opening { local, remote, after, ttl } in plan.openings {
            if !proved.contains(&remote.ip()) {
                unproved += 1;
                if unproved > Budget::UNPROVED.openings {
                    continue;
                }
            }
            self.dial(Dialled { local: Some(local), remote, lan: false, redials: 0 }, at + after, ttl, out);
        }
        self.dialled.len() - before
    }

    fn dial(&mut self, dialled: Dialled, at: Instant, ttl: Option<u8>, out: &mut Outbox) {
        let Dialled { local, remote, .. } = dialled;
        self.trace(&Leaves, at, remote, local);
        let opening = self.first.wrapping_add(self.dialled.len() as u32);
        out.push_back(Output::Connect { ports: self.ports, opening, local, remote, at, ttl });
        self.dialled.push(dialled);
    }

    /// An opening failed. Refused is not failed: its SYN came early, and inside the window it is repeated
    /// from the same port, where the plan says so.
    pub(super) fn failed(&mut self, now: Instant, opening: u32, why: &OpenFailure, out: &mut Outbox) {
        let again = now + REDIAL_PAUSE;
        let over = self.instant.is_none_or(|at| again >= at + OPENING_WINDOW);
        let number = opening.wrapping_sub(self.first) as usize;
        if let Some(dialled) = self.dialled.get(number) {
            self.trace(why, now, dialled.remote, dialled.local);
        }
        let Some(dialled) = self.dialled.get_mut(number) else { return };
        let early = matches!(why, OpenFailure::Refused | OpenFailure::Unreachable);
        if !early || over || dialled.lan || dialled.redials >= self.redials {
            return;
        }
        dialled.redials += 1;
        let Dialled { local, remote, .. } = *dialled;
        out.push_back(Output::Connect { ports: self.ports, opening, local, remote, at: again, ttl: None });
    }

    /// An opening is complete: where it went, and whether it was a plain connect inside a LAN.
    pub(super) fn completed(&self, now: Instant, opening: u32) -> Option<(SocketAddr, bool)> {
        let dialled = self.dialled.get(opening.wrapping_sub(self.first) as usize)?;
        self.trace(&Connected, now, dialled.remote, dialled.local);
        Some((dialled.remote, dialled.lan))
    }

    /// What is said about the openings so far is not listened to any more.
    pub(super) fn forget(&mut self) {
        self.first = self.first.wrapping_add(self.dialled.len() as u32);
        self.dialled.clear();
    }

    /// How many were handed out.
    pub(super) fn len(&self) -> usize {
        self.dialled.len()
    }

    /// Where they go.
    pub(super) fn targets(&self) -> impl Iterator<Item = IpAddr> {
        self.dialled.iter().map(|dialled| dialled.remote.ip())
    }

    /// For a person who wants to know (`-v`): what an opening does, relative to the agreed instant.
    fn trace(&self, what: &dyn Debug, now: Instant, remote: SocketAddr, local: Option<u16>) {
        let at = self.instant.unwrap_or(now);
        let late =
            now.saturating_duration_since(at).as_secs_f64() - at.saturating_duration_since(now).as_secs_f64();
        let (attempt, round) = (self.id.attempt, self.id.round);
        tracing::debug!(
            "opening {attempt}.{round} from port {local:?} to {remote}: {what:?} at {:+.1} ms",
            late * 1e3
        );
    }
}
