//! What a verifier remembers of a device between two evidence messages, and what it knows of it beside evidence.

use std::sync::Arc;

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
    cause::{Cause, Code},
    freshness::Last,
    verdict::Verdict,
};

/// Findings kept per boot; further ones are counted, not kept: the verdict is the same, and a device must not be able
/// to grow its row.
pub const MAX_FINDINGS: usize = 64;

/// What kind of root the device's EK certificate leads to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum EkClass {
    /// A TPM maker's: hardware or firmware.
    Hardware,
    /// A software TPM's.
    #[default]
    Software,
}

/// TPM firmware that a deny list names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FirmwareRange {
    /// Lowest firmwareVersion, as quotes state it.
    pub first: u64,
    /// Highest.
    pub last: u64,
    /// Why it is denied.
    pub why: String,
}

/// What is known of a device from enrolment, from operators and from lists. Never from evidence.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Standing {
    /// Class of the EK's root.
    pub ek_class: EkClass,
    /// Which product it is, by endorsement or an operator's word.
    pub product: Option<String>,
    /// Why it is shut out, if it is.
    pub revoked: Option<String>,
    /// Since when it is shut out; 0 where that is not known.
    pub revoked_at: UnixSeconds,
    /// Whether its endorsement key has no certificate, and an operator's word stands in for it.
    pub no_ek_certificate: bool,
    /// When somebody proved its endorsement key with another attestation key than the registered one.
    pub key_changed: Option<UnixSeconds>,
    /// What checking its endorsement key's certificate again came to, where it is good no more: one of
    /// [`Code::IdentityEkRevoked`], [`Code::IdentityEkDenied`] and [`Code::IdentityEkUntrusted`].
    pub endorsement: Option<Finding>,
    /// Firmware of its TPM's maker that is denied.
    pub denied_firmware: Arc<[FirmwareRange]>,
    /// When an operator last approved it; 0 for never. Causes with [`crate::cause::End::Operator`] that were there by
    /// then are over.
    pub approved_at: UnixSeconds,
}

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
}

impl Track {
    /// Nothing yet, from the PCR's value before the first entry.
    #[must_use]
    pub const fn from_start(value: [u8; 32]) -> Self {
        Self { next: 0, value }
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
}

/// What is kept of a boot log that replays to the quote.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BootLogFacts {
    /// SHA-256 of the log.
    #[serde(with = "serde_bytes")]
    pub digest: [u8; 32],
    /// Events in it.
    pub events: u64,
    /// Value that the runtime PCR has after it.
    #[serde(with = "serde_bytes")]
    pub runtime_start: [u8; 32],
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
            boot_log: self.boot_log.is_some(),
            ima: self.ima.next,
            runtime: self.runtime.next,
            pcr_values: self.pcrs.is_some(),
        }
    }

    pub(crate) fn find(&mut self, code: Code, detail: String, now: UnixSeconds) {
        if self.findings.iter().any(|known| known.code == code && known.detail == detail) {
            return;
        }
        if self.findings.len() < MAX_FINDINGS {
            self.findings.push(Finding { code, detail, since: now });
        } else {
            self.further_findings = self.further_findings.saturating_add(1);
        }
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
        self.references != *references.id() || self.product != standing.product
    }

    /// Verdict and causes as they stand at `now`: what has expired says nothing any more.
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
