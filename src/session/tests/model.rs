//! Anything in any order against perfect pipes.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::mux::{flow::INITIAL_WINDOW, holding::SEND_BUFFER};

/// One move of a program, of the network, or of time.
#[derive(Debug, Clone)]
enum Move {
    Open(usize),
    Write(usize, usize, usize),
    Read(usize, usize, usize),
    Finish(usize, usize),
    Reset(usize, usize),
    Transmit(usize, usize),
    Deliver(usize, usize),
    /// Delivers that many bytes each way, then the link dies.
    Cut(usize, usize),
    /// A link that both sides attach.
    Attach,
    /// A link that only the initiator comes to attach; the responder has none.
    AttachHalf,
    /// A link of which the responder has not yet heard.
    AttachInitiator,
    /// Now it has.
    AttachResponder,
    Pass(u64),
    Exchange,
    /// A few bytes are written and sent, and some of what was sent arrives.
    Talk(usize, usize, usize),
    /// Changes a bit on its way.
    Damage(usize, usize),
}

fn moves() -> impl Strategy<Value = Move> {
    let side = 0..2usize;
    let size = prop_oneof![3 => 0..200usize, 2 => 0..20_000usize, 1 => 0..300_000usize];
    let pick = 0..8usize;
    prop_oneof![
        2 => side.clone().prop_map(Move::Open),
        6 => (side.clone(), pick.clone(), size.clone()).prop_map(|(s, p, n)| Move::Write(s, p, n)),
        5 => (side.clone(), pick.clone(), 1..20usize).prop_map(|(s, p, n)| Move::Read(s, p, n)),
        1 => (side.clone(), pick.clone()).prop_map(|(s, p)| Move::Finish(s, p)),
        1 => (side.clone(), pick).prop_map(|(s, p)| Move::Reset(s, p)),
        5 => (side.clone(), size.clone()).prop_map(|(s, n)| Move::Transmit(s, n)),
        5 => (side, size.clone()).prop_map(|(s, n)| Move::Deliver(s, n)),
        1 => (size.clone(), size).prop_map(|(a, b)| Move::Cut(a, b)),
        2 => Just(Move::Attach),
        1 => Just(Move::AttachHalf),
        2 => Just(Move::AttachInitiator),
        3 => Just(Move::AttachResponder),
        2 => (0..60u64).prop_map(Move::Pass),
        3 => Just(Move::Exchange),
        6 => (0..2usize, 0..8usize, 0..300usize).prop_map(|(s, p, n)| Move::Talk(s, p, n)),
        1 => (0..2usize, any::<usize>()).prop_map(|(s, bit)| Move::Damage(s, bit)),
    ]
}

/// What a program on one side knows of a stream.
#[derive(Debug, Default, Clone)]
struct End {
    written: usize,
    read: usize,
    finished: bool,
    /// This side reset it.
    reset: bool,
    remote_finished: bool,
    /// The last event came.
    over: bool,
    was_reset: bool,
}

/// The byte of a stream's direction at a place.
fn byte(id: StreamId, from: usize, at: usize) -> u8 {
    (at as u64)
        .wrapping_mul(0x9e37_79b9_7f4a_7c15)
        .rotate_left(23)
        .wrapping_add(u64::from(id.0) * 2 + from as u64) as u8
}

struct Model {
    pair: Pair,
    ends: [BTreeMap<StreamId, End>; 2],
    config: SessionConfig,
}

impl Model {
    fn new(config: SessionConfig) -> Self {
        Model { pair: Pair::new(config), ends: Default::default(), config }
    }

    fn play(&mut self, next: &Move) {
        match *next {
            Move::Open(side) => {
                if self.ends[side].len() < 40 {
                    let id = self.pair.open(side);
                    assert!(self.ends[side].insert(id, End::default()).is_none());
                }
            }
            Move::Write(side, pick, size) => {
                if let Some(id) = self.pick(side, pick) {
                    self.write(side, id, size);
                }
            }
            Move::Read(side, pick, times) => {
                if let Some(id) = self.pick(side, pick) {
                    self.read(side, id, times);
                }
            }
            Move::Finish(side, pick) => {
                if let Some(id) = self.pick(side, pick) {
                    self.finish(side, id);
                }
            }
            Move::Reset(side, pick) => {
                if let Some(id) = self.pick(side, pick) {
                    self.pair.sessions[side].reset(id, ResetReason::Reset);
                    let end = self.ends[side].get_mut(&id).unwrap();
                    (end.reset, end.over) = (true, true);
                }
            }
            Move::Transmit(side, limit) => {
                self.pair.transmit(side, limit);
            }
            Move::Deliver(side, count) => self.pair.deliver(side, count).unwrap(),
            Move::Cut(there, back) => {
                self.pair.deliver(INITIATOR, there).unwrap();
                self.pair.deliver(RESPONDER, back).unwrap();
                self.pair.cut();
            }
            Move::Attach => self.pair.attach(),
            Move::AttachHalf => self.pair.attach_only([true, false]),
            Move::AttachInitiator => self.pair.attach_initiator(),
            Move::AttachResponder => self.pair.attach_responder(),
            Move::Pass(ms) => {
                self.pair.now += MS * ms as u32;
                for session in &mut self.pair.sessions {
                    // Nothing here is silent for two seconds in a row unless the pipe is stuck.
                    if session.handle_timeout(self.pair.now).is_err() {
                        session.detach(self.pair.now);
                    }
                }
            }
            Move::Damage(side, bit) => self.pair.damage(side, bit),
            Move::Talk(side, pick, count) => {
                if let Some(id) = self.pick(side, pick) {
                    self.write(side, id, 1 + count % 7);
                }
                self.pair.transmit(side, usize::MAX);
                self.pair.deliver(side, count).unwrap();
            }
            Move::Exchange => {
                self.pair.exchange();
            }
        }
        self.take_events();
        self.check_bounds();
    }

    /// One of the streams that the program of that side still holds.
    fn pick(&self, side: usize, pick: usize) -> Option<StreamId> {
        let open: Vec<_> = self.ends[side].iter().filter(|(_, end)| !end.over).map(|(id, _)| *id).collect();
        (!open.is_empty()).then(|| open[pick % open.len()])
    }

    fn write(&mut self, side: usize, id: StreamId, size: usize) -> usize {
        let end = self.ends[side].get_mut(&id).unwrap();
        let count = self.pair.sessions[side].writable(id).min(size);
        let bytes: Vec<u8> = (end.written..end.written + count).map(|at| byte(id, side, at)).collect();
        match self.pair.sessions[side].write(id, bytes.into()) {
            Ok(()) => end.written += count,
            Err(MuxError::Finished) => assert!(end.finished),
            Err(MuxError::Reset(_)) => assert!(self.ends[1 - side][&id].reset),
            Err(other) => panic!("{other}"),
        }
        count
    }

    fn read(&mut self, side: usize, id: StreamId, times: usize) -> bool {
        let end = self.ends[side].get_mut(&id).unwrap();
        let mut any = false;
        for _ in 0..times {
            let Some(bytes) = self.pair.sessions[side].read(self.pair.now, id) else { break };
            any = true;
            assert!(!bytes.is_empty() && !end.remote_finished && !end.over);
            for (at, &found) in (end.read..).zip(bytes.iter()) {
                assert_eq!(found, byte(id, 1 - side, at), "{id}, byte {at} read by side {side}");
            }
            end.read += bytes.len();
        }
        let read = end.read;
        assert!(read <= self.ends[1 - side].get(&id).map_or(0, |other| other.written));
        self.take_events();
        any
    }

    fn finish(&mut self, side: usize, id: StreamId) {
        self.pair.sessions[side].finish(id);
        self.ends[side].get_mut(&id).unwrap().finished = true;
    }

    fn take_events(&mut self) {
        for side in [INITIATOR, RESPONDER] {
            for event in self.pair.events(side) {
                self.take_event(side, event);
            }
        }
    }

    fn take_event(&mut self, side: usize, event: SessionEvent) {
        let (ours, theirs) = self.ends.split_at_mut(1);
        let (mine, other) = if side == 0 { (&mut ours[0], &theirs[0]) } else { (&mut theirs[0], &ours[0]) };
        match event {
            SessionEvent::Opened { id, .. } => {
                assert!(other.contains_key(&id));
                assert!(mine.insert(id, End::default()).is_none(), "{id} opened twice");
            }
            SessionEvent::Readable(id) | SessionEvent::Writable(id) => {
                // It may have been reset by this side since; then nothing is said of it.
                assert!(!mine[&id].over, "{event:?} after the end");
            }
            SessionEvent::RemoteFinished(id) => {
                let (end, other) = (mine.get_mut(&id).unwrap(), &other[&id]);
                assert!(!end.over && !end.remote_finished && other.finished);
                assert_eq!(end.read, other.written, "{id} ended early");
                end.remote_finished = true;
            }
            SessionEvent::Closed(id) => {
                let end = mine.get_mut(&id).unwrap();
                assert!(!end.over && end.remote_finished && end.finished);
                end.over = true;
            }
            SessionEvent::Reset { id, reason } => {
                let end = mine.get_mut(&id).unwrap();
                assert!(!end.over && other[&id].reset && reason == ResetReason::Reset);
                (end.over, end.was_reset) = (true, true);
            }
            SessionEvent::Ended(error) => panic!("{error}"),
        }
    }

    fn check_bounds(&self) {
        for side in [INITIATOR, RESPONDER] {
            let unacknowledged = self.pair.stats(side).unacknowledged;
            assert!(unacknowledged <= self.config.queue + self.config.record + 1000, "{unacknowledged}");
            for (id, end) in &self.ends[side] {
                let Some(other) = self.ends[1 - side].get(id) else {
                    assert!(end.written <= SEND_BUFFER + INITIAL_WINDOW as usize);
                    continue;
                };
                let on_its_way = end.written - other.read;
                // Rounds last milliseconds here and the round trip is not measured in them: windows grow.
                assert!(other.over || end.over || on_its_way <= SEND_BUFFER + 16 * INITIAL_WINDOW as usize);
            }
        }
    }

    /// Everybody finishes and reads everything on a good link; then nothing is left anywhere.
    fn end(&mut self) {
        self.pair.attach();
        for side in [INITIATOR, RESPONDER] {
            let ids: Vec<_> =
                self.ends[side].iter().filter(|(_, end)| !end.over).map(|(id, _)| *id).collect();
            for id in ids {
                self.finish(side, id);
            }
        }
        let mut quiet = 0;
        while quiet < 3 {
            let mut moved = self.pair.exchange();
            self.take_events();
            for side in [INITIATOR, RESPONDER] {
                for id in self.ends[side].keys().copied().collect::<Vec<_>>() {
                    if self.ends[side][&id].over {
                        continue;
                    }
                    moved |= self.read(side, id, usize::MAX);
                    // What was opened by the peer only now.
                    if !self.ends[side][&id].over && !self.ends[side][&id].finished {
                        self.finish(side, id);
                        moved = true;
                    }
                }
            }
            self.take_events();
            quiet = if moved { 0 } else { quiet + 1 };
            // A full queue waits for an acknowledgement, and that for its delay.
            self.pair.pass(ACK_DELAY);
            self.take_events();
        }
        for side in [INITIATOR, RESPONDER] {
            for (id, end) in &self.ends[side] {
                assert!(end.over, "{id} is left on side {side}: {end:?}");
                let Some(other) = self.ends[1 - side].get(id) else {
                    panic!("{id} was never announced");
                };
                if !end.reset && !other.reset {
                    assert_eq!(end.read, other.written);
                    assert!(end.remote_finished);
                }
            }
            let stats = self.pair.stats(side);
            assert_eq!((stats.streams, stats.unacknowledged), (0, 0), "side {side}");
            assert!(self.pair.sessions[side].is_flushed());
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, max_shrink_iters: 4000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn whatever_happens_to_links_streams_are_perfect_pipes(
        moves in prop::collection::vec(moves(), 1..200),
        queue in prop_oneof![Just(50_000usize), Just(400_000), Just(64 << 20)],
        record in prop_oneof![Just(1024usize), Just(5000), Just(65536)],
        eager_replay in prop_oneof![Just(0usize), Just(2000), Just(128 << 10)],
    ) {
        let mut model = Model::new(SessionConfig { queue, record, eager_replay, ..SessionConfig::default() });
        for next in &moves {
            model.play(next);
        }
        model.end();
    }
}
