//! `verifier store`: a copy of the database while the service runs, and its migration while none does. Both work on the
//! file itself, as the user that may read it: no network client can make the service write files.

use std::{
    fs::{self, TryLockError},
    path::PathBuf,
    process::ExitCode,
};

use clap::{Args, Subcommand};
use serde_json::json;

use super::{
    FAILED, USAGE,
    service::{Failure, finish},
    show,
};
use crate::{
    config::{Config, ConfigError},
    store::{BackupError, Versions, backup, migrate},
};

/// Copies and migrates the store
#[derive(Debug, Args)]
pub(super) struct StoreArgs {
    /// Configuration [default: /etc/countersign/verifier.toml]
    #[arg(long, value_name = "FILE", global = true)]
    config: Option<PathBuf>,
    /// As JSON
    #[arg(long, global = true)]
    json: bool,
    #[command(subcommand)]
    command: StoreCommand,
}

#[derive(Debug, Subcommand)]
enum StoreCommand {
    /// Copies the store, whole and from one instant, into a new file, whether a service runs or not
    Backup {
        /// File to make, readable by you alone; it holds the verifier's keys
        file: PathBuf,
    },
    /// Brings the store up to this program's version, while no service runs
    Migrate,
}

impl From<ConfigError> for Failure {
    fn from(error: ConfigError) -> Self {
        Self(error.to_string(), USAGE)
    }
}

impl From<BackupError> for Failure {
    fn from(error: BackupError) -> Self {
        let usage = matches!(error, BackupError::Exists(_) | BackupError::Name(_));
        Self(error.to_string(), if usage { USAGE } else { FAILED })
    }
}

pub(super) fn run(args: &StoreArgs) -> ExitCode {
    finish((|| {
        let config = Config::load(args.config.as_deref(), std::env::vars_os())?;
        let (json, text) = match &args.command {
            StoreCommand::Backup { file } => {
                backup(&config.store(), file)?;
                let bytes = fs::metadata(file).map_or(0, |metadata| metadata.len());
                let text = format!("copied {} to {} ({bytes} bytes)", config.store().display(), file.display());
                (json!({ "store": config.store(), "backup": file, "bytes": bytes }), text)
            }
            StoreCommand::Migrate => {
                let Versions { found, known } = migrate_alone(&config)?;
                let text = format!("{}: version {found} to {known}", config.store().display());
                (json!({ "store": config.store(), "from": found, "to": known }), text)
            }
        };
        let shown = if args.json { json.to_string() } else { text };
        show::print(&(shown + "\n")).map_err(|error| Failure(format!("cannot write to stdout: {error}"), FAILED))?;
        Ok(0)
    })())
}

/// Holds the lock that a service holds for as long as it runs.
fn migrate_alone(config: &Config) -> Result<Versions, Failure> {
    let path = config.client_id_file();
    let lock = match fs::File::open(&path) {
        Ok(file) => Some(file),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => None,
        Err(error) => return Err(Failure(format!("cannot read {}: {error}", path.display()), FAILED)),
    };
    match lock.as_ref().map(fs::File::try_lock) {
        Some(Err(TryLockError::WouldBlock)) => {
            let why = "a verifier runs on the store in";
            return Err(Failure(format!("{why} {}: end it first", config.data_dir.display()), FAILED));
        }
        Some(Err(TryLockError::Error(error))) => {
            return Err(Failure(format!("cannot lock {}: {error}", path.display()), FAILED));
        }
        Some(Ok(())) | None => {}
    }
    migrate(&config.store()).map_err(|error| Failure(error.to_string(), FAILED))
}
