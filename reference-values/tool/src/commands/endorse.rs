//! `endorse`: lists the TPMs that were built into a product. In, certificates of their endorsement keys as they were
//! collected on the line; out, an unsigned list.

use std::{
    collections::{BTreeMap, HashMap},
    fs,
    path::{Path, PathBuf},
};

use reference_values::{Document, Endorsed, Endorsements, limits::MAX_FILE};
use ring::digest::{SHA256, digest};
use x509_cert::{
    Certificate,
    der::{Decode as _, Encode as _},
};

use super::{count, sequence, write_unsigned};
use crate::{cli::Endorse, failure::Failure, files, sources::readable};

/// Largest file of certificates, bytes: one is some 1,500.
const MAX_CERTIFICATES: usize = 1024 * 1024;
/// Endings of files that count in a folder.
const ENDINGS: [&str; 4] = ["crt", "cer", "der", "pem"];

pub(crate) fn run(arguments: &Endorse) -> Result<(), Failure> {
    let serials = Serials::of(arguments)?;
    let mut list = List::default();
    for given in &arguments.certificates {
        for path in certificates(given)? {
            list.add(&path, &serials)?;
        }
    }
    let List { entries, twice, .. } = list;
    let edition = &arguments.of;
    let sequence = sequence(edition.sequence)?;
    let entries = entries.into_iter().map(|(ek, (serial, _))| Endorsed { ek, serial }).collect();
    let expires = edition.expires.map(|time| time.0);
    let list = Endorsements::new(&arguments.product, &edition.name, sequence, expires, entries)
        .map_err(|error| Failure::Usage(error.to_string()))?;
    let devices = count(list.entries().len(), "endorsement key", "endorsement keys");
    let document = Document::from(list);
    write_unsigned(&document.encode(), &edition.output)?;
    let again = if twice > 0 { format!(" ({twice} stood twice)") } else { String::new() };
    let (product, name) = (document.product(), document.name());
    files::print(&format!("list {name} of {product}, sequence {sequence}: {devices}{again}; not signed yet\n"))
}

/// Keys with their serials, and in which file each was found first.
#[derive(Default)]
struct List {
    entries: BTreeMap<[u8; 32], (String, PathBuf)>,
    /// Certificates whose key was there already, with the same serial.
    twice: usize,
}

impl List {
    fn add(&mut self, path: &Path, serials: &Serials) -> Result<(), Failure> {
        let serial = serials.of_file(path)?;
        for ek in keys(path)? {
            match self.entries.get(&ek) {
                Some((known, _)) if *known == serial => self.twice += 1,
                Some((known, first)) => {
                    let why = format_args!(
                        "its key is that of {}, whose serial is {known:?} and not {serial:?}: one TPM sits in one device",
                        first.display()
                    );
                    return Err(Failure::input(path, why));
                }
                None => drop(self.entries.insert(ek, (serial.clone(), path.to_owned()))),
            }
        }
        Ok(())
    }
}

/// Where serials come from.
enum Serials {
    None,
    FileName,
    Table(HashMap<String, String>),
}

impl Serials {
    fn of(arguments: &Endorse) -> Result<Self, Failure> {
        match &arguments.serials {
            _ if arguments.no_serials => Ok(Self::None),
            None => Ok(Self::FileName),
            Some(path) => read_table(path).map(Self::Table),
        }
    }

    fn of_file(&self, path: &Path) -> Result<String, Failure> {
        let name = path.file_name().map(|name| readable(Path::new(name))).unwrap_or_default();
        match self {
            Self::None => Ok(String::new()),
            Self::FileName => {
                let stem = path.file_stem().map(|stem| readable(Path::new(stem))).unwrap_or_default();
                Ok(stem.split('~').next().unwrap_or_default().to_owned())
            }
            Self::Table(table) => {
                let missing = || Failure::input(path, format_args!("no line of the table of serials names {name}"));
                table.get(&name).cloned().ok_or_else(missing)
            }
        }
    }
}

/// Lines of `FILE,SERIAL`; empty ones and those that begin with `#` say nothing.
fn read_table(path: &Path) -> Result<HashMap<String, String>, Failure> {
    let bytes = files::read(path, MAX_FILE)?;
    let text = std::str::from_utf8(&bytes).map_err(|error| Failure::input(path, error))?;
    let mut table = HashMap::new();
    for (line, number) in text.lines().zip(1_usize..) {
        if line.trim().is_empty() || line.starts_with('#') {
            continue;
        }
        let wrong = || Failure::input(path, format_args!("line {number}: FILE,SERIAL is expected"));
        let (file, serial) = line.split_once(',').ok_or_else(wrong)?;
        if table.insert(file.trim().to_owned(), serial.trim().to_owned()).is_some() {
            return Err(Failure::input(path, format_args!("line {number}: {} stands twice", file.trim())));
        }
    }
    Ok(table)
}

/// The file itself, or all that count in the folder, in order.
fn certificates(given: &Path) -> Result<Vec<PathBuf>, Failure> {
    let failed = |error: std::io::Error| Failure::operation("read", given, error);
    if !fs::metadata(given).map_err(failed)?.is_dir() {
        return Ok(vec![given.to_owned()]);
    }
    let mut found = Vec::new();
    for entry in fs::read_dir(given).map_err(failed)? {
        let path = entry.map_err(failed)?.path();
        let ending = path.extension().and_then(|ending| ending.to_str()).map(str::to_ascii_lowercase);
        if ending.is_some_and(|ending| ENDINGS.contains(&ending.as_str())) {
            found.push(path);
        }
    }
    if found.is_empty() {
        return Err(Failure::input(given, "no file in it ends in .crt, .cer, .der or .pem"));
    }
    found.sort_unstable();
    Ok(found)
}

/// Digests of the keys that a file's certificates are of. Verifiers know an endorsement key by the SHA-256 of its
/// SubjectPublicKeyInfo.
fn keys(path: &Path) -> Result<Vec<[u8; 32]>, Failure> {
    let bytes = files::read(path, MAX_CERTIFICATES)?;
    let wrong = |error: x509_cert::der::Error| Failure::input(path, format_args!("no certificate: {error}"));
    let certificates = if bytes.starts_with(b"-----BEGIN") {
        Certificate::load_pem_chain(&bytes).map_err(wrong)?
    } else {
        vec![Certificate::from_der(&bytes).map_err(wrong)?]
    };
    if certificates.is_empty() {
        return Err(Failure::input(path, "it holds no certificate"));
    }
    let key = |certificate: &Certificate| {
        let spki = certificate.tbs_certificate().subject_public_key_info().to_der().map_err(wrong)?;
        let mut ek = [0; 32];
        ek.copy_from_slice(digest(&SHA256, &spki).as_ref());
        Ok(ek)
    };
    certificates.iter().map(key).collect()
}
