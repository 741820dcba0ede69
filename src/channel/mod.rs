//! A sealed association over datagrams.
use serde::{Deserialize, Serialize};

/// The sealed content of every datagram of a channel.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Body<M> {
    /// Number of the next repeated message that the sender expects.
    pub ack: u32,
    /// Number of the first message of `kept`.
    pub seq: u32,
    /// Messages that are repeated until they are acknowledged; delivered once and in order.
    pub kept: Vec<M>,
    /// Messages that are sent once.
    pub once: Vec<M>,
}
