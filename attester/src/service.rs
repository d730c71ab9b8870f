//! `attester run`: the service. Attests when it starts, in each period, when a verifier asks, and when something new runs.
//! What the network does, it does not end; it sleeps whenever nothing happens.

use std::{
    env,
    os::unix::process::CommandExt as _,
    process::Command,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use attester::config::Config;
use evidence::claims::Why;
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::mpsc,
    time::sleep_until,
};

use crate::{
    Usage,
    enrolment::{Enrolled, ensure, expires_soon},
    session::{EVENTS, Event, News, Session, TURN, endpoint},
    state::{StateDir, jitter},
    told,
    worker::{Ended, Periods, Worker},
};

/// First pause after an enrolment that failed; doubled each time. A verifier lets a device try each 5 s.
const FIRST_PAUSE: Duration = Duration::from_secs(15);
/// Longest pause: an operator who corrected something waits no longer.
const LONGEST_PAUSE: Duration = Duration::from_secs(600);
/// Time between two enrolments because of refused or old certificates.
const RENEW_EVERY: Duration = Duration::from_secs(600);

/// Set in the environment of a service that enrolled and began anew: it does not do so twice.
const BEGUN_ANEW: &str = "ATTESTER_BEGUN_ANEW";

/// Runs until it is told to end.
pub(crate) async fn run(config: &Config) -> Result<()> {
    let state = StateDir::open(&config.state_dir)?;
    crate::pinned::check(config)?;
    let (events, mut happening) = mpsc::channel(EVENTS);
    stop_on_signals(events.clone())?;
    let start = || Worker::start(config, Some((Periods::of(config), events.clone())));
    let mut worker = start()?;
    let Some(enrolled) = enrol(config, &state, &worker, &mut happening).await? else { return Ok(()) };
    if !enrolled.before && env::var_os(BEGUN_ANEW).is_none() {
        worker.end();
        tracing::warn!("{}; going on with more memory than needed", begin_anew());
        worker = start()?;
    }
    tracing::info!(device = %enrolled.device, "running");
    let place = endpoint(config, &enrolled)?.after_others(state.path(TURN));
    let session = Session::open(config, &state, &worker, &enrolled, place, events)?;
    serve(config, &state, &worker, session, enrolled, &mut happening).await
}

/// An enrolment happens once, and takes code and memory (keys of endorsement hierarchies, the TPM library's RSA) that
/// would stay with the service for as long as it runs. So the program begins anew after it, in the same process. Returns
/// only where that is not possible.
fn begin_anew() -> String {
    match env::current_exe() {
        Ok(program) => {
            let error = Command::new(&program).args(env::args_os().skip(1)).env(BEGUN_ANEW, "1").exec();
            format!("cannot begin anew with {}: {error}", program.display())
        }
        Err(error) => format!("cannot find this program's file to begin anew: {error}"),
    }
}

async fn serve(
    config: &Config,
    state: &StateDir,
    worker: &Worker,
    mut session: Session,
    mut enrolled: Enrolled,
    happening: &mut mpsc::Receiver<Event>,
) -> Result<()> {
    session.attest(Why::Startup);
    let mut renewed: Option<Instant> = None;
    loop {
        let retry = session.until();
        let overdue = async {
            match retry {
                Some(retry) => sleep_until(retry.into()).await,
                None => std::future::pending().await,
            }
        };
        let event = tokio::select! {
            event = happening.recv() => event,
            () = overdue => {
                session.overdue();
                continue;
            }
        };
        let Some(event) = event else { break };
        let due = matches!(event, Event::Due(_));
        let renew = match session.handle(event) {
            News::Stop => break,
            News::Failed(error) if error.is::<Ended>() => return Err(error),
            News::Down(trouble, pause) => {
                tracing::warn!("{trouble}; trying again in {pause:.1?}");
                session.keep_status();
                trouble.is_about_credentials()
            }
            _ => due && expires_soon(&enrolled.credentials),
        };
        if renew && renewed.is_none_or(|at| at.elapsed() >= RENEW_EVERY) {
            renewed = Some(Instant::now());
            let refused = !expires_soon(&enrolled.credentials);
            match ensure(config, state, worker, 0, refused).await {
                Ok(new) => {
                    enrolled = new;
                    match endpoint(config, &enrolled) {
                        Ok(place) => session.reconnect(place.after_others(state.path(TURN))),
                        Err(error) => tracing::error!("{}", told(&error)),
                    }
                }
                Err(error) => tracing::error!("cannot renew the certificate for the broker: {}", told(&error)),
            }
        }
    }
    tracing::info!("ending");
    session.close().await;
    Ok(())
}

/// Enrols, however long it takes; nothing where the program was told to end.
async fn enrol(
    config: &Config,
    state: &StateDir,
    worker: &Worker,
    happening: &mut mpsc::Receiver<Event>,
) -> Result<Option<Enrolled>> {
    let mut pause = FIRST_PAUSE;
    loop {
        let attempt = async {
            let error = match ensure(config, state, worker, 0, false).await {
                Ok(enrolled) => return Ok(enrolled),
                Err(error) if error.is::<Usage>() || error.is::<Ended>() => return Err(Some(error)),
                Err(error) => error,
            };
            let wait = jitter(pause, 0.5);
            tracing::error!("not enrolled: {}; trying again in {} s", told(&error), wait.as_secs());
            tokio::time::sleep(wait).await;
            Err(None)
        };
        tokio::select! {
            result = attempt => match result {
                Ok(enrolled) => return Ok(Some(enrolled)),
                Err(Some(error)) => return Err(error),
                Err(None) => pause = (pause * 2).min(LONGEST_PAUSE),
            },
            // What is due meanwhile is covered by the attestation at the start.
            () = stopped(happening) => return Ok(None),
        }
    }
}

async fn stopped(happening: &mut mpsc::Receiver<Event>) {
    while let Some(event) = happening.recv().await {
        if matches!(event, Event::Stop) {
            return;
        }
    }
}

fn stop_on_signals(events: mpsc::Sender<Event>) -> Result<()> {
    let mut terminate = signal(SignalKind::terminate()).context("cannot wait for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot wait for SIGINT")?;
    tokio::spawn(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        // Nobody listens any more: the program ends already.
        drop(events.send(Event::Stop).await);
    });
    Ok(())
}
