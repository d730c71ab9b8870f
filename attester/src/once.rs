//! `attester once`: one attestation now, with every verifier, each by a challenge of its own; the outcome is the verdict.

use std::{collections::BTreeMap, time::Duration};

use anyhow::{Result, bail};
use attester::config::Config;
use evidence::claims::{DeviceId, Why};
use serde::Serialize;
use tokio::{
    sync::mpsc,
    time::{Instant, sleep_until},
};

use crate::{
    Output, Usage,
    enrolment::{NotEnrolled, ensure},
    link::{LinkEvent, Trouble, take_lock},
    session::{EVENTS, Event, News, Session, TURN, endpoint},
    shown,
    state::StateDir,
    status::{Said, Verdict},
    told,
    worker::{Ended, Worker},
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
    let Some(_turn) = take_lock(&state.path(TURN))? else { bail!("another `attester once` is attesting: wait for it") };
    let worker = Worker::start::<Event>(config, None)?;
    let deadline = Instant::now() + wait;
    let device = worker.call(|attester| attester.device()).await?;
    let done = match Attempt::new(config, &state, &worker, device).await {
        Ok(attempt) => attempt.run(deadline).await,
        Err(error) => Err(error),
    };
    // The broker lets no revoked device in; its verifier says so where it would enrol anew, and signs that.
    let (verdicts, problem, without) = match done {
        Ok((verdicts, problem)) => (verdicts, problem, Verdict::Unknown),
        Err(error) if is_revoked(&error) => (BTreeMap::new(), Some(told(&error)), Verdict::Contraindicated),
        Err(error) => return Err(error),
    };
    let worst = verdicts.values().map(|said| said.verdict).max_by_key(|verdict| verdict.weight());
    let verdict = worst.filter(|_| problem.is_none()).unwrap_or(without);
    if let Some(problem) = &problem {
        tracing::error!("{problem}");
    }
    if json {
        output.json(&Report { device: device.to_string(), verdict, verifiers: verdicts, problem })?;
    } else {
        let lines: String = verdicts.iter().map(|(name, said)| said.lines(name)).collect();
        output.text(&if lines.is_empty() { format!("{}\n", verdict.name()) } else { lines })?;
    }
    Ok(verdict.exit_code())
}

fn is_revoked(error: &anyhow::Error) -> bool {
    let refused = error.downcast_ref::<NotEnrolled>();
    refused.is_some_and(|refused| Verdict::of_refusal(&refused.code) == Verdict::Contraindicated)
}

/// One attestation with all verifiers.
struct Attempt<'a> {
    config: &'a Config,
    state: &'a StateDir,
    worker: &'a Worker,
    session: Session,
    happening: mpsc::Receiver<Event>,
    /// By broker.
    ways: Vec<Way>,
    verdicts: BTreeMap<String, Said>,
    problem: Option<String>,
}

/// How far the device came at one broker.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Way {
    /// Enrolled at some time.
    Enrolled,
    /// Enrolled just now: another enrolment would bring nothing else.
    JustEnrolled,
    /// Connected.
    Connected,
    /// Given up.
    Lost,
}

impl<'a> Attempt<'a> {
    /// Enrols where that is missing, and connects. A broker that can't be had is given up, as long as there is another.
    async fn new(config: &'a Config, state: &'a StateDir, worker: &'a Worker, device: DeviceId) -> Result<Self> {
        let (events, happening) = mpsc::channel(EVENTS);
        let session = Session::open(config, state, worker, device, false, events)?;
        let (ways, verdicts) = (Vec::new(), BTreeMap::new());
        let mut attempt = Self { config, state, worker, session, happening, ways, verdicts, problem: None };
        for broker in 0..config.brokers.len() {
            attempt.ways.push(Way::JustEnrolled);
            if let Err(error) = attempt.enrol(broker, false).await {
                attempt.give_up(broker, error)?;
            }
        }
        attempt.session.attest(Why::Startup);
        Ok(attempt)
    }

    async fn enrol(&mut self, broker: usize, renew: bool) -> Result<()> {
        let enrolled = ensure(self.config, self.state, self.worker, broker, renew).await?;
        self.ways[broker] = if enrolled.before { Way::Enrolled } else { Way::JustEnrolled };
        self.session.connect(broker, endpoint(self.config, broker, &enrolled)?);
        Ok(())
    }

    /// What is missing at one broker is told at the end; with no other broker left, or where only other usage helps, it
    /// is the end.
    fn give_up(&mut self, broker: usize, error: anyhow::Error) -> Result<()> {
        self.ways[broker] = Way::Lost;
        let all = self.ways.len() == self.config.brokers.len() && self.ways.iter().all(|way| *way == Way::Lost);
        if all || error.is::<Usage>() || error.is::<Ended>() {
            return Err(error);
        }
        self.problem.get_or_insert(told(&error));
        Ok(())
    }

    /// Waits until each verifier has judged; returns what they said, and what is missing.
    async fn run(mut self, deadline: Instant) -> Result<(BTreeMap<String, Said>, Option<String>)> {
        self.session.go_on();
        while self.session.is_busy(|broker| self.ways[broker] != Way::Lost) {
            let until = self.session.until().map_or(deadline, Instant::from_std).min(deadline);
            let event = tokio::select! {
                event = self.happening.recv() => event,
                () = sleep_until(until) => None,
            };
            match event {
                Some(event) => {
                    if !self.act(event).await? {
                        break;
                    }
                }
                None if Instant::now() >= deadline => {
                    let connected = self.ways.contains(&Way::Connected);
                    self.problem.get_or_insert_with(|| late(connected));
                    break;
                }
                None => self.session.go_on(),
            }
        }
        self.session.close().await;
        Ok((self.verdicts, self.problem))
    }

    /// Acts on what happened. Whether waiting goes on.
    async fn act(&mut self, event: Event) -> Result<bool> {
        if let Event::Link(broker, LinkEvent::Up(_)) = &event {
            self.ways[*broker] = Way::Connected;
        }
        match self.session.handle(event) {
            News::Judged { verifier, said } => {
                self.verdicts.insert(verifier, *said);
            }
            News::Refused { verifier, refusal } => {
                let (code, why) = (shown(&refusal.code), shown(&refusal.why));
                self.problem = Some(format!("{verifier} refuses the evidence ({code}): {why}"));
                return Ok(false);
            }
            News::Down(broker, trouble, _) => self.down(broker, trouble).await?,
            News::Failed(error) => return Err(error),
            News::None | News::Stop | News::Enrolled(..) => {}
        }
        Ok(true)
    }

    async fn down(&mut self, broker: usize, trouble: Trouble) -> Result<()> {
        match self.ways[broker] {
            Way::Enrolled if trouble.is_about_credentials() => {
                tracing::warn!("{trouble}: enrolling anew");
                match self.enrol(broker, true).await {
                    Ok(()) => self.ways[broker] = Way::JustEnrolled,
                    Err(error) => self.give_up(broker, error)?,
                }
            }
            // Not reached at all: more patience would not help whoever waits.
            Way::Enrolled | Way::JustEnrolled => self.give_up(broker, trouble.into())?,
            Way::Connected => tracing::warn!("{trouble}"),
            Way::Lost => {}
        }
        Ok(())
    }
}

fn late(connected: bool) -> String {
    let why = if connected {
        "the verifier has not answered: does it run, is it at this broker, is this device registered with it?"
    } else {
        "the broker has not answered"
    };
    format!("no complete verdict in time: {why} A longer time is given with `--wait`")
}
