//! The server behind the seal: opening associations, taking messages, following addresses, answering.

use super::{
    Server, Source,
    associations::{Family, Joining},
    directory::{Arrival, NodeRef, To},
    limits::{MAX_BACKLOG, MAX_QUEUED},
};
use crate::{
    channel::{Body, Channel},
    secure::{Psk, Responder},
    wire::{
        self, Blob, MAX_DATAGRAM,
        packet::{COOKIE, Packet},
        server::{ClientHello, FromServer, ServerHello, ToServer},
    },
};

/// Longest REPLY payload: a datagram less header, ephemeral key and tag.
const MAX_HELLO: usize = MAX_DATAGRAM - 9 - 48;

impl Server {
    /// An INIT is good: its messages are taken, and answered in REPLY as far as they fit.
    ///
    /// A client has one association over each address family: a new one takes the place of the old one,
    /// and what the client had not acknowledged there follows it.
    pub(super) fn open(
        &mut self,
        unix_secs: u64,
        from: Source,
        (index, sender): (u32, u32),
        node: NodeRef,
        responder: Responder,
        hello: ClientHello,
    ) {
        let now = self.now;
        let key = responder.remote();
        let replaced = self.associations.replaced_by(node, from);
        let ack = hello.body.kept.len() as u32;
        let associations = &self.associations;
        let (source, family) = (from.addr.into(), from.into());
        let at = Arrival { now, unix_secs, source, family, key, associations };
        for message in hello.body.kept {
            self.directory.handle(at, node, message);
        }
        // What goes to this very association travels in REPLY.
        let here = To { node, family: Some(Family::from(from)) };
        let (mut mine, mut others) = (Vec::new(), Vec::new());
        while let Some((to, message)) = self.directory.poll_said() {
            if to.node == here.node && (to.family.is_none() || to == here) {
                mine.push(message);
            } else {
                others.push((to, message));
            }
        }
        let mut answer = ServerHello {
            observed: from.observed(),
            udp: from.udp,
            body: Body { ack, seq: 0, kept: mine, once: Vec::new() },
        };
        let mut later = Vec::new();
        let mut payload = wire::encode(&answer);
        while payload.len() > MAX_HELLO
            && let Some(message) = answer.body.kept.pop()
        {
            later.push(message);
            payload = wire::encode(&answer);
        }
        let (noise, secrets) = responder.write(&Psk::none(), &payload);
        let reply = Packet::Reply { index: sender, sender: index, noise: &noise }.encode();
        let channel = Channel::new(secrets.datagram(), index, sender, MAX_DATAGRAM)
            .with_received(ack)
            .with_sent(now, answer.body.kept);
        self.out.push_back((from, reply.clone()));
        self.associations.insert(now, Joining { key, node, source: from, index, channel, reply });
        let removed = replaced.and_then(|old| self.associations.remove(old));
        let unfinished = removed.into_iter().flat_map(|r| r.association.into_unacknowledged());
        let mine = unfinished.chain(later.into_iter().rev()).map(|message| (here, message));
        for (to, message) in mine.chain(others).collect::<Vec<_>>() {
            self.post(unix_secs, to, message);
        }
        self.flush(index);
        self.deliver(unix_secs);
    }

    /// A DATA datagram for an association that there is.
    pub(super) fn data(
        &mut self,
        unix_secs: u64,
        from: Source,
        (index, counter): (u32, u64),
        length: usize,
        sealed: &[u8],
    ) -> Option<()> {
        let now = self.now;
        let association = self.associations.get_mut(index)?;
        let received = association.channel.handle(counter, sealed).ok()?;
        let (node, key) = (association.node, association.key);
        self.associations.heard(now, index);
        // A TCP connection proves its address by itself.
        if received.newest && !from.udp {
            self.follow(index, from);
        }
        let mut told = false;
        for message in received.messages {
            match message {
                ToServer::Ping { proof } => {
                    if received.newest && self.proves(index, from, &proof) {
                        self.follow(index, from);
                    }
                    self.pong(index, from, length);
                    told = true;
                }
                message => {
                    let associations = &self.associations;
                    let (source, family) = (from.addr.into(), from.into());
                    let at = Arrival { now, unix_secs, source, family, key, associations };
                    self.directory.handle(at, node, message);
                }
            }
        }
        if !told && received.newest {
            self.offer_proof(index, from, length);
        }
        self.flush(index);
        self.deliver(unix_secs);
        Some(())
    }

    /// Sends everything that the directory has to say.
    pub(super) fn deliver(&mut self, unix_secs: u64) {
        while let Some((to, message)) = self.directory.poll_said() {
            self.post(unix_secs, to, message);
        }
    }

    /// Sends what an association has to send, and sets its alarm.
    pub(super) fn flush(&mut self, index: u32) {
        if let Some(association) = self.associations.get_mut(index) {
            association.refill(self.now);
            while let Some(datagram) = association.channel.poll_transmit(self.now) {
                self.out.push_back((association.source, datagram));
            }
        }
        self.associations.schedule(index);
    }

    /// Ends an association.
    pub(super) fn remove(&mut self, unix_secs: u64, index: u32) {
        let Some(removed) = self.associations.remove(index) else { return };
        let (node, key) = (removed.association.node, removed.association.key);
        if removed.node_left {
            self.directory.leave(unix_secs, key, node);
        } else {
            for message in removed.association.into_unacknowledged() {
                self.post(unix_secs, To { node, family: None }, message);
            }
        }
    }

    /// Sends one message to a client. One that acknowledges nothing for so long that its backlog is full, or
    /// nothing at all while the server is full of what others do not acknowledge, loses its association.
    pub(super) fn post(&mut self, unix_secs: u64, to: To, message: FromServer) {
        let Some(index) = self.associations.route(to) else { return };
        let is_full = self.associations.queued() >= MAX_QUEUED;
        let Some(association) = self.associations.get_mut(index) else { return };
        if matches!(message, FromServer::Relay { .. }) {
            association.channel.send_once(self.now, message);
        } else if association.backlog() < MAX_BACKLOG
            && (!is_full || association.channel.unacknowledged() == 0)
        {
            association.push(message);
        } else {
            return self.remove(unix_secs, index);
        }
        self.flush(index);
    }

    /// From now on the association is at `source`.
    fn follow(&mut self, index: u32, source: Source) {
        if let Some(association) = self.associations.get_mut(index) {
            association.source = source;
        }
    }

    fn proves(&mut self, index: u32, from: Source, proof: &Blob) -> bool {
        let cookie = proof.0.first_chunk::<COOKIE>();
        cookie.is_some_and(|cookie| self.cookies.verify(self.now, from, index, cookie).is_some())
    }

    /// Answers a ping where it came from. To an address that is not proved goes nothing else, and no more
    /// than came from there.
    fn pong(&mut self, index: u32, from: Source, room: usize) {
        let proof = Blob(self.cookies.make(self.now, from, index).to_vec());
        let pong = FromServer::Pong { observed: from.observed(), proof };
        let Some(association) = self.associations.get_mut(index) else { return };
        if association.source == from {
            association.channel.send_once(self.now, pong);
            return;
        }
        let datagram = association.channel.seal_alone(&pong);
        if datagram.len() <= room {
            self.out.push_back((from, datagram));
        }
    }

    /// Something other than a ping came from an address that is not proved: the client is told, so that it
    /// proves it at once.
    fn offer_proof(&mut self, index: u32, from: Source, room: usize) {
        if self.associations.get(index).is_some_and(|association| association.source != from) {
            self.pong(index, from, room);
        }
    }
}
