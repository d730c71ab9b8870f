//! What can go wrong with the store. Every message names the file.

use std::path::{Path, PathBuf};

/// The database could not be read or written; what was asked for has not happened.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    /// SQLite or the file system said no.
    #[error("store {}: {why}{}", file.display(), remedy(*kind))]
    Database {
        /// The database.
        file: PathBuf,
        /// What it said.
        why: String,
        /// What kind of trouble.
        kind: Trouble,
    },
    /// The database was written by a later version.
    #[error(
        "store {}: its schema version is {found}, this program knows {known}: run the version that wrote it, or a later one",
        file.display()
    )]
    TooNew {
        /// The database.
        file: PathBuf,
        /// Its version.
        found: i64,
        /// The last one known here.
        known: i64,
    },
    /// The writing thread has ended.
    #[error("store {}: it has been closed", file.display())]
    Closed {
        /// The database.
        file: PathBuf,
    },
}

/// What kind of trouble the database has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trouble {
    /// No space left.
    Full,
    /// Not writable.
    ReadOnly,
    /// The disk or its file system fails.
    Io,
    /// Another process holds it.
    Locked,
    /// Cannot be opened.
    Open,
    /// Not a database, or damaged.
    Damaged,
    /// Anything else.
    Other,
}

const fn remedy(kind: Trouble) -> &'static str {
    match kind {
        Trouble::Full => "; free some space on that file system, nothing was written and nothing was acknowledged",
        Trouble::ReadOnly => "; make the file and its folder writable for the user that runs the verifier",
        Trouble::Io => "; see the kernel's log for what its disk says",
        Trouble::Locked => "; another process holds it: end that one",
        Trouble::Open => "; does its folder exist, and may this user write there?",
        Trouble::Damaged => "; restore it from a backup",
        Trouble::Other => "",
    }
}

impl StoreError {
    pub(super) fn database(file: &Path, error: &rusqlite::Error) -> Self {
        use rusqlite::ErrorCode;
        let kind = match error.sqlite_error_code() {
            Some(ErrorCode::DiskFull) => Trouble::Full,
            Some(ErrorCode::ReadOnly | ErrorCode::PermissionDenied) => Trouble::ReadOnly,
            Some(ErrorCode::SystemIoFailure) => Trouble::Io,
            Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => Trouble::Locked,
            Some(ErrorCode::CannotOpen) => Trouble::Open,
            Some(ErrorCode::NotADatabase | ErrorCode::DatabaseCorrupt) => Trouble::Damaged,
            None if matches!(error, rusqlite::Error::FromSqlConversionFailure(..)) => Trouble::Damaged,
            _ => Trouble::Other,
        };
        Self::Database { file: file.to_owned(), why: error.to_string(), kind }
    }
}
