//! Noise handshakes, and the sealing of records and datagrams. (Skeleton: signatures to keep.)
use zeroize::Zeroizing;

/// A static X25519 public key; shown as 52 lower-case base32 letters.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PublicKey(pub [u8; 32]);
impl std::fmt::Debug for PublicKey {
    fn fmt(&self, _f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        todo!()
    }
}
impl std::fmt::Display for PublicKey {
    fn fmt(&self, _f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        todo!()
    }
}
impl std::str::FromStr for PublicKey {
    type Err = SecureError;
    fn from_str(_s: &str) -> Result<Self, SecureError> {
        todo!()
    }
}

/// A static X25519 key pair.
#[derive(Clone)]
pub struct StaticKey {
    #[expect(dead_code)]
    private: Zeroizing<[u8; 32]>,
    public: PublicKey,
}
impl StaticKey {
    /// From 32 random bytes.
    pub fn from_private(_private: Zeroizing<[u8; 32]>) -> Self {
        todo!()
    }
    /// The public half.
    pub fn public(&self) -> PublicKey {
        self.public
    }
}

/// A pre-shared key of a handshake.
#[derive(Clone)]
pub struct Psk(pub Zeroizing<[u8; 32]>);
impl Psk {
    /** 32 zero bytes: no invite. */
    pub fn none() -> Self {
        Psk(Zeroizing::new([0; 32]))
    }
}
impl std::fmt::Debug for Psk {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Psk(..)")
    }
}

/// What can go wrong with sealed or signed bytes.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SecureError {
    /// The handshake message does not open.
    #[error("the handshake does not open with these keys")]
    Handshake,
    /// A record or datagram does not open.
    #[error("the seal is broken")]
    Seal,
    /// Text that is no key.
    #[error("not a key: {0}")]
    Key(String),
}

/// What a handshake is for: part of its prologue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /** Client to server. */
    Server,
    /** Peer to peer, through the server. */
    Peer,
    /** On a TCP connection. */
    Link,
}

/// Initiator of `Noise_IKpsk2_25519_AESGCM_SHA256`.
pub struct Initiator(());
impl Initiator {
    /// Begins; `seed` makes the ephemeral key, `context` is bound into the prologue.
    pub fn new(
        _seed: [u8; 32],
        _me: &StaticKey,
        _them: &PublicKey,
        _purpose: Purpose,
        _context: &[u8],
        _psk: &Psk,
    ) -> Self {
        todo!()
    }
    /// Message 1.
    pub fn write(&mut self, _payload: &[u8]) -> Vec<u8> {
        todo!()
    }
    /// Reads message 2: its payload and the secrets.
    pub fn read(self, _message: &[u8]) -> Result<(Vec<u8>, Secrets), SecureError> {
        todo!()
    }
}

/// Responder.
pub struct Responder(());
impl Responder {
    /// Reads message 1: its payload.
    pub fn read(
        _seed: [u8; 32],
        _me: &StaticKey,
        _purpose: Purpose,
        _context: &[u8],
        _message: &[u8],
    ) -> Result<(Self, Vec<u8>), SecureError> {
        todo!()
    }
    /// The initiator's static key.
    pub fn remote(&self) -> PublicKey {
        todo!()
    }
    /// Message 2 and the secrets.
    pub fn write(self, _psk: &Psk, _payload: &[u8]) -> (Vec<u8>, Secrets) {
        todo!()
    }
}

/// What a finished handshake gives.
pub struct Secrets(());
impl Secrets {
    /// Keys for datagrams.
    pub fn datagram(&self) -> DatagramKeys {
        todo!()
    }
    /// Keys for session records of the epoch.
    pub fn epoch(&self) -> EpochKeys {
        todo!()
    }
    /// Keys for link records.
    pub fn link(&self) -> LinkKeys {
        todo!()
    }
    /// A pre-shared key for later handshakes.
    pub fn psk(&self, _label: &str) -> Psk {
        todo!()
    }
}

/// One direction's AES-256-GCM key, with its schedule expanded.
pub struct SealKey(());
impl SealKey {
    /** Seals in place; returns the tag. */
    pub fn seal(&self, _counter: u64, _aad: &[u8], _body: &mut [u8]) -> [u8; 16] {
        todo!()
    }
}
/// The other direction's.
pub struct OpenKey(());
impl OpenKey {
    /** Opens in place a body with its tag behind it; returns the plain part. */
    pub fn open<'a>(
        &self,
        _counter: u64,
        _aad: &[u8],
        _body: &'a mut [u8],
    ) -> Result<&'a mut [u8], SecureError> {
        todo!()
    }
}

/// Keys of session records.
pub struct EpochKeys {
    /** Ours. */
    pub seal: SealKey,
    /** Theirs. */
    pub open: OpenKey,
}
impl std::fmt::Debug for EpochKeys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("EpochKeys(..)")
    }
}
/// Keys of link records.
pub struct LinkKeys {
    /** Ours. */
    pub seal: SealKey,
    /** Theirs. */
    pub open: OpenKey,
}
/// Keys of datagrams: raw, expanded for each datagram, so that a server can hold a million.
pub struct DatagramKeys(());
impl DatagramKeys {
    /// Seals a body behind its header (header is the associated data): the whole datagram.
    pub fn seal(&self, _index: u32, _counter: u64, _body: &[u8]) -> Vec<u8> {
        todo!()
    }
    /// Opens.
    pub fn open(&self, _index: u32, _counter: u64, _sealed: &[u8]) -> Result<Vec<u8>, SecureError> {
        todo!()
    }
}

/// A nominated link: what the session needs of it.
pub struct EstablishedLink {
    /// Number of the link, chosen by the initiator, rising from 1.
    pub epoch: u32,
    /// Keys for session records sealed from now on.
    pub epoch_keys: EpochKeys,
    /// Keys for this link's own records.
    pub link_keys: LinkKeys,
    /// Counter of the next link record that this side seals (NOMINATE has used 0 of the initiator's).
    pub next_seal: u64,
    /// Counter of the next link record that this side opens.
    pub next_open: u64,
}
impl std::fmt::Debug for EstablishedLink {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "EstablishedLink({})", self.epoch)
    }
}
