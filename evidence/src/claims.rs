//! The claims set of one evidence message (EAT, RFC 9711), in its profile's fixed shape.

use std::{fmt, str::FromStr};

use serde::{
    Deserialize, Deserializer, Serialize, Serializer,
    de::{Error as _, MapAccess, SeqAccess, Visitor},
    ser::{SerializeMap, SerializeSeq},
};
use serde_bytes::{ByteBuf, Bytes};

use crate::{
    cbor,
    error::Malformed,
    limits::{MAX_ATTESTER_TEXT, MAX_LOGS, MAX_NONCES, MAX_SOURCES},
    pcr::sha256,
};

/// `eat_profile`: names this protocol and its version.
pub const PROFILE: &str = "tag:countersign.example,2026:tpm#1";

const EAT_NONCE: i64 = 10;
const UEID: i64 = 256;
const EAT_PROFILE: i64 = 265;
const QUOTE: i64 = -70001;
const LOGS: i64 = -70002;
const ATTESTER: i64 = -70003;
/// RFC 9711 §4.2.1: the type byte of a UEID that is a random-looking number.
const UEID_RAND: u8 = 0x01;

/// A device's identity: SHA-256 of the SubjectPublicKeyInfo in its EK certificate.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DeviceId(pub [u8; 32]);

impl fmt::Display for DeviceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for DeviceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "DeviceId({self})")
    }
}

/// Text that is not 64 lower-case hex digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a device id is 64 lower-case hex digits")]
pub struct NotADeviceId;

impl FromStr for DeviceId {
    type Err = NotADeviceId;

    fn from_str(text: &str) -> Result<Self, NotADeviceId> {
        let digit = |c: u8| match c {
            b'0'..=b'9' => Ok(c.wrapping_sub(b'0')),
            b'a'..=b'f' => Ok(c.wrapping_sub(b'a').wrapping_add(10)),
            _ => Err(NotADeviceId),
        };
        let (pairs, rest) = text.as_bytes().as_chunks::<2>();
        let mut id = [0; 32];
        if pairs.len() != id.len() || !rest.is_empty() {
            return Err(NotADeviceId);
        }
        for (byte, &[high, low]) in id.iter_mut().zip(pairs) {
            *byte = digit(high)? << 4 | digit(low)?;
        }
        Ok(Self(id))
    }
}

/// What a verifier asks a quote to be made for.
pub type Nonce = [u8; 32];

/// One to eight nonces: one quote serves several independent verifiers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Nonces(Vec<Nonce>);

impl Nonces {
    /// `None` for an empty list or one over [`MAX_NONCES`].
    #[must_use]
    pub fn new(nonces: Vec<Nonce>) -> Option<Self> {
        (1..=MAX_NONCES).contains(&nonces.len()).then_some(Self(nonces))
    }

    /// In the order of the message.
    #[must_use]
    pub fn as_slice(&self) -> &[Nonce] {
        &self.0
    }
}

/// Why the device attests now. Self-asserted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Why {
    /// The attester started.
    Startup = 0,
    /// A new epoch, or the device's own period.
    Epoch = 1,
    /// A verifier or an operator asked.
    Request = 2,
    /// Something new ran.
    Event = 3,
}

impl Why {
    /// Name in outputs (`last_check`).
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Startup => "startup",
            Self::Epoch => "epoch",
            Self::Request => "request",
            Self::Event => "event",
        }
    }

    /// From the number on the wire.
    #[must_use]
    pub const fn from_number(number: u8) -> Option<Self> {
        match number {
            0 => Some(Self::Startup),
            1 => Some(Self::Epoch),
            2 => Some(Self::Request),
            3 => Some(Self::Event),
            _ => None,
        }
    }
}

/// What the attester says of itself: shown, never proof.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AttesterClaim {
    /// Why now.
    pub why: Why,
    /// Sources that measure, short names.
    pub sources: Vec<String>,
    /// Version of the attester.
    pub version: String,
}

/// The TPM's quote.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QuoteClaim {
    /// TPMS_ATTEST as the TPM made it.
    pub attest: Vec<u8>,
    /// ECDSA r ‖ s over it.
    pub signature: [u8; 64],
}

/// What kind of log is attached.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum LogKind {
    /// TCG event log of this boot.
    Boot = 1,
    /// Segment of the kernel's IMA list.
    Ima = 2,
    /// Segment of the attester's runtime log.
    Runtime = 3,
    /// Values of the quoted PCRs.
    PcrValues = 4,
}

impl LogKind {
    const fn from_number(number: u8) -> Option<Self> {
        match number {
            1 => Some(Self::Boot),
            2 => Some(Self::Ima),
            3 => Some(Self::Runtime),
            4 => Some(Self::PcrValues),
            _ => None,
        }
    }
}

/// Announces one attachment; signed, while the attachment itself travels unprotected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LogClaim {
    /// What it is.
    pub kind: LogKind,
    /// Index of the first entry.
    pub first: u64,
    /// Number of entries.
    pub count: u64,
    /// SHA-256 of the attached bytes.
    pub digest: [u8; 32],
}

/// The claims beside the quote, which the quote's extraData commits to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Committed {
    /// Freshness, one nonce a verifier.
    pub nonces: Nonces,
    /// The device.
    pub device: DeviceId,
    /// Profile, ≤ 40 bytes; only [`PROFILE`] passes verification.
    pub profile: String,
    /// What the attester says of itself.
    pub attester: AttesterClaim,
}

impl Committed {
    /// extraData of the quote: SHA-256 of the deterministic encoding of the claims without quote and logs.
    #[must_use]
    pub fn extra_data(&self) -> [u8; 32] {
        sha256(&cbor::encode(&Map { committed: self, quoted: None }))
    }
}

/// All claims of one message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claims {
    /// What the quote commits to.
    pub committed: Committed,
    /// The quote.
    pub quote: QuoteClaim,
    /// Attached logs, at most six, in order.
    pub logs: Vec<LogClaim>,
}

impl Claims {
    /// Deterministic encoding.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        cbor::encode(self)
    }

    /// Reads a claims set.
    ///
    /// # Errors
    /// [`Malformed`] for any other shape, or another encoding of this one.
    pub fn decode(bytes: &[u8]) -> Result<Self, Malformed> {
        cbor::decode("claims set", bytes)
    }
}

/// Serialises claims, with the quote and logs or without.
struct Map<'a> {
    committed: &'a Committed,
    quoted: Option<(&'a QuoteClaim, &'a [LogClaim])>,
}

impl<'a> Map<'a> {
    /// The logs claim is there only when something is attached.
    fn logs(&self) -> Option<&'a [LogClaim]> {
        self.quoted.map(|(_, logs)| logs).filter(|logs| !logs.is_empty())
    }
}

impl Serialize for Map<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Committed { nonces, device, profile, attester } = self.committed;
        let optional = usize::from(self.quoted.is_some()).saturating_add(usize::from(self.logs().is_some()));
        // Ascending by encoded key: 10, 256, 265, then −70001, −70002, −70003.
        let mut map = serializer.serialize_map(Some(optional.saturating_add(4)))?;
        map.serialize_entry(&EAT_NONCE, nonces)?;
        let mut ueid = [UEID_RAND; 33];
        ueid[1..].copy_from_slice(&device.0);
        map.serialize_entry(&UEID, Bytes::new(&ueid))?;
        map.serialize_entry(&EAT_PROFILE, profile)?;
        if let Some((quote, _)) = self.quoted {
            map.serialize_entry(&QUOTE, &(Bytes::new(&quote.attest), Bytes::new(&quote.signature)))?;
        }
        if let Some(logs) = self.logs() {
            map.serialize_entry(&LOGS, logs)?;
        }
        map.serialize_entry(&ATTESTER, &(attester.why as u8, &attester.sources, &attester.version))?;
        map.end()
    }
}

impl Serialize for Nonces {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if let [nonce] = self.as_slice() {
            return serializer.serialize_bytes(nonce);
        }
        let mut seq = serializer.serialize_seq(Some(self.0.len()))?;
        self.0.iter().try_for_each(|nonce| seq.serialize_element(Bytes::new(nonce)))?;
        seq.end()
    }
}

impl<'de> Deserialize<'de> for Nonces {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct NoncesVisitor;

        impl<'de> Visitor<'de> for NoncesVisitor {
            type Value = Nonces;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a 32-byte nonce, or an array of 2 to 8")
            }

            fn visit_bytes<E: serde::de::Error>(self, bytes: &[u8]) -> Result<Nonces, E> {
                bytes.try_into().map(|nonce| Nonces(vec![nonce])).map_err(|_| E::custom("nonce is not 32 bytes"))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Nonces, A::Error> {
                let mut nonces = Vec::with_capacity(MAX_NONCES);
                while let Some(bytes) = seq.next_element::<&Bytes>()? {
                    nonces.push((**bytes).try_into().map_err(|_| A::Error::custom("nonce is not 32 bytes"))?);
                    if nonces.len() > MAX_NONCES {
                        return Err(A::Error::custom("too many nonces"));
                    }
                }
                // One nonce has one encoding: bare.
                if nonces.len() < 2 {
                    return Err(A::Error::custom("an array of nonces has at least two"));
                }
                Ok(Nonces(nonces))
            }
        }
        deserializer.deserialize_any(NoncesVisitor)
    }
}

impl Serialize for LogClaim {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        (self.kind as u8, self.first, self.count, Bytes::new(&self.digest)).serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for LogClaim {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let (kind, first, count, digest): (u8, u64, u64, &Bytes) = Deserialize::deserialize(deserializer)?;
        let kind = LogKind::from_number(kind).ok_or_else(|| D::Error::custom("unknown kind of log"))?;
        let digest = (**digest).try_into().map_err(|_| D::Error::custom("log digest is not 32 bytes"))?;
        Ok(Self { kind, first, count, digest })
    }
}

impl<'de> Deserialize<'de> for AttesterClaim {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let (why, sources, version): (u8, Vec<String>, String) = Deserialize::deserialize(deserializer)?;
        let why = Why::from_number(why).ok_or_else(|| D::Error::custom("unknown reason to attest"))?;
        // Shown to operators: printable ASCII, so that no device writes escape sequences to a terminal.
        let unfit = |text: &String| text.len() > MAX_ATTESTER_TEXT || !text.bytes().all(|c| matches!(c, b' '..=b'~'));
        if sources.len() > MAX_SOURCES || sources.iter().any(unfit) || unfit(&version) {
            return Err(D::Error::custom("what the attester says of itself is too long, or not printable"));
        }
        Ok(Self { why, sources, version })
    }
}

impl Serialize for Claims {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        Map { committed: &self.committed, quoted: Some((&self.quote, &self.logs)) }.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Claims {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(ClaimsVisitor)
    }
}

struct ClaimsVisitor;

impl<'de> Visitor<'de> for ClaimsVisitor {
    type Value = Claims;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a claims set of the profile")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Claims, A::Error> {
        let (mut nonces, mut device, mut profile, mut quote, mut attester) = (None, None, None, None, None);
        let mut logs: Vec<LogClaim> = Vec::new();
        while let Some(key) = map.next_key::<i64>()? {
            match key {
                EAT_NONCE => nonces = Some(map.next_value()?),
                UEID => device = Some(ueid(map.next_value()?).map_err(A::Error::custom)?),
                EAT_PROFILE => profile = Some(map.next_value::<String>()?).filter(|profile| profile.len() <= 40),
                QUOTE => quote = Some(quote_claim(map.next_value()?).map_err(A::Error::custom)?),
                LOGS => logs = map.next_value()?,
                ATTESTER => attester = Some(map.next_value()?),
                _ => return Err(A::Error::custom("unknown claim")),
            }
        }
        if logs.len() > MAX_LOGS {
            return Err(A::Error::custom("too many logs"));
        }
        let missing = || A::Error::custom("a claim of the profile is missing or too long");
        let committed = Committed {
            nonces: nonces.ok_or_else(missing)?,
            device: device.ok_or_else(missing)?,
            profile: profile.ok_or_else(missing)?,
            attester: attester.ok_or_else(missing)?,
        };
        Ok(Claims { committed, quote: quote.ok_or_else(missing)?, logs })
    }
}

fn ueid(bytes: &Bytes) -> Result<DeviceId, &'static str> {
    match bytes.split_first() {
        Some((&UEID_RAND, id)) => id.try_into().map(DeviceId).map_err(|_| "ueid is not 33 bytes"),
        _ => Err("ueid is not of type RAND"),
    }
}

fn quote_claim((attest, signature): (ByteBuf, &Bytes)) -> Result<QuoteClaim, &'static str> {
    let signature = (**signature).try_into().map_err(|_| "quote signature is not 64 bytes")?;
    Ok(QuoteClaim { attest: attest.into_vec(), signature })
}
