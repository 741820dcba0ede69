//! Files whose lines hold a public key and a word about it.

use std::path::Path;

use super::{
    IdentityError,
    file::{self, Access},
};
use crate::secure::PublicKey;

/// A line that holds a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Its number in the file, from 1.
    pub line: usize,
    /// Whose key it is: `NAME@HOST:PORT`, `HOST:PORT`, or the comment behind a client's key.
    pub label: String,
    /// The key.
    pub key: PublicKey,
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

/// The lines of `authorized_clients`: `KEY [comment]`.
pub(super) fn read_clients(path: &Path) -> Result<Vec<Entry>, IdentityError> {
    read(path, |text| {
        let (key, comment) = text.split_once(char::is_whitespace).unwrap_or((text, ""));
        Ok((comment.trim().to_owned(), key.to_owned()))
    })
}

/// Removes lines by number. Needs the lock.
pub(super) fn remove(path: &Path, entries: &[Entry]) -> Result<(), IdentityError> {
    let text = file::read(path, Access::Plain)?;
    let lines: Vec<_> = entries.iter().map(|entry| entry.line).collect();
    file::replace(path, &file::without_lines(&text, &lines), Access::Plain)
}

/// Adds a line, behind an explanation where the file is new. Needs the lock.
pub(super) fn add(path: &Path, line: &str, explanation: &str) -> Result<(), IdentityError> {
    let mut text = file::read(path, Access::Plain)?;
    if text.is_empty() {
        text = format!("# {explanation}\n");
    }
    file::replace(path, &file::with_line(text, line), Access::Plain)
}

fn read(
    path: &Path,
    split: impl Fn(&str) -> Result<(String, String), String>,
) -> Result<Vec<Entry>, IdentityError> {
    let text = file::read(path, Access::Plain)?;
    file::lines(&text)
        .map(|(line, text)| {
            let malformed = |why| IdentityError::Malformed { path: path.into(), line, why };
            let (label, key) = split(text).map_err(malformed)?;
            let key = key.parse::<PublicKey>().map_err(|e| malformed(e.to_string()))?;
            Ok(Entry { line, label, key })
        })
        .collect()
}
