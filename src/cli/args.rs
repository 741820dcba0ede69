//! What can be typed.
//!
//! Every option has an environment variable, which clap reads, and a key of the configuration file,
//! which [`settings`](super::settings) reads; `--invite` and `--stdio` alone have no key, because they
//! are for one run. Defaults are named here for people and live beside what uses them.

use std::{net::SocketAddr, path::PathBuf, str::FromStr};

use clap::{ArgAction, Args, Parser, Subcommand, ValueEnum, builder::FalseyValueParser};
use punchtunnel::{
    forward::{LocalRule, Service},
    identity::{Grant, Name, ServerName},
    secure::PublicKey,
};

use super::settings::{Allow, Ports, Rendezvous, Span, Spend};

/// Reach a TCP service behind a NAT from behind another NAT, over one direct, encrypted TCP connection.
#[derive(Debug, Parser)]
#[command(name = "punchtunnel", version, max_term_width = 100, after_help = EXAMPLE)]
pub(crate) struct Arguments {
    /// What to do.
    #[command(subcommand)]
    pub(crate) command: Command,
    /// What holds for every command.
    #[command(flatten)]
    pub(crate) global: Global,
}

const EXAMPLE: &str = "\
Example:
  vps$     punchtunnel rendezvous
  home$    punchtunnel expose 22 --as myhost --rendezvous vps
  home$    punchtunnel invite myhost
  laptop$  punchtunnel connect myhost -L 2222 --rendezvous vps --invite CODE
  laptop$  ssh -p 2222 me@localhost";

/// Options of every command.
#[derive(Debug, Args)]
pub(crate) struct Global {
    /// Directory for configuration, keys and state, instead of the platform's
    #[arg(long, env = "PUNCHTUNNEL_HOME", value_name = "DIR", global = true)]
    pub(crate) home: Option<PathBuf>,
    /// Log what happens inside (-vv: everything); RUST_LOG chooses more finely
    #[arg(short, long, env = "PUNCHTUNNEL_VERBOSE", value_name = "N", action = ArgAction::Count, global = true)]
    pub(crate) verbose: u8,
    /// Print errors only
    #[arg(short, long, env = "PUNCHTUNNEL_QUIET", value_parser = FalseyValueParser::new(), global = true)]
    pub(crate) quiet: bool,
    /// How messages and logs are written to standard error [default: text]
    #[arg(long, env = "PUNCHTUNNEL_LOG_FORMAT", value_name = "FORMAT", global = true)]
    pub(crate) log_format: Option<LogFormat>,
}

/// How messages are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

impl FromStr for LogFormat {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        <LogFormat as ValueEnum>::from_str(text, false).map_err(|_| format!("{text:?}: use text or json"))
    }
}

/// The commands.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run the server that lets peers find each other
    Rendezvous(RendezvousArgs),
    /// Offer TCP services of this computer under a name
    Expose(ExposeArgs),
    /// Reach the services of a host
    Connect(ConnectArgs),
    /// Print a one-time code that lets a new client in to this computer
    Invite(InviteArgs),
    /// Show or change which clients are let in
    Clients(ClientsArgs),
    /// Show or change which hosts are trusted
    Hosts(HostsArgs),
    /// Examine this computer's NAT, and with a NAME the way to that host: exit code 0 where direct
    /// connections are possible
    Doctor(DoctorArgs),
    /// Give a name up that this computer's key has registered: anybody may have it then
    Release(ReleaseArgs),
    /// Print this computer's public key
    Key,
    /// Show how it stands with what runs on this computer
    #[cfg(unix)]
    Status(StatusArgs),
    /// Try everything on this computer alone: a server, a host and a client
    Demo(DemoArgs),
}

/// Which servers to use, and what else hosts and clients have in common.
#[derive(Debug, Args)]
pub(crate) struct ServerArgs {
    /// The rendezvous server; #KEY pins its key. Further ones are only probed, to know the NAT better
    #[arg(long, env = "PUNCHTUNNEL_RENDEZVOUS", value_name = "HOST[:PORT][#KEY]", value_delimiter = ',')]
    pub(crate) rendezvous: Vec<Rendezvous>,
    /// Where TCP probes go, and nowhere else [default: ports 7862 and 7863 of every --rendezvous]
    #[arg(long, env = "PUNCHTUNNEL_PROBE_SERVER", value_name = "HOST:PORT", value_delimiter = ',')]
    pub(crate) probe_server: Vec<ServerName>,
    /// Hold a connection for dead after so much silence [default: by its round trip, at least 2s]
    #[arg(long, env = "PUNCHTUNNEL_DEAD_AFTER", value_name = "TIME")]
    pub(crate) dead_after: Option<Span>,
    /// How long a session lives on without a connection [default: 24h]
    #[arg(long, env = "PUNCHTUNNEL_LINGER", value_name = "TIME")]
    pub(crate) linger: Option<Span>,
    /// The local UDP port [default: any]
    #[arg(long, env = "PUNCHTUNNEL_UDP_PORT", value_name = "PORT")]
    pub(crate) udp_port: Option<u16>,
    /// The local TCP ports to punch from, for a firewall that lets only those through; 32 are plenty
    /// [default: any]
    #[arg(long, env = "PUNCHTUNNEL_PUNCH_PORT", value_name = "PORT[-PORT]")]
    pub(crate) punch_port: Option<Ports>,
    /// How much an attempt may cost, in sockets and packets: low, normal or high [default: normal]
    #[arg(long, env = "PUNCHTUNNEL_PUNCH_EFFORT", value_name = "EFFORT")]
    pub(crate) punch_effort: Option<Spend>,
}

/// `rendezvous`
#[derive(Debug, Args)]
pub(crate) struct RendezvousArgs {
    /// Where to listen, UDP and TCP [default: 0.0.0.0:7862 and [::]:7862]
    #[arg(long, env = "PUNCHTUNNEL_LISTEN", value_name = "ADDR[:PORT]", value_delimiter = ',', value_parser = parse_listen)]
    pub(crate) listen: Vec<SocketAddr>,
    /// A further TCP port for probes [default: 7863]
    #[arg(long, env = "PUNCHTUNNEL_PROBE_PORT", value_name = "PORT", value_delimiter = ',')]
    pub(crate) probe_port: Vec<u16>,
    /// Directory for the names and the server's key
    #[arg(long, env = "PUNCHTUNNEL_DATA", value_name = "DIR")]
    pub(crate) data: Option<PathBuf>,
    /// Names that are remembered, at most [default: 100000]
    #[arg(long, env = "PUNCHTUNNEL_MAX_NAMES", value_name = "COUNT")]
    pub(crate) max_names: Option<usize>,
    /// Names of one key, at most [default: 16]
    #[arg(long, env = "PUNCHTUNNEL_NAMES_PER_KEY", value_name = "COUNT")]
    pub(crate) names_per_key: Option<usize>,
    /// A name that nobody registers for so long belongs to nobody any more [default: 90days]
    #[arg(long, env = "PUNCHTUNNEL_NAME_TTL", value_name = "TIME")]
    pub(crate) name_ttl: Option<Span>,
    /// Serve only hosts and clients whose key is in this file, a line each: KEY [comment]; SIGHUP reads it again
    #[arg(long, env = "PUNCHTUNNEL_ALLOW_KEYS", value_name = "FILE")]
    pub(crate) allow_keys: Option<PathBuf>,
}

/// `expose`
#[derive(Debug, Args)]
pub(crate) struct ExposeArgs {
    /// What to offer; the first one is what clients get who name none
    #[arg(env = "PUNCHTUNNEL_SERVICES", value_name = "[LABEL=][HOST:]PORT", value_delimiter = ',')]
    pub(crate) services: Vec<Service>,
    /// The name under which clients find this computer
    #[arg(long = "as", env = "PUNCHTUNNEL_AS", value_name = "NAME")]
    pub(crate) name: Option<Name>,
    /// Let in the client with this key too, for this run: to all services, or to these labels or ports only
    #[arg(long, env = "PUNCHTUNNEL_ALLOW", value_name = "KEY[=SERVICE,…]")]
    pub(crate) allow: Vec<Allow>,
    /// Make an invite at once and print its code to standard output
    #[arg(long)]
    pub(crate) invite: bool,
    /// How long that invite is good for [default: 10m]
    #[arg(long, env = "PUNCHTUNNEL_INVITE_TTL", value_name = "TIME")]
    pub(crate) invite_ttl: Option<Span>,
    /// Servers.
    #[command(flatten)]
    pub(crate) servers: ServerArgs,
}

/// `connect`
#[derive(Debug, Args)]
pub(crate) struct ConnectArgs {
    /// The host's name
    pub(crate) name: Name,
    /// Listen here (port 0: any) and lead to that service (a label or port; without: the first)
    #[arg(
        short = 'L',
        long = "forward",
        env = "PUNCHTUNNEL_FORWARD",
        value_name = "[BIND:]PORT[:SERVICE]",
        value_delimiter = ','
    )]
    pub(crate) forward: Vec<LocalRule>,
    /// Join the service with standard input and output, as for ssh's ProxyCommand
    #[arg(long, env = "PUNCHTUNNEL_STDIO", value_name = "SERVICE", num_args = 0..=1, require_equals = true, default_missing_value = "")]
    pub(crate) stdio: Option<String>,
    /// An invite's code, for the first time; - reads it from standard input
    #[arg(long, env = "PUNCHTUNNEL_INVITE", hide_env_values = true, value_name = "CODE|-")]
    pub(crate) invite: Option<Secret>,
    /// The host's key, where it is known from elsewhere
    #[arg(long, env = "PUNCHTUNNEL_HOST_KEY", value_name = "KEY")]
    pub(crate) host_key: Option<PublicKey>,
    /// How long to wait for a host that is not there, or "forever" [default: 5m]
    #[arg(long, env = "PUNCHTUNNEL_WAIT", value_name = "TIME")]
    pub(crate) wait: Option<Span>,
    /// Give up when there has been no connection for so long [default: forever]
    #[arg(long, env = "PUNCHTUNNEL_GIVE_UP_AFTER", value_name = "TIME")]
    pub(crate) give_up_after: Option<Span>,
    /// Servers.
    #[command(flatten)]
    pub(crate) servers: ServerArgs,
}

/// `doctor`
#[derive(Debug, Args)]
pub(crate) struct DoctorArgs {
    /// A host that lets this computer in: connects to it for a trial
    pub(crate) name: Option<Name>,
    /// Print one JSON object
    #[arg(long)]
    pub(crate) json: bool,
    /// The host's key, where it is known from elsewhere
    #[arg(long, env = "PUNCHTUNNEL_HOST_KEY", value_name = "KEY")]
    pub(crate) host_key: Option<PublicKey>,
    /// Servers.
    #[command(flatten)]
    pub(crate) servers: ServerArgs,
}

/// `invite`
#[derive(Debug, Args)]
pub(crate) struct InviteArgs {
    /// The name under which this computer is exposed
    pub(crate) name: Name,
    /// How long it is good for [default: 10m]
    #[arg(long, env = "PUNCHTUNNEL_INVITE_TTL", value_name = "TIME")]
    pub(crate) invite_ttl: Option<Span>,
    /// The labels or ports that the new client may use [default: all that is exposed]
    #[arg(long, value_name = "SERVICE,…")]
    pub(crate) services: Option<Grant>,
}

/// `clients`
#[derive(Debug, Args)]
pub(crate) struct ClientsArgs {
    /// What to do with them.
    #[command(subcommand)]
    pub(crate) action: Option<ClientsAction>,
}

/// What to do with clients.
#[derive(Debug, Subcommand)]
pub(crate) enum ClientsAction {
    /// Print the keys that are let in (this is the default)
    List,
    /// Let a key in, or change what it may use
    Add {
        /// The client's key, as its "punchtunnel key" prints it
        key: PublicKey,
        /// The labels or ports that it may use [default: all that is exposed]
        #[arg(long, value_name = "SERVICE,…")]
        services: Option<Grant>,
        /// A word about whose it is
        comment: Vec<String>,
    },
    /// Do not let a key in any more
    Remove {
        /// The client's key
        key: PublicKey,
    },
}

/// `hosts`
#[derive(Debug, Args)]
pub(crate) struct HostsArgs {
    /// What to do with them.
    #[command(subcommand)]
    pub(crate) action: Option<HostsAction>,
}

/// What to do with hosts.
#[derive(Debug, Subcommand)]
pub(crate) enum HostsAction {
    /// Print the hosts whose key is known (this is the default)
    List,
    /// Forget a host's key
    Remove {
        /// Its name, or NAME@HOST:PORT for one server only
        name: String,
    },
}

/// `release`
#[derive(Debug, Args)]
pub(crate) struct ReleaseArgs {
    /// The name, as in expose --as
    pub(crate) name: Name,
    /// Servers.
    #[command(flatten)]
    pub(crate) servers: ServerArgs,
}

/// `status`
#[cfg(unix)]
#[derive(Debug, Args)]
pub(crate) struct StatusArgs {
    /// The host's name, as in expose --as or connect; without it, all that run
    pub(crate) name: Option<Name>,
    /// Print one line of JSON (docs/STATUS.md has its fields)
    #[arg(long)]
    pub(crate) json: bool,
    /// Print again each second: in place on a terminal, else below what is there
    #[arg(long)]
    pub(crate) watch: bool,
}

/// `demo`
#[derive(Debug, Args)]
pub(crate) struct DemoArgs {
    /// Megabytes to transfer
    #[arg(long, env = "PUNCHTUNNEL_DEMO_MEGABYTES", value_name = "MB", default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=4096))]
    pub(crate) megabytes: u32,
}

/// Text that no message repeats, not even one about a mistake in it.
#[derive(Clone)]
pub(crate) struct Secret(pub(crate) zeroize::Zeroizing<String>);

impl FromStr for Secret {
    type Err = std::convert::Infallible;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Ok(Secret(zeroize::Zeroizing::new(text.into())))
    }
}

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Secret(..)")
    }
}

/// An address to listen on, perhaps without a port.
pub(crate) fn parse_listen(text: &str) -> Result<SocketAddr, String> {
    let bare = text.trim_start_matches('[').trim_end_matches(']');
    text.parse()
        .or_else(|_| bare.parse().map(|ip| SocketAddr::new(ip, punchtunnel::wire::DEFAULT_PORT)))
        .map_err(|_| format!("{text:?} is not an address: use IP:PORT, or [IP]:PORT for IPv6"))
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_arguments_are_consistent() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn a_secret_is_not_shown() {
        assert_eq!(format!("{:?}", Secret::from_str("hush").unwrap()), "Secret(..)");
    }

    #[test]
    fn an_address_may_lack_its_port() {
        for (text, address) in [
            ("127.0.0.1:1", "127.0.0.1:1"),
            ("127.0.0.1", "127.0.0.1:7862"),
            ("::1", "[::1]:7862"),
            ("[::1]", "[::1]:7862"),
            ("[::1]:5", "[::1]:5"),
        ] {
            assert_eq!(parse_listen(text).map(|a| a.to_string()).as_deref(), Ok(address));
        }
        assert!(parse_listen("vps").is_err());
    }
}
