//! A verifier as `verifier init` lays it out, with a real broker on a free port, and clients of that broker.

use std::{
    fs,
    hash::{BuildHasher as _, RandomState},
    net::TcpListener,
    path::PathBuf,
};

use appraisal::UnixSeconds;
use evidence::{claims::DeviceId, topic::Name};
use rcgen::{KeyPair, PKCS_ECDSA_P256_SHA256, PublicKeyData as _};
use tempfile::TempDir;
use tokio::sync::watch;
use verifier::{
    certificates::{BrokerCa, ConnectionKey},
    config::{Broker, Config},
    init::{Plan, init},
    mqtt::{Inbox, Link, Outgoing, Publisher},
    serve::now,
};

pub(crate) struct Installation {
    pub(crate) config: Config,
    pub(crate) dir: PathBuf,
    ca: BrokerCa,
    _parent: TempDir,
}

/// A port that nobody uses, below those that the kernel hands out for outgoing connections; tests that run side by side
/// begin to look at different places.
fn free_port() -> u16 {
    let draw = RandomState::new().hash_one(()) as u16 % 20_000;
    (0..20_000)
        .map(|step| 10_000 + (draw + step) % 20_000)
        .find(|port| TcpListener::bind(("127.0.0.1", *port)).is_ok())
        .unwrap()
}

impl Installation {
    pub(crate) fn make() -> Self {
        let parent = tempfile::tempdir().unwrap();
        let port = free_port();
        let plan = Plan {
            dir: parent.path().join("verifier"),
            name: Name::new("v1").unwrap(),
            broker: ("localhost".to_owned(), port),
            http: "127.0.0.1:0".parse().unwrap(),
            now: now(),
        };
        let dir = init(&plan).unwrap();
        let config = Config::load(Some(&dir.join("verifier.toml")), []).unwrap();
        let ca = BrokerCa::load(&config.broker.ca, &config.broker.ca_key).unwrap().unwrap();
        Self { config, dir, ca, _parent: parent }
    }

    /// Credentials of a device, as enrolment hands them out.
    pub(crate) fn device(&self, id: &DeviceId, now: UnixSeconds) -> Broker {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap();
        let connection = ConnectionKey::read(&key.subject_public_key_info()).unwrap();
        let [certificate, key_file] = ["pem", "key"].map(|kind| self.dir.join(format!("device-{id}.{kind}")));
        fs::write(&certificate, self.ca.device(id, &connection, now).unwrap()).unwrap();
        fs::write(&key_file, key.serialize_pem()).unwrap();
        Broker { certificate, key: key_file, ..self.config.broker.clone() }
    }

    /// The shared credentials for enrolment.
    pub(crate) fn enrol(&self) -> Broker {
        let [certificate, key] = ["enrol.pem", "enrol.key"].map(|name| self.dir.join("broker").join(name));
        Broker { certificate, key, ..self.config.broker.clone() }
    }
}

/// Both connections of one client. Names: `{client}` receives, `{client}-out` publishes.
pub(crate) struct Client {
    inbox: Inbox,
    publisher: Publisher,
    _connected: watch::Receiver<bool>,
}

impl Client {
    pub(crate) async fn connect(broker: &Broker, client: &str, filters: &[&str]) -> Self {
        let link = Link::new(broker, client.to_owned()).unwrap();
        let (inbox, mut connected) = link.receive(filters.iter().map(|&filter| filter.to_owned()).collect());
        let publisher = link.publish();
        connected.wait_for(|up| *up).await.unwrap();
        publisher.connected().wait_for(|up| *up).await.unwrap();
        Self { inbox, publisher, _connected: connected }
    }

    pub(crate) async fn publish(&self, topic: &str, payload: &[u8]) {
        assert!(self.try_publish(topic, payload).await, "{topic}");
    }

    /// Whether it could be handed to the connection; without one it could not.
    pub(crate) async fn try_publish(&self, topic: &str, payload: &[u8]) -> bool {
        let message = Outgoing { topic: topic.to_owned(), payload: payload.to_vec() };
        self.publisher.publish(vec![message]).await == 0
    }

    /// The next message, topic and payload.
    pub(crate) async fn next(&mut self) -> (String, Vec<u8>) {
        let got = self.inbox.receive(1).await;
        self.inbox.acknowledge(&got);
        let message = got.first().expect("a message");
        (message.topic().unwrap().to_owned(), message.payload().to_vec())
    }
}
