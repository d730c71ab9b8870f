//! A device from quote to quote: what a resume, a reboot, time, an operator and new reference values make of what was known.

use std::collections::BTreeSet;

use appraisal::{
    Appraisal, Attested, Code, Current, Finding, FirmwareRange, MeasuredFile, OpenEpoch, Policy, Stale, Verdict,
};
use devices::{
    judge::{Judge, NotJudged, PRODUCT, index, references, signed},
    software::{Attach, SoftwareDevice},
};
use evidence::{
    claims::LogKind,
    result::Claim,
    runtime_log::{Entry, Flags, Kind},
};

const INIT: [u8; 32] = [1; 32];
const SHELL: [u8; 32] = [2; 32];
const IMPLANT: [u8; 32] = [9; 32];
const MINUTE: u64 = 60;

/// A device and its verifier, for both of whom time passes alike.
struct Pair {
    device: SoftwareDevice,
    judge: Judge,
}

impl Pair {
    fn new() -> Self {
        let device = SoftwareDevice::new();
        let listed = [("/bin/init", INIT), ("/bin/sh", SHELL)];
        let judge = Judge::new(device.keys, references("1.0", &listed, &[(0, [0; 32])]));
        Self { device, judge }
    }

    /// One that has been judged, with two entries in its log.
    fn seen() -> Self {
        let mut pair = Self::new();
        pair.device.run("/bin/init", INIT);
        pair.device.run("/bin/sh", SHELL);
        assert_eq!(pair.attest(Attach::LogsFrom(0)).state.verdict, Verdict::Affirmed);
        pair
    }

    fn pass(&mut self, seconds: u64) {
        self.judge.now += seconds;
        self.device.pass(seconds);
    }

    /// Evidence for a fresh challenge, a minute later.
    fn attest(&mut self, attach: Attach) -> Appraisal {
        self.pass(MINUTE);
        let message = self.device.attest(&[self.judge.challenge()], attach);
        self.judge.take(&message).expect("is judged")
    }

    /// What is held of the runtime log.
    fn held(&self) -> u64 {
        self.judge.state.as_ref().map_or(0, |state| state.boot.acknowledged().runtime)
    }

    fn report(&mut self, kind: Kind, path: &str, digest: [u8; 32]) {
        let path = path.as_bytes();
        let (size, device, inode, flags, start_time) = (1, 0, 0, Flags::SWEEP, 1);
        self.device.record(&Entry { kind, digest, size, device, inode, flags, start_time, path });
    }
}

fn codes(appraisal: &Appraisal) -> Vec<Code> {
    appraisal.state.causes.iter().map(|cause| cause.code).collect()
}

#[test]
fn a_resume_goes_on_with_the_boot_and_its_findings_however_the_logs_are_sent() {
    for attach in [Attach::LogsFrom(0), Attach::LogsFrom(2), Attach::LogsFrom(3)] {
        let mut pair = Pair::seen();
        pair.device.run("/tmp/implant", IMPLANT);
        pair.attest(Attach::LogsFrom(2));
        pair.device.resume();
        let resumed = pair.attest(attach);
        assert!(!resumed.new_boot, "{attach:?}");
        assert!(codes(&resumed).contains(&Code::RuntimeUnknownExecutable), "{attach:?}");
        assert_eq!(resumed.state.boot.restart, 1);
        assert_eq!(resumed.acknowledged.runtime, 3, "{attach:?}");
    }
}

#[test]
fn a_resume_that_sends_only_what_is_new_goes_on_too() {
    let mut pair = Pair::seen();
    pair.device.resume();
    pair.device.run("/bin/sh", SHELL);
    let resumed = pair.attest(Attach::LogsFrom(2));
    assert_eq!((resumed.new_boot, resumed.state.verdict), (false, Verdict::Affirmed), "{:?}", resumed.state.causes);
    assert_eq!((resumed.acknowledged.runtime, resumed.acknowledged.restart), (3, 1));
}

#[test]
fn a_finding_that_no_log_repeats_survives_a_resume() {
    let mut pair = Pair::seen();
    pair.pass(MINUTE);
    let forged = pair.device.attest_with(&[pair.judge.challenge()], Attach::LogsFrom(0), &|_, mut bytes| {
        bytes[40] ^= 1;
        bytes
    });
    assert!(codes(&pair.judge.take(&forged).unwrap()).contains(&Code::LogMismatch));
    pair.device.resume();
    let resumed = pair.attest(Attach::LogsFrom(0));
    assert!(!resumed.new_boot && codes(&resumed).contains(&Code::LogMismatch), "{:?}", resumed.state.causes);
}

#[test]
fn a_segment_that_explains_nothing_is_no_measure_for_a_resume() {
    let mut pair = Pair::seen();
    pair.device.run("/bin/sh", SHELL);
    // A piece that does not reach the quote is held for now; what was explained before is not forgotten for it.
    assert_eq!(attest_foreign(&mut pair, 3).state.verdict, Verdict::Unknown);
    pair.device.resume();
    let resumed = pair.attest(Attach::LogsFrom(0));
    assert_eq!((resumed.new_boot, resumed.state.verdict), (false, Verdict::Affirmed), "{:?}", resumed.state.causes);
}

/// Evidence whose runtime log is another device's.
fn attest_foreign(pair: &mut Pair, entries: u64) -> Appraisal {
    let mut other = SoftwareDevice::new();
    (0..entries).for_each(|_| other.run("/bin/init", SHELL));
    let foreign = other.attest(&[[0; 32]], Attach::LogsFrom(0));
    let foreign = evidence::cose::Sign1::decode("evidence", &foreign).unwrap().attachments[1].to_vec();
    pair.pass(MINUTE);
    let message = pair.device.attest_with(&[pair.judge.challenge()], Attach::LogsFrom(0), &|kind, bytes| {
        if kind == LogKind::Runtime { foreign.clone() } else { bytes }
    });
    pair.judge.take(&message).unwrap()
}

#[test]
fn a_log_that_leads_nowhere_makes_no_boot_of_a_resume() {
    let mut pair = Pair::seen();
    (0..2).for_each(|_| pair.device.run("/tmp/implant", IMPLANT));
    pair.attest(Attach::LogsFrom(2));
    pair.device.resume();
    let foreign = attest_foreign(&mut pair, 4);
    assert_eq!((foreign.new_boot, foreign.state.verdict), (false, Verdict::Contraindicated));
    let honest = pair.attest(Attach::LogsFrom(0));
    assert_eq!((honest.new_boot, codes(&honest)), (false, vec![Code::RuntimeUnknownExecutable]));
}

#[test]
fn a_device_that_tells_again_what_is_held_is_followed_without_telling_all() {
    let mut pair = Pair::seen();
    (0..3).for_each(|_| pair.device.measure("/bin/sh", SHELL));
    pair.attest(Attach::LogsFrom(0));
    pair.device.run("/bin/sh", SHELL);
    pair.device.measure("/bin/init", INIT);
    for (runtime, ima) in [(1, 1), (2, 4), (0, 2)] {
        pair.device.ima_from = ima;
        let next = pair.attest(Attach::LogsFrom(runtime));
        assert_eq!(next.state.verdict, Verdict::Affirmed, "{runtime}, {ima}: {:?}", next.state.causes);
        assert_eq!((next.acknowledged.runtime, next.acknowledged.ima), (3, 4));
        assert_eq!(
            next.new_files.len(),
            if runtime == 0 {
                3
            } else if ima == 1 {
                2
            } else {
                0
            }
        );
    }
    // What is held entirely adds nothing.
    assert_eq!(pair.attest(Attach::Piece { first: 1, count: 1 }).state.verdict, Verdict::Affirmed);
    // With a gap, nothing is known of what is between.
    (0..3).for_each(|_| pair.device.run("/bin/sh", SHELL));
    assert_eq!(pair.attest(Attach::LogsFrom(4)).state.verdict, Verdict::Unknown);
}

#[test]
fn a_restart_with_logs_that_began_anew_is_a_boot() {
    let mut pair = Pair::seen();
    pair.device.run("/tmp/implant", IMPLANT);
    pair.attest(Attach::LogsFrom(2));
    pair.device.restart();
    pair.device.run("/bin/init", INIT);
    let booted = pair.attest(Attach::LogsFrom(0));
    assert_eq!((booted.new_boot, booted.state.verdict), (true, Verdict::Affirmed), "{:?}", booted.state.causes);
    assert_eq!(pair.judge.files.len(), 1, "files of the boot before are history");
}

#[test]
fn a_restart_without_any_log_is_a_boot_where_there_was_one() {
    let mut pair = Pair::seen();
    pair.device.measure("/bin/sh", SHELL);
    pair.attest(Attach::LogsFrom(0));
    pair.device.restart();
    assert!(pair.attest(Attach::LogsFrom(0)).new_boot);
}

#[test]
fn a_restart_whose_log_differed_in_one_message_and_leads_to_the_quote_in_the_next_is_a_boot() {
    let mut pair = Pair::seen();
    pair.device.restart();
    (0..9).for_each(|_| pair.device.run("/bin/init", INIT));
    for (first, count) in [(0, 3), (3, 3)] {
        assert!(!pair.attest(Attach::Piece { first, count }).new_boot);
    }
    assert!(pair.attest(Attach::LogsFrom(6)).new_boot);
    assert_eq!(pair.attest(Attach::LogsFrom(0)).state.verdict, Verdict::Affirmed);
}

#[test]
fn a_restart_whose_log_comes_in_pieces_is_told_once_it_differs() {
    let mut pair = Pair::seen();
    (0..4).for_each(|_| pair.device.run("/bin/sh", SHELL));
    pair.attest(Attach::LogsFrom(2));
    pair.device.restart();
    (0..9).for_each(|_| pair.device.run("/bin/init", INIT));
    let undecided = pair.attest(Attach::Piece { first: 0, count: 3 });
    assert_eq!((undecided.new_boot, undecided.state.verdict), (false, Verdict::Unknown));
    assert_eq!(undecided.acknowledged.runtime, 3);
    let decided = pair.attest(Attach::LogsFrom(3));
    assert_eq!((decided.new_boot, decided.acknowledged.runtime), (true, 0));
    let whole = pair.attest(Attach::LogsFrom(0));
    assert_eq!((whole.new_boot, whole.state.verdict), (false, Verdict::Affirmed), "{:?}", whole.state.causes);
}

#[test]
fn a_resume_whose_log_comes_in_pieces_is_told_once_it_has_passed() {
    let mut pair = Pair::seen();
    pair.device.run("/tmp/implant", IMPLANT);
    pair.attest(Attach::LogsFrom(2));
    pair.device.resume();
    pair.device.run("/bin/sh", SHELL);
    let undecided = pair.attest(Attach::Piece { first: 0, count: 2 });
    assert_eq!((undecided.new_boot, undecided.acknowledged.runtime), (false, 2));
    let decided = pair.attest(Attach::LogsFrom(2));
    assert_eq!((decided.new_boot, codes(&decided)), (false, vec![Code::RuntimeUnknownExecutable]));
}

#[test]
fn other_boot_measurements_are_another_boot() {
    let mut pair = Pair::seen();
    pair.device.resume();
    pair.device.pcrs[4] = [7; 32];
    assert!(pair.attest(Attach::LogsFrom(0)).new_boot);
}

#[test]
fn ima_s_list_tells_a_resume_from_a_boot_as_well() {
    for resumes in [true, false] {
        let mut pair = Pair::new();
        (0..3).for_each(|_| pair.device.measure("/bin/init", INIT));
        assert_eq!(pair.attest(Attach::LogsFrom(0)).state.verdict, Verdict::Affirmed);
        if resumes {
            pair.device.resume();
        } else {
            pair.device.restart();
            pair.device.measure("/bin/sh", SHELL);
            pair.device.measure("/bin/init", INIT);
            pair.device.measure("/bin/init", INIT);
        }
        pair.device.measure("/bin/sh", SHELL);
        let next = pair.attest(Attach::LogsFrom(0));
        assert_eq!((next.new_boot, next.state.verdict), (!resumes, Verdict::Affirmed), "{:?}", next.state.causes);
    }
}

#[test]
fn a_list_that_differed_in_one_message_and_leads_to_the_quote_in_the_next_is_another_boot_s() {
    let mut pair = Pair::new();
    (0..2).for_each(|_| pair.device.measure("/bin/init", INIT));
    pair.attest(Attach::LogsFrom(0));
    pair.device.restart();
    // Entries of one length, so that a third of them is a third of the bytes.
    (0..3).for_each(|n| pair.device.measure("/bin/init", if n == 0 { SHELL } else { INIT }));
    pair.pass(MINUTE);
    let message = pair.device.attest_with(&[pair.judge.challenge()], Attach::LogsFrom(0), &|kind, mut bytes| {
        if kind == LogKind::Ima {
            bytes.truncate(bytes.len() / 3 * 2);
        }
        bytes
    });
    let undecided = pair.judge.take(&message).unwrap();
    assert_eq!((undecided.new_boot, undecided.acknowledged.ima), (false, 2));
    pair.device.ima_from = 2;
    assert!(pair.attest(Attach::LogsFrom(0)).new_boot);
}

#[test]
fn a_list_that_is_in_no_pcr_after_a_restart_is_another_boot_s() {
    let mut pair = Pair::new();
    (0..3).for_each(|_| pair.device.measure("/bin/init", INIT));
    pair.attest(Attach::LogsFrom(0));
    pair.device.restart();
    pair.device.measure("/bin/init", INIT);
    pair.device.pcrs[10] = [0; 32];
    let next = pair.attest(Attach::LogsFrom(0));
    assert!(next.new_boot && codes(&next).contains(&Code::ImaNoTpm), "{:?}", next.state.causes);
}

#[test]
fn ima_s_list_that_goes_on_after_a_resume_is_taken_from_where_it_is_held() {
    let mut pair = Pair::new();
    (0..3).for_each(|_| pair.device.measure("/bin/init", INIT));
    pair.attest(Attach::LogsFrom(0));
    pair.device.resume();
    pair.device.measure("/bin/sh", SHELL);
    pair.device.ima_from = 3;
    let next = pair.attest(Attach::LogsFrom(0));
    assert_eq!((next.new_boot, next.state.verdict, next.acknowledged.ima), (false, Verdict::Affirmed, 4));
}

/// Numbers without a pattern, the same each time.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % bound
    }
}

#[test]
fn a_log_judged_across_resumes_is_judged_as_in_one_go() {
    for seed in 1..150 {
        let mut random = Random(0x9E37_79B9_7F4A_7C15 ^ seed << 7);
        let mut pair = Pair::new();
        for _ in 0..random.below(12) + 1 {
            match random.below(6) {
                0 => pair.device.resume(),
                1 => pair.report(Kind::TextChanged, "/bin/sh", SHELL),
                2 => pair.device.run("/tmp/implant", [40 + random.below(3) as u8; 32]),
                3 => pair.device.measure("/bin/init", INIT),
                _ => pair.device.run("/bin/init", INIT),
            }
            let (held, rest) = (pair.held(), pair.device.runtime_entries());
            let attach = match random.below(4) {
                0 => Attach::Nothing,
                1 => Attach::LogsFrom(0),
                2 => Attach::Piece { first: held, count: random.below(rest.saturating_sub(held) + 1) },
                _ => Attach::LogsFrom(held),
            };
            pair.attest(attach);
        }
        let last = pair.attest(Attach::LogsFrom(0));
        let (now, across) = (pair.judge.now, pair.judge.files.clone());
        let mut once = Pair { judge: Judge::new(pair.device.keys, pair.judge.references), device: pair.device };
        once.judge.now = now;
        let whole = once.attest(Attach::LogsFrom(0));
        let told = |appraisal: &Appraisal| -> BTreeSet<(Code, String)> {
            let causes = appraisal.state.causes.iter().filter(|cause| cause.code != Code::BootUnseen);
            causes.map(|cause| (cause.code, cause.detail.clone())).collect()
        };
        assert_eq!(told(&last), told(&whole), "seed {seed}");
        let files = |files: &[MeasuredFile]| files.iter().cloned().collect::<BTreeSet<_>>();
        assert_eq!(files(&across), files(&once.judge.files), "seed {seed}");
        assert_eq!(last.acknowledged, whole.acknowledged, "seed {seed}");
    }
}

#[test]
fn nothing_that_is_sent_moves_counters_back_or_an_expiry_forward_without_a_fresh_nonce() {
    for seed in 1..40 {
        let mut random = Random(0x9E37_79B9_7F4A_7C15 ^ seed << 7);
        let mut pair = Pair::seen();
        let mut recorded: Vec<Vec<u8>> = Vec::new();
        for _ in 0..60 {
            pair.pass(random.below(200));
            match random.below(8) {
                0 => pair.device.reboot(),
                1 => pair.device.restart(),
                2 => pair.device.resume(),
                3 => pair.device.clear(),
                _ => pair.device.run("/bin/init", INIT),
            }
            let nonce = if random.below(3) == 0 { pair.judge.challenge_after_last() } else { pair.judge.challenge() };
            let (made, before) = (pair.judge.now, pair.judge.state.clone().unwrap());
            recorded.push(pair.device.attest(&[nonce], Attach::LogsFrom(0)));
            let chosen = recorded[random.below(recorded.len() as u64) as usize].clone();
            let appraisal = match pair.judge.take(&chosen) {
                Ok(appraisal) => appraisal,
                Err(_) => {
                    assert_eq!(pair.judge.state.as_ref(), Some(&before), "what is refused changes nothing");
                    continue;
                }
            };
            let state = appraisal.state;
            if state.last.counters <= before.last.counters {
                assert_eq!((state.cleared.is_some(), state.verdict), (true, Verdict::Unknown));
                assert_eq!(state.since, made + 1);
            }
            assert!(state.not_older_than >= before.not_older_than && state.not_older_than <= made);
            assert_eq!(state.expires, state.not_older_than + pair.judge.policy.validity);
            assert_eq!(state.at(state.expires).0, Verdict::Unknown);
        }
    }
}

#[test]
fn boots_that_nobody_saw_are_told_up_to_what_policy_allows() {
    type Between = fn(&mut SoftwareDevice);
    let cases: [(Between, u32); 5] = [
        (|device| device.reboot(), 0),
        (|device| (0..3).for_each(|_| device.reboot()), 2),
        // Whoever boots in between may shut down so that resetCount does not tell.
        (|device| (device.reboot(), device.restart()).1, 1),
        (|device| device.restart(), 0),
        (|device| (0..3).for_each(|_| device.restart()), 2),
    ];
    for (case, (between, unseen)) in cases.into_iter().enumerate() {
        for allowed in 0..4 {
            let mut pair = Pair::seen();
            pair.judge.policy.unseen_boots = allowed;
            between(&mut pair.device);
            pair.device.run("/bin/init", INIT);
            let told = codes(&pair.attest(Attach::LogsFrom(0))).contains(&Code::BootUnseen);
            assert_eq!(told, unseen > allowed, "case {case}, {allowed} allowed");
            pair.device.reboot();
            assert!(!codes(&pair.attest(Attach::LogsFrom(0))).contains(&Code::BootUnseen), "until the next boot");
        }
    }
}

#[test]
fn what_came_before_the_first_evidence_or_a_clear_is_not_unseen() {
    let mut pair = Pair::new();
    (pair.device.counters.reset, pair.device.counters.restart) = (900, 7);
    pair.device.run("/bin/init", INIT);
    assert_eq!(codes(&pair.attest(Attach::LogsFrom(0))), []);
    pair.device.clear();
    pair.device.counters.restart = 3;
    pair.pass(MINUTE);
    let answer = pair.device.attest(&[pair.judge.challenge_after_last()], Attach::LogsFrom(0));
    assert_eq!(codes(&pair.judge.take(&answer).unwrap()), [Code::TpmCleared]);
}

#[test]
fn a_clear_within_the_first_boot_of_a_tpm_is_another_boot() {
    let mut pair = Pair::new();
    pair.device.clear();
    pair.device.run("/tmp/implant", IMPLANT);
    pair.attest(Attach::LogsFrom(0));
    pair.device.clear();
    pair.pass(1);
    let answer = pair.device.attest(&[pair.judge.challenge_after_last()], Attach::Nothing);
    let cleared = pair.judge.take(&answer).unwrap();
    assert!(cleared.new_boot && codes(&cleared).contains(&Code::TpmCleared), "{:?}", cleared.state.causes);
}

#[test]
fn the_rest_of_a_log_can_be_asked_for_in_the_second_of_a_clear() {
    let mut pair = Pair::seen();
    pair.device.clear();
    pair.pass(1);
    let answer = pair.device.attest(&[pair.judge.challenge_after_last()], Attach::Piece { first: 0, count: 1 });
    assert_eq!(pair.judge.take(&answer).unwrap().acknowledged.runtime, 1);
    let plain = pair.device.attest(&[pair.judge.challenge()], Attach::LogsFrom(1));
    assert_eq!(pair.judge.take(&plain).unwrap_err(), NotJudged::Stale(Stale::Generation));
    let bound = pair.device.attest(&[pair.judge.challenge_after_last()], Attach::LogsFrom(1));
    assert_eq!(codes(&pair.judge.take(&bound).unwrap()), [Code::TpmCleared]);
}

#[test]
fn starts_of_the_tpm_while_nothing_is_decided_are_counted_from_what_was_last_known() {
    let mut pair = Pair::seen();
    pair.device.restart();
    (0..3).for_each(|_| pair.device.run("/bin/init", INIT));
    pair.attest(Attach::Piece { first: 0, count: 1 });
    pair.device.restart();
    pair.device.run("/bin/init", INIT);
    let booted = pair.attest(Attach::LogsFrom(0));
    assert_eq!((booted.new_boot, codes(&booted)), (true, vec![Code::BootUnseen]));
    assert!(booted.state.causes[0].detail.ends_with(": 1"), "{:?}", booted.state.causes);
    let mut bare = Pair::new();
    bare.attest(Attach::LogsFrom(0));
    bare.device.run("/bin/init", INIT);
    bare.device.resume();
    bare.attest(Attach::Nothing);
    bare.device.resume();
    let resumed = bare.attest(Attach::LogsFrom(0));
    assert_eq!((resumed.new_boot, codes(&resumed)), (false, vec![Code::BootUnseen]));
}

#[test]
fn many_resumes_of_one_boot_are_not_unseen_boots_where_its_log_shows_it() {
    let mut pair = Pair::seen();
    (0..20).for_each(|_| pair.device.resume());
    assert_eq!(codes(&pair.attest(Attach::LogsFrom(0))), []);
    // Where nothing was ever extended, a resume and a boot look alike.
    let mut bare = Pair::new();
    bare.attest(Attach::LogsFrom(0));
    (0..2).for_each(|_| bare.device.resume());
    assert!(codes(&bare.attest(Attach::LogsFrom(0))).contains(&Code::BootUnseen));
}

#[test]
fn a_tpm_that_was_off_while_the_device_slept_keeps_pace() {
    let mut pair = Pair::seen();
    pair.judge.now += 10 * 3600;
    pair.device.resume();
    assert_eq!(codes(&pair.attest(Attach::LogsFrom(0))), []);
    pair.pass(3600);
    assert_eq!(codes(&pair.attest(Attach::Nothing)), []);
    pair.judge.now += 3600;
    assert_eq!(codes(&pair.attest(Attach::Nothing)), [Code::TpmClockPace]);
}

#[test]
fn a_clock_that_creeps_is_told_by_the_first_quote_where_the_last_does_not() {
    let mut pair = Pair::seen();
    let told = (1..20).find(|_| {
        // A clock that stands still for a quarter of a minute may be two processes that do not agree; for minutes not.
        pair.judge.now += 15;
        let message = pair.device.attest(&[pair.judge.challenge()], Attach::Nothing);
        codes(&pair.judge.take(&message).unwrap()).contains(&Code::TpmClockPace)
    });
    assert_eq!(told, Some(2));
}

#[test]
fn a_clock_that_stands_still_for_a_while_is_told_by_the_last_quote_where_the_first_does_not() {
    let mut pair = Pair::seen();
    pair.pass(24 * 3600);
    assert_eq!(codes(&pair.attest(Attach::Nothing)), []);
    pair.judge.now += 3600;
    assert_eq!(codes(&pair.attest(Attach::Nothing)), [Code::TpmClockPace]);
}

#[test]
fn what_quotes_cover_is_said_until_a_boot_or_a_lapse_breaks_it() {
    let mut pair = Pair::seen();
    let start = pair.judge.now;
    let again = pair.attest(Attach::Nothing);
    assert_eq!(again.closed, None);
    let covered = Attested { from: start, until: start + MINUTE, reset: 1, restart: 0 };
    assert_eq!(again.state.attested(), Some(covered));
    // A log that does not lead to the quote covers nothing.
    pair.device.run("/bin/sh", SHELL);
    pair.device.run("/bin/sh", SHELL);
    let incomplete = pair.attest(Attach::Piece { first: 2, count: 1 });
    assert_eq!((incomplete.state.verdict, incomplete.state.attested()), (Verdict::Unknown, Some(covered)));
    let complete = pair.attest(Attach::LogsFrom(3));
    let covered = Attested { until: pair.judge.now, ..covered };
    assert_eq!((complete.state.attested(), complete.closed), (Some(covered), None));
    pair.pass(pair.judge.policy.validity);
    let lapsed = pair.attest(Attach::Nothing);
    let now = pair.judge.now;
    assert_eq!(lapsed.closed, Some(covered));
    assert_eq!(lapsed.state.attested(), Some(Attested { from: now, until: now, ..covered }));
    pair.device.reboot();
    pair.device.run("/bin/init", INIT);
    let booted = pair.attest(Attach::LogsFrom(0));
    assert_eq!(booted.closed, Some(Attested { from: now, until: now, ..covered }));
    let now = pair.judge.now;
    assert_eq!(booted.state.attested(), Some(Attested { from: now, until: now, reset: 2, restart: 0 }));
}

#[test]
fn a_boot_whose_logs_contradict_is_not_covered_from_then_on() {
    let mut pair = Pair::seen();
    let covered = pair.judge.state.as_ref().unwrap().attested();
    pair.pass(MINUTE);
    let forged = pair.device.attest_with(&[pair.judge.challenge()], Attach::LogsFrom(0), &|_, mut bytes| {
        bytes[40] ^= 1;
        bytes
    });
    pair.judge.take(&forged).unwrap();
    let after = pair.attest(Attach::LogsFrom(0));
    assert_eq!((codes(&after), after.state.attested()), (vec![Code::LogMismatch; 2], covered));
}

#[test]
fn of_several_good_nonces_the_youngest_counts() {
    let mut pair = Pair::new();
    let old = pair.judge.challenge();
    pair.judge.epochs.previous = Some(OpenEpoch { number: pair.judge.now - 3600, nonce: [5; 32] });
    pair.pass(MINUTE);
    let (young, now) = (pair.judge.challenge(), pair.judge.now);
    for nonces in [[old, young, [5; 32]], [young, old, [5; 32]], [[5; 32], old, young]] {
        let message = pair.device.attest(&nonces, Attach::LogsFrom(0));
        assert_eq!(pair.judge.appraise(&message).unwrap().state.not_older_than, now);
    }
}

#[test]
fn a_verdict_lasts_no_shorter_for_an_epoch_that_opened_before_the_last_request() {
    let mut pair = Pair::seen();
    pair.judge.epochs.current = Some(OpenEpoch { number: pair.judge.now - 3000, nonce: [5; 32] });
    let expires = pair.judge.state.as_ref().unwrap().expires;
    pair.pass(MINUTE);
    let message = pair.device.attest(&[[5; 32]], Attach::Nothing);
    assert_eq!(pair.judge.take(&message).unwrap().state.expires, expires, "the quote is younger than the last one");
}

#[test]
fn a_nonce_of_an_earlier_generation_is_refused_whatever_evidence_it_names() {
    let mut pair = Pair::seen();
    let old = pair.judge.challenge_after_last();
    pair.pass(1);
    pair.judge.since = pair.judge.now;
    let message = pair.device.attest(&[old], Attach::Nothing);
    assert_eq!(pair.judge.take(&message).unwrap_err(), NotJudged::Stale(Stale::Generation));
}

#[test]
fn a_nonce_of_an_earlier_generation_is_refused_and_one_of_this_is_not() {
    let mut pair = Pair::new();
    let old = pair.judge.challenge();
    pair.judge.epochs.current = Some(OpenEpoch { number: pair.judge.now, nonce: [5; 32] });
    pair.pass(10);
    pair.judge.since = pair.judge.now;
    let (new, messages) = (pair.judge.challenge(), [old, [5; 32]]);
    for nonce in messages {
        let message = pair.device.attest(&[nonce], Attach::LogsFrom(0));
        assert_eq!(pair.judge.take(&message).unwrap_err(), NotJudged::Stale(Stale::Generation));
    }
    // A stale nonce beside a good one takes nothing away.
    let message = pair.device.attest(&[old, new], Attach::LogsFrom(0));
    assert!(pair.judge.take(&message).is_ok());
}

#[test]
fn an_approved_finding_stays_approved_when_it_is_told_again_and_not_when_it_happens_again() {
    let mut pair = Pair::seen();
    pair.report(Kind::TextChanged, "/bin/sh", SHELL);
    pair.report(Kind::MemoryOnly, "memfd:x", IMPLANT);
    let found = pair.attest(Attach::LogsFrom(2));
    assert_eq!(codes(&found), [Code::RuntimeTextChanged, Code::RuntimeFromMemory]);
    pair.report(Kind::TextChanged, "/bin/sh", SHELL);
    let twice = pair.attest(Attach::LogsFrom(4)).state.causes;
    assert_eq!(twice[0].first_seen, found.state.judged, "what happens twice is there since it first happened");
    pair.judge.standing.approved_at = pair.judge.now;
    for attach in [Attach::Nothing, Attach::LogsFrom(0)] {
        assert_eq!(pair.attest(attach).state.verdict, Verdict::Affirmed, "{attach:?}");
    }
    pair.device.resume();
    assert_eq!(pair.attest(Attach::LogsFrom(0)).state.verdict, Verdict::Affirmed);
    pair.report(Kind::TextChanged, "/bin/sh", SHELL);
    assert_eq!(codes(&pair.attest(Attach::LogsFrom(0))), [Code::RuntimeTextChanged]);
    pair.report(Kind::MemoryOnly, "memfd:x", IMPLANT);
    assert_eq!(codes(&pair.attest(Attach::LogsFrom(6))), [Code::RuntimeTextChanged, Code::RuntimeFromMemory]);
}

#[test]
fn a_finding_in_the_second_of_an_approval_is_not_ended_by_it() {
    let mut pair = Pair::seen();
    pair.report(Kind::TextChanged, "/bin/sh", SHELL);
    pair.pass(MINUTE);
    pair.judge.standing.approved_at = pair.judge.now;
    let message = pair.device.attest(&[pair.judge.challenge()], Attach::LogsFrom(2));
    assert_eq!(codes(&pair.judge.take(&message).unwrap()), [Code::RuntimeTextChanged]);
    assert_eq!(codes(&pair.attest(Attach::Nothing)), [Code::RuntimeTextChanged]);
}

#[test]
fn what_a_release_lists_by_now_is_no_compromise_and_a_name_that_looks_like_a_digest_is_one() {
    let mut pair = Pair::seen();
    pair.report(Kind::MemoryOnly, "memfd:jit", IMPLANT);
    let listed = format!("/tmp/x sha256:{}", "09".repeat(32));
    pair.report(Kind::AnonymousMemory, &listed, [0; 32]);
    assert_eq!(codes(&pair.attest(Attach::LogsFrom(2))), [Code::RuntimeFromMemory; 2]);
    let executables = [("/bin/init", INIT), ("/bin/sh", SHELL), ("/usr/bin/jit", IMPLANT)];
    pair.judge.references = index(vec![signed("1.1", &executables, &[(0, [0; 32])])]);
    let mut within = Pair { judge: Judge::new(pair.device.keys, Default::default()), device: SoftwareDevice::new() };
    std::mem::swap(&mut within.device, &mut pair.device);
    std::mem::swap(&mut within.judge, &mut pair.judge);
    // In the same boot, and once only the boot after it tells.
    let state = within.judge.state.clone();
    let same = within.attest(Attach::Nothing);
    assert_eq!((codes(&same).len(), same.state.causes[0].detail.contains("without a file")), (1, true));
    within.judge.state = state;
    within.device.reboot();
    within.device.run("/bin/init", INIT);
    let after = within.attest(Attach::LogsFrom(0));
    assert_eq!(codes(&after), [Code::HistoryCompromised], "{:?}", after.state.causes);
    assert!(after.state.causes[0].detail.starts_with("runtime.from-memory: /tmp/x sha256:"));
}

#[test]
fn the_same_compromise_in_two_boots_is_told_once_and_ended_by_no_approval_from_between() {
    let mut pair = Pair::seen();
    let mut found = Vec::new();
    for _ in 0..2 {
        pair.report(Kind::TextChanged, "/bin/sh", SHELL);
        found.push(pair.attest(Attach::LogsFrom(0)).state.judged);
        pair.device.reboot();
    }
    let after = pair.attest(Attach::LogsFrom(0)).state;
    assert_eq!(after.compromised.iter().map(|finding| finding.since).collect::<Vec<_>>(), found[1..]);
    assert_eq!((after.causes.len(), after.causes[0].code), (1, Code::HistoryCompromised));
}

#[test]
fn what_policy_tolerates_is_no_compromise_of_an_earlier_boot() {
    let mut pair = Pair::seen();
    let tolerate = "[[tolerate]]\ncause = \"runtime.from-memory\"\nwhy = \"a JIT\"\nuntil = 2100-01-01\n";
    let host =
        ["runtime.unanchored", "boot.unprotected"].map(|cause| tolerate.replace("runtime.from-memory", cause)).concat();
    pair.judge.policy = Policy::from_toml(&(host + tolerate)).unwrap();
    pair.report(Kind::AnonymousMemory, "/usr/bin/java", [0; 32]);
    assert_eq!(pair.attest(Attach::LogsFrom(2)).state.verdict, Verdict::Affirmed);
    pair.device.reboot();
    pair.device.run("/bin/init", INIT);
    assert_eq!(pair.attest(Attach::LogsFrom(0)).state.verdict, Verdict::Affirmed);
}

#[test]
fn a_finding_is_as_old_under_new_reference_values_that_give_it_too() {
    let mut pair = Pair::seen();
    pair.device.run("/tmp/implant", IMPLANT);
    let found = pair.attest(Attach::LogsFrom(2)).state;
    let executables = [("/bin/init", INIT), ("/bin/sh", SHELL)];
    pair.judge.references = index(vec![signed("1.1", &executables, &[(0, [0; 32])])]);
    let again = pair.attest(Attach::Nothing).state;
    assert_ne!(again.references, found.references);
    assert_eq!(again.causes[0].first_seen, found.judged);
}

#[test]
fn files_of_the_boot_before_are_not_judged_into_this_one() {
    let mut pair = Pair::seen();
    pair.device.run("/tmp/implant", IMPLANT);
    pair.attest(Attach::LogsFrom(2));
    let executables = [("/bin/init", INIT), ("/bin/sh", SHELL)];
    pair.judge.references = index(vec![signed("1.1", &executables, &[(0, [0; 32])])]);
    pair.device.reboot();
    pair.device.run("/bin/init", INIT);
    let clean = pair.attest(Attach::LogsFrom(0));
    assert_eq!(clean.state.verdict, Verdict::Affirmed, "{:?}", clean.state.causes);
}

#[test]
fn a_first_finding_of_its_kind_is_kept_among_any_number_of_others() {
    let mut pair = Pair::seen();
    (0..200).for_each(|n| pair.report(Kind::Unmeasured, &format!("/tmp/{n}"), [0; 32]));
    pair.report(Kind::TextChanged, "/bin/sh", SHELL);
    let flooded = pair.attest(Attach::LogsFrom(2));
    assert!(codes(&flooded).contains(&Code::RuntimeTextChanged));
    assert_eq!(flooded.state.boot.findings.len(), appraisal::state::MAX_FINDINGS);
}

fn current(pair: &Pair) -> Current {
    Current::of(pair.judge.state.as_ref(), &pair.judge.standing, 5, pair.judge.now)
}

#[test]
fn what_stands_against_a_device_shows_in_evidence_and_at_once_without() {
    let fault = |code| Finding { code, detail: "by the list".into(), since: 7 };
    let range = FirmwareRange { first: 0x2019_1023_0000_0000, last: 0x2019_1023_FFFF_FFFF, why: "CVE".into() };
    type Change = Box<dyn Fn(&mut appraisal::Standing)>;
    let cases: [(Code, Change); 6] = [
        (Code::IdentityRevoked, Box::new(|standing| standing.revoked = Some("stolen".into()))),
        (Code::IdentityKeyChanged, Box::new(|standing| standing.key_changed = Some(9))),
        (Code::IdentityEkRevoked, Box::new(move |s| s.endorsement = Some(fault(Code::IdentityEkRevoked)))),
        (Code::IdentityEkDenied, Box::new(move |s| s.endorsement = Some(fault(Code::IdentityEkDenied)))),
        (Code::IdentityEkUntrusted, Box::new(move |s| s.endorsement = Some(fault(Code::IdentityEkUntrusted)))),
        (Code::HardwareFirmwareDenied, Box::new(move |s| s.denied_firmware = [range.clone()].into())),
    ];
    for (code, change) in &cases {
        let mut pair = Pair::seen();
        assert_eq!(current(&pair).verdict, Verdict::Affirmed);
        let before = pair.judge.standing.clone();
        change(&mut pair.judge.standing);
        let at_once = current(&pair);
        assert_eq!((at_once.verdict, at_once.causes[0].code), (code.row().verdict, *code));
        let claim = code.row().claim;
        assert_eq!(at_once.vector.get(claim.0).unwrap_or(0), claim.1);
        let judged = pair.attest(Attach::Nothing).state;
        assert_eq!((judged.verdict, judged.causes[0].code), (code.row().verdict, *code));
        assert_eq!(current(&pair).causes.len(), 1, "it is told once");
        // Expired, it is told none the less; and once it is over, it is over at once.
        let late = Current::of(pair.judge.state.as_ref(), &pair.judge.standing, 5, judged.expires);
        assert_eq!(late.verdict, code.row().verdict.max(Verdict::Unknown));
        pair.judge.standing = before;
        assert_eq!((current(&pair).verdict, current(&pair).causes), (Verdict::Affirmed, vec![]));
    }
}

#[test]
fn a_device_that_was_never_seen_is_unknown_unless_something_stands_against_it() {
    let mut pair = Pair::new();
    let never = current(&pair);
    assert_eq!(
        (never.verdict, never.causes[0].code, never.causes[0].first_seen),
        (Verdict::Unknown, Code::NeverSeen, 5)
    );
    pair.judge.standing.revoked = Some("stolen".into());
    let revoked = current(&pair);
    let codes: Vec<Code> = revoked.causes.iter().map(|cause| cause.code).collect();
    assert_eq!((revoked.verdict, codes), (Verdict::Contraindicated, vec![Code::IdentityRevoked, Code::NeverSeen]));
}

#[test]
fn an_approval_ends_at_once_what_was_there_and_nothing_else() {
    let mut pair = Pair::seen();
    pair.report(Kind::TextChanged, "/bin/sh", SHELL);
    pair.attest(Attach::LogsFrom(2));
    assert_eq!(current(&pair).verdict, Verdict::Contraindicated);
    pair.judge.standing.approved_at = pair.judge.now - 1;
    assert_eq!(current(&pair).verdict, Verdict::Contraindicated);
    pair.judge.standing.approved_at = pair.judge.now;
    let approved = current(&pair);
    assert_eq!((approved.verdict, approved.causes), (Verdict::Affirmed, vec![]));
    assert_eq!(approved.vector.get(Claim::Executables), None, "until evidence makes the claim again");
    assert_eq!(pair.attest(Attach::Nothing).state.vector.get(Claim::Executables), Some(3));
    pair.device.run("/tmp/implant", IMPLANT);
    pair.report(Kind::TextChanged, "/bin/init", INIT);
    pair.attest(Attach::LogsFrom(3));
    pair.judge.standing.approved_at = pair.judge.now;
    let approved = current(&pair);
    let codes: Vec<Code> = approved.causes.iter().map(|cause| cause.code).collect();
    assert_eq!((approved.verdict, codes), (Verdict::Contraindicated, vec![Code::RuntimeUnknownExecutable]));
}

#[test]
fn a_changed_key_that_an_operator_has_seen_is_told_no_more() {
    let mut pair = Pair::seen();
    pair.judge.standing.key_changed = Some(9);
    pair.judge.standing.approved_at = 8;
    assert_eq!(current(&pair).verdict, Verdict::Contraindicated);
    pair.judge.standing.approved_at = 9;
    assert_eq!(current(&pair).verdict, Verdict::Affirmed);
    assert_eq!(pair.attest(Attach::Nothing).state.verdict, Verdict::Affirmed);
}

#[test]
fn no_policy_tolerates_a_revocation() {
    let mut pair = Pair::seen();
    let text = "[[tolerate]]\ncause = \"identity.revoked\"\nwhy = \"\"\nuntil = 2100-01-01\n";
    pair.judge.policy = Policy::from_toml(text).unwrap();
    pair.judge.standing.revoked = Some("stolen".into());
    assert_eq!(pair.attest(Attach::Nothing).state.verdict, Verdict::Contraindicated);
    assert_eq!(current(&pair).verdict, Verdict::Contraindicated);
}

#[test]
fn without_an_ek_certificate_nothing_is_claimed_of_hardware_or_identity() {
    let mut pair = Pair::seen();
    pair.judge.standing.no_ek_certificate = true;
    let state = pair.attest(Attach::Nothing).state;
    assert_eq!((state.verdict, state.causes[0].code), (Verdict::Warning, Code::IdentityNoEkCertificate));
    assert_eq!(state.vector.get(Claim::Hardware).or(state.vector.get(Claim::InstanceIdentity)), None);
    assert_eq!(state.product.as_deref(), Some(PRODUCT));
}

#[test]
fn a_device_that_never_got_a_result_tells_its_entries_again_and_nothing_is_incomplete() {
    let mut pair = Pair::seen();
    pair.device.run("/bin/sh", SHELL);
    // The device holds the result from before this one.
    assert_eq!(pair.attest(Attach::LogsFrom(2)).acknowledged.runtime, 3);
    let again = pair.attest(Attach::LogsFrom(2));
    assert_eq!((again.state.verdict, again.acknowledged.runtime), (Verdict::Affirmed, 3), "{:?}", again.state.causes);
    pair.device.run("/bin/init", INIT);
    let more = pair.attest(Attach::LogsFrom(2));
    assert_eq!((more.state.verdict, more.acknowledged.runtime), (Verdict::Affirmed, 4), "{:?}", more.state.causes);
    pair.device.run("/tmp/implant", IMPLANT);
    let implant = pair.attest(Attach::LogsFrom(1));
    assert_eq!(codes(&implant), [Code::RuntimeUnknownExecutable]);
    assert_eq!(implant.acknowledged.runtime, 5);
}

#[test]
fn entries_that_are_told_again_with_fewer_than_signed_for_are_a_contradiction() {
    let mut pair = Pair::seen();
    pair.device.run("/bin/sh", SHELL);
    pair.attest(Attach::LogsFrom(2));
    pair.device.run("/bin/init", INIT);
    pair.pass(MINUTE);
    let nonce = pair.judge.challenge();
    let short = pair.device.attest_with(&[nonce], Attach::LogsFrom(1), &|kind, mut bytes| {
        if kind == LogKind::Runtime {
            let half = bytes.len() / 3;
            bytes.truncate(half);
        }
        bytes
    });
    let judged = pair.judge.take(&short).expect("is judged");
    assert!(codes(&judged).contains(&Code::LogMismatch), "{:?}", judged.state.causes);
}
