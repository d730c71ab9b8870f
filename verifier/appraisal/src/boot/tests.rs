//! Real boot logs of a virtual machine, and what a liar makes of them, against rules made from good boots.

use std::collections::BTreeSet;

use evidence::{
    eventlog::{
        EV_EFI_ACTION, EV_EFI_BOOT_SERVICES_APPLICATION, EV_EFI_VARIABLE_BOOT, EV_EFI_VARIABLE_DRIVER_CONFIG,
        EV_EVENT_TAG, EV_IPL, EV_NO_ACTION, EV_SEPARATOR, EventLog, event_type_name,
    },
    pcr::{HashAlgorithm, sha256},
};
use reference_values::boot_rules::{BootRules, CommandLine, EventKey, EventRule, Given, SecureBootRule};

use super::{log::BootLog, rules};
use crate::cause::Code;

const TOLD: &str = "console=ttyS0 panic=-1 quiet ima_policy=tcb ima_template=ima-ng ima_hash=sha256";
const GOOD: &[u8] = include_bytes!("../../../../tests/vectors/boot/qemu-good1/eventlog.bin");
const SECURE: &[u8] = include_bytes!("../../../../tests/vectors/boot/qemu-secureboot/eventlog.bin");
const OTHER_COMMAND_LINE: &[u8] = include_bytes!("../../../../tests/vectors/boot/qemu-cmdline/eventlog.bin");
const VENDOR: u32 = 0x8000_4321;
const EVIL: [u8; 32] = [0xE1; 32];

/// One event that can be changed.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Entry {
    pcr: u32,
    event_type: u32,
    digest: [u8; 32],
    data: Vec<u8>,
}

impl Entry {
    fn new(pcr: u32, event_type: u32, data: &[u8]) -> Self {
        Self { pcr, event_type, digest: sha256(data), data: data.to_vec() }
    }

    fn evil(pcr: u32, event_type: u32, data: &[u8]) -> Self {
        Self { pcr, event_type, digest: EVIL, data: data.to_vec() }
    }
}

/// A crypto-agile log with the SHA-256 bank, taken apart. Entry n is event n + 1.
#[derive(Clone)]
struct Editor {
    header: Vec<u8>,
    entries: Vec<Entry>,
}

impl Editor {
    fn of(log: &[u8]) -> Self {
        let read = EventLog::read(log).unwrap();
        let entries: Vec<Entry> = read
            .events()
            .skip(1)
            .map(|event| {
                let event = event.unwrap();
                let digest = event.digest(HashAlgorithm::Sha256).unwrap().try_into().unwrap();
                Entry { pcr: event.pcr, event_type: event.event_type, digest, data: event.data.to_vec() }
            })
            .collect();
        let header = log[..32 + u32::from_le_bytes(log[28..32].try_into().unwrap()) as usize].to_vec();
        let editor = Self { header, entries };
        assert_eq!(editor.bytes(), log);
        editor
    }

    fn bytes(&self) -> Vec<u8> {
        let mut out = self.header.clone();
        for Entry { pcr, event_type, digest, data } in &self.entries {
            for number in [*pcr, *event_type, 1] {
                out.extend(number.to_le_bytes());
            }
            out.extend(0x000B_u16.to_le_bytes());
            out.extend(digest);
            out.extend(u32::try_from(data.len()).unwrap().to_le_bytes());
            out.extend(data);
        }
        out
    }

    fn find(&self, pcr: u32, event_type: u32) -> usize {
        self.entries.iter().position(|entry| (entry.pcr, entry.event_type) == (pcr, event_type)).unwrap()
    }

    fn changed(&self, change: impl FnOnce(&mut Vec<Entry>)) -> Self {
        let mut changed = self.clone();
        change(&mut changed.entries);
        changed
    }

    /// The variable of PCR 7 with this name, with other data.
    fn with_variable(&self, name: &str, data: &[u8]) -> Self {
        let wide: Vec<u8> = name.encode_utf16().flat_map(u16::to_le_bytes).collect();
        self.changed(|entries| {
            let is =
                |entry: &&mut Entry| entry.pcr == 7 && entry.data.len() >= 32 && entry.data[32..].starts_with(&wide);
            let entry = entries.iter_mut().find(is).unwrap();
            let head = [&entry.data[..24], &(data.len() as u64).to_le_bytes(), &wide].concat();
            *entry = Entry::new(7, entry.event_type, &[&head, data].concat());
        })
    }

    fn variable(&self, name: &str) -> Vec<u8> {
        let wide: Vec<u8> = name.encode_utf16().flat_map(u16::to_le_bytes).collect();
        let is = |entry: &&Entry| entry.pcr == 7 && entry.data.len() >= 32 && entry.data[32..].starts_with(&wide);
        self.entries.iter().find(is).unwrap().data[32 + wide.len()..].to_vec()
    }
}

fn rules_of(logs: &[&[u8]]) -> BootRules {
    let logs: Vec<EventLog<'_>> = logs.iter().map(|log| EventLog::read(log).unwrap()).collect();
    let given = Given { command_lines: vec![CommandLine::exact(TOLD).unwrap()], ..Given::default() };
    BootRules::from_logs(&logs, given).unwrap().0
}

fn judged(log: &Editor, rules: &BootRules) -> Vec<(Code, String)> {
    let bytes = log.bytes();
    let outcome = rules::judge(&BootLog::read(&bytes).unwrap(), rules);
    assert_eq!(outcome.broken == 0, outcome.violations.is_empty());
    outcome.violations.into_iter().map(|violation| (violation.code, violation.detail)).collect()
}

fn codes(log: &Editor, rules: &BootRules) -> Vec<Code> {
    judged(log, rules).into_iter().map(|(code, _)| code).collect()
}

/// The only way in which a boot breaks the rules, by code and a part of what is told.
fn assert_only(log: &Editor, rules: &BootRules, code: Code, part: &str) {
    let judged = judged(log, rules);
    assert!(matches!(judged.as_slice(), [(only, told)] if *only == code && told.contains(part)), "{part}: {judged:?}");
}

#[test]
fn a_boot_that_rules_were_made_from_breaks_none_of_them_and_tells_its_command_line() {
    for log in [GOOD, SECURE] {
        let rules = rules_of(&[log]);
        let read = BootLog::read(log).unwrap();
        let outcome = rules::judge(&read, &rules);
        assert_eq!((outcome.violations, outcome.vendor_events), (vec![], vec![]));
        assert_eq!(outcome.command_line.as_deref(), Some(TOLD));
        assert_eq!(read.secure_boot, Some(log == SECURE));
    }
    let both = rules_of(&[GOOD, SECURE]);
    assert!(codes(&Editor::of(GOOD), &both).is_empty() && codes(&Editor::of(SECURE), &both).is_empty());
}

#[test]
fn logs_by_hand_meet_the_rules_made_from_them() {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/vectors/boot/handmade");
    for name in ["profile-1.06", "tf-a", "u-boot", "u-boot-efi", "shim-grub", "systemd-boot", "coreboot"] {
        let bytes = std::fs::read(folder.join(name).join("eventlog.bin")).unwrap();
        let log = EventLog::read(&bytes).unwrap();
        let Ok((rules, _)) = BootRules::from_logs(std::slice::from_ref(&log), Given::default()) else { continue };
        let outcome = rules::judge(&BootLog::read(&bytes).unwrap(), &rules);
        assert_eq!(outcome.violations, [], "{name}");
    }
}

#[test]
fn another_kernel_command_line_is_told_as_such() {
    let judged = judged(&Editor::of(OTHER_COMMAND_LINE), &rules_of(&[GOOD]));
    assert!(
        judged.iter().any(|(code, told)| *code == Code::BootCommandLine && told.contains("PCR 11, event 30")),
        "{judged:?}"
    );
    assert!(judged.iter().any(|(code, told)| *code == Code::BootCommandLine && told.contains("PCR 9, event 34")));
}

#[test]
fn an_event_that_is_inserted_dropped_or_moved_is_told_with_its_position() {
    let (log, rules) = (Editor::of(GOOD), rules_of(&[GOOD]));
    let loader = log.find(4, EV_EFI_BOOT_SERVICES_APPLICATION);
    let inserted =
        log.changed(|entries| entries.insert(loader, Entry::evil(4, EV_EFI_BOOT_SERVICES_APPLICATION, b"x")));
    assert_only(
        &inserted,
        &rules,
        Code::BootUnlistedEvent,
        "PCR 4, event 24, EV_EFI_BOOT_SERVICES_APPLICATION, sha256:e1e1",
    );
    let kernel = log.entries[32].digest;
    let dropped = log.changed(|entries| drop(entries.remove(32)));
    let missing = format!(
        "PCR 4, EV_EFI_BOOT_SERVICES_APPLICATION sha256:{} should have come after event 24",
        evidence::eventlog::Hex(&kernel)
    );
    assert_only(&dropped, &rules, Code::BootMissingEvent, &missing);
    let moved = log.changed(|entries| entries.swap(loader, 32));
    assert_only(&moved, &rules, Code::BootUnlistedEvent, "PCR 4, event 24");
    let none = log.changed(|entries| entries.retain(|entry| entry.event_type != EV_EFI_BOOT_SERVICES_APPLICATION));
    let first = "should have come first of its kind";
    assert!(judged(&none, &rules).iter().all(|(code, told)| *code == Code::BootMissingEvent && told.contains(first)));
    assert_eq!(codes(&none, &rules).len(), 2);
}

#[test]
fn a_changed_initrd_is_an_unlisted_event_in_each_place_that_measures_it() {
    let (log, rules) = (Editor::of(GOOD), rules_of(&[GOOD]));
    let changed = log.changed(|entries| {
        let initrd = entries[31].digest;
        entries.iter_mut().filter(|entry| entry.digest == initrd).for_each(|entry| entry.digest = EVIL);
    });
    let judged = judged(&changed, &rules);
    let unlisted =
        |place: &str| judged.iter().any(|(code, told)| *code == Code::BootUnlistedEvent && told.contains(place));
    assert!(unlisted("PCR 11, event 32, EV_IPL") && unlisted("PCR 9, event 35, EV_EVENT_TAG"), "{judged:?}");
}

#[test]
fn separators_come_once_and_say_that_all_is_well() {
    let (log, rules) = (Editor::of(GOOD), rules_of(&[GOOD]));
    for pcr in 0..8 {
        let at = log.find(pcr, EV_SEPARATOR);
        let doubled = log.changed(|entries| entries.insert(at, entries[at].clone()));
        assert_only(&doubled, &rules, Code::BootSeparator, "a second separator");
        let dropped = log.changed(|entries| drop(entries.remove(at)));
        assert_only(&dropped, &rules, Code::BootSeparator, &format!("PCR {pcr} has no separator"));
        let error = log.changed(|entries| entries[at] = Entry::new(pcr, EV_SEPARATOR, &1_u32.to_le_bytes()));
        assert_only(&error, &rules, Code::BootSeparator, "the firmware met an error");
        // The data says that all is well; the digest does not.
        let hidden = log.changed(|entries| entries[at].digest = sha256(&1_u32.to_le_bytes()));
        assert_only(&hidden, &rules, Code::BootSeparator, "the firmware met an error");
        let evil = log.changed(|entries| entries[at].digest = EVIL);
        assert_only(&evil, &rules, Code::BootSeparator, "not that of a separator");
    }
    let elsewhere = log.changed(|entries| entries.push(Entry::new(9, EV_SEPARATOR, &[0; 4])));
    assert_only(&elsewhere, &rules, Code::BootSeparator, "no separator in this PCR");
}

#[test]
fn a_debugger_shows_under_whatever_label() {
    let (log, rules) = (Editor::of(GOOD), rules_of(&[GOOD]));
    for event_type in [EV_EFI_ACTION, VENDOR, EV_EFI_VARIABLE_BOOT, EV_SEPARATOR] {
        for pcr in [1, 7] {
            let mut entry = Entry::new(pcr, event_type, b"UEFI Debug Mode");
            entry.data = b"harmless".to_vec();
            let debugged = log.changed(|entries| entries.insert(3, entry));
            assert_only(&debugged, &rules, Code::BootDebugger, "event 4");
        }
    }
}

#[test]
fn secure_boot_that_is_off_is_told_and_so_is_one_that_is_not_proved() {
    let (log, rules) = (Editor::of(SECURE), rules_of(&[SECURE]));
    assert!(rules.secure_boot().required);
    assert_only(&log.with_variable("SecureBoot", &[0]), &rules, Code::BootSecureBootOff, "proves that it was off");
    assert!(codes(&log.with_variable("PK", &[]), &rules).contains(&Code::BootSecureBootOff));
    let dropped = log.changed(|entries| drop(entries.remove(3)));
    assert_only(&dropped, &rules, Code::BootSecureBootOff, "does not prove");
    // The data says that it was on; the digest is of the variable as it was.
    let off = log.with_variable("SecureBoot", &[0]).entries[3].digest;
    let lying = log.changed(|entries| entries[3].digest = off);
    let judged = judged(&lying, &rules);
    assert!(judged.iter().any(|(code, _)| *code == Code::BootSecureBootOff), "{judged:?}");
    assert!(
        judged.iter().any(|(code, told)| *code == Code::BootUnlistedEvent && told.contains("event 4")),
        "{judged:?}"
    );
    // Measured once more after the fact: whoever owns the system can extend PCR 7, but takes nothing back.
    let off = log.with_variable("SecureBoot", &[0]);
    let again = off.changed(|entries| entries.push(log.entries[3].clone()));
    let judged = self::judged(&again, &rules);
    assert!(judged.iter().any(|(code, _)| *code == Code::BootSecureBootOff), "{judged:?}");
    assert!(judged.iter().any(|(_, told)| told.contains("a second time")), "{judged:?}");
    let late = log.changed(|entries| {
        let entry = entries.remove(3);
        entries.insert(20, entry);
    });
    assert_eq!(codes(&late, &rules), [Code::BootUnlistedEvent, Code::BootSecureBootOff]);
    assert!(self::judged(&late, &rules)[0].1.contains("after the separator"));
}

#[test]
fn setup_mode_and_audit_mode_are_not_secure_boot() {
    let (log, rules) = (Editor::of(SECURE), rules_of(&[SECURE]));
    let global = log.entries[3].data[..16].to_vec();
    for (name, value, on) in
        [("SetupMode", 0, true), ("SetupMode", 1, false), ("AuditMode", 1, false), ("DeployedMode", 0, true)]
    {
        let wide: Vec<u8> = name.encode_utf16().flat_map(u16::to_le_bytes).collect();
        let data = [&global, &(name.len() as u64).to_le_bytes()[..], &1_u64.to_le_bytes(), &wide, &[value]].concat();
        let with = log.changed(|entries| entries.insert(4, Entry::new(7, EV_EFI_VARIABLE_DRIVER_CONFIG, &data)));
        assert_eq!(codes(&with, &rules), if on { vec![] } else { vec![Code::BootSecureBootOff] }, "{name} {value}");
    }
}

/// EFI_SIGNATURE_LIST with one SHA-256 entry.
fn hash_list(digest: [u8; 32]) -> Vec<u8> {
    let kind = evidence::eventlog::EFI_CERT_SHA256.0;
    [&kind[..], &76_u32.to_le_bytes(), &0_u32.to_le_bytes(), &48_u32.to_le_bytes(), &[7; 16], &digest].concat()
}

#[test]
fn signature_databases_allow_no_more_and_forbid_no_less() {
    let (log, rules) = (Editor::of(SECURE), rules_of(&[SECURE]));
    for name in ["db", "KEK", "PK"] {
        let more = [log.variable(name), hash_list([5; 32])].concat();
        assert_only(
            &log.with_variable(name, &more),
            &rules,
            Code::BootUnlistedEvent,
            "has an entry that no rule allows",
        );
    }
    let less = log.with_variable("dbx", &[]);
    assert_only(&less, &rules, Code::BootMissingEvent, "dbx does not forbid what the release forbids");
    let more = log.with_variable("dbx", &[log.variable("dbx"), hash_list([5; 32])].concat());
    assert_eq!(codes(&more, &rules), []);
    let broken = log.with_variable("db", &[1; 30]);
    assert_only(&broken, &rules, Code::BootUnlistedEvent, "do not decode");
    let none = log.changed(|entries| drop(entries.remove(6)));
    assert_only(&none, &rules, Code::BootMissingEvent, "db is not measured");
}

#[test]
fn a_vendor_s_event_is_tolerated_where_no_code_is_measured_and_told() {
    let (log, rules) = (Editor::of(GOOD), rules_of(&[GOOD]));
    for pcr in 0..16 {
        let with = log.changed(|entries| entries.insert(3, Entry::new(pcr, VENDOR, b"by a vendor")));
        let bytes = with.bytes();
        let outcome = rules::judge(&BootLog::read(&bytes).unwrap(), &rules);
        if [1, 3, 5, 6].contains(&pcr) {
            assert_eq!(outcome.violations, [], "PCR {pcr}");
            assert!(outcome.vendor_events[0].contains(&format!("PCR {pcr}, event 4, type 0x80004321")));
        } else {
            assert_only(&with, &rules, Code::BootUnlistedEvent, "no rule allows such an event");
        }
        let late = log.changed(|entries| entries.push(Entry::new(pcr, VENDOR, b"by a vendor")));
        assert_only(&late, &rules, Code::BootUnlistedEvent, "no rule allows such an event");
    }
}

/// Every label that a log can give an event: types that are known, a vendor's, and data that makes it something else.
fn labels() -> Vec<(u32, Vec<u8>)> {
    let known = (0..0x14).chain(0x8000_0000..=0x8000_0011).chain(0x8000_00E0..=0x8000_00E4);
    let wide = |text: &str| text.encode_utf16().chain([0]).flat_map(u16::to_le_bytes).collect::<Vec<u8>>();
    let tag = |id: u32| [&id.to_le_bytes()[..], &4_u32.to_le_bytes(), b"Boot"].concat();
    let mut labels: Vec<(u32, Vec<u8>)> = known.map(|known| (known, vec![])).collect();
    labels.extend([
        (VENDOR, b"vendor".to_vec()),
        (EV_SEPARATOR, vec![0; 4]),
        (EV_IPL, wide(".cmdline")),
        (EV_IPL, wide(TOLD)),
        (EV_IPL, [b"kernel_cmdline: ", TOLD.as_bytes()].concat()),
        (EV_IPL, b"grub_cmd: linux /vmlinuz".to_vec()),
        (EV_EVENT_TAG, tag(0x8F3B_22ED)),
        (EV_EVENT_TAG, tag(0x8F3B_22EC)),
        (EV_EFI_ACTION, b"Exit Boot Services Invocation".to_vec()),
        (EV_EFI_VARIABLE_DRIVER_CONFIG, Editor::of(SECURE).entries[3].data.clone()),
        (EV_EFI_VARIABLE_DRIVER_CONFIG, Editor::of(SECURE).entries[7].data.clone()),
    ]);
    labels
}

#[test]
fn code_that_no_rule_lists_gains_nothing_by_any_label() {
    let log = Editor::of(GOOD);
    let rules = rules_of(&[GOOD]);
    for at in 0..log.entries.len() {
        let pcr = log.entries[at].pcr;
        if [1, 3, 5, 6].contains(&pcr) {
            continue;
        }
        for (event_type, data) in labels() {
            let told = format!("event {} as {event_type:#x} {data:?}", at + 1);
            // What ran is not what should have: the digest is another, and the log puts any label on it.
            let replaced = log.changed(|entries| entries[at] = Entry::evil(pcr, event_type, &data));
            // Or it ran besides. A label of an event that extends nothing leaves the digest out of the replay.
            let besides = log.changed(|entries| entries.insert(at, Entry::evil(pcr, event_type, &data)));
            assert_eq!(codes(&besides, &rules).is_empty(), event_type == EV_NO_ACTION, "{told}");
            assert!(event_type == EV_NO_ACTION || !codes(&replaced, &rules).is_empty(), "{told}");
        }
    }
}

#[test]
fn no_label_moves_a_listed_digest_to_where_another_is_missing() {
    let (log, rules) = (Editor::of(GOOD), rules_of(&[GOOD]));
    for at in 0..log.entries.len() {
        for (event_type, data) in labels() {
            let Entry { pcr, digest, .. } = log.entries[at];
            let same = event_type == log.entries[at].event_type;
            // What a label of no extension leaves out, the replay misses.
            if [1, 3, 5, 6].contains(&pcr) || same || event_type == EV_NO_ACTION {
                continue;
            }
            let relabelled = log.changed(|entries| entries[at] = Entry { pcr, event_type, digest, data: data.clone() });
            let codes = codes(&relabelled, &rules);
            assert!(!codes.is_empty(), "event {} as {event_type:#x} {data:?}", at + 1);
        }
    }
}

#[test]
fn an_event_with_two_digests_of_the_quoted_bank_is_refused() {
    let log = Editor::of(GOOD);
    let mut bytes = log.changed(|entries| entries.truncate(23)).bytes();
    for number in [4_u32, EV_EFI_BOOT_SERVICES_APPLICATION, 2] {
        bytes.extend(number.to_le_bytes());
    }
    for digest in [log.entries[23].digest, EVIL] {
        bytes.extend(0x000B_u16.to_le_bytes());
        bytes.extend(digest);
    }
    bytes.extend(0_u32.to_le_bytes());
    assert!(BootLog::read(&bytes).err().unwrap().contains("event 24 has more than one SHA-256 digest"));
}

#[test]
fn an_event_without_a_digest_of_the_quoted_bank_stands_for_nothing() {
    let log = Editor::of(GOOD);
    let mut bytes = log.changed(|entries| entries.truncate(36)).bytes();
    for number in [5_u32, EV_EFI_ACTION, 0, 40] {
        bytes.extend(number.to_le_bytes());
    }
    bytes.extend(b"Exit Boot Services Returned with Success");
    let outcome = rules::judge(&BootLog::read(&bytes).unwrap(), &rules_of(&[GOOD]));
    assert_eq!(outcome.violations[0].code, Code::BootMissingEvent);
}

#[test]
fn what_varies_is_judged_by_what_rules_say_of_it() {
    let log = Editor::of(GOOD);
    let rules = rules_of(&[GOOD]);
    // Boot order belongs to the owner.
    let order = log.changed(|entries| entries[9] = Entry::evil(1, EV_EFI_VARIABLE_BOOT, b"other"));
    assert_eq!(codes(&order, &rules), []);
    let key = EventKey { pcr: 4, event_type: EV_EFI_BOOT_SERVICES_APPLICATION };
    let digests: BTreeSet<[u8; 32]> = [log.entries[23].digest, log.entries[32].digest].into();
    let with = |rule: EventRule| {
        let mut events = rules.events().clone();
        events.insert(key, rule);
        let new = BootRules::new(events, rules.separators().clone(), SecureBootRule::default()).unwrap();
        new.with_command_lines(rules.command_lines().iter().cloned()).unwrap()
    };
    let any = |at_least, at_most| with(EventRule::AnyOf { digests: digests.clone(), at_least, at_most });
    let moved = log.changed(|entries| entries.swap(23, 32));
    assert_eq!(codes(&moved, &any(2, 2)), []);
    assert_only(&log, &any(3, 4), Code::BootMissingEvent, "should have come after event 33");
    assert_only(&log, &any(0, 1), Code::BootUnlistedEvent, "event 33");
    assert_only(
        &log,
        &with(EventRule::Sequences([vec![], vec![log.entries[23].digest]].into())),
        Code::BootUnlistedEvent,
        "event 33",
    );
}

#[test]
fn a_pattern_is_held_against_texts_that_the_log_proves_only() {
    let rules = |pattern: &str| {
        let rules = rules_of(&[GOOD]);
        let pattern = CommandLine::parse(pattern).unwrap();
        let new =
            BootRules::new(rules.events().clone(), rules.separators().clone(), SecureBootRule::default()).unwrap();
        new.with_command_lines([pattern]).unwrap()
    };
    let log = Editor::of(GOOD);
    // The sections of systemd-stub show a digest, and no text.
    assert_eq!(
        codes(&log, &rules("console=* panic=-1 quiet ima_policy=tcb ima_template=ima-ng ima_hash=sha256")).len(),
        2
    );
    let wide: Vec<u8> = TOLD.encode_utf16().chain([0]).flat_map(u16::to_le_bytes).collect();
    // Given to systemd-stub as load options, the text is in the log, and proves what the kernel's stub measured.
    let given = log.changed(|entries| {
        entries.retain(|entry| !(entry.pcr == 11 && entry.data.starts_with(b".\0c\0m\0d\0")));
        entries.insert(27, Entry::new(12, EV_IPL, &wide));
    });
    let without_section = {
        let mut events = rules_of(&[GOOD]).events().clone();
        let sections = log.entries[24..32].iter().map(|entry| entry.digest);
        let cmdline = log.entries[28].digest;
        let content = log.entries[29].digest;
        let left: Vec<_> = sections.filter(|digest| *digest != cmdline && *digest != content).collect();
        events.insert(EventKey { pcr: 11, event_type: EV_IPL }, EventRule::Sequences([left].into()));
        let separators = rules_of(&[GOOD]).separators().clone();
        let line =
            CommandLine::parse("console=* panic=-1 quiet ima_policy=tcb ima_template=* ima_hash=sha256").unwrap();
        BootRules::new(events, separators, SecureBootRule::default()).unwrap().with_command_lines([line]).unwrap()
    };
    let bytes = given.bytes();
    let outcome = rules::judge(&BootLog::read(&bytes).unwrap(), &without_section);
    assert_eq!((outcome.violations, outcome.command_line.as_deref()), (vec![], Some(TOLD)));
    let none = log.changed(|entries| entries.retain(|entry| ![9, 11].contains(&entry.pcr)));
    assert!(codes(&none, &rules_of(&[GOOD])).contains(&Code::BootCommandLine));
}

#[test]
fn thousands_of_events_are_judged_in_bounded_words_and_more_are_refused() {
    let (log, rules) = (Editor::of(GOOD), rules_of(&[GOOD]));
    let many = |count: u32| {
        log.changed(|entries| {
            entries.extend((0..count).map(|number| {
                let digest = sha256(&number.to_le_bytes());
                Entry { pcr: 4, event_type: EV_EFI_BOOT_SERVICES_APPLICATION, digest, data: vec![0x1B; 50] }
            }));
        })
    };
    let judged = judged(&many(8000), &rules);
    assert_eq!(judged.len(), crate::state::MAX_VIOLATIONS);
    let printable = |told: &str| told.len() < 400 && !told.chars().any(char::is_control);
    assert!(judged.iter().all(|(_, told)| printable(told)), "{judged:?}");
    assert!(BootLog::read(&many(9000).bytes()).is_err());
    let lines = log.changed(|entries| (0..20).for_each(|_| entries.push(entries[33].clone())));
    assert!(BootLog::read(&lines.bytes()).err().unwrap().contains("16 command lines"));
}

#[test]
fn where_firmware_is_no_uefi_a_configuration_pcr_has_the_command_line_and_tolerates_nothing() {
    let log = include_bytes!("../../../../tests/vectors/boot/handmade/u-boot/eventlog.bin");
    let read = EventLog::read(log).unwrap();
    let (rules, _) = BootRules::from_logs(std::slice::from_ref(&read), Given::default()).unwrap();
    let outcome = |bytes: &[u8]| rules::judge(&BootLog::read(bytes).unwrap(), &rules).violations;
    assert_eq!(outcome(log), []);
    let event =
        read.events().map(Result::unwrap).find(|event| event.pcr == 1 && event.event_type != EV_SEPARATOR).unwrap();
    let start = event.data.as_ptr() as usize - log.as_ptr() as usize;
    let type_at =
        log[..start].windows(8).rposition(|bytes| bytes == [[1, 0, 0, 0], event.event_type.to_le_bytes()].concat());
    let mut relabelled = log.to_vec();
    relabelled[type_at.unwrap() + 4..type_at.unwrap() + 8].copy_from_slice(&VENDOR.to_le_bytes());
    assert!(outcome(&relabelled).iter().any(|fault| fault.code == Code::BootUnlistedEvent));
}

#[test]
fn no_byte_of_a_log_makes_judging_fail() {
    let rules = rules_of(&[SECURE]);
    for at in 0..SECURE.len() {
        for value in [0xFF, SECURE[at] ^ 1] {
            let mut bytes = SECURE.to_vec();
            bytes[at] = value;
            if let Ok(log) = BootLog::read(&bytes) {
                let _ = rules::judge(&log, &rules);
            }
        }
        if let Ok(log) = BootLog::read(&SECURE[..at]) {
            assert!(rules::judge(&log, &rules).broken > 0, "cut at {at}");
        }
    }
}

#[test]
fn every_known_type_is_among_the_labels() {
    let labelled: BTreeSet<u32> = labels().into_iter().map(|(event_type, _)| event_type).collect();
    let known = (0..0x100).chain(0x8000_0000..0x8000_0200).filter(|event_type| event_type_name(*event_type).is_some());
    assert_eq!(known.filter(|event_type| !labelled.contains(event_type)).collect::<Vec<_>>(), [0; 0]);
}
