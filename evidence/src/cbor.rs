//! Deterministic CBOR (RFC 8949 §4.2.1), checked before anything decodes it.
//!
//! Libraries differ in what they let pass (non-minimal integers, indefinite lengths, the last of duplicate keys,
//! trailing bytes), and a signed structure with two readings is an attack. So one scan over the raw bytes comes first:
//! without recursion and without allocation. What passes has one encoding only, and any decoder reads it alike.

use serde::{Serialize, de::DeserializeOwned};

use crate::{error::Malformed, limits::MAX_CBOR_DEPTH, reader::Reader};

/// One open array, map or tag.
#[derive(Clone, Copy)]
struct Level {
    /// Items still to come; a map counts keys and values.
    left: usize,
    map: bool,
    /// Where the previous key of this map stands.
    last_key: Option<(usize, usize)>,
}

impl Level {
    const fn items(left: usize) -> Self {
        Self { left, map: false, last_key: None }
    }

    const fn expects_key(&self) -> bool {
        self.map && self.left.is_multiple_of(2)
    }
}

/// What the head of an item says (RFC 8949 §3).
enum Head {
    Scalar,
    Array(usize),
    Map(usize),
    Tag,
}

/// Checks that `bytes` hold exactly one item in deterministic encoding: shortest heads, definite lengths, map keys
/// (integers or strings) in strictly ascending order, valid UTF-8, nesting of at most [`MAX_CBOR_DEPTH`], no floats,
/// and no byte after the end.
///
/// # Errors
/// [`Malformed`] with the offset of what breaks the rule.
pub fn check_deterministic(what: &'static str, bytes: &[u8]) -> Result<(), Malformed> {
    scan(what, bytes, true)
}

/// [`check_deterministic`], and no tag anywhere. Decoders skip tags that they do not expect, so that a tag more or less
/// would be a second encoding of the same content; this project's own messages have none.
///
/// # Errors
/// [`Malformed`] with the offset of what breaks the rule.
pub fn check_untagged(what: &'static str, bytes: &[u8]) -> Result<(), Malformed> {
    scan(what, bytes, false)
}

fn scan(what: &'static str, bytes: &[u8], tags: bool) -> Result<(), Malformed> {
    let mut reader = Reader::new(what, bytes);
    let mut open = [Level::items(0); MAX_CBOR_DEPTH];
    let mut current = Level::items(1);
    let mut depth = 0_usize;
    loop {
        while current.left == 0 {
            let Some(outer) = depth.checked_sub(1) else { return reader.finish() };
            depth = outer;
            current = open.get(depth).copied().unwrap_or(Level::items(0));
        }
        let key_expected = current.expects_key();
        current.left = current.left.saturating_sub(1);
        let start = reader.at();
        let head = head(&mut reader)?;
        if key_expected {
            check_key(&reader, bytes, &head, start, &mut current)?;
        }
        let inner = match head {
            Head::Scalar => continue,
            Head::Array(n) => Level::items(n),
            Head::Map(n) => Level { left: n.saturating_mul(2), map: true, last_key: None },
            Head::Tag if tags => Level::items(1),
            Head::Tag => return Err(Malformed { what, at: start, why: "tags are not used here" }),
        };
        *open.get_mut(depth).ok_or_else(|| reader.malformed("nested too deeply"))? = current;
        depth = depth.saturating_add(1);
        current = inner;
    }
}

/// Reads one head, and the content too where it is a string.
fn head(reader: &mut Reader<'_>) -> Result<Head, Malformed> {
    let mut probe = reader.clone();
    let first = reader.u8()?;
    let (major, info) = (first >> 5, first & 31);
    if major == 7 {
        return match info {
            20..=22 => Ok(Head::Scalar),
            _ => Err(probe.malformed("floats, simple values and breaks are not used")),
        };
    }
    let value = match info {
        0..=23 => u64::from(info),
        24 => shortest(&probe, u64::from(reader.u8()?), 24)?,
        25 => shortest(&probe, u64::from(reader.u16_be()?), 1 << 8)?,
        26 => shortest(&probe, u64::from(reader.u32_be()?), 1 << 16)?,
        27 => shortest(&probe, reader.u64_be()?, 1 << 32)?,
        _ => return Err(probe.malformed("indefinite or reserved length")),
    };
    if major <= 1 {
        return Ok(Head::Scalar);
    }
    if major == 6 {
        return Ok(Head::Tag);
    }
    // Every item takes a byte at least, so a count past the end is found here and never allocated for.
    let count = usize::try_from(value).unwrap_or(usize::MAX);
    let least = if major == 5 { count.saturating_mul(2) } else { count };
    if least > reader.remaining() {
        return Err(probe.malformed("length past the end"));
    }
    match major {
        2 => reader.take(count).map(|_| Head::Scalar),
        3 => {
            let _ = probe.u8()?;
            std::str::from_utf8(reader.take(count)?).map_err(|_| probe.malformed("text is not UTF-8"))?;
            Ok(Head::Scalar)
        }
        4 => Ok(Head::Array(count)),
        _ => Ok(Head::Map(count)),
    }
}

const fn shortest(at: &Reader<'_>, value: u64, least: u64) -> Result<u64, Malformed> {
    if value < least { Err(at.malformed("integer is not in its shortest form")) } else { Ok(value) }
}

fn check_key(reader: &Reader<'_>, bytes: &[u8], head: &Head, start: usize, map: &mut Level) -> Result<(), Malformed> {
    if !matches!(head, Head::Scalar) {
        return Err(reader.malformed("a map key is neither integer nor string"));
    }
    let key = bytes.get(start..reader.at());
    if let Some((from, to)) = map.last_key {
        // Bytewise order of the encoded keys; equal keys are not ascending either.
        if key <= bytes.get(from..to) {
            return Err(reader.malformed("map keys are not in ascending order"));
        }
    }
    map.last_key = Some((start, reader.at()));
    Ok(())
}

/// Decodes `bytes` after [`check_untagged`], and encodes again: what differs is refused. serde takes a text string for a
/// byte string and the other way round, and an absent field for null; one message has one encoding.
///
/// # Errors
/// [`Malformed`] where the encoding is not deterministic, has tags, or the content has another shape than `T`.
pub fn decode<T: DeserializeOwned + Serialize>(what: &'static str, bytes: &[u8]) -> Result<T, Malformed> {
    check_untagged(what, bytes)?;
    let value = serde_cbor::from_slice(bytes).map_err(|error| Malformed {
        what,
        at: usize::try_from(error.offset()).unwrap_or(usize::MAX),
        why: "content does not have the expected shape",
    })?;
    let again = encode(&value);
    if again == bytes {
        return Ok(value);
    }
    let at = again.iter().zip(bytes).take_while(|(ours, theirs)| ours == theirs).count();
    Err(Malformed { what, at, why: "content does not have the expected type" })
}

/// Encodes `value`. Deterministic for what this project encodes: arrays, strings, integers, and maps whose keys are
/// written in ascending order; each message type has a test that holds its encoding against the scan above.
#[must_use]
pub fn encode<T: Serialize>(value: &T) -> Vec<u8> {
    // Writing into memory fails only for types that CBOR cannot express, and none of ours is one; the empty string
    // would be refused by every reader.
    serde_cbor::to_vec(value).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::check_deterministic;

    fn holds(hex: &[u8]) -> bool {
        check_deterministic("test", hex).is_ok()
    }

    #[test]
    fn deterministic_items_pass() {
        for good in
            [&[0x00][..], &[0x18, 24], &[0x82, 1, 2], &[0xa2, 1, 0, 2, 0], &[0xc1, 0x80], &[0xf6], &[0x61, b'a']]
        {
            assert!(holds(good), "{good:02x?}");
        }
    }

    #[test]
    fn every_second_reading_is_refused() {
        let bad: &[(&str, &[u8])] = &[
            ("nothing", &[]),
            ("trailing byte", &[0, 0]),
            ("non-minimal integer", &[0x18, 23]),
            ("non-minimal length", &[0x58, 1, 0]),
            ("indefinite array", &[0x9f, 0xff]),
            ("duplicate key", &[0xa2, 1, 0, 1, 0]),
            ("descending keys", &[0xa2, 2, 0, 1, 0]),
            ("array as key", &[0xa1, 0x80, 0]),
            ("array longer than input", &[0x9a, 0xff, 0xff, 0xff, 0xff]),
            ("string longer than input", &[0x5b, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff]),
            ("not UTF-8", &[0x61, 0xff]),
            ("float", &[0xf9, 0, 0]),
            ("undefined", &[0xf7]),
            ("missing value", &[0xa1, 1]),
        ];
        for (why, bytes) in bad {
            assert!(!holds(bytes), "{why}");
        }
    }

    #[test]
    fn a_tag_is_no_second_encoding_of_a_message() {
        assert_eq!(super::decode::<(u8,)>("test", &[0x81, 1]), Ok((1,)));
        assert!(super::decode::<(u8,)>("test", &[0xc1, 0x81, 1]).is_err());
        assert!(super::decode::<(u8,)>("test", &[0x81, 0xc1, 1]).is_err());
        assert!(holds(&[0x81, 0xc1, 1]));
    }

    #[test]
    fn text_does_not_pass_for_bytes_nor_bytes_for_text() {
        use serde_bytes::ByteBuf;
        let (bytes, text) = ([0x81, 0x41, b'a'], [0x81, 0x61, b'a']);
        assert!(super::decode::<(ByteBuf,)>("test", &bytes).is_ok());
        assert_eq!(super::decode::<(ByteBuf,)>("test", &text).unwrap_err().at, 1);
        assert!(super::decode::<(String,)>("test", &text).is_ok());
        assert!(super::decode::<(String,)>("test", &bytes).is_err());
    }

    #[test]
    fn nesting_is_bounded() {
        let nested = |n: usize| [vec![0x81; n], vec![0]].concat();
        assert!(holds(&nested(super::MAX_CBOR_DEPTH)));
        assert!(!holds(&nested(super::MAX_CBOR_DEPTH + 1)));
        assert!(!holds(&nested(1_000_000)));
    }
}
