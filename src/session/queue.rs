//! Sealed records that the peer has not acknowledged.
//!
//! The queue and the socket share the bytes: a record is sealed where it was put together, and what is
//! sent again after a link's death is the very same memory.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use bytes::{Bytes, BytesMut};

use crate::mux::whole::CAPACITY;

/// Buffers of acknowledged records that are kept for new ones, 8 MiB at most and none in an idle session:
/// a bulk transfer allocates nothing, even where acknowledgements come in lumps. (Memory that goes back
/// to the system and comes again costs as much as the sealing: 1.2 against 2.3 GB/s.)
const SPARE: usize = 128;

/// Spare buffers are kept for so long after the last record, and half of them for as long again. Bulk data comes
/// in fits: between two of them the queue is empty many times a second.
const REST: Duration = Duration::from_secs(1);

/// Records smaller than this get a buffer of their own size: thousands of keystrokes that wait for an
/// acknowledgement must not hold 64 KiB each.
const WORTH_FULL: usize = CAPACITY / 2;

/// What a record costs besides its bytes, for the bound of the queue: handle, number, allocation.
pub(super) const OVERHEAD: usize = 128;

#[derive(Debug)]
struct Sealed {
    epoch: u32,
    bytes: Bytes,
}

/// Records from the oldest not acknowledged to the newest sealed.
#[derive(Debug, Default)]
pub(super) struct Queue {
    records: VecDeque<Sealed>,
    /// Number of the oldest.
    first: u64,
    size: usize,
    spare: Vec<BytesMut>,
    /// Something was queued since [`rest`](Self::rest) was called.
    used: bool,
    /// When half of the spare buffers go.
    rest_at: Option<Instant>,
}

impl Queue {
    /// Number of the oldest record that is not acknowledged.
    pub(super) fn first(&self) -> u64 {
        self.first
    }

    /// Number of the next record to be sealed.
    pub(super) fn end(&self) -> u64 {
        self.first + self.records.len() as u64
    }

    /// Memory held, bytes, with a share for each record.
    pub(super) fn size(&self) -> usize {
        self.size
    }

    /// Epoch under which the oldest record was sealed.
    pub(super) fn oldest_epoch(&self) -> Option<u32> {
        self.records.front().map(|record| record.epoch)
    }

    /// A queued record.
    pub(super) fn get(&self, number: u64) -> Option<&Bytes> {
        let at = usize::try_from(number.checked_sub(self.first)?).ok()?;
        self.records.get(at).map(|record| &record.bytes)
    }

    /// An empty buffer for a record of about `size` bytes, header and tag included.
    pub(super) fn buffer(&mut self, size: usize) -> BytesMut {
        if size < WORTH_FULL {
            return BytesMut::with_capacity(size);
        }
        let mut buffer = self.full_buffer();
        buffer.clear();
        buffer
    }

    /// A buffer for a full record. What may be in it is of no use.
    pub(super) fn full_buffer(&mut self) -> BytesMut {
        self.spare.pop().unwrap_or_else(|| BytesMut::with_capacity(CAPACITY))
    }

    /// Takes back the buffer of a full record.
    pub(super) fn give_back(&mut self, buffer: BytesMut) {
        if self.spare.len() < SPARE && buffer.capacity() >= CAPACITY {
            self.spare.push(buffer);
        }
    }

    /// Appends record number [`end`](Self::end).
    pub(super) fn push(&mut self, epoch: u32, bytes: Bytes) {
        self.size += bytes.len() + OVERHEAD;
        self.used = true;
        self.records.push_back(Sealed { epoch, bytes });
    }

    /// Forgets the records below `next`; numbers outside the queue are clipped to it. Gives the bytes
    /// that became free.
    pub(super) fn acknowledge(&mut self, next: u64) -> usize {
        let before = self.size;
        while self.first < next
            && let Some(record) = self.records.pop_front()
        {
            self.first += 1;
            self.size -= record.bytes.len() + OVERHEAD;
            if let Ok(buffer) = record.bytes.try_into_mut() {
                self.give_back(buffer);
            }
        }
        before - self.size
    }

    /// Gives half of the spare buffers back, where nothing has been going on for [`REST`]. To be called now and then.
    pub(super) fn rest(&mut self, now: Instant) {
        if std::mem::take(&mut self.used) {
            self.rest_at = Some(now + REST);
        } else if self.records.is_empty() && self.rest_at.is_some_and(|at| at <= now) {
            self.spare.truncate(self.spare.len() / 2);
            self.rest_at = (!self.spare.is_empty()).then_some(now + REST);
        }
    }

    /// Forgets everything: the session is over.
    pub(super) fn clear(&mut self) {
        self.acknowledge(u64::MAX);
        self.spare = Vec::new();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::start;

    fn record(queue: &mut Queue, size: usize) -> Bytes {
        let mut buffer = queue.buffer(size);
        buffer.resize(size, 7);
        buffer.freeze()
    }

    #[test]
    fn an_acknowledgement_forgets_what_is_below_it() {
        let mut queue = Queue::default();
        for number in 0..5 {
            assert_eq!(queue.end(), number);
            let bytes = record(&mut queue, 100 + number as usize);
            queue.push(number as u32, bytes);
        }
        queue.acknowledge(3);
        assert_eq!((queue.first(), queue.end(), queue.oldest_epoch()), (3, 5, Some(3)));
        assert_eq!(queue.get(2), None);
        assert_eq!(queue.get(3).map(Bytes::len), Some(103));
        assert_eq!(queue.get(5), None);
        assert_eq!(queue.size(), 103 + 104 + 2 * OVERHEAD);
        queue.acknowledge(1);
        assert_eq!(queue.first(), 3);
        queue.acknowledge(u64::MAX);
        assert_eq!((queue.first(), queue.end(), queue.size(), queue.oldest_epoch()), (5, 5, 0, None));
    }

    #[test]
    fn a_full_records_memory_is_used_again() {
        let mut queue = Queue::default();
        let bytes = record(&mut queue, CAPACITY);
        let place = bytes.as_ptr();
        let on_its_way = bytes.clone();
        queue.push(0, bytes);
        drop(on_its_way);
        queue.acknowledge(1);
        assert_eq!(record(&mut queue, CAPACITY).as_ptr(), place);
    }

    #[test]
    fn a_full_buffer_with_less_in_it_is_used_again_too() {
        let mut queue = Queue::default();
        let mut bytes = queue.full_buffer();
        bytes.truncate(100);
        let place = bytes.as_ptr();
        queue.push(0, bytes.freeze());
        queue.acknowledge(1);
        assert_eq!(queue.full_buffer().as_ptr(), place);
    }

    #[test]
    fn an_idle_session_gives_its_memory_back() {
        let mut queue = Queue::default();
        for _ in 0..2 * SPARE {
            let bytes = record(&mut queue, CAPACITY);
            queue.push(0, bytes);
        }
        queue.acknowledge(u64::MAX);
        let mut now = start();
        for _ in 0..100 {
            queue.rest(now);
        }
        assert_eq!(queue.spare.len(), SPARE, "it is not idle for being empty");
        for _ in 0..9 {
            now += REST;
            queue.rest(now);
        }
        assert_eq!(queue.spare.len(), 0);
    }

    #[test]
    fn memory_that_the_socket_still_holds_is_not_used_again() {
        let mut queue = Queue::default();
        let bytes = record(&mut queue, CAPACITY);
        let on_its_way = bytes.clone();
        queue.push(0, bytes);
        queue.acknowledge(1);
        let other = record(&mut queue, CAPACITY);
        assert_ne!(other.as_ptr(), on_its_way.as_ptr());
        assert!(on_its_way.iter().all(|&byte| byte == 7));
    }

    #[test]
    fn a_small_record_holds_little_memory() {
        let mut queue = Queue::default();
        assert!(queue.buffer(50).capacity() < 100);
    }
}
