//! What the rendezvous server does a second on one core, and what a registered name takes.
//!
//!     cargo bench --bench server
//!     SERVER_NAMES=1000000 cargo bench --bench server -- core
//!
//! Rates are by the processor time of the thread that the server runs in, so they say what one core does also
//! where others use the machine. Memory is what the server's own calls have allocated and not given back, with
//! the overhead of the C library's allocator.

#[path = "../tests/hosts/mod.rs"]
mod hosts;

use std::{
    alloc::{GlobalAlloc, Layout, System},
    collections::{BTreeMap, BTreeSet},
    net::{Ipv4Addr, SocketAddr, UdpSocket},
    time::{Duration, Instant},
};

use punchtunnel::{
    endpoint::Path,
    net,
    rendezvous::{Client, ClientEvent, KEEP_ALIVE},
    wire::server::FromServer,
};

use crate::hosts::{Core, client, held, hosts, limits, processor_time, talk, within};

/// Tells what is allocated.
struct Telling;

#[global_allocator]
static ALLOCATOR: Telling = Telling;

#[allow(unsafe_code, reason = "an allocator is unsafe by its signature; this one passes everything on")]
// SAFETY: the system's allocator does the work.
unsafe impl GlobalAlloc for Telling {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        hosts::took(layout.size());
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        hosts::gave_back(layout.size());
        unsafe { System.dealloc(pointer, layout) }
    }
}

fn rate(what: &str, count: usize, took: Duration) {
    let each = took.as_secs_f64() / count as f64;
    println!("{what:<58} {:>10.0} a second, {:.1} µs each", 1.0 / each, each * 1e6);
}

fn from_environment(name: &str, default: usize) -> usize {
    std::env::var(name).map_or(default, |text| text.parse().expect("a number"))
}

#[expect(clippy::disallowed_methods, reason = "a driver reads the clock")]
fn clock() -> Instant {
    Instant::now()
}

fn core_alone() {
    let names = from_environment("SERVER_NAMES", 20_000);
    let now = clock();
    let mut core = Core::new(now, limits());
    let (mut clients, to) = hosts(now, names);
    talk(&mut core, &mut clients, to, now);
    assert_eq!(core.server.stats().names, names);
    println!("{names} names in the core alone");
    rate("  registrations (HELLO, INIT, the name, acknowledgement)", names, core.took);
    println!("  a registered name takes {} bytes right after it", held() / names as isize);
    // Until what is remembered of handshakes is forgotten.
    for round in 1..=15 {
        core.took = Duration::ZERO;
        let later = now + round * KEEP_ALIVE;
        clients.iter_mut().for_each(|(_, client)| client.handle_timeout(later));
        let said = talk(&mut core, &mut clients, to, later);
        within(|| core.server.handle_timeout(later, 1_700_000_000));
        if round % 5 == 0 {
            rate(&format!("  keep-alives, round {round}"), said, core.took);
        }
    }
    println!("  a registered name takes {} bytes after five minutes of keep-alives", held() / names as isize);
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
