//! `attester once`: one attestation now; the outcome is the verdict.

use std::{collections::BTreeMap, time::Duration};

use anyhow::Result;
use attester::config::Config;
use evidence::claims::Why;
use serde::Serialize;
use tokio::{
    sync::mpsc,
    time::{Instant, sleep_until},
};

use crate::{
    Output,
    enrolment::ensure,
    link::{Trouble, take_turn},
    session::{EVENTS, Event, News, Session, TURN, endpoint},
    shown,
    state::StateDir,
    status::{Said, Verdict},
    worker::Worker,
};

/// What is printed with `--json`.
#[derive(Serialize)]
struct Report {
    device: String,
    verdict: Verdict,
    verifiers: BTreeMap<String, Said>,
    /// Why there is no verdict.
    problem: Option<String>,
}

/// Attests, waits, prints; returns the exit code.
pub(crate) async fn once(config: &Config, wait: Duration, json: bool, output: &mut Output) -> Result<u8> {
    let state = StateDir::open(&config.state_dir)?;
    crate::pinned::check(config)?;
    let _turn = take_turn(&state.path(TURN))?;
    let worker = Worker::start::<Event>(config, None)?;
    let deadline = Instant::now() + wait;
    let enrolled = ensure(config, &state, &worker, 0, false).await?;
    let (verdicts, problem) = match attest(config, &state, &worker, &enrolled, deadline).await? {
        Attempt::Ended(verdicts, problem) => (verdicts, problem),
        Attempt::NotLetIn(trouble) if enrolled.before => {
            tracing::warn!("{trouble}: enrolling anew");
            let enrolled = ensure(config, &state, &worker, 0, true).await?;
            match attest(config, &state, &worker, &enrolled, deadline).await? {
                Attempt::Ended(verdicts, problem) => (verdicts, problem),
                Attempt::NotLetIn(trouble) => return Err(trouble.into()),
            }
        }
        Attempt::NotLetIn(trouble) => return Err(trouble.into()),
    };
    let worst = verdicts.values().map(|said| said.verdict).max_by_key(|verdict| verdict.weight());
    let verdict = worst.filter(|_| problem.is_none()).unwrap_or(Verdict::Unknown);
    if let Some(problem) = &problem {
        tracing::error!("{problem}");
    }
    let device = enrolled.device.to_string();
    if json {
        output.json(&Report { device, verdict, verifiers: verdicts, problem })?;
    } else {
        let lines: String = verdicts.iter().map(|(name, said)| said.lines(name)).collect();
        output.text(&if lines.is_empty() { "unknown\n".to_owned() } else { lines })?;
    }
    Ok(verdict.exit_code())
}

/// How an attempt ended.
enum Attempt {
    /// With what verifiers said, and what is missing.
    Ended(BTreeMap<String, Said>, Option<String>),
    /// The broker refused the device.
    NotLetIn(Trouble),
}

async fn attest(
    config: &Config,
    state: &StateDir,
    worker: &Worker,
    enrolled: &crate::enrolment::Enrolled,
    deadline: Instant,
) -> Result<Attempt> {
    let (events, mut happening) = mpsc::channel(EVENTS);
    let mut session = Session::open(config, state, worker, enrolled, endpoint(config, enrolled)?, events)?;
    session.attest(Why::Startup);
    let mut verdicts = BTreeMap::new();
    let mut problem = None;
    let mut connected = false;
    while session.is_busy() {
        let retry = session.until().map_or(deadline, Instant::from_std).min(deadline);
        let event = tokio::select! {
            event = happening.recv() => event,
            () = sleep_until(retry) => None,
        };
        let Some(event) = event else {
            if Instant::now() >= deadline {
                problem.get_or_insert_with(|| late(connected));
                break;
            }
            session.overdue();
            continue;
        };
        connected |= matches!(&event, Event::Link(crate::link::LinkEvent::Up(_)));
        match session.handle(event) {
            News::Judged { verifier, said } => {
                verdicts.insert(verifier, *said);
            }
            News::Refused { verifier, refusal } => {
                problem = Some(format!(
                    "{verifier} refuses the evidence ({}): {}",
                    shown(&refusal.code),
                    shown(&refusal.why)
                ));
                break;
            }
            News::Down(trouble, _) if trouble.is_about_credentials() => return Ok(Attempt::NotLetIn(trouble)),
            // Not reached at all: more patience would not help whoever waits.
            News::Down(trouble, _) if !connected => return Err(trouble.into()),
            News::Failed(error) => return Err(error),
            News::Down(trouble, _) => tracing::warn!("{trouble}"),
            News::None | News::Stop => {}
        }
    }
    session.close().await;
    Ok(Attempt::Ended(verdicts, problem))
}

fn late(connected: bool) -> String {
    let why = if connected {
        "the verifier has not answered: does it run, is it at this broker, is this device registered with it?"
    } else {
        "the broker has not answered"
    };
    format!("no complete verdict in time: {why} A longer time is given with `--wait`")
}
