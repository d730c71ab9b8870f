//! The epochs of this verifier, as one of its processes sees them. The store's rows go in; out come the nonces that count,
//! and the message for all devices.
//!
//! An epoch counts while it is the newest or the one before. Then its random bytes are told, so that anyone can check what
//! its nonce was made of. One that opened by a clock which was ahead of the present one counts for nothing.

use std::{
    sync::{Arc, PoisonError, RwLock},
    time::Instant,
};

use appraisal::{Epochs, OpenEpoch, UnixSeconds};
use evidence::{
    epoch::{Closed, Epoch},
    verifier_message::VerifierKeyId,
};
use ring::rand::{SecureRandom as _, SystemRandom};

use crate::{
    limits::{CLOCK_TOLERANCE, EPOCH_LOOKUP_RATE},
    rate::Limiter,
    store::{EpochRow, LatestEpochs, Opening, Store, StoreError},
};

/// What is known of the epochs.
pub struct Calendar {
    store: Store,
    verifier: VerifierKeyId,
    /// Epochs that opened before are void: the store was restored then.
    void_before: UnixSeconds,
    known: RwLock<Arc<LatestEpochs>>,
    lookups: Limiter<()>,
}

impl Calendar {
    /// Of this verifier, as the store has it.
    ///
    /// # Errors
    /// [`StoreError`] where it could not be read.
    pub fn open(store: &Store, verifier: VerifierKeyId) -> Result<Self, StoreError> {
        Ok(Self {
            store: store.clone(),
            verifier,
            void_before: store.restored_at()?.unwrap_or(0),
            known: RwLock::new(Arc::new(store.epochs()?)),
            lookups: Limiter::new(EPOCH_LOOKUP_RATE, 1),
        })
    }

    fn known(&self) -> Arc<LatestEpochs> {
        Arc::clone(&self.known.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Epochs from before this instant are void.
    #[must_use]
    pub const fn void_before(&self) -> UnixSeconds {
        self.void_before
    }

    /// The highest time that any process of this verifier has seen.
    #[must_use]
    pub fn latest(&self) -> UnixSeconds {
        self.known().latest
    }

    /// Epochs whose nonces count at `now`. Verdicts count from when an epoch opened, which its number says unless a clock
    /// was ahead once.
    #[must_use]
    pub fn accepted(&self, now: UnixSeconds) -> Epochs {
        let known = self.known();
        let open = |at: usize| {
            let epoch = known.epochs.get(at).filter(|epoch| epoch.opened <= now + CLOCK_TOLERANCE)?;
            Some(OpenEpoch { number: epoch.opened, nonce: epoch.nonce })
        };
        Epochs { current: open(0), previous: open(1) }
    }

    /// Whether a new epoch should open.
    #[must_use]
    pub fn is_due(&self, now: UnixSeconds, period: u32) -> bool {
        let known = self.known();
        known.epochs.first().is_none_or(|last| {
            now >= last.opened.saturating_add(u64::from(period))
                || last.opened > now + CLOCK_TOLERANCE
                || last.opened < self.void_before
        })
    }

    /// Opens an epoch where one is due, and takes what the store has. What has changed: nothing, or the newest epoch, with
    /// whether this process opened it.
    ///
    /// # Errors
    /// [`StoreError`] where it could not be written.
    pub fn advance(&self, now: UnixSeconds, period: u32) -> Result<Option<bool>, StoreError> {
        let mut random = [0; 32];
        // Without random numbers no epoch opens; the one that is open goes on.
        let drawn = SystemRandom::new().fill(&mut random).is_ok();
        let latest = if drawn && self.is_due(now, period) {
            let (verifier, void_before) = (self.verifier, self.void_before);
            self.store.open_epoch(Opening { verifier, now, period, random, void_before })?
        } else {
            self.store.epochs()?
        };
        let opened_here = latest.opened_here;
        Ok(self.take(latest).then_some(opened_here))
    }

    /// Looks for an epoch that another process has opened just now; not often. Whether there is one.
    ///
    /// # Errors
    /// [`StoreError`] where it could not be read.
    pub fn look_again(&self) -> Result<bool, StoreError> {
        Ok(self.lookups.allows((), Instant::now()) && self.take(self.store.epochs()?))
    }

    /// Whether the newest is another than before.
    fn take(&self, latest: LatestEpochs) -> bool {
        let mut known = self.known.write().unwrap_or_else(PoisonError::into_inner);
        let newest = |latest: &LatestEpochs| latest.epochs.first().map(|epoch| epoch.number);
        // Two threads may have looked at once: the later answer need not be the newer one.
        if newest(&latest) < newest(&known) {
            return false;
        }
        let changed = newest(&latest) != newest(&known);
        *known = Arc::new(latest);
        changed
    }

    /// The open epoch, as all devices are told.
    #[must_use]
    pub fn message(&self, period: u32) -> Option<Epoch> {
        let known = self.known();
        let EpochRow { number, nonce, .. } = *known.epochs.first()?;
        let closed = known.epochs.get(2).map(|epoch| Closed { number: epoch.number, random: epoch.random });
        Some(Epoch { number, period, nonce, closed })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: UnixSeconds = 1_796_083_200;
    const PERIOD: u32 = 3600;
    const VERIFIER: VerifierKeyId = VerifierKeyId([1; 32]);

    struct Desk {
        dir: tempfile::TempDir,
    }

    impl Desk {
        fn new() -> Self {
            Self { dir: tempfile::tempdir().unwrap() }
        }

        fn calendar(&self) -> Calendar {
            Calendar::open(&Store::open(&self.dir.path().join("store.sqlite")).unwrap(), VERIFIER).unwrap()
        }
    }

    fn numbers(epochs: &Epochs) -> [Option<u64>; 2] {
        [epochs.current, epochs.previous].map(|epoch| epoch.map(|epoch| epoch.number))
    }

    #[test]
    fn current_and_previous_count_and_the_one_before_is_told() {
        let calendar = Desk::new().calendar();
        assert!(calendar.message(PERIOD).is_none() && calendar.is_due(NOW, PERIOD));
        let at = |n: u64| NOW + n * u64::from(PERIOD);
        let mut nonces = Vec::new();
        for n in 0..4 {
            assert_eq!(calendar.advance(at(n), PERIOD).unwrap(), Some(true));
            assert_eq!(calendar.advance(at(n) + 1, PERIOD).unwrap(), None);
            nonces.push(calendar.message(PERIOD).unwrap().nonce);
        }
        assert_eq!(numbers(&calendar.accepted(at(3))), [Some(at(3)), Some(at(2))]);
        let message = calendar.message(PERIOD).unwrap();
        let closed = message.closed.unwrap();
        assert_eq!((message.number, closed.number, closed.nonce(&VERIFIER)), (at(3), at(1), nonces[1]));
    }

    #[test]
    fn what_another_process_opens_is_found_at_once_but_not_looked_for_without_end() {
        let desk = Desk::new();
        let [a, b] = [desk.calendar(), desk.calendar()];
        a.advance(NOW, PERIOD).unwrap();
        assert!(b.look_again().unwrap());
        assert_eq!(b.message(PERIOD), a.message(PERIOD));
        assert!(!b.look_again().unwrap());
        a.advance(NOW + u64::from(PERIOD), PERIOD).unwrap();
        assert!(!b.look_again().unwrap(), "too often");
        assert_eq!(b.advance(NOW + u64::from(PERIOD), PERIOD).unwrap(), Some(false));
    }

    #[test]
    fn an_epoch_from_a_clock_that_was_ahead_counts_for_nothing_and_verdicts_count_from_the_opening() {
        let calendar = Desk::new().calendar();
        let year = 365 * 24 * 3600;
        calendar.advance(NOW + year, PERIOD).unwrap();
        assert_eq!(numbers(&calendar.accepted(NOW)), [None, None]);
        assert_eq!(calendar.advance(NOW, PERIOD).unwrap(), None, "a clock behind opens nothing");
        calendar.store.accept_clock(NOW).unwrap();
        assert_eq!(calendar.advance(NOW, PERIOD).unwrap(), Some(true));
        assert_eq!(calendar.message(PERIOD).unwrap().number, NOW + year + 1);
        assert_eq!(numbers(&calendar.accepted(NOW)), [Some(NOW), None]);
    }
}
