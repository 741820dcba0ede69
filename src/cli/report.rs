//! What `status` tells of one running program: as JSON, whose field names are in `docs/STATUS.md` and
//! stay, and in words.

use std::{
    fmt,
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use indicatif::DecimalBytes;
use punchtunnel::{
    endpoint::Path,
    nat,
    net::{ServerStatus, SessionStatus, Status},
    secure::PublicKey,
};
use serde::{Deserialize, Serialize};

use super::narrate::{count, lasted};

/// One running program. What a later version adds is passed over when it is read.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Report {
    pub(crate) role: Role,
    /// The host's name: this side's or the other's.
    pub(crate) name: String,
    pub(crate) pid: u32,
    /// Version of the program.
    pub(crate) version: String,
    pub(crate) running_ms: u64,
    pub(crate) server: Server,
    /// One for each address family, as measured last.
    pub(crate) nat: Vec<Nat>,
    pub(crate) sessions: Vec<Session>,
}

/// Which command it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Role {
    Expose,
    Connect,
}

/// The rendezvous server.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Server {
    pub(crate) name: String,
    pub(crate) reached: bool,
    /// For how long it has been reached, or not.
    pub(crate) since_ms: u64,
    /// `udp` or `tcp`.
    pub(crate) by: Option<String>,
    pub(crate) observed: Option<SocketAddr>,
    /// `expose` only.
    pub(crate) registered: Option<bool>,
    /// `connect` only, while the host is not there.
    pub(crate) waiting_ms: Option<u64>,
}

/// An own NAT.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Nat {
    pub(crate) address: IpAddr,
    pub(crate) behaviour: String,
}

/// A session.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Session {
    pub(crate) key: String,
    /// The comment beside the client's key, or the host's name.
    pub(crate) label: Option<String>,
    pub(crate) age_ms: u64,
    pub(crate) link: Link,
    pub(crate) links: u64,
    pub(crate) repunches: u64,
    pub(crate) longest_outage_ms: u64,
    pub(crate) bytes_sent: u64,
    pub(crate) bytes_received: u64,
    pub(crate) bytes_replayed: u64,
    pub(crate) bytes_unacknowledged: u64,
    pub(crate) streams: u64,
}

/// Its link.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Link {
    pub(crate) up: bool,
    /// For how long there has been one, or none.
    pub(crate) since_ms: u64,
    pub(crate) remote: Option<SocketAddr>,
    pub(crate) lan: bool,
    pub(crate) epoch: Option<u32>,
    pub(crate) round_trip_ms: Option<f64>,
    /// Why there is none.
    pub(crate) why: Option<String>,
    pub(crate) next_try_ms: Option<u64>,
}

impl Report {
    /// From a snapshot; `label` says who a key is.
    pub(crate) fn new(
        (role, name, pid, running): (Role, String, u32, Duration),
        server: String,
        status: &Status,
        label: impl Fn(&PublicKey) -> Option<String>,
    ) -> Report {
        let nat = status
            .nats
            .iter()
            .map(|prediction| Nat { address: prediction.address, behaviour: nat::describe(prediction, &[]) });
        Report {
            role,
            name,
            pid,
            version: env!("CARGO_PKG_VERSION").into(),
            running_ms: ms(running),
            server: Server::new(role, server, &status.server),
            nat: nat.collect(),
            sessions: status.sessions.iter().map(|s| Session::new(s, label(&s.key))).collect(),
        }
    }
}

impl Server {
    fn new(role: Role, name: String, status: &ServerStatus) -> Server {
        let by = status.path.map(|path| match path {
            Path::Udp(_) => "udp".to_owned(),
            Path::Tcp(_) => "tcp".to_owned(),
        });
        Server {
            name,
            reached: status.reached,
            since_ms: ms(status.since),
            by,
            observed: status.observed,
            registered: (role == Role::Expose).then_some(status.registered),
            waiting_ms: status.waiting.map(ms),
        }
    }
}

impl Session {
    fn new(status: &SessionStatus, label: Option<String>) -> Session {
        let stats = &status.stats;
        Session {
            key: status.key.to_string(),
            label,
            age_ms: ms(status.age),
            link: Link {
                up: status.link.up,
                since_ms: ms(status.link.since),
                remote: status.link.remote,
                lan: status.link.lan,
                epoch: stats.epoch,
                // Whole microseconds: more digits would be noise.
                round_trip_ms: stats.rtt.map(|rtt| rtt.as_micros() as f64 / 1000.0),
                why: status.link.why.clone(),
                next_try_ms: status.link.next_try.map(ms),
            },
            links: stats.links,
            repunches: status.repunches,
            longest_outage_ms: ms(status.longest_outage),
            bytes_sent: stats.bytes_sent,
            bytes_received: stats.bytes_received,
            bytes_replayed: stats.bytes_replayed,
            bytes_unacknowledged: stats.unacknowledged as u64,
            streams: stats.streams as u64,
        }
    }
}

/// The command's name.
impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Role::Expose => "expose",
            Role::Connect => "connect",
        })
    }
}

/// Several lines, without a line break at the end.
impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Report { role, name, pid, running_ms, .. } = self;
        writeln!(f, "{role} {name}, process {pid}, running for {}", time(*running_ms))?;
        write!(f, "  server   {}", self.server)?;
        for Nat { address, behaviour } in &self.nat {
            write!(f, "\n  NAT      {address} {behaviour}")?;
        }
        if let (Role::Connect, Some(waiting), []) = (role, self.server.waiting_ms, &self.sessions[..]) {
            write!(f, "\n  waiting for \"{name}\" to appear, for {}", time(waiting))?;
        }
        self.sessions.iter().try_for_each(|session| write!(f, "\n{session}"))
    }
}

impl fmt::Display for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Server { name, reached, since_ms, by, observed, registered, .. } = self;
        if !reached {
            return write!(f, "{name} has not answered for {}; trying on", time(*since_ms));
        }
        write!(f, "{name} reached for {}", time(*since_ms))?;
        if let Some(by) = by {
            write!(f, " by {}", by.to_uppercase())?;
        }
        if let Some(observed) = observed {
            write!(f, ", sees {observed}")?;
        }
        match registered {
            Some(true) => write!(f, ", registered"),
            Some(false) => write!(f, ", not registered"),
            None => Ok(()),
        }
    }
}

impl fmt::Display for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let label = self.label.as_ref().map(|label| format!("{label}, ")).unwrap_or_default();
        writeln!(f, "  session  {label}key {}, for {}", self.key, time(self.age_ms))?;
        writeln!(f, "    link     {}", self.link)?;
        write!(f, "    so far   {}, {}", count(self.links, "link"), count(self.repunches, "re-punch"))?;
        if self.longest_outage_ms > 0 {
            write!(f, ", longest outage {}", time(self.longest_outage_ms))?;
        }
        writeln!(f, "\n    streams  {} open", self.streams)?;
        let [sent, received, replayed] =
            [self.bytes_sent, self.bytes_received, self.bytes_replayed].map(DecimalBytes);
        write!(f, "    bytes    {sent} sent, {received} received, {replayed} replayed")?;
        match self.bytes_unacknowledged {
            0 => Ok(()),
            waiting => write!(f, ", {} not acknowledged", DecimalBytes(waiting)),
        }
    }
}

impl fmt::Display for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let since = time(self.since_ms);
        if self.up {
            write!(f, "up for {since}")?;
            if let Some(remote) = self.remote {
                write!(f, " to {remote}{}", if self.lan { " inside the LAN" } else { "" })?;
            }
            if let Some(rtt) = self.round_trip_ms {
                write!(f, ", round trip {rtt:.1} ms")?;
            }
            return self.epoch.map_or(Ok(()), |epoch| write!(f, ", epoch {epoch}"));
        }
        write!(f, "none for {since}")?;
        if let Some(why) = &self.why {
            write!(f, ": {why}")?;
        }
        match self.next_try_ms {
            Some(next) => write!(f, "; next try in {}", time(next)),
            None => write!(f, "; punching"),
        }
    }
}

fn ms(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

fn time(ms: u64) -> String {
    lasted(Duration::from_millis(ms))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn session() -> Session {
        Session {
            key: "key".into(),
            label: Some("laptop".into()),
            age_ms: 7_200_000,
            link: Link {
                up: true,
                since_ms: 65_000,
                remote: Some("198.51.100.7:40000".parse().unwrap()),
                lan: false,
                epoch: Some(3),
                round_trip_ms: Some(23.4567),
                why: None,
                next_try_ms: None,
            },
            links: 3,
            repunches: 2,
            longest_outage_ms: 1400,
            bytes_sent: 1_250_000,
            bytes_received: 999,
            bytes_replayed: 0,
            bytes_unacknowledged: 0,
            streams: 1,
        }
    }

    #[test]
    fn a_session_is_told_in_words() {
        let expected = "  session  laptop, key key, for 2h\n\
             \x20   link     up for 1m 5s to 198.51.100.7:40000, round trip 23.5 ms, epoch 3\n\
             \x20   so far   3 links, 2 re-punches, longest outage 1.4 s\n\
             \x20   streams  1 open\n\
             \x20   bytes    1.25 MB sent, 999 B received, 0 B replayed";
        assert_eq!(session().to_string(), expected);
        let link = Link {
            up: false,
            why: Some("silent for 2.3 s".into()),
            next_try_ms: Some(5000),
            ..session().link
        };
        assert_eq!(link.to_string(), "none for 1m 5s: silent for 2.3 s; next try in 5.0 s");
        let link = Link { next_try_ms: None, ..link };
        assert_eq!(link.to_string(), "none for 1m 5s: silent for 2.3 s; punching");
    }

    #[test]
    fn fields_of_a_later_version_are_passed_over() {
        let mut value = serde_json::to_value(session()).unwrap();
        value["invented"] = true.into();
        assert_eq!(serde_json::from_value::<Session>(value).unwrap(), session());
    }
}
