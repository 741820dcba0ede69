//! A host's name.

use std::{fmt, str::FromStr};

use crate::wire::MAX_NAME;

/// A host's name, as people type it and the rendezvous server keeps it: 1 to 63 of `a-z`, `0-9` and
/// `-`, with a letter or digit at both ends and no two dashes in a row (a DNS label, RFC 1123 §2.1, in lower
/// case).
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Name(String);

impl Name {
    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Why text is no name; the message has the remedy.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// Nothing there.
    #[error("a name cannot be empty: use 1 to {MAX_NAME} letters, digits and dashes")]
    Empty,
    /// Longer than [`MAX_NAME`].
    #[error("a name has at most {MAX_NAME} characters, this one has {0}: shorten it")]
    TooLong(usize),
    /// Upper-case letters; the lower-case form would do.
    #[error("names are lower case: use {0:?}")]
    UpperCase(String),
    /// Another character.
    #[error("{0:?} cannot be part of a name: use letters a-z, digits and dashes")]
    Character(char),
    /// A dash first or last.
    #[error("a name begins and ends with a letter or a digit: use {0:?}")]
    Dash(String),
    /// Two dashes in a row.
    #[error("a name has no two dashes in a row: use {0:?}")]
    Dashes(String),
}

impl FromStr for Name {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        let allowed = |c: char| matches!(c, 'a'..='z' | '0'..='9' | '-');
        if text.is_empty() {
            return Err(NameError::Empty);
        }
        if let Some(c) = text.chars().find(|c| !allowed(c.to_ascii_lowercase())) {
            return Err(NameError::Character(c));
        }
        if text.len() > MAX_NAME {
            return Err(NameError::TooLong(text.len()));
        }
        if text.contains(|c: char| c.is_ascii_uppercase()) {
            return Err(NameError::UpperCase(text.to_ascii_lowercase()));
        }
        match text.trim_matches('-') {
            "" => Err(NameError::Empty),
            trimmed if trimmed != text => Err(NameError::Dash(trimmed.into())),
            _ if text.contains("--") => {
                let parts: Vec<&str> = text.split('-').filter(|part| !part.is_empty()).collect();
                Err(NameError::Dashes(parts.join("-")))
            }
            _ => Ok(Name(text.into())),
        }
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl AsRef<str> for Name {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_dns_labels_in_lower_case() {
        for good in ["a", "myhost", "0", "my-host-2", &"x".repeat(MAX_NAME)] {
            assert_eq!(good.parse::<Name>().as_ref().map(Name::as_str), Ok(good));
        }
    }

    #[test]
    fn a_refused_name_comes_with_the_remedy() {
        for (bad, why) in [
            ("", NameError::Empty),
            ("--", NameError::Empty),
            ("MyHost", NameError::UpperCase("myhost".into())),
            ("-x-", NameError::Dash("x".into())),
            ("my_host", NameError::Character('_')),
            ("my host", NameError::Character(' ')),
            ("häuschen", NameError::Character('ä')),
            (&"x".repeat(MAX_NAME + 1), NameError::TooLong(MAX_NAME + 1)),
        ] {
            assert_eq!(bad.parse::<Name>(), Err(why), "{bad:?}");
        }
    }
}
