//! What a person wants to know of an [`Endpoint`](super::Endpoint)'s work.

use std::{net::SocketAddr, time::Duration};

use super::{Path, PeerId, reasons::Tried};
use crate::{
    nat::Prediction,
    secure::PublicKey,
    wire::{
        peer::RoundId,
        server::{Decline, NameRefusal, Release, RequestRefusal},
    },
};

/// What a person wants to know, and what ends a run.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// The server named its key and none was pinned.
    ServerKey(PublicKey),
    /// The server's key is not the pinned one. Nothing more is said to it.
    ServerKeyChanged {
        /// The key that it named.
        found: PublicKey,
    },
    /// The server is reached.
    ServerReached {
        /// The server.
        path: Path,
        /// This endpoint's address as the server sees it.
        observed: SocketAddr,
        /// From the first datagram to now.
        took: Duration,
    },
    /// The server does not answer (any more), over UDP or TCP; the endpoint keeps trying.
    ServerSilent {
        /// For how long.
        since: Duration,
    },
    /// The server speaks another protocol version.
    ServerVersion {
        /// Its version.
        theirs: u8,
    },
    /// The server serves other keys than this one's only; it is asked on, at long intervals.
    ServerPrivate,
    /// What came of giving the name up.
    Released(Release),
    /// The name is registered.
    Registered,
    /// The name cannot be registered.
    NotRegistered(NameRefusal),
    /// Nobody is registered under the name; the request is kept.
    Waiting {
        /// Time since somebody was; `None` if the server has never heard of the name.
        last_seen: Option<Duration>,
    },
    /// The request cannot be kept.
    NotKept(RequestRefusal),
    /// The host lets this client in.
    Introduced {
        /// Observed addresses of the host.
        addresses: Vec<SocketAddr>,
    },
    /// The host does not let this client in, as the server passes it on.
    Declined(Decline),
    /// A refusal comes by way of the server while a session is without a link. Nobody can prove it and it may be made up, so it
    /// ends nothing: the host is asked on. Told once for each time without a link.
    Hearsay(Hearsay),
    /// A client was not let in by this host. Told once a minute.
    Refused {
        /// The client's key, which it has proved to hold; `None` where its message was not for this host.
        key: Option<PublicKey>,
        /// Why.
        why: Decline,
        /// Others since the last time that this was told.
        others: u64,
    },
    /// The handshake with the host failed: the invite's secret is wrong, or the host is not who the
    /// server says.
    NotProved,
    /// The UDP hole is open.
    HoleOpen {
        /// The session.
        peer: PeerId,
        /// The other peer's address.
        remote: SocketAddr,
        /// Round trip.
        rtt: Duration,
    },
    /// This side's NAT is measured.
    NatFound {
        /// The session.
        peer: PeerId,
        /// One for each address family.
        predictions: Vec<Prediction>,
        /// From the first probe to the last answer.
        took: Duration,
    },
    /// The other side has told what its NAT does.
    PeerNatFound {
        /// The session.
        peer: PeerId,
        /// One for each address family.
        predictions: Vec<Prediction>,
    },
    /// An instant is agreed.
    Opening {
        /// The session.
        peer: PeerId,
        /// The round.
        id: RoundId,
        /// Its kind, from 0: what to remember where a connection comes of it ([`Hint`](super::Hint)).
        variant: u8,
        /// Time to the instant.
        lead: Duration,
        /// Connections that this side will open.
        openings: usize,
    },
    /// A link is nominated.
    Connected {
        /// The session.
        peer: PeerId,
        /// The other end.
        remote: SocketAddr,
        /// Inside one LAN, without a punch.
        lan: bool,
        /// From the agreed instant (or the first try) to now.
        took: Duration,
        /// Round trip of the path at the time.
        rtt: Option<Duration>,
        /// Links of this session so far.
        links: u32,
    },
    /// What a round opened, told when a link has come of it, or none.
    Tried {
        /// The session.
        peer: PeerId,
        /// The round.
        id: RoundId,
        /// Every SYN that had left; none where the other side's made the link before.
        tried: Vec<Tried>,
    },
    /// A round brought no link.
    RoundFailed {
        /// The session.
        peer: PeerId,
        /// The round.
        id: RoundId,
        /// Why, in words.
        why: String,
        /// Time to the next one.
        next: Duration,
    },
    /// The pair cannot be punched; nothing is sprayed.
    Hopeless {
        /// The session.
        peer: PeerId,
        /// Why, in words.
        why: String,
    },
}

/// What the server brings and nobody can prove.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hearsay {
    /// The request for the host cannot be kept.
    NotKept(RequestRefusal),
    /// The host does not let this client in.
    Declined(Decline),
    /// An answer of the host that its key does not open.
    NotProved,
}
