//! What is said, and how it ends, when somebody is not there.

use std::time::Duration;

use rustix::process::Signal;

use crate::{
    Cell, Needs,
    error::{Result, ensure},
    link::Line,
    nat_model::{Behaviour, Unsolicited},
    parties::{LOCAL_PORT, NAME, Parties, Party, rendezvous, serve},
    process::{PATIENCE, Record},
    service::{Service, connect, converse, greeted},
    side::{Side, Trio},
};

pub fn cells() -> Vec<Cell> {
    vec![
        Cell::new("absent::without_a_server_connect_ends_after_10_s_and_says_so", Needs::Nothing, no_server),
        Cell::new("absent::without_a_server_expose_keeps_trying_and_says_so", Needs::Nothing, server_later),
        Cell::new("absent::a_name_that_never_was_ends_with_the_wait", Needs::Nothing, no_name),
        Cell::new("absent::a_name_that_is_gone_is_said_to_have_been_there", Needs::Nothing, name_gone),
        Cell::new("absent::a_name_that_appears_ends_the_wait_with_a_tunnel", Needs::Nothing, name_later),
    ]
}

fn trio() -> Result<Trio> {
    let side = Side::Model(Behaviour::linux(Unsolicited::Drop));
    Trio::new(1, &side, &side, Line::delayed(Duration::from_millis(10)))
}

fn no_server(record: &Record) -> Result<()> {
    let trio = trio()?;
    let laptop = Party::new(record, &trio.laptop)?;
    let key = Party::new(record, &trio.home)?.ask(&["key"])?;
    let mut connecting = laptop.start(&[
        "connect",
        NAME,
        "-L",
        "0",
        "--rendezvous",
        &rendezvous(trio.vps.address),
        "--host-key",
        &key,
    ])?;
    let took = connecting.ends_with(1, PATIENCE)?;
    connecting.line(&trio.vps.address.to_string())?;
    ensure((8..13).contains(&took.as_secs()), || format!("ended after {took:?}"))
}

fn server_later(record: &Record) -> Result<()> {
    let trio = trio()?;
    let (vps, home) = (Party::new(record, &trio.vps)?, Party::new(record, &trio.home)?);
    let address = rendezvous(trio.vps.address);
    let mut expose = home.start(&["expose", "22", "--as", NAME, "--rendezvous", &address])?;
    expose.line(&trio.vps.address.to_string())?;
    expose.line("trying on")?;
    ensure(expose.is_running()?, || "expose ended".to_owned())?;
    let _server = serve(&vps)?;
    expose.line("registered as")?;
    expose.signal(Signal::TERM)?;
    expose.end(PATIENCE).map(drop)
}

fn no_name(record: &Record) -> Result<()> {
    let trio = trio()?;
    let (vps, laptop) = (Party::new(record, &trio.vps)?, Party::new(record, &trio.laptop)?);
    let key = Party::new(record, &trio.home)?.ask(&["key"])?;
    let _server = serve(&vps)?;
    let address = rendezvous(trio.vps.address);
    let mut connecting = laptop.start(&[
        "connect",
        NAME,
        "-L",
        "0",
        "--rendezvous",
        &address,
        "--host-key",
        &key,
        "--wait",
        "3s",
    ])?;
    connecting.line("never heard of")?;
    connecting.line("did not appear")?;
    let took = connecting.ends_with(1, PATIENCE)?;
    ensure(took >= Duration::from_secs(3), || format!("ended after {took:?}"))
}

fn name_gone(record: &Record) -> Result<()> {
    let trio = trio()?;
    let mut parties = Parties::start(record, trio.hosts(), trio.vps.address, 22)?;
    parties.expose.signal(Signal::TERM)?;
    parties.expose.end(PATIENCE)?;
    let mut connecting = parties.connect_with(&["--wait", "3s"])?;
    // Killed or ended, the server knows within its time to live of registrations; either way the name
    // was there a moment ago.
    connecting.line("last seen")?;
    connecting.ends_with(1, PATIENCE).map(drop)
}

fn name_later(record: &Record) -> Result<()> {
    let trio = trio()?;
    let echo = Service::echo(&trio.home)?;
    let [vps, home, laptop] = trio.hosts().map(|host| Party::new(record, host));
    let (vps, home, laptop) = (vps?, home?, laptop?);
    let _server = serve(&vps)?;
    let (host_key, client_key) = (home.ask(&["key"])?, laptop.ask(&["key"])?);
    let (address, port, local) =
        (rendezvous(trio.vps.address), echo.port.to_string(), LOCAL_PORT.to_string());
    let connecting =
        laptop.start(&["connect", NAME, "-L", &local, "--rendezvous", &address, "--host-key", &host_key])?;
    connecting.line("never heard of")?;
    let _expose =
        home.start(&["expose", &port, "--as", NAME, "--rendezvous", &address, "--allow", &client_key])?;
    connecting.line("connected directly")?;
    connecting.line("listening on")?;
    let mut stream = connect(laptop.host, LOCAL_PORT)?;
    greeted(&mut stream)?;
    converse(stream, 1000, || Ok(()))
}
