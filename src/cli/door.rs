//! The door of a host: [`Admission`] by the files of a home.

use punchtunnel::{
    identity::{IdentityError, Name, Trust},
    net::{Admission, Question},
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
