//! Where a fleet lives: the CA of its TPMs, the verifier that it pins, the broker, and credentials to enrol with.

use std::{fs, path::Path, sync::Arc};

use anyhow::{Context as _, Result};
use evidence::{topic::Name, tpm::P256Point, verifier_message::VerifierKeyId};
use rumqttc::{TlsConfiguration, Transport, v5::MqttOptions};
use rustls::{
    client::Resumption,
    pki_types::{CertificateDer, PrivateKeyDer, SubjectPublicKeyInfoDer, pem::PemObject as _},
};

use crate::software_ek::{Ca, p256_point};

/// Files that `simulate-fleet ca` makes.
const CA_FILES: [&str; 2] = ["simulated-ca.pem", "simulated-ca.key"];
/// Messages that are sent and not acknowledged by the broker.
pub(super) const IN_FLIGHT: u16 = 16;
/// Longest packet: `max_message_bytes` and what is around it.
const MAX_PACKET: u32 = 256 * 1024;

/// See the module.
pub struct Place {
    pub(super) ca: Ca,
    pub(super) verifier: Name,
    pub(super) root: P256Point,
    pub(super) root_id: VerifierKeyId,
    roots: Arc<rustls::RootCertStore>,
    enrol: (Vec<u8>, Vec<u8>),
    enrol_at: (String, u16),
    at: (String, u16),
}

impl Place {
    /// `verifier_dir` is what `verifier init` made, `broker` HOST:PORT for enrolled devices, `name` the verifier's.
    ///
    /// # Errors
    /// Where a file is missing or does not read.
    pub fn new(ca: Ca, verifier_dir: &Path, name: &str, broker: &str) -> Result<Self> {
        let read = |file: &str| {
            let path = verifier_dir.join("broker").join(file);
            fs::read(&path).with_context(|| format!("cannot read {}", path.display()))
        };
        let mut roots = rustls::RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(&read("ca.pem")?)?)?;
        let key = SubjectPublicKeyInfoDer::from_pem_file(verifier_dir.join("verifier.pub.pem"))?;
        let root = p256_point(&key).context("verifier.pub.pem is not a P-256 key")?;
        let at = address(broker)?;
        Ok(Self {
            ca,
            verifier: Name::new(name).context("not a verifier's name")?,
            root,
            root_id: VerifierKeyId::of(&root),
            roots: Arc::new(roots),
            enrol: (read("enrol.pem")?, read("enrol.key")?),
            enrol_at: at.clone(),
            at,
        })
    }

    /// The same, with devices that enrol at another address than they live at.
    ///
    /// # Errors
    /// Where it is not HOST:PORT.
    pub fn enrolling_at(self, broker: &str) -> Result<Self> {
        Ok(Self { enrol_at: address(broker)?, ..self })
    }

    /// Options of a connection with the shared enrolment certificate.
    pub(super) fn to_enrol(&self, client: &str) -> Result<MqttOptions> {
        self.options(client, &self.enrol_at, &self.enrol.0, &self.enrol.1)
    }

    /// Options of a device's own connection.
    pub(super) fn to_live(&self, client: &str, certificate: &[u8], key: &[u8]) -> Result<MqttOptions> {
        self.options(client, &self.at, certificate, key)
    }

    fn options(&self, client: &str, at: &(String, u16), certificate: &[u8], key: &[u8]) -> Result<MqttOptions> {
        let chain = CertificateDer::pem_slice_iter(certificate).collect::<Result<Vec<_>, _>>()?;
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut tls = rustls::ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .with_root_certificates(Arc::clone(&self.roots))
            .with_client_auth_cert(chain, PrivateKeyDer::from_pem_slice(key)?)?;
        // Room for one broker's session, in each of hundreds of devices.
        tls.resumption = Resumption::in_memory_sessions(1);
        let mut options = MqttOptions::new(client, &at.0, at.1);
        options.set_transport(Transport::tls_with_config(TlsConfiguration::Rustls(Arc::new(tls))));
        options.set_clean_start(true).set_max_packet_size(Some(MAX_PACKET)).set_receive_maximum(Some(IN_FLIGHT));
        options.set_outgoing_inflight_upper_limit(IN_FLIGHT);
        Ok(options)
    }
}

fn address(broker: &str) -> Result<(String, u16)> {
    let (host, port) = broker.rsplit_once(':').context("the broker's address is HOST:PORT")?;
    Ok((host.to_owned(), port.parse().context("the broker's address is HOST:PORT")?))
}

impl Ca {
    /// Writes certificate and key for [`Self::in_folder`]; the certificate's path is what `verifier roots add` takes.
    ///
    /// # Errors
    /// Where they cannot be written.
    pub fn write(&self, dir: &Path) -> Result<std::path::PathBuf> {
        fs::create_dir_all(dir).with_context(|| format!("cannot make {}", dir.display()))?;
        for (name, content) in CA_FILES.iter().zip([self.pem(), &self.key_pem()]) {
            fs::write(dir.join(name), content).with_context(|| format!("cannot write {name} to {}", dir.display()))?;
        }
        Ok(dir.join(CA_FILES[0]))
    }

    /// A CA that [`Self::write`] wrote.
    ///
    /// # Errors
    /// Where its files do not read.
    pub fn in_folder(dir: &Path) -> Result<Self> {
        let read = |name| {
            fs::read_to_string(dir.join(name)).with_context(|| format!("cannot read {name} in {}", dir.display()))
        };
        Self::from_pem(&read(CA_FILES[0])?, &read(CA_FILES[1])?)
    }
}
