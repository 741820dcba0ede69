//! Which keys session records are sealed and opened with.
//!
//! The number of a link is the epoch of the keys that its handshake gave; epoch 0 has the keys of the
//! peers' first handshake, so that there are keys before there is a link.
//!
//! - A side seals under n only after the peer's RESUME on link n said that it can open them.
//! - So the epochs of successive records never fall, and whoever has opened a record of epoch n forgets
//!   all older keys. RESUME names the oldest epoch that may still come, which forgets them where no
//!   record does.
//! - Links may die one after the other before a RESUME gets through; the keys of each must be kept then,
//!   because the peer may have sealed with them. After [`MAX_OPENING`] of them no new ones are taken
//!   ("not fresh" in RESUME), and the peer goes on with those it has.

use crate::secure::{EpochKeys, OpenKey, SealKey};

/// Most epochs whose records can be opened at a time; each costs about 1 KiB. One or two are usual.
const MAX_OPENING: usize = 32;

/// Keys of session records, by epoch.
#[derive(Debug)]
pub(super) struct Keys {
    sealing: (u32, SealKey),
    /// Of the attached link, until the peer's RESUME on it.
    waiting: Option<(u32, SealKey)>,
    /// Oldest first.
    opening: Vec<(u32, OpenKey)>,
}

impl Keys {
    /// Epoch 0.
    pub(super) fn new(keys: EpochKeys) -> Self {
        Keys { sealing: (0, keys.seal), waiting: None, opening: vec![(0, keys.open)] }
    }

    /// A link with a higher number than any before. `true` if the peer may seal with its keys.
    pub(super) fn attach(&mut self, epoch: u32, keys: EpochKeys) -> bool {
        self.waiting = Some((epoch, keys.seal));
        let fresh = self.opening.len() < MAX_OPENING;
        if fresh {
            self.opening.push((epoch, keys.open));
        }
        fresh
    }

    /// The peer's RESUME on the attached link. `fresh`: it can open records of the link's epoch.
    /// `oldest`: no record of an older epoch comes any more.
    pub(super) fn resumed(&mut self, oldest: u32, fresh: bool) {
        if let Some(keys) = self.waiting.take()
            && fresh
        {
            self.sealing = keys;
        }
        self.forget_below(oldest);
    }

    /// The key for the next record, and its epoch.
    pub(super) fn sealing(&self) -> (u32, &SealKey) {
        (self.sealing.0, &self.sealing.1)
    }

    /// The key for a received record.
    pub(super) fn opening(&self, epoch: u32) -> Option<&OpenKey> {
        self.opening.iter().rev().find(|(number, _)| *number == epoch).map(|(_, key)| key)
    }

    /// No record of an older epoch comes any more. The newest key is always kept.
    pub(super) fn forget_below(&mut self, epoch: u32) {
        let keep_from = self.opening.iter().position(|(number, _)| *number >= epoch);
        let keep_from = keep_from.unwrap_or(self.opening.len().saturating_sub(1));
        self.opening.drain(..keep_from);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::session::testing;

    fn keys() -> Keys {
        Keys::new(epoch(0))
    }

    fn epoch(number: u32) -> EpochKeys {
        testing::Keys::new(number).epoch().0
    }

    fn known(keys: &Keys) -> Vec<u32> {
        keys.opening.iter().map(|(number, _)| *number).collect()
    }

    #[test]
    fn nothing_is_sealed_under_an_epoch_before_the_peer_resumed_on_it() {
        let mut keys = keys();
        assert!(keys.attach(1, epoch(1)));
        assert_eq!(keys.sealing().0, 0);
        assert!(keys.opening(1).is_some(), "the peer may be faster");
        keys.resumed(0, true);
        assert_eq!(keys.sealing().0, 1);
        keys.attach(2, epoch(2));
        keys.attach(3, epoch(3));
        keys.resumed(1, true);
        assert_eq!(keys.sealing().0, 3);
        assert_eq!(known(&keys), [1, 2, 3]);
    }

    #[test]
    fn older_keys_are_forgotten_once_nothing_of_them_can_come() {
        let mut keys = keys();
        for number in 1..=4 {
            keys.attach(number, epoch(number));
        }
        keys.forget_below(2);
        assert_eq!(known(&keys), [2, 3, 4]);
        keys.forget_below(2);
        assert_eq!(known(&keys), [2, 3, 4]);
        keys.forget_below(u32::MAX);
        assert_eq!(known(&keys), [4]);
    }

    #[test]
    fn links_that_die_in_a_row_do_not_pile_up_keys() {
        let mut keys = keys();
        let fresh: Vec<bool> = (1..=100).map(|number| keys.attach(number, epoch(number))).collect();
        assert_eq!(keys.opening.len(), MAX_OPENING);
        assert!(fresh[..MAX_OPENING - 1].iter().all(|fresh| *fresh));
        assert!(fresh[MAX_OPENING - 1..].iter().all(|fresh| !*fresh));
        keys.resumed(5, false);
        assert_eq!(keys.sealing().0, 0, "the peer cannot open epoch 100");
        assert!(keys.attach(101, epoch(101)), "there is room again");
    }
}
