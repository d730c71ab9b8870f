//! What an event's data says, by its type (Platform Firmware Profile §10.4): an event in; a view on its data out, which
//! shows itself as one line of printable text. Reading never fails: what is not as its type wants it is
//! [`Content::Other`]. Content is believed only where [`Event::proof`] says so.

use super::{
    Event, Format, STARTUP_LOCALITY,
    command_line::{INITRD_TAG, LOAD_OPTIONS_TAG},
    device_path::DevicePath,
    event_type::{
        EV_ACTION, EV_EFI_ACTION, EV_EFI_BOOT_SERVICES_APPLICATION, EV_EFI_BOOT_SERVICES_DRIVER, EV_EFI_GPT_EVENT,
        EV_EFI_GPT_EVENT2, EV_EFI_HANDOFF_TABLES, EV_EFI_HANDOFF_TABLES2, EV_EFI_PLATFORM_FIRMWARE_BLOB,
        EV_EFI_PLATFORM_FIRMWARE_BLOB2, EV_EFI_RUNTIME_SERVICES_DRIVER, EV_EFI_SPDM_DEVICE_AUTHORITY,
        EV_EFI_SPDM_DEVICE_POLICY, EV_EFI_SPDM_FIRMWARE_BLOB, EV_EFI_SPDM_FIRMWARE_CONFIG, EV_EFI_VARIABLE_AUTHORITY,
        EV_EFI_VARIABLE_BOOT, EV_EFI_VARIABLE_BOOT2, EV_EFI_VARIABLE_DRIVER_CONFIG, EV_EVENT_TAG, EV_IPL, EV_NO_ACTION,
        EV_NONHOST_INFO, EV_OMIT_BOOT_DEVICE_EVENTS, EV_POST_CODE, EV_POST_CODE2, EV_S_CRTM_CONTENTS, EV_SEPARATOR,
    },
    text::{Utf16, is_text, is_wide, without_nul, without_wide_nul},
    variable::{Guid, Variable},
};
use ring::digest;

use crate::{error::Malformed, pcr::HashAlgorithm, reader::Reader};

const WHAT: &str = "event data";
/// EFI_PARTITION_TABLE_HEADER (UEFI §5.3.2).
const GPT_HEADER: usize = 92;
/// EFI_PARTITION_ENTRY (UEFI §5.3.3), the least that a table's entries have.
const GPT_ENTRY: usize = 128;

/// What an event's data says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Content<'a> {
    /// EV_SEPARATOR.
    Separator(Separator),
    /// EV_ACTION, EV_EFI_ACTION, EV_OMIT_BOOT_DEVICE_EVENTS: a string that says what was done.
    Action(&'a [u8]),
    /// EV_EFI_VARIABLE_* and the variables of SPDM.
    Variable(Variable<'a>),
    /// EFI programs and drivers.
    Image(Image<'a>),
    /// EV_EFI_GPT_EVENT*.
    Gpt(Gpt<'a>),
    /// Where a piece of firmware stands.
    Blob(Blob<'a>),
    /// EV_EFI_HANDOFF_TABLES*.
    Tables(Tables<'a>),
    /// EV_EVENT_TAG.
    Tagged(Tagged<'a>),
    /// EV_IPL with text.
    Words(Words<'a>),
    /// The locality that TPM2_Startup came from.
    StartupLocality(u8),
    /// The first event of a log of the profile.
    SpecId(SpecId),
    /// Other EV_NO_ACTION events and SPDM measurements: they name themselves.
    Structure(Structure<'a>),
    /// Everything else.
    Other(&'a [u8]),
}

/// What a separator says, by its digest; by its data where no digest can be computed here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Separator {
    /// 0x00000000: the firmware is done, without an error.
    Good,
    /// 0xFFFFFFFF: the same, of conventional firmware.
    GoodFfff,
    /// The firmware met an error: 1 (§10.4.1).
    Error(u32),
    /// None of these.
    Other,
}

impl Separator {
    const KNOWN: [(Self, u32); 3] = [(Self::Good, 0), (Self::GoodFfff, u32::MAX), (Self::Error(1), 1)];

    /// An error's data may be words about it, while its digest is that of the number.
    fn read(event: &Event<'_>) -> Self {
        let is = |value: &u32| match event.preferred_digest() {
            Some((algorithm, digest)) => hashes_to(algorithm, &value.to_le_bytes(), digest),
            None => event.data == value.to_le_bytes(),
        };
        Self::KNOWN.into_iter().find(|(_, value)| is(value)).map_or(Self::Other, |(separator, _)| separator)
    }

    fn value(self) -> Option<u32> {
        Self::KNOWN.into_iter().find(|(separator, _)| *separator == self).map(|(_, value)| value)
    }
}

/// UEFI_IMAGE_LOAD_EVENT (§10.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Image<'a> {
    /// Where it was loaded to.
    pub address: u64,
    /// Length in memory, bytes.
    pub length: u64,
    path: &'a [u8],
}

impl<'a> Image<'a> {
    /// Where it came from.
    #[must_use]
    pub const fn path(&self) -> DevicePath<'a> {
        DevicePath(self.path)
    }

    fn read(bytes: &'a [u8], word: Word) -> Result<Self, Malformed> {
        let mut reader = Reader::new(WHAT, bytes);
        let address = reader.u64_le()?;
        let (length, _link_time, path) = (word.read(&mut reader)?, word.read(&mut reader)?, word.read(&mut reader)?);
        // shim logs more than the path.
        let path = reader.take(usize::try_from(path).unwrap_or(usize::MAX))?;
        Ok(Self { address, length, path })
    }
}

/// UINTN of the firmware that wrote the log: 64 bits as the profile wants it, or 32 as 32-bit firmware writes.
#[derive(Debug, Clone, Copy)]
enum Word {
    Long,
    Short,
}

impl Word {
    fn read(self, reader: &mut Reader<'_>) -> Result<u64, Malformed> {
        match self {
            Self::Long => reader.u64_le(),
            Self::Short => reader.u32_le().map(u64::from),
        }
    }

    fn either<T>(read: impl Fn(Self) -> Result<T, Malformed>) -> Option<T> {
        read(Self::Long).or_else(|_| read(Self::Short)).ok()
    }
}

/// UEFI_GPT_DATA (§10.2): a partition table's header and the entries in use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Gpt<'a> {
    /// GUID of the disk; zeros in EV_EFI_GPT_EVENT2.
    pub disk: Guid,
    entry_size: usize,
    entries: &'a [u8],
}

/// EFI_PARTITION_ENTRY (UEFI §5.3.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Partition<'a> {
    /// PartitionTypeGUID.
    pub kind: Guid,
    /// UniquePartitionGUID; zeros in EV_EFI_GPT_EVENT2.
    pub unique: Guid,
    /// First block.
    pub first: u64,
    /// Last block.
    pub last: u64,
    /// PartitionName, UTF-16LE with its NULs.
    pub name_utf16: &'a [u8],
}

impl<'a> Gpt<'a> {
    fn read(bytes: &'a [u8], word: Word) -> Result<Self, Malformed> {
        let mut reader = Reader::new(WHAT, bytes);
        let mut header = Reader::new(WHAT, reader.take(GPT_HEADER)?);
        header.take(56)?;
        let disk = Guid(header.array()?);
        header.take(12)?;
        let entry_size = usize::try_from(header.u32_le()?).unwrap_or(usize::MAX);
        let count = usize::try_from(word.read(&mut reader)?).unwrap_or(usize::MAX);
        let at_entries = reader.malformed("entries of another size");
        if entry_size < GPT_ENTRY {
            return Err(at_entries);
        }
        let entries = reader.take(count.checked_mul(entry_size).ok_or(at_entries)?)?;
        Ok(Self { disk, entry_size, entries })
    }

    /// The partitions in use.
    pub fn partitions(&self) -> impl Iterator<Item = Partition<'a>> + use<'a> {
        self.entries.chunks_exact(self.entry_size.max(GPT_ENTRY)).filter_map(|entry| partition(entry).ok())
    }
}

fn partition(entry: &[u8]) -> Result<Partition<'_>, Malformed> {
    let mut reader = Reader::new(WHAT, entry);
    let (kind, unique) = (Guid(reader.array()?), Guid(reader.array()?));
    let (first, last, _attributes) = (reader.u64_le()?, reader.u64_le()?, reader.u64_le()?);
    Ok(Partition { kind, unique, first, last, name_utf16: reader.take(72)? })
}

/// UEFI_PLATFORM_FIRMWARE_BLOB and, with a description, UEFI_PLATFORM_FIRMWARE_BLOB2 (§10.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Blob<'a> {
    /// What it is, in the firmware's words.
    pub description: Option<&'a [u8]>,
    /// Where it stands.
    pub base: u64,
    /// Length, bytes.
    pub length: u64,
}

impl<'a> Blob<'a> {
    fn read(bytes: &'a [u8], described: bool) -> Option<Self> {
        let mut reader = Reader::new(WHAT, bytes);
        let description = description(&mut reader, described)?;
        let blob = Self { description, base: reader.u64_le().ok()?, length: reader.u64_le().ok()? };
        reader.finish().is_ok().then_some(blob)
    }
}

/// The description that the second version of a structure begins with: a length of one byte, and as many bytes.
fn description<'a>(reader: &mut Reader<'a>, described: bool) -> Option<Option<&'a [u8]>> {
    if !described {
        return Some(None);
    }
    let size = usize::from(reader.u8().ok()?);
    reader.take(size).ok().map(Some)
}

/// UEFI_HANDOFF_TABLE_POINTERS and, with a description, UEFI_HANDOFF_TABLE_POINTERS2 (§10.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tables<'a> {
    /// What they are, in the firmware's words.
    pub description: Option<&'a [u8]>,
    entry_size: usize,
    entries: &'a [u8],
}

impl<'a> Tables<'a> {
    fn read(bytes: &'a [u8], described: bool, word: Word) -> Result<Self, Malformed> {
        let mut reader = Reader::new(WHAT, bytes);
        let at_start = reader.malformed("the description ends too early");
        let description = description(&mut reader, described).ok_or(at_start)?;
        let count = usize::try_from(word.read(&mut reader)?).unwrap_or(usize::MAX);
        // VendorGuid and a pointer.
        let entry_size = if matches!(word, Word::Long) { 24 } else { 20 };
        let at_entries = reader.malformed("more tables than there are bytes");
        // U-Boot writes the table itself where its address is due, and so more.
        let entries = reader.take(count.checked_mul(entry_size).ok_or(at_entries)?)?;
        Ok(Self { description, entry_size, entries })
    }

    /// Which tables they are: ACPI, SMBIOS….
    pub fn vendors(&self) -> impl Iterator<Item = Guid> + use<'a> {
        let entries = self.entries.chunks_exact(self.entry_size.max(20));
        entries.filter_map(|entry| entry.first_chunk().copied().map(Guid))
    }
}

/// TCG_PCClientTaggedEvent (§10.4).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tagged<'a> {
    /// taggedEventID: who wrote it.
    pub id: u32,
    /// taggedEventData: mostly words about what was measured.
    pub data: &'a [u8],
}

impl<'a> Tagged<'a> {
    fn read(bytes: &'a [u8]) -> Option<Self> {
        let mut reader = Reader::new(WHAT, bytes);
        let tagged = Self { id: reader.u32_le().ok()?, data: reader.sized_u32_le(usize::MAX).ok()? };
        reader.finish().is_ok().then_some(tagged)
    }

    /// Whose tag it is, where that is known: Linux's EFI stub (`efistub.h`), systemd's boot loader and stub
    /// (`tpm2-pcr.h`).
    #[must_use]
    pub const fn name(&self) -> Option<&'static str> {
        Some(match self.id {
            LOAD_OPTIONS_TAG => "Linux load options",
            INITRD_TAG => "Linux initrd",
            0xF5BC_582A => "systemd loader.conf",
            0x6C46_F751 => "systemd device tree add-on",
            0x49DF_FE0F => "systemd initrd add-on",
            0xDAC0_8E1A => "systemd microcode add-on",
            0x13AE_D6DB => "systemd profile of a unified kernel image",
            _ => return None,
        })
    }
}

/// Text of an EV_IPL event, its ending NULs aside.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Words<'a> {
    bytes: &'a [u8],
    wide: bool,
}

impl<'a> Words<'a> {
    /// Label of GRUB for the kernel's command line.
    pub const KERNEL_CMDLINE: &'static str = "kernel_cmdline: ";
    /// What GRUB puts before a string that it measured, and does not hash.
    const LABELS: [&'static str; 3] = [Self::KERNEL_CMDLINE, "module_cmdline: ", "grub_cmd: "];

    fn read(data: &'a [u8]) -> Option<Self> {
        if is_wide(data) {
            return Some(Self { bytes: without_wide_nul(data), wide: true });
        }
        is_text(data).then(|| Self { bytes: without_nul(data), wide: false })
    }

    /// The text's bytes, 8-bit or UTF-16LE.
    #[must_use]
    pub const fn bytes(&self) -> &'a [u8] {
        self.bytes
    }

    /// Whether it is UTF-16LE.
    #[must_use]
    pub const fn wide(&self) -> bool {
        self.wide
    }

    /// Whether it is this text in UTF-16LE.
    #[must_use]
    pub fn is_wide(&self, text: &str) -> bool {
        self.wide && Utf16(self.bytes).chars().eq(text.chars().map(Ok))
    }

    /// Label that GRUB put before what it measured.
    #[must_use]
    pub fn label(&self) -> Option<&'static str> {
        Self::LABELS.into_iter().find(|label| !self.wide && self.bytes.starts_with(label.as_bytes()))
    }

    /// The text after GRUB's label; the whole without one.
    #[must_use]
    pub fn measured(&self) -> &'a [u8] {
        self.label().and_then(|label| self.bytes.get(label.len()..)).unwrap_or(self.bytes)
    }

    /// The text with or without its NUL, whichever of them is logged, or as a section's name.
    fn whole(&self, algorithm: HashAlgorithm, digest: &[u8]) -> bool {
        let nul = if self.wide { &[0, 0][..] } else { &[0] };
        hashes_to(algorithm, self.bytes, digest)
            || hashes_to_ended(algorithm, (self.bytes, nul), digest)
            || self.names(algorithm, digest)
    }

    /// Whether `digest` is SHA-256 of the text as systemd-stub measures a section's name: 8-bit with its NUL.
    #[must_use]
    pub fn is_name(&self, digest: &[u8]) -> bool {
        self.names(HashAlgorithm::Sha256, digest)
    }

    fn names(&self, algorithm: HashAlgorithm, digest: &[u8]) -> bool {
        /// A section's name has at most eight bytes (PE/COFF §4).
        const LONGEST: usize = 8;
        let mut name = [0; LONGEST + 1];
        let units = self.bytes.as_chunks::<2>().0;
        if !self.wide || units.len() > LONGEST || units.iter().any(|[_, high]| *high != 0) {
            return false;
        }
        for (to, [low, _]) in name.iter_mut().zip(units) {
            *to = *low;
        }
        name.get(..=units.len()).is_some_and(|name| hashes_to(algorithm, name, digest))
    }
}

/// TCG_EfiSpecIDEvent (§10.4.5.1) without its algorithms, which [`super::EventLog::algorithms`] gives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SpecId {
    /// Major and minor version of the format.
    pub version: (u8, u8),
    /// Errata.
    pub errata: u8,
    /// 0 client, 1 server.
    pub platform_class: u32,
}

/// A structure that names itself by its first 16 bytes: `SP800-155 Event`, `NvIndexInstance`, `SPDM Device Sec`….
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Structure<'a> {
    /// Its signature, the ending NULs aside.
    pub signature: &'a [u8],
    /// What follows.
    pub data: &'a [u8],
}

impl<'a> Structure<'a> {
    fn read(bytes: &'a [u8]) -> Option<Self> {
        let (signature, data) = bytes.split_at_checked(16)?;
        is_text(signature).then(|| Self { signature: without_nul(signature), data })
    }
}

/// How far a digest commits to what an event shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Proof {
    /// Not at all: the content is words about what was measured.
    Nothing,
    /// To what was measured, but not to the label before it: a variable's data without its name, GRUB's text without
    /// `grub_cmd: `.
    Unlabelled,
    /// To the whole content.
    Whole,
}

fn hashes_to(algorithm: HashAlgorithm, bytes: &[u8], digest: &[u8]) -> bool {
    algorithm.hash(bytes).is_some_and(|hash| hash.as_ref() == digest)
}

/// As [`hashes_to`], of `bytes` and the NUL that ends them.
fn hashes_to_ended(algorithm: HashAlgorithm, (bytes, nul): (&[u8], &[u8]), digest: &[u8]) -> bool {
    algorithm.implementation().is_some_and(|implementation| {
        let mut context = digest::Context::new(implementation);
        context.update(bytes);
        context.update(nul);
        context.finish().as_ref() == digest
    })
}

impl<'a> Event<'a> {
    /// What the data says, by the event's type. For showing: nothing of it is believed without [`Self::proof`].
    #[must_use]
    pub fn content(&self) -> Content<'a> {
        self.known_content().unwrap_or(Content::Other(self.data))
    }

    fn known_content(&self) -> Option<Content<'a>> {
        let data = self.data;
        match self.event_type {
            _ if self.format == Format::Coreboot => Some(Content::Action(data)),
            EV_NO_ACTION => self.no_action(),
            EV_SEPARATOR => Some(Content::Separator(Separator::read(self))),
            EV_ACTION | EV_EFI_ACTION | EV_OMIT_BOOT_DEVICE_EVENTS => Some(Content::Action(without_nul(data))),
            EV_EFI_VARIABLE_DRIVER_CONFIG
            | EV_EFI_VARIABLE_BOOT
            | EV_EFI_VARIABLE_BOOT2
            | EV_EFI_VARIABLE_AUTHORITY
            | EV_EFI_SPDM_DEVICE_POLICY
            | EV_EFI_SPDM_DEVICE_AUTHORITY => Variable::read(data).ok().map(Content::Variable),
            EV_EFI_BOOT_SERVICES_APPLICATION | EV_EFI_BOOT_SERVICES_DRIVER | EV_EFI_RUNTIME_SERVICES_DRIVER => {
                Word::either(|word| Image::read(data, word)).map(Content::Image)
            }
            EV_EFI_GPT_EVENT | EV_EFI_GPT_EVENT2 => Word::either(|word| Gpt::read(data, word)).map(Content::Gpt),
            EV_EFI_HANDOFF_TABLES => Word::either(|word| Tables::read(data, false, word)).map(Content::Tables),
            EV_EFI_HANDOFF_TABLES2 => Word::either(|word| Tables::read(data, true, word)).map(Content::Tables),
            EV_EFI_PLATFORM_FIRMWARE_BLOB => Blob::read(data, false).map(Content::Blob),
            EV_EFI_PLATFORM_FIRMWARE_BLOB2 | EV_POST_CODE2 => Blob::read(data, true).map(Content::Blob),
            // Words in most firmware, a blob's place in some.
            EV_POST_CODE | EV_S_CRTM_CONTENTS if !is_text(data) => {
                Blob::read(data, false).or_else(|| Blob::read(data, true)).map(Content::Blob)
            }
            EV_EVENT_TAG => Tagged::read(data).map(Content::Tagged),
            EV_IPL => Words::read(data).map(Content::Words),
            EV_EFI_SPDM_FIRMWARE_BLOB | EV_EFI_SPDM_FIRMWARE_CONFIG | EV_NONHOST_INFO if !is_text(data) => {
                Structure::read(data).map(Content::Structure)
            }
            _ => None,
        }
    }

    fn no_action(&self) -> Option<Content<'a>> {
        if let Some(&[locality]) = self.data.strip_prefix(STARTUP_LOCALITY) {
            return Some(Content::StartupLocality(locality));
        }
        let structure = Structure::read(self.data)?;
        if structure.signature.starts_with(b"Spec ID Event") {
            let mut reader = Reader::new(WHAT, structure.data);
            let platform_class = reader.u32_le().ok()?;
            let [minor, major, errata] = reader.array().ok()?;
            return Some(Content::SpecId(SpecId { version: (major, minor), errata, platform_class }));
        }
        Some(Content::Structure(structure))
    }

    /// How far the digest of `algorithm` commits to the content, so that a replay that holds vouches for it. The type
    /// and the PCR's place in the log are never committed to.
    #[must_use]
    pub fn proof(&self, algorithm: HashAlgorithm) -> Proof {
        let holds_data = self.extends() && self.format != Format::Coreboot;
        let Some(digest) = self.digest(algorithm).filter(|_| holds_data) else { return Proof::Nothing };
        let is = |bytes: &[u8]| hashes_to(algorithm, bytes, digest);
        if is(self.data) {
            return Proof::Whole;
        }
        let (whole, unlabelled) = match self.content() {
            Content::Separator(separator) => (separator.value().is_some_and(|value| is(&value.to_le_bytes())), false),
            // Firmware differs in whether a string's NUL is hashed, logged or both.
            Content::Action(text) => (is(text) || hashes_to_ended(algorithm, (text, &[0]), digest), false),
            // Older shims log one byte more than they hash.
            Content::Variable(_) if self.data.split_last().is_some_and(|(_, hashed)| is(hashed)) => (true, false),
            // The profile before EV_EFI_VARIABLE_BOOT2, and version 1.2 for all variables.
            Content::Variable(variable) => {
                let data_only = self.event_type == EV_EFI_VARIABLE_BOOT || self.format == Format::Sha1;
                (false, data_only && is(variable.data))
            }
            Content::Words(words) if words.label().is_some() => (false, is(words.measured())),
            Content::Words(words) => (words.whole(algorithm, digest), false),
            _ => (false, false),
        };
        match (whole, unlabelled) {
            (true, _) => Proof::Whole,
            (false, true) => Proof::Unlabelled,
            (false, false) => Proof::Nothing,
        }
    }

    /// Whether the digest of `algorithm` commits to the content, a label before it aside ([`Proof`]).
    #[must_use]
    pub fn proves_content(&self, algorithm: HashAlgorithm) -> bool {
        self.proof(algorithm) != Proof::Nothing
    }
}
