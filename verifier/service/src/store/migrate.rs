//! The database's version, and bringing it up to the one that this program knows.

use std::path::Path;

use appraisal::UnixSeconds;
use rusqlite::Connection;

use super::{StoreError, backup, connect, connect_reader, reached, unsigned};

/// Migrations in order; `PRAGMA user_version` says how many have been run.
const MIGRATIONS: &[&str] = &[
    include_str!("schema.sql"),
    include_str!("schema_2.sql"),
    include_str!("schema_3.sql"),
    include_str!("schema_4.sql"),
];

/// A database's version, before and after.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Versions {
    /// As it was found.
    pub found: i64,
    /// The last one that this program knows.
    pub known: i64,
}

/// Brings the store in the file `path` up to this program's version. No service may run on it.
///
/// # Errors
/// [`StoreError`] where it is newer, or could not be written; then nothing has changed.
pub fn migrate(path: &Path) -> Result<Versions, StoreError> {
    run(path, &mut connect(path)?)
}

/// What a store says of itself without being opened: nothing is written, and nothing brought up to date.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Glance {
    /// Its version.
    pub versions: Versions,
    /// Whether it is a copy that no verifier has taken as its store yet.
    pub is_backup: bool,
    /// How far each series of signed documents has come.
    pub reached: reached::Reached,
    /// Until when the keys in it hold, where there are some.
    pub keys_until: Option<UnixSeconds>,
}

/// Looks into the store in the file `path`.
///
/// # Errors
/// [`StoreError`] where there is none, or where it is newer than this program.
pub fn glance(path: &Path) -> Result<Glance, StoreError> {
    let connection = connect_reader(path)?;
    let known = known();
    let look = || {
        let found: i64 = connection.query_row("PRAGMA user_version", [], |row| row.get(0))?;
        let versions = Versions { found, known };
        let is_backup = backup::is_copy(&connection)?;
        let reached = match found {
            1..=3 => reached::before_version_4(&connection)?,
            4.. if found <= known => reached::all(&connection)?,
            _ => reached::Reached::new(),
        };
        let keys_until = if (2..=known).contains(&found) {
            let until = "SELECT max(not_after) FROM verifier_key WHERE request IS NOT NULL";
            connection.query_row(until, [], |row| row.get::<_, Option<i64>>(0))?.map(unsigned)
        } else {
            None
        };
        Ok(Glance { versions, is_backup, reached, keys_until })
    };
    let glance = look().map_err(|error| StoreError::database(path, &error))?;
    match glance.versions.found {
        found if found > known => Err(StoreError::TooNew { file: path.to_owned(), found, known }),
        _ => Ok(glance),
    }
}

fn known() -> i64 {
    i64::try_from(MIGRATIONS.len()).unwrap_or(i64::MAX)
}

pub(super) fn run(path: &Path, connection: &mut Connection) -> Result<Versions, StoreError> {
    let known = known();
    let run = |connection: &mut Connection| {
        let transaction = connection.transaction_with_behavior(rusqlite::TransactionBehavior::Immediate)?;
        let found: i64 = transaction.query_row("PRAGMA user_version", [], |row| row.get(0))?;
        for migration in MIGRATIONS.iter().skip(usize::try_from(found).unwrap_or(usize::MAX)) {
            transaction.execute_batch(migration)?;
        }
        if found < known {
            transaction.pragma_update(None, "user_version", known)?;
        }
        transaction.commit().map(|()| found)
    };
    match run(connection).map_err(|error| StoreError::database(path, &error))? {
        found if found > known => Err(StoreError::TooNew { file: path.to_owned(), found, known }),
        found => Ok(Versions { found, known }),
    }
}

#[cfg(test)]
mod tests {
    use rusqlite::params;

    use super::{
        super::{
            Store, Trouble,
            tests::{NOW, accepted, id, registration, store},
        },
        *,
    };

    /// A database as version 1 made it, with a device, its history and a release.
    fn version_1(path: &Path) {
        let c = Connection::open(path).unwrap();
        c.pragma_update(None, "journal_mode", "WAL").unwrap();
        c.execute_batch(include_str!("schema.sql")).unwrap();
        c.pragma_update(None, "user_version", 1).unwrap();
        let new = registration(1);
        c.execute("INSERT INTO device (id, product) VALUES (?1, 'acme/router')", [new.device.0]).unwrap();
        c.execute(
            "INSERT INTO registration (device, ak, ak_name, ek_class, manufacturer, first_seen) \
             VALUES (1, ?1, ?2, 0, 'id:00001014', ?3)",
            params![new.ak.area(), new.ak.name_digest(), NOW as i64],
        )
        .unwrap();
        c.execute("INSERT INTO ek (digest, device) VALUES (?1, 1)", [new.eks[0]]).unwrap();
        c.execute(
            "INSERT INTO history (device, at, what, verdict, causes) VALUES (1, ?1, 'enrolled', 2, x'80')",
            [NOW as i64],
        )
        .unwrap();
        c.execute("INSERT INTO reference_sequence (product, sequence) VALUES ('acme/router', 7)", []).unwrap();
    }

    #[test]
    fn a_store_of_version_1_is_brought_up_to_date_with_all_that_is_in_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("store.sqlite");
        version_1(&path);
        let before = glance(&path).unwrap();
        let sequences: Vec<u64> = before.reached.values().map(|seen| seen.sequence).collect();
        assert_eq!((before.versions.found, sequences), (1, vec![7]));
        assert_eq!(migrate(&path).unwrap(), Versions { found: 1, known: known() });
        assert_eq!(migrate(&path).unwrap(), Versions { found: known(), known: known() });
        let store = Store::open(&path).unwrap();
        assert_eq!(store.reached().unwrap(), before.reached);
        let known = store.registration(id(1)).unwrap().unwrap();
        assert_eq!(
            (known.ak, known.first_seen, known.product.as_deref()),
            (registration(1).ak, NOW, Some("acme/router"))
        );
        assert_eq!(store.history(id(1), NOW).unwrap().len(), 1);
        assert_eq!(store.commit(vec![accepted(1, 1, None)]).unwrap(), [super::super::Committed::Done]);
    }

    /// The same as version 2 left it, with what the device's last evidence said.
    fn version_2(path: &Path) {
        version_1(path);
        let c = Connection::open(path).unwrap();
        c.execute_batch(include_str!("schema_2.sql")).unwrap();
        c.pragma_update(None, "user_version", 2).unwrap();
        let accepted = accepted(1, 1, None);
        let state = &accepted.appraisal.state;
        let times = params![state.judged as i64, state.expires as i64, state.release];
        c.execute("UPDATE device SET verdict = 0, judged = ?1, expires = ?2, release = ?3", times).unwrap();
        c.execute(
            "INSERT INTO device_state (device, last, state, evidence, result) VALUES (1, ?1, ?2, x'01', x'02')",
            params![state.last.evidence, serde_cbor::to_vec(state).unwrap()],
        )
        .unwrap();
    }

    #[test]
    fn a_store_of_version_2_goes_on_where_it_was_and_holds_no_boot_log() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("store.sqlite");
        version_2(&path);
        assert_eq!(migrate(&path).unwrap(), Versions { found: 2, known: known() });
        let store = Store::open(&path).unwrap();
        assert_eq!(store.state(id(1)).unwrap(), Some(accepted(1, 1, None).appraisal.state));
        assert_eq!(store.boot_log(id(1), &[0; 32]), Ok(None));
        assert_eq!(store.commit(vec![accepted(1, 2, Some(1))]).unwrap(), [super::super::Committed::Done]);
    }

    #[test]
    fn in_a_store_of_version_3_postures_of_devices_with_evidence_are_to_be_worked_out() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("store.sqlite");
        version_2(&path);
        let c = Connection::open(&path).unwrap();
        c.execute_batch(include_str!("schema_3.sql")).unwrap();
        c.execute("INSERT INTO device (id) VALUES (?1)", [id(2).0]).unwrap();
        c.pragma_update(None, "user_version", 3).unwrap();
        drop(c);
        let store = Store::open(&path).unwrap();
        let (unposed, _) = store.unposed(0, 9).unwrap();
        assert_eq!(unposed.iter().map(|one| one.registration.device).collect::<Vec<_>>(), [id(1)]);
        store.pose(unposed.into_iter().map(|one| (one, [8; 32])).collect()).unwrap();
        let posture = store.postures().unwrap().remove(0);
        assert_eq!(posture.product.as_deref(), Some("acme/router"));
        assert!(store.representative(&posture).unwrap().is_some());
        assert_eq!((store.held_against().unwrap(), store.rejudged().unwrap()), (None, vec![]));
    }

    #[test]
    fn a_newer_store_and_what_is_none_are_refused_and_left_alone() {
        let (folder, store) = store();
        let path = store.path().to_owned();
        drop(store);
        Connection::open(&path).unwrap().pragma_update(None, "user_version", known() + 1).unwrap();
        let newer = StoreError::TooNew { file: path.clone(), found: known() + 1, known: known() };
        assert_eq!(migrate(&path), Err(newer.clone()));
        assert_eq!(glance(&path), Err(newer));
        let absent = folder.path().join("absent");
        assert!(matches!(migrate(&absent), Err(StoreError::Database { kind: Trouble::Open, .. })));
        assert!(!absent.exists());
    }
}
