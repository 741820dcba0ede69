//! One attempt to reach a server: HELLO until a cookie comes, INIT until REPLY comes.

use std::{
    collections::VecDeque,
    net::SocketAddr,
    time::{Duration, Instant},
};

use super::client::TCP_AFTER;
use crate::{
    channel::Body,
    endpoint::Path,
    secure::{DatagramKeys, Initiator, Psk, PublicKey, Purpose, StaticKey},
    wire::{
        self, MAX_DATAGRAM,
        packet::{COOKIE, Packet},
        server::{ClientHello, ServerHello, ToServer},
    },
};

/// First interval between two HELLOs; each is twice the one before.
const FIRST_GAP: Duration = Duration::from_millis(100);

/// Longest interval between two HELLOs.
const LONGEST_GAP: Duration = Duration::from_secs(10);

/// First interval between two HELLOs over TCP, which loses nothing: a second one only helps where the
/// connection broke.
const FIRST_TCP_GAP: Duration = Duration::from_secs(2);

/// How long INIT is repeated before a new cookie is asked for.
const JOIN_PATIENCE: Duration = Duration::from_secs(5);

/// Where INIT was in vain over UDP (a path may lose long datagrams only), TCP gets this lead.
const TCP_LEAD: Duration = Duration::from_secs(2);

/// Longest payload of INIT: a datagram less header, ephemeral key, static key and two tags.
const MAX_HELLO: usize = MAX_DATAGRAM - 34 - 96;

/// An attempt.
pub(super) struct Attempt {
    pub(super) began: Instant,
    pub(super) local: u32,
    server: SocketAddr,
    udp: Ladder,
    tcp: Ladder,
    joining: Option<Joining>,
}

/// When the next one is sent, and the interval after that.
struct Ladder {
    next: Instant,
    gap: Duration,
}

impl Ladder {
    fn due(&mut self, now: Instant) -> bool {
        let due = self.next <= now;
        if due {
            self.next = now + self.gap;
            self.gap = (self.gap * 2).min(LONGEST_GAP);
        }
        due
    }
}

struct Joining {
    path: Path,
    handshake: Initiator,
    init: Vec<u8>,
    ladder: Ladder,
    until: Instant,
    begun: Instant,
    sent: u32,
    /// Messages of the queue that travel in INIT.
    carried: usize,
    server_key: PublicKey,
}

/// An association was made.
pub(super) struct Joined {
    pub(super) keys: DatagramKeys,
    pub(super) remote: u32,
    pub(super) hello: ServerHello,
    /// Messages of the queue that have arrived.
    pub(super) carried: usize,
    pub(super) server_key: PublicKey,
    /// Round trip, where it is not in doubt because INIT was sent once.
    pub(super) rtt: Option<Duration>,
}

impl Attempt {
    /// Sends its first HELLO at the first [`handle_timeout`](Self::handle_timeout).
    pub(super) fn new(now: Instant, local: u32, server: SocketAddr) -> Self {
        Attempt {
            began: now,
            local,
            server,
            udp: Ladder { next: now, gap: FIRST_GAP },
            tcp: Ladder { next: now + TCP_AFTER, gap: FIRST_TCP_GAP },
            joining: None,
        }
    }

    /// Sends what is due.
    pub(super) fn handle_timeout(&mut self, now: Instant, out: &mut VecDeque<(Path, Vec<u8>)>) {
        match &mut self.joining {
            Some(joining) if joining.until <= now => {
                let over_udp = matches!(joining.path, Path::Udp(_));
                self.joining = None;
                let (udp, tcp) = if over_udp { (now + TCP_LEAD, now) } else { (now, now + TCP_LEAD) };
                self.udp = Ladder { next: udp, gap: self.udp.gap };
                self.tcp = Ladder { next: tcp, gap: self.tcp.gap };
            }
            Some(joining) => {
                if joining.ladder.due(now) {
                    joining.sent += 1;
                    out.push_back((joining.path, joining.init.clone()));
                }
                return;
            }
            None => {}
        }
        let hello = || Packet::Hello { sender: self.local }.encode();
        if self.udp.due(now) {
            out.push_back((Path::Udp(self.server), hello()));
        }
        if self.tcp.due(now) {
            out.push_back((Path::Tcp(self.server), hello()));
        }
    }

    /// When [`handle_timeout`](Self::handle_timeout) is wanted next.
    pub(super) fn poll_timeout(&self) -> Instant {
        match &self.joining {
            Some(joining) => joining.until.min(joining.ladder.next),
            None => self.udp.next.min(self.tcp.next),
        }
    }

    /// The server said no: ask again only at the longest interval.
    pub(super) fn slow_down(&mut self, now: Instant) {
        self.joining = None;
        for ladder in [&mut self.udp, &mut self.tcp] {
            *ladder = Ladder { next: now + LONGEST_GAP, gap: LONGEST_GAP };
        }
    }

    /// A cookie for that index is the one that is waited for.
    pub(super) fn wants_cookie(&self, index: u32) -> bool {
        self.local == index && self.joining.is_none()
    }

    /// The cookie came by `path`: from now on INIT goes there, with as much of `queue` as fits.
    #[expect(clippy::too_many_arguments, reason = "they are what INIT is made of")]
    pub(super) fn join(
        &mut self,
        now: Instant,
        path: Path,
        seed: [u8; 32],
        key: &StaticKey,
        server_key: PublicKey,
        cookie: [u8; COOKIE],
        node: [u8; 16],
        queue: &VecDeque<ToServer>,
    ) {
        let mut hello =
            ClientHello { node, body: Body { ack: 0, seq: 0, kept: Vec::new(), once: Vec::new() } };
        let mut payload = wire::encode(&hello);
        for message in queue {
            hello.body.kept.push(message.clone());
            let longer = wire::encode(&hello);
            if longer.len() > MAX_HELLO {
                hello.body.kept.pop();
                break;
            }
            payload = longer;
        }
        let mut handshake = Initiator::new(seed, key, &server_key, Purpose::Server, &cookie, &Psk::none());
        let noise = handshake.write(&payload);
        let init = Packet::Init { sender: self.local, cookie, noise: &noise }.encode();
        // The round trip is not longer than this; a handshake takes the server a moment more.
        let gap = (2 * (now - self.began)).clamp(FIRST_GAP, 10 * FIRST_GAP);
        self.joining = Some(Joining {
            path,
            handshake,
            init,
            ladder: Ladder { next: now, gap },
            until: now + JOIN_PATIENCE,
            begun: now,
            sent: 0,
            carried: hello.body.kept.len(),
            server_key,
        });
    }

    /// REPLY came; nothing happens if it is not the answer, or not authentic.
    pub(super) fn reply(&mut self, now: Instant, index: u32, sender: u32, noise: &[u8]) -> Option<Joined> {
        let joining = self.joining.as_mut().filter(|_| self.local == index)?;
        let (payload, secrets) = joining.handshake.try_read(noise).ok()?;
        let hello: ServerHello = wire::decode(&payload, MAX_DATAGRAM).ok()?;
        let (carried, server_key) = (joining.carried, joining.server_key);
        let rtt = (joining.sent == 1).then(|| now - joining.begun);
        Some(Joined { keys: secrets.datagram(), remote: sender, hello, carried, server_key, rtt })
    }
}
