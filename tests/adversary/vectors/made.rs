//! Makes the vectors. Out come folders; keys are new ones each time, nonces, clocks and outcomes always the same.

use std::{
    fs,
    path::{Path, PathBuf},
};

use data_encoding::HEXLOWER;
use devices::{
    judge::Judge,
    software::{Attach, SoftwareDevice},
};
use evidence::{
    claims::{Claims, DeviceId, LogKind, Nonce, Nonces},
    cose::{self, Sign1},
    enrolment::{Presentation, Up},
    epoch,
    result::{Acknowledged, AttestationResult, Tier, TrustVector},
    verifier_keys::VerifierKeys,
    verifier_message::Purpose,
};
use verifier::{identity::EkRoots, keys::SigningKey};

use super::{ACCEPTED, Given, MALFORMED, Message, Vector, hex};

const SECRET: [u8; 32] = [42; 32];
const VERIFIER: [u8; 32] = [1; 32];
const NOW: u64 = 1_800_000_000;
const DAY: u64 = 24 * 3600;

/// A vector on its way to its folder.
struct Made {
    name: &'static str,
    vector: Vector,
    files: Vec<Vec<u8>>,
}

impl Made {
    fn new(name: &'static str, statement: &str, given: Given) -> Self {
        Self { name, vector: Vector { statement: statement.to_owned(), given, messages: vec![] }, files: vec![] }
    }

    fn then(self, message: Vec<u8>, outcome: &str) -> Self {
        self.at(NOW, message, outcome, &[])
    }

    fn at(mut self, now: u64, message: Vec<u8>, outcome: &str, causes: &[&str]) -> Self {
        let file = format!("{}.cbor", self.files.len() + 1);
        let causes = causes.iter().map(|&cause| cause.to_owned()).collect();
        self.vector.messages.push(Message { file, now, outcome: outcome.to_owned(), causes });
        self.files.push(message);
        self
    }

    fn write(&self, to: &Path) {
        let folder = to.join(self.name);
        fs::create_dir_all(&folder).unwrap();
        for (message, bytes) in self.vector.messages.iter().zip(&self.files) {
            fs::write(folder.join(&message.file), bytes).unwrap();
        }
        let expected = serde_json::to_string_pretty(&self.vector).unwrap() + "\n";
        fs::write(folder.join("expected.json"), expected).unwrap();
    }
}

/// Replaces what is in `folder`.
pub(super) fn write_all(folder: &Path) {
    drop(fs::remove_dir_all(folder));
    for made in quotes().into_iter().chain(bytes()).chain(replays()).chain(epochs()).chain(keys()).chain(enrolment()) {
        made.write(folder);
    }
}

/// A device, and the verifier that has registered it.
struct Scene {
    device: SoftwareDevice,
    judge: Judge,
}

impl Scene {
    fn new() -> Self {
        let mut device = SoftwareDevice::new();
        device.run("/bin/init", [1; 32]);
        let judge = Judge::new(device.keys, Default::default());
        Self { device, judge }
    }

    /// A request's nonce, issued at `now`.
    fn nonce(&mut self, now: u64) -> Nonce {
        self.judge.now = now;
        self.judge.challenge()
    }

    fn evidence(&mut self) -> Vec<u8> {
        let nonce = self.nonce(NOW);
        self.device.attest(&[nonce], Attach::LogsFrom(0))
    }

    fn claims(&mut self) -> Claims {
        let nonce = self.nonce(NOW);
        let committed = self.device.committed(&[nonce]);
        let quote = self.device.quote(&committed.extra_data());
        Claims { committed, quote, logs: vec![] }
    }

    fn seal(&self, claims: &Claims) -> Vec<u8> {
        self.device.seal(claims, vec![])
    }

    fn given(&self) -> Given {
        self.given_with(&[], 0)
    }

    fn given_with(&self, epochs: &[(u64, Nonce)], since: u64) -> Given {
        Given::Verifier {
            device: self.judge.keys.device.to_string(),
            ak: hex(self.judge.keys.ak.point()),
            verifier: HEXLOWER.encode(&VERIFIER),
            challenge_secret: HEXLOWER.encode(&SECRET),
            epochs: epochs.iter().map(|(number, nonce)| (*number, HEXLOWER.encode(nonce))).collect(),
            since,
        }
    }
}

/// Messages that a key has signed, and that must not be believed.
fn quotes() -> Vec<Made> {
    let mut made = Vec::new();
    let mut one = |name, statement: &str, outcome: &str, lie: &dyn Fn(&mut Scene) -> Vec<u8>| {
        let mut scene = Scene::new();
        // The honest message behind it shows that nothing else was wrong.
        let (lie, honest) = (lie(&mut scene), scene.evidence());
        made.push(Made::new(name, statement, scene.given()).then(lie, outcome).then(honest, ACCEPTED));
    };
    one("honest", "What an honest device sends is judged", ACCEPTED, &Scene::evidence);
    one(
        "swapped-pcr-labels",
        "A quote covers exactly SHA-256 PCR 0-15: here PCR 16 stands in the place of PCR 15",
        "quote.pcr-selection",
        &|scene| {
            scene.device.quoted_pcrs = 0x1_7FFF;
            let lie = scene.evidence();
            scene.device.quoted_pcrs = 0xFFFF;
            lie
        },
    );
    one("quote-of-fewer-pcrs", "A quote covers exactly SHA-256 PCR 0-15", "quote.pcr-selection", &|scene| {
        scene.device.quoted_pcrs = 0xBFFF;
        let lie = scene.evidence();
        scene.device.quoted_pcrs = 0xFFFF;
        lie
    });
    one(
        "quote-of-a-child-key",
        "The key is a primary key of the endorsement hierarchy",
        "quote.qualified-signer",
        &|scene| {
            let honest = scene.device.qualified_signer;
            scene.device.qualified_signer = scene.device.keys.ak.name();
            let lie = scene.evidence();
            scene.device.qualified_signer = honest;
            lie
        },
    );
    one("fabricated-quote", "The quote's own signature is always checked", "quote.signature", &|scene| {
        let mut claims = scene.claims();
        let last = claims.quote.attest.len() - 1;
        claims.quote.attest[last] ^= 1;
        scene.seal(&claims)
    });
    one(
        "no-quote",
        "Only a quote made by a TPM counts: this structure is of another type",
        "quote.not-a-quote",
        &|scene| {
            let mut claims = scene.claims();
            // TPM_ST_ATTEST_CERTIFY, and a signature over it.
            claims.quote.attest[5] = 0x17;
            claims.quote.signature = scene.device.sign(&claims.quote.attest);
            scene.seal(&claims)
        },
    );
    one(
        "claims-changed",
        "The quote commits to the claims beside it: here the reason was changed",
        "quote.extra-data",
        &|scene| {
            let mut claims = scene.claims();
            claims.committed.attester.version = "9".to_owned();
            scene.seal(&claims)
        },
    );
    one("quote-of-another-nonce", "The quote commits to the nonces", "quote.extra-data", &|scene| {
        let mut claims = scene.claims();
        claims.committed.nonces = Nonces::new(vec![scene.nonce(NOW)]).unwrap();
        scene.seal(&claims)
    });
    one("another-profile", "Only this profile's evidence is judged", "evidence.profile", &|scene| {
        let mut claims = scene.claims();
        claims.committed.profile = "tag:countersign.example,2026:tpm#0".to_owned();
        claims.quote = scene.device.quote(&claims.committed.extra_data());
        scene.seal(&claims)
    });
    one("wrong-kid", "kid is the Name of the registered attestation key", "evidence.other-key", &|scene| {
        let mut other = SoftwareDevice::new();
        other.keys.device = scene.device.keys.device;
        let nonce = scene.nonce(NOW);
        other.attest(&[nonce], Attach::LogsFrom(0))
    });
    one("signed-by-another-key", "The registered key signs the message", "evidence.signature", &|scene| {
        let mut other = SoftwareDevice::new();
        other.keys = scene.device.keys;
        let nonce = scene.nonce(NOW);
        other.attest(&[nonce], Attach::LogsFrom(0))
    });
    one("another-device", "id of topic, ueid and registration are one", "evidence.other-device", &|scene| {
        let honest = scene.device.keys.device;
        scene.device.keys.device = DeviceId([7; 32]);
        let lie = scene.evidence();
        scene.device.keys.device = honest;
        lie
    });
    made
}

/// Messages that were changed on their way.
fn bytes() -> Vec<Made> {
    let mut scene = Scene::new();
    let message = scene.evidence();
    let sign1 = Sign1::decode("evidence", &message).unwrap();
    let attached: Vec<Vec<u8>> = sign1.attachments.iter().map(|bytes| bytes.to_vec()).collect();
    let with =
        |protected: &[u8], attached: &[Vec<u8>]| cose::encode(protected, attached, sign1.payload, sign1.signature);
    let mut other_log = attached.clone();
    *other_log[1].last_mut().unwrap() ^= 1;
    let mut protected = sign1.protected.to_vec();
    // The content type: 267 becomes 266.
    let at = protected.windows(2).position(|two| two == [0x01, 0x0B]).unwrap() + 1;
    protected[at] = 0x0A;
    let indefinite = [&message[..1], &[0x9F], &message[2..], &[0xFF]].concat();

    let mut swapped = Scene::new();
    let nonce = swapped.nonce(NOW);
    swapped.device.pcrs[4] = [4; 32];
    let values = swapped.device.attest_with(&[nonce], Attach::LogsFrom(0), &|kind, mut bytes| {
        if kind == LogKind::PcrValues {
            let (four, seven) = (bytes[4 * 32..5 * 32].to_vec(), bytes[7 * 32..8 * 32].to_vec());
            bytes[4 * 32..5 * 32].copy_from_slice(&seven);
            bytes[7 * 32..8 * 32].copy_from_slice(&four);
        }
        bytes
    });
    vec![
        Made::new("changed-log", "An attachment is the one that was signed for", scene.given())
            .then(with(sign1.protected, &other_log), "evidence.attachment"),
        Made::new("log-left-out", "An attachment that was signed for is there", scene.given())
            .then(with(sign1.protected, &attached[..1]), MALFORMED),
        Made::new("another-content-type", "The protected header is exactly the profile's", scene.given())
            .then(with(&protected, &attached), "evidence.header"),
        Made::new("bytes-behind-the-end", "Nothing stands behind the end", scene.given())
            .then([&message[..], &[0]].concat(), MALFORMED),
        Made::new("indefinite-length", "A message with two readings is malformed", scene.given())
            .then(indefinite, MALFORMED),
        Made::new(
            "swapped-pcr-values",
            "PCR values that the quote does not cover contradict: here PCR 4 and 7 have changed places",
            swapped.given(),
        )
        .at(NOW, values, ACCEPTED, &["log.mismatch"]),
    ]
}

/// Evidence that was good once, and counters that go back.
fn replays() -> Vec<Made> {
    let mut scene = Scene::new();
    let nonce = scene.nonce(NOW - DAY);
    let yesterday = Made::new("nonce-of-yesterday", "A request may be answered for 300 seconds", scene.given())
        .then(scene.device.attest(&[nonce], Attach::LogsFrom(0)), "freshness.expired")
        .at(NOW - DAY + 300, scene.device.attest(&[nonce], Attach::LogsFrom(0)), ACCEPTED, &[]);

    let mut scene = Scene::new();
    let (old, new) = (scene.evidence(), scene.evidence());
    let pair = Made::new("replay-pair", "Counters strictly grow; the last message again is a duplicate", scene.given())
        .then(new.clone(), ACCEPTED)
        .then(old, "freshness.replay")
        .then(new, "freshness.duplicate");

    let mut scene = Scene::new();
    let mut other = Scene::new();
    let (of_another_device, of_nobody) = (other.nonce(NOW), [7; 32]);
    let nonces = Made::new("nonce-of-others", "Evidence with no nonce of a verifier is for others", scene.given())
        .then(scene.device.attest(&[of_another_device], Attach::LogsFrom(0)), "freshness.nonce")
        .then(scene.device.attest(&[of_nobody], Attach::LogsFrom(0)), "freshness.nonce");

    let mut scene = Scene::new();
    let (old, new) = (scene.nonce(NOW - 60), scene.nonce(NOW));
    let generation = Made::new(
        "nonce-of-the-generation-before",
        "Nonces from before a new generation of the registration are void",
        scene.given_with(&[], NOW - 30),
    )
    .then(scene.device.attest(&[old], Attach::LogsFrom(0)), "freshness.generation")
    .then(scene.device.attest(&[new], Attach::LogsFrom(0)), ACCEPTED);
    vec![yesterday, pair, nonces, generation, cleared()]
}

fn cleared() -> Made {
    let mut scene = Scene::new();
    scene.device.counters.clock = 1_000_000;
    let before = scene.evidence();
    scene.device.counters.clock += 1_000;
    let held_back = scene.evidence();
    scene.judge.take(&before).expect("is judged");
    let last = scene.judge.state.as_ref().expect("a state").last.evidence;

    // TPM2_Clear sets counters to zero.
    scene.device.counters = evidence::tpm::Counters { reset: 0, restart: 0, clock: 10 };
    let plain = scene.evidence();
    let (verifier, device) = (scene.judge.verifier, scene.judge.keys.device);
    let special = |after: &[u8; 32]| scene.judge.challenges.issue(&verifier, &device, Some(after), [9; 8], NOW);
    let (other, asked) = (special(&[0; 32]), special(&last));
    let for_another = scene.device.attest(&[other], Attach::LogsFrom(0));
    let answer = scene.device.attest(&[asked], Attach::LogsFrom(0));
    Made::new(
        "cleared-tpm",
        "Only the answer to the request that names the last evidence may go back, and evidence from before never counts again",
        scene.given(),
    )
    .then(before, ACCEPTED)
    .then(plain, "freshness.replay")
    .then(for_another, "freshness.nonce")
    .at(NOW + 5, answer, ACCEPTED, &["tpm.cleared"])
    .at(NOW + 6, held_back, "freshness.generation", &[])
}

fn epochs() -> Vec<Made> {
    let verifier = evidence::verifier_message::VerifierKeyId(VERIFIER);
    let nonce = |number: u64| epoch::nonce(&verifier, number, &[number as u8; 32]);
    let [oldest, previous, current] = [NOW - 7_200, NOW - 3_600, NOW].map(|number| (number, nonce(number)));
    let mut scene = Scene::new();
    let stale = Made::new(
        "stale-epoch",
        "The current and the previous epoch are accepted, and no older one",
        scene.given_with(&[current, previous], 0),
    )
    .then(scene.device.attest(&[oldest.1], Attach::LogsFrom(0)), "freshness.nonce")
    .then(scene.device.attest(&[previous.1], Attach::LogsFrom(0)), ACCEPTED)
    .then(scene.device.attest(&[current.1], Attach::Nothing), ACCEPTED);

    let mut scene = Scene::new();
    scene.device.counters.clock = 5_000;
    let first = scene.device.attest(&[previous.1], Attach::LogsFrom(0));
    scene.device.counters = evidence::tpm::Counters { reset: 0, restart: 0, clock: 10 };
    let back = scene.device.attest(&[current.1], Attach::LogsFrom(0));
    let backward = Made::new(
        "cleared-tpm-under-an-epoch",
        "Counters that go back under an epoch's nonce are a replay",
        scene.given_with(&[current, previous], 0),
    )
    .then(first, ACCEPTED)
    .then(back, "freshness.replay");
    vec![stale, backward]
}

fn key() -> SigningKey {
    SigningKey::from_pkcs8(&rcgen::KeyPair::generate().unwrap().serialize_der()).unwrap()
}

/// What a device gets from its verifier, or from somebody else.
fn keys() -> Vec<Made> {
    let [root, other_root, request, result, log] = [(); 5].map(|()| key());
    let keys = |sequence: u64| VerifierKeys {
        sequence,
        not_after: NOW + 400 * DAY,
        request: *request.public(),
        result: *result.public(),
        log: *log.public(),
    };
    let by = |key: &SigningKey, purpose, sequence| key.seal(purpose, &keys(sequence)).unwrap();
    let given = || Given::DeviceWithRoot { root: hex(root.public()) };
    let lower = Made::new("keys-with-a-lower-sequence", "A device takes only a higher sequence", given())
        .then(by(&root, Purpose::Keys, NOW), ACCEPTED)
        .then(by(&root, Purpose::Keys, NOW - 1), "replaced")
        .then(by(&root, Purpose::Keys, NOW + 1), ACCEPTED);
    let stranger = Made::new("keys-by-another-root", "Only the pinned root signs keys", given())
        .then(by(&other_root, Purpose::Keys, NOW), "not-from-verifier")
        .then(by(&request, Purpose::Keys, NOW), "not-from-verifier")
        .then(by(&root, Purpose::Epoch, NOW), "not-from-verifier")
        .then(by(&root, Purpose::Keys, NOW), ACCEPTED);
    let points = [&request, &result, &log].map(|key: &SigningKey| hex(key.public()));
    let [request_point, result_point, log_point] = points;
    let given = Given::DeviceWithKeys { request: request_point, result: result_point, log: log_point };
    let said = affirmed();
    let wrong_key =
        Made::new("result-by-the-request-key", "A signature for one kind of message holds for no other", given)
            .then(request.seal(Purpose::Result, &said).unwrap(), "not-from-verifier")
            .then(root.seal(Purpose::Result, &said).unwrap(), "not-from-verifier")
            .then(log.seal(Purpose::Result, &said).unwrap(), "not-from-verifier")
            .then(result.seal(Purpose::AkCertificate, &said).unwrap(), "not-from-verifier")
            .then(result.seal(Purpose::Result, &said).unwrap(), ACCEPTED);
    vec![lower, stranger, wrong_key]
}

fn affirmed() -> AttestationResult {
    AttestationResult {
        issued: NOW,
        expires: NOW + 3 * 3600,
        nonce: [5; 32],
        device: DeviceId([6; 32]),
        developer: "v1".to_owned(),
        build: "vectors".to_owned(),
        evidence: [7; 32],
        acknowledged: Acknowledged::default(),
        status: Tier::Affirming,
        vector: TrustVector::default(),
        policy: "p".to_owned(),
        causes: Vec::new(),
        tolerated: Vec::new(),
        release: None,
        vouched: vec![],
    }
}

fn ek(name: &str) -> Vec<u8> {
    let path: PathBuf = [env!("CARGO_MANIFEST_DIR"), "vectors", "ek", name].iter().collect();
    fs::read(path).unwrap()
}

/// Trust in the CA of the endorsement keys in `tests/vectors/ek`.
pub(super) fn roots() -> EkRoots {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir(dir.path().join("software")).unwrap();
    for name in ["issuer.pem", "root.pem"] {
        fs::write(dir.path().join("software").join(name), ek(name)).unwrap();
    }
    EkRoots::load(dir.path()).unwrap()
}

/// What a stranger presents.
fn enrolment() -> Vec<Made> {
    let device = SoftwareDevice::new();
    let connection = rcgen::PublicKeyData::subject_public_key_info(&rcgen::KeyPair::generate().unwrap());
    let with = |change: &dyn Fn(&mut Presentation)| {
        let certificates = ["ek-ecc384.crt", "ek-rsa2048.crt"].map(ek).to_vec();
        let publics = ["ek-ecc384.pub", "ek-rsa2048.pub"].map(ek).to_vec();
        let ak = device.keys.ak.area();
        let mut presented = Presentation::new([7; 32], certificates, publics, ak, connection.clone());
        change(&mut presented);
        Up::Present(presented).encode()
    };
    // objectAttributes follow type and nameAlg; these bits are restricted, sign, fixedTPM, and decrypt (Part 2 §8.3).
    let ak_with = |bit: u32| {
        with(&|presented: &mut Presentation| {
            let changed = u32::from_be_bytes(presented.ak_public[4..8].try_into().unwrap()) ^ (1 << bit);
            presented.ak_public[4..8].copy_from_slice(&changed.to_be_bytes());
        })
    };
    let ak = [16, 18, 1, 17].into_iter().fold(
        Made::new(
            "ak-with-wrong-attributes",
            "The verifier compares the whole public area of the AK",
            Given::EnrolmentDesk,
        )
        .then(with(&|_| ()), ACCEPTED),
        |made, bit| made.then(ak_with(bit), "identity.ak-template"),
    );
    let template = Made::new(
        "ek-off-its-template",
        "A public area of an EK that differs by a bit from the TCG template is refused",
        Given::EnrolmentDesk,
    )
    .then(with(&|presented| presented.ek_public[0][6] ^= 4), "identity.ek-template")
    .then(with(&|presented| presented.ek_public.swap(0, 1)), "identity.ek-template");
    vec![ak, template]
}
