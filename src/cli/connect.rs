//! `punchtunnel connect`: services of a host, on local ports or on standard input and output.

use std::{
    io::{BufRead, IsTerminal},
    time::Duration,
};

use punchtunnel::{
    ConfigError, Error, NetworkError, PeerError,
    endpoint,
    forward::LocalRule,
    identity::{Code, Entry, Name, Trust},
    net::{Client, Event, Events, LocalPort, carry_pipes},
    secure::{PublicKey, StaticKey},
    wire::{peer::Goodbye, server::Decline, stream::ResetReason},
};
use tokio::time::Instant;

use super::{
    args::{ConnectArgs, Secret},
    door::HostBook,
    narrate::{Narrator, Side, Telling},
    output::Output,
    servers::Servers,
    settings::{Place, Span, usage},
    stop,
};

/// How long `connect` waits for a host that is not there, unless told otherwise: a computer that
/// starts up is there by then, and a person has noticed a wrong name.
const WAIT: Duration = Duration::from_secs(300);

/// What `connect` runs with.
struct Settings {
    name: Name,
    rules: Vec<LocalRule>,
    /// The service to join with standard input and output; empty for the first one.
    stdio: Option<String>,
    servers: Servers,
    trust: Trust,
    key: StaticKey,
    /// The key that the host must have; `None` only with an invite.
    host_key: Option<PublicKey>,
    /// The line that pins it.
    known: Option<Entry>,
    invite: Option<Code>,
    wait: Duration,
}

/// How a run with one client ended.
enum Ended {
    /// As it was wanted.
    Done,
    /// The invite is not open, but the host is known: it may do without.
    WithoutInvite,
    /// The host was started anew, or stopped: it may come again.
    HostStopped,
}

/// Runs until it is told to stop, until standard input and output have ended, or until it fails.
pub(crate) async fn run(args: ConnectArgs, place: &Place, output: &Output) -> Result<(), Error> {
    let mut settings = Settings::from(args, place)?;
    // Before anything else: a port that is taken is an error at once.
    let mut ports = Vec::new();
    for rule in &settings.rules {
        ports.push(LocalPort::bind(rule).await?);
    }
    loop {
        let ended = tokio::select! {
            ended = once(&settings, &ports, output) => ended?,
            () = stop::requested() => Ended::Done,
        };
        match ended {
            Ended::Done => return Ok(()),
            Ended::WithoutInvite => {
                output.line("the invite is used or has expired; the host is known, so going on without it");
                settings.invite = None;
            }
            Ended::HostStopped => settings.learn(place)?,
        }
    }
}

impl Settings {
    fn from(args: ConnectArgs, place: &Place) -> Result<Settings, Error> {
        let name = args.name;
        let rules = place.many(args.forward, "forward")?;
        if rules.is_empty() && args.stdio.is_none() {
            return Err(usage(
                "where to? Use -L PORT to reach the service on a local port, or --stdio to join it with standard \
                 input and output",
            ));
        }
        let servers = Servers::from(args.servers, place)?;
        let wait = place.one(args.wait, "wait")?.map_or(WAIT, |Span(span)| span);
        let named_key = place.one(args.host_key, "host-key")?;
        let invite = args.invite.map(read_code).transpose()?;
        let trust = place.trust();
        let known = trust.host(&name, servers.name())?;
        if let (Some(found), Some(entry)) = (named_key, &known)
            && found != entry.key
        {
            let (pinned, line) = (entry.key, entry.line);
            let path = place.home.known_hosts();
            return Err(
                ConfigError::HostKeyChanged { name, found: Some(found), pinned, path, line }.into()
            );
        }
        let host_key = named_key.or(known.as_ref().map(|entry| entry.key));
        if host_key.is_none() && invite.is_none() {
            return Err(ConfigError::NotTrusted { name }.into());
        }
        let key = place.key()?;
        let stdio = args.stdio;
        Ok(Settings { name, rules, stdio, servers, trust, key, host_key, known, invite, wait })
    }

    /// After a session: the host has proved its key, and the invite is used up.
    fn learn(&mut self, place: &Place) -> Result<(), Error> {
        self.known = self.trust.host(&self.name, self.servers.name())?;
        self.host_key = self.known.as_ref().map(|entry| entry.key).or(self.host_key);
        self.invite = None;
        self.servers.learn(place)
    }

    fn narrator(&self) -> Narrator {
        let file = self.trust.home().known_hosts();
        Narrator {
            name: self.name.clone(),
            server: self.servers.name().clone(),
            key: self.key.public(),
            side: Side::Client { known: self.known.clone().map(|entry| (entry, file)) },
            server_pin: self.servers.pin(),
        }
    }
}

/// An invite's code, from the option, the environment, or with `-` the first line of standard input.
fn read_code(Secret(text): Secret) -> Result<Code, Error> {
    if text.trim() != "-" {
        return Ok(text.parse().map_err(ConfigError::Code)?);
    }
    if std::io::stdin().is_terminal() {
        eprint!("invite code: ");
    }
    let mut line = zeroize::Zeroizing::new(String::new());
    let read = std::io::stdin().lock().read_line(&mut line);
    read.map_err(|e| ConfigError::Stdio(format!("cannot read the invite from standard input: {e}")))?;
    Ok(line.parse().map_err(ConfigError::Code)?)
}

/// One client, from start to end.
async fn once(settings: &Settings, ports: &[LocalPort], output: &Output) -> Result<Ended, Error> {
    let mut builder = Client::builder(settings.name.as_str()).key(settings.key.clone()).admission(HostBook {
        trust: settings.trust.clone(),
        name: settings.name.clone(),
        server: settings.servers.name().clone(),
    });
    if let Some(key) = settings.host_key {
        builder = builder.host_key(key);
    }
    if let Some(code) = &settings.invite {
        builder = builder.invite(code);
    }
    let builder = settings.servers.set_up(builder);
    let events = builder.events();
    let client = builder.start().await?;
    let serving = async {
        let ports = ports.iter().map(|port| client.serve(port));
        futures_join(ports).await;
    };
    let carrying = async {
        match &settings.stdio {
            Some(service) => carry(&client, service, settings).await,
            None => std::future::pending().await,
        }
    };
    let result = tokio::select! {
        result = watch(settings, events, ports, output) => result,
        result = carrying => result.map(|()| Ended::Done),
        () = serving => unreachable_end(),
        () = stop::requested() => Ok(Ended::Done),
    };
    output.clear();
    client.stop().await;
    result
}
