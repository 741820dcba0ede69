//! Plans against an abstract NAT: does one of the connections that both sides open meet?

use std::{collections::BTreeSet, net::SocketAddr, time::Duration};

use super::*;
use crate::nat::{
    Counter, Mapping, SimultaneousOpen, Unsolicited, predict,
    synthetic::{Dice, Nat, batch, locals, more_locals},
};
use crate::punch::Effort;

const WINDOW: Duration = Duration::from_millis(300);

fn prediction(host: u8, model: Model) -> Prediction {
    Prediction::new([203, 0, 113, host].into(), model, Mapping::EndpointIndependent, 90)
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
        |round| share(200, |s| meets(Nat::preserving(s), Nat::counter(s + 1, 1, 1400.0), s, round, WINDOW));
    assert!(met(0) < 0.9 && met(3) >= 0.98, "{} {}", met(0), met(3));
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
fn two_strict_firewalls_are_told_and_one_lets_the_other_go_first() {
    let strict = |side: Prediction| Prediction { simultaneous_open: SimultaneousOpen::Blocked, ..side };
    let (a, b) = (fixed(1, &[4000]), fixed(2, &[5000]));
    let (p, q) = both(&strict(a.clone()), &strict(b.clone()), 0);
    assert!(matches!((p.verdict, q.verdict), (Verdict::Hopeless(x), Verdict::Hopeless(y)) if x == y));
    assert_eq!(expected_success(&strict(a.clone()), &strict(b.clone()), &terms(true, 0)), 0);
    for round in [1, 3] {
        let (p, q) = both(&strict(a.clone()), &b, round);
        assert!(p.openings.iter().all(|o| o.ttl.is_none()), "its SYN is the one that gets in");
        assert!(q.openings.iter().all(|o| o.ttl.is_some()));
    }
}

#[test]
fn where_a_nat_resets_one_side_opens_the_way_and_the_other_comes_later() {
    let resets = |side: Prediction| Prediction { unsolicited: Unsolicited::Reset, ..side };
    let (a, b) = (resets(counter(1, 4000, 1, 20)), resets(counter(2, 5000, 1, 20)));
    for round in 0..4 {
        let (p, q) = both(&a, &b, round);
        let quiet = |plan: &Plan| plan.openings.iter().all(|o| o.ttl == Some(LOW_TTL) && o.after.is_zero());
        let later = |plan: &Plan| plan.openings.iter().all(|o| o.ttl.is_none() && o.after == SETTLE);
        assert!(quiet(&p) && later(&q) || later(&p) && quiet(&q), "round {round}");
    }
    let (p, q) = both(&fixed(1, &[4000]), &resets(counter(2, 5000, 1, 20)), 0);
    assert!(p.openings.iter().all(|o| o.ttl == Some(LOW_TTL)), "the covering side goes first");
    assert!(q.openings.iter().all(|o| o.ttl.is_none() && o.after >= SETTLE));
}

#[test]
fn an_irregular_counter_is_aimed_at_in_groups_and_both_have_as_many() {
    let irregular = |host, next| {
        let counter = Counter { next, step: 1, jitter: 2, rate_centi: 2000, over_ms: 200 };
        prediction(host, Model::Progression(counter))
    };
    let groups = |plan: &Plan| {
        let mut ports: Vec<u16> = plan.openings.iter().map(|o| o.remote.port()).collect();
        ports.dedup();
        ports
    };
    let (p, q) = both(&irregular(1, 4000), &counter(2, 5000, 1, 20), 0);
    let (at_even, at_irregular) = (groups(&p), groups(&q));
    assert_eq!((at_even.len(), at_irregular.len()), (8, 8), "(1/2)^8 is less than one in two hundred");
    assert!(at_even.is_sorted() && at_irregular.is_sorted());
    let (p, q) = both(&irregular(1, 4000), &irregular(2, 5000), 0);
    assert_eq!(groups(&p).len(), groups(&q).len());
    assert!(groups(&p).len() >= 12 && p.openings.len() <= 1024, "{}", groups(&p).len());
}

#[test]
fn a_refreshed_base_moves_the_targets_and_nothing_else() {
    let (a, b, moved) = (counter(1, 4000, 1, 20), counter(2, 5000, 1, 20), counter(2, 5007, 1, 20));
    let (p, q) = (plan(&a, &b, &terms(true, 0)), plan(&a, &moved, &terms(true, 0)));
    assert_eq!((p.openings.len(), &p.listen), (q.openings.len(), &q.listen));
    assert!(p.openings.iter().zip(&q.openings).all(|(p, q)| p.remote.port() + 7 == q.remote.port()));
}

#[test]
fn what_has_been_spent_of_a_block_is_left_out_until_nothing_is_left() {
    let (a, b) = (counter(1, 4000, 1, 20), band(2));
    let sockets = |spent, budget| {
        let terms = Terms { spent, budget, ..terms(false, 0) };
        plan(&b, &a, &terms).openings.len()
    };
    assert_eq!(sockets(16, Budget::FULL), 150 - 16);
    assert_eq!(sockets(16, Effort::High.budget()), 255 - 16);
    assert_eq!(sockets(150, Budget::FULL), 0);
    let terms = Terms { spent: 200, ..terms(false, 0) };
    assert!(matches!(plan(&b, &a, &terms).verdict, Verdict::Hopeless(_)));
    assert!(matches!(plan(&b, &fixed(1, &[4000]), &terms).verdict, Verdict::Hopeless(_)));
}

#[test]
fn fresh_ports_are_opened_from_where_the_mapping_is_not_known() {
    let Model::Progression(counted) = counter(1, 4000, 1, 20).model else { panic!() };
    let a = Prediction { fresh: Some(counted), ..fixed(1, &[3996, 3997, 3998, 3999]) };
    let (p, q) = both(&a, &fixed(2, &[5000]), 0);
    assert!(p.openings.iter().all(|o| o.local >= FRESH && o.remote.port() == 5000));
    assert!(q.openings.len() > 20 && q.openings.iter().any(|o| o.remote.port() == 4000));
    let (p, q) = both(&a, &fixed(2, &[5000]), 1);
    assert!(p.openings.iter().all(|o| o.local < 4), "another round, the other guess");
    assert!(q.openings.iter().all(|o| o.remote.port() < 4000));
    let (p, _) = both(&a, &prediction(2, Model::Random), 0);
    assert_eq!(p.verdict, Verdict::Try, "only a fixed port can cover");
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
fn a_block_below_port_1024_is_not_aimed_at() {
    let low = prediction(2, Model::Band { low: 1, high: 2000, size: 2000, meet: 443 });
    for mine in [band(1), fixed(1, &[4000]), counter(1, 4000, 1, 0)] {
        for (plan, round) in (0..4).map(|round| (plan(&mine, &low, &terms(true, round)), round)) {
            assert!(!plan.openings.is_empty());
            assert!(plan.openings.iter().all(|o| o.remote.port() >= 1024), "{mine:?}, round {round}");
        }
    }
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
