use std::collections::VecDeque;

use super::*;
use crate::testing::start;

const MS: Duration = Duration::from_millis(1);
const SERVERS: [([u8; 4], u16); 2] = [([192, 0, 2, 1], 7862), ([192, 0, 2, 1], 7863)];

/// A survey from 16 ports at a server, where each probe draws the next port (`moves`) or keeps its own.
struct Bench {
    survey: Survey,
    out: Outbox,
    now: Instant,
    moves: bool,
    next: u16,
}

impl Bench {
    fn new(moves: bool, pause: Option<Duration>) -> Self {
        let (now, mut out) = (start(), VecDeque::new());
        let servers = &SERVERS.map(SocketAddr::from);
        let means = Means { servers, heard: &BTreeSet::new(), batch: [7; 16], pause };
        let v4 = (40_000..40_016).collect();
        let survey = Survey::begin(now, PortsId(1), (v4, Vec::new()), means, &mut out);
        Bench { survey, out, now, moves, next: 5000 }
    }

    /// The probes that have left since the last call: number, and the port that each one was given.
    fn sent(&mut self) -> Vec<(u8, u16)> {
        let probes: Vec<_> = self.out.drain(..).collect();
        let numbered = probes.into_iter().filter_map(|output| match output {
            Output::Probe { number, question, .. } => Some((number, question.local_port)),
            _ => None,
        });
        let mut given = |(number, local): (u8, u16)| {
            self.next += 1;
            (number, if self.moves { self.next } else { local })
        };
        numbered.map(&mut given).collect()
    }

    /// Time passes, deadline by deadline.
    fn pass(&mut self, time: Duration) {
        let until = self.now + time;
        while let Some(at) = self.survey.deadline().into_iter().chain(self.survey.fresh_until()).min()
            && at <= until
        {
            assert!(at >= self.now, "a deadline lies in the past");
            self.now = at;
            self.survey.conclude(at, &mut self.out);
            self.survey.keep_fresh(at, &mut self.out);
            let next = self.survey.deadline().into_iter().chain(self.survey.fresh_until()).min();
            assert!(next.is_none_or(|next| next > at), "nothing came of a deadline");
        }
        self.now = until;
    }

    fn answer(&mut self, probes: &[(u8, u16)]) {
        for &(number, port) in probes {
            let observed = SocketAddr::from(([198, 51, 100, 7], port));
            let at_us = self.now.duration_since(self.survey.begun).as_micros() as u64;
            let answer = ProbeAnswer { observed, at_us, prediction: None };
            self.survey.probed(self.now, number, Some(answer), &mut self.out);
        }
    }

    fn model(&self) -> Option<&Model> {
        self.survey.predictions()?.first().map(|prediction| &prediction.model)
    }
}

#[test]
fn ports_that_stay_are_known_after_the_first_group_and_the_second_never_leaves() {
    let mut bench = Bench::new(false, Some(MS * 40));
    let first = bench.sent();
    assert_eq!(first.len(), 8);
    bench.pass(MS * 20);
    bench.answer(&first);
    assert!(matches!(bench.model(), Some(Model::Fixed { .. })));
    bench.pass(MS * 500);
    assert_eq!((bench.sent().len(), bench.survey.connections()), (0, 8));
}

#[test]
fn the_second_group_does_not_wait_for_the_first_ones_answers() {
    let mut bench = Bench::new(true, Some(MS * 60));
    let first = bench.sent();
    bench.pass(MS * 59);
    assert!(bench.sent().is_empty());
    bench.pass(MS);
    let second = bench.sent();
    assert_eq!(second.len(), 8);
    bench.pass(MS * 60);
    bench.answer(&first);
    assert_eq!(bench.model(), None, "it moves: how fast, the second group says");
    bench.pass(MS * 60);
    bench.answer(&second);
    assert!(matches!(bench.model(), Some(Model::Progression(counter)) if counter.next == 5017));
}

#[test]
fn ports_that_stay_do_not_wait_for_a_second_group_that_has_left() {
    let mut bench = Bench::new(false, Some(MS * 60));
    let first = bench.sent();
    bench.pass(MS * 120);
    assert_eq!(bench.sent().len(), 8);
    bench.answer(&first);
    assert!(matches!(bench.model(), Some(Model::Fixed { .. })));
}

#[test]
fn where_it_was_not_needed_the_last_time_the_second_group_leaves_when_it_is_known_to_be() {
    let mut bench = Bench::new(true, None);
    let first = bench.sent();
    bench.pass(MS * 400);
    assert!(bench.sent().is_empty());
    bench.answer(&first);
    assert_eq!(bench.sent().len(), 8);
}

#[test]
fn a_lost_answer_costs_half_an_exchange() {
    for moves in [true, false] {
        let mut bench = Bench::new(moves, Some(MS * 50));
        let mut first = bench.sent();
        first.truncate(6);
        bench.pass(MS * 100);
        let second = bench.sent();
        bench.answer(&first);
        bench.pass(MS * 49);
        assert_eq!(bench.model(), None);
        bench.pass(MS);
        assert_eq!(bench.model().is_some(), !moves);
        bench.answer(second.get(..7).expect("eight"));
        bench.pass(MS * 50);
        assert!(bench.model().is_some());
    }
}

#[test]
fn without_a_single_answer_the_prediction_is_empty() {
    let mut bench = Bench::new(true, Some(MS * 50));
    bench.pass(PROBE_LIMIT - MS);
    assert_eq!(bench.survey.predictions(), None);
    bench.pass(MS);
    assert_eq!(bench.survey.predictions(), Some([].as_slice()));
}

#[test]
fn a_base_that_has_grown_old_is_measured_again_and_nobody_waits_for_a_last_probe_that_got_lost() {
    for lost in [true, false] {
        let mut bench = Bench::new(true, Some(MS * 50));
        let mut all = bench.sent();
        bench.pass(MS * 50);
        all.extend(bench.sent());
        bench.pass(MS * 50);
        bench.answer(&all);
        bench.pass(MS * 449);
        assert!(bench.sent().is_empty());
        bench.pass(MS);
        let last = bench.sent();
        assert_eq!(last.first().map(|(number, _)| *number), Some(LAST));
        assert!(bench.survey.keep_fresh(bench.now, &mut bench.out), "it is waited for");
        if !lost {
            bench.answer(&last);
            assert!(bench.survey.take_moved().is_some());
        }
        bench.pass(MS * 1000);
        assert!(!bench.survey.keep_fresh(bench.now, &mut bench.out));
        assert_eq!(bench.survey.fresh_until(), None);
    }
}
