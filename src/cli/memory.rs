//! What an attempt was like, for the [memory](Worked) of what worked.

use std::time::Duration;

use punchtunnel::{
    endpoint::{Event, Hint},
    error::seconds,
    identity::{Home, IdentityError, Name, Network, ServerName, Worked},
    nat::{Model, Prediction},
};

use super::settings::unix_now;

/// What is known of the current attempt.
#[derive(Debug, Default)]
pub(crate) struct Attempt {
    /// This side's NAT.
    pub(crate) mine: Vec<Prediction>,
    /// The other side's.
    pub(crate) theirs: Vec<Prediction>,
    /// The last round that was opened, from 1.
    pub(crate) round: Option<u8>,
    /// Its kind, from 1.
    kind: Option<u8>,
}

/// One word for a model.
pub(crate) fn kind(model: &Model) -> &'static str {
    match model {
        Model::Fixed { .. } => "fixed",
        Model::Progression(_) => "progression",
        Model::Band { .. } => "band",
        Model::Random => "random",
    }
}

/// What is remembered of a host, as a client takes it. Without it all is the same, only later.
pub(crate) fn hints(home: &Home, name: &Name, server: &ServerName) -> Vec<Hint> {
    let worked = Worked::of_host(home, &Worked::label(name, server)).unwrap_or_else(|error| {
        tracing::warn!(%error, "what worked before is not known");
        Vec::new()
    });
    let hint = |known: Worked| Some(Hint { network: known.network, variant: known.round.checked_sub(1)? });
    worked.into_iter().filter_map(hint).collect()
}

/// A memory in words.
pub(crate) fn words(last: &Worked) -> String {
    let ago = seconds(Duration::from_secs(unix_now().saturating_sub(last.at)));
    let Worked { network, host, ours, theirs, round, .. } = last;
    format!("from {network} to {host} round {round} connected {ago} ago ({ours} to {theirs})")
}

impl Attempt {
    /// Takes in what happens.
    pub(crate) fn take(&mut self, event: &Event) {
        match event {
            Event::NatFound { predictions, .. } => self.mine.clone_from(predictions),
            Event::PeerNatFound { predictions, .. } => self.theirs.clone_from(predictions),
            Event::Opening { id, variant, .. } => {
                self.round = Some(id.round.saturating_add(1));
                self.kind = Some(variant.saturating_add(1));
            }
            _ => {}
        }
    }

    /// What worked last from this network.
    pub(crate) fn recall(
        &self,
        home: &Home,
        name: &Name,
        server: &ServerName,
    ) -> Result<Option<Worked>, IdentityError> {
        match self.mine.first() {
            Some(mine) => Worked::recall(home, Network::of(mine.address), &Worked::label(name, server)),
            None => Ok(None),
        }
    }

    /// Writes down that it worked; nothing where this side's network is not known.
    pub(crate) fn remember(
        &self,
        home: &Home,
        name: &Name,
        server: &ServerName,
        lan: bool,
    ) -> Result<(), IdentityError> {
        let Some(mine) = self.mine.first() else { return Ok(()) };
        let word = |prediction: Option<&Prediction>| match prediction {
            _ if lan => "lan".to_owned(),
            Some(prediction) => kind(&prediction.model).to_owned(),
            None => "unknown".to_owned(),
        };
        let worked = Worked {
            network: Network::of(mine.address),
            host: Worked::label(name, server),
            ours: word(Some(mine)),
            theirs: word(self.theirs.first()),
            round: self.kind.unwrap_or(1),
            at: unix_now(),
        };
        worked.remember(home)
    }
}
