//! What vouches for a device, from the operator's side: the real programs, a TPM without certificates, and lists that
//! change while the device is enrolled. Needs root (namespaces), and `cargo build --workspace --bins` before.

use std::{fs, process::Output};

use data_encoding::BASE64;
use devices::{
    deployment::{Deployment, PRODUCT, succeeded},
    software_ek::p256_point,
    swtpm::Swtpm,
};
use evidence::{
    ak_certificate::{AkCertificate, EndorsedBy},
    verifier_keys::VerifierKeys,
};
use serde_json::Value;

type Done = anyhow::Result<()>;

fn said(output: &Output) -> String {
    let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
    format!("{:?}\n{}{}", output.status.code(), text(&output.stdout), text(&output.stderr))
}

fn codes(device: &Value) -> Vec<&str> {
    let causes = device["causes"].as_array().map(Vec::as_slice).unwrap_or_default();
    causes.iter().filter_map(|cause| cause["code"].as_str()).collect()
}

#[test]
fn a_tpm_without_certificates_enrols_by_the_operators_list_and_every_result_says_so() -> Done {
    let deployment = Deployment::start_with(Swtpm::start_uncertified())?;
    deployment.sign_release_of_the_device()?;
    let refused = deployment.attester(&["enrol"])?;
    assert!(!refused.status.success() && said(&refused).contains("identity.no-ek-certificate"), "{}", said(&refused));

    // What is no such list is refused whole, and named.
    let ids = deployment.tpm.dir().join("ids.csv");
    fs::write(&ids, format!("id,product\n{},{PRODUCT}\njunk\n", "ab".repeat(32)))?;
    let junk = deployment.verifier(&["approve", "--ids", &ids.display().to_string()])?;
    assert!(junk.status.code() == Some(6) && said(&junk).contains("line 3"), "{}", said(&junk));
    let certificate = deployment.verifier(&["approve", "--ek-pub", &ids.display().to_string()])?;
    assert_eq!(certificate.status.code(), Some(6), "{}", said(&certificate));
    let both = deployment.verifier(&["approve", "abcdefab", "--ids", &ids.display().to_string()])?;
    assert_eq!(both.status.code(), Some(2), "{}", said(&both));

    let public = deployment.tpm.dir().join("ek.pub").display().to_string();
    let made = std::process::Command::new("tpm2_createek")
        .args(["-c", "ek.ctx", "-G", "ecc", "-u", &public])
        .current_dir(deployment.tpm.dir())
        .env("TPM2TOOLS_TCTI", &deployment.tpm.tcti)
        .output()?;
    succeeded("tpm2_createek", &made)?;
    let listed = deployment.verifier(&["approve", "--ek-pub", &public, "--product", PRODUCT])?;
    assert!(listed.status.success() && said(&listed).contains("listed 1"), "{}", said(&listed));

    succeeded("enrol", &deployment.attester(&["enrol"])?)?;
    let judged = deployment.attester(&["once"])?;
    assert_eq!(judged.status.code(), Some(3), "{}", said(&judged));
    let id = deployment.device_id()?;
    let device = deployment.verifier_json(&["device", &id])?;
    assert_eq!((device["verdict"].as_str(), device["product"].as_str()), (Some("warning"), Some(PRODUCT)));
    assert!(codes(&device).contains(&"identity.no-ek-certificate"), "{device}");
    assert_eq!(device["identity"]["ek_certificate"], false);
    Ok(())
}

#[test]
fn what_an_operator_denies_counts_on_reload_and_ends_with_the_entry() -> Done {
    let deployment = Deployment::start()?;
    deployment.sign_release_of_the_device()?;
    succeeded("enrol", &deployment.attester(&["enrol"])?)?;
    let id = deployment.device_id()?;
    succeeded("approve", &deployment.verifier(&["approve", &id, "--product", PRODUCT])?)?;
    let affirmed = deployment.attester(&["once"])?;
    assert_eq!(affirmed.status.code(), Some(0), "{}", said(&affirmed));

    let device = deployment.verifier_json(&["device", &id])?;
    let keys = device["identity"]["eks"].as_array().map(Vec::as_slice).unwrap_or_default();
    let other = keys.iter().filter_map(Value::as_str).find(|key| *key != id).expect("two endorsement keys");
    let deny = deployment.verifier_dir.join("deny.toml");
    fs::write(&deny, format!("[[ek]]\nsha256 = \"{other}\"\nwhy = \"stolen from the lorry\"\n"))?;
    deployment.reload()?;
    deployment.eventually("denied", || Ok(deployment.verdict(&id)? == "contraindicated"))?;
    let denied = deployment.verifier_json(&["device", &id])?;
    assert_eq!(codes(&denied), ["identity.ek-denied"]);
    let once = deployment.attester(&["once"])?;
    assert_eq!(once.status.code(), Some(4), "{}", said(&once));

    // What cannot be read leaves in force what was.
    fs::write(&deny, "[[ek]]\nsha256 = \"stolen\"\n")?;
    deployment.reload()?;
    deployment.eventually("named", || {
        let log = fs::read_to_string(deployment.verifier_dir.join("serve.log"))?;
        Ok(log.contains("deny.toml:"))
    })?;
    assert_eq!(deployment.verdict(&id)?, "contraindicated");

    fs::write(&deny, "")?;
    deployment.reload()?;
    deployment.eventually("holds again", || Ok(codes(&deployment.verifier_json(&["device", &id])?).is_empty()))?;
    let again = deployment.attester(&["once"])?;
    assert_eq!(again.status.code(), Some(0), "{}", said(&again));
    Ok(())
}

#[test]
fn the_word_on_an_attestation_key_can_be_had_and_is_the_verifiers() -> Done {
    let deployment = Deployment::start()?;
    succeeded("enrol", &deployment.attester(&["enrol"])?)?;
    let id = deployment.device_id()?;
    let token = fs::read_to_string(deployment.verifier_dir.join("api-token"))?;
    let address = fs::read_to_string(deployment.verifier_dir.join("data/http-address"))?;
    let answer = std::process::Command::new("curl")
        .args(["--silent", "--fail", "-H", &format!("Authorization: Bearer {}", token.trim())])
        .arg(format!("http://{}/v1/devices/{id}/ak-certificate", address.trim()))
        .output()?;
    succeeded("curl", &answer)?;
    // From the root that devices pin to the keys in force, to the word itself.
    let pem = fs::read_to_string(deployment.verifier_dir.join("verifier.pub.pem"))?;
    let base64: String = pem.lines().filter(|line| !line.starts_with('-')).collect();
    let root = p256_point(&BASE64.decode(base64.as_bytes())?).expect("a P-256 key");
    let keys = deployment.verifier_json(&["keys", "show"])?;
    let message = BASE64.decode(keys["message"].as_str().unwrap_or_default().as_bytes())?;
    let keys = VerifierKeys::open_by_root(&root, &message)?;
    let certificate = AkCertificate::open(&keys.result, &answer.stdout)?;
    assert_eq!((certificate.device.to_string(), certificate.issuer.as_str()), (id, "demo"));
    assert_eq!((certificate.generation, certificate.endorsed_by), (1, EndorsedBy::SoftwareTpm));
    Ok(())
}
