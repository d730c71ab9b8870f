//! The conversation with one verifier: in go its messages and the passing of time, out comes what to do next. No clock, no
//! network, no TPM in here. Only what the pinned key signed counts, and a result only for the evidence that was sent last.

use std::time::{Duration, Instant};

use evidence::{
    challenge::{Challenge, Refusal},
    claims::{DeviceId, Nonce, Why},
    pcr::sha256,
    result::AttestationResult,
    verifier_message::Purpose,
};

use crate::{
    attest::Made,
    pinned::{NotTrusted, Pinned},
    positions::{Held, Shown},
    state::jitter,
};

/// First time to wait for a challenge or a result; doubled with each try.
const FIRST_WAIT: Duration = Duration::from_secs(15);
/// Longest wait.
const LONGEST_WAIT: Duration = Duration::from_secs(900);
/// Challenges that nobody asked for: so many at once, then one each [`REFILL`]. A quote takes a TPM half a second.
const UNASKED: u32 = 4;
/// Time in which one more challenge is allowed.
const REFILL: Duration = Duration::from_secs(10);
/// Results without progress that one attestation may meet: a verifier that lost its state begins anew once.
const MAX_SETBACKS: u32 = 1;
/// Cause that asks for the rest of a log (`docs/causes.md`).
const INCOMPLETE: &str = "log.incomplete";

/// Where the conversation stands.
#[derive(Debug, Clone)]
enum Step {
    /// Nothing to do.
    Idle,
    /// A challenge is expected.
    Asked { why: Why, until: Instant },
    /// Evidence is being made.
    Making { nonce: Nonce, why: Why },
    /// A result is expected.
    Sent { evidence: Sent, why: Why, until: Instant },
}

/// Evidence that was sent.
#[derive(Debug, Clone)]
struct Sent {
    nonce: Nonce,
    digest: [u8; 32],
    message: [u8; 32],
    shown: Shown,
    at: Instant,
}

/// Make evidence for this.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Make {
    pub(crate) nonce: Nonce,
    pub(crate) why: Why,
}

/// A result that counts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Accepted {
    pub(crate) result: AttestationResult,
    /// What the verifier holds now.
    pub(crate) held: Held,
    /// Whether it waits for the rest of a log.
    pub(crate) incomplete: bool,
}

/// Why a message does not count.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Ignored {
    /// Not the pinned verifier's.
    #[error(transparent)]
    NotTrusted(#[from] NotTrusted),
    /// For another device.
    #[error("it is for another device")]
    OtherDevice,
    /// More challenges than any verifier needs.
    #[error("challenges come too fast")]
    TooFast,
    /// Nothing was sent that it could answer.
    #[error("it does not answer the evidence that was sent last")]
    NotOurs,
    /// It says nothing any more.
    #[error("it had expired when it came")]
    Expired,
}

/// The conversation.
#[derive(Debug)]
pub(crate) struct Exchange {
    pub(crate) verifier: Pinned,
    device: DeviceId,
    step: Step,
    /// An attestation that has to follow the present one.
    wanted: Option<Why>,
    /// A challenge that came while evidence was being made.
    newer: Option<Make>,
    tries: u32,
    /// The furthest log position that this attestation has reached.
    furthest: u64,
    /// Results of this attestation that did not get further.
    setbacks: u32,
    allowance: u32,
    refilled: Instant,
}

impl Exchange {
    /// Nothing said yet.
    pub(crate) const fn new(verifier: Pinned, device: DeviceId, now: Instant) -> Self {
        let (step, allowance) = (Step::Idle, UNASKED);
        let (wanted, newer) = (None, None);
        Self { verifier, device, step, wanted, newer, tries: 0, furthest: 0, setbacks: 0, allowance, refilled: now }
    }

    /// An attestation is due. Say hello where this returns why.
    pub(crate) fn want(&mut self, why: Why, now: Instant) -> Option<Why> {
        if matches!(self.step, Step::Idle) {
            self.step = Step::Asked { why, until: now + self.wait() };
            (self.furthest, self.setbacks) = (0, 0);
            return Some(why);
        }
        self.wanted = Some(why);
        None
    }

    /// An attestation is due, and there is no connection yet.
    pub(crate) const fn want_later(&mut self, why: Why) -> Option<Why> {
        self.wanted = Some(why);
        None
    }

    /// The connection is there (again). Say hello where this returns why.
    pub(crate) fn connected(&mut self, now: Instant) -> Option<Why> {
        let why = self.wanted.take()?;
        self.want(why, now)
    }

    /// The connection is gone: what was under way is wanted again.
    pub(crate) fn disconnected(&mut self) {
        self.wanted = self.why().or(self.wanted);
        (self.step, self.newer) = (Step::Idle, None);
    }

    const fn why(&self) -> Option<Why> {
        match &self.step {
            Step::Idle => None,
            Step::Asked { why, .. } | Step::Making { why, .. } | Step::Sent { why, .. } => Some(*why),
        }
    }

    /// When [`Self::overdue`] has to be asked next.
    pub(crate) const fn until(&self) -> Option<Instant> {
        match &self.step {
            Step::Asked { until, .. } | Step::Sent { until, .. } => Some(*until),
            Step::Idle | Step::Making { .. } => None,
        }
    }

    /// An answer did not come in time. Say hello again where this returns why: never the old evidence again.
    pub(crate) fn overdue(&mut self, now: Instant) -> Option<Why> {
        if self.until().is_none_or(|until| until > now) {
            return None;
        }
        let why = self.why()?;
        tracing::warn!(verifier = %self.verifier.name, "no answer: asking again");
        self.tries = self.tries.saturating_add(1);
        self.step = Step::Idle;
        self.want(why, now)
    }

    fn wait(&self) -> Duration {
        jitter(FIRST_WAIT.saturating_mul(1 << self.tries.min(10)).min(LONGEST_WAIT), 0.75)
    }

    /// A request came. Make evidence where this returns what for.
    pub(crate) fn challenge(&mut self, message: &[u8], now: Instant) -> Result<Option<Make>, Ignored> {
        let challenge: Challenge = self.verifier.open(Purpose::Request, message)?;
        if challenge.device() != self.device {
            return Err(Ignored::OtherDevice);
        }
        // An operator's question is rare; what a verifier asks by itself, and we did not ask for, is answered rarely.
        let price = if challenge.asked() { 1 } else { UNASKED };
        if !matches!(self.step, Step::Asked { .. }) && !self.allow(price, now) {
            return Err(Ignored::TooFast);
        }
        let why = if challenge.asked() { Why::Request } else { self.why().unwrap_or(Why::Epoch) };
        let make = Make { nonce: *challenge.nonce(), why };
        if matches!(self.step, Step::Making { .. }) {
            // One at a time, and the latest counts.
            self.newer = Some(make);
            return Ok(None);
        }
        Ok(Some(self.make(make)))
    }

    const fn make(&mut self, make: Make) -> Make {
        self.step = Step::Making { nonce: make.nonce, why: make.why };
        make
    }

    fn allow(&mut self, price: u32, now: Instant) -> bool {
        let earned = now.saturating_duration_since(self.refilled).as_secs() / REFILL.as_secs();
        if earned > 0 {
            self.allowance = self.allowance.saturating_add(u32::try_from(earned).unwrap_or(UNASKED)).min(UNASKED);
            self.refilled = now;
        }
        let left = self.allowance.checked_sub(price);
        self.allowance = left.unwrap_or(self.allowance);
        left.is_some()
    }

    /// Evidence for `nonce` is there. Send it where this is true.
    pub(crate) fn made(&mut self, nonce: &Nonce, made: &Made, now: Instant) -> bool {
        let Step::Making { nonce: expected, why } = self.step else { return false };
        if *nonce != expected {
            return false;
        }
        let (digest, message, shown) = (made.digest, sha256(&made.message), made.shown);
        let evidence = Sent { nonce: *nonce, digest, message, shown, at: now };
        // A result may take a verifier longer than a challenge: it commits first.
        self.step = Step::Sent { evidence, why, until: now + self.wait() * 2 };
        true
    }

    /// Evidence could not be made: asked for again after a while.
    pub(crate) fn failed(&mut self, nonce: &Nonce, now: Instant) {
        if let Step::Making { nonce: expected, why } = self.step
            && *nonce == expected
        {
            self.tries = self.tries.saturating_add(1);
            self.step = Step::Asked { why, until: now + self.wait() };
        }
    }

    /// A challenge that came meanwhile. Make evidence for it.
    pub(crate) fn newer(&mut self) -> Option<Make> {
        let make = self.newer.take()?;
        Some(self.make(make))
    }

    /// A result came.
    pub(crate) fn result(&mut self, message: &[u8], now: Instant) -> Result<Accepted, Ignored> {
        let result: AttestationResult = self.verifier.open(Purpose::Result, message)?;
        if result.device != self.device {
            return Err(Ignored::OtherDevice);
        }
        let Step::Sent { evidence, why, .. } = &self.step else { return Err(Ignored::NotOurs) };
        if result.nonce != evidence.nonce || result.evidence != evidence.digest {
            return Err(Ignored::NotOurs);
        }
        // By the time since sending: neither clock needs to be right for that.
        let valid = Duration::from_secs(result.expires.saturating_sub(result.issued));
        if now.saturating_duration_since(evidence.at) >= valid {
            return Err(Ignored::Expired);
        }
        let incomplete = result.causes.iter().any(|cause| cause.code == INCOMPLETE);
        let held = Held::after(&result.acknowledged, &evidence.shown, incomplete);
        let why = *why;
        if incomplete && self.leads_on(&held) {
            // The verifier asks for more by itself.
            self.tries = self.tries.saturating_add(1);
            self.step = Step::Asked { why, until: now + self.wait() };
        } else {
            self.step = Step::Idle;
            self.tries = 0;
            if !incomplete {
                (self.furthest, self.setbacks) = (0, 0);
            }
        }
        Ok(Accepted { result, held, incomplete })
    }

    /// Whether sending more of a log may complete it. A log that does not lead to the quote never will: without a bound,
    /// device and verifier would go round in circles as fast as the TPM quotes.
    fn leads_on(&mut self, held: &Held) -> bool {
        let reached = held.runtime.saturating_add(held.ima);
        if reached > self.furthest {
            self.furthest = reached;
        } else {
            self.setbacks = self.setbacks.saturating_add(1);
        }
        self.setbacks <= MAX_SETBACKS
    }

    /// A refusal came.
    pub(crate) fn refusal(&mut self, message: &[u8], now: Instant) -> Result<Refusal, Ignored> {
        let refusal: Refusal = self.verifier.open(Purpose::Refusal, message)?;
        let Step::Sent { evidence, why, .. } = &self.step else { return Err(Ignored::NotOurs) };
        if refusal.message != evidence.message {
            return Err(Ignored::NotOurs);
        }
        let why = *why;
        self.tries = self.tries.saturating_add(1);
        self.step = Step::Asked { why, until: now + self.wait() };
        Ok(refusal)
    }

    /// What had to wait for the end of the last attestation. Say hello where this returns why.
    pub(crate) fn next(&mut self, now: Instant) -> Option<Why> {
        if matches!(self.step, Step::Idle) { self.connected(now) } else { None }
    }

    /// Whether something is under way or has to be done.
    pub(crate) const fn is_busy(&self) -> bool {
        !matches!(self.step, Step::Idle) || self.wanted.is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pinned::testing::Verifier;
    use evidence::result::{Acknowledged, ResultCause, Tier, TrustVector};

    const DEVICE: DeviceId = DeviceId([9; 32]);
    const NONCE: Nonce = [1; 32];

    impl Verifier {
        fn challenge(&self, nonce: Nonce, asked: bool) -> Vec<u8> {
            self.seal(Purpose::Request, &Challenge::new(DEVICE, nonce, asked))
        }
    }

    fn made() -> Made {
        Made { message: vec![1, 2, 3], digest: [5; 32], shown: Shown::default() }
    }

    fn result() -> AttestationResult {
        AttestationResult {
            issued: 1000,
            expires: 1300,
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
        }
    }

    /// A conversation in which evidence has been sent.
    fn sent(verifier: &Verifier, now: Instant) -> Exchange {
        let mut exchange = Exchange::new(verifier.pinned("v1"), DEVICE, now);
        assert_eq!(exchange.want(Why::Startup, now), Some(Why::Startup));
        let make = exchange.challenge(&verifier.challenge(NONCE, false), now).unwrap();
        assert_eq!(make, Some(Make { nonce: NONCE, why: Why::Startup }));
        assert!(exchange.made(&NONCE, &made(), now));
        exchange
    }

    #[test]
    fn a_result_for_the_last_evidence_of_the_pinned_verifier_counts_once() {
        let (verifier, now) = (Verifier::new(), Instant::now());
        let mut exchange = sent(&verifier, now);
        let message = verifier.seal(Purpose::Result, &result());
        assert_eq!(exchange.result(&message, now).unwrap().result, result());
        assert_eq!(exchange.result(&message, now), Err(Ignored::NotOurs));
        assert!(!exchange.is_busy());
    }

    #[test]
    fn results_of_others_for_others_of_other_evidence_and_late_ones_do_not_count() {
        let (verifier, now) = (Verifier::new(), Instant::now());
        let mut exchange = sent(&verifier, now);
        let forged = Verifier::new().seal(Purpose::Result, &result());
        assert!(matches!(exchange.result(&forged, now), Err(Ignored::NotTrusted(_))));
        let wrong_purpose = verifier.seal(Purpose::Refusal, &result());
        assert!(matches!(exchange.result(&wrong_purpose, now), Err(Ignored::NotTrusted(_))));
        let others = [
            (AttestationResult { device: DeviceId([8; 32]), ..result() }, Ignored::OtherDevice),
            (AttestationResult { nonce: [2; 32], ..result() }, Ignored::NotOurs),
            (AttestationResult { evidence: [6; 32], ..result() }, Ignored::NotOurs),
            (AttestationResult { expires: 1000, ..result() }, Ignored::Expired),
            (AttestationResult { expires: 0, ..result() }, Ignored::Expired),
        ];
        for (other, why) in others {
            assert_eq!(exchange.result(&verifier.seal(Purpose::Result, &other), now), Err(why));
        }
        let late = now + Duration::from_secs(300);
        assert_eq!(exchange.result(&verifier.seal(Purpose::Result, &result()), late), Err(Ignored::Expired));
        assert_eq!(exchange.result(b"no message", now).map(|_| ()).map_err(|_| ()), Err(()));
        assert!(exchange.result(&verifier.seal(Purpose::Result, &result()), now).is_ok(), "nothing of it did harm");
    }

    #[test]
    fn challenges_nobody_asked_for_are_limited_and_the_latest_is_answered() {
        let (verifier, now) = (Verifier::new(), Instant::now());
        let mut exchange = Exchange::new(verifier.pinned("v1"), DEVICE, now);
        let asked = |number: u8| verifier.challenge([number; 32], true);
        let first = exchange.challenge(&asked(1), now).unwrap().unwrap();
        assert_eq!(first.why, Why::Request);
        for number in 2..=4 {
            assert_eq!(exchange.challenge(&asked(number), now), Ok(None));
        }
        assert_eq!(exchange.challenge(&asked(5), now), Err(Ignored::TooFast));
        assert_eq!(exchange.newer().map(|make| make.nonce), Some([4; 32]));
        assert!(!exchange.made(&first.nonce, &made(), now), "the older one is not sent");
        assert!(exchange.challenge(&asked(6), now + REFILL).is_ok());
    }

    #[test]
    fn a_challenge_for_another_device_makes_no_evidence() {
        let (verifier, now) = (Verifier::new(), Instant::now());
        let mut exchange = Exchange::new(verifier.pinned("v1"), DEVICE, now);
        let other = verifier.seal(Purpose::Request, &Challenge::new(DeviceId([8; 32]), NONCE, true));
        assert_eq!(exchange.challenge(&other, now), Err(Ignored::OtherDevice));
        assert!(!exchange.is_busy());
    }

    #[test]
    fn without_an_answer_it_asks_again_ever_more_rarely() {
        let (verifier, mut now) = (Verifier::new(), Instant::now());
        let mut exchange = sent(&verifier, now);
        let mut last = Duration::ZERO;
        for _ in 0..12 {
            let until = exchange.until().unwrap();
            assert_eq!(exchange.overdue(now), None);
            last = until - now;
            now = until;
            assert_eq!(exchange.overdue(now), Some(Why::Startup));
        }
        assert!((LONGEST_WAIT.mul_f64(0.7)..=LONGEST_WAIT).contains(&last));
    }

    #[test]
    fn what_was_under_way_when_the_connection_broke_is_wanted_again() {
        let (verifier, now) = (Verifier::new(), Instant::now());
        let mut exchange = sent(&verifier, now);
        exchange.disconnected();
        assert!(exchange.is_busy() && exchange.until().is_none());
        assert_eq!(exchange.connected(now), Some(Why::Startup));
        assert_eq!(exchange.connected(now), None);
    }

    #[test]
    fn an_attestation_due_meanwhile_follows_the_present_one() {
        let (verifier, now) = (Verifier::new(), Instant::now());
        let mut exchange = sent(&verifier, now);
        assert_eq!(exchange.want(Why::Event, now), None);
        assert_eq!(exchange.next(now), None);
        exchange.result(&verifier.seal(Purpose::Result, &result()), now).unwrap();
        assert_eq!(exchange.next(now), Some(Why::Event));
    }

    #[test]
    fn after_an_incomplete_log_the_next_challenge_is_answered_at_once() {
        let (verifier, now) = (Verifier::new(), Instant::now());
        let mut exchange = sent(&verifier, now);
        let causes = vec![ResultCause { code: INCOMPLETE.to_owned(), detail: String::new() }];
        let acknowledged = Acknowledged { runtime: 7, ..Acknowledged::default() };
        let incomplete = AttestationResult { causes, acknowledged, status: Tier::None, ..result() };
        let accepted = exchange.result(&verifier.seal(Purpose::Result, &incomplete), now).unwrap();
        assert!(accepted.incomplete && accepted.held.runtime == 7);
        let make = exchange.challenge(&verifier.challenge([2; 32], false), now).unwrap();
        assert_eq!(make, Some(Make { nonce: [2; 32], why: Why::Startup }));
    }

    #[test]
    fn a_log_that_leads_nowhere_is_not_sent_round_in_circles() {
        let (verifier, now) = (Verifier::new(), Instant::now());
        let mut exchange = sent(&verifier, now);
        // As from a verifier that takes a log up to its end, finds that it misses the quote, and begins anew.
        let mut rounds = 0;
        while exchange.is_busy() {
            let causes = vec![ResultCause { code: INCOMPLETE.to_owned(), detail: String::new() }];
            let runtime = if rounds % 2 == 0 { 100 } else { 0 };
            let acknowledged = Acknowledged { runtime, ..Acknowledged::default() };
            let incomplete = AttestationResult { causes, acknowledged, ..result() };
            exchange.result(&verifier.seal(Purpose::Result, &incomplete), now).unwrap();
            if exchange.is_busy() {
                exchange.challenge(&verifier.challenge(NONCE, false), now).unwrap();
                assert!(exchange.made(&NONCE, &made(), now));
            }
            rounds += 1;
        }
        assert_eq!(rounds, 3);
    }

    #[test]
    fn a_refusal_counts_for_the_message_that_was_sent_only() {
        let (verifier, now) = (Verifier::new(), Instant::now());
        let mut exchange = sent(&verifier, now);
        let refusal = |message| Refusal { message, code: "envelope.signature".to_owned(), why: "w".to_owned() };
        let other = verifier.seal(Purpose::Refusal, &refusal([0; 32]));
        assert_eq!(exchange.refusal(&other, now), Err(Ignored::NotOurs));
        let ours = verifier.seal(Purpose::Refusal, &refusal(sha256(&made().message)));
        assert_eq!(exchange.refusal(&ours, now).unwrap().code, "envelope.signature");
        assert_eq!(exchange.refusal(&ours, now), Err(Ignored::NotOurs));
    }
}
