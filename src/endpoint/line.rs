//! The sealed line to another peer: one channel, the paths it can take, and its clock.
//!
//! From the handshake on there is a path through the server; the UDP hole makes it direct. Until the
//! hole is known to be open every datagram takes both ways (the channel drops the copy); afterwards
//! only the direct one, as long as the other side uses it too: one that moved has only the server to say
//! so, and is answered over both until it is heard directly again. Pings that look for the hole, and all pongs, take one way each: a copy that
//! came first by the other way would hide that this one is open.

use std::{
    collections::VecDeque,
    net::{IpAddr, SocketAddr},
    time::{Duration, Instant},
};

use rand::RngExt;

use super::proved::Proved;
use crate::{
    channel::{Channel, ChannelError, Full},
    punch::{Answered, ClockFilter, Hole, PingLog, budget, schedule},
    secure::{Generator, Psk},
    wire::peer::PeerMessage,
};

/// A ping over every path is repeated after this, and each time after twice as long ...
const RELAY_PING: Duration = Duration::from_millis(500);

/// ... up to this: a peer may be away for hours.
const LONGEST_RELAY_PING: Duration = Duration::from_secs(8);

/// Addresses of the other side that are taken from the server: one for each family. Each datagram goes to all
/// of them, and the server must not make us a multiplier.
const MAX_ADDRESSES: usize = 2;

/// Pings that wait for their pongs, which leave at once.
const MAX_PONGS: usize = 8;

/// A path through the server: which association, and the relation's number there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Relation {
    pub(super) server: usize,
    pub(super) number: u32,
}

/// A datagram and the ways it is to take.
pub(super) struct Parcel {
    pub(super) datagram: Vec<u8>,
    pub(super) direct: Vec<SocketAddr>,
    pub(super) relay: Option<Relation>,
}

/// The line.
pub(super) struct Line {
    /// Our index: what its datagrams begin with.
    pub(super) index: u32,
    channel: Channel<PeerMessage>,
    pub(super) relation: Option<Relation>,
    hole: Hole,
    /// Where it goes directly while the hole is not known to be open.
    candidates: Vec<SocketAddr>,
    /// Where the server has seen the other side, by UDP or only by TCP.
    observed: Vec<IpAddr>,
    pub(super) proved: Proved,
    /// Draws the nonces.
    rng: Generator,
    clock: ClockFilter,
    pings: PingLog,
    /// When to ask again for a sample that has not been answered by any path, and the pause after that.
    relay_ping: Option<(Instant, Duration)>,
    /// Pongs to send: by which path the ping came, and its nonce.
    pongs: VecDeque<(Option<SocketAddr>, u64)>,
    /// A direct path was confirmed just now: where, and its round trip.
    confirmed: Option<(SocketAddr, Duration)>,
    /// The direct path was open, but the other side was heard through the server last, or the link is lost.
    detour: bool,
    /// The server has said where the other side is.
    introduced: bool,
    /// Pre-shared key of this line's link handshakes.
    pub(super) link_psk: Psk,
    /// When it was made.
    pub(super) since: Instant,
    heard: Instant,
}

impl Line {
    pub(super) fn new(
        now: Instant,
        (index, channel): (u32, Channel<PeerMessage>),
        relation: Relation,
        link_psk: Psk,
        seed: [u8; 32],
    ) -> Self {
        Line {
            index,
            channel,
            relation: Some(relation),
            hole: Hole::new(now, &[]),
            candidates: Vec::new(),
            observed: Vec::new(),
            proved: Proved::default(),
            rng: Generator::new(seed),
            clock: ClockFilter::new(),
            pings: PingLog::new(),
            relay_ping: None,
            pongs: VecDeque::new(),
            confirmed: None,
            detour: false,
            introduced: false,
            link_psk,
            since: now,
            heard: now,
        }
    }

    /// The other side's addresses as the server observed them, with port 0 where it does not speak UDP. The
    /// first ones count: after that it is the peer's own datagrams that say where it is. `server` as in
    /// [`budget::may_open_to`].
    pub(super) fn introduced(&mut self, now: Instant, addresses: &[SocketAddr], server: IpAddr) {
        if std::mem::replace(&mut self.introduced, true) {
            return;
        }
        let sensible = |a: &&SocketAddr| budget::may_open_to(a.ip(), server);
        let addresses = || addresses.iter().filter(sensible).take(MAX_ADDRESSES);
        self.observed = addresses().map(SocketAddr::ip).collect();
        self.candidates = addresses().filter(|a| a.port() != 0).copied().collect();
        self.hole.restart(now, &self.candidates);
    }

    /// A datagram for this line came, from that address or (`None`) through the server. Answers with
    /// what is not the line's own business.
    pub(super) fn handle(
        &mut self,
        now: Instant,
        from: Option<SocketAddr>,
        counter: u64,
        sealed: &[u8],
    ) -> Result<Vec<PeerMessage>, ChannelError> {
        let received = self.channel.handle(counter, sealed)?;
        self.heard = now;
        match from {
            Some(from) => self.hole.handle_authentic(now, from, received.newest),
            None if received.newest => self.hole.suspect(now),
            None => {}
        }
        if received.newest {
            self.detour = from.is_none();
        }
        let (mut rest, mut answers) = (Vec::new(), false);
        for message in received.messages {
            match message {
                PeerMessage::Ping { sample, nonce } => {
                    self.pings.received(now, sample);
                    // An honest datagram has one ping; more answers than datagrams would multiply.
                    if !std::mem::replace(&mut answers, true) && self.pongs.len() < MAX_PONGS {
                        self.pongs.push_back((from, nonce));
                    }
                }
                PeerMessage::Pong { nonce, held_us } => self.pong(now, from, (nonce, held_us)),
                other => rest.push(other),
            }
        }
        Ok(rest)
    }

    fn pong(&mut self, now: Instant, from: Option<SocketAddr>, (nonce, held_us): (u64, u32)) {
        let Some(answered) = self.clock.pong(now, nonce, from, held_us) else { return };
        let Answered { rtt, proved } = answered;
        self.relay_ping = None;
        if let Some(from) = proved {
            self.proved.add(now, from.ip());
            let before = self.hole.direct();
            self.hole.handle_pong(now, from);
            if self.hole.direct() != before {
                self.clock.path_changed();
            }
            if self.hole.direct() == Some(from) {
                self.confirmed = Some((from, rtt));
            }
        }
        if let Some((rtt, _)) = self.clock.smoothed() {
            self.channel.set_rtt(rtt);
        }
    }

    /// Where a direct path was confirmed since the last call, and its round trip.
    pub(super) fn take_confirmed(&mut self) -> Option<(SocketAddr, Duration)> {
        self.confirmed.take()
    }

    /// Sends a message that arrives, once and in order.
    pub(super) fn send(&mut self, now: Instant, message: PeerMessage) -> Result<(), Full> {
        self.channel.send(now, message)
    }

    /// Asks for a sample of the clock at once, over every path there is, until one is answered.
    pub(super) fn ping(&mut self, now: Instant) {
        self.ping_again(now, RELAY_PING);
    }

    fn ping_again(&mut self, now: Instant, pause: Duration) {
        let ping = self.new_ping(now, None);
        self.channel.send_once(now, ping);
        self.relay_ping = Some((now + pause, (pause * 2).min(LONGEST_RELAY_PING)));
    }

    /// A ping that goes to that address alone, or over every path.
    fn new_ping(&mut self, now: Instant, to: Option<SocketAddr>) -> PeerMessage {
        let nonce = self.rng.random();
        PeerMessage::Ping { sample: self.clock.ping(now, nonce, to), nonce }
    }

    /// The next datagram to send.
    pub(super) fn poll_transmit(&mut self, now: Instant) -> Option<Parcel> {
        while let Some((from, nonce)) = self.pongs.pop_front() {
            if from.is_some_and(|to| !self.proved.may_send(now, to.ip())) {
                continue;
            }
            let datagram = self.channel.seal_alone(&PeerMessage::Pong { nonce, held_us: 0 });
            let relay = if from.is_none() { self.relation } else { None };
            return Some(Parcel { datagram, direct: from.into_iter().collect(), relay });
        }
        while let Some(to) = self.hole.poll_ping(now) {
            if self.proved.may_send(now, to.ip()) {
                let ping = self.new_ping(now, Some(to));
                let datagram = self.channel.seal_alone(&ping);
                return Some(Parcel { datagram, direct: vec![to], relay: None });
            }
        }
        if let Some((_, pause)) = self.relay_ping.filter(|(at, _)| *at <= now) {
            self.ping_again(now, pause);
        }
        let datagram = self.channel.poll_transmit(now)?;
        Some(match self.hole.direct() {
            Some(direct) => {
                let sure = self.hole.has_answered();
                let relay = self.relation.filter(|_| self.detour || !sure);
                let direct = Some(direct).filter(|to| sure || self.proved.may_send(now, to.ip()));
                Parcel { datagram, direct: direct.into_iter().collect(), relay }
            }
            None => Parcel { datagram, direct: self.candidates.clone(), relay: self.relation },
        })
    }

    /// When to come back.
    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        let again = self.relay_ping.map(|(at, _)| at);
        [self.channel.poll_timeout(), self.hole.poll_timeout(), again].into_iter().flatten().min()
    }

    /// The address of the other peer, where the hole is open.
    pub(super) fn direct(&self) -> Option<SocketAddr> {
        self.hole.direct()
    }

    /// Where the server has seen the other peer, once it has said so.
    pub(super) fn observed(&self) -> Option<&[IpAddr]> {
        self.introduced.then_some(&self.observed)
    }

    /// Round trip over the best path.
    pub(super) fn rtt(&self, now: Instant) -> Option<Duration> {
        self.clock.shortest(now)
    }

    /// The next instant that can be agreed: how far ahead it is, and what it is called there. `None`
    /// while there is no sample.
    pub(super) fn instant(&self, now: Instant) -> Option<(Duration, (u32, u64))> {
        let rtt = self.clock.shortest(now)?;
        let (_, var) = self.clock.smoothed().unwrap_or_default();
        let lead = schedule::lead(rtt, var);
        Some((lead, self.clock.name(now, now + lead)?))
    }

    /// What the initiator means by an instant.
    pub(super) fn resolve(&self, sample: u32, after_us: u64) -> Option<Instant> {
        self.pings.resolve(sample, after_us)
    }

    /// When the last authentic datagram came (or the line was made).
    pub(super) fn heard(&self) -> Instant {
        self.heard
    }

    /// Everything that must arrive has arrived.
    pub(super) fn is_idle(&self) -> bool {
        self.channel.is_idle()
    }

    /// What used to get through does not: the direct path is asked, and does not carry alone what is said
    /// until it has answered.
    pub(super) fn suspect(&mut self, now: Instant) {
        self.hole.suspect(now);
        self.detour = true;
    }

    /// The network changed: looks for the direct path anew.
    pub(super) fn handle_network_change(&mut self, now: Instant) {
        let candidates = std::mem::take(&mut self.candidates);
        self.hole.restart(now, &candidates);
        self.candidates = candidates;
    }
}
