//! The real programs against each other: attester, mosquitto, verifier, on a software TPM.
//! Needs root (namespaces), and `cargo build --workspace --bins` before.

use std::{fs, path::Path};

use anyhow::Context as _;
use devices::deployment::{CHANGED, Deployment, GOOD, PRODUCT, succeeded};

type Done = anyhow::Result<()>;

fn enrolled_and_approved() -> anyhow::Result<(Deployment, String)> {
    let deployment = Deployment::start()?;
    deployment.sign_release_of_the_device()?;
    succeeded("enrol", &deployment.attester(&["enrol"])?)?;
    let id = deployment.device_id()?;
    succeeded("approve", &deployment.verifier(&["approve", &id, "--product", PRODUCT])?)?;
    Ok((deployment, id))
}

/// A program that no release lists.
fn implant(dir: &Path) -> anyhow::Result<(std::path::PathBuf, String)> {
    let path = dir.join("implant");
    fs::write(&path, [fs::read("/bin/sleep")?, b"x".to_vec()].concat())?;
    std::os::unix::fs::PermissionsExt::set_mode(&mut fs::metadata(&path)?.permissions(), 0o755);
    fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o755))?;
    let digest = evidence::pcr::sha256(&fs::read(&path)?);
    Ok((path, data_encoding::HEXLOWER.encode(&digest)))
}

fn codes(device: &serde_json::Value) -> Vec<&str> {
    device["causes"].as_array().into_iter().flatten().filter_map(|cause| cause["code"].as_str()).collect()
}

fn exit(output: &std::process::Output) -> String {
    let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
    format!("{:?}\n{}{}", output.status.code(), text(&output.stdout), text(&output.stderr))
}

#[test]
fn a_device_is_judged_from_enrolment_over_an_implant_to_a_clean_boot() -> Done {
    let mut deployment = Deployment::start()?;
    deployment.sign_release_of_the_device()?;

    let stranger = deployment.attester(&["once"])?;
    assert_eq!(stranger.status.code(), Some(3), "unendorsed is a warning: {}", exit(&stranger));
    let id = deployment.device_id()?;
    succeeded("approve", &deployment.verifier(&["approve", &id[..8], "--product", PRODUCT])?)?;
    for round in ["first", "second"] {
        let affirmed = deployment.attester(&["once"])?;
        assert_eq!(affirmed.status.code(), Some(0), "{round}: {}", exit(&affirmed));
    }
    let device = deployment.verifier_json(&["device", &id])?;
    assert_eq!(device["release"], "1.0");
    assert_eq!(device["claims"]["executables"]["tier"], "affirming");

    let folder = tempfile::tempdir()?;
    let (program, digest) = implant(folder.path())?;
    let caught = deployment.attester_once_beside(&program)?;
    assert_eq!(caught.status.code(), Some(4), "{}", exit(&caught));
    let device = deployment.verifier_json(&["device", &id])?;
    let cause = &device["causes"][0];
    assert_eq!(cause["code"], "runtime.unknown-executable");
    assert_eq!(cause["detail"], format!("{} sha256:{digest}", program.display()));
    let running = deployment.verifier_json(&["devices", "--running", &digest])?;
    assert_eq!((&running["total"], &running["devices"][0]["id"]), (&1.into(), &id.as_str().into()));

    deployment.reboot()?;
    let clean = deployment.attester(&["once"])?;
    assert_eq!(clean.status.code(), Some(0), "{}", exit(&clean));
    let history = deployment.verifier_json(&["history", &id])?;
    let verdicts: Vec<_> = history["history"].as_array().unwrap().iter().map(|row| row["verdict"].clone()).collect();
    assert!(verdicts.contains(&"contraindicated".into()), "history is kept: {verdicts:?}");
    assert_eq!(verdicts.last(), Some(&"affirmed".into()));
    assert_eq!(deployment.verifier_json(&["devices", "--running", &digest])?["total"], 0);
    Ok(())
}

#[test]
fn what_the_network_can_send_changes_nothing() -> Done {
    let (deployment, id) = enrolled_and_approved()?;
    succeeded("once", &deployment.attester(&["once"])?)?;
    let before = deployment.verifier_json(&["device", &id])?;
    let evidence_topic = format!("cs/1/{id}/up/evidence");
    let other = "ab".repeat(32);
    let junk = vec![0x5A; 90 * 1024];
    let nested = vec![0x81; 60 * 1024];
    let cases: [(&str, &str, String, &[u8]); 8] = [
        ("device", &id, evidence_topic.clone(), b""),
        ("device", &id, evidence_topic.clone(), &junk),
        ("device", &id, evidence_topic.clone(), &nested),
        ("device", &id, evidence_topic.clone(), &[0xD2, 0x84, 0x40, 0xA0, 0x40, 0x40]),
        ("device", &id, format!("cs/1/{id}/up/hello/demo"), &junk),
        ("device", &id, format!("cs/1/{id}/up/unknown"), b"x"),
        ("device", &id, format!("cs/1/{other}/up/evidence"), b"x"),
        ("enrol", "d-stranger", "cs/1/enrol/d-stranger/up".to_owned(), &junk[..12 * 1024]),
    ];
    for (who, client, topic, message) in &cases {
        deployment.publish(who, client, topic, message)?;
    }
    deployment.publish("enrol", "d-stranger", "cs/1/enrol/d-stranger/up", &nested[..12 * 1024])?;
    // Over the broker's limit: the broker ends the connection.
    deployment.publish("device", &id, &evidence_topic, &vec![0; 300 * 1024])?;
    deployment.eventually("malformed messages counted", || Ok(deployment.counter(&["malformed_total"])? >= 6.0))?;
    assert_eq!(deployment.verifier_json(&["device", &id])?, before, "nothing unauthenticated changes state");
    let after = deployment.attester(&["once"])?;
    assert_eq!(after.status.code(), Some(0), "{}", exit(&after));
    Ok(())
}

#[test]
fn a_verifier_killed_and_started_again_knows_everything_that_it_said() -> Done {
    let (mut deployment, id) = enrolled_and_approved()?;
    succeeded("once", &deployment.attester(&["once"])?)?;
    let before = deployment.verifier_json(&["device", &id])?;
    deployment.kill_verifier();
    deployment.serve()?;
    assert_eq!(deployment.verifier_json(&["device", &id])?, before);
    let after = deployment.attester(&["once"])?;
    assert_eq!(after.status.code(), Some(0), "{}", exit(&after));
    Ok(())
}

#[test]
fn a_revoked_device_is_contraindicated_at_once_and_approval_ends_it() -> Done {
    let (deployment, id) = enrolled_and_approved()?;
    succeeded("once", &deployment.attester(&["once"])?)?;
    succeeded("revoke", &deployment.verifier(&["revoke", &id, "--why", "stolen"])?)?;
    assert_eq!(deployment.verdict(&id)?, "contraindicated");
    // In the moment before the broker has read that, its evidence is answered; from then on it is not let in.
    let shut_out = deployment.attester(&["once"])?;
    assert_eq!(shut_out.status.code(), Some(4), "{}", exit(&shut_out));
    let evidence = format!("cs/1/{id}/up/evidence");
    deployment.eventually("not let in", || Ok(!deployment.publish("device", &id, &evidence, b"")?.status.success()))?;
    let not_let_in = deployment.attester(&["once"])?;
    assert_eq!(not_let_in.status.code(), Some(4), "{}", exit(&not_let_in));
    assert!(String::from_utf8_lossy(&not_let_in.stderr).contains("identity.revoked"), "{}", exit(&not_let_in));
    succeeded("approve", &deployment.verifier(&["approve", &id])?)?;
    deployment.eventually("let in", || Ok(deployment.publish("device", &id, &evidence, b"")?.status.success()))?;
    let again = deployment.attester(&["once"])?;
    assert_eq!(again.status.code(), Some(0), "{}", exit(&again));
    Ok(())
}

#[test]
fn a_boot_that_no_release_has_rules_for_is_judged_anew_once_one_has_and_its_log_is_sent_once() -> Done {
    let (mut deployment, id) = enrolled_and_approved()?;
    let once = deployment.attester(&["once"])?;
    assert_eq!(once.status.code(), Some(0), "{}", exit(&once));
    let device = deployment.verifier_json(&["device", &id])?;
    assert_eq!(device["release"], "1.0");
    assert_eq!((&device["boot"]["secure_boot"], &device["boot"]["events"]), (&false.into(), &38.into()));
    assert_eq!(device["boot"]["command_line"], GOOD.command_line);
    let tolerated = device["tolerated"].as_array().unwrap();
    assert!(tolerated.contains(&"boot.unprotected".into()), "nothing protects that kernel: {tolerated:?}");

    deployment.reboot_into(CHANGED)?;
    let once = deployment.attester(&["once"])?;
    assert_eq!(once.status.code(), Some(4), "{}", exit(&once));
    let device = deployment.verifier_json(&["device", &id])?;
    assert!(codes(&device).contains(&"boot.command-line"), "{}", device["causes"]);
    assert_eq!(device["boot"]["command_line"], serde_json::Value::Null, "no text that was proved");

    deployment.sign_release_booted("2.0", CHANGED)?;
    deployment.eventually("read", || Ok(deployment.http("/v1/reference-values")?.contains("\"2.0\"")))?;
    // A log that is gone cannot be sent again.
    let mut once = deployment.attester_command(&["once"])?;
    let once = once.env("COUNTERSIGN_ATTESTER__BOOT_LOG", "/nonexistent").output()?;
    assert_eq!(once.status.code(), Some(0), "{}", exit(&once));
    let device = deployment.verifier_json(&["device", &id])?;
    assert_eq!((&device["release"], &device["boot"]["command_line"]), (&"2.0".into(), &CHANGED.command_line.into()));
    Ok(())
}

#[test]
fn a_kernel_that_another_one_started_without_a_boot_is_told() -> Done {
    let list = fs::read(Path::new(GOOD.log).with_file_name("ima.bin"))?;
    let entries: Vec<_> = evidence::ima::entries(&list).collect::<Result<_, _>>()?;
    let extensions: Vec<_> = entries.iter().map(|entry| (entry.pcr, entry.extended_sha256().to_vec())).collect();
    // Another kernel's list begins with boot_aggregate of the same PCRs, and has fewer entries.
    let second = list[..entries[3].end].to_vec();
    for (what, after) in [("a list of its own", second.clone()), ("the list of both", [&list[..], &second].concat())] {
        let (deployment, id) = enrolled_and_approved()?;
        let file = deployment.state_dir.with_extension("ima");
        let once = |list: &[u8]| -> anyhow::Result<serde_json::Value> {
            fs::write(&file, list)?;
            let once = deployment.attester_command(&["once"])?.env("COUNTERSIGN_ATTESTER__IMA_LOG", &file).output()?;
            assert_eq!(once.status.code(), Some(4), "no release lists what ran there: {what}: {}", exit(&once));
            deployment.verifier_json(&["device", &id])
        };
        deployment.extend(&extensions)?;
        assert!(!codes(&once(&list)?).contains(&"boot.kexec"), "{what}");
        deployment.extend(&extensions[..4])?;
        let device = once(&after)?;
        assert!(codes(&device).contains(&"boot.kexec"), "{what}: {}", device["causes"]);
        let broken = ["log.mismatch", "log.incomplete"];
        assert!(codes(&device).iter().all(|code| !broken.contains(code)), "{what}: {}", device["causes"]);
        // It stays told, and the list goes on.
        let device = once(&after)?;
        assert!(codes(&device).contains(&"boot.kexec"), "{what}: {}", device["causes"]);
    }
    Ok(())
}

#[test]
fn a_real_ima_list_leads_to_the_quote_and_every_file_in_it_is_judged() -> Done {
    let (mut deployment, id) = enrolled_and_approved()?;
    // The list of the boot whose log the TPM was extended with: its boot_aggregate is of these PCRs.
    let list = Path::new(GOOD.log).with_file_name("ima.bin");
    let bytes = fs::read(&list)?;
    let entries: Vec<_> = evidence::ima::entries(&bytes).collect::<Result<_, _>>()?;
    let extensions: Vec<_> = entries.iter().map(|entry| (entry.pcr, entry.extended_sha256().to_vec())).collect();
    deployment.extend(&extensions)?;
    let once = deployment.attester_command(&["once"])?.env("COUNTERSIGN_ATTESTER__IMA_LOG", &list).output()?;
    assert_eq!(once.status.code(), Some(4), "no release lists what ran there: {}", exit(&once));
    let device = deployment.verifier_json(&["device", &id])?;
    let causes = device["causes"].as_array().unwrap();
    assert!(
        !causes.is_empty() && causes.iter().all(|cause| cause["code"] == "runtime.unknown-executable"),
        "{causes:?}"
    );
    let files = device["running"].as_array().unwrap();
    let by_ima = files.iter().filter(|file| file["kind"] == "ima").count();
    assert_eq!(by_ima, entries.len() - 1, "all but boot_aggregate");

    // Another boot's list: its boot_aggregate gives it away.
    let other = list.parent().unwrap().with_file_name("qemu-cmdline").join("ima.bin");
    deployment.reboot()?;
    let bytes = fs::read(&other)?;
    let entries: Vec<_> = evidence::ima::entries(&bytes).collect::<Result<_, _>>()?;
    deployment.extend(&entries.iter().map(|e| (e.pcr, e.extended_sha256().to_vec())).collect::<Vec<_>>())?;
    let once = deployment.attester_command(&["once"])?.env("COUNTERSIGN_ATTESTER__IMA_LOG", &other).output()?;
    assert_eq!(once.status.code(), Some(4), "{}", exit(&once));
    let device = deployment.verifier_json(&["device", &id])?;
    let codes: Vec<_> = device["causes"].as_array().unwrap().iter().map(|cause| cause["code"].clone()).collect();
    assert!(codes.contains(&"log.mismatch".into()), "{codes:?}");
    Ok(())
}

#[test]
fn doctor_finds_nothing_amiss_with_a_device_that_is_to_enrol_nor_with_one_that_has() -> Done {
    let deployment = Deployment::start()?;
    for (when, whose) in [("before", "the certificate to enrol with"), ("after", "this device's certificate")] {
        let doctor = deployment.attester(&["doctor"])?;
        assert_eq!(doctor.status.code(), Some(0), "{when}: {}", exit(&doctor));
        let text = String::from_utf8(doctor.stdout)?;
        assert!(text.contains(&format!("and takes {whose}")), "{when}: {text}");
        succeeded("enrol", &deployment.attester(&["enrol"])?)?;
    }
    Ok(())
}

#[test]
fn doctor_names_the_pcr_that_the_boot_log_does_not_lead_to_and_measure_what_was_started() -> Done {
    let deployment = Deployment::start()?;
    let json = |command: &str| -> anyhow::Result<serde_json::Value> {
        let output = deployment.attester(&[command, "--json"])?;
        serde_json::from_slice(&output.stdout).map_err(|error| anyhow::anyhow!("{error}: {}", exit(&output)))
    };
    let boot_pcrs = || -> anyhow::Result<serde_json::Value> {
        let lines = json("doctor")?["lines"].as_array().context("lines")?.clone();
        lines.into_iter().find(|line| line["name"] == "boot log's pcrs").context("a line")
    };
    assert_eq!(boot_pcrs()?["level"], "ok");
    let measured = json("measure")?;
    let boot = &measured["boot_log"];
    assert_eq!((&boot["secure_boot"], &boot["programs"][1]["name"]), (&false.into(), &".linux".into()));
    assert_eq!(measured["tpm"]["differs_from_boot_log"], serde_json::Value::Null);
    // A boot loader that the log conceals.
    deployment.extend(&[(4, vec![7; 32])])?;
    let line = boot_pcrs()?;
    assert!(line["level"] == "warn" && line["text"].as_str().unwrap().ends_with("PCR 4"), "{line}");
    assert_eq!(json("measure")?["tpm"]["differs_from_boot_log"], serde_json::json!([4]));
    Ok(())
}

#[test]
fn a_device_of_an_installation_that_was_made_anew_enrols_with_what_is_configured() -> Done {
    let deployment = Deployment::start()?;
    succeeded("enrol", &deployment.attester(&["enrol"])?)?;
    // What it has is of another verifier, and of another CA than the broker's.
    let path = |name: &str| deployment.state_dir.join(name);
    let key = rcgen::KeyPair::from_pem(&fs::read_to_string(path("connection.key"))?)?;
    let certificate = rcgen::CertificateParams::new(Vec::new())?.self_signed(&key)?;
    fs::write(path("connection.pem"), certificate.pem())?;
    let mut record: serde_json::Value = serde_json::from_slice(&fs::read(path("enrolment.json"))?)?;
    record["verifiers"] = serde_json::json!(["00".repeat(32)]);
    fs::write(path("enrolment.json"), record.to_string())?;
    succeeded("enrol anew", &deployment.attester(&["enrol"])?)?;
    succeeded("doctor", &deployment.attester(&["doctor"])?)
}

#[test]
fn a_connection_key_that_a_disk_lost_is_made_anew() -> Done {
    let deployment = Deployment::start()?;
    succeeded("enrol", &deployment.attester(&["enrol"])?)?;
    fs::write(deployment.state_dir.join("connection.key"), b"")?;
    succeeded("enrol anew", &deployment.attester(&["enrol"])?)?;
    succeeded("doctor", &deployment.attester(&["doctor"])?)
}

#[test]
fn a_service_whose_tpm_was_started_again_answers_the_next_request() -> Done {
    let (mut deployment, id) = enrolled_and_approved()?;
    let log = deployment.state_dir.with_extension("log");
    let mut service = deployment.attester_command(&["run"])?;
    let mut service = service.stderr(fs::File::create(&log)?).stdout(std::process::Stdio::null()).spawn()?;
    let asked = |deployment: &Deployment, wait| deployment.verifier(&["check", &id, "--wait", wait]);
    deployment.eventually("the service attests", || Ok(asked(&deployment, "3")?.status.code() == Some(0)))?;
    deployment.reboot()?;
    let after = asked(&deployment, "60")?;
    service.kill()?;
    service.wait()?;
    let said = fs::read_to_string(&log)?;
    assert_eq!(after.status.code(), Some(0), "{}\n{said}", exit(&after));
    assert!(said.contains("once more") && !said.contains("no evidence"), "{said}");
    Ok(())
}
