//! `tests/vectors/adversary/`: what was found, as bytes that any implementation can be held against. In go the folders,
//! each with an `expected.json` and the messages that it names; every message must have the outcome that stands there.
//!
//! `BLESS=1` makes the folders anew (`made`): keys and signatures are other ones then, the outcomes must not be.

mod made;

use std::{collections::BTreeMap, fs, path::PathBuf};

use appraisal::{ChallengeKey, freshness::OpenEpoch};
use data_encoding::HEXLOWER;
use devices::judge::{Judge, NotJudged};
use evidence::{
    claims::DeviceId,
    enrolment::{Presentation, Up},
    envelope::DeviceKeys,
    result::AttestationResult,
    tpm::{AkPublic, P256Point},
    verifier_keys::VerifierKeys,
    verifier_message::{Purpose, VerifierKeyId},
};
use serde::{Deserialize, Serialize};
use verifier::identity::{EkChain, EkRoots, check_template};

/// What was accepted, judged or registered.
const ACCEPTED: &str = "accepted";
/// What cannot be read.
const MALFORMED: &str = "malformed";

/// `expected.json`.
#[derive(Serialize, Deserialize)]
struct Vector {
    /// What it shows.
    statement: String,
    given: Given,
    /// In this order: what one leaves behind, the next meets.
    messages: Vec<Message>,
}

/// What the receiver knows before.
#[derive(Serialize, Deserialize)]
#[serde(tag = "receiver", rename_all = "kebab-case")]
enum Given {
    /// A verifier gets evidence.
    Verifier {
        /// Id of the device whose topic the messages come on.
        device: String,
        /// Its registered attestation key, x ‖ y.
        ak: String,
        /// SHA-256 of the verifier's root.
        verifier: String,
        /// Key of the HMAC in the nonces of requests.
        challenge_secret: String,
        /// The epochs that are accepted, the current one first: number and nonce.
        #[serde(default)]
        epochs: Vec<(u64, String)>,
        /// Nonces from before this are void.
        #[serde(default)]
        since: u64,
    },
    /// A verifier gets what strangers present; it trusts the CA in `tests/vectors/ek`.
    EnrolmentDesk,
    /// A device gets its verifier's keys; it has pinned this root, x ‖ y.
    DeviceWithRoot { root: String },
    /// A device gets results; these are its verifier's present keys, x ‖ y.
    DeviceWithKeys { request: String, result: String, log: String },
}

#[derive(Serialize, Deserialize)]
struct Message {
    file: String,
    /// The receiver's clock, seconds since 1970.
    now: u64,
    /// `accepted`, `malformed`, or the code of the refusal.
    outcome: String,
    /// Causes of the verdict that must be among those of what was accepted.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    causes: Vec<String>,
}

/// What became of a message.
#[derive(Debug, PartialEq, Eq)]
struct Outcome {
    code: String,
    causes: Vec<String>,
}

impl From<&str> for Outcome {
    fn from(code: &str) -> Self {
        Self { code: code.to_owned(), causes: Vec::new() }
    }
}

fn folder() -> PathBuf {
    [env!("CARGO_MANIFEST_DIR"), "vectors", "adversary"].iter().collect()
}

fn bytes<const N: usize>(hex: &str) -> [u8; N] {
    HEXLOWER.decode(hex.as_bytes()).unwrap().try_into().expect("the right length")
}

fn point(hex: &str) -> P256Point {
    let (x, y) = (bytes(&hex[..64]), bytes(&hex[64..]));
    P256Point { x, y }
}

fn hex(point: &P256Point) -> String {
    HEXLOWER.encode(&point.uncompressed()[1..])
}

/// A receiver that remembers what it has accepted.
enum Receiver {
    Verifier(Box<Judge>),
    EnrolmentDesk(Box<EkRoots>),
    DeviceWithRoot { root: P256Point, held: Option<Box<VerifierKeys>> },
    DeviceWithKeys(Box<VerifierKeys>),
}

impl Receiver {
    fn new(given: &Given) -> Self {
        match given {
            Given::Verifier { device, ak, verifier, challenge_secret, epochs, since } => {
                let ak = AkPublic::from_point(point(ak));
                let mut judge = Judge::new(DeviceKeys { device: DeviceId(bytes(device)), ak }, Default::default());
                judge.challenges = ChallengeKey::new(&bytes(challenge_secret));
                judge.verifier = VerifierKeyId(bytes(verifier));
                let mut open = epochs.iter().map(|(number, nonce)| OpenEpoch { number: *number, nonce: bytes(nonce) });
                (judge.epochs.current, judge.epochs.previous) = (open.next(), open.next());
                judge.since = *since;
                Self::Verifier(Box::new(judge))
            }
            Given::EnrolmentDesk => Self::EnrolmentDesk(Box::new(made::roots())),
            Given::DeviceWithRoot { root } => Self::DeviceWithRoot { root: point(root), held: None },
            Given::DeviceWithKeys { request, result, log } => Self::DeviceWithKeys(Box::new(VerifierKeys {
                sequence: 1,
                not_after: u64::MAX,
                request: point(request),
                result: point(result),
                log: point(log),
            })),
        }
    }

    fn takes(&mut self, message: &[u8], now: u64) -> Outcome {
        match self {
            Self::Verifier(judge) => judged(judge, message, now),
            Self::EnrolmentDesk(roots) => presented(roots, message, now).into(),
            Self::DeviceWithRoot { root, held } => match VerifierKeys::open_by_root(root, message) {
                Ok(keys) if held.as_ref().is_some_and(|held| held.sequence >= keys.sequence) => "replaced".into(),
                Ok(keys) => {
                    *held = Some(Box::new(keys));
                    ACCEPTED.into()
                }
                Err(_) => "not-from-verifier".into(),
            },
            Self::DeviceWithKeys(keys) => match keys.open::<AttestationResult>(Purpose::Result, message) {
                Ok(_) => ACCEPTED.into(),
                Err(_) => "not-from-verifier".into(),
            },
        }
    }
}

fn judged(judge: &mut Judge, message: &[u8], now: u64) -> Outcome {
    judge.now = now;
    match judge.take(message) {
        Ok(appraisal) => {
            let causes = appraisal.state.causes.iter().map(|cause| cause.code.row().code.to_owned()).collect();
            Outcome { code: ACCEPTED.to_owned(), causes }
        }
        Err(NotJudged::Malformed(_)) => MALFORMED.into(),
        Err(NotJudged::Refused(refused)) => refused.code().into(),
        Err(NotJudged::Stale(stale)) => stale.code().into(),
    }
}

/// The checks of a presentation, in the order of `docs/protocol.md`.
fn presented(roots: &EkRoots, message: &[u8], now: u64) -> &'static str {
    let Ok(Up::Present(presentation)) = Up::decode(message) else { return MALFORMED };
    let Presentation { certificates, ek_public, ak_public, .. } = &presentation;
    let certificates: Vec<&[u8]> = certificates.iter().map(|der| der.as_slice()).collect();
    let at = jiff::Timestamp::from_second(i64::try_from(now).unwrap()).unwrap();
    let eks = match EkChain::read(&certificates).and_then(|chain| chain.verify(roots, at)) {
        Ok(eks) => eks,
        Err(error) => return error.code(),
    };
    for (ek, public) in eks.iter().zip(ek_public) {
        if let Err(error) = check_template(public, ek) {
            return error.code();
        }
    }
    if AkPublic::read(ak_public).is_ok() { ACCEPTED } else { "identity.ak-template" }
}

#[test]
fn every_message_of_the_vectors_has_the_outcome_that_is_named() {
    if std::env::var_os("BLESS").is_some() {
        made::write_all(&folder());
    }
    let mut codes: BTreeMap<String, usize> = BTreeMap::new();
    let mut vectors = 0;
    for entry in fs::read_dir(folder()).expect("tests/vectors/adversary") {
        let folder = entry.unwrap().path();
        let name = folder.file_name().unwrap().to_string_lossy().into_owned();
        let vector: Vector = serde_json::from_slice(&fs::read(folder.join("expected.json")).unwrap()).expect(&name);
        let mut receiver = Receiver::new(&vector.given);
        for Message { file, now, outcome, causes } in &vector.messages {
            let got = receiver.takes(&fs::read(folder.join(file)).unwrap(), *now);
            assert_eq!(&got.code, outcome, "{name}/{file}: {}", vector.statement);
            assert!(causes.iter().all(|cause| got.causes.contains(cause)), "{name}/{file}: {causes:?} in {got:?}");
            *codes.entry(got.code).or_default() += 1;
        }
        vectors += 1;
    }
    assert!(vectors >= 12, "{vectors} vectors");
    for refused in evidence::Refused::ALL {
        assert!(codes.contains_key(refused.code()), "no vector is refused as {}", refused.code());
    }
    for stale in appraisal::Stale::ALL {
        assert!(codes.contains_key(stale.code()), "no vector is refused as {}", stale.code());
    }
}
