//! `verifier keys`: the keys that a verifier signs with, and replacing them.

use std::{process::ExitCode, time::Duration};

use clap::{Args, Subcommand};

use super::{
    service::{Service, finish},
    show::{Row, cell, table},
};
use crate::http::api::{KeyJson, KeysJson};

/// How long the service may take to make keys and publish them.
const PATIENCE: Duration = Duration::from_secs(30);

/// Shows and replaces the keys that this verifier signs with
#[derive(Debug, Args)]
pub(super) struct KeysArgs {
    #[command(subcommand)]
    command: KeysCommand,
}

#[derive(Debug, Subcommand)]
enum KeysCommand {
    /// Shows the keys in force
    Show {
        #[command(flatten)]
        service: Service,
    },
    /// Makes new keys, signed by the root key, whose file the service must be able to read
    Rotate {
        #[command(flatten)]
        service: Service,
    },
}

pub(super) fn run(args: &KeysArgs) -> ExitCode {
    finish((|| {
        let (service, answer) = match &args.command {
            KeysCommand::Show { service } => (service, service.client()?.get("/v1/keys")?),
            KeysCommand::Rotate { service } => {
                (service, service.client()?.post("/v1/keys/rotate", &serde_json::json!({}), PATIENCE)?)
            }
        };
        service.show(&answer, keys_text)?;
        Ok(0)
    })())
}

fn keys_text(keys: &KeysJson) -> String {
    let row = |name: &str, value: &str| -> Row { vec![cell(name), cell(value)] };
    let key = |name: &str, key: &KeyJson| row(name, &key.id);
    table(
        &["", ""],
        vec![
            row("root", &keys.root),
            row("made", &keys.made),
            row("not after", &keys.not_after),
            key("request", &keys.request),
            key("result", &keys.result),
            key("log", &keys.log),
        ],
    )
}
