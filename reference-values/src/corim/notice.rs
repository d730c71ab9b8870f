//! A notice: reference values of which each is the opposite, which its profile says. The lowest release stands as a lowest
//! security version (`svn`), the rest with its reason beside it.

use super::{
    Comid, TAG_BYTES, begin_comid, decode_digests, decode_element, decode_measured, decode_raw, encode, encode_class,
    encode_digests, expect_key, expect_pairs, identity, unknown_element,
};
use crate::{
    document::Kind,
    error::Unreadable,
    items::{ItemWriter, Items},
    limits::{MAX_KNOWN_BAD, MAX_REVOKED},
    notice::{KnownBad, Minimum, Notice, Revoked},
    release::Invalid,
};

/// Number of reference triples in `triples-map`.
const REFERENCE_TRIPLES: u64 = 0;
/// CBOR tag of a lowest security version.
const TAG_MIN_SVN: u64 = 553;
/// Measured elements, in the order in which they stand.
const MINIMUM: &str = "minimum";
const REVOKED: &str = "revoked";
const KNOWN_BAD: &str = "known-bad";

impl Notice {
    /// Writes it as an unsigned CoRIM; the same notice always gives the same bytes.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let id = identity(Kind::Notice, self.product(), self.name());
        let mut out = ItemWriter::default();
        begin_comid(&mut out, &id, self.sequence(), REFERENCE_TRIPLES);
        out.array(1).array(2).map(1).uint(0);
        encode_class(&mut out, self.product());
        let lengths = [usize::from(self.minimum().is_some()), self.revoked().len(), self.known_bad().len()];
        out.array(lengths.into_iter().fold(0, usize::saturating_add));
        if let Some(Minimum { sequence, release }) = self.minimum() {
            out.map(2).uint(0).text(MINIMUM).uint(1).map(2);
            out.uint(0).map(1).uint(0).text(release);
            out.uint(1).tag(TAG_MIN_SVN).uint(*sequence);
        }
        for Revoked { release, why, advisory } in self.revoked() {
            out.map(2).uint(0).text(REVOKED).uint(1).map(2);
            out.uint(0).map(1).uint(0).text(release);
            out.uint(4).tag(TAG_BYTES).bytes(&encode_reason(why, advisory.as_deref()));
        }
        for KnownBad { digest, why, advisory } in self.known_bad() {
            out.map(2).uint(0).text(KNOWN_BAD).uint(1).map(2);
            out.uint(2);
            encode_digests(&mut out, digest);
            out.uint(4).tag(TAG_BYTES).bytes(&encode_reason(why, Some(advisory)));
        }
        encode(Kind::Notice, &id, &out.finish(), (None, self.expires()))
    }
}

fn encode_reason(why: &str, advisory: Option<&str>) -> Vec<u8> {
    let mut out = ItemWriter::default();
    out.map(if advisory.is_some() { 2 } else { 1 }).uint(0).text(why);
    if let Some(advisory) = advisory {
        out.uint(1).text(advisory);
    }
    out.finish()
}

fn decode_reason(bytes: &[u8]) -> Result<(String, Option<String>), Unreadable> {
    let mut items = Items::new("reason", bytes)?;
    let pairs = items.map()?;
    expect_key(&mut items, "reason", 0)?;
    let why = items.text()?.to_owned();
    match pairs {
        1 => Ok((why, None)),
        2 => {
            expect_key(&mut items, "reason", 1)?;
            Ok((why, Some(items.text()?.to_owned())))
        }
        _ => Err(items.malformed("a reason has a text and an advisory, and nothing else").into()),
    }
}

pub(super) fn decode(tag: &Comid<'_>, expires: Option<u64>) -> Result<Notice, Unreadable> {
    let mut items = tag.triples_of(REFERENCE_TRIPLES)?;
    let (product, count) = decode_measured(&mut items)?;
    let (mut minimum, mut revoked, mut known_bad) = (None, Vec::new(), Vec::new());
    for _ in 0..count {
        let misplaced = items.malformed("one minimum, revoked releases and known-bad files stand in this order");
        let (element, at) = decode_element(&mut items)?;
        let in_order = match element {
            MINIMUM => minimum.is_none() && revoked.is_empty() && known_bad.is_empty(),
            REVOKED => known_bad.is_empty(),
            KNOWN_BAD => true,
            other => return Err(unknown_element(other, at)),
        };
        if !in_order {
            return Err(misplaced.into());
        }
        match element {
            MINIMUM => minimum = Some(decode_minimum(&mut items)?),
            REVOKED if revoked.len() >= MAX_REVOKED => {
                return Err(Invalid::TooMany { what: "revoked releases", limit: MAX_REVOKED }.into());
            }
            REVOKED => revoked.push(decode_revoked(&mut items)?),
            _ if known_bad.len() >= MAX_KNOWN_BAD => {
                return Err(Invalid::TooMany { what: "known-bad files", limit: MAX_KNOWN_BAD }.into());
            }
            _ => known_bad.push(decode_known_bad(&mut items)?),
        }
    }
    let name = tag.name(Kind::Notice, &product)?.to_owned();
    Ok(Notice::from_ordered(product, name, tag.version, expires, minimum, revoked, known_bad)?)
}

fn decode_minimum(items: &mut Items<'_>) -> Result<Minimum, Unreadable> {
    expect_pairs(items, 2, "a minimum has a version and a security version")?;
    let release = decode_version(items)?;
    expect_key(items, "measurement-values-map", 1)?;
    items.tag(TAG_MIN_SVN, "a lowest security version (tag 553) is expected")?;
    Ok(Minimum { sequence: items.uint()?, release })
}

fn decode_revoked(items: &mut Items<'_>) -> Result<Revoked, Unreadable> {
    expect_pairs(items, 2, "a revoked release has its version and a reason")?;
    let release = decode_version(items)?;
    let (why, advisory) = decode_reason(decode_raw(items)?)?;
    Ok(Revoked { release, why, advisory })
}

fn decode_known_bad(items: &mut Items<'_>) -> Result<KnownBad, Unreadable> {
    expect_pairs(items, 2, "a known-bad file has its digest and a reason")?;
    expect_key(items, "measurement-values-map", 2)?;
    let digest = decode_digests(items)?;
    let wrong = items.malformed("a known-bad file has a reason and an advisory");
    let (why, advisory) = decode_reason(decode_raw(items)?)?;
    Ok(KnownBad { digest, why, advisory: advisory.ok_or(wrong)? })
}

/// `version-map`, of which the text alone is used.
fn decode_version(items: &mut Items<'_>) -> Result<String, Unreadable> {
    expect_key(items, "measurement-values-map", 0)?;
    expect_pairs(items, 1, "a version has its text and nothing else")?;
    expect_key(items, "version-map", 0)?;
    Ok(items.text()?.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{corim::tests::has_one_encoding, document::Document};

    fn notice(product: &str, expires: Option<u64>) -> Notice {
        let revoked = ["1.0", "1.1"].map(|release| Revoked {
            release: release.into(),
            why: "a hole".into(),
            advisory: (release == "1.1").then(|| "CVE-2026-1".into()),
        });
        let bad = [1, 2].map(|i| KnownBad { digest: [i; 32], why: "malware".into(), advisory: "CVE-2026-2".into() });
        let minimum = Minimum { sequence: 12, release: "1.2".into() };
        Notice::new(product, "psirt", 3, expires, Some(minimum), revoked.into(), bad.into()).unwrap()
    }

    #[test]
    fn what_is_written_is_read_back_and_passes_the_strict_scan() {
        for (product, expires) in [("acme/gw", None), ("acme/*", Some(7)), ("*", Some(8)), ("ac*", None)] {
            let notice = notice(product, expires);
            let bytes = notice.encode();
            evidence::cbor::check_deterministic("CoRIM", &bytes).unwrap();
            assert_eq!(Document::decode(&bytes).unwrap(), Document::Notice(notice));
        }
        let empty = Notice::new("p", "n", 4, None, None, vec![], vec![]).unwrap();
        assert_eq!(Document::decode(&empty.encode()).unwrap(), Document::Notice(empty));
    }

    #[test]
    fn every_cut_and_every_flipped_bit_is_either_refused_or_another_notice() {
        has_one_encoding(&notice("acme/*", Some(9)).into());
    }

    #[test]
    fn no_kind_can_be_called_another() {
        let bytes = notice("acme/gw", None).encode();
        let replace = |from: &[u8], to: &[u8]| {
            let at = bytes.windows(from.len()).position(|window| window == from).unwrap();
            [&bytes[..at], to, &bytes[at + from.len()..]].concat()
        };
        // The profiles differ in length; one of equal length is as unknown.
        assert!(Document::decode(&replace(b"2026:notice#1", b"2026:notice#2")).is_err());
        assert!(Document::decode(&replace(b"@notice:psirt", b"@notise:psirt")).is_err());
        let release = crate::release::Release::decode(&bytes);
        assert!(matches!(release, Err(Unreadable::Unsupported { .. })));
    }
}
