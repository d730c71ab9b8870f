//! Every bound on what a release may hold, with its reason.

/// Largest release file, bytes: a desktop distribution has some 20,000 executables at about 150 bytes each.
pub const MAX_FILE: usize = 64 * 1024 * 1024;
/// Executables in one release. The file's size bounds them already; this keeps index positions in 32 bits for any
/// number of releases that a machine can hold.
pub const MAX_EXECUTABLES: usize = 1_000_000;
/// Boots in one release: hardware variants of one product, each with its own firmware.
pub const MAX_BOOTS: usize = 64;
/// Signatures on one release: the supply chain of one product, and rotated keys.
pub const MAX_SIGNATURES: usize = 16;
/// Length of a product's or a release's name, bytes: it stands in every table and every result.
pub const MAX_NAME: usize = 128;
/// Length of a path as it is kept for people to read, bytes (Linux PATH_MAX; escapes make it longer, not the path).
pub const MAX_PATH: usize = 4096;
/// Signers in one trust folder.
pub const MAX_TRUSTED: usize = 1024;
/// Protected header of a signature, bytes: ours has 90 with the longest role.
pub const MAX_PROTECTED_HEADER: usize = 128;
/// Sets of boot rules in one release: one covers all hardware that differs in what is measured; products that differ
/// in more are few.
pub const MAX_BOOT_RULES: usize = 16;
/// kinds of events (PCR and type) in one set of boot rules: 15 PCRs with the few types that each has.
pub const MAX_EVENT_KEYS: usize = 256;
/// Sequences of one kind of event: one for each log that the rules were made from, at most.
pub const MAX_SEQUENCES: usize = 64;
/// Digests in one set of boot rules: a boot has some hundred events, and a dbx some hundred to a thousand entries.
pub const MAX_RULE_DIGESTS: usize = 65_536;
/// Command lines in one set of boot rules: boot menu entries of one product.
pub const MAX_COMMAND_LINES: usize = 64;
/// Length of a command line, bytes: Linux keeps 2048 on most architectures; escapes make a pattern longer.
pub const MAX_COMMAND_LINE: usize = 4096;
/// Length of a kernel's release, bytes (Linux __NEW_UTS_LEN).
pub const MAX_KERNEL_RELEASE: usize = 64;
/// IMA policies in one release.
pub const MAX_IMA_POLICIES: usize = 16;
/// Largest list of endorsed keys, bytes: four million at some hundred bytes each.
pub const MAX_ENDORSEMENTS_FILE: usize = 512 * 1024 * 1024;
/// Endorsed keys in one list; a maker of more devices makes several lists.
pub const MAX_ENDORSED: usize = 4_000_000;
/// Length of a serial, bytes: it stands in tables.
pub const MAX_SERIAL: usize = 64;
/// Releases that one notice revokes.
pub const MAX_REVOKED: usize = 1024;
/// Files that one notice knows to be bad.
pub const MAX_KNOWN_BAD: usize = 100_000;
/// Length of a reason or of an advisory's name, bytes: it stands in causes.
pub const MAX_REASON: usize = 512;
/// Boot images in one release: kernels and boot entries of a system with everything.
pub const MAX_IMAGES: usize = 1024;
/// Sections of one boot image.
pub const MAX_SECTIONS: usize = 64;
/// Longest update window, seconds: a year. What takes longer is no update.
pub const MAX_UPDATE_WINDOW: u64 = 366 * 24 * 3600;
