//! Lists of TPMs, notices, and keys in tokens, as those meet them who make and sign them.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Output},
};

use serde_json::Value;
use tempfile::TempDir;

/// As Debian installs it.
const MODULE: &str = "/usr/lib/softhsm/libsofthsm2.so";
const EK: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/vectors/ek");

struct Desk {
    folder: TempDir,
}

impl Desk {
    fn new() -> Self {
        Self { folder: TempDir::new().unwrap() }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn run(&self, program: &str, words: &[&str]) -> Output {
        let mut command = Command::new(program);
        command.args(words).current_dir(self.folder.path()).env_remove("SOURCE_DATE_EPOCH").env_remove("RUST_LOG");
        command.env("SOFTHSM2_CONF", self.path("softhsm2.conf")).output().unwrap()
    }

    /// The program's exit code and what it said.
    fn call(&self, words: &[&str]) -> (i32, String) {
        let output = self.run(env!("CARGO_BIN_EXE_reference-values"), words);
        let said = [output.stdout, output.stderr].concat();
        (output.status.code().unwrap(), String::from_utf8(said).unwrap())
    }

    fn good(&self, words: &[&str]) -> String {
        let (code, said) = self.call(words);
        assert_eq!(code, 0, "{words:?}: {said}");
        said
    }

    fn json(&self, words: &[&str]) -> Value {
        serde_json::from_str(&self.good(&[words, &["--json"]].concat())).unwrap()
    }

    fn trust(&self, role: &str, products: &str, public_key: &str) {
        fs::create_dir_all(self.path("trust")).unwrap();
        let text = format!(
            "[[signer]]\nname = \"the {role}\"\nrole = \"{role}\"\nproducts = [\"{products}\"]\nkey = \"\"\"\n{public_key}\"\"\"\n"
        );
        fs::write(self.path("trust").join(format!("{role}.toml")), text).unwrap();
    }

    /// A key in a file, trusted in this role.
    fn key(&self, role: &str) {
        self.good(&["keygen", "--out", &format!("{role}.pem")]);
        let public = fs::read_to_string(self.path(&format!("{role}.pub.pem"))).unwrap();
        self.trust(role, "acme/*", &public);
    }
}

const NOTICE: [&str; 18] = [
    "notice",
    "--product",
    "acme/*",
    "--name",
    "psirt",
    "--sequence",
    "3",
    "--revoke",
    "1.0=a hole = a big one",
    "--revoke",
    "1.1=another",
    "--advisory",
    "1.0=CVE-2026-1",
    "--minimum",
    "2.0=20",
    "--expires",
    "2999-01-01",
    "-o",
];

#[test]
fn a_notice_says_what_was_typed_and_is_signed_and_checked_like_a_release() {
    let desk = Desk::new();
    let digest = "ab".repeat(32);
    let table = format!("# digest, advisory, why\n\n{digest}, CVE-2026-2, malware, found in the field\n");
    fs::write(desk.path("bad.csv"), table).unwrap();
    desk.good(&[&NOTICE[..], &["notice.corim", "--known-bad", "bad.csv"]].concat());
    let shown = desk.json(&["show", "notice.corim"]);
    assert_eq!(
        (&shown["kind"], &shown["product"], &shown["name"]),
        (&"notice".into(), &"acme/*".into(), &"psirt".into())
    );
    assert_eq!((&shown["minimum"]["release"], &shown["minimum"]["sequence"]), (&"2.0".into(), &20.into()));
    assert_eq!(shown["revoked"][0]["why"], "a hole = a big one");
    assert_eq!(
        (&shown["revoked"][0]["advisory"], &shown["revoked"][1]["advisory"]),
        (&"CVE-2026-1".into(), &Value::Null)
    );
    assert_eq!(
        (&shown["known_bad"][0]["sha256"], &shown["known_bad"][0]["why"]),
        (&digest.into(), &"malware, found in the field".into())
    );

    desk.key("importer");
    desk.good(&["sign", "notice.corim", "--key", "importer.pem", "--role", "importer", "-o", "notice.signed"]);
    let said = desk.good(&["check", "notice.signed", "--trust", "trust"]);
    assert!(said.contains("2 revoked releases, 1 known-bad file") && said.contains("the importer"), "{said}");
    for says in [
        "lowest release that may run: 2.0 (sequence 20)",
        "revoked: 1.0 (CVE-2026-1): a hole = a big one",
        "(CVE-2026-2): malware",
    ] {
        assert!(said.contains(says), "{says}: {said}");
    }

    desk.good(&[
        "notice",
        "--product",
        "acme/*",
        "--name",
        "psirt",
        "--sequence",
        "4",
        "--revoke",
        "1.1=another",
        "-o",
        "next.corim",
    ]);
    let said = desk.good(&["diff", "notice.corim", "next.corim"]);
    assert!(said.contains("- revoked: 1.0 (CVE-2026-1)") && said.contains("0 added, 3 removed"), "{said}");
}

#[test]
fn what_a_notice_cannot_say_is_told_and_nothing_is_written() {
    let desk = Desk::new();
    fs::write(desk.path("bad.csv"), "no digest,CVE,why\n").unwrap();
    fs::write(desk.path("empty.csv"), "# nothing\n").unwrap();
    let base = ["notice", "--product", "acme/gw", "--name", "n", "-o", "out.corim"];
    for (more, code, word) in [
        (&["--revoke", "1.0"][..], 2, "NAME=VALUE"),
        (&["--revoke", "1.0=a", "--revoke", "1.0=b"], 2, "twice"),
        (&["--advisory", "1.0=CVE"], 2, "not revoked"),
        (&["--minimum", "2.0=many"], 2, "number"),
        (&["--known-bad", "bad.csv"], 6, "line 1"),
        (&["--known-bad", "empty.csv"], 6, "no line"),
        (&["--known-bad", "missing.csv"], 1, "missing.csv"),
        (&["--revoke", "1.0=a\u{1b}[2J"], 2, "control characters"),
    ] {
        let (exit, said) = desk.call(&[&base[..], more].concat());
        assert_eq!(exit, code, "{more:?}: {said}");
        assert!(said.contains(word), "{more:?}: {said}");
    }
    assert!(!desk.path("out.corim").exists());
}

#[test]
fn a_list_names_keys_as_verifiers_do_and_serials_from_file_names_or_a_table() {
    let desk = Desk::new();
    fs::create_dir(desk.path("line")).unwrap();
    for (from, to) in [("ek-rsa2048.crt", "SN1~rsa.crt"), ("ek-ecc384.crt", "SN1~ecc.crt")] {
        fs::copy(Path::new(EK).join(from), desk.path("line").join(to)).unwrap();
    }
    fs::copy(Path::new(EK).join("ek-rsa2048.crt"), desk.path("line/SN1~again.cer")).unwrap();
    fs::write(desk.path("line/notes.txt"), "none").unwrap();
    let list = ["endorse", "line", "--product", "acme/gw", "--name", "line-1", "--sequence", "1", "-o", "list.corim"];
    assert!(desk.good(&list).contains("2 endorsement keys (1 stood twice)"));
    let shown = desk.json(&["show", "list.corim"]);
    let devices = shown["devices"].as_array().unwrap();
    assert!(devices.iter().all(|device| device["serial"] == "SN1"), "{devices:?}");
    // What `openssl x509 -pubkey | openssl pkey -pubin -outform DER | sha256sum` says of the RSA one.
    let expected = "92e793a443b38316001d646d16a8c2ee90fec5512fb2dd2146002f659e147adc";
    assert!(devices.iter().any(|device| device["ek"] == expected), "{devices:?}");

    fs::write(desk.path("serials.csv"), "SN1~rsa.crt,A-7\nSN1~ecc.crt,A-7\nSN1~again.cer,A-8\n").unwrap();
    let (code, said) = desk.call(&[&list[..], &["--serials", "serials.csv"]].concat());
    assert!(code == 6 && said.contains("one TPM sits in one device"), "{said}");
    fs::write(desk.path("serials.csv"), "SN1~rsa.crt,A-7\n").unwrap();
    let (code, said) = desk.call(&[&list[..], &["--serials", "serials.csv"]].concat());
    assert!(code == 6 && said.contains("no line of the table"), "{said}");
    fs::write(desk.path("line/broken.der"), b"\x30\x82\xff\xff").unwrap();
    let (code, said) = desk.call(&list);
    assert!(code == 6 && said.contains("broken.der"), "{said}");
    let (code, _) = desk.call(&["endorse", "nowhere", "--product", "p", "--name", "l", "-o", "x"]);
    assert_eq!(code, 1);
}

#[test]
fn only_a_manufacturer_or_operator_endorses() {
    let desk = Desk::new();
    let certificate = format!("{EK}/ek-rsa2048.crt");
    desk.good(&["endorse", &certificate, "--product", "acme/gw", "--name", "l", "-o", "list.corim"]);
    desk.key("importer");
    desk.key("manufacturer");
    desk.good(&["sign", "list.corim", "--key", "importer.pem", "--role", "importer", "-o", "list.signed"]);
    let (code, said) = desk.call(&["check", "list.signed", "--trust", "trust"]);
    assert!(code == 6 && said.contains("needs a manufacturer or operator"), "{said}");
    desk.good(&["sign", "list.signed", "--key", "manufacturer.pem", "--role", "manufacturer", "-o", "list.signed"]);
    let said = desk.good(&["check", "list.signed", "--trust", "trust"]);
    assert!(said.contains("1 device,") && said.contains("the importer") && said.contains("the manufacturer"), "{said}");
}

#[test]
fn documents_of_two_kinds_have_no_difference() {
    let desk = Desk::new();
    desk.good(&[&NOTICE[..], &["notice.corim"]].concat());
    let certificate = format!("{EK}/ek-rsa2048.crt");
    desk.good(&["endorse", &certificate, "--product", "acme/gw", "--name", "l", "-o", "list.corim"]);
    let (code, said) = desk.call(&["diff", "notice.corim", "list.corim"]);
    assert!(code == 2 && said.contains("two of one kind"), "{said}");
}

/// A token with one key in it, trusted as the manufacturer's.
fn token(desk: &Desk) {
    fs::create_dir(desk.path("tokens")).unwrap();
    let folder = desk.path("tokens");
    let text = format!("directories.tokendir = {}\nobjectstore.backend = file\nlog.level = ERROR\n", folder.display());
    fs::write(desk.path("softhsm2.conf"), text).unwrap();
    fs::write(desk.path("pin"), "5678\n").unwrap();
    let run = |program, words: &[&str]| {
        let output = desk.run(program, words);
        assert!(output.status.success(), "{program}: {}", String::from_utf8_lossy(&output.stderr));
    };
    run("softhsm2-util", &["--init-token", "--free", "--label", "releases", "--so-pin", "1234", "--pin", "5678"]);
    let with = ["--module", MODULE, "--login", "--pin", "5678", "--token-label", "releases"];
    let make = ["--keypairgen", "--key-type", "EC:prime256v1", "--label", "maker", "--id", "01"];
    run("pkcs11-tool", &[&with[..], &make].concat());
    run("pkcs11-tool", &[&with[..], &["--read-object", "--type", "pubkey", "--id", "01", "-o", "maker.der"]].concat());
    run("openssl", &["pkey", "-pubin", "-inform", "DER", "-in", "maker.der", "-pubout", "-out", "maker.pub.pem"]);
    desk.trust("manufacturer", "acme/*", &fs::read_to_string(desk.path("maker.pub.pem")).unwrap());
}

#[test]
fn a_key_that_stays_in_its_token_signs_what_its_public_key_checks() {
    let desk = Desk::new();
    token(&desk);
    desk.good(&[&NOTICE[..], &["notice.corim"]].concat());
    let sign = |uri: &str, module: &str| {
        let role = ["--role", "manufacturer", "-o", "notice.signed"];
        desk.call(&[&["sign", "notice.corim", "--pkcs11", uri, "--pkcs11-module", module][..], &role].concat())
    };
    for (uri, module, code, word) in [
        ("pkcs11:token=none;object=maker?pin-source=pin", MODULE, 2, "there are: releases"),
        ("pkcs11:token=releases;object=other?pin-source=pin", MODULE, 2, "no CKO_PRIVATE_KEY"),
        ("pkcs11:token=releases;object=maker", MODULE, 2, "is the PIN missing?"),
        ("pkcs11:token=releases;object=maker?pin-value=0000", MODULE, 1, "PIN"),
        ("pkcs11:token=releases;object=maker?pin-source=pin", "/etc/hostname", 1, "cannot load"),
        ("pkcs11:object=maker;colour=red", MODULE, 2, "`colour` is not supported"),
    ] {
        let (exit, said) = sign(uri, module);
        assert_eq!(exit, code, "{uri}: {said}");
        assert!(said.contains(word), "{uri}: {said}");
        assert!(!desk.path("notice.signed").exists());
    }
    let (code, said) = sign("pkcs11:token=releases;id=%01?pin-source=pin", MODULE);
    assert_eq!(code, 0, "{said}");
    let said = desk.good(&["check", "notice.signed", "--trust", "trust"]);
    assert!(said.contains("the manufacturer"), "{said}");
}

#[test]
fn publishing_says_whose_fault_it_is() {
    let desk = Desk::new();
    desk.good(&[&NOTICE[..], &["notice.corim"]].concat());
    desk.key("importer");
    desk.good(&["sign", "notice.corim", "--key", "importer.pem", "--role", "importer", "-o", "notice.signed"]);
    fs::write(desk.path("token"), "0123456789abcdef\n").unwrap();
    fs::write(desk.path("junk"), "junk").unwrap();
    let publish = |file: &str, to: &str, more: &[&str]| desk.call(&[&["publish", file, "--to", to][..], more].concat());
    let token = ["--token-file", "token"];
    // Port 9 of loopback: nobody listens there.
    let nobody = "http://127.0.0.1:9";
    for (file, to, more, code, word) in [
        ("notice.signed", nobody, &token[..], 1, "no verifier answers"),
        ("notice.signed", "verifier.example", &token[..], 2, "http://ADDRESS:PORT"),
        ("notice.signed", "https://127.0.0.1:9", &token[..], 2, "http://ADDRESS:PORT"),
        ("notice.signed", "http://verifier.example:9", &token[..], 2, "in the clear"),
        ("notice.signed", "http://192.0.2.1:9", &token[..], 2, "in the clear"),
        ("notice.signed", "http://127.0.0.1:9@192.0.2.1", &token[..], 2, "in the clear"),
        ("notice.signed", "http://[::1]:9", &token[..], 1, "no verifier answers"),
        ("notice.signed", "http://localhost:9", &token[..], 1, "no verifier answers"),
        ("notice.signed", nobody, &[][..], 2, "--token-file"),
        ("notice.signed", nobody, &["--token-file", "nowhere"][..], 1, "nowhere"),
        ("notice.corim", nobody, &token[..], 6, "not signed"),
        ("junk", nobody, &token[..], 6, "junk"),
    ] {
        let (exit, said) = publish(file, to, more);
        assert_eq!(exit, code, "{file} {to}: {said}");
        assert!(said.contains(word), "{file} {to}: {said}");
    }
}

/// Of an encoder that shares no code with this one.
#[test]
fn documents_of_a_second_implementation_read_as_they_were_meant() {
    let desk = Desk::new();
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/vectors/reference-values");
    let show = |file: &str| desk.json(&["show", &format!("{folder}/{file}")]);
    let notice = show("notice.signed");
    assert_eq!(
        (&notice["product"], &notice["name"], &notice["sequence"]),
        (&"acme/*".into(), &"psirt".into(), &3.into())
    );
    assert_eq!((&notice["minimum"]["sequence"], &notice["expires"]), (&42.into(), &"2096-10-02T07:06:40Z".into()));
    assert_eq!(
        (&notice["revoked"][0]["release"], &notice["known_bad"][0]["advisory"]),
        (&"4.1.0".into(), &"CVE-2026-2".into())
    );
    let list = show("endorsements.signed");
    let serials: Vec<_> = list["devices"].as_array().unwrap().iter().map(|device| device["serial"].clone()).collect();
    assert_eq!(serials, ["SN 1", "SN 2", ""]);
    let release = show("every-part.signed");
    assert_eq!(release["update_window_seconds"], 1_209_600);
    let image = &release["boot_images"][0];
    assert_eq!((&image["kind"], &image["authenticode"]), (&"uki".into(), &"55".repeat(32).into()));
    assert_eq!(image["sections"][1], serde_json::json!([".initrd", "77".repeat(32)]));
    let file = &release["executables"][0];
    assert_eq!(
        (&file["sha1"], &file["sha384"], &file["sha512"]),
        (&"01".repeat(20).into(), &"38".repeat(48).into(), &"51".repeat(64).into())
    );
}

#[test]
fn a_corim_of_another_profile_is_shown_and_taken_by_nobody() {
    let desk = Desk::new();
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/vectors/reference-values/foreign.signed");
    let shown = desk.json(&["show", file]);
    let values = shown["values"].as_array().unwrap();
    let value = |path: &str| values.iter().find(|value| value["path"] == path).map(|value| value["value"].clone());
    assert_eq!(value("payload.tags[0].triples.reference-triples[0].environment.class.vendor"), Some("\"ACME\"".into()));
    assert_eq!(value("payload.profile"), Some("oid h'2b0601'".into()));
    let opaque = values.iter().find(|value| value["understood"] == false).unwrap();
    assert!(opaque["value"].as_str().unwrap().starts_with("opaque"), "{opaque}");
    let (code, said) = desk.call(&[
        "check",
        file,
        "--trust",
        concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/vectors/reference-values/trust"),
    ]);
    assert_eq!(code, 6, "{said}");
    // Of a damaged one, nothing.
    let bytes = fs::read(file).unwrap();
    fs::write(desk.path("cut"), &bytes[..bytes.len() - 1]).unwrap();
    assert_eq!(desk.call(&["show", "cut"]).0, 6);
}
