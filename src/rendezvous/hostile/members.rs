//! Clients that have shown a key, and ask for too much, acknowledge nothing, or say that they are somewhere else.

use super::*;

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
