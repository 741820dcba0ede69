//! What an [`Endpoint`](super::Endpoint) asks of its driver, and what the driver tells it.
//!
//! The driver owns every socket, the clock and the seeds. It names what it opens by small numbers
//! ([`ConnId`]); the endpoint names what it wants by others ([`PortsId`], [`PeerId`], [`AskId`]).

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use bytes::BytesMut;

use crate::{
    nat::Prediction,
    punch::Effort,
    secure::{EpochKeys, EstablishedLink, Psk, PublicKey, StaticKey},
    wire::{
        peer::{Goodbye, RoundId},
        probe::{ProbeAnswer, ProbeQuestion},
        server::{Decline, NameRefusal, Release, RequestRefusal},
    },
};

/// What an endpoint is set up with.
pub struct Settings {
    /// This installation's key.
    pub key: StaticKey,
    /// Addresses of the rendezvous server, at most one for each address family.
    pub servers: Vec<SocketAddr>,
    /// The server's key, where it is pinned; otherwise the first one seen is taken
    /// ([`Event::ServerKey`]).
    pub server_key: Option<PublicKey>,
    /// Addresses that probes go to; those of an address family without a local socket are skipped.
    pub probe_servers: Vec<SocketAddr>,
    /// What this endpoint is.
    pub role: Role,
    /// How much an attempt to connect may spend.
    pub effort: Effort,
}

/// What an endpoint is.
pub enum Role {
    /// `expose`: registered under a name, takes clients in.
    Host {
        /// The name.
        name: String,
    },
    /// `release`: gives a name up, and does nothing else.
    Owner {
        /// The name.
        name: String,
    },
    /// `connect`: asks for one host.
    Client {
        /// The host's name.
        name: String,
        /// The host's key; `None` only with an invite.
        host_key: Option<PublicKey>,
        /// Public part and secret of an invite.
        invite: Option<(u64, Psk)>,
    },
}

/// How a datagram travels to or from this endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Path {
    /// As UDP, to or from that address.
    Udp(SocketAddr),
    /// Behind its length over TCP, to or from that address of the rendezvous server. The driver opens
    /// the connection when the first datagram is to be sent.
    Tcp(SocketAddr),
}

/// A set of punch ports: bound once, held until released.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PortsId(pub u64);

/// A TCP connection that completed; numbered by the driver.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ConnId(pub u64);

/// A session with another peer; outlives links, attempts and handshakes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PeerId(pub u64);

/// A client that waits to be let in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct AskId(pub u64);

/// From the driver. Datagrams have [`handle_datagram`](super::Endpoint::handle_datagram).
#[derive(Debug)]
pub enum Input {
    /// Answer to [`Output::Admit`].
    Admit {
        /// From the question.
        ask: AskId,
        /// The pre-shared key of the handshake (the invite's secret, or [`Psk::none`]), or why not.
        verdict: Result<Psk, Decline>,
    },
    /// Answer to [`Output::Bind`].
    Bound {
        /// From the request.
        ports: PortsId,
        /// Local port numbers for IPv4, by index; empty where there is no IPv4.
        v4: Vec<u16>,
        /// The same for IPv6.
        v6: Vec<u16>,
        /// This machine's LAN addresses, of interfaces that punch (no loopback unless the server was
        /// reached over it, no tunnels); ports are filled in by the endpoint.
        lan: Vec<std::net::IpAddr>,
    },
    /// Answer to [`Output::Bind`]: it failed, and the set is as it was before. The endpoint tries again
    /// later, or does with the ports that it has.
    BindFailed {
        /// From the request.
        ports: PortsId,
        /// The system's words.
        why: String,
    },
    /// Answer to [`Output::Probe`].
    Probed {
        /// From the request.
        ports: PortsId,
        /// From the request.
        number: u8,
        /// What the server said; `None` if it could not be reached.
        answer: Option<ProbeAnswer>,
    },
    /// A connection asked for by [`Output::Connect`] is established.
    Connected {
        /// From the request.
        ports: PortsId,
        /// From the request.
        opening: u32,
        /// Its number from now on.
        conn: ConnId,
    },
    /// A connection asked for by [`Output::Connect`] failed.
    ConnectFailed {
        /// From the request.
        ports: PortsId,
        /// From the request.
        opening: u32,
        /// How.
        why: OpenFailure,
    },
    /// A listener of the set accepted a connection.
    Accepted {
        /// The set.
        ports: PortsId,
        /// Where it came from.
        remote: SocketAddr,
        /// Its number from now on.
        conn: ConnId,
    },
    /// Bytes on a connection that is not handed over yet.
    Received {
        /// The connection.
        conn: ConnId,
        /// The bytes.
        bytes: Vec<u8>,
    },
    /// A connection that is not handed over ended or failed.
    Closed {
        /// The connection.
        conn: ConnId,
    },
    /// The session's link is gone, or held for dead.
    LinkLost {
        /// The session.
        peer: PeerId,
        /// The link.
        epoch: u32,
    },
    /// This side ends a session.
    End {
        /// The session.
        peer: PeerId,
        /// Why; the other peer is told.
        why: Goodbye,
    },
    /// An address or a route of this machine changed, or it woke from sleep.
    NetworkChanged,
    /// The program stops: give the name up, end all sessions. The driver goes on until
    /// [`is_finished`](super::Endpoint::is_finished), or for a second at most.
    Stop,
}

/// How an opening failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum OpenFailure {
    /// Reset (ECONNREFUSED, ECONNRESET).
    Refused,
    /// ICMP said no (EHOSTUNREACH, ENETUNREACH, EACCES after the SYN left).
    Unreachable,
    /// The tuple exists (EADDRNOTAVAIL): a listener probably holds it half-open.
    TupleExists,
    /// No answer.
    TimedOut,
    /// Anything else, in the system's words.
    Other(String),
}

/// To the driver.
#[derive(Debug)]
pub enum Output {
    /// Send a datagram. A failure to send is not reported: the network may lose it anyway.
    Transmit {
        /// Where to.
        path: Path,
        /// The datagram.
        datagram: Vec<u8>,
    },
    /// May this client come in? Answered by [`Input::Admit`].
    Admit {
        /// Number of the question.
        ask: AskId,
        /// The client's key, which it has proved to hold.
        key: PublicKey,
        /// Public part of the invite that it named.
        invite: Option<u64>,
    },
    /// Bind this many punch ports in each address family of the server. For a set that is bound already
    /// and is smaller, bind so many more: they come after the others, which stay as they are. Answered by
    /// [`Input::Bound`] (with all of them) or [`Input::BindFailed`]. What is asked of the new ones before
    /// the answer came is carried out all the same, as outputs are in their order.
    Bind {
        /// The set.
        ports: PortsId,
        /// How many in each family, those that are bound already among them.
        count: u16,
    },
    /// Connect from a punch port to a probe server, ask, and keep the connection until the set is
    /// released.
    Probe {
        /// The set.
        ports: PortsId,
        /// Number of the probe within its batch.
        number: u8,
        /// Index of the punch port.
        local: u16,
        /// The server.
        server: SocketAddr,
        /// What to ask.
        question: ProbeQuestion,
    },
    /// Listen on a punch port, in both families, until the set is released.
    Listen {
        /// The set.
        ports: PortsId,
        /// Index of the punch port.
        local: u16,
    },
    /// Open a connection at an instant: create and bind the socket now, connect then.
    Connect {
        /// The set.
        ports: PortsId,
        /// Number of the opening within the set.
        opening: u32,
        /// Index of the punch port, or `None` for any port (plain connects inside a LAN).
        local: Option<u16>,
        /// Where to.
        remote: SocketAddr,
        /// When; in the past means at once.
        at: Instant,
        /// Time to live of the first SYN, where it is to die on the way.
        ttl: Option<u8>,
    },
    /// Write bytes on a connection.
    Send {
        /// The connection.
        conn: ConnId,
        /// The bytes.
        bytes: Vec<u8>,
    },
    /// Close a connection.
    Close {
        /// The connection.
        conn: ConnId,
    },
    /// Close everything of the set: holders, probes, listeners, openers and connections that were not
    /// handed over.
    Release {
        /// The set.
        ports: PortsId,
    },
    /// A session begins.
    Session {
        /// Its number.
        peer: PeerId,
        /// The other peer's key, proved.
        key: PublicKey,
        /// Public part of the invite that let the client in: it is used up now. (On the client: the
        /// invite with which the host proved itself.) Where it was used up by somebody else meanwhile,
        /// the driver answers [`Input::End`].
        invite: Option<u64>,
        /// Keys of epoch 0.
        keys: EpochKeys,
        /// This side is the initiator (`connect`).
        initiator: bool,
    },
    /// The connection is nominated: it is the session's link from now on. It belongs to the driver.
    Link {
        /// The session.
        peer: PeerId,
        /// The connection.
        conn: ConnId,
        /// Epoch and keys.
        link: EstablishedLink,
        /// Bytes that were received behind the handshake.
        surplus: BytesMut,
    },
    /// Close the session's link of that epoch if it is still in use: the other side holds it for dead.
    /// Do not report it as lost.
    KillLink {
        /// The session.
        peer: PeerId,
        /// The link.
        epoch: u32,
    },
    /// The session is over: its streams are to be reset.
    SessionEnded {
        /// The session.
        peer: PeerId,
        /// Why.
        why: Goodbye,
    },
    /// Something that a person wants to know.
    Event(Event),
}

/// What a person wants to know, and what ends a run.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// The server named its key and none was pinned.
    ServerKey(PublicKey),
    /// The server's key is not the pinned one. Nothing more is said to it.
    ServerKeyChanged {
        /// The key that it named.
        found: PublicKey,
    },
    /// The server is reached.
    ServerReached {
        /// The server.
        path: Path,
        /// This endpoint's address as the server sees it.
        observed: SocketAddr,
        /// From the first datagram to now.
        took: Duration,
    },
    /// The server does not answer (any more), over UDP or TCP; the endpoint keeps trying.
    ServerSilent {
        /// For how long.
        since: Duration,
    },
    /// The server speaks another protocol version.
    ServerVersion {
        /// Its version.
        theirs: u8,
    },
    /// The server serves other keys than this one's only; it is asked on, at long intervals.
    ServerPrivate,
    /// What came of giving the name up.
    Released(Release),
    /// The name is registered.
    Registered,
    /// The name cannot be registered.
    NotRegistered(NameRefusal),
    /// Nobody is registered under the name; the request is kept.
    Waiting {
        /// Time since somebody was; `None` if the server has never heard of the name.
        last_seen: Option<Duration>,
    },
    /// The request cannot be kept.
    NotKept(RequestRefusal),
    /// The host lets this client in.
    Introduced {
        /// Observed addresses of the host.
        addresses: Vec<SocketAddr>,
    },
    /// The host does not let this client in.
    Declined(Decline),
    /// The handshake with the host failed: the invite's secret is wrong, or the host is not who the
    /// server says.
    NotProved,
    /// The UDP hole is open.
    HoleOpen {
        /// The session.
        peer: PeerId,
        /// The other peer's address.
        remote: SocketAddr,
        /// Round trip.
        rtt: Duration,
    },
    /// This side's NAT is measured.
    NatFound {
        /// The session.
        peer: PeerId,
        /// One for each address family.
        predictions: Vec<Prediction>,
        /// From the first probe to the last answer.
        took: Duration,
    },
    /// The other side has told what its NAT does.
    PeerNatFound {
        /// The session.
        peer: PeerId,
        /// One for each address family.
        predictions: Vec<Prediction>,
    },
    /// An instant is agreed.
    Opening {
        /// The session.
        peer: PeerId,
        /// The round.
        id: RoundId,
        /// Time to the instant.
        lead: Duration,
        /// Connections that this side will open.
        openings: usize,
    },
    /// A link is nominated.
    Connected {
        /// The session.
        peer: PeerId,
        /// The other end.
        remote: SocketAddr,
        /// Inside one LAN, without a punch.
        lan: bool,
        /// From the agreed instant (or the first try) to now.
        took: Duration,
        /// Round trip of the path at the time.
        rtt: Option<Duration>,
        /// Links of this session so far.
        links: u32,
    },
    /// A round brought no link.
    RoundFailed {
        /// The session.
        peer: PeerId,
        /// The round.
        id: RoundId,
        /// Why, in words.
        why: String,
        /// Time to the next one.
        next: Duration,
    },
    /// The pair cannot be punched; nothing is sprayed.
    Hopeless {
        /// The session.
        peer: PeerId,
        /// Why, in words.
        why: String,
    },
}
