//! Which probes to make, and which of their answers speak about one public address.

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
    ops::Range,
    time::Duration,
};

use super::{Model, Observation, predict::predict};
use crate::wire::probe::MAX_BATCH;

/// Punch ports that are probed, the first ones by index. Two connections from each of four ports are
/// eight draws of a counter: eight in order by chance is 1 in 20000, and four ports still tell when one
/// of them collided with somebody else's.
pub const PROBED_LOCALS: u16 = 4;

/// One probe to make.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Probe {
    /// Its number: probes leave in this order, from 0.
    pub number: u8,
    /// Index of the punch port that it leaves from.
    pub local: u16,
    /// The server's address and port that it goes to.
    pub server: SocketAddr,
    /// When, counted from the beginning of its batch or phase.
    pub after: Duration,
}

/// Before the probes of the second phase. With the round trip of the first, a quarter of a second, in
/// which even 10 foreign connections a second show. The probes then leave together again, as most gaps
/// are to be those of the counter's own steps: the rate is seen between the phases, whatever is in them.
const PAUSE: Duration = Duration::from_millis(160);

/// The probes of a batch: the first [`PROBED_LOCALS`] of `locals` punch ports, each to every one of
/// `servers` (probe addresses of one address family, each server with at least two ports), all at once. At
/// most half of [`MAX_BATCH`].
///
/// No (local port, server address, server port) occurs twice: a second connection of the same tuple
/// would fail. Neighbouring probes differ in local port *and* in server, so that a port that follows
/// the one or the other is not taken for a counter, and each server sees early and late ones.
pub fn probe_batch(locals: u16, servers: &[SocketAddr]) -> Vec<Probe> {
    let all = locals.min(PROBED_LOCALS);
    grid(0..all, servers, usize::from(MAX_BATCH) / 2).zip(0u8..).map(at_once).collect()
}

/// The second phase, for a NAT whose ports are not fixed: as many probes again, from the next
/// [`PROBED_LOCALS`] punch ports, 160 ms from now. They show the rate of foreign connections, an
/// irregular step, and more of a block. Their numbers go on from those of [`probe_batch`] for the same
/// `locals` and `servers`, whose answers are `observations`; [`super::predict`] takes both together.
///
/// Empty where the first phase says all there is to say ([`Model::Fixed`], without
/// [`Prediction::fresh`](super::Prediction::fresh)), or nothing.
pub fn probe_more(observations: &[Observation], punch_ports: &[u16], servers: &[SocketAddr]) -> Vec<Probe> {
    let found = predict(observations, punch_ports);
    let settled = found.is_none_or(|p| matches!(p.model, Model::Fixed { .. }) && p.fresh.is_none());
    if settled {
        return Vec::new();
    }
    let locals = u16::try_from(punch_ports.len()).unwrap_or(u16::MAX);
    let first = u8::try_from(probe_batch(locals, servers).len()).unwrap_or(MAX_BATCH);
    let second = PROBED_LOCALS.min(locals)..(2 * PROBED_LOCALS).min(locals);
    let most = MORE.min((MAX_BATCH - 1).saturating_sub(first).into());
    grid(second, servers, most)
        .zip(first..)
        .map(at_once)
        .map(|probe| Probe { after: PAUSE, ..probe })
        .collect()
}

/// Most probes of the second phase: the time that it takes is bounded, whatever the number of servers.
const MORE: usize = 8;

/// One more probe, for just before the instant: from the last punch port, which neither phase used, with
/// the last number that a batch can have. Its answer goes to [`super::refresh`]. `None` with too few punch
/// ports.
pub fn last_probe(locals: u16, servers: &[SocketAddr]) -> Option<Probe> {
    let local = locals.checked_sub(1).filter(|&local| local >= 2 * PROBED_LOCALS)?;
    let &server = servers.first()?;
    Some(Probe { number: MAX_BATCH - 1, local, server, after: Duration::ZERO })
}

/// Every local port towards every server, neighbours differing in both.
fn grid(locals: Range<u16>, servers: &[SocketAddr], most: usize) -> impl Iterator<Item = (u16, SocketAddr)> {
    let turns = 0..servers.len();
    let pairs =
        turns.flat_map(move |turn| locals.clone().map(move |local| (local, usize::from(local) + turn)));
    let cycle =
        move |(local, server): (u16, usize)| Some((local, *servers.get(server.checked_rem(servers.len())?)?));
    pairs.filter_map(cycle).take(most)
}

fn at_once(((local, server), number): ((u16, SocketAddr), u8)) -> Probe {
    Probe { number, local, server, after: Duration::ZERO }
}

/// The observations that show the most frequent public address (of several, the one seen last), in the
/// order in which the probes left, each number once.
pub(super) fn of_one_address(observations: &[Observation]) -> Option<(IpAddr, Vec<Observation>)> {
    let usable: BTreeMap<u8, Observation> =
        observations.iter().filter(|o| o.observed.port() != 0).map(|o| (o.number, *o)).collect();
    let mut seen: BTreeMap<IpAddr, (usize, u8)> = BTreeMap::new();
    for (&number, observation) in &usable {
        let (count, last) = seen.entry(observation.observed.ip()).or_default();
        *count += 1;
        *last = number;
    }
    let (&address, _) = seen.iter().max_by_key(|&(_, &rank)| rank)?;
    Some((address, usable.into_values().filter(|o| o.observed.ip() == address).collect()))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn servers(count: u16) -> Vec<SocketAddr> {
        (0..count).map(|i| SocketAddr::from(([192, 0, 2, 1], 7862 + i))).collect()
    }

    #[test]
    fn every_probe_has_a_tuple_of_its_own_and_neighbours_share_nothing() {
        let batch = probe_batch(16, &servers(2));
        assert_eq!(batch.len(), 8);
        let tuples: BTreeSet<_> = batch.iter().map(|p| (p.local, p.server)).collect();
        assert_eq!(tuples.len(), 8);
        assert!(batch.iter().zip(0..).all(|(probe, number)| probe.number == number));
        let half = &batch[..4];
        assert!(half.windows(2).all(|w| w[0].local != w[1].local && w[0].server != w[1].server));
    }

    #[test]
    fn a_batch_is_bounded_and_empty_without_servers_or_ports() {
        assert_eq!(probe_batch(99, &servers(40)).len(), usize::from(MAX_BATCH) / 2);
        assert_eq!(probe_batch(2, &servers(2)).len(), 4);
        assert!(probe_batch(0, &servers(2)).is_empty());
        assert!(probe_batch(4, &[]).is_empty());
        assert_eq!(last_probe(8, &servers(2)), None);
        assert_eq!(last_probe(16, &servers(2)).map(|p| p.local), Some(15));
    }
}
