//! The tunnels that are compared: each from a local port at one place to the service at another.
//!
//! Every one of them is a chain of three TCP connections: program to agent, agent to agent, agent to service.

use std::{
    fs,
    io::{Read, Write},
    net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener},
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

use crate::{
    error::{Result, ensure, failed},
    load::{Order, Service},
    namespace::{Namespace, output_of},
    process::{Running, find, processor_time, resident},
};

/// The program that this is all about.
pub const OURS: &str = "punchtunnel";

/// The same service without anything between.
pub const DIRECT: &str = "no tunnel";

/// A tunnel stands after so long, or never.
const PATIENCE: Duration = Duration::from_secs(30);

/// bore's port is fixed.
const BORE_PORT: u16 = 7835;

/// More streams than are asked of any.
const MANY: usize = usize::MAX;

/// A kind of tunnel.
#[derive(Debug, Clone, Copy)]
pub struct Kind {
    pub name: &'static str,
    /// What distinguishes it, for the reader of a table.
    pub what: &'static str,
    /// Programs that it needs.
    needs: &'static [&'static str],
    /// So many idle streams are asked of it at most.
    pub streams: usize,
    build: fn(&mut Site<'_>) -> Result<Agents>,
}

/// All of them, in the order of the tables.
pub const KINDS: &[Kind] = &[
    Kind { name: DIRECT, what: "program and service alone", needs: &[], streams: MANY, build: direct },
    Kind {
        name: "socat",
        what: "two plain relays with 256 KiB buffers: no multiplexing, no encryption",
        needs: &["socat"],
        // A process for each stream in each agent.
        streams: 100,
        build: socat,
    },
    Kind {
        name: OURS,
        what: "one encrypted connection, streams in it",
        needs: &[],
        streams: MANY,
        build: punchtunnel,
    },
    Kind {
        name: "bore",
        what: "plain, a connection for each stream",
        needs: &["bore"],
        streams: MANY,
        build: bore,
    },
    Kind {
        name: "rathole",
        what: "plain, a connection for each stream",
        needs: &["rathole"],
        streams: MANY,
        build: rathole,
    },
    Kind {
        name: "rathole-noise",
        what: "encrypted, a connection for each stream",
        needs: &["rathole"],
        streams: MANY,
        build: rathole_noise,
    },
    Kind {
        name: "ssh",
        what: "-L, one encrypted connection",
        needs: &["ssh", "sshd", "ssh-keygen"],
        streams: MANY,
        build: ssh,
    },
];

/// Where an agent runs.
#[derive(Debug, Clone, Copy)]
pub struct Place<'a> {
    pub namespace: Option<&'a Namespace>,
    pub address: IpAddr,
}

/// Where a tunnel goes from and to.
#[derive(Debug, Clone, Copy)]
pub struct Ground<'a> {
    /// Where the program is.
    pub near: Place<'a>,
    /// Where the service is.
    pub far: Place<'a>,
}

impl Ground<'_> {
    /// Everything on the loopback interface.
    pub fn loopback() -> Self {
        let place = Place { namespace: None, address: Ipv4Addr::LOCALHOST.into() };
        Self { near: place, far: place }
    }
}

/// What a tunnel is built of.
struct Site<'a> {
    ground: Ground<'a>,
    service: SocketAddr,
    directory: &'a Path,
}

/// The two agents, and what else must go on running.
struct Agents {
    entrance: SocketAddr,
    near: Option<Running>,
    far: Option<Running>,
    _others: Vec<Running>,
}

/// A tunnel that stands. It is gone when dropped.
pub struct Tunnel {
    pub kind: Kind,
    /// Where programs connect to.
    pub entrance: SocketAddr,
    agents: Agents,
    _directory: tempfile::TempDir,
}

impl Kind {
    /// Which program is missing here, if one is.
    pub fn missing(&self) -> Option<&'static str> {
        self.needs.iter().copied().find(|program| find(program).is_none())
    }

    /// Builds the tunnel and waits until a byte has come through it.
    pub fn start(self, ground: Ground<'_>, service: &Service) -> Result<Tunnel> {
        let directory = tempfile::tempdir()?;
        let mut site = Site { ground, service: service.address, directory: directory.path() };
        let agents = (self.build)(&mut site).map_err(|error| failed(self.name, error))?;
        let tunnel = Tunnel { kind: self, entrance: agents.entrance, agents, _directory: directory };
        tunnel.wait(ground, service)?;
        Ok(tunnel)
    }
}

impl Tunnel {
    fn wait(&self, ground: Ground<'_>, service: &Service) -> Result<()> {
        let (entrance, start) = (self.entrance, Instant::now());
        let mut last = failed(self.kind.name, "never tried");
        while start.elapsed() < PATIENCE {
            match ground.near.within(|| passes(service, entrance))? {
                Ok(()) => return Ok(()),
                Err(error) => last = failed(self.kind.name, error),
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        Err(failed(last, self.said()))
    }

    /// What the agents have said since they were last asked.
    pub fn said(&self) -> String {
        let agents = [&self.agents.near, &self.agents.far];
        agents.into_iter().flatten().map(Running::said).collect::<Vec<_>>().join(" // ")
    }

    /// Processor time that both agents have used so far.
    pub fn processor_time(&self) -> Duration {
        [&self.agents.near, &self.agents.far].into_iter().flatten().map(|it| processor_time(it.id())).sum()
    }

    /// Resident memory of the agent near the program and of the other one, in bytes.
    pub fn resident(&self) -> (u64, u64) {
        let of = |agent: &Option<Running>| agent.as_ref().map_or(0, |agent| resident(agent.id()));
        (of(&self.agents.near), of(&self.agents.far))
    }
}

/// Sends a byte to the service and back.
fn passes(service: &Service, entrance: SocketAddr) -> std::io::Result<()> {
    let (mut stream, _) = service.open(entrance, Order::Echo)?;
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    stream.write_all(b"?")?;
    stream.read_exact(&mut [0])
}

impl Place<'_> {
    /// Runs something here.
    pub fn within<T: Send>(&self, run: impl FnOnce() -> T + Send) -> Result<T> {
        match self.namespace {
            Some(namespace) => namespace.within(run),
            None => Ok(run()),
        }
    }

    /// A port that is free here.
    fn port(&self) -> Result<u16> {
        let address = self.address;
        let listener = self.within(|| TcpListener::bind((address, 0)))??;
        Ok(listener.local_addr()?.port())
    }

    fn start(&self, command: &mut Command) -> Result<Running> {
        Running::start(self.namespace, command)
    }
}

impl Site<'_> {
    /// A port for programs to connect to.
    fn entrance(&self) -> Result<SocketAddr> {
        Ok((self.ground.near.address, self.ground.near.port()?).into())
    }

    fn path(&self, name: &str) -> String {
        self.directory.join(name).to_string_lossy().into_owned()
    }

    fn write(&self, name: &str, text: &str) -> Result<String> {
        fs::write(self.directory.join(name), text)?;
        Ok(self.path(name))
    }
}

/// A program that was found before.
fn program(name: &str) -> Command {
    Command::new(find(name).unwrap_or_else(|| PathBuf::from(name)))
}

fn direct(site: &mut Site<'_>) -> Result<Agents> {
    Ok(Agents { entrance: site.service, near: None, far: None, _others: Vec::new() })
}

fn socat(site: &mut Site<'_>) -> Result<Agents> {
    let (near, far) = (site.ground.near, site.ground.far);
    let entrance = site.entrance()?;
    let middle = SocketAddr::new(far.address, far.port()?);
    let relay = |from: SocketAddr, to: SocketAddr| {
        let mut socat = program("socat");
        socat.args(["-b", "262144"]);
        socat.arg(format!(
            "TCP-LISTEN:{},bind={},fork,reuseaddr,nodelay,backlog=1024",
            from.port(),
            from.ip()
        ));
        socat.arg(format!("TCP:{to},nodelay"));
        socat
    };
    let far = far.start(&mut relay(middle, site.service))?;
    let near = near.start(&mut relay(entrance, middle))?;
    Ok(Agents { entrance, near: Some(near), far: Some(far), _others: Vec::new() })
}

fn punchtunnel(site: &mut Site<'_>) -> Result<Agents> {
    let (near, far) = (site.ground.near, site.ground.far);
    let command = |home: &str| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_punchtunnel"));
        for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("PUNCHTUNNEL_")) {
            command.env_remove(name);
        }
        command.env("PUNCHTUNNEL_HOME", site.path(home));
        command
    };
    let mut server = command("server");
    server.args(["rendezvous", "--probe-port", "0", "--listen", &format!("{}:0", far.address)]);
    let server = far.start(&mut server)?;
    let rendezvous = word_at(&server.line("listening on")?, far.address)?;
    let probes: Vec<_> = addresses_in(&server.line("probes are answered on")?, far.address);
    let settle = |home: &str| {
        let mut command = command(home);
        command.env("PUNCHTUNNEL_RENDEZVOUS", &rendezvous).env("PUNCHTUNNEL_PROBE_SERVER", probes.join(","));
        command
    };
    let mut expose = settle("far");
    let expose = far.start(expose.args(["expose", &site.service.to_string(), "--as", "bench"]))?;
    expose.line("registered as")?;
    let invite = output_of(settle("far").args(["invite", "bench"]))?;
    let mut connect = settle("near");
    let entrance = site.entrance()?;
    connect.args(["connect", "bench", "-L", &entrance.to_string(), "--invite", invite.trim()]);
    let connect = near.start(&mut connect)?;
    connect.line("listening on")?;
    Ok(Agents { entrance, near: Some(connect), far: Some(expose), _others: vec![server] })
}

/// The words of a line that are addresses there.
fn addresses_in(line: &str, address: IpAddr) -> Vec<String> {
    let start = format!("{address}:");
    line.split([' ', ',']).filter(|word| word.starts_with(&start)).map(str::to_owned).collect()
}

fn word_at(line: &str, address: IpAddr) -> Result<String> {
    addresses_in(line, address).into_iter().next().ok_or_else(|| failed("no address in", line))
}

fn bore(site: &mut Site<'_>) -> Result<Agents> {
    let (near, far) = (site.ground.near, site.ground.far);
    let entrance = site.entrance()?;
    let mut server = program("bore");
    server.args(["server", "--bind-addr", &near.address.to_string()]);
    let server = near.start(&mut server)?;
    until_listening(near, SocketAddr::new(near.address, BORE_PORT))?;
    let mut local = program("bore");
    local.args(["local", &site.service.port().to_string(), "--local-host", &site.service.ip().to_string()]);
    local.args(["--to", &near.address.to_string(), "--port", &entrance.port().to_string()]);
    let local = far.start(&mut local)?;
    Ok(Agents { entrance, near: Some(server), far: Some(local), _others: Vec::new() })
}

fn rathole(site: &mut Site<'_>) -> Result<Agents> {
    rathole_with(site, "", "")
}

fn rathole_noise(site: &mut Site<'_>) -> Result<Agents> {
    let keys = output_of(program("rathole").arg("--genkey"))?;
    let key = |what: &str| {
        let line = keys.lines().skip_while(|line| !line.starts_with(what)).nth(1);
        line.map(str::to_owned).ok_or_else(|| failed("rathole --genkey", format!("no {what} in {keys:?}")))
    };
    let transport = |which: &str, name: &str, key: &str| {
        format!("[{which}.transport]\ntype = \"noise\"\n[{which}.transport.noise]\n{name} = \"{key}\"\n")
    };
    let server = transport("server", "local_private_key", &key("Private Key")?);
    let client = transport("client", "remote_public_key", &key("Public Key")?);
    rathole_with(site, &server, &client)
}

fn rathole_with(site: &mut Site<'_>, server: &str, client: &str) -> Result<Agents> {
    let (near, far) = (site.ground.near, site.ground.far);
    let entrance = site.entrance()?;
    let control = SocketAddr::new(near.address, near.port()?);
    let server = format!(
        "[server]\nbind_addr = \"{control}\"\ndefault_token = \"bench\"\n{server}\
         [server.services.bench]\nbind_addr = \"{entrance}\"\n"
    );
    let client = format!(
        "[client]\nremote_addr = \"{control}\"\ndefault_token = \"bench\"\n{client}\
         [client.services.bench]\nlocal_addr = \"{}\"\n",
        site.service
    );
    let start = |place: Place<'_>, how: &str, file: String| {
        place.start(program("rathole").env("RUST_LOG", "warn").args([how, &file]))
    };
    let server = start(near, "--server", site.write("server.toml", &server)?)?;
    until_listening(near, control)?;
    let client = start(far, "--client", site.write("client.toml", &client)?)?;
    Ok(Agents { entrance, near: Some(server), far: Some(client), _others: Vec::new() })
}

fn ssh(site: &mut Site<'_>) -> Result<Agents> {
    let (near, far) = (site.ground.near, site.ground.far);
    let entrance = site.entrance()?;
    let port = far.port()?;
    let (host_key, key) = (site.path("host_key"), site.path("id"));
    for key in [&host_key, &key] {
        output_of(program("ssh-keygen").args(["-q", "-t", "ed25519", "-N", "", "-f", key]))?;
    }
    let config = [
        format!("ListenAddress {}:{port}", far.address),
        format!("HostKey {host_key}"),
        format!("AuthorizedKeysFile {key}.pub"),
        // The files are in a directory for temporary ones, which sshd dislikes.
        "StrictModes no".into(),
        "PermitRootLogin prohibit-password".into(),
        "PasswordAuthentication no".into(),
        "KbdInteractiveAuthentication no".into(),
        "UsePAM no".into(),
        "PidFile none".into(),
    ];
    let config = site.write("sshd_config", &(config.join("\n") + "\n"))?;
    let server = far.start(program("sshd").args(["-D", "-e", "-f", &config]))?;
    server.line("Server listening on")?;
    let mut client = program("ssh");
    client.args(["-F", "/dev/null", "-N", "-p", &port.to_string(), "-i", &key]);
    for option in [
        "UserKnownHostsFile=/dev/null",
        "GlobalKnownHostsFile=/dev/null",
        "StrictHostKeyChecking=no",
        "IdentitiesOnly=yes",
        "BatchMode=yes",
        "ExitOnForwardFailure=yes",
        "User=root",
        "LogLevel=ERROR",
    ] {
        client.args(["-o", option]);
    }
    client.args(["-L", &format!("{entrance}:{}", site.service), &far.address.to_string()]);
    let client = near.start(&mut client)?;
    Ok(Agents { entrance, near: Some(client), far: Some(server), _others: Vec::new() })
}

/// Waits until somebody listens.
fn until_listening(place: Place<'_>, at: SocketAddr) -> Result<()> {
    let start = Instant::now();
    loop {
        let open = place.within(|| std::net::TcpStream::connect(at).is_ok())?;
        if open {
            return Ok(());
        }
        ensure(start.elapsed() < PATIENCE, || format!("nobody listens at {at}"))?;
        std::thread::sleep(Duration::from_millis(20));
    }
}
