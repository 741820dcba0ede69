//! The handshake on a TCP connection, up to its nomination.
//!
//! ```text
//!  initiator -> responder   length u16, Noise message 1 (epoch u32)
//!  responder -> initiator   length u16, Noise message 2 (empty)
//!  initiator -> responder   NOMINATE, a link record, counter 0
//! ```
//!
//! Several connections may get as far as message 2; the initiator nominates one. What follows NOMINATE
//! on the stream belongs to the session and is handed over as *surplus*.

use std::fmt;

use bytes::{Buf, BytesMut};
use zeroize::Zeroizing;

use super::{
    EpochKeys, Initiator, LinkKeys, Psk, PublicKey, Purpose, Responder, Secrets, SecureError, StaticKey,
};
use crate::wire::record::{LinkType, RecordHeader, TAG, link_header};

/// Largest handshake message on a link; ours have 100 and 48 bytes.
pub const MAX_LINK_MESSAGE: usize = 1024;

/// Most bytes behind the handshake that are kept until the connection is handed over: the initiator may
/// send at once, but not more than fits into a flight or two.
pub const MAX_SURPLUS: usize = 256 * 1024;

/// A nominated link: what the session needs of it.
pub struct EstablishedLink {
    /// Number of the link, chosen by the initiator, rising from 1.
    pub epoch: u32,
    /// Keys for session records sealed from now on.
    pub epoch_keys: EpochKeys,
    /// Keys for this link's own records.
    pub link_keys: LinkKeys,
    /// Counter of the next link record that this side seals (NOMINATE has used 0 of the initiator's).
    pub next_seal: u64,
    /// Counter of the next link record that this side opens.
    pub next_open: u64,
}

impl fmt::Debug for EstablishedLink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "EstablishedLink({})", self.epoch)
    }
}

/// The side that sends message 1 and nominates.
pub struct LinkInitiator {
    epoch: u32,
    state: InitiatorState,
    received: BytesMut,
}

enum InitiatorState {
    Waiting(Initiator),
    Open(Secrets),
}

impl LinkInitiator {
    /// Begins; the bytes are to be sent. `seed` is 32 fresh random bytes.
    pub fn new(
        seed: [u8; 32],
        me: &StaticKey,
        them: &PublicKey,
        session_id: &[u8; 16],
        psk: &Psk,
        epoch: u32,
    ) -> (Self, Vec<u8>) {
        let mut initiator = Initiator::new(seed, me, them, Purpose::Link, session_id, psk);
        let message = frame(&initiator.write(&epoch.to_be_bytes()));
        (
            LinkInitiator { epoch, state: InitiatorState::Waiting(initiator), received: BytesMut::new() },
            message,
        )
    }

    /// Takes bytes in. True once the responder has proved itself: from then on the connection can be
    /// [nominated](Self::nominate).
    ///
    /// # Errors
    /// The connection is of no use: not the peer, not its handshake, or too many bytes.
    pub fn receive(&mut self, bytes: &[u8]) -> Result<bool, SecureError> {
        append(&mut self.received, bytes)?;
        if let InitiatorState::Waiting(initiator) = &mut self.state {
            let Some(message) = unframe(&mut self.received)? else { return Ok(false) };
            let (payload, secrets) = initiator.try_read(&message)?;
            if !payload.is_empty() {
                return Err(SecureError::Handshake);
            }
            self.state = InitiatorState::Open(secrets);
        }
        Ok(true)
    }

    /// Whether the responder has proved itself.
    pub fn is_open(&self) -> bool {
        matches!(self.state, InitiatorState::Open(_))
    }

    /// Makes this connection the link: the NOMINATE record to be sent, the link, and what was received
    /// behind the handshake.
    ///
    /// # Errors
    /// [`SecureError::Handshake`] where the handshake is not [finished](Self::is_open).
    pub fn nominate(self) -> Result<(Vec<u8>, EstablishedLink, BytesMut), SecureError> {
        let InitiatorState::Open(secrets) = self.state else { return Err(SecureError::Handshake) };
        let link_keys = secrets.link();
        let header = link_header(0, 1 + TAG);
        let mut body = [LinkType::Nominate as u8];
        let tag = link_keys.seal.seal(0, &header, &mut body);
        let nominate = [&header[..], &body, &tag].concat();
        let epoch_keys = secrets.epoch();
        let link = EstablishedLink { epoch: self.epoch, epoch_keys, link_keys, next_seal: 1, next_open: 0 };
        Ok((nominate, link, self.received))
    }
}

/// The side that answers and is told.
pub struct LinkResponder {
    state: ResponderState,
    epoch: Option<u32>,
    received: BytesMut,
    reply: Option<Vec<u8>>,
}

enum ResponderState {
    Waiting {
        seed: Zeroizing<[u8; 32]>,
        me: StaticKey,
        them: PublicKey,
        session_id: [u8; 16],
        psk: Psk,
    },
    Answered {
        secrets: Secrets,
        epoch: u32,
    },
    Nominated(EstablishedLink),
    /// Failed, or handed over.
    Over,
}

/// What a [`LinkResponder`] has to say.
#[derive(Debug)]
pub enum LinkProgress {
    /// Send these bytes.
    Send(Vec<u8>),
    /// The connection is the link; with what was received behind NOMINATE.
    Nominated(EstablishedLink, BytesMut),
}

impl LinkResponder {
    /// Waits for message 1 from the holder of `them`, and from nobody else. `seed` is 32 fresh random
    /// bytes.
    pub fn new(seed: [u8; 32], me: &StaticKey, them: PublicKey, session_id: &[u8; 16], psk: &Psk) -> Self {
        let (me, session_id, psk) = (me.clone(), *session_id, psk.clone());
        LinkResponder {
            state: ResponderState::Waiting { seed: Zeroizing::new(seed), me, them, session_id, psk },
            epoch: None,
            received: BytesMut::new(),
            reply: None,
        }
    }

    /// Takes bytes in. **Drain [`poll`](Self::poll) afterwards.**
    ///
    /// # Errors
    /// The connection is of no use: not the peer, not its handshake, something other than NOMINATE, or
    /// too many bytes. Nothing more comes out of [`poll`](Self::poll) then.
    pub fn receive(&mut self, bytes: &[u8]) -> Result<(), SecureError> {
        let advanced = append(&mut self.received, bytes).and_then(|()| self.advance());
        if advanced.is_err() {
            self.state = ResponderState::Over;
            self.reply = None;
            self.received = BytesMut::new();
        }
        advanced
    }

    /// What is to be done next, in order.
    pub fn poll(&mut self) -> Option<LinkProgress> {
        if let Some(reply) = self.reply.take() {
            return Some(LinkProgress::Send(reply));
        }
        match std::mem::replace(&mut self.state, ResponderState::Over) {
            ResponderState::Nominated(link) => {
                Some(LinkProgress::Nominated(link, std::mem::take(&mut self.received)))
            }
            other => {
                self.state = other;
                None
            }
        }
    }

    /// Number of the link, once message 1 is read: authentic, but the message could be a replay until
    /// NOMINATE has come.
    pub fn epoch(&self) -> Option<u32> {
        self.epoch
    }

    fn advance(&mut self) -> Result<(), SecureError> {
        if let ResponderState::Waiting { seed, me, them, session_id, psk } = &self.state {
            let Some(message) = unframe(&mut self.received)? else { return Ok(()) };
            let (responder, payload) = Responder::read(**seed, me, Purpose::Link, session_id, &message)?;
            let epoch = payload.as_slice().try_into().map(u32::from_be_bytes);
            let epoch = epoch.map_err(|_| SecureError::Handshake)?;
            if responder.remote() != *them {
                return Err(SecureError::Handshake);
            }
            let (reply, secrets) = responder.write(psk, b"");
            self.reply = Some(frame(&reply));
            self.epoch = Some(epoch);
            self.state = ResponderState::Answered { secrets, epoch };
        }
        if let ResponderState::Answered { secrets, epoch } = &self.state {
            let (epoch, link_keys) = match take_nominate(&mut self.received, secrets)? {
                Some(link_keys) => (*epoch, link_keys),
                None => return Ok(()),
            };
            let epoch_keys = secrets.epoch();
            let link = EstablishedLink { epoch, epoch_keys, link_keys, next_seal: 0, next_open: 1 };
            self.state = ResponderState::Nominated(link);
        }
        match self.state {
            ResponderState::Over => Err(SecureError::Handshake),
            _ => Ok(()),
        }
    }
}

impl fmt::Debug for LinkInitiator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "LinkInitiator({}, open: {})", self.epoch, self.is_open())
    }
}

impl fmt::Debug for LinkResponder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "LinkResponder({:?})", self.epoch)
    }
}

fn append(received: &mut BytesMut, bytes: &[u8]) -> Result<(), SecureError> {
    if received.len() + bytes.len() > MAX_SURPLUS {
        return Err(SecureError::Handshake);
    }
    received.extend_from_slice(bytes);
    Ok(())
}

fn frame(message: &[u8]) -> Vec<u8> {
    // At most 100 bytes: see MAX_LINK_MESSAGE.
    [&(message.len() as u16).to_be_bytes(), message].concat()
}

fn unframe(received: &mut BytesMut) -> Result<Option<BytesMut>, SecureError> {
    let Some(&length) = received.first_chunk() else { return Ok(None) };
    let length = usize::from(u16::from_be_bytes(length));
    if length > MAX_LINK_MESSAGE {
        return Err(SecureError::Handshake);
    }
    if received.len() < 2 + length {
        return Ok(None);
    }
    received.advance(2);
    Ok(Some(received.split_to(length)))
}

/// Takes the record that must be NOMINATE off the front, and gives the keys that it opened with.
fn take_nominate(received: &mut BytesMut, secrets: &Secrets) -> Result<Option<LinkKeys>, SecureError> {
    let header = match RecordHeader::parse(received).map_err(|_| SecureError::Handshake)? {
        None => return Ok(None),
        Some(header @ RecordHeader::Link { counter: 0, .. }) => header,
        Some(_) => return Err(SecureError::Handshake),
    };
    if received.len() < header.total() {
        return Ok(None);
    }
    let aad = received.split_to(header.size());
    let mut sealed = received.split_to(header.length());
    let link_keys = secrets.link();
    let plain = link_keys.open.open(0, &aad, &mut sealed)?;
    if *plain == [LinkType::Nominate as u8] { Ok(Some(link_keys)) } else { Err(SecureError::Handshake) }
}

#[cfg(test)]
mod tests;
