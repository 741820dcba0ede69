//! Static keys and pre-shared keys.

use std::{fmt, str::FromStr};

use aws_lc_rs::hmac;
use data_encoding::BASE32_NOPAD;
use zeroize::Zeroizing;

use super::{SecureError, resolver};

/// Letters and digits of a public key's text.
const TEXT: usize = 52;

/// A static X25519 public key; shown as 52 lower-case base32 letters and digits (RFC 4648 §6).
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PublicKey(pub [u8; 32]);

impl PublicKey {
    /// Whether an agreement with this key can succeed: it is none of the points of small order, for
    /// which every secret would be zero (RFC 7748 §6.1).
    pub fn is_usable(&self) -> bool {
        resolver::agree(&[1; 32], &self.0).is_some()
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PublicKey({self})")
    }
}

impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&BASE32_NOPAD.encode(&self.0).to_ascii_lowercase())
    }
}

impl FromStr for PublicKey {
    type Err = SecureError;

    /// Reads the 52 letters and digits, in either case.
    ///
    /// # Errors
    /// [`SecureError::Key`] for another length, another alphabet, or a point of small order.
    fn from_str(text: &str) -> Result<Self, SecureError> {
        let length = text.chars().count();
        if length != TEXT {
            return Err(SecureError::Key(format!("a key has {TEXT} letters and digits, this has {length}")));
        }
        let bytes = BASE32_NOPAD
            .decode(text.to_ascii_uppercase().as_bytes())
            .ok()
            .and_then(|bytes| bytes.try_into().ok())
            .ok_or_else(|| SecureError::Key("letters a to z and digits 2 to 7 only; mistyped?".into()))?;
        let key = PublicKey(bytes);
        if key.is_usable() { Ok(key) } else { Err(SecureError::Key("a point of small order".into())) }
    }
}

/// A static X25519 key pair. The private half is wiped when dropped and never shown.
#[derive(Clone)]
pub struct StaticKey {
    private: Zeroizing<[u8; 32]>,
    public: PublicKey,
}

impl StaticKey {
    /// From 32 random bytes; every value is a key.
    pub fn from_private(private: Zeroizing<[u8; 32]>) -> Self {
        let public = PublicKey(resolver::public_key(&private));
        StaticKey { private, public }
    }

    /// The public half.
    pub fn public(&self) -> PublicKey {
        self.public
    }

    /// The private half, to be written to its file and nowhere else.
    pub fn private(&self) -> &Zeroizing<[u8; 32]> {
        &self.private
    }
}

impl fmt::Debug for StaticKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "StaticKey({}, ..)", self.public)
    }
}

/// A pre-shared key of a handshake.
#[derive(Clone)]
pub struct Psk(pub Zeroizing<[u8; 32]>);

impl Psk {
    /// 32 zero bytes: no invite.
    pub fn none() -> Self {
        Psk(Zeroizing::new([0; 32]))
    }

    /// Whether this is [`Psk::none`].
    pub fn is_none(&self) -> bool {
        *self.0 == [0; 32]
    }

    /// Shows in message 1 that the client has the secret: the handshake itself shows that only later. It is of no use for
    /// another client, host or session, so a server that named a key of its own and read it cannot pass it on.
    pub fn prove(&self, client: &PublicKey, host: &PublicKey, session: &[u8; 16]) -> [u8; 32] {
        let tag = hmac::sign(&self.proving(), &Self::proved(client, host, session));
        tag.as_ref().try_into().expect("HMAC-SHA256 has 32 bytes")
    }

    /// Whether that is what [`prove`](Self::prove) gives.
    pub fn is_proved(
        &self,
        client: &PublicKey,
        host: &PublicKey,
        session: &[u8; 16],
        proof: &[u8; 32],
    ) -> bool {
        hmac::verify(&self.proving(), &Self::proved(client, host, session), proof).is_ok()
    }

    fn proving(&self) -> hmac::Key {
        hmac::Key::new(hmac::HMAC_SHA256, &*self.0)
    }

    fn proved(client: &PublicKey, host: &PublicKey, session: &[u8; 16]) -> Vec<u8> {
        [&b"punchtunnel invite proof 1"[..], &client.0, &host.0, session].concat()
    }
}

impl fmt::Debug for Psk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Psk(..)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(byte: u8) -> StaticKey {
        StaticKey::from_private(Zeroizing::new([byte; 32]))
    }

    #[test]
    fn a_key_is_read_back_from_its_text_in_either_case() {
        let key = key(7).public();
        let text = key.to_string();
        assert_eq!(text.len(), 52);
        assert!(text.bytes().all(|b| b.is_ascii_lowercase() || (b'2'..=b'7').contains(&b)), "{text}");
        assert_eq!(text.parse(), Ok(key));
        assert_eq!(text.to_uppercase().parse(), Ok(key));
    }

    #[test]
    fn text_that_is_no_key_is_an_error_that_says_why() {
        let text = key(7).public().to_string();
        for wrong in
            ["", "key", &text[1..], &format!("{text}a"), &text.replacen('a', "1", 1), &"ä".repeat(52)]
        {
            if wrong != text {
                assert!(matches!(wrong.parse::<PublicKey>(), Err(SecureError::Key(_))), "{wrong}");
            }
        }
        // The last letter holds one bit of the key and four that must be zero.
        assert!(format!("{}b", &text[..51]).parse::<PublicKey>().is_err());
        // Zero is a point of small order.
        assert!("a".repeat(52).parse::<PublicKey>().is_err());
    }

    #[test]
    fn nothing_secret_is_shown() {
        let key = key(0x5a);
        let private = BASE32_NOPAD.encode(&**key.private()).to_ascii_lowercase();
        let shown = format!("{key:?} {:?} {:?}", key.public(), Psk(Zeroizing::new([0x5a; 32])));
        assert!(shown.contains(&key.public().to_string()));
        assert!(!shown.contains(&private) && !shown.contains("90") && !shown.contains("5a5a"), "{shown}");
    }

    #[test]
    fn a_proof_of_an_invite_is_good_for_one_secret_client_host_and_session() {
        let (psk, client, host, session) = (Psk([7; 32].into()), key(1).public(), key(2).public(), [3; 16]);
        let proof = psk.prove(&client, &host, &session);
        assert!(psk.is_proved(&client, &host, &session, &proof));
        let other = key(9).public();
        assert!(!Psk([8; 32].into()).is_proved(&client, &host, &session, &proof));
        assert!(!psk.is_proved(&other, &host, &session, &proof));
        assert!(!psk.is_proved(&client, &other, &session, &proof));
        assert!(!psk.is_proved(&client, &host, &[4; 16], &proof));
        let mut wrong = proof;
        wrong[31] ^= 1;
        assert!(!psk.is_proved(&client, &host, &session, &wrong));
    }
}
