//! The epochs of one verifier: in go what it publishes, out comes the nonce that is open, and when to use it. A number
//! never goes back under the same keys: brokers keep messages, and bring old ones again.

use std::time::{Duration, Instant};

use evidence::{claims::Nonce, epoch::Epoch};

use crate::state::jitter;

/// Part of a period at its end in which nothing is begun: the message has to arrive before the verifier counts it as late.
const MARGIN_PART: u32 = 20;
/// Longest such part.
const LONGEST_MARGIN: Duration = Duration::from_secs(30);
/// Part of a period over which devices spread that come back after an outage.
const SPREAD_PART: u32 = 10;
/// Longest time over which they spread.
const LONGEST_SPREAD: Duration = Duration::from_secs(60);

/// How an epoch came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Arrival {
    /// As it opened.
    Live,
    /// Kept by the broker; the time by this device's clock, seconds since 1970. Used for nothing but choosing an instant.
    Kept(u64),
}

/// The open epoch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Open {
    pub(super) number: u64,
    pub(super) nonce: Nonce,
    pub(super) period: Duration,
    /// When evidence for it is due.
    pub(super) due: Instant,
    /// When the next opens, as far as this device can tell.
    pub(super) closes: Instant,
    /// Whether evidence for it was sent.
    pub(super) used: bool,
}

impl Open {
    /// What opens now. `before`: what was open before.
    pub(super) fn new(epoch: &Epoch, before: Option<&Self>, arrival: Arrival, now: Instant) -> Self {
        let Epoch { number, period, nonce, .. } = *epoch;
        let period = Duration::from_secs(period.into());
        let remaining = remaining(number, period, arrival);
        let missed = before.is_some_and(|before| before.missed_until(number));
        let within = if missed && arrival != Arrival::Live {
            spread(period)
        } else {
            remaining.saturating_sub((period / MARGIN_PART).min(LONGEST_MARGIN))
        };
        let used = before.is_some_and(|before| before.used && before.nonce == nonce);
        Self { number, nonce, period, due: now + jitter(within, 0.0), closes: now + remaining, used }
    }

    /// Whether an epoch went unanswered between this and the one that is `number`.
    fn missed_until(&self, number: u64) -> bool {
        !self.used || number > self.number.saturating_add(self.period.as_secs().saturating_mul(3) / 2)
    }

    /// Whether a verifier still takes evidence for it: as the current or as the previous.
    pub(super) fn is_taken(&self, now: Instant) -> bool {
        now < self.closes + self.period
    }
}

/// What remains of a period. A clock that can't be right gives half of it: that is over before the nonce is.
fn remaining(number: u64, period: Duration, arrival: Arrival) -> Duration {
    match arrival {
        Arrival::Live => period,
        Arrival::Kept(clock) => {
            let age = clock.checked_sub(number).map(Duration::from_secs);
            age.and_then(|age| period.checked_sub(age)).unwrap_or(period / 2)
        }
    }
}

/// Time over which devices spread that come back at once.
pub(super) fn spread(period: Duration) -> Duration {
    (period / SPREAD_PART).min(LONGEST_SPREAD)
}
