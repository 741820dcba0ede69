//! How it stands: asked with `status`, and said when a link is lost and comes back.

use std::{
    fs,
    io::{BufRead, BufReader, ErrorKind, Read, Write},
    net::TcpStream,
    os::unix::fs::PermissionsExt,
    path::PathBuf,
    process::Stdio,
};

use rustix::process::Signal;
use serde_json::Value;

use crate::{
    harness::{Home, Running, Server, echo_service},
    network::{address_in, exposed},
};

/// A host whose service is an echo, and a client of it with further options.
struct Pair {
    server: Server,
    host: Home,
    client: Home,
    expose: Running,
    connect: Running,
    /// Where the client listens.
    address: String,
}

impl Pair {
    fn start(options: &[&str]) -> Pair {
        let server = Server::start();
        let (host, client) = (server.home(), server.home());
        let (echo, key) = (echo_service().to_string(), client.key());
        host.run(["clients", "add", &key, "my", "laptop"]).succeeded();
        let expose = exposed(&server, &host, &[&echo]);
        let host_key = host.key();
        let words = ["connect", "myhost", "-L", "0", "--host-key", &host_key];
        let mut connect = Running::start(client.command(words.into_iter().chain(options.iter().copied())));
        let address = address_in(&connect.line("listening on"));
        Pair { server, host, client, expose, connect, address }
    }

    /// A connection that the service has greeted.
    fn greeted(&self) -> TcpStream {
        let mut stream = TcpStream::connect(&self.address).unwrap();
        let mut greeting = [0; 6];
        stream.read_exact(&mut greeting).unwrap();
        assert_eq!(&greeting, b"hello\n");
        stream
    }
}

/// The answer of `status --json`.
fn status(home: &Home, words: &[&str]) -> Vec<Value> {
    let ran = home.run(["status", "--json"].iter().chain(words));
    ran.succeeded();
    assert_eq!(ran.out.lines().count(), 1, "{ran:?}");
    let answer: Value = serde_json::from_str(&ran.out).expect("JSON");
    answer["processes"].as_array().expect("a list").clone()
}

fn sockets(home: &Home) -> Vec<PathBuf> {
    let entries = fs::read_dir(home.path().join("run")).expect("a directory");
    entries.map(|entry| entry.expect("an entry").path()).collect()
}

#[test]
fn where_nothing_runs_status_says_so_and_fails() {
    let home = Home::new();
    home.run(["status"]).failed(1, &["nothing runs", "punchtunnel expose", "PUNCHTUNNEL_HOME"]);
    home.run(["status", "myhost", "--json", "--watch"]).failed(1, &["nothing runs for \"myhost\""]);
}

#[test]
fn both_sides_tell_how_it_stands() {
    let pair = Pair::start(&[]);
    let mut stream = pair.greeted();
    stream.write_all(b"sixteen bytes...").unwrap();
    stream.read_exact(&mut [0; 16]).unwrap();

    let found = status(&pair.client, &["myhost"]);
    let [client] = &found[..] else { panic!("{found:?}") };
    assert_eq!((&client["role"], &client["name"]), (&"connect".into(), &"myhost".into()));
    assert_eq!(client["server"]["name"], pair.server.address.as_str());
    assert_eq!((&client["server"]["reached"], &client["server"]["by"]), (&true.into(), &"udp".into()));
    assert_eq!(client["nat"][0]["address"], "127.0.0.1");
    let session = &client["sessions"][0];
    assert_eq!((&session["key"], &session["label"]), (&pair.host.key().into(), &"myhost".into()));
    assert_eq!((&session["link"]["up"], &session["link"]["epoch"]), (&true.into(), &1.into()));
    assert_eq!(
        (&session["links"], &session["repunches"], &session["streams"]),
        (&1.into(), &0.into(), &1.into())
    );
    assert!(session["link"]["remote"].as_str().is_some_and(|a| a.starts_with("127.0.0.1:")), "{session}");
    assert!(session["link"]["round_trip_ms"].as_f64().is_some_and(|rtt| rtt > 0.0), "{session}");
    assert!(session["bytes_sent"].as_u64() > Some(16), "{session}");

    let found = status(&pair.host, &[]);
    let [host] = &found[..] else { panic!("{found:?}") };
    assert_eq!((&host["role"], &host["server"]["registered"]), (&"expose".into(), &true.into()));
    let session = &host["sessions"][0];
    assert_eq!((&session["key"], &session["label"]), (&pair.client.key().into(), &"my laptop".into()));
    assert_eq!((&session["link"]["up"], &session["streams"]), (&true.into(), &1.into()));

    let words = pair.host.run(["status"]);
    words.succeeded();
    for said in
        ["expose myhost, process ", "registered", "session  my laptop, key ", "up for ", "streams  1 open"]
    {
        assert!(words.out.contains(said), "{:?} lacks {said:?}", words.out);
    }
    pair.host.run(["status", "other"]).failed(1, &["nothing runs for \"other\""]);
}

#[test]
fn only_the_owner_can_ask_and_a_socket_goes_with_its_program_or_with_the_next_look() {
    let server = Server::start();
    let home = server.home();
    let first = exposed(&server, &home, &["1"]);
    let key = home.key();
    let words = ["connect", "nobody", "-L", "0", "--host-key", &key];
    let mut waiting: Vec<_> = (0..2).map(|_| Running::start(home.command(words))).collect();
    waiting.iter_mut().for_each(|connect| drop(connect.line("waiting for \"nobody\"")));
    assert_eq!(status(&home, &[]).len(), 3);
    assert_eq!(status(&home, &["nobody"]).len(), 2, "two of one name do not clash");
    assert!(home.run(["status", "nobody"]).out.contains("waiting for \"nobody\" to appear"));

    let mode = |path: &PathBuf| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&home.path().join("run")), 0o700);
    let found = sockets(&home);
    assert!(found.len() == 3 && found.iter().all(|socket| mode(socket) == 0o600), "{found:?}");

    first.signal(Signal::TERM);
    first.end().succeeded();
    assert_eq!(sockets(&home).len(), 2, "it has removed its own");
    // Killed: it removes nothing.
    drop(waiting.pop());
    assert_eq!(sockets(&home).len(), 2);
    assert_eq!(status(&home, &[]).len(), 1);
    assert_eq!(sockets(&home).len(), 1);
}

#[test]
fn a_program_with_a_long_path_can_be_asked_and_one_that_hangs_is_told_as_such() {
    let server = Server::start();
    let home = server.home();
    let directory = home.path().join("a".repeat(60)).join("b".repeat(60));
    fs::create_dir_all(&directory).unwrap();
    let home = home.with("PUNCHTUNNEL_HOME", directory.to_str().expect("UTF-8"));
    let expose = exposed(&server, &home, &["1"]);
    assert_eq!(status(&home, &["myhost"])[0]["server"]["registered"], true);
    expose.signal(Signal::STOP);
    let hangs = home.run(["status"]);
    hangs.succeeded();
    assert!(hangs.out.contains("does not say how it stands: timed out"), "{hangs:?}");
    assert_eq!(status(&home, &[])[0]["error"], "timed out");
}

#[test]
fn what_is_no_question_is_answered_with_the_right_one() {
    let server = Server::start();
    let home = server.home();
    let _expose = exposed(&server, &home, &["1"]);
    for asked in ["nonsense\n", "{\"ask\":\"everything\"}\n", &"x".repeat(100_000)] {
        let mut socket = std::os::unix::net::UnixStream::connect(&sockets(&home)[0]).unwrap();
        // It may have heard enough before the end.
        let _ = socket.write_all(asked.as_bytes());
        let mut answer = String::new();
        let _ = socket.read_to_string(&mut answer);
        assert!(answer.starts_with("{\"error\":") || asked.len() > 1024, "{answer:?}");
    }
    assert_eq!(status(&home, &[]).len(), 1);
}

#[test]
fn watch_prints_again_and_again_until_it_is_told_to_stop() {
    let pair = Pair::start(&[]);
    let mut watch = pair.client.command(["status", "--watch", "--json"]);
    let mut watch = watch.stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(watch.stdout.take().unwrap()).lines();
    for _ in 0..2 {
        let line: Value = serde_json::from_str(&lines.next().unwrap().unwrap()).unwrap();
        assert_eq!(line["processes"][0]["sessions"][0]["link"]["up"], true);
    }
    let id = rustix::process::Pid::from_child(&watch);
    rustix::process::kill_process(id, Signal::TERM).unwrap();
    assert_eq!(watch.wait().unwrap().code(), Some(0));

    // A reader that has read enough ends it too.
    let mut watch = pair.client.command(["status", "--watch"]).stdout(Stdio::piped()).spawn().unwrap();
    drop(watch.stdout.take());
    assert_eq!(watch.wait().unwrap().code(), Some(0));
}

#[test]
fn a_link_that_falls_silent_is_told_with_what_is_done_about_it_and_when_it_is_back() {
    let mut pair = Pair::start(&["--dead-after", "300ms"]);
    let mut stream = pair.greeted();
    pair.expose.signal(Signal::STOP);
    let lost = pair.connect.line("link lost");
    assert!(lost.starts_with("link lost: silent for 0."), "{lost}");
    assert!(lost.ends_with("; punching again"), "{lost}");
    let session = &status(&pair.client, &[])[0]["sessions"][0];
    assert_eq!((&session["link"]["up"], &session["repunches"]), (&false.into(), &1.into()), "{session}");
    assert!(session["link"]["why"].is_string() && session["streams"] == 1, "{session}");
    let words = pair.client.run(["status"]).out;
    assert!(words.contains("link     none for "), "{words}");

    // Written while there is no link.
    stream.write_all(b"still here").unwrap();
    pair.expose.signal(Signal::CONT);
    let back = pair.connect.line("back after ");
    assert!(back.contains("s, 1 connection kept: directly to 127.0.0.1:"), "{back}");
    // The host may have the new link before it notices that the old one is gone.
    pair.expose.line("client my laptop: connected directly");
    let back = pair.expose.line("directly to");
    assert!(["back after", "connected again"].iter().any(|words| back.contains(words)), "{back}");
    let mut text = [0; 10];
    stream.read_exact(&mut text).unwrap();
    assert_eq!(&text, b"still here");
    let session = &status(&pair.client, &[])[0]["sessions"][0];
    assert!(
        session["links"].as_u64() >= Some(2) && session["longest_outage_ms"].as_u64() > Some(0),
        "{session}"
    );
}

#[test]
fn a_client_gives_up_when_there_has_been_no_connection_for_as_long_as_was_said() {
    let client = Home::new();
    client.write("config.toml", "give-up-after = \"1s\"\n");
    let pair = Pair::start(&["--dead-after", "300ms", "--give-up-after", "1s"]);
    pair.expose.signal(Signal::STOP);
    let ended = pair.connect.end();
    assert_eq!(ended.code, 1, "{ended:?}");
    let said = "no connection to \"myhost\" for 1s (--give-up-after)";
    assert!(ended.err.contains(said), "{ended:?}");

    // Also where there never was one, and from the configuration file.
    let (server, key) = (Server::start(), Home::new().key());
    let words = ["connect", "nobody", "-L", "0", "--host-key", &key, "--rendezvous", &server.address];
    client.run(words).failed(1, &["no connection to \"nobody\" for 1s"]);
}

#[test]
fn a_session_that_lingered_out_resets_its_connections_and_new_ones_work() {
    let mut pair = Pair::start(&["--dead-after", "300ms", "--linger", "700ms"]);
    let mut stream = pair.greeted();
    pair.expose.signal(Signal::STOP);
    pair.connect.line("link lost: silent");
    // Not an end of file, which would say that everything has been sent.
    assert_eq!(stream.read(&mut [0]).unwrap_err().kind(), ErrorKind::ConnectionReset);
    pair.connect.line("no connection to \"myhost\" for longer than --linger: connections are reset");
    pair.expose.signal(Signal::CONT);
    pair.connect.line("connected directly");
    drop(pair.greeted());
}

#[test]
fn a_client_that_is_removed_is_out_at_once_and_the_others_stay() {
    let mut pair = Pair::start(&[]);
    let other = pair.server.home();
    pair.host.run(["clients", "add", &other.key()]).succeeded();
    let host_key = pair.host.key();
    let mut stays = Running::start(other.command(["connect", "myhost", "-L", "0", "--host-key", &host_key]));
    let address = address_in(&stays.line("listening on"));

    let mut stream = pair.greeted();
    pair.host.run(["clients", "remove", &pair.client.key()]).succeeded();
    assert_eq!(stream.read(&mut [0]).unwrap_err().kind(), ErrorKind::ConnectionReset);
    pair.expose.line("session ended: its key is not in authorized_clients any more");
    let ended = pair.connect.end();
    assert_eq!(ended.code, 1, "{ended:?}");
    assert!(ended.err.contains("not authorised there any more"), "{ended:?}");

    let mut stream = TcpStream::connect(address).unwrap();
    stream.read_exact(&mut [0; 6]).unwrap();
    assert_eq!(status(&pair.host, &[])[0]["sessions"].as_array().map(Vec::len), Some(1));
    // A file that nobody can read ends nobody's session.
    pair.host.write("authorized_clients", "nonsense\n");
    pair.expose.line("sessions go on");
    stream.write_all(b"me too").unwrap();
    stream.read_exact(&mut [0; 6]).unwrap();
}

#[test]
fn times_that_make_no_sense_are_wrong_usage() {
    let home = Home::new();
    for (option, value, says) in [
        ("--dead-after", "50ms", "100ms to 24h"),
        ("--dead-after", "forever", "100ms to 24h"),
        ("--give-up-after", "never", "90s"),
    ] {
        let words = ["connect", "myhost", "-L", "0", "--rendezvous", "vps", option, value];
        home.run(words).failed(2, &[says]);
    }
}
