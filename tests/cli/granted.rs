//! Clients that may use some services only.

use std::{
    io::{ErrorKind, Read},
    net::TcpStream,
};

use crate::{
    harness::{Home, Running, Server, echo_service},
    network::{address_in, exposed},
};

/// A host with the services "first" and "second".
fn host(server: &Server, home: &Home, options: &[&str]) -> Running {
    let services = ["first", "second"].map(|label| format!("{label}={}", echo_service()));
    exposed(server, home, &[&[services[0].as_str(), services[1].as_str()], options].concat())
}

fn greeted(address: &str) -> TcpStream {
    let mut stream = TcpStream::connect(address).unwrap();
    let mut greeting = [0; 6];
    stream.read_exact(&mut greeting).unwrap();
    assert_eq!(&greeting, b"hello\n");
    stream
}

fn is_reset(mut stream: TcpStream) {
    assert_eq!(stream.read(&mut [0]).unwrap_err().kind(), ErrorKind::ConnectionReset);
}

#[test]
fn a_key_may_use_the_services_of_its_option_and_no_others_and_both_people_read_why() {
    let server = Server::start();
    let (home, client) = (server.home(), server.home());
    let allow = format!("{}=second,third", client.key());
    let mut expose = host(&server, &home, &["--allow", &allow]);
    let host_key = home.key();
    let connect = ["connect", "myhost", "--host-key", &host_key];
    let granted = client.run_with_input(connect.into_iter().chain(["--stdio=second"]), "words");
    granted.succeeded();
    assert_eq!(granted.out, "hello\nwords");
    for stdio in ["--stdio=first", "--stdio"] {
        let refused = client.run(connect.into_iter().chain([stdio]));
        refused.failed(1, &["may not use the service", "name one that it may use"]);
        expose.line("service first=");
    }
    // What is granted and not exposed is still not there.
    client.run(connect.into_iter().chain(["--stdio=third"])).failed(1, &["exposes no such service"]);

    let mut connect = Running::start(client.command(connect.into_iter().chain(["-L", "0:first"])));
    is_reset(TcpStream::connect(address_in(&connect.line("listening on"))).unwrap());
    connect.line("service first: this client may not use the service");
    let told = expose.line("not granted to it");
    assert!(told.contains(&format!("client {}", &client.key()[..8])), "{told}");
}

#[test]
fn a_grant_that_changes_holds_at_once_for_connections_that_run() {
    let server = Server::start();
    let (home, client) = (server.home(), server.home());
    let key = client.key();
    home.run(["clients", "add", &key, "laptop"]).succeeded();
    let mut expose = host(&server, &home, &[]);
    let host_key = home.key();
    let words = ["connect", "myhost", "--host-key", &host_key, "-L", "0:first", "-L", "0:second"];
    let mut connect = Running::start(client.command(words));
    let first = address_in(&connect.line("listening on"));
    let second = address_in(&connect.line("listening on"));
    let (one, two) = (greeted(&first), greeted(&second));

    let narrowed = home.run(["clients", "add", &key, "--services", "second"]);
    narrowed.succeeded();
    assert!(narrowed.err.contains("from now on, to second"), "{narrowed:?}");
    assert_eq!(home.run(["clients"]).out, format!("{key} services=second laptop\n"));
    is_reset(one);
    expose.line("client laptop: service first=");
    connect.line("service first: this client may not use the service");
    is_reset(TcpStream::connect(&first).unwrap());

    // The session lives, and so does the other connection; more may be granted while it does.
    home.run(["clients", "add", &key]).succeeded();
    drop(greeted(&first));
    drop((greeted(&second), two));
}

#[test]
fn an_invite_for_a_service_grants_no_other() {
    let server = Server::start();
    let (home, client) = (server.home(), server.home());
    let _expose = host(&server, &home, &[]);
    let code = home.run(["invite", "myhost", "--services", "second"]).out;
    let refused = client.run(["connect", "myhost", "--stdio=first", "--invite", &code]);
    refused.failed(1, &["may not use the service"]);
    assert!(home.run(["clients"]).out.starts_with(&format!("{} services=second invited to", client.key())));
    let granted = client.run_with_input(["connect", "myhost", "--stdio=second"], "words");
    assert_eq!(granted.out, "hello\nwords", "{granted:?}");
}
