//! From the first SYN to an established connection, or to a failure (RFC 9293 §3.5 and §3.10.7).

use std::{
    collections::{BTreeMap, VecDeque},
    net::SocketAddr,
    time::{Duration, Instant},
};

use super::{Conn, Event, Failure, Segment, SockId, Stack, State};
use crate::nat_model::{Flags, IcmpError};

/// When an unanswered SYN is sent again, and when it is given up at last (`tcp_syn_linear_timeouts`).
const SYN_GAPS: [u64; 9] = [1, 1, 1, 1, 1, 2, 4, 8, 16];

impl Stack {
    pub(super) fn open(
        &mut self,
        now: Instant,
        local: SocketAddr,
        remote: SocketAddr,
        state: State,
        passive: bool,
    ) -> SockId {
        self.last += 1;
        let (id, isn) = (SockId(self.last), self.last << 32);
        let conn = Conn {
            local,
            remote,
            state,
            passive,
            ttl: None,
            isn,
            next_seq: isn + 1,
            expected: 0,
            queued: VecDeque::new(),
            in_flight: VecDeque::new(),
            early: BTreeMap::new(),
            tries: 0,
            duplicates: 0,
            rtt: Duration::from_millis(100),
            variation: Duration::from_millis(50),
            opened: now,
            timer: None,
            armed: None,
            closed: false,
            peer_closed: false,
            deaf: false,
        };
        self.conns.insert(id, conn);
        self.tuples.insert((local, remote), id);
        id
    }

    /// SYN or SYN/ACK, and the time of the next.
    pub(super) fn send_opening(&mut self, now: Instant, id: SockId) {
        let Some(conn) = self.conns.get_mut(&id) else { return };
        let gap = SYN_GAPS.get(conn.tries as usize).copied().unwrap_or(1);
        conn.timer = Some(now + Duration::from_secs(gap));
        let flags = if conn.state == State::SynSent { Flags::SYN } else { Flags::SYN_ACK };
        self.send_segment(id, flags);
    }

    pub(super) fn handle_syn_sent(&mut self, now: Instant, id: SockId, flags: Flags, segment: Segment) {
        let Some(conn) = self.conns.get_mut(&id) else { return };
        let acknowledged = flags.ack && segment.ack == conn.isn + 1;
        if flags.rst {
            if acknowledged {
                self.fail(id, Failure::Refused);
            }
        } else if flags.ack && !acknowledged {
            self.out.push_back(segment.answer(segment.packet.reset()));
        } else if flags.syn {
            conn.expected = segment.seq + 1;
            if flags.ack {
                self.establish(now, id);
                self.acknowledge(id);
            } else {
                // Both SYNs crossed: each side answers with SYN/ACK.
                conn.state = State::SynReceived;
                conn.tries = 0;
                self.send_opening(now, id);
            }
        }
    }

    pub(super) fn handle_syn_received(&mut self, now: Instant, id: SockId, flags: Flags, segment: Segment) {
        let Some(conn) = self.conns.get(&id) else { return };
        let in_order = segment.seq == conn.expected || (flags.syn && segment.seq + 1 == conn.expected);
        if flags.rst {
            if segment.seq == conn.expected || (flags.ack && segment.ack == conn.isn + 1) {
                self.fail(id, Failure::Refused);
            }
        } else if flags.ack && segment.ack == conn.isn + 1 {
            self.establish(now, id);
            self.handle_established(now, id, flags, segment);
        } else if flags.ack {
            self.out.push_back(segment.answer(segment.packet.reset()));
        } else if flags.syn && in_order {
            // Repeated: our SYN/ACK was lost.
            self.send_segment(id, Flags::SYN_ACK);
        } else if flags.syn {
            // Another connection with this tuple: let the other side end this one (RFC 9293 §3.10.7.4).
            self.acknowledge(id);
        }
    }

    pub(super) fn handle_error(&mut self, id: SockId, seq: u64, error: IcmpError) {
        let Some(conn) = self.conns.get(&id) else { return };
        if conn.state == State::Established || seq != conn.isn {
            return;
        }
        let failure = match error {
            IcmpError::PortUnreachable => Failure::Refused,
            IcmpError::Prohibited | IcmpError::TimeExceeded => Failure::Unreachable,
        };
        self.fail(id, failure);
    }

    pub(super) fn establish(&mut self, now: Instant, id: SockId) {
        let Some(conn) = self.conns.get_mut(&id) else { return };
        conn.state = State::Established;
        if conn.tries == 0 {
            conn.rtt = now.duration_since(conn.opened);
            conn.variation = conn.rtt / 2;
        }
        (conn.tries, conn.timer) = (0, None);
        let (local, remote) = (conn.local, conn.remote);
        self.events.push_back(match conn.passive {
            true => Event::Accepted { sock: id, local, remote },
            false => Event::Connected(id),
        });
        self.pump(now, id);
    }

    /// Nothing has answered in time.
    pub(super) fn repeat_opening(&mut self, now: Instant, id: SockId, tries: u32) {
        if tries as usize >= SYN_GAPS.len() {
            self.fail(id, Failure::TimedOut);
        } else {
            self.send_opening(now, id);
        }
    }
}
