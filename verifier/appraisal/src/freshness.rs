//! What makes evidence fresh: nonces that need no memory, the open epochs, and the rule by which a TPM's counters only ever
//! grow. Authentic evidence in; [`Fresh`] evidence, or why it is [`Stale`], out.
//!
//! A request's nonce is expiry (4 bytes) ‖ random (8) ‖ HMAC-SHA-256(key, domain ‖ verifier ‖ device ‖ expiry ‖ random) cut
//! to 20. Where the device's counters went backward, the tag binds the last accepted evidence too, under a domain of its
//! own: nothing has to be stored, and no evidence from before that one can carry it.

use evidence::{
    claims::{DeviceId, Nonce},
    envelope::Authentic,
    tpm::Counters,
    verifier_message::VerifierKeyId,
};
use ring::hmac;
use subtle::ConstantTimeEq as _;

use crate::UnixSeconds;

const DOMAIN: &[u8] = b"countersign/1 challenge";
const AFTER_DOMAIN: &[u8] = b"countersign/1 challenge after known evidence";
/// How long a challenge may be answered, seconds: a slow TPM and a slow network need a minute, a lost connection more.
pub const CHALLENGE_LIFETIME: u64 = 300;

/// How far clocks of one verifier's processes may be apart, seconds.
const AHEAD: u64 = 10;

/// The verifier's secret for challenges. It is shared by the processes of one verifier, and by nobody else.
pub struct ChallengeKey(hmac::Key);

/// Why a nonce is not accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Stale {
    /// No nonce of this verifier for this device is among the message's.
    #[error("the evidence answers no challenge and no open epoch of this verifier")]
    NotOurs,
    /// The challenge was answered too late.
    #[error("the evidence answers a challenge that has expired")]
    Expired,
    /// The nonce is older than what this device has to show since: its registration, a restored store, a cleared TPM.
    #[error("the evidence answers a challenge or an epoch from before this device's state began anew")]
    Generation,
    /// Counters do not go forward: an older message, or a TPM that was cleared.
    #[error("the evidence is older than what is known of this device")]
    Replay,
    /// The very message that was judged last.
    #[error("the evidence has been judged already")]
    Duplicate,
}

impl Stale {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::NotOurs, Self::Expired, Self::Generation, Self::Replay, Self::Duplicate];

    /// Stable code.
    #[must_use]
    pub const fn code(self) -> &'static str {
        match self {
            Self::NotOurs => "freshness.nonce",
            Self::Expired => "freshness.expired",
            Self::Generation => "freshness.generation",
            Self::Replay => "freshness.replay",
            Self::Duplicate => "freshness.duplicate",
        }
    }
}

impl ChallengeKey {
    /// From 32 secret bytes.
    #[must_use]
    pub fn new(secret: &[u8; 32]) -> Self {
        Self(hmac::Key::new(hmac::HMAC_SHA256, secret))
    }

    /// A nonce for `device`, to be answered within [`CHALLENGE_LIFETIME`]. With `after`, the digest of the last accepted
    /// evidence, the answer may show counters that went backward: it was made after that evidence, whatever they say.
    #[must_use]
    pub fn issue(
        &self,
        verifier: &VerifierKeyId,
        device: &DeviceId,
        after: Option<&[u8; 32]>,
        random: [u8; 8],
        now: UnixSeconds,
    ) -> Nonce {
        let expiry = u32::try_from(now.saturating_add(CHALLENGE_LIFETIME)).unwrap_or(u32::MAX).to_be_bytes();
        let mut nonce = [0; 32];
        let (head, tag) = nonce.split_at_mut(12);
        let (to_expiry, to_random) = head.split_at_mut(4);
        to_expiry.copy_from_slice(&expiry);
        to_random.copy_from_slice(&random);
        tag.copy_from_slice(&self.tag(verifier, device, after, head));
        nonce
    }

    /// Every part has a fixed length, so that no two inputs read alike.
    fn tag(
        &self,
        verifier: &VerifierKeyId,
        device: &DeviceId,
        after: Option<&[u8; 32]>,
        expiry_and_random: &[u8],
    ) -> [u8; 20] {
        let mut context = hmac::Context::with_key(&self.0);
        context.update(if after.is_some() { AFTER_DOMAIN } else { DOMAIN });
        for part in [&verifier.0, &device.0, expiry_and_random] {
            context.update(part);
        }
        if let Some(evidence) = after {
            context.update(evidence);
        }
        let mut tag = [0; 20];
        for (to, from) in tag.iter_mut().zip(context.sign().as_ref()) {
            *to = *from;
        }
        tag
    }

    /// When a nonce of ours was issued; `None` for one that is not ours for this device, and this `after`.
    fn issued(
        &self,
        verifier: &VerifierKeyId,
        device: &DeviceId,
        after: Option<&[u8; 32]>,
        nonce: &Nonce,
    ) -> Option<UnixSeconds> {
        let (head, tag) = nonce.split_at(12);
        let expiry: [u8; 4] = head.get(..4)?.try_into().ok()?;
        bool::from(self.tag(verifier, device, after, head)[..].ct_eq(tag))
            .then(|| u64::from(u32::from_be_bytes(expiry)).saturating_sub(CHALLENGE_LIFETIME))
    }
}

/// An epoch whose nonce is accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OpenEpoch {
    /// Its number: the instant at which it opened. Nobody knew the nonce before.
    pub number: UnixSeconds,
    /// Its nonce.
    pub nonce: Nonce,
}

/// The epochs whose nonces are accepted: the open one, and the one before, for evidence that was under way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Epochs {
    /// The open one.
    pub current: Option<OpenEpoch>,
    /// The one before.
    pub previous: Option<OpenEpoch>,
}

/// What shows that evidence is fresh.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Basis {
    /// It answers a challenge.
    Request {
        /// When that was issued.
        issued: UnixSeconds,
    },
    /// It answers an epoch.
    Epoch {
        /// When that opened.
        number: UnixSeconds,
    },
}

impl Basis {
    /// The quote is not older than this.
    #[must_use]
    pub const fn not_older_than(self) -> UnixSeconds {
        match self {
            Self::Request { issued } => issued,
            Self::Epoch { number } => number,
        }
    }
}

/// What is known of the last accepted evidence.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Last {
    /// Its counters.
    pub counters: Counters,
    /// Its digest.
    pub evidence: [u8; 32],
}

/// What this verifier accepts as fresh from one device, now.
#[derive(Clone, Copy)]
pub struct Accepts<'a> {
    /// Makes and recognises challenges.
    pub key: &'a ChallengeKey,
    /// This verifier, by its root key: what nonces are made for.
    pub verifier: &'a VerifierKeyId,
    /// The open epochs.
    pub epochs: &'a Epochs,
    /// The last accepted evidence of the device.
    pub last: Option<&'a Last>,
    /// Nonces that were issued, and epochs that opened, before this instant are not accepted: the latest of when the
    /// device's keys were last replaced and when the store was restored.
    pub since: UnixSeconds,
    /// The same, for the TPM that was cleared: [`crate::DeviceState::since`].
    pub cleared: UnixSeconds,
    /// Now.
    pub now: UnixSeconds,
}

/// A nonce of ours in a message.
#[derive(Debug, Clone, Copy)]
struct Answered {
    nonce: Nonce,
    basis: Basis,
    /// Whether it was made after the last accepted evidence.
    after_last: bool,
}

impl Accepts<'_> {
    fn recognise(&self, device: &DeviceId, nonce: &Nonce) -> Option<Answered> {
        let epoch = [self.epochs.current, self.epochs.previous]
            .into_iter()
            .flatten()
            .find(|epoch| bool::from(epoch.nonce[..].ct_eq(&nonce[..])));
        if let Some(OpenEpoch { number, .. }) = epoch {
            return Some(Answered { nonce: *nonce, basis: Basis::Epoch { number }, after_last: false });
        }
        let after = self.last.map(|last| &last.evidence);
        let issued = |after| self.key.issued(self.verifier, device, after, nonce);
        let (issued, after_last) = match (issued(None), after) {
            (Some(issued), _) => (issued, false),
            (None, Some(_)) => (issued(after)?, true),
            (None, None) => return None,
        };
        Some(Answered { nonce: *nonce, basis: Basis::Request { issued }, after_last })
    }

    /// Only challenges run out: an epoch is accepted while it is among [`Self::epochs`].
    fn in_time(&self, answered: &Answered) -> Result<(), Stale> {
        match answered.basis {
            Basis::Request { issued } if self.now > issued.saturating_add(CHALLENGE_LIFETIME) => Err(Stale::Expired),
            // Of a clock that was ahead once: a verdict would count from a time that has not come.
            Basis::Request { issued } if issued > self.now.saturating_add(AHEAD) => Err(Stale::Expired),
            basis if basis.not_older_than() < self.since => Err(Stale::Generation),
            // A TPM that was cleared in this second voids the nonces of this second, but for one that names what showed it.
            basis if basis.not_older_than().saturating_add(u64::from(answered.after_last)) < self.cleared => {
                Err(Stale::Generation)
            }
            _ => Ok(()),
        }
    }

    /// Of the message's nonces the one that says most: one after the last evidence, else the youngest. Each of them was
    /// there before the quote was made, so one good one is enough, and a stale one beside it takes nothing away.
    fn best(&self, evidence: &Authentic) -> Result<Answered, Stale> {
        let device = evidence.device();
        let mut stale = Stale::NotOurs;
        let mut best: Option<Answered> = None;
        for answered in evidence.nonces().as_slice().iter().filter_map(|nonce| self.recognise(&device, nonce)) {
            let rank = |answered: &Answered| (answered.after_last, answered.basis.not_older_than());
            match self.in_time(&answered) {
                Ok(()) if best.as_ref().is_none_or(|known| rank(known) < rank(&answered)) => best = Some(answered),
                Ok(()) => {}
                Err(why) => stale = why,
            }
        }
        best.ok_or(stale)
    }
}

/// Authentic evidence that answers a challenge or an epoch of ours and is newer than everything accepted before.
#[derive(Debug, Clone)]
pub struct Fresh {
    evidence: Authentic,
    nonce: Nonce,
    basis: Basis,
    clears: bool,
}

impl Fresh {
    /// Checks freshness, consuming what is only authentic.
    ///
    /// Counters (reset, restart, clock) must strictly grow, in that order and without exception but one: the answer to a
    /// challenge that was made after the last accepted evidence may go backward, and then says that the TPM was cleared.
    ///
    /// What costs most to answer is checked last, so that old messages are poor levers: the very last message is answered
    /// from what is held; one without a nonce of ours with nothing, one too late or of another generation with a
    /// refusal; only evidence under a nonce that is good now can bring about a new challenge by going backward.
    ///
    /// # Errors
    /// [`Stale`] says what is old about it.
    pub fn check(evidence: Authentic, accepts: &Accepts<'_>) -> Result<Self, Stale> {
        let counters = evidence.quote().counters;
        // It was accepted once, so a nonce of ours was in it; that may have run out since.
        if accepts.last.is_some_and(|last| {
            let same = last.evidence.ct_eq(evidence.digest());
            bool::from(same) && counters == last.counters
        }) {
            return Err(Stale::Duplicate);
        }
        let Answered { nonce, basis, after_last } = accepts.best(&evidence)?;
        let backward = accepts.last.is_some_and(|last| counters <= last.counters);
        if backward && !after_last {
            return Err(Stale::Replay);
        }
        Ok(Self { evidence, nonce, basis, clears: backward })
    }

    /// The evidence.
    #[must_use]
    pub const fn evidence(&self) -> &Authentic {
        &self.evidence
    }

    /// The nonce that it answers.
    #[must_use]
    pub const fn nonce(&self) -> &Nonce {
        &self.nonce
    }

    /// What shows that it is fresh.
    #[must_use]
    pub const fn basis(&self) -> Basis {
        self.basis
    }

    /// When the challenge was issued, or the epoch opened: the quote is not older, and expiry counts from here.
    #[must_use]
    pub const fn not_older_than(&self) -> UnixSeconds {
        self.basis.not_older_than()
    }

    /// Whether the counters went backward, in the answer to a challenge that was made after the last accepted evidence:
    /// the TPM was cleared.
    #[must_use]
    pub const fn clears(&self) -> bool {
        self.clears
    }
}
