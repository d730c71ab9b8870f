//! The runtime log of this project's attester (docs/protocol.md "Runtime log"): entries in, bytes out, and back.
//!
//! The grammar is IMA's, so one reader serves both; the template is `cs-run`, and the template digest is SHA-256, the
//! value that the PCR is extended with. Unlike IMA's list the log is exact: attester and verifier agree on each byte,
//! entries are numbered without a gap, and whatever has a second reading is refused.

use crate::{
    error::Malformed,
    ima::RawEntry,
    limits::MAX_PATH,
    pcr::{extend_sha256, sha256},
    reader::Reader,
};

const WHAT: &str = "runtime log";
/// Template name of the entries.
pub const TEMPLATE: &str = "cs-run";
/// PCR that the log extends unless configured otherwise.
pub const DEFAULT_PCR: u32 = 14;
const DIGEST_LENGTH: usize = 32;
/// Nine fields with their lengths before them; all but the path have a fixed size.
const FIXED_DATA: usize = 9 * 4 + 8 + 1 + 32 + 8 + 8 + 8 + 4 + 8;
/// Template data of one entry, at most.
const MAX_DATA: usize = FIXED_DATA + MAX_PATH;

/// What an entry reports.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Kind {
    /// A program, script or interpreter that was executed.
    Executable = 0,
    /// A file mapped executable: a shared library.
    MappedFile = 1,
    /// Executed or mapped, but it could not be measured; the digest is zero.
    Unmeasured = 2,
    /// Events were lost; `size` says how many, as far as known. Digest zero, path empty.
    Overflow = 3,
    /// Code from a file that lives in memory only (memfd).
    MemoryOnly = 4,
    /// Code of a file that has no name any more.
    DeletedFile = 5,
    /// Executable memory without any file.
    AnonymousMemory = 6,
    /// Executable pages in memory differ from their file; the digest is the file's.
    TextChanged = 7,
}

impl Kind {
    const ALL: [Self; 8] = [
        Self::Executable,
        Self::MappedFile,
        Self::Unmeasured,
        Self::Overflow,
        Self::MemoryOnly,
        Self::DeletedFile,
        Self::AnonymousMemory,
        Self::TextChanged,
    ];

    /// From the byte in the log.
    #[must_use]
    pub fn from_byte(byte: u8) -> Option<Self> {
        Self::ALL.get(usize::from(byte)).copied()
    }

    /// Lower-case name, as shown to people.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Executable => "executable",
            Self::MappedFile => "mapped-file",
            Self::Unmeasured => "unmeasured",
            Self::Overflow => "overflow",
            Self::MemoryOnly => "memory-only",
            Self::DeletedFile => "deleted-file",
            Self::AnonymousMemory => "anonymous-memory",
            Self::TextChanged => "text-changed",
        }
    }

    const fn has_digest(self) -> bool {
        !matches!(self, Self::Unmeasured | Self::Overflow | Self::AnonymousMemory)
    }
}

/// Circumstances of an entry: a set of the bits below, never any other.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Flags(u32);

impl Flags {
    /// Found by a sweep over running processes, after it had begun to run.
    pub const SWEEP: Self = Self(1);
    /// The file changed while it was being measured.
    pub const CHANGED: Self = Self(1 << 1);
    /// The digest comes from the attester's cache.
    pub const CACHED: Self = Self(1 << 2);
    /// The path was longer than [`MAX_PATH`] and is cut.
    pub const PATH_CUT: Self = Self(1 << 3);
    const KNOWN: u32 = 0b1111;

    /// Both sets together.
    #[must_use]
    pub const fn with(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// Whether all bits of `other` are set.
    #[must_use]
    pub const fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// The bits as the log carries them.
    #[must_use]
    pub const fn bits(self) -> u32 {
        self.0
    }

    /// From the bits in the log; `None` where one is not known.
    #[must_use]
    pub const fn from_bits(bits: u32) -> Option<Self> {
        if bits & !Self::KNOWN == 0 { Some(Self(bits)) } else { None }
    }
}

/// One observation of the attester.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Entry<'a> {
    /// What happened.
    pub kind: Kind,
    /// SHA-256 of the file's content; zero for kinds without one.
    pub digest: [u8; 32],
    /// File size in bytes, or the number of lost events.
    pub size: u64,
    /// Device number of the file system.
    pub device: u64,
    /// Inode number.
    pub inode: u64,
    /// Circumstances.
    pub flags: Flags,
    /// When the process began or the file was mapped, seconds since boot.
    pub start_time: u64,
    /// Path as seen by the attester: raw bytes, words rather than evidence.
    pub path: &'a [u8],
}

impl<'a> Entry<'a> {
    /// Template data, numbered `sequence`. A path over [`MAX_PATH`] is cut and flagged; kinds without content get the
    /// zero digest: so what is written can always be read.
    fn template_data(&self, sequence: u64) -> Vec<u8> {
        let cut = self.path.get(..MAX_PATH);
        let path = if self.kind == Kind::Overflow { &[][..] } else { cut.unwrap_or(self.path) };
        let flags = if path.len() < self.path.len() { self.flags.with(Flags::PATH_CUT) } else { self.flags };
        let flags = if self.kind == Kind::Overflow { self.flags } else { flags };
        let digest = if self.kind.has_digest() { self.digest } else { [0; 32] };
        let mut data = Vec::with_capacity(FIXED_DATA.saturating_add(path.len()));
        push_field(&mut data, &sequence.to_le_bytes());
        push_field(&mut data, &[self.kind as u8]);
        push_field(&mut data, &digest);
        push_field(&mut data, &self.size.to_le_bytes());
        push_field(&mut data, &self.device.to_le_bytes());
        push_field(&mut data, &self.inode.to_le_bytes());
        push_field(&mut data, &flags.bits().to_le_bytes());
        push_field(&mut data, &self.start_time.to_le_bytes());
        push_field(&mut data, path);
        data
    }

    /// What the PCR is extended with for this entry as number `sequence`.
    #[must_use]
    pub fn template_digest(&self, sequence: u64) -> [u8; 32] {
        sha256(&self.template_data(sequence))
    }

    /// The entry as the log carries it.
    #[must_use]
    pub fn encode(&self, pcr: u32, sequence: u64) -> Vec<u8> {
        let data = self.template_data(sequence);
        let mut out = Vec::with_capacity(data.len().saturating_add(64));
        out.extend(pcr.to_le_bytes());
        out.extend(sha256(&data));
        push_field(&mut out, TEMPLATE.as_bytes());
        push_field(&mut out, &data);
        out
    }

    fn read(reader: &mut Reader<'a>, pcr: u32, sequence: u64) -> Result<(Self, [u8; 32]), Malformed> {
        let start = reader.clone();
        let raw = RawEntry::read(reader, DIGEST_LENGTH, MAX_DATA)?;
        if raw.pcr != pcr {
            return Err(start.malformed("entry for another PCR"));
        }
        if raw.name != TEMPLATE.as_bytes() {
            return Err(start.malformed("entry of another template"));
        }
        let digest = sha256(raw.data);
        if raw.template_digest != digest {
            return Err(start.malformed("the template digest is not the hash of the template data"));
        }
        let within = reader.at().saturating_sub(raw.data.len());
        let entry = Self::from_data(raw.data, sequence)
            .map_err(|error| Malformed { at: error.at.saturating_add(within), ..error })?;
        Ok((entry, digest))
    }

    fn from_data(data: &'a [u8], sequence: u64) -> Result<Self, Malformed> {
        let mut reader = Reader::new(WHAT, data);
        let at_sequence = reader.malformed("sequence number is not the next");
        if u64::from_le_bytes(field(&mut reader)?) != sequence {
            return Err(at_sequence);
        }
        let at_kind = reader.malformed("unknown kind of entry");
        let [kind] = field(&mut reader)?;
        let kind = Kind::from_byte(kind).ok_or(at_kind)?;
        let at_digest = reader.malformed("a digest where nothing was measured");
        let digest = field(&mut reader)?;
        if !kind.has_digest() && digest != [0; 32] {
            return Err(at_digest);
        }
        let [size, device, inode] =
            [field(&mut reader)?, field(&mut reader)?, field(&mut reader)?].map(u64::from_le_bytes);
        let at_flags = reader.malformed("unknown flag");
        let flags = Flags::from_bits(u32::from_le_bytes(field(&mut reader)?)).ok_or(at_flags)?;
        let start_time = u64::from_le_bytes(field(&mut reader)?);
        let at_path = reader.malformed("a path where events were lost");
        let path = reader.sized_u32_le(MAX_PATH)?;
        reader.finish()?;
        if kind == Kind::Overflow && !path.is_empty() {
            return Err(at_path);
        }
        Ok(Self { kind, digest, size, device, inode, flags, start_time, path })
    }
}

fn push_field(out: &mut Vec<u8>, content: &[u8]) {
    // Contents are of fixed size, or paths and data bounded by MAX_PATH and MAX_DATA.
    out.extend(u32::try_from(content.len()).unwrap_or(u32::MAX).to_le_bytes());
    out.extend(content);
}

fn field<const N: usize>(reader: &mut Reader<'_>) -> Result<[u8; N], Malformed> {
    let at = reader.malformed("field does not have its size");
    reader.sized_u32_le(MAX_PATH)?.try_into().map_err(|_| at)
}

/// Iterator over the entries of a log or of a segment of it. Ends at the first that is not as it should be.
#[derive(Debug, Clone)]
pub struct Entries<'a> {
    reader: Reader<'a>,
    pcr: u32,
    next: u64,
    failed: bool,
}

/// Reads entries that extend `pcr`, the first of which is number `first_sequence`. Each template digest is checked.
#[must_use]
pub const fn entries(bytes: &[u8], pcr: u32, first_sequence: u64) -> Entries<'_> {
    Entries { reader: Reader::new(WHAT, bytes), pcr, next: first_sequence, failed: false }
}

impl<'a> Entries<'a> {
    /// The next entry with the digest that the PCR was extended with.
    pub fn measured(&mut self) -> Option<Result<(Entry<'a>, [u8; 32]), Malformed>> {
        if self.failed || self.reader.is_empty() {
            return None;
        }
        let following = self.next.checked_add(1).ok_or_else(|| self.reader.malformed("sequence number overflows"));
        let read = following.and_then(|following| {
            let entry = Entry::read(&mut self.reader, self.pcr, self.next)?;
            self.next = following;
            Ok(entry)
        });
        self.failed = read.is_err();
        Some(read)
    }
}

impl<'a> Iterator for Entries<'a> {
    type Item = Result<Entry<'a>, Malformed>;

    fn next(&mut self) -> Option<Self::Item> {
        self.measured().map(|read| read.map(|(entry, _)| entry))
    }
}

/// Where a replay ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Replayed {
    /// Sequence number that the next entry has.
    pub next_index: u64,
    /// SHA-256 PCR after the last entry.
    pub value: [u8; 32],
}

/// Replays all of `bytes` from `start`, the value that the PCR had before entry `first_index`.
///
/// # Errors
/// [`Malformed`] at the first entry that is not exactly as an attester writes it.
pub fn replay(start: [u8; 32], bytes: &[u8], pcr: u32, first_index: u64) -> Result<Replayed, Malformed> {
    let mut entries = entries(bytes, pcr, first_index);
    let mut value = start;
    while let Some((_, digest)) = entries.measured().transpose()? {
        value = extend_sha256(&value, &digest);
    }
    Ok(Replayed { next_index: entries.next, value })
}

/// Whether `bytes` look like a runtime log, and the PCR and sequence number that it begins with. A guess for telling
/// artefacts apart; only reading decides.
#[must_use]
pub fn looks_like(bytes: &[u8]) -> Option<(u32, u64)> {
    let raw = RawEntry::read(&mut Reader::new(WHAT, bytes), DIGEST_LENGTH, MAX_DATA).ok()?;
    let first = Reader::new(WHAT, raw.data.get(4..)?).u64_le().ok()?;
    (raw.name == TEMPLATE.as_bytes()).then_some((raw.pcr, first))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::ima;

    const START: [u8; 32] = [5; 32];

    fn entry(path: &[u8]) -> Entry<'_> {
        Entry {
            kind: Kind::Executable,
            digest: [7; 32],
            size: 9,
            device: 2,
            inode: 3,
            flags: Flags::SWEEP,
            start_time: 4,
            path,
        }
    }

    fn any_entry() -> impl Strategy<Value = (Entry<'static>, Vec<u8>)> {
        let numbers = any::<[u64; 4]>();
        (0_u8..8, any::<[u8; 32]>(), numbers, 0_u32..8, proptest::collection::vec(any::<u8>(), 0..80)).prop_map(
            |(kind, digest, [size, device, inode, start_time], flags, path)| {
                let kind = Kind::from_byte(kind).unwrap();
                let digest = if kind.has_digest() { digest } else { [0; 32] };
                let path = if kind == Kind::Overflow { vec![] } else { path };
                let flags = Flags::from_bits(flags).unwrap();
                (Entry { kind, digest, size, device, inode, flags, start_time, path: b"" }, path)
            },
        )
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(list in proptest::collection::vec(any_entry(), 0..6), first in 0_u64..u64::MAX - 6) {
            let list: Vec<_> = list.iter().map(|(entry, path)| Entry { path, ..*entry }).collect();
            let mut log = vec![];
            let mut value = START;
            for (entry, sequence) in list.iter().zip(first..) {
                log.extend(entry.encode(DEFAULT_PCR, sequence));
                value = extend_sha256(&value, &entry.template_digest(sequence));
            }
            let read: Result<Vec<_>, _> = entries(&log, DEFAULT_PCR, first).collect();
            prop_assert_eq!(read.unwrap(), list.clone());
            let next_index = first + u64::try_from(list.len()).unwrap();
            prop_assert_eq!(replay(START, &log, DEFAULT_PCR, first).unwrap(), Replayed { next_index, value });
        }

        #[test]
        fn any_flipped_bit_is_noticed((entry, path) in any_entry(), at in any::<prop::sample::Index>(), bit in 0..8) {
            let entry = Entry { path: &path, ..entry };
            let mut log = [entry.encode(DEFAULT_PCR, 0), entry.encode(DEFAULT_PCR, 1)].concat();
            let before = replay(START, &log, DEFAULT_PCR, 0).unwrap();
            let at = at.index(log.len());
            log[at] ^= 1_u8 << bit;
            prop_assert_ne!(replay(START, &log, DEFAULT_PCR, 0), Ok(before));
        }

        #[test]
        fn any_bytes_are_read_without_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = replay(START, &bytes, DEFAULT_PCR, 0);
            let _ = looks_like(&bytes);
        }
    }

    #[test]
    fn ima_reads_the_same_grammar_and_both_extend_alike() {
        let log = [entry(b"/bin/a").encode(10, 0), entry(b"/bin/b").encode(10, 1)].concat();
        let mut reader = Reader::new("test", &log);
        let raw = RawEntry::read(&mut reader, 32, usize::MAX).unwrap();
        assert_eq!((raw.pcr, raw.name, raw.template_digest), (10, &b"cs-run"[..], &sha256(raw.data)[..]));
        let list = [&10_u32.to_le_bytes()[..], &[1; 20], &6_u32.to_le_bytes(), b"cs-run"].concat();
        let as_ima: Vec<_> = [0, 1]
            .into_iter()
            .flat_map(|sequence| {
                let data = entry(if sequence == 0 { b"/bin/a" } else { b"/bin/b" }).template_data(sequence);
                [&list[..], &u32::try_from(data.len()).unwrap().to_le_bytes(), &data].concat()
            })
            .collect();
        let target = replay(START, &log, 10, 0).unwrap().value;
        assert!(ima::shortest_prefix(&as_ima, 10, &START, &target).unwrap().reached);
    }

    #[test]
    fn sequence_pcr_and_template_are_exact() {
        let log = [entry(b"/a").encode(14, 3), entry(b"/b").encode(14, 4)].concat();
        assert_eq!(replay(START, &log, 14, 3).unwrap().next_index, 5);
        assert!(replay(START, &log, 14, 0).is_err());
        assert!(replay(START, &log, 12, 3).is_err());
        let gap = [entry(b"/a").encode(14, 3), entry(b"/b").encode(14, 5)].concat();
        assert_eq!(replay(START, &gap, 14, 3).unwrap_err().why, "sequence number is not the next");
        assert_eq!(looks_like(&log), Some((14, 3)));
    }

    #[test]
    fn a_forged_digest_does_not_pass() {
        let mut log = entry(b"/a").encode(14, 0);
        log[4] ^= 1;
        assert!(replay(START, &log, 14, 0).is_err());
    }

    /// An entry whose data is `change`d, with a template digest that holds again.
    fn changed(change: impl Fn(&mut Vec<u8>)) -> Vec<u8> {
        let mut data = entry(b"/a").template_data(0);
        change(&mut data);
        let length = u32::try_from(data.len()).unwrap().to_le_bytes();
        [&14_u32.to_le_bytes()[..], &sha256(&data), &6_u32.to_le_bytes(), b"cs-run", &length, &data].concat()
    }

    #[test]
    fn data_with_a_second_reading_is_refused() {
        assert!(replay(START, &changed(|_| {}), 14, 0).is_ok());
        type Change = fn(&mut Vec<u8>);
        let changes: [(&str, Change); 7] = [
            ("unknown kind", |data| data[16] = 8),
            ("digest of something unmeasured", |data| data[16] = 2),
            ("path of lost events", |data| {
                data[16] = 3;
                data[21..53].fill(0);
            }),
            ("unknown flag", |data| data[93] = 0x10),
            ("trailing byte", |data| data.push(0)),
            ("sequence of another size", |data| {
                data[0] = 9;
                data.insert(12, 0);
            }),
            ("cut", |data| data.truncate(data.len() - 1)),
        ];
        for (why, change) in changes {
            assert!(replay(START, &changed(change), 14, 0).is_err(), "{why}");
        }
    }

    #[test]
    fn whatever_the_writer_is_given_can_be_read_back() {
        let long = vec![b'x'; MAX_PATH + 5];
        let log = entry(&long).encode(14, 0);
        let read = entries(&log, 14, 0).next().unwrap().unwrap();
        assert_eq!(read.path.len(), MAX_PATH);
        assert!(read.flags.contains(Flags::PATH_CUT));
        let lost = Entry { kind: Kind::Overflow, ..entry(b"ignored") }.encode(14, 0);
        let read = entries(&lost, 14, 0).next().unwrap().unwrap();
        assert_eq!((read.path, read.digest, read.size), (&b""[..], [0; 32], 9));
    }

    #[test]
    fn a_log_cut_inside_an_entry_is_refused() {
        let first = entry(b"/a").encode(14, 0);
        let log = [first.clone(), entry(b"/b").encode(14, 1)].concat();
        for cut in 0..=log.len() {
            let whole = replay(START, &log[..cut], 14, 0).is_ok();
            assert_eq!(whole, [0, first.len(), log.len()].contains(&cut), "cut at {cut}");
        }
    }
}
