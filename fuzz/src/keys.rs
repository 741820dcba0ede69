//! Keys, and what handshakes give: made once, because a handshake takes longer than everything else in a script.

use std::sync::LazyLock;

use punchtunnel::secure::{EstablishedLink, Initiator, Psk, Purpose, Responder, Secrets, StaticKey};
use zeroize::Zeroizing;

/// Handshakes that differ; links of a session take them in turn.
const DIFFERENT: usize = 8;

static KEYS: LazyLock<[StaticKey; 16]> =
    LazyLock::new(|| std::array::from_fn(|n| StaticKey::from_private(Zeroizing::new([n as u8 + 1; 32]))));

static SECRETS: LazyLock<[[Secrets; 2]; DIFFERENT]> =
    LazyLock::new(|| std::array::from_fn(|n| handshake(n as u8)));

/// The key of that number, below 16.
pub(crate) fn key(number: usize) -> &'static StaticKey {
    &KEYS[number]
}

/// What the initiator and the responder of a handshake have in common.
pub(crate) fn secrets(number: usize) -> &'static [Secrets; 2] {
    &SECRETS[number % DIFFERENT]
}

/// Both ends of a link, as if just nominated.
pub(crate) fn link(epoch: u32) -> [EstablishedLink; 2] {
    let [ours, theirs] = secrets(epoch as usize);
    [(ours, 1, 0), (theirs, 0, 1)].map(|(secrets, next_seal, next_open)| EstablishedLink {
        epoch,
        epoch_keys: secrets.epoch(),
        link_keys: secrets.link(),
        next_seal,
        next_open,
    })
}

fn handshake(number: u8) -> [Secrets; 2] {
    let (ours, theirs, psk) = (key(1), key(2), Psk::none());
    let mut initiator = Initiator::new([number; 32], ours, &theirs.public(), Purpose::Peer, b"", &psk);
    let message = initiator.write(b"");
    let Ok((responder, _)) = Responder::read([!number; 32], theirs, Purpose::Peer, b"", &message) else {
        panic!("a handshake with oneself")
    };
    let (reply, responder) = responder.write(&psk, b"");
    let Ok((_, initiator)) = initiator.read(&reply) else { panic!("a handshake with oneself") };
    [initiator, responder]
}
