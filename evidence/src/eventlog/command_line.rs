//! Where a boot log carries the kernel's command line: an event in; out comes how its digest can be held against a text,
//! and the text itself where the digest proves it.
//!
//! The place is a label and no proof: whoever moves an event elsewhere in a log makes it another event, which rules then
//! do not list.

use super::{
    Event,
    content::{Content, Proof, Words},
    event_type::{EV_EVENT_TAG, EV_IPL, EV_PLATFORM_CONFIG_FLAGS},
    text::{Utf16, without_nul},
};
use crate::pcr::{HashAlgorithm, sha256_of};

/// Tag of the Linux EFI stub for the load options of the kernel's image (`drivers/firmware/efi/libstub/efistub.h`).
pub const LOAD_OPTIONS_TAG: u32 = 0x8F3B_22ED;
/// Tag of the Linux EFI stub for an initrd.
pub const INITRD_TAG: u32 = 0x8F3B_22EC;
/// Section of a unified kernel image, as systemd-stub measures its name and then its content.
const SECTION: &str = ".cmdline";
/// What may follow the text of the section in the file that it was made from.
const SECTION_ENDS: [&[u8]; 4] = [b"", b"\0", b"\n", b"\n\0"];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Encoding {
    /// UTF-16LE, with or without NUL: load options.
    Wide,
    /// 8-bit, as it stands in a section or in GRUB's memory.
    Bytes,
}

/// An event that is labelled as the kernel's command line.
#[derive(Debug, Clone, Copy)]
pub struct CommandLineEvent<'a> {
    encoding: Encoding,
    digest: &'a [u8],
    /// What the event says was hashed, where it says so.
    stated: Option<&'a [u8]>,
}

impl CommandLineEvent<'_> {
    /// Whether the event's SHA-256 digest is that of `text` in the encoding of its place.
    #[must_use]
    pub fn is(&self, text: &str) -> bool {
        match self.encoding {
            Encoding::Bytes => SECTION_ENDS.iter().any(|end| sha256_of(&[text.as_bytes(), end]) == *self.digest),
            Encoding::Wide => {
                let wide: Vec<u8> = text.encode_utf16().flat_map(u16::to_le_bytes).collect();
                [&[0, 0][..], &[]].iter().any(|end| sha256_of(&[&wide, end]) == *self.digest)
            }
        }
    }

    /// The text, as it was measured and unescaped, where the event holds it and its SHA-256 digest proves it.
    #[must_use]
    pub fn text(&self) -> Option<String> {
        let text = match self.encoding {
            Encoding::Bytes => String::from_utf8(self.stated?.to_vec()).ok()?,
            Encoding::Wide => Utf16(self.stated?).chars().collect::<Result<String, _>>().ok()?,
        };
        self.is(&text).then_some(text)
    }
}

impl<'a> Event<'a> {
    /// This event as a command line, where its place says that it is one: the load options of Linux's EFI stub in PCR 9,
    /// the content of systemd-stub's `.cmdline` section in PCR 11, its load options in PCR 12 (of older versions in
    /// PCR 8), GRUB's `kernel_cmdline: ` in PCR 8, U-Boot's `bootargs` in PCR 1. `None` too without a SHA-256 digest.
    #[must_use]
    pub fn command_line(&self) -> Option<CommandLineEvent<'a>> {
        if !matches!(
            (self.pcr, self.event_type),
            (9, EV_EVENT_TAG) | (8 | 11 | 12, EV_IPL) | (1, EV_PLATFORM_CONFIG_FLAGS)
        ) {
            return None;
        }
        let digest = self.digest(HashAlgorithm::Sha256)?;
        let (encoding, stated) = match (self.pcr, self.content()) {
            (9, Content::Tagged(tagged)) if tagged.id == LOAD_OPTIONS_TAG => (Encoding::Wide, None),
            (11, Content::Words(words)) if words.is_wide(SECTION) && !words.is_name(digest) => (Encoding::Bytes, None),
            (8, Content::Words(words)) if words.label() == Some(Words::KERNEL_CMDLINE) => {
                (Encoding::Bytes, Some(words.measured()))
            }
            (8 | 12, Content::Words(words))
                if words.wide() && self.proof(HashAlgorithm::Sha256) == Proof::Whole && !words.is_name(digest) =>
            {
                (Encoding::Wide, Some(words.bytes()))
            }
            (1, _) if self.u_boot => (Encoding::Bytes, Some(without_nul(self.data))),
            _ => return None,
        };
        Some(CommandLineEvent { encoding, digest, stated })
    }
}
