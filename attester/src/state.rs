//! What the program keeps between runs: in go names and bytes, out come files in `state_dir` that are either whole or as
//! they were before. Nothing here is trusted for more than saving work: evidence stands on the TPM alone.

use std::{
    fs::{self, DirBuilder, File, OpenOptions},
    io::{self, ErrorKind, Read as _, Write as _},
    os::unix::{
        ffi::OsStrExt as _,
        fs::{DirBuilderExt as _, OpenOptionsExt as _},
    },
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};
use data_encoding::HEXLOWER;
use ring::rand::{SecureRandom as _, SystemRandom};
use serde::{Serialize, de::DeserializeOwned};

/// Largest file that is read back: a certificate chain has a few KiB, a status with many causes some hundred.
const MAX_FILE: u64 = 1 << 20;

/// What stands between a file's name and sixteen hexadecimal digits while it is written.
const TEMPORARY: &str = ".new-";

/// Who may read a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Readers {
    /// Anyone who may enter the folder.
    All,
    /// The owner alone.
    Owner,
}

impl Readers {
    const fn mode(self) -> u32 {
        match self {
            Self::All => 0o644,
            Self::Owner => 0o600,
        }
    }
}

/// The folder.
#[derive(Debug, Clone)]
pub(crate) struct StateDir(PathBuf);

impl StateDir {
    /// Makes the folder unless it is there.
    pub(crate) fn open(path: &Path) -> Result<Self> {
        DirBuilder::new().recursive(true).mode(0o700).create(path).with_context(|| {
            format!("cannot make the state folder {}: make it, or name another with `state_dir`", path.display())
        })?;
        Ok(Self(path.to_owned()))
    }

    /// Removes what a power cut left of writes that it interrupted. For the one service of a device, as it starts; another
    /// program's write that is on its way is repeated when there is something to keep again.
    pub(crate) fn remove_left_behind(&self) -> Result<()> {
        let failed = || format!("cannot tidy up {}", self.0.display());
        for entry in fs::read_dir(&self.0).with_context(failed)? {
            let entry = entry.with_context(failed)?;
            if is_temporary(entry.file_name().as_bytes()) {
                fs::remove_file(entry.path()).with_context(failed)?;
            }
        }
        Ok(())
    }

    /// Path of a file in it.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    /// A file, if there is one.
    pub(crate) fn read(&self, name: &str) -> Result<Option<Vec<u8>>> {
        let path = self.path(name);
        let mut bytes = Vec::new();
        match File::open(&path).and_then(|file| file.take(MAX_FILE).read_to_end(&mut bytes)) {
            Ok(_) => Ok(Some(bytes)),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error).with_context(|| format!("cannot read {}", path.display())),
        }
    }

    /// Writes a file: whole, or not at all.
    pub(crate) fn write(&self, name: &str, bytes: &[u8], readers: Readers) -> Result<()> {
        let path = self.path(name);
        write_atomically(&path, bytes, readers).with_context(|| format!("cannot write {}", path.display()))
    }

    /// What a file says, if there is one and it can be read. One that cannot be read is as if it were not there: it only
    /// saves work.
    pub(crate) fn read_json<T: DeserializeOwned>(&self, name: &str) -> Result<Option<T>> {
        let Some(bytes) = self.read(name)? else { return Ok(None) };
        serde_json::from_slice(&bytes)
            .inspect_err(|error| tracing::warn!("{} is not used: {error}", self.path(name).display()))
            .map_or(Ok(None), |value| Ok(Some(value)))
    }

    /// Writes a file that [`Self::read_json`] reads.
    pub(crate) fn write_json<T: Serialize>(&self, name: &str, value: &T) -> Result<()> {
        let mut bytes = serde_json::to_vec_pretty(value).context("cannot write JSON")?;
        bytes.push(b'\n');
        self.write(name, &bytes, Readers::All)
    }
}

/// Puts a file in the place of another in one step, synced. What is no plain file (a pipe, a terminal) is written to.
pub(crate) fn write_atomically(path: &Path, bytes: &[u8], readers: Readers) -> io::Result<()> {
    if fs::metadata(path).is_ok_and(|there| !there.is_file()) {
        return OpenOptions::new().write(true).open(path)?.write_all(bytes);
    }
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let name = path.file_name().ok_or_else(|| io::Error::new(ErrorKind::InvalidInput, "no file name"))?;
    let mut temporary = name.to_owned();
    temporary.push(format!("{TEMPORARY}{}", HEXLOWER.encode(&random::<8>()?)));
    let temporary = folder.join(temporary);
    let written = write_new(&temporary, bytes, readers).and_then(|()| fs::rename(&temporary, path));
    if written.is_err() {
        // The first error is the one to tell.
        drop(fs::remove_file(&temporary));
    }
    written?;
    File::open(folder)?.sync_all()
}

fn is_temporary(name: &[u8]) -> bool {
    let parts = name.len().checked_sub(TEMPORARY.len() + 16).and_then(|at| name.split_at_checked(at));
    parts
        .and_then(|(_, end)| end.strip_prefix(TEMPORARY.as_bytes()))
        .is_some_and(|random| HEXLOWER.decode(random).is_ok())
}

fn write_new(path: &Path, bytes: &[u8], readers: Readers) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).mode(readers.mode()).open(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}

/// Random bytes from the system.
pub(crate) fn random<const N: usize>() -> io::Result<[u8; N]> {
    let mut bytes = [0; N];
    SystemRandom::new().fill(&mut bytes).map_err(|_| io::Error::other("the system gives no random bytes"))?;
    Ok(bytes)
}

/// A duration between `least` and one of `range`, drawn evenly: devices must not act all at once.
pub(crate) fn jitter(duration: std::time::Duration, least: f64) -> std::time::Duration {
    // Without random bytes all devices draw the middle.
    let draw = random::<4>().map_or(0.5, |bytes| f64::from(u32::from_be_bytes(bytes)) / f64::from(u32::MAX));
    duration.mul_f64(least + (1.0 - least) * draw)
}

#[cfg(test)]
mod tests {
    use std::{os::unix::fs::PermissionsExt as _, time::Duration};

    use super::*;

    #[test]
    fn a_file_is_replaced_whole_and_a_secret_is_the_owners_alone() {
        let dir = tempfile::tempdir().unwrap();
        let state = StateDir::open(&dir.path().join("a/b")).unwrap();
        assert_eq!(state.read("x").unwrap(), None);
        state.write("x", b"one", Readers::Owner).unwrap();
        state.write("x", b"two", Readers::Owner).unwrap();
        assert_eq!(state.read("x").unwrap().as_deref(), Some(b"two".as_slice()));
        assert_eq!(fs::metadata(state.path("x")).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(fs::read_dir(dir.path().join("a/b")).unwrap().count(), 1, "nothing is left behind");
    }

    #[test]
    fn what_a_power_cut_left_of_a_write_is_removed_and_nothing_else_is() {
        let dir = tempfile::tempdir().unwrap();
        let state = StateDir::open(dir.path()).unwrap();
        let kept = ["status.json", "runtime.log", "connection-b.new-1.pem", ".new-", "x.new-0123456789abcdeg"];
        for name in kept.into_iter().chain(["status.json.new-0123456789abcdef"]) {
            state.write(name, b"x", Readers::All).unwrap();
        }
        state.remove_left_behind().unwrap();
        let left = |name: &&str| state.path(name).exists();
        assert!(kept.iter().all(left));
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), kept.len());
    }

    #[test]
    fn a_state_file_that_does_not_read_counts_as_none() {
        let dir = tempfile::tempdir().unwrap();
        let state = StateDir::open(dir.path()).unwrap();
        state.write("x", b"{\"cut", Readers::All).unwrap();
        assert_eq!(state.read_json::<String>("x").unwrap(), None);
    }

    #[test]
    fn jitter_stays_in_its_range() {
        for _ in 0..64 {
            let drawn = jitter(Duration::from_secs(10), 0.8);
            assert!((Duration::from_secs(8)..=Duration::from_secs(10)).contains(&drawn));
        }
    }
}
