//! The owner of a name: gives it up.

use std::sync::Arc;

use tokio::task::JoinHandle;

use super::{
    agent::{Agent, Arrivals, Commands, Surroundings},
    setup::{Common, common_setters, generate_key},
    tunnel::Tunnel,
};
use crate::{
    endpoint::{Input, Role},
    error::{Error, NetworkError},
    identity::Name,
};

/// Sets up an [`Owner`].
pub struct OwnerBuilder {
    name: String,
    common: Common,
}

/// Asks the server to forget that a name belongs to this key, and goes on asking until it is answered
/// ([`endpoint::Event::Released`](crate::endpoint::Event::Released)). Dropping it stops it.
pub struct Owner {
    commands: Commands,
    agent: JoinHandle<()>,
}

impl Owner {
    /// The owner of that name; see [`Name`] for what a name may be.
    pub fn builder(name: impl Into<String>) -> OwnerBuilder {
        OwnerBuilder { name: name.into(), common: Common::new() }
    }

    /// Ends.
    pub async fn stop(self) {
        self.commands.send(Input::Stop).await.ok();
        self.agent.await.ok();
    }
}

impl OwnerBuilder {
    common_setters!();

    /// Starts.
    ///
    /// # Errors
    /// [`ConfigError`](crate::ConfigError) for a setting that does not fit, [`NetworkError`] where the
    /// server's name has no address or no socket is to be had.
    pub async fn start(self) -> Result<Owner, Error> {
        let name: Name = self.name.parse().map_err(crate::ConfigError::Name)?;
        let key = self.common.key.clone().unwrap_or_else(generate_key);
        let settings = self.common.settings(key, Role::Owner { name: name.to_string() }).await?;
        let around = Surroundings {
            udp_port: self.common.udp_port,
            punch_ports: self.common.punch_ports,
            // Nobody.
            admission: Arc::new(()),
            arrivals: Box::new(NoSessions),
            events: self.common.events,
            linger: self.common.linger,
            dead_after: self.common.dead_after,
        };
        let (agent, commands) = Agent::new(settings, around)
            .map_err(|source| NetworkError::Socket { operation: "open a UDP socket".into(), source })?;
        Ok(Owner { commands, agent: tokio::spawn(agent.run()) })
    }
}

/// Whoever only owns a name has none.
struct NoSessions;

impl Arrivals for NoSessions {
    fn session(&mut self, _: Arc<Tunnel>) {}
}
