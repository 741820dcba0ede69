//! The door of a host: [`Admission`] by the files of a home.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Mutex, PoisonError},
    time::{Duration, SystemTime},
};

use punchtunnel::{
    endpoint::PeerId,
    identity::{Grant, IdentityError, Name, Trust},
    net::{Admission, Question},
    secure::{Psk, PublicKey},
    wire::{peer::Goodbye, server::Decline},
};

use super::settings::unix_now;

/// Lets clients in to a host.
pub(crate) struct HostDoor {
    trust: Trust,
    /// The host's name: invites are for a name.
    name: Name,
    /// What was read last, and of which file.
    grants: Mutex<Option<Grants>>,
}

/// What a file grants, and which state of it that was.
type Grants = (Option<Stamp>, BTreeMap<PublicKey, Grant>);

impl HostDoor {
    /// By the files of `trust`, for the host of that name.
    pub(crate) fn new(trust: Trust, name: Name) -> HostDoor {
        HostDoor { trust, name, grants: Mutex::new(None) }
    }

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

/// What a look at the file has shown.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Look {
    /// Sessions whose client is not authorised any more.
    pub(crate) revoked: Vec<PeerId>,
    /// The file is not the same as at the last look.
    pub(crate) changed: bool,
}

impl Stamp {
    /// Of `authorized_clients`; `None` where there is none.
    fn of(trust: &Trust) -> Option<Stamp> {
        let metadata = std::fs::metadata(trust.home().authorized_clients()).ok()?;
        #[cfg(unix)]
        let inode = std::os::unix::fs::MetadataExt::ino(&metadata);
        #[cfg(not(unix))]
        let inode = 0;
        Some(Stamp { modified: metadata.modified().ok(), length: metadata.len(), inode })
    }
}

impl Revocation {
    /// How often to look: a look costs a system call, and a second is soon enough to be called at once.
    pub(crate) const INTERVAL: Duration = Duration::from_secs(1);

    pub(crate) fn new(trust: Trust) -> Revocation {
        Revocation { trust, stamp: None, allowed: BTreeSet::new() }
    }

    /// Looks which of these sessions are to end.
    ///
    /// A file that cannot be read or understood ends nobody's session: a typing error would end all.
    pub(crate) fn look(&mut self, sessions: &[(PeerId, PublicKey)]) -> Look {
        let stamp = Stamp::of(&self.trust);
        let changed = std::mem::replace(&mut self.stamp, stamp) != stamp;
        if changed {
            self.allowed.clear();
        }
        self.allowed.retain(|peer| sessions.iter().any(|(other, _)| other == peer));
        let mut revoked = Vec::new();
        for (peer, key) in sessions {
            if self.allowed.contains(peer) {
                continue;
            }
            match self.trust.is_authorised(key) {
                Ok(true) => drop(self.allowed.insert(*peer)),
                Ok(false) => revoked.push(*peer),
                Err(error) => {
                    // Said once, and looked at again when the file changes.
                    tracing::error!(%error, "sessions go on, because a file cannot be used");
                    self.allowed.extend(sessions.iter().map(|(peer, _)| *peer));
                }
            }
        }
        Look { revoked, changed }
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

    /// By the file as it is now; where it cannot be used, as it was before.
    fn grant(&self, key: &PublicKey) -> Grant {
        let mut known = self.grants.lock().unwrap_or_else(PoisonError::into_inner);
        let stamp = Stamp::of(&self.trust);
        if known.as_ref().is_none_or(|(read, _)| *read != stamp) {
            match self.trust.grants() {
                Ok(grants) => *known = Some((stamp, grants)),
                Err(error) => tracing::debug!(%error, "services are granted as before"),
            }
        }
        let grant = known.as_ref().and_then(|(_, grants)| grants.get(key).cloned());
        grant.unwrap_or(Grant::NOTHING)
    }
}

#[cfg(test)]
mod tests {
    use punchtunnel::identity::Home;

    use super::*;

    const KEYS: [PublicKey; 3] = [PublicKey([9; 32]), PublicKey([10; 32]), PublicKey([11; 32])];

    #[test]
    fn a_client_is_out_when_its_line_is_gone_and_not_when_the_file_cannot_be_used() {
        let directory = tempfile::tempdir().unwrap();
        let trust = Trust::new(Home::at(directory.path()));
        let file = trust.home().authorized_clients();
        let [listed, allowed, stranger] = KEYS;
        trust.authorise(&listed, Grant::All, "laptop").unwrap();
        let sessions = [(PeerId(1), listed), (PeerId(2), allowed)];
        let mut revocation = Revocation::new(trust.clone().allowing([(allowed, Grant::All)]));
        let mut revoked = |sessions: &[_]| revocation.look(sessions).revoked;
        assert_eq!(revoked(&sessions), []);
        assert_eq!(revoked(&[(PeerId(3), stranger)]), [PeerId(3)], "let in a moment before");
        std::fs::write(&file, "nonsense").unwrap();
        assert_eq!(revoked(&sessions), []);
        std::fs::write(&file, "").unwrap();
        assert_eq!(revoked(&sessions), [PeerId(1)]);
        trust.authorise(&listed, Grant::All, "").unwrap();
        assert_eq!(revoked(&sessions), []);
        std::fs::remove_file(&file).unwrap();
        assert_eq!(revoked(&sessions), [PeerId(1)]);
    }

    #[test]
    fn services_are_granted_by_the_file_as_it_is_or_as_it_was_when_it_could_be_used() {
        let directory = tempfile::tempdir().unwrap();
        let trust = Trust::new(Home::at(directory.path()));
        let file = trust.home().authorized_clients();
        let [listed, allowed, stranger] = KEYS;
        let web: Grant = "web".parse().unwrap();
        let ssh: Grant = "ssh".parse().unwrap();
        let door = HostDoor::new(trust.clone().allowing([(allowed, web.clone())]), "x".parse().unwrap());
        assert_eq!(door.grant(&listed), Grant::NOTHING);
        assert_eq!(door.grant(&allowed), web);
        trust.authorise(&listed, Grant::All, "").unwrap();
        trust.authorise(&allowed, ssh.clone(), "").unwrap();
        assert_eq!(door.grant(&listed), Grant::All);
        assert_eq!(door.grant(&allowed), web.and(ssh), "the command line and the file");
        assert_eq!(door.grant(&stranger), Grant::NOTHING);
        std::fs::write(&file, "nonsense").unwrap();
        assert_eq!(door.grant(&listed), Grant::All);
        let mut revocation = Revocation::new(trust.clone());
        assert!(revocation.look(&[]).changed);
        assert!(!revocation.look(&[]).changed);
        std::fs::remove_file(&file).unwrap();
        assert!(revocation.look(&[]).changed);
        assert_eq!(door.grant(&listed), Grant::NOTHING);
    }
}
