//! Plans against an abstract NAT: does one of the connections that both sides open meet?

use std::{collections::BTreeSet, net::SocketAddr, time::Duration};

use super::*;
use crate::nat::{
    Counter, Filtering, Mapping, SimultaneousOpen, Unsolicited, predict,
    synthetic::{Dice, Nat, batch, locals, more_locals},
};

const WINDOW: Duration = Duration::from_millis(300);

fn prediction(host: u8, model: Model) -> Prediction {
    Prediction {
        address: [203, 0, 113, host].into(),
        model,
        mapping: Mapping::EndpointIndependent,
        filtering: Filtering::Unknown,
        unsolicited: Unsolicited::Unknown,
        simultaneous_open: SimultaneousOpen::Unknown,
        fresh: None,
        confidence: 90,
    }
}

fn fixed(host: u8, ports: &[u16]) -> Prediction {
    prediction(host, Model::Fixed { ports: ports.to_vec() })
}

fn counter(host: u8, next: u16, step: i16, rate: u32) -> Prediction {
    let counter = Counter { next, step, jitter: 0, rate_centi: rate * 100, over_ms: 290 };
    prediction(host, Model::Progression(counter))
}

fn band(host: u8) -> Prediction {
    prediction(host, Model::Band { low: 5000, high: 5400, size: 300, meet: 5184 })
}

fn terms(initiator: bool, round: u8) -> Terms {
    Terms { initiator, round, budget: Budget::FULL, window: WINDOW, spent: 16 }
}

fn both(a: &Prediction, b: &Prediction, round: u8) -> (Plan, Plan) {
    (plan(a, b, &terms(true, round)), plan(b, a, &terms(false, round)))
}

/// What a side's openings look like from outside: (own external address, where to).
fn seen(nat: &mut Nat, punch: &[u16], plan: &Plan) -> BTreeSet<(SocketAddr, SocketAddr)> {
    let mut openings = plan.openings.clone();
    openings.sort_by_key(|o| o.after);
    let mut now = Duration::ZERO;
    let mut seen = BTreeSet::new();
    for opening in openings {
        nat.pass((opening.after - now).as_micros() as f64);
        now = opening.after;
        let local = punch[usize::from(opening.local)];
        seen.insert((nat.open(local, opening.remote), opening.remote));
    }
    seen
}

/// Probes both, lets the window pass, opens both, and says whether a pair of openings meets. The sides
/// may differ in when they probe: the second one's window is only a part of it.
fn meets(mut a: Nat, mut b: Nat, seed: u64, round: u8, window: Duration) -> bool {
    let mut dice = Dice::new(seed);
    let (mut punch_a, mut punch_b) = (locals(&mut dice, 16), locals(&mut dice, 16));
    let predict = |nat: &mut Nat, punch: &[u16]| predict(&batch(nat, punch), &punch[..16]).unwrap();
    let (p, q) = (predict(&mut a, &punch_a), predict(&mut b, &punch_b));
    let us = window.as_micros() as f64;
    a.pass(us);
    b.pass(us * (0.5 + dice.unit() / 2.0));
    let terms = |initiator| Terms { window, ..terms(initiator, round) };
    let mine = plan(&p, &q, &terms(true));
    let theirs = plan(&q, &p, &terms(false));
    more_locals(&mut punch_a, mine.ports());
    more_locals(&mut punch_b, theirs.ports());
    let (mine, theirs) = (seen(&mut a, &punch_a, &mine), seen(&mut b, &punch_b, &theirs));
    mine.iter().any(|(from, to)| theirs.contains(&(*to, *from)))
}

fn share(trials: u64, meets: impl Fn(u64) -> bool) -> f64 {
    (0..trials).filter(|&seed| meets(seed)).count() as f64 / trials as f64
}

#[test]
fn fixed_and_fixed_always_meet() {
    let kinds: [fn(u64) -> Nat; 4] =
        [Nat::preserving, |s| Nat::offset(s, 333), Nat::endpoint_independent, Nat::preserving_once];
    for a in kinds {
        for b in kinds {
            for round in 0..4 {
                let met = share(50, |s| meets(a(s), b(s + 7), s, round, WINDOW));
                assert_eq!(met, 1.0, "round {round}");
            }
        }
    }
}

#[test]
fn fixed_and_a_counter_meet_at_any_rate_up_to_fifty() {
    for rate in [0.0, 5.0, 20.0, 35.0, 50.0] {
        for step in [1, -1, 2, 7] {
            let a = share(100, |s| meets(Nat::preserving(s), Nat::counter(s + 1, step, rate), s, 0, WINDOW));
            let b = share(100, |s| meets(Nat::counter(s + 1, step, rate), Nat::offset(s, 9), s, 0, WINDOW));
            assert!(a.min(b) >= 0.98, "{rate} a second, step {step}: {a} {b}");
        }
    }
}

#[test]
fn counters_meet_at_one_port_each() {
    for rate in [0.0, 20.0, 50.0] {
        let met =
            share(300, |s| meets(Nat::counter(s, 1, rate), Nat::counter(s + 1, -2, rate), s, 0, WINDOW));
        assert!(met >= 0.98, "{rate} a second: {met}");
    }
}

#[test]
fn a_later_round_reaches_what_the_first_could_not() {
    let met =
        |round| share(200, |s| meets(Nat::preserving(s), Nat::counter(s + 1, 1, 1000.0), s, round, WINDOW));
    assert!(met(0) < 0.5 && met(3) >= 0.98, "{} {}", met(0), met(3));
}

#[test]
fn fixed_and_a_block_meet_and_fixed_and_random_mostly() {
    for width in [256, 1024, 2048] {
        let met = share(200, |s| meets(Nat::preserving(s), Nat::random(s, width), s, 0, WINDOW));
        assert!(met >= 0.98, "{width}: {met}");
    }
    let met = share(200, |s| meets(Nat::random(s, 64_000), Nat::preserving(s), s, 0, WINDOW));
    assert!(met >= 0.95, "{met}");
}

#[test]
fn a_counter_and_a_block_meet_now_and_then() {
    let met = share(200, |s| meets(Nat::counter(s, 1, 5.0), Nat::random(s, 256), s, 0, WINDOW));
    assert!((0.2..0.7).contains(&met), "{met}");
}

#[test]
fn random_and_anything_that_moves_is_not_sprayed() {
    let random = prediction(1, Model::Random);
    for other in [counter(2, 5000, 1, 0), band(2), random.clone()] {
        let (a, b) = both(&random, &other, 0);
        assert!(matches!((a.verdict, b.verdict), (Verdict::Hopeless(_), Verdict::Hopeless(_))));
        assert!(a.openings.is_empty() && b.openings.is_empty() && a.listen.is_empty());
    }
}

#[test]
fn both_sides_plan_for_the_same_pair_of_ports() {
    let (a, b) = both(&fixed(1, &[0, 4001, 4002]), &fixed(2, &[5000, 5001]), 0);
    let ends = |p: &Plan| p.openings.iter().map(|o| (o.local, o.remote.port())).collect::<Vec<_>>();
    assert_eq!(ends(&a), [(1, 5000), (2, 5001)]);
    assert_eq!(ends(&b), [(0, 4001), (1, 4002)]);
    assert_eq!((a.listen.as_slice(), a.ports()), ([1, 2].as_slice(), 3));
    assert!(a.openings.iter().zip(&b.openings).all(|(a, b)| a.after == b.after));
}

#[test]
fn one_side_covers_from_one_port_the_other_opens_a_handful_to_it() {
    let (a, b) = both(&fixed(1, &[4000, 4001]), &counter(2, 5000, 2, 20), 0);
    assert!(a.openings.iter().all(|o| o.local == 0 && o.after.is_zero()));
    assert_eq!(a.openings.iter().take(3).map(|o| o.remote.port()).collect::<Vec<_>>(), [5012, 5010, 5014]);
    assert!(a.openings.len() <= 100, "{}", a.openings.len());
    assert_eq!(b.openings.len(), 8);
    assert!(b.openings.iter().all(|o| o.remote.port() == 4000));
    assert_eq!(b.redials, 0, "a redial would only move the counter");
    assert!(b.ports() <= FIRST_PORTS);
}

#[test]
fn later_rounds_are_not_the_first_again() {
    for (a, b) in [
        (fixed(1, &[4000, 4001]), fixed(2, &[5000, 5001])),
        (fixed(1, &[4000, 4001]), counter(2, 5000, 1, 20)),
        (counter(1, 4000, 1, 20), counter(2, 5000, 1, 20)),
        (fixed(1, &[4000, 4001]), prediction(2, Model::Random)),
    ] {
        assert_ne!(both(&a, &b, 0), both(&a, &b, 1));
    }
}

#[test]
fn nobody_connects_to_oneself() {
    let me = fixed(1, &[4000, 4001]);
    let (a, b) = both(&me, &me.clone(), 0);
    assert!(matches!(a.verdict, Verdict::Hopeless(_)) && matches!(b.verdict, Verdict::Hopeless(_)));
    let liar = counter(1, 3990, 1, 0);
    let (a, _) = both(&me, &liar, 0);
    assert!(a.openings.iter().all(|o| o.remote.port() != 4000) && !a.openings.is_empty());
}

#[test]
fn whatever_a_peer_predicts_the_plan_keeps_to_its_bounds() {
    let mut dice = Dice::new(77);
    let model = |dice: &mut Dice| {
        let port = |dice: &mut Dice| dice.next() as u16;
        match dice.below(4) {
            0 => Model::Fixed { ports: (0..dice.below(40)).map(|_| port(dice)).collect() },
            1 => Model::Progression(Counter {
                next: port(dice),
                step: port(dice).cast_signed(),
                jitter: port(dice) >> dice.below(16),
                rate_centi: dice.next() as u32 >> dice.below(32),
                over_ms: port(dice),
            }),
            2 => Model::Band { low: port(dice), high: port(dice), size: port(dice), meet: port(dice) },
            _ => Model::Random,
        }
    };
    for _ in 0..5_000 {
        let (mine, theirs) = (prediction(1, model(&mut dice)), prediction(2, model(&mut dice)));
        let budget = Budget { openings: dice.below(1025) as u16, ..Budget::FULL };
        let window = Duration::from_micros(dice.next());
        let round = dice.next() as u8;
        let terms = Terms { initiator: dice.below(2) == 0, round, budget, window, spent: dice.next() as u16 };
        let made = plan(&mine, &theirs, &terms);
        assert!(made.openings.len() <= usize::from(budget.openings));
        for opening in &made.openings {
            assert!(opening.remote.port() >= 1024 && opening.remote.ip() == theirs.address);
            assert!(opening.after < crate::punch::schedule::OPENING_WINDOW);
            assert!(made.listen.contains(&opening.local) && opening.local < made.ports());
        }
        let tuples: BTreeSet<_> = made.openings.iter().map(|o| (o.local, o.remote)).collect();
        assert_eq!(tuples.len(), made.openings.len());
    }
}
