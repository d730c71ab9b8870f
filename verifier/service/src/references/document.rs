//! One signed document, as the service looks at it: in go a file's bytes, out comes what they are and who vouches, or the
//! code and words of a refusal.

use appraisal::{Policy, UnixSeconds};
use reference_values::{Document, ReferenceIndex, Refused, SignedDocument, Trust, Unusable, VerifiedDocument};

/// A document whose signatures hold.
pub(super) type Verified = VerifiedDocument;

/// Why something does not count.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// Stable code, `release.…`.
    pub code: &'static str,
    /// In words.
    pub why: String,
}

impl Fault {
    pub(super) fn new(code: &'static str, why: impl ToString) -> Self {
        Self { code, why: why.to_string() }
    }
}

/// Code of what is no document, or cannot be read.
pub(super) const UNREADABLE: &str = "release.unreadable";
/// Code of a document that lacks the signature of a role.
pub(super) const MISSING_ROLE: &str = "release.missing-role";

/// What a document is, for people and for the order among its like.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Title {
    /// Product, or a pattern of products.
    pub product: String,
    /// `release`, `endorsements` or `notice`.
    pub kind: &'static str,
    /// The release's name, or the list's or notice's.
    pub name: String,
    /// Its place in the order.
    pub sequence: u64,
}

impl Title {
    pub(super) fn of(document: &Document) -> Self {
        let (product, name) = (document.product().to_owned(), document.name().to_owned());
        Self { product, kind: document.kind().name(), name, sequence: document.sequence() }
    }
}

/// Reads and verifies.
pub(super) fn verify(bytes: &[u8], trust: &Trust, now: UnixSeconds) -> Result<Verified, Fault> {
    let signed = SignedDocument::decode(bytes).map_err(|error| Fault::new(UNREADABLE, error))?;
    signed.verify(trust, now).map_err(|error| Fault::new(error.code(), error))
}

/// Whether a file may take the place of `known`, another file: an edition of the same document, without taking a signature
/// from the same content. What is no document may go.
pub(super) fn replaces(new: &[u8], title: &Title, known: &[u8]) -> bool {
    let (Ok(known), Ok(new)) = (SignedDocument::decode(known), SignedDocument::decode(new)) else { return true };
    let was = Title::of(known.document());
    let same = (was.product, was.kind, was.name) == (title.product.clone(), title.kind, title.name.clone());
    let signed = |key| new.signatures().iter().any(|signature| signature.key() == key);
    let keeps = || known.signatures().iter().all(|signature| signed(signature.key()));
    same && (known.document() != new.document() || keeps())
}

/// Compiled documents, and contents that lack the signature of a role.
pub(super) struct Built {
    pub(super) index: ReferenceIndex,
    pub(super) refused: Vec<([u8; 32], Fault)>,
}

pub(super) fn build(documents: Vec<Verified>, policy: &Policy, now: UnixSeconds) -> Result<Built, Unusable> {
    let built = ReferenceIndex::build(documents, policy.required(), now)?;
    let refused = |Refused { content, product, name, missing, .. }| {
        let missing: Vec<String> = missing.iter().map(ToString::to_string).collect();
        let why = format!(
            "the policy asks for a signature as {} on releases of {product}, which {name} lacks: have it signed with \
             `reference-values sign`",
            missing.join(" and as ")
        );
        (content, Fault::new(MISSING_ROLE, why))
    };
    Ok(Built { index: built.index, refused: built.refused.into_iter().map(refused).collect() })
}

/// Stable code of why documents cannot be used together.
pub(super) const fn unusable_code(unusable: &Unusable) -> &'static str {
    match unusable {
        Unusable::Conflict { .. } => "release.conflict",
        Unusable::TwoProducts { .. } => "release.two-products",
        Unusable::Older { .. } => "release.older",
        Unusable::Gone { .. } => "release.gone",
        Unusable::TooMany => "release.too-many",
    }
}

/// Products that stand otherwise by `now` than by `before`, then patterns of such.
pub(super) fn affected(now: &ReferenceIndex, before: &ReferenceIndex) -> Vec<String> {
    let affected = now.affected(before);
    affected.products.into_iter().chain(affected.patterns).collect()
}
