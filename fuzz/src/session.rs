//! Two sessions over links that are cut and damaged, and one whose peer is authentic and lies.

use std::time::Instant;

use bytes::{Bytes, BytesMut};
use punchtunnel::{
    secure::Secrets,
    session::{Session, SessionConfig, SessionEvent, StreamId},
    wire::{
        peer::Goodbye,
        record::{self, LinkType, TAG},
        stream::{OpenRequest, ResetReason},
    },
};

use super::{
    keys,
    script::{Script, start},
};

/// Bytes in one direction of a connection.
const PIPE: usize = 64 * 1024;

/// Plays the script.
pub(crate) fn run(bytes: &[u8]) {
    let mut script = Script::new(bytes);
    match script.byte() % 2 {
        0 => two(script),
        _ => liar(script),
    }
}

struct Two<'a> {
    now: Instant,
    sessions: [Session; 2],
    pipes: [BytesMut; 2],
    inputs: [BytesMut; 2],
    epoch: u32,
    streams: [Vec<StreamId>; 2],
    script: Script<'a>,
}

/// Two honest sessions.
fn two(script: Script<'_>) {
    let ([ours, theirs], now) = (keys::secrets(0).each_ref().map(Secrets::epoch), start());
    let config = || SessionConfig { queue: 256 * 1024, ..SessionConfig::default() };
    let mut two = Two {
        now,
        sessions: [Session::new(now, true, ours, config()), Session::new(now, false, theirs, config())],
        pipes: Default::default(),
        inputs: Default::default(),
        epoch: 0,
        streams: Default::default(),
        script,
    };
    while !two.script.is_over() {
        two.step();
    }
}

impl Two<'_> {
    fn step(&mut self) {
        let side = self.script.below(2);
        match self.script.byte() % 16 {
            0 => {
                self.epoch += 1;
                (self.pipes, self.inputs) = Default::default();
                for (session, link) in self.sessions.iter_mut().zip(keys::link(self.epoch)) {
                    let _ = session.attach(self.now, link);
                }
            }
            1 => self.dead(),
            2..=5 => self.deliver(side),
            6 => {
                self.now += self.script.duration();
                if self.sessions.iter_mut().any(|session| session.handle_timeout(self.now).is_err()) {
                    self.dead();
                }
            }
            7 => {
                if let Ok(id) = self.sessions[side].open(self.now, OpenRequest { service: None }) {
                    self.streams[side].push(id);
                }
            }
            choice => {
                let one = self.script.below(self.streams[side].len());
                let Some(&id) = self.streams[side].get(one) else { return };
                let session = &mut self.sessions[side];
                match choice {
                    8..=10 => {
                        let count = session.writable(id).min(usize::from(self.script.u16()));
                        let _ = session.write(id, Bytes::from(vec![7; count]));
                    }
                    11..=13 => while session.read(self.now, id).is_some() {},
                    14 => session.finish(id),
                    _ => session.reset(id, ResetReason::Reset),
                }
            }
        }
        self.drain();
    }

    fn dead(&mut self) {
        (self.pipes, self.inputs) = Default::default();
        self.sessions.iter_mut().for_each(|session| session.detach(self.now));
    }

    fn deliver(&mut self, side: usize) {
        let count = usize::from(self.script.u16()).min(self.pipes[side].len());
        let bytes = self.pipes[side].split_to(count).to_vec();
        let bytes = self.script.damage(bytes);
        self.inputs[side].extend_from_slice(&bytes);
        if self.sessions[1 - side].handle_input(self.now, &mut self.inputs[side]).is_err() {
            self.dead();
        }
    }

    fn drain(&mut self) {
        for side in 0..2 {
            while let Some(event) = self.sessions[side].poll_event() {
                match event {
                    SessionEvent::Opened { id, .. } => self.streams[side].push(id),
                    SessionEvent::Ended(error) => panic!("two honest sessions: {error}"),
                    _ => {}
                }
            }
            while self.pipes[side].len() < PIPE
                && let Some(bytes) = self.sessions[side].poll_transmit(self.now)
            {
                self.pipes[side].extend_from_slice(&bytes);
            }
            self.streams[side].truncate(64);
        }
    }
}

/// A responder whose initiator has the right keys and says anything.
fn liar(mut script: Script<'_>) {
    let ([ours, theirs], mut now) = (keys::secrets(0).each_ref().map(Secrets::epoch), start());
    let config = SessionConfig { queue: 256 * 1024, ..SessionConfig::default() };
    let mut session = Session::new(now, false, theirs, config);
    let [mine, link] = keys::link(1);
    let _ = session.attach(now, link);
    let (mut input, mut number, mut counter, mut over) = (BytesMut::new(), 0, mine.next_seal, false);
    while !script.is_over() && !over {
        let (kind, body) = (script.byte(), script.bytes());
        let body = match kind % 4 {
            // A link record of a type that there is.
            0 => [&[LinkType::Ack as u8 + kind / 4 % 5][..], body].concat(),
            _ => body.to_vec(),
        };
        let mut sealed = body;
        let (header, tag) = match kind % 4 {
            0 | 1 => {
                // Of any length, as only a liar makes them.
                let mut header = record::link_header(counter, TAG + 1).to_vec();
                header[2..4].copy_from_slice(&((sealed.len() + TAG) as u16).to_be_bytes());
                let tag = mine.link_keys.seal.seal(counter, &header, &mut sealed);
                counter += 1;
                (header, tag)
            }
            epoch => {
                let (epoch, keys) = if epoch == 2 { (0, &ours) } else { (1, &mine.epoch_keys) };
                let header = record::session_header(epoch, number, sealed.len() + TAG).to_vec();
                let tag = keys.seal.seal(number, &header, &mut sealed);
                number += 1;
                (header, tag)
            }
        };
        input.extend_from_slice(&[&header[..], &sealed, &tag].concat());
        over = session.handle_input(now, &mut input).is_err();
        now += script.duration();
        over |= session.handle_timeout(now).is_err();
        while let Some(event) = session.poll_event() {
            over |= matches!(event, SessionEvent::Ended(_));
        }
        let mut sent = 0;
        while let Some(bytes) = session.poll_transmit(now) {
            sent += bytes.len();
            assert!(sent < 1 << 20, "it talks without end");
        }
    }
    session.close(now, Goodbye::Stopped);
}
