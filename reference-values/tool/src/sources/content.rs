//! What a file is, by its content: in, its first bytes; out, whether it can run, or what part of a boot it is.

use std::{io::Read, path::Path};

use reference_values::ImageKind;

use super::unpack::Compression;

/// What a file is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// Nothing that runs by itself.
    Data,
    /// Run by the kernel, mapped as a library, named to an interpreter, loaded as a module, or choosing what is.
    Runs,
    /// A kernel or an initrd.
    Boots(ImageKind),
    /// A PE image: what its headers and sections say decides.
    Pe,
}

/// Files by which the dynamic linker chooses libraries (ld.so(8)). Kernels that measure what root reads list them.
const LOADS: [&str; 2] = ["/etc/ld.so.cache", "/etc/ld.so.preload"];

impl Kind {
    /// Tells by the first bytes; the path matters for what only its place gives a meaning.
    pub(super) fn of(path: &Path, beginning: &[u8]) -> Self {
        let direct = Self::of_plain(beginning);
        if direct != Self::Data {
            return direct;
        }
        if LOADS.iter().any(|name| path == Path::new(name)) {
            return Self::Runs;
        }
        let Some(compression) = Compression::of(beginning) else { return Self::Data };
        let mut inside = [0; 2048];
        // The input ends early: what was unpacked until then is enough.
        let mut unpacked = compression.unpack(beginning);
        let filled = read_what_comes(&mut unpacked, &mut inside);
        match Self::of_plain(&inside[..filled]) {
            // No kernel runs a compressed script or program.
            Self::Runs if inside.starts_with(b"\x7fELF") => Self::Runs,
            Self::Pe | Self::Boots(ImageKind::Kernel) => Self::Boots(ImageKind::Kernel),
            Self::Boots(kind) => Self::Boots(kind),
            _ if is_module(path) => Self::Runs,
            _ => Self::Data,
        }
    }

    fn of_plain(beginning: &[u8]) -> Self {
        let at = |offset: usize, magic: &[u8]| beginning.get(offset..).is_some_and(|rest| rest.starts_with(magic));
        if at(0, b"\x7fELF") || at(0, b"#!") {
            Self::Runs
        } else if at(0, b"MZ") {
            Self::Pe
        } else if is_kernel(beginning) {
            Self::Boots(ImageKind::Kernel)
        } else if at(0, b"070701") || at(0, b"070702") {
            Self::Boots(ImageKind::Initrd)
        } else {
            Self::Data
        }
    }
}

/// Images that a boot loader starts: Linux boot protocol of x86, arm64, RISC-V and arm, and U-Boot's legacy header.
pub(super) fn is_kernel(beginning: &[u8]) -> bool {
    const MAGIC: [(usize, &[u8]); 5] = [
        (0x202, b"HdrS"),
        (0x38, b"ARM\x64"),
        (0x38, b"RSC\x05"),
        (0x24, b"\x18\x28\x6f\x01"),
        (0, b"\x27\x05\x19\x56"),
    ];
    MAGIC.iter().any(|(offset, magic)| beginning.get(*offset..).is_some_and(|rest| rest.starts_with(magic)))
}

/// Named as a compressed kernel module, for those whose first block does not unpack by itself.
fn is_module(path: &Path) -> bool {
    let stem = path.file_stem().map(Path::new).and_then(Path::extension);
    stem.is_some_and(|extension| extension == "ko")
}

/// Reads until `out` is full, the input ends or is cut off.
fn read_what_comes(input: &mut dyn Read, out: &mut [u8]) -> usize {
    let mut filled = 0;
    while let Ok(read @ 1..) = input.read(&mut out[filled..]) {
        filled += read;
    }
    filled
}
