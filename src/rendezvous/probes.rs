//! The server's side of probes: observations of a batch are put together, and the last one brings the
//! prediction.
//!
//! A batch may go to several ports of one server: one [`Batches`] serves all of them. No memory outlives
//! [`BATCH_LIFE`], and no source can take more than its share of it; where there is no room, a probe is
//! still told its address, and the peer fits its observations itself.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    time::{Duration, Instant},
};

use super::rates::{Prefix, Shares};
use crate::{
    nat::{Observation, predict},
    wire::probe::{ProbeAnswer, ProbeQuestion},
};

/// How long a batch is waited for: the probes of a batch leave within milliseconds, a repeated SYN comes
/// 1, 3 or 7 s later.
pub const BATCH_LIFE: Duration = Duration::from_secs(10);

/// Most batches at a time: with 32 observations each, about 10 MiB.
pub const MAX_BATCHES: usize = 4_096;

/// Most batches of one source (an IPv4 address or an IPv6 /64) at a time: room for the many behind a
/// carrier NAT.
pub const MAX_BATCHES_PER_SOURCE: usize = 128;

/// Batches that are not complete yet.
#[derive(Debug)]
pub struct Batches {
    epoch: Instant,
    batches: BTreeMap<[u8; 16], Batch>,
    by_age: BTreeSet<(Instant, [u8; 16])>,
    by_source: Shares,
}

#[derive(Debug)]
struct Batch {
    begun: Instant,
    source: Prefix,
    observations: BTreeMap<u8, Observation>,
}

impl Batches {
    /// The server's clock for `at_us` begins now.
    pub fn new(now: Instant) -> Self {
        let by_source = Shares::new(MAX_BATCHES_PER_SOURCE);
        Batches { epoch: now, batches: BTreeMap::new(), by_age: BTreeSet::new(), by_source }
    }

    /// A probe was accepted on `server` (this side's address and port) at `accepted`, from `observed`, and
    /// asked `question`. The answer to the last probe of a batch carries the prediction, where one can be
    /// made.
    pub fn observe(
        &mut self,
        now: Instant,
        accepted: Instant,
        question: ProbeQuestion,
        server: SocketAddr,
        observed: SocketAddr,
    ) -> ProbeAnswer {
        self.expire(now);
        let at_us = accepted.saturating_duration_since(self.epoch).as_micros() as u64;
        let observation = Observation {
            number: question.number,
            local: question.local.into(),
            local_port: question.local_port,
            server,
            observed,
            at_us,
        };
        let prediction =
            self.gather(now, question, observation).and_then(|all| predict(&all, &punch_ports(&all)));
        ProbeAnswer { observed, at_us, prediction }
    }

    /// Batches in memory.
    pub fn len(&self) -> usize {
        self.batches.len()
    }

    /// There are none.
    pub fn is_empty(&self) -> bool {
        self.batches.is_empty()
    }

    /// All observations of the batch, if this one completes it.
    fn gather(
        &mut self,
        now: Instant,
        question: ProbeQuestion,
        one: Observation,
    ) -> Option<Vec<Observation>> {
        let id = question.batch;
        if !self.batches.contains_key(&id) {
            let source = Prefix::from(one.observed);
            if self.batches.len() >= MAX_BATCHES || !self.by_source.has_room(source) {
                return None;
            }
            self.by_source.add(source);
            self.batches.insert(id, Batch { begun: now, source, observations: BTreeMap::new() });
            self.by_age.insert((now, id));
        }
        let batch = self.batches.get_mut(&id)?;
        batch.observations.entry(question.number).or_insert(one);
        if batch.observations.len() < question.count.into() {
            return None;
        }
        let observations = batch.observations.values().copied().collect();
        self.forget(id);
        Some(observations)
    }

    fn expire(&mut self, now: Instant) {
        while let Some((_, id)) = self.by_age.first().copied().filter(|(begun, _)| now >= *begun + BATCH_LIFE)
        {
            self.forget(id);
        }
    }

    fn forget(&mut self, id: [u8; 16]) {
        let Some(batch) = self.batches.remove(&id) else { return };
        self.by_age.remove(&(batch.begun, id));
        self.by_source.remove(batch.source);
    }
}

/// The local port numbers by index, up to the first that the batch does not tell.
fn punch_ports(observations: &[Observation]) -> Vec<u16> {
    let known: BTreeMap<u16, u16> = observations.iter().map(|o| (o.local, o.local_port)).collect();
    (0..).map_while(|local| known.get(&local).copied()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{nat::Model, testing::start, wire::probe::MAX_ANSWER};

    fn addr(text: &str) -> SocketAddr {
        text.parse().expect("an address")
    }

    fn question(batch: u32, number: u8, count: u8) -> ProbeQuestion {
        let mut id = [0; 16];
        id[..4].copy_from_slice(&batch.to_be_bytes());
        ProbeQuestion { batch: id, number, count, local: number, local_port: 40_000 + u16::from(number) }
    }

    #[test]
    fn the_last_probe_of_a_batch_brings_the_prediction() {
        let mut batches = Batches::new(start());
        for number in [2, 0, 3, 1] {
            let observed = SocketAddr::new(addr("192.0.2.1:0").ip(), 40_000 + u16::from(number));
            let server = addr(if number % 2 == 0 { "198.51.100.1:7862" } else { "198.51.100.1:7863" });
            let answer = batches.observe(start(), start(), question(1, number, 4), server, observed);
            assert_eq!(answer.observed, observed);
            assert_eq!(answer.prediction.is_some(), number == 1, "probe {number}");
            if let Some(prediction) = answer.prediction {
                assert!(matches!(prediction.model, Model::Fixed { .. }), "{prediction:?}");
            }
        }
        assert!(batches.is_empty());
    }

    #[test]
    fn a_probe_that_comes_twice_counts_once() {
        let mut batches = Batches::new(start());
        for _ in 0..3 {
            let here = addr("192.0.2.1:40000");
            let answer = batches.observe(start(), start(), question(1, 0, 2), addr("198.51.100.1:1"), here);
            assert_eq!(answer.prediction, None);
        }
    }

    #[test]
    fn a_batch_that_is_never_complete_is_forgotten() {
        let mut batches = Batches::new(start());
        let here = addr("192.0.2.1:40000");
        batches.observe(start(), start(), question(1, 0, 2), addr("198.51.100.1:1"), here);
        let later = start() + BATCH_LIFE;
        let answer = batches.observe(later, later, question(1, 1, 2), addr("198.51.100.1:1"), here);
        assert_eq!(answer.prediction, None);
        assert_eq!(answer.at_us, 10_000_000);
        assert_eq!(batches.len(), 1, "it began anew");
    }

    #[test]
    fn any_number_of_batches_takes_bounded_memory_and_one_source_its_share() {
        let mut batches = Batches::new(start());
        let server = addr("198.51.100.1:1");
        for batch in 0..1_000 {
            batches.observe(start(), start(), question(batch, 0, 2), server, addr("192.0.2.1:1"));
        }
        assert_eq!(batches.len(), MAX_BATCHES_PER_SOURCE);
        for batch in 1_000..10_000 {
            let observed = SocketAddr::new(std::net::Ipv4Addr::from_bits(batch << 8).into(), 1);
            let answer = batches.observe(start(), start(), question(batch, 0, 2), server, observed);
            assert_eq!(answer.observed, observed, "it is told its address all the same");
        }
        assert_eq!(batches.len(), MAX_BATCHES);
        for batch in 0..10_000 {
            batches.observe(
                start() + BATCH_LIFE,
                start(),
                question(batch, 0, 1),
                server,
                addr("192.0.2.9:1"),
            );
        }
        assert!(batches.is_empty() && batches.by_age.is_empty() && batches.by_source.is_empty());
    }

    #[test]
    fn the_longest_answer_fits() {
        let mut batches = Batches::new(start());
        let server = addr("[2001:db8::1]:7862");
        let longest = (0..32u8)
            .map(|number| {
                let port = 60_000 + u16::from(number);
                let asked = ProbeQuestion { local_port: port, ..question(1, number, 32) };
                let observed = SocketAddr::new(addr("[2001:db8:ffff:ffff:ffff:ffff:ffff:ffff]:0").ip(), port);
                let answer = batches.observe(start(), start(), asked, server, observed);
                crate::wire::encode(&answer).len()
            })
            .max();
        assert!(longest.is_some_and(|bytes| (150..=MAX_ANSWER).contains(&bytes)), "{longest:?}");
    }
}
