//! The programs that are compared: started, ended, and asked what they use.

use std::{
    fs,
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::mpsc,
    time::Duration,
};

use crate::{
    error::{Result, failed},
    namespace::Namespace,
};

/// No program takes longer to say what is waited for.
const PATIENCE: Duration = Duration::from_secs(20);

/// Ticks a second of `/proc/PID/stat`: the same on all machines that matter.
const TICKS: u64 = 100;

/// A program that runs until this is dropped.
#[derive(Debug)]
pub struct Running {
    child: Child,
    what: String,
    lines: mpsc::Receiver<String>,
}

impl Running {
    /// Starts a program, inside a namespace if there is one.
    pub fn start(inside: Option<&Namespace>, command: &mut Command) -> Result<Self> {
        let what = format!("{command:?}");
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let started = match inside {
            Some(namespace) => namespace.within(|| command.spawn())?,
            None => command.spawn(),
        };
        let mut child = started.map_err(|error| failed(&what, error))?;
        let (sender, lines) = mpsc::channel();
        listen(child.stdout.take(), sender.clone());
        listen(child.stderr.take(), sender);
        Ok(Self { child, what, lines })
    }

    /// Waits for a line with these words.
    pub fn line(&self, words: &str) -> Result<String> {
        let mut seen = Vec::new();
        loop {
            match self.lines.recv_timeout(PATIENCE) {
                Ok(line) if line.contains(words) => return Ok(line),
                Ok(line) => seen.push(line),
                Err(why) => {
                    return Err(failed(format!("{}: no line with {words:?}", self.what), why))
                        .map_err(|error| failed(error, seen.join(" / ")));
                }
            }
        }
    }

    /// What it has said since it was last asked.
    pub fn said(&self) -> String {
        self.lines.try_iter().collect::<Vec<_>>().join(" / ")
    }

    pub fn id(&self) -> u32 {
        self.child.id()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        for id in family(self.child.id()).into_iter().filter_map(|id| i32::try_from(id).ok()) {
            if let Some(id) = rustix::process::Pid::from_raw(id) {
                // One that has ended meanwhile is what is wanted.
                let _ = rustix::process::kill_process(id, rustix::process::Signal::KILL);
            }
        }
        let _ = self.child.wait();
    }
}

fn listen(pipe: Option<impl std::io::Read + Send + 'static>, sender: mpsc::Sender<String>) {
    let Some(pipe) = pipe else { return };
    std::thread::spawn(move || {
        // A pipe that nobody reads would stop the program: reading goes on when nobody listens any more.
        for line in BufReader::new(pipe).lines().map_while(std::result::Result::ok) {
            let _ = sender.send(line);
        }
    });
}

/// Where a program is, if it is installed.
pub fn find(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let known = ["/usr/sbin", "/sbin"].map(PathBuf::from);
    std::env::split_paths(&path).chain(known).map(|place| place.join(program)).find(|file| file.is_file())
}

/// A process and all its descendants.
fn family(id: u32) -> Vec<u32> {
    let mut parents = Vec::new();
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Some(child) = entry.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else {
            continue;
        };
        if let Some(parent) = stat(child).and_then(|fields| fields.get(1)?.parse::<u32>().ok()) {
            parents.push((child, parent));
        }
    }
    let mut family = vec![id];
    let mut next = 0;
    while let Some(&parent) = family.get(next) {
        family.extend(parents.iter().filter(|&&(_, of)| of == parent).map(|&(child, _)| child));
        next += 1;
    }
    family
}

/// The fields of `/proc/PID/stat` after the name, which may have spaces and parentheses in it (proc(5)).
fn stat(id: u32) -> Option<Vec<String>> {
    let text = fs::read_to_string(Path::new("/proc").join(id.to_string()).join("stat")).ok()?;
    let (_, fields) = text.rsplit_once(") ")?;
    Some(fields.split(' ').map(str::to_owned).collect())
}

/// Processor time that a program and its descendants have used, user and system.
pub fn processor_time(id: u32) -> Duration {
    let mut ticks = 0;
    for member in family(id) {
        // utime, stime, and the same of the children that have ended: fields 14 to 17, counted from 1.
        let fields = stat(member).unwrap_or_default();
        ticks += fields.iter().skip(11).take(4).filter_map(|field| field.parse::<u64>().ok()).sum::<u64>();
    }
    Duration::from_millis(ticks * (1000 / TICKS))
}

/// Resident memory of a program and its descendants, in bytes.
pub fn resident(id: u32) -> u64 {
    let of = |id: u32| {
        let text = fs::read_to_string(Path::new("/proc").join(id.to_string()).join("status")).ok()?;
        let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
        line.trim().strip_suffix(" kB")?.parse::<u64>().ok()
    };
    family(id).into_iter().filter_map(of).sum::<u64>() * 1024
}
