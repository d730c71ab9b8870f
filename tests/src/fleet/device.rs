//! The life of one simulated device after it enrolled: connects, follows epochs, answers requests, asks again where an
//! answer does not come, and connects again when it was cut off.

use std::{
    hash::{BuildHasher as _, RandomState},
    sync::Arc,
    time::Duration,
};

use anyhow::{Context as _, Result};
use evidence::{
    challenge::{Challenge, Hello, Refusal},
    claims::{DeviceId, Nonce, Why},
    cose::{self, Sign1},
    epoch::Epoch,
    pcr::sha256,
    result::AttestationResult,
    topic::{BroadcastTopic, DownKind, DownTopic, UpTopic},
    verifier_message::{NotFromVerifier, Purpose},
};
use rumqttc::v5::MqttOptions;
use tokio::{
    sync::watch,
    time::{Instant, sleep_until, timeout_at},
};

use super::{
    books::{Basis, Ledger, Received, SentEvidence},
    conversation::{Held, OpenEpoch, Trusted},
    enrolment::enrol,
    link::{Link, LinkEvent},
    place::Place,
};
use crate::{
    software::{Attach, SoftwareDevice},
    software_ek::SoftwareEk,
};

/// Programs that a device may run: a release for the fleet lists all of them, by [`program_path`] and [`program_digest`].
pub const PROGRAMS: u32 = 2_000;
/// First pause after a connection that failed; doubled each time.
const FIRST_PAUSE: Duration = Duration::from_millis(200);
/// Longest pause.
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
/// First time to wait for a challenge or a result; doubled with each try.
const FIRST_WAIT: Duration = Duration::from_secs(4);
/// Longest wait.
const LONGEST_WAIT: Duration = Duration::from_secs(30);

/// Path of program `number`.
#[must_use]
pub fn program_path(number: u32) -> String {
    format!("/usr/bin/simulated-{number}")
}

/// Digest of program `number`.
#[must_use]
pub fn program_digest(number: u32) -> [u8; 32] {
    sha256(program_path(number).as_bytes())
}

/// What all devices of a fleet do.
#[derive(Debug, Clone, Default)]
pub struct Orders {
    /// Whether they answer epochs.
    pub epochs: bool,
    /// Attestations by request that they ask for, the one at the start among them.
    pub rounds: u64,
    /// Least time between two of these.
    pub pause: Duration,
    /// Programs that each has run, at most [`PROGRAMS`]. It says so with the next evidence.
    pub programs: u32,
    /// Whether each of `rounds` runs one more program before.
    pub one_more_each_round: bool,
    /// Say goodbye, and end.
    pub stop: bool,
}

/// See the module.
pub(super) struct Device {
    place: Arc<Place>,
    soft: SoftwareDevice,
    /// When the TPM's clock stood at what it began with.
    powered: Instant,
    own: MqttOptions,
    filters: Vec<String>,
    ledger: Ledger,
    trusted: Trusted,
    epoch: OpenEpoch,
    /// A message from before the keys that open it.
    early_epoch: Option<Vec<u8>>,
    held: Held,
    /// Evidence that was sent last.
    sent: Option<([u8; 32], Nonce)>,
    /// Whether an attestation is under way whose result must come.
    owed: bool,
    /// Whether that is one of the rounds.
    in_round: bool,
    rounds_done: u64,
    tries: u32,
    /// When to ask again for what did not come.
    ask_at: Option<Instant>,
    /// When to answer the epoch.
    answer_at: Option<Instant>,
    /// When the next of the rounds may begin.
    round_at: Instant,
}

impl Device {
    /// A new device, enrolled.
    pub(super) async fn enrol(place: Arc<Place>, number: usize, tell: watch::Sender<u64>) -> Result<Self> {
        let ek = SoftwareEk::new(&place.ca)?;
        let mut soft = SoftwareDevice::new();
        soft.keys.device = DeviceId(sha256(&ek.spki()));
        let key = rcgen::KeyPair::generate()?;
        let certificate = enrol(&place, number, &soft, ek, &key).await.context("enrolment")?;
        let id = soft.keys.device;
        let own = place.to_live(&id.to_string(), certificate.as_bytes(), key.serialize_pem().as_bytes())?;
        let filters = vec![
            format!("cs/1/{id}/down/{}/+", place.verifier),
            BroadcastTopic::Keys(place.verifier.clone()).to_string(),
            BroadcastTopic::Epoch(place.verifier.clone()).to_string(),
        ];
        Ok(Self {
            trusted: Trusted::new(place.root),
            place,
            soft,
            powered: Instant::now(),
            own,
            filters,
            ledger: Ledger::new(id, tell),
            epoch: OpenEpoch::default(),
            early_epoch: None,
            held: Held::default(),
            sent: None,
            owed: false,
            in_round: false,
            rounds_done: 0,
            tries: 0,
            ask_at: None,
            answer_at: None,
            round_at: Instant::now(),
        })
    }

    /// Its book.
    pub(super) fn ledger(&self) -> Ledger {
        self.ledger.clone()
    }

    /// Lives until it is told to stop.
    pub(super) async fn live(mut self, mut orders: watch::Receiver<Orders>) {
        let mut pause = FIRST_PAUSE;
        loop {
            let mut link = Link::open(self.own.clone(), self.filters.clone());
            let why = self.connected(&mut link, &mut orders).await;
            if orders.borrow().stop {
                link.close().await;
            }
            // Which epoch is open by then, the broker says.
            self.answer_at = None;
            let was_connected = self.ledger.read(|book| book.connected);
            self.ledger.write(|book| (book.connected, book.trouble) = (false, why));
            pause = if was_connected { FIRST_PAUSE } else { (pause * 2).min(LONGEST_PAUSE) };
            let again = Instant::now() + jitter(pause);
            let stopped = orders.wait_for(|orders| orders.stop);
            if timeout_at(again, stopped).await.is_ok() {
                return;
            }
        }
    }

    /// One connection, until it ends (then why) or nothing more is to be done.
    async fn connected(&mut self, link: &mut Link, orders: &mut watch::Receiver<Orders>) -> Option<String> {
        let mut up = false;
        loop {
            let now_orders = orders.borrow_and_update().clone();
            if now_orders.stop {
                return None;
            }
            self.run_programs(now_orders.programs);
            let next = if up { self.due(link, &now_orders) } else { None };
            let timer = async {
                match next {
                    Some(at) => sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                event = link.event() => match event {
                    LinkEvent::Up => {
                        up = true;
                        self.ledger.write(|book| (book.connected, book.connections) = (true, book.connections + 1));
                        // What was under way got lost with the connection before: the epoch carries it, or a question.
                        self.ask_at = self.owed.then(|| Instant::now() + jitter(FIRST_WAIT));
                    }
                    LinkEvent::Down(why) => return Some(why),
                    LinkEvent::Message(topic, message) => self.message(link, &topic, &message, &now_orders),
                },
                () = timer => {}
                // Nobody who could say anything is left: the same as being told to stop.
                changed = orders.changed() => if changed.is_err() { return None },
            }
        }
    }

    /// Does what is due, and says when to look again.
    fn due(&mut self, link: &Link, orders: &Orders) -> Option<Instant> {
        let now = Instant::now();
        if self.answer_at.is_some_and(|at| at <= now) {
            self.answer_at = None;
            if let Some((number, nonce)) = self.epoch.unanswered() {
                self.epoch.answer();
                self.attest(link, nonce, Basis::Epoch(number));
            }
        }
        if self.ask_at.is_some_and(|at| at <= now) {
            self.tries += 1;
            self.ask(link);
        }
        let round = !self.owed && self.rounds_done < orders.rounds;
        if round && self.round_at <= now {
            self.round_at = now + orders.pause;
            if orders.one_more_each_round {
                self.run_programs(u32::try_from(self.soft.runtime_entries()).unwrap_or(PROGRAMS) + 1);
            }
            (self.owed, self.in_round) = (true, true);
            self.ask(link);
        }
        let round_at = (round && self.round_at > now).then_some(self.round_at);
        [self.answer_at, self.ask_at, round_at].into_iter().flatten().min()
    }

    fn run_programs(&mut self, programs: u32) {
        let run = u32::try_from(self.soft.runtime_entries()).unwrap_or(PROGRAMS);
        for number in run..programs.min(PROGRAMS) {
            self.soft.run(&program_path(number), program_digest(number));
        }
        if run < programs {
            let entries = self.soft.runtime_entries();
            self.ledger.write(|book| book.entries = entries);
        }
    }

    fn ask(&mut self, link: &Link) {
        let hello = evidence::cbor::encode(&Hello::new(Why::Startup));
        let bytes = hello.len();
        let topic = UpTopic::Hello(self.soft.keys.device, self.place.verifier.clone());
        // What the connection does not take is asked for again.
        if link.publish(topic, hello).is_ok() {
            self.ledger.up(bytes, |book| (book.awaits_result, book.hellos) = (true, book.hellos + 1));
        }
        self.ask_at = Some(Instant::now() + self.wait());
    }

    fn wait(&self) -> Duration {
        jitter(FIRST_WAIT.saturating_mul(1 << self.tries.min(5)).min(LONGEST_WAIT))
    }

    fn attest(&mut self, link: &Link, nonce: Nonce, basis: Basis) {
        let powered = u64::try_from(self.powered.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.soft.counters.clock = self.soft.counters.clock.max(powered);
        self.soft.why = if matches!(basis, Basis::Epoch(_)) { Why::Epoch } else { Why::Startup };
        let entries = self.soft.runtime_entries();
        let attach = self.held.missing(&self.soft.counters, entries);
        let message = self.soft.attest(&[nonce], attach);
        let digest = digest(&message);
        let attached = attach != Attach::Nothing;
        let record =
            SentEvidence { digest, basis, counters: self.soft.counters, attached, entries, bytes: message.len() };
        let bytes = message.len();
        if link.publish(UpTopic::Evidence(self.soft.keys.device), message).is_err() {
            return;
        }
        self.sent = Some((digest, nonce));
        // Evidence for a request has its result; for an epoch it has one where it said something new.
        self.owed |= attached || basis == Basis::Request;
        if self.owed {
            self.ask_at = Some(Instant::now() + self.wait());
        }
        let owed = self.owed;
        self.ledger.up(bytes, |book| {
            book.awaits_result = owed;
            book.evidence.push(record);
        });
    }

    fn message(&mut self, link: &Link, topic: &str, message: &[u8], orders: &Orders) {
        let taken = match (BroadcastTopic::parse(topic), DownTopic::parse(topic)) {
            (Some(BroadcastTopic::Keys(_)), _) => self.trusted.keys(message).map(|newer| {
                if let Some(early) = self.early_epoch.take().filter(|_| newer) {
                    drop(self.epoch_opens(&early, orders));
                }
            }),
            (Some(BroadcastTopic::Epoch(_)), _) => self.epoch_opens(message, orders).inspect_err(|_| {
                self.early_epoch = Some(message.to_vec());
            }),
            (None, Some(DownTopic::Device(_, _, kind))) => self.told(link, kind, message),
            (None, _) => Ok(()),
        };
        if taken.is_err() {
            self.ledger.write(|book| book.not_from_verifier += 1);
        }
    }

    fn epoch_opens(&mut self, message: &[u8], orders: &Orders) -> Result<(), NotFromVerifier> {
        let epoch: Epoch = self.trusted.open(Purpose::Epoch, message)?;
        let (number, period) = (epoch.number, Duration::from_secs(epoch.period.into()));
        if self.epoch.opens(epoch) {
            self.ledger.write(|book| (book.epoch, book.epochs) = (number, book.epochs + 1));
        }
        if orders.epochs && self.epoch.unanswered().is_some_and(|(open, _)| open == number) {
            // At a random instant of the period; a message on its way as the next opens is still good.
            let at = self.answer_at.unwrap_or_else(|| Instant::now() + period.mul_f64(draw() * 0.8));
            self.answer_at = Some(at);
            // It carries what is owed, too.
            self.ask_at = self.ask_at.map(|_| at + jitter(FIRST_WAIT));
        }
        Ok(())
    }

    /// A message for this device alone.
    fn told(&mut self, link: &Link, kind: DownKind, message: &[u8]) -> Result<(), NotFromVerifier> {
        match kind {
            DownKind::Request => {
                let challenge: Challenge = self.trusted.open(Purpose::Request, message)?;
                self.ledger.down(message.len(), |_| {});
                if challenge.device() == self.soft.keys.device {
                    self.attest(link, *challenge.nonce(), Basis::Request);
                }
            }
            DownKind::Result => {
                let result: AttestationResult = self.trusted.open(Purpose::Result, message)?;
                self.judged(result, message);
            }
            DownKind::Refusal => {
                let refusal: Refusal = self.trusted.open(Purpose::Refusal, message)?;
                self.ledger.down(message.len(), |book| book.refusals.push(refusal.code));
            }
        }
        Ok(())
    }

    fn judged(&mut self, result: AttestationResult, message: &[u8]) {
        let received = Received {
            evidence: result.evidence,
            message: sha256(message),
            verdict: result.status,
            causes: result.causes.into_iter().map(|cause| cause.code).collect(),
            acknowledged: result.acknowledged,
            issued: result.issued,
        };
        let current = self.sent == Some((result.evidence, result.nonce));
        if current {
            self.held.now(result.acknowledged);
            (self.ask_at, self.tries) = (None, 0);
            self.rounds_done += u64::from(self.in_round);
            (self.owed, self.in_round) = (false, false);
        }
        let owed = self.owed;
        self.ledger.down(message.len(), |book| {
            book.awaits_result = owed;
            book.results.push(received);
        });
    }
}

/// SHA-256 of the message without its attachments, as results name it.
fn digest(message: &[u8]) -> [u8; 32] {
    let sign1 = Sign1::decode("evidence", message).expect("own evidence");
    sha256(&cose::encode(sign1.protected, &[], sign1.payload, sign1.signature))
}

/// Between 0 and 1.
fn draw() -> f64 {
    f64::from(u32::try_from(RandomState::new().hash_one(()) >> 32).unwrap_or(0)) / f64::from(u32::MAX)
}

/// Between half of it and one and a half.
fn jitter(time: Duration) -> Duration {
    time.mul_f64(0.5 + draw())
}
