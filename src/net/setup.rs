//! What hosts and clients are set up with alike.

use std::{collections::BTreeSet, io, net::SocketAddr, ops::RangeInclusive, time::Duration};

use tokio::task::JoinSet;
use zeroize::Zeroizing;

use super::{clock, event::EventSource, ports::PunchPorts};
use crate::{
    endpoint::{Role, Settings},
    error::{ConfigError, Error, NetworkError},
    identity::ServerName,
    punch::{Effort, FIRST_PORTS},
    secure::{PublicKey, StaticKey},
    wire::DEFAULT_PROBE_PORT,
};

/// Names of further servers are looked up for so long: nobody waits for a name server that is slow.
const LOOK_UP_LIMIT: Duration = Duration::from_millis(300);

/// Punch ports of a first round, and four more.
const ENOUGH_TO_EXAMINE: usize = FIRST_PORTS as usize + 4;

/// How long a session without a link lives, where nothing else is said.
const LINGER: Duration = Duration::from_secs(24 * 3600);

/// A new key pair, from the system's random numbers.
pub fn generate_key() -> StaticKey {
    StaticKey::from_private(Zeroizing::new(clock::seed()))
}

/// What hosts and clients are set up with alike.
pub(super) struct Common {
    pub(super) rendezvous: Option<String>,
    pub(super) server_key: Option<PublicKey>,
    pub(super) further: Vec<String>,
    pub(super) probe_servers: Vec<String>,
    pub(super) probe_port: u16,
    pub(super) key: Option<StaticKey>,
    pub(super) udp_port: u16,
    pub(super) punch_ports: Option<RangeInclusive<u16>>,
    pub(super) effort: Effort,
    pub(super) linger: Duration,
    pub(super) dead_after: Option<Duration>,
    pub(super) events: EventSource,
}

impl Common {
    pub(super) fn new() -> Self {
        Common {
            rendezvous: None,
            server_key: None,
            further: Vec::new(),
            probe_servers: Vec::new(),
            probe_port: DEFAULT_PROBE_PORT,
            key: None,
            udp_port: 0,
            punch_ports: None,
            effort: Effort::default(),
            linger: LINGER,
            dead_after: None,
            events: EventSource::new(),
        }
    }

    /// The server as it is named, and the key behind its `#`.
    pub(super) fn server(&self) -> Result<(ServerName, Option<PublicKey>), Error> {
        let text = self.rendezvous.as_deref().ok_or(ConfigError::NoServer)?;
        let (name, key) = ServerName::parse_with_key(text).map_err(ConfigError::Usage)?;
        Ok((name, self.server_key.or(key)))
    }

    /// Looks the names up.
    pub(super) async fn settings(&self, key: StaticKey, role: Role) -> Result<Settings, Error> {
        let (_, server_key) = self.server()?;
        let (servers, probe_servers) = self.addresses().await?;
        if let Some(range) = &self.punch_ports {
            PunchPorts::check(&servers, range)
                .map_err(|(address, source)| ConfigError::Listen { address, source })?;
        }
        // Where there are few ports, probes need all of them.
        let examine = self.punch_ports.as_ref().is_none_or(|range| range.len() >= ENOUGH_TO_EXAMINE);
        let (effort, hints) = (self.effort, Vec::new());
        Ok(Settings { key, servers, server_key, probe_servers, effort, hints, examine, role })
    }

    /// Addresses of the server, one for each family, and of all that are probed.
    pub(super) async fn addresses(&self) -> Result<(Vec<SocketAddr>, Vec<SocketAddr>), Error> {
        let (server, _) = self.server()?;
        let servers = resolve(&server).await?;
        let mut probe_servers = Vec::new();
        for text in &self.probe_servers {
            let name: ServerName = text.parse().map_err(ConfigError::Usage)?;
            probe_servers.extend(resolve(&name).await?);
        }
        if probe_servers.is_empty() {
            // The server itself: two ports tell a NAT that looks at ports from one that does not.
            let both = |server: &SocketAddr| {
                [server.port(), self.probe_port].map(|port| SocketAddr::new(server.ip(), port))
            };
            probe_servers = servers.iter().chain(&self.further().await?).flat_map(both).collect();
            let mut known = BTreeSet::new();
            probe_servers.retain(|server| known.insert(*server));
        }
        Ok((servers, probe_servers))
    }

    /// Addresses of the servers that are probed only. One whose name is not found at once is left out.
    async fn further(&self) -> Result<Vec<SocketAddr>, Error> {
        let mut looking = JoinSet::new();
        for text in &self.further {
            let server: ServerName = text.parse().map_err(ConfigError::Usage)?;
            looking.spawn(async move {
                let found = tokio::time::timeout(LOOK_UP_LIMIT, resolve(&server)).await;
                if !matches!(found, Ok(Ok(_))) {
                    tracing::warn!(%server, "has no address now, and is not probed");
                }
                found.ok()?.ok()
            });
        }
        let mut found: Vec<SocketAddr> = looking.join_all().await.into_iter().flatten().flatten().collect();
        found.sort_unstable();
        Ok(found)
    }
}

/// The addresses of a server, at most one for each address family.
async fn resolve(server: &ServerName) -> Result<Vec<SocketAddr>, Error> {
    let failed = |source| NetworkError::Resolve { server: server.clone(), source };
    let found = tokio::net::lookup_host((server.host(), server.port())).await.map_err(failed)?;
    let mut addresses: Vec<SocketAddr> = Vec::new();
    for address in found {
        if addresses.iter().all(|other| other.is_ipv4() != address.is_ipv4()) {
            addresses.push(address);
        }
    }
    if addresses.is_empty() {
        return Err(failed(io::Error::new(io::ErrorKind::NotFound, "the name has no address")).into());
    }
    Ok(addresses)
}

/// The setters that hosts and clients share.
macro_rules! common_setters {
    () => {
        /// The rendezvous server, `HOST[:PORT][#KEY]`: where it is, and its key where that is known.
        pub fn rendezvous(mut self, server: impl Into<String>) -> Self {
            self.common.rendezvous = Some(server.into());
            self
        }

        /// The rendezvous server's key. Without it, the first one seen is taken
        /// ([`endpoint::Event::ServerKey`](crate::endpoint::Event::ServerKey)).
        pub fn server_key(mut self, key: $crate::secure::PublicKey) -> Self {
            self.common.server_key = Some(key);
            self
        }

        /// Another server, `HOST[:PORT]`, that is probed beside the rendezvous server; may be called again. It
        /// shows whether the NAT's ports depend on the destination's address. One that is dead costs no time.
        pub fn further_server(mut self, server: impl Into<String>) -> Self {
            self.common.further.push(server.into());
            self
        }

        /// An address, `HOST[:PORT]`, to probe the NAT with; may be called again. Without any, the
        /// rendezvous server and the [further ones](Self::further_server) are probed, on their own ports and on
        /// the [probe port](Self::probe_port).
        pub fn probe_server(mut self, server: impl Into<String>) -> Self {
            self.common.probe_servers.push(server.into());
            self
        }

        /// The servers' second probe port; 7863 without this.
        pub fn probe_port(mut self, port: u16) -> Self {
            self.common.probe_port = port;
            self
        }

        /// This installation's key. Without it, a new one is made.
        pub fn key(mut self, key: $crate::secure::StaticKey) -> Self {
            self.common.key = Some(key);
            self
        }

        /// The local UDP port; without this, any.
        pub fn udp_port(mut self, port: u16) -> Self {
            self.common.udp_port = port;
            self
        }

        /// Silence after which a link is held for dead, in the place of what follows from the round trip:
        /// max(2 s, 6 × (srtt + 4 rttvar)). Below the round trip no link lives.
        pub fn dead_after(mut self, silence: std::time::Duration) -> Self {
            self.common.dead_after = Some(silence);
            self
        }

        /// The local TCP ports to punch from, and no others, for a computer whose firewall lets only those
        /// through; without this, any. A plan that wants more of them does with what there is: two
        /// for each client at a time are the least, 32 are enough for most.
        pub fn punch_ports(mut self, range: std::ops::RangeInclusive<u16>) -> Self {
            self.common.punch_ports = Some(range);
            self
        }

        /// How much an attempt may spend; [`Effort::Normal`](crate::punch::Effort::Normal) without this.
        pub fn effort(mut self, effort: crate::punch::Effort) -> Self {
            self.common.effort = effort;
            self
        }

        /// How long a session without a link lives, time asleep included; 24 hours without this. Then its
        /// streams are reset.
        pub fn linger(mut self, linger: std::time::Duration) -> Self {
            self.common.linger = linger;
            self
        }

        /// What is going to happen, from now on.
        pub fn events(&self) -> $crate::net::Events {
            self.common.events.subscribe()
        }

        /// What is going to be asked how it stands, from now on.
        pub fn monitor(&self) -> $crate::net::Monitor {
            self.common.events.monitor()
        }
    };
}

pub(super) use common_setters;
