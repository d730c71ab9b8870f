//! The verifier's signing key: in goes a PEM file, out come signed messages to devices and relying parties.

use std::{fs, io, path::Path};

use evidence::{
    tpm::P256Point,
    verifier_message::{Purpose, VerifierKeyId, seal},
};
use ring::{
    rand::SystemRandom,
    signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _},
};
use rustls::pki_types::{PrivatePkcs8KeyDer, pem::PemObject as _};
use serde::Serialize;
use thiserror::Error;

/// A key that cannot be used.
#[derive(Debug, Error)]
pub enum KeyError {
    /// Cannot be read.
    #[error(
        "cannot read the signing key {path}: {source}; `verifier init` makes one, and `key` in the configuration names it"
    )]
    Unreadable {
        /// Which file.
        path: String,
        /// Why.
        source: io::Error,
    },
    /// Not a P-256 key in PKCS#8.
    #[error("{0} holds no P-256 private key in PEM PKCS#8 (`-----BEGIN PRIVATE KEY-----`)")]
    NotAKey(String),
    /// Anybody may read it.
    #[error("{0} may be read by others than its owner: chmod 600 it, and make a new key if others had access")]
    Exposed(String),
}

/// Signing failed: ring's random number generator did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("signing failed: the system's random number generator gives nothing")]
pub struct CannotSign;

/// Signs what this verifier says.
pub struct SigningKey {
    pair: EcdsaKeyPair,
    random: SystemRandom,
    id: VerifierKeyId,
    public: P256Point,
}

impl std::fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SigningKey").field("id", &self.id).finish_non_exhaustive()
    }
}

impl SigningKey {
    /// Reads the key.
    ///
    /// # Errors
    /// [`KeyError`] names the file and what is wrong with it.
    pub fn load(path: &Path) -> Result<Self, KeyError> {
        let name = || path.display().to_string();
        let unreadable = |source| KeyError::Unreadable { path: name(), source };
        if is_exposed(&fs::metadata(path).map_err(unreadable)?) {
            return Err(KeyError::Exposed(name()));
        }
        let der = PrivatePkcs8KeyDer::from_pem_file(path).map_err(|_| KeyError::NotAKey(name()))?;
        Self::from_pkcs8(der.secret_pkcs8_der()).ok_or_else(|| KeyError::NotAKey(name()))
    }

    /// From PKCS#8; `None` where that is not a P-256 key.
    #[must_use]
    pub fn from_pkcs8(der: &[u8]) -> Option<Self> {
        let random = SystemRandom::new();
        let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, der, &random).ok()?;
        let (x, y) = pair.public_key().as_ref().get(1..)?.split_at_checked(32)?;
        let public = P256Point { x: x.try_into().ok()?, y: y.try_into().ok()? };
        Some(Self { pair, random, id: VerifierKeyId::of(&public), public })
    }

    /// Names the key in messages.
    #[must_use]
    pub const fn id(&self) -> &VerifierKeyId {
        &self.id
    }

    /// The public half.
    #[must_use]
    pub const fn public(&self) -> &P256Point {
        &self.public
    }

    /// Signs `content` for `purpose`.
    ///
    /// # Errors
    /// [`CannotSign`] without random numbers.
    pub fn seal<T: Serialize>(&self, purpose: Purpose, content: &T) -> Result<Vec<u8>, CannotSign> {
        seal(purpose, &self.id, content, |bytes| {
            let signature = self.pair.sign(&self.random, bytes).map_err(|_| CannotSign)?;
            signature.as_ref().try_into().map_err(|_| CannotSign)
        })
    }
}

/// Whether group or others may read or write.
fn is_exposed(metadata: &fs::Metadata) -> bool {
    use std::os::unix::fs::PermissionsExt as _;
    // Group read is left to deployments that share a key with a group of their own.
    metadata.permissions().mode() & 0o037 != 0
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use evidence::{challenge::Refusal, verifier_message::open};

    use super::*;

    fn refusal() -> Refusal {
        Refusal { message: [1; 32], code: "c".to_owned(), why: "w".to_owned() }
    }

    #[test]
    fn what_a_loaded_key_seals_opens_with_its_public_half_for_that_purpose_only() {
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(file.path(), rcgen::KeyPair::generate().unwrap().serialize_pem()).unwrap();
        let key = SigningKey::load(file.path()).unwrap();
        let message = key.seal(Purpose::Refusal, &refusal()).unwrap();
        assert_eq!(open::<Refusal>(Purpose::Refusal, key.public(), &message).unwrap(), refusal());
        assert!(open::<Refusal>(Purpose::Request, key.public(), &message).is_err());
    }

    #[test]
    fn a_key_that_others_can_read_and_one_that_is_none_are_refused() {
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(file.path(), "nothing").unwrap();
        assert!(matches!(SigningKey::load(file.path()), Err(KeyError::NotAKey(_))));
        fs::set_permissions(file.path(), fs::Permissions::from_mode(0o644)).unwrap();
        assert!(matches!(SigningKey::load(file.path()), Err(KeyError::Exposed(_))));
        assert!(matches!(SigningKey::load(Path::new("/nonexistent")), Err(KeyError::Unreadable { .. })));
    }
}
