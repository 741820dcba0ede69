//! The server and the other peer of an [`endpoint`](super::endpoint): both are who they say, and neither is honest.

use std::{net::SocketAddr, time::Instant};

use punchtunnel::{
    channel::{Body, Channel},
    endpoint::{ConnId, Path},
    nat::Prediction,
    secure::{Initiator, LinkInitiator, LinkResponder, Psk, PublicKey, Purpose, Responder, Secrets},
    wire::{
        self, Blob, MAX_BODY, MAX_DATAGRAM,
        packet::Packet,
        peer::{MAX_PEER_DATAGRAM, PeerHello, PeerMessage, PeerReply, RoundId},
        server::{
            ClientHello, Decline, FromServer, NameRefusal, Release, RequestRefusal, ServerHello, ToServer,
        },
    },
};

use super::{endpoint::End, keys::key, script::Script};

/// Where the server is.
pub(crate) const SERVER: ([u8; 4], u16) = ([203, 0, 113, 1], 7862);
/// Where the other peer is.
pub(crate) const PEER: ([u8; 4], u16) = ([198, 51, 100, 11], 5000);
/// Where the endpoint is.
const ENDPOINT: ([u8; 4], u16) = ([198, 51, 100, 10], 5000);
const COOKIE: [u8; 24] = [6; 24];
const INDEX: u32 = 77;
const SESSION: [u8; 16] = [5; 16];
/// Datagrams that fly to the endpoint; more are lost.
const MOST_FLYING: usize = 64;

/// Both.
pub(crate) struct Liar {
    server: Option<Channel<FromServer, ToServer>>,
    peer: Option<Channel<PeerMessage>>,
    /// Number of the relation at the endpoint.
    relation: u32,
    /// The peer's handshake that is under way, where the endpoint is the host.
    hello: Option<Initiator>,
    /// For the handshakes of links.
    psk: Option<Psk>,
    session: [u8; 16],
    endpoint_is_host: bool,
    /// The endpoint's last predictions.
    pub(crate) heard: Option<Vec<Prediction>>,
    /// Bytes that are to be sent on a connection next.
    pub(crate) first: Option<(ConnId, Vec<u8>)>,
    /// What flies to the endpoint from the server.
    pub(crate) flying: Vec<Vec<u8>>,
    /// The hole is open.
    pub(crate) direct: bool,
    handshakes: u8,
}

impl Liar {
    pub(crate) fn new(_now: Instant, endpoint_is_host: bool) -> Liar {
        Liar {
            server: None,
            peer: None,
            relation: 1,
            hello: None,
            psk: None,
            session: SESSION,
            endpoint_is_host,
            heard: None,
            first: None,
            flying: Vec::new(),
            direct: false,
            handshakes: 0,
        }
    }

    /// The endpoint sends a datagram somewhere.
    pub(crate) fn handle(&mut self, now: Instant, path: Path, datagram: &[u8]) {
        let Ok(packet) = Packet::parse(datagram) else { return };
        match (packet, path) {
            (packet, Path::Udp(to)) if to == SocketAddr::from(PEER) => {
                if self.direct
                    && let Packet::Data { counter, sealed, .. } = packet
                {
                    self.peer_datagram(now, counter, sealed);
                }
            }
            (Packet::Hello { sender }, _) => {
                let server_key = key(9).public().0;
                self.fly(Packet::Cookie { index: sender, cookie: COOKIE, server_key }.encode());
            }
            (Packet::Init { sender, cookie, noise }, _) => self.join(now, sender, &cookie, noise),
            (Packet::Data { counter, sealed, .. }, _) => {
                let Some(server) = &mut self.server else { return };
                let Ok(received) = server.handle(counter, sealed) else { return };
                for message in received.messages {
                    self.server_hears(now, message);
                }
            }
            _ => {}
        }
        self.transmit(now);
    }

    fn fly(&mut self, datagram: Vec<u8>) {
        if self.flying.len() < MOST_FLYING {
            self.flying.push(datagram);
        }
    }

    /// What both have to say goes on its way.
    fn transmit(&mut self, now: Instant) {
        if !self.direct
            && let Some(peer) = &mut self.peer
            && let Some(server) = &mut self.server
        {
            while let Some(datagram) = peer.poll_transmit(now) {
                server
                    .send_once(now, FromServer::Relay { relation: self.relation, datagram: Blob(datagram) });
            }
        }
        if let Some(server) = &mut self.server {
            while let Some(datagram) = server.poll_transmit(now) {
                if self.flying.len() < MOST_FLYING {
                    self.flying.push(datagram);
                }
            }
        }
    }

    /// What the peer sends through the hole.
    pub(crate) fn direct_datagrams(&mut self, now: Instant) -> Vec<Vec<u8>> {
        let Some(peer) = self.peer.as_mut().filter(|_| self.direct) else { return Vec::new() };
        std::iter::from_fn(|| peer.poll_transmit(now)).collect()
    }

    /// INIT: the first messages of the endpoint are in it.
    fn join(&mut self, now: Instant, sender: u32, cookie: &[u8], noise: &[u8]) {
        let read = Responder::read([8; 32], key(9), Purpose::Server, cookie, noise);
        let Ok((responder, payload)) = read else { return };
        let Ok(hello) = wire::decode::<ClientHello>(&payload, MAX_DATAGRAM) else { return };
        let kept = hello.body.kept.len() as u32;
        let body = Body { ack: kept, seq: 0, kept: Vec::new(), once: Vec::new() };
        let answer = ServerHello { observed: ENDPOINT.into(), udp: true, body };
        let (noise, secrets) = responder.write(&Psk::none(), &wire::encode(&answer));
        self.fly(Packet::Reply { index: sender, sender: INDEX, noise: &noise }.encode());
        let channel = Channel::new(secrets.datagram(), INDEX, sender, MAX_DATAGRAM);
        self.server = Some(channel.with_received(kept));
        for message in hello.body.kept {
            self.server_hears(now, message);
        }
    }

    /// The server does its work as far as it is needed to get on.
    fn server_hears(&mut self, now: Instant, message: ToServer) {
        match message {
            ToServer::Register { .. } => {
                self.tell(now, FromServer::Registered);
                self.introduce(now);
            }
            ToServer::Find { request, .. } => {
                let key = key(2).public().0;
                self.tell(now, FromServer::Found { request, key });
            }
            ToServer::Introduce { request, hello, .. } => self.accept(now, request, &hello.0),
            ToServer::Accept { relation, reply } => self.accepted(now, relation, &reply.0),
            ToServer::Relay { datagram, .. } => {
                if let Ok(Packet::Data { counter, sealed, .. }) = Packet::parse(&datagram.0) {
                    self.peer_datagram(now, counter, sealed);
                }
            }
            ToServer::Ping { .. } => {
                if let Some(server) = &mut self.server {
                    server.send_once(
                        now,
                        FromServer::Pong { observed: ENDPOINT.into(), proof: Blob(vec![1; 24]) },
                    );
                }
            }
            _ => {}
        }
    }

    fn tell(&mut self, now: Instant, message: FromServer) {
        if let Some(server) = &mut self.server {
            let _ = server.send(now, message);
        }
    }

    /// A client comes to the endpoint.
    pub(crate) fn introduce(&mut self, now: Instant) {
        self.handshakes = self.handshakes.wrapping_add(1);
        let mine: PublicKey = key(1).public();
        let seed = [self.handshakes; 32];
        let mut initiator = Initiator::new(seed, key(2), &mine, Purpose::Peer, b"", &Psk::none());
        let prepare = Some(RoundId { attempt: u32::from(self.handshakes), round: 0 });
        let hello = PeerHello { index: INDEX, session: self.session, invite: None, prepare };
        let hello = Blob(initiator.write(&wire::encode(&hello)));
        self.relation += 1;
        self.hello = Some(initiator);
        self.tell(now, FromServer::Introduction { relation: self.relation, hello });
    }

    /// The endpoint has let the client in.
    fn accepted(&mut self, now: Instant, relation: u32, reply: &[u8]) {
        let Some(Ok((payload, secrets))) = self.hello.take().map(|initiator| initiator.read(reply)) else {
            return;
        };
        let Ok(reply) = wire::decode::<PeerReply>(&payload, MAX_BODY) else { return };
        self.begin(now, reply.index, &secrets);
        self.tell(
            now,
            FromServer::Introduced { relation, addresses: vec![PEER.into()], reply: Blob(Vec::new()) },
        );
        self.say_to_peer(now, PeerMessage::Ping { sample: 1, nonce: 1 });
    }

    /// The endpoint asks for its host, and is let in.
    fn accept(&mut self, now: Instant, request: u32, hello: &[u8]) {
        let Ok((responder, payload)) = Responder::read([7; 32], key(2), Purpose::Peer, b"", hello) else {
            return;
        };
        let Ok(hello) = wire::decode::<PeerHello>(&payload, MAX_BODY) else { return };
        let psk = if hello.invite.is_some() { Psk(zeroize::Zeroizing::new([7; 32])) } else { Psk::none() };
        let reply = PeerReply { index: INDEX, resumed: self.peer.is_some(), body: Body::default() };
        let (reply, secrets) = responder.write(&psk, &wire::encode(&reply));
        self.session = hello.session;
        self.relation = request;
        self.begin(now, hello.index, &secrets);
        let addresses = vec![PEER.into()];
        self.tell(now, FromServer::Introduced { relation: request, addresses, reply: Blob(reply) });
    }

    fn begin(&mut self, _now: Instant, index: u32, secrets: &Secrets) {
        self.peer = Some(Channel::new(secrets.datagram(), INDEX, index, MAX_PEER_DATAGRAM));
        self.psk = Some(secrets.psk("link"));
    }

    fn peer_datagram(&mut self, now: Instant, counter: u64, sealed: &[u8]) {
        let Some(peer) = &mut self.peer else { return };
        let Ok(received) = peer.handle(counter, sealed) else { return };
        for message in received.messages {
            match message {
                PeerMessage::Ping { nonce, .. } => {
                    peer.send_once(now, PeerMessage::Pong { nonce, held_us: 0 })
                }
                PeerMessage::Predicted { predictions, .. } => self.heard = Some(predictions),
                PeerMessage::Start(start) => {
                    let _ = peer.send(now, PeerMessage::Started { id: start.id });
                }
                _ => {}
            }
        }
    }

    /// The peer says this.
    pub(crate) fn say_to_peer(&mut self, now: Instant, message: PeerMessage) {
        if let Some(peer) = &mut self.peer {
            match message {
                PeerMessage::Ping { .. } | PeerMessage::Pong { .. } => peer.send_once(now, message),
                _ => drop(peer.send(now, message)),
            }
        }
        self.transmit(now);
    }

    /// The server says something that it made up.
    pub(crate) fn lie(&mut self, now: Instant, script: &mut Script<'_>) -> Vec<Vec<u8>> {
        let (choice, number) = (script.byte(), script.number());
        let message = match choice % 12 {
            0 => FromServer::Registered,
            1 => FromServer::NotRegistered {
                why: [NameRefusal::Owned, NameRefusal::Taken][usize::from(choice / 128)],
            },
            2 => FromServer::Found { request: number, key: key(script.below(3)).public().0 },
            3 => FromServer::Absent { request: number, last_seen: (choice >= 128).then_some(script.u64()) },
            4 => FromServer::NotKept { request: number, why: RequestRefusal::Full },
            5 => FromServer::Introduction { relation: number, hello: Blob(script.bytes().to_vec()) },
            6 => {
                let addresses =
                    (0..script.below(6)).map(|n| SocketAddr::from(([203, 0, 113, n as u8], 1000)));
                let relation = if choice >= 128 { self.relation } else { number };
                FromServer::Introduced {
                    relation,
                    addresses: addresses.collect(),
                    reply: Blob(script.bytes().to_vec()),
                }
            }
            7 => FromServer::Declined {
                request: number,
                why: [Decline::Invite, Decline::Busy][usize::from(choice / 128)],
            },
            8 => FromServer::Gone { relation: if choice >= 128 { self.relation } else { number } },
            9 => FromServer::Released { name: "box".into(), outcome: Release::Done },
            10 => {
                self.introduce(now);
                FromServer::Registered
            }
            _ => match wire::decode(script.bytes(), 255) {
                Ok(message) => message,
                Err(_) => return vec![self.refusal(choice)],
            },
        };
        self.tell(now, message);
        self.transmit(now);
        Vec::new()
    }

    /// REFUSE, which anybody can say.
    fn refusal(&self, choice: u8) -> Vec<u8> {
        let index = self.server.as_ref().map_or(0, Channel::remote_index);
        let mut datagram = index.to_be_bytes().to_vec();
        datagram.extend_from_slice(&[6, choice % 3, choice / 16]);
        datagram
    }

    /// The peer's end of a new connection, and its first bytes.
    pub(crate) fn end(&self, number: u32) -> Option<(End, Vec<u8>)> {
        let psk = self.psk.as_ref()?;
        if !self.endpoint_is_host {
            let responder = LinkResponder::new([4; 32], key(2), key(1).public(), &self.session, psk);
            return Some((End::Responder(Box::new(responder)), Vec::new()));
        }
        let (initiator, first) =
            LinkInitiator::new([3; 32], key(2), &key(1).public(), &self.session, psk, number);
        Some((End::Initiator(Box::new(initiator)), first))
    }
}
