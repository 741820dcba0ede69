//! When it is to be looked at whether an association is still heard.
//!
//! An association that is alive is heard every few seconds. To move an alarm each time would be most of the work of a
//! keep-alive, so each has one place here, and keeps it: when its time comes, whoever looks finds that it was heard
//! since, and gives it another. One that is gone leaves its place until then. Times are rounded up to whole seconds, so
//! that a place is an index in a list.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

/// Indices of associations, by the second since the server began.
#[derive(Debug)]
pub(super) struct Silence {
    began: Instant,
    by_second: BTreeMap<u64, Vec<u32>>,
}

impl Silence {
    pub(super) fn new(began: Instant) -> Self {
        Silence { began, by_second: BTreeMap::new() }
    }

    /// That one is to be looked at, at `deadline` or up to a second later.
    pub(super) fn look_at(&mut self, deadline: Instant, index: u32) {
        let after = deadline.saturating_duration_since(self.began);
        let second = after.as_secs() + u64::from(after.subsec_nanos() > 0);
        self.by_second.entry(second).or_default().push(index);
    }

    /// One to be looked at now. It may be gone.
    pub(super) fn due(&mut self, now: Instant) -> Option<u32> {
        let mut first = self
            .by_second
            .first_entry()
            .filter(|first| self.began + Duration::from_secs(*first.key()) <= now)?;
        let index = first.get_mut().pop();
        if first.get().is_empty() {
            first.remove();
        }
        index
    }

    /// When there is something to look at.
    pub(super) fn next(&self) -> Option<Instant> {
        self.by_second.first_key_value().map(|(second, _)| self.began + Duration::from_secs(*second))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::start;

    #[test]
    fn everyone_is_looked_at_once_and_never_too_early() {
        let mut silence = Silence::new(start());
        let after = |ms| start() + Duration::from_millis(ms);
        for (deadline, index) in [(1_500, 1), (2_000, 2), (2_001, 3), (0, 4)] {
            silence.look_at(after(deadline), index);
        }
        assert_eq!(silence.next(), Some(after(0)));
        assert_eq!(silence.due(after(1_999)), Some(4));
        assert_eq!(silence.due(after(1_999)), None);
        assert_eq!(silence.next(), Some(after(2_000)));
        let mut both = [silence.due(after(2_000)), silence.due(after(2_000))];
        both.sort();
        assert_eq!((both, silence.due(after(2_999))), ([Some(1), Some(2)], None));
        assert_eq!(silence.due(after(10_000)), Some(3));
        assert_eq!((silence.due(after(10_000)), silence.next()), (None, None));
    }
}
