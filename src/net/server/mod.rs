//! The rendezvous server with its sockets, its probe ports and its disk.

mod examine;
mod sockets;
mod store;
mod tcp;

use std::{
    collections::BTreeSet,
    future::Future,
    io,
    net::SocketAddr,
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Instant,
};

use tokio::{
    net::{TcpListener, UdpSocket},
    sync::{Notify, watch},
    task::JoinSet,
};
use zeroize::Zeroizing;

use self::{
    sockets::Sockets,
    store::{Progress, Writer},
    tcp::{Connections, Port},
};
use super::{clock, limits, udp};
use crate::{
    error::Error,
    identity,
    rendezvous::{self, Batches, Favours, Limits, Source, Stats},
    secure::{PublicKey, StaticKey},
    wire::{
        DEFAULT_PROBE_PORT, MAX_DATAGRAM,
        examine::{MIRROR, mirrored, parse_mirror},
        probe::{ProbeAnswer, ProbeQuestion},
    },
};

/// Datagrams taken in before other sockets get their turn.
const BATCH: usize = 64;

/// A rendezvous server, bound and ready to [run](Server::run).
pub struct Server {
    shared: Arc<Shared>,
    listeners: Vec<(TcpListener, Port)>,
    addresses: Vec<SocketAddr>,
    probe_addresses: Vec<SocketAddr>,
    key: PublicKey,
}

/// Sets up a [`Server`].
pub struct ServerBuilder {
    listen: Vec<SocketAddr>,
    probe_ports: Vec<u16>,
    data: Option<PathBuf>,
    key: Option<StaticKey>,
    limits: Limits,
    allowed: Option<BTreeSet<PublicKey>>,
}

struct Shared {
    core: Mutex<Core>,
    udp: Vec<UdpSocket>,
    /// Sockets on the numbers of the probe ports, where nothing but mirrors is answered.
    mirrors: Vec<UdpSocket>,
    connections: Connections,
    /// The core's next deadline may have moved.
    rearm: Notify,
}

struct Core {
    server: rendezvous::Server,
    batches: Batches,
    favours: Favours,
    writer: Writer,
    /// When [`keep_time`] looks at it next; `None` where it is about to.
    wakes: Option<Instant>,
}

impl Server {
    /// A server on the default ports of every address, which keeps nothing on disk.
    pub fn builder() -> ServerBuilder {
        ServerBuilder {
            listen: Vec::new(),
            probe_ports: vec![DEFAULT_PROBE_PORT],
            data: None,
            key: None,
            limits: Limits::default(),
            allowed: None,
        }
    }

    /// Where it listens for datagrams, and for TCP on the same numbers.
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// Where it answers probes: the main ports and the further ones.
    pub fn probe_addresses(&self) -> &[SocketAddr] {
        &self.probe_addresses
    }

    /// Its key, for clients that pin it.
    pub fn public_key(&self) -> PublicKey {
        self.key
    }

    /// What it is doing, in numbers, while it [runs](Server::run).
    pub fn stats(&self) -> impl Fn() -> Stats + Send + Sync + use<> {
        let shared = self.shared.clone();
        move || shared.lock().server.stats()
    }

    /// Changes which keys are served, while it [runs](Server::run): these only, or (`None`) every key. Who is
    /// not served any more is gone at once, for everybody else nothing changes.
    pub fn allow(&self) -> impl Fn(Option<BTreeSet<PublicKey>>) + Send + Sync + use<> {
        let shared = self.shared.clone();
        move |keys| {
            let mut core = shared.lock();
            core.server.allow(clock::now(), clock::since_1970().as_secs(), keys);
            shared.drain(core);
        }
    }

    /// Serves until `stop` is ready; then writes what is to be remembered, and returns.
    pub async fn run(self, stop: impl Future<Output = ()>) {
        let Server { shared, listeners, .. } = self;
        let mut tasks = JoinSet::new();
        for via in 0..shared.udp.len() as u16 {
            tasks.spawn(receive(shared.clone(), via));
        }
        for socket in 0..shared.mirrors.len() {
            tasks.spawn(mirror(shared.clone(), socket));
        }
        for (listener, port) in listeners {
            tasks.spawn(tcp::accept(shared.clone(), listener, port));
        }
        tasks.spawn(keep_time(shared.clone()));
        let progress = shared.lock().writer.progress();
        tasks.spawn(keep_promises(shared.clone(), progress));
        stop.await;
        tasks.shutdown().await;
        let writer = {
            let mut core = shared.lock();
            core.server.handle_stop(clock::since_1970().as_secs());
            std::mem::replace(&mut core.writer, Writer::in_memory())
        };
        // Waits for the disk.
        let finished =
            tokio::task::spawn_blocking(move || writer.finish(|| shared.lock().server.poll_store()));
        finished.await.ok();
    }
}

impl ServerBuilder {
    /// Listens there, for UDP and TCP; may be called again. Without it: port 7862 of every address of
    /// both families. Port 0 is any port that is free for both.
    pub fn listen(mut self, address: SocketAddr) -> Self {
        self.listen.push(address);
        self
    }

    /// The further TCP ports that answer probes, beside the main one; 7863 without this. A second port
    /// is what tells a NAT that looks at ports from one that does not. Port 0 is any free one.
    pub fn probe_ports(mut self, ports: impl IntoIterator<Item = u16>) -> Self {
        self.probe_ports = ports.into_iter().collect();
        self
    }

    /// Keeps the key and the names in that directory. Without it, names are forgotten with the process.
    pub fn data(mut self, directory: impl Into<PathBuf>) -> Self {
        self.data = Some(directory.into());
        self
    }

    /// With that key, instead of the one in the data directory or a new one.
    pub fn key(mut self, key: StaticKey) -> Self {
        self.key = Some(key);
        self
    }

    /// With other bounds.
    pub fn limits(mut self, limits: Limits) -> Self {
        self.limits = limits;
        self
    }

    /// Serves these keys only, hosts and clients; see [`Server::allow`].
    pub fn allow(mut self, keys: BTreeSet<PublicKey>) -> Self {
        self.allowed = Some(keys);
        self
    }

    /// Opens the data directory and binds the sockets.
    ///
    /// # Errors
    /// A file of the data directory, or [`ConfigError::Listen`](crate::error::ConfigError::Listen).
    pub async fn bind(self) -> Result<Server, Error> {
        let files = limits::raise_open_files();
        let key = match (self.key, &self.data) {
            (Some(key), _) => key,
            (None, Some(data)) => {
                identity::load_or_create(&data.join("server.key"), Zeroizing::new(clock::seed()))?
            }
            (None, None) => StaticKey::from_private(Zeroizing::new(clock::seed())),
        };
        let (writer, stored) = match &self.data {
            Some(data) => Writer::open(&data.join("names.redb"))?,
            None => (Writer::in_memory(), Vec::new()),
        };
        let sockets = Sockets::bind(&self.listen, &self.probe_ports)?;
        let public = key.public();
        let now = clock::now();
        let mut server = rendezvous::Server::new(now, clock::seed(), key, self.limits, stored);
        server.allow(now, clock::since_1970().as_secs(), self.allowed);
        let core = Mutex::new(Core {
            server,
            batches: Batches::new(now),
            favours: Favours::new(now),
            writer,
            wakes: None,
        });
        let addresses = sockets.udp.iter().filter_map(|socket| socket.local_addr().ok()).collect();
        let probe_addresses = sockets.tcp.iter().filter_map(|(tcp, _)| tcp.local_addr().ok()).collect();
        let shared = Shared {
            core,
            udp: sockets.udp,
            mirrors: sockets.mirrors,
            connections: Connections::new(files),
            rearm: Notify::new(),
        };
        Ok(Server {
            shared: Arc::new(shared),
            listeners: sockets.tcp,
            addresses,
            probe_addresses,
            key: public,
        })
    }
}

impl Shared {
    /// Hands a datagram to the core, and sends what it answers. Whether somebody with a key said it.
    fn datagram(&self, from: Source, datagram: &[u8]) -> bool {
        let mut core = self.lock();
        let (now, unix_secs) = (clock::now(), clock::since_1970().as_secs());
        let authentic = core.server.handle_datagram(now, unix_secs, from, datagram);
        self.drain(core);
        authentic
    }

    /// Answers a question where a datagram comes from; false for every other datagram.
    fn mirror(&self, socket: &UdpSocket, from: SocketAddr, datagram: &[u8]) -> bool {
        let Some(nonce) = parse_mirror(datagram) else { return false };
        if self.lock().favours.may_mirror(clock::now(), from) {
            udp::send(socket, from, &mirrored(nonce, from));
        }
        true
    }

    fn timeout(&self) {
        let mut core = self.lock();
        core.server.handle_timeout(clock::now(), clock::since_1970().as_secs());
        self.drain(core);
    }

    fn set_alarm(&self) -> Option<Instant> {
        let mut core = self.lock();
        core.wakes = core.server.poll_timeout();
        core.wakes
    }

    fn progressed(&self, progress: Progress) {
        let (now, unix_secs) = (clock::now(), clock::since_1970().as_secs());
        let mut core = self.lock();
        core.server.handle_stored(now, unix_secs, progress.stored);
        core.server.handle_unstored(now, unix_secs, progress.unstored);
        self.drain(core);
    }

    fn observe(
        &self,
        accepted: Instant,
        question: ProbeQuestion,
        server: SocketAddr,
        observed: SocketAddr,
    ) -> ProbeAnswer {
        self.lock().batches.observe(clock::now(), accepted, question, server, observed)
    }

    fn drain(&self, mut core: MutexGuard<'_, Core>) {
        while let Some((to, datagram)) = core.server.poll_transmit() {
            if !to.udp {
                self.connections.send(to, datagram);
            } else if let Some(socket) = self.udp.get(usize::from(to.via)) {
                // The one that the client knows: its NAT lets in nothing from another.
                udp::send(socket, to.addr, &datagram);
            }
        }
        let Core { server, writer, .. } = &mut *core;
        writer.take(|| server.poll_store());
        // Most deadlines move away from now: the task would be woken for nothing.
        let sooner = core.server.poll_timeout().is_some_and(|at| core.wakes.is_none_or(|wakes| at < wakes));
        drop(core);
        if sooner {
            self.rearm.notify_one();
        }
    }

    fn lock(&self) -> MutexGuard<'_, Core> {
        self.core.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn receive(shared: Arc<Shared>, via: u16) {
    let Some(socket) = shared.udp.get(usize::from(via)) else { return };
    let mut buffer = [0; MAX_DATAGRAM + 1];
    while socket.readable().await.is_ok() {
        for _ in 0..BATCH {
            match socket.try_recv_from(&mut buffer) {
                Ok((length, addr)) => {
                    let datagram = buffer.get(..length).unwrap_or_default();
                    if !shared.mirror(socket, addr, datagram) {
                        shared.datagram(Source { addr, udp: true, via }, datagram);
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                // An ICMP answer to an earlier datagram.
                Err(_) => {}
            }
        }
        tokio::task::yield_now().await;
    }
}

/// Shows clients a second port's view of their datagrams.
async fn mirror(shared: Arc<Shared>, socket: usize) {
    let Some(socket) = shared.mirrors.get(socket) else { return };
    let mut buffer = [0; MIRROR + 1];
    loop {
        // An error is an ICMP answer to an earlier datagram.
        if let Ok((length, from)) = socket.recv_from(&mut buffer).await {
            shared.mirror(socket, from, buffer.get(..length).unwrap_or_default());
        } else {
            tokio::task::yield_now().await;
        }
    }
}

async fn keep_time(shared: Arc<Shared>) {
    loop {
        let deadline = shared.set_alarm();
        tokio::select! {
            () = clock::until(deadline) => shared.timeout(),
            () = shared.rearm.notified() => {}
        }
    }
}

/// Tells the core what is on disk, and what cannot be written.
async fn keep_promises(shared: Arc<Shared>, mut progress: watch::Receiver<Progress>) {
    loop {
        let now = *progress.borrow_and_update();
        shared.progressed(now);
        if progress.changed().await.is_err() {
            return;
        }
    }
}
