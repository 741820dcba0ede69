//! A rendezvous server in the world: the core, its probe ports, and datagrams over TCP.

mod favours;

use std::{collections::BTreeMap, net::SocketAddr, time::Instant};

use punchtunnel::{
    rendezvous::{Batches, Limits, Server, Source, Store},
    secure::{PublicKey, StaticKey},
    wire::{
        self, DEFAULT_PORT, DEFAULT_PROBE_PORT,
        examine::Origin,
        probe::{PREAMBLE, ProbeQuestion, Purpose, QUESTION, parse_preamble},
    },
};

use self::favours::Favours;
use crate::{
    tcp::{Event, SockId},
    world::{Io, Program},
};

/// The ports that a server listens on.
pub const PORTS: [u16; 2] = [DEFAULT_PORT, DEFAULT_PROBE_PORT];

/// Seconds since 1970 at the beginning of every world.
const UNIX: u64 = 1_800_000_000;

/// The server's program.
pub struct Rendezvous {
    key: StaticKey,
    started: Option<Instant>,
    seed: [u8; 32],
    core: Option<Server>,
    batches: Option<Batches>,
    accepted: BTreeMap<SockId, Accepted>,
    favours: Favours,
    /// What is on disk.
    stored: BTreeMap<String, (PublicKey, u64)>,
    /// Changes that this run of the core has had stored.
    written: u64,
}

struct Accepted {
    at: Instant,
    local: SocketAddr,
    remote: SocketAddr,
    purpose: Option<Purpose>,
    buffer: Vec<u8>,
}

impl Rendezvous {
    /// A server that begins when it is first woken.
    pub fn new(seed: u64, key: StaticKey) -> Self {
        Rendezvous {
            key,
            started: None,
            seed: crate::spread(seed),
            core: None,
            batches: None,
            accepted: BTreeMap::new(),
            favours: Favours::default(),
            stored: BTreeMap::new(),
            written: 0,
        }
    }

    /// Ends without a word and begins again with what is on disk.
    pub fn restart(&mut self, io: &mut Io<'_>) {
        for (sock, _) in std::mem::take(&mut self.accepted) {
            io.tcp.abort(sock);
        }
        self.seed[0] = self.seed[0].wrapping_add(1);
        self.core = None;
        self.favours = Favours::default();
        self.begin(io);
    }

    fn begin(&mut self, io: &mut Io<'_>) {
        if self.core.is_some() {
            return;
        }
        self.started.get_or_insert(io.now);
        self.written = 0;
        let owners = self.stored.iter().map(|(name, (key, seen))| (name.clone(), *key, *seen));
        let owners: Vec<_> = owners.collect();
        self.core = Some(Server::new(io.now, self.seed, self.key.clone(), Limits::default(), owners));
        self.batches = Some(Batches::new(io.now));
        PORTS.into_iter().for_each(|port| io.tcp.listen(port));
    }

    fn unix(&self, now: Instant) -> u64 {
        UNIX + self.started.map_or(0, |started| now.duration_since(started).as_secs())
    }

    fn received(&mut self, io: &mut Io<'_>, sock: SockId, bytes: &[u8]) {
        let unix = self.unix(io.now);
        let (Some(core), Some(batches)) = (&mut self.core, &mut self.batches) else { return };
        let Some(conn) = self.accepted.get_mut(&sock) else { return };
        conn.buffer.extend_from_slice(bytes);
        if conn.purpose.is_none() {
            let Some((preamble, _)) = conn.buffer.split_first_chunk::<PREAMBLE>() else { return };
            conn.purpose = Some(parse_preamble(*preamble).expect("nobody else connects here"));
            conn.buffer.drain(..PREAMBLE);
            if conn.purpose == Some(Purpose::Cross) {
                self.favours.door(io, sock);
            }
        }
        match (conn.purpose, conn.buffer.first()) {
            (Some(Purpose::Knock), Some(&origin)) => {
                let origin = Origin::parse(origin).expect("nobody else asks here");
                return self.favours.knock(io, sock, origin, conn.remote);
            }
            (Some(Purpose::Cross), Some(_)) => return self.favours.cross(io.now, sock, conn.remote),
            _ => {}
        }
        if conn.purpose == Some(Purpose::Probe) {
            let Some((question, _)) = conn.buffer.split_first_chunk::<QUESTION>() else { return };
            let question = ProbeQuestion::parse(question).expect("nobody else asks here");
            let answer = batches.observe(io.now, conn.at, question, conn.local, conn.remote);
            let answer = wire::encode(&answer);
            io.tcp.send(io.now, sock, &framed(&answer));
            conn.buffer.clear();
            return;
        }
        let from = Source { addr: conn.remote, udp: false, via: 0 };
        while let Some(datagram) = take_frame(&mut conn.buffer) {
            core.handle_datagram(io.now, unix, from, &datagram);
        }
    }
}

impl Program for Rendezvous {
    fn datagram(&mut self, io: &mut Io<'_>, from: SocketAddr, _: SocketAddr, bytes: &[u8]) {
        self.begin(io);
        let unix = self.unix(io.now);
        let Some(core) = &mut self.core else { return };
        core.handle_datagram(io.now, unix, Source { addr: from, udp: true, via: 0 }, bytes);
    }

    fn tcp(&mut self, io: &mut Io<'_>, event: Event) {
        match event {
            Event::Accepted { sock, local, remote } => {
                let conn = Accepted { at: io.now, local, remote, purpose: None, buffer: Vec::new() };
                self.accepted.insert(sock, conn);
            }
            Event::Received(sock, bytes) => self.received(io, sock, &bytes),
            Event::Ended(sock, _) => {
                io.tcp.close(io.now, sock);
                self.accepted.remove(&sock);
            }
            Event::Connected(sock) => self.favours.answered(io, sock, None),
            Event::Failed(sock, failure) => self.favours.answered(io, sock, Some(failure)),
        }
    }

    fn wake(&mut self, io: &mut Io<'_>) {
        self.begin(io);
        self.favours.wake(io);
        let unix = self.unix(io.now);
        let Some(core) = &mut self.core else { return };
        if core.poll_timeout().is_some_and(|at| at <= io.now) {
            core.handle_timeout(io.now, unix);
        }
        while let Some(store) = core.poll_store() {
            self.written += 1;
            match store {
                Store::Put { name, key, last_seen } => drop(self.stored.insert(name, (key, last_seen))),
                Store::Forget { name } => drop(self.stored.remove(&name)),
            }
        }
        core.handle_stored(io.now, unix, self.written);
        while let Some((to, datagram)) = core.poll_transmit() {
            if to.udp {
                io.send(DEFAULT_PORT, to.addr, datagram);
            } else if let Some((&sock, _)) = self.accepted.iter().find(|(_, conn)| conn.remote == to.addr) {
                io.tcp.send(io.now, sock, &framed(&datagram));
            }
        }
    }

    fn deadline(&self) -> Option<Instant> {
        // An alarm that it sets again and again must not stop time.
        let core = self.core.as_ref().and_then(Server::poll_timeout);
        core.into_iter().chain(self.favours.deadline()).min()
    }
}

/// Bytes behind their length.
pub fn framed(bytes: &[u8]) -> Vec<u8> {
    let length = u16::try_from(bytes.len()).expect("a datagram or an answer");
    [&length.to_be_bytes()[..], bytes].concat()
}

/// The first whole frame of a buffer.
pub fn take_frame(buffer: &mut Vec<u8>) -> Option<Vec<u8>> {
    let (length, rest) = buffer.split_first_chunk::<2>()?;
    let length = usize::from(u16::from_be_bytes(*length));
    let frame = rest.get(..length)?.to_vec();
    buffer.drain(..2 + length);
    Some(frame)
}
