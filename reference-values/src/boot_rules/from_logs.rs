//! Rules from logs of good boots: in, boot logs of one release, and what only its makers know; out, [`BootRules`] that
//! all these boots meet, and a list of what was generalised beyond them.
//!
//! Whoever gives a log vouches for its boot. Still, a log that shows a boot gone wrong is refused: rules made from it
//! would allow the same to everybody.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

use evidence::{
    Malformed,
    eventlog::{
        Content, EV_ACTION, EV_EFI_ACTION, EV_EFI_GPT_EVENT, EV_EFI_GPT_EVENT2, EV_EFI_HANDOFF_TABLES,
        EV_EFI_HANDOFF_TABLES2, EV_EFI_VARIABLE_BOOT, EV_EFI_VARIABLE_BOOT2, EV_IPL, EV_NONHOST_CONFIG,
        EV_NONHOST_INFO, EV_OMIT_BOOT_DEVICE_EVENTS, EV_PLATFORM_CONFIG_FLAGS, EV_SEPARATOR, EV_TABLE_OF_DEVICES,
        Event, EventLog, Format, INITRD_TAG, Proof, Separator, event_type_name,
    },
    pcr::{HashAlgorithm, sha256},
};
use thiserror::Error;

use super::{
    AttesterIn, BootRules, CommandLine, DEBUG_MODE, EventKey, EventRule, IMA_PCR, Kernel, Keys, LAST_PCR,
    SecureBootRule, SecureBootVariable, are_of_uefi, keys_of,
};
use crate::release::Invalid;

/// Label of GRUB before a command of its own.
const GRUB_COMMAND: &str = "grub_cmd: ";

/// What the makers of a release know, beside its logs.
#[derive(Debug, Clone, Default)]
pub struct Given {
    /// What the kernel may be told.
    pub command_lines: Vec<CommandLine>,
    /// What the kernel does by itself.
    pub kernel: Option<Kernel>,
    /// How the attester's own file is bound to the boot.
    pub attester: Option<AttesterIn>,
}

/// One thing that the rules allow beyond what the logs show, or took from them alone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Generalised {
    /// Which events it is about; `None`: the boot as a whole.
    pub key: Option<EventKey>,
    /// What the rules say.
    pub what: String,
    /// Why they may.
    pub why: &'static str,
}

impl fmt::Display for Generalised {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(key) = self.key {
            write!(f, "{key}: ")?;
        }
        write!(f, "{}; {}", self.what, self.why)
    }
}

impl fmt::Display for EventKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match event_type_name(self.event_type) {
            Some(name) => write!(f, "PCR {} {name}", self.pcr),
            None => write!(f, "PCR {} type 0x{:08x}", self.pcr, self.event_type),
        }
    }
}

/// Why a log is none of a good boot that rules can be made from.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum NotGood {
    /// It does not decode.
    #[error("{0}")]
    Malformed(#[from] Malformed),
    /// An event without the digest that is judged.
    #[error("event {0} has no SHA-256 digest, and only SHA-256 PCRs are quoted")]
    NoSha256(usize),
    /// An event that says two things of one PCR.
    #[error("event {0} has more than one SHA-256 digest")]
    TwoSha256(usize),
    /// The separator says that the firmware met an error.
    #[error("event {index} is an error separator in PCR {pcr}: the firmware met an error during this boot")]
    ErrorSeparator {
        /// Position in the log.
        index: usize,
        /// Its PCR.
        pcr: u32,
    },
    /// Two separators, one in a PCR that firmware does not measure into, or one that says nothing known.
    #[error("event {index} is a second separator in PCR {pcr}, or not one that firmware measures")]
    OddSeparator {
        /// Position in the log.
        index: usize,
        /// Its PCR.
        pcr: u32,
    },
    /// Another log has a separator there.
    #[error("PCR {0} has no separator, which another of the logs has: was this log cut short?")]
    NoSeparator(u8),
    /// A debugger may have changed what ran.
    #[error("event {0} says \"UEFI Debug Mode\": a debugger could change what ran")]
    DebugMode(usize),
    /// An event where none of a boot is.
    #[error("event {0} extends PCR 10, which is IMA's and no boot's")]
    ImaPcr(usize),
    /// A variable that says two things, or says it too late.
    #[error("event {0} measures a variable of Secure Boot a second time, or after the separator of PCR 7")]
    OddVariable(usize),
    /// A signature database that is none.
    #[error("event {index} has a signature database that does not decode: {why}")]
    Database {
        /// Position in the log.
        index: usize,
        /// What is wrong.
        why: Malformed,
    },
    /// A command line that nobody gave.
    #[error(
        "event {index} (PCR {pcr}) is a command line that the log shows as a digest only, and none of the exact ones \
         given is it; give the text that /proc/cmdline had in this boot with --cmdline, or the image with --uki (a \
         pattern with * cannot be held against a digest: give the exact text beside it)"
    )]
    CommandLine {
        /// Position in the log.
        index: usize,
        /// Its PCR.
        pcr: u32,
    },
    /// Another log has one.
    #[error(
        "no event measures the kernel's command line, which others of the logs have: build one release of these boots \
         and one of those"
    )]
    NoCommandLine,
    /// No initrd to find the attester in.
    #[error("no event measures an initrd, so that the attester cannot be bound to one (--attester-in initrd)")]
    NoInitrd,
}

impl BootRules {
    /// Rules that every one of `logs` meets: for each PCR and type the digests as they are; several sequences where the
    /// logs differ in what runs, no judgement where they differ in what does not run.
    ///
    /// # Errors
    /// [`Invalid::Log`] for a log of no good boot; else as [`BootRules::new`] and its kin.
    pub fn from_logs(logs: &[EventLog<'_>], given: Given) -> Result<(Self, Vec<Generalised>), Invalid> {
        let read = |(at, log)| Boot::read(log).map_err(|why| Invalid::Log { number: ordinal(at), why });
        let boots = logs.iter().enumerate().map(read).collect::<Result<Vec<_>, _>>()?;
        let mut told = Vec::new();
        let separators = common_separators(&boots)?;
        let events = event_rules(&boots, &mut told);
        let secure_boot = secure_boot_rule(&boots, &mut told);
        let lines = command_lines(&boots, given.command_lines, &mut told)?;
        let mut rules = Self::new(events, separators, secure_boot)?.with_command_lines(lines)?;
        if let Some(kernel) = given.kernel {
            rules = rules.with_kernel(kernel)?;
        }
        if let Some(place) = given.attester {
            if let Some(at) = boots.iter().position(|boot| place == AttesterIn::Initrd && !boot.initrd) {
                return Err(Invalid::Log { number: ordinal(at), why: NotGood::NoInitrd });
            }
            rules = rules.with_attester(place)?;
        }
        Ok((rules, told))
    }
}

/// As people count.
const fn ordinal(at: usize) -> usize {
    at.saturating_add(1)
}

/// All events of one key in one log.
#[derive(Default)]
struct Measured {
    digests: Vec<[u8; 32]>,
    /// Whether all are words that their digests prove: commands of GRUB, or actions.
    words: bool,
}

/// One log, sorted by what is judged.
#[derive(Default)]
struct Boot<'a> {
    events: BTreeMap<EventKey, Measured>,
    separators: BTreeSet<u8>,
    variables: Vec<(usize, SecureBootVariable, &'a [u8])>,
    databases: BTreeMap<SecureBootVariable, Keys>,
    command_lines: Vec<Event<'a>>,
    initrd: bool,
}

impl<'a> Boot<'a> {
    fn read(log: &EventLog<'a>) -> Result<Self, NotGood> {
        let mut boot = Self::default();
        // An entry of coreboot extends one bank, and says nothing of the others.
        let of_another_bank =
            |event: &Event<'_>| log.format() == Format::Coreboot && event.digest(HashAlgorithm::Sha256).is_none();
        for event in log.events() {
            let event = event?;
            if event.extends() && !of_another_bank(&event) {
                boot.event(&event)?;
            }
        }
        boot.read_databases()?;
        Ok(boot)
    }

    fn event(&mut self, event: &Event<'a>) -> Result<(), NotGood> {
        let digest = event.digest(HashAlgorithm::Sha256).and_then(|digest| digest.try_into().ok());
        let digest: [u8; 32] = digest.ok_or(NotGood::NoSha256(event.index))?;
        // A verifier refuses such a log: only one of them would be looked at.
        if event.digests().filter(|(bank, _)| bank.known() == Some(HashAlgorithm::Sha256)).count() > 1 {
            return Err(NotGood::TwoSha256(event.index));
        }
        if event.event_type == EV_SEPARATOR {
            return self.separator(event);
        }
        if event.pcr == u32::from(IMA_PCR) {
            return Err(NotGood::ImaPcr(event.index));
        }
        if is_debug_mode(event, &digest) {
            return Err(NotGood::DebugMode(event.index));
        }
        if event.command_line().is_some() {
            self.command_lines.push(*event);
        } else if let Some((which, data)) = SecureBootVariable::of(event) {
            if self.separators.contains(&7) || self.variables.iter().any(|(_, known, _)| *known == which) {
                return Err(NotGood::OddVariable(event.index));
            }
            self.variables.push((event.index, which, data));
        } else if let Some(key) = EventKey::of(event) {
            self.initrd |= measures_initrd(event, &digest);
            let words = is_grub_command(event) || is_action(event);
            let first = Measured { digests: Vec::new(), words: true };
            let measured = self.events.entry(key).or_insert(first);
            measured.digests.push(digest);
            measured.words &= words;
        }
        Ok(())
    }

    fn separator(&mut self, event: &Event<'_>) -> Result<(), NotGood> {
        let (index, pcr) = (event.index, event.pcr);
        match event.content() {
            Content::Separator(Separator::Good | Separator::GoodFfff) => {}
            Content::Separator(Separator::Error(_)) => return Err(NotGood::ErrorSeparator { index, pcr }),
            _ => return Err(NotGood::OddSeparator { index, pcr }),
        }
        let first = u8::try_from(pcr).is_ok_and(|pcr| pcr <= LAST_PCR && self.separators.insert(pcr));
        if first { Ok(()) } else { Err(NotGood::OddSeparator { index, pcr }) }
    }

    fn read_databases(&mut self) -> Result<(), NotGood> {
        use SecureBootVariable::{Db, Dbx, Kek, Pk};
        for &(index, which, data) in &self.variables {
            if matches!(which, Pk | Kek | Db | Dbx) {
                let keys = keys_of(data).map_err(|why| NotGood::Database { index, why })?;
                self.databases.insert(which, keys);
            }
        }
        Ok(())
    }

    /// Whether Secure Boot was on, in user mode: images were checked, and nobody could set keys without being asked. What
    /// no separator ends may come from anybody later.
    fn secure_boot(&self) -> bool {
        use SecureBootVariable::{AuditMode, Pk, SecureBoot, SetupMode};
        if !self.separators.contains(&7) {
            return false;
        }
        let on = self.variables.iter().any(|(_, which, data)| *which == SecureBoot && *data == [1]);
        let open = |(_, which, data): &(_, _, &[u8])| matches!(which, SetupMode | AuditMode) && *data != [0];
        on && !self.variables.iter().any(open) && self.databases.get(&Pk).is_some_and(|pk| !pk.is_empty())
    }

    fn digests(&self, key: &EventKey) -> Vec<[u8; 32]> {
        self.events.get(key).map(|measured| measured.digests.clone()).unwrap_or_default()
    }
}

fn is_debug_mode(event: &Event<'_>, digest: &[u8; 32]) -> bool {
    matches!(event.content(), Content::Action(text) if text == DEBUG_MODE) || *digest == sha256(DEBUG_MODE)
}

fn is_grub_command(event: &Event<'_>) -> bool {
    let labelled = matches!(event.content(), Content::Words(words) if words.label() == Some(GRUB_COMMAND));
    labelled && event.proves_content(HashAlgorithm::Sha256)
}

/// A digest of words, and of nothing that runs: coreboot gives its entries of code a type of actions.
fn is_action(event: &Event<'_>) -> bool {
    matches!(event.content(), Content::Action(_)) && event.proof(HashAlgorithm::Sha256) == Proof::Whole
}

/// Linux's EFI stub in PCR 9, systemd-stub's section in PCR 11, a file that GRUB read into PCR 9.
fn measures_initrd(event: &Event<'_>, digest: &[u8; 32]) -> bool {
    let has = |path: &[u8], name: &[u8]| path.windows(name.len()).any(|part| part == name);
    match (event.pcr, event.content()) {
        (9, Content::Tagged(tagged)) => tagged.id == INITRD_TAG,
        (9, Content::Words(words)) => has(words.bytes(), b"initrd") || has(words.bytes(), b"initramfs"),
        (11, Content::Words(words)) => words.is_wide(".initrd") && !words.is_name(digest),
        _ => false,
    }
}

fn common_separators(boots: &[Boot<'_>]) -> Result<BTreeSet<u8>, Invalid> {
    let all = boots.iter().flat_map(|boot| &boot.separators).copied().collect::<BTreeSet<_>>();
    for (at, boot) in boots.iter().enumerate() {
        if let Some(&pcr) = all.difference(&boot.separators).next() {
            return Err(Invalid::Log { number: ordinal(at), why: NotGood::NoSeparator(pcr) });
        }
    }
    Ok(all)
}

fn event_rules(boots: &[Boot<'_>], told: &mut Vec<Generalised>) -> BTreeMap<EventKey, EventRule> {
    let keys = boots.iter().flat_map(|boot| boot.events.keys().copied()).collect::<BTreeSet<_>>();
    let by_uefi = are_of_uefi(keys.iter());
    let rules = keys.into_iter().map(|key| {
        let sequences = boots.iter().map(|boot| boot.digests(&key)).collect::<BTreeSet<_>>();
        let words = boots.iter().filter_map(|boot| boot.events.get(&key)).all(|measured| measured.words);
        let (rule, generalised) = event_rule(key, sequences, words, by_uefi);
        told.extend(generalised.map(|(what, why)| Generalised { key: Some(key), what, why }));
        (key, rule)
    });
    rules.collect()
}

/// The rule for what the logs show, and what is to be told of it.
fn event_rule(
    key: EventKey,
    sequences: BTreeSet<Vec<[u8; 32]>>,
    words: bool,
    by_uefi: bool,
) -> (EventRule, Option<(String, &'static str)>) {
    let count = sequences.len();
    if let Some(why) = unjudged(key, count).filter(|_| by_uefi) {
        return (EventRule::Unjudged, Some(("not judged".to_owned(), why)));
    }
    if count < 2 {
        return (EventRule::Sequences(sequences), None);
    }
    match key.event_type {
        EV_IPL if key.pcr == 8 && words => {
            return any_of(&sequences, "the logs differ in commands of GRUB; none is allowed that no log shows");
        }
        EV_ACTION | EV_EFI_ACTION | EV_OMIT_BOOT_DEVICE_EVENTS if key.pcr != 7 && words => {
            return any_of(&sequences, "the logs differ in what was tried or done again, which carries no code");
        }
        _ => {}
    }
    let missing = sequences.contains::<[[u8; 32]]>(&[]);
    let what =
        format!("one of {count} sequences{}", if missing { ", one of which is that there are none" } else { "" });
    (EventRule::Sequences(sequences), Some((what, "the logs differ in what runs, or decides what runs")))
}

/// Why events of this key are not judged, where so many different sequences of them were seen.
const fn unjudged(key: EventKey, count: usize) -> Option<&'static str> {
    if !key.may_be_unjudged() {
        return None;
    }
    match key.event_type {
        EV_EFI_VARIABLE_BOOT | EV_EFI_VARIABLE_BOOT2 => {
            Some("boot order and entries are the owner's; what they boot is measured")
        }
        _ if count < 2 => None,
        EV_EFI_HANDOFF_TABLES | EV_EFI_HANDOFF_TABLES2 | EV_TABLE_OF_DEVICES => {
            Some("the logs differ: tables tell devices, serial numbers and addresses apart")
        }
        EV_EFI_GPT_EVENT | EV_EFI_GPT_EVENT2 => Some("the logs differ: partition tables have identifiers of their own"),
        EV_PLATFORM_CONFIG_FLAGS | EV_NONHOST_CONFIG | EV_NONHOST_INFO => {
            Some("the logs differ: settings and inventories carry no code")
        }
        _ => None,
    }
}

/// What was seen, as often as it was seen, in any order.
fn any_of(sequences: &BTreeSet<Vec<[u8; 32]>>, why: &'static str) -> (EventRule, Option<(String, &'static str)>) {
    let length = |sequence: &Vec<_>| u32::try_from(sequence.len()).unwrap_or(u32::MAX);
    let at_least = sequences.iter().map(length).min().unwrap_or(0);
    let at_most = sequences.iter().map(length).max().unwrap_or(0);
    let digests = sequences.iter().flatten().copied().collect::<BTreeSet<_>>();
    let what = format!("{at_least} to {at_most} events of {} kinds, in any order", digests.len());
    (EventRule::AnyOf { digests, at_least, at_most }, Some((what, why)))
}

fn secure_boot_rule(boots: &[Boot<'_>], told: &mut Vec<Generalised>) -> SecureBootRule {
    use SecureBootVariable::{Db, Dbx, Kek, Pk};
    let mut tell = |what: String, why| told.push(Generalised { key: None, what, why });
    if boots.is_empty() || !boots.iter().all(Boot::secure_boot) {
        tell("Secure Boot is not required".into(), "a log shows it off, in setup or audit mode, or not at all");
        return SecureBootRule::default();
    }
    let mut union = |which, name: &str| {
        let Some(all) = boots.iter().map(|boot| boot.databases.get(&which)).collect::<Option<BTreeSet<_>>>() else {
            tell(format!("{name} is not judged"), "a log does not measure it");
            return None;
        };
        let keys = all.iter().copied().flatten().copied().collect::<Keys>();
        if all.len() > 1 {
            let what = format!("{name} may have any of {} entries", keys.len());
            tell(what, "the logs differ, and each is a good boot's");
        }
        Some(keys)
    };
    let (pk, kek, db) = (union(Pk, "PK"), union(Kek, "KEK"), union(Db, "db"));
    let mut dbx = boots.iter().map(|boot| boot.databases.get(&Dbx).cloned().unwrap_or_default());
    let first = dbx.next().unwrap_or_default();
    let dbx_at_least = dbx.fold(first, |common, more| common.intersection(&more).copied().collect());
    tell(
        format!("dbx may have more than the {} common to all logs", dbx_at_least.len()),
        "revocations are added in the field",
    );
    SecureBootRule { required: true, pk, kek, db, dbx_at_least }
}

/// The given lines, and those that the logs prove.
fn command_lines(
    boots: &[Boot<'_>],
    mut lines: Vec<CommandLine>,
    told: &mut Vec<Generalised>,
) -> Result<Vec<CommandLine>, Invalid> {
    if boots.iter().all(|boot| boot.command_lines.is_empty()) {
        let left_out = if lines.is_empty() { "" } else { ", and those given are left out" };
        let what = format!("the kernel's command line is not judged{left_out}");
        told.push(Generalised { key: None, what, why: "no log has an event that measures it" });
        return Ok(Vec::new());
    }
    if let Some(at) = boots.iter().position(|boot| boot.command_lines.is_empty()) {
        return Err(Invalid::Log { number: ordinal(at), why: NotGood::NoCommandLine });
    }
    for (at, boot) in boots.iter().enumerate() {
        for event in &boot.command_lines {
            let Some(line) = event.command_line() else { continue };
            if let Some(text) = line.text() {
                if !lines.iter().any(|given| given.matches(&text)) {
                    told.push(Generalised {
                        key: None,
                        what: format!("the command line may be '{}'", CommandLine::exact(&text)?),
                        why: "a log proves that a good boot had it",
                    });
                    lines.push(CommandLine::exact(&text)?);
                }
            } else if !lines.iter().filter_map(CommandLine::is_exact).any(|text| line.is(text)) {
                let why = NotGood::CommandLine { index: event.index, pcr: event.pcr };
                return Err(Invalid::Log { number: ordinal(at), why });
            }
        }
    }
    Ok(lines)
}

#[cfg(test)]
mod tests {
    use std::{fs, path::PathBuf};

    use evidence::eventlog::{
        EFI_GLOBAL_VARIABLE, EFI_IMAGE_SECURITY_DATABASE, EV_EFI_BOOT_SERVICES_APPLICATION,
        EV_EFI_VARIABLE_DRIVER_CONFIG, EV_EVENT_TAG, EV_NO_ACTION, Guid,
    };

    use proptest::prelude::*;

    use super::*;

    /// A crypto-agile log of SHA-256 alone.
    #[derive(Debug, Clone)]
    struct Log(Vec<u8>);

    impl Log {
        fn new() -> Self {
            let mut data = b"Spec ID Event03\0\0\0\0\0\0\x02\0\x02".to_vec();
            data.extend([1, 0, 0, 0, 0x0B, 0, 32, 0, 0]);
            let mut log = [0, EV_NO_ACTION].map(u32::to_le_bytes).concat();
            log.extend([0; 20]);
            log.extend(u32::try_from(data.len()).unwrap().to_le_bytes());
            log.extend(data);
            Self(log)
        }

        fn digest(mut self, pcr: u32, event_type: u32, digest: [u8; 32], data: &[u8]) -> Self {
            self.0.extend([pcr, event_type, 1].map(u32::to_le_bytes).concat());
            self.0.extend([0x0B, 0]);
            self.0.extend(digest);
            self.0.extend(u32::try_from(data.len()).unwrap().to_le_bytes());
            self.0.extend(data);
            self
        }

        /// An event whose digest is that of its data.
        fn event(self, pcr: u32, event_type: u32, data: &[u8]) -> Self {
            self.digest(pcr, event_type, sha256(data), data)
        }

        fn variable(self, vendor: Guid, name: &str, data: &[u8]) -> Self {
            let wide: Vec<u8> = name.encode_utf16().flat_map(u16::to_le_bytes).collect();
            let lengths = [wide.len() / 2, data.len()].map(|n| u64::try_from(n).unwrap().to_le_bytes()).concat();
            self.event(7, EV_EFI_VARIABLE_DRIVER_CONFIG, &[&vendor.0[..], &lengths, &wide, data].concat())
        }

        fn separators(self) -> Self {
            (0..8).fold(self, |log, pcr| log.event(pcr, EV_SEPARATOR, &[0; 4]))
        }

        /// Secure Boot on, with one entry in PK, KEK and db, and these in dbx.
        fn secure_boot(self, on: u8, dbx: &[u8]) -> Self {
            let log = self.variable(EFI_GLOBAL_VARIABLE, "SecureBoot", &[on]);
            let log = log.variable(EFI_GLOBAL_VARIABLE, "PK", &list(b"P"));
            let log = log.variable(EFI_GLOBAL_VARIABLE, "KEK", &list(b"K"));
            let log = log.variable(EFI_IMAGE_SECURITY_DATABASE, "db", &list(b"D"));
            log.variable(EFI_IMAGE_SECURITY_DATABASE, "dbx", &list(dbx))
        }
    }

    /// An EFI_SIGNATURE_LIST of entries of one byte.
    fn list(entries: &[u8]) -> Vec<u8> {
        let mut list = vec![9; 16];
        let size = u32::try_from(28 + 17 * entries.len()).unwrap();
        list.extend([size, 0, 17].map(u32::to_le_bytes).concat());
        entries.iter().for_each(|entry| list.extend([&[5; 16][..], &[*entry]].concat()));
        list
    }

    fn entry(byte: u8) -> [u8; 32] {
        sha256(&[&[9; 16][..], &[byte]].concat())
    }

    fn good() -> Log {
        Log::new().event(0, 8, b"version").secure_boot(1, b"x").separators().event(4, APPLICATION, b"loader")
    }

    const APPLICATION: u32 = EV_EFI_BOOT_SERVICES_APPLICATION;

    fn rules_given(logs: &[Log], given: Given) -> Result<(BootRules, Vec<Generalised>), Invalid> {
        let logs = logs.iter().map(|log| EventLog::read(&log.0).unwrap()).collect::<Vec<_>>();
        BootRules::from_logs(&logs, given)
    }

    fn rules(logs: &[Log]) -> (BootRules, Vec<Generalised>) {
        rules_given(logs, Given::default()).unwrap()
    }

    fn refused(logs: &[Log], given: Given) -> (usize, NotGood) {
        match rules_given(logs, given) {
            Err(Invalid::Log { number, why }) => (number, why),
            other => panic!("{other:?}"),
        }
    }

    fn key(pcr: u8, event_type: u32) -> EventKey {
        EventKey { pcr, event_type }
    }

    fn sequence(data: &[&[u8]]) -> Vec<[u8; 32]> {
        data.iter().map(|data| sha256(data)).collect()
    }

    fn told_of(told: &[Generalised], wanted: EventKey) -> bool {
        told.iter().any(|one| one.key == Some(wanted))
    }

    #[test]
    fn one_log_gives_its_own_sequences_and_nothing_is_generalised_but_what_no_log_fixes() {
        let (rules, told) = rules(&[good()]);
        let expected = [(key(0, 8), sequence(&[b"version"])), (key(4, APPLICATION), sequence(&[b"loader"]))];
        let expected = expected.map(|(key, one)| (key, EventRule::Sequences([one].into())));
        assert_eq!(rules.events(), &expected.into());
        assert_eq!(rules.separators(), &(0..8).collect());
        assert!(told.iter().all(|one| one.key.is_none()));
    }

    #[test]
    fn boot_order_is_never_judged_and_partitions_only_where_logs_agree() {
        let logs = [[b"0001", b"gptA"], [b"0002", b"gptB"]];
        let logs =
            logs.map(|[order, gpt]| good().event(1, EV_EFI_VARIABLE_BOOT, order).event(5, EV_EFI_GPT_EVENT, gpt));
        let (both, told) = rules(&logs);
        for key in [key(1, EV_EFI_VARIABLE_BOOT), key(5, EV_EFI_GPT_EVENT)] {
            assert_eq!(both.events()[&key], EventRule::Unjudged);
            assert!(told_of(&told, key), "{told:?}");
        }
        let (one, _) = rules(&logs[..1]);
        assert_eq!(one.events()[&key(1, EV_EFI_VARIABLE_BOOT)], EventRule::Unjudged);
        assert_eq!(one.events()[&key(5, EV_EFI_GPT_EVENT)], EventRule::Sequences([sequence(&[b"gptA"])].into()));
    }

    #[test]
    fn logs_that_differ_in_what_runs_give_a_sequence_each_and_missing_is_one() {
        let logs = [good(), good().event(4, APPLICATION, b"other"), good().event(2, APPLICATION, b"option rom")];
        let (rules, told) = rules(&logs);
        let loaders = [sequence(&[b"loader"]), sequence(&[b"loader", b"other"])];
        assert_eq!(rules.events()[&key(4, APPLICATION)], EventRule::Sequences(loaders.into()));
        let roms = [vec![], sequence(&[b"option rom"])];
        assert_eq!(rules.events()[&key(2, APPLICATION)], EventRule::Sequences(roms.into()));
        assert!(told_of(&told, key(4, APPLICATION)) && told_of(&told, key(2, APPLICATION)));
    }

    #[test]
    fn types_that_may_vary_are_judged_in_pcrs_of_code() {
        for event_type in [EV_EFI_VARIABLE_BOOT, EV_EFI_GPT_EVENT, EV_EFI_HANDOFF_TABLES, EV_NONHOST_INFO] {
            let logs = [b"one", b"two"].map(|data| good().event(4, event_type, data));
            let (rules, _) = rules(&logs);
            let both = [sequence(&[b"one"]), sequence(&[b"two"])];
            assert_eq!(rules.events()[&key(4, event_type)], EventRule::Sequences(both.into()));
        }
    }

    #[test]
    fn actions_done_again_and_commands_of_grub_are_any_of_those_seen() {
        let commands = |log: Log, commands: &[&str]| {
            commands.iter().fold(log, |log, text| {
                log.digest(8, EV_IPL, sha256(text.as_bytes()), format!("grub_cmd: {text}\0").as_bytes())
            })
        };
        let logs = [
            commands(good().event(5, EV_EFI_ACTION, b"Exit"), &["set a", "boot"]),
            commands(good().event(5, EV_EFI_ACTION, b"Exit").event(5, EV_EFI_ACTION, b"Again"), &["boot"]),
        ];
        let (both, told) = rules(&logs);
        let any_of = |digests: &[&[u8]], at_least, at_most| EventRule::AnyOf {
            digests: sequence(digests).into_iter().collect(),
            at_least,
            at_most,
        };
        assert_eq!(both.events()[&key(5, EV_EFI_ACTION)], any_of(&[b"Exit", b"Again"], 1, 2));
        assert_eq!(both.events()[&key(8, EV_IPL)], any_of(&[b"set a", b"boot"], 1, 2));
        assert!(told_of(&told, key(5, EV_EFI_ACTION)) && told_of(&told, key(8, EV_IPL)));
        // One event that is no command of GRUB, or not proven to be: the order counts again.
        let odd = good().digest(8, EV_IPL, [7; 32], b"grub_cmd: set b\0");
        let (rules, _) = rules(&[logs[0].clone(), odd]);
        assert!(matches!(rules.events()[&key(8, EV_IPL)], EventRule::Sequences(_)));
        // PCR 7 tells Secure Boot's state: no action there is like another.
        let logs = [good(), good().event(7, EV_EFI_ACTION, b"DMA Protection Disabled")];
        assert!(matches!(
            rules_given(&logs, Given::default()).unwrap().0.events()[&key(7, EV_EFI_ACTION)],
            EventRule::Sequences(_)
        ));
    }

    #[test]
    fn digests_of_code_that_are_called_actions_are_sequences() {
        let stage =
            |log: Log, digest| log.digest(2, EV_ACTION, [digest; 32], b"FMAP: COREBOOT CBFS: fallback/romstage");
        let logs = [stage(stage(good(), 1), 2), stage(stage(good(), 3), 4)];
        let (rules, _) = rules(&logs);
        let both = [vec![[1; 32], [2; 32]], vec![[3; 32], [4; 32]]];
        assert_eq!(rules.events()[&key(2, EV_ACTION)], EventRule::Sequences(both.into()));
    }

    #[test]
    fn a_log_of_coreboot_gives_rules_for_what_it_says_of_sha256() {
        let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../tests/vectors/boot/handmade");
        let log = Log(fs::read(folder.join("coreboot/eventlog.bin")).unwrap());
        let (one, _) = rules(std::slice::from_ref(&log));
        assert!(meets(&log, &one) && one.events().keys().all(|key| key.event_type == EV_ACTION));
        // Another romstage: two boots are good, and no mixture of them.
        let mut other = log.clone();
        let digest = EventLog::read(&log.0)
            .unwrap()
            .events()
            .find_map(|event| event.unwrap().digest(HashAlgorithm::Sha256).map(<[u8]>::to_vec));
        let at = log.0.windows(32).position(|window| window == digest.as_deref().unwrap()).unwrap();
        other.0[at] ^= 1;
        let (both, _) = rules(&[log, other]);
        assert!(both.events().values().all(|rule| matches!(rule, EventRule::Sequences(_))), "{both:?}");
    }

    #[test]
    fn secure_boot_is_required_where_every_log_shows_it_on_in_user_mode() {
        let (both, told) = rules(&[good(), Log::new().secure_boot(1, b"xy").separators().event(4, 5, b"a")]);
        let secure_boot = both.secure_boot();
        assert!(secure_boot.required);
        assert_eq!((&secure_boot.pk, &secure_boot.kek), (&Some([entry(b'P')].into()), &Some([entry(b'K')].into())));
        assert_eq!((&secure_boot.db, &secure_boot.dbx_at_least), (&Some([entry(b'D')].into()), &[entry(b'x')].into()));
        assert!(!told.iter().any(|one| one.what.contains("not required")));

        // What no separator ends, anybody may have measured later.
        let never_closed = Log::new().event(0, 8, b"version").secure_boot(1, b"x");
        assert!(!rules(&[never_closed]).0.secure_boot().required);
        let off = |log: Log| log.separators().event(4, 5, b"a");
        let begun = || Log::new().secure_boot(1, b"x");
        let no_pk = Log::new().variable(EFI_GLOBAL_VARIABLE, "SecureBoot", &[1]);
        for log in [
            off(Log::new()),
            off(Log::new().secure_boot(0, b"x")),
            off(no_pk.clone()),
            off(no_pk.variable(EFI_GLOBAL_VARIABLE, "PK", b"")),
            off(begun().variable(EFI_GLOBAL_VARIABLE, "SetupMode", &[1])),
            off(begun().variable(EFI_GLOBAL_VARIABLE, "AuditMode", &[1])),
        ] {
            let (rules, told) = rules(&[good(), log]);
            assert_eq!(rules.secure_boot(), &SecureBootRule::default());
            assert!(told.iter().any(|one| one.what == "Secure Boot is not required"));
        }
    }

    #[test]
    fn entries_of_several_logs_are_all_allowed_and_only_common_ones_must_be_forbidden() {
        let other = Log::new()
            .variable(EFI_GLOBAL_VARIABLE, "SecureBoot", &[1])
            .variable(EFI_GLOBAL_VARIABLE, "PK", &list(b"P"))
            .variable(EFI_IMAGE_SECURITY_DATABASE, "db", &list(b"DE"))
            .separators()
            .event(4, 5, b"a");
        let (rules, told) = rules(&[good(), other]);
        assert_eq!(rules.secure_boot().db, Some([entry(b'D'), entry(b'E')].into()));
        assert!(rules.secure_boot().dbx_at_least.is_empty());
        assert!(told.iter().any(|one| one.what == "db may have any of 2 entries"));
        // What one of the logs does not measure, no device can be held to.
        assert_eq!(rules.secure_boot().kek, None);
        assert!(told.iter().any(|one| one.what == "KEK is not judged"));
    }

    #[test]
    fn a_variable_that_its_digest_does_not_prove_is_an_event_like_any_other() {
        let stated = [&EFI_GLOBAL_VARIABLE.0[..], &10_u64.to_le_bytes(), &1_u64.to_le_bytes()].concat();
        let name: Vec<u8> = "SecureBoot".encode_utf16().flat_map(u16::to_le_bytes).collect();
        let log = good().digest(7, EV_EFI_VARIABLE_DRIVER_CONFIG, [7; 32], &[stated, name, vec![1]].concat());
        let (rules, _) = rules(&[log]);
        let expected = EventRule::Sequences([vec![[7; 32]]].into());
        assert_eq!(rules.events()[&key(7, EV_EFI_VARIABLE_DRIVER_CONFIG)], expected);
    }

    #[test]
    fn a_log_of_no_good_boot_is_refused_with_its_number() {
        let error = Log::new().event(0, 8, b"version").digest(3, EV_SEPARATOR, sha256(&[1, 0, 0, 0]), b"no memory");
        assert_eq!(refused(&[good(), error], Given::default()), (2, NotGood::ErrorSeparator { index: 2, pcr: 3 }));
        let twice = good().event(7, EV_SEPARATOR, &[0; 4]);
        assert!(matches!(refused(&[twice], Given::default()), (1, NotGood::OddSeparator { pcr: 7, .. })));
        let odd = Log::new().event(0, EV_SEPARATOR, b"odd!");
        assert!(matches!(refused(&[odd], Given::default()), (1, NotGood::OddSeparator { pcr: 0, .. })));
        let ima = good().event(10, 5, b"boot_aggregate");
        assert!(matches!(refused(&[ima], Given::default()), (1, NotGood::ImaPcr(_))));
        let beyond = good().event(16, EV_SEPARATOR, &[0; 4]);
        assert!(matches!(refused(&[beyond], Given::default()), (1, NotGood::OddSeparator { pcr: 16, .. })));
        let twice = Log::new().secure_boot(1, b"x").variable(EFI_GLOBAL_VARIABLE, "SecureBoot", &[1]).separators();
        assert_eq!(refused(&[twice], Given::default()), (1, NotGood::OddVariable(6)));
        let late = good().variable(EFI_GLOBAL_VARIABLE, "SetupMode", &[0]);
        assert!(matches!(refused(&[late], Given::default()), (1, NotGood::OddVariable(_))));
        let short = Log::new().event(0, 8, b"version").event(0, EV_SEPARATOR, &[0; 4]);
        assert_eq!(refused(&[good(), short], Given::default()), (2, NotGood::NoSeparator(1)));
        for (data, digest) in [(DEBUG_MODE, sha256(DEBUG_MODE)), (DEBUG_MODE, [7; 32]), (b"x", sha256(DEBUG_MODE))] {
            for pcr in [7, 1] {
                let debugged = good().digest(pcr, EV_EFI_ACTION, digest, data);
                assert!(matches!(refused(&[debugged], Given::default()), (1, NotGood::DebugMode(_))));
            }
        }
        let mut two = good();
        two.0.extend([1, EV_EFI_ACTION, 2].map(u32::to_le_bytes).concat());
        (0..2).for_each(|digest| two.0.extend([&[0x0B, 0][..], &[digest; 32]].concat()));
        two.0.extend([0; 4]);
        assert!(matches!(refused(&[two], Given::default()), (1, NotGood::TwoSha256(_))));
        let mut cut = good();
        cut.0.pop();
        assert!(matches!(refused(&[good(), cut], Given::default()), (2, NotGood::Malformed(_))));
        let database = Log::new().variable(EFI_IMAGE_SECURITY_DATABASE, "db", b"no list");
        assert!(matches!(refused(&[database], Given::default()), (1, NotGood::Database { .. })));
        let old = [&[0, 0, 0, 0, 8, 0, 0, 0][..], &[7; 20], &[0; 4]].concat();
        assert_eq!(refused(&[Log(old)], Given::default()), (1, NotGood::NoSha256(0)));
    }

    #[test]
    fn what_is_judged_otherwise_has_no_key() {
        let log =
            load_options(good().event(10, 5, b"ima").event(16, EV_IPL, b"later").event(14, EV_IPL, b"mok"), "quiet");
        let log = log.event(12, EV_IPL, &wide("quiet"));
        let events = EventLog::read(&log.0).unwrap().events().map(|event| EventKey::of(&event.unwrap()));
        let keys = events.flatten().collect::<Vec<_>>();
        assert_eq!(keys, [key(0, 8), key(4, APPLICATION), key(14, EV_IPL)]);
    }

    fn lines(patterns: &[&str]) -> Given {
        let command_lines = patterns.iter().map(|pattern| CommandLine::parse(pattern).unwrap()).collect();
        Given { command_lines, ..Given::default() }
    }

    fn wide(text: &str) -> Vec<u8> {
        text.encode_utf16().flat_map(u16::to_le_bytes).collect()
    }

    /// Load options, as Linux's EFI stub measures them: the log has words about them.
    fn load_options(log: Log, text: &str) -> Log {
        let data = [&[0xED, 0x22, 0x3B, 0x8F, 26, 0, 0, 0][..], b"LOADED_IMAGE::LoadOptions\0"].concat();
        log.digest(9, EV_EVENT_TAG, sha256(&[wide(text), vec![0, 0]].concat()), &data)
    }

    #[test]
    fn a_command_line_that_the_log_does_not_prove_must_be_given_exactly() {
        let log = load_options(good(), "root=/dev/sda1 quiet");
        for given in [&[][..], &["root=* quiet"], &["root=/dev/sda2 quiet"]] {
            let (number, why) = refused(std::slice::from_ref(&log), lines(given));
            assert!(matches!((number, &why), (1, NotGood::CommandLine { pcr: 9, .. })), "{given:?}");
            assert!(why.to_string().contains("--cmdline"));
        }
        let given = ["root=* quiet", "root=/dev/sda1 quiet"];
        let (rules, _) = rules_given(&[log], lines(&given)).unwrap();
        assert!(!rules.events().contains_key(&key(9, EV_EVENT_TAG)), "a command line is no event beside");
        assert!(rules.command_lines().iter().map(CommandLine::pattern).eq(given));
    }

    #[test]
    fn a_command_line_that_the_log_proves_is_taken_from_it_and_told() {
        let log = good().event(12, EV_IPL, &[wide("quiet a*b"), vec![0, 0]].concat());
        let (rules, told) = rules(std::slice::from_ref(&log));
        assert_eq!(rules.command_lines().iter().map(CommandLine::pattern).collect::<Vec<_>>(), [r"quiet a\*b"]);
        assert!(told.iter().any(|one| one.what.contains(r"quiet a\*b")), "{told:?}");
        let (rules, told) = rules_given(&[log], lines(&["quiet *"])).unwrap();
        assert_eq!(rules.command_lines().iter().map(CommandLine::pattern).collect::<Vec<_>>(), ["quiet *"]);
        assert!(!told.iter().any(|one| one.what.contains("quiet a")));
    }

    #[test]
    fn command_lines_count_only_where_boots_measure_them() {
        let (rules, told) = rules_given(&[good()], lines(&["quiet"])).unwrap();
        assert!(rules.command_lines().is_empty());
        assert!(told.iter().any(|one| one.what.contains("those given are left out")), "{told:?}");
        let logs = [load_options(good(), "quiet"), good()];
        assert_eq!(refused(&logs, lines(&["quiet"])), (2, NotGood::NoCommandLine));
        // An unmeasured root hash binds nothing.
        let verity = Given { attester: Some(AttesterIn::Verity), ..lines(&["roothash=ab"]) };
        assert!(matches!(rules_given(&[good()], verity), Err(Invalid::Rule(_))));
    }

    #[test]
    fn firmware_other_than_uefi_has_no_event_that_is_not_judged() {
        let logs = [b"a", b"b"].map(|data| Log::new().event(1, EV_PLATFORM_CONFIG_FLAGS, data));
        let (rules, _) = rules(&logs);
        assert!(matches!(rules.events()[&key(1, EV_PLATFORM_CONFIG_FLAGS)], EventRule::Sequences(_)));
    }

    #[test]
    fn the_attester_is_bound_only_by_what_is_measured() {
        let in_initrd = Given { attester: Some(AttesterIn::Initrd), ..Given::default() };
        let initrd = good().digest(9, EV_EVENT_TAG, [7; 32], &[0xEC, 0x22, 0x3B, 0x8F, 2, 0, 0, 0, b'L', 0]);
        assert_eq!(
            rules_given(std::slice::from_ref(&initrd), in_initrd.clone()).unwrap().0.attester(),
            Some(AttesterIn::Initrd)
        );
        assert_eq!(refused(&[initrd, good()], in_initrd), (2, NotGood::NoInitrd));

        let log = load_options(good(), "roothash=ab");
        let verity = |given: &[&str]| Given { attester: Some(AttesterIn::Verity), ..lines(given) };
        assert!(rules_given(std::slice::from_ref(&log), verity(&["roothash=ab"])).is_ok());
        let refused = rules_given(&[log], verity(&["roothash=ab", "root=/dev/sda1"]));
        assert!(matches!(refused, Err(Invalid::Rule(_))), "{refused:?}");
    }

    /// Whether a log has what the rules for events and separators say, as a judge would hold it against them.
    fn meets(log: &Log, rules: &BootRules) -> bool {
        let boot = Boot::read(&EventLog::read(&log.0).unwrap()).unwrap();
        let listed = boot.events.keys().all(|key| rules.events().contains_key(key));
        let allowed = rules.events().iter().all(|(key, rule)| {
            let digests = boot.digests(key);
            match rule {
                EventRule::Sequences(all) => all.contains(&digests),
                EventRule::AnyOf { digests: all, at_least, at_most } => {
                    let count = u32::try_from(digests.len()).unwrap();
                    (*at_least..=*at_most).contains(&count) && digests.iter().all(|digest| all.contains(digest))
                }
                EventRule::Unjudged => key.may_be_unjudged(),
            }
        });
        listed && allowed && boot.separators == *rules.separators()
    }

    /// Events of every kind of rule, with few digests, so that logs agree and differ.
    fn some_log() -> impl Strategy<Value = Log> {
        let event_type = prop::sample::select(vec![
            8,
            EV_IPL,
            EV_EFI_ACTION,
            EV_EFI_VARIABLE_BOOT,
            EV_EFI_GPT_EVENT,
            EV_NONHOST_INFO,
            APPLICATION,
        ]);
        let data = prop::sample::select(vec![b"a".to_vec(), b"b".to_vec()]);
        let event = (prop::sample::select(vec![0, 1, 5, 7, 8]), event_type, data);
        prop::collection::vec(event, 0..6).prop_map(|events| {
            events.into_iter().fold(good(), |log, (pcr, event_type, data)| log.event(pcr, event_type, &data))
        })
    }

    proptest! {
        #[test]
        fn every_log_meets_the_rules_that_were_made_from_it(logs in prop::collection::vec(some_log(), 1..4)) {
            let (rules, _) = rules(&logs);
            for log in &logs {
                prop_assert!(meets(log, &rules));
            }
            let decoded = BootRules::decode(&rules.encode());
            prop_assert_eq!(decoded, Ok(rules.clone()));
            // One event more in a PCR of code was in none of them.
            let more = logs[0].clone().event(4, APPLICATION, b"c");
            prop_assert!(!meets(&more, &rules));
        }
    }

    #[test]
    fn captured_boots_meet_the_rules_of_their_own_and_of_all_together() {
        let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../tests/vectors/boot");
        let names =
            ["qemu-good1", "qemu-cmdline", "qemu-secureboot", "qemu-direct-kernel", "qemu-ima-sig", "qemu-ima-ngv2"];
        let logs = names.map(|name| Log(fs::read(folder.join(name).join("eventlog.bin")).unwrap()));
        let begin = "console=ttyS0 panic=-1 quiet ima_policy=tcb";
        let ends = [
            "ima_template=ima-ng ima_hash=sha256",
            "ima_hash=sha256 ima_template=ima-ng init_on_alloc=0",
            "ima_template=ima-ng ima_hash=sha256 initrd=initrd",
            "ima_hash=sha256 ima_template=ima-sig",
            "ima_hash=sha256 ima_template=ima-ngv2",
        ];
        let all_lines = ends.map(|end| format!("{begin} {end}"));
        let given = lines(&all_lines.each_ref().map(String::as_str));
        let (all, _) = rules_given(&logs, given.clone()).unwrap();
        let singly = logs.each_ref().map(|log| rules_given(std::slice::from_ref(log), given.clone()).unwrap().0);
        for (log, own) in logs.iter().zip(&singly) {
            assert!(meets(log, &all) && meets(log, own));
        }
        assert!(!meets(&logs[2], &singly[0]) && !meets(&logs[3], &singly[0]) && !meets(&logs[1], &singly[0]));
        assert!(singly[2].secure_boot().required && !singly[0].secure_boot().required);
    }
}
