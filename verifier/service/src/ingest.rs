//! What devices send, on its way to a verdict: messages in; durable judgements and signed answers out. A batch is what is
//! there: verified and judged on all cores, committed in one transaction, then acknowledged in the order of arrival,
//! then answered.
//!
//! Of one device at most one message is in a commit, in order, so that each is judged on the state that the last one
//! left.
//!
//! Between batches the same task looks after keys and epochs ([`crate::upkeep`]), so that what is signed with new keys
//! follows the message that announces them.

use std::{
    collections::HashSet,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, LazyLock},
    thread::available_parallelism,
    time::{Duration, Instant},
};

use appraisal::{
    Accepts, Appraisal, Basis, Cause, ChallengeKey, Code, DeviceState, Files, Fresh, Input, Stale, UnixSeconds,
    Verdict, appraise, cause::tell_the_same,
};
use evidence::{
    cbor,
    challenge::{Challenge, Hello, Refusal},
    claims::{DeviceId, LogKind, Why},
    cose::Sign1,
    envelope::{DeviceKeys, Envelope},
    pcr::sha256,
    result::{AttestationResult, Claim, ResultCause, TrustVector},
    topic::{DownKind, DownTopic, Name, UpTopic},
    tpm::P256Point,
    verifier_message::{Purpose, open},
};
use ring::rand::{SecureRandom as _, SystemRandom};
use serde::Serialize;
use tokio::{
    sync::{mpsc, watch},
    time::{MissedTickBehavior, interval},
};

use crate::{
    clock::ClockGuard,
    config::Admit,
    enrol,
    epochs::Calendar,
    http::{Order, Readiness},
    issuer::Issuer,
    keys::Keyring,
    limits::{
        CONTINUE_RATE, CUT_FROM, EVIDENCE_RATE, HELLO_RATE, LOG_RATE, MAX_BATCH, MAX_JUDGEMENTS, MAX_RATED_DEVICES,
        MAX_RESULT_CAUSES, MAX_RESULT_DETAIL, REFUSAL_RATE, REPLAY_REQUEST_RATE,
    },
    metrics::Metrics,
    mqtt::{Inbox, Message, Outgoing, Publisher},
    rate::Limiter,
    references::Rules,
    store::{Accepted, Committed, Known, Registration, Store, StoreError, Trouble},
    upkeep::Upkeep,
};

/// Software that judged, in results.
const BUILD: &str = concat!("countersign-verifier/", env!("CARGO_PKG_VERSION"));
/// Kinds of refusal that have a line in the log each; there are some forty codes.
const MAX_LOGGED_KINDS: usize = 256;
/// Waits after the store has failed.
const FIRST_WAIT: Duration = Duration::from_millis(200);
const LONGEST_WAIT: Duration = Duration::from_secs(10);

/// This verifier: its name and keys, what it goes by, and what it remembers.
pub struct Verifier {
    /// Name in topics.
    pub name: Name,
    /// Signs what it says.
    pub keys: Keyring,
    /// Its epochs.
    pub calendar: Calendar,
    /// How long one lasts, seconds.
    pub period: watch::Receiver<u32>,
    /// Whether the clock can be judged by.
    pub guard: ClockGuard,
    /// Makes and recognises challenges.
    pub challenges: ChallengeKey,
    /// Devices.
    pub store: Store,
    /// Counters.
    pub metrics: Arc<Metrics>,
    /// What evidence is held against.
    pub rules: watch::Receiver<Arc<Rules>>,
    /// Certifies devices for the broker.
    pub issuer: Issuer,
    /// When devices get their certificates.
    pub admit: Admit,
    /// Seconds since 1970.
    pub clock: fn() -> UnixSeconds,
    /// Enrolment's own memory.
    pub enrolment: enrol::Desk,
    /// Rates and the like.
    pub rates: Rates,
    /// Says whether the store takes what is judged.
    pub ready: Arc<Readiness>,
}

/// The part of [`Verifier::ready`] that is down while the store fails.
pub(crate) const STORING: &str = "store";
/// The part that is down while the clock is wrong.
const CLOCK: &str = "clock";
/// How often the clock is looked at, and what is due.
const TICK: Duration = Duration::from_secs(1);

/// How often devices may what.
#[derive(Debug)]
pub struct Rates {
    hello: Limiter<DeviceId>,
    evidence: Limiter<DeviceId>,
    refusal: Limiter<DeviceId>,
    replay: Limiter<DeviceId>,
    next_segment: Limiter<DeviceId>,
    log: Limiter<&'static str>,
}

impl Default for Rates {
    fn default() -> Self {
        Self {
            hello: Limiter::new(HELLO_RATE, MAX_RATED_DEVICES),
            evidence: Limiter::new(EVIDENCE_RATE, MAX_RATED_DEVICES),
            refusal: Limiter::new(REFUSAL_RATE, MAX_RATED_DEVICES),
            replay: Limiter::new(REPLAY_REQUEST_RATE, MAX_RATED_DEVICES),
            next_segment: Limiter::new(CONTINUE_RATE, MAX_RATED_DEVICES),
            log: Limiter::new(LOG_RATE, MAX_LOGGED_KINDS),
        }
    }
}

/// What one message led to.
enum Step {
    /// Nothing to keep; perhaps something to say.
    Answer(Option<Outgoing>),
    /// To be judged once more, on what is known now.
    Again,
    /// To be committed first.
    Keep(Box<Judged>),
}

/// A judgement, and what to say once it is durable.
struct Judged {
    accepted: Accepted,
    answers: Vec<Outgoing>,
    verdict: Verdict,
    basis: Basis,
}

/// One message of a batch, still to be dealt with.
#[derive(Debug, Clone)]
struct Work {
    message: usize,
    topic: UpTopic,
    tries: u32,
}

/// Takes messages and operators' orders, and looks after keys and epochs, until the task is dropped; what is not
/// acknowledged then, the broker keeps.
pub async fn run(verifier: Arc<Verifier>, mut inbox: Inbox, publisher: Publisher, mut orders: mpsc::Receiver<Order>) {
    let mut upkeep = Upkeep::default();
    let mut ticks = interval(TICK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let answers = tokio::select! {
            batch = inbox.receive(MAX_BATCH) => {
                if batch.is_empty() {
                    return;
                }
                let batch = Arc::new(batch);
                let answers = verifier.take(&batch).await;
                inbox.acknowledge(&batch);
                answers
            }
            Some(order) = orders.recv() => match order {
                Order::Check { device } => verifier.request(&device, true).into_iter().collect(),
                Order::RotateKeys(asker) => {
                    // Nobody may be waiting any more.
                    drop(asker.send(verifier.rotate(&publisher).await));
                    Vec::new()
                }
            },
            _ = ticks.tick() => upkeep.tick(&verifier, &publisher).await,
        };
        for _ in 0..publisher.publish(answers).await {
            verifier.metrics.dropped("answer");
        }
    }
}

impl Verifier {
    /// Deals with a batch; when it returns, all of it may be acknowledged.
    async fn take(self: &Arc<Self>, batch: &Arc<Vec<Message>>) -> Vec<Outgoing> {
        let mut waiting: Vec<Work> = batch.iter().enumerate().filter_map(|(at, m)| self.sort(at, m)).collect();
        let mut answers = Vec::new();
        let mut wait = FIRST_WAIT;
        let mut most = MAX_BATCH;
        while !waiting.is_empty() {
            // Whatever was judged by a wrong clock would have a wrong expiry. Until it is right, the broker keeps the rest.
            if self.time().is_none() {
                tokio::time::sleep(TICK).await;
                continue;
            }
            let (round, rest) = first_of_each(waiting, most);
            let again = self.round(batch, round, &mut answers).await;
            self.ready.set(STORING, again.is_ok());
            waiting = match again {
                Ok(again) => again.into_iter().chain(rest).collect(),
                Err(again) => {
                    // One at a time from now on: if it is one message that cannot be written, it holds up no other.
                    most = 1;
                    tokio::time::sleep(wait).await;
                    wait = (wait * 2).min(LONGEST_WAIT);
                    again.into_iter().chain(rest).collect()
                }
            };
        }
        // A store that cannot write holds the last message for ever. What was given up was at fault by itself.
        self.ready.set(STORING, true);
        answers
    }

    /// The time, where the clock can be judged by.
    pub(crate) fn time(&self) -> Option<UnixSeconds> {
        let checked = self.guard.check((self.clock)());
        self.ready.set(CLOCK, checked.is_ok());
        checked.map_err(|wrong| self.say(CLOCK, || wrong.to_string())).ok()
    }

    /// What a message's topic says it is.
    fn sort(&self, message: usize, content: &Message) -> Option<Work> {
        let topic = content.topic().and_then(UpTopic::parse);
        match topic {
            None => self.metrics.dropped("unknown-topic"),
            // For another verifier, which gets it too.
            Some(UpTopic::Hello(_, name)) if name != self.name => {}
            Some(topic) => return Some(Work { message, topic, tries: 0 }),
        }
        None
    }

    /// Judges and commits. What must be tried again comes back: at once, or (`Err`) after a while.
    async fn round(
        self: &Arc<Self>,
        batch: &Arc<Vec<Message>>,
        round: Vec<Work>,
        answers: &mut Vec<Outgoing>,
    ) -> Result<Vec<Work>, Vec<Work>> {
        let mut kept: Vec<(Work, Judged)> = Vec::new();
        let mut failed = Vec::new();
        let mut once_more = Vec::new();
        for (work, step) in self.judge_all(batch, round).await {
            match step {
                Ok(Step::Answer(answer)) => answers.extend(answer),
                Ok(Step::Again) => once_more.push(Work { tries: work.tries + 1, ..work }),
                Ok(Step::Keep(judged)) => kept.push((work, *judged)),
                Err(error) => failed.extend(self.after_failure(work, &error, true)),
            }
        }
        let again = self.commit(kept, answers).await;
        match again {
            Ok(mut again) if failed.is_empty() => {
                again.extend(once_more);
                again.retain(|work| self.may_try(work));
                Ok(again)
            }
            Ok(again) | Err(again) => Err(failed.into_iter().chain(again).chain(once_more).collect()),
        }
    }

    /// On all cores.
    async fn judge_all(
        self: &Arc<Self>,
        batch: &Arc<Vec<Message>>,
        round: Vec<Work>,
    ) -> Vec<(Work, Result<Step, StoreError>)> {
        // Asking the system reads files.
        static CORES: LazyLock<usize> = LazyLock::new(|| available_parallelism().map_or(1, usize::from));
        let cores = *CORES;
        let share = round.len().div_ceil(cores).max(1);
        let tasks: Vec<_> = round
            .chunks(share)
            .map(|share| {
                let (verifier, batch, share) = (Arc::clone(self), Arc::clone(batch), share.to_vec());
                tokio::task::spawn_blocking(move || {
                    let judge = |work: Work| {
                        let step = verifier.judge(&work.topic, batch.get(work.message).map_or(&[], Message::payload));
                        (work, step)
                    };
                    share.into_iter().map(judge).collect::<Vec<_>>()
                })
            })
            .collect();
        let mut judged = Vec::with_capacity(round.len());
        for task in tasks {
            // Only the end of the program keeps a share from being judged.
            judged.extend(task.await.unwrap_or_default());
        }
        judged
    }

    /// One message. A fault of ours must not stop the others, nor come back with the same message for ever.
    fn judge(&self, topic: &UpTopic, payload: &[u8]) -> Result<Step, StoreError> {
        let judged = catch_unwind(AssertUnwindSafe(|| match topic {
            UpTopic::Enrol(client) => self.enrol(client, payload).map(Step::Answer),
            UpTopic::Hello(device, _) => self.hello(device, payload).map(Step::Answer),
            UpTopic::Evidence(device) => self.evidence(device, payload),
        }));
        judged.unwrap_or_else(|_| {
            self.metrics.dropped("panic");
            tracing::error!("a message on {topic} was dropped: judging it failed by a fault of this program");
            Ok(Step::Answer(None))
        })
    }

    /// Commits in one transaction. What was judged on a state that has moved comes back; all of it (`Err`) where the
    /// store failed.
    async fn commit(&self, kept: Vec<(Work, Judged)>, answers: &mut Vec<Outgoing>) -> Result<Vec<Work>, Vec<Work>> {
        if kept.is_empty() {
            return Ok(Vec::new());
        }
        let started = Instant::now();
        let mut accepted = Vec::with_capacity(kept.len());
        let mut rest = Vec::with_capacity(kept.len());
        for (work, judged) in kept {
            rest.push((work, judged.accepted.device, judged.answers, (judged.verdict, judged.basis)));
            accepted.push(judged.accepted);
        }
        let outcomes = match self.store.commit_async(accepted).await {
            Ok(outcomes) => outcomes,
            Err(error) => {
                let alone = rest.len() == 1;
                return Err(rest
                    .into_iter()
                    .filter_map(|(work, ..)| self.after_failure(work, &error, alone))
                    .collect());
            }
        };
        self.metrics.committed(outcomes.len(), started.elapsed());
        let mut again = Vec::new();
        for ((work, device, says, (verdict, basis)), outcome) in rest.into_iter().zip(outcomes) {
            match outcome {
                Committed::Done => {
                    self.metrics.accepted(verdict, basis);
                    answers.extend(says);
                }
                Committed::Lost => again.push(Work { tries: work.tries + 1, ..work }),
                Committed::TooManyFiles => {
                    self.metrics.refused("limit.files");
                    self.say("limit.files", || {
                        format!("{device} reported more files than are kept; its verdict will expire")
                    });
                }
            }
        }
        Ok(again)
    }

    /// Evidence whose device's state keeps moving is not judged for ever.
    fn may_try(&self, work: &Work) -> bool {
        let may = work.tries < MAX_JUDGEMENTS;
        if !may {
            self.metrics.dropped("contended");
        }
        may
    }

    /// A store that cannot write now is waited for: nothing may be acknowledged that is not durable. A row that cannot be
    /// read or written is no reason to hold up every other device; whose it is shows when it is tried `alone`.
    fn after_failure(&self, work: Work, error: &StoreError, alone: bool) -> Option<Work> {
        self.metrics.store_failed();
        self.say("store", || error.to_string());
        let damaged = alone && matches!(error, StoreError::Database { kind: Trouble::Damaged | Trouble::Other, .. });
        let work = Work { tries: work.tries + u32::from(damaged), ..work };
        self.may_try(&work).then_some(work)
    }

    /// A device asks for a challenge.
    fn hello(&self, device: &DeviceId, payload: &[u8]) -> Result<Option<Outgoing>, StoreError> {
        if cbor::decode::<Hello>("hello", payload).is_err() {
            self.metrics.malformed("hello");
            return Ok(None);
        }
        if self.known(device)?.is_none() {
            return Ok(None);
        }
        if !self.rates.hello.allows(*device, Instant::now()) {
            self.over_rate("rate.hello", device);
            return Ok(None);
        }
        Ok(self.request(device, false))
    }

    /// A challenge for `device`; `asked` where somebody here wants to know.
    #[must_use]
    pub fn request(&self, device: &DeviceId, asked: bool) -> Option<Outgoing> {
        self.challenge(device, None, asked)
    }

    /// With `after`, only an answer that was made after that evidence will do.
    fn challenge(&self, device: &DeviceId, after: Option<&[u8; 32]>, asked: bool) -> Option<Outgoing> {
        let now = self.time()?;
        let mut random = [0; 8];
        SystemRandom::new().fill(&mut random).ok()?;
        let nonce = self.challenges.issue(&self.keys.root(), device, after, random, now);
        self.to_device(device, DownKind::Request, Purpose::Request, &Challenge::new(*device, nonce, asked))
    }

    fn known(&self, device: &DeviceId) -> Result<Option<Known>, StoreError> {
        let found = self.store.known(*device)?;
        if found.is_none() {
            self.metrics.refused("identity.unregistered");
        }
        Ok(found)
    }

    /// Evidence: whose, authentic, fresh, and then what it says.
    fn evidence(&self, device: &DeviceId, message: &[u8]) -> Result<Step, StoreError> {
        let Ok(envelope) = Envelope::decode(message) else {
            self.metrics.malformed("evidence");
            return Ok(Step::Answer(None));
        };
        let Some(Known { registration, state }) = self.known(device)? else { return Ok(Step::Answer(None)) };
        if !self.rates.evidence.allows(*device, Instant::now()) {
            self.over_rate("rate.evidence", device);
            return Ok(Step::Answer(None));
        }
        let authentic = match envelope.verify(&DeviceKeys { device: *device, ak: registration.ak }) {
            Ok(authentic) => authentic,
            Err(refused) => return Ok(Step::Answer(self.refuse(device, message, refused.code(), refused.to_string()))),
        };
        // The clock may have been set since the batch was taken up.
        let Some(now) = self.time() else { return Ok(Step::Again) };
        let accepts = Accepts {
            key: &self.challenges,
            verifier: &self.keys.root(),
            epochs: &self.calendar.accepted(now),
            last: state.as_ref().map(|state| &state.last),
            since: registration.since.max(self.calendar.void_before()),
            cleared: state.as_ref().map_or(0, |state| state.since),
            now,
        };
        match Fresh::check(authentic, &accepts) {
            Ok(fresh) => self.appraise(&registration, state.as_ref(), &fresh, message, now),
            Err(stale) => self.stale(device, state.as_ref(), message, stale),
        }
    }

    /// Authentic, but nothing to judge.
    fn stale(
        &self,
        device: &DeviceId,
        state: Option<&DeviceState>,
        message: &[u8],
        stale: Stale,
    ) -> Result<Step, StoreError> {
        // Another process may have opened an epoch just now. Otherwise it is for another verifier: they share the topic.
        if stale == Stale::NotOurs && self.calendar.look_again()? {
            return Ok(Step::Again);
        }
        if stale == Stale::Expired {
            return Ok(Step::Answer(self.refuse(device, message, stale.code(), stale.to_string())));
        }
        self.metrics.refused(stale.code());
        match stale {
            Stale::Duplicate => Ok(Step::Answer(self.stored_result(device)?)),
            Stale::Replay | Stale::Generation => {
                self.say(stale.code(), || format!("{}: {stale}", enrol::short(device)));
                if !self.rates.replay.allows(*device, Instant::now()) {
                    return Ok(Step::Answer(None));
                }
                self.metrics.requested("replay");
                Ok(Step::Answer(self.challenge(device, state.map(|state| &state.last.evidence), false)))
            }
            Stale::NotOurs | Stale::Expired => Ok(Step::Answer(None)),
        }
    }

    fn appraise(
        &self,
        registration: &Registration,
        state: Option<&DeviceState>,
        fresh: &Fresh,
        message: &[u8],
        now: UnixSeconds,
    ) -> Result<Step, StoreError> {
        let rules = Arc::clone(&self.rules.borrow());
        let device = registration.device;
        let standing = rules.standing(registration);
        let asks_for_files = state.is_some_and(|state| state.asks_for_files(&rules.references, &standing));
        let held = if asks_for_files { Some(self.store.files(device)?) } else { None };
        let boot_log = match state.filter(|state| state.asks_for_boot_log(&rules.references, &standing)) {
            Some(state) => self.held_boot_log(device, state)?,
            None => None,
        };
        let appraisal = appraise(Input {
            evidence: fresh,
            standing: &standing,
            state,
            files: held.as_deref().map_or(Files::Unchanged, Files::All),
            boot_log: boot_log.as_deref(),
            references: &rules.references,
            policy: &rules.policy,
            now,
            steady_since: self.guard.steady_since(),
        });
        let result = self.result(&appraisal, registration, fresh, &rules);
        let Some(answer) = self.to_device(&device, DownKind::Result, Purpose::Result, &result) else {
            // Without a result there is nothing to keep: the device tries again.
            return Ok(Step::Answer(None));
        };
        let signed = answer.payload.clone();
        let mut answers = Vec::new();
        if !is_no_news(fresh, state, &appraisal) {
            answers.push(answer);
        }
        if message.len() >= CUT_FROM && self.wants_more(&device, state, &appraisal) {
            answers.extend(self.request(&device, false));
        }
        let verdict = appraisal.state.verdict;
        let posture = appraisal.state.posture(&standing);
        let boot_log = fresh.evidence().attachment(LogKind::Boot).filter(|_| appraisal.new_boot_log);
        let accepted = Accepted {
            device,
            registered: (*registration.ak.name_digest(), registration.generation),
            expected: state.map(|state| state.last),
            appraisal,
            boot_log: boot_log.map(|log| log.bytes.clone()),
            evidence: fresh.evidence().bare().to_vec(),
            result: signed,
            posture,
        };
        Ok(Step::Keep(Box::new(Judged { accepted, answers, verdict, basis: fresh.basis() })))
    }

    /// The log of the boot that is held; none where its row is not as it was written.
    fn held_boot_log(&self, device: DeviceId, state: &DeviceState) -> Result<Option<Vec<u8>>, StoreError> {
        let Some(facts) = &state.boot.boot_log else { return Ok(None) };
        self.store.boot_log(device, &facts.digest)
    }

    /// Whether the rest of a log should come at once: only from who gets on, so that a log that was lost, or does not lead
    /// to the quote, asks for nothing.
    fn wants_more(&self, device: &DeviceId, before: Option<&DeviceState>, now: &Appraisal) -> bool {
        let incomplete = now.state.causes.iter().chain(&now.tolerated).any(|cause| cause.code == Code::LogIncomplete);
        let got_on = before.is_none_or(|state| state.boot.acknowledged() != now.acknowledged);
        incomplete && got_on && self.rates.next_segment.allows(*device, Instant::now())
    }

    fn result(
        &self,
        appraisal: &Appraisal,
        registration: &Registration,
        fresh: &Fresh,
        rules: &Rules,
    ) -> AttestationResult {
        let state = &appraisal.state;
        AttestationResult {
            issued: state.judged,
            expires: state.expires,
            nonce: *fresh.nonce(),
            device: registration.device,
            developer: self.name.to_string(),
            build: BUILD.to_owned(),
            evidence: *fresh.evidence().digest(),
            acknowledged: appraisal.acknowledged,
            status: state.verdict.tier(),
            vector: told_vector(state),
            policy: rules.policy.id.clone(),
            causes: told_causes(state),
            tolerated: told_tolerated(state),
            release: registration.product.clone().zip(state.release.clone()),
            vouched: rules.vouched(state),
        }
    }

    /// The result of the last accepted evidence; signed anew where the keys have been replaced since.
    fn stored_result(&self, device: &DeviceId) -> Result<Option<Outgoing>, StoreError> {
        let Some(payload) = self.store.result(*device)? else { return Ok(None) };
        let keys = self.keys.current();
        let present = keys.key(Purpose::Result).is_some_and(|key| is_signed_by(key.public(), &payload));
        if present {
            let topic = DownTopic::Device(*device, self.name.clone(), DownKind::Result).to_string();
            return Ok(Some(Outgoing { topic, payload }));
        }
        let result: Option<AttestationResult> =
            Sign1::decode("result", &payload).ok().and_then(|sign1| cbor::decode("result", sign1.payload).ok());
        Ok(result.and_then(|result| self.to_device(device, DownKind::Result, Purpose::Result, &result)))
    }

    /// Counts, and tells an enrolled device why.
    fn refuse(&self, device: &DeviceId, message: &[u8], code: &'static str, why: String) -> Option<Outgoing> {
        self.metrics.refused(code);
        self.say(code, || format!("evidence of {} is refused: {why}", enrol::short(device)));
        if !self.rates.refusal.allows(*device, Instant::now()) {
            return None;
        }
        let refusal = Refusal { message: sha256(message), code: code.to_owned(), why };
        self.to_device(device, DownKind::Refusal, Purpose::Refusal, &refusal)
    }

    fn to_device<T: Serialize>(
        &self,
        device: &DeviceId,
        kind: DownKind,
        purpose: Purpose,
        content: &T,
    ) -> Option<Outgoing> {
        self.sealed(purpose, &DownTopic::Device(*device, self.name.clone(), kind), content)
    }

    pub(crate) fn sealed<T: Serialize>(&self, purpose: Purpose, topic: &DownTopic, content: &T) -> Option<Outgoing> {
        let sealed = self.keys.current().seal(purpose, content).map_err(|error| tracing::error!("{error}"));
        Some(Outgoing { topic: topic.to_string(), payload: sealed.ok()? })
    }

    fn over_rate(&self, which: &'static str, device: &DeviceId) {
        self.metrics.dropped(which);
        self.say(which, || format!("{} sends more often than it may; what is over is dropped", enrol::short(device)));
    }

    /// A line in the log, unless there were many of its kind.
    pub(crate) fn say(&self, kind: &'static str, what: impl FnOnce() -> String) {
        if self.rates.log.allows(kind, Instant::now()) {
            tracing::warn!("{kind}: {}", what());
        }
    }
}

/// Whether a device learns nothing from the result: it answered an epoch, attached nothing, and everything is as before.
fn is_no_news(fresh: &Fresh, before: Option<&DeviceState>, now: &Appraisal) -> bool {
    let evidence = fresh.evidence();
    matches!(fresh.basis(), Basis::Epoch { .. })
        && evidence.attester().why == Why::Epoch
        && evidence.attaches_nothing()
        && before.is_some_and(|before| {
            let state = &now.state;
            state.judged < before.expires
                && (state.verdict, &state.release) == (before.verdict, &before.release)
                && before.boot.acknowledged() == now.acknowledged
                && tell_the_same(&before.causes, &state.causes)
        })
}

/// Claims as results have them.
pub(crate) fn told_vector(state: &DeviceState) -> TrustVector {
    let mut vector = state.vector;
    if vector.iter().next().is_none() {
        // EAR wants a claim; this one says nothing.
        vector.set(Claim::InstanceIdentity, 0);
    }
    vector
}

/// Causes as results have them.
pub(crate) fn told_causes(state: &DeviceState) -> Vec<ResultCause> {
    let told = |cause: &Cause| ResultCause { code: cause.code.row().code.to_owned(), detail: shortened(&cause.detail) };
    state.causes.iter().take(MAX_RESULT_CAUSES).map(told).collect()
}

/// Tolerated causes as results have them.
pub(crate) fn told_tolerated(state: &DeviceState) -> Vec<String> {
    state.tolerated.iter().map(|code| code.row().code.to_owned()).take(MAX_RESULT_CAUSES).collect()
}

/// Whether the header of a result of ours names this key.
fn is_signed_by(key: &P256Point, result: &[u8]) -> bool {
    open::<AttestationResult>(Purpose::Result, key, result).is_ok()
}

/// The first message of each device, at most `most`, and the rest in order.
fn first_of_each(waiting: Vec<Work>, most: usize) -> (Vec<Work>, Vec<Work>) {
    let mut seen = HashSet::new();
    let mut taken = 0;
    waiting.into_iter().partition(|work| {
        let first = match &work.topic {
            UpTopic::Evidence(device) => seen.insert(*device),
            UpTopic::Enrol(_) | UpTopic::Hello(..) => true,
        };
        let take = first && taken < most;
        taken += usize::from(take);
        take
    })
}

fn shortened(detail: &str) -> String {
    if detail.len() <= MAX_RESULT_DETAIL {
        return detail.to_owned();
    }
    // What is in the middle is a path; its beginning and the digest at its end tell most.
    let half = MAX_RESULT_DETAIL / 2 - 4;
    let head: String = detail
        .chars()
        .scan(0, |bytes, c| {
            *bytes += c.len_utf8();
            (*bytes <= half).then_some(c)
        })
        .collect();
    let end = (detail.len() - half..).find(|at| detail.is_char_boundary(*at)).unwrap_or(detail.len());
    format!("{head}…{}", &detail[end..])
}

#[cfg(test)]
impl Verifier {
    /// A verifier `v1` whose store and root lie in `dir`, with no reference values and nobody to certify devices.
    pub(crate) fn in_folder(dir: &std::path::Path, clock: fn() -> UnixSeconds) -> Self {
        use std::os::unix::fs::PermissionsExt as _;
        let root = dir.join("root-key.pem");
        if !root.exists() {
            std::fs::write(&root, rcgen::KeyPair::generate().unwrap().serialize_pem()).unwrap();
            std::fs::set_permissions(&root, std::fs::Permissions::from_mode(0o600)).unwrap();
        }
        let store = Store::open(&dir.join("store.sqlite")).unwrap();
        let keys = Keyring::open(&store, &root, clock()).unwrap();
        let rules = Rules { references: Arc::default(), policy: appraisal::Policy::default(), roots: Arc::default() };
        let calendar = Calendar::open(&store, keys.root()).unwrap();
        Self {
            name: Name::new("v1").unwrap(),
            guard: ClockGuard::new(clock(), calendar.latest()),
            keys,
            calendar,
            period: watch::Sender::new(3600).subscribe(),
            challenges: ChallengeKey::new(&store.secret("challenge").unwrap()),
            store,
            metrics: Arc::new(Metrics::new()),
            rules: watch::Sender::new(Arc::new(rules)).subscribe(),
            issuer: Issuer::Nobody,
            admit: Admit::Enrolment,
            clock,
            enrolment: enrol::Desk::default(),
            rates: Rates::default(),
            ready: Arc::new(Readiness::waiting_for(&[])),
        }
    }
}

#[cfg(test)]
mod tests;
