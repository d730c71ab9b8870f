//! COSE_Sign1 (RFC 9052 §4.2) with ES256, the one envelope of this protocol.
//!
//! Writing and the Sig_structure are coset's. Reading is not: coset descends into counter signatures inside byte
//! strings without a bound, and headers of strangers are exactly what must not be descended into. So the four fields
//! are taken out of bytes that [`cbor::check_untagged`] has passed, and the protected header is compared as bytes.

use coset::{CoseSign1Builder, Header, ProtectedHeader, SignatureContext, TaggedCborSerializable, cbor::value::Value};
use ring::signature::{ECDSA_P256_SHA256_FIXED, UnparsedPublicKey};
use serde::{
    Deserialize, Deserializer,
    de::{Error as _, MapAccess, Visitor},
};

use crate::{cbor, error::Malformed, limits::MAX_LOGS, tpm::P256Point};

/// CBOR tag 18, COSE_Sign1: always written, always required.
const TAG_SIGN1: u8 = 0xD2;
/// The only unprotected header parameter there is: attachments, in the order of the signed `logs` claim.
pub const ATTACHMENTS: i64 = -70002;

/// A tagged COSE_Sign1 whose signature nobody has checked yet. Borrows from the message.
#[derive(Debug, Clone)]
pub struct Sign1<'a> {
    /// Encoded protected header.
    pub protected: &'a [u8],
    /// Unprotected attachments; none where the header is empty.
    pub attachments: Vec<&'a [u8]>,
    /// Encoded payload.
    pub payload: &'a [u8],
    /// r ‖ s.
    pub signature: &'a [u8; 64],
}

impl<'a> Sign1<'a> {
    /// Takes a message apart.
    ///
    /// # Errors
    /// [`Malformed`] for anything but one deterministic, tagged COSE_Sign1 with nothing but attachments unprotected.
    pub fn decode(what: &'static str, message: &'a [u8]) -> Result<Self, Malformed> {
        let malformed = |at, why| Malformed { what, at, why };
        let Some((&TAG_SIGN1, untagged)) = message.split_first() else {
            return Err(malformed(0, "is not a tagged COSE_Sign1"));
        };
        cbor::check_untagged(what, untagged).map_err(|error| malformed(error.at.saturating_add(1), error.why))?;
        let fields: (ByteString<'a>, Unprotected<'a>, ByteString<'a>, ByteString<'a>) =
            serde_cbor::from_slice(untagged)
                .map_err(|error| malformed(usize::try_from(error.offset()).unwrap_or(0), "is not a COSE_Sign1"))?;
        let (ByteString(protected), Unprotected(attachments), ByteString(payload), ByteString(signature)) = fields;
        let signature = signature.try_into().map_err(|_| malformed(0, "ES256 signature is not 64 bytes"))?;
        Ok(Self { protected, attachments, payload, signature })
    }

    /// Checks the signature with `key`.
    ///
    /// # Errors
    /// [`BadSignature`] where it does not hold.
    pub fn verify(&self, key: &P256Point, external_aad: &[u8]) -> Result<(), BadSignature> {
        verify_p256(key, &to_be_signed(self.protected, self.payload, external_aad), self.signature)
    }
}

/// A signature does not hold for key and message. Nothing else is said: which byte differs helps only an attacker.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the signature does not hold")]
pub struct BadSignature;

/// ECDSA P-256 with SHA-256 over `message`, signature as r ‖ s.
///
/// # Errors
/// [`BadSignature`] also where `key` is not a point of the curve.
pub fn verify_p256(key: &P256Point, message: &[u8], signature: &[u8; 64]) -> Result<(), BadSignature> {
    UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, key.uncompressed())
        .verify(message, signature)
        .map_err(|_| BadSignature)
}

/// A byte string and nothing else: serde_bytes takes a text string too.
struct ByteString<'a>(&'a [u8]);

impl<'de> Deserialize<'de> for ByteString<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_bytes(ByteStringVisitor)
    }
}

struct ByteStringVisitor;

impl<'de> Visitor<'de> for ByteStringVisitor {
    type Value = ByteString<'de>;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("a byte string")
    }

    fn visit_borrowed_bytes<E: serde::de::Error>(self, bytes: &'de [u8]) -> Result<Self::Value, E> {
        Ok(ByteString(bytes))
    }
}

/// Unprotected header: empty, or attachments alone.
struct Unprotected<'a>(Vec<&'a [u8]>);

impl<'de> Deserialize<'de> for Unprotected<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(UnprotectedVisitor)
    }
}

struct UnprotectedVisitor;

impl<'de> Visitor<'de> for UnprotectedVisitor {
    type Value = Unprotected<'de>;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("an unprotected header with attachments or nothing")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        match map.next_key::<i64>()? {
            None => return Ok(Unprotected(Vec::new())),
            Some(ATTACHMENTS) => {}
            Some(_) => return Err(A::Error::custom("unknown unprotected header parameter")),
        }
        let attachments: Vec<ByteString<'de>> = map.next_value()?;
        if attachments.is_empty() || attachments.len() > MAX_LOGS || map.next_key::<i64>()?.is_some() {
            return Err(A::Error::custom("unprotected header is not the profile's"));
        }
        Ok(Unprotected(attachments.into_iter().map(|ByteString(bytes)| bytes).collect()))
    }
}

/// Sig_structure (RFC 9052 §4.4): what is signed.
#[must_use]
pub fn to_be_signed(protected: &[u8], payload: &[u8], external_aad: &[u8]) -> Vec<u8> {
    let header = ProtectedHeader { original_data: Some(protected.to_vec()), header: Header::default() };
    coset::sig_structure_data(SignatureContext::CoseSign1, header, None, external_aad, payload)
}

/// Puts a message together.
#[must_use]
pub fn encode(protected: &[u8], attachments: &[Vec<u8>], payload: &[u8], signature: &[u8; 64]) -> Vec<u8> {
    let mut unprotected = Header::default();
    if !attachments.is_empty() {
        let list = attachments.iter().map(|bytes| Value::Bytes(bytes.clone())).collect();
        unprotected.rest.push((coset::Label::Int(ATTACHMENTS), Value::Array(list)));
    }
    let mut message = CoseSign1Builder::new()
        .unprotected(unprotected)
        .payload(payload.to_vec())
        .signature(signature.to_vec())
        .build();
    message.protected = ProtectedHeader { original_data: Some(protected.to_vec()), header: Header::default() };
    // Writing byte strings into memory cannot fail; an empty message would be refused by every reader.
    message.to_tagged_vec().unwrap_or_default()
}

/// Encodes a protected header.
#[must_use]
pub(crate) fn protected(header: Header) -> Vec<u8> {
    coset::CborSerializable::to_vec(header).unwrap_or_default()
}
