//! What an attempt may cost, and where it may go: nobody is made a weapon of.

use std::net::{IpAddr, SocketAddr};

/// How much a user lets an attempt spend: `--punch-effort`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub enum Effort {
    /// For small routers and networks that notice: random NATs are mostly missed.
    Low,
    /// What nearly every pair that can be punched takes.
    #[default]
    Normal,
    /// For blocks that leave half of all tries without a meeting.
    High,
}

impl Effort {
    /// What it allows.
    pub const fn budget(self) -> Budget {
        match self {
            Effort::Low => Budget { openings: 256, syns_per_second: 512, block_percent: 25, seconds: 10 },
            Effort::Normal => Budget::FULL,
            Effort::High => Budget { openings: 2048, syns_per_second: 4096, block_percent: 85, seconds: 20 },
        }
    }
}

/// How much a round may spend. The openings are part of what both sides plan from, so they are agreed:
/// the initiator sends its own in `Start`, the smaller of both counts; the rest bounds this side only
/// ([`Budget::agreed`]). A side that can afford less leaves openings out at the end of its list, where the
/// unlikeliest are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Budget {
    /// Connections that a side opens in one round, each with a socket of its own. Redialling after a
    /// refusal comes on top, bounded by `syns_per_second` and [`Plan::redials`](super::Plan::redials).
    pub openings: u16,
    /// First SYNs of a round within its opening window of one second, redials included. The kernel's own
    /// repetitions come on top, as many again each second, until the losers are closed.
    pub syns_per_second: u16,
    /// Part of a carrier NAT's block of ports that one attempt may use up, percent. The block is all that
    /// the customer has, and what is used up stays so for minutes: more than half is felt by others in
    /// the house.
    pub block_percent: u8,
    /// Longest attempt, all its rounds together.
    pub seconds: u8,
}

impl Budget {
    /// Towards the address that the peer's authentic datagrams come from, at normal effort. 1024 ports
    /// against 256 sockets are what a random NAT takes (98 %), leave a single local port within 9 ms, and
    /// are under the number of half-open connections at which home routers give up (a few thousand).
    pub const FULL: Budget = Budget { openings: 1024, syns_per_second: 2048, block_percent: 50, seconds: 20 };

    /// Towards another address that the peer names as its own: it might be somebody else's. Enough for a
    /// counter at ordinary rates.
    pub const UNPROVED: Budget = Budget { openings: 64, syns_per_second: 128, ..Budget::FULL };

    /// This side's budget with no more openings than the other side's.
    pub fn agreed(self, theirs: u16) -> Budget {
        Budget { openings: self.openings.min(theirs), ..self }
    }

    /// How often each of so many openings may be repeated within the opening window.
    pub fn redials(self, openings: usize) -> u8 {
        let times = usize::from(self.syns_per_second).checked_div(openings).unwrap_or(0);
        u8::try_from(times.saturating_sub(1)).unwrap_or(u8::MAX)
    }
}

/// Whether `target` may be opened to as the peer's public address. Never a multicast, broadcast or
/// unspecified address; loopback, private, shared (100.64/10), link-local and unique local ones only
/// when `server`, the rendezvous server as configured, was reached at such an address itself (a lab, a
/// demo, a network of one's own): otherwise a peer could have us knock at doors inside our own network.
pub fn may_open_to(target: IpAddr, server: IpAddr) -> bool {
    match reach(target) {
        Reach::Nowhere => false,
        Reach::Public => true,
        Reach::Local => reach(server) == Reach::Local,
    }
}

/// Whether `target` may be tried as the peer's address inside a LAN, by a plain connect: a local address,
/// where the server is not on this very machine (there the punch itself stays inside).
pub fn may_connect_in_lan(target: SocketAddr, server: IpAddr) -> bool {
    let local = reach(target.ip()) == Reach::Local && !target.ip().to_canonical().is_loopback();
    local && target.port() != 0 && !server.to_canonical().is_loopback()
}

#[derive(PartialEq)]
enum Reach {
    Public,
    Local,
    Nowhere,
}

fn reach(address: IpAddr) -> Reach {
    let (nowhere, local) = match address.to_canonical() {
        IpAddr::V4(a) => {
            let [first, second, ..] = a.octets();
            let shared = first == 100 && second & 0xc0 == 64;
            (
                first == 0 || first >= 240 || a.is_multicast(),
                a.is_loopback() || a.is_private() || a.is_link_local() || shared,
            )
        }
        IpAddr::V6(a) => (
            a.is_unspecified() || a.is_multicast(),
            a.is_loopback() || a.is_unique_local() || a.is_unicast_link_local(),
        ),
    };
    match (nowhere, local) {
        (true, _) => Reach::Nowhere,
        (_, true) => Reach::Local,
        _ => Reach::Public,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn may(target: &str, server: &str) -> bool {
        may_open_to(target.parse().unwrap(), server.parse().unwrap())
    }

    #[test]
    fn a_peer_cannot_send_us_into_our_own_network() {
        for target in ["127.0.0.1", "10.0.0.1", "192.168.1.1", "100.64.0.1", "169.254.1.1", "::1", "fd00::1"]
        {
            assert!(!may(target, "93.184.216.34"), "{target}");
            assert!(may(target, "10.9.9.9"), "{target}");
        }
        for target in ["0.0.0.0", "255.255.255.255", "224.0.0.1", "::", "ff02::1", "240.0.0.1"] {
            assert!(!may(target, "10.9.9.9"), "{target}");
        }
        assert!(may("93.184.216.34", "93.184.216.35"));
        assert!(may("93.184.216.34", "10.0.0.1"));
        assert!(may("2606:2800::1", "2606:2800::2"));
        assert!(!may("::ffff:10.0.0.1", "93.184.216.34"), "a mapped address is what it maps");
    }

    #[test]
    fn more_effort_is_more_of_everything_and_less_is_agreed_on() {
        let [low, normal, high] = [Effort::Low, Effort::Normal, Effort::High].map(Effort::budget);
        for (less, more) in [(low, normal), (normal, high)] {
            assert!(less.openings < more.openings && less.syns_per_second < more.syns_per_second);
            assert!(less.block_percent < more.block_percent && less.seconds <= more.seconds);
            assert_eq!(more.agreed(less.openings).openings, less.openings);
            assert_eq!(less.agreed(more.openings), less);
        }
        assert_eq!(Effort::default().budget(), Budget::FULL);
        assert_eq!(
            (Budget::FULL.redials(1024), Budget::FULL.redials(1), Budget::FULL.redials(0)),
            (1, 255, 0)
        );
    }
}
