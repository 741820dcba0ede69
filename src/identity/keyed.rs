//! Files whose lines hold a public key and a word about it.

use std::{fmt, path::Path};

use super::{
    Grant, IdentityError,
    file::{self, Access},
    grant,
};
use crate::secure::PublicKey;

/// A line that holds a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Its number in the file, from 1.
    pub line: usize,
    /// Whose key it is: `NAME@HOST:PORT` or `HOST:PORT`.
    pub label: String,
    /// The key.
    pub key: PublicKey,
}

/// A line of `authorized_clients`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuthorisedClient {
    /// Its number in the file, from 1.
    pub line: usize,
    /// The client's key.
    pub key: PublicKey,
    /// What it may use.
    pub grant: Grant,
    /// A word about whose key it is; may be empty.
    pub comment: String,
}

impl fmt::Display for AuthorisedClient {
    /// As it stands in the file.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = format!("{} {}{}", self.key, self.grant.option(), self.comment);
        f.write_str(text.trim_end())
    }
}

/// The lines of `known_hosts` or `known_servers`: `SUBJECT KEY`, and what follows is a comment.
pub(super) fn read_pins(path: &Path) -> Result<Vec<Entry>, IdentityError> {
    read(path, |text| {
        let mut fields = text.split_whitespace();
        match (fields.next(), fields.next()) {
            (Some(label), Some(key)) => Ok((label.to_owned(), key.to_owned())),
            _ => Err("two words are expected: whose key, and the key".into()),
        }
    })
}

/// The lines of `authorized_clients`: `KEY [services=LABEL,…] [comment]`.
pub(super) fn read_clients(path: &Path) -> Result<Vec<AuthorisedClient>, IdentityError> {
    read_lines(path, parse_client)
}

/// A line of `authorized_clients`. A mistyped or misplaced option is an error: taken for a comment it would let
/// the client use everything.
pub(super) fn parse_client(line: usize, text: &str) -> Result<AuthorisedClient, String> {
    let (key, rest) = text.split_once(char::is_whitespace).unwrap_or((text, ""));
    let key = key.parse().map_err(|e: crate::secure::SecureError| e.to_string())?;
    let rest = rest.trim();
    let (first, after) = rest.split_once(char::is_whitespace).unwrap_or((rest, ""));
    let (grant, comment) = match first.strip_prefix(grant::OPTION) {
        Some(words) => (words.parse().map_err(|e: grant::GrantError| e.to_string())?, after.trim()),
        None if first.contains('=') => {
            return Err(format!(
                "{first:?} is no option (there is services=LABEL,…), and no comment begins so"
            ));
        }
        None => (Grant::All, rest),
    };
    if comment.split_whitespace().any(|word| word.starts_with(grant::OPTION)) {
        return Err(format!("{} stands once, directly behind the key", grant::OPTION));
    }
    Ok(AuthorisedClient { line, key, grant, comment: comment.to_owned() })
}

/// Removes lines by number. Needs the lock.
pub(super) fn remove(path: &Path, lines: &[usize]) -> Result<(), IdentityError> {
    let text = file::read(path, Access::Plain)?;
    file::replace(path, &file::without_lines(&text, lines), Access::Plain)
}

/// Adds a line, behind an explanation where the file is new. Needs the lock.
pub(super) fn add(path: &Path, line: &str, explanation: &str) -> Result<(), IdentityError> {
    exchange(path, &[], line, explanation)
}

/// Removes lines by number and adds one, in one step. Needs the lock.
pub(super) fn exchange(
    path: &Path,
    lines: &[usize],
    line: &str,
    explanation: &str,
) -> Result<(), IdentityError> {
    let mut text = file::read(path, Access::Plain)?;
    if text.is_empty() {
        text = format!("# {explanation}\n");
    }
    file::replace(path, &file::exchanged(&text, lines, line), Access::Plain)
}

fn read(
    path: &Path,
    split: impl Fn(&str) -> Result<(String, String), String>,
) -> Result<Vec<Entry>, IdentityError> {
    read_lines(path, |line, text| {
        let (label, key) = split(text)?;
        let key = key.parse::<PublicKey>().map_err(|e| e.to_string())?;
        Ok(Entry { line, label, key })
    })
}

fn read_lines<T>(
    path: &Path,
    parse: impl Fn(usize, &str) -> Result<T, String>,
) -> Result<Vec<T>, IdentityError> {
    let text = file::read(path, Access::Plain)?;
    file::lines(&text)
        .map(|(line, text)| {
            parse(line, text).map_err(|why| IdentityError::Malformed { path: path.into(), line, why })
        })
        .collect()
}
