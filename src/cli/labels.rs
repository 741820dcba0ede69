//! Who a key is, for people.

use punchtunnel::{
    identity::{Name, Trust},
    secure::PublicKey,
};

/// Who the other peers of a run are.
#[derive(Debug, Clone)]
pub(crate) enum Labels {
    /// Clients: the comments in `authorized_clients`.
    Clients(Trust),
    /// The one host that was asked for.
    Host(Name),
}

impl Labels {
    /// Names keys; reads the file once, so that many keys cost no more than one.
    pub(crate) fn read(&self) -> impl Fn(&PublicKey) -> Option<String> + use<'_> {
        let clients = match self {
            // A file that cannot be read now is somebody else's to complain about.
            Labels::Clients(trust) => trust.clients().unwrap_or_default(),
            Labels::Host(_) => Vec::new(),
        };
        move |key| match self {
            Labels::Clients(_) => {
                let entry = clients.iter().find(|entry| entry.key == *key)?;
                Some(entry.comment.clone()).filter(|label| !label.is_empty())
            }
            Labels::Host(name) => Some(name.to_string()),
        }
    }
}
