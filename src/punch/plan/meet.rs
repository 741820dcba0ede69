//! Fixed × Fixed: both ports are known.

use std::time::Duration;

use super::{LOW_TTL, Opening, Pair, Plan, SETTLE, known};

/// Pairs of ports in the first round: one opening each, and a second guess in case one of the first
/// pair's mappings has collided, or its SYN is lost (the kernel repeats it a second later only).
const PAIRS: usize = 2;

/// The same in later rounds.
const LATER_PAIRS: usize = 4;

/// Each further pair opens this much later than the one before: by then a first pair that works is
/// usually established, between neighbours at least.
const NEXT_PAIR: Duration = Duration::from_millis(40);

/// Redials of a refused opening. Each takes about one round trip, so eight outlast clocks that disagree
/// by more than the path is long; a port that is really closed costs eight SYNs.
const REDIALS: u8 = 8;

/// The i-th known port of one side meets the i-th known port of the other.
///
/// Odd rounds assume a NAT that takes offence at a SYN that comes early: one side's first SYN dies on
/// the way and the other side comes a little later; whose it is alternates.
pub(super) fn plan(pair: &Pair, mine: &[u16], theirs: &[u16]) -> Plan {
    let pairs = if pair.round == 0 { PAIRS } else { LATER_PAIRS };
    let quiet_side = match pair.round % 4 {
        1 => Some(pair.initiator),
        3 => Some(!pair.initiator),
        _ => None,
    };
    let (ttl, start) = match quiet_side {
        Some(true) => (Some(LOW_TTL), Duration::ZERO),
        Some(false) => (None, SETTLE),
        None => (None, Duration::ZERO),
    };
    let openings: Vec<_> = known(mine)
        .zip(known(theirs))
        .take(pairs.min(pair.budget.openings.into()))
        .zip(0u32..)
        .map(|(((local, _), (_, port)), i)| Opening {
            local,
            remote: pair.towards(port),
            after: start + NEXT_PAIR * i,
            ttl,
        })
        .collect();
    if openings.is_empty() {
        return Plan::hopeless("no port of the one side or the other is known");
    }
    Plan::of(openings, REDIALS)
}
