//! Signatures of several parties over one document. In, a file; out, a [`VerifiedDocument`] that names who vouched.
//!
//! The file holds the tagged CoRIM once, and one COSE_Sign1 per signer whose payload it is, detached (RFC 9052 §4.2).
//! A signer's role stands in the file as the signer's own statement (`signer-name` of the `corim-meta`); it only
//! counts where the trust file says the same.

use coset::{
    CborSerializable, ContentType, CoseSign1, CoseSign1Builder, Header, HeaderBuilder, Label, ProtectedHeader,
    TaggedCborSerializable, cbor::value::Value, iana,
};
use evidence::{Malformed, pcr::sha256};
use ring::rand::SecureRandom;

use crate::{
    document::{Document, Kind},
    error::{NotTrusted, Unreadable, Unsignable},
    items::{ItemWriter, Items},
    key::{KeyId, PublicKey, SigningKey},
    limits::{MAX_ENDORSEMENTS_FILE, MAX_PROTECTED_HEADER, MAX_SIGNATURES},
    release::Release,
    role::Role,
    trust::Trust,
};

/// First item of a file with detached signatures: says what it is.
const MAGIC: &str = "countersign-release";
/// Media type of the payload (draft-ietf-rats-corim, "application/rim+cbor").
const CONTENT_TYPE: &str = "application/rim+cbor";
/// Header parameter `corim-meta`.
const CORIM_META: i64 = 8;
/// CBOR tag 18, COSE_Sign1, as its one byte.
const COSE_SIGN1: u8 = 0xd2;
/// CBOR tag 501, unsigned CoRIM, as its three bytes.
const UNSIGNED: [u8; 3] = [0xd9, 0x01, 0xf5];
/// A detached signature with its header, bytes.
const MAX_SIGNATURE_ITEM: usize = 256;
/// ES256: r ‖ s.
const SIGNATURE: usize = 64;

/// One signature, not verified.
#[derive(Debug, Clone, PartialEq)]
pub struct Signature {
    key: KeyId,
    stated: Role,
    /// Without payload; its protected header is exactly [`protected`] of key and role.
    cose: CoseSign1,
}

impl Signature {
    /// The key that it names.
    #[must_use]
    pub const fn key(&self) -> KeyId {
        self.key
    }

    /// The role that the signer claims for itself.
    #[must_use]
    pub const fn stated_role(&self) -> Role {
        self.stated
    }

    fn from_cose(mut cose: CoseSign1) -> Result<Self, Unreadable> {
        let unsupported = |item: &str| Unreadable::Unsupported { place: "COSE-Sign1-corim", item: item.into(), at: 0 };
        let (key, stated) =
            key_and_role(&cose.protected.header).ok_or_else(|| unsupported("a protected header of another shape"))?;
        if cose.protected.original_data.as_ref() != protected(key, stated).to_vec().ok().as_ref() {
            return Err(unsupported("a protected header of another shape"));
        }
        if cose.signature.len() != SIGNATURE {
            return Err(unsupported("a signature that is not 64 bytes"));
        }
        cose.payload = None;
        Ok(Self { key, stated, cose })
    }

    fn to_bytes(&self) -> Vec<u8> {
        // Encoding into memory fails for no value that was decoded or built here; a reader refuses the empty string.
        self.cose.clone().to_tagged_vec().unwrap_or_default()
    }
}

/// The protected header of one signer: algorithm, content type, key, and the role it signs in.
fn protected(key: KeyId, role: Role) -> Header {
    let mut meta = ItemWriter::default();
    meta.map(1).uint(0).map(1).uint(0).text(role.name());
    HeaderBuilder::new()
        .algorithm(iana::Algorithm::ES256)
        .content_type(CONTENT_TYPE.into())
        .key_id(key.0.to_vec())
        .value(CORIM_META, Value::Bytes(meta.finish()))
        .build()
}

/// Key and role of a protected header; the caller compares the rest by building it anew.
fn key_and_role(header: &Header) -> Option<(KeyId, Role)> {
    let key = KeyId(header.key_id.as_slice().try_into().ok()?);
    if header.content_type != Some(ContentType::Text(CONTENT_TYPE.into())) {
        return None;
    }
    let meta =
        header.rest.iter().find(|(label, _)| *label == Label::Int(CORIM_META)).and_then(|(_, v)| v.as_bytes())?;
    let mut items = Items::new("corim-meta", meta).ok()?;
    items.map().ok()?;
    items.uint().ok()?;
    items.map().ok()?;
    items.uint().ok()?;
    Some((key, items.text().ok()?.parse().ok()?))
}

/// A document and the signatures in its file: readable, but nobody's word yet.
#[derive(Debug, Clone, PartialEq)]
pub struct SignedDocument {
    document: Document,
    /// The exact bytes that are signed.
    corim: Vec<u8>,
    signatures: Vec<Signature>,
}

impl SignedDocument {
    /// A document that nobody has signed.
    #[must_use]
    pub fn unsigned(document: impl Into<Document>) -> Self {
        let document = document.into();
        Self { corim: document.encode(), document, signatures: Vec::new() }
    }

    /// Whether `bytes` begin like a file that [`Self::decode`] reads.
    #[must_use]
    pub fn recognises(bytes: &[u8]) -> bool {
        bytes.starts_with(&UNSIGNED)
            || bytes.first() == Some(&COSE_SIGN1)
            || bytes.strip_prefix(&[0x83, 0x73]).is_some_and(|rest| rest.starts_with(MAGIC.as_bytes()))
    }

    /// Reads a file: an unsigned CoRIM (tag 501), a CoRIM signed once (tag 18, the draft's own form), or a CoRIM with
    /// detached signatures.
    ///
    /// # Errors
    /// [`Unreadable`] with what and where. Nothing is verified.
    pub fn decode(bytes: &[u8]) -> Result<Self, Unreadable> {
        // Beside the document there is room for signatures; how large a document may be depends on its kind.
        let limit = MAX_ENDORSEMENTS_FILE.saturating_add(MAX_SIGNATURES.saturating_mul(MAX_SIGNATURE_ITEM));
        if bytes.len() > limit {
            return Err(Unreadable::TooLarge { what: "bytes of a document", limit });
        }
        let (corim, signatures) = match bytes.first() {
            Some(&COSE_SIGN1) => {
                let mut cose = decode_cose("COSE_Sign1", bytes)?;
                let missing = Malformed { what: "COSE_Sign1", at: 0, why: "it has no payload" };
                let corim = cose.payload.take().ok_or(missing)?;
                (corim, vec![Signature::from_cose(cose)?])
            }
            _ if bytes.starts_with(&UNSIGNED) => (bytes.to_vec(), Vec::new()),
            _ => decode_bundle(bytes)?,
        };
        Ok(Self { document: Document::decode(&corim)?, corim, signatures })
    }

    /// As a file: a bare CoRIM where there is no signature, else with detached ones.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        if self.signatures.is_empty() {
            return self.corim.clone();
        }
        let mut out = ItemWriter::default();
        out.array(3).text(MAGIC).bytes(&self.corim).array(self.signatures.len());
        for signature in &self.signatures {
            out.bytes(&signature.to_bytes());
        }
        out.finish()
    }

    /// Adds a signature beside those that are there.
    ///
    /// # Errors
    /// [`Unsignable`] where this key has signed already, the limit is reached, or `random` fails.
    pub fn sign(self, key: &SigningKey, role: Role, random: &dyn SecureRandom) -> Result<Self, Unsignable> {
        self.sign_with(key.public(), role, |message| key.sign(message, random))
    }

    /// The same by a key that is elsewhere: `make` gives its signature (r ‖ s over the SHA-256) of a message.
    ///
    /// # Errors
    /// As [`Self::sign`]; [`Unsignable::NotOfThisKey`] where the signature is not `public`'s; and what `make` says.
    pub fn sign_with<E: From<Unsignable>>(
        mut self,
        public: &PublicKey,
        role: Role,
        make: impl FnOnce(&[u8]) -> Result<Vec<u8>, E>,
    ) -> Result<Self, E> {
        let id = public.id();
        if let Some(present) = self.signatures.iter().find(|signature| signature.key == id) {
            return Err(Unsignable::Twice(present.stated).into());
        }
        if self.signatures.len() >= MAX_SIGNATURES {
            return Err(Unsignable::TooMany(MAX_SIGNATURES).into());
        }
        let header = protected(id, role);
        let original_data = Some(header.clone().to_vec().map_err(|_| Unsignable::Crypto)?);
        let checked = |message: &[u8]| -> Result<Vec<u8>, E> {
            let signature = make(message)?;
            if public.verifies(message, &signature) { Ok(signature) } else { Err(Unsignable::NotOfThisKey.into()) }
        };
        let mut cose =
            CoseSign1Builder::new().protected(header).try_create_detached_signature(&self.corim, &[], checked)?.build();
        cose.protected = ProtectedHeader { original_data, ..cose.protected };
        self.signatures.push(Signature { key: id, stated: role, cose });
        Ok(self)
    }

    /// What the file says; nobody vouches for it.
    #[must_use]
    pub const fn document(&self) -> &Document {
        &self.document
    }

    /// The release that it is, if it is one; nobody vouches for it.
    #[must_use]
    pub const fn release(&self) -> Option<&Release> {
        as_release(&self.document)
    }

    /// The signatures, unverified.
    #[must_use]
    pub fn signatures(&self) -> &[Signature] {
        &self.signatures
    }

    /// Verifies every signature against `trust` as of `now`.
    ///
    /// What it proves: each named signer held its key and signed exactly this content, in the role that the trust file
    /// gives to it. What it does not: that the document is in its validity, or newer than one seen before; the caller's
    /// policy and [`crate::ReferenceIndex::check_not_older`] say that.
    ///
    /// # Errors
    /// [`NotTrusted`]. One signature that does not hold is enough: a file is good as a whole or not at all.
    pub fn verify(self, trust: &Trust, now: u64) -> Result<VerifiedDocument, NotTrusted> {
        if self.signatures.is_empty() {
            return Err(NotTrusted::Unsigned);
        }
        let signers = self
            .signatures
            .iter()
            .map(|signature| verify_one(signature, &self.corim, &self.document, trust, now))
            .collect::<Result<Vec<_>, _>>()?;
        check_may_endorse(&self.document, &signers)?;
        Ok(VerifiedDocument { content: sha256(&self.corim), document: self.document, signers })
    }
}

fn verify_one(
    signature: &Signature,
    corim: &[u8],
    document: &Document,
    trust: &Trust,
    now: u64,
) -> Result<Signer, NotTrusted> {
    let Signature { key, stated, cose } = signature;
    let (key, stated) = (*key, *stated);
    let trusted = trust.find(key).ok_or(NotTrusted::UntrustedKey { key, stated })?;
    let name = || trusted.name.clone();
    cose.verify_detached_signature(
        corim,
        &[],
        |signature, message| {
            if trusted.key.verifies(message, signature) { Ok(()) } else { Err(()) }
        },
    )
    .map_err(|()| NotTrusted::BadSignature { name: name(), key })?;
    if trusted.role != stated {
        return Err(NotTrusted::WrongRole { name: name(), stated, trusted: trusted.role });
    }
    if let Some(not_after) = trusted.not_after.filter(|&end| now > end) {
        return Err(NotTrusted::Expired { name: name(), not_after });
    }
    if !trusted.speaks_for_all(document.product()) {
        return Err(NotTrusted::OtherProduct { name: name(), product: document.product().into() });
    }
    Ok(Signer { role: stated, key_id: key, name: name(), not_after: trusted.not_after })
}

/// Which TPM sits in a product, only who built it in knows, or who has it in hand.
fn check_may_endorse(document: &Document, signers: &[Signer]) -> Result<(), NotTrusted> {
    let knows = |signer: &Signer| matches!(signer.role, Role::Manufacturer | Role::Operator);
    match signers.first() {
        Some(first) if document.kind() == Kind::Endorsements && !signers.iter().any(knows) => {
            Err(NotTrusted::MayNotEndorse { name: first.name.clone(), trusted: first.role })
        }
        _ => Ok(()),
    }
}

const fn as_release(document: &Document) -> Option<&Release> {
    match document {
        Document::Release(release) => Some(release),
        Document::Endorsements(_) | Document::Notice(_) => None,
    }
}

/// coset descends into counter signatures inside byte strings without a bound: headers that could hold them are refused
/// before it looks.
fn decode_cose(what: &'static str, bytes: &[u8]) -> Result<CoseSign1, Unreadable> {
    const SHAPE: &str = "it is not a tagged COSE_Sign1 (RFC 9052 §4.2)";
    let mut items = Items::new(what, bytes)?;
    items.tag(18, SHAPE)?;
    items.array_of(4, SHAPE)?;
    let unsupported =
        |item: &str, at| Err(Unreadable::Unsupported { place: "COSE-Sign1-corim", item: item.into(), at });
    let at = items.at();
    if items.bytes()?.len() > MAX_PROTECTED_HEADER {
        return unsupported("a protected header of another shape", at);
    }
    let at = items.at();
    if items.map()? != 0 {
        return unsupported("an unprotected header", at);
    }
    Ok(CoseSign1::from_tagged_slice(bytes).map_err(|_| Malformed { what, at: 0, why: SHAPE })?)
}

fn decode_bundle(bytes: &[u8]) -> Result<(Vec<u8>, Vec<Signature>), Unreadable> {
    let mut items = Items::new("release file", bytes)?;
    items.array_of(3, "it is neither a CoRIM nor a release with signatures")?;
    if items.text()? != MAGIC {
        return Err(items.malformed("it is neither a CoRIM nor a release with signatures").into());
    }
    let corim = items.bytes()?.to_vec();
    let count = items.array()?;
    if count == 0 {
        return Err(items.malformed("at least one signature is expected").into());
    }
    if count > MAX_SIGNATURES {
        return Err(Unreadable::TooLarge { what: "signatures", limit: MAX_SIGNATURES });
    }
    let mut signatures = Vec::<Signature>::with_capacity(count);
    for _ in 0..count {
        let cose = decode_cose("detached COSE_Sign1", items.bytes()?)?;
        if cose.payload.is_some() {
            return Err(items.malformed("a signature brings a payload of its own").into());
        }
        let signature = Signature::from_cose(cose)?;
        if signatures.iter().any(|present| present.key == signature.key) {
            return Err(items.malformed("one key signed twice").into());
        }
        signatures.push(signature);
    }
    Ok((corim, signatures))
}

/// Who vouched.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Signer {
    /// From the trust file.
    pub role: Role,
    /// SHA-256 of the key's SubjectPublicKeyInfo.
    pub key_id: KeyId,
    /// From the trust file.
    pub name: String,
    /// When the trust ends, from the trust file; seconds since the Unix epoch.
    pub not_after: Option<u64>,
}

/// A document whose every signature holds. Only [`SignedDocument::verify`] makes one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VerifiedDocument {
    document: Document,
    content: [u8; 32],
    signers: Vec<Signer>,
}

impl VerifiedDocument {
    /// What is vouched for.
    #[must_use]
    pub const fn document(&self) -> &Document {
        &self.document
    }

    /// The release that is vouched for, if it is one.
    #[must_use]
    pub const fn release(&self) -> Option<&Release> {
        as_release(&self.document)
    }

    /// SHA-256 of the signed bytes.
    #[must_use]
    pub const fn content(&self) -> &[u8; 32] {
        &self.content
    }

    /// Who vouched, in the order of the file; never empty.
    #[must_use]
    pub fn signers(&self) -> &[Signer] {
        &self.signers
    }

    /// Adds the signers of another file with the same content.
    pub(crate) fn merge(&mut self, other: Self) {
        for signer in other.signers {
            if !self.signers.iter().any(|present| present.key_id == signer.key_id) {
                self.signers.push(signer);
            }
        }
    }

    pub(crate) fn into_parts(self) -> (Document, [u8; 32], Vec<Signer>) {
        (self.document, self.content, self.signers)
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use coset::{CoseSign1Builder, TaggedCborSerializable};
    use proptest::prelude::*;
    use ring::rand::SystemRandom;

    use super::{SignedDocument, protected};
    use crate::{
        document::{Document, Endorsed, Endorsements, Notice},
        error::{NotTrusted, Unreadable, Unsignable},
        key::{SigningKey, tests::new_key},
        release::{BootPcrs, Executable, Release},
        role::Role,
        trust::{Trust, TrustedSigner},
    };

    pub(crate) fn release() -> Release {
        let boots = vec![BootPcrs::new([(0, [9; 32])].into()).unwrap()];
        Release::new("acme/gw", "1", 7, vec![Executable { digest: [1; 32], path: "/bin/a".into() }], boots).unwrap()
    }

    pub(crate) fn signer(key: &SigningKey, role: Role, products: &str, not_after: Option<u64>) -> TrustedSigner {
        let products = vec![products.to_owned()];
        TrustedSigner { name: format!("the {role}"), role, key: key.public().clone(), products, not_after }
    }

    /// A COSE_Sign1 whose protected header holds a counter signature, whose protected header holds one, and so on.
    fn nested_counter_signatures(depth: usize) -> Vec<u8> {
        let mut header = vec![0xa0];
        for _ in 0..depth {
            let mut outer = crate::items::ItemWriter::default();
            outer.map(1).uint(7).array(3).bytes(&header).map(0).bytes(&[1]);
            header = outer.finish();
        }
        let mut file = crate::items::ItemWriter::default();
        file.bytes(&header).map(0).bytes(&[1]).bytes(&[1; 64]);
        [&[0xd2, 0x84][..], &file.finish()].concat()
    }

    #[test]
    fn counter_signatures_within_each_other_exhaust_no_stack() {
        for depth in [1, 10, 1000, 20_000] {
            let file = nested_counter_signatures(depth);
            let refused = SignedDocument::decode(&file);
            assert!(matches!(refused, Err(Unreadable::Unsupported { .. } | Unreadable::Malformed(_))), "{depth}");
        }
    }

    fn trusting(signers: impl IntoIterator<Item = TrustedSigner>) -> Trust {
        let mut trust = Trust::default();
        signers.into_iter().for_each(|signer| trust.add(signer).unwrap());
        trust
    }

    fn signed(key: &SigningKey, role: Role) -> SignedDocument {
        SignedDocument::unsigned(release()).sign(key, role, &SystemRandom::new()).unwrap()
    }

    #[test]
    fn two_parties_sign_beside_each_other_and_both_are_named() {
        let (maker, importer) = (new_key(), new_key());
        let file = signed(&maker, Role::Manufacturer).sign(&importer, Role::Importer, &SystemRandom::new()).unwrap();
        let bytes = file.encode();
        evidence::cbor::check_deterministic("file", &bytes).unwrap();
        assert!(SignedDocument::recognises(&bytes));
        let trust = trusting([
            signer(&maker, Role::Manufacturer, "acme/*", None),
            signer(&importer, Role::Importer, "*", Some(100)),
        ]);
        let verified = SignedDocument::decode(&bytes).unwrap().verify(&trust, 100).unwrap();
        assert_eq!(verified.release(), Some(&release()));
        let roles = verified.signers().iter().map(|signer| signer.role).collect::<Vec<_>>();
        assert_eq!(roles, [Role::Manufacturer, Role::Importer]);
    }

    #[test]
    fn each_reason_not_to_trust_is_told_apart() {
        let key = new_key();
        let file = || signed(&key, Role::Importer);
        let code = |file: SignedDocument, trust: &Trust| file.verify(trust, 1000).unwrap_err().code();
        assert_eq!(code(SignedDocument::unsigned(release()), &Trust::default()), "release.unsigned");
        assert_eq!(code(file(), &Trust::default()), "release.untrusted-key");
        let wrong_role = trusting([signer(&key, Role::Manufacturer, "*", None)]);
        assert_eq!(code(file(), &wrong_role), "release.wrong-role");
        let expired = trusting([signer(&key, Role::Importer, "*", Some(999))]);
        assert_eq!(code(file(), &expired), "release.expired-signer");
        let elsewhere = trusting([signer(&key, Role::Importer, "other/*", None)]);
        assert_eq!(code(file(), &elsewhere), "release.other-product");
    }

    #[test]
    fn one_untrusted_signature_beside_a_trusted_one_is_refused() {
        let (maker, stranger) = (new_key(), new_key());
        let file = signed(&maker, Role::Manufacturer).sign(&stranger, Role::Importer, &SystemRandom::new()).unwrap();
        let trust = trusting([signer(&maker, Role::Manufacturer, "*", None)]);
        assert!(matches!(file.verify(&trust, 0), Err(NotTrusted::UntrustedKey { .. })));
    }

    #[test]
    fn a_signature_moved_to_another_release_does_not_hold() {
        let key = new_key();
        let mut file = signed(&key, Role::Manufacturer);
        let other = Release::new("acme/gw", "2", 8, release().executables().to_vec(), vec![]).unwrap();
        file.corim = other.encode();
        let moved = SignedDocument::decode(&file.encode()).unwrap();
        let trust = trusting([signer(&key, Role::Manufacturer, "*", None)]);
        assert!(matches!(moved.verify(&trust, 0), Err(NotTrusted::BadSignature { .. })));
    }

    #[test]
    fn a_signature_of_one_kind_of_document_is_none_of_another() {
        let key = new_key();
        let trust = trusting([signer(&key, Role::Manufacturer, "*", None)]);
        let notice = Notice::new("acme/gw", "1", 7, None, None, vec![], vec![]).unwrap();
        for other in [Document::Notice(notice), Document::Endorsements(endorsements())] {
            let mut file = signed(&key, Role::Manufacturer);
            file.corim = other.encode();
            let moved = SignedDocument::decode(&file.encode()).unwrap();
            assert!(matches!(moved.verify(&trust, 0), Err(NotTrusted::BadSignature { .. })));
        }
    }

    fn endorsements() -> Endorsements {
        let entries = vec![Endorsed { ek: [3; 32], serial: "SN 3".into() }];
        Endorsements::new("acme/gw", "line-1", 1, None, entries).unwrap()
    }

    #[test]
    fn only_who_built_a_tpm_in_or_has_it_in_hand_says_where_it_sits() {
        for (role, may) in
            [(Role::Manufacturer, true), (Role::Operator, true), (Role::Importer, false), (Role::Distributor, false)]
        {
            let key = new_key();
            let trust = trusting([signer(&key, role, "*", None)]);
            let file = SignedDocument::unsigned(endorsements()).sign(&key, role, &SystemRandom::new()).unwrap();
            assert_eq!(file.verify(&trust, 0).map_err(|error| error.code()).is_ok(), may, "{role}");
        }
    }

    #[test]
    fn a_notice_about_many_products_needs_a_word_about_all_of_them() {
        let key = new_key();
        let trust = trusting([signer(&key, Role::Manufacturer, "acme/*", None)]);
        for (products, may) in [("acme/*", true), ("acme/gw", true), ("*", false), ("acm*", false), ("other/*", false)]
        {
            let notice = Notice::new(products, "n", 1, None, None, vec![], vec![]).unwrap();
            let file = SignedDocument::unsigned(notice).sign(&key, Role::Manufacturer, &SystemRandom::new()).unwrap();
            assert_eq!(file.verify(&trust, 0).is_ok(), may, "{products}");
        }
    }

    #[test]
    fn a_key_signs_a_file_once() {
        let key = new_key();
        let again = signed(&key, Role::Manufacturer).sign(&key, Role::Operator, &SystemRandom::new());
        assert_eq!(again, Err(Unsignable::Twice(Role::Manufacturer)));
    }

    #[test]
    fn the_drafts_own_form_with_one_signer_is_read_and_can_be_signed_further() {
        let (maker, importer) = (new_key(), new_key());
        let bytes = CoseSign1Builder::new()
            .protected(protected(maker.public().id(), Role::Manufacturer))
            .payload(release().encode())
            .create_signature(&[], |message| maker.sign(message, &SystemRandom::new()).unwrap())
            .build()
            .to_tagged_vec()
            .unwrap();
        assert!(SignedDocument::recognises(&bytes));
        let file = SignedDocument::decode(&bytes).unwrap();
        let both = file.sign(&importer, Role::Importer, &SystemRandom::new()).unwrap().encode();
        let trust =
            trusting([signer(&maker, Role::Manufacturer, "*", None), signer(&importer, Role::Importer, "*", None)]);
        assert_eq!(SignedDocument::decode(&both).unwrap().verify(&trust, 0).unwrap().signers().len(), 2);
    }

    #[test]
    fn a_header_with_more_in_it_is_refused() {
        let key = new_key();
        let mut header = protected(key.public().id(), Role::Manufacturer);
        header.rest.push((coset::Label::Int(99), coset::cbor::value::Value::Bool(true)));
        let bytes = CoseSign1Builder::new()
            .protected(header)
            .payload(release().encode())
            .create_signature(&[], |message| key.sign(message, &SystemRandom::new()).unwrap())
            .build()
            .to_tagged_vec()
            .unwrap();
        assert!(matches!(SignedDocument::decode(&bytes), Err(Unreadable::Unsupported { .. })));
    }

    #[test]
    fn no_flipped_bit_survives() {
        let key = new_key();
        let bytes = signed(&key, Role::Manufacturer).encode();
        let trust = trusting([signer(&key, Role::Manufacturer, "*", None)]);
        for at in 0..bytes.len() {
            let mut changed = bytes.clone();
            changed[at] ^= 1;
            let accepted = SignedDocument::decode(&changed).ok().and_then(|file| file.verify(&trust, 0).ok());
            assert_eq!(accepted, None, "byte {at}");
        }
    }

    proptest! {
        #[test]
        fn decoding_anything_never_panics(bytes in prop::collection::vec(any::<u8>(), 0..600)) {
            let _ = SignedDocument::decode(&bytes);
        }

        #[test]
        fn decoding_a_damaged_file_never_panics(at in 0_usize..4096, insert in prop::collection::vec(any::<u8>(), 0..20), cut in 0_usize..20) {
            let mut bytes = signed(&new_key(), Role::Operator).encode();
            let at = at % bytes.len();
            let end = (at + cut).min(bytes.len());
            bytes.splice(at..end, insert);
            let _ = SignedDocument::decode(&bytes);
        }
    }
}
