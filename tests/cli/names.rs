//! Whose a name is, and what `expose` does where it is somebody else's.

use std::{
    io::{Read, Write},
    net::TcpStream,
};

use crate::{
    harness::{Home, Running, Server, echo_service},
    network::{address_in, exposed},
};

#[test]
fn a_name_is_given_up_by_its_key_when_nobody_holds_it() {
    let server = Server::start();
    let (host, other) = (server.home(), server.home());
    let expose = exposed(&server, &host, &["1"]);
    host.run(["release", "myhost"]).failed(1, &["registered now", "stop the \"punchtunnel expose\""]);
    expose.terminate();
    assert_eq!(expose.end().code, 0);
    other.run(["release", "myhost"]).failed(1, &["belongs to another key"]);
    let released = host.run(["release", "myhost"]);
    released.succeeded();
    assert!(released.err.contains("\"myhost\" belongs to nobody"), "{released:?}");
    host.run(["release", "myhost"]).failed(1, &["belongs to nobody there"]);
    let _expose = exposed(&server, &other, &["1"]);
}

#[test]
fn a_name_belongs_to_the_key_that_registered_it_first() {
    let server = Server::start();
    let (first, second) = (server.home(), server.home());
    let _expose = exposed(&server, &first, &["1"]);
    let refused = second.run(["expose", "1", "--as", "myhost"]);
    refused.failed(1, &["belongs to another key", &server.address, "--as"]);
}

#[test]
fn a_second_run_with_the_same_key_takes_the_name_and_the_first_one_says_so() {
    let server = Server::start();
    let host = server.home();
    let first = exposed(&server, &host, &["1"]);
    let _second = exposed(&server, &host, &["1"]);
    first.end().failed(1, &["another \"punchtunnel expose\" with this key", "stop one of the two"]);
}

/// The server lost what it kept (but its key), and another key was quicker.
#[test]
fn expose_goes_on_with_its_sessions_where_the_server_has_given_its_name_to_somebody_else() {
    let (before, after) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let server = Server::start_in(Home::new(), &["--data", before.path().to_str().unwrap()]);
    let (host, client, killed) = (server.home(), server.home(), server.home());
    let (echo, keys) = (echo_service().to_string(), [client.key(), killed.key()]);
    let host_key = host.key();
    let mut expose = exposed(&server, &host, &[&echo, "--allow", &keys[0], "--allow", &keys[1]]);
    let words = ["connect", "myhost", "-L", "0", "--host-key", &host_key];
    let mut connect = Running::start(client.command(words));
    let address = address_in(&connect.line("listening on"));
    let mut second = Running::start(killed.command(words));
    second.line("listening on");
    let mut greeting = [0; 6];
    let mut old = TcpStream::connect(&address).unwrap();
    old.read_exact(&mut greeting).unwrap();

    // In the new store the name belongs to another key before the old host can ask.
    std::fs::copy(before.path().join("server.key"), after.path().join("server.key")).unwrap();
    let data = ["--data", after.path().to_str().unwrap()];
    let elsewhere = Server::start_in(Home::new(), &data);
    let other = exposed(&elsewhere, &elsewhere.home(), &["1"]);
    for process in [other, elsewhere.process, server.process] {
        process.terminate();
        assert_eq!(process.end().code, 0);
    }
    let _server = Server::start_in(Home::new(), &[&data[..], &["--listen", &server.address]].concat());
    // A link that is lost has the host look whether its server is still there.
    second.signal(rustix::process::Signal::KILL);
    let told = expose.line("belongs to another key");
    assert!(told.contains("\"myhost\"") && told.contains(&server.address), "{told}");
    assert!(told.contains("choose another with --as") && told.ends_with("trying on"), "{told}");

    // What was connected goes on: a stream that there was, and a new one.
    let mut new = TcpStream::connect(&address).unwrap();
    for (stream, expected) in [(&mut old, &b"words"[..]), (&mut new, &b"hello\nwords"[..])] {
        stream.write_all(b"words").unwrap();
        let mut heard = vec![0; expected.len()];
        stream.read_exact(&mut heard).unwrap();
        assert_eq!(heard, expected);
    }
    expose.terminate();
    assert_eq!(expose.end().code, 0);
}
