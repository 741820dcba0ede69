//! What two peers say to each other over their sealed channel: clock, predictions, the agreed instant.
//!
//! Times never cross the wire as instants: a [`PeerMessage::Start`] names a *sample* (the receipt of
//! the ping with that number) and a duration after it.

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

use crate::{channel::Body, nat::Prediction};

/// Largest DATA packet between peers: fits into a `Relay` message inside a datagram of
/// [`super::MAX_DATAGRAM`].
pub const MAX_PEER_DATAGRAM: usize = 1120;

/// Most predictions in a message: one for each address family.
pub const MAX_PREDICTIONS: usize = 2;

/// Most LAN addresses in a message.
pub const MAX_LAN: usize = 8;

/// Payload of Noise message 1 of the peer handshake (initiator: the client).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PeerHello {
    /// Index under which the client expects DATA.
    pub index: u32,
    /// The session to begin or to go on with.
    #[serde(with = "super::bin")]
    pub session: [u8; 16],
    /// The invite that the client was given.
    pub invite: Option<Invited>,
    /// The round that the host is to prepare at once, as if by [`PeerMessage::Prepare`].
    pub prepare: Option<RoundId>,
}

/// What a client shows of the invite that it was given.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Invited {
    /// The public part.
    pub id: u64,
    /// [`crate::secure::Psk::prove`]: whoever has the public part only learns nothing by asking.
    #[serde(with = "super::bin")]
    pub proof: [u8; 32],
}

/// Payload of Noise message 2 of the peer handshake (responder: the host).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PeerReply {
    /// Index under which the host expects DATA.
    pub index: u32,
    /// The host still holds the session that `PeerHello` named; otherwise it begins now.
    pub resumed: bool,
    /// The first messages.
    pub body: Body<PeerMessage>,
}

/// Names one agreed instant.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct RoundId {
    /// Counts the initiator's attempts within a session; only rises.
    pub attempt: u32,
    /// Counts the instants within an attempt, from 0.
    pub round: u8,
}

/// Between peers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum PeerMessage {
    /// Is this path open, and how long is it? Not repeated when lost.
    Ping {
        /// Number of the sample, rising, from 1.
        sample: u32,
        /// Random: only who receives it can answer.
        nonce: u64,
    },
    /// Answer to `Ping`, by the path it came on. Not repeated when lost, and never longer than its ping.
    Pong {
        /// From `Ping`.
        nonce: u64,
        /// Time between receipt of the ping and sending of the pong, microseconds.
        held_us: u32,
    },
    /// Initiator to responder: get ready for this round (bind, listen, probe).
    Prepare {
        /// The round.
        id: RoundId,
    },
    /// Where this side's next connections will come from.
    Predicted {
        /// The round.
        id: RoundId,
        /// At most one for each address family; empty where the probes got no answer.
        predictions: Vec<Prediction>,
        /// Addresses in this side's LAN on which it listens.
        lan: Vec<SocketAddr>,
        /// Time from the last probe to the sending of this, milliseconds: a counter has moved since.
        age_ms: u16,
        /// Connections that this side would open in a round; the smaller of both counts.
        budget: u16,
    },
    /// Responder to initiator: a last probe has shown where the counters are now. It is of use until
    /// `Start` is said, and nobody's loss after that: `Start` names the bases that count.
    Refreshed {
        /// The round.
        id: RoundId,
        /// For each of the predictions as sent its counter's base, reckoned back to the last probe before
        /// ([`crate::nat::refresh`]); 0 where it is no counter.
        next: Vec<u16>,
    },
    /// Initiator to responder: the agreed instant.
    Start(Start),
    /// Responder to initiator: it will.
    Started {
        /// The round.
        id: RoundId,
    },
    /// Responder to initiator: it will not.
    NotStarted {
        /// The round.
        id: RoundId,
        /// Why.
        why: StartRefusal,
    },
    /// This side holds the link of that epoch for dead; so must the other.
    LinkDead {
        /// The link.
        epoch: u32,
    },
    /// Responder to initiator: the link of that epoch looks sick here, make another one while it lives.
    LinkSick {
        /// The link.
        epoch: u32,
    },
    /// The session ends.
    Goodbye {
        /// Why.
        why: Goodbye,
    },
}

/// The agreed instant, and what both sides compute the same plan from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Start {
    /// The round.
    pub id: RoundId,
    /// [`crate::punch::PLAN_VERSION`] of the initiator.
    pub plan: u8,
    /// Which kind of round it is, below [`crate::punch::schedule::ROUNDS`]: its number within the attempt,
    /// unless another kind worked last between these networks and is tried first.
    pub variant: u8,
    /// The smaller of both sides' budgets of openings.
    pub budget: u16,
    /// [`crate::nat::digest`] of the initiator's predictions, then the responder's, as sent.
    pub digest: u64,
    /// The instant is this long ...
    pub after_us: u64,
    /// ... after the responder received the ping of this number.
    pub sample: u32,
    /// From the probes to the instant, milliseconds: how long others behind a NAT have been using up
    /// ports by then. The initiator's reckoning, which both plan with (see [`crate::punch::plan()`]).
    pub window_ms: u16,
    /// For each of the initiator's predictions the base of its counter, as far ahead of the instant as
    /// `window_ms` says; 0 where it is no counter. As many as there are predictions, or none.
    pub next: Vec<u16>,
    /// The same for the responder's predictions.
    pub their_next: Vec<u16>,
}

/// Why a responder does not start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum StartRefusal {
    /// It has other predictions than the digest says.
    Digest,
    /// It does not know the sample, or the instant has passed.
    Late,
    /// It plans by another version.
    Plan,
    /// It cannot prepare the round: it has prepared too many just now, or has no ports.
    Busy,
    /// It can afford no openings: the part of a block of ports that may be used is used up.
    Spent,
}

/// Why a session ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Goodbye {
    /// The program was stopped.
    Stopped,
    /// The client's key is not authorised any more.
    Unauthorised,
    /// The session is not known here (any more).
    Unknown,
    /// The session had no link for longer than it is kept.
    Expired,
    /// The other side said what the protocol does not allow.
    Broken,
}
