//! Keys for tests, out of real handshakes.

use zeroize::Zeroizing;

use crate::secure::{
    EpochKeys, EstablishedLink, Initiator, LinkKeys, Psk, Purpose, Responder, Secrets, StaticKey,
};

/// What one handshake gave to both sides.
pub(crate) struct Keys(Secrets, Secrets);

impl Keys {
    /// Different for each number.
    pub(crate) fn new(number: u32) -> Self {
        let key = |byte| StaticKey::from_private(Zeroizing::new([byte; 32]));
        let seed = |byte| {
            let mut seed = [byte; 32];
            seed[..4].copy_from_slice(&number.to_be_bytes());
            seed
        };
        let (ours, theirs) = (key(1), key(2));
        let mut initiator =
            Initiator::new(seed(3), &ours, &theirs.public(), Purpose::Link, b"", &Psk::none());
        let first = initiator.write(b"");
        let (responder, _) = Responder::read(seed(4), &theirs, Purpose::Link, b"", &first).unwrap();
        let (second, responder) = responder.write(&Psk::none(), b"");
        let (_, initiator) = initiator.read(&second).unwrap();
        Keys(initiator, responder)
    }

    /// Keys for session records: the initiator's and the responder's.
    pub(crate) fn epoch(&self) -> (EpochKeys, EpochKeys) {
        (self.0.epoch(), self.1.epoch())
    }

    /// Keys for link records.
    pub(crate) fn link(&self) -> (LinkKeys, LinkKeys) {
        (self.0.link(), self.1.link())
    }
}

/// Both ends of the link with that number.
pub(crate) fn link(epoch: u32) -> (EstablishedLink, EstablishedLink) {
    let keys = Keys::new(epoch);
    let ((our_epoch, their_epoch), (our_link, their_link)) = (keys.epoch(), keys.link());
    (
        EstablishedLink { epoch, epoch_keys: our_epoch, link_keys: our_link, next_seal: 1, next_open: 0 },
        EstablishedLink { epoch, epoch_keys: their_epoch, link_keys: their_link, next_seal: 0, next_open: 1 },
    )
}
