//! Two muxes, a record at a time.

use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};

use super::{
    flow::INITIAL_WINDOW,
    holding::{SEND_BUDGET, SEND_BUFFER, SEND_FLOOR},
    *,
};
use crate::testing::start;

mod bulk;
mod violations;

const RECORD: usize = whole::ROOM;

fn pair() -> (Mux, Mux) {
    (Mux::new(true), Mux::new(false))
}

fn request() -> OpenRequest {
    OpenRequest { service: None }
}

fn record(from: &mut Mux, end: usize) -> Bytes {
    let mut out = BytesMut::new();
    from.fill(&mut out, end);
    out.freeze()
}

/// Carries everything that `from` has to send.
fn carry(from: &mut Mux, to: &mut Mux) {
    while from.pending(RECORD) > 0 {
        let body = record(from, RECORD);
        if body.is_empty() {
            break;
        }
        to.handle_body(start(), body).unwrap();
    }
}

fn events(mux: &mut Mux) -> Vec<MuxEvent> {
    std::iter::from_fn(|| mux.poll_event()).collect()
}

fn read(mux: &mut Mux, now: Instant, id: StreamId) -> usize {
    std::iter::from_fn(|| mux.read(now, id, Some(Duration::from_millis(10)))).map(|bytes| bytes.len()).sum()
}

/// A body that holds these frames.
fn body(put: impl FnOnce(&mut BytesMut)) -> Bytes {
    let mut out = BytesMut::new();
    put(&mut out);
    out.freeze()
}

fn data(id: StreamId, bytes: &[u8]) -> Bytes {
    body(|out| {
        let open = frame::OpenData::begin(out, id);
        out.extend_from_slice(bytes);
        open.close(out);
    })
}

#[test]
fn a_record_is_never_longer_than_it_may_be() {
    for end in [100, 1000, 1024, 5000] {
        let (mut ours, mut theirs) = pair();
        let mut total = 0;
        for number in 0..50usize {
            let id = ours.open(&OpenRequest { service: Some("s".repeat(number + 1)) }).unwrap();
            ours.write(id, vec![7; number * 10].into()).unwrap();
            ours.finish(id);
            total += number * 10;
        }
        while ours.pending(end) > 0 {
            let body = record(&mut ours, end);
            assert!(!body.is_empty() && body.len() <= end, "{} of {end}", body.len());
            theirs.handle_body(start(), body).unwrap();
        }
        let read: usize = (0..50).map(|n| read(&mut theirs, start(), StreamId(2 * n + 1))).sum();
        assert_eq!(read, total);
        assert!(ours.is_flushed());
    }
}

#[test]
fn pending_is_what_the_record_will_need() {
    let (mut ours, mut theirs) = pair();
    let ids: Vec<_> = (0..3).map(|_| ours.open(&request()).unwrap()).collect();
    carry(&mut ours, &mut theirs);
    assert_eq!(ours.pending(RECORD), 0);
    ours.write(ids[0], vec![1; 10].into()).unwrap();
    ours.write(ids[1], vec![1; 30_000].into()).unwrap();
    ours.finish(ids[2]);
    let estimate = ours.pending(RECORD);
    let size = record(&mut ours, RECORD).len();
    assert!((size..size + 64).contains(&estimate), "{estimate} for {size}");
    assert_eq!(record(&mut ours, RECORD).len(), 0);
    assert_eq!(ours.pending(RECORD), 0);
}

#[test]
fn one_busy_stream_fills_a_record_with_one_frame() {
    let (mut ours, _) = pair();
    let id = ours.open(&request()).unwrap();
    record(&mut ours, RECORD);
    ours.write(id, vec![1; 2 * RECORD].into()).unwrap();
    let mut body = record(&mut ours, RECORD);
    assert_eq!(body.len(), RECORD);
    let Ok(Some((_, frame::Frame::Data(data)))) = frame::next(&mut body) else { panic!("no data") };
    assert_eq!((data.len(), body.len()), (RECORD - frame::HEADER, 0));
}

#[test]
fn a_sender_without_credit_waits_and_is_not_asked_in_vain() {
    let (mut ours, mut theirs) = pair();
    let id = ours.open(&request()).unwrap();
    // The window is a little more than what a stream holds unsent.
    for _ in 0..3 {
        let count = ours.writable(id);
        ours.write(id, vec![1; count].into()).unwrap();
        carry(&mut ours, &mut theirs);
    }
    assert_eq!(ours.holding.unsent(), SEND_BUFFER);
    assert_eq!(ours.pending(RECORD), 0, "no credit, nothing to send");
    assert!(!ours.is_flushed());
    assert_eq!(ours.writable(id), 0);
    events(&mut ours);
    assert_eq!(read(&mut theirs, start(), id), INITIAL_WINDOW as usize);
    carry(&mut theirs, &mut ours);
    carry(&mut ours, &mut theirs);
    assert_eq!(events(&mut ours), [MuxEvent::Writable(id)]);
    assert_eq!(read(&mut theirs, start(), id), SEND_BUFFER);
    assert!(ours.is_flushed());
}

#[test]
fn fin_waits_for_the_bytes_before_it_and_they_for_credit() {
    let (mut ours, mut theirs) = pair();
    let id = ours.open(&request()).unwrap();
    for _ in 0..2 {
        let count = ours.writable(id);
        ours.write(id, vec![1; count].into()).unwrap();
        carry(&mut ours, &mut theirs);
    }
    ours.finish(id);
    assert_eq!(ours.write(id, Bytes::from_static(b"x")), Err(MuxError::Finished));
    carry(&mut ours, &mut theirs);
    assert!(!events(&mut theirs).contains(&MuxEvent::RemoteFinished(id)));
    for _ in 0..2 {
        read(&mut theirs, start(), id);
        carry(&mut theirs, &mut ours);
        carry(&mut ours, &mut theirs);
    }
    assert_eq!(events(&mut theirs).last(), Some(&MuxEvent::RemoteFinished(id)));
    theirs.finish(id);
    carry(&mut theirs, &mut ours);
    assert_eq!((ours.streams(), theirs.streams()), (0, 0));
}

#[test]
fn all_streams_together_hold_no_more_than_the_budget_and_each_its_floor() {
    let mut ours = Mux::new(true);
    let mut held = 0;
    for _ in 0..MAX_STREAMS {
        let id = ours.open(&request()).unwrap();
        let count = ours.writable(id);
        assert!(count >= SEND_FLOOR);
        ours.write(id, vec![1; count].into()).unwrap();
        held += count;
        assert_eq!(ours.writable(id), 0);
    }
    assert!((SEND_BUDGET..SEND_BUDGET + MAX_STREAMS * SEND_FLOOR).contains(&held), "{held}");
    assert_eq!(ours.open(&request()), Err(MuxError::TooMany));
    let first = StreamId(1);
    ours.reset(first, ResetReason::Reset);
    assert_eq!(ours.holding.unsent(), held - SEND_BUFFER);
    assert_eq!(ours.open(&request()), Err(MuxError::TooMany), "its RESET has not left");
    while !ours.resets.is_empty() {
        record(&mut ours, RECORD);
    }
    assert!(ours.open(&request()).is_ok());
}

#[test]
fn room_that_was_asked_for_is_there_whatever_others_took_since() {
    let mut ours = Mux::new(true);
    let id = ours.open(&request()).unwrap();
    let room = ours.writable(id);
    for _ in 0..2 * SEND_BUDGET / SEND_BUFFER {
        let other = ours.open(&request()).unwrap();
        let count = ours.writable(other);
        ours.write(other, vec![1; count].into()).unwrap();
    }
    assert!(ours.writable(id) < room);
    assert_eq!(ours.write(id, vec![1; room].into()), Ok(()));
    assert_eq!(ours.write(id, vec![1; SEND_BUFFER].into()), Err(MuxError::Full));
}

#[test]
fn many_busy_streams_share_what_may_be_held_and_every_one_is_woken() {
    let mut ours = Mux::new(true);
    let ids: Vec<_> = (0..2 * SEND_BUDGET / SEND_BUFFER).map(|_| ours.open(&request()).unwrap()).collect();
    let mut sent = vec![0; ids.len()];
    let mut ready = ids.clone();
    for _ in 0..20_000 {
        for id in ready.drain(..) {
            loop {
                let count = ours.writable(id).min(whole::ROOM);
                if count == 0 {
                    break;
                }
                ours.write(id, vec![1; count].into()).unwrap();
                sent[(id.0 / 2) as usize] += count;
            }
            // The peer reads everything.
            ours.handle_body(start(), body(|out| frame::put_credit(out, id, u64::MAX))).unwrap();
        }
        assert!(!record(&mut ours, RECORD).is_empty(), "nobody was woken");
        ready.extend(events(&mut ours).into_iter().filter_map(|event| match event {
            MuxEvent::Writable(id) => Some(id),
            _ => None,
        }));
    }
    let (least, most) = (sent.iter().min().unwrap(), sent.iter().max().unwrap());
    assert!(most - least <= 2 * SEND_BUFFER, "{least} to {most}");
}

#[test]
fn streams_beside_many_others_begin_narrow_and_carry_as_much() {
    let (mut ours, mut theirs) = pair();
    let ids: Vec<_> = (0..MAX_STREAMS).map(|_| ours.open(&request()).unwrap()).collect();
    carry(&mut ours, &mut theirs);
    assert_eq!((theirs.streams(), theirs.resets.len()), (MAX_STREAMS, 0));
    assert_eq!((ours.local, theirs.remote), (ours.local, ours.local));
    assert_eq!(ours.local, Slots { all: MAX_STREAMS, wide: MAX_WIDE });
    // A narrow one, and as much through it as through a wide one.
    let id = ids[MAX_WIDE];
    let mut left = 2 * INITIAL_WINDOW as usize;
    while left > 0 {
        let count = ours.writable(id).min(left);
        ours.write(id, vec![1; count].into()).unwrap();
        carry(&mut ours, &mut theirs);
        let came = read(&mut theirs, start(), id);
        assert!(came > 0);
        left -= count;
        carry(&mut theirs, &mut ours);
    }
    // All end at once, and as many may follow, the first of them wide.
    for &id in &ids {
        ours.finish(id);
        theirs.finish(id);
    }
    carry(&mut ours, &mut theirs);
    carry(&mut theirs, &mut ours);
    while read(&mut theirs, start(), id) > 0 {}
    carry(&mut ours, &mut theirs);
    while read(&mut theirs, start(), id) > 0 {}
    carry(&mut theirs, &mut ours);
    assert_eq!((ours.streams(), theirs.streams()), (0, 0));
    assert_eq!((ours.local, theirs.remote), (Slots::default(), Slots::default()));
    assert_eq!(ours.growth.left(), theirs.growth.left());
    let id = ours.open(&request()).unwrap();
    assert_eq!(ours.streams[&id].window.first(), FirstWindow::Wide);
}

#[test]
fn a_reset_behind_fin_still_ends_the_other_half() {
    let (mut ours, mut theirs) = pair();
    let id = ours.open(&request()).unwrap();
    ours.write(id, Bytes::from_static(b"bye")).unwrap();
    ours.finish(id);
    carry(&mut ours, &mut theirs);
    ours.reset(id, ResetReason::Reset);
    carry(&mut ours, &mut theirs);
    events(&mut theirs);
    assert_eq!(theirs.write(id, Bytes::from_static(b"x")), Err(MuxError::Reset(ResetReason::Reset)));
    assert_eq!(read(&mut theirs, start(), id), 3);
    assert_eq!(events(&mut theirs), [MuxEvent::Reset { id, reason: ResetReason::Reset }]);
    assert_eq!((theirs.streams(), theirs.remote.all, ours.local.all), (0, 0, 0));
}

#[test]
fn giving_up_unread_bytes_of_a_stream_that_both_have_finished_says_nothing_to_the_peer() {
    let (mut ours, mut theirs) = pair();
    let id = ours.open(&request()).unwrap();
    ours.write(id, Bytes::from_static(b"bye")).unwrap();
    ours.finish(id);
    carry(&mut ours, &mut theirs);
    theirs.finish(id);
    carry(&mut theirs, &mut ours);
    assert_eq!(ours.streams(), 0);
    assert_eq!(theirs.streams(), 1);
    theirs.reset(id, ResetReason::Reset);
    assert_eq!((theirs.streams(), theirs.pending(RECORD), theirs.remote.all), (0, 0, 0));
}

#[test]
fn a_program_is_told_once_that_it_can_read() {
    let (mut ours, mut theirs) = pair();
    let id = ours.open(&request()).unwrap();
    for _ in 0..3 {
        ours.write(id, Bytes::from_static(b"x")).unwrap();
        carry(&mut ours, &mut theirs);
    }
    let told = |events: Vec<MuxEvent>| events.iter().filter(|e| **e == MuxEvent::Readable(id)).count();
    assert_eq!(told(events(&mut theirs)), 1);
    assert_eq!(read(&mut theirs, start(), id), 3);
    ours.write(id, Bytes::from_static(b"x")).unwrap();
    carry(&mut ours, &mut theirs);
    assert_eq!(told(events(&mut theirs)), 1);
}

#[test]
fn the_end_resets_every_stream_once() {
    let (mut ours, mut theirs) = pair();
    let ids: Vec<_> = (0..3).map(|_| ours.open(&request()).unwrap()).collect();
    carry(&mut ours, &mut theirs);
    events(&mut theirs);
    theirs.end();
    let reset = |id| MuxEvent::Reset { id, reason: ResetReason::SessionEnded };
    assert_eq!(events(&mut theirs), ids.iter().map(|&id| reset(id)).collect::<Vec<_>>());
    assert_eq!(theirs.write(ids[0], Bytes::from_static(b"x")), Err(MuxError::Ended));
    assert_eq!(theirs.open(&request()), Err(MuxError::Ended));
    assert_eq!((theirs.pending(RECORD), theirs.streams(), theirs.holding.unsent()), (0, 0, 0));
    theirs.end();
    assert_eq!(events(&mut theirs), []);
}

#[test]
fn a_label_that_is_too_long_is_refused_here() {
    let long = OpenRequest { service: Some("x".repeat(MAX_LABEL + 1)) };
    assert_eq!(Mux::new(true).open(&long), Err(MuxError::LabelTooLong));
}

#[test]
fn a_stream_that_is_gone_makes_nobody_urgent() {
    let (mut mux, _) = pair();
    let (typing, bulk) = (mux.open(&request()).unwrap(), mux.open(&request()).unwrap());
    record(&mut mux, RECORD);
    for bulk_is_gone in [false, true] {
        mux.write(typing, Bytes::from_static(b"a")).unwrap();
        mux.write(bulk, vec![7; 3 * RECORD].into()).unwrap();
        if bulk_is_gone {
            mux.reset(bulk, ResetReason::Reset);
        }
        record(&mut mux, RECORD);
        mux.write(typing, Bytes::from_static(b"b")).unwrap();
        record(&mut mux, RECORD);
        assert_eq!(mux.take_urgent(), !bulk_is_gone, "somebody types beside a transfer, or alone");
        while mux.pending(RECORD) > 0 {
            record(&mut mux, RECORD);
        }
        mux.take_urgent();
    }
}
