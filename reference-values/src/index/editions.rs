//! Which documents count: in, everything that verified; out, the newest edition of each that enough roles have signed.

use std::collections::BTreeSet;

use crate::{
    document::{Document, Kind},
    error::Unusable,
    required::Required,
    role::Role,
    signed::VerifiedDocument,
};

/// A verified release that does not count, because a role has not signed that must.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refused {
    /// SHA-256 of the signed bytes, as [`VerifiedDocument::content`] has it.
    pub content: [u8; 32],
    /// The product.
    pub product: String,
    /// The release.
    pub name: String,
    /// Its sequence.
    pub sequence: u64,
    /// Roles that are missing; never empty.
    pub missing: Vec<Role>,
}

/// What counts, and what was refused.
pub(super) struct Editions {
    /// In order of kind, product, sequence and name.
    pub(super) current: Vec<VerifiedDocument>,
    pub(super) refused: Vec<Refused>,
}

impl Editions {
    /// Roles come first: what too few have signed neither replaces an edition nor contradicts one.
    pub(super) fn of(verified: Vec<VerifiedDocument>, required: &Required) -> Result<Self, Unusable> {
        let (mut complete, mut refused) = (Vec::with_capacity(verified.len()), Vec::new());
        for verified in merged(verified) {
            let missing = missing_roles(&verified, required);
            if missing.is_empty() {
                complete.push(verified);
                continue;
            }
            let (document, content) = (verified.document(), *verified.content());
            let (product, name) = (document.product().to_owned(), document.name().to_owned());
            refused.push(Refused { content, product, name, sequence: document.sequence(), missing });
        }
        Ok(Self { current: newest(complete)?, refused })
    }
}

/// One content in several files counts as signed by all their signers.
fn merged(mut verified: Vec<VerifiedDocument>) -> Vec<VerifiedDocument> {
    verified.sort_by(|a, b| a.content().cmp(b.content()));
    let mut kept = Vec::<VerifiedDocument>::with_capacity(verified.len());
    for next in verified {
        match kept.last_mut() {
            Some(last) if last.content() == next.content() => last.merge(next),
            _ => kept.push(next),
        }
    }
    kept
}

/// Roles are asked of releases alone: an endorsement has its own rule, and a notice only ever takes away.
fn missing_roles(verified: &VerifiedDocument, required: &Required) -> Vec<Role> {
    let Document::Release(release) = verified.document() else { return Vec::new() };
    let signed = verified.signers().iter().map(|signer| signer.role).collect::<BTreeSet<_>>();
    required.roles_for(release.product()).iter().copied().filter(|role| !signed.contains(role)).collect()
}

/// Keeps the highest sequence under each name.
fn newest(mut verified: Vec<VerifiedDocument>) -> Result<Vec<VerifiedDocument>, Unusable> {
    fn name(verified: &VerifiedDocument) -> (Kind, &str, &str) {
        let document = verified.document();
        (document.kind(), document.product(), document.name())
    }
    fn sequence(verified: &VerifiedDocument) -> u64 {
        verified.document().sequence()
    }
    // The contents are distinct by now, and come in their order: whoever is named in an error is named every time.
    verified.sort_by(|a, b| name(a).cmp(&name(b)).then_with(|| sequence(b).cmp(&sequence(a))));
    for pair in verified.windows(2) {
        let [a, b] = pair else { continue };
        if (name(a), sequence(a)) == (name(b), sequence(b)) {
            let (kind, product, name) = name(a);
            let (product, name) = (product.to_owned(), name.to_owned());
            return Err(Unusable::Conflict { kind, product, name, sequence: sequence(a) });
        }
    }
    verified.dedup_by(|later, first| name(later) == name(first));
    verified.sort_by(|a, b| {
        let ((kind_a, product_a, name_a), (kind_b, product_b, name_b)) = (name(a), name(b));
        (kind_a, product_a, sequence(a), name_a).cmp(&(kind_b, product_b, sequence(b), name_b))
    });
    Ok(verified)
}
