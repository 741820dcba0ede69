//! Both sides move: each opens N sockets from N local ports, all at *one* port of the other.
//!
//! Stepping through both lists in parallel fails as soon as the two counters have moved by different
//! amounts (tried: 1 of 4 at 20 foreign connections a second). Here both hit as soon as each burst
//! covers its own c-th port, whatever the two shifts are (tried: 8 of 8 at 200 a second on both).

use std::time::Duration;

use super::{LOWEST_PORT, Opening, Pair, Plan, counted};
use crate::nat::Model;

/// Steps ahead of `next` at the least: the counter must not have passed the agreed port already, and
/// the burst must reach it.
const LEAST_AHEAD: u64 = 16;

/// A band's agreed port is a multiple of this, so that bands measured anew in later rounds mostly agree
/// on the same one: draws are without replacement, and the same port becomes likelier by burst.
const BAND_GRID: u16 = 64;

/// Part of a *widened* band that a burst may use: half of the block that it was widened from by a
/// quarter on each side. Carrier NATs refuse new connections when a block is used up, and the block is
/// all that the customer has.
const BAND_PART: u16 = 3;

/// This side's half of it.
pub(super) fn plan(pair: &Pair, mine: &Model, theirs: &Model) -> Plan {
    let (Some(sockets), Some(port)) = (sockets(pair, mine), agreed_port(pair, theirs)) else {
        return Plan::hopeless("others behind one NAT use up its ports faster than the budget can follow");
    };
    let openings = (0..sockets).map(|local| Opening {
        local,
        remote: pair.towards(port),
        after: Duration::ZERO,
        ttl: None,
    });
    // A redial would draw yet another port: the burst is finished instead.
    Plan::of(openings.collect(), 0)
}

/// How many sockets cover the port of this side that the other aims at.
fn sockets(pair: &Pair, mine: &Model) -> Option<u16> {
    match *mine {
        Model::Progression { rate_centi, .. } => u16::try_from(ahead(pair, rate_centi)? + 1).ok(),
        Model::Band { low, high } => {
            Some((high.saturating_sub(low) / BAND_PART).max(1).min(pair.budget.openings))
        }
        Model::Fixed { .. } | Model::Random => None,
    }
}

/// The port of the other side that all of this side's sockets are aimed at.
fn agreed_port(pair: &Pair, theirs: &Model) -> Option<u16> {
    match *theirs {
        Model::Progression { next, step, rate_centi } => Some(counted(next, step, ahead(pair, rate_centi)?)),
        Model::Band { low, high } => {
            let middle = low.midpoint(high);
            let on_grid = middle - middle % BAND_GRID;
            Some(if on_grid >= low { on_grid } else { middle }.max(LOWEST_PORT))
        }
        Model::Fixed { .. } | Model::Random => None,
    }
}

/// c: how many connections after `next` the agreed port is drawn. The burst has c + 1 sockets, so the
/// budget bounds it; where even the expected shift is beyond that, there is none.
fn ahead(pair: &Pair, rate_centi: u32) -> Option<u64> {
    let most = u64::from(pair.budget.openings).checked_sub(1)?;
    (pair.expected(rate_centi) < most).then(|| pair.reach(rate_centi, LEAST_AHEAD).min(most))
}
