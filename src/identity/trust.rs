//! Who is let in, and who is believed to be whom.

use std::{
    collections::BTreeMap,
    path::Path,
    time::{Duration, SystemTime},
};

use super::{
    AuthorisedClient, Code, Entry, Grant, Home, IdentityError, Name, OpenInvite, ServerName,
    file::{self, Lock},
    invites, keyed,
};
use crate::secure::{Psk, PublicKey};

/// The answers to questions of trust, from the files of a [`Home`] and from what a command line added
/// for this run. Every question reads the files anew.
#[derive(Debug, Clone)]
pub struct Trust {
    home: Home,
    allowed: Vec<(PublicKey, Grant)>,
}

/// What pinning a key did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pinned {
    /// The key was written down.
    New,
    /// It was there.
    Known,
}

/// The keys of a file with a line each, `KEY [comment]`, that is not one of a [`Home`]'s. Unlike those it
/// has to be there.
///
/// # Errors
/// A file that is not there, cannot be read, or has a malformed line.
pub fn listed_keys(path: &Path) -> Result<impl Iterator<Item = PublicKey> + use<>, IdentityError> {
    if let Err(source) = path.metadata() {
        return Err(IdentityError::Io { operation: "read", path: path.into(), source });
    }
    Ok(keyed::read_clients(path)?.into_iter().map(|entry| entry.key))
}

impl Trust {
    /// From the files of `home`.
    pub fn new(home: Home) -> Trust {
        Trust { home, allowed: Vec::new() }
    }

    /// With clients that are let in for this run, whatever the files say (`--allow`).
    pub fn allowing(mut self, keys: impl IntoIterator<Item = (PublicKey, Grant)>) -> Trust {
        self.allowed.extend(keys);
        self
    }

    /// Where the files are.
    pub fn home(&self) -> &Home {
        &self.home
    }

    /// May this client in?
    ///
    /// # Errors
    /// A file that cannot be read or has a malformed line; so for all methods here.
    pub fn is_authorised(&self, key: &PublicKey) -> Result<bool, IdentityError> {
        Ok(self.grants()?.contains_key(key))
    }

    /// Every client that may in, with what it may use: all that its lines say, where there are several.
    pub fn grants(&self) -> Result<BTreeMap<PublicKey, Grant>, IdentityError> {
        let listed = self.clients()?.into_iter().map(|client| (client.key, client.grant));
        let mut grants = BTreeMap::new();
        for (key, grant) in self.allowed.iter().cloned().chain(listed) {
            let known = grants.remove(&key).unwrap_or(Grant::NOTHING);
            grants.insert(key, grant.and(known));
        }
        Ok(grants)
    }

    /// The lines of `authorized_clients`.
    pub fn clients(&self) -> Result<Vec<AuthorisedClient>, IdentityError> {
        keyed::read_clients(&self.home.authorized_clients())
    }

    /// Could anybody be let in, as things stand: by `--allow`, by a file, or by an open invite to `name`?
    pub fn lets_anybody_in(&self, name: &Name, now: u64) -> Result<bool, IdentityError> {
        Ok(!self.allowed.is_empty()
            || !self.clients()?.is_empty()
            || self.invites()?.iter().any(|invite| invite.name == *name && invite.expiry > now))
    }

    /// Lets a client in from now on, to use what is granted and nothing else; false if just that was so
    /// already. Without a comment the old one stays.
    pub fn authorise(&self, key: &PublicKey, grant: Grant, comment: &str) -> Result<bool, IdentityError> {
        let _lock = self.lock()?;
        self.authorise_locked(key, |_| grant, comment)
    }

    /// Takes the right to come in away; false if the client did not have it.
    pub fn revoke(&self, key: &PublicKey) -> Result<bool, IdentityError> {
        let _lock = self.lock()?;
        let lines: Vec<_> = self.clients()?.iter().filter(|c| c.key == *key).map(|c| c.line).collect();
        if lines.is_empty() {
            return Ok(false);
        }
        keyed::remove(&self.home.authorized_clients(), &lines)?;
        Ok(true)
    }

    /// Makes an invite to `name` from 24 random bytes, for the services that are granted. `now` is Unix time in
    /// seconds.
    pub fn open_invite(
        &self,
        name: &Name,
        grant: Grant,
        random: &[u8; 24],
        now: u64,
        ttl: Duration,
    ) -> Result<Code, IdentityError> {
        let code = Code::from_random(random);
        let _lock = self.lock()?;
        file::create_directory(self.home.state_dir())?;
        let expiry = now.saturating_add(ttl.as_secs());
        let invite = OpenInvite { line: 0, code: code.clone(), name: name.clone(), expiry, grant };
        invites::add(&self.home.invites(), &invite, now)?;
        Ok(code)
    }

    /// All invites that were not used, expired ones too.
    pub fn invites(&self) -> Result<Vec<OpenInvite>, IdentityError> {
        invites::read(&self.home.invites())
    }

    /// The pre-shared key of an open invite to `name`; `None` if it is mistyped, used or expired.
    pub fn invite(&self, name: &Name, id: u64, now: u64) -> Result<Option<Psk>, IdentityError> {
        Ok(invites::find(&self.invites()?, name, id, now).map(|invite| invite.code.psk()))
    }

    /// A client has proved the secret of an invite: uses the invite up and lets the client in from now
    /// on, to use what the invite grants and what it was granted before. False if somebody else used it meanwhile, or it expired: then nothing is granted.
    ///
    /// The invite goes first: a crash in between costs an invite, and never lets it be used twice.
    pub fn use_up(&self, name: &Name, id: u64, key: &PublicKey, now: u64) -> Result<bool, IdentityError> {
        let _lock = self.lock()?;
        let Some(grant) = invites::take(&self.home.invites(), name, id, now)? else { return Ok(false) };
        let date = humantime::format_rfc3339_seconds(SystemTime::UNIX_EPOCH + Duration::from_secs(now));
        self.authorise_locked(key, |known| known.and(grant), &format!("invited to {name} {date}"))?;
        Ok(true)
    }

    /// The lines of `known_hosts`.
    pub fn hosts(&self) -> Result<Vec<Entry>, IdentityError> {
        keyed::read_pins(&self.home.known_hosts())
    }

    /// The line of `known_hosts` for the host of that name at that server.
    pub fn host(&self, name: &Name, server: &ServerName) -> Result<Option<Entry>, IdentityError> {
        find_pin(self.hosts()?, &host_subject(name, server))
    }

    /// Writes a host's key down, once it is proved.
    ///
    /// # Errors
    /// [`IdentityError::Changed`] where another key is pinned.
    pub fn pin_host(
        &self,
        name: &Name,
        server: &ServerName,
        key: &PublicKey,
    ) -> Result<Pinned, IdentityError> {
        let explanation = "hosts that connect trusts, a line each: NAME@SERVER:PORT KEY";
        self.pin(&self.home.known_hosts(), &host_subject(name, server), key, explanation)
    }

    /// Forgets the hosts whose line begins with `NAME` or is of `NAME@HOST:PORT`; the lines that went.
    pub fn forget_host(&self, subject: &str) -> Result<Vec<Entry>, IdentityError> {
        let _lock = self.lock()?;
        let is_meant =
            |label: &str| label == subject || label.split_once('@').is_some_and(|(name, _)| name == subject);
        let gone: Vec<_> = self.hosts()?.into_iter().filter(|host| is_meant(&host.label)).collect();
        if !gone.is_empty() {
            keyed::remove(&self.home.known_hosts(), &Vec::from_iter(gone.iter().map(|host| host.line)))?;
        }
        Ok(gone)
    }

    /// The line of `known_servers` for that rendezvous server.
    pub fn server(&self, server: &ServerName) -> Result<Option<Entry>, IdentityError> {
        find_pin(keyed::read_pins(&self.home.known_servers())?, &server.to_string())
    }

    /// Writes a rendezvous server's key down.
    ///
    /// # Errors
    /// [`IdentityError::Changed`] where another key is pinned.
    pub fn pin_server(&self, server: &ServerName, key: &PublicKey) -> Result<Pinned, IdentityError> {
        let explanation = "rendezvous servers, a line each: HOST:PORT KEY";
        self.pin(&self.home.known_servers(), &server.to_string(), key, explanation)
    }

    /// `grant` is told what is granted now.
    fn authorise_locked(
        &self,
        key: &PublicKey,
        grant: impl FnOnce(Grant) -> Grant,
        comment: &str,
    ) -> Result<bool, IdentityError> {
        let known: Vec<_> = self.clients()?.into_iter().filter(|client| client.key == *key).collect();
        let before = known.iter().fold(Grant::NOTHING, |all, client| all.and(client.grant.clone()));
        let grant = grant(before.clone());
        if !known.is_empty() && grant == before {
            return Ok(false);
        }
        check_readable(key)?;
        // A comment from elsewhere must not become a second line, or an option.
        let comment = comment.replace(char::is_control, " ");
        let old = known.first().map(|client| client.comment.clone());
        let comment = Some(comment.trim().to_owned()).filter(|c| !c.is_empty()).or(old).unwrap_or_default();
        let line = AuthorisedClient { line: 0, key: *key, grant, comment };
        let text = line.to_string();
        if keyed::parse_client(0, &text).map_err(IdentityError::Comment)? != line {
            return Err(IdentityError::Comment("it does not read back".into()));
        }
        let explanation = "clients that expose lets in, a line each: KEY [services=LABEL,...] [comment]";
        let lines: Vec<_> = known.iter().map(|client| client.line).collect();
        keyed::exchange(&self.home.authorized_clients(), &lines, &text, explanation)?;
        Ok(true)
    }

    fn pin(
        &self,
        path: &Path,
        subject: &str,
        key: &PublicKey,
        explanation: &str,
    ) -> Result<Pinned, IdentityError> {
        let _lock = self.lock()?;
        let pins: Vec<_> = keyed::read_pins(path)?.into_iter().filter(|pin| pin.label == subject).collect();
        if pins.iter().any(|pin| pin.key == *key) {
            return Ok(Pinned::Known);
        }
        if let Some(other) = pins.first() {
            return Err(IdentityError::Changed {
                path: path.into(),
                line: other.line,
                subject: subject.into(),
                pinned: other.key,
            });
        }
        check_readable(key)?;
        keyed::add(path, &format!("{subject} {key}"), explanation)?;
        Ok(Pinned::New)
    }

    fn lock(&self) -> Result<Lock, IdentityError> {
        Lock::take(self.home.config_dir())
    }
}

/// A line with a key of small order, say, would make the whole file malformed.
fn check_readable(key: &PublicKey) -> Result<(), IdentityError> {
    key.to_string().parse::<PublicKey>().map(drop).map_err(IdentityError::Unusable)
}

fn host_subject(name: &Name, server: &ServerName) -> String {
    format!("{name}@{server}")
}

fn find_pin(pins: Vec<Entry>, subject: &str) -> Result<Option<Entry>, IdentityError> {
    Ok(pins.into_iter().find(|pin| pin.label == subject))
}

#[cfg(test)]
mod tests;
