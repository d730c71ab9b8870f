//! Text out of logs: bytes in; out comes what can be shown on a terminal and read as one line, whatever the bytes are.

use std::fmt::{self, Write as _};

/// 8-bit text: printable ASCII as it is, everything else escaped.
#[derive(Debug, Clone, Copy)]
pub struct Ascii<'a>(pub &'a [u8]);

impl fmt::Display for Ascii<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| match byte {
            b' '..=b'~' if *byte != b'\\' => f.write_char(char::from(*byte)),
            _ => write!(f, "{}", byte.escape_ascii()),
        })
    }
}

/// UTF-16LE text: printable ASCII, letters and digits as they are, everything else escaped. An odd byte at the end is
/// escaped too.
#[derive(Debug, Clone, Copy)]
pub struct Utf16<'a>(pub &'a [u8]);

impl<'a> Utf16<'a> {
    /// The characters; `Err` holds a lone surrogate.
    pub(super) fn chars(self) -> impl Iterator<Item = Result<char, u16>> + use<'a> {
        let units = self.0.as_chunks::<2>().0.iter().map(|unit| u16::from_le_bytes(*unit));
        char::decode_utf16(units).map(|decoded| decoded.map_err(|lone| lone.unpaired_surrogate()))
    }
}

impl fmt::Display for Utf16<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for decoded in self.chars() {
            match decoded {
                Ok(shown @ ' '..='~') if shown != '\\' => f.write_char(shown)?,
                Ok(shown) if !shown.is_ascii() && shown.is_alphanumeric() => f.write_char(shown)?,
                Ok(other) => write!(f, "{}", other.escape_default())?,
                Err(lone) => write!(f, "\\u{{{lone:x}}}")?,
            }
        }
        write!(f, "{}", Ascii(self.0.as_chunks::<2>().1))
    }
}

/// Bytes in lower-case hexadecimal; of long ones the beginning, and how many more there are.
#[derive(Debug, Clone, Copy)]
pub struct Hex<'a>(pub &'a [u8]);

/// Bytes of a [`Hex`] that are shown: a digest of every algorithm is whole.
const HEX_SHOWN: usize = 64;

impl fmt::Display for Hex<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().take(HEX_SHOWN).try_for_each(|byte| write!(f, "{byte:02x}"))?;
        match self.0.len().saturating_sub(HEX_SHOWN) {
            0 => Ok(()),
            more => write!(f, "… and {more} bytes more"),
        }
    }
}

/// Without the NULs that end a C string.
pub(super) fn without_nul(bytes: &[u8]) -> &[u8] {
    let end = bytes.iter().rposition(|byte| *byte != 0).map_or(0, |last| last.saturating_add(1));
    bytes.get(..end).unwrap_or(&[])
}

/// Without the NUL units that end a UTF-16 string, nor half of one.
pub(super) fn without_wide_nul(bytes: &[u8]) -> &[u8] {
    let (units, odd) = bytes.as_chunks::<2>();
    if odd.iter().any(|byte| *byte != 0) {
        return bytes;
    }
    let end = units.iter().rposition(|unit| *unit != [0, 0]).map_or(0, |last| last.saturating_add(1));
    units.get(..end).map_or(&[], <[[u8; 2]]>::as_flattened)
}

/// Whether `bytes` are one line of 8-bit text, its ending NULs aside.
pub(super) fn is_text(bytes: &[u8]) -> bool {
    let text = without_nul(bytes);
    !text.is_empty() && text.iter().all(|byte| matches!(byte, b'\t' | b'\n' | b'\r' | b' '..=b'~'))
}

/// Whether `bytes` are UTF-16LE text: characters that can be shown, half of them ASCII at least. What is 8-bit text too
/// is rather that.
pub(super) fn is_wide(bytes: &[u8]) -> bool {
    let text = without_wide_nul(bytes);
    let shown = |character: char| !character.is_control() || matches!(character, '\t' | '\n' | '\r');
    let ascii = text.as_chunks::<2>().0.iter().filter(|[low, high]| *high == 0 && low.is_ascii()).count();
    !is_text(bytes)
        && !text.is_empty()
        && text.len().is_multiple_of(2)
        && ascii.saturating_mul(4) >= text.len()
        && Utf16(text).chars().all(|decoded| decoded.is_ok_and(shown))
}
