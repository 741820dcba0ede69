//! How far a counter moves for each connection, and how many of the moves were foreign.
//!
//! A gap between two of our ports holds our own connection and those that others opened meanwhile, each
//! of which moved the counter by its step and, in some NATs, by some ports more at random. Every pair of
//! step and jitter gives the gaps another law; the most probable pair is taken (Bayes, with the priors
//! below), and its probability is the confidence.

use std::sync::LazyLock;

/// Most ports that an irregular counter is taken to skip.
const MOST_JITTER: u32 = 8;

/// Largest least step that an irregular counter is taken to have.
const MOST_IRREGULAR_STEP: u32 = 16;

/// What is taken for granted of foreign traffic before anything is seen: a fifth of a connection in 10 ms
/// (20 a second: a busy household or small office). A batch that leaves within a millisecond shows next to
/// nothing of the rate and yields this; two groups that are 40 ms apart show it.
const PRIOR_EVENTS: f64 = 0.2;
/// See [`PRIOR_EVENTS`], microseconds.
const PRIOR_US: f64 = 10_000.0;

/// An estimate from so few connections that there might as well have been none, or two, is less sure than
/// its variance says: the time that it is worth is as much shorter as with so many more.
const FEW: f64 = 0.5;

/// Rates are exponentially less probable beyond this many a second: what moves a counter in a burst of
/// a few milliseconds is its own irregularity, not ten thousand neighbours.
const PRIOR_RATE: f64 = 100.0;

/// Prior probability of an irregular counter. Few are known.
const PRIOR_IRREGULAR: f64 = 0.1;

/// Probes that left together within a millisecond or less arrive this far apart, microseconds: the
/// network's jitter. So shorter gaps were really ...
const JITTER_US: u64 = 5_000;

/// ... this long at the most.
const BURST_US: u64 = 300;

/// Gaps of more steps than this are held against the normal law instead of the exact one, with jitter.
const EXACT: u32 = 48;

/// Between two ports that were drawn one after the other.
pub(super) struct Gap {
    /// Ports, where the distance is known.
    pub(super) ports: Option<u32>,
    /// Difference of the probes' numbers, at least 1. Those between may have got lost before the NAT or
    /// after it.
    pub(super) own: u32,
    /// Time between them, microseconds.
    pub(super) us: u64,
}

/// The most probable counter.
pub(super) struct Steps {
    /// Least step, ports.
    pub(super) step: u32,
    /// Ports more, at most.
    pub(super) jitter: u32,
    /// Its probability among all.
    pub(super) probability: f64,
    /// Foreign connections a second, in hundredths.
    pub(super) rate_centi: u32,
    /// The time that the rate was seen over, with what was taken for granted, milliseconds.
    pub(super) over_ms: u16,
}

/// Fits step, jitter and rate to gaps of which at least one is known.
pub(super) fn fit(gaps: &[Gap]) -> Option<Steps> {
    let known = || gaps.iter().filter_map(|gap| gap.ports);
    let (least, common) = (known().min()?, known().fold(0, gcd));
    let even = divisors(common).map(|step| (step, 0));
    let irregular = (1..=least.min(MOST_IRREGULAR_STEP))
        .flat_map(|step| (1..=MOST_JITTER).map(move |jitter| (step, jitter)));
    let judged: Vec<_> = even
        .chain(irregular)
        .filter_map(|(step, jitter)| {
            let rate = Rate::of(gaps, step, jitter);
            let law = Law { step, jitter, rate: rate.per_us, sums: SUMS.get(jitter as usize)? };
            let log = prior(step, jitter) - rate.per_us * 1e6 / PRIOR_RATE
                + gaps.iter().map(|gap| law.log(gap)).sum::<f64>();
            log.is_finite().then_some((log, step, jitter, rate))
        })
        .collect();
    let (best, step, jitter, rate) = judged.iter().max_by(|a, b| a.0.total_cmp(&b.0))?;
    let all: f64 = judged.iter().map(|(log, ..)| (log - best).exp()).sum();
    Some(Steps {
        step: *step,
        jitter: *jitter,
        probability: 1.0 / all,
        rate_centi: (rate.per_us * 1e8).round().clamp(0.0, f64::from(u32::MAX)) as u32,
        over_ms: (rate.over_us / 1e3).round().clamp(1.0, f64::from(u16::MAX)) as u16,
    })
}

/// Logarithm of the probability before anything is seen.
fn prior(step: u32, jitter: u32) -> f64 {
    let size = 1.0 / f64::from(step * (step + 1));
    let kind = match jitter {
        0 => 1.0 - PRIOR_IRREGULAR,
        _ => PRIOR_IRREGULAR / f64::from(jitter * (jitter + 1)),
    };
    (size * kind).ln()
}

/// Foreign connections, were the counter of this kind.
struct Rate {
    per_us: f64,
    over_us: f64,
}

impl Rate {
    fn of(gaps: &[Gap], step: u32, jitter: u32) -> Self {
        let known = || gaps.iter().filter(|gap| gap.ports.is_some());
        let ports: u32 = known().filter_map(|gap| gap.ports).sum();
        let own: u32 = known().map(|gap| gap.own).sum();
        let us: u64 = known().map(|gap| gap.us).sum();
        let mean = f64::from(step) + f64::from(jitter) / 2.0;
        let foreign = (f64::from(ports) / mean - f64::from(own)).max(0.0);
        let (over_us, events) = (us as f64 + PRIOR_US, foreign + PRIOR_EVENTS);
        // The jitter of all these moves blurs their number; the time that it is worth is the shorter.
        let blur = (f64::from(own) + foreign) * f64::from(jitter * (jitter + 2)) / 12.0 / (mean * mean);
        Rate { per_us: events / over_us, over_us: over_us * events / (events + blur + FEW) }
    }
}

/// The law of a gap.
struct Law<'a> {
    step: u32,
    jitter: u32,
    rate: f64,
    sums: &'a Sums,
}

impl Law<'_> {
    /// Logarithm of the probability of a gap; that of one that is not known says nothing.
    fn log(&self, gap: &Gap) -> f64 {
        let Some(ports) = gap.ports else { return 0.0 };
        let us = if gap.us < JITTER_US { BURST_US } else { gap.us };
        let expected = self.rate * us as f64;
        // Each probe that was not heard of drew a port, or not.
        let missing = gap.own - 1;
        let halves = |drawn: u32| binomial(missing, drawn) * 0.5f64.powi(missing.cast_signed());
        let whole: f64 =
            (0..=missing).map(|drawn| halves(drawn) * self.probability(ports, 1 + drawn, expected)).sum();
        whole.ln()
    }

    /// Of a gap of `ports` with `own` connections of ours and `expected` foreign ones.
    fn probability(&self, ports: u32, own: u32, expected: f64) -> f64 {
        let most = ports / self.step;
        if self.jitter == 0 {
            return match most.checked_sub(own) {
                Some(foreign) if most * self.step == ports => poisson(foreign, expected),
                _ => 0.0,
            };
        }
        if most > EXACT {
            let (mean, variance) = self.moments();
            let (own, far) = (f64::from(own), f64::from(ports));
            let spread = expected * (variance + mean * mean) + own * variance;
            let off = far - (own + expected) * mean;
            return (-off * off / (2.0 * spread)).exp() / (std::f64::consts::TAU * spread).sqrt();
        }
        let of = |steps: u32| self.sums.probability(steps, ports - steps * self.step);
        (own..=most).map(|steps| poisson(steps - own, expected) * of(steps)).sum()
    }

    /// Mean and variance of one move, ports.
    fn moments(&self) -> (f64, f64) {
        let jitter = f64::from(self.jitter);
        (f64::from(self.step) + jitter / 2.0, jitter * (jitter + 2.0) / 12.0)
    }
}

/// By jitter.
static SUMS: LazyLock<Vec<Sums>> = LazyLock::new(|| (0..=MOST_JITTER).map(Sums::of).collect());

/// The law of a sum of numbers between 0 and a jitter, each equally likely: up to [`EXACT`] of them.
struct Sums(Vec<Vec<f64>>);

impl Sums {
    fn of(jitter: u32) -> Self {
        let each = jitter as usize + 1;
        let mut sums = vec![vec![1.0]];
        for _ in 0..EXACT {
            let last = sums.last().map_or(&[] as &[f64], Vec::as_slice);
            let mut next = vec![0.0; last.len() + each - 1];
            for (i, p) in last.iter().enumerate() {
                next.iter_mut().skip(i).take(each).for_each(|slot| *slot += p / each as f64);
            }
            sums.push(next);
        }
        Sums(sums)
    }

    fn probability(&self, numbers: u32, sum: u32) -> f64 {
        self.0.get(numbers as usize).and_then(|law| law.get(sum as usize)).copied().unwrap_or(0.0)
    }
}

fn poisson(count: u32, expected: f64) -> f64 {
    let log_factorial: f64 = (2..=count).map(|k| f64::from(k).ln()).sum();
    (f64::from(count) * expected.max(1e-12).ln() - expected - log_factorial).exp()
}

fn binomial(n: u32, k: u32) -> f64 {
    (0..k).map(|i| f64::from(n - i) / f64::from(i + 1)).product()
}

fn gcd(a: u32, b: u32) -> u32 {
    if b == 0 { a } else { gcd(b, a % b) }
}

fn divisors(n: u32) -> impl Iterator<Item = u32> {
    (1..=n.min(i16::MAX as u32)).filter(move |d| n.is_multiple_of(*d))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn burst(ports: &[u32]) -> Vec<Gap> {
        ports.iter().map(|&ports| Gap { ports: Some(ports), own: 1, us: 100 }).collect()
    }

    #[test]
    fn the_law_of_a_gap_is_a_law() {
        let sums = Sums::of(2);
        let law = Law { step: 1, jitter: 2, rate: 2e-5, sums: &sums };
        let all: f64 = (1..=EXACT).map(|ports| law.probability(ports, 1, 1.5)).sum();
        assert!((all - 1.0).abs() < 1e-9, "{all}");
        let even = Law { step: 3, jitter: 0, rate: 2e-5, sums: &Sums::of(0) };
        let all: f64 = (1..200).map(|ports| even.probability(ports, 2, 4.0)).sum();
        assert!((all - 1.0).abs() < 1e-9, "{all}");
        assert_eq!(even.probability(3, 2, 4.0), 0.0);
    }

    #[test]
    fn ones_are_a_step_of_one_and_a_mixture_is_irregular() {
        let found = fit(&burst(&[1, 1, 1, 1, 1, 1, 1])).unwrap();
        assert_eq!((found.step, found.jitter), (1, 0));
        assert!(found.probability > 0.99);
        let found = fit(&burst(&[1, 3, 2, 1, 2, 3, 1])).unwrap();
        assert_eq!((found.step, found.jitter), (1, 2));
        let found = fit(&burst(&[4, 4, 4, 8, 4, 4, 4])).unwrap();
        assert_eq!((found.step, found.jitter), (4, 0));
    }

    #[test]
    fn a_probe_that_was_not_heard_of_is_no_foreign_connection() {
        let mut gaps = burst(&[1, 1, 2, 1, 1, 1]);
        gaps[2].own = 2;
        let found = fit(&gaps).unwrap();
        assert_eq!((found.step, found.jitter), (1, 0));
        assert!(found.rate_centi <= 2_000, "{}", found.rate_centi);
        gaps[2].ports = Some(1);
        assert_eq!(fit(&gaps).unwrap().step, 1, "it never reached the NAT");
    }

    #[test]
    fn nothing_known_is_nothing_fitted() {
        assert!(fit(&[]).is_none());
        assert!(fit(&[Gap { ports: None, own: 1, us: 0 }]).is_none());
    }
}
