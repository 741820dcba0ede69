//! What needs no network: keys, invites, lists, settings, and words that do not fit.

use crate::harness::{Home, KEY_LENGTH};

#[test]
fn key_prints_the_public_key_alone_and_the_same_one_each_time() {
    let home = Home::new();
    let first = home.run(["key"]);
    first.succeeded();
    assert_eq!(first.out.trim_end().len(), KEY_LENGTH);
    assert_eq!(first.out.lines().count(), 1);
    assert_eq!(first.err, "");
    assert_eq!(home.run(["key"]).out, first.out);
    assert_ne!(Home::new().run(["key"]).out, first.out, "another home is another identity");
}

#[test]
fn invite_prints_the_code_alone_on_standard_output() {
    let home = Home::new();
    let invite = home.run(["invite", "myhost"]);
    invite.succeeded();
    let groups: Vec<_> = invite.out.trim_end().split('-').collect();
    assert!(groups.len() == 7 && groups.iter().all(|group| group.len() == 5), "{}", invite.out);
    assert!(
        !invite.err.contains(groups[3]),
        "the code does not belong into what people read: {}",
        invite.err
    );
    assert!(invite.err.contains("10m"), "{}", invite.err);
    assert_ne!(home.run(["invite", "myhost"]).out, invite.out);
}

#[test]
fn clients_are_added_listed_and_removed() {
    let (home, client) = (Home::new(), Home::new().key());
    let none = home.run(["clients"]);
    none.succeeded();
    assert_eq!(none.out, "");
    assert!(none.err.contains("nobody is let in"), "{}", none.err);
    home.run(["clients", "add", &client, "my", "laptop"]).succeeded();
    assert_eq!(home.run(["clients", "list"]).out, format!("{client} my laptop\n"));
    home.run(["clients", "remove", &client]).succeeded();
    home.run(["clients", "remove", &client]).failed(1, &["is not in", "punchtunnel clients"]);
}

#[test]
fn hosts_are_listed_and_forgotten() {
    let (home, host) = (Home::new(), Home::new().key());
    home.write("known_hosts", &format!("# mine\nmyhost@vps:7862 {host}\nother@vps:7862 {host}\n"));
    let listed = home.run(["hosts"]);
    assert_eq!(listed.out, format!("myhost@vps:7862 {host}\nother@vps:7862 {host}\n"));
    home.run(["hosts", "remove", "myhost"]).succeeded();
    assert_eq!(home.read("known_hosts"), format!("# mine\nother@vps:7862 {host}\n"));
    home.run(["hosts", "remove", "myhost"]).failed(1, &["is not in", "punchtunnel hosts"]);
}

#[test]
fn a_word_that_does_not_fit_is_wrong_usage_and_the_message_has_the_remedy() {
    let home = Home::new();
    for (words, says) in [
        (&[][..], &["Usage"][..]),
        (&["fly"], &["fly"]),
        (&["invite"], &["NAME"]),
        (&["invite", "MyHost"], &["use \"myhost\""]),
        (&["invite", "my_host"], &["'_'", "letters a-z"]),
        (&["invite", "myhost", "--invite-ttl", "soon"], &["\"soon\"", "10m"]),
        (&["expose", "ssh", "--as", "myhost", "--rendezvous", "vps"], &["\"ssh\" is not a port"]),
        (&["expose", "--as", "myhost", "--rendezvous", "vps"], &["nothing to expose"]),
        (&["expose", "22", "--rendezvous", "vps"], &["--as"]),
        (&["expose", "22", "--as", "myhost"], &["--rendezvous", "PUNCHTUNNEL_RENDEZVOUS", "config.toml"]),
        (&["expose", "22", "--as", "myhost", "--rendezvous", "vps", "--allow", "me"], &["not a key"]),
        (
            &["expose", "22", "a=22", "b=c:22", "nas:22", "--as", "x", "--rendezvous", "vps"],
            &["\"22\"", "LABEL="],
        ),
        (&["connect", "myhost", "-L", "2222"], &["--rendezvous"]),
        (&["connect", "myhost", "--rendezvous", "vps"], &["-L", "--stdio"]),
        (&["connect", "myhost", "-L", "x", "--rendezvous", "vps"], &["\"x\" is not a port"]),
        (&["connect", "myhost", "-L", "1", "--rendezvous", "a:b:c"], &["HOST:PORT"]),
        (&["connect", "myhost", "-L", "1", "--rendezvous", "vps#k"], &["#"]),
        (&["connect", "myhost", "-L", "1", "--rendezvous", "vps", "--wait", "0s"], &["90s"]),
        (&["rendezvous", "--listen", "vps"], &["IP:PORT"]),
        (&["doctor"], &["--rendezvous"]),
        (&["doctor", "--rendezvous", "vps", "--punch-port", "5-4"], &["40000-40031"]),
        (&["doctor", "--rendezvous", "vps", "--punch-effort", "much"], &["low, normal or high"]),
        (&["clients", "add", "nokey"], &["not a key"]),
    ] {
        home.run(words).failed(2, says);
    }
}

#[test]
fn connect_without_a_key_or_an_invite_refuses_and_says_how_to_get_one() {
    let home = Home::new();
    let refused = home.run(["connect", "myhost", "-L", "0", "--rendezvous", "127.0.0.1:1"]);
    refused.failed(2, &["not known", "punchtunnel invite myhost", "--invite", "--host-key"]);
}

#[test]
fn a_typing_error_in_an_invite_is_told_as_one_and_not_repeated() {
    let home = Home::new();
    let code = home.run(["invite", "myhost"]).out.trim_end().to_owned();
    let last = if code.ends_with('0') { "1" } else { "0" };
    let wrong = format!("{}{last}", &code[..code.len() - 1]);
    let connect = ["connect", "myhost", "-L", "0", "--rendezvous", "127.0.0.1:1"];
    for run in [
        home.run(connect.into_iter().chain(["--invite", &wrong])),
        home.with("PUNCHTUNNEL_INVITE", &wrong).run(connect),
        home.run_with_input(connect.into_iter().chain(["--invite", "-"]), &format!("{wrong}\n")),
    ] {
        run.failed(2, &["typing error", "copy it again"]);
        assert!(!run.err.contains(&wrong), "{}", run.err);
    }
}

#[cfg(unix)]
#[test]
fn a_key_file_that_others_can_read_is_refused_with_the_remedy() {
    use std::os::unix::fs::PermissionsExt;

    let home = Home::new();
    home.key();
    let path = home.path().join("identity.key");
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o644)).unwrap();
    home.run(["key"]).failed(1, &["can be read by others", "chmod 600"]);
}

#[test]
fn a_malformed_line_is_named_with_its_file_and_number() {
    let home = Home::new();
    home.write("authorized_clients", "# fine\nnonsense\n");
    home.run(["clients"]).failed(1, &["authorized_clients:2:", "not a key", "remove that line"]);
    home.write("config.toml", "wait = \"5m\"\nrendevous = \"vps\"\n");
    home.run(["key"]).failed(2, &["config.toml", "rendevous", "rendezvous"]);
    home.write("config.toml", "wait = \n");
    home.run(["key"]).failed(2, &["config.toml", "line 1"]);
}

#[test]
fn an_option_goes_before_the_environment_and_that_before_the_file() {
    let home = Home::new();
    home.write("config.toml", "invite-ttl = \"3m\"\n");
    assert!(home.run(["invite", "myhost"]).err.contains("for 3m"));
    let home = home.with("PUNCHTUNNEL_INVITE_TTL", "4m");
    assert!(home.run(["invite", "myhost"]).err.contains("for 4m"));
    assert!(home.run(["invite", "myhost", "--invite-ttl", "5m"]).err.contains("for 5m"));
}

#[test]
fn quiet_prints_errors_only_and_json_prints_an_object_a_line() {
    let home = Home::new();
    assert_eq!(home.run(["-q", "invite", "myhost"]).err, "");
    let failed = home.run(["-q", "hosts", "remove", "x"]);
    failed.failed(1, &["is not in"]);
    let json = home.run(["--log-format", "json", "invite", "myhost"]);
    let line: serde_json::Value = serde_json::from_str(&json.err).expect("one object");
    assert_eq!(line["level"], "INFO");
    let failed = home.run(["--log-format", "json", "hosts", "remove", "x"]);
    let line: serde_json::Value = serde_json::from_str(&failed.err).expect("one object");
    assert_eq!((failed.code, &line["level"]), (1, &"ERROR".into()));
}

#[test]
fn a_reader_that_has_read_enough_is_no_error() {
    let home = Home::new();
    let key = home.key();
    home.write("known_hosts", &format!("myhost@vps:7862 {key}\n").repeat(5000));
    assert_eq!(home.run_without_reader(["hosts"]), 0);
}
