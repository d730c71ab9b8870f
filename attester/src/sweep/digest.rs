//! SHA-256 of files: in goes an open file, out comes its digest. What may be kept from one sweep to the next is decided
//! here (docs/decisions/0003-what-the-sweep-may-cache.md): only digests of files on file systems that nobody can write.

use std::{collections::HashMap, io, os::fd::OwnedFd};

use ring::digest::{Context, SHA256};
use rustix::{
    fs::{AtFlags, FsWord, OFlags, Statx, StatxFlags, fstatfs, makedev, statx},
    io::{Errno, read},
};
use thiserror::Error;

/// How files are opened: nothing that only looks like a regular file can hold us up or become our terminal.
pub(super) const OPEN: OFlags = OFlags::RDONLY.union(OFlags::CLOEXEC).union(OFlags::NOCTTY).union(OFlags::NONBLOCK);
/// STATX_MNT_ID_UNIQUE (Linux 6.8): a mount id that is never used again. rustix has no name for it.
pub(super) const MNT_ID_UNIQUE: StatxFlags = StatxFlags::from_bits_retain(0x4000);

/// squashfs and EROFS: file systems without a way to write (linux/magic.h).
const READ_ONLY_FILE_SYSTEMS: [FsWord; 2] = [0x7371_7368, 0xE0F5_E1E2];
/// Largest file that is hashed: a sparse file costs nothing to make and hours to hash.
const MAX_FILE: u64 = 1 << 30;
/// Bytes hashed in one sweep: what many such files may cost together.
const MAX_SWEEP: u64 = 16 << 30;
/// Read at once: small enough for a router, large enough that system calls don't count.
const BUFFER: usize = 64 * 1024;
/// How often a file is hashed that is being written to.
const TRIES: usize = 3;

/// A file at one time, as statx shows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct FileState {
    pub(super) device: u64,
    pub(super) inode: u64,
    pub(super) size: u64,
    pub(super) links: u32,
    changed: (i64, u32),
    modified: (i64, u32),
}

impl From<&Statx> for FileState {
    fn from(stat: &Statx) -> Self {
        Self {
            device: makedev(stat.stx_dev_major, stat.stx_dev_minor),
            inode: stat.stx_ino,
            size: stat.stx_size,
            links: stat.stx_nlink,
            changed: (stat.stx_ctime.tv_sec, stat.stx_ctime.tv_nsec),
            modified: (stat.stx_mtime.tv_sec, stat.stx_mtime.tv_nsec),
        }
    }
}

/// Unique id of the mount that a file was reached through, where the kernel gives one.
pub(super) fn mount_id(stat: &Statx) -> Option<u64> {
    (stat.stx_mask & MNT_ID_UNIQUE.bits() != 0).then_some(stat.stx_mnt_id)
}

/// Why a file has no digest.
#[derive(Debug, Error)]
pub(super) enum Unhashed {
    #[error("{0}")]
    Io(io::Error),
    #[error("is larger than {MAX_FILE} bytes")]
    TooLarge,
    #[error("more than {MAX_SWEEP} bytes run: no time is left for it")]
    TooMuch,
}

impl From<Errno> for Unhashed {
    fn from(errno: Errno) -> Self {
        Self::Io(errno.into())
    }
}

/// A file's digest.
#[derive(Debug)]
pub(super) struct Hashed {
    pub(super) digest: [u8; 32],
    pub(super) state: FileState,
    /// It was written to each time.
    pub(super) changed: bool,
}

/// Hashes files, and keeps what may be kept.
#[derive(Debug, Default)]
pub(super) struct Digests {
    /// Unique mount id and inode of files that cannot change; whether this sweep met them.
    kept: HashMap<(u64, u64), ([u8; 32], bool)>,
    hashed_bytes: u64,
    buffer: Vec<u8>,
}

impl Digests {
    pub(super) fn begin_sweep(&mut self) {
        self.hashed_bytes = 0;
        self.buffer.resize(BUFFER, 0);
        for (_, met) in self.kept.values_mut() {
            *met = false;
        }
    }

    /// Forgets what runs no longer, so that nothing grows; says how many bytes were hashed.
    pub(super) fn end_sweep(&mut self) -> u64 {
        self.kept.retain(|_, (_, met)| *met);
        self.buffer = Vec::new();
        self.hashed_bytes
    }

    /// Digest from an earlier sweep.
    pub(super) fn cached(&mut self, mount: Option<u64>, inode: u64) -> Option<[u8; 32]> {
        let (digest, met) = self.kept.get_mut(&(mount?, inode))?;
        *met = true;
        Some(*digest)
    }

    /// Hashes a file, and again if it was written to meanwhile.
    pub(super) fn hash(&mut self, file: OwnedFd) -> Result<Hashed, Unhashed> {
        let mut before = look(&file)?.0;
        if before.size > MAX_FILE {
            return Err(Unhashed::TooLarge);
        }
        let mut tries = 0;
        loop {
            let digest = self.hash_once(&file)?;
            let (after, mount) = look(&file)?;
            tries += 1;
            let changed = after != before;
            if !changed || tries == TRIES {
                if !changed
                    && let Some(mount) = mount
                    && is_read_only(&file)
                {
                    self.kept.insert((mount, after.inode), (digest, true));
                }
                return Ok(Hashed { digest, state: after, changed });
            }
            before = after;
        }
    }

    fn hash_once(&mut self, file: &OwnedFd) -> Result<[u8; 32], Unhashed> {
        rustix::fs::seek(file, rustix::fs::SeekFrom::Start(0))?;
        let mut context = Context::new(&SHA256);
        let mut size = 0_u64;
        loop {
            let n = match read(file, self.buffer.as_mut_slice()) {
                Err(Errno::INTR) => continue,
                read => read?,
            };
            let (part, _) = self.buffer.split_at(n);
            if part.is_empty() {
                break;
            }
            context.update(part);
            size += n as u64;
            self.hashed_bytes += n as u64;
            if size > MAX_FILE {
                return Err(Unhashed::TooLarge);
            }
            if self.hashed_bytes > MAX_SWEEP {
                return Err(Unhashed::TooMuch);
            }
        }
        let mut digest = [0; 32];
        digest.copy_from_slice(context.finish().as_ref());
        Ok(digest)
    }
}

/// An open file's state, and the mount that it was reached through.
pub(super) fn look(file: &OwnedFd) -> Result<(FileState, Option<u64>), Errno> {
    let stat = statx(file, "", AtFlags::EMPTY_PATH, StatxFlags::BASIC_STATS | MNT_ID_UNIQUE)?;
    Ok((FileState::from(&stat), mount_id(&stat)))
}

fn is_read_only(file: &OwnedFd) -> bool {
    fstatfs(file).is_ok_and(|stat| READ_ONLY_FILE_SYSTEMS.contains(&stat.f_type))
}

#[cfg(test)]
mod tests {
    use std::{
        fs::{File, OpenOptions},
        io::Write as _,
    };

    use super::*;

    fn digests() -> Digests {
        let mut digests = Digests::default();
        digests.begin_sweep();
        digests
    }

    #[test]
    fn a_file_is_hashed_whole_and_a_writable_one_is_not_kept() {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        let content = vec![7; 3 * BUFFER + 1];
        file.write_all(&content).unwrap();
        let mut digests = digests();
        let hashed = digests.hash(File::open(file.path()).unwrap().into()).unwrap();
        assert_eq!(hashed.digest, evidence::pcr::sha256(&content));
        assert!(!hashed.changed);
        assert_eq!(digests.kept.len(), 0);
        assert_eq!(digests.end_sweep(), content.len() as u64);
    }

    #[test]
    fn a_huge_sparse_file_is_refused_and_not_read_to_its_end() {
        let file = tempfile::NamedTempFile::new().unwrap();
        OpenOptions::new().write(true).open(file.path()).unwrap().set_len(1 << 40).unwrap();
        let refused = digests().hash(File::open(file.path()).unwrap().into());
        assert!(matches!(refused, Err(Unhashed::TooLarge)));
    }
}
