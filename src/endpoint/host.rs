//! The host's part: registered under a name, takes clients in.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use super::{
    AskId, Endpoint, Event, Output, Part, PeerId,
    line::{Line, Relation},
    peer::Peer,
};
use crate::{
    channel::{Body, Channel},
    secure::{Psk, PublicKey, Purpose, Responder},
    wire::{
        self, MAX_BODY,
        peer::{Goodbye, MAX_PEER_DATAGRAM, PeerHello, PeerMessage, PeerReply},
        server::{Decline, FromServer, NameRefusal, ToServer},
    },
};

/// Most clients that wait for an answer to [`Output::Admit`].
const MAX_ASKS: usize = 64;

/// Most sessions of a host: each has a line, punch ports while it looks for a link, and what the
/// driver keeps for it.
const MAX_PEERS: usize = 256;

/// Sessions of one client's key: several tunnels at once, or runs that were killed and have not been
/// given up by the driver yet.
const MAX_SESSIONS_OF_KEY: usize = 16;

/// Most sessions whose client has not sent an authentic datagram yet.
const MAX_UNPROVED: usize = 16;

/// The same of one client's key, or by one invite: a client that asks and says no more must not keep others
/// out, nor a server that repeats an old introduction.
const MAX_UNPROVED_OF_ONE: usize = 4;

/// A name that was refused is asked for again after this long: a full server may have room, a full disk be
/// cleared, another key's name be given up.
const AGAIN: Duration = Duration::from_secs(30);

/// And after twice as long each time, but no longer than this.
const AGAIN_MOST: Duration = Duration::from_secs(600);

/// A client that has been let in must send an authentic datagram within this time.
pub(super) const PROOF: Duration = Duration::from_secs(15);

/// Who was not let in is told of at most this often: anybody may ask, and nobody is to fill a log.
const TELL_AGAIN: Duration = Duration::from_secs(60);

/// What a host knows beside its sessions.
pub(super) struct Host {
    pub(super) name: String,
    /// Associations over which the name is known to be registered.
    registered: BTreeSet<usize>,
    /// Associations over which the name was refused, and when it is asked for again.
    again: BTreeMap<usize, Instant>,
    /// Refusals in a row.
    refusals: u32,
    asks: BTreeMap<AskId, Ask>,
    next_ask: u64,
    /// When a refusal was told last, and how many there were since.
    told: Option<Instant>,
    untold: u64,
}

/// A client whose first message has been read, and that is not admitted yet.
struct Ask {
    relation: Relation,
    responder: Responder,
    hello: PeerHello,
    received: Instant,
}

impl Host {
    pub(super) fn new(name: String) -> Self {
        Host {
            name,
            registered: BTreeSet::new(),
            again: BTreeMap::new(),
            refusals: 0,
            asks: BTreeMap::new(),
            next_ask: 0,
            told: None,
            untold: 0,
        }
    }

    fn refused(&mut self, now: Instant, server: usize, why: NameRefusal) {
        // Two runs of one key must not take the name from each other for ever.
        if !matches!(why, NameRefusal::Taken | NameRefusal::Malformed) {
            let wait = AGAIN.saturating_mul(1 << self.refusals.min(10)).min(AGAIN_MOST);
            self.refusals += 1;
            self.again.insert(server, now + wait);
        }
    }

    /// The driver answers in time; what it forgets is forgotten here too.
    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        let asks = self.asks.values().map(|ask| ask.received + PROOF);
        asks.chain(self.again.values().copied()).min()
    }
}

impl Endpoint {
    pub(super) fn host_message(&mut self, now: Instant, server: usize, message: FromServer) {
        match message {
            FromServer::Registered => {
                let Part::Host(host) = &mut self.part else { return };
                host.again.remove(&server);
                host.refusals = 0;
                if host.registered.insert(server) {
                    self.out.push_back(Output::Event(Event::Registered));
                }
            }
            FromServer::NotRegistered { why } => {
                self.unregistered(server);
                if let Part::Host(host) = &mut self.part {
                    host.refused(now, server, why);
                }
                self.out.push_back(Output::Event(Event::NotRegistered(why)));
            }
            FromServer::Introduction { relation, hello } => {
                let relation = Relation { server, number: relation };
                if let Err(why) = self.introduction(now, relation, &hello.0) {
                    self.refused(now, None, why);
                    self.decline(now, relation, why);
                }
            }
            FromServer::Introduced { relation, addresses, .. } => {
                // Relations are numbered for this node, whichever family the message comes over.
                let address = self.server;
                for line in self.lines().filter(|l| l.relation.is_some_and(|r| r.number == relation)) {
                    line.introduced(now, &addresses, address);
                }
            }
            _ => {}
        }
    }

    /// The name is not, or no longer, known to be registered over an association.
    pub(super) fn unregistered(&mut self, server: usize) {
        if let Part::Host(host) = &mut self.part {
            host.registered.remove(&server);
        }
    }

    /// A client asks: reads its first message, and asks the driver.
    fn introduction(&mut self, now: Instant, relation: Relation, hello: &[u8]) -> Result<(), Decline> {
        let seed = self.seed();
        let Part::Host(host) = &mut self.part else { return Err(Decline::Busy) };
        if host.asks.len() >= MAX_ASKS || self.stopping {
            return Err(Decline::Busy);
        }
        let read = Responder::read(seed, &self.key, Purpose::Peer, b"", hello);
        let (responder, payload) = read.map_err(|_| Decline::Handshake)?;
        let hello: PeerHello = wire::decode(&payload, MAX_BODY).map_err(|_| Decline::Handshake)?;
        host.next_ask += 1;
        let ask = AskId(host.next_ask);
        let (key, invite) = (responder.remote(), hello.invite.as_ref().map(|invited| invited.id));
        host.asks.insert(ask, Ask { relation, responder, hello, received: now });
        self.out.push_back(Output::Admit { ask, key, invite });
        Ok(())
    }

    /// The driver's answer.
    pub(super) fn admit(&mut self, now: Instant, ask: AskId, verdict: Result<Psk, Decline>) {
        let Part::Host(host) = &mut self.part else { return };
        let Some(ask) = host.asks.remove(&ask) else { return };
        let relation = ask.relation;
        let (key, invite) = (ask.responder.remote(), ask.hello.invite.as_ref().map(|invited| invited.id));
        // Before the server hears that it may name addresses, and before anything is bound or sent.
        let verdict = verdict.and_then(|psk| match &ask.hello.invite {
            Some(invited) if !psk.is_none() => {
                let (me, session) = (self.key.public(), &ask.hello.session);
                let proved = psk.is_proved(&key, &me, session, &invited.proof);
                if proved { Ok(psk) } else { Err(Decline::Invite) }
            }
            _ => Ok(psk),
        });
        let unproved = || self.peers.values().filter(|p| !p.is_announced() || p.fresh.is_some());
        let of_one = |p: &&Peer| p.key == key || (invite.is_some() && p.invite() == invite);
        let room = self.peers.len() < MAX_PEERS
            && unproved().count() < MAX_UNPROVED
            && unproved().filter(of_one).count() < MAX_UNPROVED_OF_ONE;
        match verdict.and_then(|psk| if room { Ok(psk) } else { Err(Decline::Busy) }) {
            Ok(psk) => self.accept(now, ask, &psk),
            Err(why) => {
                self.refused(now, Some(key), why);
                self.decline(now, relation, why);
            }
        }
    }

    /// Tells of somebody who is not let in, if that was not told of just now.
    fn refused(&mut self, now: Instant, key: Option<PublicKey>, why: Decline) {
        let Part::Host(host) = &mut self.part else { return };
        if host.told.is_some_and(|told| now < told + TELL_AGAIN) {
            host.untold = host.untold.saturating_add(1);
            return;
        }
        host.told = Some(now);
        let others = std::mem::take(&mut host.untold);
        self.out.push_back(Output::Event(Event::Refused { key, why, others }));
    }

    fn decline(&mut self, now: Instant, relation: Relation, why: Decline) {
        self.tell(now, relation.server, ToServer::Decline { relation: relation.number, why });
    }

    /// Lets the client in: the second handshake message, and a line that the client has yet to prove.
    fn accept(&mut self, now: Instant, ask: Ask, psk: &Psk) {
        let Ask { relation, responder, hello, .. } = ask;
        let key = responder.remote();
        let known = self.peers.values().find(|p| p.key == key && p.session == hello.session);
        let known = known.filter(|p| p.is_announced()).map(|p| p.id);
        let index = self.new_index();
        let reply = PeerReply { index, resumed: known.is_some(), body: Body::default() };
        let (message, secrets) = responder.write(psk, &wire::encode(&reply));
        let accept = ToServer::Accept { relation: relation.number, reply: message.into() };
        self.tell(now, relation.server, accept);
        let channel: Channel<PeerMessage> =
            Channel::new(secrets.datagram(), index, hello.index, MAX_PEER_DATAGRAM);
        // The addresses follow with the server's Introduced.
        let line = Line::new(now, (index, channel), relation, secrets.psk("link"), self.seed());
        match known {
            Some(id) => self.with_peer(id, |peer, _| peer.fresh = Some(line)),
            None => {
                let id = self.new_peer_id();
                let invite = hello.invite.map(|invited| invited.id).filter(|_| !psk.is_none());
                let who = (id, key, hello.session, false);
                self.peers.insert(id, Peer::new(now, who, line, secrets.epoch(), invite));
                if let Some(round) = hello.prepare {
                    self.with_peer(id, |peer, env| peer.begin_in_turn(now, round, env));
                }
            }
        }
    }

    /// A client has proved itself. Of the sessions of its key the oldest other one that has no link ends, where
    /// there are too many: its client was killed and began anew. Where all have links, there is none to end,
    /// and [`MAX_PEERS`] counts. (Not before the proof: a server that repeats old introductions would end them.)
    fn make_room(&mut self, now: Instant, (new, key): (PeerId, PublicKey)) {
        let of_key =
            || self.peers.values().filter(|p| p.key == key && p.closing.is_none() && p.is_announced());
        if of_key().count() <= MAX_SESSIONS_OF_KEY {
            return;
        }
        if let Some(id) = of_key().find(|p| p.id != new && p.link.is_none()).map(|p| p.id) {
            self.with_peer(id, |peer, env| {
                let why = Goodbye::Unknown;
                env.out.push_back(Output::SessionEnded { peer: peer.id, why });
                peer.end(now, why, env.out);
            });
        }
    }

    /// Lines that were not proved in time are forgotten; what was proved just now has its place; a name that was
    /// refused is asked for again.
    pub(super) fn advance_host(&mut self, now: Instant) {
        let new =
            self.peers.values_mut().find_map(|p| std::mem::take(&mut p.is_new).then_some((p.id, p.key)));
        if let Some(new) = new {
            self.make_room(now, new);
        }
        if let Part::Host(host) = &mut self.part {
            let due: Vec<usize> = host.again.iter().filter(|(_, at)| **at <= now).map(|(s, _)| *s).collect();
            host.again.retain(|_, at| *at > now);
            if !self.stopping {
                due.into_iter().for_each(|server| self.introduce_self(now, server));
            }
        }
        let late = |line: &Line| line.since + PROOF <= now;
        if let Part::Host(host) = &mut self.part {
            host.asks.retain(|_, ask| ask.received + PROOF > now);
        }
        let mut unproved = Vec::new();
        for peer in self.peers.values_mut() {
            peer.fresh.take_if(|line| late(line));
            if !peer.is_announced() && late(&peer.line) {
                unproved.extend(peer.invite().map(|_| peer.key));
                peer.abandon(&mut self.out);
            }
        }
        self.peers.retain(|_, peer| !peer.is_gone());
        for key in unproved {
            self.refused(now, Some(key), Decline::Invite);
        }
    }
}
