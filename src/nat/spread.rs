//! Random ports: out of a block that the carrier gave to this customer, or out of everything.

use super::{Mapping, Model, Observation, predict::Fit, stats::range_by_chance};

/// Fewest draws that a block is inferred from: three say too little of its ends.
const FEWEST: usize = 4;

/// Chance, were the ports drawn out of [`SMALLEST_RANGE`], below which they are held for draws out of a
/// block: one random NAT in a thousand is taken for a band.
const ALPHA: f64 = 1e-3;

/// The narrowest range that a NAT without blocks is known to draw from: Linux's ephemeral ports,
/// 32768 to 60999. A wider one makes the error rarer still.
const SMALLEST_RANGE: u32 = 28_232;

/// The range of n draws is widened by one part in this many on either side. For n = 8 it then holds the
/// next draw with 96 % instead of (n-1)/(n+1) = 78 %.
const WIDEN: u16 = 4;

/// [`Model::Band`] or [`Model::Random`].
pub(super) fn fit(draws: &[Observation], mapping: Mapping) -> Fit {
    let ports = || draws.iter().map(|o| o.observed.port());
    let (low, high) = (ports().min().unwrap_or(0), ports().max().unwrap_or(0));
    let chance = range_by_chance(draws.len(), u32::from(high - low), SMALLEST_RANGE);
    if draws.len() < FEWEST || chance > ALPHA {
        return Fit { model: Model::Random, mapping, confidence: if draws.len() < FEWEST { 30 } else { 90 } };
    }
    let more = (high - low).div_ceil(WIDEN);
    let model =
        Model::Band { low: low.saturating_sub(more).max(1024.min(low)), high: high.saturating_add(more) };
    Fit { model, mapping, confidence: 85 }
}

#[cfg(test)]
mod tests {
    use crate::nat::{
        Model, predict,
        synthetic::{Dice, Nat, batch, locals},
    };

    #[test]
    fn a_block_is_recognised_and_its_widened_band_holds_the_next_port() {
        for width in [256, 512, 1024, 2048] {
            let (trials, mut held) = (1000, 0);
            for seed in 0..trials {
                let punch = locals(&mut Dice::new(seed), 16);
                let mut nat = Nat::random(seed, width);
                let found = predict(&batch(&mut nat, &punch), &punch).unwrap();
                let next = nat.open(1, "203.0.113.9:5".parse().unwrap()).port();
                held += usize::from(
                    matches!(found.model, Model::Band { low, high } if (low..=high).contains(&next)),
                );
            }
            assert!(held * 100 >= 94 * trials as usize, "{held} of {trials} for {width}");
        }
    }

    #[test]
    fn a_nat_without_blocks_is_taken_for_one_less_than_once_in_five_hundred_times() {
        let trials = 5000;
        for width in [28_232, 64_000] {
            let mut wrong = 0;
            for seed in 0..trials {
                let punch = locals(&mut Dice::new(seed), 16);
                let found = predict(&batch(&mut Nat::random(seed, width), &punch), &punch).unwrap();
                wrong += usize::from(!matches!(found.model, Model::Random));
            }
            assert!(wrong * 500 <= trials as usize, "{wrong} of {trials} for {width}");
        }
    }

    #[test]
    fn few_observations_make_no_band() {
        let punch = locals(&mut Dice::new(1), 16);
        let seen = batch(&mut Nat::random(1, 256), &punch);
        assert_eq!(predict(&seen[..3], &punch).unwrap().model, Model::Random);
        assert_eq!(predict(&[], &punch), None);
    }
}
