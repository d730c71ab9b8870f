//! `verifier label` and `verifier forget`: what operators call a device, and the end of all that is known of it.

use std::{
    collections::BTreeMap,
    io::{self, BufRead as _, IsTerminal as _, Write as _},
    process::ExitCode,
    time::Duration,
};

use clap::Args;

use super::{
    FAILED, USAGE,
    devices::labels_text,
    service::{Failure, Service, Which, finish},
    show::printable,
};
use crate::{
    http::api::{DeviceJson, ForgetJson, ForgottenJson, LabelsJson},
    store::LabelChange,
};

/// Sets labels of a device; without any, shows them
#[derive(Debug, Args)]
pub(super) struct LabelArgs {
    #[command(flatten)]
    service: Service,
    #[command(flatten)]
    which: Which,
    /// Label to set; without a value it is removed
    #[arg(value_name = "KEY=VALUE")]
    labels: Vec<String>,
}

pub(super) fn label(args: &LabelArgs) -> ExitCode {
    finish((|| {
        let labels = changes(&args.labels)?;
        let answer = if labels.is_empty() {
            args.service.client()?.get(&args.which.path("")?)?
        } else {
            args.service.client()?.post(&args.which.path("/labels")?, &LabelsJson { labels }, Duration::ZERO)?
        };
        args.service.show(&answer, |device: &DeviceJson| {
            let labels = &device.summary.labels;
            let shown = if labels.is_empty() { "no labels".to_owned() } else { labels_text(labels) };
            format!("{}\t{}\n", device.summary.id, printable(&shown))
        })?;
        Ok(0)
    })())
}

fn changes(typed: &[String]) -> Result<BTreeMap<String, Option<String>>, Failure> {
    let mut changes = BTreeMap::new();
    for text in typed {
        let (key, value) = text.split_once('=').ok_or_else(|| Failure(format!("`{text}` is not KEY=VALUE"), USAGE))?;
        let value = Some(value).filter(|value| !value.is_empty());
        let change = LabelChange::new(key, value).map_err(|error| Failure(error.to_string(), USAGE))?;
        if changes.insert(change.key().to_owned(), change.value().map(str::to_owned)).is_some() {
            return Err(Failure(format!("label `{key}` stands there twice"), USAGE));
        }
    }
    Ok(changes)
}

/// Removes everything that is known of a device: state, history, keys, labels
#[derive(Debug, Args)]
pub(super) struct ForgetArgs {
    #[command(flatten)]
    service: Service,
    #[command(flatten)]
    which: Which,
    /// Without asking first
    #[arg(long)]
    yes: bool,
    /// Even where the device is shut out: its TPM can enrol anew then
    #[arg(long)]
    and_unblock: bool,
}

pub(super) fn forget(args: &ForgetArgs) -> ExitCode {
    finish((|| {
        let client = args.service.client()?;
        if !args.yes {
            // What would go, by its whole id, before anything goes.
            let device = client.get(&args.which.path("")?)?;
            let device: DeviceJson = serde_json::from_slice(&device)
                .map_err(|error| Failure(format!("the service's answer is not understood: {error}"), FAILED))?;
            confirm(&format!("forget device {} and all its history?", device.summary.id))?;
        }
        let body = ForgetJson { unblock: args.and_unblock };
        let answer = client.post(&args.which.path("/forget")?, &body, Duration::ZERO)?;
        args.service.show(&answer, |forgotten: &ForgottenJson| format!("forgot {}\n", forgotten.id))?;
        Ok(0)
    })())
}

/// Goes on only where somebody at a terminal says so.
fn confirm(question: &str) -> Result<(), Failure> {
    if !io::stdin().is_terminal() {
        return Err(Failure("there is nobody to ask: say --yes".to_owned(), USAGE));
    }
    eprint!("{} [y/N] ", printable(question));
    drop(io::stderr().flush());
    let mut said = String::new();
    let read = io::stdin().lock().read_line(&mut said);
    read.map_err(|error| Failure(format!("cannot read the answer: {error}"), FAILED))?;
    if matches!(said.trim(), "y" | "Y" | "yes") { Ok(()) } else { Err(Failure("nothing was done".to_owned(), FAILED)) }
}
