//! Runtime: replay of the attester's log and of IMA's list to the quote, and every entry held against the release.

use evidence::{
    claims::LogKind,
    envelope::{Attachment, Authentic},
    ima,
    pcr::{PcrValues, extend_sha256},
    runtime_log::{self, Kind},
};
use reference_values::{ProductRef, ReferenceIndex};

use crate::{
    UnixSeconds, boot,
    cause::Code,
    state::{BootState, MeasuredFile, Track},
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

/// What a log is replayed into.
pub(crate) struct Replay<'a> {
    /// The quoted PCR values.
    pub(crate) pcrs: &'a PcrValues,
    /// PCR of the runtime log.
    pub(crate) runtime_pcr: u8,
    /// What is held of this boot.
    pub(crate) boot: &'a mut BootState,
    /// Files reported by this message.
    pub(crate) files: &'a mut Vec<MeasuredFile>,
    /// Now.
    pub(crate) now: UnixSeconds,
}

/// Takes in a segment of the runtime log. The quote was made under the same lock as the log was written, so the match
/// is exact: an entry beyond the quote contradicts as much as one that is missing.
pub(crate) fn take_log(evidence: &Authentic, into: &mut Replay<'_>) -> Reach {
    let target = into.pcrs.get(usize::from(into.runtime_pcr)).copied().unwrap_or_default();
    let start = into.boot.boot_log.as_ref().map_or([0; 32], |log| log.runtime_start);
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
    reach(&into.boot.runtime, &target, &start)
}

impl Replay<'_> {
    fn find(&mut self, code: Code, detail: String) {
        self.boot.find(code, detail, self.now);
    }
}

fn reach(track: &Track, target: &[u8; 32], start: &[u8; 32]) -> Reach {
    match (track.value == *target, track.next) {
        (true, 0) if target == start => Reach::Unused,
        (true, _) => Reach::Quote,
        (false, _) => Reach::Short,
    }
}

/// A segment continues what is held, or begins anew; one with a gap before it is of no use yet.
fn continues(held: &Track, segment: &Attachment, start: [u8; 32]) -> Option<Track> {
    match segment.first {
        0 => Some(Track::from_start(start)),
        first if first == held.next => Some(*held),
        _ => None,
    }
}

fn replay_segment(
    mut track: Track,
    segment: &Attachment,
    target: &[u8; 32],
    into: &mut Replay<'_>,
) -> Result<Track, String> {
    let mut entries = runtime_log::entries(&segment.bytes, u32::from(into.runtime_pcr), track.next);
    let mut passed_quote = false;
    while let Some((entry, digest)) = entries.measured().transpose().map_err(|error| error.to_string())? {
        if passed_quote {
            return Err("it goes on beyond the quoted value".into());
        }
        track.value = extend_sha256(&track.value, &digest);
        track.next = track.next.saturating_add(1);
        passed_quote = track.value == *target;
        into.take_entry(&entry);
    }
    if track.next.checked_sub(segment.first) == Some(segment.count) {
        Ok(track)
    } else {
        Err("it holds another number of entries than was signed for".into())
    }
}

impl Replay<'_> {
    fn take_entry(&mut self, entry: &runtime_log::Entry<'_>) {
        let path = printable(entry.path);
        match entry.kind {
            Kind::Executable | Kind::MappedFile | Kind::DeletedFile | Kind::MemoryOnly => {
                self.files.push(MeasuredFile { digest: entry.digest, path, kind: entry.kind.name().to_owned() });
            }
            Kind::Unmeasured => self.find(Code::RuntimeUnmeasured, path),
            Kind::Overflow => self.find(Code::RuntimeUnmeasured, format!("{} events were lost", entry.size)),
            Kind::AnonymousMemory => self.find(Code::RuntimeFromMemory, format!("{path} (memory without a file)")),
            Kind::TextChanged => self.find(Code::RuntimeTextChanged, path),
        }
    }
}

/// Takes in a segment of IMA's list. The quote was made before the list was read, so the list may be ahead: the
/// shortest prefix that leads to the quote counts, the rest is neither judged nor acknowledged.
pub(crate) fn take_ima(evidence: &Authentic, into: &mut Replay<'_>) -> Reach {
    let target = into.pcrs.get(ima::DEFAULT_PCR as usize).copied().unwrap_or_default();
    if let Some(segment) = evidence.attachment(LogKind::Ima)
        && let Some(track) = continues(&into.boot.ima, segment, [0; 32])
    {
        if target == [0; 32] && segment.count > 0 {
            into.find(Code::ImaNoTpm, "PCR 10 is zero while the list has entries".into());
            return Reach::Unused;
        }
        match replay_ima(track, segment, &target, into) {
            Ok(track) => into.boot.ima = track,
            Err(contradiction) => into.find(Code::LogMismatch, format!("IMA list: {contradiction}")),
        }
    } else if into.boot.ima.value != target {
        into.boot.ima = Track::from_start([0; 32]);
    }
    reach(&into.boot.ima, &target, &[0; 32])
}

fn replay_ima(track: Track, segment: &Attachment, target: &[u8; 32], into: &mut Replay<'_>) -> Result<Track, String> {
    let prefix = ima::shortest_prefix(&segment.bytes, ima::DEFAULT_PCR, &track.value, target)
        .map_err(|error| error.to_string())?;
    for entry in ima::entries(&segment.bytes).take(prefix.entries) {
        into.take_ima_entry(&entry.map_err(|error| error.to_string())?)?;
    }
    let entries = u64::try_from(prefix.entries).unwrap_or(u64::MAX);
    Ok(Track { next: track.next.saturating_add(entries), value: prefix.value })
}

impl Replay<'_> {
    fn take_ima_entry(&mut self, entry: &ima::Entry<'_>) -> Result<(), String> {
        let path = printable(entry.fields.path);
        if entry.is_violation() {
            self.find(Code::ImaViolation, path);
        } else if entry.template_digest_holds() == Some(false) {
            return Err(format!("entry {} does not hash to its template digest", entry.index));
        } else if entry.fields.path == b"boot_aggregate" {
            if !boot::aggregate_is_of_this_boot(entry, self.pcrs) {
                return Err("its boot_aggregate is of another boot".into());
            }
        } else if let Some(digest) = entry.fields.digest {
            match digest.bytes.try_into() {
                Ok(digest) => self.files.push(MeasuredFile { digest, path, kind: "ima".into() }),
                Err(_) => self.find(Code::RuntimeUnmeasured, format!("{path}: digest is not SHA-256")),
            }
        }
        Ok(())
    }
}

/// Holds files against the releases of a product, and narrows down which release this is.
pub(crate) fn judge_files<'a>(
    references: &ReferenceIndex,
    product: ProductRef<'_>,
    files: impl IntoIterator<Item = &'a MeasuredFile>,
    boot: &mut BootState,
    now: UnixSeconds,
) {
    for file in files {
        let listing: Vec<String> = product
            .executable(&file.digest)
            .into_iter()
            .flatten()
            .filter_map(|id| references.release(*id))
            .filter(|release| boot::is_valid(release, now))
            .map(|release| release.name().to_owned())
            .collect();
        if listing.is_empty() {
            boot.find(unlisted_code(file), detail(file), now);
        } else {
            narrow(&mut boot.releases, &listing);
        }
    }
}

fn unlisted_code(file: &MeasuredFile) -> Code {
    if file.kind == Kind::MemoryOnly.name() { Code::RuntimeFromMemory } else { Code::RuntimeUnknownExecutable }
}

/// `path sha256:hex`, as every output shows it.
pub(crate) fn detail(file: &MeasuredFile) -> String {
    use std::fmt::Write as _;
    let mut out = format!("{} sha256:", file.path);
    for byte in file.digest {
        let _ = write!(out, "{byte:02x}");
    }
    out
}

/// Keeps the releases that list this file too; a file of another release leaves the set as it is (a mixture).
fn narrow(releases: &mut Option<Vec<String>>, listing: &[String]) {
    match releases {
        None => *releases = Some(listing.to_vec()),
        Some(known) => {
            let both: Vec<String> = known.iter().filter(|name| listing.contains(name)).cloned().collect();
            if !both.is_empty() {
                *known = both;
            }
        }
    }
}

/// A path as it may be shown: what is not printable ASCII is escaped, so that no name forges a line or a colour.
fn printable(path: &[u8]) -> String {
    path.escape_ascii().to_string()
}
