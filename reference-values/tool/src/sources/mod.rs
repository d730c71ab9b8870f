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
use reference_values::{BootImage, Executable, FurtherDigests};

use self::{limits::MAX_UNPACKED, unpack::Compression};
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

/// Measures a Debian package, and nothing else.
pub(crate) fn measure_package(path: &Path, options: &Options) -> Result<Found, Failure> {
    let failed = |error: io::Error| Failure::operation("read", path, error);
    let image = Image { name: path, file: Arc::new(File::open(path).map_err(failed)?) };
    let beginning = image.beginning().map_err(failed)?;
    if !beginning.starts_with(deb::MAGIC) {
        return Err(Failure::input(path, "not a Debian package"));
    }
    deb::measure(&image, options)
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

#[cfg(test)]
mod tests {
    use std::{fs, io::Read as _, io::Write as _};

    use reference_values::ImageKind;

    use super::*;
    use crate::boot::pe::{Pe, tests::image};

    fn found(files: &[(&str, &[u8])], options: &Options) -> Found {
        let folder = tempfile::TempDir::new().unwrap();
        for (name, content) in files {
            fs::write(folder.path().join(name), content).unwrap();
        }
        measure(folder.path(), options).unwrap()
    }

    fn at(offset: usize, magic: &[u8]) -> Vec<u8> {
        [&vec![0; offset], magic, &[0; 600]].concat()
    }

    fn gzip(content: &[u8]) -> Vec<u8> {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(content).unwrap();
        encoder.finish().unwrap()
    }

    fn lz4(content: &[u8], legacy: bool) -> Vec<u8> {
        let form = lz4_flex::frame::FrameInfo::new().legacy_frame(legacy);
        let mut encoder = lz4_flex::frame::FrameEncoder::with_frame_info(form, Vec::new());
        encoder.write_all(content).unwrap();
        encoder.finish().unwrap()
    }

    #[test]
    fn what_boots_is_told_by_its_content() {
        let cpio = [&b"070701"[..], &[b'0'; 300_000]].concat();
        let uki = image(&[(".linux", b"kernel"), (".cmdline", b"quiet")]);
        let mut windows = image(&[(".text", b"code")]);
        windows[0x40 + 24 + 68] = 3;
        let stub = image(&[(".text", &at(0x202, b"HdrS"))]);
        let found = found(
            &[
                ("a", &at(0x202, b"HdrS")),
                ("b", &at(0x38, b"ARM\x64")),
                ("c", &gzip(&at(0x38, b"ARM\x64"))),
                ("d", &cpio),
                ("e", &gzip(&cpio)),
                ("f", &lz4(&cpio, false)),
                ("g", &lz4(&cpio, true)),
                ("h", &uki),
                ("i", &image(&[(".text", b"code")])),
                ("windows", &windows),
                ("not-pe", b"MZ and no more"),
                ("stub", &stub),
                ("text.gz", &gzip(b"#!/bin/sh")),
            ],
            &Options::default(),
        );
        let kinds = found.images.iter().map(|image| (image.path.as_str(), image.kind)).collect::<Vec<_>>();
        use ImageKind::{Initrd, Kernel, Loader, Uki};
        let expected = [Kernel, Kernel, Kernel, Initrd, Initrd, Initrd, Initrd, Uki, Loader, Loader];
        let paths = ["/a", "/b", "/c", "/d", "/e", "/f", "/g", "/h", "/i", "/stub"];
        assert_eq!(kinds, paths.into_iter().zip(expected).collect::<Vec<_>>());
        assert!(found.executables.is_empty(), "{:?}", found.executables);
        let sha256 = evidence::pcr::sha256;
        let sections = [(".linux".to_owned(), sha256(b"kernel")), (".cmdline".to_owned(), sha256(b"quiet"))];
        assert_eq!(found.images[7].sections, sections);
        assert_eq!(found.images[7].authenticode, Some(Pe::read(&uki).unwrap().authenticode));
        assert_eq!(found.images[7].digest, sha256(&uki));
    }

    #[test]
    fn digests_that_are_asked_for_stand_beside_sha256() {
        let options = Options { further: vec![Algorithm::Sha1, Algorithm::Sha384, Algorithm::Sha512], progress: false };
        let found = found(&[("script", b"#!abc")], &options);
        let further = &found.further[&found.executables[0].digest];
        let digest = |algorithm| ring::digest::digest(algorithm, b"#!abc").as_ref().to_vec();
        assert_eq!(further.sha1.unwrap().to_vec(), digest(&ring::digest::SHA1_FOR_LEGACY_USE_ONLY));
        assert_eq!(further.sha384.unwrap().to_vec(), digest(&ring::digest::SHA384));
        assert_eq!(further.sha512.unwrap().to_vec(), digest(&ring::digest::SHA512));
        assert!(self::found(&[("script", b"#!abc")], &Options::default()).further.is_empty());
    }

    #[test]
    fn what_unpacks_without_end_is_refused_and_zeros_take_no_room() {
        use std::os::unix::fs::MetadataExt as _;
        let zeros = unpack::to_file(io::repeat(0).take(1 << 30), 1 << 30).unwrap();
        let metadata = zeros.metadata().unwrap();
        assert_eq!((metadata.len(), metadata.blocks()), (1 << 30, 0));
        let error = unpack::to_file(io::repeat(1), 1 << 20).unwrap_err();
        assert!(error.to_string().contains("more than 1048576 bytes"), "{error}");
    }

    #[test]
    fn a_panic_of_a_reader_is_an_error() {
        let error = quiet::contained(|| -> io::Result<()> { panic!("damage") }).unwrap_err();
        assert!(error.to_string().contains("damaged"), "{error}");
    }
}
