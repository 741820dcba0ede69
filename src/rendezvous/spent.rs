//! INITs that were answered, for as long as their cookies are good.
//!
//! The same INIT again gets the same answer and changes nothing. After the cookie's time it cannot come
//! again at all, so nothing needs to be remembered longer.

use std::collections::BTreeMap;

use aws_lc_rs::digest;

/// What an INIT is known by: nobody makes a second one for somebody else's first 128 bits of SHA-256.
pub(super) type Fingerprint = [u8; 16];

/// The fingerprint of an INIT.
pub(super) fn fingerprint(sender: u32, noise: &[u8]) -> Fingerprint {
    let mut hash = digest::Context::new(&digest::SHA256);
    hash.update(&sender.to_be_bytes());
    hash.update(noise);
    hash.finish().as_ref().first_chunk().copied().unwrap_or_default()
}

/// Fingerprints and the associations that they opened, by the generation of the cookie.
#[derive(Debug, Default)]
pub(super) struct Spent {
    generation: u64,
    current: BTreeMap<Fingerprint, u32>,
    previous: BTreeMap<Fingerprint, u32>,
}

impl Spent {
    /// Cookies of `generation` are made now; those two before are good no more.
    pub(super) fn turn(&mut self, generation: u64) {
        if generation > self.generation {
            let before = std::mem::take(&mut self.current);
            self.previous = if generation == self.generation + 1 { before } else { BTreeMap::new() };
            self.generation = generation;
        }
    }

    /// The association that this INIT opened.
    pub(super) fn get(&self, print: &Fingerprint) -> Option<u32> {
        self.current.get(print).or_else(|| self.previous.get(print)).copied()
    }

    /// This INIT, with a cookie of `generation`, opened that association.
    pub(super) fn insert(&mut self, generation: u64, print: Fingerprint, index: u32) {
        let map = if generation == self.generation { &mut self.current } else { &mut self.previous };
        map.insert(print, index);
    }

    /// Fingerprints in memory.
    pub(super) fn len(&self) -> usize {
        self.current.len() + self.previous.len()
    }
}
