//! Whether the system's clock may be judged by. In go its readings, out comes the time, or what is wrong with it.
//!
//! A clock behind what this verifier has seen already is wrong, for as long as it is. A clock that leaps ahead is not
//! believed before it has run on for a while: what opens by it (an epoch) would make every right clock wrong afterwards.
//! That one was set wrong before this program began shows only against the store.

use std::{
    fmt,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use appraisal::UnixSeconds;

use crate::limits::{CLOCK_LEAP, CLOCK_SETTLES, CLOCK_TOLERANCE};

/// The system's clock is not judged by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClockWrong {
    /// So many seconds behind the highest time seen.
    Behind(u64),
    /// It leapt ahead by so many seconds.
    Leapt(u64),
}

impl fmt::Display for ClockWrong {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Behind(by) => write!(
                f,
                "the system's clock is {by} seconds behind a time that this verifier has seen already; nothing is judged \
                 until it is right. If the earlier time was the wrong one, start once with `verifier serve --accept-clock`"
            ),
            Self::Leapt(by) => write!(
                f,
                "the system's clock leapt ahead by {by} seconds; nothing is judged before it has run on for {CLOCK_SETTLES} \
                 seconds"
            ),
        }
    }
}

/// A reading that is believed, and when it was taken by the clock that nobody sets.
#[derive(Debug, Clone, Copy)]
struct Reading {
    at: Instant,
    time: UnixSeconds,
}

/// Watches the clock.
#[derive(Debug)]
pub struct ClockGuard(Mutex<State>);

#[derive(Debug)]
struct State {
    believed: Reading,
    highest: UnixSeconds,
    /// First reading since this program began or the clock was set.
    steady_since: UnixSeconds,
    /// Since when it has been ahead.
    leapt: Option<Instant>,
}

impl ClockGuard {
    /// Begins with a reading, which only `highest`, the highest time seen before, can contradict.
    #[must_use]
    pub fn new(time: UnixSeconds, highest: UnixSeconds) -> Self {
        let believed = Reading { at: Instant::now(), time };
        Self(Mutex::new(State { believed, highest, steady_since: time, leapt: None }))
    }

    /// Another process has seen this time.
    pub fn saw(&self, time: UnixSeconds) {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        state.highest = state.highest.max(time);
    }

    /// Since when the clock has run without being set, as far as this program can tell.
    #[must_use]
    pub fn steady_since(&self) -> UnixSeconds {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).steady_since
    }

    /// The time, where this reading of the clock may be judged by.
    ///
    /// # Errors
    /// [`ClockWrong`] where it may not.
    pub fn check(&self, time: UnixSeconds) -> Result<UnixSeconds, ClockWrong> {
        self.check_at(Reading { at: Instant::now(), time })
    }

    /// For tests, whose time passes in leaps.
    #[cfg(test)]
    pub(crate) fn believe(&self, time: UnixSeconds) {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        state.believed = Reading { at: Instant::now(), time };
    }

    fn check_at(&self, now: Reading) -> Result<UnixSeconds, ClockWrong> {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if now.time + CLOCK_TOLERANCE < state.highest {
            state.leapt = None;
            return Err(ClockWrong::Behind(state.highest - now.time));
        }
        let passed = now.at.saturating_duration_since(state.believed.at).as_secs();
        let expected = state.believed.time.max(state.highest).saturating_add(passed);
        if now.time > expected + CLOCK_LEAP {
            let since = *state.leapt.get_or_insert(now.at);
            if now.at.saturating_duration_since(since) < Duration::from_secs(CLOCK_SETTLES) {
                return Err(ClockWrong::Leapt(now.time - expected));
            }
        }
        // Set by more than what clocks drift: what is measured across that is no time that passed.
        let by_itself = state.believed.time.saturating_add(passed);
        if now.time.abs_diff(by_itself) > CLOCK_TOLERANCE {
            state.steady_since = now.time;
        }
        state.leapt = None;
        state.believed = now;
        state.highest = state.highest.max(now.time);
        Ok(now.time)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: UnixSeconds = 1_796_083_200;

    /// A guard, and readings of a clock that shows `NOW + time` when `at` seconds have passed.
    fn guard(highest: UnixSeconds) -> (ClockGuard, impl Fn(u64, i64) -> Reading) {
        let guard = ClockGuard::new(NOW, highest);
        let start = guard.0.lock().unwrap().believed.at;
        let reading = move |at, time| Reading {
            at: start + Duration::from_secs(at),
            time: NOW.checked_add_signed(time).unwrap(),
        };
        (guard, reading)
    }

    #[test]
    fn a_clock_behind_the_highest_time_seen_is_wrong_until_it_is_right() {
        let (guard, reading) = guard(NOW + 100);
        assert_eq!(guard.check_at(reading(1, 1)), Err(ClockWrong::Behind(99)));
        assert_eq!(guard.check_at(reading(2, 100)), Ok(NOW + 100));
        assert_eq!(guard.check_at(reading(3, 96)), Ok(NOW + 96), "a few seconds are no matter");
        guard.saw(NOW + 500);
        assert_eq!(guard.check_at(reading(4, 101)), Err(ClockWrong::Behind(399)));
    }

    #[test]
    fn a_clock_is_steady_since_it_was_last_set() {
        let (guard, reading) = guard(NOW);
        for (at, time, since) in
            [(1, 1, 0), (100, 103, 0), (200, 260, 260), (300, 361, 260), (400, 458, 260), (500, 470, 470)]
        {
            let _ = guard.check_at(reading(at, time));
            assert_eq!(guard.steady_since(), NOW + since, "{at} s");
        }
    }

    #[test]
    fn a_clock_set_back_is_wrong_by_what_this_process_has_seen() {
        let (guard, reading) = guard(0);
        assert!(guard.check_at(reading(1000, 1000)).is_ok());
        assert_eq!(guard.check_at(reading(1001, -3600)), Err(ClockWrong::Behind(4600)));
        assert!(guard.check_at(reading(1002, 1002)).is_ok());
    }

    #[test]
    fn a_leap_that_is_taken_back_leaves_nothing() {
        let (guard, reading) = guard(0);
        for at in [1, 30, 60] {
            assert!(matches!(guard.check_at(reading(at, 86_400)), Err(ClockWrong::Leapt(_))), "{at}");
        }
        assert_eq!(guard.check_at(reading(61, 61)), Ok(NOW + 61));
        assert!(matches!(guard.check_at(reading(62, 86_400)), Err(ClockWrong::Leapt(_))), "it counts anew");
    }

    #[test]
    fn a_clock_that_stays_where_it_leapt_is_believed() {
        let (guard, reading) = guard(0);
        assert!(guard.check_at(reading(1, 86_400)).is_err());
        assert_eq!(guard.check_at(reading(61, 86_460)), Ok(NOW + 86_460));
    }

    #[test]
    fn time_that_passes_unwatched_is_no_leap() {
        let (guard, reading) = guard(0);
        assert!(guard.check_at(reading(86_400, 86_400)).is_ok());
    }
}
