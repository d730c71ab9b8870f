//! What can be wrong, and with what: a file that cannot be read, a signature that nobody vouches for, a set of
//! releases that contradicts itself, a trust file or key with a mistake.

use evidence::Malformed;
use thiserror::Error;

use crate::{key::KeyId, release::Invalid, role::Role};

/// A release file that is not what `docs/reference-values.cddl` describes.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum Unreadable {
    /// The bytes break the rules of the encoding, or have another shape.
    #[error(transparent)]
    Malformed(#[from] Malformed),
    /// A part of CoRIM that is not understood. It is refused, not skipped: it could say the opposite of what is.
    #[error("{place} holds {item} at byte {at}, which is not supported")]
    Unsupported {
        /// The CDDL rule it stands in.
        place: &'static str,
        /// What stands there.
        item: String,
        /// Offset from the beginning of the CoRIM or CoMID that holds it.
        at: usize,
    },
    /// Well-formed, but the content breaks a rule.
    #[error(transparent)]
    Invalid(#[from] Invalid),
    /// Over a limit of [`crate::limits`].
    #[error("{what}: more than {limit}")]
    TooLarge {
        /// What there is too much of.
        what: &'static str,
        /// How much is allowed.
        limit: usize,
    },
}

/// A readable release that nobody trusted vouches for.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum NotTrusted {
    /// No signature at all.
    #[error("the release is not signed; sign it with `reference-values sign`")]
    Unsigned,
    /// The key is in no trust file.
    #[error("signed by the untrusted key {key}, as {stated}; only signers in the trust folder count")]
    UntrustedKey {
        /// The key named in the signature.
        key: KeyId,
        /// The role that the signer claims.
        stated: Role,
    },
    /// The signature does not verify with the key it names.
    #[error("the signature of {name} ({key}) does not hold; the file was changed after it was signed")]
    BadSignature {
        /// Name of the key's owner, from the trust file.
        name: String,
        /// The key.
        key: KeyId,
    },
    /// The signer claims another role than the trust file gives to it.
    #[error("wrong role: {name} signed as {stated}, but is trusted as {trusted}")]
    WrongRole {
        /// From the trust file.
        name: String,
        /// What the signature says.
        stated: Role,
        /// What the trust file says.
        trusted: Role,
    },
    /// The trust in this signer has ended.
    #[error("the trust in {name} ended at {not_after} (Unix time)")]
    Expired {
        /// From the trust file.
        name: String,
        /// From the trust file, seconds since the Unix epoch.
        not_after: u64,
    },
    /// The signer may not speak for this product.
    #[error("{name} is not trusted for the product {product}")]
    OtherProduct {
        /// From the trust file.
        name: String,
        /// From the release.
        product: String,
    },
}

impl NotTrusted {
    /// Stable code, used in counters and answers.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        match self {
            Self::Unsigned => "release.unsigned",
            Self::UntrustedKey { .. } => "release.untrusted-key",
            Self::BadSignature { .. } => "release.bad-signature",
            Self::WrongRole { .. } => "release.wrong-role",
            Self::Expired { .. } => "release.expired-signer",
            Self::OtherProduct { .. } => "release.other-product",
        }
    }
}

/// Verified releases that cannot be used together. The set that was in use stays in use.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum Unusable {
    /// Two different contents under one name and one sequence number.
    #[error(
        "two different files both say that they are {product} {release}, sequence {sequence}; build one with a higher --sequence"
    )]
    Conflict {
        /// Product in question.
        product: String,
        /// Release in question.
        release: String,
        /// Sequence number of both.
        sequence: u64,
    },
    /// The newest release is older than one that was used before.
    #[error("the newest release of {product} has sequence {offered}, but {seen} was in use already")]
    Older {
        /// Product in question.
        product: String,
        /// Highest sequence used before.
        seen: u64,
        /// Highest sequence on offer.
        offered: u64,
    },
    /// More than positions of 32 bits can number.
    #[error("too many releases or digests for one index")]
    TooMany,
}

/// A trust file with a mistake.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum TrustError {
    /// Not the TOML that is expected; the message has line and column.
    #[error("{0}")]
    Toml(String),
    /// One signer's entry has a mistake.
    #[error("signer {name:?}: {why}")]
    Signer {
        /// The entry's name.
        name: String,
        /// What is wrong, and what is expected.
        why: String,
    },
    /// Over a limit of [`crate::limits`].
    #[error("more than {0} signers")]
    TooMany(usize),
}

/// A key file that does not hold what it should.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum BadKey {
    /// No PEM block of this label.
    #[error("no single PEM block '{0}'")]
    NotPem(&'static str),
    /// Another kind of key than ECDSA on P-256.
    #[error("not an ECDSA key on the curve P-256, which is the only kind that signs releases")]
    OtherAlgorithm,
}

/// A signature that cannot be added.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum Unsignable {
    /// The key has signed this file already.
    #[error("this key has signed the file already, as {0}")]
    Twice(Role),
    /// Over [`crate::limits::MAX_SIGNATURES`].
    #[error("the file has {0} signatures, and more are not allowed")]
    TooMany(usize),
    /// The cryptographic library failed; it only does so without a random source.
    #[error("the signature could not be made: no randomness from the system")]
    Crypto,
}
