//! An established connection: bytes in order, each once, until both sides have closed.

use std::time::{Duration, Instant};

use super::{Conn, End, Event, InFlight, Segment, SockId, Stack, State};
use crate::nat_model::{Flags, Packet};

/// Segments in flight.
pub(super) const WINDOW: usize = 64;

/// ACKs for the same number that say that the segment behind it is lost.
const DUPLICATES: u32 = 3;

/// Least time before a retransmission, beyond the round trip, as in Linux.
const RTO_MIN: Duration = Duration::from_millis(200);

/// Longest time before one.
const RTO_MAX: Duration = Duration::from_secs(120);

/// Retransmissions before a connection is given up.
const RETRIES: u32 = 12;

/// How long a closed connection waits for the other side's FIN.
const FIN_WAIT: Duration = Duration::from_secs(60);

/// A reset this far from the expected number still counts.
const RESET_WINDOW: u64 = 1 << 20;

impl Stack {
    pub(super) fn handle_established(&mut self, now: Instant, id: SockId, flags: Flags, segment: Segment) {
        let Some(conn) = self.conns.get_mut(&id) else { return };
        if flags.rst {
            if segment.seq.abs_diff(conn.expected) <= RESET_WINDOW {
                self.end(id, End::Reset);
            }
            return;
        }
        if flags.syn {
            // Late or repeated: an ACK tells the other side where we are (RFC 5961 §4).
            self.acknowledge(id);
            return;
        }
        if flags.ack {
            self.acknowledged(now, id, segment.ack);
        }
        let end = segment.end();
        let Some(conn) = self.conns.get_mut(&id) else { return };
        if end == segment.seq {
            return;
        }
        if conn.closed && !segment.payload.is_empty() {
            // Nobody will read it.
            self.abort(id);
            return;
        }
        if segment.seq >= conn.expected {
            conn.early.insert(segment.seq, (segment.payload, flags.fin));
        }
        while let Some((bytes, fin)) = conn.early.remove(&conn.expected) {
            conn.expected += bytes.len() as u64 + u64::from(fin);
            if !bytes.is_empty() {
                self.events.push_back(Event::Received(id, bytes));
            }
            if fin {
                conn.peer_closed = true;
                if !conn.closed {
                    self.events.push_back(Event::Ended(id, End::Fin));
                }
            }
        }
        self.acknowledge(id);
        self.finish(now, id);
    }

    pub(super) fn acknowledged(&mut self, now: Instant, id: SockId, ack: u64) {
        let Some(conn) = self.conns.get_mut(&id) else { return };
        let mut progress = false;
        while let Some(first) = conn.in_flight.front() {
            let end = first.seq + first.bytes.len() as u64 + u64::from(first.fin);
            if end > ack {
                break;
            }
            // What waited behind a hole says nothing about the path.
            if !first.repeated && conn.tries == 0 && conn.duplicates == 0 {
                let sample = now.duration_since(first.sent);
                conn.variation = (conn.variation * 3 + conn.rtt.abs_diff(sample)) / 4;
                conn.rtt = (conn.rtt * 7 + sample) / 8;
            }
            conn.in_flight.pop_front();
            progress = true;
        }
        if progress {
            (conn.tries, conn.duplicates) = (0, 0);
            conn.timer = (!conn.in_flight.is_empty()).then(|| now + conn.rto());
            self.pump(now, id);
            self.finish(now, id);
        } else if let Some(first) = conn.in_flight.front_mut().filter(|first| first.seq == ack) {
            conn.duplicates += 1;
            if conn.duplicates == DUPLICATES {
                first.repeated = true;
                let (bytes, fin) = (first.bytes.clone(), first.fin);
                self.out.push_back(data(conn, ack, bytes, fin));
            }
        }
    }

    /// Sends what the window lets out.
    pub(super) fn pump(&mut self, now: Instant, id: SockId) {
        let Some(conn) = self.conns.get_mut(&id).filter(|c| c.state == State::Established) else { return };
        while conn.in_flight.len() < WINDOW {
            let Some((bytes, fin)) = conn.queued.pop_front() else { break };
            let segment = data(conn, conn.next_seq, bytes.clone(), fin);
            conn.in_flight.push_back(InFlight { seq: conn.next_seq, bytes, fin, sent: now, repeated: false });
            conn.next_seq = segment.end();
            conn.timer.get_or_insert(now + conn.rto());
            self.out.push_back(segment);
        }
    }

    pub(super) fn expire(&mut self, now: Instant, id: SockId) {
        let Some(conn) = self.conns.get_mut(&id) else { return };
        conn.tries += 1;
        if conn.state != State::Established {
            let tries = conn.tries;
            self.repeat_opening(now, id, tries);
            return;
        }
        let Some(first) = conn.in_flight.front_mut() else {
            // Nothing to repeat: the wait for the other side's FIN is over.
            self.remove(id);
            return;
        };
        if conn.tries > RETRIES {
            self.end(id, End::TimedOut);
            return;
        }
        first.repeated = true;
        let (seq, bytes, fin) = (first.seq, first.bytes.clone(), first.fin);
        conn.timer = Some(now + (conn.rto() * (1 << conn.tries.min(10))).min(RTO_MAX));
        self.out.push_back(data(conn, seq, bytes, fin));
    }

    /// Forgets a connection that both sides have closed, or that is closed and waits too long.
    pub(super) fn finish(&mut self, now: Instant, id: SockId) {
        let Some(conn) = self.conns.get_mut(&id) else { return };
        if !conn.closed || !conn.in_flight.is_empty() || !conn.queued.is_empty() {
            return;
        }
        if conn.peer_closed {
            self.remove(id);
        } else {
            conn.timer.get_or_insert(now + FIN_WAIT);
        }
    }
}

impl Conn {
    /// Time before an unanswered segment is sent again (RFC 6298).
    fn rto(&self) -> Duration {
        self.rtt + (self.variation * 4).max(RTO_MIN)
    }
}

fn data(conn: &Conn, seq: u64, payload: Vec<u8>, fin: bool) -> Segment {
    let flags = if fin { Flags::FIN } else { Flags::ACK };
    Segment { packet: Packet::tcp(conn.local, conn.remote, flags), seq, ack: conn.expected, payload }
}
