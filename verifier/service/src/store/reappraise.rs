//! New rules, held against what is known. In go outcomes, one a posture: every query shows them from that transaction on.
//! Rows, history and results follow in pages; what has come of a device meanwhile wins. The last of them takes the outcomes
//! away again, so that whatever ends the program in between leaves a store that says the same, and can go on.

use std::collections::HashMap;

use appraisal::{DeviceState, UnixSeconds, Verdict, cause::tell_the_same};
use evidence::claims::DeviceId;
use rusqlite::{Connection, OptionalExtension as _, params};

use super::{
    Sql, Store, StoreError, What,
    commit::{Entry, append, prune},
    encode,
    postures::{self, Representative},
    signed,
    standing::{self, COLUMNS, Filed, Stands},
    unsigned, verdict_number,
};

/// What re-appraising came to for a posture.
pub struct Outcome {
    posture: i64,
    filed: Filed,
    state: Vec<u8>,
    release: Option<String>,
}

impl Outcome {
    /// For all devices of the representative's posture.
    ///
    /// # Errors
    /// [`StoreError`] where the state cannot be written.
    pub fn of(store: &Store, one: &Representative, state: &DeviceState) -> Result<Self, StoreError> {
        let bytes = encode("device state", state).map_err(|error| StoreError::database(store.path(), &error))?;
        Ok(Self { posture: one.posture, filed: one.filed(state), state: bytes, release: state.release.clone() })
    }
}

/// The rules that devices were last held against.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HeldAgainst {
    /// What names them.
    pub hash: [u8; 32],
    /// When.
    pub at: UnixSeconds,
}

/// Outcomes that rows have to follow, by posture.
pub type Outcomes = HashMap<i64, (DeviceState, UnixSeconds)>;

/// A device whose rows differ from its outcome.
pub struct Behind {
    n: i64,
    posture: i64,
    last: [u8; 32],
    before: Stands,
    /// Whose.
    pub device: DeviceId,
    /// How it stands now.
    pub state: DeviceState,
    /// The signed result of its last evidence.
    pub result: Vec<u8>,
}

/// What is written of it.
pub struct Follow {
    n: i64,
    posture: i64,
    last: [u8; 32],
    device: DeviceId,
    state: Vec<u8>,
    result: Option<Vec<u8>>,
    was: Filed,
    is: Filed,
    release: Option<String>,
    at: UnixSeconds,
    history: Option<(Verdict, Verdict, Vec<appraisal::Cause>)>,
}

impl Behind {
    /// Whether its signed result says something else than the device's state.
    #[must_use]
    pub fn tells_news(&self) -> bool {
        let Some(was) = &self.before.state else { return true };
        let is = &self.state;
        (was.verdict, &was.vector, &was.tolerated, &was.release) != (is.verdict, &is.vector, &is.tolerated, &is.release)
            || !tell_the_same(&was.causes, &is.causes)
    }

    /// With the result that was signed for it, where there is a new one; at `at`.
    ///
    /// # Errors
    /// [`StoreError`] where the state cannot be written.
    pub fn follow(self, store: &Store, result: Option<Vec<u8>>, at: UnixSeconds) -> Result<Follow, StoreError> {
        let after = self.before.re_appraised(self.state.clone());
        let (was, is) = (self.before.at(at), after.at(at));
        let same_release = self.before.state.as_ref().is_some_and(|state| state.release == self.state.release);
        let same = same_release && was.verdict == is.verdict && tell_the_same(&was.causes, &is.causes);
        let bytes = encode("device state", &self.state).map_err(|error| StoreError::database(store.path(), &error))?;
        Ok(Follow {
            n: self.n,
            posture: self.posture,
            last: self.last,
            device: self.device,
            state: bytes,
            result,
            was: self.before.filed(),
            is: after.filed(),
            release: self.state.release,
            at,
            history: (!same).then_some((was.verdict, is.verdict, is.causes)),
        })
    }
}

impl Store {
    /// The rules that devices were last held against; none before the first time.
    ///
    /// # Errors
    /// [`StoreError`] where it could not be read.
    pub fn held_against(&self) -> Result<Option<HeldAgainst>, StoreError> {
        let read = |row: &rusqlite::Row<'_>| Ok(HeldAgainst { hash: row.get(0)?, at: unsigned(row.get(1)?) });
        self.read(|c| c.prepare_cached("SELECT hash, at FROM rules")?.query_row([], read).optional())
    }

    /// Postures whose outcomes rows still have to follow.
    ///
    /// # Errors
    /// [`StoreError`] where they could not be read.
    pub fn rejudged(&self) -> Result<Vec<i64>, StoreError> {
        self.read(|c| c.prepare_cached("SELECT posture FROM rejudged")?.query_map([], |row| row.get(0))?.collect())
    }

    /// Puts outcomes in the place of those that there were, in one transaction: all queries go by them from now on.
    ///
    /// # Errors
    /// [`StoreError`] where they could not be written; then nothing has changed.
    pub fn rejudge(&self, outcomes: Vec<Outcome>, rules: HeldAgainst) -> Result<(), StoreError> {
        self.write(outcomes.len(), move |c| {
            c.execute("DELETE FROM rejudged_cause", [])?;
            c.execute("DELETE FROM rejudged", [])?;
            outcomes.iter().try_for_each(|outcome| put(c, outcome, rules.at))?;
            let write = "INSERT INTO rules (one, hash, at) VALUES (1, ?1, ?2) \
                         ON CONFLICT (one) DO UPDATE SET hash = excluded.hash, at = excluded.at";
            c.execute(write, params![rules.hash, signed(rules.at)]).map(drop)
        })
    }

    /// Adds outcomes of postures that have come since [`Store::rejudge`].
    ///
    /// # Errors
    /// [`StoreError`] where they could not be written.
    pub fn rejudge_more(&self, outcomes: Vec<Outcome>, at: UnixSeconds) -> Result<(), StoreError> {
        self.write(outcomes.len(), move |c| outcomes.iter().try_for_each(|outcome| put(c, outcome, at)))
    }

    /// Outcomes as they were put.
    ///
    /// # Errors
    /// [`StoreError`] where they could not be read.
    pub fn outcomes(&self) -> Result<Outcomes, StoreError> {
        self.read(|c| {
            let mut select = c.prepare_cached("SELECT posture, state, at FROM rejudged")?;
            let mut rows = select.query([])?;
            let mut outcomes = Outcomes::new();
            while let Some(row) = rows.next()? {
                let bytes: Vec<u8> = row.get(1)?;
                outcomes.insert(row.get(0)?, (postures::state(&bytes)?, unsigned(row.get(2)?)));
            }
            Ok(outcomes)
        })
    }

    /// Devices of these postures behind number `after` whose rows are not as the outcomes have it, of the next `limit`; and
    /// where to go on, or none at the end. A damaged row is told and passed over.
    ///
    /// # Errors
    /// [`StoreError`] where they could not be read.
    pub fn behind(
        &self,
        outcomes: &Outcomes,
        after: i64,
        limit: usize,
    ) -> Result<(Vec<Behind>, Option<i64>), StoreError> {
        self.read(|c| behind(c, outcomes, after, limit))
    }

    /// Writes a page of rows, with history. What evidence or an operator has changed meanwhile stays. How many were written.
    ///
    /// # Errors
    /// [`StoreError`] where nothing of it has been written.
    pub fn follow(&self, page: Vec<Follow>) -> Result<usize, StoreError> {
        if page.is_empty() {
            return Ok(0);
        }
        let told = self.write(page.len(), move |c| {
            let mut told = Vec::new();
            for follow in &page {
                if write(c, follow)? {
                    told.push(follow.device);
                }
            }
            Ok(told)
        })?;
        let done = vec![super::Committed::Done; told.len()];
        self.announce(&told, &done);
        Ok(told.len())
    }

    /// Whether lists would show a device otherwise without the outcomes.
    ///
    /// # Errors
    /// [`StoreError`] where it could not be read.
    pub fn is_behind(&self) -> Result<bool, StoreError> {
        let sql = "SELECT EXISTS (SELECT 1 FROM rejudged j JOIN device d ON d.posture = j.posture AND d.posture <> 0 \
                   WHERE (d.verdict, d.late) <> (j.verdict, j.late) OR d.release IS NOT j.release)";
        self.read(|c| c.query_row(sql, [], |row| row.get(0)))
    }

    /// Takes the outcomes away: rows have followed.
    ///
    /// # Errors
    /// [`StoreError`] where it could not be written.
    pub fn settle(&self) -> Result<(), StoreError> {
        self.write(1, |c| c.execute_batch("DELETE FROM rejudged_cause; DELETE FROM rejudged;"))
    }
}

fn put(c: &Connection, outcome: &Outcome, at: UnixSeconds) -> Sql<()> {
    // A posture that went meanwhile needs none.
    let known: bool = c
        .prepare_cached("SELECT EXISTS (SELECT 1 FROM posture WHERE n = ?1)")?
        .query_row([outcome.posture], |row| row.get(0))?;
    if !known {
        return Ok(());
    }
    let Filed { verdict, late, codes } = &outcome.filed;
    c.prepare_cached(
        "INSERT OR REPLACE INTO rejudged (posture, verdict, late, release, state, at) VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
    )?
    .execute(params![
        outcome.posture,
        verdict_number(*verdict),
        verdict_number(*late),
        outcome.release,
        outcome.state,
        signed(at)
    ])?;
    let mut cause = c.prepare_cached("INSERT OR IGNORE INTO rejudged_cause (code, posture) VALUES (?1, ?2)")?;
    codes.iter().try_for_each(|code| cause.execute(params![code.row().code, outcome.posture]).map(drop))
}

fn behind(c: &Connection, outcomes: &Outcomes, after: i64, limit: usize) -> Sql<(Vec<Behind>, Option<i64>)> {
    let numbers = c
        .prepare_cached(
            "SELECT n, posture FROM device WHERE n > ?1 AND posture IN (SELECT posture FROM rejudged) ORDER BY n LIMIT ?2",
        )?
        .query_map([after, signed(limit as u64)], |row| Ok((row.get(0)?, row.get(1)?)))?
        .collect::<Sql<Vec<(i64, i64)>>>()?;
    let mut found = Vec::new();
    for (n, posture) in &numbers {
        let Some((outcome, at)) = outcomes.get(posture) else { continue };
        match one_behind(c, *n, *posture, outcome, *at) {
            Ok(behind) => found.extend(behind),
            Err(error) => tracing::error!(device = n, "a damaged row is passed over: {error}"),
        }
    }
    Ok((found, numbers.last().map(|(n, _)| *n)))
}

fn one_behind(c: &Connection, n: i64, posture: i64, outcome: &DeviceState, at: UnixSeconds) -> Sql<Option<Behind>> {
    let sql = format!(
        "SELECT d.id, s.last, s.result, {COLUMNS} FROM device d JOIN registration r ON r.device = d.n \
         JOIN device_state s ON s.device = d.n WHERE d.n = ?1 AND d.posture = ?2"
    );
    let mut select = c.prepare_cached(&sql)?;
    let mut rows = select.query([n, posture])?;
    let Some(row) = rows.next()? else { return Ok(None) };
    let before = Stands::read(row, 3)?;
    let Some(was) = &before.state else { return Ok(None) };
    let state = was.like(outcome, before.standing.approved_at, at);
    if state == *was {
        return Ok(None);
    }
    let (device, last, result) = (DeviceId(row.get(0)?), row.get(1)?, row.get(2)?);
    Ok(Some(Behind { n, posture, last, before, device, state, result }))
}

/// Whether the rows were still those that were read.
fn write(c: &Connection, follow: &Follow) -> Sql<bool> {
    let update = "UPDATE device_state SET state = ?3, result = coalesce(?4, result) WHERE device = ?1 AND last = ?2 \
                  AND EXISTS (SELECT 1 FROM device WHERE n = ?1 AND posture = ?5)";
    let parameters = params![follow.n, follow.last, follow.state, follow.result, follow.posture];
    if c.prepare_cached(update)?.execute(parameters)? == 0 {
        return Ok(false);
    }
    let (was, is) = (&follow.was, &follow.is);
    c.prepare_cached(
        "UPDATE device SET verdict = ?2, late = ?3, release = ?4 \
         WHERE n = ?1 AND ((verdict, late) <> (?2, ?3) OR release IS NOT ?4)",
    )?
    .execute(params![follow.n, verdict_number(is.verdict), verdict_number(is.late), follow.release])?;
    standing::file_codes(c, follow.n, &was.codes, &is.codes)?;
    if let Some((was, is, causes)) = &follow.history {
        let mut entry = Entry::new(follow.at, What::References, *is, causes);
        entry.previous = Some(*was);
        entry.release = follow.release.as_deref();
        append(c, follow.n, &entry)?;
        prune(c, follow.n)?;
    }
    Ok(true)
}

#[cfg(test)]
mod tests {
    use appraisal::{Cause, Code, Information, Notice};

    use super::{
        super::{
            Accepted, Committed, Detail, Filter, FleetCounts, Page,
            tests::{NOW, accepted, commit, contraindicated, id, registration, store, with_files},
        },
        *,
    };

    const AT: UnixSeconds = NOW + 20;
    const RULES: HeldAgainst = HeldAgainst { hash: [7; 32], at: AT };

    /// What a device says beside what it has in common with others.
    fn of_kind(mut accepted: Accepted, kind: u8) -> Accepted {
        accepted.posture = [kind; 32];
        accepted
    }

    /// Devices that stand in all ways, several alike.
    fn fleet(store: &Store) -> Vec<DeviceId> {
        for number in 0..40 {
            store.register(registration(number)).unwrap();
            // The longer ago, the sooner expired.
            let clock = 1 + number / 8;
            let evidence = match number % 8 {
                0 => continue,
                1 | 2 => with_files(accepted(number, clock, None), &["sh", "init"]),
                3 => contraindicated(accepted(number, clock, None)),
                4 => with_files(contraindicated(accepted(number, clock, None)), &["sh"]),
                5 => {
                    let mut evidence = accepted(number, clock, None);
                    evidence.appraisal.state.expires = NOW + 1;
                    evidence
                }
                6 => {
                    let mut evidence = accepted(number, clock, None);
                    evidence.appraisal.state.release = None;
                    evidence.appraisal.state.verdict = Verdict::Warning;
                    evidence.appraisal.state.causes =
                        vec![Cause { code: Code::LogIncomplete, detail: "x".into(), first_seen: NOW, last_seen: NOW }];
                    evidence
                }
                _ => accepted(number, clock, None),
            };
            commit(store, of_kind(evidence, u8::try_from(number % 8).unwrap()));
            if number % 8 == 7 && number > 20 {
                store.revoke(id(number), "stolen", "ada", NOW + 10).unwrap();
            }
            if number % 16 == 3 {
                store.approve(id(number), None, "ada", NOW + 10).unwrap();
            }
        }
        (0..40).map(id).collect()
    }

    /// Rules by which what was good has a fault, and what was bad is better.
    fn outcome(state: &DeviceState) -> DeviceState {
        let mut outcome = state.clone();
        let cause = |code, detail: &str| Cause { code, detail: detail.into(), first_seen: AT, last_seen: AT };
        match state.verdict {
            Verdict::Affirmed => {
                outcome.verdict = Verdict::Contraindicated;
                outcome.causes = vec![cause(Code::RuntimeUnknownExecutable, "/bin/sh")];
                outcome.release = None;
                outcome.tolerated.clear();
            }
            Verdict::Contraindicated => {
                outcome.verdict = Verdict::Warning;
                outcome.causes.push(cause(Code::LogIncomplete, "y"));
                outcome.release = Some("2.0".into());
            }
            _ => {
                outcome.verdict = Verdict::Affirmed;
                outcome.causes.clear();
                outcome.release = Some("2.0".into());
                outcome.information = vec![Information { code: Notice::ALL[0], detail: "said".into(), since: AT }];
            }
        }
        outcome.references = [9; 32];
        outcome
    }

    fn pose(store: &Store) {
        let (unposed, _) = store.unposed(0, 1000).unwrap();
        // Who was spoken of stands apart.
        let posed = unposed.into_iter().map(|one| {
            let posture = [100 + one.registration.device.0[0] % 100; 32];
            (one, posture)
        });
        store.pose(posed.collect()).unwrap();
    }

    fn rejudge(store: &Store) {
        pose(store);
        let outcomes = store.postures().unwrap().into_iter().filter_map(|posture| {
            let one = store.representative(&posture).unwrap()?;
            Some(Outcome::of(store, &one, &outcome(&one.state)).unwrap())
        });
        store.rejudge(outcomes.collect(), RULES).unwrap();
    }

    fn page_of(store: &Store, after: i64, limit: usize) -> (Vec<Follow>, Option<i64>) {
        let (behind, next) = store.behind(&store.outcomes().unwrap(), after, limit).unwrap();
        let follow = behind.into_iter().map(|one| {
            let result = one.tells_news().then(|| vec![6, 6]);
            one.follow(store, result, AT).unwrap()
        });
        (follow.collect(), next)
    }

    fn follow_all(store: &Store) -> usize {
        let (mut written, mut after) = (0, Some(0));
        while let Some(from) = after {
            let (page, next) = page_of(store, from, 7);
            written += store.follow(page).unwrap();
            after = next;
        }
        written
    }

    type Shown = (Vec<Page>, Vec<Option<Detail>>, FleetCounts);

    /// Everything that is asked of a fleet.
    fn everything(store: &Store, fleet: &[DeviceId], now: UnixSeconds) -> Shown {
        let mut filters = vec![Filter::default(), Filter { overdue: true, ..Filter::default() }];
        filters.extend(Verdict::ALL.map(|verdict| Filter { verdict: Some(verdict), ..Filter::default() }));
        filters.extend(Code::ALL.iter().map(|code| Filter { cause: Some(*code), ..Filter::default() }));
        filters.extend(["1.0", "2.0"].map(|release| Filter { release: Some(release.into()), ..Filter::default() }));
        for name in ["sh", "init"] {
            let running = Some(super::super::tests::file(name).digest);
            filters.push(Filter { running, verdict: Some(Verdict::Contraindicated), ..Filter::default() });
        }
        let pages = filters.iter().flat_map(|filter| {
            let first = store.devices(&Filter { limit: 3, ..filter.clone() }, now).unwrap();
            let rest = store.devices(&Filter { after: first.next, limit: 900, ..filter.clone() }, now).unwrap();
            [first, rest]
        });
        let details = fleet.iter().map(|device| store.device(*device, now).unwrap());
        (pages.collect(), details.collect(), store.fleet(now).unwrap())
    }

    #[test]
    fn every_query_shows_before_the_rows_follow_what_it_shows_after() {
        let (folder, store) = store();
        let fleet = fleet(&store);
        let times = [AT, NOW + 604, NOW + 10_000];
        let all = |store: &Store| times.map(|now| everything(store, &fleet, now));
        let old = all(&store);
        rejudge(&store);
        let new = all(&store);
        assert_ne!(old[0], new[0]);
        let (page, next) = page_of(&store, 0, 9);
        store.follow(page).unwrap();
        assert!(all(&store) == new, "with a part of the rows");
        drop(store);
        let store = Store::open(&folder.path().join("store.sqlite")).unwrap();
        assert!(all(&store) == new, "after a restart");
        assert!(store.is_behind().unwrap() && next.is_some());
        follow_all(&store);
        assert!(!store.is_behind().unwrap());
        store.settle().unwrap();
        assert!(all(&store) == new, "by the rows alone");
        assert_eq!(store.held_against().unwrap(), Some(RULES));
        let marks = Filter { verdict: Some(Verdict::Contraindicated), ..Filter::default() };
        assert!(store.devices(&marks, AT).unwrap().total > 5);
    }

    #[test]
    fn rows_follow_once_with_history_and_results_and_unchanged_ones_cost_nothing() {
        let (_folder, store) = store();
        fleet(&store);
        rejudge(&store);
        let written = follow_all(&store);
        assert_eq!(written, 35, "all but the ones that were never seen");
        assert_eq!(follow_all(&store), 0, "the same once more");
        let last = store.history(id(1), AT).unwrap().pop().unwrap();
        assert_eq!((last.what, last.at, last.verdict), (What::References, AT, Verdict::Contraindicated));
        assert_eq!(last.previous, Some(Verdict::Affirmed));
        assert_eq!(store.result(id(1)).unwrap().unwrap(), [6, 6]);
        assert_eq!(store.history(id(8), AT).unwrap().len(), 1, "never seen");
    }

    #[test]
    fn evidence_and_operators_that_come_meanwhile_win() {
        let (_folder, store) = store();
        fleet(&store);
        rejudge(&store);
        let (page, _) = page_of(&store, 0, 1000);
        let newer = of_kind(with_files(accepted(1, 30, Some(1)), &["new"]), 77);
        assert_eq!(commit(&store, newer.clone()), Committed::Done);
        store.revoke(id(2), "lost", "ada", AT + 1).unwrap();
        assert_eq!(store.follow(page).unwrap(), 33);
        assert_eq!(store.state(id(1)).unwrap().unwrap(), newer.appraisal.state);
        assert_eq!(store.device(id(1), NOW + 31).unwrap().unwrap().summary.verdict, Verdict::Affirmed);
        let revoked = |store: &Store| {
            let shown = store.device(id(2), AT + 2).unwrap().unwrap().summary;
            shown.verdict == Verdict::Contraindicated
                && shown.causes.iter().any(|cause| cause.code == Code::IdentityRevoked)
        };
        assert!(revoked(&store));
        // It is taken by its new posture.
        pose(&store);
        let known = store.outcomes().unwrap();
        let new: Vec<_> =
            store.postures().unwrap().into_iter().filter(|one| !known.contains_key(&one.number())).collect();
        let more = new.iter().filter_map(|posture| store.representative(posture).unwrap());
        let more = more.filter(|one| one.registration.device == id(2));
        store
            .rejudge_more(more.map(|one| Outcome::of(&store, &one, &outcome(&one.state)).unwrap()).collect(), AT)
            .unwrap();
        assert_eq!(follow_all(&store), 1);
        assert!(revoked(&store));
        assert_eq!(store.state(id(2)).unwrap().unwrap().references, [9; 32]);
    }

    #[test]
    fn another_swap_in_the_middle_ends_as_if_it_had_been_the_only_one() {
        let (_folder, store) = store();
        let fleet = fleet(&store);
        let back =
            |state: &DeviceState| DeviceState { references: [1; 32], release: Some("3.0".into()), ..state.clone() };
        rejudge(&store);
        let first = store.representative(&store.postures().unwrap()[0]).unwrap().unwrap();
        let (page, _) = page_of(&store, 0, 5);
        store.follow(page).unwrap();
        let outcome = Outcome::of(&store, &first, &back(&first.state)).unwrap();
        store.rejudge(vec![outcome], HeldAgainst { hash: [8; 32], at: AT + 5 }).unwrap();
        let shown = everything(&store, &fleet, AT + 6);
        follow_all(&store);
        store.settle().unwrap();
        assert!(everything(&store, &fleet, AT + 6) == shown);
        assert_eq!(store.held_against().unwrap().unwrap().hash, [8; 32]);
    }

    #[test]
    fn a_damaged_row_is_passed_over() {
        let (_folder, store) = store();
        fleet(&store);
        rejudge(&store);
        let damage = "UPDATE device_state SET state = x'ff' WHERE device = (SELECT n FROM device WHERE id = ?1)";
        store.write(1, move |c| c.execute(damage, [id(1).0]).map(drop)).unwrap();
        assert_eq!(follow_all(&store), 34);
        let posture = store.postures().unwrap().remove(0);
        assert_eq!(store.representative(&posture).unwrap().unwrap().registration.device, id(9));
    }

    #[test]
    fn what_is_said_of_a_device_beside_evidence_asks_for_its_posture_anew_and_unused_ones_go() {
        let (_folder, store) = store();
        store.register(registration(1)).unwrap();
        commit(&store, accepted(1, 1, None));
        assert_eq!((store.postures().unwrap().len(), store.unposed(0, 9).unwrap().0.len()), (1, 0));
        store.approve(id(1), Some("acme/other"), "ada", NOW + 2).unwrap();
        let (unposed, _) = store.unposed(0, 9).unwrap();
        assert_eq!(unposed.len(), 1);
        commit(&store, accepted(1, 3, Some(1)));
        store.pose(unposed.into_iter().map(|one| (one, [1; 32])).collect()).unwrap();
        let postures = store.postures().unwrap();
        assert_eq!(postures.iter().map(|one| one.product.as_deref()).collect::<Vec<_>>(), [None, Some("acme/other")]);
        store.drop_unused_postures().unwrap();
        assert_eq!(store.postures().unwrap(), postures[1..]);
        store.forget(id(1), false, "ada", NOW).unwrap();
        store.drop_unused_postures().unwrap();
        assert_eq!(store.postures().unwrap(), []);
    }
}
