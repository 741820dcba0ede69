//! Which probes to make, and which of their answers speak about one public address.

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
    ops::Range,
    time::Duration,
};

use super::{Observation, predict::predict};
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

/// The first group of probes: the first [`PROBED_LOCALS`] of `locals` punch ports, each to every one of
/// `servers` (probe addresses of one address family, each server with at least two ports), all at once. At
/// most half of [`MAX_BATCH`].
///
/// No (local port, server address, server port) occurs twice: a second connection of the same tuple
/// would fail. Neighbouring probes differ in local port *and* in server, so that a port that follows
/// the one or the other is not taken for a counter, and each server sees early and late ones.
pub fn probe_batch(locals: u16, servers: &[SocketAddr]) -> Vec<Probe> {
    let all = locals.min(PROBED_LOCALS);
    grid(0..all, servers, usize::from(MAX_BATCH) / 2).zip(0u8..).map(probe).collect()
}

/// The second group of probes, for a NAT whose ports are not fixed: as many again, from the next
/// [`PROBED_LOCALS`] punch ports. Between it and the first one they show the rate of foreign connections,
/// and together an irregular step, and more of a block. They leave at once as well, as most gaps are to be
/// those of the counter's own steps. Their numbers go on from those of [`probe_batch`] for the same
/// `locals` and `servers`; [`super::predict`] takes the observations of both.
pub fn probe_more(locals: u16, servers: &[SocketAddr]) -> Vec<Probe> {
    let first = u8::try_from(probe_batch(locals, servers).len()).unwrap_or(MAX_BATCH);
    let second = PROBED_LOCALS.min(locals)..(2 * PROBED_LOCALS).min(locals);
    let most = MORE.min((MAX_BATCH - 1).saturating_sub(first).into());
    grid(second, servers, most).zip(first..).map(probe).collect()
}

/// Most probes of the second group, whatever the number of servers.
const MORE: usize = 8;

/// How long after the first group the second one leaves, where a server is `round_trip` away: so long that
/// a rate shows between the two, and so short that both are answered within 300 ms of what one would take.
pub fn pause(round_trip: Duration) -> Duration {
    round_trip.clamp(LEAST_PAUSE, MOST_PAUSE)
}

/// At 50 foreign connections a second two come in this time, which is enough to tell a busy NAT from a
/// quiet one.
const LEAST_PAUSE: Duration = Duration::from_millis(40);
/// See [`pause`].
const MOST_PAUSE: Duration = Duration::from_millis(200);

/// Whether the observations of the first group say all that there is to say: the ports are fixed
/// ([`Model::Fixed`], without [`Prediction::fresh`](super::Prediction::fresh)), or nothing was observed.
pub fn is_settled(observations: &[Observation], punch_ports: &[u16]) -> bool {
    let found = predict(observations, punch_ports);
    found.is_none_or(|found| found.is_settled())
}

/// One more probe, for just before the instant: from the last punch port, which neither group used, with
/// the last number that a batch can have. Its answer goes to [`super::refresh`]. `None` with too few punch
/// ports.
pub fn last_probe(locals: u16, servers: &[SocketAddr]) -> Option<Probe> {
    let local = locals.checked_sub(1).filter(|&local| local >= 2 * PROBED_LOCALS)?;
    let &server = servers.first()?;
    Some(Probe { number: MAX_BATCH - 1, local, server })
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

fn probe(((local, server), number): ((u16, SocketAddr), u8)) -> Probe {
    Probe { number, local, server }
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
    fn the_second_group_goes_on_where_the_first_one_ends() {
        let (first, second) = (probe_batch(16, &servers(2)), probe_more(16, &servers(2)));
        assert_eq!((second.len(), second[0].number), (8, 8));
        assert!(second.iter().all(|probe| (4..8).contains(&probe.local)));
        assert!(first.iter().all(|probe| probe.local < 4));
    }

    #[test]
    fn a_batch_is_bounded_and_empty_without_servers_or_ports() {
        assert_eq!(probe_batch(99, &servers(40)).len(), usize::from(MAX_BATCH) / 2);
        assert_eq!(probe_batch(2, &servers(2)).len(), 4);
        assert!(probe_batch(0, &servers(2)).is_empty());
        assert!(probe_batch(4, &[]).is_empty() && probe_more(4, &[]).is_empty());
        assert!(probe_more(4, &servers(2)).is_empty(), "no ports are left");
        assert!(probe_batch(99, &servers(40)).len() + probe_more(99, &servers(40)).len() < MAX_BATCH.into());
        assert_eq!(last_probe(8, &servers(2)), None);
        assert_eq!(last_probe(16, &servers(2)).map(|p| p.local), Some(15));
    }
}
