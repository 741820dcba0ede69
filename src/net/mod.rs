//! Every socket, clock, timer and random seed: the cores, driven with tokio.
//!
//! | file | what it owns |
//! | --- | --- |
//! | [`clock`] | the clock and the random numbers |
//! | `udp`, `tcp_datagrams`, `frames` | datagrams, and their way over TCP where UDP is blocked |
//! | `ports` | punch ports: holders, probes, listeners, openings at an instant |
//! | `watch` | the addresses of this machine, and whether it slept |
//! | `agent` | an [`Endpoint`](crate::endpoint::Endpoint) and all of the above |
//! | `tunnel`, `link` | a [`Session`](crate::session::Session) and the connection under it |
//! | `stream`, `forward` | streams, and TCP connections that lead to and from them |
//! | `status` | what people and programs ask: how does it stand? |
//! | `host`, `client`, `owner`, `server` | what a program runs |
//! | `doctor` | what this machine's NAT does, asked for its own sake |
//!
//! Locks are held for computing, never across an await. Every channel is bounded, and the tasks that
//! own a core never wait for a full one.

mod admission;
mod agent;
mod client;
pub mod clock;
mod congestion;
mod doctor;
mod drain;
mod event;
mod failure;
mod forward;
mod frames;
mod host;
mod lan;
mod limits;
mod link;
mod owner;
mod ports;
mod read_buffer;
mod server;
mod setup;
mod status;
mod stream;
mod tcp_datagrams;
mod tunnel;
mod udp;
mod vectored;
mod watch;

pub use self::{
    admission::{Admission, Question},
    client::{Client, ClientBuilder},
    doctor::{Doctor, DoctorBuilder, Examination, Mirrors},
    event::{Event, Events},
    forward::{LocalPort, carry_pipes},
    host::{Host, HostBuilder, Incoming},
    owner::{Owner, OwnerBuilder},
    server::{Server, ServerBuilder},
    setup::generate_key,
    status::{LinkStatus, Monitor, ServerStatus, SessionStatus, Status},
    stream::Stream,
};
