//! Refusals, in sentences: the server's, the host's as the server passes them on, and those of this host.

use punchtunnel::{
    ConfigError, Error, NetworkError, PeerError,
    endpoint::Hearsay,
    identity::Name,
    secure::PublicKey,
    wire::server::{Decline, NameRefusal, Release},
};

use super::{Narrator, Side, Telling};

impl Narrator {
    pub(super) fn server_changed(&self, found: PublicKey) -> Error {
        let pinned = self.server_pin.clone();
        ConfigError::ServerKeyChanged { server: self.server.clone(), found, pinned }.into()
    }

    pub(super) fn not_registered(&self, why: NameRefusal) -> Telling {
        let (name, server) = (self.name.clone(), self.server.clone());
        Telling::Fatal(match why {
            NameRefusal::Owned => ConfigError::NameOwned { name, server }.into(),
            NameRefusal::Taken => ConfigError::NameTaken { name, server }.into(),
            NameRefusal::Full => ConfigError::NameFull { name, server }.into(),
            NameRefusal::Alike => ConfigError::NameAlike { name, server }.into(),
            NameRefusal::Unstored => {
                let why = NetworkError::NameUnstored { name, server };
                return Telling::Line(format!("{why}; trying on"));
            }
            NameRefusal::Malformed => Error::Internal(format!("{server} does not take the name {name}")),
        })
    }

    pub(super) fn released(&self, outcome: Release) -> Telling {
        let Narrator { name, server, .. } = self;
        let why = match outcome {
            Release::Done => {
                return Telling::Line(format!("\"{name}\" belongs to nobody at {server} any more"));
            }
            Release::Owned => "it belongs to another key; give it up on the computer that has registered it",
            Release::Held => {
                "it is registered now; stop the \"punchtunnel expose\" that holds it, and try again"
            }
            Release::Unknown => "it belongs to nobody there",
            Release::Unstored => {
                "the server cannot write it down now (its disk may be full); try again later"
            }
        };
        Telling::Fatal(ConfigError::NotReleased { name: name.clone(), server: server.clone(), why }.into())
    }

    pub(super) fn declined(&self, why: Decline) -> Error {
        let name = self.name.clone();
        match why {
            Decline::Unauthorised => PeerError::Unauthorised { name, key: self.key }.into(),
            Decline::Invite => ConfigError::InviteRefused { name }.into(),
            Decline::Handshake => self.not_proved(),
            Decline::Busy => PeerError::Busy { name }.into(),
        }
    }

    /// A refusal that ends nothing.
    pub(super) fn hearsay(&self, what: Hearsay) -> String {
        let Narrator { name, server, .. } = self;
        let what = match what {
            Hearsay::NotKept(_) => format!("it does not take the request for \"{name}\" now"),
            Hearsay::Declined(Decline::Unauthorised | Decline::Invite) => {
                format!("\"{name}\" does not let this computer in any more")
            }
            Hearsay::Declined(Decline::Handshake) => format!("\"{name}\" has another key now"),
            Hearsay::Declined(Decline::Busy) => format!("\"{name}\" has too many clients at once"),
            Hearsay::NotProved => format!("\"{name}\" lets this computer in, but its answer proves nothing"),
        };
        format!("{server} says that {what}; it cannot prove that, so nothing is ended, and it is asked again")
    }

    /// The host does not have the key that was expected, or the invite's secret is wrong.
    pub(super) fn not_proved(&self) -> Error {
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

/// Somebody was not let in, as the host says it.
pub(super) fn refused(name: &Name, key: Option<PublicKey>, why: Decline, others: u64) -> String {
    let who = key.map_or("somebody".into(), |key| format!("client {key}"));
    let what = match why {
        Decline::Unauthorised => format!(
            "asked and was not let in: run \"punchtunnel invite {name}\" for it, or add its key to authorized_clients"
        ),
        Decline::Invite => {
            "asked with an invite that it could not prove, or that is used, expired or invented, and was \
             not let in"
                .into()
        }
        Decline::Handshake => {
            "asked for another key than this computer's, and was not let in: if it is a client of \
             yours, have it remove the line in its known_hosts and give it an invite"
                .into()
        }
        Decline::Busy => "was turned away: this computer has as many clients as it takes".into(),
    };
    let others =
        if others == 0 { String::new() } else { format!(" ({others} more since the last such line)") };
    format!("{who} {what}{others}")
}
