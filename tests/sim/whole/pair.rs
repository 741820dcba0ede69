//! A client and a host with one session, whose programs the test plays.

use std::time::{Duration, Instant};

use bytes::Bytes;
use punchtunnel::{
    session::{MuxError, Session, StreamId},
    wire::stream::{OpenRequest, ResetReason},
};

use crate::{
    model::Pipes,
    peer::Peer,
    scene::{Place, Scene},
    world::{Conditions, HostId, Io},
};

/// The side that connects.
pub const CLIENT: usize = 0;
/// The other.
pub const HOST: usize = 1;

/// A scene with one session, and what its streams must deliver.
pub struct Pair {
    pub scene: Scene,
    pub pipes: Pipes,
}

impl Pair {
    /// Both are there and have a link.
    pub fn new(seed: u64, place: Place, conditions: Conditions) -> Self {
        let mut scene = Scene::without_host(seed, place, conditions);
        scene.scripted = true;
        scene.start_host();
        scene.world.run_for(Duration::from_secs(3));
        scene.start_client();
        let mut pair = Pair { scene, pipes: Pipes::default() };
        let linked = pair.run_until(Duration::from_secs(30), |pair| pair.is_linked());
        assert!(linked, "not connected:\n{}", pair.scene.story());
        pair
    }

    pub fn id(&self, side: usize) -> HostId {
        if side == CLIENT { self.scene.clients[0] } else { self.scene.host }
    }

    pub fn now(&self) -> Duration {
        self.scene.world.elapsed()
    }

    /// Acts on a peer.
    pub fn with<R>(&mut self, side: usize, act: impl FnOnce(&mut Peer, &mut Io<'_>) -> R) -> R {
        let id = self.id(side);
        self.scene.with_peer(id, act)
    }

    /// Links that a side has had, and whether there is one.
    pub fn links(&mut self, side: usize) -> (u32, bool) {
        let id = self.id(side);
        self.scene.tunnel(id).map_or((0, false), |tunnel| (tunnel.links, tunnel.epoch().is_some()))
    }

    /// Both have the same link.
    pub fn is_linked(&mut self) -> bool {
        let [ours, theirs] = [CLIENT, HOST].map(|side| {
            let id = self.id(side);
            self.scene.tunnel(id).and_then(|tunnel| tunnel.epoch())
        });
        ours.is_some() && ours == theirs
    }

    /// Acts on a side's session.
    pub fn session<R>(&mut self, side: usize, act: impl FnOnce(&mut Session, Instant) -> R) -> R {
        let result = self.act(side, act);
        self.take_events();
        result
    }

    fn act<R>(&mut self, side: usize, act: impl FnOnce(&mut Session, Instant) -> R) -> R {
        self.with(side, |peer, io| {
            let tunnel = peer.sessions.values_mut().next();
            let tunnel = tunnel.unwrap_or_else(|| panic!("side {side} has no session: {:?}", peer.ended));
            act(&mut tunnel.session, io.now)
        })
    }

    pub fn open(&mut self, side: usize) -> StreamId {
        let id = self.session(side, |session, now| {
            session.open(now, OpenRequest { service: None }).expect("few are open")
        });
        self.pipes.open(side, id);
        id
    }

    /// Writes up to `size` bytes; how many were taken.
    pub fn write(&mut self, side: usize, id: StreamId, size: usize) -> usize {
        let room = self.session(side, |session, _| session.writable(id));
        if room == 0 {
            self.pipes.blocked(side, id);
        }
        let count = room.min(size);
        let bytes = Bytes::from(self.pipes.next(side, id, count));
        match self.session(side, |session, _| session.write(id, bytes)) {
            Ok(()) => self.pipes.wrote(side, id, count),
            Err(MuxError::Finished) => assert!(self.pipes.end(side, id).finished),
            Err(MuxError::Reset(_)) => self.pipes.refused(side, id),
            // It heard of a reset in between.
            Err(MuxError::Unknown) => assert!(self.pipes.end(side, id).over),
            Err(other) => panic!("{id}, {count} bytes: {other}"),
        }
        count
    }

    /// Reads what there is; how many bytes.
    pub fn read(&mut self, side: usize, id: StreamId) -> usize {
        let mut count = 0;
        while let Some(bytes) = self.act(side, |session, now| session.read(now, id)) {
            // Events of this reading are behind the bytes.
            self.pipes.read(side, id, &bytes);
            self.take_events();
            count += bytes.len();
        }
        self.take_events();
        count
    }

    pub fn finish(&mut self, side: usize, id: StreamId) {
        self.pipes.finished(side, id);
        self.session(side, |session, _| session.finish(id));
    }

    pub fn reset(&mut self, side: usize, id: StreamId) {
        self.pipes.reset(side, id);
        self.session(side, |session, _| session.reset(id, ResetReason::Reset));
    }

    /// Reads everything that there is on both sides.
    pub fn read_all(&mut self) {
        for side in [CLIENT, HOST] {
            for id in self.pipes.held(side) {
                self.read(side, id);
            }
        }
    }

    pub fn run(&mut self, time: Duration) {
        self.scene.world.run_for(time);
        self.take_events();
    }

    /// Runs in steps of 10 ms until the condition holds or the time is over: does it hold?
    pub fn run_until(&mut self, limit: Duration, mut done: impl FnMut(&mut Self) -> bool) -> bool {
        let end = self.now() + limit;
        loop {
            if done(self) {
                return true;
            }
            if self.now() >= end {
                return false;
            }
            self.run(Duration::from_millis(10));
        }
    }

    /// Everything written is read, and every end is heard of, within the time.
    pub fn delivers(&mut self, limit: Duration) {
        let all = self.run_until(limit, |pair| {
            pair.read_all();
            pair.pipes.missing().is_none()
        });
        assert!(all, "{}:\n{}", self.pipes.missing().unwrap_or_default(), self.scene.story());
    }

    /// Everybody finishes and reads everything; then nothing is left of streams and records.
    pub fn ends_well(&mut self, limit: Duration) {
        let over = self.run_until(limit, |pair| {
            pair.read_all();
            let mut held = false;
            for side in [CLIENT, HOST] {
                for id in pair.pipes.held(side) {
                    held = true;
                    if !pair.pipes.end(side, id).finished {
                        pair.finish(side, id);
                    }
                }
            }
            let flushed = [CLIENT, HOST].map(|side| pair.session(side, |session, _| session.is_flushed()));
            !held && flushed == [true; 2] && pair.pipes.missing().is_none()
        });
        assert!(over, "streams are left:\n{}", self.scene.story());
        self.pipes.check_complete();
        for side in [CLIENT, HOST] {
            let stats = self.session(side, |session, _| session.stats());
            assert_eq!((stats.streams, stats.unacknowledged), (0, 0));
        }
    }

    fn take_events(&mut self) {
        for side in [CLIENT, HOST] {
            let id = self.id(side);
            let Some(tunnel) = self.scene.tunnel(id) else { continue };
            for event in std::mem::take(&mut tunnel.events) {
                self.pipes.event(side, &event);
            }
        }
    }
}
