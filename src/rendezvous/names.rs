//! Which name belongs to which key, and who holds it now.
//!
//! A name belongs to the key that first registered it ([`Store`] is what the driver writes to disk), until
//! that key gives it up or [`Limits::name_ttl`] has passed without anybody holding it. It is *held* by one
//! run of a program that has the key.

use std::{collections::BTreeMap, collections::BTreeSet, time::Duration, time::Instant};

use super::{
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

/// Is that a host's name? 1 to 63 of `a`-`z`, `0`-`9` and `-`, the last neither first nor last
/// (a label of RFC 1123, lower case only).
pub fn is_name(text: &str) -> bool {
    (1..=MAX_NAME).contains(&text.len())
        && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
        && !text.starts_with('-')
        && !text.ends_with('-')
}

/// All names.
pub(super) struct Names {
    owners: BTreeMap<String, Owner>,
    owned: BTreeMap<PublicKey, usize>,
    changed: BTreeSet<String>,
    new_names: Rates,
    most: usize,
    most_per_key: usize,
    /// Seconds.
    ttl: u64,
}

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

impl Names {
    /// Begins with what was stored; malformed names and what is above the limit are left out.
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
            owned: BTreeMap::new(),
            changed: BTreeSet::new(),
            new_names: Rates::new(now, rate, limits.sources),
            most: limits.names,
            most_per_key: limits.names_per_key,
            ttl: limits.name_ttl.as_secs(),
        };
        for (name, key, last_seen) in stored.into_iter().filter(|(name, ..)| is_name(name)).take(limits.names)
        {
            if names.owners.insert(name, Owner { key, last_seen, holder: None }).is_none() {
                *names.owned.entry(key).or_default() += 1;
            }
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
        if self.owners.get(name).is_some_and(|owner| owner.key != key && owner.is_over(unix_secs, self.ttl)) {
            self.forget(name);
        }
        if let Some(owner) = self.owners.get_mut(name) {
            if owner.key != key {
                return Err(NameRefusal::Owned);
            }
            owner.last_seen = unix_secs;
            let before = owner.holder.replace(node);
            if before.is_none() {
                self.changed.insert(name.into());
            }
            return Ok(before);
        }
        let owned = self.owned.get(&key).copied().unwrap_or(0);
        if owned >= self.most_per_key || !self.new_names.take(now, source) {
            return Err(NameRefusal::Full);
        }
        if self.owners.len() >= self.most && !self.forget_what_is_over(unix_secs) {
            return Err(NameRefusal::Full);
        }
        self.owners.insert(name.into(), Owner { key, last_seen: unix_secs, holder: Some(node) });
        self.owned.insert(key, owned + 1);
        self.changed.insert(name.into());
        Ok(None)
    }

    /// The key gives the name up for good.
    pub(super) fn give_up(&mut self, name: &str, key: PublicKey) -> Release {
        match self.owners.get(name) {
            None => Release::Unknown,
            Some(owner) if owner.key != key => Release::Owned,
            Some(Owner { holder: Some(_), .. }) => Release::Held,
            Some(Owner { holder: None, .. }) => {
                self.forget(name);
                Release::Done
            }
        }
    }

    /// `node` does not hold the name any more.
    pub(super) fn release(&mut self, unix_secs: u64, name: &str, node: NodeRef) {
        if let Some(owner) = self.owners.get_mut(name).filter(|owner| owner.holder == Some(node)) {
            owner.holder = None;
            owner.last_seen = unix_secs;
            self.changed.insert(name.into());
        }
    }

    /// Who holds the name now.
    pub(super) fn holder(&self, name: &str) -> Option<NodeRef> {
        self.owners.get(name)?.holder
    }

    /// Seconds since the name was last held; `None` if it belongs to nobody.
    pub(super) fn unseen_for(&self, unix_secs: u64, name: &str) -> Option<u64> {
        let owner = self.owners.get(name).filter(|owner| !owner.is_over(unix_secs, self.ttl))?;
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
        let name = self.changed.pop_first()?;
        Some(match self.owners.get(&name) {
            Some(owner) => Store::Put { name, key: owner.key, last_seen: owner.last_seen },
            None => Store::Forget { name },
        })
    }

    /// Names that are remembered.
    pub(super) fn len(&self) -> usize {
        self.owners.len()
    }

    /// Gives up what belongs to nobody any more; whether there was anything. Looks at every name, which
    /// [`Limits::new_names_per_source`] keeps rare.
    fn forget_what_is_over(&mut self, unix_secs: u64) -> bool {
        let over = self.owners.iter().filter(|(_, owner)| owner.is_over(unix_secs, self.ttl));
        let over: Vec<String> = over.map(|(name, _)| name.clone()).collect();
        over.iter().for_each(|name| self.forget(name));
        !over.is_empty()
    }

    fn forget(&mut self, name: &str) {
        let Some(Owner { key, .. }) = self.owners.remove(name) else { return };
        if let Some(count) = self.owned.get_mut(&key) {
            *count -= 1;
            if *count == 0 {
                self.owned.remove(&key);
            }
        }
        self.changed.insert(name.into());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::start;

    const ALICE: PublicKey = PublicKey([1; 32]);
    const BOB: PublicKey = PublicKey([2; 32]);
    const HERE: Prefix = Prefix::V4(1);
    const YEAR: u64 = 365 * 24 * 3600;

    fn names(limits: Limits) -> Names {
        Names::new(start(), &limits, [])
    }

    #[test]
    fn names_are_labels_in_lower_case() {
        for good in ["a", "myhost", "my-host-2", &"x".repeat(63)] {
            assert!(is_name(good), "{good}");
        }
        for bad in ["", "-a", "a-", "A", "a.b", "a b", "ä", "a\0", &"x".repeat(64)] {
            assert!(!is_name(bad), "{bad:?}");
        }
    }

    #[test]
    fn a_name_belongs_to_the_first_key_even_after_it_left() {
        let mut names = names(Limits::default());
        assert_eq!(names.claim(start(), 10, HERE, "box", ALICE, NodeRef(1)), Ok(None));
        names.release(20, "box", NodeRef(1));
        assert_eq!(names.claim(start(), 30, HERE, "box", BOB, NodeRef(2)), Err(NameRefusal::Owned));
        assert_eq!(names.holder("box"), None);
        assert_eq!(names.unseen_for(30, "box"), Some(10));
        assert_eq!(names.claim(start(), 40, HERE, "box", ALICE, NodeRef(3)), Ok(None));
    }

    #[test]
    fn a_release_by_a_former_holder_changes_nothing() {
        let mut names = names(Limits::default());
        let _ = names.claim(start(), 10, HERE, "box", ALICE, NodeRef(1));
        assert_eq!(names.claim(start(), 11, HERE, "box", ALICE, NodeRef(2)), Ok(Some(NodeRef(1))));
        names.release(12, "box", NodeRef(1));
        assert_eq!(names.holder("box"), Some(NodeRef(2)));
    }

    #[test]
    fn what_was_stored_is_known_again() {
        let mut before = names(Limits::default());
        let _ = before.claim(start(), 10, HERE, "box", ALICE, NodeRef(1));
        let Some(Store::Put { name, key, last_seen }) = before.poll_store() else {
            panic!("nothing to store")
        };
        assert_eq!(before.poll_store(), None);
        let mut after = Names::new(start(), &Limits::default(), [(name, key, last_seen)]);
        assert_eq!(after.unseen_for(15, "box"), Some(5));
        assert_eq!(after.claim(start(), 20, HERE, "box", BOB, NodeRef(1)), Err(NameRefusal::Owned));
    }

    #[test]
    fn keys_sources_and_the_whole_have_their_limits() {
        let mut few = names(Limits { names_per_key: 2, ..Limits::default() });
        for (name, expected) in [("a", Ok(None)), ("b", Ok(None)), ("c", Err(NameRefusal::Full))] {
            assert_eq!(few.claim(start(), 0, HERE, name, ALICE, NodeRef(1)), expected, "{name}");
        }
        let mut slow = names(Limits { new_names_per_source: 1, ..Limits::default() });
        assert_eq!(slow.claim(start(), 0, HERE, "a", ALICE, NodeRef(1)), Ok(None));
        assert_eq!(slow.claim(start(), 0, HERE, "b", BOB, NodeRef(2)), Err(NameRefusal::Full));
        assert_eq!(slow.claim(start(), 0, Prefix::V4(9), "b", BOB, NodeRef(2)), Ok(None));
    }

    #[test]
    fn a_name_that_nobody_held_for_its_time_belongs_to_nobody() {
        let ttl = Limits::default().name_ttl.as_secs();
        let mut names = names(Limits::default());
        let _ = names.claim(start(), 10, HERE, "box", ALICE, NodeRef(1));
        assert_eq!(names.claim(start(), 10 + YEAR, HERE, "box", BOB, NodeRef(2)), Err(NameRefusal::Owned));
        names.tend(YEAR);
        names.release(YEAR, "box", NodeRef(1));
        let just_before = names.claim(start(), YEAR + ttl - 1, HERE, "box", BOB, NodeRef(2));
        assert_eq!(just_before, Err(NameRefusal::Owned));
        assert_eq!(names.unseen_for(YEAR + ttl, "box"), None);
        assert_eq!(names.claim(start(), YEAR + ttl, HERE, "box", BOB, NodeRef(2)), Ok(None));
        assert_eq!(names.owned, BTreeMap::from([(BOB, 1)]));
    }

    #[test]
    fn a_name_that_is_held_outlives_a_crash_however_long_it_was_held() {
        let mut before = names(Limits::default());
        let _ = before.claim(start(), 10, HERE, "box", ALICE, NodeRef(1));
        before.tend(YEAR);
        let stored = std::iter::from_fn(|| before.poll_store()).last();
        let Some(Store::Put { name, key, last_seen }) = stored else { panic!("{stored:?}") };
        let mut after = Names::new(start(), &Limits::default(), [(name, key, last_seen)]);
        after.tend(YEAR + 60);
        assert_eq!(after.claim(start(), YEAR + 60, HERE, "box", BOB, NodeRef(1)), Err(NameRefusal::Owned));
    }

    #[test]
    fn only_its_key_gives_a_name_up_and_not_while_it_is_held() {
        let mut names = names(Limits::default());
        assert_eq!(names.give_up("box", ALICE), Release::Unknown);
        let _ = names.claim(start(), 10, HERE, "box", ALICE, NodeRef(1));
        assert_eq!(names.give_up("box", ALICE), Release::Held);
        names.release(20, "box", NodeRef(1));
        assert_eq!(names.give_up("box", BOB), Release::Owned);
        assert_eq!(names.give_up("box", ALICE), Release::Done);
        assert_eq!(names.poll_store(), Some(Store::Forget { name: "box".into() }));
        assert_eq!(names.claim(start(), 30, HERE, "box", BOB, NodeRef(2)), Ok(None));
    }

    #[test]
    fn a_full_table_forgets_only_what_was_out_of_sight_for_long() {
        let mut names = names(Limits { names: 1, ..Limits::default() });
        assert_eq!(names.claim(start(), 0, HERE, "old", ALICE, NodeRef(1)), Ok(None));
        assert_eq!(names.claim(start(), YEAR, HERE, "new", BOB, NodeRef(2)), Err(NameRefusal::Full), "held");
        names.release(10, "old", NodeRef(1));
        assert_eq!(names.claim(start(), 20, HERE, "new", BOB, NodeRef(2)), Err(NameRefusal::Full), "fresh");
        assert_eq!(names.claim(start(), YEAR, HERE, "new", BOB, NodeRef(2)), Ok(None));
        let stores: Vec<_> = std::iter::from_fn(|| names.poll_store()).collect();
        assert!(stores.contains(&Store::Forget { name: "old".into() }), "{stores:?}");
    }
}
