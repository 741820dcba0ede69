//! The TCP connections that the network carries, and what is done to them on purpose.

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
};

use crate::{
    network::SegmentId,
    packet::{Headers, Transport, flag},
};

/// What becomes of the packets of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// Resets take the place of each.
    Reset,
    /// They vanish.
    Silence,
}

/// Every TCP connection seen on any segment.
#[derive(Debug, Default)]
pub struct Flows {
    flows: BTreeMap<Flow, Passed>,
}

/// A connection on one segment, the smaller end first.
type Flow = (SegmentId, SocketAddr, SocketAddr);

#[derive(Debug, Default)]
struct Passed {
    /// Bytes of data, both directions, repetitions included.
    data: u64,
    fate: Option<Fate>,
}

impl Flows {
    /// Counts a packet; the fate of its connection, if that is sealed. A SYN begins a new connection.
    pub fn watch(&mut self, segment: SegmentId, headers: &Headers, packet: &[u8]) -> Option<Fate> {
        let Transport::Tcp { flags } = headers.transport else { return None };
        let (one, other) = (headers.source, headers.destination);
        let passed = self.flows.entry((segment, one.min(other), one.max(other))).or_default();
        if flags & flag::SYN != 0 {
            passed.fate = None;
        }
        if passed.fate.is_none() {
            passed.data += headers.sequence(packet).map_or(0, |(_, _, length)| u64::from(length));
        }
        passed.fate
    }

    /// Seals the fate of every connection on one segment that has carried data, except those with an end
    /// at `spared`; how many there are.
    pub fn seal(&mut self, segment: SegmentId, fate: Fate, spared: &[IpAddr]) -> usize {
        let mut count = 0;
        for ((at, one, other), passed) in &mut self.flows {
            if *at == segment && passed.data > 0 && passed.fate.is_none() && !ends_at(spared, one, other) {
                passed.fate = Some(fate);
                count += 1;
            }
        }
        count
    }

    /// Bytes of data on one segment, on connections with no end at `spared`.
    pub fn data(&self, segment: SegmentId, spared: &[IpAddr]) -> u64 {
        let here =
            self.flows.iter().filter(|((at, one, other), _)| *at == segment && !ends_at(spared, one, other));
        here.map(|(_, passed)| passed.data).sum()
    }
}

fn ends_at(addresses: &[IpAddr], one: &SocketAddr, other: &SocketAddr) -> bool {
    addresses.contains(&one.ip()) || addresses.contains(&other.ip())
}
