use std::net::SocketAddr;

use punchtunnel::{
    endpoint::PeerId,
    nat::{Mapping, Model},
    wire::peer::RoundId,
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
        (Event::NotRegistered(NameRefusal::Unstored), vec!["cannot write down", "trying on"]),
        (
            Event::Declined(Decline::Unauthorised),
            vec!["punchtunnel invite myhost", "authorized_clients", &key],
        ),
        (Event::Declined(Decline::Invite), vec!["used, has expired", "punchtunnel invite myhost"]),
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
