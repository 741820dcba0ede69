//! Which counters were seen.

/// Counters behind the highest one that can still be told apart.
const WINDOW: u64 = 128;

/// A sliding window over the counters of received datagrams.
///
/// Every counter is taken once; those 128 or more below the highest are not taken any more. That is short as such
/// windows go: what a channel carries are messages that are repeated and a few that may get lost, and a server holds
/// one for each of its clients.
#[derive(Clone, Default)]
pub struct ReplayWindow {
    /// Above the highest counter seen.
    next: u64,
    /// Bit `n` of these 128, the lowest first: whether `next - 1 - n` was seen. (A `u128` would be aligned as one.)
    seen: [u64; 2],
}

impl ReplayWindow {
    /// Whether the counter can be taken: not seen before and not too old. The very last counter never
    /// can.
    pub fn is_fresh(&self, counter: u64) -> bool {
        match counter {
            u64::MAX => false,
            _ if counter >= self.next => true,
            _ => {
                let age = self.next - 1 - counter;
                age < WINDOW && self.seen() & (1 << age) == 0
            }
        }
    }

    /// Remembers a counter that was [fresh](Self::is_fresh), after its datagram has proved authentic.
    /// True if it is above all before it.
    pub fn mark(&mut self, counter: u64) -> bool {
        debug_assert!(self.is_fresh(counter));
        let newest = counter >= self.next;
        let mut seen = self.seen();
        if newest {
            let risen = u32::try_from(counter - self.next + 1).unwrap_or(u32::MAX);
            seen = seen.checked_shl(risen).unwrap_or(0);
            self.next = counter + 1;
        }
        seen |= 1 << (self.next - 1 - counter);
        self.seen = [seen as u64, (seen >> 64) as u64];
        newest
    }

    fn seen(&self) -> u128 {
        let [low, high] = self.seen.map(u128::from);
        high << 64 | low
    }
}

impl std::fmt::Debug for ReplayWindow {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "ReplayWindow(below {})", self.next)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_counter_is_taken_once_and_the_old_ones_never() {
        let mut window = ReplayWindow::default();
        assert!(window.mark(0));
        assert!(!window.is_fresh(0));
        assert!(window.mark(129));
        assert!(window.is_fresh(2) && !window.mark(2));
        assert!(!window.is_fresh(2));
        assert!(!window.is_fresh(1), "128 below the highest is too old");
        assert!(window.mark(130));
        assert!(!window.is_fresh(2));
    }

    #[test]
    fn the_highest_counters_neither_wrap_nor_panic() {
        let mut window = ReplayWindow::default();
        assert!(!window.is_fresh(u64::MAX));
        assert!(window.mark(u64::MAX - 1));
        assert!(!window.is_fresh(u64::MAX - 1) && !window.is_fresh(u64::MAX) && !window.is_fresh(0));
        assert!(window.is_fresh(u64::MAX - 64) && !window.mark(u64::MAX - 64));
    }

    proptest! {
        #[test]
        fn the_window_is_a_set_of_the_last_128(
            steps in prop::collection::vec((0u64..3, 0u64..200), 1..300),
        ) {
            let (mut window, mut seen, mut top) = (ReplayWindow::default(), BTreeSet::new(), 0u64);
            for (kind, amount) in steps {
                let counter = match kind {
                    0 => top + amount % 4,
                    1 => top.saturating_sub(amount),
                    _ => top + amount,
                };
                let fresh = !seen.contains(&counter) && (seen.is_empty() || counter + WINDOW > top);
                prop_assert_eq!(window.is_fresh(counter), fresh, "{} below {}", counter, top);
                if fresh {
                    let newest = seen.is_empty() || counter > top;
                    prop_assert_eq!(window.mark(counter), newest);
                    seen.insert(counter);
                    top = top.max(counter);
                }
            }
        }
    }
}
