//! What evidence is held against: in go folders of signed releases, of who may sign them and of TPM makers' CAs, and a
//! policy; out come [`Rules`], swapped as a whole. What cannot be trusted is refused by name, and never makes the rules
//! that are in force worse.

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
};

use appraisal::{Code, Finding, Policy, Standing, UnixSeconds, policy::PolicyError};
use reference_values::{ReferenceIndex, SignedRelease, Trust, TrustError, Unusable, VerifiedRelease};
use thiserror::Error;

use crate::{
    config::Config,
    identity::{DenyError, DenyList, EkRoots, RootsError},
    limits::{MAX_POLICY_FILE, MAX_RELEASE_FILE},
    store::{Denial, Registration, Store, StoreError, identity_cause},
};

/// Everything that an operator lays down, as one.
#[derive(Debug)]
pub struct Rules {
    /// Signed reference values.
    pub references: Arc<ReferenceIndex>,
    /// What is asked for.
    pub policy: Policy,
    /// Whose endorsement keys are accepted, and whose are not.
    pub roots: EkRoots,
}

/// The rules cannot be used as they stand.
#[derive(Debug, Error)]
pub enum RulesError {
    /// A file or folder.
    #[error("cannot read {}: {source}", path.display())]
    Io {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Larger than any such file.
    #[error("{} is too large for what it should be", .0.display())]
    TooLarge(PathBuf),
    /// Not text, or not what it should say.
    #[error("{}: {source}", path.display())]
    Policy {
        /// Which file.
        path: PathBuf,
        /// What is wrong.
        source: PolicyError,
    },
    /// Who may sign.
    #[error("{}: {source}", path.display())]
    Trust {
        /// Which file.
        path: PathBuf,
        /// What is wrong.
        source: TrustError,
    },
    /// CAs of TPM makers.
    #[error(transparent)]
    Roots(#[from] RootsError),
    /// The deny list.
    #[error(transparent)]
    Deny(#[from] DenyError),
    /// Releases that contradict each other, or are older than what has been in force.
    #[error("the releases in {} cannot be used together: {source}", path.display())]
    Unusable {
        /// Folder.
        path: PathBuf,
        /// What is wrong.
        source: Unusable,
    },
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl Rules {
    /// Reads everything anew, and remembers how far each product's releases have come. Releases that are not trusted are
    /// passed over, each with a line in the log.
    ///
    /// # Errors
    /// [`RulesError`] names the file; then the rules in force should stay.
    pub fn load(config: &Config, store: &Store, now: UnixSeconds) -> Result<Self, RulesError> {
        let policy = read_policy(&config.policy)?;
        let refused = |source| RulesError::Policy { path: config.policy.clone(), source };
        policy.check_period(config.epoch_seconds.into()).map_err(refused)?;
        let roots = EkRoots::load(&config.ek_roots)?.denying(DenyList::load(&config.deny)?);
        let trust = read_trust(&config.trust)?;
        let releases = read_releases(&config.reference_values, &trust, now)?;
        let unusable = |source| RulesError::Unusable { path: config.reference_values.clone(), source };
        let references = ReferenceIndex::build(releases).map_err(unusable)?;
        references.check_not_older(&store.reference_sequences()?).map_err(unusable)?;
        store.set_reference_sequences(references.sequences())?;
        let rules = Self { references: Arc::new(references), policy, roots };
        rules.say();
        Ok(rules)
    }

    /// What is known of a device, by its registration and by these lists.
    #[must_use]
    pub fn standing(&self, registration: &Registration) -> Standing {
        let denial = |denial: &Denial| Finding {
            code: identity_cause(&denial.code),
            detail: denial.why.clone(),
            since: denial.at,
        };
        // Firmware is held against each quote: what the last one led to may be over with this one.
        let by_quote = |denial: &&Denial| denial.code != Code::HardwareFirmwareDenied.row().code;
        Standing {
            ek_class: registration.ek_class,
            product: registration.product.clone(),
            revoked: registration.revoked.clone(),
            revoked_at: registration.revoked_at,
            no_ek_certificate: registration.uncertified,
            key_changed: registration.key_changed,
            endorsement: registration.denied.as_ref().filter(by_quote).map(denial),
            denied_firmware: self.roots.deny_list().firmware(&registration.manufacturer),
            approved_at: registration.approved_at,
        }
    }

    fn say(&self) {
        let releases: usize = self.references.products().map(|product| product.releases().count()).sum();
        tracing::info!(
            "policy {}: {releases} releases with {} files, {} CAs of endorsement keys",
            self.policy.id,
            self.references.len(),
            self.roots.list().len()
        );
    }
}

pub(crate) fn read_policy(path: &Path) -> Result<Policy, RulesError> {
    let text = read_text(path)?;
    Policy::from_toml(&text).map_err(|source| RulesError::Policy { path: path.to_owned(), source })
}

/// All files together.
pub(crate) fn read_trust(folder: &Path) -> Result<Trust, RulesError> {
    let mut trust = Trust::default();
    for path in files(folder, "toml")? {
        let text = read_text(&path)?;
        let one = Trust::from_toml(&text).and_then(|one| trust.extend(one));
        one.map_err(|source| RulesError::Trust { path, source })?;
    }
    Ok(trust)
}

fn read_releases(folder: &Path, trust: &Trust, now: UnixSeconds) -> Result<Vec<VerifiedRelease>, RulesError> {
    let mut releases = Vec::new();
    for (path, release) in each_release(folder, trust, now)? {
        match release {
            Ok(release) => releases.push(release),
            Err(refused) => tracing::error!("{} is refused and does not count: {refused}", path.display()),
        }
    }
    Ok(releases)
}

/// What a file comes to: a release, or why it does not count.
pub(crate) type ReadRelease = (PathBuf, Result<VerifiedRelease, String>);

/// What each file of the folder comes to.
pub(crate) fn each_release(folder: &Path, trust: &Trust, now: UnixSeconds) -> Result<Vec<ReadRelease>, RulesError> {
    let judge = |path: PathBuf| {
        let signed = SignedRelease::decode(&read(&path, MAX_RELEASE_FILE)?).map_err(|error| error.to_string());
        let release =
            signed.and_then(|signed| signed.verify(trust, now).map_err(|error| format!("{}: {error}", error.code())));
        Ok((path, release))
    };
    files(folder, "corim")?.into_iter().map(judge).collect()
}

/// Files with this extension, sorted.
fn files(folder: &Path, extension: &str) -> Result<Vec<PathBuf>, RulesError> {
    let failed = |source| RulesError::Io { path: folder.to_owned(), source };
    let entries = fs::read_dir(folder).map_err(failed)?;
    let mut files =
        entries.map(|entry| entry.map(|entry| entry.path())).collect::<Result<Vec<_>, _>>().map_err(failed)?;
    files.retain(|path| path.extension().is_some_and(|found| found == extension) && path.is_file());
    files.sort();
    Ok(files)
}

fn read(path: &Path, most: u64) -> Result<Vec<u8>, RulesError> {
    let failed = |source| RulesError::Io { path: path.to_owned(), source };
    if fs::metadata(path).map_err(failed)?.len() > most {
        return Err(RulesError::TooLarge(path.to_owned()));
    }
    fs::read(path).map_err(failed)
}

fn read_text(path: &Path) -> Result<String, RulesError> {
    let not_text =
        |_| RulesError::Io { path: path.to_owned(), source: io::Error::new(io::ErrorKind::InvalidData, "not UTF-8") };
    String::from_utf8(read(path, MAX_POLICY_FILE)?).map_err(not_text)
}

#[cfg(test)]
mod tests {
    use evidence::topic::Name;
    use reference_values::{Executable, Release, Role, SigningKey};
    use ring::rand::SystemRandom;
    use tempfile::TempDir;

    use super::*;
    use crate::init::{Plan, init};

    const NOW: UnixSeconds = 1_795_000_000;

    struct Shop {
        config: Config,
        store: Store,
        key: SigningKey,
        _dir: TempDir,
    }

    impl Shop {
        fn open() -> Self {
            let dir = tempfile::tempdir().unwrap();
            let plan = Plan {
                dir: dir.path().join("v"),
                name: Name::new("v1").unwrap(),
                broker: ("localhost".to_owned(), 8883),
                enrolment_port: 8884,
                service_port: 8885,
                http: "127.0.0.1:0".parse().unwrap(),
                now: NOW,
            };
            let config = Config::load(Some(&init(&plan).unwrap().join("verifier.toml")), []).unwrap();
            let key = SigningKey::from_pem(&SigningKey::generate(&SystemRandom::new()).unwrap()).unwrap();
            let trust = format!(
                "[[signer]]\nname = \"Maker\"\nrole = \"manufacturer\"\nproducts = [\"a/*\"]\nkey = \"\"\"\n{}\"\"\"\n",
                key.public().to_pem()
            );
            fs::write(config.trust.join("maker.toml"), trust).unwrap();
            let store = Store::open(&config.store()).unwrap();
            Self { config, store, key, _dir: dir }
        }

        fn publish(&self, sequence: u64, signed: bool) -> PathBuf {
            let executable = Executable { digest: [u8::try_from(sequence).unwrap(); 32], path: "/bin/a".to_owned() };
            let release = Release::new("a/b", &sequence.to_string(), sequence, vec![executable], Vec::new()).unwrap();
            let mut release = SignedRelease::unsigned(release);
            if signed {
                release = release.sign(&self.key, Role::Manufacturer, &SystemRandom::new()).unwrap();
            }
            let path = self.config.reference_values.join(format!("{sequence}.corim"));
            fs::write(&path, release.encode()).unwrap();
            path
        }

        fn newest(&self) -> Result<Option<String>, RulesError> {
            let rules = Rules::load(&self.config, &self.store, NOW)?;
            let product = rules.references.product("a/b");
            Ok(product.and_then(|product| Some(product.newest()?.name().to_owned())))
        }
    }

    #[test]
    fn only_signed_releases_count_and_one_that_is_not_spoils_nothing() {
        let shop = Shop::open();
        assert_eq!(shop.newest().unwrap(), None);
        shop.publish(1, true);
        shop.publish(2, false);
        fs::write(shop.config.reference_values.join("3.corim"), "nonsense").unwrap();
        assert_eq!(shop.newest().unwrap().as_deref(), Some("1"));
    }

    #[test]
    fn releases_never_go_back_behind_what_has_been_in_force() {
        let shop = Shop::open();
        shop.publish(1, true);
        let newer = shop.publish(2, true);
        assert_eq!(shop.newest().unwrap().as_deref(), Some("2"));
        fs::remove_file(newer).unwrap();
        let error = shop.newest().unwrap_err();
        assert!(matches!(error, RulesError::Unusable { source: Unusable::Older { .. }, .. }), "{error}");
        shop.publish(3, true);
        assert_eq!(shop.newest().unwrap().as_deref(), Some("3"));
    }

    #[test]
    fn a_file_that_is_wrong_is_named() {
        let shop = Shop::open();
        fs::write(&shop.config.policy, "unlistet = \"warning\"").unwrap();
        let message = shop.newest().unwrap_err().to_string();
        assert!(message.contains("policy.toml") && message.contains("unlistet"), "{message}");
        fs::write(&shop.config.policy, "").unwrap();
        fs::write(shop.config.trust.join("x.toml"), "[[signer]]\n").unwrap();
        let message = shop.newest().unwrap_err().to_string();
        assert!(message.contains("x.toml"), "{message}");
    }
}
