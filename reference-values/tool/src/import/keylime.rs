//! Keylime's runtime policy, version 1 (JSON): allowed digests by path, and paths that are not looked at.

use std::{collections::BTreeMap, path::Path};

use serde::{Deserialize, de::IgnoredAny};

use super::{Taken, json, sha256};
use crate::failure::Failure;

#[derive(Deserialize)]
struct RuntimePolicy {
    meta: Meta,
    digests: BTreeMap<String, Vec<String>>,
    #[serde(default)]
    excludes: Option<Vec<String>>,
    #[serde(default)]
    keyrings: Option<BTreeMap<String, IgnoredAny>>,
    #[serde(default)]
    ima: Option<Ima>,
    #[serde(default, rename = "ima-buf")]
    buffers: Option<BTreeMap<String, IgnoredAny>>,
    #[serde(default, rename = "verification-keys")]
    verification_keys: Option<Keys>,
}

#[derive(Deserialize)]
struct Ima {
    #[serde(default)]
    dm_policy: Option<IgnoredAny>,
}

/// As Keylime writes them: text, or a list.
#[derive(Deserialize)]
#[serde(untagged)]
enum Keys {
    Text(String),
    List(Vec<IgnoredAny>),
}

impl Keys {
    fn is_empty(&self) -> bool {
        match self {
            Self::Text(text) => text.is_empty(),
            Self::List(list) => list.is_empty(),
        }
    }
}

#[derive(Deserialize)]
struct Meta {
    version: u64,
}

/// Reads one policy.
pub(crate) fn read(path: &Path) -> Result<Taken, Failure> {
    let policy: RuntimePolicy = json(path)?;
    if policy.meta.version != 1 {
        let why = format_args!("a runtime policy of version {}; version 1 is read", policy.meta.version);
        return Err(Failure::input(path, why));
    }
    let mut taken = Taken::default();
    let mut other = 0;
    for (file, digests) in &policy.digests {
        // The value of PCRs at boot, which is not a file.
        if file == "boot_aggregate" {
            continue;
        }
        for text in digests {
            match sha256(text) {
                Some(digest) => taken.take(digest, file),
                None if text.bytes().all(|byte| byte.is_ascii_hexdigit()) => other += 1,
                None => return Err(Failure::input(path, format_args!("a digest of {file:?} is not hexadecimal"))),
            }
        }
    }
    taken.leave_out(other, "digests that are not SHA-256: list these files by SHA-256");
    for exclude in policy.excludes.unwrap_or_default() {
        taken.left_out.push(suggestion(&exclude));
    }
    let keyrings = policy.keyrings.unwrap_or_default().len();
    taken.leave_out(keyrings, "keyrings: keys are not files; what they allow, list by digest");
    let buffers = policy.buffers.unwrap_or_default().len();
    taken.leave_out(buffers, "measured buffers (ima-buf): they are of no file");
    let mapper = usize::from(policy.ima.is_some_and(|ima| ima.dm_policy.is_some()));
    taken.leave_out(mapper, "policy for the device mapper (dm_policy): it names no file");
    let keys = usize::from(policy.verification_keys.is_some_and(|keys| !keys.is_empty()));
    taken.leave_out(keys, "set of verification keys: list the signed files by digest");
    Ok(taken)
}

/// An exclusion belongs to the verifier's policy, not to a release that a maker signs.
fn suggestion(exclude: &str) -> String {
    const PLAIN: fn(&str) -> bool = |text| {
        text.starts_with('/')
            && !text.contains(['*', '?', '[', '(', '|', '+', '.', '\\', '$', '^', '{', '"'])
            && !text.chars().any(char::is_control)
    };
    let bare = exclude.strip_prefix('^').unwrap_or(exclude);
    let bare = bare.strip_suffix('$').unwrap_or(bare);
    let inside = ["(/.*)?", "/.*"].iter().find_map(|end| bare.strip_suffix(end));
    match inside {
        Some(directory) if PLAIN(directory) => {
            format!("the exclusion {exclude:?}: in policy.toml, [[exclude]] directory = \"{directory}\"")
        }
        _ if PLAIN(bare) => format!("the exclusion {exclude:?}: in policy.toml, [[exclude]] path = \"{bare}\""),
        _ => format!("the exclusion {exclude:?}, which has no equal: write a `glob` of what is meant into policy.toml"),
    }
}

#[cfg(test)]
mod tests {
    use super::suggestion;

    #[test]
    fn exclusions_are_told_as_the_policy_would_have_them() {
        for (exclude, expected) in [
            ("^/var/log/.*$", "directory = \"/var/log\""),
            ("/opt/tool", "path = \"/opt/tool\""),
            ("/opt/a\n[[exclude]]", "no equal"),
            ("/opt/to.l", "no equal"),
            ("/opt/*", "no equal"),
            ("/srv(/.*)?", "directory = \"/srv\""),
            (".*\\.pyc", "no equal"),
        ] {
            assert!(suggestion(exclude).contains(expected), "{exclude}: {}", suggestion(exclude));
        }
    }
}
