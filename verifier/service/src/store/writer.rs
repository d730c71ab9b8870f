//! The one thread that writes. Jobs come in; all that wait are run in one transaction, and answered once it is durable.
//! That is the group commit: one fsync for many, and no waiting for more to come.
//!
//! Checkpoints run on a thread and a connection of their own, so that no commit pays for one.

use std::{
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
        mpsc::{Receiver, SyncSender, sync_channel},
    },
    thread::JoinHandle,
    time::Duration,
};

use rusqlite::Connection;

use super::{StoreError, connect};
use crate::limits::{MAX_BATCH, MAX_LOG_PAGES, MAX_QUEUED_JOBS};

/// Something to be done in the next transaction.
pub(super) trait Job: Send {
    /// Rows, roughly.
    fn weight(&self) -> usize;
    /// Does it; what it returns as an error undoes this job alone.
    fn run(&mut self, connection: &Connection) -> Result<(), rusqlite::Error>;
    /// Tells the one who waits.
    fn finish(self: Box<Self>, outcome: Result<(), StoreError>);
}

/// A closure as a [`Job`].
pub(super) struct Task<F, T, R> {
    work: Option<F>,
    value: Option<T>,
    reply: R,
    weight: usize,
}

impl<F, T, R> Task<F, T, R>
where
    F: FnOnce(&Connection) -> Result<T, rusqlite::Error> + Send,
    R: FnOnce(Result<T, StoreError>) + Send,
    T: Send,
{
    pub(super) const fn new(weight: usize, work: F, reply: R) -> Self {
        Self { work: Some(work), value: None, reply, weight }
    }
}

impl<F, T, R> Job for Task<F, T, R>
where
    F: FnOnce(&Connection) -> Result<T, rusqlite::Error> + Send,
    R: FnOnce(Result<T, StoreError>) + Send,
    T: Send,
{
    fn weight(&self) -> usize {
        self.weight
    }

    fn run(&mut self, connection: &Connection) -> Result<(), rusqlite::Error> {
        if let Some(work) = self.work.take() {
            self.value = Some(work(connection)?);
        }
        Ok(())
    }

    fn finish(self: Box<Self>, outcome: Result<(), StoreError>) {
        let Self { value, reply, .. } = *self;
        match (outcome, value) {
            (Ok(()), Some(value)) => reply(Ok(value)),
            (Err(error), _) => reply(Err(error)),
            // A job that ran and was kept has a value.
            (Ok(()), None) => {}
        }
    }
}

/// Queue to the writing thread. Dropping it ends both threads, after what is queued has been done.
pub(super) struct Writer {
    queue: Option<SyncSender<Box<dyn Job>>>,
    threads: Vec<JoinHandle<()>>,
}

impl Writer {
    pub(super) fn start(path: &Path, connection: Connection) -> Result<Self, StoreError> {
        let (queue, jobs) = sync_channel(MAX_QUEUED_JOBS);
        let (dirty, wake) = sync_channel(1);
        let checkpoints = connect(path)?;
        let spawn = |name: &str, run: Box<dyn FnOnce() + Send>| {
            let thread = std::thread::Builder::new().name(name.to_owned()).spawn(run);
            thread.map_err(|error| StoreError::Database {
                file: path.to_owned(),
                why: format!("cannot start a thread: {error}"),
                kind: super::Trouble::Other,
            })
        };
        let (file, overgrown) = (path.to_owned(), Arc::new(AtomicBool::new(false)));
        let asked = Arc::clone(&overgrown);
        let writing = spawn("store-writer", Box::new(move || write(&file, connection, &jobs, &dirty, &asked)))?;
        let file = path.to_owned();
        let checkpoints = move || checkpoint(&file, &checkpoints, &wake, &overgrown);
        let checkpointing = spawn("store-checkpoint", Box::new(checkpoints))?;
        Ok(Self { queue: Some(queue), threads: vec![writing, checkpointing] })
    }

    pub(super) const fn queue(&self) -> Option<&SyncSender<Box<dyn Job>>> {
        self.queue.as_ref()
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.queue = None;
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

fn write(
    path: &Path,
    connection: Connection,
    jobs: &Receiver<Box<dyn Job>>,
    dirty: &SyncSender<()>,
    overgrown: &AtomicBool,
) {
    while let Ok(first) = jobs.recv() {
        if overgrown.swap(false, Ordering::Relaxed) {
            report(path, run_checkpoint(&connection));
        }
        let mut weight = first.weight();
        let mut batch = vec![first];
        while weight < MAX_BATCH {
            let Ok(next) = jobs.try_recv() else { break };
            weight += next.weight();
            batch.push(next);
        }
        run_batch(path, &connection, batch);
        let _ = dirty.try_send(());
    }
}

/// One transaction. A job that fails is undone alone; where the transaction itself fails, all of them have failed.
fn run_batch(path: &Path, connection: &Connection, mut batch: Vec<Box<dyn Job>>) {
    let mut outcomes = Vec::with_capacity(batch.len());
    let committed = (|| {
        connection.execute_batch("BEGIN IMMEDIATE")?;
        for job in &mut batch {
            outcomes.push(run_one(connection, job.as_mut())?.map_err(|error| StoreError::database(path, &error)));
        }
        connection.execute_batch("COMMIT")
    })();
    if let Err(error) = committed {
        if !connection.is_autocommit() {
            let _ = connection.execute_batch("ROLLBACK");
        }
        let error = StoreError::database(path, &error);
        batch.into_iter().for_each(|job| job.finish(Err(error.clone())));
        return;
    }
    batch.into_iter().zip(outcomes).for_each(|(job, outcome)| job.finish(outcome));
}

/// The outer error ends the transaction: SQLite has rolled it back (full disk, I/O error), or cannot undo one job.
fn run_one(connection: &Connection, job: &mut dyn Job) -> Result<Result<(), rusqlite::Error>, rusqlite::Error> {
    connection.execute_batch("SAVEPOINT job")?;
    match job.run(connection) {
        Ok(()) => connection.execute_batch("RELEASE job").map(Ok),
        Err(error) if connection.is_autocommit() => Err(error),
        Err(error) => connection.execute_batch("ROLLBACK TO job; RELEASE job").map(|()| Err(error)),
    }
}

/// Copies the log back into the database after commits, without holding anybody up. SQLite begins the log anew once
/// all of it has been copied; where commits follow each other so closely that this never happens, the log has
/// `overgrown`, and the writing thread copies the rest between two of them.
fn checkpoint(path: &Path, connection: &Connection, wake: &Receiver<()>, overgrown: &AtomicBool) {
    const PAUSE: Duration = Duration::from_millis(200);
    let mut open = true;
    while open {
        open = wake.recv().is_ok();
        let pages = report(path, run_checkpoint(connection));
        overgrown.store(pages > MAX_LOG_PAGES, Ordering::Relaxed);
        // Under load, one checkpoint for many commits; `wake` holds at most one call, so nothing is missed.
        if open {
            std::thread::sleep(PAUSE);
        }
    }
}

/// Pages in the log.
fn run_checkpoint(connection: &Connection) -> Result<i64, rusqlite::Error> {
    connection.query_row("PRAGMA wal_checkpoint(PASSIVE)", [], |row| row.get(1))
}

fn report(path: &Path, checkpoint: Result<i64, rusqlite::Error>) -> i64 {
    checkpoint.unwrap_or_else(|error| {
        tracing::warn!(file = %path.display(), %error, "checkpoint of the store failed; it will be tried again");
        0
    })
}
