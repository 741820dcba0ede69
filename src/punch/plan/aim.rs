//! Both sides move: each opens N sockets from N local ports, all at *one* port of the other, or in groups,
//! each at one port (a comb).
//!
//! Stepping through both lists in parallel fails as soon as the two counters have moved by different
//! amounts (tried: 1 of 4 at 20 foreign connections a second). Here both hit as soon as each burst
//! covers its own agreed port, whatever the two shifts are (tried: 8 of 8 at 200 a second on both).
//!
//! A NAT that keeps a port for its first connection only cannot cover, but takes part here as a burst of
//! one.
//!
//! A counter with irregular steps leaves ports out, and the agreed one may be among them: with steps of 1
//! to 3 it is drawn with one half, on both sides with a quarter. Then a burst has G groups, group g
//! aimed at the middle of what the peer's group g is expected to draw; every group is a try of its own.
//!
//! ```text
//!   own draws      0 ........ w ........ 2w ........ 3w
//!   group              0          1           2
//!   drawn when     |----x----|----x----|------x------|     x: what the peer's group aims at
//! ```

use super::{LOWEST_PORT, Manners, Opening, Pair, Plan, known, shift::Shift};
use crate::nat::Model;

/// Standard deviations of the shift on either side of the agreed port, in halves, where there is one:
/// five, as the law of the shift has a longer tail than the normal one.
const ONE: u64 = 10;

/// The same in a comb: all its groups fail together where the shift is further off, three and a half
/// happens once in two thousand times; wider groups would be fewer.
const MANY: u64 = 7;

/// Connections more on either side, for what the deviation of a quiet counter does not know: a neighbour
/// who opens a page just now.
const SPARE_ONE: u64 = 12;
/// The same in a comb.
const SPARE_MANY: u64 = 2;

/// Sockets more for SYNs that get lost on the way to the NAT: this many ...
const LOST: u64 = 2;

/// ... and one in this many: a bad wireless network loses 3 %.
const LOST_PART: u64 = 32;

/// A comb gets more groups until it misses less often than this, parts in a million ...
const MISS: u64 = 5_000;

/// ... but not more than this.
const MOST_GROUPS: u64 = 24;

/// A part of a burst: sockets with consecutive local ports that aim at one port.
#[derive(Debug, Clone, Copy)]
pub(super) struct Group {
    /// Index of the first one's punch port, where it matters.
    local: Option<u16>,
    /// Sockets.
    sockets: u64,
    /// The port that this side is expected to draw in the middle of it.
    port: u16,
}

/// This side's half of it.
pub(super) fn plan(pair: &Pair, mine: &Model, theirs: &Model, manners: Manners) -> Plan {
    let Some(count) = groups(pair, mine, theirs) else {
        return Plan::hopeless("others behind one NAT use up its ports faster than the budget can follow");
    };
    let (Some(mine), Some(theirs)) = (comb(pair, mine, count, true), comb(pair, theirs, count, false)) else {
        return Plan::hopeless(
            "the part of the block of ports that may be used is used up; it frees in minutes",
        );
    };
    let targets = mine.iter().zip(theirs);
    let targets =
        targets.flat_map(|(group, other)| (0..group.sockets).map(move |_| (group.local, other.port)));
    let openings = targets.zip(0u16..).map(|((local, port), next)| Opening {
        local: local.unwrap_or(next),
        remote: pair.towards(port),
        after: manners.after,
        ttl: manners.ttl,
    });
    // A redial would draw yet another port: the burst is finished instead.
    Plan::of(openings.collect(), 0)
}

/// How many groups: as many as it takes and as both budgets of sockets have room for.
pub(super) fn groups(pair: &Pair, mine: &Model, theirs: &Model) -> Option<u64> {
    let wanted = wanted(density(mine), density(theirs));
    let fits = |count: u64, model: &Model| match model {
        Model::Progression(counter) => comb_of(pair, &Shift::new(*counter, pair.window), count).is_some(),
        Model::Fixed { ports } => known(ports).count() as u64 >= count,
        Model::Band { .. } | Model::Random => true,
    };
    // A block is one lottery however its draws are grouped.
    let most = if [mine, theirs].iter().any(|m| matches!(m, Model::Band { .. })) { 1 } else { wanted };
    (1..=most).rev().find(|&count| fits(count, mine) && fits(count, theirs))
}

/// Groups until a comb misses seldom enough, where each one meets with the product of the densities.
fn wanted(mine: (u64, u64), theirs: (u64, u64)) -> u64 {
    let (hit, of) = (mine.0 * theirs.0, mine.1 * theirs.1);
    let mut miss = 1_000_000;
    let mut groups = 0;
    while miss > MISS && groups < MOST_GROUPS {
        miss = miss * (of - hit) / of;
        groups += 1;
    }
    groups
}

/// Part of the ports that a counter passes that it gives to somebody: a fraction.
fn density(model: &Model) -> (u64, u64) {
    match model {
        Model::Progression(counter) if counter.jitter > 0 => {
            (2, 2 * u64::from(counter.step.unsigned_abs()) + u64::from(counter.jitter))
        }
        _ => (1, 1),
    }
}

/// A side's groups. What has been spent of a block is known of the own one only, and matters only there.
pub(super) fn comb(pair: &Pair, model: &Model, count: u64, own: bool) -> Option<Vec<Group>> {
    match *model {
        Model::Progression(counter) => comb_of(pair, &Shift::new(counter, pair.window), count),
        Model::Band { size, meet, .. } => {
            let part = u64::from(size) * u64::from(pair.budget.block_percent) / 100;
            let left = part.saturating_sub(if own { pair.spent.into() } else { 0 });
            let sockets = left.min(pair.budget.openings.into());
            // A block below that is nobody's block of ports; what lies there are services.
            let port = meet.max(LOWEST_PORT);
            (sockets > 0).then(|| vec![Group { local: None, sockets, port }])
        }
        // A port that is kept towards one destination only: a burst of one, which always hits.
        Model::Fixed { ref ports } => {
            let one = |(local, port)| Group { local: Some(local), sockets: 1, port };
            let groups: Vec<_> = known(ports).map(one).take(usize::try_from(count).unwrap_or(0)).collect();
            (!groups.is_empty()).then_some(groups)
        }
        Model::Random => None,
    }
}

/// A counter's groups, or `None` where the budget has no room for as many.
fn comb_of(pair: &Pair, shift: &Shift, count: u64) -> Option<Vec<Group>> {
    let budget = u64::from(pair.budget.openings);
    let mean = shift.mean();
    if count <= 1 {
        return one(pair, shift).map(|group| vec![group]);
    }
    let halves = MANY + u64::from(pair.round);
    let mut begun = 0;
    let mut groups = Vec::new();
    for _ in 0..count {
        let half = (shift.deviation_centi(begun) * halves).div_ceil(200) + SPARE_MANY;
        groups.push(Group { local: None, sockets: 2 * half + 1, port: shift.port(mean + begun + half) });
        begun += 2 * half + 1;
    }
    (begun <= budget).then_some(groups)
}

/// All at one port: as far ahead of the expectation as the shift may be more than expected, and as many
/// sockets again as it may be less.
fn one(pair: &Pair, shift: &Shift) -> Option<Group> {
    let most = u64::from(pair.budget.openings).checked_sub(1)?;
    let halves = ONE + 2 * u64::from(pair.round);
    let deviation = shift.deviation_centi(0);
    let half = (deviation * halves).div_ceil(200) + (SPARE_ONE << pair.round.min(super::MOST_DOUBLINGS));
    // Where the budget ends it is spent around the expectation; a quarter of a deviation is too little.
    let half = half.min(most / 2);
    if half * 400 < deviation {
        return None;
    }
    // A shift is never negative; but SYNs that are lost before the NAT draw nothing.
    let sockets = half + half.min(shift.mean()) + 1;
    let sockets = (sockets + LOST + sockets / LOST_PART).min(most + 1);
    Some(Group { local: None, sockets, port: shift.port(shift.mean() + half) })
}

impl Group {
    /// Sockets.
    pub(super) fn sockets(&self) -> u64 {
        self.sockets
    }
}
