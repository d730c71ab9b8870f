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
    /// Where devices find the MQTT broker.
    #[arg(long, value_name = "HOST:PORT", default_value = DEFAULT_BROKER)]
    pub broker: String,
    /// Port on the same host where devices enrol [default: the devices' + 1].
    #[arg(long, value_name = "PORT", value_parser = clap::value_parser!(u16).range(1..))]
    pub enrolment_port: Option<u16>,
    /// Port on this machine where verifiers connect to the broker [default: the devices' + 2].
    #[arg(long, value_name = "PORT", value_parser = clap::value_parser!(u16).range(1..))]
    pub service_port: Option<u16>,
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
            let (host, port) = &plan.broker;
            println!(
                "made {dir}\n\
                 next: verifier roots add FILE --config {dir}/verifier.toml   (CAs of the TPM makers you trust)\n\
                 then: verifier serve --config {dir}/verifier.toml\n\
                 on devices: {dir}/attester.toml.example and the four files that it names; they connect to {host}:{port}, \
                 and to {host}:{enrolment} until they are enrolled",
                dir = dir.display(),
                enrolment = plan.enrolment_port,
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
    let broker = host_and_port(&args.broker).map_err(|why| format!("--broker: {why}"))?;
    let above = |typed: Option<u16>, by: u16, option: &str| {
        let port = typed.or_else(|| broker.1.checked_add(by));
        port.ok_or_else(|| format!("there is no port {by} above that of --broker: name one with {option}"))
    };
    let enrolment_port = above(args.enrolment_port, 1, "--enrolment-port")?;
    let service_port = above(args.service_port, 2, "--service-port")?;
    if enrolment_port == broker.1 || service_port == broker.1 || enrolment_port == service_port {
        return Err("--broker, --enrolment-port and --service-port must be three ports".to_owned());
    }
    Ok(Plan {
        name: verifier_name(&args.name).map_err(|why| format!("--name: {why}"))?,
        broker,
        enrolment_port,
        service_port,
        http: listen_address(&args.http).map_err(|why| format!("--http: {why}"))?,
        dir: args.dir,
        now: now(),
    })
}
