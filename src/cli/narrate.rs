//! What happens, in sentences: every [`Event`] becomes a line, a live line or the error that ends the
//! run.

use std::{path::PathBuf, time::Duration};

use punchtunnel::{
    ConfigError, Error, NetworkError, PeerError,
    endpoint::{Event, Path},
    error::{goodbye, last_seen, seconds},
    identity::{Entry, Name, ServerName},
    nat::{self, Prediction},
    net,
    secure::PublicKey,
    wire::server::{Decline, NameRefusal, RequestRefusal},
};

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
    /// The run is over.
    Fatal(Error),
}

impl Narrator {
    /// The sentence for an event.
    pub(crate) fn tell(&self, event: &Event) -> Telling {
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
                let again = if *links > 1 { " again" } else { "" };
                let way = if *lan { "inside the LAN" } else { "directly" };
                let rtt = rtt.map(|rtt| format!(" (round trip {})", millis(rtt))).unwrap_or_default();
                Telling::Line(format!("connected{again} {way} to {remote}, {}{rtt}", millis(*took)))
            }
            Event::RoundFailed { why, next, .. } => {
                Telling::Line(format!("no connection this time: {why}; next try in {}", millis(*next)))
            }
            // Whether a client goes on is up to the client: after a connection it waits for a better network.
            Event::Hopeless { why, .. } => Telling::Line(match self.side {
                Side::Host => format!("this client cannot be connected directly: {why}"),
                Side::Client { .. } => format!("no direct connection to \"{name}\" can be made here: {why}"),
            }),
        }
    }

    /// The event is fatal at the beginning only: once there is a connection, or a registration, it is better
    /// to go on without the server than to end what works. (Anybody on the way can name a wrong key.)
    pub(crate) fn is_about_server(event: &Event) -> bool {
        matches!(event, Event::ServerKeyChanged { .. } | Event::ServerVersion { .. } | Event::NotKept(_))
    }

    /// The sentence for what happens to a session; `None` where there is nothing to say.
    pub(crate) fn tell_session(&self, event: &net::Event) -> Option<String> {
        let is_host = matches!(self.side, Side::Host);
        match event {
            net::Event::SessionBegan { key, invite: Some(_), .. } if is_host => {
                Some(format!("client {key} proved an invite: it is let in from now on"))
            }
            net::Event::SessionBegan { key, .. } if is_host => Some(format!("client {key} is let in")),
            net::Event::SessionBegan { invite: Some(_), .. } => {
                Some(format!("\"{}\" proved the invite: its key is known from now on", self.name))
            }
            net::Event::StreamRefused { service, reason } => {
                let service = service.as_ref().map(|s| format!("service {s}: ")).unwrap_or_default();
                Some(if is_host {
                    format!("{service}{reason}; is it running?")
                } else {
                    let (name, reason) = (self.name.clone(), *reason);
                    format!("{service}{}", PeerError::Reset { name, reason })
                })
            }
            net::Event::LinkLost { why, .. } => Some(format!("link lost ({why}); punching again")),
            // On the client's side it is what the run ends with.
            net::Event::SessionEnded { why, .. } if is_host => {
                Some(format!("a client's session ended: {}", goodbye(*why)))
            }
            _ => None,
        }
    }

    fn server_changed(&self, found: PublicKey) -> Error {
        let pinned = self.server_pin.clone();
        ConfigError::ServerKeyChanged { server: self.server.clone(), found, pinned }.into()
    }

    fn not_registered(&self, why: NameRefusal) -> Telling {
        let (name, server) = (self.name.clone(), self.server.clone());
        Telling::Fatal(match why {
            NameRefusal::Owned => ConfigError::NameOwned { name, server }.into(),
            NameRefusal::Taken => ConfigError::NameTaken { name, server }.into(),
            NameRefusal::Full => ConfigError::NameFull { name, server }.into(),
            NameRefusal::Malformed => Error::Internal(format!("{server} does not take the name {name}")),
        })
    }

    fn declined(&self, why: Decline) -> Error {
        let name = self.name.clone();
        match why {
            Decline::Unauthorised => PeerError::Unauthorised { name, key: self.key }.into(),
            Decline::Invite => ConfigError::InviteRefused { name }.into(),
            Decline::Handshake => self.not_proved(),
            Decline::Busy => PeerError::Busy { name }.into(),
        }
    }

    /// The host does not have the key that was expected, or the invite's secret is wrong.
    fn not_proved(&self) -> Error {
        let name = self.name.clone();
        match &self.side {
            Side::Client { named: Some(named), .. } => {
                ConfigError::HostKeyWrong { name, named: *named }.into()
            }
            Side::Client { known: Some((entry, path)), .. } => ConfigError::HostKeyChanged {
                name,
                found: None,
                pinned: entry.key,
                path: path.clone().into(),
                line: entry.line,
            }
            .into(),
            _ => ConfigError::InviteNotProved { name }.into(),
        }
    }
}

/// A NAT in a few words; its ports are not ours to tell here.
fn describe(prediction: &Prediction) -> String {
    format!("{} {}", prediction.address, nat::describe(prediction, &[]))
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
