//! The brokers' rules as shipped, with real mosquittos: who connects where and as whom, who may write and read what. A
//! device is told when it may not write; what it may not read shows by what comes first.

use std::{sync::Arc, time::Duration};

use crate::installation::{Client, Installation};
use evidence::claims::DeviceId;
use rumqttc::v5::mqttbytes::v5::PubAckReason;
use tokio::{
    sync::{Notify, watch},
    task::JoinHandle,
    time::{sleep, timeout},
};
use verifier::{
    broker::Mosquitto,
    broker_access::{Access, ShutOut},
    certificates::Revoked,
    config::Broker,
    serve::now,
};

const A: DeviceId = DeviceId([0xA1; 32]);
const B: DeviceId = DeviceId([0xB2; 32]);
const LONG: Duration = Duration::from_secs(30);

/// A mosquitto that is being kept running.
struct Kept {
    stop: watch::Sender<bool>,
    task: JoinHandle<()>,
    reload: Arc<Notify>,
}

impl Kept {
    fn start(configuration: &std::path::Path) -> Self {
        let (stop, reload) = (watch::Sender::new(false), Arc::new(Notify::new()));
        let mosquitto = Mosquitto::find(configuration).expect("mosquitto is installed");
        let task = tokio::spawn(mosquitto.supervise(stop.subscribe(), Arc::clone(&reload)));
        Self { stop, task, reload }
    }

    async fn end(self) {
        self.stop.send_replace(true);
        self.task.await.unwrap();
    }
}

struct Running {
    installation: Installation,
    devices: Kept,
    strangers: Kept,
    verifier: Client,
}

impl Running {
    async fn start() -> Self {
        let installation = Installation::make();
        let devices = Kept::start(&installation.config.broker.mosquitto);
        let filters = ["$share/v1/cs/1/+/up/#", "$share/v1/cs/1/enrol/+/up"];
        let verifier = Client::connect(&installation.config.broker, "verifier-client", &filters).await;
        let strangers = Kept::start(&installation.config.broker.enrolment);
        Self { installation, devices, strangers, verifier }
    }

    async fn device(&self, id: &DeviceId, filters: &[&str]) -> Client {
        within(Client::connect(&self.installation.device(id, now()), &id.to_string(), filters)).await
    }

    async fn stranger(&self, client: &str, filters: &[&str]) -> Client {
        within(Client::connect(&self.installation.enrol(), client, filters)).await
    }

    /// As a verifier's answer, which must be let through.
    async fn tell(&self, topic: &str, payload: &[u8]) {
        assert!(is_taken(self.verifier.publish(topic, payload).await), "{topic}");
    }

    async fn end(self) {
        self.strangers.end().await;
        self.devices.end().await;
    }
}

async fn within<T>(future: impl Future<Output = T>) -> T {
    timeout(LONG, future).await.expect("in time")
}

fn is_taken(answer: PubAckReason) -> bool {
    matches!(answer, PubAckReason::Success | PubAckReason::NoMatchingSubscribers)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_writes_under_its_own_id_only() {
    let mut running = within(Running::start()).await;
    let device = running.device(&A, &["cs/1/epoch/+"]).await;
    for forbidden in [
        format!("cs/1/{B}/up/evidence"),
        format!("cs/1/{A}/up/evidence/more"),
        format!("cs/1/{A}/up/hello/another"),
        format!("cs/1/{A}/down/v1/result"),
        format!("cs/1/{B}/down/v1/result"),
        format!("cs/1/enrol/{B}/up"),
        format!("cs/1/enrol/{A}/down/v1"),
        "cs/1/enrol/d-other/up".to_owned(),
        "cs/1/epoch/v1".to_owned(),
        "cs/1/keys/v1".to_owned(),
        "other".to_owned(),
    ] {
        assert_eq!(within(device.publish(&forbidden, b"forbidden")).await, PubAckReason::NotAuthorized, "{forbidden}");
    }
    for allowed in [format!("cs/1/{A}/up/evidence"), format!("cs/1/{A}/up/hello/v1")] {
        assert_eq!(within(device.publish(&allowed, b"allowed")).await, PubAckReason::Success, "{allowed}");
        assert_eq!(
            within(running.verifier.next()).await,
            (allowed, b"allowed".to_vec()),
            "what was forbidden came first"
        );
    }
    running.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_reads_what_is_for_it_and_what_is_for_all() {
    let running = within(Running::start()).await;
    let mut device = running.device(&A, &["#", "cs/1/enrol/+/down/+"]).await;
    running.tell(&format!("cs/1/{B}/down/v1/result"), b"another's").await;
    running.tell("cs/1/enrol/d-other/down/v1", b"another's").await;
    running.tell("cs/1/epoch/v1", b"for all").await;
    running.tell("cs/1/keys/v1", b"for all").await;
    running.tell(&format!("cs/1/{A}/down/v1/request"), b"its own").await;
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
async fn a_verifier_writes_under_its_own_name_only() {
    let running = within(Running::start()).await;
    for forbidden in [
        format!("cs/1/{A}/down/v2/result"),
        "cs/1/enrol/d-1/down/v2".to_owned(),
        "cs/1/epoch/v2".to_owned(),
        "cs/1/keys/v2".to_owned(),
        format!("cs/1/{A}/up/evidence"),
    ] {
        let answer = within(running.verifier.publish(&forbidden, b"forbidden")).await;
        assert_eq!(answer, PubAckReason::NotAuthorized, "{forbidden}");
    }
    running.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_renews_under_its_id_at_the_devices_broker() {
    let mut running = within(Running::start()).await;
    let mut device = running.device(&A, &[&format!("cs/1/enrol/{A}/down/+")]).await;
    assert_eq!(within(device.publish(&format!("cs/1/enrol/{A}/up"), b"renewal")).await, PubAckReason::Success);
    assert_eq!(within(running.verifier.next()).await, (format!("cs/1/enrol/{A}/up"), b"renewal".to_vec()));
    running.tell(&format!("cs/1/enrol/{A}/down/v1"), b"answer").await;
    assert_eq!(within(device.next()).await.1, b"answer");
    running.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_ends_a_devices_connection_with_a_certificate_of_another() {
    let mut running = within(Running::start()).await;
    let mut victim = running.device(&A, &[&format!("cs/1/{A}/down/#")]).await;
    let (name, installation) = (A.to_string(), &running.installation);
    // Another device under the victim's client id is itself.
    let other = within(Client::connect(&installation.device(&B, now()), &name, &[])).await;
    assert_eq!(within(other.publish(&format!("cs/1/{A}/up/evidence"), b"forged")).await, PubAckReason::NotAuthorized);
    assert!(is_taken(within(other.publish(&format!("cs/1/{B}/up/evidence"), b"its own")).await));
    assert_eq!(within(running.verifier.next()).await.0, format!("cs/1/{B}/up/evidence"));

    // Whoever holds a certificate for one listener is nobody at the others.
    let at = |credentials: &Broker, port| Broker { port, ..credentials.clone() };
    let (device, stranger, verifier) =
        (installation.device(&B, now()), installation.enrol(), installation.config.broker.clone());
    let (devices, strangers) = installation.ports;
    for (credentials, port) in [
        (&stranger, devices),
        (&verifier, devices),
        (&device, strangers),
        (&verifier, strangers),
        (&device, verifier.port),
        (&stranger, verifier.port),
    ] {
        let refused = within(Client::refused(&at(credentials, port), &name)).await;
        assert!(refused.is_some(), "{} at {port}", credentials.certificate.display());
    }

    running.tell(&format!("cs/1/{A}/down/v1/request"), b"still there").await;
    assert_eq!(within(victim.next()).await.1, b"still there");
    assert_eq!(victim.connections(), 1);
    running.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_enrols_has_its_own_branch_and_nothing_else() {
    let mut running = within(Running::start()).await;
    let writer = running.stranger("d-1", &[]).await;
    for forbidden in [
        format!("cs/1/{A}/up/evidence"),
        format!("cs/1/enrol/{A}/up"),
        "cs/1/enrol/d-2/up".to_owned(),
        "cs/1/enrol/d-1/down/v1".to_owned(),
        "cs/1/keys/v1".to_owned(),
        "cs/1/epoch/v1".to_owned(),
    ] {
        assert_eq!(within(writer.publish(&forbidden, b"forbidden")).await, PubAckReason::NotAuthorized, "{forbidden}");
    }
    assert!(is_taken(within(writer.publish("cs/1/enrol/d-1/up", b"allowed")).await));
    assert_eq!(within(running.verifier.next()).await, ("cs/1/enrol/d-1/up".to_owned(), b"allowed".to_vec()));

    let mut reader = running.stranger("d-2", &["#", "cs/1/enrol/+/down/#"]).await;
    running.tell(&format!("cs/1/{A}/down/v1/result"), b"a device's").await;
    running.tell("cs/1/epoch/v1", b"for devices").await;
    running.tell("cs/1/enrol/d-1/down/v1", b"another's").await;
    running.tell("cs/1/enrol/d-2/down/v1", b"its own").await;
    // It overlaps with `#`, so it may come twice.
    assert_eq!(within(reader.next()).await, ("cs/1/enrol/d-2/down/v1".to_owned(), b"its own".to_vec()));
    running.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_enrols_sees_verifiers_keys_and_leaves_nothing_behind() {
    let mut running = within(Running::start()).await;
    assert!(is_taken(within(running.verifier.publish_retained("cs/1/keys/v1", b"keys")).await));
    let mut stranger = running.stranger("d-1", &["cs/1/keys/+"]).await;
    assert_eq!(within(stranger.next()).await, ("cs/1/keys/v1".to_owned(), b"keys".to_vec()));
    assert!(is_taken(within(stranger.publish_retained("cs/1/enrol/d-1/up", b"kept?")).await));
    assert_eq!(within(running.verifier.next()).await.1, b"kept?");
    // Not in a shared subscription, which is told of nothing that was kept.
    let mut late = within(Client::connect(&running.installation.config.broker, "late", &["cs/1/enrol/+/up"])).await;
    let again = running.stranger("d-2", &[]).await;
    assert!(is_taken(within(again.publish("cs/1/enrol/d-2/up", b"new")).await));
    assert_eq!(within(late.next()).await.1, b"new");
    running.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn client_ids_of_who_enrols_open_nothing() {
    let mut running = within(Running::start()).await;
    let credentials = running.installation.enrol();
    // `+` in the place of %c would match every branch, and the id of a device is where that one renews.
    for name in ["+".to_owned(), "#".to_owned(), A.to_string(), "local.enrolment".to_owned()] {
        assert!(within(Client::refused(&credentials, &name)).await.is_some(), "{name}");
    }
    for name in ["d-+", "d-#", "d-/"] {
        let wild = running.stranger(name, &["#"]).await;
        let answer = within(wild.publish("cs/1/enrol/d-1/up", b"forbidden")).await;
        assert_eq!(answer, PubAckReason::NotAuthorized, "{name}");
    }
    let plain = running.stranger("d-1", &[]).await;
    running.tell("cs/1/enrol/d-1/down/v1", b"another's").await;
    assert!(is_taken(within(plain.publish("cs/1/enrol/d-1/up", b"allowed")).await));
    assert_eq!(within(running.verifier.next()).await.1, b"allowed");
    running.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn enrolment_goes_on_after_either_broker_came_back() {
    let mut running = within(Running::start()).await;
    assert!(is_taken(within(running.verifier.publish_retained("cs/1/keys/v1", b"keys")).await));
    for devices in [false, true] {
        let configuration = running.installation.config.broker.clone();
        if devices {
            running.devices.end().await;
            running.devices = Kept::start(&configuration.mosquitto);
        } else {
            running.strangers.end().await;
            running.strangers = Kept::start(&configuration.enrolment);
        }
        let mut stranger = running.stranger("d-1", &["cs/1/keys/+"]).await;
        assert_eq!(within(stranger.next()).await.1, b"keys", "devices: {devices}");
        // As a device does, it says again what nobody answers.
        let said = async {
            loop {
                stranger.try_publish("cs/1/enrol/d-1/up", if devices { b"second" } else { b"first" }).await;
                if let Ok(got) = timeout(Duration::from_millis(500), running.verifier.next()).await {
                    return got;
                }
            }
        };
        let (topic, _) = within(said).await;
        assert_eq!(topic, "cs/1/enrol/d-1/up");
    }
    running.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revoked_device_is_shut_out_at_once_and_let_in_when_approved_again() {
    let mut running = within(Running::start()).await;
    let (credentials, issued) = running.installation.certified(&A, now());
    let evidence = format!("cs/1/{A}/up/evidence");
    let mut device = within(Client::connect(&credentials, &A.to_string(), &[&format!("cs/1/{A}/down/#")])).await;
    let mut other = running.device(&B, &[&format!("cs/1/{B}/down/#")]).await;
    assert!(is_taken(within(device.publish(&evidence, b"before")).await));

    let access = Access::from_config(&running.installation.config.broker).unwrap();
    let revoked = Revoked { serial: issued.serial, since: now() };
    let shut_out = ShutOut { devices: vec![A], certificates: vec![revoked] };
    assert!(access.update(&shut_out, now()).unwrap());
    running.devices.reload.notify_one();
    // Its connection stands; nothing goes over it any more.
    let denied = async {
        while device.publish(&evidence, b"until the rules are read").await != PubAckReason::NotAuthorized {
            sleep(Duration::from_millis(10)).await;
        }
    };
    within(denied).await;
    running.tell(&format!("cs/1/{A}/down/v1/result"), b"not for the revoked").await;
    let refused = within(Client::refused(&credentials, &A.to_string())).await;
    assert!(refused.is_some(), "its certificate is on the list");
    running.tell(&format!("cs/1/{B}/down/v1/result"), b"for others").await;
    assert_eq!(within(other.next()).await.1, b"for others");

    assert!(access.update(&ShutOut::default(), now()).unwrap());
    running.devices.reload.notify_one();
    let taken = async {
        while !is_taken(device.publish(&evidence, b"after").await) {
            sleep(Duration::from_millis(10)).await;
        }
    };
    within(taken).await;
    running.tell(&format!("cs/1/{A}/down/v1/result"), b"let in").await;
    assert_eq!(within(device.next()).await.1, b"let in", "what was sent while it was shut out came first");
    assert_eq!((device.connections(), other.connections()), (1, 1));
    assert!(within(Client::refused(&credentials, &A.to_string())).await.is_none());
    while within(running.verifier.next()).await.1 != b"after" {}
    running.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_crowd_of_strangers_keeps_no_device_waiting() {
    const STRANGERS: usize = 20;
    const MESSAGES: usize = 100;
    let mut running = within(Running::start()).await;
    let device = running.device(&A, &[]).await;
    let crowd: Vec<_> = (0..STRANGERS)
        .map(|number| {
            let credentials = running.installation.enrol();
            tokio::spawn(async move {
                let name = format!("d-{number}");
                let stranger = Client::connect(&credentials, &name, &[]).await;
                for _ in 0..MESSAGES {
                    stranger.publish(&format!("cs/1/enrol/{name}/up"), &[0; 8 * 1024]).await;
                }
            })
        })
        .collect();
    let evidence = format!("cs/1/{A}/up/evidence");
    let mut strangers = 0;
    for round in 0..20_u8 {
        assert!(is_taken(within(device.publish(&evidence, &[round])).await));
        loop {
            let (topic, payload) = within(running.verifier.next()).await;
            if topic == evidence {
                assert_eq!(payload, [round]);
                break;
            }
            strangers += 1;
        }
    }
    for stranger in crowd {
        within(stranger).await.unwrap();
    }
    while strangers < 1 {
        within(running.verifier.next()).await;
        strangers += 1;
    }
    assert_eq!(device.connections(), 1);
    running.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_connects_without_a_certificate_of_the_brokers_ca() {
    let running = within(Running::start()).await;
    let strangers = Installation::make();
    let Broker { certificate, key, .. } = strangers.device(&A, now());
    let mut credentials = running.installation.device(&B, now());
    assert!(within(Client::refused(&credentials, "c")).await.is_none());
    (credentials.certificate, credentials.key) = (certificate, key);
    assert!(within(Client::refused(&credentials, "c")).await.is_some());
    running.end().await;
}
