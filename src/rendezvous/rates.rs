//! Rates for each source, in bounded memory.

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
    time::{Duration, Instant},
};

/// Who counts as one source: an IPv4 address, or the /64 that one IPv6 subscriber has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Prefix {
    /// The address.
    V4(u32),
    /// The upper half of the address.
    V6(u64),
}

impl From<SocketAddr> for Prefix {
    fn from(addr: SocketAddr) -> Self {
        match addr.ip().to_canonical() {
            IpAddr::V4(ip) => Prefix::V4(ip.to_bits()),
            IpAddr::V6(ip) => Prefix::V6((ip.to_bits() >> 64) as u64),
        }
    }
}

/// How much of something is allowed.
#[derive(Debug, Clone, Copy)]
pub(super) struct Rate {
    /// Units in `period`, on average; at least 1.
    pub(super) units: u32,
    /// See `units`.
    pub(super) period: Duration,
    /// Units at once; at least 1.
    pub(super) burst: u32,
}

impl Rate {
    /// `units` a second, `burst` at once.
    pub(super) fn per_second(units: u32, burst: u32) -> Self {
        Rate { units: units.max(1), period: Duration::from_secs(1), burst: burst.max(1) }
    }

    fn cost(self, units: u32) -> Duration {
        self.period.saturating_mul(units) / self.units.max(1)
    }
}

/// A token bucket, kept as the instant at which it will be full again (the "theoretical arrival time"
/// of the generic cell rate algorithm, ITU-T I.371): no timer refills it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Bucket {
    full_at: Instant,
}

impl Bucket {
    pub(super) fn new(now: Instant) -> Self {
        Bucket { full_at: now }
    }

    /// Takes that many units out if they are there.
    pub(super) fn take(&mut self, now: Instant, rate: Rate, units: u32) -> bool {
        let full_at = self.full_at.max(now) + rate.cost(units);
        let allowed = full_at <= now + rate.cost(rate.burst);
        if allowed {
            self.full_at = full_at;
        }
        allowed
    }
}

/// A bucket for each source.
///
/// Two generations: the older one is forgotten when the newer one is full, or old enough that every
/// bucket in the older one has been refilled anyway. More sources than fit at once means that a source
/// may be given a fresh bucket too early; what all sources use together has its own [`Bucket`].
#[derive(Debug)]
pub(super) struct Rates {
    rate: Rate,
    capacity: usize,
    turned: Instant,
    current: BTreeMap<Prefix, Bucket>,
    previous: BTreeMap<Prefix, Bucket>,
}

impl Rates {
    /// At most `capacity` sources in each generation.
    pub(super) fn new(now: Instant, rate: Rate, capacity: usize) -> Self {
        Rates { rate, capacity, turned: now, current: BTreeMap::new(), previous: BTreeMap::new() }
    }

    /// Takes one unit of that source.
    pub(super) fn take(&mut self, now: Instant, source: Prefix) -> bool {
        let refilled = now.saturating_duration_since(self.turned) >= self.rate.cost(self.rate.burst);
        if refilled || self.current.len() >= self.capacity {
            self.previous = std::mem::take(&mut self.current);
            self.turned = now;
        }
        let known = self.previous.get(&source).copied();
        let bucket = self.current.entry(source).or_insert_with(|| known.unwrap_or(Bucket::new(now)));
        bucket.take(now, self.rate, 1)
    }

    /// Sources in memory.
    pub(super) fn len(&self) -> usize {
        self.current.len() + self.previous.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::start;

    fn source(n: u32) -> Prefix {
        Prefix::V4(n)
    }

    #[test]
    fn a_source_gets_its_burst_and_then_its_rate() {
        let now = start();
        let mut rates = Rates::new(now, Rate::per_second(10, 5), 100);
        assert_eq!((0..20).filter(|_| rates.take(now, source(1))).count(), 5);
        assert!(rates.take(now, source(2)), "another source has its own bucket");
        let later = now + Duration::from_millis(200);
        assert_eq!((0..20).filter(|_| rates.take(later, source(1))).count(), 2);
    }

    #[test]
    fn a_bucket_survives_the_turn_of_generations() {
        let now = start();
        let mut rates = Rates::new(now, Rate::per_second(1, 1), 2);
        assert!(rates.take(now, source(1)));
        assert!(rates.take(now, source(2)));
        assert!(rates.take(now, source(3)), "turns the generation");
        assert!(!rates.take(now, source(1)), "still empty");
    }

    #[test]
    fn any_number_of_sources_takes_bounded_memory() {
        let now = start();
        let mut rates = Rates::new(now, Rate::per_second(1, 1), 100);
        for n in 0..10_000 {
            rates.take(now, source(n));
        }
        assert!(rates.len() <= 200);
    }

    #[test]
    fn a_mapped_address_is_the_same_source_and_neighbours_in_a_64_are_one() {
        let parse = |text: &str| Prefix::from(text.parse::<SocketAddr>().expect("an address"));
        assert_eq!(parse("[::ffff:192.0.2.1]:5"), parse("192.0.2.1:6"));
        assert_eq!(parse("[2001:db8::1]:5"), parse("[2001:db8::2]:5"));
        assert_ne!(parse("[2001:db8:0:1::1]:5"), parse("[2001:db8::1]:5"));
    }
}
