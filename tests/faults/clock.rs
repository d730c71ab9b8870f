//! Clocks that are wrong: the verifier's own, set back and forward under it while it runs.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, ensure};
use devices::{
    fleet::Orders,
    site::{Site, eventually},
};

use crate::{Done, PATIENCE, lineage};

/// Where Debian's libfaketime lies, below the folder of the machine's kind.
const LIBRARY: &str = "faketime/libfaketime.so.1";

fn library() -> Result<PathBuf> {
    let folders = fs::read_dir("/usr/lib")?.filter_map(|entry| Some(entry.ok()?.path().join(LIBRARY)));
    folders.into_iter().find(|file| file.is_file()).context("Debian: apt-get install libfaketime")
}

/// Sets the clock by so much; the library must never see half of it.
fn set(shift: &Path, by: &str) -> Done {
    let new = shift.with_extension("new");
    fs::write(&new, by)?;
    Ok(fs::rename(new, shift)?)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 3)]
async fn a_verifier_whose_clock_is_set_is_not_ready_until_it_is_right_and_raises_no_alarm() -> Done {
    let mut site = Site::lay_out(2)?;
    site.start_brokers()?;
    let shift = site.scratch().join("clock");
    set(&shift, "+0")?;
    let mut serve = site.serve_command()?;
    serve.env("LD_PRELOAD", library()?).env("FAKETIME_TIMESTAMP_FILE", &shift);
    // What waits, waits by the clock that nobody sets.
    serve.env("FAKETIME_NO_CACHE", "1").env("FAKETIME_DONT_FAKE_MONOTONIC", "1");
    site.serve_with(serve)?;
    let orders = Orders { epochs: true, ..Orders::default() };
    let fleet = site.affirmed_fleet(site.place()?, 10, orders).await?;
    for (programs, wrong) in [(2, "-3600"), (4, "+86400"), (6, "-120")] {
        set(&shift, wrong)?;
        eventually("not ready", || {
            let why = site.not_ready()?;
            ensure!(why.as_ref().is_none_or(|why| why.contains("clock")), "{why:?}");
            Ok(why.is_some())
        })?;
        fleet.order(|orders| (orders.programs, orders.rounds) = (programs, orders.rounds + 1));
        set(&shift, "+0")?;
        eventually("ready", || Ok(site.not_ready()?.is_none()))?;
        let all = u64::from(programs);
        fleet
            .until("all is acknowledged", PATIENCE, move |book| book.entries == all && book.all_acknowledged())
            .await?;
    }
    lineage::holds(&site, &fleet.end().await)
}
