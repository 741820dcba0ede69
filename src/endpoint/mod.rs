//! One peer, whole, without its sockets: the association with the rendezvous server, the lines to other
//! peers, their attempts, up to the nominated connection.
//!
//! An [`Endpoint`] is what `expose` and `connect` run, what `tests/sim` runs ten thousand times a
//! second, and what a program with an event loop of its own can run. It holds no socket, reads no clock
//! and draws no random number: [`Output`]s ask for what it needs, [`Input`]s tell it.
//!
//! **After every `handle_*`, drain [`Endpoint::poll`] until it answers `None`; then wait until
//! [`Endpoint::poll_timeout`] at the latest, and call [`Endpoint::handle_timeout`].**
//!
//! 1. [`Endpoint::new`] with the time, a seed and [`Settings`].
//! 2. A datagram came: [`Endpoint::handle_datagram`]. Anything else happened: [`Endpoint::handle`].
//! 3. Drain `poll`: transmit, bind, probe, listen, connect as it says.
//! 4. [`Output::Session`] and [`Output::Link`] hand what came of it to a [`crate::session::Session`].

#[cfg(test)]
mod attacks;
mod attempt;
mod bases;
mod brief;
mod candidates;
mod client;
mod connections;
mod event;
mod examination;
#[cfg(test)]
mod hardships;
mod heard;
mod host;
mod io;
mod kept;
mod line;
mod mend;
mod nat_use;
mod openings;
mod peer;
mod proved;
mod ration;
mod reasons;
#[cfg(test)]
mod refusals;
mod round;
mod server;
mod settings;
mod start;
mod survey;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod world;

use std::{
    collections::{BTreeMap, VecDeque},
    net::{IpAddr, Ipv6Addr, SocketAddr},
    time::Instant,
};

use rand::{Rng, RngExt};

pub use self::{
    event::{Event, Hearsay},
    examination::Answers,
    io::*,
    reasons::{Came, Tried},
    settings::*,
};

use self::{
    connections::Completed,
    examination::Examinations,
    line::{Line, Parcel, Relation},
    nat_use::NatUse,
    peer::{Env, Peer},
    survey::Means,
};
use crate::{
    punch::Budget,
    rendezvous::Client,
    secure::{Generator, StaticKey},
    wire::{packet::Packet, peer::Goodbye, server::ToServer},
};

/// What waits for the driver.
type Outbox = VecDeque<Output>;

/// One peer.
pub struct Endpoint {
    key: StaticKey,
    rng: Generator,
    servers: Vec<Client>,
    refusals: server::Refusals,
    probe_servers: Vec<SocketAddr>,
    server: IpAddr,
    part: Part,
    peers: BTreeMap<PeerId, Peer>,
    next_peer: u64,
    next_ports: u64,
    budget: Budget,
    hints: Vec<Hint>,
    nat: NatUse,
    examined: Examinations,
    out: Outbox,
    stopping: bool,
}

/// What only one kind of endpoint has.
enum Part {
    Host(host::Host),
    Client(Box<client::Asking>),
    /// Gives this name up.
    Owner(String),
}

impl Endpoint {
    /// Sets an endpoint up; it begins by itself. `seed` is 32 fresh random bytes.
    pub fn new(now: Instant, seed: [u8; 32], settings: Settings) -> Self {
        let Settings { key, servers, server_key, probe_servers, role, effort, hints, examine } = settings;
        let mut rng = Generator::new(seed);
        let node = rng.random();
        let server = servers.first().map_or(IpAddr::V6(Ipv6Addr::UNSPECIFIED), SocketAddr::ip);
        let servers = servers
            .into_iter()
            .map(|server| Client::new(now, rng.random(), key.clone(), server, server_key, node))
            .collect();
        let is_host = matches!(role, Role::Host { .. });
        // Whoever only gives a name up connects to nobody.
        let examine = examine && !matches!(role, Role::Owner { .. });
        let part = match role {
            Role::Host { name } => Part::Host(host::Host::new(name)),
            Role::Owner { name } => Part::Owner(name),
            Role::Client { name, host_key, invite } => {
                Part::Client(Box::new(client::Asking::new(name, host_key, invite)))
            }
        };
        let mut endpoint = Endpoint {
            key,
            rng,
            servers,
            refusals: server::Refusals::default(),
            probe_servers,
            server,
            part,
            peers: BTreeMap::new(),
            next_peer: 0,
            next_ports: 0,
            budget: effort.budget(),
            hints,
            nat: NatUse::default(),
            examined: Examinations::new(examine, is_host),
            out: VecDeque::new(),
            stopping: false,
        };
        for server in 0..endpoint.servers.len() {
            endpoint.introduce_self(now, server);
        }
        endpoint
    }

    /// A datagram came. What is no packet, or for nobody, is dropped.
    pub fn handle_datagram(&mut self, now: Instant, from: Path, datagram: &[u8]) {
        let from_peer = match from {
            Path::Udp(addr) => self.peer_datagram(now, Some(addr), datagram),
            Path::Tcp(_) => false,
        };
        if !from_peer {
            for server in 0..self.servers.len() {
                if self.servers[server].handle_datagram(now, from, datagram) {
                    self.drain_server(now, server);
                    break;
                }
            }
        }
        self.advance(now);
    }

    /// Something else happened.
    pub fn handle(&mut self, now: Instant, input: Input) {
        match input {
            Input::Admit { ask, verdict } => self.admit(now, ask, verdict),
            Input::Bound { ports, v4, v6, lan } => {
                if self.examined.bound(now, ports, (v4.len(), v6.len()), &mut self.out) {
                } else if let Some(early) = self.early_round(ports) {
                    let (batch, servers) = (self.rng.random(), &self.probe_servers);
                    let (pause, heard) = (self.nat.pause(), self.nat.heard());
                    let means = Means { servers, heard, batch, pause };
                    // Only a client has an early round, and it is not in use elsewhere.
                    let mut round = early;
                    round.bound(now, (v4, v6, lan), means, &mut self.out);
                    self.keep_early(round);
                } else {
                    self.with_ports(ports, |peer, env| peer.bound(now, ports, (v4, v6, lan), env));
                }
            }
            Input::BindFailed { ports, why } => {
                let is_examination = self.examined.bind_failed(ports, &mut self.out);
                if !is_examination && self.early_round(ports).is_none() {
                    self.with_ports(ports, |peer, env| peer.bind_failed(now, ports, why, env));
                }
            }
            Input::Probed { ports, number, answer } => {
                if let Some(mut round) = self.early_round(ports) {
                    round.probed(now, number, answer, &mut self.out);
                    self.nat.answered(round.servers(), false);
                    self.keep_early(round);
                } else {
                    self.with_ports(ports, |peer, env| peer.probed(now, (ports, number), answer, env));
                }
            }
            Input::Favour { ports, favour, answer } => {
                self.examined.answered(now, ports, (favour, answer), &mut self.out);
            }
            Input::Connected { ports, opening, conn } => {
                self.completed(now, ports, conn, Completed::Opening(opening));
            }
            Input::Accepted { ports, remote, conn } => {
                self.completed(now, ports, conn, Completed::Accepted(remote));
            }
            Input::Left { ports, left } => {
                self.with_ports(ports, |peer, _| peer.left(ports, &left));
            }
            Input::ConnectFailed { ports, opening, why } => {
                self.with_ports(ports, |peer, env| peer.connect_failed(now, (ports, opening), &why, env));
            }
            Input::Received { conn, bytes } => {
                if let Some(peer) = self.peers.values().find(|p| p.holds(conn)).map(|p| p.id) {
                    self.with_peer(peer, |peer, env| peer.received(now, conn, &bytes, env));
                }
            }
            Input::Closed { conn } => self.peers.values_mut().for_each(|p| p.conn_closed(conn)),
            Input::LinkLost { peer, epoch } => {
                self.servers.iter_mut().for_each(|s| s.suspect(now));
                self.with_peer(peer, |peer, env| peer.link_lost(now, epoch, env));
            }
            Input::LinkSick { peer, epoch } => {
                self.with_peer(peer, |peer, env| peer.link_sick(now, epoch, env));
            }
            Input::End { peer, why } => self.with_peer(peer, |peer, env| peer.end(now, why, env.out)),
            Input::NetworkChanged => {
                self.examined.forget_all(&mut self.out);
                self.servers.iter_mut().for_each(|s| s.handle_network_change(now));
                let ids: Vec<PeerId> = self.peers.keys().copied().collect();
                for id in ids {
                    self.with_peer(id, |peer, env| peer.network_changed(now, env));
                }
            }
            Input::Stop => self.stop(now),
        }
        self.advance(now);
    }

    /// The time that [`poll_timeout`](Self::poll_timeout) named has come.
    pub fn handle_timeout(&mut self, now: Instant) {
        for server in 0..self.servers.len() {
            self.servers[server].handle_timeout(now);
            self.drain_server(now, server);
        }
        self.advance(now);
    }

    /// What is to be done next.
    pub fn poll(&mut self, now: Instant) -> Option<Output> {
        if self.out.is_empty() {
            self.transmit(now);
        }
        self.out.pop_front()
    }

    /// When to call [`handle_timeout`](Self::handle_timeout) at the latest.
    pub fn poll_timeout(&self) -> Option<Instant> {
        let peers = self.peers.values().filter_map(Peer::poll_timeout);
        let servers = self.servers.iter().filter_map(Client::poll_timeout);
        peers.chain(servers).chain(self.part_timeout()).chain(self.refusals.poll_timeout()).min()
    }

    /// Nothing is left to be said after [`Input::Stop`].
    pub fn is_finished(&self) -> bool {
        self.stopping && self.peers.is_empty() && self.servers.iter().all(Client::is_idle)
    }

    fn stop(&mut self, now: Instant) {
        self.stopping = true;
        for peer in self.peers.values_mut() {
            peer.end(now, Goodbye::Stopped, &mut self.out);
        }
        if let Part::Host(_) = self.part {
            for server in 0..self.servers.len() {
                self.tell(now, server, ToServer::Unregister);
            }
        }
    }

    /// Everything that follows from the time.
    fn advance(&mut self, now: Instant) {
        let ids: Vec<PeerId> = self.peers.keys().copied().collect();
        for id in ids {
            self.with_peer(id, |peer, env| peer.advance(now, env));
        }
        self.peers.retain(|_, peer| !peer.is_gone());
        self.advance_refusals(now);
        match self.part {
            Part::Host(_) => self.advance_host(now),
            Part::Client(_) => self.advance_client(now),
            Part::Owner(_) => {}
        }
    }

    /// Hands out what lines and associations want to send.
    fn transmit(&mut self, now: Instant) {
        for peer in self.peers.values_mut() {
            while let Some(Parcel { datagram, direct, relay }) = peer.line.poll_transmit(now) {
                if let Some(Relation { server, number }) = relay
                    && let Some(server) = self.servers.get_mut(server)
                {
                    // Lost where it cannot be queued, as any datagram may be.
                    let relay = ToServer::Relay { relation: number, datagram: datagram.clone().into() };
                    let _ = server.send(now, relay);
                }
                for to in direct {
                    let (path, datagram) = (Path::Udp(to), datagram.clone());
                    self.out.push_back(Output::Transmit { path, datagram });
                }
            }
        }
        for server in &mut self.servers {
            while let Some((path, datagram)) = server.poll_transmit(now) {
                self.out.push_back(Output::Transmit { path, datagram });
            }
        }
    }

    /// Is it for a line of ours? From there directly, or (`None`) through the server.
    fn peer_datagram(&mut self, now: Instant, from: Option<SocketAddr>, datagram: &[u8]) -> bool {
        let Ok(Packet::Data { index, counter, sealed }) = Packet::parse(datagram) else { return false };
        let found = self.peers.values().find_map(|p| {
            let fresh = p.fresh.as_ref().is_some_and(|l| l.index == index);
            (fresh || p.line.index == index).then_some((p.id, fresh))
        });
        let Some((id, fresh)) = found else { return false };
        self.with_peer(id, |peer, env| {
            let line = if fresh { peer.fresh.as_mut().unwrap_or(&mut peer.line) } else { &mut peer.line };
            let Ok(messages) = line.handle(now, from, counter, sealed) else { return };
            // The first authentic datagram proves the other side, its invite included.
            if fresh && let Some(line) = peer.fresh.take() {
                peer.replace_line(now, line);
            }
            peer.announce(env.out);
            peer.tell_hole(env.out);
            peer.handle_all(now, messages, env);
        });
        true
    }

    /// An association is lost. The server knows a relation by both ends, whichever family they speak
    /// over: where there is another one, it goes on there.
    fn relations_over(&mut self, lost: usize) {
        let instead = self.reached_over();
        for line in self.lines() {
            line.relation = line.relation.and_then(|relation| match instead {
                _ if relation.server != lost => Some(relation),
                Some(server) => Some(Relation { server, ..relation }),
                None => None,
            });
        }
    }

    fn drop_relation(&mut self, number: u32) {
        for line in self.lines() {
            line.relation.take_if(|r| r.number == number);
        }
    }

    fn lines(&mut self) -> impl Iterator<Item = &mut Line> {
        self.peers.values_mut().flat_map(|p| p.fresh.iter_mut().chain([&mut p.line]))
    }

    fn completed(&mut self, now: Instant, ports: PortsId, conn: ConnId, from: Completed) {
        if self.peers.values().any(|p| p.owns(ports)) {
            self.with_ports(ports, |peer, env| peer.completed(now, (ports, conn), from, env));
        } else {
            self.out.push_back(Output::Close { conn });
        }
    }

    fn with_ports(&mut self, ports: PortsId, run: impl FnOnce(&mut Peer, &mut Env)) {
        if let Some(id) = self.peers.values().find(|p| p.owns(ports)).map(|p| p.id) {
            self.with_peer(id, run);
        }
    }

    fn with_peer(&mut self, id: PeerId, run: impl FnOnce(&mut Peer, &mut Env)) {
        let Endpoint {
            key, rng, next_ports, probe_servers, server, budget, hints, nat, examined, out, ..
        } = self;
        let (server, budget) = (*server, *budget);
        let mut env = Env { key, rng, next_ports, probe_servers, server, budget, hints, nat, examined, out };
        if let Some(peer) = self.peers.get_mut(&id) {
            run(peer, &mut env);
        }
    }

    fn new_peer_id(&mut self) -> PeerId {
        self.next_peer += 1;
        PeerId(self.next_peer)
    }

    /// A random index that no line and no association uses.
    fn new_index(&mut self) -> u32 {
        loop {
            let index = self.rng.random();
            let lines = self.peers.values().flat_map(|p| p.fresh.iter().chain([&p.line]));
            let mut used = lines.map(|l| l.index).chain(self.servers.iter().filter_map(Client::local_index));
            if index != 0 && !used.any(|i| i == index) {
                return index;
            }
        }
    }

    fn seed(&mut self) -> [u8; 32] {
        let mut seed = [0; 32];
        self.rng.fill_bytes(&mut seed);
        seed
    }
}
