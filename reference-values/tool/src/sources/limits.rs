//! Bounds on what is read, each with its reason.

/// Folders within folders: far above any real tree, and an end to one that contains itself.
pub(super) const MAX_DEPTH: usize = 256;
/// Names in one root: a large distribution has some hundred thousand.
pub(super) const MAX_NAMES: usize = 4_000_000;
/// Largest file that is hashed: executables are smaller, sparse files made to keep a build busy are not.
pub(super) const MAX_MEASURED: u64 = 4 << 30;
/// Bytes hashed of one root, so that many large files do not keep a build busy either.
pub(super) const MAX_TOTAL: u64 = 256 << 30;
/// Bytes that an archive or image unpacks to.
pub(super) const MAX_UNPACKED: u64 = 16 << 30;
/// Largest image with sections that is looked into: kernel and initrd of a product.
pub(super) const MAX_IMAGE: u64 = 1 << 30;
/// What the dictionary of a compressed file may take in memory; `xz -9` takes 64 MiB, `zstd --long` 128 MiB.
pub(super) const MAX_DICTIONARY: u32 = 192 << 20;
/// Headers, names and attributes of one entry of a tar.
pub(super) const MAX_ENTRY_HEADERS: u64 = 1 << 20;
/// Ends of files that a squashfs image keeps together, and that stay in memory.
pub(super) const MAX_FRAGMENTS: u64 = 2 << 30;
/// Bytes hashed at a time.
pub(super) const BLOCK: usize = 128 << 10;
/// Bytes that tell what a file is; most files are not read further.
pub(super) const BEGINNING: usize = 4096;
