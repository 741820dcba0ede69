//! The cores by themselves, in memory and in one thread: what a byte costs before any socket is involved.
//!
//!     cargo bench --bench cores
//!     cargo bench --bench cores -- session        # those whose name has this in it
#![allow(missing_docs, unreachable_pub, reason = "a program of its own, without an interface")]
#![allow(clippy::disallowed_methods, reason = "virtual time has to begin somewhere")]

#[path = "../tests/pair/mod.rs"]
mod pair;

use std::{
    hint::black_box,
    time::{Duration, Instant},
};

use bytes::{Bytes, BytesMut};
use criterion::{BatchSize, BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use punchtunnel::{
    mux::{Mux, StreamId},
    secure::EstablishedLink,
    wire::stream::OpenRequest,
};

use crate::pair::{PIECE, Pair, link};

/// What is moved at once, so that what happens once for many records counts for its share.
const MOVED: usize = 4 << 20;

fn piece(size: usize) -> Bytes {
    Bytes::from(vec![b'x'; size])
}

/// AES-256-GCM over one record, each way.
fn sealing(criterion: &mut Criterion) {
    let (ours, theirs) = link(1);
    let mut group = criterion.benchmark_group("seal");
    for size in [64, 1 << 10, 16 << 10, 64 << 10] {
        group.throughput(Throughput::Bytes(size as u64));
        let mut body = vec![b'x'; size];
        let mut counter = 0;
        group.bench_function(BenchmarkId::new("seal", size), |bencher| {
            bencher.iter(|| {
                counter += 1;
                ours.link_keys.seal.seal(counter, b"header", black_box(&mut body))
            });
        });
        let mut sealed = vec![b'x'; size];
        let tag = ours.link_keys.seal.seal(0, b"header", &mut sealed);
        sealed.extend_from_slice(&tag);
        group.bench_function(BenchmarkId::new("open", size), |bencher| {
            bencher.iter_batched_ref(
                || sealed.clone(),
                |sealed| theirs.link_keys.open.open(0, b"header", sealed).map(|body| body.len()),
                BatchSize::LargeInput,
            );
        });
    }
    group.finish();
}

/// Frames of many streams into bodies of records, and out of them again, without a seal.
fn framing(criterion: &mut Criterion) {
    let now = Instant::now();
    let mut group = criterion.benchmark_group("mux");
    group.throughput(Throughput::Bytes(MOVED as u64));
    for (streams, size) in [(1, PIECE), (16, PIECE), (256, PIECE), (1, 100)] {
        let name = format!("{streams} streams, pieces of {size}");
        let (mut near, mut far) = (Mux::new(true), Mux::new(false));
        let request = OpenRequest { service: None };
        let ids: Vec<StreamId> = (0..streams).map(|_| near.open(&request).expect("a stream")).collect();
        let piece = piece(size);
        group.bench_function(name, |bencher| {
            bencher.iter(|| move_frames(now, &mut near, &mut far, &ids, &piece));
        });
    }
    group.finish();
}

/// Moves frames from one mux to another, with the credit that comes back.
fn move_frames(now: Instant, near: &mut Mux, far: &mut Mux, ids: &[StreamId], piece: &Bytes) {
    let (mut written, mut read) = (0, 0);
    while read < MOVED {
        for &id in ids {
            while written < MOVED {
                let count = near.writable(id).min(piece.len());
                if count == 0 {
                    break;
                }
                near.write(id, piece.slice(..count)).expect("there is room");
                written += count;
            }
        }
        exchange(now, near, far);
        for &id in ids {
            while let Some(bytes) = far.read(now, id, None) {
                read += bytes.len();
            }
        }
        exchange(now, far, near);
    }
}

/// One body of a record, if there is anything to say.
fn exchange(now: Instant, from: &mut Mux, to: &mut Mux) {
    let size = from.pending(64 << 10);
    if size > 0 {
        let mut body = BytesMut::with_capacity(size);
        from.fill(&mut body, size);
        to.handle_body(now, body.freeze()).expect("an honest peer");
    }
    while to.poll_event().is_some() {}
    while from.poll_event().is_some() {}
}

/// From one program's bytes to the other's: frames, seals, acknowledgements, credit.
fn session(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("session");
    group.throughput(Throughput::Bytes(MOVED as u64));
    for (streams, size) in [(1, PIECE), (16, PIECE), (256, PIECE), (1, 1024), (1, 100)] {
        let mut pair = Pair::new(streams);
        let piece = piece(size);
        group.bench_function(format!("{streams} streams, pieces of {size}"), |bencher| {
            bencher.iter(|| pair.transfer(0, MOVED, &piece));
        });
    }
    group.finish();
}

/// One byte there and one back: a record each way, and nothing to share its cost with.
fn keystroke(criterion: &mut Criterion) {
    let mut pair = Pair::new(1);
    let (stream, byte) = (pair.streams[0], Bytes::from_static(b"x"));
    criterion.bench_function("keystroke there and back", |bencher| {
        bencher.iter(|| {
            for side in [0, 1] {
                pair.write(side, stream, &byte);
                pair.carry(side);
                assert_eq!(pair.read(1 - side, stream), 1);
            }
        });
    });
}

/// A link dies with this much on its way, and a new one carries it again.
fn replay(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("replay");
    for size in [64 << 10, 4 << 20] {
        group.throughput(Throughput::Bytes(size as u64));
        let piece = piece(PIECE);
        group.bench_function(BenchmarkId::from_parameter(size), |bencher| {
            bencher.iter_batched_ref(
                || loaded(size, &piece, false),
                |(pair, next)| {
                    pair.attach(next.take().expect("one link each"));
                    while pair.carry(0) | pair.carry(1) {}
                    pair.carried
                },
                BatchSize::PerIteration,
            );
        });
    }
    group.finish();
}

/// A pair of which one side has sent so much, and the other has said nothing since: it has all of it, or none. And the
/// link to go on over.
fn loaded(size: usize, piece: &Bytes, arrived: bool) -> (Pair, Option<[EstablishedLink; 2]>) {
    // A stream takes as much as its window is at the start, with room to spare.
    let mut pair = Pair::new(size.div_ceil(128 << 10).max(1));
    // On a near link there is never so much on its way: the first ping of this one shows that it is far.
    pair.relink();
    pair.transmit(0);
    pair.transmit(1);
    pair.now += Duration::from_millis(20);
    pair.settle();
    let mut written = 0;
    for stream in 0..pair.streams.len() {
        let stream = pair.streams[stream];
        while written < size {
            match pair.write(0, stream, piece) {
                0 => break,
                count => written += count,
            }
        }
    }
    assert!(written >= size);
    let mut sent = BytesMut::new();
    while let Some(bytes) = pair.sessions[0].poll_transmit(pair.now) {
        sent.extend_from_slice(&bytes);
    }
    if arrived {
        pair.sessions[1].handle_input(pair.now, &mut sent).expect("an honest peer");
    }
    assert!(pair.sessions[0].stats().unacknowledged >= size);
    let next = pair.next_link();
    (pair, Some(next))
}

/// One acknowledgement for many records: they have all arrived, and the link has died before it was said.
fn acknowledgement(criterion: &mut Criterion) {
    let piece = piece(PIECE);
    criterion.bench_function("one acknowledgement for 4 MiB", |bencher| {
        bencher.iter_batched_ref(
            || loaded(MOVED, &piece, true),
            |(pair, next)| {
                pair.attach(next.take().expect("one link each"));
                while pair.carry(0) | pair.carry(1) {}
                assert_eq!(pair.sessions[0].stats().unacknowledged, 0);
            },
            BatchSize::PerIteration,
        );
    });
}

criterion_group!(cores, sealing, framing, session, keystroke, replay, acknowledgement);
criterion_main!(cores);
