//! A server and its clients in one thread, with a network that delays, loses, doubles and reorders by
//! seed, under virtual time.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    time::{Duration, Instant},
};

use rand::{RngExt, SeedableRng, rngs::StdRng};
use zeroize::Zeroizing;

use super::{Client, ClientEvent, Limits, Server, Source, Store};
use crate::{
    endpoint::Path,
    secure::{PublicKey, StaticKey},
    testing::start,
    wire::server::{FromServer, ToServer},
};

/// Time of day at which every world begins.
pub(super) const DAWN: u64 = 1_700_000_000;

pub(super) fn key(n: u8) -> StaticKey {
    StaticKey::from_private(Zeroizing::new([n; 32]))
}

/// What the network does to a datagram.
#[derive(Debug, Clone)]
pub(super) struct Weather {
    /// One way.
    pub(super) delay: Duration,
    /// More than that, at random up to.
    pub(super) jitter: Duration,
    /// Percent lost, of UDP.
    pub(super) loss: u32,
    /// Percent doubled, of UDP.
    pub(super) doubled: u32,
    /// Percent lost, of what comes to the server over UDP: it has no room for more.
    pub(super) flooded: u32,
}

impl Default for Weather {
    fn default() -> Self {
        Weather { delay: Duration::from_millis(25), jitter: Duration::ZERO, loss: 0, doubled: 0, flooded: 0 }
    }
}

enum Flight {
    ToServer(Source, Vec<u8>),
    ToClient(Source, Vec<u8>),
}

/// A client and where it is.
pub(super) struct Party {
    pub(super) client: Client,
    /// Where its UDP datagrams come from.
    pub(super) udp: SocketAddr,
    /// Where its TCP connection comes from.
    pub(super) tcp: SocketAddr,
    pub(super) udp_blocked: bool,
    pub(super) tcp_blocked: bool,
    pub(super) running: bool,
    pub(super) inbox: Vec<FromServer>,
    pub(super) events: Vec<ClientEvent>,
    pub(super) server: SocketAddr,
}

pub(super) struct World {
    pub(super) now: Instant,
    pub(super) server: Server,
    pub(super) server_up: bool,
    pub(super) limits: Limits,
    pub(super) stored: BTreeMap<String, (PublicKey, u64)>,
    /// Changes that this run of the server has had stored.
    written: u64,
    pub(super) parties: Vec<Party>,
    pub(super) weather: Weather,
    /// All that is under way.
    flights: BTreeMap<(Instant, u64), Flight>,
    /// Bytes from and to addresses at which nobody has yet been seen to receive.
    balance: BTreeMap<Source, i64>,
    reached: BTreeMap<Source, bool>,
    rng: StdRng,
    sent: u64,
}

impl World {
    pub(super) fn new(seed: u64) -> Self {
        Self::with(seed, Limits::default(), Weather::default())
    }

    pub(super) fn with(seed: u64, limits: Limits, weather: Weather) -> Self {
        let mut rng = StdRng::seed_from_u64(seed);
        World {
            now: start(),
            server: Server::new(start(), rng.random(), key(200), limits.clone(), []),
            server_up: true,
            limits,
            stored: BTreeMap::new(),
            written: 0,
            parties: Vec::new(),
            weather,
            flights: BTreeMap::new(),
            balance: BTreeMap::new(),
            reached: BTreeMap::new(),
            rng,
            sent: 0,
        }
    }

    pub(super) fn unix_secs(&self) -> u64 {
        DAWN + (self.now - start()).as_secs()
    }

    /// A new run of a client with that key, over IPv4; its number.
    pub(super) fn join(&mut self, key_number: u8) -> usize {
        let node = self.rng.random();
        self.join_as(key_number, node, false, None)
    }

    /// The same with everything said.
    pub(super) fn join_as(
        &mut self,
        key_number: u8,
        node: [u8; 16],
        v6: bool,
        pinned: Option<PublicKey>,
    ) -> usize {
        let n = self.parties.len() + 1;
        let (udp, tcp, server) = if v6 {
            (format!("[2001:db8:{n:x}::1]:5000"), format!("[2001:db8:{n:x}::1]:6000"), "[2001:db8::1]:7862")
        } else {
            (format!("192.0.2.{n}:5000"), format!("192.0.2.{n}:6000"), "198.51.100.1:7862")
        };
        let server = server.parse().expect("an address");
        let client = Client::new(self.now, self.rng.random(), key(key_number), server, pinned, node);
        self.parties.push(Party {
            client,
            udp: udp.parse().expect("an address"),
            tcp: tcp.parse().expect("an address"),
            udp_blocked: false,
            tcp_blocked: false,
            running: true,
            inbox: Vec::new(),
            events: Vec::new(),
            server,
        });
        self.parties.len() - 1
    }

    pub(super) fn send(&mut self, party: usize, message: ToServer) {
        let now = self.now;
        self.parties[party].client.send(now, message).expect("room in the queue");
    }

    pub(super) fn inbox(&self, party: usize) -> &[FromServer] {
        &self.parties[party].inbox
    }

    pub(super) fn events(&self, party: usize) -> &[ClientEvent] {
        &self.parties[party].events
    }

    /// The server's process dies and begins anew, with what it stored.
    pub(super) fn restart_server(&mut self) {
        let owners: Vec<_> =
            self.stored.iter().map(|(name, (key, seen))| (name.clone(), *key, *seen)).collect();
        self.server = Server::new(self.now, self.rng.random(), key(200), self.limits.clone(), owners);
        self.written = 0;
    }

    /// Lets time pass, jumping from one thing that happens to the next.
    pub(super) fn run_for(&mut self, time: Duration) {
        let until = self.now + time;
        while self.step(until) {}
        self.now = until;
    }

    /// Lets time pass until something is so; fails after `limit`.
    #[track_caller]
    pub(super) fn run_until(&mut self, limit: Duration, what: impl Fn(&World) -> bool) -> Duration {
        let (began, until) = (self.now, self.now + limit);
        while !what(self) {
            if !self.step(until) {
                let events: Vec<_> = self.parties.iter().map(|p| (&p.events, &p.inbox)).collect();
                panic!("not within {limit:?}: {events:#?}");
            }
        }
        self.now - began
    }

    /// Something came to that party.
    #[track_caller]
    pub(super) fn run_until_heard(&mut self, party: usize, what: impl Fn(&FromServer) -> bool) -> Duration {
        self.run_until(Duration::from_secs(120), |w| w.inbox(party).iter().any(&what))
    }

    /// One thing happens, unless the next is later than `until`.
    fn step(&mut self, until: Instant) -> bool {
        self.pump();
        let arrivals = self.flights.keys().next().map(|(at, _)| *at);
        let alarms = self.parties.iter().filter(|p| p.running).filter_map(|p| p.client.poll_timeout());
        let server = self.server.poll_timeout().filter(|_| self.server_up);
        let Some(next) = alarms.chain(arrivals).chain(server).min().filter(|at| *at <= until) else {
            return false;
        };
        self.now = self.now.max(next);
        let (now, unix_secs) = (self.now, self.unix_secs());
        for party in self.parties.iter_mut().filter(|p| p.running) {
            if party.client.poll_timeout().is_some_and(|at| at <= now) {
                party.client.handle_timeout(now);
            }
        }
        if self.server_up && self.server.poll_timeout().is_some_and(|at| at <= now) {
            self.server.handle_timeout(now, unix_secs);
        }
        while let Some(entry) = self.flights.first_entry().filter(|e| e.key().0 <= now) {
            match entry.remove() {
                Flight::ToServer(from, datagram) => self.arrive(unix_secs, from, &datagram),
                Flight::ToClient(to, datagram) => self.reach(to, &datagram),
            }
            self.pump();
        }
        self.pump();
        true
    }

    fn arrive(&mut self, unix_secs: u64, from: Source, datagram: &[u8]) {
        *self.balance.entry(from).or_default() += datagram.len() as i64;
        if self.server_up {
            self.server.handle_datagram(self.now, unix_secs, from, datagram);
        }
    }

    fn reach(&mut self, to: Source, datagram: &[u8]) {
        let here = |p: &&mut Party| p.running && if to.udp { p.udp == to.addr } else { p.tcp == to.addr };
        if let Some(party) = self.parties.iter_mut().find(here) {
            let path = if to.udp { Path::Udp(party.server) } else { Path::Tcp(party.server) };
            assert!(party.client.handle_datagram(self.now, path, datagram));
            self.reached.insert(to, true);
        }
    }

    /// Drains every core.
    fn pump(&mut self) {
        for n in 0..self.parties.len() {
            let party = &mut self.parties[n];
            if !party.running {
                continue;
            }
            let mut sent = Vec::new();
            while let Some((path, datagram)) = party.client.poll_transmit(self.now) {
                sent.push((path, datagram));
            }
            while let Some(event) = party.client.poll_event() {
                match event {
                    ClientEvent::Message(message) => party.inbox.push(message),
                    event => party.events.push(event),
                }
            }
            let (udp, tcp) = (party.udp, party.tcp);
            let blocked = [party.udp_blocked, party.tcp_blocked];
            for (path, datagram) in sent {
                assert!(datagram.len() <= crate::wire::MAX_DATAGRAM);
                let (addr, is_udp, blocked) = match path {
                    Path::Udp(_) => (udp, true, blocked[0]),
                    Path::Tcp(_) => (tcp, false, blocked[1]),
                };
                let flooded = if is_udp { self.weather.flooded } else { 0 };
                let has_room = flooded == 0 || self.rng.random_range(0..100) >= flooded;
                if !blocked && has_room {
                    let from = Source { addr, udp: is_udp, via: 0 };
                    self.fly(is_udp, |bytes| Flight::ToServer(from, bytes), datagram);
                }
            }
        }
        while let Some((to, datagram)) = self.server.poll_transmit() {
            assert!(datagram.len() <= crate::wire::MAX_DATAGRAM);
            self.weigh(to, &datagram);
            self.fly(to.udp, |bytes| Flight::ToClient(to, bytes), datagram);
        }
        let before = self.written;
        while let Some(store) = self.server.poll_store() {
            self.written += 1;
            match store {
                Store::Put { name, key, last_seen } => self.stored.insert(name, (key, last_seen)),
                Store::Forget { name } => self.stored.remove(&name),
            };
        }
        if self.written > before {
            self.server.handle_stored(self.now, self.unix_secs(), self.written);
            self.pump();
        }
    }

    /// Nobody is a weapon: no address hears more than it said, before somebody received something there.
    fn weigh(&mut self, to: Source, datagram: &[u8]) {
        let balance = self.balance.entry(to).or_default();
        *balance -= datagram.len() as i64;
        let proved = !to.udp || self.reached.contains_key(&to);
        assert!(proved || *balance >= 0, "{to:?} hears {} bytes more than it said", -*balance);
    }

    fn fly(&mut self, udp: bool, flight: impl Fn(Vec<u8>) -> Flight, datagram: Vec<u8>) {
        let Weather { delay, jitter, loss, doubled, .. } = self.weather.clone();
        let mut copies = 1;
        let mut late = Duration::ZERO;
        if udp {
            copies = u32::from(self.rng.random_range(0..100) >= loss);
            copies += u32::from(copies > 0 && self.rng.random_range(0..100) < doubled);
        }
        for _ in 0..copies {
            if udp && !jitter.is_zero() {
                late = jitter.mul_f64(self.rng.random());
            }
            self.sent += 1;
            self.flights.insert((self.now + delay + late, self.sent), flight(datagram.clone()));
        }
    }
}
