//! What the server sends to an address at which nobody has been seen to receive: nothing that weighs more than
//! what came from there. Every kind of message is looked at: a new one does not compile here until it has been.

use std::net::SocketAddr;

use super::{
    Client, Limits, Server, Source,
    directory::To,
    world::{DAWN, key},
};
use crate::{
    endpoint::Path,
    testing::start,
    wire::{
        Blob, MAX_DATAGRAM, VERSION,
        examine::{MIRROR, mirrored, parse_mirror},
        packet::{COOKIE, Packet, Refusal},
        server::{Decline, FromServer, NameRefusal, Release, RequestRefusal, ToServer},
    },
};

const SERVER: &str = "[2001:db8::1]:7862";

/// The longest address that can be told.
fn at(port: u16) -> Source {
    let addr = SocketAddr::new("2001:db8:ffff:ffff:ffff:ffff:ffff:ffff".parse().expect("an address"), port);
    Source { addr, udp: true, via: 0 }
}

fn ask(server: &mut Server, from: Source, datagram: &[u8]) -> Vec<(Source, Vec<u8>)> {
    server.handle_datagram(start(), DAWN, from, datagram);
    while server.poll_store().is_some() {}
    server.handle_stored(start(), DAWN, u64::MAX);
    std::iter::from_fn(|| server.poll_transmit()).collect()
}

/// One of each kind of datagram, as long as it may be.
fn every_packet() -> Vec<Vec<u8>> {
    let (cookie, noise) = ([1; COOKIE], [7; 900]);
    let all = [
        Packet::Hello { sender: 9 },
        Packet::Cookie { index: 9, cookie, server_key: [2; 32] },
        Packet::Init { sender: 9, cookie, noise: &noise },
        Packet::Reply { index: 9, sender: 8, noise: &noise },
        Packet::Data { index: 8, counter: 0, sealed: &noise },
        Packet::Refuse { index: 9, version: VERSION, reason: Refusal::Busy },
    ];
    for packet in &all {
        match packet {
            Packet::Hello { .. } | Packet::Cookie { .. } | Packet::Init { .. } | Packet::Reply { .. } => {}
            // A new kind belongs into the list above.
            Packet::Data { .. } | Packet::Refuse { .. } => {}
        }
    }
    let mut bytes: Vec<Vec<u8>> = all.iter().map(Packet::encode).collect();
    bytes.push([vec![0; 4], vec![7], vec![VERSION], vec![3; 16], vec![0; MIRROR]].concat());
    bytes
}

/// One of each thing that the server says behind the seal, as long as it may be.
fn every_message() -> Vec<FromServer> {
    let addresses = vec![at(1).addr, at(2).addr];
    let all = vec![
        FromServer::Registered,
        FromServer::NotRegistered { why: NameRefusal::Malformed },
        FromServer::Released { name: "x".repeat(63), outcome: Release::Unknown },
        FromServer::Found { request: u32::MAX, key: [255; 32] },
        FromServer::Absent { request: u32::MAX, last_seen: Some(u64::MAX) },
        FromServer::NotKept { request: u32::MAX, why: RequestRefusal::Malformed },
        FromServer::Introduction { relation: u32::MAX, hello: Blob(vec![1; 900]) },
        FromServer::Introduced { relation: u32::MAX, addresses, reply: Blob(vec![1; 900]) },
        FromServer::Declined { request: u32::MAX, why: Decline::Unauthorised },
        FromServer::Relay { relation: u32::MAX, datagram: Blob(vec![1; 900]) },
        FromServer::Gone { relation: u32::MAX },
        FromServer::Pong { observed: at(65_535).addr, proof: Blob(vec![255; COOKIE]) },
    ];
    for message in &all {
        match message {
            FromServer::Registered | FromServer::NotRegistered { .. } | FromServer::Released { .. } => {}
            FromServer::Found { .. } | FromServer::Absent { .. } | FromServer::NotKept { .. } => {}
            FromServer::Introduction { .. } | FromServer::Introduced { .. } => {}
            FromServer::Declined { .. } | FromServer::Relay { .. } | FromServer::Gone { .. } => {}
            // A new one belongs into the list above.
            FromServer::Pong { .. } => {}
        }
    }
    all
}

#[test]
fn no_datagram_of_any_kind_and_length_makes_the_server_say_more_to_a_stranger() {
    let limits = Limits { hellos_per_source: 1 << 20, ..Limits::default() };
    let mut server = Server::new(start(), [1; 32], key(200), limits, []);
    let mut heaviest = 0.0_f64;
    for (kind, datagram) in every_packet().into_iter().enumerate() {
        for version in [VERSION, VERSION + 1] {
            for length in 1..=datagram.len() {
                let mut question = datagram[..length].to_vec();
                if let Some(byte) = question.get_mut(5) {
                    *byte = version;
                }
                let answers = match parse_mirror(&question) {
                    // As the driver has it, on the main and the probe ports.
                    Some(nonce) => vec![(at(1), mirrored(nonce, at(1).addr).to_vec())],
                    None => ask(&mut server, at(1), &question),
                };
                let bytes: usize = answers.iter().map(|(_, answer)| answer.len()).sum();
                assert!(bytes <= question.len(), "kind {kind}: {bytes} bytes to {length}");
                heaviest = heaviest.max(bytes as f64 / question.len() as f64);
            }
        }
    }
    println!("a stranger hears at most {heaviest:.2} of what it says");
    assert!(heaviest > 0.5, "nobody was answered");
    assert_eq!(server.stats().associations, 0);
}

#[test]
fn nothing_but_a_light_pong_goes_to_where_a_client_has_not_shown_that_it_receives() {
    let mut server = Server::new(start(), [1; 32], key(200), Limits::default(), []);
    let to = SERVER.parse().expect("an address");
    let mut client = Client::new(start(), [3; 32], key(1), to, None, [5; 16]);
    let said = |client: &mut Client| -> Vec<Vec<u8>> {
        std::iter::from_fn(|| client.poll_transmit(start())).map(|(_, datagram)| datagram).collect()
    };
    loop {
        let datagrams = said(&mut client);
        if datagrams.is_empty() {
            break;
        }
        for answer in datagrams.into_iter().flat_map(|datagram| ask(&mut server, at(1), &datagram)) {
            client.handle_datagram(start(), Path::Udp(to), &answer.1);
        }
    }
    assert_eq!(server.stats().associations, 1);
    let mut answered = 0;
    for (n, message) in every_message().into_iter().enumerate() {
        // Something is to be said to the client ...
        let (index, _) = server.associations.keys().next().expect("one association");
        let node = server.associations.get(index).expect("it").node;
        let whom = To { node, family: None };
        server.post(DAWN, whom, message.clone());
        let known: Vec<_> = std::iter::from_fn(|| server.poll_transmit()).collect();
        assert!(known.iter().all(|(whom, _)| *whom == at(1)) && !known.is_empty(), "{message:?}");
        // ... which says the shortest thing that it has to say from an address that is another's.
        let elsewhere = at(1_000 + n as u16);
        client.send(start(), ToServer::Cancel { request: 1 }).expect("room");
        let mut weight = 0_i64;
        for datagram in said(&mut client) {
            weight += datagram.len() as i64;
            assert!(datagram.len() <= MAX_DATAGRAM);
            for (whom, answer) in ask(&mut server, elsewhere, &datagram) {
                if whom == elsewhere {
                    weight -= answer.len() as i64;
                    answered += 1;
                }
                assert!(weight >= 0, "{message:?}: {} bytes more than came", -weight);
            }
        }
        // A ping is answered there, and no more.
        client.handle_network_change(start());
        for datagram in said(&mut client) {
            let answers = ask(&mut server, elsewhere, &datagram);
            let there: Vec<_> = answers.iter().filter(|(whom, _)| *whom == elsewhere).collect();
            let bytes: usize = there.iter().map(|(_, answer)| answer.len()).sum();
            assert!(bytes <= datagram.len() && there.len() <= 1, "{message:?}: {bytes} bytes");
            answered += there.len();
        }
    }
    assert!(answered >= 5, "nobody was answered: {answered}");
}
