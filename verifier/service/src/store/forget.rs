//! Forgetting a device: everything that the store holds of it goes, and nothing else changes.

use appraisal::UnixSeconds;
use evidence::claims::DeviceId;
use rusqlite::{Connection, OptionalExtension as _};

use super::{Sql, Store, StoreError, files, operators};

/// What became of asking to forget a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Forgotten {
    /// Nothing is left of it.
    Done,
    /// No such device.
    Unknown,
    /// It is shut out: that its endorsement keys are blocked stands in what would be forgotten.
    Revoked,
}

impl Store {
    /// Removes everything that is known of a device; who did it stands in the operators' log. A device that is shut out
    /// could enrol anew afterwards, so that `unblock` must be said.
    ///
    /// # Errors
    /// [`StoreError`] where it could not be written; then nothing has been removed.
    pub fn forget(
        &self,
        device: DeviceId,
        unblock: bool,
        by: &str,
        now: UnixSeconds,
    ) -> Result<Forgotten, StoreError> {
        let by = by.to_owned();
        self.write(1, move |c| {
            let read = "SELECT n, revoked, mset FROM device WHERE id = ?1";
            let row = |row: &rusqlite::Row<'_>| Ok((row.get(0)?, row.get(1)?, row.get(2)?));
            let Some((n, revoked, mset)) = c.query_row(read, [device.0], row).optional()? else {
                return Ok(Forgotten::Unknown);
            };
            let (n, revoked, mset): (i64, bool, Option<i64>) = (n, revoked, mset);
            if revoked && !unblock {
                return Ok(Forgotten::Revoked);
            }
            for (table, column) in about_devices(c)? {
                c.execute(&format!("DELETE FROM \"{table}\" WHERE \"{column}\" = ?1"), [n])?;
            }
            c.execute("DELETE FROM device WHERE n = ?1", [n])?;
            if let Some(mset) = mset {
                files::drop_unused(c, mset)?;
            }
            let what = if revoked { "forgot, with its revocation" } else { "forgot" };
            operators::log(c, &by, what, &device.to_string(), now)?;
            Ok(Forgotten::Done)
        })
    }
}

/// Tables that say something about devices, by the column that refers to one: asked of the schema, so that none is
/// forgotten here.
fn about_devices(c: &Connection) -> Sql<Vec<(String, String)>> {
    c.prepare(
        "SELECT t.name, k.\"from\" FROM sqlite_schema t JOIN pragma_foreign_key_list(t.name) k \
         WHERE t.type = 'table' AND k.\"table\" = 'device'",
    )?
    .query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?
    .collect()
}
