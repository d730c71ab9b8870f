//! Evidence that was good once.

use appraisal::{Stale, Verdict, freshness::CHALLENGE_LIFETIME};
use devices::{
    judge::{Judge, NotJudged, references},
    software::Attach,
};

use crate::honest;

#[test]
fn an_older_message_is_a_replay_and_leaves_the_state_untouched() {
    let (mut device, mut judge) = honest();
    let old = device.attest(&[judge.challenge()], Attach::LogsFrom(0));
    assert_eq!(judge.take(&old).unwrap().state.verdict, Verdict::Affirmed);
    device.run("/tmp/implant", [9; 32]);
    let bad = device.attest(&[judge.challenge()], Attach::LogsFrom(1));
    assert_eq!(judge.take(&bad).unwrap().state.verdict, Verdict::Contraindicated);
    let before = judge.state.clone();
    assert_eq!(judge.take(&old).unwrap_err(), NotJudged::Stale(Stale::Replay));
    assert_eq!(judge.state, before);
}

#[test]
fn the_same_message_twice_is_a_duplicate() {
    let (mut device, mut judge) = honest();
    let message = device.attest(&[judge.challenge()], Attach::LogsFrom(0));
    judge.take(&message).unwrap();
    assert_eq!(judge.take(&message).unwrap_err(), NotJudged::Stale(Stale::Duplicate));
}

#[test]
fn a_replay_from_before_a_reboot_is_refused_though_its_clock_may_be_later() {
    let (mut device, mut judge) = honest();
    device.counters.clock = 1_000_000;
    let old = device.attest(&[judge.challenge()], Attach::LogsFrom(0));
    device.reboot();
    device.run("/bin/init", [1; 32]);
    device.counters.clock = 10;
    let new = device.attest(&[judge.challenge()], Attach::LogsFrom(0));
    judge.take(&new).unwrap();
    assert_eq!(judge.take(&old).unwrap_err(), NotJudged::Stale(Stale::Replay));
}

#[test]
fn an_answer_after_the_challenge_has_expired_is_refused() {
    let (mut device, mut judge) = honest();
    let message = device.attest(&[judge.challenge()], Attach::LogsFrom(0));
    judge.now += CHALLENGE_LIFETIME + 1;
    assert_eq!(judge.take(&message).unwrap_err(), NotJudged::Stale(Stale::Expired));
}

#[test]
fn a_nonce_of_another_verifier_or_device_or_of_the_attacker_is_refused() {
    let (mut device, mut judge) = honest();
    let (_, mut other_device) = honest();
    let mut other_verifier = Judge::new(device.keys, Default::default());
    other_verifier.verifier.0 = [2; 32];
    for nonce in [other_device.challenge(), other_verifier.challenge(), [7; 32], [0; 32]] {
        let message = device.attest(&[nonce], Attach::LogsFrom(0));
        assert_eq!(judge.take(&message).unwrap_err(), NotJudged::Stale(Stale::NotOurs));
    }
}

#[test]
fn one_evidence_serves_several_verifiers_each_by_its_own_nonce() {
    let (mut device, mut judge) = honest();
    let mut second = Judge::new(device.keys, references("1.0", &[("/bin/init", [1; 32])], &[(0, [0; 32])]));
    second.verifier.0 = [2; 32];
    let message = device.attest(&[judge.challenge(), second.challenge(), [3; 32]], Attach::LogsFrom(0));
    assert_eq!(judge.take(&message).unwrap().state.verdict, Verdict::Affirmed);
    assert_eq!(second.take(&message).unwrap().state.verdict, Verdict::Affirmed);
}

#[test]
fn an_expired_verdict_says_nothing_any_more() {
    let (mut device, mut judge) = honest();
    let state = judge.challenge();
    let state = judge.take(&device.attest(&[state], Attach::LogsFrom(0))).unwrap().state;
    assert_eq!(state.expires, judge.now + judge.policy.validity);
    assert_eq!(state.at(state.expires - 1).0, Verdict::Affirmed);
    let (verdict, causes) = state.at(state.expires);
    assert_eq!((verdict, causes[0].code), (Verdict::Unknown, appraisal::Code::Overdue));
}
