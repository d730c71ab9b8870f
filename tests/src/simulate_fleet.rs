//! `simulate-fleet`: software devices that enrol and attest against a running verifier, over its broker, and the books of
//! what came back. Their keys are software, certified by a CA of the simulation; everything else is the real protocol.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::ExitCode,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use clap::{Parser, Subcommand};
use devices::{
    software::{Attach, SoftwareDevice},
    software_ek::{Ca, SoftwareEk, p256_point},
};
use evidence::{
    challenge::{Challenge, Hello},
    claims::{DeviceId, Why},
    enrolment::{Activation, Answer, Down, Outcome, Presentation, Up},
    pcr::sha256,
    result::{AttestationResult, Tier},
    topic::{DownKind, DownTopic, Name, UpTopic},
    tpm::P256Point,
    verifier_message::{self, Purpose, VerifierKeyId},
};
use rumqttc::{
    TlsConfiguration, Transport,
    v5::{
        AsyncClient, Event, EventLoop, MqttOptions,
        mqttbytes::{QoS, v5::Packet},
    },
};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, SubjectPublicKeyInfoDer, pem::PemObject as _};
use serde::Serialize;
use tokio::{task::JoinSet, time::timeout};

/// How long one step of one device may take.
const PATIENCE: Duration = Duration::from_secs(60);

#[derive(Parser)]
#[command(version, about = "Software devices against a running verifier")]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Makes the CA of the simulated TPMs; add its certificate with `verifier roots add FILE --software`.
    Ca {
        /// Folder for `simulated-ca.pem` and its key.
        dir: PathBuf,
    },
    /// Enrols devices and has each of them attest.
    Run(Run),
}

#[derive(clap::Args, Clone)]
struct Run {
    /// Folder that `simulate-fleet ca` made.
    #[arg(long)]
    ca: PathBuf,
    /// Folder that `verifier init` made.
    #[arg(long)]
    verifier: PathBuf,
    /// Broker, HOST:PORT.
    #[arg(long)]
    broker: String,
    /// Name of the verifier.
    #[arg(long, default_value = "verifier")]
    name: String,
    /// Number of devices.
    #[arg(long, default_value_t = 10)]
    devices: usize,
    /// Attestations of each device.
    #[arg(long, default_value_t = 1)]
    rounds: usize,
    /// Devices at a time.
    #[arg(long, default_value_t = 50)]
    at_a_time: usize,
}

/// What the devices say; compare it with what the verifier says.
#[derive(Debug, Default, Serialize)]
struct Books {
    enrolled: usize,
    results: usize,
    verdicts: BTreeMap<&'static str, usize>,
    failed: Vec<String>,
    seconds: f64,
}

fn main() -> ExitCode {
    let done = match Arguments::parse().command {
        Command::Ca { dir } => make_ca(&dir).map(|()| true),
        Command::Run(run) => simulate(&run),
    };
    match done {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("simulate-fleet: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn make_ca(dir: &Path) -> Result<()> {
    fs::create_dir_all(dir).with_context(|| format!("cannot make {}", dir.display()))?;
    let ca = Ca::new()?;
    for (name, content) in [("simulated-ca.pem", ca.pem()), ("simulated-ca.key", &ca.key_pem())] {
        fs::write(dir.join(name), content).with_context(|| format!("cannot write {name} to {}", dir.display()))?;
    }
    println!("{}", dir.join("simulated-ca.pem").display());
    Ok(())
}

fn simulate(run: &Run) -> Result<bool> {
    let fleet = Arc::new(Fleet::new(run)?);
    let began = Instant::now();
    let mut books = tokio::runtime::Builder::new_multi_thread().enable_all().build()?.block_on(all(&fleet, run))?;
    books.seconds = began.elapsed().as_secs_f64();
    println!("{}", serde_json::to_string_pretty(&books)?);
    Ok(books.failed.is_empty())
}

async fn all(fleet: &Arc<Fleet>, run: &Run) -> Result<Books> {
    let mut books = Books::default();
    let mut running = JoinSet::new();
    let mut begun = 0;
    while begun < run.devices || !running.is_empty() {
        if begun < run.devices && running.len() < run.at_a_time {
            let (fleet, rounds, number) = (Arc::clone(fleet), run.rounds, begun);
            running.spawn(async move { fleet.device(number, rounds).await });
            begun += 1;
            continue;
        }
        match running.join_next().await.context("a device is running")?? {
            Ok(tiers) => {
                books.enrolled += 1;
                books.results += tiers.len();
                for tier in tiers {
                    *books.verdicts.entry(tier.name()).or_default() += 1;
                }
            }
            Err(error) => books.failed.push(format!("{error:#}")),
        }
    }
    Ok(books)
}

/// What all devices share.
struct Fleet {
    ca: Ca,
    verifier: Name,
    verifier_key: P256Point,
    roots: Arc<rustls::RootCertStore>,
    enrol: (Vec<u8>, Vec<u8>),
    host: String,
    port: u16,
}

impl Fleet {
    fn new(run: &Run) -> Result<Self> {
        let read = |path: PathBuf| fs::read(&path).with_context(|| format!("cannot read {}", path.display()));
        let text = |path: PathBuf| read(path).and_then(|bytes| Ok(String::from_utf8(bytes)?));
        let broker = run.verifier.join("broker");
        let mut roots = rustls::RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(&read(broker.join("ca.pem"))?)?)?;
        let key = SubjectPublicKeyInfoDer::from_pem_file(run.verifier.join("verifier.pub.pem"))?;
        let (host, port) = run.broker.rsplit_once(':').context("--broker is HOST:PORT")?;
        Ok(Self {
            ca: Ca::from_pem(&text(run.ca.join("simulated-ca.pem"))?, &text(run.ca.join("simulated-ca.key"))?)?,
            verifier: Name::new(&run.name).context("--name is not a verifier's name")?,
            verifier_key: p256_point(&key).context("verifier.pub.pem is not a P-256 key")?,
            roots: Arc::new(roots),
            enrol: (read(broker.join("enrol.pem"))?, read(broker.join("enrol.key"))?),
            host: host.to_owned(),
            port: port.parse().context("--broker is HOST:PORT")?,
        })
    }

    /// The life of one device.
    async fn device(&self, number: usize, rounds: usize) -> Result<Vec<Tier>> {
        let ek = SoftwareEk::new(&self.ca)?;
        let mut device = SoftwareDevice::new();
        device.keys.device = DeviceId(sha256(&ek.spki()));
        let connection_key = rcgen::KeyPair::generate()?;
        let certificate = self.enrol(number, &device, ek, &connection_key).await.context("enrolment")?;
        device.run("/usr/sbin/simulated", [1; 32]);

        let id = device.keys.device;
        let key = connection_key.serialize_pem();
        let mut link = self.connect(&id.to_string(), certificate.as_bytes(), key.as_bytes())?;
        link.subscribe(&format!("cs/1/{id}/down/{}/#", self.verifier)).await?;
        let mut tiers = Vec::with_capacity(rounds);
        for round in 0..rounds {
            let attach = if round == 0 { Attach::LogsFrom(0) } else { Attach::Nothing };
            tiers.push(self.attest(&mut link, &mut device, attach).await.context("attestation")?);
        }
        link.client.disconnect().await?;
        Ok(tiers)
    }

    async fn enrol(
        &self,
        number: usize,
        device: &SoftwareDevice,
        ek: SoftwareEk,
        connection_key: &rcgen::KeyPair,
    ) -> Result<String> {
        let client = Name::new(&format!("simulated-{}-{number}", std::process::id())).context("a name")?;
        let mut link = self.connect(client.as_str(), &self.enrol.0, &self.enrol.1)?;
        link.subscribe(&DownTopic::Enrol(client.clone(), self.verifier.clone()).to_string()).await?;
        let nonce = random_nonce()?;
        let ak = &device.keys.ak;
        let presentation = Presentation::new(
            nonce,
            vec![ek.certificate.clone()],
            vec![ek.public_area()],
            ak.area(),
            rcgen::PublicKeyData::subject_public_key_info(connection_key),
        );
        let up = UpTopic::Enrol(client).to_string();
        link.publish(&up, Up::Present(presentation.clone()).encode()).await?;
        let credentials = match self.answer(&mut link, &nonce).await? {
            Answer::Credentials(credentials) => credentials,
            Answer::Outcome(outcome) => bail!("{outcome:?}"),
        };
        let secret = ek.activate(credentials.first().context("one credential")?, &ak.name())?;
        let transcript = presentation.transcript(&VerifierKeyId::of(&self.verifier_key), &device.keys.device);
        let activation = Activation::prove(presentation, credentials, &transcript, &[secret]);
        link.publish(&up, Up::Activate(activation).encode()).await?;
        match self.answer(&mut link, &nonce).await? {
            Answer::Outcome(Outcome::Enrolled { device: id, certificate, .. }) => {
                ensure!(id == device.keys.device, "enrolled under another id");
                link.client.disconnect().await?;
                Ok(certificate)
            }
            other => bail!("{other:?}"),
        }
    }

    async fn answer(&self, link: &mut Link, nonce: &[u8; 32]) -> Result<Answer> {
        loop {
            let (_, message) = link.message().await?;
            let down: Down = verifier_message::open(Purpose::Enrolment, &self.verifier_key, &message)?;
            if down.client_nonce == *nonce {
                return Ok(down.answer);
            }
        }
    }

    async fn attest(&self, link: &mut Link, device: &mut SoftwareDevice, attach: Attach) -> Result<Tier> {
        let id = device.keys.device;
        let hello = evidence::cbor::encode(&Hello::new(Why::Startup));
        link.publish(&UpTopic::Hello(id, self.verifier.clone()).to_string(), hello).await?;
        let mut asked_for = None;
        loop {
            let (topic, message) = link.message().await?;
            match DownTopic::parse(&topic) {
                Some(DownTopic::Device(_, _, DownKind::Request)) => {
                    let challenge: Challenge = verifier_message::open(Purpose::Request, &self.verifier_key, &message)?;
                    asked_for = Some(*challenge.nonce());
                    let evidence = device.attest(&[*challenge.nonce()], attach);
                    link.publish(&UpTopic::Evidence(id).to_string(), evidence).await?;
                }
                Some(DownTopic::Device(_, _, DownKind::Result)) => {
                    let result: AttestationResult =
                        verifier_message::open(Purpose::Result, &self.verifier_key, &message)?;
                    if Some(result.nonce) == asked_for {
                        return Ok(result.status);
                    }
                }
                Some(DownTopic::Device(_, _, DownKind::Refusal)) => {
                    let refusal: evidence::challenge::Refusal =
                        verifier_message::open(Purpose::Refusal, &self.verifier_key, &message)?;
                    bail!("refused: {}: {}", refusal.code, refusal.why);
                }
                _ => {}
            }
        }
    }

    fn connect(&self, client: &str, certificate: &[u8], key: &[u8]) -> Result<Link> {
        let chain = CertificateDer::pem_slice_iter(certificate).collect::<Result<Vec<_>, _>>()?;
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let tls = rustls::ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .with_root_certificates(Arc::clone(&self.roots))
            .with_client_auth_cert(chain, PrivateKeyDer::from_pem_slice(key)?)?;
        let mut options = MqttOptions::new(client, &self.host, self.port);
        options.set_transport(Transport::tls_with_config(TlsConfiguration::Rustls(Arc::new(tls))));
        options.set_max_packet_size(Some(256 * 1024)).set_outgoing_inflight_upper_limit(16);
        let (client, mqtt) = AsyncClient::new(options, 16);
        Ok(Link { client, mqtt })
    }
}

fn random_nonce() -> Result<[u8; 32]> {
    let random = ring::rand::generate(&ring::rand::SystemRandom::new());
    Ok(random.map_err(|_| anyhow::anyhow!("the system has no randomness"))?.expose())
}

struct Link {
    client: AsyncClient,
    mqtt: EventLoop,
}

impl Link {
    async fn subscribe(&mut self, filter: &str) -> Result<()> {
        self.client.subscribe(filter, QoS::AtLeastOnce).await?;
        while !matches!(self.packet().await?, Packet::SubAck(_)) {}
        Ok(())
    }

    async fn publish(&mut self, topic: &str, message: Vec<u8>) -> Result<()> {
        Ok(self.client.publish(topic, QoS::AtLeastOnce, false, message).await?)
    }

    async fn message(&mut self) -> Result<(String, Vec<u8>)> {
        loop {
            if let Packet::Publish(publish) = self.packet().await? {
                return Ok((String::from_utf8(publish.topic.to_vec())?, publish.payload.to_vec()));
            }
        }
    }

    async fn packet(&mut self) -> Result<Packet> {
        loop {
            let event = timeout(PATIENCE, self.mqtt.poll()).await.context("no answer in time")??;
            if let Event::Incoming(packet) = event {
                return Ok(packet);
            }
        }
    }
}
