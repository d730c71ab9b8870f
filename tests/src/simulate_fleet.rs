//! `simulate-fleet`: software devices that enrol and attest against a running verifier, over its broker, and the books of
//! what came back. Their keys are software, certified by a CA of the simulation; everything else is the real protocol.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::ExitCode,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use clap::{Parser, Subcommand};
use devices::{
    fleet::{Book, Fleet, Orders, PROGRAMS, Place},
    software_ek::Ca,
};
use serde::Serialize;

/// How long one attestation may take.
const PATIENCE: Duration = Duration::from_secs(60);
/// Far beyond any run.
const FOREVER: Duration = Duration::from_secs(366 * 24 * 3600);

#[derive(Parser)]
#[command(name = "simulate-fleet", version, about = "Software devices against a running verifier")]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Makes the CA of the simulated TPMs; add its certificate with `verifier roots add FILE --software`.
    Ca {
        /// Folder for `simulated-ca.pem` and its key.
        dir: PathBuf,
    },
    /// Enrols devices and has each of them attest, by request.
    Run {
        #[command(flatten)]
        at: At,
        /// Attestations of each device.
        #[arg(long, default_value_t = 1)]
        rounds: u64,
    },
    /// Enrols devices, which stay and answer each epoch.
    Follow {
        #[command(flatten)]
        at: At,
        /// Ends when each device has seen so many epochs open.
        #[arg(long, default_value_t = 3, conflicts_with = "seconds")]
        epochs: usize,
        /// Ends after this time.
        #[arg(long)]
        seconds: Option<u64>,
        /// Seconds between two new programs on each device; none without.
        #[arg(long)]
        new_every: Option<u64>,
    },
}

#[derive(clap::Args, Clone)]
struct At {
    /// Folder that `simulate-fleet ca` made.
    #[arg(long)]
    ca: PathBuf,
    /// Folder that `verifier init` made.
    #[arg(long)]
    verifier: PathBuf,
    /// Broker, HOST:PORT.
    #[arg(long)]
    broker: String,
    /// Where devices enrol, where that is elsewhere, HOST:PORT.
    #[arg(long)]
    enrol_broker: Option<String>,
    /// Name of the verifier.
    #[arg(long, default_value = "verifier")]
    name: String,
    /// Number of devices.
    #[arg(long, default_value_t = 10)]
    devices: usize,
    /// Devices that enrol at a time.
    #[arg(long, default_value_t = 50)]
    at_a_time: usize,
    /// Writes what each device sent and got there, as JSON.
    #[arg(long)]
    books: Option<PathBuf>,
}

/// What the devices say; compare it with what the verifier says.
#[derive(Debug, Default, Serialize)]
struct Summary {
    enrolled: usize,
    evidence: usize,
    results: usize,
    verdicts: BTreeMap<&'static str, usize>,
    epochs: BTreeMap<u64, Epoch>,
    failed: Vec<String>,
    seconds: f64,
}

/// Messages of all devices while an epoch was the newest; those before the first are under 0.
#[derive(Debug, Default, Serialize)]
struct Epoch {
    devices: usize,
    up: u32,
    down: u32,
}

fn main() -> ExitCode {
    let done = match Arguments::parse().command {
        Command::Ca { dir } => make_ca(&dir).map(|()| true),
        Command::Run { at, rounds } => simulate(&at, async |fleet| {
            let patience = PATIENCE.saturating_mul(u32::try_from(rounds).unwrap_or(u32::MAX));
            let done = |book: &Book| book.distinct_results().count() as u64 >= rounds || !book.refusals.is_empty();
            fleet.order(|orders| orders.rounds = rounds);
            fleet.until("all rounds", patience, done).await
        }),
        Command::Follow { at, epochs, seconds, new_every } => simulate(&at, async |fleet| {
            fleet.order(|orders| (orders.epochs, orders.rounds) = (true, 1));
            follow(fleet, epochs, seconds.map(Duration::from_secs), new_every.map(Duration::from_secs)).await
        }),
    };
    match done {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("simulate-fleet: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn make_ca(dir: &Path) -> Result<()> {
    println!("{}", Ca::new()?.write(dir)?.display());
    Ok(())
}

async fn follow(fleet: &Fleet, epochs: usize, length: Option<Duration>, new_every: Option<Duration>) -> Result<()> {
    let news = async {
        let Some(every) = new_every else { return std::future::pending::<()>().await };
        loop {
            tokio::time::sleep(every).await;
            fleet.order(|orders| orders.programs = (orders.programs + 1).min(PROGRAMS));
        }
    };
    let end = async {
        match length {
            Some(length) => {
                tokio::time::sleep(length).await;
                Ok(())
            }
            // The first one was open already.
            None => fleet.until("epochs", FOREVER, |book| book.epochs > epochs).await,
        }
    };
    tokio::select! {
        () = news => Ok(()),
        ended = end => ended,
    }
}

fn simulate(at: &At, what: impl AsyncFnOnce(&Fleet) -> Result<()>) -> Result<bool> {
    let began = Instant::now();
    let mut place = Place::new(Ca::in_folder(&at.ca)?, &at.verifier, &at.name, &at.broker)?;
    if let Some(address) = &at.enrol_broker {
        place = place.enrolling_at(address)?;
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let (mut summary, books) = runtime.block_on(async {
        let orders = Orders { programs: 1, ..Orders::default() };
        let fleet = Fleet::enrol(place, at.devices, at.at_a_time, orders).await?;
        let mut failed = fleet.failed().to_vec();
        failed.extend(what(&fleet).await.err().map(|error| format!("{error:#}")));
        let books = fleet.end().await;
        anyhow::Ok((Summary { failed, ..summary(&books) }, books))
    })?;
    summary.seconds = began.elapsed().as_secs_f64();
    println!("{}", serde_json::to_string_pretty(&summary)?);
    if let Some(file) = &at.books {
        let text = serde_json::to_string(&books)?;
        fs::write(file, text).with_context(|| format!("cannot write {}", file.display()))?;
    }
    Ok(summary.failed.is_empty() && books.iter().all(|book| book.refusals.is_empty()))
}

fn summary(books: &[Book]) -> Summary {
    let mut summary = Summary { enrolled: books.len(), ..Summary::default() };
    for book in books {
        summary.evidence += book.evidence.len();
        for result in book.distinct_results() {
            summary.results += 1;
            *summary.verdicts.entry(result.verdict.name()).or_default() += 1;
        }
        for (number, traffic) in &book.traffic {
            let epoch = summary.epochs.entry(*number).or_default();
            (epoch.devices, epoch.up, epoch.down) =
                (epoch.devices + 1, epoch.up + traffic.up, epoch.down + traffic.down);
        }
    }
    summary
}
