//! What a plan is worth: for a person who asks (`doctor`), not for the plan itself.

use super::{Pair, Terms, Verdict, aim, cover, covers, guise, plan, shift::Shift};
use crate::nat::{Model, Prediction};

/// The most that is promised: lost packets, clocks, and NATs that do something else now and then.
const MOST: f64 = 0.99;

/// Probability that a round under these terms makes a connection, percent, if both predictions are right;
/// 0 where it is hopeless.
///
/// | plan | formula |
/// | --- | --- |
/// | meet | the most |
/// | cover | a counter: that it is within the run; draws: 1 - (1 - covered part)^sockets |
/// | aim | both counters within their group, times 1 - (1 - product of the densities)^groups; a block's density is the part of what is left of it that is drawn |
///
/// A counter's shift is taken for normal with the deviation that the plan reckons with. `terms.spent`
/// counts for both sides.
pub fn expected_success(mine: &Prediction, theirs: &Prediction, terms: &Terms) -> u8 {
    if plan(mine, theirs, terms).verdict != Verdict::Try {
        return 0;
    }
    let (mine, theirs) = (&guise(mine, theirs, terms.round), &guise(theirs, mine, terms.round));
    let pair = Pair::new(mine, theirs, terms);
    let chance = match (&mine.model, &theirs.model) {
        (Model::Fixed { .. }, Model::Fixed { .. }) => 1.0,
        (_, moving) if covers(mine) => covered(&pair, moving),
        (moving, _) if covers(theirs) => covered(&pair, moving),
        (mine, theirs) => {
            let groups = aim::groups(&pair, mine, theirs).unwrap_or(0);
            let (mine, theirs) = (Half::of(&pair, mine, groups), Half::of(&pair, theirs, groups));
            let miss = 1.0 - mine.density * theirs.density;
            mine.within * theirs.within * (1.0 - miss.powi(groups as i32))
        }
    };
    (chance.min(MOST) * 100.0).round() as u8
}

/// That at least one of the moving side's sockets is covered.
fn covered(pair: &Pair, moving: &Model) -> f64 {
    let sockets = cover::sockets(pair, moving, pair.spent);
    let ports = cover::covered(pair, moving).len() as f64;
    let part = match *moving {
        Model::Progression(counter) => {
            let shift = Shift::new(counter, pair.window);
            let each = if shift.is_even() { 1.0 } else { shift.pace() as f64 / 2.0 };
            return within(ports / each / 2.0, &shift, 0);
        }
        Model::Band { low, high, .. } => ports / f64::from(high - low + 1),
        _ => ports / 64_512.0,
    };
    1.0 - (1.0 - part).max(0.0).powi(sockets.into())
}

/// One side of an aim.
struct Half {
    /// That the shift is such that each group draws around the port that is aimed at.
    within: f64,
    /// That such a group draws that very port.
    density: f64,
}

impl Half {
    fn of(pair: &Pair, model: &Model, groups: u64) -> Self {
        let Some(comb) = aim::comb(pair, model, groups, true) else {
            return Half { within: 0.0, density: 0.0 };
        };
        let sockets: u64 = comb.iter().map(aim::Group::sockets).sum();
        match *model {
            Model::Progression(counter) => {
                let shift = Shift::new(counter, pair.window);
                let each = sockets as f64 / comb.len().max(1) as f64 / 2.0;
                let density = if shift.is_even() { 1.0 } else { 2.0 / shift.pace() as f64 };
                // Towards fewer foreign connections a single group ends where there are none.
                Half { within: within(each, &shift, sockets / 2), density }
            }
            Model::Band { size, .. } => {
                let left = f64::from(size) - f64::from(pair.spent);
                Half { within: 1.0, density: (sockets as f64 / left.max(1.0)).min(1.0) }
            }
            Model::Fixed { .. } => Half { within: 1.0, density: 1.0 },
            Model::Random => Half { within: 0.0, density: 0.0 },
        }
    }
}

/// That a shift is at most `half` connections off, `own` connections on.
fn within(half: f64, shift: &Shift, own: u64) -> f64 {
    let deviations = half * 100.0 / (shift.deviation_centi(own) as f64).max(1.0);
    // 2 Φ(x) - 1 by the logistic approximation of Φ, good to 0.0002 (Bowling et al., 2009).
    let x = deviations;
    2.0 / (1.0 + (-1.5976 * x - 0.07056 * x * x * x).exp()) - 1.0
}
