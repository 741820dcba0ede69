//! `punchtunnel rendezvous`: the server.

use std::{collections::BTreeSet, path::PathBuf, time::Duration};

use punchtunnel::{Error, identity::listed_keys, net::Server, rendezvous::Limits, secure::PublicKey};

use super::{
    args::{RendezvousArgs, parse_listen},
    narrate::count,
    output::Output,
    settings::{Place, Span, usage},
    stop::{Hangup, Stop},
};

/// Names that are held are noted once a day: what is shorter than two would take names from hosts that
/// the server has lost sight of in a crash.
const LEAST_NAME_TTL: Duration = Duration::from_secs(2 * 24 * 3600);

/// Runs the server until it is told to stop.
pub(crate) async fn run(args: RendezvousArgs, place: &Place, output: &Output) -> Result<(), Error> {
    let data = place.one(args.data, "data")?.unwrap_or_else(|| place.home.server_data());
    let listen = place.many(args.listen.into_iter().map(Listen).collect(), "listen")?;
    let probe_ports = place.many(args.probe_port, "probe-port")?;
    let mut builder = Server::builder().data(&data);
    for Listen(address) in listen {
        builder = builder.listen(address);
    }
    if !probe_ports.is_empty() {
        builder = builder.probe_ports(probe_ports);
    }
    builder = builder.limits(limits(place, args.max_names, args.names_per_key, args.name_ttl)?);
    let private = place.one(args.allow_keys, "allow-keys")?.map(Private);
    if let Some(private) = &private {
        builder = builder.allow(private.keys()?);
    }
    let mut stop = Stop::listen(if private.is_some() { Hangup::Reloads } else { Hangup::StopsUnlessIgnored });
    let server = builder.bind().await?;
    let list = |addresses: &[std::net::SocketAddr]| {
        addresses.iter().map(ToString::to_string).collect::<Vec<_>>().join(" and ")
    };
    output.line(&format!("listening on {} (UDP and TCP)", list(server.addresses())));
    output.line(&format!("probes are answered on {} (TCP)", list(server.probe_addresses())));
    output.line(&format!("names are kept in {}", data.display()));
    if let Some(private) = &private {
        output.line(&private.served(private.keys()?.len()));
    }
    output.line(&format!("the key of this server is {}", server.public_key()));
    let (allow, reloads) = (server.allow(), stop.reloads());
    let orders = async {
        loop {
            tokio::select! {
                () = stop.requested() => return,
                () = reloads.notified() => {}
            }
            let Some(private) = &private else { continue };
            match private.keys() {
                Ok(keys) => {
                    output.line(&private.served(keys.len()));
                    allow(Some(keys));
                }
                // Whoever is served stays so: a typing error must not end everybody.
                Err(error) => output.line(&format!("nothing changes: {error}")),
            }
        }
    };
    server.run(orders).await;
    output.line("stopped");
    Ok(())
}

/// The bounds that a person may set.
fn limits(
    place: &Place,
    names: Option<usize>,
    of_key: Option<usize>,
    ttl: Option<Span>,
) -> Result<Limits, Error> {
    let mut limits = Limits::default();
    let positive = |count: Option<usize>, key: &str, default: usize| match place.one(count, key)? {
        Some(0) => Err(usage(format!("--{key} is at least 1"))),
        count => Ok(count.unwrap_or(default)),
    };
    limits.names = positive(names, "max-names", limits.names)?;
    limits.names_per_key = positive(of_key, "names-per-key", limits.names_per_key)?;
    if let Some(Span(ttl)) = place.one(ttl, "name-ttl")? {
        if ttl < LEAST_NAME_TTL {
            return Err(usage("--name-ttl (name-ttl, PUNCHTUNNEL_NAME_TTL) is at least 2days"));
        }
        limits.name_ttl = ttl;
    }
    Ok(limits)
}

/// The file with the keys that are served.
struct Private(PathBuf);

impl Private {
    fn keys(&self) -> Result<BTreeSet<PublicKey>, Error> {
        Ok(listed_keys(&self.0)?.collect())
    }

    fn served(&self, keys: usize) -> String {
        format!("only the {} of {} are served", count(keys as u64, "key"), self.0.display())
    }
}

/// An address as `listen` in the configuration file has it.
struct Listen(std::net::SocketAddr);

impl std::str::FromStr for Listen {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        parse_listen(text).map(Listen)
    }
}
