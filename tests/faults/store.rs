//! Disks that are full or cannot be written to. The store lies on a file system of its own.

use std::{
    env,
    fs::{self, File},
    io::Write as _,
    path::Path,
    process::Command,
};

use anyhow::{Result, ensure};
use devices::{
    deployment::succeeded,
    fleet::Orders,
    site::{Site, eventually},
};

use crate::{Done, PATIENCE, lineage};

/// Size of the file system: SQLite's log grows to less before it is taken up.
const SIZE: &str = "size=16m,mode=700";

/// Set where a test runs in its namespace already.
const INSIDE: &str = "FAULTS_INSIDE";

/// Runs the test of this name once more, in a mount namespace of its own: what it mounts there is gone with it. False
/// where this is that run.
fn done_in_namespace(test: &str) -> Result<bool> {
    if env::var_os(INSIDE).is_some() {
        return Ok(false);
    }
    let mut again = Command::new("unshare");
    again.args(["--mount", "--propagation", "private"]).arg(env::current_exe()?).env(INSIDE, "1");
    let output = again.args(["--exact", test, "--nocapture"]).output()?;
    succeeded(test, &output)?;
    let said = String::from_utf8_lossy(&output.stdout);
    ensure!(said.contains("1 passed"), "no test of this name: {said}");
    Ok(true)
}

fn mount(arguments: &[&str], at: &Path) -> Done {
    succeeded("mount", &Command::new("mount").args(arguments).arg(at).output()?)
}

/// Writes until nothing more goes in.
fn fill(ballast: &Path) -> Result<()> {
    let mut file = File::options().create(true).append(true).open(ballast)?;
    for block in [64 * 1024, 4096, 1] {
        while file.write_all(&vec![0; block]).is_ok() {}
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 3)]
async fn a_full_disk_acknowledges_nothing_says_why_and_is_recovered_from_without_hands() -> Done {
    if done_in_namespace("store::a_full_disk_acknowledges_nothing_says_why_and_is_recovered_from_without_hands")? {
        return Ok(());
    }
    let mut site = Site::lay_out(2)?;
    let data = site.dir.join("data");
    mount(&["-t", "tmpfs", "-o", SIZE, "tmpfs"], &data)?;
    site.start_brokers()?;
    site.serve()?;
    let orders = Orders { epochs: true, ..Orders::default() };
    let fleet = site.affirmed_fleet(site.place()?, 20, orders).await?;
    let ballast = data.join("ballast");
    let mut programs = 1;
    for _ in 0..2 {
        let mut why = None;
        // What SQLite has allocated already takes a few more commits.
        eventually("not ready", || {
            fill(&ballast)?;
            programs += 1;
            fleet.order(|orders| (orders.programs, orders.rounds) = (programs, orders.rounds + 1));
            why = site.not_ready()?;
            Ok(why.is_some())
        })?;
        let why = why.unwrap_or_default();
        ensure!(why.contains("store"), "{why}");
        // What little SQLite still has room for counts; nothing else is acknowledged.
        lineage::holds(&site, &fleet.books())?;
        fs::remove_file(&ballast)?;
        eventually("ready again", || Ok(site.not_ready()?.is_none()))?;
        let all = u64::from(programs);
        fleet
            .until("all is acknowledged", PATIENCE, move |book| book.entries == all && book.all_acknowledged())
            .await?;
    }
    lineage::holds(&site, &fleet.end().await)
}

#[test]
fn a_store_that_cannot_be_written_to_is_named_and_served_once_it_can() -> Done {
    if done_in_namespace("store::a_store_that_cannot_be_written_to_is_named_and_served_once_it_can")? {
        return Ok(());
    }
    let mut site = Site::lay_out(2)?;
    let data = site.dir.join("data");
    mount(&["-t", "tmpfs", "-o", SIZE, "tmpfs"], &data)?;
    site.start_brokers()?;
    mount(&["-o", "remount,ro"], &data)?;
    let output = site.serve_command()?.output()?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.code() == Some(1), "{:?}: {said}", output.status);
    ensure!(said.contains("Read-only") && said.contains(&data.display().to_string()), "{said}");
    mount(&["-o", "remount,rw"], &data)?;
    site.serve()?;
    ensure!(site.not_ready()?.is_none(), "ready");
    Ok(())
}
