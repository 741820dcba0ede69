use std::net::SocketAddr;

use punchtunnel::{
    endpoint::{Hearsay, PeerId},
    nat::{Mapping, Model},
    session::LinkError,
    wire::{
        peer::RoundId,
        server::{Decline, Release},
    },
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
        labels: Labels::Host("myhost".parse().unwrap()),
        sessions: Sessions::default(),
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
    let prediction = Prediction::new(
        address().ip(),
        Model::Fixed { ports: vec![40000] },
        Mapping::EndpointIndependent,
        100,
    );
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
        assert_eq!(line(client().tell(&event, None)), sentence);
    }
    let unknown = line(client().tell(&Event::Waiting { last_seen: None }, None));
    assert!(unknown.contains("the server has never heard of it"), "{unknown}");
}

#[test]
fn a_silent_server_or_a_bad_network_alone_does_not_end_a_run() {
    let silent = Event::ServerSilent { since: Duration::from_secs(600) };
    let hopeless = Event::Hopeless { peer: PEER, why: "both NATs draw ports at random".into() };
    for mut narrator in [client(), narrator(Side::Host)] {
        assert!(line(narrator.tell(&silent, None)).contains("for 10m now"));
        assert!(line(narrator.tell(&hopeless, None)).contains("at random"));
    }
}

#[test]
fn a_changed_host_key_is_told_in_the_words_of_ssh_with_the_line_to_remove() {
    let entry = Entry { line: 7, label: "myhost@vps:7862".into(), key: PublicKey([2; 32]) };
    let known = Some((entry, "/home/me/known_hosts".into()));
    let mut narrator = narrator(Side::Client { known, named: None });
    for event in [Event::NotProved, Event::Declined(Decline::Handshake)] {
        let (text, code) = fatal(narrator.tell(&event, None));
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
        (Event::NotRegistered(NameRefusal::Alike), vec!["looks like one", "0 counts as o", "--as"]),
        (
            Event::Declined(Decline::Unauthorised),
            vec!["the server says", "punchtunnel invite myhost", "authorized_clients", &key],
        ),
        (
            Event::Declined(Decline::Invite),
            vec!["the server says", "used, has expired", "punchtunnel invite myhost"],
        ),
        (Event::Declined(Decline::Busy), vec!["too many clients", "later"]),
        (Event::NotProved, vec!["does not prove", "new invite"]),
        (Event::ServerVersion { theirs: 9 }, vec!["version 9", "update"]),
        (Event::ServerPrivate, vec!["--allow-keys", "have this one added", &key]),
        (Event::Released(Release::Owned), vec!["another key", "computer that has registered it"]),
        (Event::Released(Release::Held), vec!["stop the \"punchtunnel expose\""]),
        (Event::Released(Release::Unknown), vec!["belongs to nobody"]),
        (Event::Released(Release::Unstored), vec!["disk may be full", "again later"]),
        (
            Event::ServerKeyChanged { found: PublicKey([9; 32]) },
            vec!["CHANGED", "remove line 4 of known_servers"],
        ),
        (Event::NotKept(RequestRefusal::Full), vec!["too many requests", "later"]),
    ] {
        let (text, code) = fatal(client().tell(&event, None));
        for word in words {
            assert!(text.contains(word), "{text:?} lacks {word:?}");
        }
        assert_eq!(code, 1, "{text}");
    }
    let unstored = line(client().tell(&Event::NotRegistered(NameRefusal::Unstored), None));
    assert!(unstored.contains("cannot write down") && unstored.contains("trying on"), "{unstored}");
}

#[test]
fn a_link_that_is_lost_and_back_is_told_with_its_outage_on_both_sides() {
    let key = PublicKey([2; 32]);
    let began = net::Event::SessionBegan { peer: PEER, key, invite: None };
    let took = Duration::from_millis(41);
    let connected =
        |links| Event::Connected { peer: PEER, remote: address(), lan: false, took, rtt: Some(took), links };
    let lost = |why: &str| net::Event::LinkLost { peer: PEER, why: why.into() };
    let back = |kept| Some(Back { after: Duration::from_millis(1400), kept });

    let mut client = client();
    assert_eq!(client.tell_session(&began), None);
    client.tell(&connected(1), None);
    let told = client.tell_session(&lost("reset"));
    assert_eq!(told.as_deref(), Some("link lost: reset by 198.51.100.7:40000; punching again"));
    let told = client.tell_session(&lost("silent for 2.3 s"));
    assert_eq!(told.as_deref(), Some("link lost: silent for 2.3 s; punching again"));
    let id = RoundId { attempt: 2, round: 0 };
    let failed = |next| Event::RoundFailed { peer: PEER, id, why: "no answer".into(), next };
    assert_eq!(
        line(client.tell(&failed(Duration::from_secs(5)), None)),
        "no connection this time: no answer; next try in 5.0 s"
    );
    assert_eq!(
        line(client.tell(&failed(Duration::ZERO), None)),
        "no connection this time: no answer; trying again"
    );
    assert_eq!(
        line(client.tell(&connected(2), back(3))),
        "back after 1.4 s, 3 connections kept: directly to 198.51.100.7:40000 (round trip 41 ms)"
    );

    let mut host = narrator(Side::Host);
    let told = host.tell_session(&began);
    assert_eq!(told, Some(format!("client {key} (myhost) is let in")));
    let whose = |host: &Narrator, event: Event| host.whose(&net::Event::Endpoint(event));
    assert_eq!(whose(&host, connected(1)), "client myhost: ");
    assert_eq!(whose(&client, connected(1)), "");
    assert_eq!(host.whose(&lost("reset")), "client myhost: ");
    assert_eq!(
        line(host.tell(&connected(2), back(1))),
        "back after 1.4 s, 1 connection kept: directly to 198.51.100.7:40000 (round trip 41 ms)"
    );
    let ended = net::Event::SessionEnded { peer: PEER, why: Goodbye::Unauthorised };
    let told = host.tell_session(&ended);
    assert_eq!(told.as_deref(), Some("session ended: its key is not in authorized_clients any more"));
    assert_eq!(whose(&host, connected(3)), "", "forgotten");
}

/// The attacks of docs/SECURITY.md, by what is told of them.
#[test]
fn what_an_attack_did_is_told_in_a_sentence_on_the_honest_side() {
    let key = PublicKey([2; 32]);
    let mut host = narrator(Side::Host);
    for (who, why, others, sentence) in [
        (
            Some(key),
            Decline::Unauthorised,
            0,
            format!(
                "client {key} asked and was not let in: run \"punchtunnel invite myhost\" for it, or add its key to \
                 authorized_clients"
            ),
        ),
        (
            Some(key),
            Decline::Invite,
            7,
            format!(
                "client {key} asked with an invite that it could not prove, or that is used, expired or invented, and \
                 was not let in (7 more since the last such line)"
            ),
        ),
        (
            None,
            Decline::Handshake,
            0,
            "somebody asked for another key than this computer's, and was not let in: if it is a client of yours, have \
             it remove the line in its known_hosts and give it an invite"
                .into(),
        ),
        (
            Some(key),
            Decline::Busy,
            0,
            format!("client {key} was turned away: this computer has as many clients as it takes"),
        ),
    ] {
        assert_eq!(line(host.tell(&Event::Refused { key: who, why, others }, None)), sentence);
    }

    // Floods of streams, credit, malformed frames: the session that said it is over, on both sides.
    let broken = net::Event::SessionEnded { peer: PEER, why: Goodbye::Broken };
    let told = host.tell_session(&broken).unwrap();
    assert!(
        told.starts_with("session ended: it said what the protocol does not allow; update both"),
        "{told}"
    );
    let error = PeerError::Ended { name: "myhost".parse().unwrap(), why: Goodbye::Broken }.to_string();
    assert!(error.starts_with("\"myhost\" ended the session: one side said what the protocol"), "{error}");

    // Lies about records: the link ends, and the session moves to the next one.
    for (error, sentence) in [
        (
            LinkError::Acknowledged { next: 5, first: 0, end: 0 },
            "link lost: the other side acknowledges up to record 5, but only 0 to 0 can be; punching again",
        ),
        (LinkError::Seal, "link lost: the seal of a record is broken; punching again"),
        (
            LinkError::Epoch { epoch: 9 },
            "link lost: a record of epoch 9, whose keys are not known; punching again",
        ),
    ] {
        let lost = net::Event::LinkLost { peer: PEER, why: error.to_string() };
        assert_eq!(client().tell_session(&lost).as_deref(), Some(sentence));
    }

    // A refusal that the server brings while a session waits for its network.
    let brought = Event::Hearsay(Hearsay::Declined(Decline::Unauthorised));
    assert_eq!(
        line(client().tell(&brought, None)),
        "vps:7862 says that \"myhost\" does not let this computer in any more; it cannot prove that, so nothing is ended, and it is asked again"
    );

    // Lies about ports and addresses: rounds fail, with what was tried and what was held back.
    let id = RoundId { attempt: 1, round: 0 };
    let why = "none of 64 SYNs was answered: their NAT gives random ports, and gave others than were expected (960 more \
               SYNs were not sent, because nothing shows that the other side is at 192.0.2.66)";
    let failed = Event::RoundFailed { peer: PEER, id, why: why.into(), next: Duration::from_secs(2) };
    assert_eq!(
        line(client().tell(&failed, None)),
        format!("no connection this time: {why}; next try in 2.0 s")
    );
}
