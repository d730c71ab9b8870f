//! An event's content as one line of printable text: `key=value` where it is a structure, the words themselves in quotes
//! where it is text. However long the data is, a line stays short: lists and bytes are cut, and say how much is missing.

use std::fmt::{self, Write as _};

use super::{
    content::{Content, Gpt, Separator, Structure, Tables, Tagged, Words},
    text::{Ascii, Hex, Utf16, is_text, is_wide, without_nul, without_wide_nul},
    variable::{
        EFI_CERT_SHA256, EFI_CERT_X509, EFI_GLOBAL_VARIABLE, EFI_IMAGE_SECURITY_DATABASE, Guid, LoadOption, Variable,
        signatures,
    },
};

/// Entries of a list (partitions, tables, signatures) that are shown; the others are counted.
const SHOWN: usize = 16;
/// Bytes of one text or path that are shown: a kernel's command line has at most 4096.
const TEXT_SHOWN: usize = 4096;

impl fmt::Display for Content<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Separator(Separator::Good) => write!(f, "separator 0x00000000"),
            Self::Separator(Separator::GoodFfff) => write!(f, "separator 0xffffffff"),
            Self::Separator(Separator::Error(value)) => write!(f, "error separator 0x{value:08x}"),
            Self::Separator(Separator::Other) => write!(f, "separator of an unknown value"),
            Self::Action(text) => write!(f, "\"{}\"", Cut(Ascii(text))),
            Self::Variable(variable) => variable.fmt(f),
            Self::Image(image) => {
                let path = image.path();
                write!(f, "image address=0x{:x} length={} path={}", image.address, image.length, Cut(path))
            }
            Self::Gpt(gpt) => gpt.fmt(f),
            Self::Blob(blob) => {
                described(f, "blob", blob.description)?;
                write!(f, " base=0x{:x} length={}", blob.base, blob.length)
            }
            Self::Tables(tables) => tables.fmt(f),
            Self::Tagged(tagged) => tagged.fmt(f),
            Self::Words(words) => words.fmt(f),
            Self::StartupLocality(locality) => write!(f, "StartupLocality {locality}"),
            Self::SpecId(id) => {
                let (major, minor) = id.version;
                write!(f, "Spec ID {major}.{minor} errata {} platform class {}", id.errata, id.platform_class)
            }
            Self::Structure(structure) => structure.fmt(f),
            Self::Other(data) => bytes(f, data),
        }
    }
}

/// Something long to its first [`TEXT_SHOWN`] bytes.
struct Cut<T>(T);

impl<T: fmt::Display> fmt::Display for Cut<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut bounded = Bounded { to: f, left: TEXT_SHOWN };
        let written = write!(bounded, "{}", self.0);
        if bounded.left == 0 { f.write_str("…") } else { written }
    }
}

/// Passes on until `left` bytes are written, then fails.
struct Bounded<'a, 'b> {
    to: &'a mut fmt::Formatter<'b>,
    left: usize,
}

impl fmt::Write for Bounded<'_, '_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let Some(left) = self.left.checked_sub(text.len()).filter(|left| *left > 0) else {
            self.left = 0;
            return Err(fmt::Error);
        };
        self.left = left;
        self.to.write_str(text)
    }
}

/// Bytes of no known structure: as text where they are text.
fn bytes(f: &mut fmt::Formatter<'_>, data: &[u8]) -> fmt::Result {
    if is_wide(data) {
        write!(f, "\"{}\"", Cut(Utf16(without_wide_nul(data))))
    } else if is_text(data) {
        write!(f, "\"{}\"", Cut(Ascii(without_nul(data))))
    } else {
        write!(f, "{}", Hex(data))
    }
}

fn described(f: &mut fmt::Formatter<'_>, what: &str, description: Option<&[u8]>) -> fmt::Result {
    f.write_str(what)?;
    description.map_or(Ok(()), |description| {
        f.write_str(" ")?;
        bytes(f, description)
    })
}

/// `[a, b, … and 3 more]`.
fn list<T>(
    f: &mut fmt::Formatter<'_>,
    mut entries: impl Iterator<Item = T>,
    show: impl Fn(&mut fmt::Formatter<'_>, T) -> fmt::Result,
) -> fmt::Result {
    f.write_str("[")?;
    for (at, entry) in entries.by_ref().take(SHOWN).enumerate() {
        f.write_str(if at == 0 { "" } else { ", " })?;
        show(f, entry)?;
    }
    match entries.count() {
        0 => f.write_str("]"),
        more => write!(f, ", … and {more} more]"),
    }
}

impl fmt::Display for Variable<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "variable {} ({}) ", Cut(Utf16(self.name_utf16)), self.vendor)?;
        let database = ["PK", "KEK"].iter().any(|name| self.is(EFI_GLOBAL_VARIABLE, name))
            || self.vendor == EFI_IMAGE_SECURITY_DATABASE;
        if database && signatures(self.data).all(|entry| entry.is_ok()) {
            return self.database(f);
        }
        if self.is(EFI_GLOBAL_VARIABLE, "BootOrder") {
            return self.boot_order(f);
        }
        match LoadOption::read(self.data).filter(|_| self.vendor == EFI_GLOBAL_VARIABLE) {
            Some(option) => {
                let description = Cut(Utf16(option.description_utf16));
                write!(f, "option=\"{description}\" path={}", Cut(option.path))
            }
            None => {
                write!(f, "data=")?;
                bytes(f, self.data)
            }
        }
    }
}

impl Variable<'_> {
    /// How many entries of which kind.
    fn database(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let of = |kind: Guid| signatures(self.data).flatten().filter(|entry| entry.kind == kind).count();
        let (all, x509, sha256) = (signatures(self.data).count(), of(EFI_CERT_X509), of(EFI_CERT_SHA256));
        let other = all.saturating_sub(x509).saturating_sub(sha256);
        write!(f, "signatures={all} (X.509 {x509}, SHA-256 {sha256}, other {other})")
    }

    fn boot_order(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "order=")?;
        let options = self.data.as_chunks::<2>().0.iter();
        list(f, options, |f, option| write!(f, "{:04X}", u16::from_le_bytes(*option)))
    }
}

impl fmt::Display for Gpt<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "gpt disk={} ", self.disk)?;
        list(f, self.partitions(), |f, entry| {
            let name = Utf16(without_wide_nul(entry.name_utf16));
            write!(f, "\"{name}\" {} {}-{} type={}", entry.unique, entry.first, entry.last, entry.kind)
        })
    }
}

impl fmt::Display for Tables<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        described(f, "tables", self.description)?;
        f.write_str(" ")?;
        list(f, self.vendors(), |f, vendor| write!(f, "{vendor}"))
    }
}

impl fmt::Display for Tagged<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "tag 0x{:08x} ", self.id)?;
        if let Some(name) = self.name() {
            write!(f, "({name}) ")?;
        }
        bytes(f, self.data)
    }
}

impl fmt::Display for Words<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bytes = self.bytes();
        if self.wide() { write!(f, "\"{}\"", Cut(Utf16(bytes))) } else { write!(f, "\"{}\"", Cut(Ascii(bytes))) }
    }
}

impl fmt::Display for Structure<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", Ascii(self.signature), Hex(self.data))
    }
}
