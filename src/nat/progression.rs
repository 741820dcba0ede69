//! A counter that every new connection moves: ours, and those of everybody else behind it.
//!
//! Whether the ports were counted at all is decided by their order alone; how far the counter moves each
//! time, and how many of the moves were foreign, by the law of its gaps ([`super::steps`]).

use std::{collections::BTreeMap, net::IpAddr};

use super::{
    Counter, Mapping, Model, Observation,
    predict::Fit,
    stats::{order_by_chance, range_by_chance},
    steps::{self, Gap},
};

/// Product of the two chances (order and range of the ports, were they drawn at random) below which they
/// are held for a counter. The chances are independent and two readings are tried (with and without a
/// passage over the end of the range), so the error rate is 2 α (1 - ln α) = 0.11 %: one random NAT in a
/// thousand is taken for a counter, and found out by the round that fails. Eight ports in perfect order
/// pass.
const ALPHA: f64 = 5e-5;

/// Smallest block that a carrier gives to a customer (RFC 7422's examples begin there): draws out of it
/// are the hardest to tell from a counter, so it is what the range is held against.
const SMALLEST_BLOCK: u32 = 256;

/// The ports that NATs usually count through, and how many they are.
const USUAL: (i32, i32) = (1024, 65_535);
const USUAL_PORTS: i32 = USUAL.1 - USUAL.0 + 1;

/// Longest time that a batch is taken to last, microseconds: what a server says is not believed blindly.
const LONGEST_WINDOW_US: u64 = 10_000_000;

/// Fits [`Model::Progression`] to new ports in the order in which their connections left, or says that
/// they were not counted.
pub(super) fn fit(draws: &[Observation], mapping: Mapping) -> Option<Fit> {
    let ports: Vec<i32> = draws.iter().map(|o| i32::from(o.observed.port())).collect();
    let straight = Run::of(ports.clone(), None);
    let passing = over_the_end(&ports).and_then(|(ports, turn)| Run::of(ports, Some(turn)));
    let runs = straight.into_iter().chain(passing);
    let run = runs.min_by(|a, b| a.chance.total_cmp(&b.chance)).filter(|run| run.chance <= ALPHA)?;

    let steps = steps::fit(&run.gaps(draws))?;
    let step = i16::try_from(steps.step).ok()?;
    let newest = if run.rising { run.positions.last()? } else { run.positions.first()? };
    let next = newest + if run.rising { i32::from(step) } else { -i32::from(step) };
    let counter = Counter {
        next: u16::try_from(run.port(next)).ok()?,
        step: if run.rising { step } else { -step },
        jitter: u16::try_from(steps.jitter).ok()?,
        rate_centi: steps.rate_centi,
        over_ms: steps.over_ms,
    };
    let confidence = (99.0 * steps.probability * (1.0 - 2.0 * run.chance)).round();
    Some(Fit { model: Model::Progression(counter), mapping, confidence: confidence as u8 })
}

/// Ports as places on a line, on which a counter does not turn back.
struct Run {
    /// Rising.
    positions: Vec<i32>,
    rising: bool,
    /// Probability of so much order so close together, were the ports drawn at random.
    chance: f64,
    turn: Option<Turn>,
}

/// Where a counter started over.
struct Turn {
    /// Number of ports that it counts through.
    ports: i32,
    /// Highest of them.
    highest: i32,
    /// Place behind which it was, and how far it moved then is not known.
    unknown_after: Option<i32>,
}

impl Run {
    fn of(mut positions: Vec<i32>, turn: Option<Turn>) -> Option<Self> {
        let n = positions.len();
        let pairs = positions.iter().enumerate();
        let pairs = pairs.flat_map(|(i, a)| positions.iter().skip(i + 1).map(move |b| (a, b)));
        let (falling, rising) =
            pairs.fold((0, 0), |(f, r), (a, b)| if a > b { (f + 1, r) } else { (f, r + 1) });
        positions.sort_unstable();
        // A port used for two destinations at once was not counted; and two are no sequence.
        if n < 3 || positions.windows(2).any(|w| w.first() == w.get(1)) {
            return None;
        }
        let range = positions.last()?.abs_diff(*positions.first()?);
        let order = order_by_chance(n, falling.min(rising));
        let close = range_by_chance(n, range, SMALLEST_BLOCK);
        let chance = match &turn {
            None => order * close,
            // There were as many places to cut as ports.
            Some(Turn { unknown_after: None, .. }) => order * close * n as f64,
            // And the range is not that of draws any more.
            Some(_) => order * n as f64,
        };
        Some(Run { positions, rising: rising > falling, chance, turn })
    }

    /// The distances between neighbours, in the order in which they were drawn. Jitter of the network may
    /// have exchanged neighbours: the first port belongs to the first number and the first arrival.
    fn gaps(&self, draws: &[Observation]) -> Vec<Gap> {
        let mut positions = self.positions.clone();
        if !self.rising {
            positions.reverse();
        }
        let mut times = times(draws);
        times.sort_unstable();
        let unknown = self.turn.as_ref().and_then(|t| t.unknown_after);
        let places = positions.windows(2).map(|w| (w.iter().min().copied(), w.iter().max().copied()));
        places
            .zip(draws.windows(2))
            .zip(times.windows(2))
            .filter_map(|((place, numbers), times)| {
                let (Some(low), Some(high)) = place else { return None };
                let own = numbers.last()?.number.saturating_sub(numbers.first()?.number);
                Some(Gap {
                    ports: (unknown != Some(low)).then(|| high.abs_diff(low)),
                    own: own.max(1).into(),
                    us: times.last()?.saturating_sub(*times.first()?).min(LONGEST_WINDOW_US),
                })
            })
            .collect()
    }

    /// The port at a place.
    fn port(&self, position: i32) -> i32 {
        match &self.turn {
            Some(turn) if position > turn.highest => position - turn.ports,
            Some(_) => position,
            None => USUAL.0 + (position - USUAL.0).rem_euclid(USUAL_PORTS),
        }
    }
}

/// The ports read as those of a counter that passed the end of its range and went on at the other: cut
/// at the widest distance between neighbours, the lower ones behind the higher.
///
/// Where the range is the usual one, the distance over the end is known; otherwise the ends of the range
/// are learned: they are where the counter turned.
fn over_the_end(ports: &[i32]) -> Option<(Vec<i32>, Turn)> {
    let mut sorted = ports.to_vec();
    sorted.sort_unstable();
    let (lowest, highest) = (*sorted.first()?, *sorted.last()?);
    let mut gaps: Vec<(i32, i32)> =
        sorted.windows(2).filter_map(|w| Some((w.get(1)? - w.first()?, *w.first()?))).collect();
    gaps.sort_unstable();
    let (_, cut) = gaps.pop()?;
    let (widest, usual) = (gaps.last()?.0, gaps.get(gaps.len() / 2)?.0);
    let around = (lowest - USUAL.0) + (USUAL.1 - highest) + 1;
    let turn = if around <= 2 * widest {
        Turn { ports: USUAL_PORTS, highest: USUAL.1, unknown_after: None }
    } else {
        Turn { ports: highest - lowest + usual, highest, unknown_after: Some(highest) }
    };
    Some((ports.iter().map(|&p| if p <= cut { p + turn.ports } else { p }).collect(), turn))
}

/// When the connections arrived, microseconds on one clock. Servers' clocks have nothing to do with each
/// other: those of the others are moved so that what they saw falls between what the first saw.
fn times(draws: &[Observation]) -> Vec<u64> {
    let mut by_server: BTreeMap<IpAddr, Vec<&Observation>> = BTreeMap::new();
    draws.iter().for_each(|o| by_server.entry(o.server.ip()).or_default().push(o));
    let Some(reference) = by_server.values().max_by_key(|seen| seen.len()) else { return Vec::new() };
    // Of the reference's observations, the one that left nearest to that number.
    let near = |number: u8| reference.iter().min_by_key(|o| o.number.abs_diff(number)).map(|o| o.at_us);
    let mut times = Vec::with_capacity(draws.len());
    for seen in by_server.values() {
        let mut offsets: Vec<i128> =
            seen.iter().filter_map(|o| Some(i128::from(near(o.number)?) - i128::from(o.at_us))).collect();
        offsets.sort_unstable();
        let offset = offsets.get(offsets.len() / 2).copied().unwrap_or(0);
        times.extend(seen.iter().map(|o| u64::try_from(i128::from(o.at_us) + offset).unwrap_or(0)));
    }
    times
}

#[cfg(test)]
mod tests;
