//! What an honest peer never does: too many streams, frames that make no sense.

use super::*;

/// An OPEN of the initiator's stream with that number, counted from 0.
fn open(number: usize, first: FirstWindow) -> Bytes {
    body(|out| frame::put_open(out, StreamId(2 * number as u32 + 1), &wire::encode(&request()), first))
}

#[test]
fn streams_beyond_the_limit_are_refused_and_a_flood_of_them_is_a_violation() {
    let mut theirs = Mux::new(false);
    for number in 0..2 * MAX_STREAMS {
        theirs.handle_body(start(), open(number, FirstWindow::Narrow)).unwrap();
    }
    assert_eq!(theirs.streams(), MAX_STREAMS);
    assert_eq!(theirs.resets.len(), MAX_STREAMS);
    assert!(theirs.resets.values().all(|&(reason, _)| reason == ResetReason::TooMany));
    let next = open(2 * MAX_STREAMS, FirstWindow::Narrow);
    assert_eq!(theirs.handle_body(start(), next), Err(Violation::Flood));
}

#[test]
fn a_peer_that_opens_wide_windows_without_end_is_refused_and_then_a_violation() {
    let mut theirs = Mux::new(false);
    for number in 0..2 * MAX_STREAMS {
        theirs.handle_body(start(), open(number, FirstWindow::Wide)).unwrap();
    }
    // What it may still open holds little: a narrow window would be let in, were there not so many RESETs.
    assert_eq!((theirs.streams(), theirs.remote.wide), (2 * MAX_WIDE, 2 * MAX_WIDE));
    let next = open(2 * MAX_STREAMS, FirstWindow::Wide);
    assert_eq!(theirs.handle_body(start(), next), Err(Violation::Flood));
    let (mut granted, id) = (0, StreamId(1));
    while theirs.handle_body(start(), data(id, &[1; 512])).is_ok() {
        granted += 512;
    }
    assert_eq!(granted, INITIAL_WINDOW);
}

#[test]
fn a_wide_stream_that_is_refused_takes_no_place_of_a_narrow_one() {
    let mut theirs = Mux::new(false);
    for number in 0..=2 * MAX_WIDE {
        theirs.handle_body(start(), open(number, FirstWindow::Wide)).unwrap();
    }
    theirs.handle_body(start(), open(2 * MAX_WIDE + 1, FirstWindow::Narrow)).unwrap();
    assert_eq!(theirs.resets.len(), 1);
    record(&mut theirs, RECORD);
    assert_eq!(theirs.remote, Slots { all: 2 * MAX_WIDE + 1, wide: 2 * MAX_WIDE });
    theirs.reset(StreamId(1), ResetReason::Reset);
    record(&mut theirs, RECORD);
    theirs.handle_body(start(), open(2 * MAX_WIDE + 2, FirstWindow::Wide)).unwrap();
    assert_eq!((theirs.resets.len(), theirs.remote.wide), (0, 2 * MAX_WIDE));
}

#[test]
fn frames_of_a_closed_stream_are_ignored_and_of_one_never_opened_are_a_violation() {
    let (mut ours, mut theirs) = pair();
    let id = ours.open(&request()).unwrap();
    carry(&mut ours, &mut theirs);
    theirs.reset(id, ResetReason::Refused);
    events(&mut theirs);
    for late in [
        data(id, b"late"),
        body(|out| frame::put_fin(out, id)),
        body(|out| frame::put_credit(out, id, u64::MAX)),
        body(|out| frame::put_reset(out, id, ResetReason::Reset)),
    ] {
        assert_eq!(theirs.handle_body(start(), late), Ok(()));
    }
    assert_eq!(events(&mut theirs), []);
    assert_eq!((theirs.remote.all, theirs.resets.len()), (0, 0), "both reset it: nothing is left to say");
    for never in [StreamId(0), StreamId(2), StreamId(3), StreamId(u32::MAX)] {
        let violation = Err(Violation::NeverOpened(never));
        assert_eq!(theirs.handle_body(start(), data(never, b"x")), violation);
    }
}

#[test]
fn what_an_honest_peer_never_sends_is_a_violation() {
    let opened = || {
        let (mut ours, mut theirs) = pair();
        let id = ours.open(&request()).unwrap();
        carry(&mut ours, &mut theirs);
        (theirs, id)
    };
    let open_with = |id: u32| {
        body(|out| frame::put_open(out, StreamId(id), &wire::encode(&request()), FirstWindow::Wide))
    };
    let (mut theirs, id) = opened();
    for wrong in [1, 2, 5, 0] {
        assert_eq!(
            theirs.handle_body(start(), open_with(wrong)),
            Err(Violation::OutOfOrder(StreamId(wrong)))
        );
    }
    theirs.handle_body(start(), body(|out| frame::put_fin(out, id))).unwrap();
    assert_eq!(theirs.handle_body(start(), data(id, b"x")), Err(Violation::AfterFin(id)));
    assert_eq!(
        theirs.handle_body(start(), body(|out| frame::put_fin(out, id))),
        Err(Violation::AfterFin(id))
    );
    let (mut theirs, id) = opened();
    for _ in 0..4 {
        theirs.handle_body(start(), data(id, &[1; RECORD])).unwrap();
    }
    assert_eq!(theirs.handle_body(start(), data(id, b"x")), Err(Violation::Overrun(id)));
}
