//! The command line: arguments in; a table, JSON and an exit code out. Each subcommand is a module.

mod config;
mod devices;
pub mod init;
mod inspect;
mod keys;
mod operate;
pub mod roots;
pub mod serve;
mod service;
mod show;
mod store;
mod token;

use std::{io::IsTerminal as _, process::ExitCode};

use clap::{ArgAction, Args, CommandFactory as _, Parser, Subcommand};
use tracing_subscriber::{EnvFilter, filter::LevelFilter};

/// Exit code: the operation failed.
const FAILED: u8 = 1;
/// Exit code: bad usage or configuration.
const USAGE: u8 = 2;
/// Exit code: input is malformed.
const MALFORMED: u8 = 6;

/// Judges what devices prove about themselves, and answers for it.
#[derive(Debug, Parser)]
#[command(name = "verifier", version)]
struct Cli {
    #[command(flatten)]
    logging: Logging,
    #[command(subcommand)]
    command: Command,
}

/// How much goes to stderr; `RUST_LOG` says it more finely.
#[derive(Debug, Args)]
struct Logging {
    /// Say more; twice: everything
    #[arg(short, long, global = true, action = ArgAction::Count)]
    verbose: u8,
    /// Say errors only
    #[arg(short, long, global = true, conflicts_with = "verbose")]
    quiet: bool,
}

#[derive(Debug, Subcommand)]
enum Command {
    Init(init::InitArgs),
    Serve(serve::ServeArgs),
    Devices(devices::DevicesArgs),
    Device(devices::DeviceArgs),
    History(devices::HistoryArgs),
    Approve(devices::ApproveArgs),
    Revoke(devices::RevokeArgs),
    Check(devices::CheckArgs),
    Label(operate::LabelArgs),
    Forget(operate::ForgetArgs),
    Token(token::TokenArgs),
    Keys(keys::KeysArgs),
    Store(store::StoreArgs),
    Config(config::ConfigArgs),
    Inspect(inspect::InspectArgs),
    Roots(roots::RootsArgs),
    /// Prints completions for a shell
    Completions {
        /// Which shell
        shell: clap_complete::Shell,
    },
}

/// Runs the program.
#[must_use]
pub fn run() -> ExitCode {
    let Cli { logging, command } = Cli::parse();
    start_logging(&logging);
    match command {
        Command::Init(args) => init::run(args),
        Command::Serve(args) => serve::run(&args),
        Command::Devices(args) => devices::devices(&args),
        Command::Device(args) => devices::device(&args),
        Command::History(args) => devices::history(&args),
        Command::Approve(args) => devices::approve(&args),
        Command::Revoke(args) => devices::revoke(&args),
        Command::Check(args) => devices::check(&args),
        Command::Label(args) => operate::label(&args),
        Command::Forget(args) => operate::forget(&args),
        Command::Token(args) => token::run(&args),
        Command::Keys(args) => keys::run(&args),
        Command::Store(args) => store::run(&args),
        Command::Config(args) => config::run(&args),
        Command::Inspect(args) => inspect::run(&args),
        Command::Roots(args) => roots::run(&args),
        Command::Completions { shell } => {
            clap_complete::generate(shell, &mut Cli::command(), "verifier", &mut std::io::stdout());
            ExitCode::SUCCESS
        }
    }
}

fn start_logging(logging: &Logging) {
    let level = match (logging.quiet, logging.verbose) {
        (true, _) => LevelFilter::ERROR,
        (false, 0) => LevelFilter::INFO,
        (false, 1) => LevelFilter::DEBUG,
        (false, _) => LevelFilter::TRACE,
    };
    // A wish in RUST_LOG that cannot be read must not keep the program from running.
    let filter = EnvFilter::builder().with_default_directive(level.into()).from_env_lossy();
    let colour = std::io::stderr().is_terminal() && show::colour_wanted();
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(colour).init();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }
}
