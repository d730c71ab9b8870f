//! Boot: does the log replay to the quote, is every event of it one that a signed release allows, and what keeps it true
//! afterwards? docs/boot.md says it event by event.

pub(crate) mod aggregate;
mod log;
mod phase;
pub(crate) mod protection;
mod rules;
#[cfg(test)]
mod tests;

use evidence::{
    claims::LogKind,
    envelope::Authentic,
    eventlog::EventLog,
    pcr::{HashAlgorithm, PROFILE_PCRS, PcrValues, sha256},
};
use reference_values::{ProductRef, ReleaseEntry, boot_rules::BootRules};

use crate::{
    UnixSeconds,
    cause::Code,
    state::{BootLogFacts, BootState, JudgedRelease, MAX_JUDGED, PcrValue, Track, Violation},
};
use log::BootLog;

/// PCRs that hold what ran before the operating system, and that nothing extends after it (TCG PC Client Platform
/// Firmware Profile §2.3.4; 8 and 9 by GRUB and the kernel's stub).
const BOOT_PCRS: std::ops::RangeInclusive<u8> = 0..=9;
/// PCRs that the log may extend, and the system after it: systemd-stub, shim.
const LATER_PCRS: std::ops::RangeInclusive<u8> = 11..=15;
/// What else systemd-stub measures, where it measures: credentials and command lines, system extensions.
const STUB_PCRS: [u8; 2] = [12, 13];
/// Into which systemd's boot loader and stub measure the command lines that they are given.
const LOADER_PCR: u8 = 12;

/// The first PCR of what ran before the operating system that is another: within a boot, none is.
pub(crate) fn differing(held: &PcrValues, quoted: &PcrValues) -> Option<u8> {
    BOOT_PCRS.into_iter().find(|pcr| held.get(usize::from(*pcr)) != quoted.get(usize::from(*pcr)))
}

/// What a boot log is held against.
#[derive(Clone, Copy)]
pub(crate) struct Against<'a> {
    /// Releases of the device's product.
    pub(crate) product: Option<ProductRef<'a>>,
    /// PCR of the runtime log.
    pub(crate) runtime_pcr: u8,
    /// Now.
    pub(crate) now: UnixSeconds,
}

/// Takes in a boot log, where one is attached: it counts only if it replays to the quoted PCRs. Returns whether one did;
/// `Err` says how it contradicts them.
pub(crate) fn take_log(
    evidence: &Authentic,
    pcrs: &PcrValues,
    boot: &mut BootState,
    against: &Against<'_>,
) -> Result<bool, String> {
    let Some(attachment) = evidence.attachment(LogKind::Boot) else { return Ok(false) };
    let refused = |contradiction| format!("boot log: {contradiction}");
    let log = BootLog::read(&attachment.bytes).map_err(refused)?;
    let facts = replay(&attachment.bytes, &log, pcrs, against).map_err(refused)?;
    if boot.boot_log.as_ref().is_none_or(|held| held.digest != facts.digest) && boot.runtime.next == 0 {
        boot.runtime = Track::from_start(facts.runtime_start);
    }
    boot.boot_log = Some(facts);
    boot.log_wanted = false;
    boot.judged = judge_log(&log, against);
    Ok(true)
}

fn replay(bytes: &[u8], log: &BootLog<'_>, pcrs: &PcrValues, against: &Against<'_>) -> Result<BootLogFacts, String> {
    let read = EventLog::read(bytes).and_then(|log| log.replay(Some(HashAlgorithm::Sha256)));
    let replay = read.map_err(|error| error.to_string())?;
    for pcr in BOOT_PCRS {
        // A PCR that the log does not mention must be untouched, or the log hides something.
        let replayed = replay.sha256(u32::from(pcr)).unwrap_or([0; 32]);
        if pcrs.get(usize::from(pcr)) != Some(&replayed) {
            let foreign = first_unlisted(log, against);
            return Err(format!("it does not lead to the quoted value of PCR {pcr} ({}){foreign}", log.positions(pcr)));
        }
    }
    let later = LATER_PCRS.filter_map(|pcr| Some(PcrValue { pcr, value: replay.sha256(u32::from(pcr))? }));
    Ok(BootLogFacts {
        digest: sha256(bytes),
        events: u64::try_from(replay.events).unwrap_or(u64::MAX),
        runtime_start: replay.sha256(u32::from(against.runtime_pcr)).unwrap_or([0; 32]),
        secure_boot: log.secure_boot,
        command_line: log.command_line().map(str::to_owned),
        later_pcrs: later.collect(),
    })
}

/// Where releases have rules: the first event that the nearest does not list, as it may be what makes a log wrong.
fn first_unlisted(log: &BootLog<'_>, against: &Against<'_>) -> String {
    let judged = judge_log(log, against);
    let nearest = judged.iter().min_by_key(|judged| judged.broken);
    let unlisted = nearest.and_then(|judged| {
        let first = judged.violations.iter().find(|violation| violation.code == Code::BootUnlistedEvent)?;
        Some(format!("; not of release {}: {}", judged.release, first.detail))
    });
    unlisted.unwrap_or_default()
}

/// Holds the log of this boot against rules that are others than before. Without the log, it is asked for.
pub(crate) fn judge_again(boot: &mut BootState, held: Option<&[u8]>, against: &Against<'_>) {
    let Some(facts) = &boot.boot_log else { return };
    let held = held.filter(|bytes| sha256(bytes) == facts.digest);
    match held.and_then(|bytes| BootLog::read(bytes).ok()) {
        Some(log) => boot.judged = judge_log(&log, against),
        None => {
            boot.judged.clear();
            boot.log_wanted = has_rules(against.product);
        }
    }
}

fn has_rules(product: Option<ProductRef<'_>>) -> bool {
    product.is_some_and(|product| product.releases().any(|(_, release)| !release.boot_rules().is_empty()))
}

/// Holds a log against every release that has rules. Kept are those whose boot it is; where none of them counts yet, the
/// nearest of those that do, and of those that do not.
fn judge_log(log: &BootLog<'_>, against: &Against<'_>) -> Vec<JudgedRelease> {
    let (mut kept, mut nearest): (Vec<JudgedRelease>, [Option<JudgedRelease>; 2]) = (Vec::new(), [None, None]);
    let mut counts = false;
    for (_, release) in against.product.iter().flat_map(ProductRef::releases) {
        let Some(judged) = judge_release(log, release) else { continue };
        let valid = is_valid(release, against.now);
        if judged.broken == 0 {
            counts |= valid;
            kept.push(judged);
        } else {
            let [of_valid, of_others] = &mut nearest;
            let place = if valid { of_valid } else { of_others };
            // Of those that are equally near, the newest.
            if place.as_ref().is_none_or(|known| judged.broken <= known.broken) {
                *place = Some(judged);
            }
        }
    }
    kept.reverse();
    kept.truncate(MAX_JUDGED.saturating_sub(nearest.len()));
    kept.reverse();
    if !counts {
        kept.extend(nearest.into_iter().flatten());
    }
    kept
}

/// The rules of the release that the log breaks least.
fn judge_release(log: &BootLog<'_>, release: &ReleaseEntry) -> Option<JudgedRelease> {
    let judged = release.boot_rules().iter().zip(0..).map(|(rules, number)| {
        let outcome = rules::judge(log, rules);
        JudgedRelease {
            release: release.name().to_owned(),
            rules: number,
            violations: outcome.violations,
            broken: outcome.broken,
            vendor_events: outcome.vendor_events,
            command_line: outcome.command_line,
            kernel: rules.kernel().map(|kernel| kernel.release.clone()),
        }
    });
    judged.min_by_key(|judged| judged.broken)
}

/// A release whose boot this is.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Matched<'a> {
    /// It.
    pub(crate) release: &'a ReleaseEntry,
    /// By its rules, or by exact PCR values.
    pub(crate) rules: Option<(&'a BootRules, &'a JudgedRelease)>,
}

/// What reference values say of a boot.
#[derive(Debug)]
pub(crate) enum BootMatch<'a> {
    /// No release of the product says anything about boot.
    NoReference,
    /// Releases judge by a log that is not held.
    NoLog,
    /// Releases whose boot this is.
    Releases(Vec<Matched<'a>>),
    /// None; this is how it differs from the nearest.
    Mismatch(Vec<Violation>),
}

/// How a boot differs from the nearest release.
struct Nearest {
    broken: u32,
    violations: Vec<Violation>,
}

impl Nearest {
    fn of_pcrs(release: &str, pcrs: &[u8]) -> Self {
        let list: Vec<String> = pcrs.iter().map(u8::to_string).collect();
        let detail = format!("PCR {} differ from release {release}", list.join(", "));
        let broken = u32::try_from(pcrs.len()).unwrap_or(u32::MAX);
        Self { broken, violations: vec![Violation { code: Code::BootPcrMismatch, detail }] }
    }

    fn of_rules(judged: &JudgedRelease) -> Self {
        let told = |violation: &Violation| Violation {
            code: violation.code,
            detail: format!("release {}: {}", judged.release, violation.detail),
        };
        Self { broken: judged.broken, violations: judged.violations.iter().map(told).collect() }
    }
}

/// Holds a boot against every release of the product that counts now.
pub(crate) fn judge<'a>(boot: &'a BootState, pcrs: &PcrValues, against: &Against<'a>) -> BootMatch<'a> {
    let mut matching: Vec<Matched<'a>> = Vec::new();
    let mut nearest: Option<Nearest> = None;
    let mut wants_log = false;
    let mut near = |found: Nearest| {
        if nearest.as_ref().is_none_or(|known| found.broken < known.broken) {
            nearest = Some(found);
        }
    };
    let releases = against.product.into_iter().flat_map(|product| product.releases());
    for (_, release) in releases.filter(|(_, release)| is_valid(release, against.now)) {
        let mut matched = None;
        for exact in release.boots() {
            let differing: Vec<u8> = exact.mismatches(pcrs).collect();
            if differing.is_empty() {
                matched = Some(Matched { release, rules: None });
            } else {
                near(Nearest::of_pcrs(release.name(), &differing));
            }
        }
        let has_rules = !release.boot_rules().is_empty();
        wants_log |= has_rules && (boot.boot_log.is_none() || boot.log_wanted);
        for judged in boot.judged.iter().filter(|judged| has_rules && judged.release == release.name()) {
            let number = usize::try_from(judged.rules).unwrap_or(usize::MAX);
            match release.boot_rules().get(number).filter(|_| judged.broken == 0) {
                None => near(Nearest::of_rules(judged)),
                Some(rules) => match later_mismatches(boot, rules, pcrs, against.runtime_pcr) {
                    differing if differing.is_empty() => {
                        matched = Some(Matched { release, rules: Some((rules, judged)) });
                    }
                    differing => near(Nearest::of_pcrs(release.name(), &differing)),
                },
            }
        }
        matching.extend(matched);
    }
    match nearest {
        _ if !matching.is_empty() => BootMatch::Releases(matching),
        _ if wants_log => BootMatch::NoLog,
        Some(nearest) => BootMatch::Mismatch(nearest.violations),
        None => match boot.judged.iter().min_by_key(|judged| judged.broken) {
            Some(judged) if !judged.violations.is_empty() => BootMatch::Mismatch(Nearest::of_rules(judged).violations),
            _ => BootMatch::NoReference,
        },
    }
}

/// PCRs after the boot's own that do not hold what the log leads to: where the rules or the log say anything of them, or
/// where systemd-stub would have measured. What the log says of a PCR is nobody's word until the quote agrees.
fn later_mismatches(boot: &BootState, rules: &BootRules, pcrs: &PcrValues, runtime_pcr: u8) -> Vec<u8> {
    let later = boot.boot_log.as_ref().map(|log| log.later_pcrs.as_slice()).unwrap_or_default();
    let ruled = |pcr: u8| rules.events().keys().any(|key| key.pcr == pcr);
    let by_stub = ruled(phase::PCR);
    // A line that is left out of the log must not make way for another: of those places, this one alone has no other rule.
    let by_loader = rules.are_of_uefi() && !rules.command_lines().is_empty();
    let measures = |pcr: u8| ruled(pcr) || by_stub && STUB_PCRS.contains(&pcr) || by_loader && pcr == LOADER_PCR;
    let differs = |pcr: &u8| {
        let led_to = later.iter().find(|value| value.pcr == *pcr);
        if led_to.is_none() && !measures(*pcr) {
            return false;
        }
        let led_to = led_to.map_or([0; 32], |value| value.value);
        let quoted = pcrs.get(usize::from(*pcr)).copied().unwrap_or_default();
        quoted != led_to && !(*pcr == phase::PCR && phase::lead(&led_to, &quoted))
    };
    // How the runtime log goes on from there is judged with the runtime log.
    LATER_PCRS.filter(|pcr| *pcr != runtime_pcr && usize::from(*pcr) < PROFILE_PCRS).filter(differs).collect()
}

/// Whether a release counts at `now`.
pub(crate) fn is_valid(release: &ReleaseEntry, now: UnixSeconds) -> bool {
    release.valid_from().is_none_or(|from| from <= now)
}
