//! Two sessions, their drivers, and the connections between them, which can do everything that TCP
//! connections do to a session: deliver late, end at any byte, be reset at one end or at both, lose one
//! direction without a word.
//!
//! A driver here does what `net` does: the newest nominated connection is the link, an older one is
//! closed; a link that fails is given up and the other side is told over the line that needs no link. The
//! initiator has a link from its nomination on, the responder when NOMINATE arrives, if it does.

use std::{
    collections::BTreeMap,
    sync::LazyLock,
    time::{Duration, Instant},
};

use bytes::BytesMut;
use punchtunnel::{
    secure::{EpochKeys, EstablishedLink, Initiator, Psk, Purpose, Responder, Secrets, StaticKey},
    session::{LinkError, Session, SessionConfig},
};
use zeroize::Zeroizing;

/// The side that connects.
pub const INITIATOR: usize = 0;
/// The other.
pub const RESPONDER: usize = 1;

/// Connections that are kept, the newest.
const KEPT: usize = 6;

/// NOMINATE's size on the wire, near enough.
const NOMINATE: usize = 33;

/// Epochs whose keys are made once for all sequences.
const EPOCHS: u32 = 400;

/// What the handshakes of all epochs gave to both sides. Every sequence has the same keys: nothing that
/// is tried here depends on them, and each handshake costs more than a sequence.
static SECRETS: LazyLock<Vec<[Secrets; 2]>> = LazyLock::new(|| (0..EPOCHS).map(handshake).collect());

fn handshake(number: u32) -> [Secrets; 2] {
    let key = |byte| StaticKey::from_private(Zeroizing::new([byte; 32]));
    let seed = |side| crate::spread(u64::from(number) << 1 | side);
    let (ours, theirs) = (key(1), key(2));
    let mut initiator = Initiator::new(seed(0), &ours, &theirs.public(), Purpose::Link, b"", &Psk::none());
    let first = initiator.write(b"");
    let (responder, _) = Responder::read(seed(1), &theirs, Purpose::Link, b"", &first).expect("ours");
    let (second, responder) = responder.write(&Psk::none(), b"");
    let (_, initiator) = initiator.read(&second).expect("theirs");
    [initiator, responder]
}

/// A side's keys for session records of that epoch.
pub fn epoch_keys(side: usize, epoch: u32) -> EpochKeys {
    SECRETS[epoch as usize][side].epoch()
}

/// A side's end of the link of that number.
pub fn established(side: usize, epoch: u32) -> EstablishedLink {
    let secrets = &SECRETS[epoch as usize][side];
    let (next_seal, next_open) = if side == INITIATOR { (1, 0) } else { (0, 1) };
    EstablishedLink { epoch, epoch_keys: secrets.epoch(), link_keys: secrets.link(), next_seal, next_open }
}

/// One direction of a connection.
#[derive(Debug, Default)]
struct Way {
    bytes: BytesMut,
    /// An end of file or a reset follows the bytes.
    ended: bool,
    /// It was delivered.
    over: bool,
    /// Nothing arrives any more, and nobody says so.
    lost: bool,
}

/// One connection. `ways[side]` holds what that side has sent.
#[derive(Debug, Default)]
struct Wire {
    ways: [Way; 2],
    /// Bytes of NOMINATE that have not arrived yet.
    nomination: usize,
    /// A bit was changed: what the receiver says then is right.
    damaged: bool,
}

/// Both sides and what is between them.
pub struct Wires {
    pub sessions: [Session; 2],
    /// Each side's clock.
    pub now: [Instant; 2],
    links: [Option<u32>; 2],
    newest: [u32; 2],
    inputs: [BytesMut; 2],
    wires: BTreeMap<u32, Wire>,
    epoch: u32,
    /// Bytes that a connection takes in one direction before it is full.
    pub capacity: usize,
    /// What a side has to say of dead links.
    dead: [Option<u32>; 2],
}

impl Wires {
    pub fn new(config: SessionConfig, capacity: usize) -> Self {
        #[expect(clippy::disallowed_methods, reason = "any instant will do as the beginning")]
        let now = Instant::now();
        let session = |side: usize| Session::new(now, side == 0, SECRETS[0][side].epoch(), config);
        Wires {
            sessions: [session(INITIATOR), session(RESPONDER)],
            now: [now; 2],
            links: [None; 2],
            newest: [0; 2],
            inputs: Default::default(),
            wires: BTreeMap::new(),
            epoch: 0,
            capacity,
            dead: [None; 2],
        }
    }

    /// The initiator nominates a connection.
    pub fn punch(&mut self) {
        if self.sessions[INITIATOR].is_over() || self.epoch + 1 >= EPOCHS {
            return;
        }
        self.epoch += 1;
        let mut wire = Wire { nomination: NOMINATE, ..Wire::default() };
        wire.ways[INITIATOR].bytes.resize(NOMINATE, 0);
        self.wires.insert(self.epoch, wire);
        self.attach(INITIATOR, self.epoch);
        if self.wires.len() > KEPT
            && let Some((epoch, _)) = self.wires.pop_first()
        {
            self.give_up(RESPONDER, epoch);
        }
    }

    /// That side's driver writes until its socket holds `limit` bytes. True if it wrote anything.
    pub fn transmit(&mut self, side: usize, limit: usize) -> bool {
        let Some(wire) = self.links[side].and_then(|epoch| self.wires.get_mut(&epoch)) else {
            assert_eq!(self.sessions[side].poll_transmit(self.now[side]), None, "without a link");
            return false;
        };
        let way = &mut wire.ways[side];
        let (before, mut any) = (way.bytes.len(), false);
        while way.bytes.len() < limit.min(self.capacity) {
            let announced = self.sessions[side].has_output(self.now[side]);
            let Some(bytes) = self.sessions[side].poll_transmit(self.now[side]) else { break };
            assert!(announced && !bytes.is_empty());
            way.bytes.extend_from_slice(&bytes);
            any = true;
        }
        if way.ended {
            // Behind a reset that this side has not heard of yet.
            way.bytes.truncate(before);
        }
        any
    }

    /// Number of the newest connection, and of the oldest.
    pub fn connections(&self) -> Option<(u32, u32)> {
        Some((*self.wires.last_key_value()?.0, *self.wires.first_key_value()?.0))
    }

    /// The network brings up to `count` bytes of a side. True if anything happened.
    pub fn deliver(&mut self, epoch: u32, from: usize, count: usize) -> bool {
        let to = 1 - from;
        let Some(wire) = self.wires.get_mut(&epoch) else { return false };
        let way = &mut wire.ways[from];
        if way.lost || way.over {
            return false;
        }
        let mut bytes = way.bytes.split_to(count.min(way.bytes.len()));
        let ended = way.ended && way.bytes.is_empty();
        if bytes.is_empty() && !ended {
            return false;
        }
        way.over = ended;
        if to == RESPONDER && wire.nomination > 0 {
            let part = bytes.split_to(wire.nomination.min(bytes.len())).len();
            wire.nomination -= part;
            if wire.nomination == 0 && epoch > self.newest[RESPONDER] {
                self.attach(RESPONDER, epoch);
            }
        }
        if self.links[to] == Some(epoch) {
            if !bytes.is_empty() {
                self.receive(to, epoch, &bytes);
            }
            if ended {
                self.lose(to, epoch);
            }
        } else if let Some(wire) = self.wires.get_mut(&epoch)
            && wire.nomination == 0
        {
            // Nobody is there: a reset goes back.
            wire.ways[to].ended = true;
        }
        true
    }

    /// A reset on the network: that side hears of it, behind what has been delivered already.
    pub fn reset(&mut self, epoch: u32, hears: usize) {
        if let Some(wire) = self.wires.get_mut(&epoch) {
            let way = &mut wire.ways[1 - hears];
            way.bytes.clear();
            way.ended = true;
            // What it sends meets nobody.
            wire.ways[hears].lost = true;
        }
    }

    /// What that side sends on the newest connection is lost from now on.
    pub fn blackhole(&mut self, side: usize) {
        if let Some(mut wire) = self.wires.last_entry() {
            wire.get_mut().ways[side].lost = true;
        }
    }

    /// Changes a bit of what that side has on its way, behind NOMINATE.
    pub fn damage(&mut self, side: usize, bit: usize) {
        let Some(mut wire) = self.wires.last_entry() else { return };
        let skip = if side == INITIATOR { wire.get().nomination } else { 0 };
        if let Some(bytes) = wire.get_mut().ways[side].bytes.get_mut(skip..)
            && !bytes.is_empty()
        {
            let bits = bytes.len() * 8;
            bytes[bit % bits / 8] ^= 1 << (bit % 8);
            wire.get_mut().damaged = true;
        }
    }

    /// What that side has to say of dead links reaches the other side, and the end of the session too.
    pub fn tell(&mut self, from: usize) {
        let to = 1 - from;
        if let Some(dead) = self.dead[from].take()
            && let Some(epoch) = self.links[to].filter(|&epoch| epoch <= dead)
        {
            self.give_up(to, epoch);
        }
    }

    /// Time passes for both.
    pub fn pass(&mut self, time: Duration) {
        for side in [INITIATOR, RESPONDER] {
            self.now[side] += time;
            self.expire(side);
        }
    }

    /// That side's clock goes on, and the other's does not.
    pub fn jump(&mut self, side: usize, time: Duration) {
        self.now[side] += time;
        self.expire(side);
    }

    /// Everything is carried until there is nothing more, without letting time pass.
    pub fn settle(&mut self) -> bool {
        let mut any = false;
        loop {
            let mut moved = false;
            for side in [INITIATOR, RESPONDER] {
                self.tell(side);
                moved |= self.transmit(side, usize::MAX);
                for epoch in self.wires.keys().copied().collect::<Vec<_>>() {
                    moved |= self.deliver(epoch, side, usize::MAX);
                }
            }
            if !moved {
                return any;
            }
            any = true;
        }
    }

    /// Time to the next deadline of either side.
    pub fn next_deadline(&self) -> Option<Duration> {
        [INITIATOR, RESPONDER]
            .into_iter()
            .filter_map(|side| {
                Some(self.sessions[side].poll_timeout()?.saturating_duration_since(self.now[side]))
            })
            .min()
    }

    /// A fresh connection on a network that works, and nothing left of those before.
    pub fn mend(&mut self) {
        for epoch in self.wires.keys().copied().collect::<Vec<_>>() {
            [INITIATOR, RESPONDER].into_iter().for_each(|side| self.give_up(side, epoch));
        }
        self.wires.clear();
        self.dead = [None; 2];
        self.punch();
    }

    /// Both sides have a link, the same.
    pub fn is_linked(&self) -> bool {
        self.links[0].is_some() && self.links[0] == self.links[1]
    }

    /// Nothing but the sessions.
    pub fn into_sessions(self) -> [Session; 2] {
        self.sessions
    }

    fn attach(&mut self, side: usize, epoch: u32) {
        self.newest[side] = epoch;
        if self.sessions[side].is_over() {
            return;
        }
        let before = self.links[side].replace(epoch);
        self.inputs[side].clear();
        self.sessions[side].attach(self.now[side], established(side, epoch)).expect("newer than all before");
        if let Some(wire) = before.and_then(|before| self.wires.get_mut(&before)) {
            wire.ways[side].ended = true;
        }
    }

    fn receive(&mut self, side: usize, epoch: u32, bytes: &[u8]) {
        self.inputs[side].extend_from_slice(bytes);
        let result = self.sessions[side].handle_input(self.now[side], &mut self.inputs[side]);
        if let Err(error) = result {
            let wire = &self.wires[&epoch];
            assert!(wire.damaged || error == LinkError::DeclaredDead, "side {side}, link {epoch}: {error}");
            self.say_farewell(side, epoch);
            self.lose(side, epoch);
        }
    }

    fn expire(&mut self, side: usize) {
        let deadline = self.sessions[side].poll_timeout();
        if deadline.is_none_or(|at| at > self.now[side]) {
            return;
        }
        match self.sessions[side].handle_timeout(self.now[side]) {
            Ok(()) => {}
            Err(LinkError::Silent(_)) => {
                let epoch = self.links[side].expect("only a link falls silent");
                self.say_farewell(side, epoch);
                self.lose(side, epoch);
            }
            Err(error) => panic!("time passed, and: {error}"),
        }
    }

    /// The one last record that a link that is given up may carry.
    pub fn say_farewell(&mut self, side: usize, epoch: u32) {
        let last = self.sessions[side].poll_transmit(self.now[side]);
        if let (Some(last), Some(wire)) = (last, self.wires.get_mut(&epoch))
            && wire.ways[side].bytes.len() < self.capacity
            && !wire.ways[side].ended
        {
            wire.ways[side].bytes.extend_from_slice(&last);
        }
    }

    /// The link in use, if any.
    pub fn link(&self, side: usize) -> Option<u32> {
        self.links[side]
    }

    /// Gives a link up because it failed here: the other side is to hear of it.
    fn lose(&mut self, side: usize, epoch: u32) {
        if self.links[side] == Some(epoch) {
            self.give_up(side, epoch);
            self.dead[side] = self.dead[side].max(Some(epoch));
        }
    }

    /// Gives a link up.
    pub fn give_up(&mut self, side: usize, epoch: u32) {
        if self.links[side] == Some(epoch) {
            self.links[side] = None;
            self.inputs[side].clear();
            self.sessions[side].detach(self.now[side]);
            if let Some(wire) = self.wires.get_mut(&epoch) {
                wire.ways[side].ended = true;
            }
        }
    }
}
