//! Postures: devices that stand alike share one, so that new rules are held against each posture once. In go the digests
//! that evidence and standing make; out come the postures of the fleet, and of each one device to re-appraise.

use appraisal::{DeviceState, MeasuredFile};
use evidence::{claims::DeviceId, pcr::sha256};
use rusqlite::{Connection, OptionalExtension as _, params};

use super::{
    Known, Registration, Sql, Store, StoreError, Trouble, decode, query, registry, signed,
    standing::{COLUMNS, Filed, Stands},
};
use crate::limits::MAX_FILES;

/// A posture.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Posture {
    pub(super) n: i64,
    /// Product of its devices.
    pub product: Option<String>,
}

impl Posture {
    /// What names it in the store.
    #[must_use]
    pub const fn number(&self) -> i64 {
        self.n
    }
}

/// One device of a posture, with all that it is re-appraised by.
pub struct Representative {
    pub(super) posture: i64,
    pub(super) stands: Stands,
    /// Its registration.
    pub registration: Registration,
    /// What its last evidence left behind.
    pub state: DeviceState,
    /// Files of its present boot.
    pub files: Vec<MeasuredFile>,
    /// The boot log of its present boot.
    pub boot_log: Option<Vec<u8>>,
}

/// A device whose posture has to be worked out.
#[derive(Debug, Clone)]
pub struct Unposed {
    pub(super) n: i64,
    /// What is registered of it.
    pub registration: Registration,
    /// What its last evidence left behind.
    pub state: DeviceState,
}

impl Store {
    /// The postures of the fleet.
    ///
    /// # Errors
    /// [`StoreError`] where they could not be read.
    pub fn postures(&self) -> Result<Vec<Posture>, StoreError> {
        self.read(|c| {
            let read = |row: &rusqlite::Row<'_>| Ok(Posture { n: row.get(0)?, product: row.get(1)? });
            c.prepare_cached("SELECT n, product FROM posture ORDER BY n")?.query_map([], read)?.collect()
        })
    }

    /// A device of this posture whose rows can be read; none where no device has it any more.
    ///
    /// # Errors
    /// [`StoreError`] where the store failed.
    pub fn representative(&self, posture: &Posture) -> Result<Option<Representative>, StoreError> {
        let mut after = 0;
        for _ in 0..MAX_DAMAGED {
            let next = "SELECT n, id FROM device WHERE posture = ?1 AND posture <> 0 AND n > ?2 ORDER BY n LIMIT 1";
            let found = self.read(|c| {
                c.prepare_cached(next)?
                    .query_row([posture.n, after], |row| Ok((row.get::<_, i64>(0)?, DeviceId(row.get(1)?))))
                    .optional()
            })?;
            let Some((n, device)) = found else { return Ok(None) };
            match self.read(|c| representative(c, posture.n, n, device)) {
                Err(StoreError::Database { kind: Trouble::Damaged | Trouble::Other, why, .. }) => {
                    tracing::error!(%device, "a damaged row is passed over: {why}");
                    after = n;
                }
                found => return found,
            }
        }
        Ok(None)
    }

    /// Devices behind `after` whose posture has to be worked out, at most `limit`, and the place of the last of them.
    ///
    /// # Errors
    /// [`StoreError`] where they could not be read.
    pub fn unposed(&self, after: i64, limit: usize) -> Result<(Vec<Unposed>, Option<i64>), StoreError> {
        self.read(|c| {
            let sql = "SELECT n, id FROM device WHERE posture = -1 AND posture <> 0 AND n > ?1 ORDER BY n LIMIT ?2";
            let numbers = c
                .prepare_cached(sql)?
                .query_map([after, signed(limit as u64)], |row| Ok((row.get(0)?, DeviceId(row.get(1)?))))?
                .collect::<Sql<Vec<(i64, DeviceId)>>>()?;
            let mut found = Vec::with_capacity(numbers.len());
            for (n, device) in &numbers {
                match registry::known(c, *device) {
                    Ok(Some(Known { registration, state: Some(state) })) => {
                        found.push(Unposed { n: *n, registration, state })
                    }
                    Ok(_) => {}
                    Err(error) => tracing::error!(%device, "a damaged row is passed over: {error}"),
                }
            }
            Ok((found, numbers.last().map(|(n, _)| *n)))
        })
    }

    /// Keeps postures that were worked out. A device of which evidence has come meanwhile has the evidence's.
    ///
    /// # Errors
    /// [`StoreError`] where they could not be written.
    pub fn pose(&self, worked_out: Vec<(Unposed, [u8; 32])>) -> Result<(), StoreError> {
        if worked_out.is_empty() {
            return Ok(());
        }
        self.write(worked_out.len(), move |c| {
            for (Unposed { n, registration, state }, digest) in &worked_out {
                let now = registry::known(c, registration.device)?.map(|known| known.registration);
                let unchanged = now.as_ref().is_some_and(|now| {
                    Registration { eks: Vec::new(), ..now.clone() }
                        == Registration { eks: Vec::new(), ..registration.clone() }
                });
                if unchanged {
                    let mset = "SELECT d.mset FROM device d JOIN device_state s ON s.device = d.n \
                                WHERE d.n = ?1 AND d.posture = -1 AND s.last = ?2";
                    let held = c.prepare_cached(mset)?.query_row(params![n, state.last.evidence], |row| row.get(0));
                    if let Some(mset) = held.optional()? {
                        set(c, *n, number(c, digest, mset, registration.product.as_deref())?)?;
                    }
                }
            }
            Ok(())
        })
    }

    /// Forgets postures that no device has any more. While rows are being brought in line, none.
    ///
    /// # Errors
    /// [`StoreError`] where they could not be written.
    pub fn drop_unused_postures(&self) -> Result<(), StoreError> {
        let unused = self.read(|c| {
            c.prepare_cached(
                "SELECT n FROM posture p WHERE NOT EXISTS \
                 (SELECT 1 FROM device WHERE posture = p.n AND posture <> 0) LIMIT 10000",
            )?
            .query_map([], |row| row.get(0))?
            .collect::<Sql<Vec<i64>>>()
        })?;
        for page in unused.chunks(MAX_DROPPED) {
            let page = page.to_vec();
            self.write(page.len(), move |c| {
                let mut forget = c.prepare_cached(
                    "DELETE FROM posture WHERE n = ?1 AND NOT EXISTS (SELECT 1 FROM rejudged WHERE posture = ?1) \
                     AND NOT EXISTS (SELECT 1 FROM device WHERE posture = ?1 AND posture <> 0)",
                )?;
                page.iter().try_for_each(|n| forget.execute([n]).map(drop))
            })?;
        }
        Ok(())
    }
}

/// Devices of one posture that may be damaged before it is passed over.
const MAX_DAMAGED: usize = 16;
/// Postures that are forgotten in one transaction.
const MAX_DROPPED: usize = 500;

fn representative(c: &Connection, posture: i64, n: i64, device: DeviceId) -> Sql<Option<Representative>> {
    let sql = format!(
        "SELECT {COLUMNS} FROM device d JOIN registration r ON r.device = d.n \
         JOIN device_state s ON s.device = d.n WHERE d.n = ?1"
    );
    let stands = c.prepare_cached(&sql)?.query_row([n], |row| Stands::read(row, 0)).optional()?;
    let (Some(stands), Some(Known { registration, state: Some(state) })) = (stands, registry::known(c, device)?) else {
        return Ok(None);
    };
    let files = query::files(c, device, MAX_FILES)?;
    let log = "SELECT bytes FROM boot_log WHERE device = ?1 AND digest = ?2";
    let boot_log = match &state.boot.boot_log {
        None => None,
        Some(facts) => {
            let held: Option<Vec<u8>> =
                c.prepare_cached(log)?.query_row(params![n, facts.digest], |row| row.get(0)).optional()?;
            held.filter(|bytes| sha256(bytes) == facts.digest)
        }
    };
    Ok(Some(Representative { posture, stands, registration, state, files, boot_log }))
}

impl Representative {
    /// How lists show a device of this posture that stands by `outcome`.
    pub(super) fn filed(&self, outcome: &DeviceState) -> Filed {
        self.stands.re_appraised(outcome.clone()).filed()
    }
}

/// The digest that names a posture. Files are named by the hash of their set: a set that grows is another.
fn digest(c: &Connection, posture: &[u8; 32], mset: Option<i64>, product: Option<&str>) -> Sql<[u8; 32]> {
    let set: Option<[u8; 32]> = match mset {
        None => None,
        Some(mset) => {
            c.prepare_cached("SELECT hash FROM mset WHERE n = ?1")?.query_row([mset], |row| row.get(0)).optional()?
        }
    };
    Ok(name(posture, set.as_ref(), product))
}

pub(super) fn name(posture: &[u8; 32], set: Option<&[u8; 32]>, product: Option<&str>) -> [u8; 32] {
    // The product comes last: what is before it has one of two lengths.
    let product = product.map_or(&b""[..], str::as_bytes);
    let set_bytes = set.map_or(&[][..], |set| &set[..]);
    sha256(&[&[u8::from(set.is_some())], &posture[..], set_bytes, product].concat())
}

/// The number of a posture, with a row of its own where it is new.
pub(super) fn number(c: &Connection, posture: &[u8; 32], mset: Option<i64>, product: Option<&str>) -> Sql<i64> {
    let hash = digest(c, posture, mset, product)?;
    let known = c.prepare_cached("SELECT n FROM posture WHERE hash = ?1")?.query_row([hash], |row| row.get(0));
    match known.optional()? {
        Some(n) => Ok(n),
        None => c.prepare_cached("INSERT INTO posture (hash, product) VALUES (?1, ?2)")?.insert(params![hash, product]),
    }
}

pub(super) fn set(c: &Connection, device: i64, posture: i64) -> Sql<()> {
    c.prepare_cached("UPDATE device SET posture = ?2 WHERE n = ?1 AND posture <> ?2")?
        .execute([device, posture])
        .map(drop)
}

/// The state as a row holds it.
pub(super) fn state(bytes: &[u8]) -> Sql<DeviceState> {
    decode("device state", bytes)
}
