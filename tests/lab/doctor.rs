//! `punchtunnel doctor` behind every kind of NAT that it must know.

use crate::{
    Cell, Needs,
    error::{Result, ensure},
    link::Line,
    nat_model::{Behaviour, Filtering, Unsolicited},
    parties::{NAME, Parties, Party, rendezvous, serve},
    process::Record,
    side::{Side, Trio},
};

const CROSSING: &str = "[ OK ] simultaneous open: SYNs that cross make a connection";
const CONTACTED: &str = "[ OK ] filtering: address- and port-dependent";
const DROPPED: &str = "[ OK ] unsolicited SYN: dropped";
const ONE_PORT: &str = "[ OK ] mapping: endpoint-independent";

pub fn cells() -> Vec<Cell> {
    let kernel = |unsolicited| Side::Kernel(unsolicited);
    let ei = |filtering| Side::Model(Behaviour::endpoint_independent(filtering));
    let mut cells = vec![
        cell(kernel(Unsolicited::Drop), &["the NAT keeps the port", ONE_PORT, CONTACTED, DROPPED, CROSSING]),
        cell(
            kernel(Unsolicited::Reset),
            &["the NAT keeps the port", CONTACTED, "[WARN] unsolicited SYN: answered with a reset", CROSSING],
        ),
        cell(
            ei(Filtering::EndpointIndependent),
            &[
                ONE_PORT,
                "[ OK ] filtering: not by port",
                CROSSING,
                "[ OK ] udp mapping: endpoint-independent",
            ],
        ),
        cell(ei(Filtering::AddressAndPortDependent), &[ONE_PORT, CONTACTED, DROPPED, CROSSING]),
        cell(
            Side::Model(Behaviour::linux(Unsolicited::Icmp)),
            &["the NAT keeps the port", CONTACTED, "[WARN] unsolicited SYN: answered with an ICMP error"],
        ),
        cell(Side::Model(Behaviour::constant_offset()), &["the NAT moves every port by", CROSSING]),
        cell(
            Side::Model(Behaviour::sequential(1)),
            &[
                "[ OK ] ports: the NAT gives each new connection the next port (+1)",
                "another external port for each destination",
                "[WARN] udp mapping: dependent on the destination, as for TCP",
                CONTACTED,
            ],
        ),
        cell(
            Side::Model(Behaviour::random()),
            &[
                "[WARN] ports: the NAT draws a random port",
                "0 % with random ones",
                "[WARN] direct connections",
            ],
        ),
        cell(
            Side::Model(Behaviour::strict()),
            &["[WARN] simultaneous open: a firewall drops incoming SYNs", CONTACTED],
        ),
        cell(
            Side::Model(Behaviour::linux(Unsolicited::Drop).without_udp().named("no udp")),
            &[
                "[WARN] udp:",
                "does not answer UDP",
                "the NAT keeps the port",
                "[WARN] udp mapping: not measured",
            ],
        ),
        cell(ei(Filtering::AddressAndPortDependent).hairpinning(), &["[ OK ] hairpin: works"]),
    ];
    cells.push(Cell::new(
        "doctor::a_host_behind_a_sequential_nat_is_tried_and_told_of",
        Needs::Nothing,
        pair,
    ));
    cells.push(Cell::new(
        "doctor::two_random_nats_are_told_that_it_is_not_possible",
        Needs::Nothing,
        hopeless,
    ));
    cells.push(Cell::new(
        "doctor::without_a_server_it_fails_and_says_what_to_look_at",
        Needs::Nothing,
        absent,
    ));
    cells
}

impl Side {
    fn hairpinning(self) -> Self {
        match self {
            Side::Model(behaviour) => Side::Model(behaviour.with_hairpin().named("hairpin")),
            other => other,
        }
    }
}

fn line() -> Line {
    Line::delayed(std::time::Duration::from_millis(10))
}

/// Behind that, these words are said.
fn cell(side: Side, words: &'static [&'static str]) -> Cell {
    let name = format!("doctor::it_knows_{}", side.name());
    Cell::new(name, Needs::Nothing, move |record: &Record| {
        let trio = Trio::new(7, &side, &side, line())?;
        let (vps, laptop) = (Party::new(record, &trio.vps)?, Party::new(record, &trio.laptop)?);
        let _server = serve(&vps)?;
        // It ends with code 0: connections are possible.
        let text = laptop.ask(&["doctor", "--rendezvous", &rendezvous(trio.vps.address)])?;
        ensure(words.iter().all(|word| text.contains(word)), || format!("{words:#?} in\n{text}"))?;
        advised(&text)
    })
}

/// Whatever is not as it should be is followed by what to do.
fn advised(text: &str) -> Result<()> {
    let lines: Vec<&str> = text.lines().collect();
    let bad = |line: &str| line.starts_with("[WARN]") || line.starts_with("[FAIL]");
    let alone = lines.iter().zip(lines.iter().skip(1).chain([&""]));
    let alone = alone.filter(|(line, next)| bad(line) && !next.trim_start().starts_with("-> "));
    let alone: Vec<_> = alone.map(|(line, _)| *line).collect();
    ensure(alone.is_empty(), || format!("without advice: {alone:#?}"))
}

fn pair(record: &Record) -> Result<()> {
    let (home, laptop) =
        (Side::Model(Behaviour::sequential(1)), Side::Model(Behaviour::linux(Unsolicited::Drop)));
    let trio = Trio::new(3, &home, &laptop, line())?;
    let parties = Parties::start(record, trio.hosts(), trio.vps.address, 9)?;
    let words =
        ["doctor", NAME, "--json", "--rendezvous", &parties.server_address, "--host-key", &parties.host_key];
    let object: serde_json::Value = serde_json::from_str(&parties.laptop.ask(&words)?)
        .map_err(|error| crate::error::failed("reading the answer", error))?;
    let pair = &object["pair"];
    let right = object["direct"] == true
        && pair["connected"] == true
        && pair["ours"][0]["ports"]["kind"] == "fixed"
        && pair["theirs"][0]["ports"]["kind"] == "progression"
        && pair["theirs"][0]["ports"]["step"] == 1
        && pair["expected_success"].as_u64() >= Some(90);
    ensure(right, || object.to_string())?;
    let again = parties.laptop.ask(&words[..2].iter().chain(&words[3..]).copied().collect::<Vec<_>>())?;
    let words = ["[ OK ] last time: from", "(fixed to progression)", "[ OK ] trial: connected directly to"];
    ensure(words.iter().all(|word| again.contains(word)), || format!("{words:#?} in\n{again}"))
}

fn hopeless(record: &Record) -> Result<()> {
    let side = Side::Model(Behaviour::random());
    let trio = Trio::new(4, &side, &side, line())?;
    let parties = Parties::start(record, trio.hosts(), trio.vps.address, 9)?;
    let words = ["doctor", NAME, "--rendezvous", &parties.server_address, "--host-key", &parties.host_key];
    let (code, text) = told(&mut parties.laptop.start(&words)?)?;
    let words = [
        "[FAIL] plan: none: your NAT gives random ports and so does theirs",
        "[FAIL] trial: no connection to",
    ];
    ensure(code == 1 && words.iter().all(|word| text.contains(word)), || {
        format!("{code}, {words:#?} in\n{text}")
    })?;
    advised(&text)
}

fn absent(record: &Record) -> Result<()> {
    let side = Side::Model(Behaviour::linux(Unsolicited::Drop));
    let trio = Trio::new(5, &side, &side, line())?;
    let laptop = Party::new(record, &trio.laptop)?;
    let (code, text) =
        told(&mut laptop.start(&["doctor", "--rendezvous", &rendezvous(trio.vps.address)])?)?;
    let words = ["[WARN] udp:", "[FAIL] tcp: none of 8", "check that \"punchtunnel rendezvous\" runs there"];
    ensure(code == 1 && words.iter().all(|word| text.contains(word)), || {
        format!("{code}, {words:#?} in\n{text}")
    })?;
    advised(&text)
}

/// The exit code, and what it wrote to its standard output.
fn told(process: &mut crate::process::Process) -> Result<(i32, String)> {
    let (code, output) = process.finish(crate::process::PATIENCE)?;
    Ok((code, String::from_utf8_lossy(&output).into_owned()))
}
