//! The UDP sockets of an endpoint: one for each address family of its server.

use std::{
    io,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
};

use socket2::{Domain, Protocol, SockRef, Socket, Type};
use tokio::net::UdpSocket;

use crate::wire::MAX_DATAGRAM;

/// Receive buffer asked of the kernel: a burst of relayed datagrams while the task is busy, with
/// room to spare. The kernel may give less.
const RECEIVE_BUFFER: usize = 1 << 20;

/// One UDP socket for each address family that is in use.
pub(crate) struct UdpSockets {
    v4: Option<UdpSocket>,
    v6: Option<UdpSocket>,
}

/// A datagram that arrived.
pub(crate) struct Datagram {
    bytes: [u8; MAX_DATAGRAM + 1],
    length: usize,
    /// Where it came from.
    pub(crate) from: SocketAddr,
}

impl Datagram {
    /// What it holds. One that is longer than [`MAX_DATAGRAM`] is cut to one byte more, which every
    /// parser refuses.
    pub(crate) fn bytes(&self) -> &[u8] {
        self.bytes.get(..self.length).unwrap_or_default()
    }
}

impl UdpSockets {
    /// Binds a socket of each family that occurs in `servers`, to this port (0: any).
    ///
    /// # Errors
    /// None of them could be bound.
    pub(crate) fn bind(servers: &[SocketAddr], port: u16) -> io::Result<Self> {
        let wanted = |v6: bool| servers.iter().any(|server| server.is_ipv6() == v6);
        let mut failure = io::Error::from(io::ErrorKind::AddrNotAvailable);
        let mut bind_if = |wanted: bool, address: SocketAddr| {
            wanted.then(|| bind(address).map_err(|e| failure = e).ok()).flatten()
        };
        let v4 = bind_if(wanted(false), (Ipv4Addr::UNSPECIFIED, port).into());
        let v6 = bind_if(wanted(true), (Ipv6Addr::UNSPECIFIED, port).into());
        if v4.is_none() && v6.is_none() { Err(failure) } else { Ok(UdpSockets { v4, v6 }) }
    }

    /// Sends, or drops the datagram: a full socket buffer and an unreachable network both look like
    /// loss, and whoever cares repeats.
    pub(crate) fn send(&self, to: SocketAddr, datagram: &[u8]) {
        let socket = if to.is_ipv4() { &self.v4 } else { &self.v6 };
        if let Some(socket) = socket {
            send(socket, to, datagram);
        }
    }

    /// Waits for the next datagram. Losing the future loses no datagram.
    pub(crate) async fn receive(&self) -> Datagram {
        tokio::select! {
            datagram = receive_from(self.v4.as_ref()) => datagram,
            datagram = receive_from(self.v6.as_ref()) => datagram,
        }
    }

    /// A datagram that is there already.
    pub(crate) fn try_receive(&self) -> Option<Datagram> {
        [&self.v4, &self.v6].into_iter().flatten().find_map(|socket| try_receive_from(socket).ok().flatten())
    }
}

/// Sends, or drops the datagram.
///
/// By a system call, and not by the runtime's `try_send_to`: that one knows of no room in a socket
/// before it has heard of it, and would drop the first datagram of every run.
pub(crate) fn send(socket: &UdpSocket, to: SocketAddr, datagram: &[u8]) {
    if let Err(error) = SockRef::from(socket).send_to(datagram, &to.into()) {
        tracing::trace!(%to, %error, "datagram not sent");
    }
}

/// A bound, non-blocking UDP socket; an IPv6 one takes no IPv4.
pub(crate) fn bind(address: SocketAddr) -> io::Result<UdpSocket> {
    let socket = Socket::new(Domain::for_address(address), Type::DGRAM, Some(Protocol::UDP))?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    socket.set_recv_buffer_size(RECEIVE_BUFFER).ok();
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    UdpSocket::from_std(socket.into())
}

async fn receive_from(socket: Option<&UdpSocket>) -> Datagram {
    let Some(socket) = socket else { return std::future::pending().await };
    loop {
        if let Err(error) = socket.readable().await {
            tracing::debug!(%error, "the UDP socket is gone");
            return std::future::pending().await;
        }
        if let Ok(Some(datagram)) = try_receive_from(socket) {
            return datagram;
        }
    }
}

/// `Ok(None)` for an error that belongs to an earlier datagram (an ICMP answer): the next may be fine.
fn try_receive_from(socket: &UdpSocket) -> io::Result<Option<Datagram>> {
    let mut bytes = [0; MAX_DATAGRAM + 1];
    match socket.try_recv_from(&mut bytes) {
        Ok((length, from)) => Ok(Some(Datagram { bytes, length, from })),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Err(error),
        Err(_) => Ok(None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_very_first_datagram_leaves() {
        let far = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        let to = far.local_addr().unwrap();
        UdpSockets::bind(&[to], 0).unwrap().send(to, b"first");
        // Loopback delivers within the system call.
        far.set_nonblocking(true).unwrap();
        assert_eq!(far.recv(&mut [0; 9]).unwrap(), 5);
    }
}
