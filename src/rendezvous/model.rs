//! Random clients of one server against a reference that knows nothing of associations, datagrams and disks.
//!
//! `SERVER_SEQUENCES=10000` makes it a campaign, `SERVER_FIRST=4711` begins with that seed.

use std::{collections::BTreeMap, time::Duration};

use rand::{RngExt, SeedableRng, rngs::StdRng};

use super::{
    Limits,
    world::{Weather, World, key},
};
use crate::{
    secure::PublicKey,
    wire::{
        Blob,
        server::{Decline, FromServer, NameRefusal, Release, ToServer},
    },
};

const NAMES: [&str; 6] = ["box", "b0x", "rnap", "map", "wall", "pi"];

/// Which of the names are taken for which.
const ALIKE: [(usize, usize); 2] = [(0, 1), (2, 3)];

const KEYS: u8 = 3;

/// Seconds.
const TTL: u64 = 600;

/// What the reference cannot know to the second: when a silent client is held for gone.
const BLUR: u64 = 100;

const STEPS: usize = 40;

/// What is so, by the rules alone.
#[derive(Default)]
struct Reference {
    owners: BTreeMap<usize, Owner>,
    /// Requests without an answer.
    waiting: Vec<(usize, usize, u32)>,
    expected: Vec<(usize, FromServer)>,
}

struct Owner {
    key: u8,
    holder: Option<usize>,
    last_seen: u64,
    /// As it is after a crash.
    written: u64,
}

struct Model {
    world: World,
    rng: StdRng,
    reference: Reference,
    /// The clients that run, with the number of their key.
    clients: Vec<(usize, u8)>,
    next_request: u32,
}

impl Reference {
    /// The owner, if the name has one at that time; `Err` where that is too close to say.
    fn owner(&self, now: u64, name: usize) -> Result<Option<&Owner>, ()> {
        let Some(owner) = self.owners.get(&name) else { return Ok(None) };
        match (owner.holder, now.saturating_sub(owner.last_seen)) {
            (Some(_), _) => Ok(Some(owner)),
            (None, age) if age + BLUR < TTL => Ok(Some(owner)),
            (None, age) if age > TTL + BLUR => Ok(None),
            _ => Err(()),
        }
    }

    fn register(&mut self, now: u64, client: usize, key: u8, name: usize) -> Result<(), ()> {
        let refused = |why| (client, FromServer::NotRegistered { why });
        let owner = self.owner(now, name)?.map(|owner| owner.key);
        if owner.is_some_and(|owner| owner != key) {
            self.expected.push(refused(NameRefusal::Owned));
            return Ok(());
        }
        if owner.is_none() {
            for (one, other) in ALIKE {
                let other = if name == one { other } else { one };
                let concerned = [one, other].contains(&name) || ALIKE.contains(&(other, name));
                if concerned && self.owner(now, other)?.is_some_and(|owner| owner.key != key) && other != name
                {
                    self.expected.push(refused(NameRefusal::Alike));
                    return Ok(());
                }
            }
        }
        let before = self.owners.get(&name).filter(|owner| owner.key == key);
        let (holder, written) = before.map_or((None, now), |owner| (owner.holder, owner.written));
        if let Some(before) = holder.filter(|before| *before != client) {
            self.expected.push((before, FromServer::NotRegistered { why: NameRefusal::Taken }));
        }
        let written = if holder.is_none() { now } else { written };
        self.owners.insert(name, Owner { key, holder: Some(client), last_seen: now, written });
        self.expected.push((client, FromServer::Registered));
        let key = public(key).0;
        for (asker, wanted, request) in std::mem::take(&mut self.waiting) {
            if wanted == name {
                self.expected.push((asker, FromServer::Found { request, key }));
            } else {
                self.waiting.push((asker, wanted, request));
            }
        }
        Ok(())
    }

    fn leave(&mut self, now: u64, client: usize) {
        for owner in self.owners.values_mut().filter(|owner| owner.holder == Some(client)) {
            (owner.holder, owner.last_seen, owner.written) = (None, now, now);
        }
    }

    fn release(&mut self, now: u64, client: usize, key: u8, name: usize) -> Result<(), ()> {
        let outcome = match self.owner(now, name)? {
            // It may not have been cleared away yet; asking is not worth a test.
            None if self.owners.contains_key(&name) => return Err(()),
            None => Release::Unknown,
            Some(owner) if owner.key != key => Release::Owned,
            Some(Owner { holder: Some(_), .. }) => Release::Held,
            Some(_) => {
                self.owners.remove(&name);
                Release::Done
            }
        };
        self.expected.push((client, FromServer::Released { name: NAMES[name].into(), outcome }));
        Ok(())
    }
}

fn public(number: u8) -> PublicKey {
    key(number).public()
}

impl Model {
    fn new(seed: u64) -> Model {
        let limits = Limits {
            name_ttl: Duration::from_secs(TTL),
            names_per_key: 100,
            new_names_per_source: 10_000,
            requests_per_client: 1_000,
            ..Limits::default()
        };
        let mut model = Model {
            world: World::with(seed, limits, Weather::default()),
            rng: StdRng::seed_from_u64(seed),
            reference: Reference::default(),
            clients: Vec::new(),
            next_request: 1,
        };
        for number in 0..5 {
            model.join(1 + number % KEYS);
        }
        model
    }

    fn join(&mut self, key: u8) {
        let client = self.world.join(key);
        self.clients.push((client, key));
    }

    fn now(&self) -> u64 {
        self.world.unix_secs()
    }

    /// One thing that can happen; `None` where the reference cannot tell what would come of it.
    fn step(&mut self) -> Result<String, ()> {
        let place = self.rng.random_range(0..self.clients.len());
        let (client, key) = self.clients[place];
        let name = self.rng.random_range(0..NAMES.len());
        let (text, now) = (NAMES[name].to_owned(), self.now());
        let did = format!("client {client} of key {key}, {text}");
        match self.rng.random_range(0..100) {
            0..30 => {
                self.reference.register(now, client, key, name)?;
                self.world.send(client, ToServer::Register { name: text });
                Ok(format!("register: {did}"))
            }
            30..40 => {
                self.reference.leave(now, client);
                self.world.send(client, ToServer::Unregister);
                Ok(format!("unregister: {did}"))
            }
            40..55 => {
                self.reference.release(now, client, key, name)?;
                self.world.send(client, ToServer::Release { name: text });
                Ok(format!("release: {did}"))
            }
            55..70 => self.find(client, name).map(|()| format!("find: {did}")),
            70..82 => self.connect(client, name).map(|()| format!("connect: {did}")),
            82..88 => {
                // It is killed, and begins anew.
                self.world.parties[client].running = false;
                self.world.run_for(Duration::from_secs(80));
                let now = self.now();
                self.reference.leave(now, client);
                self.reference.waiting.retain(|(asker, ..)| *asker != client);
                self.clients.remove(place);
                self.join(key);
                Ok(format!("killed: {did}"))
            }
            88..94 => {
                self.world.restart_server();
                self.reference.waiting.clear();
                for owner in self.reference.owners.values_mut() {
                    (owner.holder, owner.last_seen) = (None, owner.written);
                }
                // Until all have noticed.
                self.world.run_for(Duration::from_secs(60));
                Ok("the server begins anew".into())
            }
            _ => {
                let seconds = if self.rng.random() { self.rng.random_range(1..60) } else { 900 };
                self.world.run_for(Duration::from_secs(seconds));
                Ok(format!("{seconds} s"))
            }
        }
    }

    fn find(&mut self, client: usize, name: usize) -> Result<(), ()> {
        let request = self.next_request;
        self.next_request += 1;
        let now = self.now();
        let answer = match self.reference.owner(now, name)? {
            Some(Owner { key, holder: Some(_), .. }) => FromServer::Found { request, key: public(*key).0 },
            owner => {
                let last_seen = owner.map(|owner| now - owner.last_seen);
                FromServer::Absent { request, last_seen }
            }
        };
        if matches!(answer, FromServer::Absent { .. }) {
            self.reference.waiting.push((client, name, request));
        }
        self.reference.expected.push((client, answer));
        self.world.send(client, ToServer::Find { request, name: NAMES[name].into() });
        Ok(())
    }

    /// A whole introduction: let in or not, a datagram each way, the end.
    fn connect(&mut self, client: usize, name: usize) -> Result<(), ()> {
        let holder = self.reference.owner(self.now(), name)?.and_then(|owner| owner.holder);
        let Some(host) = holder.filter(|host| *host != client) else { return Err(()) };
        let request = self.next_request;
        self.next_request += 1;
        let hello = Blob(request.to_be_bytes().to_vec());
        let message = ToServer::Introduce { request, name: NAMES[name].into(), hello: hello.clone() };
        self.world.send(client, message);
        self.world.run_for(Duration::from_secs(1));
        let heard = std::mem::take(&mut self.world.parties[host].inbox);
        let [FromServer::Introduction { relation, hello: said }] = &heard[..] else {
            panic!("not introduced: {heard:?}")
        };
        assert_eq!(*said, hello);
        let relation = *relation;
        if self.rng.random_range(0..3) == 0 {
            let why = Decline::Unauthorised;
            self.world.send(host, ToServer::Decline { relation, why });
            self.reference.expected.push((client, FromServer::Declined { request, why }));
            return Ok(());
        }
        let reply = Blob(vec![7; 60]);
        self.world.send(host, ToServer::Accept { relation, reply: reply.clone() });
        self.world.run_for(Duration::from_secs(1));
        let address = |party: usize| vec![self.world.parties[party].udp];
        let to_client = FromServer::Introduced { relation: request, addresses: address(host), reply };
        let to_host = FromServer::Introduced { relation, addresses: address(client), reply: Blob::default() };
        self.reference.expected.extend([(client, to_client), (host, to_host)]);
        let datagram = Blob(vec![9; 100]);
        self.world.send(client, ToServer::Relay { relation: request, datagram: datagram.clone() });
        self.world.run_for(Duration::from_secs(1));
        self.world.send(client, ToServer::Cancel { request });
        let relayed = FromServer::Relay { relation, datagram };
        self.reference.expected.extend([(host, relayed), (host, FromServer::Gone { relation })]);
        Ok(())
    }

    /// Everybody has heard what the reference says, and nothing else.
    fn compare(&mut self, story: &[String]) {
        self.world.run_for(Duration::from_secs(2));
        let mut expected: BTreeMap<usize, Vec<FromServer>> = BTreeMap::new();
        for (client, message) in self.reference.expected.drain(..) {
            expected.entry(client).or_default().push(message);
        }
        for (client, _) in &self.clients {
            let mut heard = std::mem::take(&mut self.world.parties[*client].inbox);
            let mut expected = expected.remove(client).unwrap_or_default();
            for (heard, expected) in heard.iter_mut().zip(&expected) {
                let (
                    FromServer::Absent { last_seen: Some(heard), .. },
                    FromServer::Absent { last_seen: Some(expected), .. },
                ) = (heard, expected)
                else {
                    continue;
                };
                if heard.abs_diff(*expected) <= BLUR {
                    *heard = *expected;
                }
            }
            let text = |message: &FromServer| format!("{message:?}");
            heard.sort_by_key(text);
            expected.sort_by_key(text);
            assert_eq!(heard, expected, "client {client} after {story:#?}");
        }
        let stats = self.world.server.stats();
        assert_eq!(stats.clients, self.clients.len(), "after {story:#?}");
        assert_eq!(stats.waiting, self.reference.waiting.len(), "after {story:#?}");
        assert_eq!(stats.relations, 0, "after {story:#?}");
    }
}

fn from_environment(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |text| text.parse().expect("a number"))
}

#[test]
fn random_clients_are_answered_as_the_reference_says() {
    let first = from_environment("SERVER_FIRST", 0);
    let count = from_environment("SERVER_SEQUENCES", 12);
    let mut answers = 0;
    for seed in first..first + count {
        let mut model = Model::new(seed);
        // Everybody introduces itself, so that all have associations.
        model.world.run_for(Duration::from_secs(5));
        let mut story = vec![format!("SERVER_FIRST={seed} SERVER_SEQUENCES=1")];
        for _ in 0..STEPS {
            let Ok(did) = model.step() else { continue };
            story.push(did);
            answers += model.reference.expected.len();
            model.compare(&story);
        }
    }
    assert!(answers as u64 > 10 * count, "{answers} answers are no test");
}
