//! Who this installation is, and whom it trusts: names, the key, and the text files that people edit.
//!
//! | file | what a line is | who writes it |
//! | --- | --- | --- |
//! | `identity.key` | the private key, base32; mode 0600 | made at first use |
//! | `authorized_clients` | `KEY [services=LABEL,…] [comment]`: clients that `expose` lets in | people, and an invite at its first success |
//! | `known_hosts` | `NAME@HOST:PORT KEY`: hosts that `connect` trusts | an invite or `--host-key`, once proved |
//! | `known_servers` | `HOST:PORT KEY`: rendezvous servers | first contact, or `--rendezvous HOST#KEY` |
//! | `invites` | `ID NAME SECRET EXPIRY [services=LABEL,…]`: open invites; mode 0600 | `punchtunnel invite` |
//! | `worked` | what connected last between two networks, see [`Worked`] | `connect`, `doctor` |
//!
//! Files are the truth: they are read whenever a question is asked, so an edit takes effect at once
//! and two processes of one [`Home`] agree. Every rewrite keeps comments and the order of lines, goes
//! through a temporary file and a rename, and happens under one lock for the whole home. A line that
//! does not parse is an error that names the file and the line: guessing what a person meant is not
//! for a file that decides who gets in. And files that others can change are not believed (`guard.rs`).
//!
//! This room uses `std::fs` but reads no clock and draws nothing at random: `now` is Unix time in
//! seconds and arrives as an argument, like every seed.

mod file;
mod grant;
mod guard;
mod home;
mod invite;
mod invites;
mod key;
mod keyed;
mod name;
mod server;
mod trust;
mod worked;

use std::{io, path::PathBuf};

pub use grant::{Grant, GrantError};
pub use home::Home;
pub use invite::{Code, CodeError};
pub use invites::OpenInvite;
pub use key::load_or_create;
pub use keyed::{AuthorisedClient, Entry};
pub use name::{Name, NameError};
pub use server::ServerName;
pub use trust::{Pinned, Trust, listed_keys};
pub use worked::{Network, Worked};

/// What can be wrong with the files of a [`Home`].
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// The system refused an operation on a file.
    #[error("cannot {operation} {}: {source}{}", path.display(), advice(source))]
    Io {
        /// What was tried, as a verb.
        operation: &'static str,
        /// The file or directory.
        path: PathBuf,
        /// The system's words.
        source: io::Error,
    },
    /// A line does not parse.
    #[error("{}:{line}: {why}; correct or remove that line", path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
        /// What is wrong with it.
        why: String,
    },
    /// A secret file is open to others.
    #[error(
        "{} can be read by others (mode {mode:04o}), so it is not used; run: chmod 600 {}",
        path.display(),
        path.display()
    )]
    Permissions {
        /// The file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// A file or directory that decides about trust can be changed by others.
    #[error(
        "{} can be changed by others (mode {mode:04o}), so it is not believed; run: chmod go-w {}",
        path.display(),
        path.display()
    )]
    Writable {
        /// The file or directory.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// A file or directory that decides about trust is somebody else's.
    #[error(
        "{} belongs to another user (number {owner}), so it is not believed; make it your own (chown), or set \
         PUNCHTUNNEL_HOME to a directory of your own",
        path.display()
    )]
    Owner {
        /// The file or directory.
        path: PathBuf,
        /// Its owner's number.
        owner: u32,
    },
    /// The platform names no directory for this user.
    #[error("this user has no home directory; set PUNCHTUNNEL_HOME to a directory for keys and state")]
    NoHome,
    /// Too many lines to go on.
    #[error("{} already holds {max} {what}; remove some first", path.display())]
    Full {
        /// The file.
        path: PathBuf,
        /// What it holds, plural.
        what: &'static str,
        /// How many it may hold.
        max: usize,
    },
    /// A key that could not be read back from the file: it would lock everybody else out.
    #[error("the other side's key is not written down: {0}")]
    Unusable(crate::secure::SecureError),
    /// A comment that would be read as something else.
    #[error("the comment cannot be written down: {0}; use other words")]
    Comment(String),
    /// Another key is pinned under that name.
    #[error("{}:{line} pins another key for {subject}: {pinned}", path.display())]
    Changed {
        /// The file that pins it.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
        /// `NAME@HOST:PORT` or `HOST:PORT`.
        subject: String,
        /// The key that is pinned.
        pinned: crate::secure::PublicKey,
    },
}

/// What to do about an error of the system, where that is not plain from its words.
fn advice(source: &io::Error) -> &'static str {
    match source.kind() {
        io::ErrorKind::PermissionDenied => {
            " (give it to this user, or set PUNCHTUNNEL_HOME to a directory of your own)"
        }
        io::ErrorKind::StorageFull => " (make room on that disk)",
        io::ErrorKind::ReadOnlyFilesystem => " (set PUNCHTUNNEL_HOME to a directory that can be written)",
        _ => "",
    }
}
