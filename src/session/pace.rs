//! How much may be before a keystroke: in a record, in the socket, and on its way.
//!
//! A full record (64 KiB) keeps a link of 10 Mbit/s busy for 52 ms. A record holds what the link
//! delivers in [`TIME`], as the acknowledgements tell: full records from 130 Mbit/s on, [`LEAST`] below
//! 8 Mbit/s. Smaller records cost nothing but 40 bytes each, so a rate that is underestimated (the
//! program had little to send) does no harm. As much is what the socket is given at a time.
//!
//! On a link with a short round trip (one machine, one LAN) it is not the network that holds the bytes up
//! but the other side's program, behind a kernel's buffer of many megabytes. There [`NEAR_WINDOW`] bytes
//! at most are on their way, until they are acknowledged, and [`URGENT_WINDOW`] while somebody types.

use std::time::{Duration, Instant};

use crate::wire::record::MAX_SESSION_RECORD;

/// How long one record may keep the link busy.
const TIME: Duration = Duration::from_millis(4);

/// Smallest largest record, bytes: 1 % of it is overhead.
const LEAST: usize = 4 * 1024;

/// Largest record before anything was acknowledged, bytes: the first flight of TCP.
const FIRST: usize = 14 * 1024;

/// Acknowledgements are added up for at least this long: they come in lumps of 25 ms.
const SAMPLE: Duration = Duration::from_millis(50);

/// A link with a shorter round trip is near. It is taken for near until it has shown a round trip: until
/// then a far one would not take more anyway.
const NEAR: Duration = Duration::from_millis(2);

/// Bytes that are on their way on a near link, eight full records: what 2 Gbit/s need for 2 ms, and half a millisecond
/// of what one machine can seal and open. (Half a megabyte stays in a processor's cache: with 2 MiB a bulk
/// transfer was slower by a third.)
pub(super) const NEAR_WINDOW: usize = 8 * MAX_SESSION_RECORD;

/// The same where somebody types beside a bulk transfer: less of it, so that a keystroke waits for less.
const URGENT_WINDOW: usize = 2 * MAX_SESSION_RECORD;

/// What the socket is given at a time then: one record, in place of two.
const URGENT_BATCH: usize = MAX_SESSION_RECORD;

/// Whoever has typed goes on for so long.
const URGENT: Duration = Duration::from_secs(1);

/// Measures one link.
#[derive(Debug)]
pub(super) struct Pace {
    since: Instant,
    acknowledged: usize,
    record: usize,
    /// Until when somebody types beside a bulk transfer.
    urgent_until: Option<Instant>,
}

impl Pace {
    /// A new link.
    pub(super) fn new(now: Instant) -> Self {
        Pace { since: now, acknowledged: 0, record: FIRST, urgent_until: None }
    }

    /// That many bytes were acknowledged.
    pub(super) fn acknowledged(&mut self, now: Instant, bytes: usize) {
        self.acknowledged += bytes;
        let elapsed = now.saturating_duration_since(self.since);
        // A fast link shows what it is before the time is over.
        let enough = elapsed >= SAMPLE || self.in_time(elapsed.max(SAMPLE)) > self.record;
        if enough {
            self.record = self.in_time(elapsed.max(SAMPLE)).max(LEAST);
        }
        if elapsed >= SAMPLE {
            (self.since, self.acknowledged) = (now, 0);
        }
    }

    /// A little was sent between bulk data.
    pub(super) fn urgent(&mut self, now: Instant) {
        self.urgent_until = Some(now + URGENT);
    }

    /// Most bytes that may be on their way, where the shortest round trip is this.
    pub(super) fn window(&self, now: Instant, least_rtt: Option<Duration>) -> usize {
        if least_rtt.is_some_and(|rtt| rtt >= NEAR) {
            usize::MAX
        } else if self.is_urgent(now) {
            URGENT_WINDOW
        } else {
            NEAR_WINDOW
        }
    }

    /// Bytes that a record may hold.
    pub(super) fn record(&self) -> usize {
        self.record
    }

    /// Bytes that the socket is to be given at a time, and to hold unsent.
    pub(super) fn batch(&self, now: Instant) -> usize {
        if self.is_urgent(now) { self.record.min(URGENT_BATCH) } else { self.record }
    }

    fn is_urgent(&self, now: Instant) -> bool {
        self.urgent_until.is_some_and(|until| now < until)
    }

    /// Bytes in [`TIME`], if those acknowledged took `elapsed`.
    fn in_time(&self, elapsed: Duration) -> usize {
        let share = TIME.as_secs_f64() / elapsed.as_secs_f64();
        (self.acknowledged as f64 * share) as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{testing::start, wire::record::MAX_SESSION_BODY};

    /// The record's size after a second of that rate.
    fn after_a_second(bytes_a_second: usize) -> usize {
        let mut now = start();
        let mut pace = Pace::new(now);
        for _ in 0..40 {
            now += Duration::from_millis(25);
            pace.acknowledged(now, bytes_a_second / 40);
        }
        pace.record()
    }

    #[test]
    fn a_fast_link_gets_full_records_and_a_slow_one_small_ones() {
        assert!(after_a_second(125_000_000) >= MAX_SESSION_BODY);
        assert_eq!(after_a_second(1_250_000), 5_000);
        assert_eq!(after_a_second(1_000), LEAST);
    }

    #[test]
    fn little_is_on_its_way_on_a_near_link_and_less_while_somebody_types() {
        let now = start();
        let mut pace = Pace::new(now);
        let far = Some(Duration::from_millis(20));
        assert_eq!((pace.window(now, None), pace.window(now, far)), (NEAR_WINDOW, usize::MAX));
        pace.urgent(now);
        assert_eq!((pace.window(now, None), pace.window(now, far)), (URGENT_WINDOW, usize::MAX));
        pace.acknowledged(now + Duration::from_millis(2), 4 << 20);
        assert!(pace.batch(now) == URGENT_BATCH && pace.batch(now + URGENT) == pace.record());
        assert_eq!(pace.window(now + URGENT, Some(Duration::ZERO)), NEAR_WINDOW);
    }

    #[test]
    fn a_very_fast_link_is_known_within_a_few_records() {
        let now = start();
        let mut pace = Pace::new(now);
        pace.acknowledged(now + Duration::from_millis(2), 4 << 20);
        assert!(pace.record() >= MAX_SESSION_BODY);
    }
}
