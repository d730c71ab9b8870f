//! The runtime log on the device: in go sweeps, out come entries that the TPM vouches for.
//!
//! What is new is appended and synced first, extended into the PCR after it, and reported only then. So a crash can leave
//! the file ahead of the PCR, never behind it; what is ahead is extended at the next start. Append, extend and quote
//! happen under one lock, so that log and quote match exactly, whichever of the device's programs makes them.
//!
//! The PCR decides, not the file: where they disagree the file is kept, evidence goes out, and the verifier judges.

mod file;

use std::{
    collections::HashSet,
    fs, io,
    path::{Path, PathBuf},
};

use evidence::{
    limits::MAX_PATH,
    pcr::extend_sha256,
    runtime_log::{Entry, Flags, Kind, entries},
};
use thiserror::Error;
use tracing::{info, warn};

use crate::{
    sweep::{MeasuredFile, Sweep},
    tpm::{Quote, RuntimePcr, Tpm, TpmError},
};
use file::{Boot, LogFile, MAX_RUNTIME_LOG};

/// Kept free at the log's end for the entry that says that it is full.
const ROOM_FOR_OVERFLOW: usize = 1024;

/// Why there is no new evidence.
#[derive(Debug, Error)]
pub enum RuntimeLogError {
    /// The state folder does not do.
    #[error("cannot {what} {path}: {source}. The runtime log needs a writable `state_dir` with room on its disk")]
    File {
        /// What was tried.
        what: &'static str,
        /// On which file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Another program holds the lock.
    #[error("another program has held {0} for too long: is a second attester hanging?")]
    Locked(PathBuf),
    /// The TPM fails; nothing new is reported.
    #[error("nothing new can be reported: {0}")]
    Tpm(#[from] TpmError),
    /// After an error the log has to be locked again, which finds out how far it came.
    #[error("the last measurement did not come to its end: nothing is reported before the log was locked again")]
    Unfinished,
    /// The log is of the time before: it has to be locked again, which begins a new one.
    #[error("the TPM was restarted or cleared meanwhile: nothing is reported before the log was locked again")]
    Restarted,
}

/// How log and PCR disagree. Not an error: the verifier sees the same, and judges.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum LogProblem {
    /// The PCR was not what the boot log replays to when the log began.
    #[error(
        "the PCR did not hold what the boot log says when the runtime log began: another program extended it, or an earlier runtime log of this boot is lost"
    )]
    Start,
    /// The log does not replay to the PCR.
    #[error(
        "the runtime log does not lead to the PCR's value: the file was changed, or another program extended the PCR"
    )]
    Mismatch,
}

/// How log and PCR stand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// There is no log of this boot, and the PCR is free for one.
    NotBegun,
    /// The log leads to the PCR's value.
    Good {
        /// Entries in the log.
        entries: usize,
        /// How many of them the PCR has seen; the rest follows when the log is opened.
        extended: usize,
    },
    /// They disagree.
    Problem(LogProblem),
}

/// The runtime log of this boot.
#[derive(Debug)]
pub struct RuntimeLog {
    file: LogFile,
    pcr: RuntimePcr,
    boot_log_value: [u8; 32],
    loaded: Loaded,
    /// Connections to the TPM when this was loaded.
    connections: u64,
}

/// What the file holds, checked against the PCR.
#[derive(Debug, Default)]
struct Loaded {
    boot: Option<Boot>,
    bytes: Vec<u8>,
    /// Where each entry ends.
    ends: Vec<usize>,
    known: HashSet<Key>,
    /// The PCR by the log.
    value: [u8; 32],
    problem: Option<LogProblem>,
    /// Whether the next lock has to look again: nothing is loaded, or an extend ended in doubt.
    doubtful: bool,
}

impl RuntimeLog {
    /// Opens the log in `state_dir`, finishes what a crash interrupted, begins a new one after a reboot. `start` is what
    /// the boot log says of the PCR ([`crate::boot_log::runtime_start`]).
    ///
    /// # Errors
    /// [`RuntimeLogError`].
    pub fn open(state_dir: &Path, pcr: RuntimePcr, start: [u8; 32], tpm: &mut Tpm) -> Result<Self, RuntimeLogError> {
        let file = LogFile::in_folder(state_dir)?;
        let loaded = Loaded { doubtful: true, ..Loaded::default() };
        let mut log = Self { file, pcr, boot_log_value: start, loaded, connections: tpm.connections() };
        log.lock(tpm)?;
        Ok(log)
    }

    /// How log and PCR stand, without a change to either. Waits where another program measures.
    ///
    /// # Errors
    /// [`RuntimeLogError`].
    pub fn look(
        state_dir: &Path,
        pcr: RuntimePcr,
        start: [u8; 32],
        tpm: &mut Tpm,
    ) -> Result<Standing, RuntimeLogError> {
        let file = LogFile::in_folder(state_dir)?;
        let _guard = file.lock()?;
        let actual = tpm.pcr(pcr)?;
        let now = Boot::now(tpm.counters()?, tpm.ak_public().name_digest(), pcr, &actual);
        let of_now = |boot: &Boot| boot.same_tpm(&now) && boot.same_boot(&now);
        let Some(boot) = file.boot().filter(of_now) else {
            return Ok(if actual == start { Standing::NotBegun } else { Standing::Problem(LogProblem::Start) });
        };
        let loaded = Loaded::read(file.read()?, boot.start(), pcr);
        let entries = loaded.ends.len();
        Ok(match loaded.position_of(boot.start(), pcr, &actual) {
            Some(_) if boot.unexpected_start => Standing::Problem(LogProblem::Start),
            Some(extended) => Standing::Good { entries, extended },
            None => Standing::Problem(LogProblem::Mismatch),
        })
    }

    /// Takes the lock that all programs of this device share, and picks up what others appended.
    ///
    /// # Errors
    /// [`RuntimeLogError`].
    pub fn lock<'a>(&'a mut self, tpm: &'a mut Tpm) -> Result<Locked<'a>, RuntimeLogError> {
        let guard = self.file.lock()?;
        if !self.is_current(tpm)? {
            self.loaded = Loaded { doubtful: true, ..Loaded::default() };
            self.load(tpm)?;
            self.connections = tpm.connections();
        }
        Ok(Locked { log: self, tpm, _guard: guard })
    }

    /// Whether neither file nor TPM can have changed since they were compared.
    fn is_current(&self, tpm: &Tpm) -> Result<bool, RuntimeLogError> {
        Ok(!self.loaded.doubtful
            && self.connections == tpm.connections()
            && self.file.length()? == self.loaded.bytes.len()
            && self.file.boot() == self.loaded.boot)
    }

    /// Brings file, PCR and memory together.
    fn load(&mut self, tpm: &mut Tpm) -> Result<(), RuntimeLogError> {
        let actual = tpm.pcr(self.pcr)?;
        let now = Boot::now(tpm.counters()?, tpm.ak_public().name_digest(), self.pcr, &actual);
        let Some(boot) = self.file.boot().filter(|boot| boot.same_tpm(&now)) else { return self.begin(now) };
        let mut loaded = Loaded::read(self.file.read()?, boot.start(), self.pcr);
        let all = loaded.ends.len();
        match loaded.position_of(boot.start(), self.pcr, &actual) {
            // Other counters, and yet the PCR holds this log: TPM2_Clear set them to 0, or a kexec kept the TPM running.
            Some(extended) if boot.same_boot(&now) || (extended == all && all > 0) => {
                self.file.cut_to(loaded.bytes.len())?;
                loaded.finish_from(extended, tpm, self.pcr)?;
                loaded.problem = boot.unexpected_start.then_some(LogProblem::Start);
                let boot = boot.continued(now);
                self.file.set_boot(&boot)?;
                loaded.boot = Some(boot);
            }
            None if boot.same_boot(&now) => {
                warn!("{}: {}", self.file.path().display(), LogProblem::Mismatch);
                if self.file.length()? > loaded.bytes.len() {
                    self.file.keep_copy()?;
                    self.file.cut_to(loaded.bytes.len())?;
                }
                loaded.problem = Some(LogProblem::Mismatch);
                loaded.boot = Some(boot);
            }
            _ => return self.begin(now),
        }
        self.loaded = loaded;
        Ok(())
    }

    /// Begins the log of a new boot.
    fn begin(&mut self, mut now: Boot) -> Result<(), RuntimeLogError> {
        now.unexpected_start = now.start() != self.boot_log_value;
        if now.unexpected_start {
            warn!("{}", LogProblem::Start);
        }
        self.file.remove_log()?;
        self.file.set_boot(&now)?;
        info!("runtime log of this boot begins: {}", self.file.path().display());
        let problem = now.unexpected_start.then_some(LogProblem::Start);
        self.loaded = Loaded { value: now.start(), problem, boot: Some(now), ..Loaded::default() };
        Ok(())
    }
}

impl Loaded {
    /// Entries up to the first that does not read: one that a crash left torn, which was never extended.
    fn read(mut bytes: Vec<u8>, start: [u8; 32], pcr: RuntimePcr) -> Self {
        let mut loaded = Self { value: start, ..Self::default() };
        let mut end = 0;
        for entry in entries(&bytes, pcr.index().into(), 0).map_while(Result::ok) {
            // An entry is written in one way only, so that its length can be had by writing it.
            end += entry.encode(pcr.index().into(), loaded.ends.len() as u64).len();
            loaded.value = extend_sha256(&loaded.value, &entry.template_digest(loaded.ends.len() as u64));
            loaded.ends.push(end);
            loaded.known.insert(key(&entry));
        }
        bytes.truncate(end);
        loaded.bytes = bytes;
        loaded
    }

    /// How many entries the PCR has seen, if it holds the log's value after any of them.
    fn position_of(&self, start: [u8; 32], pcr: RuntimePcr, actual: &[u8; 32]) -> Option<usize> {
        let mut value = start;
        let mut found = (value == *actual).then_some(0);
        for (sequence, digest) in self.template_digests(pcr).enumerate() {
            value = extend_sha256(&value, &digest);
            if value == *actual {
                found = Some(sequence + 1);
            }
        }
        found
    }

    fn template_digests(&self, pcr: RuntimePcr) -> impl Iterator<Item = [u8; 32]> {
        let read = entries(&self.bytes, pcr.index().into(), 0).map_while(Result::ok);
        read.enumerate().map(|(sequence, entry)| entry.template_digest(sequence as u64))
    }

    /// What a sweep saw and the log does not hold, in the order in which it was seen.
    fn what_is_new(&self, sweep: &Sweep, pcr: RuntimePcr) -> New {
        let mut new = New::default();
        let mut left_out = 0_u64;
        for entry in entries_of(sweep) {
            let added = self.add(&mut new, &entry, pcr, MAX_RUNTIME_LOG - ROOM_FOR_OVERFLOW);
            left_out += u64::from(!added);
        }
        if left_out > 0 {
            self.add(&mut new, &nothing_measured(Kind::Overflow, left_out, b""), pcr, MAX_RUNTIME_LOG);
        }
        new
    }

    /// Adds an entry unless it is known. `false` where the log would exceed `limit`.
    fn add(&self, new: &mut New, entry: &Entry<'_>, pcr: RuntimePcr, limit: usize) -> bool {
        let key = key(entry);
        if self.known.contains(&key) || new.known.contains(&key) {
            return true;
        }
        let sequence = (self.ends.len() + new.ends.len()) as u64;
        let encoded = entry.encode(pcr.index().into(), sequence);
        let end = self.bytes.len() + new.bytes.len() + encoded.len();
        if end > limit {
            return false;
        }
        new.bytes.extend(encoded);
        new.ends.push(end);
        new.digests.push(entry.template_digest(sequence));
        new.known.insert(key);
        true
    }

    /// Extends what was appended and synced before a crash, but not extended.
    fn finish_from(&mut self, extended: usize, tpm: &mut Tpm, pcr: RuntimePcr) -> Result<(), TpmError> {
        for digest in self.template_digests(pcr).skip(extended).collect::<Vec<_>>() {
            tpm.extend(pcr, &digest)?;
        }
        Ok(())
    }
}

/// Entries that are not in the log yet.
#[derive(Debug, Default)]
struct New {
    bytes: Vec<u8>,
    ends: Vec<usize>,
    digests: Vec<[u8; 32]>,
    known: HashSet<Key>,
}

/// What tells entries apart: digest and path, the path as the log holds it.
type Key = ([u8; 32], Vec<u8>);

fn key(entry: &Entry<'_>) -> Key {
    (entry.digest, entry.path.get(..MAX_PATH).unwrap_or(entry.path).to_vec())
}

/// The log and the TPM, to nobody else's use until this value is dropped.
#[derive(Debug)]
pub struct Locked<'a> {
    log: &'a mut RuntimeLog,
    tpm: &'a mut Tpm,
    _guard: fs::File,
}

impl Locked<'_> {
    /// Measures what is new in a sweep: appended, synced, extended. Says how many entries that made.
    ///
    /// # Errors
    /// [`RuntimeLogError`]: nothing new is reported then, and the next lock finds out how far it came.
    pub fn measure(&mut self, sweep: &Sweep) -> Result<usize, RuntimeLogError> {
        let pcr = self.log.pcr;
        let loaded = &mut self.log.loaded;
        if loaded.doubtful {
            return Err(RuntimeLogError::Unfinished);
        }
        let new = loaded.what_is_new(sweep, pcr);
        if new.digests.is_empty() {
            return Ok(0);
        }
        // Doubtful until all is done: after an error the next lock compares file and PCR again.
        loaded.doubtful = true;
        self.log.file.append(loaded.bytes.len(), &new.bytes)?;
        for digest in &new.digests {
            self.tpm.extend(pcr, digest)?;
            loaded.value = extend_sha256(&loaded.value, digest);
        }
        loaded.bytes.extend(new.bytes);
        loaded.ends.extend(new.ends);
        loaded.known.extend(new.known);
        loaded.doubtful = false;
        Ok(new.digests.len())
    }

    /// Quotes the PCRs, which the log as it is now leads to.
    ///
    /// # Errors
    /// Where the TPM fails, or was restarted since the log was locked.
    pub fn quote(&mut self, extra_data: &[u8; 32]) -> Result<Quote, RuntimeLogError> {
        if self.log.loaded.doubtful {
            return Err(RuntimeLogError::Unfinished);
        }
        let quote = self.tpm.quote(extra_data)?;
        let loaded = &mut self.log.loaded;
        if loaded.boot.as_ref().map(|boot| boot.reset) != Some(quote.counters()?.reset) {
            loaded.doubtful = true;
            return Err(RuntimeLogError::Restarted);
        }
        Ok(quote)
    }

    /// The TPM, for what belongs to the same evidence.
    pub fn tpm(&mut self) -> &mut Tpm {
        self.tpm
    }

    /// The TPM's restartCount when the log began. Between that and the present one the device slept, and was not booted.
    #[must_use]
    pub fn first_restart(&self) -> u32 {
        self.log.loaded.boot.as_ref().map_or(u32::MAX, |boot| boot.first_restart)
    }

    /// Number of entries.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.log.loaded.ends.len() as u64
    }

    /// The PCR's value by the log.
    #[must_use]
    pub fn value(&self) -> [u8; 32] {
        self.log.loaded.value
    }

    /// How log and PCR disagree, if they do.
    #[must_use]
    pub fn problem(&self) -> Option<LogProblem> {
        self.log.loaded.problem
    }

    /// Entries from number `index` on; empty past the end.
    #[must_use]
    pub fn bytes_from(&self, index: u64) -> &[u8] {
        self.segment(index, usize::MAX).1
    }

    /// As many whole entries from number `first` on as fit `max_bytes`, and how many those are.
    #[must_use]
    pub fn segment(&self, first: u64, max_bytes: usize) -> (u64, &[u8]) {
        let loaded = &self.log.loaded;
        let first = usize::try_from(first).unwrap_or(usize::MAX).min(loaded.ends.len());
        let end_of = |count: usize| count.checked_sub(1).map_or(0, |last| loaded.ends[last]);
        let start = end_of(first);
        let fits = loaded.ends[first..].partition_point(|&end| end - start <= max_bytes);
        (fits as u64, &loaded.bytes[start..end_of(first + fits)])
    }
}

/// Entries for all that a sweep saw.
fn entries_of(sweep: &Sweep) -> impl Iterator<Item = Entry<'_>> {
    let files = sweep.files.iter().map(of_file);
    let unmeasured = sweep.unreadable.iter().map(|file| nothing_measured(Kind::Unmeasured, 0, &file.path));
    let overflow = (sweep.overflow > 0).then(|| nothing_measured(Kind::Overflow, sweep.overflow, b""));
    files.chain(unmeasured).chain(overflow)
}

fn of_file(file: &MeasuredFile) -> Entry<'_> {
    let flag = |set, flag| if set { flag } else { Flags::default() };
    Entry {
        kind: file.kind,
        digest: file.digest,
        size: file.size,
        device: file.device,
        inode: file.inode,
        flags: Flags::SWEEP.with(flag(file.changed, Flags::CHANGED)).with(flag(file.cached, Flags::CACHED)),
        start_time: file.started,
        path: &file.path,
    }
}

fn nothing_measured(kind: Kind, size: u64, path: &[u8]) -> Entry<'_> {
    Entry { kind, digest: [0; 32], size, device: 0, inode: 0, flags: Flags::SWEEP, start_time: 0, path }
}
