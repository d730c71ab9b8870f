//! Word for the service manager that started the service (sd_notify(3)): in goes how it stands, out go datagrams, where
//! somebody asked for them. Without a service manager nothing here does anything, and nothing wakes up.

use std::{convert::Infallible, time::Duration};

use sd_notify::NotifyState;

use crate::{told, worker::Worker};

/// The TPM is open: the service runs, whatever the network does.
pub(crate) fn ready(status: &str) {
    tell(&[NotifyState::Ready, NotifyState::Status(status)]);
}

/// How it stands, in one line.
pub(crate) fn status(status: &str) {
    tell(&[NotifyState::Status(status)]);
}

/// The service ends.
pub(crate) fn stopping() {
    tell(&[NotifyState::Stopping]);
}

fn tell(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::warn!("the service manager cannot be told how it stands: {error}");
    }
}

/// Does a task, and meanwhile feeds the service manager's watchdog, if there is one, from the task's own thread and only
/// for as long as the thread that measures answers: where either hangs, the service manager starts the service again.
pub(crate) async fn watched<T>(worker: &Worker, task: impl Future<Output = T>) -> T {
    match sd_notify::watchdog_enabled() {
        Some(period) if !period.is_zero() => beside(task, feed(worker, period / 2)).await,
        _ => task.await,
    }
}

async fn beside<T>(task: impl Future<Output = T>, endless: impl Future<Output = Infallible>) -> T {
    tokio::select! {
        done = task => done,
        never = endless => match never {},
    }
}

async fn feed(worker: &Worker, every: Duration) -> Infallible {
    loop {
        tokio::time::sleep(every).await;
        match worker.call(|_| ()).await {
            Ok(()) => tell(&[NotifyState::Watchdog]),
            Err(error) => tracing::error!("the watchdog is not fed: {}", told(&error)),
        }
    }
}
