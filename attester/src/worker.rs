//! The one thread that touches TPM and processes: in go jobs, out come their results, and word when an attestation is due
//! or something new runs. It sleeps until a job or the next due time comes, whichever is first, and the network's thread
//! never waits for it.

use std::{
    sync::{
        Arc,
        mpsc::{self as sync, Receiver, RecvTimeoutError, SyncSender, sync_channel},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, anyhow};
use attester::config::Config;
use tokio::sync::{
    mpsc::{self, error::TrySendError},
    oneshot,
};

use crate::{attest::Attester, told};

/// Jobs that wait: one for each verifier, and one of an enrolment.
const JOBS: usize = 16;

type Job = Box<dyn FnOnce(&mut Attester) + Send>;

/// Word from the worker, unasked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Due {
    /// Something new runs, and is measured.
    New,
    /// What runs can't be measured, for this reason.
    Failed(String),
}

/// The thread is no more: a bug, or a TPM library that took it along. Only a new start helps.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the thread that measures has ended")]
pub(crate) struct Ended;

/// The handle to the thread. Whoever drops the last one waits until the thread has let go of the TPM: a process that ends
/// while libtss2 still works takes its libraries apart under it, and crashes instead of telling what it found.
#[derive(Clone)]
pub(crate) struct Worker {
    /// Dropped first: the thread ends when nobody can give it jobs.
    jobs: SyncSender<Job>,
    /// Held only to be dropped.
    _thread: Arc<Joined>,
}

/// A thread that is waited for.
struct Joined(Option<JoinHandle<()>>);

impl Drop for Joined {
    fn drop(&mut self) {
        if let Some(Err(_)) = self.0.take().map(JoinHandle::join) {
            tracing::error!("{Ended}");
        }
    }
}

impl Worker {
    /// Starts the thread and opens TPM and logs on it. With `due` it also sweeps on its own, and sends word there.
    pub(crate) fn start<E>(config: &Config, due: Option<mpsc::Sender<E>>) -> Result<Self>
    where
        E: From<Due> + Send + 'static,
    {
        let (jobs, waiting) = sync_channel::<Job>(JOBS);
        let (opened, is_open) = sync_channel(1);
        let config = config.clone();
        let body = move || {
            let attester = Attester::open(&config);
            let (attester, result) = attester.map_or_else(|error| (None, Err(error)), |open| (Some(open), Ok(())));
            // Whoever starts the thread waits for this.
            drop(opened.send(result));
            match (attester, due) {
                (Some(attester), Some(due)) => sweep_meanwhile(attester, &waiting, config.sweep_every, &due),
                (Some(mut attester), None) => waiting.iter().for_each(|job| job(&mut attester)),
                (None, _) => {}
            }
        };
        let thread = thread::Builder::new().name("measure".to_owned()).spawn(body).context("cannot start a thread")?;
        let worker = Self { jobs, _thread: Arc::new(Joined(Some(thread))) };
        is_open.recv().map_err(|_| Ended)??;
        Ok(worker)
    }

    /// Has a job done.
    pub(crate) async fn call<T: Send + 'static>(
        &self,
        job: impl FnOnce(&mut Attester) -> T + Send + 'static,
    ) -> Result<T> {
        let (answer, answered) = oneshot::channel();
        let job = move |attester: &mut Attester| {
            // Nobody waits any more: then nobody needs it.
            drop(answer.send(job(attester)));
        };
        self.jobs.try_send(Box::new(job)).map_err(|error| match error {
            sync::TrySendError::Full(_) => anyhow!("the thread that measures has too much to do"),
            sync::TrySendError::Disconnected(_) => Ended.into(),
        })?;
        Ok(answered.await.map_err(|_| Ended)?)
    }
}

fn sweep_meanwhile<E: From<Due>>(mut attester: Attester, jobs: &Receiver<Job>, every: Duration, due: &mpsc::Sender<E>) {
    let mut sweep = Instant::now() + every;
    let mut word = None;
    loop {
        match jobs.recv_timeout(sweep.saturating_duration_since(Instant::now())) {
            Ok(job) => {
                job(&mut attester);
                give_memory_back();
            }
            Err(RecvTimeoutError::Disconnected) => return,
            Err(RecvTimeoutError::Timeout) => {
                word = something_new(&mut attester).or(word);
                sweep = Instant::now() + every;
                give_memory_back();
            }
        }
        // Never waits for the network's thread, which may be waiting for a job: a full queue is tried again later.
        word = match word.clone().map(|word| due.try_send(word.into())) {
            Some(Err(TrySendError::Closed(_))) => return,
            Some(Err(TrySendError::Full(_))) => word,
            Some(Ok(())) | None => None,
        };
    }
}

/// A sweep and a message take memory that nothing needs until the next ones; glibc keeps it unless told otherwise.
fn give_memory_back() {
    #[cfg(target_env = "gnu")]
    {
        // SAFETY: malloc_trim(3) is what glibc declares, takes any number, and may be called at any time.
        unsafe extern "C" {
            safe fn malloc_trim(pad: usize) -> std::ffi::c_int;
        }
        malloc_trim(0);
    }
}

/// What is new is in the log and in the PCR before anybody hears of it.
fn something_new(attester: &mut Attester) -> Option<Due> {
    match attester.measure() {
        Ok(0) => None,
        Ok(new) => {
            tracing::info!(new, "something new runs");
            Some(Due::New)
        }
        Err(error) => Some(Due::Failed(told(&error))),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::*;

    #[test]
    fn whoever_drops_the_last_handle_waits_until_the_thread_has_ended() {
        let (jobs, waiting) = sync_channel::<Job>(JOBS);
        let ended = Arc::new(AtomicBool::new(false));
        let at_end = Arc::clone(&ended);
        let (go, gone) = sync_channel::<()>(0);
        let thread = thread::spawn(move || {
            waiting.iter().for_each(drop);
            // As long as the TPM takes: until somebody else, who waits for nothing, says so.
            gone.recv().unwrap();
            at_end.store(true, Ordering::SeqCst);
        });
        let worker = Worker { jobs, _thread: Arc::new(Joined(Some(thread))) };
        let other = worker.clone();
        drop(worker);
        assert!(!ended.load(Ordering::SeqCst));
        thread::spawn(move || go.send(()).unwrap());
        drop(other);
        assert!(ended.load(Ordering::SeqCst));
    }
}
