//! Verifiers that die at any instant.

use std::{
    fs,
    hash::{BuildHasher as _, RandomState},
    time::{Duration, Instant},
};

use anyhow::ensure;
use devices::{
    fleet::{Fleet, Orders},
    site::Site,
};

use crate::{Done, PATIENCE, lineage};

const DEVICES: usize = 200;
const KILLS: u32 = 50;
const ENROLLING: usize = 40;
const ENROLMENT_KILLS: usize = 8;
/// Time between two attestations of one device: half of what a verifier takes from it at most.
const PAUSE: Duration = Duration::from_millis(500);
/// A verifier that was not killed by its moment is killed then.
const LATEST: Duration = Duration::from_millis(400);

/// Every other kill comes the moment that the store's log has grown: something is durable, and neither acknowledged nor
/// answered. The others come at random times of the cycle of receiving, judging, committing, acknowledging, answering.
#[tokio::test(flavor = "multi_thread", worker_threads = 3)]
async fn a_verifier_killed_fifty_times_under_load_loses_nothing_and_judges_nothing_twice() -> Done {
    let mut site = Site::lay_out(3)?;
    site.start_brokers()?;
    site.serve()?;
    let orders = Orders { epochs: true, pause: PAUSE, one_more_each_round: true, ..Orders::default() };
    let fleet = site.affirmed_fleet(site.place()?, DEVICES, orders).await?;
    fleet.order(|orders| orders.rounds = u64::MAX);
    for kill in 0..KILLS {
        if kill % 2 == 0 {
            until_the_log_grows(&site)?;
        } else {
            tokio::time::sleep(LATEST.mul_f64(draw())).await;
        }
        site.kill_verifier();
        site.serve()?;
    }
    fleet.order(|orders| orders.one_more_each_round = false);
    let last = 1 + u32::try_from(fleet.books().iter().map(|book| book.entries).max().unwrap_or(0))?;
    fleet.order(|orders| orders.programs = last);
    fleet
        .until("all is acknowledged", PATIENCE, move |book| book.entries >= u64::from(last) && book.all_acknowledged())
        .await?;
    lineage::holds(&site, &fleet.end().await)
}

/// Returns within microseconds of a commit, or at [`LATEST`].
fn until_the_log_grows(site: &Site) -> Done {
    let log = fs::read_dir(site.dir.join("data"))?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .find(|path| path.to_string_lossy().ends_with("-wal"));
    let Some(log) = log else { return Ok(()) };
    let (size, end) = (fs::metadata(&log)?.len(), Instant::now() + LATEST);
    while fs::metadata(&log)?.len() == size && Instant::now() < end {
        std::hint::spin_loop();
    }
    Ok(())
}

fn draw() -> f64 {
    f64::from(u32::try_from(RandomState::new().hash_one(()) >> 32).unwrap_or(0)) / f64::from(u32::MAX)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 3)]
async fn devices_that_enrol_while_the_verifier_is_killed_are_all_let_in_once() -> Done {
    let mut site = Site::lay_out(3)?;
    site.start_brokers()?;
    site.serve()?;
    let orders = Orders { epochs: true, rounds: 1, programs: 1, ..Orders::default() };
    let enrolling = tokio::spawn(Fleet::enrol(site.place()?, ENROLLING, ENROLLING, orders));
    for _ in 0..ENROLMENT_KILLS {
        tokio::time::sleep(LATEST.mul_f64(draw())).await;
        site.kill_verifier();
        site.serve()?;
    }
    let fleet = enrolling.await??;
    ensure!(fleet.failed().is_empty(), "{:?}", fleet.failed());
    fleet.until("the first result", PATIENCE, |book| !book.results.is_empty()).await?;
    ensure!(site.get("/v1/devices")?["total"] == ENROLLING, "each is known once");
    Ok(())
}
