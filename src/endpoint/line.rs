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

use crate::{
    channel::{Channel, ChannelError, Full},
    punch::{ClockFilter, Hole, PingLog, budget, schedule},
    secure::Psk,
    wire::peer::PeerMessage,
};

/// A ping over every path is repeated after this, and each time after twice as long ...
const RELAY_PING: Duration = Duration::from_millis(500);

/// ... up to this: a peer may be away for hours.
const LONGEST_RELAY_PING: Duration = Duration::from_secs(8);

/// Addresses of the other side that are taken from the server, and such that it was heard from: one for each
/// family. Each datagram goes to all of the former, and the server must not make us a multiplier.
const MAX_ADDRESSES: usize = 2;

/// Pings that wait for their pongs. They leave at once; more than this in one datagram is nonsense.
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
    /// Addresses that authentic datagrams came from directly, the newest first.
    sources: Vec<IpAddr>,
    clock: ClockFilter,
    pings: PingLog,
    /// When to ask again for a sample that has not been answered by any path, and the pause after that.
    relay_ping: Option<(Instant, Duration)>,
    /// Pongs to send: by which path the ping came, and its number.
    pongs: VecDeque<(Option<SocketAddr>, u32)>,
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
    ) -> Self {
        Line {
            index,
            channel,
            relation: Some(relation),
            hole: Hole::new(now, &[]),
            candidates: Vec::new(),
            sources: Vec::new(),
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

    /// The other side's addresses as the server observed them. The first ones count: after that it is
    /// the peer's own datagrams that say where it is. `server` as in [`budget::may_open_to`].
    pub(super) fn introduced(&mut self, now: Instant, addresses: &[SocketAddr], server: IpAddr) {
        if std::mem::replace(&mut self.introduced, true) {
            return;
        }
        let sensible = |a: &&SocketAddr| a.port() != 0 && budget::may_open_to(a.ip(), server);
        self.candidates = addresses.iter().filter(sensible).take(MAX_ADDRESSES).copied().collect();
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
        let received = self.channel.handle(now, counter, sealed)?;
        self.heard = now;
        if let Some(from) = from {
            self.sources.retain(|source| *source != from.ip());
            self.sources.insert(0, from.ip());
            self.sources.truncate(MAX_ADDRESSES);
        }
        match from {
            Some(from) => self.hole.handle_authentic(now, from, received.newest),
            None if received.newest => self.hole.suspect(now),
            None => {}
        }
        if received.newest {
            self.detour = from.is_none();
        }
        let mut rest = Vec::new();
        for message in received.messages {
            match message {
                PeerMessage::Ping { sample } => {
                    self.pings.received(now, sample);
                    if self.pongs.len() < MAX_PONGS {
                        self.pongs.push_back((from, sample));
                    }
                }
                PeerMessage::Pong { sample, held_us } => self.pong(now, from, (sample, held_us)),
                other => rest.push(other),
            }
        }
        Ok(rest)
    }

    fn pong(&mut self, now: Instant, from: Option<SocketAddr>, (sample, held_us): (u32, u32)) {
        let Some(rtt) = self.clock.pong(now, sample, held_us) else { return };
        self.relay_ping = None;
        if let Some(from) = from {
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
        let sample = self.clock.ping(now);
        self.channel.send_once(now, PeerMessage::Ping { sample });
        self.relay_ping = Some((now + pause, (pause * 2).min(LONGEST_RELAY_PING)));
    }

    /// The next datagram to send.
    pub(super) fn poll_transmit(&mut self, now: Instant) -> Option<Parcel> {
        if let Some((from, sample)) = self.pongs.pop_front() {
            let datagram = self.channel.seal_alone(&PeerMessage::Pong { sample, held_us: 0 });
            let relay = if from.is_none() { self.relation } else { None };
            return Some(Parcel { datagram, direct: from.into_iter().collect(), relay });
        }
        if let Some(to) = self.hole.poll_ping(now) {
            let sample = self.clock.ping(now);
            let datagram = self.channel.seal_alone(&PeerMessage::Ping { sample });
            return Some(Parcel { datagram, direct: vec![to], relay: None });
        }
        if let Some((_, pause)) = self.relay_ping.filter(|(at, _)| *at <= now) {
            self.ping_again(now, pause);
        }
        let datagram = self.channel.poll_transmit(now)?;
        Some(match self.hole.direct() {
            Some(direct) => {
                let relay = self.relation.filter(|_| self.detour);
                Parcel { datagram, direct: vec![direct], relay }
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

    /// Addresses that are the other peer's: those that its authentic datagrams came from directly. What the
    /// server says of it does not count, nor what it says itself: either could name somebody else's.
    pub(super) fn proved(&self) -> &[IpAddr] {
        &self.sources
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
