//! One external port for each local port, whatever the destination: the three predictable kinds.
//!
//! Endpoint-independent NATs, NATs that keep the source port, and NATs that add a constant to it all
//! answer the only question that matters: which external port will punch port i have? The last two also
//! answer it for ports that were not probed.

use std::collections::BTreeMap;

use super::{MAX_PORTS, Mapping, Model, Observation, predict::Fit};

/// Several ports agreed with themselves and with one offset.
const SURE: u8 = 99;
/// Several ports agreed with themselves; those that were not probed cannot be inferred.
const AGREED: u8 = 95;
/// One comparison only. A NAT that draws out of a block of 256 (the smallest known) passes it by chance
/// once in 256 times; but then a real NAT of this kind would be seen far more often.
const ONCE: u8 = 80;

/// Fits [`Model::Fixed`], or says that it does not.
pub(super) fn fit(seen: &[Observation], punch_ports: &[u16]) -> Option<Fit> {
    let mut by_local: BTreeMap<u16, Vec<Observation>> = BTreeMap::new();
    for &observation in seen {
        by_local.entry(observation.local).or_default().push(observation);
    }
    let compared: Vec<_> = by_local.values().filter(|group| group.len() > 1).collect();
    let agreeing = compared.iter().filter(|group| agrees(group)).count();
    let differing = compared.len() - agreeing;

    let offset = offset(&by_local);
    let (model, confidence) = match (agreeing, differing) {
        // Only one server port answered: nothing but the offset can tell. A port that was kept is no
        // accident (1 in 65536); any other offset must hold for two ports that a counter cannot mimic.
        (0, 0) => (ports(&by_local, punch_ports, offset?)?, ONCE),
        // One port of several may have collided with somebody else's: that is still this kind of NAT. Two
        // agreements by chance: 6 in 65536 for four draws out of a block of 256.
        (1, 0) | (2.., _) if agreeing > differing => match offset {
            Some(by) => (ports(&by_local, punch_ports, by)?, if agreeing > 1 { SURE } else { ONCE }),
            None => (only_probed(&by_local)?, if agreeing > 1 { AGREED } else { ONCE }),
        },
        _ => return fresh_ports(&by_local, punch_ports),
    };
    Some(Fit { model, mapping: Mapping::EndpointIndependent, confidence })
}

/// A NAT that keeps the port of the first connection, but uses no external port towards two
/// destinations: the punch ports that were probed are spoilt, the others will be kept.
fn fresh_ports(by_local: &BTreeMap<u16, Vec<Observation>>, punch_ports: &[u16]) -> Option<Fit> {
    let kept = |o: &Observation| o.observed.port() == o.local_port;
    let firsts_kept = by_local.values().all(|group| group.first().is_some_and(kept));
    if by_local.len() < 2 || !firsts_kept {
        return None;
    }
    let unprobed = punch_ports.iter().zip(0u16..).take(MAX_PORTS);
    let ports: Vec<u16> = unprobed.map(|(&p, i)| if by_local.contains_key(&i) { 0 } else { p }).collect();
    let model = known(ports)?;
    Some(Fit { model, mapping: Mapping::AddressAndPortDependent, confidence: ONCE })
}

/// All probes from one local port were seen at one external port.
fn agrees(group: &[Observation]) -> bool {
    group.windows(2).all(|w| match w {
        [a, b] => a.observed.port() == b.observed.port(),
        _ => true,
    })
}

/// The distance from local to external port that more than half of the local ports share, if it can be
/// relied on for the others.
fn offset(by_local: &BTreeMap<u16, Vec<Observation>>) -> Option<u16> {
    let firsts: Vec<_> = by_local.values().filter(|g| agrees(g)).filter_map(|g| g.first()).collect();
    let mut votes: BTreeMap<u16, usize> = BTreeMap::new();
    for o in &firsts {
        *votes.entry(o.observed.port().wrapping_sub(o.local_port)).or_default() += 1;
    }
    let (&offset, &count) = votes.iter().max_by_key(|&(_, &count)| count)?;
    let shared = count * 2 > firsts.len();
    let reliable = offset == 0 || (count > 1 && !evenly_spaced(&firsts));
    (shared && reliable).then_some(offset)
}

/// Local ports at even distances, in the order in which they were probed: a counter keeps a constant
/// distance to those as well.
fn evenly_spaced(firsts: &[&Observation]) -> bool {
    let mut firsts = firsts.to_vec();
    firsts.sort_by_key(|o| o.number);
    let gaps: Vec<u16> = firsts
        .windows(2)
        .filter_map(|w| Some(w.get(1)?.local_port.wrapping_sub(w.first()?.local_port)))
        .collect();
    gaps.windows(2).all(|w| w.first() == w.get(1))
}

/// External ports: as seen where seen, by the offset elsewhere.
fn ports(by_local: &BTreeMap<u16, Vec<Observation>>, punch_ports: &[u16], offset: u16) -> Option<Model> {
    let all = punch_ports.iter().zip(0u16..).take(MAX_PORTS);
    known(all.map(|(port, i)| by_local.get(&i).map_or(port.wrapping_add(offset), |g| seen_port(g))).collect())
}

/// External ports of the punch ports that were probed.
fn only_probed(by_local: &BTreeMap<u16, Vec<Observation>>) -> Option<Model> {
    let last = by_local.keys().copied().filter(|&i| usize::from(i) < MAX_PORTS).max()?;
    known((0..=last).map(|i| by_local.get(&i).map_or(0, |g| seen_port(g))).collect())
}

/// The one port that a local port was seen at, or 0.
fn seen_port(group: &[Observation]) -> u16 {
    group.first().filter(|_| agrees(group)).map_or(0, |o| o.observed.port())
}

fn known(mut ports: Vec<u16>) -> Option<Model> {
    while ports.last() == Some(&0) {
        ports.pop();
    }
    (!ports.is_empty()).then_some(Model::Fixed { ports })
}

#[cfg(test)]
mod tests {
    use crate::nat::{
        Mapping, Model, predict,
        synthetic::{Dice, Nat, batch, locals},
    };

    fn fixed(nat: &mut Nat, punch: &[u16]) -> Vec<u16> {
        let found = predict(&batch(nat, punch), punch).unwrap();
        assert_eq!(found.mapping, Mapping::EndpointIndependent);
        assert!(found.confidence >= 80 && found.is_sound(), "{found:?}");
        match found.model {
            Model::Fixed { ports } => ports,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_kept_port_is_predicted_for_every_punch_port() {
        for seed in 0..200 {
            let punch = locals(&mut Dice::new(seed), 16);
            assert_eq!(fixed(&mut Nat::preserving(seed), &punch), punch);
        }
    }

    #[test]
    fn a_constant_offset_is_predicted_for_every_punch_port() {
        for seed in 0..200 {
            let punch = locals(&mut Dice::new(seed), 16);
            let by = 1 + Dice::new(seed + 1000).below(9000) as u16;
            let expected: Vec<u16> = punch.iter().map(|p| p.wrapping_add(by)).collect();
            assert_eq!(fixed(&mut Nat::offset(seed, by), &punch), expected);
        }
    }

    #[test]
    fn an_endpoint_independent_mapping_is_predicted_for_the_ports_that_were_probed() {
        for seed in 0..200 {
            let punch = locals(&mut Dice::new(seed), 16);
            let mut nat = Nat::endpoint_independent(seed);
            let found = fixed(&mut nat, &punch);
            assert_eq!(found.len(), 4);
            for (port, local) in found.iter().zip(&punch) {
                assert_eq!(*port, nat.open(*local, "203.0.113.9:5".parse().unwrap()).port());
            }
        }
    }

    #[test]
    fn a_counter_behind_consecutive_local_ports_is_not_extrapolated_as_an_offset() {
        let punch: Vec<u16> = (40_000..40_016).collect();
        let mut nat = Nat::endpoint_independent_counter(3, 1);
        assert_eq!(fixed(&mut nat, &punch).len(), 4);
    }

    #[test]
    fn one_collision_does_not_hide_a_kept_port() {
        for victim in 0..8 {
            let punch = locals(&mut Dice::new(8), 16);
            let mut seen = batch(&mut Nat::preserving(8), &punch);
            seen[victim].observed.set_port(1234);
            let spoilt = seen[victim].local as usize;
            let Some(Model::Fixed { ports }) = predict(&seen, &punch).map(|p| p.model) else { panic!() };
            assert!(ports.iter().zip(&punch).enumerate().all(|(i, (a, b))| a == b || i == spoilt && *a == 0));
        }
    }

    #[test]
    fn one_answering_server_port_is_enough_for_a_kept_port_and_a_constant_offset() {
        for by in [0, 77] {
            let punch = locals(&mut Dice::new(9), 16);
            let mut seen = batch(&mut Nat::offset(9, by), &punch);
            let first = seen[0].server;
            seen.retain(|o| o.server == first);
            let expected: Vec<u16> = punch.iter().map(|p| p.wrapping_add(by)).collect();
            assert_eq!(predict(&seen, &punch).unwrap().model, Model::Fixed { ports: expected });
        }
    }

    #[test]
    fn where_only_first_connections_keep_their_port_the_unprobed_ones_are_predicted() {
        for seed in 0..50 {
            let punch = locals(&mut Dice::new(seed), 8);
            let found = predict(&batch(&mut Nat::preserving_once(seed), &punch), &punch).unwrap();
            let mut expected = punch.clone();
            expected[..4].fill(0);
            assert_eq!(found.model, Model::Fixed { ports: expected });
            assert_eq!(found.mapping, Mapping::AddressAndPortDependent);
        }
    }
}
