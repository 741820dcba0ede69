//! A host: exposes services under a name.

use std::{collections::BTreeSet, fmt, sync::Arc};

use tokio::{
    sync::{Mutex, mpsc, watch},
    task::JoinHandle,
};

use super::{
    admission::Admission,
    agent::{Agent, Arrivals, Commands, Surroundings},
    event::{Event, EventSource, Events},
    forward,
    setup::{Common, common_setters, generate_key},
    status::{Monitor, Status},
    stream::Stream,
    tunnel::Tunnel,
};
use crate::{
    endpoint::{Input, PeerId, Role},
    error::{Error, NetworkError},
    forward::{Service, Services},
    identity::{Grant, Name},
    secure::PublicKey,
    wire::{
        peer::Goodbye,
        stream::{OpenRequest, ResetReason},
    },
};

/// Streams that wait for [`Host::accept`]; further ones wait in their sessions.
const WAITING: usize = 64;

/// Sets up a [`Host`].
pub struct HostBuilder {
    name: String,
    services: Vec<Service>,
    labels: BTreeSet<String>,
    admission: Arc<dyn Admission>,
    common: Common,
}

/// A program that exposes services. Dropping it stops it.
pub struct Host {
    commands: Commands,
    agent: JoinHandle<()>,
    incoming: Mutex<mpsc::Receiver<Incoming>>,
    grants_changed: watch::Sender<()>,
    events: EventSource,
    key: PublicKey,
}

/// A stream that is handed to the program.
#[derive(Debug)]
pub struct Incoming {
    /// The label that the client asked for.
    pub service: String,
    /// The stream; [`Stream::remote`] is the client's key.
    pub stream: Stream,
}

impl Host {
    /// A host of that name; see [`Name`] for what a name may be.
    pub fn builder(name: impl Into<String>) -> HostBuilder {
        HostBuilder {
            name: name.into(),
            services: Vec::new(),
            labels: BTreeSet::new(),
            admission: Arc::new(()),
            common: Common::new(),
        }
    }

    /// This host's key: what clients pin.
    pub fn public_key(&self) -> PublicKey {
        self.key
    }

    /// What happens from now on.
    pub fn events(&self) -> Events {
        self.events.subscribe()
    }

    /// How it stands now.
    pub fn status(&self) -> Status {
        self.monitor().status()
    }

    /// What can be asked how it stands, from anywhere.
    pub fn monitor(&self) -> Monitor {
        self.events.monitor()
    }

    /// The next stream for a service that the program serves [itself](HostBuilder::accept). `None` once
    /// the host has stopped.
    pub async fn accept(&self) -> Option<Incoming> {
        self.incoming.lock().await.recv().await
    }

    /// Ends a client's session, and tells the client why.
    pub async fn end(&self, peer: PeerId, why: Goodbye) {
        self.commands.send(Input::End { peer, why }).await.ok();
    }

    /// Says that [grants](Admission::grant) have changed: streams to services that their client may not use any
    /// more are reset. Those that the program serves [itself](HostBuilder::accept) are the program's.
    pub fn reconsider(&self) {
        self.grants_changed.send_replace(());
    }

    /// Says that an address or a route of this machine changed, or that it woke from sleep.
    pub async fn network_changed(&self) {
        self.commands.send(Input::NetworkChanged).await.ok();
    }

    /// Gives the name up, tells the clients, and ends; takes a second at most.
    pub async fn stop(self) {
        self.commands.send(Input::Stop).await.ok();
        self.agent.await.ok();
    }
}

impl HostBuilder {
    common_setters!();

    /// Exposes a TCP service. The first one is what clients get who name none.
    pub fn service(mut self, service: Service) -> Self {
        self.services.push(service);
        self
    }

    /// Serves this label in the program itself: its streams come out of [`Host::accept`]. Goes before a
    /// service of the same label, and is what clients get who name none where there is no service.
    pub fn accept(mut self, label: impl Into<String>) -> Self {
        self.labels.insert(label.into());
        self
    }

    /// Decides who is let in. Without it: nobody.
    pub fn admission(mut self, admission: impl Admission) -> Self {
        self.admission = Arc::new(admission);
        self
    }

    /// Starts. The host registers itself, and goes on trying for as long as it lives.
    ///
    /// # Errors
    /// [`ConfigError`](crate::ConfigError) for a setting that does not fit, [`NetworkError`] where the
    /// server's name has no address or no socket is to be had.
    pub async fn start(self) -> Result<Host, Error> {
        let name: Name = self.name.parse().map_err(crate::ConfigError::Name)?;
        let services = match self.services.is_empty() && !self.labels.is_empty() {
            true => None,
            false => Some(Services::new(self.services)?),
        };
        let key = self.common.key.clone().unwrap_or_else(generate_key);
        let public = key.public();
        let role = Role::Host { name: name.to_string() };
        let settings = self.common.settings(key, role).await?;
        let (handed, incoming) = mpsc::channel(WAITING);
        let events = self.common.events;
        let grants_changed = watch::Sender::new(());
        let exposed = Exposed {
            services,
            labels: self.labels,
            handed,
            admission: self.admission.clone(),
            grants_changed: grants_changed.subscribe(),
            events: events.clone(),
        };
        let around = Surroundings {
            udp_port: self.common.udp_port,
            punch_ports: self.common.punch_ports.clone(),
            admission: self.admission,
            arrivals: Box::new(Sessions(Arc::new(exposed))),
            events: events.clone(),
            linger: self.common.linger,
            dead_after: self.common.dead_after,
        };
        let (agent, commands) = Agent::new(settings, around)
            .map_err(|source| NetworkError::Socket { operation: "open a UDP socket".into(), source })?;
        let agent = tokio::spawn(agent.run());
        Ok(Host { commands, agent, incoming: Mutex::new(incoming), grants_changed, events, key: public })
    }
}

struct Sessions(Arc<Exposed>);

impl Arrivals for Sessions {
    fn session(&mut self, tunnel: Arc<Tunnel>) {
        tokio::spawn(serve_all(self.0.clone(), tunnel));
    }
}

/// What is exposed.
struct Exposed {
    services: Option<Services>,
    labels: BTreeSet<String>,
    handed: mpsc::Sender<Incoming>,
    admission: Arc<dyn Admission>,
    grants_changed: watch::Receiver<()>,
    events: EventSource,
}

async fn serve_all(exposed: Arc<Exposed>, tunnel: Arc<Tunnel>) {
    while let Some((stream, request)) = tunnel.accept().await {
        tokio::spawn(serve(exposed.clone(), stream, request));
    }
}

/// One stream, from OPEN to its end.
async fn serve(exposed: Arc<Exposed>, stream: Stream, request: OpenRequest) {
    // From here on, so that no change is missed.
    let mut changed = exposed.grants_changed.clone();
    changed.mark_unchanged();
    let found = match exposed.find(&request) {
        Ok(found) => found,
        Err(reason) => return stream.reset(reason),
    };
    let client = stream.remote();
    match found {
        _ if !exposed.may_use(&client, found) => {
            let service = Some(found.to_string());
            stream.reset(ResetReason::NotAllowed);
            let reason = ResetReason::NotAllowed;
            exposed.events.tell(Event::StreamRefused { service, reason, client: Some(client) });
        }
        Found::Service(service) => {
            let forbidden = async {
                while exposed.may_use(&client, found) {
                    if changed.changed().await.is_err() {
                        // The host has stopped, and with it all streams.
                        std::future::pending::<()>().await;
                    }
                }
            };
            forward::serve(service, &stream, &exposed.events, forbidden).await;
        }
        Found::Label(service) => {
            let incoming = Incoming { service: service.clone(), stream };
            exposed.handed.send(incoming).await.ok();
        }
    }
}

#[derive(Clone, Copy, PartialEq)]
enum Found<'e> {
    Service(&'e Service),
    Label(&'e String),
}

impl fmt::Display for Found<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Found::Service(service) => service.fmt(f),
            Found::Label(label) => f.write_str(label),
        }
    }
}

impl Exposed {
    /// A grant names services as requests do: a word is what it leads to.
    fn may_use(&self, client: &PublicKey, found: Found<'_>) -> bool {
        match self.admission.grant(client) {
            Grant::All => true,
            Grant::Only(words) => words.into_iter().any(|word| {
                let request = OpenRequest { service: Some(word) };
                self.find(&request) == Ok(found)
            }),
        }
    }

    fn find(&self, request: &OpenRequest) -> Result<Found<'_>, ResetReason> {
        let label = match (&request.service, &self.services) {
            (Some(word), _) => self.labels.get(word),
            (None, None) => self.labels.first(),
            (None, Some(_)) => None,
        };
        match (label, &self.services) {
            (Some(label), _) => Ok(Found::Label(label)),
            (None, Some(services)) => services.resolve(request).map(Found::Service),
            (None, None) => Err(ResetReason::NoSuchService),
        }
    }
}
