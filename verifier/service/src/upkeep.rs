//! What a verifier does by itself, second by second: opens epochs and tells all devices, takes and renews keys, asks
//! devices unannounced. It runs between batches of messages, in the task that answers them.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use appraisal::UnixSeconds;
use evidence::{topic::BroadcastTopic, verifier_message::Purpose};

use crate::{
    http::SignedKeys,
    ingest::Verifier,
    keys::KeyError,
    limits::LOOK_AGAIN,
    mqtt::{Outgoing, Publisher},
    store::StoreError,
    unannounced::Unannounced,
};

/// The part of [`Verifier::ready`] that is up but wants an operator.
const KEYS_END: &str = "keys-end";
/// How often renewing keys is tried where the root is not at hand.
const RENEW_AGAIN: Duration = Duration::from_secs(3600);

/// What is remembered from one second to the next.
#[derive(Debug, Default)]
pub struct Upkeep {
    looked: Option<Instant>,
    told: bool,
    /// Of several processes, the one that opened the epoch asks unannounced.
    opened: bool,
    tried_to_renew: Option<Instant>,
    unannounced: Unannounced,
}

/// What looking after keys and epochs came to.
#[derive(Debug, Clone, Copy)]
struct Found {
    /// The newest epoch is another; whether it was opened here.
    epoch: Option<bool>,
    keys: bool,
}

impl Upkeep {
    /// Does what is due. What devices are to be sent comes back.
    pub async fn tick(&mut self, verifier: &Arc<Verifier>, publisher: &Publisher) -> Vec<Outgoing> {
        let Some(now) = verifier.time() else { return Vec::new() };
        let period = *verifier.period.borrow();
        let looked = self.looked.is_some_and(|at| at.elapsed() < Duration::from_secs(LOOK_AGAIN));
        if (!looked || verifier.calendar.is_due(now, period)) && self.look_after(verifier, now, period).await {
            verifier.tell_all(publisher);
            self.told = true;
        }
        if self.opened { self.ask(verifier).await } else { Vec::new() }
    }

    /// Whether there is something that devices do not know.
    async fn look_after(&mut self, verifier: &Arc<Verifier>, now: UnixSeconds, period: u32) -> bool {
        let renew =
            verifier.keys.is_renewal_due(now) && self.tried_to_renew.is_none_or(|tried| tried.elapsed() >= RENEW_AGAIN);
        if renew {
            self.tried_to_renew = Some(Instant::now());
        }
        let this = Arc::clone(verifier);
        let found = tokio::task::spawn_blocking(move || this.look_after(now, period, renew)).await;
        match found {
            Ok(Ok(found)) => {
                self.looked = Some(Instant::now());
                self.opened = found.epoch.unwrap_or(self.opened);
                found.keys || found.epoch.is_some() || !self.told
            }
            Ok(Err(error)) => {
                verifier.failed(&error);
                false
            }
            // Only the end of the program keeps it from ending.
            Err(_) => false,
        }
    }

    async fn ask(&mut self, verifier: &Arc<Verifier>) -> Vec<Outgoing> {
        let per_day = verifier.rules.borrow().policy.unannounced_per_day;
        let (mut unannounced, this) = (std::mem::take(&mut self.unannounced), Arc::clone(verifier));
        let drawn = tokio::task::spawn_blocking(move || {
            let devices = unannounced.draw(&this.store, per_day, Instant::now());
            (unannounced, devices)
        });
        let Ok((unannounced, devices)) = drawn.await else { return Vec::new() };
        self.unannounced = unannounced;
        let devices = devices.unwrap_or_else(|error| {
            verifier.failed(&error.into());
            Vec::new()
        });
        let request = |device| {
            verifier.metrics.requested("unannounced");
            verifier.request(device, true)
        };
        devices.iter().filter_map(request).collect()
    }
}

impl Verifier {
    /// Keys that other processes made, keys to be renewed, epochs that others opened or that are due.
    fn look_after(&self, now: UnixSeconds, period: u32, renew: bool) -> Result<Found, KeyError> {
        let mut keys = self.keys.refresh()?;
        if renew && self.keys.is_renewal_due(now) {
            match self.keys.rotate(now) {
                Ok(_) => keys = true,
                Err(KeyError::Store(error)) => return Err(error.into()),
                Err(error) => tracing::warn!(
                    "the keys that this verifier signs with end within {} days and are not renewed: {error}",
                    self.keys.current().signed().keys.not_after.saturating_sub(now) / (24 * 3600)
                ),
            }
        }
        self.ready.warn(KEYS_END, self.keys.is_renewal_due(now));
        let epoch = self.calendar.advance(now, period)?;
        self.guard.saw(self.calendar.latest());
        Ok(Found { epoch, keys })
    }

    /// Keys before what they sign.
    fn tell_all(&self, publisher: &Publisher) {
        let current = self.keys.current();
        let signed = current.signed();
        self.metrics.keys_end(signed.keys.not_after);
        let mut messages = vec![Outgoing {
            topic: BroadcastTopic::Keys(self.name.clone()).to_string(),
            payload: signed.message.clone(),
        }];
        if let Some(epoch) = self.calendar.message(*self.period.borrow()) {
            self.metrics.epoch(epoch.number);
            let topic = BroadcastTopic::Epoch(self.name.clone()).to_string();
            match current.seal(Purpose::Epoch, &epoch) {
                Ok(payload) => messages.push(Outgoing { topic, payload }),
                Err(error) => tracing::error!("{error}"),
            }
        }
        publisher.retain(messages);
    }

    /// New keys, told at once; everything that is sent later is signed by them.
    pub(crate) async fn rotate(self: &Arc<Self>, publisher: &Publisher) -> Result<Arc<SignedKeys>, String> {
        let now = self.time().ok_or("the system's clock is wrong, see the log")?;
        let this = Arc::clone(self);
        let rotated = tokio::task::spawn_blocking(move || this.keys.rotate(now)).await;
        let current = rotated.map_err(|_| "the service is ending".to_owned())?.map_err(|error| error.to_string())?;
        self.ready.warn(KEYS_END, false);
        self.tell_all(publisher);
        Ok(Arc::clone(current.signed()))
    }

    fn failed(&self, error: &KeyError) {
        if matches!(error, KeyError::Store(StoreError::Database { .. })) {
            self.metrics.store_failed();
        }
        self.say("upkeep", || error.to_string());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits::{KEYS_LIFETIME, KEYS_RENEWAL};

    const NOW: UnixSeconds = 1_796_083_200;
    const PERIOD: u32 = 3600;

    #[test]
    fn keys_are_renewed_in_time_and_where_the_root_is_away_an_operator_is_told_while_all_goes_on() {
        let dir = tempfile::tempdir().unwrap();
        let verifier = Verifier::in_folder(dir.path(), || NOW);
        let sequence = || verifier.keys.current().signed().keys.sequence;
        let (first, due) = (sequence(), NOW + KEYS_LIFETIME - KEYS_RENEWAL + 1);
        let root = dir.path().join("root-key.pem");
        let away = dir.path().join("away");
        std::fs::rename(&root, &away).unwrap();
        let found = verifier.look_after(due, PERIOD, true).unwrap();
        assert!(!found.keys && found.epoch == Some(true), "the epoch opens all the same");
        assert_eq!((sequence(), verifier.ready.warnings(), verifier.ready.missing()), (first, vec![KEYS_END], vec![]));
        std::fs::rename(&away, &root).unwrap();
        assert!(verifier.look_after(due + 1, PERIOD, true).unwrap().keys);
        assert_eq!((sequence(), verifier.ready.warnings()), (due + 1, vec![]));
    }

    #[test]
    fn what_another_process_rotates_and_opens_is_taken_from_the_store() {
        let dir = tempfile::tempdir().unwrap();
        let [a, b] = [(); 2].map(|()| Verifier::in_folder(dir.path(), || NOW));
        a.look_after(NOW, PERIOD, false).unwrap();
        b.look_after(NOW, PERIOD, false).unwrap();
        a.keys.rotate(NOW).unwrap();
        let later = NOW + u64::from(PERIOD);
        assert_eq!(a.look_after(later, PERIOD, false).unwrap().epoch, Some(true));
        let found = b.look_after(later, PERIOD, false).unwrap();
        assert!(found.keys && found.epoch == Some(false), "{found:?}");
        assert_eq!(a.keys.current().signed(), b.keys.current().signed());
        assert_eq!(a.calendar.message(PERIOD), b.calendar.message(PERIOD));
    }
}
