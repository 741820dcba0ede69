//! A running server between strangers who send as fast as one core can, and hosts and clients that want to meet.
//!
//! `PUNCHTUNNEL_LAB_LONG=1` makes it ten million datagrams and a hundred thousand connections.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use punchtunnel::{
    endpoint,
    forward::Service,
    net::{Client, Event, Events, Host, generate_key},
    secure::StaticKey,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::{
    harness::{Server, echo_service},
    party::{now, run},
    strangers::{Crowd, Flood, Stranger},
};

/// What strangers can make the server hold: docs/SECURITY.md, "A server under fire", "less than 64 MiB together".
const STRANGERS: u64 = 64 << 20;

/// Among so many datagrams there is a connection.
const DATAGRAMS_A_CONNECTION: u64 = 100;

/// A meeting is promised to take no longer. The long run, which wants a machine to itself, is held to it in the median.
const PROMISE: Duration = Duration::from_secs(1);

/// Whether the long run is asked for.
fn is_long() -> bool {
    std::env::var_os("PUNCHTUNNEL_LAB_LONG").is_some()
}

/// Datagrams, and the least number of meetings.
fn many() -> (u64, usize) {
    if is_long() { (10_000_000, 20) } else { (100_000, 2) }
}

/// Memory that a process has now, and the most it ever had.
fn memory(process: u32) -> (u64, u64) {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).expect("it runs");
    let field = |name: &str| {
        let line = status.lines().find(|line| line.starts_with(name)).expect("a field");
        let kib: u64 = line.split_whitespace().nth(1).and_then(|word| word.parse().ok()).expect("a number");
        kib << 10
    };
    (field("VmRSS:"), field("VmHWM:"))
}

/// Processor time that a process has taken.
fn worked(process: u32) -> Duration {
    let stat = std::fs::read_to_string(format!("/proc/{process}/stat")).expect("it runs");
    let (_, fields) = stat.rsplit_once(')').expect("a name");
    let ticks = |n: usize| fields.split_whitespace().nth(n).and_then(|word| word.parse::<u64>().ok());
    let ticks = ticks(11).zip(ticks(12)).map(|(user, system)| user + system).expect("numbers");
    // Linux tells it in hundredths of a second.
    Duration::from_millis(ticks * 10)
}

/// Datagrams for which there was no room in the buffer of that socket.
fn lost(at: SocketAddr) -> u64 {
    let all = std::fs::read_to_string("/proc/net/udp").expect("a list of sockets");
    let port = format!(":{:04X}", at.port());
    let line = all.lines().find(|line| line.split_whitespace().nth(1).is_some_and(|at| at.ends_with(&port)));
    line.and_then(|line| line.split_whitespace().last()?.parse().ok()).expect("a number")
}

/// What goes on beside the tests' own thread.
#[derive(Default)]
struct Fire {
    sent: AtomicU64,
    opened: AtomicU64,
    is_over: AtomicBool,
}

/// What strangers did.
struct Done {
    sent: u64,
    opened: u64,
    failed: u64,
    took: Duration,
}

/// Floods until nobody needs it any more.
fn fire(fire: &Fire, mut flood: Flood, mut crowd: Crowd) -> Done {
    let began = now();
    let mut sent = 0;
    for n in 0.. {
        if fire.is_over.load(Ordering::Relaxed) {
            break;
        }
        if n % DATAGRAMS_A_CONNECTION == 0 {
            crowd.join(n / DATAGRAMS_A_CONNECTION);
        }
        sent += u64::from(flood.send());
        fire.sent.store(sent, Ordering::Relaxed);
        fire.opened.store(crowd.opened, Ordering::Relaxed);
    }
    Done { sent, opened: crowd.opened, failed: crowd.failed, took: began.elapsed() }
}

/// Two programs and the service between them.
struct Pair<'s> {
    server: &'s Server,
    service: u16,
    host: StaticKey,
    client: StaticKey,
}

impl<'s> Pair<'s> {
    fn new(server: &'s Server, service: u16) -> Pair<'s> {
        Pair { server, service, host: generate_key(), client: generate_key() }
    }

    /// Starts a host and waits until it is registered.
    async fn host(&self, name: &str) -> (Host, Events) {
        let mut builder = Host::builder(name).rendezvous(&self.server.address);
        for probes in self.server.probes.split(',') {
            builder = builder.probe_server(probes);
        }
        let builder = builder
            .key(self.host.clone())
            .admission(vec![self.client.public()])
            .service(self.service.to_string().parse::<Service>().expect("a port"));
        let mut events = builder.events();
        let host = builder.start().await.expect("started");
        while !matches!(events.next().await, Some(Event::Endpoint(endpoint::Event::Registered))) {}
        (host, events)
    }

    /// Connects a client, with no more patience than any, and has an answer of the service: how long it took.
    async fn connect(&self, name: &str) -> Duration {
        let began = now();
        let mut builder = Client::builder(name).rendezvous(&self.server.address);
        for probes in self.server.probes.split(',') {
            builder = builder.probe_server(probes);
        }
        let client = builder.key(self.client.clone()).host_key(self.host.public()).connect().await;
        let client = client.expect("connected");
        let mut stream = client.open(None).await.expect("opened");
        stream.write_all(b"x").await.expect("sent");
        let mut answer = [0; 7];
        stream.read_exact(&mut answer).await.expect("answered");
        assert_eq!(&answer, b"hello\nx");
        let took = began.elapsed();
        client.close().await;
        took
    }

    /// Starts a host, and stops it: how long it took to be registered.
    async fn register(&self, name: &str) -> Duration {
        let began = now();
        let (host, _) = self.host(name).await;
        let took = began.elapsed();
        host.stop().await;
        took
    }
}

/// Median and worst.
fn summary(mut times: Vec<Duration>) -> (Duration, Duration) {
    times.sort_unstable();
    (times[times.len() / 2], times[times.len() - 1])
}

#[test]
fn a_host_and_a_client_meet_while_strangers_flood_the_server() {
    run(async {
        let server = Server::start();
        let (count, meetings) = many();
        let udp: SocketAddr = server.address.parse().expect("an address");
        let tcp: Vec<SocketAddr> =
            server.probes.split(',').map(|text| text.parse().expect("an address")).collect();
        let service = echo_service();
        let (pair, newcomer) = (Pair::new(&server, service), Pair::new(&server, service));
        let (host, mut events) = pair.host("home").await;
        let quiet = (newcomer.register("newcomer").await, pair.connect("home").await);
        let flood = Flood::new(Stranger::all(&server.address).await);
        let process = server.process.id();
        let ((before, _), had_worked) = (memory(process), worked(process));

        let state = Arc::new(Fire::default());
        let strangers = {
            let state = state.clone();
            std::thread::spawn(move || fire(&state, flood, Crowd::new(tcp)))
        };
        let (mut registered, mut connected) = (Vec::new(), Vec::new());
        let goes_on = |state: &Fire| {
            let done = (state.sent.load(Ordering::Relaxed), state.opened.load(Ordering::Relaxed));
            done.0 < count || done.1 < count / DATAGRAMS_A_CONNECTION
        };
        while connected.len() < meetings || goes_on(&state) {
            assert!(!strangers.is_finished(), "nobody floods it");
            registered.push(newcomer.register("newcomer").await);
            connected.push(pair.connect("home").await);
        }
        state.is_over.store(true, Ordering::Relaxed);
        let strangers = tokio::task::spawn_blocking(|| strangers.join().expect("it ends"));
        let Done { sent, opened, failed, took } = strangers.await.expect("joined");
        let busy = worked(process) - had_worked;

        // It is as it was, and the host has been there all the time.
        pair.connect("home").await;
        host.stop().await;
        let mut again = 0;
        while let Some(event) = events.next().await {
            let is_news = matches!(
                event,
                Event::Endpoint(endpoint::Event::Registered | endpoint::Event::ServerSilent { .. })
            );
            again += usize::from(is_news);
        }

        let (_, most) = memory(process);
        let rate = |number: u64| (number as f64 / took.as_secs_f64()) as u64;
        let (registering, connecting) = (summary(registered), summary(connected.clone()));
        eprintln!(
            "{sent} datagrams in {took:?}, {} a second, {} lost before the server; it worked for {busy:?}",
            rate(sent),
            lost(udp)
        );
        eprintln!("{opened} connections, {} a second, {failed} not opened", rate(opened));
        eprintln!("memory: {} KiB before, at most {} KiB", before >> 10, most >> 10);
        eprintln!("in quiet: registered in {:?}, connected in {:?}", quiet.0, quiet.1);
        let late = connected.iter().filter(|took| **took > PROMISE).count();
        eprintln!("{} times under fire, median and worst:", connected.len());
        eprintln!("registered in {registering:?}, connected in {connecting:?}, {late} times late");
        eprintln!("the host in place was lost or told of silence {again} times");
        assert!(most <= before + STRANGERS, "{most} bytes, {before} before");
        if is_long() {
            assert_eq!(again, 0, "the host was lost and came back, or was told of silence");
            assert!(connecting.0 < PROMISE, "{connected:?}");
        }
    });
}
