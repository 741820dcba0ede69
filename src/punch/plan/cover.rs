//! Fixed × anything that moves: the fixed side opens from *one* local port to every port that the other
//! may get, the other opens some sockets, all to that one port. One of them being covered is enough.

use std::time::Duration;

use super::{COUNTED_PORTS, LOW_TTL, LOWEST_PORT, Opening, Pair, Plan, SETTLE, counted, known};
use crate::nat::Model;

/// Ports of a counter that are covered even when nothing is expected to move it: the rate may be
/// anything, as a batch of probes shows little of it. 32 foreign connections in the usual 0.4 s are 80 a
/// second; more only costs SYNs.
const LEAST_RUN: u64 = 32;

/// Sockets of a counter's side, and when they open. Each draws the next port, so one would do; the
/// others are for SYNs that get lost (1 % and more) and, the later ones, for a fixed side that is late
/// and whose NAT refuses what comes early.
const HANDFUL_MS: [u64; 8] = [0, 0, 0, 0, 100, 100, 300, 300];

/// Sockets of a band's side: with the whole band covered one would do; with a third of it covered (a
/// block of 2048, widened, against 1024 openings) 16 miss once in 600 times.
const BAND_SOCKETS: u16 = 16;

/// Sockets of a random side. Against 1024 covered ports of 64512 the expected number of hits is 4, and
/// none happens 2 % of the time.
const RANDOM_SOCKETS: u16 = 256;

/// Redials of a covering opening. Most of them go to ports that nobody will ever use and are refused
/// each time, where the NAT refuses at all: twice reaches clocks that disagree by two round trips
/// without a storm.
const COVER_REDIALS: u8 = 2;

/// A stride through the 64512 ports that visits each once before any twice (odd, and no multiple of 3
/// or 7: 64512 = 2^10 · 3^2 · 7) and spreads any few of them evenly: about 64512 / golden ratio.
const STRIDE: u64 = 39_871;

/// The fixed side.
pub(super) fn from_one_port(pair: &Pair, mine: &[u16], theirs: &Model) -> Plan {
    let Some((local, _)) = known(mine).next() else {
        return Plan::hopeless("no port of the fixed side is known");
    };
    // Odd rounds assume that the other NAT takes offence at SYNs to ports that are not in use.
    let ttl = (pair.round % 2 == 1).then_some(LOW_TTL);
    let opening = |port| Opening { local, remote: pair.towards(port), after: Duration::ZERO, ttl };
    let openings: Vec<_> = covered(pair, theirs).map(opening).collect();
    if openings.is_empty() {
        return Plan::hopeless("the budget allows no opening");
    }
    Plan::of(openings, COVER_REDIALS)
}

/// The other side.
pub(super) fn to_one_port(pair: &Pair, mine: &Model, theirs: &[u16]) -> Plan {
    let Some((_, port)) = known(theirs).next() else {
        return Plan::hopeless("no port of the fixed side is known");
    };
    let sockets = match mine {
        Model::Random => RANDOM_SOCKETS,
        Model::Band { .. } => BAND_SOCKETS,
        _ => HANDFUL_MS.len() as u16,
    };
    let settle = if pair.round % 2 == 1 { SETTLE } else { Duration::ZERO };
    let after = |i: u16| match mine {
        Model::Progression { .. } => HANDFUL_MS.get(usize::from(i)).map_or(0, |&ms| ms),
        _ => 0,
    };
    let openings = (0..sockets.min(pair.budget.openings)).map(|local| Opening {
        local,
        remote: pair.towards(port),
        after: settle + Duration::from_millis(after(local)),
        ttl: None,
    });
    Plan::of(openings.collect(), 0)
}

/// Ports of the moving side that are covered, the likeliest first.
fn covered(pair: &Pair, theirs: &Model) -> Box<dyn Iterator<Item = u16>> {
    let budget = u64::from(pair.budget.openings);
    match *theirs {
        Model::Progression { next, step, rate_centi } => {
            let reach = pair.reach(rate_centi, LEAST_RUN);
            // Where the budget does not reach from `next` to the end, it is spent around the expectation.
            let first = if reach > budget { pair.expected(rate_centi).saturating_sub(budget / 2) } else { 0 };
            Box::new((first..first.saturating_add(reach.min(budget))).map(move |k| counted(next, step, k)))
        }
        Model::Band { low, high } => {
            let low = low.max(LOWEST_PORT);
            let width = u64::from(high.saturating_sub(low)) + 1;
            // Evenly over the band where the budget does not fill it; other ports in another round.
            let taken = width.min(budget);
            let shift = u64::from(pair.round);
            let at = move |i: u64| u16::try_from(u64::from(low) + (i * width / taken + shift) % width).ok();
            Box::new((0..taken).filter_map(at))
        }
        Model::Random => {
            let first = u64::from(pair.round) * budget;
            let all = COUNTED_PORTS as u64;
            let at = move |i: u64| u16::try_from(u64::from(LOWEST_PORT) + (i * STRIDE) % all).ok();
            Box::new((first..first + budget.min(all)).filter_map(at))
        }
        Model::Fixed { .. } => Box::new(std::iter::empty()),
    }
}
