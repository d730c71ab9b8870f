//! The program as its users meet it: files in, files, text and exit codes out.

use std::{
    fs,
    os::unix::fs::{PermissionsExt as _, symlink},
    path::{Path, PathBuf},
    process::{Command, Output},
};

use serde_json::Value;
use tempfile::TempDir;

/// A folder to work in, with a root file system and keys of a manufacturer and an importer.
struct Bench {
    folder: TempDir,
}

impl Bench {
    fn new() -> Self {
        let bench = Self { folder: TempDir::new().unwrap() };
        let root = bench.path("root");
        fs::create_dir_all(root.join("usr/bin")).unwrap();
        fs::create_dir_all(root.join("usr/lib")).unwrap();
        bench.write("root/usr/bin/tool", b"\x7fELF tool", 0o755);
        bench.write("root/usr/bin/script", b"#!/bin/sh\necho\n", 0o644);
        bench.write("root/usr/lib/library.so", b"\x7fELF library", 0o644);
        bench.write("root/usr/lib/driver.ko.xz", b"\xfd7zXZ\0 driver", 0o644);
        bench.write("root/usr/lib/copy-of-tool", b"\x7fELF tool", 0o644);
        bench.write("root/usr/lib/data", b"nothing that runs", 0o644);
        bench.write("root/usr/lib/odd-\n-name", b"#!odd", 0o644);
        fs::hard_link(root.join("usr/lib/library.so"), root.join("usr/lib/link.so")).unwrap();
        symlink("/etc", root.join("outside")).unwrap();
        symlink("loop", root.join("loop")).unwrap();
        bench
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn write(&self, name: &str, content: &[u8], mode: u32) {
        fs::write(self.path(name), content).unwrap();
        fs::set_permissions(self.path(name), fs::Permissions::from_mode(mode)).unwrap();
    }

    fn run(&self, arguments: &str) -> Output {
        Command::new(env!("CARGO_BIN_EXE_reference-values"))
            .args(arguments.split_whitespace())
            .current_dir(self.folder.path())
            .env_remove("SOURCE_DATE_EPOCH")
            .env_remove("RUST_LOG")
            .output()
            .unwrap()
    }

    /// Runs what must succeed; its stdout.
    fn ok(&self, arguments: &str) -> String {
        let output = self.run(arguments);
        assert_eq!(output.status.code(), Some(0), "{arguments}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    /// Runs what must fail with this exit code; its stderr.
    fn fails(&self, code: i32, arguments: &str) -> String {
        let output = self.run(arguments);
        let message = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(code), "{arguments}: {message}");
        assert!(!message.contains("panicked"), "{arguments}: {message}");
        message
    }

    fn json(&self, arguments: &str) -> Value {
        serde_json::from_str(&self.ok(arguments)).unwrap()
    }

    fn build(&self, release: &str, output: &str) {
        self.ok(&format!("build --rootfs root --product acme/gateway --release {release} --sequence 7 -o {output}"));
    }

    /// Makes a key and a trust file for it.
    fn signer(&self, name: &str, role: &str, more: &str) {
        self.ok(&format!("keygen --out {name}.pem"));
        let key = fs::read_to_string(self.path(&format!("{name}.pub.pem"))).unwrap();
        let text = format!("[[signer]]\nname = \"{name}\"\nrole = \"{role}\"\nkey = \"\"\"{key}\"\"\"\n{more}\n");
        fs::create_dir_all(self.path("trust")).unwrap();
        self.write(&format!("trust/{name}.toml"), text.as_bytes(), 0o644);
    }

    fn signed_by_two(&self) {
        self.signer("maker", "manufacturer", "products = [\"acme/*\"]\nnot-after = 2099-01-01T00:00:00Z");
        self.signer("importer", "importer", "products = [\"*\"]");
        self.build("1", "a.corim");
        self.ok("sign a.corim --key maker.pem --role manufacturer -o a.signed");
        self.ok("sign a.signed --key importer.pem --role importer -o a.signed");
    }
}

fn sha256(content: &[u8]) -> String {
    let digest = ring::digest::digest(&ring::digest::SHA256, content);
    data_encoding::HEXLOWER.encode(digest.as_ref())
}

#[test]
fn a_release_holds_what_can_run_by_content_and_each_digest_once() {
    let bench = Bench::new();
    bench.build("1", "a.corim");
    let shown = bench.json("show a.corim --json");
    let listed = shown["executables"].as_array().unwrap().iter();
    let listed = listed.map(|file| (file["path"].as_str().unwrap(), file["sha256"].as_str().unwrap().to_owned()));
    let expected: [(&str, &[u8]); 5] = [
        ("/usr/bin/script", b"#!/bin/sh\necho\n"),
        ("/usr/bin/tool", b"\x7fELF tool"),
        ("/usr/lib/driver.ko.xz", b"\xfd7zXZ\0 driver"),
        ("/usr/lib/library.so", b"\x7fELF library"),
        ("/usr/lib/odd-\\n-name", b"#!odd"),
    ];
    assert!(listed.eq(expected.map(|(path, content)| (path, sha256(content)))), "{shown:#}");
    assert_eq!((&shown["product"], &shown["sequence"]), (&"acme/gateway".into(), &7.into()));
}

#[test]
fn the_boot_of_a_real_log_is_what_the_tpm_held() {
    let bench = Bench::new();
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/vectors/boot");
    for boot in ["qemu-good1", "qemu-direct-kernel", "qemu-secureboot"] {
        let folder = folder.join(boot);
        let log = folder.join("eventlog.bin");
        bench.ok(&format!("build --boot-log {} --product p --release 1 -o {boot}", log.display()));
        let shown = bench.json(&format!("show {boot} --json"));
        let tpm: Value = serde_json::from_slice(&fs::read(folder.join("pcrs.json")).unwrap()).unwrap();
        let pcrs = shown["boots"][0].as_object().unwrap();
        assert!(pcrs.len() >= 10 && !pcrs.contains_key("10") && !pcrs.contains_key("14"));
        for (index, value) in pcrs {
            assert_eq!(value, &tpm["pcrs"][index], "{boot} PCR {index}");
        }
    }
}

#[test]
fn the_same_root_gives_the_same_bytes() {
    let bench = Bench::new();
    bench.build("1", "a.corim");
    bench.build("1", "b.corim");
    assert_eq!(fs::read(bench.path("a.corim")).unwrap(), fs::read(bench.path("b.corim")).unwrap());
}

#[test]
fn two_roles_sign_and_check_names_both() {
    let bench = Bench::new();
    bench.signed_by_two();
    let report = bench.json("check a.signed --trust trust --json");
    let roles = report["signers"].as_array().unwrap().iter().map(|signer| signer["role"].as_str().unwrap());
    assert!(roles.eq(["manufacturer", "importer"]), "{report:#}");
    let text = bench.ok("check a.signed --trust trust");
    assert!(text.contains("maker") && text.contains("2099-01-01T00:00:00Z"), "{text}");
    let show = bench.ok("show a.signed");
    assert!(show.contains("signed as importer") && show.contains("not verified"), "{show}");
}

#[test]
fn a_changed_byte_anywhere_is_refused() {
    let bench = Bench::new();
    bench.signed_by_two();
    let good = fs::read(bench.path("a.signed")).unwrap();
    for at in 0..good.len() {
        let mut bad = good.clone();
        bad[at] ^= 1 << (at % 8);
        fs::write(bench.path("bad.signed"), bad).unwrap();
        bench.fails(6, "check bad.signed --trust trust");
    }
    for cut in [0, 1, 10, good.len() - 1] {
        fs::write(bench.path("bad.signed"), &good[..cut]).unwrap();
        bench.fails(6, "check bad.signed --trust trust");
        bench.fails(6, "show bad.signed");
    }
    fs::write(bench.path("bad.signed"), [good.as_slice(), b"\0"].concat()).unwrap();
    bench.fails(6, "check bad.signed --trust trust");
}

#[test]
fn each_signer_that_does_not_count_is_named() {
    let bench = Bench::new();
    bench.build("1", "a.corim");
    bench.signer("maker", "manufacturer", "products = [\"acme/*\"]");
    bench.signer("late", "importer", "products = [\"*\"]\nnot-after = 2020-01-01T00:00:00Z");
    bench.signer("elsewhere", "distributor", "products = [\"other/*\"]");
    bench.ok("keygen --out stranger.pem");
    assert!(bench.fails(6, "check a.corim --trust trust").contains("not signed"));
    for (key, role, word) in [
        ("stranger", "manufacturer", "untrusted key"),
        ("maker", "importer", "wrong role"),
        ("late", "importer", "ended"),
        ("elsewhere", "distributor", "not trusted for the product acme/gateway"),
    ] {
        bench.ok(&format!("sign a.corim --key {key}.pem --role {role} -o b.signed"));
        let message = bench.fails(6, "check b.signed --trust trust");
        assert!(message.contains(word), "{key}: {message}");
    }
}

#[test]
fn a_key_signs_once_and_is_never_overwritten() {
    let bench = Bench::new();
    bench.signed_by_two();
    assert!(bench.fails(2, "sign a.signed --key maker.pem --role operator -o b").contains("signed the file already"));
    let key = fs::read(bench.path("maker.pem")).unwrap();
    assert!(bench.fails(1, "keygen --out maker.pem").contains("never overwritten"));
    assert_eq!(fs::read(bench.path("maker.pem")).unwrap(), key);
    assert_eq!(fs::metadata(bench.path("maker.pem")).unwrap().permissions().mode() & 0o777, 0o600);
}

#[test]
fn diff_tells_changed_added_removed_and_moved() {
    let bench = Bench::new();
    bench.build("1", "a.corim");
    bench.write("root/usr/bin/script", b"#!/bin/bash\n", 0o755);
    bench.write("root/usr/bin/new", b"\x7fELF new", 0o755);
    fs::remove_file(bench.path("root/usr/lib/driver.ko.xz")).unwrap();
    fs::rename(bench.path("root/usr/lib/odd-\n-name"), bench.path("root/usr/lib/even")).unwrap();
    bench.build("2", "b.corim");
    let changes = bench.json("diff a.corim b.corim --json");
    for (list, path) in [
        ("/changed/0/path", "/usr/bin/script"),
        ("/added/0/path", "/usr/bin/new"),
        ("/removed/0/path", "/usr/lib/driver.ko.xz"),
        ("/moved/0/to", "/usr/lib/even"),
    ] {
        assert_eq!(changes.pointer(list).and_then(Value::as_str), Some(path), "{changes:#}");
    }
    assert!(bench.ok("diff a.corim b.corim").contains("1 executable changed, 1 added, 1 removed, 1 moved"));
}

#[test]
fn failures_have_their_exit_code_and_leave_nothing_behind() {
    let bench = Bench::new();
    bench.build("1", "a.corim");
    let before = fs::read_dir(bench.folder.path()).unwrap().count();
    for (code, arguments) in [
        (1, "show missing"),
        (1, "check a.corim --trust missing"),
        (1, "build --rootfs missing --product p --release 1 -o x"),
        (1, "build --rootfs root --product p --release 1 -o missing/x"),
        (1, "sign a.corim --key missing --role operator -o x"),
        (2, ""),
        (2, "build --product p --release 1 -o x"),
        (2, "build --rootfs root --product a/b/c --release 1 -o x"),
        (2, "build --rootfs root --product p --release 1 --valid-from soon -o x"),
        (2, "build --rootfs root --product p --release 1 --valid-from 2027-01-01 --retire-at 2026-01-01 -o x"),
        (2, "sign a.corim --key k --role boss -o x"),
        (2, "check a.corim --trust ."),
        (2, "no-such-command"),
        (6, "build --boot-log a.corim --product p --release 1 -o x"),
        (6, "sign a.corim --key a.corim --role operator -o x"),
        (6, "show root/usr/bin/tool"),
    ] {
        bench.fails(code, arguments);
    }
    assert_eq!(fs::read_dir(bench.folder.path()).unwrap().count(), before);
}

#[test]
fn a_huge_file_ends_the_build_and_a_pipe_does_not_hold_it_up() {
    let bench = Bench::new();
    let pipe = bench.path("root/usr/lib/pipe");
    rustix::fs::mknodat(rustix::fs::CWD, &pipe, rustix::fs::FileType::Fifo, 0o755.into(), 0).unwrap();
    bench.build("1", "a.corim");
    let sparse = fs::File::create(bench.path("root/usr/lib/data-file")).unwrap();
    sparse.set_len(100 << 30).unwrap();
    bench.build("1", "a.corim");
    sparse.set_permissions(fs::Permissions::from_mode(0o755)).unwrap();
    let message = bench.fails(1, "build --rootfs root --product p --release 1 -o b.corim");
    assert!(message.contains("root/usr/lib/data-file"), "{message}");
    assert!(!bench.path("b.corim").exists());
}

#[test]
fn a_full_disk_is_a_failure_with_a_message() {
    let bench = Bench::new();
    bench.build("1", "a.corim");
    let Ok(full) = fs::OpenOptions::new().write(true).open("/dev/full") else { return };
    let output = Command::new(env!("CARGO_BIN_EXE_reference-values"))
        .args(["show", "a.corim"])
        .current_dir(bench.folder.path())
        .stdout(full)
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("stdout"));
}

#[test]
fn a_mistake_in_a_trust_file_is_named_with_its_file() {
    let bench = Bench::new();
    bench.signed_by_two();
    bench.write("trust/zz.toml", b"[[signer]]\nname = \"x\"\nrole = \"boss\"\nkey = \"\"\nproducts = [\"*\"]\n", 0o644);
    let message = bench.fails(2, "check a.signed --trust trust");
    assert!(message.contains("zz.toml") && message.contains("boss"), "{message}");
}

/// Files made once, each with the outcome that it must have everywhere.
#[test]
fn every_vector_has_its_outcome() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/vectors/reference-values");
    let expected: Value = serde_json::from_slice(&fs::read(folder.join("expected.json")).unwrap()).unwrap();
    let expected = expected.as_object().unwrap();
    assert!(expected.len() >= 10);
    for (file, outcome) in expected {
        let output = Command::new(env!("CARGO_BIN_EXE_reference-values"))
            .args(["check", file, "--trust", "trust", "--json"])
            .current_dir(&folder)
            .output()
            .unwrap();
        let message = String::from_utf8_lossy(&output.stderr);
        let code = outcome["exit"].as_i64().and_then(|code| i32::try_from(code).ok());
        assert_eq!(output.status.code(), code, "{file}: {message}");
        assert!(message.contains(outcome["message"].as_str().unwrap()), "{file}: {message}");
    }
}

#[test]
fn help_has_examples_and_completions_are_there() {
    let bench = Bench::new();
    for command in ["", "build", "keygen", "sign", "check", "show", "diff"] {
        assert!(bench.ok(&format!("{command} --help")).contains("Example"), "{command}");
    }
    assert!(bench.ok("completions bash").contains("reference-values"));
    assert!(bench.ok("--version").starts_with("reference-values "));
}
