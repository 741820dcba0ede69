//! Random ports: out of a block that the carrier gave to this customer, or out of everything.

use super::{
    Mapping, Model, Observation,
    predict::Fit,
    stats::{block_by_draws, range_by_chance},
};

/// Fewest draws that a block is inferred from: three say too little of its ends.
const FEWEST: usize = 4;

/// Chance, were the ports drawn out of [`SMALLEST_RANGE`], below which they are held for draws out of a
/// block: one random NAT in a thousand is taken for a band.
const ALPHA: f64 = 1e-3;

/// The narrowest range that a NAT without blocks is known to draw from: Linux's ephemeral ports,
/// 32768 to 60999. A wider one makes the error rarer still.
const SMALLEST_RANGE: u32 = 28_232;

/// The range of n draws is widened by one part in this many on either side. It then holds the next draw
/// with 95 % for n = 8 instead of (n-1)/(n+1) = 78 %, and with 99.6 % for n = 16.
const WIDEN: u16 = 4;

/// Where blocks begin: multiples of their size, or those counted from the first port that NATs give away.
const ORIGINS: [u32; 2] = [0, 1024];

/// Sizes of blocks that are looked for, as powers of two: 64 to 8192.
const SIZES: std::ops::RangeInclusive<u32> = 6..=13;

/// Probability from which a block is held for recognised. A wrong one still overlaps most of the true one,
/// while the bare range leaves a tenth of a block unused.
const RECOGNISED: f64 = 0.7;

/// The port to meet at is a multiple of the first of these, where one is free: bands measured anew in
/// later rounds mostly agree on the same one then.
const GRIDS: [usize; 3] = [64, 16, 1];

/// [`Model::Band`] or [`Model::Random`].
pub(super) fn fit(draws: &[Observation], mapping: Mapping) -> Fit {
    let ports = || draws.iter().map(|o| o.observed.port());
    let (low, high) = (ports().min().unwrap_or(0), ports().max().unwrap_or(0));
    let chance = range_by_chance(draws.len(), u32::from(high - low), SMALLEST_RANGE);
    let percent = |probability: f64| (99.0 * probability).round() as u8;
    if draws.len() < FEWEST {
        return Fit { model: Model::Random, mapping, confidence: 30 };
    }
    if chance > ALPHA {
        return Fit { model: Model::Random, mapping, confidence: percent(1.0 - ALPHA / chance) };
    }
    let (low, high, size) = match block(draws.len(), low, high) {
        Some((low, size)) => (low, low.saturating_add(size - 1), size),
        None => {
            let more = (high - low).div_ceil(WIDEN);
            let lowest = low.saturating_sub(more).max(1024.min(low));
            (lowest, high.saturating_add(more), (high - low).saturating_add(1))
        }
    };
    // Nobody has port 0, whatever a server says and wherever a block begins.
    let low = low.max(1);
    let model = Model::Band { low, high, size, meet: meet(low, high, ports().collect()) };
    Fit { model, mapping, confidence: percent(1.0 - chance) }
}

/// The port nearest to the middle of the band, of those on the widest grid that has a free one.
fn meet(low: u16, high: u16, used: Vec<u16>) -> u16 {
    let middle = low.midpoint(high);
    let on_grid = |grid: usize| (low..=high).filter(move |port| usize::from(*port).is_multiple_of(grid));
    let free = |grid: usize| {
        on_grid(grid).filter(|port| !used.contains(port)).min_by_key(|port| port.abs_diff(middle))
    };
    GRIDS.into_iter().find_map(free).unwrap_or(middle)
}

/// The aligned block of a power of two that `n` draws between `low` and `high` come from, if that is how
/// they are best explained: its lowest port and its size.
///
/// Blocks that lie anywhere, of any size, are as probable beforehand as aligned ones of all sizes and
/// both origins together.
fn block(n: usize, low: u16, high: u16) -> Option<(u16, u16)> {
    let candidates = SIZES.flat_map(|bits| ORIGINS.map(|origin| (1u32 << bits, origin)));
    let mut aligned: Vec<(f64, u32, u32)> = candidates
        .filter_map(|(size, origin)| {
            let first = u32::from(low).checked_sub(origin)? / size * size + origin;
            let holds = first + size > u32::from(high) && first + size <= 1 << 16;
            holds.then(|| (block_by_draws(n, size), first, size))
        })
        .collect();
    let hypotheses = (SIZES.count() * ORIGINS.len()) as f64;
    let range = u32::from(high - low);
    let anywhere =
        hypotheses * crate::nat::stats::anywhere_by_draws(n, range, 1 << SIZES.start(), 1 << SIZES.end());
    // Some sizes have the same block by both origins.
    let all: f64 = aligned.iter().map(|(weight, ..)| weight).sum::<f64>() + anywhere;
    aligned.sort_by_key(|&(_, first, size)| (first, size));
    let mut merged: Vec<(f64, u32, u32)> = Vec::new();
    for (weight, first, size) in aligned {
        match merged.last_mut() {
            Some(last) if (last.1, last.2) == (first, size) => last.0 += weight,
            _ => merged.push((weight, first, size)),
        }
    }
    let (weight, first, size) = merged.into_iter().max_by(|a, b| a.0.total_cmp(&b.0))?;
    (weight / all >= RECOGNISED).then_some((u16::try_from(first).ok()?, u16::try_from(size).ok()?))
}

#[cfg(test)]
mod tests {
    use crate::nat::{
        Mapping, Model, Observation, Prediction, predict,
        synthetic::{Dice, Nat, batch, locals, two_groups},
    };

    fn holds_the_next(found: &Prediction, nat: &mut Nat) -> bool {
        let next = nat.open(1, "203.0.113.9:5".parse().unwrap()).port();
        matches!(found.model, Model::Band { low, high, .. } if (low..=high).contains(&next))
    }

    /// A server could say so; the prediction would not be sound, and the peer would not plan with it.
    #[test]
    fn a_block_that_begins_with_port_0_is_taken_from_port_1() {
        for lowest in [0, 1, 7] {
            let draws: Vec<_> = (0..16u8)
                .map(|number| Observation {
                    number,
                    local: 0,
                    local_port: 5000,
                    server: "203.0.113.9:5".parse().unwrap(),
                    observed: ([198, 51, 100, 1], lowest + u16::from(number) * 997 % 1009).into(),
                    at_us: u64::from(number),
                })
                .collect();
            let found = super::fit(&draws, Mapping::AddressAndPortDependent);
            let Model::Band { low, high, .. } = found.model else { panic!("{:?}", found.model) };
            assert!(low == 1 && high > 1000, "{:?}", found.model);
            assert!(Prediction::new([198, 51, 100, 1].into(), found.model, found.mapping, 50).is_sound());
        }
    }

    #[test]
    fn a_block_is_recognised_and_its_widened_band_holds_the_next_port() {
        for width in [256, 512, 1024, 2048] {
            let (trials, mut held) = (1000, 0);
            for seed in 0..trials {
                let punch = locals(&mut Dice::new(seed), 16);
                let mut nat = Nat::random(seed, width);
                let found = predict(&batch(&mut nat, &punch), &punch).unwrap();
                held += usize::from(holds_the_next(&found, &mut nat));
            }
            assert!(held * 100 >= 94 * trials as usize, "{held} of {trials} for {width}");
        }
    }

    #[test]
    fn aligned_blocks_are_found_exactly_and_others_are_not_made_so() {
        for width in [256, 1024, 2048] {
            let (trials, mut exact, mut held, mut wrong, mut over) = (500, 0, 0, 0, 0);
            for seed in 0..trials {
                let punch = locals(&mut Dice::new(seed), 16);
                let mut nat = Nat::block(seed, width);
                let (low, _) = nat.block_of().unwrap();
                let found = predict(&two_groups(&mut nat, &punch), &punch).unwrap();
                let Model::Band { low: l, size, .. } = found.model else { panic!("{found:?}") };
                exact += usize::from((l, u64::from(size)) == (low, width));
                over += usize::from(u64::from(size) > width);
                held += usize::from(holds_the_next(&found, &mut nat));

                let mut nat = Nat::random(seed, width - width / 5);
                let found = predict(&two_groups(&mut nat, &punch), &punch).unwrap();
                wrong += usize::from(!holds_the_next(&found, &mut nat));
            }
            assert!(exact * 10 >= 8 * trials as usize, "{width}: {exact}");
            assert!(held * 100 >= 98 * trials as usize, "{width}: {held}");
            assert!(over * 50 <= trials as usize, "{width}: {over}");
            assert!(wrong * 20 <= trials as usize, "{width}: {wrong}");
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
