//! Runs the binary with a home of its own and nothing of the environment's settings.

#![allow(dead_code, reason = "each test file uses a part")]

use std::{
    ffi::OsStr,
    io::Write,
    path::Path,
    process::{Command, Output, Stdio},
    sync::Arc,
};

/// Letters of a key.
pub(crate) const KEY_LENGTH: usize = 52;

/// A home directory that is gone when dropped.
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
