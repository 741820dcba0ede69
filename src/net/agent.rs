//! The task that owns an [`Endpoint`]: carries everything that happens to it, and everything that it
//! wants out.
//!
//! 1. Wait for a datagram, a socket event of the punch ports, a command, or the next deadline.
//! 2. Tell the endpoint.
//! 3. Carry out what it wants until it wants nothing more, and go to 1.

use std::{
    collections::BTreeMap,
    ops::RangeInclusive,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::BytesMut;
use tokio::sync::mpsc;

use super::{
    admission::{Admission, Question},
    clock,
    event::{Event, EventSource},
    lan,
    ports::PunchPorts,
    tcp_datagrams::{Arrived, TcpDatagrams},
    tunnel::{Beginning, Tunnel},
    udp::UdpSockets,
    watch::{self, Change, Notices, Watch},
};
use crate::{
    endpoint::{ConnId, Endpoint, Input, Output, Path, PeerId, Settings},
    secure::{EpochKeys, EstablishedLink, PublicKey},
    wire::peer::Goodbye,
};

/// Commands that wait for the agent; whoever sends more waits.
const COMMANDS: usize = 64;

/// Datagrams over TCP that wait for the agent.
const ARRIVED: usize = 64;

/// Datagrams and events taken in before other things get their turn.
const BATCH: usize = 64;

/// How long a stopping agent goes on so that the server and the peers hear of it.
const FAREWELL: Duration = Duration::from_secs(1);

/// Tells an agent things. Dropping all of them stops it.
pub(crate) type Commands = mpsc::Sender<Input>;

/// What a new session is handed to.
pub(crate) trait Arrivals: Send {
    /// A session begins.
    fn session(&mut self, tunnel: Arc<Tunnel>);
}

/// An endpoint with its sockets.
pub(crate) struct Agent {
    endpoint: Endpoint,
    udp: UdpSockets,
    tcp: TcpDatagrams,
    arrived: mpsc::Receiver<Arrived>,
    ports: PunchPorts,
    commands: mpsc::Receiver<Input>,
    /// For the tunnels, which report lost links, and for answers about admission.
    commander: mpsc::WeakSender<Input>,
    tunnels: BTreeMap<PeerId, Arc<Tunnel>>,
    admission: Arc<dyn Admission>,
    arrivals: Box<dyn Arrivals>,
    events: EventSource,
    linger: Duration,
    dead_after: Option<Duration>,
    watch: Watch,
    /// Set once the agent is told to stop.
    stops_at: Option<Instant>,
}

/// What an agent needs beside the endpoint's settings.
pub(crate) struct Surroundings {
    /// Local UDP port, 0 for any.
    pub(crate) udp_port: u16,
    /// Numbers that punch ports may have; any without.
    pub(crate) punch_ports: Option<RangeInclusive<u16>>,
    /// Who is let in.
    pub(crate) admission: Arc<dyn Admission>,
    /// Where sessions go.
    pub(crate) arrivals: Box<dyn Arrivals>,
    /// Where events go.
    pub(crate) events: EventSource,
    /// How long a session without a link lives.
    pub(crate) linger: Duration,
    /// Silence after which a link is dead, where it was chosen.
    pub(crate) dead_after: Option<Duration>,
}

impl Agent {
    /// Binds the sockets.
    ///
    /// # Errors
    /// No UDP socket in any of the servers' families, or no thread for the openings.
    pub(crate) fn new(settings: Settings, around: Surroundings) -> std::io::Result<(Self, Commands)> {
        super::limits::raise_open_files();
        let (commands, orders) = mpsc::channel(COMMANDS);
        let (arriving, arrived) = mpsc::channel(ARRIVED);
        let agent = Agent {
            udp: UdpSockets::bind(&settings.servers, around.udp_port)?,
            tcp: TcpDatagrams::new(arriving),
            arrived,
            ports: PunchPorts::new(settings.servers.clone(), around.punch_ports)?,
            watch: Watch::new(settings.servers.clone()),
            endpoint: Endpoint::new(clock::now(), clock::seed(), settings),
            commands: orders,
            commander: commands.downgrade(),
            tunnels: BTreeMap::new(),
            admission: around.admission,
            arrivals: around.arrivals,
            events: around.events,
            linger: around.linger,
            dead_after: around.dead_after,
            stops_at: None,
        };
        Ok((agent, commands))
    }

    /// Runs until told to [stop](Input::Stop), or until nobody can command it any more.
    pub(crate) async fn run(mut self) {
        self.carry_out();
        let mut looks = tokio::time::interval(watch::INTERVAL);
        let mut notices = Notices::new();
        looks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            if self.stops_at.is_some_and(|at| self.endpoint.is_finished() || at <= clock::now()) {
                break;
            }
            let deadline = self.endpoint.poll_timeout().into_iter().chain(self.stops_at).min();
            tokio::select! {
                datagram = self.udp.receive() => {
                    self.datagram(Path::Udp(datagram.from), datagram.bytes());
                    for _ in 1..BATCH {
                        let Some(datagram) = self.udp.try_receive() else { break };
                        self.datagram(Path::Udp(datagram.from), datagram.bytes());
                    }
                }
                Some((server, datagram)) = self.arrived.recv() => self.datagram(Path::Tcp(server), &datagram),
                input = self.ports.next() => {
                    self.tell(input);
                    for _ in 1..BATCH {
                        let Some(input) = self.ports.try_next() else { break };
                        self.tell(input);
                    }
                }
                command = self.commands.recv(), if self.stops_at.is_none() => {
                    // Where nobody is left who could want anything, that is the same as being told to stop.
                    self.command(command.unwrap_or(Input::Stop));
                }
                _ = looks.tick() => self.look(),
                () = notices.next() => self.look(),
                () = clock::until(deadline) => {
                    self.endpoint.handle_timeout(clock::now());
                    self.carry_out();
                }
            }
        }
        for tunnel in self.tunnels.into_values() {
            tunnel.end(Goodbye::Stopped);
        }
    }

    fn look(&mut self) {
        let Some(change) = self.watch.look() else { return };
        tracing::info!(?change, "this computer's place in the network changed");
        let addresses = lan::all();
        for tunnel in self.tunnels.values() {
            if let Change::Slept(_) = change {
                tunnel.woke();
            }
            tunnel.addresses_changed(&addresses);
        }
        self.tcp.renew();
        self.tell(Input::NetworkChanged);
    }

    fn datagram(&mut self, path: Path, datagram: &[u8]) {
        self.endpoint.handle_datagram(clock::now(), path, datagram);
        self.carry_out();
    }

    fn tell(&mut self, input: Input) {
        self.endpoint.handle(clock::now(), input);
        self.carry_out();
    }

    fn command(&mut self, input: Input) {
        match &input {
            Input::Stop => {
                self.stops_at.get_or_insert_with(|| clock::now() + FAREWELL);
            }
            // A newer link may have come since.
            Input::LinkLost { peer, epoch }
                if !self.tunnels.get(peer).is_some_and(|tunnel| tunnel.has_lost(*epoch)) =>
            {
                return;
            }
            Input::End { peer, why } => self.end(*peer, *why),
            _ => {}
        }
        self.tell(input);
    }

    fn carry_out(&mut self) {
        while let Some(output) = self.endpoint.poll(clock::now()) {
            self.output(output);
        }
    }

    fn output(&mut self, output: Output) {
        match output {
            Output::Transmit { path: Path::Udp(to), datagram } => self.udp.send(to, &datagram),
            Output::Transmit { path: Path::Tcp(to), datagram } => self.tcp.send(to, datagram),
            Output::Admit { ask, key, invite } => {
                let question = Question::new(key, invite, ask, self.commander.clone());
                self.admission.ask(question);
            }
            Output::Bind { ports, count } => {
                let bound = self.ports.bind(ports, count);
                self.endpoint.handle(clock::now(), bound);
            }
            Output::Probe { ports, number, local, server, question } => {
                self.ports.probe(ports, number, local, server, question);
            }
            Output::Favour { ports, local, server, favour } => {
                self.ports.favour(ports, local, server, favour);
            }
            Output::Listen { ports, local } => self.ports.listen(ports, local),
            Output::Connect { ports, opening, local, remote, at, ttl } => {
                self.ports.connect(ports, opening, local, remote, at, ttl);
            }
            Output::Send { conn, bytes } => {
                if let Some(failed) = self.ports.send(conn, &bytes) {
                    self.endpoint.handle(clock::now(), failed);
                }
            }
            Output::Close { conn } => self.ports.close(conn),
            Output::Release { ports } => self.ports.release(ports),
            Output::Session { peer, key, invite, keys, initiator } => {
                self.begin(peer, key, invite, keys, initiator);
            }
            Output::Link { peer, conn, link, surplus } => self.link(peer, conn, link, surplus),
            Output::KillLink { peer, epoch } => {
                if let Some(tunnel) = self.tunnels.get(&peer) {
                    tunnel.drop_link(epoch);
                }
            }
            Output::SessionEnded { peer, why } => self.end(peer, why),
            Output::Event(event) => self.events.tell(Event::Endpoint(event)),
        }
    }

    fn begin(&mut self, peer: PeerId, key: PublicKey, invite: Option<u64>, keys: EpochKeys, initiator: bool) {
        if let Err(why) = self.admission.admitted(&key, invite) {
            self.endpoint.handle(clock::now(), Input::End { peer, why });
            return;
        }
        let tunnel = Tunnel::new(Beginning {
            peer,
            key,
            keys,
            initiator,
            linger: self.linger,
            dead_after: self.dead_after,
            commands: self.commander.clone(),
            events: self.events.clone(),
        });
        self.tunnels.insert(peer, tunnel.clone());
        self.events.began(peer, &tunnel);
        self.events.tell(Event::SessionBegan { peer, key, invite });
        self.arrivals.session(tunnel);
    }

    fn link(&mut self, peer: PeerId, conn: ConnId, link: EstablishedLink, surplus: BytesMut) {
        let stream = self.ports.hand_over(conn);
        let Some(tunnel) = self.tunnels.get(&peer) else { return };
        tunnel.link(stream, link, surplus);
    }

    fn end(&mut self, peer: PeerId, why: Goodbye) {
        if let Some(tunnel) = self.tunnels.remove(&peer) {
            tunnel.end(why);
            self.events.tell(Event::SessionEnded { peer, why });
        }
    }
}
