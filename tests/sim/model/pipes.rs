//! The reference: every stream is a pair of perfect pipes.
//!
//! It knows what each program wrote, finished and reset, and holds what the sessions deliver against it:
//! the bytes exactly once and in order, an end only behind all of them, a reset only where a program
//! asked for one or the session was ended.

use std::collections::BTreeMap;

use punchtunnel::{
    session::{SessionEvent, StreamId},
    wire::stream::ResetReason,
};

/// What the program on one side knows of a stream.
#[derive(Debug, Default, Clone)]
pub struct End {
    pub written: usize,
    pub read: usize,
    pub finished: bool,
    /// This side reset it.
    pub reset: bool,
    pub remote_finished: bool,
    /// The last event came, or this side reset it.
    pub over: bool,
    /// It was told that there are bytes, and has not read since.
    readable: bool,
    /// It was told that there is no room, and not that there is again.
    blocked: bool,
}

/// What both programs know.
#[derive(Debug, Default)]
pub struct Pipes {
    ends: [BTreeMap<StreamId, End>; 2],
    /// That side's program ended the session.
    pub closed: [bool; 2],
    /// That side knows that the session is over.
    pub over: [bool; 2],
}

/// A prime, so that bytes that come too early or too late are other bytes.
const PERIOD: usize = 65_521;

/// Bytes that look like chance, from which every pattern is cut.
static NOISE: std::sync::LazyLock<Vec<u8>> = std::sync::LazyLock::new(|| {
    let mut state = 0x2545_f491_4f6c_dd1du64;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state as u8
    };
    (0..PERIOD).map(|_| next()).collect()
});

/// Calls for each piece of what a side writes into a stream, from that offset on.
fn pattern(id: StreamId, from: usize, offset: usize, count: usize, mut piece: impl FnMut(&[u8])) {
    let mut at = (offset + id.0 as usize * 7919 + from * 30_011) % PERIOD;
    let mut left = count;
    while left > 0 {
        let part = &NOISE[at..PERIOD.min(at + left)];
        piece(part);
        left -= part.len();
        at = 0;
    }
}

impl Pipes {
    /// Streams whose program on that side still holds them.
    pub fn held(&self, side: usize) -> Vec<StreamId> {
        self.ends[side].iter().filter(|(_, end)| !end.over).map(|(&id, _)| id).collect()
    }

    /// How many streams that side has ever had.
    pub fn count(&self, side: usize) -> usize {
        self.ends[side].len()
    }

    pub fn end(&self, side: usize, id: StreamId) -> &End {
        &self.ends[side][&id]
    }

    /// That side opens a stream.
    pub fn open(&mut self, side: usize, id: StreamId) {
        assert!(self.ends[side].insert(id, End::default()).is_none(), "{id} was given twice");
    }

    /// The next bytes that a side writes.
    pub fn next(&self, side: usize, id: StreamId, count: usize) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(count);
        pattern(id, side, self.ends[side][&id].written, count, |piece| bytes.extend_from_slice(piece));
        bytes
    }

    /// They were taken.
    pub fn wrote(&mut self, side: usize, id: StreamId, count: usize) {
        self.change(side, id).written += count;
    }

    /// No byte was taken: the session is to say when that changes.
    pub fn blocked(&mut self, side: usize, id: StreamId) {
        let end = self.change(side, id);
        end.blocked |= !end.finished && !end.over;
    }

    /// A write was refused because the stream is reset or the session over.
    pub fn refused(&mut self, side: usize, id: StreamId) {
        self.change(side, id).blocked = false;
        let reset = self.ends[1 - side].get(&id).is_some_and(|end| end.reset);
        assert!(reset || self.is_closed(), "{id} takes no bytes of side {side}, and nobody reset it");
    }

    pub fn finished(&mut self, side: usize, id: StreamId) {
        let end = self.change(side, id);
        (end.finished, end.blocked) = (true, false);
    }

    pub fn reset(&mut self, side: usize, id: StreamId) {
        let end = self.change(side, id);
        (end.reset, end.over, end.blocked) = (true, true, false);
    }

    /// Bytes were delivered to that side's program.
    pub fn read(&mut self, side: usize, id: StreamId, bytes: &[u8]) {
        let written = self.ends[1 - side].get(&id).map_or(0, |end| end.written);
        let end = self.change(side, id);
        assert!(!bytes.is_empty() && !end.remote_finished && !end.over, "{id}: bytes after the end");
        let (mut at, offset) = (0, end.read);
        end.read += bytes.len();
        end.readable = false;
        assert!(end.read <= written, "{id}: side {side} read {} bytes of {written}", end.read);
        pattern(id, 1 - side, offset, bytes.len(), |piece| {
            let found = &bytes[at..at + piece.len()];
            if found != piece {
                let wrong = found.iter().zip(piece).position(|(a, b)| a != b).unwrap_or(0);
                panic!("{id}: byte {} that side {side} read is wrong", offset + at + wrong);
            }
            at += piece.len();
        });
    }

    /// That side's session says that something happened. `true` where there may be something to read.
    pub fn event(&mut self, side: usize, event: &SessionEvent) {
        assert!(!self.over[side], "{event:?} after the end of the session");
        let closed = self.is_closed();
        match *event {
            SessionEvent::Opened { id, .. } => {
                assert!(self.ends[1 - side].contains_key(&id), "{id} was never opened");
                assert!(self.ends[side].insert(id, End::default()).is_none(), "{id} opened twice");
            }
            SessionEvent::Readable(id) => {
                let end = self.change(side, id);
                assert!(!end.over, "{event:?} after the end");
                end.readable = true;
            }
            SessionEvent::Writable(id) => {
                let end = self.change(side, id);
                assert!(!end.over, "{event:?} after the end");
                end.blocked = false;
            }
            SessionEvent::RemoteFinished(id) => {
                let other = &self.ends[1 - side][&id];
                let (written, finished) = (other.written, other.finished);
                let end = self.change(side, id);
                assert!(!end.over && !end.remote_finished && finished, "{id} ended, and nobody said so");
                assert_eq!(end.read, written, "{id} ended early on side {side}");
                end.remote_finished = true;
            }
            SessionEvent::Closed(id) => {
                let end = self.change(side, id);
                assert!(!end.over && end.remote_finished && end.finished, "{id} closed early");
                end.over = true;
            }
            SessionEvent::Reset { id, reason } => {
                // Whoever is reset may not even have been told of the stream by the time it resets it.
                let asked = self.ends[1 - side].get(&id).is_some_and(|end| end.reset);
                let end = self.change(side, id);
                assert!(!end.over, "{id} ends twice");
                end.over = true;
                match reason {
                    ResetReason::Reset => {
                        assert!(asked, "{id} was reset, and nobody asked for it");
                        assert!(!end.readable, "{id} was reset before its last bytes were read");
                    }
                    ResetReason::SessionEnded => assert!(closed, "{id} lost with the session"),
                    other => panic!("{id}: {other}"),
                }
            }
            SessionEvent::Ended(error) => {
                assert!(self.closed[1 - side], "the session ended by itself: {error}");
                self.is_over(side);
            }
        }
    }

    /// That side knows that the session is over.
    pub fn is_over(&mut self, side: usize) {
        self.over[side] = true;
        for (id, end) in &self.ends[side] {
            assert!(end.over, "{id} has no end, and the session has one");
        }
    }

    /// Somebody ended the session.
    pub fn is_closed(&self) -> bool {
        self.closed[0] || self.closed[1]
    }

    /// Everybody has read everything on a good link: was everything there, and is nobody left waiting?
    pub fn check_delivered(&self) {
        if let Some(missing) = self.missing() {
            panic!("{missing}");
        }
    }

    /// What somebody still waits for.
    pub fn missing(&self) -> Option<String> {
        for side in [0, 1] {
            for (id, end) in self.ends[side].iter().filter(|(_, end)| !end.over) {
                let Some(other) = self.ends[1 - side].get(id) else {
                    return Some(format!("{id} was never announced"));
                };
                if other.reset {
                    return Some(format!("{id}: side {side} does not hear that it was reset"));
                }
                if end.read != other.written {
                    return Some(format!("{id}: side {side} has {} bytes of {}", end.read, other.written));
                }
                if end.blocked {
                    return Some(format!("{id}: side {side} waits for room for ever"));
                }
                if !end.remote_finished && other.finished {
                    return Some(format!("{id}: side {side} hears of no end"));
                }
            }
        }
        None
    }

    /// Everybody has finished and read everything: was everything there?
    pub fn check_complete(&self) {
        for side in [0, 1] {
            for (id, end) in &self.ends[side] {
                assert!(end.over, "{id} is left on side {side}: {end:?}");
                let Some(other) = self.ends[1 - side].get(id) else {
                    assert!(self.is_closed(), "{id} was never announced");
                    continue;
                };
                if !end.reset && !other.reset && !self.is_closed() {
                    assert_eq!(end.read, other.written, "{id}: bytes are missing on side {side}");
                    assert!(end.remote_finished);
                }
            }
        }
    }

    fn change(&mut self, side: usize, id: StreamId) -> &mut End {
        self.ends[side].get_mut(&id).expect("the stream is known")
    }
}
