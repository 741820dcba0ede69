//! What happens, in sentences: every [`Event`] becomes a line, a live line or the error that ends the
//! run.

use std::{collections::BTreeMap, net::SocketAddr, path::PathBuf, time::Duration};

use punchtunnel::{
    ConfigError, Error, NetworkError, PeerError,
    endpoint::{Event, Path, PeerId},
    error::{last_seen, seconds},
    identity::{Entry, Name, ServerName},
    nat::{self, Prediction},
    net::{self, Monitor},
    secure::PublicKey,
    wire::{
        peer::Goodbye,
        server::{NameRefusal, RequestRefusal},
        stream::ResetReason,
    },
};

use super::labels::Labels;

mod refusals;
mod trace;

/// Letters of a key in front of what happens to its session, where it has no name: enough to tell
/// clients apart. The whole key is in the line that begins the session.
const SHOWN: usize = 8;

/// Whom the events of a run are about.
#[derive(Debug)]
pub(crate) struct Narrator {
    /// The host's name: this side's (`expose`) or the other's (`connect`).
    pub(crate) name: Name,
    /// The rendezvous server.
    pub(crate) server: ServerName,
    /// This installation's key.
    pub(crate) key: PublicKey,
    /// What this side is.
    pub(crate) side: Side,
    /// What pins the server's key: its line in `known_servers`.
    pub(crate) server_pin: Option<(PathBuf, usize)>,
    /// Who the other peers are.
    pub(crate) labels: Labels,
    /// What was told of sessions that go on.
    pub(crate) sessions: Sessions,
}

/// Sessions that were told of; one goes when it ends.
#[derive(Debug, Default)]
pub(crate) struct Sessions(BTreeMap<PeerId, Told>);

/// A session that was told of.
#[derive(Debug)]
struct Told {
    /// The other peer, in short.
    who: String,
    /// The other end of its link.
    remote: Option<SocketAddr>,
}

/// A session that has a link again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Back {
    /// For how long it had none.
    pub(crate) after: Duration,
    /// Connections that it carries.
    pub(crate) kept: usize,
}

impl Back {
    /// What the status adds to a connection that is there again; `None` for the first one, and for one
    /// that took the place of another.
    pub(crate) fn with(event: &Event, monitor: &Monitor) -> Option<Back> {
        let Event::Connected { peer, links: 2.., .. } = event else { return None };
        let status = monitor.status();
        let session = status.session(*peer)?;
        Some(Back { after: session.last_outage?, kept: session.stats.streams })
    }
}

/// What this side is.
#[derive(Debug)]
pub(crate) enum Side {
    /// `expose`: goes on whatever the network does.
    Host,
    /// `connect`.
    Client {
        /// The host's line in `known_hosts`, and where that file is.
        known: Option<(Entry, PathBuf)>,
        /// The key that `--host-key` names.
        named: Option<PublicKey>,
    },
}

/// What to do about an event.
#[derive(Debug)]
pub(crate) enum Telling {
    /// A step is done.
    Line(String),
    /// This goes on now.
    Live(String),
    /// For those who want to know more.
    Details(Vec<String>),
    /// The run is over.
    Fatal(Error),
}

impl Narrator {
    /// The sentence for an event; `back` where it is a connection that is there again.
    pub(crate) fn tell(&mut self, event: &Event, back: Option<Back>) -> Telling {
        if let Event::Connected { peer, remote, .. } = event
            && let Some(told) = self.sessions.0.get_mut(peer)
        {
            told.remote = Some(*remote);
        }
        let Narrator { name, server, .. } = self;
        match event {
            Event::ServerKey(key) => Telling::Line(format!("the key of {server} is {key}: it is pinned now")),
            Event::ServerKeyChanged { found } => Telling::Fatal(self.server_changed(*found)),
            Event::ServerReached { path, observed, took } => {
                let by = match path {
                    Path::Udp(_) => "UDP",
                    Path::Tcp(_) => "TCP, because UDP gets no answer",
                };
                Telling::Line(format!("reached {server} by {by}, which sees {observed}, {}", millis(*took)))
            }
            // How long a client has patience is up to the client.
            Event::ServerSilent { since } => {
                Telling::Live(format!("{server} does not answer (for {} now); trying on", seconds(*since)))
            }
            Event::ServerVersion { theirs } => {
                Telling::Fatal(ConfigError::Version { server: server.clone(), theirs: *theirs }.into())
            }
            Event::ServerPrivate => {
                Telling::Fatal(ConfigError::ServerPrivate { server: server.clone(), key: self.key }.into())
            }
            Event::Released(outcome) => self.released(*outcome),
            Event::Registered => Telling::Line(format!("registered as \"{name}\" at {server}")),
            Event::NotRegistered(why) => self.not_registered(*why),
            Event::Waiting { last_seen: ago } => {
                Telling::Live(format!("waiting for \"{name}\": {}", last_seen(*ago)))
            }
            Event::NotKept(why) => Telling::Fatal(match why {
                RequestRefusal::Malformed => {
                    Error::Internal(format!("the server does not take the name {name}"))
                }
                RequestRefusal::Full => {
                    NetworkError::NotKept { name: name.clone(), server: server.clone() }.into()
                }
            }),
            Event::Introduced { addresses } => {
                let addresses: Vec<_> = addresses.iter().map(ToString::to_string).collect();
                Telling::Live(match addresses.as_slice() {
                    [] => format!("\"{name}\" lets us in"),
                    addresses => format!("\"{name}\" lets us in; it is at {}", addresses.join(" and ")),
                })
            }
            Event::Declined(why) => Telling::Fatal(self.declined(*why)),
            Event::Hearsay(what) => Telling::Line(self.hearsay(*what)),
            Event::Refused { key, why, others } => {
                Telling::Line(refusals::refused(name, *key, *why, *others))
            }
            Event::NotProved => Telling::Fatal(self.not_proved()),
            Event::HoleOpen { remote, rtt, .. } => {
                Telling::Live(format!("UDP path to {remote} is open, {} there and back", millis(*rtt)))
            }
            Event::NatFound { predictions, took, .. } => {
                let nats: Vec<_> = predictions.iter().map(describe).collect();
                Telling::Line(match nats.as_slice() {
                    [] => {
                        format!("no probe was answered, so this side's NAT is not known, {}", millis(*took))
                    }
                    nats => format!("NAT found: {}, {}", nats.join("; "), millis(*took)),
                })
            }
            Event::PeerNatFound { predictions, .. } => {
                let nats: Vec<_> = predictions.iter().map(describe).collect();
                Telling::Live(match nats.as_slice() {
                    [] => "the other side's NAT is not known: its probes were not answered".into(),
                    nats => format!("the other side's NAT: {}", nats.join("; ")),
                })
            }
            Event::Opening { id, lead, openings, .. } => {
                let again = if id.round == 0 { String::new() } else { format!(" (round {})", id.round + 1) };
                let connections = if *openings == 1 { "connection" } else { "connections" };
                Telling::Live(format!("opening {openings} {connections} in {}{again}", millis(*lead)))
            }
            Event::Connected { remote, lan, took, rtt, links, .. } => {
                let way = if *lan { "inside the LAN" } else { "directly" };
                let rtt = rtt.map(|rtt| format!(" (round trip {})", millis(rtt))).unwrap_or_default();
                let again = if *links > 1 { " again" } else { "" };
                Telling::Line(match back {
                    Some(Back { after, kept }) => {
                        let kept = match kept {
                            0 => String::new(),
                            kept => format!(", {} kept", count(kept as u64, "connection")),
                        };
                        format!("back after {}{kept}: {way} to {remote}{rtt}", lasted(after))
                    }
                    None => format!("connected{again} {way} to {remote}, {}{rtt}", millis(*took)),
                })
            }
            Event::Tried { id, tried, .. } => Telling::Details(trace::lines(*id, tried)),
            Event::RoundFailed { why, next, .. } => Telling::Line(match next.is_zero() {
                // When there is a next try is up to the client.
                _ if matches!(self.side, Side::Host) => format!("no connection this time: {why}"),
                true => format!("no connection this time: {why}; trying again"),
                false => format!("no connection this time: {why}; next try in {}", lasted(*next)),
            }),
            // Whether a client goes on is up to the client: after a connection it waits for a better network.
            Event::Hopeless { why, .. } => Telling::Line(match self.side {
                Side::Host => format!("a direct connection to this client is not possible: {why}"),
                Side::Client { .. } => {
                    format!("a direct connection to \"{name}\" is not possible here: {why}")
                }
            }),
        }
    }

    /// The event is fatal at the beginning only: once there is a connection, or a registration, it is better
    /// to go on without the server than to end what works. (Anybody on the way can name a wrong key.)
    pub(crate) fn is_about_server(event: &Event) -> bool {
        matches!(
            event,
            Event::ServerKeyChanged { .. }
                | Event::ServerVersion { .. }
                | Event::ServerPrivate
                | Event::NotKept(_)
                | Event::NotRegistered(
                    NameRefusal::Owned | NameRefusal::Alike | NameRefusal::Full | NameRefusal::Malformed
                )
        )
    }

    /// What goes in front of what happens to one of several clients; empty for a client, which has one
    /// host.
    pub(crate) fn whose(&self, event: &net::Event) -> String {
        let told = Self::session_of(event).filter(|_| self.is_host());
        let told = told.and_then(|peer| self.sessions.0.get(&peer));
        told.map(|told| format!("client {}: ", told.who)).unwrap_or_default()
    }

    /// The session that an event is about, where it has begun.
    fn session_of(event: &net::Event) -> Option<PeerId> {
        match event {
            net::Event::Endpoint(
                Event::HoleOpen { peer, .. }
                | Event::NatFound { peer, .. }
                | Event::Opening { peer, .. }
                | Event::Connected { peer, .. }
                | Event::Tried { peer, .. }
                | Event::RoundFailed { peer, .. }
                | Event::Hopeless { peer, .. },
            )
            | net::Event::LinkLost { peer, .. }
            | net::Event::SessionEnded { peer, .. } => Some(*peer),
            _ => None,
        }
    }

    /// The sentence for what happens to a session; `None` where there is nothing to say.
    pub(crate) fn tell_session(&mut self, event: &net::Event) -> Option<String> {
        let is_host = self.is_host();
        match event {
            net::Event::SessionBegan { peer, key, invite } => {
                let known = (self.labels.read())(key).map(|label| format!(" ({label})")).unwrap_or_default();
                let who = self.short(key);
                self.sessions.0.insert(*peer, Told { who, remote: None });
                match (is_host, invite) {
                    (true, Some(_)) => {
                        Some(format!("client {key} proved an invite: it is let in from now on"))
                    }
                    (true, None) => Some(format!("client {key}{known} is let in")),
                    (false, Some(_)) => {
                        Some(format!("\"{}\" proved the invite: its key is known from now on", self.name))
                    }
                    (false, None) => None,
                }
            }
            net::Event::StreamRefused { service, reason: ResetReason::NotAllowed, client: Some(key) } => {
                let who = self.short(key);
                let service = service.as_deref().unwrap_or_default();
                Some(format!(
                    "client {who}: service {service}: not granted to it, so its connection is reset"
                ))
            }
            net::Event::StreamRefused { service, reason, .. } => {
                let service = service.as_ref().map(|s| format!("service {s}: ")).unwrap_or_default();
                Some(if is_host {
                    format!("{service}{reason}; is it running?")
                } else {
                    let (name, reason) = (self.name.clone(), *reason);
                    format!("{service}{}", PeerError::Reset { name, reason })
                })
            }
            net::Event::LinkLost { peer, why } => {
                let remote = self.sessions.0.get(peer).and_then(|told| told.remote);
                let from = remote.filter(|_| why == "reset");
                let from = from.map(|remote| format!(" by {remote}")).unwrap_or_default();
                Some(format!("link lost: {why}{from}; punching again"))
            }
            net::Event::SessionEnded { peer, why } => {
                self.sessions.0.remove(peer);
                match why {
                    _ if is_host => Some(format!("session ended: {}", ended(*why))),
                    Goodbye::Unknown => Some(format!(
                        "\"{}\" was started anew: connections are reset, connecting again",
                        self.name
                    )),
                    // It is what the run ends with.
                    _ => None,
                }
            }
            _ => None,
        }
    }

    /// A client by its name, or by the first letters of its key.
    fn short(&self, key: &PublicKey) -> String {
        let name = (self.labels.read())(key);
        name.unwrap_or_else(|| key.to_string().get(..SHOWN).unwrap_or_default().to_owned())
    }

    fn is_host(&self) -> bool {
        matches!(self.side, Side::Host)
    }
}

/// A NAT in a few words; its ports are not ours to tell here.
fn describe(prediction: &Prediction) -> String {
    format!("{} {}", prediction.address, nat::describe(prediction, &[]))
}

/// Why a client's session ended, as its host says it.
fn ended(why: Goodbye) -> &'static str {
    match why {
        Goodbye::Stopped => "it was stopped there",
        Goodbye::Unauthorised => "its key is not in authorized_clients any more",
        Goodbye::Unknown => "it was started anew",
        Goodbye::Expired => "there was no connection for longer than --linger",
        Goodbye::Broken => {
            "it said what the protocol does not allow; update both programs, and remove its key from \
             authorized_clients if it happens again"
        }
    }
}

/// Three connections, one connection.
pub(crate) fn count(number: u64, what: &str) -> String {
    let ending = match (number, what.ends_with("ch")) {
        (1, _) => "",
        (_, true) => "es",
        (_, false) => "s",
    };
    format!("{number} {what}{ending}")
}

/// How long something lasted: tenths of a second below a minute, because that is what outages differ by.
pub(crate) fn lasted(duration: Duration) -> String {
    match duration.as_millis() {
        ms @ 0..100 => format!("{ms} ms"),
        0..60_000 => format!("{:.1} s", duration.as_secs_f64()),
        _ => seconds(duration).to_string(),
    }
}

fn millis(duration: Duration) -> String {
    match duration.as_micros() {
        0..1000 => "under 1 ms".into(),
        1000..10_000_000 => format!("{} ms", duration.as_millis()),
        _ => seconds(duration).to_string(),
    }
}

#[cfg(test)]
mod tests;
