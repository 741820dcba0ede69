//! Names that people take for one another.
//!
//! Two names are alike where they have the same *skeleton*: `0` read as `o`, `1` as `l`, `rn` as `m`, `vv`
//! as `w`. (Upper case, dots and underscores are no part of names.) A skeleton is its own skeleton, so only
//! names that differ from theirs need an entry here: the name that is the skeleton is found without one.

use std::collections::BTreeSet;

/// The names that are not their own skeletons, behind these.
#[derive(Debug, Default)]
pub(super) struct Alike(BTreeSet<(Box<str>, Box<str>)>);

impl Alike {
    pub(super) fn insert(&mut self, name: &str) {
        let skeleton = skeleton(name);
        if skeleton != name {
            self.0.insert((skeleton.into(), name.into()));
        }
    }

    pub(super) fn remove(&mut self, name: &str) {
        let skeleton = skeleton(name);
        if skeleton != name {
            self.0.remove(&(skeleton.into(), name.into()));
        }
    }

    /// The names that are alike to this one, and the skeleton, which may be nobody's name. Without the name
    /// itself.
    pub(super) fn to(&self, name: &str) -> Vec<String> {
        let skeleton: Box<str> = skeleton(name).into();
        let alike = self.0.range((skeleton.clone(), "".into())..).take_while(|(s, _)| *s == skeleton);
        let mut alike: Vec<String> = alike.map(|(_, name)| name.to_string()).collect();
        alike.push(skeleton.into());
        alike.retain(|other| other != name);
        alike
    }
}

fn skeleton(name: &str) -> String {
    name.replace('0', "o").replace('1', "l").replace("rn", "m").replace("vv", "w")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_skeleton_is_its_own_skeleton() {
        for name in ["r0rn-vvv1", "rrnn", "0r1n", "vvvv", "m", "w"] {
            let once = skeleton(name);
            assert_eq!(skeleton(&once), once, "{name}");
        }
    }

    #[test]
    fn names_find_those_that_they_are_taken_for() {
        let mut alike = Alike::default();
        for name in ["bob", "b0b", "modern", "wall", "vva1l"] {
            alike.insert(name);
        }
        assert_eq!(alike.to("b0b"), ["bob"]);
        assert_eq!(alike.to("bob"), ["b0b"]);
        assert_eq!(alike.to("modem"), ["modern"]);
        assert_eq!(alike.to("wa11"), ["vva1l", "wall"]);
        alike.remove("vva1l");
        assert_eq!(alike.to("wa11"), ["wall"]);
        assert_eq!(alike.to("bobby"), ["bobby"; 0]);
    }
}
