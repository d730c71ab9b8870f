//! Files of a folder that others write into: in goes a folder, out comes what is in it without trusting that it stays so.
//! A file may be half written, replaced while it is read, a link to anything, or a device.

use std::{
    collections::BTreeMap,
    fs::{self, File, Metadata, OpenOptions},
    io::{self, Read as _, Write as _},
    os::unix::fs::{MetadataExt as _, OpenOptionsExt as _},
    path::Path,
};

use data_encoding::HEXLOWER;
use ring::rand::{SecureRandom as _, SystemRandom};
use thiserror::Error;

use crate::limits::MAX_REFERENCE_FILES;

/// Beginning of the names of files that are being written; none of them ends like a document.
const INCOMING: &str = ".incoming-";
/// Age at which such a file was left behind by a program that ended, seconds.
const LEFT_BEHIND: u64 = 3600;

/// What shows that a file has changed, beside its name.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Stamp {
    inode: u64,
    len: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl From<&Metadata> for Stamp {
    fn from(metadata: &Metadata) -> Self {
        Self {
            inode: metadata.ino(),
            len: metadata.len(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        }
    }
}

/// A folder at one instant: names that end as asked, with their stamps.
pub(super) type Look = BTreeMap<String, Stamp>;

/// Files of `folder` with this extension. What a link leads nowhere for is among them, to be refused by name.
///
/// # Errors
/// Where the folder cannot be read, or holds more than anyone puts there.
pub(super) fn look(folder: &Path, extension: &str) -> io::Result<Look> {
    let mut look = Look::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.extension().is_none_or(|found| found != extension) {
            continue;
        }
        let Some(name) = path.file_name().map(|name| name.to_string_lossy().into_owned()) else { continue };
        match fs::metadata(&path) {
            Ok(metadata) if metadata.is_dir() => continue,
            Ok(metadata) => look.insert(name, Stamp::from(&metadata)),
            // Removed since it was listed, or a link to nothing.
            Err(_) => look.insert(name, Stamp::default()),
        };
        if look.len() > MAX_REFERENCE_FILES {
            return Err(io::Error::other(format!("more than {MAX_REFERENCE_FILES} files")));
        }
    }
    Ok(look)
}

/// Why there is nothing to read.
#[derive(Debug, Error)]
pub(super) enum Unread {
    /// The system.
    #[error("it cannot be read: {0}")]
    Io(#[from] io::Error),
    /// A folder, device, pipe or socket.
    #[error("it is no regular file")]
    NotAFile,
    /// Over the bound.
    #[error("it is larger than {0} bytes")]
    TooLarge(u64),
    /// While it was read.
    #[error("it changed while it was read; it is read again once it rests")]
    Changed,
}

/// A regular file of at most `most` bytes, as it was at one instant.
///
/// # Errors
/// [`Unread`].
pub(super) fn read(path: &Path, most: u64) -> Result<Vec<u8>, Unread> {
    // Opening a device can have effects, and opening a pipe waits: what it is is asked before, and again of what was opened.
    if !fs::metadata(path)?.is_file() {
        return Err(Unread::NotAFile);
    }
    let nonblocking = i32::try_from(rustix::fs::OFlags::NONBLOCK.bits()).unwrap_or(0);
    let file = OpenOptions::new().read(true).custom_flags(nonblocking).open(path)?;
    let before = file.metadata()?;
    if !before.is_file() {
        return Err(Unread::NotAFile);
    }
    if before.len() > most {
        return Err(Unread::TooLarge(most));
    }
    let mut bytes = Vec::with_capacity(usize::try_from(before.len()).unwrap_or(0));
    (&file).take(most.saturating_add(1)).read_to_end(&mut bytes)?;
    let whole = u64::try_from(bytes.len()).ok() == Some(before.len());
    let same = Stamp::from(&file.metadata()?) == Stamp::from(&before);
    if whole && same && Stamp::from(&fs::metadata(path)?) == Stamp::from(&before) {
        Ok(bytes)
    } else {
        Err(Unread::Changed)
    }
}

/// A file that has been written whole and not yet been given its name. Dropped without one, it is gone.
#[derive(Debug)]
pub(super) struct Incoming {
    path: Option<std::path::PathBuf>,
}

impl Incoming {
    /// Writes into `folder`, to the disk.
    ///
    /// # Errors
    /// Where it cannot be written; then nothing is left of it.
    pub(super) fn write(folder: &Path, bytes: &[u8], mode: u32) -> io::Result<Self> {
        let mut random = [0; 8];
        SystemRandom::new().fill(&mut random).map_err(|_| io::Error::other("no random numbers"))?;
        let path = folder.join(format!("{INCOMING}{}", HEXLOWER.encode(&random)));
        let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(&path)?;
        let incoming = Self { path: Some(path) };
        file.write_all(bytes)?;
        file.sync_all()?;
        Ok(incoming)
    }

    /// Gives it its name, in the place of whatever had it.
    ///
    /// # Errors
    /// Where that fails; then nothing is left of it.
    pub(super) fn name(mut self, to: &Path) -> io::Result<()> {
        if let Some(path) = &self.path {
            fs::rename(path, to)?;
        }
        self.path = None;
        Ok(())
    }
}

impl Drop for Incoming {
    fn drop(&mut self) {
        if let Some(path) = self.path.take() {
            // Where even this fails, the next start tries again.
            drop(fs::remove_file(path));
        }
    }
}

/// Puts names that were given or taken on the disk.
///
/// # Errors
/// Where the system says so.
pub(super) fn settle(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}

/// Removes what a program left behind that ended while it wrote.
pub(super) fn sweep(folder: &Path, now: u64) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let incoming = entry.file_name().to_string_lossy().starts_with(INCOMING);
        let old = entry.metadata().is_ok_and(|metadata| {
            let written = u64::try_from(metadata.mtime()).unwrap_or(0);
            metadata.is_file() && written.saturating_add(LEFT_BEHIND) < now
        });
        if incoming && old {
            drop(fs::remove_file(entry.path()));
        }
    }
}

/// Part of a file's name that says what a document is of: what could lead elsewhere, or hide, is replaced.
#[must_use]
pub(super) fn safe(name: &str) -> String {
    const LONGEST: usize = 80;
    let legal = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | '@' | '+');
    let replaced: String = name.chars().map(|c| if legal(c) { c } else { '_' }).take(LONGEST).collect();
    if replaced.starts_with('.') { format!("_{}", replaced.trim_start_matches('.')) } else { replaced }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn only_regular_files_of_their_size_are_read_and_nothing_waits() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        fs::write(path("a.corim"), b"abc").unwrap();
        assert_eq!(read(&path("a.corim"), 3).unwrap(), b"abc");
        assert!(matches!(read(&path("a.corim"), 2), Err(Unread::TooLarge(2))));
        symlink(path("a.corim"), path("b.corim")).unwrap();
        assert_eq!(read(&path("b.corim"), 3).unwrap(), b"abc");
        symlink(path("c.corim"), path("c.corim")).unwrap();
        symlink("/dev/zero", path("d.corim")).unwrap();
        fs::create_dir(path("f.corim")).unwrap();
        let fifo = rustix::fs::CWD;
        rustix::fs::mkfifoat(fifo, path("e.corim"), rustix::fs::Mode::RUSR).unwrap();
        assert!(matches!(read(&path("c.corim"), 3), Err(Unread::Io(_))));
        for none in ["d.corim", "e.corim", "f.corim"] {
            assert!(matches!(read(&path(none), 3), Err(Unread::NotAFile)), "{none}");
        }
        let names: Vec<String> = look(dir.path(), "corim").unwrap().into_keys().collect();
        assert_eq!(names, ["a.corim", "b.corim", "c.corim", "d.corim", "e.corim"]);
    }

    #[test]
    fn a_file_that_is_replaced_by_one_of_the_same_size_shows_it() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("a.corim"), b"abc").unwrap();
        let before = look(dir.path(), "corim").unwrap();
        Incoming::write(dir.path(), b"abd", 0o644).unwrap().name(&dir.path().join("a.corim")).unwrap();
        assert_ne!(look(dir.path(), "corim").unwrap(), before);
    }

    #[test]
    fn what_gets_no_name_is_gone_and_what_was_left_behind_is_swept() {
        let dir = tempfile::tempdir().unwrap();
        drop(Incoming::write(dir.path(), b"abc", 0o644).unwrap());
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
        std::mem::forget(Incoming::write(dir.path(), b"abc", 0o644).unwrap());
        sweep(dir.path(), 0);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "it may be under way");
        sweep(dir.path(), u64::MAX);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    }

    #[test]
    fn no_name_leads_out_of_its_folder() {
        for (name, expected) in [
            ("acme/router", "acme_router"),
            ("../../x", "__.._x"),
            ("..", "_"),
            ("a\0b\n", "a_b_"),
            ("*", "_"),
            ("", ""),
        ] {
            assert_eq!(safe(name), expected, "{name:?}");
        }
        assert_eq!(safe(&"x".repeat(300)).len(), 80);
    }
}
