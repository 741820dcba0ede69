//! `punchtunnel hosts`: which hosts this computer trusts.

use punchtunnel::{ConfigError, Error};

use super::{
    args::{HostsAction, HostsArgs},
    output::{Output, answer},
    settings::Place,
};

/// Lists hosts or forgets one.
pub(crate) fn run(args: HostsArgs, place: &Place, output: &Output) -> Result<(), Error> {
    let trust = place.trust();
    let file = place.home.known_hosts();
    match args.action.unwrap_or(HostsAction::List) {
        HostsAction::List => {
            let hosts = trust.hosts()?;
            if hosts.is_empty() {
                output.line(&format!("no host is known ({} has no key)", file.display()));
            }
            hosts.iter().try_for_each(|host| answer(&format!("{} {}", host.label, host.key)))
        }
        HostsAction::Remove { name } => {
            let gone = trust.forget_host(&name)?;
            if gone.is_empty() {
                return Err(ConfigError::NotListed { what: name, file, command: "hosts" }.into());
            }
            for host in gone {
                output.line(&format!(
                    "{} is forgotten: the next connect needs an invite or --host-key",
                    host.label
                ));
            }
            Ok(())
        }
    }
}
