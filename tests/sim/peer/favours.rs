//! The client's half of knocks and crossings, as `net` does it.

use std::net::SocketAddr;

use punchtunnel::{
    endpoint::{Favour, Input, PortsId},
    wire::{
        examine::Knocked,
        probe::{Purpose, preamble},
    },
};

use super::{Peer, Use};
use crate::{tcp::SockId, world::Io};

/// A question and what came of it.
pub(super) struct Asking {
    pub(super) ports: PortsId,
    port: u16,
    server: SocketAddr,
    favour: Favour,
    /// The port of a crossing was told, and this is the SYN towards it.
    pub(super) opener: Option<SockId>,
    buffer: Vec<u8>,
}

impl Peer {
    pub(super) fn ask(
        &mut self,
        io: &mut Io<'_>,
        (ports, local): (PortsId, u16),
        server: SocketAddr,
        favour: Favour,
    ) {
        let Some(port) = self.punch_port(ports, local) else { return };
        match io.tcp.connect(io.now, port, server, None) {
            Ok(sock) => {
                let asking = Asking { ports, port, server, favour, opener: None, buffer: Vec::new() };
                self.socks.insert(sock, Use::Favour(asking));
                let question = match favour {
                    Favour::Knock(origin) => [&preamble(Purpose::Knock)[..], &[origin as u8]].concat(),
                    Favour::Cross => preamble(Purpose::Cross).to_vec(),
                };
                // Queued until the connection is there.
                io.tcp.send(io.now, sock, &question);
            }
            Err(_) => self.tell(io, Input::Favour { ports, favour, answer: None }),
        }
    }

    /// The server says something about it.
    pub(super) fn favoured(&mut self, io: &mut Io<'_>, sock: SockId, bytes: &[u8]) {
        let Some(Use::Favour(asking)) = self.socks.get_mut(&sock) else { return };
        asking.buffer.extend_from_slice(bytes);
        if asking.favour == Favour::Cross && asking.opener.is_none() {
            let Some((&door, _)) = asking.buffer.split_first_chunk::<2>() else { return };
            let door = SocketAddr::new(asking.server.ip(), u16::from_be_bytes(door));
            asking.buffer.drain(..2);
            asking.opener = io.tcp.connect(io.now, asking.port, door, None).ok();
            io.tcp.send(io.now, sock, &[0]);
            return;
        }
        let answer = Knocked::parse(asking.buffer[0]).expect("the server's own answer");
        self.unfavoured(io, sock, Some(answer));
    }

    /// A question is over.
    pub(super) fn unfavoured(&mut self, io: &mut Io<'_>, sock: SockId, answer: Option<Knocked>) {
        let Some(Use::Favour(Asking { ports, favour, opener, .. })) = self.socks.remove(&sock) else {
            return;
        };
        for sock in opener.into_iter().chain([sock]) {
            io.tcp.close(io.now, sock);
        }
        self.tell(io, Input::Favour { ports, favour, answer });
    }
}
