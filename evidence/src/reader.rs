//! The one reader that all binary formats are read through: it never reads past the end, and says where it stopped.

use crate::error::Malformed;

/// A position in a byte string. Every method either returns what it promises and moves on, or fails and names the
/// offset; none panics, none allocates.
#[derive(Debug, Clone)]
pub struct Reader<'a> {
    what: &'static str,
    all: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    /// Begins at the first byte of `all`; `what` names the structure in errors.
    #[must_use]
    pub const fn new(what: &'static str, all: &'a [u8]) -> Self {
        Self { what, all, at: 0 }
    }

    /// Offset of the next byte.
    #[must_use]
    pub const fn at(&self) -> usize {
        self.at
    }

    /// Bytes not read yet.
    #[must_use]
    pub const fn remaining(&self) -> usize {
        self.all.len().saturating_sub(self.at)
    }

    /// Whether everything was read.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.remaining() == 0
    }

    /// An error at the present position.
    #[must_use]
    pub const fn malformed(&self, why: &'static str) -> Malformed {
        Malformed { what: self.what, at: self.at, why }
    }

    /// The next `n` bytes.
    ///
    /// # Errors
    /// [`Malformed`] where fewer are left.
    pub fn take(&mut self, n: usize) -> Result<&'a [u8], Malformed> {
        let end = self.at.checked_add(n).ok_or_else(|| self.malformed("length overflows"))?;
        let bytes = self.all.get(self.at..end).ok_or_else(|| self.malformed("ends too early"))?;
        self.at = end;
        Ok(bytes)
    }

    /// The next `N` bytes as an array.
    ///
    /// # Errors
    /// [`Malformed`] where fewer are left.
    pub fn array<const N: usize>(&mut self) -> Result<[u8; N], Malformed> {
        let at = self.at;
        self.take(N)?.try_into().map_err(|_| Malformed { what: self.what, at, why: "ends too early" })
    }

    /// One byte.
    ///
    /// # Errors
    /// [`Malformed`] at the end.
    pub fn u8(&mut self) -> Result<u8, Malformed> {
        self.array::<1>().map(|[b]| b)
    }

    /// Big-endian, as the TPM writes (TPM 2.0 Part 1 §"Canonicalization").
    ///
    /// # Errors
    /// [`Malformed`] at the end.
    pub fn u16_be(&mut self) -> Result<u16, Malformed> {
        self.array().map(u16::from_be_bytes)
    }

    /// Big-endian.
    ///
    /// # Errors
    /// [`Malformed`] at the end.
    pub fn u32_be(&mut self) -> Result<u32, Malformed> {
        self.array().map(u32::from_be_bytes)
    }

    /// Big-endian.
    ///
    /// # Errors
    /// [`Malformed`] at the end.
    pub fn u64_be(&mut self) -> Result<u64, Malformed> {
        self.array().map(u64::from_be_bytes)
    }

    /// Little-endian, as TCG event logs and IMA lists are written.
    ///
    /// # Errors
    /// [`Malformed`] at the end.
    pub fn u16_le(&mut self) -> Result<u16, Malformed> {
        self.array().map(u16::from_le_bytes)
    }

    /// Little-endian.
    ///
    /// # Errors
    /// [`Malformed`] at the end.
    pub fn u32_le(&mut self) -> Result<u32, Malformed> {
        self.array().map(u32::from_le_bytes)
    }

    /// Little-endian.
    ///
    /// # Errors
    /// [`Malformed`] at the end.
    pub fn u64_le(&mut self) -> Result<u64, Malformed> {
        self.array().map(u64::from_le_bytes)
    }

    /// A field whose 32-bit little-endian length stands before it and may not exceed `max`.
    ///
    /// # Errors
    /// [`Malformed`] where the length is over `max` or past the end.
    pub fn sized_u32_le(&mut self, max: usize) -> Result<&'a [u8], Malformed> {
        let at = self.at;
        let n = usize::try_from(self.u32_le()?).unwrap_or(usize::MAX);
        if n > max || n > self.remaining() {
            return Err(Malformed { what: self.what, at, why: "length past the end or over the limit" });
        }
        self.take(n)
    }

    /// A TPM2B: 16-bit big-endian size, then as many bytes, at most `max` (TPM 2.0 Part 2 §10.4).
    ///
    /// # Errors
    /// [`Malformed`] where the size is over `max` or past the end.
    pub fn tpm2b(&mut self, max: usize) -> Result<&'a [u8], Malformed> {
        let at = self.at;
        let n = usize::from(self.u16_be()?);
        if n > max {
            return Err(Malformed { what: self.what, at, why: "TPM2B over its limit" });
        }
        self.take(n)
    }

    /// Ends the reading: nothing may be left.
    ///
    /// # Errors
    /// [`Malformed`] where bytes follow.
    pub const fn finish(&self) -> Result<(), Malformed> {
        if self.is_empty() { Ok(()) } else { Err(self.malformed("bytes follow the end")) }
    }
}
