//! `doctor NAME`: a trial with a host, by an ordinary attempt.

use std::time::Duration;

use punchtunnel::{
    ConfigError, Error,
    endpoint::Event as Told,
    error::seconds,
    identity::{Name, ServerName, Worked},
    nat::{self, Model, Prediction},
    net::{Client, Event},
    punch::{Effort, Verdict, expected_success, plan},
    secure::{PublicKey, StaticKey},
};
use serde_json::{Value, json};

use super::{
    super::{
        memory::{self, Attempt, kind},
        servers::Servers,
        settings::Place,
    },
    findings::{Finding, Level, terms},
    report,
};

/// A trial takes no longer: some attempts of twenty seconds at most each.
const LIMIT: Duration = Duration::from_secs(45);

/// A host that is not there is not waited for.
const WAIT: Duration = Duration::from_secs(10);

/// A trial that is to be made.
pub(crate) struct Trial {
    name: Name,
    key: StaticKey,
    host_key: PublicKey,
}

/// What became of it.
pub(crate) struct Outcome {
    name: Name,
    attempt: Attempt,
    openings: usize,
    connected: Option<Connected>,
    /// Why there is no connection.
    why: Option<String>,
    /// That is because there cannot be one.
    hopeless: bool,
    last: Option<Worked>,
}

struct Connected {
    remote: String,
    lan: bool,
    took: Duration,
}

impl Trial {
    /// A trial with that host, whose key must be known.
    pub(crate) fn from(
        name: Name,
        named: Option<PublicKey>,
        server: &ServerName,
        place: &Place,
    ) -> Result<Trial, Error> {
        let named = place.one(named, "host-key")?;
        let known = place.trust().host(&name, server)?.map(|entry| entry.key);
        let Some(host_key) = named.or(known) else { return Err(ConfigError::NotTrusted { name }.into()) };
        Ok(Trial { name, key: place.key()?, host_key })
    }

    /// The host's name.
    pub(crate) fn name(&self) -> &Name {
        &self.name
    }

    /// Connects and listens to what happens.
    pub(crate) async fn run(self, servers: &Servers, place: &Place) -> Result<Outcome, Error> {
        let builder = Client::builder(self.name.as_str()).key(self.key).host_key(self.host_key).wait(WAIT);
        let hints = memory::hints(&place.home, &self.name, servers.name());
        let builder = servers.set_up(builder).hints(hints);
        let mut events = builder.events();
        let mut outcome = Outcome {
            name: self.name,
            attempt: Attempt::default(),
            openings: 0,
            connected: None,
            why: None,
            hopeless: false,
            last: None,
        };
        let client = builder.start().await?;
        let watching = async {
            loop {
                let event = tokio::select! {
                    biased;
                    event = events.next() => event,
                    error = client.closed() => {
                        outcome.why = Some(error.to_string());
                        return;
                    }
                };
                match event {
                    Some(Event::Endpoint(told)) => {
                        if outcome.take(told) {
                            return;
                        }
                    }
                    Some(_) => {}
                    None => return,
                }
            }
        };
        if tokio::time::timeout(LIMIT, watching).await.is_err() {
            let why = outcome.why.take().map(|why| format!(": {why}")).unwrap_or_default();
            outcome.why = Some(format!("no connection within {}{why}", seconds(LIMIT)));
        }
        client.close().await;
        let Outcome { name, attempt, .. } = &outcome;
        let last = attempt.recall(&place.home, name, servers.name())?;
        if let Some(Connected { lan, .. }) = outcome.connected {
            attempt.remember(&place.home, name, servers.name(), lan)?;
        }
        outcome.last = last;
        Ok(outcome)
    }
}

impl Outcome {
    /// Whether there was a direct connection.
    pub(crate) fn connected(&self) -> bool {
        self.connected.is_some()
    }

    /// Whether the trial is over.
    fn take(&mut self, told: Told) -> bool {
        self.attempt.take(&told);
        match told {
            Told::Opening { openings, .. } => self.openings = openings,
            Told::RoundFailed { why, .. } => self.why = Some(why),
            Told::Hopeless { why, .. } => {
                (self.why, self.hopeless) = (Some(why), true);
                return true;
            }
            Told::Connected { remote, lan, took, .. } => {
                self.why = None;
                self.connected = Some(Connected { remote: remote.to_string(), lan, took });
                return true;
            }
            _ => {}
        }
        false
    }

    /// The two predictions that a round is planned from: of one family, the likelier one.
    fn pair(&self, effort: Effort) -> Option<(&Prediction, &Prediction, u8)> {
        let pairs = self
            .attempt
            .mine
            .iter()
            .flat_map(|mine| self.attempt.theirs.iter().map(move |theirs| (mine, theirs)));
        pairs
            .filter(|(mine, theirs)| mine.address.is_ipv4() == theirs.address.is_ipv4())
            .map(|(mine, theirs)| (mine, theirs, expected_success(mine, theirs, &terms(effort))))
            .max_by_key(|(_, _, percent)| *percent)
    }

    /// In sentences.
    pub(crate) fn findings(&self, effort: Effort) -> Vec<Finding> {
        let name = &self.name;
        let mut all = Vec::new();
        for theirs in &self.attempt.theirs {
            let says = format!("the NAT of \"{name}\", {}, {}", theirs.address, nat::describe(theirs, &[]));
            all.push(if matches!(theirs.model, Model::Random | Model::Band { .. }) {
                Finding::new(Level::Warn, "other side", says).advise(
                    "a router that keeps ports there, or a port forwarded to --punch-port, changes that",
                )
            } else {
                Finding::new(Level::Ok, "other side", says)
            });
        }
        if let Some((mine, theirs, percent)) = self.pair(effort) {
            all.push(match plan(mine, theirs, &terms(effort)).verdict {
                Verdict::Hopeless(why) => {
                    let why = self.why.as_deref().filter(|_| self.hopeless).unwrap_or(why);
                    Finding::new(Level::Fail, "plan", format!("none: {why}")).advise(
                        "one of the two needs another network, or a router that keeps ports (\"full cone\", \"NAT type open\")",
                    )
                }
                Verdict::Try => {
                    let openings = plan(mine, theirs, &terms(effort)).openings.len();
                    let says = format!(
                        "{} to {}, {openings} connections from here; expected in the first round: {percent} %",
                        kind(&mine.model),
                        kind(&theirs.model)
                    );
                    if percent >= 50 {
                        Finding::new(Level::Ok, "plan", says)
                    } else {
                        Finding::new(Level::Warn, "plan", says)
                            .advise("--punch-effort high on both sides raises that; further rounds follow by themselves")
                    }
                }
            });
        }
        if let Some(last) = &self.last {
            all.push(Finding::new(Level::Ok, "last time", memory::words(last)));
        }
        all.push(match (&self.connected, &self.why) {
            (Some(connected), _) => {
                let way = if connected.lan { "inside the LAN" } else { "directly" };
                let round = self
                    .attempt
                    .round
                    .filter(|_| !connected.lan)
                    .map(|r| format!(", round {r}"))
                    .unwrap_or_default();
                let Connected { remote, took, .. } = connected;
                let says = format!("connected {way} to {remote}, {} ms{round}", took.as_millis());
                Finding::new(Level::Ok, "trial", says)
            }
            (None, why) => {
                let why = why.as_deref().unwrap_or("the trial was broken off");
                Finding::new(Level::Fail, "trial", format!("no connection to \"{name}\": {why}")).advise(format!(
                    "\"punchtunnel -v connect {name}\" goes on trying and shows each SYN; \"punchtunnel doctor\" there shows \
                     the other side"
                ))
            }
        });
        all
    }

    /// For machines.
    pub(crate) fn json(&self, effort: Effort) -> Value {
        let pair = self.pair(effort);
        json!({
            "name": self.name.to_string(),
            "ours": self.attempt.mine.iter().map(report::nat).collect::<Vec<_>>(),
            "theirs": self.attempt.theirs.iter().map(report::nat).collect::<Vec<_>>(),
            "plan": pair.map(|(mine, theirs, _)| match plan(mine, theirs, &terms(effort)).verdict {
                Verdict::Try => format!("{} to {}", kind(&mine.model), kind(&theirs.model)),
                Verdict::Hopeless(why) => format!("none: {why}"),
            }),
            "expected_success": pair.map(|(_, _, percent)| percent),
            "connected": self.connected.is_some(),
            "lan": self.connected.as_ref().map(|connected| connected.lan),
            "remote": self.connected.as_ref().map(|connected| connected.remote.clone()),
            "took_ms": self.connected.as_ref().map(|connected| connected.took.as_secs_f64() * 1000.0),
            "round": self.attempt.round,
            "openings": self.openings,
            "why": self.why,
            "last_worked_round": self.last.as_ref().map(|last| last.round),
        })
    }
}
