//! A counter that every new connection moves by one step: ours, and those of everybody else behind it.

use std::net::IpAddr;

use super::{Mapping, Model, Observation, predict::Fit};
use crate::nat::stats::{order_by_chance, range_by_chance};

/// Product of the two chances (order and range of the ports, were they drawn at random) below which they
/// are held for a counter. The chances are independent, so the error rate is α (1 - ln α) = 0.1 %: one
/// random NAT in a thousand is taken for a counter, and found out by the round that fails.
const ALPHA: f64 = 1e-4;

/// Smallest block that a carrier gives to a customer (RFC 7422's examples begin there): draws out of it
/// are the hardest to tell from a counter, so it is what the range is held against.
const SMALLEST_BLOCK: u32 = 256;

/// What is taken for granted of foreign traffic before anything is seen: 20 connections a second (a busy
/// household or small office), with the weight of a tenth of a second. A batch that leaves within a
/// millisecond shows next to nothing of the rate and yields this; one spread over a round trip shows it.
const PRIOR_EVENTS: u64 = 2;
/// See [`PRIOR_EVENTS`], microseconds.
const PRIOR_WINDOW_US: u64 = 100_000;

/// Longest time that a batch is taken to last, microseconds: what a server says is not believed blindly.
const LONGEST_WINDOW_US: u64 = 10_000_000;

/// Fits [`Model::Progression`] to new ports in the order in which their connections left, or says that
/// they were not counted.
pub(super) fn fit(draws: &[Observation], mapping: Mapping) -> Option<Fit> {
    let ports: Vec<i32> = draws.iter().map(|o| i32::from(o.observed.port())).collect();
    let mut sorted = ports.clone();
    sorted.sort_unstable();
    let (lowest, highest) = (*sorted.first()?, *sorted.last()?);
    let gaps = || sorted.windows(2).filter_map(|w| Some(w.get(1)?.abs_diff(*w.first()?)));
    // A port used for two destinations at once was not counted.
    if gaps().any(|gap| gap == 0) {
        return None;
    }

    let pairs = ports.iter().enumerate().flat_map(|(i, a)| ports.iter().skip(i + 1).map(move |b| (a, b)));
    let (falling, rising) = pairs.fold((0, 0), |(f, r), (a, b)| if a > b { (f + 1, r) } else { (f, r + 1) });
    let chance = order_by_chance(ports.len(), falling.min(rising))
        * range_by_chance(ports.len(), lowest.abs_diff(highest), SMALLEST_BLOCK);
    if ports.len() < 3 || chance > ALPHA {
        return None;
    }

    // Foreign connections make the gaps multiples of the step; the largest step that explains them all
    // is the likeliest, as every smaller one needs a foreign connection in *every* gap.
    let size = i32::from(i16::try_from(gaps().fold(0, gcd)).ok()?);
    let step = if rising > falling { size } else { -size };
    let newest = if step > 0 { highest } else { lowest };
    // Beyond the end of the range NATs start over somewhere: the usual ends of that range are a guess.
    let next = match newest + step {
        below if below < 1024 && step < 0 => 65535,
        above if above > 65535 => 1024,
        next => next,
    };
    let model = Model::Progression {
        next: u16::try_from(next).ok()?,
        step: i16::try_from(step).ok()?,
        rate_centi: rate_centi(draws, size.unsigned_abs()),
    };
    Some(Fit { model, mapping, confidence: confidence(draws, lowest.abs_diff(highest), size.unsigned_abs()) })
}

/// Foreign connections a second, in hundredths: steps that are not our own probes' over the time
/// between them, on the clock of the server address that saw most.
fn rate_centi(draws: &[Observation], step: u32) -> u32 {
    let mut servers: Vec<IpAddr> = draws.iter().map(|o| o.server.ip()).collect();
    servers.sort_unstable();
    servers.dedup();
    let seen_by = |server: &IpAddr| draws.iter().filter(|o| o.server.ip() == *server).count();
    let Some(server) = servers.iter().max_by_key(|s| seen_by(s)) else { return 0 };
    let here = || draws.iter().filter(|o| o.server.ip() == *server);
    // Jitter may shuffle the arrivals, so first and last by number, not by time.
    let (Some(first), Some(last)) = (here().next(), here().next_back()) else { return 0 };
    let window = last.at_us.saturating_sub(first.at_us).min(LONGEST_WINDOW_US);
    let steps = u32::from(first.observed.port().abs_diff(last.observed.port())) / step.max(1);
    let foreign = u64::from(steps.saturating_sub(u32::from(last.number.saturating_sub(first.number))));
    let rate = (foreign + PRIOR_EVENTS) * 100_000_000 / (window + PRIOR_WINDOW_US);
    u32::try_from(rate).unwrap_or(u32::MAX)
}

/// All steps our own: 95 %. The more of the movement is foreign, the less.
fn confidence(draws: &[Observation], range: u32, step: u32) -> u8 {
    let steps = (range / step.max(1)).max(1) as usize;
    let own = draws.len().saturating_sub(1).min(steps);
    u8::try_from(40 + 55 * own / steps).unwrap_or(40)
}

fn gcd(a: u32, b: u32) -> u32 {
    if b == 0 { a } else { gcd(b, a % b) }
}

#[cfg(test)]
mod tests {
    use crate::nat::{
        Mapping, Model, predict,
        synthetic::{Dice, Nat, batch, batch_spread, locals},
    };

    #[test]
    fn a_quiet_counter_is_fitted_exactly_whatever_its_step() {
        for seed in 0..100 {
            for step in [1, 2, 3, 5, 16, -1, -2, -7] {
                let punch = locals(&mut Dice::new(seed), 16);
                let mut nat = Nat::counter(seed, step, 0.0);
                let found = predict(&batch(&mut nat, &punch), &punch).unwrap();
                let Model::Progression { next, step: fitted, .. } = found.model else { panic!("{found:?}") };
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
                matches!(found.model, Model::Progression { next, step: s, .. } if s == step && next == nat.peek()),
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
                let Model::Progression { rate_centi, .. } = found.model else { panic!("{found:?}") };
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
            let Model::Progression { next, step, .. } = found.model else { panic!("{found:?}") };
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
            matches!(found.model, Model::Progression { next, step: 1, .. } if next == nat.peek()),
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
        assert!(matches!(found.model, Model::Progression { step: 1, .. }), "{found:?}");
        assert!(found.confidence < 80);
    }

    #[test]
    fn a_port_for_each_destination_address_is_seen_with_two_servers() {
        let punch = locals(&mut Dice::new(6), 16);
        let mut nat = Nat::address_dependent_counter(6, 1);
        let found = predict(&batch(&mut nat, &punch), &punch).unwrap();
        assert_eq!(found.mapping, Mapping::EndpointIndependent, "one server address cannot tell");
        let mut nat = Nat::address_dependent_counter(6, 1);
        let found = predict(&crate::nat::synthetic::batch_of_two_servers(&mut nat, &punch), &punch).unwrap();
        assert_eq!(found.mapping, Mapping::AddressDependent);
        assert!(
            matches!(found.model, Model::Progression { next, step: 1, .. } if next == nat.peek()),
            "{found:?}"
        );
    }
}
