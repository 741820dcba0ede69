//! Every socket, clock, timer and random seed.

pub mod clock;
mod frames;
mod lan;
mod limits;
mod ports;
mod tcp_datagrams;
mod udp;
