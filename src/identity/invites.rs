//! The file of open invites.
//!
//! A line is `ID NAME SECRET EXPIRY [services=LABEL,…]`: the public part of the code, the host's name that it
//! opens, the secret in base32, Unix time in seconds, and what it lets use where that is not everything.

use std::path::Path;

use data_encoding::BASE32_NOPAD;
use zeroize::{Zeroize, Zeroizing};

use super::{
    Code, Grant, IdentityError, Name,
    file::{self, Access},
    grant,
    invite::{parse_id, show_id},
};

/// Most open invites: enough for a class room, few enough to be read at every introduction.
const MAX_INVITES: usize = 256;

/// What a new file begins with.
const HEAD: &str =
    "# open invites: ID NAME SECRET EXPIRY [services=...]; whoever can read this can use them\n";

/// An invite that was made and not used yet.
#[derive(Debug, Clone)]
pub struct OpenInvite {
    /// Its line in the file, from 1.
    pub line: usize,
    /// The code.
    pub code: Code,
    /// The host's name that it opens.
    pub name: Name,
    /// Unix time in seconds from which on it is not accepted.
    pub expiry: u64,
    /// What the client may use who comes with it.
    pub grant: Grant,
}

/// All invites of the file, expired ones too.
pub(super) fn read(path: &Path) -> Result<Vec<OpenInvite>, IdentityError> {
    let text = Zeroizing::new(file::read(path, Access::Secret)?);
    parse(path, &text)
}

/// Adds an invite, and removes those that have expired. Needs the lock.
pub(super) fn add(path: &Path, invite: &OpenInvite, now: u64) -> Result<(), IdentityError> {
    let OpenInvite { code, name, expiry, grant, .. } = invite;
    let text = Zeroizing::new(file::read(path, Access::Secret)?);
    let invites = parse(path, &text)?;
    let (dead, open): (Vec<_>, Vec<_>) =
        invites.iter().partition(|i| i.expiry <= now || i.code.id() == code.id());
    if open.len() >= MAX_INVITES {
        return Err(IdentityError::Full { path: path.into(), what: "open invites", max: MAX_INVITES });
    }
    let dead: Vec<_> = dead.iter().map(|invite| invite.line).collect();
    let mut secret = BASE32_NOPAD.encode(code.secret()).to_ascii_lowercase();
    let line = Zeroizing::new(format!("{} {name} {secret} {expiry} {}", show_id(code.id()), grant.option()));
    secret.zeroize();
    let text = match text.is_empty() {
        true => HEAD,
        false => text.as_str(),
    };
    let text = file::exchanged(text, &dead, line.trim_end());
    file::replace(path, &text, Access::Secret)
}

/// Removes the invite if it opens `name` and has not expired: what it grants; `None` if there is no such invite
/// (any more). Needs the lock.
pub(super) fn take(path: &Path, name: &Name, id: u64, now: u64) -> Result<Option<Grant>, IdentityError> {
    let text = Zeroizing::new(file::read(path, Access::Secret)?);
    let invites = parse(path, &text)?;
    let Some(invite) = find(&invites, name, id, now) else { return Ok(None) };
    let rest = file::without_lines(&text, &[invite.line]);
    file::replace(path, &rest, Access::Secret)?;
    Ok(Some(invite.grant.clone()))
}

/// The invite of that public part, if it opens `name` and has not expired.
pub(super) fn find<'a>(invites: &'a [OpenInvite], name: &Name, id: u64, now: u64) -> Option<&'a OpenInvite> {
    invites.iter().find(|i| i.code.id() == id && i.name == *name && i.expiry > now)
}

fn parse(path: &Path, text: &str) -> Result<Vec<OpenInvite>, IdentityError> {
    file::lines(text)
        .map(|(line, text)| {
            parse_line(line, text).ok_or_else(|| IdentityError::Malformed {
                path: path.into(),
                line,
                why: "not an invite (ID NAME SECRET EXPIRY [services=LABEL,…])".into(),
            })
        })
        .collect()
}

fn parse_line(line: usize, text: &str) -> Option<OpenInvite> {
    let mut fields = text.split_whitespace();
    let id = parse_id(fields.next()?)?;
    let name = fields.next()?.parse().ok()?;
    let encoded = Zeroizing::new(fields.next()?.to_ascii_uppercase());
    let bytes = Zeroizing::new(BASE32_NOPAD.decode(encoded.as_bytes()).ok()?);
    let secret = Zeroizing::new(bytes.as_slice().try_into().ok()?);
    let expiry = fields.next()?.parse().ok()?;
    let grant = match fields.next() {
        None => Grant::All,
        Some(option) => option.strip_prefix(grant::OPTION)?.parse().ok()?,
    };
    let invite = OpenInvite { line, code: Code::from_parts(id, secret), name, expiry, grant };
    fields.next().is_none().then_some(invite)
}
