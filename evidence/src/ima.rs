//! The kernel's measurement list (IMA, `binary_runtime_measurements`, little-endian): bytes in; borrowed entries,
//! replayed PCRs, the shortest prefix that a quote covers out.
//!
//! The text form is not read for evidence: a newline in a file name forges a line of it. The list's own template
//! digests are SHA-1 and decide nothing; every bank is extended with its own hash of the template data. The data of a
//! violation is not extended at all: its digest and path are words, not evidence.

use std::collections::BTreeMap;

use crate::{
    error::Malformed,
    eventlog::{Bank, PCR_COUNT, Problem, extend, note},
    limits::{MAX_LOG, MAX_PATH, MAX_TEMPLATE_NAME},
    pcr::{HashAlgorithm, extend_sha256, sha256, sha256_of},
    reader::Reader,
};

const WHAT: &str = "IMA measurement list";
/// PCR that IMA extends unless the kernel is configured otherwise (CONFIG_IMA_MEASURE_PCR_IDX).
pub const DEFAULT_PCR: u32 = 10;
/// Template digest of `binary_runtime_measurements`: SHA-1.
const SHA1_LENGTH: usize = 20;
/// What the template `ima` pads a name to before it is hashed (IMA_EVENT_NAME_LEN_MAX + 1).
const OLD_NAME_LENGTH: usize = 256;
/// Extended for a violation, in every bank.
const VIOLATION: [u8; 64] = [0xFF; 64];
const BANKS: [HashAlgorithm; 4] =
    [HashAlgorithm::Sha1, HashAlgorithm::Sha256, HashAlgorithm::Sha384, HashAlgorithm::Sha512];

/// The grammar that IMA's list and this project's runtime log share: PCR, template digest, template name, template
/// data; numbers little-endian, the last two with their length before them.
#[derive(Debug, Clone, Copy)]
pub(crate) struct RawEntry<'a> {
    pub(crate) pcr: u32,
    pub(crate) template_digest: &'a [u8],
    pub(crate) name: &'a [u8],
    pub(crate) data: &'a [u8],
}

impl<'a> RawEntry<'a> {
    /// Reads one entry whose template digest has `digest_length` bytes and whose data is at most `max_data` long.
    pub(crate) fn read(reader: &mut Reader<'a>, digest_length: usize, max_data: usize) -> Result<Self, Malformed> {
        let (pcr, template_digest) = (reader.u32_le()?, reader.take(digest_length)?);
        let name = reader.sized_u32_le(MAX_TEMPLATE_NAME)?;
        // The original template has no length before its data: digest, then name without its NUL.
        let data = if name == b"ima" { old_template(reader)? } else { reader.sized_u32_le(max_data)? };
        Ok(Self { pcr, template_digest, name, data })
    }
}

fn old_template<'a>(reader: &mut Reader<'a>) -> Result<&'a [u8], Malformed> {
    let mut walk = reader.clone();
    walk.take(SHA1_LENGTH)?;
    walk.sized_u32_le(OLD_NAME_LENGTH.saturating_sub(1))?;
    reader.take(walk.at().saturating_sub(reader.at()))
}

/// Fields of the kernel's templates (`ima_template.c`); a template that the kernel was told by its format is named by
/// the format itself.
fn template_fields(name: &str) -> &str {
    match name {
        "ima" => "d|n",
        "ima-ng" => "d-ng|n-ng",
        "ima-ngv2" => "d-ngv2|n-ng",
        "ima-sig" => "d-ng|n-ng|sig",
        "ima-sigv2" => "d-ngv2|n-ng|sig",
        "ima-buf" => "d-ng|n-ng|buf",
        "ima-modsig" => "d-ng|n-ng|sig|d-modsig|modsig",
        "evm-sig" => "d-ng|n-ng|evmsig|xattrnames|xattrlengths|xattrvalues|iuid|igid|imode",
        format => format,
    }
}

fn is_field(id: &str) -> bool {
    const OTHERS: [&str; 11] = [
        "sig",
        "buf",
        "d-modsig",
        "modsig",
        "evmsig",
        "xattrnames",
        "xattrlengths",
        "xattrvalues",
        "iuid",
        "igid",
        "imode",
    ];
    matches!(id, "d" | "n" | "d-ng" | "d-ngv2" | "n-ng") || OTHERS.contains(&id)
}

/// What a file digest was taken over (d-ngv2); `ima` for every older field.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DigestType {
    /// The file's content.
    Ima,
    /// The file's fs-verity descriptor: not the hash of its content.
    Verity,
}

/// A file's digest, as the kernel logged it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FileDigest<'a> {
    /// What it was taken over.
    pub digest_type: DigestType,
    /// The kernel's name of the algorithm.
    pub algorithm: &'a str,
    /// Its bytes; all zero, or none, in a violation.
    pub bytes: &'a [u8],
}

/// Fields of an entry that appraisal needs; the rest stays in [`Entry::data`].
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Fields<'a> {
    /// File digest (d, d-ng, d-ngv2).
    pub digest: Option<FileDigest<'a>>,
    /// Path without its final NUL (n, n-ng). Any bytes: a claim of the mount namespace it was opened in.
    pub path: &'a [u8],
    /// security.ima signature (sig); absent where empty.
    pub signature: Option<&'a [u8]>,
    /// Measured buffer (buf): keys, command lines, critical data.
    pub buffer: Option<&'a [u8]>,
    /// Appended signature (modsig); absent where empty.
    pub module_signature: Option<&'a [u8]>,
}

/// One measurement; everything is borrowed from the list.
#[derive(Debug, Clone, Copy)]
pub struct Entry<'a> {
    /// Position, from 0 at the beginning of the bytes read.
    pub index: usize,
    /// PCR that it extended.
    pub pcr: u32,
    /// Template digest as logged.
    pub template_digest: &'a [u8],
    /// Template name, printable ASCII.
    pub template: &'a str,
    /// Template data.
    pub data: &'a [u8],
    /// Its fields; all empty for a template that is not known.
    pub fields: Fields<'a>,
    /// Offset of the byte after this entry.
    pub end: usize,
}

impl<'a> Entry<'a> {
    /// A violation (file written while measured, or measured while open for writing): logged with a zero digest,
    /// extended with ones.
    #[must_use]
    pub fn is_violation(&self) -> bool {
        self.template_digest.iter().all(|byte| *byte == 0)
    }

    /// Whether this project knows the template, so that [`Entry::fields`] mean something.
    #[must_use]
    pub fn template_known(&self) -> bool {
        template_fields(self.template).split('|').all(is_field)
    }

    /// SHA-256 of the template data, as the SHA-256 bank was extended with it; all ones for a violation.
    #[must_use]
    pub fn extended_sha256(&self) -> [u8; 32] {
        match self.old_template_parts() {
            _ if self.is_violation() => [0xFF; 32],
            Some((parts, name_length)) => sha256_of(&old_template_hashed(&parts, name_length)),
            None => sha256(self.data),
        }
    }

    /// What the bank of `algorithm` was extended with; empty where it cannot be computed.
    fn extended(&self, algorithm: HashAlgorithm) -> Vec<u8> {
        if self.is_violation() {
            return VIOLATION.get(..algorithm.len()).unwrap_or_default().to_vec();
        }
        self.template_hash(algorithm).unwrap_or_default()
    }

    fn template_hash(&self, algorithm: HashAlgorithm) -> Option<Vec<u8>> {
        let hash = match self.old_template_parts() {
            Some((parts, name_length)) => algorithm.hash(&old_template_hashed(&parts, name_length).concat()),
            None => algorithm.hash(self.data),
        };
        hash.map(|hash| hash.as_ref().to_vec())
    }

    /// Whether the logged template digest is the hash of the template data; `None` for a violation.
    #[must_use]
    pub fn template_digest_holds(&self) -> Option<bool> {
        if self.is_violation() {
            return None;
        }
        let algorithm = BANKS.into_iter().find(|algorithm| algorithm.len() == self.template_digest.len())?;
        self.template_hash(algorithm).map(|hash| hash == self.template_digest)
    }

    /// Digest and name of an entry of the original template, which is hashed in a way of its own.
    fn old_template_parts(&self) -> Option<([&'a [u8]; 2], usize)> {
        if self.template != "ima" {
            return None;
        }
        let digest = self.data.get(..SHA1_LENGTH)?;
        Some(([digest, self.fields.path], self.fields.path.len()))
    }
}

/// The original template hashes the digest and the name padded to 256 bytes, without lengths
/// (`ima_calc_field_array_hash_tfm`).
fn old_template_hashed<'a>(parts: &[&'a [u8]; 2], name_length: usize) -> [&'a [u8]; 3] {
    static ZEROS: [u8; OLD_NAME_LENGTH] = [0; OLD_NAME_LENGTH];
    let [digest, name] = *parts;
    [digest, name, ZEROS.get(name_length..).unwrap_or_default()]
}

/// The entries of a list. Iteration ends at the first that does not decode.
#[derive(Debug, Clone)]
pub struct Entries<'a> {
    reader: Reader<'a>,
    digest_length: usize,
    next: usize,
    failed: bool,
}

/// Reads a list, or a segment of one that begins at an entry. Newer kernels also write the list with the template
/// digests of another bank (`binary_runtime_measurements_sha256`): the first entry tells which it is.
#[must_use]
pub fn entries(bytes: &[u8]) -> Entries<'_> {
    let reader = Reader::new(WHAT, bytes);
    let fits = |length: &usize| template_name_at(bytes, *length);
    let digest_length = BANKS.map(HashAlgorithm::len).into_iter().find(fits).unwrap_or(SHA1_LENGTH);
    Entries { reader, digest_length, next: 0, failed: false }
}

/// Whether an entry with a template of the kernel's begins the list, if template digests have `length` bytes.
fn template_name_at(bytes: &[u8], length: usize) -> bool {
    let mut reader = Reader::new(WHAT, bytes);
    let entry = RawEntry::read(&mut reader, length, MAX_LOG);
    entry.is_ok_and(|entry| {
        std::str::from_utf8(entry.name).is_ok_and(|name| template_fields(name).split('|').all(is_field))
    })
}

/// Whether `bytes` look like an IMA list. A guess for telling artefacts apart; only reading decides.
#[must_use]
pub fn looks_like(bytes: &[u8]) -> bool {
    BANKS.map(HashAlgorithm::len).into_iter().any(|length| template_name_at(bytes, length))
}

impl<'a> Iterator for Entries<'a> {
    type Item = Result<Entry<'a>, Malformed>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.failed || self.reader.is_empty() {
            return None;
        }
        let entry = read_entry(&mut self.reader, self.digest_length, self.next);
        self.failed = entry.is_err();
        self.next = self.next.saturating_add(1);
        Some(entry)
    }
}

fn read_entry<'a>(reader: &mut Reader<'a>, digest_length: usize, index: usize) -> Result<Entry<'a>, Malformed> {
    let unprintable = reader.malformed("template name is not printable ASCII");
    let RawEntry { pcr, template_digest, name, data } = RawEntry::read(reader, digest_length, MAX_LOG)?;
    let template = match std::str::from_utf8(name) {
        Ok(template) if !name.is_empty() && name.iter().all(u8::is_ascii_graphic) => template,
        _ => return Err(unprintable),
    };
    let end = reader.at();
    let fields = fields(template, data)
        .map_err(|error| Malformed { at: end.saturating_sub(data.len()).saturating_add(error.at), ..error })?;
    Ok(Entry { index, pcr, template_digest, template, data, fields, end })
}

/// Splits template data into its fields; offsets in errors count from its beginning.
fn fields<'a>(template: &str, data: &'a [u8]) -> Result<Fields<'a>, Malformed> {
    let mut fields = Fields::default();
    let format = template_fields(template);
    if format == template && !format.split('|').all(is_field) {
        return Ok(fields);
    }
    let mut reader = Reader::new(WHAT, data);
    for id in format.split('|') {
        let before = reader.clone();
        let content = match (template, id) {
            ("ima", "d") => reader.take(SHA1_LENGTH)?,
            _ => reader.sized_u32_le(usize::MAX)?,
        };
        match id {
            "d" => fields.digest = Some(old_digest(content)),
            "d-ng" => fields.digest = Some(named_digest(content, DigestType::Ima, &before)?),
            "d-ngv2" => fields.digest = Some(typed_digest(content, &before)?),
            "n" | "n-ng" => fields.path = path(content, &before)?,
            "sig" => fields.signature = Some(content).filter(|signature| !signature.is_empty()),
            "buf" => fields.buffer = Some(content),
            "modsig" => fields.module_signature = Some(content).filter(|signature| !signature.is_empty()),
            _ => {}
        }
    }
    reader.finish()?;
    Ok(fields)
}

const fn old_digest(bytes: &[u8]) -> FileDigest<'_> {
    FileDigest { digest_type: DigestType::Ima, algorithm: if bytes.len() == 16 { "md5" } else { "sha1" }, bytes }
}

/// `algorithm:`, a NUL, then the digest.
fn named_digest<'a>(content: &'a [u8], digest_type: DigestType, at: &Reader<'_>) -> Result<FileDigest<'a>, Malformed> {
    let split = content.iter().position(|byte| *byte == 0).and_then(|nul| content.split_at_checked(nul));
    let (name, rest) = split.ok_or_else(|| at.malformed("file digest without its algorithm"))?;
    let algorithm = name.strip_suffix(b":").and_then(|name| std::str::from_utf8(name).ok());
    let algorithm = algorithm.filter(|name| !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_graphic()));
    let algorithm = algorithm.ok_or_else(|| at.malformed("file digest without its algorithm"))?;
    let bytes = rest.get(1..).unwrap_or_default();
    let length = HashAlgorithm::from_name(algorithm).map(HashAlgorithm::len);
    if length.is_some_and(|length| length != bytes.len()) {
        return Err(at.malformed("file digest does not have its algorithm's length"));
    }
    Ok(FileDigest { digest_type, algorithm, bytes })
}

/// `type:algorithm:`, a NUL, then the digest.
fn typed_digest<'a>(content: &'a [u8], at: &Reader<'_>) -> Result<FileDigest<'a>, Malformed> {
    let (digest_type, rest) = if let Some(rest) = content.strip_prefix(b"verity:") {
        (DigestType::Verity, rest)
    } else if let Some(rest) = content.strip_prefix(b"ima:") {
        (DigestType::Ima, rest)
    } else {
        return Err(at.malformed("file digest of an unknown type"));
    };
    named_digest(rest, digest_type, at)
}

fn path<'a>(content: &'a [u8], at: &Reader<'_>) -> Result<&'a [u8], Malformed> {
    let path = content.strip_suffix(&[0]).unwrap_or(content);
    if path.contains(&0) {
        return Err(at.malformed("a NUL inside a path"));
    }
    if path.len() > MAX_PATH {
        return Err(at.malformed("path over PATH_MAX"));
    }
    Ok(path)
}

/// What a whole list replays to, from PCRs that are zero.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Replay {
    /// Entries.
    pub entries: usize,
    /// Entries per template.
    pub templates: BTreeMap<String, usize>,
    /// Entries that are violations.
    pub violations: usize,
    /// Values per bank of the PCRs that the list extends.
    pub banks: BTreeMap<HashAlgorithm, Bank>,
    /// `algorithm:hex` of the first `boot_aggregate`: hash over PCR 0–9 (older kernels: 0–7) when IMA started.
    pub boot_aggregate: Option<String>,
    /// What is odd, in the order of the list.
    pub problems: Vec<Problem>,
}

/// Replays a whole list.
///
/// # Errors
/// [`Malformed`] where an entry does not decode or the last one is incomplete.
pub fn replay(bytes: &[u8]) -> Result<Replay, Malformed> {
    let mut replay = Replay::default();
    for entry in entries(bytes) {
        replay.entry(&entry?);
    }
    if replay.entries == 0 {
        return Err(Reader::new(WHAT, bytes).malformed("no entry"));
    }
    Ok(replay)
}

impl Replay {
    fn entry(&mut self, entry: &Entry<'_>) {
        self.entries = entry.index.saturating_add(1);
        match self.templates.get_mut(entry.template) {
            Some(count) => *count = count.saturating_add(1),
            None => drop(self.templates.insert(entry.template.into(), 1)),
        }
        if entry.is_violation() {
            self.violations = self.violations.saturating_add(1);
        }
        self.boot_aggregate(entry);
        self.check(entry);
        if entry.pcr >= PCR_COUNT {
            return;
        }
        for algorithm in BANKS {
            let bank = self.banks.entry(algorithm).or_default();
            extend(bank, algorithm, (entry.pcr, 0), &entry.extended(algorithm));
        }
    }

    fn boot_aggregate(&mut self, entry: &Entry<'_>) {
        if self.boot_aggregate.is_none() && entry.fields.path == b"boot_aggregate" {
            self.boot_aggregate = entry.fields.digest.map(|digest| {
                digest.bytes.iter().fold(format!("{}:", digest.algorithm), |text, byte| text + &format!("{byte:02x}"))
            });
        }
    }

    fn check(&mut self, entry: &Entry<'_>) {
        if entry.template_digest_holds() == Some(false) {
            note(&mut self.problems, entry.index, "ima.template-digest", || {
                "the template digest is not the hash of the template data; the hash is extended".into()
            });
        }
        if !entry.template_known() {
            note(&mut self.problems, entry.index, "ima.unknown-template", || {
                format!("the fields of template {} are not known", entry.template)
            });
        }
        if entry.pcr >= PCR_COUNT {
            note(&mut self.problems, entry.index, "ima.pcr-index", || {
                format!("PCR {} does not exist, nothing extended", entry.pcr)
            });
        }
    }
}

/// How far into a list a quoted value reaches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Prefix {
    /// Whether the target was reached; if not, the rest describes the whole of the bytes.
    pub reached: bool,
    /// Entries in the prefix.
    pub entries: usize,
    /// Bytes of the prefix.
    pub bytes: usize,
    /// SHA-256 PCR after it.
    pub value: [u8; 32],
}

/// The shortest prefix of `bytes` that takes SHA-256 `pcr` from `start` to `target`. The quote is taken before the list
/// is read, so entries after the prefix are no contradiction: they are not looked at, and not acknowledged.
///
/// # Errors
/// [`Malformed`] where an entry before the target does not decode.
pub fn shortest_prefix(bytes: &[u8], pcr: u32, start: &[u8; 32], target: &[u8; 32]) -> Result<Prefix, Malformed> {
    let mut prefix = Prefix { reached: start == target, entries: 0, bytes: 0, value: *start };
    let mut entries = entries(bytes);
    while !prefix.reached {
        let Some(entry) = entries.next().transpose()? else { break };
        prefix.entries = prefix.entries.saturating_add(1);
        prefix.bytes = entry.end;
        if entry.pcr == pcr {
            prefix.value = extend_sha256(&prefix.value, &entry.extended_sha256());
            prefix.reached = prefix.value == *target;
        }
    }
    Ok(prefix)
}

#[cfg(test)]
mod tests {
    use super::*;
    use ring::digest;

    fn field(content: &[u8]) -> Vec<u8> {
        [&u32::try_from(content.len()).unwrap().to_le_bytes()[..], content].concat()
    }

    fn entry_with(template: &str, template_digest: &[u8], data: &[u8]) -> Vec<u8> {
        [&10_u32.to_le_bytes()[..], template_digest, &field(template.as_bytes()), &field(data)].concat()
    }

    fn entry(template: &str, fields: &[&[u8]]) -> Vec<u8> {
        let data = fields.iter().map(|content| field(content)).collect::<Vec<_>>().concat();
        let sha1 = digest::digest(&digest::SHA1_FOR_LEGACY_USE_ONLY, &data);
        entry_with(template, sha1.as_ref(), &data)
    }

    fn d_ng(byte: u8) -> Vec<u8> {
        [&b"sha256:\0"[..], &[byte; 32]].concat()
    }

    fn ng(byte: u8, path: &[u8]) -> Vec<u8> {
        entry("ima-ng", &[&d_ng(byte), &[path, b"\0"].concat()])
    }

    #[test]
    fn every_template_gives_digest_path_and_signature() {
        let typed = |kind: &[u8]| [kind, &d_ng(7)].concat();
        let (path, sig): (&[u8], &[u8]) = (b"/bin/x\0", b"\x03\x02sig");
        let cases: Vec<(&str, Vec<&[u8]>)> = vec![
            ("ima-ng", vec![path]),
            ("ima-sig", vec![path, sig]),
            ("ima-buf", vec![path, sig]),
            ("ima-modsig", vec![path, sig, b"", b""]),
            ("d-ng|n-ng|sig", vec![path, sig]),
            ("evm-sig", vec![path, sig, b"", b"", b"", b"", b"", b""]),
        ];
        for (template, rest) in cases {
            let digest = d_ng(7);
            let bytes = entry(template, &[&[&digest[..]], &rest[..]].concat());
            let read = entries(&bytes).next().unwrap().unwrap();
            assert_eq!(read.fields.path, b"/bin/x", "{template}");
            let expected = FileDigest { digest_type: DigestType::Ima, algorithm: "sha256", bytes: &[7; 32] };
            assert_eq!(read.fields.digest, Some(expected), "{template}");
            assert_eq!(read.fields.signature.is_some(), rest.len() > 1 && !["ima-buf", "evm-sig"].contains(&template));
            assert_eq!(read.template_digest_holds(), Some(true));
        }
        for (kind, expected) in [(&b"ima:"[..], DigestType::Ima), (b"verity:", DigestType::Verity)] {
            let bytes = entry("ima-sigv2", &[&typed(kind), path, b""]);
            let read = entries(&bytes).next().unwrap().unwrap();
            assert_eq!((read.fields.digest.unwrap().digest_type, read.fields.signature), (expected, None));
        }
    }

    #[test]
    fn the_original_template_has_no_data_length_and_hashes_a_padded_name() {
        let (digest, name) = ([3; 20], b"/sbin/init");
        let mut padded = [0; 256];
        padded[..name.len()].copy_from_slice(name);
        let hashed = [&digest[..], &padded].concat();
        let sha1 = digest::digest(&digest::SHA1_FOR_LEGACY_USE_ONLY, &hashed);
        let one = [&10_u32.to_le_bytes()[..], sha1.as_ref(), &field(b"ima"), &digest, &field(name)].concat();
        let list = [one.clone(), one].concat();
        let replay = replay(&list).unwrap();
        assert_eq!((replay.entries, replay.problems.len()), (2, 0));
        let once = extend_sha256(&[0; 32], &sha256(&hashed));
        assert_eq!(replay.banks[&HashAlgorithm::Sha256][&10], extend_sha256(&once, &sha256(&hashed)));
        assert_eq!(entries(&list).next().unwrap().unwrap().fields.path, name);
    }

    #[test]
    fn a_violation_extends_ones_in_every_bank() {
        let data = [field(&d_ng(0)), field(b"/root/a\0")].concat();
        let replay = replay(&entry_with("ima-ng", &[0; 20], &data)).unwrap();
        assert_eq!((replay.violations, replay.problems.len()), (1, 0));
        assert_eq!(replay.banks[&HashAlgorithm::Sha256][&10], extend_sha256(&[0; 32], &[0xFF; 32]));
        let sha384 = HashAlgorithm::Sha384.hash(&[[0; 48], [0xFF; 48]].concat()).unwrap();
        assert_eq!(replay.banks[&HashAlgorithm::Sha384][&10], sha384.as_ref());
    }

    #[test]
    fn a_list_with_the_template_digests_of_another_bank_is_recognised() {
        let data = [field(&d_ng(1)), field(b"/a\0")].concat();
        let other = entry_with("ima-ng", &sha256(&data), &data);
        let [other, usual] = [replay(&other).unwrap(), replay(&ng(1, b"/a")).unwrap()];
        assert_eq!(other, usual);
    }

    #[test]
    fn an_unknown_template_is_replayed_but_shown() {
        let replay = replay(&[ng(1, b"/a"), entry("their-own", &[b"x"])].concat()).unwrap();
        assert_eq!(replay.problems[0].code, "ima.unknown-template");
        assert_eq!(replay.templates["their-own"], 1);
    }

    #[test]
    fn a_template_digest_that_does_not_hold_is_shown() {
        let mut list = ng(1, b"/a");
        list[5] ^= 1;
        assert_eq!(replay(&list).unwrap().problems[0].code, "ima.template-digest");
    }

    #[test]
    fn names_are_raw_bytes() {
        let path = b"/tmp/x\n10 00 ima-ng sha256:00 /bin/sh\xff";
        let list = ng(1, path);
        assert_eq!(entries(&list).next().unwrap().unwrap().fields.path, path);
    }

    #[test]
    fn what_does_not_decode_is_refused() {
        let bad = [
            entry("ima-ng", &[b"sha256:", b"/a\0"]),
            entry("ima-ng", &[b"\0", b"/a\0"]),
            entry("ima-ng", &[&d_ng(1)[..20], b"/a\0"]),
            entry("ima-ng", &[&d_ng(1), b"/a\0/b\0"]),
            entry("ima-ng", &[&d_ng(1), &[b'a'; MAX_PATH + 2]]),
            entry("ima-ng", &[&d_ng(1), b"/a\0", b"more"]),
            entry("ima-ng", &[&d_ng(1)]),
            entry("ima-ngv2", &[&d_ng(1), b"/a\0"]),
            entry("", &[b"x"]),
            entry("ima\0", &[b"x"]),
            entry(&"x".repeat(256), &[b"x"]),
            vec![],
        ];
        for list in bad {
            assert!(replay(&list).is_err(), "{list:02x?}");
        }
    }

    #[test]
    fn a_list_cut_inside_an_entry_is_refused() {
        let (first, second) = (ng(1, b"/a"), ng(2, b"/b"));
        let list = [first.clone(), second].concat();
        for cut in 0..=list.len() {
            let whole = replay(&list[..cut]).is_ok();
            assert_eq!(whole, cut == first.len() || cut == list.len(), "cut at {cut}");
        }
    }

    #[test]
    fn the_shortest_prefix_wins_and_what_follows_is_not_read() {
        let (first, second) = (ng(1, b"/a"), ng(2, b"/b"));
        let value =
            |list: &[u8]| <[u8; 32]>::try_from(replay(list).unwrap().banks[&HashAlgorithm::Sha256][&10].clone());
        let target = value(&first).unwrap();
        let list = [first.clone(), second.clone(), b"torn".to_vec()].concat();
        let prefix = shortest_prefix(&list, 10, &[0; 32], &target).unwrap();
        assert_eq!(prefix, Prefix { reached: true, entries: 1, bytes: first.len(), value: target });
        let both = [first.clone(), second.clone()].concat();
        let resumed = shortest_prefix(&both[first.len()..], 10, &target, &value(&both).unwrap()).unwrap();
        assert_eq!((resumed.reached, resumed.entries, resumed.bytes), (true, 1, second.len()));
        let nothing_new = shortest_prefix(&list, 10, &target, &target).unwrap();
        assert_eq!((nothing_new.reached, nothing_new.entries), (true, 0));
        let missed = shortest_prefix(&both, 10, &[0; 32], &[9; 32]).unwrap();
        assert_eq!((missed.reached, missed.entries, missed.bytes), (false, 2, both.len()));
        assert!(shortest_prefix(&list, 10, &[0; 32], &[9; 32]).is_err());
    }

    #[test]
    fn entries_of_another_pcr_do_not_count_towards_the_target() {
        let mut other = ng(1, b"/a");
        other[0] = 11;
        let counted = ng(2, b"/b");
        let target = extend_sha256(&[0; 32], &entries(&counted).next().unwrap().unwrap().extended_sha256());
        let prefix = shortest_prefix(&[other, counted].concat(), 10, &[0; 32], &target).unwrap();
        assert_eq!((prefix.reached, prefix.entries), (true, 2));
    }
}
