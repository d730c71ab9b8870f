//! What a verifier tells all devices, through a real broker: keys, epochs, and both anew where something changes. And two
//! verifiers, independent of each other, on one broker.

use std::{fs, time::Duration};

use crate::{
    ingestion::{DEVICE, Fleet, count, keys, register, root, within},
    installation::{Client, Installation},
};
use evidence::{
    challenge::Hello,
    claims::{DeviceId, Why},
    epoch::Epoch,
    result::AttestationResult,
    topic::Name,
    verifier_keys::VerifierKeys,
    verifier_message::{Purpose, VerifierKeyId},
};
use rcgen::{CertificateParams, DistinguishedName, DnType, Issuer, KeyPair, PKCS_ECDSA_P256_SHA256};
use tokio::{sync::watch, task::JoinHandle, time::timeout};
use verifier::{
    broker::Mosquitto,
    config::Config,
    init::{Plan, init},
    mqtt::{Inbox, Link, Message},
    serve::{Service, now},
    store::{Opening, Store},
};

const KEYS: &str = "cs/1/keys/v1";
const EPOCH: &str = "cs/1/epoch/v1";

/// A broker that the test ends, and starts again.
struct Broker {
    task: JoinHandle<()>,
    stop: watch::Sender<bool>,
}

impl Broker {
    fn start(installation: &Installation) -> Self {
        let stop = watch::Sender::new(false);
        let mosquitto = Mosquitto::find(&installation.config.broker.mosquitto).unwrap();
        let task = tokio::spawn(mosquitto.supervise(stop.subscribe(), std::sync::Arc::default()));
        Self { task, stop }
    }

    async fn end(self) {
        self.stop.send_replace(true);
        self.task.await.unwrap();
    }
}

/// The next message that one of `topics` brings.
async fn next(client: &mut Client, topics: &[&str]) -> (String, Vec<u8>) {
    loop {
        let (topic, payload) = within(client.next()).await;
        if topics.contains(&topic.as_str()) {
            return (topic, payload);
        }
    }
}

/// Keys and the open epoch, in whatever order the broker gives out what it keeps.
async fn told(client: &mut Client, config: &Config) -> (VerifierKeys, Epoch) {
    let mut payloads = [next(client, &[KEYS, EPOCH]).await, next(client, &[KEYS, EPOCH]).await];
    payloads.sort_by_key(|(topic, _)| topic != KEYS);
    let keys = VerifierKeys::open_by_root(&root(config), &payloads[0].1).expect("signed by the root");
    let epoch = keys.open(Purpose::Epoch, &payloads[1].1).expect("signed by the key for requests");
    (keys, epoch)
}

/// Another device, which only listens.
async fn listener(installation: &Installation) -> Client {
    let id = DeviceId([0x11; 32]);
    within(Client::connect(&installation.device(&id, now()), &id.to_string(), &[KEYS, EPOCH])).await
}

async fn rotate(fleet: &Fleet) {
    let url = format!("http://{}/v1/keys/rotate", fleet.service.http());
    let token = fs::read_to_string(&fleet.installation.config.http.token_file).unwrap();
    let post = move || {
        let answer = ureq::post(&url).header("Authorization", &format!("Bearer {}", token.trim())).send_empty();
        assert_eq!(answer.unwrap().status(), 200);
    };
    tokio::task::spawn_blocking(post).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn who_connects_finds_keys_and_epoch_and_after_a_rotation_new_keys_come_before_what_they_sign() {
    let mut fleet = Fleet::start().await;
    let config = fleet.installation.config.clone();
    let nonce = fleet.nonce().await;
    let mut listener = listener(&fleet.installation).await;
    let (old, epoch) = told(&mut listener, &config).await;
    assert_eq!((old.clone(), epoch.period), (keys(&config), config.epoch_seconds));

    rotate(&fleet).await;
    let (first, payload) = next(&mut listener, &[KEYS, EPOCH]).await;
    let new = VerifierKeys::open_by_root(&root(&config), &payload).unwrap();
    assert_eq!(first, KEYS);
    assert!(new.sequence > old.sequence && new.request != old.request && new.result != old.result);
    let (second, payload) = next(&mut listener, &[KEYS, EPOCH]).await;
    assert_eq!((second.as_str(), new.open::<Epoch>(Purpose::Epoch, &payload).unwrap()), (EPOCH, epoch.clone()));

    // A request from before still counts, and is answered under the new keys.
    fleet.keys = new;
    let message = fleet.ak.evidence(nonce);
    fleet.send("evidence", &message).await;
    let (result, _): (AttestationResult, _) = fleet.expect("result", Purpose::Result).await;
    assert_eq!(result.nonce, nonce);
    fleet.service.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_that_has_forgotten_everything_is_told_keys_and_epoch_and_subscribed_to_again() {
    let mut installation = Installation::make();
    installation.config.broker.spawn = false;
    let broker = Broker::start(&installation);
    let mut fleet = Fleet::start_at(installation).await;
    let config = fleet.installation.config.clone();
    fleet.nonce().await;
    broker.end().await;
    fs::remove_file(fleet.installation.dir.join("broker/data/mosquitto.db")).unwrap();

    let broker = Broker::start(&fleet.installation);
    // Both of the verifier's connections have come back when a hello is answered.
    let nonce = fleet.nonce().await;
    let message = fleet.ak.evidence(nonce);
    fleet.send("evidence", &message).await;
    fleet.expect::<AttestationResult>("result", Purpose::Result).await;
    let mut listener = listener(&fleet.installation).await;
    assert_eq!(told(&mut listener, &config).await.0, keys(&config));
    fleet.service.end().await;
    broker.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn evidence_for_an_epoch_counts_and_the_next_epoch_opens_in_time() {
    let mut installation = Installation::make();
    installation.config.epoch_seconds = 2;
    let mut fleet = Fleet::start_at(installation).await;
    let config = fleet.installation.config.clone();
    let mut listener = listener(&fleet.installation).await;
    let mut numbers: Vec<u64> = Vec::new();
    for _ in 0..4 {
        let (_, payload) = next(&mut listener, &[EPOCH]).await;
        let epoch: Epoch = keys(&config).open(Purpose::Epoch, &payload).unwrap();
        if let Some(closed) = epoch.closed {
            assert_eq!(numbers.iter().rev().nth(1), Some(&closed.number));
        }
        numbers.push(epoch.number);
        let message = fleet.ak.evidence(epoch.nonce);
        fleet.send("evidence", &message).await;
    }
    assert!(numbers.windows(2).all(|pair| pair[1] >= pair[0] + 2), "{numbers:?}");
    while count(&fleet.metrics().await, "basis=\"epoch\"") < 4 {
        // There is something attached, so each is answered.
        next(&mut fleet.device, &[&format!("cs/1/{DEVICE}/down/v1/result")]).await;
    }
    fleet.service.end().await;
}

/// A verifier `v2` with everything of its own but the broker, where it is let in.
fn second_verifier(first: &Installation) -> (Config, tempfile::TempDir) {
    let parent = tempfile::tempdir().unwrap();
    let plan = Plan {
        dir: parent.path().join("v2"),
        name: Name::new("v2").unwrap(),
        broker: ("localhost".to_owned(), 1),
        enrolment_port: 2,
        service_port: 3,
        http: "127.0.0.1:0".parse().unwrap(),
        now: now(),
    };
    let dir = init(&plan).unwrap();
    let mut config = Config::load(Some(&dir.join("verifier.toml")), []).unwrap();
    let theirs = first.dir.join("broker");
    let named = |name: &str| {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, name);
        params
    };
    let ca = KeyPair::from_pem(&fs::read_to_string(theirs.join("ca.key")).unwrap()).unwrap();
    let ca = Issuer::new(named("Countersign services CA"), ca);
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap();
    let certificate = named("v2").signed_by(&key, &ca).unwrap();
    fs::write(&config.broker.certificate, certificate.pem()).unwrap();
    fs::write(&config.broker.key, key.serialize_pem()).unwrap();
    (config.broker.host, config.broker.port) = (first.config.broker.host.clone(), first.config.broker.port);
    config.broker.ca = theirs.join("ca.pem");
    config.broker.spawn = false;

    // One such block for each independent verifier.
    let acl = fs::read_to_string(theirs.join("acl")).unwrap();
    let begin = acl.find("pattern write cs/1/%u/up/hello/v1").unwrap();
    let end = begin + acl[begin..].find("\n\n").unwrap() + 1;
    let block = acl[begin..end].replace("v1", "v2");
    fs::write(theirs.join("acl"), format!("{}\n{block}{}", &acl[..end], &acl[end..])).unwrap();
    (config, parent)
}

#[tokio::test(flavor = "multi_thread")]
async fn one_message_serves_two_verifiers_and_what_is_for_one_harms_not_the_other() {
    let mut installation = Installation::make();
    installation.config.broker.spawn = false;
    let (config, _home) = second_verifier(&installation);
    let broker = Broker::start(&installation);
    let down = format!("cs/1/{DEVICE}/down/#");
    let mut fleet = Fleet::start_with(installation, &[&down, "cs/1/epoch/+"]).await;
    register(&config, &fleet.ak);
    let second = Service::start(config.clone()).await.expect("the second verifier starts");
    let (ours, theirs) = (keys(&fleet.installation.config), keys(&config));
    let mut epochs = [None, None];
    while epochs.iter().any(Option::is_none) {
        let (topic, payload) = next(&mut fleet.device, &[EPOCH, "cs/1/epoch/v2"]).await;
        let (at, keys) = if topic == EPOCH { (0, &ours) } else { (1, &theirs) };
        // Neither speaks for the other.
        assert!([&theirs, &ours][at].open::<Epoch>(Purpose::Epoch, &payload).is_err());
        epochs[at] = Some(keys.open::<Epoch>(Purpose::Epoch, &payload).unwrap().nonce);
    }
    let nonces = epochs.map(Option::unwrap);

    let message = fleet.ak.evidence_for(nonces.to_vec());
    fleet.send("evidence", &message).await;
    let topics = [1, 2].map(|n| format!("cs/1/{DEVICE}/down/v{n}/result"));
    let topics = [topics[0].as_str(), topics[1].as_str()];
    let mut answered = Vec::new();
    for _ in 0..2 {
        let (topic, payload) = next(&mut fleet.device, &topics).await;
        let keys = if topic == topics[0] { &ours } else { &theirs };
        answered.push((topic, keys.open::<AttestationResult>(Purpose::Result, &payload).unwrap().nonce));
    }
    answered.sort();
    assert_eq!(answered, [(topics[0].to_owned(), nonces[0]), (topics[1].to_owned(), nonces[1])]);

    // For the first alone, and then for the second: neither hears a word about what is not for it, nor loses anything.
    let state = |config: &Config| Store::open(&config.store()).unwrap().state(DEVICE).unwrap().unwrap().last;
    let before = state(&config);
    let message = fleet.ak.evidence(nonces[0]);
    fleet.send("evidence", &message).await;
    assert_eq!(next(&mut fleet.device, &topics).await.0, topics[0]);
    assert_eq!(state(&config), before);
    for junk in 0..200_u8 {
        fleet.send("evidence", &[junk; 100]).await;
    }
    // The first is gone for a while: the second goes on without it.
    fleet.service.end().await;
    let message = fleet.ak.evidence(nonces[1]);
    fleet.device.publish(&format!("cs/1/{DEVICE}/up/evidence"), &message).await;
    assert_eq!(next(&mut fleet.device, &topics).await.0, topics[1]);
    assert!(timeout(Duration::ZERO, fleet.device.next()).await.is_err(), "nobody refused anything");
    second.end().await;
    broker.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_clock_behind_what_was_seen_makes_the_service_not_ready_until_an_operator_takes_it_for_right() {
    let installation = Installation::make();
    let config = installation.config.clone();
    // An epoch that a wrong clock opened a day ahead.
    let store = Store::open(&config.store()).unwrap();
    let ahead = Opening {
        verifier: VerifierKeyId::of(&root(&config)),
        now: now() + 24 * 3600,
        period: config.epoch_seconds,
        random: [1; 32],
        void_before: 0,
    };
    assert!(store.open_epoch(ahead).unwrap().opened_here);
    drop(store);
    let fleet = within(Fleet::start_at(installation)).await;
    let hello = evidence::cbor::encode(&Hello::new(Why::Startup));
    fleet.send("hello/v1", &hello).await;
    while !ready(&fleet.service).await.contains("clock") {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let Fleet { service, device, installation, ak, .. } = fleet;
    service.end().await;

    let service = Service::start_by(config.clone(), true).await.unwrap();
    let mut listener = listener(&installation).await;
    let (keys, epoch) = told(&mut listener, &config).await;
    assert!(epoch.number > ahead.now, "what devices have seen never goes back");
    let mut fleet = Fleet { installation, service, device, ak, keys };
    let nonce = within(fleet.nonce()).await;
    let message = fleet.ak.evidence(nonce);
    fleet.send("evidence", &message).await;
    let (result, _): (AttestationResult, _) = fleet.expect("result", Purpose::Result).await;
    assert!(result.issued < ahead.now);
    fleet.service.end().await;
}

async fn ready(service: &Service) -> String {
    let url = format!("http://{}/readyz", service.http());
    let get = move || {
        let agent: ureq::Agent = ureq::Agent::config_builder().http_status_as_error(false).build().into();
        agent.get(&url).call().unwrap().body_mut().read_to_string().unwrap()
    };
    tokio::task::spawn_blocking(get).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_acknowledgement_of_an_earlier_connection_takes_no_message_away() {
    let installation = Installation::make();
    // Two at a time: where a third arrives, the broker has taken the acknowledgement of one.
    let rules = &installation.config.broker.mosquitto;
    let text = fs::read_to_string(rules).unwrap();
    let two = text.replace("max_inflight_messages 1000", "max_inflight_messages 2");
    assert_ne!(text, two);
    fs::write(rules, two).unwrap();
    let broker = Broker::start(&installation);
    let link = Link::new(&installation.config.broker, "ack-test".to_owned()).unwrap();
    let (mut inbox, mut connected) = link.receive(vec!["cs/1/+/up/#".to_owned()]);
    within(connected.wait_for(|up| *up)).await.unwrap();
    let device = Client::connect(&installation.device(&DEVICE, now()), &DEVICE.to_string(), &[]).await;
    let topic = format!("cs/1/{DEVICE}/up/evidence");
    for payload in [b"first", b"other"] {
        device.publish(&topic, payload).await;
    }
    let first = within(receive(&mut inbox, 2)).await;
    broker.end().await;
    within(connected.wait_for(|up| !*up)).await.unwrap();

    // The broker delivers them again: on this connection, their numbers may be those of other messages.
    let broker = Broker::start(&installation);
    within(connected.wait_for(|up| *up)).await.unwrap();
    let again = within(receive(&mut inbox, 2)).await;
    inbox.acknowledge(&first);
    inbox.acknowledge(&again[..1]);
    device.publish(&topic, b"third").await;
    // Where the connection was made anew once more, the two come again before it.
    loop {
        let next = within(receive(&mut inbox, 1)).await;
        match next.first().map(Message::payload) {
            Some(b"third") => break,
            Some(b"first") => inbox.acknowledge(&next),
            _ => {}
        }
    }
    broker.end().await;
    within(connected.wait_for(|up| !*up)).await.unwrap();

    let broker = Broker::start(&installation);
    let left = within(receive(&mut inbox, 2)).await;
    let payloads: Vec<&[u8]> = left.iter().map(Message::payload).collect();
    assert_eq!(payloads, [b"other", b"third"], "only what was acknowledged where it arrived is gone");
    broker.end().await;
}

async fn receive(inbox: &mut Inbox, count: usize) -> Vec<Message> {
    let mut all = Vec::new();
    while all.len() < count {
        all.extend(inbox.receive(count - all.len()).await);
    }
    all
}
