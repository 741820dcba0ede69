//! Bytes of a stream that wait: a queue of pieces, with the small ones gathered.
//!
//! Large pieces are kept as they come (no copy). Small ones are copied together: a thousand pieces of
//! one byte would otherwise cost a handle and an allocation each, and a piece that was cut out of a
//! receive buffer keeps the whole of that buffer alive.

use std::collections::VecDeque;

use bytes::{Bytes, BytesMut};

use super::whole::Whole;

/// Pieces at least this long are kept as they are. A quarter of a full record: bulk data is never
/// copied, and what a piece keeps alive is at most a small multiple of it.
pub const LARGE: usize = 16 * 1024;

/// Gathered pieces are closed at this length, so that reading does not hand out one enormous piece.
const GATHERED: usize = 64 * 1024;

#[derive(Debug)]
enum Piece {
    Plain(Bytes),
    Whole(Whole),
}

impl Piece {
    fn into_bytes(self) -> Bytes {
        match self {
            Piece::Plain(bytes) => bytes,
            Piece::Whole(whole) => whole.into_payload(),
        }
    }
}

/// A queue of bytes.
#[derive(Debug, Default)]
pub struct ByteQueue {
    pieces: VecDeque<Piece>,
    /// Small pieces behind all of `pieces`.
    tail: BytesMut,
    length: usize,
}

impl ByteQueue {
    /// How many bytes wait.
    pub fn len(&self) -> usize {
        self.length
    }

    /// Nothing waits.
    pub fn is_empty(&self) -> bool {
        self.length == 0
    }

    /// Appends.
    pub fn push(&mut self, piece: Bytes) {
        self.length += piece.len();
        if piece.len() >= LARGE {
            self.close_tail();
            self.pieces.push_back(Piece::Plain(piece));
            return;
        }
        if self.tail.len() + piece.len() > GATHERED {
            self.close_tail();
        }
        self.tail.extend_from_slice(&piece);
    }

    /// Appends a piece that lies where its record will be.
    pub fn push_whole(&mut self, piece: Whole) {
        self.length += piece.payload().len();
        self.close_tail();
        self.pieces.push_back(Piece::Whole(piece));
    }

    /// Length of the first piece, where it lies where its record will be.
    pub fn whole(&self) -> Option<usize> {
        match self.pieces.front()? {
            Piece::Whole(whole) => Some(whole.payload().len()),
            Piece::Plain(_) => None,
        }
    }

    /// Bytes that may be copied without breaking a piece that lies where its record will be: those before the next
    /// such piece, or all of it where it is the first, as it is to be broken then. From `enough` on it is not
    /// counted further.
    pub fn loose(&self, enough: usize) -> usize {
        let mut sum = 0;
        for piece in &self.pieces {
            match piece {
                Piece::Plain(bytes) => sum += bytes.len(),
                Piece::Whole(whole) if sum == 0 => return whole.payload().len(),
                Piece::Whole(_) => return sum,
            }
            if sum >= enough {
                return sum;
            }
        }
        sum + self.tail.len()
    }

    /// Takes the first piece, where it lies where its record will be.
    pub fn pop_whole(&mut self) -> Option<Whole> {
        self.length -= self.whole()?;
        match self.pieces.pop_front()? {
            Piece::Whole(whole) => Some(whole),
            Piece::Plain(_) => None,
        }
    }

    /// Takes the first piece.
    pub fn pop(&mut self) -> Option<Bytes> {
        let piece = match self.pieces.pop_front() {
            Some(piece) => piece.into_bytes(),
            None if self.tail.is_empty() => return None,
            None => self.tail.split().freeze(),
        };
        self.length -= piece.len();
        Some(piece)
    }

    /// Moves the first `count` bytes to the end of `out`; all of them where there are fewer.
    pub fn copy_to(&mut self, out: &mut BytesMut, count: usize) {
        let mut left = count.min(self.length);
        self.length -= left;
        while left > 0 {
            let Some(first) = self.pieces.pop_front() else {
                out.extend_from_slice(&self.tail.split_to(left));
                return;
            };
            let mut first = first.into_bytes();
            if first.len() > left {
                out.extend_from_slice(&first.split_to(left));
                self.pieces.push_front(Piece::Plain(first));
                return;
            }
            out.extend_from_slice(&first);
            left -= first.len();
        }
    }

    /// Forgets everything, and gives the memory back.
    pub fn clear(&mut self) {
        *self = Self::default();
    }

    fn close_tail(&mut self) {
        if !self.tail.is_empty() {
            self.pieces.push_back(Piece::Plain(self.tail.split().freeze()));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_come_out_in_the_order_in_which_they_went_in() {
        let mut queue = ByteQueue::default();
        let mut expected = Vec::new();
        for (round, size) in
            [1, 5, LARGE, 3, LARGE - 1, LARGE - 1, LARGE - 1, LARGE - 1, 9, 2 * LARGE].iter().enumerate()
        {
            let piece = vec![round as u8; *size];
            expected.extend_from_slice(&piece);
            queue.push(Bytes::from(piece));
        }
        assert_eq!(queue.len(), expected.len());
        let mut out = BytesMut::new();
        for count in [0, 1, 7, 5000, LARGE] {
            queue.copy_to(&mut out, count);
        }
        while let Some(piece) = queue.pop() {
            out.extend_from_slice(&piece);
            queue.copy_to(&mut out, 3);
        }
        assert_eq!(out, expected);
        assert!(queue.is_empty());
    }

    #[test]
    fn a_large_piece_is_not_copied_and_small_ones_are_gathered() {
        let mut queue = ByteQueue::default();
        let large = Bytes::from(vec![1; LARGE]);
        queue.push(large.clone());
        for _ in 0..1000 {
            queue.push(Bytes::from_static(b"x"));
        }
        assert_eq!(queue.pop().unwrap().as_ptr(), large.as_ptr());
        assert_eq!(queue.pop().unwrap().len(), 1000);
        assert!(queue.pop().is_none());
    }
}
