//! Reference values: what a release of a product looks like when it runs as its makers meant it to.
//!
//! In: files that a supply chain signed. Out: [`VerifiedRelease`]s, and one [`ReferenceIndex`] that answers for any
//! number of devices. The path is `bytes` → [`SignedRelease::decode`] → [`SignedRelease::verify`] →
//! [`VerifiedRelease`] → [`ReferenceIndex::build`]; nothing unsigned gets into an index, because no function takes it
//! there. The format is described in `docs/reference-values.md` and `docs/reference-values.cddl`.
//!
//! No I/O, no clock, no randomness of its own: the time and the random source are arguments. All times are seconds
//! since the Unix epoch.

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

pub mod boot_rules;
mod corim;
mod error;
mod index;
mod items;
mod key;
pub mod limits;
mod release;
mod retired;
mod role;
mod signed;
mod trust;

pub use boot_rules::BootRules;
pub use error::{BadKey, NotTrusted, TrustError, Unreadable, Unsignable, Unusable};
pub use index::{ProductRef, ReferenceIndex, ReleaseEntry, ReleaseId};
pub use key::{KeyId, PublicKey, SigningKey};
pub use release::{BootPcrs, Content, Executable, Invalid, Release};
pub use retired::Retired;
pub use role::Role;
pub use signed::{Signature, SignedRelease, Signer, VerifiedRelease};
pub use trust::{Trust, TrustedSigner};
