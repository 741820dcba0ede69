//! What a client and the rendezvous server say to each other, sealed.
//!
//! Each datagram's sealed body is a [`crate::channel::Body`] of these messages, so all of them except
//! [`ToServer::Relay`], [`FromServer::Relay`], [`ToServer::Ping`] and [`FromServer::Pong`] arrive once
//! and in order. The bodies inside INIT and REPLY are part of the same sequence: a client's first
//! request travels in the first handshake message.

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

use super::Blob;
use crate::channel::Body;

/// Length of `proof` in [`ToServer::Ping`]: that of [`FromServer::Pong`] (a cookie) and of the longest
/// encoded address.
pub const PING_PROOF: usize = 72;

/// Payload of Noise message 1 of a client to the server.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClientHello {
    /// Random for each run of the client: joins its associations over several address families.
    #[serde(with = "super::bin")]
    pub node: [u8; 16],
    /// The first messages.
    pub body: Body<ToServer>,
}

/// Payload of Noise message 2 of the server.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServerHello {
    /// The address and port that INIT came from.
    pub observed: SocketAddr,
    /// INIT came as a UDP datagram, so `observed` is a UDP mapping (over TCP it is not).
    pub udp: bool,
    /// The first answers.
    pub body: Body<FromServer>,
}

/// From a client to the server.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum ToServer {
    /// Take introductions for this name to me, as long as this association lives.
    Register {
        /// The name; see [`crate::identity::Name`].
        name: String,
    },
    /// Give the name up for now (a clean stop). The key goes on owning it.
    Unregister,
    /// Give the name up for good: it belongs to nobody from now on. Answered with `Released`.
    Release {
        /// The name.
        name: String,
    },
    /// Whose is this name? Answered at once with `Found` or `Absent`, and with `Found` when it appears.
    Find {
        /// Number that the answers carry.
        request: u32,
        /// The name.
        name: String,
    },
    /// Take this handshake message to the host of that name, now or when it appears.
    Introduce {
        /// Number that the answers carry; becomes the client's number for the relation.
        request: u32,
        /// The name.
        name: String,
        /// Noise message 1 of the peer handshake, sealed to the host's key.
        hello: Blob,
    },
    /// Forget this request or relation.
    Cancel {
        /// The request or relation.
        request: u32,
    },
    /// The host lets the client in.
    Accept {
        /// Number of the relation, from `Introduction`.
        relation: u32,
        /// Noise message 2 of the peer handshake.
        reply: Blob,
    },
    /// The host does not let the client in.
    Decline {
        /// Number of the relation, from `Introduction`.
        relation: u32,
        /// Why.
        why: Decline,
    },
    /// Take this datagram to the other peer, unread. Not repeated when lost.
    Relay {
        /// The relation, as this side numbers it.
        relation: u32,
        /// A DATA packet between the peers.
        datagram: Blob,
    },
    /// Keep the mapping and the association alive. Not repeated when lost.
    Ping {
        /// `proof` of the last `Pong` (or of none), followed by zeros up to [`PING_PROOF`] bytes, so that
        /// the answer is never longer than the question.
        proof: Blob,
    },
}

/// From the server to a client.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum FromServer {
    /// The name is registered here, by this association.
    Registered,
    /// The name cannot be registered.
    NotRegistered {
        /// Why.
        why: NameRefusal,
    },
    /// Answer to `Release`.
    Released {
        /// From `Release`.
        name: String,
        /// What came of it.
        outcome: Release,
    },
    /// The key that owns the name and is registered now.
    Found {
        /// From `Find`.
        request: u32,
        /// The host's static key. The server's word alone: prove it before trusting it.
        #[serde(with = "super::bin")]
        key: [u8; 32],
    },
    /// Nobody is registered under the name now. The request is kept.
    Absent {
        /// From `Find` or `Introduce`.
        request: u32,
        /// Seconds since the name was last registered; `None` if it never was.
        last_seen: Option<u64>,
    },
    /// The request cannot be kept.
    NotKept {
        /// From `Find` or `Introduce`.
        request: u32,
        /// Why.
        why: RequestRefusal,
    },
    /// A client asks for this host.
    Introduction {
        /// Number of the relation, chosen by the server, unique within this association.
        relation: u32,
        /// Noise message 1 of the client.
        hello: Blob,
    },
    /// To both, after `Accept`: where the other peer's datagrams to the server come from.
    Introduced {
        /// The client's request, or the host's relation: from now on the number of the relation.
        relation: u32,
        /// Observed UDP addresses of the other peer, one for each address family that both have; with port 0
        /// where it speaks TCP.
        addresses: Vec<SocketAddr>,
        /// Noise message 2 (to the client; empty to the host).
        reply: Blob,
    },
    /// To the client: the host does not let it in.
    Declined {
        /// The client's request.
        request: u32,
        /// Why.
        why: Decline,
    },
    /// A datagram of the other peer, unread.
    Relay {
        /// The relation, as the receiver numbers it.
        relation: u32,
        /// A DATA packet between the peers.
        datagram: Blob,
    },
    /// The other peer of the relation is gone from the server: nothing can be relayed any more.
    Gone {
        /// The relation, as the receiver numbers it.
        relation: u32,
    },
    /// Answer to `Ping`, and to the first datagrams from an address that is new for the association.
    Pong {
        /// The address and port that `Ping` came from.
        observed: SocketAddr,
        /// A cookie for that address: whoever sends it back receives there. Only then does the server
        /// follow an association to another UDP address.
        proof: Blob,
    },
}

/// Why a name was not registered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum NameRefusal {
    /// It belongs to another key.
    Owned,
    /// It is not a name.
    Malformed,
    /// The server or this key has all the names it may have.
    Full,
    /// Another run of the same key has registered it: the newest wins. The older one is told once and
    /// must not register again by itself, so that two runs never take the name from each other forever.
    Taken,
}

/// What came of giving a name up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Release {
    /// It belongs to nobody any more.
    Done,
    /// It belongs to another key.
    Owned,
    /// A run of this key holds it now, and would go on doing so.
    Held,
    /// It belongs to nobody.
    Unknown,
}

/// Why a request was not kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum RequestRefusal {
    /// It is not a name.
    Malformed,
    /// Too many requests, here or of this client.
    Full,
}

/// Why a host does not let a client in. Not authenticated: the server could have made it up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Decline {
    /// The client's key is not in `authorized_clients`, and it named no invite.
    Unauthorised,
    /// The invite that it named is not open: mistyped, used, or expired.
    Invite,
    /// The first handshake message does not open with the host's key: the client has an old key of the
    /// host, or another version.
    Handshake,
    /// Too many clients at once.
    Busy,
}
