//! Where the files of a release come from: in, a folder, a tar, an image of a file system or a Debian package; out,
//! what in it can run, with its digests.
//!
//! What a file is, the source as well as each file in it, its content tells: ELF (programs, libraries, kernel modules),
//! an interpreter line, a compressed kernel module, a kernel, an initrd, an EFI program; besides, whatever has an
//! executable bit, and what tells the dynamic linker which libraries to load.

mod content;
mod deb;
mod ext4;
mod folder;
mod hash;
mod limits;
pub(crate) mod pending;
mod quiet;
mod squashfs;
mod tar;
mod unpack;

use std::{
    collections::BTreeMap,
    fs::File,
    io,
    os::unix::{ffi::OsStrExt as _, fs::FileExt as _},
    path::Path,
    sync::Arc,
};

use clap::ValueEnum;
use reference_values::Executable;

use self::{
    limits::MAX_UNPACKED,
    pending::{BootImage, FurtherDigests},
    unpack::Compression,
};
use crate::failure::Failure;

/// A digest beside SHA-256.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub(crate) enum Algorithm {
    Sha1,
    Sha384,
    Sha512,
}

/// How to measure.
#[derive(Debug, Clone, Default)]
pub(crate) struct Options {
    /// Digests beside SHA-256, each once.
    pub(crate) further: Vec<Algorithm>,
    /// Whether to show on stderr how far it is.
    pub(crate) progress: bool,
}

/// What can run among the files of a source, in order of paths.
#[derive(Debug, Default)]
pub(crate) struct Found {
    /// Programs, libraries, scripts, modules, and what else has an executable bit.
    pub(crate) executables: Vec<Executable>,
    /// Digests beside SHA-256, by it.
    pub(crate) further: BTreeMap<[u8; 32], FurtherDigests>,
    /// Kernels, initrds and EFI programs.
    pub(crate) images: Vec<BootImage>,
}

impl Found {
    /// Whether nothing was found.
    pub(crate) fn is_empty(&self) -> bool {
        self.executables.is_empty() && self.images.is_empty()
    }

    /// Adds what was found elsewhere.
    pub(crate) fn extend(&mut self, other: Self) {
        self.executables.extend(other.executables);
        self.further.extend(other.further);
        self.images.extend(other.images);
    }

    fn add(&mut self, file: hash::Measured) {
        if let Some(image) = file.image {
            self.images.push(image);
            return;
        }
        if let Some(further) = file.further {
            self.further.insert(file.executable.digest, further);
        }
        self.executables.push(file.executable);
    }

    /// Executables alone that have a name elsewhere, under that name.
    fn only(self, name: impl Fn(&str) -> Option<String>) -> Self {
        let named = self.executables.into_iter();
        let executables = named
            .filter_map(|file| Some(Executable { path: name(&file.path)?, digest: file.digest }))
            .collect::<Vec<_>>();
        let mut further = self.further;
        further.retain(|digest, _| executables.iter().any(|file| file.digest == *digest));
        Self { executables, further, images: Vec::new() }
    }
}

/// Measures a folder, tar (also compressed), ext4 or squashfs image (also compressed) or Debian package; which it is,
/// its content tells.
pub(crate) fn measure(path: &Path, options: &Options) -> Result<Found, Failure> {
    let failed = |error: io::Error| Failure::operation("read", path, error);
    let metadata = std::fs::metadata(path).map_err(failed)?;
    if metadata.is_dir() {
        return folder::measure(path, options);
    }
    if !metadata.is_file() {
        return Err(Failure::Usage(format!("{}: neither a folder nor a file", path.display())));
    }
    let mut image = Image { name: path, file: Arc::new(File::open(path).map_err(failed)?) };
    let mut beginning = image.beginning().map_err(failed)?;
    if let Some(compression) = Compression::of(&beginning) {
        let input = io::BufReader::new(&*image.file);
        let unpacked = unpack::to_file(compression.unpack(input), MAX_UNPACKED);
        image.file = Arc::new(unpacked.map_err(|error| image.damaged("compressed file", error))?);
        beginning = image.beginning().map_err(failed)?;
    }
    let at = |offset: usize, magic: &[u8]| beginning.get(offset..).is_some_and(|rest| rest.starts_with(magic));
    if at(ext4::MAGIC.0, &ext4::MAGIC.1) {
        ext4::measure(&image, options)
    } else if at(0, squashfs::MAGIC) {
        squashfs::measure(&image, options)
    } else if at(tar::MAGIC.0, &tar::MAGIC.1) {
        tar::measure(&image, options)
    } else if at(0, deb::MAGIC) {
        deb::measure(&image, options)
    } else {
        let known = "neither a tar (plain, gzip, xz, zstd or lz4), an ext4 or squashfs image, nor a Debian package";
        Err(Failure::input(path, known))
    }
}

/// A file that holds others.
struct Image<'a> {
    name: &'a Path,
    /// The file itself, or what it unpacked to.
    file: Arc<File>,
}

impl Image<'_> {
    fn beginning(&self) -> io::Result<Vec<u8>> {
        let mut beginning = vec![0; limits::BEGINNING];
        let mut filled = 0;
        while let read @ 1.. = self.file.read_at(&mut beginning[filled..], filled as u64)? {
            filled += read;
        }
        beginning.truncate(filled);
        Ok(beginning)
    }

    fn damaged(&self, what: &str, error: io::Error) -> Failure {
        Failure::input(self.name, format_args!("cannot be read as {what}: {error}"))
    }

    fn inside(&self, path: &Path) -> String {
        format!("{}: {}", self.name.display(), path.display())
    }
}

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
