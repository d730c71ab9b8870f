//! A copy of the store, whole and from one instant, while a service goes on writing. The copy says of itself that it is
//! one: a verifier that finds it in its store's place knows that time has passed since, and asks every device anew.

use std::{
    fs::{self, File, OpenOptions},
    io,
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
};

use appraisal::UnixSeconds;
use data_encoding::HEXLOWER;
use ring::rand::{SecureRandom as _, SystemRandom};
use rusqlite::{Connection, OpenFlags, OptionalExtension as _, params};
use rustix::fs::{CWD, RenameFlags, renameat_with};

use super::{Sql, Store, StoreError, connect_reader, signed, unsigned};

/// SQLite's `application_id` of a copy ("CSbk"): part of the database whatever its version, and of no table.
const COPY: i32 = 0x4353_626B;
/// Name of the mark that a restored store has.
const RESTORED: &str = "restored";

/// No copy was made; nothing is left of the attempt.
#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    /// There is something of that name.
    #[error("{} exists: nothing was changed; name another file", .0.display())]
    Exists(PathBuf),
    /// No name for a file.
    #[error("{} names no file: UTF-8 without control characters is expected", .0.display())]
    Name(PathBuf),
    /// The file could not be written.
    #[error("cannot write {}: {source}", file.display())]
    Write {
        /// Which.
        file: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The store could not be read, or the copy not be written.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Copies the store in the file `store` to the new file `copy`, readable by its owner alone and durable on return.
///
/// # Errors
/// [`BackupError`]; then there is no file `copy`.
pub fn backup(store: &Path, copy: &Path) -> Result<(), BackupError> {
    let name = copy.file_name().and_then(|name| name.to_str()).ok_or_else(|| BackupError::Name(copy.to_owned()))?;
    let parent = copy.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let write = |file: &Path, source| BackupError::Write { file: file.to_owned(), source };
    // Absolute: SQLite takes what follows a colon for something else in names of other kinds.
    let folder = parent.canonicalize().map_err(|source| write(parent, source))?;
    let target = folder.join(name);
    if target.to_str().is_none_or(|text| text.chars().any(char::is_control)) {
        return Err(BackupError::Name(target));
    }
    if target.symlink_metadata().is_ok() {
        return Err(BackupError::Exists(target));
    }
    let mut random = [0; 8];
    SystemRandom::new().fill(&mut random).map_err(|_| write(&target, io::Error::other("no random numbers")))?;
    // Not under its name before it is whole and says what it is.
    let unfinished = folder.join(format!(".{name}.{}", HEXLOWER.encode(&random)));
    let made = make(store, &unfinished).and_then(|()| {
        let renamed = renameat_with(CWD, &unfinished, CWD, &target, RenameFlags::NOREPLACE);
        renamed.map_err(|error| match error {
            rustix::io::Errno::EXIST => BackupError::Exists(target.clone()),
            error => write(&target, error.into()),
        })?;
        File::open(&folder).and_then(|folder| folder.sync_all()).map_err(|source| write(&folder, source))
    });
    if made.is_err() {
        // The first error is the one to tell.
        drop(fs::remove_file(&unfinished));
    }
    made
}

fn make(store: &Path, unfinished: &Path) -> Result<(), BackupError> {
    let source = connect_reader(store)?;
    let write = |source| BackupError::Write { file: unfinished.to_owned(), source };
    let new = OpenOptions::new().write(true).create_new(true).mode(0o600).open(unfinished);
    drop(new.map_err(write)?);
    let path = unfinished.to_str().unwrap_or_default();
    source.execute("VACUUM INTO ?1", [path]).map_err(|error| StoreError::database(store, &error))?;
    mark(unfinished).map_err(|error| StoreError::database(unfinished, &error))?;
    File::open(unfinished).and_then(|file| file.sync_all()).map_err(write)
}

/// Makes the copy say that it is one, and one file.
fn mark(copy: &Path) -> Sql<()> {
    let connection = Connection::open_with_flags(copy, OpenFlags::SQLITE_OPEN_READ_WRITE)?;
    connection.pragma_update(None, "application_id", COPY)?;
    connection.pragma_update(None, "journal_mode", "DELETE")
}

/// Whether the database is a copy that no verifier has taken as its store.
pub(super) fn is_copy(connection: &Connection) -> Sql<bool> {
    let id: i32 = connection.pragma_query_value(None, "application_id", |row| row.get(0))?;
    Ok(id == COPY)
}

/// Where the database is a copy that has been put in the store's place: it is no copy any more, and knows since when.
/// Tokens of operators end: one that was revoked since the copy was made must not come back.
pub(super) fn take_place(connection: &mut Connection, now: UnixSeconds) -> Sql<()> {
    if !is_copy(connection)? {
        return Ok(());
    }
    let transaction = connection.transaction_with_behavior(rusqlite::TransactionBehavior::Immediate)?;
    transaction.execute(
        "INSERT INTO mark (name, at) VALUES (?1, ?2) ON CONFLICT (name) DO UPDATE SET at = max(at, excluded.at)",
        params![RESTORED, signed(now)],
    )?;
    transaction.execute("DELETE FROM api_token", [])?;
    // Whoever has the copy could make nonces of this verifier with them.
    transaction.execute("DELETE FROM secret", [])?;
    transaction.execute("DELETE FROM enrolment_key", [])?;
    super::operators::log(&transaction, "verifier", "store restored", "from a backup; tokens of operators ended", now)?;
    transaction.pragma_update(None, "application_id", 0)?;
    transaction.commit()
}

impl Store {
    /// When this store was last restored from a backup: what was issued before may be unknown to it.
    ///
    /// # Errors
    /// [`StoreError`] where it could not be read.
    pub fn restored_at(&self) -> Result<Option<UnixSeconds>, StoreError> {
        let sql = "SELECT at FROM mark WHERE name = ?1";
        self.read(|c| Ok(c.query_row(sql, [RESTORED], |row| row.get(0)).optional()?.map(unsigned)))
    }
}

#[cfg(test)]
mod tests {
    use std::{
        os::unix::fs::PermissionsExt as _,
        sync::atomic::{AtomicBool, Ordering},
    };

    use super::{
        super::{
            Role,
            tests::{NOW, accepted, commit, id, registration, store},
        },
        *,
    };

    fn count(store: &Store, sql: &str) -> i64 {
        store.read(|c| c.query_row(sql, [], |row| row.get(0))).unwrap()
    }

    #[test]
    fn a_copy_is_whole_while_the_store_is_being_written() {
        let (folder, store) = store();
        for number in 0..8 {
            store.register(registration(number)).unwrap();
            commit(&store, accepted(number, 1, None));
        }
        let stop = AtomicBool::new(false);
        std::thread::scope(|scope| {
            // One transaction moves all devices, so that any instant shows them alike.
            scope.spawn(|| {
                let mut clock = 1;
                while !stop.load(Ordering::Relaxed) {
                    let batch = (0..8).map(|number| accepted(number, clock + 1, Some(clock))).collect();
                    store.commit(batch).unwrap();
                    clock += 1;
                }
            });
            for round in 0..5 {
                let copy = folder.path().join(format!("copy-{round}"));
                backup(store.path(), &copy).unwrap();
                assert_eq!(fs::metadata(&copy).unwrap().permissions().mode() & 0o777, 0o600);
                let copy = Store::open(&copy).unwrap();
                assert_eq!(count(&copy, "SELECT count(DISTINCT judged) FROM device"), 1);
                assert_eq!(
                    count(&copy, "SELECT count(*) FROM pragma_integrity_check WHERE integrity_check <> 'ok'"),
                    0
                );
                assert_eq!(count(&copy, "SELECT count(*) FROM device_state"), 8);
            }
            stop.store(true, Ordering::Relaxed);
        });
    }

    #[test]
    fn what_is_there_already_is_never_written_over_and_nothing_is_left_of_a_failure() {
        let (folder, store) = store();
        let copy = folder.path().join("copy");
        fs::write(&copy, "precious").unwrap();
        assert!(matches!(backup(store.path(), &copy), Err(BackupError::Exists(_))));
        assert_eq!(fs::read(&copy).unwrap(), b"precious");
        let dangling = folder.path().join("link");
        std::os::unix::fs::symlink("nowhere", &dangling).unwrap();
        assert!(matches!(backup(store.path(), &dangling), Err(BackupError::Exists(_))));
        assert!(matches!(backup(store.path(), &folder.path().join("no/folder")), Err(BackupError::Write { .. })));
        assert!(matches!(backup(store.path(), Path::new("..")), Err(BackupError::Name(_))));
        let other = folder.path().join("other");
        assert!(matches!(backup(&folder.path().join("no-store"), &other), Err(BackupError::Store(_))));
        fs::write(folder.path().join("no-database"), vec![7; 8192]).unwrap();
        assert!(matches!(backup(&folder.path().join("no-database"), &other), Err(BackupError::Store(_))));
        let names: Vec<_> = fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert!(!names.iter().any(|name| name.to_string_lossy().contains("other")), "{names:?}");
    }

    #[test]
    fn a_store_knows_when_it_took_the_place_of_another() {
        let (folder, store) = store();
        store.register(registration(1)).unwrap();
        store.add_token("ci", [7; 32], Role::Reader, "test", NOW).unwrap();
        assert_eq!(store.restored_at(), Ok(None));
        let copy = folder.path().join("copy.sqlite");
        backup(store.path(), &copy).unwrap();
        // A copy of the copy is one too.
        let second = folder.path().join("second.sqlite");
        backup(&copy, &second).unwrap();
        for copy in [copy, second] {
            assert!(super::super::glance(&copy).unwrap().is_backup);
            let restored = Store::open(&copy).unwrap();
            let at = restored.restored_at().unwrap().unwrap();
            assert!(at > 1_700_000_000, "{at}");
            assert!(restored.registration(id(1)).unwrap().is_some());
            assert_eq!(restored.tokens(), Ok(vec![]), "one that was revoked since must not come back");
            assert_eq!(restored.operator_log().unwrap().last().unwrap().what, "store restored");
            drop(restored);
            assert!(!super::super::glance(&copy).unwrap().is_backup);
            assert_eq!(Store::open(&copy).unwrap().restored_at(), Ok(Some(at)), "once");
        }
        assert_eq!(store.restored_at(), Ok(None), "the store itself has not been restored");
    }
}
