//! The client's part: asks for one host, until it has a line to it.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use rand::RngExt;

use super::{
    Endpoint, Event, Hearsay, Output, Part, PortsId,
    attempt::EARLY,
    line::{Line, Relation},
    peer::{Env, Peer},
    round::Round,
};
use crate::{
    channel::Channel,
    secure::{Initiator, Psk, PublicKey, Purpose},
    wire::{
        self, MAX_BODY,
        peer::{Goodbye, Invited, MAX_PEER_DATAGRAM, PeerHello, PeerMessage, PeerReply, RoundId},
        server::{FromServer, ToServer},
    },
};

/// The first round of a session.
const FIRST: RoundId = RoundId { attempt: 1, round: 0 };

/// After this the handshake is made again, with new keys.
const REKEY: Duration = Duration::from_secs(3600);

/// The host is asked for at most this often.
const PATIENCE: Duration = Duration::from_secs(10);

/// A request for the host.
pub(super) struct Asking {
    name: String,
    host_key: Option<PublicKey>,
    invite: Option<(u64, Psk)>,
    session: [u8; 16],
    /// The association over which the host is asked for: the first one that the server answers on.
    server: Option<usize>,
    request: u32,
    asked: Option<Instant>,
    /// The handshake that is under way.
    hello: Option<Hello>,
    /// A round that was begun early.
    early: Option<Round>,
    /// The refusals that were told since a number of links.
    told: (u32, Vec<Hearsay>),
}

/// A first message that was sent.
struct Hello {
    initiator: Initiator,
    index: u32,
    prepare: RoundId,
    /// The host was not there at the time: the message waited at the server.
    waited: bool,
}

impl Asking {
    pub(super) fn new(name: String, host_key: Option<PublicKey>, invite: Option<(u64, Psk)>) -> Self {
        Asking {
            name,
            host_key,
            invite,
            session: [0; 16],
            server: None,
            request: 0,
            asked: None,
            hello: None,
            early: None,
            told: (0, Vec::new()),
        }
    }
}

impl Endpoint {
    fn asking(&mut self) -> Option<&mut Asking> {
        match &mut self.part {
            Part::Client(asking) => Some(asking),
            Part::Host(_) | Part::Owner(_) => None,
        }
    }

    /// Asks the server for the host: with its key by the first handshake message, without it for the
    /// key first.
    pub(super) fn ask(&mut self, now: Instant, server: usize) {
        let known = self.peers.values().next().map(|p| (p.session, p.next_attempt()));
        let (session, prepare) = known.unwrap_or_else(|| (self.rng.random(), FIRST));
        let Part::Client(asking) = &mut self.part else { return };
        if *asking.server.get_or_insert(server) != server {
            return;
        }
        let given_up = asking.hello.take().map(|_| asking.request);
        asking.session = session;
        asking.asked = Some(now);
        asking.request += 1;
        let (request, name, host_key) = (asking.request, asking.name.clone(), asking.host_key);
        let (invite, psk) = match &asking.invite {
            Some((id, psk)) => (Some(*id), psk.clone()),
            None => (None, Psk::none()),
        };
        if let Some(request) = given_up {
            self.tell(now, server, ToServer::Cancel { request });
        }
        let Some(host_key) = host_key else {
            return self.tell(now, server, ToServer::Find { request, name });
        };
        let (index, seed) = (self.new_index(), self.seed());
        let mut initiator = Initiator::new(seed, &self.key, &host_key, Purpose::Peer, b"", &psk);
        let invite =
            invite.map(|id| Invited { id, proof: psk.prove(&self.key.public(), &host_key, &session) });
        let payload = PeerHello { index, session, invite, prepare: Some(prepare) };
        let message = initiator.write(&wire::encode(&payload));
        let introduce = ToServer::Introduce { request, name, hello: message.into() };
        self.tell(now, server, introduce);
        if let Some(asking) = self.asking() {
            asking.hello = Some(Hello { initiator, index, prepare, waited: false });
        }
    }

    /// The server answers: it is time to look at our own NAT, beside the introduction.
    pub(super) fn server_reached(&mut self, now: Instant, server: usize) {
        let lonely = self.peers.is_empty();
        let Endpoint {
            key,
            rng,
            next_ports,
            probe_servers,
            server: address,
            budget,
            hints,
            nat,
            examined,
            out,
            part,
            servers,
            ..
        } = self;
        let Part::Client(asking) = part else { return };
        if lonely && asking.early.is_none() {
            let (server, budget) = (*address, *budget);
            let mut env =
                Env { key, rng, next_ports, probe_servers, server, budget, hints, nat, examined, out };
            asking.early = Some(env.round(now, FIRST));
        }
        // The server was asked over a family that gets no answer, and answers over another one.
        let asked = asking.server.and_then(|s| servers.get(s));
        if asking.server != Some(server) && asked.is_none_or(|s| s.path().is_none()) {
            self.ask_over_any(now);
        }
    }

    pub(super) fn client_message(&mut self, now: Instant, server: usize, message: FromServer) {
        let Some(asking) = self.asking() else { return };
        // Requests are numbered for this node, whichever family the answer comes over.
        let current = |request: u32| request == asking.request;
        match message {
            FromServer::Found { request, key } if current(request) => {
                asking.host_key.get_or_insert(PublicKey(key));
                self.ask(now, server);
            }
            FromServer::Absent { request, last_seen } if current(request) => {
                if let Some(hello) = &mut asking.hello {
                    hello.waited = true;
                }
                let last_seen = last_seen.map(Duration::from_secs);
                self.out.push_back(Output::Event(Event::Waiting { last_seen }));
            }
            FromServer::NotKept { request, why } if current(request) => {
                self.hear_refusal(Hearsay::NotKept(why));
            }
            FromServer::Declined { request, why } if current(request) => {
                self.hear_refusal(Hearsay::Declined(why));
            }
            FromServer::Introduced { relation, addresses, reply } if current(relation) => {
                self.introduced(now, Relation { server, number: relation }, addresses, &reply.0);
            }
            // An answer to a request that was made again: the server may forget it.
            FromServer::Introduced { relation, .. } => {
                self.tell(now, server, ToServer::Cancel { request: relation });
            }
            _ => {}
        }
    }

    /// The host lets us in: its handshake message proves it.
    fn introduced(&mut self, now: Instant, relation: Relation, addresses: Vec<SocketAddr>, reply: &[u8]) {
        let Some(hello) = self.asking().and_then(|a| a.hello.take()) else { return };
        let Hello { initiator, index, prepare, .. } = hello;
        let opened = initiator.read(reply).ok();
        let opened = opened
            .and_then(|(body, secrets)| Some((wire::decode::<PeerReply>(&body, MAX_BODY).ok()?, secrets)));
        let Some((reply, secrets)) = opened else {
            return self.hear_refusal(Hearsay::NotProved);
        };
        let channel: Channel<PeerMessage> =
            Channel::new(secrets.datagram(), index, reply.index, MAX_PEER_DATAGRAM);
        let named = addresses.iter().filter(|address| address.port() != 0).copied().collect();
        self.out.push_back(Output::Event(Event::Introduced { addresses: named }));
        let mut line = Line::new(now, (index, channel), relation, secrets.psk("link"), self.seed());
        line.introduced(now, &addresses, self.server);
        line.ping(now);
        if !reply.resumed {
            self.forget_sessions();
        }
        match self.peers.keys().next().copied() {
            Some(id) => self.with_peer(id, |peer, env| {
                peer.replace_line(now, line);
                peer.begin_again(now, env);
            }),
            None => self.begin_session(now, prepare, line, secrets.epoch()),
        }
    }

    /// The server brings a refusal, and nobody can prove that it did not make it up. Without a session it ends the run, as a
    /// server that says nothing at all would. A session is not the server's to end: with a link there is nothing to tell,
    /// without one it is told once, and the host is asked on.
    fn hear_refusal(&mut self, refusal: Hearsay) {
        let session = self.peers.values().next().map(|peer| (peer.link.is_none(), peer.links));
        let Some(asking) = self.asking() else { return };
        asking.hello = None;
        let Some((unlinked, links)) = session else {
            return self.out.push_back(Output::Event(match refusal {
                Hearsay::NotKept(why) => Event::NotKept(why),
                Hearsay::Declined(why) => Event::Declined(why),
                Hearsay::NotProved => Event::NotProved,
            }));
        };
        let (since, told) = &mut asking.told;
        if std::mem::replace(since, links) != links {
            told.clear();
        }
        if unlinked && !told.contains(&refusal) {
            told.push(refusal);
            self.out.push_back(Output::Event(Event::Hearsay(refusal)));
        }
    }

    /// The server has lost the host before the host could answer: it does not keep the request.
    pub(super) fn request_gone(&mut self, request: u32) {
        if let Some(asking) = self.asking().filter(|a| a.request == request)
            && let Some(hello) = &mut asking.hello
        {
            hello.waited = false;
        }
    }

    /// The host does not know our session (any more): its streams are over.
    fn forget_sessions(&mut self) {
        for peer in self.peers.values_mut() {
            self.out.push_back(Output::SessionEnded { peer: peer.id, why: Goodbye::Unknown });
            peer.abandon(&mut self.out);
        }
        self.peers.clear();
    }

    fn begin_session(
        &mut self,
        now: Instant,
        prepare: RoundId,
        line: Line,
        epoch_keys: crate::secure::EpochKeys,
    ) {
        let id = self.new_peer_id();
        let Some(asking) = self.asking() else { return };
        let Some(key) = asking.host_key else { return };
        let (session, early) = (asking.session, asking.early.take());
        // The invite is used up: later handshakes go by the key alone.
        let invite = asking.invite.take().map(|(id, _)| id);
        let (early, stale) = match early {
            Some(round) if round.age(now) < EARLY && round.id == prepare => (Some(round), None),
            other => (None, other),
        };
        if let Some(round) = stale {
            self.out.push_back(Output::Release { ports: round.ports });
        }
        let mut peer = Peer::new(now, (id, key, session, true), line, epoch_keys, invite);
        peer.announce(&mut self.out);
        self.peers.insert(id, peer);
        self.with_peer(id, |peer, env| peer.begin(now, prepare, early, env));
    }

    /// Asks again when it is time to.
    pub(super) fn advance_client(&mut self, now: Instant) {
        let due = self.next_ask().is_some_and(|at| at <= now);
        let Part::Client(asking) = &mut self.part else { return };
        if let Some(round) = &mut asking.early {
            round.conclude(now, &mut self.out);
            self.examined.measured(now, round.mine().unwrap_or_default(), &mut self.out);
        }
        let stale = asking.early.take_if(|round| round.begun() + EARLY <= now);
        if let Some(round) = stale {
            self.out.push_back(Output::Release { ports: round.ports });
        }
        if due {
            self.ask_over_any(now);
        }
    }

    /// Asks over the family that was asked over before, or else over one that is alive.
    fn ask_over_any(&mut self, now: Instant) {
        let instead = self.reached_over();
        let servers = &self.servers;
        let Part::Client(asking) = &mut self.part else { return };
        let alive = |server: usize| servers.get(server).is_some_and(|s| s.path().is_some());
        asking.server = asking.server.filter(|server| alive(*server)).or(instead).or(asking.server);
        if let Some(server) = asking.server {
            self.ask(now, server);
        }
    }

    /// An association is lost, and what was asked for over it.
    pub(super) fn ask_again(&mut self, now: Instant, lost: usize) {
        if self.asking().is_some_and(|a| a.server == Some(lost)) {
            self.ask_over_any(now);
        }
    }

    /// The server may have forgotten what it was asked for over an association.
    pub(super) fn ask_anew(&mut self, now: Instant, renewed: usize) {
        if self.asking().is_some_and(|a| a.server == Some(renewed) && a.hello.is_some()) {
            self.ask(now, renewed);
        }
    }

    /// When the host is to be asked for again: the line is silent while it is needed, it has lost its direct
    /// path, its keys are old, or an answer does not come. Never while the server keeps the request, and never without a server:
    /// the request that is queued goes out with the first datagrams of the next association.
    fn next_ask(&self) -> Option<Instant> {
        let Part::Client(asking) = &self.part else { return None };
        let kept = asking.hello.as_ref().is_some_and(|h| h.waited);
        if self.stopping || kept || self.reached_over().is_none() {
            return None;
        }
        let soonest = asking.asked? + PATIENCE;
        if self.peers.is_empty() {
            return asking.hello.as_ref().map(|_| soonest);
        }
        let due = self.peers.values().flat_map(|peer| {
            let old = peer.line.since + REKEY;
            [Some(old), peer.silent_at(), peer.roundabout_at()].into_iter().flatten()
        });
        due.min().map(|due| due.max(soonest))
    }

    /// When [`advance_client`](Self::advance_client) has something to do.
    pub(super) fn part_timeout(&self) -> Option<Instant> {
        match &self.part {
            Part::Client(asking) => {
                let early = asking.early.as_ref().map(|round| round.begun() + EARLY);
                let probes = asking.early.as_ref().and_then(Round::deadline);
                early.into_iter().chain(probes).chain(self.next_ask()).min()
            }
            Part::Host(host) => host.poll_timeout(),
            Part::Owner(_) => None,
        }
    }

    /// Takes the early round out if these are its ports; [`keep_early`](Self::keep_early) puts it back.
    pub(super) fn early_round(&mut self, ports: PortsId) -> Option<Round> {
        self.asking()?.early.take_if(|round| round.ports == ports)
    }

    pub(super) fn keep_early(&mut self, round: Round) {
        if let Some(asking) = self.asking() {
            asking.early = Some(round);
        }
    }
}
