//! Judged evidence into rows. Unchanged evidence costs two updates that touch no index; what differs is written besides.

use appraisal::{Appraisal, Cause, DeviceState, UnixSeconds, Verdict, cause::tell_the_same, state::Attested};
use rusqlite::{Connection, OptionalExtension as _, Row, params};

use super::{
    Accepted, Committed, Sql, What, boot_logs, encode,
    files::{self, NextSet},
    postures, shorten, signed,
    standing::{self, COLUMNS, Stands},
    verdict_number,
};
use crate::limits::MAX_HISTORY;

pub(super) fn all(c: &Connection, batch: &[Accepted]) -> Sql<Vec<Committed>> {
    batch.iter().map(|accepted| one(c, accepted)).collect()
}

/// A device's rows before this evidence.
struct Before {
    n: i64,
    mset: Option<i64>,
    release: Option<String>,
    registered: ([u8; 32], u32),
    product: Option<String>,
    posture: Option<[u8; 32]>,
    set: Option<[u8; 32]>,
    stands: Stands,
}

fn before(c: &Connection, accepted: &Accepted) -> Sql<Option<Before>> {
    let mut select = c.prepare_cached(&format!(
        "SELECT d.n, d.mset, d.release, r.ak_name, r.generation, d.product, p.hash, m.hash, {COLUMNS} \
         FROM device d JOIN registration r ON r.device = d.n LEFT JOIN device_state s ON s.device = d.n \
         LEFT JOIN posture p ON p.n = d.posture LEFT JOIN mset m ON m.n = d.mset WHERE d.id = ?1"
    ))?;
    let read = |row: &Row<'_>| {
        let registered = (row.get(3)?, row.get(4)?);
        Ok(Before {
            n: row.get(0)?,
            mset: row.get(1)?,
            release: row.get(2)?,
            registered,
            product: row.get(5)?,
            posture: row.get(6)?,
            set: row.get(7)?,
            stands: Stands::read(row, 8)?,
        })
    };
    select.query_row([accepted.device.0], read).optional()
}

fn one(c: &Connection, accepted: &Accepted) -> Sql<Committed> {
    let Some(before) = before(c, accepted)? else { return Ok(Committed::Lost) };
    let held = before.stands.state.as_ref().map(|state| state.last);
    if (before.registered, held) != (accepted.registered, accepted.expected) {
        return Ok(Committed::Lost);
    }
    let appraisal = &accepted.appraisal;
    let base = if appraisal.new_boot { None } else { before.mset };
    let mset = match files::next(c, before.n, base, &appraisal.new_files)? {
        NextSet::TooMany => return Ok(Committed::TooManyFiles),
        NextSet::Is(mset) => mset,
    };
    let state = &appraisal.state;
    write_state(c, before.n, accepted)?;
    boot_logs::keep(c, before.n, accepted.boot_log.as_deref(), appraisal)?;
    // By what is known of the device now: an operator may have spoken since this was judged.
    let after = before.stands.with(state);
    if before.stands.is_firmware_denied() && !after.is_firmware_denied() {
        let update =
            "UPDATE registration SET denied_code = NULL, denied_why = NULL, denied_at = NULL WHERE device = ?1";
        c.prepare_cached(update)?.execute([before.n])?;
    }
    let (was, is) = (before.stands.filed(), after.filed());
    if mset != before.mset || (was.verdict, was.late) != (is.verdict, is.late) || state.release != before.release {
        let update = "UPDATE device SET verdict = ?2, late = ?3, release = ?4, mset = ?5 WHERE n = ?1";
        let (verdict, late) = (verdict_number(is.verdict), verdict_number(is.late));
        c.prepare_cached(update)?.execute(params![before.n, verdict, late, state.release, mset])?;
    }
    let alike = mset == before.mset && appraisal.new_files.is_empty();
    let name = |set: Option<[u8; 32]>| postures::name(&accepted.posture, set.as_ref(), before.product.as_deref());
    if !alike || before.posture != Some(name(before.set)) {
        let posture = postures::number(c, &accepted.posture, mset, before.product.as_deref())?;
        postures::set(c, before.n, posture)?;
    }
    if let Some(old) = before.mset.filter(|_| mset != before.mset) {
        files::drop_unused(c, old)?;
    }
    standing::file_codes(c, before.n, &was.codes, &is.codes)?;
    if write_history(c, before.n, &before.stands, &after, appraisal)? {
        prune(c, before.n)?;
    }
    Ok(Committed::Done)
}

/// What every evidence writes: neither names an indexed column.
pub(super) const UPDATE_TIMES: &str = "UPDATE device SET judged = ?2, expires = ?3 WHERE n = ?1";
pub(super) const WRITE_STATE: &str = "INSERT INTO device_state (device, last, state, evidence, result) \
     VALUES (?1, ?2, ?3, ?4, ?5) ON CONFLICT (device) DO UPDATE SET last = excluded.last, state = excluded.state, \
     evidence = excluded.evidence, result = excluded.result";

fn write_state(c: &Connection, n: i64, accepted: &Accepted) -> Sql<()> {
    let state = &accepted.appraisal.state;
    let times = params![n, signed(state.judged), signed(state.expires)];
    c.prepare_cached(UPDATE_TIMES)?.execute(times)?;
    let blob = encode("device state", state)?;
    c.prepare_cached(WRITE_STATE)?.execute(params![
        n,
        state.last.evidence,
        blob,
        accepted.evidence,
        accepted.result
    ])?;
    Ok(())
}

/// A row where the verdict, its causes or the release differ; before it one for the expiry in between, which nobody
/// wrote, and one for what was covered where this evidence begins anew. Whether there was anything to write.
fn write_history(c: &Connection, n: i64, old: &Stands, new: &Stands, appraisal: &Appraisal) -> Sql<bool> {
    let state = &appraisal.state;
    let now = state.judged;
    let (is, was) = (new.at(now), old.at(now));
    let expired = old.state.as_ref().filter(|old| old.expires <= now);
    if let Some(expired) = expired {
        let late = old.at(expired.expires);
        let mut row = Entry::new(expired.expires, What::Expired, late.verdict, &late.causes);
        row.previous = Some(old.filed().verdict);
        row.release = expired.release.as_deref();
        append(c, n, &row)?;
    }
    if let Some(attested) = &appraisal.closed {
        write_attested(c, n, attested, state)?;
    }
    let same = old.state.as_ref().is_some_and(|old| old.release == state.release)
        && was.verdict == is.verdict
        && tell_the_same(&was.causes, &is.causes);
    if same && expired.is_none() {
        return Ok(appraisal.closed.is_some());
    }
    let mut row = Entry::new(now, What::Evidence, is.verdict, &is.causes);
    row.previous = old.state.as_ref().map(|_| was.verdict);
    row.release = state.release.as_deref();
    row.evidence = Some(&state.last.evidence);
    append(c, n, &row)?;
    Ok(true)
}

/// What was covered until this evidence began anew: from its end until now nothing is known.
fn write_attested(c: &Connection, n: i64, attested: &Attested, new: &DeviceState) -> Sql<()> {
    let mut row = Entry::new(new.judged, What::Attested, new.verdict, &new.causes);
    row.release = new.release.as_deref();
    row.attested = Some(attested);
    append(c, n, &row)
}

/// What a history row says.
pub(super) struct Entry<'a> {
    at: UnixSeconds,
    what: What,
    verdict: Verdict,
    causes: &'a [Cause],
    pub(super) previous: Option<Verdict>,
    pub(super) release: Option<&'a str>,
    pub(super) evidence: Option<&'a [u8; 32]>,
    /// In words.
    pub(super) note: Option<&'a str>,
    /// Operator, where it was one.
    pub(super) who: Option<&'a str>,
    pub(super) attested: Option<&'a Attested>,
}

impl<'a> Entry<'a> {
    pub(super) const fn new(at: UnixSeconds, what: What, verdict: Verdict, causes: &'a [Cause]) -> Self {
        Self {
            at,
            what,
            verdict,
            causes,
            previous: None,
            release: None,
            evidence: None,
            note: None,
            who: None,
            attested: None,
        }
    }
}

pub(super) fn append(c: &Connection, n: i64, entry: &Entry<'_>) -> Sql<()> {
    let mut causes = entry.causes.to_vec();
    shorten(&mut causes);
    c.prepare_cached(
        "INSERT INTO history (device, at, what, verdict, previous, causes, release, evidence, note, who, attested) \
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11)",
    )?
    .execute(params![
        n,
        signed(entry.at),
        entry.what.name(),
        verdict_number(entry.verdict),
        entry.previous.map(verdict_number),
        encode("causes", &causes)?,
        entry.release,
        entry.evidence.map(|digest| &digest[..]),
        entry.note,
        entry.who,
        entry.attested.map(|attested| encode("attested time", attested)).transpose()?
    ])?;
    Ok(())
}

/// A device whose verdict flaps must not fill the disk. What operators did is kept.
pub(super) fn prune(c: &Connection, n: i64) -> Sql<()> {
    c.prepare_cached(
        "DELETE FROM history WHERE n IN (SELECT n FROM history WHERE device = ?1 AND what IN ('evidence', 'expired', 'attested', 'references') \
         ORDER BY n DESC LIMIT -1 OFFSET ?2)",
    )?
    .execute(params![n, MAX_HISTORY])?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::{
        super::{
            HistoryRow,
            tests::{NOW, accepted, commit, id, registration, store},
        },
        *,
    };

    #[test]
    fn steady_state_costs_one_row_of_state_and_nothing_else() {
        let (_folder, store) = store();
        store.register(registration(1)).unwrap();
        commit(&store, accepted(1, 1, None));
        let rows = || -> i64 {
            let tables =
                ["history", "device_cause", "device_state", "boot_log", "mset", "mset_file", "operator_log", "posture"];
            let count = |c: &Connection, table: &str| {
                c.query_row(&format!("SELECT count(*) FROM {table}"), [], |row| row.get::<_, i64>(0))
            };
            store.read(|c| tables.iter().map(|table| count(c, table)).sum()).unwrap()
        };
        let before = rows();
        for clock in 2..50 {
            assert_eq!(commit(&store, accepted(1, clock, Some(clock - 1))), Committed::Done);
        }
        assert_eq!(rows(), before);
    }

    #[test]
    fn what_was_covered_until_a_boot_stands_before_what_the_boot_shows() {
        let (_folder, store) = store();
        store.register(registration(1)).unwrap();
        commit(&store, accepted(1, 1, None));
        let mut booted = accepted(1, 2000, Some(1));
        let covered = Attested { from: NOW + 1, until: NOW + 600, reset: 1, restart: 0 };
        booted.appraisal.closed = Some(covered);
        commit(&store, booted.clone());
        let history = store.history(id(1), NOW + 2001).unwrap();
        let what = |rows: &[HistoryRow]| rows.iter().map(|row| row.what).collect::<Vec<_>>();
        assert_eq!(what(&history), [What::Enrolled, What::Evidence, What::Expired, What::Attested, What::Evidence]);
        assert_eq!((history[3].attested, history[3].at), (Some(covered), NOW + 2000));
        // Where nothing else differs it stands alone.
        let mut again = accepted(1, 2100, Some(2000));
        again.appraisal.closed = Some(covered);
        commit(&store, again);
        let history = store.history(id(1), NOW + 2101).unwrap();
        assert_eq!(what(&history[5..]), [What::Attested]);
    }
}
