//! TCP connections that completed, until one of them is nominated.
//!
//! A stranger's open port can complete an opening, and several openings can complete at once: every
//! connection runs the link handshake, and the initiator nominates the first that finishes it. The
//! others stay open until their ports are released.

use std::{collections::BTreeMap, net::SocketAddr, time::Instant};

use bytes::BytesMut;

use super::{ConnId, Outbox, Output, PortsId};
use crate::secure::{EstablishedLink, LinkInitiator, LinkProgress, LinkResponder, Psk, PublicKey, StaticKey};

/// Most connections at once: more than a plan with a fixed side completes.
const MAX: usize = 64;

/// Most of them from addresses that are not known as the peer's. A NAT may have several, so they are
/// not refused, but strangers who find a listener must not take all places.
const MAX_STRANGERS: usize = 16;

/// Connections on which the link handshake runs.
#[derive(Default)]
pub(super) struct Candidates(BTreeMap<ConnId, Candidate>);

struct Candidate {
    stranger: bool,
    ports: PortsId,
    remote: SocketAddr,
    lan: bool,
    since: Instant,
    handshake: Handshake,
}

enum Handshake {
    Initiator(LinkInitiator),
    Responder(LinkResponder),
}

/// The connection that became the link.
pub(super) struct Nominated {
    pub(super) link: EstablishedLink,
    pub(super) surplus: BytesMut,
    pub(super) ports: PortsId,
    pub(super) remote: SocketAddr,
    pub(super) lan: bool,
    /// The agreed instant that it came of.
    pub(super) since: Instant,
}

impl Candidates {
    /// A connection is complete, maybe a `stranger`'s. `epoch` is the number of the link that it may become (initiator).
    #[expect(
        clippy::too_many_arguments,
        reason = "a connection, what is known of it, and what the handshake needs"
    )]
    pub(super) fn begin(
        &mut self,
        conn: ConnId,
        (ports, remote, lan, since): (PortsId, SocketAddr, bool, Instant),
        stranger: bool,
        seed: [u8; 32],
        (me, them, session, psk): (&StaticKey, &PublicKey, &[u8; 16], &Psk),
        epoch: Option<u32>,
        out: &mut Outbox,
    ) {
        let strangers = self.0.values().filter(|candidate| candidate.stranger).count();
        if self.0.len() >= MAX || (stranger && strangers >= MAX_STRANGERS) {
            return out.push_back(Output::Close { conn });
        }
        let handshake = match epoch {
            Some(epoch) => {
                let (initiator, bytes) = LinkInitiator::new(seed, me, them, session, psk, epoch);
                out.push_back(Output::Send { conn, bytes });
                Handshake::Initiator(initiator)
            }
            None => Handshake::Responder(LinkResponder::new(seed, me, *them, session, psk)),
        };
        self.0.insert(conn, Candidate { stranger, ports, remote, lan, since, handshake });
    }

    /// Bytes came. Where `may_nominate`, an initiator nominates the connection as soon as the responder
    /// has proved itself on it.
    pub(super) fn received(
        &mut self,
        conn: ConnId,
        bytes: &[u8],
        may_nominate: bool,
        out: &mut Outbox,
    ) -> Option<Nominated> {
        let candidate = self.0.get_mut(&conn)?;
        let progress = match &mut candidate.handshake {
            Handshake::Initiator(initiator) => initiator.receive(bytes).map(|open| open && may_nominate),
            Handshake::Responder(responder) => responder.receive(bytes).map(|()| true),
        };
        match progress {
            Ok(true) => self.finish(conn, out),
            Ok(false) => None,
            Err(_) => {
                self.0.remove(&conn);
                out.push_back(Output::Close { conn });
                None
            }
        }
    }

    fn finish(&mut self, conn: ConnId, out: &mut Outbox) -> Option<Nominated> {
        let Candidate { stranger, ports, remote, lan, since, handshake } = self.0.remove(&conn)?;
        let (link, surplus) = match handshake {
            Handshake::Initiator(initiator) => {
                let (bytes, link, surplus) = initiator.nominate().ok()?;
                out.push_back(Output::Send { conn, bytes });
                (link, surplus)
            }
            Handshake::Responder(mut responder) => {
                let mut nominated = None;
                while let Some(progress) = responder.poll() {
                    match progress {
                        LinkProgress::Send(bytes) => out.push_back(Output::Send { conn, bytes }),
                        LinkProgress::Nominated(link, surplus) => nominated = Some((link, surplus)),
                    }
                }
                match nominated {
                    Some(nominated) => nominated,
                    None => {
                        let handshake = Handshake::Responder(responder);
                        self.0.insert(conn, Candidate { stranger, ports, remote, lan, since, handshake });
                        return None;
                    }
                }
            }
        };
        Some(Nominated { link, surplus, ports, remote, lan, since })
    }

    /// The connection ended by itself.
    pub(super) fn closed(&mut self, conn: ConnId) {
        self.0.remove(&conn);
    }

    /// The set is released, or done with: its connections are forgotten. Which they were.
    pub(super) fn released(&mut self, ports: PortsId) -> Vec<ConnId> {
        let of_set = self.0.iter().filter(|(_, candidate)| candidate.ports == ports);
        let gone: Vec<ConnId> = of_set.map(|(conn, _)| *conn).collect();
        for conn in &gone {
            self.0.remove(conn);
        }
        gone
    }

    /// Has this connection.
    pub(super) fn holds(&self, conn: ConnId) -> bool {
        self.0.contains_key(&conn)
    }
}
