//! What `run` and `once` have in common: in go events of links, worker and clock, out go hellos and evidence, and what the
//! verifiers said. One thread; nothing here waits for the TPM, and every queue is bounded.
//!
//! Verifiers are independent of each other, and some share a broker. One quote is made at a time: whose turn is next goes
//! round, and whoever holds the same log positions goes along in the same message.

use std::{
    collections::BTreeSet,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::Result;
use attester::config::Config;
use evidence::{
    challenge::{Hello, Refusal},
    claims::{DeviceId, Nonces, Why},
    limits::{MAX_MESSAGE, MAX_NONCES},
    topic::{BroadcastTopic, DownKind, DownTopic, Name, UpTopic},
};
use tokio::sync::mpsc;

use crate::{
    attest::{Attach, Made},
    enrolment::Enrolled,
    exchange::{Accepted, Arrival, Exchange, Ignored, Make, Manner, Sending},
    link::{Endpoint, Link, LinkEvent, Trouble, Up},
    pinned::{NotTrusted, Pinned},
    positions::{Held, Positions},
    shown,
    state::StateDir,
    status::{Said, Status, unix_now},
    told,
    worker::{Due, Worker},
};

/// File that `attester once` locks while it has the device's connections.
pub(crate) const TURN: &str = "turn";
/// Events that wait: messages of eight verifiers, and the worker's.
pub(crate) const EVENTS: usize = 32;

/// What can happen.
pub(crate) enum Event {
    /// On the link to a broker.
    Link(usize, LinkEvent),
    /// Word from the worker.
    Due(Due),
    /// Evidence was made, or not.
    Made(Result<Arc<Made>>),
    /// Enrolled at a broker, or not.
    Enrolled(usize, Result<Enrolled>),
    /// The program shall end.
    Stop,
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
    /// No connection to a broker; the next try comes after the pause.
    Down(usize, Trouble, Duration),
    /// Evidence could not be made.
    Failed(anyhow::Error),
    /// Enrolled at a broker, or not.
    Enrolled(usize, Result<Enrolled>),
    /// The program shall end.
    Stop,
}

/// The way to one broker.
struct Line {
    place: String,
    link: Option<Link>,
    up: Option<Up>,
}

/// The conversations with all verifiers.
pub(crate) struct Session {
    state: StateDir,
    worker: Worker,
    device: DeviceId,
    exchanges: Vec<Exchange>,
    /// By the broker's index in the configuration.
    lines: Vec<Line>,
    /// For whom evidence is being made, and what for.
    making: Vec<(usize, Make)>,
    /// Whose turn it is first.
    first: usize,
    events: mpsc::Sender<Event>,
    status: Status,
}

impl Session {
    /// Nothing connected yet. `goes_on`: the device attests of its own accord, again and again.
    pub(crate) fn open(
        config: &Config,
        state: &StateDir,
        worker: &Worker,
        device: DeviceId,
        goes_on: bool,
        events: mpsc::Sender<Event>,
    ) -> Result<Self> {
        let now = Instant::now();
        let manner = Manner { every: config.attest_every, results_always: config.results_always, goes_on };
        let exchange = |verifier: Pinned| Exchange::new(verifier, device, manner, now);
        let exchanges: Vec<_> = Pinned::all(config, state)?.into_iter().map(exchange).collect();
        let line = |broker: &attester::config::Broker| Line { place: broker.place(), link: None, up: None };
        let lines: Vec<_> = config.brokers.iter().map(line).collect();
        let mut status = Status::load(state)?;
        let is_verifier = |name: &str| exchanges.iter().any(|exchange| exchange.verifier.name.as_str() == name);
        status.begin(&device.to_string(), is_verifier, lines.iter().map(|line| line.place.as_str()));
        for exchange in &exchanges {
            let broker = &lines[exchange.verifier.broker].place;
            status.knows_keys(exchange.verifier.name.as_str(), broker, exchange.verifier.keys());
        }
        let (state, worker) = (state.clone(), worker.clone());
        Ok(Self { state, worker, device, exchanges, lines, making: Vec::new(), first: 0, events, status })
    }

    /// Connects to a broker, anew where there was a connection.
    pub(crate) fn connect(&mut self, broker: usize, endpoint: Endpoint) {
        self.down(broker);
        let tell = move |event| Event::Link(broker, event);
        self.lines[broker].link = Some(Link::open(endpoint, self.events.clone(), tell));
    }

    /// An attestation is due, with all verifiers.
    pub(crate) fn attest(&mut self, why: Why) {
        let now = Instant::now();
        self.exchanges.iter_mut().for_each(|exchange| exchange.want(why, now));
    }

    /// When [`Self::go_on`] has to be called, if nothing happens before.
    pub(crate) fn until(&mut self) -> Option<Instant> {
        let now = Instant::now();
        self.exchanges.iter_mut().filter_map(|exchange| exchange.until(now)).min()
    }

    /// Does what is due.
    pub(crate) fn go_on(&mut self) {
        let now = Instant::now();
        for exchange in &mut self.exchanges {
            if let Some(why) = exchange.turn(now)
                && let Some(up) = &self.lines[exchange.verifier.broker].up
            {
                tracing::debug!(verifier = %exchange.verifier.name, why = why.name(), "hello");
                let topic = UpTopic::Hello(self.device, exchange.verifier.name.clone());
                publish(up, &topic, evidence::cbor::encode(&Hello::new(why)));
            }
        }
        self.make_next(now);
    }

    /// Whether some verifier at the brokers that count owes a result.
    pub(crate) fn is_busy(&self, counts: impl Fn(usize) -> bool) -> bool {
        self.exchanges.iter().any(|exchange| exchange.is_busy() && counts(exchange.verifier.broker))
    }

    /// Keeps the status for `attester status`.
    pub(crate) fn keep_status(&mut self) {
        let now = Instant::now();
        self.bring_status_up_to(now);
        self.status.keep(&self.state, now);
    }

    fn bring_status_up_to(&mut self, now: Instant) {
        self.status.backlog = self.exchanges.iter().filter(|exchange| exchange.is_busy()).count();
        let next = self.exchanges.iter().map(|exchange| exchange.next_check(now)).min();
        self.status.next_check_at(next.map(|next| unix_now() + next.saturating_duration_since(now)));
    }

    /// Says goodbye to the brokers.
    pub(crate) async fn close(mut self) {
        let up: Vec<_> = self.lines.iter_mut().filter_map(|line| line.up.take()).collect();
        up.iter().for_each(Up::disconnect);
        if !up.is_empty() {
            // The links' tasks have to run once for the packets to leave.
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        let now = Instant::now();
        self.bring_status_up_to(now);
        self.status.keep_at_last(&self.state, now);
    }

    /// Acts on an event.
    pub(crate) fn handle(&mut self, event: Event) -> News {
        let news = match event {
            Event::Link(broker, LinkEvent::Up(up)) => {
                self.up(broker, up);
                News::None
            }
            Event::Link(broker, LinkEvent::Down(trouble, pause)) => {
                self.down(broker);
                self.status.disconnected(&self.lines[broker].place, trouble.to_string());
                News::Down(broker, trouble, pause)
            }
            Event::Link(broker, LinkEvent::Message { topic, payload, kept }) => {
                self.message(broker, &topic, &payload, kept)
            }
            Event::Due(Due::New) => {
                self.attest(Why::Event);
                News::None
            }
            Event::Due(Due::Failed(why)) => {
                self.alarm(format!("what runs cannot be measured: {why}"));
                News::None
            }
            Event::Made(made) => self.made(made),
            Event::Enrolled(broker, enrolled) => News::Enrolled(broker, enrolled),
            Event::Stop => News::Stop,
        };
        self.go_on();
        news
    }

    fn up(&mut self, broker: usize, up: Up) {
        let line = &mut self.lines[broker];
        tracing::info!(broker = line.place, "connected");
        self.status.connected(&line.place);
        line.up = Some(up);
        let now = Instant::now();
        self.at(broker).for_each(|exchange| exchange.connected(now));
        self.keep_status();
    }

    fn down(&mut self, broker: usize) {
        self.lines[broker].up = None;
        let now = Instant::now();
        self.at(broker).for_each(|exchange| exchange.disconnected(now));
    }

    /// The conversations over one broker.
    fn at(&mut self, broker: usize) -> impl Iterator<Item = &mut Exchange> {
        self.exchanges.iter_mut().filter(move |exchange| exchange.verifier.broker == broker)
    }

    /// Nothing is reported that is not measured: that it is so is seen here, and by the verifiers' missing it.
    fn alarm(&mut self, what: String) {
        tracing::error!("{what}");
        self.status.alarm(what);
        self.keep_status();
    }

    fn message(&mut self, broker: usize, topic: &str, payload: &[u8], kept: bool) -> News {
        let (name, down) = match (BroadcastTopic::parse(topic), DownTopic::parse(topic)) {
            (Some(BroadcastTopic::Epoch(name)), _) => (name, Incoming::Epoch(kept)),
            (Some(BroadcastTopic::Keys(name)), _) => (name, Incoming::Keys),
            (_, Some(DownTopic::Device(device, name, kind))) if device == self.device => (name, Incoming::Down(kind)),
            _ => {
                tracing::debug!("a message on an unknown topic");
                return News::None;
            }
        };
        // A verifier speaks at its own broker, and nobody in its name at another.
        let named = |exchange: &Exchange| exchange.verifier.broker == broker && exchange.verifier.name == name;
        let Some(index) = self.exchanges.iter().position(named) else { return News::None };
        let now = Instant::now();
        if !self.exchanges[index].listens(now) {
            tracing::debug!(verifier = %name, "more messages than are looked at");
            return News::None;
        }
        let handled = match down {
            Incoming::Keys => self.keys(index, payload, now),
            Incoming::Epoch(kept) => self.epoch(index, payload, kept, now),
            Incoming::Down(DownKind::Request) => self.exchanges[index].challenge(payload, now).map(|()| News::None),
            Incoming::Down(DownKind::Result) => self.result(index, payload, now),
            Incoming::Down(DownKind::Refusal) => self.refusal(index, payload, now),
        };
        handled.unwrap_or_else(|ignored| {
            // Without an operator nothing of this verifier counts any more.
            if matches!(ignored, Ignored::NotTrusted(NotTrusted::Expired { .. })) {
                tracing::warn!(verifier = %name, ?down, "ignored: {ignored}");
            } else {
                tracing::debug!(verifier = %name, ?down, "ignored: {ignored}");
            }
            News::None
        })
    }

    fn keys(&mut self, index: usize, payload: &[u8], now: Instant) -> Result<News, Ignored> {
        let exchange = &mut self.exchanges[index];
        let new = exchange.keys(payload, now).inspect_err(|ignored| {
            if !matches!(ignored, Ignored::NotTrusted(NotTrusted::Expired { .. })) {
                tracing::warn!(verifier = %exchange.verifier.name, "its keys do not count: {ignored}");
            }
        })?;
        if new {
            let verifier = &mut exchange.verifier;
            tracing::info!(verifier = %verifier.name, sequence = verifier.keys().map(|(sequence, _)| sequence), "keys");
            self.status.knows_keys(verifier.name.as_str(), &self.lines[verifier.broker].place, verifier.keys());
            self.keep_trust(index);
            self.keep_status();
        }
        Ok(News::None)
    }

    fn epoch(&mut self, index: usize, payload: &[u8], kept: bool, now: Instant) -> Result<News, Ignored> {
        let arrival = if kept { Arrival::Kept(unix_now().as_secs()) } else { Arrival::Live };
        self.exchanges[index].epoch(payload, arrival, now)?;
        if self.exchanges[index].verifier.time_moved() {
            self.keep_trust(index);
        }
        Ok(News::None)
    }

    fn keep_trust(&mut self, index: usize) {
        if let Err(error) = self.exchanges[index].verifier.keep(&self.state) {
            tracing::warn!("{}", told(&error));
        }
    }

    fn result(&mut self, index: usize, payload: &[u8], now: Instant) -> Result<News, Ignored> {
        let exchange = &mut self.exchanges[index];
        let Accepted { result, held, incomplete } = exchange.result(payload, now)?;
        if let Err(error) = Positions::keep(&self.state, &exchange.verifier.id, held) {
            tracing::warn!("{}", told(&error));
        }
        let verifier = exchange.verifier.name.to_string();
        let said = Said::from_result(&result);
        tracing::info!(%verifier, verdict = said.verdict.name(), expires = %said.expires, incomplete, "judged");
        for cause in &said.causes {
            tracing::info!(%verifier, "{}: {}", shown(&cause.code), shown(&cause.detail));
        }
        self.status.judged(&verifier, said.clone());
        self.keep_status();
        Ok(News::Judged { verifier, said: Box::new(said) })
    }

    fn refusal(&mut self, index: usize, payload: &[u8], now: Instant) -> Result<News, Ignored> {
        let exchange = &mut self.exchanges[index];
        let refusal = exchange.refusal(payload, now)?;
        let verifier = exchange.verifier.name.to_string();
        tracing::warn!(%verifier, code = shown(&refusal.code), "refused: {}", shown(&refusal.why));
        Ok(News::Refused { verifier, refusal })
    }

    /// Has the next evidence made, for one verifier and all that go along; it comes back as an event.
    fn make_next(&mut self, now: Instant) {
        if !self.making.is_empty() || self.exchanges.iter_mut().all(|exchange| exchange.ready(now).is_none()) {
            return;
        }
        // Read anew each time: another program of this device may have attested meanwhile.
        let positions = Positions::load(&self.state).unwrap_or_default();
        let Some(Group { held, why, members }) = next_group(&mut self.exchanges, &positions, self.first, now) else {
            return;
        };
        self.first = members.first().map_or(0, |(leader, _)| leader + 1);
        let nonces = members.iter().map(|(_, make)| make.nonce).collect();
        let limit = |(at, _): &(usize, Make)| self.lines[self.exchanges[*at].verifier.broker].up.as_ref();
        let max_message = members.iter().filter_map(limit).map(|up| up.max_message).min().unwrap_or(MAX_MESSAGE);
        let (worker, events) = (self.worker.clone(), self.events.clone());
        self.making = members;
        tokio::spawn(async move {
            let made = worker.call(move |attester| {
                let nonces = Nonces::new(nonces).ok_or_else(|| anyhow::anyhow!("one to eight nonces"))?;
                attester.evidence(nonces, why, &Attach::Missing(held, max_message))
            });
            let made = made.await.and_then(|made| made).map(Arc::new);
            // Nobody listens any more: the program ends.
            drop(events.send(Event::Made(made)).await);
        });
    }

    fn made(&mut self, made: Result<Arc<Made>>) -> News {
        let now = Instant::now();
        let members = std::mem::take(&mut self.making);
        let made = match made {
            Ok(made) => made,
            Err(error) => {
                for (at, make) in members {
                    self.exchanges[at].failed(&make.nonce, now);
                }
                self.alarm(format!("no evidence: {}", told(&error)));
                return News::Failed(error);
            }
        };
        self.status.all_clear();
        let mut brokers = BTreeSet::new();
        let mut silent = Vec::new();
        for (at, make) in members {
            let exchange = &mut self.exchanges[at];
            let sending = exchange.made(&make.nonce, &made, now);
            brokers.extend(sending.map(|_| exchange.verifier.broker));
            silent
                .extend(sending.filter(|sending| *sending == Sending::Silent).map(|_| exchange.verifier.name.clone()));
        }
        for broker in brokers {
            if let Some(up) = &self.lines[broker].up {
                tracing::debug!(bytes = made.message.len(), broker = self.lines[broker].place, "evidence");
                publish(up, &UpTopic::Evidence(self.device), made.message.clone());
            }
        }
        if !silent.is_empty() {
            silent.iter().for_each(|name: &Name| self.status.silent(name.as_str()));
            self.keep_status();
        }
        News::None
    }
}

/// Verifiers that one message is for.
struct Group {
    /// What each of them holds.
    held: Held,
    why: Why,
    members: Vec<(usize, Make)>,
}

/// For whom evidence is made next: the first verifier that is ready, from `first` on, and all that hold the same log
/// positions and go along.
fn next_group(exchanges: &mut [Exchange], positions: &Positions, first: usize, now: Instant) -> Option<Group> {
    let count = exchanges.len();
    let (leader, make) =
        (0..count).map(|nth| (first + nth) % count).find_map(|at| Some((at, exchanges[at].ready(now)?)))?;
    let why = make.why;
    let held = positions.of(&exchanges[leader].verifier.id);
    let mut members = vec![(leader, make)];
    for (at, exchange) in exchanges.iter_mut().enumerate() {
        if at != leader
            && members.len() < MAX_NONCES
            && positions.of(&exchange.verifier.id) == held
            && let Some(nonce) = exchange.goes_along(why, now)
            && members.iter().all(|(_, member)| member.nonce != nonce)
        {
            members.push((at, Make { nonce, why }));
        }
    }
    for (at, make) in &members {
        exchanges[*at].making(*make, now);
    }
    Some(Group { held, why, members })
}

/// What a verifier's message is.
#[derive(Debug, Clone, Copy)]
enum Incoming {
    Keys,
    Epoch(bool),
    Down(DownKind),
}

/// Where and as whom an enrolled device connects to one of its brokers.
pub(crate) fn endpoint(config: &Config, broker: usize, enrolled: &Enrolled) -> Result<Endpoint> {
    let device = enrolled.device.to_string();
    let mut filters = Vec::new();
    for verifier in crate::pinned::check(config)?.into_iter().filter(|verifier| verifier.broker == broker) {
        let name = verifier.name;
        // Keys first: what else comes is opened with them.
        filters.push(BroadcastTopic::Keys(name.clone()).to_string());
        filters.push(format!("cs/1/{device}/down/{name}/+"));
        filters.push(BroadcastTopic::Epoch(name).to_string());
    }
    Endpoint::new(&config.brokers[broker], &device, &enrolled.credentials, filters)
}

fn publish(up: &Up, topic: &UpTopic, message: Vec<u8>) {
    if let Err(error) = up.publish(topic, message) {
        tracing::error!("{error}");
    }
}

#[cfg(test)]
mod tests {
    use evidence::{challenge::Challenge, epoch::Epoch, result::Acknowledged, verifier_message::Purpose};

    use super::*;
    use crate::{
        pinned::testing::{SEQUENCE, Verifier},
        positions::Shown,
    };

    const DEVICE: DeviceId = DeviceId([9; 32]);
    const MANNER: Manner = Manner { every: Duration::from_secs(3600), results_always: false, goes_on: true };

    /// Connected verifiers, each with an epoch that is not answered yet, and what each holds.
    struct Field {
        verifiers: Vec<Verifier>,
        exchanges: Vec<Exchange>,
        state: StateDir,
        now: Instant,
        _dir: tempfile::TempDir,
    }

    impl Field {
        fn new(runtime: &[u64]) -> Self {
            let (dir, now) = (tempfile::tempdir().unwrap(), Instant::now());
            let state = StateDir::open(dir.path()).unwrap();
            let verifiers: Vec<_> = runtime.iter().map(|_| Verifier::new()).collect();
            let mut exchanges = Vec::new();
            for (at, verifier) in verifiers.iter().enumerate() {
                let mut exchange = Exchange::new(verifier.pinned(&format!("v{at}")), DEVICE, MANNER, now);
                exchange.connected(now);
                let nonce = [at as u8; 32];
                let epoch = Epoch { number: SEQUENCE + 1, period: 3600, nonce, closed: None };
                exchange.epoch(&verifier.seal(Purpose::Epoch, &epoch), Arrival::Live, now).unwrap();
                let acknowledged = Acknowledged { runtime: runtime[at], ..Acknowledged::default() };
                Positions::keep(&state, &exchange.verifier.id, Held::after(&acknowledged, &Shown::default(), false))
                    .unwrap();
                exchanges.push(exchange);
            }
            Self { verifiers, exchanges, state, now, _dir: dir }
        }

        /// Waits for one verifier's instant. Returns who is served then, in order, by number.
        fn at_the_instant_of(&mut self, leader: usize) -> Option<Vec<(usize, u8)>> {
            self.now = self.exchanges[leader].until(self.now)?.max(self.now);
            self.exchanges[leader].turn(self.now);
            self.group(0)
        }

        fn group(&mut self, first: usize) -> Option<Vec<(usize, u8)>> {
            let positions = Positions::load(&self.state).unwrap();
            let group = next_group(&mut self.exchanges, &positions, first, self.now)?;
            Some(group.members.into_iter().map(|(at, make)| (at, make.nonce[0])).collect())
        }

        fn ask(&mut self, of: usize, nonce: u8) {
            let message = self.verifiers[of].seal(Purpose::Request, &Challenge::new(DEVICE, [nonce; 32], true));
            // Whoever floods is not always heard.
            drop(self.exchanges[of].challenge(&message, self.now));
        }

        fn done(&mut self, members: &[(usize, u8)]) {
            let made = Made { message: vec![1], digest: [5; 32], shown: Shown::default(), attached: false };
            for (at, nonce) in members {
                self.exchanges[*at].made(&[*nonce; 32], &made, self.now);
            }
        }
    }

    #[test]
    fn one_quote_serves_all_verifiers_that_hold_the_same() {
        let mut field = Field::new(&[7, 7, 7]);
        let members = field.at_the_instant_of(1).unwrap();
        assert_eq!(members, [(1, 1), (0, 0), (2, 2)]);
        field.done(&members);
        assert!(field.group(0).is_none());
        assert!(field.exchanges.iter().all(|exchange| !exchange.is_busy()), "and needs no answer");
    }

    #[test]
    fn a_verifier_that_lags_gets_a_message_of_its_own_and_delays_nobody() {
        let mut field = Field::new(&[7, 3, 7]);
        let members = field.at_the_instant_of(0).unwrap();
        assert_eq!(members, [(0, 0), (2, 2)]);
        field.done(&members);
        assert_eq!(field.at_the_instant_of(1).unwrap(), [(1, 1)]);
    }

    #[test]
    fn eight_verifiers_fit_one_message() {
        let mut field = Field::new(&[0; MAX_NONCES]);
        assert_eq!(field.at_the_instant_of(0).unwrap().len(), MAX_NONCES);
    }

    #[test]
    fn a_verifier_that_copies_anothers_nonce_takes_nobodys_place() {
        let mut field = Field::new(&[7, 7]);
        field.ask(0, 50);
        field.ask(1, 50);
        let members = field.group(0).unwrap();
        assert_eq!(members, [(0, 50)]);
        field.done(&members);
        assert_eq!(field.group(1).unwrap(), [(1, 50)]);
    }

    #[test]
    fn a_verifier_that_floods_does_not_keep_another_from_its_turn() {
        let mut field = Field::new(&[7, 3]);
        let mut first = 0;
        field.ask(1, 200);
        for round in 0..3 {
            field.ask(0, 100 + round);
            let members = field.group(first).unwrap();
            first = members[0].0 + 1;
            field.done(&members);
            if members == [(1, 200)] {
                return;
            }
        }
        panic!("it never came to its turn");
    }
}
