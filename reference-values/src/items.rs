//! CBOR items one after the other, as CoRIM needs them: in, bytes that passed `evidence::cbor::check_deterministic`;
//! out, typed values with the offset of whatever is not as expected.
//!
//! serde's CBOR drops tags, and CoRIM tells its parts apart by tags; and its errors cannot name the rule that broke.
//! This reader builds nothing: it walks, without recursion and without allocation, what the scan has already bounded.

use evidence::{Malformed, cbor::check_deterministic, reader::Reader};

use crate::error::Unreadable;

/// CBOR's truth values (RFC 8949 §3.3).
const FALSE: u8 = 0xF4;
const TRUE: u8 = 0xF5;

/// Walks one CBOR structure.
#[derive(Clone)]
pub(crate) struct Items<'a> {
    reader: Reader<'a>,
}

impl<'a> Items<'a> {
    /// Begins at the first item of `bytes`, after the whole was checked.
    pub(crate) fn new(what: &'static str, bytes: &'a [u8]) -> Result<Self, Malformed> {
        check_deterministic(what, bytes)?;
        Ok(Self { reader: Reader::new(what, bytes) })
    }

    /// Major type of the next item, unless this is the end (RFC 8949 §3.1).
    fn next_major(&self) -> Option<u8> {
        self.reader.clone().u8().ok().map(|first| first >> 5)
    }

    fn head(&mut self, major: u8, expected: &'static str) -> Result<u64, Malformed> {
        let start = self.reader.clone();
        let first = self.reader.u8()?;
        if first >> 5 != major {
            return Err(start.malformed(expected));
        }
        match first & 31 {
            info @ 0..=23 => Ok(u64::from(info)),
            24 => self.reader.u8().map(u64::from),
            25 => self.reader.u16_be().map(u64::from),
            26 => self.reader.u32_be().map(u64::from),
            27 => self.reader.u64_be(),
            _ => Err(start.malformed(expected)),
        }
    }

    fn count(&mut self, major: u8, expected: &'static str) -> Result<usize, Malformed> {
        let value = self.head(major, expected)?;
        usize::try_from(value).map_err(|_| self.reader.malformed("length past the end"))
    }

    /// An unsigned integer.
    pub(crate) fn uint(&mut self) -> Result<u64, Malformed> {
        self.head(0, "an unsigned integer is expected")
    }

    /// A truth value.
    pub(crate) fn boolean(&mut self) -> Result<bool, Malformed> {
        let start = self.reader.clone();
        match self.reader.u8()? {
            FALSE => Ok(false),
            TRUE => Ok(true),
            _ => Err(start.malformed("true or false is expected")),
        }
    }

    /// A byte string.
    pub(crate) fn bytes(&mut self) -> Result<&'a [u8], Malformed> {
        let n = self.count(2, "a byte string is expected")?;
        self.reader.take(n)
    }

    /// A byte string of exactly `N` bytes.
    pub(crate) fn bytes_of<const N: usize>(&mut self, expected: &'static str) -> Result<[u8; N], Malformed> {
        let start = self.reader.clone();
        self.bytes()?.try_into().map_err(|_| start.malformed(expected))
    }

    /// A text string.
    pub(crate) fn text(&mut self) -> Result<&'a str, Malformed> {
        let start = self.reader.clone();
        let n = self.count(3, "a text string is expected")?;
        std::str::from_utf8(self.reader.take(n)?).map_err(|_| start.malformed("text is not UTF-8"))
    }

    /// Begins an array; its length.
    pub(crate) fn array(&mut self) -> Result<usize, Malformed> {
        self.count(4, "an array is expected")
    }

    /// Begins an array that must have `n` items.
    pub(crate) fn array_of(&mut self, n: usize, expected: &'static str) -> Result<(), Malformed> {
        let start = self.reader.clone();
        if self.array()? == n { Ok(()) } else { Err(start.malformed(expected)) }
    }

    /// Begins a map; its number of pairs.
    pub(crate) fn map(&mut self) -> Result<usize, Malformed> {
        self.count(5, "a map is expected")
    }

    /// Reads a tag that must be `number`.
    pub(crate) fn tag(&mut self, number: u64, expected: &'static str) -> Result<(), Malformed> {
        let start = self.reader.clone();
        if self.head(6, expected)? == number { Ok(()) } else { Err(start.malformed(expected)) }
    }

    /// A map key of a rule whose keys are all unsigned integers.
    pub(crate) fn key(&mut self, place: &'static str) -> Result<Key, Unreadable> {
        let at = self.reader.at();
        if self.next_major() != Some(0) {
            return Err(Unreadable::Unsupported { place, item: "a key other than a number".into(), at });
        }
        Ok(Key { place, number: self.uint()?, at })
    }

    /// Whether the next item is a text string.
    pub(crate) fn is_text(&self) -> bool {
        self.next_major() == Some(3)
    }

    /// Bytes that are left.
    pub(crate) fn left(&self) -> usize {
        self.reader.remaining()
    }

    /// What is wrong at the present position.
    pub(crate) const fn malformed(&self, why: &'static str) -> Malformed {
        self.reader.malformed(why)
    }

    /// Offset of the next item.
    pub(crate) const fn at(&self) -> usize {
        self.reader.at()
    }
}

/// A map key, with where it stands.
pub(crate) struct Key {
    place: &'static str,
    /// The key itself.
    pub(crate) number: u64,
    at: usize,
}

impl Key {
    /// The error for a key that the rule has, perhaps, but this project does not understand.
    pub(crate) fn unsupported(self) -> Unreadable {
        Unreadable::Unsupported { place: self.place, item: format!("key {}", self.number), at: self.at }
    }
}

/// Writes CBOR items in their shortest form (RFC 8949 §4.2.1); map keys are the caller's to order.
#[derive(Default)]
pub(crate) struct ItemWriter(Vec<u8>);

impl ItemWriter {
    fn head(&mut self, major: u8, value: u64) -> &mut Self {
        let major = major << 5;
        let [.., b4, b5, b6, b7] = value.to_be_bytes();
        if value < 24 {
            self.0.push(major | b7);
        } else if value <= 0xff {
            self.0.extend([major | 24, b7]);
        } else if value <= 0xffff {
            self.0.extend([major | 25, b6, b7]);
        } else if value <= 0xffff_ffff {
            self.0.extend([major | 26, b4, b5, b6, b7]);
        } else {
            self.0.push(major | 27);
            self.0.extend(value.to_be_bytes());
        }
        self
    }

    fn length(&mut self, major: u8, n: usize) -> &mut Self {
        self.head(major, u64::try_from(n).unwrap_or(u64::MAX))
    }

    pub(crate) fn uint(&mut self, value: u64) -> &mut Self {
        self.head(0, value)
    }

    pub(crate) fn boolean(&mut self, value: bool) -> &mut Self {
        self.0.push(if value { TRUE } else { FALSE });
        self
    }

    pub(crate) fn bytes(&mut self, value: &[u8]) -> &mut Self {
        self.length(2, value.len()).0.extend_from_slice(value);
        self
    }

    pub(crate) fn text(&mut self, value: &str) -> &mut Self {
        self.length(3, value.len()).0.extend_from_slice(value.as_bytes());
        self
    }

    pub(crate) fn array(&mut self, n: usize) -> &mut Self {
        self.length(4, n)
    }

    pub(crate) fn map(&mut self, n: usize) -> &mut Self {
        self.length(5, n)
    }

    pub(crate) fn tag(&mut self, number: u64) -> &mut Self {
        self.head(6, number)
    }

    pub(crate) fn finish(self) -> Vec<u8> {
        self.0
    }
}
