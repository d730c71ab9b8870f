//! The operator's deny list: in goes a TOML file, out comes what is refused whoever vouches for it. Endorsement keys by
//! digest, CAs by name or key, makers of TPMs, and ranges of their firmware; each with the reason that operators read.
//!
//! An entry that cannot be read is an error with its line: skipped, it would let in what it was written against.

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
};

use appraisal::FirmwareRange;
use data_encoding::HEXLOWER_PERMISSIVE;
use serde::Deserialize;
use thiserror::Error;
use toml::Spanned;

use crate::limits::{MAX_DENY_FILE, MAX_OPERATOR_TEXT};

/// What is wrong with the file.
#[derive(Debug, Error)]
pub enum DenyError {
    /// Cannot be read.
    #[error(
        "cannot read the deny list {}: {source}; `deny` in the configuration names it, and an empty file denies nothing",
        path.display()
    )]
    Io {
        /// Which file.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// An entry that cannot be understood.
    #[error("{place}: {why}")]
    Entry {
        /// File, line and column.
        place: String,
        /// What is wrong there.
        why: String,
    },
}

/// What is refused, and why.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DenyList {
    eks: BTreeMap<[u8; 32], String>,
    subjects: BTreeMap<String, String>,
    keys: BTreeMap<[u8; 32], String>,
    manufacturers: BTreeMap<String, String>,
    /// By maker; each quote is held against them.
    firmware: BTreeMap<String, Arc<[FirmwareRange]>>,
}

/// As it is typed.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(default)]
    ek: Vec<FileEk>,
    #[serde(default)]
    issuer: Vec<Spanned<FileIssuer>>,
    #[serde(default)]
    manufacturer: Vec<FileManufacturer>,
    #[serde(default)]
    firmware: Vec<Spanned<FileFirmware>>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct FileEk {
    sha256: Spanned<String>,
    why: Spanned<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct FileIssuer {
    subject: Option<String>,
    key: Option<Spanned<String>>,
    why: Spanned<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct FileManufacturer {
    id: Spanned<String>,
    why: Spanned<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct FileFirmware {
    manufacturer: Spanned<String>,
    from: Option<Spanned<String>>,
    to: Option<Spanned<String>>,
    why: Spanned<String>,
}

/// What is wrong, and where it begins.
struct Fault(usize, String);

impl DenyList {
    /// Reads the file.
    ///
    /// # Errors
    /// [`DenyError`] names the file, and the line of what is wrong in it.
    pub fn load(path: &Path) -> Result<Self, DenyError> {
        let failed = |source| DenyError::Io { path: path.to_owned(), source };
        if fs::metadata(path).map_err(failed)?.len() > MAX_DENY_FILE {
            return Err(failed(io::Error::new(io::ErrorKind::FileTooLarge, "too large for a deny list")));
        }
        let text = fs::read_to_string(path).map_err(failed)?;
        Self::from_toml(&text)
            .map_err(|Fault(at, why)| DenyError::Entry { place: crate::config::place(path, &text, at), why })
    }

    fn from_toml(text: &str) -> Result<Self, Fault> {
        let file: File = toml::from_str(text)
            .map_err(|error| Fault(error.span().map_or(0, |span| span.start), error.message().to_owned()))?;
        let mut all = Self::default();
        for FileEk { sha256, why } in &file.ek {
            all.eks.insert(digest(sha256, "the SHA-256 of an endorsement key's SubjectPublicKeyInfo")?, reason(why)?);
        }
        for issuer in &file.issuer {
            let FileIssuer { subject, key, why } = issuer.get_ref();
            match (subject, key) {
                (Some(subject), None) => drop(all.subjects.insert(subject.clone(), reason(why)?)),
                (None, Some(key)) => {
                    drop(all.keys.insert(digest(key, "the SHA-256 of a CA's SubjectPublicKeyInfo")?, reason(why)?));
                }
                _ => {
                    let why = "an issuer is denied by `subject` (its name, as `verifier roots list` shows it) or by \
                               `key` (SHA-256 of its SubjectPublicKeyInfo), not by both";
                    return Err(Fault(issuer.span().start, why.to_owned()));
                }
            }
        }
        for FileManufacturer { id, why } in &file.manufacturer {
            all.manufacturers.insert(manufacturer(id)?, reason(why)?);
        }
        let mut firmware: BTreeMap<String, Vec<FirmwareRange>> = BTreeMap::new();
        for entry in &file.firmware {
            firmware.entry(manufacturer(&entry.get_ref().manufacturer)?).or_default().push(range(entry)?);
        }
        all.firmware = firmware.into_iter().map(|(maker, ranges)| (maker, ranges.into())).collect();
        Ok(all)
    }

    /// Why an endorsement key is denied, if it is.
    #[must_use]
    pub fn ek(&self, spki_digest: &[u8; 32]) -> Option<&str> {
        self.eks.get(spki_digest).map(String::as_str)
    }

    /// Why a CA is denied, if it is: by its name or by the digest of its key.
    #[must_use]
    pub fn issuer(&self, subject: &str, spki_digest: Option<&[u8; 32]>) -> Option<&str> {
        let by_key = spki_digest.and_then(|digest| self.keys.get(digest));
        by_key.or_else(|| self.subjects.get(subject)).map(String::as_str)
    }

    /// Why a maker of TPMs is denied, if it is.
    #[must_use]
    pub fn manufacturer(&self, id: &str) -> Option<&str> {
        self.manufacturers.get(&id.to_ascii_lowercase()).map(String::as_str)
    }

    /// Firmware of this maker's TPMs that is denied, for appraisals.
    #[must_use]
    pub fn firmware(&self, manufacturer: &str) -> Arc<[FirmwareRange]> {
        self.firmware.get(&manufacturer.to_ascii_lowercase()).cloned().unwrap_or_default()
    }

    /// Why this firmware of this maker's TPMs is denied, if it is; `version` as quotes have it.
    #[must_use]
    pub fn firmware_denied(&self, manufacturer: &str, version: u64) -> Option<String> {
        let ranges = self.firmware.get(&manufacturer.to_ascii_lowercase())?;
        let range = ranges.iter().find(|range| (range.first..=range.last).contains(&version))?;
        Some(format!("firmware {} of {manufacturer}: {}", dotted(version), range.why))
    }
}

fn range(entry: &Spanned<FileFirmware>) -> Result<FirmwareRange, Fault> {
    let FileFirmware { from, to, why, .. } = entry.get_ref();
    if from.is_none() && to.is_none() {
        let why = "a range of firmware has `from`, `to` or both; to deny all of a maker's, use [[manufacturer]]";
        return Err(Fault(entry.span().start, why.to_owned()));
    }
    let bound = |text: &Option<Spanned<String>>, open| text.as_ref().map_or(Ok(open), version);
    let (first, last) = (bound(from, 0)?, bound(to, u64::MAX)?);
    if first > last {
        return Err(Fault(entry.span().start, "`from` is higher than `to`".to_owned()));
    }
    Ok(FirmwareRange { first, last, why: reason(why)? })
}

fn digest(text: &Spanned<String>, what: &str) -> Result<[u8; 32], Fault> {
    let bytes = HEXLOWER_PERMISSIVE.decode(text.get_ref().as_bytes()).ok();
    let fault = || Fault(text.span().start, format!("this is not {what}: 64 hex digits"));
    bytes.and_then(|bytes| bytes.try_into().ok()).ok_or_else(fault)
}

fn reason(text: &Spanned<String>) -> Result<String, Fault> {
    let why = text.get_ref();
    if why.trim().is_empty() || why.len() > MAX_OPERATOR_TEXT || why.chars().any(char::is_control) {
        return Err(Fault(text.span().start, format!("`why` is one line of 1 to {MAX_OPERATOR_TEXT} bytes")));
    }
    Ok(why.clone())
}

/// `id:` and the TCG vendor id, as EK certificates name it (TCG EK Credential Profile 2.5 §3.1.2).
fn manufacturer(text: &Spanned<String>) -> Result<String, Fault> {
    let id = text.get_ref().to_ascii_lowercase();
    let legal = id.strip_prefix("id:").is_some_and(|id| id.len() == 8 && id.bytes().all(|c| c.is_ascii_hexdigit()));
    let why = "this is not a TPM manufacturer as EK certificates name it: `id:` and 8 hex digits, such as id:53544D20";
    if legal { Ok(id) } else { Err(Fault(text.span().start, why.to_owned())) }
}

/// firmwareVersion of TPMS_ATTEST: four numbers of 16 bits with dots between them, or 64 bits in hex behind `0x`.
fn version(text: &Spanned<String>) -> Result<u64, Fault> {
    let parsed = match text.get_ref().strip_prefix("0x") {
        Some(hex) => u64::from_str_radix(hex, 16).ok().filter(|_| hex.bytes().all(|c| c.is_ascii_hexdigit())),
        None => undotted(text.get_ref()),
    };
    let why = "this is not a firmware version as quotes have it: four numbers up to 65535 with dots between them, or \
               up to 16 hex digits behind 0x";
    parsed.ok_or_else(|| Fault(text.span().start, why.to_owned()))
}

fn undotted(text: &str) -> Option<u64> {
    let parts = text.split('.').map(|part| {
        let digits = part.bytes().all(|c| c.is_ascii_digit());
        part.parse::<u16>().ok().filter(|_| digits)
    });
    let parts: [u16; 4] = parts.collect::<Option<Vec<_>>>()?.try_into().ok()?;
    Some(parts.into_iter().fold(0, |version, part| (version << 16) | u64::from(part)))
}

/// As [`version`] reads it.
fn dotted(version: u64) -> String {
    let part = |shift: u32| (version >> shift) & 0xFFFF;
    format!("{}.{}.{}.{}", part(48), part(32), part(16), part(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: &str = r#"
[[ek]]
sha256 = "AAaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"
why = "stolen from the lorry"
[[issuer]]
subject = "CN=Maker"
why = "its key leaked"
[[issuer]]
key = "bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb"
why = "its other key leaked"
[[manufacturer]]
id = "id:53544D20"
why = "not bought any more"
[[firmware]]
manufacturer = "id:49465800"
from = "4.32.0.0"
to = "0x00040022ffffffff"
why = "weak keys"
[[firmware]]
manufacturer = "id:49465800"
to = "1.0.0.0"
why = "too old"
"#;

    fn load(text: &str) -> Result<DenyList, DenyError> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("deny.toml");
        fs::write(&path, text).unwrap();
        DenyList::load(&path)
    }

    #[test]
    fn each_kind_of_entry_denies_what_it_names_and_nothing_beside() {
        let list = load(ALL).unwrap();
        assert_eq!(list.ek(&[0xAA; 32]), Some("stolen from the lorry"));
        assert_eq!(list.ek(&[0xAB; 32]), None);
        assert_eq!(list.issuer("CN=Maker", None), Some("its key leaked"));
        assert_eq!(list.issuer("CN=maker", Some(&[0xBB; 32])), Some("its other key leaked"));
        assert_eq!(list.issuer("CN=maker", Some(&[0xAA; 32])), None);
        assert_eq!(list.manufacturer("id:53544d20"), Some("not bought any more"));
        assert_eq!(list.manufacturer("id:53544D21"), None);
        for (version, denied) in
            [(0x0004_0020_0000_0000, true), (0x0004_0022_FFFF_FFFF, true), (0x0004_0023_0000_0000, false), (7, true)]
        {
            assert_eq!(list.firmware_denied("id:49465800", version).is_some(), denied, "{version:x}");
            assert_eq!(list.firmware_denied("id:53544D20", version), None);
        }
        assert_eq!(
            list.firmware_denied("id:49465800", 0x0004_0021_0000_0007).unwrap(),
            "firmware 4.33.0.7 of id:49465800: weak keys"
        );
        assert_eq!((list.firmware("ID:49465800").len(), list.firmware("").len()), (2, 0));
        assert_eq!(load("# nothing\n").unwrap(), DenyList::default());
    }

    #[test]
    fn what_cannot_be_read_is_named_with_file_and_line_and_never_skipped() {
        for (text, line, why) in [
            ("[[ek]]\nsha256 = \"abcd\"\nwhy = \"x\"\n", 2, "64 hex digits"),
            ("[[ek]]\nsha256 = \"aa\"\n", 1, "why"),
            ("\n[[eks]]\n", 2, "eks"),
            ("[[issuer]]\nwhy = \"x\"\n", 1, "`subject`"),
            ("[[issuer]]\nwhy = \"x\"\nsubject = \"CN=a\"\nkey = \"aa\"\n", 1, "`subject`"),
            ("[[manufacturer]]\nid = \"STM\"\nwhy = \"x\"\n", 2, "id:53544D20"),
            ("[[manufacturer]]\nid = \"id:53544D20\"\nwhy = \"\"\n", 3, "one line"),
            ("[[firmware]]\nmanufacturer = \"id:53544D20\"\nwhy = \"x\"\n", 1, "`from`, `to`"),
            ("[[firmware]]\nmanufacturer = \"id:53544D20\"\nfrom = \"1.2\"\nwhy = \"x\"\n", 3, "firmware version"),
            ("[[firmware]]\nmanufacturer = \"id:53544D20\"\nto = \"0x+1\"\nwhy = \"x\"\n", 3, "firmware version"),
            ("[[firmware]]\nmanufacturer = \"id:53544D20\"\nfrom = \"0x2\"\nto = \"0x1\"\nwhy = \"x\"\n", 1, "higher"),
            ("[[ek]\n", 1, ""),
        ] {
            let said = load(text).unwrap_err().to_string();
            assert!(said.contains(&format!("deny.toml:{line}:")) && said.contains(why), "{text}: {said}");
        }
        let absent = DenyList::load(Path::new("/nonexistent/deny.toml")).unwrap_err().to_string();
        assert!(absent.contains("/nonexistent/deny.toml"), "{absent}");
    }

    #[test]
    fn the_examples_of_the_file_that_init_makes_can_be_used() {
        let file = include_str!("../init/deny.toml");
        assert_eq!(load(file).unwrap(), DenyList::default(), "as it is made, it denies nothing");
        let is_entry =
            |line: &&str| line.starts_with("[[") || line.split_once(" = ").is_some_and(|(key, _)| !key.contains(' '));
        let examples: Vec<&str> = file.lines().filter_map(|line| line.strip_prefix("# ")).filter(is_entry).collect();
        let list = load(&examples.join("\n")).unwrap();
        assert_eq!((list.eks.len(), list.subjects.len(), list.manufacturers.len(), list.firmware.len()), (1, 1, 1, 1));
    }
}
