//! What frames of the peer do.

use std::time::Instant;

use bytes::Bytes;

use super::{
    MAX_STREAMS, MAX_WIDE, Mux, MuxEvent, Receiving, Sending, Stream, StreamId, Violation,
    flow::FirstWindow,
    frame::{self, Frame},
};
use crate::wire::stream::{OpenRequest, ResetReason};

impl Mux {
    /// Takes the body of the next record in.
    ///
    /// # Errors
    /// The peer broke the protocol; [`end`](Self::end) the mux.
    pub fn handle_body(&mut self, now: Instant, mut body: Bytes) -> Result<(), Violation> {
        while let Some((id, frame)) = frame::next(&mut body)? {
            match frame {
                Frame::Open(request, first) => self.on_open(id, request, first)?,
                Frame::Data(data) => self.on_data(now, id, data)?,
                Frame::Fin => self.on_fin(id)?,
                Frame::Reset(reason) => self.on_reset(id, reason)?,
                Frame::Credit(limit) => self.on_credit(id, limit)?,
            }
        }
        Ok(())
    }

    fn on_open(&mut self, id: StreamId, request: OpenRequest, first: FirstWindow) -> Result<(), Violation> {
        if self.next_remote != Some(id.0) {
            return Err(Violation::OutOfOrder(id));
        }
        self.next_remote = id.0.checked_add(2);
        // An honest peer counts as we do, except for streams whose last bytes nobody reads here.
        let wide = first == FirstWindow::Wide;
        if self.remote.all < MAX_STREAMS && (!wide || self.remote.wide < 2 * MAX_WIDE) {
            self.streams.insert(id, Stream::new(first));
            self.events.push_back(MuxEvent::Opened { id, request });
            self.remote.take(first);
        } else if self.remote.all < 2 * MAX_STREAMS {
            // It holds nothing, whatever window it was to have.
            self.resets.insert(id, (ResetReason::TooMany, FirstWindow::Narrow));
            self.remote.take(FirstWindow::Narrow);
        } else {
            return Err(Violation::Flood);
        }
        Ok(())
    }

    fn on_data(&mut self, now: Instant, id: StreamId, data: Bytes) -> Result<(), Violation> {
        let Some(stream) = self.live(id)? else { return Ok(()) };
        match stream.receiving {
            Receiving::Open => {}
            Receiving::Aborted(_) => return Ok(()),
            Receiving::Finished | Receiving::Done => return Err(Violation::AfterFin(id)),
        }
        stream.window.receive(now, data.len() as u64).map_err(|_| Violation::Overrun(id))?;
        stream.incoming.push(data);
        if !stream.told_readable && !stream.incoming.is_empty() {
            stream.told_readable = true;
            self.events.push_back(MuxEvent::Readable(id));
        }
        Ok(())
    }

    fn on_fin(&mut self, id: StreamId) -> Result<(), Violation> {
        let Some(stream) = self.live(id)? else { return Ok(()) };
        match stream.receiving {
            Receiving::Open => stream.receiving = Receiving::Finished,
            Receiving::Aborted(_) => return Ok(()),
            Receiving::Finished | Receiving::Done => return Err(Violation::AfterFin(id)),
        }
        self.credits.remove(&id);
        if self.streams.get(&id).is_some_and(|stream| stream.incoming.is_empty()) {
            self.read_everything(id);
        }
        Ok(())
    }

    fn on_reset(&mut self, id: StreamId, reason: ResetReason) -> Result<(), Violation> {
        let Some(stream) = self.live(id)? else {
            // Both sides reset it: ours need not be sent any more, if it is still here.
            if let Some((_, first)) = self.resets.remove(&id) {
                // OPEN may still wait before it; the peer cannot have reset what it never heard of.
                self.free_slot(id, first);
            }
            return Ok(());
        };
        stream.receiving = Receiving::Aborted(reason);
        stream.sending = Sending::Done;
        let unsent = stream.outgoing.len();
        stream.outgoing.clear();
        let nothing_to_read = stream.incoming.is_empty();
        let blocked = std::mem::take(&mut stream.blocked);
        self.holding.release(unsent, true);
        self.schedule.remove(id);
        self.credits.remove(&id);
        if blocked {
            // The program's next write tells it.
            self.events.push_back(MuxEvent::Writable(id));
        }
        if nothing_to_read {
            self.read_everything(id);
        }
        Ok(())
    }

    fn on_credit(&mut self, id: StreamId, limit: u64) -> Result<(), Violation> {
        let Some(stream) = self.live(id)? else { return Ok(()) };
        stream.credit.raise(limit);
        if stream.has_something() {
            self.schedule.activate(id);
        }
        Ok(())
    }

    /// The stream, or `None` where it is closed here.
    fn live(&mut self, id: StreamId) -> Result<Option<&mut Stream>, Violation> {
        // None means that the numbers are used up: everything below was opened.
        let next = if self.is_local(id) { self.next_local } else { self.next_remote };
        if id.0 == 0 || next.is_some_and(|next| id.0 >= next) {
            return Err(Violation::NeverOpened(id));
        }
        Ok(self.streams.get_mut(&id))
    }
}
