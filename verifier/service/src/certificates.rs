//! Certificates for connections to the broker: in go keys and names, out come X.509 certificates by the broker's own CA.
//! They say who may write to which topic and nothing more: whose evidence it is, the TPM's signature says.

use std::{fs, io, path::Path, time::Duration};

use appraisal::UnixSeconds;
use evidence::claims::DeviceId;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    PKCS_ECDSA_P256_SHA256, PublicKeyData, SerialNumber, SignatureAlgorithm,
};
use ring::rand::{SecureRandom as _, SystemRandom};
use rustls::pki_types::{CertificateDer, pem::PemObject as _};
use thiserror::Error;
use x509_cert::{
    Certificate,
    der::{Decode as _, Encode as _},
};

/// Subject of the CA. Always the same, so that the certificate need not be read back to issue with its key.
const CA_NAME: &str = "Countersign broker CA";
/// How long a device's certificate lasts, seconds: 90 days. It outlasts a long outage, and a device that is shut out
/// loses the broker within a season even where nobody keeps a revocation list there.
pub const DEVICE_LIFETIME: u64 = 90 * DAY;
/// How long the CA and the certificates beside its key last, seconds: ten years, a device's life in the field. A shorter
/// life of certificates that lie in the CA's own folder would protect nothing.
const CA_LIFETIME: u64 = 3650 * DAY;
/// A device whose clock is behind by no more than this can use a new certificate at once.
const CLOCK_SKEW: u64 = DAY;
const DAY: u64 = 24 * 3600;
/// DER of a P-256 SubjectPublicKeyInfo before its point (RFC 5480 §2).
const P256_SPKI: [u8; 26] = [
    0x30, 0x59, 0x30, 0x13, 0x06, 0x07, 0x2A, 0x86, 0x48, 0xCE, 0x3D, 0x02, 0x01, 0x06, 0x08, 0x2A, 0x86, 0x48, 0xCE,
    0x3D, 0x03, 0x01, 0x07, 0x03, 0x42, 0x00,
];

/// No certificate could be made or used.
#[derive(Debug, Error)]
pub enum CertificateError {
    /// Cannot be read.
    #[error("cannot read {path}: {source}")]
    Unreadable {
        /// Which file.
        path: String,
        /// Why.
        source: io::Error,
    },
    /// CA certificate and key are not a pair that `verifier init` made.
    #[error(
        "{certificate} and {key} are not a CA that `verifier init` made; leave `broker.ca_key` pointing nowhere to hand out no certificates"
    )]
    NotOurCa {
        /// Certificate.
        certificate: String,
        /// Key.
        key: String,
    },
    /// Making one failed.
    #[error("cannot make a certificate: {0}")]
    Make(#[from] rcgen::Error),
    /// ring gives no random numbers.
    #[error("cannot make a certificate: the system's random number generator gives nothing")]
    Random,
}

/// A device's public key for its connection, on its way into a certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConnectionKey([u8; 65]);

impl ConnectionKey {
    /// From a SubjectPublicKeyInfo; `None` for another key than P-256 with an uncompressed point. That the device has
    /// the private half, each connection shows.
    #[must_use]
    pub fn read(spki: &[u8]) -> Option<Self> {
        let point: [u8; 65] = spki.strip_prefix(&P256_SPKI)?.try_into().ok()?;
        (point[0] == 4).then_some(Self(point))
    }
}

impl PublicKeyData for ConnectionKey {
    fn der_bytes(&self) -> &[u8] {
        &self.0
    }

    fn algorithm(&self) -> &'static SignatureAlgorithm {
        &PKCS_ECDSA_P256_SHA256
    }
}

/// The broker's CA.
pub struct BrokerCa(Issuer<'static, KeyPair>);

impl std::fmt::Debug for BrokerCa {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("BrokerCa")
    }
}

/// A certificate with its key, PEM both.
pub struct Credentials {
    /// Certificate.
    pub certificate: String,
    /// PKCS#8.
    pub key: zeroize::Zeroizing<String>,
}

impl BrokerCa {
    /// A new CA, and its certificate and key for files.
    ///
    /// # Errors
    /// [`CertificateError`]
    pub fn make(now: UnixSeconds) -> Result<(Self, Credentials), CertificateError> {
        let mut params = params(CA_NAME, now, CA_LIFETIME)?;
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
        let files = Credentials { certificate: params.self_signed(&key)?.pem(), key: key.serialize_pem().into() };
        Ok((Self(Issuer::new(params, key)), files))
    }

    /// Reads what [`Self::make`] wrote; `None` without a key: then nothing is issued.
    ///
    /// # Errors
    /// [`CertificateError`]
    pub fn load(certificate: &Path, key: &Path) -> Result<Option<Self>, CertificateError> {
        if !key.exists() {
            return Ok(None);
        }
        let read = |path: &Path| {
            let path_text = path.display().to_string();
            fs::read(path).map_err(|source| CertificateError::Unreadable { path: path_text, source })
        };
        let foreign = || CertificateError::NotOurCa {
            certificate: certificate.display().to_string(),
            key: key.display().to_string(),
        };
        let pem = zeroize::Zeroizing::new(String::from_utf8(read(key)?).map_err(|_| foreign())?);
        let pair = KeyPair::from_pem(&pem).map_err(|_| foreign())?;
        let der = CertificateDer::from_pem_slice(&read(certificate)?).map_err(|_| foreign())?;
        let known = Certificate::from_der(&der).map_err(|_| foreign())?;
        let spki = known.tbs_certificate().subject_public_key_info().to_der().map_err(|_| foreign())?;
        let subject = known.tbs_certificate().subject().to_string();
        if spki != pair.subject_public_key_info() || subject != format!("CN={CA_NAME}") {
            return Err(foreign());
        }
        let mut params = CertificateParams::default();
        params.distinguished_name = name(CA_NAME);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        Ok(Some(Self(Issuer::new(params, pair))))
    }

    /// For the broker itself.
    ///
    /// # Errors
    /// [`CertificateError`]
    pub fn server(&self, hosts: &[String], now: UnixSeconds) -> Result<Credentials, CertificateError> {
        let mut params = params("Countersign broker", now, CA_LIFETIME)?;
        params.subject_alt_names = CertificateParams::new(hosts)?.subject_alt_names;
        self.credentials(params, ExtendedKeyUsagePurpose::ServerAuth)
    }

    /// For a client whose key is made here: the verifier, and the shared one for enrolment.
    ///
    /// # Errors
    /// [`CertificateError`]
    pub fn client(&self, user: &str, now: UnixSeconds) -> Result<Credentials, CertificateError> {
        self.credentials(params(user, now, CA_LIFETIME)?, ExtendedKeyUsagePurpose::ClientAuth)
    }

    /// For an enrolled device, PEM: the CA is the broker's root and is not repeated.
    ///
    /// # Errors
    /// [`CertificateError`]
    pub fn device(&self, id: &DeviceId, key: &ConnectionKey, now: UnixSeconds) -> Result<String, CertificateError> {
        let params = leaf(params(&id.to_string(), now, DEVICE_LIFETIME)?, ExtendedKeyUsagePurpose::ClientAuth);
        Ok(params.signed_by(key, &self.0)?.pem())
    }

    fn credentials(
        &self,
        params: CertificateParams,
        usage: ExtendedKeyUsagePurpose,
    ) -> Result<Credentials, CertificateError> {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
        let certificate = leaf(params, usage).signed_by(&key, &self.0)?.pem();
        Ok(Credentials { certificate, key: key.serialize_pem().into() })
    }
}

fn leaf(mut params: CertificateParams, usage: ExtendedKeyUsagePurpose) -> CertificateParams {
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![usage];
    params.use_authority_key_identifier_extension = true;
    params
}

fn name(common: &str) -> rcgen::DistinguishedName {
    let mut name = rcgen::DistinguishedName::new();
    name.push(DnType::CommonName, common);
    name
}

fn params(common: &str, now: UnixSeconds, lifetime: u64) -> Result<CertificateParams, CertificateError> {
    let at = |seconds: u64| rcgen::date_time_ymd(1970, 1, 1) + Duration::from_secs(seconds);
    let mut serial = [0; 16];
    SystemRandom::new().fill(&mut serial).map_err(|_| CertificateError::Random)?;
    // A serial number is a positive INTEGER (RFC 5280 §4.1.2.2).
    serial[0] = serial[0] & 0x7F | 0x40;
    let mut params = CertificateParams::default();
    params.serial_number = Some(SerialNumber::from_slice(&serial));
    params.distinguished_name = name(common);
    params.not_before = at(now.saturating_sub(CLOCK_SKEW));
    params.not_after = at(now.saturating_add(lifetime));
    Ok(params)
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: u64 = 1_795_000_000;

    #[test]
    fn a_ca_that_was_written_issues_again_and_another_pair_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let [certificate, key, other] = ["ca.pem", "ca.key", "other.key"].map(|name| dir.path().join(name));
        let (_, files) = BrokerCa::make(NOW).unwrap();
        fs::write(&certificate, files.certificate).unwrap();
        fs::write(&key, files.key.as_str()).unwrap();
        fs::write(&other, BrokerCa::make(NOW).unwrap().1.key.as_str()).unwrap();
        let ca = BrokerCa::load(&certificate, &key).unwrap().unwrap();
        let pair = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap();
        let connection = ConnectionKey::read(&pair.subject_public_key_info()).unwrap();
        let pem = ca.device(&DeviceId([7; 32]), &connection, NOW).unwrap();
        let der = CertificateDer::from_pem_slice(pem.as_bytes()).unwrap();
        let device = Certificate::from_der(&der).unwrap();
        assert_eq!(device.tbs_certificate().subject().to_string(), format!("CN={}", DeviceId([7; 32])));
        assert!(matches!(BrokerCa::load(&certificate, &other), Err(CertificateError::NotOurCa { .. })));
        assert!(BrokerCa::load(&certificate, &dir.path().join("none")).unwrap().is_none());
    }

    #[test]
    fn only_p256_keys_with_an_uncompressed_point_are_connection_keys() {
        let spki = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap().subject_public_key_info();
        assert!(ConnectionKey::read(&spki).is_some());
        assert!(ConnectionKey::read(&spki[..90]).is_none());
        let mut compressed = spki.clone();
        compressed[26] = 2;
        assert!(ConnectionKey::read(&compressed).is_none());
        assert!(
            ConnectionKey::read(&KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap().subject_public_key_info())
                .is_none()
        );
    }
}
