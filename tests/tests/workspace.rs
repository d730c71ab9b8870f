//! The workspace holds what its design says of it: which package may depend on which, what is never built in, what no
//! file may say, and pages that are made from code.

use std::{
    collections::{BTreeMap, BTreeSet},
    env, fs,
    path::{Path, PathBuf},
    process::Command,
};

use serde_json::Value;

/// Our packages, each with those of ours that it may depend on. Nothing may depend on the tests.
const DIRECTION: [(&str, &[&str]); 7] = [
    ("countersign-evidence", &[]),
    ("countersign-attester", &["countersign-evidence"]),
    ("countersign-reference-values", &["countersign-evidence"]),
    ("countersign-reference-values-tool", &["countersign-evidence", "countersign-reference-values"]),
    ("countersign-appraisal", &["countersign-evidence", "countersign-reference-values"]),
    ("countersign-verifier", &["countersign-evidence", "countersign-appraisal", "countersign-reference-values"]),
    (
        "countersign-tests",
        &[
            "countersign-evidence",
            "countersign-attester",
            "countersign-reference-values",
            "countersign-appraisal",
            "countersign-verifier",
        ],
    ),
];

/// Never built: a second provider of cryptography or of TLS, a second async runtime.
const BANNED: [&str; 8] =
    ["openssl", "openssl-sys", "native-tls", "aws-lc-rs", "aws-lc-sys", "async-std", "smol", "serde_cbor"];

/// Libraries without unsafe code.
const SAFE: [&str; 4] = [
    "evidence/src/lib.rs",
    "verifier/appraisal/src/lib.rs",
    "verifier/service/src/lib.rs",
    "reference-values/src/lib.rs",
];

/// Libraries that decode and judge what strangers send: no input may make them panic.
const NEVER_PANIC: [&str; 3] = ["evidence/src/lib.rs", "verifier/appraisal/src/lib.rs", "reference-values/src/lib.rs"];
const PANICS: [&str; 5] = ["indexing_slicing", "unwrap_used", "expect_used", "panic", "arithmetic_side_effects"];

/// Names that say nothing of what is inside.
const EMPTY_NAMES: [&str; 8] = ["util", "utils", "helper", "helpers", "common", "manager", "misc", "shared"];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the tests are in the workspace").to_owned()
}

fn cargo(arguments: &[&str]) -> String {
    let cargo = env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let done = Command::new(cargo).args(arguments).args(["--offline", "--locked"]).current_dir(root()).output();
    let done = done.expect("cargo starts");
    assert!(done.status.success(), "cargo {arguments:?}: {}", String::from_utf8_lossy(&done.stderr));
    String::from_utf8(done.stdout).expect("cargo prints UTF-8")
}

/// Our packages, as `cargo metadata` describes them.
fn packages() -> Vec<Value> {
    let metadata: Value = serde_json::from_str(&cargo(&["metadata", "--no-deps", "--format-version", "1"])).unwrap();
    metadata["packages"].as_array().unwrap().clone()
}

/// Every file of the source tree, without what builds leave behind.
fn files() -> Vec<PathBuf> {
    let (mut files, mut folders) = (Vec::new(), vec![root()]);
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).expect("a readable folder") {
            let entry = entry.expect("a readable folder");
            let kind = entry.file_type().expect("a file has a type");
            let built = [".git", "target", "fuzz-target"].map(Into::into).contains(&entry.file_name());
            match (kind.is_dir(), kind.is_file()) {
                (true, _) if !built => folders.push(entry.path()),
                (_, true) => files.push(entry.path()),
                _ => {}
            }
        }
    }
    files
}

/// Rust sources, with their texts.
fn sources() -> impl Iterator<Item = (PathBuf, String)> {
    let rust = files().into_iter().filter(|file| file.extension().is_some_and(|extension| extension == "rs"));
    rust.map(|file| (file.clone(), fs::read_to_string(file).expect("UTF-8")))
}

/// Panics with all that is wrong, one a line.
fn none(what: &str, found: impl IntoIterator<Item = String>) {
    let found: Vec<_> = found.into_iter().collect();
    assert!(found.is_empty(), "{what}:\n  {}", found.join("\n  "));
}

#[test]
fn packages_depend_in_one_direction() {
    let direction = BTreeMap::from(DIRECTION);
    let mut seen = BTreeSet::new();
    let packages = packages();
    for package in &packages {
        let name = package["name"].as_str().unwrap();
        let allowed = direction.get(name).unwrap_or_else(|| panic!("{name} is new: say what it may depend on"));
        seen.insert(name);
        let dependencies = package["dependencies"].as_array().unwrap().iter().map(|d| d["name"].as_str().unwrap());
        let ours = dependencies.filter(|dependency| dependency.starts_with("countersign-"));
        let wrong = ours.filter(|dependency| !allowed.contains(dependency)).map(str::to_owned);
        none(&format!("{name} must not depend on"), wrong);
    }
    assert_eq!(seen, direction.into_keys().collect());
}

#[test]
fn one_tls_stack_one_runtime_and_nothing_unmaintained_is_built() {
    let tree = cargo(&["tree", "--workspace", "--edges", "normal,build,dev", "--prefix", "none", "--format", "{p}"]);
    let built: BTreeSet<_> = tree.lines().filter_map(|line| line.split(' ').next()).collect();
    assert!(built.contains("ring"), "not a list of packages: {tree}");
    none("built in", BANNED.into_iter().filter(|name| built.contains(name)).map(str::to_owned));
}

#[test]
fn libraries_that_read_hostile_bytes_are_safe_and_never_panic() {
    let text = |file: &str| fs::read_to_string(root().join(file)).unwrap();
    none("unsafe code is not forbidden in", missing(&SAFE, |file| text(file).contains("#![forbid(unsafe_code)]")));
    let denies = |file: &str| PANICS.iter().all(|lint| text(file).contains(&format!("clippy::{lint}")));
    none("panics are not denied in", missing(&NEVER_PANIC, denies));
}

fn missing(files: &[&str], holds: impl Fn(&str) -> bool) -> Vec<String> {
    files.iter().filter(|file| !holds(file)).map(|file| (*file).to_owned()).collect()
}

#[test]
fn no_file_names_a_place_outside_the_clone() {
    // In two pieces, so that this file does not name them either.
    let places =
        [concat!("/wo", "rk/"), concat!("../sha", "red"), concat!("/tmp/ha", "nd"), concat!("/tmp/tar", "get")];
    let names = |text: &str, place: &str| {
        let before = |at| text[..at].chars().next_back();
        let part_of_a_path = |c: char| c.is_alphanumeric() || "_.}\"".contains(c);
        text.match_indices(place).any(|(at, _)| !place.starts_with('/') || !before(at).is_some_and(part_of_a_path))
    };
    let found = files().into_iter().filter_map(|file| {
        let text = fs::read_to_string(&file).ok()?;
        let place = places.iter().find(|place| names(&text, place))?;
        Some(format!("{}: {place}", file.display()))
    });
    none("names a place of one developer", found);
}

#[test]
fn modules_are_named_after_what_they_hold() {
    let empty = |file: &PathBuf| {
        let parts = file.strip_prefix(root()).expect("in the workspace").components();
        parts
            .filter_map(|part| Path::new(part.as_os_str()).file_stem()?.to_str())
            .any(|name| EMPTY_NAMES.contains(&name))
    };
    none("named after nothing", sources().map(|(file, _)| file).filter(empty).map(|file| file.display().to_string()));
    let inline = sources().filter_map(|(file, text)| {
        let name = text.lines().find_map(|line| {
            let line = line.trim_start().trim_start_matches("pub ").trim_start_matches("pub(crate) ");
            line.strip_prefix("mod ")?.split([' ', ';']).next().filter(|name| EMPTY_NAMES.contains(name))
        })?;
        Some(format!("{}: mod {name}", file.display()))
    });
    none("named after nothing", inline);
}

#[test]
fn every_source_file_begins_with_what_it_is_about() {
    // Beside its module, a file of unit tests needs no more words than that.
    let bare = sources().filter(|(file, text)| !file.ends_with("tests.rs") && !text.starts_with("//!"));
    none("no //! on top", bare.map(|(file, _)| file.display().to_string()));
}

#[test]
fn every_dependency_has_its_reason_on_record() {
    let reasons = fs::read_to_string(root().join("docs/decisions/dependencies.md")).unwrap();
    let dependencies = packages().into_iter().flat_map(|package| package["dependencies"].as_array().unwrap().clone());
    let foreign = dependencies.filter(|dependency| !dependency["source"].is_null());
    let names: BTreeSet<_> = foreign.map(|dependency| dependency["name"].as_str().unwrap().to_owned()).collect();
    let unexplained = names.into_iter().filter(|name| !reasons.contains(&format!("`{name}`")));
    none("no reason in docs/decisions/dependencies.md", unexplained);
}

#[test]
fn the_page_of_causes_is_the_table_in_the_code() {
    let page = root().join("docs/causes.md");
    let table = appraisal::cause::document();
    if env::var_os("BLESS").is_some() {
        fs::write(&page, &table).unwrap();
    }
    let written = fs::read_to_string(&page).unwrap_or_default();
    let remedy = "BLESS=1 cargo test -p countersign-tests --test workspace causes";
    assert!(written == table, "docs/causes.md differs from appraisal::cause; make it anew: {remedy}");
}
