//! Random sequences of everything that can happen to a session, against perfect pipes.
//!
//! `SIM_SEQUENCES` says how many, where the usual number is not enough; `SIM_FIRST` where to begin. What
//! fails is cut down to what it fails with, and printed; its seed joins [`seeds`].

mod moves;
mod pipes;
mod wires;

use std::{
    cell::Cell,
    panic::{self, AssertUnwindSafe},
    sync::{
        Once,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use punchtunnel::{
    mux::MAX_STREAMS,
    session::{MuxError, SessionConfig, SessionEvent, StreamId},
    wire::{
        peer::Goodbye,
        stream::{OpenRequest, ResetReason},
    },
};
use rand::{RngExt, SeedableRng, rngs::StdRng};

use self::{
    moves::{Move, moves, smallest},
    wires::{INITIATOR, RESPONDER, Wires},
};
pub use self::{
    pipes::Pipes,
    wires::{epoch_keys, established},
};
use crate::memory;

const MS: Duration = Duration::from_millis(1);

/// Streams that each side opens at most.
const STREAMS: usize = 24;

/// Heap that two idle sessions may hold, bytes.
const IDLE: isize = 64 * 1024;

/// Sequences in an ordinary run.
const SEQUENCES: u64 = 100_000;

struct Model {
    wires: Wires,
    pipes: Pipes,
    config: SessionConfig,
    /// While as many streams are opened as there may be: nothing is held against the pipes, and resets
    /// are counted.
    refusals: Option<usize>,
}

impl Model {
    /// What can be chosen is drawn too: full queues and full sockets must be as common as empty ones.
    fn new(seed: u64) -> Self {
        let mut rng = StdRng::seed_from_u64(!seed);
        let mut one_of = |choice: &[usize]| choice[rng.random_range(0..choice.len())];
        let config = SessionConfig {
            queue: one_of(&[3_000, 50_000, 400_000, 64 << 20]),
            record: one_of(&[1024, 5000, 65536]),
            eager_replay: one_of(&[0, 2000, 128 << 10]),
            ..SessionConfig::default()
        };
        let capacity = one_of(&[100, 4_000, 256 << 10]);
        Model { wires: Wires::new(config, capacity), pipes: Pipes::default(), config, refusals: None }
    }

    fn play(&mut self, next: Move) {
        match next {
            Move::Open(side) => self.open(side),
            Move::Write(side, pick, size) => self.with(side, pick, |model, id| {
                model.write(side, id, size);
            }),
            Move::Fill(side, pick) => {
                self.with(side, pick, |model, id| while model.write(side, id, usize::MAX) > 0 {})
            }
            Move::Read(side, pick, times) => {
                self.with(side, pick, |model, id| {
                    model.read(side, id, times);
                });
            }
            Move::Finish(side, pick) => self.with(side, pick, |model, id| model.finish(side, id)),
            Move::Reset(side, pick) => self.with(side, pick, |model, id| {
                model.wires.sessions[side].reset(id, ResetReason::Reset);
                model.pipes.reset(side, id);
            }),
            Move::Transmit(side, limit) => drop(self.wires.transmit(side, limit)),
            Move::Deliver(side, count) => {
                if let Some((newest, _)) = self.wires.connections() {
                    self.wires.deliver(newest, side, count);
                }
            }
            Move::DeliverLate(side, count) => {
                if let Some((_, oldest)) = self.wires.connections() {
                    self.wires.deliver(oldest, side, count);
                }
            }
            Move::Cut(there, back) => {
                if let Some((newest, _)) = self.wires.connections() {
                    self.wires.deliver(newest, INITIATOR, there);
                    self.wires.deliver(newest, RESPONDER, back);
                    self.wires.reset(newest, INITIATOR);
                    self.wires.reset(newest, RESPONDER);
                }
            }
            Move::CutOneEnd(side) => {
                if let Some((newest, _)) = self.wires.connections() {
                    self.wires.reset(newest, side);
                }
            }
            Move::Blackhole(side) => self.wires.blackhole(side),
            Move::Damage(side, bit) => self.wires.damage(side, bit),
            Move::Punch => self.wires.punch(),
            Move::Tell(side) => self.tell(side),
            Move::Stall(ms) => self.wires.pass(MS * ms as u32),
            Move::Run(ms) => self.run(MS * ms as u32),
            Move::Jump(side, secs) => self.wires.jump(side, Duration::from_secs(secs)),
            Move::Talk(side, pick, count) => {
                self.with(side, pick, |model, id| {
                    model.write(side, id, 1 + count % 7);
                });
                self.wires.transmit(side, usize::MAX);
                if let Some((newest, _)) = self.wires.connections() {
                    self.wires.deliver(newest, side, count);
                }
            }
            Move::Close(side) => self.close(side),
        }
        self.take_events();
        self.check_bounds();
    }

    /// With one of the streams that the program of that side holds.
    fn with(&mut self, side: usize, pick: usize, act: impl FnOnce(&mut Self, StreamId)) {
        let held = self.pipes.held(side);
        if !held.is_empty() {
            act(self, held[pick % held.len()]);
        }
    }

    fn open(&mut self, side: usize) {
        if self.pipes.count(side) < STREAMS && !self.wires.sessions[side].is_over() {
            let now = self.wires.now[side];
            let id =
                self.wires.sessions[side].open(now, OpenRequest { service: None }).expect("few are open");
            self.pipes.open(side, id);
        }
    }

    fn write(&mut self, side: usize, id: StreamId, size: usize) -> usize {
        let session = &mut self.wires.sessions[side];
        let room = session.writable(id);
        if room == 0 {
            self.pipes.blocked(side, id);
        }
        let count = room.min(size);
        match session.write(id, self.pipes.next(side, id, count).into()) {
            Ok(()) => self.pipes.wrote(side, id, count),
            Err(MuxError::Finished) => assert!(self.pipes.end(side, id).finished),
            Err(MuxError::Reset(_)) => self.pipes.refused(side, id),
            Err(other) => panic!("{id}, {count} bytes: {other}"),
        }
        count
    }

    fn read(&mut self, side: usize, id: StreamId, times: usize) -> bool {
        let mut any = false;
        for _ in 0..times {
            let Some(bytes) = self.wires.sessions[side].read(self.wires.now[side], id) else { break };
            self.pipes.read(side, id, &bytes);
            any = true;
        }
        self.take_events();
        any
    }

    fn finish(&mut self, side: usize, id: StreamId) {
        self.wires.sessions[side].finish(id);
        self.pipes.finished(side, id);
    }

    fn close(&mut self, side: usize) {
        if self.wires.sessions[side].is_over() {
            return;
        }
        self.pipes.closed[side] = true;
        let now = self.wires.now[side];
        self.wires.sessions[side].close(now, Goodbye::Stopped);
        self.take_events();
        self.pipes.is_over(side);
        if let Some(epoch) = self.wires.link(side) {
            self.wires.say_farewell(side, epoch);
            self.wires.give_up(side, epoch);
        }
    }

    /// By the line that needs no link: dead links, and the end of the session.
    fn tell(&mut self, from: usize) {
        self.wires.tell(from);
        let to = 1 - from;
        if self.pipes.over[from] && !self.pipes.over[to] {
            self.wires.sessions[to].end();
            self.take_events();
            if !self.pipes.over[to] {
                self.pipes.is_over(to);
            }
            if let Some(epoch) = self.wires.link(to) {
                self.wires.give_up(to, epoch);
            }
        }
    }

    fn run(&mut self, time: Duration) {
        let mut left = time;
        loop {
            self.wires.settle();
            self.take_events();
            let step = self.wires.next_deadline().unwrap_or(left).min(left);
            self.wires.pass(step);
            self.take_events();
            left -= step;
            if left.is_zero() {
                break;
            }
        }
        self.wires.settle();
    }

    fn take_events(&mut self) {
        for side in [INITIATOR, RESPONDER] {
            while let Some(event) = self.wires.sessions[side].poll_event() {
                match &mut self.refusals {
                    Some(refusals) => {
                        *refusals += usize::from(matches!(
                            event,
                            SessionEvent::Reset { reason: ResetReason::TooMany, .. }
                        ))
                    }
                    None => self.pipes.event(side, &event),
                }
            }
        }
    }

    fn check_bounds(&self) {
        for side in [INITIATOR, RESPONDER] {
            let unacknowledged = self.wires.sessions[side].stats().unacknowledged;
            let most = self.config.queue + self.config.record + 1000;
            assert!(unacknowledged <= most, "side {side} holds {unacknowledged} bytes");
        }
    }

    /// Everybody reads, and then finishes, everything on a good link; then nothing is left anywhere.
    fn end(&mut self) {
        if !self.pipes.is_closed() {
            self.wires.mend();
            self.read_all();
            self.pipes.check_delivered();
        }
        while self.finish_all() {
            self.read_all();
        }
        self.read_all();
        self.pipes.check_complete();
        assert!(self.pipes.is_closed() || self.wires.is_linked());
        self.check_nothing_left();
    }

    /// Carries and reads until nothing more comes.
    fn read_all(&mut self) {
        let mut quiet = 0;
        while quiet < 3 {
            let mut moved = self.wires.settle();
            [INITIATOR, RESPONDER].into_iter().for_each(|side| self.tell(side));
            self.take_events();
            for side in [INITIATOR, RESPONDER] {
                for id in self.pipes.held(side) {
                    moved |= self.read(side, id, usize::MAX);
                }
            }
            quiet = if moved { 0 } else { quiet + 1 };
            // A full queue waits for an acknowledgement, and that for its delay.
            self.run(30 * MS);
        }
    }

    fn check_nothing_left(&self) {
        for session in &self.wires.sessions {
            let stats = session.stats();
            assert_eq!((stats.streams, stats.unacknowledged), (0, 0));
            assert!(session.is_flushed());
        }
    }

    /// Both sides may still open as many streams as at the beginning.
    fn open_all(&mut self) {
        self.refusals = Some(0);
        for side in [INITIATOR, RESPONDER] {
            let (session, now) = (&mut self.wires.sessions[side], self.wires.now[side]);
            let request = || OpenRequest { service: None };
            let ids: Vec<_> = (0..MAX_STREAMS).map(|_| session.open(now, request()).expect("room")).collect();
            self.run(30 * MS);
            assert_eq!(self.refusals, Some(0), "the other side has no room for as many streams");
            ids.into_iter().for_each(|id| self.wires.sessions[side].reset(id, ResetReason::Reset));
            self.run(30 * MS);
        }
    }

    /// Ten minutes with nothing to do: a few pings, and all memory given back.
    fn rest(mut self, before: isize) {
        let mut deadlines = 0;
        let end = self.wires.now[INITIATOR] + Duration::from_secs(600);
        while self.wires.now[INITIATOR] < end {
            self.wires.settle();
            let step = self.wires.next_deadline().expect("a link wants to be asked").max(MS / 1000);
            self.wires.pass(step);
            deadlines += 1;
        }
        assert!(self.wires.is_linked(), "the link was given up");
        assert!(deadlines < 5_000, "{deadlines} deadlines");
        let sessions = self.wires.into_sessions();
        drop(self.pipes);
        let held = memory::held() - before;
        assert!(held < IDLE, "two idle sessions hold {held} bytes");
        drop(sessions);
    }

    fn finish_all(&mut self) -> bool {
        let mut any = false;
        for side in [INITIATOR, RESPONDER] {
            for id in self.pipes.held(side) {
                if !self.pipes.end(side, id).finished {
                    self.finish(side, id);
                    any = true;
                }
            }
        }
        any
    }
}

fn play(seed: u64, moves: &[Move]) {
    let before = memory::held();
    let mut model = Model::new(seed);
    moves.iter().for_each(|&next| model.play(next));
    model.end();
    // What costs more than the sequence itself is looked at now and then.
    match seed % 512 {
        _ if model.pipes.is_closed() => {}
        0 | 64 | 192 | 320 | 448 if model.wires.capacity > model.config.record => model.open_all(),
        128 | 256 | 384 => model.rest(before),
        _ => {}
    }
}

thread_local! {
    /// Panics of this thread are expected and not worth a word.
    static QUIET: Cell<bool> = const { Cell::new(false) };
}

fn fails(seed: u64, moves: &[Move]) -> bool {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let usual = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            if !QUIET.get() {
                usual(info);
            }
        }));
    });
    QUIET.set(true);
    let failed = panic::catch_unwind(AssertUnwindSafe(|| play(seed, moves))).is_err();
    QUIET.set(false);
    failed
}

/// Plays the sequence of a seed; where it fails, panics with the smallest part of it that does.
fn check(seed: u64) {
    let all = moves(seed);
    if fails(seed, &all) {
        let few = smallest(&all, 2000, |moves| fails(seed, moves));
        eprintln!("seed {seed} fails with these {} of {} moves: {few:?}", few.len(), all.len());
        play(seed, &few);
        panic!("seed {seed} fails at times");
    }
}

/// A number out of the environment.
pub fn setting(name: &str, usually: u64) -> u64 {
    std::env::var(name).ok().and_then(|value| value.parse().ok()).unwrap_or(usually)
}

#[test]
fn whatever_happens_to_links_streams_are_perfect_pipes() {
    // What all sequences share is made before anything is counted.
    play(0, &[Move::Open(INITIATOR), Move::Write(INITIATOR, 0, 1)]);
    let first = setting("SIM_FIRST", 0);
    let next = AtomicU64::new(first);
    let end = first + setting("SIM_SEQUENCES", SEQUENCES);
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= end {
                        return;
                    }
                    check(seed);
                }
            });
        }
    });
}
