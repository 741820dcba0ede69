//! `punchtunnel connect`: services of a host, on local ports or on standard input and output.

use std::{
    cell::Cell,
    io::{BufRead, ErrorKind, IsTerminal},
    time::Duration,
};

use punchtunnel::{
    ConfigError, Error, NetworkError, PeerError, endpoint,
    forward::LocalRule,
    identity::{Code, Entry, Name, Pinned, Trust},
    net::{Client, Event, Events, LocalPort, Monitor, carry_pipes},
    secure::{PublicKey, StaticKey},
    wire::{peer::Goodbye, stream::ResetReason},
};

use super::{
    args::{ConnectArgs, Secret},
    control::{Board, Control},
    labels::Labels,
    memory::{self, Attempt},
    narrate::{Back, Narrator, Sessions, Side, Telling},
    output::Output,
    patience::Patience,
    report::Role,
    servers::Servers,
    settings::{Place, Span, usage},
    stop::{Hangup, LOOK_UP_AGAIN, Stop},
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
    /// The key that `--host-key` names.
    named: Option<PublicKey>,
    /// The line that pins it.
    known: Option<Entry>,
    invite: Option<Code>,
    wait: Duration,
    patience: Patience,
    control: Control,
    /// There was a connection: the ports have been told, and whoever uses them relies on this program.
    was_connected: Cell<bool>,
}

/// How a run with one client ended.
enum Ended {
    /// As it was wanted.
    Done,
    /// The invite is not open, but the host is known: it may do without.
    WithoutInvite,
    /// The host was stopped: it may come again.
    HostStopped,
    /// After a connection, the server's name has no address: this computer is offline.
    Offline,
}

/// Runs until it is told to stop, until standard input and output have ended, or until it fails.
pub(crate) async fn run(args: ConnectArgs, place: &Place, output: &Output) -> Result<(), Error> {
    let hangup = if args.stdio.is_some() { Hangup::Stops } else { Hangup::StopsUnlessIgnored };
    let mut stop = Stop::listen(hangup);
    let mut settings = tokio::select! {
        settings = Settings::from(args, place) => settings?,
        () = stop.requested() => return Err(Error::Stopped),
    };
    if let Some(caveat) = settings.servers.caveat() {
        output.line(&caveat);
    }
    // Before anything else: a port that is taken is an error at once. They stay open until the end: who
    // connects while there is no host waits for it.
    let mut ports = Vec::new();
    for rule in &settings.rules {
        ports.push(LocalPort::bind(rule).await?);
    }
    loop {
        match once(&settings, &ports, output, &mut stop).await? {
            Ended::Done => return Ok(()),
            Ended::WithoutInvite => {
                output.line("the invite is used or has expired; the host is known, so going on without it");
                settings.invite = None;
            }
            Ended::HostStopped => settings.learn(place)?,
            Ended::Offline => tokio::select! {
                () = tokio::time::sleep(LOOK_UP_AGAIN) => {}
                after = settings.patience.over() => return Err(settings.given_up(after)),
                () = stop.requested() => return Ok(()),
            },
        }
    }
}

impl Settings {
    async fn from(args: ConnectArgs, place: &Place) -> Result<Settings, Error> {
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
        let named = place.one(args.host_key, "host-key")?;
        let invite = match args.invite {
            Some(secret) => Some(read_code(secret).await?),
            None => None,
        };
        let trust = place.trust();
        let known = trust.host(&name, servers.name())?;
        if let (Some(found), Some(entry)) = (named, &known)
            && found != entry.key
        {
            let (pinned, line) = (entry.key, entry.line);
            let path = place.home.known_hosts().into();
            return Err(ConfigError::HostKeyChanged { name, found: Some(found), pinned, path, line }.into());
        }
        let host_key = named.or(known.as_ref().map(|entry| entry.key));
        if host_key.is_none() && invite.is_none() {
            return Err(ConfigError::NotTrusted { name }.into());
        }
        let key = place.key()?;
        let stdio = args.stdio;
        let give_up = place.one(args.give_up_after, "give-up-after")?.map(|Span(span)| span);
        let patience = Patience::new(give_up.filter(|span| *span != Duration::MAX));
        let labels = Labels::Host(name.clone());
        let board = Board::new(Role::Connect, name.to_string(), servers.name().to_string(), labels);
        let control = Control::open(&place.home, board).await;
        let was_connected = Cell::new(false);
        Ok(Settings {
            name,
            rules,
            stdio,
            servers,
            trust,
            key,
            host_key,
            named,
            known,
            invite,
            wait,
            patience,
            control,
            was_connected,
        })
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
            side: Side::Client { known: self.known.clone().map(|entry| (entry, file)), named: self.named },
            server_pin: self.servers.pin(),
            labels: Labels::Host(self.name.clone()),
            sessions: Sessions::default(),
        }
    }
}

/// An invite's code, from the option, the environment, or with `-` the first line of standard input.
async fn read_code(Secret(text): Secret) -> Result<Code, Error> {
    if text.trim() != "-" {
        return Ok(text.parse().map_err(ConfigError::Code)?);
    }
    tracing::trace!("reads the invite from standard input");
    // On a thread of its own, which is left behind where a person stops the program instead.
    let read = tokio::task::spawn_blocking(|| {
        if std::io::stdin().is_terminal() {
            eprint!("invite code: ");
        }
        let mut line = zeroize::Zeroizing::new(String::new());
        std::io::stdin().lock().read_line(&mut line).map(|_| line)
    });
    let line = read.await.map_err(std::io::Error::other).and_then(|read| read);
    let line =
        line.map_err(|e| ConfigError::Stdio(format!("cannot read the invite from standard input: {e}")))?;
    Ok(line.parse().map_err(ConfigError::Code)?)
}

/// One client, from start to end.
async fn once(
    settings: &Settings,
    ports: &[LocalPort],
    output: &Output,
    stop: &mut Stop,
) -> Result<Ended, Error> {
    let mut builder = Client::builder(settings.name.as_str()).key(settings.key.clone());
    if let Some(key) = settings.host_key {
        builder = builder.host_key(key);
    }
    if let Some(code) = &settings.invite {
        builder = builder.invite(code.clone());
    }
    builder = match settings.was_connected.get() {
        // How long it tries to come back is --give-up-after.
        true => builder.patience(Duration::MAX),
        false if settings.wait == Duration::MAX => builder,
        false => builder.wait(settings.wait),
    };
    let builder = settings.servers.set_up(builder).hints(memory::hints(
        settings.trust.home(),
        &settings.name,
        settings.servers.name(),
    ));
    let events = builder.events();
    settings.control.show(builder.monitor());
    output.live(&format!("asking {} for \"{}\"", settings.servers.name(), settings.name));
    let monitor = builder.monitor();
    let started = tokio::select! {
        started = builder.start() => started,
        after = settings.patience.over() => return Err(settings.given_up(after)),
        () = stop.requested() => return settings.stopped(),
    };
    let client = match started {
        Err(error @ Error::Network(NetworkError::Resolve { .. })) if settings.was_connected.get() => {
            output.live(&format!("{error}; trying on"));
            return Ok(Ended::Offline);
        }
        started => started?,
    };
    let forwards: Vec<_> = ports.iter().map(|port| client.forward(port.clone())).collect();
    let carrying = async {
        match &settings.stdio {
            Some(service) => carry(&client, service, &settings.name).await,
            None => std::future::pending().await,
        }
    };
    let result = tokio::select! {
        // Events first: they know more than the error that follows them.
        biased;
        ended = watch(settings, &client, (events, monitor), ports, output) => ended,
        carried = carrying => carried.map(|()| Ended::Done),
        after = settings.patience.over() => Err(settings.given_up(after)),
        () = stop.requested() => settings.stopped(),
    };
    output.clear();
    forwards.iter().for_each(tokio::task::AbortHandle::abort);
    match (&result, &settings.stdio) {
        // What the program wrote last may still be on its way.
        (Ok(Ended::Done), Some(_)) => tokio::select! {
            () = client.close() => {}
            () = stop.requested() => {}
        },
        _ => client.stop().await,
    }
    result
}

/// Tells what happens, until it is over.
async fn watch(
    settings: &Settings,
    client: &Client,
    (mut events, monitor): (Events, Monitor),
    ports: &[LocalPort],
    output: &Output,
) -> Result<Ended, Error> {
    let mut narrator = settings.narrator();
    let (mut was_reached, mut is_linked) = (false, false);
    let mut attempt = Attempt::default();
    loop {
        let event = tokio::select! {
            biased;
            event = events.next() => event,
            error = client.closed() => return settings.judge(error, output),
        };
        // The events end with the client.
        let Some(event) = event else { return settings.judge(client.closed().await, output) };
        match &event {
            Event::Endpoint(event) => {
                settings.servers.remember(event, &settings.trust)?;
                let is_silence = matches!(event, endpoint::Event::ServerSilent { .. });
                was_reached |= matches!(event, endpoint::Event::ServerReached { .. });
                if matches!(event, endpoint::Event::Connected { .. }) {
                    is_linked = true;
                    settings.patience.linked();
                }
                let was_connected = settings.was_connected.get();
                match narrator.tell(event, Back::with(event, &monitor)) {
                    // The error is about to follow.
                    _ if is_silence && !was_reached => {}
                    _ if !was_connected && matches!(event, endpoint::Event::Hopeless { .. }) => {}
                    Telling::Line(text) => output.line(&text),
                    Telling::Details(lines) => lines.iter().for_each(|line| output.detail(line)),
                    // A server that was away is told everything again; nobody waits for that.
                    Telling::Live(_) if is_linked && !is_silence => {}
                    Telling::Live(text) => output.live(&text),
                    Telling::Fatal(error) if was_connected && Narrator::is_about_server(event) => {
                        output.line(&error.to_string());
                    }
                    Telling::Fatal(error) => return settings.judge(error, output),
                }
                attempt.take(event);
                settings.learn_from(&attempt, event, output);
                if matches!(event, endpoint::Event::Connected { .. }) && !settings.was_connected.replace(true)
                {
                    for (port, rule) in ports.iter().zip(&settings.rules) {
                        let service =
                            rule.service.as_ref().map(|s| format!(", service {s}")).unwrap_or_default();
                        output.line(&format!(
                            "listening on {} -> {}{service}",
                            port.address(),
                            settings.name
                        ));
                    }
                }
            }
            Event::SessionBegan { key, .. } => {
                if let Some(text) = narrator.tell_session(&event) {
                    output.line(&text);
                }
                let pinned = settings.trust.pin_host(&settings.name, settings.servers.name(), key)?;
                if pinned == Pinned::New {
                    let file = settings.trust.home().known_hosts();
                    output.line(&format!("the key of \"{}\" is in {} now", settings.name, file.display()));
                }
            }
            other => {
                if matches!(other, Event::LinkLost { .. } | Event::SessionEnded { .. }) {
                    is_linked = false;
                    settings.patience.lost();
                }
                if let Some(text) = narrator.tell_session(other) {
                    output.line(&text);
                }
            }
        }
    }
}

impl Settings {
    /// Told to stop: for ports that were reached that is how it ends, anything else is not done yet.
    fn stopped(&self) -> Result<Ended, Error> {
        match self.was_connected.get() && self.stdio.is_none() {
            true => Ok(Ended::Done),
            false => Err(Error::Stopped),
        }
    }

    fn given_up(&self, after: Duration) -> Error {
        NetworkError::GivenUp { name: self.name.clone(), after }.into()
    }

    /// Tells what worked last, and writes down what works. It is a hint: without it all is the same.
    fn learn_from(&self, attempt: &Attempt, event: &endpoint::Event, output: &Output) {
        let (home, server) = (self.trust.home(), self.servers.name());
        let result = match event {
            // Before anything was tried: later it is known better.
            endpoint::Event::NatFound { .. } if attempt.round.is_none() => {
                attempt.recall(home, &self.name, server).map(|last| {
                    if let Some(last) = last {
                        output.live(&format!("last time, {}", memory::words(&last)));
                    }
                })
            }
            endpoint::Event::Connected { lan, .. } => attempt.remember(home, &self.name, server, *lan),
            _ => Ok(()),
        };
        if let Err(error) = result {
            tracing::warn!(%error, "what works cannot be remembered");
        }
    }

    /// Whether it is over, or goes on in another way.
    fn judge(&self, error: Error, output: &Output) -> Result<Ended, Error> {
        self.patience.lost();
        match error {
            Error::Config(ConfigError::InviteRefused { .. }) if self.host_key.is_some() => {
                Ok(Ended::WithoutInvite)
            }
            Error::Peer(PeerError::Ended { why: why @ (Goodbye::Stopped | Goodbye::Expired), .. })
                if self.stdio.is_none() =>
            {
                let name = &self.name;
                output.line(&match why {
                    Goodbye::Expired => format!(
                        "there was no connection to \"{name}\" for longer than --linger: connections are reset, \
                         connecting again"
                    ),
                    _ => format!("\"{name}\" was stopped: connections are reset, waiting for it to come back"),
                });
                Ok(Ended::HostStopped)
            }
            error => Err(error),
        }
    }
}

/// Joins a service with standard input and output.
async fn carry(client: &Client, service: &str, name: &Name) -> Result<(), Error> {
    let stream = client.open(Some(service).filter(|service| !service.is_empty())).await?;
    let Err(error) = carry_pipes(stream, tokio::io::stdin(), tokio::io::stdout()).await else {
        return Ok(());
    };
    match error.get_ref().and_then(|inner| inner.downcast_ref::<ResetReason>()) {
        Some(reason) => Err(PeerError::Reset { name: name.clone(), reason: *reason }.into()),
        // Whoever read it has read enough.
        None if error.kind() == ErrorKind::BrokenPipe => Ok(()),
        None => Err(ConfigError::Stdio(format!("cannot write to standard output: {error}")).into()),
    }
}
