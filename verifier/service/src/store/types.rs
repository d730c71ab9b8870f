//! What goes into the store and what comes out.

use std::collections::BTreeMap;

use appraisal::{
    Appraisal, Cause, Code, DeviceState, EkClass, Information, MeasuredFile, UnixSeconds, Verdict,
    freshness::Last,
    state::{Attested, BootSummary, Finding, LetThrough},
};
use evidence::{
    claims::{DeviceId, Why},
    result::TrustVector,
    tpm::AkPublic,
};

/// What vouches for a device's endorsement keys, kept to be verified again when the operator's lists change.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Endorsement {
    /// Certificates as presented, DER.
    pub certificates: Vec<Vec<u8>>,
    /// An instant at which their dates held.
    pub verified: UnixSeconds,
    /// Name of the CA that signed the first endorsement key's certificate.
    pub issuer: String,
    /// The TPM's part number, as the certificate names it.
    pub model: String,
    /// Its firmware at the time of making, as the certificate names it.
    pub version: String,
    /// Serial numbers of the certificates, hexadecimal.
    pub serials: Vec<String>,
}

/// A device that has just proved its endorsement keys.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewRegistration {
    /// Its id.
    pub device: DeviceId,
    /// Its attestation key.
    pub ak: AkPublic,
    /// SHA-256 of the SubjectPublicKeyInfo of each of its endorsement keys.
    pub eks: Vec<[u8; 32]>,
    /// Class of the root that they lead to.
    pub ek_class: EkClass,
    /// What vouches for them.
    pub endorsement: Endorsement,
    /// Whether nothing does but an operator's word.
    pub uncertified: bool,
    /// The TPM's maker, as the certificate names it.
    pub manufacturer: String,
    /// Product, where an endorsement says so.
    pub product: Option<String>,
    /// Generation for which it proved its keys; 1 for a device that is not registered.
    pub generation: u32,
    /// The signed certificate of its attestation key.
    pub ak_certificate: Vec<u8>,
    /// When.
    pub now: UnixSeconds,
}

/// What registering came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Registered {
    /// It is registered now.
    New,
    /// It was, with the same key.
    Same,
    /// It was revoked and approved since, and has another attestation key from now on; what was known of it by the last
    /// one is gone.
    Replaced,
    /// This id is registered with another attestation key; that another one was proved is on record now.
    KeyChanged,
    /// The attestation key or an endorsement key belongs to another id.
    KeyElsewhere,
    /// It was revoked, approved or forgotten while it proved its keys: the proof is for another generation.
    Outdated,
}

/// What is registered of a device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Registration {
    /// Its id.
    pub device: DeviceId,
    /// Its attestation key.
    pub ak: AkPublic,
    /// SHA-256 of the SubjectPublicKeyInfo of each of its endorsement keys.
    pub eks: Vec<[u8; 32]>,
    /// Class of the root that they lead to.
    pub ek_class: EkClass,
    /// The TPM's maker.
    pub manufacturer: String,
    /// When it was registered.
    pub first_seen: UnixSeconds,
    /// Product, by endorsement or an operator's word.
    pub product: Option<String>,
    /// Why it is shut out, if it is.
    pub revoked: Option<String>,
    /// Since when it is shut out; 0 where it is not.
    pub revoked_at: UnixSeconds,
    /// How often it was admitted, counted from 1: one more each time that a revocation ends.
    pub generation: u32,
    /// Nonces and epochs from before this are not accepted.
    pub since: UnixSeconds,
    /// When an operator last approved it; 0 for never.
    pub approved_at: UnixSeconds,
    /// When another attestation key was proved for this id, unless an operator has approved the device since.
    pub key_changed: Option<UnixSeconds>,
    /// It has no EK certificate: an operator listed one of its keys.
    pub uncertified: bool,
    /// Why its endorsement no longer holds, by the lists as last read.
    pub denied: Option<Denial>,
    /// Whether its product is a signed list's word, rather than an operator's.
    pub by_list: bool,
    /// The device's serial number, as a signed list has it.
    pub serial: Option<String>,
}

/// What evidence of a device is judged on.
#[derive(Debug, Clone)]
pub struct Known {
    /// What is registered of it.
    pub registration: Registration,
    /// What the last accepted evidence left behind.
    pub state: Option<DeviceState>,
}

/// Why an endorsement no longer holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Denial {
    /// Stable code.
    pub code: String,
    /// In words.
    pub why: String,
    /// Since when.
    pub at: UnixSeconds,
}

/// A shortened id that names no one device.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unresolved {
    /// Not 8 to 64 lower-case hex digits.
    #[error("`{0}` is not a device id: give 64 lower-case hex digits, or the first 8 or more of them")]
    NotAnId(String),
    /// No device begins with it.
    #[error("no device is enrolled whose id begins with {0}")]
    Unknown(String),
    /// Several do.
    #[error("{0} begins the ids of several devices: give more digits")]
    Ambiguous(String),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] super::StoreError),
}

/// Judged evidence on its way into the store.
#[derive(Debug, Clone)]
pub struct Accepted {
    /// Whose.
    pub device: DeviceId,
    /// Name of the attestation key that signed it, and the generation of the registration that it was judged by: the store
    /// takes the appraisal only while these are still the device's.
    pub registered: ([u8; 32], u32),
    /// The state that it was judged on: likewise.
    pub expected: Option<Last>,
    /// The judgement.
    pub appraisal: Appraisal,
    /// The boot log in it, where it is to be kept.
    pub boot_log: Option<Vec<u8>>,
    /// The message, without its attachments.
    pub evidence: Vec<u8>,
    /// The signed result.
    pub result: Vec<u8>,
    /// What its device has in common with all that stand alike: [`DeviceState::posture`].
    pub posture: [u8; 32],
}

/// What became of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Committed {
    /// Durable.
    Done,
    /// State or registration have moved since, or the device is not registered: judge again.
    Lost,
    /// The device reported more files in this boot than are kept ([`crate::limits::MAX_FILES`]). Nothing changed: as
    /// files beyond could never be judged again, its verdict is left to expire.
    TooManyFiles,
}

/// Which devices.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Filter {
    /// With this verdict, as it stands now.
    pub verdict: Option<Verdict>,
    /// Whose last verdict has expired.
    pub overdue: bool,
    /// On which a file with this SHA-256 runs.
    pub running: Option<[u8; 32]>,
    /// With this cause.
    pub cause: Option<Code>,
    /// Of this product.
    pub product: Option<String>,
    /// On this release.
    pub release: Option<String>,
    /// With this label.
    pub label: Option<(String, String)>,
    /// At most so many; 0 is [`crate::limits::DEFAULT_PAGE`], never more than [`crate::limits::MAX_PAGE`].
    pub limit: usize,
    /// Those after this one.
    pub after: Option<DeviceId>,
}

/// Some devices, in order of their ids.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page {
    /// Them.
    pub devices: Vec<Summary>,
    /// How many match in all.
    pub total: u64,
    /// The last one, where more follow.
    pub next: Option<DeviceId>,
}

/// One device as it stands at an instant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Summary {
    /// Its id.
    pub id: DeviceId,
    /// Verdict: expiry and revocation are in it.
    pub verdict: Verdict,
    /// When the last verdict ends, or ended.
    pub expires: Option<UnixSeconds>,
    /// When evidence was last accepted.
    pub last_evidence: Option<UnixSeconds>,
    /// Why the device attested then.
    pub last_check: Option<Why>,
    /// Product.
    pub product: Option<String>,
    /// Release.
    pub release: Option<String>,
    /// Causes.
    pub causes: Vec<Cause>,
    /// Causes that policy tolerated.
    pub tolerated: Vec<Code>,
    /// What operators call it.
    pub labels: BTreeMap<String, String>,
}

/// All about one device at an instant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Detail {
    /// As in lists.
    pub summary: Summary,
    /// Claims; empty where nothing is claimed any more.
    pub claims: TrustVector,
    /// What is registered of it.
    pub registration: Registration,
    /// What vouches for its endorsement keys, without the certificates themselves.
    pub endorsement: Endorsement,
    /// Files of its present boot, the first [`crate::limits::MAX_PAGE`] of them in order of their paths.
    pub running: Vec<MeasuredFile>,
    /// How many files there are.
    pub files: u64,
    /// Firmware version of its TPM.
    pub firmware_version: Option<u64>,
    /// Version of its attester, by its own word.
    pub attester_version: Option<String>,
    /// Digest that names the last accepted evidence.
    pub evidence: Option<[u8; 32]>,
    /// What accepted quotes cover without a gap, until the last of them.
    pub attested: Option<Attested>,
    /// Compromises that earlier boots showed, and that no operator has approved since.
    pub compromised: Vec<Finding>,
    /// The boot that the last accepted evidence is of.
    pub boot: Option<BootSummary>,
    /// What is worth knowing, and lowers no verdict.
    pub information: Vec<Information>,
    /// What the policy's exclusions let through in this boot.
    pub excluded: Option<LetThrough>,
}

/// What made an entry of a history.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum What {
    /// It was registered.
    Enrolled,
    /// Evidence changed the verdict, its causes or the release.
    Evidence,
    /// The verdict expired.
    Expired,
    /// An operator admitted it.
    Approved,
    /// An operator shut it out.
    Revoked,
    /// An operator set or removed labels.
    Labelled,
    /// Accepted quotes begin anew: what they covered until then.
    Attested,
    /// Another attestation key was proved for its id, and not accepted.
    KeyChanged,
    /// CAs, CRLs or the deny list now say something else of its endorsement keys.
    Endorsement,
    /// Reference values or policy now say something else of what it runs.
    References,
}

impl What {
    /// All of them.
    pub const ALL: [Self; 10] = [
        Self::Enrolled,
        Self::Evidence,
        Self::Expired,
        Self::Approved,
        Self::Revoked,
        Self::Labelled,
        Self::KeyChanged,
        Self::Endorsement,
        Self::Attested,
        Self::References,
    ];

    /// Name in outputs.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Enrolled => "enrolled",
            Self::Evidence => "evidence",
            Self::Expired => "expired",
            Self::Approved => "approved",
            Self::Revoked => "revoked",
            Self::Labelled => "labelled",
            Self::Attested => "attested",
            Self::KeyChanged => "key-changed",
            Self::Endorsement => "endorsement",
            Self::References => "references",
        }
    }

    pub(super) fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|what| what.name() == name)
    }
}

/// One entry of a history.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HistoryRow {
    /// When.
    pub at: UnixSeconds,
    /// What happened.
    pub what: What,
    /// Verdict from then on.
    pub verdict: Verdict,
    /// Verdict before.
    pub previous: Option<Verdict>,
    /// Causes from then on.
    pub causes: Vec<Cause>,
    /// Release.
    pub release: Option<String>,
    /// Digest of the evidence.
    pub evidence: Option<[u8; 32]>,
    /// An operator's words.
    pub note: Option<String>,
    /// The operator, by the name of the token.
    pub who: Option<String>,
    /// What accepted quotes covered without a gap, where that had ended by then; nothing is known of the time in between.
    pub attested: Option<Attested>,
}

/// How many devices stand how.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct FleetCounts {
    /// Enrolled.
    pub total: u64,
    /// By verdict, in the order of [`Verdict::ALL`].
    pub verdicts: [u64; 4],
    /// Whose verdict has expired.
    pub overdue: u64,
    /// That have sent no evidence.
    pub never_seen: u64,
}
