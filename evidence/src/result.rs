//! Attestation results: EAR (draft-ietf-rats-ear) as a signed CWT, with the extensions that this protocol needs.
//!
//! Extension keys are private-use integers; an EAR library that does not know them passes over them.

use std::fmt;

use serde::{
    Deserialize, Deserializer, Serialize, Serializer,
    de::{Error as _, IgnoredAny, MapAccess, Visitor},
    ser::SerializeMap,
};
use serde_bytes::Bytes;

use crate::claims::{DeviceId, Nonce};

/// `eat_profile` of results.
pub const EAR_PROFILE: &str = "tag:ietf.org,2026:rats/ear#04";
/// Name of the one submodule.
pub const SUBMODULE: &str = "attester";

const EXP: i64 = 4;
const IAT: i64 = 6;
const EAT_NONCE: i64 = 10;
const UEID: i64 = 256;
const EAT_PROFILE: i64 = 265;
const SUBMODS: i64 = 266;
const EAR_STATUS: i64 = 1000;
const EAR_VECTOR: i64 = 1001;
const EAR_POLICY_IDS: i64 = 1003;
const EAR_VERIFIER_ID: i64 = 1004;
/// Extension: SHA-256 of the evidence (message with an empty unprotected header).
const EVIDENCE_DIGEST: i64 = -70_011;
/// Extension: log positions that the verifier holds.
const ACKNOWLEDGED: i64 = -70_012;
/// Extension of the submodule: causes.
const CAUSES: i64 = -70_013;
/// Extension of the submodule: causes that policy tolerates.
const TOLERATED: i64 = -70_014;
/// Extension of the submodule: product and release.
const RELEASE: i64 = -70_015;
/// Extension of the submodule: who vouches for the release.
const VOUCHED: i64 = -70_016;

/// AR4SI trustworthiness tier (draft-ietf-rats-ar4si §2.3), with the number that EAR gives it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
#[repr(u8)]
pub enum Tier {
    /// No claim is made.
    #[default]
    None = 0,
    /// Affirming.
    Affirming = 2,
    /// Warning.
    Warning = 32,
    /// Contraindicated.
    Contraindicated = 96,
}

impl Tier {
    /// Of a claim's value: 0 and ±1 say nothing, 2–31 affirm, 32–95 warn, 96–127 contraindicate.
    #[must_use]
    pub const fn of(value: u8) -> Self {
        match value {
            0 | 1 => Self::None,
            2..=31 => Self::Affirming,
            32..=95 => Self::Warning,
            _ => Self::Contraindicated,
        }
    }

    /// Name in JSON.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Affirming => "affirming",
            Self::Warning => "warning",
            Self::Contraindicated => "contraindicated",
        }
    }
}

/// The AR4SI claims that are made here, by their key in the vector.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Claim {
    /// Which device it is.
    InstanceIdentity = 0,
    /// How it is configured.
    Configuration = 1,
    /// What runs.
    Executables = 2,
    /// What is on its file systems.
    FileSystem = 3,
    /// The hardware and its firmware.
    Hardware = 4,
}

impl Claim {
    /// In order of their keys.
    pub const ALL: [Self; 5] =
        [Self::InstanceIdentity, Self::Configuration, Self::Executables, Self::FileSystem, Self::Hardware];

    /// AR4SI's name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::InstanceIdentity => "instance-identity",
            Self::Configuration => "configuration",
            Self::Executables => "executables",
            Self::FileSystem => "file-system",
            Self::Hardware => "hardware",
        }
    }

    const fn from_key(key: u8) -> Option<Self> {
        match key {
            0 => Some(Self::InstanceIdentity),
            1 => Some(Self::Configuration),
            2 => Some(Self::Executables),
            3 => Some(Self::FileSystem),
            4 => Some(Self::Hardware),
            _ => None,
        }
    }
}

/// Trustworthiness vector: a value a claim; a claim that is not made is absent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct TrustVector([Option<u8>; Claim::ALL.len()]);

impl TrustVector {
    /// Value of a claim, 0 to 127 (AR4SI values of this project are never negative); `None` where it is not made.
    #[must_use]
    pub fn get(&self, claim: Claim) -> Option<u8> {
        self.0.get(claim as usize).copied().flatten()
    }

    /// Sets a claim.
    pub fn set(&mut self, claim: Claim, value: u8) {
        if let Some(slot) = self.0.get_mut(claim as usize) {
            *slot = Some(value);
        }
    }

    /// Takes a claim back: it is not made.
    pub fn unset(&mut self, claim: Claim) {
        if let Some(slot) = self.0.get_mut(claim as usize) {
            *slot = None;
        }
    }

    /// Claims that are made, with their values, in order of key.
    pub fn iter(&self) -> impl Iterator<Item = (Claim, u8)> + '_ {
        Claim::ALL.into_iter().filter_map(|claim| Some((claim, self.get(claim)?)))
    }
}

impl Serialize for TrustVector {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(self.iter().count()))?;
        self.iter().try_for_each(|(claim, value)| map.serialize_entry(&(claim as u8), &value))?;
        map.end()
    }
}

impl<'de> Deserialize<'de> for TrustVector {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let entries = std::collections::BTreeMap::<u8, u8>::deserialize(deserializer)?;
        let mut vector = Self::default();
        for (key, value) in entries {
            vector.set(Claim::from_key(key).ok_or_else(|| D::Error::custom("unknown AR4SI claim"))?, value);
        }
        Ok(vector)
    }
}

/// One cause of a verdict, as a result carries it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "(String, String)", into = "(String, String)")]
pub struct ResultCause {
    /// Stable code (`docs/causes.md`).
    pub code: String,
    /// What and where.
    pub detail: String,
}

impl From<(String, String)> for ResultCause {
    fn from((code, detail): (String, String)) -> Self {
        Self { code, detail }
    }
}

impl From<ResultCause> for (String, String) {
    fn from(cause: ResultCause) -> Self {
        (cause.code, cause.detail)
    }
}

/// What the verifier holds of this boot's logs: the device need not send it again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(from = "AcknowledgedArray", into = "AcknowledgedArray")]
pub struct Acknowledged {
    /// resetCount of the boot that this is about.
    pub reset: u32,
    /// restartCount of the boot.
    pub restart: u32,
    /// Whether the boot log is held.
    pub boot_log: bool,
    /// Next index of the IMA list.
    pub ima: u64,
    /// Next index of the runtime log.
    pub runtime: u64,
    /// Whether the values of the quoted PCRs are held.
    pub pcr_values: bool,
}

/// An attestation result.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AttestationResult {
    /// When it was issued, seconds since 1970.
    pub issued: u64,
    /// Until when it says anything, seconds since 1970.
    pub expires: u64,
    /// The nonce of this verifier that the evidence answered.
    pub nonce: Nonce,
    /// The device.
    pub device: DeviceId,
    /// Who judged: name of the verifier.
    pub developer: String,
    /// Software that judged.
    pub build: String,
    /// The evidence that was judged.
    pub evidence: [u8; 32],
    /// What need not be sent again.
    pub acknowledged: Acknowledged,
    /// Overall tier: [`Tier::None`] stands for the verdict unknown.
    pub status: Tier,
    /// Claim by claim.
    pub vector: TrustVector,
    /// Policy by which it was judged.
    pub policy: String,
    /// Why it is not better.
    pub causes: Vec<ResultCause>,
    /// What policy tolerated, by code.
    pub tolerated: Vec<String>,
    /// Product and release, where both are known.
    pub release: Option<(String, String)>,
    /// Who vouches for the release: role and name of each signer, by the verifier's own word.
    pub vouched: Vec<(String, String)>,
}

impl Serialize for AttestationResult {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut ueid = [1; 33];
        ueid[1..].copy_from_slice(&self.device.0);
        let mut map = serializer.serialize_map(Some(9))?;
        map.serialize_entry(&EXP, &self.expires)?;
        map.serialize_entry(&IAT, &self.issued)?;
        map.serialize_entry(&EAT_NONCE, Bytes::new(&self.nonce))?;
        map.serialize_entry(&UEID, Bytes::new(&ueid))?;
        map.serialize_entry(&EAT_PROFILE, EAR_PROFILE)?;
        map.serialize_entry(&SUBMODS, &Submodules(self))?;
        map.serialize_entry(&EAR_VERIFIER_ID, &VerifierId { developer: &self.developer, build: &self.build })?;
        map.serialize_entry(&EVIDENCE_DIGEST, Bytes::new(&self.evidence))?;
        map.serialize_entry(&ACKNOWLEDGED, &self.acknowledged)?;
        map.end()
    }
}

type AcknowledgedArray = (u32, u32, bool, u64, u64, bool);

impl From<AcknowledgedArray> for Acknowledged {
    fn from((reset, restart, boot_log, ima, runtime, pcr_values): AcknowledgedArray) -> Self {
        Self { reset, restart, boot_log, ima, runtime, pcr_values }
    }
}

impl From<Acknowledged> for AcknowledgedArray {
    fn from(a: Acknowledged) -> Self {
        (a.reset, a.restart, a.boot_log, a.ima, a.runtime, a.pcr_values)
    }
}

struct VerifierId<'a> {
    developer: &'a str,
    build: &'a str,
}

impl Serialize for VerifierId<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(2))?;
        map.serialize_entry(&0, self.developer)?;
        map.serialize_entry(&1, self.build)?;
        map.end()
    }
}

struct Submodules<'a>(&'a AttestationResult);

impl Serialize for Submodules<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(1))?;
        map.serialize_entry(SUBMODULE, &Submodule(self.0))?;
        map.end()
    }
}

struct Submodule<'a>(&'a AttestationResult);

impl Serialize for Submodule<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let result = self.0;
        let optional = [result.release.is_some(), !result.vouched.is_empty()];
        let length = optional.into_iter().filter(|is| *is).count().saturating_add(5);
        let mut map = serializer.serialize_map(Some(length))?;
        map.serialize_entry(&EAR_STATUS, &(result.status as u8))?;
        map.serialize_entry(&EAR_VECTOR, &result.vector)?;
        map.serialize_entry(&EAR_POLICY_IDS, &[&result.policy])?;
        map.serialize_entry(&CAUSES, &result.causes)?;
        map.serialize_entry(&TOLERATED, &result.tolerated)?;
        if let Some(release) = &result.release {
            map.serialize_entry(&RELEASE, release)?;
        }
        if !result.vouched.is_empty() {
            map.serialize_entry(&VOUCHED, &result.vouched)?;
        }
        map.end()
    }
}

impl<'de> Deserialize<'de> for AttestationResult {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(ResultVisitor)
    }
}

struct ResultVisitor;

impl<'de> Visitor<'de> for ResultVisitor {
    type Value = AttestationResult;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an attestation result")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<AttestationResult, A::Error> {
        let mut result = AttestationResult {
            issued: 0,
            expires: 0,
            nonce: [0; 32],
            device: DeviceId([0; 32]),
            developer: String::new(),
            build: String::new(),
            evidence: [0; 32],
            acknowledged: Acknowledged::default(),
            status: Tier::None,
            vector: TrustVector::default(),
            policy: String::new(),
            causes: Vec::new(),
            tolerated: Vec::new(),
            release: None,
            vouched: Vec::new(),
        };
        let mut seen = 0_u8;
        while let Some(key) = map.next_key::<i64>()? {
            seen = seen.saturating_add(1);
            match key {
                EXP => result.expires = map.next_value()?,
                IAT => result.issued = map.next_value()?,
                EAT_NONCE => result.nonce = bytes32(map.next_value()?)?,
                UEID => {
                    let ueid: &Bytes = map.next_value()?;
                    let id = ueid.split_first().filter(|(kind, _)| **kind == 1).map(|(_, id)| Bytes::new(id));
                    result.device = DeviceId(bytes32(id.ok_or_else(|| A::Error::custom("ueid"))?)?);
                }
                EAT_PROFILE => {
                    if map.next_value::<String>()? != EAR_PROFILE {
                        return Err(A::Error::custom("another EAR profile"));
                    }
                }
                SUBMODS => map.next_value::<SubmodulesRead>()?.0.fill(&mut result),
                EAR_VERIFIER_ID => {
                    let mut id: std::collections::BTreeMap<u8, String> = map.next_value()?;
                    result.developer = id.remove(&0).unwrap_or_default();
                    result.build = id.remove(&1).unwrap_or_default();
                }
                EVIDENCE_DIGEST => result.evidence = bytes32(map.next_value()?)?,
                ACKNOWLEDGED => result.acknowledged = map.next_value()?,
                _ => return Err(A::Error::custom("unknown claim in a result")),
            }
        }
        if seen == 9 { Ok(result) } else { Err(A::Error::custom("a claim is missing from the result")) }
    }
}

fn bytes32<E: serde::de::Error>(bytes: &Bytes) -> Result<[u8; 32], E> {
    (**bytes).try_into().map_err(|_| E::custom("expected 32 bytes"))
}

/// The submodules map: exactly one entry, named [`SUBMODULE`].
struct SubmodulesRead(SubmoduleRead);

impl<'de> Deserialize<'de> for SubmodulesRead {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let mut map = std::collections::BTreeMap::<String, SubmoduleRead>::deserialize(deserializer)?;
        match (map.remove(SUBMODULE), map.len()) {
            (Some(submodule), 0) => Ok(Self(submodule)),
            _ => Err(D::Error::custom("a result has the one submodule `attester`")),
        }
    }
}

#[derive(Default)]
struct SubmoduleRead {
    status: Tier,
    vector: TrustVector,
    policy: String,
    causes: Vec<ResultCause>,
    tolerated: Vec<String>,
    release: Option<(String, String)>,
    vouched: Vec<(String, String)>,
}

impl SubmoduleRead {
    fn fill(self, result: &mut AttestationResult) {
        let Self { status, vector, policy, causes, tolerated, release, vouched } = self;
        result.vouched = vouched;
        (result.status, result.vector, result.policy) = (status, vector, policy);
        (result.causes, result.tolerated, result.release) = (causes, tolerated, release);
    }
}

impl<'de> Deserialize<'de> for SubmoduleRead {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct SubmoduleVisitor;

        impl<'de> Visitor<'de> for SubmoduleVisitor {
            type Value = SubmoduleRead;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an EAR appraisal")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<SubmoduleRead, A::Error> {
                let mut read = SubmoduleRead::default();
                while let Some(key) = map.next_key::<i64>()? {
                    match key {
                        EAR_STATUS => read.status = status(map.next_value()?).map_err(A::Error::custom)?,
                        EAR_VECTOR => read.vector = map.next_value()?,
                        EAR_POLICY_IDS => read.policy = map.next_value::<(String,)>()?.0,
                        CAUSES => read.causes = map.next_value()?,
                        TOLERATED => read.tolerated = map.next_value()?,
                        RELEASE => read.release = Some(map.next_value()?),
                        VOUCHED => read.vouched = map.next_value()?,
                        _ => {
                            let _ = map.next_value::<IgnoredAny>()?;
                        }
                    }
                }
                Ok(read)
            }
        }
        deserializer.deserialize_map(SubmoduleVisitor)
    }
}

const fn status(number: u8) -> Result<Tier, &'static str> {
    match number {
        0 => Ok(Tier::None),
        2 => Ok(Tier::Affirming),
        32 => Ok(Tier::Warning),
        96 => Ok(Tier::Contraindicated),
        _ => Err("ear.status is not a tier"),
    }
}
