//! Real kernels and the real binary: network namespaces, TUN devices, and the NAT model in between.
//!
//! The whole lab runs inside private namespaces (see [`namespace`]), so that it needs nothing from the
//! machine and leaves nothing behind. Where that is not to be had every test says so by its name.
#![allow(unreachable_pub, missing_docs, reason = "a program of its own, without an interface")]
#![allow(clippy::disallowed_methods, reason = "the lab has real clocks and no seeds to keep")]

mod absent;
mod doctor;
mod error;
mod flows;
mod ground;
mod kills;
mod link;
mod namespace;
#[path = "../nat_model/mod.rs"]
mod nat_model;
mod network;
mod opens;
mod ordeal;
mod packet;
mod parties;
mod process;
mod recovery;
mod reports;
mod router;
mod scene;
mod service;
mod side;
mod ssh;
mod table;
mod timing;
mod translate;
mod tun;
mod tunnels;
mod world;

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    process::ExitCode,
    sync::{PoisonError, RwLock},
};

use libtest_mimic::{Arguments, Failed, Trial};

use crate::{error::Result, namespace::Privilege, process::Record};

/// A test: its name, what it does, and what it needs.
struct Cell {
    name: String,
    run: Run,
    needs: Needs,
}

type Run = Box<dyn FnOnce(&Record) -> Result<()> + Send>;

/// What a test needs beyond the lab itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Needs {
    Nothing,
    /// No other test beside it: it measures time.
    Quiet,
    /// The program `ping`.
    Ping,
    /// OpenSSH, and several user ids for its server.
    OpenSsh,
}

impl Cell {
    fn new(
        name: impl Into<String>,
        needs: Needs,
        run: impl FnOnce(&Record) -> Result<()> + Send + 'static,
    ) -> Self {
        Self { name: name.into(), run: Box::new(run), needs }
    }
}

fn main() -> ExitCode {
    let mut arguments = Arguments::from_args();
    // Worlds are cheap, but what runs in them is not: more than a few at a time only wait for each other.
    arguments.test_threads = arguments.test_threads.or(Some(3));
    if arguments.list {
        return finish(&arguments, &Ok(Privilege::Root));
    }
    if let Some(privilege) = namespace::inner() {
        obey_signals();
        return match namespace::furnish() {
            Ok(()) => finish(&arguments, &Ok(privilege)),
            Err(error) => failure(error),
        };
    }
    match namespace::privilege() {
        Ok(privilege) => failure(namespace::replace_process(privilege)),
        obstacle => finish(&arguments, &obstacle),
    }
}

fn failure(error: impl std::fmt::Display) -> ExitCode {
    eprintln!("lab: {error}");
    ExitCode::FAILURE
}

/// Everything that the lab tests.
fn cells() -> Vec<Cell> {
    let mut cells = Vec::new();
    cells.extend(ground::cells());
    cells.extend(opens::cells());
    cells.extend(tunnels::cells());
    cells.extend(table::cells());
    cells.extend(timing::cells());
    cells.extend(recovery::cells());
    cells.extend(kills::cells());
    cells.extend(ordeal::cells());
    cells.extend(ssh::cells());
    cells.extend(absent::cells());
    cells.extend(doctor::cells());
    cells.extend(reports::cells());
    cells
}

/// Runs (or lists) the tests; those that cannot run are ignored, with the reason on standard error.
fn finish(arguments: &Arguments, privilege: &std::result::Result<Privilege, String>) -> ExitCode {
    let mut trials = Vec::new();
    for cell in cells() {
        let obstacle = cell.obstacle(privilege);
        let trial = cell.trial().with_ignored_flag(obstacle.is_some());
        if let Some(why) = obstacle
            && !arguments.list
            && !arguments.is_filtered_out(&trial)
        {
            eprintln!("lab: {} skipped: {why}", trial.name());
        }
        trials.push(trial);
    }
    let conclusion = libtest_mimic::run(arguments, trials);
    if conclusion.num_ignored > 0 && !arguments.list {
        eprintln!("lab: {} tests skipped", conclusion.num_ignored);
    }
    conclusion.exit_code()
}

impl Cell {
    /// Why the test cannot run here, if it cannot.
    fn obstacle(&self, privilege: &std::result::Result<Privilege, String>) -> Option<String> {
        match privilege {
            Err(why) => Some(why.clone()),
            Ok(privilege) => match self.needs {
                Needs::OpenSsh => namespace::openssh(*privilege).err(),
                Needs::Ping => namespace::ping().err(),
                Needs::Nothing | Needs::Quiet => None,
            },
        }
    }

    /// The test as the harness wants it.
    fn trial(self) -> Trial {
        let Self { name, run, needs } = self;
        Trial::test(name, move || {
            /// Whoever measures time runs alone.
            static QUIET: RwLock<()> = RwLock::new(());
            let (_alone, _beside) = match needs {
                Needs::Quiet => {
                    let alone = QUIET.write().unwrap_or_else(PoisonError::into_inner);
                    set_precedence(-15);
                    (Some(alone), None)
                }
                _ => (None, Some(QUIET.read().unwrap_or_else(PoisonError::into_inner))),
            };
            let record = Record::new();
            let ended = catch_unwind(AssertUnwindSafe(|| run(&record)));
            if needs == Needs::Quiet {
                set_precedence(0);
            }
            if std::env::var_os("PUNCHTUNNEL_LAB_TELL").is_some() {
                eprintln!("{}", record.read());
            }
            let words = match ended {
                Ok(Ok(())) => return Ok(()),
                Ok(Err(failure)) => failure.to_string(),
                Err(_) => "it panicked".to_owned(),
            };
            Err(Failed::from(format!("{words}\n--- what everybody said ---\n{}", record.read())))
        })
    }
}

/// Lets this thread, and every thread and process that it starts from now on, go before whatever else
/// runs on the machine (a nice value: the lower, the sooner).
fn set_precedence(nice: i32) {
    // Only root may; others measure as well as their machine lets them.
    let _ = rustix::process::setpriority_process(None, nice);
    // Where the kernel schedules by session (autogroup), it is the session's value that counts.
    let _ = std::fs::write("/proc/self/autogroup", nice.to_string());
}

/// The first process of a namespace is deaf to signals that it does not ask for, Ctrl-C among them.
fn obey_signals() {
    use tokio::signal::unix::{SignalKind, signal};
    std::thread::spawn(|| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build();
        let Ok(runtime) = runtime else { return };
        runtime.block_on(async {
            let (Ok(mut interrupt), Ok(mut terminate)) =
                (signal(SignalKind::interrupt()), signal(SignalKind::terminate()))
            else {
                return;
            };
            tokio::select! { _ = interrupt.recv() => {}, _ = terminate.recv() => {} }
            set_precedence(0);
            std::process::exit(130);
        });
    });
}
