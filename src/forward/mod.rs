//! What a stream is for: the services that a host exposes, and the local ports that lead to them.
//!
//! Pure: text becomes [`Service`]s and [`LocalRule`]s, and an [`OpenRequest`] becomes the service
//! that it means. Nothing that was not exposed can be reached: a client names a service by its label
//! or its port, never an address.

mod rule;
mod service;

pub use rule::LocalRule;
pub use service::{Service, Services};

#[cfg(doc)]
use crate::wire::stream::OpenRequest;

/// Why text is no rule or no service; the message has the remedy.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ForwardError {
    /// Not a port number.
    #[error("{0:?} is not a port: use a number from {1} to 65535")]
    Port(String, u16),
    /// Not an address to listen on.
    #[error("{0:?} is not an address to listen on: use an IP address, localhost or * ([ADDRESS] for IPv6)")]
    Bind(String),
    /// Not a label.
    #[error("{0:?} is not a label: use up to 63 letters, digits, dashes and underscores, not digits alone")]
    Label(String),
    /// Not a host.
    #[error("{0:?} is not a host: use a name or an IP address ([ADDRESS] for IPv6)")]
    Host(String),
    /// A bracket is missing, or something stands behind one.
    #[error("the brackets in {0:?} do not fit: use [ADDRESS]:PORT")]
    Brackets(String),
    /// No service at all.
    #[error("there is nothing to expose: name at least one port")]
    NoService,
    /// Too many services.
    #[error("{0} services are too many: at most {1} can be exposed at once")]
    TooMany(usize, usize),
    /// Two services answer to the same word.
    #[error("two services would be called {0:?}: give one of them a label of its own (LABEL=HOST:PORT)")]
    Ambiguous(String),
}

/// A port number of at least `least`.
fn parse_port(text: &str, least: u16) -> Result<u16, ForwardError> {
    // `u16::from_str` would take a plus sign.
    let digits = text.bytes().all(|b| b.is_ascii_digit());
    match text.parse() {
        Ok(port) if digits && port >= least => Ok(port),
        _ => Err(ForwardError::Port(text.into(), least)),
    }
}

/// Splits `[V6]REST` into the address between the brackets and the rest behind them.
fn split_brackets(text: &str) -> Result<Option<(&str, &str)>, ForwardError> {
    let Some(inner) = text.strip_prefix('[') else { return Ok(None) };
    inner.split_once(']').map(Some).ok_or_else(|| ForwardError::Brackets(text.into()))
}
