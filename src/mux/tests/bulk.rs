//! Pieces that lie where their record will be, and what goes before them.

use super::*;

/// The body of a record that is one piece.
const FULL: usize = whole::ROOM + frame::HEADER;

/// Writes a piece that needs no copy, and tells where its payload lies.
fn write_whole(mux: &mut Mux, id: StreamId) -> *const u8 {
    let whole = Whole::new(BytesMut::with_capacity(whole::CAPACITY));
    let place = whole.payload().as_ptr();
    mux.write_whole(id, whole).unwrap();
    place
}

/// The body of the next record, as a session makes it.
fn next(mux: &mut Mux) -> Bytes {
    match mux.fill_whole(FULL) {
        Some(record) => record.freeze().split_off(wire::record::SESSION_HEADER),
        None => record(mux, FULL),
    }
}

/// A mux with so many streams, whose OPENs are sent.
fn with_streams(count: usize) -> (Mux, Vec<StreamId>) {
    let (mut mux, _) = pair();
    let ids = (0..count).map(|_| mux.open(&request()).unwrap()).collect();
    record(&mut mux, RECORD);
    (mux, ids)
}

#[test]
fn a_whole_piece_is_the_record_itself_once_nothing_is_more_urgent() {
    let (mut ours, _) = pair();
    let id = ours.open(&request()).unwrap();
    let place = write_whole(&mut ours, id);
    assert!(ours.fill_whole(usize::MAX).is_none(), "OPEN goes first");
    record(&mut ours, frame::HEADER + wire::encode(&request()).len());
    assert!(ours.fill_whole(whole::ROOM).is_none(), "the link takes less at a time");
    let body = next(&mut ours);
    assert_eq!(body[frame::HEADER..].as_ptr(), place, "not copied");
    assert!(ours.is_flushed());
}

#[test]
fn whole_pieces_of_many_streams_stay_whole_and_take_turns() {
    let (mut mux, ids) = with_streams(5);
    let places: Vec<_> = (0..2).flat_map(|_| ids.clone()).map(|id| (id, write_whole(&mut mux, id))).collect();
    for (id, place) in places {
        assert_eq!(mux.pending(FULL), FULL);
        let mut body = next(&mut mux);
        let Ok(Some((of, frame::Frame::Data(payload)))) = frame::next(&mut body) else { panic!("no data") };
        assert_eq!((of, payload.as_ptr(), payload.len(), body.len()), (id, place, whole::ROOM, 0));
    }
    assert!(mux.is_flushed());
}

#[test]
fn what_goes_before_a_whole_piece_is_a_small_record() {
    for behind in [0, 1] {
        let (mut mux, ids) = with_streams(2);
        mux.write(ids[0], Bytes::from_static(b"typed")).unwrap();
        let place = write_whole(&mut mux, ids[behind]);
        let announced = mux.pending(FULL);
        let small = next(&mut mux);
        assert_eq!(small.len(), frame::HEADER + 5);
        assert!(announced < 100, "{announced}");
        assert_eq!(next(&mut mux)[frame::HEADER..].as_ptr(), place, "not copied");
        assert!(mux.is_flushed());
    }
}

#[test]
fn where_the_link_takes_less_at_a_time_a_whole_piece_is_cut() {
    let (mut mux, ids) = with_streams(1);
    write_whole(&mut mux, ids[0]);
    let mut moved = 0;
    while mux.pending(5000) > 0 {
        assert!(mux.fill_whole(5000).is_none());
        let body = record(&mut mux, 5000);
        assert!(body.len() <= 5000);
        moved += body.len() - frame::HEADER;
    }
    assert_eq!(moved, whole::ROOM);
}

#[test]
fn a_whole_piece_waits_for_credit_rather_than_being_cut() {
    let (mut mux, ids) = with_streams(1);
    mux.write(ids[0], Bytes::from_static(b"a")).unwrap();
    record(&mut mux, FULL);
    for _ in 0..3 {
        write_whole(&mut mux, ids[0]);
        assert!(mux.fill_whole(FULL).is_some());
    }
    let place = write_whole(&mut mux, ids[0]);
    assert_eq!((mux.pending(FULL), record(&mut mux, FULL).len()), (0, 0), "a byte of credit is missing");
    assert!(!mux.is_flushed());
    let mut credit = BytesMut::new();
    frame::put_credit(&mut credit, ids[0], flow::INITIAL_WINDOW + 1);
    mux.handle_body(start(), credit.freeze()).unwrap();
    assert_eq!(next(&mut mux)[frame::HEADER..].as_ptr(), place, "not copied");
}

#[test]
fn a_whole_piece_is_cut_where_the_window_is_narrower() {
    let (mut mux, _) = pair();
    let ids: Vec<_> = (0..=MAX_WIDE).map(|_| mux.open(&request()).unwrap()).collect();
    while mux.pending(FULL) > 0 {
        record(&mut mux, FULL);
    }
    write_whole(&mut mux, ids[MAX_WIDE]);
    assert!(mux.fill_whole(FULL).is_none());
    assert_eq!(record(&mut mux, FULL).len(), frame::HEADER + flow::NARROW_WINDOW as usize);
}

#[test]
fn somebody_types_who_sends_a_little_twice_beside_others() {
    let (mut mux, ids) = with_streams(2);
    let urgent = |mux: &mut Mux, little: bool| {
        if little {
            mux.write(ids[0], Bytes::from_static(b"a")).unwrap();
        } else {
            write_whole(mux, ids[0]);
        }
        mux.write(ids[1], vec![7; 2048].into()).unwrap();
        while mux.pending(FULL) > 0 {
            next(mux);
        }
        mux.take_urgent()
    };
    // What is left of bulk data comes alone; who types goes on.
    let told = [false, true, false, true, true, true].map(|little| urgent(&mut mux, little));
    assert_eq!(told, [false, false, false, false, true, true]);
}
