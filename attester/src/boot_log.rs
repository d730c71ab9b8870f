//! Logs that the kernel keeps: in goes a path, out comes the measured-boot log or IMA's list as it is, or why there is
//! none. Nothing in them is believed here: the verifier replays them to the TPM's PCRs.

mod summary;

use std::{
    fs::File,
    io::{self, Read as _},
    path::Path,
};

use evidence::{eventlog::EventLog, limits::MAX_LOG, pcr::HashAlgorithm};
use tracing::warn;

use crate::tpm::RuntimePcr;
pub use summary::{Program, Summary};

/// TCG event log of the boot (securityfs).
pub const DEFAULT_BOOT_LOG: &str = "/sys/kernel/security/tpm0/binary_bios_measurements";
/// IMA's list, in its binary form: the text form lies about names.
pub const DEFAULT_IMA_LOG: &str = "/sys/kernel/security/ima/binary_runtime_measurements";

/// What a kernel draws when it starts (random(4)).
const KERNEL_ID: &str = "/proc/sys/kernel/random/boot_id";
/// Bytes of that: a UUID in text.
const KERNEL_ID_BYTES: usize = 36;

/// A log, or why there is none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// The log's bytes.
    Log(Vec<u8>),
    /// There is none, for this reason.
    Absent(String),
}

impl Source {
    /// The log's bytes, if there are any.
    #[must_use]
    pub fn bytes(&self) -> Option<&[u8]> {
        match self {
            Self::Log(bytes) => Some(bytes),
            Self::Absent(_) => None,
        }
    }
}

/// Reads a boot log or an IMA list. Never fails: without a log the evidence goes out without it.
#[must_use]
pub fn read(path: &Path) -> Source {
    let absent = |why: String| Source::Absent(format!("{}: {why}", path.display()));
    match read_bounded(path) {
        Ok(bytes) if bytes.is_empty() => absent("is empty".to_owned()),
        Ok(bytes) if bytes.len() > MAX_LOG => absent(format!("is larger than {MAX_LOG} bytes")),
        Ok(bytes) => Source::Log(bytes),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            absent("does not exist (no measured boot, or securityfs is not mounted)".to_owned())
        }
        Err(error) => absent(error.to_string()),
    }
}

/// The file, or one byte more than is allowed. Its size is not asked for: securityfs says 0.
fn read_bounded(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(path)?.take(MAX_LOG as u64 + 1).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// The kernel that runs, by its boot_id: another one has another IMA list, though the TPM may have seen no other boot.
#[must_use]
pub fn kernel_id() -> Option<String> {
    let text = std::fs::read_to_string(KERNEL_ID).ok()?;
    Some(text.trim().to_owned()).filter(|id| id.len() == KERNEL_ID_BYTES)
}

/// What the runtime log's PCR holds when the boot is over: its value by the replayed boot log, zero without one. A log
/// that does not replay counts as none; the verifier finds the same.
#[must_use]
pub fn runtime_start(boot_log: Option<&[u8]>, pcr: RuntimePcr) -> [u8; 32] {
    let Some(bytes) = boot_log else { return [0; 32] };
    match EventLog::read(bytes).and_then(|log| log.replay(Some(HashAlgorithm::Sha256))) {
        Ok(replay) => replay.sha256(u32::from(pcr.index())).unwrap_or_default(),
        Err(error) => {
            warn!("the boot log does not replay: {error}");
            [0; 32]
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn an_absent_log_says_where_it_was_expected() {
        let Source::Absent(why) = read(Path::new("/nonexistent/log")) else { panic!("no such file") };
        assert!(why.contains("/nonexistent/log"));
    }

    #[test]
    fn an_empty_log_is_none_and_a_full_one_is_read_as_it_is() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        fs::write(&path, b"").unwrap();
        assert_eq!(read(&path).bytes(), None);
        fs::write(&path, b"bytes").unwrap();
        assert_eq!(read(&path).bytes(), Some(b"bytes".as_slice()));
    }

    #[test]
    fn a_log_over_the_bound_is_refused_without_reading_it_whole() {
        let Source::Absent(why) = read(Path::new("/dev/zero")) else { panic!("endless") };
        assert!(why.contains("larger"));
    }

    #[test]
    fn the_kernel_that_runs_stays_the_same() {
        assert!(kernel_id().is_some());
        assert_eq!(kernel_id(), kernel_id());
    }

    #[test]
    fn the_runtime_log_starts_from_zero_without_a_boot_log() {
        assert_eq!(runtime_start(None, RuntimePcr::DEFAULT), [0; 32]);
        assert_eq!(runtime_start(Some(b"no log"), RuntimePcr::DEFAULT), [0; 32]);
    }
}
