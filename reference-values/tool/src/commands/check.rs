//! `check`: verifies a document against trusted signers and names who vouches for it.

use reference_values::{Document, Release};
use serde::Serialize;
use tracing::warn;

use super::{Summary, count, hex, notices::TakenBack, print_json, table};
use crate::{cli::Check, failure::Failure, files, time::Time};

/// `check --json`.
#[derive(Serialize)]
struct Report {
    #[serde(flatten)]
    summary: Summary,
    #[serde(flatten)]
    amounts: Amounts,
    /// SHA-256 of what is signed.
    content: String,
    signers: Vec<Vouching>,
}

/// How much of what it says.
#[derive(Serialize)]
#[serde(untagged)]
enum Amounts {
    Release { executables: usize, boots: usize, boot_rules: usize, ima_policies: usize, boot_images: usize },
    Endorsements { devices: usize },
    Notice(TakenBack),
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
    let verified = files::read_document(&arguments.file)?
        .verify(&trust, now.0)
        .map_err(|error| Failure::input(&arguments.file, error))?;
    let document = verified.document();
    warn_of_dates(document, now);
    let signers = verified.signers().iter().map(|signer| Vouching {
        role: signer.role.name(),
        name: signer.name.clone(),
        key: signer.key_id.to_string(),
        trusted_until: trust.find(signer.key_id).and_then(|s| s.not_after).map(|time| Time(time).to_string()),
    });
    let report = Report {
        summary: Summary::of(document),
        amounts: Amounts::of(document),
        content: hex(verified.content()),
        signers: signers.collect(),
    };
    if arguments.json { print_json(&report) } else { files::print(&report.text()) }
}

fn warn_of_dates(document: &Document, now: Time) {
    let release = match document {
        Document::Release(release) => Some(release),
        Document::Endorsements(_) | Document::Notice(_) => None,
    };
    if release.and_then(Release::valid_from).is_some_and(|from| from > now.0) {
        warn!("the release is not valid yet");
    }
    if release.and_then(Release::retire_at).is_some_and(|end| end <= now.0) {
        warn!("the release is retired: devices that run it are stale");
    }
    if document.expires().is_some_and(|end| end <= now.0) {
        warn!("it has ended, and says nothing any more");
    }
}

impl Amounts {
    fn of(document: &Document) -> Self {
        match document {
            Document::Release(release) => Self::Release {
                executables: release.executables().len(),
                boots: release.boots().len(),
                boot_rules: release.boot_rules().len(),
                ima_policies: release.ima_policies().len(),
                boot_images: release.images().len(),
            },
            Document::Endorsements(list) => Self::Endorsements { devices: list.entries().len() },
            Document::Notice(notice) => Self::Notice(notice.into()),
        }
    }

    fn line(&self) -> String {
        match self {
            Self::Release { executables, boots, boot_rules, ima_policies, boot_images } => format!(
                "{}, {}, {}, {}, {}",
                count(*executables, "executable", "executables"),
                count(*boots, "boot", "boots"),
                count(*boot_rules, "set of boot rules", "sets of boot rules"),
                count(*ima_policies, "IMA policy", "IMA policies"),
                count(*boot_images, "boot image", "boot images"),
            ),
            Self::Endorsements { devices } => count(*devices, "device", "devices"),
            Self::Notice(taken) => taken.summary(),
        }
    }

    /// What a notice takes back, a line each: who signs or trusts it wants to know just that.
    fn says(&self) -> String {
        match self {
            Self::Release { .. } | Self::Endorsements { .. } => String::new(),
            Self::Notice(taken) => taken.lines().iter().map(|line| format!("  {line}\n")).collect(),
        }
    }
}

impl Report {
    fn text(&self) -> String {
        let rows = self.signers.iter().map(|signer| {
            let until = signer.trusted_until.clone().unwrap_or_else(|| "no end".into());
            vec![signer.role.into(), signer.name.clone(), until, signer.key.clone()]
        });
        let table = table(&["VOUCHED AS", "BY", "TRUSTED UNTIL", "KEY"], rows);
        let (summary, amounts, says) = (self.summary.lines(), self.amounts.line(), self.amounts.says());
        format!("{summary}{amounts}, content sha256:{}\n{says}\n{table}", self.content)
    }
}
