use std::net::SocketAddr;

use punchtunnel::{
    endpoint::PeerId,
    nat::{Filtering, Mapping, Model, SimultaneousOpen, Unsolicited},
};

use super::*;

const PEER: PeerId = PeerId(1);

fn narrator(side: Side) -> Narrator {
    Narrator {
        name: "myhost".parse().unwrap(),
        server: "vps".parse().unwrap(),
        key: PublicKey([1; 32]),
        side,
        server_pin: Some(("known_servers".into(), 4)),
    }
}

fn client() -> Narrator {
    narrator(Side::Client { known: None, named: None })
}

fn address() -> SocketAddr {
    "198.51.100.7:40000".parse().unwrap()
}

fn line(told: Telling) -> String {
    match told {
        Telling::Line(text) | Telling::Live(text) => text,
        other => panic!("not a line: {other:?}"),
    }
}

fn fatal(told: Telling) -> (String, u8) {
    match told {
        Telling::Fatal(error) => (error.to_string(), error.exit_code()),
        other => panic!("not fatal: {other:?}"),
    }
}

#[test]
fn each_step_is_a_sentence_with_its_time() {
    let prediction = Prediction {
        address: address().ip(),
        model: Model::Fixed { ports: vec![40000] },
        mapping: Mapping::EndpointIndependent,
        filtering: Filtering::Unknown,
        unsolicited: Unsolicited::Unknown,
        simultaneous_open: SimultaneousOpen::Unknown,
        confidence: 100,
    };
    let took = Duration::from_micros(41_200);
    for (event, sentence) in [
        (Event::Registered, "registered as \"myhost\" at vps:7862"),
        (
            Event::ServerReached { path: Path::Udp(address()), observed: address(), took },
            "reached vps:7862 by UDP, which sees 198.51.100.7:40000, 41 ms",
        ),
        (
            Event::Waiting { last_seen: Some(Duration::from_secs(200)) },
            "waiting for \"myhost\": it was last seen 3m ago",
        ),
        (
            Event::NatFound { peer: PEER, predictions: vec![prediction], took },
            "NAT found: 198.51.100.7 uses one port for all destinations (endpoint-independent mapping), 41 ms",
        ),
        (
            Event::Connected { peer: PEER, remote: address(), lan: false, took, rtt: None, links: 1 },
            "connected directly to 198.51.100.7:40000, 41 ms",
        ),
        (
            Event::Connected { peer: PEER, remote: address(), lan: true, took, rtt: Some(took), links: 2 },
            "connected again inside the LAN to 198.51.100.7:40000, 41 ms (round trip 41 ms)",
        ),
    ] {
        assert_eq!(line(client().tell(&event)), sentence);
    }
    let unknown = line(client().tell(&Event::Waiting { last_seen: None }));
    assert!(unknown.contains("the server has never heard of it"), "{unknown}");
}

#[test]
fn a_silent_server_or_a_bad_network_alone_does_not_end_a_run() {
    let silent = Event::ServerSilent { since: Duration::from_secs(600) };
    let hopeless = Event::Hopeless { peer: PEER, why: "both NATs draw ports at random".into() };
    for narrator in [client(), narrator(Side::Host)] {
        assert!(line(narrator.tell(&silent)).contains("for 10m now"));
        assert!(line(narrator.tell(&hopeless)).contains("at random"));
    }
}

#[test]
fn a_changed_host_key_is_told_in_the_words_of_ssh_with_the_line_to_remove() {
    let entry = Entry { line: 7, label: "myhost@vps:7862".into(), key: PublicKey([2; 32]) };
    let known = Some((entry, "/home/me/known_hosts".into()));
    let narrator = narrator(Side::Client { known, named: None });
    for event in [Event::NotProved, Event::Declined(Decline::Handshake)] {
        let (text, code) = fatal(narrator.tell(&event));
        assert!(text.contains("REMOTE HOST IDENTIFICATION HAS CHANGED"), "{text}");
        assert!(text.contains("remove line 7 of /home/me/known_hosts"), "{text}");
        assert_eq!(code, 1);
    }
}

#[test]
fn every_refusal_says_what_to_do_next() {
    let key = PublicKey([1; 32]).to_string();
    for (event, words) in [
        (Event::NotRegistered(NameRefusal::Owned), vec!["belongs to another key", "--as"]),
        (
            Event::Declined(Decline::Unauthorised),
            vec!["punchtunnel invite myhost", "authorized_clients", &key],
        ),
        (Event::Declined(Decline::Invite), vec!["used, has expired", "punchtunnel invite myhost"]),
        (Event::Declined(Decline::Busy), vec!["too many clients", "later"]),
        (Event::NotProved, vec!["does not prove", "new invite"]),
        (Event::ServerVersion { theirs: 9 }, vec!["version 9", "update"]),
        (
            Event::ServerKeyChanged { found: PublicKey([9; 32]) },
            vec!["CHANGED", "remove line 4 of known_servers"],
        ),
        (Event::NotKept(RequestRefusal::Full), vec!["too many requests", "later"]),
    ] {
        let (text, code) = fatal(client().tell(&event));
        for word in words {
            assert!(text.contains(word), "{text:?} lacks {word:?}");
        }
        assert_eq!(code, 1, "{text}");
    }
}
