//! Noise handshakes, and the sealing of records and datagrams.
//!
//! One pattern serves everywhere, `Noise_IKpsk2_25519_AESGCM_SHA256`: a client to the server, a peer to
//! a peer, and again on each TCP link. What differs is the [`Purpose`], the context bound into the
//! prologue, and the pre-shared key. A finished handshake gives [`Secrets`], from which the keys for
//! [datagrams](DatagramKeys), [session records](EpochKeys), [link records](LinkKeys) and later
//! handshakes are derived, each under a label of its own.
//!
//! With psk2 the initiator knows from message 2 that the responder has the pre-shared key. The responder
//! knows the same of the initiator only from the first thing that opens under the derived keys:
//! **nothing is granted before that.** That it is worth answering an invite at all shows [`Psk::prove`] in message 1.
//!
//! All arithmetic is aws-lc-rs's; snow only orders it. No clock and no random source: ephemeral keys
//! come from a seed that the caller draws anew for each handshake.

#[cfg(test)]
mod attacks;
mod generator;
mod handshake;
mod key;
mod link;
mod resolver;
mod seal;

pub(crate) use generator::Generator;
pub use handshake::{Initiator, MAX_PAYLOAD, Purpose, Responder, Secrets};
pub use key::{Psk, PublicKey, StaticKey};
pub use link::{EstablishedLink, LinkInitiator, LinkProgress, LinkResponder, MAX_LINK_MESSAGE, MAX_SURPLUS};
pub use seal::{DatagramKeys, EpochKeys, LinkKeys, OpenKey, SealKey};

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
