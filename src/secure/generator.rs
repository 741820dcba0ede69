//! Random numbers from a seed, of which nothing can be computed back.
//!
//! Everything that is drawn comes with the next key, which takes the place of the one that it came of, and that one is wiped
//! (fast key erasure). So whoever reads a program's memory learns what will be drawn from then on, and no ephemeral key from
//! before. A seed gives the same numbers each time: the cores draw from nothing else.

use std::convert::Infallible;

use rand::TryRng;
use zeroize::Zeroizing;

use super::seal::SealKey;

/// A key, and as many bytes to give away.
const BLOCK: usize = 64;

/// A generator of random numbers with fast key erasure: the key stream of AES-256, of which the first 32 bytes are the next key.
pub(crate) struct Generator {
    key: Zeroizing<[u8; 32]>,
}

impl Generator {
    /// From 32 fresh random bytes.
    pub(crate) fn new(seed: [u8; 32]) -> Self {
        Generator { key: Zeroizing::new(seed) }
    }

    /// The next bytes, 32 at most.
    fn draw(&mut self, into: &mut [u8]) {
        let mut stream = Zeroizing::new([0; BLOCK]);
        // A key makes one stream, so the counter is always its first.
        SealKey::new(&self.key).seal(0, b"", &mut *stream);
        let (key, given) = stream.split_at(self.key.len());
        self.key.copy_from_slice(key);
        into.copy_from_slice(&given[..into.len()]);
    }
}

impl TryRng for Generator {
    type Error = Infallible;

    fn try_next_u32(&mut self) -> Result<u32, Infallible> {
        let mut bytes = [0; 4];
        self.draw(&mut bytes);
        Ok(u32::from_le_bytes(bytes))
    }

    fn try_next_u64(&mut self) -> Result<u64, Infallible> {
        let mut bytes = [0; 8];
        self.draw(&mut bytes);
        Ok(u64::from_le_bytes(bytes))
    }

    fn try_fill_bytes(&mut self, into: &mut [u8]) -> Result<(), Infallible> {
        into.chunks_mut(BLOCK - self.key.len()).for_each(|some| self.draw(some));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use rand::{Rng, RngExt};

    use super::*;

    fn drawn(generator: &mut Generator) -> [u8; 32] {
        let mut bytes = [0; 32];
        generator.fill_bytes(&mut bytes);
        bytes
    }

    #[test]
    fn a_seed_gives_the_same_numbers_and_another_seed_others() {
        let (mut one, mut same, mut other) =
            (Generator::new([1; 32]), Generator::new([1; 32]), Generator::new([2; 32]));
        let mut seen = BTreeSet::new();
        for _ in 0..1000 {
            let (numbers, others) = (drawn(&mut one), drawn(&mut other));
            assert_eq!(numbers, drawn(&mut same));
            assert!(seen.insert(numbers) && seen.insert(others));
        }
        let mut long = [0; 100];
        one.fill_bytes(&mut long);
        assert!(long.chunks(4).all(|some| some != [0; 4]), "to the last byte");
    }

    #[test]
    fn bits_are_as_often_set_as_not() {
        let mut generator = Generator::new([3; 32]);
        let set: u32 = (0..10_000).map(|_| generator.random::<u64>().count_ones()).sum();
        // Six standard deviations of 640 000 throws are 2400.
        assert!(set.abs_diff(320_000) < 2400, "{set}");
    }

    #[test]
    fn a_memory_image_shows_nothing_that_was_drawn_before() {
        let mut generator = Generator::new([4; 32]);
        let mut keys = vec![*generator.key];
        let mut given = Vec::new();
        for length in [32, 4, 8, 32, 32] {
            let mut bytes = vec![0; length];
            generator.fill_bytes(&mut bytes);
            given.push(bytes);
            keys.push(*generator.key);
        }
        // All that there is of it in memory is its newest key: no buffer, no counter to wind back.
        assert_eq!(size_of::<Generator>(), 32);
        let image = *generator.key;
        assert_eq!(keys.iter().filter(|key| **key == image).count(), 1, "each key was used once");
        assert!(given.iter().all(|bytes| !image.windows(bytes.len()).any(|part| part == bytes)));
        let mut from_the_image = Generator::new(image);
        let later: Vec<_> = (0..1000).map(|_| drawn(&mut from_the_image)).collect();
        assert!(
            given
                .iter()
                .filter(|bytes| bytes.len() == 32)
                .all(|bytes| !later.iter().any(|b| b == &bytes[..]))
        );
        assert_eq!(later[0], drawn(&mut generator), "what comes from then on is known");
    }
}
