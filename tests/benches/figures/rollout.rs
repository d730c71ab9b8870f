//! A revocation reaching a fleet of rows: how long until every query shows it, and until rows, history and signed results do.

use std::{
    process::Command,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use devices::{population::Population, site::Site};
use serde_json::json;

use crate::Figure;

const DEVICES: usize = 260_000;
const KINDS: usize = 3_000;
const LONG: Duration = Duration::from_secs(300);
const LOOK: Duration = Duration::from_millis(25);

/// See the module.
pub(crate) fn rollout(_: Duration) -> Result<Figure> {
    let now = verifier::serve::now();
    let mut site = Site::lay_out(3600)?;
    let population = Population::new(DEVICES, KINDS, now)?;
    population.publish(&site.dir)?;
    let begun = Instant::now();
    let store = site.store()?;
    population.fill(&store)?;
    let filled = begun.elapsed();
    site.start_brokers()?;
    let begun = Instant::now();
    site.serve()?;
    let settled = || Ok(store.held_against()?.is_some() && store.rejudged()?.is_empty());
    until(settled).context("the first look at the fleet")?;
    let first = begun.elapsed();

    population.revoke(&site.dir, 1, true)?;
    let before = shown(&site)?;
    let begun = Instant::now();
    ensure!(Command::new("kill").args(["-HUP", &site.verifier_pid()?.to_string()]).status()?.success(), "SIGHUP");
    let (mut query, mut slowest) = (None, Duration::ZERO);
    let mut seen = before.clone();
    let mut began = false;
    loop {
        ensure!(begun.elapsed() < LONG, "rows do not follow:\n{}", site.end_of_log());
        let asked = Instant::now();
        let now = shown(&site)?;
        slowest = slowest.max(asked.elapsed());
        if now != seen {
            (query, seen) = (Some(begun.elapsed()), now);
        }
        began |= !store.rejudged()?.is_empty();
        if began && settled()? {
            break;
        }
        thread::sleep(LOOK);
    }
    let rows = begun.elapsed();
    ensure!(seen == shown(&site)? && seen != before, "the queries show by the rows what they showed before them");
    let query = query.context("the queries show the revocation")?.as_secs_f64();
    Ok(Figure {
        value: query,
        unit: "seconds from the signal to read the revocation to every query showing it",
        limit: 1.0,
        limit_is: "one second from the swap",
        better: "lower",
        context: json!({
            "devices": DEVICES, "kinds": KINDS, "query_s": query, "rows_s": rows.as_secs_f64(), "rows_limit_s": 15,
            "slowest_queries_s": slowest.as_secs_f64(), "first_look_s": first.as_secs_f64(),
            "fill_s": filled.as_secs_f64(), "shown_before": before, "shown_after": seen,
            "peak_memory_mb": peak(site.verifier_pid()?)?,
        }),
    })
}

/// What the API says of the fleet and by filters.
fn shown(site: &Site) -> Result<Vec<String>> {
    let queries = ["verdict=affirmed", "verdict=contraindicated", "cause=release.revoked", "release=2.0"];
    let mut shown = vec![site.get("/v1/fleet")?.to_string()];
    for query in queries {
        shown.push(site.get(&format!("/v1/devices?limit=1&{query}"))?["total"].to_string());
    }
    Ok(shown)
}

fn until(holds: impl Fn() -> Result<bool>) -> Result<()> {
    let end = Instant::now() + LONG;
    while !holds()? {
        if Instant::now() > end {
            bail!("it does not come about");
        }
        thread::sleep(LOOK);
    }
    Ok(())
}

/// Memory that a process held at most: VmHWM of proc(5).
fn peak(pid: u32) -> Result<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).context("VmHWM")?;
    Ok(line.split_whitespace().next().context("kB")?.parse::<u64>()? / 1024)
}
