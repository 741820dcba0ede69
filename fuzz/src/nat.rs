//! From observations to plans, whatever a server or a peer says.

use std::{collections::BTreeSet, net::SocketAddr, time::Duration};

use punchtunnel::{
    nat::{self, Observation, Prediction},
    punch::{Effort, Plan, Terms, expected_success, plan, schedule::OPENING_WINDOW},
    wire,
};

use super::script::Script;

/// Observations of which a server made up the addresses and times.
pub(crate) fn measured(bytes: &[u8]) {
    let (punch_ports, observations) = observed(&mut Script::new(bytes));
    let Some(mine) = nat::predict(&observations, &punch_ports) else { return };
    assert!(mine.is_sound(), "{mine:?}");
    assert!(!nat::describe(&mine, &punch_ports).is_empty());
    if let Some(last) = observations.last() {
        assert!(nat::refresh(&mine, last, Duration::from_millis(400)).is_sound());
    }
    both(&mine, &Prediction { address: [203, 0, 113, 9].into(), ..mine.clone() }, &mut Script::new(&[]));
}

/// Punch ports, and what a server says that it saw of them.
pub(crate) fn observed(script: &mut Script<'_>) -> (Vec<u16>, Vec<Observation>) {
    let punch_ports: Vec<u16> = (0..script.below(40)).map(|_| script.u16()).collect();
    let mut observations = Vec::new();
    while !script.is_over() && observations.len() < 64 {
        let (last, server) = (script.byte(), script.byte());
        let local = u16::from(script.byte() % 40);
        observations.push(Observation {
            number: script.byte(),
            local,
            local_port: punch_ports.get(usize::from(local)).copied().unwrap_or(0),
            server: SocketAddr::from(([192, 0, 2, server % 4], 7862 + u16::from(server / 128))),
            observed: SocketAddr::from(([198, 51, 100, last % 3], script.u16())),
            at_us: script.u64() >> (script.byte() % 64),
        });
    }
    (punch_ports, observations)
}

/// Two predictions as they come from the network.
pub(crate) fn told(bytes: &[u8]) {
    let mut script = Script::new(bytes);
    let (mine, theirs) = (script.bytes(), script.bytes());
    let (Ok(mine), Ok(theirs)) =
        (wire::decode::<Prediction>(mine, 255), wire::decode::<Prediction>(theirs, 255))
    else {
        return;
    };
    let _ = (nat::describe(&mine, &[]), nat::describe(&theirs, &[]));
    both(&mine, &theirs, &mut script);
}

fn both(mine: &Prediction, theirs: &Prediction, script: &mut Script<'_>) {
    let effort = [Effort::Low, Effort::Normal, Effort::High][script.below(3)];
    let terms = Terms {
        initiator: true,
        round: script.byte(),
        budget: effort.budget(),
        window: Duration::from_millis(script.u16().into()),
        spent: script.u16(),
    };
    let digest = nat::digest(std::slice::from_ref(mine), std::slice::from_ref(theirs));
    assert_eq!(digest, nat::digest(std::slice::from_ref(mine), std::slice::from_ref(theirs)));
    for (one, other, terms) in [(mine, theirs, terms), (theirs, mine, Terms { initiator: false, ..terms })] {
        bounded(&plan(one, other, &terms), other, &terms);
        assert!(expected_success(one, other, &terms) <= 100);
    }
}

/// However it was made, a plan keeps to its budget and to the peer.
fn bounded(plan: &Plan, theirs: &Prediction, terms: &Terms) {
    assert!(plan.openings.len() <= usize::from(terms.budget.openings));
    let mut tuples = BTreeSet::new();
    for opening in &plan.openings {
        assert!(opening.remote.port() >= 1024 && opening.remote.ip() == theirs.address);
        assert!(opening.after < OPENING_WINDOW);
        assert!(plan.listen.contains(&opening.local));
        assert!(tuples.insert((opening.local, opening.remote)), "one tuple twice");
    }
}
