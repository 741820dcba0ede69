//! The two messages of the handshake, and the keys that come out.

use std::fmt;

use aws_lc_rs::hkdf;
use snow::{Builder, HandshakeState};
use zeroize::Zeroizing;

use super::{
    DatagramKeys, EpochKeys, LinkKeys, OpenKey, Psk, PublicKey, SealKey, SecureError, StaticKey,
    resolver::Resolver,
};
use crate::wire::VERSION;

const PATTERN: &str = "Noise_IKpsk2_25519_AESGCM_SHA256";

/// Largest payload of a handshake message: far above a datagram, far below Noise's limit of 65535 bytes
/// for the whole message.
pub const MAX_PAYLOAD: usize = 32 * 1024;

/// Bytes of message 1 besides its payload: ephemeral key, static key with its tag, tag.
const MESSAGE_1: usize = 32 + 48 + 16;

/// Bytes of message 2 besides its payload: ephemeral key, tag.
const MESSAGE_2: usize = 32 + 16;

/// What a handshake is for: part of its prologue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// Client to server. Context: the cookie.
    Server,
    /// Peer to peer, through the server. Context: empty.
    Peer,
    /// On a TCP connection. Context: the session's identifier.
    Link,
}

/// Initiator of `Noise_IKpsk2_25519_AESGCM_SHA256`.
pub struct Initiator(Box<HandshakeState>);

impl Initiator {
    /// Begins; `seed` makes the ephemeral key (32 fresh random bytes for each handshake), `context` is
    /// bound into the prologue.
    pub fn new(
        seed: [u8; 32],
        me: &StaticKey,
        them: &PublicKey,
        purpose: Purpose,
        context: &[u8],
        psk: &Psk,
    ) -> Self {
        let state = builder(seed)
            .local_private_key(&**me.private())
            .and_then(|b| {
                b.remote_public_key(&them.0)?
                    .psk(2, &psk.0)?
                    .prologue(&prologue(purpose, context))?
                    .build_initiator()
            })
            .expect("everything that the pattern needs is set, once");
        Initiator(Box::new(state))
    }

    /// Message 1: 96 bytes more than its payload.
    ///
    /// Towards a key of small order (see [`PublicKey::is_usable`]) the message is noise that nobody can
    /// read, and [`read`](Self::read) fails whatever comes.
    ///
    /// # Panics
    /// A payload above [`MAX_PAYLOAD`], or a second call: both are mistakes of the program.
    pub fn write(&mut self, payload: &[u8]) -> Vec<u8> {
        assert!(payload.len() <= MAX_PAYLOAD, "a handshake payload of {} bytes", payload.len());
        assert!(self.0.is_my_turn(), "message 1 is written once");
        let mut message = vec![0; MESSAGE_1 + payload.len()];
        // The only failure left is that of an agreement. The state stays where it is, waiting to write,
        // so that it reads nothing.
        let _ = self.0.write_message(payload, &mut message);
        message
    }

    /// Reads message 2: its payload and the secrets.
    ///
    /// # Errors
    /// [`SecureError::Handshake`]: not from the holder of the key, another pre-shared key, or damaged.
    pub fn read(mut self, message: &[u8]) -> Result<(Vec<u8>, Secrets), SecureError> {
        self.try_read(message)
    }

    /// As [`read`](Self::read), for messages that anybody could have sent: after an error the true one
    /// can still be read.
    ///
    /// # Errors
    /// As for [`read`](Self::read), and always after a success.
    pub fn try_read(&mut self, message: &[u8]) -> Result<(Vec<u8>, Secrets), SecureError> {
        let payload = read_message(&mut self.0, message)?;
        Ok((payload, Secrets::of(&mut self.0)))
    }
}

/// Responder.
pub struct Responder {
    state: Box<HandshakeState>,
    remote: PublicKey,
}

impl Responder {
    /// Reads message 1: its payload.
    ///
    /// # Errors
    /// [`SecureError::Handshake`]: not meant for this key, purpose or context, or damaged. A replay of
    /// an old message is *not* an error; only message 2's reader is alive for certain.
    pub fn read(
        seed: [u8; 32],
        me: &StaticKey,
        purpose: Purpose,
        context: &[u8],
        message: &[u8],
    ) -> Result<(Self, Vec<u8>), SecureError> {
        let mut state = builder(seed)
            .local_private_key(&**me.private())
            .and_then(|b| b.prologue(&prologue(purpose, context))?.build_responder())
            .expect("everything that the pattern needs is set, once");
        let payload = read_message(&mut state, message)?;
        let remote = state.get_remote_static().and_then(|key| key.try_into().ok());
        let remote = PublicKey(remote.ok_or(SecureError::Handshake)?);
        Ok((Responder { state: Box::new(state), remote }, payload))
    }

    /// The initiator's static key.
    pub fn remote(&self) -> PublicKey {
        self.remote
    }

    /// Message 2 (48 bytes more than its payload) and the secrets. That the initiator has the same
    /// pre-shared key shows only when something that it sealed opens.
    ///
    /// # Panics
    /// A payload above [`MAX_PAYLOAD`], a mistake of the program.
    pub fn write(mut self, psk: &Psk, payload: &[u8]) -> (Vec<u8>, Secrets) {
        assert!(payload.len() <= MAX_PAYLOAD, "a handshake payload of {} bytes", payload.len());
        let mut message = vec![0; MESSAGE_2 + payload.len()];
        self.state
            .set_psk(2, &*psk.0)
            .and_then(|()| self.state.write_message(payload, &mut message))
            // Both keys of the initiator have agreed to something other than zero in message 1.
            .expect("after message 1 nothing is left that could fail");
        (message, Secrets::of(&mut self.state))
    }
}

/// What a finished handshake gives. Everything in it is derived by HKDF-SHA256 from both of Noise's
/// split keys, with the handshake hash as salt and a label for each use and direction.
pub struct Secrets {
    prk: hkdf::Prk,
    initiator: bool,
}

impl Secrets {
    fn of(state: &mut HandshakeState) -> Self {
        let (first, second) = state.dangerously_get_raw_split();
        let (first, second) = (Zeroizing::new(first), Zeroizing::new(second));
        let mut both = Zeroizing::new([0; 64]);
        both[..32].copy_from_slice(&*first);
        both[32..].copy_from_slice(&*second);
        let prk = hkdf::Salt::new(hkdf::HKDF_SHA256, state.get_handshake_hash()).extract(&*both);
        Secrets { prk, initiator: state.is_initiator() }
    }

    /// Keys for datagrams.
    pub fn datagram(&self) -> DatagramKeys {
        DatagramKeys::new(self.derive("datagram", "secret"), self.initiator)
    }

    /// Keys for session records of the epoch.
    pub fn epoch(&self) -> EpochKeys {
        let (seal, open) = self.both_directions("epoch");
        EpochKeys { seal: SealKey::new(&seal), open: OpenKey::new(&open) }
    }

    /// Keys for link records.
    pub fn link(&self) -> LinkKeys {
        let (seal, open) = self.both_directions("link");
        LinkKeys { seal: SealKey::new(&seal), open: OpenKey::new(&open) }
    }

    /// A pre-shared key for later handshakes, the same on both sides.
    pub fn psk(&self, label: &str) -> Psk {
        Psk(self.derive("psk", label))
    }

    /// Our direction's key, then theirs.
    fn both_directions(&self, usage: &str) -> (Zeroizing<[u8; 32]>, Zeroizing<[u8; 32]>) {
        let [from_initiator, from_responder] = DIRECTIONS.map(|direction| self.derive(usage, direction));
        if self.initiator { (from_initiator, from_responder) } else { (from_responder, from_initiator) }
    }

    fn derive(&self, usage: &str, label: &str) -> Zeroizing<[u8; 32]> {
        derive(&self.prk, usage, label)
    }
}

/// The labels of what the initiator seals, and of what the responder does.
pub(super) const DIRECTIONS: [&str; 2] = ["initiator to responder", "responder to initiator"];

/// 32 bytes of HKDF-SHA256.
pub(super) fn derive(prk: &hkdf::Prk, usage: &str, label: &str) -> Zeroizing<[u8; 32]> {
    // No usage holds a zero byte, so no two pairs of usage and label run together.
    let info = [b"punchtunnel\0", usage.as_bytes(), b"\0", label.as_bytes()];
    let mut key = Zeroizing::new([0; 32]);
    prk.expand(&info, hkdf::HKDF_SHA256)
        .and_then(|okm| okm.fill(&mut *key))
        .expect("32 bytes are within what HKDF can give");
    key
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
show_nothing!(Initiator, Responder, Secrets);

fn builder<'a>(seed: [u8; 32]) -> Builder<'a> {
    let params = PATTERN.parse().expect("the pattern is one that snow knows");
    Builder::with_resolver(params, Box::new(Resolver::new(seed)))
}

fn prologue(purpose: Purpose, context: &[u8]) -> Vec<u8> {
    let purpose = match purpose {
        Purpose::Server => 1,
        Purpose::Peer => 2,
        Purpose::Link => 3,
    };
    [b"punchtunnel", &[VERSION, purpose][..], context].concat()
}

fn read_message(state: &mut HandshakeState, message: &[u8]) -> Result<Vec<u8>, SecureError> {
    // The payload is shorter than its message.
    let mut payload = vec![0; message.len()];
    let length = state.read_message(message, &mut payload).map_err(|_| SecureError::Handshake)?;
    payload.truncate(length);
    Ok(payload)
}

#[cfg(test)]
mod tests;
