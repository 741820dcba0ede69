use super::*;

fn key(byte: u8) -> StaticKey {
    StaticKey::from_private(Zeroizing::new([byte; 32]))
}

fn psk(byte: u8) -> Psk {
    Psk(Zeroizing::new([byte; 32]))
}

fn initiator(psk: &Psk) -> Initiator {
    Initiator::new([1; 32], &key(10), &key(20).public(), Purpose::Peer, b"context", psk)
}

fn respond(message: &[u8]) -> Result<(Responder, Vec<u8>), SecureError> {
    Responder::read([2; 32], &key(20), Purpose::Peer, b"context", message)
}

fn secrets() -> (Secrets, Secrets) {
    let mut initiator = initiator(&psk(5));
    let (responder, _) = respond(&initiator.write(b"")).unwrap();
    let (message, theirs) = responder.write(&psk(5), b"");
    (initiator.read(&message).unwrap().1, theirs)
}

#[test]
fn both_sides_read_each_other_and_know_whom() {
    let mut initiator = initiator(&psk(5));
    let message = initiator.write(b"question");
    assert_eq!(message.len(), MESSAGE_1 + 8);
    let (responder, payload) = respond(&message).unwrap();
    assert_eq!(payload, b"question");
    assert_eq!(responder.remote(), key(10).public());
    let (message, _) = responder.write(&psk(5), b"an answer");
    assert_eq!(message.len(), MESSAGE_2 + 9);
    assert_eq!(initiator.read(&message).unwrap().0, b"an answer");
}

#[test]
fn another_pre_shared_key_fails_at_message_2_on_the_initiator() {
    let mut initiator = initiator(&psk(5));
    let (responder, _) = respond(&initiator.write(b"")).unwrap();
    let (message, _) = responder.write(&psk(6), b"");
    assert_eq!(initiator.read(&message).map(drop), Err(SecureError::Handshake));
}

#[test]
fn another_key_purpose_or_context_does_not_open_message_1() {
    let message = initiator(&psk(5)).write(b"question");
    for (me, purpose, context) in [
        (key(21), Purpose::Peer, &b"context"[..]),
        (key(20), Purpose::Server, b"context"),
        (key(20), Purpose::Link, b"context"),
        (key(20), Purpose::Peer, b"contexu"),
        (key(20), Purpose::Peer, b""),
    ] {
        let read = Responder::read([2; 32], &me, purpose, context, &message);
        assert_eq!(read.map(drop), Err(SecureError::Handshake), "{purpose:?} {context:?}");
    }
}

#[test]
fn a_changed_byte_anywhere_is_an_error_and_the_true_message_is_still_read() {
    let mut initiator = initiator(&psk(5));
    let first = initiator.write(b"question");
    for at in 0..first.len() {
        let mut changed = first.clone();
        changed[at] ^= 1;
        assert!(respond(&changed).is_err(), "message 1, byte {at}");
    }
    let (responder, _) = respond(&first).unwrap();
    let (second, _) = responder.write(&psk(5), b"answer");
    for at in 0..second.len() {
        let mut changed = second.clone();
        changed[at] ^= 1;
        assert!(initiator.try_read(&changed).is_err(), "message 2, byte {at}");
    }
    assert_eq!(initiator.try_read(&second).unwrap().0, b"answer");
    assert!(initiator.try_read(&second).is_err(), "read twice");
}

#[test]
fn a_message_of_any_other_length_is_an_error() {
    let mut initiator = initiator(&psk(5));
    let first = initiator.write(b"question");
    for cut in 0..first.len() {
        assert!(respond(&first[..cut]).is_err(), "message 1 cut to {cut}");
    }
    assert!(respond(&[&first[..], b"x"].concat()).is_err());
    assert!(respond(&vec![7; 70_000]).is_err());
    let (second, _) = respond(&first).unwrap().0.write(&psk(5), b"answer");
    for cut in 0..second.len() {
        assert!(initiator.try_read(&second[..cut]).is_err(), "message 2 cut to {cut}");
    }
    assert!(initiator.try_read(&vec![7; 70_000]).is_err());
}

#[test]
fn the_keys_of_both_sides_match_and_differ_by_direction_and_use() {
    let (ours, theirs) = secrets();
    let mut seen = Vec::new();
    for usage in ["datagram", "epoch", "link"] {
        let (seal, open) = ours.both_directions(usage);
        let (their_seal, their_open) = theirs.both_directions(usage);
        assert_eq!((&seal, &open), (&their_open, &their_seal), "{usage}");
        seen.extend([*seal, *open]);
    }
    for label in ["", "link", "datagram"] {
        let ours = ours.psk(label).0;
        assert_eq!(ours, theirs.psk(label).0);
        seen.push(*ours);
    }
    seen.sort();
    seen.dedup();
    assert_eq!(seen.len(), 9, "every key is another");
}

#[test]
fn what_one_side_seals_the_other_opens() {
    let (ours, theirs) = secrets();
    let mut body = *b"record";
    let tag = ours.epoch().seal.seal(3, b"header", &mut body);
    let mut sealed = [&body[..], &tag].concat();
    assert_eq!(theirs.epoch().open.open(3, b"header", &mut sealed).unwrap(), b"record");
    let mut sealed = [&body[..], &tag].concat();
    assert!(theirs.link().open.open(3, b"header", &mut sealed).is_err());
    let datagram = theirs.datagram().seal(1, 2, b"body");
    assert_eq!(ours.datagram().open(1, 2, &datagram[13..]).unwrap(), b"body");
}

#[test]
fn the_same_seed_gives_the_same_bytes_and_another_seed_others() {
    assert_eq!(initiator(&psk(5)).write(b"x"), initiator(&psk(5)).write(b"x"));
    let other =
        Initiator::new([3; 32], &key(10), &key(20).public(), Purpose::Peer, b"context", &psk(5)).write(b"x");
    assert_ne!(initiator(&psk(5)).write(b"x")[..32], other[..32]);
}

#[test]
fn towards_a_key_of_small_order_nothing_is_said_and_nothing_believed() {
    let nobody = PublicKey([0; 32]);
    assert!(!nobody.is_usable());
    let mut initiator = Initiator::new([1; 32], &key(10), &nobody, Purpose::Peer, b"", &psk(5));
    let message = initiator.write(b"a secret question");
    assert!(!message.windows(17).any(|w| w == b"a secret question"));
    assert!(Responder::read([2; 32], &key(20), Purpose::Peer, b"", &message).is_err());
    assert!(initiator.read(&[0; 48]).is_err());
}

#[test]
fn an_initiator_with_an_ephemeral_key_of_small_order_is_refused() {
    let mut message = initiator(&psk(5)).write(b"");
    message[..32].fill(0);
    assert!(respond(&message).is_err());
}

#[test]
fn nothing_secret_is_shown() {
    let (secrets, _) = secrets();
    assert_eq!(
        format!("{secrets:?} {:?} {:?}", secrets.epoch(), secrets.datagram()),
        "Secrets(..) EpochKeys(..) DatagramKeys(..)"
    );
}

#[test]
fn the_derivation_is_hkdf_with_these_labels() {
    // Computed with another implementation of HMAC-SHA256.
    let (salt, both): (Vec<u8>, Vec<u8>) = ((100..132).collect(), (0..64).collect());
    let prk = hkdf::Salt::new(hkdf::HKDF_SHA256, &salt).extract(&both);
    let secrets = Secrets { prk, initiator: true };
    for (key, expected) in [
        (secrets.datagram().key(true), "582d8355b6901dd73fb785958553a32f4bb5ca2889c54ba3d3416d8858506f18"),
        (secrets.datagram().key(false), "5ded6ff3d586b352bf6bf22fbf065ab39681d90380f7a45479032d8608063a76"),
        (
            secrets.both_directions("epoch").1,
            "69a744431dbf71cf9aaa84e9119d7a94fc0957e479d890e944b937a39c196e91",
        ),
        (secrets.psk("link").0, "1f8cc6fea996843a153875119bac4da14d76075cc1295e693a3e4a51256f06f7"),
    ] {
        assert_eq!(data_encoding::HEXLOWER.encode(&*key), expected);
    }
}
