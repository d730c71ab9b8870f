//! A PE image (Microsoft PE/COFF): in, bytes; out, its sections and its Authenticode digest, which firmware measures.
//!
//! Image files come from elsewhere: every offset in them is checked, and nothing is copied but a section's short end.

use std::borrow::Cow;

use evidence::{Malformed, reader::Reader};
use ring::digest::{Context, SHA256};

/// Sections that an image may have (PE/COFF §3.3).
const MAX_SECTIONS: u16 = 96;
/// Most bytes that loading adds to a section as zeros.
const MAX_ZEROS: usize = 1024 * 1024;
const WHAT: &str = "PE image";

/// An image whose headers have been read.
#[derive(Debug)]
pub(crate) struct Pe<'a> {
    bytes: &'a [u8],
    headers: usize,
    checksum: usize,
    /// Where the directory entry for certificates stands, and how many bytes they have.
    certificates: Option<(usize, usize)>,
    sections: Vec<Section<'a>>,
}

#[derive(Debug, Clone, Copy)]
struct Section<'a> {
    name: &'a [u8],
    /// Bytes in memory.
    size: usize,
    /// Where its bytes in the file begin.
    at: usize,
    raw: &'a [u8],
}

impl<'a> Pe<'a> {
    pub(crate) fn read(bytes: &'a [u8]) -> Result<Self, Malformed> {
        let mut reader = at(bytes, 0x3C)?;
        let pe = usize_of(reader.u32_le()?);
        let mut reader = at(bytes, pe)?;
        if bytes.first_chunk() != Some(b"MZ") || reader.array()? != *b"PE\0\0" {
            return Err(reader.malformed("the signature of a PE image is missing"));
        }
        reader.take(2)?;
        let count = reader.u16_le()?;
        reader.take(12)?;
        let optional_size = usize::from(reader.u16_le()?);
        reader.take(2)?;
        let optional = reader.at();
        let wide = match reader.u16_le()? {
            0x10B => false,
            0x20B => true,
            _ => return Err(reader.malformed("an optional header of unknown kind")),
        };
        if count > MAX_SECTIONS {
            return Err(reader.malformed("more than 96 sections"));
        }
        let headers = usize_of(at(bytes, offset(optional, 60))?.u32_le()?);
        let directories = offset(optional, if wide { 108 } else { 92 });
        let sections = sections(bytes, offset(optional, optional_size), count)?;
        let certificates = certificates(bytes, directories)?;
        Ok(Self { bytes, headers, checksum: offset(optional, 64), certificates, sections })
    }

    /// Sections in the order of the file: name, and content as it is loaded.
    pub(crate) fn sections(&self) -> impl Iterator<Item = Result<(&'a [u8], Cow<'a, [u8]>), Malformed>> {
        self.sections.iter().map(|section| {
            let zeros = section.size.saturating_sub(section.raw.len());
            if zeros > MAX_ZEROS {
                return Err(Malformed { what: WHAT, at: section.at, why: "a section is mostly not in the file" });
            }
            let content = match section.raw.get(..section.size) {
                Some(content) => Cow::Borrowed(content),
                None => Cow::Owned([section.raw, &vec![0; zeros]].concat()),
            };
            Ok((section.name, content))
        })
    }

    /// SHA-256 over all but checksum and certificates ("Windows Authenticode Portable Executable Signature Format",
    /// "Calculating the PE Image Hash").
    pub(crate) fn authenticode(&self) -> Result<[u8; 32], Malformed> {
        let part = |from: usize, to: usize| {
            let missing = Malformed { what: WHAT, at: from, why: "ends too early" };
            self.bytes.get(from..to).ok_or(missing)
        };
        let mut context = Context::new(&SHA256);
        context.update(part(0, self.checksum)?);
        let after = offset(self.checksum, 4);
        match self.certificates {
            Some((entry, _)) => {
                context.update(part(after, entry)?);
                context.update(part(offset(entry, 8), self.headers)?);
            }
            None => context.update(part(after, self.headers)?),
        }
        let mut sections = self.sections.iter().filter(|section| !section.raw.is_empty()).collect::<Vec<_>>();
        sections.sort_by_key(|section| section.at);
        sections.iter().for_each(|section| context.update(section.raw));
        let hashed = sections.iter().fold(self.headers, |sum, section| offset(sum, section.raw.len()));
        let end = self.bytes.len().saturating_sub(self.certificates.map_or(0, |(_, size)| size));
        if hashed < end {
            context.update(part(hashed, end)?);
        }
        let mut digest = [0; 32];
        digest.copy_from_slice(context.finish().as_ref());
        Ok(digest)
    }
}

fn sections(bytes: &[u8], table: usize, count: u16) -> Result<Vec<Section<'_>>, Malformed> {
    let mut reader = at(bytes, table)?;
    (0..count)
        .map(|_| {
            let name = reader.take(8)?;
            let name = name.split(|&byte| byte == 0).next().unwrap_or(name);
            let size = usize_of(reader.u32_le()?);
            reader.take(4)?;
            let (raw_size, start) = (usize_of(reader.u32_le()?), usize_of(reader.u32_le()?));
            reader.take(16)?;
            let raw = if raw_size == 0 { &[][..] } else { at(bytes, start)?.take(raw_size)? };
            Ok(Section { name, size, at: start, raw })
        })
        .collect()
}

/// The fifth data directory, where there are so many.
fn certificates(bytes: &[u8], directories: usize) -> Result<Option<(usize, usize)>, Malformed> {
    let count = at(bytes, directories)?.u32_le()?;
    let entry = offset(directories, 4 + 4 * 8);
    if count <= 4 {
        return Ok(None);
    }
    let size = at(bytes, offset(entry, 4))?.u32_le()?;
    Ok(Some((entry, usize_of(size))))
}

fn at(bytes: &[u8], position: usize) -> Result<Reader<'_>, Malformed> {
    let mut reader = Reader::new(WHAT, bytes);
    reader.take(position)?;
    Ok(reader)
}

const fn offset(from: usize, by: usize) -> usize {
    from.saturating_add(by)
}

fn usize_of(value: u32) -> usize {
    usize::try_from(value).unwrap_or(usize::MAX)
}

#[cfg(test)]
pub(crate) mod tests {
    use super::Pe;

    /// A PE32+ image of these sections, without certificates.
    pub(crate) fn image(sections: &[(&str, &[u8])]) -> Vec<u8> {
        let headers = 0x40 + 24 + 240 + 40 * sections.len();
        let mut out = vec![0; 0x40];
        out[..2].copy_from_slice(b"MZ");
        out[0x3C] = 0x40;
        out.extend(b"PE\0\0\x64\x86");
        out.extend(u16::try_from(sections.len()).unwrap().to_le_bytes());
        out.extend([0; 12]);
        out.extend([240, 0, 0, 0]);
        let mut optional = vec![0; 240];
        optional[..2].copy_from_slice(&[0x0B, 2]);
        optional[60..64].copy_from_slice(&u32::try_from(headers).unwrap().to_le_bytes());
        optional[64..68].copy_from_slice(&[0xAA; 4]);
        optional[108] = 16;
        out.extend(optional);
        let mut start = headers;
        for (name, content) in sections {
            let mut header = [0; 40];
            header[..name.len()].copy_from_slice(name.as_bytes());
            for (at, value) in [(8, content.len()), (16, content.len()), (20, start)] {
                header[at..at + 4].copy_from_slice(&u32::try_from(value).unwrap().to_le_bytes());
            }
            out.extend(header);
            start += content.len();
        }
        sections.iter().for_each(|(_, content)| out.extend(*content));
        out
    }

    #[test]
    fn sections_are_read_as_they_are_loaded() {
        let mut bytes = image(&[(".cmdline", b"quiet"), (".linux", b"kernel")]);
        let first = 0x40 + 24 + 240 + 8;
        bytes[first] = 7;
        let pe = Pe::read(&bytes).unwrap();
        let sections = pe.sections().map(Result::unwrap).map(|(name, content)| (name, content.into_owned()));
        let expected = [(&b".cmdline"[..], b"quiet\0\0".to_vec()), (b".linux", b"kernel".to_vec())];
        assert_eq!(sections.collect::<Vec<_>>(), expected);
        bytes[first] = 2;
        assert_eq!(Pe::read(&bytes).unwrap().sections().next().unwrap().unwrap().1, &b"qu"[..]);
        bytes[first + 3] = 0x7F;
        assert!(Pe::read(&bytes).unwrap().sections().next().unwrap().is_err());
    }

    #[test]
    fn checksum_and_certificates_are_no_part_of_the_authenticode_digest_and_all_else_is() {
        let plain = image(&[(".linux", b"kernel")]);
        let digest = |bytes: &[u8]| Pe::read(bytes).unwrap().authenticode().unwrap();
        let optional = 0x40 + 24;
        let mut signed = plain.clone();
        signed[optional + 64] ^= 1;
        signed[optional + 112 + 32] = 1;
        signed[optional + 112 + 36] = 8;
        signed.extend([9; 8]);
        assert_eq!(digest(&signed), digest(&plain));
        for at in [0x20, optional + 100, plain.len() - 1] {
            let mut other = plain.clone();
            other[at] ^= 1;
            assert_ne!(digest(&other), digest(&plain), "byte {at}");
        }
    }

    #[test]
    fn no_image_does_harm() {
        let good = image(&[(".linux", b"kernel"), (".osrel", b"")]);
        for at in 0..good.len() {
            if let Ok(pe) = Pe::read(&good[..at]) {
                let _ = (pe.sections().count(), pe.authenticode());
            }
            for value in [0, 1, 0x7F, 0xFF] {
                let mut bad = good.clone();
                bad[at] = value;
                if let Ok(pe) = Pe::read(&bad) {
                    let _ = (pe.sections().count(), pe.authenticode());
                }
            }
        }
    }
}
