//! Requests that no device can foresee: in go how often a day policy wants each to be asked and the time that went by, out
//! come the devices to ask now. No scan, no plan: each draw falls on any device alike.

use std::time::Instant;

use evidence::claims::DeviceId;
use ring::rand::{SecureRandom as _, SystemRandom};

use crate::{
    limits::MAX_BATCH,
    store::{Store, StoreError},
};

const DAY: f64 = 24.0 * 3600.0;

/// Counts what is owed.
#[derive(Debug, Default)]
pub struct Unannounced {
    last: Option<Instant>,
    owed: f64,
}

impl Unannounced {
    /// Devices to be asked at `now`, where each is to be asked `per_day` times a day on average.
    ///
    /// # Errors
    /// [`StoreError`] where the store could not be read.
    pub fn draw(&mut self, store: &Store, per_day: u32, now: Instant) -> Result<Vec<DeviceId>, StoreError> {
        let passed = self.last.replace(now).map_or(0.0, |last| now.saturating_duration_since(last).as_secs_f64());
        if per_day == 0 {
            return Ok(Vec::new());
        }
        // Exact far beyond any fleet's size.
        let rows = store.device_rows()? as f64;
        // Draws that fall on no device are part of the count, so that the rate of each device is as policy has it. What
        // was missed in a long pause is not made up for at once.
        self.owed = (self.owed + rows * f64::from(per_day) * passed / DAY).min(MAX_BATCH as f64);
        let mut devices = Vec::new();
        while self.owed >= 1.0 {
            self.owed -= 1.0;
            let mut random = [0; 8];
            if SystemRandom::new().fill(&mut random).is_ok() {
                devices.extend(store.device_at(u64::from_be_bytes(random))?);
            }
        }
        Ok(devices)
    }
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeMap, time::Duration};

    use super::*;
    use crate::store::tests::{id, registration, store};

    #[test]
    fn every_device_is_asked_as_often_as_policy_has_it_and_none_that_is_shut_out() {
        let (_dir, store) = store();
        for number in 1..=10 {
            store.register(registration(number)).unwrap();
        }
        store.revoke(id(10), "stolen", "test", 1).unwrap();
        let mut unannounced = Unannounced::default();
        let start = Instant::now();
        let mut asked: BTreeMap<DeviceId, u32> = BTreeMap::new();
        // Half a day in steps of an hour, 48 a day.
        for hour in 0..=12 {
            let now = start + Duration::from_secs(hour * 3600);
            for device in unannounced.draw(&store, 48, now).unwrap() {
                *asked.entry(device).or_default() += 1;
            }
        }
        assert!(!asked.contains_key(&id(10)));
        assert_eq!(asked.len(), 9, "{asked:?}");
        // 240 draws, each of ten rows alike: 24 each; ten times the spread is beyond chance.
        assert!(asked.values().all(|count| (1..=74).contains(count)), "{asked:?}");
        let total: u32 = asked.values().sum();
        assert!((170..=240).contains(&total), "{total}");
    }

    #[test]
    fn nobody_is_asked_where_policy_says_never_nor_in_an_empty_fleet_and_a_pause_is_not_made_up_for() {
        let (_dir, store) = store();
        let start = Instant::now();
        let day = start + Duration::from_secs(24 * 3600);
        let mut unannounced = Unannounced::default();
        unannounced.draw(&store, 288, start).unwrap();
        assert!(unannounced.draw(&store, 288, day).unwrap().is_empty());
        store.register(registration(1)).unwrap();
        unannounced.draw(&store, 0, day).unwrap();
        assert!(unannounced.draw(&store, 0, day + Duration::from_secs(24 * 3600)).unwrap().is_empty());
        let year = day + Duration::from_secs(365 * 24 * 3600);
        assert!(unannounced.draw(&store, 288, year).unwrap().len() <= MAX_BATCH);
    }
}
