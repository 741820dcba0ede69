//! The door of a host: [`Admission`] by the files of a home.

use std::{
    collections::BTreeSet,
    time::{Duration, SystemTime},
};

use punchtunnel::{
    endpoint::PeerId,
    identity::{IdentityError, Name, Trust},
    net::{Admission, Question, SessionStatus},
    secure::{Psk, PublicKey},
    wire::{peer::Goodbye, server::Decline},
};

use super::settings::unix_now;

/// Lets clients in to a host.
pub(crate) struct HostDoor {
    /// The files.
    pub(crate) trust: Trust,
    /// The host's name: invites are for a name.
    pub(crate) name: Name,
}

impl HostDoor {
    /// The pre-shared key for a client that may try, or why it may not.
    ///
    /// An invite goes before the list: a client that was let in before and comes with a new invite
    /// expects the host to prove it.
    fn judge(&self, key: &PublicKey, invite: Option<u64>) -> Result<Result<Psk, Decline>, IdentityError> {
        if let Some(id) = invite {
            return Ok(self.trust.invite(&self.name, id, unix_now())?.ok_or(Decline::Invite));
        }
        Ok(if self.trust.is_authorised(key)? { Ok(Psk::none()) } else { Err(Decline::Unauthorised) })
    }
}

/// Notices that a client that is in is not let in any more.
pub(crate) struct Revocation {
    trust: Trust,
    /// What the file looked like when it was read last.
    stamp: Option<Stamp>,
    /// Sessions that were found to be allowed by what was read then.
    allowed: BTreeSet<PeerId>,
}

/// What differs between two states of a file, whether it was rewritten or replaced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stamp {
    modified: Option<SystemTime>,
    length: u64,
    /// A file that is replaced within the resolution of its time has another one.
    inode: u64,
}

impl Revocation {
    /// How often to look: a look costs a system call, and a second is soon enough to be called at once.
    pub(crate) const INTERVAL: Duration = Duration::from_secs(1);

    pub(crate) fn new(trust: Trust) -> Revocation {
        Revocation { trust, stamp: None, allowed: BTreeSet::new() }
    }

    /// Of these sessions, those whose client is not authorised any more.
    ///
    /// A file that cannot be read or understood ends nobody's session: a typing error would end all.
    pub(crate) fn look(&mut self, sessions: &[SessionStatus]) -> Vec<PeerId> {
        let stamp = self.stamp();
        if std::mem::replace(&mut self.stamp, stamp) != stamp {
            self.allowed.clear();
        }
        self.allowed.retain(|peer| sessions.iter().any(|session| session.peer == *peer));
        let mut revoked = Vec::new();
        for session in sessions {
            if self.allowed.contains(&session.peer) {
                continue;
            }
            match self.trust.is_authorised(&session.key) {
                Ok(true) => drop(self.allowed.insert(session.peer)),
                Ok(false) => revoked.push(session.peer),
                Err(error) => {
                    // Said once, and looked at again when the file changes.
                    tracing::error!(%error, "sessions go on, because a file cannot be used");
                    self.allowed.extend(sessions.iter().map(|session| session.peer));
                }
            }
        }
        revoked
    }

    fn stamp(&self) -> Option<Stamp> {
        let metadata = std::fs::metadata(self.trust.home().authorized_clients()).ok()?;
        #[cfg(unix)]
        let inode = std::os::unix::fs::MetadataExt::ino(&metadata);
        #[cfg(not(unix))]
        let inode = 0;
        Some(Stamp { modified: metadata.modified().ok(), length: metadata.len(), inode })
    }
}

impl Admission for HostDoor {
    fn ask(&self, question: Question) {
        match self.judge(question.key(), question.invite()) {
            Ok(Ok(psk)) => question.admit(psk),
            Ok(Err(why)) => question.decline(why),
            Err(error) => {
                tracing::error!(%error, "a client is not let in, because a file cannot be used");
                question.decline(Decline::Unauthorised);
            }
        }
    }

    fn admitted(&self, key: &PublicKey, invite: Option<u64>) -> Result<(), Goodbye> {
        let Some(id) = invite else { return Ok(()) };
        match self.trust.use_up(&self.name, id, key, unix_now()) {
            Ok(true) => Ok(()),
            Ok(false) => Err(Goodbye::Unauthorised),
            Err(error) => {
                tracing::error!(%error, "a client is not let in, because a file cannot be used");
                Err(Goodbye::Unauthorised)
            }
        }
    }
}
