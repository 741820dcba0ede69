//! A real OpenSSH server and client through the tunnel.

use std::{fs, io::Write, path::PathBuf, process::Command, time::Duration};

use crate::{
    Cell, Needs,
    error::{Result, ensure, failed},
    link::Line,
    namespace::output_of,
    nat_model::{Behaviour, Unsolicited},
    parties::{LOCAL_PORT, NAME, Parties, Party, binary},
    process::{Process, Record},
    side::{Side, Trio},
    world::{Host, Plan},
};

/// Size of the file that scp copies.
const FILE_BYTES: usize = 100_000_000;

/// Copying that much may take a while on a busy machine with a debug build.
const COPY_PATIENCE: Duration = Duration::from_secs(180);

pub fn cells() -> Vec<Cell> {
    vec![
        Cell::new("ssh::the_ssh_server_of_the_lab_works_without_a_tunnel", Needs::OpenSsh, alone),
        Cell::new("ssh::a_command_returns_its_output_and_exit_code", Needs::OpenSsh, command),
        Cell::new("ssh::scp_copies_100_mb_unharmed", Needs::OpenSsh, copy),
        Cell::new("ssh::connect_with_stdio_is_a_proxy_command", Needs::OpenSsh, proxy_command),
    ]
}

/// An ssh server with keys and configuration of its own, and a client that it lets in.
pub struct Ssh {
    server: Process,
    /// What every client is told.
    options: Vec<String>,
}

/// The port of the ssh server on the loopback of its host.
pub const SSH_PORT: u16 = 22;

impl Ssh {
    pub fn start(record: &Record, host: &Host, home: &Party<'_>, laptop: &Party<'_>) -> Result<Self> {
        let path =
            |party: &Party<'_>, name: &str| party.directory().join(name).to_string_lossy().into_owned();
        let (host_key, config) = (path(home, "host_key"), path(home, "sshd_config"));
        let (key, known_hosts) = (path(laptop, "id"), path(laptop, "known_hosts"));
        for key in [&host_key, &key] {
            output_of(Command::new("ssh-keygen").args(["-q", "-t", "ed25519", "-N", "", "-f", key]))?;
        }
        let authorized = path(home, "authorized_keys");
        fs::copy(format!("{key}.pub"), &authorized)?;
        let lines = [
            format!("ListenAddress 127.0.0.1:{SSH_PORT}"),
            format!("HostKey {host_key}"),
            format!("AuthorizedKeysFile {authorized}"),
            // The files are in a directory for temporary ones, which sshd dislikes.
            "StrictModes no".into(),
            "PermitRootLogin prohibit-password".into(),
            "PasswordAuthentication no".into(),
            "KbdInteractiveAuthentication no".into(),
            "UsePAM no".into(),
            "PidFile none".into(),
            "Subsystem sftp internal-sftp".into(),
        ];
        fs::write(&config, lines.join("\n") + "\n")?;
        let mut command = Command::new("/usr/sbin/sshd");
        command.args(["-D", "-e", "-f", &config]);
        let server = Process::start(record, &host.namespace, "home sshd", &mut command)?;
        server.line("Server listening on")?;
        let options = [
            ("IdentityFile", key.as_str()),
            ("UserKnownHostsFile", &known_hosts),
            ("GlobalKnownHostsFile", "/dev/null"),
            ("StrictHostKeyChecking", "accept-new"),
            ("IdentitiesOnly", "yes"),
            ("BatchMode", "yes"),
            ("User", "root"),
        ];
        let options = options.iter().flat_map(|(name, value)| ["-o".to_owned(), format!("{name}={value}")]);
        Ok(Self {
            server,
            options: ["-F".to_owned(), "/dev/null".into()].into_iter().chain(options).collect(),
        })
    }

    /// An ssh or scp on the client's machine.
    pub fn client(&self, laptop: &Party<'_>, program: &str) -> Command {
        let mut command = Command::new(program);
        laptop.environment(&mut command);
        command.args(&self.options);
        command
    }
}

/// A tunnel to an ssh server, 10 ms from here.
fn with_tunnel(record: &Record, test: impl FnOnce(&Parties<'_>, &Ssh) -> Result<()>) -> Result<()> {
    let side = Side::Model(Behaviour::linux(Unsolicited::Drop));
    let trio = Trio::new(1, &side, &side, Line::delayed(Duration::from_millis(5)))?;
    let parties = Parties::start(record, trio.hosts(), trio.vps.address, SSH_PORT)?;
    let mut ssh = Ssh::start(record, &trio.home, &parties.home, &parties.laptop)?;
    test(&parties, &ssh)?;
    ensure(ssh.server.is_running()?, || "sshd ended".to_owned())
}

/// Runs a client to its end: exit code and output.
fn finish(
    laptop: &Party<'_>,
    what: &str,
    command: &mut Command,
    patience: Duration,
) -> Result<(i32, Vec<u8>)> {
    laptop.start_command(what, command)?.finish(patience)
}

fn alone(record: &Record) -> Result<()> {
    let mut plan = Plan::new(1);
    let host = plan.public("home", Line::default())?;
    let (home, laptop) = (Party::new(record, &host)?, Party::new(record, &host)?);
    let ssh = Ssh::start(record, &host, &home, &laptop)?;
    let mut client = ssh.client(&laptop, "ssh");
    client.args(["localhost", "echo here; exit 5"]);
    let (code, output) = finish(&laptop, "ssh", &mut client, COPY_PATIENCE)?;
    ensure(code == 5 && output == b"here\n", || {
        format!("exit code {code}, {:?}", String::from_utf8_lossy(&output))
    })
}

fn command(record: &Record) -> Result<()> {
    with_tunnel(record, |parties, ssh| {
        let connect = parties.connect()?;
        connect.line("listening on")?;
        let mut client = ssh.client(&parties.laptop, "ssh");
        client.args(["-p", &LOCAL_PORT.to_string(), "localhost", "echo out; echo err >&2; exit 7"]);
        let mut client = parties.laptop.start_command("ssh", &mut client)?;
        let (code, output) = client.finish(COPY_PATIENCE)?;
        client.line("err")?;
        ensure(output == b"out\n", || String::from_utf8_lossy(&output).into_owned())?;
        ensure(code == 7, || format!("exit code {code}"))
    })
}

fn copy(record: &Record) -> Result<()> {
    with_tunnel(record, |parties, ssh| {
        let connect = parties.connect()?;
        connect.line("listening on")?;
        let (from, to) = (parties.laptop.directory().join("file"), parties.home.directory().join("copy"));
        let expected = write_file(&from)?;
        let port = LOCAL_PORT.to_string();
        let mut scp = ssh.client(&parties.laptop, "scp");
        scp.args(["-P", &port]).arg(&from).arg(format!("localhost:{}", to.display()));
        let start = std::time::Instant::now();
        let (code, _) = finish(&parties.laptop, "scp", &mut scp, COPY_PATIENCE)?;
        eprintln!("lab: scp of 100 MB through the tunnel took {:.1?}", start.elapsed());
        ensure(code == 0, || format!("exit code {code}"))?;
        let mut sum = ssh.client(&parties.laptop, "ssh");
        sum.args(["-p", &port, "localhost", &format!("sha256sum < {}", to.display())]);
        let (_, found) = finish(&parties.laptop, "ssh", &mut sum, COPY_PATIENCE)?;
        let found = String::from_utf8_lossy(&found).into_owned();
        ensure(found == expected, || format!("checksum {found} instead of {expected}"))
    })
}

fn proxy_command(record: &Record) -> Result<()> {
    with_tunnel(record, |parties, ssh| {
        let proxy = format!(
            "ProxyCommand={} connect {NAME} --stdio --rendezvous {} --host-key {}",
            binary().display(),
            parties.server_address,
            parties.host_key
        );
        let mut client = ssh.client(&parties.laptop, "ssh");
        client.args(["-o", &proxy, NAME, "head -c 1000000 /dev/zero; exit 3"]);
        let (code, output) = finish(&parties.laptop, "ssh", &mut client, COPY_PATIENCE)?;
        ensure(code == 3, || format!("exit code {code}"))?;
        ensure(output.len() == 1_000_000 && output.iter().all(|&byte| byte == 0), || {
            format!("{} bytes of output", output.len())
        })
    })
}

/// Writes a file without repetitions; what `sha256sum` says of it.
fn write_file(path: &PathBuf) -> Result<String> {
    let mut file = fs::File::create(path)?;
    let mut state = 1_u64;
    let mut block = Vec::with_capacity(1 << 20);
    let mut left = FILE_BYTES;
    while left > 0 {
        block.clear();
        while block.len() < (1 << 20) {
            // xorshift64 (Marsaglia, 2003): not to be compressed, and quick.
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            block.extend_from_slice(&state.to_le_bytes());
        }
        let length = left.min(block.len());
        file.write_all(&block[..length])?;
        left -= length;
    }
    let path = path.to_str().ok_or_else(|| failed("a path", "is not text"))?;
    output_of(Command::new("sh").args(["-c", &format!("sha256sum < {path}")]))
}
