//! Lists of TPMs and notices in words: what they say, and what changed between two of them.

use std::collections::BTreeMap;

use reference_values::{Endorsements, KnownBad, Minimum, Notice, Revoked};
use serde::Serialize;

use super::{count, hex};

/// What a notice takes back, for JSON.
#[derive(Serialize)]
pub(super) struct TakenBack {
    minimum: Option<Lowest>,
    revoked: Vec<Withdrawn>,
    known_bad: Vec<Bad>,
}

#[derive(Serialize)]
struct Lowest {
    release: String,
    sequence: u64,
}

#[derive(Serialize)]
struct Withdrawn {
    release: String,
    why: String,
    advisory: Option<String>,
}

#[derive(Serialize)]
struct Bad {
    sha256: String,
    why: String,
    advisory: String,
}

impl From<&Notice> for TakenBack {
    fn from(notice: &Notice) -> Self {
        let lowest = |minimum: &Minimum| Lowest { release: minimum.release.clone(), sequence: minimum.sequence };
        let withdrawn = |Revoked { release, why, advisory }: &Revoked| Withdrawn {
            release: release.clone(),
            why: why.clone(),
            advisory: advisory.clone(),
        };
        let bad = |KnownBad { digest, why, advisory }: &KnownBad| Bad {
            sha256: hex(digest),
            why: why.clone(),
            advisory: advisory.clone(),
        };
        Self {
            minimum: notice.minimum().map(lowest),
            revoked: notice.revoked().iter().map(withdrawn).collect(),
            known_bad: notice.known_bad().iter().map(bad).collect(),
        }
    }
}

impl TakenBack {
    /// A line for each.
    pub(super) fn lines(&self) -> Vec<String> {
        let lowest = self.minimum.iter().map(|Lowest { release, sequence }| {
            format!("lowest release that may run: {release} (sequence {sequence})")
        });
        let withdrawn = self.revoked.iter().map(|Withdrawn { release, why, advisory }| match advisory {
            Some(advisory) => format!("revoked: {release} ({advisory}): {why}"),
            None => format!("revoked: {release}: {why}"),
        });
        let bad = self
            .known_bad
            .iter()
            .map(|Bad { sha256, why, advisory }| format!("known to be bad: sha256:{sha256} ({advisory}): {why}"));
        lowest.chain(withdrawn).chain(bad).collect()
    }

    /// In one line.
    pub(super) fn summary(&self) -> String {
        let minimum = if self.minimum.is_some() { "a lowest release, " } else { "" };
        let revoked = count(self.revoked.len(), "revoked release", "revoked releases");
        let bad = count(self.known_bad.len(), "known-bad file", "known-bad files");
        format!("{minimum}{revoked}, {bad}")
    }
}

/// One device on a list.
#[derive(Serialize)]
pub(super) struct Device {
    /// Digest of its endorsement key.
    ek: String,
    serial: String,
}

impl Device {
    pub(super) fn line(&self) -> String {
        let Self { ek, serial } = self;
        if serial.is_empty() { ek.clone() } else { format!("{ek}  {serial}") }
    }
}

/// All devices of a list.
pub(super) fn devices(list: &Endorsements) -> Vec<Device> {
    let device = |entry: &reference_values::Endorsed| Device { ek: hex(&entry.ek), serial: entry.serial.clone() };
    list.entries().iter().map(device).collect()
}

/// What is in one of two documents alone, as lines.
#[derive(Serialize)]
pub(super) struct Lines {
    added: Vec<String>,
    removed: Vec<String>,
}

impl Lines {
    pub(super) fn of_lists(from: &Endorsements, to: &Endorsements) -> Self {
        let lines = |list| devices(list).iter().map(Device::line).collect();
        Self::between(lines(from), lines(to))
    }

    pub(super) fn of_notices(from: &Notice, to: &Notice) -> Self {
        Self::between(TakenBack::from(from).lines(), TakenBack::from(to).lines())
    }

    fn between(from: Vec<String>, to: Vec<String>) -> Self {
        let mut seen: BTreeMap<String, (bool, bool)> = BTreeMap::new();
        from.into_iter().for_each(|line| seen.entry(line).or_default().0 = true);
        to.into_iter().for_each(|line| seen.entry(line).or_default().1 = true);
        let only = |which: (bool, bool)| {
            seen.iter().filter(|(_, sides)| **sides == which).map(|(line, _)| line.clone()).collect()
        };
        Self { added: only((false, true)), removed: only((true, false)) }
    }

    pub(super) fn text(&self) -> String {
        let added = self.added.iter().map(|line| format!("+ {line}\n"));
        let removed = self.removed.iter().map(|line| format!("- {line}\n"));
        let mut out: String = added.chain(removed).collect();
        out.push_str(&format!("{} added, {} removed\n", self.added.len(), self.removed.len()));
        out
    }
}
