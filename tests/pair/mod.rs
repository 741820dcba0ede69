//! Two sessions and the link between them, in memory: the whole path of a byte without its sockets.
//!
//! Shared by `tests/counts.rs` and `benches/cores.rs`. Buffers are as large here as in `net/link.rs`.

use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use punchtunnel::{
    secure::{
        EpochKeys, EstablishedLink, Initiator, LinkInitiator, LinkProgress, LinkResponder, Psk, Purpose,
        Responder, StaticKey,
    },
    session::{Session, SessionConfig, SessionEvent, StreamId},
    wire::{record::RecordHeader, stream::OpenRequest},
};
use zeroize::Zeroizing;

/// Most that a socket takes at once, and what room is made for what one brings.
const BATCH: usize = 256 << 10;

/// What a socket brings at once: a record, more or less, where the reader is faster than the link.
const READ: usize = 64 << 10;

/// With less room than this, a buffer for what a socket brings gets more.
const LEAST_ROOM: usize = (64 << 10) + 64;

/// What a program writes at once.
pub const PIECE: usize = 64 << 10;

const SESSION: [u8; 16] = [5; 16];

/// Records of one direction.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Carried {
    pub session_records: u64,
    pub link_records: u64,
    /// What the link carries for them.
    pub bytes: u64,
}

/// Two sessions; 0 is the initiator. Programs write on 0 and read on 1, or the other way round.
pub struct Pair {
    pub now: Instant,
    pub sessions: [Session; 2],
    /// What is on its way from that side.
    wires: [BytesMut; 2],
    /// What that side has read from its socket.
    inputs: [BytesMut; 2],
    /// What that side has sent.
    pub carried: [Carried; 2],
    /// Streams, as both sides call them.
    pub streams: Vec<StreamId>,
    epoch: u32,
}

impl Pair {
    /// Two sessions with a link and so many streams.
    pub fn new(streams: usize) -> Self {
        let now = Instant::now();
        let (ours, theirs) = first_keys();
        let session = |initiator, keys| Session::new(now, initiator, keys, SessionConfig::default());
        let mut pair = Pair {
            now,
            sessions: [session(true, ours), session(false, theirs)],
            wires: Default::default(),
            inputs: Default::default(),
            carried: Default::default(),
            streams: Vec::new(),
            epoch: 0,
        };
        pair.relink();
        for _ in 0..streams {
            let id = pair.sessions[0].open(now, OpenRequest { service: None }).expect("a stream");
            pair.streams.push(id);
        }
        pair.settle();
        pair
    }

    /// A new link; what was on its way on the old one is lost.
    pub fn relink(&mut self) {
        let next = self.next_link();
        self.attach(next);
    }

    /// The next link, whose handshake is done.
    pub fn next_link(&self) -> [EstablishedLink; 2] {
        let (ours, theirs) = link(self.epoch + 1);
        [ours, theirs]
    }

    /// Goes on over it; what was on its way on the old one is lost.
    pub fn attach(&mut self, next: [EstablishedLink; 2]) {
        self.epoch += 1;
        self.wires.iter_mut().chain(&mut self.inputs).for_each(BytesMut::clear);
        for (session, link) in self.sessions.iter_mut().zip(next) {
            session.detach(self.now);
            session.attach(self.now, link).expect("a newer link");
        }
    }

    /// Writes to a stream whatever it takes of these bytes, and says how much that was.
    pub fn write(&mut self, side: usize, stream: StreamId, bytes: &Bytes) -> usize {
        let count = self.sessions[side].writable(stream).min(bytes.len());
        if count > 0 {
            self.sessions[side].write(stream, bytes.slice(..count)).expect("there is room");
        }
        count
    }

    /// Reads whatever has arrived on a stream; how much it was.
    pub fn read(&mut self, side: usize, stream: StreamId) -> usize {
        let mut count = 0;
        while let Some(bytes) = self.sessions[side].read(self.now, stream) {
            count += bytes.len();
        }
        count
    }

    /// What that side's socket takes at once, and what the other side makes of it, which may answer after each read; false
    /// where there was nothing.
    pub fn carry(&mut self, side: usize) -> bool {
        let other = 1 - side;
        self.transmit(side);
        let carried = !self.wires[side].is_empty();
        while !self.wires[side].is_empty() {
            let (wire, input) = (&mut self.wires[side], &mut self.inputs[other]);
            if input.capacity() - input.len() < LEAST_ROOM {
                input.reserve(BATCH);
            }
            let count = wire.len().min(READ).min(input.capacity() - input.len());
            input.extend_from_slice(&wire[..count]);
            // The wire keeps its memory: it stands for the kernel.
            wire.copy_within(count.., 0);
            wire.truncate(wire.len() - count);
            self.sessions[other].handle_input(self.now, input).expect("an honest peer");
            self.transmit(other);
        }
        for session in &mut self.sessions {
            while let Some(event) = session.poll_event() {
                assert!(!matches!(event, SessionEvent::Ended(_)), "{event:?}");
            }
        }
        carried
    }

    /// Lets a side write until its socket takes no more.
    pub fn transmit(&mut self, side: usize) {
        while self.wires[side].len() < BATCH {
            let Some(bytes) = self.sessions[side].poll_transmit(self.now) else { break };
            self.carried[side].count(&bytes);
            self.wires[side].extend_from_slice(&bytes);
        }
    }

    /// Carries until nobody has anything to say. Time passes, so that nothing waits for it.
    pub fn settle(&mut self) {
        while self.carry(0) | self.carry(1) {}
        self.now += Duration::from_millis(30);
        for session in &mut self.sessions {
            session.handle_timeout(self.now).expect("a link that lives");
        }
        while self.carry(0) | self.carry(1) {}
    }

    /// Moves so many bytes from `side`, in pieces, evenly over all streams. The programs write faster than the link
    /// takes: whenever its socket is writable, the streams are full.
    pub fn transfer(&mut self, side: usize, bytes: usize, piece: &Bytes) {
        let (mut written, mut read) = (0, 0);
        while read < bytes {
            for stream in 0..self.streams.len() {
                while written < bytes {
                    match self.write(side, self.streams[stream], piece) {
                        0 => break,
                        count => written += count,
                    }
                }
            }
            self.carry(side);
            for stream in 0..self.streams.len() {
                read += self.read(1 - side, self.streams[stream]);
            }
            self.carry(1 - side);
        }
    }
}

impl Carried {
    /// Counts the records in what is handed to a socket.
    fn count(&mut self, mut bytes: &[u8]) {
        self.bytes += bytes.len() as u64;
        while !bytes.is_empty() {
            let header = RecordHeader::parse(bytes).expect("an own record").expect("a whole record");
            match header {
                RecordHeader::Session { .. } => self.session_records += 1,
                RecordHeader::Link { .. } => self.link_records += 1,
            }
            bytes = bytes.get(header.total()..).expect("a whole record");
        }
    }
}

fn key(byte: u8) -> StaticKey {
    StaticKey::from_private(Zeroizing::new([byte; 32]))
}

/// Keys of epoch 0, for the initiator and the responder.
fn first_keys() -> (EpochKeys, EpochKeys) {
    let (ours, theirs) = (key(1), key(2));
    let mut initiator = Initiator::new([3; 32], &ours, &theirs.public(), Purpose::Peer, b"", &Psk::none());
    let message = initiator.write(b"");
    let (responder, _) =
        Responder::read([4; 32], &theirs, Purpose::Peer, b"", &message).expect("a good handshake");
    let (reply, responder) = responder.write(&Psk::none(), b"");
    let (_, initiator) = initiator.read(&reply).expect("a good handshake");
    (initiator.epoch(), responder.epoch())
}

/// Both ends of a new link.
pub fn link(epoch: u32) -> (EstablishedLink, EstablishedLink) {
    let (ours, theirs) = (key(1), key(2));
    let (mut initiator, message) =
        LinkInitiator::new([6; 32], &ours, &theirs.public(), &SESSION, &Psk::none(), epoch);
    let mut responder = LinkResponder::new([7; 32], &theirs, ours.public(), &SESSION, &Psk::none());
    responder.receive(&message).expect("a good handshake");
    let Some(LinkProgress::Send(answer)) = responder.poll() else { panic!("a good handshake") };
    initiator.receive(&answer).expect("a good handshake");
    let (message, ours, _) = initiator.nominate().expect("a good handshake");
    responder.receive(&message).expect("a good handshake");
    let Some(LinkProgress::Nominated(theirs, _)) = responder.poll() else { panic!("a good handshake") };
    (ours, theirs)
}
