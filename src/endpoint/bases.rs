//! Where counters are, apart from what else is predicted: the part of a prediction that moves.
//!
//! Predictions are sent once, and agreed on by their digest. Until the instant is agreed their counters'
//! bases may still change (a last probe, the time that has passed), so START names those that count. Targets
//! move by it, never the kind of plan.

use std::time::Duration;

use crate::nat::{Counter, Model, Prediction};

/// The base of each prediction's counter; 0 where it is none.
pub(super) fn of(predictions: &[Prediction]) -> Vec<u16> {
    let base = |prediction: &Prediction| match &prediction.model {
        Model::Progression(counter) => counter.next,
        _ => 0,
    };
    predictions.iter().map(base).collect()
}

/// The predictions with these bases, as far as there are any.
pub(super) fn moved(predictions: &[Prediction], next: &[u16]) -> Vec<Prediction> {
    let mut moved = predictions.to_vec();
    for (prediction, next) in moved.iter_mut().zip(next) {
        if let Model::Progression(counter) = &mut prediction.model
            && *next != 0
        {
            counter.next = *next;
        }
    }
    moved
}

/// Moves a counter back by what others are expected to use up in that time.
pub(super) fn back(prediction: &mut Prediction, time: Duration) {
    let Model::Progression(counter) = &mut prediction.model else { return };
    let Counter { step, jitter, rate_centi, .. } = *counter;
    let ms = u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
    // Twice the mean move, ports.
    let pace = 2 * u64::from(step.unsigned_abs()) + u64::from(jitter);
    // Whole connections: between its steps a counter gives no ports.
    let connections = u64::from(rate_centi).saturating_mul(ms) / 100_000;
    let ports = connections.saturating_mul(pace) / 2;
    let ports = u16::try_from(ports % (1 << 16)).unwrap_or(0);
    let next = if step > 0 { counter.next.wrapping_sub(ports) } else { counter.next.wrapping_add(ports) };
    if next != 0 {
        counter.next = next;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nat::Mapping;

    fn prediction(model: Model) -> Prediction {
        Prediction::new([192, 0, 2, 7].into(), model, Mapping::AddressAndPortDependent, 90)
    }

    #[test]
    fn a_younger_base_goes_back_against_its_direction_by_the_rate() {
        for (step, next) in [(1, 4990), (-1, 5010), (2, 4980), (20, 4800)] {
            let counter = Counter { next: 5000, step, jitter: 0, rate_centi: 5_000, over_ms: 240 };
            let mut moving = prediction(Model::Progression(counter));
            back(&mut moving, Duration::from_millis(219));
            assert_eq!(of(&[moving]), [next], "step {step}");
        }
    }

    #[test]
    fn only_counters_have_bases_and_none_is_0() {
        let counter = Counter { next: 5000, step: 1, jitter: 0, rate_centi: 0, over_ms: 1 };
        let both = [prediction(Model::Random), prediction(Model::Progression(counter))];
        assert_eq!(of(&both), [0, 5000]);
        assert_eq!(of(&moved(&both, &[7, 6000])), [0, 6000]);
        assert_eq!(moved(&both, &[0, 0]), both);
        assert_eq!(moved(&both, &[]), both);
    }
}
