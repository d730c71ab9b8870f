//! A squashfs image (version 4): in, the file; out, its regular files.
//!
//! The reader follows folders by recursion and keeps the ends of files in memory: what would make it do so without end
//! is refused before it begins.

use std::{
    collections::HashSet,
    io::{self, BufReader, Read},
    path::Path,
    sync::atomic::{AtomicU64, Ordering},
};

use backhand::{
    BackhandError, FilesystemCompressor, FilesystemReader, InnerNode, Squashfs, SquashfsFileReader, SuperBlock,
    compression::{CompressionAction, Compressor},
    kind::{Kind, LE_V4_0},
    v4::inode::{Inode, InodeInner},
};

use super::{
    Found, Image, Options,
    hash::{self, Entry, Source},
    limits::{MAX_DEPTH, MAX_FRAGMENTS, MAX_NAMES, MAX_UNPACKED},
    quiet,
    unpack::Compression,
};
use crate::failure::Failure;

pub(super) const MAGIC: &[u8] = b"hsqs";
/// A header in the table of folders, and an entry after it without its name.
const DIRECTORY_HEADER: usize = 12;
const DIRECTORY_ENTRY: usize = 8;
const DIRECTORY: u16 = 1;

pub(super) fn measure(image: &Image<'_>, options: &Options) -> Result<Found, Failure> {
    let fs = quiet::contained(|| open(image)).map_err(|error| image.damaged("squashfs image", error))?;
    let mut entries = Vec::new();
    for node in fs.files() {
        if let InnerNode::File(file) = &node.inner {
            let executable = node.header.permissions & 0o111 != 0;
            entries.push(Entry {
                path: node.fullpath.clone(),
                size: file.file_len() as u64,
                executable,
                at: file.clone(),
            });
        }
    }
    hash::measure(&Files { image, fs: &fs }, entries, options)
}

fn open(image: &Image<'_>) -> io::Result<FilesystemReader<'static>> {
    // The reader wants it for ever: some bytes for each image.
    let unpacker = Box::leak(Box::new(Unpacker { left: AtomicU64::new(MAX_UNPACKED) }));
    let kind = Kind::new_v4_with_const(unpacker, LE_V4_0);
    let file = BufReader::new(image.file.try_clone()?);
    let squashfs = Squashfs::from_reader_with_offset_and_kind(file, 0, kind)?;
    let fragments = u64::from(squashfs.superblock.frag_count) * u64::from(squashfs.superblock.block_size);
    if fragments > MAX_FRAGMENTS {
        return Err(io::Error::other(format!("more than {MAX_FRAGMENTS} bytes in ends of files")));
    }
    check_tree(&squashfs)?;
    Ok(squashfs.into_filesystem_reader()?)
}

/// Each folder has one place, none is too deep, and there are not too many names.
fn check_tree(squashfs: &Squashfs<'_>) -> io::Result<()> {
    let wrong = |why: String| Err(io::Error::other(why));
    let mut seen = HashSet::from([squashfs.root_inode.header.inode_number]);
    let mut folders = vec![(&squashfs.root_inode, 0_usize)];
    let mut names = 0_usize;
    while let Some((folder, depth)) = folders.pop() {
        if depth >= MAX_DEPTH {
            return wrong(format!("deeper than {MAX_DEPTH} folders"));
        }
        for below in subfolders(squashfs, folder, &mut names).ok_or_else(|| io::Error::other("a folder is damaged"))? {
            if !seen.insert(below) {
                return wrong("a folder is in two places, or within itself".into());
            }
            match squashfs.inodes.get(&below) {
                Some(inode) => folders.push((inode, depth + 1)),
                None => return wrong("a folder without an inode".into()),
            }
        }
        if names > MAX_NAMES {
            return wrong(format!("more than {MAX_NAMES} names"));
        }
    }
    Ok(())
}

/// Numbers of the folders in a folder.
fn subfolders(squashfs: &Squashfs<'_>, folder: &Inode, names: &mut usize) -> Option<Vec<u32>> {
    let (block, size, offset) = match &folder.inner {
        InodeInner::BasicDirectory(it) => (it.block_index, u32::from(it.file_size), it.block_offset),
        InodeInner::ExtendedDirectory(it) => (it.block_index, it.file_size, it.block_offset),
        _ => return None,
    };
    // The size counts three bytes more than there are (`.` and `..`).
    let Some(size @ 1..) = size.checked_sub(3) else { return Some(Vec::new()) };
    let start = usize::try_from(*squashfs.dir_blocks.0.get(&u64::from(block))?).ok()?;
    let start = start.checked_add(usize::from(offset))?;
    let mut bytes = squashfs.dir_blocks.1.get(start..start.checked_add(usize::try_from(size).ok()?)?)?;
    let mut out = Vec::new();
    while bytes.len() >= DIRECTORY_HEADER {
        let count = u32_at(bytes, 0)?.checked_add(1)?;
        let base = u32_at(bytes, 8)?;
        bytes = bytes.get(DIRECTORY_HEADER..)?;
        for _ in 0..count {
            let step = i16::from_le_bytes([*bytes.get(2)?, *bytes.get(3)?]);
            if u16_at(bytes, 4)? == DIRECTORY {
                out.push(base.wrapping_add_signed(i32::from(step)));
            }
            let name = usize::from(u16_at(bytes, 6)?).checked_add(1)?;
            bytes = bytes.get(DIRECTORY_ENTRY.checked_add(name)?..)?;
            *names = names.checked_add(1)?;
        }
    }
    Some(out)
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_le_bytes(bytes.get(at..)?.first_chunk().copied()?))
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(bytes.get(at..)?.first_chunk().copied()?))
}

/// Unpacks blocks, as long as they are not too much together.
struct Unpacker {
    left: AtomicU64,
}

impl CompressionAction for Unpacker {
    type Error = BackhandError;
    type Compressor = Compressor;
    type FilesystemCompressor = FilesystemCompressor;
    type SuperBlock = SuperBlock;

    fn decompress(&self, bytes: &[u8], out: &mut Vec<u8>, compressor: Compressor) -> Result<(), BackhandError> {
        let most = out.capacity();
        match compressor {
            Compressor::Gzip => {
                flate2::read::ZlibDecoder::new(bytes).take(most as u64).read_to_end(out)?;
            }
            Compressor::Xz => {
                Compression::Xz.unpack(bytes).take(most as u64).read_to_end(out)?;
            }
            Compressor::Zstd => {
                Compression::Zstd.unpack(bytes).take(most as u64).read_to_end(out)?;
            }
            Compressor::Lz4 => {
                out.resize(most, 0);
                let unpacked = lz4_flex::block::decompress_into(bytes, out).map_err(io::Error::other)?;
                out.truncate(unpacked);
            }
            other => return Err(BackhandError::UnsupportedCompression(format!("{other:?}"))),
        }
        let unpacked = out.len() as u64;
        let within = self.left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(unpacked));
        within.map_err(|_| io::Error::other(format!("unpacks to more than {MAX_UNPACKED} bytes")))?;
        Ok(())
    }

    fn compress(&self, _: &[u8], _: FilesystemCompressor, _: u32) -> Result<Vec<u8>, BackhandError> {
        Err(BackhandError::UnsupportedCompression("images are only read".into()))
    }
}

/// Files of an image.
struct Files<'a> {
    image: &'a Image<'a>,
    fs: &'a FilesystemReader<'static>,
}

impl Source for Files<'_> {
    type At = SquashfsFileReader;
    type Opener = ();

    fn opener(&self) -> io::Result<()> {
        Ok(())
    }

    fn open<'o>(&'o self, (): &'o (), entry: &'o Entry<SquashfsFileReader>) -> io::Result<Box<dyn Read + 'o>> {
        Ok(Box::new(self.fs.file(&entry.at).reader()))
    }

    fn failed(&self, _: &str, path: &Path, error: io::Error) -> Failure {
        self.image.damaged("squashfs image", io::Error::other(format!("{}: {error}", path.display())))
    }

    fn shown(&self, path: &Path) -> String {
        self.image.inside(path)
    }
}
