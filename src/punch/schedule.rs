//! When: how far ahead the instant is, how long a round lasts, and when to try again.

use std::time::Duration;

/// A round counts as failed this long after its instant. The kernel repeats a SYN after 1 and 3 s (newer
/// ones every second), so both repetitions fall within; a longer round gains nothing.
pub const ROUND: Duration = Duration::from_secs(4);

/// Openings, first ones and redials, leave within this of the instant; after it they are only waited for.
pub const OPENING_WINDOW: Duration = Duration::from_secs(1);

/// The instant is always closer than this: clocks drift and counters move on.
pub const LONGEST_LEAD: Duration = Duration::from_millis(950);

/// The least that is left between the arrival of START and the instant: for a scheduler that is late,
/// and for creating and binding some hundreds of sockets (about 5 µs each, here).
const LEAST_MARGIN: Duration = Duration::from_millis(30);

/// The most that jitter adds: beyond it, a late START is answered with a refusal and the next one has a
/// better estimate.
const MOST_MARGIN: Duration = Duration::from_millis(250);

/// Rounds of an attempt, each with fresh ports and another plan. Nearly all successes come in the first
/// (97.6 %, libp2p); the plans have four variants.
pub const ROUNDS: u8 = 4;

/// Pauses between attempts, seconds: at once where something was just lost, then giving NATs time to
/// forget (transitory mappings: 4 min, RFC 5382), never giving up.
const PAUSES_S: [u64; 8] = [0, 1, 2, 5, 10, 20, 40, 60];

/// How far ahead of now the instant is to be, where START is sent now: half a round trip, and margin.
///
/// `rtt` and `rttvar` are the smoothed ones ([`super::ClockFilter`]) of the path that START takes. Under
/// [`LONGEST_LEAD`] in any case: over a path with a round trip of nearly 2 s no START can be in time.
pub fn lead(rtt: Duration, rttvar: Duration) -> Duration {
    let margin = (rttvar * 4).clamp(LEAST_MARGIN, MOST_MARGIN);
    (rtt / 2 + margin).min(LONGEST_LEAD)
}

/// Pause before the next attempt, after `failures` failed ones in a row, shortened or lengthened by up to
/// a quarter by the seed, so that clients of a server that came back do not come all at once.
pub fn pause(failures: u32, seed: u64) -> Duration {
    let rung = usize::try_from(failures).unwrap_or(usize::MAX).min(PAUSES_S.len() - 1);
    let base = Duration::from_secs(PAUSES_S.get(rung).copied().unwrap_or(60));
    let percent = 75 + u32::try_from(seed % 51).unwrap_or(25);
    base * percent / 100
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn start_arrives_before_the_instant_and_the_instant_is_less_than_a_second_ahead() {
        for rtt in (0..1800).step_by(10) {
            for var in (0..1000).step_by(50) {
                let lead = lead(MS * rtt, MS * var);
                assert!(lead > MS * rtt / 2, "{rtt} {var}");
                assert!(lead < Duration::from_secs(1));
            }
        }
        assert_eq!(lead(MS * 100, Duration::ZERO), MS * 80);
        assert_eq!(lead(MS * 100, MS * 20), MS * 130);
        assert_eq!(lead(MS * 100, MS * 900), MS * 300);
    }

    #[test]
    fn pauses_grow_to_a_minute_and_differ_by_seed() {
        assert_eq!(pause(0, 3), Duration::ZERO);
        for failures in 1..20 {
            for seed in [0, 1, 50, u64::MAX] {
                assert!(pause(failures, seed) >= MS * 750);
                assert!(pause(failures, seed) <= Duration::from_secs(75));
            }
        }
        assert!(pause(u32::MAX, 9) >= Duration::from_secs(45));
        assert_ne!(pause(5, 0), pause(5, 1));
    }
}
