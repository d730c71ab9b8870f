//! All releases that are in use, compiled: in, verified releases; out, answers for any device, immutable and shared.
//!
//! One table holds every digest once, whatever number of products share it; beside each stands the number of a set of
//! releases. Distinct sets are few (releases share most of their files), so a digest costs 36 bytes and a fraction.
//! Releases are numbered in order of product, then sequence: those of one product are one slice of a set.

use std::{
    collections::{BTreeMap, HashMap},
    ops::Range,
};

use evidence::pcr::sha256;

use crate::{
    boot_rules::{BootRules, ImaPolicy},
    error::Unusable,
    release::{BootPcrs, Content},
    signed::{Signer, VerifiedRelease},
};

/// Digests per bucket of the first-bits table, as a power of two: look-up reads one bucket, two cache lines or so.
const BUCKET_SHIFT: u32 = 3;
/// Most bits that the table is keyed on: 2^22 buckets of 4 bytes serve 33 million digests at that density.
const MAX_BUCKET_BITS: u32 = 22;

/// A release's number in the index that gave it; it means nothing in another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ReleaseId(u32);

/// What the index keeps of a release besides its digests.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReleaseEntry {
    product: String,
    name: String,
    sequence: u64,
    valid_from: Option<u64>,
    retire_at: Option<u64>,
    boots: Vec<BootPcrs>,
    boot_rules: Vec<BootRules>,
    ima_policies: Vec<ImaPolicy>,
    signers: Vec<Signer>,
}

impl ReleaseEntry {
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

    /// Who vouches for all of it; never empty.
    #[must_use]
    pub fn signers(&self) -> &[Signer] {
        &self.signers
    }
}

/// The compiled set. The default one is empty and knows no product.
#[derive(Debug, Default)]
pub struct ReferenceIndex {
    id: [u8; 32],
    /// In order of product, sequence, name; a [`ReleaseId`] is a position here.
    releases: Vec<ReleaseEntry>,
    /// In order of name, each with its positions in `releases`.
    products: Vec<(String, Range<usize>)>,
    /// Ascending.
    digests: Vec<[u8; 32]>,
    /// Beside each digest, a position in `sets`.
    set_of: Vec<u32>,
    /// Distinct sets of releases, each ascending.
    sets: Vec<Box<[ReleaseId]>>,
    buckets: Buckets,
}

impl ReferenceIndex {
    /// Compiles `verified`. Of several editions of one release (one name, different sequences) the newest counts; one
    /// content in several files counts as signed by all their signers.
    ///
    /// # Errors
    /// [`Unusable::Conflict`] where two contents carry one name and one sequence.
    pub fn build(verified: Vec<VerifiedRelease>) -> Result<Self, Unusable> {
        let current = newest_editions(verified)?;
        let id = identity_of(&current);
        let mut releases = Vec::with_capacity(current.len());
        let mut listed = Vec::new();
        for verified in current {
            let number = ReleaseId(u32::try_from(releases.len()).map_err(|_| Unusable::TooMany)?);
            let (release, _, signers) = verified.into_parts();
            listed.extend(release.executables().iter().map(|file| (file.digest, number)));
            // IMA lists the policy that it is given as a file, too.
            listed.extend(release.ima_policies().iter().map(|policy| (policy.digest, number)));
            let (product, name, sequence) = (release.product().into(), release.name().into(), release.sequence());
            let (valid_from, retire_at) = (release.valid_from(), release.retire_at());
            let Content { boots, boot_rules, ima_policies, .. } = release.into_content();
            releases.push(ReleaseEntry {
                product,
                name,
                sequence,
                valid_from,
                retire_at,
                boots,
                boot_rules,
                ima_policies,
                signers,
            });
        }
        listed.sort_unstable();
        listed.dedup();
        let table = DigestTable::compile(&listed)?;
        let products = product_ranges(&releases);
        let buckets = Buckets::over(&table.digests);
        Ok(Self { id, releases, products, digests: table.digests, set_of: table.set_of, sets: table.sets, buckets })
    }

    /// SHA-256 over what was compiled: content and signers. The same files give the same id, in any order.
    #[must_use]
    pub const fn id(&self) -> &[u8; 32] {
        &self.id
    }

    /// One product.
    #[must_use]
    pub fn product(&self, name: &str) -> Option<ProductRef<'_>> {
        let at = self.products.binary_search_by(|(product, _)| product.as_str().cmp(name)).ok()?;
        self.products.get(at).map(|(name, range)| ProductRef { index: self, name, range })
    }

    /// Every product, in order of name.
    pub fn products(&self) -> impl Iterator<Item = ProductRef<'_>> {
        self.products.iter().map(|(name, range)| ProductRef { index: self, name, range })
    }

    /// One release; `None` for a number that another index gave.
    #[must_use]
    pub fn release(&self, id: ReleaseId) -> Option<&ReleaseEntry> {
        self.releases.get(usize::try_from(id.0).ok()?)
    }

    /// Distinct digests.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.digests.len()
    }

    /// Whether no file is listed.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.digests.is_empty()
    }

    /// Highest sequence of each product: what [`Self::check_not_older`] of a later set wants to know.
    #[must_use]
    pub fn sequences(&self) -> BTreeMap<String, u64> {
        self.products().filter_map(|product| Some((product.name.to_owned(), product.newest()?.sequence))).collect()
    }

    /// Refuses a set whose newest release of a product is older than one in use before: otherwise whoever can put an
    /// old signed file back undoes what a newer one took back. A product that is gone altogether is not refused: it
    /// allows nothing.
    ///
    /// # Errors
    /// [`Unusable::Older`].
    pub fn check_not_older(&self, seen: &BTreeMap<String, u64>) -> Result<(), Unusable> {
        for (product, offered) in self.sequences() {
            if let Some(&seen) = seen.get(&product).filter(|&&seen| seen > offered) {
                return Err(Unusable::Older { product, seen, offered });
            }
        }
        Ok(())
    }

    /// All releases that list `digest`, of any product.
    fn set_with(&self, digest: &[u8; 32]) -> Option<&[ReleaseId]> {
        let range = self.buckets.range(digest);
        let at = self.digests.get(range.clone())?.binary_search(digest).ok()?;
        let set = self.set_of.get(range.start.saturating_add(at))?;
        self.sets.get(usize::try_from(*set).ok()?).map(AsRef::as_ref)
    }
}

/// Orders by product, sequence and name, and keeps the newest edition of each release.
fn newest_editions(mut verified: Vec<VerifiedRelease>) -> Result<Vec<VerifiedRelease>, Unusable> {
    fn edition(verified: &VerifiedRelease) -> (&str, &str, u64) {
        let release = verified.release();
        (release.product(), release.name(), release.sequence())
    }
    verified.sort_by(|a, b| edition(b).cmp(&edition(a)).then_with(|| a.content().cmp(b.content())));
    let mut kept = Vec::<VerifiedRelease>::with_capacity(verified.len());
    for next in verified {
        let (product, release, sequence) = edition(&next);
        match kept.last_mut() {
            Some(last) if (last.release().product(), last.release().name()) == (product, release) => {
                if last.release().sequence() != sequence {
                    continue;
                }
                if last.content() != next.content() {
                    return Err(Unusable::Conflict { product: product.into(), release: release.into(), sequence });
                }
                last.merge(next);
            }
            _ => kept.push(next),
        }
    }
    kept.sort_by(|a, b| {
        let (a, b) = (a.release(), b.release());
        (a.product(), a.sequence(), a.name()).cmp(&(b.product(), b.sequence(), b.name()))
    });
    Ok(kept)
}

fn identity_of(releases: &[VerifiedRelease]) -> [u8; 32] {
    let mut input = b"countersign reference index\0".to_vec();
    for release in releases {
        input.extend_from_slice(release.content());
        let mut keys = release.signers().iter().map(|signer| (signer.role, signer.key_id)).collect::<Vec<_>>();
        keys.sort_unstable();
        let signers = keys.into_iter().map(|(role, key)| [sha256(role.name().as_bytes()), key.0].concat());
        input.extend_from_slice(&sha256(&signers.collect::<Vec<_>>().concat()));
    }
    sha256(&input)
}

fn product_ranges(releases: &[ReleaseEntry]) -> Vec<(String, Range<usize>)> {
    let mut start = 0_usize;
    releases
        .chunk_by(|a, b| a.product == b.product)
        .filter_map(|chunk| {
            let range = start..start.saturating_add(chunk.len());
            start = range.end;
            chunk.first().map(|first| (first.product.clone(), range))
        })
        .collect()
}

/// Digests beside sets, while they are compiled.
struct DigestTable {
    digests: Vec<[u8; 32]>,
    set_of: Vec<u32>,
    sets: Vec<Box<[ReleaseId]>>,
}

impl DigestTable {
    /// From pairs in ascending order.
    fn compile(listed: &[([u8; 32], ReleaseId)]) -> Result<Self, Unusable> {
        let distinct = listed.chunk_by(|a, b| a.0 == b.0).count();
        // Bucket boundaries are kept in 32 bits.
        u32::try_from(distinct).map_err(|_| Unusable::TooMany)?;
        let mut table =
            Self { digests: Vec::with_capacity(distinct), set_of: Vec::with_capacity(distinct), sets: Vec::new() };
        let mut known = HashMap::<Box<[ReleaseId]>, u32>::new();
        let mut set = Vec::new();
        for group in listed.chunk_by(|a, b| a.0 == b.0) {
            let Some((digest, _)) = group.first() else { continue };
            set.clear();
            set.extend(group.iter().map(|(_, release)| *release));
            let number = match known.get(set.as_slice()) {
                Some(&number) => number,
                None => {
                    let number = u32::try_from(table.sets.len()).map_err(|_| Unusable::TooMany)?;
                    known.insert(set.as_slice().into(), number);
                    table.sets.push(set.as_slice().into());
                    number
                }
            };
            table.digests.push(*digest);
            table.set_of.push(number);
        }
        Ok(table)
    }
}

/// Where digests with the same first bits begin: digests spread evenly, so this replaces most steps of a binary
/// search. An uneven spread costs time, not correctness.
#[derive(Debug, Default)]
struct Buckets {
    bits: u32,
    /// One more than there are buckets.
    starts: Vec<u32>,
}

impl Buckets {
    fn over(digests: &[[u8; 32]]) -> Self {
        let bits = digests.len().checked_ilog2().unwrap_or(0).saturating_sub(BUCKET_SHIFT).min(MAX_BUCKET_BITS);
        let mut buckets = Self { bits, starts: Vec::new() };
        let count = 1_usize.checked_shl(bits).unwrap_or(1);
        buckets.starts.reserve_exact(count.saturating_add(1));
        let mut at = 0_usize;
        for bucket in 0..count {
            buckets.starts.push(u32::try_from(at).unwrap_or(u32::MAX));
            let rest = digests.get(at..).unwrap_or_default();
            at = at.saturating_add(rest.iter().take_while(|digest| buckets.of(digest) == bucket).count());
        }
        buckets.starts.push(u32::try_from(digests.len()).unwrap_or(u32::MAX));
        buckets
    }

    fn of(&self, digest: &[u8; 32]) -> usize {
        let [b0, b1, b2, b3, ..] = *digest;
        let first = u32::from_be_bytes([b0, b1, b2, b3]);
        let bucket = first.checked_shr(u32::BITS.saturating_sub(self.bits)).unwrap_or(0);
        usize::try_from(bucket).unwrap_or(usize::MAX)
    }

    fn range(&self, digest: &[u8; 32]) -> Range<usize> {
        let bucket = self.of(digest);
        let start = |at: usize| self.starts.get(at).and_then(|&start| usize::try_from(start).ok()).unwrap_or(0);
        start(bucket)..start(bucket.saturating_add(1))
    }
}

/// One product's view of the index.
#[derive(Debug, Clone, Copy)]
pub struct ProductRef<'a> {
    index: &'a ReferenceIndex,
    name: &'a str,
    range: &'a Range<usize>,
}

impl<'a> ProductRef<'a> {
    /// Its name.
    #[must_use]
    pub const fn name(&self) -> &'a str {
        self.name
    }

    /// Its releases, in ascending sequence.
    pub fn releases(&self) -> impl Iterator<Item = (ReleaseId, &'a ReleaseEntry)> + use<'a> {
        let index = self.index;
        self.ids().filter_map(move |id| Some((id, index.release(id)?)))
    }

    /// The release of the highest sequence.
    #[must_use]
    pub fn newest(&self) -> Option<&'a ReleaseEntry> {
        self.index.releases.get(self.range.clone())?.last()
    }

    /// Releases of this product that list a file with this digest, in ascending sequence; `None` where none does.
    #[must_use]
    pub fn executable(&self, digest: &[u8; 32]) -> Option<&'a [ReleaseId]> {
        let set = self.index.set_with(digest)?;
        let position = |id: &ReleaseId| usize::try_from(id.0).unwrap_or(usize::MAX);
        let start = set.partition_point(|id| position(id) < self.range.start);
        let end = set.partition_point(|id| position(id) < self.range.end);
        set.get(start..end).filter(|own| !own.is_empty())
    }

    fn ids(&self) -> impl Iterator<Item = ReleaseId> + use<'a> {
        self.range.clone().filter_map(|at| u32::try_from(at).ok().map(ReleaseId))
    }
}

#[cfg(test)]
mod tests {
    use ring::rand::SystemRandom;

    use super::ReferenceIndex;
    use crate::{
        boot_rules::{BootRules, EventKey, EventRule, ImaPolicy, SecureBootRule},
        error::Unusable,
        key::{SigningKey, tests::new_key},
        release::{BootPcrs, Executable, Release},
        role::Role,
        signed::{SignedRelease, VerifiedRelease, tests::signer},
        trust::Trust,
    };

    fn digest(i: u32) -> [u8; 32] {
        evidence::pcr::sha256(&i.to_be_bytes())
    }

    fn verified_by(key: &SigningKey, release: Release) -> VerifiedRelease {
        let mut trust = Trust::default();
        trust.add(signer(key, Role::Manufacturer, "*", None)).unwrap();
        let signed = SignedRelease::unsigned(release).sign(key, Role::Manufacturer, &SystemRandom::new()).unwrap();
        signed.verify(&trust, 0).unwrap()
    }

    fn release(product: &str, name: &str, sequence: u64, files: std::ops::Range<u32>) -> Release {
        let files = files.map(|i| Executable { digest: digest(i), path: format!("/{i}") }).collect();
        let boots = vec![BootPcrs::new([(0, [sequence as u8; 32])].into()).unwrap()];
        Release::new(product, name, sequence, files, boots).unwrap()
    }

    #[test]
    fn a_digest_is_found_in_exactly_the_releases_that_list_it() {
        let key = new_key();
        let all = [("a", "1", 1, 0..600), ("a", "2", 2, 300..900), ("b", "1", 5, 500..1000)];
        let build = |order: [usize; 3]| {
            let list = order.map(|i| {
                let (product, name, sequence, files) = all[i].clone();
                verified_by(&key, release(product, name, sequence, files))
            });
            ReferenceIndex::build(list.into()).unwrap()
        };
        let index = build([0, 1, 2]);
        assert_eq!(index.len(), 1000);
        for i in 0..1100 {
            for product in ["a", "b"] {
                let found = index.product(product).unwrap().executable(&digest(i)).unwrap_or_default();
                let found =
                    found.iter().map(|&id| index.release(id).unwrap()).map(|entry| (entry.product(), entry.name()));
                let listed = all.iter().filter(|(owner, .., files)| *owner == product && files.contains(&i));
                assert!(found.eq(listed.map(|(product, name, ..)| (*product, *name))), "{product} {i}");
            }
        }
        assert!(index.product("c").is_none());
        assert_eq!(index.id(), build([2, 0, 1]).id());
        assert_eq!(index.product("a").unwrap().releases().map(|(_, release)| release.boots.len()).sum::<usize>(), 2);
    }

    #[test]
    fn the_newest_edition_of_a_release_counts() {
        let key = new_key();
        let editions = [release("a", "1", 2, 5..9), release("a", "1", 1, 0..5)];
        let index = ReferenceIndex::build(editions.map(|edition| verified_by(&key, edition)).into()).unwrap();
        let product = index.product("a").unwrap();
        assert_eq!(product.releases().count(), 1);
        assert!(product.executable(&digest(0)).is_none());
        assert!(product.executable(&digest(5)).is_some());
    }

    #[test]
    fn one_content_in_two_files_is_vouched_for_by_both_signers() {
        let (one, two) = (new_key(), new_key());
        let list = vec![verified_by(&one, release("a", "1", 1, 0..5)), verified_by(&two, release("a", "1", 1, 0..5))];
        let index = ReferenceIndex::build(list).unwrap();
        assert_eq!(index.product("a").unwrap().newest().unwrap().signers().len(), 2);
    }

    #[test]
    fn two_contents_under_one_name_and_sequence_are_refused() {
        let key = new_key();
        let list = [release("a", "1", 1, 0..5), release("a", "1", 1, 0..6)].map(|release| verified_by(&key, release));
        assert!(matches!(ReferenceIndex::build(list.into()), Err(Unusable::Conflict { sequence: 1, .. })));
    }

    #[test]
    fn an_older_set_is_refused() {
        let key = new_key();
        let build =
            |sequence| ReferenceIndex::build(vec![verified_by(&key, release("a", "1", sequence, 0..5))]).unwrap();
        let seen = build(5).sequences();
        assert_eq!(build(5).check_not_older(&seen), Ok(()));
        assert!(matches!(build(4).check_not_older(&seen), Err(Unusable::Older { seen: 5, offered: 4, .. })));
    }

    #[test]
    fn boot_rules_and_ima_policies_are_carried_and_a_policy_is_a_listed_file() {
        let events = [(EventKey { pcr: 4, event_type: 5 }, EventRule::Sequences([vec![[1; 32]]].into()))];
        let rules = BootRules::new(events.into(), [4].into(), SecureBootRule::default()).unwrap();
        let policy = |i: u32| ImaPolicy { digest: digest(i), path: format!("/{i}"), measures_kexec: true };
        // One of the policies is among the executables too, and still of one release only.
        let policies = vec![policy(3), policy(7)];
        let release = release("a", "1", 1, 0..5).with_boot_rules(vec![rules.clone()]).unwrap();
        let release = release.with_ima_policies(policies.clone()).unwrap();
        let index = ReferenceIndex::build(vec![verified_by(&new_key(), release)]).unwrap();
        let product = index.product("a").unwrap();
        let entry = product.newest().unwrap();
        assert_eq!(entry.boot_rules(), [rules]);
        assert!(policies.iter().all(|policy| entry.ima_policies().contains(policy)));
        for listed in [3, 7] {
            assert_eq!(product.executable(&digest(listed)).unwrap().len(), 1);
        }
    }

    #[test]
    fn an_empty_index_knows_nothing() {
        let index = ReferenceIndex::build(vec![]).unwrap();
        assert!(index.is_empty() && index.product("a").is_none());
        let only_boot = Release::new("a", "1", 1, vec![], vec![BootPcrs::new([(0, [1; 32])].into()).unwrap()]).unwrap();
        let index = ReferenceIndex::build(vec![verified_by(&new_key(), only_boot)]).unwrap();
        assert!(index.product("a").unwrap().executable(&digest(0)).is_none());
    }
}
