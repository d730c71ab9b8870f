//! What can be wrong, and with what: a file that cannot be read, a signature that nobody vouches for, a set of
//! releases that contradicts itself, a trust file or key with a mistake.

use evidence::Malformed;
use thiserror::Error;

use crate::{
    document::{Kind, Series},
    key::KeyId,
    release::Invalid,
    role::Role,
};

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
    /// A list of TPMs that nobody signed who could know.
    #[error("wrong role: {name} is trusted as {trusted}, and a list of TPMs needs a manufacturer or operator beside")]
    MayNotEndorse {
        /// From the trust file.
        name: String,
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
            Self::WrongRole { .. } | Self::MayNotEndorse { .. } => "release.wrong-role",
            Self::Expired { .. } => "release.expired-signer",
            Self::OtherProduct { .. } => "release.other-product",
        }
    }
}

/// Verified documents that cannot be used together. The set that was in use stays in use.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum Unusable {
    /// Two different contents under one name and one sequence number.
    #[error(
        "two different files both say that they are {kind} {name} of {product}, sequence {sequence}; build one with a higher --sequence"
    )]
    Conflict {
        /// What they are.
        kind: Kind,
        /// Product in question.
        product: String,
        /// Release, list or notice in question.
        name: String,
        /// Sequence number of both.
        sequence: u64,
    },
    /// One endorsement key is on the lists of two products.
    #[error(
        "the endorsement key {} is listed for {first} and for {second}; one TPM sits in one device: take it off one of them",
        KeyId(*ek)
    )]
    TwoProducts {
        /// The key's digest.
        ek: [u8; 32],
        /// Product and list.
        first: String,
        /// Another product and its list.
        second: String,
    },
    /// The newest document of a series is older than one that was used before.
    #[error("the newest of {series} has sequence {offered}, but {seen} was in use already; put the newer file back")]
    Older {
        /// Which series.
        series: Series,
        /// Highest sequence used before.
        seen: u64,
        /// Highest sequence on offer.
        offered: u64,
    },
    /// A notice that was in use is missing before its time.
    #[error(
        "{series}, sequence {sequence}, was in use and is missing; put it back, or a newer one that takes less back"
    )]
    Gone {
        /// Which series.
        series: Series,
        /// Its sequence.
        sequence: u64,
    },
    /// More than positions of 32 bits can number.
    #[error("too many documents or digests for one index")]
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
    /// What was made is no signature of the key that was named.
    #[error("the signature that came back does not hold with the public key: the key is of another kind, or damaged")]
    NotOfThisKey,
    /// The cryptographic library failed; it only does so without a random source.
    #[error("the signature could not be made: no randomness from the system")]
    Crypto,
}
