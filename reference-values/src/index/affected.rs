//! Whose devices a change of references concerns: in, two indices; out, the products whose values differ.

use std::collections::BTreeSet;

use super::ReferenceIndex;
use crate::trust::covers;

/// Products whose devices are to be judged anew.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Affected {
    /// In order of name.
    pub products: Vec<String>,
    /// Beginnings of names, with `*`: of products that have no release but are spoken of. In order; `*` alone also stands
    /// for devices without a product.
    pub patterns: Vec<String>,
}

impl Affected {
    /// Whether devices of this product are.
    #[must_use]
    pub fn concerns(&self, product: Option<&str>) -> bool {
        match product {
            None => self.patterns.iter().any(|pattern| pattern == "*"),
            Some(product) => {
                self.products.binary_search_by(|known| known.as_str().cmp(product)).is_ok()
                    || self.patterns.iter().any(|pattern| covers(pattern, product))
            }
        }
    }

    /// Whether none is.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.products.is_empty() && self.patterns.is_empty()
    }
}

impl ReferenceIndex {
    /// What differs between this index and another, whichever is the newer: all whose [`Self::standing_id`] does.
    /// Endorsements are no part of it: they decide what product a device is, not how a product is judged.
    #[must_use]
    pub fn affected(&self, other: &Self) -> Affected {
        let said = |index: &Self| {
            let all = index.notices.entries.iter();
            all.map(|entry| (entry.notice().product().to_owned(), entry.fingerprint)).collect::<BTreeSet<_>>()
        };
        let (own, others) = (said(self), said(other));
        let spoken_of = own.symmetric_difference(&others).map(|(pattern, _)| pattern.clone());
        let (patterns, names): (BTreeSet<_>, BTreeSet<_>) = spoken_of.partition(|pattern| pattern.ends_with('*'));
        let known = self.products().chain(other.products()).map(|product| product.name);
        let known = known.filter(|name| self.standing_id(Some(name)) != other.standing_id(Some(name)));
        let products = known.map(str::to_owned).chain(names).collect::<BTreeSet<_>>();
        Affected { products: products.into_iter().collect(), patterns: patterns.into_iter().collect() }
    }

    /// Products of which a release became valid or stale after one time and not after another. That changes no id: how a
    /// release stands at a time is part of each appraisal.
    #[must_use]
    pub fn affected_by_time(&self, after: u64, until: u64) -> Affected {
        let passed = |time: Option<u64>| time.is_some_and(|time| after < time && time <= until);
        let due = self.releases.iter().filter(|release| passed(release.valid_from) || passed(release.retire_at));
        let products = due.map(|release| release.product.clone()).collect::<BTreeSet<_>>();
        Affected { products: products.into_iter().collect(), patterns: Vec::new() }
    }
}
