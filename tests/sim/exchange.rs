//! A session with its link, and the bytes that prove it.
//!
//! The client opens a stream as soon as the session begins and sends a pattern. The host greets, as an
//! ssh server does, and sends the pattern back. Everything that comes back is compared.

use std::time::Instant;

use bytes::{Bytes, BytesMut};
use punchtunnel::{
    mux::StreamId,
    secure::{EpochKeys, EstablishedLink},
    session::{LinkError, Session, SessionConfig, SessionEvent},
    wire::stream::OpenRequest,
};

use crate::{tcp::SockId, world::Io};

/// What the host says first.
const GREETING: &[u8] = b"SSH-2.0-simulated\r\n";

/// Bytes written at a time.
const CHUNK: usize = 1 << 14;

/// A session, its link and its one stream; where the test plays the programs itself, its streams.
pub struct Tunnel {
    pub session: Session,
    /// The test plays the programs, and takes [`events`](Self::events).
    scripted: bool,
    pub events: Vec<SessionEvent>,
    link: Option<(u32, Option<SockId>)>,
    buffer: BytesMut,
    initiator: bool,
    lost: Option<u32>,
    sick: Option<u32>,
    /// Links that this side held for dead for their silence.
    pub silent: u32,
    stream: Option<StreamId>,
    greeted: usize,
    written: usize,
    compared: usize,
    echo: Vec<u8>,
    /// When the host's first byte came.
    pub first_byte: Option<Instant>,
    /// Links so far.
    pub links: u32,
    /// When the session was given its last link.
    pub linked: Option<Instant>,
}

impl Tunnel {
    pub fn new(now: Instant, initiator: bool, keys: EpochKeys, scripted: bool) -> Self {
        let mut session = Session::new(now, initiator, keys, SessionConfig::default());
        let request = OpenRequest { service: None };
        let opens = initiator && !scripted;
        let stream = opens.then(|| session.open(now, request).expect("the first stream"));
        Tunnel {
            session,
            scripted,
            events: Vec::new(),
            link: None,
            buffer: BytesMut::new(),
            initiator,
            lost: None,
            sick: None,
            silent: 0,
            stream,
            greeted: 0,
            written: 0,
            compared: 0,
            echo: Vec::new(),
            first_byte: None,
            links: 0,
            linked: None,
        }
    }

    /// Bytes that came back as they were sent.
    pub fn exchanged(&self) -> usize {
        self.compared
    }

    pub fn epoch(&self) -> Option<u32> {
        self.link.map(|(epoch, _)| epoch)
    }

    /// Goes on over a link; the connection of the one whose place it takes.
    pub fn attach(
        &mut self,
        now: Instant,
        link: EstablishedLink,
        sock: Option<SockId>,
        surplus: BytesMut,
    ) -> Option<SockId> {
        let before = self.link.and_then(|(epoch, _)| self.detach(now, epoch));
        self.link = Some((link.epoch, sock));
        self.links += 1;
        self.linked = Some(now);
        self.session.attach(now, link).expect("epochs only rise");
        self.buffer = surplus;
        self.received(now, &[]);
        before
    }

    /// Gives the link of that epoch up; its connection.
    pub fn detach(&mut self, now: Instant, epoch: u32) -> Option<SockId> {
        let (_, sock) = self.link.take_if(|(current, _)| *current == epoch)?;
        self.session.detach(now);
        self.buffer.clear();
        sock
    }

    /// Bytes of the link.
    pub fn received(&mut self, now: Instant, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
        match self.session.handle_input(now, &mut self.buffer) {
            Ok(()) => {}
            Err(LinkError::DeclaredDead) => self.lost = self.epoch(),
            Err(error) => panic!("the other side's own bytes are refused: {error}"),
        }
    }

    /// The link that the session holds for dead, once.
    pub fn take_lost(&mut self) -> Option<u32> {
        self.lost.take()
    }

    /// The link that has begun to look sick, once.
    pub fn take_sick(&mut self) -> Option<u32> {
        self.sick.take()
    }

    pub fn deadline(&self) -> Option<Instant> {
        self.session.poll_timeout()
    }

    /// Lets the session and the stream do what they can.
    pub fn advance(&mut self, io: &mut Io<'_>, goal: usize) {
        if self.session.poll_timeout().is_some_and(|at| at <= io.now) {
            match self.session.handle_timeout(io.now) {
                Ok(()) => {}
                Err(LinkError::Silent(_)) => {
                    self.silent += 1;
                    self.lost = self.epoch();
                }
                Err(error) => panic!("time passed, and: {error}"),
            }
        }
        self.sick = self.session.poll_sick().or(self.sick);
        while let Some(event) = self.session.poll_event() {
            match event {
                event if self.scripted => self.events.push(event),
                SessionEvent::Opened { id, .. } => self.stream = Some(id),
                SessionEvent::Readable(_) | SessionEvent::Writable(_) => {}
                event => panic!("nobody ended anything: {event:?}"),
            }
        }
        if let Some(stream) = self.stream {
            self.read(io.now, stream);
            self.write(stream, goal);
        }
        if let Some((_, Some(sock))) = self.link {
            while io.tcp.has_room(sock)
                && let Some(record) = self.session.poll_transmit(io.now)
            {
                io.tcp.send(io.now, sock, &record);
            }
        }
    }

    fn read(&mut self, now: Instant, stream: StreamId) {
        while let Some(bytes) = self.session.read(now, stream) {
            if !self.initiator {
                self.echo.extend_from_slice(&bytes);
                continue;
            }
            self.first_byte.get_or_insert(now);
            for &byte in &bytes[..] {
                if self.greeted < GREETING.len() {
                    assert_eq!(byte, GREETING[self.greeted], "the greeting is changed");
                    self.greeted += 1;
                } else {
                    assert_eq!(byte, pattern(self.compared), "byte {} is changed", self.compared);
                    self.compared += 1;
                }
            }
        }
    }

    fn write(&mut self, stream: StreamId, goal: usize) {
        loop {
            let room = self.session.writable(stream).min(CHUNK);
            let bytes: Vec<u8> = match self.initiator {
                true => (self.written..goal.max(self.written)).take(room).map(pattern).collect(),
                false if self.greeted < GREETING.len() => {
                    let part: Vec<u8> = GREETING[self.greeted..].iter().copied().take(room).collect();
                    self.greeted += part.len();
                    part
                }
                false => self.echo.drain(..room.min(self.echo.len())).collect(),
            };
            if bytes.is_empty() {
                return;
            }
            self.written += bytes.len();
            self.session.write(stream, Bytes::from(bytes)).expect("no more than it takes");
        }
    }
}

/// Byte `i` of what the client sends.
fn pattern(i: usize) -> u8 {
    (i.wrapping_mul(31) ^ (i >> 8)) as u8
}
