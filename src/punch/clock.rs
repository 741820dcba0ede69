//! What an instant here is called there.
//!
//! No clock reading ever crosses the wire. The initiator numbers its pings; for each that is answered it
//! knows when it left, when the answer came and how long the responder held it. "The instant is d after
//! you received ping n" then means the same moment to both, up to half the difference between the two
//! ways of that ping: at most half its round trip, and usually far less, as the ping with the shortest
//! round trip is taken. A ping has a nonce beside its number, which the answer names: a ping that went to one
//! address alone is answered by whoever receives there, or by nobody. Offsets and readings of the two clocks never matter, only that both run at the
//! same speed for a minute (50 ppm: 3 ms).

use std::{
    collections::VecDeque,
    net::SocketAddr,
    time::{Duration, Instant},
};

/// Answered pings that are compared: those of the path as it is now.
const SAMPLES: usize = 16;

/// Age at which a sample is no longer used: routes change and clocks drift.
const OLDEST: Duration = Duration::from_secs(60);

/// Pings whose receipt the responder remembers, and how far behind the latest ping a sample may be that
/// the initiator refers to. A burst of pings over two paths is under ten.
const LOGGED: usize = 64;

/// Share of the first round trip that is taken for its deviation. RFC 6298 takes half, so as not to repeat
/// a segment in vain; here it only lengthens the lead, and a START that comes late is answered at once.
const FIRST_DEVIATION: u32 = 64;

/// The longest duration after a sample that is taken seriously: the oldest sample, and the longest lead.
const FURTHEST: Duration = Duration::from_secs(61);

/// The initiator's side: numbers its pings and keeps what they say.
#[derive(Debug, Default)]
pub struct ClockFilter {
    /// Number of the latest ping.
    latest: u32,
    /// Pings without an answer yet; at most [`LOGGED`].
    waiting: VecDeque<Waiting>,
    /// The last [`SAMPLES`] answered ones.
    samples: VecDeque<Sample>,
    smoothed: Option<Smoothed>,
}

/// A ping without an answer.
#[derive(Debug, Clone, Copy)]
struct Waiting {
    number: u32,
    nonce: u64,
    /// Where it went, if it went to one address alone.
    to: Option<SocketAddr>,
    sent_at: Instant,
}

/// What an answer showed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Answered {
    /// Round trip.
    pub rtt: Duration,
    /// The other side receives at this address: its ping went there and nowhere else.
    pub proved: Option<SocketAddr>,
}

#[derive(Debug, Clone, Copy)]
struct Sample {
    number: u32,
    sent_at: Instant,
    rtt: Duration,
}

/// RFC 6298 §2, but for the first deviation.
#[derive(Debug, Clone, Copy)]
struct Smoothed {
    rtt: Duration,
    var: Duration,
}

impl ClockFilter {
    /// Without samples.
    pub fn new() -> Self {
        Self::default()
    }

    /// A ping is sent now, to that address alone or (`None`) over several paths: its number, from 1. Nobody
    /// can guess the `nonce`.
    pub fn ping(&mut self, now: Instant, nonce: u64, to: Option<SocketAddr>) -> u32 {
        self.latest = self.latest.saturating_add(1);
        if self.waiting.len() == LOGGED {
            self.waiting.pop_front();
        }
        self.waiting.push_back(Waiting { number: self.latest, nonce, to, sent_at: now });
        self.latest
    }

    /// The answer to a ping came now, from that address or (`None`) through the server, which the other side
    /// held for `held_us` microseconds. `None` for a nonce that does not wait for an answer (any more), an
    /// answer from elsewhere than the one address that the ping went to, or a holding time that cannot be.
    pub fn pong(
        &mut self,
        now: Instant,
        nonce: u64,
        from: Option<SocketAddr>,
        held_us: u32,
    ) -> Option<Answered> {
        let from_there = |w: &Waiting| w.nonce == nonce && (w.to.is_none() || w.to == from);
        let at = self.waiting.iter().position(from_there)?;
        let Waiting { number, to, sent_at, .. } = self.waiting.remove(at)?;
        let rtt = self.sample(number, sent_at, now, held_us)?;
        Some(Answered { rtt, proved: to })
    }

    /// Smoothed round trip and its mean deviation (RFC 6298), of the pings since the path changed.
    pub fn smoothed(&self) -> Option<(Duration, Duration)> {
        self.smoothed.map(|s| (s.rtt, s.var))
    }

    /// Shortest round trip of the samples that are in use at `now`.
    pub fn shortest(&self, now: Instant) -> Option<Duration> {
        self.best(now).map(|sample| sample.rtt)
    }

    /// Messages go another way from now on: the smoothed values start over. The samples stay: they say
    /// when pings were received, not how long the path is.
    pub fn path_changed(&mut self) {
        self.smoothed = None;
    }

    /// How the other side is to be told of `instant`: the number of a ping that it received, and the
    /// microseconds from its receipt to the instant. `None` without a sample, or for an instant before it.
    pub fn name(&self, now: Instant, instant: Instant) -> Option<(u32, u64)> {
        let sample = self.best(now)?;
        let received_there = sample.sent_at + sample.rtt / 2;
        let after = instant.checked_duration_since(received_there)?;
        Some((sample.number, u64::try_from(after.as_micros()).ok()?))
    }

    fn best(&self, now: Instant) -> Option<&Sample> {
        let young = |s: &&Sample| now.saturating_duration_since(s.sent_at) < OLDEST;
        let logged = |s: &&Sample| (self.latest - s.number) < LOGGED as u32;
        self.samples.iter().filter(young).filter(logged).min_by_key(|s| s.rtt)
    }

    fn sample(&mut self, number: u32, sent_at: Instant, now: Instant, held_us: u32) -> Option<Duration> {
        let elapsed = now.checked_duration_since(sent_at)?;
        let rtt = elapsed.checked_sub(Duration::from_micros(held_us.into()))?;
        if self.samples.len() == SAMPLES {
            self.samples.pop_front();
        }
        self.samples.push_back(Sample { number, sent_at, rtt });
        self.smoothed = Some(match self.smoothed {
            None => Smoothed { rtt, var: rtt / FIRST_DEVIATION },
            Some(s) => Smoothed { rtt: (s.rtt * 7 + rtt) / 8, var: (s.var * 3 + s.rtt.abs_diff(rtt)) / 4 },
        });
        Some(rtt)
    }
}

/// The responder's side: when which ping came.
#[derive(Debug, Default)]
pub struct PingLog {
    received: VecDeque<(u32, Instant)>,
}

impl PingLog {
    /// Nothing received yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Ping `number` came now. A repetition of a
    /// number does not change when it first came.
    pub fn received(&mut self, now: Instant, number: u32) {
        if self.received.iter().any(|&(n, _)| n == number) {
            return;
        }
        if self.received.len() == LOGGED {
            self.received.pop_front();
        }
        self.received.push_back((number, now));
    }

    /// The instant that the initiator means; it may have passed. `None` for a ping that never came or is
    /// forgotten, or a duration that no honest initiator names.
    pub fn resolve(&self, number: u32, after_us: u64) -> Option<Instant> {
        let &(_, received) = self.received.iter().find(|&&(n, _)| n == number)?;
        let after = Duration::from_micros(after_us);
        if after > FURTHEST {
            return None;
        }
        received.checked_add(after)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nat::synthetic::Dice;
    use crate::testing::start;

    const MS: Duration = Duration::from_millis(1);

    fn at(port: u16) -> Option<SocketAddr> {
        Some(SocketAddr::from(([203, 0, 113, 1], port)))
    }

    /// Two clocks hours apart, `pings` pings over a path with the given one-way delays plus jitter: how
    /// far apart the two sides' idea of the agreed instant is, in the true time that only the test knows.
    fn error(pings: u32, there: Duration, back: Duration, jitter: (u64, u64), offset: Duration) -> Duration {
        let (seed, jitter_ms) = jitter;
        let mut dice = Dice::new(seed);
        let begin = start();
        let mut truth = begin;
        let (mut filter, mut log) = (ClockFilter::new(), PingLog::new());
        let mut jitter = || Duration::from_micros(dice.below(jitter_ms * 1000 + 1));
        for _ in 0..pings {
            let number = filter.ping(truth, 7, None);
            let arrived = truth + there + jitter();
            log.received(arrived + offset, number);
            let held = 2 * MS;
            let answered = arrived + held + back + jitter();
            filter.pong(answered, 7, None, held.as_micros() as u32).unwrap();
            truth = answered + 20 * MS;
        }
        let instant = truth + 300 * MS;
        let (number, after_us) = filter.name(truth, instant).unwrap();
        let theirs = log.resolve(number, after_us).unwrap() - offset;
        if theirs > instant { theirs - instant } else { instant - theirs }
    }

    #[test]
    fn clocks_that_are_hours_apart_agree_on_the_instant() {
        for offset in [0, 3600, 86_400] {
            let wrong = error(4, 40 * MS, 40 * MS, (1, 0), Duration::from_secs(offset));
            assert!(wrong <= Duration::from_micros(2), "{wrong:?}");
        }
    }

    #[test]
    fn the_error_is_at_most_half_the_asymmetry_and_jitter_is_filtered_out() {
        assert!(error(4, 60 * MS, 20 * MS, (1, 0), Duration::ZERO) <= 20 * MS + MS / 100);
        let mean = |pings| {
            let errors: Vec<_> =
                (0..200).map(|seed| error(pings, 40 * MS, 40 * MS, (seed, 60), Duration::ZERO)).collect();
            assert!(errors.iter().all(|&e| e <= 30 * MS + MS / 100), "half of the jitter at the worst");
            errors.iter().sum::<Duration>() / 200
        };
        let (one, many) = (mean(1), mean(16));
        assert!(many * 2 < one && many < 5 * MS, "{one:?} {many:?}");
    }

    #[test]
    fn what_cannot_be_is_refused() {
        let t = start();
        let mut filter = ClockFilter::new();
        let number = filter.ping(t, 7, None);
        assert_eq!(filter.pong(t + MS, number.into(), None, 0), None, "never sent");
        assert_eq!(filter.pong(t + MS, 7, None, 2_000), None, "held longer than it was away");
        assert_eq!(filter.pong(t + MS, 7, None, 0), None, "answered already");
        assert_eq!(filter.smoothed(), None);
        let mut log = PingLog::new();
        log.received(t, 5);
        assert_eq!(log.resolve(4, 0), None);
        assert_eq!(log.resolve(5, u64::MAX), None);
        log.received(t + 9 * MS, 5);
        assert_eq!(log.resolve(5, 1_000), Some(t + MS), "a repetition does not move it");
    }

    #[test]
    fn a_pong_from_another_address_than_its_ping_went_to_proves_nothing() {
        let t = start();
        let mut filter = ClockFilter::new();
        filter.ping(t, 7, at(1));
        for from in [at(2), None] {
            assert_eq!(filter.pong(t + MS, 7, from, 0), None);
        }
        assert_eq!(filter.pong(t + MS, 7, at(1), 0), Some(Answered { rtt: MS, proved: at(1) }));
        // One that went everywhere says how long the path is, and nothing about any address.
        filter.ping(t, 8, None);
        assert_eq!(filter.pong(t + MS, 8, at(2), 0), Some(Answered { rtt: MS, proved: None }));
    }

    #[test]
    fn samples_age_and_both_sides_forget_alike() {
        let t = start();
        let mut filter = ClockFilter::new();
        let first = filter.ping(t, 7, None);
        filter.pong(t + 10 * MS, 7, None, 0);
        assert_eq!(filter.shortest(t + 59_000 * MS), Some(10 * MS));
        assert_eq!(filter.shortest(t + 61_000 * MS), None);
        let mut log = PingLog::new();
        log.received(t, first);
        for _ in 0..63 {
            log.received(t, filter.ping(t, 8, None));
        }
        assert!(filter.name(t, t + MS * 20).is_some_and(|(n, us)| log.resolve(n, us).is_some()));
        log.received(t, filter.ping(t, 8, None));
        assert_eq!(filter.name(t, t + MS * 20), None);
        assert_eq!(log.resolve(first, 0), None);
        assert_eq!(log.received.len(), LOGGED);
    }

    #[test]
    fn another_path_starts_its_round_trip_over() {
        let t = start();
        let mut filter = ClockFilter::new();
        for (rtt, path_changed) in [(200, false), (200, false), (40, true)] {
            if path_changed {
                filter.path_changed();
            }
            filter.ping(t, 7, None);
            filter.pong(t + MS * rtt, 7, None, 0);
        }
        assert_eq!(filter.smoothed(), Some((40 * MS, 40 * MS / 64)));
    }
}
