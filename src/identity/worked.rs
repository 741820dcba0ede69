//! What worked last between two networks: a hint for the next time, and a word for people.
//!
//! A line of the file `worked` in the state directory is `NETWORK NAME@HOST:PORT OURS THEIRS ROUND TIME`:
//! this side's public network, the host, what the two NATs were (`fixed`, `progression`, `band`, `random`
//! or `lan`), the kind of round that connected (from 1) and the Unix time. It is no secret and nobody is let in by
//! it: a line that does not parse is dropped with the next rewrite.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    str::FromStr,
};

use super::{
    Home, IdentityError, Name, ServerName,
    file::{self, Access, Lock},
};

/// Most lines; the oldest make room. More than a person has networks and hosts.
const MOST: usize = 256;

/// A public network: the part of an address that stays when a provider gives a customer another one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Network(IpAddr);

/// What worked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Worked {
    /// This side's public network.
    pub network: Network,
    /// `NAME@HOST:PORT`.
    pub host: String,
    /// What this side's NAT was, in one word.
    pub ours: String,
    /// What the host's was.
    pub theirs: String,
    /// The kind of round that connected, from 1: the next attempt begins with it.
    pub round: u8,
    /// When, Unix time in seconds.
    pub at: u64,
}

impl Network {
    /// The /24 of an IPv4 address, the /48 of an IPv6 one.
    pub fn of(address: IpAddr) -> Network {
        Network(match address.to_canonical() {
            IpAddr::V4(ip) => Ipv4Addr::from_bits(ip.to_bits() & !0xff).into(),
            IpAddr::V6(ip) => Ipv6Addr::from_bits(ip.to_bits() & !(u128::MAX >> 48)).into(),
        })
    }
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.0, if self.0.is_ipv4() { 24 } else { 48 })
    }
}

impl FromStr for Network {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let (address, _) = text.split_once('/').ok_or(())?;
        let network = Network::of(address.parse().map_err(|_| ())?);
        if network.to_string() == text { Ok(network) } else { Err(()) }
    }
}

impl Worked {
    /// The name under which a host is remembered.
    pub fn label(name: &Name, server: &ServerName) -> String {
        format!("{name}@{server}")
    }

    /// Writes it down, in the place of what was known of the same network and host.
    ///
    /// # Errors
    /// The file cannot be read or written.
    pub fn remember(self, home: &Home) -> Result<(), IdentityError> {
        let _lock = Lock::take(home.state_dir())?;
        let path = home.worked();
        let mut all = parse(&file::read(&path, Access::Plain)?);
        all.retain(|known| (known.network, &known.host) != (self.network, &self.host));
        all.push(self);
        all.sort_by_key(|known| known.at);
        let kept = all.get(all.len().saturating_sub(MOST)..).unwrap_or_default();
        let text: String = kept.iter().map(|known| format!("{known}\n")).collect();
        file::replace(&path, &text, Access::Plain)
    }

    /// What worked with that host, from every network that is remembered; the newest last.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn of_host(home: &Home, host: &str) -> Result<Vec<Worked>, IdentityError> {
        let mut all = parse(&file::read(&home.worked(), Access::Plain)?);
        all.retain(|known| known.host == host);
        Ok(all)
    }

    /// What worked last from that network to that host.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn recall(home: &Home, network: Network, host: &str) -> Result<Option<Worked>, IdentityError> {
        let all = Self::of_host(home, host)?;
        Ok(all.into_iter().rfind(|known| known.network == network))
    }
}

impl fmt::Display for Worked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Worked { network, host, ours, theirs, round, at } = self;
        write!(f, "{network} {host} {ours} {theirs} {round} {at}")
    }
}

impl FromStr for Worked {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let fields: Vec<&str> = text.split_whitespace().collect();
        let [network, host, ours, theirs, round, at] = fields[..] else { return Err(()) };
        Ok(Worked {
            network: network.parse()?,
            host: host.into(),
            ours: ours.into(),
            theirs: theirs.into(),
            round: round.parse().map_err(|_| ())?,
            at: at.parse().map_err(|_| ())?,
        })
    }
}

fn parse(text: &str) -> Vec<Worked> {
    file::lines(text).filter_map(|(_, line)| line.parse().ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn worked(address: &str, host: &str, round: u8, at: u64) -> Worked {
        let network = Network::of(address.parse().unwrap());
        Worked { network, host: host.into(), ours: "fixed".into(), theirs: "band".into(), round, at }
    }

    #[test]
    fn what_worked_is_remembered_for_a_network_and_a_host() {
        let dir = tempfile::tempdir().unwrap();
        let home = Home::at(dir.path());
        let here = Network::of("203.0.113.7".parse().unwrap());
        assert_eq!(Worked::recall(&home, here, "a@vps:1").unwrap(), None);
        worked("203.0.113.7", "a@vps:1", 3, 10).remember(&home).unwrap();
        worked("203.0.113.99", "a@vps:1", 1, 20).remember(&home).unwrap();
        worked("2001:db8:1:2::3", "a@vps:1", 2, 15).remember(&home).unwrap();
        let last = Worked::recall(&home, here, "a@vps:1").unwrap().unwrap();
        assert_eq!(last, worked("203.0.113.7", "a@vps:1", 1, 20), "the newer one, of the same network");
        assert_eq!(Worked::recall(&home, here, "b@vps:1").unwrap(), None);
        let text = std::fs::read_to_string(home.worked()).unwrap();
        assert_eq!(text, "2001:db8:1::/48 a@vps:1 fixed band 2 15\n203.0.113.0/24 a@vps:1 fixed band 1 20\n");
    }

    #[test]
    fn the_oldest_make_room_and_what_does_not_parse_goes() {
        let dir = tempfile::tempdir().unwrap();
        let home = Home::at(dir.path());
        std::fs::write(home.worked(), "nonsense\n203.0.113.7/24 a b c 1 2\n").unwrap();
        for at in 0..300 {
            worked("203.0.113.7", &format!("h{at}@vps:1"), 1, at).remember(&home).unwrap();
        }
        let text = std::fs::read_to_string(home.worked()).unwrap();
        assert_eq!(text.lines().count(), MOST);
        assert!(text.starts_with("203.0.113.0/24 h44@vps:1 "), "{text}");
    }
}
