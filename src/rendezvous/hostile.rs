//! What strangers and ill-meaning clients can do to a server and to a client: nothing much.

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

#[test]
fn a_flood_of_hellos_takes_bounded_memory_and_is_answered_within_the_rate() {
    let limits = Limits { sources: 1_000, hellos: 5_000, ..Limits::default() };
    let mut server = server(limits);
    let mut answers = 0;
    for n in 0..50_000 {
        answers += ask(&mut server, start(), udp(n), &Packet::Hello { sender: n }.encode()).len();
    }
    assert_eq!(answers, 5_000);
    let stats = server.stats();
    assert!(stats.sources <= 2_000, "{stats:?}");
    assert_eq!((stats.associations, stats.dropped), (0, 45_000));
    let one: usize = (0..10_000)
        .map(|n| ask(&mut server, start() + SECOND, udp(7), &Packet::Hello { sender: n }.encode()).len())
        .sum();
    assert_eq!(one, 4 * 64, "one source has its burst");
}

#[test]
fn no_stranger_hears_more_than_it_said() {
    let mut server = server(Limits::default());
    let noise = [7; 200];
    let questions = [
        Packet::Hello { sender: 9 }.encode(),
        Packet::Cookie { index: 9, cookie: [1; COOKIE], server_key: [2; 32] }.encode(),
        Packet::Init { sender: 9, cookie: [1; COOKIE], noise: &noise }.encode(),
        Packet::Reply { index: 9, sender: 8, noise: &noise }.encode(),
        Packet::Data { index: 8, counter: 0, sealed: &noise }.encode(),
        Packet::Refuse { index: 9, version: VERSION, reason: Refusal::Busy }.encode(),
    ];
    let (mut n, mut answered) = (0, 0);
    for question in &questions {
        for version in [VERSION, VERSION + 1, 0] {
            for length in 0..=question.len() {
                let mut question = question[..length].to_vec();
                if let Some(byte) = question.get_mut(5) {
                    *byte = version;
                }
                n += 1;
                for (to, answer) in ask(&mut server, start(), udp(n), &question) {
                    assert_eq!(to, udp(n));
                    assert!(answer.len() <= question.len(), "{answer:?} to {question:?}");
                    answered += 1;
                }
            }
        }
    }
    assert!(answered > 100);
    assert_eq!(server.stats().associations, 0);
}

#[test]
fn refusals_are_not_refused() {
    let mut server = server(Limits::default());
    let refusal = Packet::Refuse { index: 0, version: VERSION, reason: Refusal::Unknown }.encode();
    assert!(ask(&mut server, start(), udp(1), &refusal).is_empty(), "two servers never talk to each other");
}

#[test]
fn random_and_damaged_bytes_are_dropped() {
    let mut rng = StdRng::seed_from_u64(5);
    let mut server =
        server(Limits { hellos_per_source: 1 << 20, inits_per_source: 1 << 20, ..Limits::default() });
    let mut client = client(1, 1);
    let now = start();
    let mut samples = said(&mut client, now);
    samples.push(Packet::Data { index: 0, counter: 1, sealed: &[1; 60] }.encode());
    client.send(now, ToServer::Register { name: "box".into() }).expect("room");
    for round in 0..20_000 {
        let mut bytes = match samples.get(rng.random_range(0..samples.len() + 1)) {
            Some(sample) => sample.clone(),
            None => {
                let mut bytes = vec![0; rng.random_range(0..MAX_DATAGRAM + 20)];
                rng.fill(&mut bytes[..]);
                bytes
            }
        };
        for _ in 0..rng.random_range(0..3) {
            let length = bytes.len();
            if let Some(byte) = bytes.get_mut(rng.random_range(0..length.max(1))) {
                *byte ^= 1 << rng.random_range(0..8);
            }
        }
        if rng.random_range(0..4) == 0 {
            bytes.truncate(rng.random_range(0..bytes.len() + 1));
        }
        let answers = ask(&mut server, now, udp(1), &bytes);
        for (_, answer) in &answers {
            client.handle_datagram(now, Path::Udp(server_addr()), answer);
        }
        client.handle_datagram(now, Path::Udp(server_addr()), &bytes);
        samples.extend(said(&mut client, now));
        samples.extend(answers.into_iter().map(|(_, answer)| answer));
        if samples.len() > 200 {
            samples.drain(..100);
        }
        if round % 1_000 == 0 {
            server.handle_timeout(now, DAWN);
            client.handle_timeout(now);
        }
    }
    let stats = server.stats();
    assert!(stats.associations <= 20, "{stats:?}");
}

#[test]
fn a_repeated_init_has_the_same_reply_and_changes_nothing() {
    let mut server = server(Limits::default());
    let mut client = client(1, 1);
    client.send(start(), ToServer::Register { name: "box".into() }).expect("room");
    let init = init(&mut server, &mut client, start(), udp(1));
    let first = ask(&mut server, start(), udp(1), &init);
    assert_eq!(ask(&mut server, start(), udp(1), &init), first[..1], "REPLY, without what came behind it");
    assert!(ask(&mut server, start(), udp(2), &init).is_empty(), "recorded, and sent from elsewhere");
    assert_eq!(server.stats().associations, 1);
    hear(&mut client, start(), first);
    talk(&mut server, &mut client, start(), udp(1));
    assert!(ask(&mut server, start(), udp(1), &init).is_empty(), "the client has its answer");
    let later = start() + 600 * SECOND;
    server.handle_timeout(later, DAWN);
    assert!(ask(&mut server, later, udp(1), &init).is_empty(), "the cookie is stale");
    assert_eq!(server.stats().associations, 0);
}

#[test]
fn a_client_cannot_turn_the_server_on_an_address_where_it_does_not_receive() {
    let mut server = server(Limits::default());
    let (here, victim) = (udp(1), udp(666));
    let mut weapon = client(1, 1);
    weapon.send(start(), ToServer::Register { name: "box".into() }).expect("room");
    talk(&mut server, &mut weapon, start(), here);
    let mut now = start();
    let mut bytes: BTreeMap<bool, usize> = BTreeMap::new();
    for n in 0..200u8 {
        now += SECOND;
        // Somebody else makes the server talk to the weapon, ...
        let mut friend = client(2, n);
        let hello = Blob(vec![n; 500]);
        friend.send(start(), ToServer::Introduce { request: 1, name: "box".into(), hello }).expect("room");
        talk(&mut server, &mut friend, now, udp(1_000 + u32::from(n)));
        // ... which says that it is at the victim's address: pings, requests, repetitions.
        weapon.handle_network_change(now);
        let _ = weapon.send(now, ToServer::Find { request: n.into(), name: "box".into() });
        server.handle_timeout(now, DAWN);
        for datagram in said(&mut weapon, now) {
            *bytes.entry(false).or_default() += datagram.len();
            for (to, answer) in ask(&mut server, now, victim, &datagram) {
                *bytes.entry(to == victim).or_default() += if to == victim { answer.len() } else { 0 };
            }
        }
    }
    let (from, to) = (bytes[&false], bytes.get(&true).copied().unwrap_or(0));
    assert!(to > 0 && to <= from, "{to} bytes to the victim for {from} in its name");
}

#[test]
fn a_dual_stack_socket_makes_no_difference_to_what_clients_are_told() {
    let mut server = server(Limits::default());
    let mut client = client(1, 1);
    let mapped = Source { addr: "[::ffff:10.0.0.1]:5000".parse().expect("an address"), udp: true, via: 0 };
    talk(&mut server, &mut client, start(), mapped);
    assert_eq!(client.observed(), Some(udp(1).addr));
    client.handle_network_change(start() + SECOND);
    talk(&mut server, &mut client, start() + SECOND, mapped);
    assert_eq!(client.observed(), Some(udp(1).addr));
}

#[test]
fn a_full_server_says_busy_and_one_source_cannot_fill_it() {
    let mut full = server(Limits { associations: 2, ..Limits::default() });
    for n in 0..3 {
        let mut client = client(n, n);
        let init = init(&mut full, &mut client, start(), udp(n.into()));
        let answers = ask(&mut full, start(), udp(n.into()), &init);
        let busy = matches!(Packet::parse(&answers[0].1), Ok(Packet::Refuse { reason: Refusal::Busy, .. }));
        assert_eq!(busy, n == 2);
        assert!(answers[0].1.len() <= init.len());
    }
    let mut shared = server(Limits { associations_per_source: 3, ..Limits::default() });
    for n in 0..10 {
        let at = Source { addr: SocketAddr::new(udp(1).addr.ip(), 5000 + u16::from(n)), udp: true, via: 0 };
        talk(&mut shared, &mut client(n, n), start(), at);
    }
    assert_eq!(shared.stats().associations, 3);
    let later = start() + 100 * SECOND;
    shared.handle_timeout(later, DAWN);
    assert_eq!(shared.stats().associations, 0);
    let mut client = client(1, 50);
    client.handle_timeout(later);
    talk(&mut shared, &mut client, later, udp(1));
    assert_eq!(shared.stats().associations, 1, "room again");
}

#[test]
fn a_client_has_only_so_many_requests_and_a_host_so_many_relations() {
    let mut server = server(Limits { requests_per_client: 3, relations_per_host: 2, ..Limits::default() });
    let mut host = client(1, 1);
    host.send(start(), ToServer::Register { name: "box".into() }).expect("room");
    talk(&mut server, &mut host, start(), udp(1));
    let mut one = client(2, 2);
    talk(&mut server, &mut one, start(), udp(2));
    for request in 1..=3 {
        let (name, hello) = ("box".to_owned(), Blob(vec![1; 10]));
        one.send(start(), ToServer::Introduce { request, name, hello }).expect("room");
    }
    one.send(start(), ToServer::Find { request: 4, name: "nobody".into() }).expect("room");
    one.send(start(), ToServer::Find { request: 5, name: "nobody".into() }).expect("room");
    talk(&mut server, &mut one, start(), udp(2));
    let expected = [
        FromServer::Declined { request: 3, why: Decline::Busy },
        FromServer::Absent { request: 4, last_seen: None },
        FromServer::NotKept { request: 5, why: RequestRefusal::Full },
    ];
    assert_eq!(heard(&mut one), expected);
    let stats = server.stats();
    assert_eq!((stats.waiting, stats.relations), (1, 2));
}

#[test]
fn a_message_that_is_too_long_to_be_passed_on_is_refused() {
    let mut server = server(Limits::default());
    let mut host = client(1, 1);
    host.send(start(), ToServer::Register { name: "x".repeat(63) }).expect("room");
    talk(&mut server, &mut host, start(), udp(1));
    let mut one = client(2, 2);
    talk(&mut server, &mut one, start(), udp(2));
    for (request, length) in [(1, 1024), (2, 1025)] {
        let hello = Blob(vec![1; length]);
        one.send(start(), ToServer::Introduce { request, name: "x".repeat(63), hello }).expect("room");
        talk(&mut server, &mut one, start(), udp(2));
    }
    assert_eq!(heard(&mut one), [FromServer::NotKept { request: 2, why: RequestRefusal::Malformed }]);
    assert_eq!(server.stats().relations, 1);
}

#[test]
fn a_host_that_acknowledges_nothing_loses_its_association_and_not_the_servers_memory() {
    let mut server = server(Limits::default());
    let mut host = client(1, 1);
    host.send(start(), ToServer::Register { name: "box".into() }).expect("room");
    talk(&mut server, &mut host, start(), udp(1));
    let mut one = client(2, 2);
    talk(&mut server, &mut one, start(), udp(2));
    for request in 0..MAX_BACKLOG as u32 {
        // An introduction and its end: two messages for the host.
        let (name, hello) = ("box".to_owned(), Blob(vec![1; 10]));
        one.send(start(), ToServer::Introduce { request, name, hello }).expect("room");
        one.send(start(), ToServer::Cancel { request }).expect("room");
        talk(&mut server, &mut one, start(), udp(2));
    }
    let stats = server.stats();
    assert_eq!((stats.associations, stats.relations, stats.waiting), (1, 0, 0), "{stats:?}");
    one.send(start(), ToServer::Find { request: 1, name: "box".into() }).expect("room");
    talk(&mut server, &mut one, start(), udp(2));
    assert!(matches!(heard(&mut one).last(), Some(FromServer::Absent { last_seen: Some(0), .. })));
}

#[test]
fn what_is_lost_while_keys_change_is_sent_again_under_the_new_ones() {
    let mut server = server(Limits::default());
    let mut host = client(1, 1);
    host.send(start(), ToServer::Register { name: "box".into() }).expect("room");
    talk(&mut server, &mut host, start(), udp(1));
    // The host's keys change; meanwhile a request of it is lost, ...
    let now = start() + REKEY_AFTER;
    let mut clock = start();
    while clock < now {
        clock += 20 * SECOND;
        host.handle_timeout(clock);
        if clock < now {
            talk(&mut server, &mut host, clock, udp(1));
        }
    }
    let begun = said(&mut host, now);
    let hello = begun.iter().find(|d| matches!(Packet::parse(d), Ok(Packet::Hello { .. }))).expect("HELLO");
    let cookies = ask(&mut server, now, udp(1), hello);
    hear(&mut host, now, cookies);
    let init = said(&mut host, now).pop().expect("INIT");
    host.send(now, ToServer::Find { request: 9, name: "nobody".into() }).expect("room");
    assert_eq!(said(&mut host, now).len(), 1, "lost");
    // ... and so is an introduction on its way to it.
    let mut one = client(2, 2);
    one.handle_timeout(now);
    let (name, hello) = ("box".to_owned(), Blob(vec![1; 10]));
    one.send(now, ToServer::Introduce { request: 1, name, hello }).expect("room");
    talk(&mut server, &mut one, now, udp(2));
    let replies = ask(&mut server, now, udp(1), &init);
    hear(&mut host, now, replies);
    talk(&mut server, &mut host, now, udp(1));
    let heard = heard(&mut host);
    assert!(heard.iter().any(|m| matches!(m, FromServer::Introduction { .. })), "{heard:?}");
    assert!(heard.contains(&FromServer::Absent { request: 9, last_seen: None }), "{heard:?}");
}

#[test]
fn another_version_is_said_to_be_one() {
    let mut server = server(Limits::default());
    let mut hello = Packet::Hello { sender: 77 }.encode();
    hello[5] = VERSION + 1;
    let answers = ask(&mut server, start(), udp(1), &hello);
    let expected = Packet::Refuse { index: 77, version: VERSION, reason: Refusal::Version };
    assert_eq!(Packet::parse(&answers[0].1), Ok(expected));

    let mut client = client(1, 1);
    let ours = said(&mut client, start());
    let Ok(Packet::Hello { sender }) = Packet::parse(&ours[0]) else { panic!("HELLO comes first") };
    for index in [sender ^ 1, sender, sender] {
        let refusal = Packet::Refuse { index, version: 9, reason: Refusal::Version }.encode();
        client.handle_datagram(start(), Path::Udp(server_addr()), &refusal);
    }
    let events: Vec<_> = std::iter::from_fn(|| client.poll_event()).collect();
    assert_eq!(events, [ClientEvent::Version { theirs: 9 }], "once");
    client.handle_timeout(start() + SECOND);
    assert!(said(&mut client, start() + SECOND).is_empty(), "and it is asked seldom from then on");
    client.handle_timeout(start() + 10 * SECOND);
    assert!(!said(&mut client, start() + 10 * SECOND).is_empty());
}

#[test]
fn a_datagram_from_elsewhere_is_not_the_servers() {
    let mut client = client(1, 1);
    let ours = said(&mut client, start());
    let answers = ask(&mut server(Limits::default()), start(), udp(1), &ours[0]);
    assert!(!client.handle_datagram(start(), Path::Udp(udp(9).addr), &answers[0].1));
    assert!(said(&mut client, start()).is_empty());
    assert!(client.handle_datagram(start(), Path::Udp(server_addr()), &answers[0].1));
    assert_eq!(said(&mut client, start()).len(), 1, "INIT");
}

#[test]
fn a_refusal_of_another_index_does_not_end_the_association() {
    let mut world = World::new(30);
    let client = world.join(1);
    world.run_for(SECOND);
    for index in 0..1000 {
        let refusal = Packet::Refuse { index, version: VERSION, reason: Refusal::Unknown }.encode();
        let (now, path) = (world.now, Path::Udp(world.parties[client].server));
        world.parties[client].client.handle_datagram(now, path, &refusal);
    }
    world.run_for(SECOND);
    assert!(!world.events(client).contains(&ClientEvent::Lost));
}

#[test]
fn those_who_acknowledge_nothing_take_bounded_memory_all_together() {
    let limits = Limits {
        associations_per_source: 1 << 20,
        inits: 1 << 20,
        requests_per_client: 1 << 20,
        new_names_per_source: 1 << 20,
        ..Limits::default()
    };
    let mut server = server(limits);
    let (mut asker, now) = (client(2, 2), start());
    talk(&mut server, &mut asker, now, udp(9));
    for n in 0..75u8 {
        let mut host = client(100 + n, n);
        let name = format!("box-{n}");
        host.send(now, ToServer::Register { name: name.clone() }).expect("room");
        talk(&mut server, &mut host, now, udp(1_000 + u32::from(n)));
        // From now on it acknowledges nothing.
        for request in 0..500u32 {
            let (name, hello) = (name.clone(), Blob(vec![1; 1_000]));
            asker.send(now, ToServer::Introduce { request, name, hello }).expect("room");
            asker.send(now, ToServer::Cancel { request }).expect("room");
            talk(&mut server, &mut asker, now, udp(9));
        }
        assert!(server.associations.queued() <= MAX_QUEUED + server.stats().associations, "{n}");
    }
    assert!(server.associations.queued() > MAX_QUEUED / 2, "it did not come near the bound");
}
