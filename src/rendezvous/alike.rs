//! Names that people take for one another.
//!
//! Two names are alike where they have the same *skeleton*: `0` read as `o`, `1` as `l`, `rn` as `m`, `vv`
//! as `w`. (Upper case, dots and underscores are no part of names.) Names are ordered by their skeletons, so those
//! that are alike are neighbours in every table of names, and no table of skeletons is needed.

use std::{cmp::Ordering, collections::BTreeMap, ops::Bound, sync::Arc};

/// A name in a table, in several of which the text is the same memory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Name(Arc<str>);

impl From<&str> for Name {
    fn from(text: &str) -> Self {
        Name(text.into())
    }
}

impl AsRef<str> for Name {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

impl Ord for Name {
    fn cmp(&self, other: &Self) -> Ordering {
        skeleton(&self.0).cmp(skeleton(&other.0)).then_with(|| self.0.cmp(&other.0))
    }
}

impl PartialOrd for Name {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// The names of a table that are alike to this one, without itself.
pub(super) fn alike<'a, V>(
    names: &'a BTreeMap<Name, V>,
    name: &'a Name,
) -> impl Iterator<Item = (&'a Name, &'a V)> {
    let is_alike = |(other, _): &(&Name, &V)| skeleton(&other.0).eq(skeleton(&name.0));
    let before = names.range(..name).rev().take_while(is_alike);
    before.chain(names.range((Bound::Excluded(name), Bound::Unbounded)).take_while(is_alike))
}

fn skeleton(name: &str) -> impl Iterator<Item = u8> {
    let mut bytes = name.bytes().peekable();
    std::iter::from_fn(move || {
        Some(match bytes.next()? {
            b'0' => b'o',
            b'1' => b'l',
            b'r' if bytes.next_if_eq(&b'n').is_some() => b'm',
            b'v' if bytes.next_if_eq(&b'v').is_some() => b'w',
            other => other,
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_skeleton_is_its_own_skeleton() {
        for (name, bones) in [("r0rn-vvv1", "rom-wvl"), ("rrnn", "rmn"), ("0r1n", "orln"), ("vvvv", "ww")] {
            let once: Vec<u8> = skeleton(name).collect();
            assert_eq!(once, bones.as_bytes(), "{name}");
            assert!(skeleton(bones).eq(once), "{name}");
        }
    }

    #[test]
    fn names_find_those_that_they_are_taken_for() {
        let names = ["bob", "b0b", "modern", "wall", "vva1l", "w", "m-", "a"];
        let mut names: BTreeMap<Name, ()> = names.map(|name| (name.into(), ())).into();
        let found = |names: &BTreeMap<Name, ()>, name: &str| {
            let mut found: Vec<String> =
                alike(names, &name.into()).map(|(name, ())| name.as_ref().to_owned()).collect();
            found.sort();
            found
        };
        assert_eq!(found(&names, "b0b"), ["bob"]);
        assert_eq!(found(&names, "bob"), ["b0b"]);
        assert_eq!(found(&names, "modem"), ["modern"]);
        assert_eq!(found(&names, "wa11"), ["vva1l", "wall"]);
        names.remove(&"vva1l".into());
        assert_eq!(found(&names, "wa11"), ["wall"]);
        assert_eq!(found(&names, "bobby"), [""; 0]);
    }
}
