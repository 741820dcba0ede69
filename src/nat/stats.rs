//! The distributions that tell a counter from a lottery.
//!
//! Under the hypothesis "each connection draws its port at random, independently" two things are known
//! exactly and are independent of each other: the *order* of n draws is a uniformly random permutation,
//! and their *range* follows the law of order statistics. Everything that is decided about draws is
//! decided by how improbable that hypothesis makes them.

/// Probability that `n` independent draws show at most `inversions` pairs out of order, counted in
/// whichever direction (rising or falling) has fewer.
///
/// The number of inversions of a random permutation is a sum of independent uniforms on 0..k for k < n
/// (Knuth, The Art of Computer Programming 3, §5.1.1); twice its lower tail, for the two directions.
pub(super) fn order_by_chance(n: usize, inversions: usize) -> f64 {
    let mut law = vec![1.0];
    for k in 2..=n {
        let mut next = vec![0.0; law.len() + k - 1];
        for (i, p) in law.iter().enumerate() {
            for slot in next.iter_mut().skip(i).take(k) {
                *slot += p / k as f64;
            }
        }
        law = next;
    }
    (2.0 * law.iter().take(inversions + 1).sum::<f64>()).min(1.0)
}

/// Probability that `n` independent draws out of a block of `width` ports lie within `range` (highest
/// less lowest) of each other: `n x^(n-1) - (n-1) x^n` with x = range / width (the law of
/// the range of uniform order statistics).
pub(super) fn range_by_chance(n: usize, range: u32, width: u32) -> f64 {
    let x = f64::from(range) / f64::from(width.max(1));
    if x >= 1.0 || n < 2 {
        return 1.0;
    }
    let n = n as i32;
    f64::from(n) * x.powi(n - 1) - f64::from(n - 1) * x.powi(n)
}

/// Weight of `n` draws within a given block of `size` ports, of a kind of block that lies in one of
/// 65536 / `size` places: each draw is one of `size`.
pub(super) fn block_by_draws(n: usize, size: u32) -> f64 {
    f64::from(size) / 65_536.0 * f64::from(size).powi(-(n as i32))
}

/// The same of a block that lies anywhere, its size between `least` and `most`, each order of magnitude
/// equally likely: of a block of size s, s - range places hold draws that are `range` apart.
pub(super) fn anywhere_by_draws(n: usize, range: u32, least: u32, most: u32) -> f64 {
    let (from, to) = (f64::from(least.max(range + 1)).ln(), f64::from(most.max(range + 1)).ln());
    let width = f64::from(most).ln() - f64::from(least).ln();
    const PIECES: u32 = 400;
    let piece = (to - from) / f64::from(PIECES);
    let weight = |size: f64| (size - f64::from(range)).max(0.0) / 65_536.0 * size.powi(-(n as i32));
    let middles = (0..PIECES).map(|i| (from + piece * (f64::from(i) + 0.5)).exp());
    middles.map(weight).sum::<f64>() * piece / width
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nat::synthetic::Dice;

    #[test]
    fn eight_draws_in_perfect_order_happen_once_in_twenty_thousand() {
        assert!((order_by_chance(8, 0) - 2.0 / 40320.0).abs() < 1e-12);
        assert!((order_by_chance(3, 0) - 1.0 / 3.0).abs() < 1e-12);
        assert_eq!(order_by_chance(8, 28), 1.0);
        assert_eq!(order_by_chance(1, 0), 1.0);
    }

    #[test]
    fn the_laws_agree_with_draws() {
        let mut dice = Dice::new(5);
        let (trials, n, width) = (40_000, 5, 1000);
        let (mut ordered, mut close) = (0, 0);
        for _ in 0..trials {
            let draws: Vec<u64> = (0..n).map(|_| dice.below(width)).collect();
            let up = (0..n).flat_map(|i| (i + 1..n).map(move |j| (i, j)));
            let inversions = up.filter(|&(i, j)| draws[i] > draws[j]).count();
            ordered += usize::from(inversions.min(n * (n - 1) / 2 - inversions) <= 1);
            let range = draws.iter().max().unwrap() - draws.iter().min().unwrap();
            close += usize::from(range <= 400);
        }
        let (ordered, close) = (ordered as f64 / trials as f64, close as f64 / trials as f64);
        assert!((ordered - order_by_chance(n, 1)).abs() < 0.01, "{ordered}");
        assert!((close - range_by_chance(n, 400, width as u32)).abs() < 0.01, "{close}");
    }
}
