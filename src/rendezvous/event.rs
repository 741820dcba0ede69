//! What a client's association has to tell.

use std::{net::SocketAddr, time::Duration};

use crate::{endpoint::Path, secure::PublicKey, wire::server::FromServer};

/// What the user of a [`Client`](super::Client) is told.
#[derive(Debug, Clone, PartialEq)]
pub enum ClientEvent {
    /// From the server. Across associations the same may come twice.
    Message(FromServer),
    /// There is an association (the first, or the first after [`ClientEvent::Lost`]).
    Reached {
        /// This side's address as the server sees it.
        observed: SocketAddr,
        /// `observed` is a UDP mapping.
        udp: bool,
        /// How the server is reached.
        path: Path,
        /// From the first HELLO to now.
        took: Duration,
        /// The server's key, which it has proved to hold.
        server_key: PublicKey,
        /// No key was pinned: this one is from now on.
        first_contact: bool,
    },
    /// The server sees another address of this side than before, or over another transport.
    Moved {
        /// The address.
        observed: SocketAddr,
        /// `observed` is a UDP mapping.
        udp: bool,
    },
    /// The server (or somebody in its place) named another key than the pinned one. It is not answered;
    /// the right one still would be.
    KeyChanged {
        /// The key that it named.
        found: PublicKey,
    },
    /// The server (or somebody in its place) speaks another version.
    Version {
        /// Its version.
        theirs: u8,
    },
    /// The server serves other keys only. It is asked on, at long intervals.
    Private,
    /// There was no answer for so long; it is tried on.
    Silent {
        /// For how long.
        since: Duration,
    },
    /// Another association took the place of one that was not lost. The server may have forgotten, or
    /// restarted, since it was last heard on the old one: repeat the requests that it is to remember.
    Renewed,
    /// The association is lost; another one is being made. Repeat all requests.
    Lost,
}
