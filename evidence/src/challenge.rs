//! A verifier's request for fresh evidence, and a device's asking for one.

use serde::{Deserialize, Serialize};
use serde_bytes::ByteArray;

use crate::claims::{DeviceId, Nonce, Why};

/// `down/{verifier}/request`: attest now, for this nonce. CBOR array.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Challenge(ByteArray<32>, ByteArray<32>, bool);

impl Challenge {
    /// For one device. `asked` tells an operator's question from the answer to a `hello`.
    #[must_use]
    pub const fn new(device: DeviceId, nonce: Nonce, asked: bool) -> Self {
        Self(ByteArray::new(device.0), ByteArray::new(nonce), asked)
    }

    /// Whom it is for.
    #[must_use]
    pub fn device(&self) -> DeviceId {
        DeviceId(*self.0)
    }

    /// What the quote must be made for.
    #[must_use]
    pub fn nonce(&self) -> &Nonce {
        &self.1
    }

    /// Whether somebody at the verifier asked, rather than the device.
    #[must_use]
    pub const fn asked(&self) -> bool {
        self.2
    }
}

/// `up/hello/{verifier}`: asks for a challenge. Unauthenticated but for the broker; changes no state. CBOR array.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello((u8,));

impl Hello {
    /// Says why the device wants to attest.
    #[must_use]
    pub const fn new(why: Why) -> Self {
        Self((why as u8,))
    }
}

/// `down/{verifier}/refusal`: evidence was refused. CBOR array.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "RefusalArray", into = "RefusalArray")]
pub struct Refusal {
    /// SHA-256 of the whole message that was refused.
    pub message: [u8; 32],
    /// Stable code.
    pub code: String,
    /// In words, with what to do.
    pub why: String,
}

type RefusalArray = (ByteArray<32>, String, String);

impl From<RefusalArray> for Refusal {
    fn from((message, code, why): RefusalArray) -> Self {
        Self { message: message.into_array(), code, why }
    }
}

impl From<Refusal> for RefusalArray {
    fn from(refusal: Refusal) -> Self {
        (ByteArray::new(refusal.message), refusal.code, refusal.why)
    }
}
