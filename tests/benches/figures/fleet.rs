//! Figures of a whole installation: brokers, verifier and simulated devices on this machine, with short epochs.

use std::{collections::BTreeMap, fs, time::Duration};

use anyhow::{Context as _, Result, ensure};
use devices::{
    fleet::{Book, Fleet, Orders, Traffic},
    proxy::Proxy,
    site::Site,
};
use serde_json::json;

use crate::Figure;

const DEVICES: usize = 200;
/// Length of an epoch, seconds: long enough for every device's message to find its own instant.
const EPOCH: u32 = 4;
/// Epochs of the outage.
const OUTAGE: usize = 5;
const PATIENCE: Duration = Duration::from_secs(120);
/// How long the verifier is watched doing nothing.
const IDLE: Duration = Duration::from_secs(5);

/// What each device and epoch costs where nothing is new.
pub(crate) fn steady_state(length: Duration) -> Result<Figure> {
    runtime()?.block_on(async {
        let (mut site, epochs) = (Site::lay_out(EPOCH)?, (length.as_secs() / u64::from(EPOCH)).max(3) as usize);
        site.start_brokers()?;
        site.serve()?;
        let started = cpu(site.verifier_pid()?)?;
        tokio::time::sleep(IDLE).await;
        let idle = cpu(site.verifier_pid()?)? - started;
        let orders = Orders { epochs: true, ..Orders::default() };
        let fleet = site.affirmed_fleet(site.place()?, DEVICES, orders).await?;
        // The epochs in which they were enrolled and approved are none of it, nor is the one that the measurement ends in.
        epochs_open(&fleet, 2).await?;
        let first = newest(&fleet);
        let rows = history(&site, &fleet)?;
        let before = Costs::of(&site, &fleet)?;
        epochs_open(&fleet, epochs).await?;
        let costs = Costs::of(&site, &fleet)?.since(&before);
        let last = newest(&fleet);
        let rows = history(&site, &fleet)? - rows;
        let books = fleet.end().await;
        let whole: Vec<u64> = numbers(&books).into_iter().filter(|number| (first..last).contains(number)).collect();
        ensure!(!whole.is_empty(), "no whole epoch was seen");
        let of = |what: fn(&Traffic) -> f64| per_device_and_epoch(&books, &whole, what);
        Ok(Figure {
            value: of(|traffic| traffic.up.into()),
            unit: "messages up per device and epoch",
            limit: 1.0,
            limit_is: "one message",
            better: "lower",
            context: json!({
                "devices": DEVICES, "epochs": whole.len(), "epoch_seconds": EPOCH,
                "down_per_device_and_epoch": of(|traffic| traffic.down.into()),
                "bytes_up_per_device_and_epoch": of(|traffic| traffic.bytes_up as f64),
                "bytes_down_per_device_and_epoch": of(|traffic| traffic.bytes_down as f64),
                "history_rows": rows, "evidence": costs.evidence,
                "verifier_idle_cpu_percent": idle / IDLE.as_secs_f64() * 100.0,
                "verifier_cpu_us_per_evidence": costs.verifier / costs.evidence as f64 * 1e6,
                "broker_cpu_us_per_evidence": costs.brokers / costs.evidence as f64 * 1e6,
            }),
        })
    })
}

/// Evidence that a device needs to catch up after it was cut off for some epochs, in each of which something new ran.
pub(crate) fn outage(_: Duration) -> Result<Figure> {
    runtime()?.block_on(async {
        let mut site = Site::lay_out(EPOCH)?;
        site.start_brokers()?;
        site.serve()?;
        let proxy = Proxy::to(site.ports().devices).await?;
        let orders = Orders { epochs: true, ..Orders::default() };
        let fleet = site.affirmed_fleet(site.place_at(proxy.port)?, DEVICES, orders.clone()).await?;
        let watcher = site.affirmed_fleet(site.place()?, 1, orders).await?;
        proxy.cut();
        fleet.until("cut off", PATIENCE, |book| !book.connected).await?;
        let before: Vec<usize> = fleet.books().iter().map(|book| book.evidence.len()).collect();
        for programs in 2..2 + u32::try_from(OUTAGE)? {
            fleet.order(|orders| orders.programs = programs);
            epochs_open(&watcher, 1).await?;
        }
        proxy.mend();
        let all = 1 + OUTAGE as u64;
        let caught_up = move |book: &Book| book.entries == all && book.all_acknowledged();
        fleet.until("all is acknowledged", PATIENCE, caught_up).await?;
        let books = fleet.end().await;
        let needed: Vec<usize> =
            books.iter().zip(before).filter_map(|(book, before)| needed(book, before, all)).collect();
        ensure!(needed.len() == DEVICES, "a device did not catch up");
        Ok(Figure {
            value: needed.iter().sum::<usize>() as f64 / DEVICES as f64,
            unit: "evidence messages per device",
            limit: 1.0,
            limit_is: "one message",
            better: "lower",
            context: json!({ "devices": DEVICES, "epochs": OUTAGE, "epoch_seconds": EPOCH,
                             "most_of_one_device": needed.iter().max() }),
        })
    })
}

/// Evidence from the one after `before` to the one whose result acknowledges everything.
fn needed(book: &Book, before: usize, all: u64) -> Option<usize> {
    let complete = book.results.iter().find(|result| result.acknowledged.runtime == all)?;
    let last = book.evidence.iter().position(|evidence| evidence.digest == complete.evidence)?;
    (last + 1).checked_sub(before)
}

fn runtime() -> Result<tokio::runtime::Runtime> {
    Ok(tokio::runtime::Builder::new_multi_thread().enable_all().build()?)
}

async fn epochs_open(fleet: &Fleet, count: usize) -> Result<()> {
    let seen: BTreeMap<_, _> = fleet.books().iter().map(|book| (book.device, book.epochs)).collect();
    let opened = move |book: &Book| seen.get(&book.device).is_some_and(|seen| book.epochs >= seen + count);
    fleet.until("epochs open", PATIENCE.saturating_mul(u32::try_from(count)?), opened).await
}

fn newest(fleet: &Fleet) -> u64 {
    fleet.books().iter().map(|book| book.epoch).max().unwrap_or(0)
}

fn numbers(books: &[Book]) -> Vec<u64> {
    let mut numbers: Vec<u64> = books.iter().flat_map(|book| book.traffic.keys().copied()).collect();
    numbers.sort_unstable();
    numbers.dedup();
    numbers
}

fn per_device_and_epoch(books: &[Book], epochs: &[u64], what: fn(&Traffic) -> f64) -> f64 {
    let traffic = books.iter().flat_map(|book| epochs.iter().filter_map(|number| book.traffic.get(number)));
    traffic.map(what).sum::<f64>() / (books.len() * epochs.len()) as f64
}

/// What was used up to an instant.
struct Costs {
    /// Seconds.
    verifier: f64,
    /// Seconds.
    brokers: f64,
    evidence: usize,
}

impl Costs {
    fn of(site: &Site, fleet: &Fleet) -> Result<Self> {
        Ok(Self {
            verifier: cpu(site.verifier_pid()?)?,
            brokers: site.broker_pids().into_iter().map(cpu).sum::<Result<f64>>()?,
            evidence: fleet.books().iter().map(|book| book.evidence.len()).sum(),
        })
    }

    fn since(&self, before: &Self) -> Self {
        Self {
            verifier: self.verifier - before.verifier,
            brokers: self.brokers - before.brokers,
            evidence: self.evidence - before.evidence,
        }
    }
}

/// Rows of all devices.
fn history(site: &Site, fleet: &Fleet) -> Result<usize> {
    let mut rows = 0;
    for device in fleet.devices() {
        let answer = site.get(&format!("/v1/devices/{device}/history"))?;
        rows += answer["history"].as_array().context("a history")?.len();
    }
    Ok(rows)
}

/// Seconds that a process has used: fields 14 and 15 of /proc/PID/stat, in hundredths (proc(5); USER_HZ).
fn cpu(pid: u32) -> Result<f64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let (_, fields) = stat.rsplit_once(')').context("a name in parentheses")?;
    let ticks: u64 = fields.split_whitespace().skip(11).take(2).map_while(|field| field.parse::<u64>().ok()).sum();
    Ok(ticks as f64 / 100.0)
}
