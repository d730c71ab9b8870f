//! Endorsement keys in software, and the CA that certifies them: a simulated device enrols as any other does.

use anyhow::{Context as _, Error, Result, anyhow, ensure};
use cfb_mode::{BufDecryptor, cipher::KeyIvInit as _};
use evidence::{
    enrolment::{Credential, Secret},
    reader::Reader,
    tpm::{EkKey, P256Point},
};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    PKCS_ECDSA_P256_SHA256, PublicKeyData, SignatureAlgorithm,
};
use ring::{
    agreement::{ECDH_P256, EphemeralPrivateKey, UnparsedPublicKey, agree_ephemeral},
    digest, hmac,
    rand::SystemRandom,
};

/// SubjectPublicKeyInfo of an uncompressed P-256 point, up to the point (RFC 5480 §2).
const P256_SPKI: [u8; 26] = [
    0x30, 0x59, 0x30, 0x13, 0x06, 0x07, 0x2A, 0x86, 0x48, 0xCE, 0x3D, 0x02, 0x01, 0x06, 0x08, 0x2A, 0x86, 0x48, 0xCE,
    0x3D, 0x03, 0x01, 0x07, 0x03, 0x42, 0x00,
];
/// tcg-kp-EKCertificate.
const EK_CERTIFICATE: [u64; 5] = [2, 23, 133, 8, 1];

/// The point of a P-256 SubjectPublicKeyInfo.
#[must_use]
pub fn p256_point(spki: &[u8]) -> Option<P256Point> {
    let [4, point @ ..] = spki.strip_prefix(&P256_SPKI)? else { return None };
    let (x, y) = point.split_first_chunk::<32>()?;
    Some(P256Point { x: *x, y: y.try_into().ok()? })
}

/// A TPM maker of tests.
pub struct Ca {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
}

impl Ca {
    /// A new CA.
    ///
    /// # Errors
    /// Where the system has no randomness.
    pub fn new() -> Result<Self> {
        let key = KeyPair::generate()?;
        let pem = Self::params().self_signed(&key)?.pem();
        Ok(Self { issuer: Issuer::new(Self::params(), key), pem })
    }

    /// A CA that was made before.
    ///
    /// # Errors
    /// Where the key does not read.
    pub fn from_pem(certificate: &str, key: &str) -> Result<Self> {
        Ok(Self { issuer: Issuer::new(Self::params(), KeyPair::from_pem(key)?), pem: certificate.to_owned() })
    }

    fn params() -> CertificateParams {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, "Simulated TPM maker");
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        params
    }

    /// Its private key.
    #[must_use]
    pub fn key_pem(&self) -> String {
        self.issuer.key().serialize_pem()
    }

    /// Its certificate, for the verifier's `ek_roots/`.
    #[must_use]
    pub fn pem(&self) -> &str {
        &self.pem
    }

    fn certify(&self, point: &[u8]) -> Result<Vec<u8>> {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, "unknown");
        params.key_usages = vec![KeyUsagePurpose::KeyAgreement];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::Other(EK_CERTIFICATE.to_vec())];
        Ok(params.signed_by(&Point(point), &self.issuer)?.der().to_vec())
    }
}

/// A public key to certify.
struct Point<'a>(&'a [u8]);

impl PublicKeyData for Point<'_> {
    fn der_bytes(&self) -> &[u8] {
        self.0
    }

    fn algorithm(&self) -> &'static SignatureAlgorithm {
        &PKCS_ECDSA_P256_SHA256
    }
}

/// A P-256 endorsement key that is good for one activation.
pub struct SoftwareEk {
    key: EphemeralPrivateKey,
    point: [u8; 65],
    /// DER certificate.
    pub certificate: Vec<u8>,
}

impl SoftwareEk {
    /// A new key with its certificate.
    ///
    /// # Errors
    /// Where the system has no randomness.
    pub fn new(ca: &Ca) -> Result<Self> {
        let key = EphemeralPrivateKey::generate(&ECDH_P256, &SystemRandom::new()).map_err(unspecified)?;
        let point: [u8; 65] =
            key.compute_public_key().map_err(unspecified)?.as_ref().try_into().context("a P-256 point")?;
        Ok(Self { key, point, certificate: ca.certify(&point)? })
    }

    /// SubjectPublicKeyInfo, DER: its SHA-256 is the device's id.
    #[must_use]
    pub fn spki(&self) -> Vec<u8> {
        [&P256_SPKI[..], &self.point].concat()
    }

    /// TPMT_PUBLIC by the TCG template L-2.
    ///
    /// # Panics
    /// Never: the point has its size.
    #[must_use]
    pub fn public_area(&self) -> Vec<u8> {
        EkKey::P256(self.point[1..].try_into().expect("64 bytes")).public_area()
    }

    /// TPM2_ActivateCredential (TPM 2.0 Part 1 §24.4), for template L-2: SHA-256, AES-128 in CFB mode.
    ///
    /// # Errors
    /// Where the credential is not for this key and Name.
    pub fn activate(self, credential: &Credential, ak_name: &[u8]) -> Result<Secret> {
        let mut point = Reader::new("TPMS_ECC_POINT", &credential.encrypted_secret);
        let (x, y) = (point.tpm2b(32)?, point.tpm2b(32)?);
        point.finish()?;
        let ephemeral = UnparsedPublicKey::new(&ECDH_P256, [&[4], x, y].concat());
        let own_x = &self.point[1..33];
        let seed = agree_ephemeral(self.key, &ephemeral, |z| {
            digest::digest(&digest::SHA256, &[&1_u32.to_be_bytes()[..], z, b"IDENTITY\0", x, own_x].concat())
        })
        .map_err(unspecified)?;

        let mut object = Reader::new("TPM2B_ID_OBJECT", &credential.id_object);
        let integrity = object.tpm2b(32)?;
        let encrypted = object.take(object.remaining())?;
        let integrity_key = hmac::Key::new(hmac::HMAC_SHA256, &kdfa(seed.as_ref(), b"INTEGRITY\0", &[], 256));
        hmac::verify(&integrity_key, &[encrypted, ak_name].concat(), integrity)
            .map_err(|_| anyhow!("the credential is for another key or Name"))?;

        let storage = kdfa(seed.as_ref(), b"STORAGE\0", ak_name, 128);
        let mut identity = encrypted.to_vec();
        let key: [u8; 16] = storage[..16].try_into().context("half of 32 bytes")?;
        BufDecryptor::<aes::Aes128>::new(&key.into(), &[0; 16].into()).decrypt(&mut identity);
        let mut identity = Reader::new("TPM2B_DIGEST", &identity);
        let secret = Secret::recovered(identity.tpm2b(32)?).context("the secret has 32 bytes")?;
        ensure!(identity.is_empty(), "bytes follow the secret");
        Ok(secret)
    }
}

/// KDFa (TPM 2.0 Part 1 §11.4.10.2) with SHA-256, for at most one block.
fn kdfa(key: &[u8], label: &[u8], context: &[u8], bits: u32) -> [u8; 32] {
    let input = [&1_u32.to_be_bytes()[..], label, context, &bits.to_be_bytes()].concat();
    let mut out = [0; 32];
    out.copy_from_slice(hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key), &input).as_ref());
    out
}

/// ring does not say what went wrong.
fn unspecified(_: ring::error::Unspecified) -> Error {
    anyhow!("no randomness, or not a point of the curve")
}
