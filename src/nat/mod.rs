//! Observations of a NAT → its behaviour → a prediction of the ports it will use next.
//!
//! TCP is measured with TCP: the observations come from probes, TCP connections to a server made from
//! the very ports that will punch ([`probe_batch`] says which). [`predict`] fits the simplest model that
//! explains them. A [`Prediction`] is a small model, not a port: what to do with it is the business of
//! [`crate::punch::plan`].
//!
//! | module | idea |
//! | --- | --- |
//! | `observe` | which probes to make, and which of the answers speak about one public address |
//! | `predict` | the order in which the models are tried |
//! | `fixed` | one external port for each local port |
//! | `progression` | a counter that everybody behind the NAT moves: is it one, and where is it |
//! | `steps` | how far such a counter moves for each connection, and how many of them are foreign |
//! | `spread` | random draws: out of a block, or out of everything |
//! | `stats` | the distributions that the decisions rest on, with their error rates |
//! | `refresh` | a last probe just before the instant moves a counter's base |
//! | `digest` | do both peers plan from the same input? |
//! | `words` | one sentence for a person |
//!
//! Fitting may use floating point, because one machine fits and sends the result; everything *in* a
//! prediction is an integer, because two machines must compute the same plan from it.

mod digest;
mod fixed;
mod observe;
mod predict;
mod progression;
mod refresh;
mod spread;
mod stats;
mod steps;
#[cfg(test)]
pub(crate) mod synthetic;
mod words;

use std::net::{IpAddr, SocketAddr};

use serde::{Deserialize, Serialize};

pub use self::{
    digest::digest,
    observe::{PROBED_LOCALS, Probe, last_probe, pause, probe_batch, probe_more},
    predict::{is_settled, predict},
    refresh::refresh,
    words::describe,
};

/// How external ports depend on the destination (RFC 4787 §4.1, RFC 5382 §4.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Mapping {
    /// The same external port towards every destination.
    EndpointIndependent,
    /// Another external port for another destination address.
    AddressDependent,
    /// Another external port for another destination address or port.
    AddressAndPortDependent,
}

/// Which inbound packets pass (RFC 4787 §5).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Filtering {
    /// Any, once there is a mapping.
    EndpointIndependent,
    /// Those from an address that was contacted.
    AddressDependent,
    /// Those from an address and port that were contacted.
    AddressAndPortDependent,
    /// Not tested.
    Unknown,
}

/// What a NAT or firewall answers to a SYN that it does not let in (RFC 5382 §4.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Unsolicited {
    /// Nothing, or nothing for the 6 s that the RFC asks for.
    Dropped,
    /// A reset.
    Reset,
    /// An ICMP error.
    Prohibited,
    /// Not tested.
    Unknown,
}

/// Whether two SYNs that cross open a connection (RFC 5382 §4.2: they must).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum SimultaneousOpen {
    /// They do.
    Works,
    /// The SYN that comes in is dropped: only the answer to an own SYN passes.
    Blocked,
    /// Not tested.
    Unknown,
}

/// What the next connections will look like from outside.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Model {
    /// Each punch port has one external port, whatever the destination.
    Fixed {
        /// External port of each punch port, by index; 0 where it is not known (that punch port was not
        /// probed and cannot be inferred, or its probes contradicted each other). At least one is known,
        /// at most [`MAX_PORTS`] are given.
        ports: Vec<u16>,
    },
    /// Each new connection gets the next port, whoever it belongs to.
    Progression(Counter),
    /// Each new connection gets a random port out of a block.
    Band {
        /// Lowest port of the block, or of the range that was seen, widened.
        low: u16,
        /// Highest port of the same.
        high: u16,
        /// Ports that the customer has, at the least: the block's size where it was recognised, the
        /// range that was seen otherwise. What a plan may use up is a part of this.
        size: u16,
        /// A port near its middle that was not seen in use: what the other side aims at where it cannot
        /// cover all of it. Measured anew it is mostly the same one, which helps, as draws are without
        /// replacement.
        meet: u16,
    },
    /// Each new connection gets a random port.
    Random,
}

/// A counter that every new connection behind a NAT moves: ours, and those of others.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Counter {
    /// The external port that the next connection would have got at the time of the last probe: with
    /// jitter, the nearest one that it may have got.
    pub next: u16,
    /// Distance from one connection to the next, at the least; its sign is the direction; not 0.
    pub step: i16,
    /// Up to this many ports more, in the same direction, each number equally likely; 0 for a counter
    /// that moves evenly.
    pub jitter: u16,
    /// Connections a second that others behind the same NAT open, in hundredths.
    pub rate_centi: u32,
    /// How long an observation the rate is worth, milliseconds, at least 1: an estimate over a time t
    /// has the variance rate / t.
    pub over_ms: u16,
}

/// Most external ports that a [`Model::Fixed`] names: more than any plan opens from, few enough for a
/// datagram.
pub const MAX_PORTS: usize = 32;

/// A peer's next external ports, in one address family. Integers only: both peers compute the same
/// [`digest`] and the same plan from it.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Prediction {
    /// The public address.
    pub address: IpAddr,
    /// Which ports.
    pub model: Model,
    /// How the model depends on destinations.
    pub mapping: Mapping,
    /// What gets in.
    pub filtering: Filtering,
    /// What an unsolicited SYN is answered with.
    pub unsolicited: Unsolicited,
    /// Whether a SYN gets in through a mapping whose own SYN is unanswered.
    pub simultaneous_open: SimultaneousOpen,
    /// Beside [`Model::Fixed`], where only one server address was heard of: the counter that new mappings
    /// came from. A punch port that was not probed gets its next port; and so does any, should the
    /// mapping depend on the destination's address after all, which one address cannot tell.
    pub fresh: Option<Counter>,
    /// How probable the model is, percent.
    pub confidence: u8,
}

impl Counter {
    fn is_sound(&self) -> bool {
        self.next != 0 && self.step != 0 && self.over_ms != 0
    }
}

impl Prediction {
    /// What the ports show; what is tested beside them is not known.
    pub fn new(address: IpAddr, model: Model, mapping: Mapping, confidence: u8) -> Self {
        Prediction {
            address,
            model,
            mapping,
            filtering: Filtering::Unknown,
            unsolicited: Unsolicited::Unknown,
            simultaneous_open: SimultaneousOpen::Unknown,
            fresh: None,
            confidence,
        }
    }

    /// Whether the numbers mean something. What a peer sends is checked with this before it is planned
    /// with: at least one known port, a step that moves, a rate that was seen, a band that is not empty.
    pub fn is_sound(&self) -> bool {
        let model = match &self.model {
            Model::Fixed { ports } => ports.len() <= MAX_PORTS && ports.iter().any(|&port| port != 0),
            Model::Progression(counter) => counter.is_sound(),
            Model::Band { low, high, size, meet } => *low != 0 && (low..=high).contains(&meet) && *size != 0,
            Model::Random => true,
        };
        model && self.fresh.is_none_or(|counter| counter.is_sound()) && self.confidence <= 100
    }

    /// Whether it names ports that stay, whatever happens until the instant, and nothing else is to be
    /// found out about them.
    pub fn is_settled(&self) -> bool {
        matches!(self.model, Model::Fixed { .. }) && self.fresh.is_none()
    }
}

/// One probe: which punch port it left from and what the server saw.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Observation {
    /// Number of the probe within its batch: the order in which the SYNs left.
    pub number: u8,
    /// Index of the punch port that it left from.
    pub local: u16,
    /// The local port number.
    pub local_port: u16,
    /// The server's address and port.
    pub server: SocketAddr,
    /// The external address and port.
    pub observed: SocketAddr,
    /// When the server accepted it, microseconds on that server's own clock: comparable only between
    /// observations of one server address.
    pub at_us: u64,
}
