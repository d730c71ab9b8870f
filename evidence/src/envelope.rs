//! One evidence message on its way in: `bytes → Envelope → Authentic`, each step consuming the one before, so that no
//! unverified claim is read by accident. And on its way out: [`Unsigned`] until the TPM has signed.

use coset::{HeaderBuilder, cbor::value::Value, iana};

use crate::{
    claims::{AttesterClaim, Claims, DeviceId, LogClaim, LogKind, Nonces, PROFILE},
    cose::{self, Sign1},
    error::{Malformed, Refused},
    limits::MAX_SIG_STRUCTURE,
    pcr::{PcrValues, sha256},
    tpm::{AkPublic, Attest, Counters},
};

/// Header parameter 16, `typ` (RFC 9596).
const TYP: i64 = 16;

/// The protected header, exactly: {1: −7, 3: 267, 4: kid, 16: 263}.
fn protected_header(kid: &[u8; 32]) -> Vec<u8> {
    let header = HeaderBuilder::new()
        .algorithm(iana::Algorithm::ES256)
        .content_format(iana::CoapContentFormat::EatUcsCbor)
        .key_id(kid.to_vec())
        .value(TYP, Value::from(iana::CoapContentFormat::EatCwt as u64))
        .build();
    cose::protected(header)
}

/// The keys that a verifier has registered for a device. They come from enrolment, never from the message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DeviceKeys {
    /// The device.
    pub device: DeviceId,
    /// Its attestation key.
    pub ak: AkPublic,
}

/// A decoded message that nobody has verified. It says only whose it claims to be, for the registration to be found.
#[derive(Debug, Clone)]
pub struct Envelope<'a> {
    sign1: Sign1<'a>,
    claims: Claims,
}

impl<'a> Envelope<'a> {
    /// Decodes a message.
    ///
    /// # Errors
    /// [`Malformed`] where envelope or claims are not what the profile says, byte by byte.
    pub fn decode(message: &'a [u8]) -> Result<Self, Malformed> {
        let sign1 = Sign1::decode("evidence", message)?;
        let claims = Claims::decode(sign1.payload)?;
        if claims.logs.len() != sign1.attachments.len() {
            return Err(Malformed { what: "evidence", at: 0, why: "attachments and announced logs differ in number" });
        }
        Ok(Self { sign1, claims })
    }

    /// The device that the message claims to be from. Good for a look-up and for nothing else.
    #[must_use]
    pub const fn claimed_device(&self) -> DeviceId {
        self.claims.committed.device
    }

    /// What the message claims, for display of a message that is not verified.
    #[must_use]
    pub const fn unverified_claims(&self) -> &Claims {
        &self.claims
    }

    /// Checks everything that needs no state but the registered keys, in this order: identity, envelope signature,
    /// quote (magic, type, signer, commitment to the claims, PCR selection, signature), attachments.
    ///
    /// The envelope's signature alone proves nothing about PCRs: the AK signs any bytes that do not begin with the
    /// TPM's magic. The quote's own signature does, and its extraData ties it to these claims.
    ///
    /// # Errors
    /// [`Refused`] names the first check that fails.
    pub fn verify(self, keys: &DeviceKeys) -> Result<Authentic, Refused> {
        let Self { sign1, claims } = self;
        if claims.committed.device != keys.device {
            return Err(Refused::OtherDevice);
        }
        check_header(sign1.protected, &keys.ak)?;
        if claims.committed.profile != PROFILE {
            return Err(Refused::Profile);
        }
        let point = keys.ak.point();
        sign1.verify(point, &[]).map_err(|_| Refused::EnvelopeSignature)?;
        let attest = Attest::read(&claims.quote.attest).map_err(|_| Refused::NotAQuote)?;
        let pcr_digest = attest.profile_pcr_digest()?;
        if attest.qualified_signer != keys.ak.qualified_name() {
            return Err(Refused::QualifiedSigner);
        }
        if attest.extra_data != claims.committed.extra_data() {
            return Err(Refused::ExtraData);
        }
        cose::verify_p256(point, &claims.quote.attest, &claims.quote.signature).map_err(|_| Refused::QuoteSignature)?;
        let facts = QuoteFacts {
            counters: attest.counters,
            safe: attest.safe,
            firmware_version: attest.firmware_version,
            pcr_digest,
        };
        let attachments = check_attachments(&claims.logs, &sign1.attachments)?;
        let bare = cose::encode(sign1.protected, &[], sign1.payload, sign1.signature);
        Ok(Authentic { claims, quote: facts, attachments, digest: sha256(&bare), bare })
    }
}

/// Tells a message for another key from one whose header is not the profile's at all.
fn check_header(protected: &[u8], ak: &AkPublic) -> Result<(), Refused> {
    let expected = protected_header(ak.name_digest());
    if protected == expected {
        return Ok(());
    }
    // The kid stands between two fixed parts: {1: −7, 3: 267, 4: h'…', 16: 263}.
    const KID: std::ops::Range<usize> = 10..42;
    let same = |range: std::ops::Range<usize>| protected.get(range.clone()) == expected.get(range);
    if protected.len() == expected.len() && same(0..KID.start) && same(KID.end..expected.len()) {
        Err(Refused::OtherKey)
    } else {
        Err(Refused::Header)
    }
}

fn check_attachments(logs: &[LogClaim], attachments: &[&[u8]]) -> Result<Vec<Attachment>, Refused> {
    let mut checked = Vec::with_capacity(logs.len());
    for (claim, bytes) in logs.iter().zip(attachments) {
        let twice = checked.iter().any(|earlier: &Attachment| earlier.kind == claim.kind);
        if twice || sha256(bytes) != claim.digest {
            return Err(Refused::Attachment);
        }
        checked.push(Attachment { kind: claim.kind, first: claim.first, count: claim.count, bytes: bytes.to_vec() });
    }
    Ok(checked)
}

/// What the quote states, once its signature has been checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct QuoteFacts {
    /// When, by the TPM's counters.
    pub counters: Counters,
    /// Whether the clock is known not to have gone back.
    pub safe: bool,
    /// The TPM's firmware.
    pub firmware_version: u64,
    /// Digest over SHA-256 PCR 0–15.
    pub pcr_digest: [u8; 32],
}

/// A log segment that is the one the device signed for. Whether it is true, replay to the quote shows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attachment {
    /// What it is.
    pub kind: LogKind,
    /// Index of its first entry.
    pub first: u64,
    /// Number of entries, as announced.
    pub count: u64,
    /// The bytes.
    pub bytes: Vec<u8>,
}

/// Evidence that was made by the registered TPM of this device for these claims. Not yet known to be fresh.
#[derive(Debug, Clone)]
pub struct Authentic {
    claims: Claims,
    quote: QuoteFacts,
    attachments: Vec<Attachment>,
    digest: [u8; 32],
    bare: Vec<u8>,
}

impl Authentic {
    /// The device.
    #[must_use]
    pub const fn device(&self) -> DeviceId {
        self.claims.committed.device
    }

    /// Nonces that the quote was made for.
    #[must_use]
    pub const fn nonces(&self) -> &Nonces {
        &self.claims.committed.nonces
    }

    /// What the attester says of itself.
    #[must_use]
    pub const fn attester(&self) -> &AttesterClaim {
        &self.claims.committed.attester
    }

    /// What the TPM stated.
    #[must_use]
    pub const fn quote(&self) -> &QuoteFacts {
        &self.quote
    }

    /// The attached log of this kind.
    #[must_use]
    pub fn attachment(&self, kind: LogKind) -> Option<&Attachment> {
        self.attachments.iter().find(|attachment| attachment.kind == kind)
    }

    /// Whether no log is attached.
    #[must_use]
    pub const fn attaches_nothing(&self) -> bool {
        self.attachments.is_empty()
    }

    /// Attached PCR values, where they are the quoted ones.
    ///
    /// # Errors
    /// [`Refused::Attachment`] where values are attached that the quote contradicts.
    pub fn pcr_values(&self) -> Result<Option<PcrValues>, Refused> {
        let Some(attachment) = self.attachment(LogKind::PcrValues) else { return Ok(None) };
        match PcrValues::from_bytes(&attachment.bytes) {
            Some(values) if values.quote_digest() == self.quote.pcr_digest => Ok(Some(values)),
            _ => Err(Refused::Attachment),
        }
    }

    /// SHA-256 of the message with an empty unprotected header: names this evidence in results and duplicates.
    #[must_use]
    pub const fn digest(&self) -> &[u8; 32] {
        &self.digest
    }

    /// The message with an empty unprotected header: what [`Self::digest`] is of, and all that its signatures cover.
    #[must_use]
    pub fn bare(&self) -> &[u8] {
        &self.bare
    }
}

/// A message that lacks the envelope's signature, on the device.
#[derive(Debug, Clone)]
pub struct Unsigned {
    protected: Vec<u8>,
    payload: Vec<u8>,
    attachments: Vec<Vec<u8>>,
    to_be_signed: Vec<u8>,
}

/// Claims whose Sig_structure is longer than a TPM hashes in one call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the claims take {0} bytes to sign, over the {MAX_SIG_STRUCTURE} that a TPM hashes in one call")]
pub struct TooLong(pub usize);

impl Unsigned {
    /// Prepares a message; `attachments` in the order of `claims.logs`.
    ///
    /// # Errors
    /// [`TooLong`] where the TPM could not hash it in one call.
    pub fn new(ak: &AkPublic, claims: &Claims, attachments: Vec<Vec<u8>>) -> Result<Self, TooLong> {
        let protected = protected_header(ak.name_digest());
        let payload = claims.encode();
        let to_be_signed = cose::to_be_signed(&protected, &payload, &[]);
        if to_be_signed.len() > MAX_SIG_STRUCTURE {
            return Err(TooLong(to_be_signed.len()));
        }
        Ok(Self { protected, payload, attachments, to_be_signed })
    }

    /// What the attestation key must sign.
    #[must_use]
    pub fn to_be_signed(&self) -> &[u8] {
        &self.to_be_signed
    }

    /// The message, and the digest by which a result will name it.
    #[must_use]
    pub fn sign(self, signature: &[u8; 64]) -> Signed {
        let digest = sha256(&cose::encode(&self.protected, &[], &self.payload, signature));
        Signed { message: cose::encode(&self.protected, &self.attachments, &self.payload, signature), digest }
    }
}

/// A finished message.
#[derive(Debug, Clone)]
pub struct Signed {
    /// Tagged COSE_Sign1.
    pub message: Vec<u8>,
    /// See [`Authentic::digest`].
    pub digest: [u8; 32],
}
