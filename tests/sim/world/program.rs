//! What runs on a host of the simulated network, and what it can do there.

use std::{
    net::{IpAddr, SocketAddr},
    time::Instant,
};

use crate::{
    nat_model::Packet,
    tcp::{self, Segment, Stack},
};

/// What runs on a host. Instants are the host's own: its clock is off by the host's offset.
pub trait Program {
    /// A UDP datagram for one of the program's ports.
    fn datagram(&mut self, io: &mut Io<'_>, from: SocketAddr, to: SocketAddr, bytes: &[u8]);
    /// Something happened to a TCP connection.
    fn tcp(&mut self, io: &mut Io<'_>, event: tcp::Event);
    /// Called at least once after each deadline, and after everything else that happened.
    fn wake(&mut self, io: &mut Io<'_>);
    /// When to wake it at the latest.
    fn deadline(&self) -> Option<Instant>;
}

/// What a program can do.
pub struct Io<'a> {
    pub now: Instant,
    pub addresses: &'a [IpAddr],
    pub tcp: &'a mut Stack,
    pub(super) datagrams: &'a mut Vec<Segment>,
}

impl Io<'_> {
    /// Sends a datagram from a local port.
    pub fn send(&mut self, port: u16, to: SocketAddr, bytes: Vec<u8>) {
        let same_family = |ip: &&IpAddr| ip.is_ipv4() == to.is_ipv4();
        if let Some(&ip) = self.addresses.iter().find(same_family) {
            let packet = Packet::udp(SocketAddr::new(ip, port), to);
            self.datagrams.push(Segment { packet, seq: 0, ack: 0, payload: bytes });
        }
    }
}
