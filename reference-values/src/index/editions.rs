//! Which documents count: in, everything that verified; out, the newest edition of each that enough roles have signed.

use std::collections::{BTreeMap, BTreeSet};

use crate::{
    document::{Document, Kind},
    error::Unusable,
    key::KeyId,
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

/// Kind, product and name.
fn name(verified: &VerifiedDocument) -> (Kind, &str, &str) {
    let document = verified.document();
    (document.kind(), document.product(), document.name())
}

/// Who can replace a document: of a notice, each of its signers replaces their own word and nobody else's; of what allows,
/// whoever may sign it.
pub(super) fn authors(verified: &VerifiedDocument) -> Vec<Option<KeyId>> {
    match verified.document().kind() {
        Kind::Notice => verified.signers().iter().map(|signer| Some(signer.key_id)).collect(),
        Kind::Release | Kind::Endorsements => vec![None],
    }
}

/// Keeps the highest sequence under each name, by each author.
fn newest(mut verified: Vec<VerifiedDocument>) -> Result<Vec<VerifiedDocument>, Unusable> {
    fn sequence(verified: &VerifiedDocument) -> u64 {
        verified.document().sequence()
    }
    // The contents are distinct by now, and come in their order: whoever is named in an error is named every time.
    let mut highest = BTreeMap::new();
    for one in &verified {
        for author in authors(one) {
            let known = highest.entry((name(one), author)).or_insert_with(|| sequence(one));
            *known = (*known).max(sequence(one));
        }
    }
    let newest_of = |one: &VerifiedDocument, author| highest.get(&(name(one), author)) == Some(&sequence(one));
    let counts = |one: &VerifiedDocument| authors(one).into_iter().any(|author| newest_of(one, author));
    let mut written = BTreeMap::new();
    for one in verified.iter().filter(|one| counts(one)) {
        for author in authors(one).into_iter().filter(|author| newest_of(one, *author)) {
            if written.insert((name(one), author), one.content()).is_some() {
                let (kind, product, name) = name(one);
                let (product, name) = (product.to_owned(), name.to_owned());
                return Err(Unusable::Conflict { kind, product, name, sequence: sequence(one) });
            }
        }
    }
    let kept: BTreeSet<[u8; 32]> = verified.iter().filter(|one| counts(one)).map(|one| *one.content()).collect();
    verified.retain(|one| kept.contains(one.content()));
    verified.sort_by(|a, b| {
        let ((kind_a, product_a, name_a), (kind_b, product_b, name_b)) = (name(a), name(b));
        (kind_a, product_a, sequence(a), name_a, a.content()).cmp(&(
            kind_b,
            product_b,
            sequence(b),
            name_b,
            b.content(),
        ))
    });
    Ok(verified)
}
