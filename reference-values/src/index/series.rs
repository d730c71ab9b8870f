//! How far each series has come: in, what was in force before; out, whether a set on offer goes back behind it.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::ReferenceIndex;
use crate::{
    document::{Kind, Series},
    error::Unusable,
    key::KeyId,
    signed::VerifiedDocument,
    trust::Trust,
};

/// The newest document of a series, as one must remember it: whoever can take files away or put old ones back undoes
/// with that what newer ones took back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Seen {
    /// Its sequence.
    pub sequence: u64,
    /// When it ends, seconds since the Unix epoch.
    pub expires: Option<u64>,
    /// SHA-256 of its signed bytes.
    pub content: [u8; 32],
    /// SHA-256 of the keys that vouched for it, ascending.
    pub keys: Vec<[u8; 32]>,
}

impl Seen {
    /// By one of its signers, or by all.
    pub(super) fn of(verified: &VerifiedDocument, author: Option<KeyId>) -> Self {
        let by = |key: &KeyId| author.is_none_or(|author| author == *key);
        let mut keys: Vec<_> =
            verified.signers().iter().map(|signer| signer.key_id).filter(by).map(|key| key.0).collect();
        keys.sort_unstable();
        let document = verified.document();
        Self { sequence: document.sequence(), expires: document.expires(), content: *verified.content(), keys }
    }

    /// Whether every one who vouched is still trusted for `product`. Where one is not, the file has lost its word by the
    /// operator's own, and is no longer missed.
    fn is_still_vouched_for(&self, product: &str, trust: &Trust, now: u64) -> bool {
        self.keys.iter().all(|&key| {
            let signer = trust.find(KeyId(key));
            signer.is_some_and(|signer| signer.speaks_for_all(product) && signer.not_after.is_none_or(|end| now <= end))
        })
    }
}

impl ReferenceIndex {
    /// The newest of each series that is on offer, those included that have expired.
    #[must_use]
    pub const fn series(&self) -> &BTreeMap<Series, Seen> {
        &self.series
    }

    /// What to remember after `seen` once this set is in force: its own series, and those that it has nothing of.
    #[must_use]
    pub fn series_after(&self, mut seen: BTreeMap<Series, Seen>) -> BTreeMap<Series, Seen> {
        seen.extend(self.series.iter().map(|(series, own)| (series.clone(), own.clone())));
        seen
    }

    /// Refuses a set that goes back behind what was in force: a series whose newest document is older, and a notice that
    /// is gone before its time. A release or list that is gone altogether is not refused: it allows nothing.
    ///
    /// What lost its signer's trust is not missed, nor a release whose signatures no longer suffice: there the operator
    /// took back, not whoever writes to the folder.
    ///
    /// # Errors
    /// [`Unusable::Older`], [`Unusable::Gone`].
    pub fn check_not_older(&self, seen: &BTreeMap<Series, Seen>, trust: &Trust, now: u64) -> Result<(), Unusable> {
        for (series, seen) in seen {
            let offered = self.series.get(series);
            if offered.is_some_and(|offered| offered.sequence >= seen.sequence)
                || self.held_back.contains(&seen.content)
                || !seen.is_still_vouched_for(&series.product, trust, now)
            {
                continue;
            }
            match offered {
                Some(offered) => {
                    let (series, offered) = (series.clone(), offered.sequence);
                    return Err(Unusable::Older { series, seen: seen.sequence, offered });
                }
                None if series.kind == Kind::Notice && !is_over(seen.expires, now) => {
                    return Err(Unusable::Gone { series: series.clone(), sequence: seen.sequence });
                }
                None => {}
            }
        }
        Ok(())
    }
}

/// Whether something with this end has ended.
pub(super) fn is_over(expires: Option<u64>, now: u64) -> bool {
    expires.is_some_and(|end| now >= end)
}
