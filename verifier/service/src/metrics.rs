//! Counters of the service, for Prometheus. Labels are stable codes of this program, never text from the network: what
//! arrives cannot make them grow.

use std::fmt;

use appraisal::{Basis, Verdict};
use prometheus_client::{
    encoding::text::encode,
    metrics::{
        counter::Counter,
        family::Family,
        gauge::Gauge,
        histogram::{Histogram, exponential_buckets},
    },
    registry::{Registry, Unit},
};

use crate::store::FleetCounts;

type Label = [(&'static str, &'static str); 1];

/// All of them.
pub struct Metrics {
    registry: Registry,
    refused: Family<Label, Counter>,
    accepted: Family<Label, Counter>,
    by_basis: Family<Label, Counter>,
    requests: Family<Label, Counter>,
    epoch: Gauge,
    keys_end: Gauge,
    enrolments: Family<Label, Counter>,
    malformed: Family<Label, Counter>,
    dropped: Family<Label, Counter>,
    store_failures: Counter,
    batch_size: Histogram,
    commit_seconds: Histogram,
    devices: Family<Label, Gauge>,
    overdue: Gauge,
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for Metrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Metrics").finish_non_exhaustive()
    }
}

impl Metrics {
    /// All at zero.
    #[must_use]
    pub fn new() -> Self {
        let mut metrics = Self {
            registry: Registry::with_prefix("countersign"),
            refused: Family::default(),
            accepted: Family::default(),
            by_basis: Family::default(),
            requests: Family::default(),
            epoch: Gauge::default(),
            keys_end: Gauge::default(),
            enrolments: Family::default(),
            malformed: Family::default(),
            dropped: Family::default(),
            store_failures: Counter::default(),
            batch_size: Histogram::new(exponential_buckets(1.0, 2.0, 10)),
            commit_seconds: Histogram::new(exponential_buckets(0.001, 2.0, 12)),
            devices: Family::default(),
            overdue: Gauge::default(),
        };
        metrics.register();
        metrics
    }

    fn register(&mut self) {
        let Self { registry, .. } = self;
        registry.register(
            "evidence_refused",
            "Evidence refused, by code of the check that failed",
            self.refused.clone(),
        );
        registry.register("evidence_accepted", "Evidence judged and committed, by verdict", self.accepted.clone());
        registry.register(
            "evidence_by_basis",
            "Evidence judged and committed, by what shows that it is fresh",
            self.by_basis.clone(),
        );
        registry.register("requests", "Requests for evidence that nobody outside asked for", self.requests.clone());
        registry.register("epoch", "Number of the open epoch: seconds since 1970", self.epoch.clone());
        registry.register(
            "keys_end",
            "When the keys that this verifier signs with end: seconds since 1970",
            self.keys_end.clone(),
        );
        registry.register("enrolments", "Enrolments, by outcome", self.enrolments.clone());
        registry.register("malformed", "Messages that could not be decoded, by kind", self.malformed.clone());
        registry.register("dropped", "Messages dropped unread, by reason", self.dropped.clone());
        registry.register("store_failures", "Commits that failed", self.store_failures.clone());
        registry.register("commit_batch", "Evidence in one commit", self.batch_size.clone());
        registry.register_with_unit(
            "commit",
            "Time until a commit was durable",
            Unit::Seconds,
            self.commit_seconds.clone(),
        );
        registry.register("devices", "Devices, by verdict as it stands", self.devices.clone());
        registry.register("devices_overdue", "Devices whose verdict has expired", self.overdue.clone());
    }

    /// Evidence was refused.
    pub fn refused(&self, code: &'static str) {
        self.refused.get_or_create(&[("code", code)]).inc();
    }

    /// Evidence was judged and committed.
    pub fn accepted(&self, verdict: Verdict, basis: Basis) {
        self.accepted.get_or_create(&[("verdict", verdict.name())]).inc();
        let basis = match basis {
            Basis::Request { .. } => "request",
            Basis::Epoch { .. } => "epoch",
        };
        self.by_basis.get_or_create(&[("basis", basis)]).inc();
    }

    /// A device was asked for evidence: unannounced, or after a replay.
    pub fn requested(&self, why: &'static str) {
        self.requests.get_or_create(&[("why", why)]).inc();
    }

    /// This epoch is open.
    pub fn epoch(&self, number: u64) {
        self.epoch.set(i64::try_from(number).unwrap_or(i64::MAX));
    }

    /// The keys in force end then.
    pub fn keys_end(&self, at: u64) {
        self.keys_end.set(i64::try_from(at).unwrap_or(i64::MAX));
    }

    /// An enrolment ended: `enrolled`, or the code of the check that failed.
    pub fn enrolment(&self, outcome: &'static str) {
        self.enrolments.get_or_create(&[("outcome", outcome)]).inc();
    }

    /// A message could not be decoded.
    pub fn malformed(&self, what: &'static str) {
        self.malformed.get_or_create(&[("what", what)]).inc();
    }

    /// A message was dropped unread: over a rate, unknown topic, oversize, …
    pub fn dropped(&self, why: &'static str) {
        self.dropped.get_or_create(&[("why", why)]).inc();
    }

    /// A commit failed.
    pub fn store_failed(&self) {
        self.store_failures.inc();
    }

    /// A commit of `size` messages took so long.
    pub fn committed(&self, size: usize, took: std::time::Duration) {
        self.batch_size.observe(size as f64);
        self.commit_seconds.observe(took.as_secs_f64());
    }

    /// Everything as text, with the fleet as it stands.
    #[must_use]
    pub fn render(&self, fleet: &FleetCounts) -> String {
        let gauge = |value: u64| i64::try_from(value).unwrap_or(i64::MAX);
        for (verdict, count) in Verdict::ALL.iter().zip(fleet.verdicts) {
            self.devices.get_or_create(&[("verdict", verdict.name())]).set(gauge(count));
        }
        self.overdue.set(gauge(fleet.overdue));
        let mut text = String::new();
        // Writing into a String does not fail.
        let _ = encode(&mut text, &self.registry);
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_appear_under_their_names() {
        let metrics = Metrics::new();
        metrics.refused("quote.signature");
        metrics.accepted(Verdict::Affirmed, Basis::Epoch { number: 5 });
        metrics.epoch(5);
        metrics.enrolment("enrolled");
        metrics.malformed("evidence");
        metrics.dropped("rate");
        metrics.committed(3, std::time::Duration::from_millis(2));
        let text = metrics.render(&FleetCounts { total: 3, verdicts: [2, 0, 0, 1], overdue: 0, never_seen: 0 });
        for line in [
            "countersign_evidence_refused_total{code=\"quote.signature\"} 1",
            "countersign_evidence_accepted_total{verdict=\"affirmed\"} 1",
            "countersign_evidence_by_basis_total{basis=\"epoch\"} 1",
            "countersign_epoch 5",
            "countersign_enrolments_total{outcome=\"enrolled\"} 1",
            "countersign_malformed_total{what=\"evidence\"} 1",
            "countersign_dropped_total{why=\"rate\"} 1",
            "countersign_commit_batch_sum 3.0",
            "countersign_devices{verdict=\"affirmed\"} 2",
            "countersign_devices{verdict=\"contraindicated\"} 1",
        ] {
            assert!(text.contains(line), "{line} in\n{text}");
        }
    }
}
