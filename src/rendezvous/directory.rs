//! What clients ask of the server: names, waiting requests, relations. No datagram is seen here.
//!
//! A *node* is one run of a client, over however many address families it is associated. Names, requests
//! and relations belong to nodes, so a fresh handshake or a second family changes nothing about them.
//!
//! **Repeating is harmless.** A client that lost its association does not know which of its requests the
//! server has; it repeats all of them under the same numbers, and the answer is the same.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    net::SocketAddr,
    time::Instant,
};

use super::{
    Limits,
    names::{Names, is_name},
    rates::Prefix,
    relations::{Relation, RelationId, Relations, Side},
};
use crate::{
    secure::PublicKey,
    wire::{
        Blob, MAX_BODY,
        server::{Decline, FromServer, NameRefusal, RequestRefusal, ToServer},
    },
};

/// One run of a client.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct NodeRef(pub(super) u64);

/// Names, waiting requests and relations.
pub(super) struct Directory {
    pub(super) names: Names,
    limits: Limits,
    nodes: BTreeMap<NodeRef, Node>,
    waiting: BTreeMap<(NodeRef, u32), Wanted>,
    /// The same by name, for when it appears.
    awaited: BTreeSet<(String, NodeRef, u32)>,
    relations: Relations,
    said: VecDeque<(NodeRef, FromServer)>,
}

struct Node {
    key: PublicKey,
    /// Proved UDP addresses, IPv4 and IPv6.
    addresses: [Option<SocketAddr>; 2],
    holds: BTreeSet<String>,
    /// Requests that wait.
    waits: usize,
}

struct Wanted {
    name: String,
    /// Message 1 for the host; `None` for a mere question.
    hello: Option<Blob>,
}

/// When and from where a message came.
#[derive(Debug, Clone, Copy)]
pub(super) struct Arrival {
    pub(super) now: Instant,
    /// Seconds since 1970.
    pub(super) unix_secs: u64,
    pub(super) source: Prefix,
}

impl Directory {
    pub(super) fn new(names: Names, limits: Limits) -> Self {
        Directory {
            names,
            nodes: BTreeMap::new(),
            waiting: BTreeMap::new(),
            awaited: BTreeSet::new(),
            relations: Relations::new(&limits),
            said: VecDeque::new(),
            limits,
        }
    }

    /// A client came.
    pub(super) fn enter(&mut self, node: NodeRef, key: PublicKey) {
        let fresh = Node { key, addresses: [None; 2], holds: BTreeSet::new(), waits: 0 };
        self.nodes.entry(node).or_insert(fresh);
    }

    /// A client's UDP addresses are these now.
    pub(super) fn set_addresses(&mut self, node: NodeRef, addresses: [Option<SocketAddr>; 2]) {
        if let Some(node) = self.nodes.get_mut(&node) {
            node.addresses = addresses;
        }
    }

    /// A client's last association is gone.
    pub(super) fn leave(&mut self, unix_secs: u64, node: NodeRef) {
        self.unregister(unix_secs, node);
        for (id, relation) in self.relations.of(node) {
            let other = if relation.client.node == node { relation.host } else { relation.client };
            self.relations.remove(id);
            self.say(other.node, FromServer::Gone { relation: other.number });
        }
        let requests: Vec<u32> =
            self.waiting.range((node, 0)..=(node, u32::MAX)).map(|((_, request), _)| *request).collect();
        for request in requests {
            self.forget(node, request);
        }
        self.nodes.remove(&node);
    }

    /// One message of a client. [`ToServer::Ping`] is none of the directory's business.
    pub(super) fn handle(&mut self, at: Arrival, node: NodeRef, message: ToServer) {
        match message {
            ToServer::Register { name } => self.register(at, node, name),
            ToServer::Unregister => self.unregister(at.unix_secs, node),
            ToServer::Find { request, name } => self.want(at, node, request, name, None),
            ToServer::Introduce { request, name, hello } => self.want(at, node, request, name, Some(hello)),
            ToServer::Cancel { request } => self.cancel(node, request),
            ToServer::Accept { relation, reply } => self.accept(node, relation, reply),
            ToServer::Decline { relation, why } => self.decline(node, relation, why),
            ToServer::Relay { relation, datagram } => {
                if let Some(to) = self.relations.relay(at.now, node, relation, datagram.0.len()) {
                    self.say(to.node, FromServer::Relay { relation: to.number, datagram });
                }
            }
            ToServer::Ping { .. } => {}
        }
    }

    /// The next message for a client.
    pub(super) fn poll_said(&mut self) -> Option<(NodeRef, FromServer)> {
        self.said.pop_front()
    }

    /// Requests that wait, and relations.
    pub(super) fn len(&self) -> (usize, usize) {
        (self.waiting.len(), self.relations.len())
    }

    fn say(&mut self, to: NodeRef, message: FromServer) {
        self.said.push_back((to, message));
    }

    /// The newest run of a key holds the name. The one before is told [`NameRefusal::Taken`] and must
    /// leave it at that; one whose association was lost meanwhile may register again, is then the
    /// newest, and the other is told: each change of hands ends one run's claim, so it ends.
    fn register(&mut self, at: Arrival, node: NodeRef, name: String) {
        let Some(key) = self.nodes.get(&node).map(|n| n.key) else { return };
        let before = match self.names.claim(at.now, at.unix_secs, at.source, &name, key, node) {
            Ok(before) => before,
            Err(why) => return self.say(node, FromServer::NotRegistered { why }),
        };
        if let Some(registered) = self.nodes.get_mut(&node) {
            registered.holds.insert(name.clone());
        }
        self.say(node, FromServer::Registered);
        if let Some(before) = before.filter(|before| *before != node) {
            if let Some(loser) = self.nodes.get_mut(&before) {
                loser.holds.remove(&name);
            }
            self.say(before, FromServer::NotRegistered { why: NameRefusal::Taken });
            self.put_back(at.unix_secs, before, &name);
        }
        self.answer_waiting(at, &name, node, key);
    }

    fn answer_waiting(&mut self, at: Arrival, name: &str, host: NodeRef, key: PublicKey) {
        let awaited = (name.to_owned(), NodeRef(0), 0)..=(name.to_owned(), NodeRef(u64::MAX), u32::MAX);
        let requests: Vec<(NodeRef, u32)> = self.awaited.range(awaited).map(|(_, n, r)| (*n, *r)).collect();
        for (client, request) in requests {
            let Some(wanted) = self.forget(client, request) else { continue };
            self.answer(at, client, request, wanted, host, key);
        }
    }

    fn answer(
        &mut self,
        at: Arrival,
        client: NodeRef,
        request: u32,
        wanted: Wanted,
        host: NodeRef,
        key: PublicKey,
    ) {
        let Some(hello) = wanted.hello else {
            return self.say(client, FromServer::Found { request, key: key.0 });
        };
        let client = Side { node: client, number: request };
        match self.relations.begin(at.now, client, host, wanted.name, hello.clone()) {
            Some(relation) => self.say(host, FromServer::Introduction { relation, hello }),
            None => self.say(client.node, FromServer::Declined { request, why: Decline::Busy }),
        }
    }

    fn unregister(&mut self, unix_secs: u64, node: NodeRef) {
        let Some(leaving) = self.nodes.get_mut(&node) else { return };
        for name in std::mem::take(&mut leaving.holds) {
            self.names.release(unix_secs, &name, node);
            self.put_back(unix_secs, node, &name);
        }
    }

    /// Introductions that this host has not answered wait again.
    fn put_back(&mut self, unix_secs: u64, host: NodeRef, name: &str) {
        for (id, relation) in self.relations.of(host) {
            let unanswered = relation.host.node == host && relation.reply.is_none();
            // A node that asked for itself has both sides of one relation.
            if unanswered && relation.name == name && self.relations.remove(id).is_some() {
                let Side { node, number } = relation.client;
                self.keep(
                    unix_secs,
                    node,
                    number,
                    Wanted { name: relation.name, hello: Some(relation.hello) },
                );
            }
        }
    }

    fn want(&mut self, at: Arrival, node: NodeRef, request: u32, name: String, hello: Option<Blob>) {
        if !is_name(&name) || hello.as_ref().is_some_and(|hello| hello.0.len() > MAX_BODY) {
            return self.say(node, FromServer::NotKept { request, why: RequestRefusal::Malformed });
        }
        self.forget(node, request);
        if let Some((id, relation)) = self.relations.find(node, request) {
            if relation.client.node != node {
                // The number is that of a relation in which this node is the host.
                return self.say(node, FromServer::NotKept { request, why: RequestRefusal::Malformed });
            }
            if hello.as_ref() == Some(&relation.hello) && relation.name == name {
                if let Some(reply) = relation.reply.clone() {
                    let (client, host) = (relation.client, relation.host);
                    self.introduced(client, host, reply);
                }
                return;
            }
            self.hang_up(id);
        }
        let open = self.nodes.get(&node).map_or(usize::MAX, |n| n.waits + self.relations.asked_by(node));
        if open >= self.limits.requests_per_client || self.waiting.len() >= self.limits.requests {
            return self.say(node, FromServer::NotKept { request, why: RequestRefusal::Full });
        }
        let wanted = Wanted { name, hello };
        let holder = self.names.holder(&wanted.name);
        match holder.and_then(|host| Some((host, self.nodes.get(&host)?.key))) {
            Some((host, key)) => self.answer(at, node, request, wanted, host, key),
            None => self.keep(at.unix_secs, node, request, wanted),
        }
    }

    fn keep(&mut self, unix_secs: u64, node: NodeRef, request: u32, wanted: Wanted) {
        let last_seen = self.names.unseen_for(unix_secs, &wanted.name);
        if let Some(node) = self.nodes.get_mut(&node) {
            node.waits += 1;
        }
        self.awaited.insert((wanted.name.clone(), node, request));
        self.waiting.insert((node, request), wanted);
        self.say(node, FromServer::Absent { request, last_seen });
    }

    fn forget(&mut self, node: NodeRef, request: u32) -> Option<Wanted> {
        let wanted = self.waiting.remove(&(node, request))?;
        self.awaited.remove(&(wanted.name.clone(), node, request));
        if let Some(node) = self.nodes.get_mut(&node) {
            node.waits = node.waits.saturating_sub(1);
        }
        Some(wanted)
    }

    fn cancel(&mut self, node: NodeRef, number: u32) {
        self.forget(node, number);
        if let Some((id, relation)) = self.relations.find(node, number) {
            let other =
                if relation.client == (Side { node, number }) { relation.host } else { relation.client };
            self.relations.remove(id);
            self.say(other.node, FromServer::Gone { relation: other.number });
        }
    }

    /// Ends a relation for the host only: the client begins anew under the same number.
    fn hang_up(&mut self, id: RelationId) {
        if let Some(Relation { host, .. }) = self.relations.remove(id) {
            self.say(host.node, FromServer::Gone { relation: host.number });
        }
    }

    fn accept(&mut self, node: NodeRef, number: u32, reply: Blob) {
        if reply.0.len() > MAX_BODY {
            // It could not be passed on.
            return self.decline(node, number, Decline::Handshake);
        }
        let Some((client, host)) = self.relations.accept(node, number, reply.clone()) else { return };
        self.introduced(client, host, reply);
        let addresses = self.common_addresses(host.node, client.node);
        let relation = host.number;
        self.say(host.node, FromServer::Introduced { relation, addresses, reply: Blob::default() });
    }

    fn introduced(&mut self, client: Side, host: Side, reply: Blob) {
        let addresses = self.common_addresses(client.node, host.node);
        self.say(client.node, FromServer::Introduced { relation: client.number, addresses, reply });
    }

    /// The addresses of `other`, in the families that `node` has as well.
    fn common_addresses(&self, node: NodeRef, other: NodeRef) -> Vec<SocketAddr> {
        let of = |node| self.nodes.get(&node).map_or([None; 2], |n: &Node| n.addresses);
        of(node).into_iter().zip(of(other)).filter_map(|(mine, theirs)| mine.and(theirs)).collect()
    }

    fn decline(&mut self, node: NodeRef, number: u32, why: Decline) {
        if let Some((id, relation)) = self.relations.find(node, number)
            && relation.host == (Side { node, number })
            && relation.reply.is_none()
        {
            let client = relation.client;
            self.relations.remove(id);
            self.say(client.node, FromServer::Declined { request: client.number, why });
        }
    }
}

#[cfg(test)]
#[path = "directory_tests.rs"]
mod tests;
