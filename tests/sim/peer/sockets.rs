//! The peer's TCP connections: what each of them is for, and what becomes of it.

use std::{net::SocketAddr, time::Duration};

use punchtunnel::{
    endpoint::{ConnId, Input, OpenFailure, Path, PeerId, PortsId},
    wire::{
        self,
        probe::{MAX_ANSWER, Purpose, preamble},
    },
};

use super::{Line, Order, Peer, Use};
use crate::{
    server::{framed, take_frame},
    tcp::{self, SockId},
    world::Io,
};

/// As in `net`.
const UNACKNOWLEDGED: Duration = Duration::from_secs(10);

impl Peer {
    /// Connections for datagrams are made anew.
    pub(super) fn renew_lines(&mut self, io: &mut Io<'_>) {
        self.lines.clear();
        let lines = self.socks.extract_if(.., |_, usage| matches!(usage, Use::Datagrams { .. }));
        lines.for_each(|(sock, _)| io.tcp.close(io.now, sock));
    }

    pub(super) fn port(&mut self) -> u16 {
        // Each of 16384 once, in no order: a kernel draws them, and even distances are a counter's.
        self.next_port = (self.next_port.wrapping_mul(5821).wrapping_add(4831) % 16_384) + 32_768;
        self.next_port
    }

    pub(super) fn punch_port(&self, ports: PortsId, local: u16) -> Option<u16> {
        self.sets.get(&ports)?.get(usize::from(local)).copied()
    }

    pub(super) fn send_over_tcp(&mut self, io: &mut Io<'_>, server: SocketAddr, datagram: &[u8]) {
        if self.lines.get(&server).is_none_or(|line| line.sock.is_none()) {
            let port = self.port();
            let Ok(sock) = io.tcp.connect(io.now, port, server, None) else { return };
            io.tcp.set_user_timeout(sock, UNACKNOWLEDGED);
            // Queued until the connection is there.
            io.tcp.send(io.now, sock, &preamble(Purpose::Datagrams));
            self.socks.insert(sock, Use::Datagrams { server });
            self.lines.insert(server, Line { sock: Some(sock), buffer: Vec::new() });
        }
        if let Some(sock) = self.lines.get(&server).and_then(|line| line.sock) {
            io.tcp.send(io.now, sock, &framed(datagram));
        }
    }

    pub(super) fn open(&mut self, io: &mut Io<'_>, order: Order) {
        let Order { ports, opening, local, remote, ttl } = order;
        if !self.sets.contains_key(&ports) {
            return;
        }
        let port = match local {
            Some(local) => self.punch_port(ports, local),
            None => Some(self.port()),
        };
        match port.map(|port| io.tcp.connect(io.now, port, remote, ttl)) {
            Some(Ok(sock)) => drop(self.socks.insert(sock, Use::Opening { ports, opening })),
            Some(Err(tcp::TupleExists)) => {
                self.tell(io, Input::ConnectFailed { ports, opening, why: OpenFailure::TupleExists });
            }
            None => {}
        }
    }

    pub(super) fn release(&mut self, io: &mut Io<'_>, released: PortsId) {
        let mut closed = Vec::new();
        for (&sock, usage) in &self.socks {
            match usage {
                Use::Probe { ports, .. } | Use::Opening { ports, .. } | Use::Conn { ports, .. }
                    if *ports == released =>
                {
                    closed.push(sock);
                }
                _ => {}
            }
        }
        for sock in closed {
            io.tcp.close(io.now, sock);
            if let Some(Use::Conn { conn, .. }) = self.socks.remove(&sock) {
                self.conns.remove(&conn);
            }
        }
        self.listening.retain(|port, ports| {
            let keep = *ports != released;
            if !keep {
                io.tcp.unlisten(*port);
            }
            keep
        });
        self.orders.retain(|_, order| order.ports != released);
        self.sets.remove(&released);
    }

    pub(super) fn new_conn(&mut self, ports: PortsId, sock: SockId) -> ConnId {
        self.count += 1;
        let conn = ConnId(self.count);
        self.conns.insert(conn, sock);
        self.socks.insert(sock, Use::Conn { ports, conn });
        conn
    }

    pub(super) fn received(&mut self, io: &mut Io<'_>, sock: SockId, bytes: Vec<u8>) {
        match self.socks.get_mut(&sock) {
            Some(Use::Datagrams { server }) => {
                let server = *server;
                let Some(line) = self.lines.get_mut(&server) else { return };
                line.buffer.extend_from_slice(&bytes);
                let mut frames = Vec::new();
                while let Some(frame) = take_frame(&mut line.buffer) {
                    frames.push(frame);
                }
                for frame in frames {
                    self.arrived(io, Path::Tcp(server), &frame);
                }
            }
            Some(Use::Probe { ports, number, buffer, .. }) => {
                buffer.extend_from_slice(&bytes);
                let (ports, number) = (*ports, *number);
                if let Some(frame) = take_frame(buffer) {
                    let answer = wire::decode(&frame, MAX_ANSWER).expect("the server's own answer");
                    self.tell(io, Input::Probed { ports, number, answer: Some(answer) });
                }
            }
            Some(Use::Conn { conn, .. }) => {
                let conn = *conn;
                self.tell(io, Input::Received { conn, bytes });
            }
            Some(Use::Link { peer, .. }) => {
                let peer = *peer;
                let Some(tunnel) = self.sessions.get_mut(&peer) else { return };
                tunnel.received(io.now, &bytes);
                if let Some(epoch) = tunnel.take_lost() {
                    self.lose(io, peer, epoch);
                }
            }
            Some(Use::Opening { .. }) | None => {}
        }
    }

    /// A connection is gone.
    pub(super) fn ended(&mut self, io: &mut Io<'_>, sock: SockId) {
        io.tcp.close(io.now, sock);
        match self.socks.remove(&sock) {
            Some(Use::Datagrams { server }) => drop(self.lines.remove(&server)),
            Some(Use::Conn { conn, .. }) => {
                self.conns.remove(&conn);
                self.tell(io, Input::Closed { conn });
            }
            Some(Use::Link { peer, epoch }) => self.lose(io, peer, epoch),
            Some(Use::Probe { .. } | Use::Opening { .. }) | None => {}
        }
    }

    /// Gives a link up and tells the endpoint, unless there is a newer one.
    pub(super) fn lose(&mut self, io: &mut Io<'_>, peer: PeerId, epoch: u32) {
        let Some(tunnel) = self.sessions.get_mut(&peer) else { return };
        if tunnel.epoch() == Some(epoch) {
            if let Some(sock) = tunnel.detach(io.now, epoch) {
                self.socks.remove(&sock);
                io.tcp.close(io.now, sock);
            }
            self.tell(io, Input::LinkLost { peer, epoch });
        }
    }
}
