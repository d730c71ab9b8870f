//! Logs that are not what the PCRs hold, and programs that no release lists.

use appraisal::{Appraisal, Code, Verdict};
use devices::{
    judge::{Judge, references, signed},
    software::{Attach, SoftwareDevice},
};
use evidence::claims::{Claims, LogClaim, LogKind};

const INIT: [u8; 32] = [1; 32];
const SHELL: [u8; 32] = [2; 32];

fn honest() -> (SoftwareDevice, Judge) {
    let mut device = SoftwareDevice::new();
    device.run("/bin/init", INIT);
    device.run("/bin/sh", SHELL);
    let values = references("1.0", &[("/bin/init", INIT), ("/bin/sh", SHELL)], &[(0, [0; 32]), (4, [0; 32])]);
    let judge = Judge::new(device.keys, values);
    (device, judge)
}

fn judged(device: &mut SoftwareDevice, judge: &mut Judge, attach: Attach) -> Appraisal {
    let message = device.attest(&[judge.challenge()], attach);
    judge.take(&message).expect("is judged")
}

fn codes(appraisal: &Appraisal) -> Vec<Code> {
    appraisal.state.causes.iter().map(|cause| cause.code).collect()
}

fn forged(forge: impl Fn(Vec<u8>) -> Vec<u8>) -> Appraisal {
    let (mut device, mut judge) = honest();
    let message = device.attest_with(&[judge.challenge()], Attach::LogsFrom(0), &|kind, bytes| {
        if kind == LogKind::Runtime { forge(bytes) } else { bytes }
    });
    judge.take(&message).expect("is judged")
}

#[test]
fn an_honest_device_is_affirmed_and_stays_so_with_nothing_new() {
    let (mut device, mut judge) = honest();
    let first = judged(&mut device, &mut judge, Attach::LogsFrom(0));
    assert_eq!((first.state.verdict, first.new_files.len()), (Verdict::Affirmed, 2), "{:?}", first.state.causes);
    assert_eq!(first.state.release.as_deref(), Some("1.0"));
    let second = judged(&mut device, &mut judge, Attach::Nothing);
    assert_eq!((second.state.verdict, second.new_files.len()), (Verdict::Affirmed, 0));
}

#[test]
fn an_unknown_program_contraindicates_until_a_clean_boot_and_no_longer() {
    let (mut device, mut judge) = honest();
    judged(&mut device, &mut judge, Attach::LogsFrom(0));
    device.run("/tmp/implant", [9; 32]);
    let caught = judged(&mut device, &mut judge, Attach::LogsFrom(2));
    assert_eq!(
        (caught.state.verdict, codes(&caught)),
        (Verdict::Contraindicated, vec![Code::RuntimeUnknownExecutable])
    );
    assert_eq!(caught.state.causes[0].detail, format!("/tmp/implant sha256:{}", "09".repeat(32)));
    let still = judged(&mut device, &mut judge, Attach::Nothing);
    assert_eq!(still.state.verdict, Verdict::Contraindicated, "good evidence hides nothing within a boot");
    device.reboot();
    device.run("/bin/init", INIT);
    let clean = judged(&mut device, &mut judge, Attach::LogsFrom(0));
    assert_eq!(clean.state.verdict, Verdict::Affirmed);
    assert!(clean.new_boot);
}

#[test]
fn a_release_signed_later_ends_the_alarm_over_its_programs() {
    let (mut device, mut judge) = honest();
    judged(&mut device, &mut judge, Attach::LogsFrom(0));
    device.run("/bin/new", [9; 32]);
    assert_eq!(judged(&mut device, &mut judge, Attach::LogsFrom(2)).state.verdict, Verdict::Contraindicated);
    let executables = [("/bin/init", INIT), ("/bin/sh", SHELL), ("/bin/new", [9; 32])];
    judge.references = devices::judge::index(vec![signed("1.1", &executables, &[(0, [0; 32])])]);
    let after = judged(&mut device, &mut judge, Attach::Nothing);
    assert_eq!(after.state.verdict, Verdict::Affirmed, "{:?}", after.state.causes);
    assert_eq!(after.state.release.as_deref(), Some("1.1"));
}

#[test]
fn a_log_cut_at_its_end_is_never_affirmed() {
    let cut = forged(|mut log| {
        log.truncate(log.len() / 2);
        log
    });
    assert_ne!(cut.state.verdict, Verdict::Affirmed);
}

#[test]
fn a_log_with_a_bit_changed_anywhere_contradicts() {
    let (device, _) = honest();
    let length = device.runtime_entries() as usize * 100;
    for bit in (0..length * 8).step_by(7) {
        let changed = forged(|mut log| {
            if let Some(byte) = log.get_mut(bit / 8) {
                *byte ^= 1 << (bit % 8);
            }
            log
        });
        assert_eq!(changed.state.verdict, Verdict::Contraindicated, "bit {bit}");
        assert!(codes(&changed).contains(&Code::LogMismatch));
    }
}

#[test]
fn a_log_reordered_contradicts() {
    let reordered = forged(|log| {
        let (first, second) = log.split_at(log.len() / 2 + 1);
        [second, first].concat()
    });
    assert_eq!(codes(&reordered), [Code::LogMismatch]);
}

#[test]
fn a_log_that_goes_on_beyond_the_quote_contradicts() {
    let (mut device, mut judge) = honest();
    let quoted = device.pcrs;
    device.run("/bin/sh", SHELL);
    device.pcrs = quoted;
    let appraisal = judged(&mut device, &mut judge, Attach::LogsFrom(0));
    assert!(codes(&appraisal).contains(&Code::LogMismatch));
}

#[test]
fn a_pcr_extended_behind_the_attester_s_back_is_never_affirmed() {
    let (mut device, mut judge) = honest();
    judged(&mut device, &mut judge, Attach::LogsFrom(0));
    device.pcrs[14] = [7; 32];
    let appraisal = judged(&mut device, &mut judge, Attach::LogsFrom(2));
    assert_eq!(appraisal.state.verdict, Verdict::Unknown);
    assert!(codes(&appraisal).contains(&Code::LogIncomplete));
    assert_eq!(appraisal.acknowledged.runtime, 0, "the device is asked for all of its log");
}

#[test]
fn a_pcr_that_changes_while_nothing_is_attached_is_never_affirmed() {
    for pcr in 0..16 {
        let (mut device, mut judge) = honest();
        judged(&mut device, &mut judge, Attach::LogsFrom(0));
        device.pcrs[pcr] = [7; 32];
        let silent = judged(&mut device, &mut judge, Attach::Nothing);
        assert_ne!(silent.state.verdict, Verdict::Affirmed, "PCR {pcr}");
    }
}

#[test]
fn pcr_values_that_the_quote_does_not_cover_contradict() {
    let (mut device, mut judge) = honest();
    let message = device.attest_with(&[judge.challenge()], Attach::LogsFrom(0), &|kind, mut bytes| {
        if kind == LogKind::PcrValues {
            bytes[0] ^= 1;
        }
        bytes
    });
    assert!(codes(&judge.take(&message).unwrap()).contains(&Code::LogMismatch));
}

#[test]
fn another_boot_contraindicates_and_names_the_pcrs() {
    let (mut device, mut judge) = honest();
    device.pcrs[4] = [7; 32];
    let appraisal = judged(&mut device, &mut judge, Attach::LogsFrom(0));
    assert_eq!(codes(&appraisal), [Code::BootPcrMismatch]);
    assert_eq!(appraisal.state.causes[0].detail, "PCR 4 differ from release 1.0");
    device.reboot();
    device.run("/bin/init", INIT);
    assert_eq!(judged(&mut device, &mut judge, Attach::LogsFrom(0)).state.verdict, Verdict::Affirmed);
}

#[test]
fn a_segment_in_the_middle_is_completed_by_the_next() {
    let (mut device, mut judge) = honest();
    let message = device.attest_with(&[judge.challenge()], Attach::LogsFrom(0), &|_, bytes| bytes);
    judge.take(&message).unwrap();
    device.run("/bin/sh", SHELL);
    device.run("/bin/init", INIT);
    let gap = judged(&mut device, &mut judge, Attach::LogsFrom(3));
    assert_eq!((gap.state.verdict, gap.acknowledged.runtime), (Verdict::Unknown, 0));
    let whole = judged(&mut device, &mut judge, Attach::LogsFrom(0));
    assert_eq!((whole.state.verdict, whole.acknowledged.runtime), (Verdict::Affirmed, 4));
}

#[test]
fn a_device_without_a_product_is_at_most_a_warning() {
    let (mut device, mut judge) = honest();
    judge.standing.product = None;
    let appraisal = judged(&mut device, &mut judge, Attach::LogsFrom(0));
    assert_eq!(appraisal.state.verdict, Verdict::Warning);
    assert!(codes(&appraisal).contains(&Code::IdentityUnendorsed));
}

#[test]
fn what_ran_before_approval_is_judged_after_it() {
    let (mut device, mut judge) = honest();
    judge.standing.product = None;
    device.run("/tmp/implant", [9; 32]);
    assert_eq!(judged(&mut device, &mut judge, Attach::LogsFrom(0)).state.verdict, Verdict::Warning);
    judge.standing.product = Some(devices::judge::PRODUCT.into());
    let approved = judged(&mut device, &mut judge, Attach::Nothing);
    assert_eq!(codes(&approved), [Code::RuntimeUnknownExecutable]);
}

#[test]
fn a_product_without_reference_values_is_unknown() {
    let (mut device, mut judge) = honest();
    judge.references = Default::default();
    let appraisal = judged(&mut device, &mut judge, Attach::LogsFrom(0));
    assert_eq!(appraisal.state.verdict, Verdict::Unknown);
    assert!(codes(&appraisal).contains(&Code::ReferenceNone));
}

#[test]
fn what_policy_does_not_tolerate_lowers_the_verdict() {
    let (mut device, mut judge) = honest();
    judge.policy = appraisal::Policy::default();
    let appraisal = judged(&mut device, &mut judge, Attach::LogsFrom(0));
    assert_eq!(appraisal.state.verdict, Verdict::Warning);
    assert_eq!(codes(&appraisal), [Code::BootUnprotected, Code::RuntimeUnanchored]);
}

#[test]
fn a_real_boot_log_leads_to_the_quote_and_a_changed_one_contradicts() {
    let log = std::fs::read(concat!(env!("CARGO_MANIFEST_DIR"), "/vectors/boot/qemu-good1/eventlog.bin")).unwrap();
    let read = evidence::eventlog::EventLog::read(&log).unwrap();
    let replay = read.replay(None).unwrap();
    let loader = read.events().map(Result::unwrap).find(|event| event.pcr == 4 && event.extends()).unwrap();
    let loader = loader.digest(evidence::pcr::HashAlgorithm::Sha256).unwrap().to_vec();
    let loader_at = log.windows(32).position(|window| window == loader).unwrap();
    let boot: Vec<(u8, [u8; 32])> = (0..10).filter_map(|pcr| Some((pcr as u8, replay.sha256(pcr)?))).collect();
    let mut device = SoftwareDevice::new();
    for (pcr, value) in &boot {
        device.pcrs[usize::from(*pcr)] = *value;
    }
    device.run("/bin/init", INIT);
    device.boot_log = Some(log);
    let mut judge = Judge::new(device.keys, references("1.0", &[("/bin/init", INIT)], &boot));
    let message = device.attest_with(&[judge.challenge()], Attach::LogsFrom(0), &|kind, mut bytes| {
        if kind == LogKind::Boot {
            bytes[loader_at] ^= 1;
        }
        bytes
    });
    let contradicted = judge.take(&message).unwrap();
    assert!(codes(&contradicted).contains(&Code::LogMismatch), "{:?}", contradicted.state.causes);
    device.reboot();
    for (pcr, value) in &boot {
        device.pcrs[usize::from(*pcr)] = *value;
    }
    device.run("/bin/init", INIT);
    let honest = judged(&mut device, &mut judge, Attach::LogsFrom(0));
    assert_eq!(honest.state.verdict, Verdict::Affirmed, "{:?}", honest.state.causes);
    assert!(honest.acknowledged.boot_log);
}

#[test]
fn announcements_without_measure_are_never_affirmed_and_poison_nothing() {
    const KINDS: [LogKind; 4] = [LogKind::Boot, LogKind::Ima, LogKind::Runtime, LogKind::PcrValues];
    const NUMBERS: [u64; 6] = [0, 1, 2, 1 << 32, u64::MAX - 1, u64::MAX];
    let junk = [vec![], vec![0; 512], vec![0xFF; 4096]];
    for kind in KINDS {
        for (first, count) in NUMBERS.iter().flat_map(|first| NUMBERS.iter().map(move |count| (*first, *count))) {
            for bytes in &junk {
                let (mut device, mut judge) = honest();
                judged(&mut device, &mut judge, Attach::LogsFrom(0));
                device.run("/tmp/implant", [9; 32]);
                let committed = device.committed(&[judge.challenge()]);
                let quote = device.quote(&committed.extra_data());
                let log = LogClaim { kind, first, count, digest: evidence::pcr::sha256(bytes) };
                let lie = device.seal(&Claims { committed, quote, logs: vec![log] }, vec![bytes.clone()]);
                if let Ok(appraisal) = judge.take(&lie) {
                    assert_ne!(appraisal.state.verdict, Verdict::Affirmed, "{kind:?} {first} {count} {}", bytes.len());
                }
                // The truth is judged as ever, and so is the next boot.
                let whole = judged(&mut device, &mut judge, Attach::LogsFrom(0));
                assert_eq!(whole.state.verdict, Verdict::Contraindicated, "{kind:?} {first} {count} {}", bytes.len());
                device.reboot();
                device.run("/bin/init", INIT);
                let clean = judged(&mut device, &mut judge, Attach::LogsFrom(0));
                assert_eq!(
                    clean.state.verdict,
                    Verdict::Affirmed,
                    "{kind:?} {first} {count}: {:?}",
                    clean.state.causes
                );
            }
        }
    }
}
