//! What somebody may cost this device: so much at once, then one more in each so long. No clock in here.

use std::time::{Duration, Instant};

/// A token bucket.
#[derive(Debug, Clone)]
pub(crate) struct Allowance {
    left: u32,
    most: u32,
    one_each: Duration,
    counted: Instant,
}

impl Allowance {
    /// `most` at once, then one each `one_each`.
    pub(crate) const fn new(most: u32, one_each: Duration, now: Instant) -> Self {
        Self { left: most, most, one_each, counted: now }
    }

    /// Takes `price`, where that is left.
    pub(crate) fn take(&mut self, price: u32, now: Instant) -> bool {
        self.refill(now);
        let left = self.left.checked_sub(price);
        self.left = left.unwrap_or(self.left);
        left.is_some()
    }

    /// When one is left: now, or later.
    pub(crate) fn next(&mut self, now: Instant) -> Instant {
        self.refill(now);
        if self.left > 0 { now } else { self.counted + self.one_each }
    }

    fn refill(&mut self, now: Instant) {
        let passed = now.saturating_duration_since(self.counted);
        let earned = passed.as_millis() / self.one_each.as_millis().max(1);
        let Ok(earned) = u32::try_from(earned) else {
            (self.left, self.counted) = (self.most, now);
            return;
        };
        if self.left.saturating_add(earned) >= self.most {
            (self.left, self.counted) = (self.most, now);
        } else {
            self.left += earned;
            self.counted += self.one_each * earned;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn so_much_at_once_and_then_one_each_so_long() {
        let begin = Instant::now();
        let second = Duration::from_secs(1);
        let mut allowance = Allowance::new(3, second, begin);
        assert!(!allowance.take(4, begin));
        assert!((0..3).all(|_| allowance.take(1, begin)) && !allowance.take(1, begin));
        assert_eq!(allowance.next(begin), begin + second);
        assert!(!allowance.take(1, begin + second / 2), "half of one is none");
        assert!(allowance.take(1, begin + second), "and is not lost");
        assert!(!allowance.take(1, begin + second));
        let later = begin + Duration::from_secs(1 << 40);
        assert!((0..3).all(|_| allowance.take(1, later)) && !allowance.take(1, later), "no more than at once");
    }
}
