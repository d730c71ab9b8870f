//! Certificates for connections to the broker: in go keys and names, out come X.509 certificates, and lists of those that
//! are revoked. They say who may write to which topic and nothing more: whose evidence it is, the TPM's signature says.
//!
//! Three CAs keep three kinds of client apart, each with a listener of its own: devices, strangers who enrol, and services
//! (verifiers, the bridge, and the brokers' own names).

use std::{fs, io, path::Path, time::Duration};

use appraisal::UnixSeconds;
use evidence::claims::DeviceId;
use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyIdMethod, KeyPair, KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, PublicKeyData, RevokedCertParams,
    SerialNumber, SignatureAlgorithm,
};
use ring::rand::{SecureRandom as _, SystemRandom};
use rustls::pki_types::{CertificateDer, pem::PemObject as _};
use thiserror::Error;
use x509_cert::{
    Certificate,
    der::{Decode as _, Encode as _},
};

/// How long a device's certificate lasts, seconds: 90 days. It outlasts a long outage, and a device that is shut out
/// loses the broker within a season even where nobody keeps a revocation list there.
pub const DEVICE_LIFETIME: u64 = 90 * DAY;
/// How long the CA and the certificates beside its key last, seconds: ten years, a device's life in the field. A shorter
/// life of certificates that lie in the CA's own folder would protect nothing.
const CA_LIFETIME: u64 = 3650 * DAY;
/// Bytes of a serial number (RFC 5280 §4.1.2.2).
pub const SERIAL: usize = 16;
/// A device whose clock is behind by no more than this can use a new certificate at once.
pub const CLOCK_SKEW: u64 = DAY;
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
        "{certificate} and {key} are not the devices' CA that `verifier init` made; leave `broker.ca_key` pointing nowhere to hand out no certificates"
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

    /// SubjectPublicKeyInfo, PEM (RFC 7468).
    #[must_use]
    pub fn pem(&self) -> String {
        let base64 = data_encoding::BASE64.encode(&[&P256_SPKI[..], &self.0].concat());
        // 91 bytes are 124 letters: two lines.
        let (first, second) = base64.split_at(64);
        format!("-----BEGIN PUBLIC KEY-----\n{first}\n{second}\n-----END PUBLIC KEY-----\n")
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

/// Whom a CA certifies. Its subject is always the same, so that the certificate need not be read back to issue with its
/// key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Enrolled devices.
    Devices,
    /// Whoever enrols.
    Enrolment,
    /// Brokers, verifiers and what else belongs to the service.
    Services,
}

impl Kind {
    const fn name(self) -> &'static str {
        match self {
            Self::Devices => "Countersign devices CA",
            Self::Enrolment => "Countersign enrolment CA",
            Self::Services => "Countersign services CA",
        }
    }
}

/// A CA of the broker.
pub struct BrokerCa(Issuer<'static, KeyPair>);

impl std::fmt::Debug for BrokerCa {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("BrokerCa")
    }
}

/// A device's certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Issued {
    /// PEM. The CA is the broker's root and is not repeated.
    pub pem: String,
    /// Serial number, big-endian.
    pub serial: Vec<u8>,
    /// When it ends.
    pub not_after: UnixSeconds,
}

/// A certificate that must not be used any more.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Revoked {
    /// Serial number, big-endian.
    pub serial: Vec<u8>,
    /// Since when.
    pub since: UnixSeconds,
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
    pub fn make(kind: Kind, now: UnixSeconds) -> Result<(Self, Credentials), CertificateError> {
        let mut params = params(kind.name(), now, CA_LIFETIME)?;
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
        let files = Credentials { certificate: params.self_signed(&key)?.pem(), key: key.serialize_pem().into() };
        Ok((Self(Issuer::new(params, key)), files))
    }

    /// Reads the devices' CA that [`Self::make`] made; `None` without a key: then nothing is issued.
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
        if spki != pair.subject_public_key_info() || subject != format!("CN={}", Kind::Devices.name()) {
            return Err(foreign());
        }
        let mut params = CertificateParams::default();
        params.distinguished_name = name(Kind::Devices.name());
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
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

    /// For a client whose key is made here: the verifier, the bridge, and the shared one for enrolment.
    ///
    /// # Errors
    /// [`CertificateError`]
    pub fn client(&self, user: &str, now: UnixSeconds) -> Result<Credentials, CertificateError> {
        self.credentials(params(user, now, CA_LIFETIME)?, ExtendedKeyUsagePurpose::ClientAuth)
    }

    /// For an enrolled device.
    ///
    /// # Errors
    /// [`CertificateError`]
    pub fn device(&self, id: &DeviceId, key: &ConnectionKey, now: UnixSeconds) -> Result<Issued, CertificateError> {
        let params = leaf(params(&id.to_string(), now, DEVICE_LIFETIME)?, ExtendedKeyUsagePurpose::ClientAuth);
        let serial = params.serial_number.as_ref().map(SerialNumber::to_bytes).unwrap_or_default();
        let pem = params.signed_by(key, &self.0)?.pem();
        Ok(Issued { pem, serial, not_after: now.saturating_add(DEVICE_LIFETIME) })
    }

    /// The list of certificates that are revoked (RFC 5280 §5), PEM. `number` grows from list to list, and is the time
    /// from which the list counts: of two lists OpenSSL takes the later. It lasts as long as the CA, since a broker
    /// refuses everyone once its list has run out.
    ///
    /// # Errors
    /// [`CertificateError`]
    pub fn revocation_list(&self, revoked: &[Revoked], number: UnixSeconds) -> Result<String, CertificateError> {
        let at = |seconds| rcgen::date_time_ymd(1970, 1, 1) + Duration::from_secs(seconds);
        let entry = |revoked: &Revoked| RevokedCertParams {
            serial_number: SerialNumber::from_slice(&revoked.serial),
            revocation_time: at(revoked.since),
            reason_code: None,
            invalidity_date: None,
        };
        let list = CertificateRevocationListParams {
            this_update: at(number),
            next_update: at(number.saturating_add(CA_LIFETIME)),
            crl_number: SerialNumber::from_slice(&number.to_be_bytes()),
            issuing_distribution_point: None,
            revoked_certs: revoked.iter().map(entry).collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        Ok(list.signed_by(&self.0)?.pem()?)
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
    let at = |seconds| rcgen::date_time_ymd(1970, 1, 1) + Duration::from_secs(seconds);
    let mut serial = [0; SERIAL];
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
        let (_, files) = BrokerCa::make(Kind::Devices, NOW).unwrap();
        fs::write(&certificate, files.certificate).unwrap();
        fs::write(&key, files.key.as_str()).unwrap();
        fs::write(&other, BrokerCa::make(Kind::Devices, NOW).unwrap().1.key.as_str()).unwrap();
        let ca = BrokerCa::load(&certificate, &key).unwrap().unwrap();
        let pair = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap();
        let connection = ConnectionKey::read(&pair.subject_public_key_info()).unwrap();
        let issued = ca.device(&DeviceId([7; 32]), &connection, NOW).unwrap();
        let der = CertificateDer::from_pem_slice(issued.pem.as_bytes()).unwrap();
        let device = Certificate::from_der(&der).unwrap();
        assert_eq!(device.tbs_certificate().serial_number().as_bytes(), issued.serial);
        let until = device.tbs_certificate().validity().not_after.to_unix_duration().as_secs();
        assert_eq!((until, issued.not_after), (NOW + DEVICE_LIFETIME, NOW + DEVICE_LIFETIME));
        assert_eq!(device.tbs_certificate().subject().to_string(), format!("CN={}", DeviceId([7; 32])));
        assert!(matches!(BrokerCa::load(&certificate, &other), Err(CertificateError::NotOurCa { .. })));
        assert!(BrokerCa::load(&certificate, &dir.path().join("none")).unwrap().is_none());
        let (_, services) = BrokerCa::make(Kind::Services, NOW).unwrap();
        fs::write(&certificate, services.certificate).unwrap();
        fs::write(&key, services.key.as_str()).unwrap();
        assert!(BrokerCa::load(&certificate, &key).is_err(), "no other CA certifies devices");
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
