//! What the rendezvous server does a second on one core, and what a registered name takes.
//!
//!     cargo bench --bench server
//!     SERVER_NAMES=1000000 cargo bench --bench server -- core
//!
//! Rates are by the processor time of the thread that the server runs in, so they say what one core does also
//! where others use the machine. Memory is what the server's own calls have allocated and not given back, with
//! the overhead of the C library's allocator.

use std::{
    alloc::{GlobalAlloc, Layout, System},
    cell::Cell,
    collections::{BTreeMap, BTreeSet},
    net::{Ipv4Addr, SocketAddr, UdpSocket},
    time::{Duration, Instant},
};

use punchtunnel::{
    endpoint::Path,
    net,
    rendezvous::{Client, ClientEvent, KEEP_ALIVE, Limits, Server, Source},
    secure::StaticKey,
    wire::server::{FromServer, ToServer},
};
use rustix::time::{ClockId, clock_gettime};
use zeroize::Zeroizing;

/// Counts what is allocated while [`within`] runs.
struct Counting;

#[global_allocator]
static ALLOCATOR: Counting = Counting;

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

#[allow(unsafe_code, reason = "an allocator is unsafe by its signature; this one passes everything on")]
// SAFETY: the system's allocator does the work.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size(), 1);
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        count(layout.size(), -1);
        unsafe { System.dealloc(pointer, layout) }
    }
}

/// Runs what is the server's.
fn within<T>(what: impl FnOnce() -> T) -> T {
    COUNTS.set(true);
    let result = what();
    COUNTS.set(false);
    result
}

fn processor_time() -> Duration {
    clock_gettime(ClockId::ThreadCPUTime).try_into().expect("not negative")
}

fn rate(what: &str, count: usize, took: Duration) {
    let each = took.as_secs_f64() / count as f64;
    println!("{what:<58} {:>10.0} a second, {:.1} µs each", 1.0 / each, each * 1e6);
}

fn limits() -> Limits {
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

fn from_environment(name: &str, default: usize) -> usize {
    std::env::var(name).map_or(default, |text| text.parse().expect("a number"))
}

#[expect(clippy::disallowed_methods, reason = "a driver reads the clock")]
fn clock() -> Instant {
    Instant::now()
}

fn client(now: Instant, n: u32, server: SocketAddr) -> Client {
    let (mut key, mut node) = ([9; 32], [8; 16]);
    key[..4].copy_from_slice(&n.to_be_bytes());
    node[..4].copy_from_slice(&n.to_be_bytes());
    let mut client = Client::new(now, key, StaticKey::from_private(Zeroizing::new(key)), server, None, node);
    client.send(now, ToServer::Register { name: format!("host-{n}") }).expect("room");
    client
}

/// The server without sockets.
struct Core {
    server: Server,
    stored: u64,
    /// What its calls took.
    took: Duration,
    now: Instant,
}

impl Core {
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

/// Everybody says what it has to say, some at a time, until nobody has.
fn talk(core: &mut Core, clients: &mut [(Source, Client)], to: SocketAddr, now: Instant) -> usize {
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

fn core_alone() {
    let names = from_environment("SERVER_NAMES", 20_000);
    let now = clock();
    let to: SocketAddr = "198.51.100.1:7862".parse().expect("an address");
    let key = StaticKey::from_private(Zeroizing::new([1; 32]));
    let server = within(|| Server::new(now, [2; 32], key, limits(), []));
    let mut core = Core { server, stored: 0, took: Duration::ZERO, now };
    let from =
        |n: u32| Source { addr: (Ipv4Addr::from_bits(0x0a00_0000 + n), 5_000).into(), udp: true, via: 0 };
    let mut clients: Vec<(Source, Client)> =
        (0..names as u32).map(|n| (from(n), client(now, n, to))).collect();
    talk(&mut core, &mut clients, to, now);
    assert_eq!(core.server.stats().names, names);
    println!("{names} names in the core alone");
    rate("  registrations (HELLO, INIT, the name, acknowledgement)", names, core.took);
    println!("  a registered name takes {} bytes right after it", BYTES.get() / names as isize);
    for round in 1..=4 {
        core.took = Duration::ZERO;
        let later = now + round * KEEP_ALIVE;
        clients.iter_mut().for_each(|(_, client)| client.handle_timeout(later));
        let said = talk(&mut core, &mut clients, to, later);
        within(|| core.server.handle_timeout(later, 1_700_000_000));
        rate(&format!("  keep-alives, round {round}"), said, core.took);
    }
    println!("  a registered name takes {} bytes, its keep-alives every 20 s", BYTES.get() / names as isize);
}

/// The server with its sockets in a thread of its own, asked by this one.
fn real_sockets() {
    let names = from_environment("SERVER_SOCKET_NAMES", 5_000);
    let (tell, told) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(async {
            let server = net::Server::builder().listen((Ipv4Addr::LOCALHOST, 0).into()).probe_ports([0]);
            let server = server.limits(limits()).bind().await.expect("bound");
            let handle = tokio::runtime::Handle::current();
            tell.send((server.addresses()[0], handle)).expect("heard");
            server.run(std::future::pending()).await;
        });
    });
    let (to, handle) = told.recv().expect("started");
    let worked = || {
        let (tell, told) = std::sync::mpsc::channel();
        handle.spawn(async move { tell.send(processor_time()) });
        told.recv().expect("told")
    };
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
    socket.connect(to).expect("connected");
    socket.set_read_timeout(Some(Duration::from_secs(10))).expect("set");
    let now = clock();
    let mut clients: Vec<Client> = (0..names as u32).map(|n| client(now, n, to)).collect();
    println!("{names} names over real sockets on loopback");
    let before = worked();
    let said = exchange(&socket, &mut clients, to, now);
    rate("  registrations", names, worked() - before);
    println!("  ({said} datagrams)");
    let mut said = 0;
    let (before, began) = (worked(), clock());
    let rounds = 20;
    for round in 1..=rounds {
        let later = now + round * KEEP_ALIVE;
        clients.iter_mut().for_each(|client| client.handle_timeout(later));
        said += exchange(&socket, &mut clients, to, later);
    }
    rate("  keep-alives", said, worked() - before);
    println!("  ({said} datagrams in {:?} with this side's work)", began.elapsed());
}

/// As [`talk`], over a socket: until each has heard something, or registered where it has not yet.
fn exchange(socket: &UdpSocket, clients: &mut [Client], to: SocketAddr, now: Instant) -> usize {
    let (mut said, mut buffer) = (0, [0; 2048]);
    for some in clients.chunks_mut(100) {
        // Datagrams begin with the receiver's number, which HELLO and INIT tell.
        let mut numbers = BTreeMap::new();
        for (n, client) in some.iter().enumerate() {
            numbers.extend(client.local_index().map(|index| (index, n)));
        }
        let registers = numbers.is_empty();
        let mut done = BTreeSet::new();
        while done.len() < some.len() {
            for (n, client) in some.iter_mut().enumerate() {
                while let Some((_, datagram)) = client.poll_transmit(now) {
                    if let ([_, _, _, _, 1 | 3, _], [index, ..]) =
                        (&datagram[..6], datagram[6..].as_chunks().0)
                    {
                        numbers.insert(u32::from_be_bytes(*index), n);
                    }
                    socket.send(&datagram).expect("sent");
                    said += 1;
                }
            }
            let length = socket.recv(&mut buffer).expect("the server answers");
            let index = buffer[..4].try_into().map(u32::from_be_bytes).expect("four bytes");
            // Otherwise it is the repetition of what somebody has heard by now.
            let Some(n) = numbers.get(&index).copied() else { continue };
            some[n].handle_datagram(now, Path::Udp(to), &buffer[..length]);
            if !registers {
                done.insert(n);
            }
            while let Some(event) = some[n].poll_event() {
                if event == ClientEvent::Message(FromServer::Registered) {
                    done.insert(n);
                }
            }
        }
    }
    said
}

fn main() {
    let wanted = std::env::args().nth(1).unwrap_or_default();
    if wanted != "sockets" {
        core_alone();
    }
    if wanted != "core" {
        real_sockets();
    }
}
