//! A network of hosts, servers and NATs under virtual time, in one thread, from one seed.
//!
//! Networks form a tree with the internet at its root; each other network hangs behind a [`Nat`]. A packet
//! is routed as it travels: every network that it reaches either has its destination, leads down through
//! the NAT that owns it, or leads up through its own NAT. Delay, jitter and loss belong to the internet;
//! inside a network there is a small constant delay, so that packets of one host reach its NAT in order.
//!
//! **After everything that happens to a host, its TCP, its program and its queues are drained until
//! nothing is left to do, and then its next deadline is noted.**

mod conditions;
mod program;
mod queue;

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BinaryHeap},
    net::{IpAddr, Ipv4Addr, SocketAddr},
    time::{Duration, Instant},
};

use rand::{RngExt, SeedableRng, rngs::StdRng};

use self::queue::{Happening, Queued};
pub use self::{
    conditions::Conditions,
    program::{Io, Program},
};
use crate::{
    nat_model::{Behaviour, IcmpError, Kind, Nat, Packet, Transport, Verdict},
    tcp::{Segment, Stack},
};

/// One hop inside a network.
const LAN_DELAY: Duration = Duration::from_micros(100);

/// Longest time that a host sleeps altogether while its clock stands still.
const MOST_SLEEP: Duration = Duration::from_secs(72 * 3600);

/// More than this does not happen in a second.
const MOST_IN_A_SECOND: u64 = 5_000_000;

/// Routers between any two networks of the internet.
pub const INTERNET_HOPS: u8 = 8;

/// A host of the world.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HostId(pub usize);

/// A network of the world.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NetworkId(pub usize);

/// The internet.
pub const INTERNET: NetworkId = NetworkId(0);

struct Host<P> {
    network: NetworkId,
    addresses: Vec<IpAddr>,
    udp: Vec<u16>,
    tcp: Stack,
    program: P,
    clock_offset: Duration,
    /// The earliest wake-up in the queue.
    wake: Option<Instant>,
    cut: bool,
    /// Suspended since.
    asleep: Option<Instant>,
}

struct Network {
    /// The way up; the internet has none.
    up: Option<(NetworkId, Nat)>,
    /// IPv6 addresses of hosts below.
    below: Vec<IpAddr>,
    /// How much longer the way out over the internet is than the way in.
    longer: Duration,
}

/// Everything.
pub struct World<P> {
    pub now: Instant,
    pub conditions: Conditions,
    /// Packets that crossed the internet, and SYNs among them.
    pub crossed: u64,
    pub syns: u64,
    /// Addresses on the internet whose packets, in either direction, take so much longer.
    pub slow: BTreeMap<SocketAddr, Duration>,
    /// Prints each packet.
    pub trace: bool,
    beginning: Instant,
    rng: StdRng,
    queue: BinaryHeap<Reverse<Queued>>,
    last: u64,
    /// Whole seconds so far, and what has happened in the last one.
    busy: (u64, u64),
    hosts: Vec<Host<P>>,
    networks: Vec<Network>,
    routes: BTreeMap<(NetworkId, IpAddr), HostId>,
}

impl<P: Program> World<P> {
    pub fn new(seed: u64, conditions: Conditions) -> Self {
        #[expect(clippy::disallowed_methods, reason = "any instant will do as the beginning")]
        let beginning = Instant::now();
        World {
            now: beginning,
            conditions,
            crossed: 0,
            syns: 0,
            slow: BTreeMap::new(),
            trace: false,
            beginning,
            rng: StdRng::seed_from_u64(seed),
            queue: BinaryHeap::new(),
            last: 0,
            busy: (0, 0),
            hosts: Vec::new(),
            networks: vec![Network { up: None, below: Vec::new(), longer: Duration::ZERO }],
            routes: BTreeMap::new(),
        }
    }

    /// A random number out of the world's seed.
    pub fn random(&mut self) -> u64 {
        self.rng.random()
    }

    /// Time since the beginning.
    pub fn elapsed(&self) -> Duration {
        self.now - self.beginning
    }

    /// A network behind a NAT with these public addresses.
    pub fn network(&mut self, up: NetworkId, behaviour: &Behaviour, public: &[IpAddr]) -> NetworkId {
        let seed = self.rng.random();
        let nat = Nat::new(behaviour, public.to_vec(), seed, self.now);
        let longer = self.conditions.asymmetry.mul_f64(self.rng.random());
        self.networks.push(Network { up: Some((up, nat)), below: Vec::new(), longer });
        NetworkId(self.networks.len() - 1)
    }

    /// A host with open UDP ports; its clock runs ahead by up to ten hours.
    pub fn host(&mut self, network: NetworkId, addresses: &[IpAddr], udp: &[u16], program: P) -> HostId {
        let id = HostId(self.hosts.len());
        let ahead = self.rng.random_range(0..36_000_000_000);
        let clock_offset = MOST_SLEEP + Duration::from_micros(ahead);
        self.hosts.push(Host {
            network,
            addresses: Vec::new(),
            udp: udp.to_vec(),
            tcp: Stack::new(Vec::new()),
            program,
            clock_offset,
            wake: None,
            cut: false,
            asleep: None,
        });
        self.set_addresses(id, addresses);
        self.schedule(self.now, Happening::Wake(id));
        id
    }

    /// Gives a host other addresses.
    pub fn set_addresses(&mut self, id: HostId, addresses: &[IpAddr]) {
        let host = &mut self.hosts[id.0];
        let (network, old) = (host.network, std::mem::replace(&mut host.addresses, addresses.to_vec()));
        host.tcp.set_addresses(addresses.to_vec());
        for ip in &old {
            self.routes.remove(&(network, *ip));
        }
        for ip in addresses {
            self.routes.insert((network, *ip), id);
        }
        let mut above = Some(network);
        while let Some(here) = above {
            let network = &mut self.networks[here.0];
            network.below.retain(|ip| !old.contains(ip));
            network.below.extend(addresses.iter().filter(|ip| ip.is_ipv6()));
            above = network.up.as_ref().map(|(up, _)| *up);
        }
    }

    /// The host's clock now.
    pub fn clock(&self, id: HostId) -> Instant {
        self.now + self.hosts[id.0].clock_offset
    }

    /// Cuts a host off the network, or joins it again: nothing comes in or goes out.
    pub fn cut(&mut self, id: HostId, cut: bool) {
        self.hosts[id.0].cut = cut;
    }

    /// Moves a host into another network.
    pub fn relocate(&mut self, id: HostId, network: NetworkId, addresses: &[IpAddr]) {
        self.set_addresses(id, &[]);
        self.hosts[id.0].network = network;
        self.set_addresses(id, addresses);
    }

    /// Suspends a host: nothing runs, and what arrives is lost.
    pub fn suspend(&mut self, id: HostId) {
        self.hosts[id.0].asleep.get_or_insert(self.now);
    }

    /// It wakes. Its clock ran on meanwhile, or (as on Linux) stood still.
    pub fn resume(&mut self, id: HostId, clock_ran: bool) {
        let host = &mut self.hosts[id.0];
        let Some(since) = host.asleep.take() else { return };
        if !clock_ran {
            host.clock_offset -= self.now - since;
        }
        host.wake = None;
        self.schedule(self.now, Happening::Wake(id));
    }

    pub fn program_mut(&mut self, id: HostId) -> &mut P {
        &mut self.hosts[id.0].program
    }

    pub fn program(&self, id: HostId) -> &P {
        &self.hosts[id.0].program
    }

    /// The NAT in front of a network.
    pub fn nat(&mut self, id: NetworkId) -> &mut Nat {
        &mut self.networks[id.0].up.as_mut().expect("the internet has no NAT").1
    }

    /// Lets the test act on a host.
    pub fn with<R>(&mut self, id: HostId, act: impl FnOnce(&mut P, &mut Io<'_>) -> R) -> R {
        let host = &mut self.hosts[id.0];
        let mut datagrams = Vec::new();
        let mut io = Io {
            now: self.now + host.clock_offset,
            addresses: &host.addresses,
            tcp: &mut host.tcp,
            datagrams: &mut datagrams,
        };
        let result = act(&mut host.program, &mut io);
        self.drain(id, datagrams);
        result
    }

    /// Runs for a time.
    pub fn run_for(&mut self, time: Duration) {
        let until = self.now + time;
        self.run_while(until, |_| true);
        self.now = until;
    }

    /// Runs until the condition holds or the time is over: does it hold?
    pub fn run_until(&mut self, time: Duration, mut done: impl FnMut(&Self) -> bool) -> bool {
        let until = self.now + time;
        self.run_while(until, |world| !done(world));
        done(self)
    }

    fn run_while(&mut self, until: Instant, mut more: impl FnMut(&Self) -> bool) {
        while self.queue.peek().is_some_and(|Reverse(next)| next.0 <= until) && more(self) {
            let Some(Reverse(Queued(at, _, happening))) = self.queue.pop() else { return };
            self.now = at;
            self.watch();
            match happening {
                Happening::In(network, segment) => self.route(network, segment),
                Happening::At(host, segment) => self.arrive(host, segment),
                Happening::Wake(host) => self.wake(host),
            }
        }
    }

    /// An alarm that is set again and again for the past must not stop time for ever.
    fn watch(&mut self) {
        let second = self.elapsed().as_secs();
        self.busy = if self.busy.0 == second { (second, self.busy.1 + 1) } else { (second, 0) };
        assert!(self.busy.1 < MOST_IN_A_SECOND, "time stands still after {:?}", self.elapsed());
    }

    fn schedule(&mut self, at: Instant, happening: Happening) {
        self.last += 1;
        self.queue.push(Reverse(Queued(at, self.last, happening)));
    }

    fn route(&mut self, here: NetworkId, mut segment: Segment) {
        let dst = segment.packet.dst.ip();
        if let Some(&host) = self.routes.get(&(here, dst)) {
            return self.schedule(self.now + LAN_DELAY, Happening::At(host, segment));
        }
        let down = self.networks.iter().enumerate().find_map(|(i, network)| {
            let (up, nat) = network.up.as_ref()?;
            (*up == here && (nat.owns(dst) || network.below.contains(&dst))).then_some(NetworkId(i))
        });
        if let Some(below) = down {
            return self.pass_down(here, below, segment);
        }
        if self.networks[here.0].up.is_none() || !self.hop(here, &mut segment, 1) {
            return self.note("nowhere", here, &segment);
        }
        let original = segment.packet;
        let Some((up, nat)) = self.networks[here.0].up.as_mut() else { return };
        let up = *up;
        match nat.outbound(self.now, &mut segment.packet) {
            Verdict::Forward if up == INTERNET => self.cross(here, segment),
            Verdict::Forward => self.schedule(self.now + LAN_DELAY, Happening::In(up, segment)),
            Verdict::Hairpin => self.schedule(self.now + LAN_DELAY, Happening::In(here, segment)),
            Verdict::Drop(why) => self.note(why, here, &Segment { packet: original, ..segment }),
            Verdict::Answer(answer) => {
                let answer = Segment { packet: original, ..segment }.answer(answer);
                self.schedule(self.now, Happening::In(here, answer));
            }
        }
    }

    /// Into a network, through its NAT.
    fn pass_down(&mut self, here: NetworkId, below: NetworkId, mut segment: Segment) {
        if !self.hop(here, &mut segment, 1) {
            return;
        }
        let original = segment.packet;
        let Some((_, nat)) = self.networks[below.0].up.as_mut() else { return };
        match nat.inbound(self.now, &mut segment.packet) {
            Verdict::Forward => self.schedule(self.now, Happening::In(below, segment)),
            Verdict::Hairpin => {}
            Verdict::Drop(why) => self.note(why, below, &segment),
            Verdict::Answer(answer) => {
                let answer = Segment { packet: original, ..segment }.answer(answer);
                if here == INTERNET {
                    self.cross(here, answer);
                } else {
                    self.schedule(self.now, Happening::In(here, answer));
                }
            }
        }
    }

    /// Over the internet, from the edge of the network `from`.
    fn cross(&mut self, from: NetworkId, mut segment: Segment) {
        self.note("crosses", from, &segment);
        if self.rng.random_bool(self.conditions.loss) {
            return self.note("lost", from, &segment);
        }
        self.crossed += 1;
        self.syns += u64::from(matches!(segment.packet.kind, Kind::Tcp(flags) if flags.bare_syn()));
        let jitter = self.conditions.jitter.mul_f64(self.rng.random());
        if self.hop(INTERNET, &mut segment, INTERNET_HOPS) {
            let slow = [segment.packet.src, segment.packet.dst].map(|end| self.slow.get(&end).copied());
            let slow = slow.into_iter().flatten().max().unwrap_or_default();
            let at = self.now + self.conditions.delay + self.networks[from.0].longer + jitter + slow;
            self.schedule(at, Happening::In(INTERNET, segment));
        }
    }

    /// Counts the time to live down; where it ends, a router says so to the sender.
    fn hop(&mut self, here: NetworkId, segment: &mut Segment, hops: u8) -> bool {
        if let Some(left) = segment.packet.ttl.checked_sub(hops).filter(|&left| left > 0) {
            segment.packet.ttl = left;
            return true;
        }
        let router = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1));
        if let Some(error) = segment.packet.icmp(router, IcmpError::TimeExceeded) {
            // From half-way, there and back.
            let delay = if here == INTERNET { self.conditions.delay } else { LAN_DELAY };
            let error = segment.answer(error);
            self.schedule(self.now + delay, Happening::In(here, error));
        }
        false
    }

    fn arrive(&mut self, id: HostId, segment: Segment) {
        self.note("arrives", self.hosts[id.0].network, &segment);
        let host = &mut self.hosts[id.0];
        if host.cut || host.asleep.is_some() {
            return;
        }
        let now = self.now + host.clock_offset;
        let mut datagrams = Vec::new();
        match segment.packet.kind {
            Kind::Udp if host.udp.contains(&segment.packet.dst.port()) => {
                let addresses = &host.addresses;
                let mut io = Io { now, addresses, tcp: &mut host.tcp, datagrams: &mut datagrams };
                let Packet { src, dst, .. } = segment.packet;
                host.program.datagram(&mut io, src, dst, &segment.payload);
            }
            Kind::Udp => {
                let error = segment.packet.icmp(segment.packet.dst.ip(), IcmpError::PortUnreachable);
                datagrams.extend(error.map(|packet| segment.answer(packet)));
            }
            Kind::Icmp { about, .. } if about.transport == Transport::Udp => {}
            Kind::Icmp { .. } | Kind::Tcp(_) => host.tcp.handle(now, segment),
        }
        self.drain(id, datagrams);
    }

    fn wake(&mut self, id: HostId) {
        let host = &mut self.hosts[id.0];
        if host.asleep.is_some() {
            return;
        }
        if host.wake.is_some_and(|at| at <= self.now) {
            host.wake = None;
        }
        let now = self.now + host.clock_offset;
        if host.tcp.poll_timeout().is_some_and(|at| at <= now) {
            host.tcp.handle_timeout(now);
        }
        self.drain(id, Vec::new());
    }

    /// Lets TCP and program speak until neither has anything left to say, and notes the next deadline.
    fn drain(&mut self, id: HostId, mut datagrams: Vec<Segment>) {
        let host = &mut self.hosts[id.0];
        let now = self.now + host.clock_offset;
        let mut io = Io { now, addresses: &host.addresses, tcp: &mut host.tcp, datagrams: &mut datagrams };
        loop {
            while let Some(event) = io.tcp.poll_event() {
                host.program.tcp(&mut io, event);
            }
            host.program.wake(&mut io);
            match io.tcp.poll_event() {
                Some(event) => host.program.tcp(&mut io, event),
                None => break,
            }
        }
        let deadline = [host.program.deadline(), host.tcp.poll_timeout()].into_iter().flatten().min();
        // A deadline that has passed already would stop time: the clock moves on by the least there is.
        let deadline = deadline.map(|at| (at.max(now + Duration::from_nanos(1))) - host.clock_offset);
        let (network, cut) = (host.network, host.cut);
        if let Some(at) = deadline.filter(|&at| host.wake.is_none_or(|wake| at < wake)) {
            host.wake = Some(at);
            self.schedule(at, Happening::Wake(id));
        }
        while let Some(segment) = self.hosts[id.0].tcp.poll_transmit() {
            datagrams.push(segment);
        }
        if cut {
            return;
        }
        for segment in datagrams {
            if network == INTERNET {
                self.cross(network, segment);
            } else {
                self.schedule(self.now + LAN_DELAY, Happening::In(network, segment));
            }
        }
    }

    fn note(&self, what: &str, at: NetworkId, segment: &Segment) {
        if self.trace {
            let Packet { src, dst, kind, ttl } = segment.packet;
            let (time, len) = (self.elapsed(), segment.payload.len());
            eprintln!("{time:>12.3?} {what} at {}: {src} -> {dst} ttl {ttl} {kind:?} +{len}", at.0);
        }
    }
}
