//! Observations of a NAT → its behaviour → a prediction of the ports it will use next.
//!
//! TCP is measured with TCP: the observations come from probes, TCP connections to a server made from
//! the very ports that will punch. A [`Prediction`] is a small model, not a port.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

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

/// What the next connections will look like from outside.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Model {
    /// Each punch port has one external port, whatever the destination.
    Fixed {
        /// External port of each punch port, by index; at least one, at most [`MAX_PORTS`].
        ports: Vec<u16>,
    },
    /// Each new connection gets the next port, whoever it belongs to.
    Progression {
        /// The external port that the next connection would have got at the time of the last probe.
        next: u16,
        /// Distance from one connection to the next.
        step: i16,
        /// Connections a second that others behind the same NAT open, in hundredths.
        rate_centi: u32,
    },
    /// Each new connection gets a random port out of a block.
    Band {
        /// Lowest port of the (widened) block.
        low: u16,
        /// Highest port of the (widened) block.
        high: u16,
    },
    /// Each new connection gets a random port.
    Random,
}

/// Most external ports that a [`Model::Fixed`] names.
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
    /// How sure the model is, percent.
    pub confidence: u8,
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
    pub server: std::net::SocketAddr,
    /// The external address and port.
    pub observed: std::net::SocketAddr,
    /// When the server accepted it, microseconds on the server's clock.
    pub at_us: u64,
}
