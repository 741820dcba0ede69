//! Two computers behind NATs, a small server that both can reach, and a TCP port on one that a program
//! on the other wants to use.
//!
//! punchtunnel connects the two with *one TCP connection that both open at the same instant*, each
//! towards the port that the other's NAT is predicted to use. The connection is encrypted end to end,
//! carries many streams, and is punched again when it drops: the streams go on where they stopped.
//!
//! # Use it
//!
//! A program embeds all three parts through [`Server`], [`Host`] and [`Client`]:
//!
//! ```no_run
//! use punchtunnel::{Client, Host, Server, generate_key};
//! use tokio::io::{AsyncReadExt, AsyncWriteExt};
//!
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! // On a machine that everybody reaches:
//! let server = Server::builder().data("/var/lib/punchtunnel").bind().await?;
//! tokio::spawn(server.run(std::future::pending()));
//!
//! // Behind one NAT:
//! let client_key = generate_key();
//! let host = Host::builder("myhost")
//!     .rendezvous("vps.example.org")
//!     .service("22".parse()?)                       // a TCP service, or
//!     .accept("chat")                               // streams for this program itself
//!     .admission(vec![client_key.public()])         // who is let in
//!     .start()
//!     .await?;
//!
//! // Behind another:
//! let client = Client::builder("myhost")
//!     .rendezvous("vps.example.org")
//!     .key(client_key)
//!     .host_key(host.public_key())
//!     .connect()
//!     .await?;
//! let mut stream = client.open(Some("22")).await?;
//! let mut banner = [0; 64];
//! let length = stream.read(&mut banner).await?;
//! stream.write_all(b"SSH-2.0-mine\r\n").await?;
//! # Ok(()) }
//! ```
//!
//! # The life of a connection
//!
//! 1. **Rendezvous.** The host keeps itself registered. The client's request carries its first
//!    handshake message, sealed to the host's key; only when the host has accepted it are the two told
//!    each other's address. → [`rendezvous`], [`secure`]
//! 2. **UDP hole punch.** From the handshake on there is a sealed channel through the server; the hole
//!    makes it direct, and measures round trips. → [`channel`]
//! 3. **Clock and schedule.** Pings give the offset between the two clocks; both agree on an instant
//!    less than a second ahead. → [`punch`]
//! 4. **Prediction.** A burst of TCP connections to the server's probe ports, from the very ports that
//!    will punch, shows what the NAT does. → [`nat`]
//! 5. **Simultaneous open.** At the instant both open towards the predicted ports and listen on the same
//!    local ones. → [`punch`], [`endpoint`]
//! 6. **Link, session, streams.** The connection becomes the link under a session that outlives it.
//!    → [`session`], [`mux`], [`forward`]
//!
//! # Cores and drivers
//!
//! Everything except [`net`] is free of sockets, clocks and random numbers: `now` and seeds are
//! arguments, `handle_*` takes in what happened, `poll_*` says what is to be done. So whole peers run in
//! one thread under simulated time. An [`endpoint::Endpoint`] and a [`session::Session`] are what a
//! program with an event loop of its own drives; [`net`] drives them with tokio.

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
#[cfg(test)]
mod testing;
pub mod wire;

pub use error::{ConfigError, Error, NetworkError, PeerError};
pub use net::{
    Admission, Client, ClientBuilder, Doctor, DoctorBuilder, Event, Events, Examination, Host, HostBuilder,
    Incoming, LocalPort, Monitor, Question, Server, ServerBuilder, Status, Stream, generate_key,
};
