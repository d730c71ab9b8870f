//! UEFI variables as events carry them (UEFI_VARIABLE_DATA, Platform Firmware Profile §10.2), and the signature
//! databases in them (EFI_SIGNATURE_LIST, UEFI §32.4.1).

use std::fmt;

use super::{device_path::DevicePath, text::Utf16};
use crate::{error::Malformed, reader::Reader};

const WHAT: &str = "UEFI variable";
const LISTS: &str = "EFI_SIGNATURE_LIST";
/// EFI_SIGNATURE_LIST without header and signatures: type and three lengths.
const LIST_HEADER: usize = 28;
/// SignatureOwner at the beginning of every EFI_SIGNATURE_DATA.
const OWNER: usize = 16;

/// Bytes that may follow a variable: older shims count their structure's padding.
const SLACK: usize = 8;

/// A GUID in the byte order of UEFI (§2.3.1): its first three fields are little-endian.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Guid(pub [u8; 16]);

/// Vendor of SecureBoot, SetupMode, PK, KEK, BootOrder… (UEFI §3.3).
pub const EFI_GLOBAL_VARIABLE: Guid = Guid::new(0x8BE4_DF61_93CA_11D2_AA0D_00E0_9803_2B8C);
/// Vendor of db and dbx (UEFI §32.4).
pub const EFI_IMAGE_SECURITY_DATABASE: Guid = Guid::new(0xD719_B2CB_3D3A_4596_A3BC_DAD0_0E67_656F);
/// Vendor of shim's variables: MokList, MokListX, SbatLevel, Shim….
pub const SHIM_LOCK: Guid = Guid::new(0x605D_AB50_E046_4300_ABB6_3DD8_10DD_8B23);
/// Signature type: SHA-256 of an image (UEFI §32.4.1).
pub const EFI_CERT_SHA256: Guid = Guid::new(0xC1C4_1626_504C_4092_ACA9_41F9_3693_4328);
/// Signature type: DER certificate (UEFI §32.4.1).
pub const EFI_CERT_X509: Guid = Guid::new(0xA5C0_59A1_94E4_4AA7_87B5_AB15_5C2B_F072);

impl Guid {
    /// From the digits in the order in which a GUID is written.
    #[must_use]
    pub const fn new(digits: u128) -> Self {
        let [a, b, c, d, e, f, g, h, rest @ ..] = digits.to_be_bytes();
        let [i, j, k, l, m, n, o, p] = rest;
        Self([d, c, b, a, f, e, h, g, i, j, k, l, m, n, o, p])
    }

    /// Name of a vendor or signature type that UEFI or shim gives.
    #[must_use]
    pub fn name(&self) -> Option<&'static str> {
        Some(match *self {
            EFI_GLOBAL_VARIABLE => "EFI_GLOBAL_VARIABLE",
            EFI_IMAGE_SECURITY_DATABASE => "EFI_IMAGE_SECURITY_DATABASE",
            SHIM_LOCK => "SHIM_LOCK",
            EFI_CERT_SHA256 => "EFI_CERT_SHA256",
            EFI_CERT_X509 => "EFI_CERT_X509",
            _ => return None,
        })
    }
}

impl fmt::Display for Guid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g, h, i, rest @ ..] = self.0;
        write!(f, "{d:02x}{c:02x}{b:02x}{a:02x}-{g:02x}{e:02x}-{i:02x}{h:02x}-")?;
        for (at, byte) in rest.iter().enumerate() {
            write!(f, "{}{byte:02x}", if at == 2 { "-" } else { "" })?;
        }
        Ok(())
    }
}

impl fmt::Debug for Guid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Guid({self})")
    }
}

/// A variable as it was measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Variable<'a> {
    /// VendorGuid.
    pub vendor: Guid,
    /// UnicodeName, UTF-16LE, as long as the event says.
    pub name_utf16: &'a [u8],
    /// VariableData.
    pub data: &'a [u8],
}

impl<'a> Variable<'a> {
    /// UEFI_VARIABLE_DATA: vendor, length of the name in characters, length of the data in bytes, both.
    pub(super) fn read(bytes: &'a [u8]) -> Result<Self, Malformed> {
        let mut reader = Reader::new(WHAT, bytes);
        let vendor = Guid(reader.array()?);
        let at_length = reader.malformed("length past the end");
        let length = |length: u64| usize::try_from(length).map_err(|_| at_length.clone());
        let (characters, size) = (length(reader.u64_le()?)?, length(reader.u64_le()?)?);
        let name_utf16 = reader.take(characters.checked_mul(2).ok_or(at_length.clone())?)?;
        let data = reader.take(size)?;
        if reader.remaining() > SLACK {
            return Err(reader.malformed("bytes follow the end"));
        }
        Ok(Self { vendor, name_utf16, data })
    }

    /// The name, with what cannot be shown escaped.
    #[must_use]
    pub fn name(&self) -> String {
        Utf16(self.name_utf16).to_string()
    }

    /// Whether it is this variable: vendor and name, exactly.
    #[must_use]
    pub fn is(&self, vendor: Guid, name: &str) -> bool {
        self.vendor == vendor
            && Utf16(self.name_utf16).chars().eq(name.chars().map(Ok))
            && self.name_utf16.len().is_multiple_of(2)
    }
}

/// EFI_LOAD_OPTION (UEFI §3.1.3): what a Boot#### variable holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LoadOption<'a> {
    /// Description, UTF-16LE.
    pub description_utf16: &'a [u8],
    /// FilePathList.
    pub path: DevicePath<'a>,
}

impl<'a> LoadOption<'a> {
    /// Reads one; `None` where `bytes` are none.
    #[must_use]
    pub fn read(bytes: &'a [u8]) -> Option<Self> {
        let mut reader = Reader::new(WHAT, bytes);
        let _attributes = reader.u32_le().ok()?;
        let length = usize::from(reader.u16_le().ok()?);
        let rest = bytes.get(reader.at()..)?;
        let characters = rest.as_chunks::<2>().0.iter().position(|unit| *unit == [0, 0])?;
        let description_utf16 = reader.take(characters.checked_mul(2)?).ok()?;
        let _nul = reader.u16_le().ok()?;
        Some(Self { description_utf16, path: DevicePath(reader.take(length).ok()?) })
    }
}

/// One entry of a signature database.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Signature<'a> {
    /// SignatureType of the list that it stands in.
    pub kind: Guid,
    /// SignatureOwner: who put it there; no part of what is allowed or forbidden.
    pub owner: Guid,
    /// SignatureData: a certificate, a digest…
    pub data: &'a [u8],
}

/// The entries of a signature database: EFI_SIGNATURE_LISTs, one after the other.
#[must_use]
pub const fn signatures(data: &[u8]) -> Signatures<'_> {
    Signatures { reader: Reader::new(LISTS, data), kind: Guid([0; 16]), size: OWNER, list_end: 0, failed: false }
}

/// Iterator of [`signatures`]; ends after the first error.
#[derive(Debug, Clone)]
pub struct Signatures<'a> {
    reader: Reader<'a>,
    kind: Guid,
    /// Bytes of each signature in the present list, owner included.
    size: usize,
    list_end: usize,
    failed: bool,
}

impl<'a> Signatures<'a> {
    fn list(&mut self) -> Result<(), Malformed> {
        let start = self.reader.at();
        self.kind = Guid(self.reader.array()?);
        let at_lengths = self.reader.malformed("lengths that do not agree");
        let mut length = || self.reader.u32_le().map(|length| usize::try_from(length).unwrap_or(usize::MAX));
        let (list, header, size) = (length()?, length()?, length()?);
        let body = list.checked_sub(LIST_HEADER).and_then(|rest| rest.checked_sub(header)).ok_or(at_lengths.clone())?;
        self.reader.take(header)?;
        if body > self.reader.remaining() {
            return Err(Malformed { why: "ends too early", ..at_lengths });
        }
        if body > 0 && (size <= OWNER || !body.is_multiple_of(size)) {
            return Err(at_lengths);
        }
        (self.size, self.list_end) = (size, start.saturating_add(list));
        Ok(())
    }

    fn step(&mut self) -> Result<Option<Signature<'a>>, Malformed> {
        while self.reader.at() >= self.list_end {
            if self.reader.is_empty() {
                return Ok(None);
            }
            self.list()?;
        }
        let owner = Guid(self.reader.array()?);
        let data = self.reader.take(self.size.saturating_sub(OWNER))?;
        Ok(Some(Signature { kind: self.kind, owner, data }))
    }
}

impl<'a> Iterator for Signatures<'a> {
    type Item = Result<Signature<'a>, Malformed>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.failed {
            return None;
        }
        let step = self.step().transpose();
        self.failed = matches!(step, Some(Err(_)));
        step
    }
}
