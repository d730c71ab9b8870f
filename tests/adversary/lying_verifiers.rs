//! Verifiers that lie, and those who would like to be one: what a device does with their messages. The device is the real
//! program with a TPM; the verifier is this test, which holds the keys and tells the truth last: what the device does then
//! shows whether it believed a lie before.

use std::{fs, path::PathBuf, process::Output, thread::JoinHandle, time::Duration};

use devices::{deployment::program, site::eventually, swtpm::Swtpm};
use evidence::{
    challenge::Challenge,
    claims::{Claims, DeviceId, Nonce},
    cose::Sign1,
    envelope::Envelope,
    epoch::{Closed, Epoch},
    pcr::sha256,
    result::{Acknowledged, AttestationResult, ResultCause, Tier, TrustVector},
    verifier_keys::VerifierKeys,
    verifier_message::Purpose,
};
use tempfile::TempDir;
use tokio::time::timeout;
use verifier::{keys::SigningKey, serve::now};

use crate::field::{Field, Party, VERIFIER};

/// A set of a verifier's keys with the private halves.
struct Keys {
    sequence: u64,
    request: SigningKey,
    result: SigningKey,
    log: SigningKey,
}

fn key() -> SigningKey {
    SigningKey::from_pkcs8(&rcgen::KeyPair::generate().unwrap().serialize_der()).unwrap()
}

impl Keys {
    fn new(sequence: u64) -> Self {
        Self { sequence, request: key(), result: key(), log: key() }
    }

    fn by(&self, root: &SigningKey) -> Vec<u8> {
        let keys = VerifierKeys {
            sequence: self.sequence,
            not_after: now() + 30 * 24 * 3600,
            request: *self.request.public(),
            result: *self.result.public(),
            log: *self.log.public(),
        };
        root.seal(Purpose::Keys, &keys).unwrap()
    }
}

/// A device with the real program.
struct Host {
    config: PathBuf,
    dir: TempDir,
    _tpm: Swtpm,
}

impl Host {
    /// Enrols with the verifiers of these installations, whose brokers then go on without them.
    fn enrolled_at(fields: &mut [&mut Field]) -> (Self, DeviceId) {
        let tpm = Swtpm::start();
        let dir = tempfile::tempdir().unwrap();
        let mut config = format!(
            "tcti = {:?}\nstate_dir = {:?}\nima_log = \"/nonexistent\"\nboot_log = \"/nonexistent\"\nsweep_seconds = 1\n",
            tpm.tcti,
            dir.path().join("state")
        );
        let first = fields[0].site.ports().devices;
        for (number, field) in fields.iter_mut().enumerate() {
            for root in &tpm.roots {
                field.order(&["roots", "add", root.to_str().unwrap(), "--software"]);
            }
            field.site.serve().unwrap();
            let broker = field.site.dir.join("broker");
            let (table, name) = if number == 0 { ("broker", VERIFIER) } else { ("verifier.broker", "other") };
            let pinned =
                format!("[[verifier]]\nname = {name:?}\nkey = {:?}\n", field.site.dir.join("verifier.pub.pem"));
            let at = format!(
                "[{table}]\naddress = \"127.0.0.1:{}\"\nenrolment_address = \"127.0.0.1:{}\"\nca = {:?}\ncertificate = {:?}\nkey = {:?}\n",
                field.site.ports().devices,
                field.site.ports().enrolment,
                broker.join("ca.pem"),
                broker.join("enrol.pem"),
                broker.join("enrol.key"),
            );
            config += &match number {
                0 => at + &pinned,
                _ if field.site.ports().devices == first => pinned,
                _ => pinned + &at,
            };
        }
        let file = dir.path().join("attester.toml");
        fs::write(&file, config).unwrap();
        let host = Self { config: file, dir, _tpm: tpm };
        let enrolled = host.runs(&["enrol", "--json"]).join().unwrap();
        let said: serde_json::Value = serde_json::from_slice(&enrolled.stdout)
            .unwrap_or_else(|_| panic!("{}", String::from_utf8_lossy(&enrolled.stderr)));
        let id = said["device"].as_str().unwrap().parse().unwrap();
        (host, id)
    }

    /// Runs the program to its end, in a PID namespace of its own.
    fn runs(&self, arguments: &[&str]) -> JoinHandle<Output> {
        let mut command = std::process::Command::new("unshare");
        command.args(["--pid", "--fork", "--kill-child", "--mount-proc"]);
        command.arg(program("attester").unwrap().get_program()).args(["-v", arguments[0]]);
        command.arg("--config").arg(&self.config).args(&arguments[1..]);
        std::thread::spawn(move || command.output().unwrap())
    }
}

/// The verifier whose part this test plays.
struct Stage {
    _field: Field,
    host: Host,
    id: DeviceId,
    root: SigningKey,
    keys: Keys,
    party: Party,
}

/// The device's answer to a request.
struct Answered {
    nonces: Vec<Nonce>,
    digest: [u8; 32],
}

impl Stage {
    async fn set() -> Self {
        let mut field = Field::laid_out();
        let (host, id) = Host::enrolled_at(&mut [&mut field]);
        Self::taken_over(field, host, id).await
    }

    /// From here on the test speaks in the verifier's name.
    async fn taken_over(mut field: Field, host: Host, id: DeviceId) -> Self {
        field.site.kill_verifier();
        let root = SigningKey::load(&field.site.dir.join("root-key.pem")).unwrap();
        let filters = ["cs/1/+/up/#"];
        let party = Party::connect(&field.service(), "stage", &filters).await;
        let keys = Keys::new(now() + 1);
        party.retain(&format!("cs/1/keys/{VERIFIER}"), &keys.by(&root)).await;
        // An epoch of the real verifier would be answered in the place of a request.
        party.retain(&format!("cs/1/epoch/{VERIFIER}"), b"").await;
        Self { _field: field, host, id, root, keys, party }
    }

    async fn says(&self, kind: &str, message: &[u8]) {
        self.party.publish(&format!("cs/1/{}/down/{VERIFIER}/{kind}", self.id), message).await;
    }

    fn request_by(&self, key: &SigningKey, nonce: Nonce) -> Vec<u8> {
        key.seal(Purpose::Request, &Challenge::new(self.id, nonce, true)).unwrap()
    }

    async fn hello(&mut self) {
        self.party.next_on(&format!("cs/1/{}/up/hello/{VERIFIER}", self.id)).await;
    }

    /// The next evidence; greetings are passed over.
    async fn evidence(&mut self) -> Answered {
        let message = self.party.next_on(&format!("cs/1/{}/up/evidence", self.id)).await;
        answered(&message)
    }

    /// A result for evidence, as an honest verifier would give it but for the verdict.
    fn result(&self, to: &Answered, status: Tier) -> AttestationResult {
        result(self.id, to, status)
    }

    fn sealed(&self, result: &AttestationResult) -> Vec<u8> {
        self.keys.result.seal(Purpose::Result, result).unwrap()
    }

    /// One `attester once`, asked by this nonce, to which a result is given by `say`; what it ends with.
    async fn once(&mut self, nonce: Nonce, say: impl AsyncFnOnce(&mut Self, &Answered)) -> Output {
        let running = self.host.runs(&["once", "--wait", "40"]);
        self.hello().await;
        let request = self.request_by(&self.keys.request, nonce);
        self.says("request", &request).await;
        let answer = self.evidence().await;
        assert_eq!(answer.nonces, [nonce]);
        say(self, &answer).await;
        tokio::task::spawn_blocking(move || running.join().unwrap()).await.unwrap()
    }
}

fn answered(message: &[u8]) -> Answered {
    Envelope::decode(message).expect("evidence");
    let sign1 = Sign1::decode("evidence", message).unwrap();
    let bare = evidence::cose::encode(sign1.protected, &[], sign1.payload, sign1.signature);
    let claims = Claims::decode(sign1.payload).unwrap();
    Answered { nonces: claims.committed.nonces.as_slice().to_vec(), digest: sha256(&bare) }
}

fn result(device: DeviceId, to: &Answered, status: Tier) -> AttestationResult {
    let issued = now();
    AttestationResult {
        issued,
        expires: issued + 3 * 3600,
        nonce: to.nonces[0],
        device,
        developer: VERIFIER.to_owned(),
        build: "stage".to_owned(),
        evidence: to.digest,
        acknowledged: Acknowledged::default(),
        status,
        vector: TrustVector::default(),
        policy: "p".to_owned(),
        causes: Vec::new(),
        tolerated: Vec::new(),
        release: None,
        vouched: vec![],
    }
}

/// What a program ended with, in words for a failure.
fn told(output: &Output) -> String {
    format!(
        "{:?}\n{}\n{}",
        output.status.code(),
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    )
}

const AFFIRMED: Option<i32> = Some(0);
const CONTRAINDICATED: Option<i32> = Some(4);

#[tokio::test(flavor = "multi_thread")]
async fn an_old_affirmed_result_played_back_is_not_believed() {
    let mut stage = Stage::set().await;
    let mut kept = Vec::new();
    let affirmed = stage
        .once([1; 32], async |stage, answer| {
            kept = stage.sealed(&stage.result(answer, Tier::Affirming));
            stage.says("result", &kept).await;
        })
        .await;
    assert_eq!(affirmed.status.code(), AFFIRMED, "{}", told(&affirmed));
    let ended = stage
        .once([2; 32], async |stage, answer| {
            stage.says("result", &kept).await;
            let truth = stage.sealed(&stage.result(answer, Tier::Contraindicated));
            stage.says("result", &truth).await;
        })
        .await;
    assert_eq!(ended.status.code(), CONTRAINDICATED, "{}", told(&ended));
}

#[tokio::test(flavor = "multi_thread")]
async fn junk_on_every_topic_that_a_device_reads_changes_nothing_at_it() {
    let mut stage = Stage::set().await;
    let request = stage.request_by(&stage.keys.request, [9; 32]);
    // Bytes of no meaning, arrays without end, a message that is cut, one that goes on, and nothing at all.
    let going_on = [&request[..], &[0]].concat();
    let junk = [vec![0x5A; 90 * 1024], vec![0x81; 60 * 1024], request[..request.len() - 1].to_vec(), going_on, vec![]];
    let ended = stage
        .once([1; 32], async |stage, answer| {
            for bytes in &junk {
                for kind in ["request", "result", "refusal", "unknown"] {
                    stage.says(kind, bytes).await;
                }
                for topic in ["keys", "epoch"] {
                    stage.party.publish(&format!("cs/1/{topic}/{VERIFIER}"), bytes).await;
                }
            }
            let truth = stage.sealed(&stage.result(answer, Tier::Affirming));
            stage.says("result", &truth).await;
        })
        .await;
    assert_eq!(ended.status.code(), AFFIRMED, "{}", told(&ended));
}

#[tokio::test(flavor = "multi_thread")]
async fn numbers_and_words_without_measure_from_a_verifier_crash_no_device() {
    const MAX: u64 = u64::MAX;
    let mut stage = Stage::set().await;
    for (round, (issued, expires)) in [(0, MAX), (MAX - 1, MAX), (1 << 40, (1 << 40) + 1000)].into_iter().enumerate() {
        let ended = stage
            .once([round as u8 + 1; 32], async |stage, answer| {
                for (number, period) in [(MAX, u32::MAX), (MAX, 0), (0, u32::MAX)] {
                    let epoch = Epoch {
                        number,
                        period,
                        nonce: [99; 32],
                        closed: Some(Closed { number: MAX, random: [0; 32] }),
                    };
                    let epoch = stage.keys.request.seal(Purpose::Epoch, &epoch).unwrap();
                    stage.party.publish(&format!("cs/1/epoch/{VERIFIER}"), &epoch).await;
                }
                let mut said = stage.result(answer, Tier::Affirming);
                (said.issued, said.expires) = (issued, expires);
                said.acknowledged = Acknowledged {
                    reset: u32::MAX,
                    restart: u32::MAX,
                    boot_log: true,
                    ima: MAX,
                    runtime: MAX,
                    pcr_values: true,
                };
                let words = "\u{1b}[2J\u{7}\n".repeat(2000);
                said.causes = vec![ResultCause { code: words.clone(), detail: words.clone() }];
                said.tolerated = vec![words.clone()];
                said.release = Some((words.clone(), words.clone()));
                (said.developer, said.build, said.policy) = (words.clone(), words.clone(), words);
                let said = stage.sealed(&said);
                stage.says("result", &said).await;
                // Where a result like this does not count, this one does.
                let plain = stage.sealed(&stage.result(answer, Tier::Affirming));
                stage.says("result", &plain).await;
            })
            .await;
        assert_eq!(ended.status.code(), AFFIRMED, "{issued} to {expires}: {}", told(&ended));
        assert!(!ended.stdout.contains(&0x1B) && !ended.stderr.contains(&0x1B), "it commands no terminal");
        let status = stage.host.runs(&["status"]).join().unwrap();
        assert_eq!(status.status.code(), Some(0), "{}", told(&status));
        assert!(!status.stdout.contains(&0x1B));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_result_counts_for_the_device_s_own_latest_nonce_and_evidence_only_and_unexpired() {
    let mut stage = Stage::set().await;
    let ended = stage
        .once([1; 32], async |stage, answer| {
            let good = stage.result(answer, Tier::Affirming);
            let lies = [
                AttestationResult { nonce: [9; 32], ..good.clone() },
                AttestationResult { evidence: [9; 32], ..good.clone() },
                AttestationResult { device: DeviceId([9; 32]), ..good.clone() },
                AttestationResult { expires: good.issued, ..good.clone() },
                AttestationResult { expires: good.issued - 1, ..good.clone() },
            ];
            for lie in &lies {
                let lie = stage.sealed(lie);
                stage.says("result", &lie).await;
            }
            let truth = stage.sealed(&AttestationResult { status: Tier::Contraindicated, ..good });
            stage.says("result", &truth).await;
        })
        .await;
    assert_eq!(ended.status.code(), CONTRAINDICATED, "{}", told(&ended));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_result_counts_by_the_verifier_s_present_result_key_only() {
    let mut stage = Stage::set().await;
    let replaced = std::mem::replace(&mut stage.keys, Keys::new(now() + 2));
    stage.party.retain(&format!("cs/1/keys/{VERIFIER}"), &stage.keys.by(&stage.root)).await;
    let stranger = key();
    let ended = stage
        .once([1; 32], async |stage, answer| {
            let good = stage.result(answer, Tier::Affirming);
            let keys = &stage.keys;
            for wrong in [&keys.request, &keys.log, &stage.root, &stranger, &replaced.result] {
                stage.says("result", &wrong.seal(Purpose::Result, &good).unwrap()).await;
            }
            stage.says("result", &keys.result.seal(Purpose::AkCertificate, &good).unwrap()).await;
            let truth = stage.sealed(&AttestationResult { status: Tier::Contraindicated, ..good });
            stage.says("result", &truth).await;
        })
        .await;
    assert_eq!(ended.status.code(), CONTRAINDICATED, "{}", told(&ended));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_of_another_verifier_or_for_another_device_is_not_answered() {
    let mut stage = Stage::set().await;
    let running = stage.host.runs(&["once", "--wait", "40"]);
    stage.hello().await;
    let stranger = key();
    for (number, wrong) in [&stranger, &stage.root, &stage.keys.result, &stage.keys.log].into_iter().enumerate() {
        let lie = stage.request_by(wrong, [100 + number as u8; 32]);
        stage.says("request", &lie).await;
    }
    let other = Challenge::new(DeviceId([9; 32]), [110; 32], true);
    stage.says("request", &stage.keys.request.seal(Purpose::Request, &other).unwrap()).await;
    let for_this = Challenge::new(stage.id, [111; 32], true);
    stage.says("request", &stage.keys.request.seal(Purpose::Epoch, &for_this).unwrap()).await;
    let truth = stage.request_by(&stage.keys.request, [1; 32]);
    stage.says("request", &truth).await;
    let answer = stage.evidence().await;
    assert_eq!(answer.nonces, [[1; 32]]);
    let said = stage.sealed(&stage.result(&answer, Tier::Affirming));
    stage.says("result", &said).await;
    let ended = running.join().unwrap();
    assert_eq!(ended.status.code(), AFFIRMED, "{}", told(&ended));
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_count_by_the_pinned_root_and_with_a_higher_sequence_only() {
    let mut stage = Stage::set().await;
    let topic = format!("cs/1/keys/{VERIFIER}");
    // The device learns the true keys.
    let first = stage
        .once([1; 32], async |stage, answer| {
            let said = stage.sealed(&stage.result(answer, Tier::Affirming));
            stage.says("result", &said).await;
        })
        .await;
    assert_eq!(first.status.code(), AFFIRMED, "{}", told(&first));
    let sequence = stage.keys.sequence;
    let other_root = key();
    let lies = [Keys::new(sequence - 1), Keys::new(sequence), Keys::new(sequence + 1), Keys::new(sequence + 2)];
    let by = [
        lies[0].by(&stage.root),
        lies[1].by(&stage.root),
        lies[2].by(&other_root),
        // The request key is no root.
        lies[3].by(&stage.keys.request),
    ];
    for (number, lie) in lies.iter().enumerate() {
        // What the broker retains is what a device finds that was away.
        stage.party.retain(&topic, &by[number]).await;
        let running = stage.host.runs(&["once", "--wait", "40"]);
        stage.hello().await;
        let wrong = stage.request_by(&lie.request, [100; 32]);
        stage.says("request", &wrong).await;
        let truth = stage.request_by(&stage.keys.request, [2 + number as u8; 32]);
        stage.says("request", &truth).await;
        let answer = stage.evidence().await;
        assert_eq!(answer.nonces, [[2 + number as u8; 32]], "lie {number} was believed");
        let good = stage.result(&answer, Tier::Affirming);
        stage.says("result", &lie.result.seal(Purpose::Result, &good).unwrap()).await;
        let said = stage.sealed(&AttestationResult { status: Tier::Contraindicated, ..good });
        stage.says("result", &said).await;
        let ended = running.join().unwrap();
        assert_eq!(ended.status.code(), CONTRAINDICATED, "lie {number}: {}", told(&ended));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_epoch_whose_number_goes_back_is_not_answered() {
    const PERIOD: u32 = 2;
    let mut stage = Stage::set().await;
    let epoch = |stage: &Stage, number: u64, nonce: u8| {
        let epoch = Epoch { number, period: PERIOD, nonce: [nonce; 32], closed: None };
        stage.keys.request.seal(Purpose::Epoch, &epoch).unwrap()
    };
    let topic = format!("cs/1/epoch/{VERIFIER}");
    let start = now();
    stage.party.retain(&topic, &epoch(&stage, start, 1)).await;
    let mut running = Running::start(&stage.host);
    let answer = stage.evidence().await;
    assert_eq!(answer.nonces, [[1; 32]]);
    let said = stage.sealed(&stage.result(&answer, Tier::Affirming));
    stage.says("result", &said).await;
    // Older, the same number with another nonce, and by other keys than the request key.
    for (number, nonce) in [(start - 1, 100), (start - 3600, 101), (start, 102), (0, 103)] {
        let lie = epoch(&stage, number, nonce);
        stage.party.retain(&topic, &lie).await;
    }
    let newer = Epoch { number: start + 1, period: PERIOD, nonce: [104; 32], closed: None };
    stage.party.retain(&topic, &stage.keys.result.seal(Purpose::Epoch, &newer).unwrap()).await;
    // Each of them would have been answered within its period.
    let evidence = format!("cs/1/{}/up/evidence", stage.id);
    let wait = Duration::from_secs(u64::from(PERIOD) + 2);
    if let Ok(message) = timeout(wait, stage.party.next_on(&evidence)).await {
        panic!("answered an epoch that went back: {:?}", answered(&message).nonces);
    }
    let next = epoch(&stage, now().max(start + 2), 2);
    stage.party.retain(&topic, &next).await;
    assert_eq!(stage.evidence().await.nonces, [[2; 32]]);
    running.end();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_verifier_that_floods_with_requests_gets_few_quotes_and_delays_no_result() {
    let mut stage = Stage::set().await;
    let topic = format!("cs/1/epoch/{VERIFIER}");
    let epoch = Epoch { number: now(), period: 3600, nonce: [1; 32], closed: None };
    stage.party.retain(&topic, &stage.keys.request.seal(Purpose::Epoch, &epoch).unwrap()).await;
    let mut running = Running::start(&stage.host);
    let answer = stage.evidence().await;
    let said = stage.sealed(&stage.result(&answer, Tier::Affirming));
    stage.says("result", &said).await;
    const FLOOD: u8 = 200;
    for number in 0..FLOOD {
        let unasked = Challenge::new(stage.id, [number; 32], false);
        let request = stage.keys.request.seal(Purpose::Request, &unasked).unwrap();
        stage.says("request", &request).await;
    }
    let evidence = format!("cs/1/{}/up/evidence", stage.id);
    let mut quotes = 0;
    while timeout(Duration::from_secs(3), stage.party.next_on(&evidence)).await.is_ok() {
        quotes += 1;
    }
    assert!(quotes < 20, "{quotes} quotes for {FLOOD} requests");
    running.end();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_verifier_that_lies_in_acknowledged_positions_harms_only_itself() {
    let mut honest = Field::laid_out();
    let mut lying = Field::laid_out_as("other");
    let (host, id) = Host::enrolled_at(&mut [&mut honest, &mut lying]);
    honest.site.kill_verifier();
    honest.site.serve().unwrap();
    lying.site.kill_verifier();
    let root = SigningKey::load(&lying.site.dir.join("root-key.pem")).unwrap();
    let keys = Keys::new(now() + 1);
    let mut liar = Party::connect(&lying.service(), "liar", &["cs/1/+/up/#"]).await;
    liar.retain("cs/1/keys/other", &keys.by(&root)).await;
    liar.retain("cs/1/epoch/other", b"").await;

    let mut judged = Vec::new();
    for round in 0..3_u8 {
        let running = host.runs(&["once", "--wait", "40", "--json"]);
        liar.next_on(&format!("cs/1/{id}/up/hello/other")).await;
        let request = Challenge::new(id, [round + 1; 32], true);
        let request = keys.request.seal(Purpose::Request, &request).unwrap();
        liar.publish(&format!("cs/1/{id}/down/other/request"), &request).await;
        let evidence = format!("cs/1/{id}/up/evidence");
        let answer = loop {
            let answer = answered(&liar.next_on(&evidence).await);
            if answer.nonces.contains(&[round + 1; 32]) {
                break answer;
            }
        };
        // It has all there will ever be, or nothing, or another boot's.
        let acknowledged = match round {
            0 => Acknowledged {
                runtime: u64::MAX,
                ima: u64::MAX,
                boot_log: true,
                pcr_values: true,
                reset: u32::MAX,
                restart: 7,
            },
            1 => Acknowledged {
                runtime: 1 << 40,
                ima: 1 << 40,
                boot_log: true,
                pcr_values: true,
                ..Acknowledged::default()
            },
            _ => Acknowledged::default(),
        };
        let mut said = result(id, &Answered { nonces: vec![[round + 1; 32]], ..answer }, Tier::Affirming);
        said.acknowledged = acknowledged;
        let said = keys.result.seal(Purpose::Result, &said).unwrap();
        liar.publish(&format!("cs/1/{id}/down/other/result"), &said).await;
        let ended = running.join().unwrap();
        let report: serde_json::Value =
            serde_json::from_slice(&ended.stdout).unwrap_or_else(|_| panic!("{}", told(&ended)));
        judged.push(report["verifiers"][VERIFIER].clone());
        let causes = honest.causes(&id);
        assert!(
            !causes.contains(&"log.incomplete".to_owned()) && !causes.contains(&"log.mismatch".to_owned()),
            "{causes:?}"
        );
    }
    let verdicts: Vec<_> = judged.iter().map(|said| said["verdict"].clone()).collect();
    assert!(verdicts.iter().all(|verdict| *verdict == verdicts[0] && !verdict.is_null()), "{judged:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_verifier_that_asks_for_its_neighbour_s_nonce_spoils_nothing_of_it() {
    let (mut honest, mut lying) = Field::laid_out_beside_each_other("other");
    let (host, id) = Host::enrolled_at(&mut [&mut honest, &mut lying]);
    lying.site.kill_verifier();
    let root = SigningKey::load(&lying.site.dir.join("root-key.pem")).unwrap();
    let keys = Keys::new(now() + 1);
    let epochs = format!("cs/1/epoch/{VERIFIER}");
    let mut liar = Party::connect(&lying.service(), "liar", &["cs/1/+/up/#"]).await;
    liar.retain("cs/1/keys/other", &keys.by(&root)).await;
    liar.retain("cs/1/epoch/other", b"").await;
    // What everybody who is let in may read.
    let stolen: Epoch = {
        let device = honest.enrolled().await;
        let mut reader = Party::connect(&device.credentials, &device.id().to_string(), &[&epochs]).await;
        device.keys.open(Purpose::Epoch, &reader.next_on(&epochs).await).unwrap()
    };
    let mut running = Running::start(&host);
    liar.next_on(&format!("cs/1/{id}/up/hello/other")).await;
    eventually("the honest verifier has judged", || Ok(!honest.causes(&id).contains(&"never-seen".to_owned())))
        .unwrap();
    let before = honest.causes(&id);

    let nothing = Acknowledged::default();
    let everything = Acknowledged { runtime: 1 << 40, ima: 1 << 40, boot_log: true, pcr_values: true, ..nothing };
    let evidence = format!("cs/1/{id}/up/evidence");
    for (round, (nonce, acknowledged)) in
        [([1; 32], everything), (stolen.nonce, nothing), ([2; 32], nothing), (stolen.nonce, everything)]
            .into_iter()
            .enumerate()
    {
        let request = keys.request.seal(Purpose::Request, &Challenge::new(id, nonce, true)).unwrap();
        liar.publish(&format!("cs/1/{id}/down/other/request"), &request).await;
        let answer = loop {
            let answer = answered(&liar.next_on(&evidence).await);
            if answer.nonces.contains(&nonce) {
                break answer;
            }
        };
        let mut said = result(id, &Answered { nonces: vec![nonce], ..answer }, Tier::Affirming);
        said.acknowledged = acknowledged;
        let said = keys.result.seal(Purpose::Result, &said).unwrap();
        liar.publish(&format!("cs/1/{id}/down/other/result"), &said).await;
        // The neighbour asks for itself: what it holds leads to the quote.
        let checked = honest.command(&["check", &id.to_string(), "--wait", "30"]);
        assert!(matches!(checked.status.code(), Some(0 | 3 | 4)), "round {round}: {}", told(&checked));
        assert_eq!(honest.causes(&id), before, "round {round}");
    }
    running.end();
}

/// `attester run`, until it is ended.
struct Running(std::process::Child);

impl Running {
    fn start(host: &Host) -> Self {
        let log = fs::File::create(host.dir.path().join("run.log")).unwrap();
        let mut command = std::process::Command::new("unshare");
        command.args(["--pid", "--fork", "--kill-child", "--mount-proc"]);
        command.arg(program("attester").unwrap().get_program()).args(["-v", "run", "--config"]).arg(&host.config);
        Self(command.stdout(std::process::Stdio::null()).stderr(log).spawn().unwrap())
    }

    fn end(&mut self) {
        // It may have ended already.
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.end();
    }
}
