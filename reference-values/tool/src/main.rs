//! `reference-values`: where releases are made. In, a root file system, boot logs and keys; out, signed releases, and
//! what they say.

mod boot;
mod cli;
mod commands;
mod failure;
mod files;
mod import;
mod sources;
mod time;
mod token;

use std::{io::IsTerminal as _, process::ExitCode};

use clap::{CommandFactory as _, Parser as _};
use tracing_subscriber::{EnvFilter, filter::LevelFilter};

use crate::{
    cli::{Arguments, Command},
    failure::Failure,
};

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    start_log(&arguments);
    match run(arguments.command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("reference-values: {failure}");
            failure.exit_code()
        }
    }
}

fn run(command: Command) -> Result<(), Failure> {
    match command {
        Command::Build(arguments) => commands::build::run(&arguments),
        Command::Keygen(arguments) => commands::keygen::run(&arguments),
        Command::Import(arguments) => commands::import::run(&arguments),
        Command::Endorse(arguments) => commands::endorse::run(&arguments),
        Command::Notice(arguments) => commands::notice::run(&arguments),
        Command::Publish(arguments) => commands::publish::run(&arguments),
        Command::Sign(arguments) => commands::sign::run(&arguments),
        Command::Check(arguments) => commands::check::run(&arguments),
        Command::Show(arguments) => commands::show::run(&arguments),
        Command::Diff(arguments) => commands::diff::run(&arguments),
        Command::Completions { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Arguments::command(), "reference-values", &mut script);
            files::print(&String::from_utf8_lossy(&script))
        }
    }
}

fn start_log(arguments: &Arguments) {
    let level = match (arguments.quiet, arguments.verbose) {
        (true, _) => LevelFilter::ERROR,
        (false, 0) => LevelFilter::WARN,
        (false, 1) => LevelFilter::INFO,
        (false, _) => LevelFilter::DEBUG,
    };
    let mut filter = EnvFilter::builder().with_default_directive(level.into()).from_env_lossy();
    // What this reader of images finds wrong is in the error that it returns.
    if let Ok(silent) = "backhand=off".parse() {
        filter = filter.add_directive(silent);
    }
    let colour = std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none();
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(colour)
        .with_target(false)
        .without_time()
        .init();
}
