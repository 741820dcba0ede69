//! A sealed association over datagrams, with a tiny reliable layer.
//!
//! Once a handshake has given both sides [`DatagramKeys`], a [`Channel`] seals and opens their datagrams,
//! refuses replays, and carries two kinds of messages:
//!
//! * [`send`](Channel::send): *kept* messages arrive exactly once and in order. Every datagram carries all
//!   of them that are not acknowledged and fit, oldest first, so a retransmission is simply one more
//!   datagram, and any datagram repairs a loss.
//! * [`send_once`](Channel::send_once): messages that are of no use late, such as pings and relayed
//!   datagrams. They are sent once.
//!
//! **After every call that takes `now`, drain [`poll_transmit`](Channel::poll_transmit) until it is `None`,
//! then come back at [`poll_timeout`](Channel::poll_timeout), or when a datagram arrives.**
//!
//! A channel that has nothing to say says nothing: acknowledgements are not acknowledged. It never gives up;
//! who holds it decides when nothing has come for too long.

mod reliable;
mod replay;

use std::{
    fmt,
    marker::PhantomData,
    time::{Duration, Instant},
};

use serde::{Serialize, de::DeserializeOwned};

use crate::{
    secure::{DatagramKeys, SecureError},
    wire::{self, WireError, packet::DATA_HEADER, record::TAG},
};
pub use reliable::{Body, Full, MAX_ONCE, MAX_UNACKNOWLEDGED};
use reliable::{Measured, Receiving, Sending};
pub use replay::ReplayWindow;

/// Why a datagram was not taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ChannelError {
    /// Its counter was seen before, or is too old to tell.
    #[error("the datagram was received before, or is too old")]
    Replayed,
    /// It does not open.
    #[error(transparent)]
    Seal(#[from] SecureError),
    /// It opens, and the body does not decode.
    #[error(transparent)]
    Wire(#[from] WireError),
    /// It opens, and acknowledges messages that were never sent, or numbers beyond the last number.
    #[error("the other side counts messages that do not exist")]
    Numbers,
}

/// What a datagram brought.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Received<M> {
    /// The messages, each for the first time: kept ones in order, then those sent once.
    pub messages: Vec<M>,
    /// The datagram's counter is above all that were seen: where it came from is where the other side is
    /// now.
    pub newest: bool,
}

/// One side of an association, which says `Out` and hears `In`. See the [module](self).
pub struct Channel<Out, In = Out> {
    keys: DatagramKeys,
    local_index: u32,
    remote_index: u32,
    max_datagram: u16,
    acknowledge: bool,
    next_counter: u64,
    replay: ReplayWindow,
    sending: Sending<Out>,
    receiving: Receiving,
    hears: PhantomData<fn() -> In>,
}

impl<Out, In> Channel<Out, In> {
    /// A channel over the keys of a handshake. `local_index` is what received datagrams begin with,
    /// `remote_index` what sent ones do; no datagram is longer than `max_datagram` bytes.
    pub fn new(keys: DatagramKeys, local_index: u32, remote_index: u32, max_datagram: usize) -> Self {
        Channel {
            keys,
            local_index,
            remote_index,
            max_datagram: u16::try_from(max_datagram).unwrap_or(u16::MAX),
            acknowledge: false,
            next_counter: 0,
            replay: ReplayWindow::default(),
            sending: Sending::default(),
            receiving: Receiving::default(),
            hears: PhantomData,
        }
    }

    /// The first messages of the other side, so many, travelled in a handshake and were taken care of.
    pub fn with_received(mut self, kept: u32) -> Self {
        self.receiving = Receiving::from_number(kept);
        self
    }

    /// The index that received datagrams begin with.
    pub fn local_index(&self) -> u32 {
        self.local_index
    }

    /// The index that sent datagrams begin with.
    pub fn remote_index(&self) -> u32 {
        self.remote_index
    }

    /// The round trip, from which the time to a retransmission is computed. 300 ms until told.
    pub fn set_rtt(&mut self, rtt: Duration) {
        self.sending.set_rtt(rtt);
    }

    /// Whether everything sent is acknowledged and nothing waits to be sent.
    pub fn is_idle(&self) -> bool {
        self.sending.is_empty() && !self.acknowledge
    }

    /// Kept messages that are not acknowledged, sent or not.
    pub fn unacknowledged(&self) -> usize {
        self.sending.len()
    }

    /// When to call [`poll_transmit`](Self::poll_transmit) again though nothing came: the next
    /// retransmission. `None` while nothing is unacknowledged.
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.sending.deadline()
    }

    /// The kept messages that are not acknowledged, oldest first: what is to be sent again where another
    /// channel takes this one's place. The other side may have received some of them.
    pub fn into_unacknowledged(self) -> impl Iterator<Item = Out> {
        self.sending.into_messages()
    }

    /// Takes in a body that came in a handshake message instead of a datagram.
    ///
    /// # Errors
    /// [`ChannelError::Numbers`]; then nothing of the body was taken.
    pub fn handle_body(&mut self, body: Body<In>) -> Result<Vec<In>, ChannelError> {
        let Body { ack, seq, kept, once } = body;
        // Both are checked before either has an effect.
        self.receiving.check(seq, kept.len())?;
        self.sending.acknowledge(ack)?;
        self.acknowledge |= !kept.is_empty();
        let mut messages = self.receiving.take(seq, kept);
        messages.extend(once);
        Ok(messages)
    }
}

impl<Out: Serialize, In: DeserializeOwned> Channel<Out, In> {
    /// These messages are sent already, in order, inside a handshake message of `now`: they are repeated
    /// unless the first body that comes acknowledges them. At most [`MAX_UNACKNOWLEDGED`].
    pub fn with_sent(mut self, now: Instant, kept: Vec<Out>) -> Self {
        let count = kept.len();
        debug_assert!(count <= MAX_UNACKNOWLEDGED);
        for message in kept {
            let taken = self.send(now, message);
            debug_assert!(taken.is_ok(), "more than a handshake message can have carried");
        }
        self.sending.sent(now, 0, count);
        self
    }

    /// Sends a message that is repeated until it is acknowledged.
    ///
    /// # Errors
    /// [`Full`]: [`MAX_UNACKNOWLEDGED`] messages wait for acknowledgement, or the message is longer than
    /// a datagram.
    pub fn send(&mut self, _now: Instant, message: Out) -> Result<(), Full> {
        let message = Measured::new(message);
        if message.size > self.room() {
            return Err(Full);
        }
        self.sending.push(message)
    }

    /// Sends a message that is not repeated. Lost where it is longer than a datagram, or where
    /// [`MAX_ONCE`] wait.
    pub fn send_once(&mut self, _now: Instant, message: Out) {
        let message = Measured::new(message);
        if message.size <= self.room() {
            self.sending.push_once(message);
        }
    }

    /// Takes in a datagram: its counter and what follows its header.
    ///
    /// # Errors
    /// The datagram is refused and has changed nothing, except that an authentic one is not taken again.
    pub fn handle(&mut self, counter: u64, sealed: &[u8]) -> Result<Received<In>, ChannelError> {
        if !self.replay.is_fresh(counter) {
            return Err(ChannelError::Replayed);
        }
        let body = self.keys.open(self.local_index, counter, sealed)?;
        let newest = self.replay.mark(counter);
        let body = wire::decode::<Body<In>>(&body, usize::from(u16::MAX))?;
        let messages = self.handle_body(body)?;
        Ok(Received { messages, newest })
    }

    /// The next datagram to send, if any.
    pub fn poll_transmit(&mut self, now: Instant) -> Option<Vec<u8>> {
        let due = self.sending.is_due(now);
        let first = self.sending.once().next().map(|message| message.size);
        if !due && !self.acknowledge && first.is_none() {
            return None;
        }
        // What is due goes first; what only rides along leaves room for what is sent once.
        let (room, waiting) = (self.room(), first.unwrap_or(0));
        let kept = self.sending.select(now, if due { room } else { room - waiting });
        let mut left = room - kept.size;
        let once = self.sending.once().take_while(|m| m.take_from(&mut left)).count();
        let body = Body {
            ack: self.receiving.next(),
            seq: self.sending.number(kept.start),
            kept: self.sending.messages(&kept).collect(),
            once: self.sending.once().take(once).map(|m| &m.message).collect(),
        };
        let datagram = self.seal(&wire::encode(&body));
        self.sending.sent(now, kept.start, kept.count);
        self.sending.sent_once(once);
        self.acknowledge = false;
        Some(datagram)
    }

    /// A datagram with this message alone, sent once and at once: for an address that is not proved, to
    /// which nothing else may go. The next one from [`poll_transmit`](Self::poll_transmit) is not changed
    /// by it.
    pub fn seal_alone(&mut self, message: &Out) -> Vec<u8> {
        let body = Body {
            ack: self.receiving.next(),
            seq: self.sending.number(0),
            kept: vec![],
            once: vec![message],
        };
        self.seal(&wire::encode(&body))
    }

    fn seal(&mut self, body: &[u8]) -> Vec<u8> {
        let datagram = self.keys.seal(self.remote_index, self.next_counter, body);
        self.next_counter += 1;
        datagram
    }

    /// Bytes that messages may take in a datagram.
    fn room(&self) -> usize {
        usize::from(self.max_datagram).saturating_sub(DATA_HEADER + TAG + Body::<Out>::OVERHEAD)
    }
}

impl<Out, In> fmt::Debug for Channel<Out, In> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Channel")
            .field("local_index", &self.local_index)
            .field("remote_index", &self.remote_index)
            .field("sent", &self.next_counter)
            .field("unacknowledged", &self.sending.len())
            .field("expected", &self.receiving.next())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
