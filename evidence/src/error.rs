//! Whose fault it is: [`Malformed`] input cannot be read at all; [`Refused`] input reads well, but a check on it
//! does not hold. What goes wrong on our own side never appears in this crate: it does no I/O.

use thiserror::Error;

/// Input that is not what it should be, byte by byte. Exit code 6 in every program.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{what} is malformed: {why} at byte {at}")]
pub struct Malformed {
    /// What was being read, in the words of its standard.
    pub what: &'static str,
    /// Offset of the first byte that is wrong, from the beginning of `what`.
    pub at: usize,
    /// What is wrong there.
    pub why: &'static str,
}

/// Well-formed evidence that a check refuses. Each variant is one check of `docs/protocol.md`, and has a stable code.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum Refused {
    /// The `ueid` claim or the topic names another device than the registration.
    #[error("the message names another device than the one it came from")]
    OtherDevice,
    /// `kid` is not the Name of the AK registered for this device.
    #[error("the message is signed by a key that is not this device's registered attestation key")]
    OtherKey,
    /// Protected header is not exactly the profile's (RFC 9052 §3).
    #[error("the protected header is not the profile's")]
    Header,
    /// `eat_profile` is not ours.
    #[error("the evidence follows another profile")]
    Profile,
    /// The COSE signature does not verify.
    #[error("the signature over the message does not hold")]
    EnvelopeSignature,
    /// The TPMS_ATTEST is not a quote made by a TPM (magic, type).
    #[error("the attested structure is not a TPM quote")]
    NotAQuote,
    /// `qualifiedSigner` is not this AK as a primary key of the endorsement hierarchy.
    #[error("the quote names another signer than the registered attestation key")]
    QualifiedSigner,
    /// `extraData` does not commit to the claims beside the quote.
    #[error("the quote was not made for these claims")]
    ExtraData,
    /// The quote does not cover exactly SHA-256 PCR 0–15.
    #[error("the quote covers other PCRs than the profile's")]
    PcrSelection,
    /// The quote's own signature does not verify.
    #[error("the signature over the quote does not hold")]
    QuoteSignature,
    /// Attachments differ from what the signed `logs` claim announces.
    #[error("an attached log is not the one that was signed for")]
    Attachment,
}

impl Refused {
    /// All of them, in the order in which they are checked.
    pub const ALL: [Self; 11] = [
        Self::OtherDevice,
        Self::OtherKey,
        Self::Header,
        Self::Profile,
        Self::EnvelopeSignature,
        Self::NotAQuote,
        Self::PcrSelection,
        Self::QualifiedSigner,
        Self::ExtraData,
        Self::QuoteSignature,
        Self::Attachment,
    ];

    /// Stable code, used in counters, logs and answers.
    #[must_use]
    pub const fn code(self) -> &'static str {
        match self {
            Self::OtherDevice => "evidence.other-device",
            Self::OtherKey => "evidence.other-key",
            Self::Header => "evidence.header",
            Self::Profile => "evidence.profile",
            Self::EnvelopeSignature => "evidence.signature",
            Self::NotAQuote => "quote.not-a-quote",
            Self::QualifiedSigner => "quote.qualified-signer",
            Self::ExtraData => "quote.extra-data",
            Self::PcrSelection => "quote.pcr-selection",
            Self::QuoteSignature => "quote.signature",
            Self::Attachment => "evidence.attachment",
        }
    }
}
