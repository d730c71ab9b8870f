//! What the index keeps of a release besides its digests.

use crate::{
    boot_rules::{BootRules, ImaPolicy},
    notice::Revoked,
    release::{BootImage, BootPcrs, Content, Release},
    signed::Signer,
};

/// One release, without its files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReleaseEntry {
    pub(super) product: String,
    pub(super) name: String,
    pub(super) sequence: u64,
    pub(super) valid_from: Option<u64>,
    pub(super) retire_at: Option<u64>,
    pub(super) update_window: Option<u64>,
    pub(super) revoked: Option<Revoked>,
    boots: Vec<BootPcrs>,
    boot_rules: Vec<BootRules>,
    ima_policies: Vec<ImaPolicy>,
    images: Vec<BootImage>,
    pub(super) signers: Vec<Signer>,
}

impl ReleaseEntry {
    pub(super) fn new(release: Release, signers: Vec<Signer>) -> Self {
        let (product, name, sequence) = (release.product().into(), release.name().into(), release.sequence());
        let (valid_from, retire_at, update_window) =
            (release.valid_from(), release.retire_at(), release.update_window());
        let Content { boots, boot_rules, ima_policies, images, .. } = release.into_content();
        Self {
            product,
            name,
            sequence,
            valid_from,
            retire_at,
            update_window,
            revoked: None,
            boots,
            boot_rules,
            ima_policies,
            images,
            signers,
        }
    }

    /// The product: `model` or `vendor/model`.
    #[must_use]
    pub fn product(&self) -> &str {
        &self.product
    }

    /// The release's name within its product.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Order within the product.
    #[must_use]
    pub const fn sequence(&self) -> u64 {
        self.sequence
    }

    /// From when on it may be used, seconds since the Unix epoch.
    #[must_use]
    pub const fn valid_from(&self) -> Option<u64> {
        self.valid_from
    }

    /// From when on it is stale, seconds since the Unix epoch.
    #[must_use]
    pub const fn retire_at(&self) -> Option<u64> {
        self.retire_at
    }

    /// For how long a device may run files of this release and of the one before, seconds.
    #[must_use]
    pub const fn update_window(&self) -> Option<u64> {
        self.update_window
    }

    /// Why it may not run any more, where a notice in force takes it back.
    #[must_use]
    pub const fn revoked(&self) -> Option<&Revoked> {
        self.revoked.as_ref()
    }

    /// Boots, each as good as the other.
    #[must_use]
    pub fn boots(&self) -> &[BootPcrs] {
        &self.boots
    }

    /// Rules for boots, each as good as the other.
    #[must_use]
    pub fn boot_rules(&self) -> &[BootRules] {
        &self.boot_rules
    }

    /// Policies that IMA may be given, in ascending order of digests.
    #[must_use]
    pub fn ima_policies(&self) -> &[ImaPolicy] {
        &self.ima_policies
    }

    /// Kernels, initial file systems and what else boots.
    #[must_use]
    pub fn images(&self) -> &[BootImage] {
        &self.images
    }

    /// Who vouches for all of it; never empty.
    #[must_use]
    pub fn signers(&self) -> &[Signer] {
        &self.signers
    }
}
