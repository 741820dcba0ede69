//! Binding the sockets of a server.

use std::{
    io,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
};

use socket2::{Domain, Protocol, SockRef, Socket, Type};
use tokio::net::{TcpListener, UdpSocket};

use super::tcp::Port;
use crate::{
    error::{ConfigError, Error},
    net::udp,
    wire::DEFAULT_PORT,
};

/// Connections that the kernel completes before they are accepted: a few bursts of probes at once.
const BACKLOG: i32 = 1024;

/// Tries to find a number that is free for UDP and TCP, where any will do.
const PORT_TRIES: usize = 16;

/// Receive buffer asked of the kernel: what a flood of some tens of milliseconds brings while the server is kept from
/// its processor. The kernel may give less (`net.core.rmem_max`), except to root.
const RECEIVE_BUFFER: usize = 8 << 20;

/// The sockets of a server.
pub(super) struct Sockets {
    pub(super) udp: Vec<UdpSocket>,
    pub(super) mirrors: Vec<UdpSocket>,
    pub(super) tcp: Vec<(TcpListener, Port)>,
}

impl Sockets {
    pub(super) fn bind(listen: &[SocketAddr], probe_ports: &[u16]) -> Result<Self, Error> {
        let everywhere: [SocketAddr; 2] =
            [(Ipv4Addr::UNSPECIFIED, DEFAULT_PORT).into(), (Ipv6Addr::UNSPECIFIED, DEFAULT_PORT).into()];
        let mut sockets = Sockets { udp: Vec::new(), mirrors: Vec::new(), tcp: Vec::new() };
        let wanted = if listen.is_empty() { &everywhere[..] } else { listen };
        for address in wanted {
            match sockets.add(*address, probe_ports) {
                // A machine without IPv6, where nobody asked for IPv6.
                Err((_, error)) if listen.is_empty() && address.is_ipv6() => {
                    tracing::debug!(%error, "no IPv6");
                }
                Err((address, source)) => return Err(ConfigError::Listen { address, source }.into()),
                Ok(()) => {}
            }
        }
        Ok(sockets)
    }

    fn add(&mut self, address: SocketAddr, probe_ports: &[u16]) -> Result<(), (SocketAddr, io::Error)> {
        let (udp, main) = both(address).map_err(|e| (address, e))?;
        enlarge(&udp);
        // Of as many addresses as anybody lists.
        let via = self.udp.len() as u16;
        let mut tcp = vec![(main, Port::Main { via })];
        for port in probe_ports {
            let address = SocketAddr::new(address.ip(), *port);
            let listener = listener(address).map_err(|e| (address, e))?;
            // A courtesy: where another program has that UDP port, clients do without.
            let mirror = listener.local_addr().and_then(udp::bind);
            self.mirrors.extend(mirror.map_err(|error| tracing::debug!(%error, "no mirror")).ok());
            tcp.push((listener, Port::Probe));
        }
        self.udp.push(udp);
        self.tcp.extend(tcp);
        Ok(())
    }
}

fn enlarge(socket: &UdpSocket) {
    #[cfg(any(target_os = "linux", target_os = "android"))]
    if rustix::net::sockopt::set_socket_recv_buffer_size_force(socket, RECEIVE_BUFFER).is_ok() {
        return;
    }
    SockRef::from(socket).set_recv_buffer_size(RECEIVE_BUFFER).ok();
}

/// A UDP and a TCP socket of the same number.
fn both(address: SocketAddr) -> io::Result<(UdpSocket, TcpListener)> {
    let tries = if address.port() == 0 { PORT_TRIES } else { 1 };
    let mut failure = io::Error::from(io::ErrorKind::AddrInUse);
    for _ in 0..tries {
        let listener = listener(address)?;
        match udp::bind(listener.local_addr()?) {
            Ok(socket) => return Ok((socket, listener)),
            Err(error) => failure = error,
        }
    }
    Err(failure)
}

fn listener(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    // A restarted server must not wait until the connections of the last one are forgotten.
    #[cfg(unix)]
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    TcpListener::from_std(socket.into())
}
