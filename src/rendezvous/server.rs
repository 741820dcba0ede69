//! The server: datagrams in, datagrams out, what is to be stored.
//!
//! **After every `handle_*`: drain [`poll_transmit`](Server::poll_transmit) and
//! [`poll_store`](Server::poll_store), then sleep until [`poll_timeout`](Server::poll_timeout).** What was
//! stored is told by [`handle_stored`](Server::handle_stored).
//!
//! A stranger costs an HMAC and no memory. Nothing is answered that is shorter than the answer, until
//! the sender has shown that it receives where it sends from: at first by the cookie in INIT, and by the
//! proof in Ping when its datagrams begin to come from another UDP address.

use std::{
    collections::{BTreeSet, VecDeque},
    time::Instant,
};

use rand::RngExt;

use super::{
    Limits, Source, Store,
    associations::{Associations, Due},
    cookie::Cookies,
    directory::Directory,
    limits::{FAILED_HANDSHAKE, TEND_NAMES_EVERY},
    names::Names,
    rates::{Bucket, Rate, Rates},
    spent::{Spent, fingerprint},
};
use crate::{
    secure::{Generator, PublicKey, Purpose, Responder, StaticKey},
    wire::{
        self, MAX_DATAGRAM, VERSION, WireError,
        packet::{COOKIE, Packet, Refusal},
        server::ClientHello,
    },
};

/// What a server is doing, in numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Stats {
    /// Associations alive.
    pub associations: usize,
    /// Runs of clients alive.
    pub clients: usize,
    /// Names remembered.
    pub names: usize,
    /// Requests that wait for a name.
    pub waiting: usize,
    /// Relations.
    pub relations: usize,
    /// Sources whose rates are remembered.
    pub sources: usize,
    /// Datagrams that came in.
    pub received: u64,
    /// Those among them that were no valid datagram, above a rate, or not authentic.
    pub dropped: u64,
    /// Datagrams that went out.
    pub sent: u64,
}

/// A rendezvous server without its sockets.
pub struct Server {
    pub(super) now: Instant,
    key: StaticKey,
    limits: Limits,
    rng: Generator,
    pub(super) cookies: Cookies,
    hellos: (Bucket, Rates),
    inits: (Bucket, Rates),
    spent: Spent,
    /// Keys that are served; all of them without.
    allowed: Option<BTreeSet<PublicKey>>,
    tend_names_at: Instant,
    pub(super) associations: Associations,
    pub(super) directory: Directory,
    pub(super) out: VecDeque<(Source, Vec<u8>)>,
    received: u64,
    dropped: u64,
    sent: u64,
}

impl Server {
    /// A server with that key. `owners` is what was stored: name, key, and when it was last registered,
    /// seconds since 1970. All of its random numbers come from `seed`.
    pub fn new(
        now: Instant,
        seed: [u8; 32],
        key: StaticKey,
        limits: Limits,
        owners: impl IntoIterator<Item = (String, PublicKey, u64)>,
    ) -> Self {
        let mut rng = Generator::new(seed);
        let rates = |units: u32| {
            let rate = Rate::per_second(units, units.saturating_mul(4));
            (Bucket::new(now), Rates::new(now, rate, limits.sources))
        };
        Server {
            now,
            key,
            cookies: Cookies::new(now, rng.random()),
            hellos: rates(limits.hellos_per_source),
            inits: rates(limits.inits_per_source),
            spent: Spent::default(),
            allowed: None,
            tend_names_at: now + TEND_NAMES_EVERY,
            associations: Associations::new(now, rng.random(), limits.associations_per_source),
            directory: Directory::new(Names::new(now, &limits, owners), limits.clone()),
            out: VecDeque::new(),
            received: 0,
            dropped: 0,
            sent: 0,
            rng,
            limits,
        }
    }

    /// This server's public key.
    pub fn public_key(&self) -> PublicKey {
        self.key.public()
    }

    /// Serves these keys only, or (`None`) every key. Clients with another one are gone at once.
    pub fn allow(&mut self, now: Instant, unix_secs: u64, keys: Option<BTreeSet<PublicKey>>) {
        self.now = now;
        self.allowed = keys;
        let unwanted: Vec<u32> = self
            .associations
            .keys()
            .filter(|(_, key)| !self.is_allowed(key))
            .map(|(index, _)| index)
            .collect();
        for index in unwanted {
            self.remove(unix_secs, index);
        }
        self.deliver(unix_secs);
    }

    fn is_allowed(&self, key: &PublicKey) -> bool {
        self.allowed.as_ref().is_none_or(|keys| keys.contains(key))
    }

    /// A datagram came. `unix_secs` is the time of day, seconds since 1970, for what is stored. Returns whether
    /// somebody with a key said it, who receives at that address.
    pub fn handle_datagram(&mut self, now: Instant, unix_secs: u64, from: Source, datagram: &[u8]) -> bool {
        self.now = now;
        self.received += 1;
        let mut authentic = false;
        let taken = match Packet::parse(datagram) {
            Ok(Packet::Hello { sender }) => self.hello(from, sender),
            Ok(Packet::Init { sender, cookie, noise }) => {
                authentic = self.init(unix_secs, from, sender, &cookie, noise).is_some();
                authentic
            }
            Ok(Packet::Data { index, counter, sealed }) if self.associations.get(index).is_some() => {
                authentic = self.data(unix_secs, from, (index, counter), datagram.len(), sealed).is_some();
                authentic
            }
            Ok(Packet::Data { index, .. }) => self.refuse(from, datagram, index, Refusal::Unknown),
            Err(WireError::Version { .. }) => {
                // In every version the index of the sender follows the version.
                let index = datagram.get(6..10).and_then(|b| b.try_into().ok()).map_or(0, u32::from_be_bytes);
                self.refuse(from, datagram, index, Refusal::Version)
            }
            Ok(Packet::Cookie { .. } | Packet::Reply { .. } | Packet::Refuse { .. }) | Err(_) => false,
        };
        if !taken {
            self.dropped += 1;
        }
        authentic
    }

    /// The alarm of [`poll_timeout`](Self::poll_timeout) rang (or anything earlier or later).
    pub fn handle_timeout(&mut self, now: Instant, unix_secs: u64) {
        self.now = now;
        while let Some(due) = self.associations.due(now) {
            match due {
                Due::Repeats(index) => self.flush(index),
                Due::Silent(index) => self.remove(unix_secs, index),
            }
        }
        self.spent.turn(self.cookies.generation(now));
        if self.tend_names_at <= now {
            self.tend_names_at = now + TEND_NAMES_EVERY;
            self.directory.names.tend(unix_secs);
        }
        self.deliver(unix_secs);
    }

    /// The server is about to stop: what is to be remembered about the names that are held is in
    /// [`poll_store`](Self::poll_store) then.
    pub fn handle_stop(&mut self, unix_secs: u64) {
        self.directory.names.seen(unix_secs);
    }

    /// The next datagram to send.
    pub fn poll_transmit(&mut self) -> Option<(Source, Vec<u8>)> {
        let transmit = self.out.pop_front()?;
        self.sent += 1;
        Some(transmit)
    }

    /// The first `count` of what [`poll_store`](Self::poll_store) gave are on disk. Only now is told who waits for
    /// a new name, or for the end of one.
    pub fn handle_stored(&mut self, now: Instant, unix_secs: u64, count: u64) {
        self.now = now;
        self.directory.stored(count);
        self.deliver(unix_secs);
    }

    /// The first `count` of them cannot be written for now; they stay to be stored.
    pub fn handle_unstored(&mut self, now: Instant, unix_secs: u64, count: u64) {
        self.now = now;
        self.directory.unstored(count);
        self.deliver(unix_secs);
    }

    /// The next thing to store: in this order, and [told](Self::handle_stored) when it is done.
    pub fn poll_store(&mut self) -> Option<Store> {
        self.directory.names.poll_store()
    }

    /// When [`handle_timeout`](Self::handle_timeout) is wanted next.
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.associations.next_alarm().into_iter().chain([self.tend_names_at]).min()
    }

    /// What it is doing.
    pub fn stats(&self) -> Stats {
        let (associations, clients) = self.associations.len();
        let (waiting, relations) = self.directory.len();
        Stats {
            associations,
            clients,
            names: self.directory.names.len(),
            waiting,
            relations,
            sources: self.hellos.1.len() + self.inits.1.len(),
            received: self.received,
            dropped: self.dropped,
            sent: self.sent,
        }
    }

    fn hello(&mut self, from: Source, sender: u32) -> bool {
        let allowed = self.allow_stranger(from);
        if allowed {
            let cookie = self.cookies.make(self.now, from, sender);
            let server_key = self.key.public().0;
            self.out.push_back((from, Packet::Cookie { index: sender, cookie, server_key }.encode()));
        }
        allowed
    }

    /// Says no, if the question was long enough and the source has not asked too often.
    fn refuse(&mut self, to: Source, question: &[u8], index: u32, reason: Refusal) -> bool {
        let answer = Packet::Refuse { index, version: VERSION, reason }.encode();
        let allowed = answer.len() <= question.len() && self.allow_stranger(to);
        if allowed {
            self.out.push_back((to, answer));
        }
        allowed
    }

    /// What all have together is used up by UDP alone, whose sources may be made up: over TCP nobody is who he is not,
    /// and whoever cannot get through by UDP gets in there.
    fn allow_stranger(&mut self, from: Source) -> bool {
        let all = Rate::per_second(self.limits.hellos, self.limits.hellos);
        self.hellos.1.take(self.now, from.addr.into()) && (!from.udp || self.hellos.0.take(self.now, all, 1))
    }

    /// Everything before the first Diffie-Hellman is cheap; everything after it is paid for by a cookie and
    /// a place within two rates.
    fn init(
        &mut self,
        unix_secs: u64,
        from: Source,
        sender: u32,
        cookie: &[u8; COOKIE],
        noise: &[u8],
    ) -> Option<()> {
        let now = self.now;
        let generation = self.cookies.verify(now, from, sender, cookie)?;
        self.spent.turn(self.cookies.generation(now));
        let print = fingerprint(sender, noise);
        if let Some(index) = self.spent.get(&print) {
            // The same again: the answer was lost. Once it has arrived there is nothing to say.
            let reply = self.associations.get(index)?.reply()?.clone();
            self.out.push_back((from, reply));
            return Some(());
        }
        let all = Rate::per_second(self.limits.inits, self.limits.inits);
        if !self.inits.1.take(now, from.addr.into()) || !self.inits.0.take(now, all, 1) {
            return None;
        }
        let read = Responder::read(self.rng.random(), &self.key, Purpose::Server, cookie, noise);
        let Ok((responder, payload)) = read else {
            self.inits.1.fine(now, from.addr.into(), FAILED_HANDSHAKE - 1);
            return None;
        };
        if !self.is_allowed(&responder.remote()) {
            let private = Packet::Refuse { index: sender, version: VERSION, reason: Refusal::Private };
            self.out.push_back((from, private.encode()));
            return Some(());
        }
        let hello: ClientHello = wire::decode(&payload, MAX_DATAGRAM).ok()?;
        let node = self.associations.node(&(responder.remote(), hello.node)).filter(|node| {
            let has_room = self.associations.replaced_by(*node, from).is_some() || self.has_room(from);
            has_room && self.spent.len() < 4 * self.limits.associations
        });
        let Some(node) = node else {
            let busy = Packet::Refuse { index: sender, version: VERSION, reason: Refusal::Busy };
            self.out.push_back((from, busy.encode()));
            return Some(());
        };
        let index = std::iter::repeat_with(|| self.rng.random()).find(|i| self.associations.is_free(*i))?;
        self.spent.insert(generation, print, index);
        self.open(unix_secs, from, (index, sender), node, responder, hello);
        Some(())
    }

    fn has_room(&self, from: Source) -> bool {
        self.associations.len().0 < self.limits.associations && self.associations.has_room(from.addr.into())
    }
}
