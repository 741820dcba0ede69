//! A peer with the right keys that says what no honest one says, attack by attack: docs/SECURITY.md lists
//! them by these names.

use super::*;
use crate::{
    mux::{flow::FirstWindow, frame, whole::ROOM},
    secure::{EpochKeys, EstablishedLink},
    session::record::{self, LinkMessage},
    wire::record::SESSION_HEADER,
};

/// An initiator that lies, and the session that hears it.
struct Liar {
    now: Instant,
    session: Session,
    /// Keys of epoch 0.
    keys: EpochKeys,
    link: EstablishedLink,
    /// Number of its next session record.
    number: u64,
}

impl Liar {
    /// With a link on which it has said RESUME.
    fn new() -> Self {
        let mut liar = Self::silent();
        liar.says(LinkMessage::Resume { next: 0, oldest: 0, fresh: true }).expect("good");
        liar
    }

    fn silent() -> Self {
        let (keys, theirs) = Keys::new(0).epoch();
        let (link, their_link) = link(1);
        let now = start();
        let mut session = Session::new(now, false, theirs, SessionConfig::default());
        session.attach(now, their_link).expect("a first link");
        Liar { now, session, keys, link, number: 0 }
    }

    fn hears(&mut self, bytes: &[u8]) -> Result<(), LinkError> {
        self.session.handle_input(self.now, &mut BytesMut::from(bytes))
    }

    fn says(&mut self, message: LinkMessage) -> Result<(), LinkError> {
        let mut out = BytesMut::new();
        record::seal_link(&self.link.link_keys.seal, self.link.next_seal, &message, &mut out);
        self.link.next_seal += 1;
        self.hears(&out)
    }

    /// A session record with these frames.
    fn sends(&mut self, frames: &[u8]) -> Result<(), LinkError> {
        let mut body = BytesMut::zeroed(SESSION_HEADER);
        body.extend_from_slice(frames);
        let record = record::seal_session(&self.keys.seal, 0, self.number, body);
        self.number += 1;
        self.hears(&record)
    }

    fn opens(&mut self, id: u32) {
        let mut frames = BytesMut::new();
        let request = crate::wire::encode(&OpenRequest { service: None });
        frame::put_open(&mut frames, StreamId(id), &request, FirstWindow::Wide);
        self.sends(&frames).expect("no link ends by a frame");
    }

    /// The session has ended: why, as its user reads it.
    fn ended(&mut self) -> String {
        let events: Vec<_> = std::iter::from_fn(|| self.session.poll_event()).collect();
        let Some(SessionEvent::Ended(error)) = events.last() else { panic!("{events:?}") };
        assert!(matches!(error, SessionError::Violation(_)), "{error}");
        error.to_string()
    }
}

fn frames(put: impl FnOnce(&mut BytesMut)) -> BytesMut {
    let mut out = BytesMut::new();
    put(&mut out);
    out
}

/// DATA of that stream.
fn data(id: u32, bytes: &[u8]) -> BytesMut {
    frames(|out| {
        out.extend_from_slice(&[2]);
        out.extend_from_slice(&(bytes.len() as u32).to_be_bytes()[1..]);
        out.extend_from_slice(&id.to_be_bytes());
        out.extend_from_slice(bytes);
    })
}

#[test]
fn acknowledgements_of_what_was_never_sent_and_that_go_back_end_the_link_and_lose_nothing() {
    let mut liar = Liar::new();
    let error = liar.says(LinkMessage::Ack { next: 5 }).expect_err("a lie");
    assert_eq!(error.to_string(), "the other side acknowledges up to record 5, but only 0 to 0 can be");
    let mut pair = Pair::linked(SessionConfig::default());
    let id = pair.opened();
    pair.pass(2 * ACK_DELAY);
    // A link later the initiator's records begin at 1: 0 is taken back.
    let acknowledged = pair.sessions[INITIATOR].queue.first();
    assert!(acknowledged > 0);
    let (now, message) = (pair.now, LinkMessage::Ack { next: 0 });
    let error = pair.sessions[INITIATOR].handle_message(now, message).expect_err("a lie");
    assert!(matches!(error, LinkError::Acknowledged { next: 0, .. }), "{error}");
    pair.write(INITIATOR, id, b"abc");
    pair.attach();
    pair.settle();
    assert_eq!(pair.read(RESPONDER, id), b"abc");
}

#[test]
fn a_resume_from_where_nothing_is_ends_the_link_and_a_second_one_too() {
    for (next, words) in [
        (1, "the other side wants to go on from record 1, but only 0 to 0 can be"),
        (u64::MAX, "the other side wants to go on from record 18446744073709551615, but only 0 to 0 can be"),
    ] {
        let mut liar = Liar::silent();
        let error =
            liar.says(LinkMessage::Resume { next, oldest: u32::MAX, fresh: true }).expect_err("a lie");
        assert_eq!(error.to_string(), words);
        assert!(!liar.session.is_over(), "the next link may be better");
    }
    let mut liar = Liar::new();
    let error = liar.says(LinkMessage::Resume { next: 0, oldest: 0, fresh: true }).expect_err("a lie");
    assert_eq!(error.to_string(), "a second RESUME has no place here");
    let mut liar = Liar::silent();
    let error = liar.says(LinkMessage::Ack { next: 0 }).expect_err("before RESUME");
    assert_eq!(error, LinkError::Unexpected("ACK"));
}

#[test]
fn a_record_that_comes_again_from_the_wrong_epoch_or_with_another_number_ends_the_link() {
    let mut liar = Liar::new();
    liar.link.next_seal -= 1;
    assert!(matches!(liar.says(LinkMessage::Ping { token: 1 }), Err(LinkError::Gap { found: 1, .. })));
    let mut liar = Liar::new();
    liar.number = 7;
    assert!(matches!(liar.sends(b""), Err(LinkError::Gap { found: 7, expected: 0 })));
    let mut liar = Liar::new();
    let body = BytesMut::zeroed(SESSION_HEADER + 8);
    let record = record::seal_session(&liar.keys.seal, 4711, 0, body);
    let error = liar.hears(&record).expect_err("a lie");
    assert_eq!(error.to_string(), "a record of epoch 4711, whose keys are not known");
    // A link that is not this one is dead: so what.
    let mut liar = Liar::new();
    for epoch in [0, 2, u32::MAX] {
        assert_eq!(liar.says(LinkMessage::LinkDead { epoch }), Ok(()));
    }
}

#[test]
fn a_flood_of_opens_ends_the_session_and_holds_no_more_than_its_streams() {
    let mut liar = Liar::new();
    let mut opened = 0;
    while !liar.session.is_over() {
        liar.opens(2 * opened + 1);
        opened += 1;
        assert!(liar.session.stats().streams <= crate::mux::MAX_STREAMS);
        assert!(opened <= 2 * crate::mux::MAX_STREAMS as u32 + 1);
    }
    assert_eq!(liar.ended(), "the other side broke the protocol: a flood of new streams");
    assert_eq!(liar.session.stats().streams, 0);
    assert!(
        crate::error::goodbye(Goodbye::Broken).starts_with("one side said what the protocol does not allow")
    );
}

#[test]
fn more_than_the_credit_ends_the_session_and_credit_without_end_gives_nothing_more() {
    let mut liar = Liar::new();
    liar.opens(1);
    for _ in 0..4 {
        liar.sends(&data(1, &[7; ROOM])).expect("within the window");
    }
    liar.sends(&data(1, &[7])).expect("no link ends by a frame");
    assert_eq!(liar.ended(), "the other side broke the protocol: more bytes of stream 1 than were granted");
    // Credit of 2^64, and taken back: what this side holds is its own to bound.
    let mut liar = Liar::new();
    liar.opens(1);
    for limit in [u64::MAX, 0, 1, u64::MAX] {
        liar.sends(&frames(|out| frame::put_credit(out, StreamId(1), limit))).expect("good");
    }
    let mut held = 0;
    loop {
        let count = liar.session.writable(StreamId(1));
        if count == 0 {
            break;
        }
        liar.session.write(StreamId(1), vec![7; count].into()).expect("it said so");
        held += count;
    }
    assert!(held <= crate::mux::holding::SEND_BUFFER, "{held}");
}

#[test]
fn oversize_and_malformed_records_and_frames_end_what_they_came_in() {
    // A header that announces 16 MiB is refused before anything is waited for.
    for kind in [1, 2, 3, 0xff] {
        let mut liar = Liar::new();
        let error = liar.hears(&[kind, 0xff, 0xff, 0xff, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
        assert!(matches!(error, Err(LinkError::Format(_))), "{error:?}");
    }
    for bytes in [
        &[9, 0, 0, 0, 0, 0, 0, 1][..],               // an unknown kind
        &[2, 0, 0, 9, 0, 0, 0, 1, 1],                // cut short
        &[3, 0, 0, 1, 0, 0, 0, 1, 0],                // FIN with a payload
        &[1, 0, 0, 3, 0, 0, 0, 1, 0xff, 0xff, 0xff], // OPEN of nothing that decodes
        &[2],
    ] {
        let mut liar = Liar::new();
        liar.sends(bytes).expect("no link ends by a frame");
        assert!(liar.ended().starts_with("the other side broke the protocol: "), "{bytes:?}");
    }
}

#[test]
fn endless_pings_have_one_answer_at_a_time() {
    let mut liar = Liar::new();
    while liar.session.poll_transmit(liar.now).is_some() {}
    let mut all = BytesMut::new();
    for token in 0..10_000 {
        record::seal_link(
            &liar.link.link_keys.seal,
            liar.link.next_seal,
            &LinkMessage::Ping { token },
            &mut all,
        );
        liar.link.next_seal += 1;
    }
    liar.hears(&all).expect("pings");
    let mut answers = 0;
    while let Some(bytes) = liar.session.poll_transmit(liar.now) {
        answers += bytes.len();
    }
    assert!(answers < 100, "{answers} bytes for {}", all.len());
    // An answer to what was never asked ends the link.
    assert_eq!(liar.says(LinkMessage::Pong { token: 4711 }), Err(LinkError::Unexpected("PONG")));
}
