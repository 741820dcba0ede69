//! Which name belongs to which key, and who holds it now.
//!
//! A name belongs to the key that first registered it ([`Store`] is what the driver writes to disk), until
//! that key gives it up or [`Limits::name_ttl`] has passed without anybody holding it. It is *held* by one
//! run of a program that has the key. Nobody is told that a name changed hands before it is on disk.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    time::{Duration, Instant},
};

use super::{
    alike::{Name, alike},
    directory::NodeRef,
    limits::Limits,
    rates::{Prefix, Rate, Rates},
};
use crate::{
    secure::PublicKey,
    wire::{
        MAX_NAME,
        server::{NameRefusal, Release},
    },
};

/// What is to be written to disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Store {
    /// Remember this, in place of what was known about the name.
    Put {
        /// The name.
        name: String,
        /// Whose it is.
        key: PublicKey,
        /// When it was last registered, seconds since 1970.
        last_seen: u64,
    },
    /// Forget the name: it was given up, or nobody has held it for too long.
    Forget {
        /// The name.
        name: String,
    },
}

/// Is that a host's name? 1 to 63 of `a`-`z`, `0`-`9` and `-`, the last neither first nor last nor twice
/// in a row (a label of RFC 1123, lower case only; two dashes look like one, and begin what RFC 5891 keeps
/// for other alphabets).
pub fn is_name(text: &str) -> bool {
    (1..=MAX_NAME).contains(&text.len())
        && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
        && !text.starts_with('-')
        && !text.ends_with('-')
        && !text.contains("--")
}

/// All names.
pub(super) struct Names {
    owners: BTreeMap<Name, Owner>,
    /// The same names by their owners.
    by_key: BTreeSet<(KeyStart, Name)>,
    changed: BTreeSet<Name>,
    unstored: Unstored,
    new_names: Rates,
    most: usize,
    most_per_key: usize,
    /// Seconds.
    ttl: u64,
}

/// The first bytes of a key: enough to find the names that may be its own, which tell whose they are.
type KeyStart = [u8; 8];

struct Owner {
    key: PublicKey,
    /// Seconds since 1970.
    last_seen: u64,
    holder: Option<NodeRef>,
}

impl Owner {
    /// Nobody has held the name for so long that it belongs to nobody any more.
    fn is_over(&self, unix_secs: u64, ttl: u64) -> bool {
        self.holder.is_none() && unix_secs.saturating_sub(self.last_seen) >= ttl
    }
}

/// Names that changed hands, until that is known to be on disk.
#[derive(Default)]
struct Unstored {
    /// Changes handed out so far.
    given: u64,
    /// The number of the last change that was handed out; `None` while it waits for that.
    names: BTreeMap<String, Option<u64>>,
    order: VecDeque<(u64, String)>,
}

impl Names {
    /// Begins with what was stored, without malformed names. More than the limit is kept: a smaller limit
    /// must not give away whose name it is.
    pub(super) fn new(
        now: Instant,
        limits: &Limits,
        stored: impl IntoIterator<Item = (String, PublicKey, u64)>,
    ) -> Self {
        let hour = Duration::from_secs(3600);
        let new_names = limits.new_names_per_source.max(1);
        let rate = Rate { units: new_names, period: hour, burst: new_names };
        let mut names = Names {
            owners: BTreeMap::new(),
            by_key: BTreeSet::new(),
            changed: BTreeSet::new(),
            unstored: Unstored::default(),
            new_names: Rates::new(now, rate, limits.sources),
            most: limits.names,
            most_per_key: limits.names_per_key,
            ttl: limits.name_ttl.as_secs(),
        };
        for (name, key, last_seen) in stored.into_iter().filter(|(name, ..)| is_name(name)) {
            names.own(name.as_str().into(), Owner { key, last_seen, holder: None });
        }
        names
    }

    /// Makes `node` the holder, and `key` the owner where there is none. Returns who held it before.
    pub(super) fn claim(
        &mut self,
        now: Instant,
        unix_secs: u64,
        source: Prefix,
        name: &str,
        key: PublicKey,
        node: NodeRef,
    ) -> Result<Option<NodeRef>, NameRefusal> {
        if !is_name(name) {
            return Err(NameRefusal::Malformed);
        }
        let name = Name::from(name);
        if self.owners.get(&name).is_some_and(|owner| owner.key != key && owner.is_over(unix_secs, self.ttl))
        {
            self.forget(&name);
        }
        if let Some(owner) = self.owners.get_mut(&name) {
            if owner.key != key {
                return Err(NameRefusal::Owned);
            }
            owner.last_seen = unix_secs;
            let before = owner.holder.replace(node);
            if before.is_none() {
                self.changed.insert(name);
            }
            return Ok(before);
        }
        if self.is_like_anothers(unix_secs, &name, key) {
            return Err(NameRefusal::Alike);
        }
        if self.of_key(key).count() >= self.most_per_key || !self.new_names.take(now, source) {
            return Err(NameRefusal::Full);
        }
        if self.owners.len() >= self.most && !self.forget_what_is_over(unix_secs) {
            return Err(NameRefusal::Full);
        }
        self.own(name.clone(), Owner { key, last_seen: unix_secs, holder: Some(node) });
        self.changes_hands(name);
        Ok(None)
    }

    /// The key gives the name up for good.
    pub(super) fn give_up(&mut self, name: &str, key: PublicKey) -> Release {
        let name = Name::from(name);
        match self.owners.get(&name) {
            None => Release::Unknown,
            Some(owner) if owner.key != key => Release::Owned,
            Some(Owner { holder: Some(_), .. }) => Release::Held,
            Some(Owner { holder: None, .. }) => {
                self.forget(&name);
                Release::Done
            }
        }
    }

    /// `node`, which has that key, holds no name any more. Returns those that it held.
    pub(super) fn release(&mut self, unix_secs: u64, key: PublicKey, node: NodeRef) -> Vec<Name> {
        let held: Vec<Name> = self
            .of_key(key)
            .filter(|(_, owner)| owner.holder == Some(node))
            .map(|(n, _)| n.clone())
            .collect();
        for name in &held {
            if let Some(owner) = self.owners.get_mut(name) {
                owner.holder = None;
                owner.last_seen = unix_secs;
                self.changed.insert(name.clone());
            }
        }
        held
    }

    /// Who holds the name now, and the key of both.
    pub(super) fn holder(&self, name: &str) -> Option<(NodeRef, PublicKey)> {
        let owner = self.owners.get(&name.into())?;
        Some((owner.holder?, owner.key))
    }

    /// Seconds since the name was last held; `None` if it belongs to nobody.
    pub(super) fn unseen_for(&self, unix_secs: u64, name: &str) -> Option<u64> {
        let owner = self.owners.get(&name.into()).filter(|owner| !owner.is_over(unix_secs, self.ttl))?;
        Some(unix_secs.saturating_sub(owner.last_seen))
    }

    /// To be called daily: what is held was seen now, in case that the next thing is a crash, and what was
    /// out of sight for too long is given up.
    pub(super) fn tend(&mut self, unix_secs: u64) {
        self.seen(unix_secs);
        self.forget_what_is_over(unix_secs);
    }

    /// All names that are held were seen now: the server is about to stop.
    pub(super) fn seen(&mut self, unix_secs: u64) {
        for (name, owner) in self.owners.iter_mut().filter(|(_, owner)| owner.holder.is_some()) {
            owner.last_seen = unix_secs;
            self.changed.insert(name.clone());
        }
    }

    /// What changed since it was last asked for.
    pub(super) fn poll_store(&mut self) -> Option<Store> {
        let owned = self.changed.pop_first()?;
        let name = owned.as_ref().to_owned();
        let unstored = &mut self.unstored;
        unstored.given += 1;
        if let Some(number) = unstored.names.get_mut(&name) {
            *number = Some(unstored.given);
            unstored.order.push_back((unstored.given, name.clone()));
        }
        Some(match self.owners.get(&owned) {
            Some(owner) => Store::Put { name, key: owner.key, last_seen: owner.last_seen },
            None => Store::Forget { name },
        })
    }

    /// The first so many that [`poll_store`](Self::poll_store) gave are on disk. Returns the names of which
    /// is known now who owns them, whatever happens.
    pub(super) fn stored(&mut self, count: u64) -> Vec<String> {
        let Unstored { names, order, .. } = &mut self.unstored;
        let done = order.partition_point(|(number, _)| *number <= count);
        let mut stored = Vec::new();
        for (number, name) in order.drain(..done) {
            // Otherwise it has changed hands again since.
            if names.get(&name) == Some(&Some(number)) {
                names.remove(&name);
                stored.push(name);
            }
        }
        stored
    }

    /// The first so many could not be written so far. Returns the names that wait for it.
    pub(super) fn unstored(&self, count: u64) -> Vec<String> {
        let waits = |number: &Option<u64>| number.is_some_and(|number| number <= count);
        self.unstored.names.iter().filter(|(_, n)| waits(n)).map(|(name, _)| name.clone()).collect()
    }

    /// Who owns the name, or that nobody does, is on disk.
    pub(super) fn is_stored(&self, name: &str) -> bool {
        !self.unstored.names.contains_key(name)
    }

    /// Names that are remembered.
    pub(super) fn len(&self) -> usize {
        self.owners.len()
    }

    /// Gives up what belongs to nobody any more; whether there was anything. Looks at every name, which
    /// [`Limits::new_names_per_source`] keeps rare.
    fn forget_what_is_over(&mut self, unix_secs: u64) -> bool {
        let over = self.owners.iter().filter(|(_, owner)| owner.is_over(unix_secs, self.ttl));
        let over: Vec<Name> = over.map(|(name, _)| name.clone()).collect();
        over.iter().for_each(|name| self.forget(name));
        !over.is_empty()
    }

    /// The names of a key.
    fn of_key(&self, key: PublicKey) -> impl Iterator<Item = (&Name, &Owner)> {
        let start = start_of(key);
        let names = self.by_key.range((start, "".into())..).take_while(move |(other, _)| *other == start);
        names
            .filter_map(|(_, name)| self.owners.get_key_value(name))
            .filter(move |(_, owner)| owner.key == key)
    }

    fn own(&mut self, name: Name, owner: Owner) {
        self.by_key.insert((start_of(owner.key), name.clone()));
        self.owners.insert(name, owner);
    }

    fn forget(&mut self, name: &Name) {
        let Some(Owner { key, .. }) = self.owners.remove(name) else { return };
        self.by_key.remove(&(start_of(key), name.clone()));
        self.changes_hands(name.clone());
    }

    fn changes_hands(&mut self, name: Name) {
        self.unstored.names.insert(name.as_ref().to_owned(), None);
        self.changed.insert(name);
    }

    /// Another key owns a name that people take for this one.
    fn is_like_anothers(&mut self, unix_secs: u64, name: &Name, key: PublicKey) -> bool {
        let (mut over, mut others) = (Vec::new(), false);
        for (other, owner) in alike(&self.owners, name).filter(|(_, owner)| owner.key != key) {
            if owner.is_over(unix_secs, self.ttl) {
                over.push(other.clone());
            } else {
                others = true;
            }
        }
        over.iter().for_each(|name| self.forget(name));
        others
    }
}

fn start_of(key: PublicKey) -> KeyStart {
    let [a, b, c, d, e, f, g, h, ..] = key.0;
    [a, b, c, d, e, f, g, h]
}

#[cfg(test)]
#[path = "names_tests.rs"]
mod tests;
