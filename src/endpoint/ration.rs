//! How often an endpoint goes to addresses where the peer is not known to be.
//!
//! A peer that lies can name any address in its prediction, a server that lies any as the peer's. What is done
//! on their word is counted, each client's key and all together, so that neither of them makes a weapon of
//! this side, and no client uses up what others need.

use std::{
    collections::VecDeque,
    net::IpAddr,
    time::{Duration, Instant},
};

use crate::secure::PublicKey;

/// So many times within some time.
pub(super) struct Ration {
    /// For one key.
    each: usize,
    /// For all keys together.
    all: usize,
    within: Duration,
    /// At most `all`.
    taken: VecDeque<(Instant, PublicKey, IpAddr)>,
}

/// What is rationed.
pub(super) struct Rations {
    /// Rounds of full effort towards an address that the peer has not proved. Where UDP is blocked, or its
    /// ports move too, no datagram can prove it before the punch. One attempt a key, two in all: 8192 SYNs
    /// in ten minutes, with which nobody is flooded. A link gives back what was taken for its address.
    pub(super) efforts: Ration,
    /// Rounds of at most [`Budget::UNPROVED`](crate::punch::Budget::UNPROVED) SYNs. An honest client begins
    /// twelve a minute at most, as a round takes more than four seconds.
    pub(super) rounds: Ration,
    /// Rounds in which the addresses of the peer's LAN are tried, at most
    /// [`MAX_LAN`](crate::wire::peer::MAX_LAN) each.
    pub(super) lans: Ration,
}

impl Default for Rations {
    fn default() -> Self {
        let minute = Duration::from_secs(60);
        Rations {
            efforts: Ration::new(4, 8, 10 * minute),
            rounds: Ration::new(16, 64, minute),
            lans: Ration::new(8, 16, minute),
        }
    }
}

impl Ration {
    fn new(each: usize, all: usize, within: Duration) -> Self {
        Ration { each, all, within, taken: VecDeque::new() }
    }

    /// Something is left for that key.
    pub(super) fn is_left(&self, now: Instant, key: &PublicKey) -> bool {
        let young = || self.taken.iter().filter(|(at, ..)| *at + self.within > now);
        young().count() < self.all && young().filter(|(_, taker, _)| taker == key).count() < self.each
    }

    /// Takes one to go to that address, if something is left.
    pub(super) fn take(&mut self, now: Instant, key: &PublicKey, address: IpAddr) -> bool {
        let within = self.within;
        self.taken.retain(|(at, ..)| *at + within > now);
        let is_left = self.is_left(now, key);
        self.taken.extend(is_left.then_some((now, *key, address)));
        is_left
    }

    /// The peer was at that address indeed.
    pub(super) fn give_back(&mut self, key: &PublicKey, address: IpAddr) {
        self.taken.retain(|(_, taker, to)| (taker, *to) != (key, address));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::start;

    const NOW: fn() -> Instant = start;

    fn taken(ration: &mut Ration, now: Instant, key: u8, address: u8) -> usize {
        (0..100).filter(|_| ration.take(now, &PublicKey([key; 32]), [192, 0, 2, address].into())).count()
    }

    #[test]
    fn no_key_uses_up_what_others_need_and_all_together_have_an_end() {
        let now = NOW();
        let mut efforts = Rations::default().efforts;
        assert_eq!(taken(&mut efforts, now, 1, 1), 4);
        assert_eq!(taken(&mut efforts, now, 2, 1), 4);
        assert_eq!(taken(&mut efforts, now, 3, 1), 0);
        let later = now + Duration::from_secs(600);
        assert!(!efforts.is_left(later - Duration::from_secs(1), &PublicKey([1; 32])));
        assert_eq!(taken(&mut efforts, later, 1, 1), 4);
        assert_eq!(efforts.taken.len(), 4, "what is over is forgotten");
    }

    #[test]
    fn an_address_that_never_answered_gives_nothing_back() {
        let now = NOW();
        let mut efforts = Rations::default().efforts;
        assert_eq!(taken(&mut efforts, now, 1, 1), 4);
        let key = PublicKey([1; 32]);
        efforts.give_back(&key, [192, 0, 2, 2].into());
        efforts.give_back(&PublicKey([2; 32]), [192, 0, 2, 1].into());
        assert!(!efforts.is_left(now, &key));
        efforts.give_back(&key, [192, 0, 2, 1].into());
        assert_eq!(taken(&mut efforts, now, 1, 1), 4);
    }
}
