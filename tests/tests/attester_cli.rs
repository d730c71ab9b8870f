//! The device program as its users meet it, against a software TPM: what it writes, what it says, how it ends.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Output},
};

use devices::swtpm::Swtpm;
use evidence::{
    claims::{LogKind, Nonce},
    envelope::{DeviceKeys, Envelope},
    limits::MAX_MESSAGE,
    runtime_log,
    tpm::{AkPublic, without_size},
};
use serde_json::Value;
use tempfile::TempDir;

const NONCE: Nonce = [0xAB; 32];

/// A device without a network.
struct Device {
    tcti: String,
    dir: TempDir,
    boot_log: PathBuf,
}

impl Device {
    fn new(tcti: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        Self { tcti: tcti.to_owned(), boot_log: PathBuf::from("/nonexistent/boot"), dir }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Runs `attester` with a configuration of `tcti`, `state_dir`, logs, and `more`.
    fn run_with(&self, more: &str, arguments: &[&str]) -> Output {
        let config = self.path("attester.toml");
        let text = format!(
            "tcti = {:?}\nstate_dir = {:?}\nboot_log = {:?}\nima_log = \"/nonexistent/ima\"\n{more}",
            self.tcti,
            self.path("state"),
            self.boot_log
        );
        fs::write(&config, text).unwrap();
        attester().arg("--config").arg(&config).args(arguments).output().unwrap()
    }

    fn run(&self, arguments: &[&str]) -> Output {
        self.run_with("", arguments)
    }

    /// Makes evidence; returns the message and the attestation key.
    fn evidence(&self, more: &[&str]) -> (Vec<u8>, AkPublic) {
        let (out, ak) = (self.path("message"), self.path("ak"));
        let nonce = "ab".repeat(32);
        let fixed = ["evidence", "--nonce", &nonce, "--out", text(&out), "--ak-out", text(&ak)];
        let done = self.run(&[&fixed[..], more].concat());
        assert_eq!(code(&done), 0, "{}", said(&done));
        let ak = fs::read(ak).unwrap();
        assert_eq!(without_size(&ak).len() + 2, ak.len(), "TPM2B_PUBLIC");
        (fs::read(out).unwrap(), AkPublic::read(&ak).unwrap())
    }
}

fn attester() -> Command {
    // Tests lie in target/PROFILE/deps, programs in target/PROFILE.
    let test = std::env::current_exe().unwrap();
    let program = test.ancestors().nth(2).unwrap().join("attester");
    assert!(program.is_file(), "{} is missing: cargo build -p countersign-attester", program.display());
    Command::new(program)
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

fn code(done: &Output) -> i32 {
    done.status.code().expect("ended by itself")
}

fn said(done: &Output) -> String {
    String::from_utf8_lossy(&done.stderr).into_owned()
}

#[test]
fn evidence_is_whole_verifies_and_costs_600_bytes_when_nothing_is_new() {
    let tpm = Swtpm::start();
    let mut device = Device::new(&tpm.tcti);
    // Not this TPM's: it shows as a contradiction to a verifier, and is attached all the same.
    device.boot_log = device.path("boot");
    fs::write(&device.boot_log, b"whatever firmware left here").unwrap();
    let (message, ak) = device.evidence(&[]);
    assert!(message.len() <= MAX_MESSAGE);
    let envelope = Envelope::decode(&message).unwrap();
    let keys = DeviceKeys { device: envelope.claimed_device(), ak };
    let authentic = envelope.verify(&keys).unwrap();
    assert_eq!(authentic.nonces().as_slice(), [NONCE]);
    assert_eq!(authentic.attachment(LogKind::Boot).unwrap().bytes, b"whatever firmware left here");
    let values = authentic.pcr_values().unwrap().expect("PCR values are attached");
    let log = authentic.attachment(LogKind::Runtime).expect("at least this test runs");
    let replayed = runtime_log::replay([0; 32], &log.bytes, runtime_log::DEFAULT_PCR, 0).unwrap();
    assert_eq!(Some(&replayed.value), values.get(14));
    assert_eq!((log.first, log.count), (0, replayed.next_index));

    let (bare, again) = device.evidence(&["--bare"]);
    assert_eq!(again, ak, "the same key each time");
    assert!(bare.len() <= 600, "{} bytes", bare.len());
    let authentic = Envelope::decode(&bare).unwrap().verify(&keys).unwrap();
    assert_eq!(authentic.attachment(LogKind::Runtime), None);
}

#[test]
fn a_nonce_that_is_none_is_bad_usage_and_writes_nothing() {
    let device = Device::new("swtpm:host=127.0.0.1,port=1");
    let out = device.path("message");
    let short = "ab".repeat(31);
    let nine = vec!["ab".repeat(32); 9].join(",");
    for bad in ["", "zz", &short, &nine] {
        let done = device.run(&["evidence", "--nonce", bad, "--out", text(&out)]);
        assert_eq!(code(&done), 2, "{}", said(&done));
        assert!(said(&done).contains("--nonce"), "{}", said(&done));
    }
    assert!(!out.exists());
}

#[test]
fn an_absent_tpm_is_an_error_that_says_where_it_was_looked_for() {
    let device = Device::new("swtpm:host=127.0.0.1,port=1");
    let out = device.path("message");
    let done = device.run(&["evidence", "--nonce", &"ab".repeat(32), "--out", text(&out)]);
    assert_eq!(code(&done), 1);
    assert!(said(&done).contains("port=1") && said(&done).contains("`tcti`"), "{}", said(&done));
    assert!(!out.exists());
}

/// The lines of `doctor --json` by name.
fn doctor(device: &Device, more: &str) -> (i32, Vec<Value>) {
    let done = device.run_with(more, &["doctor", "--json"]);
    let report: Value = serde_json::from_slice(&done.stdout).unwrap();
    assert_eq!(report["ok"], code(&done) == 0);
    (code(&done), report["lines"].as_array().unwrap().clone())
}

fn line<'a>(lines: &'a [Value], name: &str) -> &'a Value {
    lines.iter().find(|line| line["name"].as_str().is_some_and(|is| is.starts_with(name))).expect(name)
}

#[test]
fn a_tpm_without_endorsement_certificate_attests_and_doctor_says_what_to_do() {
    let tpm = Swtpm::start();
    for index in ["0x1c00002", "0x1c00016"] {
        let done = Command::new("tpm2_nvundefine").args(["-T", &tpm.tcti, "-C", "p", index]).output().unwrap();
        assert!(done.status.success(), "{}", said(&done));
    }
    let device = Device::new(&tpm.tcti);
    device.evidence(&["--bare"]);
    let (_, lines) = doctor(&device, "");
    let certificate = line(&lines, "endorsement certificate");
    assert_eq!(certificate["level"], "warn");
    assert!(certificate["remedy"].as_str().unwrap().contains("tpm2_nvwrite"), "{certificate}");
}

#[test]
fn doctor_looks_at_the_tpm_and_the_runtime_log_and_changes_nothing() {
    let tpm = Swtpm::start();
    let device = Device::new(&tpm.tcti);
    let (code, lines) = doctor(&device, "");
    assert_eq!(code, 1, "no verifier is pinned");
    assert_eq!(line(&lines, "configuration")["level"], "fail");
    for good in ["tpm", "attestation key", "endorsement certificate", "pcr bank", "runtime log"] {
        assert_eq!(line(&lines, good)["level"], "ok", "{good}");
    }
    assert!(!device.path("state").exists(), "not even the state folder is made");
    device.evidence(&[]);
    let log = fs::read(device.path("state/runtime.log")).unwrap();
    let found = line(&doctor(&device, "").1, "runtime log").clone();
    assert!(found["text"].as_str().unwrap().contains("lead to the PCR"), "{found}");
    assert_eq!(fs::read(device.path("state/runtime.log")).unwrap(), log);
}

#[test]
fn doctor_says_where_the_runtime_log_and_its_pcr_disagree() {
    let tpm = Swtpm::start();
    let device = Device::new(&tpm.tcti);
    device.evidence(&[]);
    let value = "ab".repeat(32);
    let done = Command::new("tpm2_pcrextend").args(["-T", &tpm.tcti, &format!("14:sha256={value}")]).output().unwrap();
    assert!(done.status.success(), "{}", said(&done));
    let (code, lines) = doctor(&device, "");
    assert_eq!(code, 1);
    let log = line(&lines, "runtime log");
    assert_eq!(log["level"], "fail");
    assert!(log["remedy"].is_string(), "{log}");
}

#[test]
fn doctor_names_a_closed_endorsement_hierarchy_and_a_tpm_that_is_not_there() {
    let tpm = Swtpm::start();
    let done = Command::new("tpm2_changeauth").args(["-T", &tpm.tcti, "-c", "endorsement", "secret"]).output().unwrap();
    assert!(done.status.success(), "{}", said(&done));
    let device = Device::new(&tpm.tcti);
    let (code, lines) = doctor(&device, "");
    assert_eq!(code, 1);
    assert!(line(&lines, "endorsement hierarchy")["remedy"].as_str().unwrap().contains("endorsement_auth"));
    let (_, lines) = doctor(&device, "endorsement_auth = \"secret\"\n");
    assert_eq!(line(&lines, "attestation key")["level"], "ok");
    let (_, lines) = doctor(&Device::new("swtpm:host=127.0.0.1,port=1"), "");
    assert_eq!(line(&lines, "tpm")["level"], "fail");
}

#[test]
fn doctor_takes_nothing_from_a_running_attester() {
    let tpm = Swtpm::start();
    let device = Device::new(&tpm.tcti);
    fs::create_dir(device.path("state")).unwrap();
    let running = fs::File::create(device.path("state/running")).unwrap();
    running.lock().unwrap();
    let (_, lines) = doctor(&device, "");
    assert_eq!(line(&lines, "service")["level"], "ok");
    let found = line(&lines, "tpm");
    assert!(found["level"] == "ok" && found["text"].as_str().unwrap().contains("in use"), "{found}");
}

#[test]
fn a_configuration_with_a_typo_is_a_line_of_doctors_too() {
    let device = Device::new("swtpm:host=127.0.0.1,port=1");
    let (code, lines) = doctor(&device, "sweep_secnds = 3\n");
    assert_eq!((code, lines.len()), (1, 1));
    assert!(line(&lines, "configuration")["text"].as_str().unwrap().contains("sweep_seconds"));
}

#[test]
fn a_typo_in_the_configuration_names_the_nearest_key() {
    let device = Device::new("swtpm:host=127.0.0.1,port=1");
    let done = device.run_with("sweep_secnds = 3\n", &["measure"]);
    assert_eq!(code(&done), 2);
    assert!(said(&done).contains("sweep_seconds") && said(&done).contains("attester.toml:5:1"), "{}", said(&done));
}

#[test]
fn commands_on_the_network_say_what_the_configuration_lacks() {
    let device = Device::new("swtpm:host=127.0.0.1,port=1");
    for command in ["enrol", "once", "run"] {
        let done = device.run(&[command]);
        assert_eq!(code(&done), 2, "{command}");
        assert!(said(&done).contains("[broker]"), "{}", said(&done));
    }
}

#[test]
fn measure_needs_neither_tpm_nor_configuration_and_lists_what_runs() {
    let device = Device::new("swtpm:host=127.0.0.1,port=1");
    let done = device.run(&["measure", "--json"]);
    assert_eq!(code(&done), 0, "{}", said(&done));
    let report: Value = serde_json::from_slice(&done.stdout).unwrap();
    let files = report["files"].as_array().unwrap();
    let own = std::env::current_exe().unwrap();
    let file = files.iter().find(|file| file["path"] == text(&own)).expect("this test runs");
    assert_eq!(file["kind"], "executable");
    assert_eq!(file["sha256"].as_str().unwrap().len(), 64);
    assert!(report["tpm"]["absent"].is_string() && report["boot_log"]["absent"].is_string());
}

#[test]
fn status_before_any_attestation_says_so() {
    let device = Device::new("swtpm:host=127.0.0.1,port=1");
    let done = device.run(&["status"]);
    assert_eq!(code(&done), 0);
    assert!(String::from_utf8_lossy(&done.stdout).contains("never attested"));
}

#[test]
fn bad_usage_ends_with_2_and_help_with_0() {
    for (arguments, expected) in [(&["frobnicate"][..], 2), (&[], 2), (&["--help"], 0), (&["--version"], 0)] {
        assert_eq!(code(&attester().args(arguments).output().unwrap()), expected, "{arguments:?}");
    }
}
