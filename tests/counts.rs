//! What a megabyte costs, and a registered name, in counts that do not vary: the same on a fast machine and on a busy
//! one.
//!
//! The figures are printed (`cargo test --test counts -- --nocapture`). The limits follow from the design, as
//! each of them says, and are below twice what they allow for: whoever doubles a cost fails here.
#![allow(unreachable_pub, missing_docs, reason = "a program of its own, without an interface")]
#![allow(clippy::disallowed_methods, reason = "virtual time has to begin somewhere")]
#![allow(unsafe_code, reason = "an allocator that counts")]

mod hosts;
mod pair;

use std::{
    alloc::{GlobalAlloc, Layout, System},
    cell::Cell,
    time::Instant,
};

use bytes::Bytes;
use punchtunnel::rendezvous::{KEEP_ALIVE, Limits};

use crate::{
    hosts::{Core, held, talk, within},
    pair::{PIECE, Pair},
};

/// A session record carries up to 64 KiB: 15.3 in 10⁶ bytes.
const SESSION_RECORDS: f64 = 18.0;

/// An acknowledgement for every two of them: 7.6.
const ACKNOWLEDGEMENTS: f64 = 9.0;

/// Credit goes out when a part of a window was read, and windows grow to megabytes where a stream is fast: 0.25 for
/// one stream, 0.8 for sixteen, whose windows are smaller and are not read at the same time, as a turn is a record.
const CREDIT_RECORDS: f64 = 1.0;

/// Headers, tag and frame, 40 bytes, for a full record are 0.06 %; pieces that end within a record have a frame each.
const OVERHEAD: f64 = 0.002;

/// For each of 15 records three at most: the buffer it is sealed in, what shares that buffer between the queue and
/// the socket, and what shares the buffer that it is opened in with those who read it.
const ALLOCATIONS: f64 = 50.0;

/// Bytes allocated for each byte moved: the record that is sealed, and the buffer that it is read into and opened in.
/// Both are often there already. A copy more is 1.0 more.
const ALLOCATED: f64 = 2.4;

const MEGABYTE: usize = 1_000_000;

/// Bytes that are moved before anything is counted: windows have grown, and queues have the memory they keep.
const WARM: usize = 16 * MEGABYTE;

const MOVED: usize = 64 * MEGABYTE;

/// The system's allocator, counting for each thread.
struct Counting;

thread_local! {
    static ALLOCATED_SO_FAR: Cell<(u64, u64)> = const { Cell::new((0, 0)) };
}

/// Allocations and bytes of this thread, since its start.
fn allocated() -> (u64, u64) {
    ALLOCATED_SO_FAR.get()
}

fn note(bytes: usize) {
    // A thread that is ending has no use for the count.
    let _ = ALLOCATED_SO_FAR.try_with(|so_far| {
        let (count, sum) = so_far.get();
        so_far.set((count + 1, sum + bytes as u64));
    });
}

// SAFETY: every call is passed on to the system's allocator as it is; counting neither allocates nor unwinds (a cell
// of numbers, initialised by a constant).
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        note(layout.size());
        hosts::took(layout.size());
        // SAFETY: the caller's promise.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        note(layout.size());
        hosts::took(layout.size());
        // SAFETY: the caller's promise.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, memory: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        note(size);
        hosts::gave_back(layout.size());
        hosts::took(size);
        // SAFETY: the caller's promise.
        unsafe { System.realloc(memory, layout, size) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        hosts::gave_back(layout.size());
        // SAFETY: the caller's promise.
        unsafe { System.dealloc(memory, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// What was counted, for each megabyte.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Cost {
    session_records: f64,
    acknowledgements: f64,
    credit_records: f64,
    overhead: f64,
    allocations: f64,
    /// Bytes allocated for each byte moved.
    allocated: f64,
}

fn cost(streams: usize, side: usize, piece: usize) -> Cost {
    let piece = Bytes::from(vec![b'x'; piece]);
    let mut pair = Pair::new(streams);
    pair.transfer(side, WARM, &piece);
    let (carried, before) = (pair.carried, allocated());
    pair.transfer(side, MOVED, &piece);
    let after = allocated();
    let there = (pair.carried[side], carried[side]);
    let back = (pair.carried[1 - side], carried[1 - side]);
    let megabytes = (MOVED / MEGABYTE) as f64;
    let each = |after: u64, before: u64| (after - before) as f64 / megabytes;
    let cost = Cost {
        session_records: each(there.0.session_records, there.1.session_records),
        acknowledgements: each(back.0.link_records, back.1.link_records),
        credit_records: each(back.0.session_records, back.1.session_records),
        overhead: each(there.0.bytes, there.1.bytes) / MEGABYTE as f64 - 1.0,
        allocations: each(after.0, before.0),
        allocated: each(after.1, before.1) / MEGABYTE as f64,
    };
    println!("{streams} streams from side {side}, pieces of {}: {cost:.3?}", piece.len());
    cost
}

impl Cost {
    fn check(self) {
        let limits = [
            ("session records", self.session_records, SESSION_RECORDS),
            ("acknowledgements", self.acknowledgements, ACKNOWLEDGEMENTS),
            ("credit records", self.credit_records, CREDIT_RECORDS),
            ("overhead", self.overhead, OVERHEAD),
            ("allocations", self.allocations, ALLOCATIONS),
            ("bytes allocated for each byte", self.allocated, ALLOCATED),
        ];
        for (what, found, limit) in limits {
            assert!(found <= limit, "{what}: {found:.3} a megabyte, at most {limit} are meant");
        }
    }
}

#[test]
fn one_stream_costs_what_the_design_says_in_either_direction() {
    cost(1, 0, PIECE).check();
    cost(1, 1, PIECE).check();
}

#[test]
fn sixteen_streams_cost_no_more_than_one() {
    cost(16, 0, PIECE).check();
}

#[test]
fn small_writes_fill_large_records_while_the_link_is_busy() {
    // The pieces themselves wait for their record; what they cost before is the program's.
    let cost = cost(1, 0, 1024);
    assert!(cost.session_records <= SESSION_RECORDS, "{cost:?}");
    assert!(cost.acknowledgements <= ACKNOWLEDGEMENTS, "{cost:?}");
    assert!(cost.overhead <= OVERHEAD, "{cost:?}");
}

#[test]
fn the_same_load_costs_the_same_again() {
    assert_eq!(cost(4, 0, PIECE), cost(4, 0, PIECE));
}

/// What a stream holds whose bytes nobody reads: what is unsent and what its window allows, 256 KiB each, and what else it takes.
const UNREAD: isize = 600 << 10;

/// Bytes that two sessions hold after a transfer over one stream, beside so many others that are full and that nobody reads.
fn beside_unread(streams: usize) -> isize {
    let before = held();
    within(|| {
        let piece = Bytes::from(vec![b'x'; PIECE]);
        let mut pair = Pair::new(streams + 1);
        let bulk = pair.streams.remove(0);
        let unread = std::mem::replace(&mut pair.streams, vec![bulk]);
        let mut written = usize::MAX;
        while written > 0 {
            written = unread.iter().map(|&stream| pair.write(0, stream, &piece)).sum();
            pair.settle();
        }
        // They stall nobody, and nothing more is held for them while others go on.
        pair.transfer(0, MOVED, &piece);
        assert!(unread.iter().all(|&stream| pair.write(0, stream, &piece) == 0), "nobody has read");
        let after = held();
        drop(pair);
        after - before
    })
}

#[test]
fn a_stream_that_nobody_reads_stalls_no_other_and_holds_what_its_windows_allow() {
    let [none, one, many] = [0, 1, 33].map(beside_unread);
    println!("held without, with one and with 33 streams that nobody reads: {none} {one} {many}");
    assert!(one - none <= UNREAD && many - one <= 32 * UNREAD, "{none} {one} {many}");
}

/// Bytes of the server for a host that has registered a name and is alive: its association 240 with its place in a
/// table, its name and whose it is 190, the counts of its address and network 35, its node 30, its alarm 5.
const REGISTERED: isize = 500;

/// While it is remembered which handshakes were answered: four minutes.
const JUST_REGISTERED: isize = 535;

/// Bytes of a server with so many names: right after they were registered, and after five minutes of keep-alives.
fn with_names(names: usize) -> [isize; 2] {
    // Tables of rates are bounded by themselves: they are no part of a name.
    let (now, before) = (Instant::now(), held());
    let mut core = Core::new(now, Limits { sources: 16, ..hosts::limits() });
    let (mut clients, to) = hosts::hosts(now, names);
    talk(&mut core, &mut clients, to, now);
    assert_eq!(core.server.stats().names, names);
    let at_first = held() - before;
    for round in 1..=15 {
        let later = now + round * KEEP_ALIVE;
        clients.iter_mut().for_each(|(_, client)| client.handle_timeout(later));
        talk(&mut core, &mut clients, to, later);
        within(|| core.server.handle_timeout(later, 1_700_000_000));
    }
    assert_eq!(core.server.stats().clients, names);
    [at_first, held() - before]
}

#[test]
fn a_registered_name_takes_what_the_design_says() {
    // What is there without any name, and room for what is said at once, are in both.
    let (few, many) = (with_names(1_000), with_names(2_000));
    let [at_first, later] = [0, 1].map(|when| (many[when] - few[when]) / 1_000);
    println!("a registered name: {at_first} bytes at first, then {later}");
    assert!(at_first <= JUST_REGISTERED, "{at_first} bytes, at most {JUST_REGISTERED} are meant");
    assert!(later <= REGISTERED, "{later} bytes, at most {REGISTERED} are meant");
}
