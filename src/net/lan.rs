//! This machine's LAN addresses: where a peer behind the same NAT may simply connect to.

use std::{
    collections::BTreeSet,
    net::{IpAddr, SocketAddr, UdpSocket},
};

use crate::wire::peer::MAX_LAN;

/// Beginnings of the names of interfaces that lead into containers, virtual machines or other tunnels:
/// nobody in the LAN can reach their addresses.
const VIRTUAL: [&str; 9] = ["docker", "br-", "veth", "virbr", "tun", "tap", "wg", "tailscale", "zt"];

/// Addresses of the interfaces that a peer in the same LAN could reach, at most [`MAX_LAN`].
///
/// Loopback, point-to-point links and virtual interfaces are left out, except for the very address
/// from which one of the `servers` is reached: with a server on this machine (the demo, a lab) that is
/// loopback, and a machine whose only way out is a point-to-point link has its peers behind that.
pub(crate) fn addresses(servers: &[SocketAddr]) -> Vec<IpAddr> {
    let towards: Vec<IpAddr> = servers.iter().filter_map(|server| source_towards(*server)).collect();
    let interfaces = if_addrs::get_if_addrs().unwrap_or_default();
    let in_lan = interfaces.iter().filter(|interface| {
        !interface.is_loopback()
            && !interface.is_link_local()
            && !interface.is_p2p()
            && !VIRTUAL.iter().any(|prefix| interface.name.starts_with(prefix))
    });
    let mut addresses = towards;
    addresses.extend(in_lan.map(|interface| interface.ip()));
    let mut seen = BTreeSet::new();
    addresses.retain(|address| seen.insert(*address));
    addresses.truncate(MAX_LAN);
    addresses
}

/// All addresses of this machine, of whatever kind.
pub(crate) fn all() -> BTreeSet<IpAddr> {
    if_addrs::get_if_addrs().unwrap_or_default().iter().map(if_addrs::Interface::ip).collect()
}

/// The local address that the routing table picks for a destination; nothing is sent.
pub(crate) fn source_towards(server: SocketAddr) -> Option<IpAddr> {
    let any: SocketAddr =
        if server.is_ipv4() { ([0; 4], 0).into() } else { (std::net::Ipv6Addr::UNSPECIFIED, 0).into() };
    let socket = UdpSocket::bind(any).ok()?;
    socket.connect(server).ok()?;
    socket.local_addr().ok().map(|address| address.ip())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_counts_only_where_the_server_is_reached_over_it() {
        let loopback: IpAddr = [127, 0, 0, 1].into();
        assert!(!addresses(&[]).contains(&loopback));
        assert!(addresses(&[SocketAddr::new(loopback, 7862)]).contains(&loopback));
    }
}
