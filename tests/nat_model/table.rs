//! The mappings of a NAT, and when they end.

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
    time::{Duration, Instant},
};

use super::{
    behaviour::{Behaviour, Filtering, Mapping},
    packet::{Flags, Kind, Transport},
};

/// How long a connection is remembered after a reset that did not delete it (Linux's CLOSE state).
const CLOSED: Duration = Duration::from_secs(10);

/// The destinations that a mapping is good for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Toward {
    Anybody,
    Address(IpAddr),
    Endpoint(SocketAddr),
}

impl Toward {
    pub fn new(mapping: Mapping, remote: SocketAddr) -> Self {
        match mapping {
            Mapping::EndpointIndependent => Toward::Anybody,
            Mapping::AddressDependent => Toward::Address(remote.ip()),
            Mapping::AddressAndPortDependent => Toward::Endpoint(remote),
        }
    }

    /// Could one packet belong to both?
    fn meets(self, other: Toward) -> bool {
        match (self, other) {
            (Toward::Anybody, _) | (_, Toward::Anybody) => true,
            (Toward::Address(a), Toward::Address(b)) => a == b,
            (Toward::Address(a), Toward::Endpoint(b)) | (Toward::Endpoint(b), Toward::Address(a)) => {
                a == b.ip()
            }
            (Toward::Endpoint(a), Toward::Endpoint(b)) => a == b,
        }
    }
}

/// Which way a packet goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    Out,
    In,
}

/// One contacted remote of a mapping.
#[derive(Debug, Clone, Copy)]
struct Flow {
    expires: Instant,
    answered: bool,
    acked: [bool; 2],
    finished: [bool; 2],
    reset: bool,
}

/// An internal endpoint that can be seen from outside.
#[derive(Debug)]
pub struct Mapped {
    pub transport: Transport,
    pub internal: SocketAddr,
    pub external: SocketAddr,
    toward: Toward,
    flows: BTreeMap<SocketAddr, Flow>,
}

impl Mapped {
    fn live(&self, now: Instant) -> bool {
        self.flows.values().any(|flow| now < flow.expires)
    }

    fn passes(&self, now: Instant, remote: SocketAddr, filtering: Filtering) -> bool {
        let mut live = self.flows.iter().filter(|(_, flow)| now < flow.expires).map(|(remote, _)| remote);
        match filtering {
            Filtering::EndpointIndependent => live.next().is_some(),
            Filtering::AddressDependent => live.any(|known| known.ip() == remote.ip()),
            Filtering::AddressAndPortDependent => live.any(|known| *known == remote),
        }
    }
}

/// Why no mapping lets a packet in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unknown {
    NoMapping,
    Filtered,
}

/// All mappings.
#[derive(Debug, Default)]
pub struct Table {
    mapped: BTreeMap<u64, Mapped>,
    by_internal: BTreeMap<(Transport, SocketAddr, Toward), u64>,
    by_external: BTreeMap<(Transport, SocketAddr), Vec<u64>>,
    last: u64,
}

impl Table {
    pub fn get(&self, id: u64) -> &Mapped {
        &self.mapped[&id]
    }

    /// Live mappings of a transport.
    pub fn count(&self, now: Instant, transport: Transport) -> usize {
        self.mapped.values().filter(|m| m.transport == transport && m.live(now)).count()
    }

    pub fn find_internal(
        &mut self,
        now: Instant,
        transport: Transport,
        internal: SocketAddr,
        toward: Toward,
    ) -> Option<u64> {
        let id = *self.by_internal.get(&(transport, internal, toward))?;
        if self.get(id).live(now) {
            return Some(id);
        }
        self.remove(id);
        None
    }

    /// The mapping through which a packet from `remote` to `external` gets in. Where several share the
    /// external port, the one that contacted `remote` has it.
    pub fn find_external(
        &self,
        now: Instant,
        transport: Transport,
        external: SocketAddr,
        remote: SocketAddr,
        filtering: Filtering,
    ) -> Result<u64, Unknown> {
        let ids = self.by_external.get(&(transport, external)).map_or(&[][..], Vec::as_slice);
        let live = || ids.iter().copied().filter(|&id| self.get(id).live(now));
        let exact = Filtering::AddressAndPortDependent;
        live()
            .find(|&id| self.get(id).passes(now, remote, exact))
            .or_else(|| live().find(|&id| self.get(id).passes(now, remote, filtering)))
            .ok_or_else(|| if live().next().is_some() { Unknown::Filtered } else { Unknown::NoMapping })
    }

    /// May a new mapping not have this external endpoint?
    pub fn taken(
        &self,
        now: Instant,
        transport: Transport,
        external: SocketAddr,
        toward: Toward,
        shared: bool,
    ) -> bool {
        self.by_external.get(&(transport, external)).is_some_and(|ids| {
            ids.iter().map(|&id| self.get(id)).any(|m| (!shared || m.toward.meets(toward)) && m.live(now))
        })
    }

    pub fn insert(
        &mut self,
        transport: Transport,
        internal: SocketAddr,
        toward: Toward,
        external: SocketAddr,
    ) -> u64 {
        self.last += 1;
        let id = self.last;
        self.by_internal.insert((transport, internal, toward), id);
        self.by_external.entry((transport, external)).or_default().push(id);
        self.mapped.insert(id, Mapped { transport, internal, external, toward, flows: BTreeMap::new() });
        id
    }

    /// Keeps a mapping until an instant, whoever uses it: a foreign one.
    pub fn hold(&mut self, id: u64, remote: SocketAddr, until: Instant) {
        let flow =
            Flow { expires: until, answered: true, acked: [true; 2], finished: [false; 2], reset: false };
        if let Some(mapped) = self.mapped.get_mut(&id) {
            mapped.flows.insert(remote, flow);
        }
    }

    /// A packet passed.
    pub fn touch(
        &mut self,
        now: Instant,
        id: u64,
        remote: SocketAddr,
        way: Way,
        kind: Kind,
        axes: &Behaviour,
    ) {
        let Behaviour { timeouts, reset_deletes, .. } = axes;
        let reset_deletes = *reset_deletes;
        let Some(mapped) = self.mapped.get_mut(&id) else { return };
        let fresh =
            Flow { expires: now, answered: false, acked: [false; 2], finished: [false; 2], reset: false };
        let flow = mapped.flows.entry(remote).or_insert(fresh);
        if now >= flow.expires {
            *flow = fresh;
        }
        match kind {
            Kind::Udp => flow.expires = now + timeouts.udp,
            Kind::Icmp { .. } => {}
            Kind::Tcp(Flags { rst: true, .. }) if reset_deletes && !flow.answered => {
                mapped.flows.remove(&remote);
                if !mapped.live(now) {
                    self.remove(id);
                }
            }
            Kind::Tcp(flags) => {
                if flags.bare_syn() && flow.reset {
                    *flow = fresh;
                }
                flow.reset |= flags.rst;
                flow.acked[way as usize] |= flags.ack && !flags.rst;
                flow.finished[way as usize] |= flags.fin;
                flow.answered |= way == Way::In;
                flow.expires = now
                    + match () {
                        () if flow.reset && reset_deletes => CLOSED.min(timeouts.transitory),
                        () if flow.reset || flow.finished == [true; 2] || flow.acked != [true; 2] => {
                            timeouts.transitory
                        }
                        () => timeouts.established,
                    };
            }
        }
    }

    /// Forgets what has ended.
    pub fn sweep(&mut self, now: Instant) {
        let dead: Vec<u64> = self.mapped.iter().filter(|(_, m)| !m.live(now)).map(|(&id, _)| id).collect();
        for id in dead {
            self.remove(id);
        }
    }

    fn remove(&mut self, id: u64) {
        let Some(mapped) = self.mapped.remove(&id) else { return };
        let internal = (mapped.transport, mapped.internal, mapped.toward);
        if self.by_internal.get(&internal) == Some(&id) {
            self.by_internal.remove(&internal);
        }
        let external = (mapped.transport, mapped.external);
        if let Some(ids) = self.by_external.get_mut(&external) {
            ids.retain(|&other| other != id);
            if ids.is_empty() {
                self.by_external.remove(&external);
            }
        }
    }
}
