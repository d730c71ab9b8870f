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
    pub fn forget(&self, device: DeviceId, unblock: bool, by: &str, now: UnixSeconds) -> Result<Forgotten, StoreError> {
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

#[cfg(test)]
mod tests {
    use super::{
        super::{
            LabelChange, Registered,
            tests::{NOW, accepted, commit, contraindicated, id, registration, store, with_files},
        },
        *,
    };

    #[test]
    fn nothing_is_left_of_a_device_and_nothing_of_others_is_gone() {
        let (_folder, store) = store();
        for number in 1..3 {
            store.register(registration(number)).unwrap();
            commit(&store, with_files(contraindicated(accepted(number, 1, None)), &["sh", &number.to_string()]));
            let label = LabelChange::new("site", Some("x")).unwrap();
            store.label(id(number), vec![label], "ada", NOW).unwrap();
        }
        let other = store.device(id(2), NOW).unwrap();
        assert_eq!(store.forget(id(1), false, "ada", NOW), Ok(Forgotten::Done));
        assert_eq!(store.forget(id(1), false, "ada", NOW), Ok(Forgotten::Unknown));
        assert_eq!(store.device(id(2), NOW).unwrap(), other);
        let left: Vec<(String, i64)> = store
            .read(|c| {
                let tables = about_devices(c)?;
                assert!(tables.len() >= 6, "{tables:?}");
                let orphans = |(table, column): &(String, String)| {
                    let sql = format!("SELECT count(*) FROM {table} WHERE {column} NOT IN (SELECT n FROM device)");
                    Ok((table.clone(), c.query_row(&sql, [], |row| row.get(0))?))
                };
                tables.iter().map(orphans).collect()
            })
            .unwrap();
        assert!(left.iter().all(|(_, rows)| *rows == 0), "{left:?}");
        let files: i64 = store.read(|c| c.query_row("SELECT count(*) FROM file", [], |row| row.get(0))).unwrap();
        assert_eq!(files, 2, "what only that device ran is forgotten, what others run is not");
        let log = store.operator_log().unwrap();
        assert_eq!(
            (log[0].who.as_str(), log[0].what.as_str(), log[0].about.clone()),
            ("ada", "forgot", id(1).to_string())
        );
        assert_eq!(store.register(registration(1)), Ok(Registered::New), "it may enrol anew");
    }

    #[test]
    fn a_device_that_is_shut_out_stays_so_unless_it_is_said() {
        let (_folder, store) = store();
        store.register(registration(1)).unwrap();
        store.revoke(id(1), "stolen", "ada", NOW).unwrap();
        assert_eq!(store.forget(id(1), false, "ada", NOW), Ok(Forgotten::Revoked));
        assert!(store.registration(id(1)).unwrap().unwrap().revoked.is_some());
        assert_eq!(store.forget(id(1), true, "ada", NOW), Ok(Forgotten::Done));
        assert_eq!(store.operator_log().unwrap()[0].what, "forgot, with its revocation");
        assert_eq!(store.registration(id(1)), Ok(None));
    }
}
