//! The test ground tests itself: plain programs through the same worlds, without the binary.

use std::{
    io::{Read, Write},
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    process::Command,
    time::{Duration, Instant},
};

use socket2::{Domain, Protocol, SockAddr, Socket, Type};

use crate::{
    Cell, Needs,
    error::{Result, ensure, failed},
    flows::Fate,
    link::Line,
    namespace::Namespace,
    nat_model::{Behaviour, Filtering, Unsolicited},
    network::INTERNET,
    process::{PATIENCE, Record, run},
    world::{Gateway, Host, Plan, World},
};

/// The port that each side punches from, in its own namespace.
const PUNCH_PORT: u16 = 4000;

/// Half the way from anybody to anybody.
const HALF_WAY: Line = Line {
    delay: Duration::from_millis(10),
    jitter: Duration::ZERO,
    loss: 0.0,
    rate: None,
    queue: 0,
    blocks_udp: false,
};

pub fn cells() -> Vec<Cell> {
    use Unsolicited::{Drop, Reset};
    let kernel = |unsolicited| Side::Kernel(unsolicited);
    let model = Side::Model;
    let mut cells = vec![
        Cell::new(
            "ground::an_echo_comes_back_through_a_modelled_nat_after_the_round_trip",
            Needs::Quiet,
            echo,
        ),
        Cell::new("ground::a_big_transfer_passes_two_modelled_nats_unharmed", Needs::Nothing, transfer),
        Cell::new("ground::a_time_to_live_that_ends_on_the_way_is_reported", Needs::Nothing, time_exceeded),
        Cell::new("ground::a_connection_that_is_reset_on_purpose_ends_on_both_sides", Needs::Nothing, killed),
    ];
    let punches = [
        (model(Behaviour::linux(Drop)), model(Behaviour::linux(Drop)), true),
        (model(Behaviour::linux(Reset)), model(Behaviour::linux(Reset)), true),
        (model(Behaviour::constant_offset()), model(Behaviour::linux(Drop)), true),
        (
            model(Behaviour::endpoint_independent(Filtering::EndpointIndependent)),
            model(Behaviour::endpoint_independent(Filtering::AddressDependent)),
            true,
        ),
        (model(Behaviour::strict()), model(Behaviour::strict()), false),
        (model(Behaviour::random()), model(Behaviour::linux(Drop)), false),
        (kernel(Drop), kernel(Drop), true),
        (kernel(Reset), kernel(Reset), true),
        (kernel(Drop), model(Behaviour::linux(Reset)), true),
    ];
    for (one, other, connects) in punches {
        let verb = if connects { "open" } else { "do_not_open" };
        let name = format!("ground::{}_and_{}_{verb}_simultaneously", one.name(), other.name());
        cells.push(Cell::new(name, Needs::Nothing, move |record| punch(record, &one, &other, connects)));
    }
    cells
}

/// What one of two punching hosts is behind.
#[derive(Debug, Clone)]
enum Side {
    Model(Behaviour),
    Kernel(Unsolicited),
}

impl Side {
    fn name(&self) -> String {
        match self {
            Side::Model(behaviour) => behaviour.name.replace([' ', '/', ','], "_"),
            Side::Kernel(unsolicited) => format!("kernel_{unsolicited:?}").to_lowercase(),
        }
    }

    fn host(&self, plan: &mut Plan, name: &str) -> Result<(Host, Option<Namespace>)> {
        match self {
            Side::Model(behaviour) => {
                let (_, inside) = plan.nat(INTERNET, behaviour, HALF_WAY);
                Ok((plan.host(inside, name)?, None))
            }
            Side::Kernel(unsolicited) => {
                let mut lan = plan.lan(INTERNET, Gateway::Masquerade(*unsolicited), HALF_WAY)?;
                Ok((lan.host(name)?, Some(lan.router)))
            }
        }
    }
}

fn echo(record: &Record) -> Result<()> {
    let mut plan = Plan::new(1);
    let vps = plan.public("vps", HALF_WAY)?;
    let (home, _router) = Side::Model(Behaviour::sequential(1)).host(&mut plan, "home")?;
    let _world = plan.start()?;
    let mut ping = Command::new("ping");
    ping.args(["-n", "-c", "5", "-i", "0.05", "-W", "5"]).arg(vps.address.to_string());
    let output = run(record, &home.namespace, "ping", &mut ping)?;
    let output = String::from_utf8_lossy(&output);
    ensure(output.contains("5 received"), || output.to_string())?;
    let least =
        output.rsplit(" = ").next().and_then(|figures| figures.split('/').next()?.parse::<f64>().ok());
    ensure(least.is_some_and(|ms| (40.0..42.0).contains(&ms)), || format!("not 40 ms: {output}"))
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
    let mut plan = Plan::new(3);
    let vps = plan.public("vps", HALF_WAY)?;
    let (home, _router) = Side::Model(Behaviour::linux(Unsolicited::Drop)).host(&mut plan, "home")?;
    let _world = plan.start()?;
    for (ttl, who) in [("1", "192.168.1.1"), ("2", "203.0.113.254")] {
        let mut ping = Command::new("sh");
        let words = format!("ping -n -c 1 -W 5 -t {ttl} {}; true", vps.address);
        let output = run(record, &home.namespace, "ping", ping.args(["-c", &words]))?;
        let output = String::from_utf8_lossy(&output).to_lowercase();
        ensure(output.contains(who) && output.contains("time to live exceeded"), || output.clone())?;
    }
    Ok(())
}

fn killed(record: &Record) -> Result<()> {
    // Both preserve ports: nobody has to be asked for them.
    let (world, [one, other], _routers, vps) =
        pair(4, &Side::Model(Behaviour::linux(Unsolicited::Drop)), &Side::Kernel(Unsolicited::Drop))?;
    let (mut one, mut other) = open(record, &one, outside(2), &other, outside(3))?.ok_or("no connection")?;
    one.write_all(b"before")?;
    let mut buffer = [0; 6];
    other.read_exact(&mut buffer)?;
    let sealed = world.network().flows().seal(INTERNET, Fate::Reset, &[vps.address]);
    ensure(sealed == 1, || format!("{sealed} connections instead of one"))?;
    one.write_all(b"after")?;
    for stream in [&mut one, &mut other] {
        let end = stream.read(&mut buffer).map_err(|error| error.kind());
        ensure(end == Err(std::io::ErrorKind::ConnectionReset), || format!("{end:?} instead of a reset"))?;
    }
    Ok(())
}

/// The punch port behind the n-th public address in the order of the plan, where it is preserved.
fn outside(number: u8) -> SocketAddr {
    (Ipv4Addr::new(203, 0, 113, number), PUNCH_PORT).into()
}

type Pair = (World, [Host; 2], Vec<Namespace>, Host);

/// Two hosts behind different NATs, and one on the internet.
fn pair(seed: u64, one: &Side, other: &Side) -> Result<Pair> {
    let mut plan = Plan::new(seed);
    let vps = plan.public("vps", HALF_WAY)?;
    let (home, router) = one.host(&mut plan, "home")?;
    let (laptop, other_router) = other.host(&mut plan, "laptop")?;
    let routers = router.into_iter().chain(other_router).collect();
    Ok((plan.start()?, [home, laptop], routers, vps))
}

fn punch(record: &Record, one: &Side, other: &Side, connects: bool) -> Result<()> {
    let (_world, [home, laptop], _routers, vps) = pair(5, one, other)?;
    let listener = vps.namespace.within(|| TcpListener::bind((Ipv4Addr::UNSPECIFIED, 7862)))??;
    let probe = |host: &Host| -> Result<(Socket, SocketAddr)> {
        let socket = punch_socket(host)?;
        socket
            .connect_timeout(&SockAddr::from(SocketAddr::new(vps.address, 7862)), PATIENCE)
            .map_err(|error| failed("probing", error))?;
        Ok((socket, listener.accept()?.1))
    };
    let (_probe, home_outside) = probe(&home)?;
    let (_other_probe, laptop_outside) = probe(&laptop)?;
    let opened = open(record, &home, home_outside, &laptop, laptop_outside)?;
    ensure(opened.is_some() == connects, || format!("connected: {}", opened.is_some()))?;
    if let Some((mut one, mut other)) = opened {
        one.write_all(b"hello")?;
        let mut buffer = [0; 5];
        other.read_exact(&mut buffer)?;
        ensure(&buffer == b"hello", || format!("{buffer:?}"))?;
    }
    Ok(())
}

/// Both connect to each other from the punch port at the same time; a refusal means that it was too early.
fn open(
    record: &Record,
    one: &Host,
    one_outside: SocketAddr,
    other: &Host,
    other_outside: SocketAddr,
) -> Result<Option<(TcpStream, TcpStream)>> {
    record.add(&"test".into(), format!("{one_outside} and {other_outside} open"));
    let connect = |host: &Host, to: SocketAddr| -> Result<Option<TcpStream>> {
        for _ in 0..20 {
            let socket = punch_socket(host)?;
            match socket.connect_timeout(&SockAddr::from(to), Duration::from_millis(2500)) {
                Ok(()) => {
                    socket.set_read_timeout(Some(PATIENCE))?;
                    return Ok(Some(socket.into()));
                }
                Err(error) if error.kind() == std::io::ErrorKind::ConnectionRefused => {}
                Err(error) => {
                    record.add(&host.name.as_str().into(), format!("connecting to {to}: {error}"));
                    return Ok(None);
                }
            }
        }
        Ok(None)
    };
    std::thread::scope(|scope| {
        let one = scope.spawn(|| connect(one, other_outside));
        let other = connect(other, one_outside)?;
        let one = one.join().map_err(|_| "connecting panicked")??;
        Ok(one.zip(other))
    })
}

fn punch_socket(host: &Host) -> Result<Socket> {
    let socket = host.namespace.within(|| Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::TCP)))??;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(true)?;
    let local = SocketAddr::from((Ipv4Addr::UNSPECIFIED, PUNCH_PORT));
    socket.bind(&SockAddr::from(local)).map_err(|error| failed("binding the punch port", error))?;
    Ok(socket)
}
