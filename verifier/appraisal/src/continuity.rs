//! From one quote to the next: in go counters, log positions and times; out comes whether the boot went on, which starts of
//! the TPM nobody saw, whether its clock kept pace with time, and what is covered without a gap.

use evidence::tpm::Counters;
use serde::{Deserialize, Serialize};

use crate::{
    UnixSeconds,
    state::{BootState, Track},
};

/// Log positions that explained a quote. They tell a resume from a boot: PCRs keep their values through TPM Resume and
/// lose them at TPM Restart and TPM Reset (TPM 2.0 Part 1, TPM2_Startup), so a boot that goes on has a log that passes through
/// these very values.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Anchor {
    pub(crate) runtime: Track,
    pub(crate) ima: Track,
}

impl Anchor {
    /// Nothing was extended yet: every boot of the same software passes here.
    pub(crate) const fn is_trivial(&self) -> bool {
        self.runtime.next == 0 && self.ima.next == 0
    }
}

/// The logs show that the boot held is over: what they lead to began anew.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct AnotherBoot;

/// How evidence relates to the boot that is held.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Course {
    /// There is none, or the TPM was cleared: nothing leads from there to here.
    New,
    /// It is the same.
    Same,
    /// The TPM started again within resetCount: a resume if the logs go on, else a boot.
    Restarted,
    /// The TPM was reset.
    Reset,
}

impl Course {
    pub(crate) fn of(held: Option<&BootState>, counters: &Counters, clears: bool) -> Self {
        match held {
            Some(held) if clears || counters.reset < held.reset => Self::New,
            Some(held) if counters.reset > held.reset => Self::Reset,
            Some(held) if counters.restart != held.restart => Self::Restarted,
            Some(_) => Self::Same,
            None => Self::New,
        }
    }
}

/// Starts of the TPM between the boot held and one that began anew, of which nothing is known.
///
/// resetCount counts each TPM Reset, so all but the last went unseen. restartCount counts TPM Restart and TPM Resume
/// since: whoever was started in between chooses between them and a reset by how it shuts down (TPM2_Shutdown), so each
/// of these counts too. A device that sleeps before its first evidence has a policy that allows for it.
pub(crate) fn unseen_before(held: &BootState, counters: &Counters) -> u32 {
    match counters.reset.checked_sub(held.reset) {
        Some(0) => {
            let last_seen = held.resumed_from.unwrap_or(held.restart);
            counters.restart.saturating_sub(last_seen).saturating_sub(1)
        }
        Some(resets) => resets.saturating_sub(1).saturating_add(counters.restart),
        None => 0,
    }
}

impl BootState {
    /// The boot as it goes on if the TPM only resumed: from where its logs last explained a quote, since entries taken in
    /// after that are nobody's word yet.
    pub(crate) fn resumed(&self, counters: &Counters) -> Self {
        let mut boot = self.clone();
        Anchor { runtime: boot.runtime, ima: boot.ima } = self.explained();
        boot.anchor = None;
        boot.restart = counters.restart;
        boot.resumed_from = Some(self.resumed_from.unwrap_or(self.restart));
        // The clock may have stood still meanwhile.
        boot.pace = None;
        boot
    }

    /// Where the logs last explained a quote.
    pub(crate) fn explained(&self) -> Anchor {
        self.anchor.unwrap_or(Anchor { runtime: self.runtime, ima: self.ima })
    }

    /// Remembers where the logs explained a quote: here, if they do now; else where they did.
    pub(crate) fn set_explained(&mut self, before: Anchor, now: bool) {
        let here = Anchor { runtime: self.runtime, ima: self.ima };
        self.anchor = (!now && here != before).then_some(before);
    }

    /// Takes a quote into what is covered. `covered` where the logs explain it and nothing contradicts; `lapsed` where the
    /// verdict had expired before. Returns what ended with it.
    ///
    /// Nothing is claimed of the time between: the quote may have been made as early as its nonce allows.
    pub(crate) fn cover(&mut self, covered: bool, lapsed: bool, when: &When) -> Option<Interval> {
        let closed = if lapsed { self.attested.take() } else { None };
        if covered {
            let Interval { from, until } =
                self.attested.unwrap_or(Interval { from: when.received, until: when.received });
            self.attested = Some(Interval { from, until: until.max(when.not_older_than) });
        }
        closed
    }

    /// Whether the TPM's clock kept pace with time, by this quote against the last and the first since the TPM started.
    pub(crate) fn keeps_pace(&mut self, clock: u64, when: &When) -> bool {
        let tick = Tick { clock, opened: when.not_older_than, received: when.received };
        // Readings of a clock that has been set meanwhile say nothing of the time between.
        let comparable = self.pace.filter(|pace| pace.last.received >= when.steady_since);
        let Pace { first, last } = comparable.unwrap_or(Pace { first: tick, last: tick });
        let first = if first.received >= when.steady_since { first } else { last };
        self.pace = Some(Pace { first, last: tick });
        tick.keeps_pace_since(&last) && tick.keeps_pace_since(&first)
    }
}

/// When a quote was made: not before the one, not after the other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct When {
    pub(crate) not_older_than: UnixSeconds,
    pub(crate) received: UnixSeconds,
    /// Since when the verifier's clock has run without being set.
    pub(crate) steady_since: UnixSeconds,
}

/// Time covered without a gap.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Interval {
    pub(crate) from: UnixSeconds,
    pub(crate) until: UnixSeconds,
}

/// The first and the last quote since the TPM started.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Pace {
    first: Tick,
    last: Tick,
}

/// A reading of the TPM's clock, and between which instants it was made. Short names, since every device has two.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
struct Tick {
    #[serde(rename = "c")]
    clock: u64,
    #[serde(rename = "o")]
    opened: UnixSeconds,
    #[serde(rename = "r")]
    received: UnixSeconds,
}

/// How fast a TPM's clock may go, percent of time: it stays within 32.5 % whatever TPM2_ClockRateAdjust did (TPM 2.0
/// Part 1, Timing Components), and a little.
const FASTEST: u64 = 135;
const SLOWEST: u64 = 65;
/// Instants come from the clocks of a verifier's processes, in whole seconds: they may differ by so much, milliseconds.
const SLACK: u64 = 10_000;

impl Tick {
    fn keeps_pace_since(&self, earlier: &Self) -> bool {
        // Neither quote's instant is known, only its bounds: what is possible is no accusation.
        let at_most = self.received.saturating_sub(earlier.opened);
        let at_least = self.opened.saturating_sub(earlier.received);
        let advanced = self.clock.saturating_sub(earlier.clock);
        // 1,000 milliseconds per second, in hundredths: tenfold the percentage.
        let highest = at_most.saturating_mul(FASTEST.saturating_mul(10)).saturating_add(SLACK);
        let lowest = at_least.saturating_mul(SLOWEST.saturating_mul(10)).saturating_sub(SLACK);
        (lowest..=highest).contains(&advanced)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tick(seconds: u64, pace: u64, opened: u64, received: u64) -> Tick {
        Tick { clock: 1_000_000 + seconds * pace, opened: 1_000_000 + opened, received: 1_000_000 + received }
    }

    #[test]
    fn a_clock_within_a_third_of_time_keeps_pace_and_one_beyond_does_not() {
        let first = tick(0, 1000, 0, 1);
        for (pace, keeps) in [(0, false), (500, false), (670, true), (1000, true), (1330, true), (1500, false)] {
            let later = tick(3600, pace, 3600, 3601);
            assert_eq!(later.keeps_pace_since(&first), keeps, "{pace} ms per second");
        }
    }

    #[test]
    fn a_verifier_s_clock_that_was_set_accuses_no_tpm_and_excuses_none_afterwards() {
        let mut boot = BootState::new(&Counters { reset: 1, restart: 0, clock: 0 });
        let mut keeps = |clock: u64, time: u64, steady_since: u64| {
            boot.keeps_pace(clock * 1000, &When { not_older_than: time, received: time + 1, steady_since })
        };
        assert!(keeps(0, 1000, 0));
        assert!(keeps(600, 1600, 0));
        // The clock is set an hour ahead.
        assert!(keeps(1200, 5800, 5700));
        assert!(keeps(1800, 6400, 5700));
        assert!(!keeps(9000, 7000, 5700));
    }

    #[test]
    fn what_may_have_waited_is_given_the_benefit_of_its_bounds() {
        let kept_for_an_hour = tick(0, 1000, 0, 3600);
        for made in [1, 1800, 3600] {
            let later = tick(made, 1000, 1, 3601);
            assert!(later.keeps_pace_since(&kept_for_an_hour), "made after {made} s");
        }
        assert!(!tick(7200, 1000, 1, 3601).keeps_pace_since(&kept_for_an_hour));
    }

    #[test]
    fn clocks_of_processes_that_differ_by_seconds_accuse_nobody() {
        let first = tick(0, 1000, 3, 3);
        assert!(tick(1, 1000, 0, 0).keeps_pace_since(&first));
        assert!(tick(6, 1000, 12, 12).keeps_pace_since(&first));
    }

    #[test]
    fn no_instant_makes_arithmetic_fail() {
        let ends = [0, 1, u64::MAX];
        for clock in ends {
            for opened in ends {
                for received in ends {
                    let tick = Tick { clock, opened, received };
                    let _ = tick.keeps_pace_since(&Tick { clock: 0, opened: 0, received: 0 });
                    let _ = Tick { clock: 0, opened: 0, received: 0 }.keeps_pace_since(&tick);
                }
            }
        }
    }

    fn counters(reset: u32, restart: u32) -> Counters {
        Counters { reset, restart, clock: 0 }
    }

    #[test]
    fn each_start_but_the_last_is_unseen_whoever_chose_how_to_shut_down() {
        let held = BootState::new(&counters(5, 2));
        for (reset, restart, unseen) in
            [(6, 0, 0), (6, 1, 1), (7, 0, 1), (9, 2, 5), (5, 3, 0), (5, 6, 3), (u32::MAX, u32::MAX, u32::MAX)]
        {
            assert_eq!(unseen_before(&held, &counters(reset, restart)), unseen, "{reset}, {restart}");
        }
    }

    #[test]
    fn an_interval_grows_by_quotes_that_logs_explain_and_ends_where_the_verdict_lapsed() {
        let mut boot = BootState::new(&counters(1, 0));
        let when = |not_older_than, received| When { not_older_than, received, steady_since: 0 };
        assert_eq!(boot.cover(false, false, &when(90, 91)), None);
        assert_eq!(boot.attested(), None);
        boot.cover(true, false, &when(100, 101));
        assert_eq!(boot.attested, Some(Interval { from: 101, until: 101 }));
        boot.cover(true, false, &when(200, 230));
        boot.cover(false, false, &when(300, 301));
        assert_eq!(boot.attested, Some(Interval { from: 101, until: 200 }));
        assert_eq!(boot.cover(true, true, &when(900, 901)), Some(Interval { from: 101, until: 200 }));
        assert_eq!(boot.attested, Some(Interval { from: 901, until: 901 }));
    }
}
