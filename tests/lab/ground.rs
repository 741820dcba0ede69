//! The test ground tests itself: plain programs through the same worlds, without the binary.

use std::{
    io::{ErrorKind, Read, Write},
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    process::Command,
    time::{Duration, Instant},
};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use socket2::SockAddr;

use crate::{
    Cell, Needs,
    error::{Result, ensure, failed},
    link::Line,
    nat_model::{Behaviour, Unsolicited},
    network::INTERNET,
    opens::punch_socket,
    process::{PATIENCE, Record, run},
    side::{Side, Trio},
    world::{Host, Plan},
};

/// Half the way from anybody to anybody.
pub const HALF_WAY: Line =
    Line { delay: Duration::from_millis(10), jitter: Duration::ZERO, loss: 0.0, rate: None, queue: 0 };

pub fn cells() -> Vec<Cell> {
    vec![
        Cell::new("ground::a_ping_passes_a_modelled_nat", Needs::Ping, ping),
        Cell::new("ground::a_datagram_comes_back_after_the_round_trip", Needs::Quiet, round_trip),
        Cell::new("ground::an_icmp_error_finds_its_way_back_through_two_nats", Needs::Nothing, icmp_error),
        Cell::new("ground::a_sweep_of_900_syns_loses_none", Needs::Quiet, sweep),
        Cell::new("ground::a_big_transfer_passes_two_modelled_nats_unharmed", Needs::Nothing, transfer),
        Cell::new("ground::a_time_to_live_that_ends_on_the_way_is_reported", Needs::Ping, time_exceeded),
    ]
}

fn ping(record: &Record) -> Result<()> {
    let side = Side::Model(Behaviour::sequential(1));
    let Trio { vps, home, world: _world, .. } = Trio::new(1, &side, &side, HALF_WAY)?;
    let mut ping = Command::new("ping");
    ping.args(["-n", "-c", "5", "-i", "0.05", "-W", "5"]).arg(vps.address.to_string());
    let output = run(record, &home.namespace, "ping", &mut ping)?;
    let output = String::from_utf8_lossy(&output);
    ensure(output.contains("5 received"), || output.to_string())
}

fn round_trip(_record: &Record) -> Result<()> {
    let side = Side::Model(Behaviour::sequential(1));
    let Trio { vps, home, world: _world, .. } = Trio::new(1, &side, &side, HALF_WAY)?;
    let server = vps.namespace.within(|| UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 7)))??;
    let client = home.namespace.within(|| UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)))??;
    client.connect((vps.address, 7))?;
    for socket in [&server, &client] {
        socket.set_read_timeout(Some(PATIENCE))?;
    }
    let mut times = Vec::new();
    for number in 0..20_u8 {
        let start = Instant::now();
        client.send(&[number])?;
        let mut buffer = [0; 8];
        let (length, from) = server.recv_from(&mut buffer)?;
        ensure(from.ip() != home.address, || format!("{from} was not translated"))?;
        server.send_to(&buffer[..length], from)?;
        let length = client.recv(&mut buffer)?;
        ensure(buffer[..length] == [number], || format!("{:?} came back", &buffer[..length]))?;
        times.push(start.elapsed());
    }
    times.sort();
    // Four times half the way; what the lab itself adds is in every time that it measures later.
    let (least, median) = (times[0], times[times.len() / 2]);
    let right = least >= HALF_WAY.delay * 4 && median < HALF_WAY.delay * 4 + Duration::from_millis(2);
    ensure(right, || format!("{least:?} at least, {median:?} in the median"))
}

fn icmp_error(_record: &Record) -> Result<()> {
    let mut plan = Plan::new(2);
    let vps = plan.public("vps", HALF_WAY)?;
    let (_, carrier) = plan.nat(INTERNET, &Behaviour::sequential(1), HALF_WAY);
    let (_, inside) = plan.nat(carrier, &Behaviour::constant_offset(), HALF_WAY);
    let home = plan.host(inside, "home")?;
    let _world = plan.start()?;
    let client = home.namespace.within(|| UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)))??;
    client.set_read_timeout(Some(PATIENCE))?;
    client.connect((vps.address, 9))?;
    client.send(b"anybody there?")?;
    // The kernel believes an ICMP error only if the packet in it is one that it sent.
    let answer = client.recv(&mut [0; 8]).map_err(|error| error.kind());
    ensure(answer == Err(ErrorKind::ConnectionRefused), || format!("{answer:?} instead of a refusal"))
}

fn sweep(_record: &Record) -> Result<()> {
    /// As many as the usual limit of 1024 open files leaves room for.
    const PORTS: u16 = 900;
    let side = Side::Model(Behaviour::sequential(1));
    let trio = Trio::new(1, &side, &side, HALF_WAY)?;
    let mut sockets = Vec::new();
    for _ in 0..PORTS {
        let socket = punch_socket(&trio.home)?;
        socket.set_nonblocking(true)?;
        sockets.push(socket);
    }
    // The router stands still meanwhile: the device's queue must hold them all.
    let held = trio.world.network();
    for (socket, port) in sockets.iter().zip(20_000..) {
        let to = SockAddr::from(SocketAddr::new(trio.vps.address, port));
        match socket.connect(&to) {
            Err(error) if error.raw_os_error() == Some(rustix::io::Errno::INPROGRESS.raw_os_error()) => {}
            other => return Err(failed("connecting", format!("{other:?}"))),
        }
    }
    drop(held);
    for socket in &sockets {
        let patience = Timespec::try_from(PATIENCE).map_err(|error| failed("deadline", error))?;
        poll(&mut [PollFd::new(socket, PollFlags::OUT)], Some(&patience))
            .map_err(|error| failed("waiting", error))?;
        let error = socket.take_error()?.map(|error| error.kind());
        ensure(error == Some(ErrorKind::ConnectionRefused), || format!("{error:?} instead of a refusal"))?;
    }
    let repeated = retransmissions(&trio.home)?;
    ensure(repeated == "0", || format!("{repeated} SYNs had to be repeated"))
}

/// TCP segments that a host has repeated, as its kernel counts.
fn retransmissions(host: &Host) -> Result<String> {
    let counters = host.namespace.within(|| std::fs::read_to_string("/proc/thread-self/net/snmp"))??;
    let mut tcp = counters.lines().filter_map(|line| line.strip_prefix("Tcp: "));
    let (names, values) = tcp.next().zip(tcp.next()).ok_or("no counters of TCP")?;
    let mut pairs = names.split(' ').zip(values.split(' '));
    let (_, value) = pairs.find(|(name, _)| *name == "RetransSegs").ok_or("no such counter")?;
    Ok(value.to_owned())
}

fn transfer(_record: &Record) -> Result<()> {
    const LENGTH: usize = 100_000_000;
    let mut plan = Plan::new(2);
    let vps = plan.public("vps", Line::delayed(Duration::from_millis(2)))?;
    let behaviour = Behaviour::sequential(1);
    let (_, carrier) = plan.nat(INTERNET, &behaviour, Line::delayed(Duration::from_millis(2)));
    let (_, inside) = plan.nat(carrier, &behaviour, Line::default());
    let home = plan.host(inside, "home")?;
    let _world = plan.start()?;
    let listener = vps.namespace.within(|| TcpListener::bind((Ipv4Addr::UNSPECIFIED, 80)))??;
    let to = SocketAddr::new(vps.address, 80);
    let mut sender = home.namespace.within(|| TcpStream::connect_timeout(&to, PATIENCE))??;
    let (mut receiver, from) = listener.accept()?;
    ensure(from.ip() != home.address, || format!("{from} was not translated"))?;
    receiver.set_read_timeout(Some(PATIENCE))?;
    let start = Instant::now();
    let block: Vec<u8> = (0..=250).cycle().take(251 * 1000).collect();
    let sending = std::thread::spawn(move || -> std::io::Result<()> {
        let mut left = LENGTH;
        while left > 0 {
            let length = left.min(block.len());
            sender.write_all(&block[..length])?;
            left -= length;
        }
        Ok(())
    });
    let (mut buffer, mut received) = (vec![0; 1 << 16], 0);
    loop {
        let length = receiver.read(&mut buffer)?;
        if length == 0 {
            break;
        }
        let right = buffer[..length].iter().zip(received..).all(|(&byte, at)| usize::from(byte) == at % 251);
        ensure(right, || format!("another byte than was sent, after {received}"))?;
        received += length;
    }
    sending.join().map_err(|_| "the sender panicked")??;
    eprintln!("lab: 100 MB through two modelled NATs in {:.1?}", start.elapsed());
    ensure(received == LENGTH, || format!("{received} of {LENGTH} bytes"))
}

fn time_exceeded(record: &Record) -> Result<()> {
    let side = Side::Model(Behaviour::linux(Unsolicited::Drop));
    let Trio { vps, home, world: _world, .. } = Trio::new(3, &side, &side, HALF_WAY)?;
    for (ttl, who) in [("1", "192.168.1.1"), ("2", "203.0.113.254")] {
        let mut ping = Command::new("sh");
        let words = format!("ping -n -c 1 -W 5 -t {ttl} {}; true", vps.address);
        let output = run(record, &home.namespace, "ping", ping.args(["-c", &words]))?;
        let output = String::from_utf8_lossy(&output).to_lowercase();
        ensure(output.contains(who) && output.contains("time to live exceeded"), || output.clone())?;
    }
    Ok(())
}
