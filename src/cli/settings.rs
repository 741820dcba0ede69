//! From arguments, environment and configuration file to what a command runs with: an option goes
//! before its environment variable (clap sees to that), and both before the file.

use std::{fmt, ops::RangeInclusive, path::PathBuf, str::FromStr, time::Duration};

use punchtunnel::{
    ConfigError, Error,
    identity::{Grant, GrantError, Home, ServerName, Trust},
    punch::Effort,
    secure::{PublicKey, StaticKey},
};
use toml::{Table, Value};
use zeroize::Zeroizing;

use super::{
    args::{Global, LogFormat},
    output::Told,
};

/// Keys of the configuration file, as the options of the same name.
const KEYS: [&str; 25] = [
    "rendezvous",
    "probe-server",
    "dead-after",
    "linger",
    "udp-port",
    "punch-port",
    "punch-effort",
    "listen",
    "probe-port",
    "data",
    "max-names",
    "names-per-key",
    "name-ttl",
    "allow-keys",
    "services",
    "as",
    "allow",
    "invite-ttl",
    "forward",
    "host-key",
    "wait",
    "give-up-after",
    "log-format",
    "quiet",
    "verbose",
];

/// Where this run finds its files and its settings.
#[derive(Debug)]
pub(crate) struct Place {
    /// The directories.
    pub(crate) home: Home,
    path: PathBuf,
    table: Table,
}

impl Place {
    /// Finds the home and reads its configuration file; without a file there are no settings.
    pub(crate) fn find(global: &Global) -> Result<Place, Error> {
        let home = match &global.home {
            Some(directory) if directory.as_os_str().is_empty() => {
                return Err(usage("PUNCHTUNNEL_HOME (--home) is empty: name a directory, or unset it"));
            }
            Some(directory) => Home::at(directory),
            None => Home::of_user()?,
        };
        let path = home.config_file();
        let text = home.read_config()?;
        let broken = |why| ConfigError::ConfigFile { path: path.clone(), why };
        let table = text.parse::<Table>().map_err(|e| {
            let before = text.get(..e.span().map_or(0, |span| span.start)).unwrap_or_default();
            broken(format!("line {}: {}", before.matches('\n').count() + 1, e.message()))
        })?;
        if let Some(key) = table.keys().find(|key| !KEYS.contains(&key.as_str())) {
            return Err(broken(format!("{key:?} is not a setting; there are: {}", KEYS.join(", "))).into());
        }
        Ok(Place { home, path, table })
    }

    /// A setting: what was typed, else what the file says under `key`.
    pub(crate) fn one<T: FromStr>(&self, typed: Option<T>, key: &str) -> Result<Option<T>, Error>
    where
        T::Err: fmt::Display,
    {
        match typed {
            Some(typed) => Ok(Some(typed)),
            None => {
                let values = self.file_values(key)?;
                match values.as_slice() {
                    [] => Ok(None),
                    [value] => self.parse(key, value).map(Some),
                    _ => Err(self.broken(key, "one value is expected, not several")),
                }
            }
        }
    }

    /// A list: what was typed, else what the file says under `key`, a value or an array.
    pub(crate) fn many<T: FromStr>(&self, typed: Vec<T>, key: &str) -> Result<Vec<T>, Error>
    where
        T::Err: fmt::Display,
    {
        if typed.is_empty() {
            self.file_values(key)?.iter().map(|value| self.parse(key, value)).collect()
        } else {
            Ok(typed)
        }
    }

    /// How much is told, and in which form.
    pub(crate) fn told(&self, global: &Global) -> Result<Told, Error> {
        let verbose = (global.verbose > 0).then_some(global.verbose);
        Ok(Told {
            format: self.one(global.log_format, "log-format")?.unwrap_or(LogFormat::Text),
            verbose: self.one(verbose, "verbose")?.unwrap_or(0),
            quiet: self.one(global.quiet.then_some(true), "quiet")?.unwrap_or(false),
        })
    }

    /// This installation's key; made at first use.
    pub(crate) fn key(&self) -> Result<StaticKey, Error> {
        load_key(self.home.identity_key())
    }

    /// Who is trusted here.
    pub(crate) fn trust(&self) -> Trust {
        Trust::new(self.home.clone())
    }

    fn parse<T: FromStr>(&self, key: &str, value: &str) -> Result<T, Error>
    where
        T::Err: fmt::Display,
    {
        value.parse().map_err(|e: T::Err| self.broken(key, &e.to_string()))
    }

    fn file_values(&self, key: &str) -> Result<Vec<String>, Error> {
        debug_assert!(KEYS.contains(&key), "{key} is missing from KEYS");
        let scalar = |value: &Value| match value {
            Value::String(text) => Ok(text.clone()),
            Value::Integer(number) => Ok(number.to_string()),
            Value::Boolean(yes) => Ok(yes.to_string()),
            _ => Err(self.broken(key, "a string, a number, true or false is expected")),
        };
        match self.table.get(key) {
            None => Ok(Vec::new()),
            Some(Value::Array(values)) => values.iter().map(scalar).collect(),
            Some(value) => scalar(value).map(|value| vec![value]),
        }
    }

    fn broken(&self, key: &str, why: &str) -> Error {
        ConfigError::ConfigFile { path: self.path.clone(), why: format!("{key}: {why}") }.into()
    }
}

/// The key in that file, made from the system's random source where there is none.
pub(crate) fn load_key(path: PathBuf) -> Result<StaticKey, Error> {
    let mut seed = Zeroizing::new([0; 32]);
    fill_random(seed.as_mut_slice())?;
    Ok(punchtunnel::identity::load_or_create(&path, seed)?)
}

/// Fills `bytes` from the system's random source.
pub(crate) fn fill_random(bytes: &mut [u8]) -> Result<(), Error> {
    aws_lc_rs::rand::fill(bytes).map_err(|_| Error::Internal("the system gives no random numbers".into()))
}

/// Unix time in seconds: what invites are measured by.
#[expect(clippy::disallowed_methods, reason = "the command line reads the clock for the cores")]
pub(crate) fn unix_now() -> u64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    now.map_or(0, |since| since.as_secs())
}

/// An error with exit code 2.
pub(crate) fn usage(text: impl Into<String>) -> Error {
    ConfigError::Usage(text.into()).into()
}

/// `HOST[:PORT][#KEY]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Rendezvous {
    /// Where it is.
    pub(crate) server: ServerName,
    /// Its key, where it was given.
    pub(crate) key: Option<PublicKey>,
}

impl FromStr for Rendezvous {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        ServerName::parse_with_key(text).map(|(server, key)| Rendezvous { server, key })
    }
}

/// Clients that are let in for a run: `KEY[=SERVICE,…]`, and more of them with commas in between.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Allow(pub(crate) Vec<(PublicKey, Grant)>);

impl FromStr for Allow {
    type Err = String;

    /// A word behind a comma is a further key where it reads as one, and else a further service of the key before
    /// it, which has to have one.
    fn from_str(text: &str) -> Result<Self, String> {
        let mut allowed: Vec<(PublicKey, Grant)> = Vec::new();
        for word in text.split(',') {
            let (key, service) = word.split_once('=').map_or((word, None), |(key, word)| (key, Some(word)));
            match (key.parse(), service, allowed.last_mut()) {
                (Ok(key), None, _) => allowed.push((key, Grant::All)),
                (Ok(key), Some(service), _) => {
                    allowed.push((key, service.parse().map_err(|e: GrantError| e.to_string())?));
                }
                (Err(_), None, Some((_, grant @ Grant::Only(_)))) => {
                    let more = word.parse().map_err(|e: GrantError| e.to_string())?;
                    *grant = std::mem::replace(grant, Grant::NOTHING).and(more);
                }
                (Err(error), ..) => {
                    return Err(format!("{key:?} is not a key: {error}; use KEY or KEY=SERVICE,…"));
                }
            }
        }
        Ok(Allow(allowed))
    }
}

/// A length of time as people write it: `90s`, `10m`, `1h 30m`, or `forever`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Span(pub(crate) Duration);

impl FromStr for Span {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "forever" {
            return Ok(Span(Duration::MAX));
        }
        match humantime::parse_duration(text) {
            Ok(span) if span > Duration::ZERO => Ok(Span(span)),
            _ => Err(format!("{text:?} is not a length of time: use 90s, 10m, 1h or the like")),
        }
    }
}

/// Local ports to punch from: `PORT` or `PORT-PORT`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Ports(pub(crate) RangeInclusive<u16>);

impl FromStr for Ports {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (low, high) = text.split_once('-').unwrap_or((text, text));
        match (low.trim().parse(), high.trim().parse()) {
            (Ok(low), Ok(high)) if low > 0 && low <= high => Ok(Ports(low..=high)),
            _ => Err(format!("{text:?} is not a port or a range of ports: use 40000 or 40000-40031")),
        }
    }
}

/// How much an attempt may cost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Spend(pub(crate) Effort);

impl FromStr for Spend {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "low" => Ok(Spend(Effort::Low)),
            "normal" => Ok(Spend(Effort::Normal)),
            "high" => Ok(Spend(Effort::High)),
            _ => Err(format!("{text:?}: use low, normal or high")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(config: &str) -> (tempfile::TempDir, Result<Place, Error>) {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("config.toml"), config).unwrap();
        let home = Some(dir.path().to_owned());
        let place = Place::find(&Global { home, verbose: 0, quiet: false, log_format: None });
        (dir, place)
    }

    #[test]
    fn what_is_typed_goes_before_the_file() {
        let (_dir, place) = place("rendezvous = \"vps:1\"\nprobe-port = [1, 2]\nwait = \"90s\"");
        let place = place.unwrap();
        let typed: Rendezvous = "other:2".parse().unwrap();
        assert_eq!(place.one(Some(typed.clone()), "rendezvous").unwrap(), Some(typed));
        let found: Rendezvous = place.one(None, "rendezvous").unwrap().expect("in the file");
        assert_eq!(found.server.to_string(), "vps:1");
        assert_eq!(place.many(vec![3u16], "probe-port").unwrap(), [3]);
        assert_eq!(place.many(Vec::<u16>::new(), "probe-port").unwrap(), [1, 2]);
        assert_eq!(place.one(None, "wait").unwrap(), Some(Span(Duration::from_secs(90))));
        assert_eq!(place.one::<Span>(None, "invite-ttl").unwrap(), None);
    }

    #[test]
    fn a_mistake_in_the_file_is_named_with_file_and_place() {
        for (config, words) in [
            ("a = 1\nb = [", "config.toml: line 2"),
            ("rendevous = \"vps\"", "\"rendevous\" is not a setting"),
        ] {
            let (_dir, place) = place(config);
            let error = place.expect_err(config);
            assert!(error.to_string().contains(words), "{error}");
            assert_eq!(error.exit_code(), 2);
        }
        let (_dir, place) = place("wait = \"soon\"\nlisten = 1.5\nas = [\"a\", \"b\"]");
        let place = place.unwrap();
        for (error, words) in [
            (place.one::<Span>(None, "wait").unwrap_err(), "wait: \"soon\" is not a length of time"),
            (place.many::<Span>(Vec::new(), "listen").unwrap_err(), "listen: a string"),
            (place.one::<Span>(None, "as").unwrap_err(), "as: one value"),
        ] {
            assert!(error.to_string().contains(words), "{error}");
            assert_eq!(error.exit_code(), 2);
        }
    }

    #[test]
    fn allowed_keys_have_their_services_behind_them() {
        let keys = [1, 2].map(|n| StaticKey::from_private(Zeroizing::new([n; 32])).public());
        let [a, b] = keys.map(|key| key.to_string());
        let only = |words: &str| words.parse::<Grant>().unwrap();
        let parse = |text: &str| text.parse::<Allow>().map(|allow| allow.0);
        assert_eq!(parse(&a), Ok(vec![(keys[0], Grant::All)]));
        assert_eq!(parse(&format!("{a},{b}")), Ok(keys.map(|key| (key, Grant::All)).into()));
        let both = vec![(keys[0], only("ssh,22")), (keys[1], Grant::All)];
        assert_eq!(parse(&format!("{a}=ssh,22,{b}")), Ok(both));
        for bad in [format!("{a},ssh"), format!("{a}="), format!("{a}=a b"), "ssh".into(), String::new()] {
            assert!(parse(&bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn punch_ports_are_a_port_or_a_range() {
        assert_eq!("40000".parse(), Ok(Ports(40000..=40000)));
        assert_eq!("40000-40031".parse(), Ok(Ports(40000..=40031)));
        for bad in ["", "0", "5-4", "1-", "1-2-3", "70000", "http"] {
            let error = bad.parse::<Ports>().expect_err(bad);
            assert!(error.contains("40000-40031"), "{error}");
        }
    }
}
