//! How devices stand: [`appraisal::Current`] from their rows. Lists and counts cannot ask it of a million devices, so what
//! it says is kept in columns that they filter by: the verdict while the last one holds, the verdict once it has expired,
//! and the codes of causes. They are brought in line in the transaction that changes anything of it, and only the instant
//! of the question is left to the query.

use std::collections::BTreeSet;

use appraisal::{Code, Current, DeviceState, Finding, Standing, UnixSeconds, Verdict};
use rusqlite::{Connection, OptionalExtension as _, Row, params};

use super::{Sql, decode, registry, unsigned, verdict_number};

/// What [`Stands::read`] reads, of `device` d, `registration` r and `device_state` s.
pub(super) const COLUMNS: &str = "s.state, r.first_seen, r.revoked_why, r.revoked_at, r.denied_code, r.denied_why, \
                                  r.denied_at, r.key_changed, r.approved_at";

/// A device's last evidence and what is known of it besides.
pub(super) struct Stands {
    pub(super) state: Option<DeviceState>,
    pub(super) standing: Standing,
    enrolled: UnixSeconds,
}

/// What lists filter by.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Filed {
    /// While the last verdict holds.
    pub(super) verdict: Verdict,
    /// Once it has expired.
    pub(super) late: Verdict,
    /// Causes, but for those that time alone makes.
    pub(super) codes: BTreeSet<Code>,
}

impl Stands {
    /// From [`COLUMNS`], which begin at `first`.
    pub(super) fn read(row: &Row<'_>, first: usize) -> Sql<Self> {
        let state: Option<Vec<u8>> = row.get(first)?;
        let time = |at: usize| Ok::<_, rusqlite::Error>(row.get::<_, Option<i64>>(first + at)?.map(unsigned));
        let denial = registry::denial(row.get(first + 4)?, row.get(first + 5)?, row.get(first + 6)?);
        let standing = Standing {
            revoked: row.get(first + 2)?,
            revoked_at: time(3)?.unwrap_or(0),
            endorsement: denial.map(|denial| Finding {
                code: registry::identity_cause(&denial.code),
                detail: denial.why,
                since: denial.at,
            }),
            key_changed: time(7)?,
            approved_at: time(8)?.unwrap_or(0),
            ..Standing::default()
        };
        let state = state.map(|bytes| decode("device state", &bytes)).transpose()?;
        Ok(Self { state, standing, enrolled: time(1)?.unwrap_or(0) })
    }

    /// With another state.
    pub(super) fn with(&self, state: &DeviceState) -> Self {
        Self { state: Some(state.clone()), standing: self.standing.clone(), enrolled: self.enrolled }
    }

    /// At `now`.
    pub(super) fn at(&self, now: UnixSeconds) -> Current {
        let state = self.state.as_ref();
        let denied = |state: &DeviceState| {
            let cause = state.causes.iter().find(|cause| cause.code == Code::HardwareFirmwareDenied)?;
            Some(Finding { code: cause.code, detail: cause.detail.clone(), since: cause.first_seen })
        };
        // The list of denied firmware is not here. Where evidence was held against it, that stands until it is again;
        // where the list has changed since, the registration says so.
        match (&self.standing.endorsement, state.and_then(denied)) {
            (None, Some(finding)) => {
                let standing = Standing { endorsement: Some(finding), ..self.standing.clone() };
                Current::of(state, &standing, self.enrolled, now)
            }
            _ => Current::of(state, &self.standing, self.enrolled, now),
        }
    }

    /// While the last verdict holds, and when it has expired.
    pub(super) fn filed(&self) -> Filed {
        let holds = self.at(self.state.as_ref().map_or(0, |state| state.expires.saturating_sub(1)));
        let late = self.at(self.state.as_ref().map_or(0, |state| state.expires));
        let lasting = |code: &Code| !matches!(code, Code::NeverSeen | Code::Overdue);
        let codes = holds.causes.iter().map(|cause| cause.code).filter(lasting).collect();
        Filed { verdict: holds.verdict, late: late.verdict, codes }
    }
}

/// Brings what lists filter by in line with everything else that is known of device number `n`.
pub(super) fn file(c: &Connection, n: i64) -> Sql<()> {
    let sql = format!(
        "SELECT {COLUMNS} FROM device d JOIN registration r ON r.device = d.n \
         LEFT JOIN device_state s ON s.device = d.n WHERE d.n = ?1"
    );
    let found = c.prepare_cached(&sql)?.query_row([n], |row| Stands::read(row, 0)).optional()?;
    let Some(stands) = found else { return Ok(()) };
    let Filed { verdict, late, codes } = stands.filed();
    c.prepare_cached("UPDATE device SET verdict = ?2, late = ?3 WHERE n = ?1 AND (verdict, late) <> (?2, ?3)")?
        .execute(params![n, verdict_number(verdict), verdict_number(late)])?;
    let known: Vec<String> = c
        .prepare_cached("SELECT code FROM device_cause WHERE device = ?1")?
        .query_map([n], |row| row.get(0))?
        .collect::<Sql<_>>()?;
    let known: BTreeSet<Code> = known.iter().filter_map(|code| Code::from_code(code)).collect();
    file_codes(c, n, &known, &codes)
}

/// The difference of two sets of causes.
pub(super) fn file_codes(c: &Connection, n: i64, old: &BTreeSet<Code>, new: &BTreeSet<Code>) -> Sql<()> {
    for gone in old.difference(new) {
        c.prepare_cached("DELETE FROM device_cause WHERE code = ?1 AND device = ?2")?
            .execute(params![gone.row().code, n])?;
    }
    for come in new.difference(old) {
        c.prepare_cached("INSERT OR IGNORE INTO device_cause (code, device) VALUES (?1, ?2)")?
            .execute(params![come.row().code, n])?;
    }
    Ok(())
}
