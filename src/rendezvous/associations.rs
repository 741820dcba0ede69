//! The server's associations, and which of them belong to one run of a client.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    net::SocketAddr,
    time::Instant,
};

use super::{
    Source,
    directory::{NodeRef, To},
    limits::ASSOCIATION_TIMEOUT,
    rates::Prefix,
};
use crate::{
    channel::Channel,
    secure::PublicKey,
    wire::server::{FromServer, ToServer},
};

/// The address family of an association: a node has at most one association over each.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Family {
    V4,
    V6,
}

impl From<Source> for Family {
    fn from(source: Source) -> Self {
        if source.observed().is_ipv4() { Family::V4 } else { Family::V6 }
    }
}

/// Who a node is, on the wire: its key, and what it drew for this run.
pub(super) type NodeName = (PublicKey, [u8; 16]);

/// One client over one address family.
pub(super) struct Association {
    pub(super) node: NodeRef,
    pub(super) channel: Channel<FromServer, ToServer>,
    /// Where the client has proved to receive.
    pub(super) source: Source,
    /// When the last authentic datagram came.
    pub(super) heard: Instant,
    /// REPLY, until the first datagram shows that it arrived.
    pub(super) reply: Option<Vec<u8>>,
    /// Messages for which the channel has no room yet.
    pub(super) backlog: VecDeque<FromServer>,
    pub(super) family: Family,
    counted_for: Prefix,
    wakes: Instant,
}

impl Association {
    /// Moves as much of the backlog as there is room for into the channel.
    pub(super) fn refill(&mut self, now: Instant) {
        while let Some(message) = self.backlog.front()
            && self.channel.send(now, message.clone()).is_ok()
        {
            self.backlog.pop_front();
        }
    }

    /// What the client may not have received.
    pub(super) fn into_unacknowledged(self) -> impl Iterator<Item = FromServer> {
        self.channel.into_unacknowledged().chain(self.backlog)
    }
}

/// A new association.
pub(super) struct Joining {
    pub(super) name: NodeName,
    pub(super) source: Source,
    pub(super) index: u32,
    pub(super) channel: Channel<FromServer, ToServer>,
    pub(super) reply: Vec<u8>,
}

/// All of them.
#[derive(Default)]
pub(super) struct Associations {
    by_index: BTreeMap<u32, Association>,
    timers: BTreeSet<(Instant, u32)>,
    by_source: BTreeMap<Prefix, usize>,
    by_name: BTreeMap<NodeName, NodeRef>,
    nodes: BTreeMap<NodeRef, Node>,
    next_node: u64,
}

struct Node {
    name: NodeName,
    by_family: [Option<u32>; 2], // by Family
    /// The association that was heard last.
    newest: u32,
}

/// What became of an association and its node.
pub(super) struct Removed {
    pub(super) association: Association,
    /// It was its node's last.
    pub(super) node_left: bool,
}

impl Associations {
    /// How many there are, of how many nodes.
    pub(super) fn len(&self) -> (usize, usize) {
        (self.by_index.len(), self.nodes.len())
    }

    /// All of them, with the keys of their clients.
    pub(super) fn keys(&self) -> impl Iterator<Item = (u32, PublicKey)> {
        let key = |association: &Association| Some(self.nodes.get(&association.node)?.name.0);
        self.by_index.iter().filter_map(move |(index, association)| Some((*index, key(association)?)))
    }

    /// How many began at that source.
    pub(super) fn count_from(&self, source: Prefix) -> usize {
        self.by_source.get(&source).copied().unwrap_or(0)
    }

    /// Nobody has that index.
    pub(super) fn is_free(&self, index: u32) -> bool {
        index != 0 && !self.by_index.contains_key(&index)
    }

    pub(super) fn get(&self, index: u32) -> Option<&Association> {
        self.by_index.get(&index)
    }

    pub(super) fn get_mut(&mut self, index: u32) -> Option<&mut Association> {
        self.by_index.get_mut(&index)
    }

    /// The node of that name, new if need be.
    pub(super) fn node(&mut self, name: NodeName) -> NodeRef {
        let next = &mut self.next_node;
        *self.by_name.entry(name).or_insert_with(|| {
            *next += 1;
            NodeRef(*next)
        })
    }

    /// The association that a new one over that family would replace.
    pub(super) fn replaced_by(&self, name: &NodeName, source: Source) -> Option<u32> {
        self.nodes.get(self.by_name.get(name)?)?.by_family[Family::from(source) as usize]
    }

    /// Takes a new one in. The one that it replaces is to be [removed](Self::remove) *after* that, so that
    /// its node does not leave meanwhile.
    pub(super) fn insert(&mut self, now: Instant, joining: Joining) {
        let Joining { name, source, index, channel, reply } = joining;
        let node = self.node(name);
        let family = Family::from(source);
        let counted_for = Prefix::from(source.addr);
        *self.by_source.entry(counted_for).or_default() += 1;
        let entry = self.nodes.entry(node).or_insert(Node { name, by_family: [None; 2], newest: index });
        entry.by_family[family as usize] = Some(index);
        entry.newest = index;
        let association = Association {
            node,
            channel,
            source,
            heard: now,
            reply: Some(reply),
            backlog: VecDeque::new(),
            family,
            counted_for,
            wakes: now,
        };
        self.by_index.insert(index, association);
        self.schedule(index);
    }

    /// Forgets one.
    pub(super) fn remove(&mut self, index: u32) -> Option<Removed> {
        let association = self.by_index.remove(&index)?;
        self.timers.remove(&(association.wakes, index));
        if let Some(count) = self.by_source.get_mut(&association.counted_for) {
            *count -= 1;
            if *count == 0 {
                self.by_source.remove(&association.counted_for);
            }
        }
        let mut node_left = false;
        if let Some(node) = self.nodes.get_mut(&association.node) {
            if node.by_family[association.family as usize] == Some(index) {
                node.by_family[association.family as usize] = None;
            }
            match node.by_family.iter().flatten().next() {
                Some(other) if node.newest == index => node.newest = *other,
                Some(_) => {}
                None => node_left = true,
            }
            if node_left {
                self.by_name.remove(&node.name);
                self.nodes.remove(&association.node);
            }
        }
        Some(Removed { association, node_left })
    }

    /// An authentic datagram came.
    pub(super) fn heard(&mut self, now: Instant, index: u32) {
        let Some(association) = self.by_index.get_mut(&index) else { return };
        association.heard = now;
        association.reply = None;
        if let Some(node) = self.nodes.get_mut(&association.node) {
            node.newest = index;
        }
    }

    /// The association over which a message goes.
    pub(super) fn route(&self, to: To) -> Option<u32> {
        let node = self.nodes.get(&to.node)?;
        Some(to.family.and_then(|family| node.by_family[family as usize]).unwrap_or(node.newest))
    }

    /// Where a node's datagrams come from, IPv4 and IPv6; with port 0 those that come over TCP, which shows the
    /// address and no port that could be sent to.
    pub(super) fn addresses(&self, node: NodeRef) -> [Option<SocketAddr>; 2] {
        let Some(node) = self.nodes.get(&node) else { return [None; 2] };
        node.by_family.map(|index| {
            let source = self.by_index.get(&index?)?.source;
            let mut observed = source.observed();
            if !source.udp {
                observed.set_port(0);
            }
            Some(observed)
        })
    }

    /// Sets the alarm of one anew, after anything was done with it.
    pub(super) fn schedule(&mut self, index: u32) {
        let Some(association) = self.by_index.get_mut(&index) else { return };
        let over = association.heard + ASSOCIATION_TIMEOUT;
        let wakes = association.channel.poll_timeout().map_or(over, |at| at.min(over));
        self.timers.remove(&(association.wakes, index));
        association.wakes = wakes;
        self.timers.insert((wakes, index));
    }

    /// When the next alarm rings.
    pub(super) fn next_alarm(&self) -> Option<Instant> {
        self.timers.first().map(|(at, _)| *at)
    }

    /// One whose alarm rings.
    pub(super) fn due(&self, now: Instant) -> Option<u32> {
        self.timers.first().filter(|(at, _)| *at <= now).map(|(_, index)| *index)
    }
}
