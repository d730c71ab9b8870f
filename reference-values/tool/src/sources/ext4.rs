//! An ext4 image (ext2 and ext3 too): in, the file; out, its regular files.

use std::{
    ffi::OsStr,
    fs::File,
    io::{self, Read},
    os::unix::{ffi::OsStrExt as _, fs::FileExt as _},
    path::{Path, PathBuf},
    sync::Arc,
};

use ext4_view::{Ext4, Ext4Read, FileType};

use super::{
    Found, Image, Options,
    hash::{self, Entry, Source},
    limits::{MAX_DEPTH, MAX_NAMES},
    quiet,
};
use crate::failure::Failure;

/// Where the superblock's magic number stands, and what it is.
pub(super) const MAGIC: (usize, [u8; 2]) = (0x438, [0x53, 0xEF]);

pub(super) fn measure(image: &Image<'_>, options: &Options) -> Result<Found, Failure> {
    let entries = quiet::contained(|| {
        check_length(image)?;
        files(&open(image)?)
    })
    .map_err(|error| image.damaged("ext4 image", error))?;
    hash::measure(&Files(image), entries, options)
}

/// The file system has a length of its own: an image that is shorter lacks files that its folders may name.
fn check_length(image: &Image<'_>) -> io::Result<()> {
    const WIDE: u32 = 0x80;
    let mut superblock = [0; 1024];
    image.file.read_exact_at(&mut superblock, 1024)?;
    let field =
        |at: usize| superblock.get(at..).and_then(|rest| rest.first_chunk().copied()).map_or(0, u32::from_le_bytes);
    let high = if field(0x60) & WIDE == 0 { 0 } else { field(0x150) };
    let blocks = u64::from(high) << 32 | u64::from(field(0x04));
    let length = 1024_u64.checked_shl(field(0x18)).and_then(|size| blocks.checked_mul(size));
    if length.is_none_or(|length| length > image.file.metadata().map_or(0, |file| file.len())) {
        return Err(io::Error::other("it is shorter than its file system: it is truncated"));
    }
    Ok(())
}

fn open(image: &Image<'_>) -> io::Result<Ext4> {
    Ok(Ext4::load(Box::new(Bytes(Arc::clone(&image.file))))?)
}

struct Bytes(Arc<File>);

impl Ext4Read for Bytes {
    fn read(&mut self, start: u64, out: &mut [u8]) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
        Ok(self.0.read_exact_at(out, start)?)
    }
}

/// Every regular file. A folder that contains itself is too deep.
fn files(fs: &Ext4) -> io::Result<Vec<Entry<()>>> {
    let mut out = Vec::new();
    let mut names = 0_usize;
    let mut folders = vec![(PathBuf::from("/"), 0_usize)];
    while let Some((folder, depth)) = folders.pop() {
        let within = |error: ext4_view::Ext4Error| io::Error::other(format!("{}: {error}", folder.display()));
        let path = ext4_view::Path::try_from(folder.as_path()).map_err(io::Error::other)?;
        for entry in fs.read_dir(path).map_err(within)? {
            let entry = entry.map_err(within)?;
            let name = entry.file_name();
            let name: &[u8] = name.as_ref();
            if matches!(name, b"." | b"..") {
                continue;
            }
            names += 1;
            if names > MAX_NAMES || depth >= MAX_DEPTH {
                let limit = format!("deeper than {MAX_DEPTH} folders, or more than {MAX_NAMES} names");
                return Err(io::Error::other(format!("{}: {limit}", folder.display())));
            }
            let path = folder.join(OsStr::from_bytes(name));
            let metadata = entry.metadata().map_err(within)?;
            match metadata.file_type() {
                FileType::Directory => folders.push((path, depth + 1)),
                FileType::Regular => {
                    let executable = metadata.mode() & 0o111 != 0;
                    out.push(Entry { path, size: metadata.len(), executable, at: () });
                }
                _ => {}
            }
        }
    }
    Ok(out)
}

/// Files of an image.
struct Files<'a>(&'a Image<'a>);

impl Source for Files<'_> {
    type At = ();
    /// The reader keeps blocks for itself, and is nobody else's.
    type Opener = Ext4;

    fn opener(&self) -> io::Result<Ext4> {
        open(self.0)
    }

    fn open<'o>(&'o self, opener: &'o Ext4, entry: &'o Entry<()>) -> io::Result<Box<dyn Read + 'o>> {
        let path = ext4_view::Path::try_from(entry.path.as_path()).map_err(io::Error::other)?;
        Ok(Box::new(opener.open(path)?))
    }

    fn failed(&self, _: &str, path: &Path, error: io::Error) -> Failure {
        self.0.damaged("ext4 image", io::Error::other(format!("{}: {error}", path.display())))
    }

    fn shown(&self, path: &Path) -> String {
        self.0.inside(path)
    }
}
