//! Releases from what a shop already has.

use std::{fs, path::Path, process::Command};

use serde_json::{Value, json};
use tempfile::TempDir;

struct Shop(TempDir);

impl Shop {
    fn new() -> Self {
        Self(TempDir::new().unwrap())
    }

    fn write(&self, name: &str, content: impl AsRef<[u8]>) {
        fs::write(self.0.path().join(name), content).unwrap();
    }

    fn call(&self, words: &[&str]) -> (i32, String) {
        let mut command = Command::new(env!("CARGO_BIN_EXE_reference-values"));
        let command = command.args(words).current_dir(self.0.path()).env_remove("RUST_LOG");
        let output = command.output().unwrap();
        (output.status.code().unwrap(), String::from_utf8([output.stdout, output.stderr].concat()).unwrap())
    }

    fn import(&self, form: &str, files: &[&str]) -> (i32, String) {
        let release = ["--product", "acme/gw", "--release", "1", "--sequence", "1", "-o", "out.corim"];
        self.call(&[&["import", form], files, &release[..]].concat())
    }

    /// Digest and path of what was imported, in order of paths.
    fn imported(&self) -> Vec<(String, String)> {
        let (code, said) = self.call(&["show", "out.corim", "--json"]);
        assert_eq!(code, 0, "{said}");
        let shown: Value = serde_json::from_str(&said).unwrap();
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        let files = shown["executables"].as_array().unwrap().iter();
        files.map(|file| (text(&file["sha256"]), text(&file["path"]))).collect()
    }

    #[track_caller]
    fn fails(&self, form: &str, files: &[&str], code: i32, word: &str) {
        let (exit, said) = self.import(form, files);
        assert_eq!(exit, code, "{form} {files:?}: {said}");
        assert!(said.contains(word), "{form} {files:?}: {said}");
        assert!(!self.0.path().join("out.corim").exists());
    }
}

fn hex(byte: u8) -> String {
    format!("{byte:02x}").repeat(32)
}

fn keylime() -> Value {
    json!({
        "meta": { "version": 1, "generator": 1, "timestamp": "2026-01-01" },
        "release": 0,
        "digests": {
            "/bin/a": [hex(1), hex(2)],
            "/bin/b": [hex(1), "ab".repeat(20)],
            "boot_aggregate": [hex(9)],
        },
        "excludes": ["^/var/log/.*$", ".*\\.pyc"],
        "keyrings": {},
        "ima": { "ignored_keyrings": [], "log_hash_alg": "sha1", "dm_policy": null },
        "ima-buf": {},
        "verification-keys": "",
    })
}

#[test]
fn a_keylime_policy_gives_its_sha256_digests_and_its_exclusions_as_advice() {
    let shop = Shop::new();
    shop.write("policy.json", keylime().to_string());
    let (code, said) = shop.import("keylime", &["policy.json"]);
    assert_eq!(code, 0, "{said}");
    assert_eq!(shop.imported(), [(hex(1), "/bin/a".to_owned()), (hex(2), "/bin/a".to_owned())]);
    for word in ["1 digests that are not SHA-256", "directory = \"/var/log\"", "no equal"] {
        assert!(said.contains(word), "{word}: {said}");
    }
    for absent in ["keys", "ima-buf", "dm_policy"] {
        assert!(!said.contains(absent), "{said}");
    }
}

#[test]
fn what_a_keylime_policy_says_beside_files_is_told() {
    let shop = Shop::new();
    let mut policy = keylime();
    policy["ima-buf"] = json!({ "dm-verity": [hex(3)] });
    policy["ima"]["dm_policy"] = json!({ "version": 1 });
    policy["keyrings"] = json!({ ".ima": [hex(4)] });
    policy["verification-keys"] = json!(["a key"]);
    shop.write("policy.json", policy.to_string());
    let (code, said) = shop.import("keylime", &["policy.json"]);
    assert_eq!(code, 0, "{said}");
    for word in ["1 keyrings", "(ima-buf)", "(dm_policy)", "verification keys"] {
        assert!(said.contains(word), "{word}: {said}");
    }
}

#[test]
fn names_of_what_is_left_out_are_few_and_harmless() {
    let shop = Shop::new();
    let component = |name: &str| json!({ "name": name });
    let mut components: Vec<Value> = (0..12).map(|n| component(&format!("lib{n:02}"))).collect();
    components.push(component("lib\u{1b}[2J\n"));
    components.push(json!({ "name": "/bin/a", "hashes": [{ "alg": "SHA-256", "content": hex(1) }] }));
    shop.write("bill.json", json!({ "bomFormat": "CycloneDX", "components": components }).to_string());
    let (code, said) = shop.import("sbom", &["bill.json"]);
    assert!(code == 0 && said.contains("13 components") && said.contains("and 3 more"), "{said}");
    assert!(!said.contains('\u{1b}'), "{said:?}");
}

#[test]
fn a_keylime_policy_with_a_mistake_is_refused() {
    let shop = Shop::new();
    let mut other = keylime();
    other["meta"]["version"] = 5.into();
    shop.write("other.json", other.to_string());
    let mut wrong = keylime();
    wrong["digests"]["/bin/a"] = "text".into();
    shop.write("wrong.json", wrong.to_string());
    let mut sha1 = keylime();
    sha1["digests"] = json!({ "/bin/a": ["ab".repeat(20)] });
    shop.write("sha1.json", sha1.to_string());
    shop.write("cut.json", &keylime().to_string()[..40]);
    shop.write("deep.json", "[".repeat(100_000));
    shop.write("zeros", vec![0; 10_000_000]);
    shop.fails("keylime", &["other.json"], 6, "version 5");
    shop.fails("keylime", &["wrong.json"], 6, "line 1");
    shop.fails("keylime", &["sha1.json"], 6, "not SHA-256");
    shop.fails("keylime", &["cut.json"], 6, "line 1");
    shop.fails("keylime", &["deep.json"], 6, "deep.json");
    shop.fails("keylime", &["zeros"], 6, "zeros");
    shop.fails("keylime", &["nowhere.json"], 1, "nowhere.json");
}

#[test]
fn the_list_of_a_real_boot_is_the_same_in_both_forms() {
    let shop = Shop::new();
    let boots = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/vectors/boot");
    let mut found = 0;
    for boot in fs::read_dir(boots).unwrap().map(|boot| boot.unwrap().path()) {
        let (binary, text) = (boot.join("ima.bin"), boot.join("ima.ascii"));
        if !binary.exists() {
            continue;
        }
        let (code, said) = shop.import("ima", &[binary.to_str().unwrap()]);
        assert_eq!(code, 0, "{said}");
        let from_binary = shop.imported();
        assert!(!from_binary.is_empty() && from_binary.iter().all(|(_, path)| path != "boot_aggregate"));
        found += 1;
        if text.exists() {
            let (code, said) = shop.import("ima", &[text.to_str().unwrap()]);
            assert!(code == 0 && said.contains("prefer the binary form"), "{said}");
            assert_eq!(shop.imported(), from_binary, "{}", boot.display());
        }
    }
    assert!(found > 0);
}

#[test]
fn a_forged_or_cut_list_is_refused() {
    let shop = Shop::new();
    let line = |name: &str| format!("10 {} ima-ng sha256:{} {name}\n", "ab".repeat(20), hex(3));
    shop.write(
        "good",
        line("/bin/a") + &line("boot_aggregate") + &format!("10 {} ima-ng sha256:{} /bin/w\n", "00".repeat(20), hex(0)),
    );
    let (code, said) = shop.import("ima", &["good"]);
    assert!(code == 0 && said.contains("1 violations") && said.contains("measured: /bin/w"), "{said}");
    assert_eq!(shop.imported(), [(hex(3), "/bin/a".to_owned())]);
    fs::remove_file(shop.0.path().join("out.corim")).unwrap();
    shop.write("forged", line("/bin/a\nrm"));
    shop.write("sha1", format!("10 {} ima sha1:{} /bin/a\n", "ab".repeat(20), "cd".repeat(20)));
    shop.write("cut", [10, 0, 0, 0, 1]);
    shop.write("zeros", vec![0; 10_000_000]);
    shop.fails("ima", &["forged"], 6, "line 2");
    shop.fails("ima", &["sha1"], 6, "ima_hash=sha256");
    shop.fails("ima", &["cut"], 6, "cut");
    shop.fails("ima", &["zeros"], 6, "zeros");
}

#[test]
fn bills_of_materials_give_the_digests_of_their_files() {
    let shop = Shop::new();
    let component =
        |name: &str, alg: &str, content: &str| json!({ "name": name, "hashes": [{ "alg": alg, "content": content }] });
    let mut outer = component("/bin/a", "SHA-256", &hex(1));
    outer["components"] = json!([component("/bin/b", "SHA-256", &hex(2)), component("/bin/c", "MD5", "00")]);
    shop.write(
        "cyclone.json",
        json!({ "bomFormat": "CycloneDX", "specVersion": "1.5", "components": [outer] }).to_string(),
    );
    let (code, said) = shop.import("sbom", &["cyclone.json"]);
    assert!(code == 0 && said.contains("1 components without a SHA-256") && said.contains("listed: /bin/c"), "{said}");
    assert_eq!(shop.imported(), [(hex(1), "/bin/a".to_owned()), (hex(2), "/bin/b".to_owned())]);
    let file = json!({ "fileName": "./bin/d", "checksums": [
        { "algorithm": "SHA1", "checksumValue": "00" }, { "algorithm": "SHA256", "checksumValue": hex(4) }] });
    shop.write("spdx.json", json!({ "spdxVersion": "SPDX-2.3", "files": [file] }).to_string());
    let (code, said) = shop.import("sbom", &["spdx.json", "cyclone.json"]);
    assert_eq!(code, 0, "{said}");
    assert_eq!(shop.imported().len(), 3);
    fs::remove_file(shop.0.path().join("out.corim")).unwrap();
    shop.write("none.json", json!({ "bomFormat": "CycloneDX", "components": [{ "name": "a" }] }).to_string());
    shop.write("other.json", "{}");
    shop.fails("sbom", &["none.json"], 6, "without a SHA-256");
    shop.fails("sbom", &["other.json"], 6, "neither CycloneDX");
}

#[test]
fn lists_of_sums_and_packages_are_read_and_what_is_neither_is_told() {
    let shop = Shop::new();
    shop.write("sums", format!("{}  /bin/a\nSHA256 (/bin/b) = {}\n", hex(1), hex(2)));
    let (code, said) = shop.import("sha256sum", &["sums"]);
    assert_eq!(code, 0, "{said}");
    assert_eq!(shop.imported().len(), 2);
    fs::remove_file(shop.0.path().join("out.corim")).unwrap();
    shop.write("odd", format!("{}  /bin/a\nodd\n", hex(1)));
    shop.fails("sha256sum", &["odd"], 6, "line 2");
    shop.fails("deb", &["sums"], 6, "not a Debian package");
    shop.fails("rpm", &["sums"], 2, "rpm");
}
