//! Runtime: replay of the attester's log and of IMA's list to the quote, and every entry held against the release.

use evidence::{
    claims::{DeviceId, LogKind},
    envelope::{Attachment, Authentic},
    ima,
    pcr::{HashAlgorithm, PcrValues, extend_sha256},
    runtime_log::{self, Kind},
};
use reference_values::{KnownBad, ProductRef, ReferenceIndex};

use crate::{
    UnixSeconds, boot,
    cause::Code,
    continuity::{Anchor, AnotherBoot},
    policy::Exclusions,
    state::{Approval, Beginnings, BootState, Finding, MeasuredFile, Track},
};

/// Where a log stands after a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reach {
    /// It explains the quoted value of its PCR.
    Quote,
    /// It does not reach it yet.
    Short,
    /// Nothing was measured this way: no entry, and the PCR is as the boot left it.
    Unused,
}

/// What is found, and what it is held against.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Finder {
    /// Now.
    pub(crate) now: UnixSeconds,
    /// The last approval.
    pub(crate) approval: Approval,
}

impl Finder {
    /// Notes a finding. `anew`: not of an entry that was there before.
    pub(crate) fn find(&self, boot: &mut BootState, code: Code, detail: String, anew: bool) {
        let since = self.approval.first_after(self.now);
        boot.find(Finding { code, detail, since }, anew.then_some(self.approval));
    }
}

/// What a log is replayed into.
pub(crate) struct Replay<'a> {
    /// The quoted PCR values.
    pub(crate) pcrs: &'a PcrValues,
    /// PCR of the runtime log.
    pub(crate) runtime_pcr: u8,
    /// What is held of this boot.
    pub(crate) boot: &'a mut BootState,
    /// Files reported by this message.
    pub(crate) files: &'a mut Files,
    /// Where the logs last explained a quote of this boot: what comes before is told again, not anew.
    pub(crate) explained: Anchor,
    /// Whether that is yet to be shown, because the TPM started again.
    pub(crate) resuming: bool,
    /// The boot log, where this message or the store has it.
    pub(crate) boot_log: Option<&'a [u8]>,
    /// Notes findings.
    pub(crate) finder: Finder,
}

/// Files that a message reports.
#[derive(Debug, Default)]
pub(crate) struct Files {
    /// In order: the runtime log's, then IMA's.
    pub(crate) all: Vec<MeasuredFile>,
    /// How many at the front are of entries that were there before.
    pub(crate) told_again: usize,
}

/// Takes in a segment of the runtime log. The quote was made under the same lock as the log was written, so the match
/// is exact: an entry beyond the quote contradicts as much as one that is missing.
pub(crate) fn take_log(evidence: &Authentic, into: &mut Replay<'_>) -> Result<Reach, AnotherBoot> {
    let target = into.pcrs.get(usize::from(into.runtime_pcr)).copied().unwrap_or_default();
    let start = into.boot.runtime_start();
    if let Some(segment) = evidence.attachment(LogKind::Runtime)
        && let Some(track) = continues(&into.boot.runtime, segment, start)
    {
        match replay_segment(track, segment, &target, into) {
            Ok(track) => into.boot.runtime = track,
            Err(contradiction) => into.find(Code::LogMismatch, format!("runtime log: {contradiction}")),
        }
    } else if into.boot.runtime.value != target {
        // The device believes that more is held here than is: it learns so, and sends all of it again.
        into.boot.runtime = Track::from_start(start);
    }
    into.reached(into.boot.runtime, &target, &start, into.explained.runtime)
}

impl Replay<'_> {
    fn find(&mut self, code: Code, detail: String) {
        self.finder.find(self.boot, code, detail, true);
    }

    /// A log that explains the quote, but not by way of where it explained another before the TPM started again, began anew
    /// since: only a PCR that was reset leads there. A log that explains nothing shows nothing either.
    fn reached(
        &self,
        track: Track,
        target: &[u8; 32],
        start: &[u8; 32],
        explained: Track,
    ) -> Result<Reach, AnotherBoot> {
        let elsewhere = self.resuming && (track.differs || track.next < explained.next);
        match reach(&track, target, start) {
            Reach::Quote | Reach::Unused if elsewhere => Err(AnotherBoot),
            reach => Ok(reach),
        }
    }
}

fn reach(track: &Track, target: &[u8; 32], start: &[u8; 32]) -> Reach {
    match (track.value == *target, track.next) {
        (true, 0) if target == start => Reach::Unused,
        (true, _) => Reach::Quote,
        (false, _) => Reach::Short,
    }
}

/// A segment continues what is held, or begins anew; one with a gap before it is of no use yet. A device that never got
/// the result for what is held tells that again, with what is new.
fn continues(held: &Track, segment: &Attachment, start: [u8; 32]) -> Option<Track> {
    if segment.first == 0 {
        return Some(Track::from_start(start));
    }
    let told_again = held.next.checked_sub(segment.first)?;
    (told_again <= segment.count).then_some(*held)
}

fn replay_segment(
    mut track: Track,
    segment: &Attachment,
    target: &[u8; 32],
    into: &mut Replay<'_>,
) -> Result<Track, String> {
    let explained = into.explained.runtime;
    let mut entries = runtime_log::entries(&segment.bytes, u32::from(into.runtime_pcr), segment.first);
    // Entries that are held already: the chain from there to the quote vouches for them.
    for _ in segment.first..track.next {
        entries.measured().transpose().map_err(|error| error.to_string())?;
    }
    let mut passed_quote = false;
    while let Some((entry, digest)) = entries.measured().transpose().map_err(|error| error.to_string())? {
        if passed_quote {
            return Err("it goes on beyond the quoted value".into());
        }
        into.take_entry(&entry, track.next >= explained.next);
        track.value = extend_sha256(&track.value, &digest);
        track.next = track.next.saturating_add(1);
        track.differs |= into.resuming && track.next == explained.next && track.value != explained.value;
        passed_quote = track.value == *target;
    }
    if track.next.checked_sub(segment.first) == Some(segment.count) {
        Ok(track)
    } else {
        Err("it holds another number of entries than was signed for".into())
    }
}

impl Replay<'_> {
    fn take_entry(&mut self, entry: &runtime_log::Entry<'_>, anew: bool) {
        let path = printable(entry.path);
        let (code, detail) = match entry.kind {
            Kind::Executable | Kind::MappedFile | Kind::DeletedFile | Kind::MemoryOnly => {
                let kind = entry.kind.name().to_owned();
                self.files.all.push(MeasuredFile { digest: entry.digest, path, kind });
                self.files.told_again = self.files.told_again.saturating_add(usize::from(!anew));
                return;
            }
            Kind::Unmeasured => (Code::RuntimeUnmeasured, path),
            Kind::Overflow => (Code::RuntimeUnmeasured, format!("{} events were lost", entry.size)),
            Kind::AnonymousMemory => (Code::RuntimeFromMemory, format!("{path}{WITHOUT_A_FILE}")),
            Kind::TextChanged => (Code::RuntimeTextChanged, path),
        };
        self.finder.find(self.boot, code, detail, anew);
    }
}

/// Ends the detail of memory without a file, where others end in a digest.
const WITHOUT_A_FILE: &str = " (memory without a file)";

/// Takes in a segment of IMA's list. The quote was made before the list was read, so the list may be ahead: the
/// shortest prefix that leads to the quote counts, the rest is neither judged nor acknowledged.
pub(crate) fn take_ima(evidence: &Authentic, into: &mut Replay<'_>) -> Result<Reach, AnotherBoot> {
    let target = ima_value(into.pcrs);
    let start = into.boot.ima_start();
    if let Some(segment) = evidence.attachment(LogKind::Ima)
        && let Some(track) = continues(&into.boot.ima, segment, start)
    {
        if target == [0; 32] && segment.count > 0 {
            into.find(Code::ImaNoTpm, "PCR 10 is zero while the list has entries".into());
            into.boot.ima = Track::from_start(start);
            return into.reached(into.boot.ima, &target, &start, into.explained.ima);
        }
        match replay_ima(track, segment, &target, into) {
            Ok(track) => into.boot.ima = track,
            Err(contradiction) => into.find(Code::LogMismatch, format!("IMA list: {contradiction}")),
        }
    } else if into.boot.ima.value != target {
        into.boot.ima = Track::from_start(start);
    }
    into.reached(into.boot.ima, &target, &start, into.explained.ima)
}

fn ima_value(pcrs: &PcrValues) -> [u8; 32] {
    pcrs.get(ima::DEFAULT_PCR as usize).copied().unwrap_or_default()
}

/// Takes notice where another kernel was started without a boot (kexec): no PCR began anew, but IMA's list did, and it leads
/// to the quote from where the list before it stood. The runtime log begins anew with it where it was kept in memory only.
/// A list that the first kernel hands over to the second (CONFIG_IMA_KEXEC) goes on by itself. Returns whether it is so.
pub(crate) fn begin_anew(evidence: &Authentic, pcrs: &PcrValues, boot: &mut BootState, runtime_pcr: u8) -> bool {
    let held = boot.explained();
    let first = |kind| evidence.attachment(kind).filter(|segment| segment.first == 0 && segment.count > 0);
    let ima_leads = |segment: &Attachment, from: &[u8; 32]| {
        let prefix = ima::shortest_prefix(&segment.bytes, ima::DEFAULT_PCR, from, &ima_value(pcrs));
        prefix.is_ok_and(|prefix| prefix.reached && prefix.entries > 0)
    };
    let anew = first(LogKind::Ima).is_some_and(|segment| {
        held.ima.next > 0 && !ima_leads(segment, &boot.ima_start()) && ima_leads(segment, &held.ima.value)
    });
    if anew {
        boot.kexec = Some(Beginnings { ima: held.ima.value, runtime: boot.kexec.and_then(|begun| begun.runtime) });
        // Entries beyond what was explained are nobody's word yet.
        boot.anchor = None;
        (boot.runtime, boot.ima) = (held.runtime, Track::from_start(held.ima.value));
    }
    let target = pcrs.get(usize::from(runtime_pcr)).copied().unwrap_or_default();
    let runtime_leads = |segment, from: &[u8; 32]| runtime_leads(segment, runtime_pcr, *from) == Some(target);
    let start = boot.runtime_start();
    if let Some(begun) = &mut boot.kexec
        && let Some(segment) = first(LogKind::Runtime)
        && held.runtime.next > 0
        && !runtime_leads(segment, &start)
        && runtime_leads(segment, &held.runtime.value)
    {
        begun.runtime = Some(held.runtime.value);
        boot.anchor = None;
        boot.runtime = Track::from_start(held.runtime.value);
    }
    anew
}

/// Where a segment of the runtime log leads to.
fn runtime_leads(segment: &Attachment, pcr: u8, from: [u8; 32]) -> Option<[u8; 32]> {
    let mut value = from;
    let mut entries = runtime_log::entries(&segment.bytes, u32::from(pcr), segment.first);
    while let Some((_, digest)) = entries.measured().transpose().ok()? {
        value = extend_sha256(&value, &digest);
    }
    Some(value)
}

fn replay_ima(track: Track, segment: &Attachment, target: &[u8; 32], into: &mut Replay<'_>) -> Result<Track, String> {
    let new = after_held(segment, track.next)?;
    let prefix =
        ima::shortest_prefix(new, ima::DEFAULT_PCR, &track.value, target).map_err(|error| error.to_string())?;
    for (entry, at) in ima::entries(new).take(prefix.entries).zip(track.next..) {
        into.take_ima_entry(&entry.map_err(|error| error.to_string())?, at)?;
    }
    let entries = u64::try_from(prefix.entries).unwrap_or(u64::MAX);
    let next = track.next.saturating_add(entries);
    let differs = track.differs || (into.resuming && differs_at(&into.explained.ima, &track, next, new));
    Ok(Track { next, value: prefix.value, differs })
}

/// What a segment of IMA's list holds from entry number `next` on.
fn after_held(segment: &Attachment, next: u64) -> Result<&[u8], String> {
    let held = usize::try_from(next.saturating_sub(segment.first)).unwrap_or(usize::MAX);
    let mut end = 0;
    for entry in ima::entries(&segment.bytes).take(held) {
        end = entry.map_err(|error| error.to_string())?.end;
    }
    Ok(segment.bytes.get(end..).unwrap_or_default())
}

/// Whether a replay of `new` from `track` to `next` went past `explained` elsewhere. Values along a chain do not come again,
/// so the held one is where it was, or nowhere.
fn differs_at(explained: &Track, track: &Track, next: u64, new: &[u8]) -> bool {
    if next < explained.next || track.next >= explained.next {
        return false;
    }
    let prefix = ima::shortest_prefix(new, ima::DEFAULT_PCR, &track.value, &explained.value);
    !prefix.is_ok_and(|prefix| {
        let at = u64::try_from(prefix.entries).ok().and_then(|entries| track.next.checked_add(entries));
        prefix.reached && at == Some(explained.next)
    })
}

impl Replay<'_> {
    fn take_ima_entry(&mut self, entry: &ima::Entry<'_>, at: u64) -> Result<(), String> {
        let path = printable(entry.fields.path);
        if entry.is_violation() {
            self.find(Code::ImaViolation, path);
        } else if entry.template_digest_holds() == Some(false) {
            return Err(format!("entry {} does not hash to its template digest", entry.index));
        } else if entry.fields.path == b"boot_aggregate" {
            if !boot::aggregate::is_of_this_boot(entry, self.pcrs, self.boot_log) {
                return Err("its boot_aggregate is of another boot".into());
            }
            if at > 0 {
                self.find(Code::BootKexec, format!("a second boot_aggregate is entry {at} of IMA's list"));
            }
        } else if is_buffer(&entry.fields) {
            // Words of the kernel, which is judged by the boot: its version, its command line for kexec, its own state.
        } else if let Some(digest) = entry.fields.digest {
            match digest.bytes.try_into() {
                Ok(digest) => self.files.all.push(MeasuredFile { digest, path, kind: IMA.into() }),
                Err(_) => self.find(Code::RuntimeUnmeasured, format!("{path}: digest is not SHA-256")),
            }
        }
        Ok(())
    }
}

/// Whether an entry is of memory that the kernel measured, and of no file. A template's name is not hashed, so that a list's
/// author can call any entry `ima-buf`; the content of a file does not stand in its entry, and this does. A signature does,
/// and whoever owns the system may set one to what the file holds: it begins with its type, and is longer than a digest.
fn is_buffer(fields: &ima::Fields<'_>) -> bool {
    /// EVM_IMA_XATTR_DIGSIG, EVM_XATTR_PORTABLE_DIGSIG, IMA_VERITY_DIGSIG (security/integrity/integrity.h).
    const SIGNATURES: [u8; 3] = [3, 5, 6];
    const LONGEST_DIGEST: usize = 64;
    let (Some(buffer), Some(digest)) = (fields.buffer, fields.digest) else { return false };
    if buffer.len() > LONGEST_DIGEST && buffer.first().is_some_and(|kind| SIGNATURES.contains(kind)) {
        return false;
    }
    let hash = HashAlgorithm::from_name(digest.algorithm).and_then(|algorithm| algorithm.hash(buffer));
    hash.is_some_and(|hash| hash.as_ref() == digest.bytes)
}

/// What files are held against.
pub(crate) struct References<'a> {
    pub(crate) index: &'a ReferenceIndex,
    /// The device's product, where releases of it are known.
    pub(crate) product: Option<ProductRef<'a>>,
    /// Its name, known or not.
    pub(crate) name: Option<&'a str>,
}

/// How files come to be judged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Seen {
    /// All that are held of this boot, once more.
    Held,
    /// Told once more, and judged before.
    Again,
    /// They were not there before.
    Anew,
}

/// Holds files against what is known to be bad and against the releases of a product, and narrows down which release this is.
pub(crate) fn judge_files(
    references: &References<'_>,
    files: &[MeasuredFile],
    seen: Seen,
    exclusions: &Exclusions<'_>,
    boot: &mut BootState,
    finder: &Finder,
) {
    if let Some(sight) = &mut boot.ima_sight {
        let programs = files.iter().filter(|file| file.kind == Kind::Executable.name());
        programs.for_each(|program| sight.runs(&program.digest));
    }
    // Where the kernel lists what it measures, that alone may be excluded: what a second source saw stays in view.
    let by_kernel = boot.pcrs().is_some_and(|pcrs| ima_value(&pcrs) != [0; 32]);
    let anew = seen == Seen::Anew;
    for file in files {
        if let Some(bad) = references.index.known_bad(references.name, &file.digest, finder.now) {
            finder.find(boot, Code::RuntimeKnownBad, known_bad(file, bad), anew);
            continue;
        }
        let Some(product) = references.product else { continue };
        note_policy(product, file, boot, finder.now);
        let listing = listing(references.index, product, &file.digest, finder.now);
        if listing.is_empty() {
            if may_exclude(file, by_kernel) && exclusions.let_through(&file.path) {
                if seen != Seen::Again {
                    boot.let_through(&file.path);
                }
            } else {
                finder.find(boot, unlisted_code(file), detail(file), anew);
            }
            continue;
        }
        narrow(boot, &listing);
        if let Some(sight) = boot.ima_sight.as_mut().filter(|_| file.kind == IMA) {
            sight.lists(&file.digest);
        }
    }
}

/// Whether an exclusion may be about a file: not about code in memory, and not about what another source saw as well.
fn may_exclude(file: &MeasuredFile, by_kernel: bool) -> bool {
    let kinds: &[&str] = if by_kernel { &[IMA] } else { &[Kind::Executable.name(), Kind::MappedFile.name()] };
    kinds.contains(&file.kind.as_str())
}

/// Kind of a file that IMA's list names.
const IMA: &str = "ima";

/// Remembers the IMA policy that the list shows. An entry says that the file was read; that it was loaded as well, only a
/// policy says that measures policies and nothing else that root reads.
fn note_policy(product: ProductRef<'_>, file: &MeasuredFile, boot: &mut BootState, now: UnixSeconds) {
    let by_ima = file.kind == IMA;
    let mut releases = product.releases().filter(|(_, release)| boot::is_valid(release, now));
    if by_ima && releases.any(|(_, release)| release.ima_policies().iter().any(|policy| policy.digest == file.digest)) {
        boot.ima_policy = Some(file.digest);
    }
}

/// Releases that list a file, among those that count at `now`.
fn listing(references: &ReferenceIndex, product: ProductRef<'_>, digest: &[u8; 32], now: UnixSeconds) -> Vec<String> {
    let listing = product.executable(digest).into_iter().flatten().filter_map(|id| references.release(*id));
    listing.filter(|release| boot::is_valid(release, now)).map(|release| release.name().to_owned()).collect()
}

/// Findings that signed reference values make, and take away.
pub(crate) const BY_REFERENCE: [Code; 3] =
    [Code::RuntimeUnknownExecutable, Code::RuntimeFromMemory, Code::RuntimeKnownBad];

/// Whether a finding of an earlier boot is over by the present reference values: a release lists the file by now, or nobody
/// knows any more that it is bad.
pub(crate) fn is_over(references: &References<'_>, finding: &Finding, now: UnixSeconds) -> bool {
    let References { index, product, name } = references;
    let Some(digest) = digest_in(&finding.detail).filter(|_| BY_REFERENCE.contains(&finding.code)) else {
        return false;
    };
    if index.known_bad(*name, &digest, now).is_some() {
        return false;
    }
    let listed = product.is_some_and(|product| !listing(index, product, &digest, now).is_empty());
    listed || finding.code == Code::RuntimeKnownBad
}

/// Where the logs that are held stand: the runtime log, and IMA's list.
pub(crate) fn reached(boot: &BootState, pcrs: &PcrValues, runtime_pcr: u8) -> (Reach, Reach) {
    let target = pcrs.get(usize::from(runtime_pcr)).copied().unwrap_or_default();
    let runtime = reach(&boot.runtime, &target, &boot.runtime_start());
    (runtime, reach(&boot.ima, &ima_value(pcrs), &boot.ima_start()))
}

/// The digest at the very end of a [`detail`]. What stands before it is a name of the device's choice, and says nothing.
pub(crate) fn digest_in(detail: &str) -> Option<[u8; 32]> {
    let (_, digits) = detail.rsplit_once(" sha256:")?;
    // Written as a device's id is: 64 lower-case hex digits.
    digits.parse().ok().map(|DeviceId(digest)| digest)
}

fn unlisted_code(file: &MeasuredFile) -> Code {
    if file.kind == Kind::MemoryOnly.name() { Code::RuntimeFromMemory } else { Code::RuntimeUnknownExecutable }
}

/// `path sha256:hex`, as every output shows it.
pub(crate) fn detail(file: &MeasuredFile) -> String {
    with_digest(&file.path, &file.digest)
}

/// Why a file is known to be bad, its digest at the end.
fn known_bad(file: &MeasuredFile, bad: &KnownBad) -> String {
    with_digest(&format!("{} ({}: {})", file.path, bad.advisory, bad.why), &file.digest)
}

fn with_digest(what: &str, digest: &[u8; 32]) -> String {
    use std::fmt::Write as _;
    let mut out = format!("{what} sha256:");
    for byte in digest {
        let _ = write!(out, "{byte:02x}");
    }
    out
}

/// Keeps the releases that list this file too. A file of another release leaves the set as it is, and narrows down which
/// other release it is a mixture with.
fn narrow(boot: &mut BootState, listing: &[String]) {
    let both =
        |known: &[String]| -> Vec<String> { known.iter().filter(|name| listing.contains(name)).cloned().collect() };
    match &mut boot.releases {
        None => boot.releases = Some(listing.to_vec()),
        Some(known) => match both(known) {
            both if !both.is_empty() => *known = both,
            _ => match &mut boot.others {
                None => boot.others = Some(listing.to_vec()),
                // Nothing is left of it: files of a third release.
                Some(others) => *others = both(others),
            },
        },
    }
}

/// A path as it may be shown: what is not printable ASCII is escaped, so that no name forges a line or a colour.
fn printable(path: &[u8]) -> String {
    path.escape_ascii().to_string()
}

#[cfg(test)]
mod tests {
    use evidence::{
        ima::{DigestType, Fields, FileDigest},
        pcr::sha256,
    };

    use super::*;

    #[test]
    fn only_an_entry_that_holds_what_was_hashed_is_of_memory_rather_than_of_a_file() {
        let version = b"6.1.0-56-cloud-amd64";
        let hash = sha256(version);
        let digest = FileDigest { digest_type: DigestType::Ima, algorithm: "sha256", bytes: &hash };
        let measured = Fields { digest: Some(digest), path: b"kernel_version", ..Fields::default() };
        assert!(is_buffer(&Fields { buffer: Some(version), ..measured }));
        // A file's entry with a signature, called ima-buf by who wrote the list.
        assert!(!is_buffer(&Fields { buffer: Some(b"\x03\x02signature"), ..measured }));
        assert!(!is_buffer(&Fields { buffer: Some(b""), ..measured }));
        // A file whose signature was set to the file itself.
        let file = [&[3][..], &[0x90; 200]].concat();
        let hash = sha256(&file);
        let digest = FileDigest { bytes: &hash, ..digest };
        assert!(!is_buffer(&Fields { digest: Some(digest), buffer: Some(&file), ..measured }));
        assert!(is_buffer(&Fields {
            digest: Some(FileDigest { bytes: &sha256(&file[..32]), ..digest }),
            buffer: Some(&file[..32]),
            ..measured
        }));
        assert!(!is_buffer(&measured));
    }
}
