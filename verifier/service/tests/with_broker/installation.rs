//! A verifier as `verifier init` lays it out, with real brokers on free ports, and clients of them.

use std::{
    fs,
    hash::{BuildHasher as _, RandomState},
    net::TcpListener,
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use appraisal::UnixSeconds;
use evidence::{claims::DeviceId, topic::Name};
use rcgen::{KeyPair, PKCS_ECDSA_P256_SHA256, PublicKeyData as _};
use rumqttc::{
    TlsConfiguration, Transport,
    v5::{
        AsyncClient, ConnectionError, Event, EventLoop, MqttOptions,
        mqttbytes::{
            QoS,
            v5::{Filter, Packet, PubAckReason},
        },
    },
};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _};
use tempfile::TempDir;
use tokio::{
    sync::{Mutex, mpsc, watch},
    time::sleep,
};
use verifier::{
    certificates::{BrokerCa, ConnectionKey, Issued},
    config::{Broker, Config},
    init::{Plan, init},
    serve::now,
};

pub(crate) struct Installation {
    pub(crate) config: Config,
    pub(crate) dir: PathBuf,
    /// Where devices connect, and where they enrol.
    pub(crate) ports: (u16, u16),
    ca: BrokerCa,
    _parent: TempDir,
}

/// Ports that nobody uses, below those that the kernel hands out for outgoing connections; tests that run side by side
/// begin to look at different places.
fn free_ports() -> [u16; 3] {
    let draw = RandomState::new().hash_one(()) as u16 % 20_000;
    let mut free = (0..20_000)
        .map(|step| 10_000 + (draw + step) % 20_000)
        .filter(|port| TcpListener::bind(("127.0.0.1", *port)).is_ok());
    [(); 3].map(|()| free.next().unwrap())
}

impl Installation {
    pub(crate) fn make() -> Self {
        let parent = tempfile::tempdir().unwrap();
        let [devices, enrolment_port, service_port] = free_ports();
        let plan = Plan {
            dir: parent.path().join("verifier"),
            name: Name::new("v1").unwrap(),
            broker: ("localhost".to_owned(), devices),
            enrolment_port,
            service_port,
            http: "127.0.0.1:0".parse().unwrap(),
            now: now(),
        };
        let dir = init(&plan).unwrap();
        let config = Config::load(Some(&dir.join("verifier.toml")), []).unwrap();
        let ca = BrokerCa::load(&config.broker.device_ca, &config.broker.ca_key).unwrap().unwrap();
        Self { config, dir, ports: (devices, enrolment_port), ca, _parent: parent }
    }

    /// Where a device connects, with credentials as enrolment hands them out.
    pub(crate) fn device(&self, id: &DeviceId, now: UnixSeconds) -> Broker {
        self.certified(id, now).0
    }

    /// The same, and its certificate.
    pub(crate) fn certified(&self, id: &DeviceId, now: UnixSeconds) -> (Broker, Issued) {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap();
        let connection = ConnectionKey::read(&key.subject_public_key_info()).unwrap();
        let [certificate, key_file] = ["pem", "key"].map(|kind| self.dir.join(format!("device-{id}.{kind}")));
        let issued = self.ca.device(id, &connection, now).unwrap();
        fs::write(&certificate, &issued.pem).unwrap();
        fs::write(&key_file, key.serialize_pem()).unwrap();
        (Broker { port: self.ports.0, certificate, key: key_file, ..self.config.broker.clone() }, issued)
    }

    /// Where devices enrol, with the shared credentials.
    pub(crate) fn enrol(&self) -> Broker {
        let [certificate, key] = ["enrol.pem", "enrol.key"].map(|name| self.dir.join("broker").join(name));
        Broker { port: self.ports.1, certificate, key, ..self.config.broker.clone() }
    }
}

/// One connection, which is made again when it breaks.
pub(crate) struct Client {
    client: AsyncClient,
    messages: mpsc::UnboundedReceiver<(String, Vec<u8>)>,
    answers: Mutex<mpsc::UnboundedReceiver<PubAckReason>>,
    connections: watch::Receiver<u32>,
    up: watch::Receiver<bool>,
}

impl Client {
    /// Connected and subscribed, after as many tries as it takes.
    pub(crate) async fn connect(broker: &Broker, client: &str, filters: &[&str]) -> Self {
        let (client, mqtt) = open(broker, client);
        let mut client = Self::run(client, mqtt, filters);
        client.up.wait_for(|up| *up).await.unwrap();
        client
    }

    /// One try, and why it failed.
    pub(crate) async fn refused(broker: &Broker, client: &str) -> Option<ConnectionError> {
        let (_client, mut mqtt) = open(broker, client);
        loop {
            match mqtt.poll().await {
                Ok(Event::Incoming(Packet::ConnAck(_))) => return None,
                Ok(_) => {}
                Err(error) => return Some(error),
            }
        }
    }

    fn run(client: AsyncClient, mut mqtt: EventLoop, filters: &[&str]) -> Self {
        let filters: Vec<_> = filters.iter().map(|filter| Filter::new(*filter, QoS::AtLeastOnce)).collect();
        let (to_messages, messages) = mpsc::unbounded_channel();
        let (to_answers, answers) = mpsc::unbounded_channel();
        let (connected, connections) = watch::channel(0);
        let (is_up, up) = watch::channel(false);
        let subscriber = client.clone();
        tokio::spawn(async move {
            loop {
                let event = tokio::select! {
                    event = mqtt.poll() => event,
                    () = is_up.closed() => return,
                };
                match event {
                    Ok(Event::Incoming(Packet::ConnAck(_))) => {
                        connected.send_modify(|times| *times += 1);
                        if filters.is_empty() {
                            is_up.send_replace(true);
                        } else {
                            drop(subscriber.try_subscribe_many(filters.clone()));
                        }
                    }
                    Ok(Event::Incoming(Packet::SubAck(_))) => drop(is_up.send_replace(true)),
                    Ok(Event::Incoming(Packet::Publish(publish))) => {
                        let topic = String::from_utf8(publish.topic.to_vec()).unwrap();
                        drop(to_messages.send((topic, publish.payload.to_vec())));
                    }
                    Ok(Event::Incoming(Packet::PubAck(answer))) => drop(to_answers.send(answer.reason)),
                    Ok(_) => {}
                    Err(_) => {
                        is_up.send_replace(false);
                        sleep(Duration::from_millis(50)).await;
                    }
                }
            }
        });
        Self { client, messages, answers: Mutex::new(answers), connections, up }
    }

    /// Publishes, and says what the broker answers. It must not break the connection over it.
    pub(crate) async fn publish(&self, topic: &str, payload: &[u8]) -> PubAckReason {
        self.say(topic, payload, false).await
    }

    /// The same, to be kept by the broker.
    pub(crate) async fn publish_retained(&self, topic: &str, payload: &[u8]) -> PubAckReason {
        self.say(topic, payload, true).await
    }

    async fn say(&self, topic: &str, payload: &[u8], retain: bool) -> PubAckReason {
        let mut answers = self.answers.lock().await;
        // Answers to what was only tried.
        while answers.try_recv().is_ok() {}
        self.client.publish(topic, QoS::AtLeastOnce, retain, payload.to_vec()).await.unwrap();
        answers.recv().await.expect("an answer")
    }

    /// Publishes where there is a connection; whether it arrives, an answer shows.
    pub(crate) async fn try_publish(&self, topic: &str, payload: &[u8]) -> bool {
        *self.up.borrow() && self.client.try_publish(topic, QoS::AtLeastOnce, false, payload.to_vec()).is_ok()
    }

    /// The next message, topic and payload.
    pub(crate) async fn next(&mut self) -> (String, Vec<u8>) {
        self.messages.recv().await.expect("a message")
    }

    /// How many connections it took so far.
    pub(crate) fn connections(&self) -> u32 {
        *self.connections.borrow()
    }
}

fn open(broker: &Broker, client: &str) -> (AsyncClient, EventLoop) {
    let mut roots = rustls::RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(&broker.ca).unwrap()).unwrap();
    let chain = vec![CertificateDer::from_pem_file(&broker.certificate).unwrap()];
    let tls = rustls::ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_root_certificates(roots)
        .with_client_auth_cert(chain, PrivateKeyDer::from_pem_file(&broker.key).unwrap())
        .unwrap();
    let mut options = MqttOptions::new(client, &broker.host, broker.port);
    options.set_transport(Transport::tls_with_config(TlsConfiguration::Rustls(Arc::new(tls))));
    options.set_max_packet_size(Some(256 * 1024)).set_outgoing_inflight_upper_limit(16);
    AsyncClient::new(options, 64)
}
