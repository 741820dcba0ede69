//! Words that errors and other messages have in common.

use std::{
    io,
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use crate::{
    identity::{Name, ServerName},
    secure::PublicKey,
    wire::{peer::Goodbye, stream::ResetReason},
};

/// A duration as people say it: whole seconds from one second on, else milliseconds.
pub fn seconds(duration: Duration) -> humantime::FormattedDuration {
    let shown = if duration >= Duration::from_secs(1) {
        Duration::from_secs((duration + Duration::from_millis(500)).as_secs())
    } else {
        Duration::from_millis(duration.as_millis() as u64)
    };
    humantime::format_duration(shown)
}

/// What is known about a host that is not there.
pub fn last_seen(ago: Option<Duration>) -> String {
    match ago {
        None => {
            "the server has never heard of it; is the name right, and does \"punchtunnel expose\" run there?"
                .into()
        }
        Some(ago) if ago < Duration::from_secs(60) => "it was last seen less than a minute ago".into(),
        Some(ago) => {
            let minutes = Duration::from_secs(ago.as_secs() / 60 * 60);
            format!("it was last seen {} ago", humantime::format_duration(minutes))
        }
    }
}

pub(super) fn changed_host(
    name: &Name,
    found: Option<PublicKey>,
    pinned: PublicKey,
    path: &Path,
    line: usize,
) -> String {
    let now = match found {
        Some(found) => format!("Its key is now {found},\nand {pinned} was expected"),
        None => format!("What the server brings from it does not prove the key {pinned}"),
    };
    format!(
        "REMOTE HOST IDENTIFICATION HAS CHANGED: \"{name}\"\n\
         Somebody could be eavesdropping on you right now, or the host was installed anew.\n\
         {now}.\n\
         If you know why, remove line {line} of {} (punchtunnel hosts remove {name}) and connect with a new invite.",
        path.display()
    )
}

pub(super) fn changed_server(
    server: &ServerName,
    found: PublicKey,
    pinned: Option<&(PathBuf, usize)>,
) -> String {
    let remedy = match pinned {
        Some((path, line)) => format!("remove line {line} of {}", path.display()),
        None => "give the new key behind the # of --rendezvous".into(),
    };
    format!(
        "THE RENDEZVOUS SERVER'S IDENTIFICATION HAS CHANGED: {server}\n\
         Its key is now {found}. Somebody could stand in between, or the server was installed anew.\n\
         If you know why, {remedy}."
    )
}

pub(super) fn bind_advice(address: &SocketAddr, source: &io::Error) -> String {
    match source.kind() {
        io::ErrorKind::AddrInUse => {
            "; another program has this port: stop it, or choose another port (0 is any free one)".into()
        }
        io::ErrorKind::PermissionDenied if address.port() < 1024 => {
            "; ports below 1024 need privileges: choose a higher one".into()
        }
        io::ErrorKind::AddrNotAvailable => "; this computer does not have that address".into(),
        _ => String::new(),
    }
}

pub(super) fn reset_advice(reason: ResetReason) -> &'static str {
    match reason {
        ResetReason::Refused => ": is it running there, on the port that was exposed?",
        ResetReason::Unreachable => ": check the address that was exposed",
        ResetReason::NoSuchService => ": use a label or port that was exposed, or none for the first one",
        ResetReason::NotAllowed => {
            ": name one that it may use (-L PORT:SERVICE), or ask for it there (punchtunnel clients add)"
        }
        ResetReason::TooMany => ": close some and try again",
        _ => "",
    }
}

/// Why a session ended, to go behind a colon.
pub fn goodbye(why: Goodbye) -> &'static str {
    match why {
        Goodbye::Stopped => "it was stopped there",
        Goodbye::Unauthorised => "this computer's key is not authorised there any more; ask for a new invite",
        Goodbye::Unknown => "it was started anew; connect again",
        Goodbye::Expired => "there was no connection for longer than it is kept (--linger)",
        Goodbye::Broken => {
            "one side said what the protocol does not allow; update both programs, and do not trust that computer if \
             it happens again"
        }
    }
}
