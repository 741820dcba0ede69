//! What `doctor` makes of the answers of a server, whatever that says: to probes, to knocks and a crossing, and by UDP.

use std::net::SocketAddr;

use punchtunnel::{
    endpoint::{Answers, Favour},
    nat::{self, Filtering, Mapping, Unsolicited},
    net::Mirrors,
    wire::examine::{Knocked, Origin, parse_mirrored},
};

use super::{nat::observed, script::Script};

/// As `net/doctor` asks, and takes what it hears.
pub(crate) fn run(bytes: &[u8]) {
    let mut script = Script::new(bytes);
    let mut answers = Answers::default();
    let favours = [Favour::Knock(Origin::Port), Favour::Knock(Origin::Address), Favour::Cross, Favour::Cross];
    for favour in favours {
        let byte = script.byte();
        let answer = Knocked::parse(byte).ok();
        assert!(answer.is_none_or(|answer| answer as u8 == byte));
        answers.note(favour, answer);
    }
    mirrors(&mut script);
    let (punch_ports, seen) = observed(&mut script);
    let _ = nat::is_settled(&seen, &punch_ports);
    let Some(mut prediction) = nat::predict(&seen, &punch_ports) else { return };
    answers.complete(&mut prediction);
    assert!(prediction.is_sound(), "{prediction:?}");
    assert!(!nat::describe(&prediction, &punch_ports).is_empty());
    if answers.from_port.is_none() && answers.from_address.is_none() {
        let knows = (prediction.filtering, prediction.unsolicited);
        assert_eq!(knows, (Filtering::Unknown, Unsolicited::Unknown), "nobody said anything");
    }
}

/// Datagrams from anybody; one address says something once.
fn mirrors(script: &mut Script<'_>) {
    let mut mirrors = Mirrors::default();
    for number in 0..script.below(5) {
        let from = SocketAddr::from(([192, 0, 2, script.byte() % 3], 7862 + number as u16));
        mirrors.asked.push(from);
        if let Some((_, observed)) = parse_mirrored(script.bytes()) {
            mirrors.observed.insert(from, observed);
        }
    }
    let mapping = mirrors.mapping();
    assert_eq!(mapping.is_some(), mirrors.observed.len() > 1, "one view says nothing");
    let mut views = mirrors.observed.values();
    let first = views.next();
    let same = views.all(|view| Some(view) == first);
    assert!(mapping.is_none_or(|mapping| (mapping == Mapping::EndpointIndependent) == same), "{mirrors:?}");
}
