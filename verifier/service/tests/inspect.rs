//! `verifier inspect` on artefacts of real boots (tests/vectors/README.md), and on everything that is none.

use std::{
    fs,
    io::Write as _,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
};

use serde_json::Value;
use verifier::inspect::{Undecodable, inspect};

fn vectors() -> PathBuf {
    [env!("CARGO_MANIFEST_DIR"), "../../tests/vectors"].iter().collect()
}

fn boots() -> Vec<PathBuf> {
    let folders = fs::read_dir(vectors().join("boot")).unwrap().map(|entry| entry.unwrap().path());
    folders.filter(|path| path.join("ima.bin").is_file()).collect()
}

fn artefact(file: &Path) -> Value {
    inspect(&fs::read(file).unwrap()).unwrap_or_else(|error| panic!("{}: {error}", file.display()))
}

fn pcrs_of_the_tpm(boot: &Path) -> Value {
    let text = fs::read(boot.join("pcrs.json")).unwrap();
    serde_json::from_slice::<Value>(&text).unwrap()["pcrs"].take()
}

#[test]
fn boot_logs_give_the_pcrs_of_the_tpm() {
    assert!(boots().len() >= 8);
    for boot in boots() {
        let (log, tpm) = (artefact(&boot.join("eventlog.bin")), pcrs_of_the_tpm(&boot));
        assert_eq!((&log["kind"], &log["problems"]), (&"tcg-event-log".into(), &Value::Array(vec![])));
        assert!(log["events"].as_u64().unwrap() > 20);
        let bank = log["pcrs"]["sha256"].as_object().unwrap();
        assert!(bank.len() >= 9, "{}", boot.display());
        for (pcr, value) in bank {
            assert_eq!(*value, tpm[pcr], "{} PCR {pcr}", boot.display());
        }
    }
}

#[test]
fn every_event_of_a_boot_log_is_listed_with_what_its_digest_proves() {
    for boot in boots() {
        let log = artefact(&boot.join("eventlog.bin"));
        let listing = log["listing"].as_array().unwrap();
        assert_eq!(Some(listing.len() as u64), log["events"].as_u64());
        for (index, event) in listing.iter().enumerate() {
            assert_eq!(event["event"], index);
            assert!(event["content"].as_str().is_some_and(|text| !text.contains(char::is_control)), "{event}");
            let measured = event["type"] != "EV_NO_ACTION";
            assert_eq!((event["digest"].is_string(), event["proven"].is_boolean()), (measured, measured), "{event}");
        }
    }
    let log = artefact(&vectors().join("boot/qemu-secureboot/eventlog.bin"));
    let proven = |proven: bool, kind: &str| {
        let all = log["listing"].as_array().unwrap().iter();
        all.filter(|event| event["type"] == kind && event["proven"] == proven).count()
    };
    assert_eq!((proven(true, "EV_EFI_VARIABLE_DRIVER_CONFIG"), proven(false, "EV_EFI_VARIABLE_DRIVER_CONFIG")), (5, 0));
    assert_eq!(proven(false, "EV_EFI_BOOT_SERVICES_APPLICATION"), 1);
    let secure_boot = log["listing"].as_array().unwrap().iter().find(|event| event["event"] == 4).unwrap();
    assert_eq!(secure_boot["content"], "variable SecureBoot (8be4df61-93ca-11d2-aa0d-00e098032b8c) data=01");
    assert!(secure_boot["digest"].as_str().unwrap().starts_with("sha256:ccfc4bb3"));
}

#[test]
fn handmade_logs_give_the_pcrs_computed_beside_them() {
    let folders = fs::read_dir(vectors().join("boot/handmade")).unwrap().map(|entry| entry.unwrap().path());
    let folders: Vec<_> = folders.filter(|path| path.is_dir()).collect();
    assert_eq!(folders.len(), 8);
    for folder in folders {
        assert_eq!(artefact(&folder.join("eventlog.bin"))["pcrs"], pcrs_of_the_tpm(&folder), "{}", folder.display());
    }
}

#[test]
fn of_a_log_with_too_many_events_the_first_are_listed_and_all_are_replayed() {
    let mut log = fs::read(vectors().join("boot/qemu-good1/eventlog.bin")).unwrap();
    let few = inspect(&log).unwrap();
    // EV_NO_ACTION without digests and data.
    (0..20_000).for_each(|_| log.extend([0, 3, 0, 0].map(u32::to_le_bytes).as_flattened()));
    let many = inspect(&log).unwrap();
    assert_eq!((&many["events"], &many["pcrs"]), (&20_038.into(), &few["pcrs"]));
    assert_eq!(many["listing"].as_array().unwrap().len(), 16_384);
    let problems = many["problems"].as_array().unwrap();
    assert!(problems.iter().any(|problem| problem["code"] == "log.more-events"), "{problems:?}");
}

#[test]
fn ima_lists_give_pcr_10_of_the_tpm_and_every_bank() {
    for boot in boots() {
        let (list, tpm) = (artefact(&boot.join("ima.bin")), pcrs_of_the_tpm(&boot));
        assert_eq!(list["kind"], "ima-log");
        assert_eq!(list["pcrs"]["sha256"]["10"], tpm["10"], "{}", boot.display());
        for (bank, length) in [("sha1", 40), ("sha256", 64), ("sha384", 96), ("sha512", 128)] {
            assert_eq!(list["pcrs"][bank]["10"].as_str().unwrap().len(), length);
        }
        let templates = list["templates"].as_object().unwrap().values().map(|count| count.as_u64().unwrap());
        assert_eq!(templates.sum::<u64>(), list["entries"].as_u64().unwrap());
        let violations = if boot.ends_with("qemu-violation") { 2 } else { 0 };
        assert_eq!(list["violations"], violations);
        assert!(list["boot_aggregate"].as_str().unwrap().starts_with("sha256:"));
    }
}

#[test]
fn tpm_structures_are_told_apart() {
    for boot in boots() {
        let quote = artefact(&boot.join("quote.msg"));
        assert_eq!((&quote["kind"], &quote["type"]), (&"tpms-attest".into(), &"quote".into()));
        assert_eq!(quote["selection"][0]["bank"], "sha256");
        let key = artefact(&boot.join("ak.pub"));
        assert_eq!((&key["kind"], &key["key"]["curve"]), (&"tpm2b-public".into(), &"P-256".into()));
        assert_eq!(artefact(&boot.join("quote.sig"))["kind"], "tpmt-signature");
        // With and without the size that tools put before a structure.
        let bare = fs::read(boot.join("ak.pub")).unwrap()[2..].to_vec();
        assert_eq!(inspect(&bare).unwrap()["name"], key["name"]);
        let sized = evidence::tpm::tpm2b(&fs::read(boot.join("quote.msg")).unwrap());
        assert_eq!(inspect(&sized).unwrap(), quote);
    }
}

#[test]
fn signed_messages_are_told_apart() {
    let corpus = vectors().join("../fuzz/corpus");
    let evidence = artefact(&corpus.join("evidence/three-nonces-and-a-log"));
    assert_eq!((&evidence["kind"], &evidence["device"]), (&"evidence".into(), &"03".repeat(32).into()));
    assert_eq!(evidence["nonces"].as_array().unwrap().len(), 3);
    assert_eq!(evidence["logs"][0]["content"]["kind"], "runtime-log");
    let release = artefact(&vectors().join("reference-values/two-signers.signed"));
    assert_eq!(release["kind"], "reference-values");
    assert_eq!((release["signatures"].as_array().unwrap().len(), &release["problems"]), (2, &Value::Array(vec![])));
    let unsigned = artefact(&vectors().join("reference-values/unsigned.corim"));
    assert_eq!(unsigned["problems"][0]["code"], "signature.unsigned");
    let result = inspect(&result()).unwrap();
    assert_eq!((&result["kind"], &result["verdict"]), (&"attestation-result".into(), &"warning".into()));
    assert_eq!(result["claims"]["executables"], serde_json::json!({ "value": 33, "tier": "warning" }));
    assert_eq!(result["causes"][0]["code"], "ima.violation");
    assert_eq!((&result["product"], &result["expires"]), (&"acme/router".into(), &"2027-01-15T08:10:00Z".into()));
}

/// A result by a key that does not matter here.
fn result() -> Vec<u8> {
    use evidence::{
        claims::DeviceId,
        result::{Acknowledged, AttestationResult, Claim, ResultCause, Tier, TrustVector},
        verifier_message::{Purpose, VerifierKeyId, seal},
    };
    let mut vector = TrustVector::default();
    vector.set(Claim::Executables, 33);
    let content = AttestationResult {
        issued: 1_800_000_000,
        expires: 1_800_000_600,
        nonce: [9; 32],
        device: DeviceId([3; 32]),
        developer: "verifier".into(),
        build: "0.1.0".into(),
        evidence: [5; 32],
        acknowledged: Acknowledged::default(),
        status: Tier::Warning,
        vector,
        policy: "default".into(),
        causes: vec![ResultCause { code: "ima.violation".into(), detail: "2 entries".into() }],
        tolerated: vec![],
        release: Some(("acme/router".into(), "1.0".into())),
        vouched: vec![("manufacturer".into(), "ACME".into())],
    };
    seal(Purpose::Result, &VerifierKeyId([1; 32]), &content, |_| Ok::<_, ()>([7; 64])).unwrap()
}

#[test]
fn an_artefact_cut_anywhere_is_undecodable_or_a_shorter_log() {
    let boot = &boots()[0];
    for name in ["quote.msg", "quote.sig", "ak.pub"] {
        let bytes = fs::read(boot.join(name)).unwrap();
        for cut in 0..bytes.len() {
            // A TPM2B without its first bytes is never reached: cuts are at the end.
            assert!(inspect(&bytes[..cut]).is_err(), "{name} cut at {cut}");
        }
    }
    for name in ["eventlog.bin", "ima.bin"] {
        let bytes = fs::read(boot.join(name)).unwrap();
        let kind = inspect(&bytes).unwrap()["kind"].clone();
        for cut in 0..bytes.len().min(3_000) {
            if let Ok(shorter) = inspect(&bytes[..cut]) {
                assert_eq!(shorter["kind"], kind, "{name} cut at {cut}");
            }
        }
    }
}

#[test]
fn text_and_noise_are_no_artefact() {
    let texts: [&[u8]; 8] = [
        b"",
        b"\n",
        b"-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n",
        b"{\"bank\": \"sha256\", \"pcrs\": {}}",
        b"10 91f34b5c671d73504b274a919661cf80dab1e127 ima-ng sha1:1801e1be3e65ef1eaa5c16617bec8f1274eaf6b3 boot_aggregate\n",
        &[0; 4096],
        &[0xFF; 4096],
        &[0xD2; 64],
    ];
    for text in texts {
        assert!(inspect(text).is_err(), "{:?}", String::from_utf8_lossy(text));
    }
    assert!(matches!(inspect(b"hello").unwrap_err(), Undecodable::Unknown { at: 4, .. }));
    let refused = inspect(b"just as long as an event has to be: no log\n").unwrap_err().to_string();
    assert!(refused.contains("at byte 28"), "{refused}");
}

fn run(arguments: &[&str], stdin: &[u8]) -> Output {
    let mut child = Command::new(env!("CARGO_BIN_EXE_verifier"))
        .arg("inspect")
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // The program may have seen enough before it has read all.
    let _ = child.stdin.take().unwrap().write_all(stdin);
    child.wait_with_output().unwrap()
}

#[test]
fn the_exit_code_says_what_was_wrong() {
    let folder = tempfile::tempdir().unwrap();
    let text = folder.path().join("text.pem");
    fs::write(&text, "-----BEGIN").unwrap();
    for (file, code) in [(text.as_path(), 6), (&folder.path().join("absent"), 1), (folder.path(), 1)] {
        let output = run(&[file.to_str().unwrap(), "--json"], b"");
        assert_eq!((output.status.code(), output.stdout.as_slice()), (Some(code), &b""[..]), "{}", file.display());
        assert!(String::from_utf8(output.stderr).unwrap().contains(file.to_str().unwrap()));
    }
    assert_eq!(run(&[], b"").status.code(), Some(2));
}

#[test]
fn standard_input_and_files_give_the_same() {
    let file = boots()[0].join("eventlog.bin");
    let (by_name, by_stdin) =
        (run(&[file.to_str().unwrap(), "--json"], b""), run(&["-", "--json"], &fs::read(&file).unwrap()));
    assert_eq!(by_name.status.code(), Some(0));
    assert_eq!(by_name.stdout, by_stdin.stdout);
    let json: Value = serde_json::from_slice(&by_name.stdout).unwrap();
    let text = String::from_utf8(run(&[file.to_str().unwrap()], b"").stdout).unwrap();
    let line = format!("sha256\t7\t{}", json["pcrs"]["sha256"]["7"].as_str().unwrap());
    assert!(text.contains(&line), "{text}");
    let event = json["listing"][1].clone();
    assert_eq!(event["type"], "EV_S_CRTM_VERSION");
    let line = "1\t0\tEV_S_CRTM_VERSION\tsha256:96a296d224f2\tproven\t0000\n";
    assert!(text.contains(line), "{text}");
}
