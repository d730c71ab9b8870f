//! `verifier inspect`: a file, or standard input, into what it is.

use std::{
    fs::File,
    io::{self, Read},
    path::PathBuf,
    process::ExitCode,
};

use clap::Args;
use evidence::limits::MAX_LOG;
use serde_json::{Map, Value};

use super::{
    FAILED, MALFORMED,
    show::{self, Row, cell, table},
};
use crate::inspect::inspect;

/// Decodes any artefact by its content: evidence, logs, TPM structures, reference values, results
#[derive(Debug, Args)]
pub(super) struct InspectArgs {
    /// File; `-` for standard input
    file: PathBuf,
    /// As JSON
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: &InspectArgs) -> ExitCode {
    let failed = |why: String, code: u8| {
        eprintln!("error: {}: {why}", args.file.display());
        ExitCode::from(code)
    };
    let bytes = match read(&args.file) {
        Ok(bytes) => bytes,
        Err(error) => return failed(format!("cannot be read: {error}"), FAILED),
    };
    let artefact = match inspect(&bytes) {
        Ok(artefact) => artefact,
        Err(fault) => return failed(fault.to_string(), MALFORMED),
    };
    let text = if args.json { format!("{artefact}\n") } else { text(&artefact) };
    match show::print(&text) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => failed(format!("cannot write to stdout: {error}"), FAILED),
    }
}

/// One byte more than any artefact may have is enough to know that it has too many.
fn read(file: &PathBuf) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let limit = MAX_LOG as u64 + 1;
    if file.as_os_str() == "-" {
        io::stdin().lock().take(limit).read_to_end(&mut bytes)?;
    } else {
        File::open(file)?.take(limit).read_to_end(&mut bytes)?;
    }
    Ok(bytes)
}

/// An artefact for people: its facts, then its tables.
fn text(artefact: &Value) -> String {
    let Value::Object(fields) = artefact else { return String::new() };
    let mut facts: Vec<Row> = Vec::new();
    let mut tables = String::new();
    collect("", fields, &mut facts, &mut tables);
    facts.sort_by_key(|row| row.first().is_none_or(|(name, _)| name != "kind"));
    table(&["", ""], facts) + &tables
}

/// Flattens what nests. `pcrs` and `listing` become tables.
fn collect(prefix: &str, fields: &Map<String, Value>, facts: &mut Vec<Row>, tables: &mut String) {
    for (name, value) in fields {
        let name = if prefix.is_empty() { name.clone() } else { format!("{prefix}.{name}") };
        match value {
            Value::Object(inner) if name.ends_with("pcrs") => *tables += &pcr_table(inner),
            Value::Array(events) if name.ends_with("listing") => *tables += &listing_table(events),
            Value::Object(inner) => collect(&name, inner, facts, tables),
            Value::Array(items) if items.iter().any(Value::is_object) => {
                for (at, item) in items.iter().enumerate() {
                    let Value::Object(inner) = item else { continue };
                    if is_flat(inner) {
                        let line: Vec<String> = inner.values().map(scalar).collect();
                        facts.push(vec![cell(format!("{name}[{at}]")), cell(line.join(" "))]);
                    } else {
                        collect(&format!("{name}[{at}]"), inner, facts, tables);
                    }
                }
            }
            value => facts.push(vec![cell(name), cell(scalar(value))]),
        }
    }
}

fn is_flat(fields: &Map<String, Value>) -> bool {
    fields.values().all(|value| !value.is_object() && !value.is_array())
}

fn scalar(value: &Value) -> String {
    match value {
        Value::Null => "-".to_owned(),
        Value::String(text) => text.clone(),
        Value::Array(items) if items.is_empty() => "none".to_owned(),
        Value::Array(items) => items.iter().map(scalar).collect::<Vec<_>>().join(" "),
        value => value.to_string(),
    }
}

/// The events of a boot log, with as much of a digest as tells them apart.
fn listing_table(events: &[Value]) -> String {
    const SHORT: usize = 12;
    let short = |digest: &str| {
        let (algorithm, hex) = digest.split_once(':').unwrap_or(("", digest));
        format!("{algorithm}:{}", hex.get(..SHORT).unwrap_or(hex))
    };
    let row = |event: &Value| {
        let proven = event["proven"].as_bool().map_or("-", |proven| if proven { "proven" } else { "unproven" });
        vec![
            cell(scalar(&event["event"])),
            cell(scalar(&event["pcr"])),
            cell(scalar(&event["type"])),
            cell(event["digest"].as_str().map_or_else(|| "-".to_owned(), short)),
            cell(proven),
            cell(scalar(&event["content"])),
        ]
    };
    table(&["EVENT", "PCR", "TYPE", "DIGEST", "CONTENT IS", "CONTENT"], events.iter().map(row).collect())
}

/// `{bank: {pcr: value}}`, in the order of the PCRs' numbers.
fn pcr_table(banks: &Map<String, Value>) -> String {
    let mut rows: Vec<(String, u32, String)> = Vec::new();
    for (bank, values) in banks {
        let values = values.as_object().into_iter().flatten();
        rows.extend(values.map(|(pcr, value)| (bank.clone(), pcr.parse().unwrap_or(u32::MAX), scalar(value))));
    }
    rows.sort();
    let row = |(bank, pcr, value): (String, u32, String)| vec![cell(bank), cell(pcr.to_string()), cell(value)];
    table(&["BANK", "PCR", "VALUE"], rows.into_iter().map(row).collect())
}
