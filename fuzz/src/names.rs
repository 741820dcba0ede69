//! A server that reads anything from its disk: which name belongs to which key, and since when nobody has held it.
//!
//! A client registers, asks for and gives up names while the time of day jumps; a simple list says what must come of
//! it. What the server writes is what its next run begins with.

use std::{collections::BTreeMap, time::Instant};

use punchtunnel::{
    endpoint::Path,
    rendezvous::{Client, ClientEvent, Limits, Server, Source, Store, is_name},
    secure::PublicKey,
    wire::server::{FromServer, NameRefusal, Release, ToServer},
};

use super::{
    keys::key,
    script::{Script, start},
};

const SERVER: ([u8; 4], u16) = ([198, 51, 100, 1], 7862);
const CLIENT: ([u8; 4], u16) = ([192, 0, 2, 1], 5000);
const OURS: usize = 1;
/// Names that a script may speak of, some of them alike, some no names.
const SOME: [&str; 10] = ["box", "b0x", "modem", "modern", "a", "-", "", "Box", "vvall", "wa11"];

/// What is on disk: whose a name is, and when it was last seen.
type Disk = BTreeMap<String, (PublicKey, u64)>;

struct World {
    now: Instant,
    unix_secs: u64,
    ttl: u64,
    server: Server,
    client: Client,
    disk: Disk,
    stored: u64,
    /// Names that the client holds.
    held: Vec<String>,
}

/// Reads a disk, and plays the rest of the script on it.
pub(crate) fn run(bytes: &[u8]) {
    let mut script = Script::new(bytes);
    let mut disk = Disk::new();
    for _ in 0..script.below(12) {
        let name = name(&mut script);
        let last_seen = script.u64() >> (script.byte() % 64);
        disk.insert(name, (key(OURS + script.below(3)).public(), last_seen));
    }
    let (now, limits) = (start(), Limits { names: 6, names_per_key: 3, ..Limits::default() });
    let mut world = World {
        now,
        unix_secs: script.u64() >> (script.byte() % 64),
        ttl: limits.name_ttl.as_secs(),
        server: begin(now, &limits, &disk),
        client: Client::new(now, [1; 32], key(OURS).clone(), SERVER.into(), None, [1; 16]),
        disk,
        stored: 0,
        held: Vec::new(),
    };
    assert_eq!(world.say(None), [], "nothing was asked");
    for request in 0..16 {
        if script.is_over() {
            break;
        }
        world.step(request, &mut script);
    }
    world.server.handle_stop(world.unix_secs);
    world.write();
    for name in &world.held {
        assert_eq!(world.disk.get(name), Some(&(key(OURS).public(), world.unix_secs)), "{name} is held");
    }
    begin(now, &limits, &world.disk);
}

/// A run of the server. It knows the names on its disk, and takes nothing else for a name.
fn begin(now: Instant, limits: &Limits, disk: &Disk) -> Server {
    let stored = disk.iter().map(|(name, (key, last_seen))| (name.clone(), *key, *last_seen));
    let server = Server::new(now, [9; 32], key(9).clone(), limits.clone(), stored);
    assert_eq!(server.stats().names, disk.keys().filter(|name| is_name(name)).count());
    server
}

fn name(script: &mut Script<'_>) -> String {
    match SOME.get(usize::from(script.byte() % 16)) {
        Some(name) => (*name).to_owned(),
        None => String::from_utf8_lossy(script.bytes()).into_owned(),
    }
}

impl World {
    fn step(&mut self, request: u32, script: &mut Script<'_>) {
        let what = script.byte() % 8;
        let days = u64::from(script.number()).saturating_mul(24 * 3600);
        match what {
            0 | 1 => self.register(name(script)),
            2 => self.give_up(name(script)),
            3 | 4 => self.find(request, name(script)),
            5 => {
                self.say(Some(ToServer::Unregister));
                for name in std::mem::take(&mut self.held) {
                    assert_eq!(self.disk.get(&name), Some(&(key(OURS).public(), self.unix_secs)));
                }
            }
            _ => {
                self.unix_secs = self.unix_secs.saturating_add(days);
                self.server.handle_timeout(self.now, self.unix_secs);
                self.write();
            }
        }
    }

    fn register(&mut self, name: String) {
        let owner = self.owner(&name);
        let said = self.say(Some(ToServer::Register { name: name.clone() }));
        let expected = match (is_name(&name), owner) {
            (false, _) => Some(FromServer::NotRegistered { why: NameRefusal::Malformed }),
            (true, Some(owner)) if owner == key(OURS).public() => Some(FromServer::Registered),
            (true, Some(_)) => Some(FromServer::NotRegistered { why: NameRefusal::Owned }),
            // A new one may be too many, or too much like another key's.
            (true, None) => None,
        };
        assert!(expected.is_none_or(|expected| said == [expected]), "{name}: {owner:?}, {said:?}");
        if said == [FromServer::Registered] {
            assert_eq!(self.disk[&name].0, key(OURS).public(), "it is on disk before it is promised");
            self.held.push(name);
        }
    }

    fn give_up(&mut self, name: String) {
        let owner = self.owner(&name);
        let is_held = self.held.contains(&name);
        let said = self.say(Some(ToServer::Release { name: name.clone() }));
        let expected = match owner {
            _ if is_held => Release::Held,
            Some(owner) if owner == key(OURS).public() => Release::Done,
            Some(_) => Release::Owned,
            // What nobody has held for too long may be remembered, or not.
            None => return,
        };
        assert_eq!(said, [FromServer::Released { name: name.clone(), outcome: expected }]);
        assert_eq!(self.disk.contains_key(&name), expected != Release::Done);
    }

    fn find(&mut self, request: u32, name: String) {
        let owner = self.owner(&name);
        let last_seen = self.disk.get(&name).map(|(_, at)| self.unix_secs.saturating_sub(*at));
        let said = self.say(Some(ToServer::Find { request, name: name.clone() }));
        if self.held.contains(&name) {
            assert_eq!(said, [FromServer::Found { request, key: key(OURS).public().0 }]);
        } else if is_name(&name) {
            let last_seen = owner.and(last_seen);
            assert_eq!(said, [FromServer::Absent { request, last_seen }], "{name}");
        }
        self.say(Some(ToServer::Cancel { request }));
    }

    /// Whose name it is now: it was held not too long ago.
    fn owner(&self, name: &str) -> Option<PublicKey> {
        let (owner, last_seen) = self.disk.get(name).filter(|_| is_name(name))?;
        let is_over = self.unix_secs.saturating_sub(*last_seen) >= self.ttl;
        (!is_over || self.held.iter().any(|held| held == name)).then_some(*owner)
    }

    /// What the server answers; both talk until neither has anything to say.
    fn say(&mut self, message: Option<ToServer>) -> Vec<FromServer> {
        if let Some(message) = message {
            assert!(self.client.send(self.now, message).is_ok());
        }
        let from = Source { addr: CLIENT.into(), udp: true, via: 0 };
        while let Some((_, datagram)) = self.client.poll_transmit(self.now) {
            self.server.handle_datagram(self.now, self.unix_secs, from, &datagram);
            self.write();
            while let Some((_, answer)) = self.server.poll_transmit() {
                self.client.handle_datagram(self.now, Path::Udp(SERVER.into()), &answer);
            }
        }
        let events = std::iter::from_fn(|| self.client.poll_event());
        let message = |event| if let ClientEvent::Message(message) = event { Some(message) } else { None };
        events.filter_map(message).collect()
    }

    fn write(&mut self) {
        while let Some(change) = self.server.poll_store() {
            self.stored += 1;
            match change {
                Store::Put { name, key, last_seen } => {
                    assert!(is_name(&name), "{name:?}");
                    self.disk.insert(name, (key, last_seen));
                }
                Store::Forget { name } => drop(self.disk.remove(&name)),
            }
        }
        self.server.handle_stored(self.now, self.unix_secs, self.stored);
    }
}
