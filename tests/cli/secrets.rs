//! Secrets stay where they belong: not in what is printed, not in core dumps, not in files that others can read, and
//! what others can change is not believed.

use std::{
    fs::{self, Permissions},
    os::unix::{
        fs::{MetadataExt, PermissionsExt},
        process::{CommandExt, ExitStatusExt},
    },
    path::Path,
    process::{Command, Stdio},
};

use crate::{
    harness::{Home, Running, Server, echo_service},
    network::exposed,
};

/// Everything that the bytes of a secret could look like in a text.
fn written(secret: &[u8]) -> Vec<String> {
    use data_encoding::{BASE32_NOPAD, BASE64_NOPAD, HEXLOWER};
    let numbers = |separator: &str| secret.iter().map(u8::to_string).collect::<Vec<_>>().join(separator);
    let lines = format!("{secret:#?}");
    let hex_bytes: Vec<_> = secret.iter().map(|byte| format!("{byte:02x}")).collect();
    let texts =
        [BASE32_NOPAD.encode(secret), HEXLOWER.encode(secret), hex_bytes.join(":"), hex_bytes.join(" ")];
    let lower = texts.iter().map(|text| text.to_lowercase());
    // Half of one is too much.
    let halves =
        lower.flat_map(|text| [text[..text.len() / 2].to_owned(), text[text.len() / 2..].to_owned()]);
    let base64 = BASE64_NOPAD.encode(secret).to_lowercase();
    halves.chain([base64[..20].to_owned(), numbers(", "), numbers(","), numbers(" "), lines]).collect()
}

fn base32(text: &str) -> Vec<u8> {
    data_encoding::BASE32_NOPAD.decode(text.to_uppercase().as_bytes()).expect("base32")
}

/// The bytes of the secret in `identity.key`.
fn private_key(home: &Home) -> Vec<u8> {
    base32(home.read("identity.key").lines().last().expect("a key"))
}

#[test]
fn no_secret_is_in_anything_that_is_printed_however_much_is_asked_for() {
    let told = |home: Home| home.with("RUST_LOG", "trace");
    let server = Server::start_traced();
    let (host, client) = (told(server.home()), told(server.home()));
    let echo = echo_service().to_string();
    let mut expose = Running::start(host.command(["-vv", "expose", &echo, "--as", "myhost"]));
    expose.line("registered as");
    let code = host.run(["-vv", "invite", "myhost"]);
    let invites = host.read("invites");
    let invited = client.with("PUNCHTUNNEL_INVITE", &code.out);
    let connected = invited.run_with_input(["-vv", "connect", "myhost", "--stdio"], "words");
    assert_eq!(connected.out, "hello\nwords", "{connected:?}");
    // Used up, so that it is told why it is of no use any more.
    let again =
        invited.run_with_input(["-vv", "--log-format", "json", "connect", "myhost", "--stdio"], "words");
    again.succeeded();
    // The environment, for a person; the input, for a script; the option, which is theirs to choose.
    let refused = server.home().with("RUST_LOG", "trace");
    let refused = [
        refused.run_with_input(["-vv", "connect", "myhost", "--stdio", "--invite", "-"], &code.out),
        refused.run(["-vv", "connect", "myhost", "--stdio", "--invite", code.out.trim_end()]),
    ];
    expose.terminate();
    server.process.terminate();
    let said = [code.err, connected.err, again.err, expose.end().err, server.process.end().err].join("\n")
        + &refused.map(|ran| ran.err).join("\n");
    let said = said.to_lowercase();
    assert!(said.matches(" debug ").count() > 20, "they were told to say everything: {said}");

    let line = invites.lines().last().expect("an invite");
    let fields: Vec<_> = line.split(' ').collect();
    let mut secrets = written(&private_key(&host));
    secrets.extend(written(&private_key(&client)));
    secrets.extend(written(&base32(fields[2])));
    // The code as it is typed: all behind its public part, which is 7 symbols long and may be told.
    let shown = code.out.trim_end().to_owned();
    let plain = shown.replace('-', "");
    secrets.extend([shown[12..23].into(), shown[24..].into(), plain[10..20].into(), plain[22..].into()]);
    for secret in secrets {
        assert!(!said.contains(&secret), "{secret} in what was said:\n{said}");
    }
}

#[test]
fn a_program_that_crashes_leaves_no_core_and_nobody_but_root_looks_into_one_that_runs() {
    let server = Server::start();
    let home = server.home();
    let expose = exposed(&server, &home, &["1"]);
    let process = format!("/proc/{}", expose.id());
    if Path::new(&process).is_dir() {
        let limits = fs::read_to_string(format!("{process}/limits")).unwrap();
        let core = limits.lines().find(|line| line.starts_with("Max core file size")).expect("a limit");
        assert_eq!(core.split_whitespace().skip(4).take(2).collect::<Vec<_>>(), ["0", "0"], "{core}");
    }
    expose.signal(rustix::process::Signal::ABORT);
    let status = expose.ended();
    assert_eq!(status.signal(), Some(6), "{status:?}");
    assert!(!status.core_dumped(), "{status:?}");
}

/// What is not dumpable belongs to root in `/proc`, so that its user cannot open it.
#[cfg(target_os = "linux")]
#[test]
fn the_memory_and_the_environment_of_a_running_program_are_roots() {
    // Somebody who is not root, and a copy of the program where he finds it.
    const NOBODY: u32 = 65_534;
    let directory = tempfile::tempdir().unwrap();
    fs::set_permissions(directory.path(), Permissions::from_mode(0o755)).unwrap();
    let program = directory.path().join("punchtunnel");
    fs::copy(env!("CARGO_BIN_EXE_punchtunnel"), &program).unwrap();
    let home = directory.path().join("home");
    fs::create_dir(&home).unwrap();
    let is_root = rustix::process::geteuid().is_root();
    if is_root {
        std::os::unix::fs::chown(&home, Some(NOBODY), Some(NOBODY)).unwrap();
    }
    let start = |program: &Path, words: &[&str]| {
        let mut command = Command::new(program);
        command.args(words).env("PUNCHTUNNEL_HOME", &home).current_dir("/").stdin(Stdio::piped());
        if is_root {
            command.uid(NOBODY).gid(NOBODY);
        }
        command
    };
    let owner_of = |running: &Running| fs::metadata(format!("/proc/{}/environ", running.id())).unwrap().uid();
    let mut expose =
        Running::start(start(&program, &["expose", "1", "--as", "x", "--rendezvous", "127.0.0.1:1"]));
    expose.line("exposing 1");
    let other = Running::start(start(Path::new("/bin/sh"), &["-c", "echo >&2; read line"]));
    let me = if is_root { NOBODY } else { rustix::process::geteuid().as_raw() };
    assert_eq!(owner_of(&other), me, "what is dumpable is its user's");
    assert_eq!(owner_of(&expose), 0);
}

#[test]
fn files_that_others_can_change_are_not_believed_and_the_remedy_is_told() {
    let home = Home::new();
    let key = home.key();
    home.run(["clients", "add", &key]).succeeded();
    home.run(["invite", "myhost"]).succeeded();
    home.write("config.toml", "invite-ttl = \"3m\"\n");
    home.write("known_hosts", "");
    let mode = |file: &str, mode: u32| {
        fs::set_permissions(home.path().join(file), Permissions::from_mode(mode)).unwrap();
    };
    for (file, words) in
        [("authorized_clients", &["clients"][..]), ("known_hosts", &["hosts"]), ("config.toml", &["key"])]
    {
        for wide in [0o664, 0o646] {
            mode(file, wide);
            let says = ["can be changed by others", file, "chmod go-w"];
            home.run(words).failed(1, &says);
        }
        mode(file, 0o644);
        home.run(words).succeeded();
    }
    for (file, words) in [("identity.key", &["key"][..]), ("invites", &["invite", "myhost"])] {
        for wide in [0o640, 0o604, 0o620] {
            mode(file, wide);
            home.run(words).failed(1, &["can be read by others", file, "chmod 600"]);
        }
        mode(file, 0o600);
        home.run(words).succeeded();
    }
    // Whoever can write in the directory can put another file in the place of each.
    mode("", 0o770);
    for words in [&["key"][..], &["clients"], &["clients", "add", &key], &["invite", "myhost"], &["hosts"]] {
        home.run(words).failed(1, &["can be changed by others (mode 0770)", "chmod go-w"]);
    }
    mode("", 0o700);
    home.run(["key"]).succeeded();
}

#[test]
fn files_are_made_so_that_nobody_else_can_change_them_whatever_the_umask() {
    let home = Home::new();
    let client = Home::new().key();
    let script = format!(
        "umask 0; \"$0\" key && \"$0\" clients add {client} && \"$0\" invite myhost && \"$0\" clients && \"$0\" key"
    );
    let mut command = home.command(["-c", &script]);
    let program = command.get_program().to_owned();
    let mut shell = Command::new("/bin/sh");
    shell.args(["-c", &script]).arg(program).env("PUNCHTUNNEL_HOME", home.path().join("new"));
    command = shell;
    let ran = command.output().unwrap();
    assert!(ran.status.success(), "{ran:?}");
    let mode = |file: &str| fs::metadata(home.path().join("new").join(file)).unwrap().mode() & 0o7777;
    assert_eq!(mode(""), 0o700);
    for (file, expected) in [("identity.key", 0o600), ("invites", 0o600), ("authorized_clients", 0o644)] {
        assert_eq!(mode(file), expected, "{file}");
    }
}

#[cfg(target_os = "linux")]
#[test]
fn an_invite_is_in_no_process_list_unless_it_was_typed_there() {
    let server = Server::start();
    let (host, client) = (server.home(), server.home());
    let echo = echo_service().to_string();
    let _expose = exposed(&server, &host, &[&echo]);
    let code = host.run(["invite", "myhost"]).out;
    let invited = client.with("PUNCHTUNNEL_INVITE", &code);
    let mut connect = Running::start(invited.command(["connect", "myhost", "-L", "0"]));
    connect.line("listening on");
    let arguments = fs::read_to_string(format!("/proc/{}/cmdline", connect.id())).unwrap();
    assert!(arguments.contains("myhost") && !arguments.contains(&code.trim_end()[12..20]), "{arguments:?}");
    // And it has no children, which would have its environment.
    let children = format!("/proc/{0}/task/{0}/children", connect.id());
    assert_eq!(fs::read_to_string(children).unwrap(), "");
}
