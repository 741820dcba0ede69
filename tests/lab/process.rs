//! Programs that run inside a namespace: their lines with times, waiting for a line, signals, exit codes.
//!
//! Everything waits for a condition with a deadline, never for a time to pass. A process is killed when
//! it is dropped.

use std::{
    io::{BufRead, BufReader, Read},
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    process::{Pid, PidfdFlags, Signal, kill_process, pidfd_open},
};

use crate::{
    error::{Failure, Result, failed},
    namespace::Namespace,
};

/// How long anything that ought to happen may take before it counts as failed. Generous: the machine may
/// be busy with other tests, and a test that waits for a condition loses no time by it.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// Begins the line that records what was started.
const COMMAND: &str = "$ ";

/// The last line of a program.
const CLOSED: &str = "(no more)";

/// What all parties of one test said, in order of time.
#[derive(Debug, Clone)]
pub struct Record {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    start: Instant,
    lines: Mutex<Vec<Line>>,
    more: Condvar,
}

#[derive(Debug, Clone)]
struct Line {
    at: Duration,
    party: Arc<str>,
    text: String,
}

impl Record {
    /// An empty record; times count from now.
    pub fn new() -> Self {
        let shared = Shared { start: Instant::now(), lines: Mutex::default(), more: Condvar::new() };
        Self { shared: Arc::new(shared) }
    }

    /// Adds a line.
    pub fn add(&self, party: &Arc<str>, text: String) {
        let line = Line { at: self.shared.start.elapsed(), party: Arc::clone(party), text };
        self.lines().push(line);
        self.shared.more.notify_all();
    }

    /// Everything that was said, a line each, with seconds and the party's name.
    pub fn read(&self) -> String {
        let mut text = String::new();
        for line in self.lines().iter() {
            text += &format!("{:8.3} {:>12} | {}\n", line.at.as_secs_f64(), line.party, line.text);
        }
        text
    }

    fn lines(&self) -> MutexGuard<'_, Vec<Line>> {
        self.shared.lines.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for a line of `party` for which `find` answers.
    fn wait<T>(
        &self,
        party: &Arc<str>,
        patience: Duration,
        mut find: impl FnMut(&str) -> Option<T>,
    ) -> Option<(Duration, T)> {
        let deadline = Instant::now() + patience;
        let mut lines = self.lines();
        let mut next = 0;
        loop {
            while let Some(line) = lines.get(next) {
                next += 1;
                if Arc::ptr_eq(&line.party, party)
                    && let Some(found) = find(&line.text)
                {
                    return Some((line.at, found));
                }
            }
            let left = deadline.checked_duration_since(Instant::now())?;
            lines = self.shared.more.wait_timeout(lines, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

/// A running program.
#[derive(Debug)]
pub struct Process {
    /// Its name. The very allocation tells it from other processes of the same name.
    party: Arc<str>,
    child: Child,
    record: Record,
    /// When it was started, on the record's clock.
    started: Duration,
}

impl Process {
    /// Starts a program in a namespace. Its standard error becomes lines of the record under the name
    /// `party`; its standard input is a pipe that stays open until its end is waited for.
    pub fn start(record: &Record, namespace: &Namespace, party: &str, command: &mut Command) -> Result<Self> {
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let party: Arc<str> = party.into();
        record.add(&party, format!("{COMMAND}{}", words(command)));
        let started = record.shared.start.elapsed();
        let mut child = namespace
            .within(|| command.spawn())?
            .map_err(|error| failed(format!("starting {}", words(command)), error))?;
        if let Some(stderr) = child.stderr.take() {
            tell(record, &party, stderr);
        }
        Ok(Self { party, child, record: record.clone(), started })
    }

    /// Lets it run to its end without standard input; its exit code and everything that it wrote to its
    /// standard output.
    pub fn finish(&mut self, patience: Duration) -> Result<(i32, Vec<u8>)> {
        // Read beside the waiting, so that the deadline holds for a program that hangs.
        let reading = self.child.stdout.take().map(|mut stdout| {
            std::thread::spawn(move || {
                let mut output = Vec::new();
                stdout.read_to_end(&mut output).map(|_| output)
            })
        });
        let (code, _) = self.end(patience)?;
        let output = reading.map(|reading| reading.join().map_err(|_| "reading the output panicked"));
        Ok((code, output.transpose()?.transpose()?.unwrap_or_default()))
    }

    /// Whether it has not ended.
    pub fn is_running(&mut self) -> Result<bool> {
        Ok(self.child.try_wait()?.is_none())
    }

    /// Waits for a line that contains `pattern`: the line, and the time from the start of the program.
    pub fn line(&self, pattern: &str) -> Result<(String, Duration)> {
        let found = self.record.wait(&self.party, PATIENCE, |line| {
            let found = line.contains(pattern) && !line.starts_with(COMMAND);
            found.then(|| Some(line.to_owned())).or_else(|| (line == CLOSED).then_some(None))
        });
        match found {
            Some((at, Some(line))) => Ok((line, at.saturating_sub(self.started))),
            Some((_, None)) => Err(failed(&self.party, format!("ended without a line with `{pattern}`"))),
            None => Err(failed(&self.party, format!("no line with `{pattern}` within {PATIENCE:?}"))),
        }
    }

    /// Waits for a line that contains one of the patterns; `None` where there is none in time.
    pub fn one_of(&self, patterns: &[&str], patience: Duration) -> Option<String> {
        let found = self.record.wait(&self.party, patience, |line| {
            let found = patterns.iter().any(|pattern| line.contains(pattern)) && !line.starts_with(COMMAND);
            found.then(|| Some(line.to_owned())).or_else(|| (line == CLOSED).then_some(None))
        });
        found?.1
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        kill_process(self.pid()?, signal).map_err(|error| failed("sending a signal", error))
    }

    /// Waits for its end; its exit code, and the time from its start.
    pub fn end(&mut self, patience: Duration) -> Result<(i32, Duration)> {
        // A program that reads its standard input to the end waits for it.
        drop(self.child.stdin.take());
        let pidfd =
            pidfd_open(self.pid()?, PidfdFlags::empty()).map_err(|error| failed("pidfd_open", error))?;
        let patience = Timespec::try_from(patience).map_err(|error| failed("deadline", error))?;
        let ended = poll(&mut [PollFd::new(&pidfd, PollFlags::IN)], Some(&patience))
            .map_err(|error| failed("waiting", error))?;
        if ended == 0 {
            return Err(failed(&self.party, format!("still runs after {patience:?}")));
        }
        let took = self.record.shared.start.elapsed().saturating_sub(self.started);
        let status = self.child.wait()?;
        self.record.add(&self.party, format!("({status})"));
        status
            .code()
            .map(|code| (code, took))
            .ok_or_else(|| failed(&self.party, format!("ended by a signal: {status}")))
    }

    /// Waits for its end and fails unless the exit code is the expected one; the time from its start.
    pub fn ends_with(&mut self, code: i32, patience: Duration) -> Result<Duration> {
        match self.end(patience)? {
            (found, took) if found == code => Ok(took),
            (found, _) => Err(failed(&self.party, format!("exit code {found} instead of {code}"))),
        }
    }

    /// Its standard input and output. The input's end is no longer waited for.
    pub fn pipes(&mut self) -> Result<(ChildStdin, ChildStdout)> {
        let (stdin, stdout) = (self.child.stdin.take(), self.child.stdout.take());
        Ok((stdin.ok_or("no standard input")?, stdout.ok_or("no standard output")?))
    }

    /// What it holds now, as /proc tells.
    pub fn usage(&self) -> Result<Usage> {
        let path = format!("/proc/{}", self.child.id());
        let status = std::fs::read_to_string(format!("{path}/status"))?;
        let field = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name));
            line.and_then(|rest| rest.split_whitespace().next()?.parse().ok())
                .ok_or_else(|| failed("/proc", format!("has no {name}")))
        };
        Ok(Usage {
            memory_kb: field("VmRSS:")?,
            threads: field("Threads:")?,
            descriptors: std::fs::read_dir(format!("{path}/fd"))?.count() as u64,
        })
    }

    fn pid(&self) -> Result<Pid> {
        Pid::from_raw(self.child.id() as i32).ok_or_else(|| Failure::from("a process without a number"))
    }
}

/// What a program holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Usage {
    /// Resident memory in KiB.
    pub memory_kb: u64,
    /// Threads.
    pub threads: u64,
    /// Open file descriptors.
    pub descriptors: u64,
}

impl Usage {
    /// It holds no more than before, but for some KiB of memory.
    pub fn is_back_at(&self, before: &Usage, slack_kb: u64) -> bool {
        self.memory_kb <= before.memory_kb + slack_kb
            && self.threads <= before.threads
            && self.descriptors <= before.descriptors
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Both fail if it has ended and been waited for: that is all that is wanted.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Runs a program in a namespace to its end; fails unless it succeeds. What it wrote to its standard
/// output, whatever that was.
pub fn run(record: &Record, namespace: &Namespace, party: &str, command: &mut Command) -> Result<Vec<u8>> {
    let (code, output) = Process::start(record, namespace, party, command)?.finish(PATIENCE)?;
    if code != 0 {
        return Err(failed(party, format!("exit code {code}: {}", String::from_utf8_lossy(&output))));
    }
    Ok(output)
}

fn tell(record: &Record, party: &Arc<str>, from: impl Read + Send + 'static) {
    let (record, party) = (record.clone(), Arc::clone(party));
    std::thread::spawn(move || {
        for line in BufReader::new(from).split(b'\n').map_while(std::io::Result::ok) {
            record.add(&party, String::from_utf8_lossy(&line).trim_end().to_owned());
        }
        record.add(&party, CLOSED.to_owned());
    });
}

fn words(command: &Command) -> String {
    let program = std::path::Path::new(command.get_program());
    let mut words = program.file_name().unwrap_or_default().to_string_lossy().into_owned();
    for argument in command.get_args() {
        words = words + " " + &argument.to_string_lossy();
    }
    words
}
