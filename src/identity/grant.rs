//! Which of the exposed services a client may use.

use std::{collections::BTreeSet, fmt, str::FromStr};

use crate::wire::stream::MAX_LABEL;

/// Which of the exposed services a client may use.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Grant {
    /// All of them: what a key is granted for which nothing else is said.
    All,
    /// Those that these labels or ports lead to; none at all where there is no word.
    Only(BTreeSet<String>),
}

impl Grant {
    /// None of them.
    pub const NOTHING: Grant = Grant::Only(BTreeSet::new());

    /// What both grant together.
    pub fn and(self, other: Grant) -> Grant {
        match (self, other) {
            (Grant::Only(mut ours), Grant::Only(theirs)) => {
                ours.extend(theirs);
                Grant::Only(ours)
            }
            _ => Grant::All,
        }
    }

    /// As an option in a line of a file, with a space behind it; empty for all services.
    pub(super) fn option(&self) -> String {
        match self {
            Grant::All => String::new(),
            Grant::Only(_) => format!("{OPTION}{self} "),
        }
    }
}

/// What an option in a line of a file begins with.
pub(super) const OPTION: &str = "services=";

/// Why text names no services; the message has the remedy.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} names no service: use labels or ports with commas in between, and no spaces")]
pub struct GrantError(String);

impl FromStr for Grant {
    type Err = GrantError;

    /// Labels or ports with commas in between, at least one.
    fn from_str(text: &str) -> Result<Self, GrantError> {
        let allowed = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
        let is_word = |word: &str| !word.is_empty() && word.len() <= MAX_LABEL && word.chars().all(allowed);
        let words = text.split(',').map(|word| is_word(word).then(|| word.to_owned()));
        words.collect::<Option<_>>().map(Grant::Only).ok_or_else(|| GrantError(text.into()))
    }
}

impl fmt::Display for Grant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Grant::All => f.write_str("all services"),
            Grant::Only(words) => f.write_str(&Vec::from_iter(words.iter().map(String::as_str)).join(",")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_grant_is_labels_and_ports_and_reads_back() {
        let grant: Grant = "web,22,my_nas-2".parse().unwrap();
        assert_eq!(grant.to_string(), "22,my_nas-2,web");
        assert_eq!(grant.to_string().parse(), Ok(grant.clone()));
        for bad in ["", ",", "a,", "a, b", "a b", "10.0.0.1:80", "services=a", &"a".repeat(64)] {
            assert!(bad.parse::<Grant>().is_err(), "{bad:?}");
        }
        let both = grant.and("web,db".parse().unwrap());
        assert_eq!(both.to_string(), "22,db,my_nas-2,web");
        assert_eq!(both.and(Grant::All), Grant::All);
        assert_eq!(Grant::NOTHING.and(Grant::NOTHING), Grant::NOTHING);
    }
}
