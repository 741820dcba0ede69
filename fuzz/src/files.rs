//! The files of a home, with anything in them, and the edits that a program makes to them.
//!
//! They are the owner's own and not the network's; but what a person typed there must neither stop a host nor
//! let anybody in by accident.

use std::{
    fs,
    io::Write,
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use punchtunnel::identity::{Grant, Home, Name, Network, ServerName, Trust, Worked, load_or_create};
use zeroize::Zeroizing;

use super::{keys::key, script::Script};

const NOW: u64 = 1_700_000_000;

/// A directory for one script, in memory where there is such a place; gone with it.
struct Directory(PathBuf);

impl Directory {
    fn new() -> Directory {
        static NUMBER: AtomicU64 = AtomicU64::new(0);
        let memory = Path::new("/dev/shm");
        let parent = if memory.is_dir() { memory.into() } else { std::env::temp_dir() };
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let directory = parent.join(format!("punchtunnel-fuzz-{}-{number}", std::process::id()));
        let made = fs::DirBuilder::new().mode(0o700).create(&directory);
        made.unwrap_or_else(|error| panic!("{}: {error}", directory.display()));
        Directory(directory)
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// A file is written and read; what can be read is edited, and can be read after that.
pub(crate) fn run(bytes: &[u8]) {
    let Some((choice, text)) = bytes.split_first() else { return };
    let directory = Directory::new();
    let trust = Trust::new(Home::at(&directory.0));
    let home = trust.home();
    let path = match choice % 6 {
        0 => home.authorized_clients(),
        1 => home.known_hosts(),
        2 => home.known_servers(),
        3 => home.invites(),
        4 => home.worked(),
        _ => home.identity_key(),
    };
    let written = fs::File::options().write(true).create_new(true).mode(0o600).open(&path);
    written.and_then(|mut file| file.write_all(text)).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    match choice % 6 {
        0 => clients(&trust, text),
        1 => hosts(&trust),
        2 => servers(&trust),
        3 => invites(&trust, &mut Script::new(text)),
        4 => worked(home),
        _ => drop(load_or_create(&path, Zeroizing::new([1; 32]))),
    }
}

fn clients(trust: &Trust, text: &[u8]) {
    let Ok(before) = trust.clients() else { return };
    let text = String::from_utf8_lossy(text).to_lowercase();
    for client in &before {
        assert!(text.contains(&client.key.to_string()), "nobody is let in who is not in the file");
    }
    let new = key(3).public();
    let was_in = before.iter().any(|client| client.key == new);
    assert_eq!(trust.is_authorised(&new).ok(), Some(was_in));
    if before.len() > 4 {
        // Rewriting takes the time; what is long was read.
        return;
    }
    assert_eq!(trust.authorise(&new, Grant::All, "a # comment\nand more").ok(), Some(!was_in));
    assert_eq!(trust.is_authorised(&new).ok(), Some(true));
    assert_eq!(trust.revoke(&new).ok(), Some(true));
    let after: Option<Vec<_>> = trust.clients().ok().map(|all| all.into_iter().map(|c| c.key).collect());
    let others = before.into_iter().map(|c| c.key).filter(|key| *key != new).collect();
    assert_eq!(after, Some(others), "all others stay");
}

fn hosts(trust: &Trust) {
    let Ok(before) = trust.hosts() else { return };
    let known = trust.host(&name(), &server()).ok().flatten();
    let pinned = trust.pin_host(&name(), &server(), &key(3).public());
    assert_eq!(pinned.is_err(), known.is_some_and(|known| known.key != key(3).public()), "{pinned:?}");
    if let Some(first) = before.first() {
        let gone = trust.forget_host(&first.label).unwrap_or_else(|error| panic!("{error}"));
        assert!(gone.iter().any(|host| host.key == first.key));
        assert!(trust.hosts().is_ok_and(|after| after.iter().all(|host| host.label != first.label)));
    }
}

fn servers(trust: &Trust) {
    let Ok(known) = trust.server(&server()) else { return };
    let pinned = trust.pin_server(&server(), &key(3).public());
    assert_eq!(pinned.is_err(), known.is_some_and(|known| known.key != key(3).public()), "{pinned:?}");
}

fn invites(trust: &Trust, script: &mut Script<'_>) {
    let Ok(before) = trust.invites() else { return };
    let random = std::array::from_fn(|_| script.byte());
    let Ok(code) = trust.open_invite(&name(), Grant::All, &random, NOW, Duration::from_secs(60)) else {
        return;
    };
    assert!(trust.invite(&name(), code.id(), NOW).is_ok_and(|psk| psk.is_some()));
    for (at, works) in [(NOW + 60, false), (NOW, true), (NOW, false)] {
        let used = trust.use_up(&name(), code.id(), &key(3).public(), at);
        assert_eq!(used.ok(), Some(works), "once, and in time");
    }
    let kept = |open: &punchtunnel::identity::OpenInvite| open.expiry > NOW && open.code.id() != code.id();
    let others = before.iter().filter(|open| kept(open)).count();
    assert_eq!(trust.invites().map(|after| after.len()).ok(), Some(others), "all others stay");
}

fn worked(home: &Home) {
    let host = Worked::label(&name(), &server());
    let Ok(before) = Worked::of_host(home, &host) else { return };
    assert!(before.iter().all(|known| known.host == host));
    let (ours, theirs) = ("fixed".into(), "lan".into());
    let network = Network::of([192, 0, 2, 1].into());
    let new = Worked { network, host: host.clone(), ours, theirs, round: 1, at: u64::MAX };
    assert!(new.clone().remember(home).is_ok());
    assert!(Worked::of_host(home, &host).is_ok_and(|after| after.contains(&new)));
}

fn name() -> Name {
    "box".parse().unwrap_or_else(|error| panic!("{error}"))
}

fn server() -> ServerName {
    "vps".parse().unwrap_or_else(|error| panic!("{error}"))
}
