//! An event's content as one line of printable text: `key=value` where it is a structure, the words themselves in quotes
//! where it is text. However long the data is, a line stays short: lists and bytes are cut, and say how much is missing.

use std::fmt;

use super::{
    content::{Content, Gpt, Separator, Structure, Tables, Tagged, Words},
    text::{Ascii, Hex, Utf16, is_text, is_wide, without_nul, without_wide_nul},
    variable::{EFI_GLOBAL_VARIABLE, EFI_IMAGE_SECURITY_DATABASE, Guid, Variable, signatures},
};

/// Entries of a list (partitions, tables, signatures) that are shown; the others are counted.
const SHOWN: usize = 16;
/// Bytes of a text that are shown: a kernel's command line has at most 4096.
const TEXT_SHOWN: usize = 4096;

impl fmt::Display for Content<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Separator(Separator::Good) => write!(f, "separator 0x00000000"),
            Self::Separator(Separator::GoodFfff) => write!(f, "separator 0xffffffff"),
            Self::Separator(Separator::Error(value)) => write!(f, "error separator 0x{value:08x}"),
            Self::Separator(Separator::Other) => write!(f, "separator of an unknown value"),
            Self::Action(text) => text8(f, text),
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

/// A long text to its first [`TEXT_SHOWN`] characters.
struct Cut<T>(T);

impl<T: fmt::Display> fmt::Display for Cut<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = self.0.to_string();
        match text.char_indices().nth(TEXT_SHOWN) {
            Some((end, _)) => write!(f, "{}…", text.get(..end).unwrap_or(&text)),
            None => f.write_str(&text),
        }
    }
}

fn text8(f: &mut fmt::Formatter<'_>, text: &[u8]) -> fmt::Result {
    write!(f, "\"{}\"", Ascii(text.get(..TEXT_SHOWN).unwrap_or(text)))?;
    if text.len() > TEXT_SHOWN { write!(f, "…") } else { Ok(()) }
}

fn text16(f: &mut fmt::Formatter<'_>, text: &[u8]) -> fmt::Result {
    write!(f, "\"{}\"", Utf16(text.get(..TEXT_SHOWN).unwrap_or(text)))?;
    if text.len() > TEXT_SHOWN { write!(f, "…") } else { Ok(()) }
}

/// Bytes of no known structure: as text where they are text.
fn bytes(f: &mut fmt::Formatter<'_>, data: &[u8]) -> fmt::Result {
    if is_wide(data) {
        text16(f, without_wide_nul(data))
    } else if is_text(data) {
        text8(f, without_nul(data))
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

/// ` [a, b, … and 3 more]`.
fn list<T: fmt::Display>(f: &mut fmt::Formatter<'_>, entries: impl Iterator<Item = T>) -> fmt::Result {
    let mut more = 0_usize;
    f.write_str(" [")?;
    for (at, entry) in entries.enumerate() {
        match at {
            0 => write!(f, "{entry}")?,
            at if at < SHOWN => write!(f, ", {entry}")?,
            _ => more = more.saturating_add(1),
        }
    }
    if more > 0 { write!(f, ", … and {more} more]") } else { f.write_str("]") }
}

impl fmt::Display for Variable<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "variable {} ({}) ", Cut(Utf16(self.name_utf16)), self.vendor)?;
        let database = ["PK", "KEK"].iter().any(|name| self.is(EFI_GLOBAL_VARIABLE, name))
            || self.vendor == EFI_IMAGE_SECURITY_DATABASE;
        let entries = signatures(self.data);
        if database && !self.data.is_empty() && entries.clone().all(|entry| entry.is_ok()) {
            write!(f, "signatures={}", entries.clone().count())?;
            return list(f, entries.flatten().map(|entry| Named(entry.kind)));
        }
        write!(f, "data=")?;
        bytes(f, self.data)
    }
}

/// A GUID by its name, where it has one.
struct Named(Guid);

impl fmt::Display for Named {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.name() {
            Some(name) => f.write_str(name),
            None => self.0.fmt(f),
        }
    }
}

impl fmt::Display for Gpt<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "gpt disk={}", self.disk)?;
        list(
            f,
            self.partitions().map(|entry| {
                let name = Utf16(without_wide_nul(entry.name_utf16));
                format!("\"{name}\" {} {}-{} type={}", entry.unique, entry.first, entry.last, entry.kind)
            }),
        )
    }
}

impl fmt::Display for Tables<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        described(f, "tables", self.description)?;
        list(f, self.vendors())
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
        if self.wide() { text16(f, self.bytes()) } else { text8(f, self.bytes()) }
    }
}

impl fmt::Display for Structure<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", Ascii(self.signature), Hex(self.data))
    }
}
