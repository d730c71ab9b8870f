//! One file per command. Each takes its arguments, does its work and prints; none ends the process itself.

pub(crate) mod build;
pub(crate) mod check;
pub(crate) mod diff;
pub(crate) mod keygen;
mod rules;
pub(crate) mod show;
pub(crate) mod sign;

use data_encoding::HEXLOWER;
use reference_values::{BootPcrs, Release};
use serde::Serialize;
use std::collections::BTreeMap;

use crate::{failure::Failure, files, time::Time};

/// What every command says of a release first.
#[derive(Serialize)]
struct Summary {
    product: String,
    release: String,
    sequence: u64,
    valid_from: Option<String>,
    retire_at: Option<String>,
}

impl Summary {
    fn of(release: &Release) -> Self {
        Self {
            product: release.product().into(),
            release: release.name().into(),
            sequence: release.sequence(),
            valid_from: release.valid_from().map(|time| Time(time).to_string()),
            retire_at: release.retire_at().map(|time| Time(time).to_string()),
        }
    }

    /// As lines for people.
    fn lines(&self) -> String {
        let Self { product, release, sequence, valid_from, retire_at } = self;
        let mut out = format!("{product} {release}, sequence {sequence}\n");
        if let Some(from) = valid_from {
            out.push_str(&format!("valid from {from}\n"));
        }
        if let Some(until) = retire_at {
            out.push_str(&format!("retired at {until}\n"));
        }
        out
    }
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
