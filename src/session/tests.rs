//! Two sessions with a pipe between them that can be cut at any byte, under virtual time.

mod attacks;
mod endings;
mod model;
mod scenarios;

use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};

use super::{
    testing::{Keys, link},
    *,
};
use crate::{
    testing::start,
    wire::stream::{OpenRequest, ResetReason},
};

const MS: Duration = Duration::from_millis(1);

/// Index of the side that connects.
const INITIATOR: usize = 0;
/// Index of the other.
const RESPONDER: usize = 1;

/// Two sessions; what one transmits lies in a pipe until it is delivered to the other.
struct Pair {
    now: Instant,
    sessions: [Session; 2],
    /// `pipes[side]` holds what that side has transmitted.
    pipes: [BytesMut; 2],
    inputs: [BytesMut; 2],
    /// Number of the newest link.
    epoch: u32,
    /// What a pipe takes before the socket is full.
    capacity: usize,
    /// The newest link, where the responder has not yet heard of it.
    pending: Option<EstablishedLink>,
    /// What the initiator had sent on the link before, while the responder still reads that one.
    late: BytesMut,
    /// A byte on its way was changed: an error of the receiver is what is wanted, and cuts the link.
    damaged: bool,
}

impl Pair {
    fn new(config: SessionConfig) -> Self {
        let (ours, theirs) = Keys::new(0).epoch();
        let now = start();
        Pair {
            now,
            sessions: [Session::new(now, true, ours, config), Session::new(now, false, theirs, config)],
            pipes: Default::default(),
            inputs: Default::default(),
            epoch: 0,
            capacity: 256 * 1024,
            pending: None,
            late: BytesMut::new(),
            damaged: false,
        }
    }

    /// With a link.
    fn linked(config: SessionConfig) -> Self {
        let mut pair = Pair::new(config);
        pair.attach();
        pair
    }

    /// A new link, attached on both sides.
    fn attach(&mut self) {
        self.attach_only([true, true]);
    }

    /// A new link that only some sides come to attach. Whatever the old one carried is gone.
    fn attach_only(&mut self, sides: [bool; 2]) {
        self.empty_pipes();
        self.epoch += 1;
        let (ours, theirs) = link(self.epoch);
        for (side, link) in [ours, theirs].into_iter().enumerate() {
            if sides[side] {
                self.sessions[side].attach(self.now, link).unwrap();
            } else {
                self.sessions[side].detach(self.now);
            }
        }
    }

    /// The link dies; what is in the pipes is lost.
    fn cut(&mut self) {
        self.empty_pipes();
        for session in &mut self.sessions {
            session.detach(self.now);
        }
    }

    /// A new link of which the responder has not heard: it goes on reading and writing the old one.
    fn attach_initiator(&mut self) {
        let late =
            if self.pending.is_none() { std::mem::take(&mut self.pipes[INITIATOR]) } else { BytesMut::new() };
        let half_read = std::mem::take(&mut self.inputs[RESPONDER]);
        let damaged = self.damaged;
        self.empty_pipes();
        (self.late, self.inputs[RESPONDER], self.damaged) = (late, half_read, damaged);
        self.epoch += 1;
        let (ours, theirs) = link(self.epoch);
        self.sessions[INITIATOR].attach(self.now, ours).unwrap();
        self.pending = Some(theirs);
    }

    /// The responder hears of the newest link.
    fn attach_responder(&mut self) {
        if let Some(link) = self.pending.take() {
            self.late.clear();
            self.inputs[RESPONDER].clear();
            self.sessions[RESPONDER].attach(self.now, link).unwrap();
        }
    }

    fn empty_pipes(&mut self) {
        self.pipes = Default::default();
        self.inputs = Default::default();
        self.late = BytesMut::new();
        self.pending = None;
        self.damaged = false;
    }

    /// One side transmits until its pipe holds `limit` bytes. True if it transmitted anything.
    fn transmit(&mut self, side: usize, limit: usize) -> bool {
        let before = self.pipes[side].len();
        while self.pipes[side].len() < limit.min(self.capacity) {
            let announced = self.sessions[side].has_output(self.now);
            let Some(bytes) = self.sessions[side].poll_transmit(self.now) else { break };
            assert!(announced);
            self.pipes[side].extend_from_slice(&bytes);
        }
        let any = self.pipes[side].len() > before;
        if side == RESPONDER && self.pending.is_some() {
            // Into the old link, which nobody reads any more.
            self.pipes[side].clear();
        }
        any
    }

    /// Delivers up to `count` bytes of what that side transmitted.
    fn deliver(&mut self, from: usize, count: usize) -> Result<(), LinkError> {
        let to = 1 - from;
        let old = from == INITIATOR && self.pending.is_some();
        let pipe = if old { &mut self.late } else { &mut self.pipes[from] };
        let count = count.min(pipe.len());
        if count == 0 {
            return Ok(());
        }
        let bytes = pipe.split_to(count);
        self.inputs[to].extend_from_slice(&bytes);
        match self.sessions[to].handle_input(self.now, &mut self.inputs[to]) {
            Err(_) if self.damaged => {
                self.cut();
                Ok(())
            }
            result => result,
        }
    }

    /// Changes a bit of what that side transmitted on the newest link.
    fn damage(&mut self, from: usize, bit: usize) {
        let bits = self.pipes[from].len() * 8;
        if bits > 0 {
            self.pipes[from][bit % bits / 8] ^= 1 << (bit % 8);
            self.damaged = true;
        }
    }

    /// Carries everything both ways until nothing more is transmitted, without letting time pass.
    fn settle(&mut self) {
        while self.exchange() {}
    }

    /// Carries once what there is, both ways.
    fn exchange(&mut self) -> bool {
        let mut any = false;
        for side in [INITIATOR, RESPONDER] {
            any |= self.transmit(side, usize::MAX);
            self.deliver(side, usize::MAX).unwrap();
        }
        any
    }

    /// Lets time pass, deadline by deadline, carrying everything.
    fn pass(&mut self, time: Duration) {
        let end = self.now + time;
        loop {
            self.settle();
            let next = self.sessions.iter().filter_map(Session::poll_timeout).min();
            let Some(next) = next.filter(|&next| next <= end) else { break };
            assert!(next >= self.now);
            self.now = next;
            for session in &mut self.sessions {
                session.handle_timeout(self.now).unwrap();
            }
        }
        self.now = end;
        self.settle();
    }

    fn open(&mut self, side: usize) -> StreamId {
        self.sessions[side].open(self.now, OpenRequest { service: None }).unwrap()
    }

    /// Opens a stream from the initiator and lets the responder hear of it.
    fn opened(&mut self) -> StreamId {
        let id = self.open(INITIATOR);
        self.settle();
        assert_eq!(
            self.event(RESPONDER),
            Some(SessionEvent::Opened { id, request: OpenRequest { service: None } })
        );
        id
    }

    fn write(&mut self, side: usize, id: StreamId, bytes: &[u8]) {
        self.sessions[side].write(id, Bytes::copy_from_slice(bytes)).unwrap();
    }

    /// Everything that can be read now.
    fn read(&mut self, side: usize, id: StreamId) -> Vec<u8> {
        let mut all = Vec::new();
        while let Some(bytes) = self.sessions[side].read(self.now, id) {
            all.extend_from_slice(&bytes);
        }
        all
    }

    fn event(&mut self, side: usize) -> Option<SessionEvent> {
        self.sessions[side].poll_event()
    }

    fn events(&mut self, side: usize) -> Vec<SessionEvent> {
        std::iter::from_fn(|| self.event(side)).collect()
    }

    fn stats(&self, side: usize) -> SessionStats {
        self.sessions[side].stats()
    }
}
