//! Fixed × Fixed: both ports are known.

use std::time::Duration;

use super::{Manners, Opening, Pair, Plan, known};

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
/// A first SYN that comes early and is refused is opened again at once, so nobody waits for the other in
/// the first round; in odd ones somebody does ([`Pair::manners`]).
pub(super) fn plan(pair: &Pair, mine: &[u16], theirs: &[u16]) -> Plan {
    let pairs = if pair.round == 0 { PAIRS } else { LATER_PAIRS };
    let manners = if pair.round % 2 == 1 { pair.manners(None) } else { Manners::default() };
    let openings: Vec<_> = known(mine)
        .zip(known(theirs))
        .take(pairs.min(pair.budget.openings.into()))
        .zip(0u32..)
        .map(|(((local, _), (_, port)), i)| Opening {
            local,
            remote: pair.towards(port),
            after: manners.after + NEXT_PAIR * i,
            ttl: manners.ttl,
        })
        .collect();
    if openings.is_empty() {
        return Plan::hopeless("no port of the one side or the other is known");
    }
    Plan::of(openings, REDIALS)
}
