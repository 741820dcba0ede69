//! Relations: a client and the host that it asked for, each with a number of its own for the other.

use std::{collections::BTreeMap, time::Instant};

use super::{
    Limits,
    associations::Family,
    directory::{NodeRef, To},
    rates::{Bucket, Rate},
};
use crate::wire::{Blob, peer::MAX_PEER_DATAGRAM};

/// The server counts a host's relations from here, far from the numbers that a client of the same node
/// would begin with.
const FIRST_OF_HOST: u32 = 1 << 31;

/// Number of a relation inside the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct RelationId(u64);

/// One end of a relation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Side {
    /// Who.
    pub(super) node: NodeRef,
    /// How it calls the relation.
    pub(super) number: u32,
}

/// A client and a host.
#[derive(Debug, Clone)]
pub(super) struct Relation {
    pub(super) client: Side,
    /// Where the client last spoke about the relation.
    pub(super) client_family: Family,
    pub(super) host: Side,
    /// The same of the host; `None` before it has.
    pub(super) host_family: Option<Family>,
    /// The name under which the client asked.
    pub(super) name: String,
    /// Message 1.
    pub(super) hello: Blob,
    /// Message 2, once the host has let the client in.
    pub(super) reply: Option<Blob>,
    /// Bytes towards the host, and towards the client.
    budgets: [Bucket; 2],
}

impl Relation {
    /// Where messages to the host go (to the client otherwise), and what it calls the relation.
    pub(super) fn other(&self, to_host: bool) -> (To, u32) {
        if to_host {
            (To { node: self.host.node, family: self.host_family }, self.host.number)
        } else {
            (To { node: self.client.node, family: Some(self.client_family) }, self.client.number)
        }
    }
}

/// All relations.
pub(super) struct Relations {
    by_id: BTreeMap<RelationId, Relation>,
    by_side: BTreeMap<Side, RelationId>,
    next: u64,
    most: usize,
    most_per_host: usize,
    relay: Rate,
}

impl Relations {
    pub(super) fn new(limits: &Limits) -> Self {
        Relations {
            by_id: BTreeMap::new(),
            by_side: BTreeMap::new(),
            next: 0,
            most: limits.relations,
            most_per_host: limits.relations_per_host,
            relay: Rate::per_second(limits.relay_bytes, limits.relay_bytes),
        }
    }

    /// Begins one; answers with the host's number for it, or `None` where there are too many.
    pub(super) fn begin(
        &mut self,
        now: Instant,
        client: Side,
        client_family: Family,
        host: NodeRef,
        name: String,
        hello: Blob,
    ) -> Option<u32> {
        let hosted = Side { node: host, number: FIRST_OF_HOST }..=Side { node: host, number: u32::MAX };
        if self.by_id.len() >= self.most || self.by_side.range(hosted).count() >= self.most_per_host {
            return None;
        }
        // Counted over all hosts, so that no number comes again soon.
        let number = (self.next..self.next.saturating_add(self.most as u64))
            .map(|n| FIRST_OF_HOST | n as u32)
            .find(|n| !self.by_side.contains_key(&Side { node: host, number: *n }))?;
        let host = Side { node: host, number };
        let id = RelationId(self.next);
        self.next += 1;
        self.by_side.insert(client, id);
        self.by_side.insert(host, id);
        let budgets = [Bucket::new(now); 2];
        let fresh =
            Relation { client, client_family, host, host_family: None, name, hello, reply: None, budgets };
        self.by_id.insert(id, fresh);
        Some(number)
    }

    /// The relation that has this side.
    pub(super) fn find(&self, side: Side) -> Option<(RelationId, Relation)> {
        let id = *self.by_side.get(&side)?;
        Some((id, self.by_id.get(&id)?.clone()))
    }

    /// All relations of `node`.
    pub(super) fn of(&self, node: NodeRef) -> Vec<(RelationId, Relation)> {
        self.by_side
            .range(Side { node, number: 0 }..=Side { node, number: u32::MAX })
            .filter_map(|(_, id)| Some((*id, self.by_id.get(id)?.clone())))
            .collect()
    }

    /// How many relations `node` has under numbers of its own choice.
    pub(super) fn asked_by(&self, node: NodeRef) -> usize {
        let all = Side { node, number: 0 }..=Side { node, number: u32::MAX };
        let client =
            |(side, id): &(&Side, &RelationId)| self.by_id.get(id).is_some_and(|r| r.client == **side);
        self.by_side.range(all).filter(client).count()
    }

    pub(super) fn get_mut(&mut self, id: RelationId) -> Option<&mut Relation> {
        self.by_id.get_mut(&id)
    }

    /// The host lets the client in, unless `host` is not the host's side or it has answered before.
    pub(super) fn accept(
        &mut self,
        family: Family,
        host: Side,
        reply: Blob,
    ) -> Option<(RelationId, Relation)> {
        let id = *self.by_side.get(&host)?;
        let relation = self.by_id.get_mut(&id)?;
        if relation.host != host || relation.reply.is_some() {
            return None;
        }
        relation.reply = Some(reply);
        relation.host_family = Some(family);
        Some((id, relation.clone()))
    }

    /// Accepted relations of the same two that are older than `id`, the oldest first.
    pub(super) fn accepted_before(
        &self,
        id: RelationId,
        client: NodeRef,
        host: NodeRef,
    ) -> Vec<(RelationId, Relation)> {
        let theirs = |r: &Relation| r.client.node == client && r.host.node == host && r.reply.is_some();
        let mut all: Vec<_> = self.of(client).into_iter().filter(|(at, r)| *at < id && theirs(r)).collect();
        all.sort_by_key(|(id, _)| *id);
        all.dedup_by_key(|(id, _)| *id);
        all
    }

    /// Where a datagram of this side goes, if it goes anywhere: the relation is accepted, the datagram not
    /// too long, and the relation within its rate.
    pub(super) fn relay(
        &mut self,
        now: Instant,
        family: Family,
        from: Side,
        bytes: usize,
    ) -> Option<(To, u32)> {
        let relation = self.by_id.get_mut(self.by_side.get(&from)?)?;
        if relation.reply.is_none() || bytes > MAX_PEER_DATAGRAM {
            return None;
        }
        let by_client = from == relation.client;
        if by_client {
            relation.client_family = family;
        } else {
            relation.host_family = Some(family);
        }
        let [towards_host, towards_client] = &mut relation.budgets;
        let budget = if by_client { towards_host } else { towards_client };
        budget.take(now, self.relay, bytes as u32).then(|| relation.other(by_client))
    }

    /// Forgets one.
    pub(super) fn remove(&mut self, id: RelationId) -> Option<Relation> {
        let relation = self.by_id.remove(&id)?;
        self.by_side.remove(&relation.client);
        self.by_side.remove(&relation.host);
        Some(relation)
    }

    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.by_id.len()
    }
}
