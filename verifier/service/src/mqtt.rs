//! Two connections to the broker. Out of one come [`Message`]s, to be acknowledged by whoever has made them durable; into
//! the other go answers. Neither ends while the program runs: what the broker refuses is said once, with what to do, and
//! tried again.
//!
//! An acknowledgement names a packet id, which is worth nothing after a reconnect: the next connection may use it for
//! another message. So each connection has a number, and acknowledgements of earlier ones are dropped under one lock
//! with the change of number. Messages that nobody has looked at are bounded: where no more fit, none is read.
//! The broker is told how many may be unacknowledged (receive maximum, MQTT 5 §3.3.4), but mosquitto goes beyond that once it
//! has had to queue; so there is room for as many acknowledgements as there are packet ids, and neither side waits for the
//! other.
//!
//! What the broker retains for all devices is published first on every connection that answers go to, in one order: keys
//! before what they sign. A connection that ends takes along what was still to be retained; the next one begins with what
//! holds then, so that nothing old overwrites it.

use std::{
    io,
    path::Path,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use rumqttc::{
    NetworkOptions, Outgoing as Sent, TlsConfiguration, Transport,
    v5::{
        AsyncClient, ConnectionError, Event, EventLoop, MqttOptions, Request, StateError,
        mqttbytes::{
            QoS,
            v5::{ConnectReturnCode, Filter, Packet, Publish, SubAck, SubscribeReasonCode},
        },
    },
};
use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _},
    version::TLS13,
};
use thiserror::Error;
use tokio::{
    sync::{mpsc, watch},
    time::{sleep, timeout},
};

use crate::{
    config::Broker,
    init::PACKET_MARGIN,
    limits::{MAX_QUEUED_ANSWERS, MAX_UNACKNOWLEDGED},
};

const KEEP_ALIVE: Duration = Duration::from_secs(30);
/// How long the broker keeps what was not delivered while no process of this verifier is connected, seconds: a day, as
/// evidence answers challenges that last minutes, and enrolments are tried again.
const SESSION_EXPIRY: u32 = 24 * 3600;
const FIRST_WAIT: Duration = Duration::from_millis(100);
const LONGEST_WAIT: Duration = Duration::from_secs(10);
/// The same trouble is told again after this time.
const SAY_AGAIN: Duration = Duration::from_secs(60);
/// Answers that the broker has not confirmed; rumqttc reserves room for each.
const INFLIGHT_ANSWERS: u16 = 256;
/// How long answers wait for room before they are dropped: devices ask again.
const ROOM_WITHIN: Duration = Duration::from_secs(2);
/// Messages that can be unacknowledged at a time: their packet ids have 16 bits, and 0 is none.
const PACKET_IDS: usize = u16::MAX as usize;
/// Requests of our own beside acknowledgements: a subscription and a ping.
const OTHER_REQUESTS: usize = 8;

/// What the connections are made of cannot be used. Exit code 2 where a file is wrong.
#[derive(Debug, Error)]
pub enum LinkError {
    /// A certificate or key.
    #[error("{path}: {why}; `verifier init` makes certificates and keys for the broker")]
    File {
        /// Which file.
        path: String,
        /// What is wrong.
        why: String,
    },
    /// Certificate and key do not go together, or TLS refuses them.
    #[error("the verifier's certificate and key for the broker cannot be used: {0}")]
    Tls(#[from] rustls::Error),
}

/// TLS 1.3 with a client certificate, and nothing else.
fn tls(broker: &Broker) -> Result<Arc<ClientConfig>, LinkError> {
    let wrong = |path: &Path, why: &dyn std::fmt::Display| LinkError::File {
        path: path.display().to_string(),
        why: why.to_string(),
    };
    let certificates = |path: &Path| -> Result<Vec<_>, LinkError> {
        let found: Result<Vec<_>, _> = CertificateDer::pem_file_iter(path).and_then(Iterator::collect);
        found.map_err(|error| wrong(path, &error))
    };
    let mut roots = RootCertStore::empty();
    for certificate in certificates(&broker.ca)? {
        roots.add(certificate).map_err(|error| wrong(&broker.ca, &error))?;
    }
    let key = PrivateKeyDer::from_pem_file(&broker.key).map_err(|error| wrong(&broker.key, &error))?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&TLS13])?
        .with_root_certificates(roots)
        .with_client_auth_cert(certificates(&broker.certificate)?, key)?;
    Ok(Arc::new(config))
}

/// How to connect.
#[derive(Debug, Clone)]
pub struct Link {
    broker: Broker,
    tls: Arc<ClientConfig>,
    client_id: String,
}

impl Link {
    /// `client_id` must not be guessed: whoever connects with it ends this connection.
    ///
    /// # Errors
    /// [`LinkError`] names the file.
    pub fn new(broker: &Broker, client_id: String) -> Result<Self, LinkError> {
        Ok(Self { broker: broker.clone(), tls: tls(broker)?, client_id })
    }

    fn options(&self, suffix: &str) -> MqttOptions {
        let Broker { host, port, max_message_bytes, .. } = &self.broker;
        let mut options = MqttOptions::new(format!("{}{suffix}", self.client_id), host, *port);
        let mut network = NetworkOptions::new();
        network.set_tcp_nodelay(true);
        let max_packet = u32::try_from(max_message_bytes + PACKET_MARGIN).unwrap_or(u32::MAX);
        options
            .set_network_options(network)
            .set_transport(Transport::tls_with_config(TlsConfiguration::Rustls(Arc::clone(&self.tls))))
            .set_keep_alive(KEEP_ALIVE)
            .set_clean_start(false)
            .set_session_expiry_interval(Some(SESSION_EXPIRY))
            .set_max_packet_size(Some(max_packet));
        options
    }

    /// Opens the connection that messages come from, subscribed to `filters`. The receiver of `bool` says whether it
    /// stands.
    pub fn receive(&self, filters: Vec<String>) -> (Inbox, watch::Receiver<bool>) {
        let mut options = self.options("");
        options
            .set_manual_acks(true)
            .set_receive_maximum(u16::try_from(MAX_UNACKNOWLEDGED).ok())
            .set_outgoing_inflight_upper_limit(1);
        let (client, events) = AsyncClient::new(options, PACKET_IDS + OTHER_REQUESTS);
        let acknowledger = Acknowledger { client, connection: Arc::default() };
        let (to, from) = mpsc::channel(MAX_UNACKNOWLEDGED);
        let (connected, is_connected) = watch::channel(false);
        let reader = Reader {
            events,
            acknowledger: acknowledger.clone(),
            unacknowledged: 0,
            to,
            filters,
            trouble: Trouble::new(self, "receiving"),
            connected,
        };
        tokio::spawn(reader.run());
        (Inbox { from, acknowledger }, is_connected)
    }

    /// Opens the connection that answers go to.
    pub fn publish(&self) -> Publisher {
        let mut options = self.options("-out");
        options.set_outgoing_inflight_upper_limit(INFLIGHT_ANSWERS);
        let (client, mut events) = AsyncClient::new(options, MAX_QUEUED_ANSWERS);
        let (connected, is_connected) = watch::channel(false);
        let mut trouble = Trouble::new(self, "answering");
        let max_message = self.broker.max_message_bytes;
        let retained = Arc::new(Mutex::new(Retained::default()));
        let first = Arc::clone(&retained);
        tokio::spawn(async move {
            loop {
                let event = tokio::select! {
                    event = events.poll() => event,
                    // Nobody has anything to say any more: the program ends.
                    () = connected.closed() => return,
                };
                match event {
                    Ok(Event::Incoming(Packet::ConnAck(_))) => {
                        lock(&first).begin(&mut events);
                        trouble.over();
                        connected.send_replace(true);
                    }
                    Ok(_) => lock(&first).catch_up(&mut events),
                    Err(error) => {
                        lock(&first).end(&mut events);
                        connected.send_replace(false);
                        trouble.wait(trouble.advice(&error)).await;
                    }
                }
            }
        });
        Publisher { client, connected: is_connected, max_message, retained }
    }
}

/// What the broker keeps for whoever subscribes later, in the order of publishing.
#[derive(Debug, Default)]
struct Retained {
    messages: Vec<Outgoing>,
    connected: bool,
    /// Something new found no room in the queue.
    owed: bool,
}

impl Retained {
    /// A connection has come up: they go before everything that waits, and in the place of what an earlier connection
    /// did not get rid of.
    fn begin(&mut self, events: &mut EventLoop) {
        self.connected = true;
        self.owed = false;
        events.pending.retain(|request| !matches!(request, Request::Publish(publish) if publish.retain));
        for Outgoing { topic, payload } in self.messages.iter().rev() {
            let mut publish = Publish::new(topic.clone(), QoS::AtLeastOnce, payload.clone(), None);
            publish.retain = true;
            events.pending.push_front(Request::Publish(publish));
        }
    }

    fn catch_up(&mut self, events: &mut EventLoop) {
        if self.owed {
            self.begin(events);
        }
    }

    /// What is queued for the connection that has ended is taken out, so that [`Retained::begin`] finds it.
    fn end(&mut self, events: &mut EventLoop) {
        self.connected = false;
        events.clean();
    }
}

fn lock(retained: &Mutex<Retained>) -> MutexGuard<'_, Retained> {
    retained.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A message that nobody has looked at.
#[derive(Debug)]
pub struct Message {
    publish: Publish,
    connection: u64,
}

impl Message {
    #[cfg(test)]
    pub(crate) fn for_test(topic: &str, payload: &[u8]) -> Self {
        Self { publish: Publish::new(topic, QoS::AtLeastOnce, payload.to_vec(), None), connection: 0 }
    }

    /// Where it was published; `None` where that is not text.
    #[must_use]
    pub fn topic(&self) -> Option<&str> {
        std::str::from_utf8(&self.publish.topic).ok()
    }

    /// What was published.
    #[must_use]
    pub fn payload(&self) -> &[u8] {
        &self.publish.payload
    }
}

/// Where messages come from.
#[derive(Debug)]
pub struct Inbox {
    from: mpsc::Receiver<Message>,
    acknowledger: Acknowledger,
}

impl Inbox {
    /// Waits for a message, and takes what else is there, at most `limit`. Nothing: the connection has ended for good.
    pub async fn receive(&mut self, limit: usize) -> Vec<Message> {
        let mut batch = Vec::new();
        self.from.recv_many(&mut batch, limit).await;
        batch
    }

    /// Acknowledges in the order given, which must be that of arrival (MQTT 5 §4.6).
    pub fn acknowledge(&self, messages: &[Message]) {
        self.acknowledger.acknowledge(messages);
    }
}

/// Sends acknowledgements on the connection that the message came from, or not at all.
#[derive(Debug, Clone)]
struct Acknowledger {
    client: AsyncClient,
    connection: Arc<Mutex<u64>>,
}

impl Acknowledger {
    fn acknowledge(&self, messages: &[Message]) {
        let connection = self.connection.lock().unwrap_or_else(PoisonError::into_inner);
        for message in messages.iter().filter(|message| message.connection == *connection) {
            // There is room for one for each message that may be unacknowledged.
            drop(self.client.try_ack(&message.publish));
        }
    }

    fn connection(&self) -> u64 {
        *self.connection.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ends a connection: what it brought will come again, and what was to be acknowledged on it must not be on the next.
    fn next_connection(&self, events: &mut EventLoop) {
        let mut connection = self.connection.lock().unwrap_or_else(PoisonError::into_inner);
        *connection += 1;
        events.clean();
        events.state.events.clear();
        events.pending.clear();
    }
}

/// The receiving connection's own task.
struct Reader {
    events: EventLoop,
    acknowledger: Acknowledger,
    /// Messages of this connection whose acknowledgement has not been sent.
    unacknowledged: usize,
    to: mpsc::Sender<Message>,
    filters: Vec<String>,
    trouble: Trouble,
    connected: watch::Sender<bool>,
}

impl Reader {
    async fn run(mut self) {
        loop {
            let event = tokio::select! {
                event = self.events.poll() => event,
                () = self.to.closed() => return,
            };
            match event {
                Ok(Event::Incoming(Packet::ConnAck(_))) => self.subscribe(),
                Ok(Event::Incoming(Packet::SubAck(ack))) => self.check_subscription(&ack),
                Ok(Event::Incoming(Packet::Publish(publish))) => {
                    if publish.qos != QoS::AtMostOnce {
                        self.unacknowledged += 1;
                    }
                    if self.unacknowledged > PACKET_IDS {
                        let why =
                            "it sends more unacknowledged messages than there are packet ids; take another broker";
                        self.start_anew(why.to_owned()).await;
                        continue;
                    }
                    let message = Message { publish, connection: self.acknowledger.connection() };
                    if self.to.send(message).await.is_err() {
                        return;
                    }
                }
                Ok(Event::Outgoing(Sent::PubAck(_))) => self.unacknowledged = self.unacknowledged.saturating_sub(1),
                Ok(_) => {}
                Err(error) => self.start_anew(self.trouble.advice(&error)).await,
            }
        }
    }

    async fn start_anew(&mut self, why: String) {
        self.connected.send_replace(false);
        self.unacknowledged = 0;
        self.acknowledger.next_connection(&mut self.events);
        self.trouble.wait(why).await;
    }

    /// On each connection: the broker may have lost the session, or kept one that was subscribed to less.
    fn subscribe(&self) {
        let filters = self.filters.iter().map(|filter| Filter::new(filter.clone(), QoS::AtLeastOnce));
        if self.acknowledger.client.try_subscribe_many(filters).is_err() {
            tracing::error!("cannot subscribe: no room among the requests to the broker");
        }
    }

    fn check_subscription(&mut self, ack: &SubAck) {
        match ack.return_codes.iter().find(|code| !matches!(code, SubscribeReasonCode::Success(_))) {
            Some(code) => tracing::error!(
                "the broker refuses the subscription ({code:?}): it must let this verifier subscribe to {}",
                self.filters.join(" and ")
            ),
            None => {
                self.trouble.over();
                self.connected.send_replace(true);
            }
        }
    }
}

/// Where answers go.
#[derive(Debug, Clone)]
pub struct Publisher {
    client: AsyncClient,
    connected: watch::Receiver<bool>,
    max_message: usize,
    retained: Arc<Mutex<Retained>>,
}

/// A message to a device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outgoing {
    /// Where to.
    pub topic: String,
    /// What.
    pub payload: Vec<u8>,
}

impl Publisher {
    /// Whether the connection stands.
    #[must_use]
    pub fn connected(&self) -> watch::Receiver<bool> {
        self.connected.clone()
    }

    /// Has the broker retain these: published first on every connection from now on, in this order, and on the one that
    /// stands where they differ from those before.
    pub fn retain(&self, messages: Vec<Outgoing>) {
        let mut retained = lock(&self.retained);
        let before = std::mem::replace(&mut retained.messages, messages);
        if !retained.connected {
            return;
        }
        let mut new = retained.messages.iter().filter(|message| !before.contains(message));
        let publish = |Outgoing { topic, payload }: &Outgoing| {
            self.client.try_publish(topic.clone(), QoS::AtLeastOnce, true, payload.clone()).is_ok()
        };
        let sent = new.all(publish);
        retained.owed |= !sent;
    }

    /// Publishes in order, and returns how many could not be: without a connection or room in time they are dropped,
    /// for devices ask again.
    pub async fn publish(&self, answers: Vec<Outgoing>) -> usize {
        let mut patience = ROOM_WITHIN;
        let mut dropped = 0;
        for Outgoing { topic, payload } in answers {
            if payload.len() > self.max_message {
                tracing::error!(
                    "an answer of {} bytes is over `max_message_bytes` and is not sent: {topic}",
                    payload.len()
                );
                dropped += 1;
                continue;
            }
            let wait = if *self.connected.borrow() { patience } else { Duration::ZERO };
            let publish = self.client.publish(topic, QoS::AtLeastOnce, false, payload);
            if !matches!(timeout(wait, publish).await, Ok(Ok(()))) {
                patience = Duration::ZERO;
                dropped += 1;
            }
        }
        dropped
    }
}

/// Says what is wrong with a connection, and what to do; waits longer each time.
struct Trouble {
    place: String,
    user: String,
    /// Whether the broker is this program's child.
    spawned: bool,
    what: &'static str,
    wait: Duration,
    said: Option<(String, Instant)>,
}

impl Trouble {
    fn new(link: &Link, what: &'static str) -> Self {
        let Broker { host, port, certificate, spawn, .. } = &link.broker;
        let (place, user) = (format!("{host}:{port}"), certificate.display().to_string());
        Self { place, user, spawned: *spawn, what, wait: FIRST_WAIT, said: None }
    }

    fn over(&mut self) {
        if self.said.take().is_some() {
            tracing::info!("connected to the broker at {} for {}", self.place, self.what);
        }
        self.wait = FIRST_WAIT;
    }

    async fn wait(&mut self, advice: String) {
        let new = self.said.as_ref().is_none_or(|(said, at)| *said != advice || at.elapsed() > SAY_AGAIN);
        if new {
            tracing::warn!("broker at {}: {advice} (trying again)", self.place);
            self.said = Some((advice, Instant::now()));
        }
        sleep(self.wait).await;
        self.wait = (self.wait * 2).min(LONGEST_WAIT);
    }

    fn advice(&self, error: &ConnectionError) -> String {
        match error {
            ConnectionError::Io(error) | ConnectionError::Tls(rumqttc::TlsError::Io(error)) => self.advice_on_io(error),
            ConnectionError::MqttState(StateError::Io(error)) => self.advice_on_io(error),
            ConnectionError::Tls(error) => {
                format!("{error}: see that `ca`, `certificate` and `key` under [broker] are right")
            }
            ConnectionError::Timeout(_) => {
                "no answer in time: see that it runs and that no firewall is between".to_owned()
            }
            ConnectionError::ConnectionRefused(
                code @ (ConnectReturnCode::NotAuthorized
                | ConnectReturnCode::BadUserNamePassword
                | ConnectReturnCode::ClientIdentifierNotValid),
            ) => format!("it refuses the user of {} ({code:?}): see its list of users and topics", self.user),
            ConnectionError::ConnectionRefused(code) => format!("it refuses the connection: {code:?}"),
            ConnectionError::MqttState(StateError::ServerDisconnect { reason_code, .. }) => {
                format!(
                    "it ended the connection: {reason_code:?}; if another client uses the same client id, give each process a data folder of its own"
                )
            }
            ConnectionError::MqttState(StateError::ConnectionAborted) => "it closed the connection".to_owned(),
            error => error.to_string(),
        }
    }

    fn advice_on_io(&self, error: &io::Error) -> String {
        match error.kind() {
            io::ErrorKind::ConnectionRefused if self.spawned => {
                "nothing listens there yet: `serve` starts mosquitto, which says in the log what keeps it".to_owned()
            }
            io::ErrorKind::ConnectionRefused => {
                "nothing listens there: start the broker, or set `spawn = true` under [broker]".to_owned()
            }
            _ if error.get_ref().is_some_and(|inner| inner.is::<rustls::Error>()) => format!(
                "TLS failed ({error}): its certificate must come from the CA in `ca` and name its host, and it must trust {}",
                self.user
            ),
            _ => error.to_string(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_broker_refuses_is_told_with_what_to_do() {
        let trouble = Trouble {
            place: "h:1".to_owned(),
            user: "verifier.pem".to_owned(),
            spawned: false,
            what: "receiving",
            wait: FIRST_WAIT,
            said: None,
        };
        let refused = io::Error::from(io::ErrorKind::ConnectionRefused);
        let bad_certificate = rustls::Error::AlertReceived(rustls::AlertDescription::CertificateUnknown);
        for (error, part) in [
            (ConnectionError::Io(refused), "spawn = true"),
            (ConnectionError::MqttState(StateError::Io(io::Error::other(bad_certificate))), "CA in `ca`"),
            (ConnectionError::ConnectionRefused(ConnectReturnCode::NotAuthorized), "refuses the user of verifier.pem"),
        ] {
            let advice = trouble.advice(&error);
            assert!(advice.contains(part), "{advice}");
        }
    }
}
