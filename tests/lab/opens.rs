//! Simultaneous opens by hand: two plain sockets, through the model's NATs and the kernel's. What holds
//! here is what the binary can build on, and what the model says must be what the kernel does.

use std::{
    io::{ErrorKind, Read, Write},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream},
    time::Duration,
};

use socket2::{Domain, Protocol, SockAddr, Socket, Type};

use crate::{
    Cell, Needs,
    error::{Result, ensure, failed},
    flows::Fate,
    ground::HALF_WAY,
    link::Line,
    nat_model::{Behaviour, Filtering, Unsolicited},
    network::INTERNET,
    process::{PATIENCE, Record},
    side::{Side, Trio},
    world::{Gateway, Host, Plan},
};

/// The port that each side punches from, in its own namespace.
const PUNCH_PORT: u16 = 4000;

pub fn cells() -> Vec<Cell> {
    use Unsolicited::{Drop, Icmp, Reset};
    let kernel = Side::Kernel;
    let model = Side::Model;
    let mut cells = vec![
        Cell::new("opens::a_connection_that_is_reset_on_purpose_ends_on_both_sides", Needs::Nothing, killed),
        Cell::new("opens::two_hosts_of_one_lan_reach_each_other_and_share_an_address", Needs::Nothing, lan),
        Cell::new("opens::two_homes_of_one_carrier_open_through_its_hairpin", Needs::Nothing, carrier),
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
        (kernel(Icmp), model(Behaviour::linux(Icmp)), true),
        (Side::Firewall(Behaviour::linux(Drop)), Side::KernelFirewall, true),
    ];
    for (one, other, connects) in punches {
        let verb = if connects { "open" } else { "do_not_open" };
        let name = format!("opens::{}_and_{}_{verb}_simultaneously", one.name(), other.name());
        cells.push(Cell::new(name, Needs::Nothing, move |record| punch(record, &one, &other, connects)));
    }
    cells
}

fn killed(record: &Record) -> Result<()> {
    // Both preserve ports: nobody has to be asked for them.
    let (one, other) = (Side::Model(Behaviour::linux(Unsolicited::Drop)), Side::Kernel(Unsolicited::Drop));
    let trio = Trio::new(4, &one, &other, HALF_WAY)?;
    let (mut one, mut other) =
        open(record, &trio.home, outside(2), &trio.laptop, outside(3))?.ok_or("no connection")?;
    one.write_all(b"before")?;
    let mut buffer = [0; 6];
    other.read_exact(&mut buffer)?;
    let sealed = trio.world.network().flows().seal(INTERNET, Fate::Reset, &[trio.vps.address]);
    ensure(sealed == 1, || format!("{sealed} connections instead of one"))?;
    // Either may have its reset before the other's bytes are there: each says something.
    one.write_all(b"after")?;
    other.write_all(b"after")?;
    for stream in [&mut one, &mut other] {
        let end = stream.read(&mut buffer).map_err(|error| error.kind());
        ensure(end == Err(ErrorKind::ConnectionReset), || format!("{end:?} instead of a reset"))?;
    }
    Ok(())
}

/// The punch port behind the n-th public address in the order of the plan, where it is preserved.
fn outside(number: u8) -> SocketAddr {
    (Ipv4Addr::new(203, 0, 113, number), PUNCH_PORT).into()
}

fn punch(record: &Record, one: &Side, other: &Side, connects: bool) -> Result<()> {
    let trio = Trio::new(5, one, other, HALF_WAY)?;
    meet(record, &trio.vps, [&trio.home, &trio.laptop], connects).map(drop)
}

/// Two hosts learn their outer addresses from a third and open towards each other.
fn meet(record: &Record, vps: &Host, hosts: [&Host; 2], connects: bool) -> Result<[SocketAddr; 2]> {
    let listener = vps.namespace.within(|| TcpListener::bind((Ipv6Addr::UNSPECIFIED, 7862)))??;
    let probe = |host: &Host| -> Result<(Socket, SocketAddr)> {
        let socket = punch_socket(host)?;
        let server = if host.address.is_ipv4() { vps.address } else { vps.address6.ok_or("no IPv6")? };
        socket
            .connect_timeout(&SockAddr::from(SocketAddr::new(server, 7862)), PATIENCE)
            .map_err(|error| failed("probing", error))?;
        let seen = listener.accept()?.1;
        Ok((socket, SocketAddr::new(seen.ip().to_canonical(), seen.port())))
    };
    let [one, other] = hosts;
    let (_probe, one_outside) = probe(one)?;
    let (_other_probe, other_outside) = probe(other)?;
    let opened = open(record, one, one_outside, other, other_outside)?;
    ensure(opened.is_some() == connects, || format!("connected: {}", opened.is_some()))?;
    if let Some((mut one, mut other)) = opened {
        one.write_all(b"hello")?;
        let mut buffer = [0; 5];
        other.read_exact(&mut buffer)?;
        ensure(&buffer == b"hello", || format!("{buffer:?}"))?;
    }
    Ok([one_outside, other_outside])
}

fn lan(record: &Record) -> Result<()> {
    let mut plan = Plan::new(6);
    let vps = plan.public("vps", HALF_WAY)?;
    let (_, inside) = plan.nat(INTERNET, &Behaviour::linux(Unsolicited::Drop), HALF_WAY);
    let mut lan = plan.lan(inside, Gateway::Forward, Line::default())?;
    let (home, laptop) = (lan.host("home")?, lan.host("laptop")?);
    let _world = plan.start()?;
    // There is no hairpin: opening towards each other's outer address leads nowhere.
    let [one, other] = meet(record, &vps, [&home, &laptop], false)?;
    ensure(one.ip() == other.ip(), || format!("{one} and {other}"))?;
    let listener = home.namespace.within(|| TcpListener::bind((Ipv4Addr::UNSPECIFIED, 80)))??;
    let to = SocketAddr::new(home.address, 80);
    let _stream = laptop.namespace.within(|| TcpStream::connect_timeout(&to, PATIENCE))??;
    let (_, from) = listener.accept()?;
    ensure(from.ip() == laptop.address, || format!("{from} instead of {}", laptop.address))
}

fn carrier(record: &Record) -> Result<()> {
    let mut plan = Plan::new(7);
    let vps = plan.public("vps", HALF_WAY)?;
    let behaviour = Behaviour::endpoint_independent(Filtering::EndpointIndependent).with_hairpin();
    let (_, customers) = plan.nat(INTERNET, &behaviour, HALF_WAY);
    let side = Side::Model(Behaviour::linux(Unsolicited::Drop));
    let (home, _) = side.host(&mut plan, customers, "home", HALF_WAY)?;
    let (laptop, _) = side.host(&mut plan, customers, "laptop", HALF_WAY)?;
    let _world = plan.start()?;
    let [one, other] = meet(record, &vps, [&home, &laptop], true)?;
    ensure(one.ip() == other.ip(), || format!("{one} and {other}"))
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
                Err(error) if error.kind() == ErrorKind::ConnectionRefused => {}
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

/// A socket of a host on the punch port.
pub fn punch_socket(host: &Host) -> Result<Socket> {
    let (domain, any): (_, IpAddr) = match host.address {
        IpAddr::V4(_) => (Domain::IPV4, Ipv4Addr::UNSPECIFIED.into()),
        IpAddr::V6(_) => (Domain::IPV6, Ipv6Addr::UNSPECIFIED.into()),
    };
    let socket = host.namespace.within(|| Socket::new(domain, Type::STREAM, Some(Protocol::TCP)))??;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(true)?;
    let local = SocketAddr::new(any, PUNCH_PORT);
    socket.bind(&SockAddr::from(local)).map_err(|error| failed("binding the punch port", error))?;
    Ok(socket)
}
