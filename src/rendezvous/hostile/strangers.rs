//! Strangers: HELLOs without end, damaged and repeated datagrams, refusals and answers that are forged.

use super::*;

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
fn made_up_handshakes_are_dear_to_their_senders_and_keep_nobody_out() {
    let mut server = server(Limits { inits: 200, ..Limits::default() });
    // Twenty who receive where they send from: together they may have three times what the server does.
    let cookies: Vec<Vec<u8>> =
        (0..20).map(|n| init(&mut server, &mut client(n, n), start(), udp(1_000 + u32::from(n)))).collect();
    for second in 1..20 {
        let now = start() + second * SECOND;
        for round in 0..100u8 {
            for (n, init) in (0..).zip(&cookies) {
                let mut made_up = init.clone();
                // Another ephemeral key each time, and nothing behind it opens.
                made_up[40] = round;
                made_up[41] ^= second as u8;
                ask(&mut server, now, udp(1_000 + n), &made_up);
            }
        }
        let mut honest = client(100 + second as u8, second as u8);
        honest.handle_timeout(now);
        talk(&mut server, &mut honest, now, udp(2_000 + second));
        // In the first moments they have their bursts.
        assert!(honest.path().is_some() || second < 3, "second {second}");
    }
    // Who sent such nonsense has something left after a while.
    let later = start() + 100 * SECOND;
    let mut one = client(1, 50);
    one.handle_timeout(later);
    talk(&mut server, &mut one, later, udp(1_001));
    assert!(one.path().is_some());
}

#[test]
fn who_comes_over_tcp_is_heard_while_made_up_addresses_use_up_what_all_have() {
    let mut server = server(Limits { hellos: 1_000, ..Limits::default() });
    let now = start();
    let hello = Packet::Hello { sender: 9 }.encode();
    let answered = (0..5_000).filter(|n| !ask(&mut server, now, udp(*n), &hello).is_empty()).count();
    assert_eq!(answered, 1_000);
    assert!(ask(&mut server, now, udp(6_000), &hello).is_empty());
    let over_tcp = Source { udp: false, ..udp(6_000) };
    assert_eq!(ask(&mut server, now, over_tcp, &hello).len(), 1);
    let more = (0..10_000).filter(|_| !ask(&mut server, now, over_tcp, &hello).is_empty()).count();
    assert!(more < 4 * 64, "one source has no more than its burst");
}
