//! `punchtunnel clients`: who is let in to this computer.

use punchtunnel::{ConfigError, Error, identity::Grant};

use super::{
    args::{ClientsAction, ClientsArgs},
    output::{Output, answer},
    settings::Place,
};

/// Lists, adds or removes keys.
pub(crate) fn run(args: ClientsArgs, place: &Place, output: &Output) -> Result<(), Error> {
    let trust = place.trust();
    let file = place.home.authorized_clients();
    match args.action.unwrap_or(ClientsAction::List) {
        ClientsAction::List => {
            let clients = trust.clients()?;
            if clients.is_empty() {
                output.line(&format!("nobody is let in ({} has no key)", file.display()));
            }
            clients.iter().try_for_each(|client| answer(&client.to_string()))
        }
        ClientsAction::Add { key, services, comment } => {
            let grant = services.unwrap_or(Grant::All);
            let to = format!("to {grant}");
            let added = trust.authorise(&key, grant, &comment.join(" "))?;
            let text = if added { "is let in from now on" } else { "was let in already" };
            output.line(&format!("{key} {text}, {to}"));
            Ok(())
        }
        ClientsAction::Remove { key } => {
            if !trust.revoke(&key)? {
                let what = key.to_string();
                return Err(ConfigError::NotListed { what, file, command: "clients" }.into());
            }
            output.line(&format!("{key} is not let in any more"));
            Ok(())
        }
    }
}
