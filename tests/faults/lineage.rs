//! Devices' books beside the verifier's store: nothing lost, nothing judged twice, no false alarm.

use anyhow::{Context as _, Result, ensure};
use appraisal::Verdict;
use devices::{fleet::Book, site::Site};
use evidence::{pcr::sha256, result::Tier};

/// Compares every book with the store. From the device's side each was affirmed since it was approved, so every result
/// must say so.
pub(crate) fn holds(site: &Site, books: &[Book]) -> Result<()> {
    let store = site.store()?;
    for book in books {
        let state = store.state(book.device)?.with_context(|| format!("{} has no state", book.device))?;
        let told = || book.summary();
        ensure!(book.judged_twice().is_none(), "two results for one evidence: {}", told());
        ensure!(book.refusals.is_empty(), "honest evidence was refused: {}", told());
        let mut before = None;
        for result in book.distinct_results() {
            let sent = book.sent(&result.evidence).context("a result for what was never sent")?;
            ensure!(
                result.verdict == Tier::Affirming && result.causes.is_empty(),
                "false alarm {result:?}: {}",
                told()
            );
            ensure!(before.is_none_or(|before| before < sent.counters), "results go back: {}", told());
            before = Some(sent.counters);
            ensure!(
                state.last.counters > sent.counters || state.last.evidence == result.evidence,
                "the store lost evidence that it had a result for: {:?}, {}",
                state.last,
                told()
            );
            let held = state.boot.acknowledged();
            ensure!(
                held.runtime >= result.acknowledged.runtime,
                "the store lost entries that it had acknowledged: {held:?}, {}",
                told()
            );
        }
        let last = book.results.iter().rev().find(|result| result.evidence == state.last.evidence);
        let stored = store.result(book.device)?.context("a result")?;
        ensure!(last.is_none_or(|last| last.message == sha256(&stored)), "the stored result is another: {}", told());
        no_false_alarm(site, book)?;
    }
    Ok(())
}

/// That the history holds no verdict but affirmed, from the first one that does on.
fn no_false_alarm(site: &Site, book: &Book) -> Result<()> {
    let history = site.get(&format!("/v1/devices/{}/history", book.device))?;
    let rows = history["history"].as_array().context("a history")?;
    let affirmed = |row: &&serde_json::Value| row["verdict"] == Verdict::Affirmed.name();
    let after: Vec<_> = rows.iter().skip_while(|row| !affirmed(row)).collect();
    ensure!(!after.is_empty() && after.iter().all(affirmed), "{}: {rows:?}", book.device);
    Ok(())
}
