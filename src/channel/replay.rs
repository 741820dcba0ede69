//! Which counters were seen.

/// Counters behind the highest one that can still be told apart.
const WINDOW: u64 = 1024;

/// One word more than the window has: the word that the highest counter is in may be almost empty
/// (RFC 6479 §3).
const WORDS: usize = WINDOW as usize / 64 + 1;

/// A sliding window over the counters of received datagrams, after RFC 6479.
///
/// Every counter is taken once; those more than 1024 below the highest are not taken any more.
#[derive(Clone)]
pub struct ReplayWindow {
    /// Above the highest counter seen.
    next: u64,
    /// A ring of words, a bit for each counter.
    seen: [u64; WORDS],
}

impl Default for ReplayWindow {
    fn default() -> Self {
        ReplayWindow { next: 0, seen: [0; WORDS] }
    }
}

impl ReplayWindow {
    /// Whether the counter can be taken: not seen before and not too old. The very last counter never
    /// can.
    pub fn is_fresh(&self, counter: u64) -> bool {
        let seen = self.seen[word(counter)] & bit(counter) != 0;
        match counter {
            u64::MAX => false,
            _ if counter >= self.next => true,
            _ => self.next - counter <= WINDOW && !seen,
        }
    }

    /// Remembers a counter that was [fresh](Self::is_fresh), after its datagram has proved authentic.
    /// True if it is above all before it.
    pub fn mark(&mut self, counter: u64) -> bool {
        debug_assert!(self.is_fresh(counter));
        let newest = counter >= self.next;
        if newest {
            // Words that the window slides into hold counters of a round ago.
            let (first, last) = (self.next.div_ceil(64), counter / 64);
            let first = first.max(last.saturating_sub(WORDS as u64 - 1));
            for entered in first..=last {
                self.seen[word(entered * 64)] = 0;
            }
            self.next = counter + 1;
        }
        self.seen[word(counter)] |= bit(counter);
        newest
    }
}

impl std::fmt::Debug for ReplayWindow {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "ReplayWindow(below {})", self.next)
    }
}

fn word(counter: u64) -> usize {
    (counter / 64 % WORDS as u64) as usize
}

fn bit(counter: u64) -> u64 {
    1 << (counter % 64)
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
        assert!(window.mark(1025));
        assert!(window.is_fresh(2) && !window.mark(2));
        assert!(!window.is_fresh(2));
        assert!(!window.is_fresh(1), "1024 below the highest is too old");
        assert!(window.mark(1026));
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
        fn the_window_is_a_set_of_the_last_1024(
            steps in prop::collection::vec((0u64..3, 0u64..1500), 1..300),
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
