//! What a verifier sends: always a COSE_Sign1 by its key. The purpose stands in external_aad, so that a signature made
//! for one kind of message holds for no other.

use coset::{HeaderBuilder, cbor::value::Value, iana};
use serde::{Serialize, de::DeserializeOwned};

use crate::{
    cbor,
    cose::{self, BadSignature, Sign1},
    error::Malformed,
    pcr::sha256,
    tpm::P256Point,
};

const TYP: i64 = 16;

/// What a signature of a verifier is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// A challenge to attest.
    Request,
    /// Enrolment: credentials and outcome.
    Enrolment,
    /// An attestation result. No aad, so that any EAT library verifies it; `typ` sets it apart.
    Result,
    /// Why evidence was refused.
    Refusal,
    /// The open epoch, for all devices.
    Epoch,
    /// The verifier's present keys; by its root.
    Keys,
    /// That an attestation key belongs to endorsement keys.
    AkCertificate,
}

impl Purpose {
    const fn aad(self) -> &'static [u8] {
        match self {
            Self::Request => b"countersign/1 request",
            Self::Enrolment => b"countersign/1 enrolment",
            Self::Refusal => b"countersign/1 refusal",
            Self::Epoch => b"countersign/1 epoch",
            Self::Keys => b"countersign/1 keys",
            Self::AkCertificate => b"countersign/1 ak-certificate",
            Self::Result => b"",
        }
    }

    /// Protected header: {1: −7, 4: kid}, results also {16: 263} (`typ` application/eat+cwt).
    fn protected(self, key: &VerifierKeyId) -> Vec<u8> {
        let header = HeaderBuilder::new().algorithm(iana::Algorithm::ES256).key_id(key.0.to_vec());
        let header = match self {
            Self::Result => header.value(TYP, Value::from(iana::CoapContentFormat::EatCwt as u64)),
            _ => header,
        };
        cose::protected(header.build())
    }
}

/// Names a verifier's key: SHA-256 of its uncompressed point.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct VerifierKeyId(pub [u8; 32]);

impl VerifierKeyId {
    /// Of a key.
    #[must_use]
    pub fn of(key: &P256Point) -> Self {
        Self(sha256(&key.uncompressed()))
    }
}

/// What is wrong with a message that should be a verifier's.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NotFromVerifier {
    /// Cannot be read.
    #[error(transparent)]
    Malformed(#[from] Malformed),
    /// The header names another key, or another purpose.
    #[error("the message is not signed by the pinned verifier key for this purpose")]
    Header,
    /// Signature does not hold.
    #[error(transparent)]
    Signature(#[from] BadSignature),
}

/// Signs `content` for `purpose`; `sign` makes ES256 r ‖ s over the bytes that it is given.
///
/// # Errors
/// What `sign` returns.
pub fn seal<T: Serialize, E>(
    purpose: Purpose,
    key: &VerifierKeyId,
    content: &T,
    sign: impl FnOnce(&[u8]) -> Result<[u8; 64], E>,
) -> Result<Vec<u8>, E> {
    let protected = purpose.protected(key);
    let payload = cbor::encode(content);
    let signature = sign(&cose::to_be_signed(&protected, &payload, purpose.aad()))?;
    Ok(cose::encode(&protected, &[], &payload, &signature))
}

/// Opens a message that `key` must have signed for `purpose`.
///
/// # Errors
/// [`NotFromVerifier`] names the first check that fails.
pub fn open<T: DeserializeOwned + Serialize>(
    purpose: Purpose,
    key: &P256Point,
    message: &[u8],
) -> Result<T, NotFromVerifier> {
    let sign1 = Sign1::decode("verifier's message", message)?;
    if sign1.protected != purpose.protected(&VerifierKeyId::of(key)) || !sign1.attachments.is_empty() {
        return Err(NotFromVerifier::Header);
    }
    sign1.verify(key, purpose.aad())?;
    Ok(cbor::decode("verifier's message", sign1.payload)?)
}
