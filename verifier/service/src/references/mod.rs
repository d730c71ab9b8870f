//! What evidence is held against: in go folders of signed documents, of who may sign them and of TPM makers' CAs, and a
//! policy; out come [`Rules`], swapped as a whole. What cannot be trusted is refused by name, and never makes the rules
//! that are in force worse.

mod desk;
mod document;
mod files;
mod shelf;

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
};

use appraisal::{Code, DeviceState, Finding, Policy, Standing, UnixSeconds, policy::PolicyError};
use reference_values::{ReferenceIndex, Trust, TrustError, Unusable};
use thiserror::Error;

pub use desk::{Desk, PublishError, Published, Status};
pub use document::{Fault, Title};
pub use shelf::{InForce, Refused};

use crate::{
    config::Config,
    identity::{DenyError, DenyList, EkRoots, RootsError},
    limits::MAX_POLICY_FILE,
    store::{Denial, Reached, Registration, StoreError, identity_cause},
};

/// Everything that an operator lays down, as one.
#[derive(Debug)]
pub struct Rules {
    /// Signed reference values.
    pub references: Arc<ReferenceIndex>,
    /// What is asked for.
    pub policy: Policy,
    /// Whose endorsement keys are accepted, and whose are not.
    pub roots: Arc<EkRoots>,
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
    /// A document that is to be published is not taken.
    #[error("{}", fault.why)]
    Offered {
        /// Why.
        fault: Fault,
        /// Whether by what else there is.
        clash: bool,
    },
    /// Documents are good, and could not be kept.
    #[error("cannot write to {}: {source}", path.display())]
    Unwritable {
        /// Where.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// All but the documents.
struct Ground {
    policy: Policy,
    roots: Arc<EkRoots>,
    trust: Trust,
}

impl Ground {
    fn read(config: &Config) -> Result<Self, RulesError> {
        let policy = read_policy(&config.policy)?;
        let refused = |source| RulesError::Policy { path: config.policy.clone(), source };
        policy.check_period(config.epoch_seconds.into()).map_err(refused)?;
        let roots = EkRoots::load(&config.ek_roots)?.denying(DenyList::load(&config.deny)?);
        Ok(Self { policy, roots: Arc::new(roots), trust: read_trust(&config.trust)? })
    }
}

/// Role and name of each who vouches for a release that is in force.
pub(crate) fn vouched(
    references: &ReferenceIndex,
    product: Option<&str>,
    release: Option<&str>,
) -> Vec<(String, String)> {
    let releases = product.and_then(|name| references.product(name)).into_iter().flat_map(|product| product.releases());
    let found = releases.map(|(_, entry)| entry).find(|entry| Some(entry.name()) == release);
    let signers = found.into_iter().flat_map(|entry| entry.signers());
    signers.map(|signer| (signer.role.name().to_owned(), signer.name.clone())).collect()
}

impl Rules {
    /// Who vouches for the release that a device runs: role and name of each signer.
    #[must_use]
    pub fn vouched(&self, state: &DeviceState) -> Vec<(String, String)> {
        let (product, release) = (state.product.as_deref(), state.release.as_deref());
        vouched(&self.references, product, release)
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

/// What `serve` would take, without taking it.
pub(crate) fn inspect(
    config: &Config,
    policy: &Policy,
    trust: &Trust,
    seen: &Reached,
    now: UnixSeconds,
) -> Result<(ReferenceIndex, Status), RulesError> {
    let (folder, copies) = (&config.reference_values, desk::copies(config));
    let shelf = shelf::Shelf { folder, copies: &copies, trust, policy, seen, now, keeps: false };
    let shelf::Loaded { index, in_force, refused, problem, .. } =
        shelf.load(None).map_err(|nothing| desk::failed(folder, nothing))?;
    Ok((index, Status { in_force, refused, problem }))
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
pub(crate) mod tests;
