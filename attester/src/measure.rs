//! `attester measure`: in go logs and processes, out comes what would be measured now. Nothing is sent, logged or extended,
//! and no TPM is needed.

use std::collections::BTreeMap;

use anyhow::Result;
use attester::{
    boot_log::{self, Program, Source, Summary},
    config::Config,
    sweep::{MeasuredFile, Sweep, Sweeper},
    tpm::{Tpm, TpmConfig},
};
use data_encoding::HEXLOWER;
use evidence::ima;
use serde::Serialize;

use crate::{Output, shown};

/// What is printed with `--json`.
#[derive(Serialize)]
struct Report {
    boot_log: BootReport,
    ima: LogReport,
    tpm: TpmReport,
    processes: u64,
    mappings: u64,
    files: Vec<FileReport>,
    unreadable: Vec<UnreadableReport>,
    overflow: u64,
    memory: MemoryReport,
}

#[derive(Default, Serialize)]
struct LogReport {
    path: String,
    /// Events or entries; absent where there is no log.
    #[serde(skip_serializing_if = "Option::is_none")]
    events: Option<u64>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    problems: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    absent: Option<String>,
}

#[derive(Default, Serialize)]
struct BootReport {
    #[serde(flatten)]
    log: LogReport,
    /// What the log leads to.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pcrs: BTreeMap<u32, String>,
    /// Null where no digest proves it.
    secure_boot: Option<bool>,
    /// Null where no digest proves it.
    command_line: Option<String>,
    /// Boot loaders, kernels, initrds.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    programs: Vec<ProgramReport>,
}

#[derive(Serialize)]
struct ProgramReport {
    pcr: u32,
    name: String,
    sha256: String,
}

#[derive(Default, Serialize)]
struct TpmReport {
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pcrs: BTreeMap<u32, String>,
    /// PCRs 0 to 9 that the boot log does not lead to.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    differs_from_boot_log: Vec<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    absent: Option<String>,
}

#[derive(Serialize)]
struct FileReport {
    path: String,
    sha256: String,
    size: u64,
    kind: &'static str,
}

#[derive(Serialize)]
struct UnreadableReport {
    path: String,
    reason: String,
}

/// What runs without a file behind it.
#[derive(Serialize)]
struct MemoryReport {
    anonymous_executable: u64,
    writable_executable: u64,
    exe_not_mapped: u64,
}

/// Measures and prints.
pub(crate) fn print(config: &Config, json: bool, output: &mut Output) -> Result<()> {
    let sweep = Sweeper::new()?.sweep()?;
    let (boot_log, summary) = boot_report(config);
    let tpm = tpm_report(config, summary.as_ref());
    let report = Report {
        tpm,
        boot_log,
        ima: ima_report(config),
        processes: sweep.processes,
        mappings: sweep.mappings,
        files: sweep.files.iter().map(file_report).collect(),
        unreadable: unreadable(&sweep),
        overflow: sweep.overflow,
        memory: MemoryReport {
            anonymous_executable: sweep.anonymous_executable,
            writable_executable: sweep.writable_executable,
            exe_not_mapped: sweep.exe_not_mapped,
        },
    };
    if json { output.json(&report) } else { output.text(&report.lines()) }
}

fn log_report(path: &std::path::Path, read: impl FnOnce(&[u8], &mut LogReport)) -> LogReport {
    let mut report = LogReport { path: path.display().to_string(), ..LogReport::default() };
    match boot_log::read(path) {
        Source::Log(bytes) => read(&bytes, &mut report),
        Source::Absent(why) => report.absent = Some(why),
    }
    report
}

fn boot_report(config: &Config) -> (BootReport, Option<Summary>) {
    let mut read = None;
    let log = log_report(&config.boot_log, |bytes, report| match Summary::read(bytes) {
        Ok(summary) => {
            report.events = Some(summary.events);
            report.problems.clone_from(&summary.problems);
            read = Some(summary);
        }
        Err(error) => report.problems.push(error.to_string()),
    });
    let mut report = BootReport { log, ..BootReport::default() };
    if let Some(summary) = &read {
        report.pcrs = summary.pcrs.iter().map(|(pcr, value)| (*pcr, HEXLOWER.encode(value))).collect();
        report.secure_boot = summary.secure_boot;
        report.command_line = summary.command_line.as_deref().map(shown);
        report.programs = summary.programs.iter().map(program_report).collect();
    }
    (report, read)
}

fn program_report(program: &Program) -> ProgramReport {
    ProgramReport { pcr: program.pcr, name: shown(&program.name), sha256: HEXLOWER.encode(&program.digest) }
}

fn ima_report(config: &Config) -> LogReport {
    log_report(&config.ima_log, |bytes, report| match ima::replay(bytes) {
        Ok(replay) => {
            report.events = Some(replay.entries as u64);
            report.problems = replay.problems.iter().map(|problem| problem.detail.clone()).collect();
        }
        Err(error) => report.problems.push(error.to_string()),
    })
}

fn tpm_report(config: &Config, boot_log: Option<&Summary>) -> TpmReport {
    match Tpm::open(&TpmConfig::from(config)).and_then(|mut tpm| tpm.pcr_values()) {
        Ok(values) => TpmReport {
            pcrs: (0..).zip(values.all().iter().map(|value| HEXLOWER.encode(value))).collect(),
            differs_from_boot_log: boot_log.map(|log| log.differs(&values)).unwrap_or_default(),
            absent: None,
        },
        Err(error) => TpmReport { absent: Some(error.to_string()), ..TpmReport::default() },
    }
}

fn file_report(file: &MeasuredFile) -> FileReport {
    FileReport {
        path: printable(&file.path),
        sha256: HEXLOWER.encode(&file.digest),
        size: file.size,
        kind: file.kind.name(),
    }
}

fn unreadable(sweep: &Sweep) -> Vec<UnreadableReport> {
    let report = |file: &attester::sweep::Unreadable| UnreadableReport {
        path: printable(&file.path),
        reason: file.reason.clone(),
    };
    sweep.unreadable.iter().map(report).collect()
}

fn printable(path: &[u8]) -> String {
    shown(&String::from_utf8_lossy(path))
}

impl Report {
    fn lines(&self) -> String {
        let mut text = String::new();
        text.push_str(&self.boot_log.lines());
        text.push_str(&self.ima.lines("IMA list"));
        text.push_str(&match (&self.tpm.absent, self.tpm.differs_from_boot_log.as_slice()) {
            (Some(why), _) => format!("TPM: {why}\n"),
            (None, []) if self.boot_log.pcrs.is_empty() => "TPM: no boot log to hold against its PCRs\n".to_owned(),
            (None, []) => "TPM: the boot log leads to its PCRs 0 to 9\n".to_owned(),
            (None, pcrs) => format!("TPM: the boot log does not lead to PCRs {pcrs:?}\n"),
        });
        text.push_str(&format!("{} processes, {} executable mappings\n", self.processes, self.mappings));
        for file in &self.files {
            text.push_str(&format!("{}  {:<12} {}\n", file.sha256, file.kind, file.path));
        }
        for file in &self.unreadable {
            text.push_str(&format!("{:<64}  {:<12} {}: {}\n", "-", "unmeasured", file.path, file.reason));
        }
        let MemoryReport { anonymous_executable, writable_executable, exe_not_mapped } = self.memory;
        text.push_str(&format!(
            "memory: {anonymous_executable} executable mappings without a file, {writable_executable} writable and \
             executable, {exe_not_mapped} processes whose executable is mapped nowhere\n"
        ));
        text
    }
}

impl BootReport {
    fn lines(&self) -> String {
        let mut text = self.log.lines("boot log");
        for (pcr, value) in &self.pcrs {
            text.push_str(&format!("  PCR {pcr:>2} {value}\n"));
        }
        if let Some(on) = self.secure_boot {
            text.push_str(&format!("  secure boot: {}\n", if on { "on" } else { "off" }));
        }
        if let Some(line) = &self.command_line {
            text.push_str(&format!("  command line: {line}\n"));
        }
        for ProgramReport { pcr, name, sha256 } in &self.programs {
            text.push_str(&format!("  {sha256}  PCR {pcr:>2} {name}\n"));
        }
        text
    }
}

impl LogReport {
    fn lines(&self, what: &str) -> String {
        let mut text = match (&self.absent, self.events) {
            (Some(why), _) => format!("{what}: none ({why})\n"),
            (None, Some(events)) => format!("{what}: {events} entries in {}\n", self.path),
            (None, None) => format!("{what}: {} does not read\n", self.path),
        };
        for problem in &self.problems {
            text.push_str(&format!("  problem: {problem}\n"));
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_name_does_not_command_the_terminal() {
        assert_eq!(printable(b"/tmp/\x1b[2J\n"), "/tmp/\\u{1b}[2J\\n");
        assert_eq!(printable("/tmp/ä".as_bytes()), "/tmp/ä");
    }
}
