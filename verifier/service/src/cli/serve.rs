//! `verifier serve`: the configuration into a running service, and why it could not start into an exit code.

use std::{path::PathBuf, process::ExitCode};

use clap::Args;

use crate::{config::Config, serve::serve};

/// Runs the service: MQTT, appraisal, store, HTTP API and metrics.
#[derive(Debug, Args)]
pub struct ServeArgs {
    /// Configuration, which `verifier init` makes [default: /etc/countersign/verifier.toml]
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// The system's clock is right, although this verifier has seen a later time
    #[arg(long)]
    pub accept_clock: bool,
}

/// Runs it until a signal ends it.
#[must_use]
pub fn run(args: &ServeArgs) -> ExitCode {
    let config = match Config::load(args.config.as_deref(), std::env::vars_os()) {
        Ok(config) => config,
        Err(error) => return failed(&error, true),
    };
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return failed(&error, false),
    };
    match runtime.block_on(serve(config, args.accept_clock)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => failed(&error, error.is_configuration()),
    }
}

fn failed(error: &dyn std::error::Error, configuration: bool) -> ExitCode {
    eprintln!("error: {error}");
    ExitCode::from(if configuration { 2 } else { 1 })
}
