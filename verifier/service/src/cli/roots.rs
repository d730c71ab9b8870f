//! `verifier roots`: which makers of TPMs are trusted; adding one to the folder, and listing them.

use std::{path::PathBuf, process::ExitCode};

use clap::{Args, Subcommand};
use data_encoding::HEXLOWER;
use jiff::Timestamp;
use serde_json::json;

use crate::{
    config::Config,
    identity::{EkRoots, Root, RootClass, RootsError},
};

/// Shows and extends the CAs that vouch for endorsement keys.
#[derive(Debug, Args)]
pub struct RootsArgs {
    /// Configuration, which `verifier init` makes [default: /etc/countersign/verifier.toml]
    #[arg(long, value_name = "FILE", global = true)]
    pub config: Option<PathBuf>,
    /// What to do.
    #[command(subcommand)]
    pub command: RootsCommand,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum RootsCommand {
    /// Adds the CA certificates in a file; a running service takes them on SIGHUP.
    Add {
        /// PEM or DER.
        file: PathBuf,
        /// CA of software TPMs: a class of its own, which is never taken for hardware.
        #[arg(long)]
        software: bool,
    },
    /// Lists the trusted CAs.
    List {
        /// As JSON.
        #[arg(long)]
        json: bool,
    },
}

/// Runs it.
#[must_use]
pub fn run(args: &RootsArgs) -> ExitCode {
    let config = match Config::load(args.config.as_deref(), std::env::vars_os()) {
        Ok(config) => config,
        Err(error) => {
            eprintln!("error: {error}");
            return ExitCode::from(2);
        }
    };
    let done = match &args.command {
        RootsCommand::Add { file, software } => {
            let class = if *software { RootClass::Software } else { RootClass::Hardware };
            let added = EkRoots::add(&config.ek_roots, file, class, Timestamp::now());
            added.map(|added| {
                println!("added to {}:", config.ek_roots.display());
                added.iter().for_each(|root| println!("{}", line(root)));
                println!("a running service takes them on SIGHUP");
            })
        }
        RootsCommand::List { json } => EkRoots::load(&config.ek_roots).map(|roots| print(roots.list(), *json)),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::from(if matches!(error, RootsError::Io { .. }) { 1 } else { 6 })
        }
    }
}

fn print(roots: &[Root], as_json: bool) {
    if as_json {
        let list: Vec<_> = roots
            .iter()
            .map(|root| {
                json!({
                    "fingerprint": HEXLOWER.encode(root.fingerprint()),
                    "class": root.class().as_str(),
                    "subject": root.subject(),
                    "not_after": root.not_after(),
                })
            })
            .collect();
        println!("{}", json!({ "roots": list }));
    } else if roots.is_empty() {
        println!("no CA is trusted: no device can enrol; add one with `verifier roots add FILE`");
    } else {
        roots.iter().for_each(|root| println!("{}", line(root)));
    }
}

fn line(root: &Root) -> String {
    let fingerprint = HEXLOWER.encode(root.fingerprint());
    format!("{}  {:8}  until {}  {}", fingerprint, root.class().as_str(), root.not_after(), root.subject())
}
