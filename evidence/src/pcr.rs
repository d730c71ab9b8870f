//! Hash algorithms and platform configuration registers (TPM 2.0 Part 1 §17).

use ring::digest;

/// A hash algorithm that TPM banks use, by its TPM_ALG_ID (TCG Algorithm Registry).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum HashAlgorithm {
    /// TPM_ALG_SHA1, 0x0004: read in old logs, trusted for nothing.
    Sha1,
    /// TPM_ALG_SHA256, 0x000B.
    Sha256,
    /// TPM_ALG_SHA384, 0x000C.
    Sha384,
    /// TPM_ALG_SHA512, 0x000D.
    Sha512,
    /// TPM_ALG_SM3_256, 0x0012: its length is known, so logs with it can be read; its value is not computed here.
    Sm3,
}

impl HashAlgorithm {
    /// From a TPM_ALG_ID.
    #[must_use]
    pub const fn from_tpm(id: u16) -> Option<Self> {
        match id {
            0x0004 => Some(Self::Sha1),
            0x000B => Some(Self::Sha256),
            0x000C => Some(Self::Sha384),
            0x000D => Some(Self::Sha512),
            0x0012 => Some(Self::Sm3),
            _ => None,
        }
    }

    /// Its TPM_ALG_ID.
    #[must_use]
    pub const fn tpm_id(self) -> u16 {
        match self {
            Self::Sha1 => 0x0004,
            Self::Sha256 => 0x000B,
            Self::Sha384 => 0x000C,
            Self::Sha512 => 0x000D,
            Self::Sm3 => 0x0012,
        }
    }

    /// Digest length, bytes.
    #[expect(clippy::len_without_is_empty, reason = "no digest is empty")]
    #[must_use]
    pub const fn len(self) -> usize {
        match self {
            Self::Sha1 => 20,
            Self::Sha256 | Self::Sm3 => 32,
            Self::Sha384 => 48,
            Self::Sha512 => 64,
        }
    }

    /// Lower-case name, as `interfaces` and the kernel print it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Sha1 => "sha1",
            Self::Sha256 => "sha256",
            Self::Sha384 => "sha384",
            Self::Sha512 => "sha512",
            Self::Sm3 => "sm3_256",
        }
    }

    /// From the kernel's name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        [Self::Sha1, Self::Sha256, Self::Sha384, Self::Sha512, Self::Sm3].into_iter().find(|alg| alg.name() == name)
    }

    /// ring's implementation, where it has one.
    #[must_use]
    pub const fn implementation(self) -> Option<&'static digest::Algorithm> {
        match self {
            Self::Sha1 => Some(&digest::SHA1_FOR_LEGACY_USE_ONLY),
            Self::Sha256 => Some(&digest::SHA256),
            Self::Sha384 => Some(&digest::SHA384),
            Self::Sha512 => Some(&digest::SHA512),
            Self::Sm3 => None,
        }
    }

    /// Digest of `bytes`; `None` for an algorithm that cannot be computed here.
    #[must_use]
    pub fn hash(self, bytes: &[u8]) -> Option<digest::Digest> {
        Some(digest::digest(self.implementation()?, bytes))
    }
}

/// SHA-256 as an array: the profile's own algorithm.
#[must_use]
pub fn sha256(bytes: &[u8]) -> [u8; 32] {
    sha256_of(&[bytes])
}

/// SHA-256 over the concatenation of `parts`.
#[must_use]
pub fn sha256_of(parts: &[&[u8]]) -> [u8; 32] {
    let mut context = digest::Context::new(&digest::SHA256);
    for part in parts {
        context.update(part);
    }
    let mut out = [0; 32];
    out.copy_from_slice(context.finish().as_ref());
    out
}

/// SHA-256 PCR after `TPM2_PCR_Extend`: H(old ‖ digest) (TPM 2.0 Part 1 §17.2).
#[must_use]
pub fn extend_sha256(pcr: &[u8; 32], digest: &[u8; 32]) -> [u8; 32] {
    sha256_of(&[pcr, digest])
}

/// PCRs that the profile quotes: SHA-256 bank, 0 to 15.
pub const PROFILE_PCRS: usize = 16;

/// The values of the profile's PCRs, in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PcrValues([[u8; 32]; PROFILE_PCRS]);

impl PcrValues {
    /// Length of the attachment that carries them, bytes.
    pub const BYTES: usize = PROFILE_PCRS * 32;

    /// From values in order of index.
    #[must_use]
    pub const fn new(values: [[u8; 32]; PROFILE_PCRS]) -> Self {
        Self(values)
    }

    /// From the attachment's 16 × 32 bytes.
    #[must_use]
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let (values, rest) = bytes.as_chunks::<32>();
        if !rest.is_empty() {
            return None;
        }
        values.try_into().ok().map(Self)
    }

    /// As the attachment carries them.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        self.0.concat()
    }

    /// Value of one PCR; `None` past the profile's.
    #[must_use]
    pub fn get(&self, index: usize) -> Option<&[u8; 32]> {
        self.0.get(index)
    }

    /// All values, in order of index.
    #[must_use]
    pub const fn all(&self) -> &[[u8; 32]; PROFILE_PCRS] {
        &self.0
    }

    /// What a quote over them holds as pcrDigest (TPM 2.0 Part 3 §18.4).
    #[must_use]
    pub fn quote_digest(&self) -> [u8; 32] {
        sha256(self.0.as_flattened())
    }
}
