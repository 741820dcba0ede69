//! What goes into the next record.

use bytes::BytesMut;

use super::{
    CREDIT_SIZE, Mux, MuxEvent, RESET_SIZE, Sending, StreamId,
    frame::{self, OpenData},
};

/// What somebody types, or a program asks: no more than this at a time.
const LITTLE: usize = 1024;

impl Mux {
    /// Appends frames to `out` until it is `end` bytes long or there is nothing more to send: OPEN,
    /// RESET and CREDIT first, then the streams whose turn it is.
    ///
    /// Payload is copied here, once, to where it will be sealed and sent from.
    pub fn fill(&mut self, out: &mut BytesMut, end: usize) {
        let start = out.len();
        self.schedule.set_record(end - start);
        if self.fill_control(out, end) {
            self.fill_data(out, start, end);
        }
    }

    /// The next record where it is made already ([`Whole`](super::whole::Whole)): room for its header, and
    /// a body of at most `limit` bytes. `None` where [`fill`](Self::fill) is to make it: there is something
    /// more urgent, or the piece is too large for what the link or the peer takes now.
    pub fn fill_whole(&mut self, limit: usize) -> Option<BytesMut> {
        if !(self.opens.is_empty() && self.resets.is_empty() && self.credits.is_empty()) {
            return None;
        }
        self.schedule.set_record(limit);
        let (id, _) = self.schedule.turn()?;
        let stream = self.streams.get_mut(&id)?;
        let count = stream.next_whole(limit)?;
        let record = stream.outgoing.pop_whole()?.into_record(id);
        stream.credit.take(count as u64);
        stream.sent_little = false;
        let empty = !stream.has_something();
        self.holding.release(count, stream.outgoing.is_empty());
        self.schedule.served(count, empty);
        self.wake_writer(id);
        Some(record)
    }

    /// Whether, since the last call, a stream sent a little, and not for the first time, while others had more to
    /// send: somebody types beside a bulk transfer.
    pub fn take_urgent(&mut self) -> bool {
        std::mem::take(&mut self.urgent)
    }

    /// `false` when the record is full.
    fn fill_control(&mut self, out: &mut BytesMut, end: usize) -> bool {
        while let Some((id, request, first)) = self.opens.front() {
            if out.len() + frame::HEADER + request.len() > end {
                return false;
            }
            frame::put_open(out, *id, request, *first);
            self.opens_size -= frame::HEADER + request.len();
            self.opens.pop_front();
        }
        while let Some((&id, &(reason, first))) = self.resets.first_key_value() {
            if out.len() + RESET_SIZE > end {
                return false;
            }
            frame::put_reset(out, id, reason);
            self.resets.pop_first();
            self.free_slot(id, first);
        }
        while let Some(&id) = self.credits.first() {
            if out.len() + CREDIT_SIZE > end {
                return false;
            }
            self.credits.pop_first();
            if let Some(stream) = self.streams.get_mut(&id) {
                frame::put_credit(out, id, stream.window.grant());
            }
        }
        true
    }

    fn fill_data(&mut self, out: &mut BytesMut, start: usize, end: usize) {
        // The DATA frame at the end of the record, which grows while it is the same stream's turn.
        let mut open: Option<OpenData> = None;
        while let Some((id, quantum)) = self.schedule.turn() {
            let header = if open.as_ref().is_some_and(|open| open.id == id) { 0 } else { frame::HEADER };
            let room = end.saturating_sub(out.len() + header);
            let Some(stream) = self.streams.get_mut(&id) else {
                self.schedule.remove(id);
                continue;
            };
            if room == 0 && stream.has_something() {
                break;
            }
            // A piece that is a record already is the next one: were its first bytes copied here, all of it would be
            // copied, and the pieces of many streams would be mixed in every record.
            if out.len() > start && stream.next_whole(end - start).is_some() {
                break;
            }
            let room = room.min(quantum);
            let count = stream.sendable().min(room).min(stream.outgoing.loose(room));
            if count > 0 {
                if header > 0 {
                    if let Some(before) = open.take() {
                        before.close(out);
                    }
                    open = Some(OpenData::begin(out, id));
                }
                stream.outgoing.copy_to(out, count);
                stream.credit.take(count as u64);
                self.holding.release(count, stream.outgoing.is_empty());
            }
            if stream.wants_fin() {
                if out.len() + frame::HEADER > end {
                    self.schedule.served(count, false);
                    break;
                }
                stream.sending = Sending::Done;
                if let Some(before) = open.take() {
                    before.close(out);
                }
                frame::put_fin(out, id);
                self.schedule.remove(id);
                self.close_if_done(id);
                continue;
            }
            let empty = stream.sendable() == 0;
            if count > 0 {
                // Once is not enough: bulk data comes in fits, with a little at the end of each.
                let little = empty && count <= LITTLE;
                self.urgent |= little && stream.sent_little && self.schedule.has_others();
                stream.sent_little = little;
            }
            self.schedule.served(count, empty);
            self.wake_writer(id);
        }
        if let Some(last) = open {
            last.close(out);
        }
    }

    /// Tells a program that waits, as soon as half of what its stream may hold is free: at the latest
    /// when everything has left. So only a stream that was served is looked at.
    fn wake_writer(&mut self, id: StreamId) {
        let Some(stream) = self.streams.get_mut(&id) else { return };
        if stream.blocked && self.holding.space(stream.outgoing.len()) >= stream.outgoing.len() {
            stream.blocked = false;
            self.events.push_back(MuxEvent::Writable(id));
        }
    }
}
