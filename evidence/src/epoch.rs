//! The epoch: one nonce for all devices of a verifier, good for a period. In go a number and random bytes, out comes the
//! nonce; the random bytes are published when nobody may use the nonce any more, so that anyone can check it then.

use serde::{Deserialize, Serialize};
use serde_bytes::ByteArray;

use crate::{claims::Nonce, pcr::sha256_of, verifier_message::VerifierKeyId};

const DOMAIN: &[u8] = b"countersign/1 epoch";

/// `cs/1/epoch/{verifier}`, retained, [`crate::verifier_message::Purpose::Epoch`]: the open epoch. CBOR array.
///
/// What it proves: evidence with its nonce was quoted after the verifier drew its random bytes. When that was, is the
/// verifier's word until [`Closed`] shows what the nonce is made of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "EpochArray", into = "EpochArray")]
pub struct Epoch {
    /// When it opened, seconds since 1970 by the verifier's clock: a number that never goes back, also not where the
    /// verifier's store does.
    pub number: u64,
    /// When the next one opens, seconds after this one.
    pub period: u32,
    /// What a quote is made for.
    pub nonce: Nonce,
    /// The latest epoch whose nonce nobody may use any more.
    pub closed: Option<Closed>,
}

/// What a nonce of the past was made of. CBOR array.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "ClosedArray", into = "ClosedArray")]
pub struct Closed {
    /// Number of that epoch.
    pub number: u64,
    /// Its random bytes.
    pub random: [u8; 32],
}

type EpochArray = (u64, u32, ByteArray<32>, Option<Closed>);
type ClosedArray = (u64, ByteArray<32>);

impl From<EpochArray> for Epoch {
    fn from((number, period, nonce, closed): EpochArray) -> Self {
        Self { number, period, nonce: nonce.into_array(), closed }
    }
}

impl From<Epoch> for EpochArray {
    fn from(epoch: Epoch) -> Self {
        (epoch.number, epoch.period, ByteArray::new(epoch.nonce), epoch.closed)
    }
}

impl From<ClosedArray> for Closed {
    fn from((number, random): ClosedArray) -> Self {
        Self { number, random: random.into_array() }
    }
}

impl From<Closed> for ClosedArray {
    fn from(closed: Closed) -> Self {
        (closed.number, ByteArray::new(closed.random))
    }
}

impl Closed {
    /// The nonce that the epoch had.
    #[must_use]
    pub fn nonce(&self, verifier: &VerifierKeyId) -> Nonce {
        nonce(verifier, self.number, &self.random)
    }
}

/// SHA-256(domain ‖ verifier's root ‖ number ‖ random).
#[must_use]
pub fn nonce(verifier: &VerifierKeyId, number: u64, random: &[u8; 32]) -> Nonce {
    sha256_of(&[DOMAIN, &verifier.0, &number.to_be_bytes(), random])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cbor;

    const VERIFIER: VerifierKeyId = VerifierKeyId([1; 32]);

    #[test]
    fn an_epoch_reads_back_and_shows_later_what_its_nonce_was_made_of() {
        let closed = Closed { number: 1_796_000_000, random: [7; 32] };
        let nonce = nonce(&VERIFIER, closed.number, &closed.random);
        let epoch = Epoch { number: closed.number, period: 3600, nonce, closed: Some(closed) };
        assert_eq!(cbor::decode::<Epoch>("epoch", &cbor::encode(&epoch)).unwrap(), epoch);
        assert_eq!(closed.nonce(&VERIFIER), nonce);
    }

    #[test]
    fn verifier_number_and_random_bytes_each_make_another_nonce() {
        let nonces = [
            nonce(&VERIFIER, 1, &[0; 32]),
            nonce(&VerifierKeyId([2; 32]), 1, &[0; 32]),
            nonce(&VERIFIER, 2, &[0; 32]),
            nonce(&VERIFIER, 1, &[1; 32]),
        ];
        assert_eq!(nonces.iter().collect::<std::collections::HashSet<_>>().len(), nonces.len());
    }
}
