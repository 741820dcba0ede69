use std::time::Duration;

use crate::nat::{
    Counter, Mapping, Model, predict,
    synthetic::{Dice, Nat, batch, batch_spread, locals, two_groups, two_groups_after},
};

#[test]
fn a_quiet_counter_is_fitted_exactly_whatever_its_step() {
    for seed in 0..100 {
        for step in [1, 2, 3, 5, 16, -1, -2, -7] {
            let punch = locals(&mut Dice::new(seed), 16);
            let mut nat = Nat::counter(seed, step, 0.0);
            let found = predict(&batch(&mut nat, &punch), &punch).unwrap();
            let Model::Progression(Counter { next, step: fitted, .. }) = found.model else {
                panic!("{found:?}")
            };
            assert_eq!(fitted, step);
            assert_eq!(next, nat.peek());
            assert_eq!(found.mapping, Mapping::AddressAndPortDependent);
            assert!(found.is_sound());
        }
    }
}

#[test]
fn foreign_traffic_is_seen_through() {
    let mut right = 0;
    let trials = 400;
    for seed in 0..trials {
        let step = [1, -1, 2, 4][seed as usize % 4];
        let punch = locals(&mut Dice::new(seed), 16);
        let mut nat = Nat::counter(seed, step, 100.0);
        let found = predict(&batch_spread(&mut nat, &punch, 40_000), &punch).unwrap();
        right += usize::from(
            matches!(found.model, Model::Progression(c) if c.step == step && c.next == nat.peek()),
        );
    }
    assert!(right * 100 >= 98 * trials as usize, "{right} of {trials}");
}

#[test]
fn the_rate_is_measured_where_the_batch_takes_time_and_assumed_where_it_does_not() {
    let rate = |per_second, window_us| {
        let mut sum = 0;
        for seed in 0..50 {
            let punch = locals(&mut Dice::new(seed), 16);
            let mut nat = Nat::counter(seed, 1, per_second);
            let found = predict(&batch_spread(&mut nat, &punch, window_us), &punch).unwrap();
            let Model::Progression(Counter { rate_centi, .. }) = found.model else { panic!("{found:?}") };
            sum += rate_centi / 100;
        }
        sum / 50
    };
    assert!((15..=25).contains(&rate(0.0, 1_000)), "a burst: the ordinary value");
    assert!((0..=3).contains(&rate(0.0, 1_000_000)), "quiet for a second");
    assert!((180..=220).contains(&rate(200.0, 1_000_000)), "{}", rate(200.0, 1_000_000));
}

#[test]
fn lost_probes_and_a_swapped_pair_change_neither_step_nor_direction() {
    for lost in 0..8 {
        let punch = locals(&mut Dice::new(4), 16);
        let mut nat = Nat::counter(4, 1, 0.0);
        let mut seen = batch(&mut nat, &punch);
        seen.remove(lost);
        seen.reverse();
        let found = predict(&seen, &punch).unwrap();
        let Model::Progression(Counter { next, step, .. }) = found.model else { panic!("{found:?}") };
        assert_eq!(step, 1);
        assert_eq!(next, nat.peek() - u16::from(lost == 7));
    }
    let punch = locals(&mut Dice::new(4), 16);
    let mut nat = Nat::counter(4, 1, 0.0);
    let mut seen = batch(&mut nat, &punch);
    let (a, b) = (seen[2].observed, seen[3].observed);
    (seen[2].observed, seen[3].observed) = (b, a);
    let found = predict(&seen, &punch).unwrap();
    assert!(
        matches!(found.model, Model::Progression(Counter { next, step: 1, .. }) if next == nat.peek()),
        "{found:?}"
    );
}

#[test]
fn random_ports_are_taken_for_a_counter_less_than_once_in_five_hundred_times() {
    for width in [256, 2048, 64_000] {
        let trials = 5000;
        let mut wrong = 0;
        for seed in 0..trials {
            let punch = locals(&mut Dice::new(seed), 16);
            let found = predict(&batch(&mut Nat::random(seed, width), &punch), &punch).unwrap();
            wrong += usize::from(matches!(found.model, Model::Progression { .. }));
        }
        assert!(wrong * 500 <= trials as usize, "{wrong} of {trials} out of {width}");
    }
}

#[test]
fn the_most_frequent_address_of_a_pool_is_predicted() {
    let punch = locals(&mut Dice::new(6), 16);
    let mut seen = batch(&mut Nat::counter(6, 1, 0.0), &punch);
    let usual = seen[0].observed.ip();
    for i in [0, 5] {
        seen[i].observed.set_ip([198, 51, 100, 99].into());
    }
    let found = predict(&seen, &punch).unwrap();
    assert_eq!(found.address, usual);
    assert!(matches!(found.model, Model::Progression(Counter { step: 1, .. })), "{found:?}");
    assert!(found.confidence < 80);
}

#[test]
fn a_port_for_each_destination_address_is_seen_with_two_servers() {
    let punch = locals(&mut Dice::new(6), 16);
    let mut nat = Nat::address_dependent_counter(6, 1, 0.0);
    let found = predict(&batch(&mut nat, &punch), &punch).unwrap();
    assert_eq!(found.mapping, Mapping::EndpointIndependent, "one server address cannot tell");
    let mut nat = Nat::address_dependent_counter(6, 1, 0.0);
    let found = predict(&crate::nat::synthetic::batch_of_two_servers(&mut nat, &punch), &punch).unwrap();
    assert_eq!(found.mapping, Mapping::AddressDependent);
    assert!(
        matches!(found.model, Model::Progression(Counter { next, step: 1, .. }) if next == nat.peek()),
        "{found:?}"
    );
}

/// Fits both groups, and says whether step and jitter are found and how far the base is off.
fn fitted(nat: &mut Nat, seed: u64) -> Option<(Counter, u16)> {
    fitted_after(nat, seed, Duration::from_millis(60))
}

/// The same with any pause between the groups.
fn fitted_after(nat: &mut Nat, seed: u64, pause: Duration) -> Option<(Counter, u16)> {
    let punch = locals(&mut Dice::new(seed), 16);
    let found = predict(&two_groups_after(nat, &punch, pause), &punch).unwrap();
    let Model::Progression(counter) = found.model else { return None };
    let off = if counter.step > 0 {
        nat.peek().wrapping_sub(counter.next)
    } else {
        counter.next.wrapping_sub(nat.peek())
    };
    Some((counter, off))
}

#[test]
fn steps_and_jitter_are_told_from_foreign_traffic_up_to_two_hundred_a_second() {
    let trials = 100;
    for (step, jitter) in [(1, 0), (2, 0), (-1, 0), (-3, 0), (1, 2), (-1, 1), (2, 3)] {
        for rate in [0.0, 20.0, 50.0, 100.0, 200.0] {
            let (mut right, mut base) = (0, 0);
            for seed in 0..trials {
                let mut nat = Nat::irregular(seed, step, jitter, rate);
                let Some((counter, off)) = fitted(&mut nat, seed) else { continue };
                right += usize::from((counter.step, counter.jitter) == (step, jitter));
                base += usize::from(off <= jitter);
            }
            let least = if jitter == 0 { 98 } else { 80 };
            assert!(right * 100 >= least * trials as usize, "{step:+} {jitter} {rate}: {right}");
            assert!(base * 100 >= 98 * trials as usize, "{step:+} {jitter} {rate}: {base}");
        }
    }
}

#[test]
fn the_rate_is_right_in_the_mean_and_as_sure_as_it_says() {
    let cases = [0, 2].into_iter().flat_map(|jitter| [40, 100, 200].map(|pause| (jitter, pause)));
    for (jitter, pause) in cases {
        // With the time that is taken for granted.
        let seconds = (pause as f64 + 10.0) / 1e3;
        for rate in [0.0, 20.0, 50.0, 200.0] {
            let (mut sum, mut within) = (0.0, 0);
            let trials = 100;
            for seed in 0..trials {
                let mut nat = Nat::irregular(seed, 1, jitter, rate);
                let (counter, _) = fitted_after(&mut nat, seed, Duration::from_millis(pause)).unwrap();
                let found = f64::from(counter.rate_centi) / 100.0;
                let deviation = (found * 1000.0 / f64::from(counter.over_ms)).sqrt();
                sum += found;
                // A connection more or less cannot be told.
                within += usize::from((found - rate).abs() <= 2.0 * deviation + 1.0 / seconds);
            }
            let mean = sum / trials as f64;
            // Something is taken for granted, and a wrong jitter, now and then, is a wrong rate.
            let expected = (rate * pause as f64 / 1e3 + 0.2) / seconds;
            assert!(
                (mean - expected).abs() <= 0.5 / seconds + 3.0 + rate / 8.0,
                "{rate}, {pause} ms: {mean}"
            );
            assert!(within * 100 >= 88 * trials as usize, "{rate}, {pause} ms: {within}");
        }
    }
}

#[test]
fn a_counter_that_keeps_parity_is_a_step_of_two_for_ports_of_one_parity() {
    for seed in 0..100 {
        let punch: Vec<u16> = locals(&mut Dice::new(seed), 16).iter().map(|p| p | 1).collect();
        let mut nat = Nat::parity(seed, 20.0);
        let found = predict(&two_groups(&mut nat, &punch), &punch).unwrap();
        assert!(
            matches!(found.model, Model::Progression(Counter { step: 2, jitter: 0, next, .. }) if next % 2 == 1),
            "{found:?}"
        );
        let punch: Vec<u16> = punch.iter().zip(0..).map(|(p, i)| p - i % 2).collect();
        let found = predict(&two_groups(&mut Nat::parity(seed, 20.0), &punch), &punch).unwrap();
        assert!(matches!(found.model, Model::Progression(Counter { step: 1, .. })), "{found:?}");
    }
}

#[test]
fn a_batch_that_straddles_the_end_of_the_range_is_read_through() {
    for (range, step) in
        [((1024, 65_535), 1i16), ((1024, 65_535), -2), ((40_000, 49_999), 1), ((32_768, 60_999), -1)]
    {
        for before in 1..15 {
            let at = if step > 0 {
                range.1 - before * step.unsigned_abs()
            } else {
                range.0 + before * step.unsigned_abs()
            };
            let mut nat = Nat::wrapping(1, step, range, at, 5.0);
            let (counter, off) = fitted(&mut nat, u64::from(before)).unwrap();
            assert_eq!((counter.step, counter.jitter), (step, 0), "{range:?} {before}");
            assert!(
                off == 0 || !(2..=12).contains(&before),
                "{range:?} {step} {before}: {off} {counter:?} {}",
                nat.peek()
            );
        }
    }
}
