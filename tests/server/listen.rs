//! Several addresses of one family, connections that say nothing, and a process that may open no more files.

use std::{
    net::{IpAddr, SocketAddr},
    process::Command,
};

use punchtunnel::wire::{
    probe::{ProbeQuestion, Purpose, preamble},
    server::{FromServer, ToServer},
};
use rustix::process::{Pid, Resource, Rlimit, getrlimit, prlimit};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpSocket, TcpStream},
};

use crate::{
    harness::{Home, Running, Server},
    party::{Party, address, run},
};

async fn connect(from: IpAddr, to: &str) -> TcpStream {
    let socket = TcpSocket::new_v4().expect("a socket");
    socket.bind((from, 0).into()).expect("an address");
    socket.connect(to.parse().expect("an address")).await.expect("connected")
}

/// What the server answers to a probe; `None` where it hangs up.
async fn probe(from: IpAddr, to: &str) -> Option<()> {
    let mut stream = connect(from, to).await;
    let port = stream.local_addr().expect("an address").port();
    let question = ProbeQuestion { batch: [port as u8; 16], number: 0, count: 1, local: 0, local_port: port };
    let asked = [&preamble(Purpose::Probe)[..], &question.encode()].concat();
    stream.write_all(&asked).await.ok()?;
    let length = stream.read_u16().await.ok()?;
    stream.read_exact(&mut vec![0; length.into()]).await.ok().map(|_| ())
}

/// The server closes it, by itself.
async fn is_closed(mut stream: TcpStream) {
    while matches!(stream.read(&mut [0; 64]).await, Ok(1..)) {}
}

#[test]
fn each_of_several_addresses_of_one_family_answers_for_itself() {
    run(async {
        let home = Home::new();
        let words = ["--listen", "127.0.0.1:0", "--listen", "127.0.0.2:0", "--listen", "127.0.0.3:0"];
        let mut server =
            Running::start(home.command(["rendezvous", "--probe-port", "0"].iter().chain(&words)));
        let line = server.line("listening on");
        let addresses: Vec<&str> = line.split(' ').filter(|word| word.starts_with("127.0.0.")).collect();
        assert_eq!(addresses.len(), 3, "{line}");
        for (number, server) in (0..).zip(addresses) {
            // It hears nothing from another address than the one that it asks.
            let mut party = Party::new(address(number), server, number).await;
            let name = format!("name-{number}");
            assert_eq!(party.ask(ToServer::Register { name }).await, FromServer::Registered);
        }
    });
}

#[test]
fn who_says_nothing_or_shows_no_key_is_hung_up_on() {
    run(async {
        let server = Server::start();
        let silent = connect(address(1), &server.address).await;
        let mut slow = connect(address(2), &server.address).await;
        slow.write_all(b"P").await.expect("sent");
        let mut half = connect(address(3), &server.address).await;
        half.shutdown().await.expect("half closed");
        let mut wrong = connect(address(4), &server.address).await;
        wrong.write_all(&[9; 100]).await.expect("sent");
        let mut asking = connect(address(5), &server.address).await;
        asking.write_all(&preamble(Purpose::Probe)).await.expect("sent");
        // Datagrams without a key, one after the other: each alone would be in time.
        let mut chatting = connect(address(6), &server.address).await;
        let chat = async {
            chatting.write_all(&preamble(Purpose::Datagrams)).await.expect("sent");
            let datagram = [&[0, 20][..], &[7; 20]].concat();
            while chatting.write_all(&datagram).await.is_ok() {
                tokio::time::sleep(std::time::Duration::from_millis(200)).await;
            }
        };
        tokio::join!(
            is_closed(silent),
            is_closed(slow),
            is_closed(half),
            is_closed(wrong),
            is_closed(asking),
            chat
        );
        assert!(probe(address(7), &server.address).await.is_some());
    });
}

/// Clock ticks of work that a process has done.
fn worked(process: u32) -> u64 {
    let stat = std::fs::read_to_string(format!("/proc/{process}/stat")).expect("it runs");
    // Behind the name in brackets: state, and further on user and system time.
    let fields: Vec<&str> = stat.rsplit(") ").next().unwrap_or_default().split(' ').collect();
    [11, 12].iter().filter_map(|n| fields.get(*n)?.parse::<u64>().ok()).sum()
}

#[test]
fn a_server_without_descriptors_serves_those_whom_it_has_and_does_not_spin() {
    run(async {
        let server = Server::start();
        let mut host = Party::new(address(1), &server.address, 1).await;
        assert_eq!(host.ask(ToServer::Register { name: "here".into() }).await, FromServer::Registered);
        let process = server.process.id();
        let files = std::fs::read_dir(format!("/proc/{process}/fd")).expect("it runs").count() as u64;
        let id = Pid::from_raw(process as i32).expect("an id");
        let maximum = getrlimit(Resource::Nofile).maximum;
        let limit = |current| prlimit(Some(id), Resource::Nofile, Rlimit { current, maximum });
        let before = limit(Some(files + 2)).expect("lowered");
        // Two are taken; the others wait for a file that nobody has.
        let mut crowd = Vec::new();
        for n in 0..40 {
            crowd.push(connect(address(100 + n), &server.address).await);
        }
        let work = worked(process);
        tokio::time::sleep(std::time::Duration::from_secs(1)).await;
        let work = worked(process) - work;
        assert!(work < 30, "it worked for {work} hundredths of a second");
        // Who is registered is, and who comes by UDP is served; nothing of that takes a file.
        let mut other = Party::new(address(2), &server.address, 2).await;
        let found = other.ask(ToServer::Find { request: 1, name: "here".into() }).await;
        assert!(matches!(found, FromServer::Found { .. }), "{found:?}");
        let renewed = host.ask(ToServer::Register { name: "here".into() }).await;
        assert_eq!(renewed, FromServer::Registered);
        drop(crowd);
        limit(before.current).expect("raised");
        assert!(probe(address(3), &server.address).await.is_some(), "there is room again");
    });
}

#[test]
fn a_server_with_few_descriptors_answers_whoever_says_something() {
    run(async {
        let home = Home::new();
        let words = ["rendezvous", "--listen", "127.0.0.1:0", "--probe-port", "0"];
        let plain = home.command(words);
        let mut limited = Command::new("sh");
        limited
            .args(["-c", "ulimit -n 80 && exec \"$0\" \"$@\""])
            .arg(plain.get_program())
            .args(plain.get_args());
        for (name, value) in plain.get_envs() {
            match value {
                Some(value) => limited.env(name, value),
                None => limited.env_remove(name),
            };
        }
        let mut server = Running::start(limited);
        let line = server.line("listening on");
        let address_of = |word: &&str| word.parse::<SocketAddr>().is_ok();
        let to = line.split(' ').find(address_of).expect("an address").to_owned();
        let mut silent = Vec::new();
        for n in 0..300 {
            silent.push(connect(address(n), &to).await);
            if n % 50 == 49 {
                assert!(probe(address(1_000 + n), &to).await.is_some(), "after {n} that say nothing");
            }
        }
    });
}
