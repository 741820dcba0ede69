//! How streams and sessions end: refusals, resets, closing.

use super::{scenarios::pattern, *};

#[test]
fn a_refusal_reaches_the_opener_as_a_reset_even_before_data() {
    let mut pair = Pair::linked(SessionConfig::default());
    let id = pair.opened();
    pair.sessions[RESPONDER].reset(id, ResetReason::Refused);
    pair.write(INITIATOR, id, b"late");
    pair.settle();
    assert_eq!(pair.events(INITIATOR), [SessionEvent::Reset { id, reason: ResetReason::Refused }]);
    assert_eq!(pair.events(RESPONDER), []);
    assert_eq!(pair.sessions[INITIATOR].write(id, Bytes::from_static(b"x")), Err(MuxError::Unknown));
    assert_eq!((pair.stats(INITIATOR).streams, pair.stats(RESPONDER).streams), (0, 0));
}

#[test]
fn what_came_before_a_reset_is_read_before_it() {
    let mut pair = Pair::linked(SessionConfig::default());
    let id = pair.opened();
    pair.write(RESPONDER, id, b"last words");
    pair.settle();
    pair.sessions[RESPONDER].reset(id, ResetReason::Reset);
    pair.settle();
    assert_eq!(pair.events(INITIATOR), [SessionEvent::Readable(id)]);
    let refused = pair.sessions[INITIATOR].write(id, Bytes::from_static(b"x"));
    assert_eq!(refused, Err(MuxError::Reset(ResetReason::Reset)), "a writer hears of it at once");
    assert_eq!(pair.read(INITIATOR, id), b"last words");
    assert_eq!(pair.events(INITIATOR), [SessionEvent::Reset { id, reason: ResetReason::Reset }]);
    assert_eq!(pair.stats(INITIATOR).streams, 0);
}

#[test]
fn close_reaches_the_peer_and_resets_what_is_open() {
    let mut pair = Pair::linked(SessionConfig::default());
    let id = pair.opened();
    pair.sessions[INITIATOR].close(pair.now, Goodbye::Unauthorised);
    assert_eq!(pair.events(INITIATOR), [SessionEvent::Reset { id, reason: ResetReason::SessionEnded }]);
    pair.settle();
    assert_eq!(
        pair.events(RESPONDER),
        [
            SessionEvent::Reset { id, reason: ResetReason::SessionEnded },
            SessionEvent::Ended(SessionError::Closed(Goodbye::Unauthorised))
        ]
    );
    for side in [INITIATOR, RESPONDER] {
        assert!(pair.sessions[side].is_over());
        assert_eq!(pair.sessions[side].poll_timeout(), None);
        assert_eq!(pair.sessions[side].poll_transmit(pair.now), None);
        assert_eq!(pair.sessions[side].open(pair.now, OpenRequest { service: None }), Err(MuxError::Ended));
        assert_eq!(pair.sessions[side].attach(pair.now, link(9).0), Err(LinkError::Ended));
    }
}

#[test]
fn a_peer_that_breaks_the_protocol_ends_the_session_and_not_the_link() {
    let mut pair = Pair::linked(SessionConfig::default());
    let id = pair.opened();
    // The responder's own OPEN in the initiator's numbers: the mux under it is the wrong one.
    pair.sessions[RESPONDER].mux = Mux::new(true);
    pair.sessions[RESPONDER].open(pair.now, OpenRequest { service: None }).unwrap();
    pair.transmit(RESPONDER, usize::MAX);
    assert_eq!(pair.deliver(RESPONDER, usize::MAX), Ok(()));
    let events = pair.events(INITIATOR);
    assert_eq!(events[0], SessionEvent::Reset { id, reason: ResetReason::SessionEnded });
    assert!(matches!(events[1], SessionEvent::Ended(SessionError::Violation(_))), "{events:?}");
    pair.settle();
    assert!(pair.events(RESPONDER).contains(&SessionEvent::Ended(SessionError::Closed(Goodbye::Broken))));
}

#[test]
fn a_program_that_waits_to_write_hears_of_a_reset() {
    let mut pair = Pair::linked(SessionConfig::default());
    let id = pair.opened();
    while pair.sessions[INITIATOR].writable(id) > 0 {
        let count = pair.sessions[INITIATOR].writable(id);
        pair.write(INITIATOR, id, &pattern(count));
        pair.settle();
    }
    pair.write(RESPONDER, id, b"not read yet");
    pair.settle();
    pair.sessions[RESPONDER].reset(id, ResetReason::Reset);
    pair.settle();
    assert_eq!(pair.events(INITIATOR), [SessionEvent::Readable(id), SessionEvent::Writable(id)]);
    let write = pair.sessions[INITIATOR].write(id, Bytes::from_static(b"x"));
    assert_eq!(write, Err(MuxError::Reset(ResetReason::Reset)));
}
