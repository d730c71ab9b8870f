//! What a device knows of its verifier: in go the verifier's messages, out comes what they open to, and what the verifier
//! holds of this boot's log. No network, no clock.

use evidence::{
    claims::Nonce,
    epoch::Epoch,
    result::Acknowledged,
    tpm::{Counters, P256Point},
    verifier_keys::VerifierKeys,
    verifier_message::{NotFromVerifier, Purpose},
};
use serde::{Serialize, de::DeserializeOwned};

use crate::software::Attach;

/// A verifier's present keys, under its pinned root.
#[derive(Debug)]
pub(super) struct Trusted {
    root: P256Point,
    keys: Option<VerifierKeys>,
}

impl Trusted {
    pub(super) const fn new(root: P256Point) -> Self {
        Self { root, keys: None }
    }

    /// Takes keys that are newer than those held; says whether they were.
    pub(super) fn keys(&mut self, message: &[u8]) -> Result<bool, NotFromVerifier> {
        let keys = VerifierKeys::open_by_root(&self.root, message)?;
        let newer = self.keys.as_ref().is_none_or(|held| keys.sequence > held.sequence);
        if newer {
            self.keys = Some(keys);
        }
        Ok(newer)
    }

    /// What the key for this purpose signed.
    pub(super) fn open<T: DeserializeOwned + Serialize>(
        &self,
        purpose: Purpose,
        message: &[u8],
    ) -> Result<T, NotFromVerifier> {
        self.keys.as_ref().ok_or(NotFromVerifier::Header)?.open(purpose, message)
    }
}

/// The open epoch, and whether evidence was sent for it.
#[derive(Debug, Default)]
pub(super) struct OpenEpoch {
    newest: Option<Epoch>,
    answered: bool,
}

impl OpenEpoch {
    /// Takes an epoch that is newer than the one before; says whether it was.
    pub(super) fn opens(&mut self, epoch: Epoch) -> bool {
        let newer = self.newest.as_ref().is_none_or(|newest| epoch.number > newest.number);
        if newer {
            (self.newest, self.answered) = (Some(epoch), false);
        }
        newer
    }

    /// Its number and nonce, where nothing was sent for it yet.
    pub(super) fn unanswered(&self) -> Option<(u64, Nonce)> {
        self.newest.as_ref().filter(|_| !self.answered).map(|epoch| (epoch.number, epoch.nonce))
    }

    pub(super) const fn answer(&mut self) {
        self.answered = true;
    }
}

/// What the verifier holds: the device's outbox is the rest of its log.
#[derive(Debug, Default)]
pub(super) struct Held(Option<Acknowledged>);

impl Held {
    /// After a result.
    pub(super) const fn now(&mut self, acknowledged: Acknowledged) {
        self.0 = Some(acknowledged);
    }

    /// What the next evidence carries: whatever is missing of this boot.
    pub(super) fn missing(&self, counters: &Counters, entries: u64) -> Attach {
        let boot = |held: &&Acknowledged| (held.reset, held.restart) == (counters.reset, counters.restart);
        match self.0.as_ref().filter(boot) {
            Some(held) if held.runtime == entries && held.pcr_values => Attach::Nothing,
            Some(held) => Attach::LogsFrom(held.runtime.min(entries)),
            None => Attach::LogsFrom(0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const COUNTERS: Counters = Counters { reset: 7, restart: 1, clock: 9 };

    #[test]
    fn an_epoch_is_answered_once_and_never_an_older_one() {
        let epoch = |number| Epoch { number, period: 2, nonce: [1; 32], closed: None };
        let mut open = OpenEpoch::default();
        assert!(open.unanswered().is_none() && open.opens(epoch(10)));
        assert_eq!(open.unanswered(), Some((10, [1; 32])));
        open.answer();
        assert!(!open.opens(epoch(10)) && !open.opens(epoch(9)) && open.unanswered().is_none());
        assert!(open.opens(epoch(12)) && open.unanswered().is_some());
    }

    #[test]
    fn evidence_carries_what_is_missing_of_this_boot_and_no_more() {
        let mut held = Held::default();
        assert_eq!(held.missing(&COUNTERS, 3), Attach::LogsFrom(0));
        held.now(Acknowledged { reset: 7, restart: 1, boot_log: true, ima: 0, runtime: 3, pcr_values: true });
        assert_eq!(held.missing(&COUNTERS, 3), Attach::Nothing);
        assert_eq!(held.missing(&COUNTERS, 5), Attach::LogsFrom(3));
        assert_eq!(held.missing(&Counters { reset: 8, ..COUNTERS }, 3), Attach::LogsFrom(0));
    }
}
