//! Reference values: what a release of a product looks like when it runs as its makers meant it to.
//!
//! In: files that a supply chain signed. Out: [`VerifiedDocument`]s, and one [`ReferenceIndex`] that answers for any
//! number of devices. The path is `bytes` → [`SignedDocument::decode`] → [`SignedDocument::verify`] →
//! [`VerifiedDocument`] → [`ReferenceIndex::build`]; nothing unsigned gets into an index, because no function takes it
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
pub mod corim_view;
mod document;
mod endorsements;
mod error;
mod index;
mod items;
mod key;
pub mod limits;
mod notice;
mod release;
mod required;
mod retired;
mod role;
mod signed;
mod trust;

pub use boot_rules::BootRules;
pub use document::{Document, Endorsed, Endorsements, Kind, KnownBad, Minimum, Notice, Revoked, Series};
pub use error::{BadKey, NotTrusted, TrustError, Unreadable, Unsignable, Unusable};
pub use index::{
    Affected, Built, EndorsedBy, EndorsementsEntry, NoticeEntry, ProductRef, ReferenceIndex, Refused, ReleaseEntry,
    ReleaseId, Seen,
};
pub use key::{KeyId, PublicKey, SigningKey};
pub use release::{BootImage, BootPcrs, Content, Executable, FurtherDigests, ImageKind, Invalid, Release};
pub use required::Required;
pub use retired::Retired;
pub use role::Role;
pub use signed::{Signature, SignedDocument, Signer, VerifiedDocument};
pub use trust::{Trust, TrustedSigner};
