//! Judged evidence into rows. Unchanged evidence costs two updates that touch no index; what differs is written besides.

use std::collections::BTreeSet;

use appraisal::{Cause, Code, DeviceState, UnixSeconds, Verdict};
use rusqlite::{Connection, OptionalExtension as _, params};

use super::{
    Accepted, Committed, Sql, What, decode, encode,
    files::{self, NextSet},
    shorten, signed, verdict_number,
};
use crate::limits::MAX_HISTORY;

pub(super) fn all(c: &Connection, batch: &[Accepted]) -> Sql<Vec<Committed>> {
    batch.iter().map(|accepted| one(c, accepted)).collect()
}

/// A device's rows before this evidence.
struct Before {
    n: i64,
    mset: Option<i64>,
    verdict: i64,
    release: Option<String>,
    state: Option<DeviceState>,
}

fn before(c: &Connection, accepted: &Accepted) -> Sql<Option<Before>> {
    let mut select = c.prepare_cached(
        "SELECT d.n, d.mset, d.verdict, d.release, s.state FROM device d LEFT JOIN device_state s ON s.device = d.n \
         WHERE d.id = ?1",
    )?;
    select
        .query_row([accepted.device.0], |row| {
            let state: Option<Vec<u8>> = row.get(4)?;
            Ok(Before {
                n: row.get(0)?,
                mset: row.get(1)?,
                verdict: row.get(2)?,
                release: row.get(3)?,
                state: state.map(|bytes| decode("device state", &bytes)).transpose()?,
            })
        })
        .optional()
}

fn one(c: &Connection, accepted: &Accepted) -> Sql<Committed> {
    let Some(before) = before(c, accepted)? else { return Ok(Committed::Lost) };
    if before.state.as_ref().map(|state| state.last) != accepted.expected {
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
    if (mset, verdict_number(state.verdict)) != (before.mset, before.verdict) || state.release != before.release {
        c.prepare_cached("UPDATE device SET verdict = ?2, release = ?3, mset = ?4 WHERE n = ?1")?.execute(params![
            before.n,
            verdict_number(state.verdict),
            state.release,
            mset
        ])?;
    }
    if let Some(old) = before.mset.filter(|_| mset != before.mset) {
        files::drop_unused(c, old)?;
    }
    write_causes(c, before.n, before.state.as_ref(), &state.causes)?;
    write_history(c, before.n, before.state.as_ref(), state)?;
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

fn write_causes(c: &Connection, n: i64, old: Option<&DeviceState>, causes: &[Cause]) -> Sql<()> {
    let codes = |causes: &[Cause]| causes.iter().map(|cause| cause.code).collect::<BTreeSet<Code>>();
    let (old, new) = (old.map(|state| codes(&state.causes)).unwrap_or_default(), codes(causes));
    for gone in old.difference(&new) {
        c.prepare_cached("DELETE FROM device_cause WHERE code = ?1 AND device = ?2")?
            .execute(params![gone.row().code, n])?;
    }
    for come in new.difference(&old) {
        c.prepare_cached("INSERT OR IGNORE INTO device_cause (code, device) VALUES (?1, ?2)")?
            .execute(params![come.row().code, n])?;
    }
    Ok(())
}

/// A row where the verdict, its causes or the release differ; and one for the expiry in between, which nobody wrote.
fn write_history(c: &Connection, n: i64, old: Option<&DeviceState>, new: &DeviceState) -> Sql<()> {
    let same = |old: &DeviceState| {
        let about = |causes: &[Cause]| -> BTreeSet<(Code, String)> {
            causes.iter().map(|cause| (cause.code, cause.detail.clone())).collect()
        };
        old.verdict == new.verdict && old.release == new.release && about(&old.causes) == about(&new.causes)
    };
    let expired = old.filter(|old| old.expires <= new.judged);
    if let Some(old) = expired {
        let (verdict, causes) = old.at(old.expires);
        let row = Entry { at: old.expires, what: What::Expired, verdict, previous: Some(old.verdict), causes: &causes, who: None };
        append(c, n, &row, old.release.as_deref(), None, None)?;
    } else if old.is_some_and(same) {
        return Ok(());
    }
    let previous = old.map(|old| old.at(new.judged).0);
    let row = Entry { at: new.judged, what: What::Evidence, verdict: new.verdict, previous, causes: &new.causes, who: None };
    append(c, n, &row, new.release.as_deref(), Some(&new.last.evidence), None)?;
    prune(c, n)
}

/// What a history row says in any case.
pub(super) struct Entry<'a> {
    pub(super) at: UnixSeconds,
    pub(super) what: What,
    pub(super) verdict: Verdict,
    pub(super) previous: Option<Verdict>,
    pub(super) causes: &'a [Cause],
    /// Operator, where it was one.
    pub(super) who: Option<&'a str>,
}

pub(super) fn append(
    c: &Connection,
    n: i64,
    entry: &Entry<'_>,
    release: Option<&str>,
    evidence: Option<&[u8; 32]>,
    note: Option<&str>,
) -> Sql<()> {
    let mut causes = entry.causes.to_vec();
    shorten(&mut causes);
    c.prepare_cached(
        "INSERT INTO history (device, at, what, verdict, previous, causes, release, evidence, note, who) \
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)",
    )?
    .execute(params![
        n,
        signed(entry.at),
        entry.what.name(),
        verdict_number(entry.verdict),
        entry.previous.map(verdict_number),
        encode("causes", &causes)?,
        release,
        evidence.map(|digest| &digest[..]),
        note,
        entry.who
    ])?;
    Ok(())
}

/// A device whose verdict flaps must not fill the disk. What operators did is kept.
fn prune(c: &Connection, n: i64) -> Sql<()> {
    c.prepare_cached(
        "DELETE FROM history WHERE n IN (SELECT n FROM history WHERE device = ?1 AND what IN ('evidence', 'expired') \
         ORDER BY n DESC LIMIT -1 OFFSET ?2)",
    )?
    .execute(params![n, MAX_HISTORY])?;
    Ok(())
}
