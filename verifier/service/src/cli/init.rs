//! `verifier init`: what the user typed into a [`Plan`], and what came of it onto the terminal.

use std::{path::PathBuf, process::ExitCode};

use clap::Args;

use crate::{
    config::{DEFAULT_BROKER, DEFAULT_LISTEN, DEFAULT_NAME, host_and_port, listen_address, verifier_name},
    init::{Plan, init},
    serve::now,
};

/// Exit code for bad usage.
const USAGE: u8 = 2;

/// Makes keys, certificates and a commented configuration in a new folder.
#[derive(Debug, Args)]
pub struct InitArgs {
    /// Folder to make; it must not exist, or be empty.
    pub dir: PathBuf,
    /// Name of this verifier in topics; devices know it by this name.
    #[arg(long, default_value = DEFAULT_NAME)]
    pub name: String,
    /// Where the MQTT broker listens; devices use this address too.
    #[arg(long, value_name = "HOST:PORT", default_value = DEFAULT_BROKER)]
    pub broker: String,
    /// Where the HTTP API listens, on loopback; port 0 lets the system choose.
    #[arg(long, value_name = "ADDRESS:PORT", default_value = DEFAULT_LISTEN)]
    pub http: String,
}

/// Runs it.
#[must_use]
pub fn run(args: InitArgs) -> ExitCode {
    let plan = match plan(args) {
        Ok(plan) => plan,
        Err(why) => {
            eprintln!("error: {why}");
            return ExitCode::from(USAGE);
        }
    };
    match init(&plan) {
        Ok(dir) => {
            println!(
                "made {dir}\n\
                 next: verifier roots add FILE --config {dir}/verifier.toml   (CAs of the TPM makers you trust)\n\
                 then: verifier serve --config {dir}/verifier.toml\n\
                 devices need {dir}/verifier.pub.pem, and broker/ca.pem, broker/enrol.pem and broker/enrol.key beside it",
                dir = dir.display()
            );
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("error: {error}");
            if error.is_usage() { ExitCode::from(USAGE) } else { ExitCode::FAILURE }
        }
    }
}

fn plan(args: InitArgs) -> Result<Plan, String> {
    Ok(Plan {
        name: verifier_name(&args.name).map_err(|why| format!("--name: {why}"))?,
        broker: host_and_port(&args.broker).map_err(|why| format!("--broker: {why}"))?,
        http: listen_address(&args.http).map_err(|why| format!("--http: {why}"))?,
        dir: args.dir,
        now: now(),
    })
}
