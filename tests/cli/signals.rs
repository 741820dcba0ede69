//! Being told to stop, at every stage: at once, with an exit code that says whether it was done, and with
//! a word to the other side.

use std::process::Stdio;

use rustix::process::Signal;

use crate::{
    harness::{Home, Running, Server, closed_port, echo_service},
    network::exposed,
};

const STOPS: [Signal; 3] = [Signal::INT, Signal::TERM, Signal::HUP];

#[test]
fn before_there_is_a_connection_stopping_is_silent_and_not_success() {
    let server = Server::start();
    let (client, key) = (server.home(), Home::new().key());
    let nowhere = format!("127.0.0.1:{}", closed_port());
    for signal in STOPS {
        for (rendezvous, stage) in [(&server.address, "waiting for"), (&nowhere, "asking")] {
            let words = ["connect", "nobody", "-L", "0", "--host-key", &key, "--rendezvous", rendezvous];
            let mut connect = Running::start(client.command(words));
            connect.line(stage);
            connect.signal(signal);
            let ended = connect.end();
            assert_eq!(ended.code, 1, "{signal:?} while {stage}: {ended:?}");
            assert!(!ended.err.contains("error"), "{ended:?}");
        }
    }
}

#[test]
fn an_invite_that_nobody_types_does_not_hold_the_program() {
    let (client, server) = (Home::new(), Server::start());
    let mut command = client.command(["connect", "myhost", "-L", "0", "--invite", "-"]);
    command.stdin(Stdio::piped()).env("PUNCHTUNNEL_RENDEZVOUS", &server.address);
    // Says that it has begun.
    command.env("RUST_LOG", "punchtunnel=trace");
    let mut connect = Running::start(command);
    let _held = connect.stdin();
    connect.line("reads the invite");
    connect.signal(Signal::INT);
    assert_eq!(connect.end().code, 1);
}

/// ssh hangs up on its proxy when it needs it no more; the host must not keep the session for that.
#[test]
fn a_hangup_is_a_goodbye_to_the_host() {
    let server = Server::start();
    let (host, client) = (server.home(), server.home());
    let echo = echo_service().to_string();
    let key = client.key();
    let mut expose = exposed(&server, &host, &[&echo, "--allow", &key]);
    let mut command = client.command(["connect", "myhost", "--stdio", "--host-key", &host.key()]);
    command.stdin(Stdio::piped());
    let mut connect = Running::start(command);
    let _held = connect.stdin();
    connect.line("connected directly");
    connect.signal(Signal::HUP);
    assert_eq!(connect.end().code, 1);
    expose.line("session ended: it was stopped there");
}

/// What `nohup` asked for.
#[cfg(target_os = "linux")]
#[test]
fn a_hangup_that_was_ignored_from_the_start_stays_ignored() {
    let server = Server::start();
    let host = server.home();
    let plain = host.command(["expose", "1", "--as", "myhost"]);
    let mut command = std::process::Command::new("nohup");
    command.arg(plain.get_program()).args(plain.get_args()).stdin(Stdio::null());
    for (name, value) in plain.get_envs() {
        match value {
            Some(value) => command.env(name, value),
            None => command.env_remove(name),
        };
    }
    let mut expose = Running::start(command);
    expose.line("registered as");
    expose.signal(Signal::HUP);
    // It still serves: a stranger is declined by it.
    let stranger = server.home();
    stranger
        .run(["connect", "myhost", "-L", "0", "--host-key", &host.key()])
        .failed(1, &["does not let this computer in"]);
    expose.terminate();
    assert_eq!(expose.end().code, 0);
}
