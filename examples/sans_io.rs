//! The cores by themselves: a rendezvous server, a host and a client in one thread, without a socket,
//! under a clock that jumps from one event to the next. This is the loop that a program with an event
//! loop of its own writes, and what `tests/sim` does with NATs in between.
//!
//! ```sh
//! cargo run --example sans_io
//! ```

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    time::{Duration, Instant},
};

use punchtunnel::{
    endpoint::{ConnId, Endpoint, Input, Output, Path, PortsId, Role, Settings},
    generate_key,
    net::clock,
    punch::Effort,
    rendezvous::{Batches, Limits, Server, Source},
    secure::Psk,
};

/// One way, between any two of the three.
const DELAY: Duration = Duration::from_millis(20);

const SERVER: &str = "192.0.2.1:7862";
const HOST: &str = "198.51.100.1:1000";
const CLIENT: &str = "203.0.113.1:1000";

/// What arrives somewhere.
enum Arrival {
    /// A datagram from the first address at the second.
    Datagram(SocketAddr, SocketAddr, Vec<u8>),
    /// The SYN of an opening, from the first address at the second.
    Syn(SocketAddr, SocketAddr),
    /// What the endpoint at an address is told.
    Input(SocketAddr, Input),
}

/// One peer.
struct Peer {
    endpoint: Endpoint,
    /// Ports that are listened on, and their set.
    listening: BTreeMap<u16, PortsId>,
    /// Openings whose instant has come or is going to come, by local and remote address.
    openings: BTreeMap<(SocketAddr, SocketAddr), (PortsId, u32)>,
}

/// Everything.
struct World {
    began: Instant,
    now: Instant,
    server: Server,
    stored: u64,
    batches: Batches,
    peers: BTreeMap<SocketAddr, Peer>,
    /// What is on its way, by its time and a counter.
    flying: BTreeMap<(Instant, u64), Arrival>,
    count: u64,
    /// Connections, by their two ends.
    connections: BTreeMap<ConnId, (SocketAddr, SocketAddr)>,
    linked: BTreeSet<SocketAddr>,
}

fn main() {
    // The only glance at a clock: a point to count from.
    let began = clock::now();
    let server_key = generate_key();
    let (host_key, client_key) = (generate_key(), generate_key());
    let trusted = host_key.public();
    let mut world = World {
        began,
        now: began,
        server: Server::new(began, [1; 32], server_key, Limits::default(), []),
        stored: 0,
        batches: Batches::new(began),
        peers: BTreeMap::new(),
        flying: BTreeMap::new(),
        count: 0,
        connections: BTreeMap::new(),
        linked: BTreeSet::new(),
    };
    let host = Role::Host { name: "myhost".into() };
    let client = Role::Client { name: "myhost".into(), host_key: Some(trusted), invite: None };
    for (address, key, role, seed) in [(HOST, host_key, host, 2), (CLIENT, client_key, client, 3)] {
        let probe_servers = vec![addr(SERVER), addr("192.0.2.1:7863")];
        let (servers, effort) = (vec![addr(SERVER)], Effort::Normal);
        let (hints, examine) = (Vec::new(), false);
        let settings =
            Settings { key, servers, server_key: None, probe_servers, effort, hints, examine, role };
        let endpoint = Endpoint::new(began, [seed; 32], settings);
        world
            .peers
            .insert(addr(address), Peer { endpoint, listening: BTreeMap::new(), openings: BTreeMap::new() });
    }
    while world.linked.len() < 2 {
        world.step();
    }
}

impl World {
    /// 1. Carry out what everybody wants. 2. Jump to the next event. 3. Tell whom it concerns.
    fn step(&mut self) {
        let now = self.now;
        for address in self.peers.keys().copied().collect::<Vec<_>>() {
            while let Some(output) = self.peer(address).1.endpoint.poll(now) {
                self.carry_out(address, output);
            }
        }
        // This server remembers names in memory only, so what it wants stored is stored at once.
        while self.server.poll_store().is_some() {
            self.stored += 1;
        }
        self.server.handle_stored(now, 0, self.stored);
        while let Some((to, datagram)) = self.server.poll_transmit() {
            self.after(DELAY, Arrival::Datagram(addr(SERVER), to.addr, datagram));
        }

        let timeouts = self.peers.values().filter_map(|peer| peer.endpoint.poll_timeout());
        let arrival = self.flying.keys().next().map(|(at, _)| *at);
        let next = timeouts.chain(self.server.poll_timeout()).chain(arrival).min();
        self.now = self.now.max(next.expect("somebody always waits for something"));

        while let Some(entry) = self.flying.first_entry()
            && entry.key().0 <= self.now
        {
            let arrival = entry.remove();
            self.arrive(arrival);
        }
        let now = self.now;
        self.server.handle_timeout(now, 0);
        self.peers.values_mut().for_each(|peer| peer.endpoint.handle_timeout(now));
    }

    /// What a driver does with its sockets.
    fn carry_out(&mut self, me: SocketAddr, output: Output) {
        let now = self.now;
        match output {
            Output::Transmit { path: Path::Udp(to), datagram } => {
                self.after(DELAY, Arrival::Datagram(me, to, datagram));
            }
            Output::Admit { ask, .. } => {
                self.after(
                    Duration::ZERO,
                    Arrival::Input(me, Input::Admit { ask, verdict: Ok(Psk::none()) }),
                );
            }
            Output::Bind { ports, count } => {
                let v4 = (0..count).map(|port| 40_000 + port).collect();
                let bound = Input::Bound { ports, v4, v6: Vec::new(), lan: Vec::new() };
                self.after(Duration::ZERO, Arrival::Input(me, bound));
            }
            Output::Probe { ports, number, server, question, .. } => {
                // There is no NAT here: the server sees the port itself.
                let from = SocketAddr::new(me.ip(), question.local_port);
                let answer = self.batches.observe(now, now + DELAY, question, server, from);
                let probed = Input::Probed { ports, number, answer: Some(answer) };
                self.after(3 * DELAY, Arrival::Input(me, probed));
            }
            Output::Listen { ports, local } => {
                self.peer(me).1.listening.insert(40_000 + local, ports);
            }
            Output::Connect { ports, opening, local, remote, at, .. } => {
                let from = SocketAddr::new(me.ip(), 40_000 + local.unwrap_or(u16::MAX - 40_000));
                self.peer(me).1.openings.insert((from, remote), (ports, opening));
                self.after(at.saturating_duration_since(now) + DELAY, Arrival::Syn(from, remote));
            }
            Output::Send { conn, bytes } => {
                let (from, to) = self.connections[&conn];
                let other = *self.connections.iter().find(|(_, ends)| **ends == (to, from)).unwrap().0;
                let (there, _) = self.peer(to);
                self.after(DELAY, Arrival::Input(there, Input::Received { conn: other, bytes }));
            }
            Output::Link { conn, .. } => {
                self.say(me, &format!("has the link, to {}", self.connections[&conn].1));
                self.linked.insert(me);
            }
            Output::Event(event) => self.say(me, &format!("{event:?}")),
            _ => {}
        }
    }

    fn arrive(&mut self, arrival: Arrival) {
        let now = self.now;
        match arrival {
            Arrival::Datagram(from, to, datagram) if to == addr(SERVER) => {
                self.server.handle_datagram(now, 0, Source { addr: from, udp: true, via: 0 }, &datagram);
            }
            Arrival::Datagram(from, to, datagram) => {
                self.peer(to).1.endpoint.handle_datagram(now, Path::Udp(from), &datagram);
            }
            Arrival::Input(to, input) => self.peer(to).1.endpoint.handle(now, input),
            // A SYN at an opening to where it came from: the simultaneous open of RFC 9293 section 3.5.
            Arrival::Syn(from, to) => {
                let (here, peer) = self.peer(to);
                let opening = peer.openings.get(&(to, from)).copied();
                let listener = peer.listening.get(&to.port()).copied();
                let conn = self.connect(to, from);
                let input = match (opening, listener) {
                    (Some((ports, opening)), _) => Input::Connected { ports, opening, conn },
                    (None, Some(ports)) => Input::Accepted { ports, remote: from, conn },
                    (None, None) => return,
                };
                if opening.is_none() {
                    let (there, peer) = self.peer(from);
                    let (ports, opening) = peer.openings[&(from, to)];
                    let conn = self.connect(from, to);
                    self.after(DELAY, Arrival::Input(there, Input::Connected { ports, opening, conn }));
                }
                self.peer(here).1.endpoint.handle(now, input);
            }
        }
    }

    fn connect(&mut self, here: SocketAddr, there: SocketAddr) -> ConnId {
        self.count += 1;
        let conn = ConnId(self.count);
        self.connections.insert(conn, (here, there));
        conn
    }

    fn after(&mut self, delay: Duration, arrival: Arrival) {
        self.count += 1;
        self.flying.insert((self.now + delay, self.count), arrival);
    }

    /// The peer that has the address's IP address.
    fn peer(&mut self, address: SocketAddr) -> (SocketAddr, &mut Peer) {
        let found = self.peers.iter_mut().find(|(at, _)| at.ip() == address.ip());
        let (at, peer) = found.expect("only the three exist");
        (*at, peer)
    }

    fn say(&self, who: SocketAddr, what: &str) {
        let name = if who == addr(HOST) { "host" } else { "client" };
        println!("{:>7.1?}  {name}: {what}", self.now - self.began);
    }
}

fn addr(text: &str) -> SocketAddr {
    text.parse().expect("the addresses above are addresses")
}
