//! System calls that a megabyte through the tunnel costs each agent, counted by strace under a fixed load.
//!
//! strace makes the programs slow, each call most of all. Then data waits wherever it can, and every call moves as much
//! as it may: the counts are those of a loaded tunnel, on any machine.

use std::{
    io::{Read, Write},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    path::Path,
    process::Command,
};

use rustix::process::Signal;

use crate::harness::{Home, Running, Server};

/// What is moved while calls are counted.
const MEGABYTES: usize = 64;

/// The program's bytes and the link's are read and written up to 128 or 256 KiB at once (4 to 8 calls each); with any of
/// them may come one that finds nothing to do, and a wait until there is something; acknowledgements are 8 more. Found were
/// 10 to 23 for `connect` and 12 to 31 for `expose`.
const LIMIT: f64 = 60.0;

/// A service that reads to the end and then says one byte.
fn sink() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("an address");
    std::thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            std::thread::spawn(move || {
                let mut stream = stream;
                std::io::copy(&mut stream, &mut std::io::sink())?;
                stream.write_all(b"!")
            });
        }
    });
    address
}

/// Moves so much, and waits until all of it has arrived.
fn move_megabytes(through: &str, count: usize) {
    let mut stream = TcpStream::connect(through).expect("a tunnel");
    let piece = vec![b'x'; 1_000_000];
    (0..count).for_each(|_| stream.write_all(&piece).expect("written"));
    stream.shutdown(Shutdown::Write).expect("shut down");
    stream.read_exact(&mut [0]).expect("all has arrived");
}

/// Starts to count the calls of a process; `None`, and the reason on standard error, where that is not possible.
fn count(process: u32, file: &Path) -> Option<Running> {
    let mut command = Command::new("strace");
    command
        .args(["--follow-forks", "--summary-only", "--attach", &process.to_string(), "--output"])
        .arg(file);
    let probe = Command::new("strace").args(["--summary-only", "--output", "/dev/null", "true"]).output();
    if !probe.is_ok_and(|output| output.status.success()) {
        eprintln!("skipped: there is no `strace` that works here");
        return None;
    }
    let mut strace = Running::start(command);
    let line = strace.line("strace: ");
    if !line.contains("attached") {
        eprintln!("skipped: {line}");
        return None;
    }
    Some(strace)
}

/// Ends the counting: how many calls there were.
fn calls(strace: Running, file: &Path) -> f64 {
    strace.signal(Signal::INT);
    strace.end();
    let summary = std::fs::read_to_string(file).expect("a summary");
    let total = summary.lines().find(|line| line.trim_end().ends_with("total")).expect("a total");
    println!("{summary}");
    // "100.00  0.057  14  3961  513 total": time, seconds, µs a call, calls, errors if any.
    total.split_whitespace().nth(3).and_then(|calls| calls.parse().ok()).expect("a number of calls")
}

#[test]
fn a_megabyte_takes_no_more_system_calls_than_its_buffers_say() {
    let server = Server::start();
    let (host, client) = (server.home(), server.home());
    let service = sink().to_string();
    let mut expose =
        Running::start(host.command(["expose", &service, "--as", "h", "--allow", &client.key()]));
    expose.line("registered as");
    let words = ["connect", "h", "-L", "0", "--host-key", &host.key()];
    let mut connect = Running::start(client.command(words));
    let listening = connect.line("listening on");
    let through = listening.split(' ').find(|word| word.starts_with("127.0.0.1:")).expect("an address");
    move_megabytes(through, 4);

    let directory = Home::new();
    let mut counted = Vec::new();
    for (name, agent) in [("connect", &connect), ("expose", &expose)] {
        let file = directory.path().join(name);
        let Some(strace) = count(agent.id(), &file) else { return };
        counted.push((name, strace, file));
    }
    move_megabytes(through, MEGABYTES);
    for (name, strace, file) in counted {
        let each = calls(strace, &file) / MEGABYTES as f64;
        println!("{name}: {each:.1} system calls a megabyte");
        assert!(each <= LIMIT, "{name}: {each:.1} system calls a megabyte, at most {LIMIT} are meant");
    }
}
