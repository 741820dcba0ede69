//! The control socket: how `punchtunnel status` asks a program that runs.
//!
//! Each `expose` and `connect` has a Unix socket `run/ROLE-NAME-PID.sock` in the state directory, which
//! only its owner can use: that is all the authentication there is. One line of JSON is asked, one
//! answered, and the connection is closed:
//!
//! ```text
//! → {"ask":"status"}
//! ← {"role":"connect","name":"myhost",…}          docs/STATUS.md
//! ```
//!
//! A program that was killed leaves its socket behind; whoever comes next removes it.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use punchtunnel::{identity::Home, net::Monitor};

use super::{
    labels::Labels,
    report::{Report, Role},
};

/// What is known of a program from its start on.
pub(crate) struct Board {
    role: Role,
    name: String,
    server: String,
    labels: Labels,
    began: Duration,
    /// The host or client that runs now.
    monitor: Mutex<Option<Monitor>>,
}

impl Board {
    /// From the start of a run on.
    pub(crate) fn new(role: Role, name: String, server: String, labels: Labels) -> Board {
        let began = punchtunnel::net::clock::since_boot();
        Board { role, name, server, labels, began, monitor: Mutex::new(None) }
    }

    /// This is what runs from now on.
    pub(crate) fn show(&self, monitor: Monitor) {
        *self.lock() = Some(monitor);
    }

    fn report(&self) -> Option<Report> {
        let status = self.lock().as_ref()?.status();
        let running = punchtunnel::net::clock::since_boot().saturating_sub(self.began);
        let who = (self.role, self.name.clone(), std::process::id(), running);
        Some(Report::new(who, self.server.clone(), &status, self.labels.read()))
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Option<Monitor>> {
        self.monitor.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Answers for as long as it is held; then the socket is gone.
pub(crate) struct Control {
    board: Arc<Board>,
    #[cfg(unix)]
    _socket: Option<socket::Socket>,
}

impl Control {
    /// Opens the socket. A program does its work without it too, so a failure is only
    /// a warning.
    pub(crate) async fn open(home: &Home, board: Board) -> Control {
        let board = Arc::new(board);
        #[cfg(unix)]
        {
            let directory = home.run_dir();
            let opened = socket::Socket::open(&directory, board.clone()).await;
            let socket = opened.inspect_err(|error| {
                let directory = directory.display();
                tracing::warn!(%error, "\"punchtunnel status\" cannot ask: no control socket in {directory}");
            });
            Control { board, _socket: socket.ok() }
        }
        #[cfg(not(unix))]
        {
            let _ = home;
            Control { board }
        }
    }

    /// This is what runs from now on.
    pub(crate) fn show(&self, monitor: Monitor) {
        self.board.show(monitor);
    }
}

#[cfg(unix)]
pub(crate) mod socket {
    use std::{
        fs::{self, DirBuilder, Permissions},
        io::{self, ErrorKind},
        os::unix::fs::{DirBuilderExt, PermissionsExt},
        path::{Path, PathBuf},
        sync::Arc,
        time::Duration,
    };

    use serde::{Deserialize, Serialize};
    use tokio::{
        io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
        net::{UnixListener, UnixStream},
        sync::Semaphore,
        task::AbortHandle,
        time::{sleep, timeout},
    };

    use super::Board;
    use crate::cli::report::Role;

    /// A question is short.
    const MAX_QUESTION: u64 = 1024;

    /// An answer has at most some hundred bytes for each of a host's 256 sessions.
    const MAX_ANSWER: u64 = 1 << 20;

    /// Whoever asks and does not go on, or is asked and does not answer, is left.
    const PATIENCE: Duration = Duration::from_secs(3);

    /// Questions that are answered at a time; further ones wait in the socket's queue.
    const ASKING: usize = 8;

    /// Names that are tried where another program has the first one: the same process number may be
    /// somebody's in another container with the same home.
    const NAMES: u32 = 16;

    /// Bytes of a path that fit into a socket's address everywhere; `sun_path` has 104 or 108, with the
    /// zero at the end.
    #[cfg(any(target_os = "linux", target_os = "android"))]
    const LONGEST_ADDRESS: usize = 103;

    /// What can be asked.
    #[derive(Debug, Serialize, Deserialize)]
    #[serde(tag = "ask", rename_all = "lowercase")]
    pub(crate) enum Question {
        Status,
    }

    /// A listening socket with the task that answers.
    pub(super) struct Socket {
        path: PathBuf,
        serving: AbortHandle,
    }

    impl Socket {
        pub(super) async fn open(directory: &Path, board: Arc<Board>) -> io::Result<Socket> {
            DirBuilder::new().recursive(true).mode(0o700).create(directory)?;
            // So that nobody gets in between bind and chmod, whatever the umask.
            fs::set_permissions(directory, Permissions::from_mode(0o700))?;
            for found in find(directory) {
                found.remove_if_stale().await;
            }
            let (listener, path) = bind(directory, board.role, &board.name)?;
            fs::set_permissions(&path, Permissions::from_mode(0o600))?;
            let serving = tokio::spawn(serve(listener, board)).abort_handle();
            Ok(Socket { path, serving })
        }
    }

    impl Drop for Socket {
        fn drop(&mut self) {
            self.serving.abort();
            fs::remove_file(&self.path).ok();
        }
    }

    fn bind(directory: &Path, role: Role, name: &str) -> io::Result<(UnixListener, PathBuf)> {
        let pid = std::process::id();
        let mut result = Err(ErrorKind::AddrInUse.into());
        for number in 0..NAMES {
            let suffix = if number == 0 { String::new() } else { format!(".{number}") };
            let path = directory.join(format!("{role}-{name}-{pid}{suffix}.sock"));
            result = Way::to(&path).and_then(|way| UnixListener::bind(&way.path)).map(|l| (l, path));
            if !matches!(&result, Err(error) if error.kind() == ErrorKind::AddrInUse) {
                break;
            }
        }
        result
    }

    async fn serve(listener: UnixListener, board: Arc<Board>) {
        let room = Arc::new(Semaphore::new(ASKING));
        while let Ok(place) = room.clone().acquire_owned().await {
            match listener.accept().await {
                Ok((stream, _)) => {
                    let board = board.clone();
                    tokio::spawn(async move {
                        timeout(PATIENCE, answer(stream, &board)).await.ok();
                        drop(place);
                    });
                }
                Err(error) => {
                    tracing::debug!(%error, "control socket");
                    sleep(Duration::from_millis(100)).await;
                }
            }
        }
    }

    async fn answer(mut stream: UnixStream, board: &Board) -> io::Result<()> {
        let mut question = Vec::new();
        BufReader::new((&mut stream).take(MAX_QUESTION)).read_until(b'\n', &mut question).await?;
        let mut answer = match (serde_json::from_slice(&question), board.report()) {
            (Ok(Question::Status), Some(report)) => serde_json::to_vec(&report)?,
            (Ok(Question::Status), None) => br#"{"error":"it is starting"}"#.to_vec(),
            (Err(_), _) => br#"{"error":"use {\"ask\":\"status\"}"}"#.to_vec(),
        };
        answer.push(b'\n');
        stream.write_all(&answer).await?;
        stream.shutdown().await
    }

    /// A socket in the directory.
    #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
    pub(crate) struct Found {
        pub(crate) name: String,
        pub(crate) role: Role,
        pub(crate) pid: u32,
        path: PathBuf,
    }

    /// The sockets in the directory, by name.
    pub(crate) fn find(directory: &Path) -> Vec<Found> {
        let entries = fs::read_dir(directory).into_iter().flatten().filter_map(Result::ok);
        let mut found: Vec<_> = entries.filter_map(|entry| Found::parse(entry.path())).collect();
        found.sort();
        found
    }

    impl Found {
        fn parse(path: PathBuf) -> Option<Found> {
            let (words, pid) = path.file_name()?.to_str()?.strip_suffix(".sock")?.rsplit_once('-')?;
            let (role, name) = words.split_once('-')?;
            let role = [Role::Expose, Role::Connect].into_iter().find(|r| r.to_string() == role)?;
            let pid = pid.split('.').next()?.parse().ok()?;
            Some(Found { name: name.into(), role, pid, path })
        }

        /// Asks: the answer is one line of JSON. `None` where nobody is there (any more).
        ///
        /// # Errors
        /// The program does not answer, or not sensibly.
        pub(crate) async fn ask(&self, question: &Question) -> Option<io::Result<String>> {
            let asked = async {
                let way = Way::to(&self.path)?;
                let mut stream = UnixStream::connect(&way.path).await?;
                let mut line = serde_json::to_vec(question)?;
                line.push(b'\n');
                stream.write_all(&line).await?;
                let mut answer = String::new();
                BufReader::new(stream.take(MAX_ANSWER)).read_line(&mut answer).await?;
                serde_json::from_str::<serde::de::IgnoredAny>(&answer)?;
                Ok(answer.trim_end().to_owned())
            };
            match timeout(PATIENCE, asked).await {
                Ok(Err(error)) if is_gone(&error) => {
                    self.remove_if_stale().await;
                    None
                }
                Ok(result) => Some(result),
                Err(_) => Some(Err(ErrorKind::TimedOut.into())),
            }
        }

        /// Removes it where its program was killed: nobody listens, and there is no such process. (A
        /// socket that is being made has a process, and one of another container answers.)
        pub(super) async fn remove_if_stale(&self) {
            use rustix::{
                io::Errno,
                process::{Pid, test_kill_process},
            };
            let pid = i32::try_from(self.pid).ok().and_then(Pid::from_raw);
            let lives = pid.is_some_and(|pid| test_kill_process(pid) != Err(Errno::SRCH));
            if self.pid != std::process::id() && lives {
                return;
            }
            let Ok(way) = Way::to(&self.path) else { return };
            let connected = timeout(PATIENCE, UnixStream::connect(&way.path)).await;
            if matches!(connected, Ok(Err(error)) if error.kind() == ErrorKind::ConnectionRefused) {
                fs::remove_file(&self.path).ok();
            }
        }
    }

    fn is_gone(error: &io::Error) -> bool {
        matches!(error.kind(), ErrorKind::ConnectionRefused | ErrorKind::NotFound | ErrorKind::UnexpectedEof)
    }

    /// A path that leads to a socket, for as long as it is held.
    struct Way {
        path: PathBuf,
        _directory: Option<fs::File>,
    }

    impl Way {
        /// Where the path is longer than the hundred bytes or so that a socket's address has, it leads
        /// through a descriptor of the directory, where the system has such paths.
        fn to(path: &Path) -> io::Result<Way> {
            #[cfg(any(target_os = "linux", target_os = "android"))]
            if path.as_os_str().len() > LONGEST_ADDRESS
                && let (Some(directory), Some(file)) = (path.parent(), path.file_name())
            {
                use std::os::fd::AsRawFd;
                let directory = fs::File::open(directory)?;
                let path = Path::new("/proc/self/fd").join(directory.as_raw_fd().to_string()).join(file);
                return Ok(Way { path, _directory: Some(directory) });
            }
            Ok(Way { path: path.into(), _directory: None })
        }
    }
}
