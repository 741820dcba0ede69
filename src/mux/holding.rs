//! What all streams hold unsent, and how much more each may.

use super::whole;

/// Most bytes that one stream holds unsent: what the link takes while the task that reads the local
/// connection waits for its turn. The data of four full records: a bulk transfer leaves nothing for a
/// fifth that would hold a few bytes.
pub const SEND_BUFFER: usize = 4 * whole::ROOM;

/// Most bytes that all streams together hold unsent (a session without a link fills this), besides
/// [`SEND_FLOOR`] for each.
pub const SEND_BUDGET: usize = 16 * 1024 * 1024;

/// What every stream may hold even when the budget is used up, bytes: nobody is starved by the others.
pub const SEND_FLOOR: usize = 4 * 1024;

/// Bytes in all send buffers.
#[derive(Debug, Default)]
pub(super) struct Holding {
    unsent: usize,
    /// Streams that hold something.
    holders: usize,
}

impl Holding {
    /// A stream took so many bytes; it held none before where it is the `first` it holds.
    pub(super) fn take(&mut self, count: usize, first: bool) {
        self.unsent += count;
        self.holders += usize::from(first && count > 0);
    }

    /// So many bytes of a stream are gone, and it holds no more where these were the `last`.
    pub(super) fn release(&mut self, count: usize, last: bool) {
        self.unsent -= count;
        self.holders -= usize::from(last && count > 0);
    }

    /// Bytes that a stream takes now that holds so many already. One that holds nothing always takes some.
    /// Those that hold something share the budget, or the first of many would have what the others lack.
    pub(super) fn space(&self, held: usize) -> usize {
        let share = (SEND_BUDGET / self.holders.max(1)).min(SEND_BUFFER);
        let shared = share.saturating_sub(held).min(SEND_BUDGET.saturating_sub(self.unsent));
        shared.max(SEND_FLOOR.saturating_sub(held))
    }

    /// Bytes in all send buffers.
    pub(super) fn unsent(&self) -> usize {
        self.unsent
    }
}
