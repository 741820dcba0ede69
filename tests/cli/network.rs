//! What needs a server, a host and a client, all on the loopback interface.

use std::{
    io::{Read, Write},
    net::{Shutdown, TcpListener, TcpStream},
};

use crate::harness::{Home, Running, Server, closed_port, echo_service};

/// A host that exposes `services` as "myhost" and is registered.
pub(crate) fn exposed(server: &Server, home: &Home, services: &[&str]) -> Running {
    let words = ["expose", "--as", "myhost"].iter().chain(services);
    let mut expose = Running::start(home.command(words));
    expose.line("registered as \"myhost\"");
    let _ = server;
    expose
}

/// The address behind "listening on".
pub(crate) fn address_in(line: &str) -> String {
    let mut words = line.split(' ').skip_while(|word| *word != "on");
    words.nth(1).expect("an address").to_owned()
}

#[cfg(unix)]
#[test]
fn a_private_server_serves_who_is_on_its_list_and_reads_it_again_when_told() {
    let (host, client) = (Home::new(), Home::new());
    let (host_key, client_key) = (host.key(), client.key());
    host.write("keys", &format!("# ours\n{host_key} home\n"));
    let list = host.path().join("keys");
    let mut server = Server::start_with(&["--allow-keys", list.to_str().expect("UTF-8")]);
    server.process.line("only the 1 key of");
    let (host, client) = (server.settle(&host), server.settle(&client));
    let _expose = exposed(&server, &host, &["1", "--allow", &client_key]);
    let connect = ["connect", "myhost", "--host-key", &host_key, "--stdio"];
    client.run(connect).failed(1, &["serves only keys that its operator has listed", &client_key]);

    host.write("keys", "no key at all\n");
    server.process.signal(rustix::process::Signal::HUP);
    server.process.line("nothing changes: ");
    host.write("keys", &format!("{host_key}\n{client_key} laptop\n"));
    server.process.signal(rustix::process::Signal::HUP);
    server.process.line("only the 2 keys of");
    // It gets through to the service now, which is not there.
    client.run(connect).failed(1, &["the service refused the connection"]);
}

#[cfg(unix)]
#[test]
fn the_four_lines_and_an_invite_make_a_tunnel() {
    let server = Server::start();
    let (host, client) = (server.home(), server.home());
    let echo = echo_service().to_string();
    let mut expose = Running::start(host.command(["expose", &echo, "--as", "myhost"]));
    expose.line("nobody is let in yet: \"punchtunnel invite myhost\"");
    expose.line("registered as \"myhost\"");
    let code = host.run(["invite", "myhost"]).out;

    let client_key = client.key();
    let invited = client.with("PUNCHTUNNEL_INVITE", &code);
    let mut connect = Running::start(invited.command(["connect", "myhost", "-L", "0"]));
    connect.line("NAT found");
    connect.line("connected directly to 127.0.0.1:");
    let address = address_in(&connect.line("listening on"));
    let mut stream = TcpStream::connect(address).unwrap();
    stream.write_all(b"and back").unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    assert_eq!(text, "hello\nand back");

    // Each side has written the other's key down; the invite is used up.
    assert!(host.run(["clients"]).out.starts_with(&client_key));
    assert!(client.run(["hosts"]).out.contains(&host.key()));
    connect.terminate();
    assert_eq!(connect.end().code, 0);
    let stranger = server.home();
    stranger
        .run(["connect", "myhost", "-L", "0", "--invite", &code])
        .failed(1, &["does not take this invite", "used", "punchtunnel invite myhost"]);

    // The client that is known needs no invite, and one that is used up does not stop it.
    let again = invited.run_with_input(["connect", "myhost", "--stdio"], "once more");
    again.succeeded();
    assert_eq!(again.out, "hello\nonce more");
    assert!(again.err.contains("going on without it"), "{}", again.err);

    expose.terminate();
    assert_eq!(expose.end().code, 0);
    server.process.terminate();
    assert_eq!(server.process.end().code, 0);
}

#[test]
fn keys_on_both_command_lines_do_without_invites_and_services_go_by_label() {
    let server = Server::start();
    let (host, client) = (server.home(), server.home());
    let (nowhere, echo) = (closed_port().to_string(), format!("echo={}", echo_service()));
    let key = client.key();
    let mut expose = exposed(&server, &host, &[&nowhere, &echo, "--allow", &key]);
    let host_key = host.key();
    let connect = ["connect", "myhost", "--host-key", &host_key];
    let carried = client.run_with_input(connect.into_iter().chain(["--stdio=echo"]), "words");
    carried.succeeded();
    assert_eq!(carried.out, "hello\nwords");

    // The first service is the one that refuses.
    let refused = client.run(connect.into_iter().chain(["--stdio"]));
    refused.failed(1, &["the service refused the connection", "is it running there"]);
    let nothing = client.run(connect.into_iter().chain(["--stdio=web"]));
    nothing.failed(1, &["exposes no such service", "label or port that was exposed"]);

    // A program on a local port sees a reset, and both people a line.
    let mut connect = Running::start(client.command(connect.into_iter().chain(["-L", "0"])));
    let address = address_in(&connect.line("listening on"));
    let mut stream = TcpStream::connect(address).unwrap();
    assert_eq!(stream.read(&mut [0]).unwrap_err().kind(), std::io::ErrorKind::ConnectionReset);
    connect.line("the service refused the connection");
    expose.line(&format!("service {nowhere}: the service refused the connection"));
}

#[test]
fn a_client_that_is_not_authorised_is_told_its_key_and_what_to_do() {
    let server = Server::start();
    let (host, client) = (server.home(), server.home());
    let _expose = exposed(&server, &host, &["1"]);
    let refused = client.run(["connect", "myhost", "-L", "0", "--host-key", &host.key()]);
    refused.failed(1, &["does not let this computer in", "punchtunnel invite myhost", &client.key()]);
}

#[test]
fn an_invite_with_another_secret_proves_nothing() {
    let server = Server::start();
    let (host, client) = (server.home(), server.home());
    let _expose = exposed(&server, &host, &["1"]);
    let code = host.run(["invite", "myhost"]).out;
    // The host forgets the secret and has another one under the same public part.
    let invites = host.read("invites");
    let line = invites.lines().last().expect("an invite");
    let fields: Vec<_> = line.split(' ').collect();
    let other = line.replace(fields[2], "aaaaaaaaaaaaaaaaaaaaaaaaaa");
    host.write("invites", &format!("{other}\n"));
    let refused = client.run(["connect", "myhost", "-L", "0", "--invite", &code]);
    refused.failed(1, &["does not take this invite", "for a new one"]);
    assert_eq!(host.run(["clients"]).out, "", "nobody was let in");
    assert_eq!(client.run(["hosts"]).out, "", "nothing was written down");
}

#[test]
fn a_changed_host_key_is_refused_in_the_words_of_ssh() {
    let server = Server::start();
    let (host, client, other) = (server.home(), server.home(), Home::new());
    let key = client.key();
    let _expose = exposed(&server, &host, &["1", "--allow", &key]);
    client.write("known_hosts", &format!("# mine\nmyhost@{} {}\n", server.address, other.key()));
    let refused = client.run(["connect", "myhost", "-L", "0"]);
    refused.failed(
        1,
        &["REMOTE HOST IDENTIFICATION HAS CHANGED", "line 2 of", "known_hosts", "hosts remove myhost"],
    );
    let named = client.run(["connect", "myhost", "-L", "0", "--host-key", &host.key()]);
    named.failed(1, &["REMOTE HOST IDENTIFICATION HAS CHANGED", &host.key(), "line 2 of"]);
}

#[test]
fn a_changed_server_key_is_refused_with_the_line_to_remove() {
    let server = Server::start();
    let (home, other) = (server.home(), Home::new());
    home.write("known_servers", &format!("{} {}\n", server.address, other.key()));
    let refused = home.run(["expose", "1", "--as", "myhost"]);
    refused.failed(1, &["IDENTIFICATION HAS CHANGED", &server.address, "line 1 of", "known_servers"]);
    let named = format!("{}#{}", server.address, other.key());
    let refused = server.home().run(["expose", "1", "--as", "myhost", "--rendezvous", &named]);
    refused.failed(1, &["IDENTIFICATION HAS CHANGED", "behind the #"]);
}

#[test]
fn a_host_that_does_not_come_ends_connect_and_the_message_says_what_is_known_of_it() {
    let server = Server::start();
    let (client, key) = (server.home(), Home::new().key());
    let gone = client.run(["connect", "nobody", "-L", "0", "--host-key", &key, "--wait", "1s"]);
    gone.failed(1, &["waiting for \"nobody\"", "did not appear within 1s", "never heard of it"]);
}

#[test]
fn without_a_server_connect_gives_up_and_expose_does_not() {
    let (client, host, key) = (Home::new(), Home::new(), Home::new().key());
    // A port that was free a moment ago; nobody answers there.
    let nowhere = format!("127.0.0.1:{}", closed_port());
    let mut expose =
        Running::start(host.command(["expose", "1", "--as", "myhost", "--rendezvous", &nowhere]));
    let words = ["connect", "myhost", "-L", "0", "--host-key", &key, "--rendezvous", &nowhere];
    client.run(words).failed(1, &[&nowhere, "has not answered for 10s", "punchtunnel rendezvous"]);
    expose.line("trying on");
}

#[test]
fn a_port_that_is_taken_is_an_error_at_once() {
    let (home, key) = (Home::new(), Home::new().key());
    let holder = TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = holder.local_addr().unwrap();
    let port = taken.port().to_string();
    let words = ["connect", "myhost", "-L", &port, "--host-key", &key, "--rendezvous", "127.0.0.1:1"];
    home.run(words).failed(1, &[&taken.to_string(), "another program has this port", "choose another"]);
    let listen = taken.to_string();
    let server = home.run(["rendezvous", "--listen", &listen, "--probe-port", "0"]);
    server.failed(1, &[&listen, "another program has this port"]);
}

#[test]
fn a_server_without_an_address_is_named() {
    let (home, key) = (Home::new(), Home::new().key());
    let words = ["connect", "myhost", "-L", "0", "--host-key", &key, "--rendezvous", "nowhere.invalid"];
    home.run(words).failed(1, &["cannot find the address of nowhere.invalid:7862", "online"]);
}

#[test]
fn the_demo_passes_and_leaves_nothing_behind() {
    let home = Home::new();
    let temporary = tempfile::tempdir().unwrap();
    let mut command = home.command(["demo", "--megabytes", "8"]);
    let demo = Running::start({
        command.env("TMPDIR", temporary.path());
        command
    });
    let demo = demo.end();
    demo.succeeded();
    for words in ["host registered", "connected directly", "link reset in the middle", "SHA-256", "in all"] {
        assert!(demo.out.contains(words), "{demo:?} lacks {words:?}");
    }
    assert_eq!(std::fs::read_dir(temporary.path()).unwrap().count(), 0);
}

#[test]
fn an_invite_is_the_first_line_of_standard_input_and_the_rest_is_payload() {
    let server = Server::start();
    let (host, client) = (server.home(), server.home());
    let echo = echo_service().to_string();
    let _expose = exposed(&server, &host, &[&echo]);
    let code = host.run(["invite", "myhost"]).out;
    let carried =
        client.run_with_input(["connect", "myhost", "--stdio", "--invite", "-"], &format!("{code}payload"));
    carried.succeeded();
    assert_eq!(carried.out, "hello\npayload");
}

#[cfg(unix)]
#[test]
fn a_host_that_is_started_anew_is_found_again_and_the_local_port_stays() {
    let server = Server::start();
    let (host, client) = (server.home(), server.home());
    let (echo, key) = (echo_service().to_string(), client.key());
    let host_key = host.key();
    let expose = exposed(&server, &host, &[&echo, "--allow", &key]);
    let words = ["connect", "myhost", "-L", "0", "--host-key", &host_key];
    let mut connect = Running::start(client.command(words));
    let address = address_in(&connect.line("listening on"));
    expose.terminate();
    assert_eq!(expose.end().code, 0);
    connect.line("\"myhost\" was stopped: connections are reset");
    connect.line("waiting for \"myhost\"");
    // Who connects meanwhile waits.
    let mut stream = TcpStream::connect(address).unwrap();
    let _expose = exposed(&server, &host, &[&echo, "--allow", &key]);
    stream.shutdown(Shutdown::Write).unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    assert_eq!(text, "hello\n");
}

#[test]
fn a_server_key_on_the_command_line_is_pinned_once_it_is_proved() {
    let server = Server::start();
    let host = server.home();
    // The server's own key, as it prints it.
    let probe = server.home();
    let _pinning = exposed(&server, &probe, &["1"]);
    let pin = probe.read("known_servers");
    let key = pin.trim_end().rsplit(' ').next().expect("a key").to_owned();
    let named = format!("{}#{key}", server.address);
    let mut expose = Running::start(host.command(["expose", "1", "--as", "other", "--rendezvous", &named]));
    expose.line("registered as \"other\"");
    assert_eq!(host.read("known_servers"), pin);
}

#[test]
fn doctor_tells_what_it_found_line_by_line_or_as_one_object() {
    let server = Server::start();
    let home = server.home();
    let told = home.run(["doctor"]);
    told.succeeded();
    for words in
        ["[ OK ] udp: 127.0.0.1:", "[ OK ] tcp: 8 of 8", "without a NAT", "[ OK ] direct connections:"]
    {
        assert!(told.out.contains(words), "{told:?} lacks {words:?}");
    }
    let quiet = home.run(["-q", "doctor", "--json", "--punch-effort", "high"]);
    quiet.succeeded();
    assert_eq!(quiet.err, "");
    let object: serde_json::Value = serde_json::from_str(&quiet.out).expect("one object");
    assert_eq!(object["direct"], true);
    let family = &object["families"][0];
    assert_eq!(family["family"], "ipv4");
    assert_eq!(family["behind_nat"], false);
    assert_eq!(family["nat"]["mapping"], "endpoint_independent");
    assert_eq!(family["nat"]["filtering"], "address_dependent");
    assert_eq!(family["nat"]["ports"]["kind"], "fixed");
    assert_eq!(family["nat"]["simultaneous_open"], true);
    assert_eq!(family["udp"]["mapping"], "endpoint_independent");
    assert_eq!(family["expected_success"]["fixed"], 99);
}

#[test]
fn doctor_with_a_name_connects_and_the_next_time_it_is_known_what_worked() {
    let server = Server::start();
    let (host, client) = (server.home(), server.home());
    let key = client.key();
    let _expose = exposed(&server, &host, &["1", "--allow", &key]);
    client.run(["doctor", "myhost"]).failed(2, &["not known", "--host-key"]);
    let words = ["doctor", "myhost", "--host-key", &host.key()];
    let first = client.run(words);
    first.succeeded();
    for words in [
        "[ OK ] other side: the NAT of \"myhost\"",
        "[ OK ] plan: fixed to fixed",
        "[ OK ] trial: connected directly",
    ] {
        assert!(first.out.contains(words), "{first:?} lacks {words:?}");
    }
    assert!(!first.out.contains("last time"), "{first:?}");
    let worked = client.read("worked");
    assert!(
        worked.starts_with(&format!("127.0.0.0/24 myhost@{} fixed fixed 1 ", server.address)),
        "{worked}"
    );
    let second = client.run(words);
    assert!(second.out.contains("[ OK ] last time: from 127.0.0.0/24 to myhost"), "{second:?}");
}

#[test]
fn punch_ports_that_are_given_are_used_and_one_that_is_taken_is_an_error_at_once() {
    let server = Server::start();
    let (host, client) = (server.home(), server.home());
    let (echo, key) = (echo_service().to_string(), client.key());
    let _expose = exposed(&server, &host, &[&echo, "--allow", &key]);
    let holder = TcpListener::bind("0.0.0.0:0").unwrap();
    let taken = holder.local_addr().unwrap().port().to_string();
    let host_key = host.key();
    let words = ["connect", "myhost", "-L", "0", "--host-key", &host_key, "--punch-port"];
    let refused = client.run(words.into_iter().chain([taken.as_str()]));
    refused.failed(1, &["cannot listen on 0.0.0.0:", &taken, "another program has this port"]);
    drop(holder);
    // Free a moment ago; nobody else on this machine takes a port by its number.
    let mut connect = Running::start(client.with("PUNCHTUNNEL_PUNCH_PORT", &taken).command(&words[..6]));
    connect.line("--punch-port gives 1 port to punch from, which is few");
    connect.line("connected directly to 127.0.0.1:");
    let address = address_in(&connect.line("listening on"));
    let mut stream = TcpStream::connect(address).unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    assert_eq!(text, "hello\n");
}

#[cfg(unix)]
#[test]
fn what_was_opened_is_told_line_by_line_to_those_who_want_to_know() {
    let server = Server::start();
    let (host, client) = (server.home(), server.home());
    let key = client.key();
    let mut expose = Running::start(host.command(["-v", "expose", "1", "--as", "myhost", "--allow", &key]));
    expose.line("registered as");
    let words = ["-v", "connect", "myhost", "-L", "0", "--host-key", &host.key()];
    let mut connect = Running::start(client.command(words));
    let mut told = 0;
    for party in [&mut connect, &mut expose] {
        let heading = party.line("attempt 1, round 1: ");
        // A side that the machine was slow to serve had opened nothing by then.
        if heading.contains("before any of this side's left") {
            continue;
        }
        assert!(heading.contains(", counted from the agreed instant"), "{heading}");
        let syn = party.line("from port");
        assert!(syn.contains(" ms  from port ") && syn.contains(" to 127.0.0.1:"), "{syn}");
        told += 1;
    }
    assert!(told > 0, "no connection comes of no SYN");
    let mut plain = Running::start(client.command(&words[1..]));
    plain.line("listening on");
    plain.terminate();
    let told = plain.end();
    assert!(!told.err.contains("from port"), "{told:?}");
}

#[test]
fn a_further_server_that_is_dead_harms_nobody() {
    let server = Server::start();
    let servers = format!("{},127.0.0.1:{}", server.address, closed_port());
    let (host, client) = (Home::new().with("PUNCHTUNNEL_RENDEZVOUS", &servers), Home::new());
    let (echo, key) = (echo_service().to_string(), client.key());
    let _expose = exposed(&server, &host, &[&echo, "--allow", &key]);
    let further = format!("127.0.0.1:{}", closed_port());
    client.write("config.toml", &format!("rendezvous = [\"{}\", \"{further}\"]", server.address));
    let carried = client.run_with_input(["connect", "myhost", "--stdio", "--host-key", &host.key()], "words");
    carried.succeeded();
    assert_eq!(carried.out, "hello\nwords");
}

#[test]
fn doctor_without_a_server_ends_with_code_1_and_says_what_to_look_at() {
    let home = Home::new();
    let nowhere = format!("127.0.0.1:{}", closed_port());
    let told = home.run(["doctor", "--rendezvous", &nowhere, "--probe-server", &nowhere]);
    assert_eq!(told.code, 1, "{told:?}");
    for words in
        ["[WARN] udp:", "[FAIL] tcp: none of 4", "-> check that \"punchtunnel rendezvous\" runs there"]
    {
        assert!(told.out.contains(words), "{told:?} lacks {words:?}");
    }
}
