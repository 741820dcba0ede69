//! Cookies: proof that a client receives at the address that it sends from, without remembering it.
//!
//! A cookie is 8 bytes of time (milliseconds since the server began) and the first 16 bytes of an
//! HMAC-SHA-256 over that time, the source address and port, the transport, and the client's index.
//! The key changes every [`ROTATION`]; the previous one is accepted too, so a cookie is good for two to
//! four minutes. (The idea is RFC 6347's, §4.2.1.)

use std::{
    net::IpAddr,
    time::{Duration, Instant},
};

use aws_lc_rs::{constant_time, hmac};

use super::Source;
use crate::wire::packet::COOKIE;

/// Lifetime of a secret.
pub(super) const ROTATION: Duration = Duration::from_secs(120);

/// Makes and verifies cookies.
pub(super) struct Cookies {
    master: hmac::Key,
    epoch: Instant,
    generation: u64,
    current: hmac::Key,
    previous: hmac::Key,
}

impl Cookies {
    /// `seed` is the root of all secrets.
    pub(super) fn new(now: Instant, seed: [u8; 32]) -> Self {
        let master = hmac::Key::new(hmac::HMAC_SHA256, &seed);
        let current = secret(&master, 0);
        // Nothing was ever signed with a generation before the first.
        let previous = secret(&master, u64::MAX);
        Cookies { master, epoch: now, generation: 0, current, previous }
    }

    /// A cookie for that source and index.
    pub(super) fn make(&mut self, now: Instant, source: Source, sender: u32) -> [u8; COOKIE] {
        self.rotate(now);
        let millis = self.millis(now);
        let tag = hmac::sign(&self.current, &signed(millis, source, sender));
        let mut cookie = [0; COOKIE];
        cookie[..8].copy_from_slice(&millis.to_be_bytes());
        cookie[8..].copy_from_slice(&tag.as_ref()[..COOKIE - 8]);
        cookie
    }

    /// The generation of the secret behind a cookie that is good now for that source and index.
    pub(super) fn verify(
        &mut self,
        now: Instant,
        source: Source,
        sender: u32,
        cookie: &[u8; COOKIE],
    ) -> Option<u64> {
        self.rotate(now);
        let (time, tag) = cookie.split_first_chunk::<8>()?;
        let millis = u64::from_be_bytes(*time);
        let generation = millis / ROTATION.as_millis() as u64;
        let key = match self.generation.checked_sub(generation)? {
            0 => &self.current,
            1 => &self.previous,
            _ => return None,
        };
        let expected = hmac::sign(key, &signed(millis, source, sender));
        constant_time::verify_slices_are_equal(expected.as_ref().get(..COOKIE - 8)?, tag).ok()?;
        Some(generation)
    }

    /// Number of the current secret; rises by one every [`ROTATION`].
    pub(super) fn generation(&mut self, now: Instant) -> u64 {
        self.rotate(now);
        self.generation
    }

    fn millis(&self, now: Instant) -> u64 {
        now.saturating_duration_since(self.epoch).as_millis() as u64
    }

    fn rotate(&mut self, now: Instant) {
        let generation = self.millis(now) / ROTATION.as_millis() as u64;
        if generation > self.generation {
            self.generation = generation;
            self.current = secret(&self.master, generation);
            self.previous = secret(&self.master, generation - 1);
        }
    }
}

fn secret(master: &hmac::Key, generation: u64) -> hmac::Key {
    let tag = hmac::sign(master, &generation.to_be_bytes());
    hmac::Key::new(hmac::HMAC_SHA256, tag.as_ref())
}

fn signed(millis: u64, source: Source, sender: u32) -> [u8; 8 + 16 + 2 + 1 + 4] {
    let ip = match source.addr.ip() {
        IpAddr::V4(ip) => ip.to_ipv6_mapped(),
        IpAddr::V6(ip) => ip,
    };
    let mut bytes = [0; 31];
    bytes[..8].copy_from_slice(&millis.to_be_bytes());
    bytes[8..24].copy_from_slice(&ip.octets());
    bytes[24..26].copy_from_slice(&source.addr.port().to_be_bytes());
    bytes[26] = source.udp.into();
    bytes[27..].copy_from_slice(&sender.to_be_bytes());
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::start;

    fn source(text: &str, udp: bool) -> Source {
        Source { addr: text.parse().expect("an address"), udp, via: 0 }
    }

    #[test]
    fn a_cookie_is_good_for_its_source_and_index_only() {
        let now = start();
        let mut cookies = Cookies::new(now, [1; 32]);
        let here = source("192.0.2.1:1000", true);
        let cookie = cookies.make(now, here, 7);
        assert_eq!(cookies.verify(now, here, 7, &cookie), Some(0));
        for (elsewhere, sender) in [
            (source("192.0.2.2:1000", true), 7),
            (source("192.0.2.1:1001", true), 7),
            (source("192.0.2.1:1000", false), 7),
            (here, 8),
        ] {
            assert_eq!(cookies.verify(now, elsewhere, sender, &cookie), None);
        }
        for byte in 0..COOKIE {
            let mut forged = cookie;
            forged[byte] ^= 1;
            assert_eq!(cookies.verify(now, here, 7, &forged), None, "byte {byte}");
        }
        assert_eq!(Cookies::new(now, [2; 32]).verify(now, here, 7, &cookie), None, "another server");
    }

    #[test]
    fn a_cookie_outlives_one_change_of_the_secret_and_not_two() {
        let now = start();
        let mut cookies = Cookies::new(now, [1; 32]);
        let here = source("[2001:db8::1]:1000", false);
        let cookie = cookies.make(now + Duration::from_secs(100), here, 7);
        assert_eq!(cookies.verify(now + Duration::from_secs(239), here, 7, &cookie), Some(0));
        assert_eq!(cookies.verify(now + Duration::from_secs(240), here, 7, &cookie), None);
    }
}
