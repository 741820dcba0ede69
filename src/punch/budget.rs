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
/// unspecified address, nor one in which another is wrapped (IPv4-mapped, NAT64, 6to4, Teredo): whose it is
/// nobody could say. Loopback, private, shared (100.64/10), link-local and unique local ones only
/// when `server`, the rendezvous server as configured, was reached at such an address itself (a lab, a
/// demo, a network of one's own): otherwise a peer could have us knock at doors inside our own network.
pub fn may_open_to(target: IpAddr, server: IpAddr) -> bool {
    match reach(target) {
        Reach::Nowhere => false,
        Reach::Public => true,
        Reach::Local | Reach::Here => matches!(reach(server.to_canonical()), Reach::Local | Reach::Here),
    }
}

/// Whether `target` may be tried as the peer's address inside a LAN, by a plain connect: a private, shared or
/// unique local address, where the server is not on this very machine (there the punch itself stays inside).
/// Not a link-local one: nobody names theirs, and 169.254.169.254 is where clouds tell a machine its secrets.
pub fn may_connect_in_lan(target: SocketAddr, server: IpAddr) -> bool {
    let private = match target.ip() {
        IpAddr::V4(a) => !a.is_link_local(),
        IpAddr::V6(a) => !a.is_unicast_link_local(),
    };
    let local = reach(target.ip()) == Reach::Local && private;
    local && target.port() != 0 && reach(server.to_canonical()) != Reach::Here
}

#[derive(PartialEq)]
enum Reach {
    Public,
    Local,
    /// This machine.
    Here,
    Nowhere,
}

fn reach(address: IpAddr) -> Reach {
    let (here, local, public) = match address {
        IpAddr::V4(a) => {
            let [first, second, third, _] = a.octets();
            let shared = first == 100 && second & 0xc0 == 64;
            // Networks under test: some VPN programs use them inside the machine.
            let bench = first == 198 && second & 0xfe == 18;
            let protocols = (first, second, third) == (192, 0, 0);
            let public = first != 0 && first < 224 && !protocols;
            (a.is_loopback(), a.is_private() || a.is_link_local() || shared || bench, public)
        }
        IpAddr::V6(a) => {
            let [first, second, ..] = a.segments();
            let wraps = first == 0x2002 || (first, second) == (0x2001, 0);
            let public = first & 0xe000 == 0x2000 && !wraps;
            (a.is_loopback(), a.is_unique_local() || a.is_unicast_link_local(), public)
        }
    };
    match () {
        () if here => Reach::Here,
        () if local => Reach::Local,
        () if public => Reach::Public,
        () => Reach::Nowhere,
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
        let nowhere = [
            "0.0.0.0",
            "0.1.2.3",
            "255.255.255.255",
            "224.0.0.1",
            "239.255.255.250",
            "240.0.0.1",
            "192.0.0.170",
        ];
        let nowhere6 = ["::", "ff02::1", "ff0e::1", "fec0::1", "100::1"];
        // Others inside: IPv4-mapped, IPv4-compatible, NAT64, 6to4, Teredo.
        let wrapped = [
            "::ffff:10.0.0.1",
            "::ffff:93.184.216.34",
            "::93.184.216.34",
            "64:ff9b::10.0.0.1",
            "64:ff9b:1::10.0.0.1",
            "2002:a00:1::1",
            "2001:0:53aa:64c::1",
        ];
        for target in nowhere.iter().chain(&nowhere6).chain(&wrapped) {
            assert!(!may(target, "10.9.9.9") && !may(target, "93.184.216.34"), "{target}");
        }
        assert!(may("93.184.216.34", "93.184.216.35"));
        assert!(may("93.184.216.34", "10.0.0.1"));
        assert!(may("2606:2800::1", "2606:2800::2"));
        assert!(may("10.0.0.1", "::ffff:10.9.9.9"), "a server's mapped address is what it maps");
    }

    #[test]
    fn as_a_lan_address_only_private_ones_are_tried() {
        let may =
            |target: &str, server: &str| may_connect_in_lan(target.parse().unwrap(), server.parse().unwrap());
        for target in
            ["192.168.1.2:22000", "10.0.0.1:22000", "172.16.0.1:22000", "100.64.0.9:22000", "[fd00::1]:22000"]
        {
            assert!(may(target, "93.184.216.34") && may(target, "192.168.1.1"), "{target}");
            assert!(!may(target, "127.0.0.1") && !may(target, "::1"), "{target}");
        }
        for target in [
            "93.184.216.34:22000",
            "127.0.0.1:22000",
            "[::1]:22000",
            "192.168.1.2:0",
            "169.254.169.254:80",
            "[fe80::1]:22000",
            "224.0.0.251:5353",
            "255.255.255.255:9",
            "0.0.0.0:9",
            "[ff02::1]:9",
            "[::ffff:192.168.1.2]:22000",
            "[2606:2800::1]:22000",
        ] {
            assert!(!may(target, "93.184.216.34"), "{target}");
        }
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
