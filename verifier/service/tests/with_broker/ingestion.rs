//! Evidence through a real broker: from a device's hello to a signed result, and what becomes of messages that must not
//! count. The device's attestation key is a key of the test's own, which signs as a TPM would.

use std::{fs, time::Duration};

use crate::installation::{Client, Installation};
use appraisal::{EkClass, Verdict};
use evidence::{
    challenge::{Challenge, Hello, Refusal},
    claims::{AttesterClaim, Claims, Committed, DeviceId, LogClaim, LogKind, Nonce, Nonces, PROFILE, QuoteClaim, Why},
    envelope::Unsigned,
    pcr::{PcrValues, sha256},
    result::AttestationResult,
    tpm::{AkPublic, P256Point},
    verifier_keys::VerifierKeys,
    verifier_message::Purpose,
};
use ring::{
    rand::SystemRandom,
    signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _},
};
use serde::{Serialize, de::DeserializeOwned};
use tokio::{sync::watch, time::timeout};
use verifier::{
    broker::Mosquitto,
    config::Config,
    keys::SigningKey,
    serve::{Service, now},
    store::{Endorsement, NewRegistration, Registered, Store},
};

pub(crate) const DEVICE: DeviceId = DeviceId([0xD1; 32]);
const LONG: Duration = Duration::from_secs(30);

pub(crate) async fn within<T>(future: impl Future<Output = T>) -> T {
    timeout(LONG, future).await.expect("in time")
}

/// Signs quotes and envelopes.
pub(crate) struct Ak {
    pair: EcdsaKeyPair,
    public: AkPublic,
    clock: u64,
}

impl Ak {
    pub(crate) fn make() -> Self {
        let random = SystemRandom::new();
        let key = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &random).unwrap();
        let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, key.as_ref(), &random).unwrap();
        let (x, y) = pair.public_key().as_ref()[1..].split_at(32);
        let point = P256Point { x: x.try_into().unwrap(), y: y.try_into().unwrap() };
        Self { pair, public: AkPublic::from_point(point), clock: 1000 }
    }

    fn sign(&self, bytes: &[u8]) -> [u8; 64] {
        self.pair.sign(&SystemRandom::new(), bytes).unwrap().as_ref().try_into().unwrap()
    }

    /// TPMS_ATTEST of a quote over SHA-256 PCR 0–15 (TPM 2.0 Part 2 §10.12.12).
    fn attest(&self, extra_data: &[u8; 32], pcrs: &PcrValues) -> Vec<u8> {
        let mut out = vec![0xFF, 0x54, 0x43, 0x47, 0x80, 0x18, 0, 34];
        out.extend(self.public.qualified_name());
        out.extend([0, 32]);
        out.extend(extra_data);
        out.extend(self.clock.to_be_bytes());
        out.extend([0, 0, 0, 1, 0, 0, 0, 0, 1]);
        out.extend([0; 8]);
        out.extend([0, 0, 0, 1, 0, 0x0B, 3, 0xFF, 0xFF, 0, 0, 32]);
        out.extend(pcrs.quote_digest());
        out
    }

    /// A message for `nonce`, one tick later than the last, with the values of PCRs that are all zero.
    pub(crate) fn evidence(&mut self, nonce: Nonce) -> Vec<u8> {
        self.evidence_for(vec![nonce])
    }

    /// The same for several verifiers.
    pub(crate) fn evidence_for(&mut self, nonces: Vec<Nonce>) -> Vec<u8> {
        self.clock += 1;
        let values = PcrValues::from_bytes(&[0; 512]).unwrap();
        let committed = Committed {
            nonces: Nonces::new(nonces).unwrap(),
            device: DEVICE,
            profile: PROFILE.to_owned(),
            attester: AttesterClaim { why: Why::Startup, sources: vec!["sweep".to_owned()], version: "0".to_owned() },
        };
        let attest = self.attest(&committed.extra_data(), &values);
        let quote = QuoteClaim { signature: self.sign(&attest), attest };
        let bytes = values.to_bytes();
        let log = LogClaim { kind: LogKind::PcrValues, first: 0, count: 1, digest: sha256(&bytes) };
        let unsigned = Unsigned::new(&self.public, &Claims { committed, quote, logs: vec![log] }, vec![bytes]).unwrap();
        let signature = self.sign(unsigned.to_be_signed());
        unsigned.sign(&signature).message
    }
}

/// A device's registration, as enrolment leaves it.
pub(crate) fn register(config: &Config, ak: &Ak) {
    let new = NewRegistration {
        device: DEVICE,
        ak: ak.public,
        eks: vec![DEVICE.0],
        ek_class: EkClass::Software,
        manufacturer: "test".to_owned(),
        product: None,
        endorsement: Endorsement::default(),
        uncertified: false,
        generation: 1,
        ak_certificate: vec![1],
        now: now(),
    };
    let store = Store::open(&config.store()).unwrap();
    assert_eq!(store.register(new).unwrap(), Registered::New);
}

/// The root that devices of this verifier pin.
pub(crate) fn root(config: &Config) -> P256Point {
    *SigningKey::load(&config.key).unwrap().public()
}

/// What its root says that a verifier signs with at present.
pub(crate) fn keys(config: &Config) -> VerifierKeys {
    let message = Store::open(&config.store()).unwrap().keys_message().unwrap().expect("the service has made some");
    VerifierKeys::open_by_root(&root(config), &message).expect("signed by the root")
}

pub(crate) struct Fleet {
    pub(crate) installation: Installation,
    pub(crate) service: Service,
    pub(crate) device: Client,
    pub(crate) ak: Ak,
    pub(crate) keys: VerifierKeys,
}

impl Fleet {
    /// A running verifier at which one device is registered, and that device, connected.
    pub(crate) async fn start() -> Self {
        Self::start_at(Installation::make()).await
    }

    pub(crate) async fn start_at(installation: Installation) -> Self {
        Self::start_with(installation, &[&format!("cs/1/{DEVICE}/down/v1/#")]).await
    }

    /// The device is subscribed to `filters`.
    pub(crate) async fn start_with(installation: Installation, filters: &[&str]) -> Self {
        let ak = Ak::make();
        register(&installation.config, &ak);
        let service = Service::start(installation.config.clone()).await.expect("the service starts");
        let keys = keys(&installation.config);
        let credentials = installation.device(&DEVICE, now());
        let device = Client::connect(&credentials, &DEVICE.to_string(), filters).await;
        Self { installation, service, device, ak, keys }
    }

    pub(crate) async fn send(&self, branch: &str, payload: &[u8]) {
        self.device.publish(&format!("cs/1/{DEVICE}/up/{branch}"), payload).await;
    }

    /// The next message of this kind; requests that answer a hello sent more than once are passed over.
    pub(crate) async fn expect<T: DeserializeOwned + Serialize>(
        &mut self,
        kind: &str,
        purpose: Purpose,
    ) -> (T, Vec<u8>) {
        let request = format!("cs/1/{DEVICE}/down/v1/request");
        let (mut topic, mut payload) = within(self.device.next()).await;
        while topic == request {
            (topic, payload) = within(self.device.next()).await;
        }
        assert_eq!(topic, format!("cs/1/{DEVICE}/down/v1/{kind}"));
        (self.keys.open(purpose, &payload).expect("signed by the verifier"), payload)
    }

    /// A challenge. The service may be connecting still, so the device asks until it is heard.
    pub(crate) async fn nonce(&mut self) -> Nonce {
        let hello = evidence::cbor::encode(&Hello::new(Why::Startup));
        loop {
            self.device.try_publish(&format!("cs/1/{DEVICE}/up/hello/v1"), &hello).await;
            let heard = timeout(Duration::from_secs(1), self.device.next()).await;
            if let Ok((_, payload)) = heard {
                let challenge: Challenge = self.keys.open(Purpose::Request, &payload).unwrap();
                assert_eq!((challenge.device(), challenge.asked()), (DEVICE, false));
                return *challenge.nonce();
            }
        }
    }

    pub(crate) async fn metrics(&self) -> String {
        let url = format!("http://{}/metrics", self.service.http());
        let token = fs::read_to_string(&self.installation.config.http.token_file).unwrap();
        let get = move || {
            let answer = ureq::get(&url).header("Authorization", &format!("Bearer {}", token.trim())).call();
            answer.unwrap().body_mut().read_to_string().unwrap()
        };
        tokio::task::spawn_blocking(get).await.unwrap()
    }
}

pub(crate) fn count(metrics: &str, label: &str) -> u64 {
    let lines = metrics.lines().filter(|line| !line.starts_with('#') && line.contains(label));
    lines.filter_map(|line| line.rsplit(' ').next()?.parse::<u64>().ok()).sum()
}

#[tokio::test(flavor = "multi_thread")]
async fn evidence_becomes_a_durable_verdict_and_a_signed_result() {
    let mut fleet = Fleet::start().await;
    let nonce = fleet.nonce().await;
    let message = fleet.ak.evidence(nonce);
    fleet.send("evidence", &message).await;
    let (result, signed): (AttestationResult, _) = fleet.expect("result", Purpose::Result).await;
    assert_eq!((result.device, result.nonce, result.developer.as_str()), (DEVICE, nonce, "v1"));
    assert!(result.acknowledged.pcr_values && result.causes.iter().any(|cause| cause.code == "identity.unendorsed"));

    // What the device was told is what operators see, and what a restart would find.
    let store = Store::open(&fleet.installation.config.store()).unwrap();
    let state = store.state(DEVICE).unwrap().expect("a state");
    assert_eq!((state.last.evidence, state.verdict), (result.evidence, Verdict::from_tier(result.status)));
    assert_eq!(store.result(DEVICE).unwrap(), Some(signed.clone()));

    // The same message again is answered from the store, and judged no second time.
    fleet.send("evidence", &message).await;
    assert_eq!(fleet.expect::<AttestationResult>("result", Purpose::Result).await.1, signed);
    assert_eq!(store.state(DEVICE).unwrap(), Some(state));
    fleet.service.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_must_not_count_is_refused_counted_and_changes_nothing() {
    let mut fleet = Fleet::start().await;
    let (first, second) = (fleet.nonce().await, fleet.nonce().await);
    let old = fleet.ak.evidence(first);
    let newer = fleet.ak.evidence(second);
    fleet.send("evidence", &newer).await;
    fleet.expect::<AttestationResult>("result", Purpose::Result).await;
    let store = Store::open(&fleet.installation.config.store()).unwrap();
    let state = store.state(DEVICE).unwrap();

    // An older message under a nonce that is still good: no word about it, but a request. What comes next shows that it
    // was dealt with.
    fleet.send("evidence", &old).await;
    fleet.send("evidence", b"nonsense").await;
    let nonce = fleet.nonce().await;

    // Another key, and one bit of the signature.
    let mut other = Ak::make();
    other.clock = fleet.ak.clock + 10;
    let forged = other.evidence(nonce);
    let mut bent = fleet.ak.evidence(nonce);
    *bent.last_mut().unwrap() ^= 1;
    // A nonce that nobody here issued: another verifier may have.
    let others = fleet.ak.evidence([9; 32]);
    fleet.send("evidence", &others).await;
    for (message, code) in [(forged, "evidence.other-key"), (bent, "evidence.signature")] {
        fleet.send("evidence", &message).await;
        let (refusal, _): (Refusal, _) = fleet.expect("refusal", Purpose::Refusal).await;
        assert_eq!((refusal.code.as_str(), refusal.message), (code, sha256(&message)));
    }
    assert_eq!(store.state(DEVICE).unwrap(), state);
    let metrics = fleet.metrics().await;
    for label in
        ["freshness.replay", "what=\"evidence\"", "evidence.other-key", "evidence.signature", "freshness.nonce"]
    {
        assert_eq!(count(&metrics, label), 1, "{label}: {metrics}");
    }
    fleet.service.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_not_registered_gets_silence() {
    let mut fleet = Fleet::start().await;
    let stranger = DeviceId([0x55; 32]);
    let credentials = fleet.installation.device(&stranger, now());
    let client = within(Client::connect(&credentials, &stranger.to_string(), &["#"])).await;
    let nonce = fleet.nonce().await;
    let hello = evidence::cbor::encode(&Hello::new(Why::Startup));
    client.publish(&format!("cs/1/{stranger}/up/hello/v1"), &hello).await;
    // Another device's evidence under its own id.
    client.publish(&format!("cs/1/{stranger}/up/evidence"), &fleet.ak.evidence(nonce)).await;
    loop {
        let metrics = fleet.metrics().await;
        if count(&metrics, "identity.unregistered") == 2 {
            break;
        }
        // Each round asks for a challenge, so that there is something to wait for.
        fleet.nonce().await;
    }
    fleet.service.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_program_on_the_same_data_folder_is_told_so() {
    let fleet = Fleet::start().await;
    let error = Service::start(fleet.installation.config.clone()).await.err().expect("refused").to_string();
    assert!(error.contains("another verifier runs"), "{error}");
    fleet.service.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_that_goes_away_is_found_again() {
    let mut installation = Installation::make();
    installation.config.broker.spawn = false;
    let configuration = installation.config.broker.mosquitto.clone();
    let start = || {
        let stop = watch::Sender::new(false);
        let mosquitto = Mosquitto::find(&configuration).unwrap();
        (tokio::spawn(mosquitto.supervise(stop.subscribe(), std::sync::Arc::default())), stop)
    };
    let (broker, stop) = start();
    let mut fleet = Fleet::start_at(installation).await;
    let before = fleet.nonce().await;
    stop.send_replace(true);
    broker.await.unwrap();
    let message = fleet.ak.evidence(before);
    let (broker, stop) = start();
    // Connections come back in any order, and the broker may deliver the old request once more: a new one shows that the
    // verifier listens again.
    while fleet.nonce().await == before {}
    fleet.send("evidence", &message).await;
    let (result, _): (AttestationResult, _) = fleet.expect("result", Purpose::Result).await;
    assert_eq!(result.nonce, before);
    stop.send_replace(true);
    fleet.service.end().await;
    broker.await.unwrap();
}
