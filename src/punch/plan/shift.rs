//! Where a counter will be at the instant, and how uncertain that is. Integers only: hundredths of a
//! connection.

use std::time::Duration;

use super::LOWEST_PORT;
use crate::nat::Counter;

/// Ports that a counter runs through before it starts over, as far as is known: [`LOWEST_PORT`] and up.
const COUNTED_PORTS: i64 = 65536 - LOWEST_PORT as i64;

/// Longer windows than this are not reckoned with: nothing is predictable then.
const LONGEST_WINDOW_MS: u64 = 60_000;

/// A counter and what others do to it until the instant.
#[derive(Debug, Clone, Copy)]
pub(super) struct Shift {
    counter: Counter,
    /// Expected number of foreign connections, hundredths.
    expected: u64,
    /// Its variance, hundredths: that of a Poisson count, and that of the estimated rate.
    variance: u64,
}

impl Shift {
    pub(super) fn new(counter: Counter, window: Duration) -> Self {
        let ms = u64::try_from(window.as_millis()).unwrap_or(u64::MAX).min(LONGEST_WINDOW_MS);
        let over = u64::from(counter.over_ms).max(1);
        let expected = u64::from(counter.rate_centi) * ms / 1000;
        // Rate r known over a time t has the variance r / t; over a window w that is r w · w / t.
        let variance = expected.saturating_mul(over + ms) / over;
        Shift { counter, expected, variance }
    }

    /// Foreign connections to be expected, rounded up.
    pub(super) fn mean(&self) -> u64 {
        self.expected.div_ceil(100)
    }

    /// Standard deviation of the number of own connections after which the counter passes a given port
    /// that is expected to be `own` connections ahead, in hundredths: of the foreign ones, and of the
    /// jitter of all of them.
    pub(super) fn deviation_centi(&self, own: u64) -> u64 {
        let jitter = u64::from(self.counter.jitter);
        // Variance of a move over the square of its mean: j (j + 2) / 12 over (2 s + j)² / 4.
        let moves = self.expected.saturating_add(own * 100);
        let wander = moves.saturating_mul(jitter * (jitter + 2)) / (3 * self.pace() * self.pace());
        self.variance.saturating_add(wander).saturating_mul(100).isqrt()
    }

    /// Twice the mean move, ports.
    pub(super) fn pace(&self) -> u64 {
        2 * u64::from(self.counter.step.unsigned_abs()) + u64::from(self.counter.jitter)
    }

    /// Every connection moves it by the same.
    pub(super) fn is_even(&self) -> bool {
        self.counter.jitter == 0
    }

    /// The port that is expected `connections` after the next one.
    pub(super) fn port(&self, connections: u64) -> u16 {
        let moved = connections.saturating_mul(self.pace()).saturating_add(self.counter.jitter.into()) / 2;
        self.port_beyond(moved)
    }

    /// The port at a distance from the next one, in the direction of the counter. Past either end of the
    /// range it starts over at the other, [`LOWEST_PORT`] and 65535 being a guess where those are.
    pub(super) fn port_beyond(&self, ports: u64) -> u16 {
        let moved = i64::try_from(ports % COUNTED_PORTS as u64).unwrap_or(0);
        let moved = moved * i64::from(self.counter.step.signum());
        let at = (i64::from(self.counter.next) - i64::from(LOWEST_PORT) + moved).rem_euclid(COUNTED_PORTS);
        u16::try_from(at + i64::from(LOWEST_PORT)).unwrap_or(LOWEST_PORT)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shift(next: u16, step: i16, jitter: u16, rate_centi: u32) -> Shift {
        let counter = Counter { next, step, jitter, rate_centi, over_ms: 250 };
        Shift::new(counter, Duration::from_millis(500))
    }

    #[test]
    fn the_variance_counts_the_foreign_ones_and_how_well_their_rate_is_known() {
        let shift = shift(5000, 1, 0, 2000);
        assert_eq!(shift.mean(), 10);
        // 10 · (1 + 500 / 250) = 30.
        assert_eq!(shift.deviation_centi(0), 547);
        assert_eq!(shift.deviation_centi(1000), 547, "an even counter does not wander");
    }

    #[test]
    fn an_irregular_counter_wanders() {
        let shift = shift(5000, 1, 2, 0);
        // Steps of 2 in the mean with a variance of 2/3: 96 of them vary by 64, as much as 16 steps.
        assert_eq!(shift.deviation_centi(96), 400);
        assert_eq!((shift.port(0), shift.port(10)), (5001, 5021));
    }

    #[test]
    fn ports_go_on_at_the_other_end() {
        assert_eq!(shift(65_534, 1, 0, 0).port(2), 1024);
        assert_eq!(shift(1025, -2, 0, 0).port(1), 65_535);
        assert_eq!(shift(1025, -2, 0, 0).port_beyond(1), 1024);
    }
}
