//! A running server between strangers who send as fast as they can, and a host and a client that want to meet.
//!
//! `PUNCHTUNNEL_LAB_LONG=1` makes it ten million datagrams and a hundred thousand connections.

use std::{
    collections::VecDeque,
    io::{Read, Write},
    net::{IpAddr, Shutdown, SocketAddr, TcpStream, UdpSocket},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use punchtunnel::{
    endpoint,
    forward::Service,
    net::{Client, Event, Host, generate_key},
    wire::{
        examine::{Origin, QUESTION},
        probe::{ProbeQuestion, Purpose, preamble},
        server::{FromServer, ToServer},
    },
};
use rand::{RngExt, SeedableRng, rngs::StdRng};
use socket2::{Domain, Protocol, SockAddr, Socket, Type};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::{
    harness::{Server, echo_service},
    party::{PATIENCE, Party, address, now, run},
};

/// What strangers can make the server hold, as docs/SECURITY.md has it.
const STRANGERS: u64 = 64 << 20;

/// Connections that the strangers hold open at a time.
const HELD: usize = 1_000;

/// Datagrams, and meetings.
fn many() -> (u64, u32) {
    if std::env::var_os("PUNCHTUNNEL_LAB_LONG").is_some() { (10_000_000, 20) } else { (100_000, 2) }
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

/// Real datagrams: a registration and a request, as they were said and answered.
async fn recorded(server: &str) -> Vec<Vec<u8>> {
    let mut host = Party::new(address(1), server, 1).await;
    assert_eq!(host.ask(ToServer::Register { name: "seen".into() }).await, FromServer::Registered);
    let mut other = Party::new(address(2), server, 2).await;
    let found = other.ask(ToServer::Find { request: 1, name: "seen".into() }).await;
    assert!(matches!(found, FromServer::Found { .. }), "{found:?}");
    let hello = vec![5; 300].into();
    other.say(ToServer::Introduce { request: 2, name: "seen".into(), hello });
    other.flush().await;
    let introduced = host.hear().await;
    assert!(matches!(introduced, FromServer::Introduction { .. }), "{introduced:?}");
    let mut mirror = vec![0; 64];
    mirror[4..6].copy_from_slice(&[7, 1]);
    [host.heard_and_said, other.heard_and_said, vec![mirror]].concat()
}

/// Random bytes, recorded datagrams, and recorded ones that were damaged; among a hundred of them a connection.
fn flood(server: SocketAddr, samples: &[Vec<u8>], count: u64, stop: &AtomicBool, crowd: &mut Crowd) -> u64 {
    let mut rng = StdRng::seed_from_u64(6);
    let bind = |n| UdpSocket::bind((address(n), 0)).expect("a port");
    let sockets: Vec<UdpSocket> = (500..564).map(bind).collect();
    let mut sent = 0;
    for n in 0.. {
        if n >= count && stop.load(Ordering::Relaxed) {
            break;
        }
        if n % 100 == 0 {
            crowd.join(n / 100);
        }
        let mut bytes = match rng.random_range(0..4) {
            0 => (0..rng.random_range(0..200)).map(|_| rng.random()).collect(),
            _ => samples[rng.random_range(0..samples.len())].clone(),
        };
        if rng.random() && !bytes.is_empty() {
            for _ in 0..rng.random_range(1..4) {
                let place = rng.random_range(0..bytes.len());
                bytes[place] = rng.random();
            }
            if rng.random_range(0..4) == 0 {
                bytes.truncate(rng.random_range(0..bytes.len()));
            }
        }
        sent += u64::from(sockets[n as usize % sockets.len()].send_to(&bytes, server).is_ok());
    }
    sent
}

fn connect(from: IpAddr, to: SocketAddr) -> std::io::Result<TcpStream> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::TCP))?;
    socket.bind(&SockAddr::from(SocketAddr::new(from, 0)))?;
    socket.connect_timeout(&to.into(), Duration::from_secs(1))?;
    Ok(socket.into())
}

/// Connections that say nothing, too little, the wrong thing, or the right thing and stay; that are half closed or
/// reset.
struct Crowd {
    servers: Vec<SocketAddr>,
    rng: StdRng,
    held: VecDeque<TcpStream>,
    opened: u64,
    failed: u64,
}

impl Crowd {
    fn new(servers: Vec<SocketAddr>) -> Crowd {
        Crowd { servers, rng: StdRng::seed_from_u64(7), held: VecDeque::new(), opened: 0, failed: 0 }
    }

    /// One more.
    fn join(&mut self, n: u64) {
        let Crowd { servers, rng, held, opened, failed } = self;
        let to = servers[n as usize % servers.len()];
        let Ok(mut stream) = connect(address(600 + n as u32 % 400), to) else {
            *failed += 1;
            return;
        };
        *opened += 1;
        let said = match rng.random_range(0..9) {
            0 => Vec::new(),
            1 => b"PT"[..rng.random_range(0..2)].to_vec(),
            2 => (0..rng.random_range(1..200)).map(|_| rng.random()).collect(),
            3 => preamble(Purpose::Probe).to_vec(),
            4 | 5 => {
                let (batch, local_port) = (rng.random(), rng.random());
                let question = ProbeQuestion { batch, number: 0, count: 2, local: 0, local_port };
                [&preamble(Purpose::Probe)[..], &question.encode()].concat()
            }
            6 => [&preamble(Purpose::Datagrams)[..], &[0, 88], &[0; 88], &[9; 300]].concat(),
            7 => {
                let question = [&[Origin::Port as u8][..], &[0; QUESTION - 1]].concat();
                [&preamble(Purpose::Knock)[..], &question].concat()
            }
            _ => preamble(Purpose::Cross).to_vec(),
        };
        // It may be gone already.
        let _ = stream.write_all(&said);
        match rng.random_range(0..4) {
            0 => drop(stream.shutdown(Shutdown::Write)),
            1 => {
                // Closing is a reset now.
                socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO)).expect("set");
                return;
            }
            2 => {
                stream.set_nonblocking(true).expect("set");
                let _ = stream.read(&mut [0; 64]);
            }
            _ => {}
        }
        held.push_back(stream);
        if held.len() > HELD {
            held.pop_front();
        }
    }
}

/// Registers a host, connects a client through the server, and has an answer of the service: how long each took.
async fn meet(server: &Server, n: u32, service: u16) -> (Duration, Duration) {
    let (host_key, client_key) = (generate_key(), generate_key());
    let name = format!("meet-{n}");
    let probes: Vec<&str> = server.probes.split(',').collect();
    let began = now();
    let builder = Host::builder(name.as_str())
        .rendezvous(&server.address)
        .probe_server(probes[0])
        .probe_server(probes[1])
        .key(host_key.clone())
        .admission(vec![client_key.public()])
        .service(service.to_string().parse::<Service>().expect("a port"));
    let mut events = builder.events();
    let host = builder.start().await.expect("started");
    while !matches!(events.next().await, Some(Event::Endpoint(endpoint::Event::Registered))) {}
    let registered = began.elapsed();
    let began = now();
    let client = Client::builder(name.as_str())
        .rendezvous(&server.address)
        .probe_server(probes[0])
        .probe_server(probes[1])
        .key(client_key)
        .patience(PATIENCE)
        .host_key(host_key.public())
        .connect()
        .await
        .expect("connected");
    let mut stream = client.open(None).await.expect("opened");
    stream.write_all(b"x").await.expect("sent");
    let mut answer = [0; 7];
    stream.read_exact(&mut answer).await.expect("answered");
    assert_eq!(&answer, b"hello\nx");
    let connected = began.elapsed();
    client.close().await;
    host.stop().await;
    (registered, connected)
}

#[test]
fn a_host_and_a_client_meet_while_strangers_flood_the_server() {
    run(async {
        let server = Server::start();
        let (count, meetings) = many();
        let udp: SocketAddr = server.address.parse().expect("an address");
        let tcp: Vec<SocketAddr> =
            server.probes.split(',').map(|text| text.parse().expect("an address")).collect();
        let samples = recorded(&server.address).await;
        let service = echo_service();
        let quiet = meet(&server, 1_000, service).await;
        let (before, _) = memory(server.process.id());
        let stop = Arc::new(AtomicBool::new(false));
        let began = now();
        let strangers = {
            let stop = stop.clone();
            std::thread::spawn(move || {
                let mut crowd = Crowd::new(tcp);
                let sent = flood(udp, &samples, count, &stop, &mut crowd);
                (sent, crowd.opened, crowd.failed, began.elapsed())
            })
        };
        for n in 0..meetings {
            let (registered, connected) = meet(&server, n, service).await;
            let (memory, _) = memory(server.process.id());
            eprintln!("registered in {registered:?}, connected in {connected:?}, {} KiB", memory >> 10);
        }
        stop.store(true, Ordering::Relaxed);
        let strangers = tokio::task::spawn_blocking(|| strangers.join().expect("it ends"));
        let (sent, opened, failed, took) = strangers.await.expect("joined");
        // It is as it was.
        meet(&server, 2_000, service).await;
        let (_, most) = memory(server.process.id());
        eprintln!("{sent} datagrams in {took:?}, {opened} connections, {failed} not opened");
        eprintln!("memory: {} KiB before, at most {} KiB", before >> 10, most >> 10);
        eprintln!("registered and connected in quiet: {quiet:?}");
        assert!(sent >= count && opened > 0, "nobody flooded it");
        assert!(most <= before + STRANGERS, "{most} bytes, {before} before");
    });
}
