use zeroize::Zeroizing;

use super::*;

const SESSION: [u8; 16] = [3; 16];

fn key(byte: u8) -> StaticKey {
    StaticKey::from_private(Zeroizing::new([byte; 32]))
}

fn psk(byte: u8) -> Psk {
    Psk(Zeroizing::new([byte; 32]))
}

fn initiator() -> (LinkInitiator, Vec<u8>) {
    LinkInitiator::new([1; 32], &key(10), &key(20).public(), &SESSION, &psk(5), 7)
}

fn responder() -> LinkResponder {
    LinkResponder::new([2; 32], &key(20), key(10).public(), &SESSION, &psk(5))
}

fn reply(responder: &mut LinkResponder) -> Vec<u8> {
    match responder.poll() {
        Some(LinkProgress::Send(bytes)) => bytes,
        other => panic!("{other:?}"),
    }
}

/// Up to NOMINATE, which is not delivered.
fn before_nominate() -> (LinkResponder, Vec<u8>, EstablishedLink) {
    let (mut initiator, first) = initiator();
    let mut responder = responder();
    responder.receive(&first).unwrap();
    assert!(initiator.receive(&reply(&mut responder)).unwrap());
    let (nominate, link, surplus) = initiator.nominate().unwrap();
    assert!(surplus.is_empty());
    (responder, nominate, link)
}

#[test]
fn a_link_is_nominated_and_both_sides_have_the_same_keys() {
    let (mut responder, nominate, ours) = before_nominate();
    assert_eq!(responder.epoch(), Some(7));
    assert!(responder.poll().is_none());
    responder.receive(&[&nominate[..], b"behind it"].concat()).unwrap();
    responder.receive(b", and more").unwrap();
    let Some(LinkProgress::Nominated(theirs, surplus)) = responder.poll() else { panic!("not nominated") };
    assert_eq!(&surplus[..], b"behind it, and more");
    assert_eq!((ours.epoch, theirs.epoch), (7, 7));
    assert_eq!((ours.next_seal, ours.next_open), (1, 0));
    assert_eq!((theirs.next_seal, theirs.next_open), (0, 1));
    let mut body = *b"x";
    let tag = theirs.epoch_keys.seal.seal(0, b"", &mut body);
    assert!(ours.epoch_keys.open.open(0, b"", &mut [&body[..], &tag].concat()).is_ok());
    let mut body = *b"x";
    let tag = ours.link_keys.seal.seal(1, b"", &mut body);
    assert!(theirs.link_keys.open.open(1, b"", &mut [&body[..], &tag].concat()).is_ok());
    assert!(responder.poll().is_none());
    assert!(responder.receive(b"late").is_err(), "handed over");
}

#[test]
fn it_works_a_byte_at_a_time() {
    let (mut initiator, first) = initiator();
    let mut responder = responder();
    for byte in first {
        assert!(responder.poll().is_none());
        responder.receive(&[byte]).unwrap();
    }
    let second = reply(&mut responder);
    for (at, byte) in second.iter().enumerate() {
        assert_eq!(initiator.receive(&[*byte]), Ok(at + 1 == second.len()));
    }
    for byte in initiator.nominate().unwrap().0 {
        assert!(responder.poll().is_none());
        responder.receive(&[byte]).unwrap();
    }
    assert!(matches!(responder.poll(), Some(LinkProgress::Nominated(_, surplus)) if surplus.is_empty()));
}

#[test]
fn somebody_else_another_session_and_another_secret_are_refused() {
    let (_, first) = LinkInitiator::new([1; 32], &key(11), &key(20).public(), &SESSION, &psk(5), 7);
    assert_eq!(responder().receive(&first), Err(SecureError::Handshake), "another key");
    let (_, first) = LinkInitiator::new([1; 32], &key(10), &key(20).public(), &[4; 16], &psk(5), 7);
    assert_eq!(responder().receive(&first), Err(SecureError::Handshake), "another session");
    let (mut initiator, first) =
        LinkInitiator::new([1; 32], &key(10), &key(20).public(), &SESSION, &psk(6), 7);
    let mut responder = responder();
    responder.receive(&first).unwrap();
    assert_eq!(initiator.receive(&reply(&mut responder)), Err(SecureError::Handshake), "another secret");
    assert!(!initiator.is_open());
    assert!(initiator.nominate().is_err());
}

#[test]
fn a_changed_byte_of_any_message_ends_the_connection() {
    let (_, first) = initiator();
    for at in 0..first.len() {
        let mut changed = first.clone();
        changed[at] ^= 0x80;
        let mut responder = responder();
        // A changed length may make it wait for bytes that never come; nothing is answered.
        let _ = responder.receive(&changed);
        assert!(responder.poll().is_none(), "message 1, byte {at}");
    }
    let (_, nominate, _) = before_nominate();
    for at in 0..nominate.len() {
        let (mut responder, mut changed, _) = before_nominate();
        changed[at] ^= 1;
        let _ = responder.receive(&changed);
        assert!(responder.poll().is_none(), "NOMINATE, byte {at}");
    }
}

#[test]
fn another_record_than_nominate_is_refused() {
    for (counter, body) in
        [(0, vec![LinkType::Ping as u8]), (1, vec![LinkType::Nominate as u8]), (0, vec![1, 0])]
    {
        let (mut responder, _, link) = before_nominate();
        let header = link_header(counter, body.len() + TAG);
        let mut sealed = body.clone();
        let tag = link.link_keys.seal.seal(counter, &header, &mut sealed);
        assert!(responder.receive(&[&header[..], &sealed, &tag].concat()).is_err(), "{counter} {body:?}");
        assert!(responder.poll().is_none());
    }
}

#[test]
fn neither_side_keeps_more_than_its_bound() {
    let mut responder = responder();
    assert!(responder.receive(&[0x04, 0x01]).is_err(), "a message of 1025 bytes is announced");
    assert!(responder.receive(b"").is_err(), "and it stays over");
    let (mut other, _) = initiator();
    assert!(other.receive(&[0xff, 0xff]).is_err());

    let (mut responder, nominate, _) = before_nominate();
    responder.receive(&nominate).unwrap();
    responder.receive(&vec![0; MAX_SURPLUS]).unwrap();
    assert!(responder.receive(&[0]).is_err());
    assert!(responder.poll().is_none());
}
