//! What ends a link, and what ends a session.

use crate::{mux::Violation, wire::WireError};

/// The link is of no use any more: close its connection and call [`detach`](super::Session::detach).
/// The session goes on and moves to the next link.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LinkError {
    /// Bytes that are no record.
    #[error("what came over the link is no record: {0}")]
    Format(#[from] WireError),
    /// A record does not open: damaged, or not the peer's.
    #[error("the seal of a record is broken")]
    Seal,
    /// A record was sealed with keys that are not, or no longer, known.
    #[error("a record of epoch {epoch}, whose keys are not known")]
    Epoch {
        /// What the record said.
        epoch: u32,
    },
    /// A record is missing.
    #[error("record {found} came where {expected} was expected")]
    Gap {
        /// The number or counter that came.
        found: u64,
        /// The one that was next.
        expected: u64,
    },
    /// The peer wants to go on from a record that this side never sent, or that the peer has
    /// acknowledged already.
    #[error("the other side wants to go on from record {next}, but only {first} to {end} can be")]
    Resume {
        /// What RESUME named.
        next: u64,
        /// The oldest record that is still queued.
        first: u64,
        /// One after the newest record sealed.
        end: u64,
    },
    /// The peer acknowledges what this link did not carry, or takes an acknowledgement back.
    #[error("the other side acknowledges up to record {next}, but only {first} to {end} can be")]
    Acknowledged {
        /// What ACK named.
        next: u64,
        /// The oldest record that is not acknowledged.
        first: u64,
        /// One after the newest record sent on this link.
        end: u64,
    },
    /// A good record that has no place here, by name.
    #[error("{0} has no place here")]
    Unexpected(&'static str),
    /// Nothing came for too long, and pings were not answered.
    #[error("nothing came for {0:.1?}")]
    Silent(std::time::Duration),
    /// The other side holds the link for dead.
    #[error("the other side holds the link for dead")]
    DeclaredDead,
    /// The link is not newer than one that the session has or had.
    #[error("link {epoch} comes too late, the session is at {current}")]
    Stale {
        /// The link.
        epoch: u32,
        /// The newest that was attached.
        current: u32,
    },
    /// The session is over: no link is wanted.
    #[error("the session is over")]
    Ended,
}

/// Why a session is over, where this side did not end it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SessionError {
    /// The other side closed it.
    #[error("the other side ended the session")]
    Closed,
    /// The other side broke the protocol inside a good seal; it would do so again on every link.
    #[error("the other side broke the protocol: {0}")]
    Violation(#[from] Violation),
}
