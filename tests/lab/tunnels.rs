//! The binary through every kind of network that it must manage.

use std::time::Duration;

use rustix::process::Signal;

use crate::{
    Cell, Needs,
    error::{Result, ensure},
    flows::Fate,
    link::Line,
    nat_model::{Behaviour, Filtering, Unsolicited},
    network::INTERNET,
    parties::{LOCAL_PORT, NAME, Parties, Party, rendezvous, serve},
    process::{PATIENCE, Record},
    service::{Service, connect, converse, greeted},
    side::{Side, Trio},
    world::{Gateway, Plan},
};

/// Bytes that a cell sends through its tunnel and back.
const SAMPLE: usize = 200_000;

pub fn cells() -> Vec<Cell> {
    let mut cells = vec![
        Cell::new("tunnels::two_peers_in_one_lan_behind_a_nat_without_hairpin_connect", Needs::Nothing, lan),
        Cell::new("tunnels::two_homes_behind_one_carrier_connect", Needs::Nothing, carrier),
        Cell::new("tunnels::a_reset_link_is_replaced_and_no_byte_is_lost", Needs::Nothing, |record| {
            killed(record, Fate::Reset)
        }),
        Cell::new("tunnels::a_silent_link_is_replaced_and_no_byte_is_lost", Needs::Nothing, |record| {
            killed(record, Fate::Silence)
        }),
    ];
    for seed in 1..=3 {
        let name = format!("tunnels::packets_that_are_late_or_lost_harm_nobody_seed_{seed}");
        cells.push(Cell::new(name, Needs::Nothing, move |record| lossy(record, seed)));
    }
    let linux = || Side::Model(Behaviour::linux(Unsolicited::Drop));
    let kernel = Side::Kernel;
    for unsolicited in [Unsolicited::Drop, Unsolicited::Reset] {
        let (home, laptop) = (kernel(unsolicited), kernel(unsolicited));
        let name = format!("tunnels::the_four_lines_work_between_{}_and_{}", home.name(), laptop.name());
        cells.push(Cell::new(name, Needs::Nothing, move |record| four_lines(record, &home, &laptop)));
    }
    for (home, laptop) in matrix() {
        for ms in [5, 50, 150] {
            cells.push(pair(home.clone(), laptop.clone(), ms));
        }
        // The roles are not alike: the other way round, where it costs little.
        if home.name() != laptop.name() {
            cells.push(pair(laptop, home, 5));
        }
    }
    let firewall = || Side::Firewall(Behaviour::linux(Unsolicited::Drop));
    cells.push(pair(firewall(), Side::KernelFirewall, 20));
    cells.push(pair(Side::KernelFirewall, Side::KernelFirewall, 20));
    let no_udp = || Side::Model(Behaviour::linux(Unsolicited::Drop).without_udp());
    cells.push(pair(no_udp(), linux(), 20));
    cells.push(pair(linux(), no_udp(), 20));
    cells
}

/// Fixed ports on one side, fixed or progressing ones on the other.
pub fn matrix() -> Vec<(Side, Side)> {
    let filterings =
        [Filtering::EndpointIndependent, Filtering::AddressDependent, Filtering::AddressAndPortDependent];
    let fixed = [Behaviour::linux(Unsolicited::Drop), Behaviour::constant_offset()]
        .into_iter()
        .chain(filterings.map(Behaviour::endpoint_independent));
    fixed
        .flat_map(|fixed| {
            [Behaviour::linux(Unsolicited::Drop), Behaviour::sequential(1)]
                .map(|other| (Side::Model(fixed.clone()), Side::Model(other)))
        })
        .collect()
}

/// A tunnel between two sides, everybody `ms` milliseconds from everybody else, carries data.
fn pair(home: Side, laptop: Side, ms: u64) -> Cell {
    let name = format!("tunnels::{}_to_{}_at_{ms}_ms_connect", laptop.name(), home.name());
    let half_way = Line::delayed(Duration::from_millis(ms) / 2);
    Cell::new(name, Needs::Nothing, move |record| {
        let trio = Trio::new(ms, &home, &laptop, half_way)?;
        let ipv6 = trio.home.address.is_ipv6();
        let server = if ipv6 { trio.vps.address6 } else { Some(trio.vps.address) };
        let echo = Service::echo(&trio.home)?;
        let parties = Parties::start(record, trio.hosts(), server.ok_or("no address")?, echo.port)?;
        let (connect, stream, _) = parties.connect_and_greet()?;
        converse(stream, SAMPLE, || Ok(()))?;
        is_direct(&trio)?;
        connect.line("connected directly")?;
        let more_rounds = record.read().contains("no connection this time");
        ensure(!more_rounds, || "the first round did not connect".to_owned())
    })
}

/// The bytes went past the server.
fn is_direct(trio: &Trio) -> Result<()> {
    let server: Vec<_> = trio.vps.address6.into_iter().chain([trio.vps.address]).collect();
    let direct = trio.world.network().flows().data(INTERNET, &server);
    ensure(direct >= 2 * SAMPLE as u64, || format!("only {direct} bytes went directly"))
}

fn four_lines(record: &Record, home: &Side, laptop: &Side) -> Result<()> {
    let trio = Trio::new(1, home, laptop, Line::delayed(Duration::from_millis(10)))?;
    let echo = Service::echo(&trio.home)?;
    let [vps, home, laptop] = trio.hosts().map(|host| Party::new(record, host));
    let (vps, home, laptop) = (vps?, home?, laptop?);
    let server_address = rendezvous(trio.vps.address);
    let mut server = serve(&vps)?;
    let port = echo.port.to_string();
    let mut expose = home.start(&["expose", &port, "--as", NAME, "--rendezvous", &server_address])?;
    expose.line("registered as")?;
    let invite = home.ask(&["invite", NAME])?;
    let local = LOCAL_PORT.to_string();
    let line = ["connect", NAME, "-L", &local, "--rendezvous", &server_address];
    let use_tunnel = |invite: Option<&str>| -> Result<()> {
        let mut command = laptop.command(&line);
        if let Some(invite) = invite {
            command.env("PUNCHTUNNEL_INVITE", invite);
        }
        let mut connecting = laptop.start_command("connect", &mut command)?;
        connecting.line("listening on")?;
        let mut stream = connect(laptop.host, LOCAL_PORT)?;
        greeted(&mut stream)?;
        converse(stream, SAMPLE, || Ok(()))?;
        connecting.line("connected directly")?;
        connecting.signal(Signal::INT)?;
        connecting.end(PATIENCE).map(drop)
    };
    use_tunnel(Some(&invite))?;
    is_direct(&trio)?;
    // Both have written the other's key down: the second time nothing is needed.
    use_tunnel(None)?;
    expose.signal(Signal::TERM)?;
    expose.end(PATIENCE)?;
    server.signal(Signal::TERM)?;
    server.ends_with(0, PATIENCE).map(drop)
}

fn lan(record: &Record) -> Result<()> {
    let mut plan = Plan::new(6);
    let line = Line::delayed(Duration::from_millis(10));
    let vps = plan.public("vps", line)?;
    let (_, inside) = plan.nat(INTERNET, &Behaviour::linux(Unsolicited::Drop), line);
    let mut lan = plan.lan(inside, Gateway::Forward, Line::default())?;
    let (home, laptop) = (lan.host("home")?, lan.host("laptop")?);
    let _world = plan.start()?;
    let echo = Service::echo(&home)?;
    let parties = Parties::start(record, [&vps, &home, &laptop], vps.address, echo.port)?;
    let (connect, stream, _) = parties.connect_and_greet()?;
    converse(stream, SAMPLE, || Ok(()))?;
    connect.line("to 192.168.1.").map(drop)
}

fn carrier(record: &Record) -> Result<()> {
    let mut plan = Plan::new(7);
    let line = Line::delayed(Duration::from_millis(10));
    let vps = plan.public("vps", line)?;
    // RFC 6888 wants hairpin of a carrier's NAT, and endpoint-independent mapping.
    let behaviour = Behaviour::endpoint_independent(Filtering::EndpointIndependent).with_hairpin();
    let (_, customers) = plan.nat(INTERNET, &behaviour, line);
    let side = Side::Model(Behaviour::linux(Unsolicited::Drop));
    let near = Line::delayed(Duration::from_millis(2));
    let (home, _) = side.host(&mut plan, customers, "home", near)?;
    let (laptop, _) = side.host(&mut plan, customers, "laptop", near)?;
    let world = plan.start()?;
    let echo = Service::echo(&home)?;
    let parties = Parties::start(record, [&vps, &home, &laptop], vps.address, echo.port)?;
    let (connect, stream, _) = parties.connect_and_greet()?;
    converse(stream, SAMPLE, || Ok(()))?;
    connect.line("connected directly")?;
    let direct = world.network().flows().data(customers, &[vps.address]);
    ensure(direct >= 2 * SAMPLE as u64, || format!("only {direct} bytes went directly"))
}

fn lossy(record: &Record, seed: u64) -> Result<()> {
    let side = Side::Model(Behaviour::linux(Unsolicited::Drop));
    // Two lines and both directions: 4 % of all questions or their answers get lost.
    let line =
        Line { jitter: Duration::from_millis(4), loss: 0.01, ..Line::delayed(Duration::from_millis(15)) };
    let trio = Trio::new(seed, &side, &side, line)?;
    let echo = Service::echo(&trio.home)?;
    let parties = Parties::start(record, trio.hosts(), trio.vps.address, echo.port)?;
    let (_connect, stream, _) = parties.connect_and_greet()?;
    converse(stream, SAMPLE, || Ok(()))?;
    is_direct(&trio)
}

fn killed(record: &Record, fate: Fate) -> Result<()> {
    const LENGTH: usize = 10_000_000;
    let side = Side::Model(Behaviour::linux(Unsolicited::Drop));
    let line = Line { rate: Some(4_000_000), ..Line::delayed(Duration::from_millis(10)) };
    let trio = Trio::new(8, &side, &side, line)?;
    let echo = Service::echo(&trio.home)?;
    let parties = Parties::start(record, trio.hosts(), trio.vps.address, echo.port)?;
    let (connect, stream, _) = parties.connect_and_greet()?;
    converse(stream, LENGTH, || {
        let sealed = trio.world.network().flows().seal(INTERNET, fate, &[trio.vps.address]);
        record.add(&"test".into(), format!("{fate:?} is the fate of {sealed} connections"));
        ensure(sealed > 0, || "there was no direct connection".to_owned())
    })?;
    // A link that is silent looks sick, and may have a successor before it is held for dead.
    let again = connect.one_of(&["back after", "connected again"], PATIENCE);
    ensure(again.is_some(), || "the link was not replaced".to_owned())
}
