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

/// First interval between two HELLOs. The first few keep to it, so that a server under fire, which loses every
/// second datagram, is reached within half a second; then each is twice the one before.
const FIRST_GAP: Duration = Duration::from_millis(100);

/// Intervals before they grow.
const EVENLY: u32 = 5;

/// HELLOs of which is known when they left: those of the last seconds. An answer to an older one is none.
const MAX_ASKED: usize = 16;

/// Longest interval between two HELLOs.
const LONGEST_GAP: Duration = Duration::from_secs(10);

/// First interval between two HELLOs over TCP, which loses nothing: a second one only helps where the
/// connection broke.
const FIRST_TCP_GAP: Duration = Duration::from_secs(2);

/// For how many round trips INIT is repeated over UDP before a new cookie is asked for over TCP: and for
/// [`TCP_AFTER`] at least.
const JOIN_ROUND_TRIPS: u32 = 6;

/// How long INIT is repeated over TCP, which loses nothing.
const JOIN_TCP_PATIENCE: Duration = Duration::from_secs(5);

/// Where INIT was in vain over UDP (a path may lose long datagrams only), TCP gets this lead.
const TCP_LEAD: Duration = Duration::from_secs(2);

/// Longest payload of INIT: a datagram less header, ephemeral key, static key and two tags.
const MAX_HELLO: usize = MAX_DATAGRAM - 34 - 96;

/// An attempt.
pub(super) struct Attempt {
    pub(super) began: Instant,
    /// The index under which answers are expected: in INIT that of the HELLO which was answered.
    pub(super) local: u32,
    server: SocketAddr,
    udp: Ladder,
    tcp: Ladder,
    /// Each HELLO has an index of its own, so that its answer shows the round trip however many were lost: index, and
    /// when it left.
    asked: VecDeque<(u32, Instant)>,
    joining: Option<Joining>,
}

/// When the next one is sent, and the interval after that.
struct Ladder {
    next: Instant,
    gap: Duration,
    /// So many are sent before the interval grows.
    evenly: u32,
}

impl Ladder {
    fn new(next: Instant, gap: Duration) -> Self {
        Ladder { next, gap, evenly: 1 }
    }

    fn due(&mut self, now: Instant) -> bool {
        let due = self.next <= now;
        if due {
            self.next = now + self.gap;
            self.evenly = self.evenly.saturating_sub(1);
            if self.evenly == 0 {
                self.gap = (self.gap * 2).min(LONGEST_GAP);
            }
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
    /// From the HELLO that was answered to its cookie.
    answered_in: Duration,
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
    /// Round trip: that of INIT, or where it is in doubt which one was answered, over UDP that of HELLO.
    pub(super) rtt: Option<Duration>,
}

impl Attempt {
    /// Sends its first HELLO at the first [`handle_timeout`](Self::handle_timeout).
    pub(super) fn new(now: Instant, local: u32, server: SocketAddr) -> Self {
        Attempt {
            began: now,
            local,
            server,
            udp: Ladder { evenly: EVENLY, ..Ladder::new(now, FIRST_GAP) },
            tcp: Ladder::new(now + TCP_AFTER, FIRST_TCP_GAP),
            asked: VecDeque::new(),
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
                self.udp = Ladder::new(udp, self.udp.gap);
                self.tcp = Ladder::new(tcp, self.tcp.gap);
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
        for (is_due, path) in
            [(self.udp.due(now), Path::Udp(self.server)), (self.tcp.due(now), Path::Tcp(self.server))]
        {
            if is_due {
                out.push_back((path, self.hello(now)));
            }
        }
    }

    fn hello(&mut self, now: Instant) -> Vec<u8> {
        let sender = self.asked.back().map_or(self.local, |(last, _)| last.wrapping_add(1).max(1));
        self.asked.push_back((sender, now));
        if self.asked.len() > MAX_ASKED {
            self.asked.pop_front();
        }
        Packet::Hello { sender }.encode()
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
            *ladder = Ladder::new(now + LONGEST_GAP, LONGEST_GAP);
        }
    }

    /// A cookie for that index is the one that is waited for.
    pub(super) fn wants_cookie(&self, index: u32) -> bool {
        self.has_asked(index) && self.joining.is_none()
    }

    /// That index is in something that was sent not long ago.
    pub(super) fn has_asked(&self, index: u32) -> bool {
        self.local == index || self.asked.iter().any(|(asked, _)| *asked == index)
    }

    /// The cookie for the HELLO of that index came by `path`: from now on INIT goes there, with as much of `queue` as
    /// fits.
    #[expect(clippy::too_many_arguments, reason = "they are what INIT is made of")]
    pub(super) fn join(
        &mut self,
        now: Instant,
        (path, index): (Path, u32),
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
        self.local = index;
        let init = Packet::Init { sender: index, cookie, noise: &noise }.encode();
        let asked = self.asked.iter().find(|(asked, _)| *asked == index).map_or(self.began, |(_, at)| *at);
        let answered_in = now - asked;
        // A handshake takes the server a moment more than a cookie.
        let gap = (2 * answered_in).clamp(FIRST_GAP, 10 * FIRST_GAP);
        let patience = match path {
            Path::Udp(_) => TCP_AFTER.max(JOIN_ROUND_TRIPS * answered_in),
            Path::Tcp(_) => JOIN_TCP_PATIENCE,
        };
        self.joining = Some(Joining {
            path,
            handshake,
            init,
            ladder: Ladder { evenly: EVENLY, ..Ladder::new(now, gap) },
            until: now + patience,
            begun: now,
            sent: 0,
            answered_in,
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
        let rtt = match joining.path {
            _ if joining.sent == 1 => Some(now - joining.begun),
            Path::Udp(_) => Some(joining.answered_in),
            // A connection had to be opened for it.
            Path::Tcp(_) => None,
        };
        Some(Joined { keys: secrets.datagram(), remote: sender, hello, carried, server_key, rtt })
    }
}
