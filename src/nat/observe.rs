//! Which probes to make, and which of their answers speak about one public address.

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
};

use super::Observation;
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
}

/// The probes of a batch: the first [`PROBED_LOCALS`] of `locals` punch ports, each to every one of
/// `servers` (probe addresses of one address family, each server with at least two ports). At most
/// [`MAX_BATCH`]; servers beyond that are left out.
///
/// No (local port, server address, server port) occurs twice: a second connection of the same tuple
/// would fail. Neighbouring probes differ in local port *and* in server, so that a port that follows
/// the one or the other is not taken for a counter, and each server sees early and late ones.
pub fn probe_batch(locals: u16, servers: &[SocketAddr]) -> Vec<Probe> {
    let locals = locals.min(PROBED_LOCALS);
    let most = usize::from(MAX_BATCH) / usize::from(PROBED_LOCALS);
    let servers = servers.get(..most).unwrap_or(servers);
    let pairs = (0..servers.len())
        .flat_map(|turn| (0..locals).map(move |local| (local, (usize::from(local) + turn) % servers.len())));
    pairs
        .zip(0u8..)
        .filter_map(|((local, server), number)| {
            servers.get(server).map(|&server| Probe { number, local, server })
        })
        .collect()
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
        assert_eq!(probe_batch(99, &servers(40)).len(), usize::from(MAX_BATCH));
        assert_eq!(probe_batch(2, &servers(2)).len(), 4);
        assert!(probe_batch(0, &servers(2)).is_empty());
        assert!(probe_batch(4, &[]).is_empty());
    }
}
