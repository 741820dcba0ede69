//! What all sessions of an endpoint do to the one NAT that they share: mappings that they hold in it, and
//! whose turn it is where one round's connections would spoil what another one has measured.

use std::{
    collections::{BTreeSet, VecDeque},
    net::IpAddr,
    time::{Duration, Instant},
};

use super::{PeerId, ration::Rations};
use crate::nat::{self, Model, Prediction};

/// A NAT keeps a mapping that was never established for so long (RFC 5382: 4 min).
const HELD: Duration = Duration::from_secs(240);

/// Most entries that are remembered: rounds of all sessions in that time. Older ones are forgotten first.
const MAX_ENTRIES: usize = 1024;

/// Longest turn: a round that is not agreed on by then has lost its partner, and others wait.
const LONGEST_TURN: Duration = Duration::from_secs(3);

/// The NAT's uses.
#[derive(Default)]
pub(super) struct NatUse {
    mappings: VecDeque<(Instant, usize)>,
    /// Its ports move, so every connection disturbs the others.
    moving: bool,
    /// The first group of probes said all there was to say.
    settled: bool,
    /// A server is so far away.
    round_trip: Duration,
    turn: Option<(PeerId, Instant)>,
    /// What goes to addresses where no peer is known to be.
    pub(super) rations: Rations,
    /// Servers that answered a probe, the last time that they were probed.
    heard: BTreeSet<IpAddr>,
}

impl NatUse {
    /// So many connections were made, each to a destination of its own.
    pub(super) fn made(&mut self, now: Instant, connections: usize) {
        if connections > 0 {
            if self.mappings.len() >= MAX_ENTRIES {
                self.mappings.pop_front();
            }
            self.mappings.push_back((now, connections));
        }
    }

    /// Mappings that are held for them.
    pub(super) fn held(&self, now: Instant) -> u16 {
        let held = self.mappings.iter().filter(|(at, _)| *at + HELD > now).map(|(_, count)| count);
        u16::try_from(held.sum::<usize>()).unwrap_or(u16::MAX)
    }

    /// Predictions were made: do ports move?
    pub(super) fn measured(&mut self, found: &[Prediction]) {
        let moves = |p: &Prediction| matches!(p.model, Model::Progression(_) | Model::Band { .. });
        self.moving = found.iter().any(moves);
        self.settled = !found.is_empty() && found.iter().all(Prediction::is_settled);
    }

    /// A server answers within so long.
    pub(super) fn reached(&mut self, round_trip: Duration) {
        self.round_trip = round_trip;
    }

    /// How long the second group of probes is held back. Where the first one was enough the last time, it
    /// waits until it is known not to be.
    pub(super) fn pause(&self) -> Option<Duration> {
        (!self.settled).then(|| nat::pause(self.round_trip))
    }

    /// Which servers answered the probes of a round so far. Where the round `has_waited`, those that did not
    /// are not waited for any more.
    pub(super) fn answered(&mut self, servers: impl Iterator<Item = (IpAddr, bool)>, has_waited: bool) {
        for (server, answered) in servers {
            match answered {
                true => drop(self.heard.insert(server)),
                false if has_waited => drop(self.heard.remove(&server)),
                false => {}
            }
        }
    }

    /// Servers that are worth waiting for.
    pub(super) fn heard(&self) -> &BTreeSet<IpAddr> {
        &self.heard
    }

    /// A session wants to measure and open. `Err`: another one's turn lasts until then, at the longest.
    pub(super) fn take_turn(&mut self, now: Instant, who: PeerId) -> Result<(), Instant> {
        match self.turn {
            Some((other, until)) if self.moving && other != who && until > now => Err(until),
            _ => {
                self.turn = Some((who, now + LONGEST_TURN));
                Ok(())
            }
        }
    }

    /// The burst of a session leaves by then: after that, others may measure.
    pub(super) fn turn_ends(&mut self, who: PeerId, at: Instant) {
        if let Some((_, until)) = self.turn.as_mut().filter(|(whose, _)| *whose == who) {
            *until = at.min(*until);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nat::{Counter, Mapping};
    use crate::testing::start;

    fn moving() -> Prediction {
        let counter = Counter { next: 5000, step: 1, jitter: 0, rate_centi: 0, over_ms: 100 };
        Prediction::new(
            [192, 0, 2, 7].into(),
            Model::Progression(counter),
            Mapping::AddressAndPortDependent,
            90,
        )
    }

    #[test]
    fn the_second_group_waits_where_the_first_was_enough() {
        let mut shared = NatUse::default();
        let ms = Duration::from_millis;
        shared.reached(ms(70));
        assert_eq!(shared.pause(), Some(ms(70)), "nothing is known");
        let fixed = Prediction { model: Model::Fixed { ports: vec![4000] }, ..moving() };
        shared.measured(std::slice::from_ref(&fixed));
        assert_eq!(shared.pause(), None);
        for unsettled in
            [vec![fixed.clone(), moving()], vec![], vec![Prediction { model: Model::Random, ..fixed }]]
        {
            shared.measured(&unsettled);
            assert_eq!(shared.pause(), Some(ms(70)));
        }
        for (round_trip, pause) in [(5, 40), (300, 200)] {
            shared.reached(ms(round_trip));
            assert_eq!(shared.pause(), Some(ms(pause)));
        }
    }

    #[test]
    fn where_ports_move_sessions_take_turns_and_mappings_are_counted_until_they_are_forgotten() {
        let now = start();
        let (a, b) = (PeerId(1), PeerId(2));
        let mut shared = NatUse::default();
        assert_eq!(
            (shared.take_turn(now, a), shared.take_turn(now, b)),
            (Ok(()), Ok(())),
            "nothing is known"
        );
        shared.measured(&[moving()]);
        assert_eq!(shared.take_turn(now, a), Err(now + LONGEST_TURN), "it is the other's turn");
        assert_eq!(shared.take_turn(now, b), Ok(()));
        let soon = now + Duration::from_millis(400);
        shared.turn_ends(a, now);
        shared.turn_ends(b, soon);
        assert_eq!(shared.take_turn(now, a), Err(soon));
        assert_eq!(shared.take_turn(soon, a), Ok(()));
        shared.made(now, 16);
        shared.made(soon, 100);
        assert_eq!((shared.held(soon), shared.held(now + HELD), shared.held(soon + HELD)), (116, 100, 0));
    }
}
