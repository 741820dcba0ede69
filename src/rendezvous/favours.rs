//! What a server does for strangers who examine their NAT, and how often.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use super::rates::{Bucket, Prefix, Rate, Rates};

/// Knocks and crossings for one source: an examination takes four of them, a few people may share an
/// address.
const KNOCKS_PER_SOURCE: Rate = Rate { units: 1, period: Duration::from_secs(2), burst: 16 };

/// The same in all. Each costs sockets for up to two seconds.
const KNOCKS: Rate = Rate { units: 64, period: Duration::from_secs(1), burst: 128 };

/// Mirrors for one source, a second: an examination takes two, repeated a few times where they get lost.
const MIRRORS_PER_SOURCE: Rate = Rate { units: 16, period: Duration::from_secs(1), burst: 32 };

/// The same in all: 0.5 MB/s.
const MIRRORS: Rate = Rate { units: 10_000, period: Duration::from_secs(1), burst: 10_000 };

/// Sources that are known at a time (twice as many in memory, under 100 bytes each).
const SOURCES: usize = 16_384;

/// Counts favours.
#[derive(Debug)]
pub struct Favours {
    knocks: Bucket,
    knocks_by_source: Rates,
    mirrors: Bucket,
    mirrors_by_source: Rates,
}

impl Favours {
    /// Nothing was asked yet.
    pub fn new(now: Instant) -> Self {
        Favours {
            knocks: Bucket::new(now),
            knocks_by_source: Rates::new(now, KNOCKS_PER_SOURCE, SOURCES),
            mirrors: Bucket::new(now),
            mirrors_by_source: Rates::new(now, MIRRORS_PER_SOURCE, SOURCES),
        }
    }

    /// Whether a SYN may be sent to the source of a connection that asks for it.
    pub fn may_knock(&mut self, now: Instant, source: SocketAddr) -> bool {
        self.knocks_by_source.take(now, Prefix::from(source)) && self.knocks.take(now, KNOCKS, 1)
    }

    /// Whether a datagram may be answered with its source address.
    pub fn may_mirror(&mut self, now: Instant, source: SocketAddr) -> bool {
        self.mirrors_by_source.take(now, Prefix::from(source)) && self.mirrors.take(now, MIRRORS, 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::start;

    fn source(n: u32) -> SocketAddr {
        (std::net::Ipv4Addr::from_bits(n << 8), 7).into()
    }

    #[test]
    fn one_source_is_done_a_few_favours_and_all_together_some_more() {
        let now = start();
        let mut favours = Favours::new(now);
        assert_eq!((0..100).filter(|_| favours.may_knock(now, source(1))).count(), 16);
        assert_eq!((2..1000).filter(|n| favours.may_knock(now, source(*n))).count(), 112);
        let later = now + Duration::from_secs(4);
        assert_eq!((0..100).filter(|_| favours.may_knock(later, source(1))).count(), 2);
        assert_eq!((0..100).filter(|_| favours.may_mirror(now, source(1))).count(), 32);
    }
}
