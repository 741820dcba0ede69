//! An examination in sentences: what was found, what it means, what to do.

use std::fmt;

use punchtunnel::{
    nat::{self, Counter, Filtering, Mapping, Model, Prediction, SimultaneousOpen, Unsolicited},
    net::Examination,
    punch::{Effort, Terms, expected_success},
};
use serde_json::{Value, json};

/// From the probes to the instant, where a success is reckoned: what an attempt over ordinary distances
/// takes.
const WINDOW: std::time::Duration = std::time::Duration::from_millis(600);

/// Foreign connections a second behind a NAT that counts, as an example: a carrier's in the evening.
const BUSY: u32 = 50;

/// How good it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Level {
    /// As it should be.
    Ok,
    /// Some connections will fail or take longer, or something is not known.
    Warn,
    /// No connection is possible.
    Fail,
}

/// Something found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Finding {
    /// How good it is.
    pub(crate) level: Level,
    /// What it is about: one word, the same in every version.
    pub(crate) about: &'static str,
    /// What was found, and what it means.
    pub(crate) says: String,
    /// What to do.
    pub(crate) advice: Option<String>,
}

impl Finding {
    pub(crate) fn new(level: Level, about: &'static str, says: impl Into<String>) -> Self {
        Finding { level, about, says: says.into(), advice: None }
    }

    pub(crate) fn advise(mut self, advice: impl Into<String>) -> Self {
        self.advice = Some(advice.into());
        self
    }

    /// For `--json`.
    pub(crate) fn json(&self) -> Value {
        let level = match self.level {
            Level::Ok => "ok",
            Level::Warn => "warn",
            Level::Fail => "fail",
        };
        json!({ "level": level, "about": self.about, "says": self.says, "advice": self.advice })
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let level = match self.level {
            Level::Ok => "[ OK ]",
            Level::Warn => "[WARN]",
            Level::Fail => "[FAIL]",
        };
        write!(f, "{level} {}: {}", self.about, self.says)?;
        match &self.advice {
            Some(advice) => write!(f, "\n       -> {advice}"),
            None => Ok(()),
        }
    }
}

/// Everything that an examination says.
pub(crate) fn all(found: &Examination, effort: Effort) -> Vec<Finding> {
    let mut all = vec![udp(found)];
    let (asked, answered) = found.probes;
    let Some(prediction) = &found.prediction else {
        let says =
            format!("none of {asked} TCP connections to {} and its probe port was answered", found.server);
        let port = found.server.port();
        let advice = format!(
            "check that \"punchtunnel rendezvous\" runs there and that its firewall lets TCP {port} and its probe port \
             (7863) in; if others reach it, this network forbids connections to such ports"
        );
        all.push(Finding::new(Level::Fail, "tcp", says).advise(advice));
        return all;
    };
    let says = format!("{answered} of {asked} probes were answered");
    all.push(if answered == asked {
        Finding::new(Level::Ok, "tcp", says)
    } else {
        Finding::new(Level::Warn, "tcp", says).advise(
            "let TCP to the server's port and its probe port (7863) pass; if it does, packets get lost here",
        )
    });
    all.push(address(found, prediction));
    all.extend([mapping(prediction), ports(found, prediction), filtering(found, prediction)]);
    all.extend(unsolicited(prediction));
    all.push(simultaneous_open(found, prediction));
    all.extend([udp_mapping(found, prediction), hairpin(found)]);
    all.push(verdict(found, prediction, effort));
    all
}

/// Whether there is a kind of NAT to which a connection succeeds more often than not.
pub(crate) fn is_possible(found: &Examination, effort: Effort) -> bool {
    let chances = found.prediction.as_ref().map(|prediction| chances(prediction, effort));
    chances.is_some_and(|chances| chances.iter().any(|(_, percent)| *percent >= 50))
}

/// Expected success in the first round, percent, with NATs of every kind on the other side.
pub(crate) fn chances(mine: &Prediction, effort: Effort) -> [(&'static str, u8); 4] {
    let mut theirs = mine.clone();
    theirs.filtering = Filtering::AddressAndPortDependent;
    theirs.unsolicited = Unsolicited::Dropped;
    theirs.simultaneous_open = SimultaneousOpen::Works;
    let counter = Counter { next: 40_000, step: 1, jitter: 0, rate_centi: BUSY * 100, over_ms: 300 };
    let band = Model::Band { low: 40_000, high: 40_255, size: 256, meet: 40_128 };
    [
        ("fixed", Model::Fixed { ports: vec![40_000; 16] }),
        ("progression", Model::Progression(counter)),
        ("band", band),
        ("random", Model::Random),
    ]
    .map(|(name, model)| {
        theirs.mapping = match &model {
            Model::Fixed { .. } => Mapping::EndpointIndependent,
            _ => Mapping::AddressAndPortDependent,
        };
        theirs.fresh = None;
        theirs.model = model;
        (name, expected_success(mine, &theirs, &terms(effort)))
    })
}

/// Terms of a first round.
pub(crate) fn terms(effort: Effort) -> Terms {
    Terms { initiator: true, round: 0, budget: effort.budget(), window: WINDOW, spent: 0 }
}

fn udp(found: &Examination) -> Finding {
    match found.udp.observed.get(&found.server).or(found.udp.observed.values().next()) {
        Some(seen) => Finding::new(Level::Ok, "udp", format!("{} answers; it sees {seen}", found.server)),
        None => Finding::new(
            Level::Warn,
            "udp",
            format!(
                "{} does not answer UDP: the negotiation goes over TCP, which takes longer",
                found.server
            ),
        )
        .advise(format!(
            "if it is meant to pass, let UDP to port {} out here and in at the server",
            found.server.port()
        )),
    }
}

fn address(found: &Examination, prediction: &Prediction) -> Finding {
    let address = prediction.address;
    let says = match found.local {
        _ if found.is_public() => format!("{address}, without a NAT"),
        Some(local) => format!("{address}, behind a NAT; this computer itself has {local}"),
        None => format!("{address}, behind a NAT"),
    };
    Finding::new(Level::Ok, "address", says)
}

fn mapping(prediction: &Prediction) -> Finding {
    let says = match prediction.mapping {
        Mapping::EndpointIndependent => {
            "endpoint-independent: a port keeps its external port for all destinations"
        }
        Mapping::AddressDependent => "address-dependent: another external port for each destination address",
        Mapping::AddressAndPortDependent => {
            "address- and port-dependent: another external port for each destination"
        }
    };
    Finding::new(Level::Ok, "mapping", says)
}

fn ports(found: &Examination, prediction: &Prediction) -> Finding {
    if found.is_public() {
        return Finding::new(Level::Ok, "ports", "as they are: there is no NAT");
    }
    let words = format!("the NAT {}", nat::describe(prediction, &found.punch_ports));
    match &prediction.model {
        Model::Fixed { .. } => Finding::new(Level::Ok, "ports", words),
        Model::Progression(_) => {
            Finding::new(Level::Ok, "ports", format!("{words}; the next ones can be predicted"))
        }
        Model::Band { .. } => Finding::new(Level::Warn, "ports", words).advise(
            "connections to NATs that keep ports work; with others of this kind they depend on luck, and more so \
             with --punch-effort high",
        ),
        Model::Random => Finding::new(Level::Warn, "ports", words).advise(
            "only connections to NATs that keep ports work; a router's setting \"full cone\", \"NAT type open\" or \
             a forwarded port (--punch-port) changes that",
        ),
    }
}

fn filtering(found: &Examination, prediction: &Prediction) -> Finding {
    let one_address =
        found.answers.from_address.is_none_or(|a| a == punchtunnel::wire::examine::Knocked::Unable);
    let (level, says) = match prediction.filtering {
        Filtering::EndpointIndependent => {
            (Level::Ok, "endpoint-independent: once a port is open, anybody gets in")
        }
        Filtering::AddressDependent if one_address => (
            Level::Ok,
            "not by port: another port of the server got in (it has no second address to knock from)",
        ),
        Filtering::AddressDependent => {
            (Level::Ok, "address-dependent: only addresses that were contacted get in")
        }
        Filtering::AddressAndPortDependent => {
            (Level::Ok, "address- and port-dependent: only what was contacted gets in")
        }
        Filtering::Unknown => (Level::Warn, why_not(found)),
    };
    let finding = Finding::new(level, "filtering", says);
    if level == Level::Ok { finding } else { finding.advise(advice_to_ask(found)) }
}

fn unsolicited(prediction: &Prediction) -> Option<Finding> {
    let moving = !matches!(prediction.model, Model::Fixed { .. });
    let says = match prediction.unsolicited {
        Unsolicited::Dropped => {
            let says = "dropped in silence, as it should be";
            return Some(Finding::new(Level::Ok, "unsolicited SYN", says));
        }
        Unsolicited::Reset if moving => {
            "answered with a reset, and each new try gets another port: a SYN that comes early ends the other's try"
        }
        Unsolicited::Reset => {
            "answered with a reset: a SYN that comes early has to be repeated, which is done"
        }
        Unsolicited::Prohibited => {
            "answered with an ICMP error: a SYN that comes early has to be repeated, which is done"
        }
        // What gets in is not answered.
        Unsolicited::Unknown => return None,
    };
    let finding = Finding::new(Level::Warn, "unsolicited SYN", says);
    Some(finding.advise("if connections fail: have the router's firewall drop (\"stealth\"), not reject"))
}

/// Why something is not known that the server is asked for.
fn why_not(found: &Examination) -> &'static str {
    if found.asked {
        "not measured: the server did not open a connection to here"
    } else {
        "not measured: --punch-port leaves no port for it"
    }
}

/// What to do about that.
fn advice_to_ask(found: &Examination) -> &'static str {
    if found.asked {
        "the server may be an older version, or busy: try again in a minute"
    } else {
        "give --punch-port a range of at least 16, as 40000-40015"
    }
}

fn simultaneous_open(found: &Examination, prediction: &Prediction) -> Finding {
    let about = "simultaneous open";
    match prediction.simultaneous_open {
        SimultaneousOpen::Works => Finding::new(Level::Ok, about, "SYNs that cross make a connection"),
        SimultaneousOpen::Blocked => Finding::new(
            Level::Warn,
            about,
            "a firewall drops incoming SYNs even where an own one is on its way: connections work, except to \
             networks that do the same",
        )
        .advise("let incoming TCP to fixed ports pass there, and use --punch-port with them"),
        SimultaneousOpen::Unknown if matches!(prediction.model, Model::Fixed { .. }) => {
            Finding::new(Level::Warn, about, why_not(found)).advise(advice_to_ask(found))
        }
        SimultaneousOpen::Unknown => Finding::new(
            Level::Ok,
            about,
            "not measured, which takes a NAT that keeps ports; nearly all let SYNs through that cross",
        ),
    }
}

fn udp_mapping(found: &Examination, prediction: &Prediction) -> Finding {
    let about = "udp mapping";
    let beside = match found.udp.mapping() {
        None => {
            return Finding::new(
                Level::Warn,
                about,
                "not measured: fewer than two ports of the server answered",
            )
            .advise("let UDP pass, as for \"udp\" above; connections are made without it, too");
        }
        Some(mapping) if mapping == prediction.mapping => "as for TCP",
        Some(_) => "unlike TCP",
    };
    match found.udp.mapping() {
        Some(Mapping::EndpointIndependent) => Finding::new(
            Level::Ok,
            about,
            format!("endpoint-independent, {beside}: the peers find each other"),
        ),
        _ => Finding::new(
            Level::Warn,
            about,
            format!(
                "dependent on the destination, {beside}: negotiations may go through the server, connections not"
            ),
        )
        .advise("nothing has to be done: that costs a little time at the start"),
    }
}

fn hairpin(found: &Examination) -> Finding {
    let says = match found.hairpin {
        Some(true) => "works: two computers behind this NAT can use its public address",
        Some(false) => "does not work; two computers behind this NAT meet inside the LAN",
        None if found.is_public() => "not needed: there is no NAT",
        None => "not measured: too few punch ports",
    };
    Finding::new(Level::Ok, "hairpin", says)
}

fn verdict(found: &Examination, prediction: &Prediction, effort: Effort) -> Finding {
    let [fixed, progression, band, random] = chances(prediction, effort).map(|(_, percent)| percent);
    let says = format!(
        "expected in the first round: {fixed} % with NATs that keep ports, {progression} % with those that count, \
         {band} % with those that draw from a block of 256, {random} % with random ones"
    );
    let finding = |level| Finding::new(level, "direct connections", says);
    match (is_possible(found, effort), fixed.min(progression) >= 50) {
        (true, true) => finding(Level::Ok),
        (true, false) => finding(Level::Warn).advise(
            "a computer without a NAT, or behind a router that keeps ports, can be reached all the same",
        ),
        (false, _) => finding(Level::Fail).advise("try from another network, or with another router"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_finding_is_a_line_and_its_advice_another() {
        let finding = Finding::new(Level::Warn, "ports", "random").advise("change the router");
        assert_eq!(finding.to_string(), "[WARN] ports: random\n       -> change the router");
        assert_eq!(finding.json()["level"], "warn");
    }

    #[test]
    fn a_random_nat_reaches_those_that_keep_ports_and_no_others() {
        let mine = Prediction {
            filtering: Filtering::AddressAndPortDependent,
            unsolicited: Unsolicited::Dropped,
            ..Prediction::new([192, 0, 2, 7].into(), Model::Random, Mapping::AddressAndPortDependent, 99)
        };
        let [(_, fixed), (_, progression), _, (_, random)] = chances(&mine, Effort::Normal);
        assert!(fixed >= 90, "{fixed}");
        assert_eq!((progression, random), (0, 0));
    }
}
