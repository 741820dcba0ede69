//! The rendezvous: the server's state machine and the client's.
//!
//! | module | idea |
//! | --- | --- |
//! | `server` | datagrams in and out: cookies, handshakes, rates |
//! | `exchange` | the server behind the seal: messages, addresses that change |
//! | `associations`, `silence` | who is there, over which address families; who is not heard any more |
//! | `directory` | names, waiting requests, introductions |
//! | `relations` | a client and a host, each with a number for the other |
//! | `names`, `alike` | which name belongs to which key; which names are taken for one another |
//! | `cookie`, `spent`, `rates`, `limits` | what keeps strangers cheap and every table bounded |
//! | `probes` | the server's side of probes |
//! | `favours` | how often a stranger's NAT is examined |
//! | `client`, `attempt` | one association with the server, from the client's side |
//!
//! No sockets, no clock, no random source: `net/` drives a [`Server`], an
//! [`Endpoint`](crate::endpoint) drives one [`Client`] for each address family.

mod alike;
mod associations;
mod attempt;
mod client;
mod cookie;
mod directory;
mod event;
mod exchange;
mod favours;
#[cfg(test)]
mod hostile;
mod limits;
#[cfg(test)]
mod model;
mod names;
mod probes;
mod rates;
mod relations;
mod server;
mod silence;
mod spent;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod weight;
#[cfg(test)]
mod world;

use std::net::SocketAddr;

pub use client::{Client, MAX_QUEUE, REKEY_AFTER, REKEY_TCP_AFTER, SILENT_AFTER, SILENT_MOST, TCP_AFTER};
pub use event::ClientEvent;
pub use favours::Favours;
pub use limits::{ASSOCIATION_TIMEOUT, KEEP_ALIVE, Limits};
pub use names::{Store, is_name};
pub use probes::{BATCH_LIFE, Batches, MAX_BATCHES, MAX_BATCHES_PER_SOURCE};
pub(crate) use rates::{Prefix, Shares};
pub use server::{Server, Stats};

/// Where a datagram came from, and where the answer goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Source {
    /// The other end. Of a TCP connection too: that is how the driver finds the connection again.
    pub addr: SocketAddr,
    /// It is a UDP datagram; otherwise it came behind its length over TCP.
    pub udp: bool,
    /// To which of the driver's addresses it came: the answer leaves from there.
    pub via: u16,
}

impl Source {
    /// The address as everybody else writes it: IPv4 where a dual-stack socket says `::ffff:a.b.c.d`.
    pub(crate) fn observed(self) -> SocketAddr {
        SocketAddr::new(self.addr.ip().to_canonical(), self.addr.port())
    }
}
