//! One error for everything in the lab: what was tried, and what went wrong.

use std::fmt;

/// What a test of the lab ends with.
pub type Result<T> = std::result::Result<T, Failure>;

/// What was tried and what went wrong, in words for the person who reads the test's output.
#[derive(Debug, Clone)]
pub struct Failure(String);

/// A failure of doing `what`.
pub fn failed(what: impl fmt::Display, why: impl fmt::Display) -> Failure {
    Failure(format!("{what}: {why}"))
}

/// Fails with these words unless the condition holds.
pub fn ensure(condition: bool, words: impl FnOnce() -> String) -> Result<()> {
    if condition { Ok(()) } else { Err(Failure(words())) }
}

impl From<String> for Failure {
    fn from(words: String) -> Self {
        Self(words)
    }
}

impl From<&str> for Failure {
    fn from(words: &str) -> Self {
        Self(words.to_owned())
    }
}

impl From<std::io::Error> for Failure {
    fn from(error: std::io::Error) -> Self {
        Self(error.to_string())
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}
