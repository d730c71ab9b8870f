//! The conversation, with verifiers that behave and verifiers that don't.

use evidence::result::{Acknowledged, ResultCause, Tier, TrustVector};

use super::*;
use crate::pinned::testing::{NOT_AFTER, SEQUENCE, Verifier};

const DEVICE: DeviceId = DeviceId([9; 32]);
const NONCE: Nonce = [1; 32];
const HOUR: Duration = Duration::from_secs(3600);
const SECOND: Duration = Duration::from_secs(1);
/// Longest time over which devices spread after an outage.
const LONGEST_SPREAD: Duration = Duration::from_secs(60);
const MANNER: Manner = Manner { every: HOUR, results_always: false, goes_on: true };

impl Verifier {
    fn challenge(&self, nonce: Nonce, asked: bool) -> Vec<u8> {
        self.seal(Purpose::Request, &Challenge::new(DEVICE, nonce, asked))
    }

    fn epoch(&self, number: u64, nonce: u8) -> Vec<u8> {
        self.seal(Purpose::Epoch, &Epoch { number, period: 3600, nonce: [nonce; 32], closed: None })
    }

    fn exchange(&self, now: Instant) -> Exchange {
        Exchange::new(self.pinned("v1"), DEVICE, MANNER, now)
    }

    /// A conversation in which evidence for a challenge has been sent.
    fn sent(&self, now: Instant) -> Exchange {
        let mut exchange = Exchange::new(self.pinned("v1"), DEVICE, MANNER, now);
        exchange.connected(now);
        exchange.want(Why::Startup, now);
        assert_eq!(exchange.turn(now), Some(Why::Startup));
        exchange.challenge(&self.challenge(NONCE, false), now).unwrap();
        assert_eq!(answer(&mut exchange, &made(), now), Some((Why::Startup, Sending::ToBeAnswered)));
        exchange
    }

    /// A conversation whose first evidence was judged, and in which epoch 1 was answered.
    fn steady(&self, now: Instant) -> Exchange {
        let mut exchange = self.sent(now);
        exchange.result(&self.seal(Purpose::Result, &result()), now).unwrap();
        exchange.epoch(&self.epoch(SEQUENCE + 1, 101), Arrival::Live, now).unwrap();
        let due = exchange.until(now).unwrap();
        assert_eq!(exchange.turn(due), None);
        assert_eq!(answer(&mut exchange, &made(), due), Some((Why::Epoch, Sending::Silent)));
        exchange
    }
}

fn made() -> Made {
    Made { message: vec![1, 2, 3], digest: [5; 32], shown: Shown::default(), attached: false }
}

fn made_with_logs() -> Made {
    Made { attached: true, ..made() }
}

/// Has the evidence made that is ready, and sent.
fn answer(exchange: &mut Exchange, made: &Made, now: Instant) -> Option<(Why, Sending)> {
    let make = exchange.ready(now)?;
    exchange.making(make, now);
    Some((make.why, exchange.made(&make.nonce, made, now)?))
}

fn result() -> AttestationResult {
    AttestationResult {
        issued: SEQUENCE + 1000,
        expires: SEQUENCE + 1300,
        nonce: NONCE,
        device: DEVICE,
        developer: "v1".to_owned(),
        build: "test".to_owned(),
        evidence: [5; 32],
        acknowledged: Acknowledged::default(),
        status: Tier::Affirming,
        vector: TrustVector::default(),
        policy: "p".to_owned(),
        causes: Vec::new(),
        tolerated: Vec::new(),
        release: None,
        vouched: vec![],
    }
}

fn result_for(nonce: u8) -> AttestationResult {
    AttestationResult { nonce: [nonce; 32], ..result() }
}

fn incomplete(runtime: u64) -> AttestationResult {
    let causes = vec![ResultCause { code: INCOMPLETE.to_owned(), detail: String::new() }];
    let acknowledged = Acknowledged { runtime, ..Acknowledged::default() };
    AttestationResult { causes, acknowledged, status: Tier::None, ..result() }
}

// Results

#[test]
fn a_result_for_the_last_evidence_of_the_pinned_verifier_counts_once() {
    let (verifier, now) = (Verifier::new(), Instant::now());
    let mut exchange = verifier.sent(now);
    let message = verifier.seal(Purpose::Result, &result());
    assert_eq!(exchange.result(&message, now).unwrap().result, result());
    assert_eq!(exchange.result(&message, now), Err(Ignored::NotOurs));
    assert!(!exchange.is_busy());
}

#[test]
fn results_of_others_for_others_of_other_evidence_and_late_ones_do_not_count() {
    let (verifier, now) = (Verifier::new(), Instant::now());
    let mut exchange = verifier.sent(now);
    let by_others = [
        Verifier::new().seal(Purpose::Result, &result()),
        verifier.seal(Purpose::Refusal, &result()),
        // A key that may ask may not judge.
        verifier.request.seal(Purpose::Result, &result()),
        verifier.root.seal(Purpose::Result, &result()),
        b"no message".to_vec(),
    ];
    for forged in by_others {
        assert!(matches!(exchange.result(&forged, now), Err(Ignored::NotTrusted(_))));
    }
    let others = [
        (AttestationResult { device: DeviceId([8; 32]), ..result() }, Ignored::OtherDevice),
        (AttestationResult { nonce: [2; 32], ..result() }, Ignored::NotOurs),
        (AttestationResult { evidence: [6; 32], ..result() }, Ignored::NotOurs),
        (AttestationResult { expires: SEQUENCE + 1000, ..result() }, Ignored::Expired),
        (AttestationResult { expires: 0, ..result() }, Ignored::Expired),
    ];
    for (other, why) in others {
        assert_eq!(exchange.result(&verifier.seal(Purpose::Result, &other), now), Err(why));
    }
    let after_the_keys = AttestationResult { issued: NOT_AFTER, expires: NOT_AFTER + 300, ..result() };
    assert!(matches!(
        exchange.result(&verifier.seal(Purpose::Result, &after_the_keys), now),
        Err(Ignored::NotTrusted(NotTrusted::Expired { .. }))
    ));
    let late = now + SECOND * 300;
    assert_eq!(exchange.result(&verifier.seal(Purpose::Result, &result()), late), Err(Ignored::Expired));
    assert!(exchange.result(&verifier.seal(Purpose::Result, &result()), now).is_ok(), "nothing of it did harm");
}

#[test]
fn an_affirming_result_of_before_does_not_answer_the_evidence_of_now() {
    let (verifier, now) = (Verifier::new(), Instant::now());
    let mut exchange = verifier.sent(now);
    let old = verifier.seal(Purpose::Result, &result());
    exchange.result(&old, now).unwrap();
    exchange.challenge(&verifier.challenge([2; 32], true), now).unwrap();
    let bad = Made { digest: [6; 32], ..made() };
    assert_eq!(answer(&mut exchange, &bad, now), Some((Why::Request, Sending::ToBeAnswered)));
    assert_eq!(exchange.result(&old, now), Err(Ignored::NotOurs));
    assert!(exchange.is_busy(), "the judgement of now is still expected");
}

#[test]
fn a_result_that_nobody_expects_counts_whenever_it_comes() {
    let (verifier, now) = (Verifier::new(), Instant::now());
    let mut exchange = verifier.steady(now);
    assert!(!exchange.is_busy());
    let message = verifier.seal(Purpose::Result, &result_for(101));
    assert!(exchange.result(&message, now + SECOND * 100).is_ok());
    assert!(!exchange.is_busy());
    assert_eq!(exchange.result(&message, now), Err(Ignored::NotOurs));
}

#[test]
fn a_refusal_counts_for_the_message_that_was_sent_only() {
    let (verifier, now) = (Verifier::new(), Instant::now());
    let mut exchange = verifier.sent(now);
    let refusal = |message| Refusal { message, code: "envelope.signature".to_owned(), why: "w".to_owned() };
    let other = verifier.seal(Purpose::Refusal, &refusal([0; 32]));
    assert_eq!(exchange.refusal(&other, now), Err(Ignored::NotOurs));
    let ours = verifier.seal(Purpose::Refusal, &refusal(sha256(&made().message)));
    assert_eq!(exchange.refusal(&ours, now).unwrap().code, "envelope.signature");
    assert_eq!(exchange.refusal(&ours, now), Err(Ignored::NotOurs));
}

#[test]
fn refused_epoch_evidence_is_followed_by_a_hello() {
    let (verifier, now) = (Verifier::new(), Instant::now());
    let mut exchange = verifier.steady(now);
    let refusal = Refusal { message: sha256(&made().message), code: "freshness.nonce".to_owned(), why: "w".to_owned() };
    exchange.refusal(&verifier.seal(Purpose::Refusal, &refusal), now).unwrap();
    let until = exchange.until(now).unwrap();
    assert_eq!(exchange.turn(until), Some(Why::Epoch));
}

// Requests

#[test]
fn challenges_nobody_asked_for_are_limited_and_the_latest_is_answered() {
    let (verifier, now) = (Verifier::new(), Instant::now());
    let mut exchange = verifier.exchange(now);
    exchange.connected(now);
    let asked = |number: u8| verifier.challenge([number; 32], true);
    exchange.challenge(&asked(1), now).unwrap();
    let first = exchange.ready(now).unwrap();
    assert_eq!(first.why, Why::Request);
    exchange.making(first, now);
    for number in 2..=4 {
        assert_eq!(exchange.challenge(&asked(number), now), Ok(()));
    }
    assert_eq!(exchange.challenge(&asked(5), now), Err(Ignored::TooFast));
    assert_eq!(exchange.made(&first.nonce, &made(), now), None, "the older one is not sent");
    assert_eq!(exchange.ready(now).map(|make| make.nonce), Some([4; 32]));
    assert!(exchange.challenge(&asked(6), now + UNASKED_EACH).is_ok());
}

#[test]
fn a_request_for_another_device_of_another_verifier_or_by_the_wrong_key_makes_no_evidence() {
    let (verifier, now) = (Verifier::new(), Instant::now());
    let mut exchange = verifier.exchange(now);
    let other = verifier.seal(Purpose::Request, &Challenge::new(DeviceId([8; 32]), NONCE, true));
    assert_eq!(exchange.challenge(&other, now), Err(Ignored::OtherDevice));
    let challenge = Challenge::new(DEVICE, NONCE, true);
    for forged in [
        Verifier::new().challenge(NONCE, true),
        verifier.result.seal(Purpose::Request, &challenge),
        verifier.root.seal(Purpose::Request, &challenge),
        verifier.seal(Purpose::Epoch, &challenge),
    ] {
        assert!(matches!(exchange.challenge(&forged, now), Err(Ignored::NotTrusted(_))));
    }
    assert!(!exchange.is_busy() && exchange.ready(now).is_none());
}

#[test]
fn whoever_floods_a_device_with_requests_gets_thirty_quotes_a_minute() {
    let (verifier, begin) = (Verifier::new(), Instant::now());
    let mut exchange = verifier.exchange(begin);
    exchange.connected(begin);
    exchange.want(Why::Event, begin);
    let mut quotes = 0;
    // As from a verifier that takes every evidence for the beginning of a log that goes on.
    for tick in 0..6000 {
        let now = begin + Duration::from_millis(tick * 10);
        exchange.turn(now);
        drop(exchange.challenge(&verifier.challenge([2; 32], false), now));
        if answer(&mut exchange, &made(), now).is_some() {
            quotes += 1;
            let lie = AttestationResult { nonce: [2; 32], ..incomplete(tick + 1) };
            exchange.result(&verifier.seal(Purpose::Result, &lie), now).unwrap();
        }
    }
    assert!((30..=30 + QUOTES as usize).contains(&quotes), "{quotes}");
}

#[test]
fn messages_of_one_verifier_are_looked_at_so_many_at_a_time() {
    let (verifier, now) = (Verifier::new(), Instant::now());
    let mut exchange = verifier.exchange(now);
    assert_eq!((0..1000).filter(|_| exchange.listens(now)).count(), MESSAGES as usize);
    assert!(exchange.listens(now + MESSAGES_EACH) && !exchange.listens(now + MESSAGES_EACH));
}

// Asking again

#[test]
fn without_an_answer_it_asks_again_ever_more_rarely() {
    let (verifier, mut now) = (Verifier::new(), Instant::now());
    let mut exchange = verifier.sent(now);
    let mut last = Duration::ZERO;
    for _ in 0..12 {
        let until = exchange.until(now).unwrap();
        assert_eq!(exchange.turn(now), None);
        last = until - now;
        now = until;
        assert_eq!(exchange.turn(now), Some(Why::Startup));
    }
    assert!((LONGEST_WAIT.mul_f64(0.7)..=LONGEST_WAIT).contains(&last));
}

#[test]
fn what_was_under_way_when_the_connection_broke_is_wanted_again() {
    let (verifier, now) = (Verifier::new(), Instant::now());
    let mut exchange = verifier.sent(now);
    exchange.disconnected(now);
    assert!(exchange.is_busy() && exchange.until(now).is_none());
    assert_eq!(exchange.turn(now + HOUR), None, "nobody would hear it");
    exchange.connected(now);
    let until = exchange.until(now).unwrap();
    assert!(until <= now + LONGEST_SPREAD);
    assert_eq!(exchange.turn(until), Some(Why::Startup));
    assert_eq!(exchange.turn(until), None);
}

#[test]
fn an_attestation_due_meanwhile_follows_the_present_one() {
    let (verifier, now) = (Verifier::new(), Instant::now());
    let mut exchange = verifier.sent(now);
    exchange.want(Why::Event, now);
    assert_eq!(exchange.turn(now), None);
    exchange.result(&verifier.seal(Purpose::Result, &result()), now).unwrap();
    assert_eq!(exchange.turn(now), Some(Why::Event));
}

#[test]
fn an_event_does_not_wait_for_a_result_that_does_not_come() {
    let (verifier, now) = (Verifier::new(), Instant::now());
    let mut exchange = verifier.sent(now);
    exchange.want(Why::Event, now);
    assert_eq!(exchange.until(now), Some(now + EVENTS_TOGETHER));
    assert_eq!(exchange.turn(now + EVENTS_TOGETHER), Some(Why::Event));
}

#[test]
fn evidence_that_could_not_be_made_is_tried_again_later() {
    let (verifier, now) = (Verifier::new(), Instant::now());
    let mut exchange = verifier.exchange(now);
    exchange.connected(now);
    exchange.challenge(&verifier.challenge(NONCE, true), now).unwrap();
    let make = exchange.ready(now).unwrap();
    exchange.making(make, now);
    exchange.failed(&NONCE, now);
    let until = exchange.until(now).unwrap();
    assert!(until >= now + FIRST_WAIT && exchange.ready(now).is_none());
    assert_eq!(exchange.turn(until), Some(Why::Request));
}

#[test]
fn an_epoch_whose_evidence_cannot_be_made_is_tried_ever_more_rarely() {
    let (verifier, begin) = (Verifier::new(), Instant::now());
    let mut exchange = verifier.exchange(begin);
    exchange.connected(begin);
    exchange.epoch(&verifier.epoch(SEQUENCE + 1, 1), Arrival::Live, begin).unwrap();
    let (mut now, mut tries) = (begin, 0);
    while let Some(at) = exchange.until(now).filter(|at| *at < begin + HOUR * 2) {
        now = at;
        exchange.turn(now);
        if let Some(make) = exchange.ready(now) {
            exchange.making(make, now);
            exchange.failed(&make.nonce, now);
            tries += 1;
        }
    }
    assert!((2..20).contains(&tries), "{tries}");
}

// Logs that take more than one message

#[test]
fn after_an_incomplete_log_the_next_challenge_is_answered_at_once() {
    let (verifier, now) = (Verifier::new(), Instant::now());
    let mut exchange = verifier.sent(now);
    let accepted = exchange.result(&verifier.seal(Purpose::Result, &incomplete(7)), now).unwrap();
    assert!(accepted.incomplete && accepted.held.runtime == 7);
    exchange.challenge(&verifier.challenge([2; 32], false), now).unwrap();
    assert_eq!(exchange.ready(now), Some(Make { nonce: [2; 32], why: Why::Startup }));
}

#[test]
fn a_log_that_leads_nowhere_is_not_sent_round_in_circles() {
    let (verifier, now) = (Verifier::new(), Instant::now());
    let mut exchange = verifier.sent(now);
    // As from a verifier that takes a log up to its end, finds that it misses the quote, and begins anew.
    let mut rounds = 0;
    while exchange.is_busy() {
        let runtime = if rounds % 2 == 0 { 100 } else { 0 };
        exchange.result(&verifier.seal(Purpose::Result, &incomplete(runtime)), now).unwrap();
        if exchange.is_busy() {
            exchange.challenge(&verifier.challenge(NONCE, false), now).unwrap();
            assert!(answer(&mut exchange, &made(), now).is_some());
        }
        rounds += 1;
    }
    assert_eq!(rounds, 3);
}

#[test]
fn a_verifier_that_finds_a_gap_in_silent_evidence_gets_what_it_lacks() {
    let (verifier, now) = (Verifier::new(), Instant::now());
    let mut exchange = verifier.steady(now);
    let lost = AttestationResult { nonce: [101; 32], ..incomplete(0) };
    assert!(exchange.result(&verifier.seal(Purpose::Result, &lost), now).unwrap().incomplete);
    assert!(exchange.is_busy());
    exchange.challenge(&verifier.challenge([2; 32], false), now).unwrap();
    assert_eq!(answer(&mut exchange, &made_with_logs(), now), Some((Why::Epoch, Sending::ToBeAnswered)));
}

#[test]
fn a_verifier_that_lost_what_it_held_is_asked_for_a_challenge_at_once_and_not_for_ever() {
    let (verifier, now) = (Verifier::new(), Instant::now());
    let mut exchange = verifier.steady(now);
    let lost = AttestationResult { nonce: [101; 32], ..incomplete(0) };
    exchange.result(&verifier.seal(Purpose::Result, &lost), now).unwrap();
    let mut hellos = 0;
    while exchange.turn(now).is_some() {
        hellos += 1;
        exchange.challenge(&verifier.challenge(NONCE, false), now).unwrap();
        assert!(answer(&mut exchange, &made(), now).is_some());
        exchange.result(&verifier.seal(Purpose::Result, &incomplete(0)), now).unwrap();
    }
    assert_eq!(hellos, 1);
    // One that lacks only what did not fit asks by itself.
    let mut exchange = verifier.sent(now);
    exchange.challenge(&verifier.challenge(NONCE, false), now).unwrap();
    assert!(answer(&mut exchange, &made_with_logs(), now).is_some());
    exchange.result(&verifier.seal(Purpose::Result, &incomplete(7)), now).unwrap();
    assert!(exchange.is_busy() && exchange.turn(now).is_none());
}

// Epochs

#[test]
fn each_epoch_gets_one_message_at_an_instant_within_it_and_needs_no_answer() {
    let (verifier, mut now) = (Verifier::new(), Instant::now());
    let mut exchange = verifier.steady(now);
    for number in 2..10_u8 {
        now += HOUR;
        let message = verifier.epoch(SEQUENCE + 3600 * u64::from(number), 100 + number);
        exchange.epoch(&message, Arrival::Live, now).unwrap();
        let due = exchange.until(now).unwrap();
        assert!((now..now + HOUR - SECOND * 30).contains(&due));
        assert_eq!(exchange.turn(due), None, "no hello");
        assert_eq!(exchange.ready(due).map(|make| make.nonce), Some([100 + number; 32]));
        assert_eq!(answer(&mut exchange, &made(), due), Some((Why::Epoch, Sending::Silent)));
        let next = exchange.until(due).unwrap();
        assert!(!exchange.is_busy() && next > now + HOUR * 2, "nothing more in this epoch");
        assert_eq!(exchange.turn(now + HOUR), None);
    }
}

#[test]
fn instants_of_many_devices_spread_over_the_epoch() {
    let (verifier, now) = (Verifier::new(), Instant::now());
    let message = verifier.epoch(SEQUENCE + 1, 1);
    let mut quarters = [0; 4];
    for _ in 0..100 {
        let mut exchange = verifier.exchange(now);
        exchange.connected(now);
        exchange.epoch(&message, Arrival::Live, now).unwrap();
        let due = exchange.until(now).unwrap() - now;
        quarters[(due.as_secs() / 900).min(3) as usize] += 1;
    }
    assert!(quarters.iter().all(|&count| count >= 5), "{quarters:?}");
}

#[test]
fn what_the_broker_kept_is_answered_within_what_remains_of_the_epoch() {
    let (verifier, now) = (Verifier::new(), Instant::now());
    let due = |clock: u64| {
        let mut exchange = verifier.exchange(now);
        exchange.connected(now);
        let message = verifier.epoch(SEQUENCE + 10_000, 1);
        exchange.epoch(&message, Arrival::Kept(clock), now).unwrap();
        exchange.until(now).unwrap() - now
    };
    for _ in 0..20 {
        assert!(due(SEQUENCE + 10_000 + 3000) <= SECOND * 570, "600 s remain");
        // A clock that is wrong chooses another instant, and does no other harm.
        for wrong in [0, SEQUENCE, SEQUENCE + 20_000, u64::MAX] {
            assert!(due(wrong) <= HOUR / 2);
        }
    }
}

#[test]
fn an_epoch_of_before_or_of_others_is_not_answered() {
    let (verifier, now) = (Verifier::new(), Instant::now());
    let mut exchange = verifier.exchange(now);
    exchange.connected(now);
    let old = verifier.epoch(SEQUENCE + 1, 1);
    exchange.epoch(&verifier.epoch(SEQUENCE + 2, 2), Arrival::Live, now).unwrap();
    for again in [old, verifier.epoch(SEQUENCE + 2, 3)] {
        let kept = exchange.epoch(&again, Arrival::Kept(0), now);
        assert!(matches!(kept, Err(Ignored::OldEpoch(_, newest)) if newest == SEQUENCE + 2));
    }
    let epoch = Epoch { number: SEQUENCE + 9, period: 3600, nonce: [9; 32], closed: None };
    for forged in [
        Verifier::new().seal(Purpose::Epoch, &epoch),
        verifier.result.seal(Purpose::Epoch, &epoch),
        verifier.root.seal(Purpose::Epoch, &epoch),
        verifier.seal(Purpose::Request, &epoch),
    ] {
        assert!(matches!(exchange.epoch(&forged, Arrival::Live, now), Err(Ignored::NotTrusted(_))));
    }
    let none = verifier.seal(Purpose::Epoch, &Epoch { period: 0, ..epoch });
    assert_eq!(exchange.epoch(&none, Arrival::Live, now), Err(Ignored::NoEpoch));
    let due = exchange.until(now).unwrap();
    exchange.turn(due);
    assert_eq!(exchange.ready(due).map(|make| make.nonce), Some([2; 32]));
}

#[test]
fn an_epoch_from_after_the_keys_end_shuts_nobody_out() {
    let (verifier, now) = (Verifier::new(), Instant::now());
    let mut exchange = verifier.exchange(now);
    let forged = verifier.epoch(u64::MAX, 1);
    assert!(matches!(exchange.epoch(&forged, Arrival::Live, now), Err(Ignored::NotTrusted(_))));
    assert_eq!(exchange.epoch(&verifier.epoch(SEQUENCE + 1, 2), Arrival::Live, now), Ok(()));
}

#[test]
fn after_a_rotation_the_numbers_of_a_stolen_key_bind_nobody() {
    let (mut verifier, now) = (Verifier::new(), Instant::now());
    let mut exchange = verifier.exchange(now);
    exchange.epoch(&verifier.epoch(NOT_AFTER - 1, 1), Arrival::Live, now).unwrap();
    let old = verifier.epoch(NOT_AFTER - 1, 1);
    verifier.rotate();
    assert_eq!(exchange.keys(&verifier.keys(SEQUENCE + 5, NOT_AFTER + 5), now), Ok(true));
    assert!(matches!(exchange.epoch(&old, Arrival::Kept(0), now), Err(Ignored::NotTrusted(_))));
    assert_eq!(exchange.epoch(&verifier.epoch(SEQUENCE + 6, 2), Arrival::Live, now), Ok(()));
}

#[test]
fn an_epoch_signed_anew_after_a_rotation_is_not_answered_twice() {
    let (mut verifier, now) = (Verifier::new(), Instant::now());
    let mut exchange = verifier.steady(now);
    verifier.rotate();
    exchange.keys(&verifier.keys(SEQUENCE + 5, NOT_AFTER), now).unwrap();
    exchange.epoch(&verifier.epoch(SEQUENCE + 1, 101), Arrival::Live, now).unwrap();
    assert!(exchange.until(now).unwrap() > now + HOUR);
}

#[test]
fn an_epoch_that_came_before_its_keys_counts_when_they_come() {
    let (verifier, now) = (Verifier::new(), Instant::now());
    let mut exchange = Exchange::new(verifier.without_keys("v1"), DEVICE, MANNER, now);
    exchange.connected(now);
    exchange.want(Why::Startup, now);
    let message = verifier.epoch(SEQUENCE + 1, 1);
    assert_eq!(exchange.epoch(&message, Arrival::Kept(0), now), Err(Ignored::NotTrusted(NotTrusted::NoKeys)));
    assert!(exchange.epoch(&vec![0; 1 << 20], Arrival::Live, now).is_err() && exchange.early.is_none());
    exchange.epoch(&message, Arrival::Kept(0), now).unwrap_err();
    assert_eq!(exchange.keys(&verifier.keys(SEQUENCE, NOT_AFTER), now), Ok(true));
    assert_eq!(exchange.turn(now), None);
    assert_eq!(exchange.ready(now), Some(Make { nonce: [1; 32], why: Why::Startup }));
}

#[test]
fn keys_with_a_lower_sequence_change_nothing() {
    let (mut verifier, now) = (Verifier::new(), Instant::now());
    let old = verifier.keys(SEQUENCE - 1, NOT_AFTER);
    verifier.rotate();
    let mut exchange = verifier.exchange(now);
    assert!(matches!(exchange.keys(&old, now), Err(Ignored::NotTrusted(NotTrusted::Replaced(..)))));
    assert!(exchange.challenge(&verifier.challenge(NONCE, true), now).is_ok());
}

#[test]
fn evidence_with_something_attached_is_answered_or_asked_about() {
    let (verifier, now) = (Verifier::new(), Instant::now());
    let mut exchange = verifier.steady(now);
    exchange.epoch(&verifier.epoch(SEQUENCE + 3600, 102), Arrival::Live, now).unwrap();
    let due = exchange.until(now).unwrap();
    exchange.turn(due);
    assert_eq!(answer(&mut exchange, &made_with_logs(), due), Some((Why::Epoch, Sending::ToBeAnswered)));
    let until = exchange.until(due).unwrap();
    assert!(until <= due + FIRST_WAIT * 2);
    assert_eq!(exchange.turn(until), Some(Why::Epoch), "its nonce is used up");
    // Not where another has opened meanwhile.
    exchange.epoch(&verifier.epoch(SEQUENCE + 7200, 103), Arrival::Live, until).unwrap();
    let again = exchange.until(until).unwrap();
    assert_eq!(exchange.turn(again), None);
    assert_eq!(exchange.ready(again).map(|make| make.nonce), Some([103; 32]));
}

#[test]
fn at_startup_the_epoch_that_the_broker_keeps_saves_the_hello() {
    let (verifier, now) = (Verifier::new(), Instant::now());
    let mut exchange = verifier.exchange(now);
    exchange.want(Why::Startup, now);
    exchange.connected(now);
    assert_eq!(exchange.turn(now), None, "the epoch may be on its way");
    exchange.epoch(&verifier.epoch(SEQUENCE + 1, 1), Arrival::Kept(SEQUENCE + 60), now).unwrap();
    assert_eq!(exchange.turn(now), None);
    assert_eq!(answer(&mut exchange, &made_with_logs(), now), Some((Why::Startup, Sending::ToBeAnswered)));
    assert!(exchange.result(&verifier.seal(Purpose::Result, &result_for(1)), now).is_ok());
    assert!(exchange.until(now).unwrap() > now + HOUR, "this epoch is answered");
}

#[test]
fn at_startup_without_an_epoch_it_says_hello_after_two_seconds() {
    let (verifier, now) = (Verifier::new(), Instant::now());
    let mut exchange = verifier.exchange(now);
    exchange.want(Why::Startup, now);
    exchange.connected(now);
    assert_eq!(exchange.until(now), Some(now + EPOCH_WITHIN));
    assert_eq!(exchange.turn(now + EPOCH_WITHIN), Some(Why::Startup));
}

#[test]
fn an_event_goes_out_at_once_under_the_open_epoch_and_those_that_follow_together() {
    let (verifier, now) = (Verifier::new(), Instant::now());
    let mut exchange = verifier.steady(now);
    let now = now + HOUR / 2;
    exchange.want(Why::Event, now);
    assert_eq!(exchange.turn(now), None, "no hello");
    assert_eq!(answer(&mut exchange, &made_with_logs(), now), Some((Why::Event, Sending::ToBeAnswered)));
    exchange.result(&verifier.seal(Purpose::Result, &result_for(101)), now).unwrap();
    for later in 1..4 {
        exchange.want(Why::Event, now + SECOND * later);
    }
    assert_eq!(exchange.turn(now + SECOND * 4), None);
    assert!(exchange.ready(now + SECOND * 4).is_none());
    exchange.turn(now + EVENTS_TOGETHER);
    assert!(answer(&mut exchange, &made_with_logs(), now + EVENTS_TOGETHER).is_some());
    // What did not help under the epoch's nonce is asked about.
    let until = exchange.until(now + EVENTS_TOGETHER).unwrap();
    assert_eq!(exchange.turn(until), Some(Why::Event));
}

#[test]
fn after_an_outage_of_many_epochs_exactly_one_message_goes_out_and_soon() {
    let (verifier, begin) = (Verifier::new(), Instant::now());
    let mut exchange = verifier.steady(begin);
    let mut now = begin + HOUR / 2;
    exchange.disconnected(now);
    exchange.want(Why::Event, now);
    now += HOUR * 40;
    exchange.connected(now);
    let number = SEQUENCE + 3600 * 40;
    exchange.epoch(&verifier.epoch(number, 140), Arrival::Kept(number + 5), now).unwrap();
    let mut messages = 0;
    let end = now + HOUR;
    while let Some(at) = exchange.until(now).filter(|at| *at < end) {
        now = at;
        assert_eq!(exchange.turn(now), None, "no hello");
        if let Some((why, _)) = answer(&mut exchange, &made_with_logs(), now) {
            assert!(why == Why::Event && now <= end - HOUR + LONGEST_SPREAD);
            exchange.result(&verifier.seal(Purpose::Result, &result_for(140)), now).unwrap();
            messages += 1;
        }
    }
    assert_eq!(messages, 1);
}

#[test]
fn epochs_missed_while_nothing_was_new_are_made_up_for_soon_too() {
    let (verifier, begin) = (Verifier::new(), Instant::now());
    for _ in 0..20 {
        let mut exchange = verifier.steady(begin);
        exchange.disconnected(begin);
        let now = begin + HOUR * 3;
        exchange.connected(now);
        let number = SEQUENCE + 3600 * 3;
        exchange.epoch(&verifier.epoch(number, 103), Arrival::Kept(number + 5), now).unwrap();
        let due = exchange.until(now).unwrap();
        assert!(due <= now + LONGEST_SPREAD, "{:?}", due - now);
        assert_eq!(exchange.turn(due), None);
        assert_eq!(answer(&mut exchange, &made(), due), Some((Why::Epoch, Sending::Silent)));
        assert!(exchange.until(due).unwrap() > now + HOUR);
    }
}

#[test]
fn a_request_takes_the_place_of_the_epochs_evidence() {
    let (verifier, now) = (Verifier::new(), Instant::now());
    for making in [false, true] {
        let mut exchange = verifier.steady(now);
        exchange.epoch(&verifier.epoch(SEQUENCE + 3601, 102), Arrival::Live, now).unwrap();
        let due = exchange.until(now).unwrap();
        exchange.turn(due);
        let under_way = exchange.ready(due).unwrap();
        assert_eq!(under_way.nonce, [102; 32]);
        if making {
            exchange.making(under_way, due);
        }
        exchange.challenge(&verifier.challenge([2; 32], true), due).unwrap();
        if making {
            assert_eq!(exchange.made(&under_way.nonce, &made(), due), None);
        }
        assert_eq!(answer(&mut exchange, &made(), due), Some((Why::Request, Sending::ToBeAnswered)));
        exchange.result(&verifier.seal(Purpose::Result, &result_for(2)), due).unwrap();
        assert!(exchange.until(due).unwrap() > now + HOUR, "one message in this epoch");
    }
}

#[test]
fn a_million_devices_do_not_come_back_at_once() {
    let (verifier, now) = (Verifier::new(), Instant::now());
    let mut first = 0;
    for _ in 0..60 {
        let mut exchange = verifier.sent(now);
        exchange.disconnected(now);
        exchange.connected(now);
        let at = exchange.until(now).unwrap() - now;
        assert!(at >= EPOCH_WITHIN && at <= LONGEST_SPREAD);
        first += usize::from(at <= SECOND * 20);
    }
    assert!((5..50).contains(&first), "{first}");
}

#[test]
fn a_short_outage_changes_nothing() {
    let (verifier, now) = (Verifier::new(), Instant::now());
    let mut exchange = verifier.steady(now);
    let message = verifier.epoch(SEQUENCE + 3601, 102);
    exchange.epoch(&message, Arrival::Live, now).unwrap();
    let due = exchange.until(now).unwrap();
    exchange.disconnected(now);
    exchange.connected(now);
    assert!(exchange.epoch(&message, Arrival::Kept(0), now).is_err());
    assert!(exchange.until(now).unwrap() >= due);
}

#[test]
fn with_results_always_it_says_hello_in_each_epoch() {
    let (verifier, now) = (Verifier::new(), Instant::now());
    let manner = Manner { results_always: true, ..MANNER };
    let mut exchange = Exchange::new(verifier.pinned("v1"), DEVICE, manner, now);
    exchange.connected(now);
    for number in 1..4 {
        exchange.epoch(&verifier.epoch(SEQUENCE + u64::from(number), number), Arrival::Live, now).unwrap();
        let due = exchange.until(now).unwrap();
        assert_eq!(exchange.turn(due), Some(Why::Epoch));
        exchange.challenge(&verifier.challenge([number + 50; 32], false), due).unwrap();
        assert_eq!(answer(&mut exchange, &made(), due), Some((Why::Epoch, Sending::ToBeAnswered)));
        exchange.result(&verifier.seal(Purpose::Result, &result_for(number + 50)), due).unwrap();
        assert_eq!(exchange.turn(due), None, "once");
    }
}

#[test]
fn a_verifier_without_epochs_hears_hello_in_the_devices_own_period() {
    let (verifier, now) = (Verifier::new(), Instant::now());
    let mut exchange = verifier.exchange(now);
    exchange.connected(now);
    let at = exchange.until(now).unwrap();
    assert!((now + HOUR.mul_f64(0.79)..=now + HOUR).contains(&at));
    assert_eq!(exchange.turn(at), Some(Why::Epoch));
}

#[test]
fn a_verifier_whose_epochs_end_hears_hello_again() {
    let (verifier, now) = (Verifier::new(), Instant::now());
    let mut exchange = verifier.steady(now);
    let at = exchange.until(now).unwrap();
    assert!((now + HOUR * 2..=now + HOUR * 4).contains(&at));
    assert_eq!(exchange.turn(at), Some(Why::Epoch));
}

#[test]
fn one_attestation_by_hand_uses_no_epoch() {
    let (verifier, now) = (Verifier::new(), Instant::now());
    let manner = Manner { goes_on: false, ..MANNER };
    let mut exchange = Exchange::new(verifier.pinned("v1"), DEVICE, manner, now);
    exchange.want(Why::Startup, now);
    exchange.connected(now);
    exchange.epoch(&verifier.epoch(SEQUENCE + 1, 1), Arrival::Live, now).unwrap();
    assert_eq!(exchange.turn(now), Some(Why::Startup));
    exchange.challenge(&verifier.challenge(NONCE, false), now).unwrap();
    answer(&mut exchange, &made(), now).unwrap();
    exchange.result(&verifier.seal(Purpose::Result, &result()), now).unwrap();
    assert!(!exchange.is_busy() && exchange.until(now).is_none());
}

// Together

#[test]
fn a_verifier_whose_epoch_is_unanswered_goes_along_once() {
    let (verifier, now) = (Verifier::new(), Instant::now());
    let mut exchange = verifier.steady(now);
    assert_eq!(exchange.goes_along(Why::Epoch, now), None, "answered");
    exchange.epoch(&verifier.epoch(SEQUENCE + 3601, 102), Arrival::Live, now).unwrap();
    for other in [Why::Startup, Why::Request, Why::Event] {
        assert_eq!(exchange.goes_along(other, now), None, "it would be answered, and nobody asked");
    }
    let nonce = exchange.goes_along(Why::Epoch, now).unwrap();
    exchange.making(Make { nonce, why: Why::Epoch }, now);
    assert_eq!(exchange.made(&nonce, &made(), now), Some(Sending::Silent));
    assert_eq!(exchange.goes_along(Why::Epoch, now), None);
    assert!(exchange.until(now).unwrap() > now + HOUR);
}

#[test]
fn evidence_that_was_made_for_a_connection_of_before_is_not_sent() {
    let (verifier, now) = (Verifier::new(), Instant::now());
    let mut exchange = verifier.exchange(now);
    exchange.connected(now);
    exchange.challenge(&verifier.challenge(NONCE, true), now).unwrap();
    let make = exchange.ready(now).unwrap();
    exchange.making(make, now);
    exchange.disconnected(now);
    exchange.connected(now);
    assert_eq!(exchange.made(&NONCE, &made(), now), None);
    assert!(exchange.is_busy(), "it is wanted still");
}
