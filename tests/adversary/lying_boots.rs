//! Boots that are not what the log says, logs that are not of this boot, and what looks like either and is neither. The
//! liar owns the system after boot: it writes any log, extends any PCR further, and sends what it likes; what was extended
//! before it came, it cannot take back.

use appraisal::{Appraisal, Code, Policy, Verdict};
use devices::{
    judge::{Judge, PRODUCT, index, sign},
    software::{Attach, SoftwareDevice},
};
use evidence::{
    claims::LogKind,
    eventlog::{
        EFI_CERT_SHA256, EFI_GLOBAL_VARIABLE, EV_ACTION, EV_EFI_BOOT_SERVICES_APPLICATION, EV_EFI_VARIABLE_BOOT,
        EV_EFI_VARIABLE_DRIVER_CONFIG, EV_EVENT_TAG, EV_IPL, EV_NO_ACTION, EV_S_CRTM_VERSION, EV_SEPARATOR, EventLog,
        Guid,
    },
    pcr::{HashAlgorithm, extend_sha256, sha256},
};
use reference_values::{
    BootRules, Content, Executable, Release,
    boot_rules::{AttesterIn, CommandLine, Given, ImaPolicy, Kernel, Kexec, Lockdown},
};

const GOOD: &[u8] = include_bytes!("../vectors/boot/qemu-good1/eventlog.bin");
const SECURE: &[u8] = include_bytes!("../vectors/boot/qemu-secureboot/eventlog.bin");
const GRUB: &[u8] = include_bytes!("../vectors/boot/handmade/shim-grub/eventlog.bin");
/// What the kernel of the captured boots was told.
const TOLD: &str = "console=ttyS0 panic=-1 quiet ima_policy=tcb ima_template=ima-ng ima_hash=sha256";
/// What GRUB's kernel was told, in the words of the kernel's own stub.
const TOLD_BY_GRUB: &str = "BOOT_IMAGE=/vmlinuz root=/dev/sda2 ro quiet";
const INIT: [u8; 32] = [1; 32];
const EVIL: [u8; 32] = [0xE1; 32];
const VENDOR: u32 = 0x8000_4321;
const MINUTE: u64 = 60;

/// One event of a log with the SHA-256 bank alone.
#[derive(Clone)]
struct Event {
    pcr: u32,
    event_type: u32,
    digest: [u8; 32],
    data: Vec<u8>,
}

impl Event {
    fn new(pcr: u32, event_type: u32, data: &[u8]) -> Self {
        Self { pcr, event_type, digest: sha256(data), data: data.to_vec() }
    }
}

/// A log taken apart. Position n is event n + 1: the first says what format it is.
#[derive(Clone)]
struct Log {
    header: Vec<u8>,
    events: Vec<Event>,
}

impl Log {
    fn of(bytes: &[u8]) -> Self {
        let read = EventLog::read(bytes).unwrap();
        let events = read.events().skip(1).map(Result::unwrap);
        let events = events.map(|event| Event {
            pcr: event.pcr,
            event_type: event.event_type,
            digest: event.digest(HashAlgorithm::Sha256).unwrap().try_into().unwrap(),
            data: event.data.to_vec(),
        });
        let header = 32 + u32::from_le_bytes(bytes[28..32].try_into().unwrap()) as usize;
        Self { header: bytes[..header].to_vec(), events: events.collect() }
    }

    fn bytes(&self) -> Vec<u8> {
        let mut out = self.header.clone();
        for Event { pcr, event_type, digest, data } in &self.events {
            out.extend([*pcr, *event_type, 1].map(u32::to_le_bytes).concat());
            out.extend([0x0B, 0]);
            out.extend(digest);
            out.extend((data.len() as u32).to_le_bytes());
            out.extend(data);
        }
        out
    }

    fn with(&self, change: impl FnOnce(&mut Vec<Event>)) -> Self {
        let mut changed = self.clone();
        change(&mut changed.events);
        changed
    }

    fn find(&self, pcr: u32, event_type: u32) -> usize {
        self.events.iter().position(|event| (event.pcr, event.event_type) == (pcr, event_type)).unwrap()
    }

    fn find_variable(&self, name: &str) -> usize {
        let wide = wide(name);
        let is = |event: &Event| event.pcr == 7 && event.data.get(32..).is_some_and(|rest| rest.starts_with(&wide));
        self.events.iter().position(is).unwrap()
    }

    /// The content of a variable of PCR 7.
    fn variable(&self, name: &str) -> Vec<u8> {
        self.events[self.find_variable(name)].data[32 + 2 * name.len()..].to_vec()
    }

    /// As the firmware would have measured it with other content.
    fn with_variable(&self, name: &str, content: &[u8]) -> Self {
        let at = self.find_variable(name);
        let vendor = Guid(self.events[at].data[..16].try_into().unwrap());
        self.with(|events| events[at] = variable(vendor, name, content))
    }

    /// The captured boot, had the kernel been told this: the image's section, and the kernel's own stub say so.
    fn told(&self, text: &str) -> Self {
        let section = self.events.iter().position(|event| event.data == wide(".cmdline\0")).unwrap() + 1;
        let options = self.find(9, EV_EVENT_TAG);
        self.with(|events| {
            events[section].digest = sha256(&[text.as_bytes(), b"\0"].concat());
            events[options].digest = sha256(&wide(&format!("{text}\0")));
        })
    }
}

fn wide(text: &str) -> Vec<u8> {
    text.encode_utf16().flat_map(u16::to_le_bytes).collect()
}

fn variable(vendor: Guid, name: &str, content: &[u8]) -> Event {
    let lengths = [name.len(), content.len()].map(|length| (length as u64).to_le_bytes()).concat();
    Event::new(7, EV_EFI_VARIABLE_DRIVER_CONFIG, &[&vendor.0[..], &lengths, &wide(name), content].concat())
}

/// EFI_SIGNATURE_LIST with one SHA-256 entry.
fn hash_list(digest: [u8; 32]) -> Vec<u8> {
    [&EFI_CERT_SHA256.0[..], &[76_u32, 0, 48].map(u32::to_le_bytes).concat(), &[7; 16], &digest].concat()
}

fn exact(lines: &[&str]) -> Given {
    let command_lines = lines.iter().map(|line| CommandLine::exact(line).unwrap()).collect();
    Given { command_lines, ..Given::default() }
}

fn rules(logs: &[&[u8]], given: Given) -> BootRules {
    let logs: Vec<EventLog<'_>> = logs.iter().map(|log| EventLog::read(log).unwrap()).collect();
    BootRules::from_logs(&logs, given).unwrap().0
}

fn release(name: &str, sequence: u64, boot_rules: Vec<BootRules>) -> Release {
    let executables = vec![Executable { digest: INIT, path: "/bin/init".into() }];
    let policy = ImaPolicy { digest: [4; 32], path: "/etc/ima/policy".into(), measures_kexec: true };
    let content = Content { executables, boot_rules, ima_policies: vec![policy], ..Content::default() };
    Release::with_content(PRODUCT, name, sequence, content).unwrap()
}

/// A device, and a verifier that knows these releases.
struct Pair {
    device: SoftwareDevice,
    judge: Judge,
}

impl Pair {
    fn new(releases: Vec<Release>) -> Self {
        let device = SoftwareDevice::new();
        let judge = Judge::new(device.keys, index(releases.into_iter().map(sign).collect()));
        Self { device, judge }
    }

    /// A release made from this boot, which the device has made.
    fn booted(log: &[u8]) -> Self {
        let mut pair = Self::new(vec![release("1.0", 1, vec![rules(&[log], exact(&[TOLD]))])]);
        pair.boots(log);
        pair
    }

    /// A device that made another boot than the release's.
    fn with_boot(good: &[u8], log: &Log) -> Self {
        let mut pair = Self::booted(good);
        pair.boots(&log.bytes());
        pair
    }

    fn boots(&mut self, log: &[u8]) {
        self.device.reboot();
        self.runs(log);
    }

    fn runs(&mut self, log: &[u8]) {
        self.device.boots_by(log);
        self.device.run("/bin/init", INIT);
    }

    fn attest(&mut self, attach: Attach) -> Appraisal {
        self.attest_with(attach, &|_, bytes| bytes)
    }

    fn shows(&mut self) -> Appraisal {
        self.attest(Attach::LogsFrom(0))
    }

    fn attest_with(&mut self, attach: Attach, forge: &dyn Fn(LogKind, Vec<u8>) -> Vec<u8>) -> Appraisal {
        self.judge.now += MINUTE;
        self.device.pass(MINUTE);
        let message = self.device.attest_with(&[self.judge.challenge()], attach, forge);
        self.judge.take(&message).expect("is judged")
    }

    /// Attests with this boot log in the place of the true one.
    fn lies(&mut self, log: &[u8]) -> Appraisal {
        self.attest_with(Attach::LogsFrom(0), &|kind, bytes| if kind == LogKind::Boot { log.to_vec() } else { bytes })
    }

    fn extends(&mut self, pcr: usize, digest: &[u8; 32]) {
        self.device.pcrs[pcr] = extend_sha256(&self.device.pcrs[pcr], digest);
    }
}

fn told(appraisal: &Appraisal) -> Vec<(Code, &str)> {
    appraisal.state.causes.iter().map(|cause| (cause.code, cause.detail.as_str())).collect()
}

fn codes(appraisal: &Appraisal) -> Vec<Code> {
    crate::codes(appraisal)
}

#[track_caller]
fn assert_affirmed(appraisal: &Appraisal, what: &str) {
    assert_eq!((appraisal.state.verdict, told(appraisal)), (Verdict::Affirmed, vec![]), "{what}");
}

/// Contraindicated for this, told with these words.
#[track_caller]
fn assert_caught(appraisal: &Appraisal, code: Code, words: &str) {
    let found = told(appraisal).iter().any(|(known, detail)| *known == code && detail.contains(words));
    assert_eq!((appraisal.state.verdict, found), (Verdict::Contraindicated, true), "{words}: {:?}", told(appraisal));
}

// ---- Logs that the quote does not bear out

#[test]
fn an_event_that_is_inserted_dropped_or_moved_in_a_log_contradicts_and_its_pcr_and_places_are_named() {
    let log = Log::of(GOOD);
    let loader = log.find(4, EV_EFI_BOOT_SERVICES_APPLICATION);
    let inserted = log.with(|events| events.insert(loader, Event::new(4, EV_EFI_BOOT_SERVICES_APPLICATION, b"x")));
    let dropped = log.with(|events| drop(events.remove(loader)));
    let moved = log.with(|events| {
        let event = events.remove(loader);
        events.push(event);
    });
    let doubled = log.with(|events| events.insert(loader, events[log.find(4, EV_SEPARATOR)].clone()));
    for (lie, words) in [
        (&inserted, "PCR 4 (its events in the log: 16, 21, 24, 25, 34); not of release 1.0: PCR 4, event 24"),
        (&dropped, "PCR 4 (its events in the log: 16, 21, 32)"),
        (&moved, "PCR 4 (its events in the log: 16, 21, 32, 37); not of release 1.0: PCR 4, event 32"),
        (&doubled, "PCR 4 (its events in the log: 16, 21, 24, 25, 34)"),
    ] {
        assert_caught(&Pair::booted(GOOD).lies(&lie.bytes()), Code::LogMismatch, words);
    }
}

#[test]
fn the_log_of_another_boot_of_the_same_device_or_of_another_machine_contradicts() {
    let mut pair = Pair::booted(GOOD);
    assert_affirmed(&pair.shows(), "the first boot");
    // Another boot of the same device, with another line: its own log is caught, that of the boot before contradicts.
    let other = Log::of(GOOD).told("init=/bin/sh").bytes();
    pair.boots(&other);
    assert_caught(&pair.lies(GOOD), Code::LogMismatch, "PCR 9");
    assert_caught(&Pair::booted(GOOD).lies(SECURE), Code::LogMismatch, "PCR 0");
    // Of the same machine but one variable.
    let rotated = Log::of(SECURE).with_variable("db", &hash_list([5; 32]));
    assert_caught(&Pair::booted(SECURE).lies(&rotated.bytes()), Code::LogMismatch, "PCR 7");
}

#[test]
fn a_log_whose_other_banks_are_true_and_whose_sha256_lies_contradicts() {
    let read = EventLog::read(GRUB).unwrap();
    let is_loader = |event: &evidence::eventlog::Event<'_>| event.event_type == EV_EFI_BOOT_SERVICES_APPLICATION;
    let loader = read.events().map(Result::unwrap).find(is_loader).unwrap();
    let digest = loader.digest(HashAlgorithm::Sha256).unwrap();
    let at = digest.as_ptr() as usize - GRUB.as_ptr() as usize;
    let mut evil = GRUB.to_vec();
    evil[at..at + 32].copy_from_slice(&EVIL);
    // The firmware measured another loader; SHA-1 and SHA-384 digests are those of the good one.
    let mut pair = Pair::new(vec![release("1.0", 1, vec![rules(&[GRUB], exact(&[TOLD_BY_GRUB]))])]);
    pair.boots(&evil);
    assert_caught(&pair.lies(GRUB), Code::LogMismatch, "PCR 4");
    pair.judge.state = None;
    assert_caught(&pair.shows(), Code::BootUnlistedEvent, "PCR 4");
    // A log of SHA-1 alone says nothing of what is quoted.
    let mut pair = Pair::booted(GOOD);
    let sha1 = std::fs::read(concat!(env!("CARGO_MANIFEST_DIR"), "/vectors/boot/handmade/sha1-bios/eventlog.bin"));
    assert_caught(&pair.lies(&sha1.unwrap()), Code::LogMismatch, "PCR 0");
}

#[test]
fn an_event_with_two_digests_of_the_quoted_bank_contradicts() {
    let log = Log::of(GOOD);
    let loader = log.find(4, EV_EFI_BOOT_SERVICES_APPLICATION);
    let before = log.with(|events| events.truncate(loader)).bytes();
    let after = Log { header: vec![], events: log.events[loader + 1..].to_vec() }.bytes();
    let mut two = [4, EV_EFI_BOOT_SERVICES_APPLICATION, 2].map(u32::to_le_bytes).concat();
    for digest in [log.events[loader].digest, EVIL] {
        two.extend([0x0B, 0]);
        two.extend(digest);
    }
    two.extend([0; 4]);
    let lie = [before, two, after].concat();
    let mut pair = Pair::booted(GOOD);
    // Which of them the replay takes makes no difference.
    pair.boots(&lie);
    assert_caught(&pair.shows(), Code::LogMismatch, "event 24 has more than one SHA-256 digest");
}

#[test]
fn a_log_cut_short_anywhere_is_never_affirmed() {
    let mut pair = Pair::booted(SECURE);
    for end in 0..SECURE.len() {
        pair.judge.state = None;
        let cut = pair.lies(&SECURE[..end]);
        assert_eq!(cut.state.verdict, Verdict::Contraindicated, "{end}: {:?}", told(&cut));
        assert!(codes(&cut).contains(&Code::LogMismatch), "{end}");
    }
    pair.judge.state = None;
    assert_affirmed(&pair.shows(), "the whole");
}

#[test]
fn a_log_as_long_as_it_may_be_is_judged_in_bounded_time_and_words() {
    let mut pair = Pair::booted(GOOD);
    let begun = std::time::Instant::now();
    // Zeros, an area that firmware never wrote to, the smallest events, the same event again and again.
    let empty = Log::of(GOOD).with(|events| {
        events.extend((0..9000).map(|_| Event { pcr: 4, event_type: VENDOR, digest: EVIL, data: vec![] }));
    });
    for log in [vec![0; 10_000_000], vec![0xFF; 10_000_000], empty.bytes()] {
        let long = pair.lies(&log);
        assert_eq!(long.state.verdict, Verdict::Contraindicated);
        assert!(told(&long).iter().all(|(_, detail)| detail.len() < 600), "{:?}", told(&long));
    }
    assert!(begun.elapsed().as_secs() < 20, "{:?}", begun.elapsed());
}

// ---- Boots that no release allows, under whatever log

#[test]
fn a_loader_that_no_release_lists_is_caught_under_every_label() {
    let log = Log::of(GOOD);
    let loader = log.find(4, EV_EFI_BOOT_SERVICES_APPLICATION);
    let evil = log.with(|events| events[loader].digest = EVIL);
    let mut pair = Pair::with_boot(GOOD, &evil);
    assert_caught(&pair.shows(), Code::BootUnlistedEvent, "release 1.0: PCR 4, event 24, EV_EFI_BOOT_SERVICES_APPL");
    let load_options = [&0x8F3B_22ED_u32.to_le_bytes()[..], &[0; 4]].concat();
    let labels = [
        (4, EV_EFI_VARIABLE_BOOT, b"BootOrder".to_vec()),
        (1, EV_EFI_VARIABLE_BOOT, b"BootOrder".to_vec()),
        (4, VENDOR, b"vendor".to_vec()),
        (1, VENDOR, b"vendor".to_vec()),
        (4, EV_NO_ACTION, b"StartupLocality\0\0".to_vec()),
        (4, EV_SEPARATOR, vec![0; 4]),
        (4, EV_ACTION, b"Calling INT 19h".to_vec()),
        (4, EV_EVENT_TAG, load_options.clone()),
        (9, EV_EVENT_TAG, load_options),
        (8, EV_IPL, [b"kernel_cmdline: ", TOLD.as_bytes()].concat()),
        (4, EV_IPL, [b"kernel_cmdline: ", TOLD.as_bytes()].concat()),
        (12, EV_IPL, wide(TOLD)),
        (7, EV_EFI_VARIABLE_DRIVER_CONFIG, Log::of(SECURE).variable("db")),
        (20, EV_EFI_BOOT_SERVICES_APPLICATION, vec![]),
        (u32::MAX, EV_EFI_BOOT_SERVICES_APPLICATION, vec![]),
    ];
    for (pcr, event_type, data) in labels {
        let mut pair = Pair::with_boot(GOOD, &evil);
        let what = format!("PCR {pcr}, {event_type:#x}");
        let lie = evil.with(|events| events[loader] = Event { pcr, event_type, digest: EVIL, data });
        let caught = pair.lies(&lie.bytes());
        // In its own PCR it replays, and the rules of what it is called do not know it.
        let replays = pcr == 4 && event_type != EV_NO_ACTION;
        assert_eq!(caught.state.verdict, Verdict::Contraindicated, "{what}");
        assert_eq!(codes(&caught).contains(&Code::LogMismatch), !replays, "{what}: {:?}", told(&caught));
        // The loader that should have come is extended after it, so that none is missing.
        let good = log.events[loader].clone();
        pair.extends(4, &good.digest);
        pair.judge.state = None;
        let caught = pair.lies(&lie.with(|events| events.push(good)).bytes());
        assert_eq!(caught.state.verdict, Verdict::Contraindicated, "{what} and the good one: {:?}", told(&caught));
    }
}

#[test]
fn separators_that_are_doubled_dropped_or_tell_an_error_are_caught() {
    let log = Log::of(GOOD);
    for pcr in 0..8 {
        let at = log.find(pcr, EV_SEPARATOR);
        let doubled = log.with(|events| events.insert(at, events[at].clone()));
        let place = format!("PCR {pcr}, event {}, EV_SEPARATOR", at + 2);
        assert_caught(&Pair::with_boot(GOOD, &doubled).shows(), Code::BootSeparator, &place);
        let dropped = log.with(|events| drop(events.remove(at)));
        let missing = format!("PCR {pcr} has no separator");
        assert_caught(&Pair::with_boot(GOOD, &dropped).shows(), Code::BootSeparator, &missing);
        // The digest of 1 is what was extended; the log says 0.
        let error = log.with(|events| events[at].digest = sha256(&1_u32.to_le_bytes()));
        assert_caught(&Pair::with_boot(GOOD, &error).shows(), Code::BootSeparator, "the firmware met an error");
    }
}

#[test]
fn a_command_line_that_was_changed_is_caught_whatever_text_the_log_shows() {
    let log = Log::of(GOOD);
    let evil = log.told(&format!("{TOLD} init=/bin/sh"));
    let mut pair = Pair::with_boot(GOOD, &evil);
    let caught = pair.shows();
    assert_caught(&caught, Code::BootCommandLine, "PCR 11, event 30");
    assert_caught(&caught, Code::BootCommandLine, "PCR 9, event 34");
    // Shown with the good text in the words of every loader, and the good line measured after it.
    let mut pair = Pair::with_boot(GOOD, &evil);
    let good = log.events[log.find(9, EV_EVENT_TAG)].digest;
    let forged = evil.with(|events| {
        let at = events.iter().position(|event| event.pcr == 9 && event.event_type == EV_EVENT_TAG).unwrap();
        let data = [&0x8F3B_22ED_u32.to_le_bytes()[..], &(TOLD.len() as u32 * 2).to_le_bytes(), &wide(TOLD)].concat();
        events[at].data = data;
        let again = Event { digest: good, ..events[at].clone() };
        events.push(again);
    });
    pair.extends(9, &good);
    let caught = pair.lies(&forged.bytes());
    assert_caught(&caught, Code::BootCommandLine, "PCR 9, event 34");
    assert_eq!(caught.state.boot.summary().command_line, None, "nothing that the digest does not prove is shown");
}

#[test]
fn a_pattern_lets_no_other_parameter_in_by_white_space_or_quotation_marks() {
    let line = |text: &str| Event::new(12, EV_IPL, &wide(&format!("{text}\0")));
    let with_line = |text: &str| Log::of(GOOD).told(text).with(|events| events.insert(24, line(text)));
    let pattern = CommandLine::parse("root=UUID=* ro lockdown=integrity").unwrap();
    let texts = ["root=UUID=1 ro lockdown=integrity", "root=UUID=2-x ro lockdown=integrity"];
    let good = texts.map(|text| with_line(text).bytes());
    let made = rules(&[&good[0], &good[1]], exact(&texts)).with_command_lines([pattern]).unwrap();
    let judged = |text: &str| {
        let mut pair = Pair::new(vec![release("1.0", 1, vec![made.clone()])]);
        pair.boots(&with_line(text).bytes());
        pair.shows()
    };
    assert_affirmed(&judged(texts[1]), "a line that the pattern is for");
    for text in [
        "root=UUID=1\tinit=/bin/sh ro lockdown=integrity",
        "root=UUID=1\ninit=/bin/sh ro lockdown=integrity",
        "root=UUID=1\u{A0}init=/bin/sh ro lockdown=integrity",
        "root=UUID=\"1 ro lockdown=integrity",
        "root=UUID='1 ro lockdown=integrity",
    ] {
        assert_caught(&judged(text), Code::BootCommandLine, "PCR 12, event 25");
    }
}

#[test]
fn a_line_that_is_left_out_of_the_log_makes_way_for_no_other() {
    // systemd's boot loader measures the line, and neither its stub nor the kernel's own does.
    let by_loader = |text: &str| {
        Log::of(GOOD).with(|events| {
            events.retain(|event| event.pcr != 11 && (event.pcr, event.event_type) != (9, EV_EVENT_TAG));
            events.push(Event::new(12, EV_IPL, &wide(&format!("{text}\0"))));
        })
    };
    let good = by_loader(TOLD);
    let mut pair = Pair::booted(&good.bytes());
    assert_affirmed(&pair.shows(), "its own line");
    let evil = by_loader("init=/bin/sh");
    pair.boots(&evil.bytes());
    let options = Log::of(GOOD).events[Log::of(GOOD).find(9, EV_EVENT_TAG)].clone();
    pair.extends(9, &options.digest);
    let lie = evil.with(|events| {
        events.retain(|event| event.pcr != 12);
        events.push(options);
    });
    assert_caught(&pair.lies(&lie.bytes()), Code::BootPcrMismatch, "PCR 12");
}

#[test]
fn a_line_that_would_command_a_terminal_is_not_shown() {
    for words in ["quiet \u{1B}[2J", "quiet \u{202E}txet", "quiet\u{7}"] {
        let u_boot = std::fs::read(concat!(env!("CARGO_MANIFEST_DIR"), "/vectors/boot/handmade/u-boot/eventlog.bin"));
        let log = u_boot.unwrap();
        let read = EventLog::read(&log).unwrap();
        let line = read.events().map(Result::unwrap).find(|event| event.command_line().is_some()).unwrap();
        let digest = line.digest(HashAlgorithm::Sha256).unwrap().as_ptr() as usize - log.as_ptr() as usize;
        let data = line.data.as_ptr() as usize - log.as_ptr() as usize;
        let padded = format!("{words:width$}", width = line.data.len() - 1 - (words.len() - words.chars().count()));
        assert!(padded.len() < line.data.len());
        let mut lie = log.clone();
        lie[data..data + line.data.len()].fill(0);
        lie[data..data + padded.len()].copy_from_slice(padded.as_bytes());
        lie[digest..digest + 32].copy_from_slice(&sha256(padded.as_bytes()));
        let mut pair = Pair::new(vec![release("1.0", 1, vec![rules(&[&log], Given::default())])]);
        pair.boots(&lie);
        let caught = pair.shows();
        assert_caught(&caught, Code::BootCommandLine, "PCR 1, event");
        let all: String = told(&caught).iter().map(|(_, detail)| *detail).collect();
        assert!(all.chars().all(|one| matches!(one, ' '..='~')), "{all:?}");
        assert_eq!(caught.state.boot.summary().command_line, None, "{words:?}");
    }
}

/// A kernel that locks itself down where it is told to, and is safe then.
fn on_request() -> Kernel {
    Kernel { release: "6.1".into(), modules_signed: true, lockdown: Lockdown::OnRequest, kexec: Kexec::Absent }
}

#[test]
fn a_line_that_is_measured_after_the_boot_lends_no_protection() {
    let locked = format!("{TOLD} lockdown=integrity");
    let log = Log::of(GOOD);
    let lines = Given { kernel: Some(on_request()), ..exact(&[TOLD, &locked]) };
    let strict_pair = |log: &Log| {
        let locked_log = Log::of(GOOD).told(&locked).bytes();
        let both = rules(&[GOOD, &locked_log], Given { attester: Some(AttesterIn::Initrd), ..lines.clone() });
        let mut pair = Pair::new(vec![release("1.0", 1, vec![both])]);
        pair.judge.policy = Policy::default();
        pair.boots(&log.bytes());
        pair
    };
    assert_affirmed(&strict_pair(&log.told(&locked)).shows(), "booted with lockdown");
    assert_eq!(codes(&strict_pair(&log).shows()), [Code::BootUnprotected]);
    // The same boot, and what the other line would have left in each place that measures lines.
    let options = log.find(9, EV_EVENT_TAG);
    let again = Event { digest: sha256(&wide(&format!("{locked}\0"))), ..log.events[options].clone() };
    let by_loader = [
        Event::new(12, EV_IPL, &wide(&format!("{locked}\0"))),
        Event {
            digest: sha256(locked.as_bytes()),
            ..Event::new(8, EV_IPL, format!("kernel_cmdline: {locked}").as_bytes())
        },
    ];
    for more in [vec![again.clone()], by_loader.to_vec(), [vec![again], by_loader.to_vec()].concat()] {
        let forged = log.with(|events| events.extend(more.iter().cloned()));
        let lied = strict_pair(&forged).shows();
        assert!(codes(&lied).contains(&Code::BootUnprotected), "{:?}", told(&lied));
    }
}

#[test]
fn another_initrd_is_caught_and_vouches_for_no_attester() {
    let log = Log::of(GOOD);
    let anchored = Given { attester: Some(AttesterIn::Initrd), ..exact(&[TOLD]) };
    let initrd = log.events[log.find(9, EV_EVENT_TAG) + 1].digest;
    let other = log.with(|events| {
        events.iter_mut().filter(|event| event.digest == initrd).for_each(|event| event.digest = EVIL);
    });
    let unanchored = |seen: &Appraisal| seen.tolerated.iter().any(|cause| cause.code == Code::RuntimeUnanchored);
    let mut pair = Pair::new(vec![release("1.0", 1, vec![rules(&[GOOD], anchored)])]);
    pair.boots(GOOD);
    let good = pair.shows();
    assert_affirmed(&good, "the release's initrd");
    assert!(!unanchored(&good));
    pair.boots(&other.bytes());
    let caught = pair.shows();
    assert_caught(&caught, Code::BootUnlistedEvent, "PCR 9, event 35, EV_EVENT_TAG");
    assert!(unanchored(&caught));
}

#[test]
fn a_boot_without_the_root_hash_vouches_for_no_attester_and_no_rule_can_say_so() {
    let hash = format!("{TOLD} roothash=ab12");
    let log = Log::of(GOOD).told(&hash);
    let verity = |lines: &[&str]| Given { attester: Some(AttesterIn::Verity), ..exact(lines) };
    let mut pair = Pair::new(vec![release("1.0", 1, vec![rules(&[&log.bytes()], verity(&[&hash]))])]);
    pair.boots(&log.bytes());
    assert_affirmed(&pair.shows(), "with its root hash");
    for line in [TOLD.to_owned(), format!("{TOLD} roothash=cd34"), format!("{hash} root=/dev/sda2")] {
        pair.boots(&Log::of(GOOD).told(&line).bytes());
        let caught = pair.shows();
        assert_caught(&caught, Code::BootCommandLine, "PCR 9, event 34");
        assert!(caught.tolerated.iter().any(|cause| cause.code == Code::RuntimeUnanchored), "{line}");
    }
    let made = |given: Given| BootRules::from_logs(&[EventLog::read(&log.bytes()).unwrap()], given).is_ok();
    let varying = |pattern: &str| {
        let mut given = verity(&[&hash]);
        given.command_lines.push(CommandLine::parse(pattern).unwrap());
        given
    };
    assert!(made(varying("quiet roothash=ab12")));
    for pattern in ["quiet", "roothash=*", "root=* roothash=ab12", "* roothash=ab12"] {
        assert!(!made(varying(pattern)), "{pattern}");
    }
}

#[test]
fn secure_boot_that_was_off_is_not_on_because_it_is_measured_once_more() {
    let log = Log::of(SECURE);
    let off = log.with_variable("SecureBoot", &[0]);
    let on = log.events[log.find_variable("SecureBoot")].clone();
    let mut pair = Pair::with_boot(SECURE, &off);
    assert_caught(&pair.shows(), Code::BootSecureBootOff, "proves that it was off");
    // Extended from the system, and told in the place of the true one or after it.
    let at = log.find_variable("SecureBoot");
    let lies = [
        off.with(|events| events.push(on.clone())),
        off.with(|events| {
            events[at].event_type = VENDOR;
            events.push(on.clone());
        }),
        off.with(|events| {
            events[at].data = on.data.clone();
            events.push(on.clone());
        }),
    ];
    for lie in lies {
        let mut pair = Pair::with_boot(SECURE, &off);
        pair.extends(7, &on.digest);
        let caught = pair.lies(&lie.bytes());
        assert_caught(&caught, Code::BootSecureBootOff, "");
        assert_caught(&caught, Code::BootUnlistedEvent, "PCR 7, event");
        assert_eq!(caught.state.boot.summary().secure_boot, None);
    }
}

#[test]
fn firmware_that_closes_no_pcr_proves_no_secure_boot() {
    let log = Log::of(GOOD).with(|events| {
        events.retain(|event| event.event_type != EV_SEPARATOR && event.pcr != 7);
    });
    let kernel = Kernel { lockdown: Lockdown::WithSecureBoot, ..on_request() };
    let given = Given { kernel: Some(kernel), attester: Some(AttesterIn::Initrd), ..exact(&[TOLD]) };
    let mut pair = Pair::new(vec![release("1.0", 1, vec![rules(&[&log.bytes()], given)])]);
    pair.judge.policy = Policy::default();
    let forged = log.with(|events| {
        events.push(variable(EFI_GLOBAL_VARIABLE, "SecureBoot", &[1]));
        events.push(variable(EFI_GLOBAL_VARIABLE, "PK", &hash_list([5; 32])));
    });
    pair.boots(&forged.bytes());
    let lied = pair.shows();
    assert!(codes(&lied).contains(&Code::BootUnprotected), "{:?}", told(&lied));
    assert_eq!(lied.state.boot.summary().secure_boot, None);
}

#[test]
fn a_dbx_that_forbids_less_and_a_db_that_allows_more_are_caught() {
    let log = Log::of(SECURE);
    let at = |name: &str| format!("PCR 7, event {}, {name} ", log.find_variable(name) + 1);
    let shrunk = log.with_variable("dbx", &[]);
    assert_caught(&Pair::with_boot(SECURE, &shrunk).shows(), Code::BootMissingEvent, &at("dbx"));
    for name in ["db", "KEK", "PK"] {
        let more = log.with_variable(name, &[log.variable(name), hash_list(EVIL)].concat());
        assert_caught(&Pair::with_boot(SECURE, &more).shows(), Code::BootUnlistedEvent, &at(name));
        let words = log.with_variable(name, b"no signature list");
        assert_caught(&Pair::with_boot(SECURE, &words).shows(), Code::BootUnlistedEvent, "PCR 7, event");
    }
}

#[test]
fn a_firmware_that_calls_itself_another_gains_nothing() {
    // What U-Boot measures stands elsewhere: a log that says it is U-Boot's moves no digest out of a rule's sight.
    let log = Log::of(GOOD);
    let version = log.find(0, EV_S_CRTM_VERSION);
    let lie = log.with(|events| {
        events[version].data = b"U-Boot 2024.01".to_vec();
        events.insert(version + 1, Event { pcr: 1, event_type: 0xA, digest: EVIL, data: TOLD.as_bytes().to_vec() });
    });
    let caught = Pair::with_boot(GOOD, &lie).shows();
    assert_caught(&caught, Code::BootCommandLine, "PCR 1, event 2");
}

// ---- What comes after the boot

#[test]
fn pcr_11_goes_on_by_phases_of_the_system_and_by_nothing_else() {
    let mut pair = Pair::booted(GOOD);
    for word in ["enter-initrd", "leave-initrd", "sysinit", "ready"] {
        pair.extends(11, &sha256(word.as_bytes()));
        assert_affirmed(&pair.shows(), word);
    }
    pair.extends(11, &sha256(b"evil"));
    assert_caught(&pair.shows(), Code::BootPcrMismatch, "PCR 11");
    // Told in the log, as more of what systemd-stub measures.
    let mut pair = Pair::booted(GOOD);
    pair.extends(11, &sha256(b"evil"));
    let lie = Log::of(GOOD).with(|events| events.push(Event::new(11, EV_IPL, b"evil")));
    assert_caught(&pair.lies(&lie.bytes()), Code::BootUnlistedEvent, "PCR 11, event 38");
}

#[test]
fn a_boot_pcr_that_is_extended_once_its_log_is_known_contradicts() {
    for pcr in 0..10 {
        let mut pair = Pair::booted(GOOD);
        assert_affirmed(&pair.shows(), "the boot");
        pair.extends(pcr, &EVIL);
        let silent = pair.attest_with(Attach::LogsFrom(0), &|_, bytes| bytes);
        assert_caught(&silent, Code::LogMismatch, &format!("PCR {pcr}"));
        // Without the log, which is held already.
        let mut pair = Pair::booted(GOOD);
        let log = pair.device.boot_log.clone();
        assert_affirmed(&pair.shows(), "the boot");
        pair.device.boot_log = None;
        pair.extends(pcr, &EVIL);
        assert_caught(&pair.shows(), Code::LogMismatch, &format!("PCR {pcr}"));
        // The log does not take that back.
        pair.device.boot_log = log;
        assert_caught(&pair.shows(), Code::LogMismatch, &format!("PCR {pcr}"));
    }
}

#[test]
fn a_second_log_within_a_boot_makes_good_nothing_that_the_first_showed() {
    let log = Log::of(GOOD);
    let loader = log.find(4, EV_EFI_BOOT_SERVICES_APPLICATION);
    let evil = log.with(|events| events[loader].digest = EVIL);
    let mut pair = Pair::with_boot(GOOD, &evil);
    let caught = pair.shows();
    assert_caught(&caught, Code::BootUnlistedEvent, "PCR 4, event 24");
    assert!(caught.acknowledged.boot_log);
    for event_type in [VENDOR, EV_EFI_VARIABLE_BOOT, EV_SEPARATOR] {
        let other = evil.with(|events| events[loader].event_type = event_type);
        assert_eq!(pair.lies(&other.bytes()).state.verdict, Verdict::Contraindicated);
    }
    // And a good boot is not better for another log.
    let mut pair = Pair::booted(GOOD);
    assert_affirmed(&pair.shows(), "the boot");
    assert_caught(&pair.lies(&evil.bytes()), Code::LogMismatch, "PCR 4");
    assert_caught(&pair.shows(), Code::LogMismatch, "PCR 4");
}

#[test]
fn entries_of_the_runtime_log_that_are_passed_off_as_the_boot_s_are_caught() {
    let mut pair = Pair::booted(GOOD);
    pair.device.run("/tmp/implant", EVIL);
    // The log of what ran is gone; its extensions stand in the boot log.
    let start = pair.device.pcrs[14];
    pair.boots(GOOD);
    pair.device.run("/tmp/implant", EVIL);
    assert_eq!(pair.device.pcrs[14], start);
    let mut digests = Vec::new();
    let message = pair.device.attest(&[pair.judge.challenge()], Attach::LogsFrom(0));
    let envelope = evidence::envelope::Envelope::decode(&message).unwrap();
    let authentic = envelope.verify(&pair.device.keys).unwrap();
    let runtime = &authentic.attachment(LogKind::Runtime).unwrap().bytes;
    let mut entries = evidence::runtime_log::entries(runtime, 14, 0);
    while let Some((_, digest)) = entries.measured().transpose().unwrap() {
        digests.push(digest);
    }
    for event_type in [EV_IPL, VENDOR, EV_EVENT_TAG] {
        let lie = Log::of(GOOD).with(|events| {
            events.extend(
                digests.iter().map(|digest| Event { digest: *digest, ..Event::new(14, event_type, b"MokList") }),
            );
        });
        pair.device.lose_runtime_log();
        pair.judge.state = None;
        assert_caught(&pair.lies(&lie.bytes()), Code::BootUnlistedEvent, "PCR 14, event 38");
    }
}

#[test]
fn a_list_of_ima_that_is_of_another_boot_contradicts() {
    let mut pair = Pair::booted(GOOD);
    let aggregate = |pair: &Pair| sha256(pair.device.pcrs[..10].as_flattened());
    let own = aggregate(&pair);
    pair.device.measure("boot_aggregate", own);
    assert_affirmed(&pair.shows(), "its own list");
    pair.boots(&Log::of(GOOD).told("init=/bin/sh").bytes());
    let other = aggregate(&pair);
    pair.boots(GOOD);
    pair.device.measure("boot_aggregate", other);
    assert_caught(&pair.shows(), Code::LogMismatch, "its boot_aggregate is of another boot");
}

#[test]
fn a_kernel_started_without_a_boot_hides_nothing_of_what_ran_before_or_after() {
    let mut pair = Pair::booted(GOOD);
    pair.device.measure("/bin/init", INIT);
    assert_affirmed(&pair.shows(), "before");
    // An implant between the last evidence and the second kernel, which the list of the first one told.
    pair.device.measure("/tmp/implant", EVIL);
    pair.device.kexec();
    pair.device.measure("/bin/init", INIT);
    let lied = pair.shows();
    assert_eq!((lied.state.verdict, codes(&lied)[0]), (Verdict::Unknown, Code::LogIncomplete), "{:?}", told(&lied));
    // A list made up to go on from where the first stood: what was extended has to be in it.
    let mut pair = Pair::booted(GOOD);
    pair.device.measure("/bin/init", INIT);
    pair.shows();
    pair.device.kexec();
    pair.device.measure("/tmp/implant", EVIL);
    assert_caught(&pair.shows(), Code::RuntimeUnknownExecutable, "/tmp/implant");
    pair.boots(GOOD);
    assert_affirmed(&pair.shows(), "the next boot");
}

#[test]
fn a_boot_that_claims_to_be_a_resume_needs_a_log_of_its_own() {
    let evil = Log::of(GOOD).told("init=/bin/sh").bytes();
    // restartCount goes up as for a resume; PCRs are another boot's.
    let mut pair = Pair::booted(GOOD);
    assert!(pair.shows().acknowledged.boot_log);
    pair.device.restart();
    pair.runs(&evil);
    pair.device.boot_log = None;
    let silent = pair.shows();
    assert!(silent.new_boot && !silent.acknowledged.boot_log);
    assert_eq!(silent.state.verdict, Verdict::Unknown, "{:?}", told(&silent));
    pair.device.boot_log = Some(GOOD.to_vec());
    assert_caught(&pair.shows(), Code::LogMismatch, "PCR 9");
    // PCRs of boots that differ only in what the kernel did not measure: the log of what ran began anew.
    let mut pair = Pair::booted(GOOD);
    pair.shows();
    pair.device.restart();
    pair.device.boots_by(GOOD);
    pair.device.run("/tmp/implant", EVIL);
    pair.device.boot_log = None;
    let silent = pair.shows();
    assert!(silent.new_boot && silent.state.verdict != Verdict::Affirmed, "{:?}", told(&silent));
}

// ---- What looks like a lie and is none

#[test]
fn firmware_that_was_updated_is_good_by_a_second_release_while_the_old_one_is() {
    let old = Log::of(SECURE);
    let updated = old.with(|events| {
        events.iter_mut().filter(|event| event.pcr == 0).for_each(|event| {
            if event.event_type != EV_SEPARATOR {
                event.digest = sha256(&event.digest);
            }
        });
    });
    let (old, updated) = (old.bytes(), updated.bytes());
    let from = 1_800_000_000 + 3 * MINUTE;
    let first = release("1.0", 1, vec![rules(&[&old], exact(&[TOLD]))]);
    let second = release("1.1", 2, vec![rules(&[&old, &updated], exact(&[TOLD]))]).valid(Some(from), None).unwrap();
    let mut pair = Pair::new(vec![first, second]);
    pair.boots(&updated);
    assert_caught(&pair.shows(), Code::BootUnlistedEvent, "release 1.0: PCR 0");
    pair.boots(&old);
    assert_affirmed(&pair.shows(), "the old firmware, before the second release counts");
    // Once it counts, the very boot that was held against it before is good.
    pair.boots(&updated);
    pair.shows();
    pair.judge.now += 5 * MINUTE;
    pair.device.pass(5 * MINUTE);
    assert_affirmed(&pair.attest(Attach::Nothing), "the new firmware");
    pair.boots(&old);
    assert_affirmed(&pair.shows(), "the old one, during the roll-out");
}

#[test]
fn the_owner_s_boot_entries_and_a_dbx_that_grows_raise_no_alarm() {
    let log = Log::of(SECURE);
    let order = log.find(1, EV_EFI_VARIABLE_BOOT);
    let entries = log.with(|events| {
        events[order] = Event::new(1, EV_EFI_VARIABLE_BOOT, b"another order");
        events.insert(order + 1, Event::new(1, EV_EFI_VARIABLE_BOOT, b"one entry more"));
    });
    assert_affirmed(&Pair::with_boot(SECURE, &entries).shows(), "boot order");
    let grown = [log.variable("dbx"), hash_list([5; 32]), hash_list([6; 32])].concat();
    let mut pair = Pair::with_boot(SECURE, &log.with_variable("dbx", &grown));
    assert_affirmed(&pair.shows(), "dbx");
    // Less than the release has in common is another thing, and so is a key less in db: that allows no more.
    let fewer = log.with_variable("db", &[]);
    assert_affirmed(&Pair::with_boot(SECURE, &fewer).shows(), "db with less");
}

#[test]
fn reference_values_that_change_within_a_boot_raise_no_alarm_whether_the_log_is_kept_or_not() {
    let first = || release("1.0", 1, vec![rules(&[GOOD], exact(&[TOLD]))]);
    for kept in [true, false] {
        let mut pair = Pair::new(vec![first()]);
        pair.boots(GOOD);
        assert_affirmed(&pair.shows(), "the boot");
        if !kept {
            pair.judge.boot_log = None;
        }
        let more = vec![first(), release("2.0", 2, vec![rules(&[SECURE], exact(&[TOLD]))])];
        pair.judge.references = index(more.into_iter().map(sign).collect());
        let next = pair.attest(Attach::Nothing);
        if !kept {
            assert_eq!((next.state.verdict, next.acknowledged.boot_log), (Verdict::Unknown, false));
            assert_affirmed(&pair.shows(), "sent once more");
            continue;
        }
        assert_affirmed(&next, "judged again");
    }
}

#[test]
fn a_verifier_that_saw_no_boot_log_asks_for_it_and_raises_no_alarm() {
    let mut pair = Pair::booted(GOOD);
    assert_affirmed(&pair.shows(), "the first verifier");
    let values = vec![release("1.0", 1, vec![rules(&[GOOD], exact(&[TOLD]))])];
    let mut second = Judge::new(pair.device.keys, index(values.into_iter().map(sign).collect()));
    second.now = pair.judge.now;
    let message = pair.device.attest(&[second.challenge()], Attach::Nothing);
    let blind = second.take(&message).unwrap();
    assert_eq!((blind.state.verdict, blind.acknowledged.boot_log), (Verdict::Unknown, false), "{:?}", told(&blind));
    let message = pair.device.attest(&[second.challenge()], Attach::LogsFrom(0));
    assert_affirmed(&second.take(&message).unwrap(), "the second verifier");
}

#[test]
fn a_device_that_boots_sleeps_hibernates_or_loses_power_out_of_sight_raises_no_alarm() {
    let mut pair = Pair::booted(GOOD);
    pair.judge.policy.unseen_boots = 3;
    assert_affirmed(&pair.shows(), "the first boot");
    for _ in 0..4 {
        pair.boots(GOOD);
    }
    let back = pair.shows();
    assert_affirmed(&back, "three boots that nobody saw");
    assert!(back.new_boot);
    // Sleep: PCRs and logs go on, under another restartCount.
    pair.device.resume();
    let woken = pair.attest(Attach::Nothing);
    assert_affirmed(&woken, "sleep");
    assert!(!woken.new_boot && woken.acknowledged.boot_log);
    pair.device.run("/bin/init", INIT);
    pair.device.resume();
    assert_affirmed(&pair.attest(Attach::LogsFrom(1)), "sleep, and a program since");
    // Hibernation: firmware, loader and kernel were measured anew, under the same resetCount.
    pair.device.restart();
    pair.runs(GOOD);
    let hibernated = pair.shows();
    assert_affirmed(&hibernated, "hibernation");
    assert!(hibernated.new_boot && hibernated.new_boot_log);
    pair.boots(GOOD);
    pair.device.safe = false;
    assert_affirmed(&pair.shows(), "a power cut");
}

#[test]
fn systemd_s_phases_raise_no_alarm_however_far_they_came_and_after_a_soft_reboot() {
    let phases = ["enter-initrd", "leave-initrd", "sysinit", "ready", "shutdown", "final"];
    for begin in 0..phases.len() {
        let mut pair = Pair::booted(GOOD);
        for word in &phases[begin..] {
            pair.extends(11, &sha256(word.as_bytes()));
            assert_affirmed(&pair.shows(), word);
        }
        for word in ["sysinit", "ready", "shutdown", "final", "sysinit", "ready"] {
            pair.extends(11, &sha256(word.as_bytes()));
            let again = pair.shows();
            assert!(begin > 2 || again.state.verdict == Verdict::Affirmed, "{word}: {:?}", told(&again));
        }
    }
}

#[test]
fn machines_of_every_kind_meet_the_rules_made_from_their_own_logs() {
    let uefi = "root=/dev/mmcblk0p2 ro";
    for (name, line) in [
        ("shim-grub", Some(TOLD_BY_GRUB)),
        ("systemd-boot", Some("root=/dev/sda2 ro")),
        ("u-boot-efi", Some(uefi)),
        ("u-boot", None),
        ("tf-a", None),
        ("coreboot", None),
    ] {
        let path = format!("{}/vectors/boot/handmade/{name}/eventlog.bin", env!("CARGO_MANIFEST_DIR"));
        let log = std::fs::read(path).unwrap();
        let lines = line.map_or_else(Given::default, |line| exact(&[line]));
        let mut pair = Pair::new(vec![release("1.0", 1, vec![rules(&[&log], lines)])]);
        pair.boots(&log);
        let own = pair.shows();
        assert_affirmed(&own, name);
        assert!(own.new_boot_log && own.state.release.as_deref() == Some("1.0"), "{name}");
        // Without kernel configuration nothing is shown, and a strict policy says so and no more.
        pair.judge.policy = Policy::default();
        let strict = pair.shows();
        assert_eq!(codes(&strict), [Code::BootUnprotected, Code::RuntimeUnanchored], "{name}");
    }
}
