//! Punch ports: bound once, held until released.
//!
//! Each port has a *holder*, a socket that is bound and nothing else, so that the number is not given
//! away between probe and punch. Probes, listeners and openers are further sockets of the same port
//! ([`socket::bound`]). Nothing of a set is closed before [`PunchPorts::release`] except what the
//! endpoint closes by name: a stray close makes the kernel reset the other peer's late SYN.
//!
//! Connections that are not handed over yet are read here and nowhere else: the task of a connection
//! says only that there is something to read. So nothing is in flight when a connection becomes a
//! link.

mod burst;
mod favours;
mod open;
pub(crate) mod socket;

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    net::SocketAddr,
    ops::RangeInclusive,
    sync::Arc,
    time::Duration,
};

use socket2::SockRef;
use tokio::{
    net::TcpStream,
    sync::{Notify, mpsc, oneshot},
    task::{AbortHandle, JoinSet},
};

use self::{
    burst::{Burst, Order},
    open::Happened,
    socket::Family,
};
use super::{clock, lan};
use crate::{
    endpoint::{ConnId, Favour, Input, OpenFailure, PortsId},
    wire::probe::ProbeQuestion,
};

/// Events that wait for the endpoint's task; the tasks of the sockets wait when it is full.
const EVENTS: usize = 1024;

/// Most connections of a set, opened and accepted, that are not handed over: a listener faces
/// everybody who can reach it. Every opening of a burst may complete.
const MAX_CONNECTIONS: usize = 2048;

/// Most bytes taken from a connection at a time before it is handed over: several times the longest
/// handshake message.
const READ: usize = 16 << 10;

/// All sets of punch ports of an endpoint.
pub(crate) struct PunchPorts {
    /// Addresses of the server: they say which families and which interfaces count.
    servers: Vec<SocketAddr>,
    /// The numbers that may be used; any without.
    range: Option<RangeInclusive<u16>>,
    sets: BTreeMap<PortsId, PortSet>,
    connections: BTreeMap<ConnId, Connection>,
    next_connection: u64,
    events: mpsc::Receiver<Happened>,
    report: mpsc::Sender<Happened>,
    burst: Burst,
}

/// One set. Dropping it closes all its sockets.
#[derive(Default)]
struct PortSet {
    holders_v4: Vec<Holder>,
    holders_v6: Vec<Holder>,
    /// Probes, listeners and openings in progress.
    tasks: JoinSet<()>,
    connections: usize,
}

struct Holder {
    _socket: socket2::Socket,
    port: u16,
}

/// An established connection that is not handed over.
struct Connection {
    ports: PortsId,
    stream: Arc<TcpStream>,
    /// Tells the reading task that what it announced has been read.
    read: Arc<Notify>,
    reading: AbortHandle,
}

impl PunchPorts {
    /// No set yet. With a range, every set is bound within it, and may get fewer ports than it wants.
    ///
    /// # Errors
    /// The thread for the openings cannot be started.
    pub(crate) fn new(servers: Vec<SocketAddr>, range: Option<RangeInclusive<u16>>) -> io::Result<Self> {
        let (report, events) = mpsc::channel(EVENTS);
        let burst = Burst::start(report.clone())?;
        Ok(PunchPorts {
            servers,
            range,
            sets: BTreeMap::new(),
            connections: BTreeMap::new(),
            next_connection: 0,
            events,
            report,
            burst,
        })
    }

    /// Binds a set, or more ports into it; the answer for the endpoint.
    pub(crate) fn bind(&mut self, ports: PortsId, count: u16) -> Input {
        let held = self.sets.get(&ports).map_or((0, 0), |set| (set.holders_v4.len(), set.holders_v6.len()));
        let hold_if = |family: Family, held: usize| -> io::Result<Vec<Holder>> {
            let wanted = self.servers.iter().any(|server| Family::of(server) == family);
            let more = if wanted { usize::from(count).saturating_sub(held) } else { 0 };
            match &self.range {
                None => (0..more).map(|_| Holder::new(family, 0)).collect(),
                Some(range) => {
                    let numbers = self.numbers(ports, family, range).into_iter().take(more);
                    numbers.map(|port| Holder::new(family, port)).collect()
                }
            }
        };
        let (v4, v6) = match (hold_if(Family::V4, held.0), hold_if(Family::V6, held.1)) {
            (Err(error), _) | (_, Err(error)) => {
                return Input::BindFailed { ports, why: error.to_string() };
            }
            (Ok(v4), Ok(v6)) => (v4, v6),
        };
        let set = self.sets.entry(ports).or_default();
        set.holders_v4.extend(v4);
        set.holders_v6.extend(v6);
        let numbers = |holders: &[Holder]| holders.iter().map(|holder| holder.port).collect();
        Input::Bound {
            ports,
            v4: numbers(&set.holders_v4),
            v6: numbers(&set.holders_v6),
            lan: lan::addresses(&self.servers),
        }
    }

    /// Numbers of the range for a set: those first that no other set holds, because a tuple exists only
    /// once.
    fn numbers(&self, ports: PortsId, family: Family, range: &RangeInclusive<u16>) -> Vec<u16> {
        let held = |id: PortsId, set: &PortSet| -> Vec<(u16, bool)> {
            set.holders(family).iter().map(|holder| (holder.port, id == ports)).collect()
        };
        let held: Vec<(u16, bool)> = self.sets.iter().flat_map(|(id, set)| held(*id, set)).collect();
        let own: BTreeSet<u16> = held.iter().filter(|(_, own)| *own).map(|(port, _)| *port).collect();
        let held: BTreeSet<u16> = held.into_iter().map(|(port, _)| port).collect();
        let unused = range.clone().filter(|port| !own.contains(port));
        let (used, mut free): (Vec<u16>, Vec<u16>) = unused.partition(|port| held.contains(port));
        free.extend(used);
        free
    }

    /// Whether every port of a range can be had now, in the families of these servers.
    ///
    /// # Errors
    /// The first one that cannot.
    pub(crate) fn check(
        servers: &[SocketAddr],
        range: &RangeInclusive<u16>,
    ) -> Result<(), (SocketAddr, io::Error)> {
        for server in servers {
            let family = Family::of(server);
            for port in range.clone() {
                Holder::new(family, port).map_err(|error| (family.any(port), error))?;
            }
        }
        Ok(())
    }

    /// Sends the SYN of a probe; the rest happens by itself.
    pub(crate) fn probe(
        &mut self,
        ports: PortsId,
        number: u8,
        local: u16,
        server: SocketAddr,
        question: ProbeQuestion,
    ) {
        let Some(set) = self.sets.get_mut(&ports) else { return };
        // Here and now: the order of the SYNs is the order of the numbers.
        let started = set.port(Family::of(&server), local).and_then(|port| {
            let socket = socket::bound(Family::of(&server), port)?;
            if self.range.is_some() {
                // The same tuple will be needed for the next probe, which must not wait for this one to be
                // forgotten.
                socket.set_linger(Some(Duration::ZERO))?;
            }
            socket::start(&socket, server, None)?;
            Ok(socket)
        });
        set.tasks.spawn(open::probe(ports, number, started, question, self.report.clone()));
    }

    /// Sends the SYN of a connection on which the server is asked for a favour; the rest happens by itself.
    pub(crate) fn favour(&mut self, ports: PortsId, local: u16, server: SocketAddr, favour: Favour) {
        let Some(set) = self.sets.get_mut(&ports) else { return };
        let family = Family::of(&server);
        let port = set.port(family, local);
        let started = port.as_ref().map_err(|e| e.kind().into()).and_then(|&port| {
            let socket = socket::bound(family, port)?;
            socket::start(&socket, server, None)?;
            Ok(socket)
        });
        let asking = favours::Asking { port: port.unwrap_or(0), server, favour };
        set.tasks.spawn(favours::ask(ports, asking, started, self.report.clone()));
    }

    /// Listens on a port of the set, in both families.
    pub(crate) fn listen(&mut self, ports: PortsId, local: u16) {
        let Some(set) = self.sets.get_mut(&ports) else { return };
        for family in [Family::V4, Family::V6] {
            let Ok(port) = set.port(family, local) else { continue };
            match socket::bound(family, port).and_then(open::listener) {
                Ok(listener) => {
                    set.tasks.spawn(open::accept(ports, listener, self.report.clone()));
                }
                Err(error) => tracing::warn!(port, %error, "cannot listen on a punch port"),
            }
        }
    }

    /// Creates and binds the socket of an opening, and connects it at the instant.
    pub(crate) fn connect(
        &mut self,
        ports: PortsId,
        opening: u32,
        local: Option<u16>,
        remote: SocketAddr,
        at: std::time::Instant,
        ttl: Option<u8>,
    ) {
        let Some(set) = self.sets.get_mut(&ports) else { return };
        let family = Family::of(&remote);
        let socket = match local {
            Some(local) => set.port(family, local).and_then(|port| socket::bound(family, port)),
            None => socket::unbound(family),
        };
        let (done, started) = oneshot::channel();
        match socket {
            Ok(socket) if at > clock::now() => {
                let opening = (ports, opening);
                self.burst.order(Order { opening, at, socket, remote, ttl, done });
            }
            Ok(socket) => {
                let result = socket::start(&socket, remote, ttl);
                done.send((socket, result)).ok();
            }
            Err(error) => {
                tracing::debug!(%remote, %error, "no socket for an opening");
                // The dropped sender tells the task.
            }
        }
        // A set that is used again and again must not collect what has ended.
        while set.tasks.try_join_next().is_some() {}
        set.tasks.spawn(open::opening(ports, opening, started, self.report.clone()));
    }

    /// Writes on a connection. Before the link there are only handshake messages, which always fit
    /// into an empty socket buffer; a connection where they do not is reported as closed.
    pub(crate) fn send(&mut self, conn: ConnId, bytes: &[u8]) -> Option<Input> {
        let connection = self.connections.get(&conn)?;
        // Not the runtime's `try_write`, which knows of no room in a socket before it has heard of it: on a
        // connection that was accepted just now it would write nothing.
        match SockRef::from(&*connection.stream).send(bytes) {
            Ok(written) if written == bytes.len() => None,
            result => {
                tracing::debug!(?conn, ?result, "handshake not sent");
                Some(Input::Closed { conn })
            }
        }
    }

    /// Closes a connection; one that was handed over or never was is no error.
    pub(crate) fn close(&mut self, conn: ConnId) {
        self.remove(conn);
    }

    /// Closes everything of a set that was not handed over.
    pub(crate) fn release(&mut self, ports: PortsId) {
        self.connections.retain(|_, connection| connection.ports != ports);
        self.sets.remove(&ports);
    }

    /// Gives a connection away, to become a link.
    pub(crate) fn hand_over(&mut self, conn: ConnId) -> Option<Arc<TcpStream>> {
        self.remove(conn)
    }

    /// Waits for the next thing that happens to a socket, and says it in the endpoint's words.
    pub(crate) async fn next(&mut self) -> Input {
        loop {
            // The sender is held by `self`, so the channel never ends.
            let Some(happened) = self.events.recv().await else {
                return std::future::pending().await;
            };
            if let Some(input) = self.translate(happened) {
                return input;
            }
        }
    }

    /// Something that has happened already.
    pub(crate) fn try_next(&mut self) -> Option<Input> {
        while let Ok(happened) = self.events.try_recv() {
            if let Some(input) = self.translate(happened) {
                return Some(input);
            }
        }
        None
    }

    /// `None` for what concerns a set or a connection that is gone.
    fn translate(&mut self, happened: Happened) -> Option<Input> {
        match happened {
            Happened::Probed { ports, number, answer } => {
                self.sets.contains_key(&ports).then_some(Input::Probed { ports, number, answer })
            }
            Happened::Favoured { ports, favour, answer } => {
                self.sets.contains_key(&ports).then_some(Input::Favour { ports, favour, answer })
            }
            Happened::Left { ports, left } => {
                self.sets.contains_key(&ports).then_some(Input::Left { ports, left })
            }
            Happened::Opened { ports, opening, stream: Ok(stream) } => {
                self.sets.contains_key(&ports).then(|| match self.insert(ports, stream) {
                    Some(conn) => Input::Connected { ports, opening, conn },
                    None => {
                        let why = OpenFailure::Other("too many connections".into());
                        Input::ConnectFailed { ports, opening, why }
                    }
                })
            }
            Happened::Opened { ports, opening, stream: Err(why) } => {
                self.sets.contains_key(&ports).then_some(Input::ConnectFailed { ports, opening, why })
            }
            Happened::Accepted { ports, remote, stream } => {
                let conn = self.insert(ports, stream)?;
                Some(Input::Accepted { ports, remote, conn })
            }
            Happened::Readable(conn) => self.read(conn),
        }
    }

    fn read(&mut self, conn: ConnId) -> Option<Input> {
        let connection = self.connections.get(&conn)?;
        let mut bytes = [0; READ];
        match connection.stream.try_read(&mut bytes) {
            Ok(0) => Some(Input::Closed { conn }),
            Ok(length) => {
                connection.read.notify_one();
                let bytes = bytes.get(..length).unwrap_or_default().to_vec();
                Some(Input::Received { conn, bytes })
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                connection.read.notify_one();
                None
            }
            Err(_) => Some(Input::Closed { conn }),
        }
    }

    fn insert(&mut self, ports: PortsId, stream: TcpStream) -> Option<ConnId> {
        let set = self.sets.get_mut(&ports).filter(|set| set.connections < MAX_CONNECTIONS)?;
        set.connections += 1;
        self.next_connection += 1;
        let conn = ConnId(self.next_connection);
        let stream = Arc::new(stream);
        let read = Arc::new(Notify::new());
        let watch = open::announce(conn, stream.clone(), read.clone(), self.report.clone());
        let reading = tokio::spawn(watch).abort_handle();
        self.connections.insert(conn, Connection { ports, stream, read, reading });
        Some(conn)
    }

    fn remove(&mut self, conn: ConnId) -> Option<Arc<TcpStream>> {
        let connection = self.connections.remove(&conn)?;
        if let Some(set) = self.sets.get_mut(&connection.ports) {
            set.connections -= 1;
        }
        Some(connection.stream.clone())
    }
}

impl PortSet {
    fn holders(&self, family: Family) -> &[Holder] {
        if family == Family::V4 { &self.holders_v4 } else { &self.holders_v6 }
    }

    /// The number of a port.
    fn port(&self, family: Family, local: u16) -> io::Result<u16> {
        self.holders(family)
            .get(usize::from(local))
            .map(|holder| holder.port)
            .ok_or_else(|| io::ErrorKind::AddrNotAvailable.into())
    }
}

impl Holder {
    fn new(family: Family, port: u16) -> io::Result<Self> {
        let socket = socket::bound(family, port)?;
        let port = socket::port_of(&socket)?;
        Ok(Holder { _socket: socket, port })
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.reading.abort();
    }
}

#[cfg(test)]
mod tests;
