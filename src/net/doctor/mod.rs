//! Examines this machine's NAT: what a connection would find out, and what it never asks.
//!
//! All of it is measured with punch ports, because TCP is measured with TCP: a batch of probes shows how
//! ports are given out; then the server knocks, from a port and (where it has one) an address that was
//! not contacted; both open towards each other; and this machine connects to its own external address.
//! Beside that, UDP mirrors show whether UDP passes and how it is mapped. A few seconds in all.

mod mirror;

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
    time::Duration,
};

pub use self::mirror::Mirrors;
use super::{
    clock, lan, limits,
    ports::PunchPorts,
    setup::{Common, common_setters},
};
use crate::{
    endpoint::{Answers, Favour, Input, PortsId},
    error::{ConfigError, Error, NetworkError},
    nat::{self, Observation, Prediction},
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

/// Index of the first punch port that neither group of probes uses.
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
    /// Whether the server was asked to knock: that takes punch ports which no probe used.
    pub asked: bool,
    /// What the server found when it knocked, and when SYNs crossed.
    pub answers: Answers,
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
            asked: false,
            answers: Answers::default(),
            hairpin: None,
            answered_in: None,
            udp: Mirrors::default(),
        };
        let seen = found.probe(&mut ports, probes).await;
        found.prediction = nat::predict(&seen, &found.punch_ports);
        let Some(first) = seen.first().copied() else { return Ok(found) };
        found.ask_favours(&mut ports, first.server).await;
        if let Some(prediction) = &mut found.prediction {
            found.answers.complete(prediction);
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
        let mut seen = self.group(ports, batch, &nat::probe_batch(count, servers)).await;
        if !nat::is_settled(&seen, &self.punch_ports) {
            tokio::time::sleep(nat::pause(self.answered_in.unwrap_or_default())).await;
            seen.extend(self.group(ports, batch, &nat::probe_more(count, servers)).await);
        }
        seen
    }

    /// Sends probes at once, and collects their answers.
    async fn group(
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
        let unused = |index: u16| Some(FIRST_UNUSED + index).filter(|&local| self.punch_port(local) != 0);
        let (mut waiting, mut again) = (0, unused(3));
        let favours = [Favour::Knock(Origin::Port), Favour::Knock(Origin::Address), Favour::Cross];
        for (index, favour) in (0..).zip(favours) {
            let Some(local) = unused(index) else { continue };
            if favour != Favour::Cross {
                // What gets in must not be reset by this machine itself.
                ports.listen(SET, local);
            }
            ports.favour(SET, local, server, favour);
            waiting += 1;
        }
        let asked = waiting > 0;
        while waiting > 0 {
            let Input::Favour { favour, answer, .. } = ports.next().await else { continue };
            waiting -= 1;
            self.answers.note(favour, answer);
            // Once more: packets get lost.
            if favour == Favour::Cross
                && answer == Some(Knocked::Dropped)
                && let Some(local) = again.take()
            {
                ports.favour(SET, local, server, Favour::Cross);
                waiting += 1;
            }
        }
        self.asked = asked;
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

fn failed(operation: &str, source: std::io::Error) -> Error {
    NetworkError::Socket { operation: operation.into(), source }.into()
}
