//! Software bills of materials with digests of files: CycloneDX and SPDX 2, both as JSON.

use std::path::Path;

use serde::Deserialize;

use super::{Taken, json, sha256};
use crate::failure::Failure;

/// Either; which, its content tells.
#[derive(Deserialize)]
struct Bill {
    #[serde(rename = "bomFormat")]
    bom_format: Option<String>,
    #[serde(rename = "spdxVersion")]
    spdx_version: Option<String>,
    #[serde(default)]
    components: Vec<Component>,
    #[serde(default)]
    files: Vec<SpdxFile>,
}

#[derive(Deserialize)]
struct Component {
    #[serde(default)]
    name: String,
    #[serde(default)]
    hashes: Vec<Hash>,
    #[serde(default)]
    components: Vec<Component>,
}

#[derive(Deserialize)]
struct Hash {
    alg: String,
    content: String,
}

#[derive(Deserialize)]
struct SpdxFile {
    #[serde(rename = "fileName")]
    name: String,
    #[serde(default)]
    checksums: Vec<Checksum>,
}

#[derive(Deserialize)]
struct Checksum {
    algorithm: String,
    #[serde(rename = "checksumValue")]
    value: String,
}

/// Reads one bill.
pub(crate) fn read(path: &Path) -> Result<Taken, Failure> {
    let bill: Bill = json(path)?;
    let mut taken = Taken::default();
    let mut without = Vec::new();
    match (bill.bom_format.as_deref(), bill.spdx_version.as_deref()) {
        (Some("CycloneDX"), None) => {
            let mut waiting = bill.components;
            while let Some(component) = waiting.pop() {
                let hashes = component.hashes.iter().map(|hash| (hash.alg.as_str(), hash.content.as_str()));
                if !take(&mut taken, &component.name, hashes) {
                    without.push(component.name);
                }
                waiting.extend(component.components);
            }
        }
        (None, Some(version)) if version.starts_with("SPDX-2.") => {
            for file in &bill.files {
                let hashes = file.checksums.iter().map(|one| (one.algorithm.as_str(), one.value.as_str()));
                let name = if file.name.starts_with("./") { &file.name[1..] } else { &file.name };
                if !take(&mut taken, name, hashes) {
                    without.push(name.to_owned());
                }
            }
        }
        _ => return Err(Failure::input(path, "neither CycloneDX (bomFormat) nor SPDX 2 (spdxVersion)")),
    }
    without.sort_unstable();
    taken.leave_out_named(&without, "components without a SHA-256, and what runs of them is not listed");
    Ok(taken)
}

fn take<'a>(taken: &mut Taken, name: &str, hashes: impl Iterator<Item = (&'a str, &'a str)>) -> bool {
    let mut found = false;
    for (algorithm, text) in hashes {
        let is = algorithm.eq_ignore_ascii_case("SHA-256") || algorithm.eq_ignore_ascii_case("SHA256");
        if let Some(digest) = sha256(text).filter(|_| is) {
            taken.take(digest, name);
            found = true;
        }
    }
    found
}
