//! Files of the runtime log: `runtime.log` (entries, nothing else: what evidence attaches), `runtime.boot` (which boot and
//! which TPM it belongs to) and `lock`. Whoever appends or reads holds the lock.

use std::{
    fs::{self, DirBuilder, File, OpenOptions, TryLockError},
    io::{self, ErrorKind, Read as _, Seek as _, SeekFrom, Write as _},
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use data_encoding::HEXLOWER;
use evidence::tpm::Counters;
use serde::{Deserialize, Serialize};

use super::RuntimeLogError;
use crate::tpm::RuntimePcr;

/// Largest runtime log, bytes: some fifty thousand different programs since boot. What does not fit is an entry that says
/// so.
pub(super) const MAX_RUNTIME_LOG: usize = 16 * 1024 * 1024;
/// Longest that another program of the device may measure: a first sweep on a slow TPM extends for a minute.
const LOCKED_AT_MOST: Duration = Duration::from_secs(120);
/// Pause between two tries to lock.
const LOCK_PAUSE: Duration = Duration::from_millis(20);
/// Largest `runtime.boot`: a few hundred bytes.
const MAX_BOOT: u64 = 4096;

/// The boot and the TPM that a log belongs to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Boot {
    /// The kernel's boot id.
    pub(super) id: String,
    /// The TPM's resetCount.
    pub(super) reset: u32,
    /// Its restartCount.
    pub(super) restart: u32,
    /// Its restartCount when the log began: each resume from sleep raises it, and the log goes on.
    #[serde(default)]
    pub(super) first_restart: u32,
    /// Name digest of the attestation key.
    ak: String,
    /// Index of the PCR.
    pub(super) pcr: u8,
    /// The PCR's value before the first entry.
    start: String,
    /// Whether that is another value than the boot log's.
    pub(super) unexpected_start: bool,
}

impl Boot {
    /// The present boot; `pcr_value` is where a log that begins now begins.
    pub(super) fn now(counters: Counters, ak: &[u8; 32], pcr: RuntimePcr, pcr_value: &[u8; 32]) -> Self {
        let id = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
        Self {
            id: id.trim().to_owned(),
            reset: counters.reset,
            restart: counters.restart,
            first_restart: counters.restart,
            ak: HEXLOWER.encode(ak),
            pcr: pcr.index(),
            start: HEXLOWER.encode(pcr_value),
            unexpected_start: false,
        }
    }

    /// The PCR's value before the first entry.
    pub(super) fn start(&self) -> [u8; 32] {
        decode(&self.start).unwrap_or_default()
    }

    /// The same log, under the counters that hold now.
    pub(super) fn continued(self, now: Self) -> Self {
        let first_restart = if self.reset == now.reset { self.first_restart } else { now.first_restart };
        Self { start: self.start, unexpected_start: self.unexpected_start, first_restart, ..now }
    }

    /// Whether both are of one TPM and one PCR.
    pub(super) fn same_tpm(&self, other: &Self) -> bool {
        (&self.ak, self.pcr) == (&other.ak, other.pcr)
    }

    /// Whether no reboot lies between. A resume from sleep changes `restart` and keeps the PCRs.
    pub(super) fn same_boot(&self, other: &Self) -> bool {
        (&self.id, self.reset) == (&other.id, other.reset)
    }
}

fn decode(hex: &str) -> Option<[u8; 32]> {
    HEXLOWER.decode(hex.as_bytes()).ok()?.try_into().ok()
}

/// The files.
#[derive(Debug)]
pub(super) struct LogFile {
    folder: PathBuf,
    log: PathBuf,
    boot: PathBuf,
    lock: PathBuf,
}

impl LogFile {
    /// Makes the folder if it is missing, for its owner only: names of what runs here are nobody else's business.
    pub(super) fn in_folder(folder: &Path) -> Result<Self, RuntimeLogError> {
        let made = DirBuilder::new().recursive(true).mode(0o700).create(folder);
        made.map_err(failed("make the folder", folder))?;
        let file = |name| folder.join(name);
        let (log, boot, lock) = (file("runtime.log"), file("runtime.boot"), file("lock"));
        Ok(Self { folder: folder.to_owned(), log, boot, lock })
    }

    pub(super) fn path(&self) -> &Path {
        &self.log
    }

    /// Waits until no other program measures.
    pub(super) fn lock(&self) -> Result<File, RuntimeLogError> {
        let failed = failed("lock", &self.lock);
        let file = owners_only().create(true).append(true).open(&self.lock).map_err(&failed)?;
        let deadline = Instant::now() + LOCKED_AT_MOST;
        loop {
            match file.try_lock() {
                Ok(()) => return Ok(file),
                Err(TryLockError::WouldBlock) if Instant::now() < deadline => thread::sleep(LOCK_PAUSE),
                Err(TryLockError::WouldBlock) => return Err(RuntimeLogError::Locked(self.lock.clone())),
                Err(TryLockError::Error(error)) => return Err(failed(error)),
            }
        }
    }

    /// Length of the log; 0 where there is none.
    pub(super) fn length(&self) -> Result<usize, RuntimeLogError> {
        match fs::metadata(&self.log) {
            Ok(metadata) => Ok(usize::try_from(metadata.len()).unwrap_or(usize::MAX)),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(0),
            Err(error) => Err(failed("look at", &self.log)(error)),
        }
    }

    /// The log; empty where there is none. What is past the bound was not written by this program.
    pub(super) fn read(&self) -> Result<Vec<u8>, RuntimeLogError> {
        let mut bytes = Vec::new();
        let read = File::open(&self.log).and_then(|file| file.take(MAX_RUNTIME_LOG as u64).read_to_end(&mut bytes));
        match read {
            Err(error) if error.kind() != ErrorKind::NotFound => Err(failed("read", &self.log)(error)),
            _ => Ok(bytes),
        }
    }

    /// Appends at `length`, and returns when the disk has it. Leaves the file as it was where that fails.
    pub(super) fn append(&self, length: usize, bytes: &[u8]) -> Result<(), RuntimeLogError> {
        let failed = failed("append to", &self.log);
        let mut file = owners_only().create(true).write(true).truncate(false).open(&self.log).map_err(&failed)?;
        let written = file
            .seek(SeekFrom::Start(length as u64))
            .and_then(|_| file.write_all(bytes))
            .and_then(|()| file.sync_data())
            .and_then(|()| if length == 0 { sync_folder(&self.folder) } else { Ok(()) });
        written.map_err(|error| {
            // Best effort: a torn entry is cut at the next start too.
            drop(file.set_len(length as u64));
            failed(error)
        })
    }

    /// Cuts what a crash left torn.
    pub(super) fn cut_to(&self, length: usize) -> Result<(), RuntimeLogError> {
        if self.length()? <= length {
            return Ok(());
        }
        let cut = OpenOptions::new().write(true).open(&self.log).and_then(|file| {
            file.set_len(length as u64)?;
            file.sync_data()
        });
        cut.map_err(failed("cut", &self.log))
    }

    /// Puts a log aside that does not lead to the PCR and does not read to its end: someone will want to look at it.
    pub(super) fn keep_copy(&self) -> Result<(), RuntimeLogError> {
        let copy = self.folder.join("runtime.log.mismatch");
        fs::copy(&self.log, &copy).map(drop).map_err(failed("write", &copy))
    }

    /// Removes the log of an earlier boot. The file that names the boot is written after it: a crash in between leaves
    /// no log under the old name.
    pub(super) fn remove_log(&self) -> Result<(), RuntimeLogError> {
        match fs::remove_file(&self.log) {
            Err(error) if error.kind() != ErrorKind::NotFound => Err(failed("remove", &self.log)(error)),
            _ => sync_folder(&self.folder).map_err(failed("sync", &self.folder)),
        }
    }

    /// The boot that the log belongs to; `None` where there is no log yet, or what stands there does not read.
    pub(super) fn boot(&self) -> Option<Boot> {
        let mut text = String::new();
        File::open(&self.boot).ok()?.take(MAX_BOOT).read_to_string(&mut text).ok()?;
        let boot: Boot = serde_json::from_str(&text).ok()?;
        decode(&boot.start).is_some().then_some(boot)
    }

    /// Replaces it, whole or not at all.
    pub(super) fn set_boot(&self, boot: &Boot) -> Result<(), RuntimeLogError> {
        if self.boot().as_ref() == Some(boot) {
            return Ok(());
        }
        let failed = failed("write", &self.boot);
        let new = self.folder.join("runtime.boot.new");
        let text = serde_json::to_string(boot).map_err(|error| failed(error.into()))?;
        let written = owners_only().create(true).write(true).truncate(true).open(&new).and_then(|mut file| {
            file.write_all(text.as_bytes())?;
            file.sync_data()?;
            fs::rename(&new, &self.boot)?;
            sync_folder(&self.folder)
        });
        written.map_err(failed)
    }
}

fn owners_only() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.mode(0o600);
    options
}

fn sync_folder(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}

fn failed(what: &'static str, path: &Path) -> impl Fn(io::Error) -> RuntimeLogError {
    let path = path.to_owned();
    move |source| RuntimeLogError::File { what, path: path.clone(), source }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_boot_is_read_as_it_was_written_and_rubbish_is_none() {
        let dir = tempfile::tempdir().unwrap();
        let file = LogFile::in_folder(&dir.path().join("state")).unwrap();
        assert_eq!(file.boot(), None);
        let boot = Boot::now(Counters { reset: 1, restart: 2, clock: 3 }, &[4; 32], RuntimePcr::DEFAULT, &[5; 32]);
        file.set_boot(&boot).unwrap();
        assert_eq!(file.boot(), Some(boot));
        for rubbish in ["", "{}", "{\"id\":1}"] {
            fs::write(&file.boot, rubbish).unwrap();
            assert_eq!(file.boot(), None);
        }
    }

    #[test]
    fn an_append_that_finds_no_room_names_the_file_and_leaves_it_as_it_was() {
        let dir = tempfile::tempdir().unwrap();
        let mut file = LogFile::in_folder(dir.path()).unwrap();
        file.log = PathBuf::from("/dev/full");
        let said = file.append(0, b"entry").unwrap_err().to_string();
        assert!(said.contains("/dev/full") && said.contains("state_dir"), "{said}");
    }

    #[test]
    fn a_lock_is_exclusive_until_it_is_dropped() {
        let dir = tempfile::tempdir().unwrap();
        let file = LogFile::in_folder(dir.path()).unwrap();
        let held = file.lock().unwrap();
        let other = File::open(dir.path().join("lock")).unwrap();
        assert!(matches!(other.try_lock(), Err(TryLockError::WouldBlock)));
        drop(held);
        assert!(other.try_lock().is_ok());
    }
}
