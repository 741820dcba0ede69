//! `punchtunnel demo`: a server, a host and a client in one process, on the loopback interface.
//!
//! Three parties with homes and keys of their own, which know of each other no more than three
//! computers would: the host registers, an invite lets the client in, the two connect, and a program
//! sends data through a local port to an echo service and back. In the middle the link is reset. It
//! passes only if every byte came back and every step was seen.

mod echo;
mod report;

use std::{
    net::{Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    time::Duration,
};

use punchtunnel::{
    Error, endpoint,
    forward::{LocalRule, Service},
    identity::{Grant, Home, Name, ServerName, Trust},
    net::{Client, Event, Events, Host, LocalPort, Server},
    secure::PublicKey,
};
use tokio::{sync::watch, time::timeout};

use self::{
    echo::{Echo, Transfer},
    report::Report,
};
use super::{
    args::DemoArgs,
    door::HostDoor,
    invite,
    output::{Output, answer},
    settings::{fill_random, load_key},
    stop::{Hangup, Stop},
};

/// No step takes longer on a machine that works, also where it is slow and busy.
const STEP_LIMIT: Duration = Duration::from_secs(20);

/// How long the invite is good for.
const INVITE_TTL: Duration = Duration::from_secs(60);

/// The service's label at the host.
const LABEL: &str = "echo";

/// Runs the demo. Passes only if all of it is true.
pub(crate) async fn run(args: DemoArgs, output: &Output) -> Result<(), Error> {
    let homes = Homes::create()?;
    let mut report = Report::start();
    let mut stop = Stop::listen(Hangup::StopsUnlessIgnored);
    let result = tokio::select! {
        result = perform(&homes, args, output, &mut report) => result,
        () = stop.requested() => Err(Error::Stopped),
    };
    output.clear();
    result?;
    answer(&report.table())
}

async fn perform(homes: &Homes, args: DemoArgs, output: &Output, report: &mut Report) -> Result<(), Error> {
    let loopback = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    let name: Name = "demo".parse().map_err(punchtunnel::ConfigError::Name)?;

    output.live("starting a rendezvous server");
    let server = Server::builder().data(homes.of("server")).listen(loopback).probe_ports([0]).bind().await?;
    let address = *server.addresses().first().ok_or_else(|| missing("the server has no address"))?;
    let probes: Vec<_> = server.probe_addresses().to_vec();
    let server = tokio::spawn(server.run(std::future::pending()));
    let at: ServerName = address.to_string().parse().map_err(Error::Internal)?;
    report.step(&format!("rendezvous server on {address}"));

    output.live("exposing an echo service");
    let echo = Echo::start().await?;
    let host_trust = Trust::new(Home::at(homes.of("host")));
    let mut builder = Host::builder(name.as_str())
        .rendezvous(address.to_string())
        .key(load_key(host_trust.home().identity_key())?)
        .admission(HostDoor::new(host_trust.clone(), name.clone()))
        .service(Service { label: Some(LABEL.into()), host: None, port: echo.port() });
    for probe in &probes {
        builder = builder.probe_server(probe.to_string());
    }
    let mut events = builder.events();
    let host = builder.start().await?;
    wait(&mut events, |event| matches!(event, endpoint::Event::Registered).then_some(())).await?;
    report.step(&format!("host registered as \"{name}\", exposing {LABEL}={}", echo.port()));

    output.live("connecting with an invite");
    let code = invite::open(&host_trust, &name, Grant::All, INVITE_TTL)?;
    let client_trust = Trust::new(Home::at(homes.of("client")));
    let client_key = load_key(client_trust.home().identity_key())?;
    let mut builder = Client::builder(name.as_str())
        .rendezvous(address.to_string())
        .key(client_key.clone())
        .invite(code)
        .wait(STEP_LIMIT);
    for probe in &probes {
        builder = builder.probe_server(probe.to_string());
    }
    let events = builder.events();
    let client = builder.start().await?;
    let mut seen = Seen::follow(events);
    let rule: LocalRule =
        format!("127.0.0.1:0:{LABEL}").parse().map_err(punchtunnel::ConfigError::Forward)?;
    let port = LocalPort::bind(&rule).await?;
    let entrance = port.address();
    client.forward(port);
    let first = seen.link(1, &client).await?;
    let proved = client.host_key().ok_or_else(|| missing("there is no session"))?;
    client_trust.pin_host(&name, &at, &proved)?;
    report.step(&first);

    // A program on the client's side uses the port, and knows nothing of all this.
    let total = u64::from(args.megabytes) << 20;
    let transfer = Transfer::start(entrance, total).await?;
    let cut_at = total / 2;
    follow(&transfer, cut_at, output, "sending through the tunnel").await?;
    report.step(&format!("{} MiB there and back", cut_at >> 20));
    if !client.kill_link() {
        return Err(missing("there was no link to cut"));
    }
    output.live("the link is cut; punching again");
    let second = seen.link(2, &client).await?;
    report.step(&format!("link reset in the middle; {second}"));
    follow(&transfer, total, output, "sending through the new link").await?;
    report.step(&format!("{} MiB more, without a new connection of the program", (total - cut_at) >> 20));
    let digests = transfer.finish().await?;
    if digests.sent != digests.received {
        return Err(missing(&format!(
            "the data changed: sent {}, came back {}",
            digests.sent, digests.received
        )));
    }
    report.step(&format!("SHA-256 of what was sent and what came back: {}", digests.sent));

    check_trust(&host_trust, &client_trust, &name, &at, &client_key.public(), &host.public_key())?;
    report.step("invite used up; each side has the other's key in its file");
    client.stop().await;
    host.stop().await;
    server.abort();
    Ok(())
}

/// What the three homes hold in the end.
fn check_trust(
    host: &Trust,
    client: &Trust,
    name: &Name,
    server: &ServerName,
    client_key: &PublicKey,
    host_key: &PublicKey,
) -> Result<(), Error> {
    if !host.invites()?.is_empty() {
        return Err(missing("the invite is still open"));
    }
    if !host.is_authorised(client_key)? {
        return Err(missing("the host did not write the client's key down"));
    }
    if client.host(name, server)?.map(|entry| entry.key) != Some(*host_key) {
        return Err(missing("the client has another key of the host"));
    }
    Ok(())
}

/// Waits until the transfer has come so far.
async fn follow(transfer: &Transfer, until: u64, output: &Output, text: &str) -> Result<(), Error> {
    let mut progress = transfer.progress();
    loop {
        let done = *progress.borrow_and_update();
        output.progress(text, done, transfer.total());
        if done >= until {
            return Ok(());
        }
        match timeout(STEP_LIMIT, progress.changed()).await {
            Ok(Ok(())) => {}
            // The transfer's task says what went wrong.
            Ok(Err(_)) => return Err(transfer.failure()),
            Err(_) => return Err(missing(&format!("the transfer stands still at {done} bytes"))),
        }
    }
}

/// Waits for an event.
async fn wait<T>(events: &mut Events, fits: impl Fn(&endpoint::Event) -> Option<T>) -> Result<T, Error> {
    let found = timeout(STEP_LIMIT, async {
        while let Some(event) = events.next().await {
            if let Event::Endpoint(event) = event
                && let Some(found) = fits(&event)
            {
                return Some(found);
            }
        }
        None
    });
    found.await.ok().flatten().ok_or_else(|| missing("an expected event did not come"))
}

/// The links of the client's session, as they come.
struct Seen(watch::Receiver<Vec<String>>);

impl Seen {
    fn follow(mut events: Events) -> Seen {
        let (sender, receiver) = watch::channel(Vec::new());
        tokio::spawn(async move {
            while let Some(event) = events.next().await {
                if let Event::Endpoint(endpoint::Event::Connected { remote, lan, took, .. }) = event {
                    let way = if lan { "inside the LAN" } else { "by simultaneous open" };
                    let text = format!("connected directly to {remote}, {way}, {} ms", took.as_millis());
                    sender.send_modify(|links| links.push(text));
                }
            }
        });
        Seen(receiver)
    }

    /// Waits for the link of that number, from 1.
    async fn link(&mut self, number: usize, client: &Client) -> Result<String, Error> {
        let linked = timeout(STEP_LIMIT, self.0.wait_for(|links| links.len() >= number));
        tokio::select! {
            linked = linked => match linked {
                Ok(Ok(links)) => Ok(links.last().cloned().unwrap_or_default()),
                _ => Err(missing(&format!("link number {number} did not come"))),
            },
            error = client.closed() => Err(error),
        }
    }
}

/// Directories of the three parties, gone when dropped.
struct Homes(PathBuf);

impl Homes {
    fn create() -> Result<Homes, Error> {
        let mut random = [0; 8];
        fill_random(&mut random)?;
        let name = format!("punchtunnel-demo-{}", data_encoding::HEXLOWER.encode(&random));
        Ok(Homes(std::env::temp_dir().join(name)))
    }

    fn of(&self, party: &str) -> PathBuf {
        self.0.join(party)
    }
}

impl Drop for Homes {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0 as &Path);
    }
}

/// Something that should have happened did not.
fn missing(what: &str) -> Error {
    Error::Internal(format!("the demo failed: {what}"))
}
