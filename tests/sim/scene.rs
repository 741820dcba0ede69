//! A rendezvous server, a host and its clients, each where the test puts them.

use std::{
    net::{IpAddr, SocketAddr},
    sync::Once,
    time::{Duration, Instant},
};

use punchtunnel::{
    endpoint::{Event as Told, Role, Settings},
    punch::Effort,
    secure::{Psk, StaticKey},
    wire::DEFAULT_PORT,
};
use tracing::{Level, Metadata, Subscriber, span};
use zeroize::Zeroizing;

use crate::{
    exchange::Tunnel,
    nat_model::Behaviour,
    peer::{Admission, Peer, UDP_PORT},
    server::{PORTS, Rendezvous},
    spread,
    tcp::Event,
    world::{Conditions, HostId, INTERNET, Io, NetworkId, Program, World},
};

/// The host's name.
pub const NAME: &str = "myhost";

/// Bytes that client and host exchange to prove a link.
pub const GOAL: usize = 4_000;

/// Whoever runs on a machine of the scene.
pub enum Party {
    Server(Box<Rendezvous>),
    Peer(Box<Peer>),
}

/// Where client and host are.
pub enum Place {
    /// Each behind its own NATs, the innermost first; behind none, with a public address.
    Apart([Vec<Behaviour>; 2]),
    /// In one LAN.
    Lan(Behaviour),
    /// Each behind its own NAT, both behind one carrier's.
    Carrier([Behaviour; 2], Behaviour),
    /// IPv6 only, each behind its own firewall.
    V6([Behaviour; 2]),
}

/// How the client is known to the host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trust {
    Authorised,
    Invited,
    Unknown,
}

/// Everything of a scene.
pub struct Scene {
    pub world: World<Party>,
    pub server: HostId,
    pub host: HostId,
    pub clients: Vec<HostId>,
    /// The network of the client, then the host's.
    pub networks: [NetworkId; 2],
    pub trust: Trust,
    /// What each attempt may cost.
    pub effort: Effort,
    /// The test plays the programs at both ends.
    pub scripted: bool,
    seed: u64,
    server_addr: SocketAddr,
    inside: [Vec<IpAddr>; 2],
}

/// Client, then host.
const PUBLIC: [&str; 2] = ["198.51.100.10", "198.51.100.20"];

fn ip(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

fn key(seed: u64) -> StaticKey {
    StaticKey::from_private(Zeroizing::new(spread(seed)))
}

/// What the client's invite is called, and its secret.
fn invite() -> (u64, Psk) {
    (4711, Psk(Zeroizing::new(spread(4711))))
}

impl Scene {
    /// A server and a registered host; no client yet.
    pub fn new(seed: u64, place: Place, conditions: Conditions) -> Self {
        let mut scene = Scene::without_host(seed, place, conditions);
        scene.start_host();
        scene.world.run_for(Duration::from_secs(3));
        scene
    }

    /// A server alone.
    pub fn without_host(seed: u64, place: Place, conditions: Conditions) -> Self {
        errors_fail_the_test();
        let mut world = World::new(seed, conditions);
        let v6 = matches!(place, Place::V6(_));
        let server_ip = ip(if v6 { "2001:db8:ff::1" } else { "203.0.113.1" });
        let rendezvous = Rendezvous::new(world.random(), key(seed ^ 0x5e4e4));
        let server = world.host(INTERNET, &[server_ip], &[DEFAULT_PORT], Party::Server(Box::new(rendezvous)));
        let (networks, inside) = settle(&mut world, place);
        Scene {
            world,
            server,
            host: server,
            clients: Vec::new(),
            networks,
            trust: Trust::Authorised,
            effort: Effort::default(),
            scripted: false,
            seed,
            server_addr: SocketAddr::new(server_ip, DEFAULT_PORT),
            inside,
        }
    }

    /// The host comes up.
    pub fn start_host(&mut self) {
        let mut admission = Admission::default();
        for client in 0..16 {
            admission.authorised.insert(self.client_key(client).public());
        }
        if self.trust != Trust::Authorised {
            admission.authorised.clear();
        }
        if self.trust == Trust::Invited {
            let (id, secret) = invite();
            admission.invites.insert(id, secret);
        }
        let late = self.lateness();
        let settings = self.settings(self.host_key(), Role::Host { name: NAME.into() });
        let mut peer = Peer::new(self.world.random(), settings, admission, 0, late);
        peer.scripted = self.scripted;
        let inside = self.inside[1].clone();
        let party = Party::Peer(Box::new(peer));
        self.host = self.world.host(self.networks[1], &inside, &[UDP_PORT], party);
    }

    /// Another client comes up.
    pub fn start_client(&mut self) -> HostId {
        let number = self.clients.len();
        let role = Role::Client {
            name: NAME.into(),
            host_key: (self.trust != Trust::Invited).then(|| self.host_key().public()),
            invite: (self.trust == Trust::Invited).then(invite),
        };
        let late = self.lateness();
        let settings = self.settings(self.client_key(number), role);
        let mut peer = Peer::new(self.world.random(), settings, Admission::default(), GOAL, late);
        peer.scripted = self.scripted;
        // Clients of one network have addresses in a row.
        let inside: Vec<IpAddr> = self.inside[0].iter().map(|ip| nth(*ip, number)).collect();
        let party = Party::Peer(Box::new(peer));
        let client = self.world.host(self.networks[0], &inside, &[UDP_PORT], party);
        self.clients.push(client);
        client
    }

    /// The first client.
    pub fn client(&self) -> &Peer {
        self.peer(self.clients[0])
    }

    pub fn peer(&self, id: HostId) -> &Peer {
        match self.world.program(id) {
            Party::Peer(peer) => peer,
            Party::Server(_) => panic!("that is the server"),
        }
    }

    /// The session of the first client, or the host's with it.
    pub fn tunnel(&mut self, id: HostId) -> Option<&mut Tunnel> {
        match self.world.program_mut(id) {
            Party::Peer(peer) => peer.sessions.values_mut().next(),
            Party::Server(_) => None,
        }
    }

    /// Acts on a peer.
    pub fn with_peer<R>(&mut self, id: HostId, act: impl FnOnce(&mut Peer, &mut Io<'_>) -> R) -> R {
        self.world.with(id, |party, io| match party {
            Party::Peer(peer) => act(peer, io),
            Party::Server(_) => panic!("that is the server"),
        })
    }

    /// The server process ends and begins again.
    pub fn restart_server(&mut self) {
        self.world.with(self.server, |party, io| match party {
            Party::Server(server) => server.restart(io),
            Party::Peer(_) => panic!("that is a peer"),
        });
    }

    /// Runs until the first client's exchange is complete, or the time is over.
    pub fn run_until_done(&mut self, limit: Duration) -> bool {
        let client = self.clients[0];
        self.world.run_until(limit, |world| match world.program(client) {
            Party::Peer(peer) => peer.is_done(),
            Party::Server(_) => false,
        })
    }

    /// Runs until the first client was told such a thing, or the time is over.
    pub fn run_until_told(&mut self, limit: Duration, such: impl Fn(&Told) -> bool) -> bool {
        let client = self.clients[0];
        self.world.run_until(limit, |world| match world.program(client) {
            Party::Peer(peer) => peer.told(&such) > 0,
            Party::Server(_) => false,
        })
    }

    /// More bytes are to be exchanged: the proof that the session goes on.
    pub fn exchange_more(&mut self, limit: Duration) -> bool {
        for client in self.clients.clone() {
            self.with_peer(client, |peer, _| peer.goal += GOAL);
        }
        self.run_until_done(limit)
    }

    /// From the client's beginning to the first byte of the service.
    pub fn first_byte(&self) -> Option<Duration> {
        let client = self.client();
        Some(client.session()?.first_byte? - client.began?)
    }

    /// Rounds that brought nothing.
    pub fn failed_rounds(&self) -> usize {
        self.client().told(|event| matches!(event, Told::RoundFailed { .. }))
    }

    /// What the first client and the host were told, in order, for the report of a failure.
    pub fn story(&self) -> String {
        let mut story = String::new();
        for (who, id) in [("client", self.clients.first()), ("host", Some(&self.host))] {
            let Some(&id) = id else { continue };
            let began = self.peer(id).began.unwrap_or(self.world.clock(id));
            for (at, event) in &self.peer(id).events {
                story += &format!("{who} {:>9.3?} {event:?}\n", at.duration_since(began));
            }
        }
        story
    }

    fn lateness(&mut self) -> Duration {
        let share = (self.world.random() % 1000) as u32;
        self.world.conditions.lateness * share / 1000
    }

    fn settings(&self, key: StaticKey, role: Role) -> Settings {
        Settings {
            key,
            servers: vec![self.server_addr],
            server_key: None,
            probe_servers: PORTS.map(|port| SocketAddr::new(self.server_addr.ip(), port)).to_vec(),
            role,
            effort: self.effort,
            hints: Vec::new(),
            examine: true,
        }
    }

    fn host_key(&self) -> StaticKey {
        key(self.seed ^ 0x4057)
    }

    fn client_key(&self, number: usize) -> StaticKey {
        key(self.seed ^ 0xc11e47 ^ ((number as u64) << 32))
    }
}

/// The `n`th address after this one.
fn nth(address: IpAddr, n: usize) -> IpAddr {
    match address {
        IpAddr::V4(v4) => IpAddr::V4((u32::from(v4) + n as u32).into()),
        IpAddr::V6(v6) => IpAddr::V6((u128::from(v6) + n as u128).into()),
    }
}

/// Builds the networks of client and host, and says which addresses the two have in them.
fn settle(world: &mut World<Party>, place: Place) -> ([NetworkId; 2], [Vec<IpAddr>; 2]) {
    // Homes all over the world use the same private addresses.
    let private = [vec![ip("192.168.1.10")], vec![ip("192.168.1.2")]];
    match place {
        Place::Apart(sides) => {
            let mut inside = private;
            let mut networks = [INTERNET; 2];
            for (side, nats) in sides.iter().enumerate() {
                for (depth, behaviour) in nats.iter().rev().enumerate() {
                    let public = match depth {
                        0 => ip(PUBLIC[side]),
                        _ => ip(&format!("100.64.{depth}.{}", 2 + side)),
                    };
                    networks[side] = world.network(networks[side], behaviour, &[public]);
                }
                if nats.is_empty() {
                    inside[side] = vec![ip(PUBLIC[side])];
                }
            }
            (networks, inside)
        }
        Place::Lan(behaviour) => {
            let network = world.network(INTERNET, &behaviour, &[ip(PUBLIC[0])]);
            ([network; 2], private)
        }
        Place::Carrier(homes, carrier) => {
            let carrier = world.network(INTERNET, &carrier, &[ip(PUBLIC[0])]);
            let home = |world: &mut World<Party>, side: usize| {
                world.network(carrier, &homes[side], &[ip(&format!("100.64.0.{}", 2 + side))])
            };
            ([home(world, 0), home(world, 1)], private)
        }
        Place::V6(firewalls) => {
            let networks = [0, 1].map(|side| world.network(INTERNET, &firewalls[side], &[]));
            (networks, [vec![ip("2001:db8:a::10")], vec![ip("2001:db8:b::2")]])
        }
    }
}

impl Program for Party {
    fn datagram(&mut self, io: &mut Io<'_>, from: SocketAddr, to: SocketAddr, bytes: &[u8]) {
        match self {
            Party::Server(server) => server.datagram(io, from, to, bytes),
            Party::Peer(peer) => peer.datagram(io, from, to, bytes),
        }
    }

    fn tcp(&mut self, io: &mut Io<'_>, event: Event) {
        match self {
            Party::Server(server) => server.tcp(io, event),
            Party::Peer(peer) => peer.tcp(io, event),
        }
    }

    fn wake(&mut self, io: &mut Io<'_>) {
        match self {
            Party::Server(server) => server.wake(io),
            Party::Peer(peer) => peer.wake(io),
        }
    }

    fn deadline(&self) -> Option<Instant> {
        match self {
            Party::Server(server) => server.deadline(),
            Party::Peer(peer) => peer.deadline(),
        }
    }
}

/// From now on an event of level ERROR anywhere is a panic where it happens.
fn errors_fail_the_test() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        tracing::subscriber::set_global_default(Alarm).expect("nobody else listens");
    });
}

struct Alarm;

impl Subscriber for Alarm {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        *metadata.level() == Level::ERROR
    }

    fn new_span(&self, _: &span::Attributes<'_>) -> span::Id {
        span::Id::from_u64(1)
    }

    fn record(&self, _: &span::Id, _: &span::Record<'_>) {}

    fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}

    fn event(&self, event: &tracing::Event<'_>) {
        panic!("an error was logged: {event:?}");
    }

    fn enter(&self, _: &span::Id) {}

    fn exit(&self, _: &span::Id) {}
}
