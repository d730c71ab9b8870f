//! One file per command. Each takes its arguments, does its work and prints; none ends the process itself.

pub(crate) mod build;
pub(crate) mod check;
pub(crate) mod diff;
pub(crate) mod endorse;
pub(crate) mod import;
pub(crate) mod keygen;
pub(crate) mod notice;
mod notices;
pub(crate) mod publish;
mod rules;
pub(crate) mod show;
pub(crate) mod sign;

use data_encoding::HEXLOWER;
use reference_values::{BootPcrs, Content, Document, Kind, Release};
use serde::Serialize;
use std::{collections::BTreeMap, path::Path};
use tracing::info;

use crate::{cli::OfRelease, failure::Failure, files, time::Time};

/// What every command says of a document first.
#[derive(Serialize)]
struct Summary {
    kind: Kind,
    product: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    release: Option<String>,
    /// Of a list or a notice.
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<String>,
    sequence: u64,
    valid_from: Option<String>,
    retire_at: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    update_window_seconds: Option<u64>,
    /// Of a list or a notice.
    #[serde(skip_serializing_if = "Option::is_none")]
    expires: Option<String>,
}

impl Summary {
    fn of(document: &Document) -> Self {
        let time = |time: u64| Time(time).to_string();
        let release = match document {
            Document::Release(release) => Some(release),
            Document::Endorsements(_) | Document::Notice(_) => None,
        };
        let name = || document.name().to_owned();
        Self {
            kind: document.kind(),
            product: document.product().into(),
            release: release.map(|_| name()),
            name: release.is_none().then(name),
            sequence: document.sequence(),
            valid_from: release.and_then(|release| release.valid_from()).map(time),
            retire_at: release.and_then(|release| release.retire_at()).map(time),
            update_window_seconds: release.and_then(|release| release.update_window()),
            expires: document.expires().map(time),
        }
    }

    /// As lines for people.
    fn lines(&self) -> String {
        let Self { product, release, name, sequence, valid_from, retire_at, update_window_seconds, expires, .. } = self;
        let what = match (release, name) {
            (Some(release), _) => format!("{product} {release}"),
            (None, Some(name)) if self.kind == Kind::Notice => format!("notice {name} about {product}"),
            (None, name) => format!("endorsements {} of {product}", name.as_deref().unwrap_or_default()),
        };
        let mut out = format!("{what}, sequence {sequence}\n");
        if let Some(from) = valid_from {
            out.push_str(&format!("valid from {from}\n"));
        }
        if let Some(until) = retire_at {
            out.push_str(&format!("retired at {until}\n"));
        }
        if let Some(seconds) = update_window_seconds {
            out.push_str(&format!("devices have {} to update\n", duration(*seconds)));
        }
        if let Some(end) = expires {
            out.push_str(&format!("ends at {end}\n"));
        }
        out
    }
}

/// In the largest unit that it is a whole number of.
fn duration(seconds: u64) -> String {
    for (unit, one, many) in [(86_400, "day", "days"), (3_600, "hour", "hours"), (60, "minute", "minutes")] {
        if seconds > 0 && seconds.is_multiple_of(unit) {
            return count(usize::try_from(seconds / unit).unwrap_or(usize::MAX), one, many);
        }
    }
    count(usize::try_from(seconds).unwrap_or(usize::MAX), "second", "seconds")
}

/// Makes the release that was typed, and writes it.
fn write_release(of: &OfRelease, content: Content) -> Result<Release, Failure> {
    let release = Release::with_content(&of.product, &of.release, sequence(of.sequence)?, content)
        .and_then(|release| release.valid(of.valid_from.map(|t| t.0), of.retire_at.map(|t| t.0)))
        .and_then(|release| release.with_update_window(of.update_window.map(|window| window.0)))
        .map_err(|error| Failure::Usage(error.to_string()))?;
    write_unsigned(&release.encode(), &of.output)?;
    Ok(release)
}

/// A sequence that was given, or that the time gives.
fn sequence(given: Option<u64>) -> Result<u64, Failure> {
    if let Some(given) = given {
        return Ok(given);
    }
    match std::env::var("SOURCE_DATE_EPOCH") {
        Ok(text) => text
            .parse()
            .map_err(|_| Failure::Usage(format!("SOURCE_DATE_EPOCH is {text:?}; seconds since 1970 are expected"))),
        Err(_) => Ok(Time::now().0),
    }
}

/// Writes an unsigned document that everyone else can read, limits included.
fn write_unsigned(bytes: &[u8], output: &Path) -> Result<(), Failure> {
    Document::decode(bytes).map_err(|error| Failure::Usage(error.to_string()))?;
    files::replace(output, bytes)?;
    info!("{} bytes written to {}", bytes.len(), output.display());
    Ok(())
}

fn hex(bytes: &[u8]) -> String {
    HEXLOWER.encode(bytes)
}

fn pcrs(boot: &BootPcrs) -> BTreeMap<u8, String> {
    boot.pcrs().iter().map(|(&index, value)| (index, hex(value))).collect()
}

fn count(n: usize, one: &str, many: &str) -> String {
    format!("{n} {}", if n == 1 { one } else { many })
}

fn print_json(value: &impl Serialize) -> Result<(), Failure> {
    let text = serde_json::to_string_pretty(value).map_err(|error| Failure::Operation(error.to_string()))?;
    files::print(&format!("{text}\n"))
}

/// A table without frame, whose columns line up.
fn table(head: &[&str], rows: impl IntoIterator<Item = Vec<String>>) -> String {
    let mut table = comfy_table::Table::new();
    table.load_preset(comfy_table::presets::NOTHING).set_header(head).add_rows(rows);
    for column in table.column_iter_mut() {
        column.set_padding((0, 2));
    }
    let lines = table.to_string().lines().map(|line| line.trim_end().to_owned()).collect::<Vec<_>>();
    format!("{}\n", lines.join("\n"))
}
