//! What sockets are read into.

use std::collections::VecDeque;

use bytes::{Bytes, BytesMut};

/// Used buffers that are kept: as many as what was cut out of them holds on to while more is read.
const KEPT: usize = 4;

/// Bytes that were read and are cut off the front, in buffers that are used again once everything that
/// was cut out of them is gone: a busy connection allocates nothing. (Memory that goes back to the system
/// and comes again costs as much as sealing what is in it.)
#[derive(Debug)]
pub(super) struct ReadBuffer {
    size: usize,
    least_room: usize,
    buffer: BytesMut,
    used: VecDeque<BytesMut>,
}

impl ReadBuffer {
    /// Buffers of `size` bytes. One with less room than `least_room` is replaced: reading into the last
    /// few bytes costs as much as reading a lot.
    pub(super) fn new(size: usize, least_room: usize) -> Self {
        ReadBuffer { size, least_room, buffer: BytesMut::new(), used: VecDeque::new() }
    }

    /// Begins with what was read elsewhere.
    pub(super) fn holding(self, bytes: BytesMut) -> Self {
        ReadBuffer { buffer: bytes, ..self }
    }

    /// Makes room, and gives the buffer for the next bytes to be appended to.
    pub(super) fn room(&mut self) -> &mut BytesMut {
        if self.buffer.capacity() - self.buffer.len() < self.least_room {
            let again = self.used.iter_mut().position(|buffer| buffer.try_reclaim(self.size));
            let mut next = again.and_then(|at| self.used.remove(at)).unwrap_or_default();
            next.reserve(self.size);
            next.extend_from_slice(&self.buffer);
            let mut before = std::mem::replace(&mut self.buffer, next);
            before.clear();
            if self.used.len() < KEPT {
                self.used.push_back(before);
            }
        }
        &mut self.buffer
    }

    /// What was read and not cut off yet.
    pub(super) fn bytes(&mut self) -> &mut BytesMut {
        &mut self.buffer
    }

    /// Cuts everything off.
    pub(super) fn take(&mut self) -> Bytes {
        self.buffer.split().freeze()
    }

    /// Gives back the memory that is not in use, where nothing comes in.
    pub(super) fn rest(&mut self) {
        self.used = VecDeque::new();
        if self.buffer.is_empty() {
            self.buffer = BytesMut::new();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Reads `count` bytes and takes them; where they lie.
    fn read(buffer: &mut ReadBuffer, count: usize) -> Bytes {
        buffer.room().resize(count, 7);
        buffer.take()
    }

    #[test]
    fn memory_is_used_again_once_nothing_holds_it() {
        let mut buffer = ReadBuffer::new(1000, 100);
        let first = read(&mut buffer, 1000);
        let place = first.as_ptr();
        let second = read(&mut buffer, 1000);
        assert_ne!(second.as_ptr(), place, "the first is still held");
        drop(first);
        assert_eq!(read(&mut buffer, 1000).as_ptr(), place);
        assert!(second.iter().all(|&byte| byte == 7));
    }

    #[test]
    fn what_is_not_cut_off_goes_along() {
        let mut buffer = ReadBuffer::new(1000, 100);
        buffer.room().resize(950, 7);
        let head = buffer.bytes().split_to(900);
        assert_eq!(buffer.room()[..], [7; 50]);
        assert!(buffer.bytes().capacity() >= 150);
        drop(head);
    }

    #[test]
    fn at_rest_only_what_was_not_cut_off_is_kept() {
        let mut buffer = ReadBuffer::new(1000, 100).holding(BytesMut::from(&b"begun"[..]));
        buffer.room();
        buffer.rest();
        assert_eq!(buffer.bytes()[..], b"begun"[..]);
        assert!(buffer.used.is_empty());
        buffer.take();
        buffer.rest();
        assert_eq!(buffer.bytes().capacity(), 0);
    }
}
