//! The machine, and the versions of what ran on it.

use std::{fs, process::Command};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::{
    error::{Result, failed},
    peers::Kind,
    process::find,
};

/// Descriptors for ten thousand streams at both their ends, all in this process.
const DESCRIPTORS: u64 = 65_536;

/// Descriptors that are left for other things.
const OTHERS: u64 = 200;

/// Lets this program, and those that it starts, have many open connections: how many streams it can hold
/// at both their ends.
pub fn raise_limits() -> Result<usize> {
    let now = getrlimit(Resource::Nofile);
    let may = now.maximum.map_or(DESCRIPTORS, |maximum| maximum.max(DESCRIPTORS));
    let raised = setrlimit(Resource::Nofile, Rlimit { current: Some(DESCRIPTORS), maximum: Some(may) });
    // Without the right to raise the limit, as many as there may be.
    raised
        .or_else(|_| setrlimit(Resource::Nofile, Rlimit { current: now.maximum, maximum: now.maximum }))
        .map_err(|error| failed("raising the limit of descriptors", error))?;
    let limit = getrlimit(Resource::Nofile).current.unwrap_or(DESCRIPTORS);
    Ok((limit.saturating_sub(OTHERS) / 2) as usize)
}

/// The machine in a line.
pub fn describe() -> String {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let information = read("/proc/cpuinfo");
    let field = |name: &str| {
        let line = information.lines().find(|line| line.starts_with(name))?;
        Some(line.split_once(':')?.1.trim().to_owned())
    };
    let cores = information.lines().filter(|line| line.starts_with("processor")).count();
    let kernel = read("/proc/sys/kernel/osrelease");
    let control = read("/proc/sys/net/ipv4/tcp_congestion_control");
    let memory = read("/proc/meminfo");
    let memory = memory.lines().next().and_then(|line| line.split_whitespace().nth(1)?.parse::<f64>().ok());
    format!(
        "{cores} cores, {} (family {}, model {}), {:.0} GB, Linux {}, TCP congestion control {}",
        field("model name").unwrap_or_else(|| std::env::consts::ARCH.to_owned()),
        field("cpu family").unwrap_or_default(),
        field("model\t").unwrap_or_default(),
        memory.unwrap_or_default() / 1e6,
        kernel.trim(),
        control.trim()
    )
}

/// The version that each of these tunnels is of.
pub fn versions(kinds: &[Kind]) -> Vec<String> {
    kinds.iter().filter_map(|kind| version(kind.name)).collect()
}

fn version(name: &str) -> Option<String> {
    let (program, option) = match name {
        "punchtunnel" => return Some(format!("punchtunnel {}", env!("CARGO_PKG_VERSION"))),
        "bore" | "rathole" => (name, "--version"),
        "ssh" | "socat" => (name, "-V"),
        _ => return None,
    };
    let output = Command::new(find(program)?).arg(option).output().ok()?;
    let text = [output.stdout, output.stderr].concat();
    let text = String::from_utf8_lossy(&text).into_owned();
    let line = text.lines().find(|line| line.contains(|letter: char| letter.is_ascii_digit()))?;
    // What comes after the version is of no interest.
    let words: Vec<_> = line.split([' ', ',']).take_while(|word| *word != "on").collect();
    Some(match name {
        "socat" => {
            format!("socat {}", words.iter().find(|word| word.starts_with(|l: char| l.is_ascii_digit()))?)
        }
        _ => words.join(" ").trim().to_owned(),
    })
}
