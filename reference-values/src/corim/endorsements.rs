//! A list of endorsed TPMs: identity triples (draft-ietf-rats-corim §5.1.8), one for each device, its serial as the
//! instance and the digest of its endorsement key as a thumbprint.

use super::{Comid, TAG_BYTES, begin_comid, decode_class, decode_sha256, encode, encode_class, expect_key, identity};
use crate::{
    document::Kind,
    endorsements::{Endorsed, Endorsements},
    error::Unreadable,
    items::{ItemWriter, Items},
    limits::{MAX_ENDORSED, MAX_SERIAL},
    release::Invalid,
};

/// Number of identity triples in `triples-map`.
const IDENTITY_TRIPLES: u64 = 2;
/// CBOR tag of a key's digest.
const TAG_THUMBPRINT: u64 = 557;
/// Shortest entry: more than its digest.
const MIN_ENTRY: usize = 40;

impl Endorsements {
    /// Writes it as an unsigned CoRIM; the same list always gives the same bytes.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let id = identity(Kind::Endorsements, self.product(), self.name());
        let mut out = ItemWriter::default();
        begin_comid(&mut out, &id, self.sequence(), IDENTITY_TRIPLES);
        out.array(self.entries().len());
        for Endorsed { ek, serial } in self.entries() {
            out.array(2).map(if serial.is_empty() { 1 } else { 2 });
            out.uint(0);
            encode_class(&mut out, self.product());
            if !serial.is_empty() {
                out.uint(1).tag(TAG_BYTES).bytes(serial.as_bytes());
            }
            out.array(1).tag(TAG_THUMBPRINT);
            out.array(2).uint(super::SHA_256).bytes(ek);
        }
        encode(Kind::Endorsements, &id, &out.finish(), (None, self.expires()))
    }
}

pub(super) fn decode(tag: &Comid<'_>, expires: Option<u64>) -> Result<Endorsements, Unreadable> {
    let mut items = tag.triples_of(IDENTITY_TRIPLES)?;
    let count = items.array()?;
    if count > MAX_ENDORSED {
        return Err(Invalid::TooMany { what: "endorsed keys", limit: MAX_ENDORSED }.into());
    }
    // No more than the bytes can hold, whatever they claim.
    let mut entries = Vec::with_capacity(count.min(items.left() / MIN_ENTRY));
    let mut of_all = None;
    for _ in 0..count {
        let (product, entry) = decode_entry(&mut items)?;
        match &of_all {
            None => of_all = Some(product),
            Some(known) if *known == product => {}
            Some(_) => return Err(items.malformed("a list is of one product, and this has two").into()),
        }
        entries.push(entry);
    }
    let product = of_all.ok_or_else(|| items.malformed("at least one identity-triple-record is expected"))?;
    let name = tag.name(Kind::Endorsements, &product)?;
    Ok(Endorsements::from_ordered(&product, name, tag.version, expires, entries)?)
}

fn decode_entry(items: &mut Items<'_>) -> Result<(String, Endorsed), Unreadable> {
    items.array_of(2, "an identity-triple-record has an environment and its keys")?;
    let pairs = items.map()?;
    expect_key(items, "environment-map", 0)?;
    let product = decode_class(items)?;
    let serial = match pairs {
        1 => String::new(),
        2 => {
            expect_key(items, "environment-map", 1)?;
            items.tag(TAG_BYTES, "the instance is bytes (tag 560): the serial")?;
            serial(items)?
        }
        _ => return Err(items.malformed("the environment has a class and an instance, and nothing else").into()),
    };
    items.array_of(1, "one key is expected")?;
    items.tag(TAG_THUMBPRINT, "the key is a thumbprint (tag 557)")?;
    Ok((product, Endorsed { ek: decode_sha256(items)?, serial }))
}

fn serial(items: &mut Items<'_>) -> Result<String, Unreadable> {
    let wrong = items.malformed("a serial is 1 to 64 printable ASCII characters; without one there is no instance");
    let bytes = items.bytes()?;
    if bytes.is_empty() || bytes.len() > MAX_SERIAL {
        return Err(wrong.into());
    }
    String::from_utf8(bytes.to_vec()).map_err(|_| wrong.into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{corim::tests::has_one_encoding, document::Document};

    fn list() -> Endorsements {
        let entry = |i: u8| Endorsed { ek: [i; 32], serial: if i == 1 { String::new() } else { format!("SN {i}") } };
        Endorsements::new("acme/gw", "line-1", 7, Some(99), (0..4).map(entry).collect()).unwrap()
    }

    #[test]
    fn what_is_written_is_read_back_and_passes_the_strict_scan() {
        for expires in [None, Some(5)] {
            let list = Endorsements::new("gw", "l", 1, expires, list().entries().to_vec()).unwrap();
            let bytes = list.encode();
            evidence::cbor::check_deterministic("CoRIM", &bytes).unwrap();
            assert_eq!(Document::decode(&bytes).unwrap(), Document::Endorsements(list));
        }
    }

    #[test]
    fn every_cut_and_every_flipped_bit_is_either_refused_or_another_list() {
        has_one_encoding(&list().into());
    }

    #[test]
    fn entries_out_of_order_or_of_another_product_are_refused() {
        let bytes = list().encode();
        let find = |digest: [u8; 32]| bytes.windows(32).position(|window| window == digest).unwrap();
        let mut swapped = bytes.clone();
        swapped[find([2; 32])..][..32].fill(3);
        assert!(Document::decode(&swapped).is_err());
        let mut other = bytes.clone();
        let at = bytes.windows(4).rposition(|window| window == b"acme").unwrap();
        other[at..at + 4].copy_from_slice(b"evil");
        assert!(matches!(Document::decode(&other), Err(Unreadable::Malformed(_))));
    }
}
