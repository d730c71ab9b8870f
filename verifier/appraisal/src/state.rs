//! What a verifier remembers of a device between two evidence messages, and what it knows of it beside evidence.

use evidence::{
    claims::Why,
    pcr::PcrValues,
    result::{Acknowledged, TrustVector},
    tpm::Counters,
};
use reference_values::ReferenceIndex;
use serde::{Deserialize, Serialize};

use crate::{
    UnixSeconds,
    cause::{Cause, Code, End},
    continuity::{Anchor, Interval, Pace},
    freshness::Last,
    information::Information,
    standing::Standing,
    verdict::Verdict,
};

/// Findings kept per boot; further ones are counted, not kept: the verdict is the same, and a device must not be able
/// to grow its row.
pub const MAX_FINDINGS: usize = 64;
/// Compromises of earlier boots that are kept.
pub const MAX_COMPROMISED: usize = 16;
/// Releases whose rules a boot was held against that are kept: those that it is of, and the nearest.
pub const MAX_JUDGED: usize = 16;
/// Paths of excluded files that are kept.
pub const MAX_EXCLUDED_PATHS: usize = 16;
/// Ways in which a boot breaks a release's rules that are kept.
pub const MAX_VIOLATIONS: usize = 8;

/// A program, library or other file with code that a log reported.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct MeasuredFile {
    /// SHA-256 of its content.
    #[serde(with = "serde_bytes")]
    pub digest: [u8; 32],
    /// Path as reported, printable: a word, not evidence.
    pub path: String,
    /// Kind of observation, as the log names it.
    pub kind: String,
}

/// How far a log has been replayed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Track {
    /// Index of the next entry.
    pub next: u64,
    /// Value of the PCR after the entries so far.
    #[serde(with = "serde_bytes")]
    pub value: [u8; 32],
    /// Whether, since the TPM started again, it was replayed past where it explained a quote before and had another value
    /// there. If it leads to a quote none the less, the PCR began anew in between.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(crate) differs: bool,
}

impl Track {
    /// Nothing yet, from the PCR's value before the first entry.
    #[must_use]
    pub const fn from_start(value: [u8; 32]) -> Self {
        Self { next: 0, value, differs: false }
    }
}

/// What stays true until the device boots again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    /// Cause that it gives.
    pub code: Code,
    /// What and where.
    pub detail: String,
    /// When it was first reported.
    pub since: UnixSeconds,
}

/// What is held of one boot, named by the TPM's (resetCount, restartCount).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BootState {
    /// resetCount.
    pub reset: u32,
    /// restartCount.
    pub restart: u32,
    /// Values that the last accepted quote covers, 16 × 32 bytes.
    #[serde(with = "serde_bytes")]
    pcrs: Option<Vec<u8>>,
    /// Value of the runtime PCR after the boot log; `None` while no boot log is held.
    pub boot_log: Option<BootLogFacts>,
    /// Runtime log.
    pub runtime: Track,
    /// IMA list.
    pub ima: Track,
    /// Findings, bounded.
    pub findings: Vec<Finding>,
    /// Findings beyond the bound.
    pub further_findings: u64,
    /// Releases that list everything seen so far.
    pub releases: Option<Vec<String>>,
    /// Where the logs last explained a quote, while they stand elsewhere.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) anchor: Option<Anchor>,
    /// restartCount before the TPM started again, until the logs show whether the boot went on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) resumed_from: Option<u32>,
    /// What quotes cover of this boot.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) attested: Option<Interval>,
    /// Quotes that the TPM's clock is held against.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) pace: Option<Pace>,
    /// What the boot log is by releases' rules.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub judged: Vec<JudgedRelease>,
    /// Whether the boot log has to be sent once more, to be held against rules that came after it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(crate) log_wanted: bool,
    /// What the PCRs of the logs held when another kernel began them anew, without a boot (kexec).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) kexec: Option<Beginnings>,
    /// The IMA policy of a release that the list shows last.
    #[serde(default, skip_serializing_if = "Option::is_none", with = "serde_bytes")]
    pub(crate) ima_policy: Option<[u8; 32]>,
    /// Releases that list the files which [`Self::releases`] do not: what this boot is a mixture with. Empty where they are of
    /// several.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) others: Option<Vec<String>>,
    /// What exclusions let through.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub excluded: Option<LetThrough>,
    /// Whether IMA shows programs; `None` in states from before this was looked at.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) ima_sight: Option<ImaSight>,
}

/// Files that no release lists, and that the policy excludes.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LetThrough {
    /// How many times one was reported in this boot.
    pub count: u64,
    /// The first paths, bounded.
    pub paths: Vec<String>,
}

/// An update that a device is, or was, in the middle of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Update {
    /// The earlier release.
    pub from: String,
    /// The later one.
    pub to: String,
    /// When files of both were first seen beside each other.
    pub since: UnixSeconds,
    /// When they were last.
    pub seen: UnixSeconds,
}

/// The highest release that a device was seen to run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Highest {
    /// Its sequence.
    pub sequence: u64,
    /// When it was first seen.
    pub at: UnixSeconds,
}

/// Whether IMA's list shows what runs. A kernel with IMA and without a policy has a list too, of boot_aggregate alone.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ImaSight {
    /// Whether it lists a file that a release lists.
    files: bool,
    /// Whether one of these is a program that the runtime log reports as running.
    programs: bool,
    /// First bytes of the digests of such programs, the first few, until then.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    running: Vec<[u8; 8]>,
}

impl ImaSight {
    /// Nothing seen yet.
    pub(crate) const NONE: Self = Self { files: false, programs: false, running: Vec::new() };
    /// Programs that are looked for: init and its first children, among them the attester.
    const MAX_RUNNING: usize = 32;

    /// Takes notice of a program that the runtime log reports.
    pub(crate) fn runs(&mut self, digest: &[u8; 32]) {
        if let Some(first) = digest.first_chunk()
            && !self.programs
            && self.running.len() < Self::MAX_RUNNING
            && !self.running.contains(first)
        {
            self.running.push(*first);
        }
    }

    /// Takes notice of a file of IMA's list that a release lists: what begins like it and is listed is the same file.
    pub(crate) fn lists(&mut self, digest: &[u8; 32]) {
        self.files = true;
        self.programs |= digest.first_chunk().is_some_and(|first| self.running.contains(first));
        if self.programs {
            self.running = Vec::new();
        }
    }

    /// Whether programs are in the list, as far as the runtime log (where there is one) can tell.
    pub(crate) const fn shows_programs(&self, with_runtime_log: bool) -> bool {
        self.programs || (self.files && !with_runtime_log)
    }
}

/// PCR values from which logs go on that began anew.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Beginnings {
    #[serde(with = "serde_bytes")]
    pub(crate) ima: [u8; 32],
    /// `None` where the runtime log went on.
    #[serde(default, skip_serializing_if = "Option::is_none", with = "serde_bytes")]
    pub(crate) runtime: Option<[u8; 32]>,
}

/// A boot log, held against one release's rules.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct JudgedRelease {
    /// The release.
    pub release: String,
    /// Which of its rules, by position.
    pub rules: u32,
    /// How the boot breaks them, bounded; none: it is this release's.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub violations: Vec<Violation>,
    /// How many there are in all.
    #[serde(default)]
    pub broken: u32,
    /// Events of vendors' own types that the rules do not name, bounded.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub vendor_events: Vec<String>,
    /// The kernel's command line, where log and rules together say it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub command_line: Option<String>,
    /// The kernel's release, as the rules name it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kernel: Option<String>,
}

/// One way in which a boot breaks a rule.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Violation {
    /// Cause that it gives.
    pub code: Code,
    /// PCR, event, digest.
    pub detail: String,
}

/// A boot in few words, for people.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct BootSummary {
    /// Whether secure boot was on, where the log proves it.
    pub secure_boot: Option<bool>,
    /// The kernel's command line, where the log proves it, or the release that was matched says it.
    pub command_line: Option<String>,
    /// The kernel's release, where the boot is of a release that names it.
    pub kernel: Option<String>,
    /// Events of the boot log; 0 without one.
    pub events: u64,
    /// resetCount.
    pub reset: u32,
    /// restartCount.
    pub restart: u32,
}

/// What is kept of a boot log that replays to the quote.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct BootLogFacts {
    /// SHA-256 of the log.
    #[serde(with = "serde_bytes")]
    pub digest: [u8; 32],
    /// Events in it.
    pub events: u64,
    /// Value that the runtime PCR has after it.
    #[serde(with = "serde_bytes")]
    pub runtime_start: [u8; 32],
    /// Whether secure boot was on, where it is proved.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secure_boot: Option<bool>,
    /// The kernel's command line, where the log itself proves it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub command_line: Option<String>,
    /// Values that the log leads to of PCRs from 11 on, but zeros.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub later_pcrs: Vec<PcrValue>,
}

/// Value of one PCR.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct PcrValue {
    #[serde(rename = "p")]
    /// Which.
    pub pcr: u8,
    #[serde(rename = "v", with = "serde_bytes")]
    /// What it holds.
    pub value: [u8; 32],
}

impl BootState {
    /// A boot of which nothing is held yet.
    #[must_use]
    pub const fn new(counters: &Counters) -> Self {
        Self {
            reset: counters.reset,
            restart: counters.restart,
            pcrs: None,
            boot_log: None,
            runtime: Track::from_start([0; 32]),
            ima: Track::from_start([0; 32]),
            findings: Vec::new(),
            further_findings: 0,
            releases: None,
            anchor: None,
            resumed_from: None,
            attested: None,
            pace: None,
            judged: Vec::new(),
            log_wanted: false,
            kexec: None,
            ima_policy: None,
            others: None,
            excluded: None,
            ima_sight: Some(ImaSight::NONE),
        }
    }

    /// Counts a file that an exclusion lets through.
    pub(crate) fn let_through(&mut self, path: &str) {
        let excluded = self.excluded.get_or_insert_default();
        excluded.count = excluded.count.saturating_add(1);
        if excluded.paths.len() < MAX_EXCLUDED_PATHS && !excluded.paths.iter().any(|known| known == path) {
            excluded.paths.push(path.to_owned());
        }
    }

    /// Whether a log contradicts what was quoted.
    pub(crate) fn is_contradicted(&self) -> bool {
        self.findings.iter().any(|finding| finding.code == Code::LogMismatch)
    }

    /// Whether IMA's list shows what runs.
    pub(crate) fn ima_shows_programs(&self, with_runtime_log: bool) -> bool {
        // Of an older state nothing is known but that there is more than boot_aggregate.
        self.ima_sight.as_ref().map_or(self.ima.next > 1, |sight| sight.shows_programs(with_runtime_log))
    }

    /// What the runtime log's PCR held before its first entry.
    pub(crate) fn runtime_start(&self) -> [u8; 32] {
        let of_boot = || self.boot_log.as_ref().map_or([0; 32], |log| log.runtime_start);
        self.kexec.and_then(|begun| begun.runtime).unwrap_or_else(of_boot)
    }

    /// What IMA's PCR held before its list's first entry.
    pub(crate) fn ima_start(&self) -> [u8; 32] {
        self.kexec.map_or([0; 32], |begun| begun.ima)
    }

    /// In few words.
    #[must_use]
    pub fn summary(&self) -> BootSummary {
        let log = self.boot_log.as_ref();
        let matched = self.judged.iter().rev().find(|judged| judged.violations.is_empty());
        // What the kernel was told, by the rules; the log alone may name what was measured later.
        let by_rules = matched.and_then(|judged| judged.command_line.clone());
        BootSummary {
            secure_boot: log.and_then(|log| log.secure_boot),
            command_line: by_rules.or_else(|| log.and_then(|log| log.command_line.clone())),
            kernel: matched.and_then(|judged| judged.kernel.clone()),
            events: log.map_or(0, |log| log.events),
            reset: self.reset,
            restart: self.restart,
        }
    }

    /// PCR values that the last quote covered.
    #[must_use]
    pub fn pcrs(&self) -> Option<PcrValues> {
        PcrValues::from_bytes(self.pcrs.as_deref()?)
    }

    pub(crate) fn set_pcrs(&mut self, values: &PcrValues) {
        self.pcrs = Some(values.to_bytes());
    }

    /// What the device need not send again.
    #[must_use]
    pub const fn acknowledged(&self) -> Acknowledged {
        Acknowledged {
            reset: self.reset,
            restart: self.restart,
            boot_log: self.boot_log.is_some() && !self.log_wanted,
            ima: self.ima.next,
            runtime: self.runtime.next,
            pcr_values: self.pcrs.is_some(),
        }
    }

    /// Notes what was found, once. Where an operator ended the very same finding, and it is there `anew`, it begins anew.
    pub(crate) fn find(&mut self, found: Finding, anew: Option<Approval>) {
        let same = |known: &&mut Finding| known.code == found.code && known.detail == found.detail;
        if let Some(known) = self.findings.iter_mut().find(same) {
            if anew.is_some_and(|approval| approval.ended(known)) {
                known.since = found.since;
            }
        } else if !keep(&mut self.findings, MAX_FINDINGS, found) {
            self.further_findings = self.further_findings.saturating_add(1);
        }
    }

    /// What is covered of this boot.
    #[must_use]
    pub fn attested(&self) -> Option<Attested> {
        let Interval { from, until } = self.attested?;
        Some(Attested { from, until, reset: self.reset, restart: self.restart })
    }
}

/// Adds a compromise to those of earlier boots; one that is there already is as young as the younger, so that no approval
/// between the two ends both.
pub(crate) fn keep_compromise(compromised: &mut Vec<Finding>, found: &Finding) {
    let same = |known: &&mut Finding| known.code == found.code && known.detail == found.detail;
    match compromised.iter_mut().find(same) {
        Some(known) => known.since = known.since.max(found.since),
        None => _ = keep(compromised, MAX_COMPROMISED, found.clone()),
    }
}

/// Adds a finding among at most `max`; false where it had to go, or another for it. Where there is no room, the first of
/// a kind takes the place of the last of the most frequent kind: many findings must hide no other cause.
pub(crate) fn keep(findings: &mut Vec<Finding>, max: usize, found: Finding) -> bool {
    if findings.len() < max {
        findings.push(found);
        return true;
    }
    if findings.iter().all(|known| known.code != found.code) {
        let count = |code: Code| findings.iter().filter(|known| known.code == code).count();
        let most = findings.iter().map(|known| known.code).max_by_key(|code| count(*code));
        if let Some(place) = findings.iter_mut().rev().find(|known| Some(known.code) == most) {
            *place = found;
        }
    }
    false
}

/// An operator's last approval; 0 for none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Approval(pub(crate) UnixSeconds);

impl Approval {
    /// Whether it ended this finding: one that an operator ends, and that was there by then.
    pub(crate) fn ended(self, finding: &Finding) -> bool {
        finding.code.row().end == End::Operator && finding.since <= self.0
    }

    /// Since when a finding of `now` counts: what is judged with the approval in view was not there for it.
    pub(crate) fn first_after(self, now: UnixSeconds) -> UnixSeconds {
        now.max(self.0.saturating_add(1))
    }
}

/// Everything that one accepted evidence leaves behind.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceState {
    /// Counters and digest of that evidence.
    #[serde(with = "last")]
    pub last: Last,
    /// The boot it belongs to.
    pub boot: BootState,
    /// Verdict at that time.
    pub verdict: Verdict,
    /// Claims.
    pub vector: TrustVector,
    /// Why the verdict is not better.
    pub causes: Vec<Cause>,
    /// Causes that policy tolerated.
    pub tolerated: Vec<Code>,
    /// When it was judged.
    pub judged: UnixSeconds,
    /// When the verdict ends to say anything.
    pub expires: UnixSeconds,
    /// Why the device attested, by its own word.
    #[serde(with = "why")]
    pub last_check: Why,
    /// Release that it runs, derived from what matches.
    pub release: Option<String>,
    /// Index of reference values that it was judged against.
    #[serde(with = "serde_bytes")]
    pub references: [u8; 32],
    /// Product for which it was judged.
    pub product: Option<String>,
    /// TPM firmware.
    pub firmware_version: u64,
    /// Version of the attester, by its own word.
    pub attester_version: String,
    /// Nonces issued before this are not accepted any more ([`crate::Accepts::since`]): the TPM was cleared then.
    #[serde(default)]
    pub since: UnixSeconds,
    /// The last accepted quote is not older than this.
    #[serde(default)]
    pub not_older_than: UnixSeconds,
    /// When it turned out that the TPM was cleared, until an operator approves.
    #[serde(default)]
    pub cleared: Option<UnixSeconds>,
    /// Compromises that earlier boots showed, until an operator approves.
    #[serde(default)]
    pub compromised: Vec<Finding>,
    /// What is worth knowing, and does not lower the verdict; bounded.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub information: Vec<Information>,
    /// The last update that it was in the middle of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub update: Option<Update>,
    /// The highest release that it ran, since it was approved.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub highest: Option<Highest>,
}

/// What is covered by accepted quotes without a gap.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attested {
    /// When the first of the quotes was received.
    pub from: UnixSeconds,
    /// The last of the quotes is not older than this.
    pub until: UnixSeconds,
    /// resetCount of the boot.
    pub reset: u32,
    /// restartCount of the boot.
    pub restart: u32,
}

impl DeviceState {
    /// Whether the files held of this boot have to be held against reference values again: these, or the product, are
    /// others than before.
    #[must_use]
    pub fn asks_for_files(&self, references: &ReferenceIndex, standing: &Standing) -> bool {
        self.product != standing.product || self.references != references.standing_id(standing.product.as_deref())
    }

    /// Whether the boot log held of this boot has to be loaded, to be held against rules that are others than before.
    #[must_use]
    pub fn asks_for_boot_log(&self, references: &ReferenceIndex, standing: &Standing) -> bool {
        self.boot.boot_log.is_some() && self.asks_for_files(references, standing)
    }

    /// What is covered of the present boot.
    #[must_use]
    pub fn attested(&self) -> Option<Attested> {
        self.boot.attested()
    }

    /// Verdict and causes as they stand at `now`: what has expired says nothing any more. What is known beside evidence is
    /// in [`crate::Current`].
    #[must_use]
    pub fn at(&self, now: UnixSeconds) -> (Verdict, Vec<Cause>) {
        if now < self.expires {
            return (self.verdict, self.causes.clone());
        }
        let overdue = Cause {
            code: Code::Overdue,
            detail: format!("last verdict: {}", self.verdict),
            first_seen: self.expires,
            last_seen: now,
        };
        (Verdict::Unknown, std::iter::once(overdue).chain(self.causes.iter().cloned()).collect())
    }
}

mod last {
    use evidence::tpm::Counters;
    use serde::{Deserialize, Deserializer, Serialize, Serializer};
    use serde_bytes::ByteArray;

    use crate::freshness::Last;

    pub(super) fn serialize<S: Serializer>(last: &Last, serializer: S) -> Result<S::Ok, S::Error> {
        let Counters { reset, restart, clock } = last.counters;
        (reset, restart, clock, ByteArray::new(last.evidence)).serialize(serializer)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Last, D::Error> {
        let (reset, restart, clock, evidence): (_, _, _, ByteArray<32>) = Deserialize::deserialize(deserializer)?;
        Ok(Last { counters: Counters { reset, restart, clock }, evidence: evidence.into_array() })
    }
}

mod why {
    use evidence::claims::Why;
    use serde::{Deserialize, Deserializer, Serializer, de::Error as _};

    #[expect(clippy::trivially_copy_pass_by_ref, reason = "serde's signature")]
    pub(super) fn serialize<S: Serializer>(why: &Why, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_u8(*why as u8)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Why, D::Error> {
        Why::from_number(u8::deserialize(deserializer)?).ok_or_else(|| D::Error::custom("unknown reason"))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use evidence::tpm::Counters;
    use serde_cbor::Value;

    use super::*;
    use crate::information::Notice;

    fn finding(code: Code, number: u64) -> Finding {
        Finding { code, detail: number.to_string(), since: number }
    }

    fn state() -> DeviceState {
        let counters = Counters { reset: 1, restart: 2, clock: 3 };
        DeviceState {
            last: Last { counters, evidence: [4; 32] },
            boot: BootState::new(&counters),
            verdict: Verdict::Affirmed,
            vector: TrustVector::default(),
            causes: vec![],
            tolerated: vec![],
            judged: 100,
            expires: 200,
            last_check: Why::Epoch,
            release: None,
            references: [5; 32],
            product: None,
            firmware_version: 6,
            attester_version: "0.1.0".into(),
            since: 7,
            not_older_than: 90,
            cleared: Some(8),
            compromised: vec![finding(Code::RuntimeTextChanged, 9)],
            information: vec![Information { code: Notice::BootResumed, detail: "once".into(), since: 10 }],
            update: Some(Update { from: "1".into(), to: "2".into(), since: 11, seen: 12 }),
            highest: Some(Highest { sequence: 2, at: 13 }),
        }
    }

    #[test]
    fn what_is_kept_comes_back_as_it_was() {
        let mut state = state();
        let when = crate::continuity::When { not_older_than: 90, received: 91, steady_since: 0 };
        state.boot.keeps_pace(1, &when);
        state.boot.cover(true, false, &when);
        state.boot = state.boot.resumed(&Counters { reset: 1, restart: 9, clock: 10 });
        state.boot.boot_log = Some(BootLogFacts {
            secure_boot: Some(true),
            command_line: Some("quiet".into()),
            later_pcrs: vec![PcrValue { pcr: 11, value: [2; 32] }],
            ..BootLogFacts::default()
        });
        state.boot.judged = vec![JudgedRelease {
            release: "1.0".into(),
            rules: 1,
            violations: vec![Violation { code: Code::BootSeparator, detail: "PCR 7 has no separator".into() }],
            broken: 1,
            vendor_events: vec!["PCR 1".into()],
            command_line: Some("quiet".into()),
            kernel: Some("6.1".into()),
        }];
        state.boot.log_wanted = true;
        state.boot.kexec = Some(Beginnings { ima: [3; 32], runtime: Some([4; 32]) });
        state.boot.ima_policy = Some([5; 32]);
        state.boot.others = Some(vec!["2".into()]);
        state.boot.let_through("/opt/a");
        state.boot.ima_sight.as_mut().unwrap().runs(&[6; 32]);
        state.boot.set_explained(Anchor { runtime: Track::from_start([1; 32]), ima: state.boot.ima }, false);
        let bytes = serde_cbor::to_vec(&state).unwrap();
        assert_eq!(serde_cbor::from_slice::<DeviceState>(&bytes).unwrap(), state);
    }

    #[test]
    fn a_state_from_before_the_newer_fields_can_be_read() {
        let mut map: BTreeMap<String, Value> = serde_cbor::from_slice(&serde_cbor::to_vec(&state()).unwrap()).unwrap();
        for newer in ["since", "not_older_than", "cleared", "compromised", "information", "update", "highest"] {
            assert!(map.remove(newer).is_some(), "{newer}");
        }
        let read: DeviceState = serde_cbor::from_slice(&serde_cbor::to_vec(&map).unwrap()).unwrap();
        let none = (vec![], vec![]);
        let expected = DeviceState {
            since: 0,
            not_older_than: 0,
            cleared: None,
            compromised: none.0,
            information: none.1,
            update: None,
            highest: None,
            ..state()
        };
        assert_eq!(read, expected);
    }

    #[test]
    fn the_command_line_is_what_the_rules_say_that_the_kernel_was_told_and_without_them_what_the_log_proves() {
        let mut boot = state().boot;
        boot.boot_log = Some(BootLogFacts { command_line: Some("quiet".into()), ..BootLogFacts::default() });
        boot.judged = vec![JudgedRelease {
            release: "1.0".into(),
            rules: 0,
            violations: vec![Violation { code: Code::BootSeparator, detail: "PCR 7 has no separator".into() }],
            broken: 1,
            vendor_events: vec![],
            command_line: Some("told".into()),
            kernel: None,
        }];
        assert_eq!(boot.summary().command_line.as_deref(), Some("quiet"), "of another release's boot");
        boot.judged[0].violations.clear();
        assert_eq!(boot.summary().command_line.as_deref(), Some("told"));
        boot.judged.clear();
        assert_eq!(boot.summary().command_line.as_deref(), Some("quiet"));
    }

    #[test]
    fn a_boot_from_before_rules_can_be_read_and_takes_no_room_for_them() {
        let bytes = serde_cbor::to_vec(&state().boot).unwrap();
        let map: BTreeMap<String, Value> = serde_cbor::from_slice(&bytes).unwrap();
        let newer = ["judged", "log_wanted", "kexec", "ima_policy", "others", "excluded"];
        assert!(newer.iter().all(|newer| !map.contains_key(*newer)), "{map:?}");
        let old = BTreeMap::from([
            ("digest", Value::Bytes(vec![1; 32])),
            ("events", Value::Integer(2)),
            ("runtime_start", Value::Bytes(vec![3; 32])),
        ]);
        let read: BootLogFacts = serde_cbor::from_slice(&serde_cbor::to_vec(&old).unwrap()).unwrap();
        assert_eq!(
            read,
            BootLogFacts { digest: [1; 32], events: 2, runtime_start: [3; 32], ..BootLogFacts::default() }
        );
    }

    #[test]
    fn many_findings_of_one_kind_push_out_their_own_and_no_other() {
        let mut findings = Vec::new();
        assert!(keep(&mut findings, 4, finding(Code::ImaViolation, 0)));
        (1..9).for_each(|n| _ = keep(&mut findings, 4, finding(Code::RuntimeUnmeasured, n)));
        assert!(!keep(&mut findings, 4, finding(Code::RuntimeTextChanged, 9)));
        assert!(!keep(&mut findings, 4, finding(Code::RuntimeTextChanged, 10)));
        let kept: Vec<_> = findings.iter().map(|finding| (finding.code, finding.since)).collect();
        let expected = [
            (Code::ImaViolation, 0),
            (Code::RuntimeUnmeasured, 1),
            (Code::RuntimeUnmeasured, 2),
            (Code::RuntimeTextChanged, 9),
        ];
        assert_eq!(kept, expected);
        assert!(!keep(&mut vec![], 0, finding(Code::LogMismatch, 1)));
    }
}
