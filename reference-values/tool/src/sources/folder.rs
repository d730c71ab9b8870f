//! A folder as a root file system: in, its path; out, its regular files, each opened from the open root.
//!
//! Symbolic links are never followed, and every step is taken from an open folder to a name in it, so that neither a
//! link nor a folder that is moved meanwhile leads outside.

use std::{
    collections::{HashMap, hash_map},
    ffi::{CString, OsStr},
    fs::File,
    io::{self, Read},
    os::{fd::OwnedFd, unix::ffi::OsStrExt as _},
    path::{Path, PathBuf},
};

use rustix::fs::{AtFlags, CWD, Dir, FileType, Mode, OFlags, ResolveFlags, Stat, fstat, openat, openat2, statat};
use tracing::warn;

use super::{
    Found, Options,
    hash::{self, Entry, Source},
    limits::{MAX_DEPTH, MAX_NAMES},
};
use crate::failure::Failure;

const EXECUTABLE_BITS: u32 = 0o111;

/// Measures everything under `root`.
pub(super) fn measure(root: &Path, options: &Options) -> Result<Found, Failure> {
    let folder = openat(CWD, root, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
        .map_err(|error| Failure::operation("open the folder", root, error))?;
    let source = Folder { root, folder };
    let entries = source.walk()?;
    hash::measure(&source, entries, options)
}

struct Folder<'a> {
    root: &'a Path,
    folder: OwnedFd,
}

/// A folder that is being read.
struct Level {
    folder: OwnedFd,
    path: PathBuf,
    /// Names still to come.
    names: Vec<CString>,
}

impl Source for Folder<'_> {
    type At = ();
    type Opener = ();

    fn opener(&self) -> io::Result<()> {
        Ok(())
    }

    fn open<'o>(&'o self, (): &'o (), entry: &'o Entry<()>) -> io::Result<Box<dyn Read + 'o>> {
        // NONBLOCK: should a pipe have taken the file's place, opening it must not wait for a writer.
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let inside = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
        let path = entry.path.strip_prefix("/").unwrap_or(&entry.path);
        let file = openat2(&self.folder, path, flags, Mode::empty(), inside)?;
        let stat = fstat(&file)?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile || size(&stat) < entry.size {
            return Err(io::Error::other("it was replaced while the folder was read"));
        }
        Ok(Box::new(File::from(file)))
    }

    fn failed(&self, doing: &str, path: &Path, error: io::Error) -> Failure {
        let path = self.root.join(path.strip_prefix("/").unwrap_or(path));
        match error.kind() {
            io::ErrorKind::PermissionDenied => Failure::Usage(format!(
                "cannot {doing} {}: {error}; what cannot be read cannot be measured: run as its owner",
                path.display()
            )),
            _ => Failure::operation(doing, &path, error),
        }
    }

    fn shown(&self, path: &Path) -> String {
        self.root.join(path.strip_prefix("/").unwrap_or(path)).display().to_string()
    }
}

impl Folder<'_> {
    /// Every regular file, each once.
    fn walk(&self) -> Result<Vec<Entry<()>>, Failure> {
        let failed = |error: rustix::io::Errno| self.failed("read", Path::new("/"), error.into());
        let device = fstat(&self.folder).map_err(failed)?.st_dev;
        let root = openat(&self.folder, c".", OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty());
        let mut levels = vec![self.enter(root.map_err(failed)?, PathBuf::from("/"))?];
        let mut files = Files::default();
        loop {
            let depth = levels.len();
            let Some(level) = levels.last_mut() else { break };
            let Some(name) = level.names.pop() else {
                levels.pop();
                continue;
            };
            let path = level.path.join(OsStr::from_bytes(name.to_bytes()));
            let stat = statat(&level.folder, &name, AtFlags::SYMLINK_NOFOLLOW)
                .map_err(|error| self.failed("look at", &path, error.into()))?;
            match FileType::from_raw_mode(stat.st_mode) {
                FileType::Directory if stat.st_dev != device => {
                    warn!("{}: not entered, it is another file system", path.display());
                }
                FileType::Directory if depth >= MAX_DEPTH => {
                    return Err(Failure::Usage(format!("{}: deeper than {MAX_DEPTH} folders", self.shown(&path))));
                }
                FileType::Directory => {
                    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                    let below = openat(&level.folder, &name, flags, Mode::empty())
                        .map_err(|error| self.failed("open the folder", &path, error.into()))?;
                    levels.push(self.enter(below, path)?);
                }
                FileType::RegularFile => files.add(path, &stat),
                // Links, devices, sockets and pipes hold nothing that runs.
                _ => {}
            }
            if files.entries.len() > MAX_NAMES {
                return Err(Failure::Usage(format!("{}: more than {MAX_NAMES} files", self.root.display())));
            }
        }
        Ok(files.entries)
    }

    fn enter(&self, folder: OwnedFd, path: PathBuf) -> Result<Level, Failure> {
        let failed = |error: rustix::io::Errno| self.failed("read the folder", &path, error.into());
        let mut names = Vec::new();
        for entry in Dir::read_from(&folder).map_err(failed)? {
            let name = entry.map_err(failed)?.file_name().to_owned();
            if !matches!(name.to_bytes(), b"." | b"..") {
                names.push(name);
            }
        }
        Ok(Level { folder, path, names })
    }
}

/// Regular files, those with several names once.
#[derive(Default)]
struct Files {
    entries: Vec<Entry<()>>,
    linked: HashMap<(u64, u64), usize>,
}

impl Files {
    fn add(&mut self, path: PathBuf, stat: &Stat) {
        if stat.st_nlink > 1 {
            match self.linked.entry((stat.st_dev, stat.st_ino)) {
                hash_map::Entry::Occupied(known) => {
                    if let Some(entry) = self.entries.get_mut(*known.get()).filter(|entry| path < entry.path) {
                        entry.path = path;
                    }
                    return;
                }
                hash_map::Entry::Vacant(new) => {
                    new.insert(self.entries.len());
                }
            }
        }
        self.entries.push(Entry { path, size: size(stat), executable: stat.st_mode & EXECUTABLE_BITS != 0, at: () });
    }
}

fn size(stat: &Stat) -> u64 {
    u64::try_from(stat.st_size).unwrap_or(0)
}
