//! UEFI device paths as text (UEFI §10): the bytes of a path in; one line out. Text form of §10.6.1 for the common nodes;
//! others show type, subtype and bytes.

use std::fmt;

use super::{
    text::{Hex, Utf16, without_wide_nul},
    variable::Guid,
};
use crate::{error::Malformed, reader::Reader};

const WHAT: &str = "device path";
/// Type and subtype of the end of a whole path, and of one instance of a path with several.
const END: (u8, u8) = (0x7F, 0xFF);
const END_OF_INSTANCE: (u8, u8) = (0x7F, 0x01);
/// EISA vendor "PNP" in the lower half of an ACPI _HID.
const PNP: u32 = 0x41D0;

/// A device path, not decoded yet. Its text ends where the path stops being one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DevicePath<'a>(pub(super) &'a [u8]);

impl<'a> DevicePath<'a> {
    /// The path as firmware wrote it.
    #[must_use]
    pub const fn bytes(&self) -> &'a [u8] {
        self.0
    }
}

impl fmt::Display for DevicePath<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut reader = Reader::new(WHAT, self.0);
        let mut separator = "";
        while !reader.is_empty() {
            let rest = self.0.get(reader.at()..).unwrap_or(&[]);
            let Ok(node) = Node::read(&mut reader) else {
                return write!(f, "{separator}malformed:{}", Hex(rest));
            };
            match node.kind {
                END => return Ok(()),
                END_OF_INSTANCE => separator = ",",
                _ => {
                    write!(f, "{separator}")?;
                    node.write(f)?;
                    separator = "/";
                }
            }
        }
        Ok(())
    }
}

/// One node: type, subtype and what follows its length.
struct Node<'a> {
    kind: (u8, u8),
    body: &'a [u8],
}

impl<'a> Node<'a> {
    fn read(reader: &mut Reader<'a>) -> Result<Self, Malformed> {
        let kind = (reader.u8()?, reader.u8()?);
        let at_length = reader.malformed("shorter than its header");
        let length = usize::from(reader.u16_le()?).checked_sub(4).ok_or(at_length)?;
        Ok(Self { kind, body: reader.take(length)? })
    }

    fn write(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let known = match self.kind.0 {
            1 => self.hardware(f),
            2 => self.acpi(f),
            3 => self.messaging(f),
            4 => self.media(f),
            _ => None,
        };
        match known {
            Some(written) => written,
            None => write!(f, "Path({},{},{})", self.kind.0, self.kind.1, Hex(self.body)),
        }
    }

    /// §10.3.2. As the others: `None` for a node that is not known or too short.
    fn hardware(&self, f: &mut fmt::Formatter<'_>) -> Option<fmt::Result> {
        let mut body = Reader::new(WHAT, self.body);
        Some(match self.kind.1 {
            1 => {
                let (function, device) = (body.u8().ok()?, body.u8().ok()?);
                write!(f, "Pci(0x{device:x},0x{function:x})")
            }
            3 => {
                let (memory, start, end) = (body.u32_le().ok()?, body.u64_le().ok()?, body.u64_le().ok()?);
                write!(f, "MemoryMapped(0x{memory:x},0x{start:x},0x{end:x})")
            }
            4 => self.vendor(f, "VenHw")?,
            5 => write!(f, "Ctrl(0x{:x})", body.u32_le().ok()?),
            _ => return None,
        })
    }

    /// §10.3.3.
    fn acpi(&self, f: &mut fmt::Formatter<'_>) -> Option<fmt::Result> {
        let mut body = Reader::new(WHAT, self.body);
        Some(match self.kind.1 {
            // The expanded node begins with the same.
            1 | 2 => {
                let (hid, uid) = (body.u32_le().ok()?, body.u32_le().ok()?);
                write_acpi(f, hid, uid)
            }
            3 => write!(f, "AcpiAdr(0x{:x})", body.u32_le().ok()?),
            _ => return None,
        })
    }

    /// §10.3.4.
    fn messaging(&self, f: &mut fmt::Formatter<'_>) -> Option<fmt::Result> {
        let mut body = Reader::new(WHAT, self.body);
        Some(match self.kind.1 {
            1 => {
                let (primary, slave, lun) = (body.u8().ok()?, body.u8().ok()?, body.u16_le().ok()?);
                write!(f, "Ata(0x{primary:x},0x{slave:x},0x{lun:x})")
            }
            2 => {
                let (target, lun) = (body.u16_le().ok()?, body.u16_le().ok()?);
                write!(f, "Scsi(0x{target:x},0x{lun:x})")
            }
            5 => {
                let (port, interface) = (body.u8().ok()?, body.u8().ok()?);
                write!(f, "USB(0x{port:x},0x{interface:x})")
            }
            10 => self.vendor(f, "VenMsg")?,
            11 => {
                let (address, interface) = (body.take(32).ok()?, body.u8().ok()?);
                let bytes = if interface <= 1 { 6 } else { 32 };
                write!(f, "MAC({},0x{interface:x})", Hex(address.get(..bytes).unwrap_or(address)))
            }
            12 => {
                let ([a, b, c, d], [e, g, h, i]) = (body.array().ok()?, body.array().ok()?);
                write!(f, "IPv4({e}.{g}.{h}.{i},local {a}.{b}.{c}.{d})")
            }
            13 => {
                let (local, remote): ([u8; 16], [u8; 16]) = (body.array().ok()?, body.array().ok()?);
                let [local, remote] = [local, remote].map(std::net::Ipv6Addr::from);
                write!(f, "IPv6({remote},local {local})")
            }
            15 => {
                let (vendor, product, class) = (body.u16_le().ok()?, body.u16_le().ok()?, body.u8().ok()?);
                write!(f, "UsbClass(0x{vendor:x},0x{product:x},0x{class:x})")
            }
            16 => {
                let (interface, vendor, product) = (body.u16_le().ok()?, body.u16_le().ok()?, body.u16_le().ok()?);
                let serial = Utf16(without_wide_nul(body.take(body.remaining()).ok()?));
                write!(f, "UsbWwid(0x{vendor:x},0x{product:x},0x{interface:x},\"{serial}\")")
            }
            17 => write!(f, "Unit(0x{:x})", body.u8().ok()?),
            18 => {
                let (port, multiplier, lun) = (body.u16_le().ok()?, body.u16_le().ok()?, body.u16_le().ok()?);
                write!(f, "Sata(0x{port:x},0x{multiplier:x},0x{lun:x})")
            }
            20 => write!(f, "Vlan({})", body.u16_le().ok()?),
            23 => {
                let (namespace, [a, b, c, d, e, g, h, i]) = (body.u32_le().ok()?, body.array().ok()?);
                write!(f, "NVMe(0x{namespace:x},{a:02X}-{b:02X}-{c:02X}-{d:02X}-{e:02X}-{g:02X}-{h:02X}-{i:02X})")
            }
            24 => write!(f, "Uri({})", super::text::Ascii(self.body)),
            26 => write!(f, "SD(0x{:x})", body.u8().ok()?),
            29 => write!(f, "eMMC(0x{:x})", body.u8().ok()?),
            _ => return None,
        })
    }

    /// §10.3.5 and Platform Initialization 1.7 volume 3 §8.
    fn media(&self, f: &mut fmt::Formatter<'_>) -> Option<fmt::Result> {
        let mut body = Reader::new(WHAT, self.body);
        Some(match self.kind.1 {
            1 => self.hard_drive(f)?,
            2 => write!(f, "CDROM(0x{:x})", body.u32_le().ok()?),
            3 => self.vendor(f, "VenMedia")?,
            4 => write!(f, "{}", FileName(without_wide_nul(self.body))),
            6 => write!(f, "FvFile({})", Guid(body.array().ok()?)),
            7 => write!(f, "Fv({})", Guid(body.array().ok()?)),
            8 => {
                let _reserved = body.u32_le().ok()?;
                let (start, end) = (body.u64_le().ok()?, body.u64_le().ok()?);
                write!(f, "Offset(0x{start:x},0x{end:x})")
            }
            9 => {
                let (start, end, kind) = (body.u64_le().ok()?, body.u64_le().ok()?, Guid(body.array().ok()?));
                write!(f, "RamDisk(0x{start:x},0x{end:x},{kind})")
            }
            _ => return None,
        })
    }

    fn hard_drive(&self, f: &mut fmt::Formatter<'_>) -> Option<fmt::Result> {
        let mut body = Reader::new(WHAT, self.body);
        let (number, start, size) = (body.u32_le().ok()?, body.u64_le().ok()?, body.u64_le().ok()?);
        let signature: [u8; 16] = body.array().ok()?;
        let [mbr @ .., _, _, _, _, _, _, _, _, _, _, _, _] = signature;
        let (_format, signature_type) = (body.u8().ok()?, body.u8().ok()?);
        Some(match signature_type {
            2 => write!(f, "HD({number},GPT,{},0x{start:x},0x{size:x})", Guid(signature)),
            1 => write!(f, "HD({number},MBR,0x{:08x},0x{start:x},0x{size:x})", u32::from_le_bytes(mbr)),
            other => write!(f, "HD({number},{other},{},0x{start:x},0x{size:x})", Hex(&signature)),
        })
    }

    fn vendor(&self, f: &mut fmt::Formatter<'_>, name: &str) -> Option<fmt::Result> {
        let mut body = Reader::new(WHAT, self.body);
        let vendor = Guid(body.array().ok()?);
        let data = body.take(body.remaining()).ok()?;
        Some(if data.is_empty() { write!(f, "{name}({vendor})") } else { write!(f, "{name}({vendor},{})", Hex(data)) })
    }
}

/// A path in a file system, whose separator is not escaped.
struct FileName<'a>(&'a [u8]);

impl fmt::Display for FileName<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut separator = "";
        for part in self.0.as_chunks::<2>().0.split(|unit| *unit == [b'\\', 0]) {
            write!(f, "{separator}{}", Utf16(part.as_flattened()))?;
            separator = "\\";
        }
        write!(f, "{}", super::text::Ascii(self.0.as_chunks::<2>().1))
    }
}

fn write_acpi(f: &mut fmt::Formatter<'_>, hid: u32, uid: u32) -> fmt::Result {
    match (hid & 0xFFFF, hid >> 16) {
        (PNP, 0x0A03) => write!(f, "PciRoot(0x{uid:x})"),
        (PNP, 0x0A08) => write!(f, "PcieRoot(0x{uid:x})"),
        (PNP, product) => write!(f, "Acpi(PNP{product:04X},0x{uid:x})"),
        _ => write!(f, "Acpi(0x{hid:08x},0x{uid:x})"),
    }
}
