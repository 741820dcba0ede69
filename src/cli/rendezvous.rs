//! `punchtunnel rendezvous`: the server.

use punchtunnel::{Error, net::Server};

use super::{
    args::{RendezvousArgs, parse_listen},
    output::Output,
    settings::Place,
    stop::{Hangup, Stop},
};

/// Runs the server until it is told to stop.
pub(crate) async fn run(args: RendezvousArgs, place: &Place, output: &Output) -> Result<(), Error> {
    let mut stop = Stop::listen(Hangup::StopsUnlessIgnored);
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
    let server = builder.bind().await?;
    let list = |addresses: &[std::net::SocketAddr]| {
        addresses.iter().map(ToString::to_string).collect::<Vec<_>>().join(" and ")
    };
    output.line(&format!("listening on {} (UDP and TCP)", list(server.addresses())));
    output.line(&format!("probes are answered on {} (TCP)", list(server.probe_addresses())));
    output.line(&format!("names are kept in {}", data.display()));
    output.line(&format!("the key of this server is {}", server.public_key()));
    server.run(async move { stop.requested().await }).await;
    output.line("stopped");
    Ok(())
}

/// An address as `listen` in the configuration file has it.
struct Listen(std::net::SocketAddr);

impl std::str::FromStr for Listen {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        parse_listen(text).map(Listen)
    }
}
