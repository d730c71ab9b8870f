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

/// Where the database is a copy that has been put in the store's place: it is no copy any more, and knows since when.
/// Tokens of operators end: one that was revoked since the copy was made must not come back.
pub(super) fn take_place(connection: &mut Connection, now: UnixSeconds) -> Sql<()> {
    let id: i32 = connection.pragma_query_value(None, "application_id", |row| row.get(0))?;
    if id != COPY {
        return Ok(());
    }
    let transaction = connection.transaction_with_behavior(rusqlite::TransactionBehavior::Immediate)?;
    transaction.execute(
        "INSERT INTO mark (name, at) VALUES (?1, ?2) ON CONFLICT (name) DO UPDATE SET at = max(at, excluded.at)",
        params![RESTORED, signed(now)],
    )?;
    transaction.execute("DELETE FROM api_token", [])?;
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
