//! The judgement: evidence, state, reference values, policy and an instant in; an appraisal out. Pure: no I/O, no clock
//! of its own, no panic. Serving, checking a proof and tests all call the same [`appraise`].

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

mod appraise;
mod boot;
pub mod cause;
pub mod freshness;
pub mod policy;
mod runtime;
pub mod state;
pub mod verdict;

pub use appraise::{Appraisal, Files, Input, appraise};
pub use cause::{Cause, Code};
pub use freshness::{Accepts, Basis, ChallengeKey, Epochs, Fresh, OpenEpoch, Stale};
pub use policy::Policy;
pub use state::{Attested, DeviceState, EkClass, Finding, FirmwareRange, MeasuredFile, Standing};
pub use verdict::Verdict;

/// Seconds since 1970-01-01T00:00:00Z.
pub type UnixSeconds = u64;
