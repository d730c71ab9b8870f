//! All documents that are in use, compiled: in, verified documents; out, answers for any device, immutable and shared.
//!
//! One table holds every digest once, whatever number of products share it; beside each stands the number of a set of
//! releases. Distinct sets are few (releases share most of their files), so a digest costs some 38 bytes.
//! Releases are numbered in order of product, then sequence: those of one product are one slice of a set.

mod affected;
mod editions;
mod endorsed;
mod notices;
mod release;
mod series;
mod table;

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Range,
};

use evidence::pcr::sha256;

pub use self::{
    affected::Affected,
    editions::Refused,
    endorsed::{EndorsedBy, EndorsementsEntry},
    notices::NoticeEntry,
    release::ReleaseEntry,
    series::Seen,
};
use self::{
    editions::{Editions, authors},
    endorsed::EndorsedKeys,
    notices::Notices,
    series::is_over,
    table::Listing,
};
use crate::{
    document::{Document, Series},
    endorsements::Endorsements,
    error::Unusable,
    key::KeyId,
    notice::{KnownBad, Minimum},
    release::Release,
    required::Required,
    signed::{Signer, VerifiedDocument},
};

/// A release's number in the index that gave it; it means nothing in another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ReleaseId(u32);

/// What the verified documents come to.
#[derive(Debug)]
pub struct Built {
    /// Of all that count.
    pub index: ReferenceIndex,
    /// Releases that do not, in order of content.
    pub refused: Vec<Refused>,
}

/// The compiled set. The default one is empty and knows no product.
#[derive(Debug, Default)]
pub struct ReferenceIndex {
    id: [u8; 32],
    /// In order of product, sequence, name; a [`ReleaseId`] is a position here.
    releases: Vec<ReleaseEntry>,
    /// In order of name.
    products: Vec<ProductEntry>,
    /// Positions in `releases`, by digest.
    listing: Listing<ReleaseId>,
    notices: Notices,
    endorsed: EndorsedKeys,
    series: BTreeMap<Series, Seen>,
    /// Contents that a required role has not signed.
    held_back: BTreeSet<[u8; 32]>,
}

#[derive(Debug)]
struct ProductEntry {
    name: String,
    /// Positions in the index's releases.
    range: Range<usize>,
    /// Stands for the product's releases and all that notices say of it.
    id: [u8; 32],
    minimum: Option<Minimum>,
}

impl ReferenceIndex {
    /// Compiles `verified` as of `now`. Of several editions of one document (one name, different sequences) the newest
    /// counts; one content in several files counts as signed by all their signers. What has expired does not count, and
    /// neither does any older edition of it.
    ///
    /// # Errors
    /// [`Unusable::Conflict`] where two contents carry one name and one sequence, [`Unusable::TwoProducts`] where an
    /// endorsement key is listed for two products.
    pub fn build(verified: Vec<VerifiedDocument>, required: &Required, now: u64) -> Result<Built, Unusable> {
        let Editions { current, refused } = Editions::of(verified, required)?;
        let series = newest_of_series(&current);
        let sorted = Sorted::of(current, now)?;
        let notices = Notices::compile(sorted.notices)?;
        let mut releases = sorted.releases;
        for release in &mut releases {
            release.revoked = notices.revoked(&release.product, &release.name).cloned();
        }
        let mut fingerprints = sorted.fingerprints.clone();
        fingerprints.extend(notices.entries.iter().map(|entry| entry.fingerprint));
        let index = Self {
            id: identity("references", &fingerprints),
            products: product_entries(&releases, &sorted.fingerprints, &notices),
            releases,
            listing: Listing::compile(sorted.listed)?,
            notices,
            endorsed: EndorsedKeys::compile(sorted.endorsements)?,
            series,
            held_back: refused.iter().map(|refused| refused.content).collect(),
        };
        Ok(Built { index, refused })
    }

    /// SHA-256 over what was compiled: content and signers, of all but endorsements. The same files give the same id, in
    /// any order, until one expires.
    #[must_use]
    pub const fn id(&self) -> &[u8; 32] {
        &self.id
    }

    /// Stands for all that judges a device of this product: its releases, and the notices that concern it. Of a product
    /// without a release, and of no product, for the notices. What differs for another product changes nothing here.
    #[must_use]
    pub fn standing_id(&self, product: Option<&str>) -> [u8; 32] {
        match product.and_then(|name| self.product(name)) {
            Some(known) => *known.id(),
            None => product_identity(&[], &self.notices, product),
        }
    }

    /// One product; `None` without a release of it.
    #[must_use]
    pub fn product(&self, name: &str) -> Option<ProductRef<'_>> {
        let at = self.products.binary_search_by(|entry| entry.name.as_str().cmp(name)).ok()?;
        self.products.get(at).map(|entry| ProductRef::new(self, entry))
    }

    /// Every product that has a release, in order of name.
    pub fn products(&self) -> impl Iterator<Item = ProductRef<'_>> {
        self.products.iter().map(|entry| ProductRef::new(self, entry))
    }

    /// One release; `None` for a number that another index gave.
    #[must_use]
    pub fn release(&self, id: ReleaseId) -> Option<&ReleaseEntry> {
        self.releases.get(usize::try_from(id.0).ok()?)
    }

    /// Distinct digests.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.listing.len()
    }

    /// Whether no file is listed.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Notices in force, in order of product and sequence.
    #[must_use]
    pub fn notices(&self) -> &[NoticeEntry] {
        &self.notices.entries
    }

    /// Lists of endorsement keys in force, in order of product and sequence.
    #[must_use]
    pub fn endorsements(&self) -> &[EndorsementsEntry] {
        &self.endorsed.lists
    }

    /// Distinct endorsement keys.
    #[must_use]
    pub const fn endorsed_keys(&self) -> usize {
        self.endorsed.len()
    }

    /// What a maker's list says of the device with this endorsement key.
    #[must_use]
    pub fn endorsed(&self, ek: &[u8; 32]) -> Option<EndorsedBy<'_>> {
        self.endorsed.get(ek)
    }

    /// Why a file may run nowhere (or on no device of this product), whatever a release says. Of several notices, the
    /// first.
    #[must_use]
    pub fn known_bad(&self, product: Option<&str>, digest: &[u8; 32], now: u64) -> Option<&KnownBad> {
        self.notices.known_bad(product, digest, now)
    }

    /// When something changes by itself: a release becomes valid or stale, a document expires, a signer's trust ends.
    /// From then on the set is to be built anew.
    #[must_use]
    pub fn next_change(&self, now: u64) -> Option<u64> {
        let releases = self.releases.iter().flat_map(|release| [release.valid_from, release.retire_at]);
        let notices = self.notices.entries.iter().map(|entry| entry.notice().expires());
        let lists = self.endorsed.lists.iter().map(|list| list.expires);
        let signers = self.signers().map(|signer| Some(signer.not_after?.saturating_add(1)));
        releases.chain(notices).chain(lists).chain(signers).flatten().filter(|&at| at > now).min()
    }

    fn signers(&self) -> impl Iterator<Item = &Signer> {
        let releases = self.releases.iter().flat_map(ReleaseEntry::signers);
        let notices = self.notices.entries.iter().flat_map(NoticeEntry::signers);
        releases.chain(notices).chain(self.endorsed.lists.iter().flat_map(EndorsementsEntry::signers))
    }
}

/// Of a notice, each signer has a series: what one takes back, no other allows again.
fn series_by(verified: &VerifiedDocument, author: Option<KeyId>) -> Series {
    let series = verified.document().series();
    match author {
        Some(key) => Series { name: format!("{} by {key}", series.name), ..series },
        None => series,
    }
}

fn newest_of_series(current: &[VerifiedDocument]) -> BTreeMap<Series, Seen> {
    // In ascending order: the last of a series stays.
    let all = current.iter().flat_map(|verified| authors(verified).into_iter().map(move |author| (verified, author)));
    all.map(|(verified, author)| (series_by(verified, author), Seen::of(verified, author))).collect()
}

/// Documents that count, by what they are, in the order that they come in.
#[derive(Default)]
struct Sorted {
    releases: Vec<ReleaseEntry>,
    /// Beside `releases`: content and signers.
    fingerprints: Vec<[u8; 32]>,
    listed: Vec<([u8; 32], ReleaseId)>,
    endorsements: Vec<(Endorsements, Vec<Signer>)>,
    notices: Vec<NoticeEntry>,
}

impl Sorted {
    fn of(current: Vec<VerifiedDocument>, now: u64) -> Result<Self, Unusable> {
        let mut sorted = Self::default();
        let listed = current.iter().filter_map(VerifiedDocument::release).map(|release| digests_of(release).count());
        sorted.listed.reserve_exact(listed.sum());
        for verified in current {
            let fingerprint = fingerprint(&verified);
            let (document, _, signers) = verified.into_parts();
            if is_over(document.expires(), now) {
                continue;
            }
            match document {
                Document::Release(release) => {
                    let number = ReleaseId(u32::try_from(sorted.releases.len()).map_err(|_| Unusable::TooMany)?);
                    sorted.listed.extend(digests_of(&release).map(|digest| (digest, number)));
                    sorted.releases.push(ReleaseEntry::new(release, signers));
                    sorted.fingerprints.push(fingerprint);
                }
                Document::Endorsements(list) => sorted.endorsements.push((list, signers)),
                Document::Notice(notice) => sorted.notices.push(NoticeEntry::new(notice, signers, fingerprint)),
            }
        }
        Ok(sorted)
    }
}

/// Every file of a release. IMA lists the policy that it is given as a file, too, and a kernel that kexec loads.
fn digests_of(release: &Release) -> impl Iterator<Item = [u8; 32]> {
    let executables = release.executables().iter().map(|file| file.digest);
    let policies = release.ima_policies().iter().map(|policy| policy.digest);
    executables.chain(policies).chain(release.images().iter().map(|image| image.digest))
}

/// Stands for a document and all who vouch for it.
fn fingerprint(verified: &VerifiedDocument) -> [u8; 32] {
    let mut keys = verified.signers().iter().map(|signer| (signer.role, signer.key_id)).collect::<Vec<_>>();
    keys.sort_unstable();
    let signers = keys.into_iter().map(|(role, key)| [sha256(role.name().as_bytes()), key.0].concat());
    sha256(&[*verified.content(), sha256(&signers.collect::<Vec<_>>().concat())].concat())
}

/// Stands for documents; each fingerprint says of what kind it is.
fn identity(of: &str, fingerprints: &[[u8; 32]]) -> [u8; 32] {
    let mut input = format!("countersign {of}\0").into_bytes();
    input.extend(fingerprints.iter().flatten());
    sha256(&input)
}

fn product_identity(releases: &[[u8; 32]], notices: &Notices, product: Option<&str>) -> [u8; 32] {
    let notices = notices.concerning(product).map(|entry| entry.fingerprint);
    identity("references of a product", &releases.iter().copied().chain(notices).collect::<Vec<_>>())
}

fn product_entries(releases: &[ReleaseEntry], fingerprints: &[[u8; 32]], notices: &Notices) -> Vec<ProductEntry> {
    let mut start = 0_usize;
    let entry = |chunk: &[ReleaseEntry]| {
        let range = start..start.saturating_add(chunk.len());
        start = range.end;
        let name = chunk.first()?.product.clone();
        let id = product_identity(fingerprints.get(range.clone())?, notices, Some(&name));
        let minimum = notices.minimum(&name).cloned();
        Some(ProductEntry { name, range, id, minimum })
    };
    releases.chunk_by(|a, b| a.product == b.product).filter_map(entry).collect()
}

/// One product's view of the index.
#[derive(Debug, Clone, Copy)]
pub struct ProductRef<'a> {
    index: &'a ReferenceIndex,
    name: &'a str,
    entry: &'a ProductEntry,
}

impl<'a> ProductRef<'a> {
    fn new(index: &'a ReferenceIndex, entry: &'a ProductEntry) -> Self {
        Self { index, name: &entry.name, entry }
    }

    /// Its name.
    #[must_use]
    pub const fn name(&self) -> &'a str {
        self.name
    }

    /// SHA-256 over its releases and every notice that concerns it: content and signers.
    #[must_use]
    pub const fn id(&self) -> &'a [u8; 32] {
        &self.entry.id
    }

    /// The lowest release that it may run, as of when the index was built: the highest that a notice in force says.
    #[must_use]
    pub const fn minimum(&self) -> Option<&'a Minimum> {
        self.entry.minimum.as_ref()
    }

    /// Its releases, in ascending sequence.
    pub fn releases(&self) -> impl DoubleEndedIterator<Item = (ReleaseId, &'a ReleaseEntry)> + use<'a> {
        let index = self.index;
        let ids = self.entry.range.clone().filter_map(|at| u32::try_from(at).ok().map(ReleaseId));
        ids.filter_map(move |id| Some((id, index.release(id)?)))
    }

    /// The release of the highest sequence.
    #[must_use]
    pub fn newest(&self) -> Option<&'a ReleaseEntry> {
        self.index.releases.get(self.entry.range.clone())?.last()
    }

    /// The release that is updated to this one: the closest before it that is not revoked.
    #[must_use]
    pub fn previous(&self, id: ReleaseId) -> Option<(ReleaseId, &'a ReleaseEntry)> {
        self.not_revoked().rev().find(|(other, _)| *other < id)
    }

    /// The release that this one is updated to: the closest after it that is not revoked.
    #[must_use]
    pub fn next(&self, id: ReleaseId) -> Option<(ReleaseId, &'a ReleaseEntry)> {
        self.not_revoked().find(|(other, _)| *other > id)
    }

    /// Whether an update leads from one to the other, in either direction: both are of this product, neither is revoked,
    /// and every release between them is.
    #[must_use]
    pub fn adjacent(&self, a: ReleaseId, b: ReleaseId) -> bool {
        let (older, newer) = (a.min(b), a.max(b));
        let is_good = |wanted: ReleaseId| self.not_revoked().any(|(id, _)| id == wanted);
        is_good(older) && self.next(older).is_some_and(|(id, _)| id == newer)
    }

    /// Releases of this product that list a file with this digest, in ascending sequence; `None` where none does.
    #[must_use]
    pub fn executable(&self, digest: &[u8; 32]) -> Option<&'a [ReleaseId]> {
        let set = self.index.listing.get(digest)?;
        let position = |id: &ReleaseId| usize::try_from(id.0).unwrap_or(usize::MAX);
        let start = set.partition_point(|id| position(id) < self.entry.range.start);
        let end = set.partition_point(|id| position(id) < self.entry.range.end);
        set.get(start..end).filter(|own| !own.is_empty())
    }

    fn not_revoked(&self) -> impl DoubleEndedIterator<Item = (ReleaseId, &'a ReleaseEntry)> + use<'a> {
        self.releases().filter(|(_, release)| release.revoked.is_none())
    }
}

#[cfg(test)]
mod tests;
