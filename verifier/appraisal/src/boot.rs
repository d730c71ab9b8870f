//! Boot: does the log replay to the quote, and are these the PCRs of a signed release?

use evidence::{
    claims::LogKind,
    envelope::{Attachment, Authentic},
    eventlog::EventLog,
    ima,
    pcr::{HashAlgorithm, PcrValues, sha256},
};
use reference_values::{ProductRef, ReleaseEntry};

use crate::{
    UnixSeconds,
    state::{BootLogFacts, BootState, Track},
};

/// PCRs that hold what ran before the operating system, and that nothing extends after it (TCG PC Client Platform
/// Firmware Profile §2.3.4; 8 and 9 by GRUB and the kernel's stub).
const BOOT_PCRS: std::ops::RangeInclusive<u8> = 0..=9;

/// Whether the PCRs of what ran before the operating system are the same.
pub(crate) fn same_boot(held: &PcrValues, quoted: &PcrValues) -> bool {
    BOOT_PCRS.into_iter().all(|pcr| held.get(usize::from(pcr)) == quoted.get(usize::from(pcr)))
}

/// Takes in a boot log, where one is attached: it counts only if it replays to the quoted PCRs. `Err` says how it
/// contradicts them.
pub(crate) fn take_log(
    evidence: &Authentic,
    pcrs: &PcrValues,
    boot: &mut BootState,
    runtime_pcr: u8,
) -> Result<(), String> {
    let Some(attachment) = evidence.attachment(LogKind::Boot) else { return Ok(()) };
    let facts = replay(attachment, pcrs, runtime_pcr).map_err(|contradiction| format!("boot log: {contradiction}"))?;
    if boot.boot_log.as_ref() != Some(&facts) && boot.runtime.next == 0 {
        boot.runtime = Track::from_start(facts.runtime_start);
    }
    boot.boot_log = Some(facts);
    Ok(())
}

fn replay(attachment: &Attachment, pcrs: &PcrValues, runtime_pcr: u8) -> Result<BootLogFacts, String> {
    let log = EventLog::read(&attachment.bytes).map_err(|error| error.to_string())?;
    let replay = log.replay(Some(HashAlgorithm::Sha256)).map_err(|error| error.to_string())?;
    for pcr in BOOT_PCRS {
        // A PCR that the log does not mention must be untouched, or the log hides something.
        let replayed = replay.sha256(u32::from(pcr)).unwrap_or([0; 32]);
        if pcrs.get(usize::from(pcr)) != Some(&replayed) {
            return Err(format!("it does not lead to the quoted value of PCR {pcr}"));
        }
    }
    Ok(BootLogFacts {
        digest: sha256(&attachment.bytes),
        events: u64::try_from(replay.events).unwrap_or(u64::MAX),
        runtime_start: replay.sha256(u32::from(runtime_pcr)).unwrap_or([0; 32]),
        ..BootLogFacts::default()
    })
}

/// Whether IMA's boot_aggregate is of this boot: SHA-256 over PCR 0–7, or 0–9 since Linux 5.8.
pub(crate) fn aggregate_is_of_this_boot(entry: &ima::Entry<'_>, pcrs: &PcrValues) -> bool {
    let Some(digest) = entry.fields.digest.filter(|digest| digest.algorithm == HashAlgorithm::Sha256.name()) else {
        return true;
    };
    [8, 10]
        .into_iter()
        .any(|count| pcrs.all().get(..count).is_some_and(|set| sha256(set.as_flattened()) == digest.bytes))
}

/// What reference values say of a boot.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum BootMatch {
    /// No release of the product says anything about boot.
    NoReference,
    /// Releases whose boot this is.
    Releases(Vec<String>),
    /// None; the nearest release differs in these PCRs.
    Mismatch { release: String, pcrs: Vec<u8> },
}

/// Holds the quoted PCRs against every release of the product that is valid at `now`.
pub(crate) fn judge(product: ProductRef<'_>, pcrs: &PcrValues, now: UnixSeconds) -> BootMatch {
    let mut matching = Vec::new();
    let mut nearest: Option<(String, Vec<u8>)> = None;
    let boots = product.releases().filter(|(_, release)| is_valid(release, now));
    for (release, boot) in boots.flat_map(|(_, release)| release.boots().iter().map(move |boot| (release, boot))) {
        let differing: Vec<u8> = boot.mismatches(pcrs).collect();
        if differing.is_empty() {
            matching.push(release.name().to_owned());
        } else if nearest.as_ref().is_none_or(|(_, known)| differing.len() < known.len()) {
            nearest = Some((release.name().to_owned(), differing));
        }
    }
    matching.dedup();
    match nearest {
        _ if !matching.is_empty() => BootMatch::Releases(matching),
        Some((release, pcrs)) => BootMatch::Mismatch { release, pcrs },
        None => BootMatch::NoReference,
    }
}

/// Whether a release counts at `now`.
pub(crate) fn is_valid(release: &ReleaseEntry, now: UnixSeconds) -> bool {
    release.valid_from().is_none_or(|from| from <= now)
}
