//! What goes over the wire between attester and verifier, and nothing else: claims, COSE envelopes, TPM structures,
//! boot and runtime logs. Bytes in, checked types out. No I/O, no clock, no async: both sides depend on this crate, it
//! depends on neither.

#![forbid(unsafe_code)]
#![cfg_attr(
    not(test),
    deny(
        clippy::indexing_slicing,
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::panic,
        clippy::arithmetic_side_effects
    )
)]

pub mod ak_certificate;
pub mod cbor;
pub mod challenge;
pub mod claims;
pub mod cose;
pub mod enrolment;
pub mod envelope;
pub mod epoch;
pub mod error;
pub mod eventlog;
pub mod ima;
pub mod limits;
pub mod pcr;
pub mod reader;
pub mod result;
pub mod runtime_log;
pub mod topic;
pub mod tpm;
pub mod verifier_keys;
pub mod verifier_message;

pub use error::{Malformed, Refused};
