//! Network namespaces, and the private namespaces that hold the whole lab.
//!
//! At its start the test binary replaces itself by `unshare`, which starts it again as the first
//! process of new mount, process and network namespaces. Everything that the lab makes (namespaces,
//! devices, firewall tables, processes) lives inside and vanishes with that process, in whatever way
//! it ends.

use std::{
    ffi::OsStr,
    fs::File,
    io,
    os::{fd::AsFd, unix::process::CommandExt},
    path::Path,
    process::{Command, Stdio},
    sync::atomic::{AtomicU32, Ordering},
};

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use crate::error::{Result, failed};

/// Set to `root` or `user` in the environment of the lab's first process; not meant for people.
pub const INNER: &str = "PUNCHTUNNEL_LAB_INNER";

/// What the lab may do on this machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Privilege {
    /// Root, or root of a container.
    Root,
    /// An unprivileged user namespace: everything except what needs several user ids (sshd).
    UserNamespace,
}

/// Whether this process is the lab's first process already.
pub fn inner() -> Option<Privilege> {
    match std::env::var(INNER).ok()?.as_str() {
        "root" => Some(Privilege::Root),
        "user" => Some(Privilege::UserNamespace),
        _ => None,
    }
}

/// How the lab can run here, or why it cannot, in words for the list of skipped tests.
pub fn privilege() -> std::result::Result<Privilege, String> {
    for (program, package) in [("ip", "iproute2"), ("nft", "nftables"), ("unshare", "util-linux")] {
        let version = if program == "ip" { "-V" } else { "--version" };
        if !runs(with_system_programs(&mut Command::new(program)).arg(version)) {
            return Err(format!("there is no `{program}` (Debian package {package})"));
        }
    }
    if let Err(error) = File::options().read(true).write(true).open("/dev/net/tun") {
        return Err(format!("/dev/net/tun cannot be opened: {error}"));
    }
    for privilege in [Privilege::Root, Privilege::UserNamespace] {
        // A namespace, a device and a mount are all that the lab is made of: try one of each.
        let trial = "mount -t tmpfs lab /run && ip tuntap add mode tun name trial";
        if runs(unshare(privilege).args(["sh", "-c", trial])) {
            return Ok(privilege);
        }
    }
    Err("neither root nor an unprivileged user namespace is to be had".to_owned())
}

/// Replaces this process by `unshare` and, in it, this program. Returns only if that failed.
pub fn replace_process(privilege: Privilege) -> io::Error {
    let program = match std::env::current_exe() {
        Ok(program) => program,
        Err(error) => return error,
    };
    let mark = match privilege {
        Privilege::Root => "root",
        Privilege::UserNamespace => "user",
    };
    unshare(privilege).arg(program).args(std::env::args_os().skip(1)).env(INNER, mark).exec()
}

/// Makes the places that the lab writes to its own. To be called once, in the lab's first process.
pub fn furnish() -> Result<()> {
    // sshd wants /run/sshd, ip wants /run/netns: a /run of our own serves both and hides nothing else.
    run("mount", ["-t", "tmpfs", "-o", "mode=755", "lab", "/run"])?;
    std::fs::create_dir_all("/run/netns").map_err(|error| failed("creating /run/netns", error))?;
    std::fs::create_dir_all("/run/sshd").map_err(|error| failed("creating /run/sshd", error))?;
    ip("link set lo up")
}

/// Whether there is a `ping`, or why not.
pub fn ping() -> std::result::Result<(), String> {
    let there = runs(with_system_programs(&mut Command::new("ping")).arg("-V"));
    if there { Ok(()) } else { Err("there is no `ping` (Debian package iputils-ping)".to_owned()) }
}

/// Whether an OpenSSH server can run here, or why not.
pub fn openssh(privilege: Privilege) -> std::result::Result<(), String> {
    if privilege == Privilege::UserNamespace {
        return Err("sshd needs the user ids of real root".to_owned());
    }
    for (program, package) in [("/usr/sbin/sshd", "openssh-server"), ("/usr/bin/ssh", "openssh-client")] {
        if !Path::new(program).exists() {
            return Err(format!("there is no {program} (Debian package {package})"));
        }
    }
    Ok(())
}

fn unshare(privilege: Privilege) -> Command {
    let mut command = Command::new("unshare");
    with_system_programs(&mut command);
    command.args(["--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"]);
    if privilege == Privilege::UserNamespace {
        command.args(["--user", "--map-root-user"]);
    }
    command
}

/// Debian leaves these directories out of the path of everybody but root, nft is in one of them.
fn with_system_programs(command: &mut Command) -> &mut Command {
    let mut path = std::env::var_os("PATH").unwrap_or_default();
    path.push(":/usr/sbin:/sbin");
    command.env("PATH", path)
}

fn runs(command: &mut Command) -> bool {
    command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success())
}

/// Runs `ip` with these words in the lab's first namespace.
pub fn ip(words: &str) -> Result<()> {
    run("ip", words.split_whitespace()).map(drop)
}

/// Runs a program to its end; its output, or its words on failure.
fn run<S: AsRef<OsStr>>(program: &str, arguments: impl IntoIterator<Item = S>) -> Result<String> {
    output_of(Command::new(program).args(arguments))
}

/// Runs a command to its end: what it printed, or what it complained about.
pub fn output_of(command: &mut Command) -> Result<String> {
    let output =
        command.stdin(Stdio::null()).output().map_err(|error| failed(format!("{command:?}"), error))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        return Err(failed(format!("{command:?} ({})", output.status), said.trim()));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// A network namespace, removed when dropped.
#[derive(Debug)]
pub struct Namespace {
    name: String,
}

impl Namespace {
    /// Creates a namespace with its loopback up; `what` becomes part of its name.
    pub fn new(what: &str) -> Result<Self> {
        // Tests run beside each other in one lab: a number keeps their names apart.
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!("{what}-{}", NEXT.fetch_add(1, Ordering::Relaxed));
        ip(&format!("netns add {name}"))?;
        let namespace = Self { name };
        namespace.ip("link set lo up")?;
        // Duplicate address detection would hold back IPv6 addresses for a second.
        namespace.sysctl("net/ipv6/conf/all/accept_dad", "0")?;
        namespace.sysctl("net/ipv6/conf/default/accept_dad", "0")?;
        Ok(namespace)
    }

    /// Its name, as `ip netns` knows it.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Runs `ip` with these words inside.
    pub fn ip(&self, words: &str) -> Result<()> {
        run("ip", ["-n", &self.name].into_iter().chain(words.split_whitespace())).map(drop)
    }

    /// Loads nftables rules inside.
    pub fn nft(&self, rules: &str) -> Result<()> {
        self.within(|| run("nft", [rules]))?.map(drop)
    }

    /// Sets a kernel parameter inside, by its path below /proc/sys.
    pub fn sysctl(&self, path: &str, value: &str) -> Result<()> {
        let path = Path::new("/proc/sys").join(path);
        self.within(|| std::fs::write(&path, value))?
            .map_err(|error| failed(format!("writing {}", path.display()), error))
    }

    /// Runs a function on a thread inside. Sockets that it makes and processes that it starts stay there.
    pub fn within<T: Send>(&self, run: impl FnOnce() -> T + Send) -> Result<T> {
        let path = Path::new("/run/netns").join(&self.name);
        let file = File::open(&path).map_err(|error| failed(format!("opening {}", path.display()), error))?;
        std::thread::scope(|scope| {
            let inside = scope.spawn(move || {
                move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network))
                    .map_err(|error| failed("entering a network namespace", error))?;
                Ok(run())
            });
            match inside.join() {
                Ok(result) => result,
                Err(panic) => std::panic::resume_unwind(panic),
            }
        })
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        // The lab's end removes it anyway; a failure here harms nobody.
        let _ = ip(&format!("netns del {}", self.name));
    }
}
