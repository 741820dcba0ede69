//! The primitives of Noise, from aws-lc-rs, and ephemeral keys from a seed.
//!
//! snow is built without its own primitives: what is not here does not exist.

use aws_lc_rs::{agreement, digest};
use rand::Rng;
use snow::{
    Error,
    params::{CipherChoice, DHChoice, HashChoice},
    resolvers::CryptoResolver,
    types::{Cipher, Dh, Hash, Random},
};
use zeroize::Zeroizing;

use super::{
    generator::Generator,
    seal::{OpenKey, SealKey, TAG},
};

/// Resolves X25519, AES-256-GCM and SHA-256; randomness is a generator seeded once for each handshake.
pub(super) struct Resolver {
    seed: Zeroizing<[u8; 32]>,
}

impl Resolver {
    pub(super) fn new(seed: [u8; 32]) -> Self {
        Resolver { seed: Zeroizing::new(seed) }
    }
}

/// The public key of a private one.
pub(super) fn public_key(private: &[u8; 32]) -> [u8; 32] {
    #[cfg(fuzzing)]
    if let Some(public) = remembered::public_key(private) {
        return public;
    }
    let public = load(private).compute_public_key().expect("an X25519 private key has a public key");
    public.as_ref().try_into().expect("an X25519 public key has 32 bytes")
}

/// The shared secret; `None` where it would be zero, that is, for a public point of small order: aws-lc
/// refuses those itself (RFC 7748 §6.1), and a test below holds it to that.
pub(super) fn agree(private: &[u8; 32], public: &[u8; 32]) -> Option<Zeroizing<[u8; 32]>> {
    #[cfg(fuzzing)]
    return remembered::agree(private, public);
    #[cfg(not(fuzzing))]
    compute(private, public)
}

fn compute(private: &[u8; 32], public: &[u8; 32]) -> Option<Zeroizing<[u8; 32]>> {
    let public = agreement::UnparsedPublicKey::new(&agreement::X25519, public);
    agreement::agree(&load(private), public, (), |secret| secret.try_into().map(Zeroizing::new).map_err(drop))
        .ok()
}

/// What was computed before: the keys of fuzz targets come from fixed seeds, and ten agreements a handshake take more
/// time than everything that is to be tested.
#[cfg(fuzzing)]
mod remembered {
    use std::{cell::RefCell, collections::BTreeMap};

    use zeroize::Zeroizing;

    const MOST: usize = 4096;

    type Known = BTreeMap<([u8; 32], [u8; 32]), Option<Zeroizing<[u8; 32]>>>;

    thread_local!(static KNOWN: RefCell<Known> = RefCell::default());

    pub(super) fn agree(private: &[u8; 32], public: &[u8; 32]) -> Option<Zeroizing<[u8; 32]>> {
        KNOWN.with_borrow_mut(|known| {
            if known.len() >= MOST {
                known.clear();
            }
            known.entry((*private, *public)).or_insert_with(|| super::compute(private, public)).clone()
        })
    }

    /// The public key is the agreement with the base point.
    pub(super) fn public_key(private: &[u8; 32]) -> Option<[u8; 32]> {
        let mut base = [0; 32];
        base[0] = 9;
        agree(private, &base).map(|public| *public)
    }
}

fn load(private: &[u8; 32]) -> agreement::PrivateKey {
    agreement::PrivateKey::from_private_key(&agreement::X25519, private)
        .expect("any 32 bytes are an X25519 private key")
}

impl CryptoResolver for Resolver {
    fn resolve_rng(&self) -> Option<Box<dyn Random>> {
        Some(Box::new(Seeded(Generator::new(*self.seed))))
    }

    fn resolve_dh(&self, choice: &DHChoice) -> Option<Box<dyn Dh>> {
        matches!(choice, DHChoice::Curve25519).then(|| Box::new(X25519::default()) as _)
    }

    fn resolve_hash(&self, choice: &HashChoice) -> Option<Box<dyn Hash>> {
        matches!(choice, HashChoice::SHA256).then(|| Box::new(Sha256::default()) as _)
    }

    fn resolve_cipher(&self, choice: &CipherChoice) -> Option<Box<dyn Cipher>> {
        matches!(choice, CipherChoice::AESGCM).then(|| Box::new(AesGcm::default()) as _)
    }
}

/// Asked by snow for one ephemeral private key a handshake.
struct Seeded(Generator);

impl Random for Seeded {
    fn try_fill_bytes(&mut self, dest: &mut [u8]) -> Result<(), Error> {
        self.0.fill_bytes(dest);
        Ok(())
    }
}

#[derive(Default)]
struct X25519 {
    private: Zeroizing<[u8; 32]>,
    public: [u8; 32],
}

impl Dh for X25519 {
    fn name(&self) -> &'static str {
        "25519"
    }

    fn pub_len(&self) -> usize {
        32
    }

    fn priv_len(&self) -> usize {
        32
    }

    fn set(&mut self, private: &[u8]) {
        self.private.copy_from_slice(private);
        self.public = public_key(&self.private);
    }

    fn generate(&mut self, rng: &mut dyn Random) -> Result<(), Error> {
        rng.try_fill_bytes(&mut *self.private)?;
        self.public = public_key(&self.private);
        Ok(())
    }

    fn pubkey(&self) -> &[u8] {
        &self.public
    }

    fn privkey(&self) -> &[u8] {
        &*self.private
    }

    fn dh(&self, public: &[u8], out: &mut [u8]) -> Result<(), Error> {
        // snow passes buffers for the largest curve that it knows.
        let public = public.first_chunk().ok_or(Error::Dh)?;
        let secret = agree(&self.private, public).ok_or(Error::Dh)?;
        *out.first_chunk_mut().ok_or(Error::Dh)? = *secret;
        Ok(())
    }
}

struct Sha256(digest::Context);

impl Default for Sha256 {
    fn default() -> Self {
        Sha256(digest::Context::new(&digest::SHA256))
    }
}

impl Hash for Sha256 {
    fn name(&self) -> &'static str {
        "SHA256"
    }

    fn block_len(&self) -> usize {
        64
    }

    fn hash_len(&self) -> usize {
        32
    }

    fn reset(&mut self) {
        *self = Sha256::default();
    }

    fn input(&mut self, data: &[u8]) {
        self.0.update(data);
    }

    fn result(&mut self, out: &mut [u8]) {
        out[..32].copy_from_slice(self.0.clone().finish().as_ref());
    }
}

/// Both directions of one key: snow uses either, we do not know which.
struct AesGcm {
    seal: SealKey,
    open: OpenKey,
}

impl Default for AesGcm {
    fn default() -> Self {
        AesGcm { seal: SealKey::new(&[0; 32]), open: OpenKey::new(&[0; 32]) }
    }
}

impl Cipher for AesGcm {
    fn name(&self) -> &'static str {
        "AESGCM"
    }

    fn set(&mut self, key: &[u8; 32]) {
        *self = AesGcm { seal: SealKey::new(key), open: OpenKey::new(key) };
    }

    fn encrypt(&self, nonce: u64, authtext: &[u8], plaintext: &[u8], out: &mut [u8]) -> usize {
        let (body, rest) = out.split_at_mut(plaintext.len());
        body.copy_from_slice(plaintext);
        rest[..TAG].copy_from_slice(&self.seal.seal(nonce, authtext, body));
        plaintext.len() + TAG
    }

    fn decrypt(&self, nonce: u64, authtext: &[u8], sealed: &[u8], out: &mut [u8]) -> Result<usize, Error> {
        let mut body = sealed.to_vec();
        let plain = self.open.open(nonce, authtext, &mut body).map_err(|_| Error::Decrypt)?;
        out.get_mut(..plain.len()).ok_or(Error::Decrypt)?.copy_from_slice(plain);
        Ok(plain.len())
    }
}

#[cfg(test)]
mod tests {
    use data_encoding::HEXLOWER;

    use super::*;

    fn hex<const N: usize>(text: &str) -> [u8; N] {
        HEXLOWER.decode(text.as_bytes()).unwrap().try_into().unwrap()
    }

    #[test]
    fn the_agreement_of_rfc_7748_comes_out_through_the_resolver() {
        // RFC 7748 §6.1.
        let resolver = Resolver::new([0; 32]);
        let mut alice = resolver.resolve_dh(&DHChoice::Curve25519).unwrap();
        alice.set(&hex::<32>("77076d0a7318a57d3c16c17251b26645df4c4923c6e41b0d6e5e8e5b6f5a0b2c"));
        let mut bob = resolver.resolve_dh(&DHChoice::Curve25519).unwrap();
        bob.set(&hex::<32>("5dab087e624a8a4b79e17f8b83800ee66f3bb1292618b6fd1c2f8b27ff88e0eb"));
        assert_eq!(
            bob.pubkey(),
            hex::<32>("de9edb7d7b7dc1b4d35b61c2ece435373f8343c85b78674dadfc7e146f882b4f")
        );
        // §5.2, second pair: an arbitrary point with its high bit set, which must be ignored.
        let scalar = hex("4b66e9d4d1b4673c5ad22691957d6af5c11b6421e0ea01d42ca4169e7918ba0d");
        let point = hex("e5210f12786811d3f4b7959d0538ae2c31dbe7106fc03c3efc4cd549c715a493");
        let product = hex("95cbde9476e8907d7aade45cb4b873f88b595a68799fa152e6f8f7647aac7957");
        assert_eq!(agree(&scalar, &point).map(|s| *s), Some(product));

        let (mut ours, mut theirs) = ([0; 56], [0; 56]);
        alice.dh(bob.pubkey(), &mut ours).unwrap();
        bob.dh(alice.pubkey(), &mut theirs).unwrap();
        assert_eq!(ours, theirs);
    }

    #[test]
    fn points_of_small_order_are_refused() {
        // The points of order 1, 2, 4 and 8 and their encodings that are not reduced.
        for point in [
            "0000000000000000000000000000000000000000000000000000000000000000",
            "0100000000000000000000000000000000000000000000000000000000000000",
            "e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800",
            "5f9c95bca3508c24b1d0b1559c83ef5b04445cc4581c8e86d8224eddd09f1157",
            "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
            "edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
            "eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
            "0000000000000000000000000000000000000000000000000000000000000080",
        ] {
            assert_eq!(agree(&[9; 32], &hex(point)), None, "{point}");
        }
    }

    /// `Noise_IKpsk2_25519_AESGCM_SHA256` of the cacophony vectors, which Noise implementations share.
    #[test]
    fn the_published_vector_of_the_pattern_comes_out_byte_for_byte() {
        let psk: [u8; 32] = hex("54686973206973206d7920417573747269616e20706572737065637469766521");
        let prologue: [u8; 9] = hex("4a6f686e2047616c74");
        let responder_public: [u8; 32] =
            hex("31e0303fd6418d2f8c0e78b91f22e8caed0fbe48656dcf4767e4834f701b8f62");
        let build = |private: &str, ephemeral: &str, initiator: bool| {
            let private: [u8; 32] = hex(private);
            let ephemeral: [u8; 32] = hex(ephemeral);
            let params = "Noise_IKpsk2_25519_AESGCM_SHA256".parse().unwrap();
            let builder = snow::Builder::with_resolver(params, Box::new(Resolver::new([0; 32])))
                .local_private_key(&private)
                .and_then(|b| b.prologue(&prologue))
                .and_then(|b| b.psk(2, &psk))
                .unwrap()
                .fixed_ephemeral_key_for_testing_only(&ephemeral);
            if initiator {
                builder.remote_public_key(&responder_public).and_then(|b| b.build_initiator()).unwrap()
            } else {
                builder.build_responder().unwrap()
            }
        };
        let mut initiator = build(
            "e61ef9919cde45dd5f82166404bd08e38bceb5dfdfded0a34c8df7ed542214d1",
            "893e28b9dc6ca8d611ab664754b8ceb7bac5117349a4439a6b0569da977c464a",
            true,
        );
        let mut responder = build(
            "4a3acbfdb163dec651dfa3194dece676d437029c62a408b4c5ea9114246e4893",
            "bbdb4cdbd309f1a1f2e1456967fe288cadd6f712d65dc7b7793d5e63da6b375b",
            false,
        );
        let (mut message, mut payload) = ([0; 256], [0; 256]);

        let length = initiator.write_message(b"Ludwig von Mises", &mut message).unwrap();
        assert_eq!(
            HEXLOWER.encode(&message[..length]),
            "ca35def5ae56cec33dc2036731ab14896bc4c75dbb07a61f879f8e3afa4c7944\
             5a1baf339186d7867062b0dd31f5de322d370165d217939b2b7ed9e2bae78404\
             58ea65c2ce1554e0e8077fe7334c4bd514c658fd04d97b86d216f58f59714a7e\
             24144155045c8f36bed85a2cb0fd9af7"
        );
        let read = responder.read_message(&message[..length], &mut payload).unwrap();
        assert_eq!(&payload[..read], b"Ludwig von Mises");

        let length = responder.write_message(b"Murray Rothbard", &mut message).unwrap();
        assert_eq!(
            HEXLOWER.encode(&message[..length]),
            "95ebc60d2b1fa672c1f46a8aa265ef51bfe38e7ccb39ec5be34069f144808843\
             2fe8d675e949799d2a968211a66cc7ba2b0f4cad8eda3c2bd37eae737bbf88"
        );
        let read = initiator.read_message(&message[..length], &mut payload).unwrap();
        assert_eq!(&payload[..read], b"Murray Rothbard");

        let hash: [u8; 32] = hex("48c3f1eb397c797af6b139032c6074cb41282ff033ee25d5aee4a4badd3a2c3f");
        assert_eq!(initiator.get_handshake_hash(), hash);
        assert_eq!(responder.get_handshake_hash(), hash);
        assert_eq!(initiator.dangerously_get_raw_split(), responder.dangerously_get_raw_split());

        // The first transport message of the vector, sealed by our own key type with the raw split.
        let mut body = *b"F. A. Hayek";
        let tag = SealKey::new(&initiator.dangerously_get_raw_split().0).seal(0, b"", &mut body);
        assert_eq!(
            HEXLOWER.encode(&[&body[..], &tag].concat()),
            "38cbf3835c78b7802df0dd0d9640ff8575debd0cb61cfb52590da1"
        );
    }
}
