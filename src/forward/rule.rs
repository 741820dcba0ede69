//! Local ports that lead to services.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    str::FromStr,
};

use super::{ForwardError, parse_port, service::parse_label, split_brackets};
use crate::wire::stream::OpenRequest;

/// `-L [BIND:]PORT[:SERVICE]`: listen there, and take every connection to that service.
///
/// `BIND` is an IP address (IPv6 in brackets), `localhost` or `*`; without it, 127.0.0.1. `PORT` 0 is
/// any free port. `SERVICE` is a label or an exposed port; without it, the host's first service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LocalRule {
    /// Where to listen.
    pub listen: SocketAddr,
    /// What to ask the host for.
    pub service: Option<String>,
}

impl LocalRule {
    /// The request that opens a stream for a connection to this rule's port.
    pub fn request(&self) -> OpenRequest {
        OpenRequest { service: self.service.clone() }
    }
}

impl FromStr for LocalRule {
    type Err = ForwardError;

    fn from_str(text: &str) -> Result<Self, ForwardError> {
        let (bind, rest) = split_bind(text)?;
        let (port, service) = match rest.split_once(':') {
            Some((port, service)) => (port, Some(parse_service(service)?)),
            None => (rest, None),
        };
        Ok(LocalRule { listen: SocketAddr::new(bind, parse_port(port, 0)?), service })
    }
}

impl fmt::Display for LocalRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.service {
            Some(service) => write!(f, "{}:{service}", self.listen),
            None => write!(f, "{}", self.listen),
        }
    }
}

/// The address to listen on, and `PORT[:SERVICE]`. What begins with a number is a port, because no
/// address is a plain number.
fn split_bind(text: &str) -> Result<(IpAddr, &str), ForwardError> {
    let local = IpAddr::V4(Ipv4Addr::LOCALHOST);
    if let Some((address, rest)) = split_brackets(text)? {
        let rest = rest.strip_prefix(':').ok_or_else(|| ForwardError::Brackets(text.into()))?;
        let address = address.parse::<Ipv6Addr>().map_err(|_| ForwardError::Bind(address.into()))?;
        return Ok((address.into(), rest));
    }
    let Some((first, rest)) = text.split_once(':') else { return Ok((local, text)) };
    match first {
        "localhost" => Ok((local, rest)),
        "*" => Ok((Ipv4Addr::UNSPECIFIED.into(), rest)),
        _ if !first.is_empty() && first.bytes().all(|b| b.is_ascii_digit()) => Ok((local, text)),
        _ => match first.parse::<Ipv4Addr>() {
            Ok(address) => Ok((address.into(), rest)),
            Err(_) => Err(ForwardError::Bind(first.into())),
        },
    }
}

fn parse_service(text: &str) -> Result<String, ForwardError> {
    if !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit()) {
        return parse_port(text, 1).map(|port| port.to_string());
    }
    parse_label(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rule_is_a_port_perhaps_with_an_address_and_a_service() {
        for (text, listen, service) in [
            ("2222", "127.0.0.1:2222", None),
            ("0", "127.0.0.1:0", None),
            ("2222:22", "127.0.0.1:2222", Some("22")),
            ("8080:web", "127.0.0.1:8080", Some("web")),
            ("localhost:2222", "127.0.0.1:2222", None),
            ("*:2222:ssh", "0.0.0.0:2222", Some("ssh")),
            ("192.168.1.2:2222:ssh", "192.168.1.2:2222", Some("ssh")),
            ("[::1]:2222:ssh", "[::1]:2222", Some("ssh")),
            ("[::]:0", "[::]:0", None),
        ] {
            let rule: LocalRule = text.parse().unwrap();
            assert_eq!((rule.listen.to_string().as_str(), rule.service.as_deref()), (listen, service));
            assert_eq!(rule.request().service.as_deref(), service);
            assert_eq!(rule.to_string().parse(), Ok(rule));
        }
    }

    #[test]
    fn what_is_no_rule_is_refused() {
        for text in [
            "",
            ":",
            "x",
            "65536",
            "-1",
            "2222:",
            ":2222",
            "host:2222",
            "[::1]",
            "[::1:2222",
            "2222:a:b",
            "2222:10.0.0.1:22",
            "1.2.3.4",
            "1.2.3.4:",
            "2222:0",
        ] {
            assert!(text.parse::<LocalRule>().is_err(), "{text:?}");
        }
    }
}
