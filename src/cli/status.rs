//! `punchtunnel status`: how it stands with what runs on this computer.

use std::{
    io::{self, IsTerminal, Write},
    time::Duration,
};

use punchtunnel::{ConfigError, Error, identity::Name};
use serde::Deserialize;
use serde_json::json;
use tokio::task::JoinSet;

use super::{
    args::StatusArgs,
    control::socket::{Found, Question, find},
    report::Report,
    settings::Place,
    stop::{Hangup, Stop},
};

/// Time between two looks of `--watch`.
const REFRESH: Duration = Duration::from_secs(1);

/// Asks, and prints; with `--watch` until it is told to stop.
pub(crate) async fn run(args: StatusArgs, place: &Place) -> Result<(), Error> {
    let mut stop = Stop::listen(Hangup::StopsUnlessIgnored);
    let mut answers = ask_all(place, args.name.as_ref()).await;
    if answers.is_empty() {
        return Err(ConfigError::NothingRuns { name: args.name, home: place.home.state_dir().into() }.into());
    }
    let form = Form { json: args.json, in_place: args.watch && !args.json && io::stdout().is_terminal() };
    let mut looks = tokio::time::interval(REFRESH);
    looks.tick().await;
    loop {
        let goes_on = form.print(&answers, args.name.as_ref())?;
        if !args.watch || !goes_on {
            return Ok(());
        }
        tokio::select! {
            _ = looks.tick() => {}
            () = stop.requested() => return Ok(()),
        }
        answers = ask_all(place, args.name.as_ref()).await;
    }
}

/// What a program answered.
struct Answer {
    from: Found,
    /// Its report in JSON, of this version or another.
    report: io::Result<String>,
}

/// Its report, or why there is none.
#[derive(Deserialize)]
#[serde(untagged)]
enum Said {
    Report(Box<Report>),
    Error { error: String },
}

impl Said {
    fn report(self) -> Result<Box<Report>, String> {
        match self {
            Said::Report(report) => Ok(report),
            Said::Error { error } => Err(error),
        }
    }
}

/// All that run, or those of that name; all at once, because one may hang.
async fn ask_all(place: &Place, name: Option<&Name>) -> Vec<Answer> {
    let mut asking = JoinSet::new();
    for from in find(&place.home.run_dir()) {
        if name.is_none_or(|name| name.as_str() == from.name) {
            asking.spawn(async move {
                let report = from.ask(&Question::Status).await?;
                Some(Answer { from, report })
            });
        }
    }
    let mut answers: Vec<_> = asking.join_all().await.into_iter().flatten().collect();
    answers.sort_by(|a, b| a.from.cmp(&b.from));
    answers
}

/// How answers are printed.
struct Form {
    json: bool,
    /// Over what was printed before.
    in_place: bool,
}

impl Form {
    /// Prints; false where nobody reads any more.
    fn print(&self, answers: &[Answer], name: Option<&Name>) -> Result<bool, Error> {
        let text = match (self.json, answers) {
            // As they came: with the order of their fields, and those that this version does not know.
            (true, _) => {
                let reports: Vec<_> = answers.iter().map(Answer::json).collect();
                format!("{{\"processes\":[{}]}}", reports.join(","))
            }
            (false, []) => nothing_runs(name),
            (false, _) => answers.iter().map(Answer::words).collect::<Vec<_>>().join("\n\n"),
        };
        let mut out = io::stdout().lock();
        let written = match self.in_place {
            // Home; each line clears what is left of an older one; then what is left below.
            true => write!(out, "\x1b[H{}\x1b[K\n\x1b[J", text.replace('\n', "\x1b[K\n")),
            false => writeln!(out, "{text}"),
        };
        match written.and_then(|()| out.flush()) {
            Ok(()) => Ok(true),
            Err(e) if e.kind() == io::ErrorKind::BrokenPipe => Ok(false),
            Err(e) => Err(ConfigError::Stdio(format!("cannot write to standard output: {e}")).into()),
        }
    }
}

impl Answer {
    fn json(&self) -> String {
        let Found { role, name, pid, .. } = &self.from;
        match &self.report {
            Ok(report) => report.clone(),
            Err(error) => {
                json!({ "role": role, "name": name, "pid": pid, "error": error.to_string() }).to_string()
            }
        }
    }

    fn words(&self) -> String {
        let Found { role, name, pid, .. } = &self.from;
        let report = self.report.as_ref().map_err(ToString::to_string);
        let said = report.and_then(|text| serde_json::from_str::<Said>(text).map_err(|e| e.to_string()));
        match said.and_then(|said| said.report()) {
            Ok(report) => report.to_string(),
            Err(why) => format!("{role} {name}, process {pid}, does not say how it stands: {why}"),
        }
    }
}

fn nothing_runs(name: Option<&Name>) -> String {
    name.map_or_else(|| "nothing runs".into(), |name| format!("nothing runs for \"{name}\""))
}
