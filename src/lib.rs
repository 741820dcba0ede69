//! punchtunnel: skeleton; being built.
pub mod channel;
pub mod endpoint;
pub mod error;
pub mod forward;
pub mod identity;
pub mod mux;
pub mod nat;
pub mod net;
pub mod punch;
pub mod rendezvous;
pub mod secure;
pub mod session;
pub mod wire;

pub use error::{ConfigError, Error, NetworkError, PeerError};
