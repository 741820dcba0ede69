//! Whether UDP passes, and how it is mapped.

use std::{collections::BTreeMap, io, net::SocketAddr, time::Duration};

use crate::{
    nat::Mapping,
    net::{clock, udp::UdpSockets},
    wire::examine::{mirror, parse_mirrored},
};

/// Questions are repeated so often: UDP gets lost.
const TRIES: usize = 5;

/// From one question to its repetition.
const INTERVAL: Duration = Duration::from_millis(400);

/// What mirrors show.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct Mirrors {
    /// Who was asked: the server first.
    pub asked: Vec<SocketAddr>,
    /// Who answered, and what it saw.
    pub observed: BTreeMap<SocketAddr, SocketAddr>,
}

impl Mirrors {
    /// How UDP is mapped; `None` where fewer than two answered. Where all that answered have one address,
    /// an address-dependent mapping looks endpoint-independent.
    pub fn mapping(&self) -> Option<Mapping> {
        let mut all = self.observed.iter();
        let (_, first) = all.next()?;
        if self.observed.len() < 2 {
            return None;
        }
        if all.all(|(_, observed)| observed == first) {
            return Some(Mapping::EndpointIndependent);
        }
        let differ_by_port = self.observed.iter().any(|(server, observed)| {
            self.observed.iter().any(|(other, seen)| other.ip() == server.ip() && seen != observed)
        });
        Some(if differ_by_port { Mapping::AddressAndPortDependent } else { Mapping::AddressDependent })
    }
}

/// Asks the server and those that are probed, from one socket.
pub(super) async fn look(server: SocketAddr, probes: Vec<SocketAddr>, port: u16) -> io::Result<Mirrors> {
    let socket = UdpSockets::bind(&[server], port)?;
    let mut found = Mirrors { asked: vec![server], observed: BTreeMap::new() };
    for probe in probes {
        if !found.asked.contains(&probe) {
            found.asked.push(probe);
        }
    }
    let Some(&nonce) = clock::seed().first_chunk::<16>() else { return Ok(found) };
    for _ in 0..TRIES {
        let missing = found.asked.iter().filter(|server| !found.observed.contains_key(server));
        for server in missing {
            socket.send(*server, &mirror(nonce));
        }
        let listening = async {
            while found.observed.len() < found.asked.len() {
                let datagram = socket.receive().await;
                match parse_mirrored(datagram.bytes()) {
                    Some((echo, observed)) if echo == nonce && found.asked.contains(&datagram.from) => {
                        found.observed.insert(datagram.from, observed);
                    }
                    _ => {}
                }
            }
        };
        if tokio::time::timeout(INTERVAL, listening).await.is_ok() {
            break;
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mapping(views: &[(&str, &str)]) -> Option<Mapping> {
        let parse = |text: &str| text.parse::<SocketAddr>().unwrap();
        let observed = views.iter().map(|(server, seen)| (parse(server), parse(seen))).collect();
        Mirrors { asked: Vec::new(), observed }.mapping()
    }

    #[test]
    fn two_views_of_one_socket_say_how_it_is_mapped() {
        let (a, b, c) = ("192.0.2.1:1", "192.0.2.1:2", "192.0.2.9:1");
        let (x, y) = ("203.0.113.5:5", "203.0.113.5:6");
        assert_eq!(mapping(&[(a, x)]), None);
        assert_eq!(mapping(&[(a, x), (b, x)]), Some(Mapping::EndpointIndependent));
        assert_eq!(mapping(&[(a, x), (b, y)]), Some(Mapping::AddressAndPortDependent));
        assert_eq!(mapping(&[(a, x), (c, y)]), Some(Mapping::AddressDependent));
    }
}
