//! Releases from what a shop already has: in, files of other tools; out, digests with paths, and what was left out and why.

pub(crate) mod ima_list;
pub(crate) mod keylime;
pub(crate) mod sbom;
pub(crate) mod sums;

use std::path::Path;

use data_encoding::HEXLOWER_PERMISSIVE;
use reference_values::{Executable, limits::MAX_FILE};

use crate::{failure::Failure, files, sources::readable};

/// Names that one line tells of what was left out.
const MAX_NAMES: usize = 10;

/// What an import took, and what it did not.
#[derive(Debug, Default)]
pub(crate) struct Taken {
    /// Files.
    pub(crate) executables: Vec<Executable>,
    /// Lines for people: what was left out, and what to do about it.
    pub(crate) left_out: Vec<String>,
}

impl Taken {
    /// Takes a file.
    pub(crate) fn take(&mut self, digest: [u8; 32], path: &str) {
        let path = readable(Path::new(path));
        let path = if path.is_empty() { "(without a name)".to_owned() } else { path };
        self.executables.push(Executable { digest, path });
    }

    /// Says what was left out, where there was any of it.
    pub(crate) fn leave_out(&mut self, amount: usize, what: &str) {
        if amount > 0 {
            self.left_out.push(format!("{amount} {what}"));
        }
    }

    /// Says what was left out by name, where there was any of it.
    pub(crate) fn leave_out_named(&mut self, names: &[String], what: &str) {
        if names.is_empty() {
            return;
        }
        let told: Vec<String> = names.iter().take(MAX_NAMES).map(|name| readable(Path::new(name))).collect();
        let more = names.len().saturating_sub(MAX_NAMES);
        let more = if more > 0 { format!(" and {more} more") } else { String::new() };
        self.leave_out(names.len(), &format!("{what}: {}{more}", told.join(", ")));
    }

    /// Adds what another file gave.
    pub(crate) fn extend(&mut self, other: Self) {
        self.executables.extend(other.executables);
        self.left_out.extend(other.left_out);
    }
}

/// A SHA-256 digest in hexadecimal.
fn sha256(text: &str) -> Option<[u8; 32]> {
    HEXLOWER_PERMISSIVE.decode(text.as_bytes()).ok()?.try_into().ok()
}

/// A file of text, bounded.
fn text(path: &Path) -> Result<String, Failure> {
    String::from_utf8(files::read(path, MAX_FILE)?).map_err(|error| Failure::input(path, error))
}

/// JSON of a known shape. serde_json bounds how deep it goes.
fn json<T: serde::de::DeserializeOwned>(path: &Path) -> Result<T, Failure> {
    let bytes = files::read(path, MAX_FILE)?;
    serde_json::from_slice(&bytes).map_err(|error| Failure::input(path, error))
}
