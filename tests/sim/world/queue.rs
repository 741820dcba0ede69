//! What is to happen, in order.

use std::time::Instant;

use super::{HostId, NetworkId};
use crate::tcp::Segment;

/// What can happen.
#[derive(Debug)]
pub(super) enum Happening {
    /// A packet is in a network and needs a way.
    In(NetworkId, Segment),
    /// A packet reaches a host.
    At(HostId, Segment),
    Wake(HostId),
}

/// Something that is to happen, behind everything that is to happen before it. The number keeps the order
/// of what happens at the same time.
pub(super) struct Queued(pub(super) Instant, pub(super) u64, pub(super) Happening);

impl PartialEq for Queued {
    fn eq(&self, other: &Self) -> bool {
        (self.0, self.1) == (other.0, other.1)
    }
}
impl Eq for Queued {}
impl PartialOrd for Queued {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Queued {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.0, self.1).cmp(&(other.0, other.1))
    }
}
