//! The verifier's keys. In go the root's PEM file and the store, out come signed messages to devices and relying parties.
//!
//! Devices pin the root; what they get is signed by the present keys, for which the root vouches in one message. So the
//! root is needed where there are no keys yet and where they are replaced, and may lie elsewhere in between.

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::{Arc, PoisonError, RwLock},
};

use appraisal::UnixSeconds;
use evidence::{
    tpm::P256Point,
    verifier_keys::VerifierKeys,
    verifier_message::{Purpose, VerifierKeyId, seal},
};
use ring::{
    rand::SystemRandom,
    signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _},
};
use rustls::pki_types::{PrivatePkcs8KeyDer, pem::PemObject as _};
use serde::Serialize;
use thiserror::Error;
use tokio::sync::watch;
use zeroize::Zeroizing;

use crate::{
    http::SignedKeys,
    limits::{KEYS_LIFETIME, KEYS_RENEWAL},
    store::{Store, StoreError, StoredKeys},
};

/// A key that cannot be used.
#[derive(Debug, Error)]
pub enum KeyError {
    /// Cannot be read.
    #[error(
        "cannot read the root key {path}: {source}; `verifier init` makes one, `key` in the configuration names it; it is \
         needed at the first start and to replace keys"
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
    /// Keys in the store that are none.
    #[error("the store holds no usable keys of this verifier: `verifier keys rotate` makes new ones with the root key")]
    Stored,
    /// Another root than the one in force.
    #[error("{0} is not the root that devices have pinned (verifier.pub.pem): put that one there to replace keys")]
    OtherRoot(String),
    /// Not signed.
    #[error(transparent)]
    CannotSign(#[from] CannotSign),
    /// Neither read nor written.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Nothing was signed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum CannotSign {
    /// ring's random number generator failed.
    #[error("signing failed: the system's random number generator gives nothing")]
    Random,
    /// Only the root signs this.
    #[error("signing failed: only the root key vouches for keys")]
    RootOnly,
}

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
    /// [`CannotSign::Random`] without random numbers.
    pub fn seal<T: Serialize>(&self, purpose: Purpose, content: &T) -> Result<Vec<u8>, CannotSign> {
        seal(purpose, &self.id, content, |bytes| {
            let signature = self.pair.sign(&self.random, bytes).map_err(|_| CannotSign::Random)?;
            signature.as_ref().try_into().map_err(|_| CannotSign::Random)
        })
    }
}

/// A new private key in PKCS#8, and its public half.
fn generate() -> Result<(Zeroizing<Vec<u8>>, P256Point), KeyError> {
    let document = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &SystemRandom::new())
        .map_err(|_| CannotSign::Random)?;
    let private = Zeroizing::new(document.as_ref().to_vec());
    let public = *SigningKey::from_pkcs8(&private).ok_or(CannotSign::Random)?.public();
    Ok((private, public))
}

/// The keys in force, each for its purposes.
#[derive(Debug)]
pub struct CurrentKeys {
    signed: Arc<SignedKeys>,
    request: SigningKey,
    result: SigningKey,
}

impl CurrentKeys {
    fn read(stored: &StoredKeys) -> Option<Self> {
        let key = |der: &[u8]| SigningKey::from_pkcs8(der);
        let (request, result, log) = (key(&stored.request)?, key(&stored.result)?, key(&stored.log)?);
        let keys = VerifierKeys {
            sequence: stored.sequence,
            not_after: stored.not_after,
            request: *request.public(),
            result: *result.public(),
            log: *log.public(),
        };
        let signed = Arc::new(SignedKeys { root: stored.root, keys, message: stored.message.clone() });
        Some(Self { signed, request, result })
    }

    /// Public halves, and the root's message.
    #[must_use]
    pub const fn signed(&self) -> &Arc<SignedKeys> {
        &self.signed
    }

    /// The key that signs for `purpose`.
    #[must_use]
    pub const fn key(&self, purpose: Purpose) -> Option<&SigningKey> {
        match purpose {
            Purpose::Request | Purpose::Refusal | Purpose::Enrolment | Purpose::Epoch => Some(&self.request),
            Purpose::Result | Purpose::AkCertificate => Some(&self.result),
            Purpose::Keys => None,
        }
    }

    /// Signs `content` with the key for `purpose`.
    ///
    /// # Errors
    /// [`CannotSign`] without random numbers, and for what only the root signs.
    pub fn seal<T: Serialize>(&self, purpose: Purpose, content: &T) -> Result<Vec<u8>, CannotSign> {
        self.key(purpose).ok_or(CannotSign::RootOnly)?.seal(purpose, content)
    }

    fn sequence(&self) -> u64 {
        self.signed.keys.sequence
    }
}

/// Keeps the keys in force, and replaces them.
pub struct Keyring {
    root_file: PathBuf,
    store: Store,
    current: RwLock<Arc<CurrentKeys>>,
    announced: watch::Sender<Option<Arc<SignedKeys>>>,
}

impl Keyring {
    /// Takes the keys in the store, or makes some. They are replaced here already where the store has been restored since
    /// they were made, for the copy may be in other hands too, and where the configuration names another root.
    ///
    /// # Errors
    /// [`KeyError`] where there are none and the root cannot be read.
    pub fn open(store: &Store, root_file: &Path, now: UnixSeconds) -> Result<Self, KeyError> {
        let stored = store.keys()?;
        let current = match &stored {
            Some(stored) => CurrentKeys::read(stored),
            None => None,
        };
        let restored = store.restored_at()?.unwrap_or(0);
        let current = match (current, SigningKey::load(root_file)) {
            (Some(current), Ok(root)) if *root.id() == current.signed.root && current.sequence() > restored => current,
            (_, Ok(root)) => {
                let now = now.max(restored.saturating_add(1));
                replace(store, &root, now, stored.map(|stored| stored.sequence))?
            }
            (Some(current), Err(error)) => {
                if current.sequence() <= restored {
                    tracing::warn!("the store has been restored, and its keys are not replaced: {error}");
                }
                current
            }
            (None, Err(error)) => return Err(if stored.is_some() { KeyError::Stored } else { error }),
        };
        let announced = watch::Sender::new(Some(Arc::clone(&current.signed)));
        let current = RwLock::new(Arc::new(current));
        Ok(Self { root_file: root_file.to_owned(), store: store.clone(), current, announced })
    }

    /// The root that devices pin. It names this verifier wherever one is named.
    #[must_use]
    pub fn root(&self) -> VerifierKeyId {
        self.current().signed.root
    }

    /// The keys in force.
    #[must_use]
    pub fn current(&self) -> Arc<CurrentKeys> {
        Arc::clone(&self.current.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// What is in force from now on.
    #[must_use]
    pub fn subscribe(&self) -> watch::Receiver<Option<Arc<SignedKeys>>> {
        self.announced.subscribe()
    }

    /// Puts new keys in the place of those in force; where another process has just done so, takes that one's.
    ///
    /// # Errors
    /// [`KeyError`]; then nothing has changed.
    pub fn rotate(&self, now: UnixSeconds) -> Result<Arc<CurrentKeys>, KeyError> {
        let root = SigningKey::load(&self.root_file)?;
        let current = self.current();
        if *root.id() != current.signed.root {
            return Err(KeyError::OtherRoot(self.root_file.display().to_string()));
        }
        let new = replace(&self.store, &root, now, Some(current.sequence()))?;
        Ok(self.install(new))
    }

    /// Takes keys that another process has put into the store. Whether there were any.
    ///
    /// # Errors
    /// [`KeyError`] where they cannot be read.
    pub fn refresh(&self) -> Result<bool, KeyError> {
        if self.store.keys_sequence()? == Some(self.current().sequence()) {
            return Ok(false);
        }
        let stored = self.store.keys()?.ok_or(KeyError::Stored)?;
        self.install(CurrentKeys::read(&stored).ok_or(KeyError::Stored)?);
        Ok(true)
    }

    /// Whether it is time for new keys.
    #[must_use]
    pub fn is_renewal_due(&self, now: UnixSeconds) -> bool {
        now.saturating_add(KEYS_RENEWAL) > self.current().signed.keys.not_after
    }

    fn install(&self, new: CurrentKeys) -> Arc<CurrentKeys> {
        let new = Arc::new(new);
        self.announced.send_replace(Some(Arc::clone(&new.signed)));
        *self.current.write().unwrap_or_else(PoisonError::into_inner) = Arc::clone(&new);
        new
    }
}

/// New keys into the store, in the place of those with that sequence; or those that another process has put there.
///
/// They hold from the highest time that devices may have seen in messages of this verifier: by that time devices judge.
fn replace(store: &Store, root: &SigningKey, now: UnixSeconds, replaces: Option<u64>) -> Result<CurrentKeys, KeyError> {
    let newest = store.epochs()?.epochs.first().map_or(0, |epoch| epoch.number);
    let sequence = replaces.map_or(now, |old| now.max(old.saturating_add(1)));
    let not_after = now.max(newest).saturating_add(KEYS_LIFETIME);
    let [request, result, log] = [generate()?, generate()?, generate()?];
    let keys = VerifierKeys { sequence, not_after, request: request.1, result: result.1, log: log.1 };
    let new = StoredKeys {
        sequence,
        not_after,
        root: *root.id(),
        message: root.seal(Purpose::Keys, &keys)?,
        request: request.0,
        result: result.0,
        log: log.0,
    };
    let stored = if store.replace_keys(new.clone(), replaces)? {
        tracing::info!("this verifier signs with new keys (sequence {sequence})");
        new
    } else {
        store.keys()?.ok_or(KeyError::Stored)?
    };
    CurrentKeys::read(&stored).ok_or(KeyError::Stored)
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

    const NOW: UnixSeconds = 1_796_083_200;

    /// A store, a root, and the root's public half.
    struct Home {
        dir: tempfile::TempDir,
        root: P256Point,
    }

    impl Home {
        fn new() -> Self {
            let dir = tempfile::tempdir().unwrap();
            let key = rcgen::KeyPair::generate().unwrap();
            let file = dir.path().join("root-key.pem");
            fs::write(&file, key.serialize_pem()).unwrap();
            fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
            let root = *SigningKey::load(&file).unwrap().public();
            Self { dir, root }
        }

        fn store(&self) -> Store {
            Store::open(&self.dir.path().join("store.sqlite")).unwrap()
        }

        fn keyring(&self, now: UnixSeconds) -> Keyring {
            Keyring::open(&self.store(), &self.dir.path().join("root-key.pem"), now).unwrap()
        }

        fn hide_root(&self) {
            fs::remove_file(self.dir.path().join("root-key.pem")).unwrap();
        }

        fn published(&self, keyring: &Keyring) -> VerifierKeys {
            VerifierKeys::open_by_root(&self.root, &keyring.current().signed().message).unwrap()
        }
    }

    #[test]
    fn keys_are_made_once_with_the_root_which_may_be_away_afterwards() {
        let home = Home::new();
        let first = home.published(&home.keyring(NOW));
        assert_eq!((first.sequence, first.not_after), (NOW, NOW + KEYS_LIFETIME));
        home.hide_root();
        let keyring = home.keyring(NOW + 9);
        assert_eq!(home.published(&keyring), first);
        assert_eq!(keyring.root(), VerifierKeyId::of(&home.root));
        assert!(matches!(keyring.rotate(NOW + 9), Err(KeyError::Unreadable { .. })));
        assert_eq!(home.published(&keyring), first, "a rotation that failed changes nothing");
        let other = Home::new();
        other.hide_root();
        let opened = Keyring::open(&other.store(), &other.dir.path().join("root-key.pem"), NOW);
        assert!(matches!(opened, Err(KeyError::Unreadable { .. })));
    }

    #[test]
    fn each_purpose_is_signed_by_its_own_key_and_keys_by_the_root_alone() {
        let home = Home::new();
        let keyring = home.keyring(NOW);
        let (keys, current) = (home.published(&keyring), keyring.current());
        for purpose in [Purpose::Request, Purpose::Refusal, Purpose::Enrolment, Purpose::Epoch] {
            let message = current.seal(purpose, &refusal()).unwrap();
            assert!(open::<Refusal>(purpose, &keys.request, &message).is_ok(), "{purpose:?}");
        }
        for purpose in [Purpose::Result, Purpose::AkCertificate] {
            let message = current.seal(purpose, &refusal()).unwrap();
            assert!(open::<Refusal>(purpose, &keys.result, &message).is_ok(), "{purpose:?}");
        }
        assert_eq!(current.seal(Purpose::Keys, &keys), Err(CannotSign::RootOnly));
    }

    #[test]
    fn a_rotation_goes_forward_and_other_processes_take_it_from_the_store() {
        let home = Home::new();
        let [a, b] = [NOW, NOW + 1].map(|now| home.keyring(now));
        let before = home.published(&a);
        assert!(!b.refresh().unwrap());
        // By a clock that stands still, and by one that has gone back.
        let second = home.published(&{
            a.rotate(NOW).unwrap();
            a
        });
        assert_eq!(second.sequence, before.sequence + 1);
        assert!(second.request != before.request && second.result != before.result && second.log != before.log);
        assert!(b.refresh().unwrap());
        assert_eq!(home.published(&b), second);
        b.rotate(NOW - 100).unwrap();
        assert_eq!(home.published(&b).sequence, second.sequence + 1);
    }

    #[test]
    fn who_rotates_at_once_with_another_takes_what_that_one_made() {
        let home = Home::new();
        let [a, b] = [NOW, NOW].map(|now| home.keyring(now));
        a.rotate(NOW + 5).unwrap();
        b.rotate(NOW + 6).unwrap();
        assert_eq!(home.published(&a), home.published(&b));
    }

    #[test]
    fn keys_are_renewed_when_a_quarter_of_their_life_is_left() {
        let home = Home::new();
        let keyring = home.keyring(NOW);
        assert!(!keyring.is_renewal_due(NOW + KEYS_LIFETIME - KEYS_RENEWAL));
        assert!(keyring.is_renewal_due(NOW + KEYS_LIFETIME - KEYS_RENEWAL + 1));
    }

    #[test]
    fn keys_of_a_store_that_was_restored_are_replaced_where_the_root_is_at_hand() {
        let home = Home::new();
        let before = home.published(&home.keyring(1000));
        let copy = home.dir.path().join("copy.sqlite");
        crate::store::backup(&home.dir.path().join("store.sqlite"), &copy).unwrap();
        let restored = Store::open(&copy).unwrap();
        let at = restored.restored_at().unwrap().expect("it knows");
        let root = home.dir.path().join("root-key.pem");
        let keyring = Keyring::open(&restored, &root, at + 1).unwrap();
        let after = home.published(&keyring);
        assert!(after.request != before.request && after.sequence > at);
        drop(keyring);
        assert_eq!(home.published(&Keyring::open(&restored, &root, at + 9).unwrap()), after, "once");
    }
}
