//! An abstract NAT for the tests of this room and of the plans: only the assignment of ports, by seed.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use super::{Observation, Probe, is_settled, probe_batch, probe_more};

/// SplitMix64: small, seeded, the same on every machine.
pub(crate) struct Dice(u64);

impl Dice {
    pub(crate) fn new(seed: u64) -> Self {
        Dice(seed ^ 0x5851_f42d_4c95_7f2d)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub(crate) fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }

    /// Uniform in (0, 1).
    pub(crate) fn unit(&mut self) -> f64 {
        ((self.next() >> 11) as f64 + 0.5) / (1u64 << 53) as f64
    }
}

/// How a [`Nat`] assigns ports.
enum Assignment {
    Offset(u16),
    PreservingOnce,
    Drawn,
    Counter { step: i16, jitter: u16, parity: bool, range: (u16, u16) },
    Block { low: u16, width: u64 },
}

/// What a mapping is for.
#[derive(PartialEq)]
enum Scope {
    Local,
    LocalAndAddress,
    Tuple,
}

/// One NAT with a public address and foreign traffic.
pub(crate) struct Nat {
    dice: Dice,
    assignment: Assignment,
    scope: Scope,
    counter: u16,
    mapped: BTreeMap<(u16, Option<SocketAddr>), u16>,
    /// Ports of a block that are in use.
    used: BTreeSet<u16>,
    rate: f64,
    /// Time on the NAT's clock, microseconds, and of the next foreign connection.
    now_us: f64,
    foreign_us: f64,
    pub(crate) address: IpAddr,
}

impl Nat {
    fn new(seed: u64, assignment: Assignment, scope: Scope, rate: f64) -> Self {
        let mut dice = Dice::new(seed);
        let counter = 20_000 + dice.below(20_000) as u16;
        let mut nat = Nat {
            dice,
            assignment,
            scope,
            counter,
            mapped: BTreeMap::new(),
            used: BTreeSet::new(),
            rate,
            now_us: 0.0,
            foreign_us: f64::INFINITY,
            address: [203, 0, 113, 1 + (seed % 200) as u8].into(),
        };
        nat.foreign_us = nat.wait();
        nat
    }

    pub(crate) fn preserving(seed: u64) -> Self {
        Nat::offset(seed, 0)
    }

    pub(crate) fn offset(seed: u64, by: u16) -> Self {
        Nat::new(seed, Assignment::Offset(by), Scope::Local, 0.0)
    }

    pub(crate) fn preserving_once(seed: u64) -> Self {
        Nat::new(seed, Assignment::PreservingOnce, Scope::Tuple, 0.0)
    }

    pub(crate) fn endpoint_independent(seed: u64) -> Self {
        Nat::new(seed, Assignment::Drawn, Scope::Local, 0.0)
    }

    pub(crate) fn endpoint_independent_counter(seed: u64, step: i16) -> Self {
        Nat { scope: Scope::Local, ..Nat::counter(seed, step, 0.0) }
    }

    pub(crate) fn address_dependent_counter(seed: u64, step: i16, rate: f64) -> Self {
        Nat { scope: Scope::LocalAndAddress, ..Nat::counter(seed, step, rate) }
    }

    pub(crate) fn counter(seed: u64, step: i16, rate: f64) -> Self {
        Nat::irregular(seed, step, 0, rate)
    }

    /// Skips up to `jitter` ports more each time.
    pub(crate) fn irregular(seed: u64, step: i16, jitter: u16, rate: f64) -> Self {
        let assignment = Assignment::Counter { step, jitter, parity: false, range: (1024, 65_535) };
        Nat::new(seed, assignment, Scope::Tuple, rate)
    }

    /// An odd port for an odd one.
    pub(crate) fn parity(seed: u64, rate: f64) -> Self {
        let assignment = Assignment::Counter { step: 1, jitter: 0, parity: true, range: (1024, 65_535) };
        Nat::new(seed, assignment, Scope::Tuple, rate)
    }

    /// A counter through a range, at a place in it.
    pub(crate) fn wrapping(seed: u64, step: i16, range: (u16, u16), at: u16, rate: f64) -> Self {
        let assignment = Assignment::Counter { step, jitter: 0, parity: false, range };
        Nat { counter: at, ..Nat::new(seed, assignment, Scope::Tuple, rate) }
    }

    pub(crate) fn random(seed: u64, width: u64) -> Self {
        let low = 1024 + Dice::new(!seed).below(64_513 - width) as u16;
        Nat::new(seed, Assignment::Block { low, width }, Scope::Tuple, 0.0)
    }

    /// An aligned block.
    pub(crate) fn block(seed: u64, width: u64) -> Self {
        let places = 64_512 / width;
        let low = 1024 + (Dice::new(!seed).below(places) * width) as u16;
        Nat::new(seed, Assignment::Block { low, width }, Scope::Tuple, 0.0)
    }

    /// Lowest port and size of a block.
    pub(crate) fn block_of(&self) -> Option<(u16, u64)> {
        match self.assignment {
            Assignment::Block { low, width } => Some((low, width)),
            _ => None,
        }
    }

    /// The same with this many foreign connections a second.
    pub(crate) fn with_foreign(self, rate: f64) -> Self {
        let mut nat = Nat { rate, ..self };
        nat.foreign_us = nat.now_us + nat.wait();
        nat
    }

    /// The port that the next connection gets from a counter.
    pub(crate) fn peek(&self) -> u16 {
        self.counter
    }

    /// Lets time pass, and foreign connections with it.
    pub(crate) fn pass(&mut self, us: f64) {
        self.now_us += us;
        while self.foreign_us <= self.now_us {
            let local = self.dice.next() as u16;
            self.assign(local);
            self.foreign_us += self.wait();
        }
    }

    /// The external address of a connection from `local` to `remote`.
    pub(crate) fn open(&mut self, local: u16, remote: SocketAddr) -> SocketAddr {
        let key = match self.scope {
            Scope::Local => (local, None),
            Scope::LocalAndAddress => (local, Some(SocketAddr::new(remote.ip(), 0))),
            Scope::Tuple => (local, Some(remote)),
        };
        let port = match self.mapped.get(&key) {
            Some(&port) => port,
            None => self.assign(local),
        };
        self.mapped.insert(key, port);
        SocketAddr::new(self.address, port)
    }

    fn assign(&mut self, local: u16) -> u16 {
        match self.assignment {
            Assignment::Offset(by) => local.wrapping_add(by),
            Assignment::PreservingOnce if self.mapped.keys().all(|(l, _)| *l != local) => local,
            Assignment::PreservingOnce | Assignment::Drawn => 1024 + self.dice.below(64_512) as u16,
            Assignment::Counter { .. } => self.count(local),
            // A full block refuses: the port that nobody has.
            Assignment::Block { width, .. } if self.used.len() as u64 >= width => 0,
            Assignment::Block { low, width } => loop {
                let port = low + self.dice.below(width) as u16;
                if self.used.insert(port) {
                    return port;
                }
            },
        }
    }

    fn count(&mut self, local: u16) -> u16 {
        let Assignment::Counter { step, jitter, parity, range: (low, high) } = self.assignment else {
            return 0;
        };
        let size = i32::from(high) - i32::from(low) + 1;
        let on = |port: u16, by: i32| {
            (i32::from(low) + (i32::from(port) - i32::from(low) + by).rem_euclid(size)) as u16
        };
        let sign = i32::from(step.signum());
        let mut port = self.counter;
        if parity && port % 2 != local % 2 {
            port = on(port, sign);
        }
        let skipped = self.dice.below(u64::from(jitter) + 1) as i32;
        self.counter = on(port, i32::from(step) + sign * skipped);
        port
    }

    fn wait(&mut self) -> f64 {
        if self.rate > 0.0 { -self.dice.unit().ln() * 1e6 / self.rate } else { f64::INFINITY }
    }
}

/// Local ports as an operating system gives them: distinct, in no order.
pub(crate) fn locals(dice: &mut Dice, count: usize) -> Vec<u16> {
    let mut used = BTreeSet::new();
    let drawn = std::iter::repeat_with(|| 32_768 + dice.below(20_000) as u16);
    drawn.filter(|&port| used.insert(port)).take(count).collect()
}

/// The same, as many more as a plan takes: bound when it is known, in a row, of one parity.
pub(crate) fn more_locals(punch: &mut Vec<u16>, count: u16) {
    let known = punch.len() as u16;
    punch.extend((known..count).map(|i| 55_001 + 2 * i));
}

/// What one server with two ports sees of a batch that leaves within a millisecond.
pub(crate) fn batch(nat: &mut Nat, punch: &[u16]) -> Vec<Observation> {
    batch_spread(nat, punch, 1_000)
}

/// The same of a batch that takes `window_us`.
pub(crate) fn batch_spread(nat: &mut Nat, punch: &[u16], window_us: u32) -> Vec<Observation> {
    let probes = probe_batch(punch.len() as u16, &addresses(&["192.0.2.1:7862", "192.0.2.1:7863"]));
    let gap = Duration::from_micros(u64::from(window_us) / (probes.len() as u64 - 1).max(1));
    probe(nat, punch, probes, gap)
}

/// The same of two servers, whose clocks differ by an hour.
pub(crate) fn batch_of_two_servers(nat: &mut Nat, punch: &[u16]) -> Vec<Observation> {
    let servers = addresses(&["192.0.2.1:7862", "192.0.2.1:7863", "192.0.2.2:7862", "192.0.2.2:7863"]);
    let probes = probe_batch(punch.len() as u16, &servers);
    probe(nat, punch, probes, Duration::from_micros(60))
}

/// What one server with two ports sees of both groups of probes, 60 ms apart, through a network that
/// jitters.
pub(crate) fn two_groups(nat: &mut Nat, punch: &[u16]) -> Vec<Observation> {
    two_groups_after(nat, punch, Duration::from_millis(60))
}

/// The same with any pause between the groups.
pub(crate) fn two_groups_after(nat: &mut Nat, punch: &[u16], pause: Duration) -> Vec<Observation> {
    let servers = addresses(&["192.0.2.1:7862", "192.0.2.1:7863"]);
    let locals = punch.len() as u16;
    let mut seen = probe(nat, punch, probe_batch(locals, &servers), Duration::from_micros(60));
    if !is_settled(&seen, punch) {
        nat.pass(pause.as_micros() as f64);
        seen.extend(probe(nat, punch, probe_more(locals, &servers), Duration::from_micros(60)));
    }
    for observation in &mut seen {
        observation.at_us += nat.dice.below(4_000);
    }
    seen
}

fn addresses(servers: &[&str]) -> Vec<SocketAddr> {
    servers.iter().map(|s| s.parse().unwrap()).collect()
}

/// Makes the probes, each `gap` after the one before.
fn probe(nat: &mut Nat, punch: &[u16], probes: Vec<Probe>, gap: Duration) -> Vec<Observation> {
    let mut seen = Vec::new();
    for probe in probes {
        nat.pass(gap.as_micros() as f64);
        let local_port = punch[usize::from(probe.local)];
        let clock = if probe.server.ip() == IpAddr::from([192, 0, 2, 1]) { 7_000_000 } else { 3_607_000_000 };
        seen.push(Observation {
            number: probe.number,
            local: probe.local,
            local_port,
            server: probe.server,
            observed: nat.open(local_port, probe.server),
            at_us: clock + nat.now_us as u64,
        });
    }
    seen
}
