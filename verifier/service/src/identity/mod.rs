//! Who a device is. In go the EK certificates that it sends and the roots that the operator trusts; out comes a
//! [`DeviceIdentity`], or the one check that failed; [`make_credential()`] then makes the challenge that only the TPM
//! with that EK can answer. An identity by itself says what the device claims: it is the device's own once the
//! challenge has been answered for **each** of its EKs, since certificates are public.

mod allow;
mod chain;
mod crl;
mod deny;
mod make_credential;
mod roots;

pub use allow::{AllowError, read_ek, read_id, read_ids, read_product};
pub use chain::{EkChain, TpmMake, VerifiedEk};
pub use deny::{DenyError, DenyList};
pub use make_credential::{Credential, MakeCredentialError, make_credential};
pub use roots::{EkRoots, Root, RootClass, RootsError};

use evidence::{claims::DeviceId, limits, tpm::EkKey, tpm::without_size};
use thiserror::Error;

/// A check of a device's identity that did not hold. `certificate` counts from 1, in the order sent.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum IdentityError {
    /// No certificate of an endorsement key among what was sent.
    #[error("no endorsement key certificate was sent: the TPM has none in NV, or only its CA's was read")]
    NoEkCertificate,
    /// More than an enrolment may carry.
    #[error(
        "at most {} certificates with {} bytes in all are accepted",
        limits::MAX_EK_CERTIFICATES,
        limits::MAX_EK_CERTIFICATE_BYTES
    )]
    TooLarge,
    /// A certificate is not one of an endorsement key, or cannot be read.
    #[error("EK certificate {certificate} is refused: {why}")]
    EkCertificate {
        /// Which one.
        certificate: usize,
        /// What is wrong with it.
        why: CertificateFault,
    },
    /// No path to a root that the operator trusts.
    #[error(
        "EK certificate {certificate}, issued by \"{issuer}\", leads to no trusted root; if its maker is to be trusted: verifier roots add FILE"
    )]
    UntrustedRoot {
        /// Which one.
        certificate: usize,
        /// Its issuer's name, printable and shortened.
        issuer: String,
    },
    /// On a CRL of the roots folder.
    #[error("EK certificate {certificate} or a CA above it is revoked by its issuer")]
    Revoked {
        /// Which one.
        certificate: usize,
    },
    /// On the operator's deny list.
    #[error("EK certificate {certificate} is refused, since {what} is on the deny list: {why}")]
    Denied {
        /// Which one.
        certificate: usize,
        /// What of it.
        what: &'static str,
        /// The operator's words.
        why: String,
    },
    /// The public area is not the TCG default template with the certified key.
    #[error("the endorsement key's public area differs from the TCG template for the key in its certificate")]
    EkTemplate,
}

impl IdentityError {
    /// Stable code, used in causes, counters, logs and answers.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        match self {
            Self::NoEkCertificate => "identity.no-ek-certificate",
            Self::TooLarge | Self::EkCertificate { .. } => "identity.ek-certificate",
            Self::UntrustedRoot { .. } => "identity.ek-untrusted",
            Self::Revoked { .. } => "identity.ek-revoked",
            Self::Denied { .. } => "identity.ek-denied",
            Self::EkTemplate => "identity.ek-template",
        }
    }
}

/// What is wrong with one certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum CertificateFault {
    /// Not a DER certificate, or followed by something else than padding.
    #[error("it is not an X.509 version 3 certificate in DER")]
    Malformed,
    /// Extended key usage without tcg-kp-EKCertificate.
    #[error("its extended key usage does not name TCG endorsement keys (2.23.133.8.1)")]
    ExtendedKeyUsage,
    /// Key usage that does not fit the key.
    #[error("its key usage is not that of an endorsement key (keyEncipherment for RSA, keyAgreement for ECC)")]
    KeyUsage,
    /// Another key than the profile knows.
    #[error("its key is not RSA-2048 with exponent 65537, ECC P-256 or ECC P-384")]
    Key,
    /// Outside of notBefore and notAfter, its own or a CA's.
    #[error("it, or a CA above it, is expired or not yet valid")]
    Validity,
    /// Two certified keys of one kind: the id would depend on their order.
    #[error("another certificate already certifies another endorsement key of this kind")]
    SecondOfItsKind,
}

/// The EKs of one device, verified, and the id that follows from them.
#[derive(Debug, Clone)]
pub struct DeviceIdentity {
    eks: Vec<VerifiedEk>,
    id: DeviceId,
}

impl DeviceIdentity {
    /// The id comes from the first EK in the order ECC P-256, ECC P-384, RSA; so it does not hang on the order in which
    /// a device sends them.
    ///
    /// # Errors
    /// [`IdentityError::NoEkCertificate`] without any; [`CertificateFault::SecondOfItsKind`] where two keys of one
    /// kind are certified. The same key certified twice counts once.
    pub fn from_eks(mut eks: Vec<VerifiedEk>) -> Result<Self, IdentityError> {
        eks.sort_by_key(|ek| rank(ek.key()));
        eks.dedup_by(|later, earlier| later.spki_digest() == earlier.spki_digest());
        let second = eks.windows(2).find_map(|pair| match pair {
            [first, second] if rank(first.key()) == rank(second.key()) => Some(second.position()),
            _ => None,
        });
        if let Some(certificate) = second {
            return Err(IdentityError::EkCertificate { certificate, why: CertificateFault::SecondOfItsKind });
        }
        let id = eks.first().map(|ek| DeviceId(*ek.spki_digest())).ok_or(IdentityError::NoEkCertificate)?;
        Ok(Self { eks, id })
    }

    /// SHA-256 of the SubjectPublicKeyInfo of the EK that ranks first.
    #[must_use]
    pub const fn id(&self) -> DeviceId {
        self.id
    }

    /// All EKs, the one that gives the id first. Each is challenged on its own: a certificate proves no possession.
    #[must_use]
    pub fn eks(&self) -> &[VerifiedEk] {
        &self.eks
    }

    /// Hardware only where every EK leads to a hardware root.
    #[must_use]
    pub fn class(&self) -> RootClass {
        let all_hardware = self.eks.iter().all(|ek| ek.class() == RootClass::Hardware);
        if all_hardware { RootClass::Hardware } else { RootClass::Software }
    }
}

const fn rank(key: &EkKey) -> u8 {
    match key {
        EkKey::P256(_) => 0,
        EkKey::P384(_) => 1,
        EkKey::Rsa2048(_) => 2,
    }
}

/// The EKs of a device without certificates, in the order of their rank: each public area must be the TCG default template
/// for its key. What they are worth, nobody but the operator says.
///
/// # Errors
/// [`IdentityError::EkTemplate`] where one is not, or two are of one kind.
pub fn uncertified_eks(sent: &[&[u8]]) -> Result<Vec<EkKey>, IdentityError> {
    let keys = sent.iter().map(|area| EkKey::of_public_area(area)).collect::<Option<Vec<_>>>();
    let mut ranked = keys.ok_or(IdentityError::EkTemplate)?;
    ranked.sort_by_key(rank);
    let twice = ranked.windows(2).any(|pair| matches!(pair, [first, second] if rank(first) == rank(second)));
    if twice { Err(IdentityError::EkTemplate) } else { Ok(ranked) }
}

/// Compares an EK's public area as a device sent it (TPMT_PUBLIC or TPM2B_PUBLIC) with the TCG default template for the
/// certified key. Both are public: no constant time is needed.
///
/// # Errors
/// [`IdentityError::EkTemplate`] where they differ by a bit: the same key under other attributes still activates
/// credentials, and might give the secret away.
pub fn check_template(sent_public: &[u8], ek: &VerifiedEk) -> Result<(), IdentityError> {
    if without_size(sent_public) == ek.key().public_area() { Ok(()) } else { Err(IdentityError::EkTemplate) }
}
