//! Is the link alive, and how long is its round trip?
//!
//! A ping goes out when the link is attached, when nothing came for a third of the limit, and once a
//! second while data flows (for the round trip). The limit is max(2 s, 6 × (srtt + 4 rttvar)), srtt and
//! rttvar as in RFC 6298, unless another one was chosen. A link is dead after that much silence, of which
//! at least two thirds passed after a ping was due: a machine that slept or was stalled asks first, also
//! where a ping was under way.
//!
//! It looks *sick* long before: when a ping is unanswered for max(500 ms, 2 × (srtt + 4 rttvar)), also where
//! something else comes in meanwhile.

use std::time::{Duration, Instant};

/// Time between pings while data flows.
const REFRESH: Duration = Duration::from_secs(1);

/// The limit is at least this until there is a round trip: what a satellite with a queue needs.
const FIRST_LIMIT: Duration = Duration::from_secs(4);

/// Longest silence without a ping, where a long limit was chosen: mappings of NATs and the patience of
/// people who read the status are shorter than that.
const LONGEST_QUIET: Duration = Duration::from_secs(20);

/// A timer that rings so late says that this side stood still: what came meanwhile waits in the socket. More
/// than a loaded machine is late by, less than any limit that is not chosen.
const STALLED: Duration = Duration::from_millis(500);

/// A ping that is unanswered for less than this says nothing: TCP repeats a lost segment after 200 ms and a
/// round trip.
const LEAST_SICK: Duration = Duration::from_millis(500);

/// So many times the longest usual round trip of silence make a link dead.
const DEAD: u32 = 6;

/// So many times the longest usual round trip (RFC 6298 repeats a segment after one) make a link look sick: a
/// third of what makes it dead.
const SICK: u32 = 2;

/// When a link that is silent is dead.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Limit {
    /// At least this, and more where the round trip says so.
    pub(super) least: Duration,
    /// This and nothing else.
    pub(super) fixed: Option<Duration>,
}

/// A measured round trip.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Rtt {
    pub(super) smoothed: Duration,
    variation: Duration,
}

impl Rtt {
    /// RFC 6298, section 2.
    fn sample(before: Option<Rtt>, sample: Duration) -> Rtt {
        let Some(Rtt { smoothed, variation }) = before else {
            return Rtt { smoothed: sample, variation: sample / 2 };
        };
        Rtt {
            variation: (variation * 3 + smoothed.abs_diff(sample)) / 4,
            smoothed: (smoothed * 7 + sample) / 8,
        }
    }
}

/// Watches one link.
#[derive(Debug)]
pub(super) struct Liveness {
    began: Instant,
    chosen: Limit,
    heard: Instant,
    rtt: Option<Rtt>,
    /// The silence after which the link is dead, by that round trip.
    limit: Duration,
    /// How long a ping may be unanswered before the link looks sick, by that round trip.
    patience: Option<Duration>,
    /// The shortest round trip that this link has shown.
    least_rtt: Option<Duration>,
    /// A ping is to be sent as soon as the socket takes it.
    ping_due: bool,
    /// When the first ping since the last sign of life became due.
    asked: Option<Instant>,
    last_ping: Instant,
    /// When the oldest ping left that is not answered.
    unanswered: Option<Instant>,
    /// The link looks sick, which has not been asked for yet; once for each ping that is not answered.
    sick: bool,
    told: bool,
    /// Data went either way since the last ping.
    busy: bool,
}

impl Liveness {
    /// A new link. `rtt` is that of the link before.
    pub(super) fn new(now: Instant, rtt: Option<Rtt>, limit: Limit) -> Self {
        let mut liveness = Liveness {
            began: now,
            chosen: limit,
            heard: now,
            rtt: None,
            limit: Duration::ZERO,
            patience: None,
            least_rtt: None,
            ping_due: true,
            asked: Some(now),
            last_ping: now,
            unanswered: None,
            sick: false,
            told: false,
            busy: false,
        };
        liveness.set_rtt(rtt);
        liveness
    }

    fn set_rtt(&mut self, rtt: Option<Rtt>) {
        let Limit { least, fixed } = self.chosen;
        let usual = rtt.map(|rtt| rtt.smoothed + 4 * rtt.variation);
        self.limit = fixed.unwrap_or(least.max(usual.map_or(FIRST_LIMIT, |usual| DEAD * usual)));
        self.patience = usual.map(|usual| LEAST_SICK.max(SICK * usual));
        self.rtt = rtt;
    }

    /// Bytes came in: even half a record is a sign of life.
    pub(super) fn heard(&mut self, now: Instant) {
        self.heard = self.heard.max(now);
        self.asked = None;
    }

    /// A session record went either way.
    pub(super) fn busy(&mut self) {
        self.busy = true;
    }

    /// The round trip as far as it is known.
    pub(super) fn rtt(&self) -> Option<Rtt> {
        self.rtt
    }

    /// The shortest round trip that this link has shown.
    pub(super) fn least_rtt(&self) -> Option<Duration> {
        self.least_rtt
    }

    /// A ping is to be sent as soon as the socket takes it.
    pub(super) fn has_ping(&self) -> bool {
        self.ping_due
    }

    /// The token of a ping, where one is to be sent now.
    pub(super) fn poll_ping(&mut self, now: Instant) -> Option<u64> {
        if !self.ping_due {
            return None;
        }
        self.ping_due = false;
        self.busy = false;
        self.last_ping = now;
        self.unanswered.get_or_insert(now);
        Some(self.token(now))
    }

    /// A ping was answered. `false` where it cannot be one of ours.
    pub(super) fn handle_pong(&mut self, now: Instant, token: u64) -> bool {
        let Some(age) = self.token(now).checked_sub(token) else { return false };
        let age = Duration::from_micros(age);
        self.set_rtt(Some(Rtt::sample(self.rtt, age)));
        self.least_rtt = Some(self.least_rtt.map_or(age, |least| least.min(age)));
        (self.unanswered, self.sick, self.told) = (None, false, false);
        true
    }

    /// The link has begun to look sick since the last call.
    pub(super) fn take_sick(&mut self) -> bool {
        std::mem::take(&mut self.sick)
    }

    /// # Errors
    /// How long nothing came: the link is dead.
    pub(super) fn handle_timeout(&mut self, now: Instant) -> Result<(), Duration> {
        let Some(due) = self.poll_timeout().filter(|&due| now >= due) else { return Ok(()) };
        if now > due + STALLED {
            self.asked = Some(now);
            self.ping_due = true;
            self.unanswered = None;
        }
        if self.sick_at().is_some_and(|at| now >= at) {
            (self.sick, self.told) = (true, true);
        }
        if self.dead_at().is_some_and(|at| now >= at) {
            return Err(now - self.heard);
        }
        if self.ping_at().is_some_and(|at| now >= at) {
            self.ping_due = true;
            self.asked.get_or_insert(now);
        }
        Ok(())
    }

    /// When [`handle_timeout`](Self::handle_timeout) wants to be called.
    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        [self.dead_at(), self.sick_at(), self.ping_at()].into_iter().flatten().min()
    }

    /// The silence after which the link is dead, as things stand.
    pub(super) fn limit(&self) -> Duration {
        self.limit
    }

    fn sick_at(&self) -> Option<Instant> {
        let patience = self.patience.filter(|_| !self.told)?;
        self.unanswered.map(|since| since + patience)
    }

    fn dead_at(&self) -> Option<Instant> {
        self.asked.map(|asked| (self.heard + self.limit).max(asked + self.limit * 2 / 3))
    }

    fn ping_at(&self) -> Option<Instant> {
        if self.ping_due {
            return None;
        }
        let patience = (self.limit / 3).min(LONGEST_QUIET);
        let silent = match self.asked {
            Some(_) => self.last_ping.max(self.heard) + patience,
            None => self.heard + patience,
        };
        Some(if self.busy { silent.min(self.last_ping + REFRESH) } else { silent })
    }

    /// Microseconds since the link was attached: the answer's token tells the round trip.
    fn token(&self, now: Instant) -> u64 {
        u64::try_from(now.saturating_duration_since(self.began).as_micros()).unwrap_or(u64::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::start;

    const MS: Duration = Duration::from_millis(1);
    const LEAST: Duration = Duration::from_secs(2);
    const LIMIT: Limit = Limit { least: LEAST, fixed: None };

    /// Lets time pass until the link is dead or `until` is reached; pings are answered after `rtt`.
    fn run(
        liveness: &mut Liveness,
        from: Instant,
        until: Instant,
        rtt: Option<Duration>,
    ) -> Result<u32, Instant> {
        let (mut now, mut pings) = (from, 0);
        let mut pong: Option<(Instant, u64)> = None;
        loop {
            if let Some(token) = liveness.poll_ping(now) {
                pings += 1;
                pong = rtt.map(|rtt| (now + rtt, token));
            }
            let timeout = liveness.poll_timeout().unwrap();
            assert!(timeout > now, "a deadline in the past is a busy loop");
            let next = pong.map_or(timeout, |(at, _)| at.min(timeout));
            if next > until {
                return Ok(pings);
            }
            now = next;
            if let Some((at, token)) = pong
                && at <= now
            {
                pong = None;
                liveness.heard(now);
                assert!(liveness.handle_pong(now, token));
            }
            if liveness.handle_timeout(now).is_err() {
                return Err(now);
            }
        }
    }

    #[test]
    fn a_link_whose_pings_are_answered_lives_and_is_pinged_a_few_times_a_limit() {
        let start = start();
        let mut liveness = Liveness::new(start, None, LIMIT);
        let pings = run(&mut liveness, start, start + 60 * LEAST, Some(30 * MS)).unwrap();
        assert!((60 * 2..=60 * 4).contains(&pings), "{pings} pings");
        assert_eq!(liveness.rtt().unwrap().smoothed, 30 * MS);
    }

    #[test]
    fn a_silent_link_is_dead_after_two_seconds() {
        let start = start();
        let mut liveness = Liveness::new(start, None, LIMIT);
        let cut = start + 10_000 * MS;
        run(&mut liveness, start, cut, Some(30 * MS)).unwrap();
        let heard = liveness.heard;
        assert_eq!(run(&mut liveness, cut, cut + 10 * LEAST, None), Err(heard + LEAST));
    }

    #[test]
    fn a_long_round_trip_gets_more_patience() {
        let start = start();
        let mut liveness = Liveness::new(start, None, LIMIT);
        run(&mut liveness, start, start + 60 * LEAST, Some(600 * MS)).unwrap();
        let heard = liveness.heard;
        let died = run(&mut liveness, heard, heard + 60 * LEAST, None).unwrap_err();
        assert!(died >= heard + 6 * 600 * MS, "after {:?}", died - heard);
    }

    #[test]
    fn a_limit_that_was_chosen_holds_whatever_the_round_trip() {
        for (fixed, pings) in [(300 * MS, 140..=220), (600_000 * MS, 1..=5)] {
            let start = start();
            let mut liveness = Liveness::new(start, None, Limit { fixed: Some(fixed), ..LIMIT });
            let seen = run(&mut liveness, start, start + 20_000 * MS, Some(30 * MS)).unwrap();
            assert!(pings.contains(&seen), "{seen} pings");
            let heard = liveness.heard;
            assert_eq!(run(&mut liveness, heard + MS, heard + 2 * fixed, None), Err(heard + fixed));
        }
    }

    #[test]
    fn a_machine_that_slept_asks_before_it_gives_up() {
        let start = start();
        let mut liveness = Liveness::new(start, None, LIMIT);
        assert!(liveness.poll_ping(start).is_some());
        liveness.heard(start + 10 * MS);
        let woken = start + 3600 * LEAST;
        assert_eq!(liveness.handle_timeout(woken), Ok(()));
        assert!(liveness.poll_ping(woken).is_some());
        assert!(liveness.poll_timeout().unwrap() > woken);
        let died = run(&mut liveness, woken, woken + 10 * LEAST, None).unwrap_err();
        assert!(died >= woken + LEAST, "after {:?}", died - woken);
    }

    #[test]
    fn a_program_that_stood_still_while_a_ping_was_under_way_asks_again() {
        let start = start();
        let mut liveness = Liveness::new(start, Some(Rtt::sample(None, 30 * MS)), LIMIT);
        assert!(liveness.poll_ping(start).is_some());
        let woken = start + 5_000 * MS;
        assert_eq!(liveness.handle_timeout(woken), Ok(()));
        assert!(liveness.poll_ping(woken).is_some());
        assert!(liveness.poll_timeout().unwrap() > woken);
        let mut other = liveness;
        // The answer of before is read now.
        other.heard(woken);
        assert_eq!(
            run(&mut other, woken, woken + 10 * LEAST, Some(30 * MS)).map(|pings| pings > 10),
            Ok(true)
        );
        // Or nobody is there any more.
        let mut silent = Liveness::new(start, Some(Rtt::sample(None, 30 * MS)), LIMIT);
        assert!(silent.poll_ping(start).is_some());
        assert_eq!(silent.handle_timeout(woken), Ok(()));
        assert_eq!(run(&mut silent, woken, woken + 10 * LEAST, None), Err(woken + LEAST * 2 / 3));
    }

    #[test]
    fn a_pong_from_the_future_is_refused() {
        let start = start();
        let mut liveness = Liveness::new(start, None, LIMIT);
        assert!(!liveness.handle_pong(start + MS, 1001));
        assert!(liveness.handle_pong(start + MS, 1000));
    }

    #[test]
    fn the_round_trip_is_measured_while_data_flows() {
        let start = start();
        let mut liveness = Liveness::new(start, None, LIMIT);
        assert!(liveness.poll_ping(start).is_some());
        let mut pings = 0;
        for tick in 1..=100 {
            let now = start + 100 * MS * tick;
            liveness.heard(now);
            liveness.busy();
            liveness.handle_timeout(now).unwrap();
            pings += u32::from(liveness.poll_ping(now).is_some());
        }
        assert_eq!(pings, 10);
    }
}
