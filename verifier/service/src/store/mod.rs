//! What the verifier remembers: registrations, the state of each device, what runs where, history. Judged evidence goes
//! in and is durable before it is acknowledged; operators' questions are answered from connections that only read.
//!
//! Everything here blocks, except what is named `…_async`; from async code use [`Store::off_thread`] for the rest.

mod backup;
mod boot_logs;
mod commit;
mod endorsements;
mod epochs;
mod error;
mod files;
mod forget;
mod issued;
mod keys;
mod labels;
mod migrate;
mod operators;
mod postures;
mod query;
mod reached;
mod reappraise;
mod registry;
mod secrets;
mod standing;
mod types;
mod writer;

use std::{
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use evidence::claims::DeviceId;
use rusqlite::{Connection, OpenFlags, config::DbConfig};
use tokio::sync::{broadcast, oneshot};

pub use backup::{BackupError, backup};
pub use endorsements::{Allowed, Endorsed, Listed, Place, Ruling};
pub use epochs::{EpochRow, LatestEpochs, Opening};
pub use error::{StoreError, Trouble};
pub use forget::Forgotten;
pub use keys::StoredKeys;
pub use labels::{BadLabel, LabelChange, Labelled};
pub use migrate::{Glance, Versions, glance, migrate};
pub use operators::{OperatorAction, Role, TokenAdded, TokenEntry};
pub use postures::{Posture, Representative, Unposed};
pub use reached::Reached;
pub use reappraise::{Behind, Follow, HeldAgainst, Outcome, Outcomes};
pub(crate) use registry::identity_cause;
pub use secrets::Secret;
pub use types::{
    Accepted, Committed, Denial, Detail, Endorsement, Filter, FleetCounts, HistoryRow, Known, NewRegistration, Page,
    Registered, Registration, Summary, Unresolved, What,
};

use crate::limits::{MAX_LISTED_CAUSES, MAX_LISTED_DETAIL, MAX_READERS};
use writer::{Job, Task, Writer};

/// The store. Cheap to clone; the last one to go closes it.
#[derive(Clone)]
pub struct Store(Arc<Inner>);

struct Inner {
    path: PathBuf,
    readers: Mutex<Vec<Connection>>,
    changed: broadcast::Sender<DeviceId>,
    writer: Writer,
}

type Sql<T> = Result<T, rusqlite::Error>;

impl Store {
    /// Opens the database at `path`, readable by its owner alone, and makes it where it does not exist.
    ///
    /// # Errors
    /// [`StoreError`] names the file and what is wrong with it.
    pub fn open(path: &Path) -> Result<Self, StoreError> {
        create_private(path)?;
        let mut connection = connect(path)?;
        migrate::run(path, &mut connection)?;
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        backup::take_place(&mut connection, now).map_err(|error| StoreError::database(path, &error))?;
        let writer = Writer::start(path, connection)?;
        let (changed, _) = broadcast::channel(1024);
        Ok(Self(Arc::new(Inner { path: path.to_owned(), readers: Mutex::default(), changed, writer })))
    }

    /// The database file.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.0.path
    }

    /// Commits judged evidence: all that is wanted at that moment by anyone in one transaction, durable on return. The
    /// answers are in the order of `batch`.
    ///
    /// # Errors
    /// [`StoreError`] where nothing of the batch has been written.
    pub fn commit(&self, batch: Vec<Accepted>) -> Result<Vec<Committed>, StoreError> {
        let devices: Vec<DeviceId> = batch.iter().map(|accepted| accepted.device).collect();
        let outcomes = self.write(batch.len(), move |c| commit::all(c, &batch))?;
        self.announce(&devices, &outcomes);
        Ok(outcomes)
    }

    /// [`Store::commit`], awaited.
    ///
    /// # Errors
    /// As there.
    pub async fn commit_async(&self, batch: Vec<Accepted>) -> Result<Vec<Committed>, StoreError> {
        let devices: Vec<DeviceId> = batch.iter().map(|accepted| accepted.device).collect();
        let (reply, answer) = oneshot::channel();
        let weight = batch.len();
        let work = move |c: &Connection| commit::all(c, &batch);
        let job = Box::new(Task::new(weight, work, move |outcome| drop(reply.send(outcome))));
        self.enqueue_async(job).await?;
        let outcomes = answer.await.map_err(|_| self.closed())??;
        self.announce(&devices, &outcomes);
        Ok(outcomes)
    }

    /// Devices of which evidence has been committed, from now on. A receiver that lags reads the store again.
    #[must_use]
    pub fn subscribe(&self) -> broadcast::Receiver<DeviceId> {
        self.0.changed.subscribe()
    }

    /// Runs something that blocks where it may.
    ///
    /// # Errors
    /// What `f` returns, or [`StoreError::Closed`] where the program is ending.
    pub async fn off_thread<T, E>(&self, f: impl FnOnce(&Self) -> Result<T, E> + Send + 'static) -> Result<T, E>
    where
        T: Send + 'static,
        E: From<StoreError> + Send + 'static,
    {
        let store = self.clone();
        let done = tokio::task::spawn_blocking(move || f(&store)).await;
        done.unwrap_or_else(|_| Err(self.closed().into()))
    }

    fn announce(&self, devices: &[DeviceId], outcomes: &[Committed]) {
        if self.0.changed.receiver_count() == 0 {
            return;
        }
        for (device, _) in devices.iter().zip(outcomes).filter(|(_, outcome)| **outcome == Committed::Done) {
            let _ = self.0.changed.send(*device);
        }
    }

    /// Runs `work` in the next transaction and returns once it is durable.
    fn write<T: Send + 'static>(
        &self,
        weight: usize,
        work: impl FnOnce(&Connection) -> Sql<T> + Send + 'static,
    ) -> Result<T, StoreError> {
        let (reply, answer) = std::sync::mpsc::sync_channel(1);
        let job: Box<dyn Job> = Box::new(Task::new(weight, work, move |outcome| drop(reply.send(outcome))));
        let queue = self.0.writer.queue().ok_or_else(|| self.closed())?;
        queue.send(job).map_err(|_| self.closed())?;
        answer.recv().map_err(|_| self.closed())?
    }

    async fn enqueue_async(&self, job: Box<dyn Job>) -> Result<(), StoreError> {
        use std::sync::mpsc::TrySendError;
        let queue = self.0.writer.queue().ok_or_else(|| self.closed())?;
        match queue.try_send(job) {
            Ok(()) => Ok(()),
            Err(TrySendError::Disconnected(_)) => Err(self.closed()),
            Err(TrySendError::Full(job)) => {
                let queue = queue.clone();
                let sent = tokio::task::spawn_blocking(move || queue.send(job)).await;
                sent.ok().and_then(Result::ok).ok_or_else(|| self.closed())
            }
        }
    }

    /// Runs a query on a connection that only reads.
    fn read<T>(&self, query: impl FnOnce(&Connection) -> Sql<T>) -> Result<T, StoreError> {
        let pooled = self.0.readers.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let connection = match pooled {
            Some(connection) => connection,
            None => connect_reader(&self.0.path)?,
        };
        let answer = query(&connection).map_err(|error| StoreError::database(&self.0.path, &error));
        let mut readers = self.0.readers.lock().unwrap_or_else(PoisonError::into_inner);
        if readers.len() < MAX_READERS {
            readers.push(connection);
        }
        answer
    }

    fn closed(&self) -> StoreError {
        StoreError::Closed { file: self.0.path.clone() }
    }
}

/// The database holds secrets: it is made for its owner alone, and SQLite gives its log the same mode.
fn create_private(path: &Path) -> Result<(), StoreError> {
    use std::os::unix::fs::OpenOptionsExt as _;
    let created = std::fs::OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(path);
    created.map(drop).map_err(|error| {
        let kind = match error.kind() {
            std::io::ErrorKind::StorageFull => Trouble::Full,
            std::io::ErrorKind::PermissionDenied | std::io::ErrorKind::ReadOnlyFilesystem => Trouble::ReadOnly,
            _ => Trouble::Open,
        };
        StoreError::Database { file: path.to_owned(), why: error.to_string(), kind }
    })
}

fn connect(path: &Path) -> Result<Connection, StoreError> {
    let open = || {
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let connection = Connection::open_with_flags(path, flags)?;
        connection.busy_timeout(Duration::from_secs(10))?;
        connection.pragma_update(None, "journal_mode", "WAL")?;
        // NORMAL may lose what has been acknowledged when power fails.
        connection.pragma_update(None, "synchronous", "FULL")?;
        connection.pragma_update(None, "wal_autocheckpoint", 0)?;
        connection.pragma_update(None, "foreign_keys", true)?;
        prepare_once(&connection)?;
        Ok(connection)
    };
    open().map_err(|error| StoreError::database(path, &error))
}

/// Keeps statements as they were prepared. Without the stability guarantee, SQLite plans anew whenever a value is bound to
/// a statement about a table with partial indexes: three times the cost of the statement.
fn prepare_once(connection: &Connection) -> Sql<()> {
    connection.set_prepared_statement_cache_capacity(64);
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_QPSG, true).map(drop)
}

fn connect_reader(path: &Path) -> Result<Connection, StoreError> {
    let open = || {
        let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let connection = Connection::open_with_flags(path, flags)?;
        connection.busy_timeout(Duration::from_secs(10))?;
        prepare_once(&connection)?;
        Ok(connection)
    };
    open().map_err(|error| StoreError::database(path, &error))
}

/// SQLite's integers are signed. Times and counts stay far below.
fn signed(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

fn unsigned(value: i64) -> u64 {
    u64::try_from(value).unwrap_or(0)
}

fn verdict_number(verdict: appraisal::Verdict) -> i64 {
    appraisal::Verdict::ALL.iter().position(|known| *known == verdict).map_or(2, |at| at as i64)
}

fn verdict_from(number: i64) -> appraisal::Verdict {
    let known = usize::try_from(number).ok().and_then(|at| appraisal::Verdict::ALL.get(at).copied());
    known.unwrap_or(appraisal::Verdict::Unknown)
}

/// What we wrote ourselves and cannot read: the row is damaged.
fn damaged(what: &'static str, why: impl std::fmt::Display) -> rusqlite::Error {
    rusqlite::Error::FromSqlConversionFailure(0, rusqlite::types::Type::Blob, format!("{what}: {why}").into())
}

fn encode<T: serde::Serialize>(what: &'static str, value: &T) -> Sql<Vec<u8>> {
    serde_cbor::to_vec(value).map_err(|error| damaged(what, error))
}

fn decode<T: serde::de::DeserializeOwned>(what: &'static str, bytes: &[u8]) -> Sql<T> {
    serde_cbor::from_slice(bytes).map_err(|error| damaged(what, error))
}

/// Causes as lists and history keep them: bounded, so that no device makes either large.
fn shorten(causes: &mut Vec<appraisal::Cause>) {
    causes.truncate(MAX_LISTED_CAUSES);
    for cause in causes.iter_mut().filter(|cause| cause.detail.len() > MAX_LISTED_DETAIL) {
        let end = (0..=MAX_LISTED_DETAIL).rev().find(|at| cause.detail.is_char_boundary(*at));
        cause.detail.truncate(end.unwrap_or(0));
        cause.detail.push('…');
    }
}

#[cfg(test)]
pub(crate) mod tests;
