//! A last probe just before the instant moves a counter's base.

use std::time::Duration;

use super::{Model, Observation, Prediction};

/// The prediction with its base moved by one more observation, made `elapsed` after the last probe of
/// its batch (on this side's own clock, between the two SYNs).
///
/// What others used up until then is known now instead of expected. [`crate::punch::plan()`] goes on
/// reckoning from the last probe of the *batch*, so `next` becomes the port from which the counter would
/// have arrived at what was observed, had it moved as expected: the plan stays of the same kind, with the
/// same numbers of sockets, and only its targets move.
///
/// Unchanged where the model is no counter, where the probe shows another address, or where it lies
/// further ahead than any rate known explains (it belongs to something else).
pub fn refresh(prediction: &Prediction, last: &Observation, elapsed: Duration) -> Prediction {
    let mut refreshed = prediction.clone();
    let Model::Progression(counter) = &mut refreshed.model else { return refreshed };
    if last.observed.ip() != prediction.address {
        return refreshed;
    }
    let forward =
        |from: u16, to: u16| if counter.step > 0 { to.wrapping_sub(from) } else { from.wrapping_sub(to) };
    let moved = u64::from(forward(counter.next, last.observed.port()));
    let (step, jitter) = (u64::from(counter.step.unsigned_abs()), u64::from(counter.jitter));
    let ms = u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX);
    let expected = u64::from(counter.rate_centi).saturating_mul(ms) / 100_000;
    // Twice the mean move.
    let pace = 2 * step + jitter;
    if moved > (expected + FURTHEST * ms.div_ceil(1000).max(1)).saturating_mul(pace) / 2 {
        return refreshed;
    }
    // The port after the observed one, less what was expected, in steps: never before the base by more
    // than was expected.
    let back = u16::try_from(expected.saturating_mul(pace) / 2 % (1 << 16)).unwrap_or(0);
    let ahead = last.observed.port().wrapping_add_signed(counter.step);
    let next = if counter.step > 0 { ahead.wrapping_sub(back) } else { ahead.wrapping_add(back) };
    if next != 0 {
        counter.next = next;
    }
    refreshed
}

/// Foreign connections a second, at the most: a port further ahead was not counted by this counter.
const FURTHEST: u64 = 2_000;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nat::{Counter, Mapping};

    fn prediction(next: u16, step: i16, rate_centi: u32) -> Prediction {
        Prediction::new(
            [192, 0, 2, 7].into(),
            Model::Progression(Counter { next, step, jitter: 0, rate_centi, over_ms: 300 }),
            Mapping::AddressAndPortDependent,
            90,
        )
    }

    fn moved(step: i16, rate: u32, seen: u16) -> u16 {
        let last = Observation {
            number: 16,
            local: 9,
            local_port: 40_009,
            server: "192.0.2.1:7862".parse().unwrap(),
            observed: format!("192.0.2.7:{seen}").parse().unwrap(),
            at_us: 0,
        };
        let found = refresh(&prediction(5000, step, rate * 100), &last, Duration::from_millis(400));
        let Model::Progression(counter) = found.model else { panic!() };
        counter.next
    }

    #[test]
    fn the_base_moves_by_what_differs_from_the_expectation() {
        assert_eq!(moved(1, 0, 5000), 5001);
        assert_eq!(moved(1, 0, 5003), 5004, "three foreign ones where none was expected");
        assert_eq!(moved(1, 50, 5020), 5001, "as expected, and the probe itself");
        assert_eq!(moved(2, 50, 5040), 5002);
        assert_eq!(moved(-1, 50, 4975), 4994);
    }

    #[test]
    fn what_the_counter_cannot_have_counted_moves_nothing() {
        assert_eq!(moved(1, 20, 30_000), 5000);
        assert_eq!(moved(1, 20, 4990), 5000);
    }
}
