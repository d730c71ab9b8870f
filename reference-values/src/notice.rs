//! What signers take back: in, files that are known to be bad, releases that may not run any more, the lowest release
//! that may; out, the notice in its one order. A notice only ever forbids.

use crate::{
    limits::{MAX_KNOWN_BAD, MAX_REASON, MAX_REVOKED},
    release::{Invalid, check_name, check_pattern},
};

/// The lowest release that may run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Minimum {
    /// Its sequence: what decides.
    pub sequence: u64,
    /// Its name, for people.
    pub release: String,
}

/// A release that may not run any more.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Revoked {
    /// Its name.
    pub release: String,
    /// Why, in a sentence.
    pub why: String,
    /// Where more is said: a CVE, an advisory's number or address.
    pub advisory: Option<String>,
}

/// A file that may run nowhere.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct KnownBad {
    /// SHA-256 of its content.
    pub digest: [u8; 32],
    /// Why, in a sentence.
    pub why: String,
    /// Where more is said: a CVE, an advisory's number or address.
    pub advisory: String,
}

/// A notice about one product, or about all whose names begin alike.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Notice {
    product: String,
    name: String,
    sequence: u64,
    expires: Option<u64>,
    minimum: Option<Minimum>,
    revoked: Vec<Revoked>,
    known_bad: Vec<KnownBad>,
}

impl Notice {
    /// A notice with its parts in any order; what stands twice is kept once. `product` is a name, or the beginning of
    /// names with `*` at its end. Without a minimum, a release or a file it says that there is nothing to take back any
    /// more.
    ///
    /// # Errors
    /// [`Invalid`] where a name or text breaks a rule, or two reasons are given for one release or file.
    pub fn new(
        product: &str,
        name: &str,
        sequence: u64,
        expires: Option<u64>,
        minimum: Option<Minimum>,
        mut revoked: Vec<Revoked>,
        mut known_bad: Vec<KnownBad>,
    ) -> Result<Self, Invalid> {
        revoked.sort_unstable();
        revoked.dedup();
        known_bad.sort_unstable();
        known_bad.dedup();
        Self::from_ordered(product.into(), name.into(), sequence, expires, minimum, revoked, known_bad)
    }

    /// The same, from parts that must be in order and unique already.
    pub(crate) fn from_ordered(
        product: String,
        name: String,
        sequence: u64,
        expires: Option<u64>,
        minimum: Option<Minimum>,
        revoked: Vec<Revoked>,
        known_bad: Vec<KnownBad>,
    ) -> Result<Self, Invalid> {
        Self { product, name, sequence, expires, minimum, revoked, known_bad }.checked()
    }

    /// The same notice, where it keeps all rules and stands in its order.
    fn checked(self) -> Result<Self, Invalid> {
        check_pattern(&self.product)?;
        check_name("notice", &self.name)?;
        for (what, n, limit) in [
            ("revoked releases", self.revoked.len(), MAX_REVOKED),
            ("known-bad files", self.known_bad.len(), MAX_KNOWN_BAD),
        ] {
            if n > limit {
                return Err(Invalid::TooMany { what, limit });
            }
        }
        if !self.revoked.is_sorted_by(|a, b| a.release < b.release) {
            return Err(Invalid::Order("revoked releases"));
        }
        if !self.known_bad.is_sorted_by(|a, b| a.digest < b.digest) {
            return Err(Invalid::Order("known-bad files"));
        }
        let minimum = self.minimum.iter().map(|minimum| minimum.release.as_str());
        minimum
            .chain(self.revoked.iter().map(|revoked| revoked.release.as_str()))
            .try_for_each(|release| check_name("release", release))?;
        let advisories = self.revoked.iter().filter_map(|revoked| revoked.advisory.as_ref());
        let reasons = self.revoked.iter().map(|revoked| &revoked.why);
        let bad = self.known_bad.iter().flat_map(|bad| [&bad.why, &bad.advisory]);
        advisories.chain(reasons).chain(bad).try_for_each(|text| check_reason(text))?;
        Ok(self)
    }

    /// Products that it concerns: a name, or the beginning of names with `*` at its end.
    #[must_use]
    pub fn product(&self) -> &str {
        &self.product
    }

    /// Its name among the notices about these products.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Order among the notices of this name.
    #[must_use]
    pub const fn sequence(&self) -> u64 {
        self.sequence
    }

    /// When it ends to say anything, seconds since the Unix epoch.
    #[must_use]
    pub const fn expires(&self) -> Option<u64> {
        self.expires
    }

    /// The lowest release that may run.
    #[must_use]
    pub const fn minimum(&self) -> Option<&Minimum> {
        self.minimum.as_ref()
    }

    /// Releases that may not run any more, in order of name.
    #[must_use]
    pub fn revoked(&self) -> &[Revoked] {
        &self.revoked
    }

    /// Files that may run nowhere, in ascending order of digests.
    #[must_use]
    pub fn known_bad(&self) -> &[KnownBad] {
        &self.known_bad
    }
}

/// A reason stands in causes and logs.
fn check_reason(text: &str) -> Result<(), Invalid> {
    if text.is_empty() || text.len() > MAX_REASON || text.chars().any(char::is_control) {
        return Err(Invalid::Reason(text.chars().take(40).collect()));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn revoked(release: &str, why: &str) -> Revoked {
        Revoked { release: release.into(), why: why.into(), advisory: None }
    }

    fn of(product: &str, revoked: Vec<Revoked>) -> Result<Notice, Invalid> {
        Notice::new(product, "n", 1, None, None, revoked, vec![])
    }

    #[test]
    fn a_notice_concerns_a_product_or_all_that_begin_alike() {
        for product in ["p", "acme/gw", "acme/*", "ac*", "*"] {
            assert!(of(product, vec![revoked("1", "hole")]).is_ok(), "{product}");
        }
        for product in ["", "a*b", "**", "acme/*/x", "a b*", "a@*", "a/b/*"] {
            assert!(of(product, vec![revoked("1", "hole")]).is_err(), "{product}");
        }
    }

    #[test]
    fn reasons_are_given_once_and_can_be_shown() {
        assert_eq!(of("p", vec![revoked("2", "b"), revoked("1", "a"), revoked("2", "b")]).unwrap().revoked().len(), 2);
        assert_eq!(of("p", vec![revoked("1", "a"), revoked("1", "b")]), Err(Invalid::Order("revoked releases")));
        for why in ["", "a\nb", "\u{1b}[2J", &"x".repeat(513)] {
            assert!(matches!(of("p", vec![revoked("1", why)]), Err(Invalid::Reason(_))), "{why:?}");
        }
    }

    #[test]
    fn what_was_taken_back_can_be_allowed_again() {
        assert!(of("p", vec![]).is_ok());
    }
}
