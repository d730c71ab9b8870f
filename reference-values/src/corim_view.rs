//! Any CoRIM (draft-ietf-rats-corim), for people to look at: in, a file of whoever's profile, signed once or not at all; out,
//! one line for each value, with its name where the draft has one. What is not understood stands as it is, in hexadecimal.
//! Nothing here is verified, and nothing of it reaches a verifier: that reads its own profiles and no other.

use std::{collections::VecDeque, fmt::Write as _};

use data_encoding::HEXLOWER;
use evidence::{Malformed, reader::Reader};

/// Lines of one file: a release of a distribution has tens of thousands of values.
const MAX_LINES: usize = 1_000_000;
/// Arrays and maps within each other.
const MAX_DEPTH: usize = 32;
/// Documents within byte strings: a signature holds a CoRIM, which holds tags.
const MAX_NESTED: usize = 4;
/// Bytes of a value that are shown, and characters of a key.
const MAX_SHOWN: usize = 64;
/// Memory for all lines, for each byte of the file: each has its whole path, some hundred bytes even for a flag of two.
const MAX_GROWTH: usize = 64;
/// The same for a file that has hardly any bytes.
const LEAST_ROOM: usize = 64 * 1024;
/// The same for a large one: a million lines of the usual length.
const MOST_ROOM: usize = 256 * 1024 * 1024;

/// One value, and where it stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Line {
    /// Names from the outside in, as `tags[0].triples.reference-triples[0].environment.class.vendor`.
    pub path: String,
    /// As text without control characters.
    pub value: String,
    /// Whether the draft's name for it is known.
    pub understood: bool,
}

/// Whether `bytes` begin like a CoRIM: tag 501, with or without the older tags 500 and 502 around it, or a COSE_Sign1.
#[must_use]
pub fn recognises(bytes: &[u8]) -> bool {
    matches!(bytes, [0xd9, 0x01, 0xf4..=0xf6, ..] | [0xd2, ..])
}

/// What a file says.
///
/// # Errors
/// [`Malformed`] where it is no CBOR of definite length to its end, or over a limit.
pub fn lines(bytes: &[u8]) -> Result<Vec<Line>, Malformed> {
    let mut out = Vec::new();
    let mut room = bytes.len().saturating_mul(MAX_GROWTH).saturating_add(LEAST_ROOM).min(MOST_ROOM);
    let mut waiting = VecDeque::from([(String::new(), Rule::Corim, bytes, 0_usize)]);
    while let Some((path, rule, bytes, depth)) = waiting.pop_front() {
        let reader = Reader::new("CoRIM", bytes);
        let mut walk = Walk { reader, out: &mut out, room, nested: Vec::new(), open: Vec::new() };
        walk.document(path, rule)?;
        room = walk.room;
        for (path, rule, bytes) in walk.nested {
            if depth >= MAX_NESTED {
                return Err(Reader::new("CoRIM", bytes).malformed("documents are nested too deeply"));
            }
            waiting.push_back((path, rule, bytes, depth.saturating_add(1)));
        }
    }
    Ok(out)
}

/// What a value is expected to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Rule {
    /// Shown as it stands.
    Value,
    /// Not understood: shown in hexadecimal, whole.
    Opaque,
    /// A map whose keys a table names.
    Map(&'static [(u64, &'static str, Rule)]),
    /// An array of such.
    List(&'static Rule),
    /// An array of these, in this order.
    Record(&'static [(&'static str, Rule)]),
    /// Bytes with a document in them.
    Holds(&'static Rule),
    /// A CoRIM: a map, or signed.
    Corim,
    /// A tag of a CoRIM: what it is, its CBOR tag says.
    Tag,
}

const ENTITY: Rule =
    Rule::Map(&[(0, "entity-name", Rule::Value), (1, "reg-id", Rule::Value), (2, "role", Rule::List(&Rule::Value))]);
const DIGEST: Rule = Rule::Record(&[("algorithm", Rule::Value), ("value", Rule::Value)]);
const DIGESTS: Rule = Rule::List(&DIGEST);
const LOCATOR: Rule = Rule::Map(&[(0, "href", Rule::Value), (1, "thumbprint", DIGEST)]);
const VALIDITY: Rule = Rule::Map(&[(0, "not-before", Rule::Value), (1, "not-after", Rule::Value)]);
const CORIM: Rule = Rule::Map(&[
    (0, "id", Rule::Value),
    (1, "tags", Rule::List(&Rule::Tag)),
    (2, "dependent-rims", Rule::List(&LOCATOR)),
    (3, "profile", Rule::Value),
    (4, "rim-validity", VALIDITY),
    (5, "entities", Rule::List(&ENTITY)),
]);
const META: Rule = Rule::Map(&[
    (0, "signer", Rule::Map(&[(0, "signer-name", Rule::Value), (1, "signer-uri", Rule::Value)])),
    (1, "signature-validity", VALIDITY),
]);
const HEADER: Rule = Rule::Map(&[
    (1, "alg", Rule::Value),
    (3, "content-type", Rule::Value),
    (4, "kid", Rule::Value),
    (8, "corim-meta", Rule::Holds(&META)),
    (33, "x5chain", Rule::Opaque),
]);
const SIGN1: Rule = Rule::Record(&[
    ("protected", Rule::Holds(&HEADER)),
    ("unprotected", HEADER),
    ("payload", Rule::Holds(&Rule::Corim)),
    ("signature", Rule::Value),
]);
const CLASS: Rule = Rule::Map(&[
    (0, "class-id", Rule::Value),
    (1, "vendor", Rule::Value),
    (2, "model", Rule::Value),
    (3, "layer", Rule::Value),
    (4, "index", Rule::Value),
]);
const ENVIRONMENT: Rule = Rule::Map(&[(0, "class", CLASS), (1, "instance", Rule::Value), (2, "group", Rule::Value)]);
const FLAGS: Rule = Rule::Map(&[
    (0, "is-configured", Rule::Value),
    (1, "is-secure", Rule::Value),
    (2, "is-recovery", Rule::Value),
    (3, "is-debug", Rule::Value),
    (4, "is-replay-protected", Rule::Value),
    (5, "is-integrity-protected", Rule::Value),
    (6, "is-runtime-meas", Rule::Value),
    (7, "is-immutable", Rule::Value),
    (8, "is-tcb", Rule::Value),
    (9, "is-confidentiality-protected", Rule::Value),
]);
const VALUES: Rule = Rule::Map(&[
    (0, "version", Rule::Map(&[(0, "version", Rule::Value), (1, "version-scheme", Rule::Value)])),
    (1, "svn", Rule::Value),
    (2, "digests", DIGESTS),
    (3, "flags", FLAGS),
    (4, "raw-value", Rule::Value),
    (5, "raw-value-mask", Rule::Value),
    (6, "mac-addr", Rule::Value),
    (7, "ip-addr", Rule::Value),
    (8, "serial-number", Rule::Value),
    (9, "ueid", Rule::Value),
    (10, "uuid", Rule::Value),
    (11, "name", Rule::Value),
    (13, "cryptokeys", KEYS),
    (14, "integrity-registers", Rule::Map(&[])),
    (15, "int-range", Rule::Value),
]);
const MEASUREMENT: Rule = Rule::Map(&[(0, "mkey", Rule::Value), (1, "mval", VALUES), (2, "authorized-by", KEYS)]);
const KEYS: Rule = Rule::List(&Rule::Value);
const MEASURED: Rule =
    Rule::List(&Rule::Record(&[("environment", ENVIRONMENT), ("measurements", Rule::List(&MEASUREMENT))]));
const KEYED: Rule =
    Rule::List(&Rule::Record(&[("environment", ENVIRONMENT), ("keys", KEYS), ("conditions", Rule::Opaque)]));
const DOMAINS: Rule = Rule::List(&Rule::Record(&[("domain", ENVIRONMENT), ("environments", Rule::List(&ENVIRONMENT))]));
const COMID: Rule = Rule::Map(&[
    (0, "language", Rule::Value),
    (1, "tag-identity", Rule::Map(&[(0, "tag-id", Rule::Value), (1, "tag-version", Rule::Value)])),
    (2, "entities", Rule::List(&ENTITY)),
    (3, "linked-tags", Rule::List(&Rule::Map(&[(0, "linked-tag-id", Rule::Value), (1, "tag-rel", Rule::Value)]))),
    (
        4,
        "triples",
        Rule::Map(&[
            (0, "reference-triples", MEASURED),
            (1, "endorsed-triples", MEASURED),
            (2, "identity-triples", KEYED),
            (3, "attest-key-triples", KEYED),
            (4, "dependency-triples", DOMAINS),
            (5, "membership-triples", DOMAINS),
            (6, "coswid-triples", Rule::Opaque),
            (8, "conditional-endorsement-series-triples", Rule::Opaque),
            (10, "conditional-endorsement-triples", Rule::Opaque),
        ]),
    ),
]);

/// CBOR tags with a name in the draft or beside it.
const TAGS: [(u64, &str); 24] = [
    (0, "time"),
    (1, "time"),
    (32, "uri"),
    (37, "uuid"),
    (111, "oid"),
    (500, "corim"),
    (501, "unsigned-corim"),
    (502, "signed-corim"),
    (505, "coswid"),
    (506, "comid"),
    (507, "cots"),
    (508, "cots"),
    (550, "ueid"),
    (552, "svn"),
    (553, "min-svn"),
    (554, "pkix-base64-key"),
    (555, "pkix-base64-cert"),
    (556, "pkix-base64-cert-path"),
    (557, "key-thumbprint"),
    (558, "cose-key"),
    (559, "cert-thumbprint"),
    (560, "bytes"),
    (561, "cert-path-thumbprint"),
    (563, "masked-raw-value"),
];

/// An array or map that is being read.
struct Open {
    rule: Rule,
    is_map: bool,
    /// Pairs or items that are left.
    left: u64,
    /// Items so far.
    next: u64,
    /// Length of the path to it.
    path: usize,
}

struct Walk<'a, 'o> {
    reader: Reader<'a>,
    out: &'o mut Vec<Line>,
    /// Memory that is left for lines.
    room: usize,
    nested: Vec<(String, Rule, &'a [u8])>,
    open: Vec<Open>,
}

impl<'a> Walk<'a, '_> {
    /// One document, to the end of its bytes.
    fn document(&mut self, mut path: String, rule: Rule) -> Result<(), Malformed> {
        self.value(&path, rule)?;
        while let Some(open) = self.open.last_mut() {
            path.truncate(open.path);
            let Some(left) = open.left.checked_sub(1) else {
                self.open.pop();
                continue;
            };
            open.left = left;
            let (rule, at, is_map) = (open.rule, open.next, open.is_map);
            open.next = at.saturating_add(1);
            let rule = if is_map { self.key(&mut path, rule)? } else { item(&mut path, rule, at) };
            self.value(&path, rule)?;
        }
        self.reader.finish()
    }

    /// Reads a key, and says what its value is.
    fn key(&mut self, path: &mut String, rule: Rule) -> Result<Rule, Malformed> {
        let table = if let Rule::Map(table) = rule { table } else { &[] };
        let start = self.reader.clone();
        let (major, number) = self.head()?;
        if !path.is_empty() {
            path.push('.');
        }
        match major {
            0 => {
                let known = table.iter().find(|(key, ..)| *key == number);
                if let Some((_, name, rule)) = known {
                    path.push_str(name);
                    return Ok(*rule);
                }
                let _ = write!(path, "{number}");
                // Of registers, every number is one.
                Ok(if table.is_empty() && rule != Rule::Opaque { DIGESTS } else { Rule::Opaque })
            }
            1 => {
                let _ = write!(path, "-{}", u128::from(number).saturating_add(1));
                Ok(Rule::Opaque)
            }
            3 => {
                let text = self.take(number)?;
                path.push_str(&shown_key(text));
                Ok(if table.is_empty() && rule != Rule::Opaque { DIGESTS } else { Rule::Opaque })
            }
            _ => Err(start.malformed("a key is neither a number nor text")),
        }
    }

    /// Reads a value: shows it, or opens it.
    fn value(&mut self, path: &str, rule: Rule) -> Result<(), Malformed> {
        if rule == Rule::Opaque {
            let start = self.reader.clone();
            self.skip()?;
            let length = start.remaining().saturating_sub(self.reader.remaining());
            let bytes = start.clone().take(length)?;
            return self.say(path, format!("opaque, {length} bytes: {}", shown_bytes(bytes)), false);
        }
        let mut rule = rule;
        let mut names = String::new();
        for _ in 0..MAX_DEPTH {
            let start = self.reader.clone();
            let (major, number) = self.head()?;
            match major {
                6 => {
                    let name = TAGS.iter().find(|(tag, _)| *tag == number).map(|(_, name)| *name);
                    let _ = match name {
                        Some(name) => write!(names, "{name} "),
                        None => write!(names, "tag {number} "),
                    };
                    rule = tagged(rule, number);
                }
                4 | 5 => return self.open(path, rule, major == 5, number, names, &start),
                2 => return self.bytes(path, rule, number, &names),
                _ => {
                    let value = self.scalar(major, number, &start)?;
                    let understood = !matches!(rule, Rule::Map(_) | Rule::List(_) | Rule::Record(_) | Rule::Tag);
                    return self.say(path, format!("{names}{value}"), understood);
                }
            }
        }
        Err(self.reader.malformed("tags are nested too deeply"))
    }

    fn open(
        &mut self,
        path: &str,
        rule: Rule,
        is_map: bool,
        length: u64,
        names: String,
        start: &Reader<'a>,
    ) -> Result<(), Malformed> {
        if self.open.len() >= MAX_DEPTH {
            return Err(start.malformed("arrays and maps are nested too deeply"));
        }
        // Each item takes a byte at least: no length beyond the bytes can be kept.
        if usize::try_from(length).map_or(true, |length| length > self.reader.remaining()) {
            return Err(start.malformed("length past the end"));
        }
        let rule = match rule {
            Rule::Corim | Rule::Tag if is_map => CORIM,
            Rule::Corim => SIGN1,
            // A value with a structure of its own: a digest, a range, a key.
            Rule::Value if !is_map => Rule::List(&Rule::Value),
            Rule::Value => Rule::Map(&[(u64::MAX, "", Rule::Opaque)]),
            other => other,
        };
        let fits = match rule {
            Rule::Map(_) => is_map,
            Rule::List(_) | Rule::Record(_) => !is_map,
            _ => false,
        };
        if length == 0 || !names.is_empty() {
            let what = if is_map { "map" } else { "array" };
            self.say(path, format!("{names}{what} of {length}"), fits)?;
        }
        let rule = if fits { rule } else { Rule::Opaque };
        self.open.push(Open { rule, is_map, left: length, next: 0, path: path.len() });
        Ok(())
    }

    fn bytes(&mut self, path: &str, rule: Rule, length: u64, names: &str) -> Result<(), Malformed> {
        let bytes = self.take(length)?;
        let held = match rule {
            Rule::Holds(held) => Some(*held),
            _ => None,
        };
        match held.filter(|_| !bytes.is_empty()) {
            Some(held) => {
                self.nested.push((path.to_owned(), held, bytes));
                Ok(())
            }
            None => self.say(path, format!("{names}h'{}'", shown_bytes(bytes)), true),
        }
    }

    fn scalar(&mut self, major: u8, number: u64, start: &Reader<'a>) -> Result<String, Malformed> {
        Ok(match major {
            0 => number.to_string(),
            1 => format!("-{}", u128::from(number).saturating_add(1)),
            3 => format!("\"{}\"", shown_text(self.take(number)?)),
            7 => match number {
                20 => "false".to_owned(),
                21 => "true".to_owned(),
                22 => "null".to_owned(),
                other => format!("simple or float {other:#x}"),
            },
            _ => return Err(start.malformed("a value is expected")),
        })
    }

    fn say(&mut self, path: &str, value: String, understood: bool) -> Result<(), Malformed> {
        let size = size_of::<Line>().saturating_add(path.len()).saturating_add(value.len());
        self.room = match self.room.checked_sub(size) {
            Some(left) if self.out.len() < MAX_LINES => left,
            _ => return Err(self.reader.malformed("it holds more values than are shown")),
        };
        self.out.push(Line { path: path.to_owned(), value, understood });
        Ok(())
    }

    /// Passes over one item, whatever is in it.
    fn skip(&mut self) -> Result<(), Malformed> {
        let mut left = 1_u64;
        while let Some(rest) = left.checked_sub(1) {
            let start = self.reader.clone();
            let (major, number) = self.head()?;
            let inside = match major {
                2 | 3 => {
                    self.take(number)?;
                    0
                }
                4 => number,
                5 => number.saturating_mul(2),
                6 => 1,
                _ => 0,
            };
            left = rest.saturating_add(inside);
            if usize::try_from(left).map_or(true, |left| left > self.reader.remaining().saturating_add(1)) {
                return Err(start.malformed("length past the end"));
            }
        }
        Ok(())
    }

    fn take(&mut self, length: u64) -> Result<&'a [u8], Malformed> {
        let length = usize::try_from(length).map_err(|_| self.reader.malformed("length past the end"))?;
        self.reader.take(length)
    }

    /// Major type and argument (RFC 8949 §3).
    fn head(&mut self) -> Result<(u8, u64), Malformed> {
        let start = self.reader.clone();
        let first = self.reader.u8()?;
        let number = match first & 31 {
            info @ 0..=23 => u64::from(info),
            24 => u64::from(self.reader.u8()?),
            25 => u64::from(self.reader.u16_be()?),
            26 => u64::from(self.reader.u32_be()?),
            27 => self.reader.u64_be()?,
            _ => return Err(start.malformed("an item of indefinite length")),
        };
        Ok((first >> 5, number))
    }
}

/// Names an item of an array, and says what it is.
fn item(path: &mut String, rule: Rule, at: u64) -> Rule {
    match rule {
        Rule::Record(fields) => {
            let field = usize::try_from(at).ok().and_then(|at| fields.get(at));
            let (name, rule) = field.copied().unwrap_or(("more", Rule::Opaque));
            if !path.is_empty() {
                path.push('.');
            }
            path.push_str(name);
            rule
        }
        other => {
            let _ = write!(path, "[{at}]");
            if let Rule::List(inner) = other { *inner } else { Rule::Opaque }
        }
    }
}

/// What a value is, once its tag is known.
const fn tagged(rule: Rule, tag: u64) -> Rule {
    match (rule, tag) {
        (Rule::Corim, 500 | 502) => Rule::Corim,
        (Rule::Corim, 501) => CORIM,
        (Rule::Corim, 18) => SIGN1,
        (Rule::Tag, 506) => Rule::Holds(&COMID),
        (Rule::Tag, _) => Rule::Value,
        (other, _) => other,
    }
}

fn shown_bytes(bytes: &[u8]) -> String {
    let (shown, rest) = bytes.split_at(bytes.len().min(MAX_SHOWN));
    let more = if rest.is_empty() { "" } else { "…" };
    format!("{}{more}", HEXLOWER.encode(shown))
}

/// The beginning of a key, which stands in every line below it.
fn shown_key(bytes: &[u8]) -> String {
    let text = shown_text(bytes);
    let mut shown: String = text.chars().take(MAX_SHOWN).collect();
    if shown.len() < text.len() {
        shown.push('…');
    }
    shown
}

/// As text without control characters; what is no UTF-8 in hexadecimal.
fn shown_text(bytes: &[u8]) -> String {
    let escape = |text: &str| {
        text.chars().flat_map(|c| if c.is_control() { c.escape_default().collect() } else { vec![c] }).collect()
    };
    std::str::from_utf8(bytes).map_or_else(|_| format!("h'{}'", shown_bytes(bytes)), escape)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{
        document::{Document, Endorsed, Endorsements},
        items::ItemWriter,
    };

    fn shown(bytes: &[u8]) -> Vec<String> {
        lines(bytes).unwrap().into_iter().map(|line| format!("{}: {}", line.path, line.value)).collect()
    }

    /// In the form of other projects: an OID as profile, language, entities, a CoSWID beside, values of our own and others'.
    fn foreign() -> Vec<u8> {
        let mut comid = ItemWriter::default();
        comid.map(4).uint(0).text("en-GB").uint(1).map(1).uint(0).tag(37).bytes(&[7; 16]);
        comid.uint(2).array(1).map(2).uint(0).text("ACME Ltd.").uint(2).array(1).uint(1);
        comid.uint(4).map(2).uint(0).array(1).array(2);
        comid
            .map(1)
            .uint(0)
            .map(3)
            .uint(0)
            .tag(600)
            .bytes(&[1; 32])
            .uint(1)
            .text("ACME")
            .uint(2)
            .text("Road\u{1b}Runner");
        comid.array(1).map(2).uint(0).tag(601).map(1).uint(1).text("BL");
        comid.uint(1).map(2).uint(2).array(1).array(2).text("sha-256").bytes(&[2; 32]).uint(99).array(1).uint(5);
        comid.uint(77).uint(1);
        let mut corim = ItemWriter::default();
        corim.tag(501).map(3).uint(0).text("corim id").uint(1).array(2);
        corim.tag(506).bytes(&comid.finish()).tag(505).bytes(&[0xa0]).uint(3).tag(111).bytes(&[0x2b]);
        corim.finish()
    }

    #[test]
    fn what_the_draft_names_is_named_and_the_rest_is_opaque() {
        let shown = shown(&foreign());
        for line in [
            "id: \"corim id\"",
            "profile: oid h'2b'",
            "tags[1]: coswid h'a0'",
            "tags[0].language: \"en-GB\"",
            "tags[0].entities[0].entity-name: \"ACME Ltd.\"",
            "tags[0].triples.reference-triples[0].environment.class.vendor: \"ACME\"",
            "tags[0].triples.reference-triples[0].environment.class.model: \"Road\\u{1b}Runner\"",
            "tags[0].triples.reference-triples[0].measurements[0].mval.digests[0].algorithm: \"sha-256\"",
            "tags[0].triples.reference-triples[0].measurements[0].mval.99: opaque, 2 bytes: 8105",
            "tags[0].triples.77: opaque, 1 bytes: 01",
        ] {
            assert!(shown.iter().any(|shown| shown == line), "{line}: {shown:#?}");
        }
        let not: Vec<_> = lines(&foreign()).unwrap().into_iter().filter(|line| !line.understood).collect();
        assert!(not.iter().all(|line| line.value.contains("opaque") || line.path.contains("mkey")), "{not:#?}");
    }

    #[test]
    fn a_signature_around_it_and_older_tags_change_nothing_inside() {
        let payload = foreign();
        let mut header = ItemWriter::default();
        let mut meta = ItemWriter::default();
        meta.map(1).uint(0).map(1).uint(0).text("ACME signing key");
        header.map(2).uint(1).uint(7).uint(8).bytes(&meta.finish());
        let mut sign1 = ItemWriter::default();
        sign1.tag(500).tag(502).tag(18).array(4).bytes(&header.finish()).map(0).bytes(&payload).bytes(&[9; 64]);
        let shown = shown(&sign1.finish());
        assert!(
            shown.iter().any(|line| line == "protected.corim-meta.signer.signer-name: \"ACME signing key\""),
            "{shown:#?}"
        );
        assert!(
            shown.iter().any(|line| line.starts_with("payload.tags[0].triples.reference-triples[0]")),
            "{shown:#?}"
        );
    }

    #[test]
    fn our_own_documents_are_understood_whole() {
        let entries = vec![Endorsed { ek: [3; 32], serial: "SN".into() }];
        let list = Document::from(Endorsements::new("acme/gw", "l", 1, Some(9), entries).unwrap());
        assert!(lines(&list.encode()).unwrap().iter().all(|line| line.understood));
        let release = crate::signed::tests::release().encode();
        assert!(lines(&release).unwrap().iter().all(|line| line.understood));
    }

    #[test]
    fn what_is_cut_too_deep_or_too_long_is_refused() {
        let bytes = foreign();
        for at in 0..bytes.len() {
            assert!(lines(&bytes[..at]).is_err(), "{at}");
        }
        // What is not understood is passed over without a stack, however deep it is.
        let deep = [&[0xd9, 0x01, 0xf5, 0xa1, 0x18, 99], &[0x81; 100_000][..], &[0]].concat();
        assert!(lines(&deep).unwrap().last().unwrap().value.starts_with("opaque, 100001 bytes"));
        let tags = [&[0xd9, 0x01, 0xf5, 0xa1, 0x00], &[0xc1; 100][..], &[0]].concat();
        assert!(lines(&tags).is_err());
        let nested = |inner: &[u8]| {
            let mut sign1 = ItemWriter::default();
            sign1.tag(18).array(4).bytes(&[0xa0]).map(0).bytes(inner).bytes(&[9; 64]);
            sign1.finish()
        };
        let mut itself = foreign();
        (0..10).for_each(|_| itself = nested(&itself));
        assert!(lines(&itself).is_err());
        assert!(lines(&[0xd9, 0x01, 0xf5, 0xbb, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff]).is_err());
        assert!(lines(&[0xd9, 0x01, 0xf5, 0xbf, 0xff]).is_err());
    }

    /// Register names of `key` bytes, with `values` digests of no bytes below.
    fn registers(key: usize, values: usize) -> Vec<u8> {
        let mut comid = ItemWriter::default();
        comid.map(1).uint(4).map(1).uint(0).array(1).array(2).map(0).array(1).map(1).uint(1);
        comid.map(1).uint(14).map(1).text(&"x".repeat(key)).array(values);
        (0..values).for_each(|_| {
            comid.array(2).uint(1).bytes(&[]);
        });
        let mut corim = ItemWriter::default();
        corim.tag(501).map(1).uint(1).array(1).tag(506).bytes(&comid.finish());
        corim.finish()
    }

    #[test]
    fn lines_take_no_more_than_a_small_multiple_of_the_file() {
        let long = lines(&registers(4096, 100)).unwrap();
        assert!(long.iter().all(|line| line.path.len() < 200), "{:?}", long.last());
        for values in [1000, 20_000, 200_000] {
            let bytes = registers(4096, values);
            let Ok(lines) = lines(&bytes) else { continue };
            let held: usize = lines.iter().map(|line| size_of::<Line>() + line.path.len() + line.value.len()).sum();
            assert!(held <= bytes.len() * MAX_GROWTH + LEAST_ROOM, "{values}");
        }
        assert!(lines(&registers(4096, 200_000)).is_err());
    }

    #[test]
    fn a_key_is_cut_between_characters() {
        assert_eq!(shown_key("é".repeat(64).as_bytes()), "é".repeat(64));
        assert_eq!(shown_key("é".repeat(65).as_bytes()), format!("{}…", "é".repeat(64)));
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(at in 0_usize..400, insert in prop::collection::vec(any::<u8>(), 0..20), cut in 0_usize..20) {
            let mut bytes = foreign();
            let at = at % bytes.len();
            let end = (at + cut).min(bytes.len());
            bytes.splice(at..end, insert);
            let _ = lines(&bytes);
        }
    }
}
