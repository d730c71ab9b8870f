//! Every bound on what crosses the wire, with its reason. One place, so that nobody has to search for it.

/// Largest message in either direction, bytes. AWS IoT Core takes 128 KiB, other clouds more; 100 KiB leaves room
/// for packet headers everywhere.
pub const MAX_MESSAGE: usize = 100 * 1024;
/// What `TPM2_Hash` takes in one call, bytes (TPM 2.0 Part 2, TPM2B_MAX_BUFFER): the Sig_structure must fit.
pub const MAX_SIG_STRUCTURE: usize = 1024;
/// Nonces in one evidence message: one per independent verifier.
pub const MAX_NONCES: usize = 8;
/// Log attachments in one evidence message.
pub const MAX_LOGS: usize = 6;
/// Measuring sources an attester may name, and the length of each name: what it says of itself stays short.
pub const MAX_SOURCES: usize = 8;
/// Length of one self-asserted text (source name, version), bytes.
pub const MAX_ATTESTER_TEXT: usize = 24;
/// Nesting of any CBOR that we read. CoRIM's deepest path needs 13.
pub const MAX_CBOR_DEPTH: usize = 16;
/// EK certificates (leaves and intermediates) in an enrolment, and their bytes in all.
pub const MAX_EK_CERTIFICATES: usize = 5;
/// Bytes of all certificates in one enrolment.
pub const MAX_EK_CERTIFICATE_BYTES: usize = 8 * 1024;
/// Endorsement keys in an enrolment without certificates: one a template (ECC P-256, ECC P-384, RSA-2048).
pub const MAX_UNCERTIFIED_EKS: usize = 3;
/// Largest TPM2B buffer we accept, bytes: RSA-4096 signatures and nothing larger.
pub const MAX_TPM2B: usize = 1024;
/// PCR banks in a TPML_PCR_SELECTION (TPM 2.0 Part 2, HASH_COUNT).
pub const MAX_PCR_BANKS: usize = 16;
/// Largest boot or IMA log read from a file or from a device, bytes: 64 MiB holds several hundred thousand entries.
pub const MAX_LOG: usize = 64 * 1024 * 1024;
/// One measured path, bytes (Linux PATH_MAX).
pub const MAX_PATH: usize = 4096;
/// Problems listed for one log: enough to see what is wrong, too few to blow up an answer.
pub const MAX_PROBLEMS: usize = 256;
/// Length of an IMA template's name or format, bytes: the kernel's longest format has about 60.
pub const MAX_TEMPLATE_NAME: usize = 255;
