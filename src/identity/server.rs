//! The name of a rendezvous server.

use std::{fmt, net::Ipv6Addr, str::FromStr};

use crate::{secure::PublicKey, wire::DEFAULT_PORT};

/// A rendezvous server as a person names it: a host name or address, and a port. Its text form is
/// what `known_servers` and `known_hosts` hold.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ServerName {
    host: String,
    port: u16,
}

impl ServerName {
    /// The host name or address, without brackets, in lower case.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The port.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Reads `HOST[:PORT][#KEY]`, the form of `--rendezvous`.
    ///
    /// # Errors
    /// A sentence that says what is wrong.
    pub fn parse_with_key(text: &str) -> Result<(ServerName, Option<PublicKey>), String> {
        match text.split_once('#') {
            None => Ok((text.parse()?, None)),
            Some((name, key)) => {
                let key = key.parse().map_err(|e| format!("behind the # of {text:?}: {e}"))?;
                Ok((name.parse()?, Some(key)))
            }
        }
    }
}

impl FromStr for ServerName {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (host, port) = split_port(text)?;
        if host.is_empty() || host.contains(|c: char| c.is_whitespace() || "/@#[]".contains(c)) {
            return Err(format!("{text:?} is not a server: use HOST or HOST:PORT"));
        }
        Ok(ServerName { host: host.to_ascii_lowercase(), port: port.unwrap_or(DEFAULT_PORT) })
    }
}

impl fmt::Display for ServerName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

/// Splits `HOST`, `HOST:PORT`, `[V6]`, `[V6]:PORT` or a bare IPv6 address.
fn split_port(text: &str) -> Result<(&str, Option<u16>), String> {
    let port = |digits: &str| match digits.parse::<u16>() {
        Ok(0) | Err(_) => Err(format!("{digits:?} is not a port: use a number from 1 to 65535")),
        Ok(port) => Ok(Some(port)),
    };
    if let Some(rest) = text.strip_prefix('[') {
        let (host, rest) = rest.split_once(']').ok_or_else(|| format!("{text:?} lacks a closing bracket"))?;
        host.parse::<Ipv6Addr>().map_err(|_| format!("{host:?} is not an IPv6 address"))?;
        return match rest.strip_prefix(':') {
            Some(digits) => Ok((host, port(digits)?)),
            None if rest.is_empty() => Ok((host, None)),
            None => Err(format!("{text:?} is not a server: use [ADDRESS]:PORT")),
        };
    }
    match text.split_once(':') {
        None => Ok((text, None)),
        Some((_, rest)) if rest.contains(':') => match text.parse::<Ipv6Addr>() {
            Ok(_) => Ok((text, None)),
            Err(_) => Err(format!("{text:?} is not a server: use HOST:PORT, or [ADDRESS]:PORT for IPv6")),
        },
        Some((host, digits)) => Ok((host, port(digits)?)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_is_a_host_and_perhaps_a_port() {
        for (text, shown) in [
            ("vps", "vps:7862"),
            ("VPS.Example.org:99", "vps.example.org:99"),
            ("192.0.2.1", "192.0.2.1:7862"),
            ("2001:db8::1", "[2001:db8::1]:7862"),
            ("[2001:db8::1]", "[2001:db8::1]:7862"),
            ("[2001:db8::1]:99", "[2001:db8::1]:99"),
        ] {
            assert_eq!(text.parse::<ServerName>().unwrap().to_string(), shown);
            assert_eq!(shown.parse::<ServerName>().unwrap().to_string(), shown);
        }
    }

    #[test]
    fn what_is_no_server_is_refused() {
        for text in
            ["", ":7862", "vps:", "vps:0", "vps:65536", "vps:x", "[::1", "[vps]:1", "a:b:c", "http://vps"]
        {
            assert!(text.parse::<ServerName>().is_err(), "{text:?}");
        }
    }

    #[test]
    fn a_key_may_follow_behind_a_hash() {
        let key = PublicKey([5; 32]);
        let (server, found) = ServerName::parse_with_key(&format!("vps:99#{key}")).unwrap();
        assert_eq!((server.to_string().as_str(), found), ("vps:99", Some(key)));
        assert!(ServerName::parse_with_key("vps#nonsense").is_err());
    }
}
