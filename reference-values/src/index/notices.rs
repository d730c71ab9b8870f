//! What signers took back: in, the notices in force; out, whether a file is known to be bad, and what a product may no
//! longer run.

use super::{series::is_over, table::Listing};
use crate::{
    error::Unusable,
    notice::{KnownBad, Minimum, Notice, Revoked},
    signed::Signer,
    trust::covers,
};

/// A notice in force.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NoticeEntry {
    notice: Notice,
    signers: Vec<Signer>,
    /// Stands for content and signers.
    pub(super) fingerprint: [u8; 32],
}

impl NoticeEntry {
    pub(super) const fn new(notice: Notice, signers: Vec<Signer>, fingerprint: [u8; 32]) -> Self {
        Self { notice, signers, fingerprint }
    }

    /// What it says.
    #[must_use]
    pub const fn notice(&self) -> &Notice {
        &self.notice
    }

    /// Who says so; never empty.
    #[must_use]
    pub fn signers(&self) -> &[Signer] {
        &self.signers
    }

    /// Whether it speaks of this product; without one, of everything.
    #[must_use]
    pub fn concerns(&self, product: Option<&str>) -> bool {
        let pattern = self.notice.product();
        product.map_or(pattern == "*", |product| covers(pattern, product))
    }
}

/// All notices in force.
#[derive(Debug, Default)]
pub(super) struct Notices {
    /// In order of product, sequence and name.
    pub(super) entries: Vec<NoticeEntry>,
    /// Positions in `bad`, by digest.
    listing: Listing<u32>,
    /// Notice, and position in its known-bad digests.
    bad: Vec<(u32, u32)>,
}

impl Notices {
    pub(super) fn compile(entries: Vec<NoticeEntry>) -> Result<Self, Unusable> {
        let amount = entries.iter().map(|entry| entry.notice.known_bad().len()).sum();
        let (mut bad, mut pairs) = (Vec::with_capacity(amount), Vec::with_capacity(amount));
        for (notice, entry) in (0_u32..).zip(&entries) {
            for (position, known) in (0_u32..).zip(entry.notice.known_bad()) {
                pairs.push((known.digest, u32::try_from(bad.len()).map_err(|_| Unusable::TooMany)?));
                bad.push((notice, position));
            }
        }
        Ok(Self { entries, listing: Listing::compile(pairs)?, bad })
    }

    pub(super) fn known_bad(&self, product: Option<&str>, digest: &[u8; 32], now: u64) -> Option<&KnownBad> {
        let at = |list: u32| usize::try_from(list).ok();
        self.listing.get(digest)?.iter().find_map(|&number| {
            let (notice, position) = *self.bad.get(at(number)?)?;
            let entry = self.entries.get(at(notice)?)?;
            let in_force = entry.concerns(product) && !is_over(entry.notice.expires(), now);
            entry.notice.known_bad().get(at(position)?).filter(|_| in_force)
        })
    }

    pub(super) fn concerning(&self, product: Option<&str>) -> impl Iterator<Item = &NoticeEntry> {
        self.entries.iter().filter(move |entry| entry.concerns(product))
    }

    /// The highest of all that concern the product.
    pub(super) fn minimum(&self, product: &str) -> Option<&Minimum> {
        let all = self.concerning(Some(product)).filter_map(|entry| entry.notice.minimum());
        all.reduce(|highest, next| if next.sequence > highest.sequence { next } else { highest })
    }

    pub(super) fn revoked(&self, product: &str, release: &str) -> Option<&Revoked> {
        let mut all = self.concerning(Some(product)).flat_map(|entry| entry.notice.revoked());
        all.find(|revoked| revoked.release == release)
    }
}
