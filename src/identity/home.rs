//! Where the files are.

use std::path::{Path, PathBuf};

use directories::ProjectDirs;

use super::{
    IdentityError,
    file::{self, Access},
};

/// The directories of one identity. Nothing is created until something is written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Home {
    config: PathBuf,
    state: PathBuf,
}

impl Home {
    /// Everything in one directory: `PUNCHTUNNEL_HOME`, tests, and people with two identities.
    pub fn at(directory: impl Into<PathBuf>) -> Home {
        let directory = directory.into();
        Home { config: directory.clone(), state: directory }
    }

    /// The platform's directories for this user (on Linux, XDG's `~/.config/punchtunnel` and
    /// `~/.local/state/punchtunnel`).
    ///
    /// # Errors
    /// [`IdentityError::NoHome`] for a user without a home directory, as services often are.
    pub fn of_user() -> Result<Home, IdentityError> {
        let dirs = ProjectDirs::from("", "", "punchtunnel").ok_or(IdentityError::NoHome)?;
        Ok(Home {
            config: dirs.config_dir().to_owned(),
            state: dirs.state_dir().unwrap_or_else(|| dirs.data_local_dir()).to_owned(),
        })
    }

    /// The directory of what people edit, and of the key.
    pub fn config_dir(&self) -> &Path {
        &self.config
    }

    /// The directory of what only this program writes.
    pub fn state_dir(&self) -> &Path {
        &self.state
    }

    /// The configuration file.
    pub fn config_file(&self) -> PathBuf {
        self.config.join("config.toml")
    }

    /// The text of the configuration file, empty where there is none. As it may say who is let in, it is held to
    /// what holds for the other files.
    ///
    /// # Errors
    /// It cannot be read, is no text, or others can change it.
    pub fn read_config(&self) -> Result<String, IdentityError> {
        file::read(&self.config_file(), Access::Plain)
    }

    /// This installation's private key.
    pub fn identity_key(&self) -> PathBuf {
        self.config.join("identity.key")
    }

    /// Hosts that `connect` trusts.
    pub fn known_hosts(&self) -> PathBuf {
        self.config.join("known_hosts")
    }

    /// Rendezvous servers whose key is pinned.
    pub fn known_servers(&self) -> PathBuf {
        self.config.join("known_servers")
    }

    /// Clients that `expose` lets in.
    pub fn authorized_clients(&self) -> PathBuf {
        self.config.join("authorized_clients")
    }

    /// Open invites.
    pub fn invites(&self) -> PathBuf {
        self.state.join("invites")
    }

    /// Control sockets of the programs that run.
    pub fn run_dir(&self) -> PathBuf {
        self.state.join("run")
    }

    /// What connected last.
    pub fn worked(&self) -> PathBuf {
        self.state.join("worked")
    }

    /// What a rendezvous server keeps, unless told otherwise.
    pub fn server_data(&self) -> PathBuf {
        self.state.join("rendezvous")
    }
}
