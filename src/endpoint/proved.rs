//! Addresses at which the other peer is known to receive, and how much is sent to any others.
//!
//! That an authentic datagram came from an address proves nothing: whoever is let in may write any source on
//! what it sends. An address is proved by a ping that went there and nowhere else, whose nonce came back from
//! there; or by a link, whose handshake went both ways.

use std::{
    net::IpAddr,
    time::{Duration, Instant},
};

/// A proof counts for so long. An open path is asked every 20 s and a link proves its address until it dies, so
/// what is older belongs to a network that the peer has left, and maybe to somebody else by now.
const LIVES: Duration = Duration::from_secs(120);

/// Addresses that are remembered: both families, before and after a move.
const MOST: usize = 4;

/// Pings and pongs to addresses that are not proved: at most so many ...
const MOST_TO_OTHERS: u8 = 64;

/// ... within this time. Two ladders of pings take twenty-four; a peer that forges sources gets no more than
/// it sends, and little.
const WITHIN: Duration = Duration::from_secs(10);

/// What is known of one peer's addresses.
#[derive(Default)]
pub(super) struct Proved {
    addresses: Vec<(IpAddr, Instant)>,
    /// Since when it is counted what others were sent, and how much it is.
    others: Option<(Instant, u8)>,
}

impl Proved {
    /// The peer receives there.
    pub(super) fn add(&mut self, now: Instant, address: IpAddr) {
        self.addresses.retain(|(known, _)| *known != address);
        self.addresses.insert(0, (address, now));
        self.addresses.truncate(MOST);
    }

    /// The proofs of the same peer's line before this one.
    pub(super) fn inherit(&mut self, older: Proved) {
        let fresh = std::mem::take(&mut self.addresses);
        self.addresses = older.addresses;
        for (address, at) in fresh.into_iter().rev() {
            self.add(at, address);
        }
    }

    /// Those that count now.
    pub(super) fn addresses(&self, now: Instant) -> impl Iterator<Item = IpAddr> {
        self.addresses.iter().filter(move |(_, at)| *at + LIVES > now).map(|(address, _)| *address)
    }

    /// Whether a ping or pong may go there: any number to a proved address, few to others.
    pub(super) fn may_send(&mut self, now: Instant, to: IpAddr) -> bool {
        if self.addresses(now).any(|address| address == to) {
            return true;
        }
        let (since, sent) = self.others.filter(|(since, _)| *since + WITHIN > now).unwrap_or((now, 0));
        self.others = Some((since, sent.saturating_add(1)));
        sent < MOST_TO_OTHERS
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::start;

    const SECOND: Duration = Duration::from_secs(1);

    fn address(last: u8) -> IpAddr {
        [192, 0, 2, last].into()
    }

    #[test]
    fn a_proof_ages_and_is_renewed_and_few_are_kept() {
        let (t, mut proved) = (start(), Proved::default());
        proved.add(t, address(1));
        proved.add(t + SECOND, address(2));
        proved.add(t + LIVES - SECOND, address(1));
        let now = t + LIVES + SECOND;
        assert_eq!(proved.addresses(now).collect::<Vec<_>>(), [address(1)]);
        let mut next = Proved::default();
        next.add(now, address(3));
        next.inherit(proved);
        assert_eq!(next.addresses(now).collect::<Vec<_>>(), [address(3), address(1)]);
        for last in 10..20 {
            next.add(now, address(last));
        }
        assert_eq!(next.addresses(now).count(), MOST);
    }

    #[test]
    fn little_is_sent_to_an_address_that_is_not_proved() {
        let (t, mut proved) = (start(), Proved::default());
        proved.add(t, address(1));
        let sent = |proved: &mut Proved, now, to| (0..1000).filter(|_| proved.may_send(now, to)).count();
        assert_eq!(sent(&mut proved, t, address(1)), 1000);
        assert_eq!(sent(&mut proved, t, address(2)), usize::from(MOST_TO_OTHERS));
        assert_eq!(sent(&mut proved, t + SECOND, address(3)), 0, "all others together");
        assert_eq!(sent(&mut proved, t + WITHIN, address(3)), usize::from(MOST_TO_OTHERS));
    }
}
