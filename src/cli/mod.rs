//! The command line: from what is typed to an exit code.
//!
//! What people read goes to standard error (see [`output`]); standard output carries payload or the
//! answer that a command was asked for.

mod args;
mod clients;
mod connect;
mod control;
mod demo;
mod doctor;
mod door;
mod expose;
mod hidden;
mod hosts;
mod invite;
mod key;
mod labels;
mod memory;
mod narrate;
mod output;
mod patience;
mod release;
mod rendezvous;
mod report;
mod servers;
mod settings;
#[cfg(unix)]
mod status;
mod stop;

use std::process::ExitCode;

use clap::Parser;
use punchtunnel::Error;

use self::{
    args::{Arguments, Command},
    output::{Output, Told},
    settings::Place,
};

/// Runs the command that was typed. Exit codes: 0 done, 1 failed, 2 wrong usage.
pub(crate) fn run() -> ExitCode {
    hidden::hide_memory();
    // Ends the process with code 2, or 0 for --help, where there is nothing to run.
    let Arguments { command, global } = Arguments::parse();
    let found = Place::find(&global).and_then(|place| Ok((place.told(&global)?, place)));
    let told = found.as_ref().map_or_else(|_| Told::without_file(&global), |(told, _)| *told);
    let output = Output::start(told);
    match execute(command, found.map(|(_, place)| place), &output) {
        Ok(code) => {
            output.clear();
            code
        }
        Err(error) => {
            match error {
                Error::Stopped => output.clear(),
                _ => output.error(&error),
            }
            ExitCode::from(error.exit_code())
        }
    }
}

fn execute(command: Command, place: Result<Place, Error>, output: &Output) -> Result<ExitCode, Error> {
    // It needs nothing of this computer.
    if let Command::Demo(args) = command {
        return drive(demo::run(args, output)).map(|()| ExitCode::SUCCESS);
    }
    let place = &place?;
    let done = match command {
        Command::Doctor(args) => {
            // Examined, and found to be wanting: no error of the program's.
            let possible = drive(doctor::run(args, place, output))?;
            return Ok(if possible { ExitCode::SUCCESS } else { ExitCode::FAILURE });
        }
        Command::Rendezvous(args) => drive(rendezvous::run(args, place, output)),
        Command::Expose(args) => drive(expose::run(args, place, output)),
        Command::Connect(args) => drive(connect::run(args, place, output)),
        Command::Invite(args) => invite::run(args, place, output),
        Command::Clients(args) => clients::run(args, place, output),
        Command::Hosts(args) => hosts::run(args, place, output),
        Command::Release(args) => drive(release::run(args, place, output)),
        Command::Key => key::run(place),
        #[cfg(unix)]
        Command::Status(args) => drive(status::run(args, place)),
        Command::Demo(_) => Ok(()),
    };
    done.map(|()| ExitCode::SUCCESS)
}

/// Runs what waits for the network, on this thread: what one task hands to the next is in the processor's
/// cache then, and nobody is woken for it. (Two threads were slower by a sixth, for a fifth more work.)
fn drive<T>(work: impl Future<Output = Result<T, Error>>) -> Result<T, Error> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|e| Error::Internal(format!("the runtime does not start: {e}")))?;
    let result = runtime.block_on(work);
    // A thread may wait for standard input, which nobody is going to write to any more.
    runtime.shutdown_background();
    result
}
