//! Reading and writing whole files: never more than a release may hold, never half of one.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read as _, Write as _},
    os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
};

use reference_values::{SignedDocument, SigningKey, Trust, limits::MAX_ENDORSEMENTS_FILE};
use tracing::warn;
use zeroize::Zeroizing;

use crate::failure::Failure;

/// Key and trust files are texts of a few kilobytes; anything larger is something else.
const MAX_TEXT: usize = 1024 * 1024;

/// Reads a document, signed or not.
pub(crate) fn read_document(path: &Path) -> Result<SignedDocument, Failure> {
    let bytes = read(path, MAX_ENDORSEMENTS_FILE)?;
    SignedDocument::decode(&bytes).map_err(|error| Failure::input(path, error))
}

/// Reads at most `limit` bytes; more is an error.
pub(crate) fn read(path: &Path, limit: usize) -> Result<Vec<u8>, Failure> {
    let failed = |error: io::Error| Failure::operation("read", path, error);
    let mut bytes = Vec::new();
    let most = u64::try_from(limit).unwrap_or(u64::MAX).saturating_add(1);
    File::open(path).map_err(failed)?.take(most).read_to_end(&mut bytes).map_err(failed)?;
    if bytes.len() > limit {
        return Err(Failure::input(path, format_args!("larger than {limit} bytes")));
    }
    Ok(bytes)
}

/// Reads a private key, and says so where others may read it too.
pub(crate) fn read_key(path: &Path) -> Result<SigningKey, Failure> {
    let bytes = Zeroizing::new(read(path, MAX_TEXT)?);
    if fs::metadata(path).is_ok_and(|file| file.permissions().mode() & 0o077 != 0) {
        warn!("{}: others than its owner may use this private key; chmod 600 mends it", path.display());
    }
    let text = std::str::from_utf8(&bytes).map_err(|_| Failure::input(path, "not a PEM file"))?;
    SigningKey::from_pem(text).map_err(|error| Failure::input(path, error))
}

/// Reads every `*.toml` of a folder in order of name, or one file.
pub(crate) fn read_trust(path: &Path) -> Result<Trust, Failure> {
    let failed = |error: io::Error| Failure::operation("read", path, error);
    let mut files = Vec::new();
    if fs::metadata(path).map_err(failed)?.is_dir() {
        for entry in fs::read_dir(path).map_err(failed)? {
            let file = entry.map_err(failed)?.path();
            if file.extension().is_some_and(|extension| extension == "toml") {
                files.push(file);
            }
        }
        files.sort_unstable();
    } else {
        files.push(path.to_owned());
    }
    let mut trust = Trust::default();
    for file in files {
        let wrong = |error: &dyn std::fmt::Display| Failure::Usage(format!("{}: {error}", file.display()));
        let bytes = read(&file, MAX_TEXT)?;
        let text = std::str::from_utf8(&bytes).map_err(|error| wrong(&error))?;
        let signers = Trust::from_toml(text).map_err(|error| wrong(&error))?;
        trust.extend(signers).map_err(|error| wrong(&error))?;
    }
    if trust.is_empty() {
        return Err(Failure::Usage(format!("{}: no [[signer]] in any *.toml there", path.display())));
    }
    Ok(trust)
}

/// Writes a file as a whole or not at all: a temporary name beside it, then a rename.
pub(crate) fn replace(path: &Path, bytes: &[u8]) -> Result<(), Failure> {
    let temporary = beside(path);
    create(&temporary, 0o644, bytes).and_then(|()| fs::rename(&temporary, path)).map_err(|error| {
        // The temporary file may not exist; the first error is the one that tells.
        let _ = fs::remove_file(&temporary);
        Failure::operation("write", path, error)
    })
}

/// Writes a file that must not exist yet.
pub(crate) fn create_new(path: &Path, mode: u32, bytes: &[u8]) -> Result<(), Failure> {
    create(path, mode, bytes).map_err(|error| {
        if error.kind() == io::ErrorKind::AlreadyExists {
            return Failure::operation("write", path, "it exists, and a key is never overwritten; choose another name");
        }
        let _ = fs::remove_file(path);
        Failure::operation("write", path, error)
    })
}

fn create(path: &Path, mode: u32, bytes: &[u8]) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}

fn beside(path: &Path) -> PathBuf {
    let mut name = std::ffi::OsString::from(".");
    name.push(path.file_name().unwrap_or_default());
    name.push(format!(".{}.tmp", std::process::id()));
    path.with_file_name(name)
}

/// Prints to stdout; a reader that stops early is no failure.
pub(crate) fn print(text: &str) -> Result<(), Failure> {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(Failure::Operation(format!("cannot write to stdout: {error}")))
        }
        _ => Ok(()),
    }
}
