//! The sealed line to another peer: one channel, the paths it can take, and its clock.
//!
//! From the handshake on there is a path through the server; the UDP hole makes it direct. Until the
//! hole is known to be open every datagram takes both ways (the channel drops the copy); afterwards
//! only the direct one.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use crate::{
    channel::{Channel, ChannelError, Full},
    punch::{ClockFilter, Hole, PingLog, schedule},
    secure::Psk,
    wire::peer::PeerMessage,
};

/// Where there is no direct path the line is asked for its round trip this often while it is needed.
const RELAY_PING: Duration = Duration::from_millis(500);

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
    clock: ClockFilter,
    pings: PingLog,
    /// When to ask again for a sample that has not been answered by any path.
    relay_ping: Option<Instant>,
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
        addresses: &[SocketAddr],
        link_psk: Psk,
    ) -> Self {
        Line {
            index,
            channel,
            relation: Some(relation),
            hole: Hole::new(now, addresses),
            candidates: addresses.to_vec(),
            clock: ClockFilter::new(),
            pings: PingLog::new(),
            relay_ping: None,
            link_psk,
            since: now,
            heard: now,
        }
    }

    /// The other side's observed addresses, where they became known only after the handshake.
    pub(super) fn introduced(&mut self, now: Instant, addresses: &[SocketAddr]) {
        self.hole.restart(now, addresses);
        self.candidates = addresses.to_vec();
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
            self.hole.handle_authentic(now, from, received.newest);
        }
        let mut rest = Vec::new();
        for message in received.messages {
            match message {
                PeerMessage::Ping { sample } => {
                    self.pings.received(now, sample);
                    self.channel.send_once(now, PeerMessage::Pong { sample, held_us: 0 });
                }
                PeerMessage::Pong { sample, held_us } => {
                    if let Some(from) = from {
                        let before = self.hole.direct();
                        self.hole.handle_pong(now, from);
                        if self.hole.direct() != before {
                            self.clock.path_changed();
                        }
                    }
                    if self.clock.pong(now, sample, held_us).is_some() {
                        self.relay_ping = None;
                    }
                    self.set_rtt();
                }
                other => rest.push(other),
            }
        }
        Ok(rest)
    }

    fn set_rtt(&mut self) {
        if let Some((rtt, _)) = self.clock.smoothed() {
            self.channel.set_rtt(rtt);
        }
    }

    /// Sends a message that arrives, once and in order.
    pub(super) fn send(&mut self, now: Instant, message: PeerMessage) -> Result<(), Full> {
        self.channel.send(now, message)
    }

    /// Asks for a sample of the clock at once, over every path there is, until one is answered.
    pub(super) fn ping(&mut self, now: Instant) {
        let sample = self.clock.ping(now);
        self.channel.send_once(now, PeerMessage::Ping { sample });
        self.relay_ping = Some(now + RELAY_PING);
    }

    /// The next datagram to send.
    pub(super) fn poll_transmit(&mut self, now: Instant) -> Option<Parcel> {
        let mut due = false;
        while self.hole.poll_ping(now).is_some() {
            due = true;
        }
        if due {
            let sample = self.clock.ping(now);
            self.channel.send_once(now, PeerMessage::Ping { sample });
        }
        if self.relay_ping.is_some_and(|at| at <= now) {
            self.ping(now);
        }
        let datagram = self.channel.poll_transmit(now)?;
        Some(match self.hole.direct() {
            Some(direct) => Parcel { datagram, direct: vec![direct], relay: None },
            None => Parcel { datagram, direct: self.candidates.clone(), relay: self.relation },
        })
    }

    /// When to come back.
    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        [self.channel.poll_timeout(), self.hole.poll_timeout(), self.relay_ping].into_iter().flatten().min()
    }

    /// The address of the other peer, where the hole is open.
    pub(super) fn direct(&self) -> Option<SocketAddr> {
        self.hole.direct()
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

    /// The network changed: looks for the direct path anew.
    pub(super) fn handle_network_change(&mut self, now: Instant) {
        let candidates = std::mem::take(&mut self.candidates);
        self.hole.restart(now, &candidates);
        self.candidates = candidates;
    }
}
