//! IMA's list of a system that is as it should be, as the kernel gives it: binary, or as text.

use std::path::Path;

use evidence::ima;
use reference_values::limits::MAX_FILE;

use super::{Taken, sha256};
use crate::{failure::Failure, files};

/// Path of the entry that ties the list to the boot.
const BOOT_AGGREGATE: &str = "boot_aggregate";

/// Reads one list; which form it has, its content tells.
pub(crate) fn read(path: &Path) -> Result<Taken, Failure> {
    let bytes = files::read(path, MAX_FILE)?;
    let text = std::str::from_utf8(&bytes).ok().filter(|text| text.starts_with(|first: char| first.is_ascii_digit()));
    let taken = match text {
        Some(text) => read_text(path, text)?,
        None => read_binary(path, &bytes)?,
    };
    Ok(taken)
}

/// Counts of what a list has beside files.
#[derive(Default)]
struct Beside {
    /// By path.
    violations: Vec<String>,
    other: usize,
    nameless: usize,
}

impl Beside {
    fn tell(&self, taken: &mut Taken) {
        taken.leave_out_named(
            &self.violations,
            "violations, of files that were open for writing while they were measured",
        );
        taken.leave_out(
            self.other,
            "files whose digest is not SHA-256: boot with ima_hash=sha256 and take the list again",
        );
        taken.leave_out(self.nameless, "entries that are of no file");
    }
}

fn read_binary(path: &Path, bytes: &[u8]) -> Result<Taken, Failure> {
    let (mut taken, mut beside) = (Taken::default(), Beside::default());
    for entry in ima::entries(bytes) {
        let entry = entry.map_err(|error| Failure::input(path, error))?;
        let name = String::from_utf8_lossy(entry.fields.path).into_owned();
        match entry.fields.digest {
            _ if entry.is_violation() => beside.violations.push(name),
            _ if name == BOOT_AGGREGATE => {}
            _ if entry.fields.buffer.is_some() && !name.starts_with('/') => beside.nameless += 1,
            Some(digest) if digest.digest_type == ima::DigestType::Verity => beside.other += 1,
            Some(digest) if digest.algorithm == "sha256" => match digest.bytes.try_into() {
                Ok(digest) => taken.take(digest, &name),
                Err(_) => beside.other += 1,
            },
            Some(_) => beside.other += 1,
            None => beside.nameless += 1,
        }
    }
    beside.tell(&mut taken);
    Ok(taken)
}

/// `PCR TEMPLATE-DIGEST TEMPLATE [ALGORITHM:]DIGEST PATH …`. A file's name may hold a newline, and what follows it then looks
/// like a line of its own: nothing here can tell.
fn read_text(path: &Path, text: &str) -> Result<Taken, Failure> {
    tracing::warn!("{}: the text form can be forged by file names; prefer the binary form", path.display());
    let (mut taken, mut beside) = (Taken::default(), Beside::default());
    for (line, number) in text.lines().zip(1_usize..) {
        let wrong = |why: &str| Failure::input(path, format_args!("line {number}: {why}"));
        let fields: Vec<&str> = line.splitn(5, ' ').collect();
        let [pcr, template_digest, template, digest, name] = fields.as_slice() else {
            return Err(wrong("five fields are expected; a forged or cut line"));
        };
        if pcr.parse::<u8>().is_err() || !template_digest.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return Err(wrong("it does not begin with a PCR and a digest; a forged or cut line"));
        }
        if !template.starts_with("ima") {
            return Err(wrong("an unknown template"));
        }
        // Newer templates say of what the digest is before its algorithm: `ima:sha256:…`; fs-verity's is none of a file.
        let (kind, digest) = digest.rsplit_once(':').map_or(("sha1", *digest), |(kind, digits)| (kind, digits));
        let algorithm = kind.strip_prefix("ima:").unwrap_or(kind);
        // Templates that carry more have it behind the path, by a space.
        let name = match *template {
            "ima-sig" | "ima-sigv2" => without_last_hex(name),
            // Signature, its digest, and what it is of.
            "ima-modsig" => (0..3).fold(*name, |name, _| without_last_hex(name)),
            _ => name,
        };
        match sha256(digest) {
            _ if template_digest.bytes().all(|byte| byte == b'0') => beside.violations.push(name.to_owned()),
            _ if name == BOOT_AGGREGATE => {}
            _ if *template == "ima-buf" => beside.nameless += 1,
            Some(digest) if algorithm == "sha256" => taken.take(digest, name),
            Some(_) => beside.other += 1,
            None if digest.bytes().all(|byte| byte.is_ascii_hexdigit()) => beside.other += 1,
            None => return Err(wrong("the digest is not hexadecimal")),
        }
    }
    beside.tell(&mut taken);
    Ok(taken)
}

/// A path without the signature behind it.
fn without_last_hex(name: &str) -> &str {
    let hexadecimal = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    match name.rsplit_once(' ') {
        Some((path, last)) if hexadecimal(last) || last.is_empty() => path,
        _ => name,
    }
}
