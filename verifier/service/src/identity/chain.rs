//! From the certificates of an enrolment to verified EKs: in go at most five DER certificates, leaves and CAs mixed;
//! out come [`VerifiedEk`]s. Paths, signatures and dates are webpki's (RFC 5280); what the TCG EK Credential Profile 2.5
//! asks of the leaf is checked here. Only [`EkChain::verify`] makes a [`VerifiedEk`].

use data_encoding::HEXLOWER;
use evidence::{claims::DeviceId, limits, reader::Reader, tpm::EkKey};
use jiff::Timestamp;
use ring::digest::{SHA256, digest};
use rustls::pki_types::{CertificateDer, TrustAnchor, UnixTime};
use webpki::{
    ALL_VERIFICATION_ALGS, CertRevocationList, EndEntityCert, KeyUsage as ExtendedUsage, RevocationOptions,
    RevocationOptionsBuilder, UnknownStatusPolicy, VerifiedPath,
};
use x509_cert::{
    Certificate,
    der::{Decode as _, Encode as _, oid::ObjectIdentifier},
    ext::pkix::{BasicConstraints, ExtendedKeyUsage, KeyUsage, SubjectAltName, name::GeneralName},
    name::Name,
    spki::SubjectPublicKeyInfoOwned,
};

use super::{CertificateFault, DenyList, EkRoots, IdentityError, RootClass, rank};

/// tcg-kp-EKCertificate, 2.23.133.8.1.
const EK_CERTIFICATE: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.23.133.8.1");
/// The same, as DER content.
const EK_CERTIFICATE_DER: &[u8] = &[0x67, 0x81, 0x05, 0x08, 0x01];
/// tpmManufacturer, tpmModel, tpmVersion (TCG EK Credential Profile 2.5 §3.1.2).
const TPM_ATTRIBUTES: [ObjectIdentifier; 3] = [
    ObjectIdentifier::new_unwrap("2.23.133.2.1"),
    ObjectIdentifier::new_unwrap("2.23.133.2.2"),
    ObjectIdentifier::new_unwrap("2.23.133.2.3"),
];
/// Characters of a name out of a certificate that are shown: enough to recognise a CA, too few to flood a log.
const MAX_SHOWN: usize = 120;

/// What a device sent, read but not verified.
#[derive(Debug)]
pub struct EkChain<'a> {
    leaves: Vec<UnverifiedEk<'a>>,
    intermediates: Vec<CertificateDer<'a>>,
}

/// A leaf whose content is that of an EK certificate, while nobody has checked who signed it.
#[derive(Debug)]
struct UnverifiedEk<'a> {
    /// From 1, in the order sent.
    position: usize,
    der: CertificateDer<'a>,
    key: EkKey,
    spki_digest: [u8; 32],
    issuer: String,
    serial: String,
    make: Option<TpmMake>,
}

/// An EK whose certificate leads to a trusted root.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VerifiedEk {
    position: usize,
    key: EkKey,
    spki_digest: [u8; 32],
    class: RootClass,
    root_fingerprint: [u8; 32],
    issuer: String,
    serial: String,
    make: Option<TpmMake>,
    leaf_der_digest: [u8; 32],
}

/// What the maker's certificate says of the TPM, printable, for people to read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TpmMake {
    /// `id:` and the TCG vendor id in hex, usually four letters.
    pub manufacturer: String,
    /// Part number.
    pub model: String,
    /// Firmware version at the time of making.
    pub version: String,
}

impl VerifiedEk {
    /// The certified key.
    #[must_use]
    pub const fn key(&self) -> &EkKey {
        &self.key
    }

    /// SHA-256 of the SubjectPublicKeyInfo's DER: the EK's digest, by which it is registered.
    #[must_use]
    pub const fn spki_digest(&self) -> &[u8; 32] {
        &self.spki_digest
    }

    /// Class of the root that the certificate leads to.
    #[must_use]
    pub const fn class(&self) -> RootClass {
        self.class
    }

    /// SHA-256 of that root's certificate: roots are allowed per product.
    #[must_use]
    pub const fn root_fingerprint(&self) -> &[u8; 32] {
        &self.root_fingerprint
    }

    /// Name of the CA that signed the certificate, printable.
    #[must_use]
    pub fn issuer(&self) -> &str {
        &self.issuer
    }

    /// The certificate's serial number, hexadecimal.
    #[must_use]
    pub fn serial(&self) -> &str {
        &self.serial
    }

    /// Manufacturer, model and version, where the certificate names all three.
    #[must_use]
    pub const fn make(&self) -> Option<&TpmMake> {
        self.make.as_ref()
    }

    /// SHA-256 of the certificate without padding.
    #[must_use]
    pub const fn leaf_der_digest(&self) -> &[u8; 32] {
        &self.leaf_der_digest
    }

    /// Which of the certificates sent, from 1.
    pub(super) const fn position(&self) -> usize {
        self.position
    }
}

impl<'a> EkChain<'a> {
    /// Reads the certificates as sent, NV padding included.
    ///
    /// # Errors
    /// Beyond the limits of an enrolment; where one is not a certificate, or a leaf is not that of an EK; where none is
    /// a leaf.
    pub fn read(certificates: &[&'a [u8]]) -> Result<Self, IdentityError> {
        let bytes: usize = certificates.iter().map(|der| der.len()).sum();
        if certificates.len() > limits::MAX_EK_CERTIFICATES || bytes > limits::MAX_EK_CERTIFICATE_BYTES {
            return Err(IdentityError::TooLarge);
        }
        let mut chain = Self { leaves: Vec::new(), intermediates: Vec::new() };
        for (position, sent) in (1..).zip(certificates) {
            let refused = |why| IdentityError::EkCertificate { certificate: position, why };
            let der = without_padding(sent).ok_or(refused(CertificateFault::Malformed))?;
            let certificate = parse(der).map_err(refused)?;
            if is_ca(&certificate).map_err(refused)? {
                chain.intermediates.push(der.into());
            } else {
                chain.leaves.push(UnverifiedEk::read(position, der, &certificate).map_err(refused)?);
            }
        }
        if chain.leaves.is_empty() { Err(IdentityError::NoEkCertificate) } else { Ok(chain) }
    }

    /// The id that the leaves lead to, if their certificates hold.
    pub(crate) fn claimed_id(&self) -> Option<DeviceId> {
        let first = self.leaves.iter().min_by_key(|leaf| rank(&leaf.key))?;
        Some(DeviceId(first.spki_digest))
    }

    /// Verifies each leaf up to a trusted root. One that does not lead to any refuses the whole: a device is either
    /// known by all keys that it claims, or not at all.
    ///
    /// # Errors
    /// [`IdentityError`] names the certificate and the check.
    pub fn verify(&self, roots: &EkRoots, now: Timestamp) -> Result<Vec<VerifiedEk>, IdentityError> {
        self.leaves.iter().map(|leaf| leaf.verify(&self.intermediates, roots, now)).collect()
    }
}

impl<'a> UnverifiedEk<'a> {
    fn read(position: usize, der: &'a [u8], certificate: &Certificate) -> Result<Self, CertificateFault> {
        let content = certificate.tbs_certificate();
        let (key, spki_digest) = read_key(content.subject_public_key_info())?;
        check_usage(certificate, &key)?;
        let issuer = printable(&content.issuer().to_string());
        let serial = HEXLOWER.encode(content.serial_number().as_bytes());
        Ok(Self { position, der: der.into(), key, spki_digest, issuer, serial, make: read_make(certificate)? })
    }

    fn verify(
        &self,
        intermediates: &[CertificateDer<'_>],
        roots: &EkRoots,
        now: Timestamp,
    ) -> Result<VerifiedEk, IdentityError> {
        self.check_denied(roots.deny_list())?;
        // Software roots first: a chain that can end at one never passes for hardware, whatever else is trusted.
        let mut failure = None;
        for class in [RootClass::Software, RootClass::Hardware] {
            let anchors = roots.anchors(class, now);
            match self.path_to(&anchors, intermediates, roots, now) {
                Ok(path) => {
                    path.authorities.iter().try_for_each(|ca| self.check_authority(ca, roots.deny_list()))?;
                    return Ok(self.verified(class, path.root_fingerprint));
                }
                Err(webpki::Error::CertRevoked) => return Err(IdentityError::Revoked { certificate: self.position }),
                // Only the class that knows the issuer has something to tell.
                Err(webpki::Error::UnknownIssuer) => {}
                Err(error) => failure = Some(error),
            }
        }
        Err(self.refusal(failure.as_ref()))
    }

    /// What the certificate itself says, and who signed it by name.
    fn check_denied(&self, denied: &DenyList) -> Result<(), IdentityError> {
        let refused = |what, why: &str| IdentityError::Denied { certificate: self.position, what, why: why.to_owned() };
        if let Some(why) = denied.ek(&self.spki_digest) {
            return Err(refused("the endorsement key", why));
        }
        if let Some(why) = denied.issuer(&self.issuer, None) {
            return Err(refused("its issuer", why));
        }
        match self.make.as_ref().and_then(|make| denied.manufacturer(&make.manufacturer)) {
            Some(why) => Err(refused("the TPM's maker", why)),
            None => Ok(()),
        }
    }

    fn check_authority(&self, ca: &Authority, denied: &DenyList) -> Result<(), IdentityError> {
        match denied.issuer(&ca.subject, Some(&ca.spki_digest)) {
            None => Ok(()),
            Some(why) => {
                Err(IdentityError::Denied { certificate: self.position, what: "a CA above it", why: why.to_owned() })
            }
        }
    }

    fn verified(&self, class: RootClass, root_fingerprint: [u8; 32]) -> VerifiedEk {
        VerifiedEk {
            position: self.position,
            key: self.key.clone(),
            spki_digest: self.spki_digest,
            class,
            root_fingerprint,
            issuer: shown(&self.issuer),
            serial: self.serial.clone(),
            make: self.make.clone(),
            leaf_der_digest: sha256(&self.der),
        }
    }

    /// A path that holds.
    fn path_to(
        &self,
        anchors: &[TrustAnchor<'_>],
        intermediates: &[CertificateDer<'_>],
        roots: &EkRoots,
        now: Timestamp,
    ) -> Result<HeldPath, webpki::Error> {
        let time = UnixTime::since_unix_epoch(now.as_duration().try_into().unwrap_or_default());
        let leaf = EndEntityCert::try_from(&self.der)?;
        // CAs of TPM makers carry no extended key usage; the leaf's was checked on reading.
        let usage = ExtendedUsage::required_if_present(EK_CERTIFICATE_DER);
        let crls = roots.crls();
        let revocation = revocation_by(&crls);
        let path = leaf.verify_for_usage(
            ALL_VERIFICATION_ALGS,
            anchors,
            intermediates,
            time,
            usage,
            revocation,
            Some(&only_certificate_signers),
        )?;
        let root = roots.root_of(path.anchor()).ok_or(webpki::Error::UnknownIssuer)?;
        let between = path.intermediate_certificates().map(|ca| Authority::of(&ca.der()));
        let mut authorities = between.collect::<Option<Vec<_>>>().ok_or(webpki::Error::BadDer)?;
        authorities.push(root.authority().clone());
        Ok(HeldPath { root_fingerprint: *root.fingerprint(), authorities })
    }

    fn refusal(&self, error: Option<&webpki::Error>) -> IdentityError {
        use webpki::Error as E;
        let why = match error {
            Some(E::CertExpired { .. } | E::CertNotValidYet { .. } | E::InvalidCertValidity) => {
                CertificateFault::Validity
            }
            Some(E::BadDer | E::BadDerTime | E::UnsupportedCertVersion | E::TrailingData(_)) => {
                CertificateFault::Malformed
            }
            _ => return IdentityError::UntrustedRoot { certificate: self.position, issuer: shown(&self.issuer) },
        };
        IdentityError::EkCertificate { certificate: self.position, why }
    }
}

/// The end of a path, and every CA on it.
struct HeldPath {
    root_fingerprint: [u8; 32],
    authorities: Vec<Authority>,
}

/// A CA as the deny list names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Authority {
    /// Whole name, RFC 4514, printable.
    subject: String,
    spki_digest: [u8; 32],
}

impl Authority {
    /// `None` where it is no certificate.
    pub(super) fn of(der: &[u8]) -> Option<Self> {
        let certificate = parse(der).ok()?;
        let content = certificate.tbs_certificate();
        let spki = content.subject_public_key_info().to_der().ok()?;
        Some(Self { subject: printable(&content.subject().to_string()), spki_digest: sha256(&spki) })
    }
}

/// Revocation along the whole path. A CA without a CRL here is not held against its devices: most makers of TPMs publish
/// none. An overdue CRL still revokes what it lists.
fn revocation_by<'a>(crls: &'a [&'a CertRevocationList<'a>]) -> Option<RevocationOptions<'a>> {
    let options = RevocationOptionsBuilder::new(crls).ok()?;
    Some(options.with_status_policy(UnknownStatusPolicy::Allow).build())
}

/// webpki leaves key usage aside: a CA that may not sign certificates ends the path here (RFC 5280 §6.1.4 (n)).
fn only_certificate_signers(path: &VerifiedPath<'_>) -> Result<(), webpki::Error> {
    let may_sign = |der: CertificateDer<'_>| parse(&der).is_ok_and(|ca| may_sign_certificates(&ca));
    let all = path.intermediate_certificates().all(|ca| may_sign(ca.der()));
    if all { Ok(()) } else { Err(webpki::Error::EndEntityUsedAsCa) }
}

/// Key usage, where there is one, has keyCertSign.
pub(super) fn may_sign_certificates(ca: &Certificate) -> bool {
    match ca.tbs_certificate().get_extension::<KeyUsage>() {
        Ok(Some((_, usage))) => usage.key_cert_sign(),
        Ok(None) => true,
        Err(_) => false,
    }
}

pub(super) fn parse(der: &[u8]) -> Result<Certificate, CertificateFault> {
    Certificate::from_der(der).map_err(|_| CertificateFault::Malformed)
}

pub(super) fn is_ca(certificate: &Certificate) -> Result<bool, CertificateFault> {
    let constraints = certificate.tbs_certificate().get_extension::<BasicConstraints>();
    constraints.map(|found| found.is_some_and(|(_, c)| c.ca)).map_err(|_| CertificateFault::Malformed)
}

/// NV indices are larger than the certificate in them; the rest is all zeros or all ones. Anything else behind it is no
/// padding.
fn without_padding(sent: &[u8]) -> Option<&[u8]> {
    let mut r = Reader::new("certificate", sent);
    if r.u8().ok()? != 0x30 {
        return None;
    }
    let length = match r.u8().ok()? {
        short @ 0..=0x7F => usize::from(short),
        0x81 => usize::from(r.u8().ok()?),
        0x82 => usize::from(r.u16_be().ok()?),
        _ => return None,
    };
    let (der, padding) = sent.split_at_checked(r.at().checked_add(length)?)?;
    let all = |byte: u8| padding.iter().all(|b| *b == byte);
    (all(0x00) || all(0xFF)).then_some(der)
}

/// The key and the digest of its SubjectPublicKeyInfo. One key has one encoding here, or it would have two ids.
fn read_key(spki: &SubjectPublicKeyInfoOwned) -> Result<(EkKey, [u8; 32]), CertificateFault> {
    let der = spki.to_der().map_err(|_| CertificateFault::Malformed)?;
    Ok((EkKey::of_spki(&der).ok_or(CertificateFault::Key)?, sha256(&der)))
}

/// TCG EK Credential Profile 2.5 §3.2: both usages are those of an endorsement key.
fn check_usage(certificate: &Certificate, key: &EkKey) -> Result<(), CertificateFault> {
    let content = certificate.tbs_certificate();
    let extended = content.get_extension::<ExtendedKeyUsage>().map_err(|_| CertificateFault::Malformed)?;
    if !extended.is_some_and(|(_, usages)| usages.0.contains(&EK_CERTIFICATE)) {
        return Err(CertificateFault::ExtendedKeyUsage);
    }
    let usage = content.get_extension::<KeyUsage>().map_err(|_| CertificateFault::Malformed)?;
    let fits = usage.is_some_and(|(_, usage)| match key {
        EkKey::Rsa2048(_) => usage.key_encipherment(),
        EkKey::P256(_) | EkKey::P384(_) => usage.key_agreement(),
    });
    if fits { Ok(()) } else { Err(CertificateFault::KeyUsage) }
}

/// Manufacturer, model and version out of the subjectAltName's directoryName.
fn read_make(certificate: &Certificate) -> Result<Option<TpmMake>, CertificateFault> {
    let found = certificate.tbs_certificate().get_extension::<SubjectAltName>();
    let Some((_, names)) = found.map_err(|_| CertificateFault::Malformed)? else { return Ok(None) };
    let directory = names.0.iter().find_map(|name| match name {
        GeneralName::DirectoryName(directory) => Some(directory),
        _ => None,
    });
    Ok(directory.and_then(|directory| {
        let [manufacturer, model, version] = TPM_ATTRIBUTES.map(|oid| attribute(directory, oid));
        Some(TpmMake { manufacturer: manufacturer?, model: model?, version: version? })
    }))
}

fn attribute(directory: &Name, oid: ObjectIdentifier) -> Option<String> {
    let found = directory.iter().find(|attribute| attribute.oid == oid)?;
    Some(shown(&String::from_utf8_lossy(found.value.value())))
}

/// A text out of a stranger's certificate, fit for logs and terminals.
fn shown(text: &str) -> String {
    printable(text).chars().take(MAX_SHOWN).collect()
}

/// The same at its full length, as the deny list names CAs.
pub(super) fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() || c == char::REPLACEMENT_CHARACTER { '?' } else { c }).collect()
}

pub(super) fn sha256(bytes: &[u8]) -> [u8; 32] {
    let mut out = [0; 32];
    out.copy_from_slice(digest(&SHA256, bytes).as_ref());
    out
}

/// Lower-case hex, as digests are shown everywhere.
pub(super) fn hex(digest: &[u8; 32]) -> String {
    HEXLOWER.encode(digest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_shown_short_and_without_control_characters() {
        assert_eq!(shown("a\x1b[31m\nb"), "a?[31m?b");
        assert_eq!(shown(&"é".repeat(1000)).chars().count(), MAX_SHOWN);
    }
}
