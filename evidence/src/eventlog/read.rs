//! Events out of bytes: the three formats of boot logs, each told by how it begins.

use super::{
    PCR_COUNT, Problem, Proof, Replay, STARTUP_LOCALITY, WHAT, coreboot,
    event_type::{
        EV_ACTION, EV_EFI_ACTION, EV_EFI_GPT_EVENT, EV_EFI_VARIABLE_DRIVER_CONFIG, EV_NO_ACTION, EV_S_CRTM_VERSION,
        EV_SEPARATOR, event_type_name,
    },
    note,
};
use crate::{error::Malformed, limits::MAX_PCR_BANKS, pcr::HashAlgorithm, reader::Reader};

/// Size of a SHA-1 event without data: PCR, type, digest, size.
const SHA1_HEADER: usize = 32;
/// Size of a crypto-agile event without digests and data: PCR, type, count, size.
const AGILE_HEADER: usize = 16;
const SHA1_LENGTH: usize = 20;
/// Events among which U-Boot's own first one stands: only the firmware before it comes earlier.
const FIRST_EVENTS: usize = 64;
pub(super) const SPEC_ID_AGILE: &[u8; 16] = b"Spec ID Event03\0";

/// Which format a log has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// TCG_PCR_EVENT: one SHA-1 digest an event.
    Sha1,
    /// TCG_PCR_EVENT2: one digest for each bank that the first event names.
    CryptoAgile,
    /// coreboot's own table: each entry extends one bank and has a name.
    Coreboot,
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
pub(super) struct Banks {
    pub(super) list: [DeclaredAlgorithm; MAX_PCR_BANKS],
    pub(super) count: usize,
}

impl Banks {
    pub(super) const SHA1: Self = Self { count: 1, ..Self::NONE };
    const NONE: Self = Self { list: [DeclaredAlgorithm::SHA1; MAX_PCR_BANKS], count: 0 };

    /// One more, where it is another and there is room.
    fn add(&mut self, bank: DeclaredAlgorithm) {
        if !self.all().contains(&bank)
            && let Some(slot) = self.list.get_mut(self.count)
        {
            *slot = bank;
            self.count = self.count.saturating_add(1);
        }
    }

    pub(super) fn all(&self) -> &[DeclaredAlgorithm] {
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
    pub(super) digests: &'a [u8],
    pub(super) format: Format,
    pub(super) banks: Banks,
    /// U-Boot wrote the log: what it measures stands elsewhere than other loaders'.
    pub(super) u_boot: bool,
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
            let id = match format {
                Format::CryptoAgile => reader.u16_le().ok()?,
                // One digest, whose algorithm does not stand beside it.
                Format::Sha1 | Format::Coreboot => banks.all().first()?.id,
            };
            let digest = reader.take(banks.size(id)?).ok()?;
            Some((DeclaredAlgorithm { id, size: u16::try_from(digest.len()).ok()? }, digest))
        })
    }

    /// The digest for one bank.
    #[must_use]
    pub fn digest(&self, algorithm: HashAlgorithm) -> Option<&'a [u8]> {
        self.digests().find(|(declared, _)| declared.known() == Some(algorithm)).map(|(_, digest)| digest)
    }

    /// The digest of a bank that can be computed here: SHA-256 where there is one, as the profile quotes it, SHA-1 last.
    #[must_use]
    pub fn preferred_digest(&self) -> Option<(HashAlgorithm, &'a [u8])> {
        use HashAlgorithm::{Sha1, Sha256, Sha384, Sha512};
        [Sha256, Sha384, Sha512, Sha1].into_iter().find_map(|algorithm| Some((algorithm, self.digest(algorithm)?)))
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
            _ if matches!(self.format, Format::Coreboot) => false,
            EV_SEPARATOR | EV_ACTION | EV_EFI_ACTION | EV_S_CRTM_VERSION => true,
            EV_EFI_VARIABLE_DRIVER_CONFIG | EV_EFI_GPT_EVENT => matches!(self.format, Format::CryptoAgile),
            _ => false,
        }
    }

    /// Whether the digest is neither the data's hash nor what measurers hash instead ([`Proof`]). A separator's number
    /// must be its own; words instead of a number tell of an error (§10.4.1).
    fn contradicts_data(&self, algorithm: HashAlgorithm) -> bool {
        let number = self.event_type == EV_SEPARATOR && self.data.len() == 4;
        self.digest_covers_data(algorithm) == Some(false) && (number || self.proof(algorithm) != Proof::Whole)
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
    u_boot: bool,
    header: Vec<Problem>,
}

impl<'a> EventLog<'a> {
    /// Recognises the format from the first event.
    ///
    /// # Errors
    /// [`Malformed`] where the first event does not decode.
    pub fn read(bytes: &'a [u8]) -> Result<Self, Malformed> {
        if let Some(count) = coreboot::entries(bytes) {
            return Ok(Self::coreboot(bytes, count));
        }
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
        let mut log = Self { bytes, format, banks, padding, u_boot: false, header };
        let first = log.events().take(FIRST_EVENTS).map_while(Result::ok);
        log.u_boot = first.filter(|event| (event.pcr, event.event_type) == (0, EV_S_CRTM_VERSION)).any(by_u_boot);
        Ok(log)
    }

    /// A table of coreboot, whose banks are those of its entries.
    fn coreboot(bytes: &'a [u8], count: usize) -> Self {
        let padding = coreboot::end(count);
        let mut log =
            Self { bytes, format: Format::Coreboot, banks: Banks::NONE, padding, u_boot: false, header: Vec::new() };
        for (declared, _) in log.events().map_while(Result::ok).flat_map(|event| event.digests()) {
            log.banks.add(declared);
        }
        note_banks(&log.banks, &mut log.header);
        log
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
        let mut reader = Reader::new(WHAT, self.bytes);
        if self.format == Format::Coreboot {
            let _ = reader.take(coreboot::HEADER);
        }
        let Self { format, banks, padding, u_boot, .. } = *self;
        Events { reader, format, banks, padding, u_boot, next: 0, failed: false }
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

/// Whether the root of trust's version is U-Boot's (`version_string`).
fn by_u_boot(event: Event<'_>) -> bool {
    event.data.starts_with(b"U-Boot ")
}

fn check_data(event: &Event<'_>, problems: &mut Vec<Problem>) {
    if !event.should_cover_data() {
        return;
    }
    let known = event.digests().filter_map(|(declared, _)| declared.computable());
    for algorithm in known.filter(|algorithm| event.contradicts_data(*algorithm)) {
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
    u_boot: bool,
    next: usize,
    failed: bool,
}

impl Events<'_> {
    /// Whether only the unused rest of the log area follows, if anything.
    const fn at_end(&self) -> bool {
        let smallest = match self.format {
            Format::Sha1 => SHA1_HEADER,
            Format::CryptoAgile => AGILE_HEADER,
            // It says how many entries it has.
            Format::Coreboot => return self.reader.at() >= self.padding,
        };
        self.reader.is_empty()
            || self.next > 0 && self.reader.at() >= self.padding && self.reader.remaining() >= smallest
    }

    /// Unused bytes of the log area after the last event, once all events are read.
    fn unused(&self) -> Option<usize> {
        (!self.failed && !self.reader.is_empty()).then(|| self.reader.remaining())
    }
}

impl<'a> Iterator for Events<'a> {
    type Item = Result<Event<'a>, Malformed>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.failed || self.at_end() {
            return None;
        }
        // The first event always has the old form.
        let event = match self.format {
            Format::Coreboot => coreboot::entry(&mut self.reader, self.next),
            Format::CryptoAgile if self.next > 0 => agile_event(&mut self.reader, self.next, self.banks),
            _ => sha1_event(&mut self.reader, self.next),
        };
        self.failed = event.is_err();
        self.next = self.next.saturating_add(1);
        Some(event.map(|event| Event { u_boot: self.u_boot, ..event }))
    }
}

/// TCG_PCR_EVENT (§10.2.1).
fn sha1_event<'a>(reader: &mut Reader<'a>, index: usize) -> Result<Event<'a>, Malformed> {
    let pcr = reader.u32_le()?;
    let event_type = reader.u32_le()?;
    let digests = reader.take(SHA1_LENGTH)?;
    let data = reader.sized_u32_le(usize::MAX)?;
    Ok(Event { index, pcr, event_type, data, digests, format: Format::Sha1, banks: Banks::SHA1, u_boot: false })
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
    Ok(Event { index, pcr, event_type, data, digests, format: Format::CryptoAgile, banks, u_boot: false })
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

/// Whether `bytes` look like a boot log: the first event has a known type and a PCR that exists. A guess for telling
/// artefacts apart; only reading decides.
#[must_use]
pub fn looks_like(bytes: &[u8]) -> bool {
    coreboot::entries(bytes).is_some()
        || padding_start(bytes) > 0
            && sha1_event(&mut Reader::new(WHAT, bytes), 0).is_ok_and(|event| {
                event_type_name(event.event_type).is_some() && (event.pcr < PCR_COUNT || !event.extends())
            })
}
