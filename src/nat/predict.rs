//! The simplest model that explains the observations.

use std::collections::BTreeMap;

use super::{
    Counter, MAX_PORTS, Mapping, Model, Observation, Prediction, fixed, observe, progression, spread,
};

/// What a model is held for.
pub(super) struct Fit {
    pub(super) model: Model,
    pub(super) mapping: Mapping,
    /// Percent.
    pub(super) confidence: u8,
}

/// Predicts the next external ports from the observations of a batch (in any order, some may be
/// missing). `punch_ports` are the local port numbers of all punch ports by index, probed or not.
///
/// `None` only without a usable observation. The models are tried from the most to the least
/// predictable: [`Model::Fixed`], [`Model::Progression`], [`Model::Band`], [`Model::Random`].
///
/// Where the NAT shows several public addresses, the most frequent one is predicted, with the
/// confidence that its share of the observations leaves.
///
/// What was tested beside the ports (filtering, answers to unsolicited SYNs, simultaneous open) is
/// unknown in the result: it is the caller's to fill in.
///
/// With a single server address, a mapping that depends on the destination's address alone cannot be
/// told from an endpoint-independent one: that takes a second probe server.
pub fn predict(observations: &[Observation], punch_ports: &[u16]) -> Option<Prediction> {
    let (address, seen) = observe::of_one_address(observations)?;
    let Fit { model, mapping, confidence } = fixed::fit(&seen, punch_ports).unwrap_or_else(|| {
        let (mapping, draws) = draws(&seen);
        progression::fit(&draws, mapping).unwrap_or_else(|| spread::fit(&draws, mapping))
    });
    let fresh = fresh(&model, mapping, &seen, punch_ports);
    let share = seen.len() * 100 / observations.len().max(1);
    let confidence = u8::try_from(usize::from(confidence) * share / 100).unwrap_or(0);
    Some(Prediction { fresh, ..Prediction::new(address, model, mapping, confidence) })
}

/// Whether the observations of the first group say all that there is to say: the ports are fixed
/// ([`Model::Fixed`], without [`Prediction::fresh`], and nothing that looks like it), or nothing was observed.
pub fn is_settled(observations: &[Observation], punch_ports: &[u16]) -> bool {
    let Some((_, seen)) = observe::of_one_address(observations) else { return true };
    let Some(found) = predict(observations, punch_ports) else { return true };
    // Four ports in order are one in twelve by chance: too little to believe, enough to look again.
    let in_order = |draws: Vec<Observation>| {
        draws.is_sorted_by_key(|o| o.observed.port())
            || draws.iter().rev().is_sorted_by_key(|o| o.observed.port())
    };
    found.is_settled() && !new_ones(&found.model, found.mapping, &seen, punch_ports).is_some_and(in_order)
}

/// The counter that new mappings draw from, where it is not known what else they might.
fn fresh(model: &Model, mapping: Mapping, seen: &[Observation], punch_ports: &[u16]) -> Option<Counter> {
    // A carrier that keeps ports (RFC 6888) draws them out of the customer's block: that they are close
    // together says nothing.
    match progression::fit(&new_ones(model, mapping, seen, punch_ports)?, mapping)?.model {
        Model::Progression(counter) => Some(counter),
        _ => None,
    }
}

/// The first observation of each local port, where only those are predicted, and where one server address
/// cannot tell whether they hold for others.
fn new_ones(
    model: &Model,
    mapping: Mapping,
    seen: &[Observation],
    punch_ports: &[u16],
) -> Option<Vec<Observation>> {
    let Model::Fixed { ports } = model else { return None };
    let known = ports.len() >= punch_ports.len().min(MAX_PORTS);
    let one_address = seen.iter().all(|o| Some(o.server.ip()) == seen.first().map(|f| f.server.ip()));
    if known || !one_address || mapping != Mapping::EndpointIndependent {
        return None;
    }
    let mut firsts: BTreeMap<u16, Observation> = BTreeMap::new();
    for &observation in seen {
        firsts.entry(observation.local).or_insert(observation);
    }
    Some(in_a_row(firsts.into_values()))
}

/// In the order in which they left, numbered anew: those that drew nothing are no gaps in the numbers.
fn in_a_row(draws: impl Iterator<Item = Observation>) -> Vec<Observation> {
    let mut draws: Vec<_> = draws.collect();
    draws.sort_by_key(|o| o.number);
    draws.iter_mut().zip(0..).for_each(|(draw, number)| draw.number = number);
    draws
}

/// The observations that drew a new port each: all of them, unless the ports depend on the
/// destination's address alone, where only the first towards each address did.
fn draws(seen: &[Observation]) -> (Mapping, Vec<Observation>) {
    let mut firsts: BTreeMap<_, Observation> = BTreeMap::new();
    let (mut same, mut other) = (0, 0);
    for &observation in seen {
        let first = *firsts.entry((observation.local, observation.server.ip())).or_insert(observation);
        if first.number != observation.number {
            let repeated = first.observed.port() == observation.observed.port();
            *(if repeated { &mut same } else { &mut other }) += 1;
        }
    }
    if same <= other {
        return (Mapping::AddressAndPortDependent, seen.to_vec());
    }
    (Mapping::AddressDependent, in_a_row(firsts.into_values()))
}
