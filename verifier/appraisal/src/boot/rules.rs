//! One boot log against the rules of one release: both in; every way in which the boot breaks them out, in the order of the
//! log.
//!
//! Each digest that extended a PCR has to be accounted for by a rule of the class that the log puts it into. So a lie about
//! types and places gains nothing: it moves a digest to a rule that does not know it. That holds as long as no rule takes
//! any digest; where one does ([`EventRule::Unjudged`], events of vendors' own types), it is only in PCRs into which
//! firmware measures no code ([`EventKey::may_be_unjudged`]).

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    ops::RangeInclusive,
};

use evidence::eventlog::{Hex, Separator, event_type_name};
use reference_values::boot_rules::{BootRules, EventKey, EventRule, Keys, SecureBootVariable};

use super::log::{BootLog, CommandLineAt, Measured, SECURE_BOOT_PCR, STUB_PCR, one, type_name};
use crate::{
    cause::Code,
    state::{MAX_VIOLATIONS, Violation},
};

/// Events of vendors' own types that are named.
const MAX_VENDOR_EVENTS: usize = 4;

/// What a log is by the rules.
pub(crate) struct Outcome {
    /// How the boot breaks the rules, the first few.
    pub(crate) violations: Vec<Violation>,
    /// How many ways there are.
    pub(crate) broken: u32,
    /// Events of vendors' own types that the rules do not name, the first few.
    pub(crate) vendor_events: Vec<String>,
    /// The kernel's command line.
    pub(crate) command_line: Option<String>,
}

/// Holds a log against rules.
pub(crate) fn judge(log: &BootLog<'_>, rules: &BootRules) -> Outcome {
    let mut faults = Faults { list: Vec::new(), end: log.len };
    let vendor_events = events(log, rules, &mut faults);
    separators(log, rules, &mut faults);
    secure_boot(log, rules, &mut faults);
    let command_line = command_lines(log, rules, &mut faults);
    for measured in &log.debugger {
        faults.event(Code::BootDebugger, *measured, "the firmware ran with a debugger");
    }
    let broken = u32::try_from(faults.list.len()).unwrap_or(u32::MAX);
    Outcome { violations: faults.told(), broken, vendor_events, command_line }
}

/// One way in which a boot breaks a rule, put into words only where it is told.
struct Fault<'a> {
    at: usize,
    code: Code,
    what: What<'a>,
}

enum What<'a> {
    Event(Measured<'a>, &'static str),
    /// Of these events, this digest should have come after that event.
    Missing(EventKey, Option<[u8; 32]>, Option<usize>),
    Text(String),
}

struct Faults<'a> {
    list: Vec<Fault<'a>>,
    /// Where what the whole log lacks is told.
    end: usize,
}

impl<'a> Faults<'a> {
    fn event(&mut self, code: Code, measured: Measured<'a>, why: &'static str) {
        self.list.push(Fault { at: measured.event.index, code, what: What::Event(measured, why) });
    }

    fn unlisted(&mut self, measured: Measured<'a>, why: &'static str) {
        self.event(Code::BootUnlistedEvent, measured, why);
    }

    fn missing(&mut self, key: EventKey, digest: Option<[u8; 32]>, after: Option<usize>) {
        let at = after.unwrap_or(0);
        self.list.push(Fault { at, code: Code::BootMissingEvent, what: What::Missing(key, digest, after) });
    }

    fn text(&mut self, code: Code, text: String) {
        self.list.push(Fault { at: self.end, code, what: What::Text(text) });
    }

    /// The first few in the order of the log, and of every kind the first.
    fn told(mut self) -> Vec<Violation> {
        self.list.sort_by_key(|fault| fault.at);
        let mut kinds = BTreeSet::new();
        let (first, others): (Vec<_>, Vec<_>) = self.list.into_iter().partition(|fault| kinds.insert(fault.code));
        let mut told: Vec<Fault<'_>> = first.into_iter().chain(others).take(MAX_VIOLATIONS).collect();
        told.sort_by_key(|fault| fault.at);
        told.iter().map(|fault| Violation { code: fault.code, detail: fault.what.told() }).collect()
    }
}

impl What<'_> {
    fn told(&self) -> String {
        match self {
            Self::Event(measured, why) => format!("{}: {why}", measured.describe()),
            Self::Missing(key, digest, after) => {
                let digest = digest.map(|digest| format!(" sha256:{}", Hex(&digest))).unwrap_or_default();
                let place = after.map_or_else(|| " first of its kind".into(), |after| format!(" after event {after}"));
                format!("PCR {}, {}{digest} should have come{place}", key.pcr, type_name(key.event_type))
            }
            Self::Text(text) => text.clone(),
        }
    }
}

const NO_RULE: &str = "no rule allows such an event";

/// Holds every event against the rule of its key. Returns what was tolerated of vendors' own events.
fn events<'a>(log: &BootLog<'a>, rules: &BootRules, faults: &mut Faults<'a>) -> Vec<String> {
    // Where a digest may be anybody's: whoever owns the system after boot chooses the words of a log, but never which PCR
    // firmware extended with a loader's digest.
    let of_uefi = rules.are_of_uefi();
    let mut vendors = Vec::new();
    for (key, measured) in &log.events {
        let tolerant = of_uefi && key.may_be_unjudged();
        match rules.events().get(key) {
            Some(EventRule::Sequences(allowed)) => sequence(*key, measured, allowed.iter().map(Vec::as_slice), faults),
            Some(EventRule::AnyOf { digests, at_least, at_most }) => {
                any_of(*key, measured, digests, *at_least..=*at_most, faults);
            }
            Some(EventRule::Unjudged) if tolerant => {}
            Some(EventRule::Unjudged) | None => {
                // A type that no standard names, before the separator that ends the firmware's own measurements.
                let own_type = event_type_name(key.event_type).is_none() && tolerant;
                let end = log.closed_at(key.pcr).filter(|_| own_type).unwrap_or(0);
                for one in measured {
                    if one.event.index < end { vendors.push(*one) } else { faults.unlisted(*one, NO_RULE) }
                }
            }
        }
    }
    for (key, rule) in rules.events().iter().filter(|(key, _)| !log.events.contains_key(key)) {
        match rule {
            EventRule::Sequences(allowed) => sequence(*key, &[], allowed.iter().map(Vec::as_slice), faults),
            EventRule::AnyOf { at_least: 1.., .. } => faults.missing(*key, None, None),
            EventRule::AnyOf { .. } | EventRule::Unjudged => {}
        }
    }
    vendors.sort_by_key(|measured| measured.event.index);
    vendors.iter().take(MAX_VENDOR_EVENTS).map(Measured::describe).collect()
}

/// All events of a key against digests of which there are so many, in any order.
fn any_of<'a>(
    key: EventKey,
    measured: &[Measured<'a>],
    allowed: &BTreeSet<[u8; 32]>,
    count: RangeInclusive<u32>,
    faults: &mut Faults<'a>,
) {
    let [least, most] = [*count.start(), *count.end()].map(|count| usize::try_from(count).unwrap_or(usize::MAX));
    let (listed, others): (Vec<Measured<'a>>, Vec<Measured<'a>>) =
        measured.iter().copied().partition(|one| allowed.contains(&one.digest));
    others.into_iter().for_each(|other| faults.unlisted(other, "no rule lists this digest"));
    listed.iter().skip(most).for_each(|more| faults.unlisted(*more, "more of these than rules allow"));
    if listed.len() < least {
        faults.missing(key, None, measured.last().map(|last| last.event.index));
    }
}

/// All events of a key against the sequences that are allowed; of none, against the one that agrees the longest.
fn sequence<'a, 'r>(
    key: EventKey,
    measured: &[Measured<'a>],
    allowed: impl Iterator<Item = &'r [[u8; 32]]>,
    faults: &mut Faults<'a>,
) {
    let mut nearest: &[[u8; 32]] = &[];
    let mut most = None;
    for sequence in allowed {
        let agreeing = measured.iter().zip(sequence).take_while(|(one, digest)| one.digest == **digest).count();
        if agreeing == measured.len() && agreeing == sequence.len() {
            return;
        }
        // Of those that agree equally long, the one of the same length tells least.
        let rank = (agreeing, std::cmp::Reverse(sequence.len().abs_diff(measured.len())));
        if most.is_none_or(|most| rank > most) {
            (most, nearest) = (Some(rank), sequence);
        }
    }
    differences(key, measured, nearest, faults);
}

/// How often a digest is still to come.
#[derive(Default)]
struct Left {
    measured: usize,
    expected: usize,
    /// Came too early: expected no more.
    early: usize,
}

/// What was inserted, dropped or moved, in time n log n whatever a log holds.
fn differences<'a>(key: EventKey, measured: &[Measured<'a>], expected: &[[u8; 32]], faults: &mut Faults<'a>) {
    let mut left: HashMap<[u8; 32], Left> = HashMap::new();
    for one in measured {
        let left = left.entry(one.digest).or_default();
        left.measured = left.measured.saturating_add(1);
    }
    for digest in expected {
        let left = left.entry(*digest).or_default();
        left.expected = left.expected.saturating_add(1);
    }
    let (mut measured, mut expected) = (measured.iter().peekable(), expected.iter().peekable());
    let mut after = None;
    loop {
        let (next, wanted) = (measured.peek().map(|one| one.digest), expected.peek().map(|digest| **digest));
        match (next, wanted) {
            (None, None) => return,
            (Some(same), Some(wanted)) if same == wanted => {
                let left = left.entry(same).or_default();
                left.measured = left.measured.saturating_sub(1);
                left.expected = left.expected.saturating_sub(1);
                expected.next();
                after = measured.next().map(|one| one.event.index);
            }
            (_, Some(wanted)) if left.get(&wanted).is_none_or(|left| left.measured == 0) => {
                let left = left.entry(wanted).or_default();
                left.expected = left.expected.saturating_sub(1);
                if left.early > 0 {
                    left.early = left.early.saturating_sub(1);
                } else {
                    faults.missing(key, Some(wanted), after);
                }
                expected.next();
            }
            (Some(next), _) => {
                let left = left.entry(next).or_default();
                left.measured = left.measured.saturating_sub(1);
                let early = left.expected > left.early;
                left.early = left.early.saturating_add(usize::from(early));
                let why =
                    if early { "a rule lists it, but at another place" } else { "no rule lists this digest here" };
                if let Some(one) = measured.next() {
                    faults.unlisted(*one, why);
                    after = Some(one.event.index);
                }
            }
            // What is wanted is still to come, and nothing comes: the counts never let it.
            (None, Some(_)) => _ = expected.next(),
        }
    }
}

/// Each PCR that the release closes has one good separator, and no other PCR has any.
fn separators<'a>(log: &BootLog<'a>, rules: &BootRules, faults: &mut Faults<'a>) {
    let mut seen: BTreeMap<u8, usize> = BTreeMap::new();
    for closed in &log.separators {
        let pcr = closed.measured.pcr;
        let count = seen.entry(pcr).or_default();
        *count = count.saturating_add(1);
        let why = match closed.says {
            Separator::Error(_) => "the firmware met an error",
            Separator::Other => "its digest is not that of a separator",
            _ if !rules.separators().contains(&pcr) => "the release has no separator in this PCR",
            _ if *count > 1 => "a second separator in this PCR",
            Separator::Good | Separator::GoodFfff => continue,
        };
        faults.event(Code::BootSeparator, closed.measured, why);
    }
    for pcr in rules.separators().iter().filter(|pcr| !seen.contains_key(pcr)) {
        faults.text(Code::BootSeparator, format!("PCR {pcr} has no separator"));
    }
}

/// Secure boot's state, and the keys that it rests on.
fn secure_boot<'a>(log: &BootLog<'a>, rules: &BootRules, faults: &mut Faults<'a>) {
    let end = log.closed_at(SECURE_BOOT_PCR).unwrap_or(usize::MAX);
    let mut seen = BTreeSet::new();
    for setup in &log.variables {
        if !seen.insert(setup.variable) {
            faults.unlisted(setup.measured, "measured a second time");
        } else if setup.measured.event.index > end {
            faults.unlisted(setup.measured, "measured after the separator");
        }
    }
    let rule = rules.secure_boot();
    if rule.required && log.secure_boot != Some(true) {
        let state = match log.secure_boot {
            Some(_) => "the log proves that it was off, in setup or audit mode, or without a platform key",
            None => "the log does not prove its state",
        };
        faults.text(Code::BootSecureBootOff, format!("the release requires secure boot: {state}"));
    }
    let allowed =
        [(SecureBootVariable::Pk, &rule.pk), (SecureBootVariable::Kek, &rule.kek), (SecureBootVariable::Db, &rule.db)];
    for (variable, allowed) in allowed {
        if let Some(allowed) = allowed {
            let foreign = |held: &Keys| held.difference(allowed).copied().collect();
            database(log, variable, foreign, Code::BootUnlistedEvent, "has an entry that no rule allows", faults);
        }
    }
    if !rule.dbx_at_least.is_empty() {
        let lost = |held: &Keys| rule.dbx_at_least.difference(held).copied().collect();
        let why = "does not forbid what the release forbids";
        database(log, SecureBootVariable::Dbx, lost, Code::BootMissingEvent, why, faults);
    }
}

/// Holds a signature database against a rule, whose `wrong` picks the entries that break it.
fn database<'a>(
    log: &BootLog<'a>,
    variable: SecureBootVariable,
    wrong: impl Fn(&Keys) -> Vec<[u8; 32]>,
    code: Code,
    why: &str,
    faults: &mut Faults<'a>,
) {
    let name = variable_name(variable);
    let Some(setup) = log.variables.iter().find(|setup| setup.variable == variable) else {
        return faults.text(Code::BootMissingEvent, format!("PCR {SECURE_BOOT_PCR}: {name} is not measured"));
    };
    let Some(held) = &setup.keys else {
        return faults.unlisted(setup.measured, "its signature lists do not decode");
    };
    let at = setup.measured.event.index;
    for entry in wrong(held) {
        let text = format!("PCR {SECURE_BOOT_PCR}, event {at}, {name} {why}: sha256:{} of type and data", Hex(&entry));
        faults.list.push(Fault { at, code, what: What::Text(text) });
    }
}

const fn variable_name(variable: SecureBootVariable) -> &'static str {
    match variable {
        SecureBootVariable::SecureBoot => "SecureBoot",
        SecureBootVariable::SetupMode => "SetupMode",
        SecureBootVariable::AuditMode => "AuditMode",
        SecureBootVariable::DeployedMode => "DeployedMode",
        SecureBootVariable::Pk => "PK",
        SecureBootVariable::Kek => "KEK",
        SecureBootVariable::Db => "db",
        SecureBootVariable::Dbx => "dbx",
    }
}

/// Every measured command line is an allowed one. Returns what the kernel was told, where that is one text.
fn command_lines<'a>(log: &BootLog<'a>, rules: &BootRules, faults: &mut Faults<'a>) -> Option<String> {
    let mut matched: Vec<(&CommandLineAt<'_>, String)> = Vec::new();
    for line in &log.command_lines {
        match allowed_text(log, line, rules) {
            Some(text) => matched.push((line, text)),
            None => faults.event(Code::BootCommandLine, line.measured, "the release does not allow this command line"),
        }
    }
    if log.command_lines.is_empty() && !rules.command_lines().is_empty() {
        faults.text(Code::BootCommandLine, "no command line is measured, and the release's boots measure one".into());
    }
    told_to_kernel(log, &matched)
}

/// What the kernel was told, as far as no event that came after its start can say otherwise: whoever owns the system may
/// have another line measured that the release allows. The kernel's own stub measures what the kernel gets, before its
/// initrd; loaders may have handed over something else. Where the stub did not measure, all have to say the same.
fn told_to_kernel(log: &BootLog<'_>, matched: &[(&CommandLineAt<'_>, String)]) -> Option<String> {
    let end = log.stub_ends_at().unwrap_or(0);
    let by_stub =
        |(line, _): &&(&CommandLineAt<'_>, String)| line.measured.pcr == STUB_PCR && line.measured.event.index < end;
    let mut of_stub = matched.iter().filter(by_stub).map(|(_, text)| text.as_str()).peekable();
    let handed_over = |text| str::strip_prefix(text, GRUB_PREFIX).unwrap_or(text);
    let told = if of_stub.peek().is_some() {
        one(of_stub)
    } else {
        one(matched.iter().map(|(_, text)| handed_over(text.as_str())))
    };
    told.map(str::to_owned)
}

/// What GRUB puts before what it measures as the kernel's command line, when it hands it over.
const GRUB_PREFIX: &str = "BOOT_IMAGE=";

/// The allowed text that this event is the measurement of. Where the event does not hold its text, it may be one that another
/// event of the log proves.
fn allowed_text(log: &BootLog<'_>, line: &CommandLineAt<'_>, rules: &BootRules) -> Option<String> {
    let allowed = |text: &str| rules.command_lines().iter().any(|pattern| pattern.matches(text));
    if let Some(text) = &line.text {
        return allowed(text).then(|| text.clone());
    }
    let exact = rules.command_lines().iter().filter_map(|pattern| pattern.is_exact()).map(str::to_owned);
    let proved = log.command_lines.iter().filter_map(|other| other.text.as_ref());
    let handed_over = proved.flat_map(|text| [text.clone(), format!("{GRUB_PREFIX}{text}")]);
    exact.chain(handed_over.filter(|text| allowed(text))).find(|text| line.event.is(text))
}
