//! What a verifier says once a device has proved its keys: this attestation key lives in the TPM with these endorsement
//! keys. A CWT (RFC 8392) by the key for results; whoever trusts that verifier need not have seen the enrolment.
//!
//! Credential activation convinces only the verifier that ran it: this is its word, not the TPM's.

use std::fmt;

use serde::{
    Deserialize, Deserializer, Serialize, Serializer,
    de::{Error as _, MapAccess, Visitor},
    ser::SerializeMap,
};
use serde_bytes::{ByteArray, Bytes};

use crate::{
    claims::DeviceId,
    enrolment::Transcript,
    limits::MAX_EK_CERTIFICATES,
    tpm::P256Point,
    verifier_message::{NotFromVerifier, Purpose, open},
};

const ISS: i64 = 1;
const IAT: i64 = 6;
/// Confirmation (RFC 8747): the key by its id, which evidence has in `kid`.
const CNF: i64 = 8;
/// Key id as a means of confirmation (RFC 8747 §3.4).
const CNF_KID: i64 = 3;
const UEID: i64 = 256;
/// SHA-256 of the SubjectPublicKeyInfo of each endorsement key.
const EK_DIGESTS: i64 = -70_021;
/// Digest of the enrolment's transcript.
const TRANSCRIPT: i64 = -70_022;
/// Generation of the registration.
const GENERATION: i64 = -70_023;
/// Who vouches for the endorsement keys.
const ENDORSED_BY: i64 = -70_024;
const CLAIMS: usize = 8;

/// Who vouches for a device's endorsement keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum EndorsedBy {
    /// A software TPM's CA.
    SoftwareTpm = 0,
    /// A TPM maker's CA: hardware or firmware.
    TpmMaker = 1,
    /// No certificate: the verifier's operator listed the key.
    Operator = 2,
}

impl EndorsedBy {
    const fn from_number(number: u8) -> Option<Self> {
        match number {
            0 => Some(Self::SoftwareTpm),
            1 => Some(Self::TpmMaker),
            2 => Some(Self::Operator),
            _ => None,
        }
    }
}

/// Certificate of an attestation key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AkCertificate {
    /// Name of the verifier that ran the enrolment.
    pub issuer: String,
    /// When, seconds since 1970.
    pub issued: u64,
    /// Digest part of the attestation key's Name.
    pub ak_name: [u8; 32],
    /// The device.
    pub device: DeviceId,
    /// Digests of its endorsement keys, the one that gives the id first.
    pub eks: Vec<[u8; 32]>,
    /// What the enrolment was about, as a digest.
    pub transcript: [u8; 32],
    /// How often the device was admitted anew after a revocation, counted from 1.
    pub generation: u32,
    /// Who vouches for the endorsement keys.
    pub endorsed_by: EndorsedBy,
}

impl AkCertificate {
    /// Opens a certificate that the verifier's key for results, `key`, must have signed.
    ///
    /// # Errors
    /// [`NotFromVerifier`] names the first check that fails.
    pub fn open(key: &P256Point, message: &[u8]) -> Result<Self, NotFromVerifier> {
        open(Purpose::AkCertificate, key, message)
    }

    /// Whether it was made of this enrolment.
    #[must_use]
    pub fn is_of(&self, transcript: &Transcript) -> bool {
        self.transcript == transcript.0
    }
}

/// `cnf`: a map with the key id alone.
struct Confirmation<'a>(&'a [u8; 32]);

impl Serialize for Confirmation<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(1))?;
        map.serialize_entry(&CNF_KID, Bytes::new(self.0))?;
        map.end()
    }
}

impl Serialize for AkCertificate {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut ueid = [1; 33];
        ueid[1..].copy_from_slice(&self.device.0);
        let eks: Vec<&Bytes> = self.eks.iter().map(|digest| Bytes::new(digest)).collect();
        let mut map = serializer.serialize_map(Some(CLAIMS))?;
        map.serialize_entry(&ISS, &self.issuer)?;
        map.serialize_entry(&IAT, &self.issued)?;
        map.serialize_entry(&CNF, &Confirmation(&self.ak_name))?;
        map.serialize_entry(&UEID, Bytes::new(&ueid))?;
        map.serialize_entry(&EK_DIGESTS, &eks)?;
        map.serialize_entry(&TRANSCRIPT, Bytes::new(&self.transcript))?;
        map.serialize_entry(&GENERATION, &self.generation)?;
        map.serialize_entry(&ENDORSED_BY, &(self.endorsed_by as u8))?;
        map.end()
    }
}

impl<'de> Deserialize<'de> for AkCertificate {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(CertificateVisitor)
    }
}

struct CertificateVisitor;

impl<'de> Visitor<'de> for CertificateVisitor {
    type Value = AkCertificate;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a certificate of an attestation key")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<AkCertificate, A::Error> {
        // Deterministic encoding leaves the claims one order.
        let issuer = claim(&mut map, ISS)?;
        let issued = claim(&mut map, IAT)?;
        let mut cnf: std::collections::BTreeMap<i64, ByteArray<32>> = claim(&mut map, CNF)?;
        let (Some(ak_name), 0) = (cnf.remove(&CNF_KID), cnf.len()) else { return Err(A::Error::custom("cnf")) };
        let ueid: ByteArray<33> = claim(&mut map, UEID)?;
        let Some((1, id)) = ueid.split_first() else { return Err(A::Error::custom("ueid is not of type 1")) };
        let device = DeviceId(id.try_into().map_err(|_| A::Error::custom("ueid"))?);
        let eks: Vec<ByteArray<32>> = claim(&mut map, EK_DIGESTS)?;
        if !(1..=MAX_EK_CERTIFICATES).contains(&eks.len()) {
            return Err(A::Error::custom("number of endorsement keys is not 1 to 5"));
        }
        let transcript: ByteArray<32> = claim(&mut map, TRANSCRIPT)?;
        let generation = claim(&mut map, GENERATION)?;
        let endorsed_by = EndorsedBy::from_number(claim(&mut map, ENDORSED_BY)?);
        if map.next_key::<i64>()?.is_some() {
            return Err(A::Error::custom("unknown claim"));
        }
        Ok(AkCertificate {
            issuer,
            issued,
            ak_name: ak_name.into_array(),
            device,
            eks: eks.into_iter().map(ByteArray::into_array).collect(),
            transcript: transcript.into_array(),
            generation,
            endorsed_by: endorsed_by.ok_or_else(|| A::Error::custom("unknown kind of endorsement"))?,
        })
    }
}

/// The value of the next claim, which must be this one.
fn claim<'de, A: MapAccess<'de>, T: Deserialize<'de>>(map: &mut A, expected: i64) -> Result<T, A::Error> {
    match map.next_entry::<i64, T>()? {
        Some((key, value)) if key == expected => Ok(value),
        _ => Err(A::Error::custom(format!("claim {expected} is missing"))),
    }
}

#[cfg(test)]
mod tests {
    use ring::{
        rand::SystemRandom,
        signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _},
    };

    use super::*;
    use crate::{
        cbor,
        verifier_message::{VerifierKeyId, seal},
    };

    fn certificate() -> AkCertificate {
        AkCertificate {
            issuer: "v1".to_owned(),
            issued: 1_800_000_000,
            ak_name: [1; 32],
            device: DeviceId([2; 32]),
            eks: vec![[2; 32], [3; 32]],
            transcript: [4; 32],
            generation: 2,
            endorsed_by: EndorsedBy::TpmMaker,
        }
    }

    fn key() -> (EcdsaKeyPair, P256Point) {
        let random = SystemRandom::new();
        let document = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &random).unwrap();
        let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, document.as_ref(), &random).unwrap();
        let bytes = pair.public_key().as_ref();
        let point = P256Point { x: bytes[1..33].try_into().unwrap(), y: bytes[33..].try_into().unwrap() };
        (pair, point)
    }

    fn sealed(purpose: Purpose, pair: &EcdsaKeyPair, by: &P256Point, content: &AkCertificate) -> Vec<u8> {
        let sign = |bytes: &[u8]| {
            let signature = pair.sign(&SystemRandom::new(), bytes).unwrap();
            Ok::<_, ()>(signature.as_ref().try_into().unwrap())
        };
        seal(purpose, &VerifierKeyId::of(by), content, sign).unwrap()
    }

    #[test]
    fn it_opens_with_its_verifiers_key_and_purpose_alone() {
        let ((pair, by), (_, other)) = (key(), key());
        let message = sealed(Purpose::AkCertificate, &pair, &by, &certificate());
        assert_eq!(AkCertificate::open(&by, &message).unwrap(), certificate());
        assert!(AkCertificate::open(&other, &message).is_err());
        assert!(AkCertificate::open(&by, &sealed(Purpose::Result, &pair, &by, &certificate())).is_err());
        assert!(certificate().is_of(&Transcript([4; 32])) && !certificate().is_of(&Transcript([5; 32])));
    }

    #[test]
    fn every_byte_of_it_counts() {
        let (pair, by) = key();
        let message = sealed(Purpose::AkCertificate, &pair, &by, &certificate());
        for at in 0..message.len() {
            let mut bent = message.clone();
            bent[at] ^= 1;
            assert!(AkCertificate::open(&by, &bent).is_err(), "byte {at}");
            assert!(AkCertificate::open(&by, &message[..at]).is_err(), "cut at {at}");
        }
    }

    #[test]
    fn its_encoding_is_deterministic_and_claims_are_neither_missing_nor_more() {
        let encoded = cbor::encode(&certificate());
        cbor::check_deterministic("certificate", &encoded).unwrap();
        assert_eq!(cbor::decode::<AkCertificate>("certificate", &encoded).unwrap(), certificate());
        let mut none = certificate();
        none.eks.clear();
        assert!(cbor::decode::<AkCertificate>("certificate", &cbor::encode(&none)).is_err());
        none.eks = vec![[1; 32]; 6];
        assert!(cbor::decode::<AkCertificate>("certificate", &cbor::encode(&none)).is_err());
        // The map's head says 7 claims, and the last one is left out.
        let mut short = encoded.clone();
        short[0] -= 1;
        short.truncate(short.len() - 6);
        assert!(cbor::decode::<AkCertificate>("certificate", &short).is_err());
        // An eighth kind of endorsement.
        let mut unknown = encoded;
        *unknown.last_mut().unwrap() = 7;
        assert!(cbor::decode::<AkCertificate>("certificate", &unknown).is_err());
    }
}
