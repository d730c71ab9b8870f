//! `attester measure`: in go logs and processes, out comes what would be measured now. Nothing is sent, logged or extended,
//! and no TPM is needed.

use std::collections::BTreeMap;

use anyhow::Result;
use attester::{
    boot_log::{self, Source},
    config::Config,
    sweep::{MeasuredFile, Sweep, Sweeper},
    tpm::{Tpm, TpmConfig},
};
use data_encoding::HEXLOWER;
use evidence::{
    eventlog::EventLog,
    ima,
    pcr::{HashAlgorithm, PcrValues},
};
use serde::Serialize;

use crate::{Output, shown};

/// What is printed with `--json`.
#[derive(Serialize)]
struct Report {
    boot_log: LogReport,
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
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pcrs: BTreeMap<u32, String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    problems: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    absent: Option<String>,
}

#[derive(Serialize)]
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
    let boot_log = boot_report(config);
    let tpm = tpm_report(config, &boot_log);
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

fn boot_report(config: &Config) -> LogReport {
    log_report(&config.boot_log, |bytes, report| {
        match EventLog::read(bytes).and_then(|log| log.replay(Some(HashAlgorithm::Sha256))) {
            Ok(replay) => {
                report.events = Some(replay.events as u64);
                let pcr = |pcr| Some((pcr, HEXLOWER.encode(&replay.sha256(pcr)?)));
                report.pcrs = (0..PcrValues::BYTES as u32 / 32).filter_map(pcr).collect();
                report.problems = replay.problems.iter().map(|problem| problem.detail.clone()).collect();
            }
            Err(error) => report.problems.push(error.to_string()),
        }
    })
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

/// PCRs 0 to 9 that the boot log does not lead to.
pub(crate) fn differs_from_boot_log(config: &Config, tpm: &mut Tpm) -> Vec<u32> {
    let report = boot_report(config);
    tpm.pcr_values().map(|values| differs(&report, &all(&values))).unwrap_or_default()
}

fn all(values: &PcrValues) -> BTreeMap<u32, String> {
    (0..).zip(values.all().iter().map(|value| HEXLOWER.encode(value))).collect()
}

/// What the operating system extends after boot is in no boot log.
fn differs(boot_log: &LogReport, pcrs: &BTreeMap<u32, String>) -> Vec<u32> {
    let differs = |pcr: &u32| boot_log.pcrs.get(pcr).is_some_and(|replayed| pcrs.get(pcr) != Some(replayed));
    (0..=9).filter(differs).collect()
}

fn tpm_report(config: &Config, boot_log: &LogReport) -> TpmReport {
    let read = Tpm::open(&TpmConfig::from(config)).and_then(|mut tpm| tpm.pcr_values());
    let values = match read {
        Ok(values) => values,
        Err(error) => {
            return TpmReport {
                pcrs: BTreeMap::new(),
                differs_from_boot_log: Vec::new(),
                absent: Some(error.to_string()),
            };
        }
    };
    let pcrs = all(&values);
    TpmReport { differs_from_boot_log: differs(boot_log, &pcrs), pcrs, absent: None }
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
        for (what, log) in [("boot log", &self.boot_log), ("IMA list", &self.ima)] {
            text.push_str(&log.lines(what));
        }
        text.push_str(&match (&self.tpm.absent, self.tpm.differs_from_boot_log.as_slice()) {
            (Some(why), _) => format!("TPM: {why}\n"),
            (None, []) => "TPM: its PCRs do not contradict the boot log\n".to_owned(),
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

impl LogReport {
    fn lines(&self, what: &str) -> String {
        let mut text = match (&self.absent, self.events) {
            (Some(why), _) => format!("{what}: none ({why})\n"),
            (None, Some(events)) => format!("{what}: {events} entries in {}\n", self.path),
            (None, None) => format!("{what}: {} does not read\n", self.path),
        };
        for (pcr, value) in &self.pcrs {
            text.push_str(&format!("  PCR {pcr:>2} {value}\n"));
        }
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
