//! A PE image (Microsoft PE/COFF): in, bytes; out, its sections and its Authenticode digest, which firmware measures.

use std::borrow::Cow;

use authenticode::{PeTrait, authenticode_digest};
use evidence::pcr::sha256;
use object::{
    LittleEndian as LE,
    pe::{IMAGE_SUBSYSTEM_EFI_APPLICATION, IMAGE_SUBSYSTEM_EFI_ROM},
    read::pe::{ImageNtHeaders, ImageOptionalHeader as _, PeFile, PeFile32, PeFile64},
};
use ring::digest::{Context, SHA256};
use thiserror::Error;

/// Most bytes that loading adds to a section as zeros.
const MAX_ZEROS: usize = 1024 * 1024;

/// What is wrong with an image.
#[derive(Debug, Error)]
#[error("malformed PE image: {0}")]
pub(crate) struct Malformed(String);

/// An image that has been read.
#[derive(Debug)]
pub(crate) struct Pe<'a> {
    subsystem: u16,
    /// SHA-256 over all but checksum and certificates.
    pub(crate) authenticode: [u8; 32],
    /// Sections in the order of the file: name, and content as it is loaded.
    pub(crate) sections: Vec<(String, Cow<'a, [u8]>)>,
}

impl<'a> Pe<'a> {
    pub(crate) fn read(bytes: &'a [u8]) -> Result<Self, Malformed> {
        let malformed = |error: object::read::Error| Malformed(error.to_string());
        match object::FileKind::parse(bytes).map_err(malformed)? {
            object::FileKind::Pe32 => Self::of(&PeFile32::parse(bytes).map_err(malformed)?),
            object::FileKind::Pe64 => Self::of(&PeFile64::parse(bytes).map_err(malformed)?),
            _ => Err(Malformed("another kind of file".into())),
        }
    }

    fn of<Headers: ImageNtHeaders>(file: &PeFile<'a, Headers>) -> Result<Self, Malformed> {
        let mut hasher = Hasher(Context::new(&SHA256));
        authenticode_digest(file as &dyn PeTrait, &mut hasher).map_err(|error| Malformed(error.to_string()))?;
        let mut authenticode = [0; 32];
        authenticode.copy_from_slice(hasher.0.finish().as_ref());
        let sections = file.section_table().iter().map(|section| {
            let name = section.raw_name();
            let [start, raw, size] =
                [section.pointer_to_raw_data.get(LE), section.size_of_raw_data.get(LE), section.virtual_size.get(LE)]
                    .map(|value| usize::try_from(value).unwrap_or(usize::MAX));
            let content = content(file.data(), start, raw, size)?;
            Ok((String::from_utf8_lossy(name).into_owned(), content))
        });
        Ok(Self {
            subsystem: file.nt_headers().optional_header().subsystem(),
            authenticode,
            sections: sections.collect::<Result<_, Malformed>>()?,
        })
    }

    /// Whether firmware or another EFI program starts it.
    pub(crate) fn is_efi(&self) -> bool {
        (IMAGE_SUBSYSTEM_EFI_APPLICATION..=IMAGE_SUBSYSTEM_EFI_ROM).contains(&self.subsystem)
    }

    /// Name and SHA-256 of the content of each section.
    pub(crate) fn section_digests(&self) -> Vec<(String, [u8; 32])> {
        self.sections.iter().map(|(name, content)| (name.clone(), sha256(content))).collect()
    }
}

/// `size` bytes of which the file holds the first `raw`.
fn content(bytes: &[u8], start: usize, raw: usize, size: usize) -> Result<Cow<'_, [u8]>, Malformed> {
    let end = start.saturating_add(raw.min(size));
    let held = if raw == 0 { Some(&[][..]) } else { bytes.get(start..end) };
    let held = held.ok_or_else(|| Malformed("a section ends after the file".into()))?;
    match size.saturating_sub(raw) {
        0 => Ok(Cow::Borrowed(held)),
        zeros @ 1..=MAX_ZEROS => Ok(Cow::Owned([held, &vec![0; zeros]].concat())),
        _ => Err(Malformed("a section is mostly not in the file".into())),
    }
}

struct Hasher(Context);

impl digest::Update for Hasher {
    fn update(&mut self, data: &[u8]) {
        self.0.update(data);
    }
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
        optional[68] = 10;
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
        let sections = Pe::read(&bytes).unwrap().sections;
        let expected = [(".cmdline".into(), b"quiet\0\0".into()), (".linux".into(), b"kernel".into())];
        assert_eq!(sections, expected);
        bytes[first] = 2;
        assert_eq!(Pe::read(&bytes).unwrap().sections[0].1, &b"qu"[..]);
        bytes[first + 3] = 0x7F;
        assert!(Pe::read(&bytes).is_err());
    }

    #[test]
    fn checksum_and_certificates_are_no_part_of_the_authenticode_digest_and_all_else_is() {
        let plain = image(&[(".linux", b"kernel")]);
        let digest = |bytes: &[u8]| Pe::read(bytes).unwrap().authenticode;
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
            let _ = Pe::read(&good[..at]);
            for value in [0, 1, 0x7F, 0xFF] {
                let mut bad = good.clone();
                bad[at] = value;
                let _ = Pe::read(&bad);
            }
        }
    }
}
