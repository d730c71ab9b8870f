//! Evidence that is made early, late, or with a TPM whose counters somebody moved.

use appraisal::{Appraisal, Code, OpenEpoch, Stale, Verdict, freshness::CHALLENGE_LIFETIME};
use devices::{
    judge::{Judge, NotJudged},
    software::{Attach, SoftwareDevice},
};
use evidence::{claims::Nonce, epoch, tpm::Counters, verifier_message::VerifierKeyId};

use crate::{asked, codes, honest};

const PERIOD: u64 = 3600;

/// The epoch that opened at `number`, as this judge's verifier draws it.
fn opened(judge: &Judge, number: u64) -> OpenEpoch {
    OpenEpoch {
        number,
        nonce: epoch::nonce(&judge.verifier, number, &number.to_be_bytes().repeat(4).try_into().unwrap()),
    }
}

/// Opens the next epoch, now.
fn open_epoch(judge: &mut Judge) -> Nonce {
    let next = opened(judge, judge.now);
    judge.epochs.previous = judge.epochs.current.replace(next);
    next.nonce
}

fn stale(judged: Result<Appraisal, NotJudged>) -> Stale {
    match judged {
        Err(NotJudged::Stale(stale)) => stale,
        other => panic!("expected staleness, got {other:?}"),
    }
}

/// What TPM2_Clear does to the counters; the key is the same after it.
fn clear(device: &mut SoftwareDevice) {
    device.counters = Counters { reset: 0, restart: 0, clock: 10 };
}

/// The answer to the request that names the last evidence.
fn asked_after_last(device: &mut SoftwareDevice, judge: &mut Judge, attach: Attach) -> Result<Appraisal, NotJudged> {
    let nonce = judge.challenge_after_last();
    judge.take(&device.attest(&[nonce], attach))
}

/// A device that was judged once, whose clock stands high.
fn judged_once() -> (SoftwareDevice, Judge) {
    let (mut device, mut judge) = honest();
    device.counters.clock = 1_000_000;
    let message = device.attest(&[judge.challenge()], Attach::LogsFrom(0));
    assert_eq!(judge.take(&message).unwrap().state.verdict, Verdict::Affirmed);
    (device, judge)
}

/// The same after its TPM was cleared, and evidence from before that nobody has seen, for nonces that are good still.
fn cleared() -> (SoftwareDevice, Judge, Vec<Vec<u8>>) {
    let (mut device, mut judge) = judged_once();
    let epoch = open_epoch(&mut judge);
    let nonces = [judge.challenge(), judge.challenge_after_last(), epoch];
    let held_back = nonces.iter().map(|nonce| device.attest(&[*nonce], Attach::LogsFrom(0))).collect();
    judge.now += 5;
    clear(&mut device);
    let answer = device.attest(&[judge.challenge_after_last()], Attach::LogsFrom(0));
    let appraisal = judge.take(&answer).unwrap();
    assert_eq!((appraisal.state.verdict, codes(&appraisal)), (Verdict::Unknown, vec![Code::TpmCleared]));
    (device, judge, held_back)
}

#[test]
fn a_nonce_of_tomorrow_is_refused() {
    let (mut device, mut judge) = honest();
    judge.now += 3600;
    let nonce = judge.challenge();
    judge.now -= 3600;
    let message = device.attest(&[nonce], Attach::LogsFrom(0));
    assert!(matches!(judge.take(&message), Err(NotJudged::Stale(Stale::Expired))));
}

#[test]
fn the_nonce_of_yesterday_is_refused() {
    let (mut device, mut judge) = honest();
    let yesterday = judge.challenge();
    let epoch_of_yesterday = open_epoch(&mut judge);
    for _ in 0..24 {
        judge.now += PERIOD;
        open_epoch(&mut judge);
    }
    let answer = device.attest(&[yesterday], Attach::LogsFrom(0));
    assert_eq!(stale(judge.take(&answer)), Stale::Expired);
    let answer = device.attest(&[epoch_of_yesterday], Attach::LogsFrom(0));
    assert_eq!(stale(judge.take(&answer)), Stale::NotOurs);
}

#[test]
fn the_current_and_the_previous_epoch_are_accepted_and_no_older_or_coming_one() {
    let (mut device, mut judge) = honest();
    let mut nonces = Vec::new();
    for _ in 0..3 {
        nonces.push(open_epoch(&mut judge));
        judge.now += PERIOD;
    }
    nonces.push(opened(&judge, judge.now).nonce);
    for (age, nonce) in nonces.iter().enumerate() {
        let judged = judge.appraise(&device.attest(&[*nonce], Attach::LogsFrom(0)));
        match age {
            1 | 2 => assert_eq!(judged.unwrap().state.verdict, Verdict::Affirmed),
            _ => assert_eq!(stale(judged), Stale::NotOurs, "epoch {age}"),
        }
    }
}

#[test]
fn an_early_quote_of_a_long_epoch_is_as_old_as_the_epoch() {
    let (mut device, mut judge) = honest();
    let opening = judge.now;
    let nonce = open_epoch(&mut judge);
    // Quoted at once, kept back while something else runs, and sent in the last second in which it is accepted.
    let early = device.attest(&[nonce], Attach::LogsFrom(0));
    device.run("/tmp/implant", [9; 32]);
    judge.now += PERIOD;
    open_epoch(&mut judge);
    judge.now += PERIOD - 1;
    let state = judge.take(&early).unwrap().state;
    assert_eq!(state.not_older_than, opening);
    assert_eq!(state.expires, opening + judge.policy.validity, "not a second for having been kept back");
}

#[test]
fn an_epoch_of_another_verifier_is_refused() {
    let (mut device, mut judge) = honest();
    open_epoch(&mut judge);
    let mut other = Judge::new(device.keys, Default::default());
    other.verifier = VerifierKeyId([2; 32]);
    let nonce = open_epoch(&mut other);
    assert_eq!(stale(judge.take(&device.attest(&[nonce], Attach::LogsFrom(0)))), Stale::NotOurs);
}

#[test]
fn one_epoch_is_answered_once_and_then_only_by_newer_evidence() {
    let (mut device, mut judge) = honest();
    let nonce = open_epoch(&mut judge);
    let (old, new) = (device.attest(&[nonce], Attach::LogsFrom(0)), device.attest(&[nonce], Attach::LogsFrom(0)));
    judge.take(&new).unwrap();
    assert_eq!(stale(judge.take(&new)), Stale::Duplicate);
    assert_eq!(stale(judge.take(&old)), Stale::Replay);
}

#[test]
fn counters_that_go_back_are_a_replay_under_every_nonce_but_the_one_that_names_the_last_evidence() {
    let (mut device, mut judge) = judged_once();
    let before = judge.state.clone();
    clear(&mut device);
    let (request, epoch) = (judge.challenge(), open_epoch(&mut judge));
    for nonce in [request, epoch] {
        let answer = device.attest(&[nonce], Attach::LogsFrom(0));
        assert_eq!(stale(judge.take(&answer)), Stale::Replay);
        assert_eq!(judge.state, before, "a replay leaves no trace");
    }
    let answer = device.attest(&[judge.challenge_after_last()], Attach::LogsFrom(0));
    assert!(codes(&judge.take(&answer).unwrap()).contains(&Code::TpmCleared));
}

#[test]
fn each_counter_counts_before_those_behind_it() {
    let higher = Counters { reset: 5, restart: 5, clock: 5_000 };
    for back in [
        Counters { reset: 4, restart: 9, clock: 9_000 },
        Counters { reset: 5, restart: 4, clock: 9_000 },
        Counters { reset: 5, restart: 5, clock: 4_000 },
        Counters { reset: 5, restart: 5, clock: 5_000 },
    ] {
        let (mut device, mut judge) = honest();
        device.counters = higher;
        asked(&mut device, &mut judge, Attach::LogsFrom(0)).unwrap();
        // One tick is added by the quote.
        device.counters = back;
        let answer = device.attest(&[judge.challenge()], Attach::LogsFrom(0));
        assert_eq!(stale(judge.take(&answer)), Stale::Replay, "{back:?}");
    }
}

#[test]
fn a_request_that_names_evidence_is_good_for_no_evidence_after_another() {
    let (mut device, mut judge) = judged_once();
    let named = judge.challenge_after_last();
    asked(&mut device, &mut judge, Attach::Nothing).unwrap();
    clear(&mut device);
    assert_eq!(stale(judge.take(&device.attest(&[named], Attach::LogsFrom(0)))), Stale::NotOurs);
}

#[test]
fn evidence_from_before_a_clear_never_counts_again() {
    let (mut device, mut judge, held_back) = cleared();
    let known = judge.state.clone();
    for message in &held_back {
        assert!(matches!(stale(judge.take(message)), Stale::Generation | Stale::NotOurs));
        assert_eq!(judge.state, known);
    }
    // Nor after the approval, nor later.
    judge.now += 60;
    judge.standing.approved_at = judge.now;
    asked(&mut device, &mut judge, Attach::Nothing).unwrap();
    for message in &held_back {
        assert!(matches!(stale(judge.take(message)), Stale::Generation | Stale::NotOurs));
    }
}

#[test]
fn evidence_from_before_a_clear_counts_not_even_within_the_same_second() {
    let (mut device, mut judge) = judged_once();
    let (plain, epoch) = (judge.challenge(), open_epoch(&mut judge));
    let held_back = [plain, epoch].map(|nonce| device.attest(&[nonce], Attach::LogsFrom(0)));
    clear(&mut device);
    let answer = device.attest(&[judge.challenge_after_last()], Attach::LogsFrom(0));
    assert!(codes(&judge.take(&answer).unwrap()).contains(&Code::TpmCleared));
    for message in &held_back {
        assert!(judge.take(message).is_err(), "its counters are higher: it would push the present state aside");
    }
}

#[test]
fn a_clear_asks_for_an_operator_and_an_approval_from_before_it_is_none() {
    let (mut device, mut judge, _) = cleared();
    judge.standing.approved_at = judge.now - 1;
    judge.now += 10;
    let still = asked(&mut device, &mut judge, Attach::Nothing).unwrap();
    assert_eq!((still.state.verdict, codes(&still)), (Verdict::Unknown, vec![Code::TpmCleared]));
    device.reboot();
    device.run("/bin/init", [1; 32]);
    judge.now += 10;
    let rebooted = asked(&mut device, &mut judge, Attach::LogsFrom(0)).unwrap();
    assert!(codes(&rebooted).contains(&Code::TpmCleared), "a reboot is no approval");
    judge.standing.approved_at = judge.now;
    judge.now += 10;
    let approved = asked(&mut device, &mut judge, Attach::Nothing).unwrap();
    assert_eq!((approved.state.verdict, codes(&approved)), (Verdict::Affirmed, vec![]));
}

#[test]
fn an_answer_to_the_special_request_that_goes_forward_clears_nothing() {
    let (mut device, mut judge) = judged_once();
    let appraisal = asked_after_last(&mut device, &mut judge, Attach::Nothing).unwrap();
    assert_eq!((appraisal.state.verdict, codes(&appraisal)), (Verdict::Affirmed, vec![]));
}

#[test]
fn a_clock_that_was_moved_forward_is_told_and_cannot_be_moved_back() {
    let (mut device, mut judge) = judged_once();
    judge.now += 600;
    // TPM2_ClockSet takes the owner's authorisation, and goes forward only.
    device.counters.clock += 365 * 24 * 3600 * 1000;
    let moved = asked(&mut device, &mut judge, Attach::Nothing).unwrap();
    assert!(codes(&moved).contains(&Code::TpmClockPace), "{:?}", moved.state.causes);
    assert_ne!(moved.state.verdict, Verdict::Affirmed);
    judge.now += 600;
    device.counters.clock += 600_000;
    let later = asked(&mut device, &mut judge, Attach::Nothing).unwrap();
    assert!(codes(&later).contains(&Code::TpmClockPace), "it stays until the device boots");
}

#[test]
fn a_clock_that_stands_still_is_told() {
    let (mut device, mut judge) = judged_once();
    judge.now += 4 * 3600;
    let frozen = asked(&mut device, &mut judge, Attach::Nothing).unwrap();
    assert!(codes(&frozen).contains(&Code::TpmClockPace), "{:?}", frozen.state.causes);
}

#[test]
fn a_clock_that_keeps_time_is_never_accused_however_messages_are_delayed() {
    // Quoted anywhere between the opening of the epoch and the receipt, with a clock that is a third too fast or slow.
    for pace in [670_u64, 1000, 1330] {
        for (first, second) in [(0, 0), (0, PERIOD), (PERIOD, 0), (PERIOD - 1, 1)] {
            let (mut device, mut judge) = honest();
            device.counters.clock = 1_000_000;
            let start = judge.now;
            let at = |device: &mut SoftwareDevice, seconds: u64| device.counters.clock = 1_000_000 + seconds * pace;
            let nonce = open_epoch(&mut judge);
            at(&mut device, first);
            let message = device.attest(&[nonce], Attach::LogsFrom(0));
            judge.now = start + PERIOD;
            judge.take(&message).unwrap();
            let nonce = open_epoch(&mut judge);
            at(&mut device, PERIOD + 1 + second);
            let message = device.attest(&[nonce], Attach::Nothing);
            judge.now = start + 2 * PERIOD + 1;
            let appraisal = judge.take(&message).unwrap();
            assert_eq!(codes(&appraisal), [], "pace {pace}, {first} and {second} seconds into the epochs");
        }
    }
}

#[test]
fn a_boot_that_nobody_saw_is_told() {
    let (mut device, mut judge) = judged_once();
    judge.now += 600;
    device.reboot();
    device.reboot();
    device.run("/bin/init", [1; 32]);
    let unseen = asked(&mut device, &mut judge, Attach::LogsFrom(0)).unwrap();
    assert!(codes(&unseen).contains(&Code::BootUnseen), "{:?}", unseen.state.causes);
}

#[test]
fn a_verdict_outlives_its_policy_s_validity_by_nothing_that_a_device_sends() {
    let (mut device, mut judge) = judged_once();
    let expires = judge.state.as_ref().unwrap().expires;
    let (late, replayed) = (judge.challenge(), device.attest(&[judge.challenge()], Attach::Nothing));
    judge.take(&replayed).unwrap();
    judge.now += CHALLENGE_LIFETIME + 1;
    for message in [device.attest(&[late], Attach::Nothing), replayed] {
        assert!(judge.take(&message).is_err());
    }
    assert_eq!(judge.state.as_ref().unwrap().at(expires).0, Verdict::Unknown);
}
