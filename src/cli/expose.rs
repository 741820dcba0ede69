//! `punchtunnel expose`: services of this computer under a name.

use punchtunnel::{
    Error, NetworkError, endpoint,
    forward::Services,
    identity::{Grant, Name, Trust},
    net::{Event, Events, Host},
    secure::StaticKey,
    wire::peer::Goodbye,
};

use super::{
    args::ExposeArgs,
    control::{Board, Control},
    door::{HostDoor, Look, Revocation},
    invite,
    labels::Labels,
    narrate::{Back, Narrator, Sessions, Side, Telling},
    output::{Output, answer},
    report::Role,
    servers::Servers,
    settings::{Allow, Place, unix_now, usage},
    stop::{Hangup, LOOK_UP_AGAIN, Stop},
};

/// What `expose` runs with.
struct Settings {
    name: Name,
    services: Services,
    servers: Servers,
    trust: Trust,
    key: StaticKey,
}

/// Runs the host until it is told to stop, or can never work.
pub(crate) async fn run(args: ExposeArgs, place: &Place, output: &Output) -> Result<(), Error> {
    let mut stop = Stop::listen(Hangup::StopsUnlessIgnored);
    let (wants_invite, ttl) = (args.invite, args.invite_ttl);
    let settings = Settings::from(args, place)?;
    if let Some(caveat) = settings.servers.caveat() {
        output.line(&caveat);
    }
    if wants_invite {
        let code = invite::open(&settings.trust, &settings.name, Grant::All, invite::ttl(ttl, place)?)?;
        answer(&code.reveal())?;
    } else if !settings.trust.lets_anybody_in(&settings.name, unix_now())? {
        let name = &settings.name;
        output.line(&format!(
            "nobody is let in yet: \"punchtunnel invite {name}\" makes a one-time code for a new client"
        ));
    }
    let labels = Labels::Clients(settings.trust.clone());
    let (name, server) = (settings.name.to_string(), settings.servers.name().to_string());
    let control = Control::open(&place.home, Board::new(Role::Expose, name, server, labels)).await;
    serve(&settings, &control, output, &mut stop).await
}

impl Settings {
    fn from(args: ExposeArgs, place: &Place) -> Result<Settings, Error> {
        let services = Services::new(place.many(args.services, "services")?)?;
        let name = place.one(args.name, "as")?.ok_or_else(|| {
            usage(
                "under which name? Use --as NAME, set PUNCHTUNNEL_AS, or write as = \"NAME\" in config.toml",
            )
        })?;
        let allow: Vec<Allow> = place.many(args.allow, "allow")?;
        let servers = Servers::from(args.servers, place)?;
        // Last, because it may make a key.
        let (trust, key) =
            (place.trust().allowing(allow.into_iter().flat_map(|allow| allow.0)), place.key()?);
        Ok(Settings { name, services, servers, trust, key })
    }
}

async fn serve(
    settings: &Settings,
    control: &Control,
    output: &Output,
    stop: &mut Stop,
) -> Result<(), Error> {
    let (host, events) = loop {
        let mut builder = Host::builder(settings.name.as_str())
            .key(settings.key.clone())
            .admission(HostDoor::new(settings.trust.clone(), settings.name.clone()));
        for service in settings.services.as_slice() {
            builder = builder.service(service.clone());
        }
        let builder = settings.servers.set_up(builder);
        let events = builder.events();
        control.show(builder.monitor());
        let started = tokio::select! {
            started = builder.start() => started,
            () = stop.requested() => return Ok(()),
        };
        match started {
            Ok(host) => break (host, events),
            Err(error @ Error::Network(NetworkError::Resolve { .. })) => {
                output.live(&format!("{error}; trying on"));
                tokio::select! {
                    () = tokio::time::sleep(LOOK_UP_AGAIN) => {}
                    () = stop.requested() => return Ok(()),
                }
            }
            Err(error) => return Err(error),
        }
    };
    for service in settings.services.as_slice() {
        output.line(&format!("exposing {service}"));
    }
    let result = tokio::select! {
        result = watch(settings, &host, events, output) => result,
        () = revoke(settings, &host) => Ok(()),
        () = stop.requested() => Ok(()),
    };
    output.clear();
    host.stop().await;
    result
}

/// Ends the sessions of clients that are not let in any more, and their connections to services that are not
/// granted to them any more; never ends itself.
async fn revoke(settings: &Settings, host: &Host) {
    let mut revocation = Revocation::new(settings.trust.clone());
    let mut looks = tokio::time::interval(Revocation::INTERVAL);
    loop {
        looks.tick().await;
        let sessions: Vec<_> = host.status().sessions.iter().map(|s| (s.peer, s.key)).collect();
        let Look { revoked, changed } = revocation.look(&sessions);
        if changed {
            host.reconsider();
        }
        for peer in revoked {
            host.end(peer, Goodbye::Unauthorised).await;
        }
    }
}

async fn watch(settings: &Settings, host: &Host, mut events: Events, output: &Output) -> Result<(), Error> {
    let monitor = host.monitor();
    let mut narrator = Narrator {
        name: settings.name.clone(),
        server: settings.servers.name().clone(),
        key: settings.key.public(),
        side: Side::Host,
        server_pin: settings.servers.pin(),
        labels: Labels::Clients(settings.trust.clone()),
        sessions: Sessions::default(),
    };
    let mut was_registered = false;
    while let Some(event) = events.next().await {
        let whose = narrator.whose(&event);
        match &event {
            Event::Endpoint(event) => {
                settings.servers.remember(event, &settings.trust)?;
                was_registered |= *event == endpoint::Event::Registered;
                match narrator.tell(event, Back::with(event, &monitor)) {
                    Telling::Line(text) => output.line(&format!("{whose}{text}")),
                    Telling::Details(lines) => {
                        lines.iter().for_each(|line| output.detail(&format!("{whose}{line}")));
                    }
                    Telling::Live(text) => output.live(&format!("{whose}{text}")),
                    Telling::Fatal(error) if was_registered && Narrator::is_about_server(event) => {
                        let trying = matches!(event, endpoint::Event::NotRegistered(_));
                        output.line(&format!("{error}{}", if trying { "; trying on" } else { "" }));
                    }
                    Telling::Fatal(error) => return Err(error),
                }
            }
            other => {
                if let Some(text) = narrator.tell_session(other) {
                    output.line(&format!("{whose}{text}"));
                }
            }
        }
    }
    Err(Error::Internal("the host ended by itself".into()))
}
