use super::*;

fn listen(address: &str, kind: io::ErrorKind) -> String {
    let address = address.parse().expect("an address");
    ConfigError::Listen { address, source: kind.into() }.to_string()
}

#[test]
fn a_port_that_cannot_be_had_comes_with_the_remedy() {
    assert!(listen("127.0.0.1:80", io::ErrorKind::PermissionDenied).contains("choose a higher one"));
    assert!(!listen("127.0.0.1:8080", io::ErrorKind::PermissionDenied).contains("higher"));
    assert!(listen("127.0.0.1:80", io::ErrorKind::AddrInUse).contains("another program has this port"));
    assert!(listen("9.9.9.9:80", io::ErrorKind::AddrNotAvailable).contains("does not have that address"));
}

#[test]
fn durations_are_said_as_people_say_them() {
    for (ms, said) in
        [(0, "0s"), (41, "41ms"), (999, "999ms"), (1400, "1s"), (10_003, "10s"), (90_000, "1m 30s")]
    {
        assert_eq!(seconds(Duration::from_millis(ms)).to_string(), said);
    }
    assert!(last_seen(Some(Duration::from_secs(59))).contains("less than a minute"));
    assert!(last_seen(Some(Duration::from_secs(200))).contains("3m ago"));
    assert!(last_seen(None).contains("never heard"));
}

#[test]
fn wrong_usage_is_told_apart_from_failure() {
    let name: Name = "myhost".parse().expect("a name");
    assert_eq!(Error::from(ConfigError::NoServer).exit_code(), 2);
    assert_eq!(Error::from(ConfigError::NotTrusted { name: name.clone() }).exit_code(), 2);
    assert_eq!(Error::from(ConfigError::InviteRefused { name: name.clone() }).exit_code(), 1);
    assert_eq!(Error::from(PeerError::Busy { name }).exit_code(), 1);
    assert_eq!(Error::Internal(String::new()).exit_code(), 1);
}
