//! Epochs as all processes of one verifier share them, and the highest time that any of them has seen. The first writer
//! opens an epoch; whoever comes later finds it open.
//!
//! The highest time is taken down where an epoch opens, not with every message: a clock that jumps and comes back between
//! two openings leaves nothing here.

use appraisal::{DeviceState, UnixSeconds};
use evidence::{claims::Nonce, epoch, verifier_message::VerifierKeyId};
use rusqlite::{Connection, OptionalExtension as _, params};

use super::{Sql, Store, StoreError, commit::UPDATE_TIMES, decode, encode, signed, unsigned};
use crate::limits::CLOCK_TOLERANCE;

/// Name of the mark that is the highest time seen.
const CLOCK: &str = "clock";
/// The open epoch, the one before, and the one whose random bytes may be told.
const KEPT_IN_VIEW: i64 = 3;

/// An epoch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EpochRow {
    /// Its number: when it opened, or the next number where an earlier epoch opened by a clock that was ahead.
    pub number: u64,
    /// When it opened.
    pub opened: UnixSeconds,
    /// What its nonce is made of.
    pub random: [u8; 32],
    /// What quotes are made for.
    pub nonce: Nonce,
}

/// The latest epochs, newest first, and the highest time seen.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct LatestEpochs {
    /// At most three.
    pub epochs: Vec<EpochRow>,
    /// At which an epoch opened; a clock behind it is wrong.
    pub latest: UnixSeconds,
    /// Whether this call opened the newest.
    pub opened_here: bool,
}

/// An epoch to be opened.
#[derive(Debug, Clone, Copy)]
pub struct Opening {
    /// Whose.
    pub verifier: VerifierKeyId,
    /// By this process's clock.
    pub now: UnixSeconds,
    /// How long an epoch lasts, seconds.
    pub period: u32,
    /// Fresh random bytes.
    pub random: [u8; 32],
    /// Epochs that opened before are void: the store was restored then.
    pub void_before: UnixSeconds,
}

impl Store {
    /// The latest epochs.
    ///
    /// # Errors
    /// [`StoreError`] where they could not be read.
    pub fn epochs(&self) -> Result<LatestEpochs, StoreError> {
        self.read(latest)
    }

    /// Opens an epoch where none is open any more. A clock behind the highest time seen opens none.
    ///
    /// # Errors
    /// [`StoreError`] where it could not be written.
    pub fn open_epoch(&self, opening: Opening) -> Result<LatestEpochs, StoreError> {
        self.write(1, move |c| {
            let found = latest(c)?;
            if found.latest > opening.now + CLOCK_TOLERANCE || !is_due(found.epochs.first(), &opening) {
                return Ok(found);
            }
            let number = found.epochs.first().map_or(opening.now, |last| opening.now.max(last.number + 1));
            let nonce = epoch::nonce(&opening.verifier, number, &opening.random);
            c.execute(
                "INSERT INTO epoch (number, opened, random, nonce) VALUES (?1, ?2, ?3, ?4)",
                params![signed(number), signed(opening.now), opening.random, nonce],
            )?;
            set_clock(c, found.latest.max(opening.now))?;
            Ok(LatestEpochs { opened_here: true, ..latest(c)? })
        })
    }

    /// An operator's word that `now` is the time, although a later one was seen.
    ///
    /// # Errors
    /// [`StoreError`] where it could not be written.
    pub fn accept_clock(&self, now: UnixSeconds) -> Result<(), StoreError> {
        self.write(1, move |c| accept_clock(c, now))
    }

    /// Ends verdicts from before the store was restored: what has become of those devices since, it does not know.
    ///
    /// # Errors
    /// [`StoreError`] where they could not be written.
    pub fn void_verdicts(&self, restored: UnixSeconds) -> Result<(), StoreError> {
        self.write(1, move |c| {
            let sql = "SELECT EXISTS (SELECT 1 FROM device WHERE judged < ?1 AND expires > ?1)";
            if !c.query_row(sql, [signed(restored)], |row| row.get(0))? {
                return Ok(());
            }
            rewrite_states(c, |state| {
                let outlasts = state.judged < restored && state.expires > restored;
                if outlasts {
                    state.expires = restored;
                }
                outlasts
            })
        })
    }
}

/// An operator's word that `now` is the time although a later one was seen: nothing that was written down with a later
/// time may outlast it. Secrets go, for nonces that were issued with a later time would be good until then.
fn accept_clock(c: &Connection, now: UnixSeconds) -> Sql<()> {
    set_clock(c, now)?;
    // When the store was restored, too: nothing issued before that counts.
    c.execute("UPDATE mark SET at = ?1 WHERE at > ?1", [signed(now)])?;
    c.execute("DELETE FROM secret", [])?;
    c.execute("DELETE FROM enrolment_key", [])?;
    for column in ["since", "approved_at", "revoked_at", "key_changed", "denied_at"] {
        c.execute(&format!("UPDATE registration SET {column} = ?1 WHERE {column} > ?1"), [signed(now)])?;
    }
    rewrite_states(c, |state| {
        let ahead = state.judged > now || state.since > now || state.cleared.is_some_and(|at| at > now);
        if state.judged > now {
            state.expires = state.expires.min(now);
        }
        state.judged = state.judged.min(now);
        state.since = state.since.min(now);
        state.not_older_than = state.not_older_than.min(now);
        state.cleared = state.cleared.map(|at| at.min(now));
        for finding in state.boot.findings.iter_mut().chain(&mut state.compromised) {
            finding.since = finding.since.min(now);
        }
        ahead
    })
}

/// Writes those states again that `change` says it has changed.
fn rewrite_states(c: &Connection, mut change: impl FnMut(&mut DeviceState) -> bool) -> Sql<()> {
    let mut after = 0;
    loop {
        let mut select =
            c.prepare_cached("SELECT device, state FROM device_state WHERE device > ?1 ORDER BY device LIMIT 1")?;
        let next =
            select.query_row([after], |row| Ok((row.get::<_, i64>(0)?, row.get::<_, Vec<u8>>(1)?))).optional()?;
        let Some((device, blob)) = next else { return Ok(()) };
        after = device;
        let mut state: DeviceState = decode("device state", &blob)?;
        if change(&mut state) {
            c.prepare_cached("UPDATE device_state SET state = ?2 WHERE device = ?1")?
                .execute(params![device, encode("device state", &state)?])?;
            c.prepare_cached(UPDATE_TIMES)?.execute(params![device, signed(state.judged), signed(state.expires)])?;
        }
    }
}

/// An epoch from the future opened by a wrong clock: nobody waits for its end.
fn is_due(last: Option<&EpochRow>, opening: &Opening) -> bool {
    last.is_none_or(|last| {
        let open = last.opened <= opening.now + CLOCK_TOLERANCE
            && opening.now < last.opened.saturating_add(u64::from(opening.period));
        !open || last.opened < opening.void_before
    })
}

pub(super) fn set_clock(c: &Connection, at: UnixSeconds) -> Sql<()> {
    c.execute(
        "INSERT INTO mark (name, at) VALUES (?1, ?2) ON CONFLICT (name) DO UPDATE SET at = excluded.at",
        params![CLOCK, signed(at)],
    )
    .map(drop)
}

fn latest(c: &Connection) -> Sql<LatestEpochs> {
    let clock: Option<i64> =
        c.prepare_cached("SELECT at FROM mark WHERE name = ?1")?.query_row([CLOCK], |row| row.get(0)).optional()?;
    let mut select =
        c.prepare_cached("SELECT number, opened, random, nonce FROM epoch ORDER BY number DESC LIMIT ?1")?;
    let epochs = select.query_map([KEPT_IN_VIEW], |row| {
        Ok(EpochRow {
            number: unsigned(row.get(0)?),
            opened: unsigned(row.get(1)?),
            random: row.get(2)?,
            nonce: row.get(3)?,
        })
    })?;
    Ok(LatestEpochs { epochs: epochs.collect::<Sql<_>>()?, latest: clock.map_or(0, unsigned), opened_here: false })
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::store::tests::{accepted, id, registration};

    const NOW: UnixSeconds = crate::store::tests::NOW;
    const PERIOD: u32 = 3600;

    fn store(dir: &Path) -> Store {
        Store::open(&dir.join("store.sqlite")).unwrap()
    }

    fn opening(now: UnixSeconds, random: u8) -> Opening {
        Opening { verifier: VerifierKeyId([1; 32]), now, period: PERIOD, random: [random; 32], void_before: 0 }
    }

    fn numbers(latest: &LatestEpochs) -> Vec<u64> {
        latest.epochs.iter().map(|epoch| epoch.number).collect()
    }

    #[test]
    fn of_two_processes_the_first_opens_the_epoch_and_the_other_finds_it() {
        let dir = tempfile::tempdir().unwrap();
        let [a, b] = [(); 2].map(|()| store(dir.path()));
        let first = a.open_epoch(opening(NOW, 1)).unwrap();
        let second = b.open_epoch(opening(NOW + 1, 2)).unwrap();
        assert!(first.opened_here && !second.opened_here);
        assert_eq!((&first.epochs, first.latest), (&second.epochs, NOW));
        assert_eq!(first.epochs[0].nonce, epoch::nonce(&VerifierKeyId([1; 32]), NOW, &[1; 32]));
        assert_eq!(a.epochs().unwrap(), second);
    }

    #[test]
    fn an_epoch_lasts_its_period_and_the_latest_three_are_in_view() {
        let dir = tempfile::tempdir().unwrap();
        let store = store(dir.path());
        for (after, known) in [(0, 1), (3599, 1), (3600, 2), (9000, 3), (20_000, 3)] {
            assert_eq!(store.open_epoch(opening(NOW + after, 1)).unwrap().epochs.len(), known, "{after}");
        }
        assert_eq!(numbers(&store.epochs().unwrap()), [NOW + 20_000, NOW + 9000, NOW + 3600]);
    }

    #[test]
    fn a_shorter_period_counts_from_when_the_epoch_opened() {
        let dir = tempfile::tempdir().unwrap();
        let store = store(dir.path());
        store.open_epoch(opening(NOW, 1)).unwrap();
        let short = |now| Opening { period: 60, ..opening(now, 2) };
        assert!(!store.open_epoch(short(NOW + 59)).unwrap().opened_here);
        assert!(store.open_epoch(short(NOW + 60)).unwrap().opened_here);
    }

    #[test]
    fn a_clock_behind_the_highest_time_seen_opens_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let store = store(dir.path());
        store.open_epoch(opening(NOW, 1)).unwrap();
        let behind = store.open_epoch(Opening { void_before: NOW + 1, ..opening(NOW - 60, 2) }).unwrap();
        assert!(!behind.opened_here && behind.latest == NOW);
    }

    #[test]
    fn epochs_from_before_a_restore_are_followed_at_once() {
        let dir = tempfile::tempdir().unwrap();
        let store = store(dir.path());
        store.open_epoch(opening(NOW, 1)).unwrap();
        let restored = Opening { void_before: NOW + 5, ..opening(NOW + 5, 2) };
        assert!(store.open_epoch(restored).unwrap().opened_here);
        assert!(!store.open_epoch(restored).unwrap().opened_here, "once");
    }

    #[test]
    fn the_number_never_goes_back_where_a_clock_was_ahead_once() {
        let dir = tempfile::tempdir().unwrap();
        let store = store(dir.path());
        let year = 365 * 24 * 3600;
        store.open_epoch(opening(NOW + year, 1)).unwrap();
        store.accept_clock(NOW).unwrap();
        let opened = store.open_epoch(opening(NOW, 2)).unwrap();
        assert_eq!((opened.epochs[0].number, opened.epochs[0].opened, opened.latest), (NOW + year + 1, NOW, NOW));
        assert!(!store.open_epoch(opening(NOW + 1, 3)).unwrap().opened_here);
    }

    #[test]
    fn what_was_written_down_by_a_clock_that_was_ahead_ends_with_it_and_the_rest_stays() {
        let dir = tempfile::tempdir().unwrap();
        let store = store(dir.path());
        let year = 365 * 24 * 3600;
        for number in [1, 2] {
            store.register(registration(number)).unwrap();
        }
        let ahead = {
            let mut ahead = accepted(1, 1, None);
            let state = &mut ahead.appraisal.state;
            (state.judged, state.expires, state.since) = (NOW + year, NOW + year + 100, NOW + year);
            ahead
        };
        let right = accepted(2, 1, None);
        store.commit(vec![ahead, right.clone()]).unwrap();
        let secret = store.secret("challenge").unwrap();
        store.accept_clock(NOW + 10).unwrap();
        let state = store.state(id(1)).unwrap().unwrap();
        assert_eq!((state.judged, state.expires, state.since), (NOW + 10, NOW + 10, NOW + 10));
        assert_eq!(store.state(id(2)).unwrap().unwrap(), right.appraisal.state);
        assert_ne!(store.secret("challenge").unwrap(), secret, "nonces from the future are nobody's");
        assert_eq!(store.epochs().unwrap().latest, NOW + 10);
    }

    #[test]
    fn a_restore_by_a_clock_that_was_ahead_voids_nothing_until_then() {
        let dir = tempfile::tempdir().unwrap();
        let store = store(dir.path());
        let year = 365 * 24 * 3600;
        let mark = "INSERT OR REPLACE INTO mark (name, at) VALUES ('restored', ?1)";
        for (restored, stands) in [(NOW + year, NOW + 10), (NOW + 5, NOW + 5)] {
            store.write(1, move |c| c.execute(mark, [signed(restored)])).unwrap();
            store.accept_clock(NOW + 10).unwrap();
            assert_eq!(store.restored_at().unwrap(), Some(stands));
        }
    }

    #[test]
    fn verdicts_from_before_a_restore_end_with_it() {
        let dir = tempfile::tempdir().unwrap();
        let store = store(dir.path());
        store.register(registration(1)).unwrap();
        let judged = accepted(1, 1, None);
        let (was, until) = (judged.appraisal.state.judged, judged.appraisal.state.expires);
        store.commit(vec![judged]).unwrap();
        store.void_verdicts(was).unwrap();
        assert_eq!(store.state(id(1)).unwrap().unwrap().expires, until, "judged since");
        store.void_verdicts(was + 1).unwrap();
        assert_eq!(store.state(id(1)).unwrap().unwrap().expires, was + 1);
        assert_eq!(store.fleet(was + 2).unwrap().overdue, 1);
    }
}
