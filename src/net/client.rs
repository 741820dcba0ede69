//! A client: asks for one host, and opens streams to its services.

use std::{sync::Arc, time::Duration};

use tokio::{
    sync::watch,
    task::{AbortHandle, JoinHandle},
};

use super::{
    agent::{Agent, Arrivals, Commands, Surroundings},
    event::{EventSource, Events},
    failure::{Asked, Failure, Watcher},
    forward::LocalPort,
    setup::{Common, common_setters, generate_key},
    status::{Monitor, Status},
    stream::Stream,
    tunnel::Tunnel,
};
use crate::{
    endpoint::{self, Hint, Input, Role},
    error::{ConfigError, Error, NetworkError},
    identity::{Code, Name},
    secure::PublicKey,
    session::SessionStats,
    wire::stream::{OpenRequest, ResetReason},
};

/// A server that has not answered by then is given up, where nothing else is said: the fallback to TCP
/// has had its half second and a few repetitions.
const PATIENCE: Duration = Duration::from_secs(10);

/// How often [`Client::close`] looks whether everything has arrived.
const FLUSH_POLL: Duration = Duration::from_millis(5);

/// Sets up a [`Client`].
pub struct ClientBuilder {
    name: String,
    host_key: Option<PublicKey>,
    invite: Option<Code>,
    patience: Duration,
    wait: Option<Duration>,
    hints: Vec<Hint>,
    common: Common,
}

/// How far a client is.
#[derive(Clone)]
pub(super) enum Phase {
    /// The host has not let it in yet.
    Asking,
    /// There is a session, but there was no link yet.
    Introduced(Arc<Tunnel>),
    /// There was a link.
    Connected(Arc<Tunnel>),
    /// It will not come to that, or not any more.
    Over(Failure),
}

/// A program that uses the services of a host. Dropping it ends the session.
pub struct Client {
    commands: Commands,
    agent: JoinHandle<()>,
    watcher: AbortHandle,
    phase: watch::Receiver<Phase>,
    events: EventSource,
    asked: Arc<Asked>,
}

impl Client {
    /// A client of the host of that name.
    pub fn builder(name: impl Into<String>) -> ClientBuilder {
        ClientBuilder {
            name: name.into(),
            host_key: None,
            invite: None,
            patience: PATIENCE,
            wait: None,
            hints: Vec::new(),
            common: Common::new(),
        }
    }

    /// Waits until there is a direct connection to the host.
    ///
    /// # Errors
    /// Why there will not be one: [`PeerError`](crate::PeerError), [`NetworkError`], or a
    /// [`ConfigError`] about keys and invites.
    pub async fn connected(&self) -> Result<(), Error> {
        match self.reach(|phase| matches!(phase, Phase::Connected(_))).await {
            Phase::Over(failure) => Err(failure.into_error(&self.asked)),
            _ => Ok(()),
        }
    }

    /// Opens a stream to a service, by its label or port; to the host's first one with `None`. Waits
    /// until the host has let this client in, but not for the connection: what is written until then
    /// travels in its first packets.
    ///
    /// # Errors
    /// As [`connected`](Self::connected), and a usage error for too many streams or too long a label. What
    /// the host has to say about the service comes as a reset of the stream.
    pub async fn open(&self, service: Option<&str>) -> Result<Stream, Error> {
        let request = OpenRequest { service: service.map(Into::into) };
        match open(self.phase.clone(), request).await {
            Ok(stream) => Ok(stream),
            Err(Unopened::Over(failure)) => Err(failure.into_error(&self.asked)),
            Err(Unopened::Refused(reason)) => Err(ConfigError::Usage(reason.to_string()).into()),
        }
    }

    /// Takes every connection to a local port to a stream of its own, for as long as the client lives or
    /// until the returned handle is aborted. Connections that come before the host has let this client
    /// in wait for that.
    pub fn forward(&self, port: LocalPort) -> AbortHandle {
        let (phase, events) = (self.phase.clone(), self.events.clone());
        let serve = async move {
            port.serve(&events, |request| {
                let opening = open(phase.clone(), request);
                async move {
                    opening.await.map_err(|unopened| match unopened {
                        Unopened::Over(_) => ResetReason::SessionEnded,
                        Unopened::Refused(reason) => reason,
                    })
                }
            })
            .await;
        };
        tokio::spawn(serve).abort_handle()
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

    /// Resets the connection under the session, as a bad network would: the client punches again, and
    /// no stream loses a byte. For demonstrations and tests. False where there is no connection now.
    pub fn kill_link(&self) -> bool {
        self.phase.borrow().tunnel().is_some_and(|tunnel| tunnel.kill_link())
    }

    /// The session's counters; `None` before there is one.
    pub fn stats(&self) -> Option<SessionStats> {
        self.phase.borrow().tunnel().map(|tunnel| tunnel.stats())
    }

    /// The host's key, once it has proved it.
    pub fn host_key(&self) -> Option<PublicKey> {
        self.phase.borrow().tunnel().map(|tunnel| tunnel.key())
    }

    /// Says that an address or a route of this machine changed, or that it woke from sleep.
    pub async fn network_changed(&self) {
        self.commands.send(Input::NetworkChanged).await.ok();
    }

    /// Waits until the session has ended, or cannot begin; says why.
    pub async fn closed(&self) -> Error {
        match self.reach(|_| false).await {
            Phase::Over(failure) => failure.into_error(&self.asked),
            _ => Error::Internal("the client's task ended without a word".into()),
        }
    }

    /// Waits until everything that was written on streams has arrived, then tells the host, and ends.
    /// Streams that are still open are reset.
    pub async fn close(self) {
        let tunnel = self.phase.borrow().tunnel().cloned();
        if let Some(tunnel) = tunnel {
            while !tunnel.is_flushed() && tunnel.ended().is_none() {
                tokio::time::sleep(FLUSH_POLL).await;
            }
            let why = crate::wire::peer::Goodbye::Stopped;
            self.commands.send(Input::End { peer: tunnel.peer(), why }).await.ok();
        }
        self.stop().await;
    }

    /// Ends at once; takes a second at most.
    pub async fn stop(mut self) {
        self.commands.send(Input::Stop).await.ok();
        (&mut self.agent).await.ok();
    }

    /// The first phase that fits, or the last one.
    async fn reach(&self, fits: impl Fn(&Phase) -> bool) -> Phase {
        let mut phase = self.phase.clone();
        match phase.wait_for(|phase| phase.is_over() || fits(phase)).await {
            Ok(phase) => phase.clone(),
            Err(_) => Phase::Over(Failure::Stopped),
        }
    }
}

/// Why a stream was not opened.
enum Unopened {
    Over(Failure),
    Refused(ResetReason),
}

/// Opens a stream as soon as there is a session that lives.
async fn open(mut phase: watch::Receiver<Phase>, request: OpenRequest) -> Result<Stream, Unopened> {
    loop {
        // A session that has ended is followed by another, or by the end of the client.
        let lives = |phase: &Phase| phase.tunnel().is_some_and(|tunnel| tunnel.ended().is_none());
        let reached = match phase.wait_for(|phase| phase.is_over() || lives(phase)).await {
            Ok(reached) => reached.clone(),
            Err(_) => Phase::Over(Failure::Stopped),
        };
        match reached {
            Phase::Over(failure) => return Err(Unopened::Over(failure)),
            Phase::Introduced(tunnel) | Phase::Connected(tunnel) => match tunnel.open(request.clone()) {
                Err(ResetReason::SessionEnded) => {}
                result => return result.map_err(Unopened::Refused),
            },
            Phase::Asking => {}
        }
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        self.watcher.abort();
    }
}

impl Phase {
    pub(super) fn tunnel(&self) -> Option<&Arc<Tunnel>> {
        match self {
            Phase::Introduced(tunnel) | Phase::Connected(tunnel) => Some(tunnel),
            Phase::Asking | Phase::Over(_) => None,
        }
    }

    pub(super) fn is_over(&self) -> bool {
        matches!(self, Phase::Over(_))
    }
}

impl ClientBuilder {
    common_setters!();

    /// The host's key. Without it, an [invite](Self::invite) is needed to prove the host.
    pub fn host_key(mut self, key: PublicKey) -> Self {
        self.host_key = Some(key);
        self
    }

    /// An invite to the host.
    pub fn invite(mut self, code: Code) -> Self {
        self.invite = Some(code);
        self
    }

    /// How long to wait for the first answer of the server; 10 seconds without this.
    pub fn patience(mut self, patience: Duration) -> Self {
        self.patience = patience;
        self
    }

    /// What worked before with this host, from which network; the core tries it first.
    pub fn hints(mut self, hints: Vec<Hint>) -> Self {
        self.hints = hints;
        self
    }

    /// How long to wait for a host that is not there; without this, for ever.
    pub fn wait(mut self, wait: Duration) -> Self {
        self.wait = Some(wait);
        self
    }

    /// Starts, and returns at once: see [`Client::connected`].
    ///
    /// # Errors
    /// [`ConfigError`] for a setting that does not fit or a host that nobody vouches for,
    /// [`NetworkError`] where the server's name has no address or no socket is to be had.
    pub async fn start(self) -> Result<Client, Error> {
        let name: Name = self.name.parse().map_err(ConfigError::Name)?;
        if self.host_key.is_none() && self.invite.is_none() {
            return Err(ConfigError::NotTrusted { name }.into());
        }
        let (server, _) = self.common.server()?;
        let key = self.common.key.clone().unwrap_or_else(generate_key);
        let asked = Arc::new(Asked { name: name.clone(), server, key: key.public(), wait: self.wait });
        let invite = self.invite.map(|code| (code.id(), code.psk()));
        let role = Role::Client { name: name.to_string(), host_key: self.host_key, invite };
        let settings = self.common.settings(key, role).await?;
        let settings = endpoint::Settings { hints: self.hints, ..settings };
        let events = self.common.events;
        let (phases, phase) = watch::channel(Phase::Asking);
        let phases = Arc::new(phases);
        // It listens before anything can happen.
        let watcher = Watcher::new(events.subscribe(), phases.clone(), self.patience, self.wait);
        let around = Surroundings {
            udp_port: self.common.udp_port,
            punch_ports: self.common.punch_ports.clone(),
            admission: Arc::new(()),
            arrivals: Box::new(Introductions(phases)),
            events: events.clone(),
            linger: self.common.linger,
            dead_after: self.common.dead_after,
        };
        let (agent, commands) = Agent::new(settings, around)
            .map_err(|source| NetworkError::Socket { operation: "open a UDP socket".into(), source })?;
        let agent = tokio::spawn(agent.run());
        let watcher = tokio::spawn(watcher.run()).abort_handle();
        Ok(Client { commands, agent, watcher, phase, events, asked })
    }

    /// Starts, and waits until there is a direct connection to the host.
    ///
    /// # Errors
    /// As [`start`](Self::start) and [`Client::connected`].
    pub async fn connect(self) -> Result<Client, Error> {
        let client = self.start().await?;
        client.connected().await?;
        Ok(client)
    }
}

struct Introductions(Arc<watch::Sender<Phase>>);

impl Arrivals for Introductions {
    fn session(&mut self, tunnel: Arc<Tunnel>) {
        tokio::spawn(refuse_all(tunnel.clone()));
        self.0.send_replace(Phase::Introduced(tunnel));
    }
}

/// A client offers nothing: what its host opens is reset, and does not pile up.
async fn refuse_all(tunnel: Arc<Tunnel>) {
    while let Some((stream, _)) = tunnel.accept().await {
        stream.reset(ResetReason::NotAllowed);
    }
}

#[cfg(test)]
mod tests {
    use bytes::BytesMut;
    use tokio::net::{TcpListener, TcpStream};

    use super::{super::tunnel::Beginning, *};
    use crate::{
        endpoint::PeerId,
        secure::EpochKeys,
        session::testing::{Keys, link},
    };

    /// More than may be open and not taken at a time, so that they pile up where nobody takes them.
    const OPENS: usize = 200;

    /// Nothing here waits for time to pass.
    const HANG: Duration = Duration::from_secs(20);

    fn tunnel(keys: EpochKeys, initiator: bool, commands: &Commands) -> Arc<Tunnel> {
        Tunnel::new(Beginning {
            peer: PeerId(1),
            key: PublicKey([7; 32]),
            keys,
            initiator,
            linger: Duration::MAX,
            dead_after: None,
            commands: commands.downgrade(),
            events: EventSource::new(),
        })
    }

    #[tokio::test]
    async fn what_a_host_opens_at_its_client_is_reset_and_does_not_pile_up() {
        let (commands, _orders) = tokio::sync::mpsc::channel(1);
        let keys = Keys::new(1).epoch();
        let (client, host) = (tunnel(keys.0, true, &commands), tunnel(keys.1, false, &commands));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let near = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (far, _) = listener.accept().await.unwrap();
        let ends = link(1);
        client.link(Some(Arc::new(near)), ends.0, BytesMut::new());
        host.link(Some(Arc::new(far)), ends.1, BytesMut::new());
        let (phases, _phase) = watch::channel(Phase::Asking);
        Introductions(Arc::new(phases)).session(client.clone());
        for _ in 0..OPENS {
            let mut opened = host.open(OpenRequest { service: None }).unwrap();
            let read = tokio::time::timeout(HANG, opened.read_chunk()).await;
            let error = read.expect("nobody resets it").unwrap_err();
            let reason = error.get_ref().and_then(|why| why.downcast_ref::<ResetReason>());
            assert_eq!(reason, Some(&ResetReason::NotAllowed));
        }
        assert_eq!(client.held(), 0);
        assert!(client.ended().is_none() && host.ended().is_none(), "the session goes on");
    }
}
