//! What `run` and `once` have in common: in go events of link, worker and clock, out go hellos and evidence, and what the
//! verifiers said. One thread; nothing here waits for the TPM, and every queue is bounded.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::Result;
use attester::config::Config;
use evidence::{
    challenge::{Hello, Refusal},
    claims::{DeviceId, Nonce, Nonces, Why},
    topic::{DownKind, DownTopic, UpTopic},
    verifier_message::VerifierKeyId,
};
use tokio::sync::mpsc;

use crate::{
    attest::{Attach, Made},
    enrolment::Enrolled,
    exchange::{Accepted, Exchange, Ignored, Make},
    link::{Endpoint, Link, LinkEvent, Trouble, Up},
    pinned::Pinned,
    positions::Positions,
    shown,
    state::StateDir,
    status::{Said, Status, timestamp, unix_now},
    told,
    worker::{Due, Worker},
};

/// File that `attester once` locks while it has the device's connection.
pub(crate) const TURN: &str = "turn";
/// Events that wait: messages of eight verifiers, and the worker's.
pub(crate) const EVENTS: usize = 32;

/// What can happen.
pub(crate) enum Event {
    /// On the link.
    Link(LinkEvent),
    /// An attestation is due.
    Due(Due),
    /// Evidence was made, or not.
    Made {
        /// For which verifier.
        verifier: VerifierKeyId,
        /// For which nonce.
        nonce: Nonce,
        /// The message.
        made: Result<Arc<Made>>,
    },
    /// The program shall end.
    Stop,
}

impl From<LinkEvent> for Event {
    fn from(event: LinkEvent) -> Self {
        Self::Link(event)
    }
}

impl From<Due> for Event {
    fn from(due: Due) -> Self {
        Self::Due(due)
    }
}

/// What an event led to, for whoever runs the session.
pub(crate) enum News {
    /// Nothing to tell.
    None,
    /// A verifier judged.
    Judged {
        /// Its name.
        verifier: String,
        /// What it said.
        said: Box<Said>,
    },
    /// A verifier refused the evidence.
    Refused {
        /// Its name.
        verifier: String,
        /// Why.
        refusal: Refusal,
    },
    /// No connection; the next try comes after the pause.
    Down(Trouble, Duration),
    /// Evidence could not be made.
    Failed(anyhow::Error),
    /// The program shall end.
    Stop,
}

/// The conversations with all verifiers over one link.
pub(crate) struct Session {
    state: StateDir,
    worker: Worker,
    device: DeviceId,
    exchanges: Vec<Exchange>,
    link: Link,
    up: Option<Up>,
    events: mpsc::Sender<Event>,
    status: Status,
    attest_every: Duration,
}

impl Session {
    /// Connects as the enrolled device.
    pub(crate) fn open(
        config: &Config,
        state: &StateDir,
        worker: &Worker,
        enrolled: &Enrolled,
        endpoint: Endpoint,
        events: mpsc::Sender<Event>,
    ) -> Result<Self> {
        let pinned = Pinned::all(config, state)?;
        let link = Link::open(endpoint, events.clone());
        let now = Instant::now();
        let exchange = |verifier: Pinned| Exchange::new(verifier, enrolled.device, now);
        let exchanges: Vec<_> = pinned.into_iter().map(exchange).collect();
        let mut status = Status::load(state)?;
        let device = enrolled.device.to_string();
        status
            .verifiers
            .retain(|name, _| status.device == device && exchanges.iter().any(|e| e.verifier.name.as_str() == name));
        status.device = device;
        Ok(Self {
            state: state.clone(),
            worker: worker.clone(),
            device: enrolled.device,
            exchanges,
            link,
            up: None,
            events,
            status,
            attest_every: config.attest_every,
        })
    }

    /// Connects anew, with new credentials.
    pub(crate) fn reconnect(&mut self, endpoint: Endpoint) {
        self.down();
        self.link = Link::open(endpoint, self.events.clone());
    }

    /// An attestation is due, with all verifiers.
    pub(crate) fn attest(&mut self, why: Why) {
        let now = Instant::now();
        for exchange in &mut self.exchanges {
            let hello = if self.up.is_some() { exchange.want(why, now) } else { exchange.want_later(why) };
            hello_if(self.up.as_ref(), self.device, exchange, hello);
        }
        self.status.next_check = Some(timestamp((unix_now() + self.attest_every).as_secs()));
    }

    /// When [`Self::overdue`] has to be called, if nothing happens before.
    pub(crate) fn until(&self) -> Option<Instant> {
        self.up.as_ref()?;
        self.exchanges.iter().filter_map(Exchange::until).min()
    }

    /// Asks again where no answer came.
    pub(crate) fn overdue(&mut self) {
        let now = Instant::now();
        for exchange in &mut self.exchanges {
            let hello = exchange.overdue(now);
            hello_if(self.up.as_ref(), self.device, exchange, hello);
        }
    }

    /// Whether some verifier owes a result.
    pub(crate) fn is_busy(&self) -> bool {
        self.exchanges.iter().any(Exchange::is_busy)
    }

    /// Keeps the status for `attester status`.
    pub(crate) fn keep_status(&mut self) {
        self.status.backlog = self.exchanges.iter().filter(|exchange| exchange.is_busy()).count();
        self.status.keep(&self.state);
    }

    /// Says goodbye to the broker.
    pub(crate) async fn close(mut self) {
        if let Some(up) = self.up.take() {
            up.disconnect();
            // The link's task has to run once for the packet to leave.
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        self.keep_status();
    }

    /// Acts on an event.
    pub(crate) fn handle(&mut self, event: Event) -> News {
        match event {
            Event::Link(LinkEvent::Up(up)) => {
                tracing::info!("connected");
                self.up = Some(up);
                self.status.trouble = None;
                let now = Instant::now();
                for exchange in &mut self.exchanges {
                    let hello = exchange.connected(now);
                    hello_if(self.up.as_ref(), self.device, exchange, hello);
                }
                News::None
            }
            Event::Link(LinkEvent::Down(trouble, pause)) => {
                self.down();
                self.status.trouble = Some(trouble.to_string());
                News::Down(trouble, pause)
            }
            Event::Link(LinkEvent::Message { topic, payload }) => self.message(&topic, &payload),
            Event::Due(Due(why)) => {
                self.attest(why);
                News::None
            }
            Event::Made { verifier, nonce, made } => self.made(&verifier, &nonce, made),
            Event::Stop => News::Stop,
        }
    }

    fn down(&mut self) {
        self.up = None;
        self.exchanges.iter_mut().for_each(Exchange::disconnected);
    }

    fn message(&mut self, topic: &str, payload: &[u8]) -> News {
        let Some(DownTopic::Device(device, name, kind)) = DownTopic::parse(topic) else {
            tracing::debug!("a message on an unknown topic");
            return News::None;
        };
        let named = |exchange: &Exchange| device == self.device && exchange.verifier.name == name;
        let Some(index) = self.exchanges.iter().position(named) else { return News::None };
        let handled = match kind {
            DownKind::Request => self.challenge(index, payload),
            DownKind::Result => self.result(index, payload),
            DownKind::Refusal => self.refusal(index, payload),
        };
        handled.unwrap_or_else(|ignored| {
            tracing::debug!(verifier = %name, ?kind, "ignored: {ignored}");
            News::None
        })
    }

    fn challenge(&mut self, index: usize, payload: &[u8]) -> Result<News, Ignored> {
        if let Some(make) = self.exchanges[index].challenge(payload, Instant::now())? {
            self.make(index, make);
        }
        Ok(News::None)
    }

    fn result(&mut self, index: usize, payload: &[u8]) -> Result<News, Ignored> {
        let now = Instant::now();
        let exchange = &mut self.exchanges[index];
        let Accepted { result, held, incomplete } = exchange.result(payload, now)?;
        if let Err(error) = Positions::keep(&self.state, &exchange.verifier.id, held) {
            tracing::warn!("{}", told(&error));
        }
        let hello = exchange.next(now);
        hello_if(self.up.as_ref(), self.device, exchange, hello);
        let verifier = exchange.verifier.name.to_string();
        let said = Said::from_result(&result);
        tracing::info!(%verifier, verdict = said.verdict.name(), expires = %said.expires, incomplete, "judged");
        for cause in &said.causes {
            tracing::info!(%verifier, "{}: {}", cause.code, shown(&cause.detail));
        }
        self.status.verifiers.insert(verifier.clone(), said.clone());
        self.keep_status();
        Ok(News::Judged { verifier, said: Box::new(said) })
    }

    fn refusal(&mut self, index: usize, payload: &[u8]) -> Result<News, Ignored> {
        let exchange = &mut self.exchanges[index];
        let refusal = exchange.refusal(payload, Instant::now())?;
        let verifier = exchange.verifier.name.to_string();
        tracing::warn!(%verifier, code = shown(&refusal.code), "refused: {}", shown(&refusal.why));
        Ok(News::Refused { verifier, refusal })
    }

    /// Has evidence made; it comes back as an event.
    fn make(&self, index: usize, Make { nonce, why }: Make) {
        let verifier = self.exchanges[index].verifier.id;
        let max_message = self.up.as_ref().map_or(0, |up| up.max_message);
        // Read anew each time: another program of this device may have attested meanwhile.
        let held = Positions::load(&self.state).map(|positions| positions.of(&verifier)).unwrap_or_default();
        let attach = Attach::Missing(held, max_message);
        let (worker, events) = (self.worker.clone(), self.events.clone());
        tokio::spawn(async move {
            let made = worker.call(move |attester| {
                let nonces = Nonces::new(vec![nonce]).ok_or_else(|| anyhow::anyhow!("one nonce"))?;
                attester.evidence(nonces, why, &attach)
            });
            let made = made.await.and_then(|made| made).map(Arc::new);
            // Nobody listens any more: the program ends.
            drop(events.send(Event::Made { verifier, nonce, made }).await);
        });
    }

    fn made(&mut self, verifier: &VerifierKeyId, nonce: &Nonce, made: Result<Arc<Made>>) -> News {
        let now = Instant::now();
        let Some(index) = self.exchanges.iter().position(|exchange| exchange.verifier.id == *verifier) else {
            return News::None;
        };
        if let Some(make) = self.exchanges[index].newer() {
            self.make(index, make);
            return News::None;
        }
        match made {
            Ok(made) => {
                if self.exchanges[index].made(nonce, &made, now)
                    && let Some(up) = &self.up
                {
                    tracing::debug!(bytes = made.message.len(), "evidence");
                    up.publish(&UpTopic::Evidence(self.device), made.message.clone());
                }
                News::None
            }
            Err(error) => {
                tracing::error!("no evidence: {}", told(&error));
                self.exchanges[index].failed(nonce, now);
                News::Failed(error)
            }
        }
    }
}

/// Where and as whom an enrolled device connects.
pub(crate) fn endpoint(config: &Config, enrolled: &Enrolled) -> Result<Endpoint> {
    let (broker, pinned) = (&config.brokers[0], crate::pinned::check(config)?);
    let device = enrolled.device.to_string();
    let filters = pinned.iter().map(|verifier| format!("cs/1/{device}/down/{}/+", verifier.name)).collect();
    Endpoint::new(broker, &device, &enrolled.credentials, filters)
}

fn hello_if(up: Option<&Up>, device: DeviceId, exchange: &Exchange, why: Option<Why>) {
    if let (Some(up), Some(why)) = (up, why) {
        tracing::debug!(verifier = %exchange.verifier.name, why = why.name(), "hello");
        let hello = evidence::cbor::encode(&Hello::new(why));
        up.publish(&UpTopic::Hello(device, exchange.verifier.name.clone()), hello);
    }
}
