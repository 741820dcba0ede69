//! AES-256-GCM over records and datagrams.
//!
//! The nonce is four zero bytes and the counter, big-endian. A counter is used once for each key: that is
//! the caller's promise, and why each direction and each use has a key of its own.

use std::fmt;

use aws_lc_rs::{
    aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey},
    hkdf,
};
use zeroize::Zeroizing;

use super::{
    SecureError,
    handshake::{DIRECTIONS, derive},
};
use crate::wire::packet::{DATA_HEADER, data_header};

/// Length of the tag behind every sealed body.
pub(super) const TAG: usize = 16;

/// One direction's AES-256-GCM key, with its schedule expanded.
pub struct SealKey(LessSafeKey);

impl SealKey {
    pub(super) fn new(key: &[u8; 32]) -> Self {
        SealKey(expand(key))
    }

    /// Seals in place; returns the tag. Each `counter` once.
    pub fn seal(&self, counter: u64, aad: &[u8], body: &mut [u8]) -> [u8; TAG] {
        let tag = self
            .0
            .seal_in_place_separate_tag(nonce(counter), Aad::from(aad), body)
            .expect("a body in memory is below AES-GCM's limit of 64 GiB");
        tag.as_ref().try_into().expect("a tag of AES-GCM has 16 bytes")
    }
}

/// The other direction's.
pub struct OpenKey(LessSafeKey);

impl OpenKey {
    pub(super) fn new(key: &[u8; 32]) -> Self {
        OpenKey(expand(key))
    }

    /// Opens in place a body with its tag behind it; returns the plain part.
    ///
    /// # Errors
    /// [`SecureError::Seal`] where body, tag, counter or `aad` is not what was sealed; what is in `body`
    /// then is of no use.
    pub fn open<'a>(
        &self,
        counter: u64,
        aad: &[u8],
        body: &'a mut [u8],
    ) -> Result<&'a mut [u8], SecureError> {
        self.0.open_in_place(nonce(counter), Aad::from(aad), body).map_err(|_| SecureError::Seal)
    }
}

/// Keys of session records.
pub struct EpochKeys {
    /// Ours.
    pub seal: SealKey,
    /// Theirs.
    pub open: OpenKey,
}

/// Keys of link records.
pub struct LinkKeys {
    /// Ours.
    pub seal: SealKey,
    /// Theirs.
    pub open: OpenKey,
}

/// Keys of datagrams: one secret, from which the key of a direction is derived for each datagram, so that a
/// server can hold a million.
///
/// The secret is 32 bytes; both keys, expanded, would be about 2 KiB on the heap. Deriving and expanding one takes
/// about a microsecond.
pub struct DatagramKeys {
    secret: Zeroizing<[u8; 32]>,
    initiator: bool,
}

impl DatagramKeys {
    pub(super) fn new(secret: Zeroizing<[u8; 32]>, initiator: bool) -> Self {
        DatagramKeys { secret, initiator }
    }

    /// The key of what the initiator seals, or of what the responder does.
    pub(super) fn key(&self, initiators: bool) -> Zeroizing<[u8; 32]> {
        let [from_initiator, from_responder] = DIRECTIONS;
        let prk = hkdf::Prk::new_less_safe(hkdf::HKDF_SHA256, &*self.secret);
        derive(&prk, "datagram", if initiators { from_initiator } else { from_responder })
    }

    /// Seals a body behind its header (header is the associated data): the whole datagram.
    /// `index` is the receiver's; each `counter` once.
    pub fn seal(&self, index: u32, counter: u64, body: &[u8]) -> Vec<u8> {
        let header = data_header(index, counter);
        let mut datagram = Vec::with_capacity(DATA_HEADER + body.len() + TAG);
        datagram.extend_from_slice(&header);
        datagram.extend_from_slice(body);
        let tag =
            SealKey::new(&self.key(self.initiator)).seal(counter, &header, &mut datagram[DATA_HEADER..]);
        datagram.extend_from_slice(&tag);
        datagram
    }

    /// Opens what follows the header of a datagram; `index` and `counter` are the header's.
    ///
    /// # Errors
    /// [`SecureError::Seal`]: cut short, changed, or sealed by somebody else.
    pub fn open(&self, index: u32, counter: u64, sealed: &[u8]) -> Result<Vec<u8>, SecureError> {
        let mut body = sealed.to_vec();
        let key = OpenKey::new(&self.key(!self.initiator));
        let plain = key.open(counter, &data_header(index, counter), &mut body)?.len();
        body.truncate(plain);
        Ok(body)
    }
}

macro_rules! show_nothing {
    ($($name:ident),*) => {$(
        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(concat!(stringify!($name), "(..)"))
            }
        }
    )*};
}
show_nothing!(SealKey, OpenKey, EpochKeys, LinkKeys, DatagramKeys);

fn expand(key: &[u8; 32]) -> LessSafeKey {
    LessSafeKey::new(UnboundKey::new(&AES_256_GCM, key).expect("a key of AES-256 has 32 bytes"))
}

fn nonce(counter: u64) -> Nonce {
    let mut nonce = [0; 12];
    nonce[4..].copy_from_slice(&counter.to_be_bytes());
    Nonce::assume_unique_for_key(nonce)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::packet::Packet;

    fn pair() -> (DatagramKeys, DatagramKeys) {
        [true, false].map(|initiator| DatagramKeys::new(Zeroizing::new([1; 32]), initiator)).into()
    }

    #[test]
    fn a_datagram_opens_on_the_other_side_only() {
        let (ours, theirs) = pair();
        let datagram = ours.seal(9, 5, b"body");
        let Ok(Packet::Data { index: 9, counter: 5, sealed }) = Packet::parse(&datagram) else {
            panic!("{datagram:?}");
        };
        assert_eq!(theirs.open(9, 5, sealed).as_deref(), Ok(&b"body"[..]));
        assert_eq!(ours.open(9, 5, sealed), Err(SecureError::Seal));
        assert_eq!(theirs.open(8, 5, sealed), Err(SecureError::Seal));
        assert_eq!(theirs.open(9, 6, sealed), Err(SecureError::Seal));
    }

    #[test]
    fn a_changed_or_shortened_body_never_opens() {
        let (ours, theirs) = pair();
        let sealed = ours.seal(9, 5, b"body").split_off(DATA_HEADER);
        for cut in 0..sealed.len() {
            assert_eq!(theirs.open(9, 5, &sealed[..cut]), Err(SecureError::Seal), "cut to {cut}");
        }
        for bit in 0..sealed.len() * 8 {
            let mut changed = sealed.clone();
            changed[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(theirs.open(9, 5, &changed), Err(SecureError::Seal), "bit {bit}");
        }
    }

    #[test]
    fn a_datagrams_keys_are_no_more_than_a_secret() {
        assert_eq!(size_of::<DatagramKeys>(), 33);
    }
}
