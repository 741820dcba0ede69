//! What an [`Endpoint`](super::Endpoint) is set up with.

use std::net::SocketAddr;

use crate::{
    identity::Network,
    punch::Effort,
    secure::{Psk, PublicKey, StaticKey},
};

/// What an endpoint is set up with.
pub struct Settings {
    /// This installation's key.
    pub key: StaticKey,
    /// Addresses of the rendezvous server, at most one for each address family.
    pub servers: Vec<SocketAddr>,
    /// The server's key, where it is pinned; otherwise the first one seen is taken
    /// ([`Event::ServerKey`](super::Event::ServerKey)).
    pub server_key: Option<PublicKey>,
    /// Addresses that probes go to; those of an address family without a local socket are skipped.
    pub probe_servers: Vec<SocketAddr>,
    /// What this endpoint is.
    pub role: Role,
    /// How much an attempt to connect may spend.
    pub effort: Effort,
    /// What worked before between this side's networks and the host (a client's); tried first.
    pub hints: Vec<Hint>,
    /// Whether the server is asked what the NAT does with SYNs from outside ([`Output::Favour`](super::Output::Favour)). It takes
    /// four punch ports more, for some seconds.
    pub examine: bool,
}

/// From a network of this side's, rounds of a kind have worked ([`Event::Opening`](super::Event::Opening) names it).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Hint {
    /// This side's public network.
    pub network: Network,
    /// The kind.
    pub variant: u8,
}

/// What an endpoint is.
pub enum Role {
    /// `expose`: registered under a name, takes clients in.
    Host {
        /// The name.
        name: String,
    },
    /// `release`: gives a name up, and does nothing else.
    Owner {
        /// The name.
        name: String,
    },
    /// `connect`: asks for one host.
    Client {
        /// The host's name.
        name: String,
        /// The host's key; `None` only with an invite.
        host_key: Option<PublicKey>,
        /// Public part and secret of an invite.
        invite: Option<(u64, Psk)>,
    },
}
