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

mod alike;
mod appraise;
mod boot;
pub mod cause;
mod continuity;
pub mod freshness;
pub mod information;
mod life;
pub mod policy;
mod runtime;
mod standing;
pub mod state;
pub mod verdict;

pub use appraise::{Appraisal, Files, Held, Input, Reappraisal, appraise, reappraise};
pub use cause::{Cause, Code};
pub use freshness::{Accepts, Basis, ChallengeKey, Epochs, Fresh, OpenEpoch, Stale};
pub use information::{Information, Notice};
pub use policy::Policy;
pub use standing::{Current, EkClass, FirmwareRange, Standing};
pub use state::{Attested, BootSummary, DeviceState, Finding, MeasuredFile};
pub use verdict::Verdict;

/// Seconds since 1970-01-01T00:00:00Z.
pub type UnixSeconds = u64;
