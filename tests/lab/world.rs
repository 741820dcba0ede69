//! Topologies: who stands where, behind what.
//!
//! Addresses are given out in order. Homes all use the same private network on purpose, as in life: an
//! address that two homes have in common must not confuse anybody.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    time::Instant,
};

use crate::{
    error::Result,
    link::Line,
    namespace::Namespace,
    nat_model::{Behaviour, Nat, Unsolicited},
    network::{INTERNET, NatId, Network, SegmentId},
    router::Router,
    tun::Tun,
};

/// A topology that is being drawn.
#[derive(Debug)]
pub struct Plan {
    network: Network,
    seed: u64,
    public: u8,
    prefixes: u16,
    carriers: u8,
}

/// A host in a running world.
#[derive(Debug)]
pub struct Host {
    /// What it is called in the record.
    pub name: String,
    /// Its address on its own segment.
    pub address: IpAddr,
    /// Its IPv6 address, if it has one.
    pub address6: Option<IpAddr>,
    /// Where its programs run.
    pub namespace: Namespace,
}

/// What stands between a LAN of kernels and the segment outside.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Gateway {
    /// Plain forwarding: a modelled NAT is behind it.
    Forward,
    /// The kernel's own NAT; what an unsolicited SYN gets from it.
    Masquerade(Unsolicited),
    /// The kernel's own stateful firewall for IPv6, no translation.
    Firewall,
}

/// A LAN of real kernels around a real bridge.
#[derive(Debug)]
pub struct Lan {
    /// The router's namespace, which holds the bridge.
    pub router: Namespace,
    network: IpAddr,
    hosts: u16,
}

/// The name of a host's second device.
const SECOND: &str = "wlan0";

/// A running topology.
#[derive(Debug)]
pub struct World {
    router: Router,
}

impl Plan {
    /// An internet on which everything random follows `seed`.
    pub fn new(seed: u64) -> Self {
        let core = Ipv4Addr::new(203, 0, 113, 254).into();
        Self { network: Network::new(seed, core), seed, public: 0, prefixes: 0, carriers: 0 }
    }

    /// A host on the internet, with a public address of each family. `line` is each direction of its way
    /// to the middle of the internet.
    pub fn public(&mut self, name: &str, line: Line) -> Result<Host> {
        let address = self.public_address();
        let address6 = self.prefix().0;
        let namespace = Namespace::new(name)?;
        let tun = Tun::new(&namespace, "eth0")?;
        namespace.ip(&format!("addr add {address}/24 dev eth0"))?;
        namespace.ip(&format!("addr add {address6}/128 dev eth0 nodad"))?;
        namespace.ip("route add default dev eth0")?;
        namespace.ip("-6 route add default dev eth0")?;
        self.network.add_tun(INTERNET, tun, &[(address, 32), (address6, 128)], line);
        Ok(Host { name: name.into(), address, address6: Some(address6), namespace })
    }

    /// A home or an office: a modelled NAT with its line outwards, and the segment behind it.
    pub fn nat(&mut self, outside: SegmentId, behaviour: &Behaviour, line: Line) -> (NatId, SegmentId) {
        let public = match self.carrier(outside) {
            Some(address) => address,
            None => self.public_address(),
        };
        let nat = Nat::new(behaviour, vec![public], self.next_seed(), Instant::now());
        self.network.add_nat(outside, nat, line, home(1))
    }

    /// A host behind a modelled NAT, on its own wire.
    pub fn host(&mut self, segment: SegmentId, name: &str) -> Result<Host> {
        let address = home(2);
        let namespace = Namespace::new(name)?;
        let tun = Tun::new(&namespace, "eth0")?;
        namespace.ip(&format!("addr add {address}/24 dev eth0"))?;
        namespace.ip("route add default dev eth0")?;
        self.network.add_tun(segment, tun, &[(address, 32)], Line::default());
        Ok(Host { name: name.into(), address, address6: None, namespace })
    }

    /// A second device of a host, on another wire, which is down for now. Its address differs from the first
    /// one's, its network does not, as in life.
    pub fn second_device(&mut self, segment: SegmentId, host: &Host) -> Result<IpAddr> {
        let address = home(3);
        let tun = Tun::new(&host.namespace, SECOND)?;
        host.namespace.ip(&format!("link set {SECOND} down"))?;
        self.network.add_tun(segment, tun, &[(address, 32)], Line::default());
        Ok(address)
    }

    /// A host with a prefix of its own behind a modelled stateful firewall for IPv6.
    pub fn firewalled(&mut self, behaviour: &Behaviour, name: &str, line: Line) -> Result<Host> {
        let (router, prefix) = self.prefix();
        let nat = Nat::new(behaviour, Vec::new(), self.next_seed(), Instant::now());
        let (id, inside) = self.network.add_nat(INTERNET, nat, line, router);
        self.network.add_prefix_behind(id, prefix, 64);
        let IpAddr::V6(prefix) = prefix else { return Err("prefixes are of IPv6".into()) };
        let address = Ipv6Addr::from_bits(prefix.to_bits() + 2).into();
        let namespace = Namespace::new(name)?;
        let tun = Tun::new(&namespace, "eth0")?;
        namespace.ip(&format!("addr add {address}/64 dev eth0 nodad"))?;
        namespace.ip("-6 route add default dev eth0")?;
        self.network.add_tun(inside, tun, &[(address, 128)], Line::default());
        Ok(Host { name: name.into(), address, address6: Some(address), namespace })
    }

    /// A LAN of real kernels. `line` is each direction of its router's way outwards.
    pub fn lan(&mut self, outside: SegmentId, gateway: Gateway, line: Line) -> Result<Lan> {
        let router = Namespace::new("router")?;
        router.ip("link add lan0 type bridge")?;
        router.ip("link set lan0 up")?;
        let tun = Tun::new(&router, "wan0")?;
        router.sysctl("net/ipv4/ip_forward", "1")?;
        router.sysctl("net/ipv6/conf/all/forwarding", "1")?;
        let network = match gateway {
            Gateway::Firewall => {
                let (own, prefix) = self.prefix();
                router.ip(&format!("addr add {own}/64 dev lan0 nodad"))?;
                router.ip("-6 route add default dev wan0")?;
                router.nft(FIREWALL)?;
                self.network.add_tun(outside, tun, &[(prefix, 64)], line);
                prefix
            }
            Gateway::Forward => {
                router.ip(&format!("addr add {}/24 dev lan0", home(1)))?;
                router.ip("route add default dev wan0")?;
                self.network.add_tun(outside, tun, &[(home(0), 24)], line);
                home(0)
            }
            Gateway::Masquerade(unsolicited) => {
                let public = self.public_address();
                router.ip(&format!("addr add {}/24 dev lan0", home(1)))?;
                router.ip(&format!("addr add {public}/32 dev wan0"))?;
                router.ip(&format!("route add default dev wan0 src {public}"))?;
                router.nft(&masquerade(unsolicited))?;
                self.network.add_tun(outside, tun, &[(public, 32)], line);
                home(0)
            }
        };
        Ok(Lan { router, network, hosts: 1 })
    }

    /// Starts to carry packets.
    pub fn start(self) -> Result<World> {
        Ok(World { router: Router::start(self.network)? })
    }

    fn public_address(&mut self) -> IpAddr {
        self.public += 1;
        Ipv4Addr::new(203, 0, 113, self.public).into()
    }

    /// The first address of a new prefix, and the prefix.
    fn prefix(&mut self) -> (IpAddr, IpAddr) {
        self.prefixes += 1;
        let address = |last| Ipv6Addr::new(0x2001, 0xdb8, 0, self.prefixes, 0, 0, 0, last).into();
        (address(1), address(0))
    }

    /// An address of a carrier's customer, if the segment is behind a carrier.
    fn carrier(&mut self, outside: SegmentId) -> Option<IpAddr> {
        (outside != INTERNET).then(|| {
            self.carriers += 1;
            Ipv4Addr::new(100, 64, 0, self.carriers).into()
        })
    }

    fn next_seed(&mut self) -> u64 {
        self.seed = self.seed.wrapping_add(1);
        self.seed
    }
}

impl Lan {
    /// A host on the bridge.
    pub fn host(&mut self, name: &str) -> Result<Host> {
        self.hosts += 1;
        let (router, port) = (self.router.name(), format!("lan{}", self.hosts));
        let namespace = Namespace::new(name)?;
        namespace.ip(&format!("link add eth0 type veth peer name {port} netns {router}"))?;
        self.router.ip(&format!("link set {port} master lan0 up"))?;
        namespace.ip("link set eth0 up")?;
        let (address, gateway, length) = match self.network {
            IpAddr::V4(network) => {
                let at = |last: u16| Ipv4Addr::from_bits(network.to_bits() + u32::from(last)).into();
                (at(self.hosts), at(1), 24)
            }
            IpAddr::V6(network) => {
                let at = |last: u16| Ipv6Addr::from_bits(network.to_bits() + u128::from(last)).into();
                (at(self.hosts), at(1), 64)
            }
        };
        let nodad = if IpAddr::is_ipv6(&address) { "nodad" } else { "" };
        namespace.ip(&format!("addr add {address}/{length} dev eth0 {nodad}"))?;
        let family = if IpAddr::is_ipv6(&address) { "-6" } else { "-4" };
        namespace.ip(&format!("{family} route add default via {gateway}"))?;
        let address6 = address.is_ipv6().then_some(address);
        Ok(Host { name: name.into(), address, address6, namespace })
    }
}

impl Host {
    /// Leaves the network of the first device for that of the second one, as a laptop that is carried
    /// elsewhere: there is none in between.
    pub fn move_to(&self, address: IpAddr) -> Result<()> {
        self.namespace.ip("link set eth0 down")?;
        self.namespace.ip(&format!("addr add {address}/24 dev {SECOND}"))?;
        self.namespace.ip(&format!("link set {SECOND} up"))?;
        self.namespace.ip(&format!("route add default dev {SECOND}"))
    }

    /// Goes back to the first device's.
    pub fn move_back(&self) -> Result<()> {
        self.namespace.ip(&format!("addr flush dev {SECOND}"))?;
        self.namespace.ip(&format!("link set {SECOND} down"))?;
        self.namespace.ip("link set eth0 up")?;
        self.namespace.ip("route add default dev eth0")
    }
}

impl World {
    /// The modelled part, held still.
    pub fn network(&self) -> std::sync::MutexGuard<'_, Network> {
        self.router.network()
    }
}

/// An address of everybody's home network.
fn home(last: u8) -> IpAddr {
    Ipv4Addr::new(192, 168, 1, last).into()
}

/// What an IPv6 home router does: out is free, in is what was asked for.
const FIREWALL: &str = "
    table ip6 filter {
        chain forward {
            type filter hook forward priority 0; policy drop;
            iifname lan0 accept
            ct state established,related accept
        }
    }";

/// What an IPv4 home router does. An unsolicited SYN meets the router's own input chain.
fn masquerade(unsolicited: Unsolicited) -> String {
    let refusal = match unsolicited {
        Unsolicited::Drop => "drop",
        Unsolicited::Reset => "meta l4proto tcp reject with tcp reset",
        Unsolicited::Icmp => "reject with icmp admin-prohibited",
    };
    format!(
        "table ip nat {{
            chain postrouting {{
                type nat hook postrouting priority srcnat;
                oifname wan0 masquerade
            }}
        }}
        table ip filter {{
            chain forward {{
                type filter hook forward priority 0; policy drop;
                iifname lan0 accept
                ct state established,related accept
            }}
            chain input {{
                type filter hook input priority 0; policy drop;
                iifname != wan0 accept
                ct state established,related accept
                {refusal}
            }}
        }}"
    )
}
