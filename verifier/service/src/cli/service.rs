//! What commands share that ask the running service: where it is, which device is meant, how an answer is shown, and how
//! a failure ends.

use std::{path::PathBuf, process::ExitCode};

use clap::Args;
use serde::de::DeserializeOwned;

use super::{
    FAILED, USAGE,
    show::{self, printable},
};
use crate::client::{Client, ClientError};

/// Which service, and how its answer is shown.
#[derive(Debug, Args)]
pub(super) struct Service {
    /// Configuration, for the service's address and token [default: /etc/countersign/verifier.toml]
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// The service's address, such as http://127.0.0.1:8443
    #[arg(long)]
    url: Option<String>,
    /// As JSON
    #[arg(long)]
    pub(super) json: bool,
}

/// A device.
#[derive(Debug, Args)]
pub(super) struct Which {
    /// Its id, or the first 8 or more of its digits
    pub(super) id: String,
}

/// Why a command failed, and its exit code.
pub(super) struct Failure(pub(super) String, pub(super) u8);

impl From<ClientError> for Failure {
    fn from(error: ClientError) -> Self {
        Self(error.to_string(), if error.is_usage() { USAGE } else { FAILED })
    }
}

pub(super) type Outcome = Result<u8, Failure>;

pub(super) fn finish(outcome: Outcome) -> ExitCode {
    match outcome {
        Ok(code) => ExitCode::from(code),
        Err(Failure(why, code)) => {
            eprintln!("error: {}", printable(&why));
            ExitCode::from(code)
        }
    }
}

impl Service {
    pub(super) fn client(&self) -> Result<Client, Failure> {
        Ok(Client::find(self.url.as_deref(), self.config.as_deref(), std::env::vars_os())?)
    }

    /// Shows an answer: JSON as it is, or `text` made of it.
    pub(super) fn show<T: DeserializeOwned>(
        &self,
        answer: &[u8],
        text: impl FnOnce(&T) -> String,
    ) -> Result<T, Failure> {
        let read = serde_json::from_slice(answer);
        let read: T = read.map_err(|error| {
            Failure(format!("the service's answer is not understood: {error}; is it another version?"), FAILED)
        })?;
        let shown = if self.json { String::from_utf8_lossy(answer).trim_end().to_owned() + "\n" } else { text(&read) };
        show::print(&shown).map_err(|error| Failure(format!("cannot write to stdout: {error}"), FAILED))?;
        Ok(read)
    }
}

impl Which {
    /// Path of the device; what is no id never reaches the service.
    pub(super) fn path(&self, rest: &str) -> Result<String, Failure> {
        let digits = self.id.bytes().all(|c| matches!(c, b'0'..=b'9' | b'a'..=b'f'));
        if !(8..=64).contains(&self.id.len()) || !digits {
            let why = "is not a device id: give 64 lower-case hex digits, or the first 8 or more of them";
            return Err(Failure(format!("`{}` {why}", self.id), USAGE));
        }
        Ok(format!("/v1/devices/{}{rest}", self.id))
    }
}
