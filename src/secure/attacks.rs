//! Handshakes replayed, reordered, cut, reflected and led to the wrong end, attack by attack:
//! docs/SECURITY.md lists them by these names.

use zeroize::Zeroizing;

use super::*;

const SESSION: [u8; 16] = [3; 16];

fn key(byte: u8) -> StaticKey {
    StaticKey::from_private(Zeroizing::new([byte; 32]))
}

fn psk(byte: u8) -> Psk {
    Psk(Zeroizing::new([byte; 32]))
}

/// A link handshake of client 10 with host 20 in that session, with other randomness for each number.
fn link(session: u8, number: u8) -> (LinkInitiator, Vec<u8>, LinkResponder) {
    let session = [session; 16];
    let (initiator, first) =
        LinkInitiator::new([number; 32], &key(10), &key(20).public(), &session, &psk(5), u32::from(number));
    let responder = LinkResponder::new([number + 100; 32], &key(20), key(10).public(), &session, &psk(5));
    (initiator, first, responder)
}

fn answer(responder: &mut LinkResponder, first: &[u8]) -> Vec<u8> {
    responder.receive(first).expect("a good message");
    match responder.poll() {
        Some(LinkProgress::Send(bytes)) => bytes,
        other => panic!("{other:?}"),
    }
}

fn peer(number: u8) -> (Initiator, Vec<u8>) {
    let mut initiator =
        Initiator::new([number; 32], &key(10), &key(20).public(), Purpose::Peer, b"", &Psk::none());
    let first = initiator.write(b"hello");
    (initiator, first)
}

fn respond(number: u8, first: &[u8]) -> Result<(Responder, Vec<u8>), SecureError> {
    Responder::read([number; 32], &key(20), Purpose::Peer, b"", first)
}

#[test]
fn a_replayed_first_message_gives_keys_to_nobody() {
    let (initiator, first) = peer(1);
    let (first_time, _) = respond(2, &first).expect("good").0.write(&Psk::none(), b"");
    let (_, honest) = initiator.read(&first_time).expect("good");
    // Again, to a host that draws other randomness: it answers, and whoever replays cannot read that, nor has
    // what the first exchange gave any worth.
    let (again, secrets) =
        respond(3, &first).expect("no state is kept of what was seen").0.write(&Psk::none(), b"");
    assert_ne!(first_time, again);
    let sealed = honest.datagram().seal(7, 0, b"recorded");
    assert!(secrets.datagram().open(7, 0, &sealed[13..]).is_err());
    // And the answer of one exchange is none in another.
    let (other, _) = peer(4);
    assert!(other.read(&again).is_err());
}

#[test]
fn a_replayed_link_handshake_makes_no_link() {
    let (mut initiator, first, mut responder) = link(3, 1);
    let second = answer(&mut responder, &first);
    assert!(initiator.receive(&second).expect("good"));
    let (nominate, _, _) = initiator.nominate().expect("open");
    // All of it once more, to the same host, which answers with fresh randomness.
    let mut again = LinkResponder::new([99; 32], &key(20), key(10).public(), &SESSION, &psk(5));
    assert_ne!(answer(&mut again, &first), second);
    assert!(again.receive(&nominate).is_err());
    assert!(again.poll().is_none());
}

#[test]
fn messages_that_are_reflected_to_their_sender_are_refused() {
    let (initiator, first) = peer(1);
    assert!(initiator.read(&first).is_err(), "a client's own message as the host's");
    let (mut own, first, mut responder) = link(3, 1);
    assert!(own.receive(&first).is_err(), "the same on a link");
    let (_, first, _) = link(3, 2);
    let second = answer(&mut responder, &first);
    assert!(responder.receive(&second).is_err(), "a host's own answer as NOMINATE");
    // A client cannot be made to talk to itself.
    assert!(Responder::read([1; 32], &key(10), Purpose::Peer, b"", &peer(3).1).is_err());
}

#[test]
fn messages_out_of_order_are_refused() {
    let (mut initiator, first, mut responder) = link(3, 1);
    let second = answer(&mut responder, &first);
    assert!(initiator.receive(&second).expect("good"));
    let (nominate, _, _) = initiator.nominate().expect("open");
    for early in [&nominate, &second] {
        let (_, _, mut fresh) = link(3, 2);
        let _ = fresh.receive(early);
        assert!(fresh.poll().is_none());
    }
    assert!(responder.receive(&first).is_err(), "message 1 again where NOMINATE is due");
}

#[test]
fn a_link_cut_at_any_byte_is_no_link() {
    let (mut initiator, first, mut responder) = link(3, 1);
    let second = answer(&mut responder, &first);
    assert!(initiator.receive(&second).expect("good"));
    let (nominate, _, _) = initiator.nominate().expect("open");
    for cut in 0..nominate.len() {
        let mut responder = LinkResponder::new([101; 32], &key(20), key(10).public(), &SESSION, &psk(5));
        let _ = answer(&mut responder, &first);
        responder.receive(&nominate[..cut]).expect("it waits");
        assert!(responder.poll().is_none(), "{cut}");
    }
}

#[test]
fn a_peer_handshake_is_no_link_handshake_and_the_other_way_round() {
    let (_, first) = peer(1);
    let mut framed = u16::try_from(first.len()).expect("short").to_be_bytes().to_vec();
    framed.extend_from_slice(&first);
    assert!(link(3, 2).2.receive(&framed).is_err());
    let (_, first, _) = link(3, 1);
    assert!(respond(2, &first[2..]).is_err());
    // Nor has a peer's pre-shared key, of which a link's is derived, any other use.
    let (_, first) = peer(1);
    let (reply, secrets) = respond(2, &first).expect("good").0.write(&Psk::none(), b"");
    let (_, ours) = peer(1).0.read(&reply).expect("the same randomness");
    assert_ne!(ours.psk("link").0, ours.psk("peer").0);
    assert_eq!(ours.psk("link").0, secrets.psk("link").0);
}

#[test]
fn connections_of_two_sessions_and_of_one_that_are_swapped_are_refused() {
    // Two sessions of one client: each connection led to the other's listener.
    let (_, first, _) = link(3, 1);
    let (_, _, mut other) = link(4, 2);
    assert!(other.receive(&first).is_err());
    // Two connections of one session, swapped after the first message, then after the second.
    let (mut a, first_a, mut to_a) = link(3, 1);
    let (mut b, first_b, mut to_b) = link(3, 2);
    let (second_a, second_b) = (answer(&mut to_a, &first_a), answer(&mut to_b, &first_b));
    assert!(link(3, 1).0.receive(&second_b).is_err());
    assert!(a.receive(&second_a).expect("good") && b.receive(&second_b).expect("good"));
    let ((nominate_a, ..), (nominate_b, ..)) = (a.nominate().expect("open"), b.nominate().expect("open"));
    assert!(to_a.receive(&nominate_b).is_err() && to_b.receive(&nominate_a).is_err());
    assert!(to_a.poll().is_none() && to_b.poll().is_none());
}

#[test]
fn a_server_in_the_middle_with_keys_of_its_own_is_nobody() {
    // To the client it says that its key is the host's; the client expects the host's own.
    let (_, first) = peer(1);
    assert!(Responder::read([2; 32], &key(66), Purpose::Peer, b"", &first).is_err(), "it reads nothing");
    // Where the client has an invite and took the server's word for the key, the invite is not proved.
    let mut invited = Initiator::new([1; 32], &key(10), &key(66).public(), Purpose::Peer, b"", &psk(7));
    let first = invited.write(b"hello");
    let (middle, _) =
        Responder::read([2; 32], &key(66), Purpose::Peer, b"", &first).expect("it can read this");
    let (reply, _) = middle.write(&psk(8), b"");
    assert!(invited.read(&reply).is_err());
}
