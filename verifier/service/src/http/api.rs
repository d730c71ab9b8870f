//! JSON of the HTTP API, as both its ends know it: the service writes these shapes, the command line reads them.
//! Times are RFC 3339 in UTC.

use std::collections::BTreeMap;

use appraisal::{
    Cause, Code, EkClass, Information, UnixSeconds, Verdict,
    state::{Attested, BootSummary},
};
use evidence::{result::Tier, tpm::P256Point, verifier_message::VerifierKeyId};
use reference_values::{ReferenceIndex, ReleaseEntry, Signer};
use serde::{Deserialize, Serialize};

use super::SignedKeys;
use crate::{
    references::{Fault, InForce, Published, Refused, Status, Title, vouched},
    store::{self, Role},
};

/// RFC 3339 in UTC, to the second.
#[must_use]
pub fn time(seconds: UnixSeconds) -> String {
    let seconds = i64::try_from(seconds).unwrap_or(i64::MAX);
    jiff::Timestamp::from_second(seconds).unwrap_or(jiff::Timestamp::MAX).to_string()
}

fn hex(bytes: &[u8]) -> String {
    data_encoding::HEXLOWER.encode(bytes)
}

/// One cause.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CauseJson {
    /// Stable code.
    pub code: String,
    /// What and where.
    pub detail: String,
    /// Since when.
    pub first_seen: String,
    /// When it was last shown.
    pub last_seen: String,
}

impl From<&Cause> for CauseJson {
    fn from(cause: &Cause) -> Self {
        Self {
            code: cause.code.row().code.to_owned(),
            detail: cause.detail.clone(),
            first_seen: time(cause.first_seen),
            last_seen: time(cause.last_seen),
        }
    }
}

/// One claim.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClaimJson {
    /// AR4SI value.
    pub value: u8,
    /// Its tier.
    pub tier: String,
}

/// A device in a list.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SummaryJson {
    /// 64 hex digits.
    pub id: String,
    /// Verdict as it stands now.
    pub verdict: Verdict,
    /// When the last verdict ends, or ended.
    pub expires: Option<String>,
    /// When evidence was last accepted.
    pub last_evidence: Option<String>,
    /// Why the device attested then.
    pub last_check: Option<String>,
    /// Product.
    pub product: Option<String>,
    /// Release.
    pub release: Option<String>,
    /// Causes.
    pub causes: Vec<CauseJson>,
    /// Codes of causes that policy tolerated.
    pub tolerated: Vec<String>,
    /// What operators call it.
    pub labels: BTreeMap<String, String>,
}

impl From<&store::Summary> for SummaryJson {
    fn from(summary: &store::Summary) -> Self {
        let code = |code: &Code| code.row().code.to_owned();
        Self {
            id: summary.id.to_string(),
            verdict: summary.verdict,
            expires: summary.expires.map(time),
            last_evidence: summary.last_evidence.map(time),
            last_check: summary.last_check.map(|why| why.name().to_owned()),
            product: summary.product.clone(),
            release: summary.release.clone(),
            causes: summary.causes.iter().map(CauseJson::from).collect(),
            tolerated: summary.tolerated.iter().map(code).collect(),
            labels: summary.labels.clone(),
        }
    }
}

/// `GET /v1/devices`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DevicesJson {
    /// Some of them, by id.
    pub devices: Vec<SummaryJson>,
    /// How many match in all.
    pub total: u64,
    /// `after` of the next page.
    pub next: Option<String>,
}

/// A file of the device's present boot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileJson {
    /// SHA-256.
    pub sha256: String,
    /// Path as reported.
    pub path: String,
    /// Kind of observation.
    pub kind: String,
}

/// What enrolment and operators said of a device.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct IdentityJson {
    /// Digest of the attestation key's Name.
    pub ak: String,
    /// SHA-256 of the SubjectPublicKeyInfo of each endorsement key.
    pub eks: Vec<String>,
    /// Class of the root that they lead to.
    pub ek_class: EkClass,
    /// Whether the TPM's maker certified them; if not, an operator listed one.
    pub ek_certificate: bool,
    /// Who signed the certificate of the first of them.
    pub ek_issuer: String,
    /// Serial numbers of their certificates.
    pub ek_serials: Vec<String>,
    /// The TPM's maker.
    pub manufacturer: String,
    /// The TPM's part number.
    pub model: String,
    /// The TPM's firmware when it was made.
    pub version: String,
    /// When it was enrolled.
    pub first_seen: String,
    /// How often it was admitted: one more each time that a revocation ends.
    pub generation: u32,
    /// Why it is shut out.
    pub revoked: Option<String>,
    /// When an operator last approved it.
    pub approved_at: Option<String>,
    /// When another attestation key was proved for it, until an operator approves.
    pub key_changed: Option<String>,
    /// Why its endorsement does not hold, by CAs, CRLs and deny list as last read.
    pub denied: Option<FindingJson>,
    /// Whose word its product is: `list` or `operator`; null where it has none.
    pub product_source: Option<String>,
    /// Its serial number, as a signed list has it.
    pub serial: Option<String>,
}

/// What was found, and when.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FindingJson {
    /// Code of a cause.
    pub code: String,
    /// What and where.
    pub detail: String,
    /// Since when.
    pub since: String,
}

/// What accepted quotes of one boot cover without a gap.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AttestedJson {
    /// When the first of the quotes was received.
    pub from: String,
    /// The last of them is not older than this.
    pub until: String,
    /// The boot that they are of.
    pub boot: BootJson,
}

/// A boot, as the TPM counts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BootJson {
    /// resetCount.
    pub reset: u32,
    /// restartCount.
    pub restart: u32,
}

impl From<&Attested> for AttestedJson {
    fn from(attested: &Attested) -> Self {
        let &Attested { from, until, reset, restart } = attested;
        Self { from: time(from), until: time(until), boot: BootJson { reset, restart } }
    }
}

/// The boot that the last accepted evidence is of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PresentBootJson {
    /// Whether secure boot was on, where the boot log proves it.
    pub secure_boot: Option<bool>,
    /// The kernel's command line, where the boot log proves it or the release says it.
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

impl From<&BootSummary> for PresentBootJson {
    fn from(boot: &BootSummary) -> Self {
        let BootSummary { secure_boot, command_line, kernel, events, reset, restart } = boot.clone();
        Self { secure_boot, command_line, kernel, events, reset, restart }
    }
}

/// What is worth knowing of a device, and lowers no verdict.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct InformationJson {
    /// Stable code.
    pub code: String,
    /// What and where.
    pub detail: String,
    /// Since when.
    pub first_seen: String,
}

impl From<&Information> for InformationJson {
    fn from(information: &Information) -> Self {
        let Information { code, detail, since } = information;
        Self { code: code.code().to_owned(), detail: detail.clone(), first_seen: time(*since) }
    }
}

/// `GET /v1/devices/{id}`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceJson {
    /// As in lists.
    #[serde(flatten)]
    pub summary: SummaryJson,
    /// Claims that are made, by AR4SI's names.
    pub claims: BTreeMap<String, ClaimJson>,
    /// Who it is.
    pub identity: IdentityJson,
    /// What ran in its present boot: the first 1,000, by path.
    pub running: Vec<FileJson>,
    /// How many there are.
    pub files: u64,
    /// Vendor's firmware version of the TPM, hex.
    pub tpm_firmware: Option<String>,
    /// Version of the attester, by its own word.
    pub attester: Option<String>,
    /// Compromises that earlier boots showed, until an operator approves.
    pub compromised: Vec<FindingJson>,
    /// What accepted quotes cover without a gap, until the last of them.
    pub attested: Option<AttestedJson>,
    /// Its present boot; null where it never sent evidence.
    pub boot: Option<PresentBootJson>,
    /// What is worth knowing, and lowers no verdict.
    pub information: Vec<InformationJson>,
    /// Who vouches for the release that it runs.
    pub vouched: Vec<VouchedJson>,
    /// Files that no release lists, and that the policy's exclusions let through in this boot; null for none.
    pub excluded: Option<ExcludedJson>,
}

impl From<&store::Detail> for IdentityJson {
    fn from(detail: &store::Detail) -> Self {
        let (registration, endorsement) = (&detail.registration, &detail.endorsement);
        Self {
            ak: hex(registration.ak.name_digest()),
            eks: registration.eks.iter().map(|ek| hex(ek)).collect(),
            ek_class: registration.ek_class,
            ek_certificate: !registration.uncertified,
            ek_issuer: endorsement.issuer.clone(),
            ek_serials: endorsement.serials.clone(),
            manufacturer: registration.manufacturer.clone(),
            model: endorsement.model.clone(),
            version: endorsement.version.clone(),
            first_seen: time(registration.first_seen),
            generation: registration.generation,
            revoked: registration.revoked.clone(),
            approved_at: Some(registration.approved_at).filter(|at| *at > 0).map(time),
            key_changed: registration.key_changed.map(time),
            denied: registration.denied.as_ref().map(|denial| FindingJson {
                code: denial.code.clone(),
                detail: denial.why.clone(),
                since: time(denial.at),
            }),
            product_source: registration
                .product
                .as_ref()
                .map(|_| if registration.by_list { "list" } else { "operator" }.to_owned()),
            serial: registration.serial.clone(),
        }
    }
}

/// Who vouches for a release.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VouchedJson {
    /// The release.
    pub release: String,
    /// The signer's role in the supply chain.
    pub role: String,
    /// Its name, from the trust folder.
    pub signer: String,
}

/// What exclusions let through.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExcludedJson {
    /// How many times.
    pub count: u64,
    /// The first paths.
    pub paths: Vec<String>,
}

impl DeviceJson {
    /// With who vouches for its release by the reference values in force.
    #[must_use]
    pub fn vouched_by(mut self, references: &ReferenceIndex) -> Self {
        let (product, release) = (self.summary.product.as_deref(), self.summary.release.clone());
        let signers = vouched(references, product, release.as_deref());
        let release = release.unwrap_or_default();
        let named = |(role, signer)| VouchedJson { release: release.clone(), role, signer };
        self.vouched = signers.into_iter().map(named).collect();
        self
    }
}

impl From<&store::Detail> for DeviceJson {
    fn from(detail: &store::Detail) -> Self {
        let claim = |(claim, value): (evidence::result::Claim, u8)| {
            (claim.name().to_owned(), ClaimJson { value, tier: Tier::of(value).name().to_owned() })
        };
        Self {
            summary: SummaryJson::from(&detail.summary),
            claims: detail.claims.iter().map(claim).collect(),
            identity: IdentityJson::from(detail),
            running: detail
                .running
                .iter()
                .map(|file| FileJson { sha256: hex(&file.digest), path: file.path.clone(), kind: file.kind.clone() })
                .collect(),
            files: detail.files,
            tpm_firmware: detail.firmware_version.map(|version| format!("{version:016x}")),
            attester: detail.attester_version.clone(),
            compromised: detail
                .compromised
                .iter()
                .map(|finding| FindingJson {
                    code: finding.code.row().code.to_owned(),
                    detail: finding.detail.clone(),
                    since: time(finding.since),
                })
                .collect(),
            attested: detail.attested.as_ref().map(AttestedJson::from),
            boot: detail.boot.as_ref().map(PresentBootJson::from),
            information: detail.information.iter().map(InformationJson::from).collect(),
            vouched: Vec::new(),
            excluded: detail
                .excluded
                .as_ref()
                .map(|excluded| ExcludedJson { count: excluded.count, paths: excluded.paths.clone() }),
        }
    }
}

/// One entry of a history.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HistoryRowJson {
    /// When.
    pub at: String,
    /// `enrolled`, `evidence`, `expired`, `approved`, `revoked`, `labelled` or `attested`.
    pub what: String,
    /// Verdict from then on.
    pub verdict: Verdict,
    /// Verdict before, where this changed it.
    pub previous: Option<Verdict>,
    /// Causes from then on.
    pub causes: Vec<CauseJson>,
    /// Release.
    pub release: Option<String>,
    /// SHA-256 that names the evidence.
    pub evidence: Option<String>,
    /// An operator's words.
    pub note: Option<String>,
    /// The operator, by the name of the token.
    pub who: Option<String>,
    /// What accepted quotes covered until the time after which nothing is known, where this row ends such a time.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub attested: Option<AttestedJson>,
}

impl From<&store::HistoryRow> for HistoryRowJson {
    fn from(row: &store::HistoryRow) -> Self {
        Self {
            at: time(row.at),
            what: row.what.name().to_owned(),
            verdict: row.verdict,
            previous: row.previous,
            causes: row.causes.iter().map(CauseJson::from).collect(),
            release: row.release.clone(),
            evidence: row.evidence.map(|digest| hex(&digest)),
            note: row.note.clone(),
            who: row.who.clone(),
            attested: row.attested.as_ref().map(AttestedJson::from),
        }
    }
}

/// `GET /v1/devices/{id}/history`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HistoryJson {
    /// 64 hex digits.
    pub id: String,
    /// Oldest first.
    pub history: Vec<HistoryRowJson>,
    /// What accepted quotes cover now without a gap, until the last of them.
    pub attested: Option<AttestedJson>,
}

/// `GET /v1/fleet`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FleetJson {
    /// Enrolled devices.
    pub total: u64,
    /// By verdict.
    pub verdicts: BTreeMap<String, u64>,
    /// Whose verdict has expired.
    pub overdue: u64,
    /// That have sent no evidence.
    pub never_seen: u64,
}

impl From<&store::FleetCounts> for FleetJson {
    fn from(counts: &store::FleetCounts) -> Self {
        let names = Verdict::ALL.iter().map(|verdict| verdict.name().to_owned());
        Self {
            total: counts.total,
            verdicts: names.zip(counts.verdicts).collect(),
            overdue: counts.overdue,
            never_seen: counts.never_seen,
        }
    }
}

/// Who signed a release.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SignerJson {
    /// Role.
    pub role: String,
    /// Name in the trust file.
    pub name: String,
    /// Key id.
    pub key: String,
}

/// One release.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReleaseJson {
    /// Product.
    pub product: String,
    /// Release.
    pub release: String,
    /// Its place among the product's releases.
    pub sequence: u64,
    /// From when it is valid.
    pub valid_from: Option<String>,
    /// When it is to be replaced.
    pub retire_at: Option<String>,
    /// Boots in it by exact PCRs.
    pub boots: usize,
    /// Boots in it by rules for their logs.
    pub boot_rules: usize,
    /// IMA policies in it.
    pub ima_policies: usize,
    /// How long a device may run files of it and of the release before, seconds; null where the policy says it.
    pub update_window: Option<u64>,
    /// Why it was taken back.
    pub revoked: Option<RevokedJson>,
    /// Who signed.
    pub signers: Vec<SignerJson>,
}

/// Why a release was taken back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RevokedJson {
    /// In words.
    pub why: String,
    /// Where more is said.
    pub advisory: Option<String>,
}

/// The lowest release of a product that is allowed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MinimumJson {
    /// Product.
    pub product: String,
    /// Release.
    pub release: String,
    /// Its place among the product's releases: this decides.
    pub sequence: u64,
}

/// `GET /v1/reference-values`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReferencesJson {
    /// Names this set of reference values.
    pub id: String,
    /// Distinct executables.
    pub executables: usize,
    /// Releases, by product and sequence.
    pub releases: Vec<ReleaseJson>,
    /// Lowest releases that are allowed, by product.
    pub minimums: Vec<MinimumJson>,
    /// Endorsement keys that lists name.
    pub endorsed_keys: usize,
    /// Every document in force, by file.
    pub documents: Vec<DocumentJson>,
    /// Files that do not count.
    pub refused: Vec<RefusedJson>,
    /// Why what was in force before is so still.
    pub problem: Option<FaultJson>,
}

/// A signed document that counts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DocumentJson {
    /// Its file's name.
    pub file: String,
    /// `release`, `endorsements` or `notice`.
    pub kind: String,
    /// Product, or a pattern of products.
    pub product: String,
    /// The release's name, or its own.
    pub name: String,
    /// Its place in the order.
    pub sequence: u64,
    /// When it ends.
    pub expires: Option<String>,
    /// Who signed.
    pub signers: Vec<SignerJson>,
}

/// A file that does not count.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RefusedJson {
    /// Its name.
    pub file: String,
    /// Stable code, `release.…`.
    pub code: String,
    /// In words.
    pub why: String,
    /// Whether its last good copy stays in force.
    pub held: bool,
}

/// What is wrong.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FaultJson {
    /// Stable code.
    pub code: String,
    /// In words.
    pub why: String,
}

/// Answer of `POST /v1/reference-values`: the document is in force.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PublishedJson {
    /// Product, or a pattern of products.
    pub product: String,
    /// `release`, `endorsements` or `notice`.
    pub kind: String,
    /// The release's name, or its own.
    pub name: String,
    /// Its place in the order.
    pub sequence: u64,
    /// Its file in the verifier's folder.
    pub file: String,
    /// Products that stand otherwise than before, and patterns of products.
    pub affected: Vec<String>,
}

impl From<&Published> for PublishedJson {
    fn from(published: &Published) -> Self {
        let Published { title, file, affected } = published.clone();
        let Title { product, kind, name, sequence } = title;
        Self { product, kind: kind.to_owned(), name, sequence, file, affected }
    }
}

impl From<&Signer> for SignerJson {
    fn from(signer: &Signer) -> Self {
        Self { role: signer.role.to_string(), name: signer.name.clone(), key: signer.key_id.to_string() }
    }
}

impl From<&InForce> for DocumentJson {
    fn from(document: &InForce) -> Self {
        let Title { product, kind, name, sequence } = document.title.clone();
        let signers = document.signers.iter().map(SignerJson::from).collect();
        let expires = document.expires.map(time);
        Self { file: document.file.clone(), kind: kind.to_owned(), product, name, sequence, expires, signers }
    }
}

impl From<&Refused> for RefusedJson {
    fn from(refused: &Refused) -> Self {
        let Refused { file, fault, held } = refused.clone();
        Self { file, code: fault.code.to_owned(), why: fault.why, held }
    }
}

impl From<&Fault> for FaultJson {
    fn from(fault: &Fault) -> Self {
        Self { code: fault.code.to_owned(), why: fault.why.clone() }
    }
}

impl ReferencesJson {
    /// Of a set and how its documents stand.
    #[must_use]
    pub fn new(index: &ReferenceIndex, status: &Status) -> Self {
        let release = |entry: &ReleaseEntry| ReleaseJson {
            product: entry.product().to_owned(),
            release: entry.name().to_owned(),
            sequence: entry.sequence(),
            valid_from: entry.valid_from().map(time),
            retire_at: entry.retire_at().map(time),
            boots: entry.boots().len(),
            boot_rules: entry.boot_rules().len(),
            ima_policies: entry.ima_policies().len(),
            update_window: entry.update_window(),
            revoked: entry
                .revoked()
                .map(|revoked| RevokedJson { why: revoked.why.clone(), advisory: revoked.advisory.clone() }),
            signers: entry.signers().iter().map(SignerJson::from).collect(),
        };
        let releases = index.products().flat_map(|product| product.releases().map(|(_, entry)| release(entry)));
        Self {
            id: hex(index.id()),
            executables: index.len(),
            releases: releases.collect(),
            minimums: index
                .products()
                .filter_map(|product| {
                    let minimum = product.minimum()?;
                    let (product, release) = (product.name().to_owned(), minimum.release.clone());
                    Some(MinimumJson { product, release, sequence: minimum.sequence })
                })
                .collect(),
            endorsed_keys: index.endorsed_keys(),
            documents: status.in_force.iter().map(DocumentJson::from).collect(),
            refused: status.refused.iter().map(RefusedJson::from).collect(),
            problem: status.problem.as_ref().map(FaultJson::from),
        }
    }
}

/// Body of `POST …/approve`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ApproveJson {
    /// Product that the device is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub product: Option<String>,
}

/// An endorsement key that an operator lists.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AllowedKeyJson {
    /// SHA-256 of its SubjectPublicKeyInfo, 64 hex digits: the device's id, where it is the device's first key.
    pub id: String,
    /// Product of the device.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub product: Option<String>,
}

/// Body of `POST /v1/allowed`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AllowJson {
    /// All of them are listed, or none.
    pub keys: Vec<AllowedKeyJson>,
}

/// What listing came to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AllowedJson {
    /// Keys in the request.
    pub listed: usize,
    /// Those that were not listed before.
    pub new: u64,
}

/// Body of `POST …/revoke`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RevokeJson {
    /// Why.
    pub why: String,
}

/// Body of `POST …/labels`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LabelsJson {
    /// Labels to set; `null` removes one.
    pub labels: BTreeMap<String, Option<String>>,
}

/// Body of `POST …/forget`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ForgetJson {
    /// Even where the device is shut out, and could enrol anew then.
    #[serde(default)]
    pub unblock: bool,
}

/// Answer of `POST …/forget`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ForgottenJson {
    /// 64 hex digits.
    pub id: String,
    /// That nothing is left of it.
    pub forgotten: bool,
}

/// Body of `POST /v1/tokens`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CreateTokenJson {
    /// Whose it will be.
    pub name: String,
    /// What it will be good for.
    pub role: Role,
}

/// Answer of `POST /v1/tokens`: the only time that the token is shown.
#[derive(Clone, Serialize, Deserialize)]
pub struct NewTokenJson {
    /// Whose it is.
    pub name: String,
    /// What it is good for.
    pub role: Role,
    /// The token.
    pub token: String,
}

/// A token as it is listed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TokenJson {
    /// Whose it is.
    pub name: String,
    /// What it is good for.
    pub role: Role,
    /// When it was made; not told of the one that `verifier init` made.
    pub created: Option<String>,
    /// The day on which it was last used.
    pub last_used: Option<String>,
}

impl From<&store::TokenEntry> for TokenJson {
    fn from(token: &store::TokenEntry) -> Self {
        let day = |at: UnixSeconds| time(at).chars().take(10).collect();
        Self {
            name: token.name.clone(),
            role: token.role,
            created: Some(time(token.created)),
            last_used: token.last_used.map(day),
        }
    }
}

/// `GET /v1/tokens`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TokensJson {
    /// By name.
    pub tokens: Vec<TokenJson>,
}

/// Answer of `POST /v1/tokens/{name}/revoke`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TokenRevokedJson {
    /// Whose it was.
    pub name: String,
    /// That it is good for nothing any more.
    pub revoked: bool,
}

/// One key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyJson {
    /// Names it in messages.
    pub id: String,
    /// The public key: uncompressed point, hex.
    pub public: String,
}

/// `GET /v1/keys`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeysJson {
    /// Id of the root that devices pin.
    pub root: String,
    /// When they were made.
    pub made: String,
    /// Until when devices take what they sign.
    pub not_after: String,
    /// Signs requests, refusals, epochs and enrolment.
    pub request: KeyJson,
    /// Signs results.
    pub result: KeyJson,
    /// Signs the log of results.
    pub log: KeyJson,
    /// The message in which the root says so, as devices get it: base64.
    pub message: String,
}

impl From<&SignedKeys> for KeysJson {
    fn from(signed: &SignedKeys) -> Self {
        let key = |point: &P256Point| KeyJson {
            id: hex(&VerifierKeyId::of(point).0),
            public: format!("04{}{}", hex(&point.x), hex(&point.y)),
        };
        Self {
            root: hex(&signed.root.0),
            made: time(signed.keys.sequence),
            not_after: time(signed.keys.not_after),
            request: key(&signed.keys.request),
            result: key(&signed.keys.result),
            log: key(&signed.keys.log),
            message: data_encoding::BASE64.encode(&signed.message),
        }
    }
}

/// One line of the operators' log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OperatorActionJson {
    /// When.
    pub at: String,
    /// Name of the token.
    pub who: String,
    /// What was done.
    pub what: String,
    /// To what.
    pub about: String,
}

impl From<&store::OperatorAction> for OperatorActionJson {
    fn from(action: &store::OperatorAction) -> Self {
        let store::OperatorAction { at, who, what, about } = action;
        Self { at: time(*at), who: who.clone(), what: what.clone(), about: about.clone() }
    }
}

/// `GET /v1/operator-log`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OperatorLogJson {
    /// The newest, oldest first.
    pub log: Vec<OperatorActionJson>,
}

/// Answer of `POST …/check` that does not wait.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AskedJson {
    /// 64 hex digits.
    pub id: String,
    /// That the device is being asked.
    pub asked: bool,
}
