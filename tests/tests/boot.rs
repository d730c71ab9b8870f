//! A device with a real boot log and its verifier: which boot is judged good, and what a verdict says of one that is not.

use appraisal::{Appraisal, Code, Notice, Policy, Verdict};
use devices::{
    judge::{Judge, PRODUCT, index, sign},
    software::{Attach, SoftwareDevice},
};
use evidence::{
    claims::LogKind,
    eventlog::EventLog,
    pcr::{HashAlgorithm, extend_sha256, sha256},
    result::Claim,
};
use reference_values::{
    BootPcrs, BootRules, Content, Executable, ReferenceIndex, Release,
    boot_rules::{AttesterIn, CommandLine, Given, ImaPolicy, Kernel, Kexec, Lockdown},
};

const GOOD: &[u8] = include_bytes!("../vectors/boot/qemu-good1/eventlog.bin");
const SECURE: &[u8] = include_bytes!("../vectors/boot/qemu-secureboot/eventlog.bin");
const OTHER_COMMAND_LINE: &[u8] = include_bytes!("../vectors/boot/qemu-cmdline/eventlog.bin");
const GRUB: &[u8] = include_bytes!("../vectors/boot/handmade/shim-grub/eventlog.bin");
const TOLD: &str = "console=ttyS0 panic=-1 quiet ima_policy=tcb ima_template=ima-ng ima_hash=sha256";
const INIT: [u8; 32] = [1; 32];
const POLICY: [u8; 32] = [4; 32];
const MINUTE: u64 = 60;

/// What a release says of its boots.
fn rules(log: &[u8], kernel: Option<Kernel>, attester: Option<AttesterIn>) -> BootRules {
    let given = Given { command_lines: vec![CommandLine::exact(TOLD).unwrap()], kernel, attester };
    BootRules::from_logs(&[EventLog::read(log).unwrap()], given).unwrap().0
}

fn release(name: &str, sequence: u64, boot_rules: Vec<BootRules>) -> Release {
    let executables = vec![Executable { digest: INIT, path: "/bin/init".into() }];
    let policy = ImaPolicy { digest: POLICY, path: "/etc/ima/policy".into(), measures_kexec: true };
    let content = Content { executables, boot_rules, ima_policies: vec![policy], ..Content::default() };
    Release::with_content(PRODUCT, name, sequence, content).unwrap()
}

fn references(releases: Vec<Release>) -> ReferenceIndex {
    index(releases.into_iter().map(sign).collect())
}

/// A device and its verifier.
struct Pair {
    device: SoftwareDevice,
    judge: Judge,
}

impl Pair {
    /// A device that booted as `log` says, with a program in its runtime log, before a verifier with these releases.
    fn new(log: &[u8], releases: Vec<Release>) -> Self {
        let mut device = SoftwareDevice::new();
        device.boots_by(log);
        device.run("/bin/init", INIT);
        let judge = Judge::new(device.keys, references(releases));
        Self { device, judge }
    }

    fn good() -> Self {
        Self::new(GOOD, vec![release("1.0", 1, vec![rules(GOOD, None, None)])])
    }

    fn reboot(&mut self) {
        self.device.reboot();
        self.device.boots_by(GOOD);
        self.device.run("/bin/init", INIT);
    }

    fn attest(&mut self, attach: Attach) -> Appraisal {
        self.attest_with(attach, &|_, bytes| bytes)
    }

    fn attest_with(&mut self, attach: Attach, forge: &dyn Fn(LogKind, Vec<u8>) -> Vec<u8>) -> Appraisal {
        self.judge.now += MINUTE;
        self.device.pass(MINUTE);
        let message = self.device.attest_with(&[self.judge.challenge()], attach, forge);
        self.judge.take(&message).expect("is judged")
    }

    /// Attests with a boot log in the place of the device's own.
    fn lie(&mut self, log: Vec<u8>) -> Appraisal {
        self.attest_with(Attach::LogsFrom(0), &|kind, bytes| if kind == LogKind::Boot { log.clone() } else { bytes })
    }
}

fn codes(appraisal: &Appraisal) -> Vec<Code> {
    appraisal.state.causes.iter().map(|cause| cause.code).collect()
}

fn details(appraisal: &Appraisal, code: Code) -> Vec<&str> {
    appraisal.state.causes.iter().filter(|cause| cause.code == code).map(|cause| cause.detail.as_str()).collect()
}

/// Where each event of a log begins and ends.
fn places(log: &[u8]) -> Vec<std::ops::Range<usize>> {
    let number = |at: usize| u32::from_le_bytes(log[at..at + 4].try_into().unwrap()) as usize;
    let mut places = Vec::new();
    let mut start = 0;
    while start < log.len() {
        // The first event has the old form: one SHA-1 digest, and no count of digests.
        let head = if start == 0 { 28 } else { 12 + 34 };
        let end = start + head + 4 + number(start + head);
        places.push(start..end);
        start = end;
    }
    places
}

#[test]
fn a_good_boot_is_affirmed_its_log_kept_and_told_in_few_words() {
    let mut pair = Pair::good();
    let first = pair.attest(Attach::LogsFrom(0));
    assert_eq!((first.state.verdict, first.new_boot_log), (Verdict::Affirmed, true), "{:?}", first.state.causes);
    assert_eq!(first.state.vector.get(Claim::Configuration), Some(2));
    assert_eq!(first.state.release.as_deref(), Some("1.0"));
    let summary = first.state.boot.summary();
    assert_eq!((summary.secure_boot, summary.events, summary.kernel), (Some(false), 38, None));
    assert_eq!(summary.command_line.as_deref(), Some(TOLD));
    assert_eq!(pair.judge.boot_log.as_deref(), Some(GOOD));
    // The same log again is held already, and none at all leaves what is known.
    for attach in [Attach::LogsFrom(0), Attach::Nothing] {
        let next = pair.attest(attach);
        assert_eq!((next.state.verdict, next.new_boot_log), (Verdict::Affirmed, false), "{:?}", next.state.causes);
        assert!(next.acknowledged.boot_log);
    }
}

#[test]
fn what_is_kept_of_a_boot_stays_small() {
    let mut pair = Pair::new(OTHER_COMMAND_LINE, vec![release("1.0", 1, vec![rules(GOOD, None, None)])]);
    let bad = pair.attest(Attach::LogsFrom(0));
    let good = Pair::good().attest(Attach::LogsFrom(0));
    let size = |appraisal: &Appraisal| serde_json::to_vec(&appraisal.state.boot.judged).unwrap().len();
    assert!(size(&good) < 300 && size(&bad) < 4000, "{} {}", size(&good), size(&bad));
}

#[test]
fn without_its_log_a_boot_that_rules_judge_is_unknown_and_not_wrong() {
    let mut pair = Pair::good();
    pair.device.boot_log = None;
    let silent = pair.attest(Attach::LogsFrom(0));
    assert_eq!((silent.state.verdict, silent.acknowledged.boot_log), (Verdict::Unknown, false));
    assert_eq!(details(&silent, Code::LogIncomplete), ["the boot log is missing"]);
    pair.device.boot_log = Some(GOOD.to_vec());
    assert_eq!(pair.attest(Attach::LogsFrom(0)).state.verdict, Verdict::Affirmed);
}

#[test]
fn a_log_with_an_event_inserted_dropped_or_moved_contradicts_and_says_where() {
    let places = places(GOOD);
    assert_eq!(places.len(), 38);
    let inserted = [&GOOD[..places[24].start], &GOOD[places[33].clone()], &GOOD[places[24].start..]].concat();
    let dropped = [&GOOD[..places[24].start], &GOOD[places[24].end..]].concat();
    let moved = [
        &GOOD[..places[16].start],
        &GOOD[places[21].clone()],
        &GOOD[places[16].start..places[21].start],
        &GOOD[places[21].end..],
    ]
    .concat();
    for (log, events) in [(inserted, "16, 21, 24, 25, 34"), (dropped, "16, 21, 32"), (moved, "16, 17, 24, 33")] {
        let mut pair = Pair::good();
        let lied = pair.lie(log);
        assert_eq!((lied.state.verdict, lied.new_boot_log), (Verdict::Contraindicated, false));
        let detail =
            format!("boot log: it does not lead to the quoted value of PCR 4 (its events in the log: {events})");
        let told = details(&lied, Code::LogMismatch);
        assert!(told.len() == 1 && told[0].starts_with(&detail), "{told:?}");
        // Of a log that contradicts, nothing more is asked for.
        assert_eq!(codes(&lied), [Code::LogMismatch, Code::PolicyClaimMissing]);
    }
}

#[test]
fn the_log_of_another_boot_contradicts_and_names_what_is_foreign_in_it() {
    let lied = Pair::good().lie(SECURE.to_vec());
    let told = details(&lied, Code::LogMismatch);
    assert!(told[0].contains("PCR 0 (") && told[0].contains("; not of release 1.0: PCR 0, event 2, "), "{told:?}");
}

#[test]
fn a_log_that_cannot_be_read_contradicts_and_says_where() {
    for log in [vec![0; 10_000_000], GOOD[..GOOD.len() - 1].to_vec(), vec![]] {
        let lied = Pair::good().lie(log);
        assert_eq!(lied.state.verdict, Verdict::Contraindicated);
        assert!(details(&lied, Code::LogMismatch)[0].starts_with("boot log: "), "{:?}", lied.state.causes);
    }
}

#[test]
fn a_boot_that_is_no_release_s_is_told_event_by_event_by_the_nearest() {
    let far = release("0.9", 1, vec![rules(SECURE, None, None)]);
    let near = release("1.0", 2, vec![rules(GOOD, None, None)]);
    let mut pair = Pair::new(OTHER_COMMAND_LINE, vec![far, near]);
    let bad = pair.attest(Attach::LogsFrom(0));
    assert_eq!((bad.state.verdict, bad.state.vector.get(Claim::Configuration)), (Verdict::Contraindicated, Some(96)));
    assert!(codes(&bad).contains(&Code::BootCommandLine) && codes(&bad).contains(&Code::BootUnlistedEvent));
    assert!(
        bad.state.causes.len() <= 9
            && details(&bad, Code::BootUnlistedEvent)[0].starts_with("release 1.0: PCR 4, event 24")
    );
    // It stands as long as the boot does, and since it was first seen.
    let next = pair.attest(Attach::Nothing);
    assert_eq!(next.state.causes.first().map(|cause| cause.first_seen), Some(bad.state.judged));
    assert!(codes(&next).contains(&Code::BootCommandLine));
}

#[test]
fn a_release_that_comes_later_is_held_against_the_log_that_is_kept() {
    let old = || release("1.0", 1, vec![rules(GOOD, None, None)]);
    let mut pair = Pair::new(SECURE, vec![old()]);
    assert_eq!(pair.attest(Attach::LogsFrom(0)).state.verdict, Verdict::Contraindicated);
    pair.judge.references = references(vec![old(), release("2.0", 2, vec![rules(SECURE, None, None)])]);
    let again = pair.attest(Attach::Nothing);
    assert_eq!(again.state.verdict, Verdict::Affirmed, "{:?}", again.state.causes);
    assert_eq!((again.state.release.as_deref(), again.new_boot_log), (Some("2.0"), false));
    // Taken back, it is gone.
    pair.judge.references = references(vec![old()]);
    assert_eq!(pair.attest(Attach::Nothing).state.verdict, Verdict::Contraindicated);
}

#[test]
fn where_the_kept_log_is_lost_it_is_asked_for_and_kept_again() {
    let mut pair = Pair::good();
    pair.attest(Attach::LogsFrom(0));
    for lost in [None, Some(SECURE.to_vec())] {
        pair.judge.boot_log = lost;
        let name = format!("{}", pair.judge.now);
        pair.judge.references = references(vec![release(&name, 2, vec![rules(GOOD, None, None)])]);
        let asked = pair.attest(Attach::Nothing);
        assert_eq!((asked.state.verdict, asked.acknowledged.boot_log), (Verdict::Unknown, false));
        assert_eq!(codes(&asked), [Code::LogIncomplete, Code::PolicyClaimMissing]);
        let sent = pair.attest(Attach::LogsFrom(0));
        assert_eq!(
            (sent.state.verdict, sent.new_boot_log, sent.acknowledged.boot_log),
            (Verdict::Affirmed, true, true)
        );
    }
}

#[test]
fn a_release_counts_from_its_day_on() {
    let soon = 1_800_000_000 + 10 * MINUTE;
    let later = release("1.0", 1, vec![rules(GOOD, None, None)]).valid(Some(soon), None).unwrap();
    let mut pair = Pair::new(GOOD, vec![release("0.9", 0, vec![rules(SECURE, None, None)]), later]);
    let early = pair.attest(Attach::LogsFrom(0));
    assert_eq!(early.state.verdict, Verdict::Contraindicated);
    assert!(early.state.causes.iter().all(|cause| !cause.detail.contains("release 1.0")), "{:?}", early.state.causes);
    pair.judge.now = soon;
    pair.device.pass(9 * MINUTE);
    let in_time = pair.attest(Attach::Nothing);
    assert_eq!(in_time.state.release.as_deref(), Some("1.0"), "{:?}", in_time.state.causes);
}

#[test]
fn a_release_may_be_told_by_exact_pcrs_or_by_rules() {
    let replay = EventLog::read(SECURE).unwrap().replay(Some(HashAlgorithm::Sha256)).unwrap();
    let boots = vec![BootPcrs::from_replay(&replay).unwrap()];
    let executables = vec![Executable { digest: INIT, path: "/bin/init".into() }];
    let content = Content { executables, boots, boot_rules: vec![rules(GOOD, None, None)], ..Content::default() };
    let both = Release::with_content(PRODUCT, "1.0", 1, content).unwrap();
    for log in [GOOD, SECURE] {
        let seen = Pair::new(log, vec![both.clone()]).attest(Attach::LogsFrom(0));
        assert_eq!(seen.state.verdict, Verdict::Affirmed, "{:?}", seen.state.causes);
    }
    let mut without_log = Pair::new(SECURE, vec![both.clone()]);
    without_log.device.boot_log = None;
    assert_eq!(without_log.attest(Attach::LogsFrom(0)).state.verdict, Verdict::Affirmed);
    let other = Pair::new(OTHER_COMMAND_LINE, vec![both]).attest(Attach::LogsFrom(0));
    assert_eq!(other.state.verdict, Verdict::Contraindicated);
}

#[test]
fn secure_boot_that_is_off_is_worth_what_policy_says() {
    let log = with_secure_boot_off();
    for (policy, verdict, value) in
        [("", Verdict::Contraindicated, 96), ("secure_boot = \"warning\"", Verdict::Warning, 36)]
    {
        let mut pair = Pair::new(&log, vec![release("1.0", 1, vec![rules(SECURE, None, Some(AttesterIn::Initrd))])]);
        pair.judge.policy = Policy::from_toml(policy).unwrap();
        let off = pair.attest(Attach::LogsFrom(0));
        assert!(codes(&off).contains(&Code::BootSecureBootOff), "{:?}", off.state.causes);
        assert_eq!((off.state.verdict, off.state.vector.get(Claim::Configuration)), (verdict, Some(value)));
        assert_eq!(off.state.boot.summary().secure_boot, Some(false));
    }
}

/// The log of the secure boot, had the firmware measured that it is off.
fn with_secure_boot_off() -> Vec<u8> {
    let mut log = SECURE.to_vec();
    let place = places(SECURE)[4].clone();
    log[place.end - 1] = 0;
    let digest = sha256(&log[place.start + 50..place.end]);
    log[place.start + 14..place.start + 46].copy_from_slice(&digest);
    log
}

fn kernel(modules_signed: bool, lockdown: Lockdown, kexec: Kexec) -> Option<Kernel> {
    Some(Kernel { release: "6.1.0-test".into(), modules_signed, lockdown, kexec })
}

#[test]
fn configuration_affirms_where_all_is_shown_that_keeps_a_boot_true() {
    let strict = kernel(true, Lockdown::WithSecureBoot, Kexec::FileOnly);
    let mut pair = Pair::new(SECURE, vec![release("1.0", 1, vec![rules(SECURE, strict, Some(AttesterIn::Initrd))])]);
    pair.judge.policy = Policy::default();
    let unmeasured = pair.attest(Attach::LogsFrom(0));
    let told = details(&unmeasured, Code::BootUnprotected);
    assert!(told[0].starts_with("release 1.0: not shown: kexec (") && !told[0].contains("lockdown (`"), "{told:?}");
    assert_eq!(codes(&unmeasured), [Code::BootUnprotected]);
    // IMA's list shows the release's policy.
    pair.device.measure("/etc/ima/policy", POLICY);
    let shown = pair.attest(Attach::LogsFrom(0));
    assert_eq!(shown.state.verdict, Verdict::Affirmed, "{:?}", shown.state.causes);
    assert_eq!(shown.state.vector.get(Claim::Configuration), Some(2));
    assert_eq!(shown.state.boot.summary().kernel.as_deref(), Some("6.1.0-test"));
    // That is remembered where reference values change.
    let more = kernel(true, Lockdown::WithSecureBoot, Kexec::FileOnly);
    pair.judge.references = references(vec![release("1.1", 2, vec![rules(SECURE, more, Some(AttesterIn::Initrd))])]);
    assert_eq!(pair.attest(Attach::Nothing).state.verdict, Verdict::Affirmed);
}

#[test]
fn without_the_kernel_s_configuration_the_remedy_is_named() {
    let mut pair = Pair::good();
    pair.judge.policy = Policy::default();
    let bare = pair.attest(Attach::LogsFrom(0));
    assert!(details(&bare, Code::BootUnprotected)[0].contains("`reference-values build --kernel-config`"));
    assert!(codes(&bare).contains(&Code::RuntimeUnanchored));
}

/// IMA's first entry after a boot by this log.
fn boot_aggregate(log: &[u8]) -> [u8; 32] {
    let replay = EventLog::read(log).unwrap().replay(Some(HashAlgorithm::Sha256)).unwrap();
    let pcrs: Vec<[u8; 32]> = (0..10).map(|pcr| replay.sha256(pcr).unwrap_or_default()).collect();
    sha256(pcrs.as_flattened())
}

/// A kernel with IMA that is told to measure nothing has a list all the same.
#[test]
fn ima_vouches_for_programs_only_where_its_list_shows_one_that_runs() {
    let tools = Executable { digest: [7; 32], path: "/bin/tools".into() };
    let executables = vec![Executable { digest: INIT, path: "/bin/init".into() }, tools];
    let mut pair = Pair::new(GOOD, vec![Release::new(PRODUCT, "1.0", 1, executables, vec![]).unwrap()]);
    pair.judge.policy = Policy::default();
    pair.device.measure("boot_aggregate", boot_aggregate(GOOD));
    assert!(codes(&pair.attest(Attach::LogsFrom(0))).contains(&Code::RuntimeUnanchored));
    // A file that a release lists may have been read by anyone.
    pair.device.measure("/bin/tools", [7; 32]);
    let read = pair.attest(Attach::LogsFrom(0));
    assert!(codes(&read).contains(&Code::RuntimeUnanchored));
    assert_eq!(read.state.vector.get(Claim::Executables), None);
    pair.device.measure("/bin/init", INIT);
    let seen = pair.attest(Attach::LogsFrom(0));
    assert!(!codes(&seen).contains(&Code::RuntimeUnanchored), "{:?}", seen.state.causes);
    assert_eq!(seen.state.vector.get(Claim::Executables), Some(2));
    // It is remembered while nothing new comes, and found again where reference values change.
    assert_eq!(pair.attest(Attach::Nothing).state.vector.get(Claim::Executables), Some(2));
    let executables = [(INIT, "/bin/init"), ([7; 32], "/bin/tools"), ([8; 32], "/bin/more")];
    let executables = executables.map(|(digest, path)| Executable { digest, path: path.into() }).to_vec();
    pair.judge.references = references(vec![Release::new(PRODUCT, "1.1", 2, executables, vec![]).unwrap()]);
    assert_eq!(pair.attest(Attach::Nothing).state.vector.get(Claim::Executables), Some(2));
}

#[test]
fn the_attester_is_anchored_by_a_boot_that_vouches_for_it_and_no_other() {
    let anchored = || release("1.0", 1, vec![rules(GOOD, None, Some(AttesterIn::Initrd))]);
    let good = Pair::new(GOOD, vec![anchored()]).attest(Attach::LogsFrom(0));
    assert!(!good.tolerated.iter().any(|cause| cause.code == Code::RuntimeUnanchored));
    assert_eq!(good.state.vector.get(Claim::Executables), Some(3));
    let other = Pair::new(OTHER_COMMAND_LINE, vec![anchored()]).attest(Attach::LogsFrom(0));
    assert!(other.tolerated.iter().any(|cause| cause.code == Code::RuntimeUnanchored));
}

#[test]
fn phases_of_systemd_go_on_from_the_log_and_nothing_else_does() {
    let mut pair = Pair::good();
    assert_eq!(pair.attest(Attach::LogsFrom(0)).state.verdict, Verdict::Affirmed);
    for word in ["enter-initrd", "leave-initrd", "sysinit", "ready"] {
        pair.device.pcrs[11] = extend_sha256(&pair.device.pcrs[11], &sha256(word.as_bytes()));
        assert_eq!(pair.attest(Attach::LogsFrom(0)).state.verdict, Verdict::Affirmed, "{word}");
    }
    pair.device.pcrs[11] = extend_sha256(&pair.device.pcrs[11], &[9; 32]);
    let beyond = pair.attest(Attach::LogsFrom(0));
    assert_eq!(details(&beyond, Code::BootPcrMismatch), ["PCR 11 differ from release 1.0"]);
    // Where systemd-stub measures, what it would measure into 12 and 13 is not there either.
    for pcr in [12, 13] {
        let mut pair = Pair::good();
        pair.device.pcrs[pcr] = [9; 32];
        assert_eq!(codes(&pair.attest(Attach::LogsFrom(0))), [Code::BootPcrMismatch], "PCR {pcr}");
    }
    let mut pair = Pair::good();
    pair.device.pcrs[15] = [9; 32];
    assert_eq!(pair.attest(Attach::LogsFrom(0)).state.verdict, Verdict::Affirmed);
}

#[test]
fn a_boot_aggregate_of_any_bank_ties_the_list_to_this_boot() {
    let replay = EventLog::read(GRUB).unwrap().replay(None).unwrap();
    let aggregate = |algorithm: HashAlgorithm, count: u32| {
        let bank = &replay.banks[&algorithm];
        let value = |pcr| bank.get(&pcr).cloned().unwrap_or_else(|| vec![0; algorithm.len()]);
        algorithm.hash(&(0..count).flat_map(value).collect::<Vec<u8>>()).unwrap().as_ref().to_vec()
    };
    for algorithm in [HashAlgorithm::Sha1, HashAlgorithm::Sha256, HashAlgorithm::Sha384] {
        for (count, ties) in [(8, true), (10, true), (9, false)] {
            let mut pair = Pair::new(GRUB, vec![]);
            pair.device.measure_as(algorithm.name(), "boot_aggregate", &aggregate(algorithm, count));
            let seen = pair.attest(Attach::LogsFrom(0));
            assert_eq!(
                !codes(&seen).contains(&Code::LogMismatch),
                ties,
                "{algorithm:?} {count}: {:?}",
                seen.state.causes
            );
        }
    }
}

#[test]
fn a_kernel_that_was_started_without_a_boot_is_told_from_a_boot_and_from_a_lie() {
    for keeps_runtime_log in [true, false] {
        let mut pair = Pair::good();
        pair.device.measure("/bin/init", INIT);
        assert_eq!(pair.attest(Attach::LogsFrom(0)).state.verdict, Verdict::Affirmed);
        pair.device.kexec();
        if !keeps_runtime_log {
            pair.device.lose_runtime_log();
        }
        pair.device.measure("/bin/init", INIT);
        pair.device.run("/bin/init", INIT);
        let second = pair.attest(Attach::LogsFrom(0));
        assert_eq!((codes(&second), second.new_boot), (vec![Code::BootKexec], false), "{:?}", second.state.causes);
        assert_eq!(second.state.verdict, Verdict::Warning);
        // Both logs go on from there, told again or not, and the fact stays until the next boot.
        pair.device.measure("/bin/init", INIT);
        pair.device.run("/bin/init", INIT);
        for attach in [Attach::LogsFrom(1), Attach::LogsFrom(0), Attach::Nothing] {
            assert_eq!(codes(&pair.attest(attach)), [Code::BootKexec], "{attach:?}");
        }
        pair.reboot();
        assert_eq!(pair.attest(Attach::LogsFrom(0)).state.verdict, Verdict::Affirmed);
    }
    // A list that leads nowhere is no other kernel's.
    let mut pair = Pair::good();
    pair.device.measure("/bin/init", INIT);
    pair.attest(Attach::LogsFrom(0));
    pair.device.kexec();
    pair.device.pcrs[10] = [9; 32];
    pair.device.measure("/bin/init", INIT);
    assert_eq!(codes(&pair.attest(Attach::LogsFrom(0))), [Code::LogIncomplete]);
}

#[test]
fn a_second_boot_aggregate_is_another_kernel_s_and_nothing_vouches_for_its_attester() {
    let mut pair = Pair::new(GOOD, vec![release("1.0", 1, vec![rules(GOOD, None, Some(AttesterIn::Initrd))])]);
    let aggregate = sha256(pair.device.pcrs[..10].as_flattened());
    pair.device.measure("boot_aggregate", aggregate);
    assert_eq!(pair.attest(Attach::LogsFrom(0)).state.verdict, Verdict::Affirmed);
    let unanchored = |seen: &Appraisal| seen.tolerated.iter().any(|cause| cause.code == Code::RuntimeUnanchored);
    pair.device.measure("boot_aggregate", aggregate);
    let second = pair.attest(Attach::LogsFrom(0));
    assert_eq!((codes(&second), unanchored(&second)), (vec![Code::BootKexec], true));
}

#[test]
fn what_lowers_no_verdict_is_told_as_information_since_when() {
    let told = |appraisal: &Appraisal| -> Vec<(Notice, u64)> {
        assert_eq!(appraisal.state.verdict, Verdict::Affirmed, "{:?}", appraisal.state.causes);
        appraisal.state.information.iter().map(|information| (information.code, information.since)).collect()
    };
    let mut pair = Pair::good();
    assert_eq!(told(&pair.attest(Attach::LogsFrom(0))), []);
    // A power cut, and other firmware after it.
    pair.reboot();
    (pair.device.safe, pair.device.firmware) = (false, 7);
    let booted = pair.attest(Attach::LogsFrom(0));
    let since = booted.state.judged;
    assert_eq!(told(&booted), [(Notice::TpmClockNotSafe, since), (Notice::TpmFirmwareChanged, since)]);
    assert_eq!(booted.state.information[1].detail, "from 0x2019102300163636 to 0x0000000000000007");
    pair.device.safe = true;
    assert_eq!(told(&pair.attest(Attach::Nothing)), [(Notice::TpmFirmwareChanged, since)]);
    pair.device.resume();
    let resumed = pair.attest(Attach::Nothing);
    let woken = (Notice::BootResumed, resumed.state.judged);
    assert_eq!(told(&resumed), [woken, (Notice::TpmFirmwareChanged, since)]);
    pair.device.resume();
    assert!(told(&pair.attest(Attach::Nothing)).contains(&woken));
    pair.reboot();
    assert_eq!(told(&pair.attest(Attach::LogsFrom(0))), []);
}
