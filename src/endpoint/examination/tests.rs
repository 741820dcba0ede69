use super::*;
use crate::testing::start;

fn fixed() -> Prediction {
    Prediction::new(
        [192, 0, 2, 7].into(),
        Model::Fixed { ports: vec![40_000] },
        Mapping::EndpointIndependent,
        99,
    )
}

/// An examination whose ports are bound, and what it asked for.
fn begun(at_leisure: bool) -> (Examinations, Instant, Vec<(u16, Favour)>) {
    let (mut all, now, mut out) = (Examinations::new(true, at_leisure), start(), Outbox::new());
    let server = "192.0.2.1:7862".parse().unwrap();
    all.reached((0, server), [198, 51, 100, 7].into(), PortsId(9), &mut out);
    assert!(matches!(out.pop_front(), Some(Output::Bind { count: PORTS, .. })));
    assert!(all.bound(now, PortsId(9), (4, 0), &mut out));
    let asked = favours(&mut out);
    all.reached((0, server), [198, 51, 100, 7].into(), PortsId(10), &mut out);
    assert!(out.is_empty(), "it was asked from there already");
    (all, now, asked)
}

fn favours(out: &mut Outbox) -> Vec<(u16, Favour)> {
    let asked = |output| match output {
        Output::Favour { local, favour, .. } => Some((local, favour)),
        _ => None,
    };
    out.drain(..).filter_map(asked).collect()
}

const KNOCKS: [(u16, Favour); 2] = [(0, Favour::Knock(Origin::Port)), (1, Favour::Knock(Origin::Address))];

#[test]
fn filtering_is_the_strictest_that_fits_the_answers() {
    use Knocked::*;
    for (from_port, from_address, expected) in [
        (Some(Reached), Some(Reached), Filtering::EndpointIndependent),
        (Some(Reached), Some(Dropped), Filtering::AddressDependent),
        (Some(Reached), Some(Unable), Filtering::AddressDependent),
        (Some(Reset), Some(Unable), Filtering::AddressAndPortDependent),
        (Some(Busy), Some(Busy), Filtering::Unknown),
        (None, None, Filtering::Unknown),
    ] {
        let answers = Answers { from_port, from_address, crossing: None };
        assert_eq!(answers.filtering(), expected, "{from_port:?}, {from_address:?}");
    }
}

#[test]
fn a_crossing_says_nothing_of_a_nat_whose_ports_move() {
    let answers = Answers { crossing: Some(Knocked::Dropped), ..Answers::default() };
    let mut prediction = fixed();
    answers.complete(&mut prediction);
    assert_eq!(prediction.simultaneous_open, SimultaneousOpen::Blocked);
    prediction.model = Model::Random;
    answers.complete(&mut prediction);
    assert_eq!(prediction.simultaneous_open, SimultaneousOpen::Unknown);
}

#[test]
fn a_host_crosses_at_once_and_a_client_only_where_its_ports_stay() {
    assert_eq!(begun(true).2, [KNOCKS[0], KNOCKS[1], (2, Favour::Cross)]);
    let (mut client, now, asked) = begun(false);
    assert_eq!(asked, KNOCKS);
    let mut out = Outbox::new();
    client.measured(now, &[fixed()], &mut out);
    assert_eq!(favours(&mut out), [(2, Favour::Cross)]);
    let (mut client, now, _) = begun(false);
    client.measured(now, &[Prediction { model: Model::Random, ..fixed() }], &mut out);
    assert_eq!(favours(&mut out), []);
    assert_eq!(client.crossing(now, true), Ok(SimultaneousOpen::Unknown));
}

#[test]
fn a_crossing_that_fails_is_repeated_once_waited_for_and_then_believed() {
    let (mut host, now, _) = begun(true);
    let mut out = Outbox::new();
    assert_eq!(host.crossing(now, true), Err(now + PATIENCE));
    host.answered(now, PortsId(9), (Favour::Cross, Some(Knocked::Dropped)), &mut out);
    assert_eq!(favours(&mut out), [(3, Favour::Cross)]);
    assert_eq!(host.crossing(now, true), Err(now + PATIENCE), "that one may get through");
    host.answered(now, PortsId(9), (Favour::Cross, Some(Knocked::Dropped)), &mut out);
    assert_eq!(host.crossing(now, true), Ok(SimultaneousOpen::Blocked));
    let mut predictions = [fixed()];
    host.complete(&mut predictions);
    assert_eq!(predictions[0].simultaneous_open, SimultaneousOpen::Blocked);
    assert!(out.is_empty(), "knocks are not answered yet");
    for (_, knock) in KNOCKS {
        host.answered(now, PortsId(9), (knock, Some(Knocked::Reset)), &mut out);
    }
    assert!(matches!(out.pop_front(), Some(Output::Release { ports: PortsId(9) })));
    host.complete(&mut predictions);
    assert_eq!(predictions[0].unsolicited, Unsolicited::Reset);
}

#[test]
fn nobody_waits_for_ever_and_another_place_is_examined_anew() {
    let (mut host, now, _) = begun(true);
    assert_eq!(host.crossing(now + PATIENCE, true), Ok(SimultaneousOpen::Unknown));
    let mut out = Outbox::new();
    host.reached((0, "192.0.2.1:7862".parse().unwrap()), [203, 0, 113, 1].into(), PortsId(11), &mut out);
    assert!(matches!(out.pop_front(), Some(Output::Release { ports: PortsId(9) })));
    assert!(matches!(out.pop_front(), Some(Output::Bind { ports: PortsId(11), .. })));
    assert!(host.bind_failed(PortsId(11), &mut out));
    assert_eq!(host.crossing(now, true), Ok(SimultaneousOpen::Unknown));
}

#[test]
fn a_server_that_says_where_this_side_is_again_and_again_is_all_that_is_connected_to() {
    let server: SocketAddr = "203.0.113.1:7862".parse().expect("an address");
    let (mut examinations, mut out, t) = (Examinations::new(true, true), Outbox::new(), start());
    let (mut asked, mut held) = (Vec::new(), std::collections::BTreeSet::new());
    for last in 0..200 {
        let ports = PortsId(u64::from(last));
        examinations.reached((0, server), [192, 0, 2, last].into(), ports, &mut out);
        examinations.bound(t, ports, (usize::from(PORTS), 0), &mut out);
        // It says the same again, and does each favour as badly as it can.
        for _ in 0..10 {
            examinations.reached((0, server), [192, 0, 2, last].into(), PortsId(1000), &mut out);
            for answer in [None, Some(Knocked::Dropped), Some(Knocked::Busy)] {
                examinations.answered(t, ports, (Favour::Cross, answer), &mut out);
            }
        }
        for output in out.drain(..) {
            match output {
                Output::Bind { ports, count } => assert!(held.insert(ports) && count == PORTS),
                Output::Release { ports } => assert!(held.remove(&ports)),
                Output::Favour { ports, local, server, .. } => asked.push((ports, local, server)),
                Output::Listen { .. } => {}
                other => panic!("{other:?} is not an examination's"),
            }
        }
        assert!(held.len() <= 1, "ports of one place at most: {held:?}");
    }
    assert!(asked.iter().all(|(.., to)| *to == server), "a third party is never connected to");
    let most =
        (0..200).map(|place| asked.iter().filter(|(ports, ..)| *ports == PortsId(place)).count()).max();
    assert!(most <= Some(usize::from(PORTS)), "{most:?} connections for one place");
}
