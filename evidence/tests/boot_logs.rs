//! Boot logs of every kind (tests/vectors/boot/README.md) against values that something else computed, and against what
//! a damaged or hostile log looks like.

use std::{collections::BTreeMap, fs, path::PathBuf, time::Instant};

use evidence::{
    eventlog::{self, Content, EventLog, Format, Proof, event_type_name},
    pcr::HashAlgorithm,
};
use proptest::prelude::*;

fn vector(name: &str, file: &str) -> Vec<u8> {
    let path: PathBuf = [env!("CARGO_MANIFEST_DIR"), "../tests/vectors/boot", name, file].iter().collect();
    fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

const HANDMADE: [&str; 8] =
    ["coreboot", "profile-1.06", "sha1-bios", "shim-grub", "systemd-boot", "tf-a", "u-boot", "u-boot-efi"];

fn handmade(name: &str) -> Vec<u8> {
    vector(&format!("handmade/{name}"), "eventlog.bin")
}

/// `pcrs.json` of a handmade log: a bank or a value a line.
fn expected(name: &str) -> BTreeMap<String, BTreeMap<u32, String>> {
    let text = String::from_utf8(vector(&format!("handmade/{name}"), "pcrs.json")).unwrap();
    let mut banks = BTreeMap::<String, BTreeMap<u32, String>>::new();
    let mut bank = String::new();
    for line in text.lines() {
        match line.split('"').collect::<Vec<_>>()[..] {
            [_, "pcrs", _] => {}
            [_, name, _] => bank = name.to_owned(),
            [_, pcr, _, value, _] => {
                banks.entry(bank.clone()).or_default().insert(pcr.parse().unwrap(), value.to_owned());
            }
            _ => {}
        }
    }
    banks
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// `PCR TYPE CONTENT` and what the preferred digest proves, an event a line.
fn listing(log: &[u8]) -> Vec<(String, Proof)> {
    let line = |event: eventlog::Event<'_>| {
        let name = event_type_name(event.event_type).unwrap();
        let proof = event.preferred_digest().map_or(Proof::Nothing, |(algorithm, _)| event.proof(algorithm));
        (format!("{} {name} {}", event.pcr, event.content()), proof)
    };
    EventLog::read(log).unwrap().events().map(|event| line(event.unwrap())).collect()
}

#[test]
fn handmade_logs_replay_to_the_values_computed_beside_them() {
    for name in HANDMADE {
        let bytes = handmade(name);
        assert!(eventlog::looks_like(&bytes), "{name}");
        let replay = EventLog::read(&bytes).unwrap().inspect().unwrap();
        let ours: BTreeMap<_, BTreeMap<_, _>> = replay
            .banks
            .iter()
            .map(|(bank, values)| {
                (bank.name().to_owned(), values.iter().map(|(pcr, value)| (*pcr, hex(value))).collect())
            })
            .collect();
        assert_eq!(ours, expected(name), "{name}");
        let codes: Vec<_> = replay.problems.iter().map(|problem| problem.code).collect();
        let odd: &[&str] = match name {
            "coreboot" | "sha1-bios" | "u-boot" => &["eventlog.padding"],
            "shim-grub" => &["eventlog.bank-not-computed"],
            _ => &[],
        };
        assert_eq!(codes, odd, "{name}");
    }
}

#[test]
fn formats_are_told_apart() {
    for name in HANDMADE {
        let format = match name {
            "coreboot" => Format::Coreboot,
            "sha1-bios" => Format::Sha1,
            _ => Format::CryptoAgile,
        };
        assert_eq!(EventLog::read(&handmade(name)).unwrap().format(), format, "{name}");
    }
}

#[test]
fn every_event_of_a_vector_says_something_that_can_be_printed() {
    for name in HANDMADE {
        for (line, _) in listing(&handmade(name)) {
            assert!(line.len() < 400 && !line.contains(char::is_control), "{name}: {line}");
        }
    }
}

#[test]
fn what_loaders_and_firmware_log_is_told_with_its_proof() {
    let has = |name: &str, line: &str, proof: Proof| {
        let all = listing(&handmade(name));
        assert!(all.iter().any(|(found, of)| found == line && *of == proof), "{name}: no {proof:?} {line} in {all:#?}");
    };
    has("u-boot", "8 EV_COMPACT_HASH \"linux\"", Proof::Nothing);
    has("u-boot", "1 EV_PLATFORM_CONFIG_FLAGS \"console=ttyAMA0 root=/dev/mmcblk0p2 ro\"", Proof::Whole);
    has("u-boot", "7 EV_SEPARATOR separator 0xffffffff", Proof::Whole);
    has(
        "u-boot-efi",
        "1 EV_EFI_HANDOFF_TABLES2 tables \"SmbiosTable\" [eb9d2d31-2d88-11d3-9a16-0090273fc14d]",
        Proof::Whole,
    );
    let global = "(8be4df61-93ca-11d2-aa0d-00e098032b8c)";
    has("u-boot-efi", &format!("1 EV_EFI_VARIABLE_BOOT2 variable BootOrder {global} order=[0000, 0002]"), Proof::Whole);
    has(
        "shim-grub",
        &format!("1 EV_EFI_VARIABLE_BOOT variable BootOrder {global} order=[0001, 0000]"),
        Proof::Unlabelled,
    );
    has("tf-a", "0 EV_NO_ACTION StartupLocality 0", Proof::Nothing);
    has("tf-a", "0 EV_POST_CODE \"SECURE_RT_EL3\"", Proof::Nothing);
    has("coreboot", "2 EV_ACTION \"CBFS: fallback/payload\"", Proof::Nothing);
    has("shim-grub", "14 EV_IPL \"MokListX\"", Proof::Nothing);
    has(
        "shim-grub",
        "7 EV_EFI_VARIABLE_AUTHORITY variable SbatLevel (605dab50-e046-4300-abb6-3dd810dd8b23) data=\"sbat,1,2021030218\\n\"",
        Proof::Whole,
    );
    has(
        "shim-grub",
        "7 EV_EFI_VARIABLE_AUTHORITY variable Shim (605dab50-e046-4300-abb6-3dd810dd8b23) data=\"a certificate of the distribution\"",
        Proof::Whole,
    );
    has("shim-grub", "0 EV_EFI_PLATFORM_FIRMWARE_BLOB2 blob \"POST\" base=0xffc00000 length=4194304", Proof::Nothing);
    has("systemd-boot", "11 EV_IPL \".cmdline\"", Proof::Whole);
    has("systemd-boot", "11 EV_IPL \".cmdline\"", Proof::Nothing);
    has("systemd-boot", "12 EV_IPL \"root=/dev/sda2 rw systemd.debug_shell\"", Proof::Whole);
    has("systemd-boot", "8 EV_IPL \"initrd=\\\\initrd.img root=/dev/sda2 rw\"", Proof::Whole);
    has("systemd-boot", "5 EV_EVENT_TAG tag 0xf5bc582a (systemd loader.conf) \"loader.conf\"", Proof::Nothing);
    has("profile-1.06", "0 EV_SEPARATOR error separator 0x00000001", Proof::Whole);
    has("profile-1.06", "7 EV_EFI_ACTION \"UEFI Debug Mode\"", Proof::Whole);
    has("profile-1.06", "2 EV_EFI_SPDM_FIRMWARE_BLOB SPDM Device Sec2 020000000400000001020304", Proof::Whole);
}

#[test]
fn command_lines_of_every_loader_are_held_against_a_text() {
    for (name, pcrs, text) in [
        ("shim-grub", &[8][..], "/vmlinuz root=/dev/sda2 ro quiet"),
        ("shim-grub", &[9], "BOOT_IMAGE=/vmlinuz root=/dev/sda2 ro quiet"),
        ("systemd-boot", &[11, 9], "root=/dev/sda2 ro"),
        ("systemd-boot", &[12], "root=/dev/sda2 rw systemd.debug_shell"),
        ("u-boot-efi", &[9], "root=/dev/mmcblk0p2 ro"),
        ("u-boot", &[1], "console=ttyAMA0 root=/dev/mmcblk0p2 ro"),
    ] {
        let bytes = handmade(name);
        let events = EventLog::read(&bytes).unwrap().events().map(Result::unwrap);
        let found: Vec<_> = events.filter(|event| event.command_line().is_some_and(|line| line.is(text))).collect();
        assert_eq!(found.iter().map(|event| event.pcr).collect::<Vec<_>>(), pcrs, "{name}: {text}");
    }
    for boot in ["qemu-good1", "qemu-secureboot", "qemu-direct-kernel"] {
        let bytes = vector(boot, "eventlog.bin");
        let events = EventLog::read(&bytes).unwrap().events().map(Result::unwrap);
        let found: Vec<_> = events.filter_map(|event| Some((event.pcr, event.command_line()?))).collect();
        assert!(!found.is_empty(), "{boot}");
        // The firmware's stub and the kernel's measured the same text, which the log does not hold.
        for (pcr, line) in &found {
            assert!(matches!(pcr, 9 | 11) && line.text().is_none(), "{boot} PCR {pcr}");
        }
    }
}

#[test]
fn the_command_line_of_a_real_boot_is_told_from_another() {
    const GOOD: &str = "console=ttyS0 panic=-1 quiet ima_policy=tcb ima_template=ima-ng ima_hash=sha256";
    const OTHER: &str =
        "console=ttyS0 panic=-1 quiet ima_policy=tcb ima_hash=sha256 ima_template=ima-ng init_on_alloc=0";
    for (boot, text, other) in [("qemu-good1", GOOD, OTHER), ("qemu-cmdline", OTHER, GOOD)] {
        let bytes = vector(boot, "eventlog.bin");
        let events = EventLog::read(&bytes).unwrap().events().map(Result::unwrap);
        let found: Vec<_> = events.filter_map(|event| Some((event.pcr, event.command_line()?))).collect();
        assert_eq!(found.iter().map(|(pcr, _)| *pcr).collect::<Vec<_>>(), [11, 9], "{boot}");
        assert!(found.iter().all(|(_, line)| line.is(text) && !line.is(other)), "{boot}");
    }
}

#[test]
fn a_real_log_cut_anywhere_is_refused_with_a_position_or_ends_with_a_whole_event() {
    let bytes = vector("qemu-good1", "eventlog.bin");
    let ends = ends(&bytes);
    for cut in 0..bytes.len() {
        let replay = EventLog::read(&bytes[..cut]).and_then(|log| log.inspect());
        match replay {
            Ok(replay) => assert_eq!(ends.get(replay.events - 1), Some(&cut), "cut at {cut}"),
            Err(error) => assert!(error.at <= cut && !ends.contains(&cut), "cut at {cut}: {error}"),
        }
    }
}

/// Where each event of a log ends: the data of an event is its end.
fn ends(bytes: &[u8]) -> Vec<usize> {
    let end = |data: &[u8]| data.as_ptr().addr() + data.len() - bytes.as_ptr().addr();
    EventLog::read(bytes).unwrap().events().map(|event| end(event.unwrap().data)).collect()
}

#[test]
fn a_length_past_the_end_is_refused_at_the_length() {
    let bytes = vector("qemu-good1", "eventlog.bin");
    let events: Vec<_> = EventLog::read(&bytes).unwrap().events().map(Result::unwrap).collect();
    for (event, end) in events.iter().zip(ends(&bytes)) {
        let at = end - event.data.len() - 4;
        for length in [u32::MAX, 0x8000_0000, u32::try_from(bytes.len()).unwrap()] {
            let mut bad = bytes.clone();
            bad[at..at + 4].copy_from_slice(&length.to_le_bytes());
            let error = EventLog::read(&bad).and_then(|log| log.replay(None)).unwrap_err();
            assert_eq!(error.at, at, "event {} with {length}", event.index);
        }
    }
}

#[test]
fn a_digest_of_an_undeclared_algorithm_is_refused_at_it() {
    let bytes = vector("qemu-good1", "eventlog.bin");
    let second = ends(&bytes)[0] + 12;
    for (count, algorithm, at) in [(1_u32, 0x0027_u16, second), (1, 0xFFFF, second), (17, 0x000B, second - 4)] {
        let mut bad = bytes.clone();
        bad[second - 4..second].copy_from_slice(&count.to_le_bytes());
        bad[second..second + 2].copy_from_slice(&algorithm.to_le_bytes());
        assert_eq!(EventLog::read(&bad).unwrap().replay(None).unwrap_err().at, at);
    }
}

#[test]
fn ten_megabytes_of_nothing_are_refused_at_once() {
    let begun = Instant::now();
    for fill in [0x00, 0xFF, 0x01, b'A'] {
        let bytes = vec![fill; 10 << 20];
        let read = EventLog::read(&bytes).and_then(|log| log.inspect());
        assert!(read.is_err() && !eventlog::looks_like(&bytes), "{fill}");
    }
    // A log is still one with as much unused area behind it.
    let padded = [vector("qemu-good1", "eventlog.bin"), vec![0; 10 << 20]].concat();
    assert_eq!(EventLog::read(&padded).unwrap().replay(None).unwrap().events, 38);
    assert!(begun.elapsed().as_secs() < 10);
}

#[test]
fn a_doubled_separator_is_read_and_leads_elsewhere() {
    let bytes = vector("qemu-good1", "eventlog.bin");
    let log = EventLog::read(&bytes).unwrap();
    let (whole, ends) = (log.replay(None).unwrap(), ends(&bytes));
    for event in log.events().map(Result::unwrap).filter(|event| event.event_type == eventlog::EV_SEPARATOR) {
        let separator = &bytes[ends[event.index - 1]..ends[event.index]];
        let doubled = [&bytes[..ends[event.index]], separator, &bytes[ends[event.index]..]].concat();
        let replay = EventLog::read(&doubled).unwrap().inspect().unwrap();
        assert_eq!((replay.events, replay.problems.as_slice()), (whole.events + 1, &[][..]));
        assert_ne!(replay.sha256(event.pcr), whole.sha256(event.pcr), "PCR {}", event.pcr);
    }
}

/// What must hold of any event, whatever its data is.
fn check(event: &eventlog::Event<'_>) {
    let text = event.content().to_string();
    assert!(!text.contains(char::is_control) && text.len() < 64 * 1024);
    for algorithm in [HashAlgorithm::Sha1, HashAlgorithm::Sha256, HashAlgorithm::Sha384, HashAlgorithm::Sha512] {
        assert!(event.proof(algorithm) == Proof::Nothing || event.digest(algorithm).is_some());
    }
    if let Some(line) = event.command_line() {
        assert!(line.text().is_none_or(|text| line.is(&text)));
    }
    if let Content::Variable(variable) = event.content() {
        let entries: Vec<_> = eventlog::signatures(variable.data).collect();
        assert!(entries.len() <= variable.data.len() + 1);
        assert!(entries.iter().rev().skip(1).all(Result::is_ok), "nothing follows an error");
    }
}

#[test]
fn every_byte_of_a_vector_may_be_another() {
    for name in HANDMADE {
        let bytes = handmade(name);
        // The longer logs repeat themselves.
        let step = if bytes.len() < 3_000 { 1 } else { 5 };
        for at in (0..bytes.len()).step_by(step) {
            for change in [0x01, 0xFF] {
                let mut changed = bytes.clone();
                changed[at] ^= change;
                let Ok(log) = EventLog::read(&changed) else { continue };
                // Events around the change: the others are as they were.
                let touches = |event: &eventlog::Event<'_>| {
                    let start = event.data.as_ptr().addr() - changed.as_ptr().addr();
                    start + event.data.len() + 128 > at && start < at + 512
                };
                log.events().map_while(Result::ok).filter(touches).for_each(|event| check(&event));
            }
        }
    }
}

/// A crypto-agile log of one event with a digest that is, or is not, the hash of its data.
fn one_event(pcr: u32, event_type: u32, data: &[u8], hashed: bool) -> Vec<u8> {
    let bank = [&0xB_u16.to_le_bytes()[..], &32_u16.to_le_bytes(), &[0]].concat();
    let spec_id = [&b"Spec ID Event03\0"[..], &[0, 0, 0, 0, 0, 2, 0, 2], &1_u32.to_le_bytes(), &bank].concat();
    let size = |bytes: &[u8]| u32::try_from(bytes.len()).unwrap().to_le_bytes();
    let first = [&[0; 4][..], &3_u32.to_le_bytes(), &[0; 20], &size(&spec_id), &spec_id].concat();
    let digest = if hashed { evidence::pcr::sha256(data) } else { [7; 32] };
    let head = [pcr, event_type, 1].map(u32::to_le_bytes);
    [&first[..], head.as_flattened(), &0xB_u16.to_le_bytes(), &digest, &size(data), data].concat()
}

fn known_types() -> Vec<u32> {
    (0..0x20).chain(0x8000_0000..0x8000_0100).filter(|event_type| event_type_name(*event_type).is_some()).collect()
}

proptest! {
    #[test]
    fn any_data_of_any_type_is_shown(
        event_type in proptest::sample::select(known_types()),
        pcr in 0_u32..16,
        hashed: bool,
        data in proptest::collection::vec(prop_oneof![Just(0_u8), Just(1), Just(0xFF), any::<u8>()], 0..400),
    ) {
        let log = one_event(pcr, event_type, &data, hashed);
        check(&EventLog::read(&log).unwrap().events().nth(1).unwrap().unwrap());
    }

    #[test]
    fn any_bytes_are_refused_or_read(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
        if let Ok(log) = EventLog::read(&bytes) {
            log.events().map_while(Result::ok).for_each(|event| check(&event));
            let _ = log.inspect();
        }
    }
}
