//! A table of digests in ascending order: in, rows or pairs; out, what stands beside a digest, within one or two cache
//! misses. A digest costs 32 bytes, its value, and one or two bytes of the table of first bits.

use std::{collections::HashMap, hash::Hash, ops::Range};

use crate::error::Unusable;

/// Digests per bucket of the first-bits table, as a power of two: two to four of them, most often one cache line.
const BUCKET_SHIFT: u32 = 1;
/// Most bits that the table is keyed on: 2^24 buckets of 4 bytes serve 33 million digests at that density.
const MAX_BUCKET_BITS: u32 = 24;

/// Values by digest.
#[derive(Debug)]
pub(super) struct Table<V> {
    /// In ascending order of digests, each once. Value beside digest: one cache miss for both.
    rows: Vec<([u8; 32], V)>,
    buckets: Buckets,
}

impl<V> Default for Table<V> {
    fn default() -> Self {
        Self { rows: Vec::new(), buckets: Buckets::default() }
    }
}

impl<V> Table<V> {
    /// From rows in ascending order of digests, each once.
    pub(super) fn new(mut rows: Vec<([u8; 32], V)>) -> Result<Self, Unusable> {
        // Bucket boundaries are kept in 32 bits.
        u32::try_from(rows.len()).map_err(|_| Unusable::TooMany)?;
        rows.shrink_to_fit();
        let buckets = Buckets::over(&rows);
        Ok(Self { rows, buckets })
    }

    pub(super) fn get(&self, digest: &[u8; 32]) -> Option<&V> {
        let bucket = self.rows.get(self.buckets.range(digest))?;
        // A bucket holds a handful, and then going through is faster than halving; what crowds one is a forged list.
        let row = if bucket.len() <= 8 {
            bucket.iter().find(|(found, _)| found == digest)
        } else {
            bucket.binary_search_by(|(found, _)| found.cmp(digest)).ok().and_then(|at| bucket.get(at))
        };
        row.map(|(_, value)| value)
    }

    pub(super) const fn len(&self) -> usize {
        self.rows.len()
    }
}

/// Sets of numbers by digest. Equal sets are kept once: releases share most of their files, so distinct sets are few.
#[derive(Debug)]
pub(super) struct Listing<N> {
    table: Table<u32>,
    /// Where each set begins in `members`, and the end of the last.
    starts: Vec<u32>,
    /// Each set ascending.
    members: Vec<N>,
}

impl<N> Default for Listing<N> {
    fn default() -> Self {
        Self { table: Table::default(), starts: Vec::new(), members: Vec::new() }
    }
}

impl<N: Copy + Ord + Hash> Listing<N> {
    /// From pairs of digest and number, in any order and any number of times.
    pub(super) fn compile(mut pairs: Vec<([u8; 32], N)>) -> Result<Self, Unusable> {
        pairs.sort_unstable();
        pairs.dedup();
        let distinct = pairs.chunk_by(|a, b| a.0 == b.0).count();
        let mut rows = Vec::with_capacity(distinct);
        let (mut starts, mut members) = (vec![0_u32], Vec::new());
        let mut known = HashMap::<Box<[N]>, u32>::new();
        let mut set = Vec::new();
        for group in pairs.chunk_by(|a, b| a.0 == b.0) {
            let Some((digest, _)) = group.first() else { continue };
            set.clear();
            set.extend(group.iter().map(|(_, number)| *number));
            let number = match known.get(set.as_slice()) {
                Some(&number) => number,
                None => {
                    let number = u32::try_from(known.len()).map_err(|_| Unusable::TooMany)?;
                    known.insert(set.as_slice().into(), number);
                    members.extend_from_slice(&set);
                    starts.push(u32::try_from(members.len()).map_err(|_| Unusable::TooMany)?);
                    number
                }
            };
            rows.push((*digest, number));
        }
        starts.shrink_to_fit();
        members.shrink_to_fit();
        Ok(Self { table: Table::new(rows)?, starts, members })
    }

    /// The numbers beside a digest, ascending.
    pub(super) fn get(&self, digest: &[u8; 32]) -> Option<&[N]> {
        let set = usize::try_from(*self.table.get(digest)?).ok()?;
        let bound = |at: usize| usize::try_from(*self.starts.get(at)?).ok();
        self.members.get(bound(set)?..bound(set.checked_add(1)?)?)
    }

    /// Distinct digests.
    pub(super) const fn len(&self) -> usize {
        self.table.len()
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
    fn over<V>(rows: &[([u8; 32], V)]) -> Self {
        let bits = rows.len().checked_ilog2().unwrap_or(0).saturating_sub(BUCKET_SHIFT).min(MAX_BUCKET_BITS);
        let mut buckets = Self { bits, starts: Vec::new() };
        let count = 1_usize.checked_shl(bits).unwrap_or(1);
        buckets.starts.reserve_exact(count.saturating_add(1));
        let mut at = 0_usize;
        for bucket in 0..count {
            buckets.starts.push(u32::try_from(at).unwrap_or(u32::MAX));
            let rest = rows.get(at..).unwrap_or_default();
            at = at.saturating_add(rest.iter().take_while(|(digest, _)| buckets.of(digest) == bucket).count());
        }
        buckets.starts.push(u32::try_from(rows.len()).unwrap_or(u32::MAX));
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

#[cfg(test)]
mod tests {
    use super::{Listing, Table};

    fn digest(i: u32) -> [u8; 32] {
        evidence::pcr::sha256(&i.to_be_bytes())
    }

    #[test]
    fn every_number_is_found_beside_its_digest_and_nothing_else_is_found() {
        for amount in [0_u32, 1, 2, 3, 7, 64, 1000] {
            let pairs = (0..amount).rev().flat_map(|i| [(digest(i), i % 3), (digest(i), 7), (digest(i), 7)]);
            let listing = Listing::compile(pairs.collect()).unwrap();
            assert_eq!(listing.len(), amount as usize);
            for i in 0..amount {
                assert_eq!(listing.get(&digest(i)), Some(&[i % 3, 7][..]), "{i} of {amount}");
            }
            assert!((amount..amount + 100).all(|i| listing.get(&digest(i)).is_none()));
            assert!(listing.starts.len() <= 4, "equal sets are kept once");
        }
    }

    #[test]
    fn digests_that_crowd_one_bucket_are_found_all_the_same() {
        let crowded = |i: u16| {
            let mut digest = [0; 32];
            digest[30..].copy_from_slice(&i.to_be_bytes());
            digest
        };
        let table = Table::new((0..1000).map(|i| (crowded(i), i)).collect()).unwrap();
        assert!((0..1000).all(|i| table.get(&crowded(i)) == Some(&i)));
        assert_eq!(table.get(&crowded(1000)), None);
        assert_eq!(table.get(&[0xff; 32]), None);
    }
}
