//! What strangers and ill-meaning clients can do to a server and to a client: nothing much.

mod members;
mod strangers;

use std::{
    collections::BTreeMap,
    net::{Ipv4Addr, SocketAddr},
    time::{Duration, Instant},
};

use rand::{RngExt, SeedableRng, rngs::StdRng};

use super::{
    Client, ClientEvent, Limits, REKEY_AFTER, Server, Source,
    limits::{MAX_BACKLOG, MAX_QUEUED},
    world::{DAWN, World, key},
};
use crate::{
    endpoint::Path,
    testing::start,
    wire::{
        Blob, MAX_DATAGRAM, VERSION,
        packet::{COOKIE, Packet, Refusal},
        server::{Decline, FromServer, RequestRefusal, ToServer},
    },
};

const SECOND: Duration = Duration::from_secs(1);

fn server(limits: Limits) -> Server {
    Server::new(start(), [1; 32], key(200), limits, [])
}

fn udp(n: u32) -> Source {
    // Each in a network of its own, except for the first few.
    let address = if n < 256 { 0x0a00_0000 + n } else { 0x0b00_0000 + (n << 8) };
    Source { addr: SocketAddr::new(Ipv4Addr::from_bits(address).into(), 5000), udp: true, via: 0 }
}

fn server_addr() -> SocketAddr {
    SocketAddr::new(Ipv4Addr::new(198, 51, 100, 1).into(), 7862)
}

fn client(key_number: u8, node: u8) -> Client {
    Client::new(start(), [key_number ^ node; 32], key(key_number), server_addr(), None, [node; 16])
}

fn ask(server: &mut Server, now: Instant, from: Source, datagram: &[u8]) -> Vec<(Source, Vec<u8>)> {
    server.handle_datagram(now, DAWN, from, datagram);
    let mut answers: Vec<_> = std::iter::from_fn(|| server.poll_transmit()).collect();
    while server.poll_store().is_some() {}
    server.handle_stored(now, DAWN, u64::MAX);
    answers.extend(std::iter::from_fn(|| server.poll_transmit()));
    answers
}

/// What `client` has to send now.
fn said(client: &mut Client, now: Instant) -> Vec<Vec<u8>> {
    std::iter::from_fn(|| client.poll_transmit(now)).map(|(_, datagram)| datagram).collect()
}

fn hear(client: &mut Client, now: Instant, answers: Vec<(Source, Vec<u8>)>) {
    for (_, datagram) in answers {
        client.handle_datagram(now, Path::Udp(server_addr()), &datagram);
    }
}

fn heard(client: &mut Client) -> Vec<FromServer> {
    std::iter::from_fn(|| client.poll_event())
        .filter_map(|e| if let ClientEvent::Message(m) = e { Some(m) } else { None })
        .collect()
}

/// Lets both talk until neither has anything to say now.
fn talk(server: &mut Server, client: &mut Client, now: Instant, at: Source) {
    loop {
        let said = said(client, now);
        if said.is_empty() {
            break;
        }
        for datagram in said {
            let answers = ask(server, now, at, &datagram);
            hear(client, now, answers.into_iter().filter(|(to, _)| *to == at).collect());
        }
    }
}

/// INIT of a new client, and the client, which waits for REPLY.
fn init(server: &mut Server, client: &mut Client, now: Instant, at: Source) -> Vec<u8> {
    let hello = said(client, now);
    let cookies = ask(server, now, at, &hello[0]);
    hear(client, now, cookies);
    said(client, now).pop().expect("INIT")
}
