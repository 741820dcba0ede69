//! How every socket of a punch port is made: the same options before bind, or the kernel refuses the
//! second one.

use std::{
    io,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
};

use socket2::{Domain, Protocol, Socket, Type};

use crate::endpoint::OpenFailure;

/// An address family.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Family {
    V4,
    V6,
}

impl Family {
    pub(crate) fn of(address: &SocketAddr) -> Self {
        if address.is_ipv4() { Family::V4 } else { Family::V6 }
    }

    /// That port of every address.
    pub(crate) fn any(self, port: u16) -> SocketAddr {
        match self {
            Family::V4 => (Ipv4Addr::UNSPECIFIED, port).into(),
            Family::V6 => (Ipv6Addr::UNSPECIFIED, port).into(),
        }
    }
}

/// A TCP socket of the family, not bound.
pub(crate) fn unbound(family: Family) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(family.any(0)), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_nonblocking(true)?;
    // A handshake message must not wait for the acknowledgement of the one before it.
    socket.set_tcp_nodelay(true)?;
    Ok(socket)
}

/// A TCP socket bound to a punch port (0: a new one).
///
/// Holder, probes, listener and openers share the port: that takes both options, on each of them,
/// before bind. IPv6 sockets keep to IPv6, so that the IPv4 socket may have the same number.
pub(crate) fn bound(family: Family, port: u16) -> io::Result<Socket> {
    let socket = unbound(family)?;
    socket.set_reuse_address(true)?;
    #[cfg(unix)]
    socket.set_reuse_port(true)?;
    if family == Family::V6 {
        socket.set_only_v6(true)?;
    }
    socket.bind(&family.any(port).into())?;
    Ok(socket)
}

/// The port that a socket is bound to.
pub(crate) fn port_of(socket: &Socket) -> io::Result<u16> {
    address_of(socket).map(|address| address.port())
}

/// The address and port that a socket is bound to.
pub(crate) fn address_of(socket: &Socket) -> io::Result<SocketAddr> {
    socket.local_addr()?.as_socket().ok_or_else(|| io::ErrorKind::AddrNotAvailable.into())
}

/// Starts a connection: the SYN leaves before this returns.
///
/// With `ttl` that SYN dies on the way; the kernel's repetitions, a second later, travel as usual.
pub(crate) fn start(socket: &Socket, remote: SocketAddr, ttl: Option<u8>) -> io::Result<()> {
    let usual = ttl.map(|ttl| set_hops(socket, &remote, u32::from(ttl))).transpose()?;
    let result = match socket.connect(&remote.into()) {
        Err(error) if in_progress(&error) => Ok(()),
        result => result,
    };
    if let Some(usual) = usual {
        set_hops(socket, &remote, usual)?;
    }
    result
}

/// Sets the time to live and returns the one before.
fn set_hops(socket: &Socket, remote: &SocketAddr, hops: u32) -> io::Result<u32> {
    if remote.is_ipv4() {
        let before = socket.ttl_v4()?;
        socket.set_ttl_v4(hops)?;
        Ok(before)
    } else {
        let before = socket.unicast_hops_v6()?;
        socket.set_unicast_hops_v6(hops)?;
        Ok(before)
    }
}

fn in_progress(error: &io::Error) -> bool {
    rustix::io::Errno::from_io_error(error) == Some(rustix::io::Errno::INPROGRESS)
}

/// What a failed connect means to the punch.
pub(crate) fn failure(error: &io::Error) -> OpenFailure {
    use io::ErrorKind::*;
    match error.kind() {
        ConnectionRefused | ConnectionReset | ConnectionAborted => OpenFailure::Refused,
        // A firewall's "administratively prohibited" is EHOSTUNREACH or EACCES by its ICMP code.
        HostUnreachable | NetworkUnreachable | PermissionDenied => OpenFailure::Unreachable,
        AddrNotAvailable => OpenFailure::TupleExists,
        TimedOut => OpenFailure::TimedOut,
        _ => OpenFailure::Other(error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn holder_listener_and_opener_share_a_port() {
        let holder = bound(Family::V4, 0).unwrap();
        let port = port_of(&holder).unwrap();
        let listener = bound(Family::V4, port).unwrap();
        listener.listen(1).unwrap();
        let opener = bound(Family::V4, port).unwrap();
        let server = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        start(&opener, server.local_addr().unwrap(), None).unwrap();
        assert_eq!(server.accept().unwrap().1.port(), port);
    }

    #[test]
    fn the_time_to_live_is_the_usual_one_again_after_the_first_syn() {
        let opener = bound(Family::V4, 0).unwrap();
        let usual = opener.ttl_v4().unwrap();
        let server = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        start(&opener, server.local_addr().unwrap(), Some(3)).unwrap();
        assert_eq!(opener.ttl_v4().unwrap(), usual);
    }

    #[test]
    fn a_second_connection_of_the_same_tuple_is_the_tuple_that_exists() {
        let server = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let remote = server.local_addr().unwrap();
        let first = bound(Family::V4, 0).unwrap();
        start(&first, remote, None).unwrap();
        let second = bound(Family::V4, port_of(&first).unwrap()).unwrap();
        let error = start(&second, remote, None).unwrap_err();
        assert_eq!(failure(&error), OpenFailure::TupleExists);
    }
}
