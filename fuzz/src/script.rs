//! Bytes read as decisions. When they are used up every decision is 0, so that a script ends.

use std::time::{Duration, Instant};

/// What is left of a script.
pub(crate) struct Script<'a>(&'a [u8]);

impl<'a> Script<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Script(bytes)
    }

    pub(crate) fn is_over(&self) -> bool {
        self.0.is_empty()
    }

    pub(crate) fn byte(&mut self) -> u8 {
        let Some((first, rest)) = self.0.split_first() else { return 0 };
        self.0 = rest;
        *first
    }

    pub(crate) fn u16(&mut self) -> u16 {
        u16::from_be_bytes([self.byte(), self.byte()])
    }

    pub(crate) fn u64(&mut self) -> u64 {
        u64::from_be_bytes(std::array::from_fn(|_| self.byte()))
    }

    /// Any number, the small ones as likely as the large ones.
    pub(crate) fn number(&mut self) -> u32 {
        match self.byte() {
            small @ 0..=199 => u32::from(small % 16),
            shift => 1u32.wrapping_shl(u32::from(shift % 32)) ^ u32::from(self.byte()),
        }
    }

    /// One of so many.
    pub(crate) fn below(&mut self, count: usize) -> usize {
        usize::from(self.byte()) % count.max(1)
    }

    /// Up to 255 bytes.
    pub(crate) fn bytes(&mut self) -> &'a [u8] {
        let length = usize::from(self.byte()).min(self.0.len());
        let (bytes, rest) = self.0.split_at(length);
        self.0 = rest;
        bytes
    }

    /// From nothing to minutes, the short ones as likely as the long ones.
    pub(crate) fn duration(&mut self) -> Duration {
        Duration::from_micros(1 << (self.byte() % 28))
    }

    /// Damages bytes on their way, or does not: a bit flipped, cut, doubled, or others in their place.
    pub(crate) fn damage(&mut self, mut bytes: Vec<u8>) -> Vec<u8> {
        match self.byte() {
            0..=199 => {}
            200..=229 => {
                let at = usize::from(self.u16()) % bytes.len().max(1);
                if let Some(byte) = bytes.get_mut(at) {
                    *byte ^= 1 << (self.byte() % 8);
                }
            }
            230..=239 => bytes.truncate(usize::from(self.u16()) % (bytes.len() + 1)),
            240..=247 => bytes.extend_from_slice(self.bytes()),
            _ => bytes = self.bytes().to_vec(),
        }
        bytes
    }
}

/// Where virtual time begins.
#[allow(clippy::disallowed_methods, reason = "an Instant cannot be made from nothing")]
pub(crate) fn start() -> Instant {
    Instant::now()
}
