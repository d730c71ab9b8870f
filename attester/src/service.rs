//! `attester run`: the service. Attests when it starts, in each epoch, when a verifier asks, and when something new runs.
//! What the network does, it does not end; one broker that is away keeps no other waiting; it sleeps whenever nothing
//! happens.

use std::{
    env,
    fs::File,
    os::unix::process::CommandExt as _,
    path::Path,
    process::Command,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use attester::config::Config;
use evidence::claims::Why;
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::mpsc,
    time::sleep_until,
};

use crate::{
    Usage,
    enrolment::{Enrolled, NotEnrolled, ensure, expires_soon, standing},
    link::take_lock,
    notify,
    session::{EVENTS, Event, News, Session, TURN, endpoint},
    state::{StateDir, jitter},
    status::Status,
    told,
    worker::{Ended, Worker},
};

/// First pause after an enrolment that failed; doubled each time. A verifier lets a device try each 5 s.
const FIRST_PAUSE: Duration = Duration::from_secs(15);
/// Longest pause: an operator who corrected something waits no longer.
const LONGEST_PAUSE: Duration = Duration::from_secs(600);
/// Time between two enrolments because of refused or old certificates.
const RENEW_EVERY: Duration = Duration::from_secs(600);
/// File that the service locks while it runs.
const RUNNING: &str = "running";
/// Time in which nobody who asks for that lock still has it.
const ASKED_FOR: Duration = Duration::from_millis(20);
/// How often somebody may be asking just then.
const ASKED_AT_MOST: u32 = 5;

/// Set in the environment of a service that enrolled and began anew: it does not do so twice.
const BEGUN_ANEW: &str = "ATTESTER_BEGUN_ANEW";

/// Runs until it is told to end.
pub(crate) async fn run(config: &Config) -> Result<()> {
    let state = StateDir::open(&config.state_dir)?;
    crate::pinned::check(config)?;
    let Some(_running) = take_lock_soon(&state.path(RUNNING)).await? else {
        bail!("another `attester run` has {}: one service a device", state.path(RUNNING).display())
    };
    if let Err(error) = state.remove_left_behind() {
        tracing::warn!("{}", told(&error));
    }
    let (events, mut happening) = mpsc::channel(EVENTS);
    stop_on_signals(events.clone())?;
    let start = || Worker::start(config, Some(events.clone()));
    let mut worker = start()?;
    begin_in_boot(&state, &worker).await?;
    notify::ready("enrolling");
    let enrolling = enrol(config, &state, &worker, &mut happening);
    let Some(enrolled) = notify::watched(&worker, enrolling).await? else { return Ok(()) };
    let newly = enrolled.iter().flatten().any(|enrolled| !enrolled.before);
    if newly && env::var_os(BEGUN_ANEW).is_none() {
        drop(worker);
        tracing::warn!("{}; going on with more memory than needed", begin_anew());
        worker = start()?;
    }
    let Some(device) = enrolled.iter().flatten().map(|enrolled| enrolled.device).next() else { return Ok(()) };
    tracing::info!(%device, "running");
    notify::status("waiting for the first verdict");
    let session = Session::open(config, &state, &worker, device, true, events.clone())?;
    let (renewed, seeking) = (vec![None; enrolled.len()], vec![false; enrolled.len()]);
    let measuring = worker.clone();
    let mut service = Service { config, state, worker, session, enrolled, renewed, seeking, events };
    service.connect_all();
    notify::watched(&measuring, service.serve(&mut happening)).await
}

/// Has verdicts of an earlier boot count for this one no more, as the TPM tells boots apart.
async fn begin_in_boot(state: &StateDir, worker: &Worker) -> Result<()> {
    let counters = worker.call(|attester| attester.tpm().counters()).await??;
    let mut status = Status::load(state)?;
    status.begin_in_boot(counters.reset);
    status.keep(state, Instant::now());
    Ok(())
}

/// Keeps why a verifier does not enrol this device, for whoever asks for its verdict.
fn keep_refusal(state: &StateDir, error: &anyhow::Error) -> Result<()> {
    let Some(refused) = error.downcast_ref::<NotEnrolled>() else { return Ok(()) };
    let mut status = Status::load(state)?;
    if status.refused(refused.verifier.as_str(), &refused.code) {
        status.keep(state, Instant::now());
    }
    Ok(())
}

/// Whoever asks whether a service runs holds its lock for a moment.
async fn take_lock_soon(path: &Path) -> Result<Option<File>> {
    for _ in 0..ASKED_AT_MOST {
        if let Some(lock) = take_lock(path)? {
            return Ok(Some(lock));
        }
        tokio::time::sleep(ASKED_FOR).await;
    }
    take_lock(path)
}

/// Whether a service runs with this state folder.
pub(crate) fn is_running(state: &StateDir) -> bool {
    File::open(state.path(RUNNING)).is_ok_and(|file| file.try_lock_shared().is_err())
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

/// The running service.
struct Service<'a> {
    config: &'a Config,
    state: StateDir,
    worker: Worker,
    session: Session,
    /// By broker; none where the device has not enrolled yet.
    enrolled: Vec<Option<Enrolled>>,
    /// By broker, when its certificate was last to be renewed.
    renewed: Vec<Option<Instant>>,
    /// By broker, whether the device goes on enrolling there until every verifier knows it.
    seeking: Vec<bool>,
    events: mpsc::Sender<Event>,
}

impl Service<'_> {
    fn connect_all(&mut self) {
        for broker in 0..self.enrolled.len() {
            self.connect(broker);
            self.seek(broker);
        }
    }

    fn connect(&mut self, broker: usize) {
        let Some(enrolled) = &self.enrolled[broker] else { return };
        match endpoint(self.config, broker, enrolled) {
            Ok(place) => self.session.connect(broker, place.after_others(self.state.path(TURN))),
            Err(error) => {
                tracing::error!("{}; trying again in {} s", told(&error), LONGEST_PAUSE.as_secs());
                let (enrolled, events) = (enrolled.clone(), self.events.clone());
                tokio::spawn(async move {
                    tokio::time::sleep(LONGEST_PAUSE).await;
                    // Nobody listens any more: the program ends.
                    drop(events.send(Event::Enrolled(broker, Ok(enrolled))).await);
                });
            }
        }
    }

    /// Goes on enrolling at a broker where a verifier is missing, beside what else goes on.
    fn seek(&mut self, broker: usize) {
        let complete = self.enrolled[broker].as_ref().is_some_and(|enrolled| enrolled.complete);
        if !complete && !std::mem::replace(&mut self.seeking[broker], true) {
            self.enrol_meanwhile(broker);
        }
    }

    async fn serve(mut self, happening: &mut mpsc::Receiver<Event>) -> Result<()> {
        self.session.attest(Why::Startup);
        loop {
            let until = self.session.until();
            let due = async {
                match until {
                    Some(until) => sleep_until(until.into()).await,
                    None => std::future::pending().await,
                }
            };
            let event = tokio::select! {
                event = happening.recv() => event,
                () = due => {
                    self.session.go_on();
                    self.renew_what_is_old();
                    continue;
                }
            };
            let Some(event) = event else { break };
            match self.session.handle(event) {
                News::Stop => break,
                News::Judged { verifier, said } => {
                    notify::status(&format!("{verifier}: {} until {}", said.verdict.name(), said.expires));
                }
                News::Failed(error) if error.is::<Ended>() => return Err(error),
                News::Down(broker, trouble, pause) => {
                    tracing::warn!("{trouble}; trying again in {pause:.1?}");
                    self.session.keep_status();
                    if trouble.is_about_credentials() {
                        self.renew(broker, true);
                    }
                }
                News::Enrolled(broker, enrolled) => self.enrolled(broker, enrolled)?,
                _ => {}
            }
        }
        tracing::info!("ending");
        notify::stopping();
        self.session.close().await;
        Ok(())
    }

    fn enrolled(&mut self, broker: usize, enrolled: Result<Enrolled>) -> Result<()> {
        match enrolled {
            Ok(enrolled) => {
                self.seeking[broker] &= !enrolled.complete;
                self.enrolled[broker] = Some(enrolled);
                self.connect(broker);
                self.seek(broker);
            }
            Err(error) if error.is::<Ended>() => return Err(error),
            Err(error) => tracing::error!("no new certificate for the broker: {}", told(&error)),
        }
        Ok(())
    }

    fn renew_what_is_old(&mut self) {
        for broker in 0..self.enrolled.len() {
            if self.enrolled[broker].as_ref().is_some_and(|enrolled| expires_soon(&enrolled.credentials)) {
                self.renew(broker, false);
            }
        }
    }

    /// Enrols once more, beside what else goes on.
    fn renew(&mut self, broker: usize, refused: bool) {
        if self.renewed[broker].is_some_and(|at| at.elapsed() < RENEW_EVERY) {
            return;
        }
        self.renewed[broker] = Some(Instant::now());
        let (config, state, worker) = (self.config.clone(), self.state.clone(), self.worker.clone());
        let events = self.events.clone();
        tokio::spawn(async move {
            let enrolled = ensure(&config, &state, &worker, broker, refused).await;
            // Nobody listens any more: the program ends.
            drop(events.send(Event::Enrolled(broker, enrolled)).await);
        });
    }

    /// Enrols with all verifiers at a broker, however long it takes, beside what else goes on. One that stays away keeps
    /// the others waiting for nothing: what they made possible is told at once.
    fn enrol_meanwhile(&self, broker: usize) {
        let mut in_use = self.enrolled[broker].as_ref().map(|enrolled| enrolled.credentials.certificate.clone());
        let (config, state, worker) = (self.config.clone(), self.state.clone(), self.worker.clone());
        let events = self.events.clone();
        tokio::spawn(async move {
            let mut pause = FIRST_PAUSE;
            let enrolled = loop {
                let wait = jitter(pause, 0.5);
                tokio::time::sleep(wait).await;
                match ensure(&config, &state, &worker, broker, false).await {
                    Ok(enrolled) if !enrolled.complete => {
                        pause = (pause * 2).min(LONGEST_PAUSE);
                        if in_use.as_ref() != Some(&enrolled.credentials.certificate) {
                            in_use = Some(enrolled.credentials.certificate.clone());
                            drop(events.send(Event::Enrolled(broker, Ok(enrolled))).await);
                        }
                    }
                    Err(error) if !error.is::<Usage>() && !error.is::<Ended>() => {
                        tracing::error!(broker = config.brokers[broker].place(), "not enrolled: {}", told(&error));
                        pause = (pause * 2).min(LONGEST_PAUSE);
                    }
                    end => break end,
                }
            };
            // Nobody listens any more: the program ends.
            drop(events.send(Event::Enrolled(broker, enrolled)).await);
        });
    }
}

/// Enrols at each broker in turn, and goes on when it succeeded at one, however long that takes; nothing where the program
/// was told to end.
async fn enrol(
    config: &Config,
    state: &StateDir,
    worker: &Worker,
    happening: &mut mpsc::Receiver<Event>,
) -> Result<Option<Vec<Option<Enrolled>>>> {
    let mut pause = FIRST_PAUSE;
    loop {
        let attempt = async {
            let (enrolled, error) = enrol_once(config, state, worker).await?;
            if enrolled.iter().any(Option::is_some) {
                return Ok(Some(enrolled));
            }
            let wait = jitter(pause, 0.5);
            if let Some(error) = error {
                tracing::error!("not enrolled: {}; trying again in {} s", told(&error), wait.as_secs());
            }
            tokio::time::sleep(wait).await;
            anyhow::Ok(None)
        };
        tokio::select! {
            enrolled = attempt => match enrolled? {
                Some(enrolled) => return Ok(Some(enrolled)),
                None => pause = (pause * 2).min(LONGEST_PAUSE),
            },
            // What is due meanwhile is covered by the attestation at the start.
            () = stopped(happening) => return Ok(None),
        }
    }
}

/// By broker, the enrolment; and why the last one that failed did.
async fn enrol_once(
    config: &Config,
    state: &StateDir,
    worker: &Worker,
) -> Result<(Vec<Option<Enrolled>>, Option<anyhow::Error>)> {
    let mut enrolled = Vec::with_capacity(config.brokers.len());
    let mut failed = None;
    for broker in 0..config.brokers.len() {
        // A verifier that is missing is enrolled with later, and keeps the others waiting for nothing.
        if let Some(done) = standing(config, state, worker, broker).await? {
            enrolled.push(Some(done));
            continue;
        }
        match ensure(config, state, worker, broker, false).await {
            Ok(done) => enrolled.push(Some(done)),
            Err(error) if error.is::<Usage>() || error.is::<Ended>() => return Err(error),
            Err(error) => {
                keep_refusal(state, &error)?;
                enrolled.push(None);
                failed = Some(error);
            }
        }
    }
    Ok((enrolled, failed))
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
