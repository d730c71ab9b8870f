//! `show`: prints what a release says. Nobody vouches for what is printed here.

use std::collections::BTreeMap;

use reference_values::SignedRelease;
use serde::Serialize;

use super::{
    Summary, count, hex, pcrs, print_json,
    rules::{Policy, Rules},
    table,
};
use crate::{cli::Show, failure::Failure, files};

/// `show --json`.
#[derive(Serialize)]
struct Content {
    #[serde(flatten)]
    summary: Summary,
    /// Values by PCR, one map per boot.
    boots: Vec<BTreeMap<u8, String>>,
    boot_rules: Vec<Rules>,
    ima_policies: Vec<Policy>,
    executables: Vec<File>,
    /// As the file states them; `check` verifies them.
    signatures: Vec<Stated>,
}

#[derive(Serialize)]
struct File {
    path: String,
    sha256: String,
}

#[derive(Serialize)]
struct Stated {
    role: &'static str,
    key: String,
}

pub(crate) fn run(arguments: &Show) -> Result<(), Failure> {
    let content = Content::of(&files::read_release(&arguments.file)?);
    if arguments.json { print_json(&content) } else { files::print(&content.text()) }
}

impl Content {
    fn of(file: &SignedRelease) -> Self {
        let release = file.release();
        let listed = release.executables().iter();
        let mut executables =
            listed.map(|file| File { path: file.path.clone(), sha256: hex(&file.digest) }).collect::<Vec<_>>();
        executables.sort_by(|a, b| (&a.path, &a.sha256).cmp(&(&b.path, &b.sha256)));
        let signatures = file.signatures().iter();
        Self {
            summary: Summary::of(release),
            boots: release.boots().iter().map(pcrs).collect(),
            boot_rules: release.boot_rules().iter().map(Into::into).collect(),
            ima_policies: release.ima_policies().iter().map(Into::into).collect(),
            executables,
            signatures: signatures
                .map(|signature| Stated { role: signature.stated_role().name(), key: signature.key().to_string() })
                .collect(),
        }
    }

    fn text(&self) -> String {
        let mut out = self.summary.lines();
        if self.signatures.is_empty() {
            out.push_str("not signed\n");
        }
        for Stated { role, key } in &self.signatures {
            out.push_str(&format!("signed as {role} by key {key} (not verified; `check` does that)\n"));
        }
        for (number, boot) in self.boots.iter().enumerate() {
            let rows = boot.iter().map(|(index, value)| vec![index.to_string(), value.clone()]);
            out.push_str(&format!("\nboot {} of {}\n", number + 1, self.boots.len()));
            out.push_str(&table(&["PCR", "SHA-256"], rows));
        }
        for (number, rules) in self.boot_rules.iter().enumerate() {
            out.push_str(&format!("\nboot rules {} of {}\n{}", number + 1, self.boot_rules.len(), rules.text()));
        }
        if !self.ima_policies.is_empty() {
            out.push_str(&format!("\n{}\n", count(self.ima_policies.len(), "IMA policy", "IMA policies")));
            self.ima_policies.iter().for_each(|policy| out.push_str(&format!("{}\n", policy.line())));
        }
        if !self.executables.is_empty() {
            out.push_str(&format!("\n{}\n", count(self.executables.len(), "executable", "executables")));
            for File { path, sha256 } in &self.executables {
                out.push_str(&format!("{sha256}  {path}\n"));
            }
        }
        out
    }
}
