//! A verifier with its brokers as they run, and whoever connects to them: in go an installation and certificates, out come
//! strangers that enrol, devices that are enrolled, and whoever else says something on a topic.

use std::{
    fs,
    io::{Read as _, Write as _},
    net::TcpStream,
    path::Path,
    sync::{Arc, Mutex},
    time::Duration,
};

use devices::{
    deployment::{PRODUCT, program, succeeded},
    site::{Site, eventually},
    software::{Attach, SoftwareDevice},
    software_ek::{Ca, SoftwareEk, p256_point},
};
use evidence::{
    challenge::{Challenge, Hello},
    claims::{DeviceId, Nonce, Why},
    enrolment::{Activation, Answer, Down, Outcome, Presentation, Secret, Up},
    pcr::sha256,
    result::AttestationResult,
    tpm::{AkPublic, P256Point},
    verifier_keys::VerifierKeys,
    verifier_message::{Purpose, VerifierKeyId},
};
use rumqttc::{
    TlsConfiguration, Transport,
    v5::{
        AsyncClient, Event, MqttOptions,
        mqttbytes::{
            QoS,
            v5::{Filter, LastWill, Packet},
        },
    },
};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, SubjectPublicKeyInfoDer, pem::PemObject as _};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::Value;
use tokio::{
    sync::{mpsc, watch},
    task::AbortHandle,
    time::timeout,
};
use verifier::{config::Config, serve::now};

/// The verifier's name.
pub(crate) const VERIFIER: &str = "demo";
/// How long anything may take before a test gives up: far beyond what it takes.
const LONG: Duration = Duration::from_secs(60);
/// How long until a question is asked again that may have been lost.
const ASK_AGAIN: Duration = Duration::from_secs(2);
/// Seconds of an epoch: none ends within a test.
const EPOCH: u32 = 3600;
/// Messages that may wait for the connection.
const QUEUE: usize = 16 * 1024;

/// A certificate with its key, and the CA of the broker.
#[derive(Clone)]
pub(crate) struct Credentials {
    pub(crate) certificate: Vec<u8>,
    pub(crate) key: Vec<u8>,
    ca: Vec<u8>,
    port: u16,
}

/// A running installation.
pub(crate) struct Field {
    pub(crate) site: Site,
    pub(crate) root: P256Point,
    pub(crate) ca: Ca,
    config: Config,
}

impl Field {
    /// Everything runs.
    pub(crate) fn start() -> Self {
        let mut field = Self::laid_out();
        field.site.serve().unwrap();
        field
    }

    /// The brokers run, the verifier does not yet.
    pub(crate) fn laid_out() -> Self {
        Self::laid_out_as(VERIFIER)
    }

    /// The same for a verifier with another name.
    pub(crate) fn laid_out_as(name: &str) -> Self {
        let mut field = Self::at(Site::lay_out_as(name, EPOCH).unwrap());
        field.site.start_brokers().unwrap();
        field
    }

    /// Two verifiers at the brokers of the first.
    pub(crate) fn laid_out_beside_each_other(neighbour: &str) -> (Self, Self) {
        let first = Site::lay_out_as(VERIFIER, EPOCH).unwrap();
        let second = first.beside(neighbour, EPOCH).unwrap();
        let mut first = Self::at(first);
        first.site.start_brokers().unwrap();
        (first, Self::at(second))
    }

    fn at(site: Site) -> Self {
        let key = SubjectPublicKeyInfoDer::from_pem_file(site.dir.join("verifier.pub.pem")).unwrap();
        let root = p256_point(&key).unwrap();
        let ca = Ca::new().unwrap();
        fs::write(site.dir.join("ek_roots/software/tests-ca.pem"), ca.pem()).unwrap();
        let config = Config::load(Some(&site.dir.join("verifier.toml")), []).unwrap();
        Self { site, root, ca, config }
    }

    fn file(&self, name: &str) -> Vec<u8> {
        fs::read(self.site.dir.join("broker").join(name)).unwrap()
    }

    /// The shared certificate of who enrols.
    pub(crate) fn enrolment(&self) -> Credentials {
        Credentials {
            certificate: self.file("enrol.pem"),
            key: self.file("enrol.key"),
            ca: self.file("ca.pem"),
            port: self.site.ports().enrolment,
        }
    }

    /// The verifier's own, at the port for services.
    pub(crate) fn service(&self) -> Credentials {
        let read = |path: &Path| fs::read(path).unwrap();
        let broker = &self.config.broker;
        Credentials {
            certificate: read(&broker.certificate),
            key: read(&broker.key),
            ca: self.file("ca.pem"),
            port: broker.port,
        }
    }

    /// What `verifier COMMAND` says and ends with.
    pub(crate) fn command(&self, arguments: &[&str]) -> std::process::Output {
        let config = self.site.dir.join("verifier.toml");
        program("verifier").unwrap().args(arguments).arg("--config").arg(config).output().unwrap()
    }

    /// A command that must succeed.
    pub(crate) fn order(&self, arguments: &[&str]) {
        succeeded(&arguments.join(" "), &self.command(arguments)).unwrap();
    }

    pub(crate) fn approve(&self, id: &DeviceId) {
        self.order(&["approve", &id.to_string(), "--product", PRODUCT]);
    }

    /// Puts a copy of the store in its place, as `docs/operations.md` has it. The verifier must not run.
    pub(crate) fn restore(&self, copy: &Path) {
        let store = self.config.store();
        for end in ["", "-wal", "-shm"] {
            let file = store.with_file_name(format!("store.sqlite{end}"));
            if file.exists() {
                fs::remove_file(file).unwrap();
            }
        }
        fs::copy(copy, store).unwrap();
    }

    /// HTTP status of a GET.
    pub(crate) fn status(&self, path: &str) -> u16 {
        let token = fs::read_to_string(self.site.dir.join("api-token")).unwrap();
        let mut stream = TcpStream::connect(self.config.http.listen).unwrap();
        let head = format!(
            "GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nAuthorization: Bearer {}\r\n\r\n",
            token.trim()
        );
        stream.write_all(head.as_bytes()).unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).unwrap();
        let line = String::from_utf8_lossy(&answer[..answer.len().min(64)]).into_owned();
        line.split(' ').nth(1).unwrap().parse().unwrap()
    }

    pub(crate) fn device(&self, id: &DeviceId) -> Value {
        self.site.get(&format!("/v1/devices/{id}")).unwrap()
    }

    /// Codes of its causes.
    pub(crate) fn causes(&self, id: &DeviceId) -> Vec<String> {
        let device = self.device(id);
        let causes = device["causes"].as_array().unwrap();
        causes.iter().map(|cause| cause["code"].as_str().unwrap().to_owned()).collect()
    }

    /// How many devices are registered.
    pub(crate) fn registered(&self) -> u64 {
        self.site.get("/v1/devices").unwrap()["total"].as_u64().unwrap()
    }

    /// Waits until a counter, summed over the lines with all these words, has reached this.
    pub(crate) fn counted(&self, words: &[&str], least: f64) {
        eventually(&format!("{words:?} counted {least} times"), || Ok(self.site.counter(words)? >= least)).unwrap();
    }

    /// A device with a software TPM, enrolled and connected.
    pub(crate) async fn enrolled(&self) -> Device {
        self.enrolled_with(SoftwareDevice::new()).await.0
    }

    /// The same with this attestation key, and the activation that proved it.
    pub(crate) async fn enrolled_with(&self, mut device: SoftwareDevice) -> (Device, Activation) {
        let ek = SoftwareEk::new(&self.ca).unwrap();
        device.keys.device = DeviceId(sha256(&ek.spki()));
        let connection = rcgen::KeyPair::generate().unwrap();
        let mut stranger = Stranger::connect(self, &name()).await;
        let presentation = presented(&ek, &device.keys.ak, &connection);
        let activation = stranger.activation(presentation, &device.keys, ek).await;
        let Answer::Outcome(Outcome::Enrolled { device: id, certificate, .. }) =
            stranger.say(&Up::Activate(activation.clone())).await
        else {
            panic!("not enrolled")
        };
        assert_eq!(id, device.keys.device);
        let credentials = Credentials {
            certificate: certificate.into_bytes(),
            key: connection.serialize_pem().into_bytes(),
            ca: self.file("ca.pem"),
            port: self.site.ports().devices,
        };
        let (party, keys) = Party::of_device(self, &credentials, &id).await;
        (Device { software: device, party, keys, credentials }, activation)
    }
}

/// A name that no other client of these tests has.
pub(crate) fn name() -> String {
    let random: [u8; 8] = ring::rand::generate(&ring::rand::SystemRandom::new()).unwrap().expose();
    format!("d-{}", data_encoding::HEXLOWER.encode(&random))
}

/// Waits for the next second: generations and approvals are told apart by seconds.
pub(crate) async fn next_second() {
    let second = now();
    while now() == second {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// What a device with this endorsement key presents.
pub(crate) fn presented(ek: &SoftwareEk, ak: &AkPublic, connection: &rcgen::KeyPair) -> Presentation {
    let nonce = ring::rand::generate(&ring::rand::SystemRandom::new()).unwrap().expose();
    let connection = rcgen::PublicKeyData::subject_public_key_info(connection);
    Presentation::new(nonce, vec![ek.certificate.clone()], vec![ek.public_area()], ak.area(), connection)
}

/// One connection to a broker.
pub(crate) struct Party {
    client: AsyncClient,
    messages: mpsc::UnboundedReceiver<(String, Vec<u8>)>,
    heard: Arc<Mutex<Vec<Vec<u8>>>>,
    /// Why the connection ended.
    pub(crate) ended: watch::Receiver<Option<String>>,
    task: AbortHandle,
}

impl Drop for Party {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Party {
    /// Connected and subscribed.
    pub(crate) async fn connect(credentials: &Credentials, client: &str, filters: &[&str]) -> Self {
        Self::try_connect(credentials, client, filters).await.expect("the broker lets it in")
    }

    /// The same, or why the broker does not let it in.
    pub(crate) async fn try_connect(credentials: &Credentials, client: &str, filters: &[&str]) -> Result<Self, String> {
        let (client, mut mqtt) = AsyncClient::new(credentials.options(client), QUEUE);
        let filters: Vec<_> = filters.iter().map(|filter| Filter::new(*filter, QoS::AtLeastOnce)).collect();
        let (to_messages, messages) = mpsc::unbounded_channel();
        let heard = Arc::new(Mutex::new(Vec::new()));
        let hears = Arc::clone(&heard);
        let (end, mut ended) = watch::channel(None);
        let (up, mut is_up) = watch::channel(false);
        let subscriber = client.clone();
        let task = tokio::spawn(async move {
            let why = loop {
                match mqtt.poll().await {
                    Ok(Event::Incoming(Packet::ConnAck(_))) if filters.is_empty() => drop(up.send(true)),
                    Ok(Event::Incoming(Packet::ConnAck(_))) => drop(subscriber.try_subscribe_many(filters.clone())),
                    Ok(Event::Incoming(Packet::SubAck(_))) => drop(up.send(true)),
                    Ok(Event::Incoming(Packet::Publish(publish))) => {
                        let topic = String::from_utf8_lossy(&publish.topic).into_owned();
                        hears.lock().unwrap().push(publish.payload.to_vec());
                        drop(to_messages.send((topic, publish.payload.to_vec())));
                    }
                    Ok(_) => {}
                    Err(error) => break error.to_string(),
                }
            };
            drop(end.send(Some(why)));
        });
        let party = Self { client, messages, heard, ended: ended.clone(), task: task.abort_handle() };
        tokio::select! {
            up = timeout(LONG, is_up.wait_for(|up| *up)) => {
                if up.expect("an answer of the broker in time").is_ok() { return Ok(party) }
                let why = ended.borrow_and_update().clone();
                Err(why.unwrap_or_default())
            }
            why = async { ended.wait_for(Option::is_some).await.map(|why| why.clone()) } => {
                Err(why.ok().flatten().unwrap_or_default())
            }
        }
    }

    async fn of_device(field: &Field, credentials: &Credentials, id: &DeviceId) -> (Self, VerifierKeys) {
        let filters = [format!("cs/1/{id}/down/{VERIFIER}/#"), format!("cs/1/keys/{VERIFIER}")];
        let mut party = Self::connect(credentials, &id.to_string(), &filters.each_ref().map(String::as_str)).await;
        let keys = party.keys(&field.root).await;
        (party, keys)
    }

    /// The verifier's keys, which the broker has retained.
    pub(crate) async fn keys(&mut self, root: &P256Point) -> VerifierKeys {
        let message = self.next_on(&format!("cs/1/keys/{VERIFIER}")).await;
        VerifierKeys::open_by_root(root, &message).expect("keys by the root")
    }

    /// Connects with a last will, and dies.
    pub(crate) async fn die_with_will(credentials: &Credentials, client: &str, topic: &str, will: &[u8]) {
        let mut options = credentials.options(client);
        options.set_last_will(LastWill::new(topic, will.to_vec(), QoS::AtLeastOnce, true, None));
        let (_client, mut mqtt) = AsyncClient::new(options, QUEUE);
        // Connected or not let in; the socket is closed without a goodbye.
        drop(timeout(LONG, mqtt.poll()).await.expect("an answer of the broker in time"));
    }

    /// Whether a message with this payload has come on any topic.
    pub(crate) fn heard(&self, payload: &[u8]) -> bool {
        self.heard.lock().unwrap().iter().any(|known| known == payload)
    }

    pub(crate) async fn publish(&self, topic: &str, payload: &[u8]) {
        drop(self.client.publish(topic, QoS::AtLeastOnce, false, payload.to_vec()).await);
    }

    pub(crate) async fn retain(&self, topic: &str, payload: &[u8]) {
        drop(self.client.publish(topic, QoS::AtLeastOnce, true, payload.to_vec()).await);
    }

    /// The next message.
    pub(crate) async fn next(&mut self) -> (String, Vec<u8>) {
        timeout(LONG, self.messages.recv()).await.expect("a message in time").expect("a connection")
    }

    /// The next message on this topic; others are passed over.
    pub(crate) async fn next_on(&mut self, topic: &str) -> Vec<u8> {
        loop {
            let (got, message) = self.next().await;
            if got == topic {
                return message;
            }
        }
    }
}

impl Credentials {
    /// The same at another port.
    pub(crate) fn at(&self, port: u16) -> Self {
        Self { port, ..self.clone() }
    }

    fn options(&self, client: &str) -> MqttOptions {
        let mut roots = rustls::RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(&self.ca).unwrap()).unwrap();
        let chain = CertificateDer::pem_slice_iter(&self.certificate).collect::<Result<Vec<_>, _>>().unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let tls = rustls::ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])
            .unwrap()
            .with_root_certificates(roots)
            .with_client_auth_cert(chain, PrivateKeyDer::from_pem_slice(&self.key).unwrap())
            .unwrap();
        let mut options = MqttOptions::new(client, "localhost", self.port);
        options.set_transport(Transport::tls_with_config(TlsConfiguration::Rustls(Arc::new(tls))));
        options.set_max_packet_size(Some(4 * 1024 * 1024)).set_outgoing_inflight_upper_limit(100);
        options
    }
}

/// Somebody at the enrolment broker.
pub(crate) struct Stranger {
    pub(crate) party: Party,
    name: String,
    keys: VerifierKeys,
    root: P256Point,
}

impl Stranger {
    pub(crate) async fn connect(field: &Field, name: &str) -> Self {
        let filters = [format!("cs/1/enrol/{name}/down/{VERIFIER}"), format!("cs/1/keys/{VERIFIER}")];
        let mut party = Party::connect(&field.enrolment(), name, &filters.each_ref().map(String::as_str)).await;
        let keys = party.keys(&field.root).await;
        Self { party, name: name.to_owned(), keys, root: field.root }
    }

    /// Says something, and waits for the answer to it.
    pub(crate) async fn say(&mut self, up: &Up) -> Answer {
        let nonce = match up {
            Up::Present(presentation) => presentation.client_nonce,
            Up::Activate(activation) => activation.presentation.client_nonce,
        };
        let (topic, answers) =
            (format!("cs/1/enrol/{}/up", self.name), format!("cs/1/enrol/{}/down/{VERIFIER}", self.name));
        for _ in 0..LONG.as_secs() / ASK_AGAIN.as_secs() {
            self.party.publish(&topic, &up.encode()).await;
            // Bridges between brokers lose what is sent while they connect.
            while let Ok(message) = timeout(ASK_AGAIN, self.party.next_on(&answers)).await {
                let down: Down = self.keys.open(Purpose::Enrolment, &message).expect("signed by the verifier");
                if down.client_nonce == nonce {
                    return down.answer;
                }
            }
        }
        panic!("the verifier does not answer a stranger")
    }

    /// The code that it is refused with.
    pub(crate) async fn refusal(&mut self, up: &Up) -> String {
        match self.say(up).await {
            Answer::Outcome(Outcome::Refused { code, .. }) => code,
            other => panic!("not refused: {other:?}"),
        }
    }

    /// The proof that a TPM with this endorsement key holds the attestation key.
    pub(crate) async fn activation(
        &mut self,
        presentation: Presentation,
        keys: &evidence::envelope::DeviceKeys,
        ek: SoftwareEk,
    ) -> Activation {
        let name = keys.ak.name();
        self.activation_by(presentation, &keys.device, |credentials| vec![ek.activate(&credentials[0], &name).unwrap()])
            .await
    }

    /// The same by whatever opens credentials.
    pub(crate) async fn activation_by(
        &mut self,
        presentation: Presentation,
        device: &DeviceId,
        open: impl FnOnce(&[evidence::enrolment::Credential]) -> Vec<Secret>,
    ) -> Activation {
        let credentials = match self.say(&Up::Present(presentation.clone())).await {
            Answer::Credentials(credentials) => credentials,
            other => panic!("no credentials: {other:?}"),
        };
        let transcript = presentation.transcript(&VerifierKeyId::of(&self.root), device);
        let secrets = open(&credentials);
        Activation::prove(presentation, credentials, &transcript, &secrets)
    }
}

/// An enrolled device.
pub(crate) struct Device {
    pub(crate) software: SoftwareDevice,
    pub(crate) party: Party,
    pub(crate) keys: VerifierKeys,
    pub(crate) credentials: Credentials,
}

impl Device {
    /// Connects again.
    pub(crate) async fn again(self, field: &Field) -> Self {
        let id = self.id();
        drop(self.party);
        let (party, keys) = Party::of_device(field, &self.credentials, &id).await;
        Self { software: self.software, party, keys, credentials: self.credentials }
    }

    pub(crate) const fn id(&self) -> DeviceId {
        self.software.keys.device
    }

    pub(crate) async fn send(&self, branch: &str, payload: &[u8]) {
        self.party.publish(&format!("cs/1/{}/up/{branch}", self.id()), payload).await;
    }

    /// The next message of this kind, signed for this purpose.
    pub(crate) async fn expect<T: DeserializeOwned + Serialize>(&mut self, kind: &str, purpose: Purpose) -> T {
        let topic = format!("cs/1/{}/down/{VERIFIER}/{kind}", self.id());
        let message = self.party.next_on(&topic).await;
        self.keys.open(purpose, &message).expect("signed by the verifier")
    }

    /// A challenge, for the asking.
    pub(crate) async fn nonce(&mut self) -> Nonce {
        self.send(&format!("hello/{VERIFIER}"), &evidence::cbor::encode(&Hello::new(Why::Startup))).await;
        *self.expect::<Challenge>("request", Purpose::Request).await.nonce()
    }

    /// Attests for a challenge of its own, and waits for what that comes to.
    pub(crate) async fn attest(&mut self, attach: Attach) -> AttestationResult {
        let nonce = self.nonce().await;
        let message = self.software.attest(&[nonce], attach);
        self.result_of(&message, &nonce).await
    }

    /// Sends evidence, and waits for the result that answers it.
    pub(crate) async fn result_of(&mut self, message: &[u8], nonce: &Nonce) -> AttestationResult {
        self.send("evidence", message).await;
        loop {
            let result: AttestationResult = self.expect("result", Purpose::Result).await;
            if result.nonce == *nonce {
                return result;
            }
        }
    }
}
