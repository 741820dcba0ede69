//! When a client gives up, and what it says then.

use std::{sync::Arc, time::Duration, time::Instant};

use tokio::sync::watch;

use super::{
    client::Phase,
    clock,
    event::{Event, Events},
};
use crate::{
    endpoint,
    error::{ConfigError, Error, NetworkError, PeerError},
    identity::{Name, ServerName},
    secure::PublicKey,
    wire::{
        peer::Goodbye,
        server::{Decline, RequestRefusal},
    },
};

/// What a client asked for: the words of its errors.
pub(super) struct Asked {
    pub(super) name: Name,
    pub(super) server: ServerName,
    /// The client's own.
    pub(super) key: PublicKey,
    pub(super) wait: Option<Duration>,
}

/// Why a client is over. Unlike [`Error`] it can be said more than once.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Failure {
    ServerKeyChanged { found: PublicKey },
    Version { theirs: u8 },
    ServerPrivate,
    ServerSilent { since: Duration },
    NotThere { last_seen: Option<Duration> },
    NotKept(RequestRefusal),
    Declined(Decline),
    NotProved,
    Hopeless { why: String },
    Ended(Goodbye),
    Stopped,
}

impl Failure {
    pub(super) fn into_error(self, asked: &Asked) -> Error {
        let (name, server) = (asked.name.clone(), asked.server.clone());
        match self {
            Failure::ServerKeyChanged { found } => {
                ConfigError::ServerKeyChanged { server, found, pinned: None }.into()
            }
            Failure::Version { theirs } => ConfigError::Version { server, theirs }.into(),
            Failure::ServerPrivate => ConfigError::ServerPrivate { server, key: asked.key }.into(),
            Failure::ServerSilent { since } => NetworkError::ServerSilent { server, since }.into(),
            Failure::NotThere { last_seen } => {
                let waited = asked.wait.unwrap_or_default();
                NetworkError::NotThere { name, waited, last_seen_ago: last_seen }.into()
            }
            Failure::NotKept(_) => NetworkError::NotKept { name, server }.into(),
            Failure::Declined(Decline::Unauthorised | Decline::Handshake) => {
                PeerError::Unauthorised { name, key: asked.key }.into()
            }
            Failure::Declined(Decline::Invite) => ConfigError::InviteRefused { name }.into(),
            Failure::Declined(Decline::Busy) => PeerError::Busy { name }.into(),
            Failure::NotProved => ConfigError::InviteNotProved { name }.into(),
            Failure::Hopeless { why } => NetworkError::Hopeless { name, why }.into(),
            Failure::Ended(why) => PeerError::Ended { name, why }.into(),
            Failure::Stopped => PeerError::Ended { name, why: Goodbye::Stopped }.into(),
        }
    }
}

/// The task that turns events into the client's phase.
pub(super) struct Watcher {
    events: Events,
    phases: Arc<watch::Sender<Phase>>,
    patience: Duration,
    wait: Option<Duration>,
}

/// What the watcher has seen.
struct Seen {
    /// When the server, or the host, must have answered.
    deadline: Option<(Instant, Failure)>,
    connected: bool,
}

impl Watcher {
    pub(super) fn new(
        events: Events,
        phases: Arc<watch::Sender<Phase>>,
        patience: Duration,
        wait: Option<Duration>,
    ) -> Self {
        Watcher { events, phases, patience, wait }
    }

    /// Runs until the client is over.
    pub(super) async fn run(mut self) {
        let silent = Failure::ServerSilent { since: self.patience };
        let mut seen = Seen { deadline: after(self.patience, silent), connected: false };
        let failure = loop {
            let at = seen.deadline.as_ref().map(|(at, _)| *at);
            tokio::select! {
                event = self.events.next() => match event {
                    Some(event) => if let Some(failure) = self.event(event, &mut seen) { break failure },
                    None => break Failure::Stopped,
                },
                () = clock::until(at) => if let Some((_, failure)) = seen.deadline { break failure },
            }
        };
        self.phases.send_replace(Phase::Over(failure));
    }

    fn event(&self, event: Event, seen: &mut Seen) -> Option<Failure> {
        use endpoint::Event as E;
        let event = match event {
            Event::Endpoint(event) => event,
            // The host was started anew: so is the session.
            Event::SessionEnded { peer, why: Goodbye::Unknown } => {
                self.phases.send_if_modified(|phase| {
                    let ended = phase.tunnel().is_some_and(|tunnel| tunnel.peer() == peer);
                    if ended {
                        *phase = Phase::Asking;
                    }
                    ended
                });
                return None;
            }
            Event::SessionEnded { why, .. } => return Some(Failure::Ended(why)),
            Event::SessionBegan { .. } | Event::LinkLost { .. } | Event::StreamRefused { .. } => return None,
        };
        match event {
            E::ServerReached { .. } => seen.deadline = None,
            // With a connection, it goes on for as long as that lasts: somebody on the way to the server
            // must not be able to end it.
            E::ServerKeyChanged { .. } | E::ServerVersion { .. } | E::ServerPrivate | E::NotKept(_)
                if seen.connected => {}
            E::ServerKeyChanged { found } => return Some(Failure::ServerKeyChanged { found }),
            E::ServerVersion { theirs } => return Some(Failure::Version { theirs }),
            // From then on how long a session lives without a link is what counts.
            E::Waiting { .. } if seen.connected => {}
            E::Waiting { last_seen } => {
                seen.deadline = self.wait.and_then(|wait| after(wait, Failure::NotThere { last_seen }));
            }
            E::ServerPrivate => return Some(Failure::ServerPrivate),
            E::NotKept(why) => return Some(Failure::NotKept(why)),
            E::Introduced { .. } => seen.deadline = None,
            E::Declined(why) => return Some(Failure::Declined(why)),
            E::NotProved => return Some(Failure::NotProved),
            E::Hopeless { why, .. } if !seen.connected => return Some(Failure::Hopeless { why }),
            E::Connected { .. } => {
                seen.deadline = None;
                seen.connected = true;
                self.phases.send_if_modified(|phase| match phase {
                    Phase::Introduced(tunnel) => {
                        *phase = Phase::Connected(tunnel.clone());
                        true
                    }
                    _ => false,
                });
            }
            _ => {}
        }
        None
    }
}

/// A deadline; `None` where no clock goes that far.
fn after(patience: Duration, failure: Failure) -> Option<(Instant, Failure)> {
    Some((clock::now().checked_add(patience)?, failure))
}
