//! Messages for tests/interop: in goes a folder, into it come `evidence.cose` (three nonces, logs attached, by a software
//! key) with `ak.tpm2b` and `nonces`, and `result.cose` (a signed attestation result) with `verifier.point`.

use std::{convert::Infallible, env, fs, ops::Range, path::Path};

use anyhow::{Context as _, Error, Result};
use devices::software::{Attach, SoftwareDevice};
use evidence::{
    ak_certificate::{AkCertificate, EndorsedBy},
    cbor,
    challenge::{Challenge, Hello, Refusal},
    claims::{DeviceId, Nonce, Why},
    enrolment::{Activation, Answer, Credential, Down, Outcome, Presentation, Secret, Up},
    epoch::{self, Closed, Epoch},
    pcr::sha256,
    result::{Acknowledged, AttestationResult, Claim, ResultCause, Tier, TrustVector},
    tpm::{P256Point, tpm2b},
    verifier_keys::VerifierKeys,
    verifier_message::{Purpose, VerifierKeyId, seal},
};
use ring::{
    rand::SystemRandom,
    signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _},
};
use serde::Serialize;

fn main() -> Result<()> {
    let dir = env::args_os().nth(1).context("usage: interop_fixture DIR")?;
    let dir = Path::new(&dir);
    fs::create_dir_all(dir)?;
    let nonces = [[1; 32], [2; 32], [3; 32]];
    let device = write_evidence(dir, &nonces)?;
    write_result(dir, device, nonces[1])?;
    write_others(dir, device, nonces[0])
}

fn shape<T: Serialize>(purpose: Purpose, content: &T) -> Vec<u8> {
    let Ok(message) = seal(purpose, &VerifierKeyId([7; 32]), content, |_| Ok::<_, Infallible>([0; 64]));
    message
}

/// One of each of the protocol's other messages, for their shape; no signature here holds.
fn write_others(dir: &Path, device: DeviceId, nonce: Nonce) -> Result<()> {
    let credential = Credential { id_object: vec![1; 68], encrypted_secret: vec![2; 68] };
    let presentation = Presentation::new(nonce, vec![vec![3; 800]], vec![vec![4; 122]], vec![5; 88], vec![6; 91]);
    let uncertified = Presentation::new(nonce, vec![], vec![vec![4; 122]], vec![5; 88], vec![6; 91]);
    let transcript = presentation.transcript(&VerifierKeyId([7; 32]), &device);
    let secret = Secret::recovered(&[8; 32]).context("32 bytes")?;
    let activation = Activation::prove(presentation.clone(), vec![credential.clone()], &transcript, &[secret]);
    let enrolled = Outcome::Enrolled { device, certificate: "PEM".into(), approved: false };
    let refused = Outcome::Refused { code: "identity.revoked".into(), why: "stolen".into() };
    let down = |answer| shape(Purpose::Enrolment, &Down { client_nonce: nonce, answer });
    let refusal = Refusal { message: [9; 32], code: "quote.signature".into(), why: "it does not hold".into() };
    let closed = Closed { number: 1_800_000_000, random: [10; 32] };
    let open = epoch::nonce(&VerifierKeyId([7; 32]), 1_800_007_200, &[11; 32]);
    let epoch = Epoch { number: 1_800_007_200, period: 3600, nonce: open, closed: Some(closed) };
    let point = P256Point { x: [12; 32], y: [13; 32] };
    let keys =
        VerifierKeys { sequence: 1_800_000_000, not_after: 1_834_560_000, request: point, result: point, log: point };
    let ak_certificate = AkCertificate {
        issuer: "interop".into(),
        issued: 1_800_000_000,
        ak_name: [14; 32],
        device,
        eks: vec![[15; 32], [16; 32]],
        transcript: transcript.0,
        generation: 1,
        endorsed_by: EndorsedBy::TpmMaker,
    };
    let messages = [
        ("ak-certificate", shape(Purpose::AkCertificate, &ak_certificate)),
        ("epoch.first", shape(Purpose::Epoch, &Epoch { closed: None, ..epoch.clone() })),
        ("epoch.later", shape(Purpose::Epoch, &epoch)),
        ("keys", shape(Purpose::Keys, &keys)),
        ("hello", cbor::encode(&Hello::new(Why::Startup))),
        ("request", shape(Purpose::Request, &Challenge::new(device, nonce, true))),
        ("refusal", shape(Purpose::Refusal, &refusal)),
        ("enrolment-up.present", Up::Present(presentation).encode()),
        ("enrolment-up.uncertified", Up::Present(uncertified).encode()),
        ("enrolment-up.activate", Up::Activate(activation).encode()),
        ("enrolment-down.credentials", down(Answer::Credentials(vec![credential]))),
        ("enrolment-down.enrolled", down(Answer::Outcome(enrolled))),
        ("enrolment-down.refused", down(Answer::Outcome(refused))),
    ];
    for (name, message) in messages {
        fs::write(dir.join(name), message)?;
    }
    Ok(())
}

fn write_evidence(dir: &Path, nonces: &[Nonce]) -> Result<DeviceId> {
    let mut device = SoftwareDevice::new();
    device.run("/usr/bin/true", [5; 32]);
    fs::write(dir.join("evidence.cose"), device.attest(nonces, Attach::LogsFrom(0)))?;
    fs::write(dir.join("ak.tpm2b"), tpm2b(&device.keys.ak.area()))?;
    let nonces: Vec<_> = nonces.iter().map(|nonce| data_encoding::HEXLOWER.encode(nonce)).collect();
    fs::write(dir.join("nonces"), nonces.join(" ") + "\n")?;
    Ok(device.keys.device)
}

fn write_result(dir: &Path, device: DeviceId, nonce: Nonce) -> Result<()> {
    let random = SystemRandom::new();
    let pkcs8 = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &random).map_err(Error::msg)?;
    let key =
        EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, pkcs8.as_ref(), &random).map_err(Error::msg)?;
    let point = key.public_key().as_ref();
    let half = |range: Range<usize>| {
        point.get(range).and_then(|half: &[u8]| half.try_into().ok()).context("not a P-256 point")
    };
    let key_id = VerifierKeyId::of(&P256Point { x: half(1..33)?, y: half(33..65)? });
    let sign = |bytes: &[u8]| {
        let signature = key.sign(&random, bytes).map_err(Error::msg)?;
        signature.as_ref().try_into().context("not 64 bytes")
    };
    let message = seal(Purpose::Result, &key_id, &result(device, nonce), sign)?;
    fs::write(dir.join("verifier.point"), point)?;
    fs::write(dir.join("result.cose"), message)?;
    Ok(())
}

/// A warning with every optional part in it.
fn result(device: DeviceId, nonce: Nonce) -> AttestationResult {
    let mut vector = TrustVector::default();
    vector.set(Claim::InstanceIdentity, 2);
    vector.set(Claim::Configuration, 32);
    AttestationResult {
        issued: 1_800_000_000,
        expires: 1_800_003_600,
        nonce,
        device,
        developer: "interop".into(),
        build: env!("CARGO_PKG_VERSION").into(),
        evidence: sha256(b"evidence"),
        acknowledged: Acknowledged {
            reset: 1,
            boot_log: true,
            runtime: 1,
            pcr_values: true,
            ..Acknowledged::default()
        },
        status: Tier::Warning,
        vector,
        policy: "default".into(),
        causes: vec![ResultCause { code: "boot.unprotected".into(), detail: "no boot log".into() }],
        tolerated: vec!["hardware.software-tpm".into()],
        release: Some(("acme/router".into(), "1.0".into())),
        vouched: vec![("manufacturer".into(), "ACME".into())],
    }
}
