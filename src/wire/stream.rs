//! What the mux frames OPEN and RESET carry.

use serde::{Deserialize, Serialize};

/// Longest label of a service, bytes.
pub const MAX_LABEL: usize = 63;

/// Largest encoded [`OpenRequest`] or [`ResetReason`].
pub const MAX_OPEN: usize = 256;

/// Payload of OPEN: what the stream is to be connected to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OpenRequest {
    /// Label or port of an exposed service; `None` is the first one.
    pub service: Option<String>,
}

/// Payload of RESET: why a stream ends without FIN.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, thiserror::Error)]
pub enum ResetReason {
    /// The local connection was reset by its program.
    #[error("the connection was reset by the program on the other side")]
    Reset,
    /// The service did not take the connection.
    #[error("the service refused the connection")]
    Refused,
    /// The service could not be reached (no route, timeout).
    #[error("the service cannot be reached from the host")]
    Unreachable,
    /// Nothing is exposed under that label.
    #[error("the host exposes no such service")]
    NoSuchService,
    /// This key may not use the service.
    #[error("this client may not use the service")]
    NotAllowed,
    /// Too many streams.
    #[error("too many connections at once")]
    TooMany,
    /// The session ended.
    #[error("the session ended")]
    SessionEnded,
}
