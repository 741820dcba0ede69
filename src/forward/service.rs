//! Exposed services.

use std::{
    fmt,
    net::{Ipv4Addr, Ipv6Addr},
    str::FromStr,
};

use super::{ForwardError, parse_port, split_brackets};
use crate::wire::stream::{MAX_LABEL, OpenRequest, ResetReason};

/// Most services of one host: far more than a person lists on a command line.
const MAX_SERVICES: usize = 256;

/// A TCP service that a host exposes: `[LABEL=][HOST:]PORT`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Service {
    /// What clients may call it, besides its port.
    pub label: Option<String>,
    /// Where it is, as seen from the host: a name or an address without brackets. `None` is the host
    /// itself.
    pub host: Option<String>,
    /// Its port, 1 to 65535.
    pub port: u16,
}

impl Service {
    /// What to dial, in this order: hosts with the port. The host itself is tried over IPv4 and then
    /// over IPv6, because services that listen on one loopback address only exist in both kinds.
    pub fn targets(&self) -> Vec<(String, u16)> {
        match &self.host {
            Some(host) => vec![(host.clone(), self.port)],
            None => [Ipv4Addr::LOCALHOST.to_string(), Ipv6Addr::LOCALHOST.to_string()]
                .map(|host| (host, self.port))
                .into(),
        }
    }

    fn is_called(&self, word: &str) -> bool {
        self.label.as_deref() == Some(word) || self.port.to_string() == word
    }
}

impl FromStr for Service {
    type Err = ForwardError;

    fn from_str(text: &str) -> Result<Self, ForwardError> {
        let (label, place) = match text.split_once('=') {
            Some((label, place)) => (Some(parse_label(label)?), place),
            None => (None, text),
        };
        let (host, port) = if let Some((address, rest)) = split_brackets(place)? {
            let port = rest.strip_prefix(':').ok_or_else(|| ForwardError::Brackets(place.into()))?;
            address.parse::<Ipv6Addr>().map_err(|_| ForwardError::Host(address.into()))?;
            (Some(address), port)
        } else {
            match place.rsplit_once(':') {
                Some((host, port)) => (Some(host), port),
                None => (None, place),
            }
        };
        if let Some(host) = host
            && !is_host(host)
        {
            return Err(ForwardError::Host(host.into()));
        }
        Ok(Service { label, host: host.map(str::to_owned), port: parse_port(port, 1)? })
    }
}

impl fmt::Display for Service {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(label) = &self.label {
            write!(f, "{label}=")?;
        }
        match &self.host {
            Some(host) if host.contains(':') => write!(f, "[{host}]:")?,
            Some(host) => write!(f, "{host}:")?,
            None => {}
        }
        write!(f, "{}", self.port)
    }
}

/// What a host exposes: at least one service, each of which can be told from the others.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Services(Vec<Service>);

impl Services {
    /// The services, the default one first.
    ///
    /// # Errors
    /// None at all, too many, or one that could never be asked for because an earlier one answers to
    /// everything that it is called.
    pub fn new(services: Vec<Service>) -> Result<Services, ForwardError> {
        if services.is_empty() {
            return Err(ForwardError::NoService);
        }
        if services.len() > MAX_SERVICES {
            return Err(ForwardError::TooMany(services.len(), MAX_SERVICES));
        }
        for (place, service) in services.iter().enumerate() {
            let earlier = services.get(..place).unwrap_or_default();
            let word = service.label.clone().unwrap_or_else(|| service.port.to_string());
            if earlier.iter().any(|other| other.is_called(&word)) {
                return Err(ForwardError::Ambiguous(word));
            }
        }
        Ok(Services(services))
    }

    /// The services, the default one first.
    pub fn as_slice(&self) -> &[Service] {
        &self.0
    }

    /// The service that a request means: the one of that label, else the first one of that port, else,
    /// where nothing is named, the first one.
    ///
    /// # Errors
    /// [`ResetReason::NoSuchService`].
    pub fn resolve(&self, request: &OpenRequest) -> Result<&Service, ResetReason> {
        let found = match request.service.as_deref() {
            None => self.0.first(),
            Some(word) => {
                let by_label = self.0.iter().find(|service| service.label.as_deref() == Some(word));
                by_label.or_else(|| self.0.iter().find(|service| service.is_called(word)))
            }
        };
        found.ok_or(ResetReason::NoSuchService)
    }
}

/// A word that names a service: not empty, not too long, and not a number, which would be a port.
pub(super) fn parse_label(text: &str) -> Result<String, ForwardError> {
    let allowed = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
    let number = text.bytes().all(|b| b.is_ascii_digit());
    if number || text.len() > MAX_LABEL || !text.chars().all(allowed) {
        return Err(ForwardError::Label(text.into()));
    }
    Ok(text.into())
}

fn is_host(text: &str) -> bool {
    let foreign = |c: char| c.is_whitespace() || c.is_control() || "/@[]=#".contains(c);
    let bare_v6 = text.contains(':') && text.parse::<Ipv6Addr>().is_err();
    !text.is_empty() && text.len() <= 253 && !text.contains(foreign) && !bare_v6
}

#[cfg(test)]
mod tests {
    use super::*;

    fn service(text: &str) -> Service {
        text.parse().unwrap()
    }

    fn asked(service: &str) -> OpenRequest {
        OpenRequest { service: Some(service.into()) }
    }

    #[test]
    fn a_service_is_a_port_perhaps_elsewhere_perhaps_with_a_label() {
        for (text, label, host, port) in [
            ("22", None, None, 22),
            ("web=8080", Some("web"), None, 8080),
            ("nas:445", None, Some("nas"), 445),
            ("db=10.0.0.7:5432", Some("db"), Some("10.0.0.7"), 5432),
            ("v6=[2001:db8::1]:80", Some("v6"), Some("2001:db8::1"), 80),
        ] {
            let service = service(text);
            assert_eq!(
                (service.label.as_deref(), service.host.as_deref(), service.port),
                (label, host, port)
            );
            assert_eq!(service.to_string(), text);
        }
    }

    #[test]
    fn what_is_no_service_is_refused() {
        for text in [
            "",
            "0",
            "65536",
            "+22",
            "ssh",
            "=22",
            "12=22",
            "a b=22",
            "web=",
            "nas:",
            ":22",
            "[::1]",
            "[::1",
            "[nas]:22",
            "[::1]x:22",
            "a:b:22",
            "http://nas:80",
        ] {
            assert!(text.parse::<Service>().is_err(), "{text:?}");
        }
    }

    #[test]
    fn the_host_itself_is_dialled_over_both_families() {
        let targets = service("22").targets();
        assert_eq!(targets, [("127.0.0.1".to_owned(), 22), ("::1".to_owned(), 22)]);
        assert_eq!(service("nas:445").targets(), [("nas".to_owned(), 445)]);
    }

    #[test]
    fn a_request_finds_its_service_by_label_or_port_and_nothing_else() {
        let services =
            Services::new(["22", "web=80", "nas=10.0.0.7:80", "10.0.0.8:443"].map(service).into()).unwrap();
        let port_of = |request: &OpenRequest| services.resolve(request).map(ToString::to_string);
        assert_eq!(port_of(&OpenRequest { service: None }).unwrap(), "22");
        assert_eq!(port_of(&asked("web")).unwrap(), "web=80");
        assert_eq!(port_of(&asked("80")).unwrap(), "web=80");
        assert_eq!(port_of(&asked("nas")).unwrap(), "nas=10.0.0.7:80");
        assert_eq!(port_of(&asked("443")).unwrap(), "10.0.0.8:443");
        for nothing in ["", "ssh", "23", "10.0.0.7:80", "080", "WEB"] {
            assert_eq!(port_of(&asked(nothing)), Err(ResetReason::NoSuchService), "{nothing:?}");
        }
    }

    #[test]
    fn services_that_cannot_be_told_apart_are_refused() {
        for (pair, word) in [(["a=1", "a=2"], "a"), (["1", "nas:1"], "1"), (["a=1", "nas:1"], "1")] {
            let refused = Services::new(pair.map(service).into());
            assert_eq!(refused, Err(ForwardError::Ambiguous(word.into())));
        }
        assert!(Services::new(["nas:1", "b=1"].map(service).into()).is_ok());
        assert_eq!(Services::new(Vec::new()), Err(ForwardError::NoService));
    }
}
