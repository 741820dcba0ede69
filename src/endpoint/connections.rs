//! The connections of a peer: what completes, which of them becomes the link, and what follows when that is lost.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use super::{
    ConnId, Event, OpenFailure, Outbox, Output, PortsId,
    candidates::Nominated,
    peer::{Env, Peer},
};
use crate::{punch::budget, wire::peer::PeerMessage};

/// How a connection came about.
pub(super) enum Completed {
    /// A listener accepted it from there.
    Accepted(SocketAddr),
    /// It is the opening of that number.
    Opening(u32),
}

impl Peer {
    /// Has this connection.
    pub(super) fn holds(&self, conn: ConnId) -> bool {
        self.candidates.holds(conn)
    }

    pub(super) fn connect_failed(
        &mut self,
        now: Instant,
        (ports, opening): (PortsId, u32),
        why: &OpenFailure,
        env: &mut Env,
    ) {
        if let Some(round) = self.rounds_mut().find(|r| r.ports == ports) {
            round.connect_failed(now, opening, why, env.out);
        }
    }

    /// SYNs have left.
    pub(super) fn left(&mut self, ports: PortsId, left: &[(u32, Instant)]) {
        if let Some(round) = self.rounds_mut().find(|round| round.ports == ports) {
            left.iter().for_each(|(opening, at)| round.openings.left(*opening, *at));
        }
    }

    /// A round is over: tells what it tried.
    pub(super) fn tell_tried(&mut self, now: Instant, ports: PortsId, out: &mut Outbox) {
        let peer = self.id;
        let Some(round) = self.rounds_mut().find(|round| round.ports == ports) else { return };
        if let Some(tried) = round.openings.take_tried(now) {
            out.push_back(Output::Event(Event::Tried { peer, id: round.id, tried }));
        }
    }

    /// A connection is complete: the link handshake begins on it.
    pub(super) fn completed(
        &mut self,
        now: Instant,
        (ports, conn): (PortsId, ConnId),
        from: Completed,
        env: &mut Env,
    ) {
        let mut stranger = false;
        let (remote, lan) = match from {
            Completed::Accepted(remote) => {
                let known = self.rounds().any(|r| r.expects(remote.ip()));
                stranger = !known && self.line.direct().is_none_or(|direct| direct.ip() != remote.ip());
                (remote, budget::may_connect_in_lan(remote, env.server))
            }
            Completed::Opening(opening) => {
                let round = self.rounds_mut().find(|r| r.ports == ports);
                match round.and_then(|r| r.completed(now, opening)) {
                    Some(known) => known,
                    None => return env.out.push_back(Output::Close { conn }),
                }
            }
        };
        let since = self.rounds().find(|r| r.ports == ports);
        let since = since.map_or(now, |r| r.at.filter(|at| *at <= now).unwrap_or(now));
        let epoch = self.initiator.then(|| {
            self.epoch += 1;
            self.epoch
        });
        let seed = env.seed();
        let parties = (env.key, &self.key, &self.session, &self.line.link_psk);
        self.candidates.begin(conn, (ports, remote, lan, since), stranger, seed, parties, epoch, env.out);
    }

    pub(super) fn received(&mut self, now: Instant, conn: ConnId, bytes: &[u8], env: &mut Env) {
        let may_nominate = !self.initiator || self.leads();
        if let Some(nominated) = self.candidates.received(conn, bytes, may_nominate, env.out) {
            self.nominated(now, conn, nominated, env);
        }
    }

    pub(super) fn conn_closed(&mut self, conn: ConnId) {
        self.candidates.closed(conn);
    }

    fn nominated(&mut self, now: Instant, conn: ConnId, nominated: Nominated, env: &mut Env) {
        let Nominated { link, surplus, ports, remote, lan, since } = nominated;
        // A connection of an earlier round may finish its handshake after the link that was chosen then
        // is lost: the session has no use for it.
        if link.epoch <= self.newest {
            return env.out.push_back(Output::Close { conn });
        }
        // Whoever completes a link's handshake has the secret of the line, so this is a proof as good as
        // the first datagram on it, which may be late or lost.
        self.announce(env.out);
        (self.link, self.newest) = (Some(link.epoch), link.epoch);
        self.links = self.links.saturating_add(1);
        self.brief.began(now);
        self.prepared.clear();
        self.deferred = None;
        env.nat.turn_ends(self.id, now);
        (self.failures, self.mending) = (0, false);
        self.retry = None;
        self.linked_to = (!lan).then_some(remote.ip());
        self.link_proves(now);
        if !lan {
            env.nat.rations.efforts.give_back(&self.key, remote.ip());
            let round = self.rounds().find(|round| round.ports == ports);
            let worked = round.map(|round| round.variant);
            self.worked = worked;
        }
        let took = now.saturating_duration_since(since);
        let (peer, rtt, links) = (self.id, self.line.rtt(now), self.links);
        env.out.push_back(Output::Link { peer, conn, link, surplus });
        env.out.push_back(Output::Event(Event::Connected { peer, remote, lan, took, rtt, links }));
        self.tell_tried(now, ports, env.out);
        self.keep(now, ports);
    }

    /// This side's link is gone: the other side must know, and the initiator begins again at once.
    pub(super) fn link_lost(&mut self, now: Instant, epoch: u32, env: &mut Env) {
        if self.link == Some(epoch) {
            self.line.suspect(now);
            let _ = self.line.send(now, PeerMessage::LinkDead { epoch });
            self.unlinked(now, env);
        }
    }

    /// There is no link any more, or still none in another network: the initiator begins again.
    pub(super) fn unlinked(&mut self, now: Instant, env: &mut Env) {
        self.link_proves(now);
        let pause = self.link.take().map_or(Duration::ZERO, |_| self.brief.ended(now));
        self.quiet_until = None;
        self.failures = 0;
        self.keep_a_while(now);
        let under_way = std::mem::take(&mut self.mending) && self.round.is_some();
        if !self.initiator || under_way {
            return;
        }
        if pause.is_zero() {
            return self.begin_attempt(now, env);
        }
        (self.retry, self.repeat_due) = (Some(now + pause), false);
        let why = "one connection after the other ended as soon as it was there".into();
        env.out.push_back(Output::Event(Event::RoundFailed {
            peer: self.id,
            id: self.last,
            why,
            next: pause,
        }));
    }

    /// A link that there is, or was until now, shows where the other side receives.
    pub(super) fn link_proves(&mut self, now: Instant) {
        if let Some(address) = self.linked_to.filter(|_| self.link.is_some()) {
            self.line.proved.add(now, address);
        }
    }
}
