//! `punchtunnel doctor`: what this computer's NAT does, and whether direct connections are possible.

mod findings;
mod pair;
mod report;

use punchtunnel::{Error, net::Doctor};
use serde_json::json;

use self::{findings::Level, pair::Trial};
use super::{
    args::DoctorArgs,
    output::{Output, answer},
    servers::Servers,
    settings::Place,
    stop::{Hangup, Stop},
};

/// Examines, and tells; whether direct connections are possible (with a name: whether there was one).
pub(crate) async fn run(args: DoctorArgs, place: &Place, output: &Output) -> Result<bool, Error> {
    let mut stop = Stop::listen(Hangup::StopsUnlessIgnored);
    let servers = Servers::from(args.servers, place)?;
    let trial = args.name.map(|name| Trial::from(name, args.host_key, servers.name(), place)).transpose()?;
    output.live(&format!("examining this computer's NAT with the help of {}", servers.name()));
    let examining = servers.set_up(Doctor::builder()).examine();
    let found = tokio::select! {
        found = examining => found?,
        () = stop.requested() => return Ok(false),
    };
    output.clear();
    let effort = servers.effort();
    let mut findings = Vec::new();
    for examination in &found {
        findings.extend(findings::all(examination, effort));
    }
    let mut possible = !findings.iter().all(|finding| finding.level == Level::Fail)
        && found.iter().any(|examination| findings::is_possible(examination, effort));
    if !args.json {
        for finding in &findings {
            answer(&finding.to_string())?;
        }
    }
    let mut pair = None;
    if let Some(trial) = trial {
        output.live(&format!("connecting to \"{}\" for a trial", trial.name()));
        let outcome = tokio::select! {
            outcome = trial.run(&servers, place) => outcome?,
            () = stop.requested() => return Ok(false),
        };
        output.clear();
        possible = outcome.connected();
        if !args.json {
            for finding in outcome.findings(effort) {
                answer(&finding.to_string())?;
            }
        }
        pair = Some(outcome);
    }
    if args.json {
        let families: Vec<_> = found.iter().map(|one| report::family(one, effort)).collect();
        let all = findings.into_iter().chain(pair.iter().flat_map(|pair| pair.findings(effort)));
        let object = json!({
            "server": servers.name().to_string(),
            "direct": possible,
            "families": families,
            "pair": pair.as_ref().map(|pair| pair.json(effort)),
            "findings": all.map(|finding| finding.json()).collect::<Vec<_>>(),
        });
        answer(&object.to_string())?;
    }
    Ok(possible)
}
