//! The boot log (TCG PC Client Platform Firmware Profile 1.05 §10): bytes in; borrowed events, replayed PCRs and a list
//! of what is odd out.
//!
//! Both formats are read: TCG_PCR_EVENT (SHA-1 only) and the crypto-agile one, whose first event names the banks.
//! Nothing in a log is proof before its replay equals quoted PCRs, and even then only digests are: event types and
//! event data are not extended. [`Event::digest_covers_data`] tells where data is bound by its digest.

use std::collections::BTreeMap;

use ring::digest;

use crate::{
    error::Malformed,
    limits::{MAX_PCR_BANKS, MAX_PROBLEMS},
    pcr::HashAlgorithm,
    reader::Reader,
};

const WHAT: &str = "TCG event log";
/// PCRs of a PC Client TPM: 0 to 23.
pub const PCR_COUNT: u32 = 24;
/// Size of a SHA-1 event without data: PCR, type, digest, size.
const SHA1_HEADER: usize = 32;
/// Size of a crypto-agile event without digests and data: PCR, type, count, size.
const AGILE_HEADER: usize = 16;
const SHA1_LENGTH: usize = 20;
const SPEC_ID_AGILE: &[u8; 16] = b"Spec ID Event03\0";
const STARTUP_LOCALITY: &[u8; 16] = b"StartupLocality\0";

/// EV_NO_ACTION: tells something, extends nothing.
pub const EV_NO_ACTION: u32 = 0x0000_0003;
/// EV_SEPARATOR: end of the firmware's own measurements in a PCR.
pub const EV_SEPARATOR: u32 = 0x0000_0004;
/// EV_ACTION.
pub const EV_ACTION: u32 = 0x0000_0005;
/// EV_EVENT_TAG: tagged events, used by Linux's EFI stub.
pub const EV_EVENT_TAG: u32 = 0x0000_0006;
/// EV_S_CRTM_VERSION.
pub const EV_S_CRTM_VERSION: u32 = 0x0000_0008;
/// EV_IPL: boot loaders' measurements.
pub const EV_IPL: u32 = 0x0000_000D;
/// EV_EFI_VARIABLE_DRIVER_CONFIG: Secure Boot's variables.
pub const EV_EFI_VARIABLE_DRIVER_CONFIG: u32 = 0x8000_0001;
/// EV_EFI_BOOT_SERVICES_APPLICATION: a loaded EFI program.
pub const EV_EFI_BOOT_SERVICES_APPLICATION: u32 = 0x8000_0003;
/// EV_EFI_BOOT_SERVICES_DRIVER.
pub const EV_EFI_BOOT_SERVICES_DRIVER: u32 = 0x8000_0004;
/// EV_EFI_GPT_EVENT.
pub const EV_EFI_GPT_EVENT: u32 = 0x8000_0006;
/// EV_EFI_ACTION.
pub const EV_EFI_ACTION: u32 = 0x8000_0007;
/// EV_EFI_HCRTM_EVENT: PCR 0 began with an H-CRTM (TPM 2.0 Part 1 §34.3).
pub const EV_EFI_HCRTM_EVENT: u32 = 0x8000_0010;
/// EV_EFI_VARIABLE_AUTHORITY: what a Secure Boot check relied on.
pub const EV_EFI_VARIABLE_AUTHORITY: u32 = 0x8000_00E0;

/// Name of an event type (PC Client Platform Firmware Profile §10.4.1); `None` for one that it does not name.
#[must_use]
pub const fn event_type_name(event_type: u32) -> Option<&'static str> {
    Some(match event_type {
        0x0000_0000 => "EV_PREBOOT_CERT",
        0x0000_0001 => "EV_POST_CODE",
        0x0000_0002 => "EV_UNUSED",
        EV_NO_ACTION => "EV_NO_ACTION",
        EV_SEPARATOR => "EV_SEPARATOR",
        EV_ACTION => "EV_ACTION",
        EV_EVENT_TAG => "EV_EVENT_TAG",
        0x0000_0007 => "EV_S_CRTM_CONTENTS",
        EV_S_CRTM_VERSION => "EV_S_CRTM_VERSION",
        0x0000_0009 => "EV_CPU_MICROCODE",
        0x0000_000A => "EV_PLATFORM_CONFIG_FLAGS",
        0x0000_000B => "EV_TABLE_OF_DEVICES",
        0x0000_000C => "EV_COMPACT_HASH",
        EV_IPL => "EV_IPL",
        0x0000_000E => "EV_IPL_PARTITION_DATA",
        0x0000_000F => "EV_NONHOST_CODE",
        0x0000_0010 => "EV_NONHOST_CONFIG",
        0x0000_0011 => "EV_NONHOST_INFO",
        0x0000_0012 => "EV_OMIT_BOOT_DEVICE_EVENTS",
        0x0000_0013 => "EV_POST_CODE2",
        0x8000_0000 => "EV_EFI_EVENT_BASE",
        EV_EFI_VARIABLE_DRIVER_CONFIG => "EV_EFI_VARIABLE_DRIVER_CONFIG",
        0x8000_0002 => "EV_EFI_VARIABLE_BOOT",
        EV_EFI_BOOT_SERVICES_APPLICATION => "EV_EFI_BOOT_SERVICES_APPLICATION",
        EV_EFI_BOOT_SERVICES_DRIVER => "EV_EFI_BOOT_SERVICES_DRIVER",
        0x8000_0005 => "EV_EFI_RUNTIME_SERVICES_DRIVER",
        EV_EFI_GPT_EVENT => "EV_EFI_GPT_EVENT",
        EV_EFI_ACTION => "EV_EFI_ACTION",
        0x8000_0008 => "EV_EFI_PLATFORM_FIRMWARE_BLOB",
        0x8000_0009 => "EV_EFI_HANDOFF_TABLES",
        0x8000_000A => "EV_EFI_PLATFORM_FIRMWARE_BLOB2",
        0x8000_000B => "EV_EFI_HANDOFF_TABLES2",
        0x8000_000C => "EV_EFI_VARIABLE_BOOT2",
        0x8000_000D => "EV_EFI_GPT_EVENT2",
        EV_EFI_HCRTM_EVENT => "EV_EFI_HCRTM_EVENT",
        EV_EFI_VARIABLE_AUTHORITY => "EV_EFI_VARIABLE_AUTHORITY",
        0x8000_00E1 => "EV_EFI_SPDM_FIRMWARE_BLOB",
        0x8000_00E2 => "EV_EFI_SPDM_FIRMWARE_CONFIG",
        0x8000_00E3 => "EV_EFI_SPDM_DEVICE_POLICY",
        0x8000_00E4 => "EV_EFI_SPDM_DEVICE_AUTHORITY",
        _ => return None,
    })
}

/// Something in a log that decodes, but is not as its standard wants it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// Index of the event or entry.
    pub index: usize,
    /// Stable code.
    pub code: &'static str,
    /// What exactly, for people.
    pub detail: String,
}

/// Notes a problem; after [`MAX_PROBLEMS`] only that there are more.
pub(crate) fn note(problems: &mut Vec<Problem>, index: usize, code: &'static str, detail: impl FnOnce() -> String) {
    if problems.len() < MAX_PROBLEMS {
        problems.push(Problem { index, code, detail: detail() });
    } else if problems.len() == MAX_PROBLEMS {
        problems.push(Problem { index, code: "log.more-problems", detail: "from here on they are not listed".into() });
    }
}

/// Which of the two formats a log has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// TCG_PCR_EVENT: one SHA-1 digest an event.
    Sha1,
    /// TCG_PCR_EVENT2: one digest for each bank that the first event names.
    CryptoAgile,
}

/// A hash algorithm as a log speaks of it: TPM_ALG_ID and digest length.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DeclaredAlgorithm {
    /// TPM_ALG_ID.
    pub id: u16,
    /// Digest length that the log states, bytes.
    pub size: u16,
}

impl DeclaredAlgorithm {
    const SHA1: Self = Self { id: 0x0004, size: 20 };

    /// The algorithm, where it is known and the stated length is its own.
    #[must_use]
    pub fn known(self) -> Option<HashAlgorithm> {
        HashAlgorithm::from_tpm(self.id).filter(|algorithm| algorithm.len() == usize::from(self.size))
    }

    /// The algorithm, where its bank can be computed here.
    #[must_use]
    pub fn computable(self) -> Option<HashAlgorithm> {
        self.known().filter(|algorithm| algorithm.implementation().is_some())
    }
}

/// The banks that a log declares: few, so they are copied along with each event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Banks {
    list: [DeclaredAlgorithm; MAX_PCR_BANKS],
    count: usize,
}

impl Banks {
    const SHA1: Self = Self { list: [DeclaredAlgorithm::SHA1; MAX_PCR_BANKS], count: 1 };

    fn all(&self) -> &[DeclaredAlgorithm] {
        self.list.get(..self.count).unwrap_or(&[])
    }

    /// Digest length of `id`: as declared, else as the algorithm is known.
    fn size(&self, id: u16) -> Option<usize> {
        let declared = self.all().iter().find(|bank| bank.id == id).map(|bank| usize::from(bank.size));
        declared.or_else(|| HashAlgorithm::from_tpm(id).map(HashAlgorithm::len))
    }
}

/// One event; digests and data are borrowed from the log.
#[derive(Debug, Clone, Copy)]
pub struct Event<'a> {
    /// Position in the log; the Spec ID event counts.
    pub index: usize,
    /// PCR index; any value where nothing is extended.
    pub pcr: u32,
    /// Event type: a statement of the log's author, not extended.
    pub event_type: u32,
    /// Event data: what was measured, or words about it.
    pub data: &'a [u8],
    digests: &'a [u8],
    format: Format,
    banks: Banks,
}

impl<'a> Event<'a> {
    /// Whether the event extended its PCR.
    #[must_use]
    pub const fn extends(&self) -> bool {
        self.event_type != EV_NO_ACTION
    }

    /// All digests with their algorithms, in the order of the log.
    pub fn digests(&self) -> impl Iterator<Item = (DeclaredAlgorithm, &'a [u8])> + use<'a> {
        let (banks, format) = (self.banks, self.format);
        let mut reader = Reader::new(WHAT, self.digests);
        std::iter::from_fn(move || {
            if reader.is_empty() {
                return None;
            }
            let id = if format == Format::Sha1 { DeclaredAlgorithm::SHA1.id } else { reader.u16_le().ok()? };
            let digest = reader.take(banks.size(id)?).ok()?;
            Some((DeclaredAlgorithm { id, size: u16::try_from(digest.len()).ok()? }, digest))
        })
    }

    /// The digest for one bank.
    #[must_use]
    pub fn digest(&self, algorithm: HashAlgorithm) -> Option<&'a [u8]> {
        self.digests().find(|(declared, _)| declared.known() == Some(algorithm)).map(|(_, digest)| digest)
    }

    /// Whether the digest of `algorithm` is the hash of the event data, so that a replay that holds vouches for the
    /// data too. `None` without such a digest.
    #[must_use]
    pub fn digest_covers_data(&self, algorithm: HashAlgorithm) -> Option<bool> {
        let hash = algorithm.hash(self.data)?;
        self.digest(algorithm).map(|digest| digest == hash.as_ref())
    }

    /// Whether the profile defines the digest as the hash of the event data (§10.4.1). Older SHA-1 logs hash only the
    /// content of a variable, so they are asked for less.
    const fn should_cover_data(&self) -> bool {
        match self.event_type {
            EV_SEPARATOR | EV_ACTION | EV_EFI_ACTION | EV_S_CRTM_VERSION => true,
            EV_EFI_VARIABLE_DRIVER_CONFIG | EV_EFI_GPT_EVENT => matches!(self.format, Format::CryptoAgile),
            _ => false,
        }
    }

    /// The locality of a StartupLocality event for PCR 0 (§10.4.5.3).
    #[must_use]
    pub fn startup_locality(&self) -> Option<u8> {
        match self.data.strip_prefix(STARTUP_LOCALITY) {
            Some(&[locality]) if !self.extends() && self.pcr == 0 => Some(locality),
            _ => None,
        }
    }
}

/// A log whose first event has been read.
#[derive(Debug, Clone)]
pub struct EventLog<'a> {
    bytes: &'a [u8],
    format: Format,
    banks: Banks,
    /// Where the bytes of one filling value begin that the log ends with.
    padding: usize,
    header: Vec<Problem>,
}

impl<'a> EventLog<'a> {
    /// Recognises the format from the first event.
    ///
    /// # Errors
    /// [`Malformed`] where the first event does not decode.
    pub fn read(bytes: &'a [u8]) -> Result<Self, Malformed> {
        let mut reader = Reader::new(WHAT, bytes);
        let first = sha1_event(&mut reader, 0)?;
        let mut header = Vec::new();
        let (format, banks) = if !first.extends() && first.data.starts_with(SPEC_ID_AGILE) {
            let data_at = reader.at().saturating_sub(first.data.len());
            (Format::CryptoAgile, spec_id(&first, data_at, &mut header)?)
        } else {
            (Format::Sha1, Banks::SHA1)
        };
        let padding = padding_start(bytes);
        if padding == 0 {
            return Err(Reader::new(WHAT, bytes).malformed("a log area without any event"));
        }
        Ok(Self { bytes, format, banks, padding, header })
    }

    /// Which format it is.
    #[must_use]
    pub const fn format(&self) -> Format {
        self.format
    }

    /// The banks that the log declares.
    #[must_use]
    pub fn algorithms(&self) -> &[DeclaredAlgorithm] {
        self.banks.all()
    }

    /// The events from the first on, the Spec ID event included. Ends at the first that does not decode.
    #[must_use]
    pub fn events(&self) -> Events<'a> {
        let reader = Reader::new(WHAT, self.bytes);
        Events { reader, format: self.format, banks: self.banks, padding: self.padding, next: 0, failed: false }
    }

    /// Replays all banks that can be computed, or only one of them.
    ///
    /// # Errors
    /// [`Malformed`] where an event does not decode.
    pub fn replay(&self, only: Option<HashAlgorithm>) -> Result<Replay, Malformed> {
        let wanted = |bank: &DeclaredAlgorithm| {
            bank.computable().filter(|algorithm| only.is_none_or(|wanted| wanted == *algorithm))
        };
        let mut replay = Replay::new(self.algorithms().iter().filter_map(wanted), self.header.clone());
        let mut events = self.events();
        for event in events.by_ref() {
            replay.event(&event?, only);
        }
        if let Some(unused) = events.unused() {
            note(&mut replay.problems, replay.events, "eventlog.padding", || {
                format!("{unused} bytes of unused log area follow the last event")
            });
        }
        Ok(replay)
    }

    /// Replays all banks, and besides holds the data of events against their digests where the profile defines the one
    /// as the hash of the other.
    ///
    /// # Errors
    /// [`Malformed`] where an event does not decode.
    pub fn inspect(&self) -> Result<Replay, Malformed> {
        let mut replay = self.replay(None)?;
        for event in self.events() {
            check_data(&event?, &mut replay.problems);
        }
        replay.problems.sort_by_key(|problem| problem.index);
        Ok(replay)
    }
}

fn check_data(event: &Event<'_>, problems: &mut Vec<Problem>) {
    if !event.should_cover_data() {
        return;
    }
    let known = event.digests().filter_map(|(declared, _)| declared.computable());
    for algorithm in known.filter(|algorithm| event.digest_covers_data(*algorithm) == Some(false)) {
        note(problems, event.index, "eventlog.data-differs", || {
            let name = event_type_name(event.event_type).unwrap_or("event");
            format!("the {} digest is not the hash of the data of this {name}", algorithm.name())
        });
    }
}

/// Iterator over the events of an [`EventLog`].
#[derive(Debug, Clone)]
pub struct Events<'a> {
    reader: Reader<'a>,
    format: Format,
    banks: Banks,
    padding: usize,
    next: usize,
    failed: bool,
}

impl Events<'_> {
    /// Whether only the unused rest of the log area follows.
    const fn at_padding(&self) -> bool {
        let smallest = if matches!(self.format, Format::Sha1) { SHA1_HEADER } else { AGILE_HEADER };
        self.next > 0 && self.reader.at() >= self.padding && self.reader.remaining() >= smallest
    }

    /// Unused bytes of the log area after the last event, once all events are read.
    fn unused(&self) -> Option<usize> {
        (!self.failed && !self.reader.is_empty()).then(|| self.reader.remaining())
    }
}

impl<'a> Iterator for Events<'a> {
    type Item = Result<Event<'a>, Malformed>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.failed || self.reader.is_empty() || self.at_padding() {
            return None;
        }
        // The first event always has the old form.
        let event = match self.format {
            Format::CryptoAgile if self.next > 0 => agile_event(&mut self.reader, self.next, self.banks),
            _ => sha1_event(&mut self.reader, self.next),
        };
        self.failed = event.is_err();
        self.next = self.next.saturating_add(1);
        Some(event)
    }
}

/// TCG_PCR_EVENT (§10.2.1).
fn sha1_event<'a>(reader: &mut Reader<'a>, index: usize) -> Result<Event<'a>, Malformed> {
    let pcr = reader.u32_le()?;
    let event_type = reader.u32_le()?;
    let digests = reader.take(SHA1_LENGTH)?;
    let data = reader.sized_u32_le(usize::MAX)?;
    Ok(Event { index, pcr, event_type, data, digests, format: Format::Sha1, banks: Banks::SHA1 })
}

/// TCG_PCR_EVENT2 (§10.2.2): each digest has the length that the Spec ID event states for its algorithm.
fn agile_event<'a>(reader: &mut Reader<'a>, index: usize, banks: Banks) -> Result<Event<'a>, Malformed> {
    let pcr = reader.u32_le()?;
    let event_type = reader.u32_le()?;
    let count = reader.clone().u32_le()?;
    if usize::try_from(count).unwrap_or(usize::MAX) > MAX_PCR_BANKS {
        return Err(reader.malformed("more digests than a TPM has banks"));
    }
    let _ = reader.u32_le()?;
    let mut walk = reader.clone();
    for _ in 0..count {
        let at_algorithm = walk.malformed("digest of an algorithm that the log does not declare");
        let id = walk.u16_le()?;
        walk.take(banks.size(id).ok_or(at_algorithm)?)?;
    }
    let digests = reader.take(walk.at().saturating_sub(reader.at()))?;
    let data = reader.sized_u32_le(usize::MAX)?;
    Ok(Event { index, pcr, event_type, data, digests, format: Format::CryptoAgile, banks })
}

/// TCG_EfiSpecIDEvent (§10.4.5.1); `at` is where its data stands in the log.
fn spec_id(first: &Event<'_>, at: usize, problems: &mut Vec<Problem>) -> Result<Banks, Malformed> {
    let within = |error: Malformed| Malformed { at: error.at.saturating_add(at), ..error };
    let mut reader = Reader::new(WHAT, first.data);
    reader.take(SPEC_ID_AGILE.len()).map_err(within)?;
    let [_, _, _, _, minor, major, _errata, _uintn] = reader.array().map_err(within)?;
    let count_at = reader.malformed("the Spec ID event declares no algorithm, or more than a TPM has banks");
    let count = usize::try_from(reader.u32_le().map_err(within)?).unwrap_or(usize::MAX);
    if count == 0 || count > MAX_PCR_BANKS {
        return Err(within(count_at));
    }
    let mut banks = Banks { count, ..Banks::SHA1 };
    for slot in banks.list.iter_mut().take(count) {
        let (id, size) = (reader.u16_le().map_err(within)?, reader.u16_le().map_err(within)?);
        *slot = DeclaredAlgorithm { id, size };
    }
    if (major, minor) != (2, 0) {
        note(problems, 0, "eventlog.version", || format!("specification version {major}.{minor} instead of 2.0"));
    }
    if first.pcr != 0 || first.digests.iter().any(|byte| *byte != 0) {
        note(problems, 0, "eventlog.spec-id", || "the Spec ID event has a PCR index or digest other than zero".into());
    }
    let vendor = reader.u8().and_then(|size| reader.take(usize::from(size)));
    if vendor.is_err() || !reader.is_empty() {
        note(problems, 0, "eventlog.spec-id", || "the vendor information does not end with the Spec ID event".into());
    }
    note_banks(&banks, problems);
    Ok(banks)
}

fn note_banks(banks: &Banks, problems: &mut Vec<Problem>) {
    for (position, bank) in banks.all().iter().enumerate() {
        let DeclaredAlgorithm { id, size } = *bank;
        let repeated = banks.all().iter().take(position).any(|earlier| earlier.id == id);
        match (HashAlgorithm::from_tpm(id), bank.computable()) {
            _ if repeated => note(problems, 0, "eventlog.repeated-bank", || format!("bank 0x{id:04x} declared twice")),
            (_, Some(_)) => {}
            (Some(algorithm), None) if algorithm.len() == usize::from(size) => {
                note(problems, 0, "eventlog.bank-not-computed", || {
                    format!("bank {} cannot be computed here", algorithm.name())
                });
            }
            (Some(algorithm), None) => note(problems, 0, "eventlog.digest-size", || {
                format!("digests of {} are declared with {size} instead of {} bytes", algorithm.name(), algorithm.len())
            }),
            (None, None) => note(problems, 0, "eventlog.bank-not-computed", || {
                format!("bank 0x{id:04x} has an unknown algorithm, digests of {size} bytes are skipped")
            }),
        }
    }
}

/// Where the unused rest of a log area begins. Firmware fills it with 0xFF, so that an operating system finds the last
/// event, or leaves it zero; Linux ends there too. Less than one event's header is no padding but a log cut short: an
/// event for PCR 0 begins with zeros.
fn padding_start(bytes: &[u8]) -> usize {
    let Some(fill) = bytes.last().copied().filter(|byte| matches!(byte, 0x00 | 0xFF)) else { return bytes.len() };
    bytes.iter().rposition(|byte| *byte != fill).map_or(0, |last| last.saturating_add(1))
}

/// PCR values of one bank.
pub type Bank = BTreeMap<u32, Vec<u8>>;

/// What a log replays to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Replay {
    /// Events, the Spec ID event included.
    pub events: usize,
    /// Values per bank, of the PCRs that were extended or given a start.
    pub banks: BTreeMap<HashAlgorithm, Bank>,
    /// What is odd, in the order of the log.
    pub problems: Vec<Problem>,
    /// Value that PCR 0 had before its first extension: its last byte.
    start: u8,
    pcr0: Pcr0,
}

/// How far PCR 0 has come: its start may be stated only before anything is measured into it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Pcr0 {
    Untouched,
    Located,
    HardwareCrtm,
    Extended,
}

impl Replay {
    fn new(algorithms: impl Iterator<Item = HashAlgorithm>, problems: Vec<Problem>) -> Self {
        let banks = algorithms.map(|algorithm| (algorithm, Bank::new())).collect();
        Self { events: 0, banks, problems, start: 0, pcr0: Pcr0::Untouched }
    }

    /// Value of one PCR in the SHA-256 bank.
    #[must_use]
    pub fn sha256(&self, pcr: u32) -> Option<[u8; 32]> {
        self.banks.get(&HashAlgorithm::Sha256)?.get(&pcr)?.as_slice().try_into().ok()
    }

    fn event(&mut self, event: &Event<'_>, only: Option<HashAlgorithm>) {
        self.events = event.index.saturating_add(1);
        if !event.extends() {
            return self.no_action(event);
        }
        self.check_digests(event);
        if event.pcr >= PCR_COUNT {
            return note(&mut self.problems, event.index, "eventlog.pcr-index", || {
                format!("PCR {} does not exist, nothing extended", event.pcr)
            });
        }
        if event.pcr == 0 {
            self.pcr0_extended(event);
        }
        for (declared, digest) in event.digests() {
            let Some(algorithm) = declared.computable().filter(|found| only.is_none_or(|wanted| wanted == *found))
            else {
                continue;
            };
            let start = if event.pcr == 0 { self.start } else { 0 };
            extend(self.banks.entry(algorithm).or_default(), algorithm, (event.pcr, start), digest);
        }
    }

    /// A crypto-agile event has one digest for each declared bank (§10.2.2).
    fn check_digests(&mut self, event: &Event<'_>) {
        if event.format == Format::Sha1 {
            return;
        }
        for bank in event.banks.all() {
            let count = event.digests().filter(|(declared, _)| declared.id == bank.id).count();
            if count != 1 {
                note(&mut self.problems, event.index, "eventlog.digest-count", || {
                    format!("{count} digests for bank 0x{:04x}", bank.id)
                });
            }
        }
        for (declared, _) in event.digests() {
            if !event.banks.all().iter().any(|bank| bank.id == declared.id) {
                note(&mut self.problems, event.index, "eventlog.undeclared-bank", || {
                    format!("digest for bank 0x{:04x}, which the Spec ID event does not declare", declared.id)
                });
            }
        }
    }

    /// TPM2_Startup from locality 3, or after an H-CRTM (4), leaves the locality in PCR 0 (TPM 2.0 Part 1 §34.3).
    fn no_action(&mut self, event: &Event<'_>) {
        let Some(locality) = event.startup_locality() else {
            if event.pcr == 0 && event.data.starts_with(STARTUP_LOCALITY) {
                note(&mut self.problems, event.index, "eventlog.startup-locality", || {
                    format!("StartupLocality of {} instead of 17 bytes, ignored", event.data.len())
                });
            }
            return;
        };
        let problem = match (self.pcr0, locality) {
            (_, 1 | 2 | 5..) => "a locality that TPM2_Startup does not have, ignored",
            (Pcr0::Extended, _) => "StartupLocality after the first extension of PCR 0, ignored",
            (Pcr0::Located, _) if locality != self.start => "a second StartupLocality with another value, ignored",
            // After an H-CRTM event the start is 4 whatever TPM2_Startup's locality was.
            (Pcr0::HardwareCrtm | Pcr0::Located, _) => return,
            (Pcr0::Untouched, _) => {
                self.pcr0 = Pcr0::Located;
                self.start = locality;
                for (algorithm, bank) in &mut self.banks {
                    bank.insert(0, start_value(*algorithm, locality));
                }
                return;
            }
        };
        note(&mut self.problems, event.index, "eventlog.startup-locality", || {
            format!("locality {locality}: {problem}")
        });
    }

    fn pcr0_extended(&mut self, event: &Event<'_>) {
        let first = matches!(self.pcr0, Pcr0::Untouched | Pcr0::Located);
        if event.event_type == EV_EFI_HCRTM_EVENT && first {
            self.start = 4;
            self.pcr0 = Pcr0::HardwareCrtm;
            self.banks.values_mut().for_each(|bank| drop(bank.remove(&0)));
        } else {
            self.pcr0 = Pcr0::Extended;
        }
    }
}

fn start_value(algorithm: HashAlgorithm, last: u8) -> Vec<u8> {
    let mut value = vec![0; algorithm.len()];
    if let Some(byte) = value.last_mut() {
        *byte = last;
    }
    value
}

/// PCR new := H(PCR old ‖ digest) (TPM 2.0 Part 1 §17.2); a PCR not seen before begins with zeros and `start`.
pub(crate) fn extend(bank: &mut Bank, algorithm: HashAlgorithm, (pcr, start): (u32, u8), digest: &[u8]) {
    let Some(implementation) = algorithm.implementation() else { return };
    let value = bank.entry(pcr).or_insert_with(|| start_value(algorithm, start));
    let mut context = digest::Context::new(implementation);
    context.update(value);
    context.update(digest);
    let new = context.finish();
    value.clear();
    value.extend_from_slice(new.as_ref());
}

/// Whether `bytes` look like a boot log: the first event has a known type and a PCR that exists. A guess for telling
/// artefacts apart; only reading decides.
#[must_use]
pub fn looks_like(bytes: &[u8]) -> bool {
    padding_start(bytes) > 0
        && sha1_event(&mut Reader::new(WHAT, bytes), 0).is_ok_and(|event| {
            event_type_name(event.event_type).is_some() && (event.pcr < PCR_COUNT || !event.extends())
        })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pcr::{extend_sha256, sha256};

    fn sha1(pcr: u32, event_type: u32, digest: [u8; 20], data: &[u8]) -> Vec<u8> {
        let size = u32::try_from(data.len()).unwrap();
        [&pcr.to_le_bytes()[..], &event_type.to_le_bytes(), &digest, &size.to_le_bytes(), data].concat()
    }

    fn header(banks: &[(u16, u16)]) -> Vec<u8> {
        let mut data = [&SPEC_ID_AGILE[..], &[0, 0, 0, 0, 0, 2, 0, 2]].concat();
        data.extend(u32::try_from(banks.len()).unwrap().to_le_bytes());
        for (id, size) in banks {
            data.extend(id.to_le_bytes());
            data.extend(size.to_le_bytes());
        }
        data.push(0);
        sha1(0, EV_NO_ACTION, [0; 20], &data)
    }

    fn agile(pcr: u32, event_type: u32, digests: &[(u16, &[u8])], data: &[u8]) -> Vec<u8> {
        let mut out = [pcr.to_le_bytes(), event_type.to_le_bytes()].concat();
        out.extend(u32::try_from(digests.len()).unwrap().to_le_bytes());
        for (id, digest) in digests {
            out.extend(id.to_le_bytes());
            out.extend(*digest);
        }
        out.extend(u32::try_from(data.len()).unwrap().to_le_bytes());
        out.extend(data);
        out
    }

    fn locality(pcr: u32, locality: u8) -> Vec<u8> {
        agile(pcr, EV_NO_ACTION, &[(0xB, &[0; 32])], &[&STARTUP_LOCALITY[..], &[locality]].concat())
    }

    fn replay(parts: &[Vec<u8>]) -> Replay {
        EventLog::read(&parts.concat()).unwrap().replay(None).unwrap()
    }

    fn codes(replay: &Replay) -> Vec<&'static str> {
        replay.problems.iter().map(|problem| problem.code).collect()
    }

    fn start(last: u8) -> [u8; 32] {
        std::array::from_fn(|at| if at == 31 { last } else { 0 })
    }

    const SHA256: (u16, u16) = (0xB, 32);
    const ONE: [u8; 32] = [1; 32];

    #[test]
    fn no_action_is_never_extended_whatever_its_pcr() {
        let log = [header(&[SHA256]), agile(u32::MAX, EV_NO_ACTION, &[(0xB, &ONE)], b"x")];
        let replay = replay(&log);
        assert!(replay.banks[&HashAlgorithm::Sha256].is_empty());
        assert!(replay.problems.is_empty());
        assert_eq!(replay.events, 2);
    }

    #[test]
    fn startup_locality_sets_only_the_start_of_pcr_0() {
        let log =
            [header(&[SHA256]), locality(0, 3), agile(0, 8, &[(0xB, &ONE)], b""), agile(1, 8, &[(0xB, &ONE)], b"")];
        let replay = replay(&log);
        assert_eq!(replay.sha256(0), Some(extend_sha256(&start(3), &ONE)));
        assert_eq!(replay.sha256(1), Some(extend_sha256(&start(0), &ONE)));
        assert!(replay.problems.is_empty());
    }

    #[test]
    fn startup_locality_in_the_old_format_and_alone_is_listed() {
        let replay = replay(&[sha1(0, EV_NO_ACTION, [0; 20], b"StartupLocality\0\x04")]);
        assert_eq!(replay.banks[&HashAlgorithm::Sha1][&0], start_value(HashAlgorithm::Sha1, 4));
    }

    #[test]
    fn startup_locality_that_cannot_be_is_a_problem_and_changes_nothing() {
        let extension = agile(0, 8, &[(0xB, &ONE)], b"");
        let plain = Some(extend_sha256(&start(0), &ONE));
        let late = replay(&[header(&[SHA256]), extension.clone(), locality(0, 3)]);
        assert_eq!((late.sha256(0), codes(&late)), (plain, vec!["eventlog.startup-locality"]));
        let other_pcr = replay(&[header(&[SHA256]), locality(1, 3), extension.clone()]);
        assert_eq!((other_pcr.sha256(0), other_pcr.sha256(1)), (plain, None));
        let impossible = replay(&[header(&[SHA256]), locality(0, 1), extension.clone()]);
        assert_eq!((impossible.sha256(0), codes(&impossible)), (plain, vec!["eventlog.startup-locality"]));
        let twice = replay(&[header(&[SHA256]), locality(0, 3), locality(0, 4), extension]);
        assert_eq!(twice.sha256(0), Some(extend_sha256(&start(3), &ONE)));
        assert_eq!(codes(&twice), ["eventlog.startup-locality"]);
    }

    #[test]
    fn an_h_crtm_event_starts_pcr_0_from_4() {
        let hcrtm = agile(0, EV_EFI_HCRTM_EVENT, &[(0xB, &ONE)], b"HCRTM");
        let expected = Some(extend_sha256(&start(4), &ONE));
        for before in [vec![], locality(0, 3), locality(0, 4)] {
            let replay = replay(&[header(&[SHA256]), before, hcrtm.clone(), locality(0, 3)]);
            assert_eq!(replay.sha256(0), expected);
            assert!(replay.problems.is_empty());
        }
    }

    #[test]
    fn banks_that_cannot_be_computed_are_problems_and_are_skipped_by_their_declared_size() {
        let log = [
            header(&[SHA256, (0x12, 32), (0x27, 7), (0x4, 3)]),
            agile(4, 8, &[(0x27, &[2; 7]), (0x12, &[3; 32]), (0x4, &[9; 3]), (0xB, &ONE)], b"data"),
        ];
        let replay = replay(&log);
        assert_eq!(replay.sha256(4), Some(extend_sha256(&start(0), &ONE)));
        assert_eq!(replay.banks.len(), 1);
        assert_eq!(
            codes(&replay),
            ["eventlog.bank-not-computed", "eventlog.bank-not-computed", "eventlog.digest-size"]
        );
    }

    #[test]
    fn missing_repeated_and_undeclared_digests_are_problems() {
        let missing = replay(&[header(&[SHA256]), agile(4, 8, &[], b"")]);
        assert_eq!(codes(&missing), ["eventlog.digest-count"]);
        let repeated = replay(&[header(&[SHA256]), agile(4, 8, &[(0xB, &ONE), (0xB, &ONE)], b"")]);
        assert_eq!(codes(&repeated), ["eventlog.digest-count"]);
        let undeclared = replay(&[header(&[SHA256]), agile(4, 8, &[(0xB, &ONE), (0x4, &[1; 20])], b"")]);
        assert_eq!(codes(&undeclared), ["eventlog.undeclared-bank"]);
        assert!(undeclared.banks.contains_key(&HashAlgorithm::Sha1));
    }

    #[test]
    fn an_extended_pcr_that_does_not_exist_is_a_problem() {
        let replay = replay(&[header(&[SHA256]), agile(24, 8, &[(0xB, &ONE)], b"")]);
        assert_eq!(codes(&replay), ["eventlog.pcr-index"]);
        assert!(replay.banks[&HashAlgorithm::Sha256].is_empty());
    }

    #[test]
    fn what_cannot_be_decoded_is_refused_with_its_offset() {
        let start = header(&[SHA256]);
        let unknown = [start.clone(), agile(4, 8, &[(0x99, &ONE)], b"")].concat();
        let error = EventLog::read(&unknown).unwrap().replay(None).unwrap_err();
        assert_eq!(error.at, start.len() + 12);
        let many = [start.clone(), [8_u32, 8, 17].map(u32::to_le_bytes).concat()].concat();
        assert_eq!(EventLog::read(&many).unwrap().replay(None).unwrap_err().at, start.len() + 8);
        let long = [start.clone(), agile(4, 8, &[(0xB, &ONE)], b""), vec![1; 15]].concat();
        assert!(EventLog::read(&long).unwrap().replay(None).is_err());
        assert!(EventLog::read(&header(&[])).is_err());
        assert!(EventLog::read(&header(&[SHA256; 17])).is_err());
        assert!(EventLog::read(&[]).is_err());
    }

    #[test]
    fn a_log_cut_anywhere_but_between_events_is_refused() {
        let parts = [header(&[SHA256]), agile(0, 8, &[(0xB, &ONE)], &[0; 40]), agile(0, 4, &[(0xB, &ONE)], &[0; 4])];
        let (log, mut boundaries, mut at) = (parts.concat(), vec![], 0);
        for part in &parts {
            at += part.len();
            boundaries.push(at);
        }
        for cut in 0..log.len() {
            let whole = EventLog::read(&log[..cut]).and_then(|log| log.replay(None)).is_ok();
            assert_eq!(whole, boundaries.contains(&cut), "cut at {cut}");
        }
    }

    #[test]
    fn the_unused_rest_of_a_log_area_is_a_problem_and_not_extended() {
        let agile_log = [header(&[SHA256]), agile(0, 4, &[(0xB, &ONE)], &[0; 4])].concat();
        let old_log = sha1(0, 4, [0; 20], &[0; 4]);
        for log in [agile_log, old_log] {
            let bare = EventLog::read(&log).unwrap().replay(None).unwrap();
            for fill in [0x00, 0xFF] {
                let padded = [log.clone(), vec![fill; 333]].concat();
                let replay = EventLog::read(&padded).unwrap().replay(None).unwrap();
                assert_eq!((&replay.banks, replay.events), (&bare.banks, bare.events));
                assert_eq!(codes(&replay), ["eventlog.padding"]);
                let short = [log.clone(), vec![fill; 15]].concat();
                assert!(EventLog::read(&short).unwrap().replay(None).is_err());
            }
        }
    }

    #[test]
    fn an_empty_log_area_is_no_log() {
        for bytes in [vec![0; 32], vec![0; 4096], vec![0xFF; 4096]] {
            assert!(EventLog::read(&bytes).is_err() && !looks_like(&bytes));
        }
    }

    #[test]
    fn data_that_its_digest_does_not_cover_is_shown() {
        let good = agile(0, EV_SEPARATOR, &[(0xB, &sha256(&[0; 4]))], &[0; 4]);
        let bad = agile(0, EV_SEPARATOR, &[(0xB, &sha256(&[0; 4]))], &[1; 4]);
        let log = [header(&[SHA256]), good, bad].concat();
        let inspected = EventLog::read(&log).unwrap().inspect().unwrap();
        assert_eq!(codes(&inspected), ["eventlog.data-differs"]);
        assert_eq!(inspected.problems[0].index, 2);
    }

    #[test]
    fn the_list_of_problems_is_bounded() {
        let mut parts = vec![header(&[SHA256])];
        parts.extend((0..MAX_PROBLEMS * 2).map(|_| agile(99, 8, &[(0xB, &ONE)], b"")));
        let replay = replay(&parts);
        assert_eq!(replay.problems.len(), MAX_PROBLEMS + 1);
        assert_eq!(replay.problems.last().unwrap().code, "log.more-problems");
    }
}
