//! A host that owns its software but not its TPM: what it cannot get signed.

use std::process::Command;

use appraisal::{Code, Verdict};
use attester::tpm::{Tpm, TpmConfig, TpmError};
use devices::{
    deployment::{Deployment, PRODUCT, succeeded},
    fleet::{program_digest, program_path},
    judge::Judge,
    software::Attach,
    swtpm::Swtpm,
};
use evidence::{
    Refused,
    claims::{AttesterClaim, Claims, Committed, DeviceId, Nonce, Nonces, PROFILE, QuoteClaim, Why},
    envelope::{DeviceKeys, Envelope, Unsigned},
    tpm::Attest,
};

use crate::field::Field;

#[test]
fn a_tpm_signs_claims_around_a_fabricated_quote_but_never_the_quote() {
    let swtpm = Swtpm::start();
    let config = TpmConfig { tcti: swtpm.tcti.clone(), endorsement_auth: Default::default(), ak_counter: 0 };
    let mut tpm = Tpm::open(&config).unwrap();
    let keys = DeviceKeys { device: DeviceId([7; 32]), ak: *tpm.ak_public() };
    let committed = Committed {
        nonces: Nonces::new(vec![[1; 32]]).unwrap(),
        device: keys.device,
        profile: PROFILE.into(),
        attester: AttesterClaim { why: Why::Request, sources: vec![], version: "0".into() },
    };
    let honest = tpm.quote(&committed.extra_data()).unwrap();
    let message = |tpm: &mut Tpm, attest: &[u8]| {
        let quote = QuoteClaim { attest: attest.to_vec(), signature: honest.signature };
        let claims = Claims { committed: committed.clone(), quote, logs: vec![] };
        let unsigned = Unsigned::new(&keys.ak, &claims, vec![]).unwrap();
        let signature =
            tpm.sign(unsigned.to_be_signed()).expect("the key signs what does not begin as a TPM's structure");
        unsigned.sign(&signature).message
    };
    let good = message(&mut tpm, &honest.attest);
    assert!(Envelope::decode(&good).unwrap().verify(&keys).is_ok());

    // Other PCRs in an otherwise perfect structure.
    let mut fabricated = honest.attest.clone();
    *fabricated.last_mut().unwrap() ^= 1;
    assert!(Attest::read(&fabricated).is_ok());
    assert!(
        matches!(tpm.sign(&fabricated), Err(TpmError::Command { .. })),
        "the TPM gives no ticket for its own magic"
    );
    let lie = message(&mut tpm, &fabricated);
    assert_eq!(Envelope::decode(&lie).unwrap().verify(&keys).unwrap_err(), Refused::QuoteSignature);
}

/// A real TPM, and what its host can make of it.
struct Host {
    swtpm: Swtpm,
    keys: DeviceKeys,
}

impl Host {
    fn new() -> Self {
        let swtpm = Swtpm::start();
        let keys = DeviceKeys { device: DeviceId([7; 32]), ak: *Self::open(&swtpm).ak_public() };
        Self { swtpm, keys }
    }

    fn open(swtpm: &Swtpm) -> Tpm {
        let config = TpmConfig { tcti: swtpm.tcti.clone(), endorsement_auth: Default::default(), ak_counter: 0 };
        Tpm::open(&config).unwrap()
    }

    /// Evidence without logs.
    fn attests(&self, nonce: Nonce) -> Vec<u8> {
        let mut tpm = Self::open(&self.swtpm);
        let committed = Committed {
            nonces: Nonces::new(vec![nonce]).unwrap(),
            device: self.keys.device,
            profile: PROFILE.into(),
            attester: AttesterClaim { why: Why::Request, sources: vec![], version: "0".into() },
        };
        let quote = tpm.quote(&committed.extra_data()).unwrap();
        let quote = QuoteClaim { attest: quote.attest, signature: quote.signature };
        let unsigned = Unsigned::new(&self.keys.ak, &Claims { committed, quote, logs: vec![] }, vec![]).unwrap();
        let signature = tpm.sign(unsigned.to_be_signed()).unwrap();
        unsigned.sign(&signature).message
    }

    /// Clock of the TPM, milliseconds.
    fn clock(&self) -> u64 {
        Self::open(&self.swtpm).counters().unwrap().clock
    }
}

fn tool(tcti: &str, name: &str, arguments: &[&str]) -> std::process::Output {
    Command::new(name).env("TPM2TOOLS_TCTI", tcti).args(arguments).output().unwrap()
}

#[test]
fn a_tpm_s_clock_that_the_owner_moved_forward_is_told_and_the_owner_cannot_move_it_back() {
    let host = Host::new();
    let mut judge = Judge::new(host.keys, Default::default());
    let nonce = judge.challenge();
    judge.take(&host.attests(nonce)).unwrap();
    let (year, before) = (365 * 24 * 3600 * 1000, host.clock());
    succeeded("tpm2_setclock", &tool(&host.swtpm.tcti, "tpm2_setclock", &[&(before + year).to_string()])).unwrap();
    judge.now += 60;
    let nonce = judge.challenge();
    let moved = judge.take(&host.attests(nonce)).unwrap();
    assert!(moved.state.causes.iter().any(|cause| cause.code == Code::TpmClockPace), "{:?}", moved.state.causes);
    assert_ne!(moved.state.verdict, Verdict::Affirmed);
    let back = tool(&host.swtpm.tcti, "tpm2_setclock", &[&before.to_string()]);
    assert!(!back.status.success(), "the TPM moves its clock forward only");
}

#[test]
fn a_real_tpm2_clear_is_told_and_ends_by_an_approval_only() -> anyhow::Result<()> {
    let mut deployment = Deployment::start()?;
    deployment.sign_release_of_the_device()?;
    let once = |deployment: &Deployment| -> anyhow::Result<(Option<i32>, String)> {
        let done = deployment.attester(&["once"])?;
        Ok((done.status.code(), String::from_utf8_lossy(&[done.stdout, done.stderr].concat()).into_owned()))
    };
    succeeded("enrol", &deployment.attester(&["enrol"])?)?;
    let id = deployment.device_id()?;
    succeeded("approve", &deployment.verifier(&["approve", &id, "--product", PRODUCT])?)?;
    let (code, said) = once(&deployment)?;
    assert_eq!(code, Some(0), "{said}");

    succeeded("tpm2_clear", &tool(&deployment.tpm.tcti, "tpm2_clear", &["-c", "p"]))?;
    let codes = |deployment: &Deployment| -> anyhow::Result<Vec<String>> {
        let device = deployment.verifier_json(&["device", &id])?;
        let causes = device["causes"].as_array().unwrap().iter();
        Ok(causes.map(|cause| cause["code"].as_str().unwrap().to_owned()).collect())
    };
    let (code, said) = once(&deployment)?;
    assert_eq!(code, Some(5), "{said}");
    assert!(codes(&deployment)?.contains(&"tpm.cleared".to_owned()), "{:?}", codes(&deployment)?);
    // A reboot is no approval.
    deployment.reboot()?;
    let (code, said) = once(&deployment)?;
    assert_eq!(code, Some(5), "{said}");
    succeeded("approve", &deployment.verifier(&["approve", &id])?)?;
    let (code, said) = once(&deployment)?;
    assert_eq!(code, Some(0), "{said}");
    assert_eq!(codes(&deployment)?, Vec::<String>::new());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_that_stops_its_attester_keeps_no_verdict() {
    let mut field = Field::start();
    let mut device = field.enrolled().await;
    let id = device.id();
    field.approve(&id);
    device.software.run(&program_path(0), program_digest(0));
    device.attest(Attach::LogsFrom(0)).await;
    assert_eq!(field.device(&id)["verdict"], "affirmed");
    // Silence of four hours, longer than any verdict lasts by default.
    field.site.kill_verifier();
    let library = std::fs::read_dir("/usr/lib").unwrap().filter_map(Result::ok);
    let library = library.map(|entry| entry.path().join("faketime/libfaketime.so.1")).find(|file| file.is_file());
    let mut serve = field.site.serve_command().unwrap();
    serve.env("LD_PRELOAD", library.expect("Debian: apt-get install libfaketime"));
    serve.env("FAKETIME", "+4h").env("FAKETIME_DONT_FAKE_MONOTONIC", "1");
    field.site.serve_with(serve).unwrap();
    assert_eq!((&field.device(&id)["verdict"], field.causes(&id)), (&"unknown".into(), vec!["overdue".to_owned()]));
    assert_eq!(field.site.get("/v1/devices?overdue=true").unwrap()["total"], 1);
    // The TPM's clock went on meanwhile.
    device.software.counters.clock += 4 * 3600 * 1000;
    let mut device = device.again(&field).await;
    device.attest(Attach::Nothing).await;
    assert_eq!(field.device(&id)["verdict"], "affirmed");
}
