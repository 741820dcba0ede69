//! The real binary as server, host and client: the four lines of the README.

use std::{
    ffi::OsStr,
    net::IpAddr,
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

use rustix::process::Signal;
use tempfile::TempDir;

use crate::{
    error::{Result, failed},
    process::{PATIENCE, Process, Record, run},
    service::{connect, greeted},
    world::Host,
};

/// The name that the host registers.
pub const NAME: &str = "myhost";

/// Where `connect` listens.
pub const LOCAL_PORT: u16 = 2222;

/// A machine with the program on it: its own files, its own keys.
#[derive(Debug)]
pub struct Party<'a> {
    /// Where it stands.
    pub host: &'a Host,
    record: &'a Record,
    directory: TempDir,
}

impl<'a> Party<'a> {
    /// A machine on which the program never ran.
    pub fn new(record: &'a Record, host: &'a Host) -> Result<Self> {
        Ok(Self { host, record, directory: tempfile::tempdir()? })
    }

    /// Its directory for files of every kind.
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// The program with these words.
    pub fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new(binary());
        self.environment(&mut command);
        command.args(words);
        command
    }

    /// Lets a program (perhaps one that starts ours) live in this party's directory.
    pub fn environment(&self, command: &mut Command) {
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("PUNCHTUNNEL_") {
                command.env_remove(name);
            }
        }
        command.env("PUNCHTUNNEL_HOME", self.directory.path().join("punchtunnel"));
        command.env("HOME", self.directory.path());
    }

    /// Starts the program; its lines are recorded under the party's name and the command's.
    pub fn start(&self, words: &[&str]) -> Result<Process> {
        self.start_command(words.first().copied().unwrap_or_default(), &mut self.command(words))
    }

    /// Starts another program; its lines are recorded under the party's name and `what`.
    pub fn start_command(&self, what: &str, command: &mut Command) -> Result<Process> {
        Process::start(self.record, &self.host.namespace, &format!("{} {what}", self.host.name), command)
    }

    /// Runs the program to its successful end; what it answered on standard output.
    pub fn ask(&self, words: &[&str]) -> Result<String> {
        let what = format!("{} {}", self.host.name, words.first().copied().unwrap_or_default());
        let output = run(self.record, &self.host.namespace, &what, &mut self.command(words))?;
        let output = String::from_utf8(output).map_err(|error| failed(what, error))?;
        Ok(output.trim_end().to_owned())
    }
}

/// The program under test.
pub fn binary() -> PathBuf {
    PathBuf::from(OsStr::new(env!("CARGO_BIN_EXE_punchtunnel")))
}

/// An address as `--rendezvous` takes it.
pub fn rendezvous(address: IpAddr) -> String {
    match address {
        IpAddr::V4(address) => address.to_string(),
        IpAddr::V6(address) => format!("[{address}]:7862"),
    }
}

/// A server, a host that exposes something, and a client that is allowed in: all that is needed before
/// `connect`.
#[derive(Debug)]
pub struct Parties<'a> {
    vps: Party<'a>,
    /// The machine that exposes.
    pub home: Party<'a>,
    /// The machine that connects.
    pub laptop: Party<'a>,
    /// What `--rendezvous` gets.
    pub server_address: String,
    /// The host's public key.
    pub host_key: String,
    server: Option<Process>,
    /// `punchtunnel expose`.
    pub expose: Process,
}

impl<'a> Parties<'a> {
    /// Starts the server and the host; returns when the name is registered. The keys are exchanged
    /// beforehand, over a channel that is none of our business.
    pub fn start(
        record: &'a Record,
        [vps, home, laptop]: [&'a Host; 3],
        server_address: IpAddr,
        port: u16,
    ) -> Result<Self> {
        let [vps, home, laptop] =
            [Party::new(record, vps)?, Party::new(record, home)?, Party::new(record, laptop)?];
        let server_address = rendezvous(server_address);
        let server = serve(&vps)?;
        let (host_key, client_key) = (home.ask(&["key"])?, laptop.ask(&["key"])?);
        let expose = home.start(&[
            "expose",
            &port.to_string(),
            "--as",
            NAME,
            "--rendezvous",
            &server_address,
            "--allow",
            &client_key,
        ])?;
        expose.line("registered as")?;
        Ok(Self { vps, home, laptop, server_address, host_key, server: Some(server), expose })
    }

    /// Kills the server as a power failure does.
    pub fn stop_server(&mut self) -> Result<()> {
        let Some(mut server) = self.server.take() else { return Ok(()) };
        server.signal(Signal::KILL)?;
        // Ended by a signal, which is no exit code.
        let _ = server.end(PATIENCE);
        Ok(())
    }

    /// Starts it again.
    pub fn start_server(&mut self) -> Result<()> {
        self.server = Some(serve(&self.vps)?);
        Ok(())
    }

    /// Starts `connect`.
    pub fn connect(&self) -> Result<Process> {
        self.connect_with(&[])
    }

    /// Starts `connect` with more options.
    pub fn connect_with(&self, more: &[&str]) -> Result<Process> {
        let port = LOCAL_PORT.to_string();
        let words = ["connect", NAME, "-L", &port, "--rendezvous", &self.server_address];
        self.laptop.start(&[&words[..], &["--host-key", &self.host_key], more].concat())
    }

    /// Starts `connect` and uses the tunnel as soon as the port is there: the time from the start of the
    /// program to the first bytes of the service.
    pub fn connect_and_greet(&self) -> Result<(Process, std::net::TcpStream, Duration)> {
        let start = Instant::now();
        let process = self.connect()?;
        process.line("listening on")?;
        let mut stream = connect(self.laptop.host, LOCAL_PORT)?;
        greeted(&mut stream)?;
        Ok((process, stream, start.elapsed()))
    }
}

/// Starts a server on a machine; returns when it serves.
pub fn serve(vps: &Party<'_>) -> Result<Process> {
    let data = vps.directory().join("data");
    let server = vps.start(&["rendezvous", "--data", &data.to_string_lossy()])?;
    server.line("listening on")?;
    Ok(server)
}
