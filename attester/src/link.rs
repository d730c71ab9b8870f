//! The connection to the broker: in go credentials and topics, out come events of one MQTT 5 connection after another.
//!
//! Each connection is a new one with a clean session and a client of its own: the library forgets what is queued when a
//! session is gone, and repeats what the broker refuses. Nothing is queued here for later; who uses the link says again
//! what it needs whenever the link is up. What comes in is bounded by the packet size announced to the broker.

use std::{
    fs::{self, File, OpenOptions, TryLockError},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use attester::config::Broker;
use evidence::limits::MAX_MESSAGE;
use rumqttc::{
    TlsConfiguration, Transport,
    v5::{
        AsyncClient, ConnectionError, Event as MqttEvent, EventLoop, MqttOptions, StateError, TlsError,
        mqttbytes::{
            self, QoS,
            v5::{ConnectReturnCode, DisconnectReasonCode, Filter, Packet, Publish, SubAck, SubscribeReasonCode},
        },
    },
};
use rustls::{
    AlertDescription, ClientConfig, RootCertStore,
    client::Resumption,
    crypto::ring::default_provider,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _},
    sign::CertifiedKey,
    version::TLS13,
};
use tokio::{
    sync::mpsc,
    task::JoinHandle,
    time::{sleep, timeout},
};

use crate::{Usage, state::jitter};

/// Time between two signs of life. Half-open connections are noticed after one and a half of it; shorter wakes the device
/// for nothing.
const KEEP_ALIVE: Duration = Duration::from_secs(240);
/// Time for TCP, TLS and CONNECT together: slow links exist.
const CONNECT_WITHIN: u64 = 30;
/// Room for topic and properties around a message in one packet.
const PACKET_AROUND_MESSAGE: u32 = 1024;
/// What a PUBLISH has beside topic and payload: type, length, identifier, no properties (MQTT 5 §3.3).
const PACKET_HEADER: usize = 16;
/// Messages that are sent and not acknowledged: a hello and evidence for each of eight verifiers. The library's default
/// would preallocate 14 MB.
const IN_FLIGHT: u16 = 16;
/// What the library takes before it sends: the subscriptions and as many messages as are in flight.
const QUEUE: usize = 32;
/// First pause after a connection that failed; doubled each time.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
/// Longest pause.
const LONGEST_PAUSE: Duration = Duration::from_secs(300);
/// A connection that lasted as long is no reason for a longer pause than the first.
const LASTED: Duration = Duration::from_secs(60);
/// Pause between two looks whether another program of this device still has its turn.
const TURN_PAUSE: Duration = Duration::from_secs(1);
/// Pause after a program with this device's id connected from elsewhere: else both would take turns in throwing each
/// other out.
const PAUSE_FOR_OTHERS: Duration = Duration::from_secs(90);

/// One's own side of a TLS connection.
#[derive(Debug, Clone)]
pub(crate) struct Credentials {
    /// PEM certificate chain.
    pub(crate) certificate: Vec<u8>,
    /// Private key.
    pub(crate) key: Arc<PrivateKeyDer<'static>>,
}

impl Credentials {
    /// From PEM files.
    pub(crate) fn read(certificate: &Path, key: &Path) -> Result<Self> {
        let wrong = |what: &str, path: &Path, error: &dyn std::fmt::Display| {
            Usage(format!("`broker.{what}` {}: {error}", path.display()))
        };
        let chain = fs::read(certificate).map_err(|error| wrong("certificate", certificate, &error))?;
        let private = PrivateKeyDer::from_pem_file(key).map_err(|error| wrong("key", key, &error))?;
        Ok(Self { certificate: chain, key: Arc::new(private) })
    }

    /// Whether certificate and key belong together, and TLS takes them.
    pub(crate) fn fit(&self) -> bool {
        let chain = self.chain();
        chain.is_ok_and(|chain| CertifiedKey::from_der(chain, self.key.clone_key(), &default_provider()).is_ok())
    }

    fn chain(&self) -> Result<Vec<CertificateDer<'static>>> {
        let chain = CertificateDer::pem_slice_iter(&self.certificate).collect::<Result<_, _>>();
        chain.context("the certificate for the broker does not read")
    }
}

/// Where to connect, and as whom.
#[derive(Clone)]
pub(crate) struct Endpoint {
    options: MqttOptions,
    filters: Vec<String>,
    place: String,
    turn: Option<PathBuf>,
}

impl Endpoint {
    /// TLS 1.3 to the configured broker, verified by its CA alone.
    pub(crate) fn new(broker: &Broker, client: &str, credentials: &Credentials, filters: Vec<String>) -> Result<Self> {
        let tls = tls(broker, credentials)?;
        let transport = Transport::tls_with_config(TlsConfiguration::Rustls(Arc::new(tls)));
        let options = options(client, &broker.host, broker.port, transport);
        Ok(Self { options, filters, place: broker.place(), turn: None })
    }

    /// Does not connect while another program holds `turn`: a device has one connection at a time, and the broker drops
    /// the older one.
    pub(crate) fn after_others(mut self, turn: PathBuf) -> Self {
        self.turn = Some(turn);
        self
    }

    /// Waits until no other program holds the turn.
    async fn wait_for_turn(&self) {
        while let Some(turn) = &self.turn {
            match File::open(turn).map(|file| file.try_lock_shared()) {
                Ok(Err(TryLockError::WouldBlock)) => sleep(TURN_PAUSE).await,
                // Nobody has ever taken it.
                _ => return,
            }
        }
    }
}

fn options(client: &str, host: &str, port: u16, transport: Transport) -> MqttOptions {
    let mut options = MqttOptions::new(client, host, port);
    options.set_transport(transport);
    options.set_keep_alive(KEEP_ALIVE).set_clean_start(true).set_connection_timeout(CONNECT_WITHIN);
    let packet = u32::try_from(MAX_MESSAGE).unwrap_or(u32::MAX).saturating_add(PACKET_AROUND_MESSAGE);
    options.set_max_packet_size(Some(packet)).set_receive_maximum(Some(IN_FLIGHT));
    options.set_outgoing_inflight_upper_limit(IN_FLIGHT);
    let mut network = options.network_options();
    network.set_tcp_nodelay(true);
    options.set_network_options(network);
    options
}

/// Locks a file, which it makes where there is none; `None` where another program has it. Unlocked when it is closed.
pub(crate) fn take_lock(path: &Path) -> Result<Option<File>> {
    let file = OpenOptions::new().create(true).append(true).mode(0o600).open(path);
    let file = file.with_context(|| format!("cannot open {}", path.display()))?;
    match file.try_lock() {
        Ok(()) => Ok(Some(file)),
        Err(TryLockError::WouldBlock) => Ok(None),
        Err(TryLockError::Error(error)) => Err(error).with_context(|| format!("cannot lock {}", path.display())),
    }
}

/// TLS 1.3, verified by the configured CA alone.
pub(crate) fn tls(broker: &Broker, credentials: &Credentials) -> Result<ClientConfig> {
    let wrong = |error: &dyn std::fmt::Display| Usage(format!("`broker.ca` {}: {error}", broker.ca.display()));
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_file_iter(&broker.ca).map_err(|error| wrong(&error))? {
        roots.add(certificate.map_err(|error| wrong(&error))?).map_err(|error| wrong(&error))?;
    }
    if roots.is_empty() {
        return Err(wrong(&"no certificate there").into());
    }
    let mut config = ClientConfig::builder_with_provider(Arc::new(default_provider()))
        .with_protocol_versions(&[&TLS13])?
        .with_root_certificates(roots)
        .with_client_auth_cert(credentials.chain()?, credentials.key.clone_key())
        .context("certificate and key for the broker do not fit each other")?;
    // There is one broker.
    config.resumption = Resumption::in_memory_sessions(1);
    Ok(config)
}

/// What happens on the link.
pub(crate) enum LinkEvent {
    /// Connected and subscribed.
    Up(Up),
    /// A message arrived.
    Message {
        /// Its topic.
        topic: String,
        /// Its content.
        payload: Vec<u8>,
        /// Whether the broker had kept it, rather than passed it on.
        kept: bool,
    },
    /// No connection, for this reason; the next try comes after the pause.
    Down(Trouble, Duration),
}

/// A connection that can be sent on.
#[derive(Clone)]
pub(crate) struct Up {
    client: AsyncClient,
    /// Largest message that the broker takes.
    pub(crate) max_message: usize,
    /// Largest packet that it takes.
    max_packet: usize,
}

/// A message that the broker does not take.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a message of {bytes} bytes was not sent: the broker takes {limit}; raise its limit for packets to 105 KiB")]
pub(crate) struct TooLarge {
    /// The packet's size.
    bytes: usize,
    /// What the broker announced.
    limit: usize,
}

impl Up {
    /// Hands a message to the connection. It may get lost with it: whoever needs an answer waits for that.
    ///
    /// # Errors
    /// A message that the broker would not take. It is set aside: the library would break the connection over it, each
    /// time anew.
    pub(crate) fn publish(&self, topic: &impl ToString, payload: Vec<u8>) -> Result<(), TooLarge> {
        let topic = topic.to_string();
        let bytes = payload.len() + topic.len() + PACKET_HEADER;
        if bytes > self.max_packet {
            return Err(TooLarge { bytes, limit: self.max_packet });
        }
        if let Err(error) = self.client.try_publish(topic, QoS::AtLeastOnce, false, payload) {
            tracing::debug!("not sent: {error}");
        }
        Ok(())
    }

    /// Says goodbye to the broker.
    pub(crate) fn disconnect(&self) {
        if let Err(error) = self.client.try_disconnect() {
            tracing::debug!("not sent: {error}");
        }
    }
}

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Trouble {
    /// No broker answers there.
    #[error("no broker answers at {place}: {why}. Does it run, is `broker.address` right, is there a network?")]
    Unreachable {
        /// Where.
        place: String,
        /// What the system said.
        why: String,
    },
    /// The broker's certificate does not do.
    #[error(
        "{place} does not prove that it is the broker: {why}. Is `broker.ca` the CA of its certificate, does \
         `broker.address` have the name in it, is this device's clock right?"
    )]
    NotTheBroker {
        /// Where.
        place: String,
        /// What is wrong.
        why: String,
    },
    /// The broker does not take our certificate.
    #[error(
        "the broker at {place} refuses this device's certificate: {why}. Is it this broker's, has it expired? `attester \
         enrol` gets a new one with the credentials in `[broker]`"
    )]
    Refused {
        /// Where.
        place: String,
        /// What it said.
        why: String,
    },
    /// Connected, but not let read.
    #[error("the broker at {place} does not let this device read its topics ({why}): see the broker's access rules")]
    Unsubscribed {
        /// Where.
        place: String,
        /// What it said.
        why: String,
    },
    /// The same client id connected elsewhere.
    #[error("another program with this device's id connected to {0}")]
    TakenOver(String),
    /// Anything else.
    #[error("the connection to {place} broke: {why}")]
    Broken {
        /// Where.
        place: String,
        /// What happened.
        why: String,
    },
}

impl Trouble {
    /// Whether other credentials may help.
    pub(crate) const fn is_about_credentials(&self) -> bool {
        matches!(self, Self::Refused { .. })
    }
}

/// A running link; ends when it is dropped.
pub(crate) struct Link(JoinHandle<()>);

impl Drop for Link {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Link {
    /// Connects, and connects again, until it is dropped. Events come in order; who does not take them stops the link.
    /// `tell` makes the listener's events of them.
    pub(crate) fn open<E>(
        endpoint: Endpoint,
        events: mpsc::Sender<E>,
        tell: impl Fn(LinkEvent) -> E + Send + Sync + 'static,
    ) -> Self
    where
        E: Send + 'static,
    {
        Self(tokio::spawn(async move {
            let mut pause = FIRST_PAUSE;
            loop {
                endpoint.wait_for_turn().await;
                let began = Instant::now();
                let Err(trouble) = connection(&endpoint, &events, &tell).await else { return };
                if began.elapsed() >= LASTED {
                    pause = FIRST_PAUSE;
                }
                let wait = match trouble {
                    Trouble::TakenOver(_) => jitter(PAUSE_FOR_OTHERS, 0.8),
                    _ => jitter(pause, 0.5),
                };
                pause = (pause * 2).min(LONGEST_PAUSE);
                if events.send(tell(LinkEvent::Down(trouble, wait))).await.is_err() {
                    return;
                }
                sleep(wait).await;
            }
        }))
    }
}

/// One connection from its beginning to its end; `Ok` where nobody listens to events any more.
async fn connection<E>(
    endpoint: &Endpoint,
    events: &mpsc::Sender<E>,
    tell: &(impl Fn(LinkEvent) -> E + Sync),
) -> Result<(), Trouble> {
    let (client, mut mqtt) = AsyncClient::new(endpoint.options.clone(), QUEUE);
    let filters = endpoint.filters.iter().map(|filter| Filter::new(filter.as_str(), QoS::AtLeastOnce));
    let place = endpoint.place.as_str();
    let broken = |why: &str| Trouble::Broken { place: place.to_owned(), why: why.to_owned() };
    client.try_subscribe_many(filters).map_err(|error| broken(&error.to_string()))?;
    let mut up = Up { client, max_message: MAX_MESSAGE, max_packet: usize::MAX };
    let mut subscribed = false;
    loop {
        // Once subscribed, the library's signs of life tell whether anybody is there.
        let patience = if subscribed { Duration::MAX } else { Duration::from_secs(CONNECT_WITHIN) };
        let packet = timeout(patience, next_packet(&mut mqtt)).await.map_err(|_| broken("it does not subscribe us"))?;
        let event = match packet.map_err(|error| diagnose(place, &error))? {
            Packet::ConnAck(connected) => {
                let limit = connected.properties.and_then(|properties| properties.max_packet_size);
                up.max_packet = limit.and_then(|limit| usize::try_from(limit).ok()).unwrap_or(usize::MAX);
                up.max_message = up.max_packet.min(MAX_MESSAGE);
                continue;
            }
            Packet::SubAck(answer) => {
                check_subscribed(place, &answer)?;
                subscribed = true;
                LinkEvent::Up(up.clone())
            }
            Packet::Publish(publish) => message(publish).map_err(broken)?,
            _ => continue,
        };
        if events.send(tell(event)).await.is_err() {
            return Ok(());
        }
    }
}

async fn next_packet(mqtt: &mut EventLoop) -> Result<Packet, ConnectionError> {
    loop {
        if let MqttEvent::Incoming(packet) = mqtt.poll().await? {
            return Ok(packet);
        }
    }
}

fn check_subscribed(place: &str, answer: &SubAck) -> Result<(), Trouble> {
    match answer.return_codes.iter().find(|code| !matches!(code, SubscribeReasonCode::Success(_))) {
        None => Ok(()),
        Some(code) => Err(Trouble::Unsubscribed { place: place.to_owned(), why: format!("{code:?}") }),
    }
}

/// The library remembers an alias for each topic that a broker gives one, without asking whether that was allowed.
fn message(publish: Publish) -> Result<LinkEvent, &'static str> {
    if publish.properties.as_ref().is_some_and(|properties| properties.topic_alias.is_some()) {
        return Err("the broker uses topic aliases that nobody allowed it");
    }
    let topic = String::from_utf8(publish.topic.to_vec()).map_err(|_| "a topic is not UTF-8")?;
    Ok(LinkEvent::Message { topic, payload: publish.payload.to_vec(), kept: publish.retain })
}

/// Says what a failure means, and what to do.
fn diagnose(place: &str, error: &ConnectionError) -> Trouble {
    let place = place.to_owned();
    if let Some(tls) = find_tls(error) {
        let why = tls.to_string();
        return match tls {
            rustls::Error::AlertReceived(alert) if is_about_our_certificate(*alert) => Trouble::Refused { place, why },
            rustls::Error::InvalidCertificate(_) => Trouble::NotTheBroker { place, why },
            _ => Trouble::Broken { place, why },
        };
    }
    let why = error.to_string();
    match error {
        ConnectionError::Io(error) => Trouble::Unreachable { place, why: error.to_string() },
        ConnectionError::Timeout(_) => Trouble::Unreachable { place, why: "no answer in time".to_owned() },
        ConnectionError::ConnectionRefused(
            ConnectReturnCode::NotAuthorized
            | ConnectReturnCode::BadUserNamePassword
            | ConnectReturnCode::ClientIdentifierNotValid,
        ) => Trouble::Refused { place, why },
        ConnectionError::MqttState(StateError::ServerDisconnect {
            reason_code: DisconnectReasonCode::SessionTakenOver,
            ..
        }) => Trouble::TakenOver(place),
        _ => Trouble::Broken { place, why },
    }
}

const fn is_about_our_certificate(alert: AlertDescription) -> bool {
    matches!(
        alert,
        AlertDescription::BadCertificate
            | AlertDescription::UnsupportedCertificate
            | AlertDescription::CertificateRevoked
            | AlertDescription::CertificateExpired
            | AlertDescription::CertificateUnknown
            | AlertDescription::CertificateRequired
            | AlertDescription::UnknownCA
            | AlertDescription::AccessDenied
    )
}

/// The TLS library's error, wherever it stands: in TLS 1.3 a refused certificate shows when the first packet is read.
fn find_tls(error: &ConnectionError) -> Option<&rustls::Error> {
    let io = match error {
        ConnectionError::Tls(TlsError::TLS(error)) => return Some(error),
        ConnectionError::Tls(TlsError::Io(error))
        | ConnectionError::Io(error)
        | ConnectionError::MqttState(
            StateError::Io(error) | StateError::Deserialization(mqttbytes::Error::Io(error)),
        ) => error,
        _ => return None,
    };
    io.get_ref()?.downcast_ref()
}

#[cfg(test)]
mod tests;
