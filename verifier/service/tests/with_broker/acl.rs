//! The broker's topic rules as shipped, with a real mosquitto: who may write and read what. mosquitto acknowledges what it
//! then drops, so each test sends what must not arrive, then what must, over one connection, and looks at what comes
//! first.

use std::time::Duration;

use crate::installation::{Client, Installation};
use evidence::claims::DeviceId;
use tokio::{sync::watch, time::timeout};
use verifier::{broker::Mosquitto, mqtt::Link, serve::now};

const A: DeviceId = DeviceId([0xA1; 32]);
const B: DeviceId = DeviceId([0xB2; 32]);
const LONG: Duration = Duration::from_secs(30);

struct Running {
    installation: Installation,
    stop: watch::Sender<bool>,
    broker: tokio::task::JoinHandle<()>,
    verifier: Client,
}

impl Running {
    async fn start() -> Self {
        let installation = Installation::make();
        let stop = watch::Sender::new(false);
        let mosquitto = Mosquitto::find(&installation.config.broker.mosquitto).expect("mosquitto is installed");
        let broker = tokio::spawn(mosquitto.supervise(stop.subscribe()));
        let filters = ["$share/v1/cs/1/+/up/#", "$share/v1/cs/1/enrol/+/up"];
        let verifier = Client::connect(&installation.config.broker, "verifier-client", &filters).await;
        Self { installation, stop, broker, verifier }
    }

    async fn end(self) {
        self.stop.send_replace(true);
        self.broker.await.unwrap();
    }
}

async fn within<T>(future: impl Future<Output = T>) -> T {
    timeout(LONG, future).await.expect("in time")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_writes_under_its_own_id_only() {
    let mut running = within(Running::start()).await;
    let credentials = running.installation.device(&A, now());
    let device = within(Client::connect(&credentials, &A.to_string(), &["cs/1/epoch/+"])).await;
    for forbidden in [
        format!("cs/1/{B}/up/evidence"),
        format!("cs/1/{A}/down/v1/result"),
        format!("cs/1/{B}/down/v1/result"),
        "cs/1/enrol/other/up".to_owned(),
        "cs/1/epoch/v1".to_owned(),
        "cs/1/keys/v1".to_owned(),
        "other".to_owned(),
    ] {
        device.publish(&forbidden, b"forbidden").await;
    }
    device.publish(&format!("cs/1/{A}/up/evidence"), b"allowed").await;
    let (topic, payload) = within(running.verifier.next()).await;
    assert_eq!((topic.as_str(), payload.as_slice()), (format!("cs/1/{A}/up/evidence").as_str(), &b"allowed"[..]));
    // With its own certificate it enrols again under its client id.
    device.publish(&format!("cs/1/enrol/{A}-out/up"), b"renewal").await;
    assert_eq!(within(running.verifier.next()).await.1, b"renewal");
    running.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_reads_what_is_for_it_and_what_is_for_all() {
    let running = within(Running::start()).await;
    let credentials = running.installation.device(&A, now());
    let mut device = within(Client::connect(&credentials, &A.to_string(), &["#"])).await;
    running.verifier.publish(&format!("cs/1/{B}/down/v1/result"), b"another's").await;
    running.verifier.publish("cs/1/enrol/other/down/v1", b"another's").await;
    running.verifier.publish(&format!("cs/1/{A}/down/v2/result"), b"another verifier's name").await;
    running.verifier.publish("cs/1/epoch/v2", b"another verifier's name").await;
    running.verifier.publish("cs/1/epoch/v1", b"for all").await;
    running.verifier.publish("cs/1/keys/v1", b"for all").await;
    running.verifier.publish(&format!("cs/1/{A}/down/v1/request"), b"its own").await;
    for (topic, payload) in [
        ("cs/1/epoch/v1".to_owned(), &b"for all"[..]),
        ("cs/1/keys/v1".to_owned(), b"for all"),
        (format!("cs/1/{A}/down/v1/request"), b"its own"),
    ] {
        assert_eq!(within(device.next()).await, (topic, payload.to_vec()));
    }
    running.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_enrols_has_its_own_branch_and_nothing_else() {
    let mut running = within(Running::start()).await;
    let credentials = running.installation.enrol();
    let writer = within(Client::connect(&credentials, "c1", &["cs/1/epoch/+"])).await;
    for forbidden in
        [format!("cs/1/{A}/up/evidence"), "cs/1/enrol/c2/up".to_owned(), "cs/1/enrol/c1-out/down/v1".to_owned()]
    {
        writer.publish(&forbidden, b"forbidden").await;
    }
    writer.publish("cs/1/enrol/c1-out/up", b"allowed").await;
    let (topic, payload) = within(running.verifier.next()).await;
    assert_eq!((topic.as_str(), payload.as_slice()), ("cs/1/enrol/c1-out/up", &b"allowed"[..]));

    let mut reader = within(Client::connect(&credentials, "c2", &["#", "cs/1/enrol/+/down/#"])).await;
    running.verifier.publish(&format!("cs/1/{A}/down/v1/result"), b"a device's").await;
    running.verifier.publish("cs/1/enrol/c1/down/v1", b"another's").await;
    running.verifier.publish("cs/1/enrol/c2/down/v1", b"its own").await;
    assert_eq!(within(reader.next()).await, ("cs/1/enrol/c2/down/v1".to_owned(), b"its own".to_vec()));
    running.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_id_with_wildcards_opens_nothing() {
    let mut running = within(Running::start()).await;
    let credentials = running.installation.enrol();
    // `+` in the place of %c would match every branch.
    let wild = within(Client::connect(&credentials, "+", &["#"])).await;
    wild.publish("cs/1/enrol/c1/up", b"forbidden").await;
    let plain = within(Client::connect(&credentials, "c1", &["cs/1/epoch/+"])).await;
    running.verifier.publish("cs/1/enrol/c1/down/v1", b"another's").await;
    plain.publish("cs/1/enrol/c1-out/up", b"allowed").await;
    assert_eq!(within(running.verifier.next()).await.1, b"allowed");
    running.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_connects_without_a_certificate_of_the_brokers_ca() {
    let running = within(Running::start()).await;
    let strangers = Installation::make();
    let mut credentials = running.installation.config.broker.clone();
    (credentials.certificate, credentials.key) = {
        let stranger = strangers.device(&A, now());
        (stranger.certificate, stranger.key)
    };
    let (_inbox, mut connected) = Link::new(&credentials, "c".to_owned()).unwrap().receive(vec!["#".to_owned()]);
    // In the time that this takes, one with a certificate has connected and been served.
    let device = running.installation.device(&B, now());
    within(Client::connect(&device, &B.to_string(), &["#"])).await;
    assert!(!*connected.borrow_and_update());
    running.end().await;
}
