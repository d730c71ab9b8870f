//! The database's version, and bringing it up to the one that this program knows.

use std::path::Path;

use rusqlite::Connection;

use super::{StoreError, connect, connect_reader};

/// Migrations in order; `PRAGMA user_version` says how many have been run.
const MIGRATIONS: &[&str] = &[include_str!("schema.sql"), include_str!("schema_2.sql")];

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

/// The version of the store in the file `path`, which is only read.
///
/// # Errors
/// [`StoreError`] where there is none.
pub fn versions(path: &Path) -> Result<Versions, StoreError> {
    let connection = connect_reader(path)?;
    let found = connection.query_row("PRAGMA user_version", [], |row| row.get(0));
    found.map(|found| Versions { found, known: known() }).map_err(|error| StoreError::database(path, &error))
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
