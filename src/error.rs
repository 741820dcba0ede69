//! What can go wrong, by who must act.
//!
//! Every message says what happened, to which name or address, and what to do next; it fits behind
//! `error: ` on one line (the warning about a changed key alone takes several).

use std::{
    io,
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use crate::{
    forward::ForwardError,
    identity::{CodeError, IdentityError, Name, NameError, ServerName},
    secure::PublicKey,
    wire::{peer::Goodbye, stream::ResetReason},
};

mod words;

pub use words::{goodbye, last_seen, seconds};

use words::{bind_advice, changed_host, changed_server, reset_advice};

/// What can go wrong, by who must act.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The person at this computer: a setting, a file, a key, an invite.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The person at the other computer.
    #[error(transparent)]
    Peer(#[from] PeerError),
    /// Whoever runs the server or the networks in between; often time alone.
    #[error(transparent)]
    Network(#[from] NetworkError),
    /// Nobody: the program was told to stop before it had done what it was asked for. Whoever told it
    /// knows that, so the command line prints nothing.
    #[error("stopped")]
    Stopped,
    /// Us: this is a mistake in the program.
    #[error("internal error, please report it: {0}")]
    Internal(String),
}

impl Error {
    /// The process's exit code: 2 where the command could not have worked as it was given, else 1.
    pub fn exit_code(&self) -> u8 {
        match self {
            Error::Config(
                ConfigError::Usage(_)
                | ConfigError::ConfigFile { .. }
                | ConfigError::Name(_)
                | ConfigError::Code(_)
                | ConfigError::Forward(_)
                | ConfigError::NoServer
                | ConfigError::NotTrusted { .. },
            ) => 2,
            _ => 1,
        }
    }
}

/// What the person at this computer can set right.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// An argument or setting that does not fit; the text says which and how to write it.
    #[error("{0}")]
    Usage(String),
    /// The configuration file does not parse.
    #[error("{}: {why}", path.display())]
    ConfigFile {
        /// The file.
        path: PathBuf,
        /// Where and why.
        why: String,
    },
    /// Not a name.
    #[error(transparent)]
    Name(#[from] NameError),
    /// Not an invite code.
    #[error(transparent)]
    Code(#[from] CodeError),
    /// Not a rule or service.
    #[error(transparent)]
    Forward(#[from] ForwardError),
    /// A file of keys or invites.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// No rendezvous server is named.
    #[error(
        "no rendezvous server is named: use --rendezvous HOST, set PUNCHTUNNEL_RENDEZVOUS, or write \
         rendezvous = \"HOST\" in config.toml"
    )]
    NoServer,
    /// `connect` to a host whose key nobody vouches for.
    #[error(
        "the key of \"{name}\" is not known, and the server's word alone is not enough: run \"punchtunnel invite \
         {name}\" on that computer and give the code here with --invite, or name its key with --host-key"
    )]
    NotTrusted {
        /// The host.
        name: Name,
    },
    /// Another key is pinned for the host: the words that ssh uses.
    #[error("{}", changed_host(name, *found, *pinned, path, *line))]
    HostKeyChanged {
        /// The host.
        name: Name,
        /// The key that it has now, where that is known.
        found: Option<PublicKey>,
        /// The key that is pinned.
        pinned: PublicKey,
        /// The file that pins it.
        path: Box<Path>,
        /// The line, from 1.
        line: usize,
    },
    /// The host does not have the key that the command line names.
    #[error(
        "what the server brings from \"{name}\" does not prove the key {named} that --host-key names: compare that with what \
         \"punchtunnel key\" prints on that computer"
    )]
    HostKeyWrong {
        /// The host.
        name: Name,
        /// The key.
        named: PublicKey,
    },
    /// Another key is pinned for the rendezvous server.
    #[error("{}", changed_server(server, *found, pinned.as_ref()))]
    ServerKeyChanged {
        /// The server.
        server: ServerName,
        /// The key that it names now.
        found: PublicKey,
        /// File and line that pin the other one; `None` where `--rendezvous HOST#KEY` does.
        pinned: Option<(PathBuf, usize)>,
    },
    /// The name belongs to another key.
    #[error(
        "the name \"{name}\" belongs to another key at {server}: choose another with --as, or use the computer \
         (or the PUNCHTUNNEL_HOME) that registered it first"
    )]
    NameOwned {
        /// The name.
        name: Name,
        /// The server.
        server: ServerName,
    },
    /// Another run with the same key has registered the name.
    #[error(
        "another \"punchtunnel expose\" with this key has registered \"{name}\" at {server} and has it now: stop one of \
         the two, or give them different names"
    )]
    NameTaken {
        /// The name.
        name: Name,
        /// The server.
        server: ServerName,
    },
    /// The name looks like one that belongs to another key.
    #[error(
        "the name \"{name}\" looks like one that belongs to another key at {server} (0 counts as o, 1 as l, rn as m, \
         vv as w): choose another with --as"
    )]
    NameAlike {
        /// The name.
        name: Name,
        /// The server.
        server: ServerName,
    },
    /// The server takes no more names.
    #[error(
        "{server} takes no more names from this key or at all, so \"{name}\" is not registered: free one, or use another server"
    )]
    NameFull {
        /// The name.
        name: Name,
        /// The server.
        server: ServerName,
    },
    /// A local port cannot be listened on.
    #[error("cannot listen on {address}: {source}{}", bind_advice(address, source))]
    Listen {
        /// Where.
        address: SocketAddr,
        /// The system's words.
        source: io::Error,
    },
    /// What was to be removed is not there.
    #[error("{what} is not in {}: \"punchtunnel {command}\" lists what there is", file.display())]
    NotListed {
        /// The key or name.
        what: String,
        /// Where it was looked for.
        file: PathBuf,
        /// The command that lists that file.
        command: &'static str,
    },
    /// `status` where there is nothing to ask.
    #[error(
        "nothing runs {}(its state would be in {}): start \"punchtunnel expose\" or \"punchtunnel connect\", or name the \
         directory that it uses with PUNCHTUNNEL_HOME",
        name.as_ref().map(|name| format!("for \"{name}\" ")).unwrap_or_default(),
        home.display()
    )]
    NothingRuns {
        /// What was asked for; `None` for anything.
        name: Option<Name>,
        /// Where running programs are looked for.
        home: PathBuf,
    },
    /// Standard input or output fails.
    #[error("{0}")]
    Stdio(String),
    /// The host does not know the invite.
    #[error(
        "the server says that \"{name}\" does not take this invite: it was used, has expired, or is for another host; run \"punchtunnel \
         invite {name}\" there for a new one"
    )]
    InviteRefused {
        /// The host.
        name: Name,
    },
    /// The handshake did not prove the invite.
    #[error(
        "the invite does not prove that this is \"{name}\": the code is of another host, or somebody stands in \
         between; nothing was sent; ask for a new invite by a way that nobody else reads"
    )]
    InviteNotProved {
        /// The host.
        name: Name,
    },
    /// The server does not serve this key.
    #[error(
        "{server} serves only keys that its operator has listed (--allow-keys): have this one added, or use another \
         server: {key}"
    )]
    ServerPrivate {
        /// The server.
        server: ServerName,
        /// This installation's key.
        key: PublicKey,
    },
    /// A name cannot be given up.
    #[error("\"{name}\" is not given up at {server}: {why}")]
    NotReleased {
        /// The name.
        name: Name,
        /// The server.
        server: ServerName,
        /// Why, and what to do.
        why: &'static str,
    },
    /// The server speaks another version.
    #[error(
        "{server} speaks protocol version {theirs}, this program {}: update the older one",
        crate::wire::VERSION
    )]
    Version {
        /// The server.
        server: ServerName,
        /// Its version.
        theirs: u8,
    },
}

/// What the person at the other computer can set right.
#[derive(Debug, thiserror::Error)]
pub enum PeerError {
    /// The host does not know this client.
    #[error(
        "the server says that \"{name}\" does not let this computer in: on that computer, run \"punchtunnel invite {name}\" and give \
         the code here with --invite, or add this key to its authorized_clients: {key}"
    )]
    Unauthorised {
        /// The host.
        name: Name,
        /// This client's key.
        key: PublicKey,
    },
    /// The host has too many clients.
    #[error(
        "the server says that \"{name}\" has too many clients at once: try again later, or end one of them"
    )]
    Busy {
        /// The host.
        name: Name,
    },
    /// A stream was reset.
    #[error("{reason} (host \"{name}\"){}", reset_advice(*reason))]
    Reset {
        /// The host.
        name: Name,
        /// Why.
        reason: ResetReason,
    },
    /// The other peer ended the session.
    #[error("\"{name}\" ended the session: {}", goodbye(*why))]
    Ended {
        /// The host.
        name: Name,
        /// Why.
        why: Goodbye,
    },
}

/// What the network does not give.
#[derive(Debug, thiserror::Error)]
pub enum NetworkError {
    /// The server's name has no address.
    #[error(
        "cannot find the address of {server}: {source}; check the name, and that this computer is online"
    )]
    Resolve {
        /// The server.
        server: ServerName,
        /// The system's words.
        source: io::Error,
    },
    /// The server does not answer.
    #[error(
        "{server} has not answered for {}, over UDP or TCP: check that \"punchtunnel rendezvous\" runs there and \
         that its ports are open",
        seconds(*since)
    )]
    ServerSilent {
        /// The server.
        server: ServerName,
        /// For how long.
        since: Duration,
    },
    /// The server could not write the name down.
    #[error(
        "{server} cannot write down that \"{name}\" belongs to this key (its disk may be full), so the name is not \
         promised yet"
    )]
    NameUnstored {
        /// The name.
        name: Name,
        /// The server.
        server: ServerName,
    },
    /// The host did not appear in time.
    #[error("\"{name}\" did not appear within {}: {}", seconds(*waited), last_seen(*last_seen_ago))]
    NotThere {
        /// The host.
        name: Name,
        /// How long this side waited (`--wait`).
        waited: Duration,
        /// How long ago it was last registered; `None` if it never was.
        last_seen_ago: Option<Duration>,
    },
    /// The server keeps no more requests.
    #[error("{server} keeps too many requests and does not take the one for \"{name}\": try again later")]
    NotKept {
        /// The host.
        name: Name,
        /// The server.
        server: ServerName,
    },
    /// The NATs in between cannot be punched.
    #[error("a direct connection to \"{name}\" is not possible: {why}")]
    Hopeless {
        /// The host.
        name: Name,
        /// Why, in words.
        why: String,
    },
    /// There was no link for as long as the client has patience.
    #[error(
        "there was no connection to \"{name}\" for {} (--give-up-after), so it is given up: check that this computer is \
         online, and that \"punchtunnel expose\" runs there",
        seconds(*after)
    )]
    GivenUp {
        /// The host.
        name: Name,
        /// For how long.
        after: Duration,
    },
    /// The system refused a socket operation.
    #[error("cannot {operation}: {source}")]
    Socket {
        /// What was tried, as a verb with its address.
        operation: String,
        /// The system's words.
        source: io::Error,
    },
}

impl From<IdentityError> for Error {
    fn from(error: IdentityError) -> Self {
        Error::Config(error.into())
    }
}

impl From<ForwardError> for Error {
    fn from(error: ForwardError) -> Self {
        Error::Config(error.into())
    }
}

#[cfg(test)]
mod tests;
