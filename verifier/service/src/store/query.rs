//! Questions about devices and the fleet. What expiry and revocation do to a verdict is decided here, at the instant
//! of the question: no row has to change for it.

use std::collections::BTreeMap;

use appraisal::{Code, Current, DeviceState, Finding, MeasuredFile, UnixSeconds, Verdict};
use evidence::{claims::DeviceId, result::TrustVector};
use rusqlite::{Connection, OptionalExtension as _, Row, ToSql, named_params, types::Value};

use super::{
    Detail, Filter, FleetCounts, HistoryRow, Page, Sql, Store, StoreError, Summary, What, damaged, decode,
    endorsements, labels, registry, shorten, signed,
    standing::{COLUMNS, Stands},
    unsigned, verdict_from, verdict_number,
};
use crate::limits::{DEFAULT_PAGE, MAX_FILES, MAX_HISTORY, MAX_PAGE};

impl Store {
    /// State that the last accepted evidence of a device left behind.
    ///
    /// # Errors
    /// [`StoreError`] where it could not be read.
    pub fn state(&self, device: DeviceId) -> Result<Option<DeviceState>, StoreError> {
        let sql = "SELECT s.state FROM device d JOIN device_state s ON s.device = d.n WHERE d.id = ?1";
        self.read(|c| blob(c, sql, device)?.map(|bytes| decode("device state", &bytes)).transpose())
    }

    /// Files reported in the present boot of a device: all of them.
    ///
    /// # Errors
    /// [`StoreError`] where they could not be read.
    pub fn files(&self, device: DeviceId) -> Result<Vec<MeasuredFile>, StoreError> {
        self.read(|c| files(c, device, MAX_FILES))
    }

    /// The signed result of the last accepted evidence.
    ///
    /// # Errors
    /// [`StoreError`] where it could not be read.
    pub fn result(&self, device: DeviceId) -> Result<Option<Vec<u8>>, StoreError> {
        let sql = "SELECT s.result FROM device d JOIN device_state s ON s.device = d.n WHERE d.id = ?1";
        self.read(|c| blob(c, sql, device))
    }

    /// The last accepted evidence, without attachments.
    ///
    /// # Errors
    /// [`StoreError`] where it could not be read.
    pub fn evidence(&self, device: DeviceId) -> Result<Option<Vec<u8>>, StoreError> {
        let sql = "SELECT s.evidence FROM device d JOIN device_state s ON s.device = d.n WHERE d.id = ?1";
        self.read(|c| blob(c, sql, device))
    }

    /// Devices that match, as they stand at `now`.
    ///
    /// # Errors
    /// [`StoreError`] where they could not be read.
    pub fn devices(&self, filter: &Filter, now: UnixSeconds) -> Result<Page, StoreError> {
        self.read(|c| in_one_view(c, |c| page(c, filter, now)))
    }

    /// One device as it stands at `now`.
    ///
    /// # Errors
    /// [`StoreError`] where it could not be read.
    pub fn device(&self, device: DeviceId, now: UnixSeconds) -> Result<Option<Detail>, StoreError> {
        self.read(|c| in_one_view(c, |c| detail(c, device, now)))
    }

    /// What became of a device, oldest first: at most the newest [`MAX_HISTORY`] entries that evidence made, and what
    /// operators did.
    ///
    /// # Errors
    /// [`StoreError`] where it could not be read.
    pub fn history(&self, device: DeviceId, now: UnixSeconds) -> Result<Vec<HistoryRow>, StoreError> {
        self.read(|c| in_one_view(c, |c| history(c, device, now)))
    }

    /// How many devices stand how at `now`.
    ///
    /// # Errors
    /// [`StoreError`] where they could not be counted.
    pub fn fleet(&self, now: UnixSeconds) -> Result<FleetCounts, StoreError> {
        self.read(|c| in_one_view(c, |c| counts(c, now)))
    }
}

/// Several statements that see one state of the database.
fn in_one_view<T>(c: &Connection, query: impl FnOnce(&Connection) -> Sql<T>) -> Sql<T> {
    let view = c.unchecked_transaction()?;
    query(&view)
}

fn blob(c: &Connection, sql: &str, device: DeviceId) -> Sql<Option<Vec<u8>>> {
    c.prepare_cached(sql)?.query_row([device.0], |row| row.get(0)).optional()
}

/// A device's rows.
struct Stored {
    id: DeviceId,
    product: Option<String>,
    n: i64,
    stands: Stands,
    labels: BTreeMap<String, String>,
}

/// What [`Stored::read`] reads.
fn select_stored(by: &str) -> String {
    format!(
        "SELECT d.id, d.product, d.n, j.state, j.at, {COLUMNS} FROM device d JOIN registration r ON r.device = d.n \
         LEFT JOIN device_state s ON s.device = d.n LEFT JOIN rejudged j ON j.posture = d.posture WHERE {by} = ?1"
    )
}

impl Stored {
    fn read(row: &Row<'_>) -> Sql<Self> {
        let mut stands = Stands::read(row, 5)?;
        let outcome: Option<Vec<u8>> = row.get(3)?;
        if let (Some(bytes), Some(state)) = (outcome, &stands.state) {
            let state = state.like(&decode("outcome", &bytes)?, stands.standing.approved_at, unsigned(row.get(4)?));
            stands = stands.re_appraised(state);
        }
        Ok(Self { id: DeviceId(row.get(0)?), product: row.get(1)?, n: row.get(2)?, stands, labels: BTreeMap::new() })
    }

    fn with_labels(mut self, c: &Connection) -> Sql<Self> {
        self.labels = labels::of(c, self.n)?;
        Ok(self)
    }

    fn short_summary(self, now: UnixSeconds) -> Summary {
        let mut summary = self.summary(now).0;
        shorten(&mut summary.causes);
        summary
    }

    /// With the claims that are made at `now`.
    fn summary(self, now: UnixSeconds) -> (Summary, TrustVector) {
        let Current { verdict, causes, vector } = self.stands.at(now);
        let state = self.stands.state.as_ref();
        let summary = Summary {
            id: self.id,
            verdict,
            expires: state.map(|state| state.expires),
            last_evidence: state.map(|state| state.judged),
            last_check: state.map(|state| state.last_check),
            product: self.product,
            release: state.and_then(|state| state.release.clone()),
            causes,
            tolerated: state.map(|state| state.tolerated.clone()).unwrap_or_default(),
            labels: self.labels,
        };
        (summary, vector)
    }
}

fn stored(c: &Connection, device: DeviceId) -> Sql<Option<Stored>> {
    let found = c.prepare_cached(&select_stored("d.id"))?.query_row([device.0], Stored::read).optional()?;
    found.map(|stored| stored.with_labels(c)).transpose()
}

pub(super) fn summary(c: &Connection, device: DeviceId, now: UnixSeconds) -> Sql<Option<Summary>> {
    Ok(stored(c, device)?.map(|stored| stored.summary(now).0))
}

fn detail(c: &Connection, device: DeviceId, now: UnixSeconds) -> Sql<Option<Detail>> {
    let Some(stored) = stored(c, device)? else { return Ok(None) };
    let Some(registration) = registry::registration(c, device)? else { return Ok(None) };
    let sql = "SELECT m.files FROM device d JOIN mset m ON m.n = d.mset WHERE d.id = ?1";
    let count: Option<i64> = c.prepare_cached(sql)?.query_row([device.0], |row| row.get(0)).optional()?;
    let approved_at = registration.approved_at;
    let state = stored.stands.state.clone();
    let state = state.as_ref();
    let (summary, claims) = stored.summary(now);
    Ok(Some(Detail {
        claims,
        endorsement: endorsements::of(c, device)?,
        registration,
        running: files(c, device, MAX_PAGE)?,
        files: unsigned(count.unwrap_or(0)),
        firmware_version: state.map(|state| state.firmware_version),
        attester_version: state.map(|state| state.attester_version.clone()),
        evidence: state.map(|state| state.last.evidence),
        attested: state.and_then(DeviceState::attested),
        compromised: state.map(|state| compromised(state, approved_at)).unwrap_or_default(),
        boot: state.map(|state| state.boot.summary()),
        information: state.map(|state| state.information.clone()).unwrap_or_default(),
        excluded: state.and_then(|state| state.boot.excluded.clone()),
        summary,
    }))
}

fn compromised(state: &DeviceState, approved_at: UnixSeconds) -> Vec<Finding> {
    state.compromised.iter().filter(|finding| finding.since > approved_at).cloned().collect()
}

pub(super) fn files(c: &Connection, device: DeviceId, limit: usize) -> Sql<Vec<MeasuredFile>> {
    let mut select = c.prepare_cached(
        "SELECT f.digest, f.path, f.kind FROM device d JOIN mset_file m ON m.mset = d.mset JOIN file f ON f.n = m.file \
         WHERE d.id = ?1 ORDER BY f.path, f.digest LIMIT ?2",
    )?;
    let read = |row: &Row<'_>| Ok(MeasuredFile { digest: row.get(0)?, path: row.get(1)?, kind: row.get(2)? });
    select.query_map((device.0, signed(limit as u64)), read)?.collect()
}

/// Conditions of a filter, with what they name.
struct Conditions {
    /// Whether there are outcomes that rows have to follow: then all is asked of `shown`, by no index of `device`.
    rejudged: bool,
    sql: Vec<&'static str>,
    values: Vec<(&'static str, Value)>,
}

impl Conditions {
    fn of(filter: &Filter, now: UnixSeconds, rejudged: bool) -> Self {
        let mut all = Self { rejudged, sql: Vec::new(), values: Vec::new() };
        if let Some(verdict) = filter.verdict {
            all.verdict(verdict);
        }
        if filter.overdue {
            all.sql.push("d.judged IS NOT NULL AND d.expires <= :now");
        }
        if let Some(digest) = filter.running {
            all.sql.push(
                "d.mset IS NOT NULL AND d.mset IN (SELECT m.mset FROM file f JOIN mset_file m ON m.file = f.n \
                 WHERE f.digest = :running)",
            );
            all.values.push((":running", Value::Blob(digest.to_vec())));
        }
        if let Some(code) = filter.cause {
            all.cause(code);
        }
        if let Some(product) = &filter.product {
            all.sql.push("d.product IS NOT NULL AND d.product = :product");
            all.values.push((":product", Value::Text(product.clone())));
        }
        if let Some(release) = &filter.release {
            all.sql.push("d.release = :release");
            all.values.push((":release", Value::Text(release.clone())));
        }
        if let Some((key, value)) = &filter.label {
            all.sql.push("d.n IN (SELECT l.device FROM label l WHERE l.key = :label_key AND l.value = :label_value)");
            all.values.push((":label_key", Value::Text(key.clone())));
            all.values.push((":label_value", Value::Text(value.clone())));
        }
        if all.sql.iter().any(|sql| sql.contains(":now")) {
            all.values.push((":now", Value::Integer(signed(now))));
        }
        all
    }

    /// The planner takes a partial index where its condition stands here word for word.
    fn verdict(&mut self, verdict: Verdict) {
        self.sql.push(match verdict {
            _ if self.rejudged => {
                "((d.expires <= :now AND d.late = :verdict) OR (d.expires > :now AND d.verdict = :verdict))"
            }
            Verdict::Affirmed => "d.expires > :now AND d.verdict = :verdict",
            Verdict::Warning => "d.expires > :now AND d.verdict <> 0 AND d.verdict = :verdict",
            Verdict::Unknown => {
                "((d.expires <= :now AND d.late = :verdict) \
                 OR (d.expires > :now AND d.verdict <> 0 AND d.verdict = :verdict))"
            }
            Verdict::Contraindicated => {
                "d.n IN (SELECT n FROM device WHERE late <> 2 AND late = :verdict AND expires <= :now UNION ALL \
                 SELECT n FROM device WHERE verdict <> 0 AND verdict = :verdict AND expires > :now)"
            }
        });
        self.values.push((":verdict", Value::Integer(verdict_number(verdict))));
    }

    fn cause(&mut self, code: Code) {
        match code {
            Code::NeverSeen => self.sql.push("d.judged IS NULL"),
            Code::Overdue => self.sql.push("d.judged IS NOT NULL AND d.expires <= :now"),
            _ if self.rejudged => {
                self.sql.push(
                    "iif(d.rejudged IS NULL, d.n IN (SELECT k.device FROM device_cause k WHERE k.code = :cause), \
                     d.rejudged IN (SELECT k.posture FROM rejudged_cause k WHERE k.code = :cause))",
                );
                self.values.push((":cause", Value::Text(code.row().code.to_owned())));
            }
            _ => {
                self.sql.push("d.n IN (SELECT k.device FROM device_cause k WHERE k.code = :cause)");
                self.values.push((":cause", Value::Text(code.row().code.to_owned())));
            }
        }
    }

    const fn table(&self) -> &'static str {
        if self.rejudged { "shown" } else { "device" }
    }

    fn text(&self) -> String {
        if self.sql.is_empty() { "1".to_owned() } else { self.sql.join(" AND ") }
    }

    fn parameters(&self) -> Vec<(&str, &dyn ToSql)> {
        self.values.iter().map(|(name, value)| (*name, value as &dyn ToSql)).collect()
    }
}

/// From so many matches on, the first of them are found sooner by walking along the ids than by sorting all.
const MANY: i64 = 10_000;

fn page(c: &Connection, filter: &Filter, now: UnixSeconds) -> Sql<Page> {
    let conditions = Conditions::of(filter, now, is_rejudged(c)?);
    let count = format!("SELECT count(*) FROM {} d WHERE {}", conditions.table(), conditions.text());
    let total: i64 = c.prepare_cached(&count)?.query_row(&conditions.parameters()[..], |row| row.get(0))?;
    let limit = if filter.limit == 0 { DEFAULT_PAGE } else { filter.limit.min(MAX_PAGE) };
    let mut numbers = first(c, &conditions, filter.after, total >= MANY || conditions.sql.is_empty(), limit + 1)?;
    let more = numbers.len() > limit;
    numbers.truncate(limit);
    // The wide rows only of those that are shown.
    let mut select = c.prepare_cached(&select_stored("d.n"))?;
    let read = |n: i64| Ok(select.query_row([n], Stored::read)?.with_labels(c)?.short_summary(now));
    let devices: Vec<Summary> = numbers.into_iter().map(read).collect::<Sql<_>>()?;
    let next = devices.last().filter(|_| more).map(|device| device.id);
    Ok(Page { devices, total: unsigned(total), next })
}

/// The first devices that match, by id.
fn first(c: &Connection, conditions: &Conditions, after: Option<DeviceId>, walk: bool, limit: usize) -> Sql<Vec<i64>> {
    let (by, order) = match (walk, conditions.rejudged) {
        (true, false) => ("INDEXED BY device_id", "d.id"),
        (true, true) => ("", "d.id"),
        (false, _) => ("", "+d.id"),
    };
    let table = conditions.table();
    let after_id = if after.is_some() { " AND d.id > :after" } else { "" };
    let filter = conditions.text();
    let sql = format!("SELECT d.n FROM {table} d {by} WHERE {filter}{after_id} ORDER BY {order} LIMIT :limit");
    let limit = signed(limit as u64);
    let mut parameters = conditions.parameters();
    parameters.push((":limit", &limit));
    if let Some(DeviceId(id)) = &after {
        parameters.push((":after", id));
    }
    c.prepare_cached(&sql)?.query_map(&parameters[..], |row| row.get(0))?.collect()
}

fn history(c: &Connection, device: DeviceId, now: UnixSeconds) -> Sql<Vec<HistoryRow>> {
    let mut select = c.prepare_cached(
        "SELECT h.at, h.what, h.verdict, h.previous, h.causes, h.release, h.evidence, h.note, h.who, h.attested FROM device d \
         JOIN history h ON h.device = d.n WHERE d.id = ?1 ORDER BY h.n DESC LIMIT ?2",
    )?;
    // Twice the bound: operators' entries are not counted in it.
    let newest_first = select.query_map((device.0, i64::from(MAX_HISTORY) * 2), history_row)?;
    let mut rows = newest_first.collect::<Sql<Vec<_>>>()?;
    rows.reverse();
    let Some(Stored { stands, .. }) = stored(c, device)? else { return Ok(rows) };
    if let Some(state) = stands.state.as_ref().filter(|state| state.expires <= now) {
        let Current { verdict, mut causes, .. } = stands.at(now);
        shorten(&mut causes);
        rows.push(HistoryRow {
            at: state.expires,
            what: What::Expired,
            verdict,
            previous: Some(state.verdict),
            causes,
            release: state.release.clone(),
            evidence: None,
            note: None,
            who: None,
            attested: None,
        });
        rows.sort_by_key(|row| row.at);
    }
    Ok(rows)
}

fn history_row(row: &Row<'_>) -> Sql<HistoryRow> {
    let what: String = row.get(1)?;
    let causes: Vec<u8> = row.get(4)?;
    let attested: Option<Vec<u8>> = row.get(9)?;
    Ok(HistoryRow {
        at: unsigned(row.get(0)?),
        what: What::from_name(&what).ok_or_else(|| damaged("history", what))?,
        verdict: verdict_from(row.get(2)?),
        previous: row.get::<_, Option<i64>>(3)?.map(verdict_from),
        causes: decode("causes", &causes)?,
        release: row.get(5)?,
        evidence: row.get(6)?,
        note: row.get(7)?,
        who: row.get(8)?,
        attested: attested.map(|bytes| decode("attested time", &bytes)).transpose()?,
    })
}

/// Whether there are outcomes that rows have to follow.
fn is_rejudged(c: &Connection) -> Sql<bool> {
    c.prepare_cached("SELECT EXISTS (SELECT 1 FROM rejudged)")?.query_row([], |row| row.get(0))
}

fn counts(c: &Connection, now: UnixSeconds) -> Sql<FleetCounts> {
    let table = if is_rejudged(c)? { "shown" } else { "device" };
    let mut select = c.prepare_cached(&format!(
        "SELECT count(*), \
                count(*) FILTER (WHERE expires > :now AND verdict = 0), \
                count(*) FILTER (WHERE expires > :now AND verdict = 1), \
                count(*) FILTER (WHERE (expires <= :now AND late = 2) OR (expires > :now AND verdict = 2)), \
                count(*) FILTER (WHERE (expires <= :now AND late = 3) OR (expires > :now AND verdict = 3)), \
                count(*) FILTER (WHERE judged IS NOT NULL AND expires <= :now), \
                count(*) FILTER (WHERE judged IS NULL) FROM {table}",
    ))?;
    select.query_row(named_params! { ":now": signed(now) }, |row| {
        let count = |column| row.get::<_, i64>(column).map(unsigned);
        Ok(FleetCounts {
            total: count(0)?,
            verdicts: [count(1)?, count(2)?, count(3)?, count(4)?],
            overdue: count(5)?,
            never_seen: count(6)?,
        })
    })
}
