//! Fixed × anything that moves: the fixed side opens from *one* local port to every port that the other
//! may get, the other opens some sockets, all to that one port. One of them being covered is enough.

use std::time::Duration;

use super::{LOWEST_PORT, MOST_DOUBLINGS, Manners, Opening, Pair, Plan, known, shift::Shift};
use crate::nat::{Counter, Model};

/// Standard deviations of a counter's shift that are covered on either side, in halves, beside ...
const DEVIATIONS: u64 = 10;

/// ... ports of a counter that are covered even when nothing is expected to move it: the rate may be
/// anything, as a batch of probes shows little of it. 32 foreign connections in the usual 0.4 s are 80 a
/// second; more only costs SYNs.
const LEAST_RUN: u64 = 32;

/// Sockets of a counter's side, and when they open. Each draws the next port, so one would do; the
/// others are for SYNs that get lost (1 % and more) and, the later ones, for a fixed side that is late
/// and whose NAT refuses what comes early.
const HANDFUL_MS: [u64; 8] = [0, 0, 0, 0, 100, 100, 300, 300];

/// Sockets of a band's side, at least: with the whole band covered one would do; with a third of it covered
/// (a block of 2048, widened, against 1024 openings) 16 miss once in 600 times.
const BAND_SOCKETS: u16 = 16;

/// Expected hits in a band of which the budget covers a small part only: none happens once in 600 times.
const BAND_HITS: u64 = 6;

/// Sockets of a random side. Against 1024 covered ports of 64512 the expected number of hits is 5, and
/// none happens 0.6 % of the time (with the usual 256 it is 1.7 %).
const RANDOM_SOCKETS: u16 = 320;

/// Redials of a covering opening. Most of them go to ports that nobody will ever use and are refused
/// each time, where the NAT refuses at all: twice reaches clocks that disagree by two round trips
/// without a storm.
const COVER_REDIALS: u8 = 2;

/// A stride through the 64512 ports that visits each once before any twice (odd, and no multiple of 3
/// or 7: 64512 = 2^10 · 3^2 · 7) and spreads any few of them evenly: about 64512 / golden ratio.
const STRIDE: u64 = 39_871;

/// Ports that a NAT may draw from.
const ALL_PORTS: u64 = 65_536 - LOWEST_PORT as u64;

/// The fixed side.
pub(super) fn from_one_port(pair: &Pair, mine: &[u16], theirs: &Model) -> Plan {
    let Some((local, _)) = known(mine).next() else {
        return Plan::hopeless("no port of the fixed side is known");
    };
    let Manners { after, ttl } = pair.manners(Some(true));
    let opening = |port| Opening { local, remote: pair.towards(port), after, ttl };
    let openings: Vec<_> = covered(pair, theirs).into_iter().map(opening).collect();
    if openings.is_empty() {
        return Plan::hopeless("the budget allows no opening");
    }
    let redials = pair.budget.redials(openings.len()).min(COVER_REDIALS);
    Plan::of(openings, redials)
}

/// The other side.
pub(super) fn to_one_port(pair: &Pair, mine: &Model, theirs: &[u16]) -> Plan {
    let Some((_, port)) = known(theirs).next() else {
        return Plan::hopeless("no port of the fixed side is known");
    };
    let sockets = sockets(pair, mine, pair.spent);
    if sockets == 0 {
        return Plan::hopeless(
            "the part of the block of ports that may be used is used up; it frees in minutes",
        );
    }
    let manners = pair.manners(Some(false));
    let after = |i: u16| match mine {
        Model::Progression(_) => HANDFUL_MS.get(usize::from(i)).map_or(0, |&ms| ms),
        _ => 0,
    };
    let openings = (0..sockets).map(|local| Opening {
        local,
        remote: pair.towards(port),
        after: manners.after + Duration::from_millis(after(local)),
        ttl: manners.ttl,
    });
    Plan::of(openings.collect(), 0)
}

/// Sockets of the moving side, which has so many mappings already.
pub(super) fn sockets(pair: &Pair, moving: &Model, spent: u16) -> u16 {
    let wanted = match moving {
        Model::Random => RANDOM_SOCKETS,
        Model::Band { low, high, size, .. } => {
            let width = u64::from(high.saturating_sub(*low)) + 1;
            let enough = (BAND_HITS * width).div_ceil(u64::from(pair.budget.openings).max(1));
            let enough = u16::try_from(enough).unwrap_or(u16::MAX).max(BAND_SOCKETS);
            let part = u32::from(*size) * u32::from(pair.budget.block_percent) / 100;
            let left = u16::try_from(part).unwrap_or(u16::MAX).saturating_sub(spent);
            enough.min(left)
        }
        _ => HANDFUL_MS.len() as u16,
    };
    wanted.min(pair.budget.openings)
}

/// Ports of the moving side that are covered, the likeliest first.
pub(super) fn covered(pair: &Pair, moving: &Model) -> Vec<u16> {
    let budget = u64::from(pair.budget.openings);
    match *moving {
        Model::Progression(counter) => run(pair, counter, budget),
        Model::Band { low, high, .. } => {
            let low = low.max(LOWEST_PORT);
            let width = u64::from(high.saturating_sub(low)) + 1;
            // Evenly over the band where the budget does not fill it; other ports in another round.
            let taken = width.min(budget);
            let shift = u64::from(pair.round);
            let at = |i: u64| u16::try_from(u64::from(low) + (i * width / taken + shift) % width).ok();
            (0..taken).filter_map(at).collect()
        }
        Model::Random => {
            let first = u64::from(pair.round) * budget;
            let at = |i: u64| u16::try_from(u64::from(LOWEST_PORT) + (i * STRIDE) % ALL_PORTS).ok();
            (first..first + budget.min(ALL_PORTS)).filter_map(at).collect()
        }
        Model::Fixed { .. } => Vec::new(),
    }
}

/// Ports that a counter gives to the handful, from the fewest foreign connections to the most: all those
/// on its way, where its steps are irregular.
fn run(pair: &Pair, counter: Counter, budget: u64) -> Vec<u16> {
    let last = HANDFUL_MS.last().map_or(Duration::ZERO, |&ms| Duration::from_millis(ms));
    let (soon, late) = (Shift::new(counter, pair.window), Shift::new(counter, pair.window + last));
    let halves = DEVIATIONS + 2 * u64::from(pair.round);
    let reach = |shift: &Shift| (shift.deviation_centi(0) * halves).div_ceil(200);
    let spare = LEAST_RUN << pair.round.min(MOST_DOUBLINGS);
    let first = soon.mean().saturating_sub(reach(&soon) + spare);
    let end = late.mean().saturating_add(reach(&late)).saturating_add(spare);
    // Connections to ports: one for one where steps are even, all in between where they are not.
    let (places, each) = if soon.is_even() { (1, 1) } else { (soon.pace(), 2) };
    let (first, end, likeliest) =
        (first * places / each, (end * places).div_ceil(each), soon.mean() * places / each);
    let (first, end) = if end - first > budget {
        let first = likeliest.saturating_sub(budget / 2);
        (first, first.saturating_add(budget))
    } else {
        (first, end)
    };
    let mut run: Vec<u64> = (first..end).collect();
    run.sort_by_key(|place| place.abs_diff(likeliest));
    let port = |place| if soon.is_even() { soon.port(place) } else { soon.port_beyond(place) };
    run.into_iter().map(port).collect()
}
