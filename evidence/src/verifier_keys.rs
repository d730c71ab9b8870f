//! The keys that a verifier signs with at present, signed by its root, which devices pin. In goes the message from
//! `cs/1/keys/{verifier}`, out come keys that messages for their purpose, and no other, can be opened with.

use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_bytes::ByteArray;

use crate::{
    tpm::P256Point,
    verifier_message::{NotFromVerifier, Purpose, open},
};

/// A verifier's present keys, as they go into the message. CBOR array; [`Purpose::Keys`], by the root.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "KeysArray", into = "KeysArray")]
pub struct VerifierKeys {
    /// When they were made, seconds since 1970 by the verifier's clock: only ever replaced by a higher one.
    pub sequence: u64,
    /// Until when they hold, seconds since 1970, by the time that this verifier's own messages tell.
    pub not_after: u64,
    /// Signs requests, refusals, epochs, and what is said at enrolment.
    pub request: P256Point,
    /// Signs results and certificates of attestation keys.
    pub result: P256Point,
    /// Signs the log of results.
    pub log: P256Point,
}

/// An uncompressed point without its leading byte: x ‖ y.
type Point = ByteArray<64>;
type KeysArray = (u64, u64, Point, Point, Point);

impl From<KeysArray> for VerifierKeys {
    fn from((sequence, not_after, request, result, log): KeysArray) -> Self {
        Self { sequence, not_after, request: point(&request), result: point(&result), log: point(&log) }
    }
}

impl From<VerifierKeys> for KeysArray {
    fn from(keys: VerifierKeys) -> Self {
        let VerifierKeys { sequence, not_after, request, result, log } = keys;
        (sequence, not_after, bytes(&request), bytes(&result), bytes(&log))
    }
}

fn point(bytes: &Point) -> P256Point {
    let mut point = P256Point { x: [0; 32], y: [0; 32] };
    for (to, from) in point.x.iter_mut().chain(&mut point.y).zip(bytes.iter()) {
        *to = *from;
    }
    point
}

fn bytes(point: &P256Point) -> Point {
    let mut bytes = [0; 64];
    for (to, from) in bytes.iter_mut().zip(point.x.iter().chain(&point.y)) {
        *to = *from;
    }
    ByteArray::new(bytes)
}

impl VerifierKeys {
    /// Opens what the pinned root must have signed. Whether these keys are newer than those held, and still hold, is the
    /// receiver's to decide: it knows what it has seen.
    ///
    /// # Errors
    /// [`NotFromVerifier`] names the first check that fails.
    pub fn open_by_root(root: &P256Point, message: &[u8]) -> Result<Self, NotFromVerifier> {
        open(Purpose::Keys, root, message)
    }

    /// The key that signs for `purpose`; `None` for what only the root signs.
    #[must_use]
    pub const fn key(&self, purpose: Purpose) -> Option<&P256Point> {
        match purpose {
            Purpose::Request | Purpose::Refusal | Purpose::Enrolment | Purpose::Epoch => Some(&self.request),
            Purpose::Result | Purpose::AkCertificate => Some(&self.result),
            Purpose::Keys => None,
        }
    }

    /// Opens a message that the key for `purpose` must have signed.
    ///
    /// # Errors
    /// [`NotFromVerifier`] names the first check that fails.
    pub fn open<T: DeserializeOwned + Serialize>(
        &self,
        purpose: Purpose,
        message: &[u8],
    ) -> Result<T, NotFromVerifier> {
        open(purpose, self.key(purpose).ok_or(NotFromVerifier::Header)?, message)
    }
}

#[cfg(test)]
mod tests {
    use ring::{
        rand::SystemRandom,
        signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _},
    };

    use super::*;
    use crate::{
        challenge::Challenge,
        claims::DeviceId,
        verifier_message::{VerifierKeyId, seal},
    };

    struct Key {
        pair: EcdsaKeyPair,
        public: P256Point,
    }

    impl Key {
        fn new() -> Self {
            let random = SystemRandom::new();
            let document = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &random).unwrap();
            let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, document.as_ref(), &random).unwrap();
            let bytes = pair.public_key().as_ref();
            let public = P256Point { x: bytes[1..33].try_into().unwrap(), y: bytes[33..].try_into().unwrap() };
            Self { pair, public }
        }

        fn seal<T: Serialize>(&self, purpose: Purpose, content: &T) -> Vec<u8> {
            let sign = |bytes: &[u8]| {
                let signature = self.pair.sign(&SystemRandom::new(), bytes).unwrap();
                Ok::<_, ()>(signature.as_ref().try_into().unwrap())
            };
            seal(purpose, &VerifierKeyId::of(&self.public), content, sign).unwrap()
        }
    }

    #[test]
    fn keys_count_by_the_root_alone_and_each_opens_its_own_purposes_alone() {
        let [root, request, result, log] = [(); 4].map(|()| Key::new());
        let keys =
            VerifierKeys { sequence: 5, not_after: 9, request: request.public, result: result.public, log: log.public };
        assert_eq!(VerifierKeys::open_by_root(&root.public, &root.seal(Purpose::Keys, &keys)).unwrap(), keys);
        for other in [request.seal(Purpose::Keys, &keys), root.seal(Purpose::Epoch, &keys)] {
            assert!(VerifierKeys::open_by_root(&root.public, &other).is_err());
        }
        let challenge = Challenge::new(DeviceId([1; 32]), [2; 32], true);
        let message = request.seal(Purpose::Request, &challenge);
        assert_eq!(keys.open::<Challenge>(Purpose::Request, &message).unwrap(), challenge);
        for wrong in [&root, &result, &log] {
            assert!(keys.open::<Challenge>(Purpose::Request, &wrong.seal(Purpose::Request, &challenge)).is_err());
        }
        assert!(keys.open::<VerifierKeys>(Purpose::Keys, &root.seal(Purpose::Keys, &keys)).is_err());
    }
}
