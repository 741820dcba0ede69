//! Examines this machine's NAT: what a connection would find out, and what it never asks.
//!
//! All of it is measured with punch ports, because TCP is measured with TCP: a batch of probes shows how
//! ports are given out; then the server knocks, from a port and (where it has one) an address that was
//! not contacted; both open towards each other; and this machine connects to its own external address.
//! Beside that, UDP mirrors show whether UDP passes and how it is mapped. A few seconds in all.

mod favours;
mod mirror;

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
    time::Duration,
};

pub use self::mirror::Mirrors;
use super::{
    clock, lan, limits,
    ports::{PunchPorts, socket::Family},
    setup::{Common, common_setters},
};
use crate::{
    endpoint::{Input, PortsId},
    error::{ConfigError, Error, NetworkError},
    nat::{self, Filtering, Model, Observation, Prediction, SimultaneousOpen, Unsolicited},
    punch::FIRST_PORTS,
    wire::{
        examine::{Knocked, Origin},
        probe::{MAX_BATCH, ProbeQuestion},
    },
};

/// Probes that are not answered by then never will be: a repeated SYN after one second, and a round trip.
const PROBES_LIMIT: Duration = Duration::from_secs(4);

/// A connection to oneself through the NAT takes a round trip inside the house; this leaves room for one
/// repetition of the SYN.
const HAIRPIN_LIMIT: Duration = Duration::from_millis(1500);

/// Index of the first punch port that neither phase of probes uses.
const FIRST_UNUSED: u16 = 2 * nat::PROBED_LOCALS;

/// The only set of punch ports.
const SET: PortsId = PortsId(0);

/// Sets up an examination.
pub struct DoctorBuilder {
    common: Common,
}

/// Examines this machine's NAT.
pub struct Doctor;

/// What was found in one address family.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Examination {
    /// The rendezvous server.
    pub server: SocketAddr,
    /// This machine's own address towards it.
    pub local: Option<IpAddr>,
    /// Probes sent, and answered.
    pub probes: (usize, usize),
    /// What the probes show, with the filtering that the knocks show.
    pub prediction: Option<Prediction>,
    /// Local numbers of the punch ports, by index.
    pub punch_ports: Vec<u16>,
    /// The answer to a knock from another port.
    pub from_port: Option<Knocked>,
    /// The answer to a knock from another address.
    pub from_address: Option<Knocked>,
    /// What became of the server's SYN that crossed ours.
    pub crossing: Option<Knocked>,
    /// Whether a connection to one's own external address comes back; `None` where that was not tried.
    pub hairpin: Option<bool>,
    /// Shortest time from a probe's SYN to its answer: two round trips.
    pub answered_in: Option<Duration>,
    /// UDP.
    pub udp: Mirrors,
}

impl Doctor {
    /// An examination by a rendezvous server.
    pub fn builder() -> DoctorBuilder {
        DoctorBuilder { common: Common::new() }
    }
}

impl DoctorBuilder {
    common_setters!();

    /// Examines; one result for each address family of the server. A server that answers nothing is a
    /// result, too.
    ///
    /// # Errors
    /// [`ConfigError`] for a setting that does not fit or a punch port that is taken, [`NetworkError`]
    /// where the server's name has no address or no socket is to be had.
    pub async fn examine(self) -> Result<Vec<Examination>, Error> {
        limits::raise_open_files();
        let (servers, probes) = self.common.addresses().await?;
        let mut all = Vec::new();
        for server in servers {
            let of_family = |address: &&SocketAddr| address.is_ipv4() == server.is_ipv4();
            let probes: Vec<_> = probes.iter().filter(of_family).copied().collect();
            let mirrors = mirror::look(server, probes.clone(), self.common.udp_port);
            let (tcp, udp) = tokio::join!(self.examine_tcp(server, &probes), mirrors);
            let mut examination = tcp?;
            examination.udp = udp.map_err(|e| failed("open a UDP socket", e))?;
            all.push(examination);
        }
        Ok(all)
    }

    async fn examine_tcp(&self, server: SocketAddr, probes: &[SocketAddr]) -> Result<Examination, Error> {
        if let Some(range) = &self.common.punch_ports {
            PunchPorts::check(&[server], range)
                .map_err(|(address, source)| ConfigError::Listen { address, source })?;
        }
        let mut ports = PunchPorts::new(vec![server], self.common.punch_ports.clone())
            .map_err(|e| failed("start a thread", e))?;
        let punch_ports = match ports.bind(SET, FIRST_PORTS) {
            Input::Bound { v4, v6, .. } => {
                if server.is_ipv4() {
                    v4
                } else {
                    v6
                }
            }
            Input::BindFailed { why, .. } => {
                return Err(failed("bind a punch port", std::io::Error::other(why)));
            }
            _ => Vec::new(),
        };
        let mut found = Examination {
            server,
            local: lan::source_towards(server),
            probes: (0, 0),
            prediction: None,
            punch_ports,
            from_port: None,
            from_address: None,
            crossing: None,
            hairpin: None,
            answered_in: None,
            udp: Mirrors::default(),
        };
        let seen = found.probe(&mut ports, probes).await;
        found.prediction = nat::predict(&seen, &found.punch_ports);
        let Some(first) = seen.first().copied() else { return Ok(found) };
        found.ask_favours(&mut ports, first.server).await;
        let Examination { from_port, from_address, crossing, .. } = found;
        if let Some(prediction) = &mut found.prediction {
            prediction.filtering = filtering(from_port, from_address);
            prediction.unsolicited = unsolicited(from_port, from_address);
            prediction.simultaneous_open = simultaneous_open(&prediction.model, crossing);
        }
        found.hairpin = found.connect_to_itself(&mut ports, &seen).await;
        Ok(found)
    }
}

impl Examination {
    /// Whether there is no NAT in between: the server sees this machine's own address and ports.
    pub fn is_public(&self) -> bool {
        self.prediction.as_ref().is_some_and(|prediction| Some(prediction.address) == self.local)
    }

    /// Both groups of probes of an attempt; the second only where the first leaves something to say.
    async fn probe(&mut self, ports: &mut PunchPorts, servers: &[SocketAddr]) -> Vec<Observation> {
        let count = u16::try_from(self.punch_ports.len()).unwrap_or(u16::MAX);
        let Some(&batch) = clock::seed().first_chunk::<16>() else { return Vec::new() };
        let mut seen = self.phase(ports, batch, &nat::probe_batch(count, servers)).await;
        if !nat::is_settled(&seen, &self.punch_ports) {
            tokio::time::sleep(nat::pause(self.answered_in.unwrap_or_default())).await;
            seen.extend(self.phase(ports, batch, &nat::probe_more(count, servers)).await);
        }
        seen
    }

    /// Sends probes at once, and collects their answers.
    async fn phase(
        &mut self,
        ports: &mut PunchPorts,
        batch: [u8; 16],
        probes: &[nat::Probe],
    ) -> Vec<Observation> {
        let start = clock::now();
        for probe in probes {
            let question = ProbeQuestion {
                batch,
                number: probe.number,
                // The server's own prediction is not asked for.
                count: MAX_BATCH,
                local: u8::try_from(probe.local).unwrap_or(u8::MAX),
                local_port: self.punch_port(probe.local),
            };
            ports.probe(SET, probe.number, probe.local, probe.server, question);
        }
        let mut seen = BTreeMap::new();
        let mut waiting = probes.len();
        let collecting = async {
            while waiting > 0 {
                let Input::Probed { number, answer, .. } = ports.next().await else { continue };
                waiting -= 1;
                let probe = probes.iter().find(|probe| probe.number == number);
                let Some((probe, answer)) = probe.zip(answer) else { continue };
                self.answered_in.get_or_insert_with(|| start.elapsed());
                let observation = Observation {
                    number,
                    local: probe.local,
                    local_port: self.punch_port(probe.local),
                    server: probe.server,
                    observed: answer.observed,
                    at_us: answer.at_us,
                };
                seen.insert(number, observation);
            }
        };
        // What has come by then counts.
        tokio::time::timeout(PROBES_LIMIT, collecting).await.ok();
        self.probes.0 += probes.len();
        self.probes.1 += seen.len();
        seen.into_values().collect()
    }

    /// Knocks and a crossing, each from a punch port that was not probed: those have the tuple already.
    async fn ask_favours(&mut self, ports: &mut PunchPorts, server: SocketAddr) {
        let family = Family::of(&server);
        let unused = |index: u16| {
            let port = self.punch_ports.get(usize::from(FIRST_UNUSED + index)).copied();
            port.map(|port| favours::Favour { family, port, server })
        };
        for index in [0, 1] {
            // What gets in must not be reset by this machine itself.
            ports.listen(SET, FIRST_UNUSED + index);
        }
        let (from_port, from_address, crossing) = tokio::join!(
            favours::knock(unused(0), Origin::Port),
            favours::knock(unused(1), Origin::Address),
            favours::cross([unused(2), unused(3)]),
        );
        (self.from_port, self.from_address, self.crossing) = (from_port, from_address, crossing);
    }

    /// Opens from two punch ports towards where the server saw the other one: what filters needs both.
    async fn connect_to_itself(&self, ports: &mut PunchPorts, seen: &[Observation]) -> Option<bool> {
        let one = seen.first()?;
        let other = seen.iter().find(|other| other.local != one.local)?;
        if Some(one.observed.ip()) == self.local {
            return None;
        }
        let at = clock::now();
        for (opening, (from, to)) in [(one, other), (other, one)].into_iter().enumerate() {
            ports.listen(SET, from.local);
            let opening = u32::try_from(opening).unwrap_or(u32::MAX);
            ports.connect(SET, opening, Some(from.local), to.observed, at, None);
        }
        let connected = async {
            loop {
                if matches!(ports.next().await, Input::Connected { .. }) {
                    return;
                }
            }
        };
        Some(tokio::time::timeout(HAIRPIN_LIMIT, connected).await.is_ok())
    }

    fn punch_port(&self, index: u16) -> u16 {
        self.punch_ports.get(usize::from(index)).copied().unwrap_or(0)
    }
}

/// What the knocks say. Where the server has no second address, a NAT that lets its other port in may
/// look at addresses or at nothing: the stricter is assumed.
fn filtering(from_port: Option<Knocked>, from_address: Option<Knocked>) -> Filtering {
    match (from_port, from_address) {
        (_, Some(Knocked::Reached)) => Filtering::EndpointIndependent,
        (Some(Knocked::Reached), _) => Filtering::AddressDependent,
        (Some(Knocked::Dropped | Knocked::Reset | Knocked::Prohibited), _) => {
            Filtering::AddressAndPortDependent
        }
        _ => Filtering::Unknown,
    }
}

/// What a SYN that is not let in is answered with.
fn unsolicited(from_port: Option<Knocked>, from_address: Option<Knocked>) -> Unsolicited {
    let answers = [from_port, from_address];
    let said = |answer| answers.contains(&Some(answer));
    match () {
        () if said(Knocked::Reset) => Unsolicited::Reset,
        () if said(Knocked::Prohibited) => Unsolicited::Prohibited,
        () if said(Knocked::Dropped) => Unsolicited::Dropped,
        () => Unsolicited::Unknown,
    }
}

/// The server knows the external port of a crossing only where there is one for all destinations.
fn simultaneous_open(model: &Model, crossing: Option<Knocked>) -> SimultaneousOpen {
    match (model, crossing) {
        (Model::Fixed { .. }, Some(Knocked::Reached)) => SimultaneousOpen::Works,
        (Model::Fixed { .. }, Some(Knocked::Dropped)) => SimultaneousOpen::Blocked,
        _ => SimultaneousOpen::Unknown,
    }
}

fn failed(operation: &str, source: std::io::Error) -> Error {
    NetworkError::Socket { operation: operation.into(), source }.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filtering_is_the_strictest_that_fits_the_answers() {
        use Knocked::*;
        for (port, address, expected) in [
            (Some(Reached), Some(Reached), Filtering::EndpointIndependent),
            (Some(Reached), Some(Dropped), Filtering::AddressDependent),
            (Some(Reached), Some(Unable), Filtering::AddressDependent),
            (Some(Reset), Some(Unable), Filtering::AddressAndPortDependent),
            (Some(Busy), Some(Busy), Filtering::Unknown),
            (None, None, Filtering::Unknown),
        ] {
            assert_eq!(filtering(port, address), expected, "{port:?}, {address:?}");
        }
    }
}
