//! How often someone may ask: in goes who and when, out comes whether. A token bucket each, kept as the one instant at
//! which it would be full again, in a map that does not grow without bound.

use std::{
    collections::HashMap,
    hash::Hash,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

/// Tokens of a bucket, and how fast they come back.
#[derive(Debug, Clone, Copy)]
pub struct Rate {
    /// So many at once.
    pub burst: u32,
    /// Then one in this time.
    pub every: Duration,
}

/// One bucket for each of many.
#[derive(Debug)]
pub struct Limiter<K> {
    rate: Rate,
    most: usize,
    full_again: Mutex<HashMap<K, Instant>>,
}

impl<K: Eq + Hash> Limiter<K> {
    /// At most `most` are remembered at a time.
    #[must_use]
    pub fn new(rate: Rate, most: usize) -> Self {
        Self { rate, most, full_again: Mutex::default() }
    }

    /// Takes a token of `who`, if there is one.
    pub fn allows(&self, who: K, now: Instant) -> bool {
        let mut full_again = self.full_again.lock().unwrap_or_else(PoisonError::into_inner);
        if full_again.len() >= self.most && !full_again.contains_key(&who) {
            full_again.retain(|_, full| *full > now);
            // So many who are not done waiting are an attack: newcomers wait until some are.
            if full_again.len() >= self.most {
                return false;
            }
        }
        let full = full_again.entry(who).or_insert(now);
        let next = (*full).max(now) + self.rate.every;
        let allowed = next.duration_since(now) <= self.rate.every * self.rate.burst;
        if allowed {
            *full = next;
        }
        allowed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RATE: Rate = Rate { burst: 2, every: Duration::from_secs(10) };

    #[test]
    fn a_burst_passes_then_one_at_a_time_and_each_has_its_own() {
        let limiter = Limiter::new(RATE, 8);
        let start = Instant::now();
        let ask = |who, seconds| limiter.allows(who, start + Duration::from_secs(seconds));
        assert_eq!([ask('a', 0), ask('a', 0), ask('a', 0)], [true, true, false]);
        assert_eq!([ask('a', 9), ask('b', 9), ask('a', 10), ask('a', 10)], [false, true, true, false]);
        assert_eq!([ask('a', 100), ask('a', 100), ask('a', 100)], [true, true, false]);
    }

    #[test]
    fn strangers_without_end_take_no_memory_without_end() {
        let limiter = Limiter::new(RATE, 2);
        let start = Instant::now();
        assert!(limiter.allows(1, start) && limiter.allows(2, start) && limiter.allows(2, start));
        assert!(!limiter.allows(3, start), "no room");
        assert!(limiter.allows(1, start), "who is known is served");
        assert!(limiter.allows(3, start + Duration::from_secs(20)), "room again");
    }
}
