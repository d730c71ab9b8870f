//! Documents as CoRIMs (draft-ietf-rats-corim): in, the bytes of an unsigned, tagged CoRIM with one CoMID; out, a
//! [`Document`]; and back. The subset is written down in `docs/reference-values.cddl`. Whatever is not in it is refused
//! with its place: a value that is skipped because nobody understood it may have been the one that forbids.
//!
//! The profile says which kind of document it is, and the identity says it once more: none can be taken for another.

mod endorsements;
mod notice;
mod release;

use crate::{
    document::{Document, Kind},
    error::Unreadable,
    items::{ItemWriter, Items},
    limits::{MAX_ENDORSEMENTS_FILE, MAX_FILE},
    release::Release,
};

/// CBOR tag of an unsigned CoRIM.
const TAG_CORIM: u64 = 501;
/// CBOR tag of a CoMID inside a CoRIM.
const TAG_COMID: u64 = 506;
/// CBOR tag of a URI (RFC 8949 §3.4.5.3).
const TAG_URI: u64 = 32;
/// CBOR tag of a time in seconds since the epoch (RFC 8949 §3.4.2).
const TAG_TIME: u64 = 1;
/// CBOR tag of a value that is a byte string.
const TAG_BYTES: u64 = 560;
/// SHA-256 in the Named Information Hash Algorithm Registry.
const SHA_256: u64 = 1;

/// The profile that fixes what the parts of a kind of document mean (`corim-map`, key 3).
pub(crate) const fn profile(kind: Kind) -> &'static str {
    match kind {
        Kind::Release => "tag:countersign.example,2026:release#1",
        Kind::Endorsements => "tag:countersign.example,2026:endorsements#1",
        Kind::Notice => "tag:countersign.example,2026:notice#1",
    }
}

/// CoRIM id and CoMID tag-id: product and name, told apart by the first '@'; lists and notices say so before their name.
fn identity(kind: Kind, product: &str, name: &str) -> String {
    match kind {
        Kind::Release => format!("{product}@{name}"),
        Kind::Endorsements | Kind::Notice => format!("{product}@{kind}:{name}"),
    }
}

/// Reads any of the three.
pub(crate) fn decode(bytes: &[u8]) -> Result<Document, Unreadable> {
    let too_large = |limit| Unreadable::TooLarge { what: "bytes of a document", limit };
    if bytes.len() > MAX_ENDORSEMENTS_FILE {
        return Err(too_large(MAX_ENDORSEMENTS_FILE));
    }
    let mut items = Items::new("CoRIM", bytes)?;
    items.tag(TAG_CORIM, "tag 501 (unsigned CoRIM) is expected")?;
    let corim = CorimMap::decode(&mut items)?;
    if corim.kind != Kind::Endorsements && bytes.len() > MAX_FILE {
        return Err(too_large(MAX_FILE));
    }
    let tag = Comid::decode(&corim)?;
    let document = match corim.kind {
        Kind::Release => Document::Release(release::decode(&tag, corim.not_before, corim.not_after)?),
        Kind::Endorsements => Document::Endorsements(endorsements::decode(&tag, corim.ends()?)?),
        Kind::Notice => Document::Notice(notice::decode(&tag, corim.ends()?)?),
    };
    if corim.id != tag.id || tag.id != identity(document.kind(), document.product(), document.name()) {
        let why = "id and tag-id are not those of the environment's class and the profile";
        return Err(items.malformed(why).into());
    }
    Ok(document)
}

/// What of `corim-map` is used.
struct CorimMap<'a> {
    kind: Kind,
    id: &'a str,
    comid: &'a [u8],
    not_before: Option<u64>,
    not_after: Option<u64>,
}

impl<'a> CorimMap<'a> {
    fn decode(items: &mut Items<'a>) -> Result<Self, Unreadable> {
        let (mut id, mut comid, mut profile, mut validity) = (None, None, None, (None, None));
        for _ in 0..items.map()? {
            let key = items.key("corim-map")?;
            match key.number {
                0 => id = Some(items.text()?),
                1 => {
                    items.array_of(1, "one tag is expected: a CoMID")?;
                    items.tag(TAG_COMID, "tag 506 (CoMID) is expected; others are not supported")?;
                    comid = Some(items.bytes()?);
                }
                3 => {
                    items.tag(TAG_URI, "a profile URI is expected")?;
                    profile = Some(items.text()?);
                }
                4 => validity = decode_validity(items)?,
                _ => return Err(key.unsupported()),
            }
        }
        let kind = kind_of(profile, items.at())?;
        let (Some(id), Some(comid)) = (id, comid) else {
            return Err(items.malformed("corim-map lacks id or tags").into());
        };
        Ok(Self { kind, id, comid, not_before: validity.0, not_after: validity.1 })
    }

    /// Of what only ever ends: a list or a notice.
    fn ends(&self) -> Result<Option<u64>, Unreadable> {
        match (self.not_before, self.not_after) {
            (Some(_), _) => {
                let item = "not-before, and lists and notices count from when they come".to_owned();
                Err(Unreadable::Unsupported { place: "validity-map", item, at: 0 })
            }
            (None, end) => Ok(end),
        }
    }
}

fn kind_of(found: Option<&str>, at: usize) -> Result<Kind, Unreadable> {
    let kinds = [Kind::Release, Kind::Endorsements, Kind::Notice];
    kinds.into_iter().find(|kind| found == Some(profile(*kind))).ok_or_else(|| {
        let shown = |other: &str| format!("profile {:?}", other.chars().take(80).collect::<String>());
        let item = found.map_or_else(|| "no profile".into(), shown);
        Unreadable::Unsupported { place: "corim-map", item, at }
    })
}

fn decode_validity(items: &mut Items<'_>) -> Result<(Option<u64>, Option<u64>), Unreadable> {
    let (mut not_before, mut not_after) = (None, None);
    for _ in 0..items.map()? {
        let key = items.key("validity-map")?;
        let field = match key.number {
            0 => &mut not_before,
            1 => &mut not_after,
            _ => return Err(key.unsupported()),
        };
        items.tag(TAG_TIME, "a time in seconds (tag 1) is expected")?;
        *field = Some(items.uint()?);
    }
    if not_after.is_none() {
        return Err(items.malformed("validity-map lacks not-after").into());
    }
    Ok((not_before, not_after))
}

/// Writes the CoRIM around a CoMID.
fn encode(kind: Kind, id: &str, comid: &[u8], (from, until): (Option<u64>, Option<u64>)) -> Vec<u8> {
    let mut out = ItemWriter::default();
    let has_validity = from.is_some() || until.is_some();
    out.tag(TAG_CORIM).map(if has_validity { 4 } else { 3 });
    out.uint(0).text(id);
    out.uint(1).array(1).tag(TAG_COMID).bytes(comid);
    out.uint(3).tag(TAG_URI).text(profile(kind));
    if has_validity {
        out.uint(4).map(if from.is_some() { 2 } else { 1 });
        if let Some(from) = from {
            out.uint(0).tag(TAG_TIME).uint(from);
        }
        out.uint(1).tag(TAG_TIME).uint(until.unwrap_or(Release::NEVER));
    }
    out.finish()
}

/// A CoMID: who it is, and where its triples stand.
struct Comid<'a> {
    id: &'a str,
    version: u64,
    /// At the value of `triples`, the last item.
    triples: Items<'a>,
}

impl<'a> Comid<'a> {
    fn decode(corim: &CorimMap<'a>) -> Result<Self, Unreadable> {
        let mut items = Items::new("CoMID", corim.comid)?;
        let wrong = items.malformed("a concise-mid-tag has its tag-identity and its triples");
        let pairs = items.map()?;
        // Keys first, so that one that is not understood is named.
        expect_key(&mut items, "concise-mid-tag", 1)?;
        let (id, version) = decode_tag_identity(&mut items)?;
        expect_key(&mut items, "concise-mid-tag", 4)?;
        if pairs != 2 {
            return Err(wrong.into());
        }
        Ok(Self { id, version, triples: items })
    }

    /// The one kind of triples that this kind of document has: its number in `triples-map`.
    fn triples_of(&self, number: u64) -> Result<Items<'a>, Unreadable> {
        let mut items = self.triples.clone();
        if items.map()? != 1 {
            return Err(items.malformed("triples-map holds other than the one kind that this profile has").into());
        }
        expect_key(&mut items, "triples-map", number)?;
        Ok(items)
    }

    /// The name after the product's '@'.
    fn name(&self, kind: Kind, product: &str) -> Result<&'a str, Unreadable> {
        let rest = self.id.strip_prefix(product).and_then(|rest| rest.strip_prefix('@'));
        let name = rest.and_then(|rest| match kind {
            Kind::Release => Some(rest),
            Kind::Endorsements | Kind::Notice => rest.strip_prefix(kind.name())?.strip_prefix(':'),
        });
        let why = "the tag-id is not that of its environment's class and of the profile";
        name.ok_or_else(|| self.triples.malformed(why).into())
    }
}

fn decode_tag_identity<'a>(items: &mut Items<'a>) -> Result<(&'a str, u64), Unreadable> {
    expect_pairs(items, 2, "a tag-identity has its tag-id and its tag-version")?;
    expect_key(items, "tag-identity-map", 0)?;
    let id = items.text()?;
    expect_key(items, "tag-identity-map", 1)?;
    Ok((id, items.uint()?))
}

/// Begins a CoMID, up to the list of triples of this kind.
fn begin_comid(out: &mut ItemWriter, id: &str, version: u64, triples: u64) {
    out.map(2).uint(1).map(2).uint(0).text(id).uint(1).uint(version);
    out.uint(4).map(1).uint(triples);
}

/// The class of a product, or of a pattern of products.
fn encode_class(out: &mut ItemWriter, product: &str) {
    match product.split_once('/') {
        Some((vendor, model)) => out.map(2).uint(1).text(vendor).uint(2).text(model),
        None => out.map(1).uint(2).text(product),
    };
}

fn decode_class(items: &mut Items<'_>) -> Result<String, Unreadable> {
    let (mut vendor, mut model) = (None, None);
    for _ in 0..items.map()? {
        let key = items.key("class-map")?;
        match key.number {
            1 => vendor = Some(items.text()?),
            2 => model = Some(items.text()?),
            _ => return Err(key.unsupported()),
        }
    }
    let model = model.ok_or_else(|| items.malformed("class-map lacks model"))?;
    if model.contains('/') {
        return Err(items.malformed("the model has a '/'").into());
    }
    Ok(vendor.map_or_else(|| model.to_owned(), |vendor| format!("{vendor}/{model}")))
}

/// Begins the one reference-triple-record of a document: its product, and how many measurements it has.
fn decode_measured(items: &mut Items<'_>) -> Result<(String, usize), Unreadable> {
    items.array_of(1, "one reference-triple-record is expected")?;
    items.array_of(2, "a reference-triple-record has an environment and its measurements")?;
    expect_pairs(items, 1, "the environment has a class, which alone is supported")?;
    expect_key(items, "environment-map", 0)?;
    let product = decode_class(items)?;
    Ok((product, items.array()?))
}

/// The measured element that a measurement begins with, and where it stands.
fn decode_element<'a>(items: &mut Items<'a>) -> Result<(&'a str, usize), Unreadable> {
    expect_pairs(items, 2, "a measurement-map has a measured element and its values")?;
    expect_key(items, "measurement-map", 0)?;
    let at = items.at();
    let element = items.text()?;
    expect_key(items, "measurement-map", 1)?;
    Ok((element, at))
}

fn unknown_element(element: &str, at: usize) -> Unreadable {
    let item = format!("measured element {:?}", element.chars().take(40).collect::<String>());
    Unreadable::Unsupported { place: "measurement-map", item, at }
}

/// `raw-value`: bytes with a structure of their own.
fn decode_raw<'a>(items: &mut Items<'a>) -> Result<&'a [u8], Unreadable> {
    expect_key(items, "measurement-values-map", 4)?;
    items.tag(TAG_BYTES, "a raw value of bytes (tag 560) is expected")?;
    Ok(items.bytes()?)
}

/// `digests-type` with one SHA-256 digest.
fn decode_digests(items: &mut Items<'_>) -> Result<[u8; 32], Unreadable> {
    items.array_of(1, "one digest is expected")?;
    decode_sha256(items)
}

fn decode_sha256(items: &mut Items<'_>) -> Result<[u8; 32], Unreadable> {
    items.array_of(2, "a digest has an algorithm and a value")?;
    let at = items.at();
    let algorithm = items.uint()?;
    if algorithm != SHA_256 {
        let item = format!("hash algorithm {algorithm}");
        return Err(Unreadable::Unsupported { place: "digest", item, at });
    }
    Ok(items.bytes_of("a SHA-256 digest has 32 bytes")?)
}

fn encode_digests(out: &mut ItemWriter, digest: &[u8; 32]) {
    out.array(1).array(2).uint(SHA_256).bytes(digest);
}

fn expect_pairs(items: &mut Items<'_>, pairs: usize, expected: &'static str) -> Result<(), Unreadable> {
    let wrong = items.malformed(expected);
    if items.map()? == pairs { Ok(()) } else { Err(wrong.into()) }
}

fn expect_key(items: &mut Items<'_>, place: &'static str, number: u64) -> Result<(), Unreadable> {
    let key = items.key(place)?;
    if key.number == number { Ok(()) } else { Err(key.unsupported()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::document::{Endorsed, Endorsements, Notice};

    /// The same tag in a CoRIM of this kind, its identities as they were or as that kind has them.
    fn passed_off(document: &Document, kind: Kind, name: &str) -> Vec<u8> {
        let bytes = document.encode();
        let mut items = Items::new("CoRIM", &bytes).unwrap();
        items.tag(TAG_CORIM, "").unwrap();
        let corim = CorimMap::decode(&mut items).unwrap();
        let id = identity(kind, document.product(), name);
        let tag = Comid::decode(&corim).unwrap();
        let triples = &corim.comid[tag.triples.at()..];
        let mut comid = ItemWriter::default();
        comid.map(2).uint(1).map(2).uint(0).text(&id).uint(1).uint(tag.version).uint(4);
        encode(kind, &id, &[&comid.finish(), triples].concat(), (None, corim.not_after))
    }

    /// Cut or changed in any bit, its bytes are no document, or another.
    pub(super) fn has_one_encoding(good: &Document) {
        let bytes = good.encode();
        for at in 0..bytes.len() {
            assert!(decode(&bytes[..at]).is_err());
            for bit in 0..8 {
                let mut changed = bytes.clone();
                changed[at] ^= 1 << bit;
                assert!(decode(&changed).ok().as_ref() != Some(good), "byte {at} bit {bit}");
            }
        }
    }

    #[test]
    fn no_kind_passes_for_another_whatever_it_is_called() {
        let entries = vec![Endorsed { ek: [3; 32], serial: "SN".into() }];
        let documents = [
            Document::Release(crate::signed::tests::release()),
            Endorsements::new("acme/gw", "1", 7, None, entries).unwrap().into(),
            Notice::new("acme/gw", "1", 7, None, None, vec![], vec![]).unwrap().into(),
        ];
        for document in &documents {
            assert_eq!(&decode(&passed_off(document, document.kind(), "1")).unwrap(), document);
            for kind in [Kind::Release, Kind::Endorsements, Kind::Notice].into_iter().filter(|k| *k != document.kind())
            {
                for name in ["1".to_owned(), format!("{}:1", document.kind())] {
                    let decoded = decode(&passed_off(document, kind, &name));
                    assert!(decoded.is_err(), "{} as {kind}: {decoded:?}", document.kind());
                }
            }
        }
    }
}
