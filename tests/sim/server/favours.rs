//! Knocks and crossings, as `net`'s server does them ([`punchtunnel::wire::examine`]). It has one address.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    time::{Duration, Instant},
};

use punchtunnel::wire::examine::{Knocked, Origin};

use crate::{
    tcp::{Failure, SockId},
    world::Io,
};

/// As in `net`.
const KNOCK_LIMIT: Duration = Duration::from_millis(1500);
const CROSS_LIMIT: Duration = Duration::from_millis(800);
const OVERTAKING: Duration = Duration::from_millis(30);

/// Its own openings leave from these ports on.
const FIRST_PORT: u16 = 40_000;

/// What is under way.
#[derive(Default)]
pub(super) struct Favours {
    opened: u16,
    /// Openings: for whose question, and until when.
    openings: BTreeMap<SockId, (SockId, Instant)>,
    /// Ports that answer no SYN, by the connection that asked.
    doors: BTreeMap<SockId, u16>,
    /// Crossings: when, from where, to where.
    crossings: BTreeMap<SockId, (Instant, u16, SocketAddr)>,
}

impl Favours {
    fn port(&mut self) -> u16 {
        self.opened = (self.opened + 1) % 20_000;
        FIRST_PORT + self.opened
    }

    /// Opens to where a question came from, from a port that was not contacted.
    pub(super) fn knock(&mut self, io: &mut Io<'_>, asked: SockId, origin: Origin, from: SocketAddr) {
        match origin {
            Origin::Port => {
                let port = self.port();
                self.open(io, asked, port, from, KNOCK_LIMIT);
            }
            Origin::Address => io.tcp.send(io.now, asked, &[Knocked::Unable as u8]),
        }
    }

    /// A port at which SYNs are swallowed, told to whoever asks.
    pub(super) fn door(&mut self, io: &mut Io<'_>, asked: SockId) {
        let door = self.port();
        io.tcp.swallow(door, true);
        self.doors.insert(asked, door);
        io.tcp.send(io.now, asked, &door.to_be_bytes());
    }

    /// The client's SYN to that port has left.
    pub(super) fn cross(&mut self, now: Instant, asked: SockId, from: SocketAddr) {
        if let Some(&door) = self.doors.get(&asked) {
            self.crossings.insert(asked, (now + OVERTAKING, door, from));
        }
    }

    fn open(&mut self, io: &mut Io<'_>, asked: SockId, port: u16, to: SocketAddr, limit: Duration) {
        match io.tcp.connect(io.now, port, to, None) {
            Ok(sock) => drop(self.openings.insert(sock, (asked, io.now + limit))),
            Err(_) => io.tcp.send(io.now, asked, &[Knocked::Unable as u8]),
        }
    }

    /// An opening was answered; others are not its own.
    pub(super) fn answered(&mut self, io: &mut Io<'_>, sock: SockId, failure: Option<Failure>) {
        self.conclude(
            io,
            sock,
            match failure {
                None => Knocked::Reached,
                Some(Failure::Refused) => Knocked::Reset,
                Some(Failure::Unreachable) => Knocked::Prohibited,
                Some(Failure::TimedOut) => Knocked::Dropped,
            },
        );
    }

    fn conclude(&mut self, io: &mut Io<'_>, sock: SockId, answer: Knocked) {
        let Some((asked, _)) = self.openings.remove(&sock) else { return };
        io.tcp.close(io.now, sock);
        io.tcp.send(io.now, asked, &[answer as u8]);
        if let Some(door) = self.doors.remove(&asked) {
            io.tcp.swallow(door, false);
        }
    }

    /// Does what is due.
    pub(super) fn wake(&mut self, io: &mut Io<'_>) {
        let due = self.crossings.extract_if(.., |_, (at, ..)| *at <= io.now);
        for (asked, (_, door, from)) in due.collect::<Vec<_>>() {
            self.open(io, asked, door, from, CROSS_LIMIT);
        }
        let over = self.openings.iter().filter(|(_, (_, until))| *until <= io.now);
        for sock in over.map(|(&sock, _)| sock).collect::<Vec<_>>() {
            self.conclude(io, sock, Knocked::Dropped);
        }
    }

    /// When that is.
    pub(super) fn deadline(&self) -> Option<Instant> {
        let crossings = self.crossings.values().map(|(at, ..)| *at);
        crossings.chain(self.openings.values().map(|(_, until)| *until)).min()
    }
}
