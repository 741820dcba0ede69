//! Which servers a host or client uses, the key that is pinned for them, and what else the two have in
//! common.

use std::{collections::VecDeque, ops::RangeInclusive, path::PathBuf, time::Duration};

use punchtunnel::{
    ConfigError, Error,
    endpoint::Event,
    identity::{Pinned, ServerName, Trust},
    net::{ClientBuilder, DoctorBuilder, HostBuilder, OwnerBuilder},
    punch::Effort,
    secure::PublicKey,
    session::{LEAST_DEAD_AFTER, MOST_DEAD_AFTER},
};

use super::{
    args::ServerArgs,
    settings::{Place, Ports, Rendezvous, Span, Spend, usage},
};

/// Fewer local ports than this are worth a word: a first round binds so many.
const FEW: usize = punchtunnel::punch::FIRST_PORTS as usize;

/// The rendezvous server, with the key that it must have, and where probes go.
pub(crate) struct Servers {
    server: ServerName,
    /// The key, where it is pinned.
    key: Option<PublicKey>,
    /// File and line that pin it; `None` where the command line does.
    pin: Option<(PathBuf, usize)>,
    /// A file pins a key, this one or (where the command line has another) not.
    is_pinned: bool,
    /// Probed as well.
    further: Vec<ServerName>,
    /// Probed instead.
    probe: Vec<ServerName>,
    linger: Option<Duration>,
    dead_after: Option<Duration>,
    udp_port: Option<u16>,
    punch_ports: Option<RangeInclusive<u16>>,
    effort: Effort,
}

impl Servers {
    /// From arguments, file and pins. A key behind the `#` goes before a pin, and is pinned if there is
    /// none.
    pub(crate) fn from(typed: ServerArgs, place: &Place) -> Result<Servers, Error> {
        let mut all: VecDeque<Rendezvous> = place.many(typed.rendezvous, "rendezvous")?.into();
        let rendezvous = all.pop_front().ok_or(ConfigError::NoServer)?;
        let further = all.into_iter().map(|further| further.server).collect();
        let probe = place.many(typed.probe_server, "probe-server")?;
        let linger = place.one(typed.linger, "linger")?.map(|Span(span)| span);
        let dead_after = place.one(typed.dead_after, "dead-after")?.map(|Span(span)| span);
        if let Some(silence) = dead_after
            && !(LEAST_DEAD_AFTER..=MOST_DEAD_AFTER).contains(&silence)
        {
            return Err(usage("--dead-after (dead-after, PUNCHTUNNEL_DEAD_AFTER) is from 100ms to 24h"));
        }
        let udp_port = place.one(typed.udp_port, "udp-port")?;
        let punch_ports = place.one(typed.punch_port, "punch-port")?.map(|Ports(range)| range);
        let effort = place.one(typed.punch_effort, "punch-effort")?.map_or(Effort::Normal, |Spend(e)| e);
        let server = rendezvous.server;
        let pinned = place.trust().server(&server)?;
        let path = place.home.known_servers();
        let pin = pinned.as_ref().filter(|_| rendezvous.key.is_none()).map(|entry| (path, entry.line));
        let is_pinned = pinned.is_some();
        let key = rendezvous.key.or(pinned.map(|entry| entry.key));
        Ok(Servers {
            server,
            key,
            pin,
            is_pinned,
            further,
            probe,
            linger,
            dead_after,
            udp_port,
            punch_ports,
            effort,
        })
    }

    /// After a first contact: there may be a pin now.
    pub(crate) fn learn(&mut self, place: &Place) -> Result<(), Error> {
        let Some(entry) = place.trust().server(&self.server)? else { return Ok(()) };
        self.is_pinned = true;
        if self.key.is_none() {
            self.key = Some(entry.key);
            self.pin = Some((place.home.known_servers(), entry.line));
        }
        Ok(())
    }

    /// The rendezvous server.
    pub(crate) fn name(&self) -> &ServerName {
        &self.server
    }

    /// File and line that pin its key.
    pub(crate) fn pin(&self) -> Option<(PathBuf, usize)> {
        self.pin.clone()
    }

    /// What a person should know who gives few ports to punch from.
    pub(crate) fn caveat(&self) -> Option<String> {
        let count = self.punch_ports.as_ref().map(|range| range.len()).filter(|count| *count < FEW)?;
        let ports = super::narrate::count(count as u64, "port");
        Some(format!(
            "--punch-port gives {ports} to punch from, which is few: enough between NATs that keep ports, not for others; {FEW} or \
             more are better"
        ))
    }

    /// How much an attempt may cost.
    pub(crate) fn effort(&self) -> Effort {
        self.effort
    }

    /// Tells a builder.
    pub(crate) fn set_up<B: ServerSettings>(&self, builder: B) -> B {
        let builder = builder.rendezvous(self.server.to_string());
        let builder = match self.key {
            Some(key) => builder.server_key(key),
            None => builder,
        };
        let builder = match self.linger {
            Some(linger) => builder.linger(linger),
            None => builder,
        };
        let builder = match self.dead_after {
            Some(silence) => builder.dead_after(silence),
            None => builder,
        };
        let builder = builder.udp_port(self.udp_port.unwrap_or(0)).effort(self.effort);
        let builder = match &self.punch_ports {
            Some(range) => builder.punch_ports(range.clone()),
            None => builder,
        };
        let builder = self.further.iter().fold(builder, |b, further| b.further_server(further.to_string()));
        self.probe.iter().fold(builder, |builder, probe| builder.probe_server(probe.to_string()))
    }

    /// Pins the key that the server named, or the one that was typed and has just been proved, where
    /// none was.
    pub(crate) fn remember(&self, event: &Event, trust: &Trust) -> Result<(), Error> {
        let key = match (event, self.key) {
            (Event::ServerKey(key), _) => *key,
            (Event::ServerReached { .. }, Some(key)) if !self.is_pinned => key,
            _ => return Ok(()),
        };
        match trust.pin_server(&self.server, &key) {
            Ok(Pinned::New | Pinned::Known) => Ok(()),
            // Another program of this home pinned another key in between.
            Err(error) => Err(ConfigError::from(error).into()),
        }
    }
}

/// What hosts' and clients' builders have in common here.
pub(crate) trait ServerSettings: Sized {
    /// The rendezvous server.
    fn rendezvous(self, server: String) -> Self;
    /// Its key.
    fn server_key(self, key: PublicKey) -> Self;
    /// A server that is probed as well.
    fn further_server(self, server: String) -> Self;
    /// A server to probe.
    fn probe_server(self, server: String) -> Self;
    /// How long a session without a link lives.
    fn linger(self, linger: Duration) -> Self;
    /// Silence after which a link is dead.
    fn dead_after(self, silence: Duration) -> Self;
    /// The local UDP port, 0 for any.
    fn udp_port(self, port: u16) -> Self;
    /// The local TCP ports to punch from.
    fn punch_ports(self, range: RangeInclusive<u16>) -> Self;
    /// How much an attempt may cost.
    fn effort(self, effort: Effort) -> Self;
}

macro_rules! server_settings {
    ($builder:ty) => {
        impl ServerSettings for $builder {
            fn rendezvous(self, server: String) -> Self {
                self.rendezvous(server)
            }
            fn server_key(self, key: PublicKey) -> Self {
                self.server_key(key)
            }
            fn further_server(self, server: String) -> Self {
                self.further_server(server)
            }
            fn probe_server(self, server: String) -> Self {
                self.probe_server(server)
            }
            fn linger(self, linger: Duration) -> Self {
                self.linger(linger)
            }
            fn dead_after(self, silence: Duration) -> Self {
                self.dead_after(silence)
            }
            fn udp_port(self, port: u16) -> Self {
                self.udp_port(port)
            }
            fn punch_ports(self, range: RangeInclusive<u16>) -> Self {
                self.punch_ports(range)
            }
            fn effort(self, effort: Effort) -> Self {
                self.effort(effort)
            }
        }
    };
}

server_settings!(HostBuilder);
server_settings!(ClientBuilder);
server_settings!(DoctorBuilder);
server_settings!(OwnerBuilder);
