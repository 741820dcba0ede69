//! Runs the binary with a home of its own and nothing of the environment's settings.

use std::{
    ffi::OsStr,
    io::{BufRead, BufReader, Read, Write},
    path::Path,
    process::{Child, ChildStdin, Command, Output, Stdio},
    sync::{Arc, mpsc},
    time::Duration,
};

/// Nothing takes longer on a machine that works, also where it is slow and busy.
const PATIENCE: Duration = Duration::from_secs(30);

/// Letters of a key.
pub(crate) const KEY_LENGTH: usize = 52;

/// A home directory that is gone when dropped.
#[derive(Clone)]
pub(crate) struct Home {
    directory: Arc<tempfile::TempDir>,
    environment: Vec<(String, String)>,
}

/// What a finished run left.
#[derive(Debug)]
pub(crate) struct Ran {
    pub(crate) code: i32,
    pub(crate) out: String,
    pub(crate) err: String,
}

impl Home {
    pub(crate) fn new() -> Home {
        Home { directory: Arc::new(tempfile::tempdir().expect("a directory")), environment: Vec::new() }
    }

    /// The same with one more environment variable.
    pub(crate) fn with(&self, name: &str, value: &str) -> Home {
        let mut environment = self.environment.clone();
        environment.push((name.into(), value.into()));
        Home { directory: self.directory.clone(), environment }
    }

    pub(crate) fn path(&self) -> &Path {
        self.directory.path()
    }

    pub(crate) fn write(&self, file: &str, text: &str) {
        std::fs::write(self.path().join(file), text).expect("written");
    }

    pub(crate) fn read(&self, file: &str) -> String {
        std::fs::read_to_string(self.path().join(file)).expect("read")
    }

    /// The public key of this home.
    pub(crate) fn key(&self) -> String {
        self.run(["key"]).out.trim_end().to_owned()
    }

    /// The command, not started.
    pub(crate) fn command<S: AsRef<OsStr>>(&self, words: impl IntoIterator<Item = S>) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_punchtunnel"));
        for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("PUNCHTUNNEL_")) {
            command.env_remove(name);
        }
        command.env_remove("RUST_LOG").env("PUNCHTUNNEL_HOME", self.path());
        command.envs(self.environment.iter().map(|(name, value)| (name, value)));
        command.args(words).stdin(Stdio::null());
        command
    }

    pub(crate) fn run<S: AsRef<OsStr>>(&self, words: impl IntoIterator<Item = S>) -> Ran {
        self.command(words).output().expect("started").into()
    }

    pub(crate) fn run_with_input<S: AsRef<OsStr>>(
        &self,
        words: impl IntoIterator<Item = S>,
        input: &str,
    ) -> Ran {
        let mut command = self.command(words);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("started");
        let mut stdin = child.stdin.take().expect("a pipe");
        // A program that has failed already does not read.
        let _ = stdin.write_all(input.as_bytes());
        drop(stdin);
        child.wait_with_output().expect("ended").into()
    }

    /// Runs with a standard output that nobody reads; the exit code.
    pub(crate) fn run_without_reader<S: AsRef<OsStr>>(&self, words: impl IntoIterator<Item = S>) -> i32 {
        let mut command = self.command(words);
        let mut child = command.stdout(Stdio::piped()).spawn().expect("started");
        drop(child.stdout.take());
        child.wait().expect("ended").code().unwrap_or(-1)
    }
}

impl From<Output> for Ran {
    fn from(output: Output) -> Ran {
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("UTF-8");
        // -1: ended by a signal.
        let code = output.status.code().unwrap_or(-1);
        Ran { code, out: text(output.stdout), err: text(output.stderr) }
    }
}

impl Ran {
    pub(crate) fn succeeded(&self) {
        assert_eq!(self.code, 0, "{self:?}");
    }

    /// It ended with that code, said all of this on standard error and nothing on standard output.
    pub(crate) fn failed(&self, code: i32, says: &[&str]) {
        assert_eq!(self.code, code, "{self:?}");
        assert_eq!(self.out, "", "{self:?}");
        for words in says {
            assert!(self.err.contains(words), "{:?} lacks {words:?}", self.err);
        }
    }
}

/// A program that runs beside the test, and is killed when dropped.
pub(crate) struct Running {
    child: Child,
    lines: mpsc::Receiver<String>,
    /// Everything that was read so far, for messages.
    seen: Vec<String>,
}

impl Running {
    pub(crate) fn start(mut command: Command) -> Running {
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("started");
        let stderr = BufReader::new(child.stderr.take().expect("a pipe"));
        let (sender, lines) = mpsc::channel();
        std::thread::spawn(move || {
            for line in stderr.lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    break;
                }
            }
        });
        Running { child, lines, seen: Vec::new() }
    }

    /// Waits for the next line with these words.
    pub(crate) fn line(&mut self, words: &str) -> String {
        loop {
            match self.lines.recv_timeout(PATIENCE) {
                Ok(line) => {
                    self.seen.push(line.clone());
                    if line.contains(words) {
                        return line;
                    }
                }
                Err(why) => panic!("no line with {words:?} ({why}) in {:#?}", self.seen),
            }
        }
    }

    /// Sends SIGTERM.
    #[cfg(unix)]
    pub(crate) fn terminate(&self) {
        self.signal(rustix::process::Signal::TERM);
    }

    /// Sends a signal.
    #[cfg(unix)]
    pub(crate) fn signal(&self, signal: rustix::process::Signal) {
        let id = i32::try_from(self.child.id()).ok().and_then(rustix::process::Pid::from_raw).expect("an id");
        rustix::process::kill_process(id, signal).expect("signalled");
    }

    /// Its process id.
    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// Waits for the end, whatever was said.
    #[cfg(unix)]
    pub(crate) fn ended(mut self) -> std::process::ExitStatus {
        self.child.wait().expect("ended")
    }

    /// Its standard input, where that was made a pipe.
    pub(crate) fn stdin(&mut self) -> ChildStdin {
        self.child.stdin.take().expect("a pipe")
    }

    /// Waits for the end: code, standard output, and the rest of standard error.
    pub(crate) fn end(mut self) -> Ran {
        let mut out = String::new();
        self.child.stdout.take().expect("a pipe").read_to_string(&mut out).expect("UTF-8");
        let code = self.child.wait().expect("ended").code().unwrap_or(-1);
        let err = self.seen.drain(..).chain(self.lines.iter()).map(|line| line + "\n").collect();
        Ran { code, out, err }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A rendezvous server on the loopback interface.
pub(crate) struct Server {
    /// Its home lives as long as the server.
    _home: Home,
    pub(crate) process: Running,
    /// `HOST:PORT`.
    pub(crate) address: String,
    /// Where it answers probes.
    pub(crate) probes: String,
}

impl Server {
    pub(crate) fn start() -> Server {
        Server::start_with(&[])
    }

    /// With further options.
    pub(crate) fn start_with(options: &[&str]) -> Server {
        Server::start_in(Home::new(), options)
    }

    /// With everything in its log.
    #[cfg(unix)]
    pub(crate) fn start_traced() -> Server {
        Server::start_in(Home::new().with("RUST_LOG", "trace"), &["-vv"])
    }

    /// The one whose key and names are in that home.
    pub(crate) fn start_in(home: Home, options: &[&str]) -> Server {
        let words = ["rendezvous", "--listen", "127.0.0.1:0", "--probe-port", "0"];
        let mut process = Running::start(home.command(words.iter().chain(options)));
        let listening = process.line("listening on");
        let probes = process.line("probes are answered on");
        let addresses = |line: &str| -> Vec<String> {
            line.split(' ').filter(|word| word.starts_with("127.0.0.1:")).map(str::to_owned).collect()
        };
        let address = addresses(&listening).remove(0);
        Server { _home: home, process, address, probes: addresses(&probes).join(",") }
    }

    /// A home whose environment names this server.
    pub(crate) fn home(&self) -> Home {
        self.settle(&Home::new())
    }

    /// The same home, whose environment names this server.
    pub(crate) fn settle(&self, home: &Home) -> Home {
        home.with("PUNCHTUNNEL_RENDEZVOUS", &self.address).with("PUNCHTUNNEL_PROBE_SERVER", &self.probes)
    }
}

/// A TCP service on the loopback interface that greets, sends everything back, and ends when the
/// client ends. It lives as long as the process.
pub(crate) fn echo_service() -> u16 {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = listener.local_addr().expect("an address").port();
    std::thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            std::thread::spawn(move || {
                let mut stream = stream;
                let mut reader = stream.try_clone()?;
                stream.write_all(b"hello\n")?;
                std::io::copy(&mut reader, &mut stream)?;
                stream.shutdown(std::net::Shutdown::Write)
            });
        }
    });
    port
}

/// A port that nobody listens on.
pub(crate) fn closed_port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0").and_then(|l| l.local_addr()).expect("a port").port()
}
