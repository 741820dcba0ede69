//! One thing at a time.

use super::*;

/// `count` bytes that differ from place to place.
pub(super) fn pattern(count: usize) -> Vec<u8> {
    (0..count).map(|at| (at ^ (at >> 8) ^ (at >> 16)) as u8).collect()
}

/// Writes all of `bytes`, carrying and reading as it goes; gives what was read.
fn transfer(pair: &mut Pair, from: usize, id: StreamId, bytes: &[u8]) -> Vec<u8> {
    let (mut written, mut read) = (0, Vec::new());
    while read.len() < bytes.len() {
        let count = pair.sessions[from].writable(id).min(bytes.len() - written).min(64 * 1024);
        if count > 0 {
            pair.write(from, id, &bytes[written..written + count]);
            written += count;
        }
        let moved = pair.exchange();
        let more = pair.read(1 - from, id);
        assert!(count > 0 || moved || !more.is_empty(), "stuck after {written} written, {} read", read.len());
        read.extend_from_slice(&more);
        pair.now += MS;
    }
    read
}

#[test]
fn the_first_flight_carries_open_and_data_without_waiting_for_anything() {
    let mut pair = Pair::new(SessionConfig::default());
    let id = pair.open(INITIATOR);
    pair.write(INITIATOR, id, b"SSH-2.0-");
    pair.attach();
    pair.transmit(INITIATOR, usize::MAX);
    pair.deliver(INITIATOR, usize::MAX).unwrap();
    assert!(matches!(pair.event(RESPONDER), Some(SessionEvent::Opened { .. })));
    assert_eq!(pair.event(RESPONDER), Some(SessionEvent::Readable(id)));
    assert_eq!(pair.read(RESPONDER, id), b"SSH-2.0-");
    pair.write(RESPONDER, id, b"hello");
    pair.transmit(RESPONDER, usize::MAX);
    pair.deliver(RESPONDER, usize::MAX).unwrap();
    assert_eq!(pair.read(INITIATOR, id), b"hello");
}

#[test]
fn a_megabyte_goes_each_way_and_both_ends_close() {
    let mut pair = Pair::linked(SessionConfig::default());
    let id = pair.opened();
    let bytes = pattern(1 << 20);
    assert_eq!(transfer(&mut pair, INITIATOR, id, &bytes), bytes);
    pair.sessions[INITIATOR].finish(id);
    pair.settle();
    assert!(pair.events(RESPONDER).contains(&SessionEvent::RemoteFinished(id)));
    assert_eq!(transfer(&mut pair, RESPONDER, id, &bytes), bytes, "the other half is still open");
    pair.sessions[RESPONDER].finish(id);
    pair.settle();
    assert!(pair.events(RESPONDER).contains(&SessionEvent::Closed(id)));
    let events = pair.events(INITIATOR);
    assert_eq!(events[events.len() - 2..], [SessionEvent::RemoteFinished(id), SessionEvent::Closed(id)]);
    assert_eq!((pair.stats(INITIATOR).streams, pair.stats(RESPONDER).streams), (0, 0));
    pair.pass(2 * ACK_DELAY);
    assert!(pair.sessions.iter().all(Session::is_flushed));
}

#[test]
fn an_acknowledgement_rides_with_data_once_in_a_while() {
    const KEYSTROKE: usize = SESSION_HEADER + crate::mux::frame::HEADER + 1 + TAG;
    for (apart, acknowledgements) in [(1, 7..=9), (50, 100..=100)] {
        let mut pair = Pair::linked(SessionConfig::default());
        let id = pair.opened();
        pair.pass(2 * ACK_DELAY);
        let mut seen = 0;
        for _ in 0..100 {
            pair.write(INITIATOR, id, b"k");
            pair.settle();
            pair.read(RESPONDER, id);
            pair.write(RESPONDER, id, b"e");
            pair.transmit(RESPONDER, usize::MAX);
            seen += usize::from(pair.pipes[RESPONDER].len() > KEYSTROKE);
            pair.pass(apart * Duration::from_millis(1));
            pair.read(INITIATOR, id);
        }
        assert!(acknowledgements.contains(&seen), "{seen} beside 100 keystrokes, {apart} ms apart");
    }
}

#[test]
fn a_flood_of_keystrokes_is_acknowledged_before_the_window_is_full() {
    let mut pair = Pair::linked(SessionConfig::default());
    let id = pair.opened();
    for _ in 0..10_000 {
        pair.write(INITIATOR, id, b"k");
        pair.settle();
        assert_eq!(pair.read(RESPONDER, id), b"k");
    }
}

#[test]
fn a_record_cut_at_any_byte_arrives_once_on_the_next_link() {
    let mut pair = Pair::linked(SessionConfig::default());
    let id = pair.opened();
    pair.pass(2 * ACK_DELAY);
    let mut cut = 0;
    loop {
        pair.write(INITIATOR, id, b"abc");
        pair.transmit(INITIATOR, usize::MAX);
        let whole = pair.pipes[INITIATOR].len();
        pair.deliver(INITIATOR, cut).unwrap();
        pair.cut();
        pair.attach();
        pair.settle();
        assert_eq!(pair.read(RESPONDER, id), b"abc", "cut at byte {cut}");
        pair.pass(2 * ACK_DELAY);
        if cut >= whole {
            break;
        }
        cut += 1;
    }
    assert!(cut > 40, "{cut}");
    assert_eq!(pair.stats(RESPONDER).duplicates, 1, "only the last cut came behind the whole record");
}

#[test]
fn nothing_is_sent_again_that_the_peer_has() {
    let config = SessionConfig { eager_replay: 0, ..SessionConfig::default() };
    let mut pair = Pair::linked(config);
    let id = pair.opened();
    pair.pass(2 * ACK_DELAY);
    pair.write(INITIATOR, id, &pattern(100_000));
    pair.transmit(INITIATOR, usize::MAX);
    // Some records get through; their acknowledgement does not come back.
    pair.deliver(INITIATOR, 70_000).unwrap();
    pair.attach();
    pair.settle();
    assert_eq!(pair.read(RESPONDER, id), pattern(100_000));
    let replayed = pair.stats(INITIATOR).bytes_replayed;
    assert!((30_000..45_000).contains(&replayed), "{replayed}");
    assert_eq!(pair.stats(RESPONDER).duplicates, 0);
}

#[test]
fn a_long_queue_waits_for_the_peers_resume_and_a_short_one_does_not() {
    let mut pair = Pair::linked(SessionConfig { eager_replay: 10_000, ..SessionConfig::default() });
    let id = pair.opened();
    pair.pass(2 * ACK_DELAY);
    for (size, eager) in [(9_000, true), (11_000, false)] {
        pair.write(INITIATOR, id, &pattern(size));
        pair.transmit(INITIATOR, usize::MAX);
        pair.attach();
        pair.transmit(INITIATOR, usize::MAX);
        assert_eq!(pair.pipes[INITIATOR].len() > size, eager, "{size} bytes queued");
        pair.settle();
        assert_eq!(pair.read(RESPONDER, id).len(), size);
        pair.pass(2 * ACK_DELAY);
    }
}

#[test]
fn the_old_links_keys_open_what_was_sealed_with_them_and_are_then_forgotten() {
    let mut pair = Pair::linked(SessionConfig::default());
    let id = pair.opened();
    pair.settle();
    for round in 0..100u8 {
        // Sealed on one link, delivered only on the next but two, with links in between that get no
        // further than one side's RESUME, or not even that.
        pair.write(INITIATOR, id, &[round; 10]);
        pair.write(RESPONDER, id, &[round; 20]);
        pair.transmit(INITIATOR, usize::MAX);
        pair.transmit(RESPONDER, usize::MAX);
        pair.attach_only([true, false]);
        pair.transmit(INITIATOR, usize::MAX);
        pair.attach();
        pair.transmit(INITIATOR, usize::MAX);
        pair.deliver(INITIATOR, usize::MAX).unwrap();
        pair.write(RESPONDER, id, b"more");
        pair.transmit(RESPONDER, usize::MAX);
        pair.attach();
        pair.settle();
        assert_eq!(pair.read(RESPONDER, id), [round; 10]);
        assert_eq!(pair.read(INITIATOR, id), [&[round; 20][..], b"more"].concat());
    }
}

#[test]
fn links_that_die_in_a_row_stop_nothing() {
    let mut pair = Pair::linked(SessionConfig::default());
    let id = pair.opened();
    pair.settle();
    for number in 0..100u8 {
        // The responder hears the RESUME and seals under the new epoch; its answer is lost.
        pair.attach();
        pair.transmit(INITIATOR, usize::MAX);
        pair.deliver(INITIATOR, usize::MAX).unwrap();
        pair.write(RESPONDER, id, &[number]);
        pair.transmit(RESPONDER, usize::MAX);
    }
    pair.attach();
    pair.settle();
    assert_eq!(pair.read(INITIATOR, id), (0..100).collect::<Vec<u8>>());
    pair.write(INITIATOR, id, b"x");
    pair.attach();
    pair.settle();
    assert_eq!(pair.read(RESPONDER, id), b"x");
}

#[test]
fn writing_stops_when_the_queue_is_full_and_goes_on_when_it_is_acknowledged() {
    let config = SessionConfig { queue: 200_000, ..SessionConfig::default() };
    let mut pair = Pair::linked(config);
    pair.capacity = usize::MAX;
    let ids: Vec<_> = (0..4).map(|_| pair.opened()).collect();
    let mut written = 0;
    loop {
        let mut any = false;
        for &id in &ids {
            let count = pair.sessions[INITIATOR].writable(id);
            if count > 0 {
                pair.write(INITIATOR, id, &pattern(count));
                written += count;
                any = true;
            }
        }
        pair.transmit(INITIATOR, usize::MAX);
        if !any {
            break;
        }
    }
    let unacknowledged = pair.stats(INITIATOR).unacknowledged;
    assert!((200_000..=270_000).contains(&unacknowledged), "{unacknowledged}");
    assert!(written <= 270_000 + 4 * crate::mux::holding::SEND_BUFFER, "{written}");
    // Pings, acknowledgements and answers go on.
    pair.now += MS;
    pair.write(RESPONDER, ids[0], b"still there?");
    pair.settle();
    assert_eq!(pair.read(INITIATOR, ids[0]), b"still there?");
    for _ in 0..100 {
        for &id in &ids {
            pair.read(RESPONDER, id);
        }
        pair.pass(ACK_DELAY);
    }
    let woken = pair.events(INITIATOR);
    assert!(ids.iter().all(|&id| woken.contains(&SessionEvent::Writable(id))), "{woken:?}");
}

#[test]
fn a_slow_reader_stalls_its_own_stream_only() {
    let mut pair = Pair::linked(SessionConfig::default());
    let (slow, quick) = (pair.opened(), pair.opened());
    for _ in 0..20 {
        let count = pair.sessions[INITIATOR].writable(slow);
        pair.write(INITIATOR, slow, &pattern(count));
        pair.pass(ACK_DELAY);
    }
    assert_eq!(pair.sessions[INITIATOR].writable(slow), 0);
    let bytes = pattern(3 << 20);
    assert_eq!(transfer(&mut pair, INITIATOR, quick, &bytes), bytes);
}

#[test]
fn a_keystroke_passes_a_bulk_transfer() {
    let mut pair = Pair::linked(SessionConfig::default());
    let (bulk, keys) = (pair.opened(), pair.opened());
    let count = pair.sessions[INITIATOR].writable(bulk);
    pair.write(INITIATOR, bulk, &pattern(count));
    pair.transmit(INITIATOR, 1000);
    assert!(pair.pipes[INITIATOR].len() > 14_000);
    pair.write(INITIATOR, keys, b"x");
    pair.deliver(INITIATOR, usize::MAX).unwrap();
    pair.transmit(INITIATOR, 1);
    pair.deliver(INITIATOR, usize::MAX).unwrap();
    assert_eq!(pair.read(RESPONDER, keys), b"x", "in the very next record");
}

#[test]
fn a_link_that_falls_silent_is_dead_within_two_seconds_and_the_session_is_not() {
    let mut pair = Pair::linked(SessionConfig::default());
    let id = pair.opened();
    pair.pass(10_000 * MS);
    let cut = pair.now;
    pair.write(INITIATOR, id, b"lost");
    let death = loop {
        pair.transmit(INITIATOR, usize::MAX);
        pair.now = pair.sessions[INITIATOR].poll_timeout().unwrap();
        if let Err(error) = pair.sessions[INITIATOR].handle_timeout(pair.now) {
            break error;
        }
    };
    assert!(matches!(death, LinkError::Silent(_)), "{death}");
    assert!(pair.now - cut <= 2000 * MS, "after {:?}", pair.now - cut);
    assert_eq!(pair.sessions[INITIATOR].poll_timeout(), None);
    pair.attach();
    pair.settle();
    assert_eq!(pair.read(RESPONDER, id), b"lost");
}

#[test]
fn a_side_that_gives_a_link_up_tells_the_other() {
    let mut pair = Pair::linked(SessionConfig::default());
    pair.settle();
    let mut garbage = BytesMut::from(&[1u8, 0, 0, 16][..]);
    garbage.resize(32, 9);
    garbage[8..16].copy_from_slice(&0u64.to_be_bytes());
    assert!(pair.sessions[INITIATOR].handle_input(pair.now, &mut garbage).is_err());
    pair.transmit(INITIATOR, usize::MAX);
    assert_eq!(pair.deliver(INITIATOR, usize::MAX), Err(LinkError::DeclaredDead));
    assert_eq!(pair.sessions[INITIATOR].poll_transmit(pair.now), None);
    pair.attach();
    pair.opened();
}

#[test]
fn a_flipped_bit_kills_the_link_and_loses_nothing() {
    let mut pair = Pair::linked(SessionConfig::default());
    let id = pair.opened();
    pair.pass(2 * ACK_DELAY);
    pair.write(INITIATOR, id, b"abc");
    pair.transmit(INITIATOR, usize::MAX);
    let size = pair.pipes[INITIATOR].len();
    for byte in 0..size {
        pair.attach();
        pair.settle();
        assert_eq!(pair.read(RESPONDER, id), b"abc");
        pair.pass(2 * ACK_DELAY);
        pair.write(INITIATOR, id, b"abc");
        pair.transmit(INITIATOR, usize::MAX);
        pair.pipes[INITIATOR][byte] ^= 0x10;
        // A flipped length may only make the receiver wait for more.
        let result = pair.deliver(INITIATOR, usize::MAX);
        assert!(result.is_err() || (1..4).contains(&byte), "byte {byte}");
    }
}

#[test]
fn a_gap_kills_the_link() {
    let mut pair = Pair::linked(SessionConfig::default());
    let id = pair.opened();
    pair.pass(2 * ACK_DELAY);
    pair.write(INITIATOR, id, b"one");
    pair.transmit(INITIATOR, usize::MAX);
    pair.pipes[INITIATOR].clear();
    pair.write(INITIATOR, id, b"two");
    pair.transmit(INITIATOR, usize::MAX);
    assert_eq!(pair.deliver(INITIATOR, usize::MAX), Err(LinkError::Gap { found: 2, expected: 1 }));
    pair.attach();
    pair.settle();
    assert_eq!(pair.read(RESPONDER, id), b"onetwo");
}

#[test]
fn an_older_link_is_refused() {
    let mut pair = Pair::linked(SessionConfig::default());
    pair.attach();
    assert_eq!(pair.epoch, 2);
    let stale = LinkError::Stale { epoch: 2, current: 2 };
    assert_eq!(pair.sessions[INITIATOR].attach(pair.now, link(2).0), Err(stale.clone()));
    assert_eq!(pair.sessions[RESPONDER].attach(pair.now, link(2).1), Err(stale));
    pair.opened();
}

#[test]
fn a_peer_that_lost_its_memory_cannot_resume() {
    let mut pair = Pair::linked(SessionConfig::default());
    let id = pair.opened();
    pair.write(INITIATOR, id, b"abc");
    pair.pass(2 * ACK_DELAY);
    // The responder begins anew with the same keys: it expects record 0, which is acknowledged.
    pair.sessions[RESPONDER] =
        Session::new(pair.now, false, Keys::new(0).epoch().1, SessionConfig::default());
    pair.attach();
    pair.transmit(RESPONDER, usize::MAX);
    let refused = pair.deliver(RESPONDER, usize::MAX);
    assert_eq!(refused, Err(LinkError::Resume { next: 0, first: 2, end: 2 }));
}

#[test]
fn the_round_trip_is_measured() {
    let mut pair = Pair::linked(SessionConfig::default());
    pair.transmit(INITIATOR, usize::MAX);
    pair.now += 10 * MS;
    pair.deliver(INITIATOR, usize::MAX).unwrap();
    pair.transmit(RESPONDER, usize::MAX);
    pair.now += 10 * MS;
    pair.deliver(RESPONDER, usize::MAX).unwrap();
    assert_eq!(pair.stats(INITIATOR).rtt, Some(20 * MS));
}

#[test]
fn an_acknowledgement_frees_no_record_that_is_still_on_its_way() {
    let mut pair = Pair::linked(SessionConfig::default());
    let id = pair.opened();
    for round in 0..10u8 {
        pair.write(INITIATOR, id, &[round, 1]);
        pair.settle();
        // The answer brings the acknowledgement; more leaves before it comes, and is lost.
        pair.write(RESPONDER, id, b"answer");
        pair.transmit(RESPONDER, usize::MAX);
        for part in 2..5 {
            pair.write(INITIATOR, id, &[round, part]);
            pair.transmit(INITIATOR, usize::MAX);
        }
        pair.deliver(RESPONDER, usize::MAX).unwrap();
        pair.attach();
        pair.settle();
        let expected: Vec<u8> = (1..5).flat_map(|part| [round, part]).collect();
        assert_eq!(pair.read(RESPONDER, id), expected);
        assert_eq!(pair.read(INITIATOR, id), b"answer");
    }
}
