//! What a program that runs a host or a client is told.

use std::sync::Arc;

use tokio::sync::broadcast;

use super::{
    status::{Ledger, Monitor},
    tunnel::Tunnel,
};
use crate::{
    endpoint::{self, PeerId},
    secure::PublicKey,
    wire::{peer::Goodbye, stream::ResetReason},
};

/// Events that a slow listener may fall behind before it misses some.
const BACKLOG: usize = 1024;

/// Something that a person may want to know.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum Event {
    /// About the server, the NATs and the connections.
    Endpoint(endpoint::Event),
    /// A session begins.
    SessionBegan {
        /// Its number within this program.
        peer: PeerId,
        /// The other peer's key, proved.
        key: PublicKey,
        /// Public part of the invite that proved it, if one did.
        invite: Option<u64>,
    },
    /// The link of a session is gone; its streams wait for the next one.
    LinkLost {
        /// The session.
        peer: PeerId,
        /// Why, in words.
        why: String,
    },
    /// A stream did not come to be, or had to end: the service was not reached or may not be used by that client
    /// (on both sides), or the host does not have it or has too many streams (on the client's side).
    StreamRefused {
        /// On the client's side as it asked for it, `None` for the first one; on the host's side the
        /// service itself.
        service: Option<String>,
        /// Why.
        reason: ResetReason,
        /// On the host's side whose stream it is.
        client: Option<PublicKey>,
    },
    /// A session is over.
    SessionEnded {
        /// The session.
        peer: PeerId,
        /// Why.
        why: Goodbye,
    },
}

/// Receives [`Event`]s from the moment on at which it was made.
pub struct Events(broadcast::Receiver<Event>);

impl Events {
    /// The next event; `None` once the host or client has ended. Whoever reads too slowly misses the
    /// oldest ones.
    pub async fn next(&mut self) -> Option<Event> {
        loop {
            match self.0.recv().await {
                Ok(event) => return Some(event),
                Err(broadcast::error::RecvError::Lagged(missed)) => {
                    tracing::debug!(missed, "events were missed");
                }
                Err(broadcast::error::RecvError::Closed) => return None,
            }
        }
    }
}

/// Where events come from, and what they add up to.
#[derive(Clone)]
pub(crate) struct EventSource {
    listeners: broadcast::Sender<Event>,
    ledger: Arc<Ledger>,
}

impl EventSource {
    pub(crate) fn new() -> Self {
        EventSource { listeners: broadcast::Sender::new(BACKLOG), ledger: Arc::new(Ledger::new()) }
    }

    /// Tells everybody who listens.
    pub(crate) fn tell(&self, event: Event) {
        // A thousand SYNs are for people, who have a better way to read them.
        if !matches!(event, Event::Endpoint(endpoint::Event::Tried { .. })) {
            tracing::debug!(?event);
        }
        self.ledger.note(&event);
        self.listeners.send(event).ok();
    }

    /// A session begins; its event follows.
    pub(super) fn began(&self, peer: PeerId, tunnel: &Arc<Tunnel>) {
        self.ledger.began(peer, tunnel);
    }

    pub(crate) fn subscribe(&self) -> Events {
        Events(self.listeners.subscribe())
    }

    pub(super) fn monitor(&self) -> Monitor {
        Monitor::new(self.ledger.clone())
    }
}
