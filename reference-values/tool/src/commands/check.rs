//! `check`: verifies a release against trusted signers and names who vouches for it.

use serde::Serialize;
use tracing::warn;

use super::{Summary, count, hex, print_json, table};
use crate::{cli::Check, failure::Failure, files, time::Time};

/// `check --json`.
#[derive(Serialize)]
struct Report {
    #[serde(flatten)]
    summary: Summary,
    executables: usize,
    boots: usize,
    boot_rules: usize,
    ima_policies: usize,
    /// SHA-256 of what is signed.
    content: String,
    signers: Vec<Vouching>,
}

#[derive(Serialize)]
struct Vouching {
    role: &'static str,
    name: String,
    key: String,
    trusted_until: Option<String>,
}

pub(crate) fn run(arguments: &Check) -> Result<(), Failure> {
    let trust = files::read_trust(&arguments.trust)?;
    let now = Time::now();
    let verified = files::read_release(&arguments.file)?
        .verify(&trust, now.0)
        .map_err(|error| Failure::input(&arguments.file, error))?;
    let release = verified.release();
    if release.valid_from().is_some_and(|from| from > now.0) {
        warn!("the release is not valid yet");
    }
    if release.retire_at().is_some_and(|end| end <= now.0) {
        warn!("the release is retired: devices that run it are stale");
    }
    let signers = verified.signers().iter().map(|signer| Vouching {
        role: signer.role.name(),
        name: signer.name.clone(),
        key: signer.key_id.to_string(),
        trusted_until: trust.find(signer.key_id).and_then(|s| s.not_after).map(|time| Time(time).to_string()),
    });
    let report = Report {
        summary: Summary::of(release),
        executables: release.executables().len(),
        boots: release.boots().len(),
        boot_rules: release.boot_rules().len(),
        ima_policies: release.ima_policies().len(),
        content: hex(verified.content()),
        signers: signers.collect(),
    };
    if arguments.json { print_json(&report) } else { files::print(&report.text()) }
}

impl Report {
    fn text(&self) -> String {
        let files = count(self.executables, "executable", "executables");
        let boots = count(self.boots, "boot", "boots");
        let rules = count(self.boot_rules, "set of boot rules", "sets of boot rules");
        let policies = count(self.ima_policies, "IMA policy", "IMA policies");
        let rows = self.signers.iter().map(|signer| {
            let until = signer.trusted_until.clone().unwrap_or_else(|| "no end".into());
            vec![signer.role.into(), signer.name.clone(), until, signer.key.clone()]
        });
        let table = table(&["VOUCHED AS", "BY", "TRUSTED UNTIL", "KEY"], rows);
        format!(
            "{}{files}, {boots}, {rules}, {policies}, content sha256:{}\n\n{table}",
            self.summary.lines(),
            self.content
        )
    }
}
