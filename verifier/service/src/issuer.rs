//! Where devices' own certificates for the broker come from: in go a device and its connection key, out comes a
//! certificate of the CA whose key is here, or one that another CA has put into a folder, or the word to wait for it.

use std::{
    fs,
    io::{self, Read as _},
    path::{Path, PathBuf},
};

use appraisal::UnixSeconds;
use evidence::claims::DeviceId;
use rustls::pki_types::{CertificateDer, pem::PemObject as _};
use thiserror::Error;
use x509_cert::{Certificate, der::Encode as _};

use crate::{
    certificates::{BrokerCa, CertificateError, ConnectionKey, Issued},
    config::Broker,
};

/// Longest file that another CA may hand over: a certificate and its chain.
const MAX_CERTIFICATE: u64 = 16 * 1024;

/// No certificate could be handed out, and waiting does not help.
#[derive(Debug, Error)]
pub enum IssuerError {
    /// Ours failed.
    #[error(transparent)]
    Certificate(#[from] CertificateError),
    /// A file.
    #[error("cannot use {}: {source}", path.display())]
    Io {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// What lies there does not do.
    #[error("{} {why}: remove it, or have the CA make it anew from the request", path.display())]
    Unfit {
        /// Which file.
        path: PathBuf,
        /// What is wrong with it.
        why: &'static str,
    },
}

/// What a device gets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HandOut {
    /// Its certificate.
    Issued(Issued),
    /// Another CA has not made it yet.
    Waiting,
    /// No certificates are handed out here.
    Nothing,
}

/// Who certifies devices.
#[derive(Debug)]
pub enum Issuer {
    /// The CA whose key this verifier has.
    Ours(Box<BrokerCa>),
    /// Another one, by file.
    Files {
        /// Public keys to be certified: `{id}.pem`.
        requests: PathBuf,
        /// Certificates: `{id}.pem`.
        issued: PathBuf,
    },
    /// Nobody here.
    Nobody,
}

impl Issuer {
    /// As configured.
    ///
    /// # Errors
    /// [`CertificateError`] where the CA's files cannot be used.
    pub fn from_config(broker: &Broker) -> Result<Self, CertificateError> {
        Ok(match (BrokerCa::load(&broker.device_ca, &broker.ca_key)?, &broker.issued) {
            (Some(ca), _) => Self::Ours(Box::new(ca)),
            (None, Some(issued)) => Self::Files { requests: broker.requests.clone(), issued: issued.clone() },
            (None, None) => Self::Nobody,
        })
    }

    /// A certificate for `key` in the name of `device`.
    ///
    /// # Errors
    /// [`IssuerError`]; an operator has to look into it.
    pub fn certificate(
        &self,
        device: &DeviceId,
        key: &ConnectionKey,
        now: UnixSeconds,
    ) -> Result<HandOut, IssuerError> {
        match self {
            Self::Ours(ca) => Ok(HandOut::Issued(ca.device(device, key, now)?)),
            Self::Files { requests, issued } => {
                let [request, issued] = [requests, issued].map(|folder| folder.join(format!("{device}.pem")));
                by_file(&request, &issued, device, key, now)
            }
            Self::Nobody => Ok(HandOut::Nothing),
        }
    }
}

/// The request stands as long as a certificate is wanted: until one is there of which more than a third is left.
fn by_file(
    request: &Path,
    issued: &Path,
    device: &DeviceId,
    key: &ConnectionKey,
    now: UnixSeconds,
) -> Result<HandOut, IssuerError> {
    let found = read(issued)?.map(|pem| made(issued, pem, device, key)).transpose()?.flatten();
    let usable = found.filter(|made| made.issued.not_after > now);
    if usable.as_ref().is_some_and(|made| !made.is_old(now)) {
        match fs::remove_file(request) {
            Err(source) if source.kind() != io::ErrorKind::NotFound => {
                return Err(IssuerError::Io { path: request.to_owned(), source });
            }
            _ => {}
        }
    } else {
        ask(request, &key.pem()).map_err(|source| IssuerError::Io { path: request.to_owned(), source })?;
    }
    Ok(usable.map_or(HandOut::Waiting, |made| HandOut::Issued(made.issued)))
}

/// A certificate that lies there.
struct Made {
    issued: Issued,
    not_before: UnixSeconds,
}

impl Made {
    const fn is_old(&self, now: UnixSeconds) -> bool {
        let lifetime = self.issued.not_after.saturating_sub(self.not_before);
        self.issued.not_after.saturating_sub(now) < lifetime / 3
    }
}

fn read(path: &Path) -> Result<Option<String>, IssuerError> {
    let unusable = |source| IssuerError::Io { path: path.to_owned(), source };
    let file = match fs::File::open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        opened => opened.map_err(unusable)?,
    };
    let mut text = String::new();
    file.take(MAX_CERTIFICATE + 1).read_to_string(&mut text).map_err(unusable)?;
    if text.len() as u64 > MAX_CERTIFICATE {
        return Err(IssuerError::Unfit { path: path.to_owned(), why: "is too long for a certificate with its chain" });
    }
    Ok(Some(text))
}

/// `None` where it is for an earlier key of the device: then a new one is wanted.
fn made(path: &Path, pem: String, device: &DeviceId, key: &ConnectionKey) -> Result<Option<Made>, IssuerError> {
    let unfit = |why| IssuerError::Unfit { path: path.to_owned(), why };
    let leaf = CertificateDer::from_pem_slice(pem.as_bytes()).map_err(|_| unfit("holds no PEM certificate"))?;
    let leaf: Certificate = x509_cert::der::Decode::from_der(&leaf).map_err(|_| unfit("holds no X.509 certificate"))?;
    let leaf = leaf.tbs_certificate();
    if leaf.subject().to_string() != format!("CN={device}") {
        return Err(unfit("has another subject than CN={id}, by which the broker knows devices"));
    }
    let spki = leaf.subject_public_key_info().to_der().map_err(|_| unfit("holds no public key"))?;
    if ConnectionKey::read(&spki).as_ref() != Some(key) {
        return Ok(None);
    }
    let validity = leaf.validity();
    let serial = leaf.serial_number().as_bytes().to_vec();
    let not_after = validity.not_after.to_unix_duration().as_secs();
    let not_before = validity.not_before.to_unix_duration().as_secs();
    Ok(Some(Made { issued: Issued { pem, serial, not_after }, not_before }))
}

/// Written beside and renamed, so that nobody reads half of it.
fn ask(request: &Path, pem: &str) -> io::Result<()> {
    if fs::read_to_string(request).is_ok_and(|there| there == pem) {
        return Ok(());
    }
    if let Some(folder) = request.parent() {
        fs::create_dir_all(folder)?;
    }
    let unfinished = request.with_extension("unfinished");
    fs::write(&unfinished, pem)?;
    fs::rename(unfinished, request)
}

#[cfg(test)]
mod tests {
    use rcgen::{KeyPair, PKCS_ECDSA_P256_SHA256, PublicKeyData as _};
    use tempfile::TempDir;

    use super::*;
    use crate::certificates::{DEVICE_LIFETIME, Kind};

    const NOW: u64 = 1_795_000_000;
    const ID: DeviceId = DeviceId([7; 32]);

    /// Another CA's folders, and the other CA.
    struct Elsewhere {
        dir: TempDir,
        issuer: Issuer,
        ca: BrokerCa,
    }

    impl Elsewhere {
        fn new() -> Self {
            let dir = tempfile::tempdir().unwrap();
            let [requests, issued] = ["requests", "issued"].map(|name| dir.path().join(name));
            fs::create_dir(&issued).unwrap();
            Self { issuer: Issuer::Files { requests, issued }, ca: BrokerCa::make(Kind::Devices, NOW).unwrap().0, dir }
        }

        fn request(&self) -> PathBuf {
            self.dir.path().join("requests").join(format!("{ID}.pem"))
        }

        fn put(&self, pem: &str) {
            fs::write(self.dir.path().join("issued").join(format!("{ID}.pem")), pem).unwrap();
        }
    }

    fn key() -> ConnectionKey {
        let pair = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap();
        ConnectionKey::read(&pair.subject_public_key_info()).unwrap()
    }

    #[test]
    fn another_ca_is_asked_by_file_and_what_it_makes_is_handed_out() {
        let (elsewhere, key) = (Elsewhere::new(), key());
        assert_eq!(elsewhere.issuer.certificate(&ID, &key, NOW).unwrap(), HandOut::Waiting);
        let asked = rustls::pki_types::SubjectPublicKeyInfoDer::from_pem_file(elsewhere.request()).unwrap();
        assert_eq!(ConnectionKey::read(&asked).unwrap(), key);
        let made = elsewhere.ca.device(&ID, &key, NOW).unwrap();
        elsewhere.put(&made.pem);
        assert_eq!(elsewhere.issuer.certificate(&ID, &key, NOW).unwrap(), HandOut::Issued(made.clone()));
        assert!(!elsewhere.request().exists(), "nothing is wanted any more");

        let old = NOW + DEVICE_LIFETIME * 3 / 4;
        assert_eq!(elsewhere.issuer.certificate(&ID, &key, old).unwrap(), HandOut::Issued(made));
        assert!(elsewhere.request().exists(), "a new one is wanted in time");
        assert_eq!(elsewhere.issuer.certificate(&ID, &key, NOW + DEVICE_LIFETIME).unwrap(), HandOut::Waiting);
    }

    #[test]
    fn a_certificate_for_another_key_or_name_is_not_handed_out() {
        let (elsewhere, key, earlier) = (Elsewhere::new(), key(), key());
        elsewhere.put(&elsewhere.ca.device(&ID, &earlier, NOW).unwrap().pem);
        assert_eq!(elsewhere.issuer.certificate(&ID, &key, NOW).unwrap(), HandOut::Waiting);
        elsewhere.put(&elsewhere.ca.device(&DeviceId([8; 32]), &key, NOW).unwrap().pem);
        let error = elsewhere.issuer.certificate(&ID, &key, NOW).unwrap_err().to_string();
        assert!(error.contains("another subject"), "{error}");
        for junk in
            ["", "no PEM", "-----BEGIN CERTIFICATE-----\nMAA=\n-----END CERTIFICATE-----\n", &"x".repeat(20_000)]
        {
            elsewhere.put(junk);
            assert!(matches!(elsewhere.issuer.certificate(&ID, &key, NOW), Err(IssuerError::Unfit { .. })), "{junk}");
        }
    }
}
