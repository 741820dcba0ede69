//! Links that end as soon as they are made.
//!
//! A link that dies is replaced at once: that is what a session is for. Another computer that takes links and drops them would
//! have its client make one after the other, each with probes, SYNs and a handshake; so the initiator pauses between those, longer
//! each time. A network that kills links sees them live for a while before, and never meets a pause.

use std::time::{Duration, Instant};

/// A link that lived for less than this is one of them: it has hardly carried anything over a long round trip.
const BRIEF: Duration = Duration::from_secs(1);

/// A link that lived for so long has shown that links live here. One between the two counts for nothing, so that no mixture of
/// lives is better for whoever wants many links.
const LIVED: Duration = Duration::from_secs(10);

/// So many in a row are replaced at once all the same: a network that resets whatever carries bytes does that for a while, and who tests
/// whether a session lives through it does so as fast as links come. Whoever goes on wants links, not bytes.
const CHANCE: u32 = 128;

/// The first pause. Each further one is twice as long ...
const PAUSE: Duration = Duration::from_millis(250);

/// ... up to this: about what a new introduction takes at most anyway.
const LONGEST: Duration = Duration::from_secs(8);

/// How the links of a session have ended.
#[derive(Default)]
pub(super) struct Brief {
    began: Option<Instant>,
    in_a_row: u32,
}

impl Brief {
    /// There is a link.
    pub(super) fn began(&mut self, now: Instant) {
        self.began = Some(now);
    }

    /// It is lost: how long to wait before the next one is tried for.
    pub(super) fn ended(&mut self, now: Instant) -> Duration {
        let lived = self.began.take().map_or(LIVED, |began| now.saturating_duration_since(began));
        if lived >= LIVED {
            self.in_a_row = 0;
        }
        if lived >= BRIEF {
            return Duration::ZERO;
        }
        self.in_a_row = self.in_a_row.saturating_add(1);
        match self.in_a_row.checked_sub(CHANCE + 1) {
            None => Duration::ZERO,
            Some(doubled) => PAUSE.saturating_mul(1 << doubled.min(10)).min(LONGEST),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{
        super::{Event, world::*},
        *,
    };
    use crate::testing::start;

    const SECOND: Duration = Duration::from_secs(1);
    const MS: Duration = Duration::from_millis(1);

    /// The pauses after links of these lives, in milliseconds.
    fn pauses(lives: impl IntoIterator<Item = u64>) -> Vec<u128> {
        let (mut brief, mut now) = (Brief::default(), start());
        let pause = |life| {
            brief.began(now);
            now += Duration::from_millis(life);
            brief.ended(now).as_millis()
        };
        lives.into_iter().map(pause).collect()
    }

    #[test]
    fn only_links_that_end_at_once_are_paused_between_and_each_pause_is_longer() {
        let chance = || std::iter::repeat_n(10, CHANCE as usize);
        let then = |lives: &[u64]| pauses(chance().chain(lives.iter().copied())).split_off(CHANCE as usize);
        assert!(pauses(chance()).iter().all(|pause| *pause == 0));
        assert_eq!(then(&[10; 8]), [250, 500, 1000, 2000, 4000, 8000, 8000, 8000]);
        assert_eq!(pauses([1000; 1000]), [0; 1000], "a bad network");
        assert_eq!(then(&[10, 10_000, 10, 10, 10]), [250, 0, 0, 0, 0], "links live again");
        assert_eq!(then(&[5000, 10, 5000, 10, 5000, 10]), [0, 250, 0, 500, 0, 1000], "no mixture helps");
    }

    /// Links that are made within each of three minutes where the host gives each up after so long.
    fn links_in_a_minute(life: Duration) -> [usize; 3] {
        let mut world = connected(20);
        let counts = [1, 2, 3].map(|_| {
            let (before, end) = (world.links.len(), world.now + 60 * SECOND);
            while world.now < end {
                world.run(life, |_| false);
                world.drop_links(&[HOST]);
                let (links, left) = (world.links.len(), end.saturating_duration_since(world.now));
                world.run(left, |w| w.links.len() >= links + 2);
            }
            (world.links.len() - before) / 2
        });
        let told =
            |e: &Event| matches!(e, Event::RoundFailed { why, .. } if why.starts_with("one connection"));
        assert_eq!(world.heard(CLIENT, told), life < BRIEF, "{}", world.story());
        counts
    }

    #[test]
    fn a_host_that_gives_links_up_at_once_gets_few_and_one_whose_links_are_killed_gets_as_many_as_ever() {
        let (at_once, killed) = (links_in_a_minute(10 * MS), links_in_a_minute(2 * SECOND));
        println!("links in a minute: {at_once:?} given up at once, {killed:?} killed after two seconds");
        assert!(at_once[0] <= CHANCE as usize + 20 && at_once[2] <= 10, "{at_once:?}");
        assert!(killed.iter().all(|links| *links >= 25), "{killed:?}");
    }
}
