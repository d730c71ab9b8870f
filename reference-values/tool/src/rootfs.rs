//! Measures a root file system: in, a folder; out, the digest of every file in it that could run.
//!
//! Symbolic links are never followed, and every step is taken from an open folder to a name in it, so that neither a
//! link nor a folder that is moved meanwhile leads outside. What counts is content: ELF (programs, libraries, kernel
//! modules), an interpreter line, a compressed kernel module; besides, whatever has an executable bit, and what tells the dynamic
//! linker which libraries to load.

use std::{
    collections::HashSet,
    ffi::{CString, OsStr},
    fs::File,
    io::{self, Read},
    os::{fd::OwnedFd, unix::ffi::OsStrExt as _},
    path::{Path, PathBuf},
};

use reference_values::Executable;
use ring::digest::{Context, SHA256};
use rustix::fs::{AtFlags, CWD, Dir, FileType, Mode, OFlags, fstat, openat, statat};
use tracing::{debug, warn};

use crate::failure::Failure;

/// Folders within folders; each level holds one open file.
const MAX_DEPTH: usize = 256;
/// Largest file that is hashed: executables are smaller, sparse files made to keep a build busy are not.
const MAX_MEASURED: u64 = 4 * 1024 * 1024 * 1024;
/// Bytes hashed at a time.
const BLOCK: usize = 128 * 1024;
/// Bytes that tell what a file is; most files are not read further.
const BEGINNING: usize = 4096;
const EXECUTABLE_BITS: u32 = 0o111;

/// A folder that is being read.
struct Level {
    folder: OwnedFd,
    path: PathBuf,
    /// Names still to come, in descending order.
    names: Vec<CString>,
}

/// Measures everything under `root`, in an order that does not depend on the disk.
pub(crate) fn measure(root: &Path) -> Result<Vec<Executable>, Failure> {
    let folder = openat(CWD, root, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
        .map_err(|error| Failure::operation("open the folder", root, error))?;
    let device = fstat(&folder).map_err(|error| Failure::operation("read", root, error))?.st_dev;
    let mut walk = Walk { root, device, seen: HashSet::new(), block: vec![0; BLOCK], found: Vec::new() };
    let mut levels = vec![walk.enter(folder, PathBuf::from("/"))?];
    while let Some(level) = levels.last_mut() {
        let Some(name) = level.names.pop() else {
            levels.pop();
            continue;
        };
        let path = level.path.join(OsStr::from_bytes(name.to_bytes()));
        if let Some(below) = walk.visit(&level.folder, &name, path)? {
            if levels.len() >= MAX_DEPTH {
                return Err(Failure::operation("enter", &below.path, format_args!("deeper than {MAX_DEPTH} folders")));
            }
            levels.push(below);
        }
    }
    Ok(walk.found)
}

struct Walk<'a> {
    root: &'a Path,
    device: u64,
    /// Files with several names that are measured already.
    seen: HashSet<(u64, u64)>,
    block: Vec<u8>,
    found: Vec<Executable>,
}

impl Walk<'_> {
    fn failed(&self, doing: &str, path: &Path, error: impl std::fmt::Display) -> Failure {
        let path = path.strip_prefix("/").unwrap_or(path);
        Failure::operation(doing, &self.root.join(path), error)
    }

    fn enter(&self, folder: OwnedFd, path: PathBuf) -> Result<Level, Failure> {
        let failed = |error| self.failed("read the folder", &path, error);
        let mut names = Vec::new();
        for entry in Dir::read_from(&folder).map_err(failed)? {
            let name = entry.map_err(failed)?.file_name().to_owned();
            if !matches!(name.to_bytes(), b"." | b"..") {
                names.push(name);
            }
        }
        names.sort_unstable_by(|a, b| b.cmp(a));
        Ok(Level { folder, path, names })
    }

    /// Measures a file, or opens a folder for the caller to go on with.
    fn visit(&mut self, folder: &OwnedFd, name: &CString, path: PathBuf) -> Result<Option<Level>, Failure> {
        let stat =
            statat(folder, name, AtFlags::SYMLINK_NOFOLLOW).map_err(|error| self.failed("look at", &path, error))?;
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::Directory if stat.st_dev != self.device => {
                warn!("{}: not entered, it is another file system", path.display());
                Ok(None)
            }
            FileType::Directory => {
                let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                let below = openat(folder, name, flags, Mode::empty())
                    .map_err(|error| self.failed("open the folder", &path, error))?;
                self.enter(below, path).map(Some)
            }
            FileType::RegularFile => self.file(folder, name, &path).map(|()| None),
            // Links, devices, sockets and pipes hold nothing that runs.
            _ => Ok(None),
        }
    }

    fn file(&mut self, folder: &OwnedFd, name: &CString, path: &Path) -> Result<(), Failure> {
        // NONBLOCK: should a pipe have taken the file's place, opening it must not wait for a writer.
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file = openat(folder, name, flags, Mode::empty()).map_err(|error| self.failed("open", path, error))?;
        let stat = fstat(&file).map_err(|error| self.failed("look at", path, error))?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
            return Err(self.failed("measure", path, "it was replaced while the folder was read"));
        }
        if stat.st_nlink > 1 && !self.seen.insert((stat.st_dev, stat.st_ino)) {
            return Ok(());
        }
        let mut file = File::from(file);
        // The block is lent out so that errors can still be told through `self`.
        let mut block = std::mem::take(&mut self.block);
        let failed = |error: io::Error| self.failed("read", path, error);
        let filled = fill(&mut file, &mut block[..BEGINNING]).map_err(failed)?;
        if stat.st_mode & EXECUTABLE_BITS != 0 || runs(path, &block[..filled]) {
            if u64::try_from(stat.st_size).unwrap_or(0) > MAX_MEASURED {
                return Err(self.failed("measure", path, format_args!("larger than {MAX_MEASURED} bytes")));
            }
            let digest = hash(file, &mut block, filled).map_err(failed)?;
            debug!("{}", path.display());
            self.found.push(Executable { digest, path: readable(path) });
        }
        self.block = block;
        Ok(())
    }
}

/// Reads until `block` is full or the file ends.
fn fill(file: &mut File, block: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while filled < block.len() {
        match file.read(&mut block[filled..]) {
            Ok(0) => break,
            Ok(n) => filled += n,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}

/// SHA-256 of the first `filled` bytes of `block` and the rest of the file.
fn hash(mut file: File, block: &mut [u8], mut filled: usize) -> io::Result<[u8; 32]> {
    let mut context = Context::new(&SHA256);
    let mut total = 0_u64;
    while filled > 0 {
        context.update(&block[..filled]);
        total = total.saturating_add(filled as u64);
        if total > MAX_MEASURED {
            return Err(io::Error::other("it grows while it is read"));
        }
        filled = fill(&mut file, block)?;
    }
    let mut digest = [0; 32];
    digest.copy_from_slice(context.finish().as_ref());
    Ok(digest)
}

/// Whether content like this can run without an executable bit: mapped as a library, named to an interpreter, loaded
/// as a module.
fn runs(path: &Path, beginning: &[u8]) -> bool {
    const COMPRESSED: [(&str, &[u8]); 3] = [("gz", b"\x1f\x8b"), ("xz", b"\xfd7zXZ\0"), ("zst", b"\x28\xb5\x2f\xfd")];
    let compressed_module = || {
        let stem = path.file_stem().map(Path::new).and_then(Path::extension);
        stem.is_some_and(|extension| extension == "ko")
            && COMPRESSED.iter().any(|(extension, magic)| {
                path.extension().is_some_and(|own| own == *extension) && beginning.starts_with(magic)
            })
    };
    let loads = || LOADS.iter().any(|name| path.ends_with(name));
    beginning.starts_with(b"\x7fELF") || beginning.starts_with(b"#!") || compressed_module() || loads()
}

/// Files by which the dynamic linker chooses libraries (ld.so(8)). Kernels that measure what root reads list them.
const LOADS: [&str; 2] = ["etc/ld.so.cache", "etc/ld.so.preload"];

/// The path as text without control characters; bytes that are no text stand as `\xNN`.
pub(crate) fn readable(path: &Path) -> String {
    let mut out = String::new();
    for chunk in path.as_os_str().as_bytes().utf8_chunks() {
        for character in chunk.valid().chars() {
            if character.is_control() {
                out.extend(character.escape_default());
            } else {
                out.push(character);
            }
        }
        for byte in chunk.invalid() {
            out.push_str(&format!("\\x{byte:02x}"));
        }
    }
    out
}
