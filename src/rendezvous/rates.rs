//! Rates and shares for each source and each network of sources, in bounded memory.

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
    time::{Duration, Instant},
};

/// How many times what one source may a network of sources may: an attacker has a whole one more often than
/// all its people want something at once.
const NETWORK: u32 = 4;

/// Who counts as one source: an IPv4 address, or the /64 that one IPv6 subscriber has. And their networks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Prefix {
    // Bytes, because tables are full of these: integers would take twice the room.
    /// The address.
    V4([u8; 4]),
    /// The upper half of the address.
    V6([u8; 8]),
    /// The /24 of an address.
    Network4([u8; 3]),
    /// The /48, which one site has.
    Network6([u8; 6]),
}

impl From<IpAddr> for Prefix {
    fn from(ip: IpAddr) -> Self {
        match ip.to_canonical() {
            IpAddr::V4(ip) => Prefix::V4(ip.octets()),
            IpAddr::V6(ip) => {
                let [a, b, c, d, e, f, g, h, ..] = ip.octets();
                Prefix::V6([a, b, c, d, e, f, g, h])
            }
        }
    }
}

impl From<SocketAddr> for Prefix {
    fn from(addr: SocketAddr) -> Self {
        addr.ip().into()
    }
}

impl Prefix {
    /// The network of a source.
    fn network(self) -> Prefix {
        match self {
            Prefix::V4([a, b, c, _]) => Prefix::Network4([a, b, c]),
            Prefix::V6([a, b, c, d, e, f, ..]) => Prefix::Network6([a, b, c, d, e, f]),
            network => network,
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

/// A bucket for each source, and a larger one for each network.
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
    /// At most `capacity` sources and networks in each generation.
    pub(super) fn new(now: Instant, rate: Rate, capacity: usize) -> Self {
        Rates { rate, capacity, turned: now, current: BTreeMap::new(), previous: BTreeMap::new() }
    }

    /// Takes one unit of that source and of its network.
    pub(super) fn take(&mut self, now: Instant, source: Prefix) -> bool {
        let refilled = now.saturating_duration_since(self.turned) >= self.rate.cost(self.rate.burst);
        if refilled || self.current.len() + 1 >= self.capacity {
            self.previous = std::mem::take(&mut self.current);
            self.turned = now;
        }
        let one = self.rate;
        let wide = Rate {
            units: one.units.saturating_mul(NETWORK),
            burst: one.burst.saturating_mul(NETWORK),
            period: one.period,
        };
        self.bucket(now, source).take(now, one, 1) && self.bucket(now, source.network()).take(now, wide, 1)
    }

    /// Takes that many units more from a source and its network, or what is left.
    pub(super) fn fine(&mut self, now: Instant, source: Prefix, units: u32) {
        let (period, burst) = (self.rate.cost(1), self.rate.cost(self.rate.burst));
        for (prefix, share) in [(source, 1), (source.network(), NETWORK)] {
            let bucket = self.bucket(now, prefix);
            let full_at = bucket.full_at.max(now) + period * units / share;
            bucket.full_at = full_at.min(now + burst);
        }
    }

    fn bucket(&mut self, now: Instant, prefix: Prefix) -> &mut Bucket {
        let previous = &self.previous;
        let known = || previous.get(&prefix).copied().unwrap_or(Bucket::new(now));
        self.current.entry(prefix).or_insert_with(known)
    }

    /// Sources in memory.
    pub(super) fn len(&self) -> usize {
        self.current.len() + self.previous.len()
    }
}

/// How many of something each source has, and each network.
#[derive(Debug)]
pub(crate) struct Shares {
    most: usize,
    counts: BTreeMap<Prefix, u32>,
}

impl Shares {
    /// At most so many for one source, and four times as many for one network.
    pub(crate) fn new(most: usize) -> Self {
        Shares { most, counts: BTreeMap::new() }
    }

    /// There is room for one more.
    pub(crate) fn has_room(&self, source: Prefix) -> bool {
        let count = |prefix| self.counts.get(&prefix).map_or(0, |count| *count as usize);
        count(source) < self.most && count(source.network()) < self.most.saturating_mul(NETWORK as usize)
    }

    /// One more.
    pub(crate) fn add(&mut self, source: Prefix) {
        for prefix in [source, source.network()] {
            *self.counts.entry(prefix).or_default() += 1;
        }
    }

    /// One less.
    pub(crate) fn remove(&mut self, source: Prefix) {
        for prefix in [source, source.network()] {
            if let Some(count) = self.counts.get_mut(&prefix) {
                *count -= 1;
                if *count == 0 {
                    self.counts.remove(&prefix);
                }
            }
        }
    }

    /// Nobody has one.
    #[cfg(test)]
    pub(crate) fn is_empty(&self) -> bool {
        self.counts.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::start;

    /// Each in a network of its own.
    fn source(n: u32) -> Prefix {
        Prefix::V4((n << 8).to_be_bytes())
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
        let mut rates = Rates::new(now, Rate::per_second(1, 1), 5);
        assert!(rates.take(now, source(1)));
        assert!(rates.take(now, source(2)));
        assert!(rates.take(now, source(3)), "turns the generation");
        assert!(!rates.take(now, source(1)), "still empty");
    }

    #[test]
    fn a_network_has_what_four_of_its_sources_have() {
        let now = start();
        let mut rates = Rates::new(now, Rate::per_second(1, 5), 1000);
        let of_24 = |n| Prefix::from(IpAddr::from([192, 0, 2, n]));
        assert_eq!((0..=255).filter(|n| rates.take(now, of_24(*n))).count(), 20);
        assert!(rates.take(now, Prefix::from(IpAddr::from([192, 0, 3, 1]))), "another network");
        let of_48 = |n: u16| Prefix::from(IpAddr::from([0x2001, 0xdb8, 1, n, 0, 0, 0, 1]));
        assert_eq!((0..1000).filter(|n| rates.take(now, of_48(*n))).count(), 20);
        let mut shares = Shares::new(5);
        let mut taken = 0;
        for n in (0..=255).chain(0..=255) {
            if shares.has_room(of_24(n)) {
                shares.add(of_24(n));
                taken += 1;
            }
        }
        assert_eq!(taken, 20);
        (0..20).for_each(|n| shares.remove(of_24(n)));
        assert!(shares.is_empty());
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
