//! The bytes of every message, committed: a change of the format is noticed, and meant.
//!
//! `wire_vectors.txt` has a line for each message, its name and its bytes in hexadecimal. Where a change
//! is meant, raise `wire::VERSION`, and replace the lines that the failing test prints.

use std::{collections::BTreeMap, fmt::Debug, net::SocketAddr};

use data_encoding::HEXLOWER;
use punchtunnel::{
    channel::Body,
    nat::{Counter, Filtering, Mapping, Model, Prediction, SimultaneousOpen, Unsolicited},
    wire::{
        self, Blob, MAX_DATAGRAM, examine,
        packet::{COOKIE, DATA_HEADER, Packet, Refusal},
        peer::{
            Goodbye, Invited, MAX_LAN, MAX_PEER_DATAGRAM, MAX_PREDICTIONS, PeerHello, PeerMessage, PeerReply,
            RoundId, Start, StartRefusal,
        },
        probe::{self, MAX_ANSWER, ProbeAnswer, ProbeQuestion},
        record::{self, TAG},
        server::{
            ClientHello, Decline, FromServer, NameRefusal, PING_PROOF, Release, RequestRefusal, ServerHello,
            ToServer,
        },
        stream::{MAX_LABEL, MAX_OPEN, OpenRequest, ResetReason},
    },
};
use serde::{Serialize, de::DeserializeOwned};

const COMMITTED: &str = include_str!("wire_vectors.txt");

/// What was encoded, and whether it was read back.
#[derive(Default)]
struct Vectors(BTreeMap<String, String>);

impl Vectors {
    fn add(&mut self, name: &str, bytes: &[u8]) {
        let before = self.0.insert(name.to_owned(), HEXLOWER.encode(bytes));
        assert!(before.is_none(), "{name} is there twice");
    }

    fn body<T: Serialize + DeserializeOwned + PartialEq + Debug>(&mut self, name: &str, body: T) {
        let bytes = wire::encode(&body);
        assert_eq!(wire::decode::<T>(&bytes, MAX_DATAGRAM).as_ref(), Ok(&body), "{name} is read back");
        for cut in 0..bytes.len() {
            assert!(wire::decode::<T>(&bytes[..cut], MAX_DATAGRAM).is_err(), "{name} cut to {cut} bytes");
        }
        assert!(
            wire::decode::<T>(&[&bytes[..], &[0xc0]].concat(), MAX_DATAGRAM).is_err(),
            "{name}, and more"
        );
        assert!(wire::decode::<T>(&bytes, bytes.len() - 1).is_err(), "{name} above its bound");
        // Whatever single byte is wrong: an error or another message, never a panic.
        for at in 0..bytes.len() {
            for wrong in [0x00, 0x7f, 0x80, 0x9f, 0xc0, 0xc1, 0xc6, 0xdb, 0xdd, 0xdf, 0xff] {
                let mut changed = bytes.clone();
                changed[at] = wrong;
                let _ = wire::decode::<T>(&changed, MAX_DATAGRAM);
            }
        }
        self.add(name, &bytes);
    }

    fn packet(&mut self, name: &str, packet: Packet<'_>) {
        let bytes = packet.encode();
        assert_eq!(Packet::parse(&bytes).as_ref(), Ok(&packet), "{name} is read back");
        self.add(name, &bytes);
    }
}

fn v4() -> SocketAddr {
    "192.0.2.1:40000".parse().unwrap()
}

fn v6() -> SocketAddr {
    "[2001:db8::1]:443".parse().unwrap()
}

fn blob(length: usize) -> Blob {
    Blob(vec![0xbb; length])
}

const COUNTER: Counter = Counter { next: 40_000, step: -2, jitter: 3, rate_centi: 12_345, over_ms: 290 };

fn prediction(model: Model) -> Prediction {
    Prediction {
        address: v4().ip(),
        model,
        mapping: Mapping::EndpointIndependent,
        filtering: Filtering::AddressAndPortDependent,
        unsolicited: Unsolicited::Prohibited,
        simultaneous_open: SimultaneousOpen::Blocked,
        fresh: None,
        confidence: 97,
    }
}

const ROUND: RoundId = RoundId { attempt: 3, round: 1 };

fn packets(vectors: &mut Vectors) {
    let noise = [0xaa; 4];
    vectors.packet("packet HELLO", Packet::Hello { sender: 0x0102_0304 });
    vectors.packet(
        "packet COOKIE",
        Packet::Cookie { index: 0x0102_0304, cookie: [0xcc; COOKIE], server_key: [0xdd; 32] },
    );
    vectors
        .packet("packet INIT", Packet::Init { sender: 0x0102_0304, cookie: [0xcc; COOKIE], noise: &noise });
    vectors.packet("packet REPLY", Packet::Reply { index: 0x0102_0304, sender: 0x0506_0708, noise: &noise });
    vectors.packet(
        "packet DATA",
        Packet::Data { index: 0x0102_0304, counter: 0x1112_1314_1516_1718, sealed: &noise },
    );
    for reason in [Refusal::Version, Refusal::Busy, Refusal::Unknown, Refusal::Private] {
        vectors.packet(
            &format!("packet REFUSE {reason:?}"),
            Packet::Refuse { index: 0x0102_0304, version: 1, reason },
        );
    }
    vectors.add("record session", &record::session_header(0x0102_0304, 0x1112_1314_1516_1718, 0x1234));
    vectors.add("record link", &record::link_header(0x1112_1314_1516_1718, 0x20));
}

fn probes(vectors: &mut Vectors) {
    for purpose in
        [probe::Purpose::Probe, probe::Purpose::Datagrams, probe::Purpose::Knock, probe::Purpose::Cross]
    {
        let bytes = probe::preamble(purpose);
        assert_eq!(probe::parse_preamble(bytes), Ok(purpose));
        vectors.add(&format!("preamble {purpose:?}"), &bytes);
    }
    let question = ProbeQuestion { batch: [0xaa; 16], number: 2, count: 3, local: 1, local_port: 40_001 };
    assert_eq!(ProbeQuestion::parse(&question.encode()), Ok(question));
    vectors.add("probe question", &question.encode());
    let nonce = *b"0123456789abcdef";
    vectors.add("mirror", &examine::mirror(nonce));
    for (family, observed) in [("IPv4", v4()), ("IPv6", v6())] {
        let answer = examine::mirrored(nonce, observed);
        assert_eq!(examine::parse_mirrored(&answer), Some((nonce, observed)));
        vectors.add(&format!("mirrored {family}"), &answer);
    }
    vectors.body("probe answer", ProbeAnswer { observed: v4(), at_us: 1_000_000, prediction: None });
    vectors.body(
        "probe answer, last of its batch",
        ProbeAnswer { observed: v6(), at_us: u64::MAX, prediction: Some(prediction(Model::Random)) },
    );
}

fn nat(vectors: &mut Vectors) {
    for model in [
        Model::Fixed { ports: vec![40_000, 7] },
        Model::Progression(COUNTER),
        Model::Band { low: 1024, high: 2047, size: 1024, meet: 1536 },
        Model::Random,
    ] {
        let name = match model {
            Model::Fixed { .. } => "Fixed",
            Model::Progression { .. } => "Progression",
            Model::Band { .. } => "Band",
            Model::Random => "Random",
        };
        vectors.body(&format!("prediction {name}"), prediction(model));
    }
    let fresh = Prediction { fresh: Some(COUNTER), ..prediction(Model::Fixed { ports: vec![40_000] }) };
    vectors.body("prediction Fixed, fresh ones counted", fresh);
    for mapping in [Mapping::EndpointIndependent, Mapping::AddressDependent, Mapping::AddressAndPortDependent]
    {
        vectors.body(&format!("mapping {mapping:?}"), mapping);
    }
    for filtering in [
        Filtering::EndpointIndependent,
        Filtering::AddressDependent,
        Filtering::AddressAndPortDependent,
        Filtering::Unknown,
    ] {
        vectors.body(&format!("filtering {filtering:?}"), filtering);
    }
    for answer in [Unsolicited::Dropped, Unsolicited::Reset, Unsolicited::Prohibited, Unsolicited::Unknown] {
        vectors.body(&format!("unsolicited {answer:?}"), answer);
    }
    for open in [SimultaneousOpen::Works, SimultaneousOpen::Blocked, SimultaneousOpen::Unknown] {
        vectors.body(&format!("simultaneous open {open:?}"), open);
    }
}

fn to_server(vectors: &mut Vectors) {
    let name = || "myhost".to_owned();
    for message in [
        ToServer::Register { name: name() },
        ToServer::Unregister,
        ToServer::Release { name: name() },
        ToServer::Find { request: 1, name: name() },
        ToServer::Introduce { request: 300, name: name(), hello: blob(3) },
        ToServer::Cancel { request: 1 },
        ToServer::Accept { relation: 70_000, reply: blob(0) },
        ToServer::Decline { relation: 2, why: Decline::Invite },
        ToServer::Relay { relation: 2, datagram: blob(3) },
        ToServer::Ping { proof: blob(3) },
    ] {
        // A message that is not listed above does not compile here.
        let name = match message {
            ToServer::Register { .. } => "Register",
            ToServer::Unregister => "Unregister",
            ToServer::Release { .. } => "Release",
            ToServer::Find { .. } => "Find",
            ToServer::Introduce { .. } => "Introduce",
            ToServer::Cancel { .. } => "Cancel",
            ToServer::Accept { .. } => "Accept",
            ToServer::Decline { .. } => "Decline",
            ToServer::Relay { .. } => "Relay",
            ToServer::Ping { .. } => "Ping",
        };
        vectors.body(&format!("to server {name}"), message);
    }
    for why in [Decline::Unauthorised, Decline::Invite, Decline::Handshake, Decline::Busy] {
        vectors.body(&format!("decline {why:?}"), why);
    }
    vectors.body(
        "client hello",
        ClientHello {
            node: [0x0f; 16],
            body: Body { kept: vec![ToServer::Register { name: name() }], ..Body::default() },
        },
    );
    vectors.body(
        "body to server",
        Body {
            ack: 1,
            seq: 200,
            kept: vec![ToServer::Unregister, ToServer::Cancel { request: 4 }],
            once: vec![ToServer::Ping { proof: blob(1) }],
        },
    );
}

fn from_server(vectors: &mut Vectors) {
    for message in [
        FromServer::Registered,
        FromServer::NotRegistered { why: NameRefusal::Owned },
        FromServer::Released { name: "myhost".into(), outcome: Release::Done },
        FromServer::Found { request: 1, key: [0xee; 32] },
        FromServer::Absent { request: 1, last_seen: None },
        FromServer::NotKept { request: 1, why: RequestRefusal::Full },
        FromServer::Introduction { relation: 9, hello: blob(3) },
        FromServer::Introduced { relation: 9, addresses: vec![v4(), v6()], reply: blob(3) },
        FromServer::Declined { request: 1, why: Decline::Busy },
        FromServer::Relay { relation: 9, datagram: blob(3) },
        FromServer::Gone { relation: 9 },
        FromServer::Pong { observed: v4(), proof: blob(3) },
    ] {
        let name = match message {
            FromServer::Registered => "Registered",
            FromServer::NotRegistered { .. } => "NotRegistered",
            FromServer::Released { .. } => "Released",
            FromServer::Found { .. } => "Found",
            FromServer::Absent { .. } => "Absent",
            FromServer::NotKept { .. } => "NotKept",
            FromServer::Introduction { .. } => "Introduction",
            FromServer::Introduced { .. } => "Introduced",
            FromServer::Declined { .. } => "Declined",
            FromServer::Relay { .. } => "Relay",
            FromServer::Gone { .. } => "Gone",
            FromServer::Pong { .. } => "Pong",
        };
        vectors.body(&format!("from server {name}"), message);
    }
    for outcome in [Release::Done, Release::Owned, Release::Held, Release::Unknown, Release::Unstored] {
        vectors.body(&format!("release {outcome:?}"), outcome);
    }
    vectors.body("from server Absent, seen", FromServer::Absent { request: 1, last_seen: Some(86_400) });
    for why in [
        NameRefusal::Owned,
        NameRefusal::Malformed,
        NameRefusal::Alike,
        NameRefusal::Unstored,
        NameRefusal::Full,
        NameRefusal::Taken,
    ] {
        vectors.body(&format!("name refusal {why:?}"), why);
    }
    for why in [RequestRefusal::Malformed, RequestRefusal::Full] {
        vectors.body(&format!("request refusal {why:?}"), why);
    }
    vectors.body(
        "server hello",
        ServerHello {
            observed: v4(),
            udp: true,
            body: Body { ack: 1, kept: vec![FromServer::Registered], ..Body::default() },
        },
    );
}

fn peer(vectors: &mut Vectors) {
    let start = Start {
        id: ROUND,
        plan: 1,
        variant: 2,
        budget: 512,
        window_ms: 900,
        digest: 0x1112_1314_1516_1718,
        after_us: 400_000,
        sample: 5,
        next: vec![40_000],
        their_next: vec![0],
    };
    for message in [
        PeerMessage::Ping { sample: 5, nonce: 0x0102_0304_0506_0708 },
        PeerMessage::Pong { nonce: 0x0102_0304_0506_0708, held_us: 250 },
        PeerMessage::Prepare { id: ROUND },
        PeerMessage::Predicted {
            id: ROUND,
            predictions: vec![prediction(Model::Fixed { ports: vec![40_000] })],
            lan: vec!["10.0.0.7:40000".parse().unwrap()],
            age_ms: 240,
            budget: 1024,
        },
        PeerMessage::Refreshed { id: ROUND, next: vec![40_003] },
        PeerMessage::Start(start),
        PeerMessage::Started { id: ROUND },
        PeerMessage::NotStarted { id: ROUND, why: StartRefusal::Late },
        PeerMessage::LinkDead { epoch: 2 },
        PeerMessage::LinkSick { epoch: 2 },
        PeerMessage::Goodbye { why: Goodbye::Stopped },
    ] {
        let name = match message {
            PeerMessage::Ping { .. } => "Ping",
            PeerMessage::Pong { .. } => "Pong",
            PeerMessage::Prepare { .. } => "Prepare",
            PeerMessage::Predicted { .. } => "Predicted",
            PeerMessage::Refreshed { .. } => "Refreshed",
            PeerMessage::Start(_) => "Start",
            PeerMessage::Started { .. } => "Started",
            PeerMessage::NotStarted { .. } => "NotStarted",
            PeerMessage::LinkDead { .. } => "LinkDead",
            PeerMessage::LinkSick { .. } => "LinkSick",
            PeerMessage::Goodbye { .. } => "Goodbye",
        };
        vectors.body(&format!("peer {name}"), message);
    }
    for why in [
        StartRefusal::Digest,
        StartRefusal::Late,
        StartRefusal::Plan,
        StartRefusal::Busy,
        StartRefusal::Spent,
    ] {
        vectors.body(&format!("start refusal {why:?}"), why);
    }
    for why in [Goodbye::Stopped, Goodbye::Unauthorised, Goodbye::Unknown, Goodbye::Expired, Goodbye::Broken]
    {
        vectors.body(&format!("goodbye {why:?}"), why);
    }
    vectors.body(
        "peer hello",
        PeerHello { index: 0x0102_0304, session: [0x0e; 16], invite: None, prepare: Some(ROUND) },
    );
    vectors.body(
        "peer hello, invited",
        PeerHello {
            index: 1,
            session: [0x0e; 16],
            invite: Some(Invited { id: u64::MAX, proof: [0x0c; 32] }),
            prepare: None,
        },
    );
    vectors.body("peer reply", PeerReply { index: 0x0102_0304, resumed: false, body: Body::default() });
}

fn stream(vectors: &mut Vectors) {
    vectors.body("open request", OpenRequest { service: None });
    vectors.body("open request, named", OpenRequest { service: Some("ssh".into()) });
    for reason in [
        ResetReason::Reset,
        ResetReason::Refused,
        ResetReason::Unreachable,
        ResetReason::NoSuchService,
        ResetReason::NotAllowed,
        ResetReason::TooMany,
        ResetReason::SessionEnded,
    ] {
        vectors.body(&format!("reset {reason:?}"), reason);
    }
}

#[test]
fn every_message_has_the_bytes_that_were_committed() {
    let mut vectors = Vectors::default();
    for add in [packets, probes, nat, to_server, from_server, peer, stream] {
        add(&mut vectors);
    }
    let committed: BTreeMap<_, _> = COMMITTED
        .lines()
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
        .map(|line| line.split_once(" = ").expect("name = bytes"))
        .map(|(name, hex)| (name.to_owned(), hex.to_owned()))
        .collect();
    let wrong: Vec<String> = vectors
        .0
        .iter()
        .filter(|(name, hex)| committed.get(*name) != Some(hex))
        .map(|(name, hex)| format!("{name} = {hex}"))
        .collect();
    assert!(wrong.is_empty(), "not the committed bytes:\n{}", wrong.join("\n"));
    let gone: Vec<_> = committed.keys().filter(|name| !vectors.0.contains_key(*name)).collect();
    assert!(gone.is_empty(), "committed, and no message any more: {gone:?}");
}

/// What a channel's datagram of that length leaves for messages.
fn room(datagram: usize) -> usize {
    datagram - DATA_HEADER - TAG - Body::<()>::OVERHEAD
}

fn largest_prediction() -> Prediction {
    Prediction {
        address: "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff".parse().unwrap(),
        model: Model::Fixed { ports: vec![u16::MAX; punchtunnel::nat::MAX_PORTS] },
        mapping: Mapping::AddressAndPortDependent,
        filtering: Filtering::AddressAndPortDependent,
        unsolicited: Unsolicited::Prohibited,
        simultaneous_open: SimultaneousOpen::Blocked,
        fresh: Some(Counter {
            next: u16::MAX,
            step: i16::MIN,
            jitter: u16::MAX,
            rate_centi: u32::MAX,
            over_ms: u16::MAX,
        }),
        confidence: u8::MAX,
    }
}

#[test]
fn the_largest_of_every_message_fits_where_it_travels() {
    let address: SocketAddr = "[ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff]:65535".parse().unwrap();
    let relay = ToServer::Relay { relation: u32::MAX, datagram: blob(MAX_PEER_DATAGRAM) };
    assert!(wire::encode(&relay).len() <= room(MAX_DATAGRAM));
    let relay = FromServer::Relay { relation: u32::MAX, datagram: blob(MAX_PEER_DATAGRAM) };
    assert!(wire::encode(&relay).len() <= room(MAX_DATAGRAM));

    let predicted = PeerMessage::Predicted {
        id: RoundId { attempt: u32::MAX, round: u8::MAX },
        predictions: vec![largest_prediction(); MAX_PREDICTIONS],
        lan: vec![address; MAX_LAN],
        age_ms: u16::MAX,
        budget: u16::MAX,
    };
    assert!(wire::encode(&predicted).len() <= room(MAX_PEER_DATAGRAM));

    // A pong is never longer than its ping.
    let ping = ToServer::Ping { proof: blob(PING_PROOF) };
    let pong = FromServer::Pong { observed: address, proof: blob(COOKIE) };
    assert!(wire::encode(&pong).len() <= wire::encode(&ping).len());

    let answer = ProbeAnswer { observed: address, at_us: u64::MAX, prediction: Some(largest_prediction()) };
    assert!(wire::encode(&answer).len() <= MAX_ANSWER);

    let open = OpenRequest { service: Some("x".repeat(MAX_LABEL)) };
    assert!(wire::encode(&open).len() <= MAX_OPEN);
    assert!(wire::encode(&ResetReason::NoSuchService).len() <= MAX_OPEN);
}
