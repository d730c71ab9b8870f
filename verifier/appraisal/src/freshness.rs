//! Challenges that need no memory, and the rule by which a TPM's counters only ever grow.
//!
//! A nonce is expiry (4 bytes) ‖ random (8) ‖ HMAC-SHA-256(key, domain ‖ verifier ‖ device ‖ expiry ‖ random) cut to 20.

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
/// How long a challenge may be answered, seconds: a slow TPM and a slow network need a minute, a lost connection more.
pub const CHALLENGE_LIFETIME: u64 = 300;

/// The verifier's secret for challenges. It is shared by the processes of one verifier, and by nobody else.
pub struct ChallengeKey(hmac::Key);

/// Why a nonce is not accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Stale {
    /// No nonce of this verifier for this device is among the message's.
    #[error("the evidence answers no challenge of this verifier")]
    NotOurs,
    /// The challenge was answered too late.
    #[error("the evidence answers a challenge that has expired")]
    Expired,
    /// Counters do not go forward: an older message.
    #[error("the evidence is older than what is known of this device")]
    Replay,
    /// The very message that was judged last.
    #[error("the evidence has been judged already")]
    Duplicate,
}

impl Stale {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::NotOurs, Self::Expired, Self::Replay, Self::Duplicate];

    /// Stable code.
    #[must_use]
    pub const fn code(self) -> &'static str {
        match self {
            Self::NotOurs => "freshness.nonce",
            Self::Expired => "freshness.expired",
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

    /// A nonce for `device`, to be answered within [`CHALLENGE_LIFETIME`].
    #[must_use]
    pub fn issue(&self, verifier: &VerifierKeyId, device: &DeviceId, random: [u8; 8], now: UnixSeconds) -> Nonce {
        let expiry = u32::try_from(now.saturating_add(CHALLENGE_LIFETIME)).unwrap_or(u32::MAX).to_be_bytes();
        let mut nonce = [0; 32];
        let (head, tag) = nonce.split_at_mut(12);
        let (to_expiry, to_random) = head.split_at_mut(4);
        to_expiry.copy_from_slice(&expiry);
        to_random.copy_from_slice(&random);
        tag.copy_from_slice(&self.tag(verifier, device, head));
        nonce
    }

    fn tag(&self, verifier: &VerifierKeyId, device: &DeviceId, expiry_and_random: &[u8]) -> [u8; 20] {
        let mut context = hmac::Context::with_key(&self.0);
        for part in [DOMAIN, &verifier.0, &device.0, expiry_and_random] {
            context.update(part);
        }
        let mut tag = [0; 20];
        for (to, from) in tag.iter_mut().zip(context.sign().as_ref()) {
            *to = *from;
        }
        tag
    }

    /// When a nonce of ours was issued; `None` for one that is not ours for this device.
    fn issued(&self, verifier: &VerifierKeyId, device: &DeviceId, nonce: &Nonce) -> Option<UnixSeconds> {
        let (head, tag) = nonce.split_at(12);
        let expiry: [u8; 4] = head.get(..4)?.try_into().ok()?;
        bool::from(self.tag(verifier, device, head)[..].ct_eq(tag))
            .then(|| u64::from(u32::from_be_bytes(expiry)).saturating_sub(CHALLENGE_LIFETIME))
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

/// Authentic evidence that answers a challenge of ours and is newer than everything accepted before.
#[derive(Debug, Clone)]
pub struct Fresh {
    evidence: Authentic,
    nonce: Nonce,
    issued: UnixSeconds,
}

impl Fresh {
    /// Checks freshness, consuming what is only authentic.
    ///
    /// Counters (reset, restart, clock) must strictly grow, in that order and without exception.
    ///
    /// # Errors
    /// [`Stale`] says what is old about it.
    pub fn check(
        evidence: Authentic,
        key: &ChallengeKey,
        verifier: &VerifierKeyId,
        last: Option<&Last>,
        now: UnixSeconds,
    ) -> Result<Self, Stale> {
        let device = evidence.device();
        let ours = evidence.nonces().as_slice().iter().find_map(|n| Some((*n, key.issued(verifier, &device, n)?)));
        let (nonce, issued) = ours.ok_or(Stale::NotOurs)?;
        if let Some(last) = last {
            let counters = evidence.quote().counters;
            if counters == last.counters && *evidence.digest() == last.evidence {
                return Err(Stale::Duplicate);
            }
            if counters <= last.counters {
                return Err(Stale::Replay);
            }
        }
        if now > issued.saturating_add(CHALLENGE_LIFETIME) {
            return Err(Stale::Expired);
        }
        Ok(Self { evidence, nonce, issued })
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

    /// When the challenge was issued: the quote is not older, and expiry counts from here.
    #[must_use]
    pub const fn not_older_than(&self) -> UnixSeconds {
        self.issued
    }
}
