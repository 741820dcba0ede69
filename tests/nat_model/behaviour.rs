//! The axes along which NATs differ (RFC 4787, RFC 5382), and named points among them.

use std::time::Duration;

pub use punchtunnel::nat::Mapping;

/// Which inbound packets pass once there is a mapping (RFC 4787 §5).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Filtering {
    EndpointIndependent,
    AddressDependent,
    AddressAndPortDependent,
}

/// How a new mapping gets its external port. `None` is drawn from the NAT's seed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Assignment {
    /// The internal port where the tuple is free, as Linux does; otherwise a random one. Ports are shared
    /// by mappings towards different destinations.
    Preserving,
    /// The internal port plus a constant, modulo the range; a random one where that is taken.
    ConstantOffset { offset: Option<u16> },
    /// One counter for everybody.
    Sequential {
        /// Distance from one mapping to the next; negative counts down.
        step: i16,
        /// Up to this many ports more are skipped each time, at random.
        jitter: u16,
        /// The external port is odd where the internal one is (RFC 4787 §4.2.2).
        parity: bool,
        /// The first port.
        start: Option<u16>,
    },
    /// Any free port between these, both included.
    Random { low: u16, high: u16 },
    /// Any free port of a block of `size` that each internal address has for its own (RFC 7422). A full
    /// block refuses.
    Block { size: u16, low: Option<u16> },
    /// One of preserving, sequential and random, by the seed: for behaviours whose mapping does not let
    /// the difference show.
    Any,
}

/// What an unsolicited packet is answered with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unsolicited {
    /// Nothing.
    Drop,
    /// A reset for TCP, "port unreachable" for UDP.
    Reset,
    /// "Administratively prohibited".
    Icmp,
}

/// How a NAT with several public addresses chooses (RFC 4787 §4.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pooling {
    /// An internal address keeps its public one.
    Paired,
    /// Each mapping may get another.
    Arbitrary,
}

/// What becomes of UDP.
#[derive(Debug, Clone, PartialEq)]
pub enum UdpBehaviour {
    /// The same axes as TCP, with counters of its own.
    Same,
    /// Axes of its own (its `udp`, `foreign` and `hairpin` are not looked at).
    Separate(Box<Behaviour>),
    /// Nothing passes.
    Blocked,
}

/// How long an idle mapping lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timeouts {
    pub udp: Duration,
    /// TCP before it is established in both directions, and after a FIN or reset.
    pub transitory: Duration,
    pub established: Duration,
}

/// One NAT's behaviour.
#[derive(Debug, Clone, PartialEq)]
pub struct Behaviour {
    /// What tables and failures call it.
    pub name: String,
    pub mapping: Mapping,
    pub filtering: Filtering,
    pub assignment: Assignment,
    pub unsolicited: Unsolicited,
    /// A reset that is the first answer to an own SYN deletes the mapping at once.
    pub reset_deletes: bool,
    /// Inbound bare SYNs are dropped even inside a mapping.
    pub strict: bool,
    /// An outbound segment in the middle of an unknown connection makes a mapping (Linux's
    /// `nf_conntrack_tcp_loose`).
    pub loose: bool,
    pub timeouts: Timeouts,
    /// Packets from inside to an own public address go back inside.
    pub hairpin: bool,
    pub pooling: Pooling,
    pub udp: UdpBehaviour,
    /// TCP connections that others behind the NAT open, a second; Poisson.
    pub foreign: f64,
}

impl Behaviour {
    /// Linux masquerade, as on most home routers.
    pub fn linux(unsolicited: Unsolicited) -> Self {
        let name = match unsolicited {
            Unsolicited::Drop => "linux drop",
            Unsolicited::Reset => "linux reset",
            Unsolicited::Icmp => "linux icmp",
        };
        Behaviour {
            name: name.into(),
            mapping: Mapping::AddressAndPortDependent,
            filtering: Filtering::AddressAndPortDependent,
            assignment: Assignment::Preserving,
            unsolicited,
            reset_deletes: true,
            strict: false,
            loose: true,
            // Linux's own: 30 s unanswered and 120 s answered UDP, 120 s SYN_SENT, 5 days.
            timeouts: Timeouts {
                udp: Duration::from_secs(60),
                transitory: Duration::from_secs(120),
                established: Duration::from_secs(5 * 24 * 3600),
            },
            hairpin: false,
            pooling: Pooling::Paired,
            udp: UdpBehaviour::Same,
            foreign: 0.0,
        }
    }

    /// The mapping that RFC 5382 demands, with any filtering; ports by any rule.
    pub fn endpoint_independent(filtering: Filtering) -> Self {
        let name = match filtering {
            Filtering::EndpointIndependent => "ei/ei",
            Filtering::AddressDependent => "ei/address",
            Filtering::AddressAndPortDependent => "ei/port",
        };
        Behaviour {
            mapping: Mapping::EndpointIndependent,
            filtering,
            assignment: Assignment::Any,
            ..Self::commercial(name)
        }
    }

    /// External port = internal port plus a constant.
    pub fn constant_offset() -> Self {
        Behaviour {
            mapping: Mapping::EndpointIndependent,
            assignment: Assignment::ConstantOffset { offset: None },
            ..Self::commercial("constant offset")
        }
    }

    /// Each connection gets the next port, `step` further.
    pub fn sequential(step: i16) -> Self {
        Behaviour {
            assignment: Assignment::Sequential { step, jitter: 0, parity: false, start: None },
            ..Self::commercial(&format!("sequential {step:+}"))
        }
    }

    /// The next port of the internal port's parity.
    pub fn sequential_parity() -> Self {
        Behaviour {
            assignment: Assignment::Sequential { step: 1, jitter: 0, parity: true, start: None },
            ..Self::commercial("sequential parity")
        }
    }

    /// Steps of 1 plus 0 to 2.
    pub fn irregular() -> Self {
        Behaviour {
            assignment: Assignment::Sequential { step: 1, jitter: 2, parity: false, start: None },
            ..Self::commercial("sequential 1+0..2")
        }
    }

    /// Another port for another address, counted up by one.
    pub fn address_dependent_sequential() -> Self {
        Behaviour {
            mapping: Mapping::AddressDependent,
            filtering: Filtering::AddressDependent,
            ..Self::sequential(1).named("sequential, address")
        }
    }

    /// A carrier's block for each customer.
    pub fn block(size: u16) -> Self {
        Behaviour {
            assignment: Assignment::Block { size, low: None },
            ..Self::commercial(&format!("block {size}"))
        }
    }

    /// A new random port for each connection.
    pub fn random() -> Self {
        Behaviour {
            assignment: Assignment::Random { low: 1024, high: u16::MAX },
            ..Self::commercial("random")
        }
    }

    /// A firewall that lets an own SYN's SYN/ACK in and nothing else.
    pub fn strict() -> Self {
        Behaviour { strict: true, ..Self::linux(Unsolicited::Drop).named("strict") }
    }

    /// The same, called otherwise.
    pub fn named(self, name: &str) -> Self {
        Behaviour { name: name.into(), ..self }
    }

    /// The same with this many foreign connections a second.
    pub fn with_foreign(self, foreign: f64) -> Self {
        Behaviour { name: format!("{} {foreign}/s", self.name), foreign, ..self }
    }

    /// The same, answering unsolicited SYNs with resets, and forgetting mappings on resets.
    pub fn resetting(self) -> Self {
        let name = format!("{} reset", self.name);
        Behaviour { name, unsolicited: Unsolicited::Reset, reset_deletes: true, ..self }
    }

    /// The same with hairpin.
    pub fn with_hairpin(self) -> Self {
        Behaviour { name: format!("{} hairpin", self.name), hairpin: true, ..self }
    }

    /// The same where no UDP passes.
    pub fn without_udp(self) -> Self {
        Behaviour { name: format!("{} no udp", self.name), udp: UdpBehaviour::Blocked, ..self }
    }

    /// RFC 5382's timeouts, a port for each tuple and the tightest filter: what the commercial ones share.
    fn commercial(name: &str) -> Self {
        Behaviour {
            reset_deletes: false,
            loose: false,
            timeouts: Timeouts {
                udp: Duration::from_secs(120),
                transitory: Duration::from_secs(4 * 60),
                established: Duration::from_secs(2 * 3600 + 4 * 60),
            },
            ..Self::linux(Unsolicited::Drop).named(name)
        }
    }
}
