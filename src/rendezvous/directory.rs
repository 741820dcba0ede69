//! What clients ask of the server: names, waiting requests, relations. No datagram is seen here.
//!
//! A *node* is one run of a client, over however many address families it is associated. Names, requests
//! and relations belong to nodes, so a fresh handshake or a second family changes nothing about them. Who a node is
//! and where, [`Associations`] know: nothing of that is kept here.
//!
//! **Repeating is harmless.** A client that lost its association does not know which of its requests the
//! server has; it repeats all of them under the same numbers, and the answer is the same.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    net::SocketAddr,
    num::NonZeroU64,
    time::Instant,
};

use super::{
    Limits,
    associations::{Associations, Family},
    names::{Names, is_name},
    rates::Prefix,
    relations::{Relation, RelationId, Relations, Side},
};
use crate::{
    secure::PublicKey,
    wire::{
        Blob, MAX_BODY,
        server::{Decline, FromServer, NameRefusal, Release, RequestRefusal, ToServer},
    },
};

/// One run of a client.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct NodeRef(pub(super) NonZeroU64);

/// Names, waiting requests and relations.
pub(super) struct Directory {
    pub(super) names: Names,
    limits: Limits,
    waiting: BTreeMap<(NodeRef, u32), Wanted>,
    /// The same by name, for when it appears.
    awaited: BTreeSet<(String, NodeRef, u32)>,
    relations: Relations,
    /// Answers that wait until it is on disk who owns the name.
    promised: BTreeMap<String, Vec<(To, FromServer)>>,
    said: VecDeque<(To, FromServer)>,
}

struct Wanted {
    name: String,
    family: Family,
    /// Message 1 for the host; `None` for a mere question.
    hello: Option<Blob>,
}

/// When and from where a message came.
#[derive(Clone, Copy)]
pub(super) struct Arrival<'a> {
    pub(super) now: Instant,
    /// Seconds since 1970.
    pub(super) unix_secs: u64,
    pub(super) source: Prefix,
    /// Over which of its associations.
    pub(super) family: Family,
    /// Of the client.
    pub(super) key: PublicKey,
    /// Where everybody is.
    pub(super) associations: &'a Associations,
}

impl Arrival<'_> {
    /// Where the answer goes.
    fn back_to(self, node: NodeRef) -> To {
        To { node, family: Some(self.family) }
    }

    /// The addresses of `other`, in the families that `node` has as well.
    fn common_addresses(self, node: NodeRef, other: NodeRef) -> Vec<SocketAddr> {
        let [mine, theirs] = [node, other].map(|node| self.associations.addresses(node));
        mine.into_iter().zip(theirs).filter_map(|(mine, theirs)| mine.and(theirs)).collect()
    }
}

/// Where a message is to go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct To {
    pub(super) node: NodeRef,
    /// Over this of its associations if it is alive: a client hears about a request or relation where it
    /// last spoke about it. Otherwise, and with `None`, over the one that was heard last.
    pub(super) family: Option<Family>,
}

impl Directory {
    pub(super) fn new(names: Names, limits: Limits) -> Self {
        Directory {
            names,
            waiting: BTreeMap::new(),
            awaited: BTreeSet::new(),
            relations: Relations::new(&limits),
            promised: BTreeMap::new(),
            said: VecDeque::new(),
            limits,
        }
    }

    /// A client's last association is gone.
    pub(super) fn leave(&mut self, unix_secs: u64, key: PublicKey, node: NodeRef) {
        self.unregister(unix_secs, key, node);
        for (id, relation) in self.relations.of(node) {
            self.relations.remove(id);
            let (to, relation) = relation.other(relation.client.node == node);
            self.say(to, FromServer::Gone { relation });
        }
        for request in self.waits_for(node).collect::<Vec<_>>() {
            self.forget(node, request);
        }
    }

    /// One message of a client. [`ToServer::Ping`] is none of the directory's business.
    pub(super) fn handle(&mut self, at: Arrival<'_>, node: NodeRef, message: ToServer) {
        match message {
            ToServer::Register { name } => self.register(at, node, name),
            ToServer::Unregister => self.unregister(at.unix_secs, at.key, node),
            ToServer::Release { name } => {
                let outcome = self.names.give_up(&name, at.key);
                self.say_when_stored(&name.clone(), at.back_to(node), FromServer::Released { name, outcome });
            }
            ToServer::Find { request, name } => self.want(at, node, request, name, None),
            ToServer::Introduce { request, name, hello } => self.want(at, node, request, name, Some(hello)),
            ToServer::Cancel { request } => self.cancel(Side { node, number: request }),
            ToServer::Accept { relation, reply } => {
                self.accept(at, Side { node, number: relation }, reply);
            }
            ToServer::Decline { relation, why } => self.decline(Side { node, number: relation }, why),
            ToServer::Relay { relation, datagram } => {
                let from = Side { node, number: relation };
                let relayed = self.relations.relay(at.now, at.family, from, datagram.0.len());
                if let Some((to, relation)) = relayed {
                    self.say(to, FromServer::Relay { relation, datagram });
                }
            }
            ToServer::Ping { .. } => {}
        }
    }

    /// The next message for a client.
    pub(super) fn poll_said(&mut self) -> Option<(To, FromServer)> {
        self.said.pop_front()
    }

    /// Requests that wait, and relations.
    pub(super) fn len(&self) -> (usize, usize) {
        (self.waiting.len(), self.relations.len())
    }

    /// The first so many changes that were given out are on disk: what was promised is said.
    pub(super) fn stored(&mut self, count: u64) {
        for name in self.names.stored(count) {
            self.said.extend(self.promised.remove(&name).into_iter().flatten());
        }
    }

    /// The first so many changes cannot be written now. Those who wait are told so; once it was possible after all,
    /// asking again brings the other answer.
    pub(super) fn unstored(&mut self, count: u64) {
        for name in self.names.unstored(count) {
            for (to, message) in self.promised.remove(&name).into_iter().flatten() {
                let message = match message {
                    FromServer::Released { name, .. } => {
                        FromServer::Released { name, outcome: Release::Unstored }
                    }
                    _ => FromServer::NotRegistered { why: NameRefusal::Unstored },
                };
                self.say(to, message);
            }
        }
    }

    fn say(&mut self, to: To, message: FromServer) {
        self.said.push_back((to, message));
    }

    fn say_when_stored(&mut self, name: &str, to: To, message: FromServer) {
        if self.names.is_stored(name) {
            self.say(to, message);
        } else {
            self.promised.entry(name.into()).or_default().push((to, message));
        }
    }

    /// `node` does not hold the name, or will be told of it anew.
    fn break_promise(&mut self, name: &str, node: NodeRef) {
        if let Some(promised) = self.promised.get_mut(name) {
            promised.retain(|(to, message)| to.node != node || *message != FromServer::Registered);
            if promised.is_empty() {
                self.promised.remove(name);
            }
        }
    }

    /// The newest run of a key holds the name. The one before is told [`NameRefusal::Taken`] and must
    /// leave it at that; one whose association was lost meanwhile may register again, is then the
    /// newest, and the other is told: each change of hands ends one run's claim, so it ends.
    fn register(&mut self, at: Arrival<'_>, node: NodeRef, name: String) {
        let here = at.back_to(node);
        let before = match self.names.claim(at.now, at.unix_secs, at.source, &name, at.key, node) {
            Ok(before) => before,
            Err(why) => return self.say(here, FromServer::NotRegistered { why }),
        };
        self.break_promise(&name, node);
        self.say_when_stored(&name, here, FromServer::Registered);
        if let Some(before) = before.filter(|before| *before != node) {
            self.break_promise(&name, before);
            let loser = To { node: before, family: None };
            self.say(loser, FromServer::NotRegistered { why: NameRefusal::Taken });
            self.put_back(at.unix_secs, before, &name);
        }
        self.answer_waiting(at, &name, node);
    }

    fn answer_waiting(&mut self, at: Arrival<'_>, name: &str, host: NodeRef) {
        let (least, most) = (NodeRef(NonZeroU64::MIN), NodeRef(NonZeroU64::MAX));
        let awaited = (name.to_owned(), least, 0)..=(name.to_owned(), most, u32::MAX);
        let requests: Vec<(NodeRef, u32)> = self.awaited.range(awaited).map(|(_, n, r)| (*n, *r)).collect();
        for (client, request) in requests {
            let Some(wanted) = self.forget(client, request) else { continue };
            self.answer(at.now, Side { node: client, number: request }, wanted, host, at.key);
        }
    }

    /// The name is there.
    fn answer(&mut self, now: Instant, client: Side, wanted: Wanted, host: NodeRef, key: PublicKey) {
        let Wanted { name, family, hello } = wanted;
        let back = To { node: client.node, family: Some(family) };
        let request = client.number;
        let Some(hello) = hello else {
            return self.say(back, FromServer::Found { request, key: key.0 });
        };
        match self.relations.begin(now, client, family, host, name, hello.clone()) {
            Some(relation) => {
                let host = To { node: host, family: None };
                self.say(host, FromServer::Introduction { relation, hello });
            }
            None => self.say(back, FromServer::Declined { request, why: Decline::Busy }),
        }
    }

    fn unregister(&mut self, unix_secs: u64, key: PublicKey, node: NodeRef) {
        for name in self.names.release(unix_secs, key, node) {
            self.break_promise(name.as_ref(), node);
            self.put_back(unix_secs, node, name.as_ref());
        }
    }

    /// Introductions that this host has not answered wait again.
    fn put_back(&mut self, unix_secs: u64, host: NodeRef, name: &str) {
        for (id, relation) in self.relations.of(host) {
            let unanswered = relation.host.node == host && relation.reply.is_none();
            // A node that asked for itself has both sides of one relation.
            if unanswered && relation.name == name && self.relations.remove(id).is_some() {
                let Relation { client, client_family: family, name, hello, .. } = relation;
                self.keep(unix_secs, client, Wanted { name, family, hello: Some(hello) });
            }
        }
    }

    fn want(&mut self, at: Arrival<'_>, node: NodeRef, request: u32, name: String, hello: Option<Blob>) {
        let here = at.back_to(node);
        let client = Side { node, number: request };
        let not_kept = |why| FromServer::NotKept { request, why };
        if !is_name(&name) || hello.as_ref().is_some_and(|hello| hello.0.len() > MAX_BODY) {
            return self.say(here, not_kept(RequestRefusal::Malformed));
        }
        self.forget(node, request);
        if let Some((id, relation)) = self.relations.find(client) {
            if relation.client != client {
                // The number is that of a relation in which this node is the host.
                return self.say(here, not_kept(RequestRefusal::Malformed));
            }
            if hello.as_ref() == Some(&relation.hello) && relation.name == name {
                return self.repeat(at, id);
            }
            // Another introduction under the same number.
            self.relations.remove(id);
            let (to, relation) = relation.other(true);
            self.say(to, FromServer::Gone { relation });
        }
        let open = self.waits_for(node).count() + self.relations.asked_by(node);
        if open >= self.limits.requests_per_client || self.waiting.len() >= self.limits.requests {
            return self.say(here, not_kept(RequestRefusal::Full));
        }
        let wanted = Wanted { name, family: at.family, hello };
        match self.names.holder(&wanted.name) {
            Some((host, key)) => self.answer(at.now, client, wanted, host, key),
            None => self.keep(at.unix_secs, client, wanted),
        }
    }

    /// Numbers of the requests of `node` that wait.
    fn waits_for(&self, node: NodeRef) -> impl Iterator<Item = u32> {
        self.waiting.range((node, 0)..=(node, u32::MAX)).map(|((_, request), _)| *request)
    }

    /// The client asks for what it has asked for before: it may not have heard the answer.
    fn repeat(&mut self, at: Arrival<'_>, id: RelationId) {
        let Some(relation) = self.relations.get_mut(id) else { return };
        relation.client_family = at.family;
        let relation = relation.clone();
        self.introduced(at, &relation);
    }

    fn keep(&mut self, unix_secs: u64, client: Side, wanted: Wanted) {
        let Side { node, number: request } = client;
        let last_seen = self.names.unseen_for(unix_secs, &wanted.name);
        let to = To { node, family: Some(wanted.family) };
        self.awaited.insert((wanted.name.clone(), node, request));
        self.waiting.insert((node, request), wanted);
        self.say(to, FromServer::Absent { request, last_seen });
    }

    fn forget(&mut self, node: NodeRef, request: u32) -> Option<Wanted> {
        let wanted = self.waiting.remove(&(node, request))?;
        self.awaited.remove(&(wanted.name.clone(), node, request));
        Some(wanted)
    }

    fn cancel(&mut self, side: Side) {
        self.forget(side.node, side.number);
        if let Some((id, relation)) = self.relations.find(side) {
            self.relations.remove(id);
            let (to, relation) = relation.other(relation.client == side);
            self.say(to, FromServer::Gone { relation });
        }
    }

    /// The host lets the client in. Of the relations that the two had before, the last one stays, because
    /// the host may use it until the client has proved itself in the new one; those before it are over.
    fn accept(&mut self, at: Arrival<'_>, host: Side, reply: Blob) {
        if reply.0.len() > MAX_BODY {
            // It could not be passed on.
            return self.decline(host, Decline::Handshake);
        }
        let Some((id, relation)) = self.relations.accept(at.family, host, reply) else { return };
        self.introduced(at, &relation);
        let addresses = at.common_addresses(host.node, relation.client.node);
        let (to, number) = relation.other(true);
        self.say(to, FromServer::Introduced { relation: number, addresses, reply: Blob::default() });
        let before = self.relations.accepted_before(id, relation.client.node, host.node);
        for (id, relation) in before.into_iter().rev().skip(1) {
            self.relations.remove(id);
            for (to, relation) in [relation.other(true), relation.other(false)] {
                self.say(to, FromServer::Gone { relation });
            }
        }
    }

    /// To the client, if the host has accepted.
    fn introduced(&mut self, at: Arrival<'_>, relation: &Relation) {
        let Some(reply) = relation.reply.clone() else { return };
        let addresses = at.common_addresses(relation.client.node, relation.host.node);
        let (to, relation) = relation.other(false);
        self.say(to, FromServer::Introduced { relation, addresses, reply });
    }

    fn decline(&mut self, host: Side, why: Decline) {
        if let Some((id, relation)) = self.relations.find(host)
            && relation.host == host
            && relation.reply.is_none()
        {
            self.relations.remove(id);
            let (to, request) = relation.other(false);
            self.say(to, FromServer::Declined { request, why });
        }
    }
}

#[cfg(test)]
#[path = "directory_tests.rs"]
mod tests;
