//! The server's associations, and which of them belong to one run of a client.
//!
//! There may be a million, of which most do nothing but live: what only some need at a time is in a box of its own.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    net::SocketAddr,
    num::NonZeroU64,
    time::{Duration, Instant},
};

use aws_lc_rs::digest;

use super::{
    Source,
    directory::{NodeRef, To},
    limits::ASSOCIATION_TIMEOUT,
    rates::{Prefix, Shares},
    silence::Silence,
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
    pub(super) key: PublicKey,
    pub(super) node: NodeRef,
    pub(super) channel: Channel<FromServer, ToServer>,
    /// Where the client has proved to receive.
    pub(super) source: Source,
    counted_for: Prefix,
    /// When the last authentic datagram came: microseconds since the server began.
    heard: u64,
    unsettled: Option<Box<Unsettled>>,
}

/// What an association has while something is on its way.
#[derive(Default)]
struct Unsettled {
    /// REPLY, until the first datagram shows that it arrived.
    reply: Option<Vec<u8>>,
    /// Messages for which the channel has no room yet.
    backlog: VecDeque<FromServer>,
    /// Messages that are not acknowledged, as they are counted in all.
    queued: usize,
    /// When something is to be sent again.
    repeats: Option<Instant>,
}

impl Association {
    /// REPLY, if it may not have arrived.
    pub(super) fn reply(&self) -> Option<&Vec<u8>> {
        self.unsettled.as_ref()?.reply.as_ref()
    }

    /// Messages for which the channel has no room yet.
    pub(super) fn backlog(&self) -> usize {
        self.unsettled.as_ref().map_or(0, |unsettled| unsettled.backlog.len())
    }

    /// A message that is to arrive: [`refill`](Self::refill) moves it on.
    pub(super) fn push(&mut self, message: FromServer) {
        self.unsettled.get_or_insert_default().backlog.push_back(message);
    }

    /// Moves as much of the backlog as there is room for into the channel.
    pub(super) fn refill(&mut self, now: Instant) {
        let Some(Unsettled { backlog, .. }) = self.unsettled.as_deref_mut() else { return };
        while let Some(message) = backlog.front()
            && self.channel.send(now, message.clone()).is_ok()
        {
            backlog.pop_front();
        }
    }

    /// What the client may not have received.
    pub(super) fn into_unacknowledged(self) -> impl Iterator<Item = FromServer> {
        let backlog = self.unsettled.map(|unsettled| unsettled.backlog);
        self.channel.into_unacknowledged().chain(backlog.into_iter().flatten())
    }
}

/// A new association.
pub(super) struct Joining {
    pub(super) key: PublicKey,
    pub(super) node: NodeRef,
    pub(super) source: Source,
    pub(super) index: u32,
    pub(super) channel: Channel<FromServer, ToServer>,
    pub(super) reply: Vec<u8>,
}

/// All of them.
pub(super) struct Associations {
    began: Instant,
    /// What the numbers of nodes are made with.
    secret: [u8; 32],
    // Boxed: a tree has almost as much empty room as entries.
    by_index: BTreeMap<u32, Box<Association>>,
    /// Their indices by [`Family`]; 0 is nobody's.
    nodes: BTreeMap<NodeRef, [u32; 2]>,
    by_source: Shares,
    silence: Silence,
    repeats: BTreeSet<(Instant, u32)>,
    /// Messages that are not acknowledged.
    queued: usize,
}

/// What became of an association and its node.
pub(super) struct Removed {
    pub(super) association: Association,
    /// It was its node's last.
    pub(super) node_left: bool,
}

/// Somebody's alarm rings.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Due {
    /// Something is to be sent again.
    Repeats(u32),
    /// Nothing was heard for too long.
    Silent(u32),
}

impl Associations {
    /// At most so many from one source. `secret` is known to nobody else.
    pub(super) fn new(now: Instant, secret: [u8; 32], per_source: usize) -> Self {
        Associations {
            began: now,
            secret,
            by_index: BTreeMap::new(),
            nodes: BTreeMap::new(),
            by_source: Shares::new(per_source),
            silence: Silence::new(now),
            repeats: BTreeSet::new(),
            queued: 0,
        }
    }

    /// How many there are, of how many nodes.
    pub(super) fn len(&self) -> (usize, usize) {
        (self.by_index.len(), self.nodes.len())
    }

    /// All of them, with the keys of their clients.
    pub(super) fn keys(&self) -> impl Iterator<Item = (u32, PublicKey)> {
        self.by_index.iter().map(|(index, association)| (*index, association.key))
    }

    /// That source and its network may have one more.
    pub(super) fn has_room(&self, source: Prefix) -> bool {
        self.by_source.has_room(source)
    }

    /// Nobody has that index.
    pub(super) fn is_free(&self, index: u32) -> bool {
        index != 0 && !self.by_index.contains_key(&index)
    }

    pub(super) fn get(&self, index: u32) -> Option<&Association> {
        self.by_index.get(&index).map(|boxed| &**boxed)
    }

    pub(super) fn get_mut(&mut self, index: u32) -> Option<&mut Association> {
        self.by_index.get_mut(&index).map(|boxed| &mut **boxed)
    }

    /// The node of that name: 64 bits of a digest, which nobody outside can aim at because it begins with a secret.
    /// `None` if another key's node has got them, which may happen once in 10⁷ servers with a million nodes.
    pub(super) fn node(&self, name: &NodeName) -> Option<NodeRef> {
        let (key, run) = name;
        let mut hash = digest::Context::new(&digest::SHA256);
        [&self.secret[..], &key.0, run].iter().for_each(|part| hash.update(part));
        let first = hash.finish().as_ref().first_chunk().map_or(0, |bytes| u64::from_be_bytes(*bytes));
        let node = NodeRef(NonZeroU64::new(first)?);
        self.of_node(node).all(|(_, association)| association.key == *key).then_some(node)
    }

    /// The association that a new one of that node over that family would replace.
    pub(super) fn replaced_by(&self, node: NodeRef, source: Source) -> Option<u32> {
        let index = self.nodes.get(&node)?[Family::from(source) as usize];
        (index != 0).then_some(index)
    }

    /// Takes a new one in. The one that it replaces is to be [removed](Self::remove) *after* that, so that
    /// its node does not leave meanwhile.
    pub(super) fn insert(&mut self, now: Instant, joining: Joining) {
        let Joining { key, node, source, index, channel, reply } = joining;
        let counted_for = Prefix::from(source.addr);
        self.by_source.add(counted_for);
        self.nodes.entry(node).or_default()[Family::from(source) as usize] = index;
        let unsettled = Some(Box::new(Unsettled { reply: Some(reply), ..Unsettled::default() }));
        let heard = self.micros(now);
        let association = Association { key, node, channel, source, counted_for, heard, unsettled };
        self.by_index.insert(index, Box::new(association));
        self.silence.look_at(now + ASSOCIATION_TIMEOUT, index);
        self.schedule(index);
    }

    /// Forgets one.
    pub(super) fn remove(&mut self, index: u32) -> Option<Removed> {
        let association = *self.by_index.remove(&index)?;
        if let Some(unsettled) = &association.unsettled {
            self.queued -= unsettled.queued;
            unsettled.repeats.map(|at| self.repeats.remove(&(at, index)));
        }
        self.by_source.remove(association.counted_for);
        let mut node_left = false;
        if let Some(by_family) = self.nodes.get_mut(&association.node) {
            by_family
                .iter_mut()
                .filter(|of_family| **of_family == index)
                .for_each(|of_family| *of_family = 0);
            node_left = *by_family == [0; 2];
            if node_left {
                self.nodes.remove(&association.node);
            }
        }
        Some(Removed { association, node_left })
    }

    /// An authentic datagram came.
    pub(super) fn heard(&mut self, now: Instant, index: u32) {
        let heard = self.micros(now);
        let Some(association) = self.by_index.get_mut(&index) else { return };
        association.heard = heard;
        if let Some(unsettled) = &mut association.unsettled {
            unsettled.reply = None;
        }
    }

    /// The association over which a message goes.
    pub(super) fn route(&self, to: To) -> Option<u32> {
        let wanted = to.family.and_then(|family| Some(self.nodes.get(&to.node)?[family as usize]));
        let newest = || self.of_node(to.node).max_by_key(|(_, association)| association.heard);
        wanted.filter(|index| *index != 0).or_else(|| newest().map(|(index, _)| index))
    }

    /// Where a node's datagrams come from, IPv4 and IPv6; with port 0 those that come over TCP, which shows the
    /// address and no port that could be sent to.
    pub(super) fn addresses(&self, node: NodeRef) -> [Option<SocketAddr>; 2] {
        let Some(by_family) = self.nodes.get(&node) else { return [None; 2] };
        by_family.map(|index| {
            let source = self.by_index.get(&index)?.source;
            let mut observed = source.observed();
            if !source.udp {
                observed.set_port(0);
            }
            Some(observed)
        })
    }

    /// Messages that wait for acknowledgements.
    pub(super) fn queued(&self) -> usize {
        self.queued
    }

    /// Sets the alarm of one anew and counts what it has queued, after anything was done with it.
    pub(super) fn schedule(&mut self, index: u32) {
        let Some(association) = self.by_index.get_mut(&index) else { return };
        let queued = association.channel.unacknowledged() + association.backlog();
        let repeats = association.channel.poll_timeout();
        if association.unsettled.is_none() && queued == 0 {
            return;
        }
        let unsettled = association.unsettled.get_or_insert_default();
        self.queued = self.queued + queued - unsettled.queued;
        unsettled.queued = queued;
        if unsettled.repeats != repeats {
            unsettled.repeats.map(|at| self.repeats.remove(&(at, index)));
            unsettled.repeats = repeats;
            self.repeats.extend(repeats.map(|at| (at, index)));
        }
        association.unsettled.take_if(|unsettled| queued == 0 && unsettled.reply.is_none());
    }

    /// When the next alarm rings.
    pub(super) fn next_alarm(&self) -> Option<Instant> {
        let repeats = self.repeats.first().map(|(at, _)| *at);
        repeats.into_iter().chain(self.silence.next()).min()
    }

    /// One whose alarm rings.
    pub(super) fn due(&mut self, now: Instant) -> Option<Due> {
        while let Some(index) = self.silence.due(now) {
            let Some(association) = self.by_index.get(&index) else { continue };
            let over = self.began + Duration::from_micros(association.heard) + ASSOCIATION_TIMEOUT;
            if over <= now {
                return Some(Due::Silent(index));
            }
            self.silence.look_at(over, index);
        }
        self.repeats.first().filter(|(at, _)| *at <= now).map(|(_, index)| Due::Repeats(*index))
    }

    /// The associations of a node.
    fn of_node(&self, node: NodeRef) -> impl Iterator<Item = (u32, &Association)> {
        let indices = self.nodes.get(&node).into_iter().flatten();
        indices.filter_map(|index| Some((*index, self.get(*index)?)))
    }

    fn micros(&self, now: Instant) -> u64 {
        now.saturating_duration_since(self.began).as_micros() as u64
    }
}

#[cfg(test)]
mod tests {
    use zeroize::Zeroizing;

    use super::*;
    use crate::{
        secure::{Initiator, Psk, Purpose, Responder, StaticKey},
        testing::start,
    };

    fn channel() -> Channel<FromServer, ToServer> {
        let [ours, theirs] = [1, 2].map(|byte| StaticKey::from_private(Zeroizing::new([byte; 32])));
        let message =
            Initiator::new([3; 32], &ours, &theirs.public(), Purpose::Server, b"", &Psk::none()).write(b"");
        let (responder, _) =
            Responder::read([4; 32], &theirs, Purpose::Server, b"", &message).expect("an honest client");
        Channel::new(responder.write(&Psk::none(), b"").1.datagram(), 7, 8, 1000)
    }

    #[test]
    fn a_node_is_known_again_and_never_taken_for_another_keys() {
        let [ours, theirs] = [1, 2].map(|byte| PublicKey([byte; 32]));
        let mut associations = Associations::new(start(), [9; 32], 10);
        let node = associations.node(&(ours, [5; 16])).expect("nobody else");
        assert_ne!(associations.node(&(ours, [6; 16])), Some(node), "another run");
        assert_ne!(associations.node(&(theirs, [5; 16])), Some(node), "another key");
        let other_server = Associations::new(start(), [8; 32], 10);
        assert_ne!(other_server.node(&(ours, [5; 16])), Some(node), "nobody can tell it in advance");
        // As if another key's node had got the same number.
        let source = Source { addr: ([192, 0, 2, 1], 5).into(), udp: true, via: 0 };
        let joining = |key| Joining { key, node, source, index: 7, channel: channel(), reply: vec![1] };
        associations.insert(start(), joining(theirs));
        assert_eq!(associations.node(&(ours, [5; 16])), None);
        assert!(associations.remove(7).is_some_and(|removed| removed.node_left));
        associations.insert(start(), joining(ours));
        assert_eq!(associations.node(&(ours, [5; 16])), Some(node));
        assert_eq!(associations.replaced_by(node, source), Some(7));
    }

    #[test]
    fn an_idle_association_is_small() {
        // Whoever makes it larger makes every name larger: `tests/counts.rs` has the sum.
        assert!(size_of::<Association>() <= 200, "{} bytes", size_of::<Association>());
    }
}
