//! `punchtunnel release`: a name of this key belongs to nobody any more.

use std::time::Duration;

use punchtunnel::{
    Error,
    endpoint::Event,
    error::NetworkError,
    net::{self, Events, Owner},
};

use super::{
    args::ReleaseArgs,
    labels::Labels,
    narrate::{Narrator, Sessions, Side, Telling},
    output::Output,
    servers::Servers,
    settings::Place,
    stop::{Hangup, Stop},
};

/// A server that has not answered by then is told of, as for `connect`.
const PATIENCE: Duration = Duration::from_secs(10);

/// Gives the name up.
pub(crate) async fn run(args: ReleaseArgs, place: &Place, output: &Output) -> Result<(), Error> {
    let mut stop = Stop::listen(Hangup::StopsUnlessIgnored);
    let servers = Servers::from(args.servers, place)?;
    let key = place.key()?;
    let mut narrator = Narrator {
        name: args.name.clone(),
        server: servers.name().clone(),
        key: key.public(),
        side: Side::Host,
        server_pin: servers.pin(),
        labels: Labels::Host(args.name.clone()),
        sessions: Sessions::default(),
    };
    let builder = servers.set_up(Owner::builder(args.name.as_str()).key(key));
    let events = builder.events();
    let owner = builder.start().await?;
    let silent = || NetworkError::ServerSilent { server: servers.name().clone(), since: PATIENCE };
    let result = tokio::select! {
        result = answered(events, &mut narrator, &servers, place, output) => result,
        () = tokio::time::sleep(PATIENCE) => Err(silent().into()),
        () = stop.requested() => Err(Error::Stopped),
    };
    output.clear();
    owner.stop().await;
    result
}

async fn answered(
    mut events: Events,
    narrator: &mut Narrator,
    servers: &Servers,
    place: &Place,
    output: &Output,
) -> Result<(), Error> {
    while let Some(event) = events.next().await {
        let net::Event::Endpoint(event) = event else { continue };
        servers.remember(&event, &place.trust())?;
        match narrator.tell(&event, None) {
            Telling::Line(text) => output.line(&text),
            Telling::Live(text) => output.live(&text),
            // Of attempts, which there are none of.
            Telling::Details(_) => {}
            Telling::Fatal(error) => return Err(error),
        }
        if let Event::Released(_) = event {
            return Ok(());
        }
    }
    Err(Error::Internal("the owner ended by itself".into()))
}
