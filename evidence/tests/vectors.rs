//! Logs of real boots (tests/vectors/README.md) replay to the values that the TPM itself had.

use std::{fs, path::PathBuf};

use evidence::{
    eventlog::{EventLog, Format, Replay},
    ima,
    pcr::{HashAlgorithm, sha256},
};

const BOOTS: [&str; 8] = [
    "qemu-good1",
    "qemu-cmdline",
    "qemu-direct-kernel",
    "qemu-secureboot",
    "qemu-unknown-binary",
    "qemu-violation",
    "qemu-ima-ngv2",
    "qemu-ima-sig",
];
const START: [u8; 32] = [0; 32];

struct Boot {
    name: &'static str,
    folder: PathBuf,
}

impl Boot {
    fn all() -> impl Iterator<Item = Self> {
        BOOTS.into_iter().map(Self::named)
    }

    fn named(name: &'static str) -> Self {
        Self { name, folder: [env!("CARGO_MANIFEST_DIR"), "../tests/vectors/boot", name].iter().collect() }
    }

    fn file(&self, name: &str) -> Vec<u8> {
        fs::read(self.folder.join(name)).unwrap_or_else(|error| panic!("{}/{name}: {error}", self.name))
    }

    /// SHA-256 PCR as read from the TPM before the quote.
    fn pcr(&self, index: u32) -> [u8; 32] {
        let text = String::from_utf8(self.file("pcrs.json")).unwrap();
        let hex = text.split(&format!("\"{index}\": \"")).nth(1).unwrap().split('"').next().unwrap();
        let bytes = (0..64).step_by(2).map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap());
        bytes.collect::<Vec<_>>().try_into().unwrap()
    }

    fn boot_log(&self) -> Replay {
        let bytes = self.file("eventlog.bin");
        let log = EventLog::read(&bytes).unwrap();
        assert_eq!(log.format(), Format::CryptoAgile);
        log.inspect().unwrap()
    }
}

#[test]
fn boot_logs_replay_to_the_pcrs_of_the_tpm() {
    for boot in Boot::all() {
        let replay = boot.boot_log();
        assert_eq!(replay.problems, [], "{}", boot.name);
        let bank = &replay.banks[&HashAlgorithm::Sha256];
        assert!(bank.len() >= 9, "{}", boot.name);
        for (index, value) in bank {
            assert_eq!(value[..], boot.pcr(*index), "{} PCR {index}", boot.name);
        }
    }
}

#[test]
fn one_bank_replays_to_the_same_as_all() {
    for boot in Boot::all() {
        let bytes = boot.file("eventlog.bin");
        let one = EventLog::read(&bytes).unwrap().replay(Some(HashAlgorithm::Sha256)).unwrap();
        assert_eq!(one.banks[&HashAlgorithm::Sha256], boot.boot_log().banks[&HashAlgorithm::Sha256]);
    }
}

#[test]
fn ima_lists_replay_to_pcr_10() {
    for boot in Boot::all() {
        let list = boot.file("ima.bin");
        let target = boot.pcr(ima::DEFAULT_PCR);
        let prefix = ima::shortest_prefix(&list, ima::DEFAULT_PCR, &START, &target).unwrap();
        assert!(prefix.reached, "{}", boot.name);
        let replay = ima::replay(&list[..prefix.bytes]).unwrap();
        assert_eq!(replay.problems, [], "{}", boot.name);
        assert_eq!(replay.entries, prefix.entries);
        assert_eq!(replay.banks[&HashAlgorithm::Sha256][&ima::DEFAULT_PCR], target);
    }
}

#[test]
fn the_boot_aggregate_is_the_hash_of_pcr_0_to_9() {
    for boot in Boot::all() {
        let pcrs: Vec<u8> = (0..10).flat_map(|index| boot.pcr(index)).collect();
        let expected = sha256(&pcrs);
        let list = boot.file("ima.bin");
        let first = ima::entries(&list).next().unwrap().unwrap();
        assert_eq!((first.fields.path, first.fields.digest.unwrap().bytes), (&b"boot_aggregate"[..], &expected[..]));
    }
}

#[test]
fn violations_templates_and_names_are_read() {
    let replay = |name| ima::replay(&Boot::named(name).file("ima.bin")).unwrap();
    assert_eq!(replay("qemu-violation").violations, 2);
    assert_eq!(replay("qemu-good1").violations, 0);
    assert_eq!(replay("qemu-good1").templates["ima-ng"], 44);
    assert_eq!(replay("qemu-ima-sig").templates["ima-sig"], 44);
    assert_eq!(replay("qemu-ima-ngv2").templates["ima-ngv2"], 44);
    let list = Boot::named("qemu-unknown-binary").file("ima.bin");
    assert!(ima::entries(&list).any(|entry| entry.unwrap().fields.path == b"/opt/unknown"));
}

#[test]
fn a_bit_flipped_in_an_extended_digest_changes_the_replay() {
    let boot = Boot::named("qemu-good1");
    let bytes = boot.file("eventlog.bin");
    let whole = boot.boot_log();
    for event in EventLog::read(&bytes).unwrap().events().map(Result::unwrap).filter(|event| event.extends()) {
        let digest = event.digest(HashAlgorithm::Sha256).unwrap();
        let at = bytes.windows(32).position(|window| std::ptr::eq(window.as_ptr(), digest.as_ptr())).unwrap();
        let mut forged = bytes.clone();
        forged[at] ^= 1;
        let replay = EventLog::read(&forged).unwrap().replay(None).unwrap();
        assert_ne!(replay.banks, whole.banks, "event {}", event.index);
    }
}

#[test]
fn each_artefact_looks_like_itself_only() {
    for boot in Boot::all() {
        let (log, list) = (boot.file("eventlog.bin"), boot.file("ima.bin"));
        assert!(evidence::eventlog::looks_like(&log) && !ima::looks_like(&log), "{}", boot.name);
        assert!(ima::looks_like(&list) && !evidence::eventlog::looks_like(&list), "{}", boot.name);
        for bytes in [&log, &list] {
            assert!(evidence::runtime_log::looks_like(bytes).is_none(), "{}", boot.name);
        }
    }
}
