//! Which stream is served next: streams that were idle first, then deficit round robin.
//!
//! ```text
//!   idle --has something to send--> fresh --used its quantum, or empty--> busy --found empty--> idle
//!                                                                          ^  |
//!                                                                          +--+ used its quantum
//! ```
//!
//! The two lists are those of FQ-CoDel (RFC 8290, section 4.2). A keystroke waits for nothing but
//! other streams that were idle. A stream that runs empty goes through the busy list once before it
//! counts as idle again, so that nobody gains by sending in drops. A piece that goes in one record may be
//! more than the quantum: what is owed is paid with the next turns.
//!
//! Control frames are served before any stream and need no schedule.

use std::collections::{BTreeMap, VecDeque};

use super::frame::{self, StreamId};

/// What a stream sends at least before it is the next one's turn, bytes: an interactive burst passes in one turn.
const LEAST_QUANTUM: usize = 16 * 1024;

/// Streams that are gone may be listed, as many as the others and these.
const SLACK: usize = 64;

/// Streams that have something to send, in the order in which they are served.
#[derive(Debug)]
pub(super) struct Schedule {
    fresh: VecDeque<StreamId>,
    busy: VecDeque<StreamId>,
    /// What each listed stream may still send in this turn, or owes. A listed stream without it is gone.
    deficit: BTreeMap<StreamId, isize>,
    /// What a turn is worth now, bytes.
    quantum: isize,
}

impl Default for Schedule {
    fn default() -> Self {
        let mut schedule =
            Schedule { fresh: VecDeque::new(), busy: VecDeque::new(), deficit: BTreeMap::new(), quantum: 0 };
        schedule.set_record(0);
        schedule
    }
}

impl Schedule {
    /// The body of a record holds so many bytes from now on. A turn fills one where the link is fast: were it less, many
    /// bulk streams would be cut into pieces, each with its own wake-ups at both ends.
    pub(super) fn set_record(&mut self, limit: usize) {
        self.quantum = limit.saturating_sub(frame::HEADER).max(LEAST_QUANTUM).cast_signed();
    }

    /// The stream has something to send now. Does nothing where it is listed already.
    pub(super) fn activate(&mut self, id: StreamId) {
        self.deficit.entry(id).or_insert_with(|| {
            self.fresh.push_back(id);
            self.quantum
        });
    }

    /// Listed streams, in the order of the lists.
    pub(super) fn iter(&self) -> impl Iterator<Item = StreamId> {
        self.fresh.iter().chain(&self.busy).copied()
    }

    /// Whether others wait beside the one whose turn it is. Those that are gone do not, listed or not.
    pub(super) fn has_others(&self) -> bool {
        self.deficit.len() > 1
    }

    /// Whose turn it is, and how many bytes it may send.
    pub(super) fn turn(&mut self) -> Option<(StreamId, usize)> {
        loop {
            let list = if self.fresh.is_empty() { &mut self.busy } else { &mut self.fresh };
            let id = *list.front()?;
            match self.deficit.get_mut(&id) {
                Some(deficit @ 1..) => return Some((id, deficit.unsigned_abs())),
                Some(deficit) => {
                    *deficit += self.quantum;
                    list.pop_front();
                    self.busy.push_back(id);
                }
                None => {
                    list.pop_front();
                }
            }
        }
    }

    /// The stream whose turn it is sent `count` bytes, and has nothing more to send (or may not) where
    /// `empty`.
    pub(super) fn served(&mut self, count: usize, empty: bool) {
        let was_fresh = !self.fresh.is_empty();
        let list = if was_fresh { &mut self.fresh } else { &mut self.busy };
        let Some(&id) = list.front() else { return };
        let Some(deficit) = self.deficit.get_mut(&id) else { return };
        *deficit -= count.cast_signed();
        if *deficit > 0 && !empty {
            return;
        }
        list.pop_front();
        if empty && !was_fresh {
            self.deficit.remove(&id);
            return;
        }
        if *deficit <= 0 {
            *deficit += self.quantum;
        }
        self.busy.push_back(id);
    }

    /// The stream is gone.
    pub(super) fn remove(&mut self, id: StreamId) {
        if self.deficit.remove(&id).is_none() {
            return;
        }
        // It stays listed until its turn would come, or until most of what is listed is gone: ten thousand
        // streams that end together are not looked for one by one.
        if self.fresh.len() + self.busy.len() > 2 * self.deficit.len() + SLACK {
            let known = &self.deficit;
            self.fresh.retain(|other| known.contains_key(other));
            self.busy.retain(|other| known.contains_key(other));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: StreamId = StreamId(1);
    const B: StreamId = StreamId(3);
    const C: StreamId = StreamId(5);

    /// Serves one turn of a stream that never runs empty.
    fn serve(schedule: &mut Schedule) -> StreamId {
        let (id, quantum) = schedule.turn().unwrap();
        schedule.served(quantum, false);
        id
    }

    #[test]
    fn busy_streams_take_turns() {
        let mut schedule = Schedule::default();
        schedule.activate(A);
        schedule.activate(B);
        let order: Vec<_> = (0..6).map(|_| serve(&mut schedule)).collect();
        assert_eq!(order, [A, B, A, B, A, B]);
    }

    #[test]
    fn a_stream_that_was_idle_goes_before_the_busy_ones() {
        let mut schedule = Schedule::default();
        schedule.activate(A);
        schedule.activate(B);
        serve(&mut schedule);
        serve(&mut schedule);
        schedule.activate(C);
        assert_eq!(schedule.turn().unwrap().0, C);
    }

    #[test]
    fn a_stream_that_sends_in_drops_does_not_starve_the_busy_ones() {
        let mut schedule = Schedule::default();
        schedule.activate(A);
        serve(&mut schedule);
        let mut bulk = 0;
        for _ in 0..100 {
            schedule.activate(B);
            let (id, quantum) = schedule.turn().unwrap();
            if id == B {
                schedule.served(1000, true);
            } else {
                bulk += 1;
                schedule.served(quantum, false);
            }
        }
        assert!(bulk >= 33, "the busy stream had {bulk} turns of 100");
    }

    #[test]
    fn a_stream_found_empty_twice_is_idle_again() {
        let mut schedule = Schedule::default();
        schedule.activate(A);
        schedule.served(10, true);
        assert!(schedule.turn().is_some());
        schedule.served(0, true);
        assert_eq!(schedule.turn(), None);
    }

    #[test]
    fn a_removed_stream_has_no_turn() {
        let mut schedule = Schedule::default();
        schedule.activate(A);
        schedule.activate(B);
        schedule.remove(A);
        assert_eq!(schedule.turn().unwrap().0, B);
        schedule.remove(B);
        assert_eq!(schedule.turn(), None);
    }

    #[test]
    fn streams_that_are_gone_take_no_room() {
        let mut schedule = Schedule::default();
        schedule.activate(A);
        for number in 10..10_000 {
            schedule.activate(StreamId(number));
            schedule.remove(StreamId(number));
            assert!(schedule.iter().count() <= 2 + SLACK + 1);
        }
        assert_eq!(schedule.turn().unwrap().0, A);
    }

    #[test]
    fn a_stream_that_sends_large_pieces_gets_no_more_than_one_that_sends_small_ones() {
        let mut schedule = Schedule::default();
        schedule.activate(A);
        schedule.activate(B);
        let mut sent = BTreeMap::from([(A, 0), (B, 0)]);
        for _ in 0..1000 {
            let (id, quantum) = schedule.turn().unwrap();
            let count = if id == A { crate::mux::whole::ROOM } else { quantum };
            schedule.served(count, false);
            *sent.get_mut(&id).unwrap() += count;
        }
        assert!(sent[&A].abs_diff(sent[&B]) <= 2 * crate::mux::whole::ROOM, "{sent:?}");
    }
}
