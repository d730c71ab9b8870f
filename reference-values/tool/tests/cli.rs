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
        self.run_words(&arguments.split_whitespace().collect::<Vec<_>>())
    }

    fn run_words(&self, arguments: &[&str]) -> Output {
        Command::new(env!("CARGO_BIN_EXE_reference-values"))
            .args(arguments)
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

    /// Builds a release of these boot logs; stdout, or stderr with the exit code.
    fn boot_rules(&self, logs: &[&str], options: &[&str], output: &str) -> Result<String, (Option<i32>, String)> {
        let fixed = ["build", "--product", "p", "--release", "1", "--sequence", "1", "-o", output, "--boot-log"];
        let logs = logs.iter().map(|name| captured(name));
        let logs = logs.map(|folder| folder.join("eventlog.bin").display().to_string()).collect::<Vec<_>>();
        let logs = logs.iter().map(String::as_str).collect::<Vec<_>>();
        let done = self.run_words(&[&fixed[..], &logs, options].concat());
        let text = |bytes| String::from_utf8(bytes).unwrap();
        if done.status.success() { Ok(text(done.stdout)) } else { Err((done.status.code(), text(done.stderr))) }
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

/// The folder of a boot that was captured on a virtual machine.
fn captured(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/vectors/boot").join(name)
}

/// Command lines of the captured boots: all but one had the first.
const LINE: &str = "console=ttyS0 panic=-1 quiet ima_policy=tcb ima_template=ima-ng ima_hash=sha256";
const OTHER_LINE: &str =
    "console=ttyS0 panic=-1 quiet ima_policy=tcb ima_hash=sha256 ima_template=ima-ng init_on_alloc=0";

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
fn exact_values_of_a_real_boot_are_what_the_tpm_held() {
    let bench = Bench::new();
    for boot in ["qemu-good1", "qemu-direct-kernel", "qemu-secureboot"] {
        let folder = captured(boot);
        let log = folder.join("eventlog.bin");
        bench.ok(&format!("build --boot-pcrs {} --product p --release 1 -o {boot}", log.display()));
        let shown = bench.json(&format!("show {boot} --json"));
        let tpm: Value = serde_json::from_slice(&fs::read(folder.join("pcrs.json")).unwrap()).unwrap();
        let pcrs = shown["boots"][0].as_object().unwrap();
        assert!(pcrs.len() >= 10 && !pcrs.contains_key("10") && !pcrs.contains_key("14"));
        for (index, value) in pcrs {
            assert_eq!(value, &tpm["pcrs"][index], "{boot} PCR {index}");
        }
        // The same values as a tool for TPMs prints them.
        let lines = pcrs.iter().map(|(index, value)| format!("    {index}: 0x{}\n", value.as_str().unwrap()));
        let printed = format!("  sha256:\n{}", lines.collect::<String>());
        bench.write("pcrs.txt", printed.as_bytes(), 0o644);
        bench.ok("build --boot-pcrs pcrs.txt --product p --release 1 -o printed");
        assert_eq!(bench.json("show printed --json")["boots"], shown["boots"]);
    }
    assert!(bench.fails(6, "build --boot-pcrs root/usr/bin/tool --product p --release 1 -o x").contains("neither"));
}

#[test]
fn a_real_log_gives_rules_and_its_command_line_must_be_given() {
    let bench = Bench::new();
    let (code, message) = bench.boot_rules(&["qemu-good1"], &[], "x").unwrap_err();
    assert_eq!(code, Some(2), "{message}");
    assert!(message.contains("qemu-good1/eventlog.bin") && message.contains("--cmdline"), "{message}");
    let wrong = bench.boot_rules(&["qemu-good1"], &["--cmdline", OTHER_LINE], "x").unwrap_err();
    assert_eq!(wrong.0, Some(2), "{}", wrong.1);
    assert!(!bench.path("x").exists());

    let told = bench.boot_rules(&["qemu-good1"], &["--cmdline", LINE], "a").unwrap();
    assert!(told.contains("PCR 1 EV_EFI_VARIABLE_BOOT: not judged"), "{told}");
    let shown = bench.json("show a --json");
    assert_eq!(shown["boots"], Value::Array(vec![]));
    let rules = &shown["boot_rules"][0];
    assert_eq!(rules["command_lines"], serde_json::json!([LINE]));
    assert_eq!(rules["separators"], serde_json::json!([0, 1, 2, 3, 4, 5, 6, 7]));
    assert_eq!(rules["secure_boot"]["required"], false);
    let events = rules["events"].as_array().unwrap();
    let of = |pcr: u64, name: &str| events.iter().find(|one| one["pcr"] == pcr && one["name"] == name).unwrap();
    assert_eq!(of(1, "EV_EFI_VARIABLE_BOOT")["rule"], "unjudged");
    // The stub's names and contents of .linux, .osrel, .initrd, and the name of .cmdline.
    assert_eq!(of(11, "EV_IPL")["sequences"][0].as_array().unwrap().len(), 7);
    assert!(events.iter().all(|one| one["rule"] == "unjudged" || one["sequences"].as_array().unwrap().len() == 1));
    let text = bench.ok("show a");
    assert!(text.contains(&format!("command line: {LINE}")) && text.contains("Secure Boot: not required"), "{text}");
}

#[test]
fn boots_that_differ_make_several_sequences_and_diff_tells_which() {
    let bench = Bench::new();
    bench.boot_rules(&["qemu-good1"], &["--cmdline", LINE], "a").unwrap();
    let lines = ["--cmdline", LINE, "--cmdline", OTHER_LINE];
    let told = bench.boot_rules(&["qemu-good1", "qemu-cmdline"], &lines, "b").unwrap();
    assert!(told.contains("PCR 4 EV_EFI_BOOT_SERVICES_APPLICATION: one of 2 sequences"), "{told}");
    let told = bench.boot_rules(&["qemu-secureboot"], &["--cmdline", LINE, "--attester-in", "initrd"], "c").unwrap();
    assert!(!told.contains("not required"), "{told}");

    let changes = bench.json("diff a b --json");
    let about = |changes: &Value| {
        let all = changes["boot_changes"].as_array().unwrap().iter();
        all.map(|one| format!("{}: {}", one["about"].as_str().unwrap(), one["change"].as_str().unwrap()))
            .collect::<Vec<_>>()
    };
    assert_eq!(about(&changes), ["PCR 4 EV_EFI_BOOT_SERVICES_APPLICATION: 1 added", "command lines: 1 added"]);
    assert_eq!(changes["boot_changes"][1]["added"], serde_json::json!([OTHER_LINE]));
    let changes = about(&bench.json("diff a c --json"));
    for change in [
        "PCR 0 EV_EFI_PLATFORM_FIRMWARE_BLOB: 2 removed, 2 added",
        "PCR 7 EV_EFI_VARIABLE_AUTHORITY: new",
        "Secure Boot: required now",
        "dbx: 1 added",
        "attester in: 1 added",
    ] {
        assert!(changes.iter().any(|one| one == change), "{change}: {changes:#?}");
    }
    assert!(bench.ok("diff a c").contains("~ Secure Boot: required now"));
    assert!(bench.ok("diff a a").contains("0 changes in boot rules"));
}

#[test]
fn what_binds_the_attester_must_be_in_log_and_command_line() {
    let bench = Bench::new();
    let (code, message) =
        bench.boot_rules(&["qemu-good1"], &["--cmdline", LINE, "--attester-in", "verity"], "x").unwrap_err();
    assert!(code == Some(2) && message.contains("roothash="), "{message}");
    bench.boot_rules(&["qemu-good1"], &["--cmdline", LINE, "--attester-in", "initrd"], "a").unwrap();
    assert_eq!(bench.json("show a --json")["boot_rules"][0]["attester_in"], "initrd");
}

#[test]
fn a_kernel_is_named_and_its_configuration_read() {
    let bench = Bench::new();
    bench.write(
        "config",
        b"CONFIG_MODULES=y\nCONFIG_MODULE_SIG=y\nCONFIG_MODULE_SIG_FORCE=y\nCONFIG_KEXEC_FILE=y\n",
        0o644,
    );
    let config = bench.path("config").display().to_string();
    let unnamed = bench.boot_rules(&["qemu-good1"], &["--cmdline", LINE, "--kernel-config", &config], "x").unwrap_err();
    assert!(unnamed.0 == Some(2) && unnamed.1.contains("--kernel-release"), "{}", unnamed.1);
    let options = ["--cmdline", LINE, "--kernel-config", &config, "--kernel-release", "6.1.0-50-cloud-amd64"];
    bench.boot_rules(&["qemu-good1"], &options, "a").unwrap();
    let kernel = &bench.json("show a --json")["boot_rules"][0]["kernel"];
    let expected = serde_json::json!({
        "release": "6.1.0-50-cloud-amd64", "modules_signed": true, "lockdown": "absent", "kexec": "file-only",
    });
    assert_eq!(kernel, &expected);
    let no_config = bench.path("root/usr/bin/script").display().to_string();
    let options = ["--cmdline", LINE, "--kernel-config", &no_config, "--kernel-release", "6"];
    assert_eq!(bench.boot_rules(&["qemu-good1"], &options, "x").unwrap_err().0, Some(6));
}

#[test]
fn an_ima_policy_is_listed_as_the_device_sees_it() {
    let bench = Bench::new();
    let policy = b"# kexec\nmeasure func=KEXEC_KERNEL_CHECK\n";
    fs::create_dir_all(bench.path("root/etc/ima")).unwrap();
    bench.write("root/etc/ima/ima-policy", policy, 0o644);
    let told =
        bench.ok("build --rootfs root --ima-policy root/etc/ima/ima-policy --product p --release 1 --sequence 1 -o a");
    assert!(told.contains("IMA policy /etc/ima/ima-policy that measures kexec"), "{told}");
    let expected = serde_json::json!([
        {"path": "/etc/ima/ima-policy", "sha256": sha256(policy), "measures_kexec": true},
    ]);
    assert_eq!(bench.json("show a --json")["ima_policies"], expected);
    bench.fails(6, "build --rootfs root --ima-policy root/usr/bin/script --product p --release 1 -o x");
}

#[test]
fn what_chooses_libraries_is_measured_like_what_runs() {
    let bench = Bench::new();
    fs::create_dir_all(bench.path("root/etc")).unwrap();
    bench.write("root/etc/ld.so.cache", b"glibc-ld.so.cache1.1", 0o644);
    bench.write("root/etc/other.cache", b"words", 0o644);
    bench.ok("build --rootfs root --product p --release 1 --sequence 1 -o a");
    let shown = bench.ok("show a");
    assert!(shown.contains("/etc/ld.so.cache") && !shown.contains("other.cache"), "{shown}");
}

#[test]
fn several_roots_are_one_release() {
    let bench = Bench::new();
    fs::create_dir_all(bench.path("initrd")).unwrap();
    bench.write("initrd/init", b"#!/bin/busybox sh\n", 0o755);
    bench.ok("build --rootfs root --rootfs initrd --product p --release 1 --sequence 1 -o a");
    let shown = bench.json("show a --json");
    let paths = shown["executables"].as_array().unwrap().iter().map(|file| file["path"].as_str().unwrap());
    let paths = paths.collect::<Vec<_>>();
    assert!(paths.contains(&"/init") && paths.contains(&"/usr/bin/tool"), "{paths:?}");
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
        (2, "build --rootfs root --cmdline quiet --product p --release 1 -o x"),
        (2, "build --rootfs root --attester-in memory --product p --release 1 -o x"),
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
    let message = bench.fails(2, "build --rootfs root --product p --release 1 -o b.corim");
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

/// Of an encoder that shares no code with this one.
#[test]
fn boot_rules_of_a_second_implementation_read_as_they_were_meant() {
    let bench = Bench::new();
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/vectors/reference-values/boot-rules.signed");
    let shown = bench.json(&format!("show {} --json", file.display()));
    let rules = &shown["boot_rules"][0];
    let hashed = |texts: &[&str]| {
        let mut all = texts.iter().map(|text| sha256(text.as_bytes())).collect::<Vec<_>>();
        all.sort();
        serde_json::json!(all)
    };
    let kinds = rules["events"].as_array().unwrap().iter();
    let kinds = kinds.map(|one| (one["pcr"].as_u64().unwrap(), one["rule"].as_str().unwrap())).collect::<Vec<_>>();
    let expected = [(0, "sequences"), (1, "unjudged"), (4, "sequences"), (5, "any-of"), (9, "sequences")];
    assert_eq!(kinds, expected);
    let loaders = serde_json::json!([[], [sha256(b"loader"), sha256(b"kernel")]]);
    assert_eq!(rules["events"][2]["sequences"], loaders);
    let actions = &rules["events"][3];
    assert_eq!(actions["digests"], hashed(&["called", "returned"]));
    assert_eq!((&actions["at_least"], &actions["at_most"]), (&1.into(), &3.into()));
    assert_eq!(rules["secure_boot"]["db"], hashed(&["db 1", "db 2"]));
    assert_eq!(rules["secure_boot"]["dbx_at_least"], hashed(&["dbx 1", "dbx 2", "dbx 3"]));
    assert_eq!(rules["command_lines"], serde_json::json!(["quiet root=/dev/sda2", "quiet root=PARTUUID=*"]));
    assert_eq!(
        (&rules["kernel"]["lockdown"], &rules["kernel"]["kexec"]),
        (&"with-secure-boot".into(), &"file-only".into())
    );
    assert_eq!((&rules["attester_in"], &shown["ima_policies"][0]["measures_kexec"]), (&"initrd".into(), &true.into()));
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
