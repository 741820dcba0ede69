//! Hosts that register at a server without sockets, and what the server's own calls have allocated and not given back.
//!
//! For this the program's allocator has to tell [`took`] and [`gave_back`].

use std::{
    cell::Cell,
    net::{Ipv4Addr, SocketAddr},
    time::{Duration, Instant},
};

use punchtunnel::{
    endpoint::Path,
    rendezvous::{Client, Limits, Server, Source},
    secure::StaticKey,
    wire::server::ToServer,
};
use rustix::time::{ClockId, clock_gettime};
use zeroize::Zeroizing;

thread_local! {
    static COUNTS: Cell<bool> = const { Cell::new(false) };
    static BYTES: Cell<isize> = const { Cell::new(0) };
}

fn count(size: usize, sign: isize) {
    // glibc: a word of its own, 16 bytes of alignment, at least 32.
    let chunk = ((size + 8).next_multiple_of(16)).max(32) as isize;
    if COUNTS.try_with(Cell::get).unwrap_or(false) {
        BYTES.with(|bytes| bytes.set(bytes.get() + sign * chunk));
    }
}

/// So many bytes were allocated.
pub(crate) fn took(size: usize) {
    count(size, 1);
}

/// So many bytes were given back.
pub(crate) fn gave_back(size: usize) {
    count(size, -1);
}

/// Bytes that the server has, with the overhead of the C library's allocator.
pub(crate) fn held() -> isize {
    BYTES.get()
}

/// Runs what is the server's.
pub(crate) fn within<T>(what: impl FnOnce() -> T) -> T {
    COUNTS.set(true);
    let result = what();
    COUNTS.set(false);
    result
}

/// Processor time of this thread.
pub(crate) fn processor_time() -> Duration {
    clock_gettime(ClockId::ThreadCPUTime).try_into().expect("not negative")
}

/// None that these hosts reach.
pub(crate) fn limits() -> Limits {
    Limits {
        associations: 4_000_000,
        associations_per_source: 4_000_000,
        names: 4_000_000,
        new_names_per_source: 4_000_000,
        hellos: 4_000_000,
        hellos_per_source: 4_000_000,
        inits: 4_000_000,
        inits_per_source: 4_000_000,
        ..Limits::default()
    }
}

/// Host `n`, which wants a name.
pub(crate) fn client(now: Instant, n: u32, server: SocketAddr) -> Client {
    let (mut key, mut node) = ([9; 32], [8; 16]);
    key[..4].copy_from_slice(&n.to_be_bytes());
    node[..4].copy_from_slice(&n.to_be_bytes());
    let mut client = Client::new(now, key, StaticKey::from_private(Zeroizing::new(key)), server, None, node);
    client.send(now, ToServer::Register { name: format!("host-{n}") }).expect("room");
    client
}

/// The server without sockets.
pub(crate) struct Core {
    pub(crate) server: Server,
    stored: u64,
    /// Processor time that its calls took.
    pub(crate) took: Duration,
    now: Instant,
}

impl Core {
    pub(crate) fn new(now: Instant, limits: Limits) -> Core {
        let key = StaticKey::from_private(Zeroizing::new([1; 32]));
        let server = within(|| Server::new(now, [2; 32], key, limits, []));
        Core { server, stored: 0, took: Duration::ZERO, now }
    }

    /// Hands over a batch, and returns what is answered.
    fn ask(&mut self, batch: &[(Source, Vec<u8>)]) -> Vec<(Source, Vec<u8>)> {
        let mut answers: Vec<(Source, Vec<u8>)> = Vec::with_capacity(2 * batch.len());
        let began = processor_time();
        for (from, datagram) in batch {
            within(|| self.server.handle_datagram(self.now, 1_700_000_000, *from, datagram));
            self.drain(&mut answers);
        }
        within(|| self.server.handle_stored(self.now, 1_700_000_000, self.stored));
        self.drain(&mut answers);
        self.took += processor_time() - began;
        answers
    }

    fn drain(&mut self, answers: &mut Vec<(Source, Vec<u8>)>) {
        while let Some((to, datagram)) = within(|| self.server.poll_transmit()) {
            answers.push((to, datagram.clone()));
            within(|| drop(datagram));
        }
        while let Some(change) = within(|| self.server.poll_store()) {
            self.stored += 1;
            within(|| drop(change));
        }
    }
}

/// So many hosts, each at an address of its own, and where the server is.
pub(crate) fn hosts(now: Instant, count: usize) -> (Vec<(Source, Client)>, SocketAddr) {
    let to: SocketAddr = "198.51.100.1:7862".parse().expect("an address");
    let from =
        |n: u32| Source { addr: (Ipv4Addr::from_bits(0x0a00_0000 + n), 5_000).into(), udp: true, via: 0 };
    ((0..count as u32).map(|n| (from(n), client(now, n, to))).collect(), to)
}

/// Everybody says what it has to say, some at a time, until nobody has.
pub(crate) fn talk(core: &mut Core, clients: &mut [(Source, Client)], to: SocketAddr, now: Instant) -> usize {
    let mut said = 0;
    for (first, some) in clients.chunks_mut(1_000).enumerate() {
        let number = |from: Source| {
            let SocketAddr::V4(addr) = from.addr else { unreachable!("an IPv4 address") };
            (u32::from(*addr.ip()) - 0x0a00_0000) as usize - first * 1_000
        };
        loop {
            let mut batch = Vec::new();
            for (from, client) in some.iter_mut() {
                while let Some((_, datagram)) = client.poll_transmit(now) {
                    batch.push((*from, datagram));
                }
            }
            if batch.is_empty() {
                break;
            }
            said += batch.len();
            core.now = core.now.max(now);
            for (to_whom, answer) in core.ask(&batch) {
                some[number(to_whom)].1.handle_datagram(now, Path::Udp(to), &answer);
            }
            while some.iter_mut().any(|(_, client)| client.poll_event().is_some()) {}
        }
    }
    said
}
