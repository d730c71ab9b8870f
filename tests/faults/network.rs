//! Networks that are cut, and come back.

use anyhow::ensure;
use devices::{
    fleet::{Book, Fleet, Orders},
    proxy::Proxy,
    site::{Site, eventually},
};

use crate::{
    Done, PATIENCE,
    device::{Device, is_known, no_false_alarm},
    lineage,
};

const DEVICES: usize = 40;
const OUTAGE: usize = 5;

#[tokio::test(flavor = "multi_thread", worker_threads = 3)]
async fn after_five_epochs_without_network_one_evidence_of_each_device_carries_all_that_is_missing() -> Done {
    let mut site = Site::lay_out(2)?;
    site.start_brokers()?;
    site.serve()?;
    let proxy = Proxy::to(site.ports().devices).await?;
    let orders = Orders { epochs: true, ..Orders::default() };
    let fleet = site.affirmed_fleet(site.place_at(proxy.port)?, DEVICES, orders.clone()).await?;
    let watcher = site.affirmed_fleet(site.place()?, 1, orders).await?;

    let next_epoch = async |count: usize| {
        let seen = epochs(&watcher);
        watcher.until("epochs open", PATIENCE, move |book| book.epochs >= seen + count).await
    };
    proxy.cut();
    fleet.until("cut off", PATIENCE, |book| !book.connected).await?;
    let before: Vec<usize> = fleet.books().iter().map(|book| book.evidence.len()).collect();
    for programs in 2..2 + OUTAGE as u32 {
        fleet.order(|orders| orders.programs = programs);
        next_epoch(1).await?;
    }
    proxy.mend();
    let all = 1 + OUTAGE as u64;
    fleet.until("all is acknowledged", PATIENCE, move |book| book.entries == all && book.all_acknowledged()).await?;
    for (book, before) in fleet.books().iter().zip(before) {
        let carried = carried(book, before);
        ensure!(carried == Some(all), "not in one: {}; {:?}", book.summary(), &book.evidence[before..]);
    }
    let books = [fleet.end().await, watcher.end().await].concat();
    lineage::holds(&site, &books)
}

fn epochs(fleet: &Fleet) -> usize {
    fleet.books().iter().map(|book| book.epochs).max().unwrap_or(0)
}

/// Entries that the first evidence after `before` brought the verifier up to, where nothing before it failed to.
fn carried(book: &Book, before: usize) -> Option<u64> {
    let first = book.evidence.get(before)?;
    let result = book.results.iter().find(|result| result.evidence == first.digest)?;
    Some(result.acknowledged.runtime)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 3)]
async fn after_five_epochs_without_network_the_attester_says_all_that_ran_meanwhile_in_one_evidence() -> Done {
    let mut site = Site::lay_out(2)?;
    let proxy = Proxy::to(site.ports().devices).await?;
    let mut device = Device::start(&[(&site, proxy.port)])?;
    site.start_brokers()?;
    site.serve()?;
    let before = device.run("before")?;
    device.is_known_to_run(&before, &site)?;

    proxy.cut();
    let accepted = |site: &Site| site.counter(&["evidence_accepted"]);
    let mut programs = Vec::new();
    for number in 0..OUTAGE {
        let open = site.counter(&["countersign_epoch "])?;
        programs.push(device.run(&format!("during-{number}"))?);
        eventually("an epoch opens", || Ok(site.counter(&["countersign_epoch "])? > open))?;
    }
    let so_far = accepted(&site)?;
    proxy.mend();
    eventually("evidence", || Ok(accepted(&site)? > so_far))?;
    for program in &programs {
        ensure!(is_known(program, &site)?, "the first evidence after the outage does not say all");
    }
    ensure!(accepted(&site)? == so_far + 1.0, "more than one");
    no_false_alarm(&site)
}
