//! TPM 2.0 structures that cross the wire, read and written byte by byte: TPMT_PUBLIC, TPMS_ATTEST, TPMT_SIGNATURE,
//! TPM2B, Names. No TPM library is needed to understand a TPM (TPM 2.0 Part 2; section numbers are those of
//! revision 1.59).

use crate::{
    error::{Malformed, Refused},
    limits::{MAX_PCR_BANKS, MAX_TPM2B},
    pcr::{PROFILE_PCRS, sha256_of},
    reader::Reader,
};

/// TPM_GENERATED_VALUE: begins every structure that a TPM itself attests (§6.2).
pub const GENERATED: u32 = 0xFF54_4347;
/// TPM_ST_ATTEST_QUOTE (§6.9).
pub const ST_ATTEST_QUOTE: u16 = 0x8018;
/// TPM_RH_ENDORSEMENT (§7.4): where the attestation key hangs.
pub const RH_ENDORSEMENT: u32 = 0x4000_000B;

const ALG_RSA: u16 = 0x0001;
const ALG_AES: u16 = 0x0006;
const ALG_SHA256: u16 = 0x000B;
const ALG_SHA384: u16 = 0x000C;
const ALG_NULL: u16 = 0x0010;
const ALG_ECDSA: u16 = 0x0018;
const ALG_ECC: u16 = 0x0023;
const ALG_CFB: u16 = 0x0043;
const CURVE_P256: u16 = 0x0003;
const CURVE_P384: u16 = 0x0004;

/// fixedTPM, fixedParent, sensitiveDataOrigin, userWithAuth, noDA, restricted, sign (§8.3): the only attributes with
/// which an attestation key is accepted.
pub const AK_ATTRIBUTES: u32 = 0x0005_0472;
/// EK templates L-1 and L-2: fixedTPM, fixedParent, sensitiveDataOrigin, adminWithPolicy, restricted, decrypt
/// (TCG EK Credential Profile 2.5, appendix B.3).
const EK_LOW_ATTRIBUTES: u32 = 0x0003_00B2;
/// EK templates of the high range add userWithAuth (same, B.4).
const EK_HIGH_ATTRIBUTES: u32 = 0x0003_00F2;

/// PolicyA for SHA-256: TPM2_PolicySecret(TPM_RH_ENDORSEMENT) (TCG EK Credential Profile 2.5, B.6).
pub const EK_POLICY_A_SHA256: [u8; 32] = [
    0x83, 0x71, 0x97, 0x67, 0x44, 0x84, 0xB3, 0xF8, 0x1A, 0x90, 0xCC, 0x8D, 0x46, 0xA5, 0xD7, 0x24, 0xFD, 0x52, 0xD7,
    0x6E, 0x06, 0x52, 0x0B, 0x64, 0xF2, 0xA1, 0xDA, 0x1B, 0x33, 0x14, 0x69, 0xAA,
];
/// PolicyB for SHA-384: PolicyOR(PolicyA, PolicyC) (same, B.6.4).
pub const EK_POLICY_B_SHA384: [u8; 48] = [
    0xB2, 0x6E, 0x7D, 0x28, 0xD1, 0x1A, 0x50, 0xBC, 0x53, 0xD8, 0x82, 0xBC, 0xF5, 0xFD, 0x3A, 0x1A, 0x07, 0x41, 0x48,
    0xBB, 0x35, 0xD3, 0xB4, 0xE4, 0xCB, 0x1C, 0x0A, 0xD9, 0xBD, 0xE4, 0x19, 0xCA, 0xCB, 0x47, 0xBA, 0x09, 0x69, 0x96,
    0x46, 0x15, 0x0F, 0x9F, 0xC0, 0x00, 0xF3, 0xF8, 0x0E, 0x12,
];

/// Writes TPM structures.
#[derive(Default)]
struct Writer(Vec<u8>);

impl Writer {
    fn u16(mut self, value: u16) -> Self {
        self.0.extend_from_slice(&value.to_be_bytes());
        self
    }

    fn u32(mut self, value: u32) -> Self {
        self.0.extend_from_slice(&value.to_be_bytes());
        self
    }

    fn tpm2b(self, bytes: &[u8]) -> Self {
        // Callers pass keys and digests of fixed, small size.
        let mut with_size = self.u16(u16::try_from(bytes.len()).unwrap_or(u16::MAX));
        with_size.0.extend_from_slice(bytes);
        with_size
    }
}

/// Adds the 16-bit size that makes a TPM2B of a structure (§10.4).
#[must_use]
pub fn tpm2b(structure: &[u8]) -> Vec<u8> {
    Writer::default().tpm2b(structure).0
}

/// Strips the 16-bit size where the whole input is one TPM2B, and leaves a bare structure as it is: tools write both.
#[must_use]
pub fn without_size(bytes: &[u8]) -> &[u8] {
    match bytes.split_first_chunk::<2>() {
        Some((size, rest)) if usize::from(u16::from_be_bytes(*size)) == rest.len() => rest,
        _ => bytes,
    }
}

/// A public area (TPMT_PUBLIC, §12.2.4), as far as keys of this field need it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Public<'a> {
    /// nameAlg, a TPM_ALG_ID.
    pub name_algorithm: u16,
    /// objectAttributes (§8.3).
    pub attributes: u32,
    /// authPolicy digest; empty without one.
    pub auth_policy: &'a [u8],
    /// Type, parameters and the public key itself.
    pub key: PublicKey<'a>,
}

/// Type-specific part of a public area.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PublicKey<'a> {
    /// TPMS_RSA_PARMS and the modulus (§12.2.3.5).
    Rsa {
        /// Key size, bits.
        bits: u16,
        /// Public exponent; 0 stands for 65537.
        exponent: u32,
        /// Modulus, big-endian.
        modulus: &'a [u8],
    },
    /// TPMS_ECC_PARMS and the point (§12.2.3.6).
    Ecc {
        /// TPM_ECC_CURVE.
        curve: u16,
        /// Affine x, big-endian.
        x: &'a [u8],
        /// Affine y, big-endian.
        y: &'a [u8],
    },
}

impl<'a> Public<'a> {
    /// Reads a TPMT_PUBLIC, or a TPM2B_PUBLIC, to its end.
    ///
    /// # Errors
    /// [`Malformed`] at the first byte that does not fit, or for object types other than RSA and ECC keys.
    pub fn read(bytes: &'a [u8]) -> Result<Self, Malformed> {
        let mut r = Reader::new("TPMT_PUBLIC", without_size(bytes));
        let kind = r.u16_be()?;
        let name_algorithm = r.u16_be()?;
        let attributes = r.u32_be()?;
        let auth_policy = r.tpm2b(64)?;
        let key = match kind {
            ALG_RSA => {
                read_symmetric(&mut r)?;
                read_scheme(&mut r)?;
                let bits = r.u16_be()?;
                let exponent = r.u32_be()?;
                PublicKey::Rsa { bits, exponent, modulus: r.tpm2b(MAX_TPM2B)? }
            }
            ALG_ECC => {
                read_symmetric(&mut r)?;
                read_scheme(&mut r)?;
                let curve = r.u16_be()?;
                read_scheme(&mut r)?;
                PublicKey::Ecc { curve, x: r.tpm2b(128)?, y: r.tpm2b(128)? }
            }
            _ => return Err(r.malformed("object is neither an RSA nor an ECC key")),
        };
        r.finish()?;
        Ok(Self { name_algorithm, attributes, auth_policy, key })
    }
}

/// TPMT_SYM_DEF_OBJECT (§11.1.7).
fn read_symmetric(r: &mut Reader<'_>) -> Result<(), Malformed> {
    if r.u16_be()? != ALG_NULL {
        let _bits_and_mode = r.take(4)?;
    }
    Ok(())
}

/// TPMT_RSA_SCHEME, TPMT_ECC_SCHEME, TPMT_KDF_SCHEME: an algorithm, and a hash unless it is null (§11.2).
fn read_scheme(r: &mut Reader<'_>) -> Result<(), Malformed> {
    if r.u16_be()? != ALG_NULL {
        let _hash = r.u16_be()?;
    }
    Ok(())
}

/// A P-256 point as two 32-byte coordinates.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct P256Point {
    /// Affine x.
    pub x: [u8; 32],
    /// Affine y.
    pub y: [u8; 32],
}

impl P256Point {
    /// SEC 1 uncompressed form, as ring takes it.
    #[must_use]
    pub fn uncompressed(&self) -> [u8; 65] {
        let mut out = [4; 65];
        out[1..33].copy_from_slice(&self.x);
        out[33..].copy_from_slice(&self.y);
        out
    }
}

/// An attestation key's public area that equals the profile's template in everything but the point.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AkPublic {
    point: P256Point,
    name_digest: [u8; 32],
}

impl AkPublic {
    /// From a point: the public area is the profile's, so nothing else is needed.
    #[must_use]
    pub fn from_point(point: P256Point) -> Self {
        let name_digest = sha256_of(&[&ak_public_area(&point)]);
        Self { point, name_digest }
    }

    /// From a TPMT_PUBLIC or TPM2B_PUBLIC. The whole area is compared: one attribute off is another key.
    ///
    /// # Errors
    /// [`Malformed`] where it cannot be read, or differs from the profile's template by a bit.
    pub fn read(bytes: &[u8]) -> Result<Self, Malformed> {
        let off_template = || Malformed {
            what: "AK public area",
            at: 0,
            why: "differs from the profile's template for attestation keys",
        };
        let area = without_size(bytes);
        let PublicKey::Ecc { x, y, .. } = Public::read(area)?.key else { return Err(off_template()) };
        // TPMs may leave out leading zeros; the Name is over the area as the TPM holds it, so only full size counts.
        let point =
            P256Point { x: x.try_into().map_err(|_| off_template())?, y: y.try_into().map_err(|_| off_template())? };
        if ak_public_area(&point) != area {
            return Err(off_template());
        }
        Ok(Self::from_point(point))
    }

    /// The key itself.
    #[must_use]
    pub const fn point(&self) -> &P256Point {
        &self.point
    }

    /// TPMT_PUBLIC.
    #[must_use]
    pub fn area(&self) -> Vec<u8> {
        ak_public_area(&self.point)
    }

    /// Digest part of the Name (Part 1 §16): SHA-256 of the public area. `kid` in evidence.
    #[must_use]
    pub const fn name_digest(&self) -> &[u8; 32] {
        &self.name_digest
    }

    /// The Name: nameAlg ‖ digest.
    #[must_use]
    pub fn name(&self) -> [u8; 34] {
        name_of(&self.name_digest)
    }

    /// Qualified Name of this key as a primary of the endorsement hierarchy: nameAlg ‖ H(TPM_RH_ENDORSEMENT ‖ Name)
    /// (Part 1 §16.1). It shows in each quote, and proves where the key hangs.
    #[must_use]
    pub fn qualified_name(&self) -> [u8; 34] {
        name_of(&sha256_of(&[&RH_ENDORSEMENT.to_be_bytes(), &self.name()]))
    }
}

fn name_of(digest: &[u8; 32]) -> [u8; 34] {
    let mut name = [0; 34];
    name[..2].copy_from_slice(&ALG_SHA256.to_be_bytes());
    name[2..].copy_from_slice(digest);
    name
}

/// TPMT_PUBLIC of an attestation key: ECC P-256, ECDSA with SHA-256, restricted signing.
fn ak_public_area(point: &P256Point) -> Vec<u8> {
    let w = Writer::default().u16(ALG_ECC).u16(ALG_SHA256).u32(AK_ATTRIBUTES).tpm2b(&[]);
    let w = w.u16(ALG_NULL).u16(ALG_ECDSA).u16(ALG_SHA256).u16(CURVE_P256).u16(ALG_NULL);
    w.tpm2b(&point.x).tpm2b(&point.y).0
}

/// The public key of an endorsement key, as its certificate holds it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EkKey {
    /// RSA-2048: the modulus, 256 bytes; the exponent is 65537.
    Rsa2048(Box<[u8; 256]>),
    /// ECC P-256: x ‖ y.
    P256([u8; 64]),
    /// ECC P-384: x ‖ y.
    P384([u8; 96]),
}

impl EkKey {
    /// TPMT_PUBLIC by the TCG default template for this key: L-1 (RSA-2048), L-2 (P-256), H-3 (P-384), TCG EK
    /// Credential Profile 2.5 appendix B. What a device sends is compared with this, never used in its place.
    #[must_use]
    pub fn public_area(&self) -> Vec<u8> {
        let low = |alg| {
            let w = Writer::default().u16(alg).u16(ALG_SHA256).u32(EK_LOW_ATTRIBUTES).tpm2b(&EK_POLICY_A_SHA256);
            w.u16(ALG_AES).u16(128).u16(ALG_CFB)
        };
        match self {
            Self::Rsa2048(modulus) => low(ALG_RSA).u16(ALG_NULL).u16(2048).u32(0).tpm2b(modulus.as_slice()).0,
            Self::P256(point) => {
                let (x, y) = point.split_at(32);
                low(ALG_ECC).u16(ALG_NULL).u16(CURVE_P256).u16(ALG_NULL).tpm2b(x).tpm2b(y).0
            }
            Self::P384(point) => {
                let (x, y) = point.split_at(48);
                let w = Writer::default().u16(ALG_ECC).u16(ALG_SHA384).u32(EK_HIGH_ATTRIBUTES);
                let w = w.tpm2b(&EK_POLICY_B_SHA384).u16(ALG_AES).u16(256).u16(ALG_CFB);
                w.u16(ALG_NULL).u16(CURVE_P384).u16(ALG_NULL).tpm2b(x).tpm2b(y).0
            }
        }
    }
}

/// SubjectPublicKeyInfo up to the key itself, and behind it (RFC 5480 §2.1, RFC 8017 A.1): for keys of one size these
/// bytes never change.
const SPKI_P256: &[u8] =
    b"\x30\x59\x30\x13\x06\x07\x2A\x86\x48\xCE\x3D\x02\x01\x06\x08\x2A\x86\x48\xCE\x3D\x03\x01\x07\x03\x42\x00\x04";
const SPKI_P384: &[u8] =
    b"\x30\x76\x30\x10\x06\x07\x2A\x86\x48\xCE\x3D\x02\x01\x06\x05\x2B\x81\x04\x00\x22\x03\x62\x00\x04";
const SPKI_RSA2048: &[u8] =
    b"\x30\x82\x01\x22\x30\x0D\x06\x09\x2A\x86\x48\x86\xF7\x0D\x01\x01\x01\x05\x00\x03\x82\x01\x0F\x00\x30\x82\x01\x0A\
    \x02\x82\x01\x01\x00";
const SPKI_EXPONENT: &[u8] = b"\x02\x03\x01\x00\x01";

impl EkKey {
    /// The key of a public area (TPMT_PUBLIC or TPM2B_PUBLIC) that equals the TCG default template for it to the last
    /// bit; `None` for any other.
    #[must_use]
    pub fn of_public_area(sent: &[u8]) -> Option<Self> {
        let area = without_size(sent);
        let key = match Public::read(area).ok()?.key {
            PublicKey::Rsa { modulus, .. } => Self::Rsa2048(Box::new(modulus.try_into().ok()?)),
            PublicKey::Ecc { x, y, .. } => Self::of_point(&[x, y].concat())?,
        };
        (key.public_area() == area).then_some(key)
    }

    /// The key of a SubjectPublicKeyInfo in the DER that certificates have; `None` for other kinds and sizes.
    #[must_use]
    pub fn of_spki(der: &[u8]) -> Option<Self> {
        if let Some(modulus) = der.strip_prefix(SPKI_RSA2048).and_then(|rest| rest.strip_suffix(SPKI_EXPONENT)) {
            let modulus: &[u8; 256] = modulus.try_into().ok()?;
            // 2048 bits, and odd.
            let plausible = modulus.first()? & 0x80 != 0 && modulus.last()? & 1 == 1;
            return plausible.then(|| Self::Rsa2048(Box::new(*modulus)));
        }
        let point = der.strip_prefix(SPKI_P256).or_else(|| der.strip_prefix(SPKI_P384))?;
        Self::of_point(point).filter(|key| key.spki() == der)
    }

    /// x ‖ y, told apart by their size.
    fn of_point(point: &[u8]) -> Option<Self> {
        let p256 = point.try_into().ok().map(Self::P256);
        p256.or_else(|| point.try_into().ok().map(Self::P384))
    }

    /// SubjectPublicKeyInfo, DER, byte for byte as a certificate of this key has it.
    #[must_use]
    pub fn spki(&self) -> Vec<u8> {
        match self {
            Self::Rsa2048(modulus) => [SPKI_RSA2048, modulus.as_slice(), SPKI_EXPONENT].concat(),
            Self::P256(point) => [SPKI_P256, point].concat(),
            Self::P384(point) => [SPKI_P384, point].concat(),
        }
    }

    /// SHA-256 of [`Self::spki`]: by which an endorsement key is registered, listed and denied.
    #[must_use]
    pub fn digest(&self) -> [u8; 32] {
        sha256_of(&[&self.spki()])
    }
}

/// TPMS_CLOCK_INFO (§10.11.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Counters {
    /// Times the TPM was reset (power cycles).
    pub reset: u32,
    /// Times it was restarted or resumed since.
    pub restart: u32,
    /// Milliseconds that the TPM was powered since it was last cleared.
    pub clock: u64,
}

/// TPMS_ATTEST (§10.12.12).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attest<'a> {
    /// Qualified Name of the key that signed.
    pub qualified_signer: &'a [u8],
    /// What the caller committed to.
    pub extra_data: &'a [u8],
    /// When, by the TPM's own counters. Ordered by (reset, restart, clock).
    pub counters: Counters,
    /// Whether the clock can not have been set back by an unorderly shutdown.
    pub safe: bool,
    /// Vendor's firmware version.
    pub firmware_version: u64,
    /// What was attested.
    pub attested: Attested<'a>,
}

/// TPMU_ATTEST (§10.12.11).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Attested<'a> {
    /// TPMS_QUOTE_INFO (§10.12.1).
    Quote {
        /// One entry a bank.
        selection: Vec<PcrSelection>,
        /// Digest over the selected PCRs.
        pcr_digest: &'a [u8],
    },
    /// Another TPM_ST_ATTEST type, whose content is not read.
    Other {
        /// TPM_ST.
        structure_tag: u16,
        /// The attested part, as it is.
        bytes: &'a [u8],
    },
}

/// TPMS_PCR_SELECTION (§10.6.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PcrSelection {
    /// Bank, a TPM_ALG_ID.
    pub hash: u16,
    /// Bit n stands for PCR n.
    pub pcrs: u32,
}

impl<'a> Attest<'a> {
    /// Reads a TPMS_ATTEST, or a TPM2B_ATTEST, to its end.
    ///
    /// # Errors
    /// [`Malformed`] at the first byte that does not fit: the TPM's magic, a boolean that is neither 0 nor 1, sizes.
    pub fn read(bytes: &'a [u8]) -> Result<Self, Malformed> {
        let mut r = Reader::new("TPMS_ATTEST", without_size(bytes));
        if r.u32_be()? != GENERATED {
            return Err(Malformed { what: "TPMS_ATTEST", at: 0, why: "does not begin with TPM_GENERATED_VALUE" });
        }
        let structure_tag = r.u16_be()?;
        let qualified_signer = r.tpm2b(66)?;
        let extra_data = r.tpm2b(66)?;
        let clock = r.u64_be()?;
        let counters = Counters { clock, reset: r.u32_be()?, restart: r.u32_be()? };
        let safe = match r.u8()? {
            0 => false,
            1 => true,
            _ => return Err(r.malformed("TPMI_YES_NO is neither 0 nor 1")),
        };
        let firmware_version = r.u64_be()?;
        let attested = if structure_tag == ST_ATTEST_QUOTE {
            let selection = read_selection(&mut r)?;
            Attested::Quote { selection, pcr_digest: r.tpm2b(64)? }
        } else {
            Attested::Other { structure_tag, bytes: r.take(r.remaining())? }
        };
        r.finish()?;
        Ok(Self { qualified_signer, extra_data, counters, safe, firmware_version, attested })
    }

    /// The digest over exactly the profile's PCRs (SHA-256 bank, 0 to 15).
    ///
    /// # Errors
    /// [`Refused`] where this is no quote, or covers other PCRs: fewer would leave the rest to the imagination.
    pub fn profile_pcr_digest(&self) -> Result<[u8; 32], Refused> {
        let Attested::Quote { selection, pcr_digest } = &self.attested else { return Err(Refused::NotAQuote) };
        let profile = PcrSelection { hash: ALG_SHA256, pcrs: (1 << PROFILE_PCRS) - 1 };
        if selection.as_slice() != [profile] {
            return Err(Refused::PcrSelection);
        }
        (*pcr_digest).try_into().map_err(|_| Refused::PcrSelection)
    }
}

/// TPML_PCR_SELECTION (§10.9.7).
fn read_selection(r: &mut Reader<'_>) -> Result<Vec<PcrSelection>, Malformed> {
    let count = usize::try_from(r.u32_be()?).unwrap_or(usize::MAX);
    if count > MAX_PCR_BANKS {
        return Err(r.malformed("more PCR banks than a TPM has"));
    }
    let mut banks = Vec::with_capacity(count);
    for _ in 0..count {
        let hash = r.u16_be()?;
        let size = r.u8()?;
        if !(1..=4).contains(&size) {
            return Err(r.malformed("sizeofSelect is not 1 to 4"));
        }
        let mut bits = [0; 4];
        for (to, from) in bits.iter_mut().zip(r.take(usize::from(size))?) {
            *to = *from;
        }
        banks.push(PcrSelection { hash, pcrs: u32::from_le_bytes(bits) });
    }
    Ok(banks)
}

/// Reads a TPMT_SIGNATURE with ECDSA and SHA-256 (§11.3.4) as r ‖ s, each left-padded to 32 bytes.
///
/// # Errors
/// [`Malformed`] for other algorithms and sizes.
pub fn read_ecdsa_signature(bytes: &[u8]) -> Result<[u8; 64], Malformed> {
    let mut r = Reader::new("TPMT_SIGNATURE", bytes);
    if r.u16_be()? != ALG_ECDSA || r.u16_be()? != ALG_SHA256 {
        return Err(Malformed { what: "TPMT_SIGNATURE", at: 0, why: "is not ECDSA with SHA-256" });
    }
    let signature = join_ecdsa_signature(r.tpm2b(32)?, r.tpm2b(32)?);
    r.finish()?;
    signature.ok_or_else(|| r.malformed("r or s is longer than 32 bytes"))
}

/// r ‖ s, each left-padded to 32 bytes: TPMs leave out leading zeros. `None` where one is longer.
#[must_use]
pub fn join_ecdsa_signature(r: &[u8], s: &[u8]) -> Option<[u8; 64]> {
    let mut out = [0; 64];
    let (left, right) = out.split_at_mut(32);
    for (half, bytes) in [(left, r), (right, s)] {
        let start = half.len().checked_sub(bytes.len())?;
        half.get_mut(start..)?.copy_from_slice(bytes);
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ak_area(change: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
        let mut area = ak_public_area(&P256Point { x: [7; 32], y: [9; 32] });
        change(&mut area);
        area
    }

    #[test]
    fn an_ak_by_the_template_reads_with_and_without_size() {
        let area = ak_area(|_| {});
        let key = AkPublic::read(&area).unwrap();
        assert_eq!(key, AkPublic::read(&tpm2b(&area)).unwrap());
        assert_eq!(key.area(), area);
    }

    #[test]
    fn an_ak_public_area_with_any_bit_flipped_outside_its_point_is_refused() {
        let area = ak_area(|_| {});
        let point_starts = area.len() - 2 * 34;
        for bit in 0..point_starts * 8 {
            let flipped = ak_area(|a| a[bit / 8] ^= 1 << (bit % 8));
            assert!(AkPublic::read(&flipped).is_err(), "bit {bit}");
        }
    }

    #[test]
    fn signatures_with_short_halves_are_padded_on_the_left() {
        let joined = join_ecdsa_signature(&[1], &[2; 32]).unwrap();
        assert_eq!((joined[30], joined[31], joined[32]), (0, 1, 2));
        assert_eq!(join_ecdsa_signature(&[1; 33], &[2; 32]), None);
    }

    fn vector(name: &str) -> Vec<u8> {
        let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/vectors/ek");
        std::fs::read(folder.join(name)).unwrap()
    }

    #[test]
    fn a_rebuilt_subject_public_key_info_is_the_certificates_byte_for_byte() {
        for (public, certificate) in [("ek-ecc384.pub", "ek-ecc384.crt"), ("ek-rsa2048.pub", "ek-rsa2048.crt")] {
            let key = EkKey::of_public_area(&vector(public)).unwrap();
            let (spki, certificate) = (key.spki(), vector(certificate));
            assert!(certificate.windows(spki.len()).any(|window| window == spki), "{public}");
            assert_eq!(EkKey::of_spki(&spki), Some(key.clone()));
            for cut in 0..spki.len() {
                assert_eq!(EkKey::of_spki(&spki[..cut]), None);
            }
            assert_eq!(EkKey::of_spki(&[&spki[..], &[0]].concat()), None);
        }
        let p256 = EkKey::P256([5; 64]);
        assert_eq!(EkKey::of_spki(&p256.spki()), Some(p256.clone()));
        // `openssl pkey -pubin -outform der` of this very key has this prefix and 91 bytes.
        assert_eq!(p256.spki().len(), 91);
    }

    #[test]
    fn a_public_area_off_its_template_by_one_bit_is_no_endorsement_key() {
        for key in [EkKey::P256([5; 64]), EkKey::P384([6; 96]), EkKey::Rsa2048(Box::new([0x85; 256]))] {
            let area = key.public_area();
            let key_bytes = match key {
                EkKey::P256(_) => 68,
                EkKey::P384(_) => 100,
                EkKey::Rsa2048(_) => 258,
            };
            assert_eq!(EkKey::of_public_area(&tpm2b(&area)), Some(key.clone()));
            for bit in 0..(area.len() - key_bytes) * 8 {
                let mut flipped = area.clone();
                flipped[bit / 8] ^= 1 << (bit % 8);
                assert_eq!(EkKey::of_public_area(&flipped), None, "bit {bit}");
            }
        }
    }
}
