//! The command line: from what is typed to an exit code.
//!
//! What people read goes to standard error (see [`output`]); standard output carries payload or the
//! answer that a command was asked for.

mod args;
mod clients;
mod hosts;
mod invite;
mod key;
mod narrate;
mod output;
mod settings;

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
    // Ends the process with code 2, or 0 for --help, where there is nothing to run.
    let arguments = Arguments::parse();
    match start(arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err((output, error)) => {
            output.error(&error);
            ExitCode::from(error.exit_code())
        }
    }
}

fn start(Arguments { command, global }: Arguments) -> Result<(), (Output, Error)> {
    let found = Place::find(&global).and_then(|place| Ok((place.told(&global)?, place)));
    let told = found.as_ref().map_or_else(|_| Told::without_file(&global), |(told, _)| *told);
    let output = Output::start(told);
    let result = found.and_then(|(_, place)| execute(command, &place, &output));
    result.map_err(|error| (output, error))
}

fn execute(command: Command, place: &Place, output: &Output) -> Result<(), Error> {
    match command {
        Command::Invite(args) => invite::run(args, place, output),
        Command::Clients(args) => clients::run(args, place, output),
        Command::Hosts(args) => hosts::run(args, place, output),
        Command::Key => key::run(place),
        _ => Ok(()),
    }
}
